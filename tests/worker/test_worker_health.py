"""What monitors are told of workers, and of who works for a store."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from worker_shop import Shop, dead_of, emptied, make_queue, running, until

from everlytic_async import ConfigurationError, SqliteLedger
from everlytic_async.worker import HealthServer, OrderQueue, Worker, _health
from support.delivery import CUSTOMER_HASH, STORE_HASH, orders


@pytest.fixture
async def browser() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def read(browser: aiohttp.ClientSession, url: str) -> tuple[int, str]:
    async with browser.get(url) as answer:
        return answer.status, await answer.text()


def worker_of(client: Any, queue: OrderQueue, directory: Path) -> Worker:
    return Worker(client, queue, SqliteLedger(directory / "ledger"), retry_base_s=0.05)


async def test_a_worker_is_ready_while_it_can_send_and_alive_all_along(
    queue: OrderQueue, tmp_path: Path, browser: aiohttp.ClientSession
) -> None:
    async with Shop() as shop, shop.client() as client:
        worker = worker_of(client, queue, tmp_path)
        async with HealthServer({"shop": worker}) as health:
            assert (await read(browser, f"{health.url}/readyz"))[0] == 503  # it does not run yet
            async with running(worker):
                await until(lambda: worker.status.ready)
                status, text = await read(browser, f"{health.url}/readyz")
                assert (status, json.loads(text)["ready"]) == (200, True)
                worker.stop()
                status, text = await read(browser, f"{health.url}/readyz")
                assert (status, json.loads(text)["stores"]["shop"]["stopping"]) == (503, True)
            assert await read(browser, f"{health.url}/livez") == (200, "live\n")
            url = health.url
        with pytest.raises(aiohttp.ClientConnectionError):
            await read(browser, f"{url}/livez")


async def test_why_it_is_not_ready_is_told_and_logged_without_what_is_secret(
    queue: OrderQueue,
    tmp_path: Path,
    browser: aiohttp.ClientSession,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "everlytic_async")
    async for _ in queue.publish_many(orders(30)):
        pass
    async with Shop({"": "refuse"}) as shop, shop.client() as client:
        worker = worker_of(client, queue, tmp_path)
        async with HealthServer({"shop": worker}) as health, running(worker):
            await until(lambda: worker.status.last_error)
            status, text = await read(browser, f"{health.url}/readyz")
    assert status == 503
    assert "422" in json.loads(text)["stores"]["shop"]["last_error"]
    assert "422" in caplog.text
    for secret in (STORE_HASH, CUSTOMER_HASH, "@example.com"):
        assert secret not in text + caplog.text


async def test_the_metrics_are_those_of_the_worker_its_attempts_and_its_queue(
    queue: OrderQueue, tmp_path: Path, browser: aiohttp.ClientSession
) -> None:
    async for _ in queue.publish_many(orders(6)):
        pass
    fates: dict[str, str | list[str]] = {"1": "refuse", "2": "fail", "3": ["throttle", "accept"]}
    async with Shop(fates) as shop, shop.client() as client:
        await shop.accept_one(client)
        worker = worker_of(client, queue, tmp_path)
        async with HealthServer({"shop": worker}) as health, running(worker):
            await emptied(queue)
            await until(lambda: worker.status.in_flight == 0)
            status, text = await read(browser, f"{health.url}/metrics")
    assert status == 200
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["everlytic_orders_total", "sent", "shop"] == 4
    assert found["everlytic_orders_total", "rejected", "shop"] == 1
    assert found["everlytic_acks_total", "dead_letter", "shop"] == 2
    assert found["everlytic_in_flight", "shop"] == 0
    assert found["everlytic_ready", "shop"] == 1
    assert found["everlytic_attempt_seconds_count", "200", "shop"] == 4
    assert found["everlytic_attempt_seconds_count", "422", "shop"] == 1
    assert found["everlytic_cool_downs_total", "429", "shop"] == 1
    assert found["everlytic_queue_dead", "default"] == 2
    assert found["everlytic_queue_waiting", "default"] == 0
    assert len(await dead_of(queue)) == 2


async def test_without_prometheus_client_the_rest_is_served(
    queue: OrderQueue,
    tmp_path: Path,
    browser: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_health, "find_spec", lambda _name: None)
    async with Shop() as shop, shop.client() as client:
        worker = worker_of(client, queue, tmp_path)
        async with HealthServer({"shop": worker}) as health:
            status, text = await read(browser, f"{health.url}/metrics")
            assert (status, "everlytic-async[metrics]" in text) == (404, True)
            assert (await read(browser, f"{health.url}/livez"))[0] == 200


async def test_figures_of_a_queue_that_does_not_answer_are_left_out(
    queue: OrderQueue, tmp_path: Path, browser: aiohttp.ClientSession
) -> None:
    async with Shop() as shop, shop.client() as client:
        worker = worker_of(client, queue, tmp_path)
        async with HealthServer({"shop": worker}, queue_timeout_s=0) as health:
            status, text = await read(browser, f"{health.url}/metrics")
    assert status == 200
    assert 'everlytic_in_flight{store="shop"} 0.0' in text
    assert "everlytic_queue_dead{" not in text


async def test_where_it_cannot_listen_is_told(queue: OrderQueue, tmp_path: Path) -> None:
    async with Shop() as shop, shop.client() as client:
        worker = worker_of(client, queue, tmp_path)
        async with HealthServer({"shop": worker}) as health:
            port = int(health.url.rpartition(":")[2])
            with pytest.raises(ConfigurationError, match=f"can't listen at 127.0.0.1:{port}"):
                async with HealthServer({"shop": worker}, port=port):
                    pass


def test_nothing_optional_is_loaded_by_who_does_not_ask_for_health() -> None:
    script = (
        "import sys, everlytic_async.worker as w; w.Worker, w.OrderQueue, w.QueueSettings; "
        "loaded = {'prometheus_client', 'aiohttp.web', 'everlytic_async.worker._health'} "
        "& set(sys.modules); print(sorted(loaded - {'aiohttp.web'}))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


# --------------------------------------------------------------------------- who works for a store


async def test_workers_answer_for_themselves_also_with_no_free_slot(
    queue: OrderQueue, tmp_path: Path
) -> None:
    assert await queue.workers(5) == []  # said at once
    async for _ in queue.publish_many(orders(4)):
        pass
    async with Shop({"": "hang"}) as shop, shop.client(concurrency=3) as client:
        worker = worker_of(client, queue, tmp_path)
        async with running(worker):
            await until(lambda: shop.in_flight == 3)
            (found,) = await queue.workers(0.2)
            assert (found.in_flight, found.sent, found.stopping, found.last_error) == (
                3,
                0,
                False,
                None,
            )
            shop.answers.set()
            await until(lambda: worker.status.acked == 4)
            worker.stop()
    assert await queue.workers(5) == []


async def test_what_is_no_worker_is_passed_over(queue: OrderQueue) -> None:
    async def nonsense(message: Any) -> None:
        worker = b'{"name": "x", "in_flight": %s, "sent": 1, "stopping": 0, "last_error": null}'
        for said in (b"", b"[]", b"{}", b"\xff", worker % b'"many"', worker % b"1e999"):
            await message.respond(said)

    subscription = await queue.connection.subscribe(queue.settings.workers_subject, cb=nonsense)
    assert await queue.workers(0.2) == []
    await subscription.unsubscribe()


async def test_the_stores_of_a_queue_are_those_that_have_something_in_it(
    nats_url: str, own_settings: Any
) -> None:
    import attrs  # noqa: PLC0415

    settings = own_settings()
    for store in ("shop-b", "shop-a"):
        async with make_queue(nats_url, attrs.evolve(settings, store=store)) as queue:
            await queue.publish({"contact_unique_id": "7", "order_id": "1", "products": [{}]})
    async with make_queue(nats_url, settings) as queue:
        assert await queue.stores() == ["shop-a", "shop-b"]
