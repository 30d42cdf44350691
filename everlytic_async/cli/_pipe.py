"""An input that may keep its reader waiting: a pipe, or a terminal.

A thread reads it, so that the event loop goes on; and its wait can be interrupted.
"""

from __future__ import annotations

import asyncio
import io
import os
import select
import threading
from collections.abc import Iterator
from typing import Generic, Self, TypeVar

T = TypeVar("T")

# How many items the thread may be ahead of who takes them.
_AHEAD = 64


class InterruptibleReader(io.RawIOBase):
    """A raw file that another thread can end."""

    def __init__(self, raw: io.FileIO) -> None:
        self._raw = raw
        self._ending, self._end = os.pipe()
        self._poll = select.poll()
        for fd in (self._raw.fileno(), self._ending):
            self._poll.register(fd, select.POLLIN)

    def readable(self) -> bool:
        """As every raw file."""
        return True

    def isatty(self) -> bool:
        """Whether a person types it."""
        return self._raw.isatty()

    def readinto(self, buffer: bytearray | memoryview) -> int | None:  # type: ignore[override]
        """Wait for more; 0 bytes, the end, once it was interrupted."""
        if any(fd == self._ending for fd, _event in self._poll.poll()):
            return 0
        return self._raw.readinto(buffer)

    def interrupt(self) -> None:
        """End the wait, and the input with it."""
        if not self.closed:
            os.write(self._end, b"\0")

    def close(self) -> None:
        """Close the file, and what interrupts it."""
        if not self.closed:
            self._raw.close()
            os.close(self._ending)
            os.close(self._end)
        super().close()


class ThreadedReader(Generic[T]):
    """Runs an iterator in a thread, a little ahead of the event loop that takes its items."""

    def __init__(self, source: Iterator[T]) -> None:
        self._source = source
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[T | BaseException | None] = asyncio.Queue()
        self._room = threading.Semaphore(_AHEAD)
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="everlytic-input", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        end: BaseException | None = None
        try:
            for item in self._source:
                self._room.acquire()
                if self._stopped:
                    return
                self._put(item)
        except Exception as error:  # noqa: BLE001 - raised where the items are taken
            end = error
        finally:
            self._put(end)

    def _put(self, item: T | BaseException | None) -> None:
        self._loop.call_soon_threadsafe(self._items.put_nowait, item)

    def stop(self) -> None:
        """End the thread, which waits for nothing but room."""
        self._stopped = True
        self._room.release()
        self._thread.join()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        item = await self._items.get()
        if item is None:
            raise StopAsyncIteration
        if isinstance(item, BaseException):
            raise item
        self._room.release()
        return item
