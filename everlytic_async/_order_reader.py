"""Reading orders lazily, from any iterable, sync or async.

Bounds keep it from reading ahead: how many orders may be under way, how many may wait until their
results are taken, and how much memory both may take. A slow consumer slows the reading down, and a
million orders need no more memory than a hundred.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping
from contextvars import Context, copy_context
from typing import Any

from everlytic_async._encoding import AnyOrder
from everlytic_async._sender import Job
from everlytic_async.orders import Order

#: The most bytes of orders whose results were not taken, plus one order of any size. Ordinary
#: orders never come near it.
_MAX_BYTES = 16 * 1024 * 1024


# What can be iterated, and is not an iterable of orders.
_NOT_MANY = (Mapping, str, bytes, bytearray, memoryview, Order)


class Reader:
    """Reads a source in chunks, and hands out what is to be sent, one by one.

    A sync source is read by the task that asks for the next order, always in the same context:
    that takes no switch to another task. An async source is read, and closed, by one task, `run`:
    it may depend on the task that iterates over it (time-outs, cancel scopes).

    Args:
        source: What is read.
        prepare: Called with the index of each order and the order.
        skip: Awaited with several that are valid; returns those that must be sent. None if all
            must.
        ahead: How many orders may be read and have no result yet; twice as many may have none
            that was taken.
        chunk: How many a sync source is asked for together; an async one is asked for one.

    Raises:
        TypeError: the source is not an iterable of orders.

    Attributes:
        is_async: Whether the source is async, so that `run` is needed.
        count: How many orders were read.
        error: What the source raised; the reading has ended then.
    """

    def __init__(
        self,
        source: Iterable[AnyOrder] | AsyncIterable[AnyOrder],
        prepare: Callable[[int, AnyOrder], Job],
        skip: Callable[[list[Job]], Awaitable[list[Job]]] | None,
        *,
        ahead: int,
        chunk: int,
    ) -> None:
        if isinstance(source, _NOT_MANY) or not isinstance(source, Iterable | AsyncIterable):
            raise TypeError("orders must be an iterable or an async iterable of orders")
        self._source: Any = source
        self._iterator: Any = None  # made when it is first needed
        self._prepare = prepare
        self._skip = skip
        self._ahead = ahead
        self._chunk = chunk
        self._sizes: dict[int, int] = {}  # by index: of the orders whose result was not taken
        self._bytes = 0  # of all of them
        self._finished = 0
        self._ended = False
        self._waiting: asyncio.Task[Any] | None = None  # `run` while it waits for the source
        self._interrupted = False  # by `stop`
        self._room: asyncio.Event | None = None  # while somebody waits for it
        self._reading = asyncio.Lock()
        self._context: Context | None = None  # of a sync source
        self._close_error: Exception | None = None
        self._ready: deque[Job] = deque()  # from a sync source
        self._queue: asyncio.Queue[Job | None] = asyncio.Queue()  # from an async one
        self.is_async = isinstance(source, AsyncIterable)
        self.count = 0
        self.error: BaseException | None = None

    async def run(self, *, readers: int) -> None:
        """Read an async source to its end, for as many tasks that call `next`."""
        try:
            while not self._ended:
                for job in await self._read():
                    self._queue.put_nowait(job)
        finally:
            try:
                await self._close_async()
            except Exception as error:  # noqa: BLE001 - the caller's code
                self._close_error = error
            finally:
                for _ in range(readers):
                    self._queue.put_nowait(None)

    async def next(self) -> Job | None:
        """The next order that is to be sent; None if there are no more."""
        if self.is_async:
            return await self._queue.get()
        while not self._ready:
            if self._skip is None and not (self._ended or self._reading.locked()):
                self._ready.extend(self._read_now())  # there is nothing to wait for
                if self._ready:
                    break
            async with self._reading:  # another one may be looking up the last orders
                if not self._ready:
                    if self._ended:
                        return None
                    self._ready.extend(await self._read())
        return self._ready.popleft()

    async def _read(self) -> list[Job]:
        """Read a chunk once there is room for it."""
        while self._room_left() <= 0 and not self._ended:
            self._room = asyncio.Event()
            try:
                await self._room.wait()
            finally:
                self._room = None
        if self._ended:
            return []
        jobs = await self._next_async() if self.is_async else self._read_now()
        # One order alone is not looked up: its claim will do.
        return jobs if self._skip is None or len(jobs) <= 1 else await self._skip(jobs)

    def _read_now(self) -> list[Job]:
        # A generator may set context variables around its `yield`s.
        if self._context is None:
            self._context = copy_context()
        return self._context.run(self._next_chunk)

    def on_finished(self) -> None:
        """One order has its result."""
        self._finished += 1
        if self._room is not None and self._room_left() > 0:
            self._room.set()

    def on_taken(self, index: int) -> None:
        """The result of one order was taken."""
        self._bytes -= self._sizes.pop(index)
        if self._room is not None and self._room_left() > 0:
            self._room.set()

    def stop(self) -> None:
        """Read no more, even if the source keeps us waiting."""
        self._ended = True
        if self._room is not None:
            self._room.set()
        if self._waiting is not None and self._waiting is not asyncio.current_task():
            self._interrupted = self._waiting.cancel()

    async def close(self) -> None:
        """Close a generator now rather than when it is collected: it may hold a file."""
        if inspect.isgenerator(self._iterator) and self._context is not None:
            self._context.run(self._iterator.close)
        await self._close_async()  # `run` may not have been started
        if self._close_error is not None:
            raise self._close_error

    async def _close_async(self) -> None:
        if inspect.isasyncgen(self._iterator):
            await self._iterator.aclose()

    def _add(self, jobs: list[Job], raw: AnyOrder) -> None:
        job = self._prepare(self.count, raw)
        if job.invalid is None:
            jobs.append(job)
        self._sizes[self.count] = job.memory_size
        self._bytes += job.memory_size
        self.count += 1

    def _room_left(self) -> int:
        if self._bytes > _MAX_BYTES:
            return 0
        unfinished, untaken = self.count - self._finished, len(self._sizes)
        return min(self._ahead - unfinished, 2 * self._ahead - untaken)

    def _next_chunk(self) -> list[Job]:
        jobs: list[Job] = []
        end = self.count + self._chunk
        try:
            if self._iterator is None:
                self._iterator = iter(self._source)
            while self.count < end and self._room_left() > 0 and not self._ended:
                self._add(jobs, next(self._iterator))
        except StopIteration:
            self._ended = True
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the caller's code
            self._fail(error)
        return jobs

    async def _next_async(self) -> list[Job]:
        task = self._waiting = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        jobs: list[Job] = []
        try:
            if self._iterator is None:
                self._iterator = aiter(self._source)
            self._add(jobs, await anext(self._iterator))
        except StopAsyncIteration:
            self._ended = True
        except asyncio.CancelledError as error:
            if task.cancelling() > self._interrupted:
                raise  # it was not only `stop` that cancelled us
            if not self._interrupted:
                self._fail(error)  # it came from within the source
        except Exception as error:  # noqa: BLE001 - the caller's code
            self._fail(error)
        finally:
            self._waiting = None
            if self._interrupted:
                task.uncancel()
                self._interrupted = False
        return jobs

    def _fail(self, error: BaseException) -> None:
        self._ended = True
        self.error = error
