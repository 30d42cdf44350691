"""`SqliteLedger`: a ledger in an SQLite file, written in groups of claims and outcomes.

It decides when the SQL of ``_sqlite_writer`` runs. What is asked for within a moment is one group
and one transaction: a commit costs as much as ten orders.

With durability PROCESS a commit only reaches the system's page cache, which is faster than a hop to
a thread and back, so it runs on the event loop. Whatever may have to wait, for the disk or for
another process, runs in the ledger's one thread.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self

import attrs

from everlytic_async._cancel import finish_despite_cancel
from everlytic_async.errors import ConfigurationError, LedgerError
from everlytic_async.ledger._protocol import (
    Entry,
    LedgerSession,
    ResendPolicy,
    in_use_error,
    released_entry,
)
from everlytic_async.ledger._sqlite_schema import is_busy
from everlytic_async.ledger._sqlite_writer import (
    Claim,
    Durability,
    Record,
    Request,
    SqliteWriter,
)

__all__ = ["SqliteLedger"]

# Under load a group is committed no sooner than this after the one before, in seconds.
_COMMIT_INTERVAL_S = 0.002

_Group = Sequence[tuple[Request, asyncio.Future[Any]]]


class SqliteLedger:
    """A ledger in one SQLite file; any number of streams and processes on a machine may share it.

    Hand it to `EverlyticClient` or to `EverlyticClient.stream_orders`, which open and close it.
    With ``async with`` around it, it stays open from one stream to the next. While it is open it
    belongs to one event loop; other threads, event loops and processes create their own for the
    same file, and get a `ConfigurationError` if they use this one.

    Args:
        path: Where it is, on a disk of this machine: SQLite's locks don't hold on network drives.
            It is created if there is none.
        durability: What a record survives: the death of the process, or a loss of power as well.
        wait_s: How long to wait for another process that writes, in seconds.

    Raises:
        ConfigurationError: the durability or the seconds are wrong.
        TypeError: the path is none.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Durability = Durability.PROCESS,
        wait_s: float = 5.0,
    ) -> None:
        self._path = os.fsdecode(path)
        try:
            self._durability = Durability(durability)
        except ValueError:
            raise ConfigurationError(
                f"durability must be {' or '.join(Durability)}, got {durability!r}"
            ) from None
        seconds: object = wait_s
        if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
            raise ConfigurationError(f"wait_s must be a number of seconds, got {seconds!r}")
        self._wait_s = wait_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid: int | None = None
        self._binding = threading.Lock()
        self._reset()

    def _reset(self) -> None:
        """Start again for another event loop."""
        self._open_count = 0
        self._opening = asyncio.Lock()  # one at a time
        self._writer: SqliteWriter | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._waiting: list[tuple[Request, asyncio.Future[Any]]] = []
        self._timer: asyncio.TimerHandle | None = None  # of the next group
        self._next_at = 0.0  # not before this, by the loop's clock
        self._in_thread = False  # whether the thread is using the file

    def __repr__(self) -> str:
        return f"<SqliteLedger {self._path!r}>"

    async def __aenter__(self) -> Self:
        with self._binding:  # two threads may enter it at once
            self._bind(asyncio.get_running_loop())
            self._open_count += 1
        try:
            async with self._opening:
                if self._writer is None:
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
        """Use it for one endpoint and store; see `everlytic_async.Ledger.session`."""
        async with self:
            assert self._writer is not None  # noqa: S101 - it is open
            number: int = await self.submit(partial(self._writer.scope, scope, host))
            yield _Session(self, self._writer, number)

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Belong to this event loop.

        Raises:
            ConfigurationError: another one uses it, or the process that this one was forked from.
        """
        pid = os.getpid()
        if self._loop is loop and self._pid == pid:
            return
        if self._loop is not None and (self._open_count or self._writer is not None):
            if self._pid != pid or not self._loop.is_closed():
                raise in_use_error("SqliteLedger", "file")
            if self._thread is not None and self._writer is not None:
                # That loop was closed before the ledger was: nobody sends any more.
                self._thread.submit(self._writer.close)
                self._thread.shutdown(wait=False)
        self._loop, self._pid = loop, pid
        self._reset()

    async def _open(self) -> None:
        thread = ThreadPoolExecutor(1, thread_name_prefix="everlytic_async-ledger")
        opening = thread.submit(
            partial(SqliteWriter, self._path, durability=self._durability, wait_s=self._wait_s)
        )
        try:
            self._writer = await asyncio.wrap_future(opening)
        except BaseException:
            # We were cancelled, perhaps, and it will be opened yet; the loop may be gone by then.
            opening.add_done_callback(_close_writer)
            thread.shutdown(wait=False)
            raise
        self._thread = thread

    async def _leave(self) -> None:
        """Wait until all requests are done; the last one to leave closes the file."""
        cancelled: asyncio.CancelledError | None = None

        async def wait(future: asyncio.Future[Any]) -> None:
            # However often we are cancelled: a thread that is left behind would hold the file.
            nonlocal cancelled
            try:
                await finish_despite_cancel(future)
            except asyncio.CancelledError as error:
                cancelled = error

        self._open_count -= 1
        if self._open_count and self._writer is not None:
            await wait(self.submit(_flush))  # once: those who stay may ask for more and more
        while not self._open_count and (self._waiting or self._in_thread):
            await wait(self.submit(_flush))
        writer, thread = self._writer, self._thread
        if not self._open_count and writer is not None and thread is not None:
            self._writer = self._thread = None
            closing = asyncio.get_running_loop().run_in_executor(thread, writer.close)
            await wait(closing)
            thread.shutdown()
            closing.result()
        if cancelled is not None:
            raise cancelled

    def submit(self, request: Request, *, urgent: bool = False) -> asyncio.Future[Any]:
        """Have a request executed with the next group.

        Args:
            request: What is asked for.
            urgent: Whether that group is executed in the next turn of the event loop.

        Raises:
            LedgerError: the ledger is not open.
        """
        if self._writer is None or self._loop is None:
            raise LedgerError(f"the ledger {self._path!r} is not open")
        future = self._loop.create_future()
        self._waiting.append((request, future))
        if urgent:
            self._next_at = 0.0
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        if self._timer is None:
            self._schedule()
        return future

    def _schedule(self) -> None:
        if self._waiting and self._timer is None and not self._in_thread:
            assert self._loop is not None  # noqa: S101 - it is open
            self._timer = self._loop.call_at(self._next_at, self._execute)

    def _execute(self) -> None:
        """Execute what is waiting: here if it does not have to wait, otherwise in the thread."""
        writer, loop = self._writer, self._loop
        assert writer is not None  # noqa: S101 - it is open
        assert loop is not None  # noqa: S101
        self._timer = None
        group, self._waiting = self._waiting, []
        requests = [request for request, _ in group]
        if self._durability is Durability.PROCESS and not writer.is_checkpoint_due:
            try:
                answers = writer.execute(requests, wait=False)
            except Exception as error:  # noqa: BLE001 - every future gets an answer
                if not is_busy(error.__cause__):
                    self._resolve(group, error)
                    return
            else:
                self._resolve(group, answers)
                return
        self._in_thread = True
        executing = loop.run_in_executor(self._thread, writer.execute, requests)
        executing.add_done_callback(partial(self._on_executed, group))

    def _on_executed(self, group: _Group, executing: asyncio.Future[list[Any]]) -> None:
        self._in_thread = False
        error = executing.exception()
        self._resolve(group, executing.result() if error is None else error)

    def _resolve(self, group: _Group, answers: Sequence[Any] | BaseException) -> None:
        """Answer each request of a group, and schedule the next one."""
        assert self._loop is not None  # noqa: S101 - it is open
        self._next_at = self._loop.time() + _COMMIT_INTERVAL_S
        if isinstance(answers, BaseException):
            for _, future in group:
                if not future.done():
                    future.set_exception(answers)
                    future.exception()  # who does not await it notices at the next request
        else:
            for (request, future), answer in zip(group, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
                elif isinstance(request, Claim):
                    self.release(request, *answer)
        self._schedule()

    def release(self, claim: Claim, granted: bool, before: Entry | None) -> None:
        """Give up a claim that was cancelled before anything was sent."""
        if granted:
            entry = released_entry(claim.key, claim.body_digest, before)
            self.submit(Record(claim.scope, entry))


@attrs.frozen(eq=False)
class _Session:
    """A ledger for one endpoint and store."""

    _ledger: SqliteLedger
    _writer: SqliteWriter
    _scope: int

    async def look_up(self, keys: Sequence[str]) -> Mapping[str, Entry]:
        look_up = partial(self._writer.look_up, self._scope, keys)
        known: Mapping[str, Entry] = await self._ledger.submit(look_up, urgent=True)
        return known

    async def claim(
        self, key: str, body_digest: str, policy: ResendPolicy
    ) -> tuple[bool, Entry | None]:
        claim = Claim(self._scope, key, body_digest, policy)
        future = self._ledger.submit(claim)
        try:
            granted, before = await future
        except asyncio.CancelledError:
            if not future.cancelled() and future.exception() is None:
                # The answer came in the same turn of the event loop.
                self._ledger.release(claim, *future.result())
            raise
        return granted, before

    def record(self, entry: Entry) -> Awaitable[None]:
        return self._ledger.submit(Record(self._scope, entry))

    async def any_sent(self) -> bool:
        found: bool = await self._ledger.submit(partial(self._writer.any_sent, self._scope))
        return found


def _flush() -> None:
    """A request that is done once all that were made before are."""


def _close_writer(opening: Future[SqliteWriter]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
