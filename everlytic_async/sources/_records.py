"""What the readers of formats yield, before it is made into orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from everlytic_async.errors import InvalidOrderError

#: An order of JSON by its keys, or a row of a table: its cells in the order of the columns.
Record = Mapping[str, Any] | Sequence[Any]


@attrs.frozen
class InvalidRow:
    """What can't be read, and may have been part of an order that has several rows.

    Attributes:
        error: Why.
        row: The cells that could be read; None if there are none.
        is_partial: Whether only the first cells of the row could be read.
    """

    error: InvalidOrderError
    row: Sequence[Any] | None = None
    is_partial: bool = False


Item = Record | InvalidRow


@attrs.frozen
class Layout:
    """What all records of an input have in common.

    Attributes:
        names: The columns of a table; of JSON, the keys of the first order.
        is_table: Whether the records are rows, and nothing is beside these names.
        holds_text: Whether each cell of a row is a text.
    """

    names: Sequence[str]
    is_table: bool = False
    holds_text: bool = False

    @property
    def columns(self) -> Sequence[str] | None:
        """The columns of a table; None for JSON."""
        return self.names if self.is_table else None
