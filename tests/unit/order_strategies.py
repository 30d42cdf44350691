"""Valid orders of every shape, for hypothesis."""

from __future__ import annotations

import string
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

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
AMOUNTS = TEXTS | NUMBERS
WORKFLOWS = st.integers(1, 2**63 - 1)

PRODUCTS = st.fixed_dictionaries(
    {},
    optional={
        "product_name": TEXTS,
        "product_description": TEXTS,
        "product_price": NUMBERS,
        "product_quantity": NUMBERS,
        "product_sku": TEXTS | NUMBERS,
        "product_line_total": NUMBERS,
        "product_special_price": NUMBERS,
        "product_url": URLS,
        "product_gallery": st.lists(URLS, max_size=3),
    },
)
_OTHERS: dict[str, st.SearchStrategy[Any]] = {
    "order_link_url": URLS,
    "order_id": IDENTIFIERS | NUMBERS,
    "sub_total": AMOUNTS,
    "shipping_fee": AMOUNTS,
    "taxes": AMOUNTS,
    "total": AMOUNTS,
    "discount": AMOUNTS,
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
