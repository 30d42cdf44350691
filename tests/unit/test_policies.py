"""The settings: their defaults, and that a wrong value is told by the name of its field."""

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
POLICIES: tuple[type[Any], ...] = (RetryPolicy, Pacing, Timeouts)
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
SECONDS = [
    *[(RetryPolicy, name) for name in ("base_s", "cap_s", "deadline_s", "retry_after_cap_s")],
    *[(Timeouts, name) for name in ("connect_s", "read_s", "total_s")],
]
OPTIONAL_COUNTS = [(RetryPolicy, "stop_after_refusals")]
COUNTS = [(RetryPolicy, "attempts"), (Pacing, "max_concurrency")]
RATES = [(Pacing, "max_rate")]
FLAGS = [(Pacing, "adaptive")]

NOT_NUMBERS = ["5", b"5", [5], {}, True, False, Decimal(5), 1j, object()]
NOT_FINITE = [NAN, INFINITY, -INFINITY, 10**400, -(10**400)]


@pytest.mark.parametrize("policy", POLICIES)
def test_the_defaults_are_the_documented_ones(policy: type[Any]) -> None:
    assert attrs.asdict(policy()) == DEFAULTS[policy]


def test_every_field_is_among_those_that_are_tested_here() -> None:
    tested = [*SECONDS, *COUNTS, *OPTIONAL_COUNTS, *RATES, *FLAGS]
    fields = [(policy, field.name) for policy in POLICIES for field in attrs.fields(policy)]
    assert sorted(tested, key=str) == sorted(fields, key=str)


def refusal(policy: type[Any], name: str, value: object) -> str:
    with pytest.raises(ConfigurationError) as caught:
        policy(**{name: value})
    return str(caught.value)


@pytest.mark.parametrize(("policy", "name"), SECONDS)
@pytest.mark.parametrize(
    "value", [0, 0.0, -0.0, -1, -0.001, None, *NOT_NUMBERS, *NOT_FINITE], ids=lambda v: repr(v)[:9]
)
def test_seconds_are_a_finite_number_above_0(policy: type[Any], name: str, value: object) -> None:
    assert refusal(policy, name, value) == (
        f"{policy.__name__}.{name} must be a number of seconds above 0, got {value!r}"
    )


@pytest.mark.parametrize(("policy", "name"), COUNTS)
@pytest.mark.parametrize(
    "value", [0, -1, 1.0, 2.5, None, *NOT_NUMBERS, NAN, INFINITY], ids=lambda v: repr(v)[:9]
)
def test_a_count_is_a_whole_number_of_at_least_1(
    policy: type[Any], name: str, value: object
) -> None:
    assert refusal(policy, name, value) == (
        f"{policy.__name__}.{name} must be a whole number of at least 1, got {value!r}"
    )


@pytest.mark.parametrize(("policy", "name"), OPTIONAL_COUNTS)
def test_an_optional_count_is_none_or_a_whole_number_of_at_least_1(
    policy: type[Any], name: str
) -> None:
    assert getattr(policy(**{name: None}), name) is None
    assert getattr(policy(**{name: 1}), name) == 1
    for value in [0, -1, 1.0, *NOT_NUMBERS]:
        assert f"{name} must be None or a whole number" in refusal(policy, name, value)


@pytest.mark.parametrize(("policy", "name"), RATES)
@pytest.mark.parametrize(
    "value", [0, 0.0, -1, -0.1, *NOT_NUMBERS, *NOT_FINITE], ids=lambda v: repr(v)[:9]
)
def test_a_rate_is_none_or_a_finite_number_above_0(
    policy: type[Any], name: str, value: object
) -> None:
    assert refusal(policy, name, value) == (
        f"{policy.__name__}.{name} must be None or a number of orders per second above 0, "
        f"got {value!r}"
    )


@pytest.mark.parametrize(("policy", "name"), FLAGS)
@pytest.mark.parametrize("value", [None, 0, 1, "yes", "", []])
def test_a_flag_is_true_or_false(policy: type[Any], name: str, value: object) -> None:
    assert refusal(policy, name, value) == (
        f"{policy.__name__}.{name} must be True or False, got {value!r}"
    )


@given(
    st.sampled_from([*SECONDS, *RATES]),
    st.floats(min_value=0, exclude_min=True, allow_infinity=False) | st.integers(1, 10**300),
)
def test_any_finite_number_above_0_is_kept_as_it_is(field: tuple[Any, str], value: float) -> None:
    policy, name = field
    assert getattr(policy(**{name: value}), name) == value


@pytest.mark.parametrize(("policy", "name"), [*SECONDS, *RATES])
@pytest.mark.parametrize("value", [5e-324, sys.float_info.max, 1])
def test_the_extremes_of_a_number_are_kept(policy: type[Any], name: str, value: float) -> None:
    assert getattr(policy(**{name: value}), name) == value


@pytest.mark.parametrize(("policy", "name"), COUNTS)
@pytest.mark.parametrize("value", [1, 2, 10_000])
def test_any_count_from_1_is_kept(policy: type[Any], name: str, value: int) -> None:
    assert getattr(policy(**{name: value}), name) == value


def test_there_are_no_more_connections_than_ports() -> None:
    assert Pacing(max_concurrency=65_535).max_concurrency == 65_535
    told = refusal(Pacing, "max_concurrency", 65_536)
    assert told.startswith("Pacing.max_concurrency must be at most 65,535, got 65536: ")
    assert "ports" in told


def test_no_bound_on_the_rate_and_no_adaptation_can_be_chosen() -> None:
    assert attrs.asdict(Pacing(max_rate=None, adaptive=False)) == {
        "max_concurrency": 32,
        "max_rate": None,
        "adaptive": False,
    }


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_is_frozen_and_a_value(policy: type[Any]) -> None:
    name = next(iter(DEFAULTS[policy]))
    one, twin, other = policy(), policy(), policy(**{name: 7})
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(one, name, 7)
    assert one == twin
    assert hash(one) == hash(twin)
    assert one != other
    assert pickle.loads(pickle.dumps(other)) == other


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policys_fields_are_given_by_name(policy: type[Any]) -> None:
    with pytest.raises(TypeError):
        policy(1)


@pytest.mark.parametrize("policy", POLICIES)
def test_an_unknown_field_is_told_by_its_name(policy: type[Any]) -> None:
    with pytest.raises(TypeError, match="surplus"):
        policy(surplus=1)


def test_a_changed_copy_is_validated_like_a_new_policy() -> None:
    assert attrs.evolve(RetryPolicy(), attempts=1).attempts == 1
    with pytest.raises(ConfigurationError, match=r"RetryPolicy\.attempts"):
        attrs.evolve(RetryPolicy(), attempts=0)


def test_deliveries_are_the_two_documented_ones() -> None:
    assert {member.name: member.value for member in Delivery} == {
        "AT_MOST_ONCE": "at_most_once",
        "AT_LEAST_ONCE": "at_least_once",
    }
    assert Delivery("at_most_once") is Delivery.AT_MOST_ONCE
    assert f"{Delivery.AT_LEAST_ONCE}" == "at_least_once"
