"""``check``, and ``send --dry-run``: read and validate every order, and send nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from everlytic_async import EverlyticClient
from everlytic_async.cli._commands import CheckOptions
from everlytic_async.cli._exit import Exit, say
from everlytic_async.cli._forecast import Forecast, LedgerChoice, choose_ledger
from everlytic_async.cli._input import Input, open_input
from everlytic_async.cli._progress import Bar
from everlytic_async.cli._results import Results
from everlytic_async.cli._run import no_orders, warn_of_unmatched
from everlytic_async.cli._screen import (
    SEND_LABELS,
    count_orders,
    make_console,
    outcome_lines,
    print_lines,
    reason_lines,
)
from everlytic_async.cli._settings import announce, find_account
from everlytic_async.cli._tally import Tally
from everlytic_async.errors import (
    ConfigurationError,
    InvalidOrderError,
    SkippedError,
    SourceError,
)
from everlytic_async.outcomes import Outcome
from everlytic_async.policies import Delivery

__all__ = ["check", "examine", "forecast"]

# Whoever checks an export wants to see all kinds of faults, if possible.
_MAX_REASONS = 100


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
    started_at = time.monotonic()
    tally = Tally(_MAX_REASONS)
    labels = {
        Outcome.NOT_SENT: ("valid", "green", valid),
        Outcome.SKIPPED: SEND_LABELS[Outcome.SKIPPED],
        Outcome.INVALID: ("invalid", "yellow", "can't be sent: correct them first"),
    }
    names = {Outcome.NOT_SENT: "valid", Outcome.INVALID: "invalid"}
    bar = Bar("Checking", tally, names, enabled=progress, expected=source.expected)
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
        ended_early = f"Error: {source.describe_error(error)}"
    finally:
        bar.stop()
    results.close()
    seconds = time.monotonic() - started_at
    out = make_console(stderr=results.is_stdout)
    print_lines(out, [f"{count_orders(tally.total)} read from {source.name} in {seconds:.1f} s"])
    print_lines(out, outcome_lines(tally, source.filtered, labels))
    print_lines(out, reason_lines(tally, source.place, labels))
    warn_of_unmatched(source)
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


def _examine(
    source: Input, results: Results, tally: Tally, bar: Bar, known: Forecast | None
) -> None:
    orders = source.enumerate_orders()
    predicted = ((each, None) for each in orders) if known is None else known.predict(orders)
    for index, ((line, order), skipped) in enumerate(predicted):
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
        bar.draw()


@contextmanager
def forecast(
    ledger: LedgerChoice | None,
    config: str | None,
    *,
    delivery: Delivery = Delivery.AT_MOST_ONCE,
    resend: tuple[str, ...] = (),
) -> Iterator[Forecast | None]:
    """What the ledger says of orders, without sending any; None if there is no ledger yet.

    Without an account the endpoint and the store are unknown: then `Forecast.notes` has all that
    the ledger knows of the orders.

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


def check(options: CheckOptions) -> int:
    """Validate the orders of a file, and return the exit code.

    Raises:
        ConfigurationError: a file can't be opened.
        LedgerError: the ledger can't be read.
    """
    announce(options.config, "everlytic", "mapping")
    ledger = choose_ledger(options, options.config)
    with (
        open_input(options) as source,
        forecast(ledger, options.config) as known,
        Results(options, source) as results,
    ):
        return examine(
            source, results, progress=options.progress, valid="ready to be sent", known=known
        )
