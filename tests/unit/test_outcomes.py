"""Results and reports: counted for every outcome, and shown without the customer."""

from __future__ import annotations

from collections import Counter
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlytic_async.errors import (
    RejectedError,
)
from everlytic_async.orders import Order
from everlytic_async.outcomes import BatchReport, OrderResult, Outcome, Receipt

MARKER = "Zyx9Marker7Qw"


def report_of(*outcomes: Outcome) -> BatchReport:
    results = [OrderResult(index, None, {}, outcome) for index, outcome in enumerate(outcomes)]
    return BatchReport(tuple(results), elapsed_s=1.0)


def private_result(order: Any = None) -> OrderResult:
    receipt, error = Receipt(200, {"contact": MARKER}), RejectedError("no", 422)
    order = order or {"contact_email": MARKER}
    return OrderResult(7, MARKER, order, Outcome.REJECTED, receipt, error, attempts=2)


def test_outcomes_are_the_documented_ones() -> None:
    names = ("SENT", "INVALID", "REJECTED", "NOT_SENT", "UNKNOWN", "SKIPPED")
    assert {member.name: member.value for member in Outcome} == {
        name: name.lower() for name in names
    }


@pytest.mark.parametrize(
    ("value", "fields"),
    [
        (
            Receipt(204),
            {"status": 204, "body": None, "attempts": 1, "elapsed_s": 0.0, "headers": {}},
        ),
        (
            OrderResult(0, None, None, Outcome.UNKNOWN),
            {
                "index": 0,
                "key": None,
                "order": None,
                "outcome": Outcome.UNKNOWN,
                "receipt": None,
                "error": None,
                "attempts": 0,
                "elapsed_s": 0.0,
                "duplicate_risk": False,
            },
        ),
        (BatchReport((), 1.0), {"results": (), "elapsed_s": 1.0, "stopped": None}),
    ],
)
def test_fields_are_the_documented_ones_and_frozen(value: Any, fields: dict[str, Any]) -> None:
    assert list(attrs.asdict(value, recurse=False).items()) == list(fields.items())
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(value, next(iter(fields)), None)


@given(st.lists(st.sampled_from(Outcome)))
def test_the_counts_hold_every_outcome_and_the_failures_all_but_sent_and_skipped(
    outcomes: list[Outcome],
) -> None:
    report = report_of(*outcomes)
    assert list(report.counts) == list(Outcome)
    assert Counter(report.counts) == Counter(outcomes)
    assert [result.index for result in report.failures] == [
        index
        for index, outcome in enumerate(outcomes)
        if outcome not in (Outcome.SENT, Outcome.SKIPPED)
    ]


def test_counts_can_be_looked_up_by_value_and_not_changed() -> None:
    counts: Any = report_of(Outcome.SENT, Outcome.SENT, Outcome.NOT_SENT).counts
    assert [counts["sent"], counts["not_sent"], counts["unknown"]] == [2, 1, 0]
    with pytest.raises(TypeError):
        counts[Outcome.SENT] = 0


@pytest.mark.parametrize("order", [None, Order(contact_email=f"{MARKER}@b.c", products=[{}])])
def test_a_repr_shows_neither_order_nor_key_nor_response_body(order: Any) -> None:
    result = private_result(order)
    assert repr(result) == (
        "OrderResult(index=7, outcome=<Outcome.REJECTED: 'rejected'>, "
        "receipt=Receipt(status=200, attempts=1, elapsed_s=0.0), error=RejectedError('no', 422), "
        "attempts=2, elapsed_s=0.0, duplicate_risk=False)"
    )
    report = BatchReport((result,), 1.5, "stopped")
    assert repr(report) == "BatchReport(elapsed_s=1.5, stopped='stopped')"
    assert MARKER not in f"{report} {report.failures} {report.counts}"
