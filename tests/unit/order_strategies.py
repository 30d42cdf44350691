"""Valid orders of every shape, for hypothesis, and values of every class that an order may hold."""

from __future__ import annotations

import enum
import string
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from everlytic_async.orders import Order

#: Numbers of a product: numbers on the wire as well. Amounts of an order: texts.
PRODUCT_NUMBERS = (
    *("product_price", "product_quantity", "product_line_total", "product_special_price"),
)
AMOUNTS = ("sub_total", "shipping_fee", "taxes", "total", "discount")


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
    HUGE = 2**70


def show(value: object) -> str:
    """A short name for a test's value."""
    if isinstance(value, str | float | Decimal | bool) or value is None:
        return ascii(value)[:30]
    if isinstance(value, int) and value.bit_length() < 100:
        return str(value)
    return type(value).__name__


def order_with(**fields: Any) -> Order:
    """An order that is valid but for these fields."""
    return Order(**{"contact_email": "jo@example.com", "products": [{}], **fields})


# Without lone surrogates and NUL, with every other character.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=30)
IDENTIFIERS = TEXTS.filter(lambda text: text.strip() != "")
# By the WHATWG HTML standard's pattern, with letters outside of ASCII in both parts.
_LETTERS = st.text(st.characters(categories=["Lu", "Ll", "Lo", "Nd"]), min_size=1, max_size=30)
EMAILS = st.emails(domains=st.just("example.com")) | st.builds("{}@{}".format, _LETTERS, _LETTERS)
URLS = st.builds(
    "{}://{}{}".format,
    st.sampled_from(["http", "https", "HTTPS"]),
    st.sampled_from(["store.com", "store.com:8443", "[::1]:80", "käse.example", "u:p@10.0.0.1"]),
    st.text("/?#&=%." + string.ascii_letters + "é→", max_size=20).map(
        lambda rest: f"/{rest}" if rest else ""
    ),
)


def decimals(exponents: st.SearchStrategy[int]) -> st.SearchStrategy[Decimal]:
    return st.builds(
        lambda sign, digits, exponent: Decimal((sign, tuple(digits), exponent)),
        st.sampled_from([0, 1]),
        st.lists(st.integers(0, 9), min_size=1, max_size=40),
        exponents,
    )


#: Those that have a digit for every place, trailing zeros included.
WITH_ALL_DIGITS = decimals(st.integers(-80, 0) | st.sampled_from([-5_000, -400]))
DECIMALS = WITH_ALL_DIGITS | decimals(st.integers(1, 80) | st.sampled_from([400, 5_000]))
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
INTEGERS = st.integers(-(10**30), 10**30)
NUMBERS = INTEGERS | FLOATS | DECIMALS
_AMOUNTS = TEXTS | NUMBERS
WORKFLOWS = st.integers(1, 2**63 - 1)

PRODUCTS = st.fixed_dictionaries(
    {},
    optional={
        "product_name": TEXTS,
        "product_description": TEXTS,
        "product_sku": TEXTS | NUMBERS,
        **dict.fromkeys(PRODUCT_NUMBERS, NUMBERS),
        "product_url": URLS,
        "product_gallery": st.lists(URLS, max_size=3),
    },
)
_OTHERS: dict[str, st.SearchStrategy[Any]] = {
    "order_link_url": URLS,
    "order_id": IDENTIFIERS | NUMBERS,
    **dict.fromkeys(AMOUNTS, _AMOUNTS),
    "checkout_url": URLS,
    "workflow_id": WORKFLOWS,
}
_PRODUCTS = st.lists(PRODUCTS, min_size=1, max_size=3)
#: Mappings that are valid orders.
ORDERS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"contact_email": EMAILS, "products": _PRODUCTS},
    optional={"contact_unique_id": IDENTIFIERS | INTEGERS, **_OTHERS},
) | st.fixed_dictionaries(
    {"contact_unique_id": IDENTIFIERS | INTEGERS, "products": _PRODUCTS},
    optional=_OTHERS,
)
