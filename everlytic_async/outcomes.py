"""How sending ended: `Outcome`, `Receipt`, `OrderResult`, `BatchReport`.

Reprs leave out the order and the response's body, which may hold a customer's data.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import attrs

from everlytic_async.errors import (
    AuthenticationError,
    EverlyticError,
    InvalidOrderError,
    NotSentError,
    RejectedError,
    SkippedError,
    ThrottledError,
    UnknownOutcomeError,
)

__all__ = ["BatchReport", "OrderResult", "Outcome", "Receipt"]


class Outcome(enum.StrEnum):
    """What is known of an order, and so whether it may be sent again."""

    #: The endpoint accepted the trigger. Don't send it again.
    SENT = "sent"
    #: The order failed validation here; nothing was sent. Fix it, then send it.
    INVALID = "invalid"
    #: The endpoint refused this order. Fix it, then send it.
    REJECTED = "rejected"
    #: Surely not processed: never connected, or throttled until the retries ran out. Send it again.
    NOT_SENT = "not_sent"
    #: It may have been processed. Find out, or decide, whether to send it again.
    UNKNOWN = "unknown"
    #: Not sent now, because the ledger knows the order: it was sent, may have been, is in flight,
    #: or was rejected and has not changed. `SkippedError.state` says which.
    SKIPPED = "skipped"


_OUTCOMES: tuple[tuple[type[EverlyticError], Outcome], ...] = (
    (SkippedError, Outcome.SKIPPED),
    (InvalidOrderError, Outcome.INVALID),
    (AuthenticationError, Outcome.NOT_SENT),  # the account's fault, not the order's
    (RejectedError, Outcome.REJECTED),
    (NotSentError, Outcome.NOT_SENT),
    (ThrottledError, Outcome.NOT_SENT),
    (UnknownOutcomeError, Outcome.UNKNOWN),
)


def outcome_for(verdict: Receipt | EverlyticError) -> Outcome:
    """The outcome of an order that ended like this."""
    if isinstance(verdict, Receipt):
        return Outcome.SENT
    for kind, outcome in _OUTCOMES:
        if isinstance(verdict, kind):
            return outcome
    raise TypeError(f"{type(verdict).__name__} is not the error of an order")


# Without slots a frozen class is made in half the time: attrs then writes straight to its __dict__.
@attrs.frozen(slots=False)
class Receipt:
    """The endpoint's acceptance of one trigger.

    Attributes:
        status: The HTTP status, 200 to 299.
        body: The response's body: the parsed JSON, else the text; None if it was empty.
        attempts: How many POSTs it took.
        elapsed_s: Seconds from the start of the first attempt to the response, pauses included.
        headers: The response's headers without the hashes; names are case-insensitive. They are not
            compared when receipts are.
    """

    status: int
    body: Any = attrs.field(default=None, repr=False)
    attempts: int = 1
    elapsed_s: float = 0.0
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False, eq=False)


@attrs.frozen(slots=False)
class OrderResult:
    """The one result of one order that was read.

    Attributes:
        index: The position of the order in the input, counted from 0.
        key: The order's idempotency key: the caller's ``key``, else its order id and workflow id,
            else a digest of its body; None for an invalid order without one.
        order: The order exactly as the caller passed it.
        outcome: What is known of it.
        receipt: The endpoint's acceptance; None unless SENT.
        error: Why it is not SENT; None if it is.
        attempts: How many POSTs were started for it.
        elapsed_s: Seconds from reading the order to its result, waits included.
        duplicate_risk: Whether it may have been processed more than once.
    """

    index: int
    key: str | None = attrs.field(repr=False)
    order: Any = attrs.field(repr=False)
    outcome: Outcome
    receipt: Receipt | None = None
    error: EverlyticError | None = None
    attempts: int = 0
    elapsed_s: float = 0.0
    duplicate_risk: bool = False


@attrs.frozen
class BatchReport:
    """The results of a batch.

    Attributes:
        results: One result for each order that was read, in the order of completion; with
            ``ordered=True`` in the order of the input.
        elapsed_s: How long the batch took, in seconds.
        stopped: Why it ended before its input did; None if it did not.
    """

    results: tuple[OrderResult, ...] = attrs.field(repr=False)
    elapsed_s: float
    stopped: str | None = None

    @property
    def counts(self) -> Mapping[Outcome, int]:
        """How many orders had each outcome; 0 for an outcome that did not occur."""
        counts = dict.fromkeys(Outcome, 0)
        for result in self.results:
            counts[result.outcome] += 1
        return MappingProxyType(counts)

    @property
    def failures(self) -> tuple[OrderResult, ...]:
        """The results that are neither SENT nor SKIPPED."""
        done = (Outcome.SENT, Outcome.SKIPPED)
        return tuple(result for result in self.results if result.outcome not in done)
