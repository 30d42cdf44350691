"""``send``: the orders of an input to the endpoint, and what became of each."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import NoReturn

import click
from rich.text import Text

from everlytic_async import (
    BatchStoppedError,
    LedgerError,
    OrderResult,
    OrderStream,
    SkippedError,
    SourceError,
)
from everlytic_async.cli._check import examine, forecast
from everlytic_async.cli._client import get_delivery, make_client
from everlytic_async.cli._commands import SendOptions
from everlytic_async.cli._exit import Exit, UnexpectedError, say
from everlytic_async.cli._forecast import LedgerChoice, choose_ledger
from everlytic_async.cli._input import Input, open_input, printable
from everlytic_async.cli._next import advise, exit_code
from everlytic_async.cli._options import command_line
from everlytic_async.cli._pace import PacingStatus
from everlytic_async.cli._plan import confirm
from everlytic_async.cli._report import Report, check_report
from everlytic_async.cli._results import Results, check_results
from everlytic_async.cli._run import Run
from everlytic_async.cli._screen import SEND_LABELS, flush
from everlytic_async.cli._settings import NO_FILE, Account, announce, load_account
from everlytic_async.errors import ConfigurationError
from everlytic_async.events import Hook
from everlytic_async.ledger import Durability, SqliteLedger, State
from everlytic_async.outcomes import Outcome
from everlytic_async.sandbox import Sandbox

__all__ = ["send"]


def send(options: SendOptions) -> int:
    """Send the orders of a file, show what became of them, and return the exit code.

    Raises:
        ConfigurationError, LedgerError: before anything is sent.
    """
    announce(options.config, *(() if options.sandbox else ("everlytic",)), "mapping")
    _check_together(options)
    ledger = None if options.sandbox else choose_ledger(options, options.config)
    if options.dry_run:
        return _dry_run(options, ledger)
    account = None if options.sandbox else load_account(options.config)
    with open_input(options, limit=options.limit, workflow_id=options.workflow_id) as source:
        _check_files(options, ledger, source)
        if account is not None:
            client = make_client(options, account)  # raises, before anybody is asked
            if ledger is not None:
                ledger.check_terminal()
                say(f"Ledger: {ledger.line}")
            if not options.yes and not confirm(options, account, client, ledger, source):
                say("Nothing was sent.")
                return Exit.USAGE
        return asyncio.run(_send(options, account, ledger, source))


def _check_together(options: SendOptions) -> None:
    if options.ledger is not None and options.sandbox:
        raise ConfigurationError(
            "--sandbox is a stand-in that ends with this run: a ledger would remember orders "
            "that nobody got. To try a ledger, run `everlytic-async sandbox` in another terminal"
        )
    if options.no_ledger or options.sandbox:
        without = "--no-ledger" if options.no_ledger else "--sandbox"
        for name, value in (("--resend", options.resend), ("--durability", options.durability)):
            if value:
                raise ConfigurationError(f"{name} needs a ledger: leave out {without}")


def _dry_run(options: SendOptions, ledger: LedgerChoice | None) -> int:
    with (
        open_input(options, limit=options.limit, workflow_id=options.workflow_id) as source,
        forecast(
            ledger, options.config, delivery=get_delivery(options), resend=options.resend
        ) as known,
        Results(options, source, keep=_ledger_file(ledger)) as results,
    ):
        return examine(
            source,
            results,
            progress=options.progress,
            valid="would be sent; this was a dry run, and nothing was",
            known=known,
        )


def _ledger_file(ledger: LedgerChoice | None) -> dict[str, str]:
    return {} if ledger is None else {"--ledger": str(ledger.path)}


def _check_files(options: SendOptions, ledger: LedgerChoice | None, source: Input) -> None:
    """Check that results and report can be written, before anything is asked or sent."""
    check_results(options, source, keep=_ledger_file(ledger))
    if options.report is not None:
        check_report(options.report, _run_files(options, ledger))


def _run_files(options: SendOptions, ledger: LedgerChoice | None) -> list[str | None]:
    config = None if options.config == NO_FILE else options.config
    return [options.file, options.results, config, *_ledger_file(ledger).values()]


async def _send(
    options: SendOptions, account: Account | None, choice: LedgerChoice | None, source: Input
) -> int:
    async with AsyncExitStack() as stack:
        stack.callback(source.close)  # while the loop runs: the reader thread calls it
        sandbox = None
        if account is None:
            sandbox = await stack.enter_async_context(Sandbox(keep=0))
            account = Account(sandbox.base_url, sandbox.store_hash, sandbox.customer_hash)
        host = f"the sandbox at {account.host}" if sandbox else account.host
        pacing = PacingStatus()
        report = None
        # A hook costs time for each attempt: only those that somebody looks at.
        hooks: list[Hook] = [pacing] if options.progress and sys.stderr.isatty() else []
        if options.report is not None:
            shown = None if choice is None else choice.shown
            report = Report(options, host, shown, keep=_run_files(options, choice))
            hooks.append(report.on_event)
        client = make_client(options, account, hooks)
        ledger = None
        if choice is not None:
            durability = Durability(options.durability or Durability.PROCESS)
            ledger = SqliteLedger(choice.path, durability=durability)
            await stack.enter_async_context(ledger)
        # Last: no file is created before everything else is right.
        results = stack.enter_context(Results(options, source, keep=_ledger_file(choice)))
        await stack.enter_async_context(client)
        stream = client.stream_orders(
            source.orders(), ledger=ledger, resend=[Outcome(name) for name in options.resend]
        )
        run = _SendRun(
            options,
            source,
            results,
            stream,
            host=host,
            pacing=pacing,
            ledger=choice,
            report=report,
            sandbox=sandbox,
        )
        return await run.execute()


class _SendRun(Run):
    """Sends the orders through a stream of results."""

    def __init__(
        self,
        options: SendOptions,
        source: Input,
        results: Results,
        stream: OrderStream,
        *,
        host: str,
        pacing: PacingStatus,
        ledger: LedgerChoice | None,
        report: Report | None,
        sandbox: Sandbox | None,
    ) -> None:
        super().__init__(
            source,
            results,
            title=f"Sending to {host}",
            destination=host,
            labels=SEND_LABELS,
            progress=options.progress,
        )
        self._options = options
        self._stream = stream
        self._pacing = pacing
        self._ledger = ledger
        self._report = report
        self._sandbox = sandbox
        self._words = command_line(click.get_current_context())
        # Skipped because the ledger says that they are being sent, by their keys.
        self._in_flight: Counter[str | None] = Counter()
        self._forced = False

    async def execute(self) -> int:
        """Send every order; return the exit code.

        Raises:
            UnexpectedError: for an unforeseen error, after orders may have been sent.
        """
        try:
            return await super().execute()
        except (BrokenPipeError, LedgerError):
            raise
        except Exception as error:
            if self._sandbox is not None or not self.source.read_count:
                raise
            raise UnexpectedError(self._recovery_advice()) from error

    def _recovery_advice(self) -> str:
        """What to do after an unforeseen error: never to send everything once more."""
        if self._ledger is not None:
            return (
                f"Some orders may have been sent. Run it again with the same ledger "
                f"({self._ledger.shown}): it knows which."
            )
        results = self._options.results
        which = "" if results in (None, "-") else f", and {printable(results)} says which"
        return (
            f"Orders of {self.source.name} may have been sent before it{which}: sending all of it "
            "again may notify customers twice."
        )

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
        line = self.add(
            result.index,
            result.outcome,
            key=result.key,
            attempts=result.attempts,
            error=result.error,
            duplicate_risk=result.duplicate_risk,
        )
        if self._report is not None:
            self._report.add(result, line)
        if isinstance(result.error, SkippedError):
            if result.error.state == State.IN_FLIGHT:
                self._in_flight[result.key] += 1
        elif duplicates := self._in_flight.pop(result.key, 0):
            # The input names the order twice, and this run was sending it.
            self.tally.resolve_in_flight(duplicates, result.outcome)

    def stop(self, reason: str) -> None:
        self._stream.stop(reason)

    def exit_now(self) -> NoReturn:
        self._forced = True
        for result in self._stream.unfinished("the command was ended"):
            self._on_result(result)
        code = self.finish()
        flush()
        os._exit(code)

    def note(self) -> str:
        return self._pacing.text

    def summary(self) -> Iterator[Text | str]:
        yield from super().summary()
        if self._sandbox is not None:
            yield ""
            yield f"The sandbox processed {self._sandbox.processed:,}, and nobody gets an e-mail."
            yield "To send to your own install, leave out --sandbox, and set EVERLYTIC_BASE_URL,"
            yield "EVERLYTIC_STORE_HASH and EVERLYTIC_CUSTOMER_HASH (see send --help)."

    def advise(self) -> Iterator[str]:
        if self._report is not None:
            self._report.finish(
                self._stream.stopped,
                self.elapsed_s,
                place=self.source.place,
                filtered=self.source.filtered,
            )
            if self._report.fault is not None:
                yield f"Error: {self._report.fault}"
            else:
                yield f"Report: {printable(str(self._options.report))}"
        if self.source.read_count and self._sandbox is None:
            yield from advise(
                self.tally,
                self._options,
                self._words,
                ledger=None if self._ledger is None else self._ledger.shown,
                all_read=self.source.exhausted,
                forced=self._forced,
            )

    def judge(self) -> int:
        # A batch that was stopped with nothing left to send is judged by its orders.
        stopped = self.error is not None and not self.source.exhausted
        if stopped or (self._report is not None and self._report.fault is not None):
            return Exit.FAILED
        return exit_code(self.tally)
