"""`ReadOptions`: how an input is to be read, checked before it is opened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from everlytic_async.errors import ConfigurationError
from everlytic_async.sources._detect import CONTAINERS
from everlytic_async.sources._mapping import normalize_mapping
from everlytic_async.sources._notation import DateLike, Notation, parse_bound
from everlytic_async.sources._open import check_encoding
from everlytic_async.sources._shops import PRESETS, REASONS
from everlytic_async.sources._where import Condition, WhereLike, parse_where

__all__ = ["FORMATS", "ReadOptions"]

#: What ``format`` may be.
FORMATS: tuple[str, ...] = (*CONTAINERS, *PRESETS)


@attrs.frozen(kw_only=True)
class ReadOptions:
    """What `everlytic_async.sources.read_orders` was called with.

    Attributes:
        each: The keys that lead to the list of orders in JSON; empty to find it.
        The others are as `read_orders` describes them, parsed.
    """

    format: str | None
    mapping: Mapping[str, Any]
    each: Sequence[str]
    where: Sequence[Condition]
    since: datetime | None
    until: datetime | None
    include: frozenset[str]
    encoding: str | None
    notation: Notation
    sheet: str | None

    @classmethod
    def parse(
        cls,
        *,
        format: str | None = None,  # noqa: A002 - the public name
        mapping: Mapping[str, Any] | None = None,
        where: WhereLike | None = None,
        since: DateLike | None = None,
        until: DateLike | None = None,
        include: Iterable[str] = (),
        encoding: str | None = None,
        decimal: str | None = None,
        thousands: str | None = None,
        date_format: str | None = None,
        sheet: str | None = None,
    ) -> ReadOptions:
        """Check the arguments of `read_orders`.

        Raises:
            ConfigurationError: naming the one that is wrong.
        """
        if format is not None and format not in FORMATS:
            raise ConfigurationError(
                f"there is no format {format!r}: the known ones are {', '.join(FORMATS)}"
            )
        reasons = frozenset([include] if isinstance(include, str) else include)
        for reason in sorted(reasons - {*REASONS, "all"}):
            raise ConfigurationError(
                f"include: there is no {reason!r}: the known ones are all, {', '.join(REASONS)}"
            )
        check_encoding(encoding)
        normalized = normalize_mapping(mapping)
        return cls(
            format=format,
            mapping=normalized,
            each=_split_each(normalized.get("each")),
            where=parse_where(where),
            since=parse_bound("since", since),
            until=parse_bound("until", until),
            include=reasons,
            encoding=encoding,
            notation=Notation(decimal, thousands, date_format),
            sheet=sheet,
        )

    @property
    def is_plain(self) -> bool:
        """Whether the fields have their own names, and every order is read."""
        has_bounds = self.since is not None or self.until is not None
        return not (self.mapping or self.where or has_bounds) and self.notation == Notation()


def _split_each(each: object) -> Sequence[str]:
    if each is None:
        return ()
    if not isinstance(each, str) or not all(each.split(".")):
        raise ConfigurationError("each: expected the path of the list of orders: data.orders")
    return each.split(".")
