"""One order, start to end: validate, encode, wait for its turn, POST, judge, repeat where safe.

The parts know how each of these is done; this module knows their order, and what the whole of an
order's attempts says about it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from everlytic_async._pacer import Halt, HaltedError, Pacer
from everlytic_async._retry import may_repeat, repeat
from everlytic_async._transport import Transport
from everlytic_async._wire import encode, judge, order_key
from everlytic_async.errors import (
    EverlyticError,
    InvalidOrderError,
    NotSentError,
    RejectedError,
    ThrottledError,
    UnknownOutcomeError,
)
from everlytic_async.orders import Order
from everlytic_async.outcomes import OrderResult, Outcome, Receipt
from everlytic_async.policies import Delivery, RetryPolicy

#: What may be handed in as an order: a model, or a mapping with its fields. An `InvalidOrderError`
#: stands for an order that its reader could not build.
AnyOrder = Order | Mapping[str, Any] | InvalidOrderError
KeyOf = Callable[[Any], str]

_OUTCOMES: tuple[tuple[type[EverlyticError], Outcome], ...] = (
    (InvalidOrderError, Outcome.INVALID),
    (RejectedError, Outcome.REJECTED),
    (NotSentError, Outcome.NOT_SENT),
    (ThrottledError, Outcome.NOT_SENT),
    (UnknownOutcomeError, Outcome.UNKNOWN),
)


def outcome_of(error: EverlyticError) -> Outcome:
    """The outcome that an order's error stands for."""
    return next(outcome for kind, outcome in _OUTCOMES if isinstance(error, kind))


def as_order(given: AnyOrder) -> Order:
    """The order as a model.

    Raises:
        InvalidOrderError: with every fault.
    """
    if isinstance(given, Order):
        return given
    if isinstance(given, InvalidOrderError):
        raise given
    return Order.from_mapping(given)


def _name_of_invalid(given: AnyOrder) -> str | None:
    order_id = given.get("order_id") if isinstance(given, Mapping) else None
    named = isinstance(order_id, str | int) and not isinstance(order_id, bool)
    return str(order_id) if named else None


class _Course:
    """The attempts of one order so far."""

    __slots__ = ("ambiguous", "attempts", "began", "body", "halt", "order")

    def __init__(self, order: Order, body: bytes, halt: Halt, began: float) -> None:
        self.order = order
        self.body = body
        self.halt = halt
        self.began = began
        self.attempts = 0
        #: The last attempt that may have been processed.
        self.ambiguous: UnknownOutcomeError | None = None


@attrs.frozen(eq=False)
class Sender:
    """Delivers one order at a time over shared parts; any number of its calls run at once."""

    transport: Transport
    pacer: Pacer
    delivery: Delivery
    retry: RetryPolicy
    clock: Callable[[], float] = time.monotonic

    async def send(self, given: AnyOrder, halt: Halt) -> Receipt:
        """Deliver one order.

        Raises:
            EverlyticError: its class is the verdict.
        """
        order = as_order(given)
        course = _Course(order, encode(order), halt, self.clock())
        verdict = await self._deliver(course)
        if isinstance(verdict, EverlyticError):
            verdict.attempts = course.attempts
            raise verdict
        return verdict

    async def result(
        self, index: int, given: AnyOrder, key_of: KeyOf | None, halt: Halt
    ) -> OrderResult:
        """Deliver one order of many: whatever comes of it is its result."""
        began = self.clock()
        try:
            order = as_order(given)
        except InvalidOrderError as error:
            name = _name_of_invalid(given) if key_of is None else key_of(given)
            return OrderResult(index, name, given, Outcome.INVALID, error=error)
        body = encode(order)
        key = order_key(order, body) if key_of is None else key_of(given)
        course = _Course(order, body, halt, began)
        verdict = await self._deliver(course)
        attempts = course.attempts
        elapsed_s = self.clock() - began
        if verdict.__class__ is Receipt:
            risk = course.ambiguous is not None
            return OrderResult(
                index, key, given, Outcome.SENT, verdict, None, attempts, elapsed_s, risk
            )
        assert isinstance(verdict, EverlyticError)  # noqa: S101 - the other half of the union
        verdict.attempts = attempts
        risk = course.ambiguous is not None and course.ambiguous is not verdict
        return OrderResult(
            index, key, given, outcome_of(verdict), None, verdict, attempts, elapsed_s, risk
        )

    async def _deliver(self, course: _Course) -> Receipt | EverlyticError:
        try:
            verdict = await self._attempt(course)
            if verdict.__class__ is Receipt or not may_repeat(verdict, self.delivery):
                return verdict
            assert isinstance(verdict, EverlyticError)  # noqa: S101 - the other half of the union

            async def again() -> Receipt:
                answer = await self._attempt(course)
                if isinstance(answer, EverlyticError):
                    raise answer
                return answer

            try:
                return await repeat(
                    verdict,
                    again,
                    policy=self.retry,
                    delivery=self.delivery,
                    pacer=self.pacer,
                    halt=course.halt,
                    began=course.began,
                    clock=self.clock,
                )
            except EverlyticError as error:
                last = error
        except HaltedError as halted:
            last = NotSentError(f"the order was not sent: {halted}")
        return self._whole(course, last)

    def _whole(self, course: _Course, last: EverlyticError) -> EverlyticError:
        """What all attempts together say: one that may have been processed is not unsaid."""
        earlier = course.ambiguous
        if earlier is None or isinstance(last, UnknownOutcomeError):
            return last
        return type(earlier)(f"{earlier.message}; a later attempt: {last.message}", earlier.status)

    async def _attempt(self, course: _Course) -> Receipt | EverlyticError:
        pacer = self.pacer
        if not pacer.try_admit():
            await pacer.admit(course.halt)
        if course.attempts == 0:
            # The deadline runs from the first attempt, not from the queue for it.
            course.began = self.clock()
        course.attempts += 1
        verdict: Receipt | EverlyticError
        try:
            try:
                answer = await self.transport.post(course.body)
            except EverlyticError as error:
                verdict = error
            else:
                verdict = judge(
                    answer.status,
                    answer.headers,
                    answer.body,
                    attempts=course.attempts,
                    elapsed_s=self.clock() - course.began,
                    hide=(course.order.contact_email, course.order.contact_unique_id),
                )
            # Before the slot is given back: who gets it next must know what was learnt.
            self._learn(verdict)
        finally:
            pacer.release()
        if isinstance(verdict, UnknownOutcomeError):
            course.ambiguous = verdict
        return verdict

    def _learn(self, verdict: Receipt | EverlyticError) -> None:
        if verdict.__class__ is Receipt:
            self.pacer.accepted()
        elif isinstance(verdict, ThrottledError):
            self.pacer.throttled(verdict.retry_after_s)
        elif isinstance(verdict, NotSentError):
            self.pacer.unreachable(verdict.message)
        else:
            self.pacer.answered()
