"""One order, start to end: validate, encode, wait for its turn, POST, judge, repeat where safe.

The parts know how each of these is done; this module knows their order, and what the whole of an
order's attempts says about it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from everlytic_async._book import Book, digest_of
from everlytic_async._pacer import Halt, HaltedError, LateError, Pacer
from everlytic_async._retry import may_repeat, repeat
from everlytic_async._transport import NOT_SENT, SESSION_CLOSED, Transport
from everlytic_async._wire import encode, judge, order_key
from everlytic_async.errors import (
    EverlyticError,
    InvalidOrderError,
    LedgerError,
    NotSentError,
    RejectedError,
    SkippedError,
    ThrottledError,
    UnknownOutcomeError,
)
from everlytic_async.events import AttemptEnded, AttemptStarted, BackingOff, Hub, OrderEnded
from everlytic_async.ledger import State
from everlytic_async.orders import Order, order_id_of
from everlytic_async.outcomes import OrderResult, Outcome, Receipt
from everlytic_async.policies import Delivery, RetryPolicy

#: What may be handed in as an order: a model, or a mapping with its fields. An `InvalidOrderError`
#: stands for an order that its reader could not build.
AnyOrder = Order | Mapping[str, Any] | InvalidOrderError
KeyOf = Callable[[Any], str]

_OUTCOMES: tuple[tuple[type[EverlyticError], Outcome], ...] = (
    (SkippedError, Outcome.SKIPPED),
    (InvalidOrderError, Outcome.INVALID),
    (RejectedError, Outcome.REJECTED),
    (NotSentError, Outcome.NOT_SENT),
    (ThrottledError, Outcome.NOT_SENT),
    (UnknownOutcomeError, Outcome.UNKNOWN),
)


def outcome_of(error: EverlyticError) -> Outcome:
    """The outcome that an order's error stands for."""
    for kind, outcome in _OUTCOMES:
        if isinstance(error, kind):
            return outcome
    raise TypeError(f"{type(error).__name__} is no order's error")


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


class Course:
    """One order on its way: what it is, and its attempts so far."""

    __slots__ = (
        "ambiguous",
        "attempts",
        "began",
        "body",
        "claimed",
        "digest",
        "given",
        "index",
        "key",
        "order",
        "perhaps_processed",
        "read_at",
        "told_as",
    )

    def __init__(
        self,
        index: int,
        given: AnyOrder,
        order: Order,
        body: bytes,
        key: str,
    ) -> None:
        self.index = index
        self.given = given
        self.order = order
        self.body = body
        self.key = key
        #: What events call the order; None where nobody listens.
        self.told_as: str | None = None
        self.read_at = 0.0
        #: A digest of the body, where a ledger asks for it.
        self.digest = ""
        #: Whether it was claimed from a ledger, which is to hear of its outcome.
        self.claimed = False
        self.attempts = 0
        #: When the first attempt was admitted: the deadline runs from it, not from the queue.
        self.began = 0.0
        #: The last attempt that may have been processed.
        self.ambiguous: UnknownOutcomeError | None = None
        #: How many attempts were, or may have been, processed.
        self.perhaps_processed = 0

    def cancelled(self, left: bool) -> None:
        """Take note that an attempt was cancelled, and whether its body had left."""
        if left:
            self.perhaps_processed += 1
            self.ambiguous = UnknownOutcomeError(
                "the order was sent, but its sending was cancelled before the answer came: it may "
                "have been processed"
            )

    def fate(self) -> EverlyticError:
        """What is known of an order whose sending was cancelled."""
        return self.ambiguous or NotSentError("the order was not sent: its sending was cancelled")


@attrs.frozen(eq=False)
class Sender:
    """Delivers one order at a time over shared parts; any number of its calls run at once."""

    transport: Transport
    pacer: Pacer
    delivery: Delivery
    retry: RetryPolicy
    hub: Hub
    clock: Callable[[], float] = time.monotonic

    async def send(self, given: AnyOrder, halt: Halt) -> Receipt:
        """Deliver one order.

        Raises:
            EverlyticError: its class is the verdict.
        """
        result = await self.result(0, given, None, halt)
        if result.receipt is not None:
            return result.receipt
        assert result.error is not None  # noqa: S101 - what is not sent says why
        raise result.error

    async def result(
        self, index: int, given: AnyOrder, key_of: KeyOf | None, halt: Halt
    ) -> OrderResult:
        """Deliver one order: whatever comes of it is its result."""
        course = self.prepare(index, given, key_of)
        if isinstance(course, OrderResult):
            return course
        return await self.deliver(course, halt)

    def prepare(self, index: int, given: AnyOrder, key_of: KeyOf | None) -> Course | OrderResult:
        """Validate and encode one order; the result of one that is invalid."""
        read_at = self.clock()
        try:
            order = as_order(given)
        except InvalidOrderError as error:
            return self._invalid(index, given, key_of, error)
        except Exception as error:  # noqa: BLE001 - a mapping of the caller's, lazy perhaps
            fault = InvalidOrderError([f"order: reading it raised {type(error).__name__}"])
            fault.__cause__ = error
            return OrderResult(index, None, given, Outcome.INVALID, None, fault)
        body = encode(order)
        try:
            key = order_key(order, body) if key_of is None else _named(key_of, given)
        except Exception as error:  # noqa: BLE001 - whatever a caller's function raises
            fault = InvalidOrderError(
                [f"key: the given function raised {type(error).__name__}"],
                order_id=order_id_of(given),
            )
            fault.__cause__ = error
            return self._invalid(index, given, None, fault)
        course = Course(index, given, order, body, key)
        course.read_at = read_at
        if self.hub.listening:
            course.told_as = key if key_of is None else _veiled(key)
        return course

    async def deliver(self, course: Course, halt: Halt, book: Book | None = None) -> OrderResult:
        """Deliver an order that was prepared: whatever comes of it is its result.

        With a book, only what was claimed is sent; its outcome is for the caller to record.
        """
        if book is not None:
            course.digest = course.digest or digest_of(course.body)
            try:
                if await book.claim(course.key, course.digest):
                    course.perhaps_processed = 1
                    course.ambiguous = UnknownOutcomeError("it may have been processed before")
            except SkippedError as skipped:
                return self.end(course, skipped)
            except LedgerError as error:
                return self.end(course, NotSentError(f"the order was not sent: {error}"))
            course.claimed = True
        try:
            verdict = await self._send(course, halt)
        except BaseException:
            fate = course.fate()
            if book is not None:
                state = State(str(outcome_of(fate)))
                book.abandon(course.key, course.digest, state, course.attempts)
            self.end(course, fate)
            raise
        return self.end(course, verdict)

    def end(self, course: Course, verdict: Receipt | EverlyticError) -> OrderResult:
        """The result of an order."""
        receipt, error, outcome = None, None, Outcome.SENT
        if isinstance(verdict, Receipt):
            receipt = verdict
        else:
            error, outcome = verdict, outcome_of(verdict)
            error.attempts = course.attempts
        result = OrderResult(
            course.index,
            course.key,
            course.given,
            outcome,
            receipt,
            error,
            course.attempts,
            self.clock() - course.read_at,
            course.perhaps_processed > 1,
        )
        if course.told_as is not None:
            self._tell_end(result, course.told_as)
        return result

    def _invalid(
        self, index: int, given: AnyOrder, key_of: KeyOf | None, error: InvalidOrderError
    ) -> OrderResult:
        key = error.order_id
        if key_of is not None:
            try:
                key = _named(key_of, given)
            except Exception:  # noqa: BLE001 - what is missing may be just what it looks for
                key = None
        result = OrderResult(index, key, given, Outcome.INVALID, None, error)
        if self.hub.listening:
            self._tell_end(result, key if key_of is None else _veiled(key))
        return result

    async def _send(self, course: Course, halt: Halt) -> Receipt | EverlyticError:
        try:
            verdict = await self._attempt(course, halt)
            if not isinstance(verdict, Receipt) and may_repeat(verdict, self.delivery):
                verdict = await self._repeat(course, halt, verdict)
        except HaltedError as halted:
            verdict = NotSentError(f"the order was not sent: {halted}")
        return verdict if course.ambiguous is None else _whole(course.ambiguous, verdict)

    async def _repeat(
        self, course: Course, halt: Halt, first: EverlyticError
    ) -> Receipt | EverlyticError:
        last = first

        async def again() -> Receipt:
            nonlocal last
            try:
                verdict = await self._attempt(course, halt, course.began + self.retry.deadline_s)
            except LateError:
                raise last from None  # the deadline came before its turn
            if isinstance(verdict, EverlyticError):
                last = verdict
                raise verdict
            return verdict

        def backing_off(error: EverlyticError, wait_s: float) -> None:
            if course.told_as is not None:
                self.hub.tell(
                    BackingOff(
                        at=self.clock(),
                        key=course.told_as,
                        attempt=course.attempts,
                        wait_s=wait_s,
                        error=error,
                    )
                )

        try:
            return await repeat(
                first,
                again,
                policy=self.retry,
                delivery=self.delivery,
                pacer=self.pacer,
                halt=halt,
                began=course.began,
                clock=self.clock,
                backing_off=backing_off,
            )
        except EverlyticError as error:
            return error

    async def _attempt(
        self, course: Course, halt: Halt, until: float | None = None
    ) -> Receipt | EverlyticError:
        pacer = self.pacer
        admitted_at = None if halt.reason is not None else pacer.try_admit()
        if admitted_at is None:
            admitted_at = await pacer.admit(halt, until)
        if course.attempts == 0:
            course.began = admitted_at
        course.attempts += 1
        verdict: Receipt | EverlyticError
        left_at: float | None = None
        try:
            if course.told_as is not None:
                self._tell_start(course, admitted_at)
            try:
                answer = await self.transport.post(course.body, course.cancelled)
            except EverlyticError as error:
                verdict = error
                if self.transport.session_closed:
                    halt.halt(SESSION_CLOSED)  # no further order can be sent
            else:
                left_at = answer.left_at
                verdict = judge(
                    answer.status,
                    answer.headers,
                    answer.body,
                    attempts=course.attempts,
                    elapsed_s=self.clock() - course.began,
                    hide=(course.order.contact_email, course.order.contact_unique_id),
                )
            # Before the slot is given back: who gets it next must know what was learnt.
            self._learn(verdict, admitted_at, left_at)
        except BaseException:
            if course.told_as is not None:
                self._tell_attempt(course, course.fate(), admitted_at)
            raise
        finally:
            pacer.release()
        if isinstance(verdict, UnknownOutcomeError):
            course.ambiguous = verdict
            course.perhaps_processed += 1
        elif isinstance(verdict, Receipt):
            course.perhaps_processed += 1
        if course.told_as is not None:
            self._tell_attempt(course, verdict, admitted_at)
        return verdict

    def _learn(
        self, verdict: Receipt | EverlyticError, admitted_at: float, left_at: float | None
    ) -> None:
        if self.transport.session_closed:
            return  # it says nothing about the endpoint
        if isinstance(verdict, Receipt):
            self.pacer.accepted(admitted_at, left_at)
        elif isinstance(verdict, ThrottledError):
            self.pacer.throttled(admitted_at, verdict.status, verdict.retry_after_s, left_at)
        elif isinstance(verdict, NotSentError) and not verdict.connected:
            self.pacer.unreachable(verdict.message.removeprefix(NOT_SENT))
        else:
            self.pacer.answered()

    # -------------------------------------------------------------------------------- telling

    def _tell_start(self, course: Course, admitted_at: float) -> None:
        assert course.told_as is not None  # noqa: S101 - asked before
        self.hub.tell(
            AttemptStarted(
                at=admitted_at,
                key=course.told_as,
                attempt=course.attempts,
                in_flight=self.pacer.in_flight,
            )
        )

    def _tell_attempt(
        self, course: Course, verdict: Receipt | EverlyticError, admitted_at: float
    ) -> None:
        assert course.told_as is not None  # noqa: S101 - asked before
        now = self.clock()
        self.hub.tell(
            AttemptEnded(
                at=now,
                key=course.told_as,
                attempt=course.attempts,
                outcome=Outcome.SENT if isinstance(verdict, Receipt) else outcome_of(verdict),
                status=getattr(verdict, "status", None),
                error=None if isinstance(verdict, Receipt) else verdict,
                elapsed_s=now - admitted_at,
            )
        )

    def _tell_end(self, result: OrderResult, told_as: str | None) -> None:
        self.hub.tell(
            OrderEnded(
                at=self.clock(),
                key=told_as,
                outcome=result.outcome,
                attempts=result.attempts,
                elapsed_s=result.elapsed_s,
                duplicate_risk=result.duplicate_risk,
                error=result.error,
            )
        )


def _named(key_of: KeyOf, given: AnyOrder) -> str:
    key: object = key_of(given)
    if isinstance(key, int) and not isinstance(key, bool):
        return str(key)  # a shop's number
    if not isinstance(key, str):
        raise TypeError("a key is text")
    return key


def _veiled(key: str | None) -> str | None:
    """A caller's own key as events show it: it may be anything, a customer's address too."""
    if key is None:
        return None
    return f"sha256:{hashlib.sha256(str(key).encode('utf-8', 'replace')).hexdigest()[:12]}"


def _whole(
    earlier: UnknownOutcomeError, last: Receipt | EverlyticError
) -> Receipt | EverlyticError:
    """What all attempts together say: one that may have been processed is not unsaid."""
    if isinstance(last, Receipt | UnknownOutcomeError):
        return last
    return type(earlier)(f"{earlier.message}; a later attempt: {last.message}", earlier.status)
