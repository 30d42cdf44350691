"""A worker's life: how it stops, what it waits for, and what it gives back."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from worker_shop import Shop, dead_of, emptied, make_queue, running, until

from everlytic_async import (
    AuthenticationError,
    ConfigurationError,
    EverlyticClient,
    LedgerError,
    Outcome,
    QueueError,
    RetryPolicy,
    SqliteLedger,
)
from everlytic_async.ledger import LedgerFile, LedgerSession, NatsLedger, State
from everlytic_async.worker import NatsServer, OrderQueue, QueueSettings, Worker
from support.delivery import CUSTOMER_HASH, STORE_HASH, order, orders

Settings = Callable[..., QueueSettings]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orders.ledger"


def worker_of(client: Any, queue: OrderQueue, path: Path, **settings: Any) -> Worker:
    given: dict[str, Any] = {
        "retry_base_s": 0.05,
        "retry_cap_s": 0.2,
        "max_pause_s": 0.2,
        **settings,
    }
    return Worker(client, queue, SqliteLedger(path), **given)


def states_of(path: Path) -> Counter[State]:
    with LedgerFile(path, must_exist=True) as file:
        return Counter(entry.state for _, entry in file.entries())


async def fill(queue: OrderQueue, count: int) -> None:
    async for each in queue.publish_many(orders(count)):
        assert each.stored


async def has_returned(queue: OrderQueue, count: int) -> None:
    """Wait until so many orders are to be had, and none is in hand."""

    async def is_so() -> bool:
        status = await queue.status()
        return (status.depth, status.idle_workers) == (count, 0)

    await until(is_so)
    taken = await queue.pull(count + 1, 5)
    assert len(taken) == count
    for each in taken:
        await each.nak()
    await queue.release()


# --------------------------------------------------------------------------------------- stop


async def test_stopped_it_ends_what_is_in_flight_and_gives_back_nothing_else(
    queue: OrderQueue, path: Path
) -> None:
    await fill(queue, 20)
    async with Shop({"": "hang"}) as shop, shop.client(concurrency=4) as client:
        worker = worker_of(client, queue, path)
        run = asyncio.create_task(worker.run())
        await until(lambda: shop.in_flight == 4)
        worker.stop()
        worker.stop()
        assert worker.status.stopping
        assert not worker.status.ready
        await asyncio.sleep(0.1)
        assert not run.done()
        assert (await queue.status()).in_flight == 4
        shop.answers.set()
        await run
    assert sum(shop.processed.values()) == 4
    assert worker.status.acked == 4
    assert states_of(path) == {State.SENT: 4}
    await has_returned(queue, 16)


async def test_what_waits_for_its_turn_goes_back_at_once(queue: OrderQueue, path: Path) -> None:
    """Throttled, they are in hand and not in flight."""
    await fill(queue, 4)
    async with Shop({"": "throttle"}) as shop:
        shop.retry_after = "60"
        async with shop.client(concurrency=4, retry=RetryPolicy()) as client:
            worker = worker_of(client, queue, path, retry_base_s=300, retry_cap_s=300)
            run = asyncio.create_task(worker.run())
            await until(lambda: sum(shop.posts.values()) >= 1 and shop.in_flight == 0)
            worker.stop()
            await asyncio.wait_for(run, 10)
        await has_returned(queue, 4)  # long before the delay of 300 s
    assert states_of(path).keys() == {State.NOT_SENT}


async def test_what_outlasts_the_grace_is_broken_off_and_known_as_unknown(
    queue: OrderQueue, path: Path
) -> None:
    await fill(queue, 3)
    async with Shop({"1": "hang"}) as shop, shop.client() as client:
        worker = worker_of(client, queue, path, shutdown_timeout_s=0.1)
        run = asyncio.create_task(worker.run())
        await until(lambda: shop.in_flight == 1 and shop.processed.total() == 3)
        worker.stop()
        await asyncio.wait_for(run, 10)
        assert states_of(path) == {State.SENT: 2, State.UNKNOWN: 1}
        async with running(worker_of(client, queue, path)):
            await emptied(queue)
    assert shop.posts["1"] == 1
    assert [letter.outcome for letter in await dead_of(queue)] == [Outcome.UNKNOWN]


async def test_cancelled_it_is_as_at_the_end_of_the_grace(queue: OrderQueue, path: Path) -> None:
    await fill(queue, 20)
    async with Shop({"": "hang"}) as shop, shop.client(concurrency=4) as client:
        run = asyncio.create_task(worker_of(client, queue, path).run())
        await until(lambda: shop.in_flight == 4)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert states_of(path) == {State.UNKNOWN: 4}
        shop.fates[""] = "accept"
        async with running(worker_of(client, queue, path)):
            await emptied(queue)
    assert set(shop.posts.values()) == {1}
    assert len(await dead_of(queue)) == 4


@pytest.mark.parametrize("after", ["nothing", "a moment"])
async def test_stopped_while_it_has_nothing_to_do_it_ends_soon(
    queue: OrderQueue, path: Path, after: str
) -> None:
    async with Shop() as shop, shop.client() as client:
        worker = worker_of(client, queue, path)
        run = asyncio.create_task(worker.run())
        if after == "a moment":
            await until(lambda: worker.status.ready)
            await asyncio.sleep(0.1)
        worker.stop()
        await asyncio.wait_for(run, 5)
    assert not worker.status.running


async def test_stopped_before_it_runs_it_does_nothing(queue: OrderQueue, path: Path) -> None:
    await fill(queue, 1)
    async with Shop() as shop, shop.client() as client:
        worker = worker_of(client, queue, path)
        worker.stop()
        await worker.run()
        assert not shop.posts
        with pytest.raises(ConfigurationError, match="runs once"):
            await worker.run()
    await has_returned(queue, 1)


# ---------------------------------------------------------------------------------- two of them


async def test_two_share_the_work_and_each_order_is_sent_once(
    nats_url: str, settings: QueueSettings, path: Path
) -> None:
    async with (
        Shop() as shop,
        make_queue(nats_url, settings) as one,
        make_queue(nats_url, settings) as other,
        shop.client(concurrency=4) as client,
        shop.client(concurrency=4) as second,
    ):
        shop.latency_s = 0.005
        await fill(one, 300)
        workers = [worker_of(client, one, path), worker_of(second, other, path)]
        async with running(workers[0]), running(workers[1]):
            await emptied(one)
    assert shop.processed == Counter({str(number): 1 for number in range(300)})
    sent = [worker.status.counts[Outcome.SENT] for worker in workers]
    assert sum(sent) == 300
    assert min(sent) > 50


async def test_a_long_wait_is_kept_alive(nats_url: str, own_settings: Settings, path: Path) -> None:
    async with (
        Shop({"0": "hang"}) as shop,
        make_queue(nats_url, own_settings(ack_wait_s=0.6)) as queue,
        shop.client() as client,
    ):
        await fill(queue, 1)
        async with running(worker_of(client, queue, path)):
            await until(lambda: shop.in_flight == 1)
            for _ in range(20):
                assert await queue.status() is not None
                assert (await queue.status()).redelivered == 0
                await asyncio.sleep(0.1)
            shop.answers.set()
            await emptied(queue)
    assert shop.posts["0"] == 1


# ------------------------------------------------------------------------ what keeps it from it


async def test_an_endpoint_that_is_away_is_waited_for(
    queue: OrderQueue, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    await fill(queue, 10)
    shop = Shop()
    async with shop:
        address = shop.url
    async with client_at(address, retry=RetryPolicy(attempts=2, base_s=0.01)) as client:
        worker = worker_of(client, queue, path)
        async with running(worker) as run:
            await until(lambda: worker.status.last_error is not None)
            assert not worker.status.ready
            await until(lambda: worker.status.nacked > 10)
            assert not run.done()
            async with same_port(address) as back:
                await emptied(queue)
            assert back.processed == Counter({str(number): 1 for number in range(10)})
            assert worker.status.last_error is None
    assert "no orders are taken for" in caplog.text
    assert await dead_of(queue) == []


async def test_hashes_that_are_refused_end_it_and_the_orders_are_back(
    queue: OrderQueue, path: Path
) -> None:
    await fill(queue, 50)
    async with Shop({"": "unauthorized"}) as shop, shop.client(concurrency=4) as client:
        worker = worker_of(client, queue, path)
        with pytest.raises(AuthenticationError, match="401"):
            await asyncio.wait_for(worker.run(), 20)
        assert shop.posts.total() <= 8
        assert await dead_of(queue) == []
        shop.fates[""] = "accept"
        async with running(worker_of(client, queue, path)):  # it has the right ones now
            await emptied(queue)
        assert shop.processed == Counter({str(number): 1 for number in range(50)})
    assert await dead_of(queue) == []


class SickLedger(SqliteLedger):
    """Can't be used for a while."""

    sick = True

    @asynccontextmanager
    async def session(self, scope: str, host: str) -> AsyncIterator[LedgerSession]:
        if self.sick:
            raise LedgerError("the ledger is locked")
        async with super().session(scope, host) as session:
            yield session


async def test_a_ledger_that_cannot_be_used_is_waited_for(queue: OrderQueue, path: Path) -> None:
    await fill(queue, 5)
    async with Shop() as shop, shop.client() as client:
        ledger = SickLedger(path)
        worker = Worker(client, queue, ledger)
        async with running(worker):
            await until(lambda: worker.status.last_error == "the ledger is locked")
            assert not shop.posts
            ledger.sick = False
            await emptied(queue)
        assert shop.processed.total() == 5


async def test_a_full_stream_of_dead_letters_keeps_the_order_in_the_queue(
    nats_url: str, own_settings: Settings, path: Path
) -> None:
    async with make_queue(nats_url, own_settings(max_messages=2), timeout_s=0.2) as queue:
        async with Shop({"": "refuse"}) as shop, shop.client() as client:
            await shop.accept_one(client)
            worker = worker_of(client, queue, path)
            async with running(worker):
                for number in range(3):
                    await fill_one(queue, number)
                    await until(lambda: shop.posts.total() == number + 1)  # noqa: B023 - at once
                    if number < 2:
                        await emptied(queue)
                await until(lambda: worker.status.nacked >= 2)
                assert (await queue.status()).depth == 1
                assert await queue.drop(await dead_of(queue)) == 2
                await emptied(queue)
        assert [letter.outcome for letter in await dead_of(queue)] == [Outcome.REJECTED]
        assert shop.posts.total() == 3


async def test_stopped_while_a_dead_letter_cannot_be_written_it_ends(
    nats_url: str, own_settings: Settings, path: Path
) -> None:
    async with make_queue(nats_url, own_settings(max_messages=1), timeout_s=60) as queue:
        async with Shop({"": "refuse"}) as shop, shop.client() as client:
            await shop.accept_one(client)
            async with running(worker_of(client, queue, path)):
                await fill_one(queue, 0)
                await until(lambda: shop.posts.total() == 1)
                await emptied(queue)
            await fill_one(queue, 1)
            worker = worker_of(client, queue, path, shutdown_timeout_s=0.3)
            async with running(worker):
                await until(lambda: shop.posts.total() == 2)
        assert worker.status.in_flight == 0
        await has_returned(queue, 1)  # to be skipped as rejected, and written then


async def fill_one(queue: OrderQueue, number: int) -> None:
    [order] = [each for each in orders(number + 1) if each["order_id"] == str(number)]
    assert await queue.publish(order)


async def test_streams_that_are_deleted_are_made_again(queue: OrderQueue, path: Path) -> None:
    async with Shop({"7": "refuse"}) as shop, shop.client() as client:
        worker = worker_of(client, queue, path)
        async with running(worker):
            await until(lambda: worker.status.ready)
            stream = queue.connection.jetstream()
            for name in (queue.settings.orders_stream, queue.settings.dead_letter_stream):
                await stream.delete_stream(name)
            await fill(queue, 8)
            await emptied(queue)
            assert worker.status.ready
        assert [letter.key for letter in await dead_of(queue)] == ["7"]
        assert shop.processed.total() == 7


async def test_without_its_ledger_nothing_is_sent_until_it_is_started_again(
    queue: OrderQueue,
) -> None:
    async with Shop() as shop, shop.client() as client:
        ledger = NatsLedger(queue.connection, queue.settings.subject, heartbeat_s=1.0)
        worker = Worker(client, queue, ledger, shutdown_timeout_s=5, retry_base_s=0.1)
        async with running(worker):
            await fill(queue, 2)
            await emptied(queue)
            assert await queue.connection.jetstream().delete_key_value(queue.settings.subject)
            await queue.publish(order(2))
            await until(lambda: "was deleted" in (worker.status.last_error or ""))
            assert not worker.status.ready
        assert shop.posts.total() == 2
        assert (await queue.status()).depth == 1
    async with shop, shop.client() as client:
        worker = Worker(client, queue, NatsLedger(queue.connection, queue.settings.subject))
        async with running(worker):
            await emptied(queue)
    assert shop.posts.total() == 3


async def test_a_server_that_restarts_is_waited_for(
    nats_server: NatsServer, own_settings: Settings, path: Path
) -> None:
    settings = own_settings(ack_wait_s=1.0)  # what was acknowledged as it went comes again
    async with (
        Shop() as shop,
        make_queue(nats_server.url, settings) as queue,
        shop.client() as client,
    ):
        shop.latency_s = 0.01
        await fill(queue, 300)
        worker = worker_of(client, queue, path)
        async with running(worker):
            await until(lambda: shop.processed.total() > 50)
            await nats_server.close()
            assert not worker.status.ready
            await nats_server.start()
            await emptied(queue)
    assert shop.processed == Counter({str(number): 1 for number in range(300)})
    assert await dead_of_closed(nats_server, settings) == []


async def dead_of_closed(server: NatsServer, settings: QueueSettings) -> list[Any]:
    async with make_queue(server.url, settings) as queue:
        return await dead_of(queue)


async def test_stopped_while_the_server_is_away_it_ends(
    nats_server: NatsServer, settings: QueueSettings, path: Path
) -> None:
    async with (
        Shop() as shop,
        make_queue(nats_server.url, settings) as queue,
        shop.client() as client,
    ):
        await fill(queue, 3)
        worker = worker_of(client, queue, path)
        async with running(worker):
            await emptied(queue)
            await nats_server.close()
            await until(lambda: not queue.connected)
        assert shop.processed.total() == 3


# ------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize("name", ["shutdown_timeout_s", "retry_base_s", "retry_cap_s"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
async def test_a_wrong_setting_is_named(
    queue: OrderQueue, path: Path, name: str, value: float
) -> None:
    async with Shop() as shop, shop.client() as client:
        with pytest.raises(ConfigurationError, match=name):
            worker_of(client, queue, path, **{name: value})


async def test_a_client_or_a_queue_that_is_not_open_is_an_error(
    queue: OrderQueue, nats_url: str, settings: QueueSettings, path: Path
) -> None:
    async with Shop() as shop:
        with pytest.raises(ConfigurationError, match="the client is not started"):
            await worker_of(shop.client(), queue, path).run()
        async with shop.client() as client:
            with pytest.raises(QueueError, match="the queue is not open"):
                await worker_of(client, make_queue(nats_url, settings), path).run()


def client_at(address: str, **settings: Any) -> EverlyticClient:
    return EverlyticClient(address, store_hash=STORE_HASH, customer_hash=CUSTOMER_HASH, **settings)


@asynccontextmanager
async def same_port(address: str) -> AsyncIterator[Shop]:
    """A shop where one was before."""
    shop = Shop()
    server = await asyncio.start_server(
        shop._server._serve, "127.0.0.1", int(address.rpartition(":")[2])
    )
    try:
        yield shop
    finally:
        server.close()
        for handler in shop._server._handlers:
            handler.cancel()
        await asyncio.gather(*shop._server._handlers, return_exceptions=True)
        await server.wait_closed()
