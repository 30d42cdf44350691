"""One order, start to end: prepare, claim, wait for its turn, POST, judge, retry where safe."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable
from typing import Any

import attrs

from everlytic_async._job import AnyOrder, Job, KeyOf, combine, order_ended, outcome_for, prepare
from everlytic_async._pacer import DeadlineExceededError, Pacer
from everlytic_async._request import SESSION_CLOSED
from everlytic_async._response import parse_response
from everlytic_async._retry import may_retry, retrying, with_cap_note
from everlytic_async._transport import Transport
from everlytic_async._waiting import StoppedError, StopToken, deadline
from everlytic_async.errors import (
    ConfigurationError,
    EverlyticError,
    LedgerError,
    NotSentError,
    RejectedError,
    ServerError,
    SkippedError,
    ThrottledError,
    UnknownOutcomeError,
)
from everlytic_async.events import (
    AttemptStarted,
    BackingOff,
    Dispatcher,
)
from everlytic_async.ledger import State
from everlytic_async.ledger.claims import LedgerWriter, body_digest
from everlytic_async.outcomes import OrderResult, Receipt
from everlytic_async.policies import Delivery, RetryPolicy

_LOGGER = logging.getLogger("everlytic_async")

_AttemptEvent = type[AttemptStarted] | type[BackingOff]


@attrs.frozen(eq=False)
class Sender:
    """Delivers one order at a time over shared parts; any number of its calls run concurrently."""

    transport: Transport
    pacer: Pacer
    delivery: Delivery
    retry: RetryPolicy
    dispatcher: Dispatcher
    clock: Callable[[], float] = time.monotonic

    async def send(
        self,
        raw: AnyOrder,
        stop_token: StopToken,
        *,
        key_of: KeyOf | None = None,
        ledger_writer: LedgerWriter | None = None,
        deadline_s: float | None = None,
    ) -> Receipt:
        """Deliver one order, and record its outcome if there is a ledger.

        Args:
            raw: The order.
            stop_token: Ends the waiting.
            key_of: Names the order.
            ledger_writer: The ledger.
            deadline_s: Seconds for the whole call; None to bound only the waiting, by the policy.

        Raises:
            EverlyticError: its class is the verdict.
        """
        job = self.prepare(0, raw, key_of)
        del raw  # so that this frame doesn't show it
        result = job if isinstance(job, OrderResult) else None
        wait_until = self.clock() + (deadline_s or self.retry.deadline_s)
        try:
            async with deadline(deadline_s) as scope:
                if isinstance(job, Job):
                    result = await self.deliver(job, stop_token, ledger_writer, wait_until)
                if ledger_writer is not None and result is not None:
                    await self._record(ledger_writer, job, result)
        except TimeoutError:
            if not scope.expired():
                raise
        if result is None:
            assert isinstance(job, Job)  # noqa: S101 - else there is a result
            reason = f"its deadline of {deadline_s:g} s passed"
            result = job.make_result(job.abandoned_error(reason), self.clock())
        if result.receipt is not None:
            return result.receipt
        assert result.error is not None  # noqa: S101 - what is not sent says why
        try:
            raise result.error
        finally:
            del result, job  # this frame would refer to the error, and it to this frame: a cycle

    @staticmethod
    async def _record(
        ledger_writer: LedgerWriter, job: Job | OrderResult, result: OrderResult
    ) -> None:
        if isinstance(job, Job) and not job.claimed:
            return
        recorded = asyncio.Event()
        digest = job.digest if isinstance(job, Job) else ""
        ledger_writer.record(result, digest, lambda _result: recorded.set())
        await recorded.wait()
        if ledger_writer.failure is not None:
            # The order has its outcome. To the next call it is "in flight", so that it is not sent
            # twice.
            _LOGGER.warning("the outcome of an order was not recorded: %s", ledger_writer.failure)

    def prepare(self, index: int, raw: AnyOrder, key_of: KeyOf | None) -> Job | OrderResult:
        """Validate and encode one order; the result of one that is invalid."""
        received_at = self.clock()
        job = prepare(index, raw, key_of)
        if isinstance(job, Job):
            job.received_at = received_at
        if self.dispatcher.has_listeners:
            event_key = job.key if key_of is None else _hash_key(job.key)
            if isinstance(job, Job):
                job.event_key = event_key
            else:
                self.dispatcher.emit(order_ended(job, event_key, self.clock()))
        return job

    async def deliver(
        self,
        job: Job,
        stop_token: StopToken,
        ledger_writer: LedgerWriter | None = None,
        wait_until: float | None = None,
    ) -> OrderResult:
        """Deliver an order that was prepared, and return its result.

        Args:
            job: The order.
            stop_token: Ends the waiting.
            ledger_writer: The ledger: an order that it does not let us claim is not sent. The
                caller records the outcome.
            wait_until: When to stop waiting for a turn, by the clock.
        """
        if ledger_writer is not None:
            job.digest = job.digest or body_digest(job.body)
            try:
                if await ledger_writer.claim(job.key, job.digest):
                    job.possible_deliveries = 1
                    job.last_unknown = UnknownOutcomeError("it may have been processed before")
            except SkippedError as skipped:
                return self.end(job, skipped)
            except LedgerError as error:
                return self.end(job, NotSentError(f"the order was not sent: {error}"))
            job.claimed = True
        verdict: Receipt | EverlyticError
        try:
            verdict = await self._send(job, stop_token, wait_until)
        except ConfigurationError:
            raise  # in a forked copy: the order and the ledger are the other process's
        except Exception as error:  # noqa: BLE001 - what is not foreseen gets the careful verdict
            verdict = job.abandoned_error(
                f"an error that was not foreseen ({type(error).__name__})"
            )
            verdict.__cause__ = job.unforeseen = error
        except BaseException:
            known = job.abandoned_error("its sending was cancelled")
            if ledger_writer is not None:
                state = State(outcome_for(known))
                ledger_writer.record_cancelled(job.key, job.digest, state, job.attempts)
            self.end(job, known)
            raise
        return self.end(job, verdict)

    def end(self, job: Job, verdict: Receipt | EverlyticError) -> OrderResult:
        """The result of an order, of which the hooks are notified."""
        now = self.clock()
        result = job.make_result(verdict, now)
        if job.event_key is not None:
            self.dispatcher.emit(order_ended(result, job.event_key, now))
        return result

    async def _send(
        self, job: Job, stop_token: StopToken, wait_until: float | None
    ) -> Receipt | EverlyticError:
        """Attempt until the order is accepted, or may not be attempted again."""
        try:
            verdict = await self._attempt(job, stop_token, wait_until)
            if not isinstance(verdict, Receipt) and may_retry(verdict, self.delivery):
                verdict = await self._retry(job, stop_token, verdict, wait_until)
        except DeadlineExceededError:
            verdict = NotSentError("the order was not sent: its turn had not come by its deadline")
        except StoppedError as stopped:
            trouble, why = self.pacer.trouble, str(stopped)
            if trouble.gave_up is not None and stop_token.reason is None:
                why = trouble.describe(self.transport.host)
            verdict = NotSentError(f"the order was not sent: {why}")
        return verdict if job.last_unknown is None else combine(job.last_unknown, verdict)

    async def _retry(
        self, job: Job, stop_token: StopToken, first: EverlyticError, wait_until: float | None
    ) -> Receipt | EverlyticError:
        """The attempts after the first, which needs no tenacity if it is accepted."""
        until = job.started_at + self.retry.deadline_s
        if wait_until is not None:
            until = min(until, wait_until)
        control = retrying(
            policy=self.retry,
            delivery=self.delivery,
            pacer=self.pacer,
            stop_token=stop_token,
            deadline=until,
            clock=self.clock,
            on_backoff=lambda error, wait_s: self._emit(
                job, BackingOff, attempt=job.attempts, wait_s=wait_s, error=error
            ),
        )
        verdict: Receipt | EverlyticError = first
        try:
            async for attempt in control:
                with attempt:
                    if attempt.retry_state.attempt_number > 1:
                        verdict = await self._attempt(job, stop_token, until)
                    if isinstance(verdict, EverlyticError):
                        raise verdict
        except DeadlineExceededError:
            pass  # the deadline came before its turn: the last attempt's verdict stands
        except EverlyticError as error:
            verdict = with_cap_note(error.with_traceback(None), self.retry)
        return verdict

    async def _attempt(
        self, job: Job, stop_token: StopToken, wait_until: float | None = None
    ) -> Receipt | EverlyticError:
        pacer = self.pacer
        admitted_at = None if stop_token.reason is not None else pacer.try_acquire()
        if admitted_at is None:
            is_retry = job.attempts > 0
            admitted_at = await pacer.acquire(stop_token, wait_until, is_retry=is_retry)
        if job.attempts == 0:
            job.started_at = admitted_at
        job.attempts += 1
        job.in_attempt = True
        try:
            self._emit(
                job,
                AttemptStarted,
                at=admitted_at,
                attempt=job.attempts,
                in_flight=pacer.in_flight,
            )
            verdict, left_at = await self._post(job, stop_token)
            job.in_attempt = False
            # Before the slot is released, so that the next sender sees the new state.
            self._update_pacer(verdict, admitted_at, left_at)
        except BaseException:
            self._attempt_ended(job, job.abandoned_error("its sending was cancelled"), admitted_at)
            raise
        finally:
            pacer.release()
        job.note(verdict)
        self._attempt_ended(job, verdict, admitted_at)
        return verdict

    async def _post(
        self, job: Job, stop_token: StopToken
    ) -> tuple[Receipt | EverlyticError, float | None]:
        """Make one POST: what it says, and when its body was sent, where that is known."""
        try:
            answer = await self.transport.post(job.body, job.mark_cancelled)
        except ConfigurationError:
            raise  # used in another process or event loop: it is not the order's error
        except EverlyticError as error:
            if self.transport.session_closed:
                stop_token.stop(SESSION_CLOSED)  # no further order can be sent
            return error.with_traceback(None), None  # frames would refer to the order, and back
        verdict = parse_response(
            answer.status,
            answer.headers,
            answer.body,
            waited_s=answer.waited_s,
            stalled_s=answer.stalled_s,
            undecodable=answer.undecodable,
            attempts=job.attempts,
            elapsed_s=self.clock() - job.started_at,
            redact=(job.order.contact_email, job.order.contact_unique_id),
        )
        return verdict, answer.sent_at

    def _update_pacer(
        self, verdict: Receipt | EverlyticError, admitted_at: float, left_at: float | None
    ) -> None:
        if self.transport.session_closed:
            return  # it says nothing about the endpoint
        if isinstance(verdict, Receipt):
            self.pacer.on_accepted(admitted_at, left_at)
        elif isinstance(verdict, ThrottledError):
            self.pacer.on_throttled(admitted_at, verdict.status, verdict.retry_after_s, left_at)
        elif isinstance(verdict, RejectedError):
            self.pacer.on_rejected(admitted_at)
        else:
            self.pacer.on_failed(admitted_at, verdict)
            if isinstance(verdict, ServerError) and verdict.retry_after_s:
                pause_s = min(verdict.retry_after_s, self.retry.retry_after_cap_s)
                self.pacer.pause(pause_s, f"the endpoint answered {verdict.status}")

    # --------------------------------------------------------------------------------- events

    def _emit(self, job: Job, event_type: _AttemptEvent, **fields: Any) -> None:
        """Emit an event about an order, if anybody listens."""
        if job.event_key is not None:
            fields.setdefault("at", self.clock())
            self.dispatcher.emit(event_type(key=job.event_key, **fields))

    def _attempt_ended(
        self, job: Job, verdict: Receipt | EverlyticError, admitted_at: float
    ) -> None:
        if job.event_key is not None:
            self.dispatcher.emit(job.attempt_ended(verdict, admitted_at, self.clock()))


def _hash_key(key: str | None) -> str | None:
    """A caller's own key as events show it: it may be anything, a customer's address too."""
    if key is None:
        return None
    return f"sha256:{hashlib.sha256(str(key).encode('utf-8', 'replace')).hexdigest()[:12]}"
