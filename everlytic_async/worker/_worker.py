"""`Worker`: takes orders from a queue as it has free slots for them, sends and settles them.

A worker that crashes has acknowledged nothing that is not in the ledger: its orders come to another
after ``ack_wait_s``, and the ledger says what is known of them. See ``_settle`` for what becomes of
each order.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping
from types import MappingProxyType
from typing import Any

import attrs

from everlytic_async._waiting import backoff_s, cancel_until_done
from everlytic_async.batch import OrderStream
from everlytic_async.client import EverlyticClient
from everlytic_async.errors import (
    AuthenticationError,
    BatchStoppedError,
    ConfigurationError,
    EverlyticError,
    LedgerError,
    QueueError,
    redact_emails,
)
from everlytic_async.ledger import Ledger, NatsLedger
from everlytic_async.ledger.claims import QueueKey, ResendOverride
from everlytic_async.outcomes import Outcome
from everlytic_async.policies import check_seconds
from everlytic_async.worker._messages import ledger_key
from everlytic_async.worker._peers import answer_pings, share_cool_downs
from everlytic_async.worker._queue import OrderQueue
from everlytic_async.worker._settle import AckAction, Settler

__all__ = ["Worker", "WorkerStatus"]

_LOGGER = logging.getLogger("everlytic_async.worker")
# How long one pull waits for an order, in seconds; stopping cancels it.
_PULL_WAIT_S = 5.0
# Heartbeats for each order within the queue's ack_wait_s.
_HEARTBEATS = 3
_NEW_LEDGER = (
    "the ledger %r knows of no order that was sent to this address and store, although workers "
    "have dealt with orders of this queue before. If it is a new one in place of one that was "
    "lost or deleted: orders that come again, from the queue, from dead letters or from a "
    "publisher, may notify their customers twice"
)
# The pause after a stream that ended early, in seconds; it doubles.
_PAUSE_BASE_S = 0.5


@attrs.frozen(kw_only=True)
class WorkerStatus:
    """A worker at a moment.

    Attributes:
        running: Whether it takes orders, or finishes those that it has taken.
        stopping: Whether it was asked to stop.
        connected: Whether NATS can be reached.
        last_error: Why it does not send at present; None if it does.
        in_flight: Orders that it has taken and not settled.
        counts: How many orders had each outcome.
        acked: Orders that were removed from the queue.
        nacked: Orders that were given back to the queue.
        dead_lettered: Orders that became dead letters.
    """

    running: bool
    stopping: bool
    connected: bool
    last_error: str | None
    in_flight: int
    counts: Mapping[Outcome, int]
    acked: int
    nacked: int
    dead_lettered: int

    @property
    def ready(self) -> bool:
        """Whether it takes orders and can send them, as far as is known."""
        return self.running and not self.stopping and self.connected and self.last_error is None


class Worker:
    """Sends the orders of one queue with one client, until it is stopped.

    Any number of workers may share a queue, in any processes on any machines. It never holds more
    orders than its client has slots. Client and queue are opened before it runs and closed after
    it, by the caller.

    Args:
        client: What sends. Its hashes must be those of the queue's store, or it would notify one
            shop's customers of another's orders.
        queue: Where the orders come from.
        ledger: Where every order's outcome is recorded: the same for all workers of the store. By
            default a `NatsLedger` on the queue's servers. A `SqliteLedger` will do for workers of
            one machine.
        shutdown_timeout_s: How long orders in flight may take after `stop`, in seconds. Giving back
            the rest takes some seconds more at most.
        retry_base_s: The first delay of an order that was not sent, in seconds; it doubles with
            each delivery.
        retry_cap_s: The longest such delay.
        max_pause_s: The longest pause while no order can be sent, in seconds; pauses start at 0.5
            and double.
        share_cool_down: Whether the store's workers pause together.

    Attributes:
        client: What sends.
        queue: Where its orders come from.
    """

    def __init__(
        self,
        client: EverlyticClient,
        queue: OrderQueue,
        ledger: Ledger | None = None,
        *,
        shutdown_timeout_s: float = 25.0,
        retry_base_s: float = 1.0,
        retry_cap_s: float = 300.0,
        max_pause_s: float = 300.0,
        share_cool_down: bool = True,
    ) -> None:
        for name, value in {
            "shutdown_timeout_s": shutdown_timeout_s,
            "retry_base_s": retry_base_s,
            "retry_cap_s": retry_cap_s,
            "max_pause_s": max_pause_s,
        }.items():
            check_seconds(name, value)
        self.client = client
        self.queue = queue
        self._user_ledger = ledger
        self._shutdown_timeout_s = shutdown_timeout_s
        self._retry_base_s = retry_base_s
        self._max_pause_s = max_pause_s
        self._share_cool_down = share_cool_down
        self._held = Settler(client.delivery, retry_base_s=retry_base_s, retry_cap_s=retry_cap_s)
        self._has_run = self._running = False
        self._stopping = asyncio.Event()
        self._shutdown: asyncio.Timeout | None = None
        self._results: OrderStream | None = None
        self._last_error: str | None = None
        self._was_served = False  # by a worker before this one
        self._failures = 0  # pauses since an order was sent

    def __repr__(self) -> str:
        return f"<Worker of {self.queue.settings.store!r}, {len(self._held)} orders in flight>"

    @property
    def status(self) -> WorkerStatus:
        """Its state at this moment."""
        held = self._held
        return WorkerStatus(
            running=self._running,
            stopping=self._stopping.is_set(),
            connected=self.queue.connected,
            last_error=self._last_error or self.client.trouble,
            in_flight=len(held),
            counts=MappingProxyType(dict(held.counts)),
            acked=held.settled[AckAction.ACK],
            nacked=held.settled[AckAction.NAK],
            dead_lettered=held.settled[AckAction.DEAD_LETTER],
        )

    # ---------------------------------------------------------------------------- run and stop

    async def run(self) -> None:
        """Take orders and send them until `stop`.

        Whatever keeps all orders from being sent (the endpoint is down, the ledger can't be used)
        is waited for, longer each time; the orders go back to the queue meanwhile.

        Raises:
            AuthenticationError: the endpoint refuses the hashes. The orders are back in the queue.
            ConfigurationError: the client is not open, or the worker has run before.
            QueueError: the queue is not open, or NATS refuses its credentials for good. Unfinished
                orders come back to the queue after ``ack_wait_s``.
        """
        if self._has_run:
            raise ConfigurationError("a worker runs once: make another one")
        self._has_run = True
        settings, connection = self.queue.settings, self.queue.connection
        ledger = self._user_ledger or NatsLedger(connection, replicas=settings.replicas)
        with contextlib.suppress(QueueError):  # it is asked for orders next
            self._was_served = await self.queue.was_served()
        _LOGGER.info("the worker started: %s", settings.orders_subject)
        try:
            async with contextlib.AsyncExitStack() as stack:
                if self._share_cool_down:
                    sharing = share_cool_downs(self.client, connection, settings.cool_down_subject)
                    await stack.enter_async_context(sharing)
                answering = answer_pings(connection, settings.workers_subject, self._stats)
                await stack.enter_async_context(answering)
                await stack.enter_async_context(_in_background(self._send_heartbeats()))
                self._running = True
                while not self._stopping.is_set() and self.queue.closed_reason is None:
                    error = await self._run_stream(ledger)
                    if error is not None and self.queue.closed_reason is None:
                        await self._pause(error)
            if (reason := self.queue.closed_reason) is not None:
                raise QueueError(f"the connection to NATS was closed: {reason}")
        finally:
            self._running = False
            _LOGGER.info("the worker ended: %d orders sent", self._held.counts[Outcome.SENT])

    def stop(self) -> None:
        """Take no more orders, finish those in flight in time, and give back the rest.

        It returns at once; `run` returns when that is done. May be called from a signal handler of
        the event loop, and again without effect. To stop at once, cancel `run`.
        """
        if self._stopping.is_set():
            return
        _LOGGER.info("the worker is stopping: %d orders in flight", len(self._held))
        self._stopping.set()
        self._drain()

    def _drain(self) -> None:
        if self._results is not None:
            self._results.stop("the worker was stopped")
        if self._shutdown is not None:
            now = asyncio.get_running_loop().time()
            self._shutdown.reschedule(now + self._shutdown_timeout_s)

    def _stats(self) -> dict[str, Any]:
        status = self.status
        return {
            "in_flight": status.in_flight,
            "sent": status.counts[Outcome.SENT],
            "stopping": status.stopping,
            "last_error": status.last_error,
        }

    async def _send_heartbeats(self) -> None:
        while True:
            await asyncio.sleep(self.queue.settings.ack_wait_s / _HEARTBEATS)
            if self.queue.connected:  # else they are late; the orders are claimed in the ledger
                await self._held.send_heartbeats()

    # ----------------------------------------------------------------------------- one stream

    async def _run_stream(self, ledger: Ledger) -> EverlyticError | None:
        """Send until stopped, or until no order can be sent: the reason."""
        problem: EverlyticError | None = None
        try:
            async with self.client.stream_orders(
                self._orders(), ledger=ledger, key=self._key_for
            ) as self._results:
                self._last_error = None
                if self._was_served and not self._results.any_sent:
                    _LOGGER.warning(_NEW_LEDGER, ledger)
                self._was_served = False  # it is said once
                await self._handle_results(self._results)
        except (BatchStoppedError, LedgerError) as error:
            problem = error
        finally:
            self._results = None
            await self._clean_up()
        return None if self._stopping.is_set() else problem

    async def _clean_up(self) -> None:
        """Leave no order in flight."""
        try:
            await self._held.finish_dead_letters(self._shutdown_timeout_s)
        finally:
            await self._held.nak_all(0.0 if self._stopping.is_set() else self._retry_base_s)
            try:
                await self.queue.release()
            except QueueError as error:
                _LOGGER.warning("orders come back to the queue by themselves: %s", error)

    async def _handle_results(self, results: OrderStream) -> None:
        refused: AuthenticationError | None = None
        try:
            async with asyncio.timeout(None) as self._shutdown:
                if self._stopping.is_set():
                    self._drain()
                async for result in results:
                    await self._held.settle(result, stopping=self._stopping.is_set())
                    if result.outcome is Outcome.SENT:
                        self._failures = 0
                    if isinstance(result.error, AuthenticationError):
                        refused = result.error
        except TimeoutError:
            if self._shutdown is None or not self._shutdown.expired():
                raise
            _LOGGER.warning(
                "not finished within %g s: %d orders are cancelled",
                self._shutdown_timeout_s,
                len(self._held),
            )
        except BatchStoppedError as error:
            raise refused or error from None
        finally:
            self._shutdown = None
        if refused is not None:
            raise refused

    async def _pause(self, error: EverlyticError) -> None:
        """Wait, longer each time, or until stopped."""
        pause_s = backoff_s(self._failures, _PAUSE_BASE_S, self._max_pause_s)
        self._failures += 1
        self._last_error = redact_emails(str(error))  # it may quote the endpoint
        _LOGGER.warning("no orders are taken for %.1f s: %s", pause_s, self._last_error)
        if self.client.trouble is not None:
            self.client.pause(pause_s, reason="the worker waits for the endpoint")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._stopping.wait()

    async def _orders(self) -> AsyncIterator[Any]:
        """The orders as they are pulled, no more than there are free slots."""
        while not self._stopping.is_set():
            # While the endpoint is in trouble, one order at a time is enough to probe with.
            slots = self.client.max_concurrency if self.client.trouble is None else 1
            free = slots - len(self._held)
            if free <= 0:
                self._held.slot_freed.clear()
                await self._held.slot_freed.wait()
                continue
            try:
                pulled = await self.queue.pull(free, _PULL_WAIT_S)
            except QueueError as error:
                if self.queue.closed_reason is not None:
                    self.stop()
                    return
                await self._pause(error)
                continue
            if pulled:
                self._last_error = None
            for queued in pulled:  # all at once: what is not yielded any more is given back
                self._held.add(queued)
            for queued in pulled:
                yield queued.item

    def _key_for(self, item: Any) -> QueueKey:
        """The key of an order that it has taken, as the ledger keeps it."""
        queued = self._held.find(item)
        if queued.order is None:
            raise LookupError("an invalid order has no key")
        key = queued.key or ledger_key(queued.order)
        if queued.resend is None or queued.redelivered:
            # Only at the first delivery: after that, the worker that had it may have sent it.
            return QueueKey(key)
        return QueueKey(key, ResendOverride(*queued.resend))


@contextlib.asynccontextmanager
async def _in_background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        await cancel_until_done(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
