"""Finds an endpoint's unknown limit and holds it: arithmetic only, no clock, no waiting.

The limit is thought of as what most limiters are, a bucket that leaks ``limit`` orders a second and
refuses when ``burst`` orders stand in it (nginx's ``limit_req``, token buckets). A refusal then
says one thing exactly: *the bucket was full*. Two refusals give two equations, and those give both
unknowns, however rough the rates were at which they were met:

1. **Slow start**: 16 in flight, doubling as answers come, no bound on the rate. An endpoint without
   a limit never sees more of this module.
2. The first refusal tells the burst, for it was met in no time. After the pause that it asks for,
   the rate starts low and doubles every 0.3 s: the **search**.
3. The next refusal tells the limit: the rate at which the bucket, full at the last refusal, is
   full again now. From then on the rate is **held** just under it and creeps up until a refusal
   tells the limit anew, the more exactly the longer it had been held. How soon it creeps past the
   estimate is a bargain: a probe costs a pause, and is worth what may lie idle.

A refusal *below* the limit means that others share it or that it fell: the rate is cut to 0.7 and
returns within a second to what was measured, as CUBIC does (RFC 9438, "fast convergence"). Where
cutting does not help, for refusals come at random, it is not cut any further.

Chosen by measurement against AIMD and botocore's CUBIC, see ``docs/explanation/pacing.md``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable

import attrs

_INITIAL_WINDOW = 16
# The window doubles once in a round trip, but not more often than this: where the round trip is
# shorter, all that a larger window would bring is more refusals at once.
_DOUBLE_WINDOW_S = 0.02
_NO_WINDOW = 1 << 30
# The search begins as if the burst were a twelfth of a second's worth, and never lower than this.
_SEARCH_PER_BURST = 12.0
_SEARCH_FROM = 25.0
_SEARCH_DOUBLES_S = 0.3
_CUT = 0.7
_RETURN_S = 1.0
# After the estimate was passed without a refusal, the rate grows by e**2 in each further period.
_GROWTH = 2.0
_MIN_RATE = 0.5
# How far off an estimate from n orders may be: a bucket's level is known to an order.
_ERROR_ORDERS = 1.0
_MIN_ERROR = 0.004
_MAX_ERROR = 0.1
_MIN_PROBE_S = 1.0
_MAX_PROBE_S = 60.0
_MIN_PAUSE_S = 0.02
# So many refusals in a row, each after fewer orders than this, are looked at together: are they a
# limit's, or chance?
_SHORT_RUN = 40
_RUNS = 5
_STEADY = 2.0
# How far the rate may run ahead of what is served, where refusals come at random.
_AHEAD = 10.0
# Enough orders for an estimate to within 0.1 %; older ones are forgotten.
_REMEMBERED = 4096
_BISECTIONS = 30


@attrs.define
class _Run:
    """What went on between two refusals."""

    served: float  # orders per second, the pause included
    accepted: int
    refused: int = 1


class _ShortRuns:
    """Tells a limit's refusals from refusals at random, which no slowness remedies.

    Behind a limit, what is served a second between two refusals is about the same at every rate;
    where refusals come at random it follows the rate, and their share stays the same.
    """

    def __init__(self) -> None:
        self._runs: deque[_Run] = deque(maxlen=_RUNS)
        self._share: float | None = None  # of refusals, when they were first taken for chance

    @property
    def most_served(self) -> float:
        """The best of them, in orders per second."""
        return max(run.served for run in self._runs)

    def refused_too(self) -> None:
        """Another one of the same burst was refused."""
        if self._runs:
            self._runs[-1].refused += 1

    def at_random(self, run: _Run) -> bool:
        """Take in one more run; whether they look like chance."""
        runs = self._runs
        if run.accepted >= _SHORT_RUN:
            runs.clear()
            self._share = None
            return False
        runs.append(run)
        if len(runs) < _RUNS:
            return False
        refused = sum(run.refused for run in runs)
        share = refused / (refused + sum(run.accepted for run in runs))
        if self._share is None:
            served = [run.served for run in runs]
            if max(served) <= _STEADY * min(served):
                return False
            self._share = share
        elif share > 2.0 * self._share:
            # Going faster made it worse: a limit after all.
            runs.clear()
            self._share = None
            return False
        return True


class LimitFinder:
    """How many may be in flight, and how many a second, by what was refused so far."""

    def __init__(self) -> None:
        #: How many may be in flight, besides the caller's own bound.
        self.window = _INITIAL_WINDOW
        #: The estimate in orders per second; None until there were two refusals.
        self.limit: float | None = None
        #: Whether a refusal has been seen, so that `rate` has a bound.
        self.bounded = False
        #: Whether `plan` has something to say once the pause is over.
        self.refusal_pending = False
        # When each accepted attempt was admitted, which tells what went before what, and when its
        # answer was heard, which is nearer to the limiter's clock: connections are made in between.
        self._accepted: deque[tuple[float, float]] = deque(maxlen=_REMEMBERED)
        self._grown_at = -math.inf
        self._searching = False
        self._heard_at = -math.inf  # when the last burst of refusals was first heard of
        self._full_at: float | None = None  # when the last of that burst was heard of
        self._full_with = -math.inf  # when the last of that burst was admitted
        self._full_before: float | None = None  # the same of the burst before
        self._rate_then = math.inf
        self._resume_at = -math.inf
        self._burst: Callable[[float], float] = lambda _limit: 1.0
        self._base = math.inf  # the rate right after the pause
        self._error = _MAX_ERROR
        self._probe_s = _MIN_PROBE_S
        self._cut = False
        self._runs = _ShortRuns()

    def accepted(self, admitted_at: float, now: float) -> None:
        """An attempt that was admitted then was accepted."""
        self._accepted.append((admitted_at, now))
        if not self.bounded and now - self._grown_at > _DOUBLE_WINDOW_S:
            self._grown_at = now
            self.window = min(_NO_WINDOW, self.window * 2)

    def refused(self, admitted_at: float, now: float, resume_at: float) -> None:
        """An attempt that was admitted then was refused; everybody pauses until `resume_at`.

        What it says is worked out by `plan` after the pause, when the answers to those that were in
        flight with it are known.
        """
        if self._full_at is not None and admitted_at <= self._heard_at:
            # Of the same burst: the bucket was still full.
            self._full_at = now
            self._full_with = max(self._full_with, admitted_at)
            self._resume_at = max(self._resume_at, resume_at)
            self._runs.refused_too()
            return
        self._rate_then = self.rate(now)
        self._resume_at = resume_at
        self._full_before, self._full_at = self._full_at, now
        self._full_with = admitted_at
        self._heard_at = now
        self.bounded = self.refusal_pending = True

    def plan(self) -> None:
        """Work out how fast to go on, once the pause is over."""
        self.refusal_pending = False
        full_at, full_before = self._full_at, self._full_before
        assert full_at is not None  # noqa: S101 - there was a refusal
        accepted, self._accepted = self._accepted, deque(maxlen=_REMEMBERED)
        served = []
        for admitted_at, heard_at in accepted:
            if admitted_at <= self._full_with:
                served.append(min(heard_at, full_at))
            else:
                self._accepted.append((admitted_at, heard_at))
        if full_before is None:
            self._begin_search(served, full_at)
            return
        if len(served) == _REMEMBERED:
            full_before = served[0]  # what came before is forgotten
        estimate = self._estimate(served, full_before, full_at)
        if estimate is not None or not self._searching:
            self._hold(estimate, len(served), full_at - full_before)
        else:
            self._base = max(_MIN_RATE, self._rate_then * _CUT)

    def rate(self, now: float) -> float:
        """Orders per second that may begin now."""
        if self._base == math.inf:
            return math.inf
        elapsed = max(0.0, now - self._resume_at)
        if self._searching:
            return self._base * math.exp2(min(elapsed / _SEARCH_DOUBLES_S, 64.0))
        base, error = self._base, 1.5 * self._error
        if self._cut:
            assert self.limit is not None  # noqa: S101 - a cut follows an estimate
            if elapsed < _RETURN_S:
                return self.limit - (self.limit - base) * (1.0 - elapsed / _RETURN_S) ** 3
            base, elapsed = self.limit, elapsed - _RETURN_S
        periods = elapsed / self._probe_s
        if periods < 1.0:
            return base * (1.0 + error * periods)
        return base * (1.0 + error) * math.exp(min(_GROWTH * (periods - 1.0), 64.0))

    def _begin_search(self, served: list[float], full_at: float) -> None:
        began = served[0] if served else full_at
        self._burst = lambda limit: max(1.0, _level(served, full_at, limit, began, 0.0))
        so_far = len(served) / max(full_at - began, 0.001)
        self._base = max(_SEARCH_FROM, min(_SEARCH_PER_BURST * len(served), so_far / 2.0))
        self._searching = True
        self.window = _NO_WINDOW

    def _estimate(self, served: list[float], full_before: float, full_at: float) -> float | None:
        """The limit at which the bucket, full at the last refusal, was full again at this one.

        None where there is none: too few orders, or another limit than then.
        """

        def surplus(limit: float) -> float:
            full = self._burst(limit)
            return _level(served, full_at, limit, full_before, full) - full

        low, high = _MIN_RATE, 2.0 * max(self._rate_then, 1.0)
        if not surplus(low) > 0.0 >= surplus(high):
            return None
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2.0
            if surplus(middle) > 0.0:
                low = middle
            else:
                high = middle
        return low

    def _hold(self, estimate: float | None, count: int, lasted_s: float) -> None:
        """Hold the new estimate; or, where it was met too early, fall below it and return."""
        rate, previous = self._rate_then, self.limit
        served = count / max(lasted_s, 0.001)
        limit = min(rate, served) * _CUT if estimate is None else min(rate, estimate)
        if not self._searching:
            # One refusal that comes early may be chance: it does not tell more than this.
            limit = max(limit, rate * _CUT)
        self.limit = limit = max(_MIN_RATE, limit)
        self._searching = False
        # Below what was thought to be the limit, and by more than that was unsure.
        below = previous is not None and max(rate, limit) < previous * (1.0 - 2.0 * self._error)
        self._error = min(_MAX_ERROR, max(_MIN_ERROR, _ERROR_ORDERS / max(count, 1)))
        at_random = self._runs.at_random(_Run(served, count))
        self._cut = below and not at_random
        self.window = _INITIAL_WINDOW if at_random else _NO_WINDOW
        if at_random:
            # Slower is no remedy: go on as fast as before, and faster, so long as more is served.
            most = _AHEAD * self._runs.most_served
            self.limit = limit = self._base = max(limit, min(rate / _CUT, most))
            self._error = _MAX_ERROR
        elif self._cut:
            self._base = limit * _CUT
            self._error = _MAX_ERROR
        else:
            self._base = limit * (1.0 - self._error / 2.0)
        worth_s = max(self._resume_at - self._heard_at, _MIN_PAUSE_S) / self._error
        self._probe_s = min(_MAX_PROBE_S, max(_MIN_PROBE_S, worth_s))


def _level(moments: Iterable[float], at: float, limit: float, since: float, level: float) -> float:
    """How many orders stand in the bucket at a time, when they came at these moments."""
    for moment in moments:
        level = max(0.0, level - limit * (moment - since)) + 1.0
        since = moment
    return max(0.0, level - limit * (at - since))
