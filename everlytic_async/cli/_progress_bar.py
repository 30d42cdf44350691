"""The progress bar, and the pacing in a few words for it.

Its numbers come from two places: how many orders have which outcome from the run's `Tally`, in
`_counts`, how many are expected from the `Input`. rich works out the rate and the time left.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import RenderableType
from rich.constrain import Constrain
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from everlytic_async.cli._console import make_console, print_line
from everlytic_async.cli._counts import Tally
from everlytic_async.cli._screen import Labels
from everlytic_async.events import CoolDown, Event, OutageEnded, RateChanged
from everlytic_async.outcomes import Outcome

_REFRESH_S = 0.1
# The rate and the time left are those of the last seconds.
_RATE_PERIOD_S = 10.0
_BAR_WIDTH = 24
_UNBOUNDED = 10_000
# A terminal shows Ctrl-C as ^C after the last line: without room for it, it would break the line.
_MARGIN = len("^C")
# A shorter pause is over before anybody has read about it.
_MIN_SHOWN_S = 0.5


class _Lines(Progress):
    """A line where the terminal is wide enough for it, else several: nothing is cut off."""

    def get_renderables(self) -> Iterator[RenderableType]:
        """Called by rich for each frame."""
        table = self.make_tasks_table(self.tasks)
        if not self.tasks or self._fits(table):
            yield table
            return
        for task in self.tasks:
            title, bar, counts, *figures, note = (
                column if isinstance(column, str) else column(task) for column in self.columns
            )
            row = Table.grid(padding=(0, 1))
            row.add_row(bar, *figures)
            for line in (title, row, counts, *([note] if task.fields["note"] else [])):
                if isinstance(line, Text):
                    line.no_wrap, line.overflow, line.justify = False, "fold", "default"
                yield Constrain(line, self.console.width - _MARGIN)

    def _fits(self, table: Table) -> bool:
        unbounded = self.console.options.update(max_width=_UNBOUNDED)
        return (
            self.console.measure(table, options=unbounded).maximum <= self.console.width - _MARGIN
        )


class Bar:
    """A progress bar on stderr, if that is a terminal. Skipped orders don't count for its rate.

    Args:
        labels: What outcomes are called, in the order in which they are shown.
        expected: Estimates how many orders there are in all; None while that is unknown.
        note: A few words about the present state, such as why it waits.
    """

    def __init__(
        self,
        title: str,
        tally: Tally,
        labels: Labels,
        *,
        enabled: bool,
        expected: Callable[[], float | None] = lambda: None,
        note: Callable[[], str] = lambda: "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._tally = tally
        self._labels = labels
        self._expected = expected
        self._note = note
        console = make_console(stderr=True)
        self.is_shown = enabled and console.is_terminal
        self._progress = _Lines(
            TextColumn("{task.description}"),
            BarColumn(_BAR_WIDTH),
            TextColumn("{task.fields[counts]}"),
            TextColumn("[progress.data.speed]{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("[progress.remaining]{task.fields[left]}"),
            TimeRemainingColumn(),
            TextColumn("[yellow]{task.fields[note]}"),  # `_Lines` knows this order
            console=console,
            transient=True,  # what follows says what became of the orders
            auto_refresh=False,  # no thread: the caller refreshes
            redirect_stdout=False,
            redirect_stderr=False,
            disable=not self.is_shown,
            speed_estimate_period=_RATE_PERIOD_S,
            get_time=clock,
        )
        self._task = self._progress.add_task(
            title, total=None, counts="", rate="", left="", note=""
        )
        self._drawn_at = -_REFRESH_S

    def start(self) -> None:
        """Show it."""
        self._progress.start()

    def announce(self, title: str, message: str) -> None:
        """Print a line above the bar, which has another title from now on."""
        with self._closing_allowed():
            # Else the bar below the line would have its old title once more.
            self._progress.update(self._task, description=title, refresh=True)
            print_line(self._progress.console, message)

    def draw(self) -> None:
        """Draw the present state, unless that was done a moment ago."""
        now = self._clock()
        if not self.is_shown or now - self._drawn_at < _REFRESH_S:
            return
        self._drawn_at = now
        expected, skipped = self._expected(), self._tally.counts[Outcome.SKIPPED]
        attempted = self._tally.total - skipped
        (task,) = self._progress.tasks
        # Not by `update`: that would forget the rate each time the estimate changes.
        task.total = None if expected is None else max(expected - skipped, attempted)
        with self._closing_allowed():
            self._progress.update(
                self._task,
                completed=attempted,
                counts="  ".join(self._counts()),
                rate=f"{task.speed or 0:,.0f}/s",
                left="" if expected is None else "left",
                note=escape(self._note()),
                refresh=True,
            )

    @contextmanager
    def refreshing(self) -> Iterator[None]:
        """Keep drawing on the running event loop while the context lasts."""
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle | None = None

        def tick() -> None:
            nonlocal timer
            self.draw()
            timer = loop.call_later(_REFRESH_S, tick)

        if self.is_shown:
            tick()
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()

    def stop(self) -> None:
        """Take it away, and release the terminal."""
        if self.is_shown:
            with self._closing_allowed():
                self._progress.stop()

    @contextmanager
    def _closing_allowed(self) -> Iterator[None]:
        """The terminal may be closed meanwhile: then nothing more is shown."""
        try:
            yield
        except OSError:
            self._progress.console.on_broken_pipe()

    def _counts(self) -> Iterator[str]:
        """How many orders have each outcome: the first always, the others if there are any."""
        for place, (outcome, (label, style, _meaning)) in enumerate(self._labels.items()):
            if (count := self._tally.counts[outcome]) or not place:
                yield f"[{style}]{count:,}[/] {label}"


class PacingStatus:
    """A hook for the client's events: why nothing is sent at present, or the limit in use."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pause: CoolDown | None = None
        self._limit: float | None = None

    def __call__(self, event: Event) -> None:
        match event:
            case CoolDown() if event.wait_s >= _MIN_SHOWN_S or event.status is None:
                self._pause = event
            case OutageEnded():
                self._pause = None
            case RateChanged():
                self._limit = event.limit

    @property
    def text(self) -> str:
        """A few words for the progress bar; empty where there is nothing to say."""
        if self._pause is not None:
            left_s = self._pause.at + self._pause.wait_s - self._clock()
            if left_s > 0:
                return f"waits {math.ceil(left_s)} s: {self._pause.reason}"
            if self._pause.status is None:
                return f"tries again: {self._pause.reason}"
        return "" if self._limit is None else f"limit about {self._limit:,.0f}/s"
