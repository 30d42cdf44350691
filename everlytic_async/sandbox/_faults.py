"""What may go wrong at the sandbox: how much of it, when, and in an order that repeats itself.

`Faults` is the setting; `FaultSampler` draws from it what happens to each request; `LeakyBucket` is
the rate limiter. None of them waits or touches the network.
"""

from __future__ import annotations

import enum
import math
import random
import time
from collections.abc import Callable
from typing import Any

import attrs


def _number_validator(
    what: str, fits: Callable[[Any], bool], *, kinds: tuple[type, ...] = (int, float)
) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    """Make a validator that names what it expects; None passes if it is the default."""

    def validate(_faults: object, field: attrs.Attribute[Any], value: Any) -> None:
        if value is None and field.default is None:
            return
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise TypeError(f"{field.name} must be {what}, not a {type(value).__name__}")
        if not fits(value):
            raise ValueError(f"{field.name} must be {what}, not {value}")

    return validate


_SHARE = _number_validator("a share between 0 and 1", lambda value: 0 <= value <= 1)
_SECONDS = _number_validator("a number of seconds, 0 or more", lambda value: 0 <= value < math.inf)
_RATE = _number_validator("a number per second, above 0", lambda value: 0 < value < math.inf)
_SEED = _number_validator("an integer", lambda _value: True, kinds=(int,))
_COUNT = _number_validator("an integer, 0 or more", lambda value: value >= 0, kinds=(int,))
_LIMIT = _number_validator("an integer, 1 or more", lambda value: value >= 1, kinds=(int,))


#: Shares that are 1 together on paper may be a little more as floats.
_ROUNDING = 1e-9


class FaultKind(enum.Enum):
    """What happens to one request."""

    SERVED = enum.auto()
    THROTTLED = enum.auto()
    UNAVAILABLE = enum.auto()
    FAILED_BEFORE = enum.auto()
    FAILED_AFTER = enum.auto()
    DROPPED_BEFORE = enum.auto()
    DROPPED_AFTER = enum.auto()


@attrs.frozen(kw_only=True)
class Faults:
    """What goes wrong, and how often; by default nothing does.

    The shares are between 0 and 1 and together at most 1: a request meets one of them or none.
    They are drawn from one generator seeded with `seed`, so that the n-th request of every run
    meets the same fault. "Processed" means checked, counted and remembered: the real endpoint would
    have triggered the workflow.

    Raises:
        ValueError: A figure outside of its range, or shares of more than 1 together.
        TypeError: Not a number, or not an integer where one is asked for.
    """

    #: Seed of every draw.
    seed: int = attrs.field(default=0, validator=_SEED)
    #: Seconds that each request takes, except those that a limit refuses: these are instant.
    latency_s: float = attrs.field(default=0.0, validator=_SECONDS)
    #: Up to this many seconds more, drawn evenly.
    latency_jitter_s: float = attrs.field(default=0.0, validator=_SECONDS)
    #: Share answered 429, not processed.
    throttled: float = attrs.field(default=0.0, validator=_SHARE)
    #: Seconds asked for in the Retry-After of every 429 and 503; None: no such header.
    retry_after_s: float | None = attrs.field(default=None, validator=_SECONDS)
    #: Share answered 503, not processed.
    unavailable: float = attrs.field(default=0.0, validator=_SHARE)
    #: Share answered 500.
    server_error: float = attrs.field(default=0.0, validator=_SHARE)
    #: Share of those 500 that come after the order was processed; the others come before.
    server_error_processes: float = attrs.field(default=0.5, validator=_SHARE)
    #: Share whose connection is closed without an answer, once read but not processed.
    dropped_before: float = attrs.field(default=0.0, validator=_SHARE)
    #: Share whose connection is closed without an answer, once processed.
    dropped_after: float = attrs.field(default=0.0, validator=_SHARE)
    #: Orders per second that the rate limiter lets through, the rest is answered 429; None: all.
    rate: float | None = attrs.field(default=None, validator=_RATE)
    #: How many orders may run ahead of the rate, as nginx's ``limit_req burst=... nodelay``.
    burst: int = attrs.field(default=1, validator=_COUNT)
    #: How many requests may be served at the same time, the rest is answered 429; None: all.
    max_in_flight: int | None = attrs.field(default=None, validator=_LIMIT)

    def __attrs_post_init__(self) -> None:
        total = math.fsum(_shares(self).values())
        if total > 1 + _ROUNDING:
            raise ValueError(f"the shares of faults must be at most 1 together, not {total:g}")


def _shares(faults: Faults) -> dict[FaultKind, float]:
    """The share of each kind except `FaultKind.SERVED`."""
    return {
        FaultKind.THROTTLED: faults.throttled,
        FaultKind.UNAVAILABLE: faults.unavailable,
        FaultKind.FAILED_BEFORE: faults.server_error * (1 - faults.server_error_processes),
        FaultKind.FAILED_AFTER: faults.server_error * faults.server_error_processes,
        FaultKind.DROPPED_BEFORE: faults.dropped_before,
        FaultKind.DROPPED_AFTER: faults.dropped_after,
    }


class FaultSampler:
    """The fault and the latency of one request after the other."""

    def __init__(self, faults: Faults) -> None:
        shares = _shares(faults)
        self._faults = faults
        self._random = random.Random(faults.seed)  # noqa: S311 - to repeat, not to hide
        self._kinds = [FaultKind.SERVED, *shares]
        self._weights = [max(0.0, 1 - math.fsum(shares.values())), *shares.values()]

    def next(self) -> tuple[FaultKind, float]:
        """What happens to the next request, and the seconds that it takes.

        Every request costs the same number of draws, so that no request shifts those after it.
        """
        (kind,) = self._random.choices(self._kinds, self._weights)
        jitter_s = self._random.uniform(0, self._faults.latency_jitter_s)
        return kind, self._faults.latency_s + jitter_s


class LeakyBucket:
    """The limiter of nginx's ``limit_req`` with ``nodelay`` (``ngx_http_limit_req_module.c``).

    A request fills the bucket by one, time empties it by `rate` a second, and a request that would
    fill it beyond `burst` is refused and fills nothing. The first request finds the bucket empty
    and fills nothing either. So over any t seconds, at most burst + 1 + rate * t pass.

    Args:
        rate: Requests per second.
        burst: How many requests may run ahead of the rate.
        clock: Monotonic seconds.
    """

    def __init__(
        self, rate: float, burst: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._excess: float = 0
        self._last: float | None = None

    def admit(self) -> bool:
        """Whether the request that comes now passes."""
        now = self._clock()
        excess: float = 0
        if self._last is not None:
            excess = max(self._excess - self._rate * (now - self._last) + 1, 0)
        if excess > self._burst:
            return False
        self._excess, self._last = excess, now
        return True
