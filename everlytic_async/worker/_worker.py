"""`Worker`: takes orders from a queue as it has free slots for them, and settles each.

=========================================  =====================================================
what became of it                          what the queue is told, once it is in the ledger
=========================================  =====================================================
SENT; SKIPPED, for it was sent             ack: forget it
NOT_SENT; SKIPPED, for another has it;     nak: deliver it again, later each time
UNKNOWN with AT_LEAST_ONCE;
REJECTED before any order was accepted:
the account or the address may be wrong
INVALID; REJECTED; UNKNOWN                 to the dead letters; then ack
SKIPPED, for it was rejected or is         the same: the worker that found it out may have died
unknown                                    before it could write the dead letter
=========================================  =====================================================

A worker that dies has acknowledged nothing that is not in the ledger: its orders come to another
after ``ack_wait_s``, to which the ledger tells what is known of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import math
import random
from collections.abc import AsyncIterator, Coroutine, Mapping
from types import MappingProxyType
from typing import Any

import attrs

from everlytic_async._book import terms_of
from everlytic_async._wire import encode, order_key
from everlytic_async.batch import OrderStream
from everlytic_async.client import EverlyticClient
from everlytic_async.errors import (
    AuthenticationError,
    BatchStoppedError,
    ConfigurationError,
    EverlyticError,
    InvalidOrderError,
    LedgerError,
    QueueError,
    SkippedError,
    SourceError,
    redact_emails,
)
from everlytic_async.ledger import Ledger, State, stored_key
from everlytic_async.orders import Order
from everlytic_async.outcomes import OrderResult, Outcome
from everlytic_async.policies import Delivery
from everlytic_async.worker._ledger import Name, NamedLedger
from everlytic_async.worker._pace import SharedPace
from everlytic_async.worker._presence import Presence
from everlytic_async.worker._pull import QueuedOrder
from everlytic_async.worker._queue import OrderQueue

__all__ = ["Worker", "WorkerStatus"]

_LOGGER = logging.getLogger("everlytic_async.worker")
# How long one pull waits for an order, in seconds; it can be broken off at any time.
_WAIT_S = 5.0
# An order that is in hand is spoken of so many times within the queue's ack_wait_s.
_KEEP_ALIVES = 3
# How often to look whether the connection to NATS was closed for good, in seconds.
_LOOK_S = 0.5
# Between two streams, when one ended early, in seconds: from the one to the other, doubling.
_PAUSE_BASE_S = 0.5
_PAUSE_CAP_S = 300.0
_MAX_DOUBLINGS = 16


class Deed(enum.Enum):
    """What the queue is told of an order."""

    #: Forget it.
    ACK = enum.auto()
    #: Deliver it again.
    NAK = enum.auto()
    #: It is a dead letter.
    DEAD = enum.auto()


def deed_of(result: OrderResult, delivery: Delivery) -> tuple[Deed, Outcome]:
    """What the queue is told of an order, and what is known of it: the table of the module."""
    outcome, error = result.outcome, result.error
    if outcome is Outcome.SKIPPED:
        state = error.state if isinstance(error, SkippedError) else None
        if state == State.SENT:
            return Deed.ACK, Outcome.SENT
        if state in (State.UNKNOWN, State.REJECTED):
            return Deed.DEAD, Outcome(str(state))
        return Deed.NAK, Outcome.SKIPPED
    if outcome is Outcome.SENT:
        return Deed.ACK, outcome
    if outcome is Outcome.NOT_SENT or getattr(error, "before_any_acceptance", False):
        return Deed.NAK, Outcome.NOT_SENT
    if outcome is Outcome.UNKNOWN and delivery is Delivery.AT_LEAST_ONCE:
        return Deed.NAK, outcome
    return Deed.DEAD, outcome


@attrs.frozen(kw_only=True)
class WorkerStatus:
    """A worker at a moment.

    Attributes:
        running: Whether it takes orders, or ends what it has taken.
        stopping: Whether it was asked to stop.
        connected: Whether NATS can be reached.
        problem: Why it does not send at present; None where it does.
        in_hand: Orders that it has taken and not settled.
        counts: How many orders had each outcome.
        acknowledged: Orders that the queue was told to forget.
        returned: Orders that were given back to the queue.
        dead: Orders that became dead letters.
    """

    running: bool
    stopping: bool
    connected: bool
    problem: str | None
    in_hand: int
    counts: Mapping[Outcome, int]
    acknowledged: int
    returned: int
    dead: int

    @property
    def ready(self) -> bool:
        """Whether it takes orders and can send them, as far as is known."""
        return self.running and not self.stopping and self.connected and self.problem is None


@attrs.frozen(eq=False)
class _Held:
    """An order in hand: what the queue knows of it, and what the ledger calls it."""

    queued: QueuedOrder
    name: Name | None

    @property
    def given(self) -> Order | InvalidOrderError:
        """What the stream is given."""
        given = self.queued.order or self.queued.error
        assert given is not None  # noqa: S101 - it is the one or the other
        return given


class Worker:
    """Sends the orders of one queue with one client, until it is told to stop.

    Any number of them may share a queue, in any processes on any machines. It never has more orders
    in hand than its client has slots. Client and queue are open before it runs and are closed after
    it by whoever opened them.

    Args:
        client: What sends. Its hashes are those of the queue's store, or it would notify one shop's
            customers of another's orders.
        queue: Where the orders come from.
        ledger: Where it is kept what became of every order: the same for all workers of the store.
            By default a `NatsLedger` on the queue's servers. A `SqliteLedger` will do for workers
            of one machine.
        grace_s: How long what is in flight may go on after `stop`, in seconds. What it takes to
            give back the rest, some seconds at most, comes on top.
        retry_base_s: How long the first delay of an order that was not sent is, in seconds; each
            further one is twice the one before.
        retry_cap_s: How long it is at most, in seconds.
        share_pace: Whether cool-downs are told to the store's other workers, and theirs are heard.
    """

    def __init__(
        self,
        client: EverlyticClient,
        queue: OrderQueue,
        ledger: Ledger | None = None,
        *,
        grace_s: float = 25.0,
        retry_base_s: float = 1.0,
        retry_cap_s: float = 300.0,
        share_pace: bool = True,
    ) -> None:
        figures = {"grace_s": grace_s, "retry_base_s": retry_base_s, "retry_cap_s": retry_cap_s}
        for name, value in figures.items():
            if not 0 < value < math.inf:
                raise ConfigurationError(
                    f"{name} must be a number of seconds above 0, got {value!r}"
                )
        self._client = client
        self._queue = queue
        self._given_ledger = ledger
        self._ledger: NamedLedger | None = None
        self._grace_s = grace_s
        self._retry_base_s = retry_base_s
        self._retry_cap_s = retry_cap_s
        self._share_pace = share_pace
        self._rng = random.Random()  # noqa: S311 - jitter is no secret
        self._running = False
        self._stopping = asyncio.Event()
        self._grace: asyncio.Timeout | None = None
        self._results: OrderStream | None = None
        # In hand, by identity of what the stream was given; that is alive as long as it is here.
        self._held: dict[int, _Held] = {}
        self._freed = asyncio.Event()
        self._burials: set[asyncio.Task[None]] = set()
        self._refusal: AuthenticationError | None = None
        self._problem: str | None = None
        self._troubles = 0  # streams in a row that ended early with nothing sent
        self._counts = dict.fromkeys(Outcome, 0)
        self._acknowledged = self._returned = self._dead = 0

    def __repr__(self) -> str:
        return f"<Worker of {self._queue.settings.store!r}, {len(self._held)} orders in hand>"

    @property
    def client(self) -> EverlyticClient:
        """What it sends by."""
        return self._client

    @property
    def queue(self) -> OrderQueue:
        """Where its orders come from."""
        return self._queue

    @property
    def status(self) -> WorkerStatus:
        """How it is at this moment."""
        return WorkerStatus(
            running=self._running,
            stopping=self._stopping.is_set(),
            connected=self._queue.connected,
            problem=self._problem or self._client.trouble,
            in_hand=len(self._held),
            counts=MappingProxyType(dict(self._counts)),
            acknowledged=self._acknowledged,
            returned=self._returned,
            dead=self._dead,
        )

    # ------------------------------------------------------------------------------- its life

    async def run(self) -> None:
        """Take orders and send them until `stop`.

        What keeps every order from being sent (the endpoint is away, the ledger can't be used) is
        waited for, longer each time; the orders go back to the queue meanwhile.

        Raises:
            AuthenticationError: the endpoint refuses the hashes. The orders are back in the queue.
            ConfigurationError: the client is not open.
            QueueError: the queue is not open, or NATS refuses its credentials for good. Orders that
                were not finished come back to the queue after ``ack_wait_s``.
            RuntimeError: it has run before.
        """
        if self._running or self._ledger is not None:
            raise RuntimeError("a worker runs once: make another one")
        ledger = self._given_ledger
        if ledger is None:
            from everlytic_async.ledger import NatsLedger  # noqa: PLC0415 - who brings one needs none

            ledger = NatsLedger(self._queue.connection, replicas=self._queue.settings.replicas)
        self._ledger = NamedLedger(ledger, terms_of(self._client.delivery, ()))
        self._running = True
        _LOGGER.info("the worker begins: %s", self._queue.settings.orders_subject)
        try:
            async with contextlib.AsyncExitStack() as stack:
                await stack.enter_async_context(self._sharing())
                await stack.enter_async_context(self._present())
                await stack.enter_async_context(_meanwhile(self._keep_alive()))
                await stack.enter_async_context(_meanwhile(self._stop_when_refused()))
                stack.push_async_callback(self._end)
                while not self._stopping.is_set():
                    error = await self._stream(self._ledger)
                    if self._refusal is not None:
                        raise self._refusal
                    if error is not None:
                        await self._pause(error)
            if (reason := self._queue.closed_reason) is not None:
                raise QueueError(f"the connection to NATS was closed: {reason}")
        finally:
            self._running = False
            _LOGGER.info("the worker has ended: %d orders sent", self._counts[Outcome.SENT])

    def stop(self) -> None:
        """Take no more orders, end those in flight within the grace, and give back the rest.

        It returns at once; `run` returns when it is done. May be called from a signal handler of
        the event loop. Called again it does nothing: to break off, cancel `run`.
        """
        if self._stopping.is_set():
            return
        _LOGGER.info("the worker is stopping: %d orders in hand", len(self._held))
        self._stopping.set()
        self._drain()

    def _drain(self) -> None:
        """Let the present stream end, within the grace."""
        if self._results is not None:
            self._results.stop("the worker was stopped")
        if self._grace is not None:
            self._grace.reschedule(asyncio.get_running_loop().time() + self._grace_s)

    @contextlib.asynccontextmanager
    async def _sharing(self) -> AsyncIterator[None]:
        if not self._share_pace:
            yield
            return
        subject = self._queue.settings.pace_subject
        async with SharedPace(self._client, self._queue.connection, subject):
            yield

    def _present(self) -> Presence:
        subject = self._queue.settings.workers_subject
        return Presence(self._queue.connection, subject, self._figures)

    def _figures(self) -> dict[str, Any]:
        """What is told to who asks for the workers."""
        return {
            "in_hand": len(self._held),
            "sent": self._counts[Outcome.SENT],
            "stopping": self._stopping.is_set(),
            "problem": self._problem or self._client.trouble,
        }

    async def _keep_alive(self) -> None:
        """Tell the queue of all that is in hand, so that it is not given to another worker."""
        while True:
            await asyncio.sleep(self._queue.settings.ack_wait_s / _KEEP_ALIVES)
            if not self._queue.connected:
                continue  # it would be told too late: they are claimed in the ledger anyway
            for held in tuple(self._held.values()):
                with contextlib.suppress(QueueError):
                    await held.queued.in_progress()

    async def _stop_when_refused(self) -> None:
        """Stop once the connection is closed for good: nobody would notice that nothing comes."""
        while self._queue.closed_reason is None:  # noqa: ASYNC110 - a caller's connection tells nobody
            await asyncio.sleep(_LOOK_S)
        self.stop()

    async def _end(self) -> None:
        """Leave nothing in hand."""
        await self._give_back(0.0)
        await self._release()

    async def _release(self) -> None:
        try:
            await self._queue.release()
        except QueueError as error:
            _LOGGER.warning("orders come back to the queue by themselves: %s", error)

    # ----------------------------------------------------------------------------- one stream

    async def _stream(self, ledger: NamedLedger) -> EverlyticError | None:
        """Send until told to stop, or until there is no use in going on: why."""
        problem: EverlyticError | None = None
        sent = self._counts[Outcome.SENT]
        try:
            stream = self._client.stream_orders(
                self._orders(ledger), ledger=ledger, key=self._key_of
            )
            async with stream as self._results:
                self._problem = None
                await self._settle_all(self._results)
        except (BatchStoppedError, LedgerError, SourceError) as error:
            problem = error
            if isinstance(error, SourceError) and not isinstance(error.__cause__, EverlyticError):
                raise  # a fault of this program, not of the world
        finally:
            self._results = None
            await self._end_burials()
            delay_s = 0.0 if self._stopping.is_set() else self._retry_base_s
            await self._give_back(delay_s)
            await self._release()
        self._troubles = 0 if self._counts[Outcome.SENT] > sent else self._troubles
        return None if self._stopping.is_set() else problem

    async def _settle_all(self, results: OrderStream) -> None:
        try:
            async with asyncio.timeout(None) as self._grace:
                if self._stopping.is_set():
                    self._drain()
                async for result in results:
                    await self._settle(result)
        except TimeoutError:
            if self._grace is None or not self._grace.expired():
                raise
            _LOGGER.warning(
                "the grace of %g s is over: %d orders are broken off",
                self._grace_s,
                len(self._held),
            )
        finally:
            self._grace = None

    async def _pause(self, error: EverlyticError) -> None:
        """Wait before the next stream, longer each time, unless told to stop."""
        ceiling = min(_PAUSE_CAP_S, _PAUSE_BASE_S * 2.0 ** min(self._troubles, _MAX_DOUBLINGS))
        self._troubles += 1
        pause_s = ceiling * self._rng.uniform(0.5, 1.0)
        # What an endpoint said is in it, and that may name a customer.
        self._problem = redact_emails(str(error))
        _LOGGER.warning("no orders are taken for %.1f s: %s", pause_s, self._problem)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._stopping.wait()

    # ---------------------------------------------------------------------------- what comes in

    async def _orders(self, ledger: NamedLedger) -> AsyncIterator[Any]:
        """The orders as they are pulled, no more than there are free slots."""
        troubles = 0
        while not self._stopping.is_set():
            # In trouble one order at a time is enough to probe with.
            at_once = self._client.max_concurrency if self._client.trouble is None else 1
            free = at_once - len(self._held)
            if free <= 0:
                self._freed.clear()
                await self._freed.wait()
                continue
            try:
                pulled = await self._queue.pull(free, _WAIT_S)
            except QueueError as error:
                self._troubles += troubles == 0
                troubles += 1
                await self._pause(error)
                continue
            if pulled:
                self._problem, troubles = None, 0
            # All at once: what is not yielded any more is given back.
            for held in [self._hold(queued, ledger) for queued in pulled]:
                yield held.given

    def _hold(self, queued: QueuedOrder, ledger: NamedLedger) -> _Held:
        name = None
        if queued.order is not None:
            key = queued.key or stored_key(order_key(queued.order, encode(queued.order)))
            name = Name(key, None if queued.redelivered else queued.resend)
            ledger.add(name)
        held = _Held(queued, name)
        self._held[id(held.given)] = held
        return held

    def _key_of(self, given: Any) -> str:
        name = self._held[id(given)].name
        if name is None:
            raise LookupError("what is no order has no name")
        return name.key

    def _let_go(self, held: _Held) -> None:
        self._held.pop(id(held.given), None)
        if held.name is not None and self._ledger is not None:
            self._ledger.remove(held.name)
        self._freed.set()

    # ----------------------------------------------------------------------- what becomes of it

    async def _settle(self, result: OrderResult) -> None:
        """Tell the queue what became of an order."""
        held = self._held[id(result.order)]
        deed, known = deed_of(result, self._client.delivery)
        self._counts[result.outcome] += 1
        if isinstance(result.error, AuthenticationError):
            self._refusal = result.error
        if deed is Deed.DEAD:
            # It may take a while; the next result need not wait for it.
            burial = asyncio.create_task(self._bury(held, known, result))
            self._burials.add(burial)
            burial.add_done_callback(self._burials.discard)
        elif deed is Deed.ACK:
            await self._ack(held)
        else:
            await self._nak(held, self._delay_s(held))

    async def _ack(self, held: _Held) -> None:
        try:
            await held.queued.ack()
            self._acknowledged += 1
        except QueueError as error:
            _LOGGER.warning("an order that was sent comes again, to be skipped: %s", error)
        finally:
            self._let_go(held)

    async def _nak(self, held: _Held, delay_s: float) -> None:
        try:
            await held.queued.nak(delay_s)
            self._returned += 1
        except QueueError as error:
            _LOGGER.warning("an order comes back to the queue by itself: %s", error)
        finally:
            self._let_go(held)

    async def _bury(self, held: _Held, known: Outcome, result: OrderResult) -> None:
        reason = str(result.error or "")
        try:
            await held.queued.dead(reason, known, result.attempts)
        except QueueError as error:
            _LOGGER.warning("an order is no dead letter yet, and comes again: %s", error)
            await self._nak(held, self._delay_s(held))
        else:
            self._dead += 1
            _LOGGER.warning(
                "order %d of the queue is a dead letter: %s", held.queued.sequence, known
            )
            self._let_go(held)

    def _delay_s(self, held: _Held) -> float:
        """How long an order that is given back waits: longer with each delivery, with jitter."""
        if self._stopping.is_set():
            return 0.0  # for another worker
        doublings = min(held.queued.deliveries - 1, _MAX_DOUBLINGS)
        ceiling = min(self._retry_cap_s, self._retry_base_s * 2.0**doublings)
        return ceiling * self._rng.uniform(0.5, 1.0)

    async def _end_burials(self) -> None:
        if not self._burials:
            return
        burials = tuple(self._burials)
        try:
            await asyncio.wait(burials, timeout=self._grace_s)
        finally:
            for burial in burials:
                burial.cancel()
            await asyncio.gather(*burials, return_exceptions=True)

    async def _give_back(self, delay_s: float) -> None:
        """Put back what is in hand: it was not begun, or it was broken off and the ledger knows."""
        for held in tuple(self._held.values()):
            await self._nak(held, delay_s)


@contextlib.asynccontextmanager
async def _meanwhile(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do something on the side, and end it."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
