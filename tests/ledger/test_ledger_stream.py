"""Orders sent with a ledger, against a server: what a second run does, and that the ledger, the
results and the server's count agree however a run ends. With each kind of ledger.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_shop import Place, Shop, a_bucket, entries_of, ledger_at, peek, states_of

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
    SqliteLedger,
)
from everlytic_async.ledger import Durability, State, storage_key
from everlytic_async.ledger._sqlite_writer import SqliteWriter
from everlytic_async.ledger.claims import LedgerWriter
from support.delivery import CUSTOMER_HASH, STORE_HASH, order, orders, shop, streamed

SENT, SKIPPED, UNKNOWN = Outcome.SENT, Outcome.SKIPPED, Outcome.UNKNOWN


# Without this mark a test runs with a ledger of each kind.
in_sqlite = pytest.mark.parametrize("path", ["sqlite"], indirect=True)


@pytest.fixture(params=["sqlite", "nats"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "nats":
        return a_bucket(request.getfixturevalue("nats_url"))
    return tmp_path / "orders.ledger"


async def report_of(
    client: EverlyticClient, source: Any, path: Place, **settings: Any
) -> BatchReport:
    return await client.send_orders(source, ledger=ledger_at(path), **settings)


async def result_of(
    client: EverlyticClient, given: Any, path: Place, **settings: Any
) -> OrderResult:
    (result,) = (await report_of(client, [given], path, **settings)).results
    return result


def skipped_as(result: OrderResult) -> tuple[str | None, bool]:
    assert result.outcome is SKIPPED
    assert isinstance(result.error, SkippedError)
    return result.error.state, result.error.other_body


# --------------------------------------------------------------------------- what a second run does


FATES = {"sent": "accept", "unknown": "lose", "rejected": "refuse", "not_sent": "throttle"}
NEVER: tuple[Outcome, ...] = ()

# the first run's outcome, how the second is run, whether its content has changed, and what comes
SECOND_RUNS = [
    ("sent", Delivery.AT_MOST_ONCE, NEVER, False, SKIPPED),
    ("sent", Delivery.AT_MOST_ONCE, NEVER, True, SKIPPED),
    ("sent", Delivery.AT_LEAST_ONCE, (UNKNOWN, Outcome.REJECTED), True, SKIPPED),
    ("unknown", Delivery.AT_MOST_ONCE, NEVER, False, SKIPPED),
    ("unknown", Delivery.AT_MOST_ONCE, NEVER, True, SKIPPED),
    ("unknown", Delivery.AT_MOST_ONCE, (Outcome.REJECTED,), False, SKIPPED),
    ("unknown", Delivery.AT_MOST_ONCE, (UNKNOWN,), False, SENT),
    ("unknown", Delivery.AT_LEAST_ONCE, NEVER, False, SENT),
    ("rejected", Delivery.AT_MOST_ONCE, NEVER, False, SKIPPED),
    ("rejected", Delivery.AT_LEAST_ONCE, (UNKNOWN,), False, SKIPPED),
    ("rejected", Delivery.AT_MOST_ONCE, NEVER, True, SENT),
    ("rejected", Delivery.AT_MOST_ONCE, (Outcome.REJECTED,), False, SENT),
    ("not_sent", Delivery.AT_MOST_ONCE, NEVER, False, SENT),
    ("not_sent", Delivery.AT_LEAST_ONCE, NEVER, True, SENT),
    ("invalid", Delivery.AT_MOST_ONCE, NEVER, True, SENT),
]


@pytest.mark.parametrize("kind", [list, streamed])
@pytest.mark.parametrize(("first", "delivery", "resend", "changed", "second"), SECOND_RUNS)
async def test_what_a_second_run_does(
    *,
    path: Place,
    kind: Callable[[Iterable[Any]], Any],
    first: str,
    delivery: Delivery,
    resend: tuple[Outcome, ...],
    changed: bool,
    second: Outcome,
) -> None:
    before = {"order_id": "1"} if first == "invalid" else order(1)
    after = order(1, products=[{"product_name": "Bucket"}]) if changed else order(1)
    async with Shop(_1=FATES.get(first, "accept")).open() as server:
        async with server.client() as client:
            await result_of(client, order(0), path)  # the account and the address are right
            assert (await result_of(client, before, path)).outcome == first
        assert states_of(path) == {"0": State.SENT, "1": State(first)}
        processed = server.processed["1"]
        server.fates.clear()
        async with server.client(delivery=delivery) as client:
            report = await report_of(client, kind([after]), path, resend=resend)

    (result,) = report.results
    assert result.outcome is second
    assert server.processed["1"] == processed + (second is SENT)
    if second is SKIPPED:
        assert skipped_as(result) == (first, changed)
        assert states_of(path) == {"0": State.SENT, "1": State(first)}
    else:
        assert result.duplicate_risk is (first == "unknown")
        assert states_of(path) == {"0": State.SENT, "1": State.SENT}


async def test_what_another_one_has_in_flight_is_skipped(path: Place) -> None:
    server = Shop(_1="hang")
    async with server.open(), server.client() as client, server.client() as other:
        arrived = asyncio.Event()
        server.on_order = lambda _order_id: arrived.set()
        sending = asyncio.ensure_future(report_of(client, [order(1)], path))
        await arrived.wait()
        result = await result_of(other, order(1), path, resend=[UNKNOWN, Outcome.REJECTED])
        assert skipped_as(result) == ("in_flight", False)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)

    assert server.posts == {"1": 1}
    (entry,) = entries_of(path).values()
    assert (entry.state, entry.attempts) == (State.UNKNOWN, 1)
    assert entry.reason == "it was cancelled"


@pytest.mark.parametrize("fate", ["refuse", "throttle", "lose"])
async def test_what_may_have_been_processed_once_stays_unknown(path: Place, fate: str) -> None:
    async with Shop(_1="lose").open() as server:
        async with server.client() as client:
            assert (await result_of(client, order(1), path)).outcome is UNKNOWN
        server.fates["1"] = fate
        async with server.client(delivery=Delivery.AT_LEAST_ONCE) as client:
            result = await result_of(client, order(1), path)

    assert result.outcome is UNKNOWN
    assert result.duplicate_risk is (fate == "lose")
    assert states_of(path) == {"1": State.UNKNOWN}


async def test_a_run_that_never_began_to_send_leaves_what_was_unknown_so(path: Place) -> None:
    async with Shop(_1="lose").open() as server:
        async with server.client() as client:
            await result_of(client, order(1), path)
        async with (
            server.client(delivery=Delivery.AT_LEAST_ONCE) as client,
            client.stream_orders([order(1)], ledger=ledger_at(path)) as stream,
        ):
            stream.stop("enough")
            results = [result async for result in stream]

    assert [result.outcome for result in results] in ([], [UNKNOWN])
    assert states_of(path) == {"1": State.UNKNOWN}
    assert server.posts["1"] == 1


# ----------------------------------------------------------------------------- twice in one input


@pytest.mark.parametrize("kind", [list, streamed])
@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("changed", [False, True])
async def test_of_two_orders_with_one_key_one_is_sent(
    *, path: Place, kind: Callable[[Iterable[Any]], Any], concurrency: int, changed: bool
) -> None:
    twin = order(1, products=[{"product_name": "Bucket"}]) if changed else order(1)
    server = Shop()
    async with server.client(concurrency) as client:
        report = await report_of(client, kind([order(1), order(2), twin]), path)

    assert report.counts[SENT] == 2
    (skipped,) = (result for result in report.results if result.outcome is SKIPPED)
    assert skipped_as(skipped) in {("sent", changed), ("in_flight", changed)}
    assert server.processed == {"1": 1, "2": 1}


@pytest.mark.parametrize("delivery", Delivery)
async def test_what_is_resent_is_resent_once_in_a_run(path: Place, delivery: Delivery) -> None:
    async with Shop(_1="lose", _2="refuse", _3="accept").open() as server:
        async with server.client() as client:
            await report_of(client, [order(1), order(2), order(3)], path)
        async with server.client(1, delivery=delivery) as client:
            report = await report_of(
                client,
                [order(number) for number in (1, 2, 3, 1, 2, 3)],
                path,
                resend=[UNKNOWN, Outcome.REJECTED],
                ordered=True,
            )

    assert [result.outcome for result in report.results] == [
        UNKNOWN,
        Outcome.REJECTED,
        SKIPPED,
        SKIPPED,
        SKIPPED,
        SKIPPED,
    ]
    assert server.posts["2"] == 2
    assert server.posts["3"] == 1


async def test_a_twin_that_is_invalid_does_not_hide_that_the_other_was_sent(path: Place) -> None:
    server = Shop()
    async with server.client(1) as client:
        report = await report_of(client, [order(1), {"order_id": "1"}, order(1)], path)

    assert Counter(result.outcome for result in report.results) == {
        SENT: 1,
        Outcome.INVALID: 1,
        SKIPPED: 1,
    }
    assert states_of(path) == {"1": State.SENT}


# ------------------------------------------------------------------------------- names and secrets


NAMED: list[tuple[dict[str, Any], str]] = [
    ({"order_id": "1001"}, "1001"),
    ({"order_id": 1001}, "1001"),
    ({"order_id": "1001", "workflow_id": 32}, "1001@32"),
    ({"order_id": "jane.doe@shop.example"}, storage_key("jane.doe@shop.example")),
    ({"order_id": "Jane Doe, 5 Long Street"}, storage_key("Jane Doe, 5 Long Street")),
]


@pytest.mark.parametrize(("fields", "key"), NAMED)
async def test_an_order_is_kept_by_its_name(path: Place, fields: dict[str, Any], key: str) -> None:
    async with Shop().client() as client:
        assert (await result_of(client, order(1, **fields), path)).outcome is SENT
        assert (await result_of(client, order(1, **fields), path)).outcome is SKIPPED
    assert states_of(path) == {key: State.SENT}


async def test_an_order_without_a_name_is_kept_by_a_digest_of_its_content(path: Place) -> None:
    nameless = order(1)
    del nameless["order_id"]
    async with Shop().client() as client:
        first = await result_of(client, nameless, path)
        again = await result_of(client, dict(nameless), path)
        other = await result_of(client, {**nameless, "contact_email": "b@shop.example"}, path)

    assert [each.outcome for each in (first, again, other)] == [SENT, SKIPPED, SENT]
    assert all(key.startswith("sha256:") for key in states_of(path))


async def test_a_workflow_is_part_of_the_name(path: Place) -> None:
    async with Shop().client() as client:
        report = await report_of(client, [order(1, workflow_id=number) for number in (1, 2)], path)
    assert report.counts[SENT] == 2


async def test_ones_own_key_names_an_order(path: Place) -> None:
    server = Shop()

    def key(given: Any) -> str:
        return str(given["contact_email"])

    async with server.client() as client:
        same = order(1), order(2, contact_email="customer1@example.com"), order(3)
        report = await report_of(client, same, path, key=key)

    assert report.counts[SENT] == 2
    assert report.counts[SKIPPED] == 1
    assert set(states_of(path)) == {
        storage_key(f"customer{number}@example.com", custom=True) for number in (1, 3)
    }


async def test_ones_own_key_never_equals_an_order_id(path: Place) -> None:
    server = Shop()
    async with server.client() as client:
        # Each customer once: that customer 2 is served says nothing about order 2.
        report = await report_of(client, [order(1)], path, key=lambda _given: "2")
        assert report.counts[SENT] == 1
        report = await report_of(client, orders(3), path)
        assert report.counts[SENT] == 3
        report = await report_of(client, orders(3), path, key=lambda given: given["order_id"])
        assert report.counts == {**report.counts, SENT: 2, SKIPPED: 1}
    assert server.processed == {"0": 2, "1": 3, "2": 1}


async def test_ones_own_key_may_be_a_number(path: Place) -> None:
    def key(given: Any) -> Any:
        return int(given["order_id"])

    async with Shop().client() as client:
        report = await report_of(client, orders(3), path, key=key)

    assert report.counts[SENT] == 3
    assert {result.key for result in report.results} == {"0", "1", "2"}


@pytest.mark.parametrize("key", [lambda _given: None, lambda _given: b"1", lambda _given: True])
async def test_a_key_that_is_no_text_makes_an_order_invalid(path: Place, key: Any) -> None:
    server = Shop()
    async with server.client() as client:
        report = await report_of(client, orders(3), path, key=key)

    assert report.counts[Outcome.INVALID] == 3
    assert "TypeError" in str(report.results[0].error)
    assert not server.posts


async def test_another_store_is_another_matter(path: Place) -> None:
    server = Shop()
    async with server.open():
        for store_hash in ("one", "two", "one"):
            async with server.client(store_hash=store_hash) as client:
                await result_of(client, order(1), path)
    assert server.processed == {"1": 2}


@in_sqlite
async def test_nothing_personal_is_in_the_file(path: Path) -> None:
    personal = {
        "contact_email": "jane.doe@shop.example",
        "contact_unique_id": "Verylongname",
        "order_id": "jane.doe@shop.example",
        "products": [{"product_name": "Chaise-longue"}],
    }
    others = [
        {**personal, "order_id": str(number), "products": [{"product_name": "Chaise-longue"}]}
        for number in range(4)
    ]
    nameless = {name: value for name, value in personal.items() if name != "order_id"}
    invalid = {**personal, "order_id": "9", "products": [], "jane.doe@shop.example": "Jane"}
    server = Shop(_0="refuse", _1="lose", _2="fail", _3="throttle")
    async with server.client() as client, SqliteLedger(path) as ledger:
        report = await client.send_orders([personal, nameless, invalid, *others], ledger=ledger)
        await client.send_orders(
            [{**personal, "order_id": "sha256:jane.doe@shop.example"}],
            ledger=ledger,
            key=lambda given: given["contact_email"],
        )
        files = list(path.parent.iterdir())
        stored = b"".join(each.read_bytes() for each in files)

    assert {f"{path.name}-wal", path.name} <= {each.name for each in files}
    assert report.counts[SENT] == 2
    for secret in ("jane", "doe", "shop.example", "Verylong", "Chaise", STORE_HASH, CUSTOMER_HASH):
        assert secret.lower().encode() not in stored.lower()
    assert b"refused the order (422): no" in stored  # it would be found


async def test_whom_the_endpoint_names_is_not_kept(path: Place) -> None:
    server = Shop(_1="refuse")
    server.echo = True
    async with server.client() as client:
        other = order(1, checkout_url="https://a.example/?for=me@home.example")
        report = await report_of(client, [other], path)
    assert report.counts[Outcome.REJECTED] == 1
    assert "me@home.example" not in str(report.results[0].error)  # what its sender may see
    (entry,) = entries_of(path).values()
    assert entry.reason is not None
    assert "@" not in entry.reason
    assert "[an address]" in entry.reason


# -------------------------------------------------------------------------- intent before the bytes


@in_sqlite
@pytest.mark.parametrize("durability", Durability)
@pytest.mark.parametrize("kind", [list, streamed])
async def test_an_order_that_arrives_is_on_record_as_in_flight(
    path: Path, kind: Callable[[Iterable[Any]], Any], durability: Durability
) -> None:
    server = Shop()
    found = []
    server.on_order = lambda order_id: found.append(peek(path, order_id))
    async with server.client(16) as client:
        report = await client.send_orders(
            kind(orders(64)), ledger=SqliteLedger(path, durability=durability)
        )

    assert report.counts[SENT] == 64
    assert found == [1] * 64


async def test_a_result_is_handed_out_when_its_outcome_is_on_record(path: Place) -> None:
    server = Shop(_3="refuse", _5="lose", _7="throttle")
    codes = {SENT: 2, Outcome.REJECTED: 3, Outcome.NOT_SENT: 5, UNKNOWN: 6, Outcome.INVALID: 4}
    given = [*orders(16), {"order_id": "16"}]
    async with server.client() as client:
        await client.send_order(order(99))  # refusals are the orders' fault from now on
        async with client.stream_orders(given, ledger=ledger_at(path)) as results:
            async for result in results:
                assert result.key is not None
                assert peek(path, result.key) == codes[result.outcome]


@in_sqlite
async def test_the_orders_of_a_group_wait_for_one_commit(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[int] = []
    answer = SqliteWriter.execute

    def counted(self: SqliteWriter, requests: Any, *, wait: bool = True) -> Any:
        groups.append(len(requests := list(requests)))
        return answer(self, requests, wait=wait)

    monkeypatch.setattr(SqliteWriter, "execute", counted)
    async with shop() as (sandbox, client):
        report = await report_of(client, orders(512), path)

    assert report.counts[SENT] == sandbox.processed == 512
    assert sum(groups) >= 2 * 512
    assert len(groups) < 512 / 4


@in_sqlite
async def test_invalid_orders_wait_for_one_commit(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = 0
    answer = SqliteWriter.execute

    def counted(self: SqliteWriter, requests: Any, *, wait: bool = True) -> Any:
        nonlocal groups
        groups += 1
        return answer(self, requests, wait=wait)

    monkeypatch.setattr(SqliteWriter, "execute", counted)
    async with shop() as (_, client):
        report = await report_of(client, ({"order_id": str(n)} for n in range(300)), path)

    assert report.counts[Outcome.INVALID] == 300
    assert 0 < groups < 30
    assert set(states_of(path).values()) == {State.INVALID}
    assert len(states_of(path)) == 300


# ------------------------------------------------------------------------------- however a run ends


class Ending:
    """What a run told, for comparison with the ledger and the server."""

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

    async def streamed(
        self, count: int, raises_after: int | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        source = self.source(count, raises_after)
        while True:
            await asyncio.sleep(0)
            try:
                given = next(source)
            except StopIteration:
                return
            yield given

    async def run(
        self,
        client: EverlyticClient,
        source: Any,
        path: Place,
        *,
        leave_after: int | None = None,
        **settings: Any,
    ) -> None:
        async with client.stream_orders(source, ledger=ledger_at(path), **settings) as stream:
            try:
                async for result in stream:
                    self.results.append(result)
                    if len(self.results) == leave_after:
                        break
            except (BatchStoppedError, SourceError) as error:
                self.error = error

    def agrees_with(self, path: Place, server: Shop, *, whole: bool) -> None:
        """Every result with the ledger, and the ledger with what arrived."""
        states = states_of(path)
        indexes = sorted(result.index for result in self.results)
        assert len(set(indexes)) == len(indexes)
        if whole:
            assert indexes == list(range(self.read))
        for result in self.results:
            assert result.key is not None
            if result.outcome is Outcome.NOT_SENT:
                assert states.get(result.key, State.NOT_SENT) is State.NOT_SENT
            elif result.outcome is not SKIPPED:
                assert states[result.key] == State(result.outcome.value)
        agree(states, server)


def agree(states: dict[str, State], server: Shop) -> None:
    assert State.IN_FLIGHT not in states.values()
    perhaps = {key for key, state in states.items() if state in (State.SENT, State.UNKNOWN)}
    assert set(server.processed) <= perhaps
    assert {key for key, state in states.items() if state is State.SENT} <= set(server.processed)
    assert all(count == 1 for count in server.processed.values())


async def take_up_the_rest(path: Place, server: Shop, count: int) -> None:
    """A second run: all is sent but what may have been, and nothing twice."""
    server.fates.clear()
    async with server.client() as client:
        await report_of(client, orders(count), path)
    states = states_of(path)
    agree(states, server)
    assert len(states) == count
    assert set(states.values()) <= {State.SENT, State.UNKNOWN, State.REJECTED}


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("ending", ["end", "source", "401", "break", "outage"])
async def test_results_ledger_and_server_agree(
    *, path: Place, kind: str, ordered: bool, ending: str
) -> None:
    count = 60
    told = Ending()
    source: Any = told.source if kind == "sync" else told.streamed
    source = source(count, 41 if ending == "source" else None)
    async with Shop(_7="lose", _9="refuse", _11="throttle", _13="fail").open() as server:
        if ending == "401":
            server.fates["30"] = "unauthorized"
        async with server.client() as client:
            leave_after = 20 if ending == "break" else None
            await told.run(client, source, path, ordered=ordered, leave_after=leave_after)
        told.agrees_with(path, server, whole=ending != "break")
        assert type(told.error) is {"source": SourceError, "401": BatchStoppedError}.get(
            ending, type(None)
        )
        if ending == "end":
            assert len(told.results) == count
        elif ending == "source":
            assert told.read == 41
        await take_up_the_rest(path, server, count)
    if ordered and ending != "break":
        assert [result.index for result in told.results] == list(range(told.read))


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("seed", range(4))
async def test_ledger_and_server_agree_whenever_it_is_cancelled(
    path: Place, kind: str, seed: int
) -> None:
    rng = random.Random(seed)
    async with Shop(_3="hang", _5="lose").open() as server:
        for _ in range(3):
            told = Ending()
            source: Any = told.source(40) if kind == "sync" else told.streamed(40)
            async with server.client() as client:
                running = asyncio.ensure_future(told.run(client, source, path))
                for _ in range(int(2 ** rng.uniform(0, 11))):
                    await asyncio.sleep(0)
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
            # Where all that is left is known, it may have come to its end before.
            assert running.cancelled() or len(told.results) == told.read == 40
            agree(states_of(path), server)
        await take_up_the_rest(path, server, 40)


async def test_what_still_waits_for_its_turn_when_it_is_cancelled_was_not_sent(path: Place) -> None:
    server = Shop()
    arrived = asyncio.Event()
    server.on_order = lambda _order_id: arrived.set()
    pacing = Pacing(max_concurrency=4, max_rate=0.01, adaptive=False)
    async with server.client(pacing=pacing) as client:
        running = asyncio.ensure_future(report_of(client, orders(20), path))
        await arrived.wait()
        # The others are claimed, and wait to be admitted.
        while list(states_of(path).values()).count(State.IN_FLIGHT) < 3:  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.001)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    states = states_of(path)
    agree(states, server)
    assert list(states.values()).count(State.NOT_SENT) >= 3


async def test_a_worker_that_is_cancelled_leaves_its_look_up_to_the_others(
    path: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = LedgerWriter.find_skipped
    cancelled: list[int] = []

    async def known(book: LedgerWriter, given: Any) -> Any:
        if not cancelled:
            worker = asyncio.current_task()
            assert worker is not None
            cancelled.append(len(given))
            worker.cancel()
        return await look_up(book, given)

    monkeypatch.setattr(LedgerWriter, "find_skipped", known)
    told = Ending()
    server = Shop()
    async with server.client(4) as client:
        await told.run(client, told.source(400), path, ordered=True)
    assert cancelled
    assert "cancelled from outside" in str(told.error)
    told.agrees_with(path, server, whole=True)


# --------------------------------------------------------------------------- whatever comes, twice


@given(
    numbers=st.lists(st.integers(0, 9) | st.just(None), max_size=20),
    variants=st.lists(st.booleans(), min_size=20, max_size=20),
    fates=st.dictionaries(
        st.integers(0, 9).map(str), st.sampled_from(["lose", "refuse", "throttle", "fail"])
    ),
    later=st.dictionaries(st.integers(0, 9).map(str), st.sampled_from(["lose", "refuse"])),
    kind=st.sampled_from(["sync", "async"]),
    ordered=st.booleans(),
    concurrency=st.integers(1, 6),
    delivery=st.sampled_from(Delivery),
    resend=st.sampled_from([(), (Outcome.REJECTED,)]),
)
@settings(max_examples=25)
def test_there_is_one_result_for_every_order_read(
    *,
    numbers: list[int | None],
    variants: list[bool],
    fates: dict[str, str],
    later: dict[str, str],
    kind: str,
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
        async with Shop().open() as server:
            for fate in (fates, later):
                server.fates = {**fate}
                source = streamed(given_orders) if kind == "async" else iter(given_orders)
                async with server.client(concurrency, delivery=delivery) as client:
                    await client.send_order(order(99))  # losing all is not the address's fault
                    report = await report_of(client, source, path, ordered=ordered, resend=resend)
                runs.append(list(report.results))
        return runs, server

    with TemporaryDirectory() as directory:
        path = Path(directory) / "orders.ledger"
        runs, server = asyncio.run(twice(path))
        states = states_of(path)

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


@pytest.mark.parametrize("source", [[], streamed([])])
async def test_nothing_to_send_is_nothing_on_record(path: Place, source: Any) -> None:
    async with shop() as (_, client):
        report = await report_of(client, source, path)
    assert report.results == ()
    assert states_of(path) == {}
