"""The schema of a ledger in SQLite: its tables, how older files get them, and its statements."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from everlytic_async.ledger._protocol import CRASHED_MESSAGE, Entry, State

#: "EVLA", so that `file` and we recognize our files.
APPLICATION_ID = 0x45564C41
#: The statements that lead from each version to the next, separated by ";".
MIGRATIONS = (
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
#: The states by the numbers that stand for them.
STATES = {state.code: state for state in State}
#: What makes an entry.
COLUMNS = "orders.key, orders.state, body, attempts, status, reason, at, run"
#: The entries of some keys, which are a JSON list, in a scope.
LOOK_UP = f"""
    SELECT {COLUMNS}
    FROM json_each(?) AS wanted
    CROSS JOIN orders ON orders.scope = ? AND orders.key = wanted.value
"""  # noqa: S608 - a constant
_INTO = "INTO orders (scope, key, body, state, run, attempts, status, reason, at)"
#: Writes an entry, whatever was there.
REPLACE = f"REPLACE {_INTO} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - a constant
_RANK = " ".join(f"WHEN {state.code} THEN {state.rank}" for state in State)
#: Copies the entries of a scope to another; where two meet, the one that forbids more wins.
MERGE = f"""
    INSERT {_INTO}
    SELECT ?, key, body, state, run, attempts, status, reason, at FROM orders WHERE scope = ?
    ON CONFLICT (scope, key) DO UPDATE SET
        body = excluded.body, state = excluded.state, run = excluded.run,
        attempts = excluded.attempts, status = excluded.status, reason = excluded.reason,
        at = excluded.at
    WHERE (CASE excluded.state {_RANK} END, excluded.at)
        > (CASE orders.state {_RANK} END, orders.at)
"""  # noqa: S608 - constants


def entry_from_row(row: Sequence[Any], crashed: Collection[int] = ()) -> Entry:
    """The entry of a row of `COLUMNS`; what is in flight in a crashed run is unknown."""
    key, code, digest, attempts, status, reason, at, run = row
    if run in crashed:
        return Entry(key, State.UNKNOWN, digest, attempts, status, CRASHED_MESSAGE, at)
    return Entry(key, STATES[code], digest, attempts, status, reason, at)


def row_from_entry(scope: int, entry: Entry, run: int | None, now: float) -> tuple[Any, ...]:
    """The values of `REPLACE`; ``run`` has the order in flight."""
    reason = entry.reason
    if reason is not None:  # half a character would make the whole row unreadable
        reason = reason.encode("utf-8", "replace").decode()
    values = entry.state.code, run, entry.attempts, entry.status, reason, now
    return scope, entry.key, entry.body_digest, *values
