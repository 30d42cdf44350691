"""The error tree: as it is drawn, each class with its verdict, and whole after pickling."""

from __future__ import annotations

import copy
import pickle
import re
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
from everlytic_async.orders import Order
from everlytic_async.outcomes import BatchReport, OrderResult, Outcome, Receipt

FAULTS = ("contact_email: is blank", "products: at least one is required")
REPORT = BatchReport(
    (
        OrderResult(0, "1", {"order_id": "1"}, Outcome.SENT, Receipt(200, {"status": "success"})),
        OrderResult(1, "2", Order(contact_email="jo@b.c", products=[{}]), Outcome.SKIPPED),
        OrderResult(2, None, {}, Outcome.INVALID, error=InvalidOrderError(FAULTS, 2)),
    ),
    elapsed_s=1.5,
    stopped="the hashes are wrong",
)
#: Errors of every class and with every number of arguments, and their attributes.
ERRORS: list[tuple[EverlyticError, dict[str, Any]]] = [
    (EverlyticError("m"), {}),
    (EverlyticError("m", 1, None), {}),
    (ConfigurationError("m"), {}),
    (InvalidOrderError(FAULTS), {"faults": FAULTS, "line": None, "order_id": None}),
    (InvalidOrderError(iter(FAULTS), 7), {"faults": FAULTS, "line": 7}),
    (InvalidOrderError(list(FAULTS), line=7), {"faults": FAULTS, "line": 7}),
    (RejectedError("m"), {"status": None}),
    (RejectedError("m", 422), {"status": 422}),
    (AuthenticationError("m", 401), {"status": 401}),
    (ThrottledError("m"), {"status": None, "retry_after_s": None}),
    (ThrottledError("m", 429, 2.5), {"status": 429, "retry_after_s": 2.5}),
    (ThrottledError("m", 503, retry_after_s=0.0), {"status": 503, "retry_after_s": 0.0}),
    (NotSentError("m"), {}),
    (UnknownOutcomeError("m"), {"status": None}),
    (ServerError("m", 500), {"status": 500}),
    (ResponseTimeoutError("m"), {"status": None}),
    (ConnectionLostError("m"), {"status": None}),
    (UnexpectedResponseError("m", status=200), {"status": 200}),
    (SkippedError("m"), {"state": None, "other_body": False}),
    (SkippedError("m", "sent", other_body=True), {"state": "sent", "other_body": True}),
    (LedgerError("m"), {}),
    (QueueError("m"), {}),
    (BatchStoppedError("m"), {"report": None}),
    (BatchStoppedError("m", REPORT), {}),
    (SourceError("m", report=REPORT), {}),
]


def kinds() -> set[type[EverlyticError]]:
    """Every public class of the tree in the module."""
    return {
        kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, EverlyticError) and not name.startswith("_")
    }


def drawn() -> Iterator[tuple[str, str | None, str]]:
    """Each class in the docstring's drawing, its parent there, and its explanation."""
    above: dict[int, str] = {}
    for line in str(errors.__doc__).splitlines():
        found = re.fullmatch(r" {4}([│├└─ ]*)([A-Za-z]+Error)(?: +(\S.*))?", line)
        if found is not None:
            depth = len(found[1]) // 4
            above[depth] = found[2]
            yield found[2], above[depth - 1] if depth else None, found[3] or ""


def parent(kind: type[EverlyticError]) -> str | None:
    """The nearest public class of the tree above."""
    return next((base.__name__ for base in kind.__mro__[1:] if base in kinds()), None)


def test_the_tree_is_exported_tested_and_drawn_with_an_explanation_of_each() -> None:
    names = sorted(kind.__name__ for kind in kinds())
    assert sorted(errors.__all__) == names
    assert {type(error) for error, _ in ERRORS} == kinds()
    assert {name: above for name, above, _ in drawn()} == {
        kind.__name__: parent(kind) for kind in kinds()
    }
    assert [name for name, above, said in drawn() if above and len(said) < 10] == []


def clones(error: EverlyticError) -> Iterator[Any]:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield pickle.loads(pickle.dumps(error, protocol))
    yield copy.copy(error)
    yield copy.deepcopy(error)
    yield pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(error))))


@pytest.mark.parametrize(
    ("error", "attributes"), ERRORS, ids=[type(error).__name__ for error, _ in ERRORS]
)
def test_an_error_has_its_verdict_and_attributes_and_keeps_them_when_pickled_or_copied(
    error: EverlyticError, attributes: dict[str, Any]
) -> None:
    assert error.attempts == 0
    error = copy.copy(error)
    error.attempts = 3
    message = str(InvalidOrderError(FAULTS)) if isinstance(error, InvalidOrderError) else "m"
    for one in (error, *clones(error)):
        assert type(one) is type(error)
        assert str(one) == one.message == str(error)
        assert message in one.message
        assert {name: getattr(one, name) for name in attributes} == attributes
        assert one.attempts == 3
        assert one.may_have_been_processed is isinstance(error, UnknownOutcomeError)
        if getattr(error, "report", None) is None:
            assert one.args == error.args
            continue
        report = one.report
        assert report.results[:2] == REPORT.results[:2]
        assert report.results[2].error.faults == FAULTS
        assert (report.counts, report.elapsed_s) == (REPORT.counts, REPORT.elapsed_s)
        assert report.stopped == REPORT.stopped


def test_an_invalid_order_names_every_fault_and_its_line() -> None:
    message = "contact_email: is blank; products: at least one is required"
    assert str(InvalidOrderError(FAULTS)) == message
    assert str(InvalidOrderError(FAULTS, 12)) == f"line 12: {message}"


def test_the_id_of_an_invalid_order_survives_pickling_and_is_not_shown() -> None:
    for clone in clones(InvalidOrderError(FAULTS, 7, "Q77x")):
        assert (clone.order_id, clone.line) == ("Q77x", 7)
        assert "Q77x" not in f"{clone} {clone!r} {clone.args}"


def test_one_except_catches_them_all_and_the_callers_mistakes_are_value_errors() -> None:
    for kind in kinds():
        assert issubclass(kind, EverlyticError)
        assert not issubclass(kind, OSError | TimeoutError)
    for mistake in (ConfigurationError, InvalidOrderError):
        assert issubclass(mistake, ValueError)
