"""One order, start to end: prepare, claim, wait for its turn, POST, parse, retry where safe.

`Sender` does it, a `Job` is the order on its way.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from typing import Any

import attrs

from everlytic_async._checks import get_order_id
from everlytic_async._encoding import (
    AnyOrder,
    KeyOf,
    custom_key,
    encode_wire,
    make_key,
    to_wire,
)
from everlytic_async._failures import SESSION_CLOSED
from everlytic_async._pacer import Pacer
from everlytic_async._response import parse_response
from everlytic_async._retry import may_retry, retrying, with_cap_note
from everlytic_async._transport import Transport
from everlytic_async._waiting import DeadlineExceededError, StoppedError, StopToken, deadline
from everlytic_async.errors import (
    ConfigurationError,
    EverlyticError,
    InvalidOrderError,
    LedgerError,
    NotSentError,
    RejectedError,
    SkippedError,
    ThrottledError,
    UnknownOutcomeError,
)
from everlytic_async.events import (
    AttemptEnded,
    AttemptStarted,
    BackingOff,
    Dispatcher,
    OrderEnded,
)
from everlytic_async.ledger import State
from everlytic_async.ledger.claims import LedgerWriter, body_digest
from everlytic_async.outcomes import OrderResult, Outcome, Receipt, outcome_for
from everlytic_async.policies import Delivery, check_seconds

_LOGGER = logging.getLogger("everlytic_async")

# What an order takes in memory: a multiple of its JSON (with one emoji, a text takes four bytes a
# character), and bytes for each product.
_JSON_FACTOR = 6
_PRODUCT_BYTES = 600
_CANCELLED = "its sending was cancelled"


@attrs.frozen(eq=False)
class Sender:
    """Delivers orders, each by a call of its own; any number of calls run concurrently."""

    transport: Transport
    pacer: Pacer
    delivery: Delivery
    dispatcher: Dispatcher

    async def send(
        self,
        raw: AnyOrder,
        stop_token: StopToken,
        *,
        key_of: KeyOf | str | None = None,
        ledger_writer: LedgerWriter | None = None,
        deadline_s: float | None = None,
    ) -> Receipt:
        """Deliver one order, and record its outcome if there is a ledger.

        Raises:
            EverlyticError: its class is the verdict.
        """
        if deadline_s is not None:
            check_seconds("deadline_s", deadline_s)
        job = self.prepare(0, raw, key_of)
        del raw  # so that this frame doesn't show it
        job.wait_until = self.pacer.clock() + (deadline_s or self.pacer.policy.deadline_s)
        result = None
        try:
            async with deadline(deadline_s) as scope:
                if job.invalid is not None:
                    result = self.end(job, job.invalid)
                else:
                    result = await self.deliver(job, stop_token, ledger_writer)
                if ledger_writer is not None and job.is_recorded:
                    await _record(ledger_writer, job, result)
        except TimeoutError:
            if not scope.expired():
                raise
        except asyncio.CancelledError:
            if result is None:
                self.end(job, job.verdict_if_abandoned(_CANCELLED))
            raise
        if result is None:
            reason = f"its deadline of {deadline_s:g} s passed"
            result = self.end(job, job.verdict_if_abandoned(reason))
        if result.receipt is not None:
            return result.receipt
        assert result.error is not None  # noqa: S101 - what is not sent says why
        try:
            raise result.error
        finally:
            del result, job  # this frame would refer to the error, and it to this frame: a cycle

    def prepare(self, index: int, raw: AnyOrder, key_of: KeyOf | str | None) -> Job:
        """Validate and encode one order, and work out its key."""
        job = _make_job(index, raw, key_of, self.pacer.clock())
        if self.dispatcher.wants_orders or _LOGGER.isEnabledFor(logging.DEBUG):
            job.is_observed = True
            job.event_key = _hash_key(job.key) if key_of is not None else job.key or None
        return job

    async def deliver(
        self, job: Job, stop_token: StopToken, ledger_writer: LedgerWriter | None = None
    ) -> OrderResult:
        """Deliver a valid order, and return its result.

        What the ledger does not let us claim is not sent. The caller records the outcome, and ends
        the order if this is cancelled.
        """
        if ledger_writer is not None:
            refused = await self._claim(job, ledger_writer)
            if refused is not None:
                return self.end(job, refused)
        try:
            # The first attempt needs no tenacity if it is accepted.
            verdict = await self._attempt(job, stop_token)
            if isinstance(verdict, EverlyticError) and may_retry(verdict, self.delivery):
                verdict = await self._retry(job, stop_token, verdict)
        except ConfigurationError:
            raise  # in a forked copy: the order and the ledger are the other process's
        except DeadlineExceededError:
            verdict = NotSentError("the order was not sent: its turn had not come by its deadline")
        except StoppedError as stopped:
            trouble, why = self.pacer.trouble, str(stopped)
            if trouble.gave_up is not None and stop_token.reason is None:
                why = trouble.describe(self.transport.host)
            verdict = NotSentError(f"the order was not sent: {why}")
        except Exception as error:  # noqa: BLE001 - what is not foreseen gets the careful verdict
            why = f"an error that was not foreseen ({type(error).__name__})"
            verdict, job.unforeseen = job.verdict_if_abandoned(why), error
            if isinstance(verdict, EverlyticError):
                verdict.__cause__ = error
        except BaseException:
            _record_cancelled(ledger_writer, job)
            raise
        if isinstance(job.known, UnknownOutcomeError):
            verdict = _combine(job.known, verdict)
        return self.end(job, verdict)

    @staticmethod
    async def _claim(job: Job, ledger_writer: LedgerWriter) -> EverlyticError | None:
        """Claim an order from the ledger; return why it may not be sent, None if it may."""
        try:
            if await ledger_writer.claim(job.key, job.digest):
                job.possible_deliveries = 1
                job.known = UnknownOutcomeError("it may have been processed before")
        except SkippedError as skipped:
            return skipped
        except LedgerError as error:
            return NotSentError(f"the order was not sent: {error}")
        job.claimed = True
        return None

    def end(self, job: Job, verdict: Receipt | EverlyticError) -> OrderResult:
        """The result of an order, of which the hooks are notified."""
        now = self.pacer.clock()
        result = job.make_result(verdict, now)
        if job.is_observed:
            self.dispatcher.emit(
                OrderEnded(
                    at=now,
                    key=job.event_key,
                    outcome=result.outcome,
                    attempts=result.attempts,
                    elapsed_s=result.elapsed_s,
                    duplicate_risk=result.duplicate_risk,
                    error=result.error,
                )
            )
        return result

    async def _retry(
        self, job: Job, stop_token: StopToken, first: EverlyticError
    ) -> Receipt | EverlyticError:
        """Attempt again until the order is accepted, or may not be attempted again."""
        until = job.started_at + self.pacer.policy.deadline_s
        job.wait_until = until if job.wait_until is None else min(until, job.wait_until)
        control = retrying(
            delivery=self.delivery,
            pacer=self.pacer,
            stop_token=stop_token,
            deadline=job.wait_until,
            on_backoff=lambda error, wait_s: self._emit(
                job, BackingOff, self.pacer.clock(), wait_s=wait_s, error=error
            ),
        )
        verdict: Receipt | EverlyticError = first
        try:
            async for attempt in control:
                with attempt:
                    if attempt.retry_state.attempt_number > 1:
                        verdict = await self._attempt(job, stop_token)
                    if isinstance(verdict, EverlyticError):
                        raise verdict
        except DeadlineExceededError:
            pass  # the deadline came before its turn: the last attempt's verdict stands
        except EverlyticError as error:
            verdict = with_cap_note(error.with_traceback(None), self.pacer.policy)
        return verdict

    async def _attempt(self, job: Job, stop_token: StopToken) -> Receipt | EverlyticError:
        pacer = self.pacer
        started_at = await pacer.acquire(stop_token, job.wait_until, is_retry=job.attempts > 0)
        if job.attempts == 0:
            job.started_at = started_at
        job.attempts += 1
        job.in_attempt = True
        verdict: Receipt | EverlyticError | None = None
        try:
            if job.is_observed:
                self._emit(job, AttemptStarted, started_at, in_flight=pacer.in_flight)
            verdict, sent_at = await self._post(job, stop_token)
            job.note(verdict)  # first of all: it is what is known, whatever is raised now
            # Before the slot is released, so that the next sender sees the new state.
            self._update_pacer(verdict, started_at, sent_at)
        finally:
            pacer.release()
            if job.is_observed:
                self._emit_attempt_ended(job, verdict, started_at)
        return verdict

    async def _post(
        self, job: Job, stop_token: StopToken
    ) -> tuple[Receipt | EverlyticError, float | None]:
        """Make one POST: what it says, and when its body was sent, where that is known."""
        try:
            response = await self.transport.post(job.body, job.mark_cancelled)
        except ConfigurationError:
            raise  # used in another process or event loop: it is not the order's error
        except EverlyticError as error:
            if self.transport.session_closed:
                stop_token.stop(SESSION_CLOSED)  # no further order can be sent
            return error.with_traceback(None), None  # frames would refer to the order, and back
        verdict = parse_response(
            response,
            attempts=job.attempts,
            elapsed_s=self.pacer.clock() - job.started_at,
            redact=job.contact,
        )
        return verdict, response.sent_at

    def _update_pacer(
        self, verdict: Receipt | EverlyticError, started_at: float, sent_at: float | None
    ) -> None:
        if isinstance(verdict, Receipt):
            self.pacer.on_accepted(started_at, sent_at)
        elif isinstance(verdict, ThrottledError):
            self.pacer.on_throttled(started_at, verdict, sent_at)
        elif isinstance(verdict, RejectedError):
            self.pacer.on_answered(started_at)
        elif not self.transport.session_closed:  # else it says nothing about the endpoint
            self.pacer.on_failed(started_at, verdict)

    # --------------------------------------------------------------------------------- events

    def _emit(
        self,
        job: Job,
        event_type: type[AttemptStarted | AttemptEnded | BackingOff],
        at: float,
        **fields: Any,
    ) -> None:
        if job.is_observed:
            event: Any = event_type
            self.dispatcher.emit(event(at=at, key=job.event_key, attempt=job.attempts, **fields))

    def _emit_attempt_ended(
        self, job: Job, verdict: Receipt | EverlyticError | None, started_at: float
    ) -> None:
        if verdict is None:
            verdict = job.verdict_if_abandoned(_CANCELLED)
        now = self.pacer.clock()
        self._emit(
            job,
            AttemptEnded,
            now,
            outcome=outcome_for(verdict),
            status=getattr(verdict, "status", None),
            error=None if isinstance(verdict, Receipt) else verdict,
            elapsed_s=now - started_at,
        )


@attrs.define(eq=False, repr=False)
class Job:
    """One order on its way: what it is, and what is known of its attempts so far."""

    index: int
    raw: AnyOrder
    received_at: float
    #: What is posted; empty if it is invalid.
    body: bytes
    #: Its idempotency key; empty if it is invalid and has none.
    key: str
    #: What identifies the customer: no message repeats it.
    contact: tuple[str | None, str | None] = (None, None)
    #: About how many bytes the order takes.
    memory_size: int = 0
    #: Why it can't be sent.
    invalid: InvalidOrderError | None = None
    #: Whether somebody wants its events.
    is_observed: bool = False
    #: How they name the order.
    event_key: str | None = None
    #: Whether it was claimed from a ledger, which then has to record its outcome.
    claimed: bool = False
    #: When to stop waiting for its turn, by the clock; None if nothing bounds that yet.
    wait_until: float | None = None
    attempts: int = 0
    #: When the first attempt started: the retry deadline counts from then.
    started_at: float = 0.0
    #: Whether an attempt is under way at present.
    in_attempt: bool = False
    #: How the last of the attempts ended that were, or may have been, processed.
    known: Receipt | UnknownOutcomeError | None = None
    #: How the last of all other attempts failed.
    last_failure: EverlyticError | None = None
    #: How many attempts were, or may have been, processed.
    possible_deliveries: int = 0
    #: A fault of the program that ended the sending.
    unforeseen: Exception | None = None
    _digest: str = ""

    @property
    def digest(self) -> str:
        """A digest of the body, for a ledger; empty if there is none."""
        # Not a cached_property: with slots it would make every attribute slower.
        if self.body and not self._digest:
            self._digest = body_digest(self.body)
        return self._digest

    @property
    def is_recorded(self) -> bool:
        """Whether its outcome belongs in the ledger, if there is one."""
        return self.claimed or self.invalid is not None

    @property
    def refusal(self) -> RejectedError | None:
        """How the endpoint refused it, if it did."""
        return self.last_failure if isinstance(self.last_failure, RejectedError) else None

    def mark_cancelled(self, body_sent: bool) -> None:
        """Note that the attempt was cancelled, and whether its whole body may have been sent."""
        self.in_attempt = False
        if body_sent:
            self.possible_deliveries += 1
            self.known = UnknownOutcomeError(
                "the order was sent, but it was cancelled, or its deadline passed, before the "
                "response came: it may have been processed"
            )

    def note(self, verdict: Receipt | EverlyticError) -> None:
        """Note how an attempt ended."""
        self.in_attempt = False
        if isinstance(verdict, Receipt | UnknownOutcomeError):
            self.possible_deliveries += 1
            self.known = verdict
        else:
            self.last_failure = verdict

    def make_result(self, verdict: Receipt | EverlyticError, now: float) -> OrderResult:
        """The order's result, if nothing more is done for it."""
        if isinstance(verdict, Receipt):
            outcome, receipt, error = Outcome.SENT, verdict, None
        else:
            outcome, receipt, error = outcome_for(verdict), None, verdict
            error.attempts = self.attempts
        return OrderResult(
            self.index,
            self.key or None,
            self.raw,
            outcome,
            receipt,
            error,
            self.attempts,
            now - self.received_at,
            self.possible_deliveries > 1,
        )

    def verdict_if_abandoned(self, reason: str) -> Receipt | EverlyticError:
        """What is known of the order if nothing more is done for it.

        Args:
            reason: Why nothing more is done: "the process was left".
        """
        if self.known is not None:
            return self.known
        if self.in_attempt:
            return UnknownOutcomeError(
                f"{reason} while the order was under way: it may have been processed"
            )
        last = self.last_failure
        if isinstance(last, ThrottledError):
            return ThrottledError(f"{reason}. The last: {last}", last.status, last.retry_after_s)
        why = reason if last is None else f"{reason}. The last: {last}"
        return NotSentError(f"the order was not sent: {why}")


def _make_job(index: int, raw: AnyOrder, key_of: KeyOf | str | None, received_at: float) -> Job:
    """Validate and encode one order, and work out its key."""
    wire: dict[str, Any] | InvalidOrderError
    body = b""
    try:
        wire = to_wire(raw)
        if not isinstance(wire, InvalidOrderError):
            body = encode_wire(wire)
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - a caller's mapping
        wire = _raised("order: reading it", error)
    key: str | None = None
    try:
        if key_of is not None:
            key = custom_key(key_of, raw)
        elif not isinstance(wire, InvalidOrderError):
            key = make_key(wire.get("order_id"), wire.get("workflow_id"), body)
        else:
            key = wire.order_id
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - a caller's function
        if not isinstance(wire, InvalidOrderError):  # else it lacks something
            wire = (
                error
                if isinstance(error, InvalidOrderError)
                else _raised("key: the given function", error, get_order_id(raw))
            )
            key = wire.order_id
    if isinstance(wire, InvalidOrderError):
        wire.__traceback__ = None  # its frames hold the order
        return Job(index, raw, received_at, b"", key or "", invalid=wire)
    contact = wire.get("contact_email"), wire.get("contact_unique_id")
    memory_size = _JSON_FACTOR * len(body) + _PRODUCT_BYTES * len(wire["products"])
    return Job(index, raw, received_at, body, key or "", contact, memory_size)


def _raised(what: str, error: BaseException, order_id: str | None = None) -> InvalidOrderError:
    """Why an order is invalid: some code of the caller's raised an error."""
    fault = InvalidOrderError([f"{what} raised {type(error).__name__}"], order_id=order_id)
    fault.__cause__ = error
    return fault


async def _record(ledger_writer: LedgerWriter, job: Job, result: OrderResult) -> None:
    recorded = asyncio.Event()
    ledger_writer.record(result, job.digest, lambda _result: recorded.set())
    await recorded.wait()
    if ledger_writer.failure is not None:
        # The order has its outcome. To the next call it is "in flight", so that it is not sent
        # twice.
        _LOGGER.warning("the outcome of an order was not recorded: %s", ledger_writer.failure)


def _record_cancelled(ledger_writer: LedgerWriter | None, job: Job) -> None:
    if ledger_writer is not None:
        state = State(outcome_for(job.verdict_if_abandoned(_CANCELLED)))
        ledger_writer.record_cancelled(job.key, job.digest, state, job.attempts)


def _hash_key(key: str) -> str | None:
    """A caller's own key as events show it: it may be anything, a customer's address too."""
    if not key:
        return None
    return f"sha256:{hashlib.sha256(str(key).encode('utf-8', 'replace')).hexdigest()[:12]}"


def _combine(
    earlier: UnknownOutcomeError, last: Receipt | EverlyticError
) -> Receipt | EverlyticError:
    """What all attempts together say: a later failure doesn't undo an earlier "may have been"."""
    if isinstance(last, Receipt | UnknownOutcomeError):
        return last
    return type(earlier)(f"{earlier.message}; a later attempt: {last.message}", earlier.status)
