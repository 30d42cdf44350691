"""From an export to "I know that this is right": what is read, where from, what is repeated."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from command_line import Cli, read_results, to_lines

from everlytic_async.ledger import storage_key
from everlytic_async.sandbox import Sandbox
from support.delivery import order

TILL = """\
Bestellnummer;E-Mail;Artikel;Preis;Menge;Status;Datum
1001;ann@example.com;Mütze rot;1.234,50;1;bezahlt;31.12.2025
1001;;Schal;19,90;2;bezahlt;31.12.2025
1002;bea@example.com;Mop;5,00;1;storniert;01.01.2026
1003;;Mop;5,00;1;bezahlt;01.01.2026
1001;ann@example.com;Mop;5,00;1;bezahlt;01.01.2026
"""
MAPPING = """\
[mapping]
order_id = "Bestellnummer"
contact_email = "E-Mail"
product_name = "Artikel"
product_price = "Preis"
product_quantity = "Menge"
date = "Datum"
"""
INPUT = """\
[input]
encoding = "cp1252"
decimal = ","
thousands = "."
date_format = "%d.%m.%Y"
"""
NOTATION = [
    *("--encoding", "cp1252", "--decimal", ",", "--thousands", "."),
    *("--date-format", "%d.%m.%Y"),
]
TOML = "of everlytic.toml"
WHERE_IS_MISSING = "if it says which orders to read, the line [where] is missing above it"


@pytest.fixture
def till(cli: Cli) -> Path:
    path = cli.directory / "till.csv"
    path.write_bytes(TILL.encode("cp1252"))
    return path


def settings(cli: Cli, *tables: str) -> None:
    (cli.directory / "everlytic.toml").write_text("\n".join(tables), "utf-8")


def figures(cli: Cli, *arguments: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cli("check", "--json", *arguments).out)
    return found


# --------------------------------------------------------------------------- filters and notation


@pytest.mark.parametrize(
    ("table", "options", "valid", "left_out"),
    [
        ("", [], 3, {}),
        ("", ["--where", "Status=bezahlt"], 2, {"where Status=bezahlt": 1}),
        ("", ["--where", "Status=BEZAHLT, storniert"], 3, {}),
        ("", ["--where", "Status!=bezahlt"], 1, {"where Status!=bezahlt": 3}),
        ("", ["--where", "Status=bezahlt", "--where", "E-Mail!="], 2, {"where Status=bezahlt": 1}),
        ('[where]\nStatus = ["bezahlt"]\n', [], 2, {"where Status=bezahlt": 1}),
        ('[where]\nStatus = "bezahlt,storniert"\n', [], 3, {}),
        ('[where]\n"Status!" = "bezahlt"\n', [], 1, {"where Status!=bezahlt": 3}),
        # The option replaces the table.
        ('[where]\n"Status!" = "bezahlt"\n', ["--where", "Artikel=Mop"], 2, {}),
        ("", ["--since", "2026-01-01"], 2, {"before since": 1}),
    ],
)
@pytest.mark.parametrize("is_in_settings", [True, False])
def test_orders_are_filtered_and_read_as_they_are_written(  # noqa: PLR0917
    cli: Cli,
    till: Path,
    table: str,
    options: list[str],
    valid: int,
    left_out: dict[str, int],
    is_in_settings: bool,
) -> None:
    settings(cli, MAPPING, table, INPUT if is_in_settings else "")
    found = figures(cli, *options, *([] if is_in_settings else NOTATION), till)
    assert found["valid"] == valid
    if left_out:
        assert {name: found["left_out"].get(name) for name in left_out} == left_out


@pytest.mark.parametrize(
    ("tables", "options", "error"),
    [
        ([MAPPING], [], "name the encoding, such as with --encoding cp1252"),
        ([MAPPING], ["--encoding", "klingon"], "encoding"),
        ([MAPPING, "[input]\ndecimal = 5\n"], [], "decimal must be text, in quotes, in [input]"),
        ([MAPPING, '[input]\nformat = "csv"\n'], [], "[input] of everlytic.toml has what is not"),
        # Of what `check --suggest` proposes, the line above this one was left a comment.
        (
            [MAPPING, 'Status = ["bezahlt"]\n'],
            NOTATION,
            f"[mapping] {TOML}: Status is not a field: {WHERE_IS_MISSING}",
        ),
        (
            [MAPPING, '[mapping.products]\nStatus = ["bezahlt"]\n'],
            NOTATION,
            f"[mapping] {TOML}: products.Status is not a field: {WHERE_IS_MISSING}",
        ),
        (
            [MAPPING, INPUT, 'Status = ["bezahlt"]\n'],
            [],
            f"[input] {TOML} has what is not a setting: Status: {WHERE_IS_MISSING}",
        ),
        ([MAPPING, 'totl = "x"\n'], NOTATION, f"[mapping] {TOML}: totl is not a field: did"),
        ([MAPPING, "[where]\nStatus = []\n"], NOTATION, "[where] of everlytic.toml: "),
        ([MAPPING], [*NOTATION, "--where", "Status"], "where: expected COLUMN=VALUE"),
        ([MAPPING], [*NOTATION, "--where", "Stauts=x"], "Stauts"),
        ([MAPPING], [*NOTATION, "--where", "Status=bezalt"], "did you mean 'bezahlt'?"),
        (
            [MAPPING, '[where]\nStatus = ["paid"]\n'],
            NOTATION,
            "till.csv: where: no order has 'paid'",
        ),
    ],
)
@pytest.mark.parametrize("command", ["check", "send"])
def test_a_wrong_setting_of_the_reading_is_named_and_nothing_is_sent(  # noqa: PLR0917
    cli: Cli,
    shop: Sandbox,
    till: Path,
    command: str,
    tables: list[str],
    options: list[str],
    error: str,
) -> None:
    settings(cli, *tables)
    run = cli(command, "--no-ledger", *options, till)
    assert (run.code, shop.requests) == (2, 0)
    assert error in run.err


def test_a_column_that_looks_like_a_status_is_pointed_out(cli: Cli, till: Path) -> None:
    settings(cli, MAPPING, INPUT)
    run = cli("check", till)
    assert "Warning: 'Status' looks like the status of an order, and nothing uses it" in run.err
    assert any("--where 'Status=...'" in each for each in figures(cli, till)["warnings"])
    assert "Status" not in cli("check", "--where", "Status=bezahlt", till).err


def test_values_that_are_wrong_in_the_same_way_are_one_reason(cli: Cli) -> None:
    rows = "".join(f'{n},{n}@example.com,Mop,"{n},50"\n' for n in range(1, 300))
    path = cli.directory / "o.csv"
    path.write_text(f"order_id,contact_email,product_name,product_price\n{rows}")
    (reason,) = figures(cli, path)["reasons"]
    assert (reason["orders"], reason["lines"]) == (299, [2, 3, 4, 5, 6])
    assert "found '1,50'" in reason["reason"]
    assert "--decimal ','" in reason["reason"]


# ------------------------------------------------------------------------------------------ --show


def test_the_first_orders_are_shown_field_by_field_with_where_they_come_from(
    cli: Cli, till: Path
) -> None:
    settings(cli, MAPPING + "workflow_id = 32\n", INPUT)
    run = cli("check", "--show", "3", till)
    shown, _, summary = run.out.partition("4 orders read from")
    rows = [[cell.strip() for cell in line.split("│")] for line in shown.splitlines()]
    assert [row for row in rows if len(row) == 3] == [
        ["contact_email", "ann@example.com", "E-Mail"],
        ["order_id", "1001", "Bestellnummer"],
        ["workflow_id", "32", "a constant of the mapping"],
        ["product_name", "Mütze rot", "Artikel"],
        ["product_price", "1234.50", "Preis"],
        ["product_quantity", "1", "Menge"],
        ["product_name", "Schal", "Artikel"],
        ["product_price", "19.90", "Preis"],
        ["product_quantity", "2", "Menge"],
        ["contact_email", "bea@example.com", "E-Mail"],
        ["order_id", "1002", "Bestellnummer"],
        ["workflow_id", "32", "a constant of the mapping"],
        ["product_name", "Mop", "Artikel"],
        ["product_price", "5.00", "Preis"],
        ["product_quantity", "1", "Menge"],
    ]
    assert re.findall(r"^Line \d", shown, re.MULTILINE) == ["Line 2", "Line 4", "Line 5"]
    assert "not valid, so it can't be sent" in shown
    assert "one of the two is required" in shown
    assert "valid     3" in summary  # the whole input is checked


AMOUNT = {"shopMoney": {"amount": "1"}}
BULK = to_lines(
    {"id": "gid://shopify/Order/1", "name": "#1001", "email": "a@example.com"}
    | {"statusPageUrl": "https://shop.example/1/orders/8f5b2c?key=5f9"}
    | {"totalShippingPriceSet": AMOUNT, "totalTaxSet": AMOUNT},
    {"id": "gid://shopify/LineItem/1", "__parentId": "gid://shopify/Order/1", "name": "Mop"}
    | {"originalUnitPriceSet": AMOUNT, "quantity": 1},
)
COLUMNS = "Order Number,Email (Billing),Order Total Amount,Item Name,Quantity (- Refund)"
LONG = ("order_id", "contact_email", "total", "product_name", "product_quantity")
LONG_MAPS = [f"--map={name}={path}" for name, path in zip(LONG, COLUMNS.split(","), strict=True)]
SHOPIFY = (Path(__file__).parents[2] / "docs" / "examples" / "shopify.csv").read_text("utf-8")


@pytest.mark.parametrize("columns", [60, 80, 100])
@pytest.mark.parametrize(
    ("text", "options", "whole"),
    [
        # As in a bulk file of Shopify: the place of a product stands once.
        (BULK, [], "shipping_fee lineItems[0] product_price name quantity"),
        (
            f"{COLUMNS}\n7,a.rather.long.one@example.com,5,Mop,1\n",
            ["--format", "csv", *LONG_MAPS],
            f"a.rather.long.one@example.com {COLUMNS.replace(',', ' ')}",
        ),
        # A value has the room that it needs beside a long origin.
        (
            re.sub(r"[\w.]+@example.com", "Zoe.Lefevre1@example.com", SHOPIFY),
            [],
            "Zoe.Lefevre1@example.com Email computed from Lineitem price, quantity",
        ),
        # And it cannot control the terminal.
        (
            to_lines(order(1, products=[{"product_name": "[bold]x\x1b[2J" + "long " * 60}])),
            [],
            "[bold]x?[2J" + "long " * 60,
        ),
    ],
    ids=["paths", "columns", "values", "folded"],
)
def test_what_is_shown_fits_into_the_terminal_and_is_broken_at_words_only(
    cli: Cli, text: str, options: list[str], whole: str, columns: int
) -> None:
    cli.env(COLUMNS=str(columns))
    Path("o").write_text(text, "utf-8")
    run = cli("check", "--show", "1", *options, "o")
    shown = run.out.partition(" read from")[0].rpartition("\n")[0]
    assert max(map(len, shown.splitlines())) <= columns
    assert "\x1b" not in run.out
    missing = Counter(whole.split()) - Counter(shown.replace("│", " ").split())
    assert not missing
    if text == BULK:
        assert shown.count("lineItems[0]") == 1
        # Beside its value, or below it; broken only where a line is too short for it.
        assert ("←" in shown) == (columns < 100)
        joined = re.sub(r"[\s│]", "", shown)
        assert re.search(r"shipping_fee1←?totalShippingPriceSet.shopMoney.amount", joined)
        assert re.search(r"product_price1←?originalUnitPriceSet.shopMoney.amount", joined)


@pytest.mark.parametrize("is_piped", [True, False])
@pytest.mark.parametrize("count", [1, 3, 100])
def test_what_is_shown_is_json_for_a_script(
    cli: Cli, till: Path, is_piped: bool, count: int
) -> None:
    settings(cli, MAPPING, INPUT)
    words = ("check", "--json", "--show", str(count), "-" if is_piped else till)
    found = json.loads(cli(*words, stdin=till).out)
    assert (found["orders"], len(found["shown"])) == (4, min(4, count))
    first = found["shown"][0]
    assert (first["line"], first["faults"], first["fields"][2:5]) == (
        2,
        [],
        [
            {"field": "products[0].product_name", "value": "Mütze rot", "from": "Artikel"},
            {"field": "products[0].product_price", "value": 1234.5, "from": "Preis"},
            {"field": "products[0].product_quantity", "value": 1, "from": "Menge"},
        ],
    )
    if count > 2:
        third = found["shown"][2]
        assert (third["fields"], len(third["faults"])) == ([], 1)


# --------------------------------------------------------------------------------------- --suggest


def test_a_suggestion_is_a_settings_file_that_reads_the_input(
    cli: Cli, shop: Sandbox, till: Path
) -> None:
    suggested = cli("check", "--suggest", till)
    assert suggested.code == 0
    assert "check --show 3 till.csv" in suggested.err.replace(f"{cli.directory}/", "")
    found = tomllib.loads(suggested.out)
    assert found == tomllib.loads(MAPPING + INPUT)
    assert "# total: not found" in suggested.out
    assert "# not used" not in suggested.out
    # What the shell saves may be open to others, and such settings are refused.
    assert "#   chmod 600 everlytic.toml" in suggested.out.split("\n")[:2]
    assert not Path("everlytic.toml").exists()  # it is for a person to look at
    as_json = json.loads(cli("check", "--suggest", "--json", till).out)
    assert {**found["mapping"], **found["input"]} == {**as_json["mapping"], **as_json["options"]}
    assert (as_json["status"], as_json["missing"]) == ("Status", ["total"])
    # With the filter that it proposes, once that is no comment any more.
    text = suggested.out.replace("# [where]", "[where]").replace('# "Status"', '"Status"')
    assert tomllib.loads(text)["where"] == {"Status": ["bezahlt", "storniert"]}
    settings(cli, text.replace(', "storniert"', ""))
    assert cli("send", "--ledger", "l", till).code == 3  # the guest can't be notified
    (sent,) = shop.received
    assert sent["order_id"] == "1001"
    assert [str(each["product_price"]) for each in sent["products"]] == ["1234.50", "19.90"]


def test_a_shops_export_needs_no_mapping(cli: Cli) -> None:
    path = cli.directory / "s.csv"
    path.write_text("Name,Email,Financial Status,Lineitem name,Lineitem price,Lineitem quantity\n")
    path.write_text(path.read_text() + "#1,ann@example.com,paid,Mop,5,1\n")
    run = cli("check", "--suggest", path)
    assert run.out == "# It is shopify-csv, a known shop's export, and needs no mapping.\n"
    assert "s.csv is shopify-csv, which is read as it is" in run.err
    # As by check --suggest s.csv > everlytic.toml, of which the shell makes an empty file first.
    for text in ("", run.out):
        settings(cli, text)
        for command in (("check", "--suggest"), ("check",), ("send", "--sandbox", "--yes")):
            assert cli(*command, path).code == 0


def test_dates_that_fit_two_formats_are_a_choice(cli: Cli) -> None:
    path = cli.directory / "d.csv"
    for days, other in (
        (("01/02/2026", "03/04/2026"), "%m/%d/%Y"),
        (("01/02/2026", "13/04/2026"), ""),
    ):
        rows = "".join(f"1;a@example.com;Mop;{day}\n" for day in days)
        path.write_text(f"Order;Mail;Item;Day\n{rows}")
        run = cli("check", "--suggest", path)
        assert tomllib.loads(run.out)["input"] == {"date_format": "%d/%m/%Y"}
        assert (f"# date_format: {other} fits" in run.out) == bool(other)


def test_what_is_shown_is_counted_once(cli: Cli) -> None:
    path = cli.directory / "n.csv"
    path.write_text("order_id,contact_email,product_sku\n1,a@example.com,1.23457E+12\n")
    for options in ((), ("--show", "3")):
        found = json.loads(cli("check", "--json", *options, path).out)
        (shortened, unnamed) = found["warnings"]
        assert shortened.startswith("product_sku that a spreadsheet shortened: 1. ")
        assert unnamed.startswith("no product has a name")


@pytest.mark.parametrize("content", [None, b"", b"\x00\x01\x02"])
def test_what_has_no_columns_is_an_error(cli: Cli, content: bytes | None) -> None:
    path = cli.directory / "o.bin"
    if content is not None:
        path.write_bytes(content)
    run = cli("check", "--suggest", path)
    assert (run.code, run.out) == (2, "")
    assert run.err.startswith(f"Error: {path}")


# ------------------------------------------------------------------------------------ repeated ids


HEADER = "order_id,contact_email,product_name\n"
REPEATED = "the id of an earlier order, and only the first is sent: "
SORT = ". If they are rows of one order, sort the file by that id"


@pytest.mark.parametrize(
    ("name", "orders", "count", "first", "warning"),
    [
        ("o.jsonl", [order(1), order(2)], 0, {}, ""),
        (
            "o.jsonl",
            [order(1), order(2), order(1, total=9)],
            *(1, {"1": [1, 3]}, f"Warning: 1 order has {REPEATED}1 (lines 1, 3)\n"),
        ),
        # In another workflow it is another trigger.
        ("o.jsonl", [order(1), order(1, workflow_id=7)], 0, {}, ""),
        ("o.jsonl", [order(1, order_id=None)] * 2, 0, {}, "orders have no order_id: "),
        (
            "o.jsonl",
            [order(1), order("1"), order(1, order_id=" 1 ")],
            *(2, {"1": [1, 2, 3]}, f"2 orders have {REPEATED}"),
        ),
        (
            "o.jsonl",
            [order(n % 7) for n in range(21)],
            *(14, {str(n): [n + 1, n + 8, n + 15] for n in range(5)}, " and others"),
        ),
        ("o.jsonl", [order(1)] * 9, 8, {"1": [1, 2, 3, 4, 5]}, " and others"),
        # What can't be sent repeats nothing.
        ("o.jsonl", [order(1), order(1, products=[])], 0, {}, ""),
        # It may be personal: it is shown as the ledger keeps it.
        (
            "o.jsonl",
            [order(1, order_id="ann@example.com")] * 2,
            *(1, {storage_key("ann@example.com"): [1, 2]}, "sha256:"),
        ),
        ("o.json", [*map(order, (1, 2, 1))], 1, {"1": [1, 3]}, ": 1 (records 1, 3)\n"),
        # Only what has rows is to be sorted, where they differ.
        (
            "o.csv",
            [HEADER + "1,a@b.cd,Mop\n2,a@b.cd,Mop\n1,a@b.cd,Mop"],
            *(1, {"1": [2, 4]}, ": 1 (lines 2, 4)\n"),
        ),
        (
            "o.csv",
            [HEADER + "1,a@b.cd,Mop\n2,a@b.cd,Mop\n1,a@b.cd,Mop\n2,a@b.cd,Soap"],
            *(2, {"1": [2, 4], "2": [3, 5]}, f": 1 (lines 2, 4), 2 (lines 3, 5){SORT}\n"),
        ),
    ],
)
def test_repeated_ids_are_counted_with_their_first_lines(
    cli: Cli, name: str, orders: list[Any], count: int, first: dict[str, list[int]], warning: str
) -> None:
    Path(name).write_text(json.dumps(orders) if name == "o.json" else to_lines(*orders))
    run = cli("check", "--json", name)
    assert json.loads(run.out)["repeated"] == {"orders": count, "first": first}
    assert ("Warning" in run.err) == (warning != "")
    assert warning in run.err
    assert "ann@" not in run.out + run.err


@pytest.mark.parametrize(
    ("ledger", "outcomes"),
    [
        (["--ledger", "l"], ["sent"] * 3 + ["skipped"] * 6),
        (["--no-ledger"], ["sent"] * 3),  # the others are left out
    ],
)
def test_of_repeated_orders_one_is_sent(
    cli: Cli, shop: Sandbox, ledger: list[str], outcomes: list[str]
) -> None:
    path = cli.directory / "o.jsonl"
    path.write_text(to_lines(*(order(n % 3) for n in range(9))))
    run = cli("send", *ledger, "--results", "r", path)
    assert (run.code, shop.processed) == (0, 3)
    results = read_results("r")
    assert sorted(each["outcome"] for each in results) == outcomes
    # As `check` says it.
    repeated = cli("check", "--no-ledger", path).err
    assert repeated.startswith(
        "Warning: 6 orders have the id of an earlier order, and only the first is sent: "
        "0 (lines 1, 4, 7), "
    )
    assert run.err.endswith(repeated)
    assert {each["error"] for each in results if each["outcome"] == "skipped"} <= {
        "the ledger says that it was sent before",
        "it has the id of an earlier order of this input",
    }
    assert ("6 the id of an earlier order" in run.out) == ("--no-ledger" in ledger)
