"""Whether an attempt may be repeated, after which pause, and when to give up.

The policy of tenacity's loop, which `_sender` runs. An error's class says whether the attempt may
be repeated: no status code is looked at, and `_retry_after.py` parses the header. `Backoff` draws
the pauses, with jitter, for one order here and for the whole client in the pacer.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from everlytic_async._waiting import StopToken, ceiling_s
from everlytic_async.errors import (
    EverlyticError,
    NotSentError,
    ThrottledError,
    UnknownOutcomeError,
)
from everlytic_async.policies import Delivery, RetryPolicy

if TYPE_CHECKING:
    import tenacity

    from everlytic_async._pacer import Pacer

# On top of a pause, as a share of it, so that several processes don't resume at the same moment.
_JITTER = 0.01
_NOT_PROCESSED = (NotSentError, ThrottledError)


class Backoff:
    """Draws the pauses of one client."""

    def __init__(self, policy: RetryPolicy, rng: random.Random | None = None) -> None:
        self._policy = policy
        self._rng = rng or random.Random()  # noqa: S311 - jitter is not a secret

    def pause_s(self, attempt: int) -> float:
        """The pause after the n-th attempt in a row, from 1: exponential, with full jitter."""
        policy = self._policy
        return self._rng.uniform(0.0, 1.0) * ceiling_s(attempt - 1, policy.base_s, policy.cap_s)

    def add_jitter(self, seconds: float) -> float:
        """A pause that the endpoint or the caller chose, and a little more."""
        return seconds * (1.0 + self._rng.uniform(0.0, _JITTER))


def load() -> None:
    """Import tenacity now: when an order fails, there may be no file descriptor left for it."""
    import_module("tenacity")


def may_retry(error: object, delivery: Delivery) -> bool:
    """Whether an attempt that ended with this error may be repeated without notifying twice."""
    if isinstance(error, _NOT_PROCESSED):
        return True
    return delivery is Delivery.AT_LEAST_ONCE and isinstance(error, UnknownOutcomeError)


def retrying(
    *,
    pacer: Pacer,
    delivery: Delivery,
    stop_token: StopToken,
    deadline: float,
    on_backoff: Callable[[EverlyticError, float], None],
) -> tenacity.AsyncRetrying:
    """The retry loop's control: how long it pauses, and when it stops.

    It counts the first attempt like every other, and raises the last attempt's error; stopping the
    token ends a pause with a `StoppedError`. `deadline` is when to stop trying, by the clock;
    `on_backoff` is called before each pause with the error and the seconds.
    """
    import tenacity  # noqa: PLC0415 - imported by `load`: it takes longer than the whole package

    def wait(state: tenacity.RetryCallState) -> float:
        shared_s = pacer.remaining_cool_down_s()
        error = _error(state)
        if isinstance(error, ThrottledError) and not pacer.waits_alone(error):
            return shared_s
        return max(shared_s, pacer.backoff.pause_s(state.attempt_number))

    def stop(state: tenacity.RetryCallState) -> bool:
        used_up = state.attempt_number >= pacer.policy.attempts
        return (
            pacer.trouble.gave_up is not None
            or (used_up and not _is_free_probe(_error(state), pacer))
            or pacer.clock() + state.upcoming_sleep >= deadline
            or not pacer.budget.take()
        )

    async def sleep(seconds: float) -> None:
        # The shared pause is waited for in the pacer's queue, ahead of orders that are new.
        if seconds > pacer.remaining_cool_down_s():
            await stop_token.sleep(seconds, pacer.call_later)

    def before_sleep(state: tenacity.RetryCallState) -> None:
        error = _error(state)
        assert isinstance(error, EverlyticError)  # noqa: S101 - others are not retried
        on_backoff(error, state.upcoming_sleep)

    return tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(lambda error: may_retry(error, delivery)),
        wait=wait,
        stop=stop,
        sleep=sleep,
        before_sleep=before_sleep,
        reraise=True,
    )


def exceeds_cap(policy: RetryPolicy, retry_after_s: float | None) -> bool:
    """Whether a Retry-After is too long to wait for: a quota is used up."""
    return (retry_after_s or 0.0) > policy.retry_after_cap_s


def with_cap_note(error: EverlyticError, policy: RetryPolicy) -> EverlyticError:
    """The same error; it says so if it asked for a pause that is too long to wait for."""
    if not isinstance(error, ThrottledError) or not exceeds_cap(policy, error.retry_after_s):
        return error
    return ThrottledError(
        f"{error.message}; longer than retry_after_cap_s ({policy.retry_after_cap_s:g} s) allows",
        error.status,
        error.retry_after_s,
    )


def _is_free_probe(error: BaseException | None, pacer: Pacer) -> bool:
    """Whether the attempt was a probe that does not count against its order's attempts.

    Such probes don't count against an order's attempts, because any order may have been the probe.
    The deadline bounds them.
    """
    trouble = pacer.trouble
    if not isinstance(error, NotSentError) or pacer.policy.attempts == 1:
        return False
    return trouble.probing and trouble.ever_answered


def _error(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None
