"""Many orders: `OrderStream` reads them lazily, sends them concurrently, and yields their results.

As many tasks send as there are slots; `Reader` reads what they send. When all of them have ended,
every order that was read has exactly one result, whatever happened.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterable, Iterable
from contextlib import AsyncExitStack
from typing import Self

from everlytic_async._encoding import AnyOrder, KeyOf
from everlytic_async._ledgers import OpenLedger
from everlytic_async._order_reader import Reader
from everlytic_async._sender import Job, Sender
from everlytic_async._stop_rules import StopRules
from everlytic_async._waiting import StopToken, cancel_and_wait
from everlytic_async.errors import (
    BatchStoppedError,
    ConfigurationError,
    LedgerError,
    SourceError,
)
from everlytic_async.events import BatchEnded, BatchStarted
from everlytic_async.ledger import ResendPolicy
from everlytic_async.ledger.claims import LedgerWriter
from everlytic_async.outcomes import BatchReport, OrderResult, Outcome

__all__ = ["OrderStream"]

# How many orders a ledger is asked for together, before any of them waits for a slot: skipping one
# then costs little.
_LOOKUP_CHUNK = 32
# How long what is in flight may go on after `async with` was left early, in seconds.
_GRACE_S = 2.0


class _Results:
    """The orders that were read, until the one task that iterates takes their results.

    Args:
        ordered: Whether the results are taken in the order of the input.

    Attributes:
        pending: By index: each order that was read, then its result, until that is taken.
        counts: How many results had each outcome.
    """

    def __init__(self, *, ordered: bool) -> None:
        self.pending: dict[int, Job | OrderResult] = {}
        self.counts = dict.fromkeys(Outcome, 0)
        self._ready: deque[OrderResult] = deque()
        self._early: dict[int, OrderResult] | None = {} if ordered else None
        self._next = 0  # the index whose turn it is
        self._taker: asyncio.Future[None] | None = None
        self._closed = False

    def put(self, result: OrderResult) -> None:
        self.pending[result.index] = result
        self.counts[result.outcome] += 1
        if self._early is None:
            self._ready.append(result)
        else:
            self._early[result.index] = result
            while (due := self._early.pop(self._next, None)) is not None:
                self._next += 1
                self._ready.append(due)
        self._wake()

    def close(self) -> None:
        """There are no more to come."""
        self._closed = True
        self._wake()

    async def take(self) -> OrderResult | None:
        """The next result; None if there are no more to come."""
        while not self._ready:
            if self._closed:
                return None
            if self._taker is not None:
                raise ConfigurationError("a stream of orders is read by one task at a time")
            self._taker = asyncio.get_running_loop().create_future()
            try:
                await self._taker
            finally:
                self._taker = None
        result = self._ready.popleft()
        del self.pending[result.index]
        return result

    def _wake(self) -> None:
        if self._taker is not None and not self._taker.done():
            self._taker.set_result(None)


class OrderStream:
    """An async context manager around an async iterator of `OrderResult`.

    Made by `EverlyticClient.stream_orders`. The iteration ends when every order that was read has
    its result. It then raises `SourceError` if the iterable of orders raised, and
    `BatchStoppedError` if every further order would have ended the same way.

    Leaving ``async with`` early ends the reading and gives what is in flight a short grace.
    """

    def __init__(
        self,
        orders: Iterable[AnyOrder] | AsyncIterable[AnyOrder],
        *,
        sender: Sender,
        stop_token: StopToken,
        concurrency: int,
        ordered: bool,
        key_of: KeyOf | None,
        ledger: OpenLedger,
        policy: ResendPolicy,
        grace_s: float = _GRACE_S,
    ) -> None:
        self._sender = sender
        self._stop_token = stop_token
        self._concurrency = concurrency
        self._key_of = key_of
        self._ledger = ledger
        self._policy = policy
        self._writer: LedgerWriter | None = None  # of the ledger
        self._expects_skips = True  # whether it is likely to know the next orders
        self._grace_s = grace_s
        # Orders that a ledger knows need no slot.
        has_ledger = ledger.ledger is not None
        ahead = concurrency + _LOOKUP_CHUNK if has_ledger else concurrency
        self._reader = Reader(
            orders,
            self._prepare,
            self._skip if has_ledger else None,
            ahead=ahead,
            chunk=_LOOKUP_CHUNK if has_ledger else concurrency,
        )
        self._results = _Results(ordered=ordered)
        self._tasks: set[asyncio.Task[None]] | None = None  # None before it is entered
        self._stop_rules = StopRules(
            sender.pacer, sender.transport.host, ledger.any_accepted, has_ledger=has_ledger
        )
        self._started_at = 0.0
        self._failure: BatchStoppedError | SourceError | None = None
        #: Why the batch ended before its input did; None if it did not.
        self.stopped: str | None = None
        stop_token.on_stop = self._fail  # the client or its session was closed

    # ------------------------------------------------------------------------------- for the caller

    async def __aenter__(self) -> Self:
        self._sender.transport.check_open()
        if self._tasks is not None:
            raise ConfigurationError("a stream of orders is entered once: make another one")
        await self._ledger.open()
        self._writer = self._ledger.writer(self._policy, custom_keys=self._key_of is not None)
        self._started_at = self._sender.pacer.clock()
        self._sender.dispatcher.emit(BatchStarted(at=self._started_at))
        work = [self._send() for _ in range(self._concurrency)]
        if self._reader.is_async:
            work.append(self._reader.run(readers=self._concurrency))
        self._tasks = {asyncio.create_task(each) for each in work}
        for task in self._tasks:
            task.add_done_callback(self._on_task_end)
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> OrderResult:
        if self._tasks is None:
            raise ConfigurationError(
                "a stream of orders must be entered: "
                "`async with client.stream_orders(...) as results`"
            )
        self._sender.transport.lifecycle.check_same_loop()
        result = await self._results.take()
        if result is None:
            failure, self._failure = self._failure, None
            if failure is not None:
                raise failure
            raise StopAsyncIteration
        self._reader.on_taken(result.index)
        return result

    @property
    def any_sent(self) -> bool:
        """Whether the ledger knew, on entering, an order that this endpoint and store accepted."""
        return self._ledger.any_sent

    def stop(self, reason: str) -> None:
        """End the reading. What is in flight finishes; what waits is NOT_SENT; iteration goes on.

        Args:
            reason: For the results of those that waited, and for `stopped`.

        Raises:
            TypeError: the reason is not text.
            ConfigurationError: the client was started in another process, event loop or thread:
                there, ``loop.call_soon_threadsafe(stream.stop, reason)`` calls it.
        """
        if not isinstance(reason, str):
            raise TypeError("reason must be text")
        self._sender.transport.lifecycle.check_same_loop()
        self.stopped = self.stopped or reason
        self._reader.stop()
        self._stop_token.stop(reason)

    def unfinished(self, reason: str) -> list[OrderResult]:
        """What is known at present of each order that was read and whose result was not taken.

        For a process that ends immediately, without leaving ``async with``: nothing may be sent
        after this call.

        Args:
            reason: For the errors of those without a result: "the process was left".

        Raises:
            ConfigurationError: the client was started in another process, event loop or thread.
        """
        self._sender.transport.lifecycle.check_same_loop()
        return [
            found if isinstance(found, OrderResult) else self._abandoned(found, reason)
            for _index, found in sorted(self._results.pending.items())
        ]

    async def __aexit__(self, *_: object) -> None:
        if self._sender.transport.lifecycle.is_inherited:
            return  # a forked copy: the tasks, the ledger and the source are the other process's
        self._sender.transport.lifecycle.check_same_loop()
        async with AsyncExitStack() as closing:  # backwards: the tasks, the ledger, the source
            closing.push_async_callback(self._reader.close)
            closing.push_async_callback(self._ledger.close)
            tasks = self._tasks or set()
            closing.push_async_callback(cancel_and_wait, tasks)
            if tasks:
                self.stop("the batch was left before its end")
                await asyncio.wait(tasks, timeout=self._grace_s)

    # ----------------------------------------------------------------------------- reading, sending

    def _prepare(self, index: int, raw: AnyOrder) -> Job:
        job = self._results.pending[index] = self._sender.prepare(index, raw, self._key_of)
        if job.invalid is not None:
            self._finish(job, self._sender.end(job, job.invalid))
        return job

    async def _skip(self, jobs: list[Job]) -> list[Job]:
        """Skip what the ledger knows, with its results; return the rest.

        Only asked if some are likely to be known: for others their claims will do.
        """
        if self._writer is None or not self._expects_skips:
            return jobs
        try:
            skipped = await self._writer.find_skipped([(job.key, job.digest) for job in jobs])
        except LedgerError:
            return jobs  # none of them can be claimed either
        self._expects_skips = bool(skipped)  # orders that it knows come one after another
        for position, reason in skipped.items():
            self._finish(jobs[position], self._sender.end(jobs[position], reason))
        return [job for position, job in enumerate(jobs) if position not in skipped]

    async def _send(self) -> None:
        while (job := await self._reader.next()) is not None:
            result = await self._sender.deliver(job, self._stop_token, self._writer)
            if job.unforeseen is not None:
                self._fail_unforeseen(job.unforeseen)
            self._finish(job, result)
            del job, result  # while it waits for the next one, a task holds no order
        if self._reader.error is not None:  # not before: what was read may end the batch
            self._fail_by_source(self._reader.error)

    # -------------------------------------------------------------------------------------- results

    def _finish(self, job: Job, result: OrderResult) -> None:
        """Hand out a result, once it is recorded where it has to be. Meanwhile its task goes on."""
        error = job.refusal or result.error
        if error is not None and (why := self._stop_rules.reason_to_stop(result, error)):
            self._fail(why)
        if self._writer is not None and job.is_recorded:
            self._results.pending[result.index] = result
            self._writer.record(result, job.digest, self._on_recorded)
        else:
            self._put(result)

    def _on_recorded(self, result: OrderResult) -> None:
        try:
            self._put(result)
        except Exception as error:  # noqa: BLE001 - nobody else would notice
            self._fail_unforeseen(error)
        self._end_if_done()

    def _put(self, result: OrderResult) -> None:
        self._results.put(result)
        self._reader.on_finished()
        if result.outcome is Outcome.SKIPPED:
            self._expects_skips = True
        if self._writer is not None and (failure := self._writer.failure) is not None:
            self._fail(str(failure), failure.__cause__)

    def _abandoned(self, job: Job, reason: str) -> OrderResult:
        return self._sender.end(job, job.verdict_if_abandoned(reason))

    # --------------------------------------------------------------------------------- how it ends

    def _fail(self, reason: str, cause: BaseException | None = None) -> None:
        if self.stopped is None:
            self._failure = BatchStoppedError(f"the batch was stopped: {reason}")
            self._failure.__cause__ = cause
            self.stop(self._failure.message)

    def _fail_unforeseen(self, error: BaseException) -> None:
        self._fail(f"an error that was not foreseen: {type(error).__name__}", error)

    def _fail_by_source(self, error: BaseException) -> None:
        failure = SourceError(
            f"the source of the orders raised {type(error).__name__} after {self._reader.count} "
            "orders; what had been read has its results"
        )
        failure.__cause__ = error
        self._failure = self._failure or failure
        # Those that wait for a slot or a retry go on: they were read, and nothing is wrong.
        self.stopped = self.stopped or failure.message

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        assert self._tasks is not None  # noqa: S101 - it is one of them
        self._tasks.discard(task)
        if task.cancelled():
            self._fail("one of its tasks was cancelled from outside")  # or the batch was left
        elif (error := task.exception()) is not None:
            self._fail_unforeseen(error)
        self._end_if_done()

    def _end_if_done(self) -> None:
        # None: an eager task ran before all of them were started.
        if self._tasks is None or self._tasks:
            return
        if self._writer is not None and self._writer.recording:
            return
        for found in [*self._results.pending.values()]:
            if isinstance(found, Job):  # its task was cancelled or failed
                self._put(self._abandoned(found, "its task ended early"))
        now = self._sender.pacer.clock()
        self._sender.dispatcher.emit(
            BatchEnded(
                at=now,
                counts=dict(self._results.counts),
                elapsed_s=now - self._started_at,
                stopped=self.stopped,
                by_caller=self.stopped is not None and self._failure is None,
            )
        )
        self._results.close()


async def collect(stream: OrderStream) -> BatchReport:
    """Iterate over a stream to its end.

    Raises:
        SourceError: the iterable raised; with the report so far as ``report``.
        BatchStoppedError: the batch ended early for any other reason; with the report so far, and
            the cause if it was not foreseen.
    """
    started_at = time.monotonic()
    results: list[OrderResult] = []
    failure: BatchStoppedError | SourceError | None = None
    try:
        async with stream:
            try:
                async for result in stream:
                    results.append(result)  # noqa: PERF401 - kept when the iteration raises
            except (BatchStoppedError, SourceError) as error:
                failure = error
    except (ConfigurationError, LedgerError):
        raise
    except Exception as error:  # noqa: BLE001 - such as what closing the source raises
        if failure is None:
            failure = BatchStoppedError(
                f"the batch ended with an error that was not foreseen: {type(error).__name__}"
            )
        failure.__cause__ = failure.__cause__ or error
    report = BatchReport(tuple(results), time.monotonic() - started_at, stream.stopped)
    if failure is not None:
        raise type(failure)(failure.message, report) from failure.__cause__
    return report
