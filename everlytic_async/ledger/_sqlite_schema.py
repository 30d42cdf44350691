"""The schema of a ledger's file, and the migration of a file of an earlier version."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from everlytic_async.errors import LedgerError

__all__ = [
    "MIGRATIONS",
    "check_database",
    "check_version",
    "enable_wal",
    "is_busy",
    "migrate",
    "version_of",
]

#: "EVLA", so that `file` and we recognize our files.
_APPLICATION_ID = 0x45564C41
#: The statements that lead from each version to the next, separated by ";".
MIGRATIONS: tuple[str, ...] = (
    # To version 1.
    """
    CREATE TABLE scopes (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,  -- a digest of the endpoint and the store hash
        host TEXT NOT NULL
    );
    CREATE TABLE runs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        token TEXT NOT NULL UNIQUE,  -- names the lock file of the run's process
        began REAL NOT NULL,
        ended REAL
    );
    CREATE TABLE orders (
        scope INTEGER NOT NULL,
        key TEXT NOT NULL,
        body TEXT NOT NULL,  -- a digest
        state INTEGER NOT NULL,  -- State.code
        run INTEGER,  -- that has it in flight
        attempts INTEGER NOT NULL,
        status INTEGER,
        reason TEXT,
        at REAL NOT NULL,
        PRIMARY KEY (scope, key)
    ) WITHOUT ROWID;
    """,
    # To version 2: how many transactions a run has committed; its note has the same figure.
    "ALTER TABLE runs ADD COLUMN committed INTEGER NOT NULL DEFAULT 0",
)
_RETRY_S = 0.005


def check_database(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a database of another program, and a damaged one.

    Raises:
        LedgerError: it can't be used.
    """
    connection.execute("BEGIN")  # both at one moment: another process may be creating it
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    connection.execute("COMMIT")
    if application_id != _APPLICATION_ID and (application_id or tables):
        raise LedgerError(
            f"{str(path)!r} is a database of another program: give the ledger a file of its own"
        )
    (damage,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if damage != "ok":
        raise LedgerError(
            f"the ledger {str(path)!r} is damaged: restore it from a copy, or save what can be "
            "saved with sqlite3's .recover"
        )


def enable_wal(connection: sqlite3.Connection, wait_s: float) -> None:
    """Switch to a write-ahead log. SQLite does not wait by itself if several do so at once."""
    until = time.monotonic() + wait_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() >= until:
                raise
            time.sleep(_RETRY_S)
        else:
            return


def version_of(connection: sqlite3.Connection) -> int:
    """The schema's version; 0 for an empty file."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def check_version(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a ledger that a later version of this package wrote.

    Raises:
        LedgerError: it can't be used.
    """
    if version_of(connection) > len(MIGRATIONS):
        raise LedgerError(
            f"the ledger {str(path)!r} was written by a later version of everlytic-async: install "
            "that version or a newer one"
        )


def migrate(connection: sqlite3.Connection, migrations: Sequence[str] = MIGRATIONS) -> None:
    """Within a transaction: bring the schema up to date."""
    for step in migrations[version_of(connection) :]:
        for statement in step.split(";"):
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {len(migrations)}")


def is_busy(error: BaseException | None) -> bool:
    """Whether another process holds the file. The error code's low byte says so."""
    code: int = getattr(error, "sqlite_errorcode", None) or 0
    return code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
