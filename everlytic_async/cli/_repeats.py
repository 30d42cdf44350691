"""Which orders of an input have the id of an earlier one: a run sends the first of them only.

However long the input is, memory stays bounded: the ids are in a temporary database, which SQLite
keeps in memory up to a few megabytes, and in a file that has no name beyond.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from everlytic_async.cli._screen import count_orders, join_some
from everlytic_async.errors import InvalidOrderError
from everlytic_async.ledger import storage_key
from everlytic_async.orders import Order
from everlytic_async.sources import ROW_APART

#: Of one that is skipped because this run was sending the earlier one.
SKIPPED_AS_REPEATED = "it has the id of an earlier order of this input"
#: Why such an order is left out of a run without a ledger.
REPEATED = "the id of an earlier order"

# How many ids are kept as examples, and how many lines of each.
_EXAMPLES = 5
_LINES = 5
_CACHE_KIB = 16 * 1024


class Repeats:
    """Counts the orders that repeat an id, in the same workflow: the first of each does not count.

    `examples` are the first few ids, with the lines of their first orders.
    """

    def __init__(self) -> None:
        self.count = 0
        self._differ = False
        self.examples: dict[str, list[int]] = {}
        # A pipe is read in a thread.
        self._ids = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._ids.execute("PRAGMA journal_mode = OFF")
        self._ids.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._ids.execute("CREATE TABLE ids (id INTEGER PRIMARY KEY, line INTEGER, content)")
        self._ids.execute("BEGIN")

    def is_repeated(self, line: int, order: Order | InvalidOrderError) -> bool:
        """Whether the order, or a row apart from its order, has the id of an earlier one."""
        if isinstance(order, InvalidOrderError) and ROW_APART not in order.faults:
            return False
        if order.order_id is None:
            return False
        name = str(order.order_id)
        # Of 64 bits, and random: two ids don't share one.
        number = hash(f"{name.strip()}\0{getattr(order, 'workflow_id', None)}")
        content = hash(order) if isinstance(order, Order) else None
        select = "SELECT line, content FROM ids WHERE id = ?"
        found = self._ids.execute(select, (number,)).fetchone()
        if found is not None:
            self._count(name, found[0], line)
            self._differ = self._differ or found[1] != content
        elif content is not None:
            self._ids.execute("INSERT INTO ids VALUES (?, ?, ?)", (number, line, content))
        return found is not None

    def _count(self, name: str, first: int, line: int) -> None:
        self.count += 1
        name = storage_key(name)  # an id may be a customer's address
        if name not in self.examples and len(self.examples) < _EXAMPLES:
            self.examples[name] = [first]
        if len(self.examples.get(name, [None] * _LINES)) < _LINES:
            self.examples[name].append(line)

    def describe(self, place: str, *, is_table: bool) -> Iterator[str]:
        """A warning, if there are any; in a table, those that differ may be rows of one order."""
        if not self.count:
            return
        which = [
            f"{name} ({place}s {join_some(lines, _LINES)})" for name, lines in self.examples.items()
        ]
        shown = sum(len(each) - 1 for each in self.examples.values())
        more = " and others" if self.count > shown else ""
        if is_table and self._differ:
            more += ". If they are rows of one order, sort the file by that id"
        verb = "has" if self.count == 1 else "have"
        yield (
            f"{count_orders(self.count)} {verb} the id of an earlier order, and only the first is "
            f"sent: {', '.join(which)}{more}"
        )

    def close(self) -> None:
        """Give the space back."""
        self._ids.close()
