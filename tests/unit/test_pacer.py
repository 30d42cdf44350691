"""The pacer by a clock that the tests move: slots, rate, cool-downs, outages, halts."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import statistics
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlytic_async._pacer import Halt, HaltedError, Pacer, RetryBudget
from everlytic_async.errors import NotSentError
from everlytic_async.events import CoolDown, Dispatcher, Event, OutageEnded, RateChanged
from everlytic_async.policies import Pacing, RetryPolicy
from support.clock import Alarm, FakeClock, settle

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

    def __init__(self, pacer: Pacer, halt: Halt | None = None) -> None:
        self.pacer = pacer
        self.halt = halt or Halt()
        self.tasks: list[asyncio.Task[None]] = []
        self.admitted: list[int] = []
        self.admitted_at: dict[int, float] = {}
        self.halted: dict[int, str] = {}

    async def join(self, count: int = 1) -> None:
        for _ in range(count):
            self.tasks.append(asyncio.create_task(self._wait(len(self.tasks))))
            await asyncio.sleep(0)  # so that they stand in line in this order
        await settle()

    async def _wait(self, number: int) -> None:
        try:
            self.admitted_at[number] = await self.pacer.admit(self.halt)
        except HaltedError as halted:
            self.halted[number] = str(halted)
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

    assert pacer.try_admit() is None  # the slot is already that of the one who waited
    await settle()
    assert queue.admitted == [0, 1]


async def test_one_who_waits_for_the_rate_is_not_overtaken(clock: FakeClock) -> None:
    pacer = a_pacer(clock, max_concurrency=9, max_rate=1)
    queue = Queue(pacer)
    await queue.join(2)
    clock.now += 5  # the time has come, but the timer was not heard of yet

    assert pacer.try_admit() is None
    await clock.advance(0)
    assert queue.admitted == [0, 1]


async def test_a_free_slot_is_taken_without_waiting(clock: FakeClock) -> None:
    pacer = a_pacer(clock, max_concurrency=1)

    assert clock.now == pacer.try_admit()
    assert pacer.try_admit() is None


async def test_one_who_gives_up_waiting_is_passed_over(clock: FakeClock) -> None:
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


async def test_one_halted_in_the_moment_of_admission_goes_on(clock: FakeClock) -> None:
    # It is in flight already: what is in flight finishes.
    pacer = a_pacer(clock, max_concurrency=1)
    queue = Queue(pacer)
    await queue.join(3)
    pacer.release()
    queue.halt.halt("enough")
    await settle()

    assert queue.admitted == [0, 1]
    assert queue.halted == {2: "enough"}
    pacer.release()
    assert pacer.in_flight == 0


# --------------------------------------------------------------------- those that come together


async def a_pacer_that_was_answered(clock: FakeClock, after_s: float, **pacing: Any) -> Pacer:
    pacer = a_pacer(clock, **pacing)
    admitted_at = pacer.try_admit()
    assert admitted_at is not None
    await clock.advance(after_s)
    pacer.accepted(admitted_at)
    pacer.release()
    return pacer


async def test_before_the_first_answer_all_may_begin_together(clock: FakeClock) -> None:
    queue = Queue(a_pacer(clock, max_concurrency=64))
    await queue.join(64)

    assert len(queue.admitted) == 64


async def test_who_would_begin_together_is_taken_asunder(clock: FakeClock) -> None:
    pacer = await a_pacer_that_was_answered(clock, 0.05, max_concurrency=64)
    began = clock.now
    queue = Queue(pacer)
    await queue.join(64)
    assert queue.admitted == [0]
    await clock.advance(0.05)

    # 64 that take 50 ms: 1,280 a second, and a quarter more; 0.6 ms apart, hence.
    after = [moment - began for moment in queue.admitted_at.values()]
    assert queue.admitted == list(range(64))
    assert after == [pytest.approx(0.0006 * place, abs=0.0006) for place in range(64)]


async def test_a_timer_that_is_late_makes_nobody_later_than_his_turn() -> None:
    clock = FakeClock(lateness=lambda: 0.001)
    pacer = await a_pacer_that_was_answered(clock, 0.05, max_concurrency=64)
    began = clock.now
    queue = Queue(pacer)
    await queue.join(64)
    await clock.advance(0.05)

    assert queue.admitted_at[63] - began == pytest.approx(0.0006 * 63, abs=0.0016)


async def test_a_pause_in_between_is_not_made_up_for_by_beginning_together(
    clock: FakeClock,
) -> None:
    pacer = await a_pacer_that_was_answered(clock, 0.05, max_concurrency=64)
    await clock.advance(10)
    queue = Queue(pacer)
    await queue.join(64)

    assert queue.admitted == [0]
    await queue.leave()


async def test_where_answers_come_at_once_nobody_waits(clock: FakeClock) -> None:
    # 64 in a thousandth of a second: there the event loop is what takes time, and never idle.
    pacer = await a_pacer_that_was_answered(clock, 0.0005, max_concurrency=64)
    queue = Queue(pacer)
    await queue.join(64)

    assert len(queue.admitted) == 64


async def test_the_shortest_answer_tells_how_far_apart(clock: FakeClock) -> None:
    pacer = await a_pacer_that_was_answered(clock, 0.0005, max_concurrency=64)
    admitted_at = pacer.try_admit()
    assert admitted_at is not None
    await clock.advance(2.0)  # the endpoint was slow once
    pacer.accepted(admitted_at)
    pacer.release()
    queue = Queue(pacer)
    await queue.join(64)

    assert len(queue.admitted) == 64


async def test_after_a_pause_they_do_not_begin_together_either(clock: FakeClock) -> None:
    pacer = await a_pacer_that_was_answered(clock, 0.05, max_concurrency=64)
    pacer.pause(1.0, "another worker was refused")
    queue = Queue(pacer)
    await queue.join(64)
    clock.ring_next()
    await settle()

    assert queue.admitted == [0]
    await queue.leave()


async def test_who_is_admitted_first_after_a_pause_may_narrow_the_window(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pacer = a_pacer(clock, adaptive=True, max_concurrency=64)
    finder = pacer._finder
    assert finder is not None
    finder.window, finder.refusal_pending = 64, True

    def plan(_in_flight: int) -> None:
        finder.window, finder.refusal_pending = 3, False

    monkeypatch.setattr(finder, "plan", plan)
    pacer.pause(1.0, "another worker was refused")
    queue = Queue(pacer)
    await queue.join(10)
    await clock.advance(2.0)

    assert queue.admitted == [0, 1, 2]
    await queue.leave()


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
    halt = Halt()

    async def sender() -> None:
        while len(moments) < count:
            admitted_at = pacer.try_admit()
            if admitted_at is None:
                admitted_at = await pacer.admit(halt)
            assert admitted_at == clock.now
            moments.append(admitted_at)
            if (held_s := holds()) > 0:
                await pacer.sleep(held_s, halt)
            pacer.release()
            if (idle_s := idles()) > 0:
                await pacer.sleep(idle_s, halt)

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


async def admitted_with(
    slack_s: float, clock: FakeClock, *, senders: int, rate: float
) -> list[float]:
    """When so many were admitted, within a second, where so much lateness is made good."""
    pacer = a_pacer(clock, adaptive=True, max_concurrency=100, max_rate=rate)
    assert pacer._finder is not None
    pacer._finder.slack_s = slack_s
    queue = Queue(pacer)
    await queue.join(senders)
    await clock.advance(1)
    await queue.leave()
    return list(queue.admitted_at.values())


@pytest.mark.parametrize(("slack_s", "at_once"), [(math.inf, 4), (0.004, 2), (0.0, 1)])
async def test_lateness_is_made_good_as_far_as_the_limiter_takes_it_at_once(
    slack_s: float, at_once: int
) -> None:
    clock = FakeClock(lateness=lambda: 0.01)
    moments = Counter(await admitted_with(slack_s, clock, senders=60, rate=400))
    assert max(moments.values()) == at_once


class MillisecondClock(FakeClock):
    """Its timers take whole milliseconds, as an event loop's, but for those due at once."""

    def __init__(self) -> None:
        super().__init__()
        self.at_once = 0

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Alarm:
        if delay_s <= 1e-5:
            self.at_once += 1
        else:
            delay_s = math.ceil(delay_s * 1_000) / 1_000
        return super().call_later(delay_s, callback)


@pytest.mark.parametrize(("slack_s", "awake"), [(0.005, False), (0.0004, True), (0.0, True)])
async def test_where_lateness_cant_be_made_good_the_last_millisecond_is_waited_for_awake(
    slack_s: float, awake: bool
) -> None:
    clock = MillisecondClock()
    moments = await admitted_with(slack_s, clock, senders=31, rate=300)
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert statistics.mean(gaps) == pytest.approx(1 / 300, rel=0.02)
    assert (clock.at_once > 0) is awake
    # Where it is waited for awake nobody is late; else the timers' milliseconds show.
    assert (max(gaps) < 1 / 300 + 1e-5) is awake


async def test_awake_means_that_the_event_loop_never_sleeps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    selector = loop._selector  # type: ignore[attr-defined]
    select, timeouts = selector.select, []

    def watched(timeout: float | None = None) -> Any:
        timeouts.append(timeout)
        return select(timeout)

    monkeypatch.setattr(selector, "select", watched)
    pacer = Pacer(Pacing(max_rate=300), RetryPolicy())
    assert pacer._finder is not None
    pacer._finder.slack_s = 0.0
    for _ in range(20):
        await pacer.admit(Halt())
        pacer.release()

    # It sleeps until a millisecond before each, and from then on goes round and round.
    assert timeouts.count(0) > 100
    assert not [each for each in timeouts if each is None or 0 < each < 1e-5]


async def test_a_hook_that_halts_when_a_rate_is_told_leaves_no_slot_taken(clock: FakeClock) -> None:
    halt = Halt()
    dispatcher = Dispatcher(
        (lambda event: halt.halt("enough") if isinstance(event, RateChanged) else None,)
    )
    pacer = a_pacer(clock, adaptive=True, max_concurrency=1, dispatcher=dispatcher)
    pacer.throttled(clock.now, 429, 1.0)
    queue, others = Queue(pacer, halt), Queue(pacer)
    await queue.join(2)
    await others.join(1)
    await clock.advance(3)

    assert queue.halted == {0: "enough", 1: "enough"}
    assert others.admitted == [0]
    assert pacer.in_flight == 1
    await others.leave()


async def test_the_time_that_planning_takes_is_nobodys_lateness(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pacer = a_pacer(clock, adaptive=True, max_concurrency=100)
    finder = pacer._finder
    assert finder is not None
    plan, took_s = finder.plan, 0.07

    def slow(in_flight: int) -> None:
        clock.now += took_s
        plan(in_flight)
        finder.slack_s = 0.0  # what may be made good is another rule's

    monkeypatch.setattr(finder, "plan", slow)
    pacer.throttled(clock.now, 429, 1.0)
    queue = Queue(pacer)
    await queue.join(3)
    await clock.advance(3)

    first, second, third = queue.admitted_at.values()
    assert first >= 1_001.0 + took_s
    rate = finder.rate(first)
    assert 1.0 / rate < took_s
    assert second - first == pytest.approx(1.0 / rate, abs=1e-5)
    assert 0.0 < third - second < second - first
    await queue.leave()


async def test_admissions_are_spread_evenly_over_the_second(clock: FakeClock) -> None:
    pacer = a_pacer(clock, max_concurrency=50, max_rate=10)
    moments = await grants(clock, pacer, count=30, senders=30, holds=lambda: 0.0)

    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert min(gaps) == pytest.approx(0.1)
    assert max(gaps) == pytest.approx(0.1)


async def test_idleness_is_not_saved_up_for_a_burst(clock: FakeClock) -> None:
    pacer = a_pacer(clock, max_concurrency=50, max_rate=10)
    assert pacer.try_admit() is not None
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
    admitted_at = pacer.try_admit()
    assert admitted_at is not None
    pacer.throttled(admitted_at, 429, 5.0)
    pacer.release()

    assert 5.0 <= pacer.cool_down_s() <= 5.0 * 1.05
    assert pacer.try_admit() is None
    assert 5.0 <= await cooled_down_after(clock, pacer) <= 5.0 * 1.05


async def test_the_pause_is_not_always_the_same(clock: FakeClock) -> None:
    pauses = set()
    for seed in range(5):
        pacer = a_pacer(clock, seed=seed)
        pacer.throttled(clock.now, 429, 5.0)
        pauses.add(pacer.cool_down_s())

    assert len(pauses) == 5


async def test_a_retry_after_of_zero_pauses_nobody(clock: FakeClock) -> None:
    pacer = a_pacer(clock)
    pacer.throttled(clock.now, 429, 0.0)

    assert pacer.cool_down_s() == 0.0
    assert await cooled_down_after(clock, pacer) == 0.0


async def test_without_a_retry_after_the_pause_is_the_backoff(clock: FakeClock) -> None:
    retry = RetryPolicy(base_s=2.0, cap_s=10.0)
    for seed in range(20):
        pacer = a_pacer(clock, retry=retry, seed=seed)
        pacer.throttled(clock.now, 503, None)
        assert 0.0 < pacer.cool_down_s() <= 2.0


async def test_throttling_in_a_row_lengthens_the_pause_up_to_the_cap(clock: FakeClock) -> None:
    retry = RetryPolicy(base_s=1.0, cap_s=16.0)
    longest = [0.0] * 7
    for seed in range(60):
        pacer = a_pacer(clock, retry=retry, seed=seed)
        for row in range(7):
            admitted_at = pacer.try_admit()
            assert admitted_at is not None
            await clock.advance(0.001)
            pacer.throttled(admitted_at, 429, None)
            pacer.release()
            longest[row] = max(longest[row], pacer.cool_down_s())
            await clock.advance(pacer.cool_down_s() + 0.001)

    for seconds, ceiling in zip(longest, [1, 2, 4, 8, 16, 16, 16], strict=True):
        assert 0.8 * ceiling < seconds <= ceiling


async def test_an_acceptance_ends_the_row(clock: FakeClock) -> None:
    retry = RetryPolicy(base_s=1.0, cap_s=1_000.0)
    for seed in range(20):
        pacer = a_pacer(clock, retry=retry, seed=seed)
        for _ in range(9):
            pacer.throttled(clock.now, 429, None)
            await clock.advance(pacer.cool_down_s() + 0.001)
        pacer.accepted(clock.now)
        pacer.throttled(clock.now, 429, None)
        assert pacer.cool_down_s() <= 1.0


async def test_a_burst_of_refusals_is_one_throttle(clock: FakeClock) -> None:
    told: list[Event] = []
    pacer = a_pacer(clock, max_concurrency=32, dispatcher=Dispatcher((told.append,)))
    admitted = [pacer.try_admit() for _ in range(32)]
    await clock.advance(0.01)
    pauses = []
    for admitted_at in admitted:
        assert admitted_at is not None
        pacer.throttled(admitted_at, 429, None)
        pacer.release()
        pauses.append(pacer.cool_down_s())

    assert {pauses[0]} == set(pauses)
    assert pauses[0] <= 0.5
    assert len([event for event in told if isinstance(event, CoolDown)]) == 1


async def test_a_longer_retry_after_extends_the_pause_and_a_shorter_one_does_not(
    clock: FakeClock,
) -> None:
    pacer = a_pacer(clock)
    admitted = [clock.now - 0.1] * 3
    pacer.throttled(admitted[0], 429, 10.0)
    first = pacer.cool_down_s()
    pacer.throttled(admitted[1], 429, 1.0)
    assert first == pacer.cool_down_s()
    pacer.throttled(admitted[2], 429, 30.0)

    assert pacer.cool_down_s() >= 30.0


async def test_no_pause_is_longer_than_the_policy_allows(clock: FakeClock) -> None:
    pacer = a_pacer(clock, retry=RetryPolicy(retry_after_cap_s=60))
    pacer.throttled(clock.now, 503, 86_400.0)

    assert 60.0 <= pacer.cool_down_s() <= 60.0 * 1.05


async def test_the_rate_holds_after_a_cool_down(clock: FakeClock) -> None:
    # What was not sent meanwhile is not made good by a burst.
    pacer = a_pacer(clock, max_concurrency=50, max_rate=10)
    pacer.throttled(clock.now, 429, 5.0)
    moments = await grants(clock, pacer, count=30, senders=30, holds=lambda: 0.0)

    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert min(gaps) >= 0.1 - 0.021
    assert moments[-1] - moments[0] >= 29 * 0.1 - 0.021


# ------------------------------------------------------------------------------------- trouble

REFUSED = NotSentError("the order was not sent: refused")


async def fail(pacer: Pacer, admitted_at: float) -> None:
    pacer.failed(admitted_at, REFUSED)
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
    pacer.accepted(queue.admitted_at[5] - 1)
    pacer.release()
    assert pacer.trouble.probing
    for number in range(6, 9):
        await fail(pacer, queue.admitted_at[number])
    await clock.advance(40)
    assert pacer.in_flight == 1

    pacer.refused(clock.now)
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
    pacer.accepted(clock.now)
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
    assert "for 60 s" in queue.halted[999]

    for _ in range(3):
        later = Queue(pacer)
        await later.join(4)
        assert len(later.halted) == 4  # in the pause
        await clock.advance(1.1)
        probing = Queue(pacer)
        await probing.join(4)
        assert (len(probing.admitted), len(probing.halted)) == (1, 3)
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
        assert not queue.halted
        await fail_those_in_flight(queue, pacer)
        await clock.advance(ENOUGH_S)

    assert queue.admitted == list(range(8))
    assert queue.halted == dict.fromkeys(
        range(8, 12), "no order was accepted or refused in 8 attempts in a row"
    )
    assert pacer.in_flight == 0


async def test_a_retry_after_over_the_cap_ends_the_waiting_and_says_how_long(
    clock: FakeClock,
) -> None:
    pacer = a_pacer(clock, max_concurrency=2, retry=RetryPolicy(retry_after_cap_s=60))
    queue = Queue(pacer)
    await queue.join(5)
    pacer.throttled(clock.now, 429, 3600.0)
    pacer.release()
    await settle()
    assert len(queue.halted) == 3
    assert "3600 s" in queue.halted[4]
    pacer.throttled(clock.now, 429, 3600.0)
    pacer.release()

    await clock.advance(61)
    probing = Queue(pacer)
    await probing.join(3)
    assert (len(probing.admitted), len(probing.halted)) == (1, 2)
    pacer.throttled(clock.now, 429, 1.0)  # a pause that can be waited for
    pacer.release()
    await clock.advance(1.1)
    waiting = Queue(pacer)
    await waiting.join(3)
    assert (len(waiting.admitted), len(waiting.halted)) == (2, 0)
    await waiting.leave()


# -------------------------------------------------------------------------------------- halting


async def test_a_halt_wakes_those_who_wait_and_those_who_sleep_at_once(clock: FakeClock) -> None:
    pacer = a_pacer(clock, max_concurrency=1)
    halt = Halt()
    queue = Queue(pacer, halt)
    await queue.join(3)
    sleeper = asyncio.create_task(pacer.sleep(3_600, halt))
    await settle()
    halt.halt("enough")
    await settle()

    assert queue.halted == {1: "enough", 2: "enough"}
    with pytest.raises(HaltedError, match="enough"):
        sleeper.result()
    assert clock.next_at is None  # the sleeper's timer is gone
    pacer.release()
    assert pacer.in_flight == 0


async def test_a_halt_leaves_those_alone_who_do_not_share_it(clock: FakeClock) -> None:
    pacer = a_pacer(clock, max_concurrency=1)
    halted, other = Queue(pacer), Queue(pacer)
    await halted.join(2)
    await other.join(1)
    halted.halt.halt("enough")
    pacer.release()
    await settle()

    assert other.admitted == [0]


@pytest.mark.parametrize(
    "wait",
    [lambda pacer, halt: pacer.admit(halt), lambda pacer, halt: pacer.sleep(1, halt)],
    ids=["admit", "sleep"],
)
async def test_once_halted_nobody_begins_to_wait(
    clock: FakeClock, wait: Callable[[Pacer, Halt], Awaitable[object]]
) -> None:
    pacer = a_pacer(clock)
    halt = Halt()
    halt.halt("enough")

    with pytest.raises(HaltedError, match="enough"):
        await wait(pacer, halt)
    assert pacer.in_flight == 0
    assert clock.next_at is None


def test_the_first_reason_of_a_halt_counts() -> None:
    halt = Halt()
    halt.halt("first")
    halt.halt("second")

    assert halt.reason == "first"


def test_a_halt_reaches_those_below_it_and_not_those_above() -> None:
    client = Halt()
    batch, other = Halt(client), Halt(client)
    batch.halt("batch")
    assert [halt.reason for halt in (client, batch, other)] == [None, "batch", None]
    client.halt("client")

    assert [halt.reason for halt in (client, batch, other)] == ["client", "batch", "client"]
    assert Halt(client).reason == "client"


# ----------------------------------------------------------------------- sleeping, draining, budget


async def test_a_sleep_takes_its_time(clock: FakeClock) -> None:
    began = clock.now
    await clock.run(a_pacer(clock).sleep(7.5, Halt()))

    assert clock.now - began == pytest.approx(7.5)


async def test_a_cancelled_sleep_leaves_no_timer(clock: FakeClock) -> None:
    sleeper = asyncio.create_task(a_pacer(clock).sleep(7.5, Halt()))
    await settle()
    sleeper.cancel()
    await settle()

    assert sleeper.cancelled()
    assert clock.next_at is None


async def test_drained_waits_for_the_last_one_in_flight(clock: FakeClock) -> None:
    pacer = a_pacer(clock)
    assert pacer.try_admit() is not None
    assert pacer.try_admit() is not None
    drained = asyncio.create_task(pacer.drained(30))
    await settle()
    pacer.release()
    await settle()
    assert not drained.done()
    pacer.release()

    await asyncio.wait_for(drained, 10)


async def test_drained_returns_at_once_where_nothing_is_in_flight(clock: FakeClock) -> None:
    await asyncio.wait_for(a_pacer(clock).drained(3_600), 10)


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

    assert 0.0 <= pacer.backoff_s(attempt) <= ceiling


@pytest.mark.parametrize(("attempt", "ceiling"), [(1, 0.5), (2, 1), (3, 2), (7, 30), (50, 30)])
def test_a_backoff_is_drawn_from_the_whole_of_its_range(attempt: int, ceiling: float) -> None:
    pacer = a_pacer(FakeClock())
    draws = [pacer.backoff_s(attempt) for _ in range(2_000)]

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
            await self.queue.join()
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
    "accept": lambda pacer, at, _: pacer.accepted(at),
    "throttle": lambda pacer, at, number: pacer.throttled(at, 429, [None, 1.0, 3.0][number % 3]),
    "refuse": lambda pacer, at, _: pacer.refused(at),
    "lose": lambda pacer, at, _: pacer.failed(at, REFUSED),
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
    halted=st.booleans(),
)
def test_no_slot_is_ever_lost(
    *,
    slots: int,
    max_rate: float | None,
    adaptive: bool,
    actions: list[tuple[str, int]],
    halted: bool,
) -> None:
    async def check() -> None:
        clock = FakeClock()
        pacer = a_pacer(clock, max_concurrency=slots, max_rate=max_rate, adaptive=adaptive)
        traffic = Traffic(clock, pacer, slots)
        for action, number in actions:
            await traffic.happens(action, number)
        if halted:
            traffic.queue.halt.halt("enough")
            await traffic.look()
            assert all(task.done() for task in traffic.queue.tasks)
        await traffic.ends()

    asyncio.run(check())
