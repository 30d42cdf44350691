"""Reading texts, and what is compared of what comes out."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from decimal import Decimal
from itertools import zip_longest
from typing import Any

import attrs
import pytest

from everlytic_async import ConfigurationError, InvalidOrderError, Order
from everlytic_async.sources import Reader, read_orders

Found = list[tuple[int, Order | InvalidOrderError]]


class Pipe(io.BytesIO):
    """What can't be read twice."""

    def seekable(self) -> bool:
        return False


def reader_of(data: str | bytes, format_: str | None = None, **options: Any) -> Reader:
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    return read_orders(io.BytesIO(raw), format_, **options)


def read(data: str | bytes, format_: str | None = None, **options: Any) -> Found:
    """Every item with its line."""
    return list(reader_of(data, format_, **options).lines())


def brief(found: Found) -> list[tuple[int, str]]:
    """Each item's line, and the id of the order, or its faults."""
    return [
        (line, str(item.order_id) if isinstance(item, Order) else "; ".join(item.faults))
        for line, item in found
    ]


def outcome(
    source: str | bytes | Reader, expected: Iterable[str] | None = None, **options: Any
) -> list[str]:
    """What comes of an input, as far as it is expected: orders, what is left out, and warnings.

    An order is its place, its id and the number of its products; or its place and its faults.
    """
    reader = source if isinstance(source, Reader) else reader_of(source, **options)
    found = [
        f"{line}: {item.order_id} ({len(item.products)})"
        if isinstance(item, Order)
        else f"{line}: {'; '.join(item.faults)}"
        for line, item in reader.lines()
    ]
    left_out = [f"{reason}: {count}" for reason, count in reader.skipped.items()]
    whole = [*found, *left_out, *reader.warnings]
    return whole if expected is None else starts(whole, expected)


def starts(texts: Iterable[str], expected: Iterable[str]) -> list[str]:
    """The texts, each as far as one is expected there."""
    return [text[: len(start)] for text, start in zip_longest(texts, expected, fillvalue="")]


def starts_of_lines(
    found: Iterable[tuple[int, Order | InvalidOrderError]], expected: list[tuple[int, str]]
) -> list[tuple[int, str]]:
    """What `brief` has of each item, as far as it is expected."""
    pairs = zip_longest(brief(list(found)), expected, fillvalue=(0, ""))
    return [(line, text[: len(start)]) for (line, text), (_line, start) in pairs]


def refusal(data: str | bytes, format_: str | None = None, **options: Any) -> str:
    """Why an input is refused."""
    with pytest.raises(ConfigurationError) as caught:
        read(data, format_, **options)
    return str(caught.value)


def fields(item: Order | InvalidOrderError) -> dict[str, Any]:
    """The fields of an order that are set."""
    assert isinstance(item, Order), item
    return attrs.asdict(item, filter=lambda _field, value: value is not None)


PRODUCT = (
    "product_name",
    "product_price",
    "product_quantity",
    "product_sku",
    "product_line_total",
    "product_gallery",
)


AMOUNTS = ("sub_total", "shipping_fee", "taxes", "total", "discount")


def flat(item: Order | InvalidOrderError) -> dict[str, Any]:
    """The fields of an order that are set, shorter.

    Its amounts are one text, with "-" for one that is not set; its products are tuples, up to the
    last field that is set.
    """
    found = fields(item)
    found["amounts"] = " ".join(found.pop(amount, "-") for amount in AMOUNTS)
    found["products"] = [_as_tuple(product) for product in found["products"]]
    return found


def _as_tuple(product: dict[str, Any]) -> tuple[Any, ...]:
    cells = [product.pop(field, None) for field in PRODUCT]
    assert {*product.values()} <= {None}, product
    while cells[-1] is None:
        cells.pop()
    return tuple(cells)


def lines(*values: Any) -> str:
    """JSON Lines."""
    return "".join(f"{json.dumps(value)}\n" for value in values)


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
