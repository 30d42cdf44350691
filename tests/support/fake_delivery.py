"""All of the delivery but the network: a function is the endpoint, and the test moves the clock."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from typing import Any, cast

import attrs

from everlytic_async import (
    BatchStoppedError,
    ConnectionLostError,
    EverlyticError,
    NotSentError,
    OrderResult,
    OrderStream,
    Outcome,
    ResponseTimeoutError,
    SourceError,
)
from everlytic_async._ledgers import OpenLedger
from everlytic_async._pacer import Pacer
from everlytic_async._response import Response
from everlytic_async._sender import Sender
from everlytic_async._transport import Lifecycle, Transport
from everlytic_async._waiting import StopToken
from everlytic_async.events import Dispatcher, Event
from everlytic_async.ledger import ResendPolicy
from everlytic_async.policies import Delivery, Pacing, RetryPolicy
from support.clock import FakeClock, settle
from support.delivery import order

#: Returns a response or raises, at once or later.
Endpoint = Callable[[bytes], Response | Awaitable[Response]]


def make_response(
    status: int = 200, body: bytes = b'{"status":"success"}', *, waited_s: float = 0, **headers: str
) -> Response:
    """A response; ``Retry_After="5"`` is a header."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return attrs.evolve(Response(status, named, body), waited_s=waited_s)


#: How an attempt may end, by name: a response, or an error that is raised.
ENDS: dict[str, Response | EverlyticError] = {
    "accepted": make_response(),
    "rejected": make_response(422, b'{"message":"no"}'),
    "failed": make_response(500, b""),
    "late": make_response(503, b"", Retry_After="3", waited_s=2.5),
    "throttled": make_response(429, b""),
    "busy": make_response(503, b"", Retry_After="3"),
    "unreachable": NotSentError("the order was not sent to shop.example: refused"),
    "lost": ConnectionLostError("the order was sent, but the connection broke"),
    "silent": ResponseTimeoutError("the order was sent, but nothing came back"),
}
#: Surely not processed; perhaps processed.
SAFE = ("throttled", "busy", "unreachable")
AMBIGUOUS = ("failed", "late", "lost", "silent")


def end_with(end: str | Response) -> Response:
    """The response of that name; or raise the error of that name."""
    found = ENDS[end] if isinstance(end, str) else end
    if isinstance(found, EverlyticError):
        raise type(found)(found.message)
    return found


def always(end: str | Response) -> Endpoint:
    """An endpoint at which every attempt ends like this."""
    return lambda _body: end_with(end)


def script(*ends: str | Response) -> Endpoint:
    """An endpoint at which attempts end like these, one after the other."""
    remaining = iter(ends)
    return lambda _body: end_with(next(remaining))


def never(_body: bytes) -> Any:
    """An endpoint that does not answer."""
    return asyncio.get_running_loop().create_future()


class Gate:
    """An endpoint that answers an order when the test says so."""

    def __init__(self) -> None:
        self.waiting: dict[str, asyncio.Future[Any]] = {}

    def __call__(self, body: bytes) -> Any:
        waiter = asyncio.get_running_loop().create_future()
        self.waiting[json.loads(body)["order_id"]] = waiter
        return waiter

    async def answer(self, number: int, end: str = "accepted") -> None:
        """Answer an order, and let everything follow from it."""
        waiter = self.waiting.pop(str(number))
        try:
            waiter.set_result(end_with(end))
        except EverlyticError as error:
            waiter.set_exception(error)
        await settle()


class _OpenEverywhere(Lifecycle):
    def check_same_loop(self) -> None:
        pass


class FakeTransport:
    """Stands in for `Transport`.

    Attributes:
        bodies: What was posted.
        times: When, by the clock.
        in_flight: How many posts there are at present.
        peak_in_flight: The most there ever were.
    """

    host = "shop.example"
    session_closed = False

    def __init__(self, endpoint: Endpoint, clock: FakeClock) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self.lifecycle = _OpenEverywhere()
        self.bodies: list[bytes] = []
        self.times: list[float] = []
        self.in_flight = 0
        self.peak_in_flight = 0

    def check_open(self) -> None:
        pass

    async def post(self, body: bytes, report_cancelled: object = None) -> Response:  # noqa: ARG002
        self.bodies.append(body)
        self.times.append(self._clock())
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            answer = self._endpoint(body)
            return answer if isinstance(answer, Response) else await answer
        finally:
            self.in_flight -= 1


@attrs.define
class FakeDelivery:
    """A sender and its parts.

    Attributes:
        events: What was emitted.
    """

    transport: FakeTransport
    pacer: Pacer
    sender: Sender
    clock: FakeClock
    events: list[Event]

    async def send(self, raw: Any = None) -> OrderResult:
        """Send one order; the clock moves when everything waits for it."""
        return await self.clock.run(self.deliver(0, order(1) if raw is None else raw, StopToken()))

    async def deliver(self, index: int, raw: Any, stop_token: StopToken) -> OrderResult:
        """Send one order; the test moves the clock."""
        return await self.sender.deliver(self.sender.prepare(index, raw, None), stop_token)

    def stream(
        self, source: Any, *, concurrency: int = 4, ordered: bool = False, grace_s: float = 0.02
    ) -> OrderStream:
        """A stream of orders."""
        return OrderStream(
            source,
            sender=self.sender,
            stop_token=StopToken(),
            concurrency=concurrency,
            ordered=ordered,
            key_of=None,
            ledger=OpenLedger(None, self.sender),
            policy=ResendPolicy(),
            grace_s=grace_s,
        )

    async def read(self, source: Any, **options: Any) -> Reading:
        """Stream orders to the end; the clock moves when everything waits for it."""

        async def to_the_end() -> Reading:
            reading = Reading(self.stream(source, **options))
            try:
                await reading.task
            finally:
                await reading.cancel()
            return reading

        return await self.clock.run(to_the_end())

    def check_idle(self) -> None:
        """Nothing is in flight, and nobody waits for a slot."""
        assert self.pacer.in_flight == self.transport.in_flight == 0
        if self.pacer.try_acquire() is not None:
            self.pacer.release()
        else:  # for the pause, and not for a sender that waits
            assert self.pacer.next_start_at() > self.clock()


class Reading:
    """A task that reads a stream: its results, and the error that ended it."""

    def __init__(self, stream: OrderStream) -> None:
        self.results: list[OrderResult] = []
        self.error: BatchStoppedError | SourceError | None = None
        self._stream = stream
        self.task = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        async with self._stream as stream:
            try:
                async for result in stream:
                    self.results.append(result)
            except (BatchStoppedError, SourceError) as error:
                self.error = error

    async def cancel(self) -> None:
        """Cancel it if it is not done."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    @property
    def outcomes(self) -> list[Outcome]:
        return [result.outcome for result in self.results]

    @property
    def indexes(self) -> list[int]:
        return [result.index for result in self.results]


def fake_delivery(
    endpoint: Endpoint,
    *,
    retry: RetryPolicy = RetryPolicy(),
    delivery: Delivery = Delivery.AT_MOST_ONCE,
    pacing: Pacing = Pacing(adaptive=False),
    seed: int = 0,
) -> FakeDelivery:
    """A delivery to this endpoint."""
    clock = FakeClock()
    events: list[Event] = []
    dispatcher = Dispatcher((events.append,))
    transport = FakeTransport(endpoint, clock)
    pacer = make_pacer(clock, pacing, retry=retry, dispatcher=dispatcher, seed=seed)
    sender = Sender(cast("Transport", transport), pacer, delivery, dispatcher)
    return FakeDelivery(transport, pacer, sender, clock, events)


def make_pacer(
    clock: FakeClock,
    pacing: Pacing = Pacing(adaptive=False),
    *,
    retry: RetryPolicy = RetryPolicy(),
    dispatcher: Dispatcher | None = None,
    seed: int = 0,
) -> Pacer:
    """A pacer by a fake clock."""
    return Pacer(
        pacing,
        retry,
        dispatcher=dispatcher,
        clock=clock,
        call_later=clock.call_later,
        rng=random.Random(seed),
    )
