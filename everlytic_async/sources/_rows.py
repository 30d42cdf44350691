"""What the rows of an order show: that it is there twice, or that an amount is that of the line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from everlytic_async.sources._mapping import Getter, is_blank
from everlytic_async.sources._notation import Notation
from everlytic_async.sources._records import Record

#: The amounts of an order, of which each is the same in all its rows.
AMOUNTS = ("sub_total", "shipping_fee", "taxes", "total", "discount")
_FAULT = (
    "is in the file more than once, and differs: keep the rows that are up to date, and remove the "
    "others"
)
# How many lines are named.
_EXAMPLES = 5


class Lines:
    """Counts lines, or what a format has instead, and names the first few."""

    def __init__(self) -> None:
        self.count = 0
        self._examples: list[int] = []

    def add(self, number: int) -> None:
        """Count a line."""
        self.count += 1
        if len(self._examples) < _EXAMPLES:
            self._examples.append(number)

    def __str__(self) -> str:
        name = "line" if self.count == 1 else "lines"
        more = " and others" if self.count > len(self._examples) else ""
        return f"{name} {', '.join(map(str, self._examples))}{more}"


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


class DifferingAmounts:
    """Compares the amounts in the rows of each order: those that these getters take."""

    def __init__(self, getters: Mapping[str, Getter], notation: Notation) -> None:
        self._getters = getters
        self._parse = notation.number_parser()
        self._lines: dict[str, Lines] = {}

    def compare(self, number: int, rows: Sequence[Record]) -> None:
        """Count the order in that line, for each of its amounts in which its rows differ."""
        for field, get in self._getters.items():
            amounts = [get(row) for row in rows]
            if amounts.count(amounts[0]) == len(amounts):
                continue  # nearly always
            found = [each for each in amounts if not is_blank(each)]
            # 5.0 is 5.00.
            values = [self._parse(each) if isinstance(each, str) else each for each in found]
            if any(value != values[0] for value in values):
                self._lines.setdefault(field, Lines()).add(number)

    def warnings(self) -> list[str]:
        """What a person should look at before the orders are sent."""
        return [
            f"{'1 order has' if lines.count == 1 else f'{lines.count:,} orders have'} rows that "
            f"differ in {field} ({lines}): the first is sent. If it is the amount of the line, "
            + ("map it to product_line_total" if "total" in field else "don't map it")
            for field in AMOUNTS
            if (lines := self._lines.get(field)) is not None
        ]
