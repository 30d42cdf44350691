"""`SharedLedger`: opened by the first of its users and closed by the last, in one event loop."""

from __future__ import annotations

import asyncio
import os
import threading
from abc import ABC, abstractmethod
from typing import Generic, Protocol, Self, TypeVar

from everlytic_async._waiting import run_shielded, run_to_end
from everlytic_async.errors import ConfigurationError, LedgerError

__all__ = ["SharedLedger"]


class _Opened(Protocol):
    """A ledger while it is open."""

    async def flush(self) -> None:
        """Wait until all that was asked for before is done."""

    async def close(self) -> None:
        """Wait until all that was asked for is done, and close it."""


_T = TypeVar("_T", bound=_Opened)


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
        self._owner: tuple[asyncio.AbstractEventLoop, int] | None = None  # and the process's id
        self._users = 0
        self._opening = asyncio.Lock()  # one at a time
        self._opened: _T | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name!r}>"

    async def __aenter__(self) -> Self:
        with self._binding:  # two threads may enter it at once
            self._bind((asyncio.get_running_loop(), os.getpid()))
            self._users += 1
        try:
            async with self._opening:
                if self._opened is None:
                    # Kept within the task: if we are cancelled as it ends, leaving closes it.
                    await run_shielded(self._open_and_keep())
        except BaseException:
            await run_to_end(self._leave())
            raise
        return self

    async def __aexit__(self, *_error: object) -> None:
        # However often we are cancelled: what was sent must be recorded, and a thread that is left
        # behind would hold the file.
        await run_to_end(self._leave())

    @property
    def opened(self) -> _T:
        """What is open.

        Raises:
            LedgerError: it is closed.
        """
        if self._opened is None:
            raise LedgerError(f"the ledger {self._name!r} is not open")
        return self._opened

    def _bind(self, owner: tuple[asyncio.AbstractEventLoop, int]) -> None:
        if not self._users:
            self._owner = owner
            self._opening = asyncio.Lock()  # it belongs to one event loop, too
        elif self._owner != owner:
            kind = type(self).__name__
            raise ConfigurationError(
                f"this {kind} is open in another event loop, thread or process. Make one {kind} "
                "object for each event loop (each thread and each `asyncio.run` has its own): "
                f"they may share the {self._place}"
            )

    async def _open_and_keep(self) -> None:
        self._opened = await self._open()

    async def _leave(self) -> None:
        """Wait until everything is recorded; the last one closes it."""
        opened = self._opened
        if opened is not None:
            await opened.flush()
        is_last = self._users == 1
        if is_last:
            self._opened = None  # before another thread may enter it
        self._users -= 1
        if is_last and opened is not None:
            await opened.close()

    @abstractmethod
    async def _open(self) -> _T: ...
