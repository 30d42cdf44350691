"""How to deliver: the settings of a client, as frozen and validated values.

Units stand in the names: ``_s`` is seconds. A wrong value is a `ConfigurationError`
that names the field.
"""

from __future__ import annotations

import enum
import sys
from typing import Any

import attrs

from everlytic_async.errors import ConfigurationError

__all__ = ["Delivery", "Pacing", "RetryPolicy", "Timeouts"]


# From one address to one address and port.
_MAX_CONNECTIONS = 65_535


class Delivery(enum.StrEnum):
    """What to do after an attempt that may have been processed."""

    #: Never repeat it: the result is UNKNOWN. Nobody is notified twice.
    AT_MOST_ONCE = "at_most_once"
    #: Repeat it: a later success is SENT with ``duplicate_risk=True``.
    AT_LEAST_ONCE = "at_least_once"


def _name(instance: Any, attribute: attrs.Attribute[Any]) -> str:
    return f"{type(instance).__name__}.{attribute.name}"


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    # By comparison: math.isfinite() raises for an integer that no float can hold.
    return -sys.float_info.max <= value <= sys.float_info.max


def _seconds(instance: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if not _is_number(value) or value <= 0:  # type: ignore[operator]
        raise ConfigurationError(
            f"{_name(instance, attribute)} must be a number of seconds above 0, got {value!r}"
        )


def _count(instance: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigurationError(
            f"{_name(instance, attribute)} must be a whole number of at least 1, got {value!r}"
        )


def _optional_count(instance: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ConfigurationError(
            f"{_name(instance, attribute)} must be None or a whole number of at least 1, "
            f"got {value!r}"
        )


def _connections(instance: Any, attribute: attrs.Attribute[Any], value: int) -> None:
    if value > _MAX_CONNECTIONS:
        raise ConfigurationError(
            f"{_name(instance, attribute)} must be at most {_MAX_CONNECTIONS:,}, got {value!r}: "
            "each POST in flight has a connection, and no address takes more of them than there "
            "are ports"
        )


def _rate(instance: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and (not _is_number(value) or value <= 0):  # type: ignore[operator]
        raise ConfigurationError(
            f"{_name(instance, attribute)} must be None or a number of orders per second above 0, "
            f"got {value!r}"
        )


def _flag(instance: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, bool):
        raise ConfigurationError(
            f"{_name(instance, attribute)} must be True or False, got {value!r}"
        )


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """When an attempt that may be repeated is repeated, and when to give up.

    The n-th pause is drawn evenly from 0 to ``min(cap_s, base_s * 2**(n-1))`` seconds: exponential
    backoff with full jitter. A pause that would end after the deadline is not begun.
    """

    #: How many POSTs an order may cost at most, the first included. 1 means no retry. Probes
    #: of an outage, of an endpoint that had been reached, are bounded by the deadline instead.
    attempts: int = attrs.field(default=5, validator=_count)
    #: The upper end of the first pause, in seconds.
    base_s: float = attrs.field(default=0.5, validator=_seconds)
    #: The upper end of every pause, in seconds.
    cap_s: float = attrs.field(default=30, validator=_seconds)
    #: An order that is not delivered this many seconds after its first attempt began is given up.
    deadline_s: float = attrs.field(default=120, validator=_seconds)
    #: A Retry-After of more seconds than this means that a quota is used up: nobody waits for it,
    #: and a batch stops.
    retry_after_cap_s: float = attrs.field(default=120, validator=_seconds)
    #: A batch stops after this many equal refusals in a row if no order of the endpoint and store
    #: was ever accepted: it is the address, the workflow or the account. None never stops for it.
    stop_after_refusals: int | None = attrs.field(default=20, validator=_optional_count)


@attrs.frozen(kw_only=True)
class Pacing:
    """How hard the endpoint may be worked. Both bounds hold for the client as a whole."""

    #: How many POSTs may be in flight at once: at most 65,535, for each has a connection.
    max_concurrency: int = attrs.field(default=32, validator=[_count, _connections])
    #: Orders per second, spread evenly; None for no bound of yours.
    max_rate: float | None = attrs.field(default=None, validator=_rate)
    #: Find the endpoint's own limit and hold it: fall when it throttles, creep up on success.
    adaptive: bool = attrs.field(default=True, validator=_flag)


@attrs.frozen(kw_only=True)
class Timeouts:
    """How long one attempt may take, by phase."""

    #: Until the connection stands, TLS included, in seconds.
    connect_s: float = attrs.field(default=10, validator=_seconds)
    #: The longest silence of the endpoint once the order is being sent, in seconds.
    read_s: float = attrs.field(default=30, validator=_seconds)
    #: The whole attempt, in seconds.
    total_s: float = attrs.field(default=60, validator=_seconds)
