"""JSON read strictly: the one decoder for files and for the messages of the queue.

Python's `json` is lax where it matters. Here a key that appears twice, a number of over 1,000
digits or with a huge exponent, and text that is nested too deeply raise `JsonFaultError`, and
fractions stay exact. What it says of a fault never holds a value: it may be a customer's. Its time
grows linearly with the text; how long a text may be is for the reader to decide.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache
from typing import Any

import attrs

from everlytic_async._checks import MAX_DIGITS, is_safe_field_name
from everlytic_async.errors import MAX_FAULTS
from everlytic_async.orders import Order, Product

__all__ = ["JsonFaultError", "StrictDecoder", "non_finite_faults"]

_FIELDS = frozenset(field.name for model in (Order, Product) for field in attrs.fields(model))
_TOO_MANY_DIGITS = "holds a number of too many digits"
# A larger exponent makes a calculation with the number fail. No amount needs one.
_MAX_EXPONENT = 9_999
# How many steps of a path are shown: of a nested text the last ones.
_MAX_STEPS = 16

# Python parses an integer of so many digits in no time; without such a limit it may take long.
_MAX_FAST_DIGITS = 10_000
# Of a longer number than `MAX_DIGITS`, four of these characters in a row are digits.
_STRIDE = MAX_DIGITS // 4
_FOUR_DIGITS = re.compile(r"[0-9]{4}").search

# A key of an object or an index of a list, and the path that leads there.
_Path = tuple["_Path | None", str | int]


class JsonFaultError(ValueError):
    """What is wrong with a piece of JSON, without any of its values."""


class StrictDecoder:
    """Decodes JSON texts, one after another.

    NaN and the infinities come out as floats, and nothing else does: an `Order` names the field
    that holds one. Where the value is not made into an order field by field, see
    `non_finite_faults`.

    Attributes:
        found_non_finite: Whether a NaN or an infinity was read since it was last set to False.
    """

    def __init__(self) -> None:
        self.found_non_finite = False
        self._exact = self._new_decoder(_integer)
        is_limited = 0 < sys.get_int_max_str_digits() <= _MAX_FAST_DIGITS
        # A function for each integer would take a fifth of the time.
        self._decoder = self._new_decoder(None) if is_limited else self._exact

    def _new_decoder(self, parse_int: Callable[[str], int] | None) -> json.JSONDecoder:
        return json.JSONDecoder(
            object_pairs_hook=_object,
            parse_float=_fraction,
            parse_int=parse_int,
            parse_constant=self._non_finite,
        )

    def _non_finite(self, name: str) -> float:
        self.found_non_finite = True
        return float(name)

    def decode(self, text: str) -> Any:
        """The value of a whole text.

        Raises:
            JsonFaultError: it is not JSON, or not what is read here.
        """
        try:
            value = self._decoder.decode(text)
            if _FOUR_DIGITS(text[::_STRIDE]):
                value = self._exact.decode(text)
        except json.JSONDecodeError as error:
            raise JsonFaultError(f"is not JSON: {error.msg}, column {error.colno}") from None
        except (ValueError, ArithmeticError, RecursionError) as error:
            raise _fault(error) from None
        return value

    def decode_start(self, text: str, start: int) -> tuple[Any, int]:
        """The value that starts at an index of a text, and where it ends.

        Raises:
            json.JSONDecodeError: it is not JSON, or goes on behind the end of the text.
            JsonFaultError: it is JSON, but not what is read here.
        """
        try:
            found: tuple[Any, int] = self._decoder.raw_decode(text, start)
            if _FOUR_DIGITS(text[start : found[1] : _STRIDE]):
                found = self._exact.raw_decode(text, start)
        except json.JSONDecodeError:
            raise
        except (ValueError, ArithmeticError, RecursionError) as error:
            raise _fault(error) from None
        return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice: set[str] = set()
        for key, _value in pairs:
            # A name that is not of a field may be a value in the wrong position.
            if key in seen and key in _FIELDS:
                twice.add(key)
            seen.add(key)
        names = ", ".join(sorted(twice)) or "a key"
        raise JsonFaultError(f"{names}: given more than once in one object")
    return found


def _integer(text: str) -> int:
    # Python takes quadratic time for a long one, or refuses it, depending on a setting.
    if len(text.removeprefix("-")) > MAX_DIGITS:
        raise JsonFaultError(_TOO_MANY_DIGITS)
    return int(text)


# A shop has few prices.
@lru_cache(maxsize=4_096)
def _fraction(text: str) -> Decimal:
    number = Decimal(text)
    if len(text) > MAX_DIGITS or abs(number.adjusted()) > _MAX_EXPONENT:
        raise JsonFaultError(_TOO_MANY_DIGITS)
    return number


def _fault(error: Exception) -> JsonFaultError:
    if isinstance(error, JsonFaultError):
        return error
    if isinstance(error, RecursionError):
        return JsonFaultError("is nested too deeply")
    # Decimal refuses an exponent of over 18 digits.
    return JsonFaultError(_TOO_MANY_DIGITS)


def non_finite_faults(record: dict[str, Any]) -> list[str]:
    """The faults of the floats in a decoded object, wherever they are: one more than are shown."""
    faults: list[str] = []
    pending: list[tuple[_Path | None, Any]] = [(None, record)]
    while pending:
        path, container = pending.pop()
        inner: list[tuple[_Path | None, Any]] = []
        is_object = isinstance(container, dict)
        for key, value in container.items() if is_object else enumerate(container):
            if isinstance(value, float):
                faults.append(f"{_shown((path, key))}: holds NaN or an infinity")
                if len(faults) > MAX_FAULTS:
                    return faults
            elif isinstance(value, dict | list):
                inner.append(((path, key), value))
        pending += reversed(inner)
    return faults


def _shown(path: _Path) -> str:
    steps: list[str] = []
    rest: _Path | None = path
    while rest is not None and len(steps) < _MAX_STEPS:
        rest, key = rest
        if isinstance(key, int):
            steps.append(f"[{key}]")
        else:
            steps.append(f".{key if is_safe_field_name(key) else '…'}")
    shown = "".join(reversed(steps))
    return f"…{shown}" if rest is not None else shown.removeprefix(".")
