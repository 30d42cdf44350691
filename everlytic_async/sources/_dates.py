"""Points in time: those of orders, and the bounds of which orders are read."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time
from typing import Any

from everlytic_async.errors import ConfigurationError

__all__ = ["DateLike", "parse_bound", "parse_datetime"]

#: A bound: a time; a date, which means its start; or either of them in ISO 8601.
DateLike = datetime | date | str

# Shopify's CSV writes 2026-03-01 10:00:00 +0200. Python reads it, but does not promise to.
_SPACE_BEFORE_OFFSET = re.compile(r"\s+(?=[+-]\d\d:?\d\d$|Z$)")
_UTC = re.compile(r"\s*UTC$")
# No time is longer, and the patterns take quadratic time for many blanks.
_MAX_CHARS = 64


def parse_datetime(value: Any) -> datetime | None:
    """A point in time; without an offset it is UTC. None if the value is not one."""
    if isinstance(value, str):
        text = value.strip()
        if len(text) > _MAX_CHARS:
            return None
        try:
            value = datetime.fromisoformat(_UTC.sub("Z", _SPACE_BEFORE_OFFSET.sub("", text)))
        except ValueError:
            return None
    elif isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    if not isinstance(value, datetime):
        return None
    return value if value.tzinfo is not None else value.replace(tzinfo=UTC)


def parse_bound(name: str, value: DateLike | None) -> datetime | None:
    """A bound; None for none.

    Raises:
        ConfigurationError: when it is not a point in time.
    """
    bound = parse_datetime(value)
    if bound is None and value is not None:
        raise ConfigurationError(
            f"{name}: expected a date or a time such as 2026-03-01 or 2026-03-01T08:00+02:00"
        )
    return bound
