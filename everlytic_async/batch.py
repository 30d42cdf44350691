"""Many orders: `OrderStream` reads them lazily, sends them at once, and yields one result for each.

As many workers as there are slots take the orders in turn. No more orders are read than there are
slots plus as many results that wait for their reader: a slow reader slows the reading.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Any, Self

from everlytic_async._book import Book, any_sent, digest_of
from everlytic_async._pacer import Halt
from everlytic_async._sender import AnyOrder, Job, KeyOf, Sender
from everlytic_async._stop_rules import StopRules
from everlytic_async.errors import (
    BatchStoppedError,
    ConfigurationError,
    LedgerError,
    NotSentError,
    SkippedError,
    SourceError,
)
from everlytic_async.events import BatchEnded, BatchStarted
from everlytic_async.ledger import LedgerSession, Terms
from everlytic_async.outcomes import OrderResult, Outcome

__all__ = ["OrderStream"]

# So many orders are looked up in a ledger at once: what is known needs no slot. Meanwhile the next
# ones are read. Few enough for Python's collector, which looks anew at what is alive whenever some
# hundred objects more are.
_LOOK_UP = 32
_LOOK_UPS = 2
_NEXT = 4
# How long what is in flight may go on after `async with` was left early, in seconds.
_GRACE_S = 2.0
_END: Any = object()


class OrderStream:
    """An async context manager around an async iterator of `OrderResult`.

    Made by `EverlyticClient.stream_orders`. The iteration ends when every order that was read has
    its result. It raises, then, `SourceError` when the iterable of orders had raised, and
    `BatchStoppedError` when going on would have failed the same way for every order.

    Leaving ``async with`` early ends the reading and gives what is in flight a short grace.
    """

    def __init__(
        self,
        orders: Iterable[AnyOrder] | AsyncIterable[AnyOrder],
        *,
        sender: Sender,
        halt: Halt,
        concurrency: int,
        ordered: bool,
        key_of: KeyOf | None,
        open_ledger: Callable[[], AbstractAsyncContextManager[LedgerSession]] | None = None,
        terms: Terms | None = None,
    ) -> None:
        self._source = orders
        self._sender = sender
        self._halt = halt
        self._concurrency = concurrency
        self._window = 2 * concurrency
        self._open_ledger = open_ledger
        self._terms = terms or Terms()
        self._closing = AsyncExitStack()  # what is open for as long as the workers work
        self._book: Book | None = None
        self._any_sent = False  # before, by the ledger
        self._prepared: deque[Job] = deque()  # read and looked up, in turn to be sent
        self._ordered = ordered
        self._key_of = key_of
        self._iterator: Iterator[AnyOrder] | AsyncIterator[AnyOrder] | None = None
        self._reading = asyncio.Lock()
        self._looking = asyncio.Semaphore(_LOOK_UPS)
        self._asking = 0  # how many look-ups are under way
        self._knows_some = True  # whether the ledger is likely to know the next orders
        self._recording = 0  # how many results wait until they are recorded
        self._reader: asyncio.Task[None] | None = None  # who waits for an async source
        self._workers: set[asyncio.Task[None]] = set()
        self._leaving = False
        self._read = 0
        self._delivered = 0
        self._no_more = False  # reading has ended, for whatever reason
        # By index: each that was read and not taken, as far as it has come.
        self._open: dict[int, Job | OrderResult] = {}
        self._results: deque[OrderResult] = deque()
        self._early: dict[int, OrderResult] = {}  # finished before their turn, when ordered
        self._next = 0  # whose turn it is, when ordered
        self._consumer: asyncio.Future[None] | None = None
        self._paused: deque[asyncio.Future[None]] = deque()
        self._stop_rules = StopRules(
            sender.pacer,
            sender.transport.host,
            sender.retry,
            self._any_accepted,
        )
        self._counts = dict.fromkeys(Outcome, 0)
        self._began = 0.0
        self._failure: BaseException | None = None
        #: Why the batch ended before its input did; None where it did not.
        self.stopped: str | None = None

    # ---------------------------------------------------------------------- for whoever reads it

    async def __aenter__(self) -> Self:
        self._sender.transport.check_open()
        if self._iterator is not None:
            raise ConfigurationError("a stream of orders is entered once: make another one")
        if self._open_ledger is not None:
            session = await self._closing.enter_async_context(self._open_ledger())
            try:
                self._any_sent = await any_sent(session)
            except BaseException:
                await self._closing.aclose()
                raise
            self._book = Book(
                session,
                self._terms,
                own_keys=self._key_of is not None,
                any_accepted=self._any_accepted,
            )
        try:
            work = self._begin()
        except BaseException:
            await self._closing.aclose()
            raise
        self._began = self._sender.clock()
        self._sender.dispatcher.emit(BatchStarted(at=self._began))
        for _ in range(self._concurrency):
            worker = asyncio.create_task(work(self._iterator))
            self._workers.add(worker)
            worker.add_done_callback(self._worker_ended)
        return self

    def _begin(self) -> Callable[[Any], Coroutine[Any, Any, None]]:
        """Begin to iterate over the source; how its orders are worked off."""
        try:
            if isinstance(self._source, AsyncIterable):
                # One by one: nobody knows when the next one comes.
                self._iterator = aiter(self._source)
                return self._work_async
            self._iterator = iter(self._source)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - of the caller's
            self._source_failed(error)
            self._iterator = iter(())  # not asked: reading has ended
        if self._book is None:
            return self._work
        self._window = max(self._window, _LOOK_UPS * _LOOK_UP)
        return self._work_known

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> OrderResult:
        if self._iterator is None:
            raise ConfigurationError(
                "a stream of orders must be entered: "
                "`async with client.stream_orders(...) as results`"
            )
        self._sender.transport.check_place()
        while not self._results:
            if not self._workers and not self._recording:
                failure, self._failure = self._failure, None
                if failure is not None:
                    raise failure
                raise StopAsyncIteration
            if self._consumer is not None:
                raise ConfigurationError("a stream of orders is read by one task at a time")
            self._consumer = asyncio.get_running_loop().create_future()
            try:
                await self._consumer
            finally:
                self._consumer = None
        self._delivered += 1
        self._wake_paused()
        result = self._results.popleft()
        del self._open[result.index]
        return result

    def stop(self, reason: str) -> None:
        """End the reading. What is in flight finishes; what waits is NOT_SENT; iteration goes on.

        Args:
            reason: For the results of those that waited, and for `stopped`.
        """
        if self.stopped is None:
            self.stopped = reason
        self._end_reading()
        self._halt.halt(reason)

    def unfinished(self, reason: str) -> list[OrderResult]:
        """For each order that was read and whose result was not taken: what is known at present.

        For a process that ends at once, and has no time to leave ``async with``: nothing may be
        sent after it.

        Args:
            reason: For the errors of those without a result: "the process was left".
        """
        return [
            self._sender.end(found, found.abandoned_error(reason))
            if isinstance(found, Job)
            else found
            for _index, found in sorted(self._open.items())
        ]

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._sender.transport.is_inherited:
            return  # a forked copy: the tasks, the ledger and the source are the other process's
        self._sender.transport.check_place()
        self._leaving = True
        try:
            if self._workers:
                self.stop("the batch was left before its end")
                await asyncio.wait(self._workers, timeout=_GRACE_S)
        finally:
            try:
                await self._end_workers()
            finally:
                try:
                    await self._closing.aclose()
                finally:
                    await self._close_source()

    # --------------------------------------------------------------------------------- workers

    async def _work(self, source: Any) -> None:
        while self._goes_on():
            if self._read - self._delivered >= self._window:
                await self._room()
                continue
            try:
                given = next(source, _END)
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - of the caller's
                self._source_failed(error)
                return
            if given is _END:
                self._end_reading()
                return
            job = self._prepare(given)
            if isinstance(job, Job):
                await self._deliver(job)
            else:
                self._put(job)

    async def _work_known(self, source: Any) -> None:
        """With a ledger: a look-up for many at once first, so that what is known costs little."""
        while True:
            if self._prepared:
                await self._deliver(self._prepared.popleft())
                continue
            async with self._looking:
                if self._prepared:
                    continue
                more = self._goes_on()
                if not more and not self._asking:
                    return
                if not more or self._read - self._delivered >= self._window:
                    await self._room()
                    continue
                self._asking += 1
                try:
                    await self._look_up(self._take(source))
                finally:
                    self._asking -= 1
                    if self._no_more:
                        self._wake_all()

    def _take(self, source: Any) -> list[Job | OrderResult]:
        """Read and prepare as many orders as are looked up at once, and there is room for."""
        taken: list[Job | OrderResult] = []
        # Those that are to be sent are prepared when their turn is near.
        most = _LOOK_UP if self._knows_some else _NEXT
        while len(taken) < most and self._read - self._delivered < self._window:
            try:
                given = next(source, _END)
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - of the caller's
                self._source_failed(error)
                break
            if given is _END:
                self._end_reading()
                break
            taken.append(self._prepare(given))
        return taken

    def _prepare(self, given: AnyOrder) -> Job | OrderResult:
        index = self._read
        self._read += 1
        job = self._open[index] = self._sender.prepare(index, given, self._key_of)
        return job

    async def _look_up(self, taken: list[Job | OrderResult]) -> None:
        """Hand out what has its result already; the rest is to be sent."""
        book, sender = self._book, self._sender
        assert book is not None  # noqa: S101 - there is a ledger
        jobs = [job for job in taken if isinstance(job, Job)]
        if not self._knows_some:
            # What is known comes in runs: here the claims alone will do, until one is refused.
            self._prepared.extend(jobs)
            jobs = []
        for job in jobs:
            job.digest = digest_of(job.body)
        try:
            skipped: Mapping[int, SkippedError] = {}
            if jobs:
                skipped = await book.known([(job.key, job.digest) for job in jobs])
                self._knows_some = bool(skipped)
        except LedgerError as error:
            for job in jobs:
                self._put(sender.end(job, NotSentError(f"the order was not sent: {error}")))
            jobs, skipped = [], {}
        except asyncio.CancelledError:
            # This worker alone, perhaps: what it has read is the others' then.
            self._prepared.extend(jobs)
            jobs, skipped = [], {}
            raise
        finally:
            for result in taken:
                if isinstance(result, OrderResult):
                    self._record(result, "")
        for place, job in enumerate(jobs):
            if place in skipped:
                self._put(sender.end(job, skipped[place]))
            else:
                self._prepared.append(job)

    async def _deliver(self, job: Job) -> None:
        result = await self._sender.deliver(job, self._halt, self._book)
        if job.unforeseen is not None:
            self._fail_unforeseen(job.unforeseen)
        if result.outcome is Outcome.SKIPPED:
            self._knows_some = True
        if job.claimed:
            self._record(result, job.digest)
        else:
            self._put(result)

    def _record(self, result: OrderResult, digest: str) -> None:
        """Hand out a result once it is recorded. Meanwhile its worker may go on.

        The next claim of the worker goes into the same commit, so that no more orders than there
        are workers are in flight by the ledger.
        """
        if self._book is None:
            self._put(result)
            return
        self._open[result.index] = result
        self._recording += 1
        self._book.record(result, digest, self._recorded)

    def _recorded(self, result: OrderResult) -> None:
        self._recording -= 1
        self._put(result)
        self._end_if_done()

    async def _work_async(self, source: Any) -> None:
        while True:
            async with self._reading:
                if not self._goes_on():  # asked again, for we waited for our turn to read
                    return
                if self._read - self._delivered >= self._window:
                    await self._room()
                    continue
                given = await self._next_of(source)
                if given is _END:
                    self._end_reading()
                    return
                job = self._prepare(given)
            if isinstance(job, Job):
                await self._deliver(job)
            else:
                self._record(job, "")

    def _goes_on(self) -> bool:
        """Whether there may be more to read."""
        if self._halt.reason is not None and self.stopped is None:
            # Not by stop(): all that is read from now on would end as not sent.
            self._fail(BatchStoppedError(f"the batch was stopped: {self._halt.reason}"))
        return not self._no_more

    async def _next_of(self, source: Any) -> Any:
        """The next order of an async source, or `_END` where there is none to come."""
        reader = self._reader = asyncio.current_task()
        assert reader is not None  # noqa: S101 - a coroutine runs in a task
        try:
            return await anext(source, _END)
        except asyncio.CancelledError as error:
            if self._reader is None and reader.cancelling() == 1:
                return _END  # cancelled by _end_reading(), and by nobody else
            if reader.cancelling():
                raise
            self._source_failed(error)  # it came from within the source
        except Exception as error:  # noqa: BLE001 - whatever a caller's iterable raises
            self._source_failed(error)
        finally:
            if self._reader is None:
                reader.uncancel()
            self._reader = None
        return _END

    async def _room(self) -> None:
        """Wait until the reader has taken a result, or reading has ended."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._paused.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._paused:
                self._paused.remove(waiter)

    def _put(self, result: OrderResult) -> None:
        self._open[result.index] = result
        self._counts[result.outcome] += 1
        if self._ordered:
            self._early[result.index] = result
            while (due := self._early.pop(self._next, None)) is not None:
                self._next += 1
                self._results.append(due)
        else:
            self._results.append(result)
        if result.error is not None and (reason := self._stop_rules.reason_to_stop(result)):
            self._fail(BatchStoppedError(f"the batch was stopped: {reason}"))
        if self._book is not None and self._book.failure is not None:
            self._fail(BatchStoppedError(f"the batch was stopped: {self._book.failure}"))
        self._wake_consumer()

    def _any_accepted(self) -> bool:
        """Whether the endpoint and store are known to have accepted any order."""
        return self._any_sent or self._sender.pacer.accepted_any

    def _source_failed(self, error: BaseException) -> None:
        failure = SourceError(
            f"the source of the orders raised {type(error).__name__} after {self._read} orders; "
            "what had been read has its results"
        )
        failure.__cause__ = error
        if self._failure is None:
            self._failure = failure
        if self.stopped is None:
            self.stopped = failure.message
        # Those that wait for a slot or for a retry go on: they were read, and nothing is wrong.
        self._end_reading()

    def _fail(self, failure: BatchStoppedError) -> None:
        if self.stopped is None:
            self._failure = failure
        self.stop(failure.message)

    def _fail_unforeseen(self, error: BaseException) -> None:
        """Stop for a fault of the program: what went wrong is the cause of the batch's error."""
        failure = BatchStoppedError(
            f"the batch was stopped by an error that was not foreseen: {type(error).__name__}"
        )
        failure.__cause__ = error
        self._fail(failure)

    def _end_reading(self) -> None:
        self._no_more = True
        # A source may keep its reader waiting for as long as it likes: a queue, a broker.
        if self._reader is not None and self._reader is not asyncio.current_task():
            reader, self._reader = self._reader, None
            reader.cancel()
        self._wake_all()

    def _worker_ended(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if worker.cancelled():
            if not self._leaving:
                self._fail(
                    BatchStoppedError(
                        "the batch was stopped: one of its tasks was cancelled from outside; what "
                        "became of the order that it was sending is not known"
                    )
                )
        elif (error := worker.exception()) is not None:
            self._fail_unforeseen(error)
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._workers or self._recording:
            return
        now = self._sender.clock()
        self._sender.dispatcher.emit(
            BatchEnded(
                at=now,
                counts=dict(self._counts),
                elapsed_s=now - self._began,
                stopped=self.stopped,
            )
        )
        self._wake_consumer()

    def _wake_consumer(self) -> None:
        if self._consumer is not None:
            self._resume(self._consumer)

    def _wake_paused(self) -> None:
        while self._paused and self._read - self._delivered < self._window:
            waiter = self._paused.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _wake_all(self) -> None:
        while self._paused:
            self._resume(self._paused.popleft())

    @staticmethod
    def _resume(waiter: asyncio.Future[None]) -> None:
        if not waiter.done():
            waiter.set_result(None)

    async def _end_workers(self) -> None:
        """Cancel the workers that are left and see them end, however often we are cancelled."""
        cancelled: asyncio.CancelledError | None = None
        while self._workers:
            for worker in self._workers:
                worker.cancel()
            try:
                await asyncio.wait(self._workers)
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled

    async def _close_source(self) -> None:
        """Close a generator now rather than when it is collected: it may hold a file."""
        if inspect.isasyncgen(self._iterator):
            await self._iterator.aclose()
        elif inspect.isgenerator(self._iterator):
            self._iterator.close()
