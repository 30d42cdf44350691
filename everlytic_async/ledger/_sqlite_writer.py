"""`SqliteWriter`: a ledger's file in use by a run, and the SQL of claims and outcomes."""

from __future__ import annotations

import enum
import json
import math
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from everlytic_async.errors import LedgerError
from everlytic_async.ledger._protocol import Entry, ResendPolicy, ScopeName, State
from everlytic_async.ledger._sqlite_checks import FileIdentity
from everlytic_async.ledger._sqlite_file import SqliteFile
from everlytic_async.ledger._sqlite_runs import Note, RunFiles

__all__ = ["Claim", "Durability", "Record", "Request", "SqliteWriter"]

# After this many transactions the log is written into the file, which waits for the disk.
_CHECKPOINT_AFTER = 100
# A claim of what another run has in flight checks at most this often whether that one is alive, in
# seconds.
_STALE_CHECK_S = 1.0
_RETRY_S = 0.005

_ON_CONFLICT = """
    ON CONFLICT (scope, key) DO UPDATE SET
        body = excluded.body, state = excluded.state, run = excluded.run,
        attempts = excluded.attempts, status = excluded.status, reason = excluded.reason,
        at = excluded.at
"""
_COLUMNS = "orders (scope, key, body, state, run, attempts, status, reason, at)"
_UPSERT = f"INSERT INTO {_COLUMNS} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) {_ON_CONFLICT}"  # noqa: S608 - constants
_RANK = " ".join(f"WHEN {state.code} THEN {state.rank}" for state in State)
_MERGE = f"""
    INSERT INTO {_COLUMNS}
    SELECT ?, key, body, state, run, attempts, status, reason, at FROM orders WHERE scope = ?
    {_ON_CONFLICT}
    WHERE (CASE excluded.state {_RANK} END, excluded.at)
        > (CASE orders.state {_RANK} END, orders.at)
"""  # noqa: S608 - a constant


class Durability(enum.StrEnum):
    """What a recorded intent or outcome survives."""

    #: The death of the process, by SIGKILL too, but perhaps not a loss of power.
    PROCESS = "process"
    #: A loss of power as well: each group of commits waits for the disk.
    POWER = "power"


@attrs.frozen
class Claim:
    """A request to claim an order. The answer: whether it may be sent, and what was known."""

    scope: int
    key: str
    body_digest: str
    policy: ResendPolicy


@attrs.frozen
class Record:
    """A request to record an outcome. The answer: None."""

    scope: int
    entry: Entry

    @property
    def key(self) -> str:
        """The order's key."""
        return self.entry.key


#: A claim or a record; or a function that only reads, or writes in a transaction.
Request = Claim | Record | Callable[[], Any]


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
        self._busy_timeout_s = wait_s
        self._stale_checked_at = -math.inf
        self._note = Note()
        self._run: int | None = None
        self._files: RunFiles | None = None
        try:
            full = Durability(durability) is Durability.POWER
            self.connection.execute(f"PRAGMA synchronous = {'FULL' if full else 'NORMAL'}")
            # A commit writes only to the log; `checkpoint` does the rest.
            self.connection.execute("PRAGMA wal_autocheckpoint = 0")
            self._start_run()
        except BaseException:
            self.close()
            raise

    def _start_run(self) -> None:
        self.token = token = secrets.token_hex(8)
        with self.transaction():  # others see the lock file no sooner than it is locked
            self._files = RunFiles(self.path, token)
            run = self.connection.execute(
                "INSERT INTO runs (token, began) VALUES (?, ?)", (token, self.clock())
            ).lastrowid
            self.recover_crashed_runs()
        self._run = run
        # The file itself must know of the run: without its log it would seem that all runs ended.
        until = time.monotonic() + self.wait_s
        with self.translate_errors("written"):
            while not self._write_log_to_file():
                if time.monotonic() >= until:
                    raise self.ledger_error("written", "another process keeps reading it")
                time.sleep(_RETRY_S)
            self._files.write(self._note)

    def close(self) -> None:
        """Close the file. What this run has in flight is unknown from now on."""
        ended = self._run is None
        try:
            if self._run is not None:
                # If that can't be written, the next run finds out by the lock and the note.
                with suppress(LedgerError):
                    self._wait_for_others(self.wait_s)
                    self._identity.check()
                    with self.transaction():
                        self.end_run(self._run)
                        self.recover_crashed_runs()
                    ended = True
        finally:
            if self._files is not None:
                self._files.remove(keep_note=not ended)
            super().close()

    def execute(self, requests: Sequence[Request], *, wait: bool = True) -> list[Any]:
        """Do what is asked for, in one transaction; the answers.

        Args:
            requests: What is asked for.
            wait: Whether to wait for another process that holds the file.

        Raises:
            LedgerError: it can't be done: then nothing of it was. Its cause `is_busy` if another
                process holds the file.
        """
        self._wait_for_others(self.wait_s if wait else 0.0)
        writes = [request for request in requests if isinstance(request, Claim | Record)]
        if not writes:
            return [request() for request in requests if callable(request)]
        if wait and self.is_checkpoint_due:
            self._checkpoint()
        with self.transaction():
            written = iter(self._write(writes))
            # A look-up comes after the writes: it sees all that was asked for before it.
            answers = [
                next(written) if isinstance(request, Claim | Record) else request()
                for request in requests
            ]
            self.connection.execute(
                "UPDATE runs SET committed = committed + 1 WHERE id = ?", (self._run,)
            )
        # Afterwards: what was committed to a file that nobody finds again is not a record.
        self._identity.check()
        self._update_note(committed=self._note.committed + 1)
        return answers

    def _write(self, requests: Sequence[Claim | Record]) -> list[Any]:
        now = self.clock()
        known = self._read_known(requests)
        if self._should_check_stale(known):
            self.recover_crashed_runs()
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
            rows[place] = self._row(request.scope, entry, run, now)
        self.connection.executemany(_UPSERT, rows.values())
        return answers

    def _row(self, scope: int, entry: Entry, run: int | None, now: float) -> tuple[Any, ...]:
        reason = entry.reason
        if reason is not None:  # half a character would make the whole row unreadable
            reason = reason.encode("utf-8", "replace").decode()
        values = entry.state.code, run, entry.attempts, entry.status, reason, now
        return scope, entry.key, entry.body_digest, *values

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

    def _should_check_stale(self, known: Mapping[tuple[int, str], Entry]) -> bool:
        """Whether to look for crashed runs: a worker that runs for months must notice them."""
        now = time.monotonic()
        if now - self._stale_checked_at < _STALE_CHECK_S or not any(
            entry.state is State.IN_FLIGHT for entry in known.values()
        ):
            return False
        self._stale_checked_at = now
        return True

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

    # ------------------------------------------------------------------------ endpoints and stores

    def scope(self, name: str, host: str) -> int:
        """The number of an endpoint and store, with all that earlier versions knew of it."""
        with self.transaction():
            scopes = self.connection.execute("SELECT id, name, host FROM scopes").fetchall()
            numbers = {name: number for number, name, _ in scopes}
            earlier: list[int] = []
            if isinstance(name, ScopeName) and numbers.keys() - {name}:
                names = name.earlier({host for *_, host in scopes})
                earlier = [numbers[name] for name in names if name in numbers]
            if earlier:
                number: int = numbers.get(str(name), earlier[0])
                self._adopt(number, str(name), host, earlier)
                return number
            self.connection.execute(
                "INSERT INTO scopes (name, host) VALUES (?, ?) ON CONFLICT DO NOTHING",
                (str(name), host),
            )
            row = self.connection.execute("SELECT id FROM scopes WHERE name = ?", (str(name),))
            (number,) = row.fetchone()
            return number

    def _adopt(self, number: int, name: str, host: str, earlier: Sequence[int]) -> None:
        """Within a transaction: merge the scopes that earlier versions kept apart into one."""
        self.recover_crashed_runs()
        (in_flight,) = self.connection.execute(
            "SELECT count(*) FROM orders "
            "WHERE state = ? AND scope IN (SELECT value FROM json_each(?))",
            (State.IN_FLIGHT.code, json.dumps(earlier)),
        ).fetchone()
        if in_flight:
            raise LedgerError(
                f"the ledger {str(self.path)!r} has {in_flight} orders in flight in a process of "
                "an earlier version of everlytic-async: wait for it to end, then start again"
            )
        for other in earlier:
            if other != number:
                self.connection.execute(_MERGE, (number, other))
                self.connection.execute("DELETE FROM orders WHERE scope = ?", (other,))
                self.connection.execute("DELETE FROM scopes WHERE id = ?", (other,))
        self.connection.execute(
            "UPDATE scopes SET name = ?, host = ? WHERE id = ?", (name, host, number)
        )

    # -------------------------------------------------------------------------------- log and note

    @property
    def is_checkpoint_due(self) -> bool:
        """Whether the next `execute` that may wait should write the log into the file first."""
        return self._note.committed - self._note.checkpointed >= _CHECKPOINT_AFTER

    def _checkpoint(self) -> None:
        committed = self._note.committed
        # As with SQLite's own: what fails stays in the log, and the next one writes it.
        with suppress(sqlite3.Error, LedgerError):
            if self._write_log_to_file():
                self._update_note(checkpointed=committed)

    def _write_log_to_file(self) -> bool:
        """Whether everything in the log is now in the file."""
        busy, in_log, written = self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        return not busy and bool(in_log == written)

    def _update_note(self, **changes: int) -> None:
        assert self._files is not None  # noqa: S101 - the run has started
        self._note = attrs.evolve(self._note, **changes)
        with self.translate_errors("written"):
            self._files.write(self._note)

    def _wait_for_others(self, seconds: float) -> None:
        if seconds != self._busy_timeout_s:
            self.connection.execute(f"PRAGMA busy_timeout = {round(seconds * 1000)}")
            self._busy_timeout_s = seconds
