"""When the next attempt may start: slots, rate, the shared cool-down, trouble.

One `Pacer` serves all calls of a client. It has no task and never sleeps: a call that has to wait
waits for a future, in turn, and a single timer wakes the next one. Clock and timer are handed in.
What the endpoint takes is worked out by `RateEstimator`, whether it is in trouble by `Trouble`.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Callable

from everlytic_async._rate import SLOW_START, RateEstimator
from everlytic_async._retry import Backoff, exceeds_cap
from everlytic_async._trouble import RetryBudget, Trouble
from everlytic_async._waiting import (
    CallLater,
    StoppedError,
    StopToken,
    Timer,
    fail,
    loop_call_later,
)
from everlytic_async.errors import EverlyticError, ServerError, ThrottledError
from everlytic_async.events import CoolDown, Dispatcher, OutageEnded, RateChanged
from everlytic_async.policies import Pacing, RetryPolicy

# After a late timer the next attempts follow faster, for as long as this; less where a limiter is
# known to take a smaller burst.
_MAX_TIMER_LAG_S = 0.02
# With adaptive pacing the rate falls as well, so a throttle without a Retry-After pauses for this
# share of the backoff.
_ADAPTIVE_BACKOFF = 0.25
_MAX_RATE = 1_000_000
# How many throttles with a Retry-After of 0, less half of the accepted orders, may come at random.
# With more they come from a limiter, and the 0 says no more than no header.
_MAX_IMMEDIATE = 12


class Pacer:
    """Lets attempts start, in turn, as fast as is allowed and no faster.

    The rate is held as by GCRA: each start sets the earliest time of the next.

    Attributes:
        clock: Monotonic seconds.
        in_flight: How many attempts are in flight.
        ever_accepted: Whether the endpoint ever accepted an order of this client.
    """

    def __init__(
        self,
        pacing: Pacing,
        retry: RetryPolicy,
        *,
        dispatcher: Dispatcher | None = None,
        clock: Callable[[], float] = time.monotonic,
        call_later: CallLater = loop_call_later,
        rng: random.Random | None = None,
    ) -> None:
        self._pacing = pacing
        self._max_rate = math.inf if pacing.max_rate is None else pacing.max_rate
        # Without adaptive pacing it never learns of a throttle, and so bounds nothing.
        window = SLOW_START if pacing.adaptive else pacing.max_concurrency
        self._estimator = RateEstimator(window)
        self.policy = retry
        self._dispatcher = dispatcher or Dispatcher()
        self.clock = clock
        self.call_later = call_later
        self.backoff = Backoff(retry, rng)
        self.in_flight = 0
        self.budget = RetryBudget()
        self.trouble = Trouble(retry)
        self.ever_accepted = False
        self._retries: deque[asyncio.Future[float]] = deque()  # they go first: their deadline runs
        self._waiters: deque[asyncio.Future[float]] = deque()
        self._timer: Timer | None = None
        self._idle: asyncio.Future[float] | None = None
        self._resume_at = -math.inf  # when the shared cool-down ends
        self._next_start_at = -math.inf  # by the rate
        # The starts of the last second's worth: over any second, at most max_rate plus one.
        self._starts: deque[float] = deque(maxlen=1 + int(min(pacing.max_rate or 0, _MAX_RATE)))
        self._throttled_at = -math.inf  # when the last burst of throttles was first received
        self._throttles_in_a_row = 0  # bursts since an order was accepted
        self._immediate = 0.0  # see _MAX_IMMEDIATE; infinite once there were more

    # ------------------------------------------------------------------------------------- turns

    def try_acquire(self) -> float | None:
        """Take a slot if one may be used right now and nobody waits for it: when, by the clock."""
        if self._waiters or self._retries:
            return None
        self._evaluate_throttles()
        now = self.clock()
        return self._start(now, waited=False) if self.next_start_at() <= now else None

    async def acquire(
        self, stop: StopToken, until: float | None = None, *, is_retry: bool = False
    ) -> float:
        """Wait for a slot and the time to use it: when it was taken. A `release` must follow.

        Retries go before orders that were never sent.

        Raises:
            StoppedError: waiting is no longer worthwhile.
            DeadlineExceededError: its turn had not come by `until`.
        """
        stop.check()
        started_at = self.try_acquire()
        if started_at is not None:
            return started_at
        if self.trouble.gave_up is not None:
            raise StoppedError(self.trouble.gave_up)
        waiter: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        queue = self._retries if is_retry else self._waiters
        queue.append(waiter)
        self._wake_waiters()
        timeout_s = None if until is None else until - self.clock()
        try:
            return await stop.wait(waiter, timeout_s, self.call_later)
        except BaseException:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.release()  # started and cancelled in the same moment
            elif waiter in queue:
                queue.remove(waiter)
            raise

    def release(self) -> None:
        """Return the slot."""
        self.in_flight -= 1
        if self._waiters or self._retries:
            self._wake_waiters()
        if self._idle is not None and self.in_flight == 0 and not self._idle.done():
            self._idle.set_result(self.clock())

    async def wait_idle(self, timeout_s: float) -> None:
        """Wait until nothing is in flight, but no longer than this."""
        if self.in_flight:
            self._idle = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._idle], timeout=timeout_s)

    def next_start_at(self) -> float:
        """When the next attempt may start, by the clock; infinity if that takes a `release`."""
        if self.in_flight >= min(self._pacing.max_concurrency, self._estimator.window):
            return math.inf
        if self.trouble.probing:
            if self.in_flight > 0:
                return math.inf  # one probe at a time
            self.trouble.update(self.clock(), self._resume_at)
        start_at = max(self._resume_at, self._next_start_at)
        if len(self._starts) == self._starts.maxlen:
            start_at = max(start_at, self._starts[0] + 1.0)
        return start_at

    def _start(self, now: float, *, waited: bool) -> float:
        """Start an attempt; `waited`: at the time that it had waited for."""
        self.in_flight += 1
        if (rate := self.rate()) is not None:
            # Catch up after a late timer, but not after a cool-down or an idle period.
            lag_s = min(_MAX_TIMER_LAG_S, self._estimator.max_catch_up_s)
            earliest = max(now - lag_s, self._resume_at)
            if not waited and self._next_start_at < earliest:
                earliest = now
            self._next_start_at = max(self._next_start_at, earliest) + 1.0 / rate
        if self._pacing.max_rate is not None:
            self._starts.append(now)
        return now

    def _evaluate_throttles(self) -> None:
        """Once a pause is over, work out what its throttles say about the limit."""
        estimator = self._estimator
        if not estimator.throttle_pending or self.clock() < self._resume_at:
            return
        estimator.evaluate(self.in_flight)
        now = self.clock()  # that took milliseconds, which are not to be caught up with
        self._next_start_at = max(self._next_start_at, now, estimator.next_free_at)
        self._dispatcher.emit(RateChanged(at=now, rate=self.rate(), limit=estimator.limit))

    def _wake_waiters(self) -> None:
        """Start those whose time has come; set the timer for the next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while True:
            self._evaluate_throttles()  # hooks are called, and may stop those who wait
            queue = self._retries or self._waiters
            if not queue:
                return
            if queue[0].done():  # stopped or cancelled
                queue.popleft()
                continue
            start_at, now = self.next_start_at(), self.clock()
            if start_at > now:
                if start_at < math.inf:
                    self._timer = self.call_later(start_at - now, self._wake_waiters)
                return
            queue.popleft().set_result(self._start(now, waited=True))

    # ------------------------------------------------------------------------------- rate, pauses

    def rate(self) -> float | None:
        """Orders per second that may start at present; None if nothing limits them."""
        rate = min(self._max_rate, self._estimator.rate(self.clock()))
        return rate if rate < math.inf else None

    def waits_alone(self, error: ThrottledError) -> bool:
        """Whether only its order waits after this throttle: a Retry-After of 0 at random."""
        return error.retry_after_s == 0 and self._immediate < math.inf

    def remaining_cool_down_s(self) -> float:
        """Seconds until the shared cool-down ends; 0 if there is none."""
        return max(0.0, self._resume_at - self.clock())

    def pause(self, seconds: float, reason: str, status: int | None = None) -> None:
        """Pause everybody, unless a longer pause is under way. It does not affect the rate."""
        pause_s = self.backoff.add_jitter(seconds)
        if pause_s > self.remaining_cool_down_s():
            self._pause(pause_s, status, reason)

    def _pause(self, pause_s: float, status: int | None, reason: str) -> None:
        now = self.clock()
        self._resume_at = max(self._resume_at, now + pause_s)
        self._dispatcher.emit(CoolDown(at=now, wait_s=pause_s, status=status, reason=reason))

    # ------------------------------------------------------------------------ how attempts ended

    def on_accepted(self, started_at: float, sent_at: float | None = None) -> None:
        """An attempt was accepted. Its body had been sent at `sent_at`, where that is known."""
        self.budget.refund()
        self._throttles_in_a_row = 0
        self._immediate = max(0.0, self._immediate - 0.5)
        self.ever_accepted = True
        self.on_answered(started_at)
        if self._pacing.adaptive:
            self._estimator.on_accepted(sent_at or started_at, self.clock())

    def on_answered(self, started_at: float) -> None:
        """An order was accepted or rejected: the endpoint is not in trouble."""
        trouble_since = self.trouble.answered(started_at)
        if trouble_since is not None:
            now = self.clock()
            self._dispatcher.emit(OutageEnded(at=now, lasted_s=now - trouble_since))
            self._resume_at = now
            self._wake_waiters()

    def on_throttled(
        self, started_at: float, error: ThrottledError, sent_at: float | None = None
    ) -> None:
        """An attempt was answered with 429, 503 or 408: everybody pauses, and the rate falls."""
        now, retry_after_s = self.clock(), error.retry_after_s
        reason = f"the endpoint answered {error.status}"
        if exceeds_cap(self.policy, retry_after_s):
            reason = f"{reason} and asked to wait {retry_after_s:.0f} s: a quota is used up"
            self.trouble.quota_used_up(now, reason)
        else:
            self.trouble.throttled(started_at)
        self._stop_if_given_up()
        if retry_after_s == 0:
            self._immediate += 1.0 if self._immediate < _MAX_IMMEDIATE else math.inf
        is_first = started_at > self._throttled_at  # else it was in flight together with that
        if is_first:
            self._throttled_at = now
            self._throttles_in_a_row += 1
        if self.waits_alone(error):
            return
        pause_s = 0.0
        if retry_after_s:
            pause_s = self.backoff.add_jitter(self._obeyed_s(retry_after_s))
        elif is_first:
            pause_s = self.backoff.pause_s(self._throttles_in_a_row)
            pause_s *= _ADAPTIVE_BACKOFF if self._pacing.adaptive else 1.0
        self._resume_at = max(self._resume_at, now + pause_s)
        if self._pacing.adaptive:
            self._estimator.on_throttled(started_at, sent_at or started_at, now, self._resume_at)
        if is_first:
            self._dispatcher.emit(
                CoolDown(at=now, wait_s=pause_s, status=error.status, reason=reason)
            )

    def on_failed(self, started_at: float, error: EverlyticError) -> None:
        """An attempt ended in none of the foreseen answers; see `Trouble`."""
        if self.trouble.failed(self.clock(), started_at, self._resume_at, error):
            pause_s = self.backoff.pause_s(self.trouble.pauses)
            self._pause(pause_s, getattr(error, "status", None), error.message)
            self._stop_if_given_up()
        if isinstance(error, ServerError) and error.retry_after_s:
            reason = f"the endpoint answered {error.status}"
            self.pause(self._obeyed_s(error.retry_after_s), reason, error.status)

    def _obeyed_s(self, retry_after_s: float) -> float:
        return min(retry_after_s, self.policy.retry_after_cap_s)

    def _stop_if_given_up(self) -> None:
        if self.trouble.gave_up is not None:
            for waiter in (*self._retries, *self._waiters):
                fail(waiter, StoppedError(self.trouble.gave_up))
