"""An endpoint in trouble: it can't be reached, or answers with failures, for a while or for ever.

What is counted is counted at the endpoint: requests, and the orders that each failure cost.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from typing import Any

import pytest

from everlytic_async import (
    BatchStoppedError,
    Delivery,
    EverlyticError,
    InvalidOrderError,
    NotSentError,
    Order,
    Outcome,
    Pacing,
    RetryPolicy,
    ThrottledError,
    UnknownOutcomeError,
)
from everlytic_async._response import Response
from everlytic_async.events import AttemptEnded, AttemptStarted, CoolDown, Event, OutageEnded
from support.delivery import FAST_RETRY, make_client, order, orders, streamed
from support.fake_delivery import Reading, always, end_with, fake_delivery, make_response
from support.servers import Connection, RawServer, answer_all, never_answer

ADAPTIVE = Pacing(max_concurrency=32)
FAILURES = {
    "failed": "500",
    "lost": "broke",
    "silent": "nothing came back",
    "unreachable": "refused",
}

# ----------------------------------------------------------------------------------- for a while


@pytest.mark.parametrize("concurrency", [1, 32])
@pytest.mark.parametrize("end", FAILURES)
async def test_trouble_for_a_while_costs_what_was_in_flight_and_the_probes(
    end: str, concurrency: int
) -> None:
    async def endpoint(_body: bytes) -> Response:
        failing = down_from <= fake.clock.now < down_from + 10
        await fake.clock.sleep(0.01)
        return end_with(end if failing else "accepted")

    fake = fake_delivery(endpoint, pacing=Pacing(max_concurrency=concurrency))
    down_from = fake.clock.now + 0.05
    reading = await fake.read(orders(600), concurrency=concurrency)

    counts = Counter(reading.outcomes)
    assert counts[Outcome.SENT] + counts[Outcome.UNKNOWN] == 600
    assert counts[Outcome.UNKNOWN] <= (0 if end == "unreachable" else 60)
    assert down_from + 10 < fake.clock.now < down_from + 60
    assert len(fake.transport.bodies) < 600 + 2 * 32 + 20


async def test_a_throttle_neither_counts_as_trouble_nor_ends_it() -> None:
    ends = iter(["failed", "throttled"] * 4 + ["failed"] * 2 + ["accepted"] * 100)
    pacing = Pacing(max_concurrency=1, adaptive=False)
    fake = fake_delivery(lambda _body: end_with(next(ends)), pacing=pacing)
    probing: list[bool] = []

    def note(_event: Event) -> None:
        probing.append(fake.pacer.trouble.probing)

    with fake.sender.dispatcher.subscribe(note, AttemptStarted):
        reading = await fake.read(orders(50), concurrency=1)

    assert Counter(reading.outcomes) == {Outcome.SENT: 44, Outcome.UNKNOWN: 6}
    # The fifth failure is trouble, with or without throttles in between; then it is over.
    assert probing.index(True) == 9
    assert probing[-1] is False


# ------------------------------------------------------------------------------------ for ever


@pytest.mark.parametrize("delivery", Delivery)
@pytest.mark.parametrize("reached", [True, False])
@pytest.mark.parametrize("end", FAILURES)
async def test_trouble_for_ever_stops_the_batch_after_a_bounded_number_of_posts(
    end: str, reached: bool, delivery: Delivery
) -> None:
    """The default policy: 120 s of probing, or 5 probes if the endpoint never answered."""

    def endpoint(_body: bytes) -> Response:
        first = len(fake.transport.bodies) == 1
        return end_with("accepted" if reached and first else end)

    fake = fake_delivery(endpoint, pacing=ADAPTIVE, delivery=delivery)
    mappings = (order(number, workflow_id=32) for number in range(20_000))
    source = map(Order.from_mapping, mappings) if reached else mappings
    reading = await fake.read(source, concurrency=32)

    assert isinstance(reading.error, BatchStoppedError)
    assert len(fake.transport.bodies) <= 200
    assert len(reading.results) <= 200 + 2 * 32  # the input is not used up
    lasted_s = fake.clock.now - 1_000
    assert 100 < lasted_s < 250 if reached else lasted_s < 60
    for words in ("shop.example", "workflow 32", FAILURES[end]):
        assert words in reading.error.message
    assert "send again only the orders whose result is not_sent" in reading.error.message


@pytest.mark.parametrize("reached", [True, False])
@pytest.mark.parametrize("deadline_s", [3, 120])
@pytest.mark.parametrize("retry_after_s", [None, 100, 300])
async def test_pauses_longer_than_the_deadline_do_not_make_the_trouble_forgotten(
    retry_after_s: int | None, deadline_s: float, reached: bool
) -> None:
    """The pauses are our own: backoff up to 30 s, and what a late 503 asks for, up to 120 s."""
    headers = {} if retry_after_s is None else {"Retry_After": f"{retry_after_s}"}
    late = make_response(503, b'"Try later."', waited_s=2.5, **headers)

    def endpoint(_body: bytes) -> Response:
        return end_with("accepted" if reached and len(fake.transport.bodies) <= 100 else late)

    fake = fake_delivery(endpoint, retry=RetryPolicy(deadline_s=deadline_s), pacing=ADAPTIVE)
    reading = await fake.read(orders(5_000), concurrency=8)

    assert isinstance(reading.error, BatchStoppedError)
    assert "503" in reading.error.message
    assert re.search(r"Try later( \(workflow 1\))?\. [A-Z]", reading.error.message)  # one full stop
    assert len(fake.transport.bodies) <= 100 * reached + 60
    assert fake.clock.now - 1_000 < 1_000


async def test_attempts_that_take_longer_than_the_deadline_are_one_run_of_trouble() -> None:
    async def endpoint(_body: bytes) -> Response:
        await fake.clock.sleep(2)
        return end_with("silent")

    fake = fake_delivery(endpoint, retry=RetryPolicy(deadline_s=1.5), pacing=ADAPTIVE)
    reading = await fake.read(orders(64), concurrency=8)
    assert isinstance(reading.error, BatchStoppedError)
    assert len(fake.transport.bodies) <= 8 + 8 + 5


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("retry_after", [None, "0"])
async def test_an_endpoint_that_throttles_everything_gets_fewer_and_fewer_orders(
    retry_after: str | None, status: int
) -> None:
    headers = {} if retry_after is None else {"Retry_After": retry_after}

    async def endpoint(_body: bytes) -> Response:
        await fake.clock.sleep(0.01)
        return make_response(status, b"", **headers)

    fake = fake_delivery(endpoint, pacing=Pacing())
    reading = Reading(fake.stream(orders(5_000), concurrency=32))
    await fake.clock.advance(120)
    await reading.cancel()

    assert len(fake.transport.bodies) <= 200
    assert set(reading.outcomes) <= {Outcome.NOT_SENT}


@pytest.mark.parametrize(
    ("end", "delivery"),
    [
        ("busy", Delivery.AT_MOST_ONCE),
        ("throttled", Delivery.AT_MOST_ONCE),
        ("failed", Delivery.AT_LEAST_ONCE),
        ("unreachable", Delivery.AT_MOST_ONCE),
    ],
)
async def test_without_other_bounds_the_retry_budget_ends_the_retries(
    end: str, delivery: Delivery
) -> None:
    endless = RetryPolicy(attempts=1_000_000, base_s=1e-4, cap_s=1e-3, deadline_s=1e6)
    fake = fake_delivery(always(end), retry=endless, delivery=delivery)
    reading = await fake.read(orders(150), concurrency=16)

    posts = sum(result.attempts for result in reading.results)
    assert posts == len(fake.transport.bodies)
    if end == "unreachable":  # the orders in flight have an attempt each, and nothing else is free
        assert 100 < posts <= 16 + 100
    else:
        assert posts == 150 + 100


# --------------------------------------------------------------------- connections that are refused

SCALE = 1 / 20
OUTAGE_S = 10 * SCALE
#: The default policy, scaled.
POLICY = RetryPolicy(base_s=0.5 * SCALE, cap_s=30 * SCALE, deadline_s=120 * SCALE)
SLOTS = 16


async def test_refused_connections_pause_everybody_and_cost_no_order(closed_port: int) -> None:
    is_down = False
    coming_back: list[asyncio.Task[None]] = []

    async def come_back() -> None:
        nonlocal is_down
        await asyncio.sleep(OUTAGE_S)
        is_down = False
        await server.listen()

    # It goes down like a server that is restarted: it refuses connections, and closes each that it
    # has with the answer to the next order, so that none is lost.
    async def serve(connection: Connection) -> None:
        nonlocal is_down
        while not is_down:
            await connection.request()
            if len(server.bodies) == 100:
                is_down = True
                server.refuse()
                coming_back.append(asyncio.create_task(come_back()))
            await connection.answer(200, b"", *["Connection: close"] * is_down)

    events: list[Event] = []
    pacing = Pacing(max_concurrency=SLOTS, adaptive=False)
    async with (
        RawServer(serve, host="127.0.0.1", port=closed_port) as server,
        make_client(server.url, retry=POLICY, pacing=pacing, on_event=events.append) as client,
    ):
        report = await client.send_orders(orders(400))

    assert report.counts[Outcome.SENT] == len(report.results) == 400
    assert coming_back[0].done()
    sent = Counter(json.loads(body)["order_id"] for body in server.bodies)
    assert sent == Counter(str(number) for number in range(400))
    # A connection from before may yet be answered, which looks like the end: the last one counts.
    ends = [place for place, event in enumerate(events) if isinstance(event, OutageEnded)]
    ended = events[ends[-1]]
    assert isinstance(ended, OutageEnded)
    assert ended.lasted_s > OUTAGE_S / 2

    after = [-1, *ends][-2] + 1
    paused = next(at for at in range(after, ends[-1]) if isinstance(events[at], CoolDown))
    # It starts with the first attempt that failed, some time before the first pause.
    assert ended.at - ended.lasted_s <= events[paused].at < ended.at
    during = events[paused : ends[-1]]
    assert {event.status for event in during if isinstance(event, CoolDown)} == {None}
    failed = [event for event in events if isinstance(event, AttemptEnded) and event.error]
    assert all(isinstance(event.error, NotSentError) for event in failed)
    probes = [event for event in during if isinstance(event, AttemptStarted)]
    assert [probe.in_flight for probe in probes] == [1] * len(probes)
    assert 2 <= len(probes) <= 30
    in_flight = 0
    for event in during[during.index(probes[0]) :]:
        in_flight += isinstance(event, AttemptStarted) - isinstance(event, AttemptEnded)
        assert 0 <= in_flight <= 1
    # Five failures in a row are trouble; what was in flight then fails as well.
    started = sum(isinstance(event, AttemptStarted) for event in events)
    assert started <= 400 + (5 + SLOTS) * len(ends) + len(probes)


# ---------------------------------------------------------------------------------- one order


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        ("hang", UnknownOutcomeError),
        ("429", ThrottledError),
        ("refused", NotSentError),
        ("turn", NotSentError),
    ],
)
async def test_a_deadline_ends_the_call_with_what_is_known(
    ending: str, expected: type[EverlyticError], closed_port: int
) -> None:
    script = never_answer if ending == "hang" else answer_all(429, b"", "Retry-After: 60")
    pacing = Pacing(max_rate=0.01) if ending == "turn" else Pacing()
    async with RawServer(script) as server:
        url = f"http://127.0.0.1:{closed_port}" if ending == "refused" else server.url
        async with make_client(url, pacing=pacing, retry=FAST_RETRY) as client:
            if ending == "turn":
                with pytest.raises(ThrottledError):
                    await client.send_order(order(0), deadline_s=0.05)
            with pytest.raises(expected) as caught:
                await asyncio.wait_for(client.send_order(order(1), deadline_s=0.1), 30)
    assert isinstance(caught.value, EverlyticError)
    assert caught.value.may_have_been_processed is (ending == "hang")


# ------------------------------------------------------------------------------------------- quotas


async def test_a_used_up_quota_stops_the_batch_with_the_figure() -> None:
    async def limit(connection: Connection) -> None:
        while True:
            await connection.request()
            if len(connection.server.bodies) <= 300:
                await connection.answer()
            else:
                await connection.answer(429, b"", "Retry-After: 3600")

    async with RawServer(limit) as server, make_client(server.url) as client:
        assert client.trouble is None
        with pytest.raises(BatchStoppedError, match="3600") as caught:
            await client.send_orders(orders(20_000))
        assert len(server.bodies) <= 300 + 32
        report = caught.value.report
        assert report is not None
        assert report.counts[Outcome.SENT] == 300
        assert report.counts[Outcome.NOT_SENT] == len(report.results) - 300
        with pytest.raises(NotSentError, match="3600"):  # at once
            await asyncio.wait_for(client.send_order(order(1)), 60)
        assert "3600 s: a quota is used up" in str(client.trouble)


@pytest.mark.parametrize("item", [InvalidOrderError(["line: broken"]), None, 7, {"products": 1}])
async def test_an_invalid_order_after_a_stop_rule_has_fired_changes_nothing(item: Any) -> None:
    items = [order(1), *[item] * 20, order(2)]
    async with (
        RawServer(answer_all(429, b"", "Retry-After: 3600")) as server,
        make_client(server.url) as client,
    ):
        with pytest.raises(BatchStoppedError, match="3600"):
            await client.send_orders(streamed(items))
        # It needed no attempt, so it stops no other batch.
        report = await client.send_orders([item])
    assert report.counts[Outcome.INVALID] == 1
