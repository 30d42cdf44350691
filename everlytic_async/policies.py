"""The settings of a client, as frozen and validated values.

Names that end in ``_s`` are in seconds. A wrong value raises a `ConfigurationError` that names the
field.
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


def check_seconds(name: str, value: object) -> None:
    """Refuse what is not a finite number of seconds above 0.

    Raises:
        ConfigurationError: it names the argument.
    """
    if not _is_number(value) or value <= 0:  # type: ignore[operator]
        raise ConfigurationError(f"{name} must be a number of seconds above 0, got {value!r}")


def _seconds(instance: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    check_seconds(_name(instance, attribute), value)


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
    backoff with full jitter. A pause that would end after the deadline is not started.
    """

    #: The most POSTs for one order, the first included; 1 means no retry. Probes during an outage
    #: are bounded by the deadline instead if the endpoint had answered before.
    attempts: int = attrs.field(default=5, validator=_count)
    #: The longest first pause, in seconds.
    base_s: float = attrs.field(default=0.5, validator=_seconds)
    #: The longest pause, in seconds.
    cap_s: float = attrs.field(default=30, validator=_seconds)
    #: No attempt of an order starts later than this after its first, in seconds.
    deadline_s: float = attrs.field(default=120, validator=_seconds)
    #: A longer Retry-After, in seconds, means that a quota is used up: a batch stops.
    retry_after_cap_s: float = attrs.field(default=120, validator=_seconds)
    #: A batch stops after this many equal refusals in a row if the endpoint never accepted an
    #: order of the store: the address, the workflow or the account is wrong. None: never.
    stop_after_refusals: int | None = attrs.field(default=20, validator=_optional_count)


@attrs.frozen(kw_only=True)
class Pacing:
    """How fast to send. The bounds hold for all calls of a client together."""

    #: The most POSTs in flight at the same time. Each has a connection, so at most 65,535.
    max_concurrency: int = attrs.field(default=32, validator=[_count, _connections])
    #: The most orders per second, spread evenly; None: no such bound.
    max_rate: float | None = attrs.field(default=None, validator=_rate)
    #: Find the endpoint's own limit from what it throttles, and stay just below it.
    adaptive: bool = attrs.field(default=True, validator=_flag)


@attrs.frozen(kw_only=True)
class Timeouts:
    """How long one attempt may take, by phase."""

    #: The most time for connecting, TLS included, in seconds.
    connect_s: float = attrs.field(default=10, validator=_seconds)
    #: The longest silence of the endpoint once the order is sent, in seconds.
    read_s: float = attrs.field(default=30, validator=_seconds)
    #: The most time for the whole attempt, in seconds.
    total_s: float = attrs.field(default=60, validator=_seconds)


def check_delivery(value: object) -> Delivery:
    """The member for it or for its value.

    Raises:
        ConfigurationError: there is none.
    """
    for member in Delivery:
        if value == member:
            return member
    raise ConfigurationError(f"delivery must be {' or '.join(Delivery)}, got {value!r}")


def check_type(name: str, value: object, expected: type) -> None:
    """Check that a setting is of a class.

    Raises:
        ConfigurationError: it is not.
    """
    if not isinstance(value, expected):
        raise ConfigurationError(
            f"{name} must be a {expected.__name__}, got a {type(value).__name__}"
        )
