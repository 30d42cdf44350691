"""`Order` and `Product`: what is valid, what is a fault, and that a fault tells nothing private."""

from __future__ import annotations

import copy
import enum
import pickle
import traceback
from collections import UserDict
from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from order_strategies import (
    DECIMALS,
    FLOATS,
    INTEGERS,
    ORDERS,
    WITH_ALL_DIGITS,
)

from everlytic_async.errors import InvalidOrderError
from everlytic_async.orders import Order, Product, format_number

NAN = float("nan")
INFINITY = float("inf")
SURROGATE = "\ud800"
NOT_A_URL = "expected a whole URL, from http:// or https:// on and without spaces"

PRODUCT_TEXTS = ("product_name", "product_description")
PRODUCT_NUMBERS = (
    "product_price",
    "product_quantity",
    "product_line_total",
    "product_special_price",
)
PRODUCT_FIELDS = {
    *PRODUCT_TEXTS,
    *PRODUCT_NUMBERS,
    "product_sku",
    "product_url",
    "product_gallery",
}
AMOUNTS = ("sub_total", "shipping_fee", "taxes", "total", "discount")
URLS = ("order_link_url", "checkout_url")
ORDER_FIELDS = {
    "contact_email",
    "contact_unique_id",
    "order_id",
    "products",
    "workflow_id",
    *AMOUNTS,
    *URLS,
}


class Text(str):
    __slots__ = ()


class Whole(int):
    pass


class Real(float):
    pass


class Money(Decimal):
    pass


class Colour(enum.StrEnum):
    RED = "red"


class Workflow(enum.IntEnum):
    CONFIRMATION = 32


class Hostile:
    """Raises when it is compared, tested, measured or shown."""

    def __eq__(self, other: object) -> bool:
        raise AssertionError

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise AssertionError

    def __repr__(self) -> str:
        raise AssertionError


def order_with(**fields: Any) -> Order:
    """An order that is valid but for these fields."""
    return Order(**{"contact_email": "jo@example.com", "products": [{}], **fields})


def faults_of(make: Any, *args: Any, **fields: Any) -> tuple[str, ...]:
    with pytest.raises(InvalidOrderError) as caught:
        make(*args, **fields)
    return caught.value.faults


# ---------------------------------------------------------------------------------- what is valid


def test_an_order_has_every_field_of_the_documentation_and_no_other() -> None:
    assert {field.name for field in attrs.fields(Order)} == ORDER_FIELDS


def test_a_product_has_every_field_of_the_documentation_and_no_other() -> None:
    assert {field.name for field in attrs.fields(Product)} == PRODUCT_FIELDS


def test_every_field_is_kept_as_it_was_given() -> None:
    fields = {
        "contact_email": "jo@example.com",
        "contact_unique_id": "c-17",
        "order_link_url": "https://store.com/orders/1",
        "order_id": "1001",
        "sub_total": "10.00",
        "shipping_fee": "1.00",
        "taxes": "1.50",
        "total": "12.50",
        "discount": "0",
        "checkout_url": "https://store.com/cart",
        "workflow_id": 32,
    }
    product = {
        "product_name": "Mop",
        "product_description": "Wet",
        "product_price": 21,
        "product_quantity": 1.5,
        "product_sku": 412,
        "product_line_total": Decimal("10.10"),
        "product_special_price": 0,
        "product_url": "https://store.com/mop",
        "product_gallery": ["https://store.com/a.png", "https://store.com/b.png"],
    }

    order = Order.from_mapping({**fields, "products": [product]})

    assert {name: getattr(order, name) for name in fields} == fields
    [kept] = order.products
    assert isinstance(kept, Product)
    assert attrs.asdict(kept) == {**product, "product_gallery": tuple(product["product_gallery"])}  # type: ignore[arg-type]


def test_what_is_not_given_is_none() -> None:
    order = Order(contact_email="jo@example.com", products=[Product()])
    unset = ORDER_FIELDS - {"contact_email", "products"}
    assert {name: getattr(order, name) for name in unset} == dict.fromkeys(unset)
    assert attrs.asdict(Product()) == dict.fromkeys(PRODUCT_FIELDS)


@pytest.mark.parametrize("contact", [{"contact_email": "jo@x.y"}, {"contact_unique_id": "7"}])
def test_one_contact_identifier_is_enough(contact: dict[str, Any]) -> None:
    order = Order(products=[{}], **contact)
    assert [order.contact_email, order.contact_unique_id] == [
        contact.get("contact_email"),
        contact.get("contact_unique_id"),
    ]


def test_null_in_a_mapping_means_not_set() -> None:
    nulls: dict[str, Any] = dict.fromkeys(ORDER_FIELDS - {"contact_email", "products"})
    given = {"contact_email": "jo@x.y", "products": [dict.fromkeys(PRODUCT_FIELDS)], **nulls}
    assert Order.from_mapping(given) == Order(contact_email="jo@x.y", products=[Product()])


def test_products_may_be_models_and_mappings_side_by_side() -> None:
    order = order_with(products=(Product(product_name="a"), {"product_name": "b"}))
    assert order.products == (Product(product_name="a"), Product(product_name="b"))


@pytest.mark.parametrize("kind", [dict, MappingProxyType, UserDict])
def test_any_mapping_will_do(kind: Any) -> None:
    order = Order.from_mapping(kind({"contact_email": "a@b.c", "products": [kind({})]}))
    assert order == Order(contact_email="a@b.c", products=[Product()])


@given(ORDERS)
def test_every_valid_mapping_makes_the_same_order_as_its_fields_do(fields: dict[str, Any]) -> None:
    products = [Product(**product) for product in fields["products"]]
    assert Order.from_mapping(fields) == Order(**{**fields, "products": products})


def test_totals_are_not_checked_against_each_other() -> None:
    assert order_with(sub_total="1", total="-5", discount="99", taxes="lots").taxes == "lots"


@pytest.mark.parametrize("name", AMOUNTS)
@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("010.10", "010.10"),
        ("", ""),
        ("R 1 000,00", "R 1 000,00"),
        (0, "0"),
        (-5, "-5"),
        (10**999, "1" + "0" * 999),
        (0.1, "0.1"),
        (0.1 + 0.2, "0.30000000000000004"),
        (100043.22, "100043.22"),
        (1e22, "10000000000000000000000"),
        (1e-7, "0.0000001"),
        (Decimal("10.10"), "10.10"),
        (Decimal("1E+3"), "1000"),
        (Decimal("-0.00"), "-0.00"),
        (Decimal("0.1000000000000000055511151231257827"), "0.1000000000000000055511151231257827"),
        (Decimal("1E+400"), "1E+400"),
        (Decimal("1E-999999"), "1E-999999"),
        (Money("10.10"), "10.10"),
        (Whole(7), "7"),
        (Real(0.5), "0.5"),
        (Text("7"), "7"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_an_amount_becomes_its_exact_text(name: str, amount: Any, text: str) -> None:
    assert getattr(order_with(**{name: amount}), name) == text


@pytest.mark.parametrize(
    ("order_id", "text"),
    [
        ("000000003", "000000003"),
        (" #1001", " #1001"),
        (34, "34"),
        (0, "0"),
        (2**70, str(2**70)),
        (1.5, "1.5"),
        (Decimal("5.0"), "5.0"),
        (Colour.RED, "red"),
        (Workflow.CONFIRMATION, "32"),
    ],
)
def test_an_order_id_becomes_its_exact_text(order_id: Any, text: str) -> None:
    assert order_with(order_id=order_id).order_id == text


@pytest.mark.parametrize(("unique_id", "text"), [("007", "007"), (7, "7"), (2**64, str(2**64))])
def test_a_unique_id_is_text_or_the_digits_of_an_integer(unique_id: Any, text: str) -> None:
    assert order_with(contact_unique_id=unique_id).contact_unique_id == text


@pytest.mark.parametrize("name", [*PRODUCT_NUMBERS, "product_sku"])
@pytest.mark.parametrize(
    "number",
    [
        0,
        -1,
        2**70,
        10**999,
        1.5,
        -0.0,
        5e-324,
        Decimal("10.10"),
        Decimal("1E+999999"),
        Decimal("1E-999999"),
        Whole(4),
        Real(1.5),
        Money("1.10"),
        Workflow.CONFIRMATION,
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_number_of_a_product_keeps_its_type_and_value(name: str, number: Any) -> None:
    product = Product(**{name: number})
    assert getattr(product, name) == number
    assert type(getattr(product, name)) is type(number)


@pytest.mark.parametrize("sku", ["", "0412", "412", "käse", Text("x")])
def test_an_sku_may_be_text_that_stays_text(sku: str) -> None:
    assert Product(product_sku=sku).product_sku == sku


@pytest.mark.parametrize("workflow", [1, 32, 2**63 - 1])
def test_a_workflow_is_an_integer_above_0(workflow: int) -> None:
    assert order_with(workflow_id=workflow).workflow_id == workflow


@pytest.mark.parametrize("name", URLS)
@pytest.mark.parametrize(
    "url",
    [
        "http://store.com",
        "https://store.com/",
        "HTTPS://STORE.COM/A",
        "http://store.com/order_url/2344",
        "https://source.unsplash.com/400x1300/?rap",
        "https://store.com?a=1#b",
        "https://store.com:8443/a",
        "http://localhost:65535",
        "https://user:secret@store.com/a",
        "https://[2001:db8::1]:80/a",
        "https://käse.example/→?ü=é",
        "https://store.com/a%20b|c[d]{e}\\f",
        "https://a_b.store.com/",
        "https://-odd-.store.com/",
        Text("https://store.com"),
    ],
)
def test_a_whole_url_is_taken_as_it_is(name: str, url: str) -> None:
    assert getattr(order_with(**{name: url}), name) == url


@pytest.mark.parametrize(
    "email",
    [
        "a@b.c",
        "a@localhost",
        "Bea@Example.ORG",
        "jö@example.com",
        "jo+tag@käse.example",
        "jo+tag@ka\u0308se.example",  # the dots are a character of their own
        "अजय@डाटा.भारत",
        "用户@例え.テスト",
        "jo.!#$%&'*+/=?^_`{|}~-@x-y.example",
    ],
)
@pytest.mark.parametrize("around", ["{}", " {}", "{} ", "\t{}\r\n", "\xa0{}\u2003"], ids=ascii)
def test_one_valid_email_address_is_trimmed(email: str, around: str) -> None:
    assert order_with(contact_email=around.format(email)).contact_email == email


@pytest.mark.parametrize(
    "email",
    [
        "@",
        "jo@",
        "@example.com",
        "jo@@example.com",
        "jo@example.com,bea@example.com",
        "jo@example.com;bea@example.com",
        "jo@example.com\uff0cbea@example.com",
        "<jo@example.com>",
        '"jo"@example.com',
        "mailto:jo@example.com",
        "jo@example..com",
        "jo@example.com.",
        "jo@-example.com",
        "jo@exam_ple.com",
        "jo@[10.0.0.1]",
        f"jo@{'x' * 64}.com",
        "jö@example.com,bea@example.com",
        "jo\u200b@example.com",
    ],
    ids=ascii,
)
def test_what_is_not_one_valid_email_address_is_a_fault(email: str) -> None:
    assert faults_of(order_with, contact_email=email) == (
        "contact_email: expected one valid e-mail address, such as ann@example.com",
    )


@pytest.mark.parametrize("name", ["order_id", "contact_unique_id", "total"])
@pytest.mark.parametrize("text", ["Mop\0", "Möp\0"])
def test_a_nul_is_a_fault(name: str, text: str) -> None:
    assert faults_of(order_with, **{name: text}) == (f"{name}: holds a NUL character",)
    product = {"product_name": text, "product_sku": text}
    assert faults_of(order_with, products=[product]) == (
        "products[0].product_name: holds a NUL character",
        "products[0].product_sku: holds a NUL character",
    )


@pytest.mark.parametrize(
    "bad",
    [
        {"products": [{"product_price": "ten"}] * 10_000},
        {"products": [7] * 10_000},
        {"products": [{"product_gallery": ["x"] * 10_000}]},
        {"products": [{f"a{n}": 1 for n in range(100_000)}]},
        {"products": [{}], **{f"a{n}": 1 for n in range(100_000)}},
    ],
    ids=["products", "no objects", "gallery", "keys of a product", "keys"],
)
def test_an_order_names_20_of_its_faults_and_says_that_there_are_more(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidOrderError) as caught:
        Order.from_mapping({"contact_email": "a@b.c", **bad})
    again = pickle.loads(pickle.dumps(caught.value))
    for error in (caught.value, again):
        assert len(error.faults) == 20
        assert str(error) == f"{'; '.join(error.faults)}; and more"


# -------------------------------------------------------------------------------- what is a fault

NOT_NUMBERS = [
    (True, "got true or false"),
    (False, "got true or false"),
    ("ten", "got text"),
    ("10", "got text"),
    ([1], "got a list"),
    ({"a": 1}, "got an object"),
    (b"10", "got a bytes"),
    (1j, "got a complex"),
    (NAN, "got NaN or an infinity"),
    (INFINITY, "got NaN or an infinity"),
    (-INFINITY, "got NaN or an infinity"),
    (Real("nan"), "got NaN or an infinity"),
    (Decimal("NaN"), "got NaN or an infinity"),
    (Decimal("-NaN123"), "got NaN or an infinity"),
    (Decimal("sNaN"), "got NaN or an infinity"),
    (Decimal("Infinity"), "got NaN or an infinity"),
    (Decimal("-Infinity"), "got NaN or an infinity"),
    (Money("sNaN"), "got NaN or an infinity"),
]
NOT_TEXT = [
    (True, "expected text, got true or false"),
    (1, "expected text, got a number"),
    (2.9, "expected text, got a number"),
    (Decimal(1), "expected text, got a number"),
    (["abc"], "expected text, got a list"),
    (("abc",), "expected text, got a list"),
    ({}, "expected text, got an object"),
    (b"abc", "expected text, got a bytes"),
    (Hostile(), "expected text, got a Hostile"),
    (SURROGATE, "holds a lone surrogate, which is not a character"),
    (f"Caf{SURROGATE}", "holds a lone surrogate, which is not a character"),
    (Text(SURROGATE), "holds a lone surrogate, which is not a character"),
]
BLANK = ["", " ", "\t\n", "\u00a0", "\u2003"]


def show(value: object) -> str:
    if isinstance(value, str | float | Decimal | bool) or value is None:
        return ascii(value)[:30]
    if isinstance(value, int) and value.bit_length() < 100:
        return str(value)
    return type(value).__name__


@pytest.mark.parametrize("name", PRODUCT_NUMBERS)
@pytest.mark.parametrize(("value", "told"), NOT_NUMBERS, ids=show)
def test_what_is_no_finite_number_is_a_fault(name: str, value: Any, told: str) -> None:
    assert faults_of(Product, **{name: value}) == (f"{name}: expected a number, {told}",)


@pytest.mark.parametrize("name", [*AMOUNTS, "order_id", "product_sku"])
@pytest.mark.parametrize(
    ("value", "told"), [case for case in NOT_NUMBERS if not isinstance(case[0], str)], ids=show
)
def test_what_is_neither_text_nor_a_finite_number_is_a_fault(
    name: str, value: Any, told: str
) -> None:
    make: Any = Product if name.startswith("product") else order_with
    assert faults_of(make, **{name: value}) == (f"{name}: expected text or a number, {told}",)


@pytest.mark.parametrize("name", [*AMOUNTS, "order_id", "product_sku", *PRODUCT_NUMBERS])
@pytest.mark.parametrize("value", [10**1001, -(10**5000), Whole(10**1001)], ids=show)
def test_an_integer_too_long_to_be_written_is_a_fault(name: str, value: int) -> None:
    make: Any = Product if name.startswith("product") else order_with
    assert faults_of(make, **{name: value}) == (f"{name}: is a number of over 1,000 digits",)


@pytest.mark.parametrize("name", [*PRODUCT_TEXTS, "product_url"])
@pytest.mark.parametrize(("value", "told"), NOT_TEXT, ids=show)
def test_what_is_no_text_is_a_fault_of_a_product(name: str, value: Any, told: str) -> None:
    assert faults_of(Product, **{name: value}) == (f"{name}: {told}",)


@pytest.mark.parametrize("name", ["contact_email", *URLS])
@pytest.mark.parametrize(("value", "told"), NOT_TEXT, ids=show)
def test_what_is_no_text_is_a_fault_of_an_order(name: str, value: Any, told: str) -> None:
    assert faults_of(order_with, **{name: value}) == (f"{name}: {told}",)


@pytest.mark.parametrize(
    ("value", "told"),
    [case for case in NOT_TEXT if type(case[0]) is not int]
    + [(1.0, "expected text, got a number"), (10**1001, "is a number of over 1,000 digits")],
    ids=show,
)
def test_what_is_no_text_and_no_integer_is_no_unique_id(value: Any, told: str) -> None:
    assert faults_of(order_with, contact_unique_id=value) == (f"contact_unique_id: {told}",)


@pytest.mark.parametrize("name", [*AMOUNTS, "order_id", "product_sku"])
def test_a_lone_surrogate_is_a_fault_where_text_or_a_number_may_stand(name: str) -> None:
    make: Any = Product if name.startswith("product") else order_with
    told = "holds a lone surrogate, which is not a character"
    assert faults_of(make, **{name: f"a{SURROGATE}b"}) == (f"{name}: {told}",)


@pytest.mark.parametrize("name", ["contact_email", "contact_unique_id", "order_id"])
@pytest.mark.parametrize("blank", BLANK, ids=ascii)
def test_a_blank_identifier_is_a_fault(name: str, blank: str) -> None:
    assert faults_of(order_with, **{name: blank}) == (f"{name}: is blank",)


@pytest.mark.parametrize("where", ["{0}jo@example.com", "jo{0}@example.com", "jo@example.com{0}"])
@pytest.mark.parametrize("name", ["jo", "jö"])  # plain ones are decided in another way
@pytest.mark.parametrize(
    "blank",
    [" ", "\t", "\n", "\r\nBcc: x", "\0", "\x1b[2J", "\x7f", "\x85", "\xa0", "\u2003", "\u2028"],
    ids=ascii,
)
def test_an_email_with_white_space_or_a_control_character_is_a_fault(
    where: str, name: str, blank: str
) -> None:
    if blank.isspace():  # around an address it is trimmed
        where = where.replace("{0}", "jo{0}jo")
    given = {"contact_email": where.format(blank).replace("jo", name), "products": [{}]}
    fault = (
        "contact_email: expected an e-mail address alone, found white space or a control "
        "character in it"
    )
    assert faults_of(Order.from_mapping, given) == (fault,)
    assert faults_of(Order, **given) == (fault,)


def test_a_name_beside_the_email_is_a_fault() -> None:
    (fault,) = faults_of(order_with, contact_email="Jo Ö <jo@example.com>")
    assert fault.startswith("contact_email: expected an e-mail address alone")


@pytest.mark.parametrize("email", ["None", "jo.example.com", "jo(at)example.com"])
def test_an_email_without_an_at_is_a_fault(email: str) -> None:
    assert faults_of(order_with, contact_email=email) == (
        "contact_email: expected an e-mail address, found no @",
    )


@pytest.mark.parametrize("name", [*URLS, "product_url"])
@pytest.mark.parametrize(
    "url",
    [
        "",
        " ",
        "store.com/a",
        "//store.com/a",
        "/a",
        "ftp://store.com",
        "javascript:alert(1)",
        "mailto:jo@example.com",
        "http",
        "http:",
        "http:/store.com",
        "http://",
        "https:///a",
        "https://?a",
        "https://.",
        "https://..-/a",
        "https://store.com:",
        "https://store.com:80a",
        "https://store.com:65536",
        "https://store.com:٣",
        "https://store .com",
        " https://store.com",
        "https://store.com ",
        "https://store.com\n",
        "https://store.com/a b",
        "https://store.com/a\tb",
        "https://store.com/a\r\nX: y",
        "https://store.com/\x00",
        "https://store.com/\x1b[31m",
        "https://store.com/\x7f",
        "https://store.com/\x85",
        "https://store.com/\x9b",
        "https://store.com/\u00a0",
        "https://store.com/\u2028",
        "https://sto\x00re.com/",
        "https://us\x00er@store.com/",
        "https://a@b@store.com/",
        "https://store.com\\a",
        "https://[::1/",
        "https://::1]/",
        "https://[store]/",
        "http\u017f://store.com",
        "https://<store>/",
    ],
    ids=ascii,
)
def test_a_malformed_url_is_a_fault(name: str, url: str) -> None:
    make: Any = Product if name.startswith("product") else order_with
    assert faults_of(make, **{name: url}) == (f"{name}: {NOT_A_URL}",)


@pytest.mark.parametrize(
    ("workflow", "told"),
    [
        (0, ""),
        (-1, ""),
        (2**63, ""),
        (10**5000, ""),
        (True, ", got true or false"),
        (32.0, ", got a number"),
        (Decimal(32), ", got a number"),
        (Workflow.CONFIRMATION, ", got a number"),
        ("32", ", got text"),
        ([32], ", got a list"),
    ],
    ids=show,
)
def test_a_workflow_that_is_no_integer_above_0_is_a_fault(workflow: Any, told: str) -> None:
    assert faults_of(order_with, workflow_id=workflow) == (
        f"workflow_id: expected an integer above 0{told}",
    )


@pytest.mark.parametrize(
    ("products", "told"),
    [
        (None, "at least one is required"),
        ([], "at least one is required"),
        ((), "at least one is required"),
        ("abc", "expected a list, got text"),
        ("", "expected a list, got text"),
        ({}, "expected a list, got an object"),
        ({"product_name": "a"}, "expected a list, got an object"),
        (Product(), "expected a list, got a Product"),
        ({1}, "expected a list, got a set"),
        (iter([Product()]), "expected a list, got a list_iterator"),
        (0, "expected a list, got a number"),
        (False, "expected a list, got true or false"),
        (Hostile(), "expected a list, got a Hostile"),
    ],
    ids=show,
)
def test_products_that_are_no_list_of_at_least_one_are_a_fault(products: Any, told: str) -> None:
    assert faults_of(order_with, products=products) == (f"products: {told}",)
    assert faults_of(Order.from_mapping, {"contact_email": "a@b.c", "products": products}) == (
        f"products: {told}",
    )


@pytest.mark.parametrize(
    ("product", "told"),
    [
        (None, "null"),
        ("abc", "text"),
        ([("product_name", "a")], "a list"),
        (5, "a number"),
        (True, "true or false"),
        (Hostile(), "a Hostile"),
        (Order, "a type"),
    ],
    ids=show,
)
def test_a_product_that_is_no_object_is_a_fault(product: Any, told: str) -> None:
    assert faults_of(order_with, products=[{}, product]) == (
        f"products[1]: expected an object, got {told}",
    )
    assert faults_of(Product.from_mapping, product) == (f"product: expected an object, got {told}",)


@pytest.mark.parametrize(
    ("given_", "told"),
    [
        (None, "null"),
        ("abc", "text"),
        ([], "a list"),
        (5, "a number"),
        (True, "true or false"),
        (b"{}", "a bytes"),
        (Hostile(), "a Hostile"),
    ],
    ids=show,
)
def test_an_order_that_is_no_object_is_a_fault(given_: Any, told: str) -> None:
    assert faults_of(Order.from_mapping, given_) == (f"order: expected an object, got {told}",)


@pytest.mark.parametrize(
    ("gallery", "told"),
    [
        ("https://store.com/a.png", ("product_gallery: expected a list, got text",)),
        ("abc", ("product_gallery: expected a list, got text",)),
        ({}, ("product_gallery: expected a list, got an object",)),
        ({"https://a.b"}, ("product_gallery: expected a list, got a set",)),
        (0, ("product_gallery: expected a list, got a number",)),
        (
            ["https://a.b", None, 5, "abc"],
            (
                "product_gallery[1]: expected text, got null",
                "product_gallery[2]: expected text, got a number",
                f"product_gallery[3]: {NOT_A_URL}",
            ),
        ),
    ],
    ids=ascii,
)
def test_a_gallery_that_is_no_list_of_urls_is_a_fault(gallery: Any, told: tuple[str, ...]) -> None:
    assert faults_of(Product, product_gallery=gallery) == told


def test_an_empty_gallery_is_a_gallery() -> None:
    assert Product(product_gallery=[]).product_gallery == ()


def test_an_order_without_a_contact_is_a_fault() -> None:
    assert faults_of(Order, products=[{}]) == (
        "contact_email or contact_unique_id: one of the two is required",
    )


def test_an_unknown_key_is_a_fault_that_names_it() -> None:
    given_ = {
        "contact_email": "a@b.c",
        "Order_id": "1",
        "products": [{"product_name": "a", "price": 5}, {"qty": 1}],
    }
    assert faults_of(Order.from_mapping, given_) == (
        "Order_id: no such field",
        "products[0].price: no such field",
        "products[1].qty: no such field",
    )


@pytest.mark.parametrize(
    "key", ["Order ID", "billing-name", "items[0].price", "a/b", "2nd line", "_x", "x" * 40]
)
def test_an_unknown_key_that_looks_like_a_columns_name_is_named(key: str) -> None:
    given_ = {"contact_email": "a@b.c", "products": [{key: 1}], key: 1}
    assert faults_of(Order.from_mapping, given_) == (
        f"{key}: no such field",
        f"products[0].{key}: no such field",
    )


@pytest.mark.parametrize(
    "key",
    [
        *("jo@example.com", "jo at example@com", "27 82 555 0100", "0800/55", "Jöran", "x" * 41),
        *("", " ", "a\nb", "a: b", "\x1b[31m", SURROGATE, 5, None),
    ],
    ids=ascii,
)
def test_an_unknown_key_that_may_be_a_value_is_not_repeated(key: Any) -> None:
    given_ = {"contact_email": "a@b.c", "products": [{key: 1}], key: 1}
    assert faults_of(Order.from_mapping, given_) == (
        "order: has a key that is not the name of a field",
        "products[0]: has a key that is not the name of a field",
    )


@pytest.mark.parametrize(
    ("order_id", "told"),
    [
        ("77", "77"),
        (77, "77"),
        (2**64 - 1, str(2**64 - 1)),
        (2**64, None),
        (10**5000, None),
        (True, None),
        (None, None),
        (NAN, None),
        ([77], None),
    ],
    ids=lambda value: str(value)[:20] if not isinstance(value, int) else hex(value)[:20],
)
def test_an_invalid_order_is_named_by_its_id_where_that_can_be_written(
    order_id: Any, told: str | None
) -> None:
    with pytest.raises(InvalidOrderError) as caught:
        Order.from_mapping({"order_id": order_id, "products": []})
    assert caught.value.order_id == told


def test_what_is_no_order_has_no_id() -> None:
    with pytest.raises(InvalidOrderError) as caught:
        Order.from_mapping("77")  # type: ignore[arg-type]
    assert caught.value.order_id is None


def test_an_argument_that_is_no_field_is_a_type_error() -> None:
    fields: dict[str, Any] = {"contact_email": "a@b.c", "products": [{}], "price": 1}
    with pytest.raises(TypeError, match="price"):
        Order(**fields)


def test_every_fault_is_told_at_once_each_with_the_path_of_its_field() -> None:
    given_ = {
        "contact_email": "",
        "contact_unique_id": 1.5,
        "order_link_url": "store",
        "order_id": " ",
        "sub_total": NAN,
        "shipping_fee": True,
        "taxes": [],
        "total": Decimal("sNaN"),
        "discount": SURROGATE,
        "checkout_url": 5,
        "workflow_id": 0,
        "surplus": 1,
        "products": [
            {},
            {
                "product_name": 1,
                "product_price": "ten",
                "product_sku": [],
                "product_line_total": INFINITY,
                "product_special_price": 10**1001,
                "product_url": "x",
            },
            "mop",
        ],
    }
    assert sorted(faults_of(Order.from_mapping, given_)) == sorted(
        [
            "contact_email: is blank",
            "contact_unique_id: expected text, got a number",
            f"order_link_url: {NOT_A_URL}",
            "order_id: is blank",
            "sub_total: expected text or a number, got NaN or an infinity",
            "shipping_fee: expected text or a number, got true or false",
            "taxes: expected text or a number, got a list",
            "total: expected text or a number, got NaN or an infinity",
            "discount: holds a lone surrogate, which is not a character",
            "checkout_url: expected text, got a number",
            "workflow_id: expected an integer above 0",
            "surplus: no such field",
            "products[1].product_name: expected text, got a number",
            "products[1].product_price: expected a number, got text",
            "products[1].product_sku: expected text or a number, got a list",
            "products[1].product_line_total: expected a number, got NaN or an infinity",
            "products[1].product_special_price: is a number of over 1,000 digits",
            f"products[1].product_url: {NOT_A_URL}",
            "products[2]: expected an object, got text",
        ]
    )


WRONG: dict[str, Any] = {
    "contact_email": " ",
    "contact_unique_id": 1.5,
    "order_link_url": "x",
    "order_id": [],
    "sub_total": True,
    "shipping_fee": NAN,
    "taxes": {},
    "total": b"",
    "discount": SURROGATE,
    "checkout_url": 1,
    "workflow_id": "1",
    "products": "abc",
}


@given(ORDERS, st.sets(st.sampled_from(sorted(WRONG)), min_size=1))
def test_the_faults_are_those_of_the_wrong_fields_and_no_others(
    fields: dict[str, Any], wrong: set[str]
) -> None:
    faults = faults_of(Order.from_mapping, {**fields, **{name: WRONG[name] for name in wrong}})
    assert sorted(fault.partition(":")[0] for fault in faults) == sorted(wrong)


def test_a_faulty_field_is_told_the_same_way_by_arguments_and_by_a_mapping() -> None:
    assert faults_of(Order, **WRONG) == faults_of(Order.from_mapping, WRONG)


# ------------------------------------------------------------------------- what no message may hold

MARKER = "Zyx9Marker7Qw"
HOLDERS = st.sampled_from(
    [
        MARKER,
        f"{MARKER}{SURROGATE}",
        f"https://store.com/{MARKER} x",
        MARKER.encode(),
        [MARKER],
        {MARKER: MARKER},
        {f"{MARKER}@example.com": 1},
        (MARKER, None),
        {MARKER},
        bytearray(MARKER.encode()),
        Text(MARKER),
        Hostile(),
    ]
)


@given(
    st.dictionaries(st.sampled_from(sorted(ORDER_FIELDS)), HOLDERS),
    st.dictionaries(st.sampled_from(sorted(PRODUCT_FIELDS)), HOLDERS),
    st.booleans(),
)
def test_no_value_of_an_order_is_in_a_fault_its_repr_or_its_traceback(
    fields: dict[str, Any], product: dict[str, Any], as_given: bool
) -> None:
    given_ = fields if as_given else {**fields, "products": [product]}
    try:
        order = Order.from_mapping(given_)
    except InvalidOrderError as error:
        told = [str(error), repr(error), *traceback.format_exception(error), repr(error.args)]
    else:
        told = [repr(order), str(order), f"{order}"] if order.order_id is None else []
    assert not any(MARKER in text for text in told)


def test_the_repr_of_an_order_tells_the_shops_numbers_and_nothing_of_the_customer() -> None:
    fields = dict.fromkeys(("sub_total", "shipping_fee", "taxes", "total", "discount"), MARKER)
    urls = dict.fromkeys(URLS, f"https://store.com/{MARKER}")
    order = Order(
        contact_email=f"{MARKER}@example.com",
        contact_unique_id=MARKER,
        order_id="1001",
        workflow_id=32,
        products=[{"product_name": MARKER}, {}],
        **fields,
        **urls,
    )
    shown = "<Order order_id='1001' workflow_id=32 products=2>"
    assert [repr(order), str(order), f"{order}", repr([order])] == [
        shown,
        shown,
        shown,
        f"[{shown}]",
    ]


# --------------------------------------------------------------------------------- frozen values


def test_an_order_and_a_product_are_frozen() -> None:
    order, product = order_with(), Product()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        order.total = "1"  # type: ignore[misc]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        product.product_name = "a"  # type: ignore[misc]


def test_what_the_caller_does_to_the_lists_later_does_not_reach_the_order() -> None:
    gallery = ["https://store.com/a.png"]
    mapping: dict[str, Any] = {"product_gallery": gallery}
    products: list[Product | Mapping[str, Any]] = [mapping]
    order = order_with(products=products)

    gallery.append("no URL")
    mapping["product_name"] = "changed"
    products.append(Product())

    assert order.products == (Product(product_gallery=("https://store.com/a.png",)),)


@given(ORDERS)
def test_equal_orders_hash_alike_and_survive_pickling_and_copying(fields: dict[str, Any]) -> None:
    order = Order.from_mapping(fields)
    for twin in (Order.from_mapping(fields), pickle.loads(pickle.dumps(order)), copy.copy(order)):
        assert twin == order
        assert hash(twin) == hash(order)


def test_a_changed_copy_is_validated_like_a_new_order() -> None:
    order = order_with(order_id=1)
    assert attrs.evolve(order, total=Decimal("1.10")).total == "1.10"
    assert faults_of(attrs.evolve, order, total=NAN) == (
        "total: expected text or a number, got NaN or an infinity",
    )


# ---------------------------------------------------------------------------- numbers, in digits


@given(DECIMALS)
def test_a_decimal_is_written_with_its_value(number: Decimal) -> None:
    assert Decimal(format_number(number)) == number


@given(WITH_ALL_DIGITS)
def test_a_decimal_is_written_digit_by_digit_trailing_zeros_included(number: Decimal) -> None:
    assert Decimal(format_number(number)).as_tuple() == number.as_tuple()


@given(FLOATS)
def test_a_float_is_written_in_its_shortest_decimal_form(number: float) -> None:
    assert Decimal(format_number(number)) == Decimal(repr(number))
    assert float(format_number(number)) == number


@given(INTEGERS)
def test_an_integer_is_written_as_its_digits(number: int) -> None:
    assert format_number(number) == str(number)


@given(st.integers(-64, 64))
def test_an_everyday_number_is_written_without_an_exponent(exponent: int) -> None:
    assert "E" not in format_number(Decimal((0, (1, 2, 3), exponent))).upper()


def test_a_number_with_a_huge_exponent_is_not_written_out() -> None:
    assert format_number(Decimal("1.5E+999999999")) == "1.5E+999999999"
    assert format_number(Decimal("1.5E-999999999")) == "1.5E-999999999"
