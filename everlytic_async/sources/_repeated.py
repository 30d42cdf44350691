"""Orders whose rows a table has twice, one after the other, as where exports were joined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from everlytic_async.sources._mapping import Getter, is_blank
from everlytic_async.sources._records import Lines, Record

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
        starts = sum(not is_blank(get(row)) for row in rows)
        if 1 < starts < len(rows):
            equal: dict[Any, list[Record]] = {}
            for row in rows:
                equal.setdefault(hashable(row), []).append(row)
            kept = [first for first, *_copies in equal.values()]
            is_each_copied = min(map(len, equal.values())) > 1
            if is_each_copied and sum(not is_blank(get(row)) for row in kept) == 1:
                return kept, 1
        return rows, starts

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

    def warnings(self) -> Iterator[str]:
        """What a person should look at before the orders are sent."""
        if self._lines.count:
            yield (
                f"orders that have all their products more than once: {self._lines.count:,} "
                f"({self._lines}). If their rows are in the file twice, remove them"
            )


def hashable(row: Record) -> Any:
    """What equal rows have in common, to look it up."""
    cells = tuple(row.items() if isinstance(row, dict) else row)
    try:
        hash(cells)
    except TypeError:  # a list in a cell
        return repr(cells)
    return cells


def _all_repeated(products: Sequence[Any]) -> bool:
    """Whether there are several products, and each of them more than once."""
    if len(products) < 2 or products[0] not in products[1:]:  # noqa: PLR2004
        return False
    return min(Counter(map(repr, products)).values()) > 1
