"""``enqueue``: the orders of an input into the queue, and what became of each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack

from everlytic_async.cli._exit import Exit
from everlytic_async.cli._input import Input, Item, open_input
from everlytic_async.cli._nats import load_nats, load_queue, nats_arguments
from everlytic_async.cli._queue_commands import EnqueueOptions
from everlytic_async.cli._results import Results
from everlytic_async.cli._run import Run
from everlytic_async.cli._settings import QUEUE_TABLES, announce, the_store
from everlytic_async.errors import (
    ConfigurationError,
    InvalidOrderError,
    QueueError,
    SourceError,
)
from everlytic_async.outcomes import Outcome
from everlytic_async.worker import OrderQueue

__all__ = ["enqueue"]

#: By the outcome that an order is counted as: its name here, its style, and what it means.
_LABELS: Mapping[Outcome, tuple[str, str, str]] = {
    Outcome.SENT: ("queued", "green", "stored, for a worker to send"),
    Outcome.SKIPPED: ("known", "cyan", "the queue knew them already: not stored again"),
    Outcome.INVALID: (
        "invalid",
        "yellow",
        "not valid, so not queued: correct them, then run it again",
    ),
    Outcome.NOT_SENT: ("not queued", "red", "not acknowledged by the queue: run it again"),
}


def enqueue(options: EnqueueOptions) -> int:
    """Put the orders of a file into the queue, show what became of them; return the exit code.

    Raises:
        ConfigurationError, QueueError: before anything is queued.
    """
    announce(options.config, "mapping", *QUEUE_TABLES)
    settings = load_queue(options.config, the_store(options.config, options.store))
    nats = load_nats(options)
    forced_exit_code: int | None = None
    with open_input(options, limit=options.limit, workflow_id=options.workflow_id) as source:

        async def run() -> int:
            nonlocal forced_exit_code
            async with AsyncExitStack() as stack:
                stack.callback(source.close)  # while the loop runs: the reader thread calls it
                where = await stack.enter_async_context(nats_arguments(nats))
                queue = await stack.enter_async_context(OrderQueue(settings=settings, **where))
                results = stack.enter_context(Results(options, source))
                running = _EnqueueRun(options, source, results, queue)
                try:
                    return await running.execute()
                finally:
                    forced_exit_code = running.forced_exit_code

        try:
            return asyncio.run(run())
        except asyncio.CancelledError:
            if forced_exit_code is None:
                raise
            return forced_exit_code


class _EnqueueRun(Run):
    """Publishes the orders.

    Attributes:
        forced_exit_code: The exit code, if a second signal ended the run.
    """

    def __init__(
        self, options: EnqueueOptions, source: Input, results: Results, queue: OrderQueue
    ) -> None:
        store = queue.settings.store
        self._queue = queue
        super().__init__(
            source,
            results,
            title=f"Queueing for {store}",
            destination=f"the queue of {store}",
            labels=_LABELS,
            progress=options.progress,
        )
        self._stopped = asyncio.Event()
        self._forced = False
        self._task = asyncio.current_task()
        self.forced_exit_code: int | None = None

    async def execute(self) -> int:
        try:
            return await super().execute()
        except asyncio.CancelledError:
            if self._forced:
                for index in tuple(self.source.lines):  # queueing them again is safe
                    self.add(index, Outcome.NOT_SENT, error="the command was ended meanwhile")
                self.forced_exit_code = self.finish()
            raise

    async def move(self) -> None:
        published = self._queue.publish_many(self._orders())
        try:
            async for each in published:
                match each.error:
                    case None:
                        outcome = Outcome.SENT if each.stored else Outcome.SKIPPED
                    case InvalidOrderError():
                        outcome = Outcome.INVALID
                    case _:
                        outcome = Outcome.NOT_SENT
                self.add(each.index, outcome, key=each.key, error=each.error)
        except QueueError as error:
            self.error = str(error)
        finally:
            await published.aclose()

    async def _orders(self) -> AsyncIterator[Item]:
        """The orders until stopped; an error of the input is kept, not raised."""
        try:
            orders = self.source.orders()
            if isinstance(orders, Iterator):
                for order in orders:
                    yield order
                    if self._stopped.is_set():
                        return
            else:
                async for order in _until(self._stopped, orders):
                    yield order
        except (OSError, ConfigurationError, SourceError) as error:
            self.input_error = error

    def stop(self, reason: str) -> None:  # noqa: ARG002 - the summary says why
        self._stopped.set()

    def exit_now(self) -> None:
        self._forced = True
        if self._task is not None:
            self._task.cancel()

    def note(self) -> str:
        return "" if self._queue.connected else "waits for the NATS server"

    def advise(self) -> Iterator[str]:
        complete = self.tally.all_ok and self.source.exhausted
        if not complete and self.source.read_count and not self.tally.counts[Outcome.INVALID]:
            yield "Run it again to queue the rest: what the queue has, it does not take twice."

    def judge(self) -> int:
        return Exit.OK if self.tally.all_ok and self.error is None else Exit.FAILED


async def _until(stopped: asyncio.Event, orders: AsyncIterator[Item]) -> AsyncIterator[Item]:
    """The orders until the event is set, even while waiting for the next one."""
    stopping = asyncio.create_task(stopped.wait())
    coming: asyncio.Task[Item] | None = None
    try:
        while not stopped.is_set():
            coming = asyncio.create_task(_next(orders))
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


async def _next(orders: AsyncIterator[Item]) -> Item:
    return await anext(orders)
