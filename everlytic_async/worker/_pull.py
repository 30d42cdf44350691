"""Taking orders from the queue: `Puller` requests messages, `QueuedOrder` is one that arrived.

Not by the NATS client's ``fetch``: when cancelled, that one drops what has arrived, and may leave a
request behind that takes orders for nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from everlytic_async._nats import error_text
from everlytic_async.errors import InvalidOrderError, QueueError
from everlytic_async.orders import Order
from everlytic_async.outcomes import Outcome
from everlytic_async.worker._messages import (
    DeadLetterInfo,
    dead_letter_headers,
    decode_order,
    publisher_key,
    resend_override,
)
from everlytic_async.worker._settings import QueueSettings

__all__ = ["QueuedOrder"]

#: Stores a dead letter: its body and its headers.
StoreDeadLetter = Callable[[bytes, dict[str, str]], Awaitable[None]]
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
        order: The order; None if the message is not one.
        error: Why it is not a valid order; None if it is.
        key: The publisher's own key, as a ledger keeps it; None for the order's own.
        sequence: Its place in the stream.
        stored_at: When it was published, in seconds since the epoch.
        deliveries: How often it was delivered to a worker, this time included.
        resend: Of a redriven order, the recorded outcome that must not stop it, and when it was
            redriven, in seconds since the epoch; else None.
    """

    __slots__ = (
        "_message",
        "_settings",
        "_store_dead_letter",
        "deliveries",
        "error",
        "key",
        "order",
        "resend",
        "sequence",
        "stored_at",
    )

    def __init__(
        self, message: Msg, settings: QueueSettings, store_dead_letter: StoreDeadLetter
    ) -> None:
        self._message = message
        self._settings = settings
        self._store_dead_letter = store_dead_letter
        metadata = message.metadata
        self.sequence = metadata.sequence.stream
        self.deliveries = metadata.num_delivered
        self.stored_at = metadata.timestamp.timestamp()
        headers = message.headers or {}
        self.key = publisher_key(headers)
        self.resend = resend_override(headers)
        self.order: Order | None = None
        self.error: InvalidOrderError | None = None
        try:
            self.order = decode_order(message.data, settings)
        except InvalidOrderError as error:
            self.error = error

    def __repr__(self) -> str:
        return f"<QueuedOrder {self.sequence}, delivery {self.deliveries}>"

    @property
    def redelivered(self) -> bool:
        """Whether it was delivered to a worker before."""
        return self.deliveries > 1

    async def ack(self) -> None:
        """Remove it from the queue. If this is lost on its way, it is delivered again."""
        await send_ack(self._message, b"+ACK")

    async def nak(self, delay_s: float = 0.0) -> None:
        """Put it back, to be delivered again after a delay in seconds."""
        delay = json.dumps({"delay": int(delay_s * 1e9)}).encode() if delay_s > 0 else b""
        await send_ack(self._message, b"-NAK " + delay if delay else b"-NAK")

    async def in_progress(self) -> None:
        """Send a heartbeat: ``ack_wait_s`` starts again."""
        await send_ack(self._message, b"+WPI")

    async def to_dead_letter(self, reason: str, outcome: Outcome, attempts: int) -> None:
        """Move it to the dead letters: it leaves the queue once it is stored there.

        Args:
            reason: Why, in words.
            outcome: What is known of it.
            attempts: How many POSTs were started for it.

        Raises:
            QueueError: it could not be stored there: it is still in the queue.
        """
        info = DeadLetterInfo(
            outcome=outcome,
            reason=reason,
            attempts=attempts,
            sequence=self.sequence,
            deliveries=self.deliveries,
        )
        headers = self._message.headers or {}
        await self._store_dead_letter(
            self._message.data, dead_letter_headers(info, headers, self.stored_at, self._settings)
        )
        await self.ack()


async def send_ack(message: Msg, word: bytes) -> None:
    """Acknowledge a message in one way or another.

    Raises:
        QueueError: the connection is closed, or has been lost for long.
    """
    try:
        await message._client.publish(message.reply, word)  # noqa: SLF001 - as its own ack() does
    except nats.errors.Error as error:
        raise QueueError(f"an order could not be acknowledged: {error_text(error)}") from error


class Puller:
    """Requests messages from the server, no more than are wanted, over one connection.

    Args:
        connection: To NATS.
        settings: Those of the queue.
        expires_s: How long a request for one order waits at the server, in seconds.

    Attributes:
        consumer_missing: Whether the consumer has to be created first.
    """

    def __init__(self, connection: Client, settings: QueueSettings, expires_s: float) -> None:
        self.consumer_missing = True
        self._connection = connection
        self._expires_s = expires_s
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{settings.orders_stream}.{settings.consumer}"
        self._inbox = connection.new_inbox()
        self._subscription: Subscription | None = None
        self._request_id = 0  # the last part of the inbox of each request
        self._end_status: str | None = None  # what ended the last one
        # Requests that are open at the server: how many orders they may bring, and until when.
        self._open_requests: dict[int, tuple[int, float]] = {}
        self._buffer: deque[Msg] = deque()
        self._changed: asyncio.Future[None] | None = None

    async def pull(self, count: int, wait_s: float) -> list[Msg]:
        """Up to `count` messages; see `OrderQueue.pull`."""
        deadline = time.monotonic() + wait_s
        if not self._buffer:
            if not self._connection.is_connected:
                await self._wait_connected(deadline)
                return []
            if self._subscription is None:
                self._subscription = await self._connection.subscribe(
                    f"{self._inbox}.*", cb=self._on_message
                )
            await self._request(count, None, min(deadline, time.monotonic() + _REQUEST_TIMEOUT_S))
            while self._should_wait() and (left_s := deadline - time.monotonic()) > 0:
                # For one only: a waiting request for more would take what another worker has a free
                # slot for.
                expires_s = min(left_s, self._expires_s)
                await self._request(1, expires_s, time.monotonic() + expires_s + _POLL_S)
        return self._take(count)

    async def release(self) -> None:
        """Request no more, and put back what arrived and was not taken."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await self._wait_requests_done()
            with contextlib.suppress(nats.errors.Error):  # the connection is closed
                await subscription.unsubscribe()
        for message in self._take(len(self._buffer)):
            await send_ack(message, b"-NAK")

    def _should_wait(self) -> bool:
        return not self._buffer and not self.consumer_missing and self._connection.is_connected

    async def _wait_connected(self, deadline: float) -> None:
        while not self._connection.is_connected and (left_s := deadline - time.monotonic()) > 0:
            self._raise_if_closed()
            await asyncio.sleep(min(left_s, _POLL_S))

    async def _wait_requests_done(self) -> None:
        """Wait until no request is open at the server: what it sends after that goes to nobody."""
        while self._connection.is_connected and self._open_requests:
            left_s = max(end for _, end in self._open_requests.values()) - time.monotonic()
            if left_s <= 0:
                break
            await self._wait_event(min(left_s, _POLL_S))
        self._open_requests.clear()

    def _take(self, count: int) -> list[Msg]:
        return [self._buffer.popleft() for _ in range(min(count, len(self._buffer)))]

    async def _on_message(self, message: Msg) -> None:
        if not message.subject.startswith(self._inbox):
            self._buffer.append(message)
            self._count_down()
        else:  # a status: it ends one of our requests
            request_id = int(message.subject.rpartition(".")[2])
            self._open_requests.pop(request_id, None)
            if request_id == self._request_id:
                self._end_status = (message.headers or {}).get("Status", "")
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    def _count_down(self) -> None:
        """An order arrived for the oldest request, which is served first."""
        for request_id, (count, end) in self._open_requests.items():
            if count > 1:
                self._open_requests[request_id] = (count - 1, end)
            else:
                del self._open_requests[request_id]
            return

    async def _request(self, count: int, expires_s: float | None, deadline: float) -> None:
        """Request orders, and wait until they are here, or the server has none, or it is time."""
        self._request_id += 1
        self._end_status = None
        request: dict[str, Any] = {"batch": count}
        if expires_s is None:
            request["no_wait"] = True
        else:
            request["expires"] = max(1, int(expires_s * 1e9))
        reconnects = self._connection.stats["reconnects"]
        self._open_requests[self._request_id] = (count, deadline)
        try:
            await self._connection.publish(
                self._subject,
                json.dumps(request).encode(),
                reply=f"{self._inbox}.{self._request_id}",
            )
        except nats.errors.Error as error:
            raise QueueError(f"orders could not be requested: {error_text(error)}") from error
        status = await self._wait_answer(count, deadline, reconnects)
        if status in (_CONFLICT, _NO_RESPONDERS):
            self.consumer_missing = True
            if not self._buffer:  # not again at once: perhaps there is no leader yet
                await asyncio.sleep(min(_POLL_S, max(0.0, deadline - time.monotonic())))

    async def _wait_answer(self, count: int, deadline: float, reconnects: int) -> str | None:
        """Wait for so many messages; the status if the server ended the request before."""
        while len(self._buffer) < count and self._end_status is None:
            self._raise_if_closed()
            left_s = deadline - time.monotonic()
            was_lost = self._connection.stats["reconnects"] != reconnects
            if left_s <= 0 or was_lost or not self._connection.is_connected:
                break
            await self._wait_event(min(left_s, _POLL_S))
        return self._end_status

    def _raise_if_closed(self) -> None:
        if self._connection.is_closed:
            raise QueueError("the connection to NATS was closed")

    async def _wait_event(self, timeout_s: float) -> None:
        """Wait until a message arrives, but no longer than this."""
        self._changed = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait([self._changed], timeout=timeout_s)
        finally:
            self._changed = None
