"""Numbers in files: read digit by digit, and calculated without rounding errors."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_UP, Context, Decimal
from functools import lru_cache
from typing import Any

__all__ = ["EXACT", "parse_number", "to_decimal"]

#: Sums and products with all their digits; half a cent is rounded up.
EXACT = Context(prec=200, rounding=ROUND_HALF_UP)

_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?").fullmatch
_MAX_CHARS = 1_000


@lru_cache(maxsize=1_024)  # a shop has few prices and quantities, and each is read several times
def parse_number(text: str) -> Decimal | str:
    """The number that a text is, with all its digits; the text itself if it is not a number."""
    if len(text) <= _MAX_CHARS and _NUMBER(number := text.strip()):
        return Decimal(number)
    return text


def to_decimal(value: Any) -> Decimal | None:
    """A number, or the text of one, with all its digits; None for anything else."""
    if isinstance(value, str):
        number = parse_number(value)
        return None if isinstance(number, str) else number
    if isinstance(value, float):
        value = Decimal(repr(value))
    elif isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    return value if isinstance(value, Decimal) and value.is_finite() else None
