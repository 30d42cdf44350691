"""`EverlyticClient.pause`: nobody sends for a while, because of what is known from elsewhere."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from everlytic_async import EverlyticClient, Pacing, RetryPolicy
from everlytic_async._pacer import Pacer
from everlytic_async._stop_token import StopToken
from everlytic_async.events import CoolDown, Dispatcher, Event
from support.clock import FakeClock
from support.delivery import CUSTOMER_HASH, STORE_HASH


def a_pacer(clock: FakeClock, events: list[Event], **pacing: Any) -> Pacer:
    return Pacer(
        Pacing(**pacing),
        RetryPolicy(retry_after_cap_s=100),
        dispatcher=Dispatcher((events.append,)),
        clock=clock,
        call_later=clock.call_later,
        rng=random.Random(1),
    )


@pytest.mark.parametrize("adaptive", [False, True])
async def test_no_attempt_starts_until_the_longest_pause_is_over(*, adaptive: bool) -> None:
    clock, events = FakeClock(), list[Event]()
    pacer = a_pacer(clock, events, adaptive=adaptive)
    rate, started_at = pacer.rate(), clock.now
    pacer.pause(10.0, "long")
    pacer.pause(5.0, "short")
    assert pacer.try_acquire() is None
    admitted_at = await clock.run(pacer.acquire(StopToken()))
    assert 10.0 <= admitted_at - started_at <= 10.2
    [event] = events
    assert isinstance(event, CoolDown)
    assert (event.status, event.reason) == (None, "long")
    assert event.wait_s == pytest.approx(10, rel=0.02)
    assert pacer.rate() == rate  # a pause says nothing about the limit


async def test_senders_that_wait_already_wait_for_the_pause_too() -> None:
    clock = FakeClock()
    pacer = a_pacer(clock, [], max_concurrency=1, adaptive=False)
    await pacer.acquire(StopToken())
    waiting = asyncio.ensure_future(pacer.acquire(StopToken()))
    await clock.advance(0)
    started_at = clock.now
    pacer.pause(10.0, "")
    pacer.release()
    await clock.advance(9.9)
    assert not waiting.done()
    await clock.advance(0.3)
    assert (await waiting) - started_at >= 10


async def test_only_pauses_of_some_seconds_are_taken_and_subscribers_get_their_events() -> None:
    events: list[Event] = []
    async with EverlyticClient(
        "http://127.0.0.1:9", store_hash=STORE_HASH, customer_hash=CUSTOMER_HASH
    ) as client:
        for seconds in (0, -1, float("nan"), float("inf")):
            with pytest.raises(ValueError, match="seconds must be"):
                client.pause(seconds)
        with client.subscribe(events.append, CoolDown):
            client.pause(0.01)
        client.pause(1.0)
        with pytest.raises(TypeError, match="hook must be"), client.subscribe(7):  # type: ignore[arg-type]
            pass
    assert [type(event) for event in events] == [CoolDown]
