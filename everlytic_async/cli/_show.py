"""``check --show N``: the first orders as they would go out, field by field, and where from."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import attrs
from rich.table import Table
from rich.text import Text

from everlytic_async.errors import InvalidOrderError, printable
from everlytic_async.orders import Order
from everlytic_async.sources import TracedOrder

__all__ = ["as_table", "as_values"]


@attrs.frozen
class Field:
    """A field that is set.

    Attributes:
        product: The place of its product, from 0; None where it is the order's.
        name: Its name.
        value: Its value.
        origin: The column or path that it came from.
    """

    product: int | None
    name: str
    value: Any
    origin: str

    @property
    def path(self) -> str:
        """Its name, with that of its product."""
        return self.name if self.product is None else f"products[{self.product}].{self.name}"


def _fields(traced: TracedOrder) -> Iterator[Field]:
    if isinstance(traced.order, Order):
        models: list[tuple[int | None, Any]] = [
            (None, traced.order),
            *enumerate(traced.order.products),
        ]
        for place, model in models:
            for each in attrs.fields(type(model)):
                value = getattr(model, each.name)
                if value is not None and each.name != "products":
                    field = Field(place, each.name, value, "")
                    origin = traced.origins.get(field.path, "an option")
                    yield attrs.evolve(field, origin=origin)


def as_table(traced: TracedOrder, place: str) -> Table:
    """An order for a terminal."""
    table = Table(
        title=f"{place.capitalize()} {traced.number:,}",
        title_justify="left",
        title_style="bold",
        show_edge=False,
    )
    if isinstance(traced.order, InvalidOrderError):
        table.add_column("not valid, so it can't be sent")
        for fault in traced.order.faults:
            table.add_row(_text(fault))
        return table
    for name in ("field", "value", "from"):
        table.add_column(name, overflow="fold")
    product = None
    for field in _fields(traced):
        if field.product != product:
            product = field.product
            table.add_section()
        table.add_row(_text(field.name), _text(_shown(field.value)), _text(field.origin))
    return table


def as_values(traced: TracedOrder, place: str) -> dict[str, Any]:
    """An order for JSON."""
    is_valid = isinstance(traced.order, Order)
    return {
        place: traced.number,
        "faults": [] if is_valid else list(getattr(traced.order, "faults", ())),
        "fields": [
            {"field": each.path, "value": _plain(each.value), "from": each.origin}
            for each in _fields(traced)
        ],
    }


def _text(value: str) -> Text:
    return Text(printable(value))  # not markup


def _shown(value: Any) -> str:
    return " ".join(value) if isinstance(value, list | tuple) else f"{value}"


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return list(value)
    return _number(value) if isinstance(value, Decimal) else value


def _number(value: Decimal) -> float | str:
    """A number where JSON's is exact; else its digits."""
    if value == value.to_integral_value():
        return int(value)
    return float(value) if Decimal(repr(float(value))) == value else f"{value:f}"
