"""What each value of an order has to be: the checks of single values.

The fields and their types are those of the endpoint's documentation. Where it has text, a number
is written as text; no other type is taken for another: ``None`` is not the text "None", ``True`` is
not 1, ``"abc"`` is not a list. Faults name types, never values: a value may be a customer's.

Each `check_...` takes a value that is set and returns it as an order keeps it, or raises
`FaultError`. The common case comes first: a backfill runs these millions of times.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

# White space, control characters and lone surrogates: in a set of a pattern, `\s` is slower.
_BLANKS = r"\x00-\x20\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ud800-\udfff"
_BLANK = re.compile(f"[{_BLANKS}]")
# Scheme, perhaps a user, a host (a bracketed IPv6 address, or a name that is not only dots and
# hyphens), a port up to 65535, then anything without blanks. Not re.IGNORECASE: it takes U+017F for
# an "s".
_URL_PATTERN = (
    r"[Hh][Tt][Tt][Pp][Ss]?://"
    rf"(?:[^/?#\[\]@\\{_BLANKS}]*+@)??"
    r"(?:\[[0-9A-Fa-f:.]+\]"
    rf"|[.-]*+[^/?#\[\]@\\:<>\"^`{{|}}{_BLANKS}]++)"
    r"(?::(?:[0-5]?[0-9]{1,4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?"
    rf"(?:[/?#][!-~]*+[^{_BLANKS}]*+)?"  # nearly always ASCII, which is faster by itself
)
_URL = re.compile(_URL_PATTERN).fullmatch
_URL_LINES = re.compile(rf"(?:{_URL_PATTERN}\n)*+").fullmatch
# One valid e-mail address, by the pattern of the WHATWG HTML standard
# (https://html.spec.whatwg.org/multipage/input.html#valid-e-mail-address), with letters outside
# ASCII in both parts. Two addresses, a name or <> around it do not match.
_LETTER = r"0-9A-Za-z_\w"  # ASCII by itself is faster
_LABEL = rf"(?!-)[{_LETTER}-]{{1,63}}+(?<!-)"
_EMAIL = re.compile(
    rf"[{_LETTER}.!#$%&'*+/=?^`{{|}}~-]++@(?![^_]*+_){_LABEL}(?:\.{_LABEL})*+"  # no _ after the @
).fullmatch
# With a letter in it, so that it is not a phone number.
_SAFE_NAME = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9 ._\[\]/-]{1,40}").fullmatch
_MAX_INTEGER = 2**63 - 1
#: A longer number is a mistake or an attack: Python takes quadratic time for a longer integer, or
#: refuses it.
MAX_DIGITS = 1_000
_TOO_LARGE = 10**MAX_DIGITS
_MAX_ID_BITS = 64
#: Of an order's products, of a product's pictures, and of the rows of an order in CSV: more are a
#: mistake or an attack. In JSON a product takes 3 bytes, in memory over 300.
MAX_ITEMS = 10_000
# Beyond this exponent plain notation is mostly zeros; the number is written with its exponent.
_PLAIN_EXPONENT = 64
LISTS = (list, tuple)


def format_number(number: float | Decimal) -> str:
    """Write a finite number in decimal digits: exact for int and Decimal, the shortest for float.

    >>> format_number(Decimal("10.10")), format_number(0.1), format_number(Decimal("1E+3"))
    ('10.10', '0.1', '1000')
    """
    if isinstance(number, int):
        return int.__repr__(number)
    exact = number if isinstance(number, Decimal) else Decimal(float.__repr__(number))
    text = str(exact)
    if "E" not in text:
        return text  # nearly always
    exponent = exact.as_tuple().exponent
    if isinstance(exponent, int) and abs(exponent) <= _PLAIN_EXPONENT:
        return format(exact, "f")
    return text


def get_order_id(raw_order: object) -> str | None:
    """The order id of an order that is not valid, where it has one that can be written."""
    try:
        order_id = raw_order.get("order_id") if isinstance(raw_order, Mapping) else None
    except Exception:  # noqa: BLE001 - a caller's mapping
        return None
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


class FaultError(ValueError):
    """Why a value is not valid: what follows the name of its field, for each fault."""


def wrong_type(expected: str, value: object) -> FaultError:
    """A fault: a value of another type was expected."""
    return FaultError(f": expected {expected}, got {_describe_type(value)}")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _characters(value: Any) -> Any:
    if not isinstance(value, str):
        raise wrong_type("text", value)
    if value.isascii() or _is_unicode(value):
        return value
    raise FaultError(": holds a lone surrogate, which is not a character")


def check_text(value: Any) -> Any:
    """Text, with characters only."""
    if type(value) is str and value.isascii() and "\x00" not in value:
        return value
    if "\x00" in _characters(value):
        raise FaultError(": holds a NUL character")
    return value


def check_number(value: Any, expected: str = "a number") -> Any:
    """A finite number, an integer of at most 1,000 digits; not a bool."""
    if type(value) is int or (isinstance(value, int) and not isinstance(value, bool)):
        if abs(value) >= _TOO_LARGE:
            raise FaultError(": is a number of over 1,000 digits")
        return value
    if isinstance(value, Decimal):
        # Not math.isfinite(): as a float, 1E+400 is infinite, and a signaling NaN raises.
        is_finite = value.is_finite()
    elif isinstance(value, float):
        is_finite = math.isfinite(value)
    else:
        raise wrong_type(expected, value)
    if not is_finite:
        raise FaultError(f": expected {expected}, got NaN or an infinity")
    return value


def check_text_or_number(value: Any) -> Any:
    """Either of the two."""
    return check_text(value) if isinstance(value, str) else check_number(value, "text or a number")


def check_amount(value: Any) -> Any:
    """What is text on the wire; a number is written as text."""
    if isinstance(value, str):
        return check_text(value)
    return format_number(check_number(value, "text or a number"))


def check_order_id(value: Any) -> Any:
    """Text or a number that is not blank."""
    order_id = check_amount(value)
    if not order_id.strip():
        raise FaultError(": is blank")
    return order_id


def check_unique_id(value: Any) -> Any:
    """Text, or the integer that a shop numbers its customer with."""
    # Shops number their customers, so an integer is taken as its digits.
    return check_order_id(value if type(value) is int else check_text(value))


def check_email(value: Any) -> Any:
    """One e-mail address; it is trimmed."""
    address = value.strip() if isinstance(value, str) else ""
    if _EMAIL(address):
        return address
    if not _characters(value).strip():
        raise FaultError(": is blank")
    if "@" not in address:
        raise FaultError(": expected an e-mail address, found no @")
    if _BLANK.search(address):  # a line end would inject a header
        raise FaultError(
            ": expected an e-mail address alone, found white space or a control character in it"
        )
    # Accents and vowel signs that are characters of their own belong to the letter before them.
    if _EMAIL("".join(char for char in address if unicodedata.category(char)[0] != "M")):
        return address
    raise FaultError(": expected one valid e-mail address, such as ann@example.com")


def check_url(value: Any) -> Any:
    """A whole URL of http or https."""
    if isinstance(value, str) and _URL(value):
        return value
    _characters(value)
    raise FaultError(": expected a whole URL, from http:// or https:// on and without spaces")


def are_urls(texts: Sequence[str]) -> bool:
    """Whether all of these texts pass `check_url`, in half the time."""
    lines = "\n".join((*texts, ""))
    return _URL_LINES(lines) is not None and lines.count("\n") == len(texts)


def check_workflow(value: Any) -> Any:
    """The id of a workflow: an integer above 0."""
    if type(value) is not int:
        raise wrong_type("an integer above 0", value)
    if not 0 < value <= _MAX_INTEGER:
        raise FaultError(": expected an integer above 0")
    return value
