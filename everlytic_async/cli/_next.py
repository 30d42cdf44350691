"""What to do next after a run, with the command to copy."""

from __future__ import annotations

from collections.abc import Iterator

from everlytic_async.cli._commands import SendOptions
from everlytic_async.cli._counts import Tally
from everlytic_async.cli._options import ReadingOptions, command_with, quote, words_of
from everlytic_async.cli._results import APPEND_OPTION
from everlytic_async.cli._screen import count_orders
from everlytic_async.ledger import State
from everlytic_async.outcomes import Outcome


def advise(
    tally: Tally,
    options: SendOptions,
    *,
    ledger: str | None,
    all_read: bool,
    is_damaged: bool,
) -> Iterator[str]:
    """What to do next, a paragraph for each kind of order that is not sent.

    `is_damaged` is whether the rest of the input can't be read however often it is tried.
    """
    is_first = not (tally.counts[Outcome.SENT] or tally.counts[Outcome.SKIPPED] or tally.unknown)
    if ledger is None and not is_first:
        if tally.to_send or tally.unknown or tally.to_correct or not all_read:
            yield (
                "There was no ledger: the same command again would notify everybody again who was "
                "notified now, also with --ledger FILE, because a new ledger knows nothing of this "
                "run. Put what is to be sent into a file of its own, and send that with a ledger. "
                "--results FILE names the outcome of each order."
            )
        if tally.unknown:
            yield (
                f"{_look_at_unknown(tally.unknown)}: only those that did not belong into that file."
            )
        return
    is_more = options.results not in (None, "-") and not options.append_results
    # Without --report: the page of this run stays.
    again = command_with(*[APPEND_OPTION][: int(is_more)], without="--report")
    in_flight = tally.left[State.IN_FLIGHT]
    if in_flight and not tally.left[State.NOT_SENT]:
        yield (f"{_they(in_flight)} being sent by another process. When that has ended:\n  {again}")
    elif tally.refused_first:
        yield (
            f"{_they(tally.refused_first)} refused, and none was accepted before: probably the "
            "address, the workflow or the account is wrong. When that is right, run it again, "
            f"which sends them:\n  {again}"
        )
    elif tally.to_send or not (all_read or is_damaged):
        words = "the rest, run it again; what was sent is not sent again"
        yield f"To send {'them, run it again' if is_first else words}:\n  {again}"
    if tally.unknown and ledger is not None:
        file = quote(ledger)
        yield (
            f"{_look_at_unknown(tally.unknown)}:\n"
            f"  everlytic-async ledger export --state unknown {_with_input(options)}{file}\n"
            "Then record what you found, for those that did and those that did not, and run it "
            "again:\n"
            f"  everlytic-async ledger resolve {file} --sent 'KEY'...\n"
            f"  everlytic-async ledger resolve {file} --send-again 'KEY'..."
        )
    if tally.to_correct:
        counts = {"invalid": tally.counts[Outcome.INVALID], "rejected": tally.left[State.REJECTED]}
        what = " or ".join(name for name, count in counts.items() if count)
        them = "it" if tally.to_correct == 1 else "them"
        words = (
            f"{_they(tally.to_correct)} {what}: a person has to correct {them}. Then run it again"
        )
        if ledger is not None:
            words += "; it sends only what has changed"
        words += f":\n  {again}"
        if counts["rejected"] and ledger is not None:
            words += "\nWhere a rejected order is right and the cause was elsewhere, add: "
            words += "--resend rejected"
        yield words


def _with_input(options: SendOptions) -> str:
    """The option of ``ledger export`` that names this input, and those that say how it is read."""
    if options.file == "-":  # it can't be read again
        return ""
    words = ["--with", options.file, *words_of(options, ReadingOptions)]
    if options.format is not None:
        words += ["--with-format", options.format]
    return f"{quote(*words)} "


def _look_at_unknown(count: int) -> str:
    return (
        f"{_they(count)} unknown: Everlytic may have processed {'it' if count == 1 else 'them'}. "
        "A person has to look whether the contacts entered the workflow"
    )


def _they(count: int) -> str:
    return f"{count_orders(count)} {'is' if count == 1 else 'are'}"
