"""What the endpoint's documentation asks of a request, as pure functions.

The tables below are the documentation's own ("Order notification", its two property tables and
its sample), read strictly: a field or a type that it does not name is refused, so
that a mistake shows here and not in a customer's mailbox. Responses name the field that is wrong
and never its value. It is independent of `everlytic_async.orders` on purpose, and checks the types
of JSON only, not what a valid e-mail address or URL is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from itertools import chain, islice
from typing import Any, NoReturn

import attrs
from multidict import CIMultiDictProxy

#: The endpoint, below the address of the install.
PATH = "/servlet/e-commerce/orders"
_STORE_HASH_HEADER = "x-ev-store-hash"
_CUSTOMER_HASH_HEADER = "x-ev-customer-hash"

_MAX_FAULTS = 10
# The sample nests four deep. How deep json can parse differs with the Python.
_MAX_DEPTH = 32
_MAX_NAME = 60


class RefusedError(Exception):
    """A request that is not as documented: the status and the JSON value to answer with."""

    def __init__(self, status: int, payload: object) -> None:
        super().__init__(status, payload)
        self.status = status
        self.payload = payload


@attrs.frozen
class _FieldType:
    """A documented type: its name, and whether a parsed JSON value is of it."""

    expected: str
    accepts: Callable[[Any], bool]


# By their exact types, which are those that json makes: to Python, true is an integer.
_STRING = _FieldType("a string", lambda value: type(value) is str)
_NUMBER = _FieldType("a number", lambda value: type(value) in {int, Decimal})
_STRING_OR_NUMBER = _FieldType(
    "a string or a number", lambda value: type(value) in {str, int, Decimal}
)
_POSITIVE_INTEGER = _FieldType("an integer above 0", lambda value: type(value) is int and value > 0)
_STRINGS = _FieldType(
    "an array of strings",
    lambda value: type(value) is list and all(map(_STRING.accepts, value)),
)
_NON_EMPTY_ARRAY = _FieldType(
    "a non-empty array of objects", lambda value: type(value) is list and bool(value)
)

_IDENTIFIERS = ("contact_email", "contact_unique_id")
_ORDER: Mapping[str, _FieldType] = {
    **dict.fromkeys(_IDENTIFIERS, _STRING),
    "order_link_url": _STRING,
    "order_id": _STRING_OR_NUMBER,  # the table says string, the sample sends 34
    "sub_total": _STRING,
    "shipping_fee": _STRING,
    "taxes": _STRING,
    "total": _STRING,
    "discount": _STRING,
    "products": _NON_EMPTY_ARRAY,
    "checkout_url": _STRING,
    "workflow_id": _POSITIVE_INTEGER,
}
# The documentation has no table for a product: these are the types of its sample.
_PRODUCT: Mapping[str, _FieldType] = {
    "product_name": _STRING,
    "product_description": _STRING,
    "product_price": _NUMBER,
    "product_quantity": _NUMBER,
    "product_sku": _STRING_OR_NUMBER,  # the sample sends 412; a shop's are text
    "product_line_total": _NUMBER,
    "product_special_price": _NUMBER,
    "product_url": _STRING,
    "product_gallery": _STRINGS,
}


def error(message: str) -> dict[str, str]:
    """The body of a refusal, in the envelope of the vendor's endpoints."""
    return {"status": "error", "message": message}


def check_headers(
    headers: CIMultiDictProxy[str], content_type: str, *, store_hash: str, customer_hash: str
) -> None:
    """Check the two hashes, each given exactly once, and that the body is declared as JSON.

    Raises:
        RefusedError: 401 with the bare JSON string that the vendor's endpoints answer; 415.
    """
    if headers.getall(_STORE_HASH_HEADER, []) != [store_hash] or headers.getall(
        _CUSTOMER_HASH_HEADER, []
    ) != [customer_hash]:
        raise RefusedError(401, "Invalid credentials.")
    if content_type != "application/json":
        raise RefusedError(415, error("Content-Type: expected application/json"))


def check_body(body: bytes) -> dict[str, Any]:
    """Parse an order and check it against the documentation's tables.

    Returns:
        The order as it was sent: integers as int, every other number as an exact Decimal.

    Raises:
        RefusedError: 400, with a message that names the (first ten) fields that are wrong.
    """
    order = _parse(body)
    if not isinstance(order, dict):
        _refuse("body: expected a JSON object")
    if faults := list(islice(_faults_of_order(order), _MAX_FAULTS)):
        _refuse("; ".join(faults))
    return order


def _refuse(message: str) -> NoReturn:
    raise RefusedError(400, error(message))


def _parse(body: bytes) -> Any:
    try:
        # As text: of bytes json accepts a byte order mark, and UTF-16. Not orjson: it reads
        # numbers as floats, and refuses those that a float can't hold.
        value = json.loads(body.decode(), parse_float=Decimal, parse_constant=_reject_constant)
        if b"\\u" in body:
            # A lone surrogate is not a character: encoding it raises.
            json.dumps(value, ensure_ascii=False, default=str).encode()
    except (ValueError, ArithmeticError, RecursionError):
        # Raised outside of the handler: the parser's error holds the body.
        pass
    else:
        if not _is_deeper_than(_MAX_DEPTH, value):
            return value
    _refuse("body: expected JSON in UTF-8")


def _is_deeper_than(depth: int, value: Any) -> bool:
    level = [value]
    for _ in range(depth + 1):
        containers = [each for each in level if isinstance(each, dict | list)]
        if not containers:
            return False
        inner = [each.values() if isinstance(each, dict) else each for each in containers]
        level = [*chain.from_iterable(inner)]
    return True


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _faults_of_order(order: Mapping[str, Any]) -> Iterator[str]:
    contacts = [order.get(name) for name in _IDENTIFIERS]
    if not any(isinstance(contact, str) and contact.strip() for contact in contacts):
        yield f"{' or '.join(_IDENTIFIERS)}: missing"
    if "products" not in order:
        yield "products: missing"
    yield from _faults_of_fields(order, _ORDER, "")
    products = order.get("products")
    for index, product in enumerate(products if isinstance(products, list) else []):
        where = f"products[{index}]"
        if isinstance(product, dict):
            yield from _faults_of_fields(product, _PRODUCT, f"{where}.")
        else:
            yield f"{where}: expected an object"


def _faults_of_fields(
    values: Mapping[str, Any], documented: Mapping[str, _FieldType], prefix: str
) -> Iterator[str]:
    for name, value in values.items():
        kind = documented.get(name)
        if kind is None:
            yield f"{prefix}{name[:_MAX_NAME]}: not a documented field"
        elif not kind.accepts(value):
            yield f"{prefix}{name}: expected {kind.expected}"
