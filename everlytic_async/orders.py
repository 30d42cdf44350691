"""`Order` and `Product`: what a trigger says, and what makes it valid.

The fields and their types are those of the endpoint's documentation (``order_id`` in lower case, as
in its sample). An order is validated once, on construction, and every fault is reported together.
Values are never coerced: ``None`` is not the text "None", ``True`` is not 1, ``"abc"`` is not a
list. Faults name fields and types, never values, because a value may be a customer's.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, ClassVar, Self, TypeVar

import attrs

from everlytic_async.errors import MAX_FAULTS, InvalidOrderError

__all__ = ["Order", "Product"]

# White space, control characters and lone surrogates: in a set of a pattern, `\s` is slower.
_BLANKS = r"\x00-\x20\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ud800-\udfff"
_BLANK = re.compile(f"[{_BLANKS}]")
# Scheme, perhaps a user, a host (a bracketed IPv6 address, or a name that is not only dots and
# hyphens), a port up to 65535, then anything without blanks. Not re.IGNORECASE: it takes U+017F for
# an "s".
_URL = re.compile(
    r"[Hh][Tt][Tt][Pp][Ss]?://"
    rf"(?:[^/?#\[\]@\\{_BLANKS}]*+@)??"
    r"(?:\[[0-9A-Fa-f:.]+\]"
    rf"|[.-]*+[^/?#\[\]@\\:<>\"^`{{|}}{_BLANKS}]++)"
    r"(?::(?:[0-5]?[0-9]{1,4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?"
    rf"(?:[/?#][^{_BLANKS}]*+)?"
).fullmatch
# One valid e-mail address, by the pattern of the WHATWG HTML standard
# (https://html.spec.whatwg.org/multipage/input.html#valid-e-mail-address), with letters outside
# ASCII in both parts. Two addresses, a name or <> around it do not match.
_LABEL = r"(?!-)[\w-]{1,63}+(?<!-)"
_EMAIL = re.compile(
    rf"[\w.!#$%&'*+/=?^`{{|}}~-]++@(?![^_]*+_){_LABEL}(?:\.{_LABEL})*+"  # no _ after the @
).fullmatch
# With a letter in it, so that it is not a phone number.
_SAFE_NAME = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9 ._\[\]/-]{1,40}").fullmatch
_MAX_INTEGER = 2**63 - 1
#: A longer number is a mistake or an attack: Python takes quadratic time for a longer integer, or
#: refuses it.
MAX_DIGITS = 1_000
_MAX_BITS = 3_321  # the same in bits
_MAX_ID_BITS = 64
#: Of an order's products, of a product's pictures, and of the rows of an order in CSV: more are a
#: mistake or an attack. In JSON a product takes 3 bytes, in memory over 300.
MAX_ITEMS = 10_000
# Beyond this exponent plain notation is mostly zeros; the number is written with its exponent.
_PLAIN_EXPONENT = 64
_LISTS = (list, tuple)


def format_number(number: float | Decimal) -> str:
    """Write a finite number in decimal digits: exact for int and Decimal, the shortest for float.

    >>> format_number(Decimal("10.10")), format_number(0.1), format_number(Decimal("1E+3"))
    ('10.10', '0.1', '1000')
    """
    if isinstance(number, int):
        return int.__repr__(number)
    exact = number if isinstance(number, Decimal) else Decimal(float.__repr__(number))
    exponent = exact.as_tuple().exponent
    if isinstance(exponent, int) and abs(exponent) <= _PLAIN_EXPONENT:
        return format(exact, "f")
    return str(exact)


def get_order_id(raw_order: object) -> str | None:
    """The order id of an order that is not valid, where it has one that can be written."""
    order_id = raw_order.get("order_id") if isinstance(raw_order, Mapping) else None
    if isinstance(order_id, int) and not isinstance(order_id, bool):
        # Python refuses to write longer integers.
        return str(order_id) if order_id.bit_length() <= _MAX_ID_BITS else None
    return order_id if isinstance(order_id, str) and _is_unicode(order_id) else None


def is_safe_field_name(key: object) -> bool:
    """Whether a key looks like the name of a field or column, and so may be shown.

    Otherwise it may be a value in the wrong place: an address, a phone number.
    """
    return isinstance(key, str) and _SAFE_NAME(key) is not None


def _describe_type(value: object) -> str:
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


# ------------------------------------------------------------------------------------ the checks
#
# Each takes a value that is set and returns it as the model keeps it, or raises `_FaultError`. The
# common case comes first: a backfill runs these millions of times.


class _FaultError(ValueError):
    """Why a value is not valid: what follows the name of its field, for each fault."""


def _wrong_type(expected: str, value: object) -> _FaultError:
    return _FaultError(f": expected {expected}, got {_describe_type(value)}")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _characters(value: Any) -> Any:
    if not isinstance(value, str):
        raise _wrong_type("text", value)
    if value.isascii() or _is_unicode(value):
        return value
    raise _FaultError(": holds a lone surrogate, which is not a character")


def _text(value: Any) -> Any:
    if type(value) is str and value.isascii() and "\x00" not in value:
        return value
    if "\x00" in _characters(value):
        raise _FaultError(": holds a NUL character")
    return value


def _number(value: Any, expected: str = "a number") -> Any:
    if type(value) is int or (isinstance(value, int) and not isinstance(value, bool)):
        if value.bit_length() > _MAX_BITS:
            raise _FaultError(": is a number of over 1,000 digits")
        return value
    if isinstance(value, Decimal):
        # Not math.isfinite(): as a float, 1E+400 is infinite, and a signaling NaN raises.
        is_finite = value.is_finite()
    elif isinstance(value, float):
        is_finite = math.isfinite(value)
    else:
        raise _wrong_type(expected, value)
    if not is_finite:
        raise _FaultError(f": expected {expected}, got NaN or an infinity")
    return value


def _text_or_number(value: Any) -> Any:
    return _text(value) if isinstance(value, str) else _number(value, "text or a number")


def _amount(value: Any) -> Any:
    if isinstance(value, str):
        return _text(value)
    return format_number(_number(value, "text or a number"))


def _order_id(value: Any) -> Any:
    order_id = _amount(value)
    if not order_id.strip():
        raise _FaultError(": is blank")
    return order_id


def _unique_id(value: Any) -> Any:
    # Shops number their customers, so an integer is taken as its digits.
    return _order_id(value if type(value) is int else _text(value))


def _email(value: Any) -> Any:
    address = value.strip() if isinstance(value, str) else ""
    if _EMAIL(address):
        return address
    if not _characters(value).strip():
        raise _FaultError(": is blank")
    if "@" not in address:
        raise _FaultError(": expected an e-mail address, found no @")
    if _BLANK.search(address):  # a line end would inject a header
        raise _FaultError(
            ": expected an e-mail address alone, found white space or a control character in it"
        )
    # Accents and vowel signs that are characters of their own belong to the letter before them.
    if _EMAIL("".join(char for char in address if unicodedata.category(char)[0] != "M")):
        return address
    raise _FaultError(": expected one valid e-mail address, such as ann@example.com")


def _url(value: Any) -> Any:
    if isinstance(value, str) and _URL(value):
        return value
    _characters(value)
    raise _FaultError(": expected a whole URL, from http:// or https:// on and without spaces")


def _workflow(value: Any) -> Any:
    if type(value) is not int:
        raise _wrong_type("an integer above 0", value)
    if not 0 < value <= _MAX_INTEGER:
        raise _FaultError(": expected an integer above 0")
    return value


def _each(values: Any, check: _Check) -> tuple[Any, ...]:
    """Check every value of a list."""
    if not isinstance(values, _LISTS):
        raise _wrong_type("a list", values)
    values = tuple(values)
    checked: list[Any] = []
    faults: list[str] = []
    for value in values[:MAX_ITEMS]:
        try:
            checked.append(check(value))
        except _FaultError as error:
            faults += [f"[{len(checked)}]{fault}" for fault in error.args]
            if len(faults) > MAX_FAULTS:
                break
            checked.append(None)
    if len(values) > MAX_ITEMS:
        faults.append(f": over {MAX_ITEMS:,} items, more than are accepted")
    if faults:
        raise _FaultError(*faults)
    return tuple(checked)


def _gallery(value: Any) -> Any:
    return _each(value, _url)


def _products(value: Any) -> Any:
    if products := _each(value, _product):
        return products
    raise _FaultError(": at least one is required")


def _product(value: Any) -> Product:
    if type(value) is dict or not isinstance(value, Product):
        return _build(Product, _PRODUCT_RULES, value)
    return value


_Check = Callable[[Any], Any]
_ModelT = TypeVar("_ModelT", bound="_Model")


class _Rules:
    """What makes a model valid: the checks of its fields, and what must be there."""

    def __init__(
        self, checks: dict[str, _Check], find_missing: Callable[[dict[Any, Any]], list[str]] | None
    ) -> None:
        self.checks = checks
        self.unset = dict.fromkeys(checks)
        self.find_missing = find_missing


def _check(rules: _Rules, given: dict[Any, Any], fields: dict[str, Any]) -> list[str] | None:
    """Set in `fields` what the checks return for the values that are given; return the faults.

    A fault begins where the path of the model ends: ``.total: ...``, or ``: ...`` of the whole.
    """
    checks, find_missing = rules.checks, rules.find_missing
    faults: list[str] | None = None
    wrong: dict[str, tuple[str, ...]] | None = None
    for name, value in given.items():
        try:
            check = checks[name]
        except KeyError:
            faults = faults or []
            if len(faults) <= MAX_FAULTS:
                faults.append(
                    f".{name}: no such field"
                    if is_safe_field_name(name)
                    else ": has a key that is not the name of a field"
                )
            continue
        if value is not None:
            try:
                fields[name] = check(value)
            except _FaultError as error:
                wrong = wrong or {}
                wrong[name] = error.args
    missing = None if find_missing is None else find_missing(given)
    if wrong or missing:
        # By field, in the order of the wire; those of the products last: there may be many of them.
        later = [f".{n}{fault}" for n in checks if wrong and n in wrong for fault in wrong[n]]
        later = sorted([*later, *(missing or ())], key=lambda f: f.startswith(".products"))
        return [*(faults or ()), *later]
    return faults


def _build(cls: type[_ModelT], rules: _Rules, mapping: Any) -> _ModelT:
    """Build a model from parsed JSON, or raise a `_FaultError`."""
    if type(mapping) is not dict:
        if not isinstance(mapping, Mapping):
            raise _wrong_type("an object", mapping)
        mapping = {key: mapping[key] for key in mapping.keys()}  # noqa: SIM118 - it may be lazy
    model = object.__new__(cls)  # as `cls(**mapping)` does, in less time
    fields = model.__dict__
    fields |= rules.unset
    faults = _check(rules, mapping, fields)
    if faults is not None:
        raise _FaultError(*faults)
    return model


def _find_missing(given: dict[Any, Any]) -> list[str]:
    """The faults of an order that lacks what is required."""
    faults = []
    if given.get("contact_email") is None and given.get("contact_unique_id") is None:
        faults.append(".contact_email or contact_unique_id: one of the two is required")
    if given.get("products") is None:
        faults.append(".products: at least one is required")
    return faults


_PRODUCT_RULES = _Rules(
    {
        "product_name": _text,
        "product_description": _text,
        "product_price": _number,
        "product_quantity": _number,
        "product_sku": _text_or_number,
        "product_line_total": _number,
        "product_special_price": _number,
        "product_url": _url,
        "product_gallery": _gallery,
    },
    find_missing=None,
)
_ORDER_RULES = _Rules(
    {
        "contact_email": _email,
        "contact_unique_id": _unique_id,
        "order_link_url": _url,
        "order_id": _order_id,
        "sub_total": _amount,
        "shipping_fee": _amount,
        "taxes": _amount,
        "total": _amount,
        "discount": _amount,
        "products": _products,
        "checkout_url": _url,
        "workflow_id": _workflow,
    },
    find_missing=_find_missing,
)


# ------------------------------------------------------------------------------------ the models


class _Model:
    """How both models are made."""

    _rules: ClassVar[_Rules]

    def __attrs_post_init__(self) -> None:
        # Its __dict__ is the one way to write to a frozen model.
        fields = self.__dict__
        faults = _check(self._rules, fields, fields)
        if faults is not None:
            raise InvalidOrderError([fault.removeprefix(".") for fault in faults])

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """Build one from parsed JSON, strictly: an unknown key is a fault; null is not set.

        Raises:
            InvalidOrderError: with every fault at once, and the order's id where it has one.
        """
        try:
            return _build(cls, cls._rules, mapping)
        except _FaultError as error:
            name = cls.__name__.lower()
            faults = [f[1:] if f.startswith(".") else f"{name}{f}" for f in error.args]
            invalid = InvalidOrderError(faults, order_id=get_order_id(mapping))
        del mapping  # so that no frame of the error shows the order
        try:
            raise invalid
        finally:
            del invalid  # this frame would refer to it, and it to this frame: a cycle


# Without slots a frozen class is made in half the time: attrs then writes to its __dict__ at once.
@attrs.frozen(kw_only=True, slots=False)
class Product(_Model):
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

    _rules: ClassVar[_Rules] = _PRODUCT_RULES

    product_name: str | None = None
    product_description: str | None = None
    product_price: float | Decimal | None = None
    product_quantity: float | Decimal | None = None
    product_sku: str | float | Decimal | None = None
    product_line_total: float | Decimal | None = None
    product_special_price: float | Decimal | None = None
    product_url: str | None = None
    product_gallery: Sequence[str] | None = None


@attrs.frozen(kw_only=True, repr=False, slots=False)
class Order(_Model):
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

    _rules: ClassVar[_Rules] = _ORDER_RULES

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

    def __repr__(self) -> str:
        # Whose order it is, and what they bought, is a customer's data; the shop's number is not.
        products: object = self.products  # anything, as long as it is not checked
        return (
            f"<Order order_id={self.order_id!r} workflow_id={self.workflow_id!r} "
            f"products={len(products) if isinstance(products, list | tuple) else '?'}>"
        )
