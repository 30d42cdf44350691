"""`SqliteLedger`: an SQLite file for the event loop, with commits in groups.

The POSTs of a group wait for one commit. What survives the process is written to the system's own
memory, which takes less time than to hand it to a thread and back: the loop does that itself, once
every two milliseconds at most. Look-ups, which write nothing, it answers at once. Whatever may have
to wait, for the disk or for another process, is done by a thread, and what is asked for meanwhile
goes into the next group.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self

import attrs

from everlytic_async.errors import LedgerError
from everlytic_async.ledger._protocol import Entry, LedgerSession, State, Terms
from everlytic_async.ledger._sqlite_file import (
    AnySent,
    Claim,
    Durability,
    LedgerFile,
    LookUp,
    Record,
    Request,
    Scope,
)

__all__ = ["SqliteLedger"]


# Under load a group begins no sooner than this after the one before, in seconds: a commit costs as
# much as ten orders do. Where nothing else goes on it begins at once.
_GROUP_S = 0.002
# After so many groups the log is emptied, which waits for the disk.
_CHECKPOINT_GROUPS = 100
# To be asked for so as to know when all that was asked for before is done.
_NOTHING = LookUp(0, ())


class SqliteLedger:
    """A ledger in one SQLite file; any number of streams and processes on a machine may share it.

    Hand it to `EverlyticClient.stream_orders`, which opens and closes it. With ``async with``
    around it, it stays open from one stream to the next. While it is open it belongs to one event
    loop; others, and forked processes, make their own for the same file.

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
        self._loop: asyncio.AbstractEventLoop | None = None
        self._users = 0  # who opens it is one already, who closes it is none any more
        self._file: LedgerFile | None = None
        self._begin_anew()

    def _begin_anew(self) -> None:
        """What belongs to one event loop."""
        self._opening = asyncio.Lock()  # one at a time
        self._thread: ThreadPoolExecutor | None = None
        self._waiting: list[tuple[Request, asyncio.Future[Any]]] = []
        self._next: asyncio.Handle | None = None  # begins the next group
        self._next_at = 0.0  # by the loop's clock: not before
        self._groups = 0
        self._busy = False  # whether one is being committed
        self._idle: asyncio.Future[None] | None = None  # for those who wait until none is

    def __repr__(self) -> str:
        return f"<SqliteLedger {self._path!r}>"

    async def __aenter__(self) -> Self:
        self._be_of(asyncio.get_running_loop())
        self._users += 1
        try:
            async with self._opening:
                if self._file is None:
                    await self._open()
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

    @asynccontextmanager
    async def session(self, scope: str, host: str) -> AsyncIterator[LedgerSession]:
        """Use it for one endpoint and store; see `Ledger.session`."""
        async with self:
            number: int = await self._ask(Scope(scope, host))
            yield _Session(self, number)

    def _be_of(self, loop: asyncio.AbstractEventLoop) -> None:
        """Belong to this event loop, unless another one uses it.

        Raises:
            RuntimeError: another one does; perhaps that of the process that this one was forked of.
        """
        if self._loop is loop:
            return
        if self._loop is not None and (self._users or self._file is not None):
            if not self._loop.is_closed():
                raise RuntimeError(
                    "an open ledger belongs to one event loop of one process: make another "
                    "SqliteLedger for this one; they may share the file"
                )
            if self._thread is not None and self._file is not None:
                # That loop was closed in the midst: nobody sends any more, nobody will close it.
                self._thread.submit(self._file.close)
                self._thread.shutdown(wait=False)
            self._file, self._users = None, 0
        self._loop = loop
        self._begin_anew()

    async def _open(self) -> None:
        thread = ThreadPoolExecutor(1, thread_name_prefix="everlytic_async-ledger")

        def opened() -> LedgerFile:
            file = LedgerFile(self._path, durability=self._durability, wait_s=self._wait_s)
            try:
                file.begin_run()
                if self._durability is Durability.PROCESS:
                    file.leave_checkpoints()
            except BaseException:
                file.close()
                raise
            return file

        opening = thread.submit(opened)
        try:
            self._file = await asyncio.wrap_future(opening)
        except BaseException:
            # It may yet be opened after we were cancelled; the loop may be gone by then.
            thread.submit(_close_after_all, opening)
            thread.shutdown(wait=False)
            raise
        self._thread = thread

    async def _leave(self) -> None:
        """Wait until all that was asked for is recorded; the last one to leave closes the file."""
        self._users -= 1
        cancelled: asyncio.CancelledError | None = None

        async def end_of(future: asyncio.Future[Any]) -> None:
            # However often we are cancelled meanwhile: a thread that is left behind holds the file.
            nonlocal cancelled
            while not future.done():
                try:
                    await asyncio.wait([future])
                except asyncio.CancelledError as error:
                    cancelled = error

        if self._users and self._file is not None:
            await end_of(self._ask(_NOTHING))  # those who stay may have more and more to ask for
        while not self._users and (self._busy or self._waiting):
            self._idle = self._idle or asyncio.get_running_loop().create_future()
            await end_of(self._idle)
        file, thread = self._file, self._thread
        if not self._users and file is not None and thread is not None:
            self._file = self._thread = None
            closing = asyncio.get_running_loop().run_in_executor(thread, file.close)
            await end_of(closing)
            thread.shutdown()
            closing.result()
        if cancelled is not None:
            raise cancelled

    def _ask(self, request: Request) -> asyncio.Future[Any]:
        loop = self._loop
        if self._file is None or loop is None:
            raise LedgerError(f"the ledger {self._path!r} is not open")
        answer = loop.create_future()
        self._waiting.append((request, answer))
        if not self._busy and self._next is None:
            self._schedule(loop)
        return answer

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        wait_s = self._next_at - loop.time()
        if wait_s > 0:
            self._next = loop.call_later(wait_s, self._commit, loop)
        else:
            self._next = loop.call_soon(self._commit, loop)  # with all that is asked in this turn

    def _commit(self, loop: asyncio.AbstractEventLoop) -> None:
        file = self._file
        assert file is not None  # noqa: S101 - who asks uses it
        self._next = None
        group, self._waiting = self._waiting, []
        requests = [request for request, _ in group]
        answers: list[Any] | LedgerError | None = None
        if self._durability is Durability.PROCESS:
            try:
                answers = file.answer_at_once(requests)
            except LedgerError as error:
                answers = error
        if answers is None:
            self._in_thread(loop, partial(file.answer, requests), partial(self._answered, group))
            return
        self._next_at = loop.time() + _GROUP_S
        self._groups += 1
        if self._groups % _CHECKPOINT_GROUPS == 0:
            self._in_thread(loop, file.checkpoint, _nothing_to_tell)
        self._tell(group, answers)
        self._go_on(loop)

    async def _look_up(self, request: LookUp) -> Mapping[str, Entry]:
        """Read at once where the file is free, for that waits for nobody."""
        await asyncio.sleep(0)  # others have their turn, however many there are to look up
        found = None
        if self._file is not None and not self._busy:
            found = self._file.answer_at_once([request])
        answers: list[Mapping[str, Entry]] = [await self._ask(request)] if found is None else found
        return answers[0]

    def _in_thread(
        self, loop: asyncio.AbstractEventLoop, work: Callable[[], Any], then: Callable[[Any], None]
    ) -> None:
        """Do one piece of the file's work in the thread: meanwhile nobody else may."""

        def ended(done: asyncio.Future[Any]) -> None:
            self._busy = False
            then(done)
            self._go_on(loop)

        self._busy = True
        loop.run_in_executor(self._thread, work).add_done_callback(ended)

    def _answered(
        self, group: Sequence[tuple[Request, asyncio.Future[Any]]], done: asyncio.Future[list[Any]]
    ) -> None:
        error = done.exception()
        self._tell(group, done.result() if error is None else error)

    def _tell(
        self,
        group: Sequence[tuple[Request, asyncio.Future[Any]]],
        answers: Sequence[Any] | BaseException,
    ) -> None:
        """Answer those who asked, each for itself."""
        if isinstance(answers, BaseException):
            for _, asked in group:
                if not asked.done():
                    asked.set_exception(answers)
                    asked.exception()  # who does not wait for it finds out by the next request
            return
        for (request, asked), answer in zip(group, answers, strict=True):
            if not asked.done():
                asked.set_result(answer)
            elif isinstance(request, Claim):
                self._give_back(request, *answer)

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin the next group, or tell that there is none."""
        if self._busy:
            return
        if self._waiting:
            if self._next is None:
                self._schedule(loop)
        elif self._idle is not None:
            self._idle.set_result(None)
            self._idle = None

    def _give_back(self, claim: Claim, granted: bool, before: Entry | None) -> None:
        """Who had claimed it was cancelled before it could make use of that: nothing was sent."""
        if not granted:
            return
        if before is None or before.state is State.INVALID:  # it is a valid one by now
            before = Entry(claim.key, State.NOT_SENT, claim.body, reason="it was cancelled")
        self._ask(Record(claim.scope, before))


@attrs.frozen(eq=False)
class _Session:
    """A ledger for one endpoint and store."""

    _ledger: SqliteLedger
    _scope: int

    async def look_up(self, keys: Sequence[str]) -> Mapping[str, Entry]:
        return await self._ledger._look_up(LookUp(self._scope, keys))  # noqa: SLF001 - its other half

    async def claim(self, key: str, body: str, terms: Terms) -> tuple[bool, Entry | None]:
        claim = Claim(self._scope, key, body, terms)
        asked = self._ledger._ask(claim)  # noqa: SLF001 - its other half
        try:
            granted, before = await asked
        except asyncio.CancelledError:
            if not asked.cancelled() and asked.exception() is None:
                # The answer came in the same turn of the loop.
                self._ledger._give_back(claim, *asked.result())  # noqa: SLF001 - its other half
            raise
        return granted, before

    def record(self, entry: Entry) -> Awaitable[None]:
        return self._ledger._ask(Record(self._scope, entry))  # noqa: SLF001 - its other half

    async def any_sent(self) -> bool:
        found: bool = await self._ledger._ask(AnySent(self._scope))  # noqa: SLF001 - its other half
        return found


def _nothing_to_tell(done: asyncio.Future[None]) -> None:
    done.result()


def _close_after_all(opening: Future[LedgerFile]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
