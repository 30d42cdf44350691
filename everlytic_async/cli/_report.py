"""``--report``: one HTML page about a run. Its words are in ``_report.html.j2``; plotly draws.

Memory stays bounded however long a run is: counts, a few examples of each reason, and a timeline of
at most `_MAX_BINS` bins, which double their width when the run outgrows them. The page names orders
by line and key, and has nothing else of them. It loads nothing.
"""

from __future__ import annotations

import math
import os
import shlex
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from importlib import import_module, resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from everlytic_async import OrderResult
from everlytic_async.cli._commands import SendOptions
from everlytic_async.cli._input import printable
from everlytic_async.cli._screen import LABELS, format_duration
from everlytic_async.cli._tally import Tally
from everlytic_async.errors import ConfigurationError
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

__all__ = ["COLOURS", "Report", "Timeline", "check_report", "format_percent", "quantile"]

# Powers of two: the edges of bins are exact.
_FIRST_WIDTH_S = 0.125
_MAX_BINS = 256
_FEW_BINS = 16
# A shorter run is not drawn: one bar says nothing.
_MIN_DRAWN_S = 1.0
# Latencies are counted by their logarithm: those in one bucket differ by at most this factor.
_LOG_STEP = math.log(1.05)
_SHORTEST_S, _LONGEST_S = 1e-4, 1e5
_LINE_COLOUR = "#7c858f"

#: By outcome, in the order of the page. Colour-blind readers can tell the colours apart, and each
#: stands out from white and from black.
COLOURS: Mapping[Outcome, str] = {
    Outcome.SENT: "#2b7fc4",
    Outcome.SKIPPED: "#7c858f",
    Outcome.INVALID: "#a87900",
    Outcome.REJECTED: "#d55e00",
    Outcome.NOT_SENT: "#0a8f6a",
    Outcome.UNKNOWN: "#b5599a",
}
_FAILURES = (Outcome.UNKNOWN, Outcome.NOT_SENT, Outcome.REJECTED, Outcome.INVALID)


@attrs.define
class Bin:
    """What happened in a stretch of time: orders by outcome, latencies, pauses, the last rate."""

    counts: Counter[Outcome] = attrs.Factory(Counter)
    latencies: Counter[int] = attrs.Factory(Counter)
    pauses: int = 0
    paused_s: float = 0.0
    rate: float | None = None

    def merge(self, later: Bin) -> None:
        """Add what happened next."""
        self.counts += later.counts
        self.latencies += later.latencies
        self.pauses += later.pauses
        self.paused_s += later.paused_s
        self.rate = self.rate if later.rate is None else later.rate


class Timeline:
    """Bins of equal width from the start of the run; a bin exists if something happened in it."""

    def __init__(self, started_at: float) -> None:
        self.width_s = _FIRST_WIDTH_S
        self.bins: dict[int, Bin] = {}
        self.started_at = started_at
        self._pause: tuple[float, float] | None = None  # from when to when, not yet added

    def bin(self, at: float) -> Bin:
        """The bin of a time by the run's clock."""
        while (index := self._index(at)) >= _MAX_BINS:
            self._widen()
        return self.bins.setdefault(index, Bin())

    def smooth(self) -> None:
        """Widen bins that have too few results: their rates would be mostly chance."""
        results = self.total().counts.total()
        while (count := max(self.bins, default=0) + 1) > _FEW_BINS and results < 5 * count:
            self._widen()

    def add_latency(self, at: float, elapsed_s: float) -> None:
        """Count a POST that ended."""
        seconds = min(max(elapsed_s, _SHORTEST_S), _LONGEST_S)
        self.bin(at).latencies[round(math.log(seconds) / _LOG_STEP)] += 1

    def start_pause(self, at: float, wait_s: float) -> None:
        """Nothing is sent for that long, or until `end_pause`."""
        self.bin(at).pauses += 1
        if self._pause is not None and at < self._pause[1]:
            self._pause = (self._pause[0], max(self._pause[1], at + wait_s))
        else:
            self.end_pause(at)
            self._pause = (at, at + wait_s)

    def end_pause(self, at: float) -> None:
        """A pause is over now, unless it was over before."""
        if self._pause is None:
            return
        start, end = self._pause[0], min(self._pause[1], at)
        self._pause = None
        self.bin(end)  # first: bins must not be widened below
        for index in range(self._index(start), self._index(end) + 1):
            left = self.started_at + index * self.width_s
            lasted_s = min(end, left + self.width_s) - max(start, left)
            if lasted_s > 0:
                self.bins.setdefault(index, Bin()).paused_s += lasted_s

    def total(self) -> Bin:
        """All bins in one."""
        total = Bin()
        for index in sorted(self.bins):
            total.merge(self.bins[index])
        return total

    def _widen(self) -> None:
        """Make one bin of every two."""
        self.width_s *= 2
        bins, self.bins = self.bins, {}
        for index in sorted(bins):
            self.bins.setdefault(index // 2, Bin()).merge(bins[index])

    def _index(self, at: float) -> int:
        return max(0, math.floor((at - self.started_at) / self.width_s))


def quantile(latencies: Counter[int], share: float) -> float | None:
    """The seconds that this share of POSTs did not exceed, at most 2.5 % off; None without any."""
    wanted = math.ceil(share * latencies.total())
    for bucket in sorted(latencies):
        wanted -= latencies[bucket]
        if wanted <= 0:
            return math.exp(bucket * _LOG_STEP)
    return None


class Report:
    """Collects what happens in a run, and writes the page when it has ended.

    Args:
        options: Those of the run; ``--report`` is set. A file that is there is replaced.
        host: Where the orders go, in words.
        ledger: The ledger's file; None without one.
        keep: The files of the same run, which the page must not replace.
        clock: The clock of the events, in seconds.
        now: The time of day, with its zone.

    Raises:
        ConfigurationError: the page can't be written there, or a library is missing.

    Attributes:
        fault: Why the page could not be written; None if it was.
    """

    def __init__(
        self,
        options: SendOptions,
        host: str,
        ledger: str | None,
        *,
        keep: Iterable[str | None] = (),
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now().astimezone(),
    ) -> None:
        self._path = check_report(str(options.report), keep)
        self._options, self._host, self._ledger = options, host, ledger
        self._clock, self._now = clock, now
        self._tally = Tally()
        self._keys: dict[int, str] = {}  # of the examples, by line
        self._attempts = self._last_line = 0
        self._timeline = Timeline(clock())
        self.fault: str | None = None

    def add(self, result: OrderResult, line: int) -> None:
        """Count the result of one order."""
        self._timeline.bin(self._clock()).counts[result.outcome] += 1
        self._attempts += result.attempts
        self._last_line = max(self._last_line, line)
        error = result.error
        self._tally.add(result.outcome, line, error, duplicate_risk=result.duplicate_risk)
        reasons = self._tally.reasons.get(result.outcome, {}).values()
        if result.key is not None and error and any(line in reason.lines for reason in reasons):
            self._keys[line] = storage_key(result.key)

    def on_event(self, event: Event) -> None:
        """A hook for the client."""
        match event:
            case AttemptEnded() if event.status is not None or event.outcome is Outcome.UNKNOWN:
                self._timeline.add_latency(event.at, event.elapsed_s)
            case CoolDown():
                self._timeline.start_pause(event.at, event.wait_s)
            case OutageEnded():
                self._timeline.end_pause(event.at)
            case RateChanged() if event.rate is not None:
                self._timeline.bin(event.at).rate = event.rate
            case BatchStarted():
                self._timeline.started_at = event.at

    def finish(
        self,
        stopped: str | None,
        elapsed_s: float,
        *,
        place: str = "line",
        filtered: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Write the page. An error is kept in `fault`: the orders have been sent.

        Args:
            stopped: Why the run ended before its input did; None if it did not.
            elapsed_s: How long it took.
            place: What the input has instead of lines.
            filtered: How many orders of the input were left out, by reason.
        """
        timeline, options = self._timeline, self._options
        timeline.end_pause(timeline.started_at + elapsed_s)
        timeline.smooth()
        ended = self._now()
        started = ended - timedelta(seconds=elapsed_s)
        total = timeline.total()
        drawn = elapsed_s >= _MIN_DRAWN_S and bool(total.counts)
        page = _template().render(
            options=options,
            source="standard input" if options.file == "-" else printable(options.file),
            host=self._host,
            ledger=self._ledger,
            place=place,
            stopped=stopped,
            elapsed_s=elapsed_s,
            started=started.isoformat(" ", "seconds"),
            ended=ended.isoformat(" ", "seconds"),
            tally=self._tally,
            counts={str(outcome): self._tally.counts[outcome] for outcome in Outcome},
            skipped={str(state): self._tally.skipped[state] for state in State},
            failed=sum(self._tally.counts[outcome] for outcome in _FAILURES),
            filtered=sorted(filtered.items(), key=lambda item: -item[1]),
            attempts=self._attempts,
            last_line=self._last_line,
            keys=self._keys,
            colours=COLOURS,
            reasons=[each for each in (*_FAILURES, Outcome.SKIPPED) if each in self._tally.reasons],
            total=total,
            width_s=timeline.width_s,
            median_s=quantile(total.latencies, 0.5),
            p95_s=quantile(total.latencies, 0.95),
            figure=_draw(timeline, started, total) if drawn else None,
        )
        try:
            # Under a name that nobody can guess, with mode 0600.
            fd, part = tempfile.mkstemp(dir=self._path.parent, prefix=".", suffix=".part")
            try:
                with open(fd, "w", encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - no path
                    file.write(page)
                Path(part).replace(self._path)
            except OSError:
                with suppress(OSError):
                    Path(part).unlink(missing_ok=True)
                raise
        except OSError as error:
            self.fault = f"the report can't be written to {str(self._path)!r}: {error.strerror}"


def check_report(name: str, keep: Iterable[str | None]) -> Path:
    """Check where the page goes, before anything is asked or sent.

    Raises:
        ConfigurationError: it can't be written there, or a library is missing.
    """
    _libraries()
    path = Path(name).resolve()  # a link stays a link
    problem = None
    if name == "-":
        problem = "a page is a file, not the standard output"
    elif not path.parent.is_dir():
        problem = "there is no such directory"
    elif path.exists() and not path.is_file():
        problem = "it is not a regular file"
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


def _libraries() -> tuple[Any, Any]:
    try:
        return import_module("jinja2"), import_module("plotly.subplots")
    except ImportError:
        raise ConfigurationError(
            "--report needs plotly and Jinja2: pip install 'everlytic-async[report]'"
        ) from None


def _template() -> Any:
    jinja2, _ = _libraries()
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        duration=format_duration,
        number=lambda value: f"{value:,.0f}" if value >= 100 else f"{value:.3g}",  # noqa: PLR2004
        percent=format_percent,
        quote=shlex.quote,
    )
    return environment.from_string(
        resources.files(__package__).joinpath("_report.html.j2").read_text("utf-8")
    )


def _draw(timeline: Timeline, started: datetime, total: Bin) -> str:
    """A row for each outcome, each with its own scale, and one for the latency; as HTML."""
    width_s, bins = timeline.width_s, timeline.bins
    shown = [outcome for outcome in COLOURS if total.counts[outcome]]
    titles = [f"{LABELS[outcome]}, orders per second" for outcome in shown]
    latencies = {index: each.latencies for index, each in bins.items() if each.latencies}
    if latencies:
        titles.append("time to an answer, seconds")

    def times(indexes: Iterable[float]) -> list[datetime]:
        return [started.replace(tzinfo=None) + timedelta(seconds=i * width_s) for i in indexes]

    _, plotly = _libraries()
    figure = plotly.make_subplots(
        rows=len(titles), cols=1, shared_xaxes=True, subplot_titles=titles, vertical_spacing=0.06
    )
    for row, outcome in enumerate(shown, 1):
        counts = {i: each.counts[outcome] for i, each in bins.items() if each.counts[outcome]}
        figure.add_bar(
            x=times(i + 0.5 for i in counts),
            y=[count / width_s for count in counts.values()],
            customdata=list(counts.values()),
            width=width_s * 1000,
            name=LABELS[outcome],
            marker={"color": COLOURS[outcome], "line": {"width": 0}},
            hovertemplate="%{y:,.3~r} a second (%{customdata:,} orders)",
            row=row,
            col=1,
        )
    lines: list[tuple[str, str, Mapping[int, float | None], int]] = [
        (name, dash, {i: quantile(each, share) for i, each in latencies.items()}, len(titles))
        for name, dash, share in (("median", "solid", 0.5), ("95th percentile", "dot", 0.95))
        if latencies
    ]
    if rates := {i: each.rate for i, each in bins.items() if each.rate is not None}:
        lines.append(("pace", "dash", rates, 1))
    for name, dash, values, row in lines:
        figure.add_scatter(
            x=times(i + 0.5 for i in values),
            y=list(values.values()),
            name=name,
            mode="lines+markers",
            line={"color": _LINE_COLOUR, "dash": dash, "width": 2},
            hovertemplate="%{y:,.3~r}",
            row=row,
            col=1,
        )
    for index, each in bins.items():  # the longer nothing was sent, the darker
        if each.paused_s > 0:
            left, right = times([index, index + 1])
            shade = 0.15 + 0.3 * min(1.0, each.paused_s / width_s)
            figure.add_vrect(
                x0=left,
                x1=right,
                line_width=0,
                layer="below",
                row="all",
                col=1,
                fillcolor=f"rgba(190, 140, 40, {shade:.2f})",
            )
    zone = f"{started:%z}"
    figure.update_layout(
        height=130 * len(titles) + 100,
        template="none",
        showlegend=False,
        bargap=0,
        hovermode="x unified",
        margin={"l": 50, "r": 12, "t": 34, "b": 62},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    figure.update_yaxes(rangemode="tozero", fixedrange=True, nticks=4)
    figure.update_xaxes(
        title_text=f"time of day (UTC{zone[:3]}:{zone[3:5]})", row=len(titles), col=1
    )
    html: str = figure.to_html(
        full_html=False,
        include_plotlyjs=True,
        div_id="plot",
        config={"responsive": True, "displayModeBar": False},
    )
    return html


def format_percent(count: int, total: int) -> str:
    """A share: never "100 %" unless it is all of them, never zero unless there are none."""
    if count == total:
        return "100 %"
    percent = 100 * count / total
    if percent < 0.01:  # noqa: PLR2004 - the last digit shown
        return "< 0.01 %"
    return f"{min(percent, 99.99):.2f} %"
