"""`SharedLedger`: opened by the first of its users and closed by the last, in one event loop."""

from __future__ import annotations

import asyncio
import os
import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from everlytic_async._waiting import run_shielded, run_to_end
from everlytic_async.errors import ConfigurationError, LedgerError

__all__ = ["OpenLedger", "SharedLedger"]


class OpenLedger(Protocol):
    """A ledger while it is open."""

    async def flush(self) -> None:
        """Wait until all that was asked for before is done."""

    async def close(self) -> None:
        """Wait until all that was asked for is done, and close it."""

    def abandon(self) -> None:
        """Give it up without its event loop, which was closed before."""


_T = TypeVar("_T", bound=OpenLedger)


class SharedLedger(ABC, Generic[_T]):
    """A ledger that several streams may open; while it is open it belongs to one event loop.

    Args:
        name: Of the ledger, for messages.
        place: What several of its objects may share, for messages.
    """

    def __init__(self, name: str, place: str) -> None:
        self._name = name
        self._place = place
        self._binding = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid: int | None = None
        self._reset()

    def _reset(self) -> None:
        self._users = 0
        self._opening = asyncio.Lock()  # one at a time
        self._opened: _T | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name!r}>"

    async def __aenter__(self) -> Self:
        with self._binding:  # two threads may enter it at once
            self._bind(asyncio.get_running_loop())
            self._users += 1
        try:
            async with self._opening:
                if self._opened is None:
                    # Kept within the task: if we are cancelled as it ends, leaving closes it.
                    await run_shielded(self._open_and_keep())
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._leave()

    @property
    def opened(self) -> _T:
        """What is open.

        Raises:
            LedgerError: it is closed.
        """
        if self._opened is None:
            raise LedgerError(f"the ledger {self._name!r} is not open")
        return self._opened

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        pid = os.getpid()
        if self._loop is loop and self._pid == pid:
            return
        if self._loop is not None and self._users:
            if self._pid != pid or not self._loop.is_closed():
                kind = type(self).__name__
                raise ConfigurationError(
                    f"this {kind} is open in another event loop, thread or process. Make one "
                    f"{kind} object for each event loop (each thread and each `asyncio.run` has "
                    f"its own): they may share the {self._place}"
                )
            if self._opened is not None:
                self._opened.abandon()
        self._loop, self._pid = loop, pid
        self._reset()

    async def _open_and_keep(self) -> None:
        self._opened = await self._open()

    async def _leave(self) -> None:
        """Wait until everything is recorded, however often we are cancelled; the last one closes.

        What was sent must be recorded, and a thread that is left behind would hold the file.
        """
        self._users -= 1
        if self._opened is not None:
            await run_to_end(self._release(self._opened))

    async def _release(self, opened: _T) -> None:
        await opened.flush()
        if not self._users and self._opened is opened:
            self._opened = None
            await opened.close()

    @abstractmethod
    async def _open(self) -> _T: ...
