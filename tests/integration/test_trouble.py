"""An endpoint that answers, but with failures; a used-up quota; refusals of every order.

What is counted is counted at the endpoint: requests, and how many orders each failure cost.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from everlytic_async import (
    AuthenticationError,
    BatchStoppedError,
    Delivery,
    EverlyticClient,
    InvalidOrderError,
    NotSentError,
    OrderResult,
    Outcome,
    Pacing,
    RejectedError,
    RetryPolicy,
    SkippedError,
    SqliteLedger,
    ThrottledError,
    UnknownOutcomeError,
)
from everlytic_async._stop_token import StopToken
from everlytic_async._transport import Response
from everlytic_async.errors import EverlyticError
from everlytic_async.events import AttemptStarted, Event
from everlytic_async.ledger import LedgerFile, State
from support.delivery import (
    CUSTOMER_HASH,
    ENDS,
    QUICK,
    STORE_HASH,
    Endpoint,
    Rig,
    a_rig,
    an_answer,
    order,
    orders,
)
from support.servers import Connection, RawServer

HASHES = {"store_hash": STORE_HASH, "customer_hash": CUSTOMER_HASH}


async def outcomes_of(rig: Rig, source: Any, concurrency: int = 32) -> list[Outcome]:
    """What becomes of the orders by the rig's clock; raises what the stream raises."""

    async def read() -> list[Outcome]:
        outcomes: list[Outcome] = []
        try:
            async with rig.stream(source, concurrency=concurrency) as stream:
                async for result in stream:
                    outcomes.append(result.outcome)  # noqa: PERF401 - kept when it raises
        except BatchStoppedError as error:
            error.__notes__ = [str(dict(Counter(outcomes)))]
            raise
        return outcomes

    return await rig.clock.run(read())


def failing_between(from_s: float, to_s: float, end: str, latency_s: float) -> tuple[Rig, Endpoint]:
    """A rig whose endpoint takes `latency_s`, and fails in a span of its clock."""

    async def endpoint(_body: bytes) -> Any:
        future = asyncio.get_running_loop().create_future()
        rig.clock.call_later(latency_s, lambda: future.set_result(None))
        down = from_s <= rig.clock.now - started_at < to_s
        await future
        return ENDS[end if down else "accepted"]()

    rig = a_rig(endpoint, pacing=Pacing(max_concurrency=32))
    started_at = rig.clock.now
    return rig, endpoint


# ------------------------------------------------------------------- failures for a while, for ever


@pytest.mark.parametrize("end", ["failed", "lost", "silent", "unreachable"])
@pytest.mark.parametrize("latency_s", [0.002, 0.05])
async def test_four_seconds_of_trouble_cost_what_was_in_flight_and_the_probes(
    end: str, latency_s: float
) -> None:
    rig, _ = failing_between(0.5, 4.5, end, latency_s)
    outcomes = Counter(await outcomes_of(rig, orders(3_000)))

    assert outcomes[Outcome.SENT] + outcomes[Outcome.UNKNOWN] == 3_000
    assert outcomes[Outcome.UNKNOWN] <= (0 if end == "unreachable" else 60)
    assert rig.clock.now < 1_000 + 4.5 + 30


@pytest.mark.parametrize("delivery", Delivery)
@pytest.mark.parametrize("reached", [True, False])
@pytest.mark.parametrize("end", ["failed", "lost", "silent", "unreachable"])
async def test_trouble_for_ever_stops_the_batch_after_a_bounded_number_of_posts(
    end: str, reached: bool, delivery: Delivery
) -> None:
    """The figures of the default policy: 120 s of probing, or 5 probes where it never answered."""

    def endpoint(_body: bytes) -> Any:
        first = len(rig.transport.bodies) == 1
        return ENDS["accepted" if reached and first else end]()

    rig = a_rig(endpoint, pacing=Pacing(max_concurrency=32), delivery=delivery)
    source = (order(number, workflow_id=32) for number in range(20_000))
    with pytest.raises(BatchStoppedError) as caught:
        await outcomes_of(rig, source)

    assert len(rig.transport.bodies) <= 200
    lasted_s = rig.clock.now - 1_000
    assert 100 < lasted_s < 250 if reached else lasted_s < 60
    message = caught.value.message
    assert "shop.example" in message
    assert "workflow 32" in message
    assert "send again only the orders whose result is not_sent" in message
    assert {
        "failed": "500",
        "lost": "broke",
        "silent": "nothing came back",
        "unreachable": "refused",
    }[end] in message


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("reached", [True, False])
@pytest.mark.parametrize("deadline_s", [3, 120])
@pytest.mark.parametrize("retry_after_s", [None, 100, 300])
async def test_a_pause_longer_than_the_deadline_does_not_make_the_trouble_forgotten(
    retry_after_s: int | None, deadline_s: float, reached: bool, seed: int
) -> None:
    """The pauses are our own: backoff up to 30 s, and what a late 503 asks for, up to 120 s."""

    def endpoint(_body: bytes) -> Any:
        if reached and len(rig.transport.bodies) <= 100:
            return ENDS["accepted"]()
        headers = {} if retry_after_s is None else {"Retry-After": f"{retry_after_s}"}
        return Response(503, headers, b"", rig.clock.now, waited_s=2.5)

    rig = a_rig(endpoint, retry=RetryPolicy(deadline_s=deadline_s), seed=seed)
    with pytest.raises(BatchStoppedError, match="503"):
        await outcomes_of(rig, orders(5_000), concurrency=8)
    assert len(rig.transport.bodies) <= 100 * reached + 60
    assert rig.clock.now - 1_000 < 1_000


@pytest.mark.parametrize("ending", ["500", "drop"])
async def test_a_server_that_fails_every_order_gets_few_of_them(ending: str) -> None:
    async def fail(connection: Connection) -> None:
        while True:
            await connection.request()
            if ending == "drop":
                return
            await connection.answer(500, b"")

    async with (
        RawServer(fail) as server,
        EverlyticClient(server.url, **HASHES, retry=QUICK) as client,
    ):
        with pytest.raises(BatchStoppedError, match=f"localhost:{server.port}") as caught:
            await client.send_orders(orders(20_000))

    assert len(server.bodies) <= 60
    report = caught.value.report
    assert report is not None
    assert report.counts[Outcome.UNKNOWN] == len(server.bodies)
    assert report.counts[Outcome.UNKNOWN] + report.counts[Outcome.NOT_SENT] == len(report.results)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("retry_after", [None, "0"])
async def test_an_endpoint_that_throttles_everything_gets_fewer_and_fewer_orders(
    retry_after: str | None, status: int
) -> None:
    headers = {} if retry_after is None else {"Retry-After": retry_after}

    async def endpoint(_body: bytes) -> Response:
        future = asyncio.get_running_loop().create_future()
        rig.clock.call_later(0.01, lambda: future.set_result(None))
        await future
        return Response(status, headers, b"", rig.clock.now)

    rig = a_rig(endpoint, pacing=Pacing())
    taken: list[OrderResult] = []

    async def read() -> None:
        async with rig.stream(orders(5_000), concurrency=32) as stream:
            async for result in stream:
                taken.append(result)  # noqa: PERF401 - it never ends

    async with asyncio.TaskGroup() as group:
        reading = group.create_task(read())
        await rig.clock.advance(120)
        assert len(rig.transport.bodies) <= 200
        reading.cancel()
    assert {result.outcome for result in taken} <= {Outcome.NOT_SENT}


async def test_a_throttle_neither_counts_as_trouble_nor_ends_it() -> None:
    ends = iter(["failed", "throttled"] * 4 + ["failed"] * 2 + ["accepted"] * 100)
    rig = a_rig(lambda _body: ENDS[next(ends)](), pacing=Pacing(max_concurrency=1, adaptive=False))
    assert not rig.pacer.trouble.probing
    probing: list[bool] = []

    def note(_event: Event) -> None:
        probing.append(rig.pacer.trouble.probing)

    with rig.sender.dispatcher.subscribe(note, AttemptStarted):
        outcomes = await outcomes_of(rig, orders(50), concurrency=1)

    assert Counter(outcomes) == {Outcome.SENT: 44, Outcome.UNKNOWN: 6}
    # The fifth failure is trouble, whatever throttles came between; then it is over.
    assert probing.index(True) == 9
    assert probing[-1] is False


# ---------------------------------------------------------------------------------------- one order


async def test_calls_that_wait_in_trouble_end_by_their_deadline_and_then_fail_at_once() -> None:
    retry = RetryPolicy(deadline_s=10)
    rig = a_rig(lambda _body: ENDS["failed"](), retry=retry, pacing=Pacing(max_concurrency=32))
    rig.pacer.on_rejected(rig.clock.now)  # it had answered before

    async def call() -> tuple[type[EverlyticError] | None, float]:
        started_at = rig.clock.now
        try:
            await rig.sender.send(order(1), StopToken())
        except EverlyticError as error:
            return type(error), rig.clock.now - started_at
        return None, rig.clock.now - started_at

    async def calls(count: int) -> list[tuple[type[EverlyticError] | None, float]]:
        return await asyncio.gather(*(call() for _ in range(count)))

    first = await rig.clock.run(calls(200))
    assert all(elapsed_s <= 10.001 for _, elapsed_s in first)
    assert Counter(kind.__name__ for kind, _ in first if kind)["NotSentError"] > 100
    posts = len(rig.transport.bodies)
    assert posts <= 32 + 5 + 20

    for _ in range(5):  # it has given up: a probe a pause at most, and nobody waits
        later = await rig.clock.run(calls(50))
        assert max(elapsed_s for _, elapsed_s in later) == 0
    assert len(rig.transport.bodies) <= posts + 5


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        ("hang", UnknownOutcomeError),
        ("429", ThrottledError),
        ("refused", NotSentError),
        ("turn", NotSentError),
    ],
)
async def test_a_deadline_ends_the_call_with_what_is_known(
    ending: str, expected: type[EverlyticError]
) -> None:
    async def script(connection: Connection) -> None:
        while True:
            await connection.request()
            if ending == "hang":
                await connection.closed()
            await connection.answer(429, b"", "Retry-After: 60")

    pacing = Pacing(max_rate=0.01) if ending == "turn" else Pacing()
    async with RawServer(script) as server:
        url = "http://localhost:9" if ending == "refused" else server.url
        async with EverlyticClient(url, **HASHES, pacing=pacing, retry=QUICK) as client:
            if ending == "turn":
                with pytest.raises(UnknownOutcomeError if ending == "hang" else ThrottledError):
                    await client.send_order(order(0), deadline_s=0.05)
            with pytest.raises(expected) as caught:
                await asyncio.wait_for(client.send_order(order(1), deadline_s=0.1), 5)
        assert isinstance(caught.value, EverlyticError)
        assert caught.value.may_have_been_processed is (ending == "hang")


# ------------------------------------------------------------------------------------------- quotas


async def test_a_used_up_quota_stops_the_batch_with_the_figure() -> None:
    async def limit(connection: Connection) -> None:
        while True:
            await connection.request()
            if len(connection.server.bodies) <= 300:
                await connection.answer()
            else:
                await connection.answer(429, b"", "Retry-After: 3600")

    async with RawServer(limit) as server, EverlyticClient(server.url, **HASHES) as client:
        with pytest.raises(BatchStoppedError, match="3600") as caught:
            await client.send_orders(orders(20_000))
        assert len(server.bodies) <= 300 + 32
        report = caught.value.report
        assert report is not None
        assert report.counts[Outcome.SENT] == 300
        assert report.counts[Outcome.NOT_SENT] == len(report.results) - 300
        with pytest.raises(NotSentError, match="3600"):  # at once
            await asyncio.wait_for(client.send_order(order(1)), 5)


# --------------------------------------------------------------------- account and address faults


class Answers:
    """A server whose next answers are set by the test."""

    def __init__(self) -> None:
        self.status = 200

    async def __call__(self, connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.answer(self.status, b'{"message":"no such workflow"}')


async def test_wrong_hashes_then_the_right_ones_lose_no_order(tmp_path: Path) -> None:
    answers = Answers()
    ledger = SqliteLedger(tmp_path / "orders.ledger")
    async with RawServer(answers) as server:
        async with EverlyticClient(server.url, **HASHES, ledger=ledger) as client:
            answers.status = 401
            with pytest.raises(BatchStoppedError, match="401"):
                await client.send_orders(orders(100))
            with pytest.raises(AuthenticationError):
                await client.send_order(order(1))
        async with EverlyticClient(server.url, **HASHES, ledger=ledger) as client:
            answers.status = 200
            report = await client.send_orders(orders(100))
    assert report.counts[Outcome.SENT] == 100


@pytest.mark.parametrize("limit", [20, 3, None])
async def test_refusals_of_every_order_stop_the_batch_and_are_not_booked_on_the_orders(
    tmp_path: Path, limit: int | None
) -> None:
    answers = Answers()
    ledger = SqliteLedger(tmp_path / "orders.ledger")
    retry = RetryPolicy(stop_after_refusals=limit)
    source = [order(number, workflow_id=32) for number in range(60)]
    async with RawServer(answers) as server:
        async with EverlyticClient(server.url, **HASHES, retry=retry, ledger=ledger) as client:
            answers.status = 422
            if limit is None:
                assert (await client.send_orders(source)).counts[Outcome.REJECTED] == 60
            else:
                with pytest.raises(BatchStoppedError, match=r"workflow 32.*no such workflow"):
                    await client.send_orders(source)
                assert limit <= len(server.bodies) < limit + 32
        async with EverlyticClient(server.url, **HASHES, retry=retry, ledger=ledger) as client:
            answers.status = 200
            assert (await client.send_orders(source)).counts[Outcome.SENT] == 60


async def test_bad_records_at_the_head_of_a_file_do_not_block_a_store_that_is_known_to_work(
    tmp_path: Path,
) -> None:
    answers = Answers()
    ledger = SqliteLedger(tmp_path / "orders.ledger")
    async with RawServer(answers) as server:
        async with EverlyticClient(server.url, **HASHES, ledger=ledger) as client:
            await client.send_order(order(1_000))
        async with EverlyticClient(server.url, **HASHES, ledger=ledger) as client:
            answers.status = 422
            report = await client.send_orders(orders(60))
            assert report.counts[Outcome.REJECTED] == 60
            report = await client.send_orders(orders(60))  # the orders' own fault, so on record
            assert report.counts[Outcome.SKIPPED] == 60
            with pytest.raises(SkippedError) as caught:
                await client.send_order(order(1))
            assert caught.value.state == "rejected"
            with pytest.raises(RejectedError):
                await client.send_order(order(1), resend=[Outcome.REJECTED])


# --------------------------------------------------------------- one ledger for all of a client


async def test_with_a_ledger_the_client_sends_an_order_once_by_whichever_call(
    tmp_path: Path,
) -> None:
    answers = Answers()
    async with RawServer(answers) as server:
        for _ in range(2):
            ledger = SqliteLedger(tmp_path / "orders.ledger")
            async with EverlyticClient(server.url, **HASHES, ledger=ledger) as client:
                sending = [client.send_order(order(1)) for _ in range(5)]
                ends = await asyncio.gather(*sending, return_exceptions=True)
                skipped = [end for end in ends if isinstance(end, SkippedError)]
                assert len(skipped) >= 4
                assert {end.state for end in skipped} <= {"sent", "in_flight"}
                report = await client.send_orders(orders(3))
                assert report.counts[Outcome.SKIPPED] >= 1
                for number in (9, 10):  # two orders under one key of the caller's
                    with suppress(SkippedError):
                        await client.send_order(order(number), key="cart 7")
                with pytest.raises(SkippedError) as caught:
                    await client.send_order(order(9), key="cart 7")
                assert caught.value.state == "sent"
        ids = [json.loads(body)["order_id"] for body in server.bodies]
        assert sorted(ids) == ["0", "1", "2", "9"]


async def test_an_order_of_unknown_outcome_is_sent_again_only_when_asked(tmp_path: Path) -> None:
    async def lose_the_first(connection: Connection) -> None:
        while True:
            await connection.request()
            if len(connection.server.bodies) == 1:
                return
            await connection.answer()

    ledger = SqliteLedger(tmp_path / "orders.ledger")
    async with (
        RawServer(lose_the_first) as server,
        EverlyticClient(server.url, **HASHES, ledger=ledger) as client,
    ):
        with pytest.raises(UnknownOutcomeError):
            await client.send_order(order(1))
        with pytest.raises(SkippedError) as caught:
            await client.send_order(order(1))
        assert caught.value.state == "unknown"
        assert len(server.bodies) == 1
        await client.send_order(order(1), resend=[Outcome.UNKNOWN])
        assert len(server.bodies) == 2


# ---------------------------------------------------------------------------- what nobody foresaw


async def test_an_unforeseen_error_stops_the_batch_with_its_report_and_its_cause() -> None:
    def endpoint(_body: bytes) -> Any:
        if len(rig.transport.bodies) == 5:
            raise ZeroDivisionError("a bug below")
        return an_answer()

    rig = a_rig(endpoint)

    async def read() -> list[Any]:
        results: list[Any] = []
        async with rig.stream(orders(100), concurrency=1) as stream:
            try:
                async for result in stream:
                    results.append(result)  # noqa: PERF401 - kept when it raises
            except BatchStoppedError as error:
                results.append(error)
        return results

    *results, error = await rig.clock.run(read())
    assert isinstance(error, BatchStoppedError)
    assert "ZeroDivisionError" in error.message
    assert isinstance(error.__cause__, ZeroDivisionError)
    assert [result.index for result in results] == list(range(5))
    assert results[4].outcome is Outcome.UNKNOWN  # it may have been sent


@pytest.mark.parametrize("item", [InvalidOrderError(["line: broken"]), None, 7, {"products": 1}])
async def test_an_invalid_item_after_a_stop_rule_has_fired_changes_nothing(item: Any) -> None:
    async def limit(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.answer(429, b"", "Retry-After: 3600")

    async def broken_rows() -> AsyncIterator[Any]:
        yield order(1)
        for _ in range(20):
            await asyncio.sleep(0)
            yield item
        yield order(2)

    async with RawServer(limit) as server, EverlyticClient(server.url, **HASHES) as client:
        with pytest.raises(BatchStoppedError, match="3600"):
            await client.send_orders(broken_rows())
        # Nothing was attempted for it, so it stops no other batch.
        report = await client.send_orders([item])
    assert report.counts[Outcome.INVALID] == 1


async def test_attempts_that_take_longer_than_the_deadline_are_one_run_of_trouble() -> None:
    async def endpoint(_body: bytes) -> Any:
        future = asyncio.get_running_loop().create_future()
        rig.clock.call_later(2, lambda: future.set_result(None))
        await future
        return ENDS["silent"]()

    rig = a_rig(endpoint, retry=RetryPolicy(deadline_s=1.5), pacing=Pacing(max_concurrency=8))
    with pytest.raises(BatchStoppedError):
        await outcomes_of(rig, orders(64), concurrency=8)
    assert len(rig.transport.bodies) <= 8 + 8 + 5


@pytest.mark.parametrize("own_session", [True, False])
async def test_closing_the_client_ends_what_is_in_flight_as_unknown_and_records_it(
    tmp_path: Path, *, own_session: bool
) -> None:
    async def hang(connection: Connection) -> None:
        await connection.request()
        arrived.set()
        await connection.closed()

    path = tmp_path / "orders.ledger"
    arrived = asyncio.Event()
    async with RawServer(hang) as server, aiohttp.ClientSession() as session:
        client = EverlyticClient(
            server.url,
            **HASHES,
            ledger=SqliteLedger(path),
            session=None if own_session else session,
        )
        await client.start()
        one = asyncio.create_task(client.send_order(order(99)))
        many = asyncio.create_task(client.send_orders(orders(3)))
        await arrived.wait()
        while len(server.bodies) < 4:  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.001)
        await client.aclose()
        with pytest.raises(UnknownOutcomeError):
            await asyncio.wait_for(one, 5)
        with pytest.raises(BatchStoppedError, match="closed") as caught:
            await asyncio.wait_for(many, 5)
    report = caught.value.report
    assert report is not None
    assert report.counts[Outcome.UNKNOWN] == 3
    with LedgerFile(path, must_exist=True) as file:
        assert {entry.state for _, entry in file.entries()} == {State.UNKNOWN}


class Stuck:
    """A source whose closing fails."""

    def __init__(self) -> None:
        self.numbers = iter(range(100))

    def orders(self) -> Iterator[dict[str, Any]]:
        try:
            for number in self.numbers:
                yield order(number)
        finally:
            raise OSError("the file is gone")


async def test_a_source_that_fails_to_close_does_not_hide_the_report() -> None:
    async def refuse(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.answer(401, b"")

    async with RawServer(refuse) as server, EverlyticClient(server.url, **HASHES) as client:
        with pytest.raises(BatchStoppedError, match="401") as caught:
            await client.send_orders(Stuck().orders())
    assert caught.value.report is not None


async def test_a_blank_key_is_a_fault_and_not_another_orders_name(tmp_path: Path) -> None:
    answers = Answers()
    ledger = SqliteLedger(tmp_path / "orders.ledger")
    async with (
        RawServer(answers) as server,
        EverlyticClient(server.url, **HASHES, ledger=ledger) as client,
    ):
        report = await client.send_orders(orders(3), key=lambda _order: " ")
        assert report.counts[Outcome.INVALID] == 3
        with pytest.raises(InvalidOrderError, match="key: must not be blank"):
            await client.send_order(order(1), key="")
    assert server.bodies == []


async def test_a_key_function_that_raises_cancelled_error_costs_no_result() -> None:
    def key(raw: Any) -> str:
        if raw["order_id"] == "2":
            raise asyncio.CancelledError
        return str(raw["order_id"])

    async with RawServer(Answers()) as server, EverlyticClient(server.url, **HASHES) as client:
        report = await client.send_orders(orders(5), key=key, ordered=True)
    assert [result.index for result in report.results] == list(range(5))
    assert report.results[2].outcome is Outcome.INVALID


async def test_a_deadline_that_passes_in_a_stall_reads_what_has_arrived_first() -> None:
    async with RawServer(Answers()) as server, EverlyticClient(server.url, **HASHES) as client:
        await client.send_order(order(0))
        sending = asyncio.create_task(client.send_order(order(1), deadline_s=0.2))
        while len(server.bodies) < 2:  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0)
        time.sleep(0.3)  # noqa: ASYNC251 - the event loop stalls, which is the point
        assert (await sending).status == 200
