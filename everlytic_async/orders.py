"""`Order` and `Product`: what a trigger says, and what makes it valid.

The fields and their types are those of the endpoint's documentation (``order_id`` in lower case, as
in its sample). An order is validated once, on construction, and every fault is reported together.
Values are never coerced: ``None`` is not the text "None", ``True`` is not 1, ``"abc"`` is not a
list. Faults name fields and types, never values, because a value may be a customer's.
"""

from __future__ import annotations

import math
import operator
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from itertools import islice
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
# Fewer products than this are checked one by one.
_FEW = 4


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


_Check = Callable[[Any], Any]
_ModelT = TypeVar("_ModelT", bound="_Model")


class _Rules:
    """What makes a model valid: the checks of its fields, and what must be there."""

    def __init__(
        self,
        checks: dict[str, _Check],
        find_missing: Callable[[dict[str, Any]], list[str]] | None = None,
    ) -> None:
        self.checks = checks
        self.unset = dict.fromkeys(checks)
        self.rank = {name: rank for rank, name in enumerate(checks)}.__getitem__
        self.find_missing = find_missing


def _collect_faults(values: Iterable[tuple[str, _Check, Any]]) -> list[str]:
    """The faults of values, each with its path and its check: one more than are shown."""
    faults: list[str] = []
    for path, check, value in values:
        try:
            check(value)
        except _FaultError as error:
            faults += [f"{path}{fault}" for fault in error.args]
            if len(faults) > MAX_FAULTS:
                break
    return faults


def _each(values: Any, check: _Check) -> tuple[Any, ...]:
    """Check every value of a list."""
    if not isinstance(values, _LISTS):
        raise _wrong_type("a list", values)
    values = tuple(values)
    try:
        if len(values) <= MAX_ITEMS:
            return tuple(map(check, values))
    except _FaultError:
        pass  # now for all faults
    items = enumerate(values[:MAX_ITEMS])
    faults = _collect_faults((f"[{index}]", check, value) for index, value in items)
    if len(values) > MAX_ITEMS:
        faults.append(f": over {MAX_ITEMS:,} items, more than are accepted")
    raise _FaultError(*faults)


def _gallery(value: Any) -> Any:
    return _each(value, _url)


def _product(value: Any) -> Any:
    if isinstance(value, Product):
        return {name: field for name, field in value.__dict__.items() if field is not None}
    return _check_mapping(_PRODUCT_RULES, value)


def _product_model(value: Any) -> Any:
    return value if isinstance(value, Product) else _build(Product, _PRODUCT_RULES, value)


def _product_models(value: Any) -> Any:
    return _at_least_one(_each(value, _product_model))


def _products(value: Any) -> Any:
    alike = _check_alike(value) if type(value) is list and len(value) >= _FEW else None
    return _at_least_one(alike or _each(value, _product))


def _at_least_one(products: Sequence[Any]) -> Sequence[Any]:
    if not products:
        raise _FaultError(": at least one is required")
    return products


def _check_alike(products: list[Any]) -> Sequence[dict[str, Any]] | None:
    """Check many products field by field, in a third of the time; None if it takes a closer look.

    All must have the same fields. What holds for these texts in one, or for the sum of these
    numbers, holds for each of them.
    """
    if len(products) > MAX_ITEMS or {*map(type, products)} != {dict}:
        return None
    checks, names = _PRODUCT_RULES.checks, [*products[0]]
    if len({*map(tuple, products)}) > 1:
        return None
    changed: dict[str, list[Any]] = {}
    try:
        for name, values in zip(names, zip(*map(dict.values, products)), strict=True):  # noqa: B905
            check, types = checks[name], {*map(type, values)}
            if check in _TEXTS and types == {str}:
                check("".join(values))
            elif check in _NUMBERS and types <= {int, float}:
                check(sum(map(abs, values)))
            elif any(map(operator.is_not, checked := [*map(check, values)], values)):
                changed[name] = checked
    except (KeyError, OverflowError, _FaultError):
        return None
    in_order = [name for name in checks if name in names]
    if names != in_order:
        products = [{name: product[name] for name in in_order} for product in products]
    for name, checked in changed.items():
        products = [{**p, name: value} for p, value in zip(products, checked, strict=True)]
    return products


def _check_fields(rules: _Rules, values: dict[Any, Any], fields: dict[str, Any]) -> list[str]:
    """Set in `fields` what is sent for the values that are set; return all faults.

    Each starts where the path of the model ends: ``.total: ...``, or ``: ...`` of the whole.
    """
    checks, find_missing = rules.checks, rules.find_missing
    try:
        for name, value in values.items():
            check = checks[name]
            if value is not None:
                fields[name] = check(value)
    except (KeyError, _FaultError):
        pass  # now for all faults
    else:
        if find_missing is None or not find_missing(fields):
            return []
    # Those of the products come last: there may be many of them.
    names = sorted(checks, key=lambda name: name == "products")
    wrong = _collect_faults(
        (f".{name}", checks[name], values[name]) for name in names if values.get(name) is not None
    )
    missing = [] if find_missing is None else find_missing(values)
    unknown = [
        f".{name}: no such field"
        if is_safe_field_name(name)
        else ": has a key that is not the name of a field"
        for name in islice((name for name in values if name not in checks), MAX_FAULTS + 1)
    ]
    return unknown + sorted([*wrong, *missing], key=lambda fault: fault.startswith(".products"))


def _as_dict(mapping: Any) -> dict[Any, Any]:
    if type(mapping) is dict:
        return mapping
    if not isinstance(mapping, Mapping):
        raise _wrong_type("an object", mapping)
    return {key: mapping[key] for key in mapping.keys()}  # noqa: SIM118 - it may be lazy


def _build(cls: type[_ModelT], rules: _Rules, mapping: Any) -> _ModelT:
    """Build a model from parsed JSON, or raise a `_FaultError`."""
    model = object.__new__(cls)  # as `cls(**mapping)` does, in less time
    fields = model.__dict__
    fields |= rules.unset
    if faults := _check_fields(rules, _as_dict(mapping), fields):
        raise _FaultError(*faults)
    return model


def _check_mapping(rules: _Rules, mapping: Any) -> dict[str, Any]:
    """What is set in parsed JSON, in the order of the wire, or raise a `_FaultError`."""
    fields: dict[str, Any] = {}
    if faults := _check_fields(rules, _as_dict(mapping), fields):
        raise _FaultError(*faults)
    ranks = [*map(rules.rank, fields)]
    if ranks == sorted(ranks):
        return fields
    return {name: fields[name] for name in rules.checks if name in fields}


def _find_missing(fields: dict[str, Any]) -> list[str]:
    """The faults of an order that lacks what is required."""
    faults = []
    if fields.get("contact_email") is None and fields.get("contact_unique_id") is None:
        faults.append(".contact_email or contact_unique_id: one of the two is required")
    if fields.get("products") is None:
        faults.append(".products: at least one is required")
    return faults


_TEXTS = (_text, _text_or_number)
_NUMBERS = (_number, _text_or_number)
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
    }
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
        "products": _product_models,
        "checkout_url": _url,
        "workflow_id": _workflow,
    },
    _find_missing,
)

#: For an order that is sent as it comes, without a model.
_WIRE_RULES = _Rules({**_ORDER_RULES.checks, "products": _products}, _find_missing)


# ------------------------------------------------------------------------------------ the models


class _Model:
    """How both models are made."""

    _rules: ClassVar[_Rules]

    def __attrs_post_init__(self) -> None:
        fields = self.__dict__  # the one way to write to a frozen model
        if faults := _check_fields(self._rules, fields, fields):
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
            invalid = _invalid(cls.__name__.lower(), error, mapping)
        del mapping  # so that no frame of the error shows the order
        try:
            raise invalid
        finally:
            del invalid  # this frame would refer to it, and it to this frame: a cycle


def _invalid(model: str, error: _FaultError, mapping: object) -> InvalidOrderError:
    faults = [f[1:] if f.startswith(".") else f"{model}{f}" for f in error.args]
    return InvalidOrderError(faults, order_id=get_order_id(mapping))


def check_mapping(mapping: Mapping[str, Any]) -> dict[str, Any] | InvalidOrderError:
    """What is sent of an order, without a model; or an error with all faults, not raised."""
    try:
        return _check_mapping(_WIRE_RULES, mapping)
    except _FaultError as error:
        return _invalid("order", error, mapping)


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
