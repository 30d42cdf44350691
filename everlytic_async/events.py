"""What happens to an order, as frozen events, and the dispatcher that passes them to hooks.

A hook is any callable that takes an event: a progress bar, metrics. It runs inside the sending
task, so it must be quick. If it raises, that is logged, and the sending goes on. Events of single
orders and attempts are only made if a hook, or the log at DEBUG, wants them.

The logger ``everlytic_async`` gets batches at INFO, cool-downs, outages and stops at WARNING, and
each attempt at DEBUG.

An event identifies an order by its key, and holds no other value of it.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import attrs

from everlytic_async.errors import ConfigurationError, EverlyticError, printable
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
    """Keeps order ids, workers' names and servers' texts from forging log lines."""

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
    """A POST starts.

    Attributes:
        key: The order's key; a digest of it, if it is the caller's own.
        attempt: Which attempt of the order it is, from 1.
        in_flight: How many POSTs are in flight, this one included.
    """

    key: str
    attempt: int
    in_flight: int


@attrs.frozen(kw_only=True)
class AttemptEnded(Event):
    """A POST ended. This is what it means by itself.

    Attributes:
        key: The order's key; a digest of it, if it is the caller's own.
        attempt: Which attempt of the order it was, from 1.
        outcome: The order's outcome if this attempt was the last.
        status: The HTTP status; None if there was no response.
        error: Why it is not SENT; None if it is.
        elapsed_s: How long the attempt took, in seconds.
    """

    key: str
    attempt: int
    outcome: Outcome
    status: int | None
    error: EverlyticError | None
    elapsed_s: float


@attrs.frozen(kw_only=True)
class BackingOff(Event):
    """An attempt failed, and the order is tried again after a pause.

    Attributes:
        key: The order's key; a digest of it, if it is the caller's own.
        attempt: The attempt that failed, from 1.
        wait_s: Seconds until the next attempt may start.
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
        key: The order's key, as above; None for an invalid order without one.
        outcome: What is known of the order.
        attempts: How many POSTs were started for it.
        elapsed_s: Seconds since it was read.
        duplicate_risk: Whether it may have been processed more than once.
        error: Why it is not SENT; None if it is.
    """

    key: str | None
    outcome: Outcome
    attempts: int
    elapsed_s: float
    duplicate_risk: bool
    error: EverlyticError | None


@attrs.frozen(kw_only=True)
class CoolDown(Event):
    """All sending of the client pauses.

    Attributes:
        wait_s: Seconds until the first order may be sent.
        status: The HTTP status that caused it; None if there was no response, or if
            `EverlyticClient.pause` was called.
        reason: Why, in words.
    """

    wait_s: float
    status: int | None
    reason: str


@attrs.frozen(kw_only=True)
class OutageEnded(Event):
    """The endpoint answers again.

    Attributes:
        lasted_s: Seconds since the first attempt that failed.
    """

    lasted_s: float


@attrs.frozen(kw_only=True)
class RateChanged(Event):
    """There is a new estimate of the endpoint's limit.

    Attributes:
        rate: The sending rate from now on, in orders per second; None if it is not limited.
        limit: The estimated limit, in orders per second; None if there is none.
    """

    rate: float | None
    limit: float | None


@attrs.frozen(kw_only=True)
class BatchStarted(Event):
    """A stream of orders was started."""


@attrs.frozen(kw_only=True)
class BatchEnded(Event):
    """A stream of orders has ended.

    Attributes:
        counts: How many orders had each outcome.
        elapsed_s: How long it took, in seconds.
        stopped: Why it ended before its input did; None if it did not.
        by_caller: Whether it was the caller who stopped it: nothing failed.
    """

    counts: Mapping[Outcome, int]
    elapsed_s: float
    stopped: str | None
    by_caller: bool = False


# These are made for every order or attempt, so only if a hook wants them.
_PER_ORDER = (AttemptStarted, AttemptEnded, BackingOff, OrderEnded)

Hook = Callable[[Event], None]


def as_hooks(on_event: Hook | Iterable[Hook] | None) -> tuple[Hook, ...]:
    """One hook, several, or none, as a tuple.

    Raises:
        TypeError: one of them is not callable, or is `async def`, which would never be awaited.
    """
    if on_event is None:
        return ()
    hooks: tuple[Any, ...] = (on_event,)
    if isinstance(on_event, Iterable) and not callable(on_event):
        hooks = tuple(on_event)
    if not all(callable(hook) for hook in hooks):
        raise TypeError("on_event must be a callable that takes an event, or several of them")
    if any(map(is_async_callable, hooks)):
        raise TypeError("on_event must be a plain function, not `async def`: let it start a task")
    return hooks


def is_async_callable(function: object) -> bool:
    """Whether calling it makes a coroutine, which somebody would have to await."""
    call = getattr(type(function), "__call__", None)  # noqa: B004 - of its class, not of the object
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


class Dispatcher:
    """Passes events to the hooks and to the log.

    Attributes:
        wants_orders: Whether a hook takes events of single attempts and orders. If not, and if the
            log is not at DEBUG, nobody makes them.

    Raises:
        ConfigurationError: as `as_hooks` raises TypeError.
    """

    __slots__ = ("_hooks", "wants_orders")

    def __init__(self, on_event: Hook | Iterable[Hook] | None = None) -> None:
        try:
            hooks = as_hooks(on_event)
        except TypeError as error:
            raise ConfigurationError(str(error)) from error
        self._set_hooks(tuple((hook, Event) for hook in hooks))

    def _set_hooks(self, hooks: tuple[tuple[Hook, type[Event]], ...]) -> None:
        self._hooks = hooks  # each with the class of events that it gets
        self.wants_orders = any(
            issubclass(made, event_type) for _hook, event_type in hooks for made in _PER_ORDER
        )

    def subscribe(
        self, hook: Hook, event_type: type[Event] = Event
    ) -> AbstractContextManager[None]:
        """Call one more hook with events of this class while the context is open.

        Raises:
            TypeError: the hook can't be called or is `async def`, or `event_type` is not a class of
                events.
        """
        if not callable(hook):
            raise TypeError("hook must be a callable that takes an event")
        kind: object = event_type
        if not (isinstance(kind, type) and issubclass(kind, Event)):
            raise TypeError("event_type must be a class of everlytic_async.events")
        as_hooks(hook)
        return self._subscribe((hook, event_type))

    @contextmanager
    def _subscribe(self, subscription: tuple[Hook, type[Event]]) -> Iterator[None]:
        self._set_hooks((*self._hooks, subscription))
        try:
            yield
        finally:
            self._set_hooks(tuple(other for other in self._hooks if other is not subscription))

    def emit(self, event: Event) -> None:
        """Pass an event to the log and to every hook that takes its class."""
        # What a hook, or a handler of the log, raises must not affect the order.
        with suppress(Exception):
            _log(event)
        for hook, event_type in self._hooks:
            if isinstance(event, event_type):
                try:
                    hook(event)
                except Exception:
                    with suppress(Exception):
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
            _LOGGER.warning("the endpoint answers again after %.1f s", event.lasted_s)
        case RateChanged() if event.limit is not None:
            _LOGGER.info("the endpoint's limit is about %.1f orders a second", event.limit)
        case BatchStarted():
            _LOGGER.info("a batch started")
        case BatchEnded():
            counts = ", ".join(f"{count} {name}" for name, count in event.counts.items() if count)
            _LOGGER.info("a batch ended after %.1f s: %s", event.elapsed_s, counts or "no orders")
            if event.stopped is not None:
                level = logging.INFO if event.by_caller else logging.WARNING
                _LOGGER.log(level, "the batch ended early: %s", event.stopped)
        case _:
            pass
