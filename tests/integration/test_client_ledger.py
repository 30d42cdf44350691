"""A client with a ledger: its calls share one memory, which no fault of the account enters."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from everlytic_async import (
    AuthenticationError,
    BatchStoppedError,
    Order,
    Outcome,
    RejectedError,
    RetryPolicy,
    SkippedError,
    SqliteLedger,
    UnknownOutcomeError,
)
from everlytic_async.events import AttemptEnded, Event
from everlytic_async.ledger import Entry, LedgerFile, State
from support.delivery import order, orders
from support.servers import until
from support.shop import Shop


@pytest.fixture
def ledger(tmp_path: Path) -> SqliteLedger:
    return SqliteLedger(tmp_path / "orders.ledger")


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    async with Shop() as shop:
        yield shop


def entries_of(path: Path) -> list[Entry]:
    with LedgerFile(path, must_exist=True) as file:
        return [entry for _, entry in file.entries()]


async def test_wrong_hashes_then_the_right_ones_lose_no_order(
    shop: Shop, ledger: SqliteLedger
) -> None:
    shop.fates = {"": "unauthorized"}
    async with shop.client(ledger=ledger) as client:
        with pytest.raises(BatchStoppedError, match="401"):
            await client.send_orders(orders(100))
        with pytest.raises(AuthenticationError):
            await client.send_order(order(1))
    shop.fates = {}
    async with shop.client(ledger=ledger) as client:
        report = await client.send_orders(orders(100))
    assert report.counts[Outcome.SENT] == 100


@pytest.mark.parametrize("limit", [20, 3, None])
async def test_refusals_of_every_order_stop_the_batch_and_are_not_recorded_as_the_orders_fault(
    shop: Shop, ledger: SqliteLedger, limit: int | None
) -> None:
    retry = RetryPolicy(stop_after_refusals=limit)
    source = [order(number, workflow_id=32) for number in range(60)]
    shop.fates = {"": "refuse"}
    async with shop.client(retry=retry, ledger=ledger) as client:
        if limit is None:
            assert (await client.send_orders(source)).counts[Outcome.REJECTED] == 60
        else:
            with pytest.raises(BatchStoppedError, match=r"workflow 32.*not for"):
                await client.send_orders(source)
            assert limit <= shop.posts.total() < limit + 32
    shop.fates = {}
    async with shop.client(retry=retry, ledger=ledger) as client:
        assert (await client.send_orders(source)).counts[Outcome.SENT] == 60


async def test_bad_records_do_not_block_a_store_that_accepted_an_order_before(
    shop: Shop, ledger: SqliteLedger
) -> None:
    async with shop.client(ledger=ledger) as client:
        await client.send_order(order(1_000))
    shop.fates = {"": "refuse"}
    async with shop.client(ledger=ledger) as client:
        assert (await client.send_orders(orders(60))).counts[Outcome.REJECTED] == 60
        # The fault is the orders' own, and so is on record.
        assert (await client.send_orders(orders(60))).counts[Outcome.SKIPPED] == 60
        with pytest.raises(SkippedError) as caught:
            await client.send_order(order(1))
        assert caught.value.state == "rejected"
        with pytest.raises(RejectedError):
            await client.send_order(order(1), resend=[Outcome.REJECTED])


async def test_the_calls_of_a_client_send_an_order_once(shop: Shop, ledger: SqliteLedger) -> None:
    for _ in range(2):
        async with shop.client(ledger=ledger) as client:
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
    assert shop.posts == dict.fromkeys("0129", 1)


async def test_an_order_of_unknown_outcome_is_sent_again_only_on_request(
    shop: Shop, ledger: SqliteLedger
) -> None:
    shop.fates = {"1": ["lose", "accept"]}
    async with shop.client(ledger=ledger) as client:
        with pytest.raises(UnknownOutcomeError):
            await client.send_order(order(1))
        with pytest.raises(SkippedError) as caught:
            await client.send_order(order(1))
        assert caught.value.state == "unknown"
        both = [Order.from_mapping(order(number)) for number in (1, 2)]
        forecast = await client.forecast(both, ledger=ledger)
        assert [getattr(each, "state", None) for each in forecast] == ["unknown", None]
        assert await client.forecast(both, ledger=ledger, resend=[Outcome.UNKNOWN]) == [None, None]
        assert shop.posts == {"1": 1}
        await client.send_order(order(1), resend=[Outcome.UNKNOWN])
        assert shop.posts["1"] == 2


async def test_closing_records_what_is_in_flight_before_it_closes_the_ledger(
    tmp_path: Path,
) -> None:
    async with asyncio.TaskGroup() as group:  # so that all wait at once
        for own_session, answered in itertools.product([True, False], repeat=2):
            path = tmp_path / f"{own_session}-{answered}.ledger"
            group.create_task(
                close_in_flight(path, own_session=own_session, answered_in_time=answered)
            )


async def close_in_flight(path: Path, *, own_session: bool, answered_in_time: bool) -> None:
    async with Shop({"": "hang"}) as shop, aiohttp.ClientSession() as session:
        settings = {"ledger": SqliteLedger(path), "session": None if own_session else session}
        client = await shop.client(**settings).start()
        one = asyncio.create_task(client.send_order(order(99)))
        many = asyncio.create_task(client.send_orders(orders(3)))
        await until(lambda: shop.in_flight == 4)
        if answered_in_time:
            asyncio.get_running_loop().call_later(0.05, shop.answers.set)
        await client.aclose()  # its grace is 2 seconds
        # By now each has its outcome, and nothing is sent or recorded any more.
        entries = entries_of(path)
        ends = await asyncio.wait_for(asyncio.gather(one, many, return_exceptions=True), 60)
        assert not session.closed

    assert len(entries) == 4
    assert isinstance(ends[1], BatchStoppedError)
    assert ends[1].report is not None
    if answered_in_time:
        assert {entry.state for entry in entries} == {State.SENT}
        assert (ends[0].status, ends[1].report.counts[Outcome.SENT]) == (200, 3)
    else:
        assert isinstance(ends[0], UnknownOutcomeError)
        assert ends[1].report.counts[Outcome.UNKNOWN] == 3
        # The reason shows that it was recorded: what was not is unknown as well.
        expected = "closed while it was in flight: it may have"
        assert all(expected in str(each) for each in [ends[0], *(e.reason for e in entries)])


async def test_a_claimed_order_is_unfinished_like_any_other(
    shop: Shop, ledger: SqliteLedger
) -> None:
    shop.fates = {"": "hang"}
    async with (
        shop.client() as client,
        client.stream_orders(orders(3), ledger=ledger) as stream,
    ):
        await until(lambda: shop.in_flight == 3)
        unfinished = stream.unfinished("the process was left")
        shop.answers.set()
    assert [(result.key, result.outcome, result.attempts) for result in unfinished] == [
        (str(number), Outcome.UNKNOWN, 1) for number in range(3)
    ]


@pytest.mark.parametrize("kind", [asyncio.CancelledError, SystemExit])
async def test_an_accepted_order_is_sent_whatever_a_hook_raises(
    shop: Shop, ledger: SqliteLedger, kind: type[BaseException]
) -> None:
    def interrupt(_event: Event) -> None:
        raise kind

    async with shop.client(ledger=ledger) as client:
        with client.subscribe(interrupt, AttemptEnded), pytest.raises(kind):
            await client.send_order(order(1))
    async with shop.client(ledger=ledger) as client:
        with pytest.raises(SkippedError) as caught:
            await client.send_order(order(1))
    assert (caught.value.state, shop.posts["1"]) == (State.SENT, 1)


async def test_an_accepted_order_is_sent_whatever_the_log_raises(
    shop: Shop, ledger: SqliteLedger, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_record: logging.LogRecord) -> bool:
        raise LookupError("no request")

    caplog.set_level(logging.DEBUG, "everlytic_async")
    logger = logging.getLogger("everlytic_async")
    logger.addFilter(fail)
    try:
        async with shop.client(ledger=ledger) as client:
            assert (await client.send_order(order(1))).status == 200
    finally:
        logger.removeFilter(fail)


async def test_what_a_closed_client_never_posted_is_not_unknown(shop: Shop, tmp_path: Path) -> None:
    careful: set[str] = set()
    for turns in range(12):
        path = tmp_path / f"{turns}.ledger"
        client = await shop.client(ledger=SqliteLedger(path)).start()
        numbers = range(10 * turns, 10 * turns + 5)
        calls = [asyncio.create_task(client.send_order(order(number))) for number in numbers]
        for _ in range(turns):
            await asyncio.sleep(0)
        await client.aclose()
        await asyncio.gather(*calls, return_exceptions=True)
        careful |= {
            entry.key
            for entry in entries_of(path)
            if entry.state in (State.UNKNOWN, State.IN_FLIGHT)
        }
    assert careful <= shop.posts.keys()
