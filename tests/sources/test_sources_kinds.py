"""The kinds of exports that people have, in miniature: what is read of each, and what is left out.

Each row of a table stands for a kind. What the fields of the first four shops become, digit by
digit, is in `test_sources_shops`.
"""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal

import attrs
import pytest
from reading import Pipe, brief, fields, read

from everlytic_async import ConfigurationError, InvalidOrderError, Order, SourceError
from everlytic_async.sources import parse_where, read_orders, suggest_mapping

ANN = "ann@example.com"
SHOPIFY = (
    "Name,Email,Financial Status,Subtotal,Total,Created at,Lineitem quantity,Lineitem name,"
    "Lineitem price,Lineitem sku,Lineitem discount,Cancelled at\n"
)


def shopify(*rows: str, status: str = "paid", total: str = "20.00", price: str = "10.00") -> str:
    """Shopify's CSV, with a row for each order that is numbered so."""
    return SHOPIFY + "".join(
        f'{name},{ANN},{status},"{total}","{total}",2026-03-01 10:00:00 +0200,2,Mop,"{price}",7,,\n'
        for name in rows
    )


def graphql(number: int, **more: Any) -> dict[str, Any]:
    return {
        "id": f"gid://shopify/Order/{number}",
        "name": f"#{number}",
        "email": ANN,
        "createdAt": "2026-03-01T08:00:00Z",
        "cancelledAt": None,
        "displayFinancialStatus": "PAID",
        "totalPriceSet": {"shopMoney": {"amount": "25.00", "currencyCode": "ZAR"}},
        **more,
    }


def line_item(parent: int | None = None, **more: Any) -> dict[str, Any]:
    item = {
        "id": "gid://shopify/LineItem/7",
        "title": "Mop",
        "quantity": 2,
        "sku": "000412",
        "originalUnitPriceSet": {"shopMoney": {"amount": "10.00"}},
        **more,
    }
    return item if parent is None else {**item, "__parentId": f"gid://shopify/Order/{parent}"}


MAY_BE_PART = "may be a line item of it, and does not say what it is"


def part_of(parent: str, **fields: Any) -> dict[str, Any]:
    """A line of a bulk operation without an id."""
    return {**fields, "__parentId": f"gid://shopify/{parent}"}


def lines(*values: Any) -> str:
    return "".join(f"{json.dumps(value)}\n" for value in values)


def edges(*nodes: Any) -> dict[str, Any]:
    return {"edges": [{"cursor": "x", "node": node} for node in nodes]}


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

FINANCIAL = ("paid", "expired", "unpaid", "partially_refunded", "pending", "authorized")
FINANCIAL += ("Refunded", "voided", "partially_paid")
WOO = ("on-hold", "wc-cancelled", "refunded", "failed", "pending", "checkout-draft", "trash")
WOO += ("completed", "shipped-custom", "wc-processing")

# ------------------------------------------------------------------------------- what is an order

#: For each kind: the input, what is read of it (places, and ids or faults), what is left out.
KINDS: dict[str, tuple[str, list[tuple[int, str]], dict[str, int]]] = {
    "abandoned checkouts of Shopify, as CSV": (
        shopify("#37107487441214", status=""),
        [],
        {"abandoned checkout": 1},
    ),
    "drafts of Shopify, as CSV": (shopify("#D12", status=""), [], {"draft": 1}),
    "a further row of Shopify that is not next to its order is at fault": (
        f"{shopify('#1', '#2')}#1,{ANN},,,,2026-03-01,1,Soap,5.00,,,\n",
        [(2, "#1"), (3, "#2"), (4, "has neither a status nor a total, as a row that is apart")],
        {},
    ),
    "the further row of an order of Shopify is above it": (
        (f"{SHOPIFY}#1,{ANN},,,,,1,Brush,5.00,,,\n{shopify('#1').removeprefix(SHOPIFY)}"
        f"#2,{ANN},,,,,1,Brush,5.00,,,\n{shopify('#2', status='voided').removeprefix(SHOPIFY)}"),
        [(2, "#1")],
        {"voided": 1},
    ),
    "the further row of a checkout or a draft is above it": (
        (f"{SHOPIFY}#9,{ANN},,,,,1,Soap,5.00,,,\n"
        f"{shopify('#9', status='').removeprefix(SHOPIFY)}#D9,{ANN},,,,,1,Mop,5.00,,,\n"),
        [],
        {"abandoned checkout": 1, "draft": 1},
    ),
    "checkouts of Shopify without columns of totals": (
        ("Name,Email,Financial Status,Lineitem quantity,Lineitem name,Lineitem price\n"
        f"#9,{ANN},,1,Mop,5.00\n#9,,,1,Soap,5.00\n"),
        [],
        {"abandoned checkout": 1},
    ),
    "a file of Shopify that starts within an order": (
        f"{SHOPIFY},{ANN},,,,,1,Soap,5.00,,,\n{shopify('#2').removeprefix(SHOPIFY)}",
        [(2, "belongs to an order that is not above it: is it cut off?"), (3, "#2")],
        {},
    ),
    "statuses of Shopify": (
        SHOPIFY
        + "".join(
            row.removeprefix(SHOPIFY)
            for row in (
                shopify(f"#{place}", status=status)
                for place, status in enumerate(FINANCIAL)
            )
        ),
        [(place + 2, f"#{place}") for place in (0, 1, 2, 3, 4, 5, 8)],
        {"refunded": 1, "voided": 1},
    ),
    "GraphQL, edges": (
        json.dumps({"data": {"orders": edges(graphql(1, lineItems=edges(line_item())))}}, indent=1),
        [(1, "#1")],
        {},
    ),
    "GraphQL, nodes": (
        json.dumps(
            {"data": {"orders": {"nodes": [graphql(1, lineItems={"nodes": [line_item()]})]}}}
        ),
        [(1, "#1")],
        {},
    ),
    "GraphQL, several pages, one on each line": (
        lines(
            *(
                {"data": {"orders": edges(graphql(n, lineItems=edges(line_item())))}}
                for n in (1, 2)
            )
        ),
        [(1, "#1"), (2, "#2")],
        {},
    ),
    "GraphQL, a bulk operation": (
        lines(graphql(1), line_item(1), line_item(1), graphql(2, cancelledAt="x"), line_item(2)),
        [(1, "#1")],
        {"cancelled": 1},
    ),
    "GraphQL, a bulk operation with its lines in any order": (
        lines(line_item(2), graphql(1), graphql(2), line_item(1)),
        [(2, "#1"), (3, "#2")],
        {},
    ),
    "GraphQL, a bulk operation without all of its lines": (
        lines(graphql(1), line_item(1), line_item(9), graphql(2))
        + json.dumps(line_item(2))[:-1]
        + lines({}, graphql(3)),
        [
            (1, "#1"),
            (3, "belongs to an order that is not in the file: is it cut off?"),
            (4, "line 5 is or may be a part of it, and can't be read"),
            (5, "is not JSON: "),
            (6, "products: at least one is required"),
        ],
        {},
    ),
    "GraphQL, a bulk operation with damaged lines that don't say whose they are": (
        lines(graphql(1), line_item(1))
        + json.dumps(line_item(1))[:-2]
        + "\n" + lines(graphql(2), line_item(2))
        + json.dumps(graphql(3))[:60]
        + "\n" + lines(graphql(4), line_item(4))
        + json.dumps(line_item(4)).replace("10.00", "NaN").replace('"NaN"', "NaN")
        + "\n" + lines(graphql(5), line_item(5), 17),
        [
            (1, "line 3 is or may be a part of it, and can't be read"),
            (3, "is not JSON: "),
            (4, "#2"),
            (6, "is not JSON: "),
            (7, "line 9 is or may be a part of it, and can't be read"),
            (9, "originalUnitPriceSet"),
            (10, "line 12 is or may be a part of it, and can't be read"),
            (12, "is not an order: "),
        ],
        {},
    ),
    "GraphQL, parts in a bulk operation that may be line items": (
        lines(
            graphql(1), line_item(1), part_of("Order/1", title="Mop"), graphql(2),
            part_of("Order/2", __typename="LineItem", title="Mop"), part_of("Order/9", title="Mop"),
            graphql(3), line_item(3), part_of("Order/3", originalUnitPrice="1.00"),
        ),
        [
            (1, f"line 3 {MAY_BE_PART}"),
            (4, "#2"),
            (6, "belongs to an order that is not in the file: is it cut off?"),
            (7, f"line 9 {MAY_BE_PART}"),
        ],
        {},
    ),
    "GraphQL, parts in a bulk operation that can't be line items": (
        lines(
            graphql(1), line_item(1), {**line_item(1), "id": "gid://shopify/Fulfillment/1"},
            {"id": "gid://shopify/Metafield/1", "__parentId": "gid://shopify/LineItem/7"},
            part_of("Order/1", __typename="DiscountCodeApplication", code="X"),
            part_of("Order/1", __typename="AutomaticDiscountApplication", title="X"),
            part_of("Order/1", __typename="ShippingLine", title="X", quantity=1),
            part_of("Order/1", namespace="custom", key="gift_note", value="x"),
            part_of("LineItem/7", key="x"), part_of("Fulfillment/1", quantity=1),
            part_of("Refund/1", quantity=1, title="X"),
            graphql(2), part_of("Order/2", __typename="LineItem", title="Mop", quantity=2),
            part_of("Order/2", quantity=2, title="Rope"),
        ),
        [(1, "#1"), (12, "#2")],
        {},
    ),
    "GraphQL, drafts, checkouts, tests and refunds": (
        lines(
            graphql(1, id="gid://shopify/DraftOrder/1"),
            graphql(2, id="gid://shopify/AbandonedCheckout/1"),
            graphql(3, test=True),
            graphql(4, displayFinancialStatus="REFUNDED"),
        ),
        [],
        {"draft": 1, "abandoned checkout": 1, "test": 1, "refunded": 1},
    ),
    "GraphQL, line items on a further page": (
        lines(graphql(1, lineItems={"nodes": [line_item()], "pageInfo": {"hasNextPage": True}})),
        [(1, "lineItems: more of them are on a further page: ask for as many as an order has")],
        {},
    ),
    "statuses of WooCommerce": (
        json.dumps(
            [
                woo(place, status)
                for place, status in enumerate(WOO)
            ]
        ),
        [(1, "0"), (8, "7"), (9, "8"), (10, "9")],
        dict.fromkeys(("cancelled", "refunded", "failed", "unpaid", "draft", "trash"), 1),
    ),
    "a single order of WordPress.com": (
        json.dumps({"data": woo(1, "processing")}, indent=1), [(1, "1")], {}
    ),
    "Advanced Order Export": (
        (f"{AOE}501,Cancelled,2026-01-15 12:00,{ANN},108,0,108,Mop,000412,2,54.00\n"
        f"502,On hold,2026-01-16 12:00,{ANN},60.00,10.00,50.00,Soap &amp; Co,,2,25.00\n"
        f"502,On hold,2026-01-16 12:00,{ANN},60.00,10.00,50.00,Rope,,1,0.00\n"),
        [(3, "502")],
        {"cancelled": 1},
    ),
    "Order Export, products in one cell": (
        (f"{ITEMS.format('line_items')}"
        f"1,1,2026-01-15 12:00:00,processing,108.00,{ANN},"
        "name:Mop; blue|product_id:412|sku:000412|quantity:2|total:108.00|refunded:0;"
        "name:Soap|a|product_id:1|sku:|quantity:1|total:0.00\n"
        f"2,2,2026-01-15 12:00:00,failed,108.00,{ANN},name:Mop|quantity:2|total:1.00\n"),
        [(2, "1")],
        {"failed": 1},
    ),
    "Order Export, products in several cells": (
        (f"{ITEMS.format('line_item_1,line_item_2')}"
        f"1,1,2026-01-15 12:00:00,completed,108.00,{ANN},name:Mop|quantity:2|total:108.00,\n"),
        [(2, "1")],
        {},
    ),
    "Order Export, products as JSON, and in no form that is known": (
        ITEMS.format("line_items")
        + "".join(
            f'{n},{n},2026-01-15 12:00:00,completed,108.00,{ANN},"{cell}"\n'
            for n, cell in enumerate(
                (
                    '[{""name"":""Mop"",""quantity"":2,""total"":""108.00"",""meta"":[]}]',
                    '{""name"":""Mop"",""quantity"":2,""total"":108.00}',
                    "garbage",
                    "a:1:{i:0;a:1:{s:4:name;s:3:Mop;}}",
                    '[{""name"":""Mop""',
                    "[" * 100_000,
                    '[""Mop""]',
                    '[{""title"":""Mop""}]',
                    "[]",
                )
            )
        ),
        [(2, "0"), (3, "1")]
        + [(line, "line_items: can't be read: expected ") for line in range(4, 10)]
        + [(10, "products: at least one")],
        {},
    ),
    "Squarespace": (
        (f"{SQUARESPACE}00012,{ANN},PAID,20.00,25.00,2026-03-01 10:00:00 +0200,2,Mop,10.00,7,,\n"
        f"00012,{ANN},,,,,1,Soap,5.00,8,,\n"
        f"00013,{ANN},REFUNDED,20.00,25.00,2026-03-01 10:00:00 +0200,2,Mop,10.00,7,,\n"),
        [(2, "00012")],
        {"refunded": 1},
    ),
    "the grid of Magento": (
        (f'{GRID}000000001,Main,"Mar 1, 2026 8:00:00 AM","R1,250.00",canceled,{ANN}\n'
        f'000000002,Main,"Mar 1, 2026 8:00:00 AM","R1,250.00",Suspected Fraud,{ANN}\n'
        f'000000003,Main,"Mar 1, 2026 8:00:00 AM","R1,250.00",complete,{ANN}\n'),
        [
            (
                4,
                ("products: at least one is required, and nothing says what was bought: map a "
                "field of a product, such as with --map 'product_name:=\"Your order\"'"),
            )
        ],
        {"cancelled": 1, "fraud": 1},
    ),
    "BigCommerce": (
        json.dumps(
            [
                bigcommerce(),
                bigcommerce("Incomplete"),
                bigcommerce("Awaiting Payment"),
                bigcommerce("Declined"),
                bigcommerce(is_deleted=True),
                bigcommerce(products={"url": "https://a.example", "resource": "/orders/118/prod"}),
            ]
        ),
        [(1, "118"), (3, "118"), (6, "products: it has only a link to them: join in what GET ")],
        {"abandoned checkout": 1, "failed": 1, "trash": 1},
    ),
    "two files in one": (
        shopify("#1") + shopify("#2"),
        [(2, "#1"), (4, "#2")],
        {"repeated header": 1},
    ),
    "two files in one, with byte-order marks": (
        "\ufeff" + shopify("#1") + "\ufeff" + shopify("#2"),
        [(2, "#1"), (4, "#2")],
        {"repeated header": 1},
    ),
    "two files in one, with the header twice": (
        shopify("#1") + SHOPIFY + shopify("#2"),
        [(2, "#1"), (5, "#2")],
        {"repeated header": 1, "duplicate row": 1},
    ),
    "two files of one's own in one": (
        2 * f"order_id,contact_email,product_name\n1,{ANN},Mop\n",
        [(2, "1"), (4, "1")],
        {"repeated header": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_an_order_is_read_and_what_is_none_is_counted(kind: str) -> None:
    text, expected, left_out = KINDS[kind]
    reader = read_orders(io.StringIO(text))
    found = brief(list(reader.lines()))
    assert [line for line, _told in found] == [line for line, _told in expected]
    for (_line, told), (_same, start) in zip(found, expected, strict=True):
        assert told.startswith(start)
    assert reader.skipped == left_out


D = Decimal
#: The first order of a kind, with every digit.
ORDERS: dict[str, dict[str, Any]] = {
    "GraphQL, edges": {
        "total": "25.00",
        "products": [("Mop", D("10.00"), 2, "000412", D("20.00"))],
    },
    "Advanced Order Export": {
        "sub_total": "50.00",
        "discount": "10.00",
        "total": "50.00",
        "products": [
            ("Soap & Co", D("25.00"), D(2), None, D("50.00")),
            ("Rope", D("0.00"), D(1), None, D("0.00")),
        ],
    },
    "Order Export, products in one cell": {
        "sub_total": "108.00",
        "total": "108.00",
        "products": [
            ("Mop; blue", D("54.00"), D(2), "000412", D("108.00")),
            ("Soap|a", D("0.00"), D(1), None, D("0.00")),
        ],
    },
    "Order Export, products as JSON, and in no form that is known": {
        "sub_total": "108.00",
        "total": "108.00",
        "products": [("Mop", D("54.00"), 2, None, D("108.00"))],
    },
    "Order Export, products in several cells": {
        "sub_total": "108.00",
        "total": "108.00",
        "products": [("Mop", D("54.00"), D(2), None, D("108.00"))],
    },
    "Squarespace": {
        "sub_total": "20.00",
        "total": "25.00",
        "products": [
            ("Mop", D("10.00"), D(2), "7", D("20.00")),
            ("Soap", D("5.00"), D(1), "8", D("5.00")),
        ],
    },
    "BigCommerce": {
        "sub_total": "15.0000",
        "shipping_fee": "5.0000",
        "taxes": "3.0000",
        "total": "23.0000",
        "discount": "5.0000",
        "products": [("Mop", D("10.0000"), 2, "000412", D("15.0000"))],
    },
}
PRODUCT = ("product_name", "product_price", "product_quantity", "product_sku", "product_line_total")


@pytest.mark.parametrize("kind", ORDERS)
def test_the_fields_of_a_kind(kind: str) -> None:
    order = fields(read(KINDS[kind][0])[0][1])
    products = [tuple(product.get(name) for name in PRODUCT) for product in order.pop("products")]
    expected = dict(ORDERS[kind])
    assert repr(products) == repr(expected.pop("products"))
    del order["order_id"]
    assert order == {"contact_email": ANN, **expected}


ALLOCATED = [{"allocatedAmountSet": {"shopMoney": {"amount": "4.50"}}}]


@pytest.mark.parametrize(
    ("more", "total"),
    [
        ({}, "20.00"),
        ({"discountAllocations": ALLOCATED}, "15.50"),
        (
            {"discountAllocations": [], "discountedTotalSet": {"shopMoney": {"amount": "1"}}},
            "20.00",
        ),
        ({"discountedTotalSet": {"shopMoney": {"amount": "18.00"}}}, "18.00"),
        ({"originalUnitPriceSet": None, "originalUnitPrice": "3.00"}, "6.00"),
        ({"originalUnitPriceSet": {"presentmentMoney": {"amount": "3.00"}}}, "6.00"),
        (
            {
                "originalUnitPriceSet": {"presentmentMoney": {"amount": "3.00"}},
                "discountedTotalSet": {"presentmentMoney": {"amount": "5.00"}},
            },
            "5.00",
        ),
        (
            {
                "originalUnitPriceSet": {"presentmentMoney": {"amount": "3.00"}},
                "discountAllocations": [
                    {"allocatedAmountSet": {"presentmentMoney": {"amount": "2.00"}}}
                ],
            },
            "4.00",
        ),
        # Two currencies are not mixed.
        ({"discountedTotalSet": {"presentmentMoney": {"amount": "1.00"}}}, "20.00"),
    ],
)
def test_a_line_total_of_graphql_is_after_all_discounts(more: dict[str, Any], total: str) -> None:
    ((_line, order),) = read(lines(graphql(1), line_item(1, **more)))
    (product,) = fields(order)["products"]
    assert str(product["product_line_total"]) == total
    assert product["product_price"] in (10, 3)


@pytest.mark.parametrize(
    ("kind", "since", "count"),
    [
        ("BigCommerce", "2026-03-03T08:00Z", 2),
        ("BigCommerce", "2026-03-03T08:01Z", 0),
        ("GraphQL, edges", "2026-03-01T08:00Z", 1),
        ("GraphQL, edges", "2026-03-01T08:01Z", 0),
        ("the grid of Magento", "2026-03-01T08:00Z", 1),
        ("the grid of Magento", "2026-03-01T08:01Z", 0),
        ("Advanced Order Export", "2026-01-16T12:01Z", 0),
    ],
)
def test_the_time_of_a_kind_is_understood(kind: str, since: str, count: int) -> None:
    mapping = {"product_name": {"constant": "Mop"}} if "grid" in kind else None
    found = [item for _line, item in read(KINDS[kind][0], since=since, mapping=mapping)]
    assert sum(isinstance(item, Order) for item in found) == count
    assert not any("date" in str(item) for item in found)


MAGENTO = {
    "increment_id": "1",
    "customer_email": ANN,
    "state": "complete",
    "grand_total": 1,
    "items": [],
}
PAGE = {"hasNextPage": True}
LAST = {**edges(graphql(2)), "pageInfo": {"hasNextPage": False}}


@pytest.mark.parametrize(
    ("pages", "count"),
    [
        ([{"orders": {**edges(graphql(1)), "pageInfo": PAGE}}], 1),
        ([{"orders": {"pageInfo": PAGE, **edges(graphql(1))}}], 1),
        ([{"orders": {"nodes": [], "pageInfo": PAGE}}], 1),
        ([{"orders": LAST}], 0),
        ([{"orders": {**edges(graphql(1)), "pageInfo": PAGE}}, {"orders": LAST}], 0),
        ([{"orders": edges(graphql(1, pageInfo=PAGE))}], 0),
        ([{"items": [MAGENTO] * 2, "search_criteria": {}, "total_count": 3}], 1),
        ([{"items": [MAGENTO] * 2, "search_criteria": {}, "total_count": 2}], 0),
        ([{"items": [MAGENTO] * 2, "total_count": 3}, {"items": [MAGENTO], "total_count": 3}], 0),
    ],
)
def test_a_page_that_is_not_the_last_is_pointed_out(pages: list[Any], count: int) -> None:
    wrapped = [page if "items" in page else {"data": page} for page in pages]
    reader = read_orders(io.StringIO(lines(*wrapped)))
    while next(reader, None) is not None:
        assert reader.warnings == []  # the last page may not have been read yet
    assert len(reader.warnings) == count
    assert all(text.startswith("there are more orders on a furth") for text in reader.warnings)


def test_an_order_of_shopify_is_judged_by_all_its_rows() -> None:
    further = f"#1,{ANN},,,,,1,Brush,5.00,,,\n"
    cancelled = shopify("#1").removeprefix(SHOPIFY).replace(",,\n", ",,2026-03-02\n")
    reader = read_orders(io.StringIO(f"{SHOPIFY}{further}{cancelled}"))
    assert (list(reader), reader.skipped) == ([], {"cancelled": 1})

    rest = shopify("#1").removeprefix(SHOPIFY)
    for since, count in (("2026-03-01", 1), ("2026-03-02", 0)):
        reader = read_orders(io.StringIO(f"{SHOPIFY}{further}{rest}"), since=since)
        found = list(reader)
        assert [len(order.products) for order in found if isinstance(order, Order)] == [2] * count
        assert (len(found), len(reader.skipped)) == (count, 1 - count)


def test_a_row_of_shopify_apart_from_its_order_is_never_an_order() -> None:
    """Its order may be cancelled: nobody may be notified of it."""
    apart = f"#1,{ANN},,,,,1,Soap,5.00,,,\n"
    cancelled = shopify("#1").replace(",,\n", ",,2026-03-02\n")
    reader = read_orders(io.StringIO(f"{cancelled}{shopify('#2').removeprefix(SHOPIFY)}{apart}"))
    order, fault = reader
    assert isinstance(order, Order)
    assert isinstance(fault, InvalidOrderError)
    assert (fault.line, fault.order_id, reader.skipped) == (4, "#1", {"cancelled": 1})
    reader = read_orders(io.StringIO(shopify("#9", status="")), include="all")
    assert (len(list(reader)), reader.warnings) == (1, [])


def rest_of(text: str) -> str:
    return text.partition("\n")[2]


SOAP = f"#1,{ANN},,,,,1,Soap,5.00,,,\n"
BLOCK = rest_of(shopify("#1")) + SOAP
OWN = "order_id,contact_email,product_name,product_quantity,total\n"
TWICE = "is in the file more than once, and differs: keep the rows that are up to date, and remove"
#: An order that is in a table twice, one after the other: the text, what is read, left out, warned.
IN_A_ROW: dict[str, tuple[str, list[tuple[str, int]], int, int]] = {
    "shopify, equal": (SHOPIFY + BLOCK * 2, [("#1", 2)], 2, 0),
    "shopify, sorted by its rows": (
        SHOPIFY + "".join(line * 2 for line in BLOCK.splitlines(keepends=True)),
        [("#1", 2)],
        2,
        0,
    ),
    "shopify, and was refunded in between": (
        SHOPIFY + (BLOCK + BLOCK.replace("paid", "refunded")) * 2 + BLOCK,
        [(TWICE, 0)],
        7,
        0,
    ),
    "shopify, of which one is later": (
        SHOPIFY + BLOCK + BLOCK.replace("paid", "partially_refunded"),
        [(TWICE, 0)],
        1,
        0,
    ),
    "shopify, and was refunded later": (
        shopify("#1") + rest_of(shopify("#1", status="refunded")),
        [(TWICE, 0)],
        0,
        0,
    ),
    "shopify, the same product in two lines": (
        shopify("#1") + f"#1,{ANN},,,,,2,Mop,10.00,7,,\n",
        [("#1", 2)],
        0,
        0,
    ),
    "shopify, its columns filled in every row": (
        shopify("#1") + rest_of(shopify("#1")).replace("Mop", "Soap"),
        [("#1", 2)],
        0,
        0,
    ),
    "a plugin, equal": (
        AOE + f"7,Completed,2026-03-01,{ANN},9,0,9,Mop,7,1,9\n,,,,,,,Soap,8,1,2\n" * 2,
        [("7", 2)],
        2,
        0,
    ),
    "a plugin, of which one is later": (
        AOE
        + f"7,Completed,2026-03-01,{ANN},9,0,9,Mop,7,1,9\n,,,,,,,Soap,8,1,2\n"
        + f"7,Processing,2026-03-01,{ANN},9,0,9,Mop,7,1,9\n,,,,,,,Soap,8,1,2\n",
        [(TWICE, 0)],
        0,
        0,
    ),
    "own, and each row names the order": (
        OWN + f"7,{ANN},Mop,1,9\n7,{ANN},Soap,1,9\n" * 2 + f"8,{ANN},Mop,1,9\n8,,Soap,1,9\n",
        [("7", 4), ("8", 2)],
        0,
        1,
    ),
    "more copies of a shop's rows than an order has rows": (
        SHOPIFY + BLOCK + SOAP * 10_004,
        [("#1", 2)],
        10_004,
        0,
    ),
    "a shop's, of which one in the middle is damaged": (
        SHOPIFY + BLOCK + SOAP * 2 + "#1,x\n" + SOAP * 2,
        [("line 6", 0)],
        4,
        0,
    ),
    "own, whose id is left out now and then": (
        OWN + f"7,{ANN},Mop,1,9\n7,{ANN},Mop,1,9\n,,Soap,1,\n",
        [("7", 3)],
        0,
        0,
    ),
    "own, as JSON, whose id is left out now and then": (
        lines(
            {"order_id": "7", "contact_email": ANN, "product_name": "Mop"},
            {"order_id": "7", "contact_email": ANN, "product_name": "Brush"},
            {"order_id": None, "contact_email": None, "product_name": "Soap"},
            {"order_id": None, "contact_email": None, "product_name": "Rope"},
        ),
        [("7", 4)],
        0,
        0,
    ),
    "own, and its first row names it": (
        OWN + f"7,{ANN},Mop,1,9\n,,Soap,1,\n" * 2 + f"8,{ANN},Mop,1,9\n",
        [("7", 2), ("8", 1)],
        2,
        0,
    ),
}


@pytest.mark.parametrize("kind", IN_A_ROW)
def test_no_product_is_counted_twice_because_its_order_is_in_the_file_twice(kind: str) -> None:
    text, expected, duplicates, warned = IN_A_ROW[kind]
    reader = read_orders(io.StringIO(text))
    found = list(reader)
    for item, (what, count) in zip(found, expected, strict=True):
        if isinstance(item, InvalidOrderError):
            assert item.faults[0].startswith(what)
        else:
            assert (item.order_id, len(item.products)) == (what, count)
    assert reader.skipped.get("duplicate row", 0) == duplicates
    told = "orders that have all their products more than once: 1 (line 2). If their rows"
    assert [warning[: len(told)] for warning in reader.warnings] == [told] * warned


@pytest.mark.parametrize(
    "text",
    [
        OWN + f"7,{ANN},Mop,1,9\n,,Summe,3,43\n",
        OWN + f"7,{ANN},Mop,1,9\n,,Grand Total:,3,43\n",
        OWN + f"7,{ANN},Mop,1,9\n,,Subtotal October,3,\n,,Total,3,\n",
        OWN + f"7,{ANN},Mop,1,9\nTotal,,,,9\n",
        OWN + f"7,{ANN},Mop,1,9\nTotal,,9\n",
        AOE + f"7,Completed,,{ANN},9,0,9,Mop,7,1,9\n,,,,,,,Total,,33,\n",
    ],
)
def test_a_row_of_totals_is_left_out(text: str) -> None:
    reader = read_orders(io.StringIO(text))
    ((_line, order),) = reader.lines()
    assert len(fields(order)["products"]) == 1
    assert reader.skipped == {"row of totals": text.count("\n") - 2}


@pytest.mark.parametrize(
    "text",
    [
        OWN + f"7,{ANN},Mop,1,9\n,,,3,43\n8,{ANN},Soap,1,2\n",
        shopify("#1") + ",,,5.00,4.90,,33,,,,,\n" + rest_of(shopify("#2")),
    ],
)
def test_a_row_that_names_no_order_and_no_product_is_at_fault_alone(text: str) -> None:
    found = dict(read(text))
    assert isinstance(found[3], InvalidOrderError)
    assert found[3].faults[0].startswith("has no id of an order, and names no product: remove it")
    assert [len(fields(found[line])["products"]) for line in (2, 4)] == [1, 1]


def test_a_damaged_row_of_an_order_is_no_row_of_totals() -> None:
    """Else the order would be sent without that product."""
    damaged = "#1,,,,,,1,Total,5.00\n"
    found = read(shopify("#1") + damaged + rest_of(shopify("#2")))
    assert [(line, isinstance(item, Order)) for line, item in found] == [(2, False), (4, True)]


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
    rows = (
        f"{n},{word},2026-01-15 12:00,{ANN},108,0,108,Mop,7,2,54.00\n"
        for n, word in enumerate(words)
    )
    reader = read_orders(io.StringIO(AOE + "".join(rows)))
    found = brief(list(reader.lines()))
    assert [id_ for _line, id_ in found] == ["0", "1", "2"]
    reasons = ("cancelled", "refunded", "failed", "unpaid", "draft")
    assert (reader.skipped, reader.warnings) == (dict.fromkeys(reasons, 1), [])


@pytest.mark.parametrize(
    ("where", "advice"),
    [
        ((), "--where 'Order Status!=Wrapped,Ann'\"'\"'s,Odd'"),
        (("Order Status!=Odd",), None),  # the user knows of it
        (("Order Status=wrapped",), None),
        (("Item Name=Mop",), "--where 'Order Status!=Wrapped,Ann'\"'\"'s,Odd'"),
    ],
)
def test_a_warning_of_unknown_statuses_has_the_option_to_copy(
    where: tuple[str, ...], advice: str | None
) -> None:
    words = ("Wrapped", "Ann's", "Odd", '"a,b"', "x@y")
    rows = (f"{n},{word},,{ANN},1,0,1,Mop,7,1,1\n" for n, word in enumerate(words))
    reader = read_orders(io.StringIO(AOE + "".join(rows)), where=where)
    assert sum(1 for _order in reader) == sum(reader.unknown_statuses.values())
    warnings = reader.warnings
    assert [text.partition("get an e-mail about them: ")[2] for text in warnings] == (
        [] if advice is None else [advice]
    )


@pytest.mark.parametrize(
    ("text", "column"),
    [
        (
            f"Name,Email,Lineitem quantity,Lineitem name,Lineitem price\n#1,{ANN},1,Mop,1\n",
            "Financial Status",
        ),
        (
            json.dumps([{key: value for key, value in woo(1, "").items() if key != "status"}]),
            "status",
        ),
        (json.dumps([woo(1, "completed")]), None),
    ],
)
def test_an_export_of_a_shop_without_its_status_is_pointed_out(
    text: str, column: str | None
) -> None:
    reader = read_orders(io.StringIO(text))
    assert len(list(reader)) == 1
    assert [warning.partition(",")[0] for warning in reader.warnings] == (
        [] if column is None else [f"there is no '{column}'"]
    )


# ------------------------------------------------------------------------------------------ where

OWN = f"nr,mail,item,State\n1,{ANN},Mop,done\n2,{ANN},Mop,Open\n3,{ANN},Mop,\n,,Soap,\n4,{ANN},x,\n"
OWN_MAPPING = {"order_id": "nr", "contact_email": "mail", "product_name": "item"}


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
    ],
)
def test_only_orders_for_which_the_conditions_hold_are_read(
    where: Any, ids: str, left_out: dict[str, int]
) -> None:
    reader = read_orders(io.StringIO(OWN), mapping=OWN_MAPPING, where=where)
    assert "".join(order.order_id for order in reader if isinstance(order, Order)) == ids  # type: ignore[misc]
    assert reader.skipped == left_out


STATES = ["Bezahlt"] * 12 + ["offen"] * 4 + ["storniert"] * 2 + [""]
STATES_ARE = "There are Bezahlt (12), offen (4), storniert (2)"


def own(states: Sequence[str], name: str = "Zahlungsstatus") -> str:
    """A table with an order for each state."""
    return f"nr,mail,item,{name}\n" + "".join(
        f"{n},{n}@example.com,Mop,{state}\n" for n, state in enumerate(states)
    )


@pytest.mark.parametrize(
    ("states", "where", "warning"),
    [
        (STATES, "{}!=STORNIERT", None),
        (STATES, "{}=bezahlt,offen", None),
        (STATES, "{}!=", None),
        (
            STATES,
            "{}!=stornirt",
            f"'stornirt' in 'Zahlungsstatus': did you mean 'storniert'? {STATES_ARE}",
        ),
        # As of a day without such orders.
        (STATES, "{}!=storniert,refunded", None),
        (STATES, "{}!=void,refunded", None),
        (STATES, "{}!=unbezahlt", None),
        (
            STATES,
            "{}!=void,stornirt",
            f"'stornirt', 'void' in 'Zahlungsstatus': did you mean 'storniert'? {STATES_ARE}",
        ),
        (
            STATES,
            "{}=bezahlt,ofen",
            f"'ofen' in 'Zahlungsstatus': did you mean 'offen'? {STATES_ARE}",
        ),
        # As of a shop that has few orders a day.
        (STATES, "{}=bezahlt,on-hold", None),
        ([f"x{n}" for n in range(30)], "{}!=x99", None),
        (
            ["voided", "a@b.example", "y" * 99, "\x07"],
            "{}!=voidd",
            "'voidd' in 'Zahlungsstatus': did you mean 'voided'? There are others (3), voided (1)",
        ),
        ([], "{}!=void", None),
    ],
)
def test_a_value_of_a_condition_that_no_order_has_is_pointed_out(
    states: Sequence[str], where: str, warning: str | None
) -> None:
    where = where.format("Zahlungsstatus")
    reader = read_orders(io.StringIO(own(states)), mapping=OWN_MAPPING, where=where)
    assert next(reader, None) is not None or not states
    assert reader.warnings == []  # another order may have it
    assert sum(1 for _order in reader) <= len(states)
    assert reader.warnings == ([] if warning is None else [f"where: no order has {warning}"])


def test_the_values_of_a_column_that_may_be_of_persons_are_not_shown() -> None:
    names = ["Ann Miller", "Bea Miller"]
    for states, shown in (
        (names, ""),
        (names * 10, ": did you mean 'Ann Miller'? There are Ann Miller (10), Bea Miller (10)"),
    ):
        text = own(states, "Kanal")
        reader = read_orders(io.StringIO(text), mapping=OWN_MAPPING, where="Kanal=Ann Miler")
        message = f"where: no order has 'ann miler' in 'Kanal'{shown}"
        with pytest.raises(ConfigurationError, match=f"^{re.escape(message)}$"):
            list(reader)


def test_objects_are_no_values_to_show() -> None:
    mapping = {"contact_email": "m", "product_name": "p", "products": "l"}
    orders = [{"m": "a@b.example", "l": [{"p": "Mop"}], "state": {"by": "Ann"}, "tags": [[1], "x"]}]
    for where, message in (
        ("state=x", "where: no order has 'x' in 'state'"),
        ("tags=y", "where: no order has 'y' in 'tags'"),
    ):
        reader = read_orders(io.StringIO(json.dumps(orders)), mapping=mapping, where=where)
        with pytest.raises(ConfigurationError, match=f"^{message}$"):
            list(reader)


def test_orders_that_the_shop_leaves_out_have_a_value_too() -> None:
    text = json.dumps([woo(1, "cancelled", kind="x"), woo(2, "completed", kind="y")])
    reader = read_orders(io.StringIO(text), where=["status!=cancelled", "kind!=x"])
    assert (sum(1 for _order in reader), reader.warnings) == (1, [])


@pytest.mark.parametrize("where", ["Zahlungsstatus=bezalt", ["mail!=", "Zahlungsstatus=bezalt"]])
def test_a_condition_that_leaves_no_order_because_of_its_value_is_an_error(where: Any) -> None:
    reader = read_orders(io.StringIO(own(STATES)), mapping=OWN_MAPPING, where=where)
    message = (
        f"where: no order has 'bezalt' in 'Zahlungsstatus': did you mean 'Bezahlt'? {STATES_ARE}"
    )
    with pytest.raises(ConfigurationError, match=f"^{re.escape(message)}$"):
        list(reader)
    assert reader.warnings == []
    # Nothing is wrong where the orders are left out by something else.
    where = ["item=Rope,Mop", "nr!=0"]
    assert list(read_orders(io.StringIO(own(["paid"])), mapping=OWN_MAPPING, where=where)) == []


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


@pytest.mark.parametrize(
    ("text", "mapping", "kind"),
    [
        (OWN, OWN_MAPPING, "column"),
        (json.dumps([woo(1, "processing", State="x")]), None, "key"),
        ('{"State": 1, "contact_email": "a@b", "products": [{}]}', None, "key"),
    ],
)
@pytest.mark.parametrize("where", ["Stat=done", "Stat!=done"])
def test_a_condition_on_what_is_not_there_is_refused(
    text: str, mapping: Any, kind: str, where: str
) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"where: there is no {kind} 'Stat': did you mean "
    ):
        read(text, mapping=mapping, where=where)


@pytest.mark.parametrize(
    ("states", "is_pointed_out"),
    [
        (["paid", "open"], True),
        (["paid", "", "paid"], True),
        (["paid"] * 3, False),  # it leaves none out
        ([""] * 3, False),
        (["paid"], False),
        (["Cancelled"] * 3, True),
    ],
)
@pytest.mark.parametrize("is_json", [False, True])
def test_a_status_that_nothing_uses_is_pointed_out(
    states: list[str], is_pointed_out: bool, is_json: bool
) -> None:
    text = own(states, "State")
    if is_json:
        text = lines(*csv.DictReader(io.StringIO(text)))
    warning = "'State' looks like the status of an order, and nothing uses it"
    reader = read_orders(io.StringIO(text), mapping=OWN_MAPPING)
    list(reader)
    assert [text.partition(":")[0] for text in reader.warnings] == [warning] * is_pointed_out
    reader = read_orders(io.StringIO(text), mapping=OWN_MAPPING, where="State!=x")
    list(reader)
    assert reader.warnings == []


@pytest.mark.parametrize(
    ("name", "values", "is_pointed_out"),
    [
        ("Payment", ["Paid", "Refunded"], True),
        ("Zahlung", ["bezahlt", "storniert"], True),
        ("Payment", ["PayPal", "Invoice"], False),
    ],
)
def test_a_status_under_another_name_is_known_by_orders_that_came_to_nothing(
    name: str, values: list[str], is_pointed_out: bool
) -> None:
    text = own(values, name)
    reader = read_orders(io.StringIO(text), mapping=OWN_MAPPING)
    list(reader)
    warning = f"'{name}' looks like the status of an order, and nothing uses it"
    assert [text.partition(":")[0] for text in reader.warnings] == [warning] * is_pointed_out
    assert suggest_mapping(io.StringIO(text)).status == (name if is_pointed_out else None)


def test_columns_that_tell_nothing_hide_no_status() -> None:
    names = [f"status{n}" for n in range(9)]
    rows = (f"{n},{ANN},Mop,{',' * 8}{state}\n" for n, state in enumerate(("paid", "void")))
    text = f"nr,mail,item,{','.join(names)}\n{''.join(rows)}"
    reader = read_orders(io.StringIO(text), mapping=OWN_MAPPING)
    assert sum(1 for _order in reader) == 2
    assert [text.partition(" ")[0] for text in reader.warnings] == ["'status8'"]


def test_further_rows_of_an_order_have_no_status() -> None:
    text = f"nr,mail,item,State\n1,{ANN},Mop,done\n,,Soap,\n2,{ANN},Mop,done\n2,,Mop,\n"
    reader = read_orders(io.StringIO(text), mapping=OWN_MAPPING)
    assert sum(1 for _order in reader) == 2
    assert "State" not in "".join(reader.warnings)


@pytest.mark.parametrize(
    ("states", "where", "words"),
    [
        # As `check --suggest` proposes it.
        (
            ["paid", "Cancelled", "storniert"],
            "State=paid,Cancelled,storniert",
            "cancelled', 'storn",
        ),
        (["paid", "Refunded"], {"State": ["paid", "Refunded", "open"]}, "refunded"),
        (["paid", "cancelled"], "State=paid", None),
        (["paid", "cancelled", "x"], "State=paid,cancelled", None),  # it leaves one out
        (["paid", "paid"], "State=paid,cancelled", None),
        (["cancelled", "refunded"], "State=cancelled,refunded", None),  # they are what is meant
        (["paid", "open"], "State=paid,open", None),
        (["paid", "open"], "State!=cancelled", None),
    ],
)
def test_a_condition_that_leaves_out_no_cancelled_order_is_pointed_out(
    states: list[str], where: Any, words: str | None
) -> None:
    reader = read_orders(io.StringIO(own(states, "State")), mapping=OWN_MAPPING, where=where)
    while next(reader, None) is not None:
        assert reader.warnings == []
    assert len(reader.warnings) == (words is not None)
    if words is not None:
        start = "where: the values of 'State' leave out no order, and among them is '"
        assert reader.warnings[0].startswith(f"{start}{words}")


# ------------------------------------------------------------------------- how a file is written

HOME = (
    "Bestellnr;E-Mail;Artikel;Stück;Preis;Summe;Datum\n"
    f"0017;{ANN};Müsli \N{EN DASH} „best“;1,5;1.250,00;€ 2.500,00;31.12.2025\n"
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


@pytest.mark.parametrize(
    ("encoding", "named"),
    [
        ("utf-8", None),
        ("utf-8-sig", None),
        ("utf-16", None),
        ("utf-16", "utf-16"),
        ("utf-16-le", "utf-16-le"),
        ("utf-32", None),
        ("cp1252", "cp1252"),
        ("cp1252", "Windows-1252"),
        ("cp1252", "latin1"),
        ("cp1252", "ISO-8859-1"),
    ],
)
@pytest.mark.parametrize("suffix", ["", "packed"])
def test_a_file_is_read_in_its_encoding(encoding: str, named: str | None, suffix: str) -> None:
    import gzip  # noqa: PLC0415

    data = HOME.encode(encoding)
    if suffix:
        data = gzip.compress(data)
    for since, count in (("2025-12-31", 1), ("2026-01-01", 0)):
        items = read(data, mapping=HOME_MAPPING, since=since, encoding=named, **GERMAN)
        assert len(items) == count
        for _line, order in items:
            found = fields(order)
            assert (found["order_id"], found["total"]) == ("0017", "2500.00")
            assert [tuple(map(product.get, PRODUCT)) for product in found["products"]] == [
                ("Müsli \N{EN DASH} „best“", D("1250.00"), D("1.5"), None, None)
            ]


@pytest.mark.parametrize("header", [HOME.partition("\n")[0] + "\n", HOME.replace("ü", "u")])
def test_a_table_that_is_not_utf_8_is_refused_before_its_first_order(header: str) -> None:
    good = f"1;{ANN};Mop;1;1;1;2025-01-01\n".encode()
    last = HOME.rpartition("\n0017")[2].encode("cp1252")
    data = header.encode("cp1252") + good * 5_000 + b"9" + last
    with pytest.raises(ConfigurationError, match=r"^line [0-9,]+ is not UTF-8: name the encoding, "
                       "such as with --encoding cp1252"):  # fmt: skip
        next(read_orders(io.BytesIO(data), mapping={**HOME_MAPPING, "product_quantity": None}))


def orders_in(kind: str, name: str) -> str:
    """Three orders, of whose second this is a product."""
    rows = [("1", "Mop"), ("2", name), ("3", "Mop")]
    if kind == "csv":
        return "order_id,contact_email,product_name\n" + "".join(
            f"{order_id},{ANN},{product}\n" for order_id, product in rows
        )
    orders = [
        f'{{"order_id": "{order_id}", "contact_email": "{ANN}", "products": [{{"product_name": '
        f'"{product}"}}]}}'
        for order_id, product in rows
    ]
    return "\n".join(orders) if kind == "jsonl" else "[\n" + ",\n".join(orders) + "]"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "json"])
@pytest.mark.parametrize(
    ("named", "written", "name", "message"),
    [
        (None, "cp1252", "M\xf6p", "is not UTF-8: name the encoding, such as with --encoding cp12"),
        (
            "utf-8",
            "cp1252",
            "M\xf6p",
            "is not UTF-8: name the encoding, such as with --encoding cp1",
        ),
        (
            "ascii",
            "cp1252",
            "M\xf6p",
            "is not ascii: name its encoding with --encoding, or save the",
        ),
        (
            "cp1252",
            "latin-1",
            "\x81",
            "is not cp1252: name its encoding with --encoding, or save it",
        ),
    ],
)
def test_a_file_in_another_encoding_is_refused_and_of_a_pipe_the_order_that_shows_it(
    named: str | None, written: str, name: str, message: str, kind: str, packed: bool
) -> None:
    import gzip  # noqa: PLC0415

    data = orders_in(kind, name).encode(written)
    line = 2 if kind == "jsonl" else 3
    with pytest.raises(ConfigurationError, match=f"^line {line} {message[:40]}"):
        read(gzip.compress(data) if packed else data, encoding=named)
    (_, first), (_, fault), (_, last) = brief(list(read_orders(Pipe(data), encoding=named).lines()))
    assert (first, last) == ("1", "3")
    assert re.match("is not .*: name its encoding with --encoding", fault)


@pytest.mark.parametrize("written", ["utf-16", "utf-32"])
def test_text_that_was_cut_off_within_a_character_is_refused(written: str) -> None:
    for data in (
        orders_in("csv", "Mop").encode(written)[:-1],
        orders_in("csv", "M\ud800p").encode(written, "surrogatepass"),
    ):
        for file in (io.BytesIO(data), Pipe(data)):
            with pytest.raises(SourceError, match=f"{written}: was it cut off\\? Export"):
                list(read_orders(file))


@pytest.mark.parametrize("written", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "json"])
def test_utf_16_without_a_byte_order_mark_is_refused_with_its_name(kind: str, written: str) -> None:
    data = orders_in(kind, "M\xf6p").encode(written)
    with pytest.raises(ConfigurationError, match=f"name its encoding: --encoding {written}$"):
        read(data)
    with pytest.raises(ConfigurationError, match=f"encoding: --encoding {written}$"):
        read(data, kind)
    with pytest.raises(ConfigurationError, match="has no byte-order mark: name its encoding: utf-"):
        read(data, encoding=written[:-3])
    assert len(read(data, encoding=written)) == 3


@pytest.mark.parametrize(
    ("options", "data", "message"),
    [
        ({"encoding": "cp9999"}, b"", "encoding: there is no 'cp9999'"),
        ({"encoding": "base64"}, b"", "encoding: there is no 'base64'"),
        (
            {"encoding": "cp1252"},
            HOME.encode("utf-16"),
            "its byte-order mark says that it is UTF-16",
        ),
        (
            {"encoding": "cp1252"},
            HOME.encode("utf-8-sig"),
            "mark says that it is UTF-8, and not cp",
        ),
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
    with pytest.raises(ConfigurationError, match=message):
        list(read_orders(io.BytesIO(data), mapping=HOME_MAPPING, **options))


@pytest.mark.parametrize(
    ("text", "options", "number"),
    [
        ("1,250.00", {"thousands": ","}, "1250.00"),
        ("1,25,000.5", {"thousands": ","}, "125000.5"),
        ("1.250,00", {"decimal": ",", "thousands": "."}, "1250.00"),
        ("1'250.00", {"thousands": "'"}, "1250.00"),
        ("1\u2019250", {"thousands": "'"}, "1250"),
        ("1\u00a0250,5", {"decimal": ",", "thousands": " "}, "1250.5"),
        ("R 10.00", {"decimal": "."}, "10.00"),
        ("R1,250.00", {"thousands": ","}, "1250.00"),
        ("-€ 1.250,00", {"decimal": ",", "thousands": "."}, "-1250.00"),
        ("1.250,00 EUR", {"decimal": ",", "thousands": "."}, "1250.00"),
        ("10,00", {"decimal": ","}, "10.00"),
        ("10,00 kr.", {"decimal": ","}, "10.00"),
        ("US$10.00", {"decimal": "."}, "10.00"),
        ("10.00", {"decimal": ","}, None),
        ("10 %", {"decimal": ","}, None),
        ("(5,00)", {"decimal": ","}, None),
        ("($10.00)", {"decimal": "."}, None),
        ("10.00 CR", {"decimal": "."}, None),
        ("10.00 DR", {"decimal": "."}, None),
        ("10,00", {"thousands": ","}, None),
        ("12,50", {"thousands": ","}, None),
        ("1.250,00", {"decimal": ","}, None),
        ("12 34", {"thousands": " "}, None),
        ("", {"thousands": ","}, ""),
    ],
)
def test_numbers_are_read_in_the_notation_that_is_named_and_no_other(
    text: str, options: dict[str, str], number: str | None
) -> None:
    ((_line, order),) = read(shopify("#1", total=text, price=text), **options)
    if number is None:
        assert isinstance(order, InvalidOrderError)
        assert f"total: expected a number with {options.get('decimal', '.')!r}" in str(order)
        assert str(order).endswith(f"found {text!r}")
        return
    found = fields(order)
    assert found.get("total", "") == number
    product = found["products"][0]
    assert str(product.get("product_price", "")) == number
    if number:
        assert product["product_line_total"] == 2 * D(number)


@pytest.mark.parametrize(
    ("written", "date_format", "message"),
    [
        ("01/03/2026 10:00", None, ("found '01/03/2026 10:00': say how it is written, such as "
                                   "--date-format '%d/%m/%Y %H:%M'")),
        ("31.12.2025", None, ("found '31.12.2025': say how it is written, such as --date-format "
                             "'%d.%m.%Y'")),
        ("12/31/2025", "%d.%m.%Y", "expected a time written as %d.%m.%Y, found '12/31/2025'"),
        ("Ann", None, "expected a time such as 2026-03-01T08:00:00"),
        ("12 High Street", "%d.%m.%Y", "expected a time written as %d.%m.%Y"),
    ],
)  # fmt: skip
def test_a_date_that_can_not_be_read_is_quoted_with_a_way_out(
    written: str, date_format: str | None, message: str
) -> None:
    text = shopify("#1").replace("2026-03-01 10:00:00 +0200", written)
    ((_line, error),) = read(text, since="2025-01-01", date_format=date_format)
    assert str(error).startswith("line 2: date: expected a time")
    assert str(error).endswith(message)


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
    first, second = read_orders(
        io.StringIO(f"{shopify('#1')}#1,,,,,,1,Soap,5.00,,1.00,\n#2,x,paid,,,,1,Soap,5,,,\n")
    ).traced()
    assert first.origins["products[1].product_name"] == "Lineitem name"
    assert first.origins["products[1].product_line_total"] == (
        "computed from Lineitem price, Lineitem quantity, Lineitem discount"
    )
    assert first.origins["products[0].product_line_total"] == (
        "computed from Lineitem price, Lineitem quantity"
    )
    assert (type(second.order), second.origins["order_id"]) == (InvalidOrderError, "Name")
    own = '{"contact_email": "a@b", "products": [{"product_name": "Mop"}]}\nx\n'
    plain, broken = read_orders(io.StringIO(own)).traced()
    assert list(plain.origins) == ["contact_email", "products[0].product_name"]
    assert broken.origins == {}


# ---------------------------------------------------------------------------- what is not known


@pytest.mark.parametrize("text", [HOME, json.dumps([{"nr": 1, "mail": ANN, "lines": []}])])
def test_what_is_not_known_is_refused_with_its_names_and_the_next_steps(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(text)
    for part in (
        "check --suggest",
        'how-to "Send a file with your own columns"',
        "contact_email, ",
    ):
        assert part in str(caught.value)
    assert "'E-Mail', 'Artikel'" in str(caught.value) or "'nr', 'mail'" in str(caught.value)
    assert "--map 'contact_email=" in str(caught.value)
    assert ANN not in str(caught.value)


ONE_LIST = {"data": {"list": [{"mail": ANN, "goods": [{"what": "Mop"}]}]}}
AT_LIST = "its orders seem to be at 'data.list': add --map each=data.list. As it is:"
LIST_MAPPING = {"contact_email": "mail", "products": {"each": "goods", "product_name": "what"}}


@pytest.mark.parametrize(
    ("value", "mapping", "message"),
    [
        (ONE_LIST, {"each": "data.lists"}, "each: there is no key 'lists': did you mean 'list'"),
        (ONE_LIST, {"each": "dat.list"}, "each: there is no key 'dat': did you mean 'data'"),
        (ONE_LIST, {"each": "data.list.goods"}, "each: there is no list of orders at 'data.list"),
        ([ONE_LIST], {"each": "data.list"}, "each: there is no list of orders at 'data.list'"),
        (
            ONE_LIST["data"]["list"],
            {"products": {"each": "good"}},
            "products: there is no key 'good': did you mean 'goods'",
        ),
        (ONE_LIST["data"]["list"], {"group_by": "no"}, "group_by: there is no key 'no'"),
        (
            [{"mail": ANN}, {"no": 1, "mail": ANN}],
            {"group_by": "no", "products": {"product_name": "mail"}},
            "group_by: there is no key 'no'",
        ),
        (
            [{"mail": ANN}, {"no": 1, "mail": ANN}],
            {"order_id": "no", "group_by": "no", "products": {"product_name": "mail"}},
            "group_by: there is no key 'no'",
        ),
        (
            [{"mail": ANN, "basket": {"lines": [{"what": "Mop"}]}}] * 2,
            {"products": {"each": "basket.line"}},
            "products: there is no key 'line': did you mean 'lines'",
        ),
        (ONE_LIST, {"each": None}, f"{AT_LIST} contact_email: there is no key 'mail'. The keys"),
        (ONE_LIST, {"each": None, "order_id": "data"}, f"{AT_LIST} contact_email: there is no"),
        (ONE_LIST, {"each": None, "contact_email": "data.list", "products": "x"}, f"{AT_LIST} pro"),
    ],
)
@pytest.mark.parametrize("layout", ["a line", "a document"])
def test_a_path_that_finds_no_orders_is_an_error(
    value: Any, mapping: Any, message: str, layout: str
) -> None:
    text = json.dumps(value, indent=1 if layout == "a document" else None)
    with pytest.raises(ConfigurationError, match=message):
        read(text, mapping={**LIST_MAPPING, **mapping})
    assert brief(read(json.dumps(ONE_LIST), mapping={**LIST_MAPPING, "each": "data.list"})) == [
        (1, "None")
    ]


def test_a_list_of_orders_in_an_object_of_any_name_is_found() -> None:
    orders = {"payload": {"x": [1, {}], "list": [{"nr": 1, "mail": ANN, "total": 5}, {"nr": 2}]}}
    shops = {"payload": [woo(1, "completed")]}
    for value, path in ((orders, "payload.list"), (shops, "payload")):
        with pytest.raises(ConfigurationError, match=f"add --map each={path}. As it is: none of"):
            read(json.dumps(value))
        found = suggest_mapping(io.StringIO(json.dumps(value)))
        assert found.mapping["each"] == path
        assert read(json.dumps(value), mapping=found.mapping)[0][0] == 1
    assert suggest_mapping(io.StringIO(json.dumps(orders))).mapping["contact_email"] == "mail"
    # A path can't lead through a key that holds a dot.
    for dotted in ({"a.b": orders["payload"]["list"]}, {"a.b": orders["payload"]}):
        assert "each" not in suggest_mapping(io.StringIO(json.dumps(dotted))).mapping
        for text in (json.dumps(dotted), json.dumps([dotted])):
            with pytest.raises(ConfigurationError, match=r"^none of the keys"):
                read(text)
    # What an order has in lists is no order.
    order = {"nr": 1, "mail": ANN, "copies": [{"mail": ANN}]}
    assert "each" not in suggest_mapping(io.StringIO(json.dumps(order))).mapping
    with pytest.raises(ConfigurationError, match=r"^none of the keys"):
        read(json.dumps(order))
    ((_number, fault),) = brief(read(json.dumps({"payload": [{"mail": "x" * 999}] * 3_000})))
    assert fault.endswith(
        "characters: if it is a list of orders, say where, as with --map each=PATH"
    )


def test_a_column_that_does_not_exist_is_named_with_those_that_do() -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(HOME, mapping={**HOME_MAPPING, "order_id": "Bestellnummer"})
    assert str(caught.value) == (
        "order_id: there is no column 'Bestellnummer': did you mean 'Bestellnr'? The columns are "
        "'Bestellnr', 'E-Mail', 'Artikel', 'Stück', 'Preis', 'Summe', 'Datum'"
    )


def test_of_many_columns_the_nearest_and_the_first_are_named() -> None:
    columns = [f"Angabe {number}" for number in range(36)]
    text = ",".join([*columns, "Bestellnr"]) + "\n" + ",".join("7" * 37) + "\n"
    with pytest.raises(ConfigurationError) as caught:
        read(text, mapping={"order_id": "Bestellnummer", "contact_email": "Angabe 1"})
    assert "did you mean 'Bestellnr'? The columns are 'Angabe 0', 'Angabe 1', " in str(caught.value)
    assert str(caught.value).endswith(", 'Angabe 11' and 25 more")


TITLED = f"order_id,contact_email,product_name\n1,{ANN},Mop\n"


@pytest.mark.parametrize(
    ("above", "below", "mapping"),
    [
        ("Orders of March\n\n", TITLED, None),
        ("\nOrders of March,,\n,,\n", TITLED, None),
        ('"Orders, all"\n', TITLED.replace(",", ";"), None),
        ("Orders\n", TITLED.replace(",", "\t"), None),
        ("sep=;\nOrders, all\n", TITLED.replace(",", ";"), None),
        ("Report\n" * 20, HOME, HOME_MAPPING),
        ("", TITLED.replace("product_name", '"product_name"'), None),
        (
            "",
            '"order\nid","contact_email","product_name"\n1,a@b.c,Mop\n',
            {"order_id": "order\nid"},
        ),
    ],
)
def test_a_title_above_the_header_is_left_out(above: str, below: str, mapping: Any) -> None:
    options: Any = {} if mapping is not HOME_MAPPING else GERMAN
    found = read_orders(io.StringIO(above + below), "csv", mapping=mapping, **options).lines()
    expected = read_orders(io.StringIO(below), "csv", mapping=mapping, **options).lines()
    moved = [(number + above.count("\n"), order) for number, order in expected]
    assert isinstance(moved[0][1], Order)
    assert list(found) == moved


@pytest.mark.parametrize(
    ("text", "mapping", "row"),
    [
        ("Orders, all\n" + TITLED.replace(",", ";"), None, 2),
        (f"Report,by me,,,,,\nof March,2026,,,,,\n{HOME}", HOME_MAPPING, 3),
        (
            "Report,by me,\nNr,Wer,Was\n1,a@b.example,Mop\n",
            {"order_id": "Nr", "contact_email": "Wer"},
            2,
        ),
        ("Report,,\n1,a@b.example,Mop\n", {"order_id": "Nr", "contact_email": "Wer"}, None),
        (TITLED, {"order_id": "order"}, None),
    ],
)
def test_a_title_above_the_header_is_pointed_out_and_no_mapping_is_proposed(
    text: str, mapping: Any, row: int | None
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        list(read_orders(io.StringIO(text), "csv", mapping=mapping))
    told = f"row {row} looks like the header: remove the rows above it"
    assert (str(caught.value) == told) == (row is not None)
    if row is not None and mapping in (None, HOME_MAPPING):  # its words are known
        with pytest.raises(ConfigurationError, match=f"^{told}$"):
            suggest_mapping(io.StringIO(text), "csv")


def test_the_rows_in_which_a_header_was_looked_for_are_those_of_a_suggestion() -> None:
    found = suggest_mapping(io.StringIO('Wer,Was\na@b.example,"Mop,\nred"\n\nb@b.example,Mop\n'))
    assert found.mapping == {"contact_email": "Wer"}


def test_skus_that_a_spreadsheet_shortened_are_pointed_out() -> None:
    text = shopify("#1", "#2").replace(",7,,", ",5.84E+12,,")
    reader = read_orders(io.StringIO(text))
    assert [order.products[0].product_sku for order in reader] == ["5.84E+12"] * 2  # type: ignore[union-attr]
    assert [warning.partition(".")[0] for warning in reader.warnings] == [
        "product_sku that a spreadsheet shortened: 2"
    ]


# ------------------------------------------------------------------------------------ suggestions


@pytest.mark.parametrize(
    ("data", "mapping", "options", "status", "missing", "unused"),
    [
        (
            HOME.encode("cp1252"),
            HOME_MAPPING,
            {"encoding": "cp1252", **GERMAN},
            None,
            [],
            [],
        ),
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
                {"nr": 1, "kunde": {"mail": ANN, "x": [1]}, "basket": {"lines": [
                    {"title": "Mop", "unitPrice": "1,50", "qty": 2, "pics": [{"name": "x"}]}
                ]}, "grandTotal": "3,00", "state": "done", "a{b": 1}
            ).encode(),
            {
                "contact_email": "kunde.mail",
                "order_id": "nr",
                "total": "grandTotal",
                "products": {
                    "each": "basket.lines",
                    "product_name": "title",
                    "product_quantity": "qty",
                    "product_price": "unitPrice",
                },
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
            {
                "contact_email": "mail",
                "order_id": "nr",
                "total": "total",
                "products": {
                    "each": "x",
                    "product_name": "title",
                    "product_quantity": "qty",
                    "product_price": "price",
                },
            },
            {"encoding": "cp1252"},
            None,
            [],
            [],
        ),
    ],
    ids=["home-made", "english", "nested", "JSON of Windows"],
)  # fmt: skip
def test_a_mapping_is_proposed_and_says_what_it_could_not_find(
    data: bytes, mapping: Any, options: Any, status: Any, missing: Any, unused: Any
) -> None:
    import tomllib  # noqa: PLC0415

    found = suggest_mapping(io.BytesIO(data))
    assert not found.is_known
    assert (found.mapping, found.options, found.status) == (mapping, options, status)
    assert (list(found.missing), list(found.unused)) == (missing, unused)
    text = found.to_toml()
    assert tomllib.loads(text)["mapping"] == mapping
    assert all(f"# {field}: not found" in text for field in missing)
    if not missing:
        read_back = tomllib.loads(text)["mapping"]
        (item,) = read_orders(io.BytesIO(data), mapping=read_back, **found.options)
        assert isinstance(item, Order)


EMAILS = [f"k{n}@example.com" for n in range(3)]
SHOP = ["till@shop.example"] * 3


@pytest.mark.parametrize(
    ("columns", "contact", "others"),
    [
        ({"Verkäufer-E-Mail": SHOP, "Kunden-E-Mail": EMAILS}, "Kunden-E-Mail", "Verkäufer-E-Mail"),
        (
            {"Verkäufer-E-Mail": SHOP[:1], "Kundenmail": EMAILS[:1]},
            "Kundenmail",
            "Verkäufer-E-Mail",
        ),
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
    if form == "CSV":
        texts = [";".join(["Nr", *columns])]
        texts += [";".join([f"{n}", *row.values()]) for n, row in enumerate(rows)]
        found = suggest_mapping(io.StringIO("\n".join(texts)))
    else:
        found = suggest_mapping(io.StringIO(lines(*({"nr": 1, **row} for row in rows))))
    assert found.mapping.get("contact_email") == contact
    assert list(found.other_contacts) == ([] if others is None else [others])
    assert ("contact_email" in found.missing) == (contact is None)
    note = f'# E-mail addresses, too; contact_email has to be the customers\': "{others}"'
    assert (note in found.to_toml()) == (others is not None)


def test_words_of_tills_are_known() -> None:
    for id_ in (
        "Kassenbon",
        "Bonnummer",
        "Beleg-Nr.",
        "Rechnungsnummer",
        "Kassabon",
        "Factuurnummer",
    ):
        found = suggest_mapping(io.StringIO(f"{id_};E-Mail;Omschrijving\n1;{ANN};Mop\n"))
        assert found.mapping == {
            "contact_email": "E-Mail", "order_id": id_, "product_name": "Omschrijving"
        }  # fmt: skip


@pytest.mark.parametrize(
    ("emails", "warning"),
    [
        (SHOP * 4, "12 of 12 orders have the same contact"),
        (SHOP * 9 + EMAILS, "27 of 30 orders have the same contact"),
        (EMAILS + SHOP * 9, "27 of 30 orders have the same contact"),
        (SHOP * 8 + EMAILS, None),
        (SHOP * 3, None),
        (EMAILS * 10, None),
    ],
)
def test_orders_that_nearly_all_have_one_contact_are_pointed_out(
    emails: Sequence[str], warning: str | None
) -> None:
    """It is the shop's own address, or a test."""
    text = "nr,who,mail,item\n" + "".join(f"{n},x,{each},Mop\n" for n, each in enumerate(emails))
    reader = read_orders(io.StringIO(text), mapping=OWN_MAPPING)
    assert sum(1 for _order in reader) == len(emails)
    column = ": if 'mail' is not the customers', map contact_email to another column"
    assert reader.warnings == ([] if warning is None else [f"{warning}{column}"])


def test_a_total_that_differs_within_an_order_is_proposed_as_that_of_the_line() -> None:
    text = "order number,email,item,total\n1,a@b.example,Mop,5\n{},a@b.example,Soap,7\n"
    for second, field in (("1", "product_line_total"), ("2", "total")):
        found = suggest_mapping(io.StringIO(text.format(second)))
        assert found.mapping[field] == "total"
        assert ("total" in found.missing) == (field != "total")


#: In each language: the id, the customer's address, a product's name, quantity and price, the
#: total, the date, and the status.
OWN_LANGUAGES = {
    "de": "Bestell-Nr.,E-Mail,Artikelbezeichnung,Menge,Einzelpreis,Gesamtbetrag,Datum,Status",
    "nl": "Bestelnummer,E-mail klant,Omschrijving,Aantal,Prijs,Totaalbedrag,Besteldatum,Toestand",
    "fr": "N° de commande,Courriel,Désignation,Quantité,Prix unitaire,Montant total,Date,Statut",
    "es": "Número de pedido,Correo,Descripción,Cantidad,Precio,Importe,Fecha,Estado",
    "it": "Numero ordine,Email cliente,Prodotto,Quantità,Prezzo,Totale,Data ordine,Stato",
    "pt": "Número do pedido,E-mail,Produto,Quantidade,Preço,Valor total,Data do pedido,Situação",
}


@pytest.mark.parametrize("language", OWN_LANGUAGES)
def test_columns_are_known_in_the_languages_of_shops(language: str) -> None:
    columns = OWN_LANGUAGES[language].split(",")
    text = ";".join(columns) + f"\n1;{ANN};Mop;1;5.00;5.00;2026-01-01;x\n"
    found = suggest_mapping(io.StringIO(text))
    fields_of = ("order_id", "contact_email", "product_name", "product_quantity", "product_price")
    assert found.mapping == dict(zip((*fields_of, "total", "date"), columns, strict=False))
    assert (found.status, list(found.unused), list(found.missing)) == (columns[-1], [], [])


def test_german_words_for_an_sku_are_known() -> None:
    found = suggest_mapping(io.StringIO(f"Bestell-Nr.;E-Mail;Artikel;Art.-Nr.\n1;{ANN};Mop;7\n"))
    assert found.mapping["product_sku"] == "Art.-Nr."


def test_a_plugin_whose_columns_are_translated_has_a_mapping_proposed() -> None:
    """A number sign is a number; and a further row of an order has no status."""
    columns = "Bestell #;Bestellstatus;E-Mail (Rechnung);Artikel #;Artikelname;Artikelpreis;Steuern"
    text = f"{columns}\n1;Storniert;{ANN};1;Mop;5;1\n;;;2;Rope;5;\n2;;{ANN};1;Mop;5;1\n"
    found = suggest_mapping(io.StringIO(text))
    assert (
        found.mapping.items()
        >= {
            "order_id": "Bestell #",
            "product_name": "Artikelname",
            "product_price": "Artikelpreis",
            "taxes": "Steuern",
        }.items()
    )
    assert (found.status, list(found.statuses)) == ("Bestellstatus", ["Storniert", ""])
    found = suggest_mapping(io.StringIO(text.replace("\n2;;", "\n2;Offen;")))
    assert list(found.statuses) == ["Storniert", "Offen"]


def test_a_known_export_needs_no_mapping_and_nothing_can_be_proposed_for_nothing() -> None:
    for kind in ("Squarespace", "BigCommerce", "GraphQL, edges"):
        found = suggest_mapping(io.StringIO(KINDS[kind][0]))
        assert (found.is_known, found.mapping) == (True, {})
    with pytest.raises(ConfigurationError, match="it is empty"):
        suggest_mapping(io.BytesIO(b"\n"))
    with pytest.raises(ConfigurationError, match="line 1 is not ascii: name its encoding"):
        suggest_mapping(io.BytesIO('{"a": "\xf6"}'.encode()), encoding="ascii")
    assert attrs.asdict(suggest_mapping(io.BytesIO(b"a,b\n")))["unused"] == ["a", "b"]
