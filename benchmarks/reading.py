"""What reading costs: a Shopify CSV and a WooCommerce JSON, to validated orders.

The rivals only parse: `csv.DictReader` to rows, ijson (its C backend) to dicts. Both read the same
file in turn, several rounds; the CPU of each round is compared, and the medians are shown. The
files are made: Shopify's 79 columns with one to three products an order, and WooCommerce's orders
as its REST API writes them.
"""

from __future__ import annotations

import csv
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click
import ijson.backends.yajl2_c as ijson
from rich.table import Table

from benchmarks._common import (
    BenchmarkError,
    Target,
    done_telling,
    finish,
    json_option,
    start,
    tell,
)
from everlytic_async import Order
from everlytic_async.sources import read_orders

_BOUND = 2.0
_PLACE = ("Name", "Street", "Address1", "Address2", "Company", "City", "Zip", "Province", "Country")
_ADDRESSES = ",".join(f"{kind} {name}" for kind in ("Billing", "Shipping") for name in _PLACE)
# As Shopify writes it.
_HEADER = (
    "Name,Email,Financial Status,Paid at,Fulfillment Status,Fulfilled at,Accepts Marketing,"
    "Currency,Subtotal,Shipping,Taxes,Total,Discount Code,Discount Amount,Shipping Method,"
    "Created at,Lineitem quantity,Lineitem name,Lineitem price,Lineitem compare at price,"
    "Lineitem sku,Lineitem requires shipping,Lineitem taxable,Lineitem fulfillment status,"
    f"{_ADDRESSES},"
    "Billing Phone,Shipping Phone,Notes,Note Attributes,Cancelled at,Payment Method,"
    "Payment Reference,Refunded Amount,Vendor,Outstanding Balance,Employee,Location,Device ID,Id,"
    "Tags,Risk Level,Source,Lineitem discount,Tax 1 Name,Tax 1 Value,Tax 2 Name,Tax 2 Value,"
    "Tax 3 Name,Tax 3 Value,Tax 4 Name,Tax 4 Value,Tax 5 Name,Tax 5 Value,Phone,Receipt Number,"
    "Duties,Billing Province Name,Shipping Province Name,Payment ID,Payment Terms Name,"
    "Next Payment Due At,Payment References"
)
_DATE = "2026-03-10 18:00:00 +0200"
_ADDRESS = {
    "Name": "Ann Example",
    "Street": "12 Long Street, Unit 4",
    "Address1": "12 Long Street",
    "City": "Cape Town",
    "Zip": "'8001",
    "Country": "ZA",
}


def _amount(source: random.Random) -> str:
    return f"{source.randint(100, 99_999) / 100:.2f}"


def _write_shopify(path: Path, orders: int, source: random.Random) -> None:
    prices = [_amount(source) for _ in range(300)]  # a shop has a few hundred products
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _HEADER.split(","), restval="")
        writer.writeheader()
        for number in range(orders):
            key = {"Name": f"#{number}", "Email": f"ann{number}@example.com", "Created at": _DATE}
            names = ("Subtotal", "Shipping", "Taxes", "Total", "Discount Amount")
            amounts = {name: _amount(source) for name in names}
            address = {
                f"{kind} {name}": text
                for kind in ("Billing", "Shipping")
                for name, text in _ADDRESS.items()
            }
            more = {
                "Financial Status": "paid",
                "Payment Method": "PayFast",
                "Id": str(10**12 + number),
            }
            first = key | amounts | address | more
            for place in range(source.choice((1, 1, 1, 2, 2, 3))):
                line = {"quantity": "1", "name": f"Mop {place}", "price": source.choice(prices)}
                line |= {"sku": f"{number:06}", "discount": "0.00", "requires shipping": "true"}
                cells = {f"Lineitem {name}": text for name, text in line.items()}
                writer.writerow((first if place == 0 else key) | cells)


def _write_woocommerce(path: Path, orders: int, source: random.Random) -> None:
    prices = [_amount(source) for _ in range(300)]

    def order(number: int) -> dict[str, Any]:
        address = {name.lower(): "some text" for name in _PLACE}
        amounts = ("discount_total", "shipping_total", "cart_tax", "total", "total_tax")
        items = [
            {"id": place, "name": f"Mop {place}", "product_id": 93, "quantity": 1, "sku": "0004",
             "subtotal": price, "total": price, "taxes": [{"id": 75, "total": "0.45"}],
             "meta_data": [], "price": float(price), "image": {"id": "71", "src": ""}}
            for place, price in enumerate(source.choices(prices, k=source.choice((1, 1, 2, 3))))
        ]  # fmt: skip
        return {
            "id": number, "number": str(number), "status": "processing", "currency": "ZAR",
            "date_created": "2026-03-22T18:28:02", "date_created_gmt": "2026-03-22T16:28:02",
            **{name: _amount(source) for name in amounts},
            "billing": {**address, "email": f"ann{number}@example.com"}, "shipping": address,
            "payment_method": "bacs", "customer_note": "", "customer_id": 26,
            "meta_data": [{"id": place, "key": "_key", "value": "yes"} for place in range(4)],
            "line_items": items, "fee_lines": [], "coupon_lines": [], "refunds": [],
        }  # fmt: skip

    path.write_text(json.dumps([order(number) for number in range(orders)]), "utf-8")


def _dict_reader(path: Path) -> Iterator[Any]:
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def _ijson(path: Path) -> Iterator[Any]:
    with path.open("rb") as file:
        yield from ijson.items(file, "item")


def _orders(path: Path) -> Iterator[Any]:
    for order in read_orders(path):
        if not isinstance(order, Order):
            raise BenchmarkError(f"an order was not read: {order}")
        yield order


def _cpu_s(read: Callable[[Path], Iterator[Any]], path: Path) -> tuple[float, int]:
    before = time.process_time()
    count = sum(1 for _ in read(path))
    return time.process_time() - before, count


@click.command(help=__doc__)
@click.option("--orders", type=click.IntRange(1), default=5_000, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=9, show_default=True)
@json_option
def main(orders: int, rounds: int, json_path: Path | None) -> None:
    """Measure, print, save, judge."""
    files = {
        "shopify.csv": (_write_shopify, "csv.DictReader", _dict_reader),
        "woocommerce.json": (_write_woocommerce, "ijson", _ijson),
    }
    table = Table(title=f"CPU of {orders:,} orders, medians of {rounds} rounds")
    for heading in ("file", "rival", "rival, µs an order", "read_orders, µs", "ratio"):
        table.add_column(heading, justify="left" if heading in ("file", "rival") else "right")
    targets, figures = [], {}
    with TemporaryDirectory() as directory:
        for name, (write, rival, parse) in files.items():
            path = Path(directory) / name
            write(path, orders, random.Random(1))
            ratios, theirs, ours = [], [], []
            for number in range(rounds + 1):
                tell(f"{name}: round {number} of {rounds}")
                theirs_s, _rows = _cpu_s(parse, path)
                ours_s, count = _cpu_s(_orders, path)
                if count != orders:
                    raise BenchmarkError(f"{name}: {count} orders were read, not {orders}")
                if number > 0:
                    ratios.append(ours_s / theirs_s)
                    theirs.append(theirs_s / orders * 1e6)
                    ours.append(ours_s / orders * 1e6)
            table.add_row(
                name,
                rival,
                *(f"{median(row):.1f}" for row in (theirs, ours)),
                f"{median(ratios):.2f}",
            )
            targets.append(
                Target(f"{name}, beside {rival}", median(ratios), _BOUND, at_most=True, unit=" x")
            )
            figures[name] = {"ratios": ratios, "rival_us": theirs, "ours_us": ours}
    done_telling()
    finish(
        [table],
        [],
        targets,
        figures={
            "benchmark": "reading",
            "settings": {"orders": orders, "rounds": rounds},
            "cpu": figures,
        },
        json_path=json_path,
    )


if __name__ == "__main__":
    start(main)
