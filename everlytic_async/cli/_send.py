"""``send``: the orders of an input to the endpoint, and what became of each."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import NoReturn
from urllib.parse import urlsplit

import attrs
from rich.text import Text

from everlytic_async import (
    BatchStoppedError,
    Delivery,
    EverlyticClient,
    OrderResult,
    OrderStream,
    Outcome,
    Pacing,
    RetryPolicy,
    SourceError,
)
from everlytic_async.cli._check import examine, no_orders
from everlytic_async.cli._exit import Exit, say
from everlytic_async.cli._input import Input
from everlytic_async.cli._pace import Pace
from everlytic_async.cli._results import Results
from everlytic_async.cli._screen import (
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
from everlytic_async.sandbox import Sandbox

__all__ = ["Options", "send"]

_TICK_S = 0.1


@attrs.frozen(kw_only=True)
class Options:
    """The options of ``send``, as they were given."""

    file: str
    sandbox: bool
    dry_run: bool
    limit: int | None
    concurrency: int
    rate: float | None
    delivery: str
    retries: int
    workflow_id: int | None
    results: str | None
    config: str | None
    allow_http: bool
    progress: bool


def send(options: Options) -> int:
    """Send the orders of a file, show what became of them, and return the exit code.

    Raises:
        ConfigurationError: before anything is sent.
    """
    if options.dry_run:
        return _dry_run(options)
    account = None if options.sandbox else load_account(options.config)
    with _opened(options) as source:
        return asyncio.run(_send(options, account, source))


def _dry_run(options: Options) -> int:
    with _opened(options) as source, Results(options.results, source) as results:
        return examine(
            source,
            results,
            progress=options.progress,
            would_go_to="would be sent; this was a dry run, and nothing was",
        )


@contextmanager
def _opened(options: Options) -> Iterator[Input]:
    with Input(options.file, limit=options.limit, workflow_id=options.workflow_id) as source:
        if source.is_terminal:
            say("Type or paste orders, one JSON object on a line. Ctrl-D ends the input.")
        yield source


async def _send(options: Options, account: Account | None, source: Input) -> int:
    async with AsyncExitStack() as closing:
        closing.callback(source.close)  # while the loop runs: its thread tells the loop things
        sandbox = None
        if account is None:
            sandbox = await closing.enter_async_context(Sandbox(keep=0))
            account = Account(sandbox.base_url, sandbox.store_hash, sandbox.customer_hash)
        pace = Pace()
        client = EverlyticClient(
            account.base_url,
            store_hash=account.store_hash,
            customer_hash=account.customer_hash,
            delivery=Delivery(options.delivery.replace("-", "_")),
            retry=RetryPolicy(attempts=options.retries + 1),
            pacing=Pacing(max_concurrency=options.concurrency, max_rate=options.rate),
            # Nobody else looks at it, and a hook is told of every attempt.
            on_event=pace if options.progress and sys.stderr.isatty() else None,
            allow_http=options.allow_http,
        )
        # Last of all: an earlier file of results is not replaced before everything else is right.
        results = closing.enter_context(Results(options.results, source))
        await closing.enter_async_context(client)
        host = urlsplit(account.base_url.strip()).netloc
        run = _Run(source, results, sandbox, host, pace, progress=options.progress)
        return await run.to_the_end(client.stream_orders(source.orders()))


class _Run:
    """One sending, from the first order to the summary."""

    def __init__(
        self,
        source: Input,
        results: Results,
        sandbox: Sandbox | None,
        host: str,
        pace: Pace,
        *,
        progress: bool,
    ) -> None:
        self._pace = pace
        self._source = source
        self._results = results
        self._sandbox = sandbox
        self._host = f"the sandbox at {host}" if sandbox else host
        self._tally = Tally()
        self._bar = Bar(
            f"Sending to {self._host}",
            good=Outcome.SENT,
            names=("sent", "failed"),
            length_known=source.share_read() is not None,
            wanted=progress,
        )
        self._stream: OrderStream | None = None
        self._signals = Signals(self._drain, self._leave)
        self._began = time.monotonic()

    async def to_the_end(self, stream: OrderStream) -> int:
        """Take every result; return the exit code."""
        ended_early: BatchStoppedError | SourceError | None = None
        self._stream = stream
        self._bar.start()
        try:
            with self._signals.heard(), self._ticking():
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
        line = self._source.settled(result.index)
        self._tally.add(result.outcome, line, result.error, duplicate_risk=result.duplicate_risk)
        written = self._results.write(
            index=result.index,
            line=line,
            key=result.key,
            outcome=result.outcome,
            attempts=result.attempts,
            error=result.error,
            duplicate_risk=result.duplicate_risk,
        )
        assert self._stream is not None  # noqa: S101 - results come from it
        if not written:
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
        for index, line in tuple(self._source.lines.items()):
            why = "the command was left while the order was under way"
            self._tally.add(Outcome.UNKNOWN, line, why)
            self._results.write(
                index=index, line=line, key=None, outcome=Outcome.UNKNOWN, error=why
            )
        self._results.close()
        self._summarise()
        code = self._end(None)
        flush()
        os._exit(code)

    # ------------------------------------------------------------------------------- screen

    @contextmanager
    def _ticking(self) -> Iterator[None]:
        """Keep the bar moving, also while nothing comes."""
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle | None = None

        def tick() -> None:
            nonlocal timer
            self._bar.draw(self._tally, self._source.share_read(), self._pace.note)
            timer = loop.call_later(_TICK_S, tick)

        if self._bar.is_shown:
            tick()
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()

    def _stop_bar(self) -> None:
        self._bar.stop(self._tally, self._source.share_read())

    def _summarise(self) -> None:
        show(screen(stderr=self._results.is_stdout), self._summary())

    def _summary(self) -> Iterator[Text | str]:
        seconds = time.monotonic() - self._began
        total = self._tally.total
        rate = f", {total / seconds:,.0f}/s" if seconds >= 1 else ""
        source, host = self._source.shown, self._host
        yield f"{orders(total)} from {source} to {host} in {seconds:.1f} s{rate}"
        yield from outcome_lines(self._tally)
        yield from reason_lines(self._tally)
        if self._sandbox is not None:
            yield ""
            yield f"The sandbox processed {self._sandbox.processed:,}, and nobody gets an e-mail."
            yield "To send to your own install, leave out --sandbox, and set EVERLYTIC_BASE_URL,"
            yield "EVERLYTIC_STORE_HASH and EVERLYTIC_CUSTOMER_HASH (see send --help)."

    def _end(self, ended_early: BatchStoppedError | SourceError | None) -> int:
        """Say why it ended where that is not plain; return the exit code."""
        source = self._source
        if isinstance(ended_early, SourceError):
            cause = ended_early.__cause__
            if not isinstance(cause, OSError):
                raise ended_early
            say(f"Error: {source.shown} can't be read further: {cause.strerror}")
        elif ended_early is not None:
            say(f"Error: {ended_early}")
        if self._results.fault is not None:
            say(f"Error: {self._results.fault}")
        if not source.ended and source.read:
            say(f"Nothing after line {source.last_line:,} of {source.shown} was read.")
        if self._signals.received is not None:
            return 128 + self._signals.received
        if isinstance(ended_early, SourceError) and not source.read:
            return Exit.USAGE  # as where it could not be opened
        if ended_early is not None or self._results.fault is not None:
            return Exit.FAILED
        if not self._tally.total:
            say(no_orders(source))
        return Exit.OK if self._tally.is_all_well else Exit.FAILED
