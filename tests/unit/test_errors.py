"""The error tree: drawn as it is, each with its verdict, and whole after pickling."""

from __future__ import annotations

import copy
import pickle
import re
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

from everlytic_async import errors
from everlytic_async.errors import (
    AuthenticationError,
    BatchStoppedError,
    ConfigurationError,
    ConnectionLostError,
    EverlyticError,
    InvalidOrderError,
    LedgerError,
    NotSentError,
    QueueError,
    RejectedError,
    ResponseTimeoutError,
    ServerError,
    SkippedError,
    SourceError,
    ThrottledError,
    UnexpectedResponseError,
    UnknownOutcomeError,
)
from everlytic_async.outcomes import BatchReport, OrderResult, Outcome, Receipt

FAULTS = ("contact_email: is blank", "products: at least one is required")
REPORT = BatchReport(
    (
        OrderResult(0, "1", {"order_id": "1"}, Outcome.SENT, Receipt(200, {"status": "success"})),
        OrderResult(1, None, {}, Outcome.INVALID, error=InvalidOrderError(FAULTS, 2)),
    ),
    elapsed_s=1.5,
    stopped="no use",
)

# One of every class and every number of arguments; its attributes; may it have been processed?
ERRORS: list[tuple[EverlyticError, dict[str, Any], bool]] = [
    (EverlyticError("m"), {}, False),
    (EverlyticError("m", 1, None), {}, False),
    (ConfigurationError("m"), {}, False),
    (InvalidOrderError(FAULTS), {"faults": FAULTS, "line": None}, False),
    (InvalidOrderError(iter(FAULTS), 7), {"faults": FAULTS, "line": 7}, False),
    (InvalidOrderError(list(FAULTS), line=7), {"faults": FAULTS, "line": 7}, False),
    (RejectedError("m"), {"status": None}, False),
    (RejectedError("m", 422), {"status": 422}, False),
    (AuthenticationError("m", 401), {"status": 401}, False),
    (ThrottledError("m"), {"status": None, "retry_after_s": None}, False),
    (ThrottledError("m", 429, 2.5), {"status": 429, "retry_after_s": 2.5}, False),
    (ThrottledError("m", 503, retry_after_s=0.0), {"status": 503, "retry_after_s": 0.0}, False),
    (NotSentError("m"), {}, False),
    (UnknownOutcomeError("m"), {"status": None}, True),
    (ServerError("m", 500), {"status": 500}, True),
    (ResponseTimeoutError("m"), {"status": None}, True),
    (ConnectionLostError("m"), {"status": None}, True),
    (UnexpectedResponseError("m", status=200), {"status": 200}, True),
    (SkippedError("m"), {"state": None, "other_body": False}, False),
    (SkippedError("m", "sent", other_body=True), {"state": "sent", "other_body": True}, False),
    (LedgerError("m"), {}, False),
    (QueueError("m"), {}, False),
    (BatchStoppedError("m"), {"report": None}, False),
    (BatchStoppedError("m", REPORT), {"report": REPORT}, False),
    (SourceError("m", report=REPORT), {"report": REPORT}, False),
]
each_error = pytest.mark.parametrize(
    ("error", "attributes", "may"), ERRORS, ids=[type(case[0]).__name__ for case in ERRORS]
)


def kinds() -> set[type[EverlyticError]]:
    """Every public class of the tree that the module holds."""
    return {
        kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, EverlyticError) and not name.startswith("_")
    }


def drawn() -> Iterator[tuple[str, str | None]]:
    """Each class in the docstring's drawing with the one that it hangs from."""
    above: dict[int, str] = {}
    for line in str(errors.__doc__).splitlines():
        found = re.fullmatch(r" {4}([│├└─ ]*)([A-Za-z]+Error)(?: +\S.*)?", line)
        if found is not None:
            depth = len(found[1]) // 4
            above[depth] = found[2]
            yield found[2], above[depth - 1] if depth else None


def parent(kind: type[EverlyticError]) -> str | None:
    """The nearest public class of the tree above."""
    above = [base for base in kind.__mro__[1:] if base in kinds()]
    return above[0].__name__ if above else None


def test_the_tree_is_as_it_is_drawn() -> None:
    assert dict(drawn()) == {kind.__name__: parent(kind) for kind in kinds()}


def test_the_drawing_says_of_every_error_what_it_means() -> None:
    for name, above in drawn():
        if above is not None:
            assert re.search(rf"{name} +[A-Za-z0-9].{{10}}", str(errors.__doc__))


def test_every_error_of_the_tree_is_exported() -> None:
    assert sorted(errors.__all__) == sorted(kind.__name__ for kind in kinds())


def test_every_error_is_among_those_that_are_tested_here() -> None:
    assert {type(error) for error, _, _ in ERRORS} == kinds()


@each_error
def test_an_error_says_whether_the_order_may_have_been_processed(
    error: EverlyticError, attributes: dict[str, Any], may: bool
) -> None:
    assert error.may_have_been_processed is may
    assert isinstance(error, UnknownOutcomeError) is may


@each_error
def test_an_error_has_its_attributes_and_its_message(
    error: EverlyticError, attributes: dict[str, Any], may: bool
) -> None:
    assert {name: getattr(error, name) for name in attributes} == attributes
    assert error.attempts == 0
    assert str(error) == error.message
    if not isinstance(error, InvalidOrderError):
        assert error.message == "m"


@each_error
def test_an_error_carries_all_that_it_was_made_of_as_plain_arguments(
    error: EverlyticError, attributes: dict[str, Any], may: bool
) -> None:
    message = () if isinstance(error, InvalidOrderError) else ("m",)
    expected = (*message, *attributes.values())
    assert error.args[: len(expected)] == expected


def clones(error: EverlyticError) -> Iterator[Any]:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield pickle.loads(pickle.dumps(error, protocol))
    yield copy.copy(error)
    yield copy.deepcopy(error)


@each_error
def test_an_error_survives_pickling_and_copying_whole(
    error: EverlyticError, attributes: dict[str, Any], may: bool
) -> None:
    error = copy.copy(error)
    error.attempts = 3
    for clone in clones(error):
        assert type(clone) is type(error)
        assert str(clone) == str(error)
        assert clone.message == error.message
        assert clone.attempts == 3
        assert clone.may_have_been_processed is may
        if attributes.get("report") is None:  # with a report: below
            assert {name: getattr(clone, name) for name in attributes} == attributes
            assert clone.args == error.args


def test_an_invalid_order_has_its_id_after_pickling_and_shows_it_nowhere() -> None:
    error = InvalidOrderError(FAULTS, 7, "Q77x")
    for clone in (error, *clones(error)):
        assert (clone.order_id, clone.line) == ("Q77x", 7)
        assert "Q77x" not in f"{clone} {clone!r} {clone.args}"
    assert InvalidOrderError(FAULTS).order_id is None


def test_the_report_on_an_error_survives_pickling() -> None:
    clone = pickle.loads(pickle.dumps(BatchStoppedError("m", REPORT)))
    assert [result.outcome for result in clone.report.results] == [Outcome.SENT, Outcome.INVALID]
    assert clone.report.results[0] == REPORT.results[0]
    assert clone.report.results[1].error.faults == FAULTS
    assert clone.report.stopped == "no use"


@pytest.mark.parametrize("error", [RejectedError("m", 422), ThrottledError("m", 429, 1.0)])
def test_a_pickled_error_can_be_raised_and_pickled_again(error: EverlyticError) -> None:
    clone = pickle.loads(pickle.dumps(error))
    with pytest.raises(type(error)) as caught:
        raise clone
    assert pickle.loads(pickle.dumps(caught.value)).args == error.args


@pytest.mark.parametrize("kind", [ConfigurationError, InvalidOrderError])
def test_a_mistake_of_the_caller_is_a_value_error_too(kind: type[Exception]) -> None:
    assert issubclass(kind, ValueError)


def test_an_invalid_order_names_every_fault_and_its_line() -> None:
    assert str(InvalidOrderError(FAULTS)) == (
        "contact_email: is blank; products: at least one is required"
    )
    assert str(InvalidOrderError(FAULTS, 12)) == (
        "line 12: contact_email: is blank; products: at least one is required"
    )


def test_an_error_shows_its_message_in_a_traceback() -> None:
    shown = "".join(traceback.format_exception(InvalidOrderError(FAULTS, 12)))
    assert "InvalidOrderError: line 12: contact_email: is blank; products" in shown


def test_one_except_catches_them_all() -> None:
    for kind in kinds():
        assert issubclass(kind, EverlyticError)
        assert not issubclass(kind, OSError | TimeoutError)
