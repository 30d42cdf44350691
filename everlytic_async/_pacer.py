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
from typing import Protocol

from everlytic_async.policies import Pacing, RetryPolicy

# A late timer is made good by going faster for as long as this, never by a burst.
_CATCH_UP_S = 0.02
# Jitter on top of a cool-down, as a share of it, so that several processes don't resume as one.
_COOL_DOWN_JITTER = 0.05
_BUDGET = 500.0
_RETRY_COST = 5.0
_REFUND = 1.0


class Timer(Protocol):
    """What `asyncio.loop.call_later` returns."""

    def cancel(self) -> None:
        """Don't call back."""


CallLater = Callable[[float, Callable[[], None]], Timer]


def _loop_call_later(delay_s: float, callback: Callable[[], None]) -> Timer:
    return asyncio.get_running_loop().call_later(delay_s, callback)


class HaltedError(Exception):
    """Waiting was given up: the batch stopped, the client closed, or the outage lasts too long."""


class Halt:
    """A switch that ends the waiting of all who share it, at once and for good."""

    __slots__ = ("__weakref__", "_children", "_waiters", "reason")

    def __init__(self, parent: Halt | None = None) -> None:
        #: Why; None as long as waiting is worth while.
        self.reason: str | None = None
        self._waiters: set[asyncio.Future[None]] = set()
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

    async def wait(self, waiter: asyncio.Future[None]) -> None:
        """Wait for the future, or for the halt.

        Raises:
            HaltedError: when halted before, or meanwhile.
        """
        if self.reason is not None:
            raise HaltedError(self.reason)
        self._waiters.add(waiter)
        try:
            await waiter
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


class Pacer:
    """Admits attempts, in turn, as fast as is allowed and no faster."""

    def __init__(
        self,
        pacing: Pacing,
        retry: RetryPolicy,
        *,
        clock: Callable[[], float] = time.monotonic,
        call_later: CallLater = _loop_call_later,
        rng: random.Random | None = None,
    ) -> None:
        self._limit = pacing.max_concurrency
        self._retry = retry
        self._clock = clock
        self._call_later = call_later
        self._rng = rng or random.Random()  # noqa: S311 - jitter is no secret
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._timer: Timer | None = None
        self._resume_at = -math.inf
        self._throttles = 0  # in a row, a burst of refusals counted once
        self._outage_began: float | None = None
        self._probes = 0
        self._reached = False  # ever, by this client
        self._rate = pacing.max_rate
        self._next_at = -math.inf
        # The grant times of the last second's worth: "over any second, at most the rate plus one".
        self._grants: deque[float] = deque(maxlen=1 + int(self._rate or 0))
        self._drained: asyncio.Future[None] | None = None
        self.in_flight = 0
        self.budget = RetryBudget()

    # ------------------------------------------------------------------------------- admission

    def try_admit(self) -> bool:
        """Take a slot if one is free right now and nobody waits before us."""
        if self._waiters or self.in_flight >= self._limit:
            return False
        if (self._rate is not None or self._resume_at > 0.0) and self._delay() > 0:
            return False
        self._admit()
        return True

    async def admit(self, halt: Halt) -> None:
        """Wait for a slot and the time to use it. Every admission is followed by a `release`.

        Raises:
            HaltedError: when there is no use in waiting any longer.
        """
        if halt.reason is not None:
            raise HaltedError(halt.reason)
        if self.try_admit():
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._serve()
        try:
            await halt.wait(waiter)
        except BaseException:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.release()  # admitted and cancelled in the same moment
            elif waiter in self._waiters:
                self._waiters.remove(waiter)
            raise

    def release(self) -> None:
        """Give the slot back."""
        self.in_flight -= 1
        if self._waiters:
            self._serve()
        if self._drained is not None and self.in_flight == 0 and not self._drained.done():
            self._drained.set_result(None)

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
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        timer = self._call_later(seconds, wake)
        try:
            await halt.wait(waiter)
        finally:
            timer.cancel()

    def _admit(self, *, queued: bool = False) -> None:
        self.in_flight += 1
        if self._rate is not None:
            now = self._clock()
            self._grants.append(now)
            # Lateness of the timer is made good, idleness is not.
            earliest = now - _CATCH_UP_S if queued else now
            self._next_at = max(self._next_at, earliest) + 1.0 / self._rate

    def _delay(self) -> float:
        """Seconds until the next admission is due, slots aside."""
        now = self._clock()
        due = self._resume_at
        if self._outage_began is not None and self.in_flight > 0:
            return math.inf  # one probe at a time: its end serves the next
        if self._rate is not None:
            due = max(due, self._next_at)
            if len(self._grants) == self._grants.maxlen:
                due = max(due, self._grants[0] + 1.0)
        return due - now

    def _serve(self) -> None:
        """Admit those whose time has come; set the timer for the next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiters:
            if self._waiters[0].done():  # halted or cancelled
                self._waiters.popleft()
                continue
            if self.in_flight >= self._limit:
                return  # a release serves the next
            delay = self._delay()
            if delay > 0:
                if delay < math.inf:
                    self._timer = self._call_later(delay, self._serve)
                return
            self._admit(queued=True)
            self._waiters.popleft().set_result(None)

    # ---------------------------------------------------------------------------- what is learnt

    def cool_down_s(self) -> float:
        """Seconds until the shared cool-down ends; 0 when there is none."""
        return max(0.0, self._resume_at - self._clock())

    @property
    def in_outage(self) -> bool:
        """Whether the endpoint can't be reached, as far as is known."""
        return self._outage_began is not None

    def backoff_s(self, attempt: int) -> float:
        """The pause after the n-th attempt in a row, from 1: exponential, with full jitter."""
        policy = self._retry
        ceiling = min(policy.cap_s, policy.base_s * 2.0 ** min(attempt - 1, 64))
        return self._rng.uniform(0.0, ceiling)

    def accepted(self) -> None:
        """An attempt was accepted."""
        self.budget.refund()
        self._throttles = 0
        self.answered()

    def answered(self) -> None:
        """An attempt was answered: the endpoint can be reached."""
        self._reached = True
        if self._outage_began is not None:
            self._outage_began = None
            self._resume_at = -math.inf
            self._serve()

    def throttled(self, retry_after_s: float | None) -> None:
        """An attempt was answered with 429, 503 or 408: everybody pauses."""
        self.answered()
        now = self._clock()
        if retry_after_s is None:
            if now < self._resume_at:
                return  # one of the same burst
            self._throttles += 1
            pause = self.backoff_s(self._throttles)
        else:
            pause = min(retry_after_s, self._retry.retry_after_cap_s)
            pause *= 1.0 + self._rng.uniform(0.0, _COOL_DOWN_JITTER)
        self._resume_at = max(self._resume_at, now + pause)

    def unreachable(self, reason: str) -> None:
        """An attempt did not reach the endpoint: everybody pauses, and one at a time probes.

        An outage longer than the policy's deadline ends the waiting of all who wait; so do as many
        probes as the policy allows attempts, where the endpoint was never reached at all.
        """
        now = self._clock()
        if self._outage_began is None:
            self._outage_began = now
            self._probes = 0
        if now < self._resume_at:
            return  # one of the same burst
        self._probes += 1
        self._resume_at = now + self.backoff_s(self._probes)
        too_long = now - self._outage_began >= self._retry.deadline_s
        if too_long or (self._probes >= self._retry.attempts and not self._reached):
            waiters, self._waiters = self._waiters, deque()
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_exception(HaltedError(reason))
