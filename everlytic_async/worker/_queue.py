"""`OrderQueue`: the streams of orders and of dead letters, and all that is done with them.

Publishing is safe to repeat: JetStream knows an order by its key. Taking an order leaves it stored
until it is acknowledged: whoever takes it and dies has lost nothing. The connection is kept up for
as long as it takes; what can't be done meanwhile is a `QueueError`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import ssl
import time
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Sequence,
)
from types import TracebackType
from typing import Any, Self, TypeVar

import attrs
import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext, api

from everlytic_async._job import AnyOrder
from everlytic_async._job import coerce_order as order_of
from everlytic_async._nats import (
    Connection,
    apart,
    disconnect,
    ended,
    is_refusal,
    options_of,
    said,
    to_end,
)
from everlytic_async.errors import ConfigurationError, InvalidOrderError, QueueError
from everlytic_async.outcomes import Outcome
from everlytic_async.worker._messages import (
    LEFT_OUT,
    Message,
    QueueSettings,
    as_message,
    as_order,
    as_redriven,
    is_store,
    own_key,
    read_dead,
    too_large,
)
from everlytic_async.worker._presence import PresentWorker, workers_at
from everlytic_async.worker._pull import Puller, QueuedOrder
from everlytic_async.worker._standstill import Standstill

__all__ = ["DeadLetter", "OrderQueue", "Published", "QueueStatus"]

_LOGGER = logging.getLogger("everlytic_async.worker")
_T = TypeVar("_T")
# A request that is not answered for so long is asked again, in seconds.
_ANSWER_S = 5.0
# Between two tries of the same, in seconds; with jitter.
_TRY_BASE_S = 0.05
_TRY_CAP_S = 2.0
# Between two tries to connect, in seconds.
_RECONNECT_S = 0.25
# A connection that is lost without a word is found out by pings, this often, in seconds.
_PING_S = 10
# What the server's log calls a slow consumer; whom it cuts off it does not tell why.
_CUT_OFF = (
    " after this process had stood still for {:.1f} s, perhaps for that: the server cuts off who"
    " does not read (a slow consumer)"
)
# An error that comes over and over is told this often, in seconds.
_AGAIN_S = 60.0
# What is left to headers of the server's max_payload; those of a dead letter are the longest.
_HEADERS_BYTES = 2048
# JetStream's number for the deletion of what is not there.
_NO_SUCH_MESSAGE = 10057
# How many pulls may wait at the server: one for each worker.
_MAX_WAITING = 16_384
# What is left to be written when a connection is closed may take so long, in seconds.
_FLUSH_S = 2
# How JetStream writes that there is no bound.
_NO_BOUND = -1
# What a server answers while it starts or elects a leader, and what it is worth asking again.
_TEMPORARY = (
    TimeoutError,
    nats.errors.NoRespondersError,
    nats.errors.OutboundBufferLimitError,
    nats.errors.StaleConnectionError,
    nats.js.errors.NoStreamResponseError,
    nats.js.errors.ServerError,
    nats.js.errors.ServiceUnavailableError,
)


@attrs.frozen
class Published:
    """What became of one order that was to be published.

    Attributes:
        index: Its place in the input, counted from 0.
        key: What names it, as a ledger keeps it; None for an invalid one.
        stored: Whether it was stored now. False with no error: the queue knew it already.
        error: Why it is not in the queue, or perhaps not: `InvalidOrderError` or `QueueError`.
    """

    index: int
    key: str | None = attrs.field(repr=False)
    stored: bool
    error: InvalidOrderError | QueueError | None = None


@attrs.frozen(eq=False)
class _Flying:
    """An order that is being published, or that can't be."""

    index: int
    key: str | None
    end: asyncio.Future[bool] | InvalidOrderError

    async def landed(self) -> Published:
        if isinstance(self.end, InvalidOrderError):
            return Published(self.index, None, stored=False, error=self.end)
        try:
            return Published(self.index, self.key, stored=await self.end)
        except (InvalidOrderError, QueueError) as error:
            return Published(self.index, self.key, stored=False, error=error)


async def _abandon(flying: Iterable[_Flying]) -> None:
    """Publish no more of these, and see their tasks end."""
    tasks = [each.end for each in flying if not isinstance(each.end, InvalidOrderError)]
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.gather(*tasks, return_exceptions=True)


@attrs.frozen(kw_only=True)
class QueueStatus:
    """The queue of one store at a moment.

    Attributes:
        store: Which store's.
        waiting: Orders that no worker has been given yet.
        in_hand: Orders that were given to workers and are not acknowledged; those that wait for
            their next delivery included.
        redelivered: How many of those in hand were given more than once.
        idle_workers: Workers that wait for an order at this moment.
        dead: Dead letters.
        bytes: What the stream of orders holds, of all stores together.
    """

    store: str
    waiting: int
    in_hand: int
    redelivered: int
    idle_workers: int
    dead: int
    bytes: int

    @property
    def depth(self) -> int:
        """Orders that are not done with: waiting or in hand."""
        return self.waiting + self.in_hand


@attrs.frozen(kw_only=True)
class DeadLetter:
    """An order that is not sent again unless somebody says so.

    Attributes:
        number: What it is named by, for `OrderQueue.redrive`: its place in the stream of dead
            letters.
        key: What names the order, as a ledger keeps it; None for what is no valid order.
        outcome: What is known of it: INVALID, REJECTED or UNKNOWN.
        reason: Why, in words.
        attempts: How many POSTs were begun for it, by the worker that gave it up.
        deliveries: How often it had been given to a worker.
        sequence: The place that it had in the stream of orders.
        at: When it became one, in seconds since the epoch.
        body: What was published, as bytes.
    """

    number: int
    key: str | None = attrs.field(repr=False)
    outcome: Outcome
    reason: str
    attempts: int
    deliveries: int
    sequence: int
    at: float
    body: bytes = attrs.field(repr=False)


class OrderQueue:
    """The orders of one store on their way to its workers; use it with ``async with``.

    Args:
        servers: The address of a NATS server, several of one cluster, or a connection of yours,
            which is used and never closed; give that one ``max_reconnect_attempts=-1``.
        settings: What it is called and what it holds.
        user_credentials: Path of a ``.creds`` file: JWT and seed. Needs ``nats-py[nkeys]``.
        nkeys_seed: Path of a file with an NKey seed. Needs ``nats-py[nkeys]``.
        user: A user's name, where the server knows users.
        password: The user's password.
        token: A token, where the server wants one.
        tls: A context, where the server's certificate is not known to this machine or it wants to
            see a certificate of ours. With it, or with an address of ``tls://``, nothing is sent to
            a server that does not offer TLS.
        allow_plain_nats: Whether credentials and orders may go to a server on another machine
            without TLS, where anybody on the way can read them.
        patience_s: How long to go on trying what the server does not acknowledge, in seconds:
            connecting, publishing, asking. A server that refuses the credentials for so long, once
            they were good, is given up.

    Raises:
        QueueError: on entering: no server can be reached, or it has no JetStream, or a stream is
            not as it should be.
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
        patience_s: float = 30.0,
    ) -> None:
        if not isinstance(settings, QueueSettings):
            raise ConfigurationError(
                f"settings must be QueueSettings, got a {type(settings).__name__}"
            )
        self.settings = settings
        self._given = servers if isinstance(servers, Client) else None
        self._options = options_of(
            servers,
            user_credentials=user_credentials,
            nkeys_seed=nkeys_seed,
            user=user,
            password=password,
            token=token,
            tls=tls,
        )
        self._allow_plain_nats = allow_plain_nats
        self._patience_s = patience_s
        self._connection: Client | None = None
        self._rng = random.Random()  # noqa: S311 - jitter is no secret
        self._last_error: BaseException | None = None
        self._told, self._told_at = "", 0.0  # of an error: its words, and when they were logged
        self._standstill = Standstill()
        self._refused: asyncio.Future[Exception] | None = None  # while connecting: by the server
        self._puller: Puller | None = None
        self._making = asyncio.Lock()
        self._seen_streams: set[str] = set()

    def __repr__(self) -> str:
        return f"<OrderQueue {self.settings.orders_subject}>"

    # ------------------------------------------------------------------------- the connection

    @property
    def connection(self) -> Client:
        """The connection to NATS.

        Raises:
            QueueError: the queue is not open.
        """
        if self._connection is None:
            raise QueueError("the queue is not open: use `async with OrderQueue(...) as queue`")
        return self._connection

    @property
    def connected(self) -> bool:
        """Whether the server can be reached, as far as is known."""
        return self._connection is not None and self._connection.is_connected

    @property
    def closed_reason(self) -> str | None:
        """Why the connection was closed for good, in words; None where it was not.

        A connection that is lost is restored. It is closed once the server has refused it for
        ``patience_s``, because the credentials were revoked or have expired.
        """
        if self._connection is None or not self._connection.is_closed:
            return None
        return said(self._last_error or self._connection.last_error)

    async def __aenter__(self) -> Self:
        if self._connection is not None:
            raise RuntimeError("a queue is entered once")
        if self._given is not None:
            self._connection = self._given
        else:
            self._connection = await self._connect()
        try:
            await self._ensure_stream(self._orders_config())
            await self._ensure_stream(self._dead_config())
        except BaseException:
            await self._leave()
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
            await self._leave()

    async def _connect(self) -> Client:
        connection = Connection(
            self._options, allow_plain=self._allow_plain_nats, patience_s=self._patience_s
        )
        loop = asyncio.get_running_loop()
        self._refused = loop.create_future()
        connecting = loop.create_task(
            connection.connect(
                **self._options,
                name=f"everlytic-async {self.settings.store}",
                allow_reconnect=True,
                max_reconnect_attempts=-1,
                reconnect_time_wait=_RECONNECT_S,  # type: ignore[arg-type]
                ping_interval=_PING_S,
                error_cb=self._on_error,
                disconnected_cb=self._on_disconnected,
                reconnected_cb=self._on_reconnected,
                closed_cb=self._on_closed,
            )
        )
        try:
            await asyncio.wait(
                (connecting, self._refused),
                timeout=self._patience_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            refused, self._refused = self._refused, None
            if not connecting.done():
                await to_end(_given_up(connecting, connection))
        error: BaseException | None
        if connecting.cancelled():
            error = refused.result() if refused.done() else self._last_error
        else:
            error = connecting.exception()
            if error is None:
                self._standstill.watch()
                return connection
        await to_end(disconnect(connection))
        if isinstance(error, ImportError):
            raise ConfigurationError("NKeys need more: pip install 'nats-py[nkeys]'") from error
        if error is None or isinstance(error, OSError | ValueError | nats.errors.Error):
            raise QueueError(f"no NATS server could be reached: {said(error)}") from error
        raise error

    async def _leave(self) -> None:
        connection, self._connection = self._connection, None
        self._standstill.close()
        if connection is not None and connection is not self._given:
            await to_end(_closed(connection))

    async def _on_error(self, error: Exception) -> None:
        words = said(error)
        if isinstance(error, nats.errors.SlowConsumerError) and self._puller is not None:
            words += f": an order comes again after {self.settings.ack_wait_s:g} s"
        # While a server is away, every try to connect comes here with the same words; so does every
        # message that the client drops.
        now = time.monotonic()
        repeated = words == self._told and now - self._told_at < _AGAIN_S
        self._last_error = error
        if not repeated:
            self._told, self._told_at = words, now
        _LOGGER.log(logging.DEBUG if repeated else logging.WARNING, "NATS: %s", words)
        if is_refusal(error) and self._refused and not self._refused.done():
            self._refused.set_result(error)  # no use in trying it again

    async def _on_disconnected(self) -> None:
        if self._connection is not None and not self._connection.is_closed:
            still_s = self._standstill.just_ended()
            why = "" if still_s is None else _CUT_OFF.format(still_s)
            _LOGGER.warning("NATS: the connection was lost%s; trying to get it back", why)

    async def _on_reconnected(self) -> None:
        self._last_error, self._told = None, ""
        _LOGGER.warning("NATS: the connection is back")

    async def _on_closed(self) -> None:
        if self._connection is not None:
            _LOGGER.error("NATS: the connection was closed: %s", said(self._last_error))

    # ----------------------------------------------------------------------------- the streams

    def _orders_config(self) -> api.StreamConfig:
        settings = self.settings
        window = min(settings.duplicate_window_s, settings.max_age_s or settings.duplicate_window_s)
        return api.StreamConfig(
            name=settings.orders_stream,
            subjects=[f"{settings.subject}.orders.*"],
            description="Orders for Everlytic, until their outcome is known",
            retention=api.RetentionPolicy.WORK_QUEUE,
            max_age=settings.max_age_s or 0,
            duplicate_window=window,
            max_msg_size=_NO_BOUND,
            **self._limits(),
        )

    def _dead_config(self) -> api.StreamConfig:
        settings = self.settings
        return api.StreamConfig(
            name=settings.dead_stream,
            subjects=[f"{settings.subject}.dead.*"],
            description="Orders for Everlytic that a person has to decide on",
            retention=api.RetentionPolicy.LIMITS,
            duplicate_window=settings.duplicate_window_s,
            **self._limits(),
        )

    def _limits(self) -> dict[str, Any]:
        """What both streams have in common. Full, they refuse what is new and keep what is old."""
        settings = self.settings
        return {
            "storage": api.StorageType.FILE,
            "discard": api.DiscardPolicy.NEW,
            "num_replicas": settings.replicas,
            "max_bytes": settings.max_bytes,
            "max_msgs": settings.max_messages or _NO_BOUND,
        }

    @property
    def _jetstream(self) -> JetStreamContext:
        return self.connection.jetstream(timeout=_ANSWER_S)

    async def _ensure_stream(self, config: api.StreamConfig) -> None:
        await self._persist(
            lambda: self._make_stream(config), f"the stream {config.name} can't be made"
        )

    async def _make_stream(self, wanted: api.StreamConfig) -> None:
        """Make a stream where there is none, and check that it is the right one.

        A stream may be deleted under us at any time. Whoever notices comes here: it is no use to
        wait for somebody else.
        """
        name = str(wanted.name)
        async with self._making:  # of many who notice at once, one makes it
            found = await self._stream_config(name)
            if found is None:
                try:
                    found = (await self._jetstream.add_stream(wanted)).config
                except nats.js.errors.BadRequestError:
                    # Another process was first, perhaps with other limits; else it says why.
                    found = await self._stream_config(name)
                    if found is None:
                        raise
                if name in self._seen_streams:
                    _LOGGER.warning(
                        "the stream %s was deleted, and created again: what it held is lost. "
                        "Publish the orders again that were not sent",
                        name,
                    )
        self._seen_streams.add(name)
        subject = (wanted.subjects or [""])[0]
        kept = (wanted.retention or api.RetentionPolicy.LIMITS).value
        if subject not in (found.subjects or []) or found.retention != kept:
            raise QueueError(
                f"the stream {name} is another's: it takes {', '.join(found.subjects or [])} and "
                f"keeps by {found.retention}, expected {subject} and {kept}. Give this queue a "
                "subject and streams of its own"
            )

    async def _stream_config(self, name: str) -> api.StreamConfig | None:
        try:
            return (await self._jetstream.stream_info(name)).config
        except nats.js.errors.NotFoundError:
            return None

    async def _stream_info(
        self, config: api.StreamConfig, subjects: str, failed: str
    ) -> api.StreamInfo:
        """What a stream holds on these subjects."""

        async def ask() -> api.StreamInfo:
            name = str(config.name)
            try:
                return await self._jetstream.stream_info(name, subjects_filter=subjects)
            except nats.js.errors.NotFoundError:
                await self._make_stream(config)
                return await self._jetstream.stream_info(name, subjects_filter=subjects)

        return await self._persist(ask, failed)

    async def _ensure_consumer(self) -> None:
        settings = self.settings
        config = api.ConsumerConfig(
            durable_name=settings.consumer,
            description=f"The workers of the store {settings.store}",
            filter_subject=settings.orders_subject,
            deliver_policy=api.DeliverPolicy.ALL,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=settings.ack_wait_s,
            max_deliver=_NO_BOUND,  # it is the worker's to say when it is enough
            max_ack_pending=settings.max_in_hand,
            max_waiting=_MAX_WAITING,
        )

        async def make() -> None:
            # Makes it, or changes what differs.
            try:
                await self._jetstream.add_consumer(settings.orders_stream, config)
            except nats.js.errors.NotFoundError:
                await self._make_stream(self._orders_config())
                await self._jetstream.add_consumer(settings.orders_stream, config)

        await self._persist(make, f"the consumer {settings.consumer} can't be made")

    async def _persist(self, ask: Callable[[], Awaitable[_T]], failed: str) -> _T:
        """Ask the server, again and again where that may help.

        Raises:
            QueueError: it refused, or did not answer within the patience.
        """
        until = time.monotonic() + self._patience_s
        tries = 0
        while True:
            tries += 1
            try:
                return await apart(ask())
            except _TEMPORARY as error:
                pause = min(_TRY_CAP_S, _TRY_BASE_S * 2 ** min(tries, 10))
                pause *= self._rng.uniform(0.5, 1.0)
                if time.monotonic() + pause >= until:
                    raise QueueError(f"{failed}: {said(error)}") from error
                await asyncio.sleep(pause)
            except nats.errors.Error as error:
                raise QueueError(f"{failed}: {said(error)}") from error

    # -------------------------------------------------------------------------------- publish

    async def publish(self, order: AnyOrder, *, key: str | None = None) -> bool:
        """Put one order into the queue, and wait until it is stored.

        A full queue is waited for, as is a connection that is lost.

        Args:
            order: The order, or a mapping with its fields.
            key: What names it; by default its order id and workflow id, else a digest of its body.

        Returns:
            True when it was stored; False when the queue knew the key already. After a lost
            acknowledgement it may be this very call that had stored it.

        Raises:
            InvalidOrderError: it is no valid order, or too large; nothing was published.
            QueueError: it was not acknowledged in time. Perhaps it is stored; to publish it again
                is safe.
        """
        return await self._publish(as_message(order_of(order), key, self.settings))

    async def publish_many(
        self,
        orders: Iterable[AnyOrder] | AsyncIterable[AnyOrder],
        *,
        in_flight: int = 256,
    ) -> AsyncGenerator[Published]:
        """Put many orders into the queue; yields what became of each, in their order.

        Orders are read as fast as they are acknowledged, so many at most ahead of it. After the
        first that the queue did not take no more are read.

        Args:
            orders: Orders or mappings. An `InvalidOrderError` in the place of one is its result.
            in_flight: How many may wait for their acknowledgement.

        Raises:
            QueueError: at its end, when the queue did not take one of them.
        """
        flying: deque[_Flying] = deque()
        failure: QueueError | None = None
        index = 0
        try:
            async for order in _each(orders):
                flying.append(self._launch(index, order))
                index += 1
                if len(flying) >= in_flight:
                    published = await flying.popleft().landed()
                    yield published
                    if isinstance(published.error, QueueError):
                        failure = published.error
                        break
            while flying:
                published = await flying.popleft().landed()
                yield published
                if isinstance(published.error, QueueError):
                    failure = failure or published.error
        finally:
            await _abandon(flying)
        if failure is not None:
            raise failure

    def _launch(self, index: int, order: AnyOrder) -> _Flying:
        try:
            message = as_message(order_of(order), None, self.settings)
        except InvalidOrderError as error:
            return _Flying(index, None, error)
        return _Flying(index, message.key, asyncio.ensure_future(self._publish(message)))

    async def _publish(self, message: Message) -> bool:
        room = self.connection.max_payload - _HEADERS_BYTES
        if len(message.body) > room:
            raise too_large(len(message.body), room, "the NATS server's max_payload")
        ack = await self._store(
            self._orders_config(), self.settings.orders_subject, message.body, message.headers
        )
        return not ack.duplicate

    async def _bury(self, body: bytes, headers: dict[str, str]) -> None:
        room = self.connection.max_payload - _HEADERS_BYTES
        if len(body) > room:  # not published by this package, which leaves room for the headers
            headers = {**headers, LEFT_OUT: str(len(body) - room)}
            body = body[:room]
        await self._store(self._dead_config(), self.settings.dead_subject, body, headers)

    async def _store(
        self, config: api.StreamConfig, subject: str, body: bytes, headers: dict[str, str]
    ) -> api.PubAck:
        """Store a message in the stream that is made like this.

        Raises:
            QueueError: it was not acknowledged.
        """
        jetstream = self._jetstream

        async def publish() -> api.PubAck:
            try:
                return await jetstream.publish(subject, body, headers=headers)
            except nats.js.errors.NoStreamResponseError:
                await self._make_stream(config)
                return await jetstream.publish(subject, body, headers=headers)

        what = "the order" if subject == self.settings.orders_subject else "the dead letter"
        return await self._persist(publish, f"the queue did not acknowledge {what}")

    # ----------------------------------------------------------------------------------- pull

    async def pull(self, count: int, wait_s: float) -> list[QueuedOrder]:
        """Take up to so many orders; wait for the first of them, but not for more.

        One task at a time may pull. Cancelled, it loses nothing: what had arrived is had by the
        next pull, or goes back by `release`.

        Args:
            count: How many at most, at least 1.
            wait_s: How long to wait where there is none, in seconds.

        Returns:
            Those that there are; none after the wait, or while the server can't be reached.

        Raises:
            QueueError: the server refuses, or the stream is gone.
        """
        if self._puller is None:
            self._puller = Puller(self.connection, self.settings)
        if self._puller.lacks_consumer and self.connected:
            await self._ensure_consumer()
            self._puller.lacks_consumer = False
        messages = await self._puller.pull(count, wait_s)
        return [QueuedOrder(message, self.settings, self._bury) for message in messages]

    async def release(self) -> None:
        """Take no more orders, and put back those that had arrived and that nobody has taken.

        Raises:
            QueueError: they can't be put back now; they come back after ``ack_wait_s``.
        """
        puller, self._puller = self._puller, None
        if puller is not None:
            await puller.release()

    # ---------------------------------------------------------------------- status, the dead

    async def status(self) -> QueueStatus:
        """What is in the queue of this store at this moment.

        Raises:
            QueueError: the server does not answer.
        """
        settings = self.settings
        jetstream = self._jetstream

        async def consumer() -> api.ConsumerInfo | None:
            try:
                info: api.ConsumerInfo = await jetstream.consumer_info(
                    settings.orders_stream, settings.consumer
                )
            except nats.js.errors.NotFoundError:
                return None  # no worker has come yet
            return info

        failed = "the queue's status is not known"
        orders = await self._stream_info(self._orders_config(), settings.orders_subject, failed)
        info = await self._persist(consumer, failed)
        dead = await self._stream_info(self._dead_config(), settings.dead_subject, failed)
        stored = (orders.state.subjects or {}).get(settings.orders_subject, 0)
        in_hand = 0 if info is None else info.num_ack_pending or 0
        return QueueStatus(
            store=settings.store,
            waiting=max(0, stored - in_hand),
            in_hand=in_hand,
            redelivered=0 if info is None else info.num_redelivered or 0,
            idle_workers=0 if info is None else info.num_waiting or 0,
            dead=(dead.state.subjects or {}).get(settings.dead_subject, 0),
            bytes=orders.state.bytes,
        )

    async def workers(self, wait_s: float = 0.5) -> list[PresentWorker]:
        """The workers of this store that answer.

        Args:
            wait_s: How long to wait for their answers, in seconds. Where there are none, the server
                says so at once.

        Raises:
            QueueError: nobody can be asked.
        """
        return await workers_at(self.connection, self.settings.workers_subject, wait_s)

    async def stores(self) -> list[str]:
        """All stores that have an order or a dead letter in these streams, whoever serves them.

        Raises:
            QueueError: the server does not answer.
        """
        counts = await self._counts()
        found = {subject.rpartition(".")[2] for subject in counts}
        return sorted(name for name in found if is_store(name))

    async def strays(self) -> dict[str, int]:
        """How many messages lie on subjects that can't be a store's, so that nobody serves them.

        Whoever published there did so without this package. The subjects are as the server tells
        them: they may hold any characters.

        Raises:
            QueueError: the server does not answer.
        """
        counts = await self._counts()
        return {name: counts[name] for name in counts if not is_store(name.rpartition(".")[2])}

    async def _counts(self) -> dict[str, int]:
        """How many messages lie on each subject of the two streams."""
        subject = self.settings.subject
        counts: dict[str, int] = {}
        for config, kind in ((self._orders_config(), "orders"), (self._dead_config(), "dead")):
            info = await self._stream_info(
                config, f"{subject}.{kind}.*", "the stores of the queue are not known"
            )
            counts |= info.state.subjects or {}
        return counts

    async def dead_letters(self) -> AsyncIterator[DeadLetter]:
        """The dead letters of this store, from the oldest on.

        Raises:
            QueueError: the server does not answer.
        """
        number = 1
        while True:
            found = await self._dead_letter(number, following=True)
            if found is None:
                return
            yield found[0]
            number = found[0].number + 1

    async def is_dead(self, number: int) -> bool:
        """Whether there is a dead letter of this number.

        Raises:
            QueueError: the server does not answer.
        """
        return await self._dead_letter(number) is not None

    async def redrive(self, selection: Iterable[DeadLetter | int]) -> int:
        """Put dead letters back into the queue: their orders are to be sent, whatever was known.

        A worker that gets such an order sends it even where the ledger says that it is UNKNOWN, or
        that it was REJECTED as it is; once. Where the ledger says that it was sent, it is not.

        Args:
            selection: Dead letters, or their numbers. What is no longer there is passed over.

        Returns:
            How many were put back.

        Raises:
            QueueError: one can't be put back; those before it were.
        """
        count = 0
        for each in selection:
            number = each.number if isinstance(each, DeadLetter) else each
            found = await self._dead_letter(number)
            if found is None:
                continue
            letter, headers = found
            redriven = as_redriven(headers, number, time.time(), self.settings)
            await self._store(
                self._orders_config(), self.settings.orders_subject, letter.body, redriven
            )
            if await self._delete(number):
                count += 1
        return count

    async def drop(self, selection: Iterable[DeadLetter | int]) -> int:
        """Delete dead letters for good.

        Args:
            selection: Dead letters, or their numbers. What is no longer there is passed over.

        Returns:
            How many were deleted.

        Raises:
            QueueError: one can't be deleted; those before it were.
        """
        count = 0
        for each in selection:
            number = each.number if isinstance(each, DeadLetter) else each
            if await self._dead_letter(number) is not None and await self._delete(number):
                count += 1
        return count

    async def _dead_letter(
        self, number: int, *, following: bool = False
    ) -> tuple[DeadLetter, dict[str, str]] | None:
        """The dead letter of this number, or where asked for of the next, with its headers."""
        settings = self.settings
        jetstream = self._jetstream

        async def get() -> api.RawStreamMsg | None:
            try:
                return await jetstream.get_msg(
                    settings.dead_stream, seq=number, subject=settings.dead_subject, next=True
                )
            except nats.js.errors.NotFoundError:
                return None

        raw = await self._persist(get, "the dead letters can't be read")
        if raw is None or raw.seq is None or (raw.seq != number and not following):
            return None
        headers = {name: str(value) for name, value in (raw.headers or {}).items()}
        dead, body = read_dead(headers), raw.data or b""
        try:
            key = own_key(headers) or as_message(as_order(body, settings), None, settings).key
        except InvalidOrderError:
            key = None
        letter = DeadLetter(
            number=raw.seq,
            key=key,
            outcome=dead.outcome,
            reason=dead.reason,
            attempts=dead.attempts,
            deliveries=dead.deliveries,
            sequence=dead.sequence,
            at=0.0 if raw.time is None else raw.time.timestamp(),
            body=body,
        )
        return letter, headers

    async def _delete(self, number: int) -> bool:
        jetstream = self._jetstream

        async def delete() -> bool:
            try:
                return await jetstream.delete_msg(self.settings.dead_stream, number)
            except (nats.js.errors.NotFoundError, nats.js.errors.BadRequestError):
                return False  # somebody else did
            except nats.js.errors.ServerError as error:
                if error.err_code == _NO_SUCH_MESSAGE:
                    return False
                raise

        return await self._persist(delete, f"dead letter {number} can't be deleted")


async def _closed(connection: Client) -> None:
    if connection.is_connected:
        # Acknowledgements mostly; if that fails they are repeated later. The first ping overtakes
        # what the client has not written yet.
        with contextlib.suppress(TimeoutError, OSError, nats.errors.Error):
            await connection.flush(timeout=_FLUSH_S)
            await connection.flush(timeout=_FLUSH_S)
    await disconnect(connection)


async def _given_up(connecting: asyncio.Future[None], connection: Client) -> None:
    await ended(connecting)
    await disconnect(connection)


async def _each(orders: Iterable[AnyOrder] | AsyncIterable[AnyOrder]) -> AsyncIterator[AnyOrder]:
    if isinstance(orders, AsyncIterable):
        async for order in orders:
            yield order
    else:
        for order in orders:
            yield order
