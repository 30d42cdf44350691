"""The orders of one input, and the line that each of those under way came from.

A regular file is read where the orders are sent: a disk does not keep anybody waiting. A pipe or a
terminal may, and so it is read by a thread, which can be told to end in the middle of its waiting.
"""

from __future__ import annotations

import asyncio
import io
import os
import select
import stat
import threading
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import attrs
import click

from everlytic_async.errors import ConfigurationError, InvalidOrderError
from everlytic_async.orders import Order
from everlytic_async.sources import read_lines

__all__ = ["Input"]

_Item = Order | InvalidOrderError
_Numbered = tuple[int, _Item]

# How many orders the thread may be ahead of the sending.
_AHEAD = 64


class Input:
    """One file, or the standard input: read it once, in one of the ways below, then close it.

    Args:
        name: A path, or ``-`` for the standard input.
        limit: Read no more orders than this, valid or not; None for all of them.
        workflow_id: The workflow of those orders that name none.

    Raises:
        ConfigurationError: when it can't be opened.

    Attributes:
        shown: Its name, fit for a terminal.
        limit: As given.
        lines: The line of each order that was handed out and not `settled`, by its index from 0.
        read: How many orders were handed out.
        last_line: The line of the last one.
        ended: Whether everything that was to be read was.
    """

    def __init__(
        self, name: str, *, limit: int | None = None, workflow_id: int | None = None
    ) -> None:
        self.shown = "standard input" if name == "-" else _printable(name)
        self.limit = limit
        self._workflow_id = workflow_id
        self.lines: dict[int, int] = {}
        self.read = 0
        self.last_line = 0
        self.ended = False
        self._waiting: _Interruptible | None = None
        self._pump: _Pump | None = None
        try:
            self._file = self._open(name)
        except OSError as error:
            raise ConfigurationError(f"{self.shown} can't be read: {error.strerror}") from error

    def _open(self, name: str) -> IO[bytes]:
        # Not sys.stdin: its lock would be waited for when the process ends.
        raw = io.FileIO(0 if name == "-" else name, closefd=name != "-")
        try:
            found = os.fstat(raw.fileno())
        except BaseException:
            raw.close()
            raise
        if stat.S_ISREG(found.st_mode):
            file = io.BufferedReader(raw)
            self._begin = file.tell()
            self._size: int | None = found.st_size - self._begin
            return file
        self._size = None
        self._waiting = _Interruptible(raw)
        return io.BufferedReader(self._waiting)

    @property
    def is_terminal(self) -> bool:
        """Whether a person types the orders."""
        return self._file.isatty()

    def is_file(self, path: Path) -> bool:
        """Whether it is read from that very file.

        Raises:
            OSError: when there is no such file.
        """
        return self._size is not None and os.path.samestat(
            path.stat(), os.fstat(self._file.fileno())
        )

    def share_read(self) -> float | None:
        """How much of the input was read, from 0 to 1; None where its length is not known."""
        shares = []
        if self._size is not None:
            done = self._file.tell() - self._begin
            shares.append(min(1.0, done / self._size) if self._size else 1.0)
        if self.limit is not None:
            shares.append(self.read / self.limit)
        return max(shares, default=None)

    def numbered(self) -> Iterator[_Numbered]:
        """Every order with its line: the plain way, for whoever does nothing meanwhile."""
        for numbered in self._numbered():
            self._take(numbered)
            yield numbered
        self.ended = True

    def orders(self) -> Iterator[_Item] | AsyncIterator[_Item]:
        """Every order, for a stream of them; `lines` knows their lines."""
        return self._now() if self._waiting is None else self._as_they_come()

    def settled(self, index: int) -> int:
        """The line of an order that has its result now: it may be forgotten."""
        return self.lines.pop(index)

    def close(self) -> None:
        """End the reading, be it in the middle of its waiting, and close what was opened here.

        The loop that took the orders still runs: the thread tells it things to the last.
        """
        if self._waiting is not None:
            self._waiting.interrupt()
        if self._pump is not None:
            self._pump.stop()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _numbered(self) -> Iterator[_Numbered]:
        for line, order in islice(read_lines(self._file), self.limit):
            if (
                self._workflow_id is not None
                and isinstance(order, Order)
                and order.workflow_id is None
            ):
                yield line, attrs.evolve(order, workflow_id=self._workflow_id)
            else:
                yield line, order

    def _take(self, numbered: _Numbered) -> _Item:
        self.last_line, order = numbered
        self.read += 1
        return order

    def _hand_out(self, numbered: _Numbered) -> _Item:
        # As a stream counts them: from 0, in the order of reading.
        self.lines[self.read] = numbered[0]
        return self._take(numbered)

    def _now(self) -> Iterator[_Item]:
        for numbered in self._numbered():
            yield self._hand_out(numbered)
        self.ended = True

    async def _as_they_come(self) -> AsyncIterator[_Item]:
        self._pump = _Pump(self._numbered())
        async for numbered in self._pump:
            yield self._hand_out(numbered)
        self.ended = True


class _Interruptible(io.RawIOBase):
    """A raw file whose end another thread may bring about."""

    def __init__(self, raw: io.FileIO) -> None:
        self._raw = raw
        self._ending, self._end = os.pipe()
        self._poll = select.poll()
        for fd in (self._raw.fileno(), self._ending):
            self._poll.register(fd, select.POLLIN)

    def readable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._raw.isatty()

    def readinto(self, buffer: bytearray | memoryview) -> int | None:  # type: ignore[override]
        if any(fd == self._ending for fd, _event in self._poll.poll()):
            return 0
        return self._raw.readinto(buffer)

    def interrupt(self) -> None:
        if not self.closed:
            os.write(self._end, b"\0")

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
            os.close(self._ending)
            os.close(self._end)
        super().close()


class _Pump:
    """Runs an iterator in a thread, a little ahead of the event loop that takes its items."""

    def __init__(self, source: Iterator[_Numbered]) -> None:
        self._source = source
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[_Numbered | BaseException | None] = asyncio.Queue()
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

    def _put(self, item: _Numbered | BaseException | None) -> None:
        self._loop.call_soon_threadsafe(self._items.put_nowait, item)

    def stop(self) -> None:
        """End the thread, which waits for nothing but room."""
        self._stopped = True
        self._room.release()
        self._thread.join()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _Numbered:
        item = await self._items.get()
        if item is None:
            raise StopAsyncIteration
        if isinstance(item, BaseException):
            raise item
        self._room.release()
        return item


def _printable(name: str) -> str:
    shown = click.format_filename(name)
    return "".join(char if char.isprintable() else "?" for char in shown)
