"""The kinds of exports that people have, in miniature: what is read of each, and what is left out.

Each row of a table stands for a kind. What the fields of the first four shops become, digit by
digit, is in `test_sources_shops`.
"""

from __future__ import annotations

import csv
import io
import json
import re
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal

import attrs
import pytest
from reading import brief, fields, flat, lines, outcome, read, refusal, starts

from everlytic_async import ConfigurationError, InvalidOrderError, Order
from everlytic_async.sources import REASONS, Reader, parse_where, read_orders, suggest_mapping

ANN = "ann@example.com"
SHOPIFY = (
    "Name,Email,Financial Status,Subtotal,Total,Created at,Lineitem quantity,Lineitem name,"
    "Lineitem price,Lineitem sku,Lineitem discount,Cancelled at\n"
)
CANCELLED = "2026-03-02"


def paid(
    name: str, status: str = "paid", total: str = "20.00", price: str = "10.00", cancelled: str = ""
) -> str:
    """A row of Shopify's CSV that starts an order."""
    sums, created = f'"{total}","{total}"', "2026-03-01 10:00:00 +0200"
    return f'{name},{ANN},{status},{sums},{created},2,Mop,"{price}",7,,{cancelled}\n'


def further(name: str) -> str:
    return f"{name},{ANN},,,,,1,Soap,5.00,,,\n"


def shopify(*rows: str) -> str:
    return SHOPIFY + "".join(rows)


def money(amount: str, kind: str = "shopMoney") -> dict[str, Any]:
    return {kind: {"amount": amount}}


def graphql(number: int, **more: Any) -> dict[str, Any]:
    return {
        "id": f"gid://shopify/Order/{number}",
        "name": f"#{number}",
        "email": ANN,
        "createdAt": "2026-03-01T08:00:00Z",
        "cancelledAt": None,
        "displayFinancialStatus": "PAID",
        "totalPriceSet": money("25.00"),
        **more,
    }


def line_item(parent: int | None = None, **more: Any) -> dict[str, Any]:
    item = {
        "id": "gid://shopify/LineItem/7",
        "title": "Mop",
        "quantity": 2,
        "sku": "000412",
        "originalUnitPriceSet": money("10.00"),
        **more,
    }
    return item if parent is None else part_of(f"Order/{parent}", **item)


def part_of(parent: str, **fields: Any) -> dict[str, Any]:
    """A line of a bulk operation that belongs to another one."""
    return {**fields, "__parentId": f"gid://shopify/{parent}"}


def edges(*nodes: Any) -> dict[str, Any]:
    return {"edges": [{"cursor": "x", "node": node} for node in nodes]}


def page(*orders: Any, **more: Any) -> dict[str, Any]:
    return {"data": {"orders": {**edges(*orders), **more}}}


def whole(number: int) -> dict[str, Any]:
    """An order of GraphQL with its line item."""
    return graphql(number, lineItems=edges(line_item()))


def woo(number: int, status: str, **more: Any) -> dict[str, Any]:
    item = {"name": "Mop", "price": 5, "quantity": 1, "total": "5.00"}
    billing = {"email": ANN}
    order = {"number": f"{number}", "status": status, "billing": billing, "line_items": [item]}
    return {**order, "total": "5.00", **more}


def bigcommerce(status: str = "Shipped", **more: Any) -> dict[str, Any]:
    product = {
        "name": "Mop",
        "sku": "000412",
        "quantity": 2,
        "price_ex_tax": "10.0000",
        "total_ex_tax": "20.0000",
        "applied_discounts": [{"id": "coupon", "amount": "5.0000"}],
    }
    return {
        "id": 118,
        "status": status,
        "date_created": "Tue, 03 Mar 2026 08:00:00 +0000",
        "billing_address": {"email": ANN},
        "subtotal_ex_tax": "20.0000",
        "shipping_cost_ex_tax": "5.0000",
        "total_tax": "3.0000",
        "total_inc_tax": "23.0000",
        "discount_amount": "0.0000",
        "coupon_discount": "5.0000",
        "products": [product],
        **more,
    }


AOE = (
    "Order Number,Order Status,Order Date,Email (Billing),Order Subtotal Amount,"
    "Cart Discount Amount,Order Total Amount,Item Name,SKU,Quantity (- Refund),Item Cost\n"
)
ITEMS = "order_id,order_number,date,status,order_total,billing_email,{}\n"
GRID = 'ID,"Purchase Point","Purchase Date","Grand Total (Purchased)",Status,"Customer Email"\n'
SQUARESPACE = SHOPIFY.replace("Name,", "Order ID,", 1)


def item_rows(*cells: str, columns: str = "line_items", status: str = "completed") -> str:
    """The table of the plugin Order Export, with an order for each of these cells."""
    return ITEMS.format(columns) + "".join(
        f"{n},{n},2026-01-15 12:00:00,{status},108.00,{ANN},{cell}\n"
        for n, cell in enumerate(cells)
    )


def grid_row(number: int, status: str) -> str:
    return f'{number},Main,"Mar 1, 2026 8:00:00 AM","R1,250.00",{status},{ANN}\n'


FINANCIAL = ("paid", "expired", "unpaid", "partially_refunded", "pending", "authorized")
FINANCIAL += ("Refunded", "voided", "partially_paid")
WOO = ("on-hold", "wc-cancelled", "refunded", "failed", "pending", "checkout-draft", "trash")
WOO += ("completed", "shipped-custom", "wc-processing")
APART = "has neither a status nor a total, as a row that is apart"
CUT = "belongs to an order that is not above it: is it cut off?"
NO_ORDER = "belongs to an order that is not in the file: is it cut off?"
MAY_BE_PART = "may be a line item of it, and does not say what it is"
UNREADABLE_PART = "is or may be a part of it, and can't be read"
NO_PRODUCTS = (
    "products: at least one is required, and nothing says what was bought: map a field of a "
    "product, such as with --map 'product_name:=\"Your order\"'"
)
NAMELESS = "has no id of an order, and names no product: remove it"
TWICE = "is in the file more than once, and differs: keep the rows that are up to date, and remove"

# ------------------------------------------------------------------------------- what is an order


SOAP = further("#1")
BLOCK = paid("#1") + SOAP
REFUNDED = BLOCK.replace("paid", "refunded")
PLUGIN = f"7,Completed,2026-03-01,{ANN},9,0,9,Mop,7,1,9\n,,,,,,,Soap,8,1,2\n"
TITLED = f"order_id,contact_email,product_name\n1,{ANN},Mop\n"
PLAIN = "order_id,contact_email,product_name,product_quantity,total\n"
SEVEN = f"7,{ANN},Mop,1,9\n"
EIGHT = f"8,{ANN},Mop,1,9\n"

#: For each kind: the input, and its `outcome`.
KINDS: dict[str, Sequence[str]] = {
    "checkouts and drafts of Shopify, as CSV, two of them below their further rows": [
        shopify(
            paid("#37107487441214", ""),
            paid("#D12", ""),
            further("#9"),
            paid("#9", ""),
            further("#D9"),
            paid("#D9", ""),
        ),
        "abandoned checkout: 2",
        "draft: 2",
    ],
    "checkouts of Shopify without columns of totals": [
        (
            "Name,Email,Financial Status,Lineitem quantity,Lineitem name,Lineitem price\n"
            f"#9,{ANN},,1,Mop,5.00\n#9,,,1,Soap,5.00\n"
        ),
        "abandoned checkout: 1",
    ],
    "orders of Shopify below their further rows": [
        shopify(
            further("#1"),
            paid("#1"),
            further("#2"),
            paid("#2", "voided"),
            further("#3"),
            paid("#3", cancelled=CANCELLED),
        ),
        "2: #1 (2)",
        "voided: 1",
        "cancelled: 1",
    ],
    "rows of Shopify apart from their orders, one of which is cancelled": [
        shopify(
            paid("#1"), paid("#2", cancelled=CANCELLED), paid("#3"), further("#1"), further("#2")
        ),
        "2: #1 (1)",
        "4: #3 (1)",
        f"5: {APART}",
        f"6: {APART}",
        "cancelled: 1",
    ],
    "a file of Shopify that starts within an order": [
        shopify(further(""), paid("#2")),
        f"2: {CUT}",
        "3: #2 (1)",
    ],
    "statuses of Shopify": [
        shopify(*(paid(f"#{place}", status) for place, status in enumerate(FINANCIAL))),
        "2: #0 (1)",
        "3: #1 (1)",
        "4: #2 (1)",
        "5: #3 (1)",
        "6: #4 (1)",
        "7: #5 (1)",
        "10: #8 (1)",
        "refunded: 1",
        "voided: 1",
    ],
    "GraphQL, edges": [json.dumps(page(whole(1)), indent=1), "1: #1 (1)"],
    "GraphQL, nodes": [
        lines({"data": {"orders": {"nodes": [graphql(1, lineItems={"nodes": [line_item()]})]}}}),
        "1: #1 (1)",
    ],
    "GraphQL, several pages, one on each line": [
        lines(page(whole(1)), page(whole(2))),
        "1: #1 (1)",
        "2: #2 (1)",
    ],
    "GraphQL, a bulk operation, with its lines in any order": [
        lines(
            line_item(2),
            graphql(1),
            graphql(2),
            line_item(1),
            line_item(1),
            graphql(3, cancelledAt="x"),
            line_item(3),
        ),
        "2: #1 (1)",
        "3: #2 (1)",
        "cancelled: 1",
    ],
    "GraphQL, a bulk operation without all of its lines": [
        lines(graphql(1), line_item(1), line_item(9), graphql(2))
        + json.dumps(line_item(2))[:-1]
        + lines({}, graphql(3)),
        "1: #1 (1)",
        f"3: {NO_ORDER}",
        f"4: line 5 {UNREADABLE_PART}",
        "5: is not JSON: ",
        "6: products: at least one is required",
    ],
    "GraphQL, a bulk operation with damaged lines that don't say whose they are": [
        lines(graphql(1), line_item(1))
        + json.dumps(line_item(1))[:-2]
        + "\n"
        + lines(graphql(2), line_item(2))
        + json.dumps(graphql(3))[:60]
        + "\n"
        + lines(graphql(4), line_item(4))
        + json.dumps(line_item(4)).replace('"10.00"', "NaN")
        + "\n"
        + lines(graphql(5), line_item(5), 17),
        f"1: line 3 {UNREADABLE_PART}",
        "3: is not JSON: ",
        "4: #2 (1)",
        "6: is not JSON: ",
        f"7: line 9 {UNREADABLE_PART}",
        "9: originalUnitPriceSet",
        f"10: line 12 {UNREADABLE_PART}",
        "12: is not an order: ",
    ],
    "GraphQL, parts in a bulk operation that may be line items": [
        lines(
            graphql(1),
            line_item(1),
            part_of("Order/1", title="Mop"),
            graphql(2),
            part_of("Order/2", __typename="LineItem", title="Mop"),
            part_of("Order/9", title="Mop"),
            graphql(3),
            line_item(3),
            part_of("Order/3", originalUnitPrice="1.00"),
        ),
        f"1: line 3 {MAY_BE_PART}",
        "4: #2 (1)",
        f"6: {NO_ORDER}",
        f"7: line 9 {MAY_BE_PART}",
    ],
    "GraphQL, parts in a bulk operation that can't be line items": [
        lines(
            graphql(1),
            line_item(1),
            {**line_item(1), "id": "gid://shopify/Fulfillment/1"},
            part_of("LineItem/7", id="gid://shopify/Metafield/1"),
            part_of("Order/1", __typename="DiscountCodeApplication", code="X"),
            part_of("Order/1", __typename="AutomaticDiscountApplication", title="X"),
            part_of("Order/1", __typename="ShippingLine", title="X", quantity=1),
            part_of("Order/1", namespace="custom", key="gift_note", value="x"),
            part_of("LineItem/7", key="x"),
            part_of("Fulfillment/1", quantity=1),
            part_of("Refund/1", quantity=1, title="X"),
            graphql(2),
            part_of("Order/2", __typename="LineItem", title="Mop", quantity=2),
            part_of("Order/2", quantity=2, title="Rope"),
        ),
        "1: #1 (1)",
        "12: #2 (2)",
    ],
    "GraphQL, drafts, checkouts, tests and refunds": [
        lines(
            graphql(1, id="gid://shopify/DraftOrder/1"),
            graphql(2, id="gid://shopify/AbandonedCheckout/1"),
            graphql(3, test=True),
            graphql(4, displayFinancialStatus="REFUNDED"),
        ),
        "draft: 1",
        "abandoned checkout: 1",
        "test: 1",
        "refunded: 1",
    ],
    "GraphQL, line items on a further page": [
        lines(graphql(1, lineItems={"nodes": [line_item()], "pageInfo": {"hasNextPage": True}})),
        "1: lineItems: more of them are on a further page: ask for as many as an order has",
    ],
    "statuses of WooCommerce": [
        json.dumps([woo(place, status) for place, status in enumerate(WOO)]),
        "1: 0 (1)",
        "8: 7 (1)",
        "9: 8 (1)",
        "10: 9 (1)",
        "cancelled: 1",
        "refunded: 1",
        "failed: 1",
        "unpaid: 1",
        "draft: 1",
        "trash: 1",
        "orders with a status that woocommerce orders don't usually have were read: shipped-custom",
    ],
    "Advanced Order Export": [
        (
            f"{AOE}501,Cancelled,2026-01-15 12:00,{ANN},108,0,108,Mop,000412,2,54.00\n"
            f"502,On hold,2026-01-16 12:00,{ANN},60.00,10.00,50.00,Soap &amp; Co,,2,25.00\n"
            f"502,On hold,2026-01-16 12:00,{ANN},60.00,10.00,50.00,Rope,,1,0.00\n"
        ),
        "3: 502 (2)",
        "cancelled: 1",
    ],
    "Order Export, products in one cell": [
        item_rows(
            "name:Mop; blue|product_id:412|sku:000412|quantity:2|total:108.00|refunded:0;"
            "name:Soap|a|product_id:1|sku:|quantity:1|total:0.00"
        ),
        "2: 0 (2)",
    ],
    "Order Export, products in several cells": [
        item_rows("name:Mop|quantity:2|total:108.00,", columns="line_item_1,line_item_2"),
        "2: 0 (1)",
    ],
    "Order Export, of an order that failed": [
        item_rows("name:Mop|quantity:2|total:1.00", status="failed"),
        "failed: 1",
    ],
    "Order Export, products as JSON, and in no form that is known": [
        item_rows(
            '"[{""name"":""Mop"",""quantity"":2,""total"":""108.00"",""meta"":[]}]"',
            '"{""name"":""Mop"",""quantity"":2,""total"":108.00}"',
            "garbage",
            "a:1:{i:0;a:1:{s:4:name;s:3:Mop;}}",
            '"[{""name"":""Mop"""',
            "[" * 100_000,
            '"[""Mop""]"',
            '"[{""title"":""Mop""}]"',
            "[]",
        ),
        "2: 0 (1)",
        "3: 1 (1)",
        *(f"{line}: line_items: can't be read: expected " for line in range(4, 10)),
        "10: products: at least one",
    ],
    "Squarespace": [
        (
            f"{SQUARESPACE}00012,{ANN},PAID,20.00,25.00,2026-03-01 10:00:00 +0200,2,Mop,10.00,7,,\n"
            f"00012,{ANN},,,,,1,Soap,5.00,8,,\n"
            f"00013,{ANN},REFUNDED,20.00,25.00,2026-03-01 10:00:00 +0200,2,Mop,10.00,7,,\n"
        ),
        "2: 00012 (2)",
        "refunded: 1",
    ],
    "the grid of Magento": [
        GRID + grid_row(1, "canceled") + grid_row(2, "Suspected Fraud") + grid_row(3, "complete"),
        f"4: {NO_PRODUCTS}",
        "cancelled: 1",
        "fraud: 1",
    ],
    "BigCommerce": [
        lines(
            bigcommerce(),
            bigcommerce("Incomplete"),
            bigcommerce("Awaiting Payment"),
            bigcommerce("Declined"),
            bigcommerce(is_deleted=True),
            bigcommerce(products={"url": "https://a.example", "resource": "/orders/118/prod"}),
        ),
        "1: 118 (1)",
        "3: 118 (1)",
        "6: products: it has only a link to them: join in what GET ",
        "abandoned checkout: 1",
        "failed: 1",
        "trash: 1",
    ],
    "files in one, with byte-order marks and with the header twice": [
        f"\ufeff{shopify(paid('#1'))}{shopify(paid('#2'))}\ufeff{shopify(paid('#3'))}{SHOPIFY}"
        + shopify(paid("#4")),
        "2: #1 (1)",
        "4: #2 (1)",
        "6: #3 (1)",
        "9: #4 (1)",
        "repeated header: 3",
        "duplicate row: 1",
    ],
    # Rows of one order, and orders that are there twice, one after the other.
    "shopify, equal": [shopify(BLOCK * 2), "2: #1 (2)", "duplicate row: 2"],
    "shopify, sorted by its rows": [
        shopify(paid("#1") * 2, SOAP * 2),
        "2: #1 (2)",
        "duplicate row: 2",
    ],
    "shopify, and was refunded in between": [
        shopify((BLOCK + REFUNDED) * 2, BLOCK),
        f"2: {TWICE}",
        "duplicate row: 7",
    ],
    "shopify, of which one is later": [
        shopify(BLOCK, BLOCK.replace("paid", "partially_refunded")),
        f"2: {TWICE}",
        "duplicate row: 1",
    ],
    "shopify, and was refunded later": [shopify(paid("#1"), paid("#1", "refunded")), f"2: {TWICE}"],
    "shopify, the same product in two lines": [
        shopify(paid("#1"), f"#1,{ANN},,,,,2,Mop,10.00,7,,\n"),
        "2: #1 (2)",
    ],
    "shopify, its columns filled in every row": [
        shopify(paid("#1"), paid("#1").replace("Mop", "Soap")),
        "2: #1 (2)",
    ],
    "shopify, below its further row": [shopify(SOAP, paid("#1")), "2: #1 (2)"],
    "more copies of a shop's rows than an order has rows": [
        shopify(BLOCK, SOAP * 10_004),
        "2: #1 (2)",
        "duplicate row: 10004",
    ],
    "a shop's, of which one in the middle is damaged": [
        shopify(BLOCK, SOAP * 2, "#1,x\n", SOAP * 2),
        "2: line 6",
        "duplicate row: 4",
    ],
    "a plugin, equal": [AOE + PLUGIN * 2, "2: 7 (2)", "duplicate row: 2"],
    "a plugin, of which one is later": [
        AOE + PLUGIN + PLUGIN.replace("Completed", "Processing"),
        f"2: {TWICE}",
    ],
    "own, and each row names the order": [
        PLAIN + (SEVEN + SEVEN.replace("Mop", "Soap")) * 2 + EIGHT + "8,,Soap,1,9\n",
        "2: 7 (4)",
        "6: 8 (2)",
        "orders that have all their products more than once: 1 (line 2). If their rows",
    ],
    "own, whose id is left out now and then": [PLAIN + SEVEN * 2 + ",,Soap,1,\n", "2: 7 (3)"],
    "own, as JSON, whose id is left out now and then": [
        lines(
            {"order_id": "7", "contact_email": ANN, "product_name": "Mop"},
            {"order_id": "7", "contact_email": ANN, "product_name": "Brush"},
            *({"order_id": None, "contact_email": None, "product_name": each} for each in "xy"),
        ),
        "1: 7 (4)",
    ],
    "own, as a JSON document": [
        json.dumps([*csv.DictReader(io.StringIO(PLAIN + SEVEN + ",,Soap,1,9\n" + EIGHT))]),
        "1: 7 (2)",
        "3: 8 (1)",
    ],
    "own, and its first row names it": [
        PLAIN + (SEVEN + ",,Soap,1,\n") * 2 + EIGHT,
        "2: 7 (2)",
        "6: 8 (1)",
        "duplicate row: 2",
    ],
    "own, two files in one": [TITLED * 2, "2: 1 (1)", "4: 1 (1)", "repeated header: 1"],
    "own, above a row that names no order and no product": [
        PLAIN + SEVEN + ",,,3,43\n" + EIGHT,
        f"3: {NAMELESS}",
        "2: 7 (1)",
        "4: 8 (1)",
    ],
    "shopify, above a row that names no order and no product": [
        shopify(paid("#1"), ",,,5.00,4.90,,33,,,,,\n", paid("#2")),
        f"3: {NAMELESS}",
        "2: #1 (1)",
        "4: #2 (1)",
    ],
    **{
        f"shopify, above a further row of {name!r} and {email!r}": (
            shopify(paid("#1"), further(name).replace(ANN, email)),
            "2: #1 (2)",
        )
        for name in ("", "#1")
        for email in ("", ANN, ANN.title())
    },
    "shopify, cut off": [
        shopify(further("").replace(ANN, ""), paid("#1")),
        f"2: {CUT}",
        "3: #1 (1)",
    ],
    "shopify, above a row of somebody else": [
        shopify(paid("#1"), SOAP.replace(ANN, "bea@b")),
        "2: contact_email: the rows of the order do not agree on it",
    ],
    **{
        f"above the row of totals {row!r}": (PLAIN + SEVEN + row, "2: 7 (1)", "row of totals: 1")
        for row in (",,Summe,3,43\n", ",,Grand Total:,3,43\n", "Total,,,,9\n", "Total,,9\n")
    },
    "above a subtotal and a total": [
        PLAIN + SEVEN + ",,Subtotal October,3,\n,,Total,3,\n",
        "2: 7 (1)",
        "row of totals: 2",
    ],
    "a plugin, above a row of totals": [
        f"{AOE}7,Completed,,{ANN},9,0,9,Mop,7,1,9\n,,,,,,,Total,,33,\n",
        "2: 7 (1)",
        "row of totals: 1",
    ],
    # Else the order would be sent without that product.
    "a damaged row of an order is no row of totals": [
        shopify(paid("#1"), "#1,,,,,,1,Total,5.00\n", paid("#2")),
        "2: line 3 has 9 cells",
        "4: #2 (1)",
    ],
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_an_order_is_read_once_and_what_is_none_is_counted(kind: str) -> None:
    text, *expected = KINDS[kind]
    reader = read_orders(io.StringIO(text))
    assert outcome(reader, expected) == expected
    if reader.format != reader.container:  # it is a shop's
        orders = sum(line[0].isdigit() for line in expected)
        left_out = sum(reader.skipped.get(reason, 0) for reason in REASONS)
        assert len(read(text, include="all")) == orders + left_out


D = Decimal
#: The first order of a kind, with every digit.
ORDERS: dict[str, dict[str, Any]] = {
    "GraphQL, edges": {
        "amounts": "- - - 25.00 -",
        "products": [("Mop", D("10.00"), 2, "000412", D("20.00"))],
    },
    "Advanced Order Export": {
        "amounts": "50.00 - - 50.00 10.00",
        "products": [
            ("Soap & Co", D("25.00"), D(2), None, D("50.00")),
            ("Rope", D("0.00"), D(1), None, D("0.00")),
        ],
    },
    "Order Export, products in one cell": {
        "amounts": "108.00 - - 108.00 -",
        "products": [
            ("Mop; blue", D("54.00"), D(2), "000412", D("108.00")),
            ("Soap|a", D("0.00"), D(1), None, D("0.00")),
        ],
    },
    "Order Export, products as JSON, and in no form that is known": {
        "amounts": "108.00 - - 108.00 -",
        "products": [("Mop", D("54.00"), 2, None, D("108.00"))],
    },
    "Order Export, products in several cells": {
        "amounts": "108.00 - - 108.00 -",
        "products": [("Mop", D("54.00"), D(2), None, D("108.00"))],
    },
    "Squarespace": {
        "amounts": "20.00 - - 25.00 -",
        "products": [
            ("Mop", D("10.00"), D(2), "7", D("20.00")),
            ("Soap", D("5.00"), D(1), "8", D("5.00")),
        ],
    },
    "BigCommerce": {
        "amounts": "15.0000 5.0000 3.0000 23.0000 5.0000",
        "products": [("Mop", D("10.0000"), 2, "000412", D("15.0000"))],
    },
}


@pytest.mark.parametrize("kind", ORDERS)
def test_the_fields_of_a_kind(kind: str) -> None:
    order = flat(read(KINDS[kind][0])[0][1])
    assert (order.pop("contact_email"), order.pop("order_id") != "") == (ANN, True)
    assert repr(sorted(order.items())) == repr(sorted(ORDERS[kind].items()))


THEIRS = "presentmentMoney"  # in the customer's currency
PRICED = {"originalUnitPriceSet": money("3.00", THEIRS)}


@pytest.mark.parametrize(
    ("more", "total"),
    [
        ({}, "20.00"),
        ({"discountAllocations": [{"allocatedAmountSet": money("4.50")}]}, "15.50"),
        ({"discountAllocations": [], "discountedTotalSet": money("1")}, "20.00"),
        ({"discountedTotalSet": money("18.00")}, "18.00"),
        ({"originalUnitPriceSet": None, "originalUnitPrice": "3.00"}, "6.00"),
        (PRICED, "6.00"),
        (PRICED | {"discountedTotalSet": money("5.00", THEIRS)}, "5.00"),
        (PRICED | {"discountAllocations": [{"allocatedAmountSet": money("2", THEIRS)}]}, "4.00"),
        # Two currencies are not mixed.
        ({"discountedTotalSet": money("1.00", THEIRS)}, "20.00"),
    ],
)
def test_a_line_total_of_graphql_is_after_all_discounts(more: dict[str, Any], total: str) -> None:
    ((_line, order),) = read(lines(graphql(1), line_item(1, **more)))
    (product,) = fields(order)["products"]
    assert str(product["product_line_total"]) == total
    assert product["product_price"] in (10, 3)


@pytest.mark.parametrize(
    ("kind", "time", "count"),
    [
        ("BigCommerce", "2026-03-03T08:00Z", 2),
        ("GraphQL, edges", "2026-03-01T08:00Z", 1),
        ("the grid of Magento", "2026-03-01T08:00Z", 1),
        ("Advanced Order Export", "2026-01-16T12:00Z", 1),
        ("orders of Shopify below their further rows", "2026-03-01T08:00Z", 1),
    ],
)
def test_the_time_of_a_kind_is_understood(kind: str, time: str, count: int) -> None:
    mapping = {"product_name": {"constant": "Mop"}} if "grid" in kind else None
    for since, expected in ((time, count), (time.replace(":00Z", ":01Z"), 0)):
        found = [item for _line, item in read(KINDS[kind][0], since=since, mapping=mapping)]
        assert sum(isinstance(item, Order) for item in found) == expected
        assert not any("date" in str(item) for item in found)


# ------------------------------------------------------------------- what is pointed out

OWN = f"nr,mail,item,State\n1,{ANN},Mop,done\n2,{ANN},Mop,Open\n3,{ANN},Mop,\n,,Soap,\n4,{ANN},x,\n"
OWN_MAPPING = {"order_id": "nr", "contact_email": "mail", "product_name": "item"}
EMAILS = [f"k{n}@example.com" for n in range(3)]
SHOP = ["till@shop.example"] * 3


def own(states: Iterable[str], name: str = "State") -> str:
    """A table with an order for each state."""
    return f"nr,mail,item,{name}\n" + "".join(
        f"{n},{n}@example.com,Mop,{state}\n" for n, state in enumerate(states)
    )


def mailed(emails: Iterable[str]) -> str:
    """A table with an order for each address."""
    return "nr,mail,item\n" + "".join(f"{n},{each},Mop\n" for n, each in enumerate(emails))


def as_json(table: str) -> str:
    return lines(*csv.DictReader(io.StringIO(table)))


def read_own(text: str, **options: Any) -> Reader:
    """A reader of any of these texts."""
    mapping = OWN_MAPPING if text.startswith(("nr,", '{"nr"')) else None
    return read_orders(io.StringIO(text), mapping=mapping, **options)


def plugin_rows(*statuses: str) -> str:
    return AOE + "".join(
        f"{n},{status},2026-01-15 12:00,{ANN},108,0,108,Mop,7,2,54.00\n"
        for n, status in enumerate(statuses)
    )


ODD = plugin_rows("Wrapped", "Ann's", "Odd", '"a,b"', "x@y")
ARE_ODD = (
    "orders with a status that woocommerce-csv orders don't usually have were read: Wrapped "
    "(1), Ann's (1), Odd (1), a,b (1), others (1). If nobody should get an e-mail about them: "
    "--where 'Order Status!=Wrapped,Ann'\"'\"'s,Odd'"
)
UNUSED = "'State' looks like the status of an order, and nothing uses it"
ONE_CONTACT = "have the same contact: if 'mail' is not the customers', map contact_email to another"
ONE_WITHOUT_ID = "orders without order_id, while others have one: 1."
WITHOUT_IDS = (
    "orders have no order_id: they are known by their content, so equal ones are sent once"
)
BARE = {"contact_email": "a@b", "products": [{}]}
NINE = ",".join(f"status{n}" for n in range(9))
#: An input, how it is read, and how what is said of it starts.
WARNINGS: list[tuple[str | dict[str, Any], ...]] = [
    (ODD, {}, ARE_ODD),
    (ODD, {"where": "Item Name=Mop"}, ARE_ODD),
    (ODD, {"where": "Order Status!=Odd"}),  # the user knows of it
    (ODD, {"where": "Order Status=wrapped"}),
    (
        f"Name,Email,Lineitem quantity,Lineitem name,Lineitem price\n#1,{ANN},1,Mop,1\n",
        {},
        "there is no 'Financial Status', which tells orders from",
    ),
    (lines(woo(1, "")).replace("status", "x"), {}, "there is no 'status', "),
    (json.dumps([woo(1, "completed")]), {}),
    (shopify(paid("#9", "")), {"include": "all"}),
    *(
        (text, options, *([] if "where" in options else warnings))
        for states, warnings in (
            (["paid", "open"], [UNUSED]),
            (["paid", "", "paid"], [UNUSED]),
            (["Cancelled"] * 3, [UNUSED]),
            (["paid"] * 3, []),  # it leaves none out
            ([""] * 3, []),
            (["paid"], []),
        )
        for text in (own(states), as_json(own(states)))
        for options in ({}, {"where": "State!=x"})
    ),
    # It is known by orders that came to nothing.
    (own(["Paid", "Refunded"], "Payment"), {}, UNUSED.replace("State", "Payment")),
    (own(["bezahlt", "storniert"], "Zahlung"), {}, UNUSED.replace("State", "Zahlung")),
    (own(["PayPal", "Invoice"], "Payment"), {}),
    # Columns that tell nothing hide no status.
    (own([f"{',' * 8}paid", f"{',' * 8}void"], NINE), {}, "'status8' looks like the status of an"),
    # Further rows of an order have no status.
    (f"nr,mail,item,State\n1,{ANN},Mop,done\n,,Soap,\n2,{ANN},Mop,done\n2,,Rope,\n", {}),
    # It is the shop's own address, or a test.
    (mailed(SHOP * 4), {}, f"12 of 12 orders {ONE_CONTACT}"),
    (mailed(SHOP * 9 + EMAILS), {}, f"27 of 30 orders {ONE_CONTACT}"),
    (mailed(EMAILS + SHOP * 9), {}, f"27 of 30 orders {ONE_CONTACT}"),
    (mailed(SHOP * 8 + EMAILS), {}),
    (mailed(SHOP * 3), {}),
    (mailed(EMAILS * 10), {}),
    (PLAIN + SEVEN + SEVEN.replace("7", "", 1), {}),  # a row of the order above it
    (PLAIN + SEVEN + ",b@b,Mop,1,9\n", {}, ONE_WITHOUT_ID),
    (PLAIN + SEVEN.replace("7", "", 1), {}, WITHOUT_IDS),
    (lines({"order_id": 1} | BARE, BARE), {}, ONE_WITHOUT_ID),
    (lines({"order_id": 1} | BARE), {}),
    (lines(BARE), {}, WITHOUT_IDS),
    (
        shopify(paid("#1"), paid("#2")).replace(",7,,", ",5.84E+12,,"),
        {},
        "product_sku that a spreadsheet shortened: 2.",
    ),
]


@pytest.mark.parametrize("case", WARNINGS)
def test_what_a_person_should_look_at_is_pointed_out(case: Any) -> None:
    text, options, *warnings = case
    reader = read_own(text, **options)
    assert all(isinstance(order, Order) for order in reader)
    assert starts(reader.warnings, warnings) == warnings


STATES = ["Bezahlt"] * 12 + ["offen"] * 4 + ["storniert"] * 2 + [""]
PAYMENT = "Zahlungsstatus"
ARE = "There are Bezahlt (12), offen (4), storniert (2)"
ARE_LOST = (
    "the values of 'State' leave out no order, and among them is {}: take out those that nobody "
    "wants an e-mail about"
)


def mistyped(values: str, meant: str, column: str = "State") -> str:
    return f"no order has '{values}' in '{column}': did you mean '{meant}'? {ARE}"


#: A table, a condition, and the warning.
CONDITIONS: list[tuple[str, Any, str | None]] = [
    (own(STATES), "State!=STORNIERT", None),
    (own(STATES), "State=bezahlt,offen", None),
    (own(STATES), "State!=", None),
    (own(STATES, PAYMENT), f"{PAYMENT}!=stornirt", mistyped("stornirt", "storniert", PAYMENT)),
    # As of a day without such orders.
    (own(STATES), "State!=storniert,refunded", None),
    (own(STATES), "State!=void,refunded", None),
    (own(STATES), "State!=unbezahlt", None),
    (own(STATES), "State!=void,stornirt", mistyped("stornirt', 'void", "storniert")),
    (own(STATES), "State=bezahlt,ofen", mistyped("ofen", "offen")),
    # As of a shop that has few orders a day.
    (own(STATES), "State=bezahlt,on-hold", None),
    (own(f"x{n}" for n in range(30)), "State!=x99", None),
    (
        own(["voided", "a@b.example", "y" * 99, "\x07"]),
        "State!=voidd",
        "no order has 'voidd' in 'State': did you mean 'voided'? There are others (3), voided (1)",
    ),
    (own([]), "State!=void", None),
    # As `check --suggest` proposes it.
    (
        own(["a", "Refunded", "storniert"]),
        "State=a,Refunded,storniert",
        ARE_LOST.format("'refunded', 'storniert'"),
    ),
    (own(["paid", "Refunded"]), {"State": ["paid", "Refunded"]}, ARE_LOST.format("'refunded'")),
    (own(["paid", "cancelled"]), "State=paid", None),
    (own(["paid", "cancelled", "x"]), "State=paid,cancelled", None),  # it leaves one out
    (own(["paid", "paid"]), "State=paid,cancelled", None),
    (own(["cancelled", "refunded"]), "State=cancelled,refunded", None),  # they are what is meant
    (own(["paid", "open"]), "State=paid,open", None),
    (own(["paid", "open"]), "State!=cancelled", None),
    # Orders that the shop leaves out have a value, too.
    (lines(woo(1, "cancelled", x="x"), woo(2, "completed")), ["status!=cancelled", "x!=x"], None),
]
MORE = {"hasNextPage": True}
LAST = page(graphql(2), pageInfo={"hasNextPage": False})


def magento(count: int, total: int) -> dict[str, Any]:
    order = {"increment_id": "1", "customer_email": ANN, "state": "complete", "grand_total": 1}
    return {"items": [{**order, "items": []}] * count, "search_criteria": {}, "total_count": total}


NEXT = "there are more orders on a further page, as the last page in this input says: ask for the "
NEXT += "next pages, too"
#: Pages of orders, and the warning.
PAGES: list[tuple[str, str | None]] = [
    (lines(page(graphql(1), pageInfo=MORE)), NEXT),
    (lines({"data": {"orders": {"pageInfo": MORE, **edges(graphql(1))}}}), NEXT),
    (lines({"data": {"orders": {"nodes": [], "pageInfo": MORE}}}), NEXT),
    (lines(LAST), None),
    (lines(page(graphql(1), pageInfo=MORE), LAST), None),
    (lines(page(graphql(1, pageInfo=MORE))), None),
    (lines(magento(2, 3)), NEXT),
    (lines(magento(2, 2)), None),
    (lines(magento(2, 3), magento(1, 3)), None),
]


@pytest.mark.parametrize(
    ("text", "where", "warning"),
    [(text, where, warning and f"where: {warning}") for text, where, warning in CONDITIONS]
    + [(text, None, warning) for text, warning in PAGES],
)
def test_what_only_the_last_order_shows_is_pointed_out_at_the_end(
    text: str, where: Any, warning: str | None
) -> None:
    reader = read_own(text, where=where)
    while next(reader, None) is not None:
        assert reader.warnings == []
    assert reader.warnings == ([] if warning is None else [warning])


def test_statuses_that_a_shops_table_does_not_know_are_reported() -> None:
    orders = [woo(1, "shipped-custom"), woo(2, "shipped-custom"), woo(3, "a" * 99), woo(4, "x@y")]
    orders += [woo(n, f"s{n}") for n in range(5, 60)]
    reader = read_orders(io.StringIO(json.dumps(orders)))
    assert len(list(reader)) == 59
    assert (reader.unknown_statuses["shipped-custom"], reader.unknown_statuses["others"]) == (2, 39)
    (warning,) = reader.warnings
    assert "that woocommerce orders don't usually have were read: shipped-custom (2), " in warning
    dated = [woo(1, "odd", date_created_gmt="2026-01-01"), woo(2, "odd")]
    reader = read_orders(io.StringIO(json.dumps(dated)), since="2026-02-01")
    assert (len(list(reader)), reader.unknown_statuses) == (1, {})
    reader = read_orders(io.StringIO(KINDS["statuses of Shopify"][0]))
    assert (len(list(reader)), reader.unknown_statuses, reader.warnings) == (7, {}, [])


#: The statuses processing, completed, on-hold, cancelled, refunded, failed, pending and
#: checkout-draft of WooCommerce, as its language packs call them.
WOO_LANGUAGES = {
    "de": "In Bearbeitung,Abgeschlossen,In Wartestellung,Storniert,Rückerstattet,Fehlgeschlagen,"
    "Zahlung ausstehend,Entwurf",
    "nl": "In behandeling,Afgerond,In de wacht,Geannuleerd,Terugbetaald,Mislukt,"
    "Wachtend op betaling,Concept",
    "fr": "En cours,Terminée,En attente,Annulée,Remboursée,Échouée,Attente paiement,Brouillon",
    "es": "Procesando,Completado,En espera,Cancelado,Reembolsado,Fallido,Pendiente de pago,"
    "Borrador",
    "it": "In lavorazione,Completato,In attesa,Annullato,Rimborsato,Fallito,"
    "In attesa di pagamento,Bozza",
    "pt": "Processando,Concluído,Aguardando,Cancelado,Reembolsado,Malsucedido,"
    "Pagamento pendente,Rascunho",
    "pt, of Portugal": "Em processamento,Concluída,Em espera,Cancelada,Reembolsada,Falhada,"
    "Pagamento pendente,Rascunho",
    "en": "Processing,Completed,On hold,Canceled,Refunded,Failed,Pending payment,Draft",
}


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("language", WOO_LANGUAGES)
def test_statuses_of_woocommerce_are_known_in_its_own_translations(
    language: str, form: Literal["NFC", "NFD"]
) -> None:
    """Plugins write what the shop's pages show."""
    words = unicodedata.normalize(form, WOO_LANGUAGES[language]).split(",")
    reader = read_orders(io.StringIO(plugin_rows(*words)))
    found = brief(list(reader.lines()))
    assert [id_ for _line, id_ in found] == ["0", "1", "2"]
    reasons = ("cancelled", "refunded", "failed", "unpaid", "draft")
    assert (reader.skipped, reader.warnings) == (dict.fromkeys(reasons, 1), [])


# ------------------------------------------------------------------------------------------ where


@pytest.mark.parametrize(
    ("where", "ids", "left_out"),
    [
        (["State=done"], "1", {"where State=done": 3}),
        ("State=done", "1", {"where State=done": 3}),
        ([" State = DONE , open "], "12", {"where State=DONE,open": 2}),
        (["State!=open"], "134", {"where State!=open": 1}),
        (["State="], "34", {"where State=": 2}),
        (["State!="], "12", {"where State!=": 2}),
        (["State!=done", "nr!=2,3"], "4", {"where State!=done": 1, "where nr!=2,3": 2}),
        (
            {"State": ["done", "open"], "nr!": 1},
            "2",
            {"where State=done,open": 2, "where nr!=1": 1},
        ),
        ({"State": "open"}, "2", {"where State=open": 3}),
        # Nothing is wrong where the orders are left out by something else.
        (["item=Rope,Mop,x", "nr!=1,2,3,4"], "", {"where nr!=1,2,3,4": 4}),
    ],
)
def test_only_orders_for_which_the_conditions_hold_are_read(
    where: Any, ids: str, left_out: dict[str, int]
) -> None:
    reader = read_own(OWN, where=where)
    assert "".join(order.order_id for order in reader if isinstance(order, Order)) == ids  # type: ignore[misc]
    assert reader.skipped == left_out


def test_a_condition_may_be_on_a_path_and_joins_what_the_shop_says() -> None:
    orders = [
        woo(1, "processing", lang={"code": "de"}, tags=["a", "b"]),
        woo(2, "failed", lang={"code": "de"}, tags=["b"]),
        woo(3, "processing", lang={"code": "en"}, tags=["b"]),
        woo(4, "processing", tags=["b"]),
    ]
    reader = read_orders(io.StringIO(json.dumps(orders)), where=["lang.code=DE", "tags=a"])
    assert [order.order_id for order in reader if isinstance(order, Order)] == ["1"]
    assert reader.skipped == {"failed": 1, "where lang.code=DE": 2}


NO_MILER = "no order has 'ann miler' in 'Kanal'"
PERSONS = ["Ann Miller", "Bea Miller"]
OBJECTS = lines({"nr": 1, "mail": ANN, "item": "x", "state": {"by": "Ann"}, "tags": [[1], "x"]})
NO_COLUMN = (
    "there is no column 'Stat': did you mean 'State'? The columns are 'nr', 'mail', 'item', "
)
NO_KEY = "there is no key 'Stat': did you mean 'State'? The keys are "
#: An input, a condition, and why none of it is read.
REFUSED: list[tuple[str, Any, str]] = [
    # The values of a column that may be of persons are not shown.
    (own(PERSONS, "Kanal"), "Kanal=Ann Miler", NO_MILER),
    (
        own(PERSONS * 10, "Kanal"),
        "Kanal=Ann Miler",
        NO_MILER + ": did you mean 'Ann Miller'? There are Ann Miller (10), Bea Miller (10)",
    ),
    (OBJECTS, "state=x", "no order has 'x' in 'state'"),
    (OBJECTS, "tags=y", "no order has 'y' in 'tags'"),
    *(
        (own(STATES), where, mistyped("bezalt", "Bezahlt"))
        for where in ("State=bezalt", ["mail!=", "State=bezalt"])
    ),
    (OWN, "Stat=done", f"{NO_COLUMN}'State'"),
    (OWN, "Stat!=done", f"{NO_COLUMN}'State'"),
    (
        lines({"State": 1} | woo(1, "")),
        "Stat=done",
        f"{NO_KEY}'State', 'number', 'status', 'billing', 'line_items', 'total'",
    ),
    (lines({"State": 1} | BARE), "Stat=done", f"{NO_KEY}'State', 'contact_email', 'products'"),
]


@pytest.mark.parametrize(("text", "where", "message"), REFUSED)
def test_a_condition_that_leaves_no_order_because_of_what_it_names_is_an_error(
    text: str, where: Any, message: str
) -> None:
    reader = read_own(text, where=where)
    with pytest.raises(ConfigurationError, match=f"^where: {re.escape(message)}$"):
        list(reader)
    assert reader.warnings == []


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("State", "where: expected COLUMN=VALUE,VALUE or COLUMN!=VALUE, such as Status=completed"),
        ("=x", "where: expected COLUMN"),
        ([7], "where: expected COLUMN"),
        ({"State": []}, "where: State: expected a text or a list of texts"),
        ({"State": [None]}, "where: State: expected a text or a list of texts"),
    ],
)
def test_a_condition_that_can_not_be_meant_is_refused_at_once(where: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse_where(where)
    with pytest.raises(ConfigurationError, match=message):
        read_orders("never opened", where=where)


# ------------------------------------------------------------------------- how a file is written

HOME = (
    "Bestellnr;E-Mail;Artikel;Stück;Preis;Summe;Datum\n"
    f"0017;{ANN};Müsli;1,5;1.250,00;€ 2.500,00;31.12.2025\n"
)
HOME_MAPPING = {
    "order_id": "Bestellnr",
    "contact_email": "E-Mail",
    "product_name": "Artikel",
    "product_quantity": "Stück",
    "product_price": "Preis",
    "total": "Summe",
    "date": "Datum",
}
GERMAN = {"decimal": ",", "thousands": ".", "date_format": "%d.%m.%Y"}


def test_amounts_and_dates_are_read_as_a_table_writes_them() -> None:
    options: dict[str, Any] = {"mapping": HOME_MAPPING, **GERMAN}
    assert read(HOME, since="2026-01-01", **options) == []
    ((_line, order),) = read(HOME, since="2025-12-31", **options)
    found = flat(order)
    assert (found["order_id"], found["amounts"]) == ("0017", "- - - 2500.00 -")
    assert found["products"] == [("Müsli", D("1250.00"), D("1.5"))]


@pytest.mark.parametrize(
    ("options", "data", "message"),
    [
        ({"decimal": ";"}, b"", "decimal: expected '.' or ','"),
        ({"thousands": ";"}, b"", "thousands: expected ',' or '.' or ' ' or"),
        ({"thousands": "."}, b"", "thousands and decimal are both '.': name decimal, too"),
        ({"decimal": ",", "thousands": ","}, b"", "thousands and decimal are both ','"),
        ({"date_format": "%d.%m."}, b"", "date_format: '%d.%m.' does not name a day"),
        ({"date_format": "dd.mm.yyyy"}, b"", "date_format: 'dd.mm.yyyy' does not name a day"),
        ({"date_format": "%Q"}, b"", "date_format: '%Q' does not name a day"),
        ({"sheet": "Orders"}, HOME.encode(), "sheet: it is csv, and has no sheets"),
    ],
)
def test_an_option_that_can_not_be_meant_is_refused(
    options: Any, data: bytes, message: str
) -> None:
    assert message in refusal(data, mapping=HOME_MAPPING, **options)


# ------------------------------------------------------------------------ where a field came from


def test_a_traced_order_says_where_its_fields_came_from() -> None:
    mapping = {
        "order_link_url": "https://a.example/{id}",
        "contact_email": ["other", "billing.email"],
        "workflow_id": 17,
        "contact_unique_id": lambda order: order["id"],
    }
    text = json.dumps([woo(1, "failed"), woo(2, "processing", id=5)])
    (traced,) = read_orders(io.StringIO(text), mapping=mapping).traced()
    assert (traced.number, isinstance(traced.order, Order)) == (2, True)
    assert traced.origins == {
        "contact_email": "billing.email",
        "contact_unique_id": "a function of the mapping",
        "order_id": "number",
        "order_link_url": "https://a.example/{id}",
        "sub_total": "computed from line_items",
        "total": "total",
        "workflow_id": "a constant of the mapping",
        "products[0].product_name": "computed from line_items[0].name",
        "products[0].product_price": "line_items[0].price",
        "products[0].product_quantity": "line_items[0].quantity",
        "products[0].product_line_total": "line_items[0].total",
    }
    text = shopify(paid("#1"), "#1,,,,,,1,Soap,5.00,,1.00,\n", "#2,x,paid,,,,1,Soap,5,,,\n")
    first, second = read_orders(io.StringIO(text)).traced()
    computed = "computed from Lineitem price, Lineitem quantity"
    assert {
        "products[1].product_name": "Lineitem name",
        "products[0].product_line_total": computed,
        "products[1].product_line_total": f"{computed}, Lineitem discount",
    }.items() <= first.origins.items()
    assert (type(second.order), second.origins["order_id"]) == (InvalidOrderError, "Name")
    own = '{"contact_email": "a@b", "products": [{"product_name": "Mop"}]}\nx\n'
    plain, broken = read_orders(io.StringIO(own)).traced()
    assert list(plain.origins) == ["contact_email", "products[0].product_name"]
    assert broken.origins == {}


# ---------------------------------------------------------------------------- what is not known

NAMES = {
    HOME: "'Bestellnr', 'E-Mail', 'Artikel', 'Stück', 'Preis', 'Summe', 'Datum'",
    json.dumps([{"nr": 1, "mail": ANN, "lines": []}]): "'nr', 'mail', 'lines'",
}


@pytest.mark.parametrize("text", NAMES)
def test_what_is_not_known_is_refused_with_its_names_and_the_next_steps(text: str) -> None:
    message = refusal(text)
    for part in (
        "check --suggest",
        'how-to "Send a file with your own columns"',
        "contact_email, ",
        NAMES[text],
        "--map 'contact_email=",
    ):
        assert part in message
    assert ANN not in message


def test_a_list_of_orders_in_an_object_of_any_name_is_found() -> None:
    orders = {"payload": {"x": [1, {}], "list": [{"nr": 1, "mail": ANN, "total": 5}, {"nr": 2}]}}
    shops = {"payload": [woo(1, "completed")]}
    for value, path in ((orders, "payload.list"), (shops, "payload")):
        text = json.dumps(value)
        assert f"add --map each={path}. As it is: none of" in refusal(text)
        found = suggest_mapping(io.StringIO(text))
        assert found.mapping["each"] == path
        assert read(text, mapping=found.mapping)[0][0] == 1
    assert suggest_mapping(io.StringIO(json.dumps(orders))).mapping["contact_email"] == "mail"
    no_list = "none of the keys"
    # A path can't lead through a key that holds a dot.
    for dotted in ({"a.b": orders["payload"]["list"]}, {"a.b": orders["payload"]}):
        assert "each" not in suggest_mapping(io.StringIO(json.dumps(dotted))).mapping
        assert refusal(json.dumps(dotted)).startswith(no_list)
        assert refusal(json.dumps([dotted])).startswith(no_list)
    # What an order has in lists is no order.
    order = json.dumps({"nr": 1, "mail": ANN, "copies": [{"mail": ANN}]})
    assert "each" not in suggest_mapping(io.StringIO(order)).mapping
    assert refusal(order).startswith(no_list)
    ((_number, fault),) = brief(read(json.dumps({"payload": [{"mail": "x" * 999}] * 3_000})))
    assert fault.endswith(
        "characters: if it is a list of orders, say where, as with --map each=PATH"
    )


def test_a_column_that_does_not_exist_is_named_with_those_that_do() -> None:
    missing = "order_id: there is no column 'Bestellnummer': did you mean 'Bestellnr'? The columns"
    mapping = {**HOME_MAPPING, "order_id": "Bestellnummer"}
    assert refusal(HOME, mapping=mapping) == f"{missing} are {NAMES[HOME]}"
    columns = [f"Angabe {number}" for number in range(36)]
    text = ",".join([*columns, "Bestellnr"]) + "\n" + ",".join("7" * 37) + "\n"
    message = refusal(text, mapping={**mapping, "contact_email": "Angabe 1"})
    assert message.startswith(f"{missing} are 'Angabe 0', 'Angabe 1', ")
    assert message.endswith(", 'Angabe 11' and 25 more")


@pytest.mark.parametrize(
    ("above", "below", "options"),
    [
        ("Orders of March\n\n", TITLED, {}),
        ("\nOrders of March,,\n,,\n", TITLED, {}),
        ('"Orders, all"\n', TITLED.replace(",", ";"), {}),
        ("Orders\n", TITLED.replace(",", "\t"), {}),
        ("sep=;\nOrders, all\n", TITLED.replace(",", ";"), {}),
        ("Report\n" * 20, HOME, {"mapping": HOME_MAPPING, **GERMAN}),
        ("", TITLED.replace("product_name", '"product_name"'), {}),
        (
            "",
            '"order\nid","contact_email","product_name"\n1,a@b.c,Mop\n',
            {"mapping": {"order_id": "order\nid"}},
        ),
    ],
)
def test_a_title_above_the_header_is_left_out(above: str, below: str, options: Any) -> None:
    found, expected = (read(text, "csv", **options) for text in (above + below, below))
    assert isinstance(expected[0][1], Order)
    assert found == [(number + above.count("\n"), order) for number, order in expected]


WHO = {"order_id": "Nr", "contact_email": "Wer"}


@pytest.mark.parametrize(
    ("text", "mapping", "row"),
    [
        ("Orders, all\n" + TITLED.replace(",", ";"), None, 2),
        (f"Report,by me,,,,,\nof March,2026,,,,,\n{HOME}", HOME_MAPPING, 3),
        ("Report,by me,\nNr,Wer,Was\n1,a@b.example,Mop\n", WHO, 2),
        ("Report,,\n1,a@b.example,Mop\n", WHO, None),
        (TITLED, {"order_id": "order"}, None),
    ],
)
def test_a_title_above_the_header_is_pointed_out_and_no_mapping_is_proposed(
    text: str, mapping: Any, row: int | None
) -> None:
    told = f"row {row} looks like the header: remove the rows above it"
    assert (refusal(text, "csv", mapping=mapping) == told) == (row is not None)
    if row is not None and mapping is not WHO:  # its words are known
        with pytest.raises(ConfigurationError, match=f"^{told}$"):
            suggest_mapping(io.StringIO(text), "csv")


def test_the_rows_in_which_a_header_was_looked_for_are_those_of_a_suggestion() -> None:
    found = suggest_mapping(io.StringIO('Wer,Was\na@b.example,"Mop,\nred"\n\nb@b.example,Mop\n'))
    assert found.mapping == {"contact_email": "Wer"}


# ------------------------------------------------------------------------------------ suggestions

GOODS = {
    "each": "x",
    "product_name": "title",
    "product_quantity": "qty",
    "product_price": "price",
}


@pytest.mark.parametrize(
    ("data", "mapping", "options", "status", "missing", "unused"),
    [
        (HOME.encode("cp1252"), HOME_MAPPING, {"encoding": "cp1252", **GERMAN}, None, [], []),
        (
            f"Order,Kunde,Status,Order date,Phone number\n1,{ANN},x,2026-01-01,+27\n".encode(),
            {"contact_email": "Kunde", "order_id": "Order", "date": "Order date"},
            {},
            "Status",
            ["total", "product_name", "product_price", "product_quantity"],
            ["Phone number"],
        ),
        (
            lines(
                {
                    "nr": 1,
                    "kunde": {"mail": ANN, "x": [1]},
                    "basket": {
                        "lines": [
                            {"title": "Mop", "unitPrice": "1,50", "qty": 2, "pics": [{"name": "x"}]}
                        ]
                    },
                    "grandTotal": "3,00",
                    "state": "done",
                    "a{b": 1,
                }
            ).encode(),
            {
                "contact_email": "kunde.mail",
                "order_id": "nr",
                "total": "grandTotal",
                "products": GOODS | {"each": "basket.lines", "product_price": "unitPrice"},
            },
            {"decimal": ","},
            "state",
            [],
            ["a{b"],
        ),
        (
            (
                f'{{"mail": "{ANN}", "nr": 1, "total": 1, '
                '"x": [{"title": "M\xf6p", "qty": 1, "price": 1}]}\n'
            ).encode("cp1252"),
            {"contact_email": "mail", "order_id": "nr", "total": "total", "products": GOODS},
            {"encoding": "cp1252"},
            None,
            [],
            [],
        ),
    ],
    ids=["home-made", "english", "nested", "JSON of Windows"],
)
def test_a_mapping_is_proposed_and_says_what_it_could_not_find(
    data: bytes, mapping: Any, options: Any, status: Any, missing: Any, unused: Any
) -> None:
    found = suggest_mapping(io.BytesIO(data))
    assert not found.is_known
    assert (found.mapping, found.options, found.status) == (mapping, options, status)
    assert (list(found.missing), list(found.unused)) == (missing, unused)
    text = found.to_toml()
    read_back = tomllib.loads(text)["mapping"]
    assert read_back == mapping
    assert all(f"# {field}: not found" in text for field in missing)
    if not missing:
        (item,) = read_orders(io.BytesIO(data), mapping=read_back, **found.options)
        assert isinstance(item, Order)


SELLER = "Verkäufer-E-Mail"


@pytest.mark.parametrize(
    ("columns", "contact", "others"),
    [
        ({SELLER: SHOP, "Kunden-E-Mail": EMAILS}, "Kunden-E-Mail", SELLER),
        ({SELLER: SHOP[:1], "Kundenmail": EMAILS[:1]}, "Kundenmail", SELLER),
        ({"Winkel e-mail": EMAILS, "Klant": [EMAILS[0], "", ""]}, "Klant", "Winkel e-mail"),
        ({"E-Mail": SHOP, "Kundenmail": EMAILS}, "Kundenmail", "E-Mail"),
        ({"Email": SHOP, "who": EMAILS}, "who", "Email"),
        ({"Cashier email": EMAILS, "Email": EMAILS}, "Email", "Cashier email"),
        ({"Shipping email": EMAILS, "Billing email": EMAILS}, "Billing email", "Shipping email"),
        ({"shop.customer_email": EMAILS, "email": SHOP}, "shop.customer_email", "email"),
        ({"Shop email": SHOP}, None, "Shop email"),
        ({"Email": ["", "", ""]}, None, None),
        ({"Email": SHOP, "Note": ["see a@b.example", "", ""]}, "Email", None),
    ],
)
@pytest.mark.parametrize("form", ["CSV", "JSON"])
def test_the_customers_address_is_proposed_and_no_other(
    columns: Mapping[str, Sequence[str]], contact: str | None, others: str | None, form: str
) -> None:
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    table = [["Nr", *columns], *([f"{n}", *row.values()] for n, row in enumerate(rows))]
    text = "\n".join(map(";".join, table))
    if form == "JSON":
        text = lines(*({"nr": 1, **row} for row in rows))
    found = suggest_mapping(io.StringIO(text))
    assert found.mapping.get("contact_email") == contact
    assert list(found.other_contacts) == ([] if others is None else [others])
    assert ("contact_email" in found.missing) == (contact is None)
    note = f'# E-mail addresses, too; contact_email has to be the customers\': "{others}"'
    assert (note in found.to_toml()) == (others is not None)


def test_a_status_under_another_name_is_proposed_because_of_orders_that_came_to_nothing() -> None:
    for values, status in ((["Paid", "Refunded"], "Payment"), (["PayPal", "Invoice"], None)):
        assert suggest_mapping(io.StringIO(own(values, "Payment"))).status == status


def test_a_total_that_differs_within_an_order_is_proposed_as_that_of_the_line() -> None:
    text = "order number,email,item,total\n1,a@b.example,Mop,5\n{},a@b.example,Soap,7\n"
    for second, field in (("1", "product_line_total"), ("2", "total")):
        found = suggest_mapping(io.StringIO(text.format(second)))
        assert found.mapping[field] == "total"
        assert ("total" in found.missing) == (field != "total")


FIELDS = ("order_id", "contact_email", "product_name", "product_quantity", "product_price")
#: Words of shops for these fields, for the total, the date and the status; and words of tills, of
#: which there are fewer.
LANGUAGES = {
    "de": "Bestell-Nr.,E-Mail,Artikelbezeichnung,Menge,Einzelpreis,Gesamtbetrag,Datum,Status",
    "nl": "Bestelnummer,E-mail klant,Omschrijving,Aantal,Prijs,Totaalbedrag,Besteldatum,Toestand",
    "fr": "N° de commande,Courriel,Désignation,Quantité,Prix unitaire,Montant total,Date,Statut",
    "es": "Número de pedido,Correo,Descripción,Cantidad,Precio,Importe,Fecha,Estado",
    "it": "Numero ordine,Email cliente,Prodotto,Quantità,Prezzo,Totale,Data ordine,Stato",
    "pt": "Número do pedido,E-mail,Produto,Quantidade,Preço,Valor total,Data do pedido,Situação",
    **{
        f"till, {id_}": f"{id_},E-Mail,Omschrijving"
        for id_ in ("Kassenbon", "Bonnummer", "Beleg-Nr.", "Rechnungsnummer", "Kassabon")
    },
    "till, Factuurnummer": "Factuurnummer,E-Mail,Omschrijving",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_columns_are_known_in_the_languages_of_shops_and_tills(language: str) -> None:
    columns = LANGUAGES[language].split(",")
    cells = ["1", ANN, "Mop", "1", "5.00", "5.00", "2026-01-01", "x"][: len(columns)]
    found = suggest_mapping(io.StringIO(";".join(columns) + "\n" + ";".join(cells) + "\n"))
    assert found.mapping == dict(zip((*FIELDS, "total", "date"), columns, strict=False))
    assert list(found.unused) == []
    if not language.startswith("till"):
        assert (found.status, list(found.missing)) == (columns[-1], [])


def test_a_plugin_whose_columns_are_translated_has_a_mapping_proposed() -> None:
    """A number sign is a number; and a further row of an order has no status."""
    columns = "Bestell #;Bestellstatus;E-Mail (Rechnung);Artikel #;Artikelname;Artikelpreis;Steuern"
    text = f"{columns}\n1;Storniert;{ANN};1;Mop;5;1\n;;;2;Rope;5;\n2;;{ANN};1;Mop;5;1\n"
    found = suggest_mapping(io.StringIO(text))
    assert {
        "order_id": "Bestell #",
        "product_name": "Artikelname",
        "product_price": "Artikelpreis",
        "taxes": "Steuern",
    }.items() <= found.mapping.items()
    assert (found.status, list(found.statuses)) == ("Bestellstatus", ["Storniert", ""])
    found = suggest_mapping(io.StringIO(text.replace("\n2;;", "\n2;Offen;")))
    assert list(found.statuses) == ["Storniert", "Offen"]
    found = suggest_mapping(io.StringIO(f"Bestell-Nr.;E-Mail;Artikel;Art.-Nr.\n1;{ANN};Mop;7\n"))
    assert found.mapping["product_sku"] == "Art.-Nr."


def test_a_known_export_needs_no_mapping_and_nothing_can_be_proposed_for_nothing() -> None:
    for kind in ("Squarespace", "BigCommerce", "GraphQL, edges"):
        found = suggest_mapping(io.StringIO(KINDS[kind][0]))
        assert (found.is_known, found.mapping) == (True, {})
    with pytest.raises(ConfigurationError, match="it is empty"):
        suggest_mapping(io.BytesIO(b"\n"))
    with pytest.raises(ConfigurationError, match="line 1 is not ascii: name its encoding"):
        suggest_mapping(io.BytesIO('{"a": "\xf6"}'.encode()), encoding="ascii")
    assert attrs.asdict(suggest_mapping(io.BytesIO(b"a,b\n")))["unused"] == ["a", "b"]
