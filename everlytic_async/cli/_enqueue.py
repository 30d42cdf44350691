"""``enqueue``: the orders of an input into the queue, and what became of each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack

import attrs

from everlytic_async.cli._exit import Exit
from everlytic_async.cli._input import open_input
from everlytic_async.cli._nats import connect
from everlytic_async.cli._queue_commands import EnqueueOptions
from everlytic_async.cli._results import check_outputs
from everlytic_async.cli._run import Run
from everlytic_async.cli._screen import Labels
from everlytic_async.cli._settings import QUEUE_TABLES, READING_TABLES, Settings
from everlytic_async.errors import InvalidOrderError, QueueError
from everlytic_async.outcomes import Outcome
from everlytic_async.worker import OrderQueue

#: By the outcome that an order is counted as.
_LABELS: Labels = {
    Outcome.SENT: ("queued", "green", "stored, for a worker to send"),
    Outcome.SKIPPED: ("known", "cyan", "the queue knew them already: not stored again"),
    Outcome.INVALID: (
        "invalid",
        "yellow",
        "not valid, so not queued: correct them, then run it again",
    ),
    Outcome.NOT_SENT: ("not queued", "red", "not acknowledged by the queue: run it again"),
}


async def enqueue(options: EnqueueOptions) -> int:
    """Put the orders of a file into the queue, show what became of them; return the exit code."""
    settings = Settings(options.config, *READING_TABLES, *QUEUE_TABLES)
    store = settings.only_store(options.store)
    check_outputs(options, None)
    async with AsyncExitStack() as stack:
        source = stack.enter_context(open_input(options, settings))
        make_queue = await stack.enter_async_context(connect(options, settings))
        queue = await stack.enter_async_context(make_queue(store))
        run = _EnqueueRun(
            options=options,
            source=source,
            title=f"Queueing for {store}",
            destination=f"the queue of {store}",
            labels=_LABELS,
            queue=queue,
        )
        return await run.execute()


@attrs.define(kw_only=True, eq=False)
class _EnqueueRun(Run):
    _queue: OrderQueue

    async def move(self) -> None:
        published = self._queue.publish_many(self.orders())
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

    def abandon(self) -> None:
        for index in tuple(self.source.lines):  # queueing them again is safe
            self.add(index, Outcome.NOT_SENT, error="the command was ended meanwhile")

    def note(self) -> str:
        return "" if self._queue.connected else "waits for the NATS server"

    @property
    def _all_queued(self) -> bool:
        counts = self.tally.counts
        return self.tally.total == counts[Outcome.SENT] + counts[Outcome.SKIPPED]

    def advise(self) -> Iterator[str]:
        all_read = self.source.exhausted or self.is_input_damaged
        complete = self._all_queued and all_read
        if not complete and self.source.read_count and not self.tally.counts[Outcome.INVALID]:
            yield "Run it again to queue the rest: what the queue has, it does not take twice."

    def judge(self) -> int:
        return Exit.OK if self._all_queued and self.error is None else Exit.FAILED
