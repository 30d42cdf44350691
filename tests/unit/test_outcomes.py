"""What is known in the end: counted for every outcome, and shown without the customer."""

from __future__ import annotations

import pickle
from collections import Counter
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlytic_async.errors import NotSentError, RejectedError
from everlytic_async.orders import Order
from everlytic_async.outcomes import BatchReport, OrderResult, Outcome, Receipt

MARKER = "Zyx9Marker7Qw"


def report_of(*outcomes: Outcome) -> BatchReport:
    results = [OrderResult(index, None, {}, outcome) for index, outcome in enumerate(outcomes)]
    return BatchReport(tuple(results), elapsed_s=1.0)


def test_outcomes_are_the_documented_ones() -> None:
    assert {member.name: member.value for member in Outcome} == {
        "SENT": "sent",
        "INVALID": "invalid",
        "REJECTED": "rejected",
        "NOT_SENT": "not_sent",
        "UNKNOWN": "unknown",
        "SKIPPED": "skipped",
    }


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (Receipt, "status body attempts elapsed_s headers"),
        (
            OrderResult,
            "index key order outcome receipt error attempts elapsed_s duplicate_risk",
        ),
        (BatchReport, "results elapsed_s stopped"),
    ],
)
def test_fields_are_the_documented_ones(kind: type[Any], names: str) -> None:
    assert [field.name for field in attrs.fields(kind)] == names.split()


def test_what_is_not_told_is_nothing() -> None:
    assert attrs.asdict(Receipt(204)) == {
        "status": 204,
        "body": None,
        "attempts": 1,
        "elapsed_s": 0.0,
        "headers": {},
    }
    assert attrs.asdict(OrderResult(0, None, None, Outcome.UNKNOWN)) == {
        "index": 0,
        "key": None,
        "order": None,
        "outcome": Outcome.UNKNOWN,
        "receipt": None,
        "error": None,
        "attempts": 0,
        "elapsed_s": 0.0,
        "duplicate_risk": False,
    }
    assert BatchReport((), 1.0).stopped is None


def test_the_counts_of_an_empty_batch_hold_every_outcome_with_0() -> None:
    assert dict(report_of().counts) == dict.fromkeys(Outcome, 0)


@given(st.lists(st.sampled_from(Outcome)))
def test_the_counts_hold_every_outcome_and_add_up(outcomes: list[Outcome]) -> None:
    counts = report_of(*outcomes).counts
    assert list(counts) == list(Outcome)
    assert Counter(counts) == Counter(outcomes)
    assert sum(counts.values()) == len(outcomes)


def test_the_counts_can_be_asked_for_by_value_and_not_changed() -> None:
    counts: Any = report_of(Outcome.SENT, Outcome.SENT, Outcome.NOT_SENT).counts
    assert [counts["sent"], counts["not_sent"], counts["unknown"]] == [2, 1, 0]
    with pytest.raises(TypeError):
        counts[Outcome.SENT] = 0


@given(st.lists(st.sampled_from(Outcome)))
def test_the_failures_are_all_but_the_sent_and_the_skipped_in_their_order(
    outcomes: list[Outcome],
) -> None:
    fine = (Outcome.SENT, Outcome.SKIPPED)
    expected = [index for index, outcome in enumerate(outcomes) if outcome not in fine]
    assert [result.index for result in report_of(*outcomes).failures] == expected


def private_result() -> OrderResult:
    order = Order(contact_email=f"{MARKER}@example.com", products=[{"product_name": MARKER}])
    return OrderResult(
        7,
        MARKER,
        order,
        Outcome.REJECTED,
        Receipt(200, {"contact": MARKER}),
        RejectedError("no", 422),
        attempts=2,
    )


@pytest.mark.parametrize(
    "order", [{"contact_email": MARKER}, Order(contact_email=f"{MARKER}@b.c", products=[{}])]
)
def test_the_repr_of_a_result_shows_neither_order_nor_key_nor_answer(order: Any) -> None:
    result = attrs.evolve(private_result(), order=order)
    assert repr(result) == (
        "OrderResult(index=7, outcome=<Outcome.REJECTED: 'rejected'>, "
        "receipt=Receipt(status=200, attempts=1, elapsed_s=0.0), error=RejectedError('no', 422), "
        "attempts=2, elapsed_s=0.0, duplicate_risk=False)"
    )


def test_the_repr_of_a_report_shows_no_order() -> None:
    report = BatchReport((private_result(),), 1.5, "stopped")
    assert repr(report) == "BatchReport(elapsed_s=1.5, stopped='stopped')"
    assert MARKER not in f"{report} {report.failures} {report.counts}"


@pytest.mark.parametrize(
    ("value", "name"),
    [(Receipt(200), "status"), (private_result(), "outcome"), (report_of(), "results")],
)
def test_what_is_known_is_frozen(value: Any, name: str) -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(value, name, None)


def test_a_report_survives_pickling() -> None:
    receipt = Receipt(200, {"status": "success"}, attempts=2, elapsed_s=0.5)
    results = (
        OrderResult(0, "1", {"order_id": "1"}, Outcome.SENT, receipt, duplicate_risk=True),
        OrderResult(1, "2", private_result().order, Outcome.SKIPPED),
    )
    report = BatchReport(results, 1.5, "stopped")
    clone = pickle.loads(pickle.dumps(report))
    assert clone == report
    assert clone.counts == report.counts
    failed = OrderResult(2, None, {}, Outcome.NOT_SENT, error=NotSentError("no"))
    assert str(pickle.loads(pickle.dumps(failed)).error) == "no"
