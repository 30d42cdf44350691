"""One order on its way: how it is prepared, and what its attempts so far say about it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from everlytic_async._encoding import encode, order_key
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
from everlytic_async.events import AttemptEnded, OrderEnded
from everlytic_async.orders import Order, get_order_id
from everlytic_async.outcomes import OrderResult, Outcome, Receipt

#: What may stand for an order: a model, or a mapping with its fields. An `InvalidOrderError` stands
#: for an order that its reader could not build.
AnyOrder = Order | Mapping[str, Any] | InvalidOrderError
#: Takes an order, as it was read, and returns its idempotency key.
KeyOf = Callable[[Any], str]

# What an order takes in memory: so many times its JSON (with one emoji, a text takes four bytes a
# character), and so many bytes for each product.
_JSON_FACTOR = 6
_PRODUCT_BYTES = 600

_OUTCOMES: tuple[tuple[type[EverlyticError], Outcome], ...] = (
    (SkippedError, Outcome.SKIPPED),
    (InvalidOrderError, Outcome.INVALID),
    (AuthenticationError, Outcome.NOT_SENT),  # the account's fault, not the order's
    (RejectedError, Outcome.REJECTED),
    (NotSentError, Outcome.NOT_SENT),
    (ThrottledError, Outcome.NOT_SENT),
    (UnknownOutcomeError, Outcome.UNKNOWN),
)


def outcome_for(error: EverlyticError) -> Outcome:
    """The outcome that an order's error stands for."""
    for kind, outcome in _OUTCOMES:
        if isinstance(error, kind):
            return outcome
    raise TypeError(f"{type(error).__name__} is not the error of an order")


def coerce_order(raw: AnyOrder) -> Order:
    """The order as a model.

    Raises:
        InvalidOrderError: with every fault.
    """
    if isinstance(raw, Order):
        return raw
    if isinstance(raw, InvalidOrderError):
        raise raw
    return Order.from_mapping(raw)


def prepare(index: int, raw: AnyOrder, key_of: KeyOf | None) -> Job | OrderResult:
    """Validate and encode one order, and work out its key; the result of one that is invalid."""
    try:
        order = coerce_order(raw)
    except InvalidOrderError as error:
        key = error.order_id
        if key_of is not None:
            try:
                key = _call_key_function(key_of, raw)
            except (Exception, asyncio.CancelledError):  # noqa: BLE001 - the order lacks something
                key = None
        return _invalid(index, key, raw, error)
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - a caller's mapping
        fault = InvalidOrderError([f"order: reading it raised {type(error).__name__}"])
        fault.__cause__ = error
        return _invalid(index, None, raw, fault)
    body = encode(order)
    try:
        key = order_key(order, body) if key_of is None else _call_key_function(key_of, raw)
    except InvalidOrderError as error:
        return _invalid(index, error.order_id, raw, error)
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - a caller's function
        fault = InvalidOrderError([f"key: the given function raised {type(error).__name__}"])
        fault.order_id = get_order_id(raw)
        fault.__cause__ = error
        return _invalid(index, fault.order_id, raw, fault)
    return Job(index, raw, order, body, key)


def _invalid(index: int, key: str | None, raw: AnyOrder, error: InvalidOrderError) -> OrderResult:
    error.__traceback__ = None  # its frames hold the order
    return OrderResult(index, key, raw, Outcome.INVALID, None, error)


def _call_key_function(key_of: KeyOf, raw: AnyOrder) -> str:
    key: object = key_of(raw)
    if isinstance(key, int) and not isinstance(key, bool):
        return str(key)  # a shop's number
    if not isinstance(key, str):
        raise TypeError("a key is text")
    if not key.strip():
        raise InvalidOrderError(["key: must not be blank"])
    return key


class Job:
    """One order on its way: what it is, and what is known of its attempts so far."""

    __slots__ = (
        "attempts",
        "body",
        "claimed",
        "digest",
        "event_key",
        "in_attempt",
        "index",
        "key",
        "last_failure",
        "last_unknown",
        "order",
        "possible_deliveries",
        "raw",
        "received_at",
        "started_at",
        "unforeseen",
    )

    def __init__(self, index: int, raw: AnyOrder, order: Order, body: bytes, key: str) -> None:
        self.index = index
        self.raw = raw
        self.order = order
        self.body = body
        self.key = key
        #: How events name the order; None where nobody listens.
        self.event_key: str | None = None
        self.received_at = 0.0
        #: A digest of the body, where a ledger asks for it.
        self.digest = ""
        #: Whether it was claimed from a ledger, which then has to record its outcome.
        self.claimed = False
        self.attempts = 0
        #: When the first attempt was admitted: the retry deadline runs from then.
        self.started_at = 0.0
        #: Whether an attempt is under way at present.
        self.in_attempt = False
        #: How the last attempt failed.
        self.last_failure: EverlyticError | None = None
        #: The last attempt that may have been processed.
        self.last_unknown: UnknownOutcomeError | None = None
        #: How many attempts were, or may have been, processed.
        self.possible_deliveries = 0
        #: A fault of the program that ended the sending.
        self.unforeseen: Exception | None = None

    @property
    def memory_size(self) -> int:
        """About how many bytes the order takes."""
        return _JSON_FACTOR * len(self.body) + _PRODUCT_BYTES * len(self.order.products)

    def mark_cancelled(self, body_sent: bool) -> None:
        """Note that the attempt was cancelled, and whether its whole body may have been sent."""
        self.in_attempt = False
        if body_sent:
            self.possible_deliveries += 1
            self.last_unknown = UnknownOutcomeError(
                "the order was sent, but it was cancelled, or its deadline passed, before the "
                "response came: it may have been processed"
            )

    def note(self, verdict: Receipt | EverlyticError) -> None:
        """Note how an attempt ended."""
        if isinstance(verdict, Receipt):
            self.possible_deliveries += 1
        elif isinstance(verdict, UnknownOutcomeError):
            self.possible_deliveries += 1
            self.last_unknown = verdict
        else:
            self.last_failure = verdict

    def make_result(self, verdict: Receipt | EverlyticError, now: float) -> OrderResult:
        """The order's result, if nothing more is done for it."""
        receipt, error, outcome = None, None, Outcome.SENT
        if isinstance(verdict, Receipt):
            receipt = verdict
        else:
            error, outcome = verdict, outcome_for(verdict)
            error.attempts = self.attempts
        return OrderResult(
            self.index,
            self.key,
            self.raw,
            outcome,
            receipt,
            error,
            self.attempts,
            now - self.received_at,
            self.possible_deliveries > 1,
        )

    def attempt_ended(
        self, verdict: Receipt | EverlyticError, admitted_at: float, now: float
    ) -> AttemptEnded:
        """The event for the end of its last attempt."""
        error = None if isinstance(verdict, Receipt) else verdict
        return AttemptEnded(
            at=now,
            key=str(self.event_key),
            attempt=self.attempts,
            outcome=Outcome.SENT if error is None else outcome_for(error),
            status=getattr(verdict, "status", None),
            error=error,
            elapsed_s=now - admitted_at,
        )

    def abandoned_error(self, reason: str) -> EverlyticError:
        """What is known of the order if nothing more is done for it.

        Args:
            reason: Why nothing more is done: "the process was left".
        """
        if self.last_unknown is not None:
            return self.last_unknown
        if self.in_attempt:
            return UnknownOutcomeError(
                f"{reason} while the order was under way: it may have been processed"
            )
        last = self.last_failure
        if isinstance(last, ThrottledError):
            return ThrottledError(f"{reason}. The last: {last}", last.status, last.retry_after_s)
        if last is not None:
            return NotSentError(f"the order was not sent: {reason}. The last: {last}")
        return NotSentError(f"the order was not sent: {reason}")


def combine(
    earlier: UnknownOutcomeError, last: Receipt | EverlyticError
) -> Receipt | EverlyticError:
    """What all attempts together say: a later failure doesn't undo an earlier "may have been"."""
    if isinstance(last, Receipt | UnknownOutcomeError):
        return last
    return type(earlier)(f"{earlier.message}; a later attempt: {last.message}", earlier.status)


def order_ended(result: OrderResult, event_key: str | None, now: float) -> OrderEnded:
    """The event for the end of an order."""
    return OrderEnded(
        at=now,
        key=event_key,
        outcome=result.outcome,
        attempts=result.attempts,
        elapsed_s=result.elapsed_s,
        duplicate_risk=result.duplicate_risk,
        error=result.error,
    )
