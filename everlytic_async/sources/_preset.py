"""What a preset says: how a shop's export becomes orders, and which of its orders are skipped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

__all__ = ["Preset"]


@attrs.frozen(kw_only=True)
class Preset:
    """One shop's export, as a table.

    Attributes:
        name: What ``format`` calls it.
        keys: An order or header that has all of these is of this shop.
        is_tabular: Whether it comes in rows, as CSV does, rather than as JSON.
        mapping: As `everlytic_async.sources` describes mappings; its ``products`` is a table.
        statuses: At a path, the words that are a reason to skip an order, and that reason.
        skip: More reasons to skip an order: for each a specification, as in mappings, that is set
            (and not False) for such an order.
        dedupe_rows: Whether equal rows of one order count once.
    """

    name: str
    keys: frozenset[str]
    is_tabular: bool = False
    mapping: Mapping[str, Any]
    statuses: Mapping[str, Mapping[str, str]]
    skip: Mapping[str, Any] = attrs.field(factory=dict)
    dedupe_rows: bool = False

    @property
    def reasons(self) -> list[str]:
        """Why orders of the shop may be skipped."""
        words = [reason for table in self.statuses.values() for reason in table.values()]
        return list(dict.fromkeys([*self.skip, *words]))
