"""Counts the orders whose rows differ in an amount: it may be that of the line instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from everlytic_async.sources._mapping import Compiler, Getter, is_blank
from everlytic_async.sources._notation import Notation
from everlytic_async.sources._records import Lines, Record

#: The amounts of an order, of which each is the same in all its rows.
AMOUNTS = ("sub_total", "shipping_fee", "taxes", "total", "discount")


class DifferingAmounts:
    """Compares the amounts in the rows of each order."""

    def __init__(
        self,
        specs: Mapping[str, Any],
        getters: Mapping[str, Getter],
        compiler: Compiler,
        notation: Notation,
    ) -> None:
        # Without those that are called as the field is, and are not there.
        self._getters = {
            field: getters[field]
            for field in AMOUNTS
            if field in specs and (specs[field] != field or compiler.is_direct(field))
        }
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
