"""`SqliteFile`: a ledger's file, opened safely, with transactions and the recovery of crashed runs.

The file is in WAL mode. Every writer takes the write lock first (``BEGIN IMMEDIATE``), so that
claims are atomic between processes. A process that may send holds a lock on a small file beside the
ledger (see ``_sqlite_runs``). The system frees that lock however the process ends; what the process
had in flight is then unknown.
"""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from everlytic_async.errors import LedgerError
from everlytic_async.ledger._protocol import CRASHED_MESSAGE, Entry, State
from everlytic_async.ledger._sqlite_checks import check_before_opening, check_runs
from everlytic_async.ledger._sqlite_runs import files_of_runs, is_alive, lock_path
from everlytic_async.ledger._sqlite_schema import (
    MIGRATIONS,
    check_database,
    check_version,
    enable_wal,
    migrate,
    version_of,
)

__all__ = ["COLUMNS", "STATES", "SqliteFile", "entry_from_row"]

STATES = {state.code: state for state in State}
# What SQLite's messages mean for the user of the ledger.
_HINTS: Mapping[str, str] = {
    "locked": "another process holds it: wait for that to end",
    "readonly": "it is read-only: it has to be written before anything is sent",
    "not a database": "it is not a ledger: give the ledger a file of its own",
    "malformed": "it is damaged: restore it from a copy",
    "full": "the disk is full",
    "unable to open": "it is not a file, or its directory is missing or read-only",
}
COLUMNS = "orders.key, orders.state, body, attempts, status, reason, at"
_LOOK_UP = f"""
    SELECT {COLUMNS}
    FROM json_each(?) AS wanted
    CROSS JOIN orders ON orders.scope = ? AND orders.key = wanted.value
"""  # noqa: S608 - a constant


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
        # not a file. Without links: whoever opens it by one must find the locks of the others.
        self.path = Path(os.path.realpath(path))
        self.clock = clock
        self.wait_s = wait_s
        self.token = ""  # names the run of this object, if it has one
        self._stale_files: list[Path] = []  # of crashed runs, once their end is committed
        if must_exist and not self.path.is_file():
            raise LedgerError(f"there is no ledger at {str(self.path)!r}")
        with self.translate_errors("opened"):
            had_log = check_before_opening(self.path, linked=linked, incomplete=incomplete)
            if not must_exist:
                _create(self.path)
            # Autocommit: each group starts and commits its own transaction.
            self.connection = sqlite3.connect(
                self.path, timeout=wait_s, isolation_level=None, check_same_thread=False
            )
        try:
            with self.translate_errors("opened"):
                self._prepare(only_look=must_exist)
                if not incomplete and check_runs(self.connection, self.path, had_log=had_log):
                    with suppress(LedgerError), self.transaction():
                        self.recover_crashed_runs()
        except BaseException:
            self.connection.close()
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
        return f"<{type(self).__name__} {str(self.path)!r}>"

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def _prepare(self, *, only_look: bool) -> None:
        check_database(self.connection, self.path)
        enable_wal(self.connection, self.wait_s)
        if only_look and version_of(self.connection) == len(MIGRATIONS):
            return  # so that it can be looked at while the disk is full or the file is locked
        with self.transaction():  # this also proves that it can be written
            check_version(self.connection, self.path)
            migrate(self.connection)

    # ---------------------------------------------------------------------- entries, transactions

    def read(self, scope: int, keys: Iterable[str]) -> dict[str, Entry]:
        """What is known of these orders of one endpoint and store."""
        rows = self.connection.execute(_LOOK_UP, (json.dumps(list(keys)), scope))
        return {row[0]: entry_from_row(row) for row in rows}

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Take the write lock; within a transaction this is a part of that one."""
        within = self.connection.in_transaction
        if within:
            yield
            return
        with self.translate_errors("written"):
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.connection.execute("COMMIT")
            except BaseException:
                self._stale_files.clear()
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise
        while self._stale_files:
            with suppress(OSError):  # a file that is left behind does no harm
                self._stale_files.pop().unlink()

    @contextmanager
    def translate_errors(self, what: str) -> Iterator[None]:
        """Raise what SQLite and the system raise as a `LedgerError`.

        Args:
            what: What can't be done to the ledger: "read", "written".
        """
        try:
            yield
        except sqlite3.Error as error:
            raise self.ledger_error(what, str(error)) from error
        except OSError as error:  # of the file itself, or of the files of a run
            message = "unable to open" if what == "opened" else error.strerror
            raise self.ledger_error(what, message or type(error).__name__) from error

    def ledger_error(self, what: str, message: str) -> LedgerError:
        """An error that says what to do, where SQLite's message is known."""
        why = next((hint for words, hint in _HINTS.items() if words in message), message)
        return LedgerError(f"the ledger {str(self.path)!r} can't be {what}: {why}")

    # -------------------------------------------------------------------------------- crashed runs

    def is_alive(self, token: str) -> bool:
        """Whether the process of a run still exists."""
        return token == self.token or is_alive(lock_path(self.path, token))

    def recover_crashed_runs(self) -> None:
        """Within a transaction: mark what crashed runs had in flight as unknown.

        Their files are removed once that is committed.
        """
        rows = self.connection.execute("SELECT id, token FROM runs WHERE ended IS NULL").fetchall()
        alive = {token for _, token in rows if self.is_alive(token)}
        for run, token in rows:
            if token not in alive:
                self.end_run(run)
        for token, paths in files_of_runs(self.path).items():
            if token not in alive and not self.is_alive(token):
                self._stale_files += paths

    def end_run(self, run: int) -> None:
        """Within a transaction: what a run has left in flight is unknown."""
        now = self.clock()
        self.connection.execute(
            "UPDATE orders SET state = ?, reason = ?, run = NULL, at = ? "
            "WHERE state = ? AND run = ?",
            (State.UNKNOWN.code, CRASHED_MESSAGE, now, State.IN_FLIGHT.code, run),
        )
        self.connection.execute("UPDATE runs SET ended = ? WHERE id = ?", (now, run))


def entry_from_row(row: Sequence[Any]) -> Entry:
    """The entry of a row of `COLUMNS`."""
    key, code, digest, attempts, status, reason, at = row
    return Entry(key, STATES[code], digest, attempts, status, reason, at)


def _create(path: Path) -> None:
    """Create an empty file that only its owner may read and write, if there is none.

    SQLite gives its log the same mode.
    """
    if path.exists():
        return
    try:
        try:
            # Never opened: closing it would free the locks of another ledger of this process.
            os.mknod(path, stat.S_IFREG | 0o600)
        except (AttributeError, PermissionError):  # there is no such call, or we may not use it
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return
    path.chmod(0o600)  # whatever the umask took away
