"""``check``, and ``send --dry-run``: read and validate every order, and send nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import attrs
from rich.table import Table
from rich.text import Text

from everlytic_async import EverlyticClient
from everlytic_async.cli._client import client_for
from everlytic_async.cli._commands import CheckOptions, SendOptions
from everlytic_async.cli._console import make_console
from everlytic_async.cli._exit import Exit, note, say
from everlytic_async.cli._forecast import Forecast, LedgerChoice, choose_ledger, compare
from everlytic_async.cli._input import open_input
from everlytic_async.cli._look import as_table, as_values, suggest
from everlytic_async.cli._results import check_outputs
from everlytic_async.cli._run import Run
from everlytic_async.cli._screen import SEND_LABELS, count_orders
from everlytic_async.cli._settings import READING_TABLES, Account, Settings
from everlytic_async.ledger import LedgerFile
from everlytic_async.outcomes import Outcome
from everlytic_async.policies import Delivery

# A check shows all kinds of faults, if possible.
_MAX_REASONS = 100
_LABELS = {
    Outcome.SKIPPED: SEND_LABELS[Outcome.SKIPPED],
    Outcome.INVALID: ("invalid", "yellow", "can't be sent: correct them first"),
}


async def check(options: CheckOptions) -> int:
    """Validate the orders of a file, and return the exit code."""
    if options.suggest:
        return suggest(options)
    settings = Settings(options.config, "everlytic", *READING_TABLES)
    return await examine(options, settings, choose_ledger(options, settings), "ready to be sent")


async def examine(
    options: CheckOptions | SendOptions,
    settings: Settings,
    ledger: LedgerChoice | None,
    valid: str,
    delivery: Delivery = Delivery.AT_MOST_ONCE,
) -> int:
    """Validate every order of the input, show what was found, and return the exit code.

    What the ledger knows is skipped, where it exists; `valid` is what to say of the valid orders.
    """
    async with AsyncExitStack() as stack:
        source = stack.enter_context(open_input(options, settings))
        forecast = None
        if ledger is not None and not ledger.is_new:
            note(f"Ledger: {ledger.line}; it is only read")
            file = stack.enter_context(LedgerFile(ledger.path, must_exist=True))
            resend = options.resend if isinstance(options, SendOptions) else ()
            forecast = Forecast(file, _client(settings, delivery), resend)
        if ledger is not None and (others := ledger.find_others(options.file)) is not None:
            say(f"Warning: {others}")
        report = options.report if isinstance(options, SendOptions) else None
        check_outputs(options, None if ledger is None else ledger.path, report)
        source.look_for_repeats()
        source.show = options.show if isinstance(options, CheckOptions) else 0
        run = _CheckRun(
            options=options,
            source=source,
            title="Checking",
            labels={Outcome.NOT_SENT: ("valid", "green", valid), **_LABELS},
            max_reasons=_MAX_REASONS,
            forecast=forecast,
        )
        return await run.execute()


def _client(settings: Settings, delivery: Delivery) -> EverlyticClient:
    """Whom the orders would go to: nobody without an account, so that all is known elsewhere."""
    account = settings.find_account() or Account("https://none.invalid", "none", "none")
    return client_for(account, delivery=delivery, allow_http=True)  # nothing is sent


@attrs.define(kw_only=True, eq=False)
class _CheckRun(Run):
    _forecast: Forecast | None

    interrupted = "Interrupted: the rest was not read."
    input_error_code = Exit.USAGE

    async def move(self) -> None:
        words = "nothing was sent: it was only checked"
        async for index, order, outcome, error in compare(self.orders(), self._forecast):
            key = None if order.order_id is None else str(order.order_id)
            self.add(index, outcome, key=key, error=error, note=words)

    def result_name(self, outcome: Outcome) -> str:
        return str(outcome)

    def headline(self) -> str:
        return f"{count_orders(self.tally.total)} read from {self.source.name}"

    def advise(self) -> Iterator[str]:
        if self._forecast is not None:
            yield from (f"Note: {note}" for note in self._forecast.notes())

    def summary(self) -> Iterator[Text | Table | str]:
        for traced in self.source.shown:
            yield as_table(traced, self.source.place, make_console().width)
            yield ""
        yield from super().summary()

    def figures(self, code: int, errors: Sequence[str]) -> dict[str, Any]:
        place = self.source.place
        shown = [as_values(traced, place) for traced in self.source.shown]
        found = super().figures(code, errors)
        return found | {"shown": shown} if shown else found

    def judge(self) -> int:
        return Exit.FAILED if self.tally.counts[Outcome.INVALID] else Exit.OK
