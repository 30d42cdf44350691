"""Taking orders from the queue: `Puller` asks for messages, `QueuedOrder` is one that was taken.

Messages are pulled by hand rather than by the NATS client's ``fetch``: that one drops what it has
got when it is cancelled, and may leave a request behind that takes orders for nobody.
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

from everlytic_async._nats import said
from everlytic_async.errors import InvalidOrderError, QueueError
from everlytic_async.orders import Order
from everlytic_async.outcomes import Outcome
from everlytic_async.worker._messages import (
    Dead,
    QueueSettings,
    as_dead,
    as_order,
    own_key,
    resend_of,
)

__all__ = ["QueuedOrder"]

#: Stores a dead letter: its body and its headers.
Bury = Callable[[bytes, dict[str, str]], Awaitable[None]]
# A request that is to be answered at once is given up after so long, in seconds.
_ANSWER_S = 5.0
# How often who waits for an order looks whether the connection was lost meanwhile, in seconds.
_LOOK_S = 0.25
# A request waits at the server for so long at most, in seconds; then comes the next. It can't be
# called back: an order that the server sends just as nobody listens any more is delivered again
# only after ack_wait_s. So whoever ends waits for the end of the request.
_LINGER_S = 1.0
# What the server says when the consumer is gone or moved, and when nobody hears the request.
_CONFLICT = "409"
_NO_RESPONDERS = "503"


class QueuedOrder:
    """An order that was taken from the queue, to be acknowledged in one way or another.

    Attributes:
        order: The order; None where the message is none.
        error: Why it is no valid order; None where it is one.
        key: The key that its publisher gave, as a ledger keeps it; None for the order's own.
        sequence: Its place in the stream.
        deliveries: How often it has been given to a worker, this time included.
        resend: Of a redriven order, the outcome in the ledger that is to be passed over, and since
            when, in seconds since the epoch; else None.
    """

    __slots__ = (
        "_bury",
        "_message",
        "_settings",
        "deliveries",
        "error",
        "key",
        "order",
        "resend",
        "sequence",
        "stored_at",
    )

    def __init__(self, message: Msg, settings: QueueSettings, bury: Bury) -> None:
        self._message = message
        self._settings = settings
        self._bury = bury
        metadata = message.metadata
        self.sequence = metadata.sequence.stream
        self.deliveries = metadata.num_delivered
        self.stored_at = metadata.timestamp.timestamp()
        headers = message.headers or {}
        self.key = own_key(headers)
        self.resend = resend_of(headers)
        self.order: Order | None = None
        self.error: InvalidOrderError | None = None
        try:
            self.order = as_order(message.data, settings)
        except InvalidOrderError as error:
            self.error = error

    def __repr__(self) -> str:
        return f"<QueuedOrder {self.sequence}, delivery {self.deliveries}>"

    @property
    def redelivered(self) -> bool:
        """Whether it had been given to a worker before."""
        return self.deliveries > 1

    async def ack(self) -> None:
        """It is done with: let the queue forget it.

        Should this get lost on its way, it is delivered again.

        Raises:
            QueueError: the connection is closed, or has been lost for long.
        """
        await self._say(b"+ACK")

    async def nak(self, delay_s: float = 0.0) -> None:
        """Put it back, to be delivered again after so many seconds.

        Raises:
            QueueError: as of `ack`; it comes back by itself after the queue's ``ack_wait_s``.
        """
        said = b"-NAK"
        if delay_s > 0:
            said += b" " + json.dumps({"delay": int(delay_s * 1e9)}).encode()
        await self._say(said)

    async def in_progress(self) -> None:
        """It is being worked on: begin to count ``ack_wait_s`` anew.

        Raises:
            QueueError: as of `ack`.
        """
        await self._say(b"+WPI")

    async def dead(self, reason: str, outcome: Outcome, attempts: int) -> None:
        """Move it to the dead letters, and let the queue forget it once it is stored there.

        Args:
            reason: Why, in words.
            outcome: What is known of it.
            attempts: How many POSTs were begun for it.

        Raises:
            QueueError: it could not be stored there: it is still in the queue.
        """
        message = self._message
        why = Dead(
            outcome=outcome,
            reason=reason,
            attempts=attempts,
            sequence=self.sequence,
            deliveries=self.deliveries,
        )
        headers = as_dead(why, message.headers or {}, self.stored_at, self._settings)
        await self._bury(message.data, headers)
        await self.ack()

    async def _say(self, word: bytes) -> None:
        await say(self._message, word)


async def say(message: Msg, word: bytes) -> None:
    """Acknowledge a message in one way or another.

    Raises:
        QueueError: the connection is closed, or has been lost for long.
    """
    try:
        await message._client.publish(message.reply, word)  # noqa: SLF001 - as its own ack() does
    except nats.errors.Error as error:
        raise QueueError(f"an order could not be acknowledged: {said(error)}") from error


class Puller:
    """Asks the server for messages, no more than are wanted, over one connection.

    Attributes:
        lacks_consumer: Whether the server is to be asked for the consumer first, to make it.
    """

    def __init__(self, connection: Client, settings: QueueSettings) -> None:
        self._connection = connection
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{settings.orders_stream}.{settings.consumer}"
        self.lacks_consumer = True
        self._inbox = connection.new_inbox()
        self._subscription: Subscription | None = None
        self._asked = 0  # requests so far: the last part of the inbox of each
        self._ended: str | None = None  # the status that ended the last one
        # Those that are open at the server: how many orders may come by each, and until when.
        self._open: dict[int, tuple[int, float]] = {}
        self._arrived: deque[Msg] = deque()
        self._waiter: asyncio.Future[None] | None = None

    async def pull(self, count: int, wait_s: float) -> list[Msg]:
        """Up to so many messages; see `OrderQueue.pull`."""
        until = time.monotonic() + wait_s
        if not self._arrived:
            if not self._connection.is_connected:
                self._ended = None
                await self._wait(1, until, None)
                return self._take(count)
            if self._subscription is None:
                self._subscription = await self._connection.subscribe(
                    f"{self._inbox}.*", cb=self._on_arrival
                )
            await self._request(count, None, min(until, time.monotonic() + _ANSWER_S))
            while self._is_worth_waiting() and (left := until - time.monotonic()) > 0:
                # For one only: who waits would else be given what another has a free slot for.
                linger_s = min(left, _LINGER_S)
                await self._request(1, linger_s, time.monotonic() + linger_s + _LOOK_S)
        return self._take(count)

    async def release(self) -> None:
        """Ask for no more, and put back what had arrived and was not taken."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await self._wait_for_the_end()
            with contextlib.suppress(nats.errors.Error):  # the connection is closed
                await subscription.unsubscribe()
        for message in self._take(len(self._arrived)):
            await say(message, b"-NAK")

    def _is_worth_waiting(self) -> bool:
        return not self._arrived and not self.lacks_consumer and self._connection.is_connected

    async def _wait_for_the_end(self) -> None:
        """Wait until no request is open at the server, as far as is known."""
        while self._connection.is_connected and self._open:
            left = max(until for _, until in self._open.values()) - time.monotonic()
            if left <= 0:
                break
            await self._hear(min(left, _LOOK_S))
        self._open.clear()

    def _take(self, count: int) -> list[Msg]:
        return [self._arrived.popleft() for _ in range(min(count, len(self._arrived)))]

    async def _on_arrival(self, message: Msg) -> None:
        if not message.subject.startswith(self._inbox):
            self._arrived.append(message)
            for number, (count, until) in self._open.items():  # the oldest is served first
                self._open[number] = (count - 1, until)
                break
            self._open = {number: each for number, each in self._open.items() if each[0] > 0}
        else:
            # The server speaks of a request: it has ended.
            number = int(message.subject.rpartition(".")[2])
            self._open.pop(number, None)
            if number == self._asked:
                self._ended = (message.headers or {}).get("Status", "")
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _request(self, count: int, expires_s: float | None, until: float) -> None:
        """Ask, and wait until they are here, or the server has none, or it is time."""
        self._asked += 1
        self._ended = None
        asked: dict[str, Any] = {"batch": count}
        if expires_s is None:
            asked["no_wait"] = True
        else:
            asked["expires"] = max(1, int(expires_s * 1e9))
        reconnects = self._connection.stats["reconnects"]
        self._open[self._asked] = (count, until)
        try:
            await self._connection.publish(
                self._next, json.dumps(asked).encode(), reply=f"{self._inbox}.{self._asked}"
            )
        except nats.errors.Error as error:
            raise QueueError(f"no order could be asked for: {said(error)}") from error
        ended = await self._wait(count, until, reconnects)
        if ended in (_CONFLICT, _NO_RESPONDERS):
            self.lacks_consumer = True
            if not self._arrived:  # not again at once: there is perhaps no leader yet
                await asyncio.sleep(min(_LOOK_S, max(0.0, until - time.monotonic())))

    async def _wait(self, count: int, until: float, reconnects: int | None) -> str | None:
        """Wait for messages; where no request is under way for the connection, or its end.

        Returns:
            The status by which the server ended the request, where it did.
        """
        connection = self._connection
        while len(self._arrived) < count and self._ended is None:
            left = until - time.monotonic()
            if connection.is_closed:
                raise QueueError("the connection to NATS was closed")
            if left <= 0:
                break
            if connection.is_connected == (reconnects is None):
                break  # it is back; or it is lost, and the request with it
            if reconnects not in (None, connection.stats["reconnects"]):
                break
            await self._hear(min(left, _LOOK_S))
        return self._ended

    async def _hear(self, timeout_s: float) -> None:
        """Wait until the server says anything, but no longer than this."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait([self._waiter], timeout=timeout_s)
        finally:
            self._waiter = None
