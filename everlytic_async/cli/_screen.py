"""What a person sees: lines on a console, the summary of a run, a terminal to ask at."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import IO

from rich.text import Text

from everlytic_async.cli._console import print_lines
from everlytic_async.cli._counts import Tally
from everlytic_async.outcomes import Outcome
from everlytic_async.sources import REASONS

#: By outcome: what it is called, its style, and what it means to the person who has to act.
Labels = Mapping[Outcome, tuple[str, str, str]]
SEND_LABELS: Labels = {
    Outcome.SENT: ("sent", "green", "accepted by the endpoint"),
    Outcome.INVALID: (
        "invalid",
        "yellow",
        "not valid, so not sent: correct them, then run it again",
    ),
    Outcome.REJECTED: (
        "rejected",
        "red",
        "refused by the endpoint: correct them, then run it again",
    ),
    Outcome.NOT_SENT: ("not sent", "yellow", "surely not processed: run it again"),
    Outcome.UNKNOWN: (
        "unknown",
        "magenta",
        "may have been processed: sending them again may notify twice",
    ),
    Outcome.SKIPPED: ("skipped", "cyan", "known to the ledger, so not sent again"),
}
# In the last column of a narrow terminal.
_MAX_REASON = 40
# Of a duration: the smaller unit shown, in seconds; its name; how many make the larger one, and its
# name; from how many on both are too small.
_SCALES = (
    (1, "s", 60, "min", 3_600),
    (60, "min", 60, "h", 1_440),
    (3_600, "h", 24, "days", math.inf),
)


def escape_json(text: str) -> str:
    """JSON in one line with each unprintable character escaped.

    A terminal must not interpret what a customer put into an order.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)


def json_line(value: object) -> str:
    """A value as a line of JSON, fit for a terminal; without the line end."""
    return escape_json(json.dumps(value, ensure_ascii=False))


def print_json(value: object) -> None:
    """Print a value as a line of JSON."""
    print_lines([json_line(value)], is_data=True)


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


def outcome_lines(tally: Tally, filtered: Mapping[str, int], labels: Labels) -> Iterable[Text]:
    """A line for each outcome that occurred, and for those left out (`filtered`, by reason)."""
    rows = [
        (name, style, tally.counts[outcome], meaning)
        for outcome, (name, style, meaning) in labels.items()
        if tally.counts[outcome]
    ]
    if filtered:
        why = sorted(filtered.items(), key=lambda item: -item[1])
        known = [reason for reason, _ in why if reason in REASONS]
        which = "them" if len(known) == len(why) else f"{', '.join(known)} orders"
        hint = f"; --include takes {which} in" if known else ""
        parts = [f"{count:,} {_shorten(reason)}" for reason, count in why]
        meaning = f"{', '.join(parts)}{hint}"
        rows.append(("left out", "", sum(filtered.values()), meaning))
    yield from count_lines(rows)
    for note in notes(tally):
        yield Text(f"  {note}", "magenta")


def _shorten(reason: str) -> str:
    """The reason why orders are left out: a condition may be long, and is one word."""
    return reason if len(reason) <= _MAX_REASON else f"{reason[: _MAX_REASON - 3]}..."


def count_lines(rows: Iterable[tuple[str, str, int, str]]) -> Iterator[Text]:
    """A line for each row: what is counted, its style, how many there are, and what it means."""
    rows = list(rows)
    name_width = max([8, *(len(name) for name, *_ in rows)])
    width = max([1, *(len(f"{count:,}") for _name, _style, count, _meaning in rows)])
    for name, style, count, meaning in rows:
        yield Text.assemble(
            "  ",
            (f"{name:<{name_width}}", style),
            (f"  {count:>{width},}", "bold"),
            (f"  {meaning}" if meaning else "", "dim"),
        )


def join_some(items: Sequence[object], most: int = 5) -> str:
    """The first few, and how many more there are."""
    shown = ", ".join(map(str, items[:most]))
    return shown if len(items) <= most else f"{shown} and {len(items) - most:,} more"


def format_time(at: float) -> str:
    """A Unix time as the time of day here."""
    return datetime.fromtimestamp(at).astimezone().isoformat(" ", "seconds")


def notes(tally: Tally) -> Iterator[str]:
    """What the counts do not say."""
    if tally.possible_duplicates:
        yield f"{tally.possible_duplicates:,} of them may have been processed more than once"
    if tally.changed:
        yield (
            f"{tally.changed:,} of those skipped have changed since they were first sent, and "
            "were not sent as they are now. If they are another shop's orders with the same ids, "
            "give that shop a ledger of its own (--ledger)"
        )


def reason_lines(tally: Tally, place: str, labels: Labels) -> Iterable[Text]:
    """The reasons of the failures, the most frequent first, with their lines in the input."""
    for outcome, (name, style, _meaning) in labels.items():
        reasons = tally.reasons.get(outcome)
        if reasons is None:
            continue
        yield Text()
        yield Text.assemble("Why ", (name, style), ":")
        for text, reason in sorted(reasons.items(), key=lambda item: -item[1].count):
            yield Text.assemble(
                (f"  {reason.count:,} x ", "bold"), text, (f"  ({reason.where(place)})", "dim")
            )


@contextmanager
def open_terminal() -> Iterator[tuple[IO[str], IO[str]] | None]:
    """Open the controlling terminal to read and to write; None where nobody would answer there.

    So that ``2>&1 | tee log`` does not silence a question. A job in the background is not asked:
    the system would stop it when it reads. Without a controlling terminal the standard input and
    error will do, if both are terminals.
    """
    try:
        fd = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        streams = (sys.stdin, sys.stderr)
        yield streams if all(each is not None and each.isatty() for each in streams) else None
        return
    # Two files of one descriptor: one for both would have to seek between them.
    with (
        open(fd, encoding="utf-8", errors="replace") as reader,  # noqa: PTH123 - no path
        open(fd, "w", encoding="utf-8", errors="backslashreplace", closefd=False) as writer,
    ):
        yield (reader, writer) if _is_in_foreground(fd) else None


def _is_in_foreground(fd: int) -> bool:
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:  # it was hung up
        return False
