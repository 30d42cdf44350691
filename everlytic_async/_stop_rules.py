"""When a batch stops because every further order would end the same way.

========  =====================================================================================
rule      a batch stops when
========  =====================================================================================
account   the endpoint answers 401: the hashes are wrong
address   ``stop_after_refusals`` equal refusals came in a row, and neither this client nor the
          ledger knows of any order that this endpoint and store accepted
trouble   attempts end unforeseen (5xx, lost connections, time-outs, refused connections) for
          longer than the retry policy waits; see `_trouble`
quota     the endpoint asks for a longer pause than ``retry_after_cap_s``
ledger    the ledger can no longer be read or written
========  =====================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from everlytic_async._pacer import Pacer
from everlytic_async.errors import AuthenticationError, NotSentError, RejectedError
from everlytic_async.outcomes import OrderResult, Outcome

_RUN_AGAIN = "Run again with the same ledger when that is solved: it sends what was not sent."


class StopRules:
    """Looks at each result of one batch.

    Args:
        pacer: Knows of trouble and used-up quotas.
        host: The endpoint's, for messages.
        stop_after_refusals: See `RetryPolicy`.
        any_accepted: Whether the endpoint and store are known to have accepted any order.
    """

    __slots__ = ("_any_accepted", "_host", "_limit", "_pacer", "_run", "_status")

    def __init__(
        self,
        pacer: Pacer,
        host: str,
        stop_after_refusals: int | None,
        any_accepted: Callable[[], bool],
    ) -> None:
        self._pacer = pacer
        self._host = host
        self._limit = stop_after_refusals
        self._any_accepted = any_accepted
        self._run = 0  # equal refusals in a row
        self._status: int | None = None

    def reason_to_stop(self, result: OrderResult) -> str | None:
        """Why the batch stops after this result; None where it goes on."""
        error = result.error
        if isinstance(error, AuthenticationError):
            return f"{error.message}{_workflow(result)}"
        trouble = self._pacer.trouble
        # An order that was not sent although it was tried has used up its retries.
        if trouble.gave_up is not None or (trouble.probing and isinstance(error, NotSentError)):
            why = trouble.gave_up or "no order was accepted or refused until the retries ran out"
            unreachable = isinstance(trouble.last, NotSentError) and not trouble.last.connected
            last = "" if trouble.last is None else f" The last: {trouble.last.message}."
            return (
                f"{self._host} {'could not be reached' if unreachable else 'is in trouble'}: "
                f"{why}{_workflow(result)}.{last} {_RUN_AGAIN}"
            )
        if isinstance(error, RejectedError):
            self._run = self._run + 1 if error.status == self._status else 1
            self._status = error.status
            if self._limit is not None and self._run >= self._limit and not self._any_accepted():
                return (
                    f"{self._run} refusals in a row and no order accepted yet: it is probably the "
                    f"address ({self._host}), the workflow or the account, and not the "
                    f"orders{_workflow(result)}. The last: {error}"
                )
        elif result.outcome not in (Outcome.INVALID, Outcome.SKIPPED):
            self._run = 0
        return None


def _workflow(result: OrderResult) -> str:
    order = result.order
    workflow_id = order.get("workflow_id") if isinstance(order, Mapping) else order.workflow_id
    return "" if workflow_id is None else f" (workflow {workflow_id})"
