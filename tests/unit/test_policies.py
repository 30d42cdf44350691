"""The settings: their defaults, and that a wrong value is refused by the name of its field."""

from __future__ import annotations

import pickle
import sys
from decimal import Decimal
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlytic_async.errors import ConfigurationError
from everlytic_async.policies import Delivery, Pacing, RetryPolicy, Timeouts

NAN, INFINITY = float("nan"), float("inf")
DEFAULTS: dict[type[Any], dict[str, Any]] = {
    RetryPolicy: {
        "attempts": 5,
        "base_s": 0.5,
        "cap_s": 30,
        "deadline_s": 120,
        "retry_after_cap_s": 120,
        "stop_after_refusals": 20,
    },
    Pacing: {"max_concurrency": 32, "max_rate": None, "adaptive": True},
    Timeouts: {"connect_s": 10, "read_s": 30, "total_s": 60},
}
NOT_NUMBERS = ["5", b"5", [5], {}, True, False, Decimal(5), 1j]
NOT_FINITE = [NAN, INFINITY, -INFINITY, 10**400, -(10**400)]
SECONDS = (
    "a number of seconds above 0",
    [0, 0.0, -0.0, -1, -0.001, None, *NOT_NUMBERS, *NOT_FINITE],
    [5e-324, 1, sys.float_info.max],
)
COUNT = (
    "a whole number of at least 1",
    [0, -1, 1.0, 2.5, None, *NOT_NUMBERS, NAN, INFINITY],
    [1, 2, 10_000],
)
#: Of every field: what its message says, wrong values, right values.
FIELDS: dict[tuple[type[Any], str], tuple[str, list[Any], list[Any]]] = {
    (RetryPolicy, "attempts"): COUNT,
    **{
        (RetryPolicy, name): SECONDS
        for name in ("base_s", "cap_s", "deadline_s", "retry_after_cap_s")
    },
    (RetryPolicy, "stop_after_refusals"): (
        "None or a whole number of at least 1",
        [0, -1, 1.0, *NOT_NUMBERS],
        [None, 1],
    ),
    (Pacing, "max_concurrency"): COUNT,
    (Pacing, "max_rate"): (
        "None or a number of orders per second above 0",
        [0, 0.0, -1, -0.1, *NOT_NUMBERS, *NOT_FINITE],
        [None, 5e-324, 1, sys.float_info.max],
    ),
    (Pacing, "adaptive"): ("True or False", [None, 0, 1, "yes", "", []], [True, False]),
    **{(Timeouts, name): SECONDS for name in ("connect_s", "read_s", "total_s")},
}


@pytest.mark.parametrize("policy", DEFAULTS)
def test_a_policy_is_a_frozen_value_with_the_documented_defaults(policy: type[Any]) -> None:
    assert attrs.asdict(policy()) == DEFAULTS[policy]
    assert {field.name for field in attrs.fields(policy)} == {
        name for kind, name in FIELDS if kind is policy
    }
    name = next(iter(DEFAULTS[policy]))
    one, twin, other = policy(), policy(), policy(**{name: 7})
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(one, name, 7)
    assert one == twin
    assert hash(one) == hash(twin)
    assert one != other
    assert pickle.loads(pickle.dumps(other)) == other
    with pytest.raises(TypeError):
        policy(1)
    with pytest.raises(TypeError, match="surplus"):
        policy(surplus=1)


@pytest.mark.parametrize(("field", "rule"), FIELDS.items(), ids=lambda part: str(part[1])[:20])
def test_a_wrong_value_is_refused_and_a_right_one_kept(
    field: tuple[type[Any], str], rule: tuple[str, list[Any], list[Any]]
) -> None:
    (policy, name), (said, wrong, right) = field, rule
    for value in wrong:
        with pytest.raises(ConfigurationError) as caught:
            policy(**{name: value})
        assert str(caught.value) == f"{policy.__name__}.{name} must be {said}, got {value!r}"
    assert [getattr(policy(**{name: value}), name) for value in right] == right


@given(st.floats(min_value=0, exclude_min=True, allow_infinity=False) | st.integers(1, 10**300))
def test_any_finite_number_above_0_is_kept_as_it_is(value: float) -> None:
    assert Pacing(max_rate=value).max_rate == value
    assert Timeouts(read_s=value).read_s == value


def test_there_are_no_more_connections_than_ports() -> None:
    assert Pacing(max_concurrency=65_535).max_concurrency == 65_535
    with pytest.raises(ConfigurationError, match=r"must be at most 65,535, got 65536: .*ports"):
        Pacing(max_concurrency=65_536)


def test_a_changed_copy_is_validated_like_a_new_policy() -> None:
    assert attrs.evolve(RetryPolicy(), attempts=1).attempts == 1
    with pytest.raises(ConfigurationError, match=r"RetryPolicy\.attempts"):
        attrs.evolve(RetryPolicy(), attempts=0)


def test_deliveries_are_the_two_documented_ones() -> None:
    values = ["at_most_once", "at_least_once"]
    assert [f"{member}" for member in Delivery] == values
    assert [member.name for member in Delivery] == [value.upper() for value in values]
