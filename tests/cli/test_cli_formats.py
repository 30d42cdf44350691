"""``check`` and ``send`` read what the readers read; here: that they are told how, and tell."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pyarrow as pa
import pytest
from command_line import SEND, Here, Program, box, lines_of, order, results_in
from pyarrow import parquet

from everlytic_async.cli._commands import app
from everlytic_async.cli._input import ReadOptions
from everlytic_async.cli._options import InputOptions
from everlytic_async.errors import ConfigurationError
from everlytic_async.sandbox import Sandbox
from everlytic_async.sources import FORMATS, REASONS

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


def woocommerce(number: int, status: str = "completed") -> dict[str, object]:
    return {
        "id": number,
        "number": str(number),
        "status": status,
        "date_created_gmt": "2026-03-22T16:28:02",
        "total": "29.35",
        "customer_id": 0,
        "billing": {"email": f"buyer{number}@example.com"},
        "line_items": [{"name": "Mop", "price": 29.35, "quantity": 1, "sku": ""}],
    }


def saved(name: str, data: str | bytes) -> Path:
    path = Path(name)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def toml(**mapping: str) -> str:
    return "[mapping]\n" + "".join(f'{name} = "{path}"\n' for name, path in mapping.items())


# -------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize("name", ["o.jsonl", "o.json", "o.jsonl.gz", "o.csv", "o.tsv", "o.parquet"])
def test_every_format_is_found_out(here: Here, name: str) -> None:
    found = [order(number) for number in range(1, 4)]
    flat = [
        {"order_id": str(n), "contact_email": f"{n}@example.com", "product_name": "Mop"}
        for n in range(1, 4)
    ]
    match name.split(".", 1)[1]:
        case "json":
            saved(name, json.dumps(found))
        case "jsonl.gz":
            saved(name, gzip.compress(lines_of(*found).encode()))
        case "csv" | "tsv" as kind:
            between = "," if kind == "csv" else "\t"
            rows = [list(flat[0]), *(row.values() for row in flat)]
            saved(name, "".join(between.join(row) + "\n" for row in rows))
        case "parquet":
            parquet.write_table(pa.Table.from_pylist(flat), name)
        case _:
            saved(name, lines_of(*found))
    run = here("check", name)
    assert (run.code, run.err) == (0, "")
    assert re.search(r"^  valid +3  ", run.out, re.MULTILINE)


async def test_a_shops_export_is_sent_without_what_nobody_wants_an_e_mail_about(
    program: Program, sandbox: Sandbox
) -> None:
    orders = [woocommerce(1), woocommerce(2, "cancelled"), woocommerce(3, "trash"), woocommerce(4)]
    path = program.directory / "export.json.gz"
    path.write_bytes(gzip.compress(json.dumps(orders).encode()))
    run = await program.pointed_at(sandbox).run(*SEND, "--results", "r.jsonl", path)
    assert (run.code, run.err) == (0, "")
    assert {"1", "4"} == {received["order_id"] for received in sandbox.received}
    assert "  left out  2  1 cancelled, 1 trash; --include takes them in\n" in run.out
    assert [result["line"] for result in results_in(program.directory / "r.jsonl")] == [1, 4]


async def test_csv_from_a_pipe_is_sent_by_its_mapping(program: Program, sandbox: Sandbox) -> None:
    run = await program.pointed_at(sandbox).run(*SEND, *MAPS, "-", stdin=TILL.encode())
    assert run.code == 3
    received = {order["order_id"]: order for order in sandbox.received}
    assert {"000003", "000004"} == set(received)
    assert [p["product_name"] for p in received["000003"]["products"]] == ["Mop", "Bucket"]
    assert "one of the two is required  (line 5)" in run.out


# -------------------------------------------------------------------------------------- options


def test_what_is_left_out_is_taken_in_when_asked_for(here: Here) -> None:
    path = saved("export.json", json.dumps([woocommerce(1, "cancelled"), woocommerce(2, "trash")]))
    for options, valid in (([], 0), (["--include", "cancelled"], 1), (["--include", "all"], 2)):
        run = here("check", *options, path)
        assert run.code == 0
        assert f"{valid} order{'' if valid == 1 else 's'} read" in run.out
    assert "All orders of export.json are left out" in here("check", path).err


def test_since_and_until_bound_the_orders(here: Here) -> None:
    path = saved("till.csv", TILL)
    run = here("check", *MAPS, "--since", "2026-03-02", "--until", "2026-03-03", path)
    assert run.code == 0
    assert "1 order read from till.csv" in run.out
    assert "  left out  2  1 before since, 1 not before until\n" in run.out


def test_the_format_may_be_said_outright(here: Here) -> None:
    path = saved("orders.txt", lines_of(order(1)))
    assert here("check", "--format", "jsonl", path).code == 0
    run = here("check", "--format", "csv", path)
    assert run.code == 2
    assert run.err.startswith("Error: orders.txt: ")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--format", "xml"], "there is no format 'xml'"),
        (["--include", "nice"], "there is no 'nice'"),
        (["--since", "yesterday"], "since: expected a date or a time"),
        (["--map", "order_id"], "expected FIELD=PATH"),
        (["--map", "order_nr=Nr"], "did you mean order_id?"),
        (["--map", "order_id=a", "--map", "order_id=b"], "mapped more than once"),
    ],
)
@pytest.mark.parametrize("command", ["check", "send"])
def test_a_wrong_option_is_told_before_anything_is_read(
    here: Here, command: str, options: list[str], told: str
) -> None:
    path = saved("o.jsonl", lines_of(order(1)))
    run = here(command, *options, *(["--sandbox"] if command == "send" else []), path)
    assert (run.code, run.out) == (2, "")
    assert told in run.err


def test_the_help_names_all_formats_and_reasons() -> None:
    texts = {
        param.name: param.help or ""
        for param in app.commands["check"].params
        if hasattr(param, "help")
    }
    assert [name for name in FORMATS if name not in texts["format"]] == []
    assert [name for name in REASONS if name not in texts["include"]] == []


# -------------------------------------------------------------------------------------- mapping


def test_the_settings_file_may_hold_a_mapping_and_options_come_before_it(here: Here) -> None:
    path = saved("till.csv", TILL)
    saved("everlytic.toml", toml(**{**MAPPING, "order_id": "Nr"}))
    run = here("check", path)
    assert (run.code, "Nr" in run.err) == (2, True)
    run = here("check", "--map", "order_id=Receipt", path)
    assert run.code == 1
    assert "3 orders read" in run.out
    saved("named.toml", toml(**MAPPING))
    assert "3 orders read" in here("check", "--config", "named.toml", path).out


def test_an_option_on_products_leaves_the_fields_of_the_file(here: Here) -> None:
    saved("everlytic.toml", '[mapping.products]\neach = "lines"\nproduct_name = "title"\n')
    found = ReadOptions.from_options(
        InputOptions(file="-", maps=("products=basket.lines", "product_sku=sku"))
    )
    assert found.mapping == {
        "products": {"each": "basket.lines", "product_name": "title"},
        "product_sku": "sku",
    }
    assert found.mapped_by == Path("everlytic.toml")


@pytest.mark.parametrize("text", ["mapping = 5", "[maping]\norder_id = 'x'", "[mapping]\n[more]"])
def test_a_file_with_something_else_in_it_is_refused(here: Here, text: str) -> None:
    saved("everlytic.toml", text)
    with pytest.raises(ConfigurationError):
        ReadOptions.from_options(InputOptions(file="-"))


async def test_the_account_may_stand_beside_the_mapping(program: Program, sandbox: Sandbox) -> None:
    (program.directory / "till.csv").write_text(TILL)
    (program.directory / "everlytic.toml").write_text(
        f'[everlytic]\nbase_url = "{sandbox.base_url}"\nstore_hash = "{sandbox.store_hash}"\n'
        f'customer_hash = "{sandbox.customer_hash}"\n{toml(**MAPPING)}'
    )
    run = await program.run(*SEND, "--limit", "2", "till.csv")
    assert (run.code, sandbox.processed) == (0, 2)


def test_a_field_that_is_never_set_is_warned_of(here: Here) -> None:
    saved("o.jsonl", lines_of(order(1)))
    run = here("check", "--map", "order_link_url=link", "o.jsonl")
    assert run.code == 0
    assert run.err.startswith(
        "Warning: the mapping for order_link_url matched nothing in any order"
    )


# --------------------------------------------------------------------------------------- places


def test_orders_of_a_document_are_told_by_their_place(here: Here) -> None:
    saved("o.json", json.dumps([order(1), {}, order(3)], indent=2))
    assert "(record 2)" in here("check", "o.json").out


@pytest.mark.parametrize(
    ("shop", "name", "told"),
    [
        ("woocommerce", "o.jsonl", "lines 2, 4"),
        ("woocommerce", "o.json", "records 2, 3"),
        ("woocommerce", "o.jsonl.gz", "lines 2, 4"),
        ("shopify", "o.jsonl", "lines 2, 4"),
        ("magento", "o.jsonl", "lines 2, 4"),
        ("shopify-csv", "o.csv", "lines 4, 5"),
        ("shopify-csv", "o.parquet", "rows 2, 3"),
    ],
)
@pytest.mark.parametrize("command", ["check", "send"])
def test_orders_of_a_shops_export_are_told_by_where_they_stand_in_the_file(
    here: Here, shop: str, name: str, told: str, command: str
) -> None:
    """An export may be written in several ways: it is not the shop that says what is counted."""
    columns = ("Name", "Email", "Lineitem name", "Lineitem quantity", "Lineitem price")
    rows = [
        dict(zip(columns, cells, strict=True))
        for cells in (
            ("#1", "ann@example.com", "Mop\nred", "1", "21.00"),
            ("#2", "", "Mop", "1", "21.00"),
            ("#3", "", "Mop", "1", "21.00"),
        )
    ]
    given: dict[str, dict[str, object]] = {
        "woocommerce": {**woocommerce(1), "billing": {"email": None}},
        "shopify": {"id": 1, "name": "#1", "line_items": [{"title": "Mop", "name": "Mop"}]},
        "magento": {"entity_id": 1, "increment_id": "1", "items": [{"sku": "1", "name": "Mop"}]},
    }
    match name.split(".", 1)[1]:
        case "csv":
            table = [columns, *(row.values() for row in rows)]
            saved(name, "".join(",".join(f'"{cell}"' for cell in row) + "\n" for row in table))
        case "parquet":
            parquet.write_table(pa.Table.from_pylist(rows), name)
        case "json":
            saved(name, json.dumps([woocommerce(7), given[shop], given[shop]], indent=1))
        case kind:
            good = {"woocommerce": woocommerce(7)}.get(
                shop, {**given[shop], "email": "a@example.com", "customer_email": "a@example.com"}
            )
            lines = lines_of(good, given[shop], "", given[shop])
            saved(name, gzip.compress(lines.encode()) if kind == "jsonl.gz" else lines)
    dry = ["--dry-run"] if command == "send" else []
    run = here(command, *dry, "--format", shop, name)
    assert f"one of the two is required  ({told})" in run.out


async def test_the_report_tells_orders_by_where_they_stand_in_the_file(
    program: Program, sandbox: Sandbox
) -> None:
    (program.directory / "o.json").write_text(json.dumps([order(1), {}, order(3)], indent=2))
    await program.pointed_at(sandbox).run(*SEND, "--report", "run.html", "o.json")
    page = (program.directory / "run.html").read_text("utf-8")
    assert "record 2" in page
    assert "line 2" not in page


def test_rows_of_parquet_are_rows(here: Here) -> None:
    rows = [{"order_id": str(n), "contact_email": None, "product_name": "Mop"} for n in range(2)]
    parquet.write_table(pa.Table.from_pylist(rows), "o.parquet")
    assert "(rows 1, 2)" in here("check", "o.parquet").out


def test_faults_of_further_rows_count_together(here: Here) -> None:
    rows = "".join(f"{n},{n}@example.com,Mop,1\n{n},,Soap,1,oops\n" for n in range(1, 4))
    saved("o.csv", f"order_id,contact_email,product_name,product_price\n{rows}")
    run = here("check", "o.csv")
    assert re.search(r"^  3 x line … .*  \(lines 2, 4, 6\)$", run.out, re.MULTILINE)


# --------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("damaged_after", [0, 2000])
async def test_a_damaged_file_is_told_and_what_was_read_of_it_is_sent(
    program: Program, damaged_after: int
) -> None:
    numbers = range(damaged_after)
    good = gzip.compress(lines_of(*map(order, numbers)).encode()) if damaged_after else b""
    path = program.directory / "o.jsonl.gz"
    path.write_bytes(good + gzip.compress(lines_of(*map(order, range(5))).encode())[:-20])
    async with box() as sandbox:
        run = await program.pointed_at(sandbox).run(*SEND, path)
        checked = await program.run("check", path)
    assert (run.code, checked.code) == (1 if damaged_after else 2, 2)
    told = f"Error: {path}: the gzip file ends too early: it was cut off. Copy or download it again"
    assert told in run.err
    assert told in checked.err
    sent = re.search(r"^  sent +([0-9,]+)", run.out, re.MULTILINE)
    assert sandbox.processed == (0 if sent is None else int(sent[1].replace(",", "")))
    assert (sandbox.processed > 0) == (damaged_after > 0)
    assert "Traceback" not in run.err


@pytest.mark.parametrize("command", ["check", "send"])
async def test_what_is_no_export_is_told(program: Program, sandbox: Sandbox, command: str) -> None:
    path = program.directory / "o.xlsx"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    run = await program.pointed_at(sandbox).run(command, "--no-ledger", path)
    assert run.code == 2
    assert f"Error: {path}: it is a ZIP archive or an Excel workbook" in run.err
    assert sandbox.requests == 0
