"""`Order` and `Product`: what a trigger says, and what makes it valid.

The fields and their types are those of the endpoint's documentation (``order_id`` in lower case, as
in its sample). Validity is checked once, at birth, and every fault is reported together.
Values are never coerced: ``None`` is not the text "None", ``True`` is not 1, ``"abc"`` is no list.
Faults name fields and types, never values, for a value may be a customer's.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from itertools import islice
from typing import Any, Self, TypeVar

import attrs

from everlytic_async.errors import MAX_FAULTS, InvalidOrderError

__all__ = ["Order", "Product"]

# Scheme, host (a bracketed IPv6 address, or a name that is not dots and hyphens only), port, then
# anything but white space and control characters. No re.IGNORECASE: it takes U+017F for an "s".
_URL = re.compile(
    r"[Hh][Tt][Tt][Pp][Ss]?://"
    r"(?:[^\s/?#\[\]@\\\x00-\x20\x7f-\x9f]*@)?"
    r"(?:\[[0-9A-Fa-f:.]+\]"
    r"|[.-]*[^\s/?#\[\]@\\:<>\"^`{|}\x00-\x20\x7f-\x9f.-]"
    r"[^\s/?#\[\]@\\:<>\"^`{|}\x00-\x20\x7f-\x9f]*)"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?:[/?#][^\s\x00-\x20\x7f-\x9f]*)?"
)
# What nearly every URL looks like, decided in a fifth of the time.
_PLAIN_URL = re.compile(r"https?://[A-Za-z0-9][A-Za-z0-9.-]*(?:/[!-~]*)?").fullmatch
_MAX_PORT = 65_535
# One valid e-mail address, by the pattern of the WHATWG HTML standard
# (https://html.spec.whatwg.org/multipage/input.html#valid-e-mail-address), with letters outside of
# ASCII in both parts. Two addresses, a name or <> around it do not match.
_LABEL = r"[^\W_](?:(?:[^\W_]|-){0,61}[^\W_])?"
_EMAIL = re.compile(rf"[\w.!#$%&'*+/=?^`{{|}}~-]+@{_LABEL}(?:\.{_LABEL})*").fullmatch
# What nearly every address looks like, decided in a third of the time.
_PLAIN_EMAIL = re.compile(r"[A-Za-z0-9._+-]+@[A-Za-z0-9]{1,63}(?:\.[A-Za-z0-9]{1,63})*").fullmatch
_BLANK = re.compile(r"[\s\x00-\x20\x7f-\x9f]")
# With a letter in it, which a phone number has not.
_NAME = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9 ._\[\]/-]{1,40}")
_NUMBERS = (int, float, Decimal)
_LISTS = (list, tuple)
_MAX_INTEGER = 2**63 - 1
_PLAIN_INTEGERS = range(-_MAX_INTEGER, _MAX_INTEGER)
#: A longer number is a mistake or an attack: Python takes quadratic time for a longer integer, or
#: refuses it.
MAX_DIGITS = 1_000
_MAX_BITS = 3_321  # the same in bits
_MAX_ID_BITS = 64
# Past this exponent plain notation is mostly zeros; the number is then written with its exponent.
_PLAIN_EXPONENT = 64


def plain(number: float | Decimal) -> str:
    """Write a finite number in decimal digits: exact for int and Decimal, the shortest for float.

    >>> plain(Decimal("10.10")), plain(0.1), plain(Decimal("1E+3"))
    ('10.10', '0.1', '1000')
    """
    if isinstance(number, int):
        return int.__repr__(number)
    exact = number if isinstance(number, Decimal) else Decimal(float.__repr__(number))
    exponent = exact.as_tuple().exponent
    if isinstance(exponent, int) and abs(exponent) <= _PLAIN_EXPONENT:
        return format(exact, "f")
    return str(exact)


def _kind(value: object) -> str:
    """Name a value's type in the reader's words, without the value."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case str():
            return "text"
        case float() if not math.isfinite(value):
            return "NaN or an infinity"
        case int() | float() | Decimal():
            return "a number"
        case Mapping():
            return "an object"
        case list() | tuple():
            return "a list"
        case _:
            return f"a {type(value).__name__}"


# Each check takes a value that is set and returns its fault, or None. The common case comes first:
# a bulk send runs these millions of times.


def _text(value: Any) -> str | None:
    fault = _string(value)
    return "holds a NUL character" if fault is None and "\x00" in value else fault


def _string(value: Any) -> str | None:
    if isinstance(value, str):
        if value.isascii() or _is_unicode(value):
            return None
        return "holds a lone surrogate, which is not a character"
    return f"expected text, got {_kind(value)}"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _number(value: Any) -> str | None:
    kind = type(value)
    if kind is float:
        return None if math.isfinite(value) else "expected a number, got NaN or an infinity"
    if kind is Decimal:
        # Not math.isfinite(): as a float, 1E+400 is infinite, and a signaling NaN raises.
        return None if value.is_finite() else "expected a number, got NaN or an infinity"
    if kind is int:
        return None if value.bit_length() <= _MAX_BITS else "is a number of over 1,000 digits"
    if isinstance(value, _NUMBERS) and kind is not bool:
        return _number(next(base(value) for base in _NUMBERS if isinstance(value, base)))
    return f"expected a number, got {_kind(value)}"


def _text_or_number(value: Any) -> str | None:
    if type(value) is int and value in _PLAIN_INTEGERS:
        return None
    if isinstance(value, str):
        return _text(value)
    fault = _number(value)
    return fault and fault.replace("expected a number, got", "expected text or a number, got")


def _identifier(value: Any) -> str | None:
    fault = _text(value)
    return "is blank" if fault is None and not value.strip() else fault


def _unique_id(value: Any) -> str | None:
    # Shops number their customers, so an integer is taken as its digits.
    return _number(value) if type(value) is int else _identifier(value)


def _amount(value: Any) -> str | None:
    return _text_or_number(value)


def _order_id(value: Any) -> str | None:
    return _identifier(value) if isinstance(value, str) else _text_or_number(value)


def _email(value: Any) -> str | None:
    fault = _string(value)
    if fault is not None or _is_email(value):
        return fault
    address = value.strip()
    if not address:
        return "is blank"
    if "@" not in address:
        return "expected an e-mail address, found no @"
    if _BLANK.search(address):
        return "expected an e-mail address alone, found white space or a control character in it"
    return "expected one valid e-mail address, such as ann@example.com"


def _is_email(value: str) -> bool:
    address = value.strip()
    if _EMAIL(address):
        return True
    # Accents and vowel signs that are characters of their own belong to the letter before them.
    return not address.isascii() and bool(
        _EMAIL("".join(char for char in address if not unicodedata.category(char).startswith("M")))
    )


def _url(value: Any) -> str | None:
    fault = _string(value)
    if fault is not None:
        return fault
    match = _URL.fullmatch(value)
    if match is None or (match["port"] is not None and int(match["port"]) > _MAX_PORT):
        return "expected a whole URL, from http:// or https:// on and without spaces"
    return None


def _workflow(value: Any) -> str | None:
    if type(value) is not int:
        return f"expected an integer above 0, got {_kind(value)}"
    return None if 0 < value <= _MAX_INTEGER else "expected an integer above 0"


_Check = Callable[[Any], str | None]

_PRODUCT_CHECKS: Mapping[str, _Check] = {
    "product_name": _text,
    "product_description": _text,
    "product_price": _number,
    "product_quantity": _number,
    "product_sku": _text_or_number,
    "product_line_total": _number,
    "product_special_price": _number,
    "product_url": _url,
}
_ORDER_CHECKS: Mapping[str, _Check] = {
    "contact_email": _email,
    "contact_unique_id": _unique_id,
    "order_link_url": _url,
    "order_id": _order_id,
    "sub_total": _amount,
    "shipping_fee": _amount,
    "taxes": _amount,
    "total": _amount,
    "discount": _amount,
    "checkout_url": _url,
    "workflow_id": _workflow,
}


class _Fields:
    """The fields of a model: how each is checked, and which are text on the wire."""

    __slots__ = (
        "identifiers",
        "names",
        "numbers",
        "others",
        "rules",
        "texts",
        "trimmed",
        "unset",
        "urls",
    )

    def __init__(self, checks: Mapping[str, _Check], **others: object) -> None:
        # What the documentation's table calls a string, and shops hold as a number too.
        as_text = (_unique_id, _order_id, _amount)
        self.rules = tuple((name, check, check in as_text) for name, check in checks.items())
        self.unset = {**dict.fromkeys(checks), **others}
        self.names = frozenset(self.unset)

        def named(*kinds: _Check) -> tuple[str, ...]:
            return tuple(name for name, check in checks.items() if check in kinds)

        # For `_are_usual`.
        self.texts = named(_text, _amount)
        self.identifiers = named(_unique_id, _order_id)
        self.numbers = named(_number)
        self.urls = named(_url)
        self.trimmed = named(_email)
        grouped = {*self.texts, *self.identifiers, *self.numbers, *self.urls, *self.trimmed}
        self.others = tuple((name, check) for name, check in checks.items() if name not in grouped)


_PRODUCT = _Fields(_PRODUCT_CHECKS, product_gallery=None)
_ORDER = _Fields(_ORDER_CHECKS, products=())


# Without slots a frozen class is made in half the time: attrs then writes to its __dict__ at once.
@attrs.frozen(kw_only=True, slots=False)
class Product:
    """One line of an order. No field is required; what is not set is left out of the trigger.

    Raises:
        InvalidOrderError: with every fault, when a field does not hold what it says below.

    Attributes:
        product_name: Text.
        product_description: Text.
        product_price: A number; a Decimal reaches the endpoint digit by digit.
        product_quantity: A number; shops sell 1.5 metres.
        product_sku: Text or a number; it keeps the type that it was given.
        product_line_total: A number.
        product_special_price: A number.
        product_url: An http or https URL.
        product_gallery: A list of http or https URLs.
    """

    product_name: str | None = None
    product_description: str | None = None
    product_price: float | Decimal | None = None
    product_quantity: float | Decimal | None = None
    product_sku: str | float | Decimal | None = None
    product_line_total: float | Decimal | None = None
    product_special_price: float | Decimal | None = None
    product_url: str | None = None
    product_gallery: Sequence[str] | None = None

    def __attrs_post_init__(self) -> None:
        values = self.__dict__  # a frozen model's one way to write what it was given anew
        faults = [] if _are_usual(values, _PRODUCT) else _faults(values, _PRODUCT)
        gallery: Any = self.product_gallery
        if gallery is not None:
            if isinstance(gallery, _LISTS):
                values["product_gallery"] = tuple(gallery)
                for place, url in enumerate(gallery):
                    if len(faults) > MAX_FAULTS:
                        break
                    if type(url) is str and _PLAIN_URL(url):
                        continue
                    if (fault := _url(url)) is not None:
                        faults.append(f"product_gallery[{place}]: {fault}")
            else:
                faults.append(f"product_gallery: expected a list, got {_kind(gallery)}")
        if faults:
            raise InvalidOrderError(faults)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """Build a product from parsed JSON, strictly: an unknown key is a fault; null is not set.

        Raises:
            InvalidOrderError: with every fault at once.
        """
        return _build(cls, mapping, _PRODUCT, "product")


@attrs.frozen(kw_only=True, repr=False, slots=False)
class Order:
    """One order-notification trigger: who bought, and what.

    At least one of the contact identifiers, and at least one product, are required. What the
    documentation calls a string may be given as str, int or Decimal, or as a float, which is
    written in its shortest decimal form. Totals are not checked against each other: real shops'
    don't add up. What is not set (None) is left out of the trigger.

    Raises:
        InvalidOrderError: with every fault, each with the path of its field.

    Attributes:
        contact_email: The customer's e-mail address: one, valid by the pattern of the WHATWG HTML
            standard, with letters outside of ASCII allowed in both parts. It is trimmed.
        contact_unique_id: The customer's unique id; an int is taken as its digits.
        products: A list of `Product`, or of mappings with a product's fields.
        order_link_url: The order's page at the store.
        order_id: The order's id at the store.
        sub_total: The order's value before fees, taxes and discount.
        shipping_fee: The shipping fee.
        taxes: The taxes.
        total: The total.
        discount: The discount.
        checkout_url: The store's checkout page that shows the cart.
        workflow_id: The workflow to trigger, an integer above 0; where it is not set, the
            endpoint's choice.
    """

    contact_email: str | None = None
    contact_unique_id: str | int | None = None
    order_link_url: str | None = None
    order_id: str | float | Decimal | None = None
    sub_total: str | float | Decimal | None = None
    shipping_fee: str | float | Decimal | None = None
    taxes: str | float | Decimal | None = None
    total: str | float | Decimal | None = None
    discount: str | float | Decimal | None = None
    products: Sequence[Product | Mapping[str, Any]] = ()
    checkout_url: str | None = None
    workflow_id: int | None = None

    def __attrs_post_init__(self) -> None:
        values = self.__dict__  # a frozen model's one way to write what it was given anew
        faults = [] if _are_usual(values, _ORDER) else _faults(values, _ORDER)
        if self.contact_email is None and self.contact_unique_id is None:
            faults.append("contact_email or contact_unique_id: one of the two is required")
        values["products"] = _products(self.products, faults)
        if faults:
            raise InvalidOrderError(faults)

    def __repr__(self) -> str:
        # Whose order it is, and what they bought, is a customer's data; the shop's number is not.
        return (
            f"<Order order_id={self.order_id!r} workflow_id={self.workflow_id!r} "
            f"products={len(self.products)}>"
        )

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """Build an order from parsed JSON, strictly: an unknown key is a fault; null is not set.

        Raises:
            InvalidOrderError: with every fault at once, and the order's id where it has one.
        """
        try:
            return _build(cls, mapping, _ORDER, "order")
        except InvalidOrderError as error:
            error.order_id = order_id_of(mapping)
            raise


def order_id_of(given: object) -> str | None:
    """The order id of what is no valid order, where it has one that can be written."""
    order_id = given.get("order_id") if isinstance(given, Mapping) else None
    if isinstance(order_id, int) and not isinstance(order_id, bool):
        # Python refuses to write longer integers.
        return str(order_id) if order_id.bit_length() <= _MAX_ID_BITS else None
    return order_id if isinstance(order_id, str) and _is_unicode(order_id) else None


def is_name(key: object) -> bool:
    """Whether a key looks like the name of a field or a column, and so may be shown.

    It may be anything, where a value has gone astray: an address, a phone number.
    """
    return isinstance(key, str) and _NAME.fullmatch(key) is not None


def _are_usual(values: Mapping[str, Any], fields: _Fields) -> bool:
    """Whether all fields hold what they hold in nearly every order: plain types, in ASCII.

    It takes half the time of the checks one by one, and lets nothing pass that they would not, nor
    what they would write anew.
    """
    if not (_usual_texts(values, fields) and _usual_numbers(values, fields)):
        return False
    for name in fields.urls:
        value = values[name]
        if value is not None and (type(value) is not str or not _PLAIN_URL(value)):
            return False
    for name in fields.trimmed:
        value = values[name]
        if value is not None and (type(value) is not str or not _PLAIN_EMAIL(value)):
            return False
    for name, check in fields.others:
        value = values[name]
        if value is not None and check(value) is not None:
            return False
    return True


def _usual_texts(values: Mapping[str, Any], fields: _Fields) -> bool:
    for name in fields.texts:
        value = values[name]
        if value is not None and (type(value) is not str or not value.isascii() or "\x00" in value):
            return False
    for name in fields.identifiers:
        value = values[name]
        if value is not None and (
            type(value) is not str or not value.isascii() or not value.strip() or "\x00" in value
        ):
            return False
    return True


def _usual_numbers(values: Mapping[str, Any], fields: _Fields) -> bool:
    for name in fields.numbers:
        value = values[name]
        if value is None:
            continue
        kind = type(value)
        if kind is int:
            if value not in _PLAIN_INTEGERS:
                return False
        elif kind is float:
            if not math.isfinite(value):
                return False
        elif kind is not Decimal or not value.is_finite():
            return False
    return True


def _faults(values: dict[str, Any], fields: _Fields) -> list[str]:
    """Check every field that is set; write as text what is text on the wire."""
    faults: list[str] = []
    for name, check, as_text in fields.rules:
        value = values[name]
        if value is None:
            continue
        fault = check(value)
        if fault is not None:
            faults.append(f"{name}: {fault}")
        elif as_text and not isinstance(value, str):
            values[name] = plain(value)
        elif name in fields.trimmed:
            values[name] = value.strip()
    return faults


def _products(given: Any, faults: list[str]) -> tuple[Product, ...]:
    """The products as models; their faults join the order's, under their paths."""
    if given is not None and not isinstance(given, _LISTS):
        faults.append(f"products: expected a list, got {_kind(given)}")
        return ()
    if not given:
        faults.append("products: at least one is required")
        return ()
    products = []
    for place, product in enumerate(given):
        if len(faults) > MAX_FAULTS:
            break
        if isinstance(product, Product):
            products.append(product)
            continue
        path = f"products[{place}]"
        try:
            products.append(_build(Product, product, _PRODUCT, path))
        except InvalidOrderError as error:
            faults.extend(
                fault if fault.startswith(path) else f"{path}.{fault}" for fault in error.args[0]
            )
    return tuple(products)


_Model = TypeVar("_Model", bound=Product | Order)


def _build(cls: type[_Model], mapping: Any, fields: _Fields, path: str) -> _Model:
    if type(mapping) is not dict and not isinstance(mapping, Mapping):
        raise InvalidOrderError([f"{path}: expected an object, got {_kind(mapping)}"])
    known = fields.names
    if mapping.keys() <= known:
        return _made(cls, mapping, fields)
    others = islice((key for key in mapping if key not in known), MAX_FAULTS + 1)
    faults = [
        f"{key}: no such field" if is_name(key) else f"{path}: has a key that is no field's name"
        for key in others
    ]
    try:
        _made(cls, {key: value for key, value in mapping.items() if key in known}, fields)
    except InvalidOrderError as error:
        faults.extend(error.args[0])
    raise InvalidOrderError(faults)


def _made(cls: type[_Model], known: Mapping[str, Any], fields: _Fields) -> _Model:
    """What ``cls(**known)`` makes, by the same checks, in less time: a bulk send makes millions."""
    model = object.__new__(cls)
    values = model.__dict__
    values |= fields.unset
    values |= known
    model.__attrs_post_init__()
    return model
