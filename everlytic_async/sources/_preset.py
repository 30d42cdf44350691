"""What a preset says: how a shop's export becomes orders, and which of its orders are skipped."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import attrs

#: In a table of statuses, the reason of those whose orders are read.
KEPT = ""
# No longer text is a status.
_MAX_STATUS_CHARS = 200


def statuses(kept: str, **skipped: str) -> dict[str, str]:
    """A table of statuses: those that are read, and for each reason those that are skipped.

    >>> statuses("paid on_hold", completed_draft="completed")
    {'paid': '', 'on_hold': '', 'completed': 'completed draft'}

    Args:
        kept: Statuses as `normalize_status` writes them, with blanks between them.
        **skipped: The same for each reason.
    """
    table = dict.fromkeys(kept.split(), KEPT)
    for reason, words in skipped.items():
        table |= dict.fromkeys(words.split(), reason.replace("_", " "))
    return table


def normalize_status(text: str) -> str:
    """A status in lower case and with ``_`` between its words: On hold, on-hold and ON_HOLD."""
    return _normalize(text) if len(text) <= _MAX_STATUS_CHARS else text


@lru_cache(maxsize=256)
def _normalize(text: str) -> str:
    plain = unicodedata.normalize("NFC", text).lower()
    return "_".join(plain.replace("-", " ").replace("_", " ").split())


@attrs.frozen
class FirstRow:
    """A specification that is set for the rows of an order of which one is its first.

    Attributes:
        key: The column of its id.
        columns: What only its first row has. If the table has none of them, any row may be it.
    """

    key: str
    columns: Sequence[str]


@attrs.frozen(kw_only=True)
class Preset:
    """One shop's export, as a table.

    Attributes:
        name: What ``format`` calls it.
        keys: An order or header that has all of these is of this shop.
        recognizes: Whether an order is of this shop, where its keys alone don't tell.
        is_tabular: Whether it comes in rows, as CSV does, rather than as JSON.
        mapping: As `everlytic_async.sources` describes mappings; its ``products`` is a table.
        statuses: At a path, each known status and the reason to skip an order that has it, or
            `KEPT`: see `statuses`. Orders with another status are read, and counted.
        skip: More reasons to skip an order: for each a specification, as in mappings, that is set
            (and not False) for such an order.
        skip_without_status: The same of orders whose status is blank; or `FirstRow`.
        faults: What makes an order invalid: for each fault a specification, as in `skip`.
        joins_lines: Whether its JSON Lines have the parts of an order in lines of their own.
        dedupe_rows: Whether equal rows of one order count once.
        date_format: How its times are written, if not as in ISO 8601.
    """

    name: str
    keys: frozenset[str]
    recognizes: Callable[[Mapping[str, Any]], bool] = lambda _order: True
    is_tabular: bool = False
    mapping: Mapping[str, Any]
    statuses: Mapping[str, Mapping[str, str]]
    skip: Mapping[str, Any] = attrs.field(factory=dict)
    skip_without_status: Mapping[str, Any] = attrs.field(factory=dict)
    faults: Mapping[str, Any] = attrs.field(factory=dict)
    joins_lines: bool = False
    dedupe_rows: bool = False
    date_format: str | None = None

    @property
    def reasons(self) -> list[str]:
        """Why orders of the shop may be skipped."""
        words = [reason for table in self.statuses.values() for reason in table.values()]
        found = dict.fromkeys([*self.skip, *self.skip_without_status, *words])
        return [reason for reason in found if reason != KEPT]
