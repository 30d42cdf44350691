"""Four files that people have, each from the file to a finished backfill, without code."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from command_line import Cli

from everlytic_async.sandbox import Sandbox

Save = Callable[[Path], None]

SHOPIFY = """\
Name,Email,Financial Status,Total,Lineitem quantity,Lineitem name,Lineitem price,Lineitem discount
#1001,ann@example.com,paid,41.00,2,Mop,21.00,1.00
#1001,,,,1,Gift,5.00,5.00
#1002,bea@example.com,refunded,9.90,1,Soap,9.90,0.00
,,,,,,,
"""
WOOCOMMERCE_CSV = """\
Order Number,Order Status,Order Date,Email (Billing),Order Total Amount,Item Name,Item Cost,Quantity
1001,Completed,2026-03-01 10:00,ann@example.com,41.00,Mop,20.50,2
1002,Cancelled,2026-03-01 10:00,bea@example.com,9.90,Soap,9.90,1
"""


def text(content: str) -> Save:
    return lambda path: path.write_text(content, "utf-8") and None


def bulk(path: Path) -> None:
    """Children stand anywhere after their parent."""
    shop = "gid://shopify"
    lines: list[dict[str, Any]] = [
        {"id": f"{shop}/Order/{n}", "name": f"#100{n}", "email": f"{who}@example.com"}
        | {"cancelledAt": when, "currentTotalPriceSet": {"shopMoney": {"amount": "41.00"}}}
        for n, who, when in ((1, "ann", None), (2, "bea", "2026-03-02T00:00:00Z"))
    ]
    lines += [
        {"id": f"{shop}/LineItem/{n}", "name": "Mop", "quantity": 2, "__parentId": parent}
        | {"originalUnitPriceSet": {"shopMoney": {"amount": "20.50"}}}
        for n, parent in ((11, f"{shop}/Order/1"), (12, f"{shop}/Order/2"))
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def excel(path: Path) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.append(["Order number", "Email", "Product", "Price", "Quantity", "Status", "Date"])
    for number, who, status in ((1001, "ann", "paid"), (1002, "bea", "cancelled")):
        row = [number, f"{who}@example.com", "Mop", 20.5, 2, status, date(2025, 12, 31)]
        sheet.append(row)
    book.save(path)


@pytest.mark.parametrize(
    ("name", "save", "order_id", "keep"),
    [
        ("shopify.csv", text(SHOPIFY), "#1001", None),
        ("bulk.jsonl", bulk, "#1001", None),
        ("woo.csv", text(WOOCOMMERCE_CSV), "1001", None),
        ("orders.xlsx", excel, "1001", "paid"),
    ],
)
def test_from_the_file_to_a_finished_backfill(
    cli: Cli, shop: Sandbox, name: str, save: Save, order_id: str, keep: str | None
) -> None:
    save(cli.directory / name)
    # Look at it. What is not known has settings proposed, where a person chooses the orders.
    suggested = cli("check", "--suggest", name)
    assert suggested.code == 0
    if keep is None:
        assert "which is read as it is" in suggested.err
    else:
        assert cli("check", name).code == 2
        chosen = re.sub(r'# ("Status" = ).*', rf'\1["{keep}"]', suggested.out)
        settings = chosen.replace("# [where]", "[where]")
        assert tomllib.loads(settings)["where"] == {"Status": [keep]}
        Path("everlytic.toml").write_text(settings, "utf-8")
    checked = cli("check", "--show", "1", "--json", name)
    assert checked.code == 0
    found = json.loads(checked.out)
    assert (found["valid"], sum(found["left_out"].values())) == (1, 1)
    fields = {each["field"]: each for each in found["shown"][0]["fields"]}
    assert fields["contact_email"]["value"] == "ann@example.com"
    assert fields["order_id"]["value"] == order_id
    assert float(fields["products[0].product_price"]["value"]) in (20.5, 21)
    assert all(each["from"] for each in fields.values())
    # Ready? To oneself first, then for real, and once more, which sends nothing.
    assert cli("doctor").code == 0
    assert cli("send", "--to", "me@example.com", "--limit", "3", name).code == 0
    for processed in (2, 2):
        run = cli("send", "--ledger", "l", "--report", "run.html", name)
        assert (run.code, shop.processed) == (0, processed)
    emails = [each["contact_email"] for each in shop.received]
    assert emails == ["me@example.com", "ann@example.com"]
    assert all(each["order_id"] == order_id for each in shop.received)
    assert "Nothing is left to do" in Path("run.html").read_text("utf-8")
