"""Under what name a ledger keeps an order: spellings of one id and of one address share one memory.

In ledgers of earlier versions too, which compared both as they were written.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ledger_shop import Place, keep, ledger_at, read_states

from everlytic_async import Outcome, SkippedError
from everlytic_async._encoding import encode, order_key
from everlytic_async._endpoint import PATH
from everlytic_async.ledger import Entry, LedgerFile, State, storage_key
from everlytic_async.orders import Order
from support.delivery import STORE_HASH, order
from support.shop import Shop

DIGEST = re.compile(r"sha256:[0-9a-f]{32}")
NAMES = st.one_of(
    st.text(),
    st.text(st.characters(codec=None, categories=["Cs", "L", "N"])),
    st.emails(),
    st.emails().map("sha256:{}".format),
    st.builds("{}@{}".format, st.text(max_size=5), st.text(max_size=5)),
)


def normal(name: str) -> str:
    """A name without an order id's trailing white space, which may be before a workflow."""
    return re.sub(r"\s+(?=@[0-9]*\Z)", "", unicodedata.normalize("NFC", name.strip()))


@settings(max_examples=50)
@given(name=NAMES, custom=st.booleans())
@example(name="sha256:jane@shop.example", custom=False)
@example(name="sha256:jane@shop.example", custom=True)
@example(name="jane@shop.example\n", custom=False)
@example(name="12@3\n", custom=False)
@example(name="caf\u00e9-7", custom=False)
@example(name="\u212b", custom=True)
@example(name="1001", custom=False)
def test_a_stored_key_is_a_number_or_a_digest(*, name: str, custom: bool) -> None:
    key = storage_key(name, custom=custom)

    assert re.search(r"@(?![0-9]*\Z)", key) is None
    assert storage_key(key, custom=custom) == key
    assert DIGEST.fullmatch(key) or (key == normal(name) and not custom and len(key) <= 120)
    assert re.search(r"\s", key) is None
    key.encode()  # no half characters
    for form in ("NFC", "NFD"):  # as it is usual on macOS
        spelling = f"\u00a0{unicodedata.normalize(form, name)}\t\n"
        assert storage_key(spelling, custom=custom) == key


@settings(max_examples=50)
@given(st.lists(NAMES, min_size=2, max_size=2, unique_by=normal))
@example(["a\udc80", "a\udc81"])
@example(["a?", "a\udc81"])
def test_two_names_are_two_keys(names: list[str]) -> None:
    assert storage_key(names[0], custom=True) != storage_key(names[1], custom=True)


@pytest.mark.parametrize(
    "name", ["1001", "1001@32", "#1001", "WC-2024/17", "1001@", "0000003", "gid://shopify/Order/9"]
)
def test_a_shops_numbers_are_kept_as_they_are(name: str) -> None:
    assert storage_key(name) == name
    assert DIGEST.fullmatch(storage_key(name, custom=True))


def key_for(**fields: object) -> str:
    return order_key(made := Order.from_mapping(order(1, **fields)), encode(made))


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({"order_id": "1001 "}, {"order_id": "1001"}),
        ({"order_id": " 1001 ", "workflow_id": 32}, {"order_id": "1001", "workflow_id": 32}),
        ({"order_id": 1001}, {"order_id": "\t1001"}),
        ({"order_id": "7@32 "}, {"order_id": "7@32"}),
    ],
)
def test_an_order_ids_white_space_is_not_part_of_its_key(
    fields: dict[str, object], same: dict[str, object]
) -> None:
    assert storage_key(key_for(**fields)) == storage_key(key_for(**same))


def test_an_order_id_that_looks_like_a_pair_is_not_one() -> None:
    pair = storage_key(key_for(order_id="7", workflow_id=32))
    assert pair not in {storage_key(key_for(order_id=id_)) for id_ in ("7@32", "7 @32", " 7@32")}


# ---------------------------------------------------------------------------------- in old ledgers


def old_scope(address: str, store_hash: str = STORE_HASH) -> str:
    """As versions without a normal form computed it."""
    return hashlib.sha256(f"{address}{PATH}\0{store_hash}".encode()).hexdigest()[:32]


def old_key(key: str, *, custom: bool) -> str:
    if re.fullmatch(r"[\w#./:+-]{1,100}(?:@[0-9]{0,19})?", key) and not custom:
        return key
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()[:32]}"


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    """A shop at an address that can be written in many ways."""
    async with Shop() as shop:
        shop.url = shop.url.replace("localhost", "127.0.0.1")
        yield shop


async def outcomes(shop: Shop, place: Place, *ids: str) -> dict[str, Outcome]:
    async with shop.opened_client() as client:
        orders = [order(int(id_)) for id_ in ids]
        report = await client.send_orders(orders, ledger=ledger_at(place))
    return {str(result.key): result.outcome for result in report.results}


async def test_an_order_is_sent_once_however_the_address_is_written(
    shop: Shop, place: Place
) -> None:
    port = shop.url.rpartition(":")[2]
    for number, spelling in enumerate(
        [
            f"http://127.0.0.1:{port}",
            f"http://127.0.0.1:{port}/",
            f"HTTP://127.0.0.1.:0{port}",
            f"http://127.1:{port}/./",
            f"http://0x7f.0.0.1:{port}/x/..",
        ]
    ):
        shop.url = spelling
        expected = Outcome.SKIPPED if number else Outcome.SENT
        assert await outcomes(shop, place, "1") == {"1": expected}, spelling
    assert shop.posts == {"1": 1}


async def test_an_old_ledger_is_found_by_the_host_as_it_was_written(
    shop: Shop, place: Place
) -> None:
    host = f"127.0.0.1.:{shop.url.rpartition(':')[2]}"
    for key, scope in (
        ("1", old_scope(f"http://{host}")),
        ("2", old_scope(f"http://{host}", "another store")),
        ("3", old_scope(f"http://{host}/other")),
    ):
        await keep(place, Entry(key, State.SENT), scope=scope, host=host)
    found = await outcomes(shop, place, "1", "2", "3", "4")
    again = await outcomes(shop, place, "1", "2", "3", "4")

    assert found == {"1": Outcome.SKIPPED} | dict.fromkeys("234", Outcome.SENT)
    assert again == dict.fromkeys("1234", Outcome.SKIPPED)


async def test_an_old_sqlite_ledger_is_found_by_any_host_that_it_noted(
    shop: Shop, path: Path
) -> None:
    port = shop.url.rpartition(":")[2]
    for key, host in enumerate(("127.0.0.1:", "0x7f.1:000", "127.0.0.01:000", "0177.1:000")):
        written = f"{host}{port}"
        entry = Entry(str(key), State.SENT)
        await keep(path, entry, scope=old_scope(f"http://{written}"), host=written)
    assert await outcomes(shop, path, *"0123") == dict.fromkeys("0123", Outcome.SKIPPED)
    with LedgerFile(path, must_exist=True) as file:
        summary = file.summary()
    assert summary.hosts == (f"127.0.0.1:{port}",)
    assert summary.counts[State.SENT] == 4


#: From what forbids least to what forbids most, as the design ranks them.
RANKS = {State.NOT_SENT: 0, State.INVALID: 0, State.REJECTED: 1, State.UNKNOWN: 2, State.SENT: 3}


@pytest.mark.parametrize("new_first", [False, True])
async def test_where_old_entries_meet_the_one_that_forbids_more_wins(
    shop: Shop, place: Place, *, new_first: bool
) -> None:
    pairs = [(one, other) for one in RANKS for other in RANKS]
    host = shop.url.removeprefix("http://")
    sides = [(host, 0), (host.replace(":", ".:"), 1)]
    for written, side in reversed(sides) if new_first else sides:
        entries = [Entry(str(number), pair[side]) for number, pair in enumerate(pairs)]
        await keep(place, *entries, scope=old_scope(f"http://{written}"), host=written)
    found = await outcomes(shop, place, *map(str, range(len(pairs))))

    kept = read_states(place)
    for number, pair in enumerate(pairs):
        # A refusal without the order's own body is one of another body: it is sent again.
        forbids = max(map(RANKS.__getitem__, pair)) >= RANKS[State.UNKNOWN]
        assert found[str(number)] is (Outcome.SKIPPED if forbids else Outcome.SENT), pair
        if isinstance(place, Path) and forbids:
            assert RANKS[kept[str(number)]] == max(RANKS[state] for state in pair)


@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize(
    ("kept", "now"),
    [
        ("1001", " 1001"),
        (" 1001", " 1001"),
        ("caf\u00e9", "cafe\u0301"),
        ("cafe\u0301", "cafe\u0301"),
        ("cafe\u0301", "caf\u00e9"),
        ("cafe\u0301 ", "cafe\u0301 "),
    ],
)
async def test_old_keys_are_found_as_they_were_kept(
    shop: Shop, place: Place, kept: str, now: str, *, custom: bool
) -> None:
    host = shop.url.removeprefix("http://")
    settings: dict[str, Any] = {"scope": old_scope(f"http://{host}"), "host": host}
    source = [order(1) if custom else order(1, order_id=now)]
    key = (lambda _order: now) if custom else None
    async with shop.opened_client() as client:
        for state in (State.SENT, State.UNKNOWN):
            await keep(place, Entry(old_key(kept, custom=custom), state), **settings)
            report = await client.send_orders(source, ledger=ledger_at(place), key=key)
            assert isinstance(report.results[0].error, SkippedError)
            assert report.results[0].error.state == state
    assert not shop.posts
