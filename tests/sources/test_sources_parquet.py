"""Parquet: typed rows, as whole orders or one for each product, with nothing lost of a value."""

from __future__ import annotations

import gzip
import io
import secrets
import threading
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from reading import Pipe, fields, outcome, refusal

from everlytic_async import SourceError
from everlytic_async.sources import read_orders

pa: Any = pytest.importorskip("pyarrow")
pq: Any = pytest.importorskip("pyarrow.parquet")


def parquet(rows: list[dict[str, Any]], **types: Any) -> bytes:
    table = pa.Table.from_pylist(rows)
    for name, kind in types.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, table.column(name).cast(kind))
    file = io.BytesIO()
    pq.write_table(table, file, row_group_size=2)
    return file.getvalue()


ORDERS: list[dict[str, Any]] = [
    {
        "order_id": f"00000{n}",
        "contact_unique_id": 5842016673921 + n,
        "total": Decimal("10.10"),
        "products": [
            {"product_name": "Mop", "product_price": Decimal("5.0500"), "product_sku": None}
        ],
    }
    for n in range(5)
]


def test_nested_rows_are_orders_with_all_their_digits(tmp_path: Path) -> None:
    path = tmp_path / "orders"
    path.write_bytes(parquet(ORDERS))
    reader = read_orders(path)
    found = list(reader.lines())
    assert reader.format == "parquet"
    assert [line for line, _order in found] == [1, 2, 3, 4, 5]
    for (_line, order), row in zip(found, ORDERS, strict=True):
        (product,) = fields(order)["products"]
        assert (order.order_id, order.total) == (row["order_id"], "10.10")
        assert order.contact_unique_id == str(row["contact_unique_id"])
        assert str(product["product_price"]) == "5.0500"


def test_a_row_for_each_product_is_grouped_and_dated() -> None:
    rows: list[dict[str, Any]] = [
        {"id": "1", "mail": "a@example.com", "at": datetime(2026, 3, 1, tzinfo=UTC), "item": "Mop"},
        {"id": "1", "mail": None, "at": None, "item": "Bucket"},
        {"id": "2", "mail": "b@example.com", "at": datetime(2026, 3, 2, tzinfo=UTC), "item": "Mop"},
        {"id": "3", "mail": "no address", "at": datetime(2026, 3, 2, tzinfo=UTC), "item": "Mop"},
    ]
    mapping = {"order_id": "id", "contact_email": "mail", "product_name": "item", "date": "at"}
    expected = ["1: 1 (2)", "not before until: 2"]
    assert outcome(parquet(rows), mapping=mapping, until="2026-03-02") == expected
    expected = ["1: 1 (2)", "3: 2 (1)", "4: contact_email: "]
    assert outcome(parquet(rows), expected, mapping=mapping) == expected


def test_packed_and_from_a_pipe_it_is_read_too() -> None:
    data = parquet(ORDERS)
    assert len(list(read_orders(Pipe(data)))) == 5
    assert len(list(read_orders(io.BytesIO(gzip.compress(data)), "parquet"))) == 5


@pytest.mark.parametrize("cut", [8, 100, -4])
def test_a_damaged_file_is_told(cut: int) -> None:
    with pytest.raises(SourceError, match="the Parquet file can't be read"):
        list(read_orders(io.BytesIO(parquet(ORDERS)[:cut])))


def test_what_is_not_parquet_is_told() -> None:
    assert "it is not a Parquet file" in refusal(b"{}", "parquet")
    assert "it is a Parquet file, not csv" in refusal(parquet(ORDERS), "csv")


class Watched(io.BytesIO):
    """Tells how much was read of it, and by whom."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.bytes_read = 0
        self.readers: set[int] = set()

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        self.bytes_read += len(found)
        self.readers.add(threading.get_ident())
        return found


def test_it_is_read_as_it_is_needed_and_by_no_other_thread() -> None:
    # A thread that still reads when Python ends aborts the process, its orders sent or not.
    links = (f"https://shop.example/{secrets.token_hex(500)}" for _ in range(2000))
    table = pa.Table.from_pylist([{**ORDERS[0], "order_link_url": link} for link in links])
    written = io.BytesIO()
    pq.write_table(table, written, row_group_size=100, write_statistics=False)
    file = Watched(written.getvalue())
    next(read_orders(file))
    assert file.bytes_read < len(written.getvalue()) / 2
    assert file.readers == {threading.get_ident()}
