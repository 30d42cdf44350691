"""What reading costs: orders built and validated, next to what a reader of rows or objects takes.

A Shopify CSV is read next to `csv.DictReader`, and a WooCommerce JSON next to ijson (yajl2_c), each
in a process of its own and in pairs; the ratio of CPU is taken within a pair. What the process had
at most is compared between the file and one a quarter as long: memory has to be flat.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import harness

_OURS = "read_orders"
#: For each kind of file, what it is read next to.
_BASES = {"csv": "DictReader", "json": "ijson"}
_MOST = 2.0
_MOST_MB = 5
_PRODUCTS = 300
# Shopify's export has as many columns; most are blank.
_BLANK_COLUMNS = [f"Note {number}" for number in range(36)]


def _product(number: int) -> tuple[str, str, str]:
    """The name, the price and the SKU of a product."""
    return f"Mop {number} - Large", f"{9 + number * 7 % 97}.{number % 100:02}", f"{number:06}"


def _rows(orders: int) -> Iterator[dict[str, str]]:
    for order in range(orders):
        for line in range(1 + order % 3):
            name, price, sku = _product((order + line) % _PRODUCTS)
            row = {"Name": f"#{order}", "Email": f"ann{order}@example.com", "Lineitem sku": sku}
            row |= {"Lineitem name": name, "Lineitem price": price, "Lineitem quantity": "2"}
            row |= {"Created at": "2026-03-01 10:00:00 +0200", "Lineitem discount": "0.00"}
            if line == 0:
                row |= {"Financial Status": "paid", "Paid at": "2026-03-01 10:00:00 +0200"}
                row |= {"Subtotal": "597.00", "Shipping": "79.56", "Taxes": "11.94"}
                row |= {"Total": "688.50", "Discount Amount": "0.00", "Currency": "ZAR"}
                row |= {"Billing Name": "Ann Example", "Billing Street": "12 High Street, Flat 2"}
                row |= {"Payment Method": "Shopify Payments", "Id": f"{5275279425839 + order}"}
                row |= {"Cancelled at": "", "Fulfilled at": "", "Notes": ""}
            yield row


def _object(order: int) -> dict[str, Any]:
    items = []
    for line in range(1 + order % 3):
        name, price, sku = _product((order + line) % _PRODUCTS)
        total = f"{2 * float(price):.2f}"
        item = {"id": line, "name": name, "product_id": 93, "variation_id": 0, "quantity": 2}
        item |= {"subtotal": total, "total": total, "total_tax": "0.00", "taxes": [], "sku": sku}
        items.append(
            item | {"meta_data": [{"id": 1, "key": "c", "value": "d"}], "price": float(price)}
        )
    address = {"first_name": "Ann", "last_name": "Example", "company": "", "city": "Cape Town"}
    address |= {"address_1": "12 High Street", "address_2": "", "postcode": "8001", "country": "ZA"}
    found = {"id": order, "number": f"{order}", "status": "processing", "currency": "ZAR"}
    found |= {"date_created_gmt": "2026-03-22T19:28:02", "date_paid": "2026-03-22T16:28:08"}
    found |= dict.fromkeys(("discount_total", "discount_tax", "shipping_tax", "cart_tax"), "0.00")
    found |= {"shipping_total": "10.00", "total": "29.35", "total_tax": "1.35", "customer_id": 26}
    found |= {"billing": {**address, "email": f"ann{order}@example.com"}, "shipping": address}
    found |= {"tax_lines": [], "shipping_lines": [], "fee_lines": [], "coupon_lines": []}
    return {**found, "line_items": items, "meta_data": [{"id": 1, "key": "a", "value": "b"}]}


def write(kind: str, path: Path, orders: int) -> None:
    """Write an export of so many orders."""
    with path.open("w", encoding="utf-8", newline="") as file:
        if kind == "csv":
            first = next(_rows(1))
            writer = csv.DictWriter(file, [*first, *_BLANK_COLUMNS])
            writer.writeheader()
            writer.writerows(_rows(orders))
        else:
            json.dump([_object(order) for order in range(orders)], file)


def _read(path: Path, orders: int, reader: str) -> harness.Figures:
    settings = {"mode": "read", "path": str(path), "reader": reader, "orders": orders}
    return harness.measure(settings)


@harness.benchmark(__doc__)
@harness.count("--orders", 20_000)
@harness.count("--rounds", 7)
def main(orders: int, rounds: int) -> harness.Report:
    """Measure."""
    rows, goals, runs = [], [], {}
    with TemporaryDirectory() as name:
        for kind, base in _BASES.items():
            path, short = Path(name, f"orders.{kind}"), Path(name, f"short.{kind}")
            write(kind, path, orders)
            write(kind, short, max(1, orders // 4))
            once = partial(_read, path, orders)
            comparison = harness.Comparison.measure(base, [_OURS], rounds, once)
            ratios = comparison.ratios(_OURS, "cpu_us")
            peak = median(comparison.values(_OURS, "peak_bytes"))
            growth = (peak - _read(short, max(1, orders // 4), _OURS)["peak_bytes"]) / harness.MB
            goals += [
                harness.Goal(f"{kind}: CPU / {base}", median(ratios), _MOST, "x"),
                harness.Goal(f"{kind}: memory of 4 times as many", growth, _MOST_MB, " MB more"),
            ]
            rows += [
                (
                    f"{kind}: {reader}",
                    harness.spread(comparison.values(reader, "cpu_us"), ".1f"),
                    harness.spread(comparison.ratios(reader, "cpu_us"), ".2f"),
                )
                for reader in (base, _OURS)
            ]
            runs[kind] = comparison.runs
    return harness.Report(
        title=f"Files of {orders:,} orders, {rounds} rounds",
        headings=("reader", "CPU µs/order", "x"),
        rows=rows,
        goals=goals,
        figures={"benchmark": "reading", "runs": runs},
    )


if __name__ == "__main__":
    main()
