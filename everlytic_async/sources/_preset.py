"""What a preset says: how a shop's export becomes orders, and which of its orders are left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any

import attrs

from everlytic_async.sources._mapping import number_of
from everlytic_async.sources._records import Record

__all__ = ["EXACT", "Preset", "decimal_of"]

#: Sums and products with all their digits; half a cent is rounded up.
EXACT = Context(prec=200, rounding=ROUND_HALF_UP)


@attrs.frozen
class Preset:
    """One shop's export.

    Attributes:
        name: What ``format`` calls it.
        mapping: As `everlytic_async.sources` describes mappings; its ``products`` is a table.
        keys: An order or header that has all of these is of this shop.
        in_rows: Whether it comes in rows, as CSV does, rather than as JSON.
        reasons: Why an order is left out unless asked for; each is one of `known_reasons`.
        known_reasons: All that there are.
        one_row_once: Whether a row that is wholly like another one of its order counts once.
    """

    name: str
    mapping: Mapping[str, Any]
    keys: frozenset[str]
    in_rows: bool
    reasons: Callable[[Record], Iterator[str]]
    known_reasons: tuple[str, ...]
    one_row_once: bool = False


def decimal_of(value: Any) -> Decimal | None:
    """A number as a Decimal, with all its digits; None for what is none."""
    found = number_of(value)
    if type(value) is str:  # the common case
        return found if type(found) is Decimal else None
    if isinstance(found, int) and not isinstance(found, bool):
        return Decimal(found)
    if isinstance(found, float):
        found = Decimal(repr(found))
    return found if isinstance(found, Decimal) and found.is_finite() else None
