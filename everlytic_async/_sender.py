"""One order, start to end: validate, encode, wait for its turn, POST, judge, repeat where safe.

The parts know how each of these is done; this module knows their order, and what the whole of an
order's attempts says about it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from everlytic_async._book import Book, digest_of
from everlytic_async._pacer import Halt, HaltedError, LateError, Pacer
from everlytic_async._retry import may_repeat, repeat
from everlytic_async._transport import SESSION_CLOSED, Transport
from everlytic_async._wire import encode, judge, order_key
from everlytic_async.errors import (
    AuthenticationError,
    ConfigurationError,
    EverlyticError,
    InvalidOrderError,
    LedgerError,
    NotSentError,
    RejectedError,
    ServerError,
    SkippedError,
    ThrottledError,
    UnknownOutcomeError,
)
from everlytic_async.events import AttemptEnded, AttemptStarted, BackingOff, Dispatcher, OrderEnded
from everlytic_async.ledger import State
from everlytic_async.orders import Order, order_id_of
from everlytic_async.outcomes import OrderResult, Outcome, Receipt
from everlytic_async.policies import Delivery, RetryPolicy

_LOGGER = logging.getLogger("everlytic_async")

#: What may be handed in as an order: a model, or a mapping with its fields. An `InvalidOrderError`
#: stands for an order that its reader could not build.
AnyOrder = Order | Mapping[str, Any] | InvalidOrderError
KeyOf = Callable[[Any], str]

_OUTCOMES: tuple[tuple[type[EverlyticError], Outcome], ...] = (
    (SkippedError, Outcome.SKIPPED),
    (InvalidOrderError, Outcome.INVALID),
    (AuthenticationError, Outcome.NOT_SENT),  # the account's fault, not the order's
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

    def mark_cancelled(self, body_sent: bool) -> None:
        """Note that the attempt was cancelled, and whether its whole body may have been sent."""
        self.in_attempt = False
        if body_sent:
            self.possible_deliveries += 1
            self.last_unknown = UnknownOutcomeError(
                "the order was sent, but its sending was cancelled before the answer came: it may "
                "have been processed"
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


@attrs.frozen(eq=False)
class Sender:
    """Delivers one order at a time over shared parts; any number of its calls run at once."""

    transport: Transport
    pacer: Pacer
    delivery: Delivery
    retry: RetryPolicy
    dispatcher: Dispatcher
    clock: Callable[[], float] = time.monotonic

    async def send(
        self,
        raw: AnyOrder,
        halt: Halt,
        *,
        key_of: KeyOf | None = None,
        book: Book | None = None,
        deadline_s: float | None = None,
    ) -> Receipt:
        """Deliver one order, and record its outcome where there is a ledger.

        Args:
            raw: The order.
            halt: Ends the waiting.
            key_of: Names the order.
            book: The ledger.
            deadline_s: Seconds for the whole call; None to bound only the waiting, by the policy.

        Raises:
            EverlyticError: its class is the verdict.
        """
        sending = self._result_by(raw, halt, key_of, book, deadline_s)
        del raw  # so that this frame doesn't show it
        result = await sending
        if result.receipt is not None:
            return result.receipt
        assert result.error is not None  # noqa: S101 - what is not sent says why
        raise result.error

    async def _result_by(
        self,
        raw: AnyOrder,
        halt: Halt,
        key_of: KeyOf | None,
        book: Book | None,
        deadline_s: float | None,
    ) -> OrderResult:
        job = self.prepare(0, raw, key_of)
        del raw  # so that this frame doesn't show it
        digest = ""
        if isinstance(job, OrderResult):
            result = job
        else:
            wait_until = self.clock() + (deadline_s or self.retry.deadline_s)
            try:
                async with asyncio.timeout(deadline_s) as scope:
                    result = await self.deliver(job, halt, book, wait_until)
            except TimeoutError:
                if not scope.expired():
                    raise
                reason = f"its deadline of {deadline_s:g} s passed"
                return self._result_of(job, job.abandoned_error(reason))
            digest = job.digest
        if book is not None and (isinstance(job, OrderResult) or job.claimed):
            recorded = asyncio.Event()
            book.record(result, digest, lambda _result: recorded.set())
            await recorded.wait()
            if book.failure is not None:
                # The order has its outcome. To the next call it is "in flight", so that it is not
                # sent twice.
                _LOGGER.warning("the outcome of an order was not recorded: %s", book.failure)
        return result

    async def result(
        self, index: int, raw: AnyOrder, key_of: KeyOf | None, halt: Halt
    ) -> OrderResult:
        """Deliver one order: whatever comes of it is its result."""
        job = self.prepare(index, raw, key_of)
        if isinstance(job, OrderResult):
            return job
        return await self.deliver(job, halt)

    def prepare(self, index: int, raw: AnyOrder, key_of: KeyOf | None) -> Job | OrderResult:
        """Validate and encode one order; the result of one that is invalid."""
        received_at = self.clock()
        try:
            order = as_order(raw)
        except InvalidOrderError as error:
            return self._invalid(index, raw, key_of, error)
        except Exception as error:  # noqa: BLE001 - a mapping of the caller's, lazy perhaps
            fault = InvalidOrderError([f"order: reading it raised {type(error).__name__}"])
            fault.__cause__ = error
            return OrderResult(index, None, raw, Outcome.INVALID, None, fault)
        body = encode(order)
        try:
            key = order_key(order, body) if key_of is None else _call_key_function(key_of, raw)
        except Exception as error:  # noqa: BLE001 - whatever a caller's function raises
            fault = InvalidOrderError(
                [f"key: the given function raised {type(error).__name__}"],
                order_id=order_id_of(raw),
            )
            fault.__cause__ = error
            return self._invalid(index, raw, None, fault)
        job = Job(index, raw, order, body, key)
        job.received_at = received_at
        if self.dispatcher.has_listeners:
            job.event_key = key if key_of is None else _hash_key(key)
        return job

    async def deliver(
        self, job: Job, halt: Halt, book: Book | None = None, wait_until: float | None = None
    ) -> OrderResult:
        """Deliver an order that was prepared: whatever comes of it is its result.

        Args:
            job: The order.
            halt: Ends the waiting.
            book: The ledger: what it does not let us claim is not sent. Its outcome is for the
                caller to record.
            wait_until: When to stop waiting for a turn, by the clock.
        """
        if book is not None:
            job.digest = job.digest or digest_of(job.body)
            try:
                if await book.claim(job.key, job.digest):
                    job.possible_deliveries = 1
                    job.last_unknown = UnknownOutcomeError("it may have been processed before")
            except SkippedError as skipped:
                return self.end(job, skipped)
            except LedgerError as error:
                return self.end(job, NotSentError(f"the order was not sent: {error}"))
            job.claimed = True
        verdict: Receipt | EverlyticError
        try:
            verdict = await self._send(job, halt, wait_until)
        except ConfigurationError:
            raise  # in a forked copy: the order and the ledger are the other process's
        except Exception as error:  # noqa: BLE001 - what is not foreseen gets the careful verdict
            verdict = job.abandoned_error(
                f"an error that was not foreseen ({type(error).__name__})"
            )
            verdict.__cause__ = job.unforeseen = error
        except BaseException:
            known = job.abandoned_error("its sending was cancelled")
            if book is not None:
                state = State(str(outcome_of(known)))
                book.abandon(job.key, job.digest, state, job.attempts)
            self.end(job, known)
            raise
        return self.end(job, verdict)

    def end(self, job: Job, verdict: Receipt | EverlyticError) -> OrderResult:
        """The result of an order, of which the hooks are notified."""
        result = self._result_of(job, verdict)
        if job.event_key is not None:
            self._tell_end(result, job.event_key)
        return result

    def _result_of(self, job: Job, verdict: Receipt | EverlyticError) -> OrderResult:
        receipt, error, outcome = None, None, Outcome.SENT
        if isinstance(verdict, Receipt):
            receipt = verdict
        else:
            error, outcome = verdict, outcome_of(verdict)
            error.attempts = job.attempts
        return OrderResult(
            job.index,
            job.key,
            job.raw,
            outcome,
            receipt,
            error,
            job.attempts,
            self.clock() - job.received_at,
            job.possible_deliveries > 1,
        )

    def _invalid(
        self, index: int, given: AnyOrder, key_of: KeyOf | None, error: InvalidOrderError
    ) -> OrderResult:
        error.__traceback__ = None  # its frames hold the order
        key = error.order_id
        if key_of is not None:
            try:
                key = _call_key_function(key_of, given)
            except Exception:  # noqa: BLE001 - what is missing may be just what it looks for
                key = None
        result = OrderResult(index, key, given, Outcome.INVALID, None, error)
        if self.dispatcher.has_listeners:
            self._tell_end(result, key if key_of is None else _hash_key(key))
        return result

    async def _send(
        self, job: Job, halt: Halt, wait_until: float | None
    ) -> Receipt | EverlyticError:
        try:
            verdict = await self._attempt(job, halt, wait_until)
            if not isinstance(verdict, Receipt) and may_repeat(verdict, self.delivery):
                verdict = await self._retry(job, halt, verdict, wait_until)
        except LateError:
            verdict = NotSentError("the order was not sent: its turn had not come by its deadline")
        except HaltedError as halted:
            verdict = NotSentError(f"the order was not sent: {halted}")
        return verdict if job.last_unknown is None else _combine(job.last_unknown, verdict)

    async def _retry(
        self, job: Job, halt: Halt, first: EverlyticError, wait_until: float | None
    ) -> Receipt | EverlyticError:
        last = first
        deadline = job.started_at + self.retry.deadline_s
        if wait_until is not None:
            deadline = min(deadline, wait_until)

        async def attempt_again() -> Receipt:
            nonlocal last
            try:
                verdict = await self._attempt(job, halt, deadline)
            except LateError:
                raise last from None  # the deadline came before its turn
            if isinstance(verdict, EverlyticError):
                last = verdict
                raise verdict
            return verdict

        def on_backoff(error: EverlyticError, wait_s: float) -> None:
            if job.event_key is not None:
                self.dispatcher.emit(
                    BackingOff(
                        at=self.clock(),
                        key=job.event_key,
                        attempt=job.attempts,
                        wait_s=wait_s,
                        error=error,
                    )
                )

        try:
            return await repeat(
                first,
                attempt_again,
                policy=self.retry,
                delivery=self.delivery,
                pacer=self.pacer,
                halt=halt,
                deadline=deadline,
                clock=self.clock,
                on_backoff=on_backoff,
            )
        except EverlyticError as error:
            return error

    async def _attempt(
        self, job: Job, halt: Halt, wait_until: float | None = None
    ) -> Receipt | EverlyticError:
        pacer = self.pacer
        admitted_at = None if halt.reason is not None else pacer.try_admit()
        if admitted_at is None:
            admitted_at = await pacer.admit(halt, wait_until)
        if job.attempts == 0:
            job.started_at = admitted_at
        job.attempts += 1
        job.in_attempt = True
        try:
            if job.event_key is not None:
                self._tell_start(job, admitted_at)
            verdict, left_at = await self._post(job, halt)
            job.in_attempt = False
            # Before the slot is given back: who gets it next must know what was learnt.
            self._update_pacer(verdict, admitted_at, left_at)
        except BaseException:
            if job.event_key is not None:
                known = job.abandoned_error("its sending was cancelled")
                self._tell_attempt(job, known, admitted_at)
            raise
        finally:
            pacer.release()
        job.note(verdict)
        if job.event_key is not None:
            self._tell_attempt(job, verdict, admitted_at)
        return verdict

    async def _post(self, job: Job, halt: Halt) -> tuple[Receipt | EverlyticError, float | None]:
        """Make one POST: what it says, and when its body was sent, where that is known."""
        try:
            answer = await self.transport.post(job.body, job.mark_cancelled)
        except ConfigurationError:
            raise  # used in another process or event loop: it is not the order's error
        except EverlyticError as error:
            if self.transport.session_closed:
                halt.halt(SESSION_CLOSED)  # no further order can be sent
            return error, None
        verdict = judge(
            answer.status,
            answer.headers,
            answer.body,
            waited_s=answer.waited_s,
            undecodable=answer.undecodable,
            attempts=job.attempts,
            elapsed_s=self.clock() - job.started_at,
            hide=(job.order.contact_email, job.order.contact_unique_id),
        )
        return verdict, answer.left_at

    def _update_pacer(
        self, verdict: Receipt | EverlyticError, admitted_at: float, left_at: float | None
    ) -> None:
        if self.transport.session_closed:
            return  # it says nothing about the endpoint
        if isinstance(verdict, Receipt):
            self.pacer.accepted(admitted_at, left_at)
        elif isinstance(verdict, ThrottledError):
            self.pacer.throttled(admitted_at, verdict.status, verdict.retry_after_s, left_at)
        elif isinstance(verdict, RejectedError):
            self.pacer.refused(admitted_at)
        else:
            self.pacer.failed(admitted_at, verdict)
            if isinstance(verdict, ServerError) and verdict.retry_after_s:
                self.pacer.pause(verdict.retry_after_s, f"the endpoint answered {verdict.status}")

    # -------------------------------------------------------------------------------- telling

    def _tell_start(self, job: Job, admitted_at: float) -> None:
        assert job.event_key is not None  # noqa: S101 - asked before
        self.dispatcher.emit(
            AttemptStarted(
                at=admitted_at,
                key=job.event_key,
                attempt=job.attempts,
                in_flight=self.pacer.in_flight,
            )
        )

    def _tell_attempt(
        self, job: Job, verdict: Receipt | EverlyticError, admitted_at: float
    ) -> None:
        assert job.event_key is not None  # noqa: S101 - asked before
        now = self.clock()
        self.dispatcher.emit(
            AttemptEnded(
                at=now,
                key=job.event_key,
                attempt=job.attempts,
                outcome=Outcome.SENT if isinstance(verdict, Receipt) else outcome_of(verdict),
                status=getattr(verdict, "status", None),
                error=None if isinstance(verdict, Receipt) else verdict,
                elapsed_s=now - admitted_at,
            )
        )

    def _tell_end(self, result: OrderResult, event_key: str | None) -> None:
        self.dispatcher.emit(
            OrderEnded(
                at=self.clock(),
                key=event_key,
                outcome=result.outcome,
                attempts=result.attempts,
                elapsed_s=result.elapsed_s,
                duplicate_risk=result.duplicate_risk,
                error=result.error,
            )
        )


def _call_key_function(key_of: KeyOf, given: AnyOrder) -> str:
    key: object = key_of(given)
    if isinstance(key, int) and not isinstance(key, bool):
        return str(key)  # a shop's number
    if not isinstance(key, str):
        raise TypeError("a key is text")
    return key


def _hash_key(key: str | None) -> str | None:
    """A caller's own key as events show it: it may be anything, a customer's address too."""
    if key is None:
        return None
    return f"sha256:{hashlib.sha256(str(key).encode('utf-8', 'replace')).hexdigest()[:12]}"


def _combine(
    earlier: UnknownOutcomeError, last: Receipt | EverlyticError
) -> Receipt | EverlyticError:
    """What all attempts together say: one that may have been processed is not unsaid."""
    if isinstance(last, Receipt | UnknownOutcomeError):
        return last
    return type(earlier)(f"{earlier.message}; a later attempt: {last.message}", earlier.status)
