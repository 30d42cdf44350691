"""`OrderQueue`: the orders of a store on their way to its workers.

Publishing is safe to repeat: JetStream knows an order by its key. An order that was taken stays
stored until it is acknowledged: a worker that dies loses nothing. The connection is restored for as
long as it takes; what can't be done meanwhile is a `QueueError`.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import Self

import attrs
from nats.aio.client import Client

from everlytic_async._cancel import run_to_end
from everlytic_async._job import AnyOrder, coerce_order
from everlytic_async._nats import connect, connect_options, error_text
from everlytic_async.errors import ConfigurationError, InvalidOrderError, QueueError
from everlytic_async.worker import _dead_letters
from everlytic_async.worker._connection import ConnectionLog, flush_and_close
from everlytic_async.worker._dead_letters import DeadLetter
from everlytic_async.worker._messages import encode_message
from everlytic_async.worker._pull import Puller, QueuedOrder
from everlytic_async.worker._registry import WorkerInfo, list_workers
from everlytic_async.worker._settings import QueueSettings, is_store_name
from everlytic_async.worker._streams import Streams

__all__ = ["OrderQueue", "Published", "QueueStatus"]


@attrs.frozen
class Published:
    """The result of publishing one order.

    Attributes:
        index: Its place in the input, counted from 0.
        key: Its key in the ledger; None for an invalid one.
        stored: Whether it was stored now. False without an error: the queue had it already.
        error: Why it is not in the queue, or perhaps not: `InvalidOrderError` or `QueueError`.
    """

    index: int
    key: str | None = attrs.field(repr=False)
    stored: bool
    error: InvalidOrderError | QueueError | None = None


@attrs.frozen(kw_only=True)
class QueueStatus:
    """The queue of one store at a moment.

    Attributes:
        store: Which store's.
        waiting: Orders that were not delivered to any worker yet.
        in_flight: Orders that were delivered to workers and are not acknowledged; those that wait
            for their next delivery included.
        redelivered: How many of those in flight were delivered more than once.
        idle_workers: Workers that wait for an order at this moment.
        dead: Dead letters.
        bytes: What the stream of orders holds, of all stores together.
    """

    store: str
    waiting: int
    in_flight: int
    redelivered: int
    idle_workers: int
    dead: int
    bytes: int

    @property
    def depth(self) -> int:
        """Unfinished orders: waiting or in flight."""
        return self.waiting + self.in_flight


class OrderQueue:
    """The orders of one store on their way to its workers; use it with ``async with``.

    Args:
        servers: The address of a NATS server, several of one cluster, or the caller's connection,
            which is used and never closed; make that one with ``max_reconnect_attempts=-1``.
        settings: What it is called and what it holds.
        user_credentials: Path of a ``.creds`` file: JWT and seed. Needs ``nats-py[nkeys]``.
        nkeys_seed: Path of a file with an NKey seed. Needs ``nats-py[nkeys]``.
        user: A user's name, if the server knows users.
        password: The user's password.
        token: A token, if the server wants one.
        tls: A context, if this machine does not know the server's certificate or the server wants
            to see ours. With it, or with an address of ``tls://``, nothing is sent to a server that
            does not offer TLS.
        allow_plain_nats: Whether credentials and orders may go to a server on another machine
            without TLS, where anybody on the way can read them.
        timeout_s: How long to repeat what the server does not acknowledge, in seconds: connecting,
            publishing, asking. A server that refuses credentials which were good before is given up
            after as long.
        pull_expires_s: How long one request for an order waits at the server, in seconds. It can't
            be cancelled, so closing waits for its end.

    Raises:
        QueueError: by every call: the queue is not open, or the server refuses, or does not answer
            within ``timeout_s``. On entering: no server can be reached, or it has no JetStream, or
            a stream belongs to something else.
    """

    def __init__(
        self,
        servers: str | Sequence[str] | Client,
        settings: QueueSettings = QueueSettings(),  # noqa: B008 - frozen
        *,
        user_credentials: str | os.PathLike[str] | None = None,
        nkeys_seed: str | os.PathLike[str] | None = None,
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
        tls: ssl.SSLContext | None = None,
        allow_plain_nats: bool = False,
        timeout_s: float = 30.0,
        pull_expires_s: float = 1.0,
    ) -> None:
        if not isinstance(settings, QueueSettings):
            raise ConfigurationError(
                f"settings must be QueueSettings, got a {type(settings).__name__}"
            )
        self.settings = settings
        self._timeout_s = timeout_s
        self._pull_expires_s = pull_expires_s
        self._allow_plain_nats = allow_plain_nats
        self._user_connection = servers if isinstance(servers, Client) else None
        self._options = connect_options(
            servers,
            user_credentials=user_credentials,
            nkeys_seed=nkeys_seed,
            user=user,
            password=password,
            token=token,
            tls=tls,
        )
        self._log = ConnectionLog(settings.ack_wait_s)
        self._open_streams: Streams | None = None
        self._puller: Puller | None = None

    def __repr__(self) -> str:
        return f"<OrderQueue {self.settings.orders_subject}>"

    # ------------------------------------------------------------------------- the connection

    @property
    def _streams(self) -> Streams:
        if self._open_streams is None:
            raise QueueError("the queue is not open: use `async with OrderQueue(...) as queue`")
        return self._open_streams

    @property
    def connection(self) -> Client:
        """The connection to NATS."""
        return self._streams.connection

    @property
    def connected(self) -> bool:
        """Whether the server can be reached, as far as is known."""
        return self._open_streams is not None and self.connection.is_connected

    @property
    def closed_reason(self) -> str | None:
        """Why the connection was closed for good, in words; None if it was not.

        A lost connection is restored. It is closed once the server has refused it for
        ``timeout_s``, because the credentials were revoked or have expired.
        """
        if self._open_streams is None or not self.connection.is_closed:
            return None
        return error_text(self._log.last_error or self.connection.last_error)

    async def __aenter__(self) -> Self:
        if self._open_streams is not None:
            raise ConfigurationError("a queue is entered once: make another one")
        connection = self._user_connection or await self._connect()
        self._open_streams = Streams(connection, self.settings, self._timeout_s)
        self._log.is_open = self._user_connection is None
        try:
            await self._open_streams.ensure()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self.release()
        finally:
            await self._close()

    async def _connect(self) -> Client:
        log = self._log
        return await connect(
            self._options,
            name=f"everlytic-async {self.settings.store}",
            allow_plain=self._allow_plain_nats,
            timeout_s=self._timeout_s,
            fail=QueueError,
            on_error=log.on_error,
            disconnected_cb=log.on_disconnected,
            reconnected_cb=log.on_reconnected,
            closed_cb=log.on_closed,
        )

    async def _close(self) -> None:
        connection, self._open_streams = self.connection, None
        self._log.is_open = False
        if connection is not self._user_connection:
            await run_to_end(flush_and_close(connection))

    # -------------------------------------------------------------------------------- publish

    async def publish(self, order: AnyOrder, *, key: str | None = None) -> bool:
        """Put one order into the queue, and wait until it is stored.

        If the queue is full or the connection is lost, it waits.

        Args:
            order: The order, or a mapping with its fields.
            key: Its key; by default its order id and workflow id, else a digest of its body. A key
                of your own never equals an order id.

        Returns:
            True if it was stored; False if the queue had the key already. After a lost
            acknowledgement it may be this very call that had stored it.

        Raises:
            InvalidOrderError: not a valid order, or too large, or its key is blank; nothing was
                published.
            TypeError: the key is not text.
            QueueError: it was not acknowledged in time. Perhaps it is stored; it is safe to publish
                it again.
        """
        return await self._streams.store_order(
            encode_message(coerce_order(order), key, self.settings)
        )

    async def publish_many(
        self,
        orders: Iterable[AnyOrder] | AsyncIterable[AnyOrder],
        *,
        max_in_flight: int = 256,
    ) -> AsyncGenerator[Published]:
        """Put many orders into the queue; yields the result of each, in their order.

        No more are read than `max_in_flight` ahead of what is acknowledged. After the first that
        the queue did not take no more are read.

        Args:
            orders: Orders or mappings. An `InvalidOrderError` in place of one is its result.
            max_in_flight: How many may wait for their acknowledgement.

        Raises:
            QueueError: at the end, if the queue did not take one of them.
        """
        pending: deque[asyncio.Task[Published]] = deque()
        failure: QueueError | None = None
        index = 0
        try:
            async for order in _iterate(orders):
                pending.append(asyncio.create_task(self._publish(index, order)))
                index += 1
                if len(pending) >= max_in_flight:
                    published = await pending.popleft()
                    yield published
                    if isinstance(published.error, QueueError):
                        failure = published.error
                        break
            while pending:
                published = await pending.popleft()
                yield published
                if isinstance(published.error, QueueError):
                    failure = failure or published.error
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        if failure is not None:
            raise failure

    async def _publish(self, index: int, order: AnyOrder) -> Published:
        key = None
        try:
            message = encode_message(coerce_order(order), None, self.settings)
            key = message.key
            return Published(index, key, await self._streams.store_order(message))
        except (InvalidOrderError, QueueError) as error:
            return Published(index, key, stored=False, error=error)

    # ----------------------------------------------------------------------------------- pull

    async def pull(self, count: int, wait_s: float) -> list[QueuedOrder]:
        """Take up to `count` orders; wait for the first of them, but not for more.

        One task at a time may pull. Cancelled, it loses nothing: what had arrived is returned by
        the next pull, or goes back by `release`.

        Args:
            count: How many at most, at least 1.
            wait_s: How long to wait if there is none, in seconds.

        Returns:
            Those that there are; none after the wait, or while the server can't be reached.
        """
        if self._puller is None:
            self._puller = Puller(self.connection, self.settings, self._pull_expires_s)
        if self._puller.consumer_missing and self.connected:
            await self._streams.ensure_consumer()
            self._puller.consumer_missing = False
        messages = await self._puller.pull(count, wait_s)
        streams = self._streams
        return [
            QueuedOrder(message, self.settings, streams.store_dead_letter) for message in messages
        ]

    async def release(self) -> None:
        """Take no more orders, and put back those that arrived and were not taken.

        Raises:
            QueueError: they can't be put back now; they come back after ``ack_wait_s``.
        """
        puller, self._puller = self._puller, None
        if puller is not None:
            await puller.release()

    # --------------------------------------------------------------------------------- status

    async def status(self) -> QueueStatus:
        """What is in the queue of this store at this moment."""
        settings, streams = self.settings, self._streams
        failed = "the queue's status is not known"
        orders = await streams.info(streams.orders, settings.orders_subject, failed)
        consumer = await streams.consumer_info(failed)
        dead = await streams.info(streams.dead_letters, settings.dead_letter_subject, failed)
        stored = (orders.state.subjects or {}).get(settings.orders_subject, 0)
        in_flight = 0 if consumer is None else consumer.num_ack_pending or 0
        return QueueStatus(
            store=settings.store,
            waiting=max(0, stored - in_flight),
            in_flight=in_flight,
            redelivered=0 if consumer is None else consumer.num_redelivered or 0,
            idle_workers=0 if consumer is None else consumer.num_waiting or 0,
            dead=(dead.state.subjects or {}).get(settings.dead_letter_subject, 0),
            bytes=orders.state.bytes,
        )

    async def workers(self, wait_s: float = 0.5) -> list[WorkerInfo]:
        """The workers of this store that answer.

        Args:
            wait_s: How long to wait for their answers, in seconds. If there are none, the server
                says so at once.
        """
        return await list_workers(self.connection, self.settings.workers_subject, wait_s)

    async def stores(self) -> list[str]:
        """All stores that have an order or a dead letter in these streams, with workers or not."""
        found = {subject.rpartition(".")[2] for subject in await self._count_by_subject()}
        return sorted(name for name in found if is_store_name(name))

    async def strays(self) -> dict[str, int]:
        """How many messages are on subjects that can't be a store's, so that no worker takes them.

        They were published by another program. The subjects may hold any characters.
        """
        counts = await self._count_by_subject()
        return {name: n for name, n in counts.items() if not is_store_name(name.rpartition(".")[2])}

    async def _count_by_subject(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for config in (self._streams.orders, self._streams.dead_letters):
            [subjects] = config.subjects or [""]
            info = await self._streams.info(
                config, subjects, "the stores of the queue are not known"
            )
            counts |= info.state.subjects or {}
        return counts

    # --------------------------------------------------------------------------- dead letters

    def dead_letters(self) -> AsyncIterator[DeadLetter]:
        """The dead letters of this store, oldest first."""
        return _dead_letters.iter_dead_letters(self._streams)

    async def redrive(self, selection: Iterable[DeadLetter | int]) -> int:
        """Put dead letters back into the queue.

        A worker sends such an order once even if the ledger says that it is UNKNOWN, or that it was
        REJECTED with this very body. If the ledger says that it was sent, it is not sent.

        Args:
            selection: Dead letters, or their ids. What is no longer there is ignored.

        Returns:
            How many were put back.

        Raises:
            QueueError: one can't be put back; those before it were.
        """
        return await _dead_letters.redrive(self._streams, selection)

    async def drop(self, selection: Iterable[DeadLetter | int]) -> int:
        """Delete dead letters for good.

        Args:
            selection: Dead letters, or their ids. What is no longer there is ignored.

        Returns:
            How many were deleted.

        Raises:
            QueueError: one can't be deleted; those before it were.
        """
        return await _dead_letters.drop(self._streams, selection)


async def _iterate(
    orders: Iterable[AnyOrder] | AsyncIterable[AnyOrder],
) -> AsyncIterator[AnyOrder]:
    if isinstance(orders, AsyncIterable):
        async for order in orders:
            yield order
    else:
        for order in orders:
            yield order
