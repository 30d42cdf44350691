"""The events of a delivery agree with the server, and name no customer."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter, defaultdict
from typing import Any

import pytest

from everlytic_async import Delivery, Outcome, Pacing
from everlytic_async._response import Response
from everlytic_async._waiting import StopToken
from everlytic_async.errors import ThrottledError
from everlytic_async.events import (
    AttemptEnded,
    AttemptStarted,
    BackingOff,
    BatchEnded,
    BatchStarted,
    CoolDown,
    Event,
    OrderEnded,
    RateChanged,
)
from everlytic_async.sandbox import Faults, Sandbox
from support.clock import settle
from support.delivery import MANY_RETRIES, order_ids, orders, sandbox_client
from support.fake_delivery import fake_delivery

FAULTS = Faults(
    seed=11,
    throttled=0.04,
    unavailable=0.03,
    server_error=0.04,
    dropped_before=0.03,
    dropped_after=0.03,
)


class Story:
    """All events of a run, by kind and by order."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def __getitem__(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if type(event) is kind]

    def by_order(self) -> dict[str, list[Any]]:
        """The events that name an order, by its name."""
        found: dict[str, list[Any]] = defaultdict(list)
        for event in self.events:
            if isinstance(event, AttemptStarted | AttemptEnded | BackingOff | OrderEnded):
                assert event.key is not None
                found[event.key].append(event)
        return found


def assert_consistent(chain: list[Any]) -> None:
    """The events of one order: a chain of attempts and pauses, and one end."""
    kinds = [type(event) for event in chain]
    attempts = kinds.count(AttemptStarted)
    one = [AttemptStarted, AttemptEnded]
    pausing = [*one, BackingOff]
    # The last attempt is not followed by another, unless the pause was cut short.
    assert kinds in (
        [*pausing * (attempts - 1), *one, OrderEnded],
        [*pausing * attempts, OrderEnded],
    )
    numbers = [event.attempt for event in chain if not isinstance(event, OrderEnded)]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(1, attempts + 1))
    end = chain[-1]
    assert end.attempts == attempts
    moments = [event.at for event in chain]
    assert moments == sorted(moments)
    last = [event for event in chain if isinstance(event, AttemptEnded)][-1]
    assert (end.error is None) == (end.outcome is Outcome.SENT)
    if end.outcome is Outcome.SENT:
        assert last.outcome is Outcome.SENT
        assert last.error is None
    for event, following in itertools.pairwise(chain):
        if isinstance(event, BackingOff):
            assert event.error is not None
        if isinstance(event, BackingOff) and isinstance(following, AttemptStarted):
            # It waited as long as announced, apart from rounding.
            assert following.at - event.at >= event.wait_s - 0.001
        if isinstance(event, AttemptEnded) and isinstance(following, BackingOff):
            assert event.error is following.error


@pytest.mark.parametrize("delivery", list(Delivery))
async def test_the_events_of_a_batch_agree_with_the_server_and_the_results(
    delivery: Delivery,
) -> None:
    story = Story()
    pacing = Pacing(max_concurrency=8, adaptive=False)
    settings = {"on_event": story, "delivery": delivery, "pacing": pacing}
    async with sandbox_client(Sandbox(faults=FAULTS), **settings) as (sandbox, client):
        report = await client.send_orders([*orders(120), {"order_id": "bad"}])

    assert len(story[AttemptStarted]) == len(story[AttemptEnded]) == sandbox.requests
    assert sandbox.requests > 120
    statuses = Counter(event.status for event in story[AttemptEnded])
    assert statuses.pop(None) == sandbox.dropped > 0
    assert statuses == sandbox.statuses
    assert set(statuses) == {200, 429, 503, 500}

    found = story.by_order()
    assert [type(event) for event in found.pop("bad")] == [OrderEnded]
    assert set(found) == {str(number) for number in range(120)}
    for chain in found.values():
        assert_consistent(chain)
    results = {result.key: result for result in report.results}
    for end in story[OrderEnded]:
        result = results[end.key]
        assert (end.outcome, end.attempts, end.error, end.duplicate_risk, end.elapsed_s) == (
            result.outcome,
            result.attempts,
            result.error,
            result.duplicate_risk,
            result.elapsed_s,
        )
    assert all(1 <= event.in_flight <= 8 for event in story[AttemptStarted])

    first, *_, last = story.events
    assert isinstance(first, BatchStarted)
    assert isinstance(last, BatchEnded)
    assert (last.counts, last.stopped) == (report.counts, None)
    assert last.counts[Outcome.INVALID] == 1
    assert 0 < last.elapsed_s == last.at - first.at

    processed = set(order_ids(sandbox.received))
    for result in report.results:
        if result.outcome in (Outcome.SENT, Outcome.NOT_SENT):
            assert (result.key in processed) is (result.outcome is Outcome.SENT)
    at_risk = {result.key for result in report.results if result.duplicate_risk}
    assert set(sandbox.duplicates) <= at_risk
    assert bool(sandbox.duplicates) is (delivery is Delivery.AT_LEAST_ONCE)
    lost = delivery is Delivery.AT_MOST_ONCE
    assert (report.counts[Outcome.UNKNOWN] > 0) is lost


async def test_a_throttle_is_emitted_before_its_attempt_and_the_rate_after_it() -> None:
    story = Story()
    async with sandbox_client(
        Sandbox(faults=Faults(rate=500, burst=10)), on_event=story, retry=MANY_RETRIES
    ) as (sandbox, client):
        report = await client.send_orders(orders(150))

    assert report.counts[Outcome.SENT] == 150
    throttled = [event for event in story[AttemptEnded] if isinstance(event.error, ThrottledError)]
    assert len(throttled) == sandbox.statuses[429]
    cool_downs = story[CoolDown]
    # One for each burst of refusals, however many were in flight.
    assert 1 <= len(cool_downs) <= len(throttled)
    assert {event.status for event in cool_downs} == {429}
    first = story.events.index(cool_downs[0])
    assert not any(
        isinstance(event, AttemptEnded) and event.status == 429 for event in story.events[:first]
    )
    assert not any(isinstance(event, RateChanged) for event in story.events[:first])
    # After each the rate is estimated again, unless the batch was over by then.
    assert len(cool_downs) - 1 <= len(story[RateChanged]) <= len(cool_downs)
    for number, event in enumerate(story[RateChanged]):
        if event.rate is None:
            # Under load, later refusals may look like those of a limit on orders in flight.
            assert number > 0
            assert event.limit is None
        else:
            assert event.rate > 0


async def test_without_a_listener_no_event_of_an_order_is_made(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made: set[str] = set()
    for kind in (AttemptStarted, AttemptEnded, BackingOff, OrderEnded):
        init = kind.__init__

        def note(self: Event, init: Any = init, **fields: Any) -> None:
            made.add(type(self).__name__)
            init(self, **fields)

        monkeypatch.setattr(kind, "__init__", note)
    faults = Faults(seed=1, throttled=0.1)
    with caplog.at_level(logging.INFO, logger="everlytic_async"):
        async with sandbox_client(Sandbox(faults=faults)) as (sandbox, client):
            await client.send_orders(orders(30))
    assert sandbox.statuses[429]
    assert not made

    async with sandbox_client(Sandbox(faults=faults), on_event=lambda _: None) as (_, client):
        await client.send_orders(orders(30))
    assert made == {"AttemptStarted", "AttemptEnded", "BackingOff", "OrderEnded"}


@pytest.mark.parametrize("is_batch", [True, False])
async def test_a_cancelled_order_ends_once_and_so_does_its_attempt(*, is_batch: bool) -> None:
    def never(_body: bytes) -> asyncio.Future[Response]:
        return asyncio.get_running_loop().create_future()

    fake = fake_delivery(never)
    if is_batch:
        async with fake.stream(orders(2), grace_s=0):
            await settle()
    else:
        calls = [asyncio.create_task(fake.sender.send(each, StopToken())) for each in orders(2)]
        await settle()
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    ends = [event for event in fake.events if isinstance(event, AttemptEnded | OrderEnded)]
    assert [(type(event), event.outcome) for event in sorted(ends, key=lambda each: each.key)] == [
        (AttemptEnded, Outcome.UNKNOWN),
        (OrderEnded, Outcome.UNKNOWN),
    ] * 2
