"""``--report``: one HTML page about a run. Its words are in ``_report.html.j2``; plotly draws.

Memory stays bounded however long a run is: counts, a few examples of each reason, and a timeline of
at most `_MAX_BINS` bins, which double their width when the run outgrows them. The page names orders
by line and key, and has nothing else of them. It loads nothing.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from importlib import import_module, resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from everlytic_async import OrderResult
from everlytic_async.cli._commands import SendOptions
from everlytic_async.cli._input import Input, printable
from everlytic_async.cli._results import open_private, refuse_same_file
from everlytic_async.cli._screen import SEND_LABELS, count_orders, format_duration, notes
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
from everlytic_async.ledger import storage_key
from everlytic_async.outcomes import Outcome

__all__ = ["COLOURS", "Report", "Timeline", "check_report", "quantile"]

# Powers of two: the edges of bins are exact.
_FIRST_WIDTH_S = 0.125
_MAX_BINS = 256
# What every page has near its beginning.
_GENERATOR = b'<meta name="generator" content="everlytic-async">'
_HEAD_BYTES = 4096
# A shorter run is not drawn: one bar says nothing.
_MIN_DRAWN_S = 1.0
# Latencies are counted by their logarithm: those in one bucket differ by at most this factor.
_LOG_STEP = math.log(1.05)
_SHORTEST_S, _LONGEST_S = 1e-4, 1e5
_LINE_COLOUR = "#7c858f"
_PAUSE_COLOUR = "rgba(190, 140, 40, 0.3)"

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


@attrs.define
class Bin:
    """What happened in a stretch of time: orders by outcome, latencies, the last rate."""

    counts: Counter[Outcome] = attrs.Factory(Counter)
    latencies: Counter[int] = attrs.Factory(Counter)
    rate: float | None = None

    def merge(self, later: Bin) -> None:
        """Add what happened next."""
        self.counts += later.counts
        self.latencies += later.latencies
        self.rate = self.rate if later.rate is None else later.rate


@attrs.define
class Timeline:
    """Bins of equal width from the start of the run; a bin exists if something happened in it.

    Attributes:
        pauses: From when to when nothing was sent; pauses within a bin of each other are one.
    """

    started_at: float
    width_s: float = _FIRST_WIDTH_S
    bins: dict[int, Bin] = attrs.Factory(dict)
    pauses: list[tuple[float, float]] = attrs.Factory(list)

    def bin(self, at: float) -> Bin:
        """The bin of a time by the run's clock."""
        while (index := max(0, math.floor((at - self.started_at) / self.width_s))) >= _MAX_BINS:
            self.width_s *= 2
            bins, self.bins = self.bins, {}
            for old in sorted(bins):
                self.bins.setdefault(old // 2, Bin()).merge(bins[old])
        return self.bins.setdefault(index, Bin())

    def add_latency(self, at: float, elapsed_s: float) -> None:
        """Count a POST that ended."""
        seconds = min(max(elapsed_s, _SHORTEST_S), _LONGEST_S)
        self.bin(at).latencies[round(math.log(seconds) / _LOG_STEP)] += 1

    def add_pause(self, at: float, wait_s: float) -> None:
        """Nothing is sent for that long, or until `end_pause`."""
        start, end = at, at + wait_s
        if self.pauses and at <= self.pauses[-1][1] + self.width_s:
            start, earlier_end = self.pauses.pop()
            end = max(end, earlier_end)
        self.pauses.append((start, end))

    def end_pause(self, at: float) -> None:
        """A pause is over now, unless it was over before."""
        if self.pauses:
            start, end = self.pauses.pop()
            self.pauses.append((start, min(end, at)))

    def total(self) -> Bin:
        """All bins in one."""
        total = Bin()
        for index in sorted(self.bins):
            total.merge(self.bins[index])
        return total


def quantile(latencies: Counter[int], share: float) -> float | None:
    """The seconds that this share of POSTs did not exceed, at most 2.5 % off; None without any."""
    wanted = math.ceil(share * latencies.total())
    for bucket in sorted(latencies):
        wanted -= latencies[bucket]
        if wanted <= 0:
            return math.exp(bucket * _LOG_STEP)
    return None


@attrs.define
class Report:
    """Collects what happens in a run over time, and writes the page when it has ended.

    Attributes:
        options: Those of the run; ``--report`` is set. A file that is there is replaced.
        host: Where the orders go, in words.
        ledger: The ledger's file; None without one.
        clock: The clock of the events, in seconds.
        now: The time of day, with its zone.
        attempts: How many POSTs there were.
    """

    options: SendOptions
    host: str
    ledger: str | None
    clock: Callable[[], float] = attrs.field(default=time.monotonic, kw_only=True)
    now: Callable[[], datetime] = attrs.field(
        default=lambda: datetime.now().astimezone(), kw_only=True
    )
    attempts: int = attrs.field(default=0, init=False)
    timeline: Timeline = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.timeline = Timeline(self.clock())

    def add(self, result: OrderResult) -> None:
        """Count the result of one order."""
        self.timeline.bin(self.clock()).counts[result.outcome] += 1
        self.attempts += result.attempts

    def on_event(self, event: Event) -> None:
        """A hook for the client."""
        match event:
            case AttemptEnded() if event.status is not None or event.outcome is Outcome.UNKNOWN:
                self.timeline.add_latency(event.at, event.elapsed_s)
            case CoolDown():
                self.timeline.add_pause(event.at, event.wait_s)
            case OutageEnded():
                self.timeline.end_pause(event.at)
            case RateChanged() if event.rate is not None:
                self.timeline.bin(event.at).rate = event.rate
            case BatchStarted():
                self.timeline.started_at = event.at

    def finish(
        self,
        tally: Tally,
        steps: Sequence[str],
        *,
        stopped: str | None,
        elapsed_s: float,
        place: str = "line",
        filtered: Mapping[str, int] = MappingProxyType({}),
    ) -> str | None:
        """Write the page; return why it could not be written: the orders have been sent.

        Args:
            tally: What became of the orders.
            steps: What to do next, as on the terminal.
            stopped: Why the run ended before its input did; None if it did not.
            elapsed_s: How long it took.
            place: What the input has instead of lines.
            filtered: How many orders of the input were left out, by reason.
        """
        timeline, ended = self.timeline, self.now()
        timeline.end_pause(timeline.started_at + elapsed_s)
        started, total = ended - timedelta(seconds=elapsed_s), timeline.total()
        is_drawn = elapsed_s >= _MIN_DRAWN_S and bool(total.counts)
        page = _template().render(
            colours=COLOURS,
            elapsed_s=elapsed_s,
            ended=ended.isoformat(" ", "seconds"),
            figure=_draw(timeline, total, started, elapsed_s) if is_drawn else None,
            filtered=sorted(filtered.items(), key=lambda item: -item[1]),
            labels=SEND_LABELS,
            median_s=quantile(total.latencies, 0.5),
            notes=list(notes(tally)),
            p95_s=quantile(total.latencies, 0.95),
            place=place,
            report=self,
            started=started.isoformat(" ", "seconds"),
            steps=steps,
            stopped=stopped,
            tally=tally,
            total=total,
        )
        return _replace(Path(str(self.options.report)).resolve(), page)  # a link stays a link


def _replace(path: Path, page: str) -> str | None:
    try:
        with tempfile.TemporaryDirectory(prefix=".", suffix=".part", dir=path.parent) as directory:
            part = Path(directory, "page")
            with open(part, "w", encoding="utf-8", errors="replace", opener=open_private) as file:
                file.write(page)
            part.replace(path)
    except OSError as error:
        return f"the report can't be written to {str(path)!r}: {error.strerror}"
    return None


def check_report(name: str, keep: Mapping[str, str | None], source: Input | None = None) -> None:
    """Check where the page goes, before anything is asked or sent."""
    _libraries()
    path = Path(name).resolve()
    for is_wrong, problem in (
        (name == "-", "a page is a file, not the standard output"),
        (not path.parent.is_dir(), "there is no such directory"),
        (path.exists() and not path.is_file(), "it is not a regular file"),
        (not os.access(path.parent, os.W_OK | os.X_OK), "its directory can't be written to"),
    ):
        if is_wrong:
            raise ConfigurationError(f"the report can't be written to {name!r}: {problem}")
    refuse_same_file("--report", name, keep, source)
    head = b""
    with suppress(FileNotFoundError), path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head and _GENERATOR not in head:
        raise ConfigurationError(
            f"another file is there, not a report: {name!r}. Name a new one for the report"
        )


def _libraries() -> tuple[Any, Any]:
    try:
        return import_module("jinja2"), import_module("plotly.io")
    except ImportError:
        raise ConfigurationError(
            "--report needs plotly and Jinja2: pip install 'everlytic-async[report]'"
        ) from None


def _template() -> Any:
    jinja2, _ = _libraries()
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    filters = {"duration": format_duration, "orders": count_orders, "key": storage_key}
    environment.filters.update(filters, n="{:,}".format, shown=printable)
    text = resources.files(__package__).joinpath("_report.html.j2").read_text("utf-8")
    return environment.from_string(text)


def _draw(timeline: Timeline, total: Bin, started: datetime, elapsed_s: float) -> str:
    """A row for each outcome, each with its own scale, and one for the latency; as HTML."""
    width_s, bins = timeline.width_s, sorted(timeline.bins.items())
    titles: list[str] = []
    traces: list[dict[str, Any]] = []

    def time_at(seconds: float) -> str:
        moment = started.replace(tzinfo=None) + timedelta(seconds=seconds)
        return moment.isoformat(" ", "milliseconds")

    middles = [time_at((index + 0.5) * width_s) for index, _bin in bins]

    def add(name: str, values: Sequence[float | None], row: int, **how: Any) -> None:
        traces.append({"name": name, "x": middles, "y": values, "yaxis": _axis(row), **how})

    def add_line(name: str, dash: str, values: Sequence[float | None], row: int) -> None:
        # A pace holds until the next one; markers show a point that has no neighbours.
        mode, shape = ("lines", "hv") if row == 1 else ("lines+markers", "linear")
        line = {"color": _LINE_COLOUR, "dash": dash, "width": 2, "shape": shape}
        how = {"mode": mode, "line": line, "marker": {"size": 4}}
        add(name, values, row, **how, hovertemplate="%{y:,.3~r}")

    for outcome in (each for each in COLOURS if total.counts[each]):
        counts = [each.counts[outcome] for _, each in bins]
        titles.append(f"{SEND_LABELS[outcome][0]}, orders per second")
        add(
            SEND_LABELS[outcome][0],
            [count / width_s or None for count in counts],
            len(titles),
            type="bar",
            customdata=counts,
            width=width_s * 1000,
            marker={"color": COLOURS[outcome]},
            hovertemplate="%{y:,.3~r} a second (%{customdata:,} orders)",
        )
    if total.latencies:
        titles.append("time to an answer, seconds")
        for name, dash, share in (("median", "solid", 0.5), ("95th percentile", "dot", 0.95)):
            times = [quantile(each.latencies, share) for _, each in bins]
            add_line(name, dash, times, len(titles))
    if total.rate is not None:
        rate = None  # it holds until the next one
        rates = [rate := each.rate or rate for _, each in bins]
        add_line("pace", "dash", rates, 1)
    pause = {"type": "rect", "yref": "paper", "y0": 0, "y1": 1, "layer": "below"}
    pause |= {"fillcolor": _PAUSE_COLOUR, "line": {"width": 0}}
    pauses = [[at - timeline.started_at for at in each] for each in timeline.pauses]
    zone = f"{started:%z}"
    time_axis = {
        "type": "date",
        "anchor": _axis(len(titles)),
        "range": [time_at(0), time_at(elapsed_s)],
        "nticks": 4,  # and level: they have to fit on a phone
        "tickangle": 0,
        "automargin": True,
        "title": {"text": f"time of day (UTC{zone[:3]}:{zone[3:5]})"},
    }
    layout = _layout(titles) | {
        "shapes": [{**pause, "x0": time_at(start), "x1": time_at(end)} for start, end in pauses],
        "xaxis": time_axis,
    }
    # By the orders, not by a pace that was tried: it would flatten them.
    highest = max((y or 0 for y in traces[0]["y"]), default=0)
    layout["yaxis"] |= {"range": [0, 1.15 * highest], "rangemode": "normal"}
    _, plotly = _libraries()
    html: str = plotly.to_html(
        {"data": traces, "layout": layout},
        full_html=False,
        include_plotlyjs=True,
        div_id="plot",
        config={"responsive": True, "displayModeBar": False},
        validate=False,
    )
    return html


def _axis(row: int) -> str:
    return "y" if row == 1 else f"y{row}"


def _layout(titles: Sequence[str]) -> dict[str, Any]:
    """A row of the figure for each title, from the top down."""
    layout: dict[str, Any] = {
        "annotations": [],
        "bargap": 0,
        "height": 130 * len(titles) + 100,
        "hovermode": "x unified",
        "margin": {"l": 50, "r": 12, "t": 34, "b": 62},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "showlegend": False,
    }
    place = {"showarrow": False, "xref": "paper", "x": 0, "xanchor": "left", "yanchor": "bottom"}
    for row, title in enumerate(titles, 1):
        domain = [1 - row / len(titles), 1 - (row - 0.75) / len(titles)]
        axis = {"domain": domain, "rangemode": "tozero", "fixedrange": True, "nticks": 4}
        layout[f"yaxis{_axis(row)[1:]}"] = axis
        layout["annotations"].append(
            {**place, "text": title, "yref": f"{_axis(row)} domain", "y": 1}
        )
    return layout
