"""What is shown: the progress bar on stderr, the summary on stdout.

Colours, and the bar, are for terminals only: rich sees to that.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

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
)
from rich.text import Text

from everlytic_async.cli._exit import OutputError, silence
from everlytic_async.cli._tally import Tally
from everlytic_async.errors import printable
from everlytic_async.outcomes import Outcome
from everlytic_async.sources import REASONS

__all__ = [
    "NAMES",
    "Bar",
    "flush",
    "lasting",
    "orders",
    "outcome_lines",
    "reason_lines",
    "screen",
    "show",
]

#: What an outcome means for whoever has to act on it.
_MEANING: Mapping[Outcome, tuple[str, str]] = {
    Outcome.SENT: ("green", "accepted by the endpoint"),
    Outcome.INVALID: ("yellow", "not valid, so not sent: correct them, then run it again"),
    Outcome.REJECTED: ("red", "refused by the endpoint: correct them, then run it again"),
    Outcome.NOT_SENT: ("yellow", "surely not processed: run it again"),
    Outcome.UNKNOWN: ("magenta", "may have been processed: to send them again may notify twice"),
    Outcome.SKIPPED: ("cyan", "known to the ledger, so not sent again"),
}
#: What outcomes are called, in the order in which they are shown.
NAMES: Mapping[Outcome, str] = {outcome: outcome.replace("_", " ") for outcome in _MEANING}
_REFRESH_S = 0.1
# What "at present" means for the rate; and how far back the time that is left looks, in seconds.
_PRESENT_S = 3.0
_LATELY_S = 30.0
_BAR_WIDTH = 24
# Of a duration: the smaller unit shown, in seconds; its name; how many make the larger one, and its
# name; from how many on both are too small.
_SCALES = (
    (1, "s", 60, "min", 3_600),
    (60, "min", 60, "h", 1_440),
    (3_600, "h", 24, "days", math.inf),
)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Whoever read us has gone: say no more, and end as the orders did."""
        self.quiet = True
        silence(self.file.fileno())


def screen(*, stderr: bool = False) -> Console:
    """The standard output, or error, as rich's console: nothing is wrapped or guessed."""
    return _Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)


def _printable(line: Text | str) -> Text | str:
    if isinstance(line, str):
        return printable(line)
    if not line.plain.isprintable():
        line = line.copy()
        line.plain = printable(line.plain)
    return line


def show(console: Console, lines: Iterable[Text | str]) -> None:
    """Print lines, control characters as ``?``, and flush.

    Raises:
        OutputError: when they can't be written, though somebody would read them.
    """
    try:
        for line in lines:
            console.print(_printable(line))
        console.file.flush()
    except BrokenPipeError:
        silence(console.file.fileno())
    except OSError as error:
        silence(console.file.fileno())  # what is still buffered would fail again, at the exit
        which = "error" if console.stderr else "output"
        raise OutputError(f"the standard {which} can't be written: {error.strerror}") from error


def orders(count: int) -> str:
    """So many orders, in words."""
    return "1 order" if count == 1 else f"{count:,} orders"


def lasting(seconds: float) -> str:
    """A duration in words, to about three digits; from a minute on in its two largest units."""
    rounded = float(f"{seconds:.3g}")
    if rounded < 60:  # noqa: PLR2004 - a minute
        return f"{rounded * 1000:.3g} ms" if 0 < rounded < 1 else f"{rounded:.3g} s"
    fitting = (scale for scale in _SCALES if round(seconds / scale[0]) < scale[-1])
    size, unit, ratio, larger, _most = next(fitting)
    many, few = divmod(round(seconds / size), ratio)
    name = "day" if (many, larger) == (1, "days") else larger
    return f"{many:,} {name}" + (f" {few} {unit}" if few else "")


def outcome_lines(
    tally: Tally,
    left_out: Mapping[str, int],
    *,
    valid: str | None = None,
    said_as: Mapping[Outcome, tuple[str, str, str]] | None = None,
) -> Iterable[Text]:
    """A line for each outcome that was: its count, and what it means.

    Args:
        tally: The counts.
        left_out: How many orders were left out of the input, by reason.
        valid: Where nothing is sent on purpose: what to say of those that could be.
        said_as: Where orders are not sent but queued: what an outcome is called then, its style,
            and what it means.
    """
    meanings = _MEANING
    names = dict(NAMES)
    if said_as is not None:
        names = {outcome: name for outcome, (name, _style, _meaning) in said_as.items()}
        meanings = {outcome: (style, said) for outcome, (_name, style, said) in said_as.items()}
    if valid is not None:
        names[Outcome.NOT_SENT] = "valid"
        meanings = {
            Outcome.NOT_SENT: ("green", valid),
            Outcome.SKIPPED: _MEANING[Outcome.SKIPPED],
            Outcome.INVALID: ("yellow", "can't be sent: correct them first"),
        }
    name_width = max([8, *(len(names[outcome]) for outcome in meanings if tally.counts[outcome])])
    width = len(f"{max(*tally.counts.values(), sum(left_out.values()), 0):,}")
    for outcome, (style, meaning) in meanings.items():
        if count := tally.counts[outcome]:
            yield Text.assemble(
                "  ",
                (f"{names[outcome]:<{name_width}}", style),
                (f"  {count:>{width},}", "bold"),
                (f"  {meaning}", "dim"),
            )
    if tally.at_risk:
        yield Text(f"  {tally.at_risk:,} of them may have been processed more than once", "magenta")
    if tally.other_body:
        yield Text(
            f"  {tally.other_body:,} of those skipped have changed since the ledger's record of "
            "them, and were not sent as they are now",
            "cyan",
        )
    if left_out:
        why = sorted(left_out.items(), key=lambda item: -item[1])
        hint = "; --include takes them in" if any(reason in REASONS for reason, _ in why) else ""
        yield Text.assemble(
            "  left out",
            (f"  {sum(left_out.values()):>{width},}", "bold"),
            (f"  {', '.join(f'{count:,} {reason}' for reason, count in why)}{hint}", "dim"),
        )


def reason_lines(tally: Tally, place: str, names: Mapping[Outcome, str] = NAMES) -> Iterable[Text]:
    """The reasons of the failures, the most frequent first, with the lines they came from.

    Args:
        tally: What became of the orders.
        place: What the input has in place of lines.
        names: What the outcomes are called.
    """
    for outcome, (style, _meaning) in _MEANING.items():
        reasons = tally.reasons.get(outcome)
        if reasons is None:
            continue
        yield Text()
        yield Text.assemble("Why ", (names[outcome], style), ":")
        for text, reason in sorted(reasons.items(), key=lambda item: -item[1].count):
            yield Text.assemble(
                (f"  {reason.count:,} x ", "bold"), text, (f"  ({reason.where(place)})", "dim")
            )


class _Lately:
    """Orders per second, over the last few seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._seen: deque[tuple[float, int]] = deque()

    def rate(self, now: float, count: int) -> float:
        """The rate, where there have been so many orders by now."""
        while len(self._seen) > 1 and now - self._seen[0][0] > self._seconds:
            self._seen.popleft()
        self._seen.append((now, count))
        began, before = self._seen[0]
        return (count - before) / (now - began) if now > began else 0.0


class _Counts(ProgressColumn):
    """How many orders have each outcome: the first is always there, the others once there are."""

    def __init__(self, names: Mapping[Outcome, str]) -> None:
        super().__init__()
        self._names = names
        self._first = next(iter(names))

    def render(self, task: Task) -> Text:
        counts = task.fields["tally"].counts
        parts: list[Text] = []
        for outcome, name in self._names.items():
            style = "green" if outcome is self._first else _MEANING[outcome][0]
            if counts[outcome] or outcome is self._first:
                parts.append(Text.assemble((f"{counts[outcome]:,}", style), f" {name}"))
        return Text("  ").join(parts)


class _Rate(ProgressColumn):
    """Orders per second that get a result at present, but for those that are skipped."""

    def __init__(self) -> None:
        super().__init__()
        self._lately = _Lately(_PRESENT_S)

    def render(self, task: Task) -> Text:
        rate = self._lately.rate(task.elapsed or 0.0, task.fields["tally"].worked)
        return Text(f"{rate:,.0f}/s", style="progress.data.speed")


class _Left(ProgressColumn):
    """The time that is left, if nothing of the rest is skipped: to skip costs hardly any."""

    def __init__(self) -> None:
        super().__init__()
        self._lately = _Lately(_LATELY_S)
        self._seen = (0, 0)

    def render(self, task: Task) -> Text:
        tally, share = task.fields["tally"], task.completed
        total, worked = self._seen
        if tally.total > total and tally.worked == worked:
            self._lately = _Lately(_LATELY_S)  # what is skipped tells nothing of the rest
        self._seen = tally.total, tally.worked
        rate = self._lately.rate(task.elapsed or 0.0, tally.worked)
        left = tally.total * (1 - share) / share if share else None
        if left == 0:
            shown = str(timedelta())
        elif left is None or not rate:
            shown = "-:--:--"
        else:
            shown = str(timedelta(seconds=round(left / rate)))
        return Text(f"left {shown}", style="progress.remaining")


class Bar:
    """A progress bar on stderr where that is a terminal; else nothing.

    Args:
        title: What goes on.
        names: What the outcomes are called; the first is the one that is hoped for.
        length_known: Whether the time that is left can be told.
        wanted: Whether it may be shown at all.
        passing: Whether it disappears at its end.
    """

    def __init__(
        self,
        title: str,
        *,
        names: Mapping[Outcome, str],
        length_known: bool,
        wanted: bool,
        passing: bool = False,
    ) -> None:
        console = screen(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(_BAR_WIDTH),
            _Counts(names),
            _Rate(),
            TimeElapsedColumn(),
            *((_Left(),) if length_known else ()),
            TextColumn("[yellow]{task.fields[note]}"),
            console=console,
            transient=passing,
            auto_refresh=False,  # no thread: whoever does the work refreshes
            redirect_stdout=False,
            redirect_stderr=False,
            disable=not (wanted and console.is_terminal),
        )
        self._task: TaskID = self._progress.add_task(title, total=None, tally=Tally(), note="")
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
        self._progress.console.print(printable(message))

    def draw(self, tally: Tally, share: float | None, note: str = "") -> None:
        """Show how far it has come, no more often than makes sense.

        Args:
            tally: The results so far.
            share: How much of the input is done, from 0 to 1; None where that is not known.
            note: What there is to say of it at present, such as why it waits.
        """
        now = time.monotonic()
        if self.is_shown and now - self._shown_at >= _REFRESH_S:
            self._shown_at = now
            self._update(tally, share, note)

    @contextmanager
    def moving(
        self, tally: Tally, share: Callable[[], float | None], note: Callable[[], str]
    ) -> Iterator[None]:
        """Keep drawing while the context lasts, on the running loop, also while nothing comes."""
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle | None = None

        def tick() -> None:
            nonlocal timer
            self.draw(tally, share(), note())
            timer = loop.call_later(_REFRESH_S, tick)

        if self.is_shown:
            tick()
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()

    def stop(self, tally: Tally, share: float | None) -> None:
        """Show the end, and let the terminal go."""
        if self.is_shown:
            self._update(tally, share)
            self._progress.stop()

    def _update(self, tally: Tally, share: float | None, note: str = "") -> None:
        self._progress.update(
            self._task,
            total=None if share is None else 1.0,
            completed=share or 0.0,
            tally=tally,
            note=escape(note),
            refresh=True,
        )


def flush() -> None:
    """Flush what was printed, before the process is left in a hurry."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # nobody is left to be told
            silence(stream.fileno())
