"""Reading texts, and what is compared of what comes out."""

from __future__ import annotations

import io
import json
from decimal import Decimal
from typing import Any

import attrs

from everlytic_async import InvalidOrderError, Order
from everlytic_async.sources import read_orders

Found = list[tuple[int, Order | InvalidOrderError]]


class Pipe(io.BytesIO):
    """What can't be read twice."""

    def seekable(self) -> bool:
        return False


def read(data: str | bytes, format_: str | None = None, **options: Any) -> Found:
    """Every item with its line."""
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    return list(read_orders(io.BytesIO(raw), format_, **options).lines())


def brief(found: Found) -> list[tuple[int, str]]:
    """Each item's line, and the id of the order, or its faults."""
    return [
        (line, str(item.order_id) if isinstance(item, Order) else "; ".join(item.faults))
        for line, item in found
    ]


def fields(item: Order | InvalidOrderError) -> dict[str, Any]:
    """The fields of an order that are set."""
    assert isinstance(item, Order), item
    return attrs.asdict(item, filter=lambda _field, value: value is not None)


def exact(item: Order | InvalidOrderError) -> str:
    """An order with every digit: Decimal("1.10") equals Decimal("1.1")."""
    return repr(sorted(fields(item).items()))


def to_json(value: Any, *, escaped: bool = False) -> str:
    """JSON with every digit of a Decimal."""
    match value:
        case dict():
            pairs = (f'"{key}": {to_json(item, escaped=escaped)}' for key, item in value.items())
            return f"{{{', '.join(pairs)}}}"
        case list():
            return f"[{', '.join(to_json(item, escaped=escaped) for item in value)}]"
        case Decimal():
            return str(value)
        case _:
            return json.dumps(value, ensure_ascii=escaped)
