"""`SqliteLedger`: an SQLite file for the event loop, with commits in groups.

A thread of its own does the file's work, so that a slow disk does not stop the loop. Whatever is
asked for while a group is being committed goes into the next one: the POSTs of a group wait for one
commit.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import attrs

from everlytic_async.ledger._protocol import Entry, LedgerSession, State, Terms
from everlytic_async.ledger._sqlite_file import (
    Claim,
    Durability,
    LedgerFile,
    LookUp,
    Record,
    Request,
)

__all__ = ["SqliteLedger"]


class SqliteLedger:
    """A ledger in one SQLite file; any number of streams and processes on a machine may share it.

    Hand it to `EverlyticClient.stream_orders`, which opens and closes it. With ``async with``
    around it, it stays open from one stream to the next.

    Args:
        path: Where it lies, on a disk of this machine: SQLite's locks don't hold on network drives.
            It is made where there is none.
        durability: What a record survives: the death of the process, or a loss of power as well.
        wait_s: How long to wait for another process that writes, in seconds.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Durability = Durability.PROCESS,
        wait_s: float = 5.0,
    ) -> None:
        self._path = os.fspath(path)
        self._durability = Durability(durability)
        self._wait_s = wait_s
        self._users = 0
        self._turn = asyncio.Lock()  # one opens or closes at a time
        self._file: LedgerFile | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._waiting: list[tuple[Request, asyncio.Future[Any]]] = []
        self._due = False  # whether the next group is to begin soon
        self._busy = False  # whether one is being committed
        self._idle: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<SqliteLedger {self._path!r}>"

    async def __aenter__(self) -> Self:
        async with self._turn:
            if self._users == 0:
                await self._open()
            self._users += 1
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._users -= 1
        # However often we are cancelled meanwhile: a thread that is left behind holds the file.
        closing = asyncio.ensure_future(self._close_unless_used())
        cancelled: asyncio.CancelledError | None = None
        while not closing.done():
            try:
                await asyncio.shield(closing)
            except asyncio.CancelledError as error:
                if closing.cancelled():
                    raise
                cancelled = error
        closing.result()
        if cancelled is not None:
            raise cancelled

    @asynccontextmanager
    async def session(self, scope: str, host: str) -> AsyncIterator[LedgerSession]:
        """Use it for one endpoint and store; see `Ledger.session`."""
        async with self:
            file = self._file
            assert file is not None  # noqa: S101 - it was opened
            number: int = await asyncio.get_running_loop().run_in_executor(
                self._thread, file.scope, scope, host
            )
            yield _Session(self, number)

    async def _open(self) -> None:
        thread = ThreadPoolExecutor(1, thread_name_prefix="everlytic_async-ledger")

        def opened() -> LedgerFile:
            file = LedgerFile(self._path, durability=self._durability, wait_s=self._wait_s)
            try:
                file.begin_run()
            except BaseException:
                file.close()
                raise
            return file

        opening = asyncio.get_running_loop().run_in_executor(thread, opened)
        try:
            self._file = await asyncio.shield(opening)
        except BaseException:
            # Not before it is known: it may have been opened after we were cancelled.
            opening.add_done_callback(_close_after_all)
            thread.shutdown(wait=False)
            raise
        self._thread = thread

    async def _close_unless_used(self) -> None:
        async with self._turn:
            while self._busy or self._waiting:
                self._idle = asyncio.get_running_loop().create_future()
                await self._idle
            if self._users or self._file is None:
                return
            file, self._file = self._file, None
            thread, self._thread = self._thread, None
            assert thread is not None  # noqa: S101 - it is there as long as the file is
            try:
                await asyncio.get_running_loop().run_in_executor(thread, file.close)
            finally:
                thread.shutdown()

    def _ask(self, request: Request) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        self._waiting.append((request, answer))
        if not self._busy and not self._due:
            self._due = True
            loop.call_soon(self._commit)  # with all that is asked for in the same turn
        return answer

    def _commit(self) -> None:
        self._due = False
        group, self._waiting = self._waiting, []
        assert self._file is not None  # noqa: S101 - who asks uses it
        self._busy = True
        asyncio.get_running_loop().run_in_executor(
            self._thread, self._file.answer, [request for request, _ in group]
        ).add_done_callback(lambda done: self._committed(group, done))

    def _committed(
        self, group: list[tuple[Request, asyncio.Future[Any]]], done: asyncio.Future[list[Any]]
    ) -> None:
        self._busy = False
        error = done.exception()
        for place, (request, answer) in enumerate(group):
            if error is not None:
                if not answer.done():
                    answer.set_exception(error)
                    answer.exception()  # who does not wait for it finds out by the next request
            elif not answer.done():
                answer.set_result(done.result()[place])
            elif isinstance(request, Claim) and done.result()[place][0]:
                self._give_back(request, done.result()[place][1])
        if self._waiting:
            self._commit()
        elif self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _give_back(self, claim: Claim, before: Entry | None) -> None:
        """Who had claimed it was cancelled before it was told: nothing was sent."""
        entry = before or Entry(claim.key, State.NOT_SENT, claim.body, reason="cancelled")
        self._ask(Record(claim.scope, entry))


@attrs.frozen(eq=False)
class _Session:
    """A ledger for one endpoint and store."""

    _ledger: SqliteLedger
    _scope: int

    async def look_up(self, keys: Sequence[str]) -> Mapping[str, Entry]:
        found: Mapping[str, Entry] = await self._ledger._ask(LookUp(self._scope, keys))  # noqa: SLF001 - its other half
        return found

    async def claim(self, key: str, body: str, terms: Terms) -> tuple[bool, Entry | None]:
        answer: tuple[bool, Entry | None] = await self._ledger._ask(  # noqa: SLF001 - its other half
            Claim(self._scope, key, body, terms)
        )
        return answer

    def record(self, entry: Entry) -> Awaitable[None]:
        return self._ledger._ask(Record(self._scope, entry))  # noqa: SLF001 - its other half


def _close_after_all(opening: asyncio.Future[LedgerFile]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
