"""Reading orders lazily: one task over any iterable, sync or async.

Bounds keep it from reading ahead: how many orders may be under way, how many may wait until their
results are taken, and how much memory both may take. A slow consumer slows the reading down, and a
million orders need no more memory than a hundred.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

_Item = TypeVar("_Item")
_Prepared = TypeVar("_Prepared")

#: The most bytes of orders whose results were not taken, plus one order of any size. Ordinary
#: orders never come near it.
_MAX_BYTES = 16 * 1024 * 1024


class Reader(Generic[_Item, _Prepared]):
    """Reads a source and hands on what it reads, in chunks.

    Args:
        source: What is read. What its iteration raises ends the reading and becomes `error`.
        prepare: Called with the index of each order and the order; returns what is handled, and
            about how many bytes it takes.
        handle: Awaited with each chunk before the next is read.
        max_unfinished: How many orders may be read and have no result yet.
        max_untaken: How many may be read and have no result that was taken.

    Attributes:
        read: How many orders were read.
        chunk: How many a sync source is asked for at once; an async one is asked for one.
        error: What the source raised.
    """

    def __init__(
        self,
        source: Iterable[_Item] | AsyncIterable[_Item],
        prepare: Callable[[int, _Item], tuple[_Prepared, int]],
        handle: Callable[[list[_Prepared]], Awaitable[None]],
        *,
        max_unfinished: int,
        max_untaken: int,
        chunk: int,
    ) -> None:
        self._source = source
        self._iterator: Iterator[_Item] | AsyncIterator[_Item] | None = None
        self._prepare = prepare
        self._handle = handle
        self._max_unfinished = max_unfinished
        self._max_untaken = max_untaken
        self._sizes: dict[int, int] = {}  # by index: of the orders whose result was not taken
        self._bytes = 0  # of all of them
        self._finished = 0
        self._taken = 0
        self._stopped = False
        self._waiting: asyncio.Task[Any] | None = None  # our task while it waits for the source
        self._interrupted = False  # by `stop`
        self._room = asyncio.Event()
        self.read = 0
        self.chunk = chunk
        self.error: BaseException | None = None

    async def run(self) -> None:
        """Read until the source ends, or `stop` is called."""
        try:
            if isinstance(self._source, AsyncIterable):
                self._iterator = aiter(self._source)
            else:
                self._iterator = iter(self._source)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the caller's code
            self.error = error
            return
        while not self._stopped:
            if self._room_left() <= 0:
                self._room.clear()
                await self._room.wait()
                continue
            if isinstance(self._iterator, AsyncIterator):
                items = await self._next_async(self._iterator)
            else:
                items = self._next_chunk(self._iterator)
            if items:
                await self._handle(items)
            del items  # while it waits for room, it holds no order
            # The senders have their turn, however many orders there are to read.
            await asyncio.sleep(0)

    def on_finished(self) -> None:
        """One order has its result."""
        self._finished += 1
        self._wake_if_room()

    def on_taken(self, index: int) -> None:
        """The result of one order was taken."""
        self._taken += 1
        self._bytes -= self._sizes.pop(index)
        self._wake_if_room()

    def stop(self) -> None:
        """Read no more, even if the source keeps us waiting."""
        self._stopped = True
        self._room.set()
        if self._waiting is not None and self._waiting is not asyncio.current_task():
            self._interrupted = self._waiting.cancel()

    async def close(self) -> None:
        """Close a generator now rather than when it is collected: it may hold a file."""
        if inspect.isasyncgen(self._iterator):
            await self._iterator.aclose()
        elif inspect.isgenerator(self._iterator):
            self._iterator.close()

    def _add(self, items: list[_Prepared], item: _Item) -> None:
        prepared, size = self._prepare(self.read, item)
        items.append(prepared)
        self._sizes[self.read] = size
        self._bytes += size
        self.read += 1

    def _wake_if_room(self) -> None:
        if self._room_left() > 0:
            self._room.set()

    def _room_left(self) -> int:
        if self._bytes > _MAX_BYTES:
            return 0
        unfinished, untaken = self.read - self._finished, self.read - self._taken
        return min(self._max_unfinished - unfinished, self._max_untaken - untaken)

    def _next_chunk(self, iterator: Iterator[_Item]) -> list[_Prepared]:
        items: list[_Prepared] = []
        most = min(self.chunk, self._room_left())
        try:
            while len(items) < most and self._bytes <= _MAX_BYTES and not self._stopped:
                self._add(items, next(iterator))
        except StopIteration:
            self._stopped = True
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the caller's code
            self._fail(error)
        return items

    async def _next_async(self, iterator: AsyncIterator[_Item]) -> list[_Prepared]:
        task = self._waiting = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        items: list[_Prepared] = []
        try:
            self._add(items, await anext(iterator))
        except StopAsyncIteration:
            self._stopped = True
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
        return items

    def _fail(self, error: BaseException) -> None:
        self.error = error
        self._stopped = True
