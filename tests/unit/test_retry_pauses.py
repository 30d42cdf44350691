"""How long to pause, and how many retries are paid for."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlytic_async._retry import Backoff, RetryBudget
from everlytic_async.policies import RetryPolicy


@given(
    base_s=st.floats(0.001, 10),
    cap_s=st.floats(0.001, 300),
    attempt=st.integers(1, 12) | st.integers(1, 100_000),
    seed=st.integers(0, 1_000),
)
def test_a_backoff_is_between_nothing_and_the_doubling_ceiling(
    base_s: float, cap_s: float, attempt: int, seed: int
) -> None:
    backoff = Backoff(RetryPolicy(base_s=base_s, cap_s=cap_s), random.Random(seed))
    ceiling = cap_s if attempt > 40 else min(cap_s, base_s * 2 ** (attempt - 1))

    assert 0.0 <= backoff.pause_s(attempt) <= ceiling


@pytest.mark.parametrize(("attempt", "ceiling"), [(1, 0.5), (2, 1), (3, 2), (7, 30), (50, 30)])
def test_a_backoff_is_drawn_from_the_whole_of_its_range(attempt: int, ceiling: float) -> None:
    backoff = Backoff(RetryPolicy(), random.Random(0))
    draws = [backoff.pause_s(attempt) for _ in range(2_000)]

    assert min(draws) < 0.02 * ceiling
    assert max(draws) > 0.98 * ceiling
    assert sum(draws) / len(draws) == pytest.approx(ceiling / 2, rel=0.05)


def test_the_budget_allows_a_hundred_retries_and_each_success_a_fifth_of_one() -> None:
    budget = RetryBudget()
    for _ in range(10_000):
        budget.refund()  # it does not grow without bounds
    assert [budget.take() for _ in range(101)] == [True] * 100 + [False]
    for _ in range(4):
        budget.refund()
    assert not budget.take()
    budget.refund()
    assert budget.take()
    assert not budget.take()
