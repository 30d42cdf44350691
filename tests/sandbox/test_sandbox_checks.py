"""A request that is not as documented is refused, over a real connection."""

from __future__ import annotations

import gzip
import io
import json
from decimal import Decimal
from typing import Any

import pytest

from everlytic_async.sandbox import Sandbox

PATH = "/servlet/e-commerce/orders"
PRIVATE = "Lindiwe-8801015800088"
NOT_JSON = "body: expected JSON in UTF-8"


@pytest.fixture
async def sandbox():
    async with Sandbox() as sandbox:
        yield sandbox


async def test_documented_orders_are_accepted_and_remembered_digit_by_digit(sandbox, shop, sample):
    every_field = sample | {
        "contact_unique_id": "0042",
        "order_id": "#1001",
        "sub_total": "10.10",
        "shipping_fee": "0",
        "taxes": "1.52",
        "total": "11.62",
        "discount": "0.00",
        "checkout_url": "https://store.com/cart",
        "workflow_id": 32,
    }
    numbers = b'{"product_price":10.10,"product_quantity":12345678901234567890}'
    large = b'{"product_line_total":1e400}'
    text = b'{"product_name":"\\ud83c\\udf89 \\\\ud800"}'  # an escaped pair is a character
    exact = b'{"contact_unique_id":"42","products":[%s,%s,%s]}' % (numbers, large, text)
    for order in (sample, every_field):
        answer = await shop.post(sandbox, order)
        assert (answer.status, answer.body) == (200, {"status": "success"})
        assert answer.headers["Content-Type"].startswith("application/json")
    charset = {"Content-Type": "application/json; charset=utf-8"}
    assert (await shop.post(sandbox, data=exact, headers=charset)).status == 200

    *orders, received = sandbox.received
    assert orders == json.loads(json.dumps([sample, every_field]), parse_float=Decimal)
    assert repr(received["products"][0]["product_price"]) == "Decimal('10.10')"
    assert received["products"][0]["product_quantity"] == 12345678901234567890
    assert received["products"][1]["product_line_total"] == Decimal("1e400")
    assert received["products"][2] == {"product_name": "\U0001f389 \\ud800"}


STORE, CUSTOMER = "x-ev-store-hash", "x-ev-customer-hash"


UNAUTHORIZED = (401, "Invalid credentials.")
NOT_JSON_TYPE = (415, {"status": "error", "message": "Content-Type: expected application/json"})
NOT_FOUND = (404, {"status": "error", "message": f"Not found: orders are POSTed to {PATH}"})


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        *(
            ({"headers": {name: value}}, UNAUTHORIZED)
            for name in (STORE, CUSTOMER)
            for value in (None, "", "wrong")
        ),
        (
            {"headers": {STORE: Sandbox().customer_hash, CUSTOMER: Sandbox().store_hash}},
            UNAUTHORIZED,
        ),
        *(
            ({"data": b"{}", "headers": {"Content-Type": value}}, NOT_JSON_TYPE)
            for value in ("text/plain", "application/x-www-form-urlencoded", None)
        ),
        *(({"method": method}, NOT_FOUND) for method in ("GET", "PUT")),
        *(
            ({"path": path}, NOT_FOUND)
            for path in (f"{PATH}/", f"/{PATH}", "/servlet/e-commerce/abandoned-cart", "/")
        ),
    ],
    ids=repr,
)
async def test_another_request_than_the_documented_one_is_refused(
    sandbox, shop, sample, request_, expected
):
    answer = await shop.post(sandbox, sample, **request_)

    assert (answer.status, answer.body) == expected
    assert (sandbox.requests, sandbox.processed) == (expected != NOT_FOUND, 0)


def product(text: bytes) -> bytes:
    return b'{"contact_email":"a@b.c","products":[{%s}]}' % text


NESTED = [
    before + opening * depth + b"0" + closing * depth + (b"}" if before else b"")
    for before in (b"", b'{"contact_email":"a@b.c","products":[{}],"order_id":')
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}"))
    for depth in (40, 500, 1_010, 50_000)  # whatever depth the Python can parse
]
NOT_OBJECTS = [b"[]", b"null", b'"order"', b"34"]
REFUSED_BODIES = [
    b"",
    b"contact_email=a%40b.c",
    b'{"contact_email":',
    *(product(b'"product_price":' + bad) for bad in (b"NaN", b"Infinity", b"-Infinity")),
    *(product(b'"product_price":' + bad) for bad in (b"1e99999999999999999999", b"1.", b"01")),
    product(b'"product_name":"\x01"'),
    product(b"").decode().encode("utf-16"),
    product(b'"product_name":"\\ud800"'),
    product(b'"\\udc00":1'),
    product(b'"product_name":"\xed\xa0\x80"'),
    product(b'"product_name":"\xe9"'),
    b"\xef\xbb\xbf" + product(b""),
    *NESTED,
]


async def test_a_body_that_is_not_a_json_object_is_refused(sandbox, shop):
    for body in REFUSED_BODIES:
        answer = await shop.post(sandbox, data=body)
        expected = {"status": "error", "message": NOT_JSON}
        assert (answer.status, answer.body) == (400, expected), body[:60]
    for body in NOT_OBJECTS:
        answer = await shop.post(sandbox, data=body)
        assert (answer.status, answer.body["message"]) == (400, "body: expected a JSON object")
    for body in (b"not gzip", gzip.compress(b"{}", mtime=0)):
        answer = await shop.post(sandbox, data=body, headers={"Content-Encoding": "gzip"})
        assert (answer.status, answer.body["message"]) == (400, NOT_JSON)
    answer = await shop.post(sandbox, data=io.BytesIO(b" " * (16 * 1024 * 1024 + 1)))
    assert (answer.status, answer.body["message"]) == (413, "body: too large")


NO_CONTACT = "contact_email or contact_unique_id: missing"
STRINGS = ["order_link_url", "sub_total", "shipping_fee", "taxes", "total", "discount"]
STRINGS += ["checkout_url", "contact_unique_id"]

#: A change of the sample, and what is said of it; None leaves a field out.
ORDERS: list[tuple[dict[str, Any], str]] = [
    *(
        ({name: value}, f"{name}: expected a string")
        for name in STRINGS
        for value in (1, 1.5, True, [PRIVATE], {}, "null")
    ),
    *(({"order_id": value}, "order_id: expected a string or a number") for value in (True, [], {})),
    *(
        ({"workflow_id": value}, "workflow_id: expected an integer above 0")
        for value in (True, "32", 0, -1, 1.5, 32.0, "null")
    ),
    *(
        ({"products": value}, "products: expected a non-empty array of objects")
        for value in ([], {}, {"0": {}}, PRIVATE, "null")
    ),
    ({"products": [{}, PRIVATE]}, "products[1]: expected an object"),
    ({"products": None}, "products: missing"),
    ({"order_Id": "1"}, "order_Id: not a documented field"),
    ({"Order_id": "1"}, "Order_id: not a documented field"),
    ({"contact_email": None}, NO_CONTACT),
    ({"contact_email": ""}, NO_CONTACT),
    ({"contact_email": " ", "contact_unique_id": "\t"}, NO_CONTACT),
    *(
        ({"products": [{}, {name: value}]}, f"products[1].{name}: {message}")
        for names, values, message in [
            ("name description url", [None, 1, []], "expected a string"),
            ("price quantity line_total special_price", [None, "1", True], "expected a number"),
            ("sku", [None, True, []], "expected a string or a number"),
            ("gallery", [None, PRIVATE, {}, [1], [None]], "expected an array of strings"),
            ("colour", ["red"], "not a documented field"),
        ]
        for name in (f"product_{each}" for each in names.split())
        for value in values
    ),
]


async def test_a_field_is_refused_by_its_name_or_path(sandbox, shop, sample):
    for change, message in ORDERS:
        order = {name: value for name, value in (sample | change).items() if value is not None}
        order = {name: None if value == "null" else value for name, value in order.items()}
        answer = await shop.post(sandbox, order)
        assert (answer.status, answer.body["message"]) == (400, message), change


async def test_every_fault_is_named_and_no_value_is_and_the_message_stays_short(
    sandbox, shop, sample
):
    order = {
        "contact_email": [PRIVATE],
        "total": {"amount": PRIVATE},
        "products": [{"product_price": PRIVATE}],
        "note": PRIVATE,
    }
    answer = await shop.post(sandbox, order)
    assert answer.status == 400
    assert answer.body["message"].split("; ") == [
        NO_CONTACT,
        "contact_email: expected a string",
        "total: expected a string",
        "note: not a documented field",
        "products[0].product_price: expected a number",
    ]
    assert PRIVATE not in str(answer)

    order = sample | {f"{index}{'x' * 1_000}": 1 for index in range(1_000)}
    answer = await shop.post(sandbox, order)
    assert answer.status == 400
    assert len(answer.body["message"]) < 1_000
