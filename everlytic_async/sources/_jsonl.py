"""JSON Lines: one order on each line. See https://jsonlines.org.

Strict, since Python's `json` is lax where it matters: a key that is given twice is a fault of the
line, and NaN or an infinity one of its field. Faults name what is wrong and where, never a value:
it may be a customer's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import IO, Any, TypeVar

import attrs

from everlytic_async.errors import InvalidOrderError
from everlytic_async.orders import Order, Product, is_name
from everlytic_async.sources._open import BOM, MAX_LINE_BYTES

__all__ = ["DECODER", "FaultError", "fault_of", "not_numbers", "read_json_lines"]

_Made = TypeVar("_Made")

_TOO_LONG = f"is longer than {MAX_LINE_BYTES:,} bytes"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_NESTED = (dict, list)
_FIELDS = frozenset(field.name for model in (Order, Product) for field in attrs.fields(model))


class FaultError(ValueError):
    """What is wrong with a piece of JSON, found while parsing it."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _value in pairs]
        twice = sorted({key for key in keys if key in _FIELDS and keys.count(key) > 1})
        # A name that is no field's may be a value gone astray.
        raise FaultError(f"{', '.join(twice) or 'a key'}: given more than once in one object")
    return found


#: Exact and strict: what can't be kept raises. A float is NaN or an infinity, and nothing else is:
#: an `Order` has it for a fault, beside its others; where there is none, see `not_numbers`.
DECODER = json.JSONDecoder(parse_float=Decimal, parse_constant=float, object_pairs_hook=_object)


def not_numbers(record: dict[str, Any]) -> list[str]:
    """The faults of what is no JSON number, wherever it stands in an object of `DECODER`."""
    faults: list[str] = []
    pending: list[tuple[str, Any]] = [("", record)]
    for path, outer in pending:  # it grows meanwhile
        for key, inner in outer.items() if isinstance(outer, dict) else enumerate(outer):
            kind = type(inner)
            if kind in _NESTED:
                pending.append((_below(path, key), inner))
            elif kind is float:
                faults.append(f"{_below(path, key)}: holds NaN or an infinity")
    return faults


def _below(path: str, key: str | int) -> str:
    if isinstance(key, int):
        return f"{path}[{key}]"
    name = key if is_name(key) else "…"
    return f"{path}.{name}" if path else name


def fault_of(error: Exception) -> str:
    """What to say of an error of `DECODER` that is not about syntax.

    Raises:
        Exception: the error itself, when it is none of those.
    """
    match error:
        case FaultError():
            return str(error)
        case RecursionError():
            return "is nested too deeply"
        case ValueError() | ArithmeticError():
            # Python refuses to read an integer of over 4,300 digits, and an exponent of over 18.
            return "holds a number of too many digits"
        case _:
            raise error


def read_json_lines(
    file: IO[bytes], make: Callable[[dict[str, Any]], _Made]
) -> Iterator[tuple[int, _Made | InvalidOrderError]]:
    """Yield each line's number, from 1, and what is made of it or why not; skip blank lines.

    Args:
        file: Open for reading, in binary. It stays open.
        make: Makes of a line's object what is yielded. It may raise `InvalidOrderError`.
    """
    number = 0
    # Room for the line's end.
    while line := file.readline(MAX_LINE_BYTES + 2):
        number += 1
        if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            _skip_line(file)
            yield number, InvalidOrderError([_TOO_LONG], number)
            continue
        if number == 1:
            line = line.removeprefix(BOM)  # it marks the file, not the line
        line = line.strip()
        if line:
            try:
                made: _Made | InvalidOrderError = make(_parse(line, is_first=number == 1))
            except InvalidOrderError as error:
                made = InvalidOrderError(error.faults, number, error.order_id)
            except FaultError as error:
                made = InvalidOrderError([str(error)], number)
            yield number, made


def _skip_line(file: IO[bytes]) -> None:
    while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
        pass


def _parse(line: bytes, *, is_first: bool) -> dict[str, Any]:
    if len(line) > MAX_LINE_BYTES:
        raise FaultError(_TOO_LONG)
    try:
        value = DECODER.decode(line.decode())
    except UnicodeDecodeError:
        encoding = "is UTF-16" if is_first and line.startswith(_UTF_16) else "is not UTF-8"
        raise FaultError(f"{encoding}: save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise FaultError(f"is not JSON: {error.msg}, column {error.colno}") from None
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise FaultError(fault_of(error)) from None
    if not isinstance(value, dict):
        raise FaultError("is no order: expected one JSON object on each line")
    return value
