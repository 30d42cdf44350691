"""The settings of a client, as frozen and validated values.

Names that end in ``_s`` are in seconds. A wrong value raises a `ConfigurationError` that names the
field.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable
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


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_positive(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    # By comparison: math.isfinite() raises for an integer that no float can hold.
    return 0 < value <= sys.float_info.max


def check_seconds(name: str, value: object) -> None:
    """Refuse what is not a finite number of seconds above 0.

    Raises:
        ConfigurationError: it names the argument.
    """
    if not _is_positive(value):
        raise ConfigurationError(f"{name} must be a number of seconds above 0, got {value!r}")


_Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def must_be(expected: str, is_valid: Callable[[Any], bool], why: str = "") -> _Validator:
    """Make a validator of a field, which a `ConfigurationError` names."""

    def validate(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not is_valid(value):
            name = f"{type(instance).__name__}.{attribute.name}"
            raise ConfigurationError(f"{name} must be {expected}, got {value!r}{why}")

    return validate


must_be_count = must_be("a whole number of at least 1", _is_count)
_optional_count = must_be(
    "None or a whole number of at least 1", lambda value: value is None or _is_count(value)
)
must_be_seconds = must_be("a number of seconds above 0", _is_positive)
_rate = must_be(
    "None or a number of orders per second above 0",
    lambda value: value is None or _is_positive(value),
)
_flag = must_be("True or False", lambda value: isinstance(value, bool))
_connections = must_be(
    f"at most {_MAX_CONNECTIONS:,}",
    lambda value: value <= _MAX_CONNECTIONS,
    ": each POST in flight has a connection, and no address takes more of them than there are "
    "ports",
)


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """When an attempt that may be repeated is repeated, and when to give up.

    The n-th pause is drawn evenly from 0 to ``min(cap_s, base_s * 2**(n-1))`` seconds: exponential
    backoff with full jitter. A pause that would end after the deadline is not started.
    """

    #: The most POSTs for one order, the first included; 1 means no retry. A probe during trouble
    #: that surely was not processed doesn't count, if the endpoint had answered before.
    attempts: int = attrs.field(default=5, validator=must_be_count)
    #: The longest first pause, in seconds.
    base_s: float = attrs.field(default=0.5, validator=must_be_seconds)
    #: The longest pause, in seconds.
    cap_s: float = attrs.field(default=30, validator=must_be_seconds)
    #: No attempt of an order starts later than this after its first, or after the call of
    #: `send_order`, in seconds. Trouble that lasts longer ends the waiting.
    deadline_s: float = attrs.field(default=120, validator=must_be_seconds)
    #: A longer Retry-After, in seconds, means that a quota is used up: a batch stops.
    retry_after_cap_s: float = attrs.field(default=120, validator=must_be_seconds)
    #: A batch stops after this many equal refusals in a row if the endpoint never accepted an
    #: order of the store: the address, the workflow or the account is wrong. None: never.
    stop_after_refusals: int | None = attrs.field(default=20, validator=_optional_count)


@attrs.frozen(kw_only=True)
class Pacing:
    """How fast to send. The bounds hold for all calls of a client together."""

    #: The most POSTs in flight at the same time. Each has a connection, so at most 65,535.
    max_concurrency: int = attrs.field(default=32, validator=[must_be_count, _connections])
    #: The most orders per second, spread evenly; None: no such bound.
    max_rate: float | None = attrs.field(default=None, validator=_rate)
    #: Find the endpoint's own limit from what it throttles, and stay just below it.
    adaptive: bool = attrs.field(default=True, validator=_flag)


@attrs.frozen(kw_only=True)
class Timeouts:
    """How long one attempt may take, by phase."""

    #: The most time for connecting, TLS included, in seconds.
    connect_s: float = attrs.field(default=10, validator=must_be_seconds)
    #: The longest silence of the endpoint once the order is sent, in seconds.
    read_s: float = attrs.field(default=30, validator=must_be_seconds)
    #: The most time for the whole attempt, in seconds.
    total_s: float = attrs.field(default=60, validator=must_be_seconds)


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
