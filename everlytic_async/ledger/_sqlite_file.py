"""`SqliteFile`: a ledger's file, opened safely, with the recovery of crashed runs.

The file is in WAL mode. Every writer takes the write lock first (``BEGIN IMMEDIATE``), so that
claims are atomic between processes. A process that may send holds a lock on a small file beside the
ledger (see ``_sqlite_checks``). The system frees that lock however the process ends; what the
process had in flight is then unknown.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from everlytic_async.errors import LedgerError
from everlytic_async.ledger._protocol import CRASHED_MESSAGE, Entry, ScopeName, State
from everlytic_async.ledger._sqlite_checks import (
    check_before_opening,
    create_private,
    files_of_runs,
    is_alive,
    is_busy,
)
from everlytic_async.ledger._sqlite_schema import (
    APPLICATION_ID,
    LOOK_UP,
    MERGE,
    MIGRATIONS,
    entry_from_row,
)

__all__ = ["SqliteFile"]

# What SQLite's messages mean for the user of the ledger.
_HINTS: Mapping[str, str] = {
    "locked": "another process holds it: wait for that to end",
    "readonly": "it is read-only: it has to be written before anything is sent",
    "not a database": "it is not a ledger: give the ledger a file of its own",
    "malformed": "it is damaged: restore it from a copy",
    "full": "the disk is full",
    "unable to open": "it is not a file, or its directory is missing or read-only",
}
_RETRY_S = 0.005


class SqliteFile:
    """A ledger's file, open. Its methods block: use it from one thread at a time.

    Args:
        path: Where it is. It is created if there is none, unless ``must_exist``.
        must_exist: Refuse to create a new one. Then it need not be writable to be looked at.
        linked: Open it though it has other names: only to copy it.
        incomplete: Open it though records are lost: only to copy what is left.
        wait_s: How long to wait for another process that writes, in seconds.
        clock: Seconds since the epoch.

    Raises:
        LedgerError: it can't be used: it is locked, read-only, damaged, another program's, of a
            later version, not safe, or can't be created.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        must_exist: bool = False,
        linked: bool = False,
        incomplete: bool = False,
        wait_s: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        # Absolute: the working directory may change, and to SQLite a name such as ":memory:" is
        # not a file. Without links: a process that opens it by one must find the others' locks.
        self.path = Path(os.path.realpath(path))
        self.clock = clock
        self.token = ""  # names the run of this object, if it has one
        self._wait_s = wait_s
        if must_exist and not self.path.is_file():
            raise LedgerError(f"there is no ledger at {str(self.path)!r}")
        with self.translate_errors("opened"):
            lacks_note = check_before_opening(self.path, linked=linked, incomplete=incomplete)
            if not must_exist and not self.path.exists():
                with suppress(FileExistsError):  # another process creates it, too
                    create_private(self.path)
            # Autocommit: each group starts and commits its own transaction.
            self.connection = sqlite3.connect(
                self.path, timeout=wait_s, isolation_level=None, check_same_thread=False
            )
        try:
            with self.translate_errors("opened"):
                self._prepare(only_look=must_exist)
            if lacks_note:
                with suppress(LedgerError), self.transaction():
                    self.recover_crashed_runs()
        except BaseException:
            self.connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {str(self.path)!r}>"

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    # ----------------------------------------------------------------------------- what file it is

    def _prepare(self, *, only_look: bool) -> None:
        self._check_database()
        self.wait_for_others(self._enable_wal)
        if only_look and self._pragma("user_version") == len(MIGRATIONS):
            return  # so that it can be looked at while the disk is full or the file is locked
        with self.transaction():  # this also proves that it can be written
            self._migrate()

    def _enable_wal(self) -> bool:
        try:
            self.connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if not is_busy(error):
                raise
            return False
        return True

    def _check_database(self) -> None:
        """Refuse a database of another program, and a damaged one."""
        self.connection.execute("BEGIN")  # both at one moment: another process may be creating it
        application_id = self._pragma("application_id")
        (tables,) = self.connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        self.connection.execute("COMMIT")
        if application_id != APPLICATION_ID and (application_id or tables):
            raise LedgerError(
                f"{str(self.path)!r} is a database of another program: give the ledger a file of "
                "its own"
            )
        if self._pragma("quick_check(1)") != "ok":
            raise LedgerError(
                f"the ledger {str(self.path)!r} is damaged: restore it from a copy, or save what "
                "can be saved with sqlite3's .recover"
            )

    def _migrate(self) -> None:
        """Within a transaction: bring the schema up to date."""
        version: int = self._pragma("user_version")  # 0 for an empty file
        if version > len(MIGRATIONS):
            raise LedgerError(
                f"the ledger {str(self.path)!r} was written by a later version of everlytic-async: "
                "install that version or a newer one"
            )
        for step in MIGRATIONS[version:]:
            for statement in step.split(";"):
                self.connection.execute(statement)
        self.connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        self.connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    def _pragma(self, name: str) -> Any:
        return self.connection.execute(f"PRAGMA {name}").fetchone()[0]

    # ------------------------------------------------------------------------ endpoints and stores

    def scope_numbers(self, name: str) -> tuple[int | None, frozenset[int]]:
        """The number of an endpoint and store, if it has one; those that earlier versions gave."""
        rows = self.connection.execute("SELECT id, name, host FROM scopes").fetchall()
        numbers = {name: number for number, name, _ in rows}
        own = numbers.pop(str(name), None)
        if not numbers or not isinstance(name, ScopeName):
            return own, frozenset()
        earlier = name.earlier({host for *_, host in rows})
        return own, frozenset(numbers[each] for each in earlier if each in numbers)

    def scope(self, name: str, host: str) -> int:
        """The number of an endpoint and store, with all that earlier versions knew of it."""
        with self.transaction():
            number, earlier = self.scope_numbers(name)
            if number is None:
                insert = "INSERT INTO scopes (name, host) VALUES (?, ?)"
                number = self.connection.execute(insert, (str(name), host)).lastrowid
                assert number is not None  # noqa: S101 - it was inserted
            if earlier:
                self._adopt(number, earlier)
        return number

    def _adopt(self, number: int, earlier: frozenset[int]) -> None:
        """Within a transaction: merge the scopes that earlier versions kept apart into one."""
        self.recover_crashed_runs()
        (in_flight,) = self.connection.execute(
            "SELECT count(*) FROM orders "
            "WHERE state = ? AND scope IN (SELECT value FROM json_each(?))",
            (State.IN_FLIGHT.code, json.dumps([*earlier])),
        ).fetchone()
        if in_flight:
            raise LedgerError(
                f"the ledger {str(self.path)!r} has {in_flight} orders in flight in a process of "
                "an earlier version of everlytic-async: wait for it to end, then start again"
            )
        for other in earlier:
            self.connection.execute(MERGE, (number, other))
            self.connection.execute("DELETE FROM orders WHERE scope = ?", (other,))
            self.connection.execute("DELETE FROM scopes WHERE id = ?", (other,))

    # --------------------------------------------------------------------- entries and transactions

    def read(
        self, scope: int, keys: Iterable[str], crashed: Collection[int] = ()
    ) -> dict[str, Entry]:
        """What is known of these orders of one endpoint and store; see `crashed_runs`."""
        rows = self.connection.execute(LOOK_UP, (json.dumps(list(keys)), scope))
        return {row[0]: entry_from_row(row, crashed) for row in rows}

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Take the write lock, and commit what is done within."""
        with self.translate_errors("written"):
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

    @contextmanager
    def translate_errors(self, what: str) -> Iterator[None]:
        """Raise what SQLite and the system raise as a `LedgerError`: it can't be read, say."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            message = str(error)
            if isinstance(error, OSError):  # of the file itself, or of the files of a run
                message = "unable to open" if what == "opened" else error.strerror or "it failed"
            why = next((hint for words, hint in _HINTS.items() if words in message), message)
            raise LedgerError(f"the ledger {str(self.path)!r} can't be {what}: {why}") from error

    def wait_for_others(self, attempt: Callable[[], bool]) -> None:
        """Repeat what SQLite does not wait for by itself while another process uses the file."""
        deadline = time.monotonic() + self._wait_s
        while not attempt():
            if time.monotonic() >= deadline:
                raise sqlite3.OperationalError("locked")
            time.sleep(_RETRY_S)

    # -------------------------------------------------------------------------------- crashed runs

    def is_alive(self, token: str) -> bool:
        """Whether the process of a run still exists."""
        return token == self.token or is_alive(self.path, token)

    def unended_runs(self) -> dict[str, int]:
        """The runs that have not recorded their end, by token."""
        return dict(self.connection.execute("SELECT token, id FROM runs WHERE ended IS NULL"))

    def crashed_runs(self) -> frozenset[int]:
        """The runs whose process has ended without a word: what they have in flight is unknown."""
        runs = self.unended_runs().items()
        return frozenset(run for token, run in runs if not self.is_alive(token))

    def recover_crashed_runs(self) -> None:
        """Within a transaction: mark what crashed runs had in flight as unknown.

        The files of such a run are removed by the next call: its end is committed then.
        """
        runs = self.unended_runs()
        for token, paths in files_of_runs(self.path).items():
            if token not in runs and not self.is_alive(token):
                for path in paths:
                    with suppress(OSError):  # a file that is left behind does no harm
                        path.unlink()
        for run in self.crashed_runs():
            self.end_run(run)

    def end_run(self, run: int) -> None:
        """Within a transaction: what a run has left in flight is unknown."""
        now = self.clock()
        self.connection.execute(
            "UPDATE orders SET state = ?, reason = ?, run = NULL, at = ? "
            "WHERE state = ? AND run = ?",
            (State.UNKNOWN.code, CRASHED_MESSAGE, now, State.IN_FLIGHT.code, run),
        )
        self.connection.execute("UPDATE runs SET ended = ? WHERE id = ?", (now, run))
