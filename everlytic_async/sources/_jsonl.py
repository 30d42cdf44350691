"""JSON Lines: one order on each line. See https://jsonlines.org.

Strict, since Python's `json` is lax where it matters: a key that is given twice, NaN and infinities
are faults of the line. Faults name what is wrong and where, never a value: it may be a customer's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import IO, Any, NoReturn

import attrs

from everlytic_async.errors import InvalidOrderError
from everlytic_async.orders import Order, Product

__all__ = ["MAX_LINE_BYTES", "read_json_lines"]

#: A longer line is no order. It is skipped unread: a file without line ends fills no memory.
MAX_LINE_BYTES = 1024 * 1024

_TOO_LONG = f"is longer than {MAX_LINE_BYTES:,} bytes"
_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_FIELDS = frozenset(field.name for model in (Order, Product) for field in attrs.fields(model))


class _FaultError(ValueError):
    """What is wrong with a line, found while parsing it."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _value in pairs]
        twice = sorted({key for key in keys if key in _FIELDS and keys.count(key) > 1})
        # A name that is no field's may be a value gone astray.
        raise _FaultError(f"{', '.join(twice) or 'a key'}: given more than once in one object")
    return found


def _constant(_name: str) -> NoReturn:
    raise _FaultError("holds NaN or an infinity, which is no JSON number")


_DECODER = json.JSONDecoder(
    parse_float=Decimal, parse_constant=_constant, object_pairs_hook=_object
)


def read_json_lines(file: IO[Any]) -> Iterator[tuple[int, Order | InvalidOrderError]]:
    """Yield each line's number, from 1, and its order or why it is none; skip blank lines.

    Args:
        file: Open for reading, in binary or as text. It stays open.
    """
    number = 0
    # Room for the line's end.
    while line := file.readline(MAX_LINE_BYTES + 2):
        number += 1
        if isinstance(line, str):
            line = line.encode("utf-8", "surrogatepass")  # as it stood in the file
        if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            _skip_line(file)
            yield number, InvalidOrderError([_TOO_LONG], number)
            continue
        if number == 1:
            line = line.removeprefix(_BOM)  # it marks the file, not the line
        line = line.strip()
        if line:
            yield number, _order(line, number)


def _skip_line(file: IO[Any]) -> None:
    while (rest := file.readline(MAX_LINE_BYTES)) and rest[-1:] not in (b"\n", "\n"):
        pass


def _order(line: bytes, number: int) -> Order | InvalidOrderError:
    try:
        return Order.from_mapping(_parse(line, is_first=number == 1))
    except InvalidOrderError as error:
        return InvalidOrderError(error.faults, number)
    except _FaultError as error:
        return InvalidOrderError([str(error)], number)


def _parse(line: bytes, *, is_first: bool) -> dict[str, Any]:
    if len(line) > MAX_LINE_BYTES:
        raise _FaultError(_TOO_LONG)
    try:
        value = _DECODER.decode(line.decode())
    except UnicodeDecodeError:
        encoding = "is UTF-16" if is_first and line.startswith(_UTF_16) else "is not UTF-8"
        raise _FaultError(f"{encoding}: save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise _FaultError(f"is not JSON: {error.msg}, column {error.colno}") from None
    except _FaultError:
        raise
    except (ValueError, ArithmeticError):
        # Python refuses to read an integer of over 4,300 digits, and an exponent of over 18.
        raise _FaultError("holds a number of too many digits") from None
    except RecursionError:
        raise _FaultError("is nested too deeply") from None
    if not isinstance(value, dict):
        raise _FaultError("is no order: expected one JSON object on each line")
    return value
