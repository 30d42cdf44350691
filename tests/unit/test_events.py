"""Events are frozen values; the dispatcher passes them to every hook and to the log."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from everlytic_async import Outcome, events
from everlytic_async.errors import BatchStoppedError, ThrottledError
from everlytic_async.events import (
    AttemptEnded,
    AttemptStarted,
    BackingOff,
    BatchEnded,
    BatchStarted,
    CoolDown,
    Dispatcher,
    Event,
    Hook,
    OrderEnded,
    OutageEnded,
    RateChanged,
    as_hooks,
)

DEBUG, INFO, WARNING = logging.DEBUG, logging.INFO, logging.WARNING
BUSY = ThrottledError("too busy (429)", 429, None)
STARTED = AttemptStarted(at=1.0, key="1001", attempt=1, in_flight=3)
ENDED = AttemptEnded(
    at=1.5, key="1001", attempt=1, outcome=Outcome.SENT, status=200, error=None, elapsed_s=0.5
)
ORDER_ENDED = OrderEnded(
    at=2.0,
    key="1001",
    outcome=Outcome.SENT,
    attempts=2,
    elapsed_s=1.0,
    duplicate_risk=False,
    error=None,
)
COUNTS = {**dict.fromkeys(Outcome, 0), Outcome.SENT: 7, Outcome.UNKNOWN: 1}
OVER = BatchEnded(at=5.0, counts=COUNTS, elapsed_s=5.0, stopped=None)
#: Events, and what is logged of each.
LOGGED: dict[str, tuple[Event, list[tuple[int, str]]]] = {
    "an attempt starts": (STARTED, []),
    "an attempt ends": (
        ENDED,
        [(DEBUG, "order 1001, attempt 1: sent, status 200, after 0.500 s")],
    ),
    "an attempt fails": (
        attrs.evolve(ENDED, outcome=Outcome.NOT_SENT, status=429, error=BUSY),
        [(DEBUG, "order 1001, attempt 1: not_sent, status 429, after 0.500 s: too busy (429)")],
    ),
    "a key with a per cent sign": (
        attrs.evolve(ENDED, key="100%s %d"),
        [(DEBUG, "order 100%s %d, attempt 1: sent, status 200, after 0.500 s")],
    ),
    "an order backs off": (
        BackingOff(at=1.5, key="1001", attempt=1, wait_s=0.25, error=BUSY),
        [(DEBUG, "order 1001, attempt 1 failed: next in 0.250 s")],
    ),
    "an order ends": (ORDER_ENDED, []),
    "a cool-down": (
        CoolDown(at=1.5, wait_s=30.0, status=429, reason="the endpoint answered 429"),
        [(WARNING, "all sending pauses for 30.000 s: the endpoint answered 429")],
    ),
    "an outage ends": (
        OutageEnded(at=9.0, lasted_s=7.5),
        [(WARNING, "the endpoint answers again after 7.5 s")],
    ),
    "a limit is found": (
        RateChanged(at=3.0, rate=98.5, limit=100.25),
        [(INFO, "the endpoint's limit is about 100.2 orders a second")],
    ),
    "a limit is searched": (RateChanged(at=3.0, rate=25.0, limit=None), []),
    "a batch starts": (BatchStarted(at=0.0), [(INFO, "a batch started")]),
    "a batch ends": (OVER, [(INFO, "a batch ended after 5.0 s: 7 sent, 1 unknown")]),
    "an empty batch ends": (
        attrs.evolve(OVER, counts=dict.fromkeys(Outcome, 0)),
        [(INFO, "a batch ended after 5.0 s: no orders")],
    ),
    "a batch is stopped": (
        attrs.evolve(OVER, stopped="the batch was stopped: 401"),
        [
            (INFO, "a batch ended after 5.0 s: 7 sent, 1 unknown"),
            (WARNING, "the batch ended early: the batch was stopped: 401"),
        ],
    ),
    "the caller stops a batch": (
        attrs.evolve(OVER, stopped="the shop closes", by_caller=True),
        [
            (INFO, "a batch ended after 5.0 s: 7 sent, 1 unknown"),
            (INFO, "the batch ended early: the shop closes"),
        ],
    ),
}
EVENTS = [event for event, _ in LOGGED.values()]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG, logger="everlytic_async"):
        yield caplog


def lines(log: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    assert {record.name for record in log.records} <= {"everlytic_async"}
    return [(record.levelno, record.getMessage()) for record in log.records]


def test_every_event_class_is_exported_frozen_and_has_keyword_only_fields() -> None:
    classes = {
        kind
        for _, kind in inspect.getmembers(events, inspect.isclass)
        if issubclass(kind, Event) and kind is not Event
    }
    assert {type(event) for event in EVENTS} == classes
    assert {kind.__name__ for kind in classes} <= set(events.__all__)
    for event in EVENTS:
        assert attrs.evolve(event) == event != attrs.evolve(event, at=99.0)
        for field in attrs.fields(type(event)):
            assert field.kw_only  # so that a field may be added without breaking a caller
            with pytest.raises(attrs.exceptions.FrozenInstanceError):
                setattr(event, field.name, None)
        with pytest.raises((AttributeError, TypeError)):
            event.more = 1  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------- hooks


def hook(_event: Event) -> None: ...


def other(_event: Event) -> None: ...


class CallableIterable:
    def __call__(self, event: Event) -> None: ...

    def __iter__(self) -> Iterator[Hook]:
        return iter([hook])


CALLABLE_ITERABLE = CallableIterable()


@pytest.mark.parametrize(
    ("value", "hooks"),
    [
        (None, ()),
        ([], ()),
        (print, (print,)),
        ([hook, other], (hook, other)),
        ((other, hook, other), (other, hook, other)),
        (iter([hook]), (hook,)),
        (CALLABLE_ITERABLE, (CALLABLE_ITERABLE,)),
    ],
    ids=["none", "no hooks", "one", "list", "tuple", "iterator", "callable iterable"],
)
def test_hooks_are_none_one_or_several(value: Any, hooks: tuple[Hook, ...]) -> None:
    assert as_hooks(value) == hooks


@pytest.mark.parametrize("value", ["log", 7, [hook, None], [[hook]], object()])
def test_a_hook_must_be_callable(value: Any) -> None:
    with pytest.raises(TypeError):
        as_hooks(value)


@pytest.mark.parametrize(
    "error", [ValueError("no"), AssertionError("no"), StopIteration(), BatchStoppedError("no")]
)
def test_a_hook_that_raises_is_logged_and_the_others_get_the_event(
    error: Exception, log: pytest.LogCaptureFixture
) -> None:
    received: list[str] = []

    def broken(_event: Event) -> None:
        raise error

    hooks = (lambda _: received.append("first"), broken, lambda _: received.append("then"))
    Dispatcher(hooks).emit(STARTED)

    assert received == ["first", "then"]
    assert lines(log) == [(logging.ERROR, "a hook raised on AttemptStarted")]
    (record,) = log.records
    assert record.exc_info is not None
    assert record.exc_info[1] is error


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_what_ends_a_task_or_the_program_is_not_caught(kind: type[BaseException]) -> None:
    def interrupted(_event: Event) -> None:
        raise kind

    with pytest.raises(kind):
        Dispatcher((interrupted,)).emit(STARTED)


# ----------------------------------------------------------------------------------------- the log


@pytest.mark.parametrize(("event", "expected"), LOGGED.values(), ids=list(LOGGED))
def test_events_are_logged_each_at_its_level(
    event: Event, expected: list[tuple[int, str]], log: pytest.LogCaptureFixture
) -> None:
    Dispatcher().emit(event)

    assert lines(log) == expected


def test_nothing_is_printed_until_an_application_configures_logging() -> None:
    handlers = logging.getLogger("everlytic_async").handlers
    assert any(isinstance(handler, logging.NullHandler) for handler in handlers)
