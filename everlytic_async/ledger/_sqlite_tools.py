"""`LedgerFile`: to look at an SQLite ledger, to mark its unknown orders, and to copy it."""

from __future__ import annotations

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import MappingProxyType

import attrs

from everlytic_async.errors import LedgerError
from everlytic_async.ledger._protocol import Entry, State, merge_entries
from everlytic_async.ledger._sqlite_checks import create_private
from everlytic_async.ledger._sqlite_file import SqliteFile
from everlytic_async.ledger._sqlite_schema import COLUMNS, STATES, entry_from_row

__all__ = ["LedgerFile", "LedgerSummary"]

# Orders with these ids under any scope and workflow: 1001, 1001@32. Two ranges of the primary key:
# one range would hold every id that starts with the same digits.
_FIND = f"""
    SELECT wanted.value, scopes.host, orders.scope, {COLUMNS}
    FROM json_each(?) AS wanted
    CROSS JOIN scopes
    CROSS JOIN orders ON orders.scope = scopes.id AND orders.key = wanted.value
    UNION ALL
    SELECT wanted.value, scopes.host, orders.scope, {COLUMNS}
    FROM json_each(?) AS wanted
    CROSS JOIN scopes
    CROSS JOIN orders ON orders.scope = scopes.id
        AND orders.key >= wanted.value || '@' AND orders.key < wanted.value || 'A'
"""  # noqa: S608 - constants


@attrs.frozen
class LedgerSummary:
    """What a ledger holds.

    An endpoint and store that never accepted or refused an order, even perhaps, is counted only if
    there is no other: a run with a mistyped address or store hash leaves all its orders as not
    sent, and the run with the right one records the same orders again. If there are only such
    stores, the last one used is counted.

    Attributes:
        counts: How many orders are in each state.
        first_at: When the oldest entry was recorded, in seconds since the epoch; None if there is
            none.
        last_at: When the newest entry was recorded.
        hosts: The endpoints' hosts.
        running: How many processes are sending with it now.
        never_accepted: How many entries are not in ``counts``, by the host of their endpoint.
    """

    counts: Mapping[State, int]
    first_at: float | None
    last_at: float | None
    hosts: tuple[str, ...]
    running: int
    never_accepted: Mapping[str, int] = MappingProxyType({})


class LedgerFile(SqliteFile):
    """A ledger's file, to look at it and to mark entries.

    What a run has in flight whose process has ended is unknown to every method, also before the
    next run records that. Everything but `resolve` works while another process writes.
    """

    def summary(self) -> LedgerSummary:
        """What it holds, in figures."""
        with self.translate_errors("read"):
            execute = self.connection.execute
            hosts = dict(execute("SELECT id, host FROM scopes").fetchall())
            crashed = self.crashed_runs()
            figures = [
                (scope, State.UNKNOWN.code if run in crashed else code, *rest)
                for scope, code, run, *rest in execute(
                    "SELECT scope, state, run, count(*), min(at), max(at) FROM orders "
                    "GROUP BY scope, state, run"
                )
            ]
            running = sum(map(self.is_alive, self.unended_runs()))
        used = {scope for scope, code, *_ in figures if STATES[code].rank}
        if figures and not used:
            used = {max(figures, key=lambda row: row[-1])[0]}
        counts, never_accepted = Counter[State](), Counter[str]()
        for scope, code, count, *_ in figures:
            if scope in used:
                counts[STATES[code]] += count
            else:
                never_accepted[hosts[scope]] += count
        idle = {scope for scope, *_ in figures} - used
        return LedgerSummary(
            counts=MappingProxyType({state: counts[state] for state in State}),
            first_at=min((row[3] for row in figures if row[0] in used), default=None),
            last_at=max((row[4] for row in figures if row[0] in used), default=None),
            hosts=tuple(sorted({host for scope, host in hosts.items() if scope not in idle})),
            running=running,
            never_accepted=MappingProxyType(dict(never_accepted)),
        )

    def entries(self, states: Iterable[State] = State) -> Iterator[tuple[str, Entry]]:
        """Every entry in one of these states with its endpoint's host, by key."""
        wanted = set(states)
        with self.translate_errors("read"):
            crashed = self.crashed_runs()
            stored = wanted | {State.IN_FLIGHT} if crashed else wanted
            codes = json.dumps([state.code for state in stored])
            for host, *row in self.connection.execute(
                f"SELECT host, {COLUMNS} FROM orders JOIN scopes ON scopes.id = scope "  # noqa: S608 - constants
                "WHERE state IN (SELECT value FROM json_each(?)) ORDER BY scope, key",
                (codes,),
            ):
                entry = entry_from_row(row, crashed)
                if entry.state in wanted:
                    yield host, entry

    def find_scopes(self, name: str) -> frozenset[int]:
        """The numbers of an endpoint and store, also those that earlier versions gave it."""
        with self.translate_errors("read"):
            number, earlier = self.scope_numbers(name)
        return earlier if number is None else earlier | {number}

    def look_up(self, scopes: Iterable[int], keys: Sequence[str]) -> dict[str, Entry]:
        """What is known of these orders in any of these scopes; the entry that forbids most."""
        known: dict[str, Entry] = {}
        with self.translate_errors("read"):
            crashed = self.crashed_runs()
            for scope in scopes:
                for key, entry in self.read(scope, keys, crashed).items():
                    known[key] = merge_entries(known.get(key), entry) or entry
        return known

    def find(self, order_ids: Iterable[str]) -> Iterator[tuple[str, str, int, Entry]]:
        """Every entry of these orders, of any endpoint, store and workflow.

        Yields:
            The order id; the endpoint's host; the number of the endpoint and store; the entry.
        """
        wanted = json.dumps(list(order_ids))
        with self.translate_errors("read"):
            crashed = self.crashed_runs()
            for order_id, host, scope, *row in self.connection.execute(_FIND, (wanted, wanted)):
                yield order_id, host, scope, entry_from_row(row, crashed)

    def resolve(
        self, to: State, keys: Sequence[str] | None = None, *, host: str | None = None
    ) -> tuple[int, tuple[str, ...]]:
        """Mark unknown orders as what somebody has found out.

        What a living process has in flight is left alone; what a crashed one left is unknown.

        Args:
            to: `State.SENT`, or `State.NOT_SENT` for orders to be sent again.
            keys: As they are stored; None for all that are unknown.
            host: Only orders of this host; None for all hosts.

        Returns:
            How many were marked; and the keys that are not unknown.

        Raises:
            LedgerError: the ledger can't be written, or a key names unknown orders of several
                endpoints or stores: then nothing was marked.
        """
        if to not in (State.SENT, State.NOT_SENT):
            raise ValueError("an unknown order is resolved as sent, or as not sent")
        statement = "UPDATE orders SET state = ?, reason = ?, at = ? WHERE state = ?"
        values = [to.code, f"marked as {to} by hand", self.clock(), State.UNKNOWN.code]
        if host is not None:
            statement += " AND scope IN (SELECT id FROM scopes WHERE host = ?)"
            values.append(host)
        with self.transaction():
            self.recover_crashed_runs()
            if keys is None:
                return self.connection.execute(statement, values).rowcount, ()
            marked = {}
            for key in keys:
                update = self.connection.execute(f"{statement} AND key = ?", (*values, key))
                marked[key] = update.rowcount
                if update.rowcount > 1:
                    # What somebody found out about one store's order says nothing of another's.
                    raise LedgerError(
                        f"nothing was marked: {key} names unknown orders of {update.rowcount} "
                        "endpoints or stores: name the host, or keep a ledger for each store"
                    )
        return sum(marked.values()), tuple(key for key, count in marked.items() if not count)

    def copy_to(self, target: str | os.PathLike[str]) -> None:
        """Create another ledger that holds what this one holds now, and no run.

        What is in flight is unknown in the copy.

        Args:
            target: Where to create it; only its owner may read it.

        Raises:
            LedgerError: there is a file already, or it can't be created.
        """
        path = Path(os.path.realpath(target))
        try:
            create_private(path)
        except FileExistsError as error:
            raise LedgerError(
                f"there is a file at {str(path)!r}, which is not replaced: name a new one"
            ) from error
        except OSError as error:
            raise LedgerError(
                f"the ledger {str(path)!r} can't be created: {error.strerror}"
            ) from error
        try:
            with self.translate_errors("copied"), closing(sqlite3.connect(path)) as copy:
                self.connection.backup(copy)
            # No run has a lock beside the copy: what is in flight becomes unknown.
            with SqliteFile(path, incomplete=True, clock=self.clock) as file, file.transaction():
                file.recover_crashed_runs()
        except BaseException:
            for each in (path, *(path.with_name(f"{path.name}-{end}") for end in ("wal", "shm"))):
                each.unlink(missing_ok=True)
            raise
