"""Taking orders from the queue: `Puller` requests messages, `QueuedOrder` is one that arrived.

Not by the NATS client's ``fetch``: when cancelled, that one drops what has arrived, and leaves a
request behind that takes orders which nobody receives.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from functools import cached_property
from typing import Any

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from everlytic_async._nats import closed_reason, error_text
from everlytic_async._waiting import finish_despite_cancel
from everlytic_async.errors import InvalidOrderError, QueueError
from everlytic_async.orders import Order
from everlytic_async.outcomes import Outcome
from everlytic_async.worker._dead_letters import dead_letter_headers
from everlytic_async.worker._messages import decode_order, publisher_key, resend_override
from everlytic_async.worker._streams import Streams

__all__ = ["QueuedOrder"]

# A request that must be answered at once is given up after this, in seconds.
_REQUEST_TIMEOUT_S = 2.0
# How often a waiting pull checks whether the connection was lost, in seconds.
_POLL_S = 0.25
# The server's status if the consumer is gone or moved, and if nothing listens to the request.
_CONFLICT = "409"
_NO_RESPONDERS = "503"


class QueuedOrder:
    """An order that was taken from the queue, to be acknowledged in one way or another.

    If that raises `QueueError`, the connection is closed, or has been lost for long: the order
    comes back by itself after the queue's ``ack_wait_s``.

    Attributes:
        key: The publisher's own key, as a ledger keeps it; None for the order's own.
        sequence: Its place in the stream.
        deliveries: How often it was delivered to a worker, this time included.
        resend: Of a redriven order, the recorded outcome that must not stop it, and when it was
            redriven, in seconds since the epoch; else None.
    """

    def __init__(self, message: Msg, streams: Streams) -> None:
        self._message = message
        self._streams = streams
        self.sequence = message.metadata.sequence.stream
        self.deliveries = message.metadata.num_delivered
        headers = message.headers or {}
        self.key = publisher_key(headers)
        self.resend = resend_override(headers)

    def __repr__(self) -> str:
        return f"<QueuedOrder {self.sequence}, delivery {self.deliveries}>"

    @cached_property
    def item(self) -> Order | InvalidOrderError:
        """The order, or why it is not a valid one: what a stream of orders takes."""
        # Not before it is wanted: decoded, a message takes many times its bytes, and several are
        # pulled at once.
        try:
            return decode_order(self._message.data, self._streams.settings)
        except InvalidOrderError as error:
            return error

    @property
    def order(self) -> Order | None:
        """The order; None if the message is not one."""
        return self.item if isinstance(self.item, Order) else None

    @property
    def error(self) -> InvalidOrderError | None:
        """Why it is not a valid order; None if it is."""
        return self.item if isinstance(self.item, InvalidOrderError) else None

    @property
    def redelivered(self) -> bool:
        """Whether it was delivered to a worker before."""
        return self.deliveries > 1

    async def ack(self) -> None:
        """Remove it from the queue. If this is lost on its way, it is delivered again."""
        await _send_ack(self._message, b"+ACK")

    async def nak(self, delay_s: float = 0.0) -> None:
        """Put it back, to be delivered again after a delay in seconds."""
        delay = b' {"delay": %d}' % int(delay_s * 1e9) if delay_s > 0 else b""
        await _send_ack(self._message, b"-NAK" + delay)

    async def in_progress(self) -> None:
        """Send a heartbeat: ``ack_wait_s`` starts again."""
        await _send_ack(self._message, b"+WPI")

    async def to_dead_letter(self, reason: str, outcome: Outcome, attempts: int) -> None:
        """Move it to the dead letters: it leaves the queue once it is stored there.

        Args:
            reason: Why, in words.
            outcome: What is known of it.
            attempts: How many POSTs were started for it.

        Raises:
            QueueError: it could not be stored there: it is still in the queue.
        """
        settings = self._streams.settings
        headers = dead_letter_headers(self._message, settings, outcome, reason, attempts)
        await self._streams.store_dead_letter(self._message.data, headers)
        await self.ack()


async def _send_ack(message: Msg, word: bytes) -> None:
    """Acknowledge a message in one way or another."""
    try:
        await message._client.publish(message.reply, word)  # noqa: SLF001 - as its own ack() does
    except nats.errors.Error as error:
        raise QueueError(f"an order could not be acknowledged: {error_text(error)}") from error


class Puller:
    """Requests orders, no more than are wanted, and one request at a time.

    The server can't be made to forget a request. So one whose pull was cancelled goes on, and what
    it brings is for the next pull; `release` waits for its end. A request for one order waits at
    the server for `expires_s`.
    """

    def __init__(self, streams: Streams, expires_s: float) -> None:
        settings = streams.settings
        self.streams = streams
        self._connection = streams.connection
        self._expires_s = expires_s
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{settings.orders_stream}.{settings.consumer}"
        self._inbox = streams.connection.new_inbox()
        self._subscription: Subscription | None = None
        self._consumer_missing = True
        self._request: asyncio.Task[QueueError | None] | None = None
        self._request_count = 0
        self._reply = ""  # the inbox of the last request
        self._end_status = ""  # what ended it
        self._buffer: deque[Msg] = deque()
        self._arrived = asyncio.Event()

    async def pull(self, count: int, wait_s: float) -> list[QueuedOrder]:
        """Up to `count` orders; see `OrderQueue.pull`."""
        deadline = time.monotonic() + wait_s
        if not self._buffer:
            await self._wait_connected(deadline)
        if not self._buffer and self._connection.is_connected:
            if self._consumer_missing:
                await self.streams.ensure_consumer()
                self._consumer_missing = False
            await self._run_request(count, None)
            while self._should_wait() and (left_s := deadline - time.monotonic()) > 0:
                # For one only: a waiting request for more would take what another worker has a free
                # slot for.
                await self._run_request(1, min(left_s, self._expires_s))
        taken = [self._buffer.popleft() for _ in range(min(count, len(self._buffer)))]
        return [QueuedOrder(message, self.streams) for message in taken]

    async def release(self) -> None:
        """Request no more, and put back what arrived and was not taken."""
        if self._request is not None:
            await finish_despite_cancel(self._request)
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with contextlib.suppress(nats.errors.Error):  # the connection is closed
                await subscription.unsubscribe()
        while self._buffer:
            await _send_ack(self._buffer.popleft(), b"-NAK")

    def _should_wait(self) -> bool:
        return not self._buffer and not self._consumer_missing and self._connection.is_connected

    async def _wait_connected(self, deadline: float) -> None:
        while not self._connection.is_connected and (left_s := deadline - time.monotonic()) > 0:
            if (reason := closed_reason(self._connection)) is not None:
                raise QueueError(f"the connection to NATS was closed: {reason}")
            await asyncio.sleep(min(left_s, _POLL_S))

    async def _on_message(self, message: Msg) -> None:
        if not message.subject.startswith(self._inbox):
            self._buffer.append(message)
        elif message.subject == self._reply:  # a status: it ends our request
            self._end_status = (message.headers or {}).get("Status", "none")
        self._arrived.set()

    async def _run_request(self, count: int, expires_s: float | None) -> None:
        """Make a request and wait for its end, or for that of one whose pull was cancelled."""
        if self._request is None or self._request.done():
            self._request = asyncio.create_task(self._request_orders(count, expires_s))
        if (error := await asyncio.shield(self._request)) is not None:
            raise error

    async def _request_orders(self, count: int, expires_s: float | None) -> QueueError | None:
        """Request orders, and wait until they are here, or the server has none, or it is time."""
        request: dict[str, Any] = {"batch": count, "no_wait": True}
        deadline = time.monotonic() + _REQUEST_TIMEOUT_S
        if expires_s is not None:
            request = {"batch": count, "expires": max(1, int(expires_s * 1e9))}
            deadline = time.monotonic() + expires_s + _POLL_S
        self._request_count += 1
        self._reply, self._end_status = f"{self._inbox}.{self._request_count}", ""
        reconnects = self._connection.stats["reconnects"]
        try:
            if self._subscription is None:
                self._subscription = await self._connection.subscribe(
                    f"{self._inbox}.*", cb=self._on_message
                )
            await self._connection.publish(
                self._subject, json.dumps(request).encode(), reply=self._reply
            )
        except nats.errors.Error as error:
            return QueueError(f"orders could not be requested: {error_text(error)}")
        while len(self._buffer) < count and not self._end_status:
            left_s = deadline - time.monotonic()
            was_lost = self._connection.stats["reconnects"] != reconnects
            if left_s <= 0 or was_lost or not self._connection.is_connected:
                break
            await self._wait_message(min(left_s, _POLL_S))
        if self._end_status in (_CONFLICT, _NO_RESPONDERS):
            self._consumer_missing = True
            if not self._buffer:  # not again at once: perhaps there is no leader yet
                await asyncio.sleep(_POLL_S)
        return None

    async def _wait_message(self, timeout_s: float) -> None:
        self._arrived.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._arrived.wait()
