"""What is shown: the progress bar on stderr, the summary on stdout.

Colours, and the bar, are for terminals only: rich sees to that.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from everlytic_async.cli._exit import silence
from everlytic_async.cli._tally import Tally
from everlytic_async.outcomes import Outcome

__all__ = ["Bar", "flush", "orders", "outcome_lines", "reason_lines", "screen", "show"]

#: What an outcome means for whoever has to act on it.
_MEANING: Mapping[Outcome, tuple[str, str]] = {
    Outcome.SENT: ("green", "accepted by the endpoint"),
    Outcome.INVALID: ("yellow", "not valid, so not sent: mend them, then send them again"),
    Outcome.REJECTED: ("red", "refused by the endpoint: mend them, then send them again"),
    Outcome.NOT_SENT: ("yellow", "surely not processed: send them again"),
    Outcome.UNKNOWN: ("magenta", "may have been processed: to send them again may notify twice"),
    Outcome.SKIPPED: ("cyan", "sent before, or perhaps: not sent again"),
}
_REFRESH_S = 0.1
# What "at present" means for the rate, in seconds.
_PRESENT_S = 3.0


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Whoever read us has gone: say no more, and end as the orders did."""
        self.quiet = True
        silence(self.file.fileno())


def screen(*, stderr: bool = False) -> Console:
    """The standard output, or error, as rich's console: nothing is wrapped or guessed."""
    return _Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)


def show(console: Console, lines: Iterable[Text | str]) -> None:
    """Print lines, and flush."""
    for line in lines:
        console.print(line)
    try:
        console.file.flush()
    except BrokenPipeError:
        silence(console.file.fileno())


def orders(count: int) -> str:
    """So many orders, in words."""
    return "1 order" if count == 1 else f"{count:,} orders"


def outcome_lines(tally: Tally, *, valid: str | None = None) -> Iterable[Text]:
    """A line for each outcome that was: its count, and what it means.

    Args:
        tally: The counts.
        valid: Where nothing is sent on purpose: what to say of those that could be.
    """
    meanings = _MEANING
    names = {outcome: outcome.replace("_", " ") for outcome in Outcome}
    if valid is not None:
        names[Outcome.NOT_SENT] = "valid"
        meanings = {
            Outcome.NOT_SENT: ("green", valid),
            Outcome.INVALID: ("yellow", "can't be sent: mend them first"),
        }
    width = len(f"{max(tally.counts.values(), default=0):,}")
    for outcome, (style, meaning) in meanings.items():
        if count := tally.counts[outcome]:
            yield Text.assemble(
                "  ",
                (f"{names[outcome]:<8}", style),
                (f"  {count:>{width},}", "bold"),
                (f"  {meaning}", "dim"),
            )
    if tally.at_risk:
        yield Text(f"  {tally.at_risk:,} of them may have been processed more than once", "magenta")


def reason_lines(tally: Tally) -> Iterable[Text]:
    """The reasons of the failures, the most frequent first, with the lines they came from."""
    for outcome, (style, _meaning) in _MEANING.items():
        reasons = tally.reasons.get(outcome)
        if reasons is None:
            continue
        yield Text()
        yield Text.assemble("Why ", (outcome.replace("_", " "), style), ":")
        for text, reason in sorted(reasons.items(), key=lambda item: -item[1].count):
            yield Text.assemble(
                (f"  {reason.count:,} x ", "bold"), text, (f"  ({reason.where})", "dim")
            )


class _Rate(ProgressColumn):
    """Orders per second that get a result at present: over the last few seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: deque[tuple[float, int]] = deque()

    def render(self, task: Task) -> Text:
        now, orders = task.elapsed or 0.0, task.fields["orders"]
        while len(self._seen) > 1 and now - self._seen[0][0] > _PRESENT_S:
            self._seen.popleft()
        began, before = self._seen[0] if self._seen else (0.0, 0)
        self._seen.append((now, orders))
        rate = (orders - before) / (now - began) if now > began else 0.0
        return Text(f"{rate:,.0f}/s", style="progress.data.speed")


class Bar:
    """A progress bar on stderr where that is a terminal; else nothing.

    Args:
        title: What goes on.
        good: The outcome that is no failure.
        names: What to call those with that outcome, and all others.
        length_known: Whether the time that is left can be told.
        wanted: Whether it may be shown at all.
    """

    def __init__(
        self, title: str, *, good: Outcome, names: tuple[str, str], length_known: bool, wanted: bool
    ) -> None:
        console = screen(stderr=True)
        self._good = good
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn(f"[green]{{task.fields[good]:,}}[/] {names[0]}"),
            TextColumn(f"[red]{{task.fields[bad]:,}}[/] {names[1]}"),
            _Rate(),
            TimeElapsedColumn(),
            *((TextColumn("left"), TimeRemainingColumn()) if length_known else ()),
            TextColumn("[yellow]{task.fields[note]}"),
            console=console,
            auto_refresh=False,  # no thread: whoever does the work refreshes
            redirect_stdout=False,
            redirect_stderr=False,
            disable=not (wanted and console.is_terminal),
        )
        self._task: TaskID = self._progress.add_task(
            title, total=None, good=0, bad=0, orders=0, note=""
        )
        self._shown_at = -_REFRESH_S

    @property
    def is_shown(self) -> bool:
        """Whether anybody sees it."""
        return not self._progress.disable

    def start(self) -> None:
        """Show it."""
        self._progress.start()

    def retitle(self, title: str) -> None:
        """Say that something else goes on now."""
        self._progress.update(self._task, description=title)

    def say(self, message: str) -> None:
        """Tell something without breaking the bar."""
        self._progress.console.print(message)

    def draw(self, tally: Tally, share: float | None, note: str = "") -> None:
        """Show how far it has come, no more often than makes sense.

        Args:
            tally: The results so far.
            share: How much of the input was read, from 0 to 1; None where that is not known.
            note: What there is to say of it at present, such as why it waits.
        """
        now = time.monotonic()
        if self.is_shown and now - self._shown_at >= _REFRESH_S:
            self._shown_at = now
            self._update(tally, share, note)

    def stop(self, tally: Tally, share: float | None) -> None:
        """Show the end, and let the terminal go."""
        if self.is_shown:
            self._update(tally, share)
            self._progress.stop()

    def _update(self, tally: Tally, share: float | None, note: str = "") -> None:
        good = tally.counts[self._good]
        self._progress.update(
            self._task,
            total=None if share is None else 1.0,
            completed=share or 0.0,
            good=good,
            bad=tally.total - good,
            orders=tally.total,
            note=escape(note),
            refresh=True,
        )


def flush() -> None:
    """Flush what was printed, before the process is left in a hurry."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            silence(stream.fileno())
