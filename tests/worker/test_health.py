"""What monitors get: /livez, /readyz and /metrics."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from worker_shop import dead_letters, fill, make_worker, running, until_status

from everlytic_async import ConfigurationError
from everlytic_async.worker import HealthServer, OrderQueue, _health
from support.delivery import CUSTOMER_HASH, STORE_HASH
from support.nats_servers import until
from support.processes import run_python
from support.shop import Shop


async def get(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.text()


async def test_a_worker_is_ready_while_it_can_send_and_live_all_along(
    queue: OrderQueue, path: Path, closed_port: int
) -> None:
    async with Shop() as shop, shop.client() as client:
        worker = make_worker(client, queue, path)
        async with HealthServer({"shop": worker}, port=closed_port) as health:
            assert (await get(f"{health.url}/readyz"))[0] == 503  # it does not run yet
            async with running(worker):
                await until(lambda: worker.status.ready)
                status, text = await get(f"{health.url}/readyz")
                assert (status, json.loads(text)["ready"]) == (200, True)
                worker.stop()
                status, text = await get(f"{health.url}/readyz")
                assert (status, json.loads(text)["stores"]["shop"]["stopping"]) == (503, True)
            assert await get(f"{health.url}/livez") == (200, "live\n")
            error = f"can't listen at 127.0.0.1:{closed_port}"
            with pytest.raises(ConfigurationError, match=error):
                async with HealthServer({"shop": worker}, port=closed_port):
                    pass
        with pytest.raises(aiohttp.ClientConnectionError):
            await get(f"{health.url}/livez")


async def test_it_says_why_a_worker_is_not_ready_without_secrets(
    queue: OrderQueue, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "everlytic_async")
    await fill(queue, 30)
    async with Shop({"": "refuse"}) as shop, shop.client() as client:
        worker = make_worker(client, queue, path)
        async with HealthServer({"shop": worker}) as health, running(worker):
            await until(lambda: worker.status.last_error)
            status, text = await get(f"{health.url}/readyz")
    assert status == 503
    assert "422" in json.loads(text)["stores"]["shop"]["last_error"]
    assert "422" in caplog.text
    for secret in (STORE_HASH, CUSTOMER_HASH, "@example.com"):
        assert secret not in text + caplog.text


async def test_metrics_are_those_of_the_worker_its_attempts_and_its_queue(
    queue: OrderQueue, path: Path
) -> None:
    await fill(queue, 6)
    fates: dict[str, str | list[str]] = {"1": "refuse", "2": "fail", "3": ["throttle", "accept"]}
    async with Shop(fates) as shop, shop.client() as client:
        await shop.accept_one(client)
        worker = make_worker(client, queue, path)
        async with HealthServer({"shop": worker}) as health, running(worker):
            await until_status(queue, depth=0)
            await until(lambda: worker.status.in_flight == 0)
            status, text = await get(f"{health.url}/metrics")
    assert status == 200
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    expected = {
        ("everlytic_orders_total", "sent", "shop"): 4,
        ("everlytic_orders_total", "rejected", "shop"): 1,
        ("everlytic_acks_total", "dead_letter", "shop"): 2,
        ("everlytic_in_flight", "shop"): 0,
        ("everlytic_ready", "shop"): 1,
        ("everlytic_attempt_seconds_count", "200", "shop"): 4,
        ("everlytic_attempt_seconds_count", "422", "shop"): 1,
        ("everlytic_cool_downs_total", "429", "shop"): 1,
        ("everlytic_queue_dead", "default"): 2,
        ("everlytic_queue_waiting", "default"): 0,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert len(await dead_letters(queue)) == 2


async def test_metrics_leave_out_a_queue_that_does_not_answer_and_need_an_extra(
    queue: OrderQueue, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Shop() as shop, shop.client() as client:
        worker = make_worker(client, queue, path)
        async with HealthServer({"shop": worker}, queue_timeout_s=0) as health:
            status, text = await get(f"{health.url}/metrics")
            assert status == 200
            assert 'everlytic_in_flight{store="shop"} 0.0' in text
            assert "everlytic_queue_dead{" not in text
        monkeypatch.setattr(_health, "find_spec", lambda _name: None)
        async with HealthServer({"shop": worker}) as health:
            status, text = await get(f"{health.url}/metrics")
            assert (status, "everlytic-async[metrics]" in text) == (404, True)
            assert (await get(f"{health.url}/livez"))[0] == 200


def test_a_worker_alone_loads_no_prometheus_client() -> None:
    script = (
        "import sys, everlytic_async.worker as w; w.Worker, w.OrderQueue, w.QueueSettings; "
        "print('prometheus_client' in sys.modules)"
    )
    assert run_python("-c", script) == "False\n"
