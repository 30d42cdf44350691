"""Ledgers for the command, the orders whose ids ask for an outcome, and what is to be copied."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from command_line import Completed

from everlytic_async.ledger import Entry, LedgerFile, State
from everlytic_async.ledger._sqlite import Record, SqliteWriter
from support.delivery import order

INVALID = {"order_id": "i1", "contact_email": "nobody"}
ONE_AT_ONCE = ("--retries", "0", "--concurrency", "1")


def make_ledger(path: Path, *entries: Entry, at: float = 1_800_000_000.0) -> Path:
    """A ledger that knows these orders, each recorded a second after the one before."""
    times = iter(at + second for second in range(1000))
    with SqliteWriter(path, clock=lambda: next(times)) as ledger:
        scope = ledger.scope("a digest", "shop.example")
        for entry in entries:
            ledger.write([Record(scope, entry)])
    return path


def states(path: Path | str) -> dict[str, State]:
    with LedgerFile(path, must_exist=True) as ledger:
        return {entry.key: entry.state for _host, entry in ledger.entries()}


def named(*ids: str) -> list[Any]:
    return [INVALID if each == "i1" else order(each) for each in ids]


def commands(run: Completed) -> list[list[str]]:
    """What is printed to be copied, without the name of the program."""
    lines = [line.strip() for line in run.err.splitlines() if line.startswith("  everlytic-async")]
    return [shlex.split(line)[1:] for line in lines]
