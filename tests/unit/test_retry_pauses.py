"""How long to pause, and how many retries are paid for."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from everlytic_async._retry import Backoff
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
