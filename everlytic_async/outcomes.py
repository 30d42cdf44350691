"""What is known of an order in the end: `Outcome`, `Receipt`, `OrderResult`, `BatchReport`.

Reprs leave out the order and the endpoint's answer, which may hold a customer's data.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import attrs

from everlytic_async.errors import EverlyticError

__all__ = ["BatchReport", "OrderResult", "Outcome", "Receipt"]


class Outcome(enum.StrEnum):
    """What is known of an order, and so whether it may be sent again."""

    #: The endpoint accepted the trigger. Don't send it again.
    SENT = "sent"
    #: The order failed validation here; nothing left this process. Send it once it is mended.
    INVALID = "invalid"
    #: The endpoint answered that it refuses this order. Send it once it is mended.
    REJECTED = "rejected"
    #: Surely not processed: never connected, or throttled until the retries ran out. Send it again.
    NOT_SENT = "not_sent"
    #: It may have been processed. The caller decides.
    UNKNOWN = "unknown"
    #: It was sent, or may have been, before. Don't send it again.
    SKIPPED = "skipped"


# Without slots a frozen class is made in half the time: attrs then writes to its __dict__ at once.
@attrs.frozen(slots=False)
class Receipt:
    """The endpoint's acceptance of one trigger.

    Attributes:
        status: The HTTP status, 200 to 299.
        body: The answer: the parsed JSON, else the text, else None where it was empty.
        attempts: How many POSTs it took.
        elapsed_s: Seconds from the first attempt's begin to the answer, pauses included.
        headers: The response's headers, looked up without regard to case; the hashes are not in
            them. Two receipts are equal whatever their headers.
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
        index: The place of the order in the input, counted from 0.
        key: What names the order: the caller's ``key``, else its order id and workflow id, else a
            digest of its body; None for an invalid order that has no name.
        order: The order exactly as it was given.
        outcome: What is known of it.
        receipt: The endpoint's acceptance, for SENT; else None.
        error: Why it is not SENT; None where it is.
        attempts: How many POSTs were begun for it.
        elapsed_s: Seconds from its reading to its result, waiting for a free slot included.
        duplicate_risk: True where the trigger may have been processed more than once.
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
    """What became of a batch.

    Attributes:
        results: One result for each order that was read: in the order of completion, or of the
            input with ``ordered=True``.
        elapsed_s: Seconds from the begin of the batch to its end.
        stopped: Why it ended before its input did; None where it did not.
    """

    results: tuple[OrderResult, ...] = attrs.field(repr=False)
    elapsed_s: float
    stopped: str | None = None

    @property
    def counts(self) -> Mapping[Outcome, int]:
        """How many orders had each outcome; every outcome is there, be it with 0."""
        counts = dict.fromkeys(Outcome, 0)
        for result in self.results:
            counts[result.outcome] += 1
        return MappingProxyType(counts)

    @property
    def failures(self) -> tuple[OrderResult, ...]:
        """The results that are neither SENT nor SKIPPED."""
        done = (Outcome.SENT, Outcome.SKIPPED)
        return tuple(result for result in self.results if result.outcome not in done)
