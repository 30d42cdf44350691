"""Finds an endpoint's unknown limit and holds it: arithmetic only, no clock, no waiting.

The limit is thought of as what most limiters are, a bucket that leaks ``limit`` orders a second and
refuses when ``burst`` orders stand in it (nginx's ``limit_req``, token buckets). A refusal then
says one thing exactly: *the bucket was full*. Two refusals give two equations, and those give both
unknowns, however rough the rates were at which they were met:

1. **Slow start**: 16 in flight, doubling as answers come, no bound on the rate. An endpoint without
   a limit never sees more of this module.
2. The first refusal tells the burst, for it was met in no time. After the pause that it asks for,
   the rate starts low and doubles every 0.2 s: the **search**.
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
# The search begins as if the burst were a tenth of a second's worth, and never lower than this.
_SEARCH_PER_BURST = 10.0
_SEARCH_FROM = 25.0
_SEARCH_DOUBLES_S = 0.2
_CUT = 0.7
_RETURN_S = 1.0
# After the estimate was passed without a refusal, the rate grows by e**2 in each further period.
_GROWTH = 2.0
_MIN_RATE = 0.5
# How far off an estimate from n orders may be: a bucket's level is known to one order or two.
_ERROR_ORDERS = 1.5
_MIN_ERROR = 0.004
_MAX_ERROR = 0.1
_MIN_PROBE_S = 1.0
_MAX_PROBE_S = 60.0
_MIN_PAUSE_S = 0.02
# So many refusals in a row, each after fewer orders than this, are looked at together: are they a
# limit's, or chance?
_SHORT_RUN = 100
_RUNS = 5
_STEADY = 2.0
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
        #: The estimate in orders per second; None until the second refusal.
        self.limit: float | None = None
        #: Whether a refusal has been seen, so that `rate` has a bound.
        self.bounded = False
        self._admitted: deque[float] = deque(maxlen=_REMEMBERED)
        self._grown_at = -math.inf
        self._searching = False
        self._refused_at: float | None = None  # when the last burst of refusals was first heard of
        self._full_at: float | None = None  # when the order was admitted that met it
        self._resume_at = -math.inf
        self._burst: Callable[[float], float] = lambda _limit: 1.0
        self._base = math.inf  # the rate right after the pause
        self._error = _MAX_ERROR
        self._probe_s = _MIN_PROBE_S
        self._cut = False
        self._runs = _ShortRuns()

    def admitted(self, now: float) -> None:
        """An attempt begins."""
        self._admitted.append(now)

    def accepted(self, now: float) -> None:
        """An attempt was accepted."""
        if not self.bounded and now - self._grown_at > _DOUBLE_WINDOW_S:
            self._grown_at = now
            self.window = min(_NO_WINDOW, self.window * 2)

    def rate(self, now: float) -> float:
        """Orders per second that may begin now."""
        if not self.bounded:
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

    def refused(self, admitted_at: float, now: float, resume_at: float) -> bool:
        """An attempt that began at `admitted_at` was refused; everybody pauses until `resume_at`.

        Returns:
            Whether it was the first of its burst. Others say nothing new: they were under way.
        """
        if self._refused_at is not None and admitted_at <= self._refused_at:
            self._resume_at = max(self._resume_at, resume_at)
            self._runs.refused_too()
            return False
        rate = self.rate(now)
        before = [moment for moment in self._admitted if moment < admitted_at]
        self._admitted.clear()
        full_before, self._full_at = self._full_at, admitted_at
        self._refused_at = now
        self._resume_at = resume_at
        if not self.bounded:
            self._begin_search(before, admitted_at)
        else:
            assert full_before is not None  # noqa: S101 - there was a first refusal
            self._estimate(before, full_before, admitted_at, rate)
            served = len(before) / max(admitted_at - full_before, 0.001)
            self._plan(len(before), served, rate, resume_at - now)
        return True

    def _begin_search(self, before: list[float], full_at: float) -> None:
        count = len(before)
        began = before[0] if before else full_at
        self._burst = lambda limit: max(1.0, _level(before, full_at, limit, began, 0.0))
        so_far = count / max(full_at - began, 0.001)
        self._base = max(_SEARCH_FROM, min(_SEARCH_PER_BURST * count, so_far / 2.0))
        self._searching = self.bounded = True
        self.window = _NO_WINDOW

    def _estimate(
        self, before: list[float], full_before: float, full_at: float, rate: float
    ) -> None:
        """The limit at which the bucket, full at the last refusal, is full again at this one."""
        burst = self._burst
        if len(before) == _REMEMBERED:
            full_before = before[0]  # what came before is forgotten

        def surplus(limit: float) -> float:
            full = burst(limit)
            return _level(before, full_at, limit, full_before, full) - full

        low, high = _MIN_RATE, 2.0 * max(rate, 1.0)
        self._previous = self.limit
        # One refusal does not tell more than this: it may be chance.
        floor = _MIN_RATE if self._searching else max(_MIN_RATE, rate * _CUT)
        if not surplus(low) > 0.0 >= surplus(high):
            measured = len(before) / max(full_at - full_before, 0.001)
            self.limit = max(floor, min(rate, measured) * _CUT)
            return
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2.0
            if surplus(middle) > 0.0:
                low = middle
            else:
                high = middle
        self.limit = max(floor, min(low, rate))

    def _plan(self, count: int, served: float, rate: float, pause_s: float) -> None:
        """How to go on from the new estimate."""
        limit, previous = self.limit, self._previous
        assert limit is not None  # noqa: S101 - set just before
        self._searching = False
        self._error = min(_MAX_ERROR, max(_MIN_ERROR, _ERROR_ORDERS / max(count, 1)))
        below = previous is not None and rate < 0.995 * previous
        at_random = self._runs.at_random(_Run(served, count))
        self._cut = below and not at_random
        self.window = _INITIAL_WINDOW if at_random else _NO_WINDOW
        if at_random:
            self.limit = self._base = max(rate, limit) / _CUT
            self._error = _MAX_ERROR
        elif below:
            self._base = limit * _CUT
            self._error = _MAX_ERROR
        else:
            self._base = limit * (1.0 - self._error / 2.0)
        worth_s = max(pause_s, _MIN_PAUSE_S) / self._error
        self._probe_s = min(_MAX_PROBE_S, max(_MIN_PROBE_S, worth_s))


def _level(moments: Iterable[float], at: float, limit: float, since: float, level: float) -> float:
    """How many orders stand in the bucket at a time, when they came at these moments."""
    for moment in moments:
        level = max(0.0, level - limit * (moment - since)) + 1.0
        since = moment
    return max(0.0, level - limit * (at - since))
