"""Which bytes an order becomes, and its key."""

from __future__ import annotations

import copy
import json
from decimal import Decimal
from typing import Any, NoReturn

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from order_strategies import (
    AMOUNTS,
    IDENTIFIERS,
    ORDERS,
    PRODUCT_NUMBERS,
    WITH_ALL_DIGITS,
    WORKFLOWS,
    Colour,
    Money,
    Real,
    Text,
    Whole,
    Workflow,
    order_with,
    show,
)

from everlytic_async._encoding import encode, encode_wire, order_key, to_wire
from everlytic_async.orders import Order, Product


def _refuse(word: str) -> NoReturn:
    raise AssertionError(f"not JSON: {word}")


def parsed(body: bytes) -> Any:
    """Read JSON exactly: every number as a Decimal."""
    return json.loads(body.decode(), parse_float=Decimal, parse_int=Decimal, parse_constant=_refuse)


def exact(value: Any) -> Any:
    """What a value must be on the wire, read by `parsed`."""
    match value:
        case str():
            return value
        case float():
            return Decimal(repr(value))
        case int() | Decimal():
            return Decimal(value)
        case list() | tuple():
            return list(value)
    raise AssertionError(f"no such value in an order: {value!r}")


TEXT_ON_THE_WIRE = {*AMOUNTS, "contact_unique_id", "order_id"}
#: Order, product and contact as in the documentation's code sample.
SAMPLE = """{
    "order_link_url": "http://store.com/order_url/2344",
    "order_id": 34,
    "products": [{
        "product_description": "Mandatory coherent internet solution",
        "product_name": "Mop Head - Cotton, 24 Oz",
        "product_price": 21,
        "product_quantity": 4,
        "product_sku": 412,
        "product_line_total": 100043.22,
        "product_special_price": 71,
        "product_url": "https://bbb.org/risus.xml",
        "product_gallery": [
            "https://source.unsplash.com/400x1300/?rap",
            "https://source.unsplash.com/400x300/?rap"
        ]
    }],
    "contact_email": "user@example.com"
}"""


def sent_bytes(mapping: dict[str, Any]) -> bytes:
    """The body of a mapping that is sent without a model."""
    wire = to_wire(mapping)
    assert isinstance(wire, dict)
    return encode_wire(wire)


def encoded(**fields: Any) -> Any:
    return parsed(encode(order_with(**fields)))


def test_the_documented_example_becomes_what_its_php_sends() -> None:
    totals = {"sub_total": 100043.22, "shipping_fee": 50, "taxes": Decimal("0.00"), "total": "1.5"}
    more = {"contact_unique_id": "c-17", "discount": "0", "workflow_id": 32}
    more["checkout_url"] = "https://store.com/cart"
    sample = {**json.loads(SAMPLE), **more}

    body = encode(Order.from_mapping({**sample, **totals}))

    # The order's id and totals are text, as the documentation's table says.
    as_text = {"order_id": "34", "sub_total": "100043.22", "shipping_fee": "50", "taxes": "0.00"}
    assert json.loads(body) == {**sample, **totals, **as_text}
    assert json.loads(body).keys() == {field.name for field in attrs.fields(Order)}
    assert b'"product_line_total":100043.22,' in body
    assert b'"product_price":21,' in body


@given(ORDERS)
@example({"contact_email": "a@b", "products": [{"product_price": 2**64, "product_sku": -(2**64)}]})
@example({"contact_email": "a@b", "products": [{"product_price": Decimal("1E+5000")}]})
def test_an_order_reaches_the_wire_whole_and_exact(fields: dict[str, Any]) -> None:
    order = Order.from_mapping(fields)
    body = encode(order)
    wire = parsed(body)

    assert wire.keys() == fields.keys()
    assert wire["products"] == [
        {name: exact(value) for name, value in product.items()} for product in fields["products"]
    ]
    for name in fields.keys() - {"products"}:
        value = fields[name]
        if name in TEXT_ON_THE_WIRE:
            assert isinstance(wire[name], str)
            assert (wire[name] if isinstance(value, str) else Decimal(wire[name])) == exact(value)
        else:
            assert wire[name] == exact(value)
    assert order == Order.from_mapping(fields)  # encoding changes nothing
    assert encode(order) == body


@given(ORDERS)
def test_the_bytes_do_not_depend_on_the_order_of_a_mappings_keys(fields: dict[str, Any]) -> None:
    products = [dict(reversed(product.items())) for product in fields["products"]]
    turned = dict(reversed({**fields, "products": products}.items()))
    body = encode(Order(**fields))
    assert encode(Order.from_mapping(turned)) == body
    assert sent_bytes(turned) == sent_bytes(fields) == body


@given(ORDERS, st.integers(2, 9))
def test_many_products_that_are_alike_become_the_same_bytes_as_one_by_one(
    fields: dict[str, Any], times: int
) -> None:
    products = [*fields["products"][:1]] * times
    alike = {**fields, "products": products}
    turned = {**fields, "products": [dict(reversed(each.items())) for each in products]}
    models = {**fields, "products": [Product(**each) for each in products]}
    before = copy.deepcopy(alike)
    body = encode(Order(**alike))
    assert sent_bytes(turned) == sent_bytes(models) == sent_bytes(alike) == body
    assert alike == before


@given(WITH_ALL_DIGITS)
def test_a_decimal_reaches_the_wire_digit_by_digit(number: Decimal) -> None:
    fields = ("product_price", "product_quantity", "product_sku", "product_line_total")
    wire = encoded(products=[dict.fromkeys(fields, number)], total=number)
    [product] = wire["products"]
    digits = {name: value.as_tuple() for name, value in product.items()}
    assert digits == dict.fromkeys(fields, number.as_tuple())
    assert Decimal(wire["total"]).as_tuple() == number.as_tuple()


@pytest.mark.parametrize(
    ("number", "digits"),
    [
        *((number, str(number)) for number in (0, -5, 2**63, -(2**70), 10**999)),
        *((number, str(number)) for number in (0.1, 0.1 + 0.2, 10.10, 100043.22, 1.5)),
        (1e22, "10000000000000000000000"),
        (1e-7, "0.0000001"),
        (5e-324, "5E-324"),
        *((Decimal(text), text) for text in ("10.10", "100043.22", "-0.00", "1E+400", "1E-999999")),
        *((Decimal(text), text) for text in ("1.5E+999999999", "1.5E-999999999")),
        (Decimal("0.1000000000000000055511151231257827"), "0.1000000000000000055511151231257827"),
        (Decimal("1E+3"), "1000"),
        (Whole(5), "5"),
        (Whole(2**70), "1180591620717411303424"),
        (Real(1.5), "1.5"),
        (Real(1e22), "10000000000000000000000"),
        (Money("10.10"), "10.10"),
        (Workflow.CONFIRMATION, "32"),
        (Workflow.HUGE, "1180591620717411303424"),
    ],
    ids=show,
)
def test_a_number_is_written_in_its_own_digits(number: Any, digits: str) -> None:
    for name in (*PRODUCT_NUMBERS, "product_sku"):
        order = order_with(products=[{name: number}])
        kept = getattr(order.products[0], name)
        assert kept == number
        assert type(kept) is type(number)
        body = encode(order).removeprefix(b'{"contact_email":"jo@example.com","products":[{"')
        written = body.removeprefix(f'{name}":'.encode()).removesuffix(b"}]}").decode()
        if type(number) is float:  # in whatever notation
            assert Decimal(written) == Decimal(digits)
        else:
            assert written == digits
    order = order_with(order_id=number, **dict.fromkeys(AMOUNTS, number))
    assert {getattr(order, name) for name in (*AMOUNTS, "order_id")} == {digits}
    if type(number) is int:
        assert order_with(contact_unique_id=number).contact_unique_id == digits


def test_only_a_huge_number_is_written_with_an_exponent() -> None:
    for exponent in range(-64, 65):
        total = order_with(total=Decimal((0, (1, 2, 3), exponent))).total
        assert total is not None
        assert "E" not in total.upper()


@pytest.mark.parametrize("value", [Text("käse"), Colour.RED])
def test_a_subclass_of_text_is_written_as_its_text(value: str) -> None:
    wire = encoded(
        order_id=value, products=[{"product_sku": value}], **dict.fromkeys(AMOUNTS, value)
    )
    text = str.__str__(value)
    assert {wire[name] for name in (*AMOUNTS, "order_id")} == {text}
    assert wire["products"] == [{"product_sku": text}]


def test_zero_and_empty_are_set_and_so_are_sent() -> None:
    product = {"product_name": "", "product_price": 0, "product_quantity": 0.0}
    product["product_gallery"] = []
    assert encoded(total="", taxes=0, products=[product]) == {
        "contact_email": "jo@example.com",
        "total": "",
        "taxes": "0",
        "products": [product],
    }


# ----------------------------------------------------------------------------------------- its key


def make_key(**fields: Any) -> str:
    order = order_with(**fields)
    return order_key(order, encode(order))


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"order_id": "1001"}, "1001"),
        ({"order_id": 1001, "total": 1}, "1001"),
        ({"order_id": "1001", "workflow_id": 32}, "1001@32"),
        ({"order_id": "1001@32"}, "1001@32@"),
        ({"order_id": "1001@"}, "1001@@"),
        ({"order_id": "1001@", "workflow_id": 32}, "1001@@32"),
        ({"order_id": "jo@example.com"}, "jo@example.com"),
    ],
)
def test_a_key_is_the_order_id_and_the_workflow(fields: dict[str, Any], key: str) -> None:
    assert make_key(**fields) == key


_TRICKY_IDS = st.text("@0123456789a\n ", min_size=1, max_size=6).filter(str.strip) | IDENTIFIERS
_PAIRS = st.tuples(_TRICKY_IDS, st.none() | st.integers(1, 20) | WORKFLOWS)


@given(st.lists(_PAIRS, min_size=2, max_size=20, unique=True))
@example([("1001@32", None), ("1001", 32), ("1001@32@", None), ("1001@32", 32), ("1001@", 32)])
@example([("1@2", None), ("1@2\n", None), ("1", 2), ("1@", None), ("1", None)])
def test_two_different_orders_never_share_a_key(pairs: list[tuple[str, int | None]]) -> None:
    keys = {make_key(order_id=order_id, workflow_id=workflow) for order_id, workflow in pairs}
    assert len(keys) == len(pairs)


def test_the_key_of_an_order_without_an_id_is_a_digest_of_its_body() -> None:
    one, same, other = make_key(total=1), make_key(total=1), make_key(total=2)
    assert one.startswith("sha256:")
    assert len(one) == len("sha256:") + 32
    assert same == one
    assert len({one, other, make_key(total=1, workflow_id=3)}) == 3
