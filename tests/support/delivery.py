"""Orders to send, clients to send them with, and a sender whose endpoint is a script."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any, cast

import attrs

from everlytic_async import EverlyticClient, OrderResult
from everlytic_async._ledgers import StreamLedger
from everlytic_async._lifecycle import Lifecycle
from everlytic_async._pacer import Pacer
from everlytic_async._sender import Sender
from everlytic_async._stop_token import StopToken
from everlytic_async._transport import Response, Transport
from everlytic_async.batch import OrderStream
from everlytic_async.errors import (
    ConnectionLostError,
    EverlyticError,
    NotSentError,
    ResponseTimeoutError,
)
from everlytic_async.events import Dispatcher, Event
from everlytic_async.ledger import ResendPolicy
from everlytic_async.policies import Delivery, Pacing, RetryPolicy
from everlytic_async.sandbox import Sandbox
from support.clock import FakeClock

STORE_HASH = "6361437b-7adf-402c-b4b0-9e4a3a1e5d85"
CUSTOMER_HASH = "7URV2nrUrSHswsrE"

#: As the default policy, but with pauses that a test can wait for.
QUICK = RetryPolicy(base_s=0.002, cap_s=0.01)
#: The same, and never tired of it.
TENACIOUS = RetryPolicy(attempts=100, base_s=0.002, cap_s=0.01)


def order(number: int, **fields: Any) -> dict[str, Any]:
    """An order whose id is its number."""
    return {
        "contact_email": f"customer{number}@example.com",
        "order_id": str(number),
        "products": [{"product_name": "Mop", "product_price": 21}],
        **fields,
    }


def orders(count: int) -> Iterator[dict[str, Any]]:
    """So many orders, made when they are asked for."""
    return (order(number) for number in range(count))


async def streamed(source: Iterable[Any]) -> AsyncIterator[Any]:
    """The same as an async generator that waits before each of them."""
    for item in source:
        await asyncio.sleep(0)
        yield item


def client_of(sandbox: Sandbox, **settings: Any) -> EverlyticClient:
    """A client of a sandbox, quick to retry."""
    given: dict[str, Any] = {
        "store_hash": sandbox.store_hash,
        "customer_hash": sandbox.customer_hash,
        "retry": QUICK,
        **settings,
    }
    return EverlyticClient(sandbox.base_url, **given)


@asynccontextmanager
async def shop(
    sandbox: Sandbox | None = None, **settings: Any
) -> AsyncIterator[tuple[Sandbox, EverlyticClient]]:
    """A running sandbox and an open client of it."""
    sandbox = sandbox or Sandbox()
    async with sandbox, client_of(sandbox, **settings) as client:
        yield sandbox, client


def ids_of(received: Iterable[dict[str, Any]]) -> list[str]:
    """The order ids."""
    return [order["order_id"] for order in received]


# ------------------------------------------------------------------------ the endpoint as a script


def an_answer(status: int = 200, body: bytes = b'{"status":"success"}', **headers: str) -> Response:
    """An answer; ``Retry_After="5"`` is a header."""
    return Response(
        status, {name.replace("_", "-"): value for name, value in headers.items()}, body
    )


ENDS: dict[str, Callable[[], Response]] = {}


def _end(name: str) -> Callable[[Callable[[], Response]], Callable[[], Response]]:
    def register(end: Callable[[], Response]) -> Callable[[], Response]:
        ENDS[name] = end
        return end

    return register


_end("accepted")(an_answer)
_end("rejected")(lambda: an_answer(422, b'{"message":"no"}'))
_end("failed")(lambda: an_answer(500, b""))
_end("throttled")(lambda: an_answer(429, b""))
_end("late")(lambda: attrs.evolve(an_answer(503, b"", Retry_After="3"), waited_s=2.5))
_end("busy")(lambda: an_answer(503, b"", Retry_After="3"))


@_end("unreachable")
def _unreachable() -> Response:
    raise NotSentError("the order was not sent to shop.example: refused")


@_end("lost")
def _lost() -> Response:
    raise ConnectionLostError("the order was sent, but the connection broke")


@_end("silent")
def _silent() -> Response:
    raise ResponseTimeoutError("the order was sent, but nothing came back")


Endpoint = Callable[[bytes], Response | Awaitable[Response]]


class Anywhere(Lifecycle):
    """Open in every event loop."""

    def check_place(self) -> None:
        """It is."""


class ScriptedTransport:
    """Stands where `Transport` does; a function answers, at once or when it likes.

    Attributes:
        bodies: What was posted.
        times: When, by the clock.
        in_flight: Posts under way.
        peak_in_flight: The most there ever were.
    """

    host = "shop.example"
    session_closed = False

    def check_open(self) -> None:
        """It is open."""

    def __init__(self, endpoint: Endpoint, clock: FakeClock) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self.lifecycle = Anywhere()
        self.bodies: list[bytes] = []
        self.times: list[float] = []
        self.in_flight = 0
        self.peak_in_flight = 0

    async def post(
        self,
        body: bytes,
        cancelled: object = None,  # noqa: ARG002 - it is only asked of a real one
    ) -> Response:
        self.bodies.append(body)
        self.times.append(self._clock())
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            answer = self._endpoint(body)
            return answer if isinstance(answer, Response) else await answer
        finally:
            self.in_flight -= 1


def script(*ends: str | Response | EverlyticError) -> Endpoint:
    """One end after the other: a name of `ENDS`, an answer, or an error to raise."""
    left = iter(ends)

    def endpoint(_body: bytes) -> Response:
        end = next(left)
        if isinstance(end, str):
            return ENDS[end]()
        if isinstance(end, EverlyticError):
            raise end
        return end

    return endpoint


@attrs.define
class Rig:
    """All of the delivery but the network, by a clock that a test moves.

    Attributes:
        events: What was told.
    """

    transport: ScriptedTransport
    pacer: Pacer
    sender: Sender
    clock: FakeClock
    events: list[Event]

    async def send(self, given: Any = None) -> OrderResult:
        """Send one order to its end; the clock moves as it must."""
        given = order(1) if given is None else given
        return await self.clock.run(self.deliver(0, given, StopToken()))

    async def deliver(self, index: int, raw: Any, stop_token: StopToken) -> OrderResult:
        """Send one order; the clock is for the caller to move."""
        job = self.sender.prepare(index, raw, None)
        if isinstance(job, OrderResult):
            return job
        return await self.sender.deliver(job, stop_token)

    def stream(
        self,
        source: Any,
        *,
        concurrency: int = 4,
        ordered: bool = False,
        key: Any = None,
        stop_token: StopToken | None = None,
    ) -> OrderStream:
        """A stream of orders."""
        return OrderStream(
            source,
            sender=self.sender,
            stop_token=stop_token or StopToken(),
            concurrency=concurrency,
            ordered=ordered,
            key_of=key,
            ledger=StreamLedger(None, ResendPolicy(), lambda: self.pacer.accepted_any),
        )


def a_rig(
    endpoint: Endpoint,
    *,
    retry: RetryPolicy = RetryPolicy(),
    delivery: Delivery = Delivery.AT_MOST_ONCE,
    pacing: Pacing = Pacing(adaptive=False),
    seed: int = 0,
) -> Rig:
    """A rig around an endpoint."""
    clock = FakeClock()
    events: list[Event] = []
    dispatcher = Dispatcher((events.append,))
    transport = ScriptedTransport(endpoint, clock)
    pacer = Pacer(
        pacing,
        retry,
        dispatcher=dispatcher,
        clock=clock,
        call_later=clock.call_later,
        rng=random.Random(seed),
    )
    sender = Sender(cast("Transport", transport), pacer, delivery, retry, dispatcher, clock)
    return Rig(transport, pacer, sender, clock, events)
