"""``enqueue``: the orders of an input into the queue, and what became of each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager, AsyncExitStack
from typing import Any

import attrs
from rich.text import Text

from everlytic_async.cli._check import no_orders, say_never_set
from everlytic_async.cli._exit import Exit, say
from everlytic_async.cli._input import Input, Item, Reading
from everlytic_async.cli._nats import load_nats, load_queue, nats_arguments
from everlytic_async.cli._results import Results
from everlytic_async.cli._screen import Bar, orders, outcome_lines, reason_lines, screen, show
from everlytic_async.cli._settings import the_store
from everlytic_async.cli._signals import Signals
from everlytic_async.cli._tally import Tally
from everlytic_async.errors import (
    ConfigurationError,
    EverlyticError,
    InvalidOrderError,
    QueueError,
    SourceError,
)
from everlytic_async.outcomes import Outcome
from everlytic_async.worker import OrderQueue, Published

__all__ = ["Options", "enqueue"]

#: What becomes of an order here, by the outcome that it is counted as: what it is called, how it
#: is shown, and what it means for whoever has to act on it.
_SAID_AS: Mapping[Outcome, tuple[str, str, str]] = {
    Outcome.SENT: ("queued", "green", "stored, for a worker to send"),
    Outcome.SKIPPED: ("known", "cyan", "the queue knew them already: not stored again"),
    Outcome.INVALID: (
        "invalid",
        "yellow",
        "not valid, so not queued: mend them, then run it again",
    ),
    Outcome.NOT_SENT: ("not queued", "red", "not acknowledged by the queue: run it again"),
}
_NAMES = {outcome: name for outcome, (name, _style, _meaning) in _SAID_AS.items()}


@attrs.frozen(kw_only=True)
class Options:
    """The options of ``enqueue``, as they were given."""

    file: str
    reading: Reading
    nats: Mapping[str, Any]
    store: str | None
    limit: int | None
    workflow_id: int | None
    results: str | None
    append_results: bool
    config: str | None
    progress: bool


def enqueue(options: Options) -> int:
    """Put the orders of a file into the queue, show what became of them; return the exit code.

    Raises:
        ConfigurationError: before anything is queued.
        QueueError: before anything is queued: the queue can't be reached.
    """
    settings = load_queue(options.config, the_store(options.config, options.store))
    nats = load_nats(options.config, options.nats)
    with Input(
        options.file, options.reading, limit=options.limit, workflow_id=options.workflow_id
    ) as source:
        if source.is_terminal:
            say("Type or paste orders, one JSON object on a line. Ctrl-D ends the input.")

        left: int | None = None

        async def run() -> int:
            nonlocal left
            async with AsyncExitStack() as stack:
                stack.callback(
                    source.close
                )  # while the loop runs: its thread tells the loop things
                where = await stack.enter_async_context(nats_arguments(nats))
                queue = await stack.enter_async_context(OrderQueue(settings=settings, **where))
                results = stack.enter_context(
                    Results(options.results, source, append=options.append_results)
                )
                running = _Run(source, results, queue, options)
                try:
                    return await running.to_the_end()
                finally:
                    left = running.left

        try:
            return asyncio.run(run())
        except asyncio.CancelledError:
            if left is None:
                raise
            return left


class _Run:
    """One enqueueing, from the first order to the summary.

    Attributes:
        left: The exit code, where it was left at once by a second signal.
    """

    def __init__(
        self, source: Input, results: Results, queue: OrderQueue, options: Options
    ) -> None:
        self._source = source
        self._results = results
        self._queue = queue
        self._store = queue.settings.store
        self._tally = Tally()
        self._bar = Bar(
            f"Queueing for {self._store}",
            names=_NAMES,
            length_known=source.share_read() is not None,
            wanted=options.progress,
        )
        self._stopped = asyncio.Event()
        self._leaving = False
        self._signals = Signals(self._drain, self._leave)
        self._began = time.monotonic()
        self._task = asyncio.current_task()
        self._fault: Exception | None = None  # why the reading ended early
        self._refusal: QueueError | None = None
        self.left: int | None = None

    async def to_the_end(self) -> int:
        """Queue every order, and tell what became of them; return the exit code."""
        self._bar.start()
        try:
            with self._signals.heard(), self._moving():
                await self._publish()
        except asyncio.CancelledError:
            if self._leaving:
                # To queue the same again is safe.
                for index, line in tuple(self._source.lines.items()):
                    self._tell(
                        index, line, Outcome.NOT_SENT, error="the command was left meanwhile"
                    )
                self.left = self._end()
            raise
        except BaseException:
            self._bar.stop(self._tally, self._share_done())
            raise
        return self._end()

    async def _publish(self) -> None:
        published = self._queue.publish_many(self._orders())
        try:
            async for each in published:
                self._take(each)
        except QueueError as error:
            self._refusal = error
        finally:
            await published.aclose()

    async def _orders(self) -> AsyncIterator[Item]:
        """The orders until told to stop; what the reading ends with is kept, not raised."""
        try:
            found = self._source.orders()
            if isinstance(found, Iterator):
                for order in found:
                    yield order
                    if self._stopped.is_set():
                        return
            else:
                async for order in _until(self._stopped, found):
                    yield order
        except (OSError, ConfigurationError, SourceError) as error:
            self._fault = error

    def _take(self, each: Published) -> None:
        line = self._source.settled(each.index)
        match each.error:
            case None:
                outcome = Outcome.SENT if each.stored else Outcome.SKIPPED
            case InvalidOrderError():
                outcome = Outcome.INVALID
            case _:
                outcome = Outcome.NOT_SENT
        self._tell(each.index, line, outcome, key=each.key, error=each.error)

    def _tell(
        self,
        index: int,
        line: int,
        outcome: Outcome,
        *,
        key: str | None = None,
        error: EverlyticError | str | None = None,
    ) -> None:
        self._tally.add(outcome, line, error)
        told = self._results.write(
            index=index,
            line=line,
            key=key,
            outcome=_NAMES[outcome].replace(" ", "_"),
            error=error,
        )
        if not told:
            self._stopped.set()  # nothing goes out of which no trace can be kept

    # ------------------------------------------------------------------------------ signals

    def _drain(self) -> None:
        self._stopped.set()
        self._bar.retitle("Finishing")
        self._bar.say("Interrupted: no more orders are read. Again to leave at once.")

    def _leave(self) -> None:
        self._leaving = True
        if self._task is not None:
            self._task.cancel()

    # ------------------------------------------------------------------------------- screen

    def _moving(self) -> AbstractContextManager[None]:
        def note() -> str:
            return "" if self._queue.connected else "waits for the NATS server"

        return self._bar.moving(self._tally, self._share_done, note)

    def _share_done(self) -> float | None:
        return self._source.share_done(self._tally.total)

    def _summary(self) -> Iterator[Text | str]:
        seconds = time.monotonic() - self._began
        total = self._tally.total
        rate = f", {total / seconds:,.0f}/s" if seconds >= 1 else ""
        yield (
            f"{orders(total)} from {self._source.shown} to the queue of {self._store} in "
            f"{seconds:.1f} s{rate}"
        )
        yield from outcome_lines(self._tally, self._source.left_out, said_as=_SAID_AS)
        yield from reason_lines(self._tally, self._source.place, _NAMES)

    def _end(self) -> int:
        """Show the summary, and why it ended where that is not plain; return the exit code."""
        source = self._source
        self._bar.stop(self._tally, self._share_done())
        self._results.close()
        show(screen(stderr=self._results.is_stdout), self._summary())
        say_never_set(source)
        fault = None if self._fault is None else source.fault(self._fault)
        for told in (fault, self._refusal, self._results.fault):
            if told is not None:
                say(f"Error: {told}")
        if not source.ended and source.read:
            say(f"Nothing after {source.place} {source.last_line:,} of {source.shown} was read.")
        code = self._code()
        if code != Exit.OK and source.read and not self._tally.counts[Outcome.INVALID]:
            say("Run it again to queue the rest: what the queue has, it does not take twice.")
        return code

    def _code(self) -> int:
        if self._signals.received is not None:
            return 128 + self._signals.received
        if self._fault is not None and not self._source.read:
            return Exit.USAGE  # as where it could not be opened
        if self._fault or self._refusal or self._results.fault:
            return Exit.FAILED
        if not self._tally.total:
            say(no_orders(self._source))
        return Exit.OK if self._tally.is_all_well else Exit.FAILED


async def _until(stopped: asyncio.Event, found: AsyncIterator[Item]) -> AsyncIterator[Item]:
    """What is found until told to stop, be it in the middle of waiting for more."""
    stopping = asyncio.create_task(stopped.wait())
    coming: asyncio.Task[Item] | None = None
    try:
        while not stopped.is_set():
            coming = asyncio.create_task(_next(found))
            await asyncio.wait({coming, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                return
            try:
                yield coming.result()
            except StopAsyncIteration:
                return
    finally:
        tasks = [task for task in (coming, stopping) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _next(found: AsyncIterator[Item]) -> Item:
    return await anext(found)
