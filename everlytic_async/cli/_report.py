"""``--report``: one HTML page about a run. Its words are in ``_report.html.j2``; plotly draws.

Memory stays bounded however long a run is: counts, a few examples of each reason, and a timeline of
at most `_MAX_BINS` bins, which double their width when the run outgrows them. The page names orders
by line and key, and has nothing else of them. It loads nothing.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from importlib import import_module, resources
from typing import Any

import attrs

from everlytic_async import OrderResult
from everlytic_async.cli._commands import SendOptions
from everlytic_async.cli._console import file_name
from everlytic_async.cli._counts import Tally
from everlytic_async.cli._results import replace_page
from everlytic_async.cli._screen import SEND_LABELS, count_orders, format_duration, notes
from everlytic_async.errors import ConfigurationError
from everlytic_async.events import BatchStarted, CoolDown, Event, OutageEnded
from everlytic_async.ledger import storage_key
from everlytic_async.outcomes import Outcome

# Powers of two: the edges of bins are exact.
_FIRST_WIDTH_S = 0.125
_MAX_BINS = 256
# A shorter run is not drawn: one bar says nothing.
_MIN_DRAWN_S = 1.0
_PAUSE = {"type": "rect", "yref": "paper", "y0": 0, "y1": 1, "layer": "below"}
_PAUSE |= {"fillcolor": "rgba(190, 140, 40, 0.3)", "line": {"width": 0}}

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
class Timeline:
    """How many orders ended how, in bins of equal width from the start of the run.

    In `pauses` nothing was sent, from when to when; those within a bin of each other are one.
    """

    started_at: float
    width_s: float = _FIRST_WIDTH_S
    bins: dict[int, Counter[Outcome]] = attrs.Factory(dict)
    pauses: list[list[float]] = attrs.Factory(list)

    def add(self, at: float, outcome: Outcome) -> None:
        """Count an order that ended at that time by the run's clock."""
        while (index := max(0, math.floor((at - self.started_at) / self.width_s))) >= _MAX_BINS:
            self.width_s *= 2
            bins, self.bins = self.bins, {}
            for old, counts in bins.items():
                self.bins.setdefault(old // 2, Counter()).update(counts)
        self.bins.setdefault(index, Counter())[outcome] += 1

    def add_pause(self, at: float, wait_s: float) -> None:
        """Nothing is sent for that long, or until `end_pause`."""
        if not self.pauses or at > self.pauses[-1][1] + self.width_s:
            self.pauses.append([at, at])
        self.pauses[-1][1] = max(self.pauses[-1][1], at + wait_s)

    def end_pause(self, at: float) -> None:
        """A pause is over now, unless it was over before."""
        if self.pauses:
            self.pauses[-1][1] = min(self.pauses[-1][1], at)


@attrs.define
class Report:
    """Collects what happens in a run over time; at its end, writes or replaces the page."""

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
        self.timeline.add(self.clock(), result.outcome)
        self.attempts += result.attempts

    def on_event(self, event: Event) -> None:
        """A hook for the client."""
        match event:
            case CoolDown():
                self.timeline.add_pause(event.at, event.wait_s)
            case BatchStarted():
                self.timeline.started_at = event.at
            case OutageEnded():
                self.timeline.end_pause(event.at)

    def finish(
        self, tally: Tally, steps: Sequence[str], *, elapsed_s: float, **run: Any
    ) -> str | None:
        """Write the page; return why it could not be written. `run` is what else it says."""
        self.timeline.end_pause(self.timeline.started_at + elapsed_s)
        ended = self.now()
        started = ended - timedelta(seconds=elapsed_s)
        is_drawn = elapsed_s >= _MIN_DRAWN_S and bool(tally.total)
        page = _template().render(
            **run,
            colours=COLOURS,
            elapsed_s=elapsed_s,
            ended=ended.isoformat(" ", "seconds"),
            figure=_draw(self.timeline, started, elapsed_s) if is_drawn else None,
            labels=SEND_LABELS,
            notes=list(notes(tally)),
            report=self,
            started=started.isoformat(" ", "seconds"),
            steps=steps,
            tally=tally,
        )
        return replace_page(str(self.options.report), page)


def load_libraries() -> tuple[Any, Any]:
    """Jinja and plotly: before anything is asked or sent, to see that they are there."""
    try:
        return import_module("jinja2"), import_module("plotly.io")
    except ImportError:
        raise ConfigurationError(
            "--report needs plotly and Jinja2: pip install 'everlytic-async[report]'"
        ) from None


def _template() -> Any:
    jinja2, _ = load_libraries()
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    filters = {"duration": format_duration, "orders": count_orders, "key": storage_key}
    environment.filters.update(filters, n="{:,}".format, shown=file_name)
    text = resources.files(__package__).joinpath("_report.html.j2").read_text("utf-8")
    return environment.from_string(text)


def _draw(timeline: Timeline, started: datetime, elapsed_s: float) -> str:
    """A row of bars for each outcome, each with its own scale; as HTML."""

    def time_at(at: float) -> str:
        moment = started.replace(tzinfo=None) + timedelta(seconds=at - timeline.started_at)
        return moment.isoformat(" ", "milliseconds")

    total = sum(timeline.bins.values(), Counter[Outcome]())
    rows = [outcome for outcome in COLOURS if total[outcome]]
    bins = sorted(timeline.bins.items())
    zone = f"{started:%z}"
    layout: dict[str, Any] = {
        "annotations": [],
        "bargap": 0,
        "height": 130 * len(rows) + 100,
        "hovermode": "x unified",
        "margin": {"l": 50, "r": 12, "t": 34, "b": 62},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "showlegend": False,
        "shapes": [
            {**_PAUSE, "x0": time_at(start), "x1": time_at(end)} for start, end in timeline.pauses
        ],
        "xaxis": {
            "type": "date",
            "anchor": _axis(len(rows)),
            "range": [time_at(timeline.started_at), time_at(timeline.started_at + elapsed_s)],
            "nticks": 4,  # and level: they have to fit on a phone
            "tickangle": 0,
            "automargin": True,
            "title": {"text": f"time of day (UTC{zone[:3]}:{zone[3:5]})"},
        },
    }
    title = {"showarrow": False, "xref": "paper", "x": 0, "xanchor": "left", "yanchor": "bottom"}
    traces = []
    for row, outcome in enumerate(rows, 1):
        name, axis = SEND_LABELS[outcome][0], _axis(row)
        domain = [1 - row / len(rows), 1 - (row - 0.75) / len(rows)]
        scale = {"domain": domain, "rangemode": "tozero", "fixedrange": True, "nticks": 4}
        layout[axis.replace("y", "yaxis")] = scale
        words = f"{name}, orders per second"
        layout["annotations"].append({**title, "text": words, "yref": f"{axis} domain", "y": 1})
        counts = [counts[outcome] for _, counts in bins]
        bars = {
            "type": "bar",
            "name": name,
            "x": [time_at(timeline.started_at + (i + 0.5) * timeline.width_s) for i, _ in bins],
            "y": [count / timeline.width_s or None for count in counts],
            "yaxis": axis,
            "customdata": counts,
            "width": timeline.width_s * 1000,
            "marker": {"color": COLOURS[outcome]},
            "hovertemplate": "%{y:,.3~r} a second (%{customdata:,} orders)",
        }
        traces.append(bars)
    html: str = load_libraries()[1].to_html(
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
