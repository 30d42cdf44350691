"""Points in time: those of orders, and those that bound which orders are read."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time
from typing import Any

from everlytic_async.errors import ConfigurationError

__all__ = ["Moment", "bound", "moment_of"]

#: What bounds the orders: a time; a date, which means its beginning; or either in ISO 8601.
Moment = datetime | date | str

# As Shopify's CSV has it: 2026-03-01 10:00:00 +0200. Python takes it, but does not promise to.
_SPACE_BEFORE_OFFSET = re.compile(r"\s+(?=[+-]\d\d:?\d\d$|Z$)")
_UTC = re.compile(r"\s*UTC$")
# No time is longer, and what is looked for in a long row of blanks takes quadratic time.
_MAX_CHARS = 64


def moment_of(value: Any) -> datetime | None:
    """A point in time; one without an offset is UTC. None for what is none."""
    if isinstance(value, str):
        text = value.strip()
        if len(text) > _MAX_CHARS:
            return None
        text = _UTC.sub("Z", _SPACE_BEFORE_OFFSET.sub("", text))
        try:
            value = datetime.fromisoformat(text)
        except ValueError:
            return None
    elif isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    if not isinstance(value, datetime):
        return None
    return value if value.tzinfo is not None else value.replace(tzinfo=UTC)


def bound(name: str, value: Moment | None) -> datetime | None:
    """A bound as the caller gave it.

    Raises:
        ConfigurationError: when it is no point in time.
    """
    found = moment_of(value)
    if found is None and value is not None:
        raise ConfigurationError(
            f"{name}: expected a date or a time such as 2026-03-01 or 2026-03-01T08:00+02:00"
        )
    return found
