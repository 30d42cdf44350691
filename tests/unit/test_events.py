"""Events are frozen values; the dispatcher hands them to every hook and to the log."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from everlytic_async import Outcome, events
from everlytic_async.errors import (
    BatchStoppedError,
    EverlyticError,
    RejectedError,
    ServerError,
    ThrottledError,
)
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

BUSY = ThrottledError("too busy (429)", 429, None)
STARTED = AttemptStarted(at=1.0, key="1001", attempt=1, in_flight=3)
ENDED = AttemptEnded(
    at=1.5, key="1001", attempt=1, outcome=Outcome.SENT, status=200, error=None, elapsed_s=0.5
)
FAILED = attrs.evolve(ENDED, outcome=Outcome.NOT_SENT, status=429, error=BUSY)
BACKING_OFF = BackingOff(at=1.5, key="1001", attempt=1, wait_s=0.25, error=BUSY)
ORDER_ENDED = OrderEnded(
    at=2.0,
    key="1001",
    outcome=Outcome.SENT,
    attempts=2,
    elapsed_s=1.0,
    duplicate_risk=False,
    error=None,
)
COOL_DOWN = CoolDown(at=1.5, wait_s=30.0, status=429, reason="the endpoint answered 429")
OUTAGE = CoolDown(at=1.5, wait_s=0.5, status=None, reason="shop.example: it was refused")
OUTAGE_ENDED = OutageEnded(at=9.0, lasted_s=7.5)
RATE = RateChanged(at=3.0, rate=98.5, limit=100.25)
SEARCHING = RateChanged(at=3.0, rate=25.0, limit=None)
BEGUN = BatchStarted(at=0.0)
COUNTS = {**dict.fromkeys(Outcome, 0), Outcome.SENT: 7, Outcome.UNKNOWN: 1}
OVER = BatchEnded(at=5.0, counts=COUNTS, elapsed_s=5.0, stopped=None)
EMPTY = BatchEnded(at=5.0, counts=dict.fromkeys(Outcome, 0), elapsed_s=0.0, stopped=None)
STOPPED = attrs.evolve(OVER, stopped="the batch was stopped: 401")

INFO, WARNING, DEBUG = logging.INFO, logging.WARNING, logging.DEBUG
#: What the log says of each.
SAID: dict[str, tuple[Event, list[tuple[int, str]]]] = {
    "an attempt begins": (STARTED, []),
    "an attempt ends": (
        ENDED,
        [(DEBUG, "order 1001, attempt 1: sent, status 200, after 0.500 s")],
    ),
    "an attempt fails": (
        FAILED,
        [(DEBUG, "order 1001, attempt 1: not_sent, status 429, after 0.500 s: too busy (429)")],
    ),
    "an order backs off": (
        BACKING_OFF,
        [(DEBUG, "order 1001, attempt 1 failed: next in 0.250 s")],
    ),
    "an order ends": (ORDER_ENDED, []),
    "a cool-down": (
        COOL_DOWN,
        [(WARNING, "all sending pauses for 30.000 s: the endpoint answered 429")],
    ),
    "an outage": (
        OUTAGE,
        [(WARNING, "all sending pauses for 0.500 s: shop.example: it was refused")],
    ),
    "an outage ends": (
        OUTAGE_ENDED,
        [(WARNING, "the endpoint answers again after 7.5 s")],
    ),
    "a limit is found": (
        RATE,
        [(INFO, "the endpoint's limit is about 100.2 orders a second")],
    ),
    "a limit is sought": (SEARCHING, []),
    "a batch started": (BEGUN, [(INFO, "a batch started")]),
    "a batch ends": (OVER, [(INFO, "a batch ended after 5.0 s: 7 sent, 1 unknown")]),
    "an empty batch ends": (EMPTY, [(INFO, "a batch ended after 0.0 s: no orders")]),
    "a batch is stopped": (
        STOPPED,
        [
            (INFO, "a batch ended after 5.0 s: 7 sent, 1 unknown"),
            (WARNING, "the batch ended early: the batch was stopped: 401"),
        ],
    ),
}
EVENTS = [event for event, _ in SAID.values()]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG, logger="everlytic_async"):
        yield caplog


def lines(log: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    assert {record.name for record in log.records} <= {"everlytic_async"}
    return [(record.levelno, record.getMessage()) for record in log.records]


# ------------------------------------------------------------------------------------------ events


def kinds() -> list[type[Event]]:
    return [
        kind
        for _, kind in inspect.getmembers(events, inspect.isclass)
        if issubclass(kind, Event) and kind is not Event
    ]


def test_there_is_an_example_of_every_kind_of_event() -> None:
    assert {type(event) for event in EVENTS} == set(kinds())


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_every_kind_of_event_is_exported_and_says_when(kind: type[Event]) -> None:
    assert kind.__name__ in events.__all__
    assert "at" in attrs.fields_dict(kind)


@pytest.mark.parametrize("event", EVENTS, ids=list(SAID))
def test_an_event_cannot_be_changed(event: Event) -> None:
    for field in attrs.fields(type(event)):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(event, field.name, None)
    with pytest.raises((AttributeError, TypeError)):
        event.more = 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_the_fields_of_an_event_are_given_by_name(kind: type[Event]) -> None:
    # So that a field may be added without breaking a test of a user's.
    assert all(field.kw_only for field in attrs.fields(kind))


@pytest.mark.parametrize("event", EVENTS, ids=list(SAID))
def test_an_event_equals_another_of_the_same_values(event: Event) -> None:
    assert attrs.evolve(event) == event
    assert attrs.evolve(event, at=99.0) != event


# ---------------------------------------------------------------------------------- what is a hook


def nothing(_event: Event) -> None: ...


def other(_event: Event) -> None: ...


class Both:
    """A hook that could be iterated over, too."""

    def __call__(self, event: Event) -> None: ...

    def __iter__(self) -> Iterator[Hook]:
        return iter([nothing])


BOTH = Both()


@pytest.mark.parametrize(
    ("given", "hooks"),
    [
        (None, ()),
        ([], ()),
        (nothing, (nothing,)),
        (print, (print,)),
        ([nothing, other], (nothing, other)),
        ((other, nothing, other), (other, nothing, other)),
        (iter([nothing]), (nothing,)),
        (BOTH, (BOTH,)),
    ],
    ids=["none", "no hooks", "one", "built in", "list", "tuple", "iterator", "callable iterable"],
)
def test_hooks_are_one_or_several_or_none(given: Any, hooks: tuple[Hook, ...]) -> None:
    assert as_hooks(given) == hooks


@pytest.mark.parametrize("given", ["log", 7, [nothing, None], [[nothing]], object()])
def test_what_cannot_be_called_is_no_hook(given: Any) -> None:
    with pytest.raises(TypeError):
        as_hooks(given)


# ------------------------------------------------------------------------- the dispatcher


def test_every_hook_hears_every_event_in_turn() -> None:
    heard: list[tuple[str, Event]] = []
    dispatcher = Dispatcher(
        (lambda event: heard.append(("first", event)), lambda event: heard.append(("then", event)))
    )
    for event in EVENTS:
        dispatcher.emit(event)

    assert heard == [(who, event) for event in EVENTS for who in ("first", "then")]


@pytest.mark.parametrize(
    "error", [ValueError("no"), AssertionError("no"), StopIteration(), BatchStoppedError("no")]
)
def test_a_hook_that_raises_is_logged_and_hurts_nobody(
    error: Exception, log: pytest.LogCaptureFixture
) -> None:
    heard: list[Event] = []

    def broken(_event: Event) -> None:
        raise error

    Dispatcher((broken, heard.append)).emit(STARTED)

    assert heard == [STARTED]
    assert lines(log) == [(logging.ERROR, "a hook raised on AttemptStarted")]
    (record,) = log.records
    assert record.exc_info is not None
    assert record.exc_info[1] is error


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_what_ends_a_task_or_the_program_travels_on(
    kind: type[BaseException], log: pytest.LogCaptureFixture
) -> None:
    def interrupted(_event: Event) -> None:
        raise kind

    with pytest.raises(kind):
        Dispatcher((interrupted,)).emit(STARTED)
    assert lines(log) == []


@pytest.mark.parametrize(
    ("hooks", "level", "listening"),
    [
        ((), logging.INFO, False),
        ((), logging.DEBUG, True),
        ((nothing,), logging.CRITICAL, True),
    ],
)
def test_single_attempts_are_told_to_hooks_and_to_a_log_of_everything(
    caplog: pytest.LogCaptureFixture, hooks: tuple[Hook, ...], level: int, listening: bool
) -> None:
    with caplog.at_level(level, logger="everlytic_async"):
        assert Dispatcher(hooks).has_listeners is listening


# ----------------------------------------------------------------------------------------- the log


@pytest.mark.parametrize(("event", "said"), SAID.values(), ids=list(SAID))
def test_the_log_says_what_happened_at_its_level(
    event: Event, said: list[tuple[int, str]], log: pytest.LogCaptureFixture
) -> None:
    Dispatcher().emit(event)

    assert lines(log) == said


@pytest.mark.parametrize(
    "error", [ServerError("the endpoint failed (500)", 500), RejectedError("no such thing", 404)]
)
def test_the_log_says_why_an_attempt_failed(
    error: EverlyticError, log: pytest.LogCaptureFixture
) -> None:
    Dispatcher().emit(attrs.evolve(FAILED, error=error))

    ((_, line),) = lines(log)
    assert line.endswith(f": {error.message}")


def test_a_per_cent_sign_in_a_key_is_text(log: pytest.LogCaptureFixture) -> None:
    Dispatcher().emit(attrs.evolve(ENDED, key="100%s %d"))

    ((_, line),) = lines(log)
    assert line.startswith("order 100%s %d, attempt 1: sent")


def test_nothing_is_printed_until_an_application_sets_up_its_log() -> None:
    handlers = logging.getLogger("everlytic_async").handlers
    assert any(isinstance(handler, logging.NullHandler) for handler in handlers)
