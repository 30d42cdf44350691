"""Whether, when and how often an attempt is repeated. The only importer of tenacity.

An order that succeeds at once never comes here. The classes of the errors are the verdicts: there
is no status code in this module.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
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

_SAFE = (NotSentError, ThrottledError)


def may_repeat(error: object, delivery: Delivery) -> bool:
    """Whether the attempt that ended so may be repeated: the promise not to notify twice."""
    if isinstance(error, _SAFE):
        return True
    return delivery is Delivery.AT_LEAST_ONCE and isinstance(error, UnknownOutcomeError)


def _probed(error: BaseException | None, policy: RetryPolicy, pacer: Pacer) -> bool:
    """Whether the attempt was but a probe of an outage, which is everybody's.

    The deadline bounds those, and not whose turn it was: an outage so costs a lone order no more
    than one among many.
    """
    unreachable = isinstance(error, NotSentError) and not error.connected
    return unreachable and policy.attempts > 1 and pacer.waits_for_return


def _error_of(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None


def _over_the_cap(error: ThrottledError, policy: RetryPolicy) -> bool:
    return (error.retry_after_s or 0.0) > policy.retry_after_cap_s


def _not_waited_for(error: ThrottledError, policy: RetryPolicy) -> ThrottledError:
    """The same error, which says so where it asked for too long a wait."""
    if not _over_the_cap(error, policy):
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
    began: float,
    clock: Callable[[], float],
    backing_off: Callable[[EverlyticError, float], None] | None = None,
) -> Receipt:
    """Go on after a first attempt that failed, until success or the policy's end.

    Args:
        first: How the first attempt ended.
        attempt: Makes one more attempt: returns its receipt or raises its `EverlyticError`.
        policy: The bounds.
        delivery: Which errors may be repeated.
        pacer: Knows the shared cool-down and the retry budget, and sleeps.
        halt: Ends the sleeping.
        began: When the first attempt began, by the clock.
        clock: Monotonic seconds.
        backing_off: Hears of each pause before it begins: the error, and its seconds.

    Raises:
        EverlyticError: the last attempt's, when there is no further one.
        HaltedError: when halted while sleeping or waiting.
    """
    # Loaded by the first retry: it takes longer to import than the rest of the package's own.
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
        was_cut = isinstance(error, NotSentError) and error.connected  # this one order's trouble
        if isinstance(error, _SAFE) and not was_cut:
            # The pause is everybody's: the pacer holds it, with its jitter.
            return pacer.cool_down_s()
        return pacer.backoff_s(state.attempt_number)

    def stop(state: tenacity.RetryCallState) -> bool:
        error = _error_of(state)
        if isinstance(error, ThrottledError) and _over_the_cap(error, policy):
            return True
        if state.attempt_number >= policy.attempts and not _probed(error, policy, pacer):
            return True
        if clock() - began + state.upcoming_sleep >= policy.deadline_s:
            return True
        return not pacer.budget.take()

    def before_sleep(state: tenacity.RetryCallState) -> None:
        error = _error_of(state)
        if backing_off is not None and isinstance(error, EverlyticError):
            backing_off(error, state.upcoming_sleep)

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
        raise _not_waited_for(error, policy) from None
