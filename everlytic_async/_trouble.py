"""When an endpoint is in trouble, and when it is no longer worth waiting for it.

Trouble is attempts in a row that ended in none of the foreseen responses: failed connections, and
equally 5xx responses, lost connections and time-outs. An order that is accepted or rejected ends
it; a throttle (429, 408, a quick 503) does not end it, and does not count.

After `FAILURES_IN_A_ROW` one attempt at a time probes, with growing pauses. The waiting ends when
the trouble outlasts the retry policy, and immediately when a quota is used up: from then on one
call in each pause is let through as a probe, and all others fail immediately.

Pure state: the times are handed in, the pauses are the pacer's.
"""

from __future__ import annotations

import math

from everlytic_async.errors import EverlyticError, NotSentError
from everlytic_async.policies import RetryPolicy

#: This many attempts in a row that end unforeseen are trouble, rather than bad luck.
FAILURES_IN_A_ROW = 5
_BUDGET = 500.0
_RETRY_COST = 5.0
_REFUND = 1.0


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
        """Earn one token back by a success."""
        self._tokens = min(_BUDGET, self._tokens + _REFUND)


class Trouble:
    """What is known of the endpoint's trouble, for one client.

    Attributes:
        since: When the first of the failures in a row ended, by the clock; None without any.
        pauses: How many pauses there were since then.
        gave_up: Why waiting is no longer worthwhile; None as long as it is.
        last: How the last of them failed.
        ever_answered: Whether this client ever had an order accepted or rejected.
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self.ever_answered = False
        self._clear()

    def _clear(self) -> None:
        self.since: float | None = None
        self.pauses = 0
        self.gave_up: str | None = None
        self.last: EverlyticError | None = None
        self._failures = 0
        self._last_at = -math.inf
        self._probing_since = math.inf

    @property
    def probing(self) -> bool:
        """Whether one attempt at a time probes."""
        return self._probing_since < math.inf

    def failed(
        self, now: float, started_at: float, resume_at: float, error: EverlyticError
    ) -> bool:
        """An attempt ended unforeseen; the last pause was until `resume_at`. Must all pause now?"""
        self.update(started_at, resume_at)
        self._last_at = now
        if self.since is None:
            self.since = now
        self.last = error
        if self.probing:
            self._give_up_if_over(now)
        if self.probing:
            if started_at < self._probing_since:
                return False  # it was in flight before, and was no probe
        else:
            self._failures += 1
            if self._failures < FAILURES_IN_A_ROW:
                return False
            self._probing_since = now
        self.pauses += 1
        probes = self.pauses - 1
        if self.gave_up is None and probes >= self._policy.attempts and not self.ever_answered:
            attempts = FAILURES_IN_A_ROW + probes
            self.gave_up = f"no order was accepted or refused in {attempts} attempts in a row"
        return True

    def update(self, now: float, resume_at: float) -> None:
        """An attempt starts: forget the trouble, or give up, if the time for it has come.

        In a pause, until `resume_at`, there can be no attempt.
        """
        if now - max(self._last_at, resume_at) > self._policy.deadline_s:
            self._clear()  # after so long nobody knows whether it is still the same trouble
        elif self.probing:
            self._give_up_if_over(now)

    def _give_up_if_over(self, now: float) -> None:
        if self.gave_up is None and self.since is not None:
            lasted_s = now - self.since
            if lasted_s >= self._policy.deadline_s:
                self.gave_up = f"no order was accepted or refused for {lasted_s:.0f} s"

    def describe(self, host: str) -> str:
        """What is wrong, for a message."""
        why, last = self.gave_up or "no order is accepted or refused", self.last
        if last is None:  # a quota
            return f"{host}: {why}"
        state = "is in trouble"
        if isinstance(last, NotSentError) and last.is_local:
            state = "was not reached, by a limit of this machine"
        elif isinstance(last, NotSentError) and not last.connected:
            state = "could not be reached"
        return f"{host} {state}: {why}. The last: {last.message.rstrip('.')}"

    def quota_used_up(self, now: float, reason: str) -> None:
        """The endpoint asked for a pause that is too long to wait for."""
        self._last_at = now
        self._probing_since = min(self._probing_since, now)
        self.gave_up = reason

    def throttled(self, started_at: float) -> None:
        """A throttle with a pause that can be waited for: it ends nothing but a used-up quota."""
        if self.since is None and started_at >= self._probing_since:
            self._clear()

    def answered(self, started_at: float) -> float | None:
        """An order was accepted or rejected: since when was the trouble that this ended, if any?"""
        self.ever_answered = True
        since, was_probing = self.since, self.probing
        if since is None and not was_probing:
            return None
        if was_probing and started_at < self._probing_since:
            return None  # it was sent before the trouble, and says nothing about now
        if since is None:
            since = self._probing_since
        self._clear()
        return since if was_probing else None
