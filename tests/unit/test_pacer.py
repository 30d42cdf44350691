"""The pacer by a clock that the tests move: slots, rate, cool-downs, stops."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pacer_queue import Queue, clock, slots, throttled

from everlytic_async._pacer import Pacer
from everlytic_async._retry import Backoff
from everlytic_async._waiting import DeadlineExceededError, StopToken
from everlytic_async.errors import NotSentError
from everlytic_async.events import CoolDown, Dispatcher, Event, RateChanged
from everlytic_async.policies import RetryPolicy
from support.clock import FakeClock, settle
from support.fake_delivery import make_pacer

__all__ = ["clock"]


# ------------------------------------------------------------------------------------------- slots


async def test_no_more_start_than_there_are_slots_and_each_in_turn(clock: FakeClock) -> None:
    pacer = make_pacer(clock, slots(3))
    queue = Queue(pacer)
    await queue.join(6)
    assert queue.admitted == [0, 1, 2]
    assert pacer.try_acquire() is None
    await queue.release(3)

    assert queue.admitted == [0, 1, 2, 3, 4, 5]
    assert pacer.in_flight == 3


async def test_a_free_slot_is_taken_without_waiting_but_never_before_a_waiter(
    clock: FakeClock,
) -> None:
    pacer = make_pacer(clock, slots(1))
    queue = Queue(pacer)
    assert pacer.try_acquire() == clock.now
    await queue.join()
    pacer.release()

    assert pacer.try_acquire() is None  # the slot belongs to the waiter
    await settle()
    assert queue.admitted == [0]


async def test_a_waiter_whose_time_has_come_is_not_overtaken(clock: FakeClock) -> None:
    pacer = make_pacer(clock, slots(9, max_rate=1))
    queue = Queue(pacer)
    await queue.join(2)
    clock.now += 5  # but the timer has not fired yet

    assert pacer.try_acquire() is None
    await clock.advance(0)
    assert queue.admitted == [0, 1]


async def test_a_cancelled_waiter_is_skipped_and_uses_up_no_rate(clock: FakeClock) -> None:
    pacer = make_pacer(clock, slots(9, max_rate=1))
    queue = Queue(pacer)
    await queue.join(3)
    queue.tasks[1].cancel()
    await clock.advance(1.0)

    assert queue.admitted == [0, 2]


@pytest.mark.parametrize("ended", ["cancelled", "stopped"])
async def test_a_waiter_that_ends_as_it_gets_its_slot_loses_none(
    clock: FakeClock, ended: str
) -> None:
    pacer = make_pacer(clock, slots(1))
    queue = Queue(pacer)
    await queue.join(3)
    pacer.release()  # the second one's turn, and it does not know yet
    if ended == "cancelled":
        queue.tasks[1].cancel()
        await settle()
        assert queue.admitted == [0, 2]
    else:
        queue.token.stop("enough")
        await settle()
        assert queue.admitted == [0, 1]  # it is in flight already, and so finishes
        assert queue.stopped == {2: "enough"}
    assert pacer.in_flight == 1


async def test_retries_go_before_orders_that_were_never_sent(clock: FakeClock) -> None:
    pacer = make_pacer(clock, slots(1))
    queue = Queue(pacer)
    await queue.join(3)
    await queue.join(2, is_retry=True)
    await queue.release(4)

    assert queue.admitted == [0, 3, 4, 1, 2]


async def test_a_waiter_whose_deadline_passes_makes_room(clock: FakeClock) -> None:
    pacer = make_pacer(clock, slots(1))
    queue = Queue(pacer)
    await queue.join(2)
    retry = asyncio.create_task(pacer.acquire(StopToken(), until=clock.now + 5, is_retry=True))
    await clock.advance(5)
    await queue.release()

    with pytest.raises(DeadlineExceededError):
        retry.result()
    assert queue.admitted == [0, 1]


# -------------------------------------------------------------------------------------- the rate


async def started(
    clock: FakeClock,
    pacer: Pacer,
    *,
    count: int,
    senders: int,
    holds: Callable[[], float] = lambda: 0.0,
    idles: Callable[[], float] = lambda: 0.0,
) -> list[float]:
    """When `count` attempts started, of senders that hold their slots and idle in between."""
    moments: list[float] = []
    token = StopToken()

    async def sender() -> None:
        while len(moments) < count:
            started_at = pacer.try_acquire()
            if started_at is None:
                started_at = await pacer.acquire(token)
            assert started_at == clock.now
            moments.append(started_at)
            if (held_s := holds()) > 0:
                await clock.sleep(held_s)
            pacer.release()
            if (idle_s := idles()) > 0:
                await clock.sleep(idle_s)

    async def all_of_them() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(senders):
                group.create_task(sender())

    await clock.run(all_of_them())
    assert pacer.in_flight == 0
    return moments[:count]


def most_in_a_second(moments: list[float]) -> int:
    """The most moments in any window of one second, its end excluded."""
    most = first = 0
    for last, moment in enumerate(moments):
        while moment - moments[first] >= 1.0:
            first += 1
        most = max(most, last - first + 1)
    return most


@given(
    rate=st.floats(0.3, 60) | st.integers(1, 60),
    senders=st.integers(1, 12),
    late_s=st.floats(0, 0.03),
    hold_s=st.floats(0, 0.5),
    idle_s=st.sampled_from([0.0, 0.0, 0.7, 5.0]),
    adaptive=st.booleans(),
    seed=st.integers(0, 99),
)
# A rate of which catching up with late timers would start one more in a second.
@example(rate=10.875, senders=1, late_s=1 / 64, hold_s=0, idle_s=0, adaptive=False, seed=0)
def test_over_any_second_no_more_start_than_the_rate_and_one(
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
        moments = await started(
            clock,
            make_pacer(clock, slots(senders, rate, adaptive=adaptive)),
            count=int(2.5 * rate) + 5,
            senders=senders,
            holds=lambda: rng.choice([0.0, rng.uniform(0, hold_s)]),
            idles=lambda: rng.choice([0.0, 0.0, 0.0, rng.uniform(0, idle_s)]),
        )
        assert most_in_a_second(moments) <= rate + 1

    asyncio.run(check())


@given(
    rate=st.floats(1, 400) | st.sampled_from([100, 250, 400]),
    late_s=st.floats(0, 0.005),
    seed=st.integers(0, 99),
)
def test_the_rate_is_reached_though_timers_are_late(rate: float, late_s: float, seed: int) -> None:
    rng = random.Random(seed)

    async def check() -> None:
        clock = FakeClock(lateness=lambda: rng.uniform(0, late_s))
        count = int(max(60, 2 * rate))
        moments = await started(clock, make_pacer(clock, slots(8, rate)), count=count, senders=8)
        reached = (count - 1) / (moments[-1] - moments[0])
        assert 0.98 * rate <= reached <= 1.02 * rate

    asyncio.run(check())


@pytest.mark.parametrize(("late_s", "at_once"), [(0.0, 1), (0.01, 4), (0.1, 8)])
async def test_a_late_timer_is_caught_up_with(late_s: float, at_once: int) -> None:
    clock = FakeClock(lateness=lambda: late_s)
    queue = Queue(make_pacer(clock, slots(100, max_rate=400)))
    await queue.join(60)
    await clock.advance(1)
    await queue.leave()

    assert max(Counter(queue.admitted_at.values()).values()) == at_once


@pytest.mark.parametrize("before", ["nothing", "idle", "cool-down"])
async def test_starts_are_spread_evenly_and_nothing_is_saved_up_for_a_burst(
    clock: FakeClock, before: str
) -> None:
    pacer = make_pacer(clock, slots(50, max_rate=10))
    if before == "idle":
        await pacer.acquire(StopToken())
        pacer.release()
        await clock.advance(60)
    elif before == "cool-down":
        pacer.on_throttled(clock.now, throttled(5.0))
    moments = await started(clock, pacer, count=30, senders=30)

    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    slack_s = 0.0 if before == "nothing" else 0.021  # catching up with a late timer
    assert min(gaps) >= 0.1 - slack_s - 1e-9
    assert moments[-1] - moments[0] == pytest.approx(29 * 0.1, abs=slack_s + 1e-6)


# -------------------------------------------------------------------------------- the cool-down


def throttle(pacer: Pacer, clock: FakeClock, retry_after_s: float | None) -> float:
    """A throttle of an attempt that started now; how long all sending pauses."""
    pacer.on_throttled(clock.now, throttled(retry_after_s))
    return pacer.remaining_cool_down_s()


@pytest.mark.parametrize(
    ("retry_after_s", "least_s", "most_s"),
    [(0.0, 0.0, 0.0), (5.0, 5.0, 5.25), (86_400.0, 60.0, 63.0), (None, 1e-9, 2.0)],
    ids=["at once", "a Retry-After", "over the cap", "backoff"],
)
async def test_a_pause_has_its_bounds_and_a_little_jitter(
    clock: FakeClock, retry_after_s: float | None, least_s: float, most_s: float
) -> None:
    retry = RetryPolicy(base_s=2.0, retry_after_cap_s=60)
    pacers = [make_pacer(clock, retry=retry, seed=seed) for seed in range(20)]
    pauses = [throttle(pacer, clock, retry_after_s) for pacer in pacers]

    assert least_s <= min(pauses) <= max(pauses) <= most_s
    assert len(set(pauses)) == (20 if most_s else 1)
    assert all((pacer.try_acquire() is None) is (most_s > 0) for pacer in pacers)


async def test_throttles_in_a_row_double_the_pause_up_to_the_cap_until_an_acceptance(
    clock: FakeClock,
) -> None:
    retry = RetryPolicy(base_s=1.0, cap_s=16.0)
    longest = [0.0] * 7
    for seed in range(60):
        pacer = make_pacer(clock, retry=retry, seed=seed)
        for number in range(7):
            await clock.advance(pacer.remaining_cool_down_s() + 0.001)
            longest[number] = max(longest[number], throttle(pacer, clock, None))
        pacer.on_accepted(clock.now)
        await clock.advance(20)
        assert throttle(pacer, clock, None) <= 1.0

    for seconds, ceiling in zip(longest, [1, 2, 4, 8, 16, 16, 16], strict=True):
        assert 0.8 * ceiling < seconds <= ceiling


@given(
    base_s=st.floats(0.001, 10),
    cap_s=st.floats(0.001, 300),
    attempt=st.integers(1, 12) | st.integers(1, 100_000),
    seed=st.integers(0, 1_000),
)
def test_a_backoff_is_between_nothing_and_the_doubling_ceiling(
    base_s: float, cap_s: float, attempt: int, seed: int
) -> None:
    backoff = Backoff(RetryPolicy(base_s=base_s, cap_s=cap_s), random.Random(seed))
    ceiling = cap_s if attempt > 40 else min(cap_s, base_s * 2 ** (attempt - 1))

    assert 0.0 <= backoff.pause_s(attempt) <= ceiling


async def test_a_burst_of_refusals_is_one_throttle(clock: FakeClock) -> None:
    events: list[Event] = []
    pacer = make_pacer(clock, dispatcher=Dispatcher((events.append,)))
    started_at = clock.now
    await clock.advance(0.01)
    pauses = set()
    for _ in range(32):
        pacer.on_throttled(started_at, throttled())
        pauses.add(pacer.remaining_cool_down_s())

    assert len(pauses) == len(events) == 1
    assert pauses.pop() <= 0.5


async def test_a_longer_retry_after_extends_the_pause_and_a_shorter_one_does_not(
    clock: FakeClock,
) -> None:
    pacer = make_pacer(clock)
    first_s = throttle(pacer, clock, 10.0)
    assert throttle(pacer, clock, 1.0) == first_s
    assert throttle(pacer, clock, 30.0) >= 30.0


async def test_a_hook_that_stops_waiters_leaves_no_slot_taken(clock: FakeClock) -> None:
    token = StopToken()

    def stop(event: Event) -> None:
        if isinstance(event, RateChanged):
            token.stop("enough")

    pacer = make_pacer(clock, slots(1, adaptive=True), dispatcher=Dispatcher((stop,)))
    throttle(pacer, clock, 1.0)
    queue, others = Queue(pacer, token), Queue(pacer)
    await queue.join(2)
    await others.join(1)
    await clock.advance(3)

    assert queue.stopped == {0: "enough", 1: "enough"}
    assert others.admitted == [0]
    assert pacer.in_flight == 1


# -------------------------------------------------------------------------- a pause from elsewhere


@pytest.mark.parametrize("adaptive", [False, True])
async def test_no_attempt_starts_until_the_longest_pause_is_over(
    clock: FakeClock, *, adaptive: bool
) -> None:
    events: list[Event] = []
    pacer = make_pacer(clock, slots(1, adaptive=adaptive), dispatcher=Dispatcher((events.append,)))
    await pacer.acquire(StopToken())
    waiting = asyncio.create_task(pacer.acquire(StopToken()))
    await settle()
    rate, started_at = pacer.rate(), clock.now
    pacer.pause(10.0, "long")
    pacer.pause(5.0, "short")
    pacer.release()
    assert 10.0 <= await clock.run(asyncio.wait_for(waiting, None)) - started_at <= 10.2
    [event] = events
    assert isinstance(event, CoolDown)
    assert (event.status, event.reason) == (None, "long")
    assert event.wait_s == pytest.approx(10, rel=0.02)
    assert pacer.rate() == rate  # a pause says nothing about the limit


# ------------------------------------------------------------------------------------ in any order

ENDS: dict[str, Callable[[Pacer, float, int], None]] = {
    "accept": lambda pacer, at, _: pacer.on_accepted(at),
    "throttle": lambda pacer, at, number: pacer.on_throttled(
        at, throttled([None, 1.0, 3.0][number % 3])
    ),
    "refuse": lambda pacer, at, _: pacer.on_answered(at),
    "lose": lambda pacer, at, _: pacer.on_failed(at, NotSentError("refused")),
}


class Traffic:
    """Senders that come, give up, and get all kinds of answers; no slot may be lost."""

    def __init__(self, clock: FakeClock, pacer: Pacer, limit: int) -> None:
        self.clock = clock
        self.pacer = pacer
        self.limit = limit
        self.queue = Queue(pacer)
        self.in_flight: list[float] = []  # when each started
        self._seen = 0

    async def act(self, action: str, number: int) -> None:
        if action == "join":
            await self.queue.join(is_retry=number % 3 == 0)
        elif action == "advance":
            await self.clock.advance(number)
        elif action == "cancel" and self.queue.tasks:
            self.queue.tasks[number % len(self.queue.tasks)].cancel()
        elif action in ENDS and self.in_flight:
            ENDS[action](self.pacer, self.in_flight.pop(number % len(self.in_flight)), number)
            self.pacer.release()
        await self.check()

    async def check(self) -> None:
        await settle()
        new = self.queue.admitted[self._seen :]
        self._seen += len(new)
        self.in_flight.extend(self.queue.admitted_at[number] for number in new)
        assert len(self.in_flight) == self.pacer.in_flight <= self.limit

    async def end(self) -> None:
        """All that still wait get a turn, once those before them have ended."""
        while self.in_flight or not all(task.done() for task in self.queue.tasks):
            if self.in_flight:
                await self.act("accept", 0)
            else:
                self.clock.fire_next()
                await self.check()
        assert self.pacer.in_flight == 0


@given(
    limit=st.integers(1, 4),
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
    limit: int,
    max_rate: float | None,
    adaptive: bool,
    actions: list[tuple[str, int]],
    stopped: bool,
) -> None:
    async def check() -> None:
        clock = FakeClock()
        pacer = make_pacer(clock, slots(limit, max_rate, adaptive=adaptive))
        traffic = Traffic(clock, pacer, limit)
        for action, number in actions:
            await traffic.act(action, number)
        if stopped:
            traffic.queue.token.stop("enough")
            await traffic.check()
            assert all(task.done() for task in traffic.queue.tasks)
        await traffic.end()

    asyncio.run(check())
