"""Whether, when and how often an attempt is repeated. The only importer of tenacity.

An order that succeeds at once never comes here. The classes of the errors are the verdicts: there
is no status code in this module.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import TYPE_CHECKING

from everlytic_async._pacer import Halt, Pacer
from everlytic_async.errors import (
    EverlyticError,
    NotSentError,
    ThrottledError,
    UnknownOutcomeError,
)
from everlytic_async.outcomes import Receipt
from everlytic_async.policies import Delivery, RetryPolicy

if TYPE_CHECKING:
    import tenacity


def load() -> None:
    """Import tenacity now: when an order fails, there may be no file descriptor left for it."""
    import_module("tenacity")


_SAFE = (NotSentError, ThrottledError)


def may_repeat(error: object, delivery: Delivery) -> bool:
    """Whether the attempt that ended so may be repeated: the promise not to notify twice."""
    if isinstance(error, _SAFE):
        return True
    return delivery is Delivery.AT_LEAST_ONCE and isinstance(error, UnknownOutcomeError)


def _is_free(error: BaseException | None, policy: RetryPolicy, pacer: Pacer) -> bool:
    """Whether the attempt was a probe that surely was not processed: those are everybody's.

    The deadline bounds them, and not whose turn it was: trouble of an endpoint that had answered
    before then costs a lone order no more than one among many.
    """
    trouble = pacer.trouble
    if not isinstance(error, NotSentError) or policy.attempts == 1:
        return False
    return trouble.probing and trouble.ever_answered


def _error_of(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None


def _add_cap_note(error: ThrottledError, policy: RetryPolicy) -> ThrottledError:
    """The same error, which says so if it asked for a pause that is too long to wait for."""
    if (error.retry_after_s or 0.0) <= policy.retry_after_cap_s:
        return error
    return ThrottledError(
        f"{error.message}; longer than retry_after_cap_s ({policy.retry_after_cap_s:g} s) allows",
        error.status,
        error.retry_after_s,
    )


async def repeat(
    first: EverlyticError,
    attempt: Callable[[], Awaitable[Receipt]],
    *,
    policy: RetryPolicy,
    delivery: Delivery,
    pacer: Pacer,
    halt: Halt,
    deadline: float,
    clock: Callable[[], float],
    on_backoff: Callable[[EverlyticError, float], None] | None = None,
) -> Receipt:
    """Go on after a first attempt that failed, until success or the policy's end.

    Args:
        first: How the first attempt ended.
        attempt: Makes one more attempt: returns its receipt or raises its `EverlyticError`.
        policy: The bounds.
        delivery: Which errors may be repeated.
        pacer: Knows the shared cool-down and the retry budget, and sleeps.
        halt: Ends the sleeping.
        deadline: When to stop trying, by the clock.
        clock: Monotonic seconds.
        on_backoff: Called before each pause with the error and the seconds.

    Raises:
        EverlyticError: the last attempt's, when there is no further one.
        HaltedError: when halted while sleeping or waiting.
    """
    # Imported by `load`, when the client starts: it takes longer to import than the whole package.
    import tenacity  # noqa: PLC0415

    ended: EverlyticError | None = first

    async def one() -> Receipt:
        # tenacity counts the first attempt too: it is handed in, not made again.
        nonlocal ended
        if ended is not None:
            error, ended = ended, None
            raise error
        return await attempt()

    def wait(state: tenacity.RetryCallState) -> float:
        error = _error_of(state)
        # A pause of everybody's is held by the pacer, with its jitter.
        shared_s = pacer.cool_down_s()
        if isinstance(error, ThrottledError):
            return shared_s
        return max(shared_s, pacer.backoff_s(state.attempt_number))

    def stop(state: tenacity.RetryCallState) -> bool:
        error = _error_of(state)
        if pacer.trouble.gave_up is not None:
            return True
        if state.attempt_number >= policy.attempts and not _is_free(error, policy, pacer):
            return True
        if clock() + state.upcoming_sleep >= deadline:
            return True
        return not pacer.budget.take()

    def before_sleep(state: tenacity.RetryCallState) -> None:
        error = _error_of(state)
        if on_backoff is not None and isinstance(error, EverlyticError):
            on_backoff(error, state.upcoming_sleep)

    retrying = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(lambda error: may_repeat(error, delivery)),
        wait=wait,
        stop=stop,
        sleep=lambda seconds: pacer.sleep(float(seconds), halt),
        before_sleep=before_sleep,
        reraise=True,
    )
    try:
        return await retrying(one)
    except ThrottledError as error:
        raise _add_cap_note(error, policy) from None
