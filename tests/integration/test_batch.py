"""Streams and batches: one result for every order read, lazily, however they end.

Most of it runs on all of the delivery but the network, by a clock that the tests move, so that
every interleaving can be had.
"""

from __future__ import annotations

import asyncio
import enum
import itertools
import random
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from contextvars import ContextVar
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
    InvalidOrderError,
    NotSentError,
    Order,
    OrderResult,
    Outcome,
    Pacing,
    RetryPolicy,
    SourceError,
    SqliteLedger,
)
from everlytic_async.events import BatchEnded
from everlytic_async.sandbox import Faults, Sandbox
from support.clock import settle
from support.delivery import (
    client_of,
    order,
    orders,
    sandbox_client,
    streamed,
)
from support.fake_delivery import (
    ENDS,
    FakeDelivery,
    Gate,
    Reading,
    always,
    end_with,
    fake_delivery,
    make_response,
    never,
    script,
)
from support.servers import until


class Source:
    """An iterator of orders.

    Attributes:
        read: How many orders were read of it.
        read_after_end: How often it was read after it had ended or raised.
    """

    def __init__(self, items: Iterable[Any], error: BaseException | None = None) -> None:
        self._items = iter(items)
        self._error = error
        self._ended = False
        self.read = 0
        self.read_after_end = 0

    def __iter__(self) -> Source:
        return self

    def __next__(self) -> Any:
        self.read_after_end += self._ended
        for item in self._items:
            self.read += 1
            return item
        error, self._error, self._ended = self._error, None, True
        raise error or StopIteration


class AsyncSource:
    """The same, asynchronous; reading it after its end takes for ever, as with a queue."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __aiter__(self) -> AsyncSource:
        return self

    async def __anext__(self) -> Any:
        await asyncio.sleep(0)
        try:
            return next(self._source)
        except StopIteration:
            if self._source.read_after_end:
                await asyncio.Event().wait()
            raise StopAsyncIteration from None


def of_kind(source: Source, kind: str) -> Any:
    return source if kind == "sync" else AsyncSource(source)


both_kinds = pytest.mark.parametrize("kind", ["sync", "async"])

# ----------------------------------------------------------------------------- any batch at all

INPUTS: dict[str, Callable[[int], Any]] = {
    "mapping": order,
    "model": lambda number: Order.from_mapping(order(number)),
    "no products": lambda number: {"order_id": str(number), "contact_email": "a@b.example"},
    "unreadable": lambda number: InvalidOrderError(["line: expected JSON"], number),
    "nothing": lambda _number: None,
    "a number": lambda number: number,
    "a list": lambda _number: [],
    "text": lambda _number: "x",
    "bytes": lambda _number: b"x",
    "an object": lambda _number: object(),
    "a class": lambda _number: int,
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
def test_every_order_read_has_exactly_one_result(
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
    items = [INPUTS[kind](number) for number, kind in enumerate(kinds)]
    source = Source(items, ValueError("broken") if raises else None)
    ends_in_turn = itertools.cycle(ends)
    rng = random.Random(seed)

    async def endpoint(_body: bytes) -> Any:
        end = next(ends_in_turn)
        if latency_s:
            await fake.clock.sleep(rng.uniform(0, latency_s))
        return end_with(end)

    pacing = Pacing(max_concurrency=concurrency, max_rate=max_rate, adaptive=adaptive)
    retry = RetryPolicy(attempts=3)
    fake = fake_delivery(endpoint, retry=retry, delivery=delivery, pacing=pacing, seed=seed)
    results: list[OrderResult] = []

    async def consume() -> BaseException | None:
        stream = fake.stream(of_kind(source, source_kind), concurrency=concurrency, ordered=ordered)
        async with stream:
            try:
                async for result in stream:
                    results.append(result)
                    assert source.read <= len(results) + 2 * concurrency
                    if len(results) == stops_after:
                        stream.stop("enough")
                    if slow:
                        await fake.clock.sleep(rng.uniform(0, 0.3))
            except (BatchStoppedError, SourceError) as error:
                assert stream.stopped is not None
                return error
            assert stream.stopped in (None, "enough")
        return None

    async def check() -> BaseException | None:
        error = await fake.clock.run(consume())
        fake.check_idle()
        return error

    error = asyncio.run(check())

    indexes = [result.index for result in results]
    assert (indexes if ordered else sorted(indexes)) == list(range(source.read))
    for result in results:
        assert result.order is items[result.index]
        assert (result.outcome is Outcome.INVALID) == (kinds[result.index] not in VALID)
        assert (result.receipt is not None) == (result.outcome is Outcome.SENT)
        assert (result.error is None) == (result.outcome is Outcome.SENT)
    assert len(fake.transport.bodies) == sum(result.attempts for result in results)
    assert fake.transport.peak_in_flight <= concurrency
    assert source.read_after_end == 0
    if error is None and stops_after not in range(1, len(results) + 1):
        assert source.read == len(items)
        assert not raises
    if isinstance(error, SourceError):
        assert isinstance(error.__cause__, ValueError)
        assert source.read == len(items)
    (ended,) = [event for event in fake.events if isinstance(event, BatchEnded)]
    assert sum(ended.counts.values()) == len(results)


# ------------------------------------------------------------------------- laziness, back-pressure


@both_kinds
@pytest.mark.parametrize("ordered", [True, False])
async def test_a_slow_consumer_slows_the_sending_down(kind: str, *, ordered: bool) -> None:
    fake = fake_delivery(always("accepted"))
    source = Source(orders(10_000))
    async with fake.stream(of_kind(source, kind), concurrency=4, ordered=ordered) as stream:
        await settle()
        for taken in range(1, 20):
            await anext(stream)
            await settle()
            assert len(fake.transport.bodies) == source.read == taken + 2 * 4


@both_kinds
async def test_nothing_is_read_beyond_the_free_slots(kind: str) -> None:
    source = Source(orders(10_000))
    async with fake_delivery(never).stream(of_kind(source, kind), concurrency=4):
        await settle()
        assert source.read == 4


async def test_nothing_is_read_before_the_stream_is_entered() -> None:
    source = Source(orders(10))
    async with sandbox_client() as (sandbox, client):
        client.stream_orders(source)
        for _ in range(20):
            await asyncio.sleep(0)

    assert source.read == sandbox.requests == 0


@pytest.mark.parametrize("ordered", [True, False])
async def test_results_come_as_they_complete_or_in_order(*, ordered: bool) -> None:
    gate = Gate()
    reading = Reading(fake_delivery(gate).stream(orders(4), ordered=ordered))
    await settle()
    seen = []
    for number in (2, 0, 3, 1):
        await gate.answer(number)
        seen.append([*reading.indexes])
    await reading.task

    assert seen == (
        [[], [0], [0], [0, 1, 2, 3]] if ordered else [[2], [2, 0], [2, 0, 3], [2, 0, 3, 1]]
    )


@pytest.mark.parametrize("ordered", [True, False])
async def test_a_slow_order_holds_up_the_others_only_if_they_are_ordered(*, ordered: bool) -> None:
    gate = Gate()
    accept = always("accepted")
    fake = fake_delivery(lambda body: (gate if b'"order_id":"0"' in body else accept)(body))
    source = Source(orders(200))
    reading = Reading(fake.stream(source, ordered=ordered))
    await settle()
    assert (source.read, len(reading.results)) == ((8, 0) if ordered else (200, 199))
    await gate.answer(0)
    await reading.task

    assert reading.indexes == ([*range(200)] if ordered else [*range(1, 200), 0])


async def test_a_consumer_may_give_up_waiting_and_come_back() -> None:
    gate = Gate()
    async with fake_delivery(gate).stream(orders(3)) as stream:
        for number in range(3):
            waiting = asyncio.ensure_future(anext(stream))
            await settle()
            waiting.cancel()
            await settle()
            await gate.answer(number)
            assert (await anext(stream)).index == number
        for _ in range(3):  # a stream that has ended stays so
            with pytest.raises(StopAsyncIteration):
                await anext(stream)


@pytest.mark.parametrize("turns", range(5))
async def test_no_result_is_lost_when_its_consumer_is_cancelled(turns: int) -> None:
    gate = Gate()
    async with fake_delivery(gate).stream(orders(1)) as stream:
        waiting = asyncio.ensure_future(anext(stream))
        await settle()
        gate.waiting["0"].set_result(end_with("accepted"))
        for _ in range(turns):
            await asyncio.sleep(0)
        waiting.cancel()  # in one of these turns it was woken, but has not run yet
        await asyncio.gather(waiting, return_exceptions=True)

        result = await anext(stream) if waiting.cancelled() else waiting.result()
        assert result.index == 0


async def test_a_stream_is_read_by_one_task() -> None:
    async with fake_delivery(never).stream(orders(1)) as stream:
        first = asyncio.ensure_future(anext(stream))
        await settle()
        with pytest.raises(ConfigurationError, match="one task"):
            await anext(stream)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


# ---------------------------------------------------------------------------- unfinished orders


@both_kinds
async def test_unfinished_orders_are_reported_as_far_as_they_are_known(kind: str) -> None:
    gate = Gate()
    source = of_kind(Source([*orders(3), {"order_id": "bad"}, *orders(5)]), kind)
    fake = fake_delivery(gate, pacing=Pacing(max_concurrency=2, adaptive=False))
    async with fake.stream(source, concurrency=4, ordered=True) as stream:
        await settle()
        await gate.answer(1)  # before its turn
        results = stream.unfinished("the process was left")
    found = [(result.key, result.outcome, result.attempts) for result in results]
    assert found[:4] == [
        ("0", Outcome.UNKNOWN, 1),
        ("1", Outcome.SENT, 1),
        ("2", Outcome.UNKNOWN, 1),
        ("bad", Outcome.INVALID, 0),
    ]
    assert {found[1:] for found in found[4:]} == {(Outcome.NOT_SENT, 0)}
    assert [result.index for result in results] == list(range(len(results)))
    assert results[0].error is not None
    assert results[0].error.attempts == 1
    assert str(results[0].error) == (
        "the process was left while the order was under way: it may have been processed"
    )
    assert str(results[-1].error) == "the order was not sent: the process was left"


async def test_a_result_that_was_taken_is_not_unfinished() -> None:
    async with fake_delivery(always("accepted")).stream(orders(20), concurrency=2) as stream:
        async for result in stream:
            assert result.index not in [other.index for other in stream.unfinished("x")]
        assert stream.unfinished("x") == []


# ------------------------------------------------------------------------------------------- keys


async def test_a_key_function_names_the_valid_orders() -> None:
    unreadable = InvalidOrderError(["line: expected JSON"], 3)
    items: list[Any] = [order(0), {"products": []}, None, unreadable, order(4)]
    async with sandbox_client() as (_, client):
        report = await client.send_orders(
            items, ordered=True, key=lambda raw: f"#{raw['order_id']}"
        )
        numbered = await client.send_orders([order(6)], key=lambda raw: int(raw["order_id"]) + 100)
        by_id = await client.send_orders([order(7), {"order_id": "8"}], ordered=True)

    assert [result.key for result in report.results] == ["#0", None, None, None, "#4"]
    assert [result.order for result in report.results] == items
    assert [result.index for result in report.failures] == [1, 2, 3]
    assert [result.key for result in by_id.results] == ["7", "8"]
    assert [result.key for result in numbered.results] == ["106"]


@pytest.mark.parametrize(
    ("key", "fault"),
    [
        (AttributeError(), "the given function raised AttributeError"),
        (asyncio.CancelledError(), "the given function raised CancelledError"),
        (" ", "must not be blank"),
        (None, "the given function raised TypeError"),
    ],
    ids=repr,
)
async def test_an_order_whose_key_function_fails_is_invalid_and_not_sent(
    key: BaseException | str | None, fault: str
) -> None:
    def key_of(raw: Any) -> str | None:
        if raw["order_id"] != "2":
            return str(raw["order_id"])
        if isinstance(key, BaseException):
            raise key
        return key

    async with sandbox_client() as (sandbox, client):
        report = await client.send_orders(orders(5), key=key_of, ordered=True)

    assert [result.index for result in report.results] == list(range(5))
    (result,) = report.failures
    assert (result.index, result.outcome) == (2, Outcome.INVALID)
    assert isinstance(result.error, InvalidOrderError)
    assert result.error.faults == (f"key: {fault}",)
    assert sandbox.requests == 4


# ------------------------------------------------------------------------------ the source raises


@both_kinds
@pytest.mark.parametrize("error", [ValueError("ann@example.com"), asyncio.CancelledError()])
@pytest.mark.parametrize("after", [None, 0, 1, 40])
async def test_a_source_that_raises_ends_the_batch_after_its_results(
    kind: str, after: int | None, error: BaseException
) -> None:
    def fail(_source: object) -> None:
        raise error

    source = of_kind(Source(orders(after or 0), error), kind)
    if after is None:  # before it is read
        source = type("Unreadable", (), {"__iter__" if kind == "sync" else "__aiter__": fail})()
    name, count = type(error).__name__, after or 0
    async with asyncio.timeout(60), sandbox_client() as (sandbox, client):
        with pytest.raises(SourceError, match=f"{name} after {count} orders") as caught:
            await client.send_orders(source)

    assert caught.value.__cause__ is error
    report = caught.value.report
    assert isinstance(report, BatchReport)
    assert report.counts[Outcome.SENT] == len(report.results) == count == sandbox.processed
    assert report.stopped == caught.value.message
    assert "ann" not in caught.value.message


@both_kinds
async def test_results_come_before_the_error_of_the_source_and_retries_go_on(kind: str) -> None:
    ends = itertools.chain(["throttled"] * 2, itertools.repeat("accepted"))
    fake = fake_delivery(lambda _body: end_with(next(ends)))
    reading = await fake.read(of_kind(Source(orders(3), ValueError()), kind))

    assert reading.outcomes == [Outcome.SENT] * 3
    assert isinstance(reading.error, SourceError)
    assert reading.error.report is None


@both_kinds
@pytest.mark.parametrize(
    ("faults", "hashes", "why"),
    [
        (Faults(), {"customer_hash": "another"}, "401"),
        (Faults(throttled=1.0, retry_after_s=3600), {}, "3600 s"),
    ],
)
async def test_what_stops_a_batch_does_so_although_its_source_has_raised_meanwhile(
    tmp_path: Path, kind: str, faults: Faults, hashes: dict[str, str], why: str
) -> None:
    """With a ledger, more orders are read ahead than are sent."""
    ledger, pacing = SqliteLedger(tmp_path / "l"), Pacing(max_concurrency=1)
    source = of_kind(Source(orders(30), ValueError()), kind)
    async with sandbox_client(Sandbox(faults=faults), pacing=pacing, **hashes) as (sandbox, client):
        with pytest.raises(BatchStoppedError, match=why):
            await client.send_orders(source, ledger=ledger)
    assert sandbox.requests == 1


# ------------------------------------------------------------------------------ the batch stops


async def test_an_order_that_comes_while_reading_ends_has_its_result_too() -> None:
    answer = asyncio.Event()

    async def refuse(_body: bytes) -> Any:
        await answer.wait()
        return make_response(401)

    async def stubborn() -> AsyncIterator[Any]:
        yield order(0)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            yield order(1)

    reading = Reading(fake_delivery(refuse).stream(stubborn()))
    await settle()
    answer.set()
    await asyncio.wait_for(reading.task, 10)

    assert reading.indexes == [0, 1]
    assert reading.outcomes == [Outcome.NOT_SENT] * 2
    assert isinstance(reading.error, BatchStoppedError)


NO, YES = "rejected", "accepted"
OTHER_NO = make_response(404)


@pytest.mark.parametrize(
    ("ends", "stops_after"),
    [
        ([NO] * 60, 20),
        ([NO] * 19, None),
        *(([NO] * at + [YES] + [NO] * 60, None) for at in (0, 10, 19)),
        ([NO, OTHER_NO] * 30, None),
        ([NO] * 15 + ["failed"] + [NO] * 15, None),
    ],
)
async def test_twenty_equal_refusals_in_a_row_and_no_acceptance_stop_the_batch(
    ends: list[Any], stops_after: int | None
) -> None:
    fake = fake_delivery(script(*ends))
    reading = await fake.read(orders(len(ends)), concurrency=1)

    assert len(reading.results) == (stops_after or len(ends))
    if stops_after is None:
        assert reading.error is None
    else:
        assert isinstance(reading.error, BatchStoppedError)
        assert reading.outcomes == [Outcome.REJECTED] * stops_after


async def test_invalid_orders_neither_count_as_refusals_nor_end_a_run_of_them() -> None:
    items = itertools.chain.from_iterable(({}, order(number)) for number in range(100))
    reading = await fake_delivery(always(NO)).read(items, concurrency=1)
    assert isinstance(reading.error, BatchStoppedError)
    assert reading.outcomes.count(Outcome.REJECTED) == 20

    reading = await fake_delivery(always(NO)).read(({} for _ in range(100)), concurrency=1)
    assert reading.error is None
    assert reading.outcomes == [Outcome.INVALID] * 100


async def test_stop_lets_orders_in_flight_finish_and_the_first_reason_counts() -> None:
    gate = Gate()
    fake = fake_delivery(gate, pacing=Pacing(max_concurrency=2, adaptive=False))
    stream = fake.stream(orders(1_000), concurrency=6)
    reading = Reading(stream)
    await settle()
    stream.stop("Ctrl-C")
    stream.stop("again")
    await settle()
    assert reading.outcomes == [Outcome.NOT_SENT] * 4
    await gate.answer(0)
    await gate.answer(1, "unreachable")
    await reading.task

    assert stream.stopped == "Ctrl-C"
    assert reading.error is None
    assert sorted(reading.indexes) == list(range(6))
    assert reading.outcomes[4:] == [Outcome.SENT, Outcome.NOT_SENT]
    assert {type(result.error) for result in reading.results[:4]} == {NotSentError}
    assert {str(result.error) for result in reading.results[:4]} == {
        "the order was not sent: Ctrl-C"
    }


async def test_stopping_one_batch_leaves_the_clients_others_alone() -> None:
    async with sandbox_client() as (_, client):
        async with client.stream_orders(orders(100)) as stream:
            stream.stop("enough")
        report = await client.send_orders(orders(5))

    assert report.counts[Outcome.SENT] == 5


async def test_tasks_cancelled_from_outside_stop_the_batch_and_lose_no_result() -> None:
    fake = fake_delivery(never)
    before = asyncio.all_tasks()
    reading = Reading(fake.stream(orders(1_000), concurrency=3))
    await settle()
    for task in asyncio.all_tasks() - before - {reading.task}:
        task.cancel()
    await reading.task

    assert isinstance(reading.error, BatchStoppedError)
    assert "cancelled from outside" in reading.error.message
    assert reading.outcomes == [Outcome.UNKNOWN] * 3
    assert reading.indexes == [0, 1, 2]
    fake.check_idle()


async def test_an_unforeseen_error_stops_the_batch_and_is_its_cause() -> None:
    def endpoint(_body: bytes) -> Any:
        if len(fake.transport.bodies) == 5:
            raise ZeroDivisionError("a bug below")
        return end_with("accepted")

    fake = fake_delivery(endpoint)
    reading = await fake.read(orders(100), concurrency=1)

    assert isinstance(reading.error, BatchStoppedError)
    assert "ZeroDivisionError" in reading.error.message
    assert isinstance(reading.error.__cause__, ZeroDivisionError)
    assert reading.indexes == list(range(5))
    assert reading.outcomes[4] is Outcome.UNKNOWN  # it may have been sent


# --------------------------------------------------------------------------------- leaving early

LONG_S = 30


@pytest.mark.parametrize("leave", ["break", "raise", "stop and read on"])
@pytest.mark.parametrize("kind", ["sync", "async", "idle"])
async def test_leaving_a_stream_early_closes_its_source(kind: str, leave: str) -> None:
    closed: list[str] = []

    def sync_source() -> Iterator[Any]:
        try:
            yield from orders(100_000)
        finally:
            closed.append(kind)

    async def async_source() -> AsyncIterator[Any]:
        try:
            for raw in orders(100_000):
                yield raw
                if kind == "idle":
                    await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            closed.append(kind)

    fake = fake_delivery(always("accepted"))
    source = sync_source() if kind == "sync" else async_source()
    async with asyncio.timeout(60):
        with pytest.raises(KeyError, match="mine") if leave == "raise" else nullcontext():
            async with fake.stream(source, grace_s=LONG_S) as stream:
                await anext(stream)
                if leave == "raise":
                    raise KeyError("mine")
                if leave == "stop and read on":
                    stream.stop("enough")
                    async for _ in stream:
                        pass

    assert closed == [kind]
    assert len(fake.transport.bodies) <= 3 * 4
    fake.check_idle()


@pytest.mark.parametrize("leave", ["leave", "cancel"])
async def test_orders_in_flight_may_finish_within_the_grace(leave: str) -> None:
    gate = Gate()
    fake = fake_delivery(gate)

    async def read() -> None:
        async with fake.stream(orders(100), concurrency=3, grace_s=LONG_S):
            for _ in range(20):
                await asyncio.sleep(0)
            if leave == "cancel":
                await asyncio.Event().wait()

    reading = asyncio.create_task(read())
    await settle()
    if leave == "cancel":
        reading.cancel()
        await settle()
    assert not reading.done()
    for number in range(3):
        await gate.answer(number)
    await asyncio.wait([reading], timeout=10)

    assert reading.cancelled() == (leave == "cancel")
    assert len(fake.transport.bodies) == 3
    fake.check_idle()


async def test_orders_in_flight_after_the_grace_are_cancelled() -> None:
    fake = fake_delivery(never)
    async with fake.stream(orders(100), concurrency=3):
        await settle()
        assert fake.transport.in_flight == 3
    fake.check_idle()


async def test_leaving_early_ends_pauses_at_once() -> None:
    fake = fake_delivery(always(make_response(429, b"", Retry_After="60")))
    async with asyncio.timeout(60), fake.stream(orders(100), concurrency=3, grace_s=LONG_S):
        await settle()

    assert len(fake.transport.bodies) == 1  # the others wait for the end of the pause
    fake.check_idle()


async def test_a_source_that_fails_to_close_does_not_hide_the_report() -> None:
    def source() -> Iterator[Any]:
        try:
            yield from orders(100)
        finally:
            raise OSError("the file is gone")

    async with sandbox_client(store_hash="x") as (_, client):
        with pytest.raises(BatchStoppedError, match="401") as caught:
            await client.send_orders(source())
    assert caught.value.report is not None


# ---------------------------------------------------------------------------------- cancellation


class CancelledBatch:
    """A batch that is to be cancelled after some turns of the event loop."""

    def __init__(self, *, kind: str, ordered: bool) -> None:
        ends = itertools.cycle(["accepted", "throttled", "failed", "accepted", "lost"])

        async def endpoint(_body: bytes) -> Any:
            await self.fake.clock.sleep(0.1)
            return end_with(next(ends))

        pacing = Pacing(max_concurrency=2, adaptive=False)
        self.fake: FakeDelivery = fake_delivery(endpoint, pacing=pacing)
        source: Any = orders(8) if kind == "sync" else self._async_source()
        self.stream = self.fake.stream(source, concurrency=3, ordered=ordered, grace_s=0)

    async def _async_source(self) -> AsyncIterator[Any]:
        for raw in orders(8):
            await self.fake.clock.sleep(0.05)
            yield raw

    async def work(self) -> int:
        count = 0
        async with self.stream as stream:
            async for _ in stream:
                count += 1
                await asyncio.sleep(0)
        return count

    async def turn(self, task: asyncio.Task[int], turns: int) -> int:
        """Let the event loop turn so often, moving the clock if all wait for it; how often."""
        loop: Any = asyncio.get_running_loop()
        for turn in range(turns):
            if task.done():
                return turn
            await asyncio.sleep(0)
            if not loop._ready and self.fake.clock.next_at is not None:
                self.fake.clock.fire_next()
        return turns


@both_kinds
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize(
    "again",  # a second cancellation, so many turns after the first
    [None, 1, *(pytest.param(turns, marks=pytest.mark.slow) for turns in (0, 2, 3))],
)
async def test_a_batch_may_be_cancelled_at_any_await(
    kind: str, again: int | None, *, ordered: bool
) -> None:
    whole = CancelledBatch(kind=kind, ordered=ordered)
    task = asyncio.create_task(whole.work())
    needed = await whole.turn(task, 10_000)
    assert await task == 8
    assert needed > 25

    for turns in range(needed):
        batch = CancelledBatch(kind=kind, ordered=ordered)
        task = asyncio.create_task(batch.work())
        await batch.turn(task, turns)
        task.cancel()
        if again is not None:
            await batch.turn(task, again)
            task.cancel()
        await asyncio.wait([task])

        assert task.cancelled()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        batch.fake.check_idle()


async def test_a_callers_timeout_around_a_batch_is_the_callers() -> None:
    fake = fake_delivery(never)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05), fake.stream(orders(10)) as stream:
            await anext(stream)

    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    fake.check_idle()


# ------------------------------------------------------- what a source and its event loop expect


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there are no eager tasks yet")
@pytest.mark.parametrize("wrap", [list, streamed], ids=["sync", "async"])
async def test_eager_tasks_change_nothing(wrap: Callable[[Any], Any]) -> None:
    factory = getattr(asyncio, "eager_task_factory", None)
    raw = [{} if number % 40 == 2 else order(number) for number in range(100)]
    async with sandbox_client() as (sandbox, client):
        asyncio.get_running_loop().set_task_factory(factory)
        report = await client.send_orders(wrap(raw))
        asyncio.get_running_loop().set_task_factory(None)
        assert (report.counts[Outcome.SENT], report.counts[Outcome.INVALID]) == (97, 3)
        assert sandbox.processed == 97


async def test_a_generator_is_read_and_closed_in_one_context() -> None:
    shop: ContextVar[str] = ContextVar("shop", default="none")

    def source() -> Iterator[dict[str, Any]]:
        token = shop.set("mine")
        try:
            for number in range(200):
                yield order(number, checkout_url=f"https://shop.example/{shop.get()}")
        finally:
            shop.reset(token)

    async with sandbox_client() as (sandbox, client):
        await client.send_orders(source())
        async with client.stream_orders(source()) as results:
            async for _ in results:
                break
        assert {each["checkout_url"] for each in sandbox.received} == {"https://shop.example/mine"}
    assert shop.get() == "none"


async def test_an_async_source_is_closed_by_the_task_that_reads_it() -> None:
    tasks: set[object] = set()

    async def source() -> AsyncIterator[dict[str, Any]]:
        try:
            for number in range(200):
                tasks.add(asyncio.current_task())
                yield order(number)
        finally:
            tasks.add(asyncio.current_task())

    async with sandbox_client() as (_, client), client.stream_orders(source()) as results:
        async for _ in results:
            break
    assert len(tasks) == 1


async def test_what_closing_an_async_source_raises_is_raised() -> None:
    async def source() -> AsyncIterator[dict[str, Any]]:
        try:
            for number in range(200):
                yield order(number)
        finally:
            raise OSError("it can't be closed")

    async with sandbox_client() as (_, client):
        stream = client.stream_orders(source())
        await stream.__aenter__()
        await anext(stream)
        with pytest.raises(OSError, match="can't be closed"):
            await stream.__aexit__(None, None, None)


async def test_a_stream_whose_source_is_idle_ends_when_the_client_is_closed() -> None:
    async def source() -> AsyncIterator[dict[str, Any]]:
        yield order(1)
        await asyncio.Event().wait()

    async with Sandbox() as sandbox:
        client = await client_of(sandbox).start()
        sending = asyncio.create_task(client.send_orders(source()))
        await until(lambda: sandbox.processed == 1)
        await client.aclose()
        with pytest.raises(BatchStoppedError, match="the client was closed") as caught:
            await asyncio.wait_for(sending, 60)
    assert caught.value.report is not None
    assert caught.value.report.counts[Outcome.SENT] == 1


# ----------------------------------------------------------------------- mappings of the caller's


class OnceReadable(Mapping[str, Any]):
    """A row that can be read as long as its cursor stands on it: once."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields
        self._reads = 0

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __getitem__(self, key: str) -> Any:
        self._reads += 1
        if self._reads > len(self._fields):
            raise RuntimeError("the cursor has moved on")
        return self._fields[key]


class FailingOnce(dict[str, Any]):
    """A product that raises when it is read first."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(fields)
        self._has_failed = False

    def __getitem__(self, key: str) -> Any:
        if not self._has_failed:
            self._has_failed = True
            raise KeyError(key)
        return super().__getitem__(key)


class Name(enum.StrEnum):
    EMAIL = "contact_email"
    PRODUCTS = "products"
    PRODUCT = "product_name"


@pytest.mark.parametrize("with_ledger", [True, False])
async def test_a_401_stops_a_batch_even_if_its_orders_can_be_read_only_once(
    tmp_path: Path, with_ledger: bool
) -> None:
    ledger = SqliteLedger(tmp_path / "l") if with_ledger else None
    source = Source(OnceReadable(order(number)) for number in range(10_000))
    pacing = Pacing(max_concurrency=8, adaptive=False)
    async with (
        asyncio.timeout(60),
        sandbox_client(store_hash="another", pacing=pacing) as (sandbox, client),
    ):
        with pytest.raises(BatchStoppedError, match="401") as caught:
            await client.send_orders(source, ledger=ledger)

    report = caught.value.report
    assert report is not None
    assert sandbox.requests <= 16
    assert source.read == len(report.results) == report.counts[Outcome.NOT_SENT]
    assert with_ledger or source.read <= 2 * 8
    assert all(isinstance(r.error, AuthenticationError) or r.attempts == 0 for r in report.results)
    assert report.stopped == caught.value.message


async def test_a_401_stops_a_batch_that_sends_unknown_orders_again(tmp_path: Path) -> None:
    """They stay unknown, because of their earlier attempts."""
    ledger, pacing = SqliteLedger(tmp_path / "l"), Pacing(max_concurrency=1)
    async with Sandbox(faults=Faults(dropped_after=1.0)) as sandbox:
        async with client_of(sandbox, ledger=ledger) as client:
            report = await client.send_orders(orders(4))
        assert report.counts[Outcome.UNKNOWN] == sandbox.requests == 4
        async with client_of(
            sandbox, ledger=ledger, pacing=pacing, customer_hash="another"
        ) as client:
            with pytest.raises(BatchStoppedError, match="401"):
                await client.send_orders(orders(4), resend=[Outcome.UNKNOWN])
        assert sandbox.requests == 5


async def test_every_mapping_has_its_one_result() -> None:
    named = {Name.EMAIL: "ann@example.com", Name.PRODUCTS: [{Name.PRODUCT: "Mop"}]}
    mappings = [order(1), named, order(2, products=[FailingOnce(product_name="Mop")]), order(3)]
    async with sandbox_client() as (sandbox, client):
        report = await client.send_orders(mappings, ordered=True)
        keyed = await client.send_orders(
            [OnceReadable(order(4))], key=lambda raw: str(raw["order_id"])
        )
    sent, invalid = Outcome.SENT, Outcome.INVALID
    assert [result.outcome for result in report.results] == [sent, sent, invalid, sent]
    assert [result.outcome for result in keyed.results] == [invalid]
    assert sandbox.processed == 3
