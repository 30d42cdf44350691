"""An endpoint that can't be reached: for a while, for good, or that does nothing but fail.

The first two are real: a listener on loopback is closed, so that connections are refused, and
opened again. Ten seconds of the real policy are half a second here.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import attrs
import pytest

from everlytic_async import (
    BatchStoppedError,
    Delivery,
    EverlyticClient,
    NotSentError,
    OrderResult,
    Outcome,
    Pacing,
    RetryPolicy,
)
from everlytic_async.events import AttemptEnded, AttemptStarted, CoolDown, Event, OutageEnded
from support.delivery import CUSTOMER_HASH, ENDS, STORE_HASH, a_rig, order, orders
from support.servers import Connection, RawServer

HASHES = {"store_hash": STORE_HASH, "customer_hash": CUSTOMER_HASH}
SCALE = 1 / 20
OUTAGE_S = 10 * SCALE
POLICY = RetryPolicy(base_s=0.5 * SCALE, cap_s=30 * SCALE, deadline_s=120 * SCALE)
#: Gives up within a second.
SHORT = attrs.evolve(POLICY, deadline_s=20 * SCALE)
AT_ONCE = 16
PACING = Pacing(max_concurrency=AT_ONCE, adaptive=False)
#: What the retry budget pays for, where nothing is accepted: 500 tokens, 5 a retry.
RETRIES = 100


class Endpoint:
    """Accepts orders, goes down after so many of them, and comes back where it is told to.

    It goes down as a server does that is restarted: it refuses connections, and closes each that it
    has with the answer to the next order, so that none is lost on it.
    """

    def __init__(self, *, down_after: int, down_s: float | None) -> None:
        self._down_after = down_after
        self._down_s = down_s
        self._server: asyncio.Server | None = None
        self._handlers: set[asyncio.Task[None]] = set()
        self._coming_back: asyncio.Task[None] | None = None
        self._port = 0
        self.down = False
        self.processed: Counter[str] = Counter()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._coming_back is not None:
            await self._coming_back
        assert self._server is not None
        self._server.close()
        await asyncio.gather(*self._handlers)
        await self._server.wait_closed()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, backlog=256)
        self._port = self._server.sockets[0].getsockname()[1]

    def _go_down(self) -> None:
        assert self._server is not None
        self._server.close()
        self.down = True
        if self._down_s is not None:
            self._coming_back = asyncio.create_task(self._come_back(self._down_s))

    async def _come_back(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        self.down = False
        await self._listen()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers.add(handler)
        try:
            while not self.down:
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                received = json.loads(await reader.readexactly(int(length)))
                self.processed[received["order_id"]] += 1
                if self.processed.total() == self._down_after:
                    self._go_down()
                last = b"Connection: close\r\n" if self.down else b""
                writer.write(b"HTTP/1.1 200 OK\r\n%bContent-Length: 0\r\n\r\n" % last)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has left
        finally:
            self._handlers.discard(handler)
            writer.close()


class Reading:
    """Orders, and how many were read of them."""

    def __init__(self, count: int) -> None:
        self.read = 0
        self._count = count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for given in orders(self._count):
            self.read += 1
            yield given


def started(events: list[Event]) -> list[AttemptStarted]:
    return [event for event in events if isinstance(event, AttemptStarted)]


async def test_connections_refused_for_a_while_pause_everybody_and_cost_no_order() -> None:
    events: list[Event] = []
    async with (
        Endpoint(down_after=100, down_s=OUTAGE_S) as endpoint,
        EverlyticClient(
            f"http://{endpoint.host}", **HASHES, retry=POLICY, pacing=PACING, on_event=events.append
        ) as client,
    ):
        report = await client.send_orders(orders(400))

    assert report.counts[Outcome.SENT] == len(report.results) == 400
    assert endpoint.processed == Counter(str(number) for number in range(400))
    assert report.stopped is None
    # A connection that stood may yet be answered, which looks like the end of it: the last counts.
    ends = [at for at, event in enumerate(events) if isinstance(event, OutageEnded)]
    ended = events[ends[-1]]
    assert isinstance(ended, OutageEnded)
    assert ended.lasted_s > OUTAGE_S / 2

    after = [-1, *ends][-2] + 1
    paused = next(at for at in range(after, ends[-1]) if isinstance(events[at], CoolDown))
    during = events[paused : ends[-1]]
    # Until then those that had begun find out; from then on one at a time.
    probes = started(during)
    assert [probe.in_flight for probe in probes] == [1] * len(probes)
    assert 2 <= len(probes) <= 30
    began = ended_ = 0
    for event in during[during.index(probes[0]) :]:
        began += isinstance(event, AttemptStarted)
        ended_ += isinstance(event, AttemptEnded)
        assert ended_ <= began <= ended_ + 1
    # Five failures in a row are trouble; what was in flight then fails as well.
    assert len(started(events)) <= 400 + (5 + AT_ONCE) * len(ends) + len(probes)


@pytest.mark.parametrize("at_once", [1, 32])
@pytest.mark.parametrize("seed", range(5))
async def test_ten_seconds_of_outage_cost_no_order_with_the_policy_as_it_is_by_default(
    seed: int, at_once: int
) -> None:
    def endpoint(_body: bytes) -> Any:
        clock.now += 0.001
        down = began <= clock.now < began + 10
        return ENDS["unreachable" if down else "accepted"]()

    rig = a_rig(endpoint, seed=seed, pacing=Pacing(max_concurrency=at_once))
    clock = rig.clock
    began = clock.now + 0.1

    async def read() -> list[OrderResult]:
        async with rig.stream(orders(300), concurrency=at_once) as stream:
            return [result async for result in stream]

    results = await clock.run(read())
    assert clock.now > began + 10
    assert [result.outcome for result in results] == [Outcome.SENT] * 300
    assert len(rig.transport.bodies) < 300 + 32 + 20


async def test_an_outage_longer_than_the_policy_stops_the_batch_and_names_the_host() -> None:
    source = Reading(2_000)
    async with (
        Endpoint(down_after=100, down_s=None) as endpoint,
        EverlyticClient(f"http://{endpoint.host}", **HASHES, retry=SHORT, pacing=PACING) as client,
    ):
        with pytest.raises(BatchStoppedError) as caught:
            await client.send_orders(source)

    assert f"{endpoint.host} could not be reached" in caught.value.message
    report = caught.value.report
    assert report is not None
    assert report.stopped == caught.value.message
    assert len(report.results) == source.read <= endpoint.processed.total() + AT_ONCE
    counts = report.counts
    assert counts[Outcome.SENT] == endpoint.processed.total() >= 100
    assert counts[Outcome.SENT] + counts[Outcome.NOT_SENT] == source.read
    for result in report.failures:
        assert isinstance(result.error, NotSentError)
        assert "refused" in result.error.message


# ------------------------------------------------------------------------------ the retry budget

#: Would go on for ever, were it not for the budget.
ENDLESS = RetryPolicy(attempts=1_000_000, base_s=1e-4, cap_s=1e-3, deadline_s=1e6)


async def test_an_endpoint_that_is_gone_is_tried_no_more_often_than_the_budget_allows() -> None:
    events: list[Event] = []
    async with (
        Endpoint(down_after=1, down_s=None) as endpoint,
        EverlyticClient(
            f"http://{endpoint.host}",
            **HASHES,
            retry=ENDLESS,
            pacing=PACING,
            on_event=events.append,
        ) as client,
    ):
        with pytest.raises(BatchStoppedError, match="could not be reached"):
            await client.send_orders(orders(100_000))

    accepted = endpoint.processed.total()
    # Those that were in flight have an attempt each; nothing else is free.
    assert RETRIES < len(started(events)) - accepted <= AT_ONCE + RETRIES


@pytest.mark.parametrize(
    ("status", "delivery"),
    [(503, Delivery.AT_MOST_ONCE), (429, Delivery.AT_MOST_ONCE), (500, Delivery.AT_LEAST_ONCE)],
)
async def test_an_endpoint_that_only_fails_is_not_hammered(status: int, delivery: Delivery) -> None:
    async def fail(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.answer(status, b"")

    async with (
        RawServer(fail) as server,
        EverlyticClient(
            server.url, **HASHES, retry=ENDLESS, pacing=PACING, delivery=delivery
        ) as client,
    ):
        report = await client.send_orders(order(number) for number in range(150))

    assert len(report.results) == 150
    assert sum(result.attempts for result in report.results) == len(server.bodies) == 150 + RETRIES
