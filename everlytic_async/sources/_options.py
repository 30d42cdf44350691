"""`ReadOptions`: how an input is to be read, checked before it is opened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from everlytic_async.errors import ConfigurationError
from everlytic_async.sources._detect import CONTAINERS
from everlytic_async.sources._mapping import normalize_mapping
from everlytic_async.sources._notation import Notation
from everlytic_async.sources._open import check_encoding
from everlytic_async.sources._shops import PRESETS, REASONS
from everlytic_async.sources._where import Condition, parse_where

#: What ``format`` may be.
FORMATS: tuple[str, ...] = (*CONTAINERS, *PRESETS)


def _check_format(_options: Any, _attribute: Any, value: str | None) -> None:
    if value is not None and value not in FORMATS:
        raise ConfigurationError(
            f"there is no format {value!r}: the known ones are {', '.join(FORMATS)}"
        )


def _parse_reasons(include: Iterable[str]) -> frozenset[str]:
    reasons = frozenset([include] if isinstance(include, str) else include)
    for reason in sorted(reasons - {*REASONS, "all"}):
        raise ConfigurationError(
            f"include: there is no {reason!r}: the known ones are all, {', '.join(REASONS)}"
        )
    return reasons


@attrs.frozen(kw_only=True)
class ReadOptions:
    """What `everlytic_async.sources.read_orders` was called with, and describes.

    Raises:
        ConfigurationError: naming the one that is wrong.

    Attributes:
        each: The keys that lead to the list of orders in JSON; empty to find it.
    """

    format: str | None = attrs.field(default=None, validator=_check_format)
    mapping: Mapping[str, Any] = attrs.field(default=None, converter=normalize_mapping)
    where: Sequence[Condition] = attrs.field(default=None, converter=parse_where)
    since: datetime | None = None
    until: datetime | None = None
    include: frozenset[str] = attrs.field(default=(), converter=_parse_reasons)
    encoding: str | None = attrs.field(default=None, validator=check_encoding)
    notation: Notation = attrs.field(factory=Notation)
    sheet: str | None = None
    each: Sequence[str] = attrs.field(init=False)

    @each.default
    def _split_each(self) -> Sequence[str]:
        each = self.mapping.get("each")
        if each is None:
            return ()
        if not isinstance(each, str) or not all(each.split(".")):
            raise ConfigurationError("each: expected the path of the list of orders: data.orders")
        return each.split(".")

    @property
    def is_plain(self) -> bool:
        """Whether the fields have their own names, and every order is read."""
        has_bounds = self.since is not None or self.until is not None
        return not (self.mapping or self.where or has_bounds) and self.notation == Notation()
