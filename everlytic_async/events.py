"""What happens to an order, as frozen events, and the dispatcher that tells them to the hooks.

Progress bars, logs and metrics are listeners of this one stream. A hook is any callable that takes
an event; it runs inside the sending task, so it must be quick. One that raises is logged and hurts
nothing else. Without a hook no event is made.

The standard logger ``everlytic_async`` is a listener too: INFO for batches, WARNING for cool-downs,
outages and stops, DEBUG for each attempt.

Events name an order by its key, and hold no other value of it.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import attrs

from everlytic_async.errors import EverlyticError, printable
from everlytic_async.outcomes import Outcome

__all__ = [
    "AttemptEnded",
    "AttemptStarted",
    "BackingOff",
    "BatchEnded",
    "BatchStarted",
    "CoolDown",
    "Event",
    "Hook",
    "OrderEnded",
    "OutageEnded",
    "RateChanged",
]

_LOGGER = logging.getLogger("everlytic_async")
# As the logging how-to asks of libraries: nothing is printed until an application configures it.
_LOGGER.addHandler(logging.NullHandler())


class _PrintableArguments(logging.Filter):
    """Lets no order id, worker's name or server's words forge a line of a log."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace control characters in what is logged."""
        if isinstance(record.args, Mapping):
            record.args = {name: _printable(value) for name, value in record.args.items()}
        elif record.args:
            record.args = tuple(map(_printable, record.args))
        return True


def _printable(value: object) -> object:
    return printable(str(value)) if isinstance(value, str | BaseException) else value


# A logger's filter sees only what is logged by its own name.
for _name in ("everlytic_async", "everlytic_async.worker"):
    logging.getLogger(_name).addFilter(_PrintableArguments())


@attrs.frozen(kw_only=True)
class Event:
    """Something that happened.

    Attributes:
        at: When, in seconds of the monotonic clock.
    """

    at: float


@attrs.frozen(kw_only=True)
class AttemptStarted(Event):
    """A POST begins.

    Attributes:
        key: What names the order.
        attempt: Which one of the order it is, from 1.
        in_flight: How many POSTs are in flight with it.
    """

    key: str
    attempt: int
    in_flight: int


@attrs.frozen(kw_only=True)
class AttemptEnded(Event):
    """A POST ended, and this is what it says by itself.

    Attributes:
        key: What names the order.
        attempt: Which one of the order it was, from 1.
        outcome: What the order's outcome would be, were it the last.
        status: The HTTP status, where there was an answer.
        error: Why it is not SENT; None where it is.
        elapsed_s: Seconds from its begin.
    """

    key: str
    attempt: int
    outcome: Outcome
    status: int | None
    error: EverlyticError | None
    elapsed_s: float


@attrs.frozen(kw_only=True)
class BackingOff(Event):
    """An order will be tried again after a pause.

    Attributes:
        key: What names the order.
        attempt: The attempt that failed, from 1.
        wait_s: Seconds until the next may begin.
        error: How the attempt failed.
    """

    key: str
    attempt: int
    wait_s: float
    error: EverlyticError


@attrs.frozen(kw_only=True)
class OrderEnded(Event):
    """An order has its result.

    Attributes:
        key: What names the order; None for an invalid one without a name.
        outcome: What is known of it.
        attempts: How many POSTs were begun for it.
        elapsed_s: Seconds from its reading.
        duplicate_risk: Whether it may have been processed more than once.
        error: Why it is not SENT; None where it is.
    """

    key: str | None
    outcome: Outcome
    attempts: int
    elapsed_s: float
    duplicate_risk: bool
    error: EverlyticError | None


@attrs.frozen(kw_only=True)
class CoolDown(Event):
    """Every sender of the client pauses.

    Attributes:
        wait_s: Seconds until the first may go on.
        status: The status that asked for it; None where the endpoint can't be reached at all, or
            the pause was asked for by `EverlyticClient.pause`.
        reason: Why, in words.
    """

    wait_s: float
    status: int | None
    reason: str


@attrs.frozen(kw_only=True)
class OutageEnded(Event):
    """The endpoint can be reached again.

    Attributes:
        lasted_s: Seconds from the first attempt that did not reach it.
    """

    lasted_s: float


@attrs.frozen(kw_only=True)
class RateChanged(Event):
    """The endpoint's limit was estimated anew.

    Attributes:
        rate: Orders per second that are sent from now on, before creeping up; None for no bound.
        limit: The estimate of the limit, where there is one.
    """

    rate: float | None
    limit: float | None


@attrs.frozen(kw_only=True)
class BatchStarted(Event):
    """A stream of orders begins."""


@attrs.frozen(kw_only=True)
class BatchEnded(Event):
    """A stream of orders has ended.

    Attributes:
        counts: How many orders had each outcome.
        elapsed_s: Seconds from its begin.
        stopped: Why it ended before its input did; None where it did not.
    """

    counts: Mapping[Outcome, int]
    elapsed_s: float
    stopped: str | None


# Made for every order or attempt, so only where a hook takes them.
_PER_ORDER = (AttemptStarted, AttemptEnded, BackingOff, OrderEnded)

Hook = Callable[[Event], None]


def as_hooks(given: Hook | Iterable[Hook] | None) -> tuple[Hook, ...]:
    """One hook, several, or none, as a tuple.

    Raises:
        TypeError: when something can't be called, or is `async def`: nobody would await it.
    """
    if given is None:
        return ()
    if not callable(given) and not isinstance(given, Iterable):
        raise TypeError("on_event must be a callable that takes an event, or several of them")
    hooks = (given,) if callable(given) else tuple(given)
    if not all(callable(hook) for hook in hooks):
        raise TypeError("on_event must be a callable that takes an event, or several of them")
    if any(
        inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(type(hook).__call__)
        for hook in hooks
    ):
        raise TypeError("on_event must be a plain function, not `async def`: let it start a task")
    return hooks


@attrs.frozen(eq=False)
class _Subscription:
    """A hook added later, and the class of events that are passed to it."""

    hook: Hook
    event_type: type[Event]


class Dispatcher:
    """Tells events to the hooks, and to the log."""

    __slots__ = ("_hooks", "_subscriptions")

    def __init__(self, hooks: tuple[Hook, ...] = ()) -> None:
        self._hooks = hooks
        self._subscriptions: tuple[_Subscription, ...] = ()

    @property
    def has_listeners(self) -> bool:
        """Whether anybody wants to hear of single attempts and orders: else make no such event."""
        if self._hooks or _LOGGER.isEnabledFor(logging.DEBUG):
            return True
        return bool(self._subscriptions) and any(
            issubclass(made, subscription.event_type)
            for subscription in self._subscriptions
            for made in _PER_ORDER
        )

    @contextmanager
    def subscribe(self, hook: Hook, event_type: type[Event] = Event) -> Iterator[None]:
        """Pass events of this class to one more hook while this is open."""
        (hook,) = as_hooks(hook)
        subscription = _Subscription(hook, event_type)
        self._subscriptions = (*self._subscriptions, subscription)
        try:
            yield
        finally:
            self._subscriptions = tuple(
                other for other in self._subscriptions if other is not subscription
            )

    def emit(self, event: Event) -> None:
        """Tell an event to the log and to every hook."""
        _log(event)
        hooks = self._hooks
        if self._subscriptions:
            hooks += tuple(
                subscription.hook
                for subscription in self._subscriptions
                if isinstance(event, subscription.event_type)
            )
        for hook in hooks:
            try:
                hook(event)
            except Exception:
                # The order goes its way whatever a listener does.
                _LOGGER.exception("a hook raised on %s", type(event).__name__)


def _log(event: Event) -> None:
    match event:
        case AttemptEnded():
            _LOGGER.debug(
                "order %s, attempt %d: %s, status %s, after %.3f s%s",
                event.key,
                event.attempt,
                event.outcome,
                event.status,
                event.elapsed_s,
                f": {event.error}" if event.error is not None else "",
            )
        case BackingOff():
            _LOGGER.debug(
                "order %s, attempt %d failed: next in %.3f s",
                event.key,
                event.attempt,
                event.wait_s,
            )
        case CoolDown():
            _LOGGER.warning("all sending pauses for %.3f s: %s", event.wait_s, event.reason)
        case OutageEnded():
            _LOGGER.warning("the endpoint can be reached again after %.1f s", event.lasted_s)
        case RateChanged() if event.limit is not None:
            _LOGGER.info("the endpoint's limit is about %.1f orders a second", event.limit)
        case BatchStarted():
            _LOGGER.info("a batch begins")
        case BatchEnded():
            counts = ", ".join(f"{count} {name}" for name, count in event.counts.items() if count)
            _LOGGER.info("a batch ended after %.1f s: %s", event.elapsed_s, counts or "no orders")
            if event.stopped is not None:
                _LOGGER.warning("the batch ended early: %s", event.stopped)
        case _:
            pass
