"""``send``: the orders of an input to the endpoint, and what became of each."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    contextmanager,
)
from typing import Any, NoReturn

from rich.text import Text

from everlytic_async import (
    BatchStoppedError,
    LedgerError,
    OrderResult,
    OrderStream,
    SkippedError,
    SourceError,
)
from everlytic_async.cli._check import examine, forecast, no_orders, say_never_set
from everlytic_async.cli._exit import Exit, UnexpectedError, OutputError, say
from everlytic_async.cli._forecast import LedgerChoice
from everlytic_async.cli._input import Input, printable
from everlytic_async.cli._next import exit_code, next_steps
from everlytic_async.cli._pace import Pace
from everlytic_async.cli._plan import is_wanted
from everlytic_async.cli._report import Facts, Report, check_report
from everlytic_async.cli._results import Results, check_results
from everlytic_async.cli._screen import (
    LABELS,
    Bar,
    flush,
    count_orders,
    outcome_lines,
    reason_lines,
    make_console,
    print_lines,
)
from everlytic_async.cli._send_options import Options
from everlytic_async.cli._settings import NO_FILE, Account, load_account
from everlytic_async.cli._signals import Signals
from everlytic_async.cli._tally import Tally
from everlytic_async.events import Hook
from everlytic_async.ledger import Durability, SqliteLedger, State
from everlytic_async.sandbox import Sandbox

__all__ = ["send"]


def send(options: Options) -> int:
    """Send the orders of a file, show what became of them, and return the exit code.

    Raises:
        ConfigurationError: before anything is sent.
        LedgerError: before anything is sent.
    """
    options.check()
    ledger = options.choose_ledger()
    if options.dry_run:
        return _dry_run(options, ledger)
    account = None if options.sandbox else load_account(options.config)
    with _opened(options) as source:
        _check_files(options, ledger, source)
        if account is not None:
            client = options.client(account)  # complains, before anybody is asked
            if ledger is not None:
                ledger.check_terminal()
                say(f"Ledger: {ledger.line}")
            if not options.yes and not is_wanted(options, account, client, ledger, source):
                say("Nothing was sent.")
                return Exit.USAGE
        return asyncio.run(_send(options, account, ledger, source))


def _dry_run(options: Options, ledger: LedgerChoice | None) -> int:
    with (
        _opened(options) as source,
        forecast(
            ledger, options.config, delivery=options.delivery_rule, resend=options.resend
        ) as known,
        Results(
            options.results,
            source,
            keep=_files_of(ledger),
            append=options.append_results,
        ) as results,
    ):
        return examine(
            source,
            results,
            progress=options.progress,
            valid="would be sent; this was a dry run, and nothing was",
            known=known,
        )


@contextmanager
def _opened(options: Options) -> Iterator[Input]:
    with Input(
        options.file, options.reading, limit=options.limit, workflow_id=options.workflow_id
    ) as source:
        if source.is_terminal:
            say("Type or paste orders, one JSON object on a line. Ctrl-D ends the input.")
        yield source


def _files_of(ledger: LedgerChoice | None) -> dict[str, str]:
    """The files that belong to a run, besides its input, by their options."""
    return {} if ledger is None else {"--ledger": str(ledger.path)}


def _check_files(options: Options, ledger: LedgerChoice | None, source: Input) -> None:
    """See that the results and the report can be written, before anything is asked or sent."""
    keep = _files_of(ledger)
    check_results(options.results, source, keep=keep, append=options.append_results)
    if options.report is not None:
        check_report(options.report, _kept_by_report(options, ledger))


def _kept_by_report(options: Options, ledger: LedgerChoice | None) -> tuple[str | None, ...]:
    config = None if options.config == NO_FILE else options.config
    return options.file, options.results, config, *_files_of(ledger).values()


async def _send(
    options: Options, account: Account | None, choice: LedgerChoice | None, source: Input
) -> int:
    async with AsyncExitStack() as stack:
        stack.callback(source.close)  # while the loop runs: its thread tells the loop things
        sandbox = None
        if account is None:
            sandbox = await stack.enter_async_context(Sandbox(keep=0))
            account = Account(sandbox.base_url, sandbox.store_hash, sandbox.customer_hash)
        pace = Pace()
        report = _report(options, account, choice, source, sandbox)
        # A hook is told of every attempt: none is given that nobody looks at.
        hooks: list[Hook] = [pace] if options.progress and sys.stderr.isatty() else []
        if report is not None:
            hooks.append(report.hear)
        client = options.client(account, hooks)
        ledger = None
        if choice is not None:
            durability = Durability(options.durability or Durability.PROCESS)
            ledger = SqliteLedger(choice.path, durability=durability)
            await stack.enter_async_context(ledger)
        # Last of all: no file is made before everything else is right.
        results = stack.enter_context(
            Results(options.results, source, keep=_files_of(choice), append=options.append_results)
        )
        await stack.enter_async_context(client)
        run = _Run(
            source, results, sandbox, account.host, pace, options, ledger=choice, report=report
        )
        stream = client.stream_orders(source.orders(), ledger=ledger, resend=options.resent())
        return await run.to_the_end(stream)


def _report(
    options: Options,
    account: Account,
    ledger: LedgerChoice | None,
    source: Input,
    sandbox: Sandbox | None,
) -> Report | None:
    if options.report is None:
        return None
    facts = Facts(
        source=source.shown,
        host=f"the sandbox at {account.host}" if sandbox else account.host,
        workflow_id=options.workflow_id,
        delivery=options.delivery_rule,
        rate=options.rate,
        concurrency=options.concurrency,
        ledger=None if ledger is None else ledger.shown,
        results=options.results,
        sandbox=sandbox is not None,
    )
    return Report(options.report, facts, keep=_kept_by_report(options, ledger))


class _Run:
    """One sending, from the first order to the summary."""

    def __init__(
        self,
        source: Input,
        results: Results,
        sandbox: Sandbox | None,
        host: str,
        pace: Pace,
        options: Options,
        *,
        ledger: LedgerChoice | None,
        report: Report | None,
    ) -> None:
        self._options = options
        self._ledger = ledger
        self._pace = pace
        self._source = source
        self._results = results
        self._report = report
        self._sandbox = sandbox
        self._host = f"the sandbox at {host}" if sandbox else host
        self._tally = Tally()
        # Skipped because the ledger says that they are being sent, by their keys.
        self._in_flight: Counter[str | None] = Counter()
        self._left = False
        self._bar = Bar(
            f"Sending to {self._host}",
            names=LABELS,
            length_known=source.share_read() is not None,
            wanted=options.progress,
        )
        self._stream: OrderStream | None = None
        self._signals = Signals(self._drain, self._leave)
        self._began = time.monotonic()
        self._unshown: OutputError | None = None  # why the summary is not where it should be

    async def to_the_end(self, stream: OrderStream) -> int:
        """Take every result; return the exit code.

        Raises:
            UnexpectedError: for what nobody foresaw, with orders under way.
        """
        try:
            return await self._to_the_end(stream)
        except (BrokenPipeError, LedgerError):
            raise
        except Exception as error:
            if self._sandbox is not None or not self._source.read:
                raise
            raise UnexpectedError(self._what_is_true()) from error

    def _what_is_true(self) -> str:
        """What to do after an error that nobody foresaw: never to send all of it once more."""
        options = self._options
        if self._ledger is not None:
            return (
                f"Orders may have been sent before it, and {self._ledger.shown} knows which: run "
                "it again with the same ledger."
            )
        where = f"of {self._source.shown} may have been sent before it"
        if options.results in (None, "-"):
            return f"Orders {where}: to send all of it again may notify customers twice."
        return (
            f"Orders {where}, and {printable(options.results)} says which: to send all of it again "
            "may notify customers twice."
        )

    async def _to_the_end(self, stream: OrderStream) -> int:
        ended_early: BatchStoppedError | SourceError | None = None
        self._stream = stream
        self._bar.start()
        try:
            with self._signals.heard(), self._moving():
                async with stream:
                    try:
                        async for result in stream:
                            self._take(result)
                    except (BatchStoppedError, SourceError) as error:
                        ended_early = error
        finally:
            self._stop_bar()
        self._results.close()
        self._summarise()
        return self._end(ended_early)

    def _take(self, result: OrderResult) -> None:
        """Tell a result to all that listen."""
        line = self._source.settled(result.index)
        risk = result.duplicate_risk
        self._tally.add(result.outcome, line, result.error, duplicate_risk=risk)
        if isinstance(result.error, SkippedError):
            if result.error.state == State.IN_FLIGHT:
                self._in_flight[result.key] += 1
        elif twins := self._in_flight.pop(result.key, 0):
            # The input names the order twice, and it was this run that was sending it.
            self._tally.resolve_in_flight(twins, result.outcome)
        told: dict[str, Any] = {
            "line": line,
            "key": result.key,
            "outcome": result.outcome,
            "attempts": result.attempts,
            "error": result.error,
            "duplicate_risk": risk,
        }
        if self._report is not None:
            self._report.add(**told)
        assert self._stream is not None  # noqa: S101 - results come from it
        if not self._results.write(index=result.index, **told):
            # Nothing goes out of which no trace can be kept.
            self._stream.stop("the results can't be written")

    # ------------------------------------------------------------------------------ signals

    def _drain(self) -> None:
        assert self._stream is not None  # noqa: S101 - signals are heard once it is there
        self._stream.stop("interrupted")
        self._bar.retitle("Finishing")
        self._bar.say(
            "Interrupted: no more orders are begun; waiting for those in flight. "
            "Again to leave at once."
        )

    def _leave(self) -> NoReturn:
        """End the process now: what is in flight may be processed or not."""
        self._left = True
        self._stop_bar()
        assert self._stream is not None  # noqa: S101 - signals are heard once it is there
        for result in self._stream.unfinished("the command was left"):
            self._take(result)
        self._results.close()
        self._summarise()
        code = self._end(None)
        flush()
        os._exit(code)

    # ------------------------------------------------------------------------------- screen

    def _moving(self) -> AbstractContextManager[None]:
        return self._bar.moving(self._tally, self._share_done, lambda: self._pace.note)

    def _stop_bar(self) -> None:
        self._bar.stop(self._tally, self._share_done())

    def _share_done(self) -> float | None:
        return self._source.share_done(self._tally.total)

    def _summarise(self) -> None:
        lines = list(self._summary())
        try:
            print_lines(make_console(stderr=self._results.is_stdout), lines)
        except OutputError as error:
            self._unshown = error
            if not self._results.is_stdout:
                print_lines(make_console(stderr=True), lines)

    def _summary(self) -> Iterator[Text | str]:
        seconds = time.monotonic() - self._began
        total = self._tally.total
        rate = f", {total / seconds:,.0f}/s" if seconds >= 1 else ""
        source, host = self._source.shown, self._host
        yield f"{count_orders(total)} from {source} to {host} in {seconds:.1f} s{rate}"
        yield from outcome_lines(self._tally, self._source.left_out)
        yield from reason_lines(self._tally, self._source.place)
        if self._sandbox is not None:
            yield ""
            yield f"The sandbox processed {self._sandbox.processed:,}, and nobody gets an e-mail."
            yield "To send to your own install, leave out --sandbox, and set EVERLYTIC_BASE_URL,"
            yield "EVERLYTIC_STORE_HASH and EVERLYTIC_CUSTOMER_HASH (see send --help)."

    def _end(self, ended_early: BatchStoppedError | SourceError | None) -> int:
        """Say why it ended where that is not plain; return the exit code."""
        source = self._source
        say_never_set(source)
        if self._unshown is not None:
            say(f"Error: {self._unshown}. The orders are as the summary above says.")
        if isinstance(ended_early, SourceError):
            fault = source.fault(ended_early.__cause__)
            if fault is None:
                raise ended_early
            say(f"Error: {fault}")
        elif ended_early is not None:
            say(f"Error: {ended_early}")
        if self._results.fault is not None:
            say(f"Error: {self._results.fault}")
        self._finish_report()
        if not source.ended and source.read:
            say(f"Nothing after {source.place} {source.last_line:,} of {source.shown} was read.")
        if source.read and self._sandbox is None:
            for step in next_steps(
                self._tally,
                again=self._options.again(),
                ledger=None if self._ledger is None else self._ledger.shown,
                all_read=source.ended,
                left=self._left,
            ):
                say(step)
        return self._code(ended_early)

    def _finish_report(self) -> None:
        if self._report is None:
            return
        stopped = None if self._stream is None else self._stream.stopped
        self._report.finish(
            stopped,
            time.monotonic() - self._began,
            place=self._source.place,
            left_out=self._source.left_out,
        )
        if self._report.fault is not None:
            say(f"Error: {self._report.fault}")
        else:
            say(f"Report: {printable(str(self._options.report))}")

    def _code(self, ended_early: BatchStoppedError | SourceError | None) -> int:
        source = self._source
        if self._signals.received is not None:
            return 128 + self._signals.received
        if isinstance(ended_early, SourceError) and not source.read:
            return Exit.USAGE  # as where it could not be opened
        faults = [self._results.fault, self._unshown, self._report and self._report.fault]
        # A batch that was stopped with nothing left to send is judged by its orders, as any other.
        if isinstance(ended_early, SourceError) or (ended_early and not source.ended):
            return Exit.FAILED
        if any(faults):
            return Exit.FAILED
        if not self._tally.total:
            say(no_orders(source))
        return exit_code(self._tally)
