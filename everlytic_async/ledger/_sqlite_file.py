"""A ledger in an SQLite file: all of its SQL, and nothing of the event loop.

The file is in WAL mode. Whoever writes takes the write lock first (``BEGIN IMMEDIATE``), so that
claims are atomic between processes. A process that may send holds an exclusive lock on a small file
beside the ledger for as long as it lives: the system frees the lock however the process ends, and
whoever comes next finds out so that what that process had in flight is unknown.
"""

from __future__ import annotations

import enum
import json
import math
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import attrs

from everlytic_async.errors import LedgerError
from everlytic_async.ledger._protocol import RANKS, Entry, ScopeName, State, Terms, merged
from everlytic_async.ledger._sqlite_checks import (
    check_before_opening,
    check_names,
    check_records,
    identity,
    make_file,
    wal_has_content,
)
from everlytic_async.ledger._sqlite_runs import (
    Note,
    Run,
    is_alive,
    lock_path,
    runs_beside,
)

__all__ = ["Durability", "LedgerFile", "Overview"]

#: "EVLA", so that `file` and we know whose file it is.
_APPLICATION_ID = 0x45564C41
_CODES: dict[State, int] = {
    State.IN_FLIGHT: 1,
    State.SENT: 2,
    State.REJECTED: 3,
    State.INVALID: 4,
    State.NOT_SENT: 5,
    State.UNKNOWN: 6,
}
_STATES = {code: state for state, code in _CODES.items()}
_MIGRATIONS: tuple[str, ...] = (
    # 1: what 0.1 began with.
    """
    CREATE TABLE scopes (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,  -- a digest of the endpoint and the store hash
        host TEXT NOT NULL
    );
    CREATE TABLE runs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        token TEXT NOT NULL UNIQUE,  -- names the file that a living process holds locked
        began REAL NOT NULL,
        ended REAL
    );
    CREATE TABLE orders (
        scope INTEGER NOT NULL,
        key TEXT NOT NULL,
        body TEXT NOT NULL,  -- a digest
        state INTEGER NOT NULL,
        run INTEGER,
        attempts INTEGER NOT NULL,
        status INTEGER,
        reason TEXT,
        at REAL NOT NULL,
        PRIMARY KEY (scope, key)
    ) WITHOUT ROWID;
    """,
    # 2: how many transactions of a run were committed; its note has the same figure.
    "ALTER TABLE runs ADD COLUMN committed INTEGER NOT NULL DEFAULT 0",
)
# How long to wait before what SQLite does not wait for is tried again, in seconds.
_AGAIN_S = 0.005
# Whoever claims what another has in flight looks no more often than this whether that one lives, in
# seconds.
_BURY_S = 1.0
_DIED = "the process that was sending it ended before the outcome was recorded"

# What SQLite's words mean for whoever uses the ledger.
_HINTS: Mapping[str, str] = {
    "locked": "another process holds it: wait for that to end",
    "readonly": "it is read-only: it has to be written before anything is sent",
    "not a database": "it is no ledger: give the ledger a file of its own",
    "malformed": "it is damaged: restore it from a copy",
    "full": "the disk is full",
    "unable to open": "it is no file, or its directory is missing or read-only",
}

# One statement for all that a group has to know, and one for all rows that differ in nothing but
# key and body, as intents do, and nearly all outcomes: a step of SQLite gives up the interpreter's
# lock, and getting it back costs more than a row does.
_WRITE = """
    INSERT INTO orders (scope, key, body, state, run, attempts, status, reason, at)
    SELECT ?, key, value, ?, ?, ?, ?, ?, ? FROM json_each(?) WHERE true
    ON CONFLICT (scope, key) DO UPDATE SET
        body = excluded.body, state = excluded.state, run = excluded.run,
        attempts = excluded.attempts, status = excluded.status, reason = excluded.reason,
        at = excluded.at
"""
# Claims of orders of which nothing is known, as most are: they need not be read first.
_CLAIM = """
    INSERT INTO orders (scope, key, body, state, run, attempts, at)
    SELECT ?, key, value, ?, ?, 0, ? FROM json_each(?) WHERE true
    ON CONFLICT DO NOTHING
"""
_RANKS = " ".join(f"WHEN {_CODES[state]} THEN {rank}" for state, rank in RANKS.items())
_MERGE = f"""
    INSERT INTO orders (scope, key, body, state, run, attempts, status, reason, at)
    SELECT ?, key, body, state, run, attempts, status, reason, at FROM orders WHERE scope = ?
    ON CONFLICT (scope, key) DO UPDATE SET
        body = excluded.body, state = excluded.state, run = excluded.run,
        attempts = excluded.attempts, status = excluded.status, reason = excluded.reason,
        at = excluded.at
    WHERE (CASE excluded.state {_RANKS} END, excluded.at)
        > (CASE orders.state {_RANKS} END, orders.at)
"""  # noqa: S608 - a constant
_COLUMNS = "orders.key, orders.state, body, attempts, status, reason, at"
_READ = f"""
    SELECT {_COLUMNS}
    FROM json_each(?) AS wanted
    CROSS JOIN orders ON orders.scope = ? AND orders.key = wanted.value
"""  # noqa: S608 - a constant
# Orders of these ids under any scope and workflow: 1001, 1001@32. Two ranges of the primary key,
# for every id that begins with the same digits would be in one.
_FIND = f"""
    SELECT wanted.value, scopes.host, orders.scope, {_COLUMNS}
    FROM json_each(?) AS wanted
    CROSS JOIN scopes
    CROSS JOIN orders ON orders.scope = scopes.id AND orders.key = wanted.value
    UNION ALL
    SELECT wanted.value, scopes.host, orders.scope, {_COLUMNS}
    FROM json_each(?) AS wanted
    CROSS JOIN scopes
    CROSS JOIN orders ON orders.scope = scopes.id
        AND orders.key >= wanted.value || '@' AND orders.key < wanted.value || 'A'
"""  # noqa: S608 - constants


class Durability(enum.StrEnum):
    """What a recorded intent or outcome survives."""

    #: The death of the process, by SIGKILL too, but perhaps not a loss of power.
    PROCESS = "process"
    #: A loss of power as well: each group of commits waits for the disk.
    POWER = "power"


@attrs.frozen
class Overview:
    """What a ledger holds.

    Attributes:
        counts: How many orders are in each state.
        first_at: When the oldest entry was recorded last, in seconds since the epoch; None if none.
        last_at: When the newest was.
        hosts: The endpoints' hosts.
        running: How many processes use it to send at this moment.
    """

    counts: Mapping[State, int]
    first_at: float | None
    last_at: float | None
    hosts: tuple[str, ...]
    running: int


@attrs.frozen
class Claim:
    """A request to take up an order. The answer: whether it may be sent, and what was known."""

    scope: int
    key: str
    body: str
    terms: Terms


@attrs.frozen
class Record:
    """A request to record what became of an order. The answer: None."""

    scope: int
    entry: Entry


@attrs.frozen
class LookUp:
    """A request for what is known. The answer: a mapping of those keys that are known."""

    scope: int
    keys: Sequence[str]


@attrs.frozen
class AnySent:
    """A request for whether an order of this scope was sent. The answer: a bool."""

    scope: int


@attrs.frozen
class Scope:
    """A request to use an endpoint and store. The answer: its number."""

    name: str
    host: str


Request = Claim | Record | LookUp | AnySent | Scope


class LedgerFile:
    """A ledger file, open. Its methods block: use it from one thread at a time.

    For looking at a ledger and for marking entries; `everlytic_async.SqliteLedger` sends with it.

    Args:
        path: Where it lies. It is made where there is none, unless ``must_exist``.
        durability: What a commit survives.
        must_exist: Refuse to make a new one. Nor need it be writable, then, to be looked at.
        linked: Open it though it has other names: only to copy it.
        incomplete: Open it though records are lost: only to copy what is left.
        wait_s: How long to wait for another process that writes, in seconds.
        clock: Seconds since the epoch.

    Raises:
        LedgerError: when it can't be used: it is locked, read-only, damaged, another program's, of
            a later version, or can't be made.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Durability = Durability.PROCESS,
        must_exist: bool = False,
        linked: bool = False,
        incomplete: bool = False,
        wait_s: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        # Absolute: the directory may be left, and to SQLite a name such as ":memory:" is no file.
        # Without links: whoever opens it by one has to find the locks of the others.
        self.path = Path(os.path.realpath(path))
        self._clock = clock
        self._wait_s = self._told_wait_s = wait_s  # what is asked for; what SQLite was told last
        self._token = secrets.token_hex(8)  # names this process' lock
        self._run: int | None = None
        self._run_lock: Run | None = None
        self._note = Note()
        self._to_remove: list[Path] = []  # files of dead runs, once what became of them is written
        self._buried_at = -math.inf  # when we last looked who has died, monotonic
        if must_exist and not self.path.is_file():
            raise LedgerError(f"there is no ledger at {str(self.path)!r}")
        with_log = wal_has_content(self.path)  # before it is opened: that makes an empty one
        try:
            if not incomplete:
                check_before_opening(self.path)
            if not must_exist:
                make_file(self.path)
            if not linked:
                check_names(self.path)
        except OSError as error:
            raise LedgerError(
                f"the ledger {str(self.path)!r} can't be opened: {_HINTS['unable to open']}"
            ) from error
        self._identity = identity(self.path)
        try:
            # Not autocommit's own transactions: each group begins and commits its own.
            self._connection = sqlite3.connect(
                self.path, timeout=wait_s, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise self._fault("opened", error) from error
        try:
            with self._clear_errors("opened"):
                self._prepare(durability, must_exist)
                if not incomplete and check_records(self._connection, self.path, with_log=with_log):
                    # The log is gone once we close the file, and nothing could tell any more.
                    with suppress(LedgerError), self._transaction():
                        self._bury_the_dead()
            self._check_identity()
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<LedgerFile {str(self.path)!r}>"

    def close(self) -> None:
        """Close the file. What this process had in flight is unknown from now on."""
        keep_note = self._run is not None
        try:
            if self._run is not None:
                self._wait_for_others(self._wait_s)
                # Where it can't be written, the next one finds out by the lock and the note.
                with suppress(LedgerError):
                    self._check_identity()
                    with self._transaction():
                        self._bury(self._run)
                        self._bury_the_dead()
                    keep_note = False
        finally:
            lock, self._run_lock = self._run_lock, None
            if lock is not None:
                lock.end(keep_note=keep_note)
            self._connection.close()

    # ---------------------------------------------------------------------------------- to send

    def begin_run(self) -> None:
        """Be a process that sends, once: and find out what those that died had in flight."""
        if self._run is not None:
            return
        # All in one transaction: nobody takes a lock file for a dead one's before it is locked.
        with self._transaction():
            self._run_lock = Run(self.path, self._token)
            run = self._connection.execute(
                "INSERT INTO runs (token, began) VALUES (?, ?)", (self._token, self._clock())
            ).lastrowid
            self._bury_the_dead()
        self._run = run
        # The file itself has to know of the run: without the log it would seem that all runs ended.
        until = time.monotonic() + self._wait_s
        with self._clear_errors("written"):
            while not self._checkpoint():
                if time.monotonic() >= until:
                    raise LedgerError(
                        f"the ledger {str(self.path)!r} can't be written: another process keeps "
                        "reading it: wait for that to end"
                    )
                time.sleep(_AGAIN_S)
            self._run_lock.write(self._note)

    def scope(self, name: str, host: str) -> int:
        """The number of an endpoint and store."""
        number: int = self.answer([Scope(name, host)])[0]
        return number

    def answer(self, requests: Iterable[Request]) -> list[Any]:
        """Do what is asked for, all in one transaction, in turn; the answers in the same order.

        Raises:
            LedgerError: when it can't be done: then nothing of it was.
        """
        self._wait_for_others(self._wait_s)
        return self._do(tuple(requests))

    def _do(self, requests: Sequence[Request]) -> list[Any]:
        reads = [request for request in requests if isinstance(request, LookUp | AnySent)]
        if len(reads) == len(requests):
            with self._clear_errors("read"):
                return [self._found(request) for request in reads]
        with self._transaction():
            answers = self._answers(requests)
            if self._run is not None:
                self._connection.execute(
                    "UPDATE runs SET committed = committed + 1 WHERE id = ?", (self._run,)
                )
        # Afterwards: what was committed to a file that nobody finds again is no record.
        self._check_identity()
        if self._run_lock is not None:
            self._note = Note(self._note.committed + 1, self._note.checkpointed)
            with self._clear_errors("written"):
                self._run_lock.write(self._note)
        return answers

    def _check_identity(self) -> None:
        if identity(self.path) != self._identity:
            raise LedgerError(
                f"the ledger {str(self.path)!r} was removed, renamed or replaced while it was in "
                "use, so nothing more is sent. Put the file back, with the files beside it, before "
                "you run it again"
            )

    def answer_at_once(self, requests: Iterable[Request]) -> list[Any] | None:
        """The same, but None where another process holds the file: it waits for nobody.

        Raises:
            LedgerError: when it can't be done: then nothing of it was.
        """
        self._wait_for_others(0.0)
        try:
            return self._do(tuple(requests))
        except LedgerError as error:
            # The low byte: what follows says why it is locked.
            if getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                return None
            raise

    def _wait_for_others(self, seconds: float) -> None:
        if seconds != self._told_wait_s:
            self._connection.execute(f"PRAGMA busy_timeout = {round(seconds * 1000)}")
            self._told_wait_s = seconds

    def leave_checkpoints(self) -> None:
        """Make commits write to the log alone, and wait for no disk: `checkpoint` does the rest."""
        self._connection.execute("PRAGMA wal_autocheckpoint = 0")

    def checkpoint(self) -> None:
        """Write what is in the log to where it belongs. It may wait for the disk."""
        committed = self._note.committed
        # As with SQLite's own: what fails now stays in the log, and the next one writes it.
        with suppress(sqlite3.Error, OSError):
            if self._checkpoint() and self._run_lock is not None:
                self._note = attrs.evolve(self._note, checkpointed=committed)
                self._run_lock.write(self._note)

    def _checkpoint(self) -> bool:
        """Whether all that was in the log is now in the file."""
        busy, in_log, written = self._connection.execute(
            "PRAGMA wal_checkpoint(PASSIVE)"
        ).fetchone()
        return not busy and bool(in_log == written)

    def _answers(self, requests: Sequence[Request]) -> list[Any]:
        now = self._clock()
        answers = self._of_new_orders(requests, now)
        return self._of_any_orders(requests, now) if answers is None else answers

    def _of_new_orders(self, requests: Sequence[Request], now: float) -> list[Any] | None:
        """The answers where every order that is claimed is new and none is named twice.

        None where it is not so, or can't be known: then nothing was written.
        """
        named: set[tuple[int, str]] = set()
        claimed: dict[int, dict[str, str]] = {}
        recorded: dict[tuple[int, str], tuple[Entry, int | None]] = {}
        answers: list[Any] = []
        for request in requests:
            if isinstance(request, Claim):
                place = request.scope, request.key
                claimed.setdefault(request.scope, {})[request.key] = request.body
                answers.append((True, None))
            elif isinstance(request, Record) and request.entry.state is not State.INVALID:
                place = request.scope, request.entry.key
                recorded[place] = request.entry, None
                answers.append(None)
            else:
                return None
            if place in named:
                return None
            named.add(place)
        if claimed:
            self._connection.execute("SAVEPOINT claims")
        for scope, bodies in claimed.items():
            intents = scope, _CODES[State.IN_FLIGHT], self._run, now, json.dumps(bodies)
            if self._connection.execute(_CLAIM, intents).rowcount < len(bodies):
                self._connection.execute("ROLLBACK TO claims")
                return None
        self._write(recorded, now)
        return answers

    def _of_any_orders(self, requests: Sequence[Request], now: float) -> list[Any]:
        known = self._known(requests)
        if self._is_time_to_bury(requests, known):
            self._bury_the_dead()
            known = self._known(requests)
        written: dict[tuple[int, str], tuple[Entry, int | None]] = {}
        answers: list[Any] = []
        for request in requests:
            if isinstance(request, Claim):
                place = request.scope, request.key
                entry = known.get(place)
                granted = entry is None or request.terms.grant(entry, request.body)
                if granted:
                    intent = Entry(request.key, State.IN_FLIGHT, request.body, at=now)
                    known[place] = intent
                    written[place] = intent, self._run
                answers.append((granted, entry))
            elif isinstance(request, Record):
                place = request.scope, request.entry.key
                if request.entry.state is not State.INVALID or _harmless(known.get(place)):
                    known[place] = request.entry
                    written[place] = request.entry, None
                answers.append(None)
            elif isinstance(request, LookUp):
                found = ((key, known.get((request.scope, key))) for key in request.keys)
                answers.append({key: entry for key, entry in found if entry is not None})
            elif isinstance(request, AnySent):
                new = (
                    entry.state
                    for (scope, _), (entry, _) in written.items()
                    if scope == request.scope
                )
                answers.append(State.SENT in new or self._any_sent(request.scope))
            else:
                answers.append(self._number_of(request))
        self._write(written, now)
        return answers

    def _is_time_to_bury(
        self, requests: Sequence[Request], known: Mapping[tuple[int, str], Entry]
    ) -> bool:
        """Whether an order is claimed whose process may have died since this one began.

        A worker that runs for months would else never hear of it.
        """
        now = time.monotonic()
        if now - self._buried_at < _BURY_S or not any(
            entry.state is State.IN_FLIGHT
            for request in requests
            if isinstance(request, Claim)
            and (entry := known.get((request.scope, request.key))) is not None
        ):
            return False
        self._buried_at = now
        return True

    def _known(self, requests: Sequence[Request]) -> dict[tuple[int, str], Entry]:
        wanted: dict[int, set[str]] = {}
        for request in requests:
            if isinstance(request, Claim):
                wanted.setdefault(request.scope, set()).add(request.key)
            elif isinstance(request, LookUp):
                wanted.setdefault(request.scope, set()).update(request.keys)
            elif isinstance(request, Record) and request.entry.state is State.INVALID:
                wanted.setdefault(request.scope, set()).add(request.entry.key)
        known = {}
        for scope, keys in wanted.items():
            for key, entry in self._read(scope, keys).items():
                known[scope, key] = entry
        return known

    def _found(self, request: LookUp | AnySent) -> Any:
        if isinstance(request, AnySent):
            return self._any_sent(request.scope)
        return self._read(request.scope, request.keys)

    def _any_sent(self, scope: int) -> bool:
        # Without an index of its own, which every order would pay for: nearly always one of the
        # first rows is such an order, and nobody asks unless all is refused.
        row = self._connection.execute(
            "SELECT 1 FROM orders WHERE scope = ? AND state = ? LIMIT 1",
            (scope, _CODES[State.SENT]),
        ).fetchone()
        return row is not None

    def _read(self, scope: int, keys: Iterable[str]) -> dict[str, Entry]:
        rows = self._connection.execute(_READ, (json.dumps(list(keys)), scope))
        return {row[0]: _entry(row) for row in rows}

    def _write(
        self, written: Mapping[tuple[int, str], tuple[Entry, int | None]], now: float
    ) -> None:
        bodies: dict[tuple[Any, ...], dict[str, str]] = {}
        for (scope, key), (entry, run) in written.items():
            reason = entry.reason
            if reason is not None:
                # Half a character would make the whole row unreadable.
                reason = reason.encode("utf-8", "replace").decode()
            shared = scope, _CODES[entry.state], run, entry.attempts, entry.status, reason
            bodies.setdefault(shared, {})[key] = entry.body
        for shared, of_keys in bodies.items():
            self._connection.execute(_WRITE, (*shared, now, json.dumps(of_keys)))

    def _number_of(self, request: Scope) -> int:
        """Within a transaction: the number of a scope, with all that is known of it."""
        scopes = self._connection.execute("SELECT id, name, host FROM scopes").fetchall()
        numbers = {name: number for number, name, _ in scopes}
        if isinstance(request.name, ScopeName) and numbers.keys() - {request.name}:
            names = request.name.earlier({host for *_, host in scopes})
            self._adopt(request, [numbers[name] for name in names if name in numbers])
        self._connection.execute(
            "INSERT INTO scopes (name, host) VALUES (?, ?) ON CONFLICT DO NOTHING",
            (str(request.name), request.host),
        )
        row = self._connection.execute("SELECT id FROM scopes WHERE name = ?", (str(request.name),))
        number: int = row.fetchone()[0]
        return number

    def _adopt(self, request: Scope, earlier: Sequence[int]) -> None:
        """Within a transaction: make one scope of those that earlier versions kept apart."""
        if not earlier:
            return
        self._bury_the_dead()
        (living,) = self._connection.execute(
            "SELECT count(*) FROM orders "
            "WHERE state = ? AND scope IN (SELECT value FROM json_each(?))",
            (_CODES[State.IN_FLIGHT], json.dumps(earlier)),
        ).fetchone()
        if living:
            raise LedgerError(
                f"the ledger {str(self.path)!r} has {living} orders in flight in a process of an "
                "earlier version of everlytic-async: wait for it to end, then start again"
            )
        name = str(request.name)
        row = self._connection.execute("SELECT id FROM scopes WHERE name = ?", (name,)).fetchone()
        number = earlier[0] if row is None else row[0]
        for other in earlier:
            if other != number:
                self._connection.execute(_MERGE, (number, other))
                self._connection.execute("DELETE FROM orders WHERE scope = ?", (other,))
                self._connection.execute("DELETE FROM scopes WHERE id = ?", (other,))
        self._connection.execute(
            "UPDATE scopes SET name = ?, host = ? WHERE id = ?", (name, request.host, number)
        )

    # ------------------------------------------------------------------------------- to look at

    def overview(self) -> Overview:
        """What it holds, in figures."""
        with self._clear_errors("read"):
            counts = dict.fromkeys(State, 0)
            for code, count in self._connection.execute(
                "SELECT state, count(*) FROM orders GROUP BY state"
            ):
                counts[_STATES[code]] = count
            first_at, last_at = self._connection.execute(
                "SELECT min(at), max(at) FROM orders"
            ).fetchone()
            hosts = self._connection.execute("SELECT DISTINCT host FROM scopes ORDER BY host")
            runs = self._connection.execute("SELECT token FROM runs WHERE ended IS NULL").fetchall()
            return Overview(
                counts=MappingProxyType(counts),
                first_at=first_at,
                last_at=last_at,
                hosts=tuple(host for (host,) in hosts),
                running=sum(self._lives(token) for (token,) in runs),
            )

    def entries(self, states: Iterable[State] = State) -> Iterator[tuple[str, Entry]]:
        """Every entry in one of these states with its endpoint's host, by key."""
        codes = json.dumps([_CODES[state] for state in states])
        with self._clear_errors("read"):
            for host, *row in self._connection.execute(
                f"SELECT scopes.host, {_COLUMNS} FROM orders JOIN scopes ON scopes.id = scope "  # noqa: S608 - constants
                "WHERE state IN (SELECT value FROM json_each(?)) ORDER BY scope, key",
                (codes,),
            ):
                yield host, _entry(row)

    def find_scopes(self, name: str) -> frozenset[int]:
        """The numbers of an endpoint and store, that of a `ScopeName` in earlier versions too.

        None where the ledger knows nothing of it.
        """
        with self._clear_errors("read"):
            scopes = self._connection.execute("SELECT id, name, host FROM scopes").fetchall()
        names = {str(name)}
        if isinstance(name, ScopeName):
            names.update(name.earlier({host for *_, host in scopes}))
        return frozenset(number for number, found, _host in scopes if found in names)

    def look_up(self, scopes: Iterable[int], keys: Sequence[str]) -> dict[str, Entry]:
        """What is known of these orders in any of these scopes: what forbids most counts."""
        known: dict[str, Entry] = {}
        with self._clear_errors("read"):
            for scope in scopes:
                for key, entry in self._read(scope, keys).items():
                    known[key] = merged(known.get(key), entry) or entry
        return known

    def find(self, order_ids: Iterable[str]) -> Iterator[tuple[str, str, int, Entry]]:
        """Every entry of these orders, of any endpoint, store and workflow.

        Yields:
            The order id; the endpoint's host; the number of the endpoint and store; the entry.
        """
        wanted = json.dumps(list(order_ids))
        with self._clear_errors("read"):
            for order_id, host, scope, *row in self._connection.execute(_FIND, (wanted, wanted)):
                yield order_id, host, scope, _entry(row)

    def resolve(
        self, to: State, keys: Sequence[str] | None = None, *, host: str | None = None
    ) -> tuple[int, tuple[str, ...]]:
        """Mark unknown orders as what somebody has found out.

        What is in flight in a process that lives is left alone; what a dead one left is unknown.

        Args:
            to: `State.SENT`, or `State.NOT_SENT` for what is to be sent again.
            keys: As they are stored; None for all that are unknown.
            host: Only orders of this host's; None for all hosts.

        Returns:
            How many were marked; and those of the keys that are not unknown.

        Raises:
            LedgerError: when the ledger can't be written, or a key names unknown orders of several
                endpoints or stores: then nothing was marked.
        """
        if to not in (State.SENT, State.NOT_SENT):
            raise ValueError("an unknown order is resolved as sent, or as not sent")
        with self._transaction():
            self._bury_the_dead()
            statement = "UPDATE orders SET state = ?, reason = ?, at = ? WHERE state = ?"
            mark = [_CODES[to], f"marked as {to} by hand", self._clock(), _CODES[State.UNKNOWN]]
            if host is not None:
                statement += " AND scope IN (SELECT id FROM scopes WHERE host = ?)"
                mark.append(host)
            if keys is None:
                return self._connection.execute(statement, mark).rowcount, ()
            missing = []
            count = 0
            for key in keys:
                marked = self._connection.execute(f"{statement} AND key = ?", (*mark, key)).rowcount
                if marked > 1:
                    # What somebody found out of one store's order says nothing of the other's.
                    raise LedgerError(
                        f"nothing was marked: {key} names unknown orders of {marked} endpoints or "
                        "stores; say whose are meant by their host, or keep a ledger for each store"
                    )
                count += marked
                if not marked:
                    missing.append(key)
            return count, tuple(missing)

    def copy_to(self, target: str | os.PathLike[str]) -> None:
        """Make another ledger that holds what this one holds now, and no run.

        What is in flight is unknown in the copy.

        Args:
            target: Where to make it; only its owner may read it.

        Raises:
            LedgerError: there is a file already, or it can't be made.
        """
        path = Path(os.path.realpath(target))
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            path.chmod(0o600)  # whatever the umask took away
        except FileExistsError as error:
            raise LedgerError(
                f"there is a file at {str(path)!r}, which is not replaced: give the name of a new "
                "one"
            ) from error
        except OSError as error:
            raise LedgerError(
                f"the ledger {str(path)!r} can't be made: {error.strerror}"
            ) from error
        try:
            with self._clear_errors("copied"), closing(sqlite3.connect(path)) as copy:
                self._connection.backup(copy)
                now = self._clock()
                with copy:
                    copy.execute(
                        "UPDATE orders SET state = ?, reason = ?, run = NULL, at = ? "
                        "WHERE state = ?",
                        (_CODES[State.UNKNOWN], _DIED, now, _CODES[State.IN_FLIGHT]),
                    )
                    copy.execute("UPDATE runs SET ended = ? WHERE ended IS NULL", (now,))
        except BaseException:
            for each in (path, *(path.with_name(f"{path.name}-{end}") for end in ("wal", "shm"))):
                each.unlink(missing_ok=True)
            raise

    # --------------------------------------------------------------------------------- the file

    def _prepare(self, durability: Durability, only_look: bool) -> None:
        connection = self._connection
        connection.execute("BEGIN")  # both of one moment: somebody may be making it
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        connection.execute("COMMIT")
        if application != _APPLICATION_ID and (application or tables):
            raise LedgerError(
                f"{str(self.path)!r} is a database of another program: give the ledger a file of "
                "its own"
            )
        (damage,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if damage != "ok":
            raise LedgerError(
                f"the ledger {str(self.path)!r} is damaged: restore it from a copy, or save what "
                "can be saved with sqlite3's .recover"
            )
        self._write_ahead()
        full = Durability(durability) is Durability.POWER
        connection.execute(f"PRAGMA synchronous = {'FULL' if full else 'NORMAL'}")
        if only_look and self._version() == len(_MIGRATIONS):
            return  # when the disk is full, or somebody holds it, is just when one wants to look
        with self._transaction():  # it proves that it can be written, too
            version = self._version()
            if version > len(_MIGRATIONS):
                raise LedgerError(
                    f"the ledger {str(self.path)!r} was written by a later version of "
                    "everlytic-async: install that version or a newer one"
                )
            for step in _MIGRATIONS[version:]:
                for statement in step.split(";"):
                    connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")

    def _version(self) -> int:
        version: int = self._connection.execute("PRAGMA user_version").fetchone()[0]
        return version

    def _write_ahead(self) -> None:
        until = time.monotonic() + self._wait_s
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                # Here SQLite does not wait by itself: several may be making the file at once.
                if "locked" not in str(error) or time.monotonic() >= until:
                    raise
                time.sleep(_AGAIN_S)
            else:
                return

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._clear_errors("written"):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                self._to_remove.clear()
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        while self._to_remove:
            with suppress(OSError):  # what is left behind does no harm
                self._to_remove.pop().unlink()

    @contextmanager
    def _clear_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._fault(what, error) from error
        except OSError as error:  # of the file of the run
            raise LedgerError(
                f"the ledger {str(self.path)!r} can't be {what}: {error.strerror}"
            ) from error

    def _fault(self, what: str, error: sqlite3.Error) -> LedgerError:
        said = str(error)
        why = next((hint for word, hint in _HINTS.items() if word in said), said)
        return LedgerError(f"the ledger {str(self.path)!r} can't be {what}: {why}")

    # --------------------------------------------------------------------------------- the dead

    def _lock_path(self, token: str) -> Path:
        return lock_path(self.path, token)

    def _lives(self, token: str) -> bool:
        """Whether the process of that run still holds its lock."""
        return is_alive(self._lock_path(token))

    def _bury_the_dead(self) -> None:
        """Within a transaction: find out what those that died had in flight, and tidy up."""
        rows = self._connection.execute("SELECT id, token FROM runs WHERE ended IS NULL")
        living = {self._token}
        for run, token in rows.fetchall():
            if token not in living and not self._lives(token):
                self._bury(run)
            else:
                living.add(token)
        for token, paths in runs_beside(self.path).items():
            if token not in living and not self._lives(token):
                self._to_remove += paths

    def _bury(self, run: int) -> None:
        """Within a transaction: what a run that has ended left in flight is unknown."""
        now = self._clock()
        self._connection.execute(
            "UPDATE orders SET state = ?, reason = ?, run = NULL, at = ? "
            "WHERE state = ? AND run = ?",
            (_CODES[State.UNKNOWN], _DIED, now, _CODES[State.IN_FLIGHT], run),
        )
        self._connection.execute("UPDATE runs SET ended = ? WHERE id = ?", (now, run))


def _harmless(entry: Entry | None) -> bool:
    """Whether nothing is known of it that INVALID must not cover."""
    return entry is None or entry.state in (State.INVALID, State.NOT_SENT)


def _entry(row: Sequence[Any]) -> Entry:
    key, code, body, attempts, status, reason, at = row
    return Entry(key, _STATES[code], body, attempts, status, reason, at)
