"""A stop ends the waiting of all that share its token; shielded work is cancelled until it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from pacer_queue import Queue

from everlytic_async._pacer import Pacer
from everlytic_async._waiting import StoppedError, StopToken, run_shielded
from everlytic_async.policies import Pacing
from support.clock import FakeClock, settle
from support.fake_delivery import make_pacer


async def test_stopping_wakes_all_that_share_the_token_and_no_others() -> None:
    clock = FakeClock()
    pacer = make_pacer(clock, Pacing(max_concurrency=1, adaptive=False))
    token = StopToken()
    queue, other = Queue(pacer, token), Queue(pacer)
    await queue.join(3)
    await other.join(1)
    sleeper = asyncio.create_task(token.sleep(3_600, clock.call_later))
    await settle()
    token.stop("enough")
    await settle()

    assert queue.stopped == {1: "enough", 2: "enough"}
    with pytest.raises(StoppedError, match="enough"):
        sleeper.result()
    assert clock.next_at is None  # the sleeper's timer is gone
    await queue.release()
    assert other.admitted == [0]


@pytest.mark.parametrize(
    "wait",
    [
        lambda pacer, token: pacer.acquire(token),
        lambda pacer, token: token.sleep(1, pacer.call_later),
    ],
    ids=["acquire", "sleep"],
)
async def test_once_stopped_nothing_starts_to_wait(
    wait: Callable[[Pacer, StopToken], Awaitable[object]],
) -> None:
    clock = FakeClock()
    pacer = make_pacer(clock)
    token = StopToken()
    token.stop("enough")

    with pytest.raises(StoppedError, match="enough"):
        await wait(pacer, token)
    assert pacer.in_flight == 0
    assert clock.next_at is None


def test_the_first_reason_counts_and_a_stop_reaches_children_but_not_parents() -> None:
    client = StopToken()
    batch, other = StopToken(client), StopToken(client)
    batch.stop("batch")
    batch.stop("again")
    assert [token.reason for token in (client, batch, other)] == [None, "batch", None]
    client.stop("client")
    assert [token.reason for token in (client, batch, other)] == ["client", "batch", "client"]
    assert StopToken(client).reason == "client"


async def test_a_sleep_takes_its_time_and_a_cancelled_one_leaves_no_timer() -> None:
    clock = FakeClock()
    await clock.run(StopToken().sleep(7.5, clock.call_later))
    assert clock.now == 1_007.5

    sleeper = asyncio.create_task(StopToken().sleep(7.5, clock.call_later))
    await settle()
    sleeper.cancel()
    await settle()
    assert sleeper.cancelled()
    assert clock.next_at is None


async def test_work_that_swallows_cancellations_is_cancelled_until_it_ends() -> None:
    swallowed = 0

    async def stubborn() -> int:
        nonlocal swallowed
        while swallowed < 2:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                swallowed += 1
        return swallowed

    calling = asyncio.ensure_future(run_shielded(stubborn()))
    await asyncio.sleep(0)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(calling, 10)
    assert swallowed == 2  # and it has ended


async def test_shielded_work_returns_its_result_or_raises() -> None:
    async def fail() -> int:
        raise ValueError("no")

    assert await run_shielded(asyncio.sleep(0, 7)) == 7
    with pytest.raises(ValueError, match="no"):
        await run_shielded(fail())
