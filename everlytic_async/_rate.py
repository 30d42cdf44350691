"""What an endpoint takes, worked out from what it throttled: arithmetic only, no clock, no waiting.

Most rate limiters are a bucket that leaks ``limit`` orders a second and throttles while ``burst``
orders are in it (nginx's ``limit_req``, token buckets). So a throttle says one thing exactly: *the
bucket was full*. Two throttles are two equations for the two unknowns, however rough the rates were
at which they came:

1. Slow start: few in flight, then more, and no rate. Without a limit nothing else ever happens.
2. The first throttle gives the burst. After its pause the rate starts low and doubles: the search.
3. The next throttle gives the limit: the one rate of leaking at which the bucket, full at the last
   throttle, is full again at this one. From then on the rate follows a cubic around the limit, as
   in CUBIC (RFC 9438): just below it at first, flat when it gets there, and then faster and faster.

An estimate that falls a little means that others use the limit too. Then each throttle takes a
fifth of the rate, and the cubic brings it back, so that the shares converge.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence

#: How many orders may be in flight at first: all of them are throttled when a bucket is full.
SLOW_START = 8
_MIN_RATE = 0.1  # orders per second
_HISTORY = 4096  # orders; what a bucket held before those does not matter
_BISECTIONS = 24
# The search starts at this many orders a second, or bursts a second if that is more; higher
# where a throttle costs no long pause.
_SEARCH_FROM, _SEARCH_BURSTS = 25.0, 6.0
_CHEAP_SEARCH_FROM, _CHEAP_SEARCH_BURSTS = 100.0, 12.0
_LONG_PAUSE_S = 0.5
_SEARCH_DOUBLES_S = 0.3
_SEARCH_IN_FLIGHT = 2  # until one is accepted: it may have started too high
# How far off an estimate may be, as a share of it: this many of the orders that it is based on.
_ERROR_ORDERS, _MIN_ERROR, _MAX_ERROR = 2.0, 0.01, 0.1
# How long the rate takes to reach the estimate: until the capacity that may be unused is worth a
# pause, and at least this many orders, so that few are throttled. Beyond it the cubic is steeper.
_MIN_HOLD_S, _MAX_HOLD_S, _MIN_HOLD_ORDERS = 2.0, 60.0, 20.0
_STEEPER = 3.0
# Of a client that shares the limit: what a throttle takes, and how fast the cubic brings it back,
# in orders/s**3 as in CUBIC: slow clients gain as much as fast ones.
_SHARED_CUT, _SHARED_GROWTH = 0.2, 2.5
# Where fewer orders than this were accepted, others may have caused the throttle: the search goes
# on, and this share of the rate is kept at least.
_FEW, _MIN_KEPT = 8, 0.7


def _level(sent: Sequence[float], until: float, limit: float, since: float, level: float) -> float:
    """How many orders are in a bucket: each adds one to what has not leaked yet."""
    for moment in sent:
        level = max(1.0, level + 1.0 - limit * (moment - since))
        since = moment
    return max(0.0, level - limit * (until - since))


class ConcurrencyEstimator:
    """How many orders may be in flight.

    A limit on concurrent requests throttles at the same number in flight each time. Such a number
    is held, less one, as a window. Now and then one more is tried, until that is throttled. Where a
    window is throttled again that was not widened, it was a rate limit after all.
    """

    _SLOW_START_ORDERS = 22  # by then it is no small burst that all of them would fill
    _GROWTH = 3  # per accepted order: from then on the window quadruples in each round trip
    _UNLIMITED = 1 << 30
    _MIN_LIMIT = 6  # fewer in flight than this are held by a rate as well
    _ALIKE = 1.2  # times as many, and one

    def __init__(self, window: int) -> None:
        #: How many may be in flight.
        self.window = window
        #: Whether the window is what limits, and no rate.
        self.held = False
        self._accepted = 0
        self._throttle_sent_at = -math.inf
        self._in_flight = self._in_flight_before = 0
        self._widen_at, self._hold_s, self._widened = math.inf, 1.0, False

    def on_accepted(self, sent_at: float, now: float) -> None:
        """An order that was sent then was accepted."""
        if self._throttle_sent_at == -math.inf:
            self._accepted += 1
            if self._accepted >= self._SLOW_START_ORDERS:
                self.window = min(self._UNLIMITED, self.window + self._GROWTH)
        elif sent_at <= self._throttle_sent_at:
            self._in_flight += 1
        if self.held and now >= self._widen_at:
            self.window += 1
            self._widened = True
            self._widen_at = now + self._hold_s

    def on_throttled(self, sent_at: float) -> None:
        """An order that was sent then is the first of a burst that was throttled."""
        self._throttle_sent_at = sent_at
        self._in_flight_before, self._in_flight = self._in_flight, 0

    def evaluate(self, still_in_flight: int, resume_at: float, pause_s: float) -> None:
        """Decide whether the last throttles are those of a limit on concurrent requests."""
        self._in_flight += still_in_flight
        fewer, more = sorted((self._in_flight_before, self._in_flight))
        if self.held:
            self.held = self._widened
            self.window = min(self.window, self._in_flight)
        else:
            self.held = fewer >= self._MIN_LIMIT and more <= self._ALIKE * fewer + 1
            self.window = fewer
        if not self.held:
            self.window = self._UNLIMITED
            return
        self.window = max(1, self.window - 1)
        self._hold_s = min(_MAX_HOLD_S, max(1.0, pause_s * self.window))
        self._widened, self._widen_at = False, resume_at + self._hold_s


class RandomThrottles:
    """Whether throttles come at random, so that sending more slowly is no remedy.

    A bucket that is full at each throttle accepts what leaks in between: as many orders a second at
    any rate. Where throttles come at random, fewer are accepted the slower the orders are sent.
    """

    _STRETCHES, _ORDERS = 4, 8  # what is compared; a stretch lasts until the next throttle
    _LONG, _LONG_S = 200, 10.0  # orders and seconds: after longer ones nothing is wrong
    _SLOWED = 0.35  # of the most orders a second that were accepted

    def __init__(self) -> None:
        #: Whether they do.
        self.found = False
        self._most = 0.0  # orders a second
        self._last: deque[tuple[int, float]] = deque(maxlen=self._STRETCHES)

    def add_stretch(self, accepted: int, throttled: int, lasted_s: float) -> None:
        """Look at one more stretch: its orders, and its length with the pause."""
        self._last.append((accepted, lasted_s))
        orders, seconds = (sum(values) for values in zip(*self._last, strict=True))
        per_s = orders / seconds
        is_long = accepted > self._LONG or lasted_s > self._LONG_S
        if is_long or (self.found and throttled > accepted):
            self.found, self._most = False, 0.0
        if len(self._last) < self._STRETCHES or orders < self._ORDERS:
            return
        if not self.found and per_s <= self._SLOWED * self._most:
            self.found = True
            self._last.clear()
        self._most = max(self._most, per_s)


class RateEstimator:
    """How many orders may be sent, a second and in one burst, by what was throttled so far."""

    def __init__(self, window: int = SLOW_START) -> None:
        #: The estimate in orders per second; None until there is one.
        self.limit: float | None = None
        #: Whether a throttle is still to be evaluated, which `evaluate` does after the pause.
        self.throttle_pending = False
        #: How late an order may be and catch up, in seconds: half of the bucket's worth.
        self.max_catch_up_s = math.inf
        self._concurrency = ConcurrencyEstimator(window)
        self._random = RandomThrottles()
        self._sent: deque[float] = deque(maxlen=_HISTORY)  # when accepted orders had been sent
        self._burst: Callable[[float], float] = lambda _limit: 1.0
        self._throttled_at = -math.inf  # when the last burst of throttles was first received
        self._full_at, self._full_before = -math.inf, -math.inf  # the bucket, at throttles
        self._throttles = 0
        self._resume_at = -math.inf  # when the pause ends
        self._accepted = 0  # since the pause
        self._ever_accepted = False
        self._rate_then = math.inf
        self._is_bounded = False  # whether a rate is what limits
        self._shared = False
        # The rate after a pause, infinite before the first; and when it reaches the limit.
        self._low, self._hold_s = math.inf, _MIN_HOLD_S

    @property
    def window(self) -> int:
        """How many orders may be in flight."""
        if self._accepted == 0 and self.limit is None and self._is_bounded:
            return _SEARCH_IN_FLIGHT
        return self._concurrency.window

    @property
    def next_free_at(self) -> float:
        """When the bucket, full at the last throttle, has room again."""
        return self._full_at + 1.0 / self.rate(self._resume_at)

    def on_accepted(self, sent_at: float, now: float) -> None:
        """An order that was sent then was accepted now."""
        self._sent.append(sent_at)
        self._accepted += 1
        self._ever_accepted = True
        self._concurrency.on_accepted(sent_at, now)

    def on_throttled(self, started_at: float, sent_at: float, now: float, resume_at: float) -> None:
        """An order was throttled now; nothing is sent until `resume_at`."""
        if started_at <= self._throttled_at:  # of the same burst
            self._full_at = max(self._full_at, sent_at)
            self._resume_at = max(self._resume_at, resume_at)
            self._throttles += 1
            return
        self._rate_then = self.rate(now)
        self._full_before, self._full_at = self._full_at, sent_at
        self._throttled_at, self._resume_at = now, resume_at
        self._throttles = 1
        self.throttle_pending = True
        self._concurrency.on_throttled(sent_at)

    def evaluate(self, in_flight: int) -> None:
        """Work out how to go on when the pause is over; some orders may still be in flight."""
        self.throttle_pending = False
        self._accepted = 0
        sent = sorted(moment for moment in self._sent if moment <= self._full_at)
        self._sent = deque((m for m in self._sent if m > self._full_at), maxlen=_HISTORY)
        sent += [self._full_at] * in_flight  # they will be accepted
        was_bounded = self._is_bounded
        self._concurrency.evaluate(in_flight, self._resume_at, self._pause_s)
        if self._low == math.inf or not self._ever_accepted:  # before any, there is no limit
            self._start_search(sent)
            self._is_bounded = True
        else:
            lasted_s = max(0.001, self._full_at - self._full_before)
            self._random.add_stretch(len(sent), self._throttles, lasted_s)
            self._is_bounded = not (self._concurrency.held or self._random.found)
            if not self._is_bounded:
                self.limit = None
            elif not was_bounded:
                self._low = _SEARCH_FROM
            else:
                self._evaluate_rate(sent)
        limit = self.limit or self._low
        self.max_catch_up_s = max(0.0, self._burst(limit) - 0.5) / 2.0 / limit

    def rate(self, now: float) -> float:
        """Orders per second that may be sent now; infinity where nothing bounds them."""
        if not self._is_bounded:
            return math.inf
        elapsed = max(0.0, now - self._resume_at)
        if self.limit is None:  # searched; not more than doubled by one order
            return self._low * math.exp2(min(elapsed / _SEARCH_DOUBLES_S, self._accepted, 64.0))
        offset = elapsed / self._hold_s - 1.0
        if offset > 0:
            offset *= 1.0 if self._shared else _STEEPER
        return max(_MIN_RATE, self.limit + (self.limit - self._low) * offset**3)

    @property
    def _pause_s(self) -> float:
        return self._resume_at - self._throttled_at

    def _start_search(self, sent: Sequence[float]) -> None:
        full_at, since = self._full_at, sent[0] if sent else self._full_at
        self._burst = lambda limit: max(1.0, _level(sent, full_at, limit, since, 0.0))
        self._low = max(_SEARCH_FROM, _SEARCH_BURSTS * len(sent))
        if self._pause_s < _LONG_PAUSE_S:
            self._low = max(_CHEAP_SEARCH_FROM, _CHEAP_SEARCH_BURSTS * len(sent))

    def _evaluate_rate(self, sent: Sequence[float]) -> None:
        count, estimate = len(sent), self._estimate(sent)
        if self.limit is None and (estimate is None or (count < _FEW and self._low > _SEARCH_FROM)):
            self._low = max(_MIN_RATE, self._low / 8.0)  # not even one leaked in between
        else:
            self._hold(max(_MIN_RATE, min(self._rate_then, estimate or 0.0)), count)

    def _hold(self, estimate: float, count: int) -> None:
        rate, previous, pause_s = self._rate_then, self.limit, self._pause_s
        error = min(_MAX_ERROR, max(_MIN_ERROR, _ERROR_ORDERS / max(1, count)))
        self._shared = False
        if previous is not None:
            # A little lower: others take a share. A lot lower: the limit fell.
            self._shared = _MIN_KEPT * rate <= estimate < (1.0 - 2.0 * error) * previous
            if count < _FEW:
                estimate = max(estimate, _MIN_KEPT * rate)
        cut, hold_s = error, max(_MIN_HOLD_S, pause_s / error)
        if self._shared:
            cut = _SHARED_CUT
            hold_s = max(1.0, 3.0 * pause_s) * math.cbrt(cut * estimate / _SHARED_GROWTH)
        self.limit, self._low = estimate, (1.0 - cut) * estimate
        burst = self._burst(self.limit)  # of the limit at which it was met, if that changes
        self._burst = lambda _limit: burst
        self._hold_s = max(_MIN_HOLD_ORDERS / self.limit, min(_MAX_HOLD_S, hold_s))

    def _estimate(self, sent: Sequence[float]) -> float | None:
        """The rate of leaking that explains the last throttle; None if too few were sent."""
        since, full_at = self._full_before, self._full_at

        def surplus(limit: float) -> float:
            full = self._burst(limit)
            return _level(sent, full_at, limit, since, full) + 0.5 - full

        low, high = _MIN_RATE, 2.0 * max(1.0, self._rate_then)
        if surplus(low) <= 0.0:
            return None
        if surplus(high) > 0.0:
            return high
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2.0
            low, high = (middle, high) if surplus(middle) > 0.0 else (low, middle)
        return low
