"""How long to pause, and how often to retry: backoff with jitter, throttles, the retry budget."""

from __future__ import annotations

import math
import random

from everlytic_async.policies import RetryPolicy

# On top of a pause, as a share of it, so that several processes don't resume at once.
_JITTER = 0.01
_MAX_DOUBLINGS = 64
_BUDGET = 500.0
_RETRY_COST = 5.0
_REFUND = 1.0
# A Retry-After of 0 is obeyed until this many bursts of throttles in a row came after fewer
# accepted orders than this.
_MAX_AT_ONCE = 5
_FEW = 10


class Backoff:
    """Draws the pauses of one client.

    Args:
        policy: Their bounds.
        rng: The jitter.
    """

    def __init__(self, policy: RetryPolicy, rng: random.Random | None = None) -> None:
        self._policy = policy
        self._rng = rng or random.Random()  # noqa: S311 - jitter is not a secret

    def pause_s(self, attempt: int) -> float:
        """The pause after the n-th attempt in a row, from 1: exponential, with full jitter."""
        policy = self._policy
        doublings = min(attempt - 1, _MAX_DOUBLINGS)
        return self._rng.uniform(0.0, min(policy.cap_s, policy.base_s * 2.0**doublings))

    def requested_pause_s(self, retry_after_s: float) -> float:
        """The pause for a Retry-After: no longer than the longest that is obeyed, plus jitter."""
        return self.add_jitter(min(retry_after_s, self._policy.retry_after_cap_s))

    def add_jitter(self, seconds: float) -> float:
        """A pause of somebody else's choice, and a little more."""
        return seconds * (1.0 + self._rng.uniform(0.0, _JITTER))


class RetryBudget:
    """How many retries a client has left, so that it does not hammer a broken endpoint.

    500 tokens; a retry takes 5, a success gives 1 back: botocore's standard mode.
    """

    def __init__(self) -> None:
        self._tokens = _BUDGET

    def take(self) -> bool:
        """Pay for a retry; False if there is not enough left."""
        if self._tokens < _RETRY_COST:
            return False
        self._tokens -= _RETRY_COST
        return True

    def refund(self) -> None:
        """Give back after a success."""
        self._tokens = min(_BUDGET, self._tokens + _REFUND)


class Throttles:
    """Counts throttles. A burst counts once: what was in flight when its first one was received.

    Attributes:
        in_a_row: Bursts since an order was accepted.
        obeys_at_once: Whether a Retry-After of 0 ("at once") is obeyed. Once too many bursts in a
            row came after too few accepted orders, it comes from a limiter, and is taken as none.
    """

    def __init__(self) -> None:
        self.in_a_row = 0
        self.obeys_at_once = True
        self._accepted_since = 0
        self._close_in_a_row = 0
        self._received_at = -math.inf  # the first one of the last burst

    def on_accepted(self) -> None:
        """An order was accepted."""
        self.in_a_row = 0
        self._accepted_since += 1

    def add(self, started_at: float, now: float, *, at_once: bool) -> bool:
        """An attempt was throttled.

        Args:
            started_at: When it started.
            now: When it was throttled.
            at_once: Whether with a Retry-After of 0.

        Returns:
            Whether it is the first of a burst.
        """
        is_first = started_at > self._received_at
        if is_first:
            self._received_at = now
            self.in_a_row += 1
            self._close_in_a_row = self._close_in_a_row + 1 if self._accepted_since < _FEW else 0
            self._accepted_since = 0
        if at_once and self._close_in_a_row > _MAX_AT_ONCE:
            self.obeys_at_once = False
        return is_first
