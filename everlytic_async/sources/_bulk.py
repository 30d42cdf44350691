"""Bulk operations of Shopify: JSON Lines with the parts of an order in lines of their own.

See https://shopify.dev/docs/api/usage/bulk-operations/queries. A line item names its order, and may
be anywhere in the file. So all lines are put into a temporary database of SQLite first, which is on
disk as soon as it is large, and is gone when it is closed.
"""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

from everlytic_async._checks import MAX_ITEMS
from everlytic_async.errors import InvalidOrderError
from everlytic_async.sources._records import InvalidRow, Item

_ORDERS = ("/Order/", "/DraftOrder/", "/AbandonedCheckout/")
_LINE_ITEMS = ("/LineItem/", "/DraftOrderLineItem/", "/AbandonedCheckoutLineItem/")
# One without an id has one of these; shipping lines and discounts have some of them, too.
_LINE_ITEM_KEYS = frozenset(
    {"name", "title", "quantity", "sku", "originalUnitPrice", "originalUnitPriceSet"}
    | {"discountedTotalSet", "discountAllocations"}
)
_IS_ORDER, _IS_PART, _IS_FAULT, _IS_UNNAMED, _IS_OTHER = range(5)
# Of the line items of one order: more are a mistake or an attack.
_MAX_BYTES = 8 * 1024 * 1024
_LOST = "belongs to an order that is not in the file: is it cut off?"
_UNNAMED = (
    "may be a line item of it, and does not say what it is: in the query, ask for the id of each "
    "nested object, also of metafields, and for the __typename of those without an id, as "
    "discountApplications"
)

# Its number, kind, own id, its parent's, and what it holds.
_Line = tuple[int, int, str | None, str | None, bytes | None]


def join_lines(items: Iterable[tuple[int, Item]]) -> Iterator[tuple[int, Item]]:
    """Each order with its line items as ``lineItems``, in the order of the orders' lines."""
    with closing(sqlite3.connect("")) as database:
        # Nothing else uses it, and nothing of it is needed after a crash.
        database.executescript(
            """
            PRAGMA journal_mode = OFF;
            PRAGMA synchronous = OFF;
            CREATE TABLE lines (
                number INTEGER PRIMARY KEY, kind INTEGER, id TEXT, parent TEXT, body BLOB
            );
            """
        )
        rows = _classified(items)
        database.executemany("INSERT INTO lines VALUES (?, ?, ?, ?, ?)", rows)
        database.executescript(
            """
            CREATE INDEX orders ON lines (id) WHERE kind = 0;
            CREATE INDEX parts ON lines (parent, number) WHERE kind IN (1, 2, 3);
            """
        )
        yield from _join(database)


def _classified(items: Iterable[tuple[int, Item]]) -> Iterator[_Line]:
    above: str | None = None  # the order that the next line is a part of, if it does not say so
    for number, item in items:
        line = _classify(number, item)
        _number, kind, gid, parent, body = line
        if kind == _IS_ORDER or (kind == _IS_FAULT and _is_one_of(gid, _ORDERS)):
            above = gid if kind == _IS_ORDER else None
        elif kind == _IS_FAULT and parent is None:
            line = number, kind, gid, above, body
        yield line


def _classify(number: int, item: Item) -> _Line:
    if isinstance(item, InvalidRow):
        parent, gid = item.row or (None, None)
        return number, _IS_FAULT, gid, parent, pickle.dumps(item.error.faults)
    order: Any = item
    gid, parent = (_text(order.get(key)) for key in ("id", "__parentId"))
    kind = _IS_OTHER
    if parent is None or _is_one_of(gid, _ORDERS):
        kind = _IS_ORDER
    elif (name := gid or _text(order.get("__typename"))) is not None:
        if _is_one_of(f"/{name}/", _LINE_ITEMS):
            kind = _IS_PART
    elif _is_one_of(parent, _ORDERS) and not _LINE_ITEM_KEYS.isdisjoint(order):
        kind = _IS_PART if "quantity" in order else _IS_UNNAMED
    body = pickle.dumps(order) if kind in (_IS_ORDER, _IS_PART) else None
    return number, kind, gid, parent, body


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value.isascii() else None  # as all ids are


def _is_one_of(gid: str | None, kinds: tuple[str, ...]) -> bool:
    return gid is not None and any(kind in gid for kind in kinds)


def _join(database: sqlite3.Connection) -> Iterator[tuple[int, Item]]:
    # Of an order that is there again and again; so that time stays linear.
    (lines_left,) = database.execute("SELECT 4 * count(*) FROM lines").fetchone()
    lines = database.execute(
        """
        SELECT number, kind, id, body FROM lines
        WHERE kind IN (0, 2) OR kind IN (1, 3) AND NOT EXISTS (
            SELECT 1 FROM lines AS orders WHERE orders.kind = 0 AND orders.id = lines.parent
        ) ORDER BY number
        """
    )
    for number, kind, gid, body in lines:
        fault: str | None = _LOST
        found: Any = None
        if kind in (_IS_ORDER, _IS_FAULT):
            found = pickle.loads(body)  # noqa: S301 - our own
        if kind == _IS_FAULT:
            yield number, InvalidRow(InvalidOrderError(found, number))
            continue
        if kind == _IS_ORDER:
            parts, fault = _parts(database, gid, lines_left)
            lines_left -= len(parts)
            if parts:
                found["lineItems"] = [*parts.values()]
        yield number, found if fault is None else InvalidRow(InvalidOrderError([fault], number))


def _parts(
    database: sqlite3.Connection, gid: str | None, most: int
) -> tuple[dict[Any, Any], str | None]:
    """The line items of an order, each once, or why they can't be read."""
    parts: dict[Any, Any] = {}
    size = 0
    for number, kind, part, body in database.execute(
        "SELECT number, kind, id, body FROM lines WHERE kind IN (1, 2, 3) AND parent = ? "
        "ORDER BY number",
        (gid,),
    ):
        if kind == _IS_UNNAMED:
            return parts, f"line {number} {_UNNAMED}"
        if kind == _IS_FAULT:
            return parts, f"line {number} is or may be a part of it, and can't be read"  # see there
        size += len(body)
        if len(parts) == MAX_ITEMS or size > _MAX_BYTES:
            return parts, f"has more than {MAX_ITEMS:,} line items or {_MAX_BYTES:,} bytes of them"
        if len(parts) >= most:
            return parts, "is in the file many times: export it again"
        parts[part or number] = pickle.loads(body)  # noqa: S301 - our own
    return parts, None
