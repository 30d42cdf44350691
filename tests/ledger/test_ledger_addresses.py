"""Spellings of one address share one memory, in ledgers of earlier versions too."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from ledger_shop import Place, Shop, a_bucket, ledger_at, states_of

from everlytic_async import Outcome, SkippedError
from everlytic_async._wire import PATH
from everlytic_async.ledger import Entry, LedgerFile, State
from support.delivery import STORE_HASH, order

# From what forbids least to what forbids most, as the design ranks them.
RANKS: Mapping[State, int] = {
    State.NOT_SENT: 0,
    State.INVALID: 0,
    State.REJECTED: 1,
    State.UNKNOWN: 2,
    State.IN_FLIGHT: 2,
    State.SENT: 3,
}


@pytest.fixture(params=["sqlite", "nats"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        return tmp_path / "orders.ledger"
    return a_bucket(request.getfixturevalue("nats_url"))


def old_scope(address: str, store_hash: str = STORE_HASH) -> str:
    """As versions made it that knew no normal form."""
    return hashlib.sha256(f"{address}{PATH}\0{store_hash}".encode()).hexdigest()[:32]


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    """A shop at an address that can be written in many ways."""
    async with Shop().open() as shop:
        shop.url = shop.url.replace("localhost", "127.0.0.1")
        yield shop


async def keep(place: Place, scope: str, host: str, *entries: Entry) -> None:
    async with ledger_at(place) as ledger, ledger.session(scope, host) as session:
        for entry in entries:
            await session.record(entry)


async def outcomes(shop: Shop, place: Place, *ids: str) -> dict[str, Outcome]:
    async with shop.client() as client:
        orders = [order(int(id_)) for id_ in ids]
        report = await client.send_orders(orders, ledger=ledger_at(place))
    return {str(result.key): result.outcome for result in report.results}


def spellings(url: str) -> list[str]:
    """The same address of a server on 127.0.0.1, written otherwise."""
    port = url.rpartition(":")[2]
    return [
        f"http://127.0.0.1:{port}/",
        f"HTTP://127.0.0.1.:0{port}",
        f"http://127.1:{port}/./",
        f"http://0x7f.0.0.1:{port}/x/..",
    ]


async def test_an_order_is_sent_once_however_the_address_is_written(
    shop: Shop, place: Place
) -> None:
    url = shop.url
    for number, spelling in enumerate(spellings(url)):
        shop.url = spelling
        expected = Outcome.SKIPPED if number else Outcome.SENT
        assert await outcomes(shop, place, "1") == {"1": expected}, spelling
    assert shop.posts == {"1": 1}


async def test_an_old_ledger_is_known_by_the_host_as_it_was_written(
    shop: Shop, place: Place
) -> None:
    port = shop.url.rpartition(":")[2]
    written = f"127.0.0.1.:{port}"  # the spelling that it was called by then
    await keep(place, old_scope(f"http://{written}"), written, Entry("1", State.SENT))
    await keep(place, old_scope(f"http://{written}", "another"), written, Entry("2", State.SENT))
    await keep(place, old_scope(f"http://{written}/other"), written, Entry("3", State.SENT))
    found = await outcomes(shop, place, "1", "2", "3", "4")
    again = await outcomes(shop, place, "1", "2", "3", "4")

    assert found == {"1": Outcome.SKIPPED} | dict.fromkeys("234", Outcome.SENT)
    assert again == dict.fromkeys("1234", Outcome.SKIPPED)


async def test_an_old_sqlite_ledger_is_known_by_any_host_that_it_noted(
    shop: Shop, tmp_path: Path
) -> None:
    path = tmp_path / "orders.ledger"
    port = shop.url.rpartition(":")[2]
    for key, host in enumerate(("0x7f.1", "127.0.0.01", "0177.1", "127.0.0.1")):
        written = f"{host}:000{port}" if key else f"{host}:{port}"
        await keep(path, old_scope(f"http://{written}"), written, Entry(str(key), State.SENT))
    assert await outcomes(shop, path, *"0123") == dict.fromkeys("0123", Outcome.SKIPPED)
    with LedgerFile(path, must_exist=True) as file:
        overview = file.summary()
    assert overview.hosts == (f"127.0.0.1:{port}",)
    assert overview.counts[State.SENT] == 4


@pytest.mark.parametrize("new_first", [False, True])
async def test_where_old_entries_meet_what_forbids_more_wins(
    shop: Shop, place: Place, *, new_first: bool
) -> None:
    states = [state for state in State if state is not State.IN_FLIGHT]
    pairs = [(one, other) for one in states for other in states]
    host = shop.url.removeprefix("http://")
    dotted = host.replace(":", ".:")
    first = (old_scope(f"http://{host}"), host)
    second = (old_scope(f"http://{dotted}"), dotted)
    order_of = [(first, 0), (second, 1)]
    for (scope, noted), side in reversed(order_of) if new_first else order_of:
        entries = [Entry(str(n), pair[side]) for n, pair in enumerate(pairs)]
        await keep(place, scope, noted, *entries)
    found = await outcomes(shop, place, *(str(n) for n in range(len(pairs))))

    for number, pair in enumerate(pairs):
        worst = max(pair, key=RANKS.__getitem__)
        # A refusal without the order's own body is one of another body: it is sent again.
        sent = worst in (State.NOT_SENT, State.INVALID, State.REJECTED)
        assert found[str(number)] is (Outcome.SENT if sent else Outcome.SKIPPED), pair
    if isinstance(place, Path):
        kept = states_of(place)
        assert [
            pair
            for number, pair in enumerate(pairs)
            if max(RANKS[state] for state in pair) != RANKS[kept[str(number)]]
            and kept[str(number)] is not State.SENT  # it was sent now
        ] == []


# ------------------------------------------------------------------------------------- the keys


def old_key(key: str, *, own: bool = False) -> str:
    """As versions kept it that knew no normal form."""
    if re.fullmatch(r"[\w#./:+-]{1,100}(?:@[0-9]{0,19})?", key) and not own:
        return key
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()[:32]}"


SPELLINGS = [
    ("1001", " 1001"),
    (" 1001", " 1001"),
    ("caf\u00e9", "caf\u00e9"),
    ("caf\u00e9", "cafe\u0301"),
    ("cafe\u0301", "cafe\u0301"),
    ("cafe\u0301", "caf\u00e9"),
    ("cafe\u0301 ", "cafe\u0301 "),
]


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(("kept", "now"), SPELLINGS)
async def test_old_keys_are_found_as_they_were_kept(
    shop: Shop, place: Place, kept: str, now: str, *, own: bool
) -> None:
    host = shop.url.removeprefix("http://")
    for state in (State.SENT, State.UNKNOWN):
        entry = Entry(old_key(kept, own=own), state)
        await keep(place, old_scope(f"http://{host}"), host, entry)
        async with shop.client() as client:
            given = order(1) if own else order(1, order_id=now)
            report = await client.send_orders(
                [given], ledger=ledger_at(place), key=(lambda _order: now) if own else None
            )
        (result,) = report.results
        assert isinstance(result.error, SkippedError)
        assert result.error.state == state
    assert not shop.posts


@pytest.mark.parametrize("ids", [("1001", " 1001"), ("cafe\u0301", "caf\u00e9 ")])
async def test_spellings_of_one_id_are_one_order(
    shop: Shop, place: Place, ids: tuple[str, ...]
) -> None:
    async with shop.client() as client:
        for number, id_ in enumerate(ids):
            given = [order(1, order_id=id_)]
            (result,) = (await client.send_orders(given, ledger=ledger_at(place))).results
            assert result.outcome is (Outcome.SKIPPED if number else Outcome.SENT)
    assert shop.posts.total() == 1
