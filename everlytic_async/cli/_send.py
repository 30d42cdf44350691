"""``send``: the orders of an input to the endpoint, and what became of each."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, closing, contextmanager
from itertools import islice
from typing import Any, NoReturn
from urllib.parse import urlsplit

import attrs
from rich.text import Text

from everlytic_async import (
    BatchStoppedError,
    ConfigurationError,
    Delivery,
    EverlyticClient,
    LedgerError,
    OrderResult,
    OrderStream,
    Outcome,
    Pacing,
    RetryPolicy,
    SourceError,
)
from everlytic_async.cli._check import examine, no_orders, say_never_set
from everlytic_async.cli._earlier import Earlier
from everlytic_async.cli._exit import Exit, MidwayError, OutputError, say
from everlytic_async.cli._input import Input, Reading, printable
from everlytic_async.cli._pace import Pace
from everlytic_async.cli._plan import MANY, Count, Plan
from everlytic_async.cli._report import Facts, Report
from everlytic_async.cli._results import Results
from everlytic_async.cli._screen import (
    NAMES,
    Bar,
    flush,
    orders,
    outcome_lines,
    reason_lines,
    screen,
    show,
)
from everlytic_async.cli._settings import Account, load_account
from everlytic_async.cli._signals import Signals
from everlytic_async.cli._tally import Tally
from everlytic_async.events import Hook
from everlytic_async.ledger import Durability, SqliteLedger, State
from everlytic_async.sandbox import Sandbox

__all__ = ["Options", "send"]


@attrs.frozen(kw_only=True)
class Options:
    """The options of ``send``, as they were given."""

    file: str
    reading: Reading
    sandbox: bool
    dry_run: bool
    limit: int | None
    concurrency: int
    rate: float | None
    delivery: str
    retries: int
    workflow_id: int | None
    results: str | None
    report: str | None
    ledger: str | None
    resend: tuple[str, ...]
    durability: str | None
    only: str | None
    from_results: str | None
    config: str | None
    allow_http: bool
    yes: bool
    progress: bool

    def check(self) -> None:
        """See that they make sense together.

        Raises:
            ConfigurationError: when they don't.
        """
        if (self.only is None) != (self.from_results is None):
            raise ConfigurationError("--only and --from-results go together")
        if self.resend and self.ledger is None and self.only is None:
            raise ConfigurationError(
                "--resend is about what a ledger, or an earlier run's results, say of an order: "
                "give --ledger, or --only failed --from-results"
            )
        if self.durability is not None and self.ledger is None:
            raise ConfigurationError("--durability is about the ledger: give --ledger")
        if self.ledger is not None and self.sandbox:
            raise ConfigurationError(
                "--sandbox is a stand-in that ends with this run: a ledger would remember orders "
                "that nobody got. To try a ledger, run `everlytic-async sandbox` in another "
                "terminal"
            )


def send(options: Options) -> int:
    """Send the orders of a file, show what became of them, and return the exit code.

    Raises:
        ConfigurationError: before anything is sent.
        LedgerError: before anything is sent.
    """
    options.check()
    if options.dry_run:
        return _dry_run(options)
    account = None if options.sandbox else load_account(options.config)
    with _opened(options) as source:
        if account is not None:
            _client(options, account, ())  # complains, before anybody is asked
        if not _is_wanted(options, account, source):
            say("Nothing was sent.")
            return Exit.USAGE
        return asyncio.run(_send(options, account, source))


def _dry_run(options: Options) -> int:
    with _opened(options) as source:
        _only_some(options, source)
        with Results(options.results, source, keep=_files_of(options)) as results:
            return examine(
                source,
                results,
                progress=options.progress,
                would_go_to="would be sent; this was a dry run, and nothing was"
                + ("" if options.ledger is None else " (nor was the ledger asked)"),
            )


@contextmanager
def _opened(options: Options) -> Iterator[Input]:
    with Input(
        options.file, options.reading, limit=options.limit, workflow_id=options.workflow_id
    ) as source:
        if source.is_terminal:
            say("Type or paste orders, one JSON object on a line. Ctrl-D ends the input.")
        yield source


def _files_of(options: Options) -> dict[str, str]:
    """The files that belong to a run, besides its input, by their options."""
    files = {"--from-results": options.from_results, "--ledger": options.ledger}
    return {option: name for option, name in files.items() if name is not None}


def _is_wanted(options: Options, account: Account | None, source: Input) -> bool:
    """Show what is about to be done and ask, where that makes sense."""
    count = _only_some(options, source)
    if account is None or options.yes or not sys.stderr.isatty() or source.is_terminal:
        return True
    if count is None and source.can_be_read_twice and (source.limit or MANY + 1) > MANY:
        with closing(source.ahead()) as ahead:
            first = (order for _line, order in islice(ahead, source.limit))
            count = Count().of(first, source, progress=options.progress)
    plan = Plan(
        source=source.shown,
        host=_host(account),
        count=count,
        limit=options.limit,
        workflow_id=options.workflow_id,
        rate=options.rate,
        concurrency=options.concurrency,
        ledger=options.ledger,
        results=options.results,
    )
    return not plan.is_large or plan.confirmed()


def _only_some(options: Options, source: Input) -> Count | None:
    """Have the input leave out what is not to be sent again, and count the rest of it."""
    if options.from_results is None:
        return None
    if not source.can_be_read_twice:
        raise ConfigurationError(
            f"--from-results reads the orders twice, to see that they belong together: "
            f"{source.shown} can't be. Save the orders to a file first"
        )
    earlier = Earlier(options.from_results, unknown_again="unknown" in options.resend)
    count = Count().of(earlier.check(source), source, progress=options.progress)
    source.wanted = earlier.wants
    left = [f"{earlier.counts[outcome]:,} {NAMES[outcome]}" for outcome in NAMES]
    left = [text for text in left if not text.startswith("0 ")]
    if earlier.without:
        left.append(f"{earlier.without:,} without a result")
    say(
        f"{orders(count.orders + count.invalid)} of {source.shown} failed in {earlier.shown}, and "
        f"may be sent again; left alone: {', '.join(left) or 'none'}."
    )
    return count


def _host(account: Account) -> str:
    host: str = urlsplit(account.base_url.strip()).netloc
    return host


def _client(options: Options, account: Account, hooks: Sequence[Hook]) -> EverlyticClient:
    return EverlyticClient(
        account.base_url,
        store_hash=account.store_hash,
        customer_hash=account.customer_hash,
        delivery=Delivery(options.delivery.replace("-", "_")),
        retry=RetryPolicy(attempts=options.retries + 1),
        pacing=Pacing(max_concurrency=options.concurrency, max_rate=options.rate),
        on_event=hooks,
        allow_http=options.allow_http,
    )


async def _send(options: Options, account: Account | None, source: Input) -> int:
    async with AsyncExitStack() as stack:
        stack.callback(source.close)  # while the loop runs: its thread tells the loop things
        sandbox = None
        if account is None:
            sandbox = await stack.enter_async_context(Sandbox(keep=0))
            account = Account(sandbox.base_url, sandbox.store_hash, sandbox.customer_hash)
        pace = Pace()
        report = _report(options, account, source, sandbox)
        # A hook is told of every attempt: none is given that nobody looks at.
        hooks: list[Hook] = [pace] if options.progress and sys.stderr.isatty() else []
        if report is not None:
            hooks.append(report.hear)
        client = _client(options, account, hooks)
        ledger = None
        if options.ledger is not None:
            durability = Durability(options.durability or Durability.PROCESS)
            ledger = SqliteLedger(options.ledger, durability=durability)
            await stack.enter_async_context(ledger)
        # Last of all: an earlier file of results is not replaced before everything else is right.
        results = stack.enter_context(Results(options.results, source, keep=_files_of(options)))
        await stack.enter_async_context(client)
        run = _Run(source, results, sandbox, _host(account), pace, options, report=report)
        stream = client.stream_orders(
            source.orders(),
            ledger=ledger,
            resend=() if ledger is None else [Outcome(name) for name in options.resend],
        )
        return await run.to_the_end(stream)


def _report(
    options: Options, account: Account, source: Input, sandbox: Sandbox | None
) -> Report | None:
    if options.report is None:
        return None
    facts = Facts(
        source=source.shown,
        host=f"the sandbox at {_host(account)}" if sandbox else _host(account),
        workflow_id=options.workflow_id,
        delivery=Delivery(options.delivery.replace("-", "_")),
        rate=options.rate,
        concurrency=options.concurrency,
        ledger=options.ledger,
        results=options.results,
        sandbox=sandbox is not None,
    )
    files = options.file, options.results, options.config, *_files_of(options).values()
    return Report(options.report, facts, keep=files)


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
        report: Report | None,
    ) -> None:
        self._options = options
        self._pace = pace
        self._source = source
        self._results = results
        self._report = report
        self._sandbox = sandbox
        self._host = f"the sandbox at {host}" if sandbox else host
        self._tally = Tally()
        self._bar = Bar(
            f"Sending to {self._host}",
            names=NAMES,
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
            MidwayError: for what nobody foresaw, with orders under way.
        """
        try:
            return await self._to_the_end(stream)
        except (BrokenPipeError, LedgerError):
            raise
        except Exception as error:
            if self._sandbox is not None or not self._source.read:
                raise
            raise MidwayError(self._what_is_true()) from error

    def _what_is_true(self) -> str:
        """What to do after an error that nobody foresaw: never to send all of it once more."""
        options = self._options
        if options.ledger is not None:
            return (
                f"Orders may have been sent before it, and {printable(options.ledger)} knows which:"
                " run it again with the same ledger."
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
            show(screen(stderr=self._results.is_stdout), lines)
        except OutputError as error:
            self._unshown = error
            if not self._results.is_stdout:
                show(screen(stderr=True), lines)

    def _summary(self) -> Iterator[Text | str]:
        seconds = time.monotonic() - self._began
        total = self._tally.total
        rate = f", {total / seconds:,.0f}/s" if seconds >= 1 else ""
        source, host = self._source.shown, self._host
        yield f"{orders(total)} from {source} to {host} in {seconds:.1f} s{rate}"
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
        code = self._code(ended_early)
        if source.read:
            for hint in self._hints(code):
                say(hint)
        return code

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
        if ended_early is not None or any(faults):
            return Exit.FAILED
        if not self._tally.total:
            say(no_orders(source))
        return Exit.OK if self._tally.is_all_well else Exit.FAILED

    def _hints(self, code: int) -> Iterator[str]:
        """What to do next, where a ledger knows what is left to do."""
        if self._options.ledger is None:
            return
        ledger = printable(self._options.ledger)
        counts = self._tally.counts
        if code != Exit.OK and (counts[Outcome.NOT_SENT] or not self._source.ended):
            yield "To take up the rest, run it again with the same ledger."
        elif counts[Outcome.INVALID] or counts[Outcome.REJECTED]:
            yield "Once they are mended, run it again with the same ledger: it sends only those."
        if counts[Outcome.UNKNOWN] or self._tally.skipped[State.UNKNOWN]:
            yield f"Some are unknown: everlytic-async ledger export --state unknown {ledger}"
