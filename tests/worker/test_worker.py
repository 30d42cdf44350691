"""A worker's life: how it stops, what it waits for, and what it gives back."""

from __future__ import annotations

import asyncio
import logging
import re
import sqlite3
from collections import Counter
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest
from worker_shop import (
    dead_letters,
    drain,
    fill,
    make_queue,
    make_worker,
    once,
    queue_settings,
    running,
    states,
    until_status,
)

from everlytic_async import (
    AuthenticationError,
    ConfigurationError,
    Outcome,
    Pacing,
    QueueError,
    RetryPolicy,
    SqliteLedger,
)
from everlytic_async.ledger import LedgerFile, NatsLedger, State
from everlytic_async.worker import NatsServer, OrderQueue, QueueSettings
from support.delivery import make_client, order
from support.nats_servers import until
from support.shop import STATUSES, Shop

IMPATIENT = RetryPolicy(base_s=0.005, cap_s=0.02, deadline_s=0.2)


async def assert_returned(queue: OrderQueue, count: int) -> None:
    """All of this many orders can be pulled at once."""
    await until_status(queue, depth=count, idle_workers=0)
    pulled = await queue.pull(count + 1, 5)
    assert len(pulled) == count
    for each in pulled:
        await each.nak()
    await queue.release()


# --------------------------------------------------------------------------------------- stop


async def test_stopped_it_finishes_what_is_in_flight_and_gives_back_the_rest(
    queue: OrderQueue, path: Path
) -> None:
    await fill(queue, 20)
    async with Shop({"": "hang"}) as shop, shop.client(concurrency=4) as client:
        worker = make_worker(client, queue, path)
        run = asyncio.create_task(worker.run())
        await until(lambda: shop.in_flight == 4)
        worker.stop()
        worker.stop()
        assert worker.status.stopping
        assert not worker.status.ready
        await asyncio.sleep(0.1)
        assert not run.done()
        status = await queue.status()  # it holds no more than it has slots
        assert (status.in_flight, status.waiting, worker.status.in_flight) == (4, 16, 4)
        shop.answers.set()
        await run
    assert shop.peak == sum(shop.processed.values()) == 4
    assert worker.status.acked == 4
    assert set(states(path).values()) == {State.SENT}
    await assert_returned(queue, 16)


async def test_orders_that_wait_for_their_turn_go_back_at_once(
    queue: OrderQueue, path: Path
) -> None:
    await fill(queue, 4)
    async with Shop({"": "throttle"}) as shop:
        shop.retry_after = "60"
        async with shop.client(concurrency=4, retry=RetryPolicy()) as client:
            worker = make_worker(client, queue, path, retry_base_s=300, retry_cap_s=300)
            run = asyncio.create_task(worker.run())
            await until(lambda: sum(shop.posts.values()) >= 1 and shop.in_flight == 0)
            worker.stop()
            await asyncio.wait_for(run, 10)
        await assert_returned(queue, 4)  # long before the delay of 300 s
    assert set(states(path).values()) == {State.NOT_SENT}


@pytest.mark.parametrize("how", ["stop", "cancel"])
async def test_what_outlasts_the_shutdown_timeout_is_cancelled_and_unknown(
    queue: OrderQueue, path: Path, how: str
) -> None:
    await fill(queue, 5)
    async with Shop({"0": "hang", "1": "hang"}) as shop, shop.client() as client:
        worker = make_worker(client, queue, path, shutdown_timeout_s=0.1)
        run = asyncio.create_task(worker.run())
        await until(lambda: shop.in_flight == 2 and worker.status.acked == 3)
        if how == "stop":
            worker.stop()
            await asyncio.wait_for(run, 10)
        else:
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
        assert Counter(states(path).values()) == {State.SENT: 3, State.UNKNOWN: 2}
        shop.fates.clear()
        await drain(client, queue, path)
    assert shop.posts == once(5)
    assert [letter.outcome for letter in await dead_letters(queue)] == [Outcome.UNKNOWN] * 2


@pytest.mark.parametrize("after_s", [0, 0.1])
async def test_stopped_while_it_has_nothing_to_do_it_ends_soon(
    queue: OrderQueue, path: Path, after_s: float
) -> None:
    async with Shop() as shop, shop.client() as client:
        worker = make_worker(client, queue, path)
        run = asyncio.create_task(worker.run())
        if after_s:
            await until(lambda: worker.status.ready)
            await asyncio.sleep(after_s)
        worker.stop()
        await asyncio.wait_for(run, 20)
    assert not worker.status.running


async def test_stopped_before_it_runs_it_does_nothing(queue: OrderQueue, path: Path) -> None:
    await fill(queue, 1)
    async with Shop() as shop, shop.client() as client:
        worker = make_worker(client, queue, path)
        worker.stop()
        await worker.run()
        assert not shop.posts
        with pytest.raises(ConfigurationError, match="runs once"):
            await worker.run()
    await assert_returned(queue, 1)


# ------------------------------------------------------------------------------ with each other


async def test_two_workers_share_the_work_and_send_each_order_once(
    nats_url: str, settings: QueueSettings, path: Path
) -> None:
    async with (
        Shop() as shop,
        make_queue(nats_url, settings) as queue,
        make_queue(nats_url, settings) as other_queue,
        shop.client(concurrency=4) as client,
        shop.client(concurrency=4) as other_client,
    ):
        shop.latency_s = 0.005
        await fill(queue, 150)
        workers = [make_worker(client, queue, path), make_worker(other_client, other_queue, path)]
        async with running(workers[0]), running(workers[1]):
            await until_status(queue, depth=0)
        assert await dead_letters(queue) == []
    assert shop.processed == once(150)
    assert states(path) == {str(number): State.SENT for number in range(150)}
    sent = [worker.status.counts[Outcome.SENT] for worker in workers]
    assert sum(sent) == sum(worker.status.acked for worker in workers) == 150
    assert min(sent) > 25
    for worker in workers:
        status = worker.status
        assert (status.in_flight, status.nacked, status.dead_lettered) == (0, 0, 0)


async def test_heartbeats_keep_an_order_from_other_workers(nats_url: str, path: Path) -> None:
    async with (
        Shop({"0": "hang"}) as shop,
        make_queue(nats_url, queue_settings(ack_wait_s=0.9)) as queue,
        shop.client() as client,
    ):
        await fill(queue, 1)
        async with running(make_worker(client, queue, path)):
            await until(lambda: shop.in_flight == 1)
            for _ in range(12):
                assert (await queue.status()).redelivered == 0
                await asyncio.sleep(0.1)
            shop.answers.set()
            await until_status(queue, depth=0)
    assert shop.posts["0"] == 1


# ----------------------------------------------------------------- trouble with the endpoint


@pytest.mark.parametrize("was_reached", [True, False])
async def test_an_endpoint_that_fails_for_a_while_costs_few_dead_letters(
    queue: OrderQueue, path: Path, *, was_reached: bool
) -> None:
    await fill(queue, 200)
    async with (
        Shop({"": "accept" if was_reached else "fail"}) as shop,
        shop.client(retry=IMPATIENT) as client,
    ):
        worker = make_worker(client, queue, path)
        async with running(worker) as run:
            if was_reached:
                await until(lambda: worker.status.counts[Outcome.SENT] >= 20, "20 sent")
            shop.fates[""] = "fail"
            await until(lambda: worker.status.last_error and worker.status.in_flight == 0)
            assert not run.done()
            assert "500" in str(worker.status.last_error)
            posts = sum(shop.posts.values())
            await until(lambda: sum(shop.posts.values()) >= posts + 2, "more probes")
            shop.fates[""] = "accept"
            await until_status(queue, depth=0)
            assert worker.status.ready
    dead = await dead_letters(queue)
    assert {letter.outcome for letter in dead} == {Outcome.UNKNOWN}
    assert len(dead) <= 8 + 5 + 20
    assert worker.status.counts[Outcome.SENT] + len(dead) == 200
    assert max(Counter(shop.processed).values()) == 1


async def test_it_pauses_its_client_as_long_as_itself_so_that_trouble_is_not_forgotten(
    queue: OrderQueue, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What follows from it, a single probe after each pause, the pacer's tests show."""
    caplog.set_level(logging.WARNING, "everlytic_async")
    await fill(queue, 500)  # a stall of the machine ends the trouble, and costs more orders
    retry = RetryPolicy(base_s=0.001, cap_s=0.001, deadline_s=0.1)
    both = re.compile(
        r"no orders are taken for (\S+) s.*\n.*all sending pauses for (\S+) s: the worker waits"
    )
    async with (
        Shop({"": "fail"}) as shop,
        shop.client(retry=retry) as client,
        running(make_worker(client, queue, path)),
    ):
        await until(lambda: len(both.findall(caplog.text)) >= 3, "three pauses")
    for own_s, client_s in both.findall(caplog.text):
        assert float(client_s) == pytest.approx(float(own_s), abs=0.06)


@pytest.mark.parametrize(
    ("trouble", "says", "most_posts"),
    [
        ("unreachable", "could not be reached", 0),
        ("throttle", "3600", 2 * 8),  # a used-up quota
        ("refuse", "refusals in a row", 2 * (20 + 8)),  # of the account or the address
        ("locked", "another process holds it", 0),  # the ledger
    ],
)
async def test_what_keeps_every_order_from_being_sent_is_waited_for_with_nothing_held(
    queue: OrderQueue, path: Path, closed_port: int, trouble: str, says: str, most_posts: int
) -> None:
    await fill(queue, 50)
    LedgerFile(path).close()
    retry = RetryPolicy(attempts=2, base_s=0.005, cap_s=0.02, deadline_s=5, retry_after_cap_s=0.05)
    pacing = Pacing(max_concurrency=8, adaptive=False)
    shop = Shop({"": trouble if trouble in STATUSES else "accept"}, port=closed_port)
    shop.retry_after = "3600" if trouble == "throttle" else ""
    async with (
        AsyncExitStack() as stack,
        make_client(f"http://localhost:{closed_port}", retry=retry, pacing=pacing) as client,
    ):
        if trouble != "unreachable":
            await stack.enter_async_context(shop)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            if trouble == "locked":
                other.execute("BEGIN EXCLUSIVE")
            worker = make_worker(client, queue, SqliteLedger(path, wait_s=0.01))
            run = await stack.enter_async_context(running(worker))
            await until(
                lambda: says in str(worker.status.last_error) and worker.status.in_flight == 0, says
            )
            assert not worker.status.ready
            assert not run.done()
            assert shop.posts.total() <= most_posts
        assert await dead_letters(queue) == []
        if trouble == "unreachable":
            await stack.enter_async_context(shop)
        shop.retry_after, shop.fates = "", {"7": "refuse"}
        await until_status(queue, depth=0)
        assert worker.status.ready
    assert worker.status.counts[Outcome.SENT] == 49
    assert [letter.outcome for letter in await dead_letters(queue)] == [Outcome.REJECTED]


async def test_refused_hashes_end_it_and_the_orders_are_back(queue: OrderQueue, path: Path) -> None:
    await fill(queue, 50)
    async with Shop({"": "unauthorized"}) as shop, shop.client(concurrency=4) as client:
        with pytest.raises(AuthenticationError, match="401"):
            await asyncio.wait_for(make_worker(client, queue, path).run(), 20)
        assert shop.posts.total() <= 8
        assert await dead_letters(queue) == []
        shop.fates[""] = "accept"
        await drain(client, queue, path)
        assert shop.processed == once(50)
    assert await dead_letters(queue) == []


# ------------------------------------------------------------ trouble with the ledger and NATS


@pytest.mark.parametrize("fate", ["accept", "refuse"])
async def test_a_new_ledger_for_a_queue_with_a_history_is_named(
    queue: OrderQueue, caplog: pytest.LogCaptureFixture, fate: str
) -> None:
    """Its bucket was deleted: nobody knows any more what was sent."""

    def warnings() -> int:
        return sum("knows of no order that was sent" in text for text in caplog.messages)

    async with Shop({"1": fate}) as shop, shop.client() as client:
        for number, expected in enumerate((0, 0, 1)):
            if expected:
                stream = queue.connection.jetstream()
                assert await stream.delete_key_value(queue.settings.subject)
            await queue.publish(order(number))
            await drain(client, queue, NatsLedger(queue.connection, queue.settings.subject))
            assert warnings() == expected
    assert queue.settings.subject in next(text for text in caplog.messages if "no order" in text)


async def test_a_full_stream_of_dead_letters_keeps_the_order_in_the_queue(
    nats_url: str, path: Path
) -> None:
    settings = queue_settings(max_messages=1)
    async with (
        make_queue(nats_url, settings, timeout_s=0.2) as queue,
        Shop({"": "refuse"}) as shop,
        shop.client() as client,
    ):
        await shop.accept_one(client)
        async with running(make_worker(client, queue, path)):
            await queue.publish(order(0))
            await until_status(queue, depth=0, dead=1)
        # It also ends while a dead letter can't be stored, however patient the queue is.
        async with make_queue(nats_url, settings, timeout_s=60) as patient:
            await queue.publish(order(1))
            stopped = make_worker(client, patient, path, shutdown_timeout_s=0.3)
            async with running(stopped):
                await until(lambda: shop.posts["1"] == 1)
            assert stopped.status.in_flight == 0
        worker = make_worker(client, queue, path)
        async with running(worker):
            await until(lambda: worker.status.nacked >= 2)
            assert (await queue.status()).depth == 1
            assert await queue.drop(await dead_letters(queue)) == 1
            await until_status(queue, depth=0)
        assert [letter.outcome for letter in await dead_letters(queue)] == [Outcome.REJECTED]
    assert shop.posts == once(2)


async def test_a_server_that_restarts_is_waited_for(nats_server: NatsServer, path: Path) -> None:
    settings = queue_settings(ack_wait_s=1.0)  # an ack that was lost is due again after it
    async with (
        Shop() as shop,
        make_queue(nats_server.url, settings) as queue,
        shop.client() as client,
    ):
        shop.latency_s = 0.01
        await fill(queue, 150)
        worker = make_worker(client, queue, path)
        async with running(worker):
            await until(lambda: shop.processed.total() > 50)
            await nats_server.close()
            assert not worker.status.ready
            await nats_server.start()
            await until_status(queue, depth=0)
            assert await dead_letters(queue) == []
            await nats_server.close()
            await until(lambda: not queue.connected)  # stopped while it is away, it ends
    assert shop.processed == once(150)


# ------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    "name", ["shutdown_timeout_s", "retry_base_s", "retry_cap_s", "max_pause_s"]
)
async def test_a_wrong_setting_is_named(queue: OrderQueue, path: Path, name: str) -> None:
    async with Shop() as shop, shop.client() as client:
        for value in (0, -1, float("nan"), float("inf")):
            with pytest.raises(ConfigurationError, match=name):
                make_worker(client, queue, path, **{name: value})


async def test_a_client_or_a_queue_that_is_not_open_is_an_error(
    queue: OrderQueue, nats_url: str, settings: QueueSettings, path: Path
) -> None:
    async with Shop() as shop:
        with pytest.raises(ConfigurationError, match="the client is not started"):
            await make_worker(shop.client(), queue, path).run()
        async with shop.client() as client:
            with pytest.raises(QueueError, match="the queue is not open"):
                await make_worker(client, make_queue(nats_url, settings), path).run()
