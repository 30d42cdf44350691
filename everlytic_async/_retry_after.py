"""What a Retry-After asks for: seconds, or a date by the server's clock."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime

_SECONDS = re.compile(r"\s*\+?([0-9]+(?:\.[0-9]*)?)\s*")
_MAX_RETRY_AFTER_S = 1e9  # finite, and longer than anybody waits


def retry_after_s(
    value: str | None, wall_clock: Callable[[], float] = time.time, date: str | None = None
) -> float | None:
    """Seconds that a Retry-After header asks for; None where it is absent or makes no sense.

    Seconds or an HTTP-date (RFC 9110, 10.2.3); a date that has passed is 0.

    Args:
        value: The header's value.
        wall_clock: Our clock: seconds since the epoch.
        date: The response's own ``Date``: by the server's clock, which ours need not agree with.
    """
    if value is None:
        return None
    if (seconds := _SECONDS.fullmatch(value)) is not None:
        return min(float(seconds[1]), _MAX_RETRY_AFTER_S)
    until = _parse_http_date(value)
    if until is None:
        return None
    now = None if date is None else _parse_http_date(date)
    return min(max(0.0, until - (wall_clock() if now is None else now)), _MAX_RETRY_AFTER_S)


def _parse_http_date(value: str) -> float | None:
    """Seconds since the epoch; None if it is not a date."""
    try:
        date = parsedate_to_datetime(value.strip())
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
