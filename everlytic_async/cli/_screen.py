"""Lines on a console: the summary of a run and the reasons of its failures.

Colours are for terminals only: rich decides.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping

from rich.console import Console
from rich.text import Text

from everlytic_async.cli._exit import OutputError, redirect_to_devnull
from everlytic_async.cli._tally import Tally
from everlytic_async.errors import printable
from everlytic_async.outcomes import Outcome
from everlytic_async.sources import REASONS

__all__ = [
    "LABELS",
    "MEANINGS",
    "count_orders",
    "flush",
    "format_duration",
    "make_console",
    "outcome_lines",
    "print_lines",
    "reason_lines",
]

#: By outcome, its style and what it means to the person who has to act on it.
MEANINGS: Mapping[Outcome, tuple[str, str]] = {
    Outcome.SENT: ("green", "accepted by the endpoint"),
    Outcome.INVALID: ("yellow", "not valid, so not sent: correct them, then run it again"),
    Outcome.REJECTED: ("red", "refused by the endpoint: correct them, then run it again"),
    Outcome.NOT_SENT: ("yellow", "surely not processed: run it again"),
    Outcome.UNKNOWN: ("magenta", "may have been processed: sending them again may notify twice"),
    Outcome.SKIPPED: ("cyan", "known to the ledger, so not sent again"),
}
#: What outcomes are called, in the order in which they are shown.
LABELS: Mapping[Outcome, str] = {outcome: outcome.replace("_", " ") for outcome in MEANINGS}
# Of a duration: the smaller unit shown, in seconds; its name; how many make the larger one, and its
# name; from how many on both are too small.
_SCALES = (
    (1, "s", 60, "min", 3_600),
    (60, "min", 60, "h", 1_440),
    (3_600, "h", 24, "days", math.inf),
)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """The reader is gone: print no more, and exit as the orders ended."""
        self.quiet = True
        redirect_to_devnull(self.file.fileno())


def make_console(*, stderr: bool = False) -> Console:
    """The standard output, or error, as rich's console: nothing is wrapped or guessed."""
    return _Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)


def _printable(line: Text | str) -> Text | str:
    if isinstance(line, str):
        return printable(line)
    if not line.plain.isprintable():
        line = line.copy()
        line.plain = printable(line.plain)
    return line


def print_lines(console: Console, lines: Iterable[Text | str]) -> None:
    """Print lines, control characters as ``?``, and flush.

    Raises:
        OutputError: when they can't be written, and not because the reader is gone.
    """
    try:
        for line in lines:
            console.print(_printable(line))
        console.file.flush()
    except BrokenPipeError:
        redirect_to_devnull(console.file.fileno())
    except OSError as error:
        redirect_to_devnull(console.file.fileno())  # what is still buffered would fail again, at the exit
        which = "error" if console.stderr else "output"
        raise OutputError(f"the standard {which} can't be written: {error.strerror}") from error


def count_orders(count: int) -> str:
    """A number of orders, in words."""
    return "1 order" if count == 1 else f"{count:,} orders"


def format_duration(seconds: float) -> str:
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
    labels: Mapping[Outcome, tuple[str, str, str]] | None = None,
) -> Iterable[Text]:
    """A line for each outcome that was: its count, and what it means.

    Args:
        tally: The counts.
        left_out: How many orders were left out of the input, by reason.
        valid: Where nothing is sent on purpose: what to say about those that could be.
        labels: Where orders are queued instead of sent: what an outcome is called then, its
            style, and what it means.
    """
    meanings = MEANINGS
    names = dict(LABELS)
    if labels is not None:
        names = {outcome: name for outcome, (name, _style, _meaning) in labels.items()}
        meanings = {outcome: (style, text) for outcome, (_name, style, text) in labels.items()}
    if valid is not None:
        names[Outcome.NOT_SENT] = "valid"
        meanings = {
            Outcome.NOT_SENT: ("green", valid),
            Outcome.SKIPPED: MEANINGS[Outcome.SKIPPED],
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
    if tally.possible_duplicates:
        yield Text(f"  {tally.possible_duplicates:,} of them may have been processed more than once", "magenta")
    if tally.changed:
        yield Text(
            f"  {tally.changed:,} of those skipped have changed since they were first sent, and were "
            "not sent as they are now",
            "cyan",
        )
    if left_out:
        why = sorted(left_out.items(), key=lambda item: -item[1])
        hint = "; --include includes them" if any(reason in REASONS for reason, _ in why) else ""
        yield Text.assemble(
            "  left out",
            (f"  {sum(left_out.values()):>{width},}", "bold"),
            (f"  {', '.join(f'{count:,} {reason}' for reason, count in why)}{hint}", "dim"),
        )


def reason_lines(tally: Tally, place: str, names: Mapping[Outcome, str] = LABELS) -> Iterable[Text]:
    """The reasons of the failures, the most frequent first, with their lines in the input.

    Args:
        tally: What became of the orders.
        place: What the input has in place of lines.
        names: What the outcomes are called.
    """
    for outcome, (style, _meaning) in MEANINGS.items():
        reasons = tally.reasons.get(outcome)
        if reasons is None:
            continue
        yield Text()
        yield Text.assemble("Why ", (names[outcome], style), ":")
        for text, reason in sorted(reasons.items(), key=lambda item: -item[1].count):
            yield Text.assemble(
                (f"  {reason.count:,} x ", "bold"), text, (f"  ({reason.where(place)})", "dim")
            )


def flush() -> None:
    """Flush what was printed, before the process exits at once."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # the reader is gone
            redirect_to_devnull(stream.fileno())
