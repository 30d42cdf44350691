"""What any ledger answers, and what it may be asked to send again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import attrs
import pytest
from ledger_shop import Place, ledger_at, session_at

from everlytic_async import ConfigurationError, Delivery
from everlytic_async.ledger import Entry, ResendPolicy, State
from everlytic_async.ledger.claims import resend_policy

KNOWN = ResendPolicy()


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


# ------------------------------------------------------------------------------ what a session says


async def test_an_entry_is_read_as_it_was_recorded(place: Place) -> None:
    entry = Entry("1", State.REJECTED, "digest", 3, 422, "it said \x00 no \udc80!")
    async with session_at(place, "1") as session:
        await session.record(entry)
        (found,) = (await session.look_up(["1", "2"])).values()

    assert found.recorded_at > 0
    assert str(found.reason).startswith("it said")
    assert found == attrs.evolve(entry, recorded_at=found.recorded_at, reason=found.reason)


async def test_keys_hold_for_their_scope(place: Place) -> None:
    async with ledger_at(place) as ledger:
        for scope in ("one", "two", "an odd one.>*"):
            async with ledger.session(scope, "s.example") as session:
                assert await session.look_up(["1"]) == {}
                assert await session.claim("1", "body", KNOWN) == (True, None)
                assert (await session.look_up(["1"]))["1"].state is State.IN_FLIGHT


@pytest.mark.parametrize("known", [None, *State])
async def test_invalid_replaces_only_what_is_harmless(place: Place, known: State | None) -> None:
    async with session_at(place) as session:
        if known is State.IN_FLIGHT:
            await session.claim("1", "body", KNOWN)
        elif known is not None:
            await session.record(Entry("1", known, "body"))
        await session.record(Entry("1", State.INVALID))
        harmless = known in (None, State.INVALID, State.NOT_SENT)
        found = (await session.look_up(["1"]))["1"]
        assert found.state is (State.INVALID if harmless else known)
        await session.record(Entry("1", State.SENT))  # a claim has not ended by that
        assert (await session.look_up(["1"]))["1"].state is State.SENT


async def test_many_are_looked_up(place: Place) -> None:
    keys = [str(number) for number in range(600)]
    async with session_at(place) as session:
        await asyncio.gather(*(session.record(Entry(key, State.SENT)) for key in keys[::2]))
        assert list(await session.look_up(keys)) == keys[::2]


async def test_what_a_run_leaves_in_flight_is_unknown(place: Place) -> None:
    again = ResendPolicy(frozenset({State.UNKNOWN}))
    async with session_at(place, "1"), session_at(place) as other:
        assert (await other.look_up(["1"]))["1"].state is State.IN_FLIGHT
        assert not (await other.claim("1", "body", again))[0]
    async with session_at(place) as other:
        (entry,) = (await other.look_up(["1"])).values()
        assert (entry.state, entry.body_digest) == (State.UNKNOWN, "body")
        assert "ended before the outcome" in str(entry.reason)
        assert not (await other.claim("1", "body", KNOWN))[0]
        assert await other.claim("1", "body", again) == (True, entry)
