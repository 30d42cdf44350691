"""`SqliteLedger`: a ledger in an SQLite file, written in groups of claims and outcomes.

`_Groups` decides when the SQL of ``_sqlite_writer`` runs. What is asked for within a moment is one
group and one transaction: a commit costs as much as ten orders.

With durability PROCESS a commit only reaches the system's page cache, which is faster than a hop to
a thread and back, so it runs on the event loop. Whatever may have to wait, for the disk or for
another process, runs in the ledger's one thread.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs

from everlytic_async.errors import ConfigurationError
from everlytic_async.ledger._protocol import Entry, LedgerSession, ResendPolicy, released_entry
from everlytic_async.ledger._shared import SharedLedger
from everlytic_async.ledger._sqlite_schema import is_busy
from everlytic_async.ledger._sqlite_writer import (
    Claim,
    Durability,
    Record,
    Request,
    SqliteWriter,
)

__all__ = ["SqliteLedger"]

# After a group that was written the next one waits at least this long, in seconds.
_COMMIT_INTERVAL_S = 0.002

_Group = Sequence[tuple[Request, asyncio.Future[Any]]]


class _Groups:
    """Executes requests in groups: on the event loop where it does not have to wait.

    Args:
        writer: The file.
        thread: Where the file was opened.
        on_loop: Whether commits need not wait for the disk.
    """

    def __init__(self, writer: SqliteWriter, thread: ThreadPoolExecutor, *, on_loop: bool) -> None:
        self.writer = writer
        self._thread = thread
        self._on_loop = on_loop
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[Request, asyncio.Future[Any]]] = []
        self._timer: asyncio.TimerHandle | None = None  # of the next group
        self._next_at = 0.0  # not before this, by the loop's clock
        self._in_thread = False  # whether the thread is using the file

    @property
    def is_busy(self) -> bool:
        """Whether anything is left to do."""
        return bool(self._waiting) or self._in_thread

    def submit(self, request: Request) -> asyncio.Future[Any]:
        """Have a request executed with the next group."""
        future = self._loop.create_future()
        self._waiting.append((request, future))
        self._schedule()
        return future

    def release(self, claim: Claim, granted: bool, before: Entry | None) -> None:
        """Give up a claim that was cancelled before anything was sent."""
        if granted:
            entry = released_entry(claim.key, claim.body_digest, before)
            self.submit(Record(claim.scope, entry))

    async def close(self) -> None:
        """Close the file."""
        try:
            await self._loop.run_in_executor(self._thread, self.writer.close)
        finally:
            self._thread.shutdown()

    def abandon(self) -> None:
        """Close the file without the event loop, which was closed before."""
        self._thread.submit(self.writer.close)
        self._thread.shutdown(wait=False)

    def _schedule(self) -> None:
        if self._waiting and self._timer is None and not self._in_thread:
            self._timer = self._loop.call_at(self._next_at, self._execute)

    def _execute(self) -> None:
        self._timer = None
        group, self._waiting = self._waiting, []
        requests = [request for request, _ in group]
        if self._on_loop and not self.writer.is_checkpoint_due:
            try:
                answers = self.writer.execute(requests, wait=False)
            except Exception as error:  # noqa: BLE001 - every future gets an answer
                if not is_busy(error.__cause__):
                    self._resolve(group, error)
                    return
            else:
                self._resolve(group, answers)
                return
        self._in_thread = True
        executing = self._loop.run_in_executor(self._thread, self.writer.execute, requests)
        executing.add_done_callback(partial(self._on_executed, group))

    def _on_executed(self, group: _Group, executing: asyncio.Future[list[Any]]) -> None:
        self._in_thread = False
        error = executing.exception()
        self._resolve(group, executing.result() if error is None else error)

    def _resolve(self, group: _Group, answers: Sequence[Any] | BaseException) -> None:
        """Answer each request of a group, and schedule the next one."""
        if any(isinstance(request, Claim | Record) for request, _ in group):
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


class SqliteLedger(SharedLedger[_Groups]):
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
        super().__init__(os.fsdecode(path), "file")
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

    @asynccontextmanager
    async def session(self, scope: str, host: str) -> AsyncIterator[LedgerSession]:
        """Use it for one endpoint and store; see `everlytic_async.Ledger.session`."""
        async with self:
            number = await self.opened.submit(partial(self.opened.writer.scope, scope, host))
            yield _Session(self, number)

    async def _open(self) -> _Groups:
        thread = ThreadPoolExecutor(1, thread_name_prefix="everlytic_async-ledger")
        opening = thread.submit(
            partial(SqliteWriter, self._name, durability=self._durability, wait_s=self._wait_s)
        )
        try:
            writer = await asyncio.wrap_future(opening)
        except BaseException:
            # We were cancelled, perhaps, and it will be opened yet; the loop may be gone by then.
            opening.add_done_callback(_close_writer)
            thread.shutdown(wait=False)
            raise
        return _Groups(writer, thread, on_loop=self._durability is Durability.PROCESS)

    async def _finish(self, opened: _Groups) -> None:
        # Once: those who stay may ask for more and more. The last to leave waits for all.
        await asyncio.wait([opened.submit(_flush)])
        while opened.is_busy and not self._users:
            await asyncio.wait([opened.submit(_flush)])

    async def _close(self, opened: _Groups) -> None:
        await opened.close()

    def _abandon(self, opened: _Groups) -> None:
        opened.abandon()


@attrs.frozen(eq=False)
class _Session:
    """A ledger for one endpoint and store."""

    _ledger: SqliteLedger
    _scope: int

    async def look_up(self, keys: Sequence[str]) -> Mapping[str, Entry]:
        groups = self._ledger.opened
        known: Mapping[str, Entry] = await groups.submit(
            partial(groups.writer.look_up, self._scope, keys)
        )
        return known

    async def claim(
        self, key: str, body_digest: str, policy: ResendPolicy
    ) -> tuple[bool, Entry | None]:
        claim = Claim(self._scope, key, body_digest, policy)
        groups = self._ledger.opened
        future = groups.submit(claim)
        try:
            granted, before = await future
        except asyncio.CancelledError:
            if not future.cancelled() and future.exception() is None:
                # The answer came in the same turn of the event loop.
                groups.release(claim, *future.result())
            raise
        return granted, before

    def record(self, entry: Entry) -> Awaitable[None]:
        return self._ledger.opened.submit(Record(self._scope, entry))

    async def any_sent(self) -> bool:
        groups = self._ledger.opened
        found: bool = await groups.submit(partial(groups.writer.any_sent, self._scope))
        return found


def _flush() -> None:
    """A request that is done once all that were made before are."""


def _close_writer(opening: Future[SqliteWriter]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
