"""``check``, and ``send --dry-run``: read and validate every order, and send nothing."""

from __future__ import annotations

import time

from everlytic_async.cli._exit import Exit, say
from everlytic_async.cli._input import Input, Reading
from everlytic_async.cli._results import Results
from everlytic_async.cli._screen import (
    Bar,
    orders,
    outcome_lines,
    reason_lines,
    screen,
    show,
)
from everlytic_async.cli._tally import Tally
from everlytic_async.errors import ConfigurationError, InvalidOrderError, SourceError
from everlytic_async.outcomes import Outcome

__all__ = ["check", "examine", "no_orders", "say_never_set"]

# Who checks wants to see what there is to mend, all of it if possible.
_REASONS = 100


def examine(source: Input, results: Results, *, progress: bool, would_go_to: str) -> int:
    """Validate every order of the input, show what was found, and return the exit code.

    Args:
        source: The orders.
        results: Where a line for each goes: ``invalid``, or ``not_sent`` for those that are valid.
        progress: Whether a progress bar may be shown.
        would_go_to: What to say of the valid ones.
    """
    began = time.monotonic()
    tally = Tally(_REASONS)
    bar = Bar(
        "Checking",
        names={Outcome.NOT_SENT: "valid", Outcome.INVALID: "invalid"},
        length_known=source.share_read() is not None,
        wanted=progress,
    )
    code: int | None = None
    ended_early = ""
    bar.start()
    try:
        _examine(source, results, tally, bar)
    except KeyboardInterrupt:
        code = Exit.INTERRUPTED
        ended_early = (
            f"Interrupted after {source.place} {source.last_line:,}: the rest was not read."
        )
    except (OSError, ConfigurationError, SourceError) as error:
        code = Exit.USAGE
        ended_early = f"Error: {source.fault(error)}"
    finally:
        bar.stop(tally, source.share_read())
    results.close()
    seconds = time.monotonic() - began
    out = screen(stderr=results.is_stdout)
    show(out, [f"{orders(tally.total)} read from {source.shown} in {seconds:.1f} s"])
    show(out, outcome_lines(tally, source.left_out, valid=would_go_to))
    show(out, reason_lines(tally, source.place))
    say_never_set(source)
    for fault in (ended_early, results.fault):
        if fault:
            say(fault)
    if code is None and not tally.total:
        say(no_orders(source))
    if code is None:
        code = Exit.FAILED if tally.counts[Outcome.INVALID] or results.fault else Exit.OK
    return code


def no_orders(source: Input) -> str:
    """What to say of an input without an order."""
    if source.left_out or source.wanted is not None:
        return f"All orders of {source.shown} are left out: nothing to do."
    return f"There is no order in {source.shown}: nothing to do."


def say_never_set(source: Input) -> None:
    """Warn of what is mapped from where nothing is."""
    if source.read and source.never_set:
        say(
            f"Warning: no order has {', '.join(sorted(source.never_set))}, which the mapping takes "
            "from where nothing is. Is it spelled as in the input?"
        )


def _examine(source: Input, results: Results, tally: Tally, bar: Bar) -> None:
    for index, (line, order) in enumerate(source.numbered()):
        error = order if isinstance(order, InvalidOrderError) else None
        outcome = Outcome.NOT_SENT if error is None else Outcome.INVALID
        tally.add(outcome, line, error)
        results.write(
            index=index,
            line=line,
            key=None if error is None else error.order_id,
            outcome=outcome,
            error=error or "nothing was sent: it was only checked",
        )
        if bar.is_shown:
            bar.draw(tally, source.share_read())


def check(file: str, reading: Reading, *, results: str | None, progress: bool) -> int:
    """Validate the orders of a file, and return the exit code.

    Args:
        file: Its name.
        reading: How it is read.
        results: Where a line for each order goes; None for nowhere.
        progress: Whether a progress bar may be shown.

    Raises:
        ConfigurationError: when one of the files can't be opened.
    """
    with Input(file, reading) as source, Results(results, source) as written:
        return examine(source, written, progress=progress, would_go_to="ready to be sent")
