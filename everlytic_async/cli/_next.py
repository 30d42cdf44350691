"""What to do next after a run, with the command to copy."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from everlytic_async.cli._options import ResultsOptions, command_with
from everlytic_async.cli._results import APPEND_OPTION
from everlytic_async.cli._screen import count_orders
from everlytic_async.cli._tally import Tally
from everlytic_async.ledger import State
from everlytic_async.outcomes import Outcome


def advise(
    tally: Tally,
    options: ResultsOptions,
    *,
    ledger: str | None,
    all_read: bool,
    is_damaged: bool,
) -> Iterator[str]:
    """What to do next, a paragraph for each kind of order that is not sent.

    `is_damaged` is whether the rest of the input can't be read however often it is tried.
    """
    is_more = options.results not in (None, "-") and not options.append_results
    again = command_with(*[APPEND_OPTION][: int(is_more)])
    if ledger is None and not tally.counts[Outcome.SENT] and not tally.unknown:
        if tally.to_send or tally.to_correct or not (all_read or is_damaged):
            yield f"Nobody was notified. When what is wrong is right, run it again:\n  {again}"
        return
    if ledger is None:
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
    file = shlex.quote(ledger)
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
        yield f"To send the rest, run it again; what was sent is not sent again:\n  {again}"
    if tally.unknown:
        yield (
            f"{_look_at_unknown(tally.unknown)} (--with FILE lists them, too):\n"
            f"  everlytic-async ledger export --state unknown {file}\n"
            "Then record what you found, for those that did and those that did not, and run it "
            "again:\n"
            f"  everlytic-async ledger resolve {file} --sent 'KEY'...\n"
            f"  everlytic-async ledger resolve {file} --send-again 'KEY'..."
        )
    if tally.to_correct:
        invalid, rejected = tally.counts[Outcome.INVALID], tally.rejected
        what = " or ".join(
            name for name, count in (("invalid", invalid), ("rejected", rejected)) if count
        )
        yield (
            f"{_they(tally.to_correct)} {what}: a person has to correct "
            f"{'it' if tally.to_correct == 1 else 'them'}. Then run it again; it sends only "
            f"what has changed:\n  {again}"
            + (
                "\nWhere a rejected order is right and the cause was elsewhere, add: "
                "--resend rejected"
                if rejected
                else ""
            )
        )


def _look_at_unknown(count: int) -> str:
    return (
        f"{_they(count)} unknown: Everlytic may have processed {'it' if count == 1 else 'them'}. "
        "A person has to look whether the contacts entered the workflow"
    )


def _they(count: int) -> str:
    return f"{count_orders(count)} {'is' if count == 1 else 'are'}"
