"""`SqliteLedger`: a ledger in an SQLite file, with the SQL of claims and outcomes.

Each ledger has one thread, which alone uses the file. Claims and outcomes that are asked for within
a moment are one group and one transaction, because a commit costs as much as ten orders.
`_OpenFile` makes the groups in the event loop, and `SqliteWriter` executes them in the thread.
"""

from __future__ import annotations

import asyncio
import enum
import math
import os
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import attrs

from everlytic_async.errors import ConfigurationError, LedgerError
from everlytic_async.ledger._protocol import (
    Entry,
    LedgerSession,
    ResendPolicy,
    State,
    released_entry,
)
from everlytic_async.ledger._shared import SharedLedger
from everlytic_async.ledger._sqlite_checks import FileIdentity, RunFiles
from everlytic_async.ledger._sqlite_file import SqliteFile
from everlytic_async.ledger._sqlite_schema import REPLACE, row_from_entry

__all__ = ["Claim", "Durability", "Record", "SqliteLedger", "SqliteWriter"]

_T = TypeVar("_T")
# From one group to the next, in seconds.
_COMMIT_INTERVAL_S = 0.002
# After this many transactions the log is written into the file, which waits for the disk.
_CHECKPOINT_AFTER = 100


class Durability(enum.StrEnum):
    """What a recorded intent or outcome survives."""

    #: The death of the process, by SIGKILL too, but perhaps not a loss of power.
    PROCESS = "process"
    #: A loss of power as well: each group of commits waits for the disk.
    POWER = "power"


class SqliteLedger(SharedLedger["_OpenFile"]):
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
            number = await self.opened.run(self.opened.file.scope, scope, host)
            yield _Session(self, number)

    async def _open(self) -> _OpenFile:
        thread = ThreadPoolExecutor(1, thread_name_prefix="everlytic_async-ledger")
        opening = thread.submit(
            SqliteWriter, self._name, durability=self._durability, wait_s=self._wait_s
        )
        try:
            file = await asyncio.wrap_future(opening)
        except BaseException:
            # We were cancelled, perhaps, and it will be opened yet; the loop may be gone by then.
            opening.add_done_callback(_close_file)
            thread.shutdown(wait=False)
            raise
        return _OpenFile(thread, file)


def _close_file(opening: Future[SqliteWriter]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


@attrs.frozen(eq=False)
class _Session:
    """A ledger for one endpoint and store."""

    _ledger: SqliteLedger
    _scope: int

    async def look_up(self, keys: Sequence[str]) -> Mapping[str, Entry]:
        opened = self._ledger.opened
        return await opened.run(opened.file.look_up, self._scope, keys)

    async def claim(
        self, key: str, body_digest: str, policy: ResendPolicy
    ) -> tuple[bool, Entry | None]:
        claim = Claim(self._scope, key, body_digest, policy)
        opened = self._ledger.opened
        future = opened.write(claim)
        try:
            answer: tuple[bool, Entry | None] = await future
        except asyncio.CancelledError:
            if not future.cancelled() and future.exception() is None:
                # The answer came in the same turn of the event loop.
                opened.release(claim, *future.result())
            raise
        return answer

    def record(self, entry: Entry) -> Awaitable[None]:
        return self._ledger.opened.write(Record(self._scope, entry))

    async def any_sent(self) -> bool:
        opened = self._ledger.opened
        return await opened.run(opened.file.any_sent, self._scope)


# Without slots a frozen class is made in half the time.
@attrs.frozen(slots=False, eq=False)
class Claim:
    """A request to claim an order. The answer: whether it may be sent, and what was known."""

    scope: int
    key: str
    body_digest: str
    policy: ResendPolicy


@attrs.frozen(slots=False, eq=False)
class Record:
    """A request to record an outcome. The answer: None."""

    scope: int
    entry: Entry

    @property
    def key(self) -> str:
        """The order's key."""
        return self.entry.key


_Group = list[tuple[Claim | Record, asyncio.Future[Any]]]


class _OpenFile:
    """A ledger's file while it is open: requests in groups, for the thread that opened it."""

    def __init__(self, thread: ThreadPoolExecutor, file: SqliteWriter) -> None:
        self.file = file
        self._thread = thread
        self._loop = asyncio.get_running_loop()
        self._group: _Group = []  # the next one
        self._timer: asyncio.TimerHandle | None = None  # of the next group
        self._next_at = 0.0  # not before this, by the loop's clock
        self._is_writing = False

    def write(self, request: Claim | Record) -> asyncio.Future[Any]:
        """Execute a request with the next group; its answer."""
        future = self._loop.create_future()
        self._group.append((request, future))
        self._schedule()
        return future

    def run(self, work: Callable[..., _T], *args: Any) -> asyncio.Future[_T]:
        """Do some work in the thread, after all that was asked for before."""
        self._write_group()
        return self._loop.run_in_executor(self._thread, work, *args)

    def release(self, claim: Claim, granted: bool, before: Entry | None) -> None:
        """Give up a claim that was cancelled before anything was sent."""
        if granted:
            entry = released_entry(claim.key, claim.body_digest, before)
            self.write(Record(claim.scope, entry))

    async def flush(self) -> None:
        """Wait until all that was asked for is done, and what its answers make others ask for."""
        while True:
            await self.run(lambda: None)
            # An answer wakes a task, which may record at once that it sent nothing.
            for _ in range(2):
                await asyncio.sleep(0)
            if not (self._group or self._is_writing):
                break

    async def close(self) -> None:
        """Close the file, after all that was asked for."""
        try:
            await self.run(self.file.close)
        finally:
            self._thread.shutdown()

    def _schedule(self) -> None:
        if self._group and self._timer is None and not self._is_writing:
            self._timer = self._loop.call_at(self._next_at, self._write_group)

    def _write_group(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._group:
            return
        group, self._group = self._group, []
        self._is_writing = True
        requests = [request for request, _ in group]
        writing = self._loop.run_in_executor(self._thread, self.file.write, requests)
        self._next_at = self._loop.time() + _COMMIT_INTERVAL_S
        writing.add_done_callback(partial(self._on_written, group))

    def _on_written(self, group: _Group, writing: asyncio.Future[list[Any]]) -> None:
        """Answer each request of a group, and schedule the next one."""
        self._is_writing = False
        error = writing.exception()
        answers = [None] * len(group) if error else writing.result()
        for (request, future), answer in zip(group, answers, strict=True):
            if future.done():  # it was cancelled
                if answer is not None and isinstance(request, Claim):
                    self.release(request, *answer)
            elif error is None:
                future.set_result(answer)
            else:
                future.set_exception(error)
                future.exception()  # who does not await it notices at the next request
        self._schedule()


class SqliteWriter(SqliteFile):
    """A ledger's file in use by a run, a process that may send. Its methods block."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Durability = Durability.PROCESS,
        wait_s: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(path, wait_s=wait_s, clock=clock)
        self._identity = FileIdentity(self.path, Path(path).absolute())
        self._run: int | None = None
        self._files: RunFiles | None = None
        self._committed = self._checkpointed = 0  # transactions; see `RunFiles.write_note`
        try:
            full = Durability(durability) is Durability.POWER
            self.connection.execute(f"PRAGMA synchronous = {'FULL' if full else 'NORMAL'}")
            # A commit writes only to the log; `_checkpoint_if_due` does the rest.
            self.connection.execute("PRAGMA wal_autocheckpoint = 0")
            self._start_run()
        except BaseException:
            self.close()
            raise

    # ---------------------------------------------------------------------------- claims, outcomes

    def write(self, requests: Sequence[Claim | Record]) -> list[Any]:
        """Execute a group of requests in one transaction, all or nothing; their answers."""
        self._checkpoint_if_due()
        with self.transaction():
            answers = self._write(requests)
            self.connection.execute(
                "UPDATE runs SET committed = committed + 1 WHERE id = ?", (self._run,)
            )
        # Afterwards: what was committed to a file that nobody finds again is not a record.
        self._identity.check()
        self._committed += 1
        self._write_note()
        return answers

    def _write(self, requests: Sequence[Claim | Record]) -> list[Any]:
        now = self.clock()
        known = self._read_known(requests)
        if any(entry.state is State.IN_FLIGHT for entry in known.values()):
            self.recover_crashed_runs()  # a worker that runs for months must notice them
            known = self._read_known(requests)
        answers: list[Any] = []
        rows: dict[tuple[int, str], tuple[Any, ...]] = {}
        for request in requests:
            place = request.scope, request.key
            before = known.get(place)
            if isinstance(request, Claim):
                granted = request.policy.allows(before, request.body_digest)
                answers.append((granted, before))
                if not granted:
                    continue
                run, entry = self._run, Entry(request.key, State.IN_FLIGHT, request.body_digest)
            else:
                run, entry = None, request.entry
                answers.append(None)
                if entry.state is State.INVALID and before is not None and before.state.rank:
                    continue  # its twin was sent, or may have been
            known[place] = entry
            rows[place] = row_from_entry(request.scope, entry, run, now)
        self.connection.executemany(REPLACE, rows.values())
        return answers

    def _read_known(self, requests: Iterable[Claim | Record]) -> dict[tuple[int, str], Entry]:
        """The entries of the orders to claim, and of invalid ones."""
        keys: dict[int, list[str]] = {}
        for request in requests:
            if isinstance(request, Claim) or request.entry.state is State.INVALID:
                keys.setdefault(request.scope, []).append(request.key)
        return {
            (scope, key): entry
            for scope, wanted in keys.items()
            for key, entry in self.read(scope, wanted).items()
        }

    def look_up(self, scope: int, keys: Sequence[str]) -> dict[str, Entry]:
        """What is known of these orders."""
        with self.translate_errors("read"):
            return self.read(scope, keys)

    def any_sent(self, scope: int) -> bool:
        """Whether any order of a scope was sent."""
        # Without an index, which every order would pay for: nearly always one of the first rows is
        # such an order, and it is asked once a stream.
        with self.translate_errors("read"):
            row = self.connection.execute(
                "SELECT 1 FROM orders WHERE scope = ? AND state = ? LIMIT 1",
                (scope, State.SENT.code),
            ).fetchone()
        return row is not None

    # --------------------------------------------------------------------------- the run, its note

    def _start_run(self) -> None:
        self.token = secrets.token_hex(8)
        with self.transaction():  # others see the lock file no sooner than it is locked
            self._files = RunFiles(self.path, self.token)
            self._run = self.connection.execute(
                "INSERT INTO runs (token, began) VALUES (?, ?)", (self.token, self.clock())
            ).lastrowid
            self.recover_crashed_runs()
        # The file itself must know of the run: without its log it would seem that all runs ended.
        with self.translate_errors("written"):
            self.wait_for_others(self._write_log_to_file)
        self._write_note()

    def close(self) -> None:
        """Close the file. What this run has in flight is unknown from now on."""
        ended = self._run is None
        try:
            if self._run is not None:
                # If that can't be written, the next run finds out by the lock and the note.
                with suppress(LedgerError):
                    self._identity.check()
                    with self.transaction():
                        self.end_run(self._run)
                        self.recover_crashed_runs()
                    ended = True
        finally:
            if self._files is not None:
                self._files.remove(keep_note=not ended)
            super().close()

    def _checkpoint_if_due(self) -> None:
        committed = self._committed
        if committed - self._checkpointed < _CHECKPOINT_AFTER:
            return
        # As with SQLite's own: what fails stays in the log, and the next one writes it.
        with suppress(sqlite3.Error, LedgerError):
            if self._write_log_to_file():
                self._checkpointed = committed
                self._write_note()

    def _write_log_to_file(self) -> bool:
        """Whether everything in the log is now in the file."""
        busy, in_log, written = self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        return not busy and bool(in_log == written)

    def _write_note(self) -> None:
        assert self._files is not None  # noqa: S101 - the run has started
        with self.translate_errors("written"):
            self._files.write_note(self._committed, self._checkpointed)
