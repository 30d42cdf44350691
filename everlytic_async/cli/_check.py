"""``check``, and ``send --dry-run``: read and validate every order, and send nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from everlytic_async import EverlyticClient
from everlytic_async.cli._exit import Exit, say
from everlytic_async.cli._forecast import Forecast, LedgerChoice, choose_ledger
from everlytic_async.cli._input import Input, Numbered, Reading
from everlytic_async.cli._results import Results
from everlytic_async.cli._screen import (
    Bar,
    count_orders,
    outcome_lines,
    reason_lines,
    make_console,
    print_lines,
)
from everlytic_async.cli._settings import find_account
from everlytic_async.cli._tally import Tally
from everlytic_async.errors import (
    ConfigurationError,
    InvalidOrderError,
    SkippedError,
    SourceError,
)
from everlytic_async.outcomes import Outcome
from everlytic_async.policies import Delivery

__all__ = ["check", "examine", "forecast", "no_orders", "say_never_set"]

# Who checks wants to see what there is to mend, all of it if possible.
_REASONS = 100


def examine(
    source: Input,
    results: Results,
    *,
    progress: bool,
    valid: str,
    known: Forecast | None = None,
) -> int:
    """Validate every order of the input, show what was found, and return the exit code.

    Args:
        source: The orders.
        results: Where a line for each goes: ``invalid``, ``skipped`` for those that the ledger
            has skipped, or ``not_sent`` for the others.
        progress: Whether a progress bar may be shown.
        valid: What to say of the valid ones.
        known: What a ledger says of them; None without one.
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
        _examine(source, results, tally, bar, known)
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
    out = make_console(stderr=results.is_stdout)
    print_lines(out, [f"{count_orders(tally.total)} read from {source.shown} in {seconds:.1f} s"])
    print_lines(out, outcome_lines(tally, source.left_out, valid=valid))
    print_lines(out, reason_lines(tally, source.place))
    say_never_set(source)
    if known is not None:
        for note in known.notes():
            say(f"Note: {note}")
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
    if source.left_out:
        return f"All orders of {source.shown} are left out: nothing to do."
    return f"There is no order in {source.shown}: nothing to do."


def say_never_set(source: Input) -> None:
    """Warn of what is mapped from where nothing is."""
    if source.read and source.never_set:
        say(
            f"Warning: no order has {', '.join(sorted(source.never_set))}, which the mapping takes "
            "from where nothing is. Is it spelled as in the input?"
        )


def _examine(
    source: Input, results: Results, tally: Tally, bar: Bar, known: Forecast | None
) -> None:
    for index, ((line, order), skipped) in enumerate(_known(source.numbered(), known)):
        error: InvalidOrderError | SkippedError | None
        if isinstance(order, InvalidOrderError):
            error, outcome, key = order, Outcome.INVALID, order.order_id
        else:
            error, key = skipped, None if order.order_id is None else str(order.order_id)
            outcome = Outcome.NOT_SENT if skipped is None else Outcome.SKIPPED
        tally.add(outcome, line, error)
        results.write(
            index=index,
            line=line,
            key=None if outcome is Outcome.NOT_SENT else key,
            outcome=outcome,
            error=error or "nothing was sent: it was only checked",
        )
        if bar.is_shown:
            bar.draw(tally, source.share_read())


def _known(
    found: Iterator[Numbered], known: Forecast | None
) -> Iterator[tuple[Numbered, SkippedError | None]]:
    return ((numbered, None) for numbered in found) if known is None else known.tell(found)


@contextmanager
def forecast(
    ledger: LedgerChoice | None,
    config: str | None,
    *,
    delivery: Delivery = Delivery.AT_MOST_ONCE,
    resend: tuple[str, ...] = (),
) -> Iterator[Forecast | None]:
    """What the ledger says, for whoever sends nothing; None where there is none yet.

    Without an account it is not known which endpoint and store are meant: then all that the ledger
    knows of the orders is what it knows of them elsewhere, which `Forecast.notes` tells.

    Raises:
        ConfigurationError: what is wrong with the account.
        LedgerError: when the ledger can't be read.
    """
    if ledger is None or ledger.is_new:
        yield None
        return
    say(f"Ledger: {ledger.line}; it is only read")
    account = find_account(config)
    client = EverlyticClient(
        "https://none.invalid" if account is None else account.base_url,
        store_hash="none" if account is None else account.store_hash,
        customer_hash="none" if account is None else account.customer_hash,
        delivery=delivery,
        allow_http=True,  # nothing is sent
    )
    with Forecast(ledger.path, client, [Outcome(name) for name in resend]) as known:
        yield known


def check(
    file: str,
    reading: Reading,
    *,
    results: str | None,
    append_results: bool,
    ledger: str | None,
    no_ledger: bool,
    config: str | None,
    progress: bool,
) -> int:
    """Validate the orders of a file, and return the exit code.

    Args:
        file: Its name.
        reading: How it is read.
        results: Where a line for each order goes; None for nowhere.
        append_results: Whether that may hold lines already.
        ledger: The ledger that is named; None for the one of the settings, or the default.
        no_ledger: Whether none is read.
        config: As of `everlytic_async.cli._settings.load_account`.
        progress: Whether a progress bar may be shown.

    Raises:
        ConfigurationError: when one of the files can't be opened.
        LedgerError: when the ledger can't be read.
    """
    chosen = choose_ledger(ledger, no_ledger=no_ledger, config=config)
    with (
        Input(file, reading) as source,
        forecast(chosen, config) as known,
        Results(results, source, append=append_results) as written,
    ):
        return examine(source, written, progress=progress, valid="ready to be sent", known=known)
