"""`Order` and `Product`: what is valid, what is a fault, and that no fault shows a value."""

from __future__ import annotations

import copy
import pickle
import traceback
from collections import UserDict
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from order_strategies import (
    AMOUNTS,
    ORDERS,
    PRODUCT_NUMBERS,
    Money,
    Real,
    Text,
    Whole,
    Workflow,
    order_with,
    show,
)

from everlytic_async.errors import InvalidOrderError
from everlytic_async.orders import Order, Product, check_mapping

NAN, INFINITY = float("nan"), float("inf")
SURROGATE = "\ud800"

PRODUCT_TEXTS = ("product_name", "product_description")
PRODUCT_FIELDS = {
    *PRODUCT_TEXTS,
    *PRODUCT_NUMBERS,
    *("product_sku", "product_url", "product_gallery"),
}
URLS = ("order_link_url", "checkout_url")
ORDER_FIELDS = {
    *("contact_email", "contact_unique_id", "order_id", "products", "workflow_id"),
    *AMOUNTS,
    *URLS,
}


class Hostile:
    """Raises when it is compared, tested or shown."""

    def __eq__(self, other: object) -> bool:
        raise AssertionError

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise AssertionError

    def __repr__(self) -> str:
        raise AssertionError


def make_with(name: str, value: Any) -> Any:
    """A product or an order with one field; the field's value."""
    made = Product(**{name: value}) if name in PRODUCT_FIELDS else order_with(**{name: value})
    return getattr(made, name)


def faults(make: Any, *args: Any, **fields: Any) -> tuple[str, ...]:
    with pytest.raises(InvalidOrderError) as caught:
        make(*args, **fields)
    return caught.value.faults


# ---------------------------------------------------------------------------------- what is valid


def test_the_models_have_every_field_of_the_documentation_and_no_other() -> None:
    assert {field.name for field in attrs.fields(Order)} == ORDER_FIELDS
    assert {field.name for field in attrs.fields(Product)} == PRODUCT_FIELDS


def test_null_and_unset_are_none() -> None:
    nulls: dict[str, Any] = dict.fromkeys(ORDER_FIELDS - {"contact_email", "products"})
    mapping = {"contact_email": "jo@x.y", "products": [dict.fromkeys(PRODUCT_FIELDS)], **nulls}
    order = Order.from_mapping(mapping)
    assert order == Order(contact_email="jo@x.y", products=[Product()])
    assert {name: getattr(order, name) for name in nulls} == nulls
    assert attrs.asdict(Product()) == dict.fromkeys(PRODUCT_FIELDS)


@pytest.mark.parametrize("kind", [dict, MappingProxyType, UserDict])
def test_any_mapping_will_do(kind: Any) -> None:
    order = Order.from_mapping(kind({"contact_email": "a@b.c", "products": [kind({}), Product()]}))
    assert order == Order(contact_email="a@b.c", products=[Product(), Product()])


@given(ORDERS)
def test_a_mapping_makes_the_same_order_as_arguments_hashable_and_picklable(
    fields: dict[str, Any],
) -> None:
    order = Order.from_mapping(fields)
    products = [Product(**product) for product in fields["products"]]
    by_arguments = Order(**{**fields, "products": products})
    for twin in (by_arguments, pickle.loads(pickle.dumps(order)), copy.copy(order)):
        assert twin == order
        assert hash(twin) == hash(order)


def test_totals_are_not_checked_against_each_other() -> None:
    assert order_with(sub_total="1", total="-5", discount="99", taxes="lots").taxes == "lots"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("product_sku", ["", "0412", "412", "käse", Text("x")]),
        ("contact_unique_id", ["007", "7"]),
        *((name, ["", "010.10", "R 1 000,00", " #1"]) for name in AMOUNTS),
        ("order_id", [" #1001", "000000003"]),
        ("workflow_id", [1, 32, 2**63 - 1]),
        ("product_gallery", [()]),
    ],
)
def test_a_valid_value_is_kept_as_it_is(name: str, values: list[Any]) -> None:
    assert [make_with(name, value) for value in values] == values


@pytest.mark.parametrize(
    "url",
    [
        "http://store.com",
        "https://store.com/",
        "HTTPS://STORE.COM/A",
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
def test_a_whole_url_is_kept_as_it_is(url: str) -> None:
    for name in (*URLS, "product_url"):
        assert make_with(name, url) == url


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
def test_an_email_address_is_trimmed(email: str) -> None:
    for around in ("{}", " {}", "{} ", "\t{}\r\n", "\xa0{}\u2003"):
        assert make_with("contact_email", around.format(email)) == email


# -------------------------------------------------------------------------------- what is a fault

NOT_FINITE = [
    *(NAN, INFINITY, -INFINITY, Real("nan"), Decimal("NaN"), Decimal("-NaN123")),
    *(Decimal("sNaN"), Decimal("Infinity"), Decimal("-Infinity"), Money("sNaN")),
]
NOT_NUMBERS: list[tuple[Any, str]] = [
    (True, "got true or false"),
    (False, "got true or false"),
    ([1], "got a list"),
    ({"a": 1}, "got an object"),
    (b"10", "got a bytes"),
    (1j, "got a complex"),
    *((number, "got NaN or an infinity") for number in NOT_FINITE),
]
NO_CHARACTER = "holds a lone surrogate, which is not a character"
NOT_TEXT: list[tuple[Any, str]] = [
    (True, "expected text, got true or false"),
    (2.9, "expected text, got a number"),
    (NAN, "expected text, got NaN or an infinity"),
    (Decimal(1), "expected text, got a number"),
    (["abc"], "expected text, got a list"),
    (("abc",), "expected text, got a list"),
    ({}, "expected text, got an object"),
    (b"abc", "expected text, got a bytes"),
    (Hostile(), "expected text, got a Hostile"),
    *((text, NO_CHARACTER) for text in (SURROGATE, f"Caf{SURROGATE}", Text(SURROGATE))),
    ("Möp\0", "holds a NUL character"),
]
AN_INTEGER = (1, "expected text, got a number")
TOO_LONG = "is a number of over 1,000 digits"
TOO_MANY = "over 10,000 items, more than are accepted"
NOT_A_URL = "expected a whole URL, from http:// or https:// on and without spaces"
NOT_AN_EMAIL = "expected one valid e-mail address, such as ann@example.com"
NOT_ALONE = "expected an e-mail address alone, found white space or a control character in it"
MALFORMED_URLS = [
    *("", " ", "store.com/a", "//store.com/a", "/a", "ftp://store.com", "javascript:alert(1)"),
    *("mailto:jo@example.com", "http", "http:", "http:/store.com", "http://", "https:///a"),
    *("https://?a", "https://.", "https://..-/a", "https://store.com:", "https://store.com:80a"),
    *("https://store.com:65536", "https://store.com:٣", "https://store .com", " https://store.com"),
    *("https://store.com ", "https://store.com\n", "https://store.com/a b", "https://store.com/\t"),
    *("https://store.com/a\r\nX: y", "https://store.com/\x1b[31m", "https://store.com/\x7f"),
    *("https://store.com/\x85", "https://store.com/\x9b", "https://store.com/\u00a0"),
    *(
        "https://store.com/\u2028",
        "https://a@b@store.com/",
        "https://store.com/\x00",
        "https://sto\x00re.com/",
    ),
    *("https://store.com\\a", "https://[::1/", "https://::1]/", "https://[store]/"),
    *("http\u017f://store.com", "https://<store>/"),
    "https://store.com/a\nhttps://store.com/b",
]
INVALID_EMAILS = [
    *("@", "jo@", "@example.com", "jo@@example.com", "jo@example.com,bea@example.com"),
    *("jo@example.com;bea@example.com", "jo@example.com\uff0cbea@example.com", "<jo@example.com>"),
    *('"jo"@example.com', "mailto:jo@example.com", "jo@example..com", "jo@example.com."),
    *("jo@-example.com", "jo@exam_ple.com", "jo@[10.0.0.1]", f"jo@{'x' * 64}.com"),
    *("jö@example.com,bea@example.com", "jo\u200b@example.com"),
]
IDENTIFIERS = ("contact_email", "contact_unique_id", "order_id")
TEXT_OR_NUMBER = (*AMOUNTS, "order_id", "product_sku")
#: A rule for some fields: by the rule's name, its fields, and for each value what is said of it.
RULES: dict[str, tuple[tuple[str, ...], list[tuple[Any, str]]]] = {
    "numbers": (
        PRODUCT_NUMBERS,
        [
            *((value, f"expected a number, {said}") for value, said in NOT_NUMBERS),
            ("ten", "expected a number, got text"),
            ("10", "expected a number, got text"),
        ],
    ),
    "text or number": (
        TEXT_OR_NUMBER,
        [
            *((value, f"expected text or a number, {said}") for value, said in NOT_NUMBERS),
            (f"a{SURROGATE}b", NO_CHARACTER),
            ("Mop\0", "holds a NUL character"),
        ],
    ),
    "long numbers": (
        (*TEXT_OR_NUMBER, *PRODUCT_NUMBERS),
        [(value, TOO_LONG) for value in (10**1001, -(10**5000), Whole(10**1001))],
    ),
    "text": ((*PRODUCT_TEXTS, *URLS, "product_url"), [*NOT_TEXT[:-1], AN_INTEGER]),
    "NUL": (PRODUCT_TEXTS, NOT_TEXT[-1:]),
    "identifiers": (("contact_email", "contact_unique_id"), NOT_TEXT[:-1]),
    "unique id": (("contact_unique_id",), [NOT_TEXT[-1], (10**1001, TOO_LONG)]),
    "blank": (IDENTIFIERS, [(text, "is blank") for text in ("", " ", "\t\n", "\u00a0", "\u2003")]),
    "URLs": ((*URLS, "product_url"), [(url, NOT_A_URL) for url in MALFORMED_URLS]),
    "e-mail": (
        ("contact_email",),
        [
            AN_INTEGER,
            *((email, NOT_AN_EMAIL) for email in INVALID_EMAILS),
            *(
                (email, "expected an e-mail address, found no @")
                for email in ("None", "jo.example.com", "jo(at)example.com")
            ),
            ("Jo Ö <jo@example.com>", NOT_ALONE),
        ],
    ),
    "workflow": (
        ("workflow_id",),
        [
            *((number, "expected an integer above 0") for number in (0, -1, 2**63, 10**5000)),
            (True, "expected an integer above 0, got true or false"),
            *(
                (number, "expected an integer above 0, got a number")
                for number in (32.0, Decimal(32), Workflow.CONFIRMATION)
            ),
            ("32", "expected an integer above 0, got text"),
            ([32], "expected an integer above 0, got a list"),
        ],
    ),
    "products": (
        ("products",),
        [
            *((value, "at least one is required") for value in (None, [], ())),
            ([{}] * 10_001, TOO_MANY),
            *((value, "expected a list, got text") for value in ("abc", "")),
            *((value, "expected a list, got an object") for value in ({}, {"product_name": "a"})),
            (Product(), "expected a list, got a Product"),
            ({1}, "expected a list, got a set"),
            (iter([Product()]), "expected a list, got a list_iterator"),
            (0, "expected a list, got a number"),
            (False, "expected a list, got true or false"),
            (Hostile(), "expected a list, got a Hostile"),
        ],
    ),
    "gallery": (
        ("product_gallery",),
        [
            ("https://store.com/a.png", "expected a list, got text"),
            (["https://store.com/a.png"] * 10_001, TOO_MANY),
            ({}, "expected a list, got an object"),
            ({"https://a.b"}, "expected a list, got a set"),
            (0, "expected a list, got a number"),
        ],
    ),
}


#: A value for each field of a product.
VALID: dict[str, Any] = {
    **dict.fromkeys((*PRODUCT_TEXTS, "product_sku"), "mop"),
    **dict.fromkeys(PRODUCT_NUMBERS, 1.5),
    "product_url": "https://a.b",
    "product_gallery": ["https://a.b"],
}


@pytest.mark.parametrize("rule", RULES)
def test_a_value_that_breaks_a_rule_is_a_fault_of_its_field(rule: str) -> None:
    fields, cases = RULES[rule]
    for name in fields:
        for value, said in cases:
            if name in PRODUCT_FIELDS:
                assert faults(Product, **{name: value}) == (f"{name}: {said}",), show(value)
                products = [{name: VALID[name]} for _ in range(9)]
                products[7] = {name: value}  # many that are alike are checked together
                found = check_mapping({"contact_email": "a@b.c", "products": products})
                assert isinstance(found, InvalidOrderError), show(value)
                assert found.faults == (f"products[7].{name}: {said}",)
                continue
            assert faults(order_with, **{name: value}) == (f"{name}: {said}",), show(value)
            mapping = {"contact_email": "a@b.c", "products": [{}], name: value}
            assert faults(Order.from_mapping, mapping) == (f"{name}: {said}",), show(value)
            found = check_mapping(mapping)
            assert isinstance(found, InvalidOrderError), show(value)
            assert found.faults == (f"{name}: {said}",)


@pytest.mark.parametrize("url", [*MALFORMED_URLS, *NOT_TEXT], ids=show)
def test_a_malformed_url_is_a_fault_in_one_of_many_galleries(url: Any) -> None:
    products = [{"product_gallery": ["https://a.b", "https://a.b/c"]} for _ in range(9)]
    products[7] = {"product_gallery": ["https://a.b", url]}
    found = check_mapping({"contact_email": "a@b.c", "products": products})
    assert isinstance(found, InvalidOrderError)
    [fault] = found.faults
    assert fault.startswith("products[7].product_gallery[1]: expected ")


@pytest.mark.parametrize("name", ["jo", "jö"])
@pytest.mark.parametrize(
    "control",
    [" ", "\t", "\n", "\r\nBcc: x", "\0", "\x1b[2J", "\x7f", "\x85", "\xa0", "\u2003", "\u2028"],
    ids=ascii,
)
def test_white_space_or_a_control_character_in_an_email_is_a_fault(control: str, name: str) -> None:
    places = ["jo{0}jo@example.com", "jo{0}@example.com", "jo@ex{0}ample.com"]
    if not control.isspace():  # around an address white space is trimmed
        places += ["{0}jo@example.com", "jo@example.com{0}"]
    for place in places:
        email = place.format(control).replace("jo", name)
        assert faults(order_with, contact_email=email) == (f"contact_email: {NOT_ALONE}",)


def test_an_order_without_a_contact_is_a_fault() -> None:
    assert faults(Order, products=[{}]) == (
        "contact_email or contact_unique_id: one of the two is required",
    )


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        *((None, "null"), ("abc", "text"), ([("product_name", "a")], "a list"), (5, "a number")),
        *((True, "true or false"), (b"{}", "a bytes"), (Hostile(), "a Hostile"), (Order, "a type")),
    ],
    ids=show,
)
def test_an_order_or_product_that_is_not_an_object_is_a_fault(value: Any, kind: str) -> None:
    said = f"expected an object, got {kind}"
    assert faults(Order.from_mapping, value) == (f"order: {said}",)
    assert faults(Product.from_mapping, value) == (f"product: {said}",)
    assert faults(order_with, products=[{}, value]) == (f"products[1]: {said}",)


NAMED_KEYS = ["Order ID", "billing-name", "items[0].price", "a/b", "2nd line", "_x", "x" * 40]
#: They may be values in the wrong place.
UNNAMED_KEYS = [
    *("jo@example.com", "jo at example@com", "27 82 555 0100", "0800/55", "Jöran", "x" * 41),
    *("", " ", "a\nb", "a: b", "\x1b[31m", SURROGATE, 5, None),
]


@pytest.mark.parametrize("key", [*NAMED_KEYS, *UNNAMED_KEYS], ids=ascii)
def test_an_unknown_key_is_named_if_it_looks_like_a_field(key: Any) -> None:
    expected = (f"{key}: no such field", f"products[0].{key}: no such field")
    if key in UNNAMED_KEYS:
        no_name = "has a key that is not the name of a field"
        expected = (f"order: {no_name}", f"products[0]: {no_name}")
    mapping = {"contact_email": "a@b.c", "products": [{key: 1}], key: 1}
    assert faults(Order.from_mapping, mapping) == expected


def test_an_argument_that_is_not_a_field_is_a_type_error() -> None:
    fields: dict[str, Any] = {"contact_email": "a@b.c", "products": [{}], "price": 1}
    with pytest.raises(TypeError, match="price"):
        Order(**fields)


@pytest.mark.parametrize(
    ("order_id", "shown"),
    [
        *(("77", "77"), (77, "77"), (2**64 - 1, str(2**64 - 1)), (2**64, None), (10**5000, None)),
        *((True, None), (None, None), (NAN, None), ([77], None)),
    ],
    ids=show,
)
def test_an_invalid_order_has_its_id_if_that_can_be_written(
    order_id: Any, shown: str | None
) -> None:
    with pytest.raises(InvalidOrderError) as caught:
        Order.from_mapping({"order_id": order_id, "products": []})
    assert caught.value.order_id == shown


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
    found = faults(Order.from_mapping, {**fields, **{name: WRONG[name] for name in wrong}})
    assert sorted(fault.partition(":")[0] for fault in found) == sorted(wrong)


def test_every_fault_of_a_product_has_the_path_of_its_field() -> None:
    product = {
        "product_name": 1,
        "product_special_price": 10**1001,
        "product_url": "x",
        "product_gallery": ["https://a.b", None, 5, "abc"],
    }
    assert sorted(faults(order_with, products=[{}, product, "mop"])) == [
        "products[1].product_gallery[1]: expected text, got null",
        "products[1].product_gallery[2]: expected text, got a number",
        f"products[1].product_gallery[3]: {NOT_A_URL}",
        "products[1].product_name: expected text, got a number",
        f"products[1].product_special_price: {TOO_LONG}",
        f"products[1].product_url: {NOT_A_URL}",
        "products[2]: expected an object, got text",
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"products": [{"product_price": "ten"}] * 10_000},
        {"products": [7] * 10_000},
        {"products": [{"product_gallery": ["x"] * 10_000}]},
        {"products": [{f"a{n}": 1 for n in range(100_000)}]},
        {"products": [{}], **{f"a{n}": 1 for n in range(100_000)}},
    ],
    ids=["products", "not objects", "gallery", "keys of a product", "keys"],
)
def test_an_order_names_20_faults_and_says_that_there_are_more(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidOrderError) as caught:
        Order.from_mapping({"contact_email": "a@b.c", **fields})
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert len(error.faults) == 20
        assert str(error) == f"{'; '.join(error.faults)}; and more"


# ------------------------------------------------------------------------- what no message may hold

MARKER = "Zyx9Marker7Qw"
HOLDERS = st.sampled_from(
    [
        *(MARKER, f"{MARKER}{SURROGATE}", f"https://store.com/{MARKER} x", MARKER.encode()),
        *([MARKER], {MARKER: MARKER}, {f"{MARKER}@example.com": 1}, (MARKER, None), {MARKER}),
        *(bytearray(MARKER.encode()), Text(MARKER), Hostile()),
    ]
)


@given(
    st.dictionaries(st.sampled_from(sorted(ORDER_FIELDS)), HOLDERS),
    st.none() | st.dictionaries(st.sampled_from(sorted(PRODUCT_FIELDS)), HOLDERS),
)
def test_no_value_of_an_order_is_in_a_fault_its_repr_or_its_traceback(
    fields: dict[str, Any], product: dict[str, Any] | None
) -> None:
    try:
        order = Order.from_mapping(fields if product is None else {**fields, "products": [product]})
    except InvalidOrderError as error:
        shown = [str(error), repr(error), *traceback.format_exception(error), repr(error.args)]
    else:
        shown = [repr(order), str(order)] if order.order_id is None else []
    assert not any(MARKER in text for text in shown)


def test_the_repr_of_an_order_shows_the_shops_numbers_and_nothing_of_the_customer() -> None:
    order = Order(
        contact_email=f"{MARKER}@example.com",
        contact_unique_id=MARKER,
        order_id="1001",
        workflow_id=32,
        products=[{"product_name": MARKER}, {}],
        **dict.fromkeys(AMOUNTS, MARKER),
        **dict.fromkeys(URLS, f"https://store.com/{MARKER}"),
    )
    assert {repr(order), str(order), f"{order}"} == {
        "<Order order_id='1001' workflow_id=32 products=2>"
    }


# --------------------------------------------------------------------------------- frozen values


@pytest.mark.parametrize(("model", "name"), [(order_with(), "total"), (Product(), "product_name")])
def test_a_model_is_frozen(model: object, name: str) -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(model, name, "1")


def test_later_changes_to_the_callers_lists_do_not_reach_the_order() -> None:
    gallery = ["https://store.com/a.png"]
    mapping: dict[str, Any] = {"product_gallery": gallery}
    products: list[Any] = [mapping]
    order = order_with(products=products)

    gallery.append("not a URL")
    mapping["product_name"] = "changed"
    products.append(Product())

    assert order.products == (Product(product_gallery=("https://store.com/a.png",)),)


def test_a_changed_copy_is_validated_like_a_new_order() -> None:
    assert attrs.evolve(order_with(), total=Decimal("1.10")).total == "1.10"
    assert faults(attrs.evolve, order_with(), total=NAN)
