"""What readers of formats yield, before it is made into orders."""

from __future__ import annotations

from typing import Any

import attrs

from everlytic_async.errors import InvalidOrderError

__all__ = ["BadRow", "Item", "Record"]

#: An order or a row as it stands in the file, by its keys or columns.
Record = dict[str, Any]


@attrs.frozen
class BadRow:
    """What can't be a row, and with it perhaps a part of an order that has several.

    Attributes:
        error: Why.
        row: What could be read of it all the same; None for nothing.
        is_partial: Whether the row has its first cells only.
    """

    error: InvalidOrderError
    row: Record | None = None
    is_partial: bool = False


Item = Record | BadRow
