"""Whether a ledger knows that an endpoint ever accepted an order of a store."""

from __future__ import annotations

from pathlib import Path

import pytest
from ledger_shop import Place, a_bucket, ledger_at

from everlytic_async.ledger import Entry, State


@pytest.fixture(params=["sqlite", "nats"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        return tmp_path / "orders.ledger"
    return a_bucket(request.getfixturevalue("nats_url"))


@pytest.mark.parametrize(
    ("states", "found"),
    [
        ([], False),
        ([state for state in State if state is not State.SENT], False),
        ([State.SENT], True),
        ([State.REJECTED] * 30 + [State.SENT] + [State.UNKNOWN] * 3, True),
    ],
    ids=["nothing", "none sent", "one sent", "one among refusals"],
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
        for number, state in enumerate(states):
            await this.record(Entry(str(number), state))

        assert await this.any_sent() is found
        assert await other.any_sent()


async def test_any_sent_sees_what_is_recorded_in_the_same_moment(place: Place) -> None:
    async with ledger_at(place) as ledger, ledger.session("this", "shop.example") as this:
        recording = this.record(Entry("1", State.SENT))
        if isinstance(place, Path):
            assert await this.any_sent()
        await recording
        assert await this.any_sent()
