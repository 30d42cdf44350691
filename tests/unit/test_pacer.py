"""The pacer by a clock that the tests move: slots, rate, cool-downs, trouble, stops."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlytic_async._backoff import RetryBudget
from everlytic_async._pacer import DeadlineExceededError, Pacer
from everlytic_async._stop_token import StoppedError, StopToken
from everlytic_async.errors import NotSentError
from everlytic_async.events import CoolDown, Dispatcher, Event, OutageEnded, RateChanged
from everlytic_async.policies import Pacing, RetryPolicy
from support.clock import FakeClock, settle

ENOUGH_S = 1_000.0
PATIENT = RetryPolicy(attempts=50, deadline_s=1e6)


def a_pacer(
    clock: FakeClock,
    *,
    retry: RetryPolicy = RetryPolicy(),
    seed: int = 0,
    dispatcher: Dispatcher | None = None,
    adaptive: bool = False,
    **pacing: Any,
) -> Pacer:
    return Pacer(
        Pacing(adaptive=adaptive, **pacing),
        retry,
        dispatcher=dispatcher,
        clock=clock,
        call_later=clock.call_later,
        rng=random.Random(seed),
    )


class Queue:
    """Senders who wait for their turn, by number, and what became of each."""

    def __init__(self, pacer: Pacer, token: StopToken | None = None) -> None:
        self.pacer = pacer
        self.token = token or StopToken()
        self.tasks: list[asyncio.Task[None]] = []
        self.admitted: list[int] = []
        self.admitted_at: dict[int, float] = {}
        self.stopped: dict[int, str] = {}

    async def join(self, count: int = 1, *, is_retry: bool = False) -> None:
        for _ in range(count):
            self.tasks.append(asyncio.create_task(self._wait(len(self.tasks), is_retry)))
            await asyncio.sleep(0)  # so that they stand in line in this order
        await settle()

    async def _wait(self, number: int, is_retry: bool) -> None:
        try:
            self.admitted_at[number] = await self.pacer.acquire(self.token, is_retry=is_retry)
        except StoppedError as stopped:
            self.stopped[number] = str(stopped)
        else:
            self.admitted.append(number)

    async def leave(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


# ------------------------------------------------------------------------------------------- slots


async def test_no_more_are_admitted_than_there_are_slots(clock: FakeClock) -> None:
    pacer = a_pacer(clock, max_concurrency=3)
    queue = Queue(pacer)
    await queue.join(10)

    assert queue.admitted == [0, 1, 2]
    assert pacer.in_flight == 3
    await queue.leave()


async def test_a_released_slot_goes_to_the_one_who_has_waited_longest(clock: FakeClock) -> None:
    pacer = a_pacer(clock, max_concurrency=1)
    queue = Queue(pacer)
    await queue.join(5)
    for _ in range(4):
        pacer.release()
        await settle()

    assert queue.admitted == [0, 1, 2, 3, 4]
    assert pacer.in_flight == 1


async def test_nobody_jumps_the_queue(clock: FakeClock) -> None:
    pacer = a_pacer(clock, max_concurrency=1)
    queue = Queue(pacer)
    await queue.join(2)
    pacer.release()

    assert pacer.try_acquire() is None  # the slot is already that of the one who waited
    await settle()
    assert queue.admitted == [0, 1]


async def test_one_who_waits_for_the_rate_is_not_overtaken(clock: FakeClock) -> None:
    pacer = a_pacer(clock, max_concurrency=9, max_rate=1)
    queue = Queue(pacer)
    await queue.join(2)
    clock.now += 5  # the time has come, but the timer was not heard of yet

    assert pacer.try_acquire() is None
    await clock.advance(0)
    assert queue.admitted == [0, 1]


async def test_a_free_slot_is_taken_without_waiting(clock: FakeClock) -> None:
    pacer = a_pacer(clock, max_concurrency=1)

    assert clock.now == pacer.try_acquire()
    assert pacer.try_acquire() is None


async def test_a_cancelled_waiter_is_skipped(clock: FakeClock) -> None:
    pacer = a_pacer(clock, max_concurrency=1)
    queue = Queue(pacer)
    await queue.join(3)
    queue.tasks[1].cancel()
    await settle()
    pacer.release()
    await settle()

    assert queue.admitted == [0, 2]
    assert pacer.in_flight == 1


async def test_one_cancelled_in_the_moment_of_admission_hands_the_slot_on(clock: FakeClock) -> None:
    pacer = a_pacer(clock, max_concurrency=1)
    queue = Queue(pacer)
    await queue.join(3)
    pacer.release()  # admits the second, who has not heard of it yet
    queue.tasks[1].cancel()
    await settle()

    assert queue.tasks[1].cancelled()
    assert queue.admitted == [0, 2]
    assert pacer.in_flight == 1


async def test_one_stopped_in_the_moment_of_admission_goes_on(clock: FakeClock) -> None:
    # It is in flight already: what is in flight finishes.
    pacer = a_pacer(clock, max_concurrency=1)
    queue = Queue(pacer)
    await queue.join(3)
    pacer.release()
    queue.token.stop("enough")
    await settle()

    assert queue.admitted == [0, 1]
    assert queue.stopped == {2: "enough"}
    pacer.release()
    assert pacer.in_flight == 0


async def test_a_retry_goes_before_orders_that_were_never_sent(clock: FakeClock) -> None:
    pacer = a_pacer(clock, max_concurrency=1)
    queue = Queue(pacer)
    await queue.join(3)
    await queue.join(2, is_retry=True)
    for _ in range(4):
        pacer.release()
        await settle()

    assert queue.admitted == [0, 3, 4, 1, 2]


async def test_a_retry_whose_deadline_passes_makes_room(clock: FakeClock) -> None:
    pacer = a_pacer(clock, max_concurrency=1)
    queue = Queue(pacer)
    await queue.join(2)
    retry = asyncio.create_task(pacer.acquire(StopToken(), until=clock.now + 5, is_retry=True))
    await settle()
    await clock.advance(5)
    pacer.release()
    await settle()

    with pytest.raises(DeadlineExceededError):
        retry.result()
    assert queue.admitted == [0, 1]


# ---------------------------------------------------------------------------------- the rate bound


def most_in_a_second(moments: list[float]) -> int:
    """The most moments in any window of one second, its end excluded."""
    most = first = 0
    for last, moment in enumerate(moments):
        while moment - moments[first] >= 1.0:
            first += 1
        most = max(most, last - first + 1)
    return most


async def grants(
    clock: FakeClock,
    pacer: Pacer,
    *,
    count: int,
    senders: int,
    holds: Callable[[], float],
    idles: Callable[[], float] = lambda: 0.0,
) -> list[float]:
    """When `count` admissions happened to senders who hold their slots and idle in between."""
    moments: list[float] = []
    token = StopToken()

    async def sender() -> None:
        while len(moments) < count:
            admitted_at = pacer.try_acquire()
            if admitted_at is None:
                admitted_at = await pacer.acquire(token)
            assert admitted_at == clock.now
            moments.append(admitted_at)
            if (held_s := holds()) > 0:
                await token.sleep(held_s, clock.call_later)
            pacer.release()
            if (idle_s := idles()) > 0:
                await token.sleep(idle_s, clock.call_later)

    async def all_of_them() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(senders):
                group.create_task(sender())

    await clock.run(all_of_them())
    assert pacer.in_flight == 0
    return moments[:count]


@settings(max_examples=40)
@given(
    rate=st.floats(0.3, 60) | st.integers(1, 60),
    senders=st.integers(1, 12),
    late_s=st.floats(0, 0.03),
    hold_s=st.floats(0, 0.5),
    idle_s=st.sampled_from([0.0, 0.0, 0.7, 5.0]),
    adaptive=st.booleans(),
    seed=st.integers(0, 99),
)
def test_over_any_second_no_more_than_the_rate_and_one(
    *,
    rate: float,
    senders: int,
    late_s: float,
    hold_s: float,
    idle_s: float,
    adaptive: bool,
    seed: int,
) -> None:
    rng = random.Random(seed)

    async def check() -> None:
        clock = FakeClock(lateness=lambda: rng.uniform(0, late_s))
        pacer = a_pacer(clock, max_concurrency=senders, max_rate=rate, adaptive=adaptive)
        moments = await grants(
            clock,
            pacer,
            count=int(2.5 * rate) + 5,
            senders=senders,
            holds=lambda: rng.choice([0.0, rng.uniform(0, hold_s)]),
            idles=lambda: rng.choice([0.0, 0.0, 0.0, rng.uniform(0, idle_s)]),
        )
        assert most_in_a_second(moments) <= rate + 1

    asyncio.run(check())


@settings(max_examples=25)
@given(
    rate=st.floats(1, 400) | st.sampled_from([100, 250, 400]),
    late_s=st.floats(0, 0.005),
    seed=st.integers(0, 99),
)
def test_the_rate_is_reached_though_timers_are_late(rate: float, late_s: float, seed: int) -> None:
    rng = random.Random(seed)

    async def check() -> None:
        clock = FakeClock(lateness=lambda: rng.uniform(0, late_s))
        pacer = a_pacer(clock, max_concurrency=8, max_rate=rate)
        count = int(max(60, 2 * rate))
        moments = await grants(clock, pacer, count=count, senders=8, holds=lambda: 0.0)
        reached = (count - 1) / (moments[-1] - moments[0])
        assert 0.98 * rate <= reached <= 1.02 * rate

    asyncio.run(check())


@pytest.mark.parametrize(("late_s", "at_once"), [(0.0, 1), (0.01, 4), (0.1, 8)])
async def test_a_late_timer_is_caught_up_with(late_s: float, at_once: int) -> None:
    clock = FakeClock(lateness=lambda: late_s)
    pacer = a_pacer(clock, max_concurrency=100, max_rate=400)
    queue = Queue(pacer)
    await queue.join(60)
    await clock.advance(1)
    await queue.leave()

    assert max(Counter(queue.admitted_at.values()).values()) == at_once


async def test_a_hook_that_stops_waiters_leaves_no_slot_taken(
    clock: FakeClock,
) -> None:
    token = StopToken()
    dispatcher = Dispatcher(
        (lambda event: token.stop("enough") if isinstance(event, RateChanged) else None,)
    )
    pacer = a_pacer(clock, adaptive=True, max_concurrency=1, dispatcher=dispatcher)
    pacer.on_throttled(clock.now, 429, 1.0)
    queue, others = Queue(pacer, token), Queue(pacer)
    await queue.join(2)
    await others.join(1)
    await clock.advance(3)

    assert queue.stopped == {0: "enough", 1: "enough"}
    assert others.admitted == [0]
    assert pacer.in_flight == 1
    await others.leave()


async def test_admissions_are_spread_evenly_over_the_second(clock: FakeClock) -> None:
    pacer = a_pacer(clock, max_concurrency=50, max_rate=10)
    moments = await grants(clock, pacer, count=30, senders=30, holds=lambda: 0.0)

    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert min(gaps) == pytest.approx(0.1)
    assert max(gaps) == pytest.approx(0.1)


async def test_idleness_is_not_saved_up_for_a_burst(clock: FakeClock) -> None:
    pacer = a_pacer(clock, max_concurrency=50, max_rate=10)
    assert pacer.try_acquire() is not None
    pacer.release()
    await clock.advance(60)
    began = clock.now
    moments = await grants(clock, pacer, count=10, senders=10, holds=lambda: 0.0)

    assert moments[-1] - began >= 9 * 0.1 - 0.021


async def test_one_who_gives_up_does_not_use_up_the_rate(clock: FakeClock) -> None:
    pacer = a_pacer(clock, max_concurrency=9, max_rate=1)
    queue = Queue(pacer)
    await queue.join(3)
    queue.tasks[1].cancel()
    await clock.advance(1.0)

    assert queue.admitted == [0, 2]


# -------------------------------------------------------------------------------- the cool-down


async def cooled_down_after(clock: FakeClock, pacer: Pacer) -> float:
    """Seconds until somebody is admitted."""
    began = clock.now
    queue = Queue(pacer)
    await queue.join()
    await clock.advance(ENOUGH_S)
    pacer.release()
    return queue.admitted_at[0] - began


@pytest.mark.parametrize("seed", range(20))
async def test_a_retry_after_pauses_everybody_for_it_and_a_little_jitter(
    clock: FakeClock, seed: int
) -> None:
    pacer = a_pacer(clock, seed=seed)
    admitted_at = pacer.try_acquire()
    assert admitted_at is not None
    pacer.on_throttled(admitted_at, 429, 5.0)
    pacer.release()

    assert 5.0 <= pacer.remaining_cool_down_s() <= 5.0 * 1.05
    assert pacer.try_acquire() is None
    assert 5.0 <= await cooled_down_after(clock, pacer) <= 5.0 * 1.05


async def test_the_pause_is_not_always_the_same(clock: FakeClock) -> None:
    pauses = set()
    for seed in range(5):
        pacer = a_pacer(clock, seed=seed)
        pacer.on_throttled(clock.now, 429, 5.0)
        pauses.add(pacer.remaining_cool_down_s())

    assert len(pauses) == 5


async def test_a_retry_after_of_zero_pauses_nobody(clock: FakeClock) -> None:
    pacer = a_pacer(clock)
    pacer.on_throttled(clock.now, 429, 0.0)

    assert pacer.remaining_cool_down_s() == 0.0
    assert await cooled_down_after(clock, pacer) == 0.0


async def test_without_a_retry_after_the_pause_is_the_backoff(clock: FakeClock) -> None:
    retry = RetryPolicy(base_s=2.0, cap_s=10.0)
    for seed in range(20):
        pacer = a_pacer(clock, retry=retry, seed=seed)
        pacer.on_throttled(clock.now, 503, None)
        assert 0.0 < pacer.remaining_cool_down_s() <= 2.0


async def test_throttling_in_a_row_lengthens_the_pause_up_to_the_cap(clock: FakeClock) -> None:
    retry = RetryPolicy(base_s=1.0, cap_s=16.0)
    longest = [0.0] * 7
    for seed in range(60):
        pacer = a_pacer(clock, retry=retry, seed=seed)
        for row in range(7):
            admitted_at = pacer.try_acquire()
            assert admitted_at is not None
            await clock.advance(0.001)
            pacer.on_throttled(admitted_at, 429, None)
            pacer.release()
            longest[row] = max(longest[row], pacer.remaining_cool_down_s())
            await clock.advance(pacer.remaining_cool_down_s() + 0.001)

    for seconds, ceiling in zip(longest, [1, 2, 4, 8, 16, 16, 16], strict=True):
        assert 0.8 * ceiling < seconds <= ceiling


async def test_an_acceptance_ends_the_row(clock: FakeClock) -> None:
    retry = RetryPolicy(base_s=1.0, cap_s=1_000.0)
    for seed in range(20):
        pacer = a_pacer(clock, retry=retry, seed=seed)
        for _ in range(9):
            pacer.on_throttled(clock.now, 429, None)
            await clock.advance(pacer.remaining_cool_down_s() + 0.001)
        pacer.on_accepted(clock.now)
        pacer.on_throttled(clock.now, 429, None)
        assert pacer.remaining_cool_down_s() <= 1.0


async def test_a_burst_of_refusals_is_one_throttle(clock: FakeClock) -> None:
    told: list[Event] = []
    pacer = a_pacer(clock, max_concurrency=32, dispatcher=Dispatcher((told.append,)))
    admitted = [pacer.try_acquire() for _ in range(32)]
    await clock.advance(0.01)
    pauses = []
    for admitted_at in admitted:
        assert admitted_at is not None
        pacer.on_throttled(admitted_at, 429, None)
        pacer.release()
        pauses.append(pacer.remaining_cool_down_s())

    assert {pauses[0]} == set(pauses)
    assert pauses[0] <= 0.5
    assert len([event for event in told if isinstance(event, CoolDown)]) == 1


async def test_a_longer_retry_after_extends_the_pause_and_a_shorter_one_does_not(
    clock: FakeClock,
) -> None:
    pacer = a_pacer(clock)
    admitted = [clock.now - 0.1] * 3
    pacer.on_throttled(admitted[0], 429, 10.0)
    first = pacer.remaining_cool_down_s()
    pacer.on_throttled(admitted[1], 429, 1.0)
    assert first == pacer.remaining_cool_down_s()
    pacer.on_throttled(admitted[2], 429, 30.0)

    assert pacer.remaining_cool_down_s() >= 30.0


async def test_no_pause_is_longer_than_the_policy_allows(clock: FakeClock) -> None:
    pacer = a_pacer(clock, retry=RetryPolicy(retry_after_cap_s=60))
    pacer.on_throttled(clock.now, 503, 86_400.0)

    assert 60.0 <= pacer.remaining_cool_down_s() <= 60.0 * 1.05


async def test_the_rate_holds_after_a_cool_down(clock: FakeClock) -> None:
    # What was not sent meanwhile is not made good by a burst.
    pacer = a_pacer(clock, max_concurrency=50, max_rate=10)
    pacer.on_throttled(clock.now, 429, 5.0)
    moments = await grants(clock, pacer, count=30, senders=30, holds=lambda: 0.0)

    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert min(gaps) >= 0.1 - 0.021
    assert moments[-1] - moments[0] >= 29 * 0.1 - 0.021


# ------------------------------------------------------------------------------------- trouble

REFUSED = NotSentError("the order was not sent: refused")


async def fail(pacer: Pacer, admitted_at: float) -> None:
    pacer.on_failed(admitted_at, REFUSED)
    pacer.release()
    await settle()


async def fail_those_in_flight(queue: Queue, pacer: Pacer) -> None:
    for number in queue.admitted[-pacer.in_flight :]:
        await fail(pacer, queue.admitted_at[number])


async def test_in_trouble_one_attempt_at_a_time_probes(clock: FakeClock) -> None:
    pacer = a_pacer(clock, max_concurrency=8, retry=PATIENT)
    queue = Queue(pacer)
    await queue.join(20)
    assert len(queue.admitted) == 8
    await fail_those_in_flight(queue, pacer)
    # Four failures are not trouble yet: four more were admitted, and fail as well.
    assert len(queue.admitted) == 12
    await fail_those_in_flight(queue, pacer)
    assert pacer.in_flight == 0

    for probes in range(1, 4):
        await clock.advance(ENOUGH_S)
        assert pacer.in_flight == 1
        assert 12 + probes == len(queue.admitted)
        await fail_those_in_flight(queue, pacer)
        assert pacer.in_flight == 0  # the next one waits for its pause
    await queue.leave()


async def test_no_probe_starts_while_an_attempt_from_before_is_in_flight(clock: FakeClock) -> None:
    pacer = a_pacer(clock, max_concurrency=6, retry=PATIENT)
    queue = Queue(pacer)
    await queue.join(11)
    for number in range(5):
        await fail(pacer, queue.admitted_at[number])
    await clock.advance(ENOUGH_S)
    assert len(queue.admitted) == 10
    for number in range(5, 10):
        await fail(pacer, queue.admitted_at[number])
    await clock.advance(ENOUGH_S)

    assert len(queue.admitted) == 11


async def test_an_answered_probe_ends_the_trouble_for_everybody_at_once(clock: FakeClock) -> None:
    events: list[Event] = []
    pacer = a_pacer(clock, max_concurrency=5, dispatcher=Dispatcher((events.append,)))
    queue = Queue(pacer)
    await queue.join(11)
    started_at = clock.now
    for number in range(5):
        await fail(pacer, queue.admitted_at[number])
    # An order from before the trouble tells nothing about now.
    pacer.on_accepted(queue.admitted_at[5] - 1)
    pacer.release()
    assert pacer.trouble.probing
    for number in range(6, 9):
        await fail(pacer, queue.admitted_at[number])
    await clock.advance(40)
    assert pacer.in_flight == 1

    pacer.on_rejected(clock.now)
    await settle()
    assert not pacer.trouble.probing
    assert pacer.in_flight == 2  # no clock had to move
    ended = [event for event in events if isinstance(event, OutageEnded)]
    assert [clock.now - started_at] == [event.lasted_s for event in ended]


async def test_once_given_up_one_call_a_pause_probes_and_the_others_fail_at_once(
    clock: FakeClock,
) -> None:
    retry = RetryPolicy(attempts=2, base_s=1, cap_s=1, deadline_s=60)
    pacer = a_pacer(clock, max_concurrency=8, retry=retry)
    pacer.on_accepted(clock.now)
    queue = Queue(pacer)
    await queue.join(1_000)
    started_at = clock.now
    while not queue.tasks[-1].done():
        assert clock.now - started_at < 62
        await fail_those_in_flight(queue, pacer)
        if pacer.in_flight == 0 and not queue.tasks[-1].done():
            clock.ring_next()
            await settle()

    assert clock.now - started_at >= 60
    assert len(queue.admitted) > 20  # it went on probing
    assert "for 60 s" in queue.stopped[999]

    for _ in range(3):
        later = Queue(pacer)
        await later.join(4)
        assert len(later.stopped) == 4  # in the pause
        await clock.advance(1.1)
        probing = Queue(pacer)
        await probing.join(4)
        assert (len(probing.admitted), len(probing.stopped)) == (1, 3)
        await fail_those_in_flight(probing, pacer)
    await clock.advance(61)  # nobody knows any more
    fresh = Queue(pacer)
    await fresh.join(4)
    assert len(fresh.admitted) == 4


async def test_an_endpoint_never_reached_is_given_up_after_the_policys_attempts(
    clock: FakeClock,
) -> None:
    pacer = a_pacer(clock, max_concurrency=1, retry=RetryPolicy(attempts=3, deadline_s=1e6))
    queue = Queue(pacer)
    await queue.join(12)
    for _ in range(5 + 3):
        assert not queue.stopped
        await fail_those_in_flight(queue, pacer)
        await clock.advance(ENOUGH_S)

    assert queue.admitted == list(range(8))
    assert queue.stopped == dict.fromkeys(
        range(8, 12), "no order was accepted or refused in 8 attempts in a row"
    )
    assert pacer.in_flight == 0


async def test_a_retry_after_over_the_cap_ends_the_waiting_and_says_how_long(
    clock: FakeClock,
) -> None:
    pacer = a_pacer(clock, max_concurrency=2, retry=RetryPolicy(retry_after_cap_s=60))
    queue = Queue(pacer)
    await queue.join(5)
    pacer.on_throttled(clock.now, 429, 3600.0)
    pacer.release()
    await settle()
    assert len(queue.stopped) == 3
    assert "3600 s" in queue.stopped[4]
    pacer.on_throttled(clock.now, 429, 3600.0)
    pacer.release()

    await clock.advance(61)
    probing = Queue(pacer)
    await probing.join(3)
    assert (len(probing.admitted), len(probing.stopped)) == (1, 2)
    pacer.on_throttled(clock.now, 429, 1.0)  # a pause that can be waited for
    pacer.release()
    await clock.advance(1.1)
    waiting = Queue(pacer)
    await waiting.join(3)
    assert (len(waiting.admitted), len(waiting.stopped)) == (2, 0)
    await waiting.leave()


# -------------------------------------------------------------------------------------- stopping


async def test_stopping_wakes_all_who_wait_or_sleep_at_once(clock: FakeClock) -> None:
    pacer = a_pacer(clock, max_concurrency=1)
    token = StopToken()
    queue = Queue(pacer, token)
    await queue.join(3)
    sleeper = asyncio.create_task(token.sleep(3_600, clock.call_later))
    await settle()
    token.stop("enough")
    await settle()

    assert queue.stopped == {1: "enough", 2: "enough"}
    with pytest.raises(StoppedError, match="enough"):
        sleeper.result()
    assert clock.next_at is None  # the sleeper's timer is gone
    pacer.release()
    assert pacer.in_flight == 0


async def test_stopping_leaves_those_alone_who_do_not_share_the_token(clock: FakeClock) -> None:
    pacer = a_pacer(clock, max_concurrency=1)
    stopped, other = Queue(pacer), Queue(pacer)
    await stopped.join(2)
    await other.join(1)
    stopped.token.stop("enough")
    pacer.release()
    await settle()

    assert other.admitted == [0]


@pytest.mark.parametrize(
    "wait",
    [
        lambda pacer, token: pacer.acquire(token),
        lambda pacer, token: token.sleep(1, pacer.call_later),
    ],
    ids=["admit", "sleep"],
)
async def test_once_stopped_nobody_starts_to_wait(
    clock: FakeClock, wait: Callable[[Pacer, StopToken], Awaitable[object]]
) -> None:
    pacer = a_pacer(clock)
    token = StopToken()
    token.stop("enough")

    with pytest.raises(StoppedError, match="enough"):
        await wait(pacer, token)
    assert pacer.in_flight == 0
    assert clock.next_at is None


def test_the_first_reason_of_a_stop_counts() -> None:
    token = StopToken()
    token.stop("first")
    token.stop("second")

    assert token.reason == "first"


def test_a_stop_reaches_children_and_not_parents() -> None:
    client = StopToken()
    batch, other = StopToken(client), StopToken(client)
    batch.stop("batch")
    assert [token.reason for token in (client, batch, other)] == [None, "batch", None]
    client.stop("client")

    assert [token.reason for token in (client, batch, other)] == [
        "client",
        "batch",
        "client",
    ]
    assert StopToken(client).reason == "client"


# ----------------------------------------------------------------------- sleeping, draining, budget


async def test_a_sleep_takes_its_time(clock: FakeClock) -> None:
    began = clock.now
    await clock.run(StopToken().sleep(7.5, clock.call_later))

    assert clock.now - began == pytest.approx(7.5)


async def test_a_cancelled_sleep_leaves_no_timer(clock: FakeClock) -> None:
    sleeper = asyncio.create_task(StopToken().sleep(7.5, clock.call_later))
    await settle()
    sleeper.cancel()
    await settle()

    assert sleeper.cancelled()
    assert clock.next_at is None


async def test_wait_idle_waits_for_the_last_one_in_flight(clock: FakeClock) -> None:
    pacer = a_pacer(clock)
    assert pacer.try_acquire() is not None
    assert pacer.try_acquire() is not None
    idle = asyncio.create_task(pacer.wait_idle(30))
    await settle()
    pacer.release()
    await settle()
    assert not idle.done()
    pacer.release()

    await asyncio.wait_for(idle, 10)


async def test_wait_idle_returns_at_once_where_nothing_is_in_flight(clock: FakeClock) -> None:
    await asyncio.wait_for(a_pacer(clock).wait_idle(3_600), 10)


def test_the_budget_allows_a_hundred_retries_and_each_success_a_fifth_of_one() -> None:
    budget = RetryBudget()
    taken = 0
    while budget.take():
        taken += 1
    assert taken == 100
    for _ in range(4):
        budget.refund()
    assert not budget.take()
    budget.refund()
    assert budget.take()
    assert not budget.take()


def test_the_budget_does_not_grow_without_bounds() -> None:
    budget = RetryBudget()
    for _ in range(10_000):
        budget.refund()
    taken = 0
    while budget.take():
        taken += 1

    assert taken == 100


@given(
    base_s=st.floats(0.001, 10),
    cap_s=st.floats(0.001, 300),
    attempt=st.integers(1, 12) | st.integers(1, 100_000),
    seed=st.integers(0, 1_000),
)
def test_a_backoff_is_between_nothing_and_the_doubling_ceiling(
    base_s: float, cap_s: float, attempt: int, seed: int
) -> None:
    pacer = a_pacer(FakeClock(), retry=RetryPolicy(base_s=base_s, cap_s=cap_s), seed=seed)
    ceiling = cap_s if attempt > 40 else min(cap_s, base_s * 2 ** (attempt - 1))

    assert 0.0 <= pacer.backoff.pause_s(attempt) <= ceiling


@pytest.mark.parametrize(("attempt", "ceiling"), [(1, 0.5), (2, 1), (3, 2), (7, 30), (50, 30)])
def test_a_backoff_is_drawn_from_the_whole_of_its_range(attempt: int, ceiling: float) -> None:
    pacer = a_pacer(FakeClock())
    draws = [pacer.backoff.pause_s(attempt) for _ in range(2_000)]

    assert min(draws) < 0.02 * ceiling
    assert max(draws) > 0.98 * ceiling
    assert sum(draws) / len(draws) == pytest.approx(ceiling / 2, rel=0.05)


# ---------------------------------------------------------------------------- whatever happens


class Traffic:
    """Senders who come, give up, and hear all sorts of answers; it looks that no slot is lost."""

    def __init__(self, clock: FakeClock, pacer: Pacer, slots: int) -> None:
        self.clock = clock
        self.pacer = pacer
        self.slots = slots
        self.queue = Queue(pacer)
        self.held: list[float] = []  # when those in flight were admitted
        self._seen = 0

    async def happens(self, action: str, number: int) -> None:
        if action == "join":
            await self.queue.join(is_retry=number % 3 == 0)
        elif action == "advance":
            await self.clock.advance(number)
        elif action == "cancel" and self.queue.tasks:
            self.queue.tasks[number % len(self.queue.tasks)].cancel()
        elif action in ENDS and self.held:
            admitted_at = self.held.pop(number % len(self.held))
            ENDS[action](self.pacer, admitted_at, number)
            self.pacer.release()
        await self.look()

    async def look(self) -> None:
        await settle()
        new = self.queue.admitted[self._seen :]
        self._seen += len(new)
        self.held.extend(self.queue.admitted_at[number] for number in new)
        assert len(self.held) == self.pacer.in_flight <= self.slots

    async def ends(self) -> None:
        """Whoever still waits gets a turn, as long as those before come to an end."""
        while self.held or not all(task.done() for task in self.queue.tasks):
            if not self.held:
                self.clock.ring_next()
                await self.look()
            else:
                await self.happens("accept", 0)
        assert self.pacer.in_flight == 0


ENDS: dict[str, Callable[[Pacer, float, int], None]] = {
    "accept": lambda pacer, at, _: pacer.on_accepted(at),
    "throttle": lambda pacer, at, number: pacer.on_throttled(at, 429, [None, 1.0, 3.0][number % 3]),
    "refuse": lambda pacer, at, _: pacer.on_rejected(at),
    "lose": lambda pacer, at, _: pacer.on_failed(at, REFUSED),
}


@settings(max_examples=60)
@given(
    slots=st.integers(1, 4),
    max_rate=st.sampled_from([None, 5.0]),
    adaptive=st.booleans(),
    actions=st.lists(
        st.tuples(
            st.sampled_from(["join", "join", "join", "cancel", "advance", *ENDS]),
            st.integers(0, 9),
        ),
        max_size=40,
    ),
    stopped=st.booleans(),
)
def test_no_slot_is_ever_lost(
    *,
    slots: int,
    max_rate: float | None,
    adaptive: bool,
    actions: list[tuple[str, int]],
    stopped: bool,
) -> None:
    async def check() -> None:
        clock = FakeClock()
        pacer = a_pacer(clock, max_concurrency=slots, max_rate=max_rate, adaptive=adaptive)
        traffic = Traffic(clock, pacer, slots)
        for action, number in actions:
            await traffic.happens(action, number)
        if stopped:
            traffic.queue.token.stop("enough")
            await traffic.look()
            assert all(task.done() for task in traffic.queue.tasks)
        await traffic.ends()

    asyncio.run(check())
