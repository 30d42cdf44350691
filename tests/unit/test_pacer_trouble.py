"""The pacer in trouble: one attempt at a time probes, until the endpoint answers or it gives up."""

from __future__ import annotations

import pytest
from pacer_queue import Queue, clock, slots, throttled

from everlytic_async._pacer import Pacer
from everlytic_async.errors import NotSentError
from everlytic_async.events import Dispatcher, Event, OutageEnded
from everlytic_async.policies import RetryPolicy
from support.clock import FakeClock, settle
from support.fake_delivery import make_pacer

__all__ = ["clock"]

LONG_S = 1_000.0
PATIENT = RetryPolicy(attempts=50, deadline_s=1e6)


async def fail(queue: Queue, *numbers: int) -> None:
    """These attempts fail; by default all that are in flight."""
    pacer = queue.pacer
    for number in numbers or queue.admitted[len(queue.admitted) - pacer.in_flight :]:
        pacer.on_failed(queue.admitted_at[number], NotSentError("it was refused"))
        pacer.release()
        await settle()


async def test_after_five_failures_in_a_row_one_attempt_at_a_time_probes(clock: FakeClock) -> None:
    queue = Queue(make_pacer(clock, slots(6), retry=PATIENT))
    await queue.join(20)
    await fail(queue, *range(5))
    # Four are not trouble yet. Then none starts before those have ended that are in flight.
    await clock.advance(LONG_S)
    assert len(queue.admitted) == 10
    await fail(queue, *range(5, 10))
    assert queue.pacer.in_flight == 0  # the first probe waits for its pause

    for probes in range(1, 4):
        await clock.advance(LONG_S)
        assert (queue.pacer.in_flight, len(queue.admitted)) == (1, 10 + probes)
        await fail(queue)
        assert queue.pacer.in_flight == 0
    await queue.leave()


async def test_an_answered_probe_ends_the_trouble_for_everybody_at_once(clock: FakeClock) -> None:
    events: list[Event] = []
    pacer = make_pacer(clock, slots(5), dispatcher=Dispatcher((events.append,)))
    queue = Queue(pacer)
    await queue.join(11)
    started_at = clock.now
    await fail(queue, *range(5))
    # The end of an order from before the trouble says nothing about it.
    pacer.on_accepted(queue.admitted_at[5] - 1)
    pacer.release()
    assert pacer.trouble.probing
    await fail(queue, *range(6, 9))
    await clock.advance(40)
    assert pacer.in_flight == 1

    pacer.on_answered(clock.now)
    await settle()
    assert not pacer.trouble.probing
    assert pacer.in_flight == 2  # no clock had to move
    ended = [event for event in events if isinstance(event, OutageEnded)]
    assert [event.lasted_s for event in ended] == [clock.now - started_at]


async def test_once_given_up_one_call_a_pause_probes_and_the_others_fail_at_once(
    clock: FakeClock,
) -> None:
    retry = RetryPolicy(attempts=2, base_s=1, cap_s=1, deadline_s=60)
    pacer = make_pacer(clock, slots(8), retry=retry)
    pacer.on_accepted(clock.now)
    queue = Queue(pacer)
    await queue.join(1_000)
    started_at = clock.now
    while not queue.tasks[-1].done():
        assert clock.now - started_at < 62
        await fail(queue) if pacer.in_flight else clock.fire_next()
        await settle()

    assert clock.now - started_at >= 60
    assert len(queue.admitted) > 20  # it went on probing
    assert "for 60 s" in queue.stopped[999]

    for pause_s in (1, 1, 100, 100):  # the last are longer than the deadline
        pacer.pause(pause_s, "a worker waits")
        later = Queue(pacer)
        await later.join(4)
        assert len(later.stopped) == 4  # in the pause
        await clock.advance(1.1 * pause_s)
        await admits(pacer, admitted=1, stopped=3)
    await clock.advance(61)  # by then it is forgotten
    await admits(pacer, admitted=4, stopped=0)


async def test_once_given_up_a_retry_after_of_0_lets_nobody_wait_any_longer(
    clock: FakeClock,
) -> None:
    pacer = make_pacer(clock, slots(8), retry=RetryPolicy(base_s=1, cap_s=1, deadline_s=60))
    pacer.on_accepted(clock.now)
    queue = Queue(pacer)
    await queue.join(1_000)
    started_at = clock.now
    while not (pacer.in_flight and clock.now - started_at >= 60):
        await fail(queue) if pacer.in_flight else clock.fire_next()
        await settle()
    pacer.on_throttled(clock.now, throttled(0.0))
    pacer.release()
    await settle()

    assert len(queue.admitted) + len(queue.stopped) == 1_000
    assert pacer.in_flight == 0


async def admits(pacer: Pacer, *, admitted: int, stopped: int) -> None:
    """So many calls are let through or stopped; then those in flight fail."""
    queue = Queue(pacer)
    await queue.join(admitted + stopped)
    assert (len(queue.admitted), len(queue.stopped)) == (admitted, stopped)
    await fail(queue)


async def test_an_endpoint_never_reached_is_given_up_after_the_policys_attempts(
    clock: FakeClock,
) -> None:
    queue = Queue(make_pacer(clock, slots(1), retry=RetryPolicy(attempts=3, deadline_s=1e6)))
    await queue.join(12)
    for _ in range(5 + 3):
        assert not queue.stopped
        await fail(queue)
        await clock.advance(LONG_S)

    assert queue.admitted == list(range(8))
    assert queue.stopped == dict.fromkeys(
        range(8, 12), "no order was accepted or refused in 8 attempts in a row"
    )
    assert queue.pacer.in_flight == 0


@pytest.mark.parametrize("accepted", [True, False])
async def test_a_retry_after_over_the_cap_ends_the_waiting_and_says_how_long(
    clock: FakeClock, *, accepted: bool
) -> None:
    events: list[Event] = []
    dispatcher = Dispatcher((events.append,))
    retry = RetryPolicy(retry_after_cap_s=60)
    pacer = make_pacer(clock, slots(2), retry=retry, dispatcher=dispatcher)
    queue = Queue(pacer)
    await queue.join(5)
    for _ in range(2):
        pacer.on_throttled(clock.now, throttled(3600.0))
        pacer.release()
        await settle()
    assert len(queue.stopped) == 3
    assert "3600 s" in queue.stopped[4]

    await clock.advance(61)
    probing = Queue(pacer)
    await probing.join(3)
    assert (len(probing.admitted), len(probing.stopped)) == (1, 2)
    if accepted:
        pacer.on_accepted(clock.now)
    else:
        pacer.on_throttled(clock.now, throttled(1.0))  # a pause that can be waited for
    pacer.release()
    ended = [event.lasted_s for event in events if isinstance(event, OutageEnded)]
    assert ended == [61] * accepted
    await clock.advance(1.1)
    waiting = Queue(pacer)
    await waiting.join(3)
    assert (len(waiting.admitted), len(waiting.stopped)) == (2, 0)
    await waiting.leave()
