"""``--report``: one HTML page on a run, to look at when it has ended. It loads nothing.

However long a run is, what is kept of it stays small: counts, a few examples of each reason, and
a timeline of at most `_MOST_BINS` bins, which double their width whenever the run outgrows them.

The page names orders by line and key, and shows no other value of them. Its words stand in
``_report.html.j2``; plotly draws. Both libraries are an extra, and are loaded by `Report`.
"""

from __future__ import annotations

import math
import os
import shlex
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from importlib import import_module, resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from everlytic_async.cli._screen import lasting
from everlytic_async.cli._tally import Tally
from everlytic_async.errors import ConfigurationError, EverlyticError, SkippedError
from everlytic_async.events import (
    AttemptEnded,
    BatchStarted,
    CoolDown,
    Event,
    OutageEnded,
    RateChanged,
)
from everlytic_async.ledger import State, storage_key
from everlytic_async.outcomes import Outcome
from everlytic_async.policies import Delivery

__all__ = ["Facts", "Report", "check_report"]

# Both powers of two: a bin's edges are exact, and two bins make one of the next width.
_FIRST_WIDTH_S = 0.125
_MOST_BINS = 256
# With fewer results or POSTs in a bin than this, what is drawn is mostly chance. The bins are then
# widened for the drawing, but not to fewer than this.
_SEEN_IN_A_BIN = 5
_FEW_BINS = 16
# A shorter run is not drawn: one bar says nothing.
_DRAWN_S = 1.0
# Times are counted by their logarithm: two in one bucket differ by no more than this factor.
_TIME_STEP = 1.05
_LOG_STEP = math.log(_TIME_STEP)
_SHORTEST_S, _LONGEST_S = 1e-4, 1e5

#: By outcome, as the page shows them: a colour and what it means. Colour-blind readers tell the
#: colours apart, and each stands out from white and from black (see the tests).
_OUTCOMES: Mapping[Outcome, tuple[str, str]] = {
    Outcome.SENT: ("#2b7fc4", "accepted by the endpoint"),
    Outcome.SKIPPED: ("#7c858f", "known to the ledger, so not sent by this run"),
    Outcome.INVALID: ("#a87900", "not valid, so not sent"),
    Outcome.REJECTED: ("#d55e00", "refused by the endpoint"),
    Outcome.NOT_SENT: ("#0a8f6a", "surely not processed"),
    Outcome.UNKNOWN: ("#b5599a", "may have been processed: nobody knows"),
}
_FAILURES = (Outcome.UNKNOWN, Outcome.NOT_SENT, Outcome.REJECTED, Outcome.INVALID)
# Lines have the ink's colour on the page, and differ by their dashes.
_LINE_COLOUR = "#7c858f"
_PAUSE_RGB = "190, 140, 40"

# Of the drawing, in pixels.
_TALL, _LOW, _GAP, _TOP, _BOTTOM = 190, 62, 44, 34, 62


@attrs.frozen(kw_only=True)
class Facts:
    """What is known of a run before it begins.

    Attributes:
        source: The input's name, fit to be shown.
        host: Where it is sent to, in words.
        workflow_id: The workflow of the orders that name none; None where each names its own.
        delivery: What is done after an answer that was lost.
        rate: The most orders per second that were asked for; None for no such bound.
        concurrency: The most POSTs at once.
        ledger: The ledger's file; None without one.
        results: The file of the results; None without one.
        sandbox: Whether nobody gets an e-mail.
    """

    source: str
    host: str
    workflow_id: int | None = None
    delivery: Delivery = Delivery.AT_MOST_ONCE
    rate: float | None = None
    concurrency: int = 32
    ledger: str | None = None
    results: str | None = None
    sandbox: bool = False


class Report:
    """Listens to a run, and writes the page when it has ended.

    Args:
        name: The page's path. A file that is there is replaced, once the page is whole.
        facts: What is known beforehand.
        keep: The files of the same run, which the page must not replace; None and ``-`` are none.
        clock: The clock of the events, in seconds.
        now: The time of day, with its zone.

    Raises:
        ConfigurationError: when the page could not be written there, or a library is missing.

    Attributes:
        fault: Why the page could not be written; None where it could.
    """

    def __init__(
        self,
        name: str,
        facts: Facts,
        *,
        keep: Iterable[str | None] = (),
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now().astimezone(),
    ) -> None:
        self._path = check_report(name, keep)
        self._jinja2, self._plotly, self._plotly_js = _libraries()
        self._facts = facts
        self._clock = clock
        self._now = now
        self._tally = Tally()
        self._keys: dict[int, str] = {}  # of the examples, by line
        self._skipped: Counter[str] = Counter()  # by what the ledger knew of them
        self._other_body = 0
        self._attempts = 0
        self._last_line = 0
        self._timeline = Timeline()
        self.fault: str | None = None

    def add(
        self,
        *,
        line: int,
        key: str | None,
        outcome: Outcome,
        attempts: int = 0,
        error: EverlyticError | str | None = None,
        duplicate_risk: bool = False,
    ) -> None:
        """Take in the result of one order, which has just come."""
        self._timeline.count(self._clock(), outcome)
        self._attempts += attempts
        self._last_line = max(self._last_line, line)
        self._tally.add(outcome, line, error, duplicate_risk=duplicate_risk)
        if isinstance(error, SkippedError):
            self._skipped[error.state or State.SENT] += 1
            self._other_body += error.other_body
        reasons = self._tally.reasons.get(outcome, {}).values() if error is not None else ()
        if key is not None and any(line in reason.lines for reason in reasons):
            self._keys[line] = storage_key(key)

    def hear(self, event: Event) -> None:
        """Take in an event; it may be a client's hook."""
        match event:
            case AttemptEnded():
                if event.status is not None or event.outcome is Outcome.UNKNOWN:
                    self._timeline.waited(event.at, event.elapsed_s)
            case CoolDown():
                self._timeline.pause(event.at, event.wait_s)
            case OutageEnded():
                self._timeline.resume(event.at)
            case RateChanged():
                self._timeline.set_pace(event.at, event.rate)
            case BatchStarted():
                self._timeline.begin(event.at)

    def finish(
        self,
        stopped: str | None,
        elapsed_s: float,
        *,
        place: str = "line",
        left_out: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Write the page. What goes wrong is told by `fault`: the orders have gone their way.

        Args:
            stopped: Why the run ended before its input did; None where it did not.
            elapsed_s: How long it took.
            place: What the number of an order counts: lines, or what the format has instead, which
                is known once some of it was read.
            left_out: How many orders of the input were left out, by reason.
        """
        page = self._page(stopped, elapsed_s, place, left_out)
        try:
            # Under a name that nobody can guess, made by us alone, with mode 0600.
            fd, part = tempfile.mkstemp(dir=self._path.parent, prefix=".", suffix=".part")
            try:
                with open(fd, "w", encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - no path
                    file.write(page)
                Path(part).replace(self._path)
            except OSError:
                with suppress(OSError):
                    Path(part).unlink(missing_ok=True)
                raise
        except OSError as failure:
            self.fault = f"the report can't be written to {str(self._path)!r}: {failure.strerror}"

    def _page(
        self, stopped: str | None, elapsed_s: float, place: str, left_out: Mapping[str, int]
    ) -> str:
        ended = self._now()
        picture = self._timeline.picture(ended - timedelta(seconds=elapsed_s), elapsed_s)
        figures = {}
        if elapsed_s >= _DRAWN_S:
            figures = {"rate": _rate_figure(picture), "wait": _wait_figure(picture)}
        environment = self._jinja2.Environment(
            autoescape=True,
            undefined=self._jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters["duration"] = lasting
        environment.filters["figure"] = _figure
        environment.filters["quote"] = shlex.quote
        template = resources.files(__package__).joinpath("_report.html.j2").read_text("utf-8")
        counts, total = self._tally.counts, self._tally.total
        page: str = environment.from_string(template).render(
            facts=self._facts,
            place=place,
            stopped=stopped,
            elapsed_s=elapsed_s,
            began=(ended - timedelta(seconds=elapsed_s)).isoformat(" ", "seconds"),
            ended=ended.isoformat(" ", "seconds"),
            total=total,
            left_out=sorted(left_out.items(), key=lambda item: -item[1]),
            counts={outcome.value: counts[outcome] for outcome in Outcome},
            failed=sum(counts[outcome] for outcome in _FAILURES),
            at_risk=self._tally.at_risk,
            skipped={state.value: self._skipped[state] for state in State},
            other_body=self._other_body,
            attempts=self._attempts,
            last_line=self._last_line,
            outcomes=list(self._outcomes()),
            why=list(self._why()),
            picture=picture,
            # plotly escapes what could end the script, and the rest is of its own.
            figures={
                name: self._plotly.to_json(figure)
                for name, figure in figures.items()
                if figure is not None
            },
            plotly_js=self._plotly_js.get_plotlyjs(),
        )
        return page

    def _outcomes(self) -> Iterator[dict[str, Any]]:
        for outcome, (colour, meaning) in _OUTCOMES.items():
            if count := self._tally.counts[outcome]:
                yield {
                    "name": _words(outcome),
                    "colour": colour,
                    "meaning": meaning,
                    "count": count,
                    "share": count / self._tally.total,
                    "percent": _percent(count, self._tally.total),
                }

    def _why(self) -> Iterator[dict[str, Any]]:
        """The reasons by outcome, the most frequent first."""
        for outcome in (*_FAILURES, Outcome.SKIPPED):
            reasons = self._tally.reasons.get(outcome, {})
            if reasons:
                yield {
                    "name": _words(outcome),
                    "colour": _OUTCOMES[outcome][0],
                    "reasons": [
                        {
                            "text": text,
                            "count": reason.count,
                            "examples": [
                                (line, self._keys.get(line)) for line in sorted(reason.lines)
                            ],
                            "more": reason.count - len(reason.lines),
                        }
                        for text, reason in sorted(reasons.items(), key=lambda item: -item[1].count)
                    ],
                }


def _libraries() -> list[Any]:
    """Jinja2 and plotly's modules, which are an extra; plotly is without types.

    Raises:
        ConfigurationError: when one is missing.
    """
    try:
        return [
            import_module("jinja2"),
            import_module("plotly.io"),
            import_module("plotly.offline"),
        ]
    except ImportError:
        raise ConfigurationError(
            "--report needs plotly and Jinja2: pip install 'everlytic-async[report]'"
        ) from None


def check_report(name: str, keep: Iterable[str | None]) -> Path:
    """Where the page goes; to be asked before anything is asked or sent.

    Raises:
        ConfigurationError: when it can't go there, or a library is missing.
    """
    _libraries()
    path = Path(name).resolve()  # a link stays a link
    problem = None
    if name == "-":
        problem = "a page is a file, not the standard output"
    elif not path.parent.is_dir():
        problem = "there is no such directory"
    elif path.exists() and not path.is_file():
        problem = "it is no regular file"
    elif not os.access(path.parent, os.W_OK | os.X_OK):
        problem = "its directory can't be written to"
    if problem is not None:
        raise ConfigurationError(f"the report can't be written to {name!r}: {problem}")
    for other in keep:
        if other in (None, "-"):
            continue
        kept = Path(other).resolve()
        if kept == path or (path.exists() and kept.exists() and kept.samefile(path)):
            raise ConfigurationError(f"--report names a file that the run needs: {other!r}")
    return path


# ------------------------------------------------------------------------------------- the time


@attrs.define
class Bin:
    """What happened in a stretch of time.

    Attributes:
        counts: How many orders got each outcome.
        waits: How many POSTs took how long, by the logarithm of the seconds.
        pauses: How many cool-downs began.
        paused_s: How long nothing was sent because of them, in seconds.
        pace: The last that the client set itself, in orders per second.
    """

    counts: Counter[Outcome] = attrs.Factory(Counter)
    waits: Counter[int] = attrs.Factory(Counter)
    pauses: int = 0
    paused_s: float = 0.0
    pace: float | None = None

    def merge(self, later: Bin) -> None:
        """Take in what happened next."""
        self.counts += later.counts
        self.waits += later.waits
        self.pauses += later.pauses
        self.paused_s += later.paused_s
        self.pace = self.pace if later.pace is None else later.pace


class Timeline:
    """What happened when: bins of equal width from the begin on, wider the longer it gets.

    Attributes:
        width_s: How wide a bin is.
        bins: By their places, from 0; where nothing happened there is none.
    """

    def __init__(self) -> None:
        self.width_s = _FIRST_WIDTH_S
        self.bins: dict[int, Bin] = {}
        self._began: float | None = None
        self._paused: tuple[float, float] | None = None  # from when to when, not counted yet

    def begin(self, at: float) -> None:
        """Time is counted from here; without it, from the first that happens."""
        if self._began is None:
            self._began = at

    def count(self, at: float, outcome: Outcome) -> None:
        """An order got its outcome."""
        self._bin(at).counts[outcome] += 1

    def waited(self, at: float, elapsed_s: float) -> None:
        """A POST ended after so long."""
        elapsed_s = min(max(elapsed_s, _SHORTEST_S), _LONGEST_S)
        self._bin(at).waits[round(math.log(elapsed_s) / _LOG_STEP)] += 1

    def set_pace(self, at: float, rate: float | None) -> None:
        """So many orders per second are sent from now on; None for no bound, and no line."""
        if rate is not None:
            self._bin(at).pace = rate

    def pause(self, at: float, wait_s: float) -> None:
        """Nothing is sent for so long, or until more is heard."""
        self._bin(at).pauses += 1
        if self._paused is not None and at < self._paused[1]:
            self._paused = (self._paused[0], max(self._paused[1], at + wait_s))
            return
        self.resume(at)
        self._paused = (at, at + wait_s)

    def resume(self, at: float) -> None:
        """A pause is over now, if it was not before."""
        if self._paused is None:
            return
        began, end = self._paused[0], min(self._paused[1], at)
        self._paused = None
        self._bin(end)  # first of all: bins may not grow while time is given to them
        for place in range(self._place(began), self._place(end) + 1):
            lasted_s = min(end, self._start_of(place + 1)) - max(began, self._start_of(place))
            if lasted_s > 0:
                self._bin(self._start_of(place + 0.5)).paused_s += lasted_s

    def picture(self, began: datetime, elapsed_s: float) -> Picture:
        """What there is to draw, once it is over.

        Args:
            began: When it did, in time of day.
            elapsed_s: How long it took.
        """
        if self._began is not None:
            self.resume(max(self._began + elapsed_s, self._paused[0] if self._paused else 0.0))
        bins = self.bins.values()
        seen = max(
            sum(bin_.counts.total() for bin_ in bins), sum(bin_.waits.total() for bin_ in bins)
        )
        while len(self._places()) > _FEW_BINS and seen < _SEEN_IN_A_BIN * len(self._places()):
            self._widen()
        return Picture(began, elapsed_s, self.width_s, [self.bins.get(p) for p in self._places()])

    def _places(self) -> range:
        return range(max(self.bins, default=-1) + 1)

    def _start_of(self, place: float) -> float:
        return (self._began or 0.0) + place * self.width_s

    def _place(self, at: float) -> int:
        self.begin(at)
        assert self._began is not None  # noqa: S101 - it has begun now
        return max(0, math.floor((at - self._began) / self.width_s))

    def _bin(self, at: float) -> Bin:
        while (place := self._place(at)) >= _MOST_BINS:
            self._widen()
        found = self.bins.get(place)
        if found is None:
            found = self.bins[place] = Bin()
        return found

    def _widen(self) -> None:
        """Make one bin of every two."""
        self.width_s *= 2
        bins, self.bins = self.bins, {}
        for place in sorted(bins):
            if place // 2 in self.bins:
                self.bins[place // 2].merge(bins[place])
            else:
                self.bins[place // 2] = bins[place]


@attrs.frozen
class Picture:
    """What there is to draw.

    Attributes:
        began: When it did, in time of day.
        elapsed_s: How long it took.
        width_s: How wide a bin is.
        bins: From the begin to the end without a gap; None where nothing happened.
    """

    began: datetime
    elapsed_s: float
    width_s: float
    bins: Sequence[Bin | None]

    @property
    def pauses(self) -> int:
        """How many cool-downs there were."""
        return sum(bin_.pauses for bin_ in self.bins if bin_ is not None)

    @property
    def paused_s(self) -> float:
        """How long they took together."""
        return sum(bin_.paused_s for bin_ in self.bins if bin_ is not None)

    @property
    def has_pace(self) -> bool:
        """Whether the client set itself a pace."""
        return any(bin_ is not None and bin_.pace is not None for bin_ in self.bins)

    @property
    def waits(self) -> Counter[int]:
        """How many POSTs took how long, by the logarithm of the seconds."""
        return sum((bin_.waits for bin_ in self.bins if bin_ is not None), Counter())

    @property
    def median_s(self) -> float | None:
        """Half of the POSTs took no longer than this."""
        return quantile(self.waits, 0.5)

    @property
    def p95_s(self) -> float | None:
        """19 of 20 POSTs took no longer than this."""
        return quantile(self.waits, 0.95)

    def time(self, place: float) -> str:
        """The time of day at a bin's begin, as plotly takes it: without a zone."""
        at = self.began + timedelta(seconds=place * self.width_s)
        return at.replace(tzinfo=None).isoformat(" ", "milliseconds")

    def rate(self, place: int, outcome: Outcome) -> float:
        """Orders per second that got the outcome in a bin."""
        bin_ = self.bins[place]
        # The last bin lasts until the end. Never less than half: few orders are no high rate.
        lasted_s = min(self.width_s, self.elapsed_s - place * self.width_s)
        seconds = max(lasted_s, self.width_s / 2)
        return 0.0 if bin_ is None else bin_.counts[outcome] / seconds


def quantile(waits: Counter[int], share: float) -> float | None:
    """The seconds that so large a share of POSTs did not exceed; None where there were none.

    It is at most 2.5 % off, by the width of a bucket.
    """
    wanted = math.ceil(share * waits.total())
    for bucket in sorted(waits):
        wanted -= waits[bucket]
        if wanted <= 0:
            return math.exp(bucket * _LOG_STEP)
    return None


# ---------------------------------------------------------------------------------- the drawing


def _rate_figure(picture: Picture) -> dict[str, Any] | None:
    """A row for each outcome that was, with a scale of its own: 3 unknown in a million show."""
    shown = [
        outcome
        for outcome in _OUTCOMES
        if any(bin_ is not None and bin_.counts[outcome] for bin_ in picture.bins)
    ]
    if not shown:
        return None
    data, places = [], range(len(picture.bins))
    for row, outcome in enumerate(shown):
        found = [
            (place, bin_.counts[outcome])
            for place in places
            if (bin_ := picture.bins[place]) is not None and bin_.counts[outcome]
        ]
        data.append(
            {
                "type": "bar",
                "name": _words(outcome),
                "x": [picture.time(place + 0.5) for place, _ in found],
                "y": [picture.rate(place, outcome) for place, _ in found],
                "width": picture.width_s * 1000,
                "customdata": [count for _, count in found],
                "hovertemplate": f"{_words(outcome)}: %{{y:,.3~r}} a second (%{{customdata:,}} "
                "orders)<extra></extra>",
                "yaxis": _axis("y", row),
                "marker": {"color": _OUTCOMES[outcome][0], "line": {"width": 0}},
            }
        )
    if picture.has_pace:
        paces = [
            (place, bin_.pace)
            for place in places
            if (bin_ := picture.bins[place]) is not None and bin_.pace is not None
        ]
        paces.append((max(places) + 1, paces[-1][1]))  # it holds to the end
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "pace",
                "x": [picture.time(place) for place, _ in paces],
                "y": [pace for _, pace in paces],
                "line": {"color": _LINE_COLOUR, "dash": "dash", "width": 2, "shape": "hv"},
                "hovertemplate": "pace: %{y:,.3~r} a second<extra></extra>",
                "yaxis": _axis("y", 0),
            }
        )
    titles = [f"{_words(outcome)}, orders per second" for outcome in shown]
    return {"data": data, "layout": _layout(picture, titles)}


def _wait_figure(picture: Picture) -> dict[str, Any] | None:
    """The time to an answer: the median, and what one in twenty exceeds."""
    waits = {p: bin_.waits for p, bin_ in enumerate(picture.bins) if bin_ is not None}
    found = {
        name: {place: quantile(of_bin, share) for place, of_bin in waits.items() if of_bin}
        for name, share in (("median", 0.5), ("95th percentile", 0.95))
    }
    most = max((seconds or 0.0 for seconds in found["95th percentile"].values()), default=None)
    if most is None:
        return None
    unit, times = ("seconds", 1.0) if most >= 1 else ("milliseconds", 1000.0)
    styles = (("median", "solid"), ("95th percentile", "dot"))
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": name,
            "x": [picture.time(place + 0.5) for place in range(len(picture.bins))],
            # None where there was no POST: the line has a gap there.
            "y": [
                None if (seconds := found[name].get(place)) is None else seconds * times
                for place in range(len(picture.bins))
            ],
            "line": {"color": _LINE_COLOUR, "dash": dash, "width": 2},
            "marker": {"color": _LINE_COLOUR, "size": 4},
            "hovertemplate": f"{name}: %{{y:,.3~r}} {unit}<extra></extra>",
        }
        for name, dash in styles
    ]
    return {"data": data, "layout": _layout(picture, [f"time to an answer, {unit}"])}


def _layout(picture: Picture, titles: Sequence[str]) -> dict[str, Any]:
    """Rows above each other with one axis of time. The page's style sheet sets the text's colour.

    Args:
        picture: What is drawn.
        titles: One for each row, from above.
    """
    heights = [_TALL] + [_LOW] * (len(titles) - 1)
    inner = sum(heights) + _GAP * (len(titles) - 1)
    end = max(len(picture.bins) * picture.width_s, picture.elapsed_s) / picture.width_s
    zone = f"{picture.began:%z}"
    layout: dict[str, Any] = {
        "height": inner + _TOP + _BOTTOM,
        "autosize": True,
        "template": {},  # none of plotly's own
        "margin": {"l": 8, "r": 12, "t": _TOP, "b": _BOTTOM},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 13},
        "showlegend": False,
        "bargap": 0,
        "barmode": "overlay",
        "hovermode": "x unified",
        "hoversubplots": "axis",
        "hoverlabel": {"bgcolor": "#ffffff"},  # the page's colour instead, but opaque like this
        "separators": ".,",
        "xaxis": {
            "type": "date",
            "range": [picture.time(0), picture.time(end)],
            "anchor": "free",
            "position": 0,
            "title": {"text": f"time of day (UTC{zone[:3]}:{zone[3:5]})", "font": {"size": 13}},
            "nticks": 8,
            "ticks": "outside",
            "showgrid": False,
            "spikethickness": 1,
        },
        "annotations": [],
        "shapes": list(_pauses(picture)),
    }
    top = inner
    for row, (title, height) in enumerate(zip(titles, heights, strict=True)):
        layout[_axis("yaxis", row)] = {
            "domain": [max(0.0, (top - height) / inner), min(1.0, top / inner)],
            "rangemode": "tozero",
            "fixedrange": True,
            "automargin": True,
            "nticks": 5 if row == 0 else 3,
            "separatethousands": True,
            "exponentformat": "none",
            "zeroline": True,
        }
        layout["annotations"].append(
            {
                "text": title,
                "showarrow": False,
                "xref": "paper",
                "x": 0,
                "xanchor": "left",
                "yref": "paper",
                "y": top / inner,
                "yanchor": "bottom",
                "yshift": 3,
            }
        )
        top -= height + _GAP
    return layout


def _pauses(picture: Picture) -> Iterator[dict[str, Any]]:
    """A shade behind the bins with a cool-down, the darker the longer nothing was sent."""
    for place, bin_ in enumerate(picture.bins):
        if bin_ is not None and bin_.paused_s > 0:
            share = min(1.0, bin_.paused_s / picture.width_s)
            yield {
                "type": "rect",
                "layer": "below",
                "xref": "x",
                "x0": picture.time(place),
                "x1": picture.time(place + 1),
                "yref": "paper",
                "y0": 0,
                "y1": 1,
                "line": {"width": 0},
                "fillcolor": f"rgba({_PAUSE_RGB}, {0.15 + 0.3 * share:.2f})",
            }


def _axis(name: str, row: int) -> str:
    """As plotly counts them: y, y2, y3."""
    return name if row == 0 else f"{name}{row + 1}"


# ------------------------------------------------------------------------------------ the words


def _words(outcome: Outcome) -> str:
    return outcome.replace("_", " ")


def _percent(count: int, total: int) -> str:
    """A share; what is not all is never shown as all, and what is something never as nothing."""
    if count == total:
        return "100 %"
    percent = 100 * count / total
    if percent < 0.01:  # noqa: PLR2004 - the last digit shown
        return "< 0.01 %"
    return f"{min(percent, 99.99):.2f} %"


def _figure(number: float) -> str:
    """A number to about three digits, without an exponent."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"  # noqa: PLR2004 - three digits
