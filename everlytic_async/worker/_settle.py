"""Settling orders: what the queue is asked to do with each, once its outcome is in the ledger.

=========================================  =====================================================
outcome                                    action
=========================================  =====================================================
SENT; SKIPPED because it was sent          ack: remove it from the queue
NOT_SENT; SKIPPED because it is in flight  nak: deliver it again, later each time
elsewhere; UNKNOWN with AT_LEAST_ONCE,
until its fifth delivery;
REJECTED before any order was accepted:
the account or the address may be wrong
INVALID; REJECTED; UNKNOWN; SKIPPED        dead letter; then ack
because the ledger says rejected or
unknown: the worker that recorded it may
have crashed before the dead letter
=========================================  =====================================================
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging

from everlytic_async._waiting import backoff_s
from everlytic_async.errors import QueueError, SkippedError
from everlytic_async.ledger import State
from everlytic_async.outcomes import OrderResult, Outcome
from everlytic_async.policies import Delivery
from everlytic_async.worker._pull import QueuedOrder

_LOGGER = logging.getLogger("everlytic_async.worker")

# With AT_LEAST_ONCE: each delivery of an order that always fails may notify its customer again.
_MAX_UNKNOWN_DELIVERIES = 5


class AckAction(enum.Enum):
    """What the queue is asked to do with an order."""

    #: Remove it.
    ACK = enum.auto()
    #: Deliver it again.
    NAK = enum.auto()
    #: Move it to the dead letters.
    DEAD_LETTER = enum.auto()


def action_for(
    result: OrderResult, delivery: Delivery, deliveries: int = 1
) -> tuple[AckAction, Outcome]:
    """The action for a result, and the outcome to report: the table of the module."""
    outcome, error = result.outcome, result.error
    if outcome is Outcome.SKIPPED:
        state = error.state if isinstance(error, SkippedError) else None
        if state == State.SENT:
            return AckAction.ACK, Outcome.SENT
        if state in (State.UNKNOWN, State.REJECTED):
            return AckAction.DEAD_LETTER, Outcome(str(state))
        return AckAction.NAK, Outcome.SKIPPED
    if outcome is Outcome.SENT:
        return AckAction.ACK, outcome
    if outcome is Outcome.NOT_SENT or getattr(error, "before_any_acceptance", False):
        return AckAction.NAK, Outcome.NOT_SENT
    may_repeat = delivery is Delivery.AT_LEAST_ONCE and deliveries < _MAX_UNKNOWN_DELIVERIES
    if outcome is Outcome.UNKNOWN and may_repeat:
        return AckAction.NAK, outcome
    return AckAction.DEAD_LETTER, outcome


class Settler:
    """The orders that a worker holds, until each is settled.

    Attributes:
        counts: How many orders had each outcome.
        settled: How many orders had each action.
        slot_freed: Is set when an order was settled.
    """

    def __init__(self, delivery: Delivery, *, retry_base_s: float, retry_cap_s: float) -> None:
        self.counts = dict.fromkeys(Outcome, 0)
        self.settled = dict.fromkeys(AckAction, 0)
        self.slot_freed = asyncio.Event()
        self._delivery = delivery
        self._retry_base_s = retry_base_s
        self._retry_cap_s = retry_cap_s
        # By identity of what the stream gets, which is alive as long as it is here.
        self._in_flight: dict[int, QueuedOrder] = {}
        self._dead_letter_tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._in_flight)

    def add(self, queued: QueuedOrder) -> None:
        """The worker took it."""
        self._in_flight[id(queued.item)] = queued

    def find(self, item: object) -> QueuedOrder:
        """The order that an item of the stream stands for."""
        return self._in_flight[id(item)]

    async def settle(self, result: OrderResult, *, stopping: bool) -> None:
        """Acknowledge an order whose outcome is recorded.

        While stopping, one to retry is given back at once, for another worker.
        """
        queued = self.find(result.order)
        action, outcome = action_for(result, self._delivery, queued.deliveries)
        self.counts[result.outcome] += 1
        delay_s = 0.0
        if not stopping:
            delay_s = backoff_s(queued.deliveries - 1, self._retry_base_s, self._retry_cap_s)
        if action is not AckAction.DEAD_LETTER:
            await self._remove(queued, action, delay_s)
            return
        # It may take a while; the next result does not wait for it.
        task = asyncio.create_task(self._dead_letter(queued, outcome, result, delay_s))
        self._dead_letter_tasks.add(task)
        task.add_done_callback(self._dead_letter_tasks.discard)

    async def send_heartbeats(self) -> None:
        """Keep all of them from being delivered to another worker."""
        for queued in tuple(self._in_flight.values()):
            with contextlib.suppress(QueueError):
                await queued.in_progress()

    async def nak_all(self, delay_s: float) -> None:
        """Put back what is left: not sent, or cancelled and recorded in the ledger."""
        for queued in tuple(self._in_flight.values()):
            await self._remove(queued, AckAction.NAK, delay_s)

    async def finish_dead_letters(self, timeout_s: float) -> None:
        """Wait until the dead letters are stored, no longer than this; what is left is put back."""
        tasks = tuple(self._dead_letter_tasks)
        if not tasks:
            return
        try:
            await asyncio.wait(tasks, timeout=timeout_s)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _dead_letter(
        self, queued: QueuedOrder, outcome: Outcome, result: OrderResult, delay_s: float
    ) -> None:
        try:
            await queued.to_dead_letter(str(result.error or ""), outcome, result.attempts)
        except QueueError as error:
            _LOGGER.warning("a dead letter could not be stored, the order comes again: %s", error)
            await self._remove(queued, AckAction.NAK, delay_s)
        else:
            _LOGGER.warning("order %d of the queue is a dead letter: %s", queued.sequence, outcome)
            await self._remove(queued, AckAction.DEAD_LETTER)

    async def _remove(self, queued: QueuedOrder, action: AckAction, delay_s: float = 0.0) -> None:
        """Acknowledge an order, or put it back, and forget it."""
        try:
            if action is AckAction.ACK:
                await queued.ack()
            elif action is AckAction.NAK:
                await queued.nak(delay_s)
            self.settled[action] += 1  # a dead letter was acknowledged once it was stored
        except QueueError as error:
            _LOGGER.warning(
                "an order will be delivered again, and skipped if it was sent: %s", error
            )
        finally:
            self._in_flight.pop(id(queued.item), None)
            self.slot_freed.set()
