"""What may be sent again, as tables; and whether an endpoint ever accepted an order."""

from __future__ import annotations

from pathlib import Path

import pytest
from ledger_shop import Place, ledger_at

from everlytic_async import ConfigurationError, Delivery, Outcome
from everlytic_async.ledger import Entry, ResendPolicy, State
from everlytic_async.ledger.claims import resend_policy

NOTHING: frozenset[State] = frozenset()
UNKNOWN = frozenset({State.UNKNOWN})
REJECTED = frozenset({State.REJECTED})
BOTH = UNKNOWN | REJECTED

# state, what is sent again besides, whether the same body is granted, whether another one is
TABLE = [
    (None, NOTHING, True, True),
    (State.IN_FLIGHT, NOTHING, False, False),
    (State.IN_FLIGHT, BOTH, False, False),
    (State.SENT, NOTHING, False, False),
    (State.SENT, BOTH, False, False),
    (State.REJECTED, NOTHING, False, True),
    (State.REJECTED, UNKNOWN, False, True),
    (State.REJECTED, REJECTED, True, True),
    (State.INVALID, NOTHING, True, True),
    (State.NOT_SENT, NOTHING, True, True),
    (State.UNKNOWN, NOTHING, False, False),
    (State.UNKNOWN, REJECTED, False, False),
    (State.UNKNOWN, UNKNOWN, True, True),
]


@pytest.mark.parametrize(("state", "again", "same", "other"), TABLE)
def test_what_may_be_sent_again(
    *, state: State | None, again: frozenset[State], same: bool, other: bool
) -> None:
    entry = None if state is None else Entry("1", state, "body")
    policy = ResendPolicy(again)

    assert policy.allows(entry, "body") is same
    assert policy.allows(entry, "other") is other


def test_the_table_has_a_row_for_every_state() -> None:
    assert {row[0] for row in TABLE} == {None, *State}


@pytest.mark.parametrize(
    ("delivery", "resend", "again"),
    [
        (Delivery.AT_MOST_ONCE, [], NOTHING),
        (Delivery.AT_LEAST_ONCE, [], UNKNOWN),
        (Delivery.AT_MOST_ONCE, [Outcome.UNKNOWN], UNKNOWN),
        (Delivery.AT_MOST_ONCE, Outcome.REJECTED, REJECTED),
        (Delivery.AT_MOST_ONCE, "rejected", REJECTED),
        (Delivery.AT_LEAST_ONCE, {Outcome.REJECTED}, BOTH),
    ],
)
def test_the_resend_policy_of_a_stream(
    delivery: Delivery, resend: list[Outcome], again: frozenset[State]
) -> None:
    assert resend_policy(delivery, resend).states == again


@pytest.mark.parametrize("outcome", ["sent", "skipped", "invalid", "not_sent", "all", 3])
def test_no_other_outcome_can_be_resent(outcome: str) -> None:
    with pytest.raises(ConfigurationError, match="unknown or rejected"):
        resend_policy(Delivery.AT_MOST_ONCE, [outcome])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("states", "found"),
    [
        ([state for state in State if state is not State.SENT], False),
        ([State.REJECTED] * 30 + [State.SENT] + [State.UNKNOWN] * 3, True),
    ],
    ids=["none sent", "one among refusals"],
)
async def test_any_sent_finds_an_accepted_order_of_this_endpoint(
    place: Place, states: list[State], *, found: bool
) -> None:
    async with (
        ledger_at(place) as ledger,
        ledger.session("this", "shop.example") as this,
        ledger.session("other", "other.example") as other,
    ):
        await other.record(Entry("elsewhere", State.SENT))
        assert not await this.any_sent()
        for number, state in enumerate(states):
            await this.record(Entry(str(number), state))
        assert await this.any_sent() is found
        assert await other.any_sent()


async def test_what_is_being_recorded_is_found(path: Path) -> None:
    async with ledger_at(path).session("this", "shop.example") as this:
        this.record(Entry("1", State.SENT))
        assert await this.any_sent()
        this.record(Entry("2", State.SENT))
        assert set(await this.look_up(["2", "3"])) == {"2"}
