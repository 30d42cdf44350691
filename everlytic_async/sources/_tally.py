"""What the orders of an input have in common: their contact, and whether they have ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from everlytic_async.errors import InvalidOrderError
from everlytic_async.orders import Order
from everlytic_async.sources._columns import CONTACTS

# The commonest of the first orders is counted on, if it is that common.
_FIRST_ORDERS, _MIN_FIRST = 10, 5
_NEARLY_ALL = 0.9


class OrderTally:
    """Counts orders by whether they have an id, and those with the commonest contact."""

    def __init__(self, mapping: Mapping[str, Any]) -> None:
        self._with_id = self._without_id = 0
        self._field = next((field for field in CONTACTS if mapping.get(field) is not None), None)
        self._spec = None if self._field is None else mapping[self._field]
        self._counts_contacts = self._field is not None
        self._first: Counter[str] = Counter()
        self._commonest: str | None = None
        self._same = self._total = 0

    def add(self, order: Order | InvalidOrderError) -> None:
        """Count an order; of an invalid one only its id."""
        if order.order_id is not None:
            self._with_id += 1
        elif isinstance(order, Order):
            self._without_id += 1
        if self._counts_contacts and isinstance(order, Order):
            self._add_contact(getattr(order, self._field or ""))

    def _add_contact(self, contact: str | None) -> None:
        """Count a contact, in bounded memory."""
        if contact is None:
            return
        self._total += 1
        if self._commonest is not None:
            self._same += contact == self._commonest
            return
        self._first[contact] += 1
        if self._total == _FIRST_ORDERS:
            self._commonest, self._same = self._first.most_common(1)[0]
            self._first.clear()
            self._counts_contacts = self._same >= _MIN_FIRST

    def warnings(self) -> Iterator[str]:
        """What a person should look at before the orders are sent."""
        if self._same and self._counts_contacts and self._same >= _NEARLY_ALL * self._total:
            which = f"'{self._spec}'" if isinstance(self._spec, str) else "it"
            yield (
                f"{self._same:,} of {self._total:,} orders have the same contact: if {which} is "
                f"not the customers', map {self._field} to another column"
            )
        if self._without_id and not self._with_id:
            yield (
                "orders have no order_id: they are known by their content, so equal ones are sent "
                "once, and one that changes is sent again. Map order_id if the export has one"
            )
        elif self._without_id:
            yield (
                f"orders without order_id, while others have one: {self._without_id:,}. Each of "
                "them gets an e-mail of its own: if they are parts of other orders, fill in their "
                "order_id"
            )
