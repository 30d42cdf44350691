"""``send``: the orders of an input to the endpoint, and what became of each."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack

import attrs
from rich.table import Table
from rich.text import Text

from everlytic_async import (
    BatchStoppedError,
    InvalidOrderError,
    LedgerError,
    Order,
    OrderResult,
    OrderStream,
    Product,
    SourceError,
)
from everlytic_async.cli._check import examine
from everlytic_async.cli._client import get_delivery, make_client
from everlytic_async.cli._commands import SendOptions
from everlytic_async.cli._console import file_name
from everlytic_async.cli._exit import Exit, UnexpectedError, note, say
from everlytic_async.cli._forecast import LedgerChoice, choose_ledger
from everlytic_async.cli._input import Input, open_input
from everlytic_async.cli._next import advise
from everlytic_async.cli._plan import confirm
from everlytic_async.cli._progress_bar import PacingStatus
from everlytic_async.cli._report import Report, load_libraries
from everlytic_async.cli._results import check_outputs
from everlytic_async.cli._run import Run
from everlytic_async.cli._settings import READING_TABLES, Account, Settings
from everlytic_async.errors import ConfigurationError
from everlytic_async.events import Hook
from everlytic_async.ledger import Durability, SqliteLedger
from everlytic_async.outcomes import Outcome
from everlytic_async.sandbox import Sandbox

# How many orders ``--to`` sends, where ``--limit`` does not say it.
_TRIAL_LIMIT = 3


def send(options: SendOptions) -> int:
    """Send the orders of a file, show what became of them, and return the exit code."""
    account_tables = () if options.sandbox else ("everlytic",)
    settings = Settings(options.config, *account_tables, *READING_TABLES)
    _check_together(options)
    if options.report is not None:
        load_libraries()
    has_ledger = not options.sandbox and options.to is None
    ledger = choose_ledger(options, settings) if has_ledger else None
    if options.dry_run:
        valid = "would be sent; this was a dry run, and nothing was"
        return asyncio.run(examine(options, settings, ledger, valid, get_delivery(options)))
    account = None if options.sandbox else settings.account()
    source = None
    try:
        with open_input(options, settings) as source:
            return _send_input(options, account, ledger, source)
    except KeyboardInterrupt as error:
        if source is None or not source.read_count:
            raise KeyboardInterrupt("Nothing was sent.") from error
        raise


def _send_input(
    options: SendOptions, account: Account | None, ledger: LedgerChoice | None, source: Input
) -> int:
    if options.to is not None:
        source.send_to, source.limit = options.to, options.limit or _TRIAL_LIMIT
    source.look_for_repeats(leave_out=ledger is None)
    check_outputs(options, None if ledger is None else ledger.path, options.report)
    if account is not None:
        client = make_client(options, account)  # raises, before anybody is asked
        if ledger is not None:
            ledger.check_default(options.file)
            note(f"Ledger: {ledger.line}")
        if not confirm(options, account, client, ledger, source):
            note("Nothing was sent.")
            return Exit.USAGE
    return asyncio.run(_send(options, account, ledger, source))


def _check_together(options: SendOptions) -> None:
    declined = {
        "--no-ledger": options.no_ledger,
        "--sandbox": options.sandbox,
        "--to": options.to is not None,
    }
    wanted = {
        "--ledger": options.ledger,
        "--resend": options.resend,
        "--durability": options.durability,
    }
    for name in (name for name, value in wanted.items() if value):
        for other in (other for other, is_set in declined.items() if is_set):
            raise ConfigurationError(
                f"{name} and {other} contradict each other: {other} sends without a ledger. "
                "Leave out one of the two"
            )
    if options.to is not None:
        try:
            Order(contact_email=options.to, products=[Product(product_name="any")])
        except InvalidOrderError as error:
            raise ConfigurationError(f"--to: {error}") from None


async def _send(
    options: SendOptions, account: Account | None, choice: LedgerChoice | None, source: Input
) -> int:
    async with AsyncExitStack() as stack:
        stack.callback(source.close)  # while the loop runs: the reader thread uses it
        sandbox = None
        if account is None:
            sandbox = await stack.enter_async_context(Sandbox(keep=0))
            account = Account(sandbox.base_url, sandbox.store_hash, sandbox.customer_hash)
        host = f"the sandbox at {account.host}" if sandbox else account.host
        pacing = PacingStatus()
        # A hook costs time for each attempt: only those that somebody looks at.
        hooks: list[Hook] = [pacing] if options.progress and sys.stderr.isatty() else []
        report = None
        if options.report is not None:
            report = Report(options, host, None if choice is None else choice.shown)
            hooks.append(report.on_event)
        client = make_client(options, account, hooks)
        ledger = None
        if choice is not None:
            durability = Durability(options.durability or Durability.PROCESS)
            ledger = SqliteLedger(choice.path, durability=durability)
            await stack.enter_async_context(ledger)
        await stack.enter_async_context(client)
        stream = client.stream_orders(
            source.orders(), ledger=ledger, resend=[Outcome(name) for name in options.resend]
        )
        run = _SendRun(
            options=options,
            source=source,
            title=f"Sending to {host}",
            destination=host,
            stream=stream,
            pacing=pacing,
            ledger=None if choice is None else choice.shown,
            report=report,
            sandbox=sandbox,
        )
        try:
            return await run.execute()
        except LedgerError:
            raise
        except Exception as error:
            if run.is_trial or not source.read_count:
                raise
            advice = _recovery_advice(source, run.ledger, options.results)
            raise UnexpectedError(advice) from error


def _recovery_advice(source: Input, ledger: str | None, results: str | None) -> str:
    """What to do after an unforeseen error: never to send everything once more."""
    if ledger is not None:
        return (
            f"Some orders may have been sent. Run it again with the same ledger ({ledger}): it "
            "knows which."
        )
    which = "" if results in (None, "-") else f", and {file_name(str(results))} says which"
    return (
        f"Orders of {source.name} may have been sent before it{which}: sending all of it again may "
        "notify customers twice."
    )


@attrs.define(kw_only=True, eq=False)
class _SendRun(Run):
    options: SendOptions
    _stream: OrderStream
    _pacing: PacingStatus
    ledger: str | None
    _report: Report | None
    _sandbox: Sandbox | None
    _report_fault: str | None = attrs.field(default=None, init=False)

    @property
    def is_trial(self) -> bool:
        """No customer gets an e-mail."""
        return self._sandbox is not None or self.options.to is not None

    async def move(self) -> None:
        async with self._stream as stream:
            try:
                async for result in stream:
                    self._on_result(result)
            except SourceError as error:
                self.input_error = error.__cause__ or error
            except BatchStoppedError as error:
                self.error = str(error)

    def _on_result(self, result: OrderResult) -> None:
        if getattr(result.error, "before_any_acceptance", False):
            # As in the ledger: the next run sends it.
            result = attrs.evolve(result, outcome=Outcome.NOT_SENT)
        self.add(
            result.index,
            result.outcome,
            key=result.key,
            attempts=result.attempts,
            error=result.error,
            duplicate_risk=result.duplicate_risk,
        )
        if self._report is not None:
            self._report.add(result)

    def stop(self, reason: str) -> None:
        self._stream.stop(reason)

    def abandon(self) -> None:
        for result in self._stream.unfinished("the command was ended"):
            self._on_result(result)

    def note(self) -> str:
        return self._pacing.text

    def summary(self) -> Iterator[Text | Table | str]:
        yield from super().summary()
        if self.options.to is not None:
            yield ""
            yield (
                f"Orders went to {self.options.to}, in place of the customers', and the ledger "
                "knows nothing of it. If the e-mails are right, leave out --to and --limit."
            )
        if self._sandbox is not None:
            yield ""
            yield f"The sandbox processed {self._sandbox.processed:,}, and nobody gets an e-mail."
            yield (
                "To send to your own install, leave out --sandbox, and set EVERLYTIC_BASE_URL, "
                "EVERLYTIC_STORE_HASH and EVERLYTIC_CUSTOMER_HASH (see send --help)."
            )

    def advise(self) -> Iterator[str]:
        steps: list[str] = []
        if self.source.read_count and not self.is_trial:
            steps += advise(
                self.tally,
                self.options,
                ledger=self.ledger,
                all_read=self.source.exhausted,
                is_damaged=self.is_input_damaged,
            )
        if self._report is not None:
            self._report_fault = self._report.finish(
                self.tally,
                steps,
                stopped=self._stream.stopped,
                elapsed_s=self.elapsed_s,
                place=self.source.place,
                filtered=self.source.filtered,
                warnings=list(self.warn()),
            )
            if self._report_fault is None:
                note(f"Report: {file_name(str(self.options.report))}")
            else:
                say(f"Error: {self._report_fault}")
        yield from steps

    def judge(self) -> int:
        # A batch that was stopped with nothing left to send is judged by its orders.
        stopped = self.error is not None and not self.source.exhausted
        return Exit.FAILED if stopped or self._report_fault else self.tally.exit_code
