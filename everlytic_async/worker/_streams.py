"""The two streams of a queue and its consumer: created when missing, and asked with retries."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext, api

from everlytic_async._nats import find_or_create, none_if_missing, with_retries
from everlytic_async._waiting import run_shielded
from everlytic_async.errors import QueueError
from everlytic_async.worker._messages import Message, check_size
from everlytic_async.worker._settings import QueueSettings

_LOGGER = logging.getLogger("everlytic_async.worker")
_T = TypeVar("_T")
# A request without an answer is repeated after this, in seconds.
_REQUEST_TIMEOUT_S = 5.0
# How many bytes of a dead letter are missing for lack of room.
_TRUNCATED_BYTES = "Everlytic-Truncated-Bytes"
# Room for the headers within the server's max_payload; those of a dead letter are the longest.
_HEADERS_BYTES = 2048
# How many pulls may wait at the server: one for each worker.
_MAX_WAITING = 16_384
# How JetStream writes that there is no limit.
_UNLIMITED = -1
_UNKNOWN_STATE = "the state of the queue is not known"


class Streams:
    """The streams of one store on a server.

    A stream may be deleted at any time: the first to notice creates it again. Every call raises
    `QueueError` if the server refuses, or does not answer within `timeout_s`.
    """

    def __init__(self, connection: Client, settings: QueueSettings, timeout_s: float) -> None:
        self.connection = connection
        self.settings = settings
        self.jetstream: JetStreamContext = connection.jetstream(
            timeout=min(timeout_s, _REQUEST_TIMEOUT_S)
        )
        self.orders, self.dead_letters = _stream_configs(settings)
        self._timeout_s = timeout_s
        self._creating = asyncio.Lock()  # if many notice at once, one creates it
        self._seen: set[str] = set()

    async def request(
        self, config: api.StreamConfig, ask: Callable[[], Awaitable[_T]], failed: str
    ) -> _T:
        """Ask about a stream, and repeat it while that may help; create the stream if missing."""

        async def attempt() -> _T:
            try:
                return await ask()
            except (nats.js.errors.NotFoundError, nats.js.errors.NoStreamResponseError):
                await self._create(config)
                return await ask()

        return await with_retries(
            lambda: run_shielded(attempt()),
            timeout_s=self._timeout_s,
            fail=lambda words: QueueError(f"{failed}: {words}"),
        )

    # ---------------------------------------------------------------------------- create them

    async def ensure(self) -> None:
        """Create the streams that are missing. Those that belong to something else are refused."""
        for config in (self.orders, self.dead_letters):
            failed = f"the stream {config.name} can't be created"
            await self.request(config, partial(self._create, config), failed)

    async def ensure_consumer(self) -> None:
        """Create the consumer that the store's workers share, or update it."""
        settings = self.settings
        config = api.ConsumerConfig(
            durable_name=settings.consumer,
            description=f"The workers of the store {settings.store}",
            filter_subject=settings.orders_subject,
            deliver_policy=api.DeliverPolicy.ALL,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=settings.ack_wait_s,
            max_deliver=_UNLIMITED,  # the worker decides when it is enough
            max_ack_pending=settings.max_ack_pending,
            max_waiting=_MAX_WAITING,
        )
        await self.request(
            self.orders,
            lambda: self.jetstream.add_consumer(settings.orders_stream, config),
            f"the consumer {settings.consumer} can't be created",
        )

    async def _create(self, config: api.StreamConfig) -> None:
        name = str(config.name)
        async with self._creating:
            info: api.StreamInfo | None = await find_or_create(
                partial(self.jetstream.stream_info, name),
                partial(self.jetstream.add_stream, config),
            )
            if info is None and name in self._seen:
                _LOGGER.warning(
                    "the stream %s was deleted, and created again: what it held is lost. "
                    "Publish the orders again that were not sent",
                    name,
                )
        self._seen.add(name)
        if info is None:
            return
        found = info.config
        [subject] = config.subjects or [""]
        retention = (config.retention or api.RetentionPolicy.LIMITS).value
        if subject not in (found.subjects or []) or found.retention != retention:
            raise QueueError(
                f"the stream {name} belongs to something else: it takes "
                f"{', '.join(found.subjects or [])} and keeps by {found.retention}, expected "
                f"{subject} and {retention}. Choose another subject and other streams"
            )

    # ------------------------------------------------------------------------------- use them

    async def info(
        self, config: api.StreamConfig, subjects: str
    ) -> tuple[api.StreamState, dict[str, int]]:
        """What a stream holds, and how many messages on each of these subjects."""
        ask = partial(self.jetstream.stream_info, str(config.name), subjects_filter=subjects)
        info: api.StreamInfo = await self.request(config, ask, _UNKNOWN_STATE)
        return info.state, info.state.subjects or {}

    async def consumer_info(self) -> api.ConsumerInfo | None:
        """The consumer's state; None if no worker has created it yet."""
        names = self.settings.orders_stream, self.settings.consumer
        return await self.request(
            self.orders,
            lambda: none_if_missing(self.jetstream.consumer_info(*names)),
            _UNKNOWN_STATE,
        )

    async def store_order(self, message: Message) -> bool:
        """Store an order; False if the stream had it already. One that is too large is invalid."""
        check_size(message.body, self._max_body_bytes, "the NATS server's max_payload")
        return await self.store_raw_order(message.body, message.headers)

    async def store_raw_order(self, body: bytes, headers: dict[str, str]) -> bool:
        """Store what is perhaps not an order, such as one that is put back."""
        ack = await self._store(self.orders, self.settings.orders_subject, body, headers, "order")
        return not ack.duplicate

    async def store_dead_letter(self, body: bytes, headers: dict[str, str]) -> None:
        """Store a dead letter."""
        room = self._max_body_bytes
        if len(body) > room:  # from another program: ours leaves room for the headers
            headers = {**headers, _TRUNCATED_BYTES: str(len(body) - room)}
            body = body[:room]
        subject = self.settings.dead_letter_subject
        await self._store(self.dead_letters, subject, body, headers, "dead letter")

    @property
    def _max_body_bytes(self) -> int:
        return self.connection.max_payload - _HEADERS_BYTES

    async def _store(
        self,
        config: api.StreamConfig,
        subject: str,
        body: bytes,
        headers: dict[str, str],
        what: str,
    ) -> api.PubAck:
        return await self.request(
            config,
            lambda: self.jetstream.publish(subject, body, headers=headers),
            f"the queue did not acknowledge the {what}",
        )


def _stream_configs(settings: QueueSettings) -> tuple[api.StreamConfig, api.StreamConfig]:
    """The streams of orders and of dead letters. A full one refuses what is new."""
    window_s = settings.duplicate_window_s
    limits: dict[str, Any] = {
        "storage": api.StorageType.FILE,
        "discard": api.DiscardPolicy.NEW,
        "num_replicas": settings.replicas,
        "max_bytes": settings.max_bytes,
        "max_msgs": settings.max_messages or _UNLIMITED,
    }
    orders = api.StreamConfig(
        name=settings.orders_stream,
        subjects=[f"{settings.subject}.orders.*"],
        description="Orders for Everlytic, until their outcome is known",
        retention=api.RetentionPolicy.WORK_QUEUE,
        max_age=settings.max_age_s or 0,
        duplicate_window=min(window_s, settings.max_age_s or window_s),
        max_msg_size=_UNLIMITED,
        **limits,
    )
    dead_letters = api.StreamConfig(
        name=settings.dead_letter_stream,
        subjects=[f"{settings.subject}.dead.*"],
        description="Orders for Everlytic that a person has to decide on",
        retention=api.RetentionPolicy.LIMITS,
        duplicate_window=window_s,
        **limits,
    )
    return orders, dead_letters
