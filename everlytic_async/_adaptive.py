"""Finds an endpoint's unknown limit and holds it: arithmetic only, no clock, no waiting.

The limit is thought of as what most limiters are, a bucket that leaks ``limit`` orders a second and
refuses when ``burst`` orders stand in it (nginx's ``limit_req``, token buckets). A refusal then
says one thing exactly: *the bucket was full*. Two refusals give two equations, and those give both
unknowns, however rough the rates were at which they were met:

1. **Slow start**: 16 in flight, more as answers come, no bound on the rate. An endpoint without
   a limit never sees more of this module.
2. The first refusal tells the burst, for it was met in no time. After the pause that it asks for,
   the rate starts low and doubles every 0.3 s: the **search**.
3. The next refusal tells the limit: the rate at which the bucket, full at the last refusal, is
   full again now. The rate is **held** there, later just under it, and creeps up until a refusal
   tells the limit anew, the more exactly the longer it had been held. How soon it creeps past the
   estimate is a bargain: a probe costs a pause, and is worth what may lie idle.

Of a bucket that holds hardly more than what is uncertain of a moment, an order that comes a little
early is refused at any rate. There the estimate and the limit that is held are weighed. And where
such a bucket is **tight**, empty within some milliseconds, what a refusal tells is as much chance
as limit, but a pause need be no longer than that. There each refusal just skims a little off.

An estimate *below* the one before means that it fell or that others share the limit. The rate
follows, by no more than to 0.7 of itself at once. As long as there are more signs of others than
against them, each refusal costs a fifth of the rate, and in between its root rises steadily: it
gains less for its size the higher it is, so that shares converge (Bansal and Balakrishnan,
"Binomial Congestion Control Algorithms"). Where cutting does not help, for refusals come at random,
the rate is not cut any further, as long as being faster pays.

Where the search is refused with as many in flight as the slow start was, and earlier than a bucket
would have been full, it is their number that is limited. Then that many are held in flight, a
**window**, and the rate has no bound. Where such a window is refused again although it was narrowed
in between, it was a rate after all.

Chosen by measurement against AIMD and botocore's CUBIC, see ``docs/explanation/pacing.md``.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest

import attrs

_INITIAL_WINDOW = 16
# The window grows once in a round trip, but not more often than this: where the round trip is
# shorter, all that a larger window would bring is more refusals at once. It doubles for each such
# time that the round trip took, and so does not fall behind where it is long, but grows to no more
# than so many times itself.
_DOUBLE_WINDOW_S = 0.02
_MOST_GROWTH = 4.0
_NO_WINDOW = 1 << 30
# The search begins as if the burst were a twelfth of a second's worth, and never lower than this;
# or than the other, where a refusal costs no more than a short pause.
_SEARCH_PER_BURST = 12.0
_SEARCH_FROM = 25.0
_CHEAP_SEARCH_FROM = 100.0
_SEARCH_DOUBLES_S = 0.3
_CUT = 0.7
# A search that came to fewer orders than this tells nothing of the limit where it can begin lower:
# it may be others that filled the bucket.
_FEW = 8
# A bucket that is empty in no more than this is tight: whatever makes some orders come together, a
# moment's pause of the limiter itself, fills it. There a refusal takes this part off the rate at
# which it came, and so many orders bring it back. A limit that has fallen refuses sooner, and is
# measured anew.
_TIGHT_S = 0.0042
_SKIM = 0.02
_SKIM_ORDERS = 300
_SKIM_PERIOD_S = 0.2
# Where less than this of the rate was served, it was not the rate that was refused.
_USED = 0.7
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
# An estimate that is lower than the one before by more than this is a sign of others that share the
# limit; one that agrees is a sign against. No more than so many are remembered, so that it is
# noticed when the others are gone.
_AGREE = 0.01
_MOST_SIGNS = 3
# One alone is no sign yet where yielding for nothing would cost long pauses, or where the bucket
# holds hardly more than what is uncertain.
_SIGNS_IF_DEAR = 2
_LONG_PAUSE_S = 0.5
# A client that shares yields this part of its rate at each refusal, and the root of the rate rises
# by so much in each pause's time, no pause being thought shorter than this.
_YIELD = 0.2
_ROOT_RISES = 0.15
_SHARED_PAUSE_S = 0.1
# Refused with this many in flight or more, and about as many each time: their number is limited.
_MIN_AT_ONCE = 6
_ALIKE = 1.2
# A rate that doubles every 0.3 s overruns a bucket's limit by this many times its burst, a second.
_OVERRUN = 3.0
# Refused with fewer than this share of the window in flight: it was not their number.
_FEWER = 0.7
# Nor was it, where so many in a row are refused at a number that had been narrowed and not widened.
_UNASKED = 2
# So many refusals in a row, each after fewer orders than this, are looked at together: are they a
# limit's, or chance?
_SHORT_RUN = 40
_RUNS = 5
# Where the pauses take more than one part in so many of the time, longer runs count as well.
_SELDOM = 10.0
# Refusals at random are no more than this share: a limit's become more as the rate rises.
_RARE = 0.08
_STEADY = 2.0
# Being slower by this is no remedy either, before it is thought to be chance.
_SLOWED = 0.35
# ... and the slowest runs not be longer by this than the fastest.
_LONGER = 2.0
# Being faster is to be rewarded by this much more that is served.
_PAYS = 1.2
# How far the rate may run ahead of what is served, where refusals come at random.
_AHEAD = 10.0
# So many orders are remembered one by one, and those before in as many lumps at most, each of this
# many at first.
_REMEMBERED = 2048
_LUMP = 16
_BISECTIONS = 30
# When an order came is known to this, in seconds: there is the network, and there are limiters
# whose clock tells milliseconds.
_UNSURE_S = 0.001
# What a refusal tells of the burst, it tells to half an order more or less.
_HALF = 0.5

_Moment = tuple[float, int]  # when so many orders had left


class _Departures:
    """When the orders that were accepted had left: all of them, in a bounded room.

    What a bucket held long ago is of no account once it was empty; where it never was, their sum
    tells. So the older ones are put together in lumps, the larger the more there are.
    """

    def __init__(
        self, last: Iterable[tuple[float, float]] = (), lumps: Iterable[_Moment] = ()
    ) -> None:
        #: When each of the last had left, which but for the network is the limiter's time
        #: (connections are made before, the endpoint works after), and when its answer was heard.
        self.last = list(last)
        self._lumps = list(lumps)

    def add(self, left_at: float, heard_at: float) -> None:
        """One more was accepted."""
        self.last.append((left_at, heard_at))
        if len(self.last) == 2 * _REMEMBERED:
            self.last.sort()  # they come as they are answered
            left = [left for left, _ in self.last[:_REMEMBERED]]
            del self.last[:_REMEMBERED]
            self._lumps += [(moment, _LUMP) for moment in left[_LUMP - 1 :: _LUMP]]
            if len(self._lumps) > _REMEMBERED:
                self._lumps = _in_pairs(self._lumps)

    def between(self, since: float, until: float) -> list[_Moment]:
        """Those that left later than the one moment and no later than the other, in order."""
        moments = self._lumps + [(left, 1) for left, _ in self.last]
        return sorted(moment for moment in moments if since < moment[0] <= until)

    def after(self, moment: float) -> _Departures:
        """Those that left later."""
        return _Departures(
            (one for one in self.last if one[0] > moment),
            (lump for lump in self._lumps if lump[0] > moment),
        )


@attrs.define
class _Run:
    """What went on between two refusals."""

    served: float  # orders per second, the pause included
    accepted: int
    rate: float  # orders per second that were sent at the end of it
    short: bool
    refused: int = 1


class _ShortRuns:
    """Tells a limit's refusals from refusals at random, which no slowness remedies.

    Behind a limit, what is served a second between two refusals is about the same at every rate;
    where refusals come at random it follows the rate, and their share stays the same. Several
    clients that overrun one limit together look like chance too, until they are slower.
    """

    def __init__(self) -> None:
        self._runs: deque[_Run] = deque(maxlen=_RUNS)
        self._share: float | None = None  # of refusals, when they were first taken for chance
        self._mean = 0.0  # orders per second that were served then
        self._since = 0  # runs ago

    @property
    def many(self) -> bool:
        """Whether so many came one after the other that they may be chance."""
        return len(self._runs) == _RUNS

    @property
    def most_served(self) -> float:
        """The best of them, in orders per second."""
        return max(run.served for run in self._runs)

    @property
    def fastest(self) -> float:
        """The highest rate of them, in orders per second."""
        return max(run.rate for run in self._runs)

    def _slower_is_no_remedy(self) -> bool:
        by_rate = sorted(self._runs, key=lambda run: run.rate)
        slow = sum(run.accepted for run in by_rate[:2])
        fast = sum(run.accepted for run in by_rate[-2:])
        served = [run.served for run in by_rate]
        return (
            by_rate[0].rate <= _SLOWED * by_rate[-1].rate
            and slow <= _LONGER * max(fast, 1)
            and max(served) > _STEADY * min(served)
        )

    def _mean_served(self) -> float:
        lasted_s = sum(run.accepted / run.served for run in self._runs if run.accepted)
        return sum(run.accepted for run in self._runs) / max(lasted_s, 0.001)

    def refused_too(self) -> None:
        """Another one of the same burst was refused."""
        if self._runs:
            self._runs[-1].refused += 1

    def at_random(self, run: _Run) -> bool:
        """Take in one more run; whether they look like chance."""
        runs = self._runs
        if not run.short:
            runs.clear()
            self._share = None
            return False
        runs.append(run)
        if len(runs) < _RUNS:
            return False
        refused = sum(run.refused for run in runs)
        share = refused / (refused + sum(run.accepted for run in runs))
        if self._share is None:
            if share > _RARE or not self._slower_is_no_remedy():
                return False
            self._share = share
            self._mean = self._mean_served()
            self._since = 0
            return True
        self._since += 1
        worse = share > max(_RARE, 2.0 * self._share)
        if worse or (self._since >= _RUNS and self._mean_served() < _PAYS * self._mean):
            # Going faster made it worse, or no better: a limit after all.
            runs.clear()
            self._share = None
            return False
        return True


class LimitFinder:
    """How many may be in flight, and how many a second, by what was refused so far."""

    def __init__(self) -> None:
        #: How many may be in flight, besides the caller's own bound.
        self.window = _INITIAL_WINDOW
        #: The estimate in orders per second; None until refusals have told it.
        self.limit: float | None = None
        #: Whether a refusal has been seen, so that `rate` has a bound.
        self.bounded = False
        #: How late a sender may be and make it good at once, in seconds: what comes then fills no
        #: more than half of an empty bucket, and the network's unevenness may fill the rest.
        self.slack_s = math.inf
        #: Whether a refusal has told the burst.
        self.measured = False
        #: Whether `plan` has something to say once the pause is over.
        self.refusal_pending = False
        self._accepted = _Departures()
        self._grown_at = -math.inf
        self._searching = False
        self._heard_at = -math.inf  # when the last burst of refusals was first heard of
        self._full_at: float | None = None  # when the last of that burst had left
        self._full_before: float | None = None  # the same of the burst before
        self._counted_to = -math.inf  # those that left so far were counted in an estimate
        self._refused_with = -math.inf  # when the first of the last burst had left
        self._rate_then = math.inf
        self._resume_at = -math.inf
        self._burst: Callable[[float], float] = lambda _limit: 1.0
        self._base = math.inf  # the rate right after the pause
        self._error = _MAX_ERROR
        self._probe_s = _MIN_PROBE_S
        self._runs = _ShortRuns()
        self._skims = False  # whether the rate follows the refusals of a tight bucket
        self._signs = 0  # of others that share the limit
        self._shared = False
        # How many that were accepted were in flight with the last refusal, and with the one before.
        self._with_last = 0
        self._with_before = 0
        self._windowed = False  # whether a window is held, and not a rate
        self._widen_at = math.inf
        self._wider_by = 1
        self._unasked = 0  # refusals in a row at a window that had not been widened
        self._is_rate = False  # for certain

    def accepted(self, admitted_at: float, left_at: float | None, now: float) -> None:
        """An attempt that was admitted, and had left, at these times was accepted."""
        self._accepted.add(admitted_at if left_at is None else left_at, now)
        if self.bounded:
            if now >= self._widen_at:
                self._widen(now)
        elif now - self._grown_at > _DOUBLE_WINDOW_S:
            self._grown_at = now
            growth = math.exp2(min((now - admitted_at) / _DOUBLE_WINDOW_S, 64.0))
            grown = self.window * min(_MOST_GROWTH, max(2.0, growth))
            self.window = min(_NO_WINDOW, round(grown))

    def refused(
        self, admitted_at: float, left_at: float | None, now: float, resume_at: float
    ) -> None:
        """An attempt was refused; everybody pauses until `resume_at`.

        What it says is worked out by `plan` after the pause, when the answers to those that were in
        flight with it are known.
        """
        if left_at is None:
            left_at = admitted_at
        if self._full_at is not None and admitted_at <= self._heard_at:
            # Of the same burst: the bucket was still full.
            self._full_at = max(self._full_at, left_at)
            self._resume_at = max(self._resume_at, resume_at)
            self._runs.refused_too()
            return
        self._rate_then = self.rate(now)
        self._resume_at = resume_at
        self._full_before, self._full_at = self._full_at, left_at
        self._refused_with = left_at
        self._heard_at = now
        self.bounded = self.refusal_pending = True

    def plan(self, in_flight: int) -> None:
        """Work out how fast to go on, once the pause is over and so many are still in flight."""
        self.refusal_pending = False
        full_at, full_before = self._full_at, self._full_before
        assert full_at is not None  # noqa: S101 - there was a refusal
        accepted, self._accepted = self._accepted, self._accepted.after(full_at)
        # A refusal takes the network's time only: those answered later were in service then.
        at_once = in_flight + sum(
            left_at <= self._refused_with and heard_at > self._heard_at
            for left_at, heard_at in accepted.last
        )
        served = accepted.between(self._counted_to, full_at)
        served += [(full_at, 1)] * in_flight  # they will be accepted
        self._counted_to = full_at
        self._with_before, self._with_last = self._with_last, at_once
        if full_before is None:
            self._begin_search(served, full_at)
            return
        if self._windowed:
            if not self._is_rate_after_all(accepted.last):
                self._narrow()
                return
            if self._rate_then < _SEARCH_FROM:
                return  # narrowed to less than the search begins with: it tells nothing of a share
        estimate = self._estimate(served, full_before, full_at)
        if estimate is not None and self._forgot(served, full_before, estimate):
            # It would be a bucket so large that it is never empty: the first refusal, which told
            # its size, may have been that of a limit that was not there before. What went through
            # of late tells the limit all the same.
            served = served[-_REMEMBERED:]
            full_before = served[0][0]
            estimate = self._estimate(served, full_before, full_at)
        if self._searching and self._at_once_is_limited(estimate):
            self._hold_window()
        elif self._may_begin_lower() and (estimate is None or _count(served) < _FEW):
            self._base = max(_SEARCH_FROM, self._base / 2.0)
        else:
            uncertain = 0.0
            if estimate is not None:
                estimate, uncertain = self._weighed(estimate, served, full_before, full_at)
            self._hold(estimate, _count(served), full_at - full_before, uncertain)

    def rate(self, now: float) -> float:
        """Orders per second that may begin now."""
        if self._base == math.inf:
            return math.inf
        elapsed = max(0.0, now - self._resume_at)
        if self._searching:
            return self._base * math.exp2(min(elapsed / _SEARCH_DOUBLES_S, 64.0))
        base, error = self._base, 1.5 * self._error
        if self._skims:
            return base * (1.0 + _SKIM * (elapsed / self._probe_s) ** 2)
        if self._shared:
            pauses = elapsed / max(self._worth_s(), _SHARED_PAUSE_S)
            return (math.sqrt(base) + _ROOT_RISES * pauses) ** 2
        periods = elapsed / self._probe_s
        if periods < 1.0:
            return base * (1.0 + error * periods)
        return base * (1.0 + error) * math.exp(min(_GROWTH * (periods - 1.0), 64.0))

    def _begin_search(self, served: list[_Moment], full_at: float) -> None:
        began = served[0][0] if served else full_at
        count = _count(served)
        if served:  # else it may be chance as well, and tells of no burst
            self._burst = lambda limit: _full(served, full_at, limit, began, 0.0)
        so_far = count / max(full_at - began, 0.001)
        least = _SEARCH_FROM if self._worth_s() >= _LONG_PAUSE_S else _CHEAP_SEARCH_FROM
        self._base = max(least, min(_SEARCH_PER_BURST * count, so_far / 2.0))
        self._searching = self.measured = True
        self.window = _NO_WINDOW
        self._limit_slack(self._base)

    def _limit_slack(self, limit: float) -> None:
        self.slack_s = max(0.0, self._burst(limit) - _HALF) / 2.0 / limit

    def _capacity(self, limit: float) -> float:
        return max(1.0, self._burst(limit))

    def _may_begin_lower(self) -> bool:
        return self._searching and self._base > _SEARCH_FROM

    @property
    def tight_for_s(self) -> float | None:
        """How long a bucket that is soon empty takes for it; None where it is another's."""
        limit = self.limit
        if limit is None or self._windowed or not self._is_tight(limit):
            return None
        return self._capacity(limit) / limit

    def _is_tight(self, limit: float) -> bool:
        return self._capacity(limit) <= _TIGHT_S * limit and self._worth_s() < _LONG_PAUSE_S

    def _may_skim(self, rate: float, served: float, count: int) -> bool:
        """Whether a refusal after so many orders tells of a tight bucket, and of nothing else."""
        return (
            self._is_tight(rate)
            and not (self._searching or self._shared or self._runs.many)
            and (count < _SHORT_RUN or served >= _USED * rate)
        )

    def _hardly_a_bucket(self, limit: float) -> bool:
        """Whether it holds no more than what is uncertain of its level."""
        limit = max(limit, self.limit or 0.0)
        return self._capacity(limit) <= 1.0 + _unsure(limit)

    def _at_once_is_limited(self, estimate: float | None) -> bool:
        """Whether it is rather a limit on concurrent requests that was met in the search.

        Then as many as before were in flight; and a bucket that explains the refusal as well would
        have been overrun by more than the search overruns one.
        """
        if self._is_rate:
            return False
        fewer, more = sorted((self._with_before, self._with_last))
        if fewer < _MIN_AT_ONCE or more > fewer * _ALIKE + 1:
            return False
        overrun = _OVERRUN * self._with_before
        return estimate is None or self._rate_then > estimate + overrun

    def _hold_window(self) -> None:
        """Hold as many in flight as were never refused, however many a second that makes."""
        self._windowed, self._searching = True, False
        self._base, self._error = math.inf, _MAX_ERROR
        self.window = max(1, min(self._with_before, self._with_last) - 1)
        self._probe_s = min(_MAX_PROBE_S, max(_MIN_PROBE_S, self._worth_s() * self.window))
        self._let_settle()

    def _widen(self, now: float) -> None:
        """Try a wider window, and a still wider one if nothing comes of it."""
        self.window = min(_NO_WINDOW, self.window + self._wider_by)
        self._wider_by = min(_NO_WINDOW, 2 * self._wider_by)
        self._widen_at = now + self._probe_s

    def _is_rate_after_all(self, accepted: Iterable[tuple[float, float]]) -> bool:
        """Whether a number at once can't explain it: the same one was let through before.

        A bucket before a slow endpoint looks like a limit on their number at first, for a window
        that is full makes a rate; but it refuses again and again until that is below its own.
        """
        self._unasked = self._unasked + 1 if self._wider_by == 1 else 0
        if self._unasked < _UNASKED or self._with_last < _FEWER * self.window - 1:
            return False
        self._is_rate, self._windowed, self._searching = True, False, True
        answered_in = statistics.median(heard - left for left, heard in accepted or [(0, 1)])
        self._rate_then = self.window / max(answered_in, 0.001)
        self._base = _SEARCH_FROM
        self.window, self._widen_at = _NO_WINDOW, math.inf
        return True

    def _narrow(self) -> None:
        """Hold fewer in flight; back to the search, where it is not their number."""
        if self._with_last < _FEWER * self.window - 1:
            self._windowed, self._searching = False, True
            self.window, self._widen_at = _NO_WINDOW, math.inf
            self.limit = None
            self._base = _SEARCH_FROM
            self._error = _MAX_ERROR
            return
        self.window = max(1, min(self.window, self._with_last) - 1)
        self._probe_s = min(_MAX_PROBE_S, 2.0 * self._probe_s)
        self._let_settle()

    def _let_settle(self) -> None:
        self._wider_by = 1
        self._widen_at = self._resume_at + self._probe_s

    def _worth_s(self) -> float:
        """What a probe costs: the pause that it brings about."""
        return max(self._resume_at - self._heard_at, _MIN_PAUSE_S)

    def _share(self, limit: float, previous: float | None, *, at_random: bool) -> None:
        """Whether others seem to take their part of the limit, so that shares have to be found."""
        if at_random or previous is None or self._skims:
            self._signs = 0
        elif limit < previous * (1.0 - _AGREE):
            if limit > _CUT * self._rate_then:  # else it is on its way down to what it fell to
                self._signs = min(_MOST_SIGNS, self._signs + 1)
        elif limit <= previous * (1.0 + _AGREE):
            self._signs = max(0, self._signs - 1)
        dear = self._worth_s() >= _LONG_PAUSE_S
        enough = _SIGNS_IF_DEAR if dear or self._hardly_a_bucket(limit) else 1
        # Refusals at random give such signs as well. What tells the two apart is how a much slower
        # client fares, and only one that follows its estimates becomes much slower.
        perhaps_chance = not dear and self._runs.many
        self._shared = self._signs >= (1 if self._shared else enough) and not perhaps_chance

    def _estimate(self, served: list[_Moment], full_before: float, full_at: float) -> float | None:
        """The limit at which the bucket, full at the last refusal, was full again at this one.

        None where there is none: too few orders, or another limit than then.
        """

        def surplus(limit: float) -> float:
            full = self._capacity(limit)
            return _full(served, full_at, limit, full_before, full) - full

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

    def _busy_since(self, served: list[_Moment], full_before: float, limit: float) -> float:
        """When the bucket, full at the last refusal, was empty for the last time."""
        level, last, since = self._capacity(limit), full_before, full_before
        for moment, count in served:
            level += count - limit * (moment - last)
            if level <= 1.0:
                level, since = 1.0, moment
            last = moment
        return since

    def _forgot(self, served: list[_Moment], full_before: float, limit: float) -> bool:
        """Whether the bucket would have been full long ago, and never empty since."""
        if len(served) <= _REMEMBERED:
            return False
        return self._busy_since(served, full_before, limit) == full_before

    def _weighed(
        self, estimate: float, served: list[_Moment], full_before: float, full_at: float
    ) -> tuple[float, float]:
        """The limit by an estimate, and how uncertain it is by that, as a share of itself.

        Each moment is uncertain by a little, and so is the level of the bucket. Where it takes
        hardly more than that to fill it, a refusal tells of the limit only by the time for which
        it had not been empty. So where the limit that is held explains the refusal as well, the
        estimate counts for as much as it is the more certain of the two.
        """
        if not self._hardly_a_bucket(estimate):
            return estimate, 0.0
        busy_s = full_at - self._busy_since(served, full_before, estimate)
        uncertain = _unsure(estimate) / max(estimate * busy_s, 0.001)
        held = self.limit
        if held is None or self._searching:
            return estimate, uncertain
        full = self._capacity(held)
        if _full(served, full_at, held, full_before, full) < full - _unsure(held):
            return estimate, uncertain
        weight = self._error**2 / (self._error**2 + uncertain**2)
        return held + weight * (estimate - held), 0.0

    def _hold(self, estimate: float | None, count: int, lasted_s: float, uncertain: float) -> None:
        """Hold the new estimate, or find out what it is that bounds instead."""
        rate, previous = self._rate_then, self.limit
        served = count / max(lasted_s, 0.001)
        limit = min(rate, served) * _CUT if estimate is None else min(rate, estimate)
        if not self._searching:
            # One refusal that comes early may be chance: it does not tell more than this.
            limit = max(limit, rate * _CUT)
        elif estimate is None:
            limit = max(limit, self._base / 2.0)
        self._skims = self._may_skim(rate, served, count)
        if self._skims:
            limit = rate * (1.0 - _SKIM)
        self.limit = limit = max(_MIN_RATE, limit)
        self._limit_slack(limit)
        # What the search finds is a little too low by itself: on their way orders bunch, and fill
        # the bucket by more than the moments of their leaving tell.
        margin = 0.0 if self._searching else 0.5
        self._searching = False
        error = max(_MIN_ERROR, _ERROR_ORDERS / max(count, 1), uncertain)
        self._error = min(_MAX_ERROR, error)
        few = _SHORT_RUN if lasted_s > _SELDOM * self._worth_s() else 5 * _SHORT_RUN
        at_random = self._runs.at_random(_Run(served, count, rate, short=count < few))
        self._share(limit, previous, at_random=at_random)
        self.window = _INITIAL_WINDOW if at_random else _NO_WINDOW
        if at_random:
            self._skims = False
            # Slower is no remedy: go on as fast as before, and faster, so long as more is served.
            most = _AHEAD * self._runs.most_served
            self.limit = limit = self._base = max(limit, min(self._runs.fastest / _CUT, most))
            self._error = _MAX_ERROR
        elif self._skims:
            self._base = limit
            self._probe_s = max(_SKIM_PERIOD_S, _SKIM_ORDERS / limit)
            return
        elif self._shared:
            self._base = max(_MIN_RATE, rate * (1.0 - _YIELD))
        else:
            self._base = limit * (1.0 - margin * self._error)
        worth_s = self._worth_s() / self._error
        self._probe_s = min(_MAX_PROBE_S, max(_MIN_PROBE_S, worth_s))


def _unsure(limit: float) -> float:
    """How uncertain the level of a bucket is, in orders."""
    return _HALF + _UNSURE_S * limit


def _in_pairs(lumps: Sequence[_Moment]) -> list[_Moment]:
    pairs = zip_longest(lumps[::2], lumps[1::2], fillvalue=(-math.inf, 0))
    return [(max(one, other), some + more) for (one, some), (other, more) in pairs]


def _count(moments: Iterable[_Moment]) -> int:
    return sum(count for _, count in moments)


def _level(
    moments: Iterable[_Moment], at: float, limit: float, since: float, level: float
) -> float:
    """How many orders stand in the bucket at a time, when they came by these moments.

    Each adds one to what has not leaked yet; those of a lump had come evenly since the one before.
    """
    for moment, count in moments:
        level = max(1.0, level + count - limit * (moment - since))
        since = moment
    return max(0.0, level - limit * (at - since))


def _full(moments: Sequence[_Moment], at: float, limit: float, since: float, level: float) -> float:
    """The level from which on the bucket refuses, as one shows that was refused at this time.

    It was no higher than the last one that was accepted found it, and is lower than what the
    refused one found: halfway, for want of knowing more.
    """
    found = _level(moments, at, limit, since, level)
    last = moments[-1][0] if moments else since
    return found - _HALF * max(0.0, 1.0 - limit * (at - last))
