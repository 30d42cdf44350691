"""When a batch stops because every further order would end the same way.

========  =====================================================================================
rule      a batch stops when
========  =====================================================================================
account   the endpoint answers 401: the hashes are wrong
address   ``stop_after_refusals`` equal rejections came in a row, and neither this client nor the
          ledger knows of any order that this endpoint and store accepted
trouble   attempts end unforeseen (5xx, lost connections, time-outs, refused connections) for
          longer than the retry policy waits (see `_trouble`), or before anything was ever
          answered an order could not connect in any of its attempts
quota     the endpoint asks for a longer pause than ``retry_after_cap_s``
========  =====================================================================================

A ledger that fails, a client or session that is closed, and an error that was not foreseen end a
batch as well: `OrderStream` meets those itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from everlytic_async._pacer import Pacer
from everlytic_async.errors import (
    AuthenticationError,
    EverlyticError,
    NotSentError,
    RejectedError,
    ThrottledError,
    UnknownOutcomeError,
)
from everlytic_async.outcomes import OrderResult, Outcome

_WITH_LEDGER = "Run again with the same ledger when that is solved: it sends what was not sent."
_WITHOUT_LEDGER = "When that is solved, send again only the orders whose result is not_sent."


class StopRules:
    """Looks at each result of one batch.

    `any_accepted` says whether the endpoint and store are known to have accepted any order.
    """

    def __init__(
        self,
        pacer: Pacer,
        host: str,
        any_accepted: Callable[[], bool],
        *,
        has_ledger: bool,
    ) -> None:
        self._advice = _WITH_LEDGER if has_ledger else _WITHOUT_LEDGER
        self._pacer = pacer
        self._host = host
        self._policy = pacer.policy
        self._any_accepted = any_accepted
        self._in_a_row = 0  # equal rejections
        self._status: int | None = None

    def reason_to_stop(self, result: OrderResult, error: EverlyticError) -> str | None:
        """Why the batch stops after this result; None where it goes on.

        `error` is what the endpoint said last: an order that may have been processed before stays
        unknown even if it is refused now.
        """
        if isinstance(error, AuthenticationError):
            return f"{error.message}{_workflow(result)}"
        if (why := self._trouble(result, error)) is not None:
            return why
        if isinstance(error, RejectedError):
            self._in_a_row = self._in_a_row + 1 if error.status == self._status else 1
            self._status = error.status
            count, limit = self._in_a_row, self._policy.stop_after_refusals
            if limit is not None and count >= limit and not self._any_accepted():
                return (
                    f"{count} refusals in a row and no order accepted yet: it is probably the "
                    f"address ({self._host}), the workflow or the account, and not the "
                    f"orders{_workflow(result)}. The last: {error}"
                )
        elif result.outcome not in (Outcome.INVALID, Outcome.SKIPPED):
            self._in_a_row = 0
        return None

    def _trouble(self, result: OrderResult, error: EverlyticError) -> str | None:
        trouble = self._pacer.trouble
        if not isinstance(error, NotSentError | ThrottledError | UnknownOutcomeError):
            return None  # nothing was attempted, or the endpoint answered
        if trouble.gave_up is None:
            # An order whose attempts all failed to connect may speak for those that follow.
            tried_out = not trouble.ever_answered and 1 < self._policy.attempts <= result.attempts
            if not isinstance(error, NotSentError) or error.connected or result.attempts == 0:
                return None
            if not trouble.probing and not tried_out:
                return None
        return f"{trouble.describe(self._host)}{_workflow(result)}. {self._advice}"


def _workflow(result: OrderResult) -> str:
    order = result.order  # whatever the source yielded
    try:
        if isinstance(order, Mapping):
            workflow_id = order.get("workflow_id")
        else:
            workflow_id = getattr(order, "workflow_id", None)
    except Exception:  # noqa: BLE001 - a caller's mapping
        workflow_id = None
    return "" if workflow_id is None else f" (workflow {workflow_id})"
