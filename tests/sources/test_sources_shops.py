"""Shops' exports: what each becomes, what is left out, and the traps that real files hold."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest

from everlytic_async import ConfigurationError, InvalidOrderError, Order
from everlytic_async.sources import REASONS, Reader, read_orders

DATA = Path(__file__).parent / "data"
EXPORTS = {
    "woocommerce": "woocommerce.json",
    "shopify": "shopify.json",
    "shopify-csv": "shopify_orders.csv",
    "magento": "magento.json",
}


def read(shop: str, **options: Any) -> tuple[Reader, dict[int, Order | InvalidOrderError]]:
    reader = read_orders(DATA / EXPORTS[shop], **options)
    return reader, dict(reader.lines())


def wire(order: Order | InvalidOrderError) -> dict[str, Any]:
    """What is set, with every digit."""
    assert isinstance(order, Order), order
    return attrs.asdict(order, filter=lambda _field, value: value is not None)


def exactly(order: Order | InvalidOrderError, expected: dict[str, Any]) -> None:
    # By their text: Decimal("5.00") equals Decimal("5").
    found = wire(order)
    assert {key: str(value) for key, value in found.items() if key != "products"} == {
        key: str(value) for key, value in expected.items() if key != "products"
    }
    assert [
        {key: (type(value), str(value)) for key, value in product.items()}
        for product in found["products"]
    ] == [
        {key: (type(value), str(value)) for key, value in product.items()}
        for product in expected["products"]
    ]


# ------------------------------------------------------------------------------ what they become


def test_woocommerce_becomes_orders_by_its_table() -> None:
    reader, found = read("woocommerce")
    assert list(found) == [1, 2, 3, 10]
    exactly(
        found[1],
        {
            "contact_email": "ann@example.com",
            "order_id": "727",
            "sub_total": "13.00",
            "shipping_fee": "10.00",
            "taxes": "1.35",
            "total": "29.35",
            "discount": "5.00",
            "checkout_url": "https://shop.example/checkout/order-pay/727/"
            "?pay_for_order=true&key=wc_order_58d2d042d1d",
            "products": [
                {
                    "product_name": "Mop & Bucket \N{EN DASH} Large",
                    "product_price": Decimal("2.75"),
                    "product_quantity": 2,
                    "product_sku": "000412",
                    "product_line_total": Decimal("5.50"),
                    "product_gallery": ("https://shop.example/wp-content/uploads/mop.jpg",),
                },
                {
                    "product_name": "Rope by the metre",
                    "product_price": Decimal("5.00"),
                    "product_quantity": Decimal("1.5"),
                    "product_line_total": Decimal("7.50"),
                },
            ],
        },
    )
    assert reader.format == "woocommerce"


def test_shopify_becomes_orders_by_its_table_in_the_shops_currency() -> None:
    reader, found = read("shopify")
    assert list(found) == [1, 2, 3]
    exactly(
        found[1],
        {
            "contact_email": "ann@example.com",
            "order_id": "#1001",
            "order_link_url": "https://shop.example/548380009/orders/b1946ac92/authenticate?key=abc",
            "sub_total": "597.00",
            "shipping_fee": "79.56",
            "taxes": "11.94",
            "total": "688.50",
            "discount": "10.00",
            "products": [
                {
                    "product_name": "IPod Nano - green",
                    "product_price": Decimal("199.10"),
                    "product_quantity": 3,
                    "product_sku": "IPOD2008GREEN",
                    "product_line_total": Decimal("597.00"),
                },
                {
                    "product_name": "Gift wrap",
                    "product_price": Decimal("10.00"),
                    "product_quantity": 1,
                    "product_line_total": Decimal("10.00"),
                },
            ],
        },
    )
    assert reader.format == "shopify"


def test_a_shopify_csv_becomes_orders_by_its_table() -> None:
    reader, found = read("shopify-csv")
    # By the line that each begins in: notes have new lines.
    assert list(found) == [2, 8, 10, 16]
    exactly(
        found[2],
        {
            "contact_email": "ann@example.com",
            "order_id": "#1001",
            "sub_total": "597.00",
            "shipping_fee": "79.56",
            "taxes": "11.94",
            "total": "688.50",
            "discount": "10.00",
            "products": [
                {
                    "product_name": "IPod Nano - green",
                    "product_price": Decimal("199.10"),
                    "product_quantity": Decimal(3),
                    "product_sku": "000412",
                    "product_line_total": Decimal("597.30"),
                },
                {
                    "product_name": "Gift wrap, red",
                    "product_price": Decimal("10.00"),
                    "product_quantity": Decimal(1),
                    "product_line_total": Decimal("10.00"),
                },
                {
                    "product_name": "Card",
                    "product_price": Decimal("1.05"),
                    "product_quantity": Decimal(2),
                    "product_sku": "CARD",
                    "product_line_total": Decimal("2.10"),
                },
            ],
        },
    )
    assert reader.format == "shopify-csv"


def test_magento_becomes_orders_by_its_table() -> None:
    reader, found = read("magento")
    assert list(found) == [1, 2, 3]
    exactly(
        found[1],
        {
            "contact_email": "ann@example.com",
            "order_id": "000000003",
            "sub_total": "360.00",
            "shipping_fee": "25.00",
            "taxes": "8.40",
            "total": "393.40",
            "discount": "30.00",
            "products": [
                {
                    "product_name": "Iris Workout Top",
                    "product_price": Decimal("120.10"),
                    "product_quantity": 2,
                    "product_sku": "WS03-XS-Red",
                    "product_line_total": Decimal("220.20"),
                },
                {
                    "product_name": "Yoga strap",
                    "product_price": Decimal("149.80"),
                    "product_quantity": 1,
                    "product_sku": "000241",
                    "product_line_total": Decimal("139.80"),
                },
            ],
        },
    )
    assert reader.format == "magento"


# ---------------------------------------------------------------------------------------- guests


@pytest.mark.parametrize(
    ("shop", "place"), [("woocommerce", 3), ("shopify", 3), ("shopify-csv", 10), ("magento", 3)]
)
def test_who_has_no_address_is_an_invalid_order_and_not_left_out(shop: str, place: int) -> None:
    _reader, found = read(shop)
    error = found[place]
    assert isinstance(error, InvalidOrderError)
    assert (error.line, error.faults) == (
        place,
        ("contact_email or contact_unique_id: one of the two is required",),
    )


@pytest.mark.parametrize(
    ("shop", "place", "contact"),
    [
        ("woocommerce", 2, {"contact_email": "guest@example.org"}),
        ("shopify", 2, {"contact_email": "bea@example.org"}),
        ("magento", 2, {"contact_email": "guest@example.org"}),
    ],
)
def test_a_guest_has_no_id_and_an_empty_address_is_looked_for_elsewhere(
    shop: str, place: int, contact: dict[str, str]
) -> None:
    found = wire(read(shop)[1][place])
    assert {key: found[key] for key in found if key.startswith("contact")} == contact


@pytest.mark.parametrize(
    ("shop", "place", "total"),
    [
        ("woocommerce", 2, "0.00"),
        ("shopify", 2, "0.00"),
        ("shopify-csv", 8, "0.00"),
        ("magento", 2, "0"),
    ],
)
def test_a_total_of_zero_is_a_total(shop: str, place: int, total: str) -> None:
    found = wire(read(shop)[1][place])
    assert (found["total"], found["discount"]) == (total, total)


# ----------------------------------------------------------------------------------- left out


SKIPPED = {
    "woocommerce": {
        "cancelled": 1,
        "refunded": 1,
        "failed": 1,
        "unpaid": 1,
        "draft": 1,
        "trash": 1,
    },
    "shopify": {"cancelled": 2, "refunded": 1, "voided": 1, "test": 1, "draft": 1},
    "shopify-csv": {"duplicate row": 2, "cancelled": 1, "refunded": 1, "voided": 1, "test": 1},
    "magento": {"cancelled": 1, "refunded": 1, "unpaid": 1, "fraud": 1},
}


@pytest.mark.parametrize("shop", EXPORTS)
def test_what_nobody_wants_an_email_about_is_left_out_and_counted(shop: str) -> None:
    reader, _found = read(shop)
    assert reader.skipped == SKIPPED[shop]


def test_shopifys_answer_of_drafts_is_read_as_that_of_orders() -> None:
    first = json.loads((DATA / EXPORTS["shopify"]).read_text("utf-8"))["orders"][0]
    draft = {**first, "invoice_sent_at": None}
    document = {"draft_orders": [{**draft, "status": "open"}, {**draft, "status": "completed"}]}
    reader = read_orders(io.StringIO(json.dumps(document)))
    assert [wire(found)["order_id"] for found in reader] == [first["name"]]
    assert (reader.format, dict(reader.skipped)) == ("shopify", {"draft": 1})


@pytest.mark.parametrize("shop", EXPORTS)
def test_whoever_asks_for_all_gets_all(shop: str) -> None:
    reader, found = read(shop, include="all")
    left_out = {key: n for key, n in SKIPPED[shop].items() if key != "duplicate row"}
    assert len(found) == len(read(shop)[1]) + sum(left_out.values())
    assert left_out.keys() & reader.skipped.keys() == set()


@pytest.mark.parametrize("reason", REASONS)
def test_each_reason_can_be_asked_for_by_itself(reason: str) -> None:
    for shop, left_out in SKIPPED.items():
        reader, found = read(shop, include=[reason])
        # Shopify's #1008 is cancelled and refunded, so one of the two does not bring it back.
        back = left_out.get(reason, 0) - (shop == "shopify" and reason == "cancelled")
        assert len(found) == len(read(shop)[1]) + back
        assert reason not in reader.skipped


def test_a_reason_that_does_not_exist_is_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match="there is no 'canceled': the known ones are all,"):
        read_orders("never opened", include=["canceled"])


# -------------------------------------------------------------------------------------- by date


@pytest.mark.parametrize(
    ("shop", "options", "places", "skipped"),
    [
        # 2026-03-31T22:30 in UTC, and 2026-04-01T00:30 in the shop.
        ("woocommerce", {"since": "2026-04-01"}, [3, 10], {"before since": 2}),
        ("woocommerce", {"since": "2026-04-01T00:30+02:00"}, [2, 3, 10], {"before since": 1}),
        ("woocommerce", {"until": "2026-04-01"}, [1, 2], {"not before until": 2}),
        # 2026-03-10T11:00 five hours west of Greenwich.
        ("shopify", {"until": "2026-03-10T16:00:00Z"}, [], {"not before until": 3}),
        ("shopify", {"until": "2026-03-10T16:00:01Z"}, [1], {"not before until": 2}),
        # 2026-03-14 00:30:00 +0200.
        ("shopify-csv", {"since": "2026-03-13", "until": "2026-03-14"}, [16], {"before since": 3}),
        ("magento", {"since": "2026-03-06T10:00:00"}, [2, 3], {"before since": 1}),
    ],
)
def test_orders_of_another_time_are_left_out_and_counted(
    shop: str, options: dict[str, Any], places: list[int], skipped: dict[str, int]
) -> None:
    reader, found = read(shop, **options)
    assert list(found) == places
    assert {key: n for key, n in reader.skipped.items() if " " in key} == skipped | (
        {"duplicate row": 2} if shop == "shopify-csv" else {}
    )


@pytest.mark.parametrize(
    "written",
    [
        "2026-03-01 10:00:00 +0200",
        "2026-03-01 08:00:00 UTC",
        "2026-03-01T08:00:00",
        "2026-03-01T03:00:00-05:00",
        "2026-03-01T08:00:00.000Z",
    ],
)
def test_a_time_is_the_same_however_it_is_written(written: str) -> None:
    order = json.loads((DATA / "woocommerce.json").read_text("utf-8"))[0]
    text = json.dumps([{**order, "date_created_gmt": written}])
    for since, count in (("2026-03-01T08:00Z", 1), ("2026-03-01T08:00:01Z", 0)):
        assert len(list(read_orders(io.StringIO(text), since=since))) == count


def test_an_order_without_a_date_is_invalid_when_the_date_decides() -> None:
    order = json.loads((DATA / "woocommerce.json").read_text("utf-8"))[0]
    order["date_created_gmt"] = "yesterday"
    (found,) = read_orders(io.StringIO(json.dumps([order])), since="2026-01-01")
    assert str(found) == "line 1: date: expected a time such as 2026-03-01T08:00:00"


# --------------------------------------------------------------------------- how it is written


def test_a_shops_orders_may_stand_on_lines(tmp_path: Path) -> None:
    for shop in ("woocommerce", "shopify", "magento"):
        document = json.loads((DATA / EXPORTS[shop]).read_text("utf-8"), parse_float=Decimal)
        orders = document if isinstance(document, list) else next(iter(document.values()))
        path = tmp_path / f"{shop}.jsonl"
        path.write_text("\n".join(json.dumps(order, default=str) for order in orders), "utf-8")
        reader = read_orders(path)
        assert len(list(reader)) == len(read(shop)[1])
        assert reader.format == shop


@pytest.mark.parametrize("shop", ["woocommerce", "shopify", "magento"])
def test_a_single_order_and_several_pages_are_read_too(shop: str) -> None:
    text = (DATA / EXPORTS[shop]).read_text("utf-8")
    document = json.loads(text)
    first = (document if isinstance(document, list) else next(iter(document.values())))[0]
    for single in (json.dumps(first), json.dumps(first, indent=2)):
        reader = read_orders(io.StringIO(single))
        (found,) = reader
        assert isinstance(found, Order)
        assert reader.format == shop
    compact = json.dumps(document)
    for pages in (f"{text}\n{text}", f"{compact}\n{compact}\n", compact + compact):
        reader = read_orders(io.StringIO(pages))
        assert len(list(reader)) == 2 * len(read(shop)[1])
        assert sum(reader.skipped.values()) == 2 * sum(SKIPPED[shop].values())


@pytest.mark.parametrize("shop", EXPORTS)
def test_the_shop_may_be_named(shop: str) -> None:
    assert read(shop, format=shop)[1].keys() == read(shop)[1].keys()


@pytest.mark.parametrize(
    ("shop", "named", "told"),
    [
        ("woocommerce", "shopify-csv", "it is json, and shopify-csv is CSV: choose another format"),
        ("shopify-csv", "shopify", "it is csv, and shopify is JSON: choose another format"),
    ],
)
def test_a_shop_that_it_can_not_be_is_refused(shop: str, named: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        read(shop, format=named)


def test_a_csv_that_is_not_shopifys_is_refused_by_its_columns() -> None:
    file = io.StringIO("Name,Email,Lineitem name\n#1,a@example.com,Mop\n")
    with pytest.raises(ConfigurationError, match="no columns Lineitem price, Lineitem quantity"):
        list(read_orders(file, "shopify-csv"))


def test_a_mapping_adds_to_a_shops_and_replaces_parts_of_it() -> None:
    mapping = {
        "order_link_url": "https://shop.example/my-account/view-order/{id}/?n={order_id}",
        "contact_unique_id": "customer_id",
        "workflow_id": 17,
        "product_description": "meta_data.0.value",
    }
    reader, found = read("woocommerce", mapping=mapping)
    order = wire(found[1])
    assert order["order_link_url"] == "https://shop.example/my-account/view-order/727/?n=727"
    assert order["contact_unique_id"] == "26"
    assert (order["workflow_id"], order["total"]) == (17, "29.35")
    assert order["products"][1]["product_name"] == "Rope by the metre"
    assert reader.unmatched_fields == {"product_description"}


def test_a_shopify_name_is_encoded_in_a_url() -> None:
    mapping = {"order_link_url": "https://shop.example/orders/{order_id}"}
    _reader, found = read("shopify-csv", mapping=mapping)
    assert wire(found[2])["order_link_url"] == "https://shop.example/orders/%231001"


# ------------------------------------------------------------------- Shopify's rows, one by one


def shopify(*rows: dict[str, str], extra: tuple[str, ...] = ()) -> list[Order | InvalidOrderError]:
    columns = ["Name", "Email", "Total", "Lineitem quantity", "Lineitem name", "Lineitem price"]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*columns, *extra], restval="")
    writer.writeheader()
    writer.writerows(rows)
    text.seek(0)
    return list(read_orders(text))


def item(name: str, **others: str) -> dict[str, str]:
    return {"Lineitem quantity": "1", "Lineitem name": name, "Lineitem price": "1.00", **others}


@pytest.mark.parametrize("email", ["", "ann@example.com", "Ann@Example.com"])
@pytest.mark.parametrize("name", ["", "#1"])
def test_a_further_row_may_repeat_the_name_and_the_address_or_not(name: str, email: str) -> None:
    (order,) = shopify(
        item("Mop", Name="#1", Email="ann@example.com", Total="2.00"),
        item("Bucket", Name=name, Email=email),
    )
    found = wire(order)
    assert (found["contact_email"], found["total"]) == ("ann@example.com", "2.00")
    assert [product["product_name"] for product in found["products"]] == ["Mop", "Bucket"]


def test_a_further_row_of_somebody_else_makes_the_order_invalid() -> None:
    (error,) = shopify(
        item("Mop", Name="#1", Email="ann@example.com"),
        item("Bucket", Name="#1", Email="bea@example.com"),
    )
    assert str(error) == "line 2: contact_email: the rows of the order do not agree on it"


def test_a_row_without_a_name_at_the_top_is_no_part_of_the_next_order() -> None:
    lost, order = shopify(item("Lost"), item("Mop", Name="#1", Email="ann@example.com"))
    assert isinstance(lost, InvalidOrderError)
    assert [product["product_name"] for product in wire(order)["products"]] == ["Mop"]


def test_a_row_without_a_name_at_the_top_is_no_order_whoever_it_is_of() -> None:
    # The second half of a file that was split: its first order was sent with the first.
    (lost, _order) = shopify(
        item("Bucket", Email="ann@example.com"), item("Mop", Name="#2", Email="bea@example.com")
    )
    assert str(lost) == ("line 2: belongs to an order that is not above it: is it cut off?")


def test_further_columns_change_nothing() -> None:
    row = item("Mop", Name="#1", Email="ann@example.com")
    (plain,) = shopify(row)
    (order,) = shopify({**row, "Tax 1 Name": "VAT", "Duties": ""}, extra=("Tax 1 Name", "Duties"))
    assert wire(order) == wire(plain)


# ----------------------------------------------------------------------- what the files mean by it

SHOPIFY: dict[str, Any] = {
    "id": 5275279425839,
    "name": "#1001",
    "email": "ann@example.com",
    "created_at": "2026-03-01T10:00:00+02:00",
    "subtotal_price": "15.00",
    "total_price": "20.00",
    "customer": {"id": 777, "email": "ann@example.com"},
    "line_items": [
        {
            "name": "Mop",
            "price": "10.00",
            "quantity": 2,
            "sku": "1",
            "total_discount": "0.00",
            "discount_allocations": [{"amount": "3.50"}, {"amount": "1.50"}],
        }
    ],
}
WOO: dict[str, Any] = {
    "number": "1",
    "total": "5.00",
    "customer_id": 7,
    "billing": {"email": "ann@example.com"},
    "line_items": [{"name": "Mop", "price": 5, "quantity": 1}],
}


def one(text: str, **options: Any) -> dict[str, Any]:
    (order,) = read_orders(io.StringIO(text), **options)
    assert isinstance(order, Order), order
    return wire(order)


@pytest.mark.parametrize("indent", [None, 1], ids=["a line", "a document"])
@pytest.mark.parametrize("key", ["order", "data", "draft_order"])
@pytest.mark.parametrize(("order", "shop"), [(SHOPIFY, "shopify"), (WOO, "woocommerce")])
@pytest.mark.parametrize("named", [False, True])
def test_an_order_in_a_wrapper_of_its_own_is_read(
    key: str, order: dict[str, Any], shop: str, indent: int | None, named: bool
) -> None:
    text = json.dumps({key: order}, indent=indent)
    found = one(text, **({"format": shop} if named else {}))
    assert found["order_id"] == order.get("name", order.get("number"))
    assert found["contact_email"] == "ann@example.com"


def test_a_mapping_may_have_paths_that_begin_at_the_wrapper() -> None:
    mapping = {"contact_email": "order.email", "order_id": "order.name", "product_name": "order.x"}
    found = one(json.dumps({"order": SHOPIFY | {"x": "Mop"}}), mapping=mapping)
    assert (found["contact_email"], found["order_id"]) == ("ann@example.com", "#1001")


@pytest.mark.parametrize(
    ("more", "total"),
    [
        ({}, "15.00"),
        ({"discount_allocations": []}, "20.00"),
        ({"discount_allocations": [], "total_discount": "2.00"}, "18.00"),
        ({"discount_allocations": None, "total_discount": "2.00"}, "18.00"),
        ({"discount_allocations": [{"amount": "?"}], "total_discount": "2.00"}, "18.00"),
    ],
)
def test_a_line_total_of_shopify_is_after_all_discounts(more: dict[str, Any], total: str) -> None:
    order = SHOPIFY | {"line_items": [SHOPIFY["line_items"][0] | more]}
    (product,) = one(json.dumps([order]))["products"]
    assert product["product_line_total"] == Decimal(total)


def test_a_free_gift_in_shopifys_csv_has_a_line_total_of_0() -> None:
    header = "Name,Email,Lineitem quantity,Lineitem name,Lineitem price,Lineitem discount\n"
    text = f"{header}#1,ann@example.com,1,Mop,5.00,0.00\n#1,,1,Free gift,5.00,5.00\n"
    mop, gift = one(text)["products"]
    assert (str(mop["product_line_total"]), str(gift["product_line_total"])) == ("5.00", "0.00")


@pytest.mark.parametrize(
    ("order", "shop"),
    [
        (SHOPIFY | {"email": "", "customer": {"id": 777, "email": None}}, "shopify"),
        (WOO | {"billing": {"email": ""}}, "woocommerce"),
        (
            {
                "increment_id": "1",
                "customer_id": 7,
                "customer_email": None,
                "items": [{"name": "Mop"}],
                "grand_total": 1,
            },
            "magento",
        ),
    ],
)
def test_a_shops_own_number_of_a_customer_is_no_unique_id(order: dict[str, Any], shop: str) -> None:
    reader = read_orders(io.StringIO(json.dumps([order])))
    (found,) = reader
    assert reader.format == shop
    assert isinstance(found, InvalidOrderError)
    assert found.faults == ("contact_email or contact_unique_id: one of the two is required",)


@pytest.mark.parametrize(
    ("total", "price", "line", "quantity", "expected"),
    [
        ("5.00", 14.309999999999999, "143.10", 10, "14.31"),
        ("5.00", 3.3333333333333335, "10.00", 3, "3.33"),
        ("5.00", 6.6666666666666667, "20.00", 3, "6.67"),
        ("5.000", 3.3333333333333335, "10.000", 3, "3.333"),
        ("5.00", 14.31, "143.10", 10, "14.31"),
        ("5.00", 5, "5.00", 1, "5"),
        ("5.00", 0.125, "0.00", 0, "0.125"),  # wholly refunded: there is nothing to compute
        ("500", 3.3333333333333335, "10", 3, "3.3333333333333335"),  # no decimals to round to
    ],
)
def test_a_price_of_woocommerce_has_no_more_decimals_than_the_order(
    total: str, price: float, line: str, quantity: int, expected: str
) -> None:
    item = {"name": "Mop", "price": price, "total": line, "quantity": quantity}
    (product,) = one(json.dumps([WOO | {"total": total, "line_items": [item]}]))["products"]
    assert str(product["product_price"]) == expected
