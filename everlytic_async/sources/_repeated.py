"""Orders whose rows a table has twice, one after the other, as where exports were joined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from everlytic_async.sources._mapping import Getter, is_blank
from everlytic_async.sources._records import Lines, Record

__all__ = ["RepeatedRows", "hashable"]

_FAULT = (
    "is in the file more than once, and differs: keep the rows that are up to date, and remove the "
    "others"
)


class RepeatedRows:
    """Looks for orders that start more than once, and for those that are there in full again.

    Args:
        get_start: Takes what the first row of an order has, and its further rows may lack; None if
            there is no such column.
        is_fault: Whether only the first row of an order starts it, in every such file.
    """

    def __init__(self, get_start: Getter | None, *, is_fault: bool) -> None:
        self._get_start = get_start
        self._is_fault = is_fault
        self._lines = Lines()

    def once(self, rows: Sequence[Record]) -> tuple[Sequence[Record], int]:
        """The rows of an order, without copies if it starts again; and how often it starts."""
        get = self._get_start
        if get is None or not any(map(get, rows[1:])):
            return rows, 1  # nearly always, in a shop's export
        starts = self._count_starts(rows)
        if 1 < starts < len(rows):
            distinct: dict[Any, list[Record]] = {}
            for row in rows:
                distinct.setdefault(hashable(row), []).append(row)
            once = [equal[0] for equal in distinct.values()]
            if min(map(len, distinct.values())) > 1 and self._count_starts(once) == 1:
                return once, 1
        return rows, starts

    def _count_starts(self, rows: Sequence[Record]) -> int:
        get = self._get_start
        return 1 if get is None else sum([not is_blank(get(row)) for row in rows])

    def check(self, number: int, rows: Sequence[Record], starts: int, products: Any) -> str | None:
        """The fault of an order that starts more than once.

        Args:
            number: The line of its first row.
            rows: Its rows, as `once` returned them.
            starts: How often it starts.
            products: Its products.
        """
        is_whole = _all_repeated(products)
        if is_whole and starts == len(rows) and not self._is_fault:
            # Its own columns are in every row: it may have bought the same twice.
            self._lines.add(number)
            return None
        return _FAULT if is_whole or (starts < len(rows) and self._is_fault) else None

    def warnings(self) -> list[str]:
        """What a person should look at before the orders are sent."""
        lines = self._lines
        warning = (
            f"orders that have all their products more than once: {lines.count:,} ({lines}). If "
            "their rows are in the file twice, remove them"
        )
        return [warning] if lines.count else []


def hashable(row: Record) -> Any:
    """The cells of a row, as a key."""
    cells = tuple(row)
    try:
        hash(cells)
    except TypeError:  # of Parquet: a list in a cell
        return repr(cells)
    return cells


def _all_repeated(products: Sequence[Any]) -> bool:
    """Whether there are several products, and each of them more than once."""
    if len(products) < 2 or products[0] not in products[1:]:  # noqa: PLR2004
        return False
    counts: dict[str, int] = {}
    for product in map(repr, products):
        counts[product] = counts.get(product, 0) + 1
    return min(counts.values()) > 1
