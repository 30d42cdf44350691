"""What became of every order, kept where it survives: so that a second run takes up only the rest.

``_protocol``: what a ledger is, and the one rule on what may be sent again. ``_sqlite_file``: a
ledger in an SQLite file, all of its SQL. ``_sqlite``: the same for the event loop, with commits in
groups. ``_nats_bucket``: a ledger in a bucket of NATS, all that is read and written there.
``_nats``: how it is opened and closed; it needs the extra ``nats``.

The intent to send an order is committed before its POST begins, and its outcome after. What was in
flight when a process was killed is ``unknown`` to the next.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from everlytic_async.ledger._protocol import (
    Entry,
    Ledger,
    LedgerSession,
    ScopeName,
    State,
    Terms,
    merged,
    stored_key,
    stored_keys,
)

if TYPE_CHECKING:
    from everlytic_async.ledger._nats import NatsLedger
    from everlytic_async.ledger._sqlite import SqliteLedger
    from everlytic_async.ledger._sqlite_file import Durability, LedgerFile, Overview

__all__ = [
    "Durability",
    "Entry",
    "Ledger",
    "LedgerFile",
    "LedgerSession",
    "NatsLedger",
    "Overview",
    "ScopeName",
    "SqliteLedger",
    "State",
    "Terms",
    "merged",
    "stored_key",
    "stored_keys",
]

# A client that keeps no ledger need not wait for SQLite, nor have the client of NATS.
_HOME_OF = {
    "Durability": "_sqlite_file",
    "LedgerFile": "_sqlite_file",
    "NatsLedger": "_nats",
    "Overview": "_sqlite_file",
    "SqliteLedger": "_sqlite",
}

if not TYPE_CHECKING:  # who would take any name for one of these

    def __getattr__(name: str) -> object:
        home = _HOME_OF.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{home}"), name)
        globals()[name] = value
        return value
