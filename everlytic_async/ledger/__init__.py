"""Persistent record of every order's outcome, so that a second run sends only the remaining ones.

``_protocol`` says what a ledger is, and which orders may be sent again. ``claims`` is how the core
uses any ledger. Two implement it, and both are opened by the first stream and closed by the last
(``_shared``):

- SQLite: ``_sqlite`` claims and records in one thread, ``_sqlite_schema`` has the tables,
  ``_sqlite_file`` opens the file, ``_sqlite_checks`` refuses what is not safe, ``_sqlite_tools`` is
  for people.
- NATS, of the extra ``nats``: ``_nats`` claims and records, ``_nats_buckets`` keeps its entries and
  which processes are alive.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from everlytic_async.ledger._protocol import (
    Entry,
    Ledger,
    LedgerSession,
    ResendPolicy,
    ScopeName,
    State,
    merge_entries,
    storage_key,
    storage_keys,
)

if TYPE_CHECKING:
    from everlytic_async.ledger._nats import NatsAccess, NatsLedger
    from everlytic_async.ledger._sqlite import Durability, SqliteLedger
    from everlytic_async.ledger._sqlite_tools import LedgerFile, LedgerSummary

__all__ = [
    "Durability",
    "Entry",
    "Ledger",
    "LedgerFile",
    "LedgerSession",
    "LedgerSummary",
    "NatsAccess",
    "NatsLedger",
    "ResendPolicy",
    "ScopeName",
    "SqliteLedger",
    "State",
    "merge_entries",
    "storage_key",
    "storage_keys",
]

# Loaded when they are used: a client without a ledger needs neither SQLite nor the client of NATS.
_MODULES = {
    "Durability": "_sqlite",
    "LedgerFile": "_sqlite_tools",
    "LedgerSummary": "_sqlite_tools",
    "NatsAccess": "_nats",
    "NatsLedger": "_nats",
    "SqliteLedger": "_sqlite",
}

if not TYPE_CHECKING:  # type checkers would accept every name

    def __getattr__(name: str) -> object:
        module = _MODULES.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{module}"), name)
        globals()[name] = value
        return value
