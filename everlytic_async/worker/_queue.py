"""`OrderQueue`: the orders of a store on their way to its workers.

Publishing is safe to repeat: JetStream knows an order by its key. A pulled order stays stored until
it is acknowledged: a worker that crashes loses nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Sequence
from typing import Self, Unpack

import attrs
from nats.aio.client import Client

from everlytic_async._encoding import AnyOrder, coerce_order
from everlytic_async._nats import Connector, NatsAccess, closed_reason
from everlytic_async.errors import ConfigurationError, InvalidOrderError, QueueError
from everlytic_async.policies import check_type
from everlytic_async.worker import _dead_letters
from everlytic_async.worker._dead_letters import DeadLetter
from everlytic_async.worker._messages import encode_message
from everlytic_async.worker._peers import WorkerInfo, list_workers
from everlytic_async.worker._pull import Puller, QueuedOrder
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

    A lost connection is restored for as long as it takes. It is closed for good once the server has
    refused it for `timeout_s`, because the credentials were revoked or have expired.

    Args:
        servers: The address of a NATS server, several of one cluster, or the caller's connection,
            which is used and never closed; make that one with ``max_reconnect_attempts=-1``.
        settings: What it is called and what it holds.
        timeout_s: How long to repeat what the server does not acknowledge, in seconds: connecting,
            publishing, asking.
        pull_expires_s: How long one request for an order waits at the server, in seconds. It can't
            be cancelled, so closing waits for its end.
        access: How the server lets us in; see `everlytic_async.ledger.NatsAccess`.

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
        timeout_s: float = 30.0,
        pull_expires_s: float = 1.0,
        **access: Unpack[NatsAccess],
    ) -> None:
        check_type("settings", settings, QueueSettings)
        self.settings = settings
        self._timeout_s = timeout_s
        self._pull_expires_s = pull_expires_s
        self._connector = Connector(servers, **access)
        self._puller: Puller | None = None

    def __repr__(self) -> str:
        return f"<OrderQueue {self.settings.orders_subject}>"

    # ------------------------------------------------------------------------- the connection

    @property
    def _open_puller(self) -> Puller:
        if self._puller is None:
            raise QueueError("the queue is not open: use `async with OrderQueue(...) as queue`")
        return self._puller

    @property
    def _streams(self) -> Streams:
        return self._open_puller.streams

    @property
    def connection(self) -> Client:
        """The connection to NATS."""
        return self._streams.connection

    @property
    def connected(self) -> bool:
        """Whether the server can be reached, as far as is known."""
        return self._puller is not None and self.connection.is_connected

    @property
    def closed_reason(self) -> str | None:
        """Why the connection was closed for good, in words; None if it was not."""
        return None if self._puller is None else closed_reason(self.connection)

    async def __aenter__(self) -> Self:
        if self._puller is not None:
            raise ConfigurationError("a queue is entered once: make another one")
        connection = await self._connector.connect(
            name=f"everlytic-async {self.settings.store}",
            timeout_s=self._timeout_s,
            fail=QueueError,
        )
        streams = Streams(connection, self.settings, self._timeout_s)
        self._puller = Puller(streams, self._pull_expires_s)
        try:
            await streams.ensure()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._close()

    async def _close(self) -> None:
        try:
            await self.release()
        finally:
            connection, self._puller = self.connection, None
            await self._connector.close(connection)

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
        message = encode_message(coerce_order(order), key, self.settings)
        return await self._streams.store_order(message)

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
        try:
            async for index, order in _enumerate(orders):
                pending.append(asyncio.create_task(self._publish(index, order)))
                if len(pending) >= max_in_flight:
                    yield (published := await pending.popleft())
                    if isinstance(published.error, QueueError):
                        failure = published.error
                        break
            while pending:
                yield (published := await pending.popleft())
                if failure is None and isinstance(published.error, QueueError):
                    failure = published.error
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
        return await self._open_puller.pull(count, wait_s)

    async def release(self) -> None:
        """Take no more orders, and put back those that arrived and were not taken.

        Raises:
            QueueError: they can't be put back now; they come back after ``ack_wait_s``.
        """
        await self._open_puller.release()

    # --------------------------------------------------------------------------------- status

    async def status(self) -> QueueStatus:
        """What is in the queue of this store at this moment."""
        settings, streams = self.settings, self._streams
        orders, stored = await streams.info(streams.orders, settings.orders_subject)
        _, dead = await streams.info(streams.dead_letters, settings.dead_letter_subject)
        consumer = await streams.consumer_info()
        in_flight = getattr(consumer, "num_ack_pending", None) or 0
        return QueueStatus(
            store=settings.store,
            waiting=max(0, stored.get(settings.orders_subject, 0) - in_flight),
            in_flight=in_flight,
            redelivered=getattr(consumer, "num_redelivered", None) or 0,
            idle_workers=getattr(consumer, "num_waiting", None) or 0,
            dead=dead.get(settings.dead_letter_subject, 0),
            bytes=orders.bytes,
        )

    async def was_served(self) -> bool:
        """Whether workers have dealt with any order of this store before."""
        consumer = await self._streams.consumer_info()
        acked = getattr(getattr(consumer, "ack_floor", None), "consumer_seq", 0)
        return bool(acked) or (await self.status()).dead > 0

    async def workers(self, wait_s: float = 0.5) -> list[WorkerInfo]:
        """The workers of this store that answer within `wait_s` seconds; none are known at once."""
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
            counts |= (await self._streams.info(config, subjects))[1]
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
        """Delete dead letters for good; how many. See `redrive`."""
        return await _dead_letters.drop(self._streams, selection)


async def _enumerate(
    orders: Iterable[AnyOrder] | AsyncIterable[AnyOrder],
) -> AsyncIterator[tuple[int, AnyOrder]]:
    if isinstance(orders, AsyncIterable):
        index = 0
        async for order in orders:
            yield index, order
            index += 1
    else:
        for index, order in enumerate(orders):
            yield index, order
