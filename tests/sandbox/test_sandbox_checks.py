"""A request that is not as documented is refused, over a real connection."""

from __future__ import annotations

import gzip
import io
import json
from decimal import Decimal

import pytest

from everlytic_async.sandbox import Sandbox

PRIVATE = "Lindiwe-8801015800088"


@pytest.fixture
async def sandbox():
    async with Sandbox() as sandbox:
        yield sandbox


async def test_the_documentation_sample_is_accepted(sandbox, shop, sample):
    answer = await shop.post(sandbox, sample)

    assert answer.status == 200
    assert answer.body == {"status": "success"}
    assert answer.headers["Content-Type"].startswith("application/json")
    assert sandbox.received == [json.loads(json.dumps(sample), parse_float=Decimal)]


async def test_every_documented_field_is_accepted(sandbox, shop, sample):
    order = sample | {
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

    assert (await shop.post(sandbox, order)).status == 200


async def test_numbers_are_remembered_digit_by_digit(sandbox, shop):
    body = b'{"contact_email":"a@b.c","products":[{"product_price":10.10,"product_quantity":12345678901234567890}]}'  # noqa: E501

    assert (await shop.post(sandbox, data=body)).status == 200
    (product,) = sandbox.received[0]["products"]
    assert str(product["product_price"]) == "10.10"
    assert product["product_quantity"] == 12345678901234567890


async def test_a_number_that_no_float_can_hold_is_a_number(sandbox, shop):
    body = b'{"contact_email":"a@b.c","products":[{"product_line_total":1e400}]}'

    assert (await shop.post(sandbox, data=body)).status == 200
    assert sandbox.received[0]["products"] == [{"product_line_total": Decimal("1e400")}]


async def test_an_escaped_pair_is_a_character(sandbox, shop):
    body = b'{"contact_email":"a@b.c","products":[{"product_name":"\\ud83c\\udf89 \\\\ud800"}]}'

    assert (await shop.post(sandbox, data=body)).status == 200
    assert sandbox.received[0]["products"] == [{"product_name": "\U0001f389 \\ud800"}]


@pytest.mark.parametrize("name", ["x-ev-store-hash", "x-ev-customer-hash"])
@pytest.mark.parametrize("value", [None, "", "wrong"])
async def test_a_missing_or_wrong_hash_is_unauthorized(sandbox, shop, sample, name, value):
    answer = await shop.post(sandbox, sample, headers={name: value})

    assert (answer.status, answer.body) == (401, "Invalid credentials.")
    assert sandbox.processed == 0


async def test_hashes_in_each_others_place_are_unauthorized(sandbox, shop, sample):
    swapped = {
        "x-ev-store-hash": sandbox.customer_hash,
        "x-ev-customer-hash": sandbox.store_hash,
    }

    assert (await shop.post(sandbox, sample, headers=swapped)).status == 401


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", None])
async def test_another_content_type_is_refused(sandbox, shop, content_type):
    answer = await shop.post(sandbox, data=b"{}", headers={"Content-Type": content_type})

    assert answer.status == 415
    assert answer.body == {
        "status": "error",
        "message": "Content-Type: expected application/json",
    }


async def test_a_charset_beside_the_content_type_is_accepted(sandbox, shop, sample):
    headers = {"Content-Type": "application/json; charset=utf-8"}

    assert (await shop.post(sandbox, sample, headers=headers)).status == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"contact_email=a%40b.c",
        b'{"contact_email":',
        b'{"contact_email":"a@b.c","products":[{"product_price":NaN}]}',
        b'{"contact_email":"a@b.c","products":[{"product_price":Infinity}]}',
        b'{"contact_email":"a@b.c","products":[{"product_price":-Infinity}]}',
        b'{"contact_email":"a@b.c","products":[{"product_price":1e99999999999999999999}]}',
        b'{"contact_email":"a@b.c","products":[{"product_price":1.}]}',
        b'{"contact_email":"a@b.c","products":[{"product_price":01}]}',
        b'{"contact_email":"a@b.c","products":[{"product_name":"\x01"}]}',
        '{"contact_email":"a@b.c","products":[{}]}'.encode("utf-16"),
        b'{"contact_email":"\\ud800","products":[{}]}',
        b'{"contact_email":"a@b.c","products":[{}],"\\udc00":1}',
        b'{"contact_email":"\xed\xa0\x80","products":[{}]}',
        b'{"contact_email":"\xe9","products":[{}]}',
        b'\xef\xbb\xbf{"contact_email":"a@b.c","products":[{}]}',
        b"[" * 100_000,
    ],
)
async def test_a_body_that_is_no_json_is_refused(sandbox, shop, body):
    answer = await shop.post(sandbox, data=body)

    assert answer.status == 400
    assert answer.body == {"status": "error", "message": "body: expected JSON in UTF-8"}


@pytest.mark.parametrize("before", [b"", b'{"contact_email":"a@b.c","products":[{}],"order_id":'])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
@pytest.mark.parametrize("depth", [40, 500, 1_010, 5_000, 50_000])
async def test_nesting_is_refused_alike_whatever_depth_the_python_can_parse(
    sandbox, shop, before, opening, closing, depth
):
    body = before + opening * depth + b"0" + closing * depth + (b"}" if before else b"")

    answer = await shop.post(sandbox, data=body)

    assert answer.status == 400
    assert answer.body == {"status": "error", "message": "body: expected JSON in UTF-8"}


@pytest.mark.parametrize("body", [b"not gzip", gzip.compress(b"{}", mtime=0)])
async def test_a_compressed_body_is_refused_as_no_json(sandbox, shop, body):
    answer = await shop.post(sandbox, data=body, headers={"Content-Encoding": "gzip"})

    assert (answer.status, answer.body["message"]) == (400, "body: expected JSON in UTF-8")


@pytest.mark.parametrize("body", [b"[]", b"null", b'"order"', b"34"])
async def test_json_that_is_no_object_is_refused(sandbox, shop, body):
    answer = await shop.post(sandbox, data=body)

    assert answer.status == 400
    assert answer.body["message"] == "body: expected a JSON object"


@pytest.mark.parametrize(
    "identifiers", [{}, {"contact_email": ""}, {"contact_email": " ", "contact_unique_id": "\t"}]
)
async def test_an_order_that_names_no_contact_is_refused(sandbox, shop, sample, identifiers):
    del sample["contact_email"]

    answer = await shop.post(sandbox, sample | identifiers)

    assert answer.status == 400
    assert answer.body["message"] == "contact_email or contact_unique_id: missing"


async def test_a_unique_id_alone_names_the_contact(sandbox, shop, sample):
    del sample["contact_email"]

    assert (await shop.post(sandbox, sample | {"contact_unique_id": "42"})).status == 200


async def test_an_order_without_products_is_refused(sandbox, shop, sample):
    del sample["products"]

    answer = await shop.post(sandbox, sample)

    assert (answer.status, answer.body["message"]) == (400, "products: missing")


STRING_FIELDS = [
    "order_link_url",
    "sub_total",
    "shipping_fee",
    "taxes",
    "total",
    "discount",
    "checkout_url",
    "contact_unique_id",
]


@pytest.mark.parametrize("name", STRING_FIELDS)
@pytest.mark.parametrize("value", [None, 1, 1.5, True, [PRIVATE], {}])
async def test_a_text_field_of_another_type_is_refused_by_name(sandbox, shop, sample, name, value):
    answer = await shop.post(sandbox, sample | {name: value})

    assert answer.status == 400
    assert answer.body == {"status": "error", "message": f"{name}: expected a string"}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        *(("order_id", value, "a string or a number") for value in (None, True, [], {})),
        *(
            ("workflow_id", value, "an integer above 0")
            for value in (None, True, "32", 0, -1, 1.5, 32.0)
        ),
        *(
            ("products", value, "a non-empty array of objects")
            for value in (None, [], {}, {"0": {}}, PRIVATE)
        ),
        ("order_Id", "1", None),
        ("Order_id", "1", None),
    ],
)
async def test_a_field_of_the_order_is_refused_by_name(
    sandbox, shop, sample, name, value, expected
):
    answer = await shop.post(sandbox, sample | {name: value})

    reason = "not a documented field" if expected is None else f"expected {expected}"
    assert (answer.status, answer.body["message"]) == (400, f"{name}: {reason}")


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("product_name", [None, 1, []], "expected a string"),
        ("product_description", [None, 1, []], "expected a string"),
        ("product_url", [None, 1, []], "expected a string"),
        ("product_price", [None, "21", True, []], "expected a number"),
        ("product_quantity", [None, "21", True, []], "expected a number"),
        ("product_line_total", [None, "21", True, []], "expected a number"),
        ("product_special_price", [None, "21", True, []], "expected a number"),
        ("product_sku", [None, True, []], "expected a string or a number"),
        ("product_gallery", [None, PRIVATE, {}, [1], [None]], "expected an array of strings"),
        ("name", ["Mop"], "not a documented field"),
    ],
)
async def test_a_field_of_a_product_is_refused_by_its_path(
    sandbox, shop, sample, name, values, expected
):
    for value in values:
        products = [*sample["products"], {name: value}]
        answer = await shop.post(sandbox, sample | {"products": products})

        assert (answer.status, answer.body["message"]) == (400, f"products[1].{name}: {expected}")


async def test_a_product_that_is_no_object_is_refused_by_its_index(sandbox, shop, sample):
    answer = await shop.post(sandbox, sample | {"products": [{}, PRIVATE]})

    assert (answer.status, answer.body["message"]) == (400, "products[1]: expected an object")


async def test_every_fault_is_named_and_no_value_is(sandbox, shop):
    order = {
        "contact_email": [PRIVATE],
        "total": {"amount": PRIVATE},
        "products": [{"product_price": PRIVATE}],
        "note": PRIVATE,
    }

    answer = await shop.post(sandbox, order)

    assert answer.status == 400
    assert answer.body["message"].split("; ") == [
        "contact_email or contact_unique_id: missing",
        "contact_email: expected a string",
        "total: expected a string",
        "note: not a documented field",
        "products[0].product_price: expected a number",
    ]
    assert PRIVATE not in str(answer)


async def test_a_message_stays_short_however_many_the_faults(sandbox, shop, sample):
    order = sample | {f"{index}{'x' * 1_000}": 1 for index in range(1_000)}

    answer = await shop.post(sandbox, order)

    assert answer.status == 400
    assert len(answer.body["message"]) < 1_000


async def test_a_body_beyond_any_order_is_refused(sandbox, shop):
    answer = await shop.post(sandbox, data=io.BytesIO(b" " * (16 * 1024 * 1024 + 1)))

    assert (answer.status, answer.body["message"]) == (413, "body: too large")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/servlet/e-commerce/orders"),
        ("PUT", "/servlet/e-commerce/orders"),
        ("POST", "/servlet/e-commerce/orders/"),
        ("POST", "//servlet/e-commerce/orders"),
        ("POST", "/servlet/e-commerce/abandoned-cart"),
        ("POST", "/"),
    ],
)
async def test_anything_but_a_post_to_the_path_is_not_found(sandbox, shop, sample, method, path):
    answer = await shop.post(sandbox, sample, method=method, path=path)

    assert answer.status == 404
    assert answer.body["status"] == "error"
    assert "/servlet/e-commerce/orders" in answer.body["message"]
    assert (sandbox.requests, sandbox.processed) == (0, 0)
