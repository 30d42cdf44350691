"""Whether nearly all orders have one contact, which then is hardly the customer's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from everlytic_async.orders import Order
from everlytic_async.sources._columns import CONTACTS

__all__ = ["ContactCounter"]

# The commonest of the first orders is counted on, if it is that common.
_FIRST_ORDERS, _MIN_FIRST = 10, 5
_NEARLY_ALL = 0.9


class ContactCounter:
    """Counts the orders that have the commonest contact, in bounded memory.

    Args:
        mapping: The caller's mapping, which says what the contact is.
    """

    def __init__(self, mapping: Mapping[str, Any]) -> None:
        self._field = next((field for field in CONTACTS if mapping.get(field) is not None), None)
        self._spec = None if self._field is None else mapping[self._field]
        self._first: Counter[str] = Counter()
        self._commonest: str | None = None
        self._same = self._total = 0

    def add(self, order: object) -> bool:
        """Count an order; what is none is not counted. False if no more of them are needed."""
        if self._field is None:
            return False
        contact = getattr(order, self._field) if isinstance(order, Order) else None
        if contact is None:
            return True
        self._total += 1
        if self._commonest is not None:
            self._same += contact == self._commonest
            return True
        self._first[contact] += 1
        if self._total == _FIRST_ORDERS:
            commonest, self._same = self._first.most_common(1)[0]
            self._first.clear()
            if self._same < _MIN_FIRST:
                return False
            self._commonest = commonest
        return True

    def warnings(self) -> Iterator[str]:
        """What a person should look at."""
        if self._commonest is None or self._same < _NEARLY_ALL * self._total:
            return
        which = f"'{self._spec}'" if isinstance(self._spec, str) else "it"
        yield (
            f"{self._same:,} of {self._total:,} orders have the same contact: if {which} is not "
            f"the customers', map {self._field} to another column"
        )
