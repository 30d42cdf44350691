"""Which orders of an input have the id of an earlier one: a run sends the first of them only.

However long the input is, memory stays bounded: the ids are in a temporary database, which SQLite
keeps in memory up to a few megabytes, and in a file that has no name beyond.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

from everlytic_async.cli._screen import count_orders, join_some
from everlytic_async.orders import Order

__all__ = ["Repeats"]

# How many ids are kept as examples, and how many lines of each.
_EXAMPLES = 5
_LINES = 5
_CACHE_KIB = 16 * 1024


class Repeats:
    """Counts the orders that repeat an id, in the same workflow.

    Attributes:
        count: How many there are, the first of each not counted.
        examples: The first few ids, with the lines of their first orders.
    """

    def __init__(self) -> None:
        self.count = 0
        self.examples: dict[str, list[int]] = {}
        self._ids = sqlite3.connect("", isolation_level=None)
        self._ids.execute("PRAGMA journal_mode = OFF")
        self._ids.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._ids.execute("CREATE TABLE ids (id INTEGER PRIMARY KEY, line INTEGER)")
        self._ids.execute("BEGIN")

    def add(self, order: Order, line: int) -> None:
        """Look whether an order repeats an id."""
        if order.order_id is None:
            return
        name = str(order.order_id)
        pair = f"{name.strip()}\0{order.workflow_id}".encode(errors="surrogatepass")
        number = int.from_bytes(blake2b(pair, digest_size=8).digest(), signed=True)
        added = self._ids.execute("INSERT OR IGNORE INTO ids VALUES (?, ?)", (number, line))
        if added.rowcount:
            return
        self.count += 1
        if name not in self.examples and len(self.examples) < _EXAMPLES:
            (first,) = self._ids.execute("SELECT line FROM ids WHERE id = ?", (number,)).fetchone()
            self.examples[name] = [first]
        if len(self.examples.get(name, [None] * _LINES)) < _LINES:
            self.examples[name].append(line)

    def describe(self, place: str) -> Iterator[str]:
        """A warning, if there are any."""
        if not self.count:
            return
        which = [
            f"{name} ({place}s {join_some(lines, _LINES)})" for name, lines in self.examples.items()
        ]
        more = (
            " and others"
            if self.count > sum(len(each) - 1 for each in self.examples.values())
            else ""
        )
        verb = "has" if self.count == 1 else "have"
        yield (
            f"{count_orders(self.count)} {verb} the id of an earlier order, and a run with a "
            f"ledger sends only the first: {', '.join(which)}{more}"
        )

    def figures(self) -> dict[str, Any]:
        """The same for JSON."""
        return {"orders": self.count, "first": self.examples}

    def close(self) -> None:
        """Give the space back."""
        self._ids.close()
