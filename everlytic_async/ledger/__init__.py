"""Persistent record of every order's outcome, so that a second run sends only the remaining ones.

``_protocol``: what a ledger is, and the one rule on what may be sent again. For SQLite:
``_sqlite_schema`` has the schema, ``_sqlite_file`` opens a file safely (``_sqlite_checks``,
``_sqlite_runs``), ``_sqlite_writer`` claims and
records, ``_sqlite`` does so for the event loop, ``_sqlite_tools`` looks at it. For NATS:
``_nats_bucket`` reads and writes a bucket, ``_nats`` opens and closes it; it needs the extra
``nats``. Another ledger (Postgres) would be one more module that implements ``_protocol.Ledger``.

The intent to send an order is committed before its POST starts, and its outcome after. What was in
flight when a process was killed is ``unknown`` to the next.
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
    from everlytic_async.ledger._nats import NatsLedger
    from everlytic_async.ledger._sqlite import SqliteLedger
    from everlytic_async.ledger._sqlite_tools import LedgerFile, LedgerSummary
    from everlytic_async.ledger._sqlite_writer import Durability

__all__ = [
    "Durability",
    "Entry",
    "Ledger",
    "LedgerFile",
    "LedgerSession",
    "LedgerSummary",
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
    "Durability": "_sqlite_writer",
    "LedgerFile": "_sqlite_tools",
    "LedgerSummary": "_sqlite_tools",
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
