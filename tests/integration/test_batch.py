"""Streams and batches: one result for every order read, lazily, however they end.

Most of it runs on the whole of the delivery but the network, by a clock that the tests move, so
that every interleaving can be had; what a server must see is shown against one.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import random
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlytic_async import (
    AuthenticationError,
    BatchReport,
    BatchStoppedError,
    ConfigurationError,
    Delivery,
    EverlyticClient,
    InvalidOrderError,
    NotSentError,
    Order,
    OrderResult,
    OrderStream,
    Outcome,
    Pacing,
    RetryPolicy,
    SourceError,
    SqliteLedger,
)
from everlytic_async import batch as module
from everlytic_async._stop_token import StopToken
from everlytic_async.events import BatchEnded
from everlytic_async.sandbox import Faults, Sandbox
from support.clock import FakeClock, settle
from support.delivery import (
    CUSTOMER_HASH,
    ENDS,
    QUICK,
    STORE_HASH,
    Endpoint,
    Rig,
    a_rig,
    an_answer,
    client_of,
    ids_of,
    order,
    orders,
    shop,
    streamed,
)
from support.servers import Connection, RawServer, unused_port

HASHES: dict[str, Any] = {"store_hash": STORE_HASH, "customer_hash": CUSTOMER_HASH}
ALWAYS: Endpoint = lambda _body: ENDS["accepted"]()  # noqa: E731 - a script of one line


def never(_body: bytes) -> Any:
    """An endpoint that does not answer."""
    return asyncio.get_running_loop().create_future()


class Gate:
    """An endpoint that answers an order when it is told to."""

    def __init__(self) -> None:
        self.waiting: dict[str, asyncio.Future[Any]] = {}

    def __call__(self, body: bytes) -> Any:
        waiter = asyncio.get_running_loop().create_future()
        self.waiting[json.loads(body)["order_id"]] = waiter
        return waiter

    async def answer(self, number: int, end: str = "accepted") -> None:
        """Answer an order, and let all follow that follows."""
        waiter = self.waiting.pop(str(number))
        try:
            waiter.set_result(ENDS[end]())
        except Exception as error:  # noqa: BLE001 - an end that raises
            waiter.set_exception(error)
        await settle()


class Source:
    """An iterator of orders that counts how far it was read, and what it was asked after its end.

    Attributes:
        read: How many orders it gave.
        asked_again: How often it was asked for more after it had ended or raised.
    """

    def __init__(self, items: Iterable[Any], error: BaseException | None = None) -> None:
        self._items = iter(items)
        self._error = error
        self._over = False
        self.read = 0
        self.asked_again = 0

    def __iter__(self) -> Source:
        return self

    def __next__(self) -> Any:
        if self._over:
            self.asked_again += 1
            raise StopIteration
        for item in self._items:
            self.read += 1
            return item
        self._over = True
        if self._error is not None:
            raise self._error
        raise StopIteration


class AsyncSource:
    """The same, asynchronous; after its end it keeps who asks again waiting, as a queue does."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __aiter__(self) -> AsyncSource:
        return self

    async def __anext__(self) -> Any:
        await asyncio.sleep(0)
        try:
            return next(self._source)
        except StopIteration:
            if self._source.asked_again:
                await asyncio.Event().wait()
            raise StopAsyncIteration from None


def of_kind(source: Source, kind: str) -> Any:
    return source if kind == "sync" else AsyncSource(source)


both_kinds = pytest.mark.parametrize("kind", ["sync", "async"])


class Reading:
    """A task that reads a stream: what it got, and how that ended."""

    def __init__(self, stream: OrderStream) -> None:
        self.results: list[OrderResult] = []
        self.error: BaseException | None = None
        self._stream = stream
        self.task = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        async with self._stream as stream:
            try:
                async for result in stream:
                    self.results.append(result)
            except (BatchStoppedError, SourceError) as error:
                self.error = error

    @property
    def outcomes(self) -> list[Outcome]:
        return [result.outcome for result in self.results]

    @property
    def indexes(self) -> list[int]:
        return [result.index for result in self.results]


async def read(rig: Rig, stream: OrderStream) -> Reading:
    """Read a stream to its end, moving the clock as needed."""

    async def to_the_end() -> Reading:
        reading = Reading(stream)
        try:
            await reading.task
        finally:
            reading.task.cancel()
            await asyncio.gather(reading.task, return_exceptions=True)
        return reading

    return await rig.clock.run(to_the_end())


def nothing_is_left(rig: Rig) -> None:
    """No slot is taken, nobody waits, no post is under way."""
    assert rig.pacer.in_flight == 0
    assert rig.transport.in_flight == 0
    assert not any(not waiter.done() for waiter in rig.pacer._waiters)


# ------------------------------------------------------- one result for every order, whatever comes

INPUTS: dict[str, Callable[[int], Any]] = {
    "mapping": order,
    "model": lambda number: Order.from_mapping(order(number)),
    "no products": lambda number: {"order_id": str(number), "contact_email": "a@b.example"},
    "unreadable": lambda number: InvalidOrderError(["line: expected JSON"], number),
    "nothing": lambda _number: None,
    "a number": lambda number: number,
    "a list": lambda _number: [],
}
VALID = ("mapping", "model")


@given(
    kinds=st.lists(st.sampled_from([*VALID, *INPUTS]), max_size=30),
    ends=st.lists(st.sampled_from(sorted(ENDS)), min_size=1, max_size=12),
    concurrency=st.integers(1, 6),
    ordered=st.booleans(),
    source_kind=st.sampled_from(["sync", "async"]),
    raises=st.booleans(),
    stops_after=st.none() | st.integers(0, 20),
    slow=st.booleans(),
    latency_s=st.sampled_from([0.0, 0.2]),
    delivery=st.sampled_from(Delivery),
    max_rate=st.sampled_from([None, 20.0]),
    adaptive=st.booleans(),
    seed=st.integers(0, 9),
)
def test_there_is_exactly_one_result_for_every_order_read(
    *,
    kinds: list[str],
    ends: list[str],
    concurrency: int,
    ordered: bool,
    source_kind: str,
    raises: bool,
    stops_after: int | None,
    slow: bool,
    latency_s: float,
    delivery: Delivery,
    max_rate: float | None,
    adaptive: bool,
    seed: int,
) -> None:
    given = [INPUTS[kind](number) for number, kind in enumerate(kinds)]
    source = Source(given, ValueError("broken") if raises else None)
    ends_in_turn = itertools.cycle(ends)
    rng = random.Random(seed)
    pacing = Pacing(max_concurrency=concurrency, max_rate=max_rate, adaptive=adaptive)

    async def endpoint(_body: bytes) -> Any:
        end = next(ends_in_turn)
        if latency_s:
            await StopToken().sleep(rng.uniform(0, latency_s), rig.clock.call_later)
        return ENDS[end]()

    rig = a_rig(
        endpoint, retry=RetryPolicy(attempts=3), delivery=delivery, pacing=pacing, seed=seed
    )
    results: list[OrderResult] = []

    async def consume() -> BaseException | None:
        stream = rig.stream(of_kind(source, source_kind), concurrency=concurrency, ordered=ordered)
        async with stream:
            try:
                async for result in stream:
                    results.append(result)
                    assert source.read <= len(results) + 2 * concurrency
                    if len(results) == stops_after:
                        stream.stop("enough")
                    if slow:
                        await StopToken().sleep(rng.uniform(0, 0.3), rig.clock.call_later)
            except (BatchStoppedError, SourceError) as error:
                assert stream.stopped is not None
                return error
            assert stream.stopped in (None, "enough")
        return None

    async def check() -> BaseException | None:
        error = await rig.clock.run(consume())
        nothing_is_left(rig)
        return error

    error = asyncio.run(check())

    if ordered:
        assert [result.index for result in results] == list(range(source.read))
    each_order_is_told_of(results, given, [kind in VALID for kind in kinds], source.read)
    assert len(rig.transport.bodies) == sum(result.attempts for result in results)
    assert rig.transport.peak_in_flight <= concurrency
    assert source.asked_again == 0
    if error is None and stops_after not in range(1, len(results) + 1):
        assert source.read == len(given)
        assert not raises
    if isinstance(error, SourceError):
        assert isinstance(error.__cause__, ValueError)
        assert source.read == len(given)
    (ended,) = [event for event in rig.events if isinstance(event, BatchEnded)]
    assert sum(ended.counts.values()) == len(results)


def each_order_is_told_of(
    results: list[OrderResult], given: list[Any], valid: list[bool], read: int
) -> None:
    assert sorted(result.index for result in results) == list(range(read))
    for result in results:
        assert result.order is given[result.index]
        assert (result.outcome is Outcome.INVALID) == (not valid[result.index])
        assert (result.receipt is not None) == (result.outcome is Outcome.SENT)
        assert (result.error is None) == (result.outcome is Outcome.SENT)


@both_kinds
@pytest.mark.parametrize("ordered", [True, False])
async def test_all_orders_arrive_once(kind: str, *, ordered: bool) -> None:
    source: Any = orders(300) if kind == "sync" else streamed(orders(300))
    async with shop() as (sandbox, client):
        report = await client.send_orders(source, ordered=ordered)

    assert report.counts == {**dict.fromkeys(Outcome, 0), Outcome.SENT: 300}
    assert sandbox.processed == 300
    assert sandbox.duplicates == {}
    assert sorted(ids_of(sandbox.received), key=int) == [str(number) for number in range(300)]
    assert report.failures == ()
    assert report.stopped is None
    assert report.elapsed_s > 0


@both_kinds
async def test_an_empty_source_is_an_empty_batch(kind: str) -> None:
    async with shop() as (sandbox, client):
        report = await client.send_orders(of_kind(Source([]), kind))

    assert report.results == ()
    assert sandbox.requests == 0


async def test_a_report_tells_the_failures_apart() -> None:
    given = [order(0), {}, order(2), {"order_id": "3", "products": "none"}]
    async with shop() as (sandbox, client):
        report = await client.send_orders(given, ordered=True)

    assert [result.outcome for result in report.results] == [
        Outcome.SENT,
        Outcome.INVALID,
        Outcome.SENT,
        Outcome.INVALID,
    ]
    assert [result.index for result in report.failures] == [1, 3]
    assert [result.key for result in report.results] == ["0", None, "2", "3"]
    assert sandbox.requests == 2


# ------------------------------------------------------------------------- laziness, back-pressure


@both_kinds
@pytest.mark.parametrize("ordered", [True, False])
async def test_a_reader_who_stops_reading_stops_the_sending(kind: str, *, ordered: bool) -> None:
    rig = a_rig(ALWAYS)
    source = Source(orders(10_000))
    async with rig.stream(of_kind(source, kind), concurrency=4, ordered=ordered) as stream:
        for delivered in range(1, 50):
            await anext(stream)
            await settle()
            assert source.read <= delivered + 2 * 4
            assert len(rig.transport.bodies) == source.read
        assert source.read == 49 + 2 * 4  # and yet it reads ahead as far as it may


@both_kinds
async def test_nothing_is_read_beyond_what_may_be_in_flight(kind: str) -> None:
    rig = a_rig(never)
    source = Source(orders(10_000))
    stream = rig.stream(of_kind(source, kind), concurrency=4)
    reading = Reading(stream)
    await settle()
    assert source.read == 4
    await stop_reading(reading)


async def stop_reading(reading: Reading) -> None:
    reading.task.cancel()
    await asyncio.gather(reading.task, return_exceptions=True)


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not finish need not be waited for so long here."""
    monkeypatch.setattr(module, "_GRACE_S", 0.02)


async def test_nothing_is_read_before_the_stream_is_entered() -> None:
    source = Source(orders(10))
    async with shop() as (sandbox, client):
        client.stream_orders(source)
        await settle_a_little()

    assert source.read == 0
    assert sandbox.requests == 0


async def settle_a_little() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_one_slow_order_does_not_hold_up_the_others() -> None:
    gate = Gate()
    rig = a_rig(lambda body: gate(body) if b'"order_id":"0"' in body else ENDS["accepted"]())
    reading = Reading(rig.stream(orders(200), concurrency=4))
    await settle()
    assert len(reading.results) == 199
    await gate.answer(0)
    await reading.task

    assert reading.indexes == [*range(1, 200), 0]


async def test_results_come_as_they_complete() -> None:
    gate = Gate()
    reading = Reading(a_rig(gate).stream(orders(4), concurrency=4))
    await settle()
    for number in (2, 0, 3, 1):
        await gate.answer(number)
        assert reading.indexes[-1] == number
    await reading.task

    assert reading.indexes == [2, 0, 3, 1]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_what_is_unfinished_is_told_as_far_as_it_is_known(asynchronous: bool) -> None:
    gate = Gate()
    source: Any = Source([*orders(3), {"order_id": "bad"}, *orders(5)])
    source = AsyncSource(source) if asynchronous else source
    rig = a_rig(gate, pacing=Pacing(max_concurrency=2, adaptive=False))
    async with rig.stream(source, concurrency=4, ordered=True) as stream:
        await settle()
        await gate.answer(1)  # out of its turn
        results = stream.unfinished("the process was left")
        told = [(result.key, result.outcome, result.attempts) for result in results]
        assert told[:4] == [
            ("0", Outcome.UNKNOWN, 1),
            ("1", Outcome.SENT, 1),
            ("2", Outcome.UNKNOWN, 1),
            ("bad", Outcome.INVALID, 0),
        ]
        assert {(outcome, attempts) for _key, outcome, attempts in told[4:]} == {
            (Outcome.NOT_SENT, 0)
        }
        assert [result.index for result in results] == list(range(len(results)))
        assert str(results[0].error) == (
            "the process was left while the order was under way: it may have been processed"
        )
        assert results[0].error is not None
        assert results[0].error.attempts == 1
        assert str(results[-1].error) == "the order was not sent: the process was left"


async def test_a_result_that_was_taken_is_not_unfinished() -> None:
    async with a_rig(ALWAYS).stream(orders(20), concurrency=2) as stream:
        async for result in stream:
            assert result.index not in [left.index for left in stream.unfinished("x")]
        assert stream.unfinished("x") == []


async def test_a_claimed_order_is_unfinished_as_any_other(tmp_path: Path) -> None:
    async with Sandbox(faults=Faults(latency_s=300)) as sandbox, client_of(sandbox) as client:
        ledger = SqliteLedger(tmp_path / "l")
        async with client.stream_orders(orders(3), ledger=ledger) as stream:
            async with asyncio.timeout(30):
                while sandbox.in_flight < 3:  # noqa: ASYNC110 - the sandbox has counters only
                    await asyncio.sleep(0.005)
            left = stream.unfinished("the process was left")
    assert [(result.key, result.outcome, result.attempts) for result in left] == [
        (str(number), Outcome.UNKNOWN, 1) for number in range(3)
    ]


async def test_ordered_results_wait_for_their_turn() -> None:
    gate = Gate()
    reading = Reading(a_rig(gate).stream(orders(4), concurrency=4, ordered=True))
    await settle()
    seen = []
    for number in (2, 0, 3, 1):
        await gate.answer(number)
        seen.append(list(reading.indexes))
    await reading.task

    assert seen == [[], [0], [0], [0, 1, 2, 3]]


async def test_ordered_reading_does_not_run_away_from_a_slow_order() -> None:
    gate = Gate()
    rig = a_rig(lambda body: gate(body) if b'"order_id":"0"' in body else ENDS["accepted"]())
    source = Source(orders(10_000))
    reading = Reading(rig.stream(source, concurrency=4, ordered=True))
    await settle()
    assert reading.results == []
    assert source.read == 8
    await gate.answer(0)
    await reading.task

    assert reading.indexes == list(range(10_000))


async def test_a_reader_may_give_up_waiting_and_come_back() -> None:
    gate = Gate()
    rig = a_rig(gate)
    async with rig.stream(orders(3), concurrency=3) as stream:
        for number in range(3):
            waiting = asyncio.ensure_future(anext(stream))
            await settle()
            waiting.cancel()
            await settle()
            await gate.answer(number)
            assert (await anext(stream)).index == number
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


@pytest.mark.parametrize("turns", range(10))
async def test_a_result_is_not_lost_on_a_reader_cancelled_as_it_arrives(turns: int) -> None:
    gate = Gate()
    async with a_rig(gate).stream(orders(1), concurrency=1) as stream:
        waiting = asyncio.ensure_future(anext(stream))
        await settle()
        gate.waiting["0"].set_result(ENDS["accepted"]())
        for _ in range(turns):
            await asyncio.sleep(0)
        waiting.cancel()  # in one of these turns it was woken, and has not run yet
        await asyncio.gather(waiting, return_exceptions=True)

        result = await anext(stream) if waiting.cancelled() else waiting.result()
        assert result.index == 0


# --------------------------------------------------------------------------------- how it is used


async def test_a_stream_that_was_not_entered_says_so() -> None:
    async with shop() as (_, client):
        stream = client.stream_orders(orders(1))
        with pytest.raises(ConfigurationError, match="async with"):
            await anext(stream)


async def test_a_stream_is_entered_once() -> None:
    stream = a_rig(ALWAYS).stream(orders(1))
    async with stream:
        with pytest.raises(ConfigurationError, match="once"):
            await stream.__aenter__()


async def test_a_stream_is_read_by_one_task() -> None:
    async with a_rig(never).stream(orders(1)) as stream:
        first = asyncio.ensure_future(anext(stream))
        await settle()
        with pytest.raises(ConfigurationError, match="one task"):
            await anext(stream)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


async def test_a_stream_that_is_over_stays_over() -> None:
    async with a_rig(ALWAYS).stream(orders(1)) as stream:
        await anext(stream)
        for _ in range(3):
            with pytest.raises(StopAsyncIteration):
                await anext(stream)


@pytest.mark.parametrize("given", [order(1), "orders.jsonl", b"[]", Order(**order(1)), 5, None])
async def test_what_is_no_iterable_of_orders_is_refused_at_once(given: Any) -> None:
    async with shop() as (_, client):
        with pytest.raises(TypeError, match="iterable"):
            client.stream_orders(given)


async def test_the_key_is_the_callers_where_it_is_given() -> None:
    async with shop() as (_, client):
        report = await client.send_orders(
            orders(3), ordered=True, key=lambda given: f"shop-{given['order_id']}"
        )

    assert [result.key for result in report.results] == ["shop-0", "shop-1", "shop-2"]


async def test_an_order_that_the_callers_key_cannot_name_is_invalid_and_not_sent() -> None:
    given = [order(0), order(1, order_id=None), order(2)]
    async with shop() as (sandbox, client):
        report = await client.send_orders(given, ordered=True, key=lambda g: g["order_id"].upper())

    assert [result.outcome for result in report.results] == [
        Outcome.SENT,
        Outcome.INVALID,
        Outcome.SENT,
    ]
    failed = report.results[1]
    assert isinstance(failed.error, InvalidOrderError)
    assert failed.error.faults == ("key: the given function raised AttributeError",)
    assert isinstance(failed.error.__cause__, AttributeError)
    assert sandbox.processed == 2


async def test_a_callers_key_need_not_cope_with_invalid_orders() -> None:
    unreadable = InvalidOrderError(["line: expected JSON"], 3)
    given: list[Any] = [{"products": []}, None, unreadable, order(4)]
    async with shop() as (_, client):
        report = await client.send_orders(given, ordered=True, key=lambda g: g["order_id"])

    assert [result.key for result in report.results] == [None, None, None, "4"]
    assert [result.order for result in report.results] == given


# ------------------------------------------------------------------------------ the source raises


@both_kinds
@pytest.mark.parametrize("after", [0, 1, 5, 40])
async def test_a_source_that_raises_ends_the_batch_after_its_results(kind: str, after: int) -> None:
    broken = ValueError("the disk is on fire")
    source = Source(orders(after), broken)
    async with shop() as (sandbox, client):
        with pytest.raises(SourceError, match=f"ValueError after {after} orders") as caught:
            await client.send_orders(of_kind(source, kind))

    assert caught.value.__cause__ is broken
    report = caught.value.report
    assert isinstance(report, BatchReport)
    assert report.counts[Outcome.SENT] == after == sandbox.processed
    assert report.stopped == caught.value.message
    assert "fire" not in caught.value.message  # it may hold a customer's data


@both_kinds
async def test_a_stream_gives_the_results_first_and_then_raises(kind: str) -> None:
    gate = Gate()
    reading = Reading(
        a_rig(gate).stream(of_kind(Source(orders(3), ValueError()), kind), concurrency=8)
    )
    await settle()
    assert reading.results == []
    for number in range(3):
        assert reading.error is None
        await gate.answer(number)
    await reading.task

    assert len(reading.results) == 3
    assert isinstance(reading.error, SourceError)
    assert reading.error.report is None


async def test_retries_go_on_after_the_source_has_raised() -> None:
    source = Source(orders(2), ValueError())
    ends = itertools.chain(["throttled"] * 2, itertools.repeat("accepted"))
    rig = a_rig(lambda _body: ENDS[next(ends)]())
    reading = await read(rig, rig.stream(source))

    assert reading.outcomes == [Outcome.SENT] * 2
    assert isinstance(reading.error, SourceError)


@both_kinds
async def test_a_source_is_not_asked_again_once_it_has_ended(kind: str) -> None:
    # A queue that has given its end mark keeps those who ask again waiting for ever.
    source = Source(orders(20))
    async with asyncio.timeout(20), shop() as (_, client):
        report = await client.send_orders(of_kind(source, kind))

    assert report.counts[Outcome.SENT] == 20
    if kind == "async":
        assert source.asked_again == 0


@both_kinds
async def test_a_cancellation_that_comes_from_within_the_source_is_its_error(kind: str) -> None:
    # Such as of a task that the source waits for. It must not pass for the end of the orders.
    source = Source(orders(3), asyncio.CancelledError())
    async with asyncio.timeout(20), shop() as (_, client):
        with pytest.raises(SourceError, match="CancelledError after 3 orders") as caught:
            await client.send_orders(of_kind(source, kind))

    assert caught.value.report is not None
    assert caught.value.report.counts[Outcome.SENT] == 3


@both_kinds
@pytest.mark.parametrize("with_ledger", [False, True])
async def test_a_source_that_cannot_even_be_begun_has_raised(
    kind: str, tmp_path: Path, *, with_ledger: bool
) -> None:
    broken = ValueError("no such table: ann@example.com")

    class Unread:
        def __iter__(self) -> Any:
            raise broken

    class AsyncUnread:
        def __aiter__(self) -> Any:
            raise broken

    source: Any = Unread() if kind == "sync" else AsyncUnread()
    ledger = SqliteLedger(tmp_path / "l") if with_ledger else None
    async with asyncio.timeout(20), shop() as (sandbox, client):
        with pytest.raises(SourceError, match="ValueError after 0 orders") as caught:
            await client.send_orders(source, ledger=ledger)

    assert caught.value.__cause__ is broken
    assert "ann" not in caught.value.message
    assert caught.value.report is not None
    assert caught.value.report.results == ()
    assert caught.value.report.stopped == caught.value.message
    assert sandbox.requests == 0


# ------------------------------------------------------------------------------ the batch stops


async def test_wrong_hashes_stop_the_batch() -> None:
    source = Source(orders(10_000))
    pacing = Pacing(max_concurrency=8, adaptive=False)
    async with Sandbox() as sandbox, client_of(sandbox, store_hash="x", pacing=pacing) as client:
        with pytest.raises(BatchStoppedError, match="401") as caught:
            await client.send_orders(source)

    report = caught.value.report
    assert report is not None
    assert sandbox.requests <= 16
    assert source.read == len(report.results) <= 2 * 8
    assert all(isinstance(r.error, AuthenticationError) or r.attempts == 0 for r in report.results)
    assert report.counts[Outcome.NOT_SENT] == len(report.results)
    assert report.counts[Outcome.REJECTED] + report.counts[Outcome.NOT_SENT] == source.read
    assert report.stopped == caught.value.message


async def test_a_stop_does_not_wait_for_a_source_that_has_nothing_to_give() -> None:
    closed = []

    async def idle_after_one() -> AsyncIterator[Any]:
        try:
            yield order(1)
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    async with Sandbox() as sandbox, client_of(sandbox, store_hash="x") as client:
        with pytest.raises(BatchStoppedError, match="401"):
            await asyncio.wait_for(client.send_orders(idle_after_one()), 10)

    assert closed == [True]


async def test_a_source_that_will_not_be_interrupted_has_its_last_order_told_of() -> None:
    answer = asyncio.Event()

    async def refuse(_body: bytes) -> Any:
        await answer.wait()
        return an_answer(401)

    async def stubborn() -> AsyncIterator[Any]:
        yield order(0)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            yield order(1)

    reading = Reading(a_rig(refuse).stream(stubborn()))
    await settle()
    answer.set()
    await asyncio.wait_for(reading.task, 10)

    assert reading.indexes == [0, 1]
    assert reading.outcomes == [Outcome.NOT_SENT, Outcome.NOT_SENT]
    assert isinstance(reading.error, BatchStoppedError)


def ends_of(*ends: Any) -> Endpoint:
    left = iter(ends)
    return lambda _body: next(left)


NO = an_answer(422, b'{"message":"no such workflow"}')
YES = an_answer()


async def after(ends: Iterable[Any], *, count: int | None = None) -> Reading:
    """What comes of so many orders, one after the other, answered so."""
    ends = list(ends)
    rig = a_rig(ends_of(*ends))
    reading = await read(rig, rig.stream(orders(count or len(ends)), concurrency=1))
    nothing_is_left(rig)
    return reading


async def test_twenty_equal_refusals_stop_the_batch() -> None:
    reading = await after([NO] * 20, count=500)

    assert isinstance(reading.error, BatchStoppedError)
    assert "no such workflow" in reading.error.message
    assert reading.outcomes == [Outcome.REJECTED] * 20


async def test_nineteen_equal_refusals_do_not() -> None:
    reading = await after([NO] * 19)

    assert reading.error is None
    assert len(reading.results) == 19


@pytest.mark.parametrize("at", [0, 10, 19])
async def test_one_success_shows_that_it_is_the_orders(at: int) -> None:
    reading = await after([NO] * at + [YES] + [NO] * 60)

    assert reading.error is None
    assert len(reading.results) == at + 61


async def test_refusals_of_different_kinds_do_not_stop_the_batch() -> None:
    reading = await after([NO, an_answer(404)] * 30)

    assert reading.error is None


async def test_an_unknown_outcome_ends_the_run_of_refusals() -> None:
    reading = await after([NO] * 15 + [an_answer(500)] + [NO] * 15)

    assert reading.error is None


async def test_invalid_orders_neither_count_as_refusals_nor_end_their_run() -> None:
    given = itertools.chain.from_iterable(({}, order(number)) for number in range(100))
    rig = a_rig(lambda _body: NO)
    reading = await read(rig, rig.stream(given, concurrency=1))

    assert isinstance(reading.error, BatchStoppedError)
    assert reading.outcomes.count(Outcome.REJECTED) == 20

    rig = a_rig(lambda _body: NO)
    reading = await read(rig, rig.stream(({} for _ in range(100)), concurrency=1))
    assert reading.error is None
    assert reading.outcomes == [Outcome.INVALID] * 100


async def test_twenty_redirects_stop_the_batch_at_a_server() -> None:
    async def move(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.answer(302, b"", "Location: https://login.example/")

    pacing = Pacing(max_concurrency=4, adaptive=False)
    async with (
        RawServer(move) as server,
        EverlyticClient(server.url, **HASHES, pacing=pacing, retry=QUICK) as client,
    ):
        with pytest.raises(BatchStoppedError, match=r"login\.example"):
            await client.send_orders(orders(1_000))

        assert 20 <= len(server.bodies) < 20 + 4


async def test_an_endpoint_that_is_not_there_stops_the_batch_and_does_not_use_up_its_input() -> (
    None
):
    source = Source(orders(100_000))
    url = f"http://127.0.0.1:{await unused_port()}"
    async with EverlyticClient(url, **HASHES, retry=QUICK) as client:
        with pytest.raises(BatchStoppedError, match="refused") as caught:
            await client.send_orders(source)

    report = caught.value.report
    assert report is not None
    assert source.read == report.counts[Outcome.NOT_SENT] == len(report.results) <= 3 * 32


async def test_an_outage_that_ends_costs_no_order() -> None:
    down = True

    async def endpoint(_body: bytes) -> Any:
        return ENDS["unreachable" if down else "accepted"]()

    rig = a_rig(endpoint, pacing=Pacing(max_concurrency=4, adaptive=False))
    rig.pacer.on_accepted(rig.clock.now)  # it was reached before
    reading = Reading(rig.stream(orders(50)))
    await settle()
    await rig.clock.advance(0.4)
    down = False
    while not reading.task.done():
        rig.clock.ring_next()
        await settle()

    assert reading.error is None
    assert reading.outcomes == [Outcome.SENT] * 50


async def test_a_batch_can_be_stopped_and_what_is_in_flight_finishes() -> None:
    gate = Gate()
    rig = a_rig(gate, pacing=Pacing(max_concurrency=2, adaptive=False))
    stream = rig.stream(orders(1_000), concurrency=6)
    reading = Reading(stream)
    await settle()
    stream.stop("Ctrl-C")
    stream.stop("again")
    await settle()
    assert sorted(reading.outcomes) == [Outcome.NOT_SENT] * 4
    for number in range(2):
        await gate.answer(number)
    await reading.task

    assert stream.stopped == "Ctrl-C"
    assert reading.error is None
    assert sorted(reading.indexes) == list(range(6))
    assert reading.outcomes.count(Outcome.SENT) == 2
    unsent = [result.error for result in reading.results if result.error]
    assert [type(error) for error in unsent] == [NotSentError] * 4
    assert {error.message for error in unsent} == {"the order was not sent: Ctrl-C"}


async def test_what_fails_after_a_stop_does_not_turn_it_into_an_error() -> None:
    gate = Gate()
    stream = a_rig(gate).stream(orders(10), concurrency=2)
    reading = Reading(stream)
    await settle()
    stream.stop("Ctrl-C")
    await gate.answer(0, "unreachable")
    await gate.answer(1, "unreachable")
    await reading.task

    assert reading.error is None
    assert stream.stopped == "Ctrl-C"


async def test_stopping_one_batch_leaves_the_clients_others_alone() -> None:
    async with shop() as (_, client):
        async with client.stream_orders(orders(100_000)) as stream:
            await anext(stream)
            stream.stop("enough")
            async for _ in stream:
                pass
        report = await client.send_orders(orders(50))

    assert report.counts[Outcome.SENT] == 50


async def test_tasks_cancelled_from_outside_are_no_quiet_end_and_lose_no_result() -> None:
    rig = a_rig(never)
    before = asyncio.all_tasks()
    reading = Reading(rig.stream(orders(1_000), concurrency=3))
    await settle()
    for task in asyncio.all_tasks() - before - {reading.task}:
        task.cancel()
    await reading.task

    assert isinstance(reading.error, BatchStoppedError)
    assert "cancelled from outside" in reading.error.message
    assert reading.outcomes == [Outcome.UNKNOWN] * 3
    assert reading.indexes == [0, 1, 2]
    nothing_is_left(rig)


# --------------------------------------------------------------------------------- leaving early


async def test_what_is_in_flight_when_the_stream_is_left_may_finish(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_GRACE_S", 30)
    gate = Gate()
    rig = a_rig(gate)

    async def leave_at_once() -> None:
        async with rig.stream(orders(100), concurrency=3):
            await settle_a_little()

    leaving = asyncio.create_task(leave_at_once())
    await settle()
    assert not leaving.done()
    for number in range(3):
        await gate.answer(number)
    await asyncio.wait_for(leaving, 10)

    assert len(rig.transport.bodies) == 3
    nothing_is_left(rig)


async def test_what_does_not_finish_within_the_grace_is_cancelled() -> None:
    rig = a_rig(never)
    async with rig.stream(orders(100), concurrency=3):
        await settle()
        assert rig.transport.in_flight == 3

    nothing_is_left(rig)


async def test_leaving_early_ends_waiting_and_backing_off_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_GRACE_S", 30)
    rig = a_rig(lambda _body: an_answer(429, b"", Retry_After="60"))
    async with asyncio.timeout(10), rig.stream(orders(100), concurrency=3):
        await settle()

    assert len(rig.transport.bodies) == 1  # the others wait for the end of the pause
    nothing_is_left(rig)


async def test_leaving_early_does_not_wait_for_an_idle_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_GRACE_S", 30)
    closed = []

    async def idle() -> AsyncIterator[Any]:
        try:
            yield order(1)
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    async with (
        asyncio.timeout(10),
        shop() as (_, client),
        client.stream_orders(idle()) as stream,
    ):
        await anext(stream)

    assert closed == [True]


async def test_a_break_ends_the_reading_and_closes_the_source() -> None:
    closed = []

    def source() -> Iterator[Any]:
        try:
            yield from orders(100_000)
        finally:
            closed.append("sync")

    async def async_source() -> AsyncIterator[Any]:
        try:
            for given in orders(100_000):
                yield given
        finally:
            await asyncio.sleep(0)
            closed.append("async")

    async with shop() as (sandbox, client):
        for given in (source(), async_source()):
            async with client.stream_orders(given) as stream:
                async for result in stream:
                    assert result.outcome is Outcome.SENT
                    break
        await client.send_order(order(1))
        assert client._pacer.in_flight == 0

    assert closed == ["sync", "async"]
    assert sandbox.processed <= 2 * 3 * 32 + 1


@both_kinds
async def test_an_error_of_the_readers_own_travels_on_and_closes_the_source(kind: str) -> None:
    closed = []

    def source() -> Iterator[Any]:
        try:
            yield from orders(1_000)
        finally:
            closed.append(True)

    async def raise_at_the_first(client: EverlyticClient) -> None:
        given: Any = source() if kind == "sync" else streamed(source())
        async with client.stream_orders(given) as stream:
            async for _ in stream:
                raise KeyError("mine")

    async with shop() as (_, client):
        with pytest.raises(KeyError, match="mine"):
            await raise_at_the_first(client)
        gc.collect()  # what a generator of a generator holds

    assert closed == [True]


# ---------------------------------------------------------------------------------- cancellation


class Cancelled:
    """A batch on a rig of its own, to be cancelled after so many turns of the event loop."""

    def __init__(self, *, kind: str, ordered: bool) -> None:
        ends = itertools.cycle(["accepted", "throttled", "failed", "accepted", "lost"])

        async def endpoint(_body: bytes) -> Any:
            await StopToken().sleep(0.1, rig.clock.call_later)
            return ENDS[next(ends)]()

        self.rig = rig = a_rig(endpoint, pacing=Pacing(max_concurrency=2, adaptive=False))
        self.kind = kind
        self.ordered = ordered
        self.closed = False

    def _source(self) -> Iterator[Any]:
        yield from orders(8)

    async def _async_source(self) -> AsyncIterator[Any]:
        try:
            for given in orders(8):
                await StopToken().sleep(0.05, self.rig.clock.call_later)
                yield given
        finally:
            self.closed = True

    async def work(self) -> int:
        source: Any = self._source() if self.kind == "sync" else self._async_source()
        count = 0
        async with self.rig.stream(source, concurrency=3, ordered=self.ordered) as stream:
            async for _ in stream:
                count += 1
                await asyncio.sleep(0)
        return count

    async def turns(self, task: asyncio.Task[int], turns: int) -> int:
        """Let the event loop turn, the clock moving when all wait for it; how many it took."""
        loop: Any = asyncio.get_running_loop()
        for turn in range(turns):
            if task.done():
                return turn
            await asyncio.sleep(0)
            if not loop._ready and self.rig.clock.next_at is not None:
                self.rig.clock.ring_next()
        return turns


@both_kinds
@pytest.mark.parametrize("ordered", [True, False])
async def test_a_batch_may_be_cancelled_at_any_await(
    monkeypatch: pytest.MonkeyPatch, kind: str, *, ordered: bool
) -> None:
    monkeypatch.setattr(module, "_GRACE_S", 0)
    whole = Cancelled(kind=kind, ordered=ordered)
    task = asyncio.create_task(whole.work())
    needed = await whole.turns(task, 10_000)
    assert await task == 8
    assert needed > 25

    for again in (None, 0, 1, 2, 3):  # a second cancellation, so many turns after the first
        for turns in range(needed):
            batch = Cancelled(kind=kind, ordered=ordered)
            task = asyncio.create_task(batch.work())
            await batch.turns(task, turns)
            task.cancel()
            if again is not None:
                await batch.turns(task, again)
                task.cancel()
            await asyncio.wait([task])

            assert task.cancelled()
            assert asyncio.all_tasks() == {asyncio.current_task()}
            nothing_is_left(batch.rig)
    gc.collect()  # what was never awaited warns now, and warnings are errors


@pytest.mark.parametrize("turns", [*range(0, 40, 2), *range(40, 400, 20)])
async def test_a_batch_may_be_cancelled_at_any_time_against_a_server(turns: int) -> None:
    pacing = Pacing(max_concurrency=3, adaptive=False)
    async with shop(pacing=pacing) as (sandbox, client):
        task = asyncio.create_task(client.send_orders(streamed(orders(10_000))))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

        # Every slot and connection was given back: as many orders as there are slots go through.
        again = [client.send_order(order(number)) for number in range(1, 4)]
        assert [receipt.status for receipt in await asyncio.gather(*again)] == [200] * 3
        assert set(sandbox.duplicates) <= {"1", "2", "3"}  # those just sent again


async def test_cancellation_gives_what_is_in_flight_a_grace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_GRACE_S", 30)
    gate = Gate()
    rig = a_rig(gate)
    reading = Reading(rig.stream(orders(100), concurrency=2))
    await settle()
    reading.task.cancel()
    await settle()
    assert not reading.task.done()
    assert rig.transport.in_flight == 2
    for number in range(2):
        await gate.answer(number)
    await asyncio.wait([reading.task], timeout=10)

    assert reading.task.cancelled()
    assert len(rig.transport.bodies) == 2
    nothing_is_left(rig)


async def test_a_callers_time_out_around_a_batch_is_the_callers() -> None:
    rig = a_rig(never)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05), rig.stream(orders(10)) as stream:
            await anext(stream)

    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    nothing_is_left(rig)


# ---------------------------------------------------------------------------------- with a server


@pytest.mark.parametrize("delivery", Delivery)
async def test_under_faults_every_order_has_its_result_and_the_server_agrees(
    delivery: Delivery,
) -> None:
    faults = Faults(
        seed=5,
        throttled=0.1,
        unavailable=0.05,
        server_error=0.05,
        dropped_before=0.05,
        dropped_after=0.05,
        latency_jitter_s=0.002,
    )
    pacing = Pacing(adaptive=False)
    async with shop(Sandbox(faults=faults), delivery=delivery, pacing=pacing) as (sandbox, client):
        report = await client.send_orders(orders(200))

    assert sorted(result.index for result in report.results) == list(range(200))
    assert sandbox.requests == sum(result.attempts for result in report.results)
    processed = set(ids_of(sandbox.received))
    for result in report.results:
        if result.outcome is Outcome.SENT:
            assert result.key in processed
        elif result.outcome is Outcome.NOT_SENT:
            assert result.key not in processed
    at_risk = {result.key for result in report.results if result.duplicate_risk}
    assert set(sandbox.duplicates) <= at_risk
    if delivery is Delivery.AT_MOST_ONCE:
        assert sandbox.duplicates == {}
        assert at_risk == set()


def test_the_clock_of_these_tests_moves_only_when_told() -> None:
    clock = FakeClock()
    assert clock() == clock()
