"""Orders sent with a ledger, against a server: what a second run does, and that the ledger, the
results and the server's count agree however a run ends. With each kind of ledger.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_shop import (
    Place,
    agree,
    assert_nothing_personal,
    ledger_at,
    read_entries,
    read_states,
    send_personal_orders,
)

from everlytic_async import (
    BatchReport,
    BatchStoppedError,
    Delivery,
    EverlyticClient,
    InvalidOrderError,
    OrderResult,
    Outcome,
    Pacing,
    SkippedError,
    SourceError,
)
from everlytic_async.ledger import State, storage_key
from support.delivery import order, orders, streamed
from support.shop import Shop

SENT, SKIPPED, UNKNOWN = Outcome.SENT, Outcome.SKIPPED, Outcome.UNKNOWN
REJECTED = Outcome.REJECTED


async def send_all(
    client: EverlyticClient, source: Any, place: Place, **settings: Any
) -> BatchReport:
    return await client.send_orders(source, ledger=ledger_at(place), **settings)


async def send_one(client: EverlyticClient, raw: Any, place: Place, **settings: Any) -> OrderResult:
    (result,) = (await send_all(client, [raw], place, **settings)).results
    return result


def skipped_as(result: OrderResult) -> tuple[str | None, bool]:
    assert result.outcome is SKIPPED
    assert isinstance(result.error, SkippedError)
    return result.error.state, result.error.other_body


# --------------------------------------------------------------------------- what a second run does


FATES = {"sent": "accept", "unknown": "lose", "rejected": "refuse", "not_sent": "throttle"}
ONCE, AT_LEAST = Delivery.AT_MOST_ONCE, Delivery.AT_LEAST_ONCE
NEVER: tuple[Outcome, ...] = ()

# the first run's outcome, how the second is run, whether its content has changed, and what comes;
# what is in flight meanwhile has a test of its own
SECOND_RUNS: list[tuple[str, Delivery, Any, bool, Outcome]] = [
    ("sent", ONCE, NEVER, False, SKIPPED),
    ("sent", ONCE, NEVER, True, SKIPPED),
    ("sent", AT_LEAST, (UNKNOWN, REJECTED), True, SKIPPED),
    ("unknown", ONCE, NEVER, False, SKIPPED),
    ("unknown", ONCE, NEVER, True, SKIPPED),
    ("unknown", ONCE, (REJECTED,), True, SKIPPED),
    ("unknown", ONCE, (UNKNOWN,), False, SENT),
    ("unknown", AT_LEAST, NEVER, False, SENT),
    ("rejected", ONCE, NEVER, False, SKIPPED),
    ("rejected", AT_LEAST, (UNKNOWN,), False, SKIPPED),
    ("rejected", ONCE, NEVER, True, SENT),
    ("rejected", ONCE, (UNKNOWN,), True, SENT),
    ("rejected", AT_LEAST, {REJECTED}, False, SENT),
    ("rejected", ONCE, REJECTED, False, SENT),
    ("rejected", ONCE, "rejected", False, SENT),
    ("not_sent", ONCE, NEVER, False, SENT),
    ("not_sent", AT_LEAST, NEVER, True, SENT),
    ("invalid", ONCE, NEVER, True, SENT),
]


@pytest.mark.parametrize(("first", "delivery", "resend", "changed", "second"), SECOND_RUNS)
async def test_what_a_second_run_does(
    *,
    place: Place,
    first: str,
    delivery: Delivery,
    resend: Any,
    changed: bool,
    second: Outcome,
) -> None:
    before = {"order_id": "1"} if first == "invalid" else order(1)
    after = order(1, products=[{"product_name": "Bucket"}]) if changed else order(1)
    source = streamed if changed else list
    async with Shop(_1=FATES.get(first, "accept")) as server:
        async with server.opened_client() as client:
            await send_one(client, order(0), place)  # the account and the address are right
            assert (await send_one(client, before, place)).outcome == first
        assert read_states(place) == {"0": State.SENT, "1": State(first)}
        processed = server.processed["1"]
        server.fates.clear()
        async with server.opened_client(delivery=delivery) as client:
            report = await send_all(client, source([after]), place, resend=resend)

    (result,) = report.results
    assert result.outcome is second
    assert server.processed["1"] == processed + (second is SENT)
    if second is SKIPPED:
        assert skipped_as(result) == (first, changed)
    else:
        assert result.duplicate_risk is (first == "unknown")
    kept = State(first) if second is SKIPPED else State.SENT
    assert read_states(place) == {"0": State.SENT, "1": kept}


async def test_what_another_run_has_in_flight_is_skipped(place: Place) -> None:
    server = Shop(_1="hang")
    async with (
        server,
        server.opened_client(ledger=ledger_at(place)) as client,
        server.opened_client() as other,
    ):
        arrived = asyncio.Event()
        server.on_order = lambda _order_id: arrived.set()
        sending = asyncio.ensure_future(client.send_order(order(1)))
        await arrived.wait()
        for changed in (False, True):
            raw = order(1, taxes="1") if changed else order(1)
            result = await send_one(other, raw, place, resend=[UNKNOWN, REJECTED])
            assert skipped_as(result) == ("in_flight", changed)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)

    assert server.posts == {"1": 1}
    (entry,) = read_entries(place).values()
    assert (entry.state, entry.attempts) == (State.UNKNOWN, 1)
    assert entry.reason == "it was cancelled"


@pytest.mark.parametrize("fate", ["refuse", "throttle", "lose"])
async def test_what_may_have_been_processed_once_stays_unknown(place: Place, fate: str) -> None:
    async with Shop(_1="lose") as server:
        async with server.opened_client() as client:
            assert (await send_one(client, order(1), place)).outcome is UNKNOWN
        server.fates["1"] = fate
        async with server.opened_client(delivery=Delivery.AT_LEAST_ONCE) as client:
            result = await send_one(client, order(1), place)

    assert result.outcome is UNKNOWN
    assert result.duplicate_risk is (fate == "lose")
    assert read_states(place) == {"1": State.UNKNOWN}


# ----------------------------------------------------------------------------- twice in one input


@pytest.mark.parametrize("delivery", Delivery)
async def test_what_is_resent_is_resent_once_in_a_run(place: Place, delivery: Delivery) -> None:
    async with Shop(_1="lose", _2="refuse", _3="accept") as server:
        async with server.opened_client() as client:
            await send_all(client, [order(1), order(2), order(3)], place)
        async with server.opened_client(1, delivery=delivery) as client:
            report = await send_all(
                client,
                [order(number) for number in (1, 2, 3, 1, 2, 3)],
                place,
                resend=[UNKNOWN, REJECTED],
                ordered=True,
            )

    outcomes = [result.outcome for result in report.results]
    assert outcomes == [UNKNOWN, REJECTED, SKIPPED, SKIPPED, SKIPPED, SKIPPED]
    assert server.posts["2"] == 2
    assert server.posts["3"] == 1


# ------------------------------------------------------------------------------- keys and secrets


KEYS: list[tuple[dict[str, Any], str]] = [
    ({"order_id": 1001}, "1001"),
    ({"order_id": "1001", "workflow_id": 32}, "1001@32"),
    ({"order_id": "jane.doe@shop.example"}, storage_key("jane.doe@shop.example")),
    ({"order_id": "Jane Doe, 5 Long Street"}, storage_key("Jane Doe, 5 Long Street")),
]


async def test_an_order_is_kept_by_its_key_or_a_digest_of_its_content(path: Path) -> None:
    nameless = order(1)
    del nameless["order_id"]
    raws = [order(1, **fields) for fields, _ in KEYS]
    raws += [nameless, {**nameless, "contact_email": "b@shop.example"}]
    async with Shop().opened_client() as client:
        for outcome in (SENT, SKIPPED):
            for raw in raws:
                assert (await send_one(client, raw, path)).outcome is outcome
    kept, named = read_states(path), {key for _, key in KEYS}
    assert list(kept.values()) == [State.SENT] * len(raws)
    assert named < kept.keys()
    assert all(key.startswith("sha256:") for key in kept.keys() - named)


async def test_a_custom_key_never_equals_an_order_id(place: Place) -> None:
    server = Shop()
    async with server.opened_client() as client:
        # Each customer once: that customer 2 is served says nothing about order 2.
        report = await send_all(client, [order(1)], place, key=lambda _order: "2")
        assert report.counts[SENT] == 1
        report = await send_all(client, orders(3), place)
        assert report.counts[SENT] == 3
        report = await send_all(client, orders(3), place, key=lambda order: int(order["order_id"]))
        assert report.counts == {**report.counts, SENT: 2, SKIPPED: 1}
    assert {result.key for result in report.results} == {"0", "1", "2"}
    assert server.processed == {"0": 2, "1": 3, "2": 1}
    custom = {storage_key(key, custom=True) for key in "012"}
    assert set(read_states(place)) == {*"012", *custom}


@pytest.mark.parametrize("key", [lambda _raw: None, lambda _raw: b"1", lambda _raw: True])
async def test_a_key_that_is_not_text_makes_an_order_invalid(path: Path, key: Any) -> None:
    server = Shop()
    async with server.opened_client() as client:
        report = await send_all(client, orders(3), path, key=key)

    assert report.counts[Outcome.INVALID] == 3
    assert "TypeError" in str(report.results[0].error)
    assert not server.posts


async def test_each_store_has_its_own_orders(place: Place) -> None:
    server = Shop()
    async with server:
        for store_hash in ("one", "two", "one"):
            async with server.opened_client(store_hash=store_hash) as client:
                await send_one(client, order(1), place)
    assert server.processed == {"1": 2}


async def test_nothing_personal_is_in_the_file(path: Path) -> None:
    async with ledger_at(path) as ledger:
        counts = await send_personal_orders(ledger)
        files = list(path.parent.iterdir())
        stored = b"".join(each.read_bytes() for each in files)

    assert {f"{path.name}-wal", path.name} <= {each.name for each in files}
    assert counts[SENT] == 2
    assert_nothing_personal(stored)


# -------------------------------------------------------------------------- intent before the bytes


@pytest.mark.parametrize("kind", [list, streamed])
async def test_an_order_that_arrives_is_on_record_as_in_flight(
    path: Path, kind: Callable[[Iterable[Any]], Any]
) -> None:
    server = Shop()
    found = []
    server.on_order = lambda order_id: found.append(read_states(path)[order_id])
    async with server.opened_client(16) as client:
        report = await send_all(client, kind(orders(64)), path)

    assert report.counts[SENT] == 64
    assert found == [State.IN_FLIGHT] * 64


async def test_a_result_is_handed_out_when_its_outcome_is_on_record(place: Place) -> None:
    server = Shop(_3="refuse", _5="lose", _7="throttle")
    source = [*orders(10), {"order_id": "10"}]
    async with server.opened_client() as client:
        await client.send_order(order(99))  # refusals are the orders' fault from now on
        async with client.stream_orders(source, ledger=ledger_at(place)) as results:
            async for result in results:
                assert read_states(place)[str(result.key)] == State(result.outcome)


@pytest.mark.parametrize("is_valid", [True, False])
async def test_the_orders_of_a_group_wait_for_one_commit(path: Path, *, is_valid: bool) -> None:
    source = orders(256) if is_valid else ({"order_id": str(number)} for number in range(256))
    async with Shop().opened_client(64) as client:
        report = await send_all(client, source, path)
    with closing(sqlite3.connect(path)) as connection:
        ((committed,),) = connection.execute("SELECT committed FROM runs").fetchall()

    assert report.counts[SENT if is_valid else Outcome.INVALID] == 256
    assert 0 < committed < 256 / 4
    assert len(read_states(path)) == 256


# ------------------------------------------------------------------------------- however a run ends


class Ending:
    """What came of a run, for comparison with the ledger and the server."""

    def __init__(self) -> None:
        self.results: list[OrderResult] = []
        self.error: BaseException | None = None
        self.read = 0

    def source(self, count: int, raises_after: int | None = None) -> Iterator[dict[str, Any]]:
        for number in range(count):
            if number == raises_after:
                raise ValueError("broken")
            self.read += 1
            yield order(number)

    async def streamed(self, count: int, raises_after: int | None = None) -> AsyncIterator[Any]:
        source = self.source(count, raises_after)
        while True:
            await asyncio.sleep(0)  # before it reads, so that what is read is handed out
            try:
                yield next(source)
            except StopIteration:
                return

    async def run(
        self,
        client: EverlyticClient,
        source: Any,
        place: Place,
        *,
        leave_after: int | None = None,
        **settings: Any,
    ) -> None:
        async with client.stream_orders(source, ledger=ledger_at(place), **settings) as stream:
            try:
                async for result in stream:
                    self.results.append(result)
                    if len(self.results) == leave_after:
                        break
            except (BatchStoppedError, SourceError) as error:
                self.error = error


async def send_the_rest(place: Place, server: Shop, count: int) -> None:
    """A second run: all is sent but what may have been, and nothing twice."""
    server.fates.clear()
    async with server.opened_client() as client:
        await send_all(client, orders(count), place)
    states = read_states(place)
    agree(states, server)
    assert len(states) == count
    assert set(states.values()) <= {State.SENT, State.UNKNOWN, State.REJECTED}


@pytest.mark.parametrize(
    ("ending", "kind", "ordered"),
    [
        ("end", Ending.source, False),
        ("end", Ending.streamed, True),
        ("source", Ending.source, True),
        ("source", Ending.streamed, False),
        ("401", Ending.source, True),
        ("401", Ending.streamed, False),
        ("break", Ending.source, True),
        ("break", Ending.streamed, False),
    ],
)
async def test_results_ledger_and_server_agree(
    *, place: Place, kind: Callable[..., Any], ordered: bool, ending: str
) -> None:
    count, end = 60, Ending()
    source = kind(end, count, 41 if ending == "source" else None)
    async with Shop(_7="lose", _9="refuse", _11="throttle", _13="fail") as server:
        if ending == "401":
            server.fates["30"] = "unauthorized"
        async with server.opened_client() as client:
            leave_after = 20 if ending == "break" else None
            await end.run(client, source, place, ordered=ordered, leave_after=leave_after)
        states = read_states(place)
        agree(states, server)
        for result in end.results:
            if result.outcome is Outcome.NOT_SENT:
                assert states.get(str(result.key), State.NOT_SENT) is State.NOT_SENT
            else:
                assert states[str(result.key)] == State(result.outcome)
        errors = {"source": SourceError, "401": BatchStoppedError}
        assert type(end.error) is errors.get(ending, type(None))
        assert ending != "end" or len(end.results) == count
        assert ending != "source" or end.read == 41
        await send_the_rest(place, server, count)
    indexes = [result.index for result in end.results]
    if ending == "break":
        assert len(set(indexes)) == len(indexes)
    else:
        assert (indexes if ordered else sorted(indexes)) == list(range(end.read))


@pytest.mark.parametrize(
    ("kind", "seed"),
    [
        (Ending.source, 0),
        (Ending.source, 1),
        (Ending.streamed, 2),
        (Ending.streamed, 3),
    ],
)
async def test_ledger_and_server_agree_whenever_it_is_cancelled(
    place: Place, kind: Callable[..., Any], seed: int
) -> None:
    rng = random.Random(seed)
    # What hangs uses up the stream's whole grace.
    async with Shop(_3="lose" if seed else "hang", _5="lose") as server:
        for _ in range(3):
            end = Ending()
            async with server.opened_client() as client:
                running = asyncio.ensure_future(end.run(client, kind(end, 40), place))
                for _ in range(int(2 ** rng.uniform(0, 11))):
                    await asyncio.sleep(0)
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
            # If everything that is left is known, it may have ended before.
            assert running.cancelled() or len(end.results) == end.read == 40
            agree(read_states(place), server)
        await send_the_rest(place, server, 40)


async def test_what_waits_for_its_turn_when_it_is_cancelled_was_not_sent(
    place: Place,
) -> None:
    server = Shop()
    arrived = asyncio.Event()
    server.on_order = lambda _order_id: arrived.set()
    pacing = Pacing(max_concurrency=4, max_rate=0.01, adaptive=False)
    async with server.opened_client(pacing=pacing) as client:
        running = asyncio.ensure_future(send_all(client, orders(20), place))
        await arrived.wait()
        # The others are claimed, and wait to be admitted.
        while list(read_states(place).values()).count(State.IN_FLIGHT) < 3:  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.001)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    states = read_states(place)
    agree(states, server)
    assert list(states.values()).count(State.NOT_SENT) >= 3


# --------------------------------------------------------------------------- whatever comes, twice


NUMBERS = st.integers(0, 9)


@given(
    numbers=st.lists(NUMBERS | st.just(None), max_size=20),
    variants=st.lists(st.booleans(), min_size=20, max_size=20),
    fates=st.dictionaries(
        NUMBERS.map(str), st.sampled_from(["lose", "refuse", "throttle", "fail"])
    ),
    later=st.dictionaries(NUMBERS.map(str), st.sampled_from(["lose", "refuse"])),
    kind=st.sampled_from([iter, streamed]),
    ordered=st.booleans(),
    concurrency=st.integers(1, 6),
    delivery=st.sampled_from(Delivery),
    resend=st.sampled_from([(), (Outcome.REJECTED,)]),
)
def test_there_is_one_result_for_every_order_read(
    *,
    numbers: list[int | None],
    variants: list[bool],
    fates: dict[str, str],
    later: dict[str, str],
    kind: Callable[[Iterable[Any]], Any],
    ordered: bool,
    concurrency: int,
    delivery: Delivery,
    resend: tuple[Outcome, ...],
) -> None:
    given_orders: list[Any] = [
        InvalidOrderError(["line: no order"], place)
        if number is None
        else order(number, products=[{"product_name": "Mop" if variant else "Bucket"}])
        for place, (number, variant) in enumerate(zip(numbers, variants, strict=False))
    ]

    async def twice(path: Path) -> tuple[list[list[OrderResult]], Shop]:
        runs = []
        async with Shop() as server:
            for fate in (fates, later):
                server.fates = {**fate}
                async with server.opened_client(concurrency, delivery=delivery) as client:
                    await client.send_order(order(99))  # losing all is not the address's fault
                    report = await send_all(
                        client, kind(given_orders), path, ordered=ordered, resend=resend
                    )
                runs.append(list(report.results))
        return runs, server

    with TemporaryDirectory() as directory:
        path = Path(directory) / "orders.ledger"
        runs, server = asyncio.run(twice(path))
        states = read_states(path)

    for results in runs:
        indexes = [result.index for result in results]
        assert (indexes if ordered else sorted(indexes)) == list(range(len(given_orders)))
        by_key: dict[str, list[Outcome]] = {}
        for result in results:
            assert result.order is given_orders[result.index]
            assert (result.key is None) == (result.outcome is Outcome.INVALID)
            if result.key is not None:
                by_key.setdefault(result.key, []).append(result.outcome)
        for outcomes in by_key.values():
            done = [each for each in outcomes if each in (SENT, UNKNOWN)]
            assert len(done) <= 1
    if delivery is Delivery.AT_MOST_ONCE:
        assert all(count == 1 for key, count in server.processed.items() if key != "99")
    assert set(states) == {str(number) for number in numbers if number is not None}
    for key, state in states.items():
        if server.processed[key]:
            assert state in (State.SENT, State.UNKNOWN)
        else:
            assert state in (State.REJECTED, State.NOT_SENT)
