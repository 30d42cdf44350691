"""``check``, and what it shares with ``send``: faults with their lines, formats, the mapping."""

from __future__ import annotations

import csv
import gzip
import json
import re
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pytest
from command_line import SEND, Cli, Program, read_results, to_lines
from pyarrow import parquet

from everlytic_async.cli._commands import app
from everlytic_async.sandbox import Sandbox
from everlytic_async.sources import FORMATS, REASONS
from support.delivery import order

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "orders.jsonl"
TILL = """\
Receipt;E-Mail;Item;Price;Day
000003;ann@example.com;Mop;21.00;2026-03-01
000003;;Bucket;9.90;
000004;bea@example.org;Mop;21.00;2026-03-02
000005;;Soap;1.50;2026-03-03
"""
MAPPING = {
    "order_id": "Receipt",
    "contact_email": "E-Mail",
    "product_name": "Item",
    "product_price": "Price",
    "date": "Day",
}
MAPS = [part for field, path in MAPPING.items() for part in ("--map", f"{field}={path}")]


def woocommerce(
    number: int, status: str = "completed", email: str = "buyer@example.com"
) -> dict[str, Any]:
    return {
        "id": number,
        "number": str(number),
        "status": status,
        "date_created_gmt": "2026-03-22T16:28:02",
        "total": "29.35",
        "customer_id": 0,
        "billing": {"email": email},
        "line_items": [{"name": "Mop", "price": 29.35, "quantity": 1, "sku": ""}],
    }


def save(name: str, data: str | bytes) -> Path:
    path = Path(name)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def toml(**mapping: str) -> str:
    return "[mapping]\n" + "".join(f'{name} = "{path}"\n' for name, path in mapping.items())


def test_faults_are_counted_with_their_lines(cli: Cli) -> None:
    two = [{"product_price": "1"}, {"product_price": "2"}]
    path = cli.write(
        *(order(line, products=two if line % 100 == 0 else [{}]) for line in range(1, 3001)),
        order(3001, contact_email=None),
    )
    run = cli("check", path)
    assert (run.code, run.err) == (1, "")
    assert run.out.startswith(f"3,001 orders read from {path} in ")
    assert re.search(r"^  valid +2,970  ", run.out, re.MULTILINE)
    assert re.search(r"^  invalid +31  ", run.out, re.MULTILINE)
    # An order with the same fault twice counts once.
    assert (
        "  30 x products[…].product_price: expected a number, got text  "
        "(lines 100, 200, 300, 400, 500 and 25 more)\n" in run.out
    )
    assert "one of the two is required  (line 3001)\n" in run.out


@pytest.mark.parametrize(("count", "others"), [(100, 0), (103, 3)])
def test_a_hundred_reasons_are_shown_and_the_results_have_all(
    cli: Cli, count: int, others: int
) -> None:
    path = cli.write(*(order(line, **{f"odd_{line}": 1}) for line in range(1, count + 1)))
    run = cli("check", "--results", "r.jsonl", path)
    assert (run.code, run.err) == (1, "")
    assert len(re.findall(r"  1 x odd_[0-9]+: no such field", run.out)) == 100
    rest = (
        f"  {others} x other reasons: the results have them all (--results FILE)  "
        "(lines 101, 102, 103)\n"
    )
    assert (rest in run.out) is bool(others)
    results = read_results("r.jsonl")
    assert [(each["outcome"], each["error"]) for each in results] == [
        ("invalid", f"odd_{line}: no such field") for line in range(1, count + 1)
    ]


def test_a_character_that_the_terminal_lacks_is_no_failure(program: Program) -> None:
    path = program.write(order(1, products=[{"product_price": "…"}]))
    odd = path.rename(path.with_name("bestellungen-ü-☕.jsonl"))
    run = program.with_env(PYTHONIOENCODING="ascii").run("check", odd)
    assert (run.code, run.err) == (1, "")
    assert r"products[\u2026].product_price" in run.out


def test_a_file_name_cannot_control_the_terminal(cli: Cli) -> None:
    run = cli("check", save("a\x1b[31m\nb.jsonl", to_lines(order(1))))
    assert run.code == 0
    assert "a?[31m?b.jsonl" in run.out


WHOLE = gzip.compress(to_lines(*map(order, range(1000))).encode())
CUT_OFF = gzip.compress(to_lines(order("last")).encode())[:30]
TOO_EARLY = "the gzip file ends too early: it was cut off. Copy or download it again"
ONE = f"[{json.dumps(order(1))}".encode()


@pytest.mark.parametrize("ledger", [["--ledger", "l"], ["--no-ledger"]])
@pytest.mark.parametrize(
    ("name", "data", "error"),
    [
        ("o.jsonl.gz", CUT_OFF, TOO_EARLY),
        ("o.jsonl.gz", WHOLE + CUT_OFF, TOO_EARLY),
        ("o.json", ONE, "the JSON ends too early, after order 1: it"),
        ("o.json", ONE + b"}", "what comes after order 1 is not JSON"),
    ],
    ids=["nothing is whole", "gzip", "JSON", "after JSON"],
)
def test_what_was_read_of_a_damaged_file_is_sent_and_it_is_not_to_be_sent_again(  # noqa: PLR0917
    cli: Cli,
    shop: Sandbox,
    closed_port: int,
    name: str,
    data: bytes,
    error: str,
    ledger: list[str],
) -> None:
    path = save(name, data)
    run, checked = cli("send", *ledger, path), cli("check", "--no-ledger", path)
    for each in (run, checked):
        assert each.code == 2  # and it is the same again
        assert f"Error: {path}: {error}" in each.err
        assert "run it again" not in each.err
    is_empty = data == CUT_OFF
    assert (shop.processed, checked.out) == (0, "") or not is_empty
    # Without a ledger, the right file would notify again.
    is_forgotten = ledger == ["--no-ledger"] and not is_empty
    assert ("would notify everybody again" in run.err) == is_forgotten
    if not is_empty:
        assert f"{shop.processed:,} order" in checked.out
        # To run it again helps those that were not sent for another reason.
        cli.use(f"http://127.0.0.1:{closed_port}")
        run = cli("send", "--ledger", "m", "--retries", "0", path)
        assert (run.code, "To send them, run it again" in run.err) == (1, True)


CSV = """\
order_id,contact_email,product_name
#1,ann@example.com,"Mop
red"
#2,,Mop
#3,,Mop
"""


@pytest.mark.parametrize(
    ("name", "content", "places"),
    [
        ("o.jsonl", to_lines(order(1), {"products": [{}]}, "", {"products": [{}]}), "lines 2, 4"),
        ("o.json", json.dumps([order(1), {"products": [{}]}, {"products": [{}]}]), "records 2, 3"),
        ("o.csv", CSV, "lines 4, 5"),
        ("o.parquet", None, "rows 2, 3"),
        ("o.xlsx", None, "rows 3, 4"),  # the first is the header
        # It is not the shop that says what is counted, but how its export is written.
        ("woo.json", json.dumps([woocommerce(7), *[woocommerce(8, email="")] * 2]), "records 2, 3"),
    ],
)
@pytest.mark.parametrize("command", [("check",), ("send", "--dry-run")])
def test_orders_are_counted_as_their_file_is_written(
    cli: Cli, name: str, content: str | None, places: str, command: tuple[str, ...]
) -> None:
    """A valid order, and two without an address."""
    rows = list(csv.reader(CSV.splitlines(keepends=True)))
    if name == "o.parquet":
        columns = dict(zip(rows[0], zip(*rows[1:], strict=True), strict=True))
        parquet.write_table(pa.table(columns), name)
    elif name == "o.xlsx":
        book = openpyxl.Workbook()
        for row in rows:
            book.worksheets[0].append(row)
        book.save(name)
    else:
        save(name, content)
    run = cli(*command, name)
    assert run.code == 1
    assert re.search(r"^  valid +1  ", run.out, re.MULTILINE)
    assert f"one of the two is required  ({places})" in run.out


@pytest.mark.parametrize(
    ("options", "valid", "left_out"),
    [
        ([], 2, "left out  2  1 cancelled, 1 trash; --include takes them in"),
        (["--include", "cancelled"], 3, "left out  1  1 trash; --include takes them in"),
        (["--include", "all"], 4, None),
        # Only what --include takes in is offered.
        (
            ["--where", "number=1"],
            1,
            "left out  3  1 cancelled, 1 trash, 1 where number=1; --include takes cancelled, trash",
        ),
        (["--where", "number=1", "--include", "all"], 1, "left out  3  3 where number=1\n"),
        (["--where", "number=2"], 0, "left out  4  2 where number=2, 1 cancelled, 1 trash"),
    ],
)
def test_what_is_left_out_of_a_shops_export_is_counted_and_may_be_included(
    cli: Cli, shop: Sandbox, options: list[str], valid: int, left_out: str | None
) -> None:
    orders = [woocommerce(1), woocommerce(2, "cancelled"), woocommerce(3, "trash"), woocommerce(4)]
    path = save("export.json.gz", gzip.compress(json.dumps(orders).encode()))
    checked = cli("check", *options, path)
    sent = cli(*SEND, *options, "--results", "r.jsonl", path)
    assert f"{valid} order{'' if valid == 1 else 's'} read" in checked.out
    for run in (checked, sent):
        assert run.code == 0
        assert ("left out" in run.out) == (left_out is not None)
        assert f"  {left_out or ''}" in run.out
        assert ("All orders of export.json.gz are left out" in run.err) == (not valid)
    # They keep the numbers that they have in the file.
    results = [(str(each["line"]), each["key"]) for each in read_results("r.jsonl")]
    assert results == [(each["order_id"],) * 2 for each in shop.received]
    assert len(results) == valid


def test_a_long_condition_is_shortened_for_people_and_not_for_scripts(cli: Cli) -> None:
    path = save("export.json", json.dumps([woocommerce(1), woocommerce(2, "processing")]))
    condition = f"number!=2,{','.join(map(str, range(100, 130)))}"
    run = cli("check", "--where", condition, path)
    shown = f"where {condition}"[:37]
    assert f"  left out  1  1 {shown}...\n" in run.out
    found = json.loads(cli("check", "--json", "--where", condition, path).out)
    assert found["left_out"] == {f"where {condition}": 1}


def test_the_format_can_be_named(cli: Cli) -> None:
    path = save("orders.txt", to_lines(order(1)))
    assert cli("check", "--format", "jsonl", path).code == 0
    run = cli("check", "--format", "csv", path)
    assert run.code == 2
    assert run.err.startswith("Error: orders.txt: ")


def test_the_help_names_all_formats_and_reasons() -> None:
    texts = {param.name: getattr(param, "help", "") for param in app.commands["check"].params}
    assert [name for name in FORMATS if name not in texts["format"]] == []
    assert [name for name in REASONS if name not in texts["include"]] == []


def test_the_settings_file_may_hold_a_mapping_and_options_come_before_it(
    cli: Cli, shop: Sandbox
) -> None:
    path = save("till.csv", TILL)
    save("everlytic.toml", toml(**{**MAPPING, "order_id": "Nr"}))
    run = cli("check", path)
    assert (run.code, "Nr" in run.err) == (2, True)
    run = cli("check", "--map", "order_id=Receipt", path)
    assert run.code == 1
    assert "3 orders read" in run.out
    save("named.toml", toml(**MAPPING))
    assert cli(*SEND, "--config", "named.toml", "--limit", "2", path).code == 0
    assert [each["order_id"] for each in shop.received] == ["000003", "000004"]


def test_an_option_on_products_leaves_the_fields_of_the_file(cli: Cli, shop: Sandbox) -> None:
    save("everlytic.toml", '[mapping.products]\neach = "lines"\nproduct_name = "title"\n')
    product = {"title": "Mop", "sku": "m1"}
    odd = {"order_id": "1", "contact_email": "a@example.com", "basket": {"lines": [product]}}
    maps = ("--map", "products=basket.lines", "--map", "product_sku=sku")
    assert cli(*SEND, *maps, save("o.jsonl", to_lines(odd))).code == 0
    (received,) = shop.received
    assert received["products"] == [{"product_name": "Mop", "product_sku": "m1"}]


def test_faults_of_further_rows_count_together(cli: Cli) -> None:
    rows = "".join(f"{n},{n}@example.com,Mop,1\n{n},,Soap,1,oops\n" for n in range(1, 4))
    save("o.csv", f"order_id,contact_email,product_name,product_price\n{rows}")
    run = cli("check", "o.csv")
    assert re.search(r"^  3 x line … .*  \(lines 2, 4, 6\)$", run.out, re.MULTILINE)
