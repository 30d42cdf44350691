"""When the next attempt may begin: slots, rate, the shared cool-down, outages.

One `Pacer` serves all senders of a client. It holds no task and never sleeps: whoever may not go on
waits for a future, in turn, and a single timer lets the next one go. Clock and timer are handed in.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from everlytic_async._adaptive import LimitFinder
from everlytic_async._trouble import Trouble
from everlytic_async.errors import EverlyticError
from everlytic_async.events import CoolDown, Dispatcher, OutageEnded, RateChanged
from everlytic_async.policies import Pacing, RetryPolicy

# A late timer is made good by going faster for as long as this, never by a burst; by less of it
# where a limiter is known to take less at once.
_CATCH_UP_S = 0.02
# An event loop's timers know milliseconds, and are late by one on an average day. Where less than
# this can be made good, the last of them is waited for awake: the loop goes round. What is due in
# a microsecond is due at the next round; no sooner, so that a clock that is handed in goes on.
_GRAIN_S = 0.0011
_AWAKE_S = 0.0007
_AT_ONCE_S = 1e-6
# Jitter on top of a Retry-After, as a share of it, so that several processes don't resume as one.
_COOL_DOWN_JITTER = 0.01
# With adaptive pacing the rate falls as well, so that a throttle without a Retry-After needs no
# more than this share of the backoff.
_ADAPTIVE_SHARE = 0.25
# ... and no more than such a multiple of the time in which a bucket that is tight is empty.
_TIGHT_PAUSES = 2.5
_MAX_RATE = 1_000_000  # more than this no machine sends
# At a quarter more than what so many slots can send at the shortest latency seen, and never further
# apart than it takes to work off an order and its answer. What is due within the slack goes at once
# and needs no timer, for those have no more than milliseconds.
_SPREAD_GAIN = 1.25
_SPREAD_S = 0.0006
_SPREAD_SLACK_S = 0.0005
_SPREAD_LATE_S = 0.002
_BUDGET = 500.0
_RETRY_COST = 5.0
_REFUND = 1.0


class Timer(Protocol):
    """What `asyncio.loop.call_later` returns."""

    def cancel(self) -> None:
        """Don't call back."""


CallLater = Callable[[float, Callable[[], None]], Timer]


def _loop_call_later(delay_s: float, callback: Callable[[], None]) -> Timer:
    loop = asyncio.get_running_loop()
    # Any time that is not over when the loop comes to look is a millisecond to it.
    return loop.call_soon(callback) if delay_s <= _AT_ONCE_S else loop.call_later(delay_s, callback)


class LateError(Exception):
    """Waiting was given up: the turn had not come in time."""


class HaltedError(Exception):
    """Waiting was given up: the batch stopped, the client closed, or the outage lasts too long."""


def _too_late(waiter: asyncio.Future[float]) -> None:
    if not waiter.done():
        waiter.set_exception(LateError())


class Halt:
    """A switch that ends the waiting of all who share it, at once and for good."""

    __slots__ = ("__weakref__", "_children", "_waiters", "reason")

    def __init__(self, parent: Halt | None = None) -> None:
        #: Why; None as long as waiting is worth while.
        self.reason: str | None = None
        self._waiters: set[asyncio.Future[float]] = set()
        self._children: weakref.WeakSet[Halt] = weakref.WeakSet()
        if parent is not None:
            self.reason = parent.reason
            parent._children.add(self)  # noqa: SLF001 - one of its own kind

    def halt(self, reason: str) -> None:
        """Wake everybody who waits with a `HaltedError`; the first reason counts."""
        if self.reason is not None:
            return
        self.reason = reason
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(HaltedError(reason))
        for child in tuple(self._children):
            child.halt(reason)

    async def wait(self, waiter: asyncio.Future[float]) -> float:
        """Wait for the future, or for the halt; the future's result.

        Raises:
            HaltedError: when halted before, or meanwhile.
        """
        if self.reason is not None:
            raise HaltedError(self.reason)
        self._waiters.add(waiter)
        try:
            return await waiter
        finally:
            self._waiters.discard(waiter)


class RetryBudget:
    """How many retries a client has left: it keeps a broken endpoint from being hammered.

    500 tokens; a retry takes 5, a success gives 1 back: botocore's standard mode.
    """

    def __init__(self) -> None:
        self.tokens = _BUDGET

    def take(self) -> bool:
        """Pay for a retry; False where the budget does not allow it."""
        if self.tokens < _RETRY_COST:
            return False
        self.tokens -= _RETRY_COST
        return True

    def refund(self) -> None:
        """Give back after a success."""
        if self.tokens < _BUDGET:
            self.tokens = min(_BUDGET, self.tokens + _REFUND)


class _Spread:
    """Takes asunder those that would begin together, as TCP's pacing does with packets.

    Orders that were answered together would otherwise be sent together again, and wait for one
    another at both ends for as long as a batch lasts.
    """

    __slots__ = ("_least_s", "due")

    def __init__(self) -> None:
        #: When the next may begin without being in the way of those before.
        self.due = -math.inf
        self._least_s = math.inf  # the shortest latency seen; nothing is spread before the first

    def holds(self, now: float) -> bool:
        """Whether the next has to wait."""
        return self.due > now + _SPREAD_SLACK_S

    def begun(self, since: float, at_once: int) -> None:
        """One begins that was free to since then, where so many may be in flight."""
        if self._least_s < math.inf:
            gap_s = min(_SPREAD_S, self._least_s / (_SPREAD_GAIN * at_once))
            self.due = max(self.due, since) + gap_s

    def answered(self, after_s: float) -> None:
        """One was accepted so long after it had begun."""
        self._least_s = min(self._least_s, after_s)


class Pacer:
    """Admits attempts, in turn, as fast as is allowed and no faster."""

    def __init__(
        self,
        pacing: Pacing,
        retry: RetryPolicy,
        *,
        dispatcher: Dispatcher | None = None,
        clock: Callable[[], float] = time.monotonic,
        call_later: CallLater = _loop_call_later,
        rng: random.Random | None = None,
    ) -> None:
        self._slots = pacing.max_concurrency
        self._max_rate = pacing.max_rate
        self._finder = LimitFinder() if pacing.adaptive else None
        self._retry = retry
        self._dispatcher = dispatcher or Dispatcher()
        self._clock = clock
        self._call_later = call_later
        self._rng = rng or random.Random()  # noqa: S311 - jitter is no secret
        self._waiters: deque[asyncio.Future[float]] = deque()
        self._timer: Timer | None = None
        #: Whether there is more than the spread to wait for.
        self._timed = pacing.max_rate is not None
        self._resume_at = -math.inf
        self._next_at = -math.inf
        self._spread = _Spread()
        # The admissions of the last second's worth: over any second, at most the rate plus one.
        self._admissions: deque[float] = deque(maxlen=1 + int(min(pacing.max_rate or 0, _MAX_RATE)))
        self._throttles = 0  # in a row, a burst of refusals counted once
        self._throttled_at = -math.inf  # when the last burst was first heard of
        self.trouble = Trouble(retry)
        #: Whether the endpoint ever accepted an order of this client.
        self.accepted_any = False
        self._drained: asyncio.Future[float] | None = None
        self.in_flight = 0
        self.budget = RetryBudget()

    # ------------------------------------------------------------------------------- admission

    def try_admit(self) -> float | None:
        """Take a slot if one is free right now and nobody waits before us.

        Returns:
            When it was taken, by the clock; None where it was not.
        """
        if self._waiters:
            return None
        now = self._now()
        if self.trouble.probing and self.in_flight == 0:
            self.trouble.update(now)
        if self.in_flight >= self._most_in_flight() or self._due(now) > now:
            return None
        return self._admit(now, now, now)

    async def admit(self, halt: Halt, until: float | None = None) -> float:
        """Wait for a slot and the time to use it. Every admission is followed by a `release`.

        Args:
            halt: Ends the waiting.
            until: When to give up, by the clock.

        Returns:
            When it was taken, by the clock.

        Raises:
            HaltedError: when there is no use in waiting any longer.
            LateError: its turn had not come by then.
        """
        if halt.reason is not None:
            raise HaltedError(halt.reason)
        admitted_at = self.try_admit()
        if admitted_at is not None:
            return admitted_at
        if self.trouble.gave_up is not None:
            raise HaltedError(self.trouble.gave_up)
        waiter: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._serve()
        timer = None
        if until is not None:
            timer = self._call_later(max(0.0, until - self._clock()), partial(_too_late, waiter))
        try:
            return await halt.wait(waiter)
        except BaseException:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.release()  # admitted and cancelled in the same moment
            elif waiter in self._waiters:
                self._waiters.remove(waiter)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def release(self) -> None:
        """Give the slot back."""
        self.in_flight -= 1
        if self._waiters:
            self._serve()
        if self._drained is not None and self.in_flight == 0 and not self._drained.done():
            self._drained.set_result(self._clock())

    async def drained(self, timeout_s: float) -> None:
        """Wait until nothing is in flight, but no longer than this."""
        if self.in_flight:
            self._drained = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._drained], timeout=timeout_s)

    async def sleep(self, seconds: float, halt: Halt) -> None:
        """Back off, unless waiting is given up meanwhile.

        Raises:
            HaltedError: when there is no use in waiting any longer.
        """
        waiter: asyncio.Future[float] = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(self._clock())

        timer = self._call_later(seconds, wake)
        try:
            await halt.wait(waiter)
        finally:
            timer.cancel()

    def _most_in_flight(self) -> int:
        finder = self._finder
        return self._slots if finder is None else min(self._slots, finder.window)

    def _admit(self, now: float, earliest: float, spread_from: float) -> float:
        self.in_flight += 1
        rate = None
        if self._timed:
            rate = self.rate(now)
            if rate is not None:
                self._next_at = max(self._next_at, earliest) + 1.0 / rate
            if self._max_rate is not None:
                self._admissions.append(now)
        if rate is None:
            self._spread.begun(spread_from, self._most_in_flight())
        return now

    def _now(self) -> float:
        """The clock; once a pause is over, after what its refusal tells has been worked out.

        That takes milliseconds, for which nobody is to be thought late.
        """
        now = self._clock()
        finder = self._finder
        if finder is not None and finder.refusal_pending and now >= self._resume_at:
            finder.plan(self.in_flight)
            now = self._clock()
            self._dispatcher.emit(RateChanged(at=now, rate=self.rate(now), limit=finder.limit))
        return now

    def _due(self, now: float) -> float:
        """When the next admission is due, slots aside."""
        due = self._spread.due if self._spread.holds(now) else -math.inf
        if not self._timed:
            return due
        if self.trouble.probing and self.in_flight > 0:
            return math.inf  # one probe at a time: its end serves the next
        due = max(due, self._resume_at, self._next_at)
        if len(self._admissions) == self._admissions.maxlen:
            due = max(due, self._admissions[0] + 1.0)
        return due

    def _on_time(self) -> None:
        # Those that it was set for began to wait before, and keep their times.
        self._serve(_SPREAD_LATE_S)

    def _serve(self, late_s: float = 0.0) -> None:
        """Admit those whose time has come, perhaps so long ago; set the timer for the next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiters:
            now = self._now()  # hooks may be told of something by it, and halt who waits
            if not self._waiters:
                return
            if self._waiters[0].done():  # halted or cancelled
                self._waiters.popleft()
                continue
            if self.in_flight >= self._most_in_flight():
                return  # a release serves the next
            due = self._due(now)
            catch_up_s = _CATCH_UP_S
            if self._finder is not None and self._finder.slack_s < catch_up_s:
                catch_up_s = self._finder.slack_s
            if due > now:
                if due < math.inf:
                    wait_s = due - now
                    if catch_up_s < _AWAKE_S:
                        wait_s = max(_AT_ONCE_S, wait_s - _GRAIN_S)
                    self._timer = self._call_later(wait_s, self._on_time)
                return
            # Lateness of the timer is made good, idleness and a cool-down are not.
            earliest = max(now - catch_up_s, self._resume_at)
            spread_from = max(now - late_s, self._resume_at)
            self._waiters.popleft().set_result(self._admit(now, earliest, spread_from))

    # ---------------------------------------------------------------------------- what is learnt

    def rate(self, now: float | None = None) -> float | None:
        """Orders per second that may begin at present; None where nothing bounds them."""
        rate = math.inf if self._max_rate is None else self._max_rate
        if self._finder is not None and self._finder.bounded:
            rate = min(rate, self._finder.rate(self._clock() if now is None else now))
        return rate if rate < math.inf else None

    def cool_down_s(self) -> float:
        """Seconds until the shared cool-down ends; 0 when there is none."""
        return max(0.0, self._resume_at - self._clock())

    def backoff_s(self, attempt: int) -> float:
        """The pause after the n-th attempt in a row, from 1: exponential, with full jitter."""
        policy = self._retry
        ceiling = min(policy.cap_s, policy.base_s * 2.0 ** min(attempt - 1, 64))
        return self._rng.uniform(0.0, ceiling)

    def _adaptive_share(self, finder: LimitFinder) -> float:
        """How much of the backoff is paused for."""
        tight_for_s, base_s = finder.tight_for_s, self._retry.base_s
        if tight_for_s is None or not base_s:
            return _ADAPTIVE_SHARE
        return min(_ADAPTIVE_SHARE, _TIGHT_PAUSES * tight_for_s / base_s)

    def accepted(self, admitted_at: float, left_at: float | None = None) -> None:
        """An attempt was accepted.

        Args:
            admitted_at: When the attempt was admitted.
            left_at: When its body had left; None where that is not known.
        """
        self.budget.refund()
        self._throttles = 0
        self.accepted_any = True
        self.refused(admitted_at)
        now = self._clock()
        self._spread.answered(now - admitted_at)
        if self._finder is not None:
            self._finder.accepted(admitted_at, left_at, now)

    def refused(self, admitted_at: float) -> None:
        """An order was refused (or accepted): the endpoint is not in trouble.

        Args:
            admitted_at: When the attempt was admitted.
        """
        started_at = self.trouble.answered(admitted_at)
        if started_at is not None:
            now = self._clock()
            self._dispatcher.emit(OutageEnded(at=now, lasted_s=now - started_at))
            self._resume_at = now
            self._serve()

    def throttled(
        self,
        admitted_at: float,
        status: int | None,
        retry_after_s: float | None,
        left_at: float | None = None,
    ) -> None:
        """An attempt was answered with 429, 503 or 408: everybody pauses, and the rate falls.

        Args:
            admitted_at: When the attempt was admitted.
            status: What it was answered with.
            retry_after_s: What the endpoint asked for; None for the backoff instead.
            left_at: When its body had left; None where that is not known.
        """
        now = self._clock()
        # Of a burst that was in flight together, the first one speaks for all; the others can only
        # ask for a longer pause.
        first = admitted_at > self._throttled_at
        if retry_after_s is not None:
            pause = min(retry_after_s, self._retry.retry_after_cap_s)
            pause *= 1.0 + self._rng.uniform(0.0, _COOL_DOWN_JITTER)
        elif first:
            self._throttles += 1
            pause = self.backoff_s(self._throttles)
            if self._finder is not None:
                pause *= self._adaptive_share(self._finder)
        else:
            pause = 0.0
        if self._finder is not None and not self._finder.measured:
            # The burst is told by all that have left by now: their answers are to be heard before,
            # where that takes no longer than the longest pause would be.
            pause = max(pause, min(now - admitted_at, _ADAPTIVE_SHARE * self._retry.base_s))
        self._resume_at = max(self._resume_at, now + pause)
        self._next_at = max(self._next_at, self._resume_at)
        self._timed = True
        if self._finder is not None:
            self._finder.refused(admitted_at, left_at, now, self._resume_at)
        reason = f"the endpoint answered {status}"
        if first:
            self._throttled_at = now
            self._dispatcher.emit(CoolDown(at=now, wait_s=pause, status=status, reason=reason))
        if retry_after_s is not None and retry_after_s > self._retry.retry_after_cap_s:
            self.trouble.quota_used_up(
                now, f"{reason} and asked to wait {retry_after_s:.0f} s: a quota is used up"
            )
            self._give_up()
        else:
            self.trouble.throttled(admitted_at)

    def pause(self, seconds: float, reason: str) -> None:
        """Pause everybody, as a cool-down does, because of what is known from elsewhere.

        It says nothing of this client's own rate: that is learnt from its own answers alone. Where
        a cool-down lasts longer it does nothing, and it is no longer than the longest Retry-After
        that is obeyed.
        """
        now = self._clock()
        pause = min(seconds, self._retry.retry_after_cap_s)
        pause *= 1.0 + self._rng.uniform(0.0, _COOL_DOWN_JITTER)
        if now + pause <= self._resume_at:
            return
        self._resume_at = now + pause
        self._next_at = max(self._next_at, self._resume_at)
        self._timed = True
        self._dispatcher.emit(CoolDown(at=now, wait_s=pause, status=None, reason=reason))

    def failed(self, admitted_at: float, error: EverlyticError) -> None:
        """An attempt ended in none of the foreseen answers; see `Trouble`.

        Args:
            admitted_at: When the attempt was admitted.
            error: How it ended.
        """
        now = self._clock()
        if not self.trouble.failed(now, admitted_at, error):
            return
        self._timed = True
        pause = self.backoff_s(self.trouble.pauses)
        self._resume_at = max(self._resume_at, now + pause)
        status = getattr(error, "status", None)
        self._dispatcher.emit(CoolDown(at=now, wait_s=pause, status=status, reason=error.message))
        if self.trouble.gave_up is not None:
            self._give_up()

    def _give_up(self) -> None:
        """Let all who wait fail at once."""
        assert self.trouble.gave_up is not None  # noqa: S101 - asked before
        waiters, self._waiters = self._waiters, deque()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(HaltedError(self.trouble.gave_up))
