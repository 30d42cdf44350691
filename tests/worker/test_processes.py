"""Workers as processes that are killed, stopped, and lose their server: what arrived is counted."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from worker_process import CONCURRENCY, worker_process
from worker_shop import dead_letters, fill, make_queue, queue_settings, until_status

from everlytic_async import Outcome, SqliteLedger
from everlytic_async.ledger import NatsLedger
from everlytic_async.sandbox import Faults, Sandbox
from everlytic_async.worker import NatsServer, QueueSettings
from support.delivery import CUSTOMER_HASH, STORE_HASH, client_of, order_ids, orders
from support.nats_servers import NatsCluster, kill, until


def make_sandbox(latency_s: float = 0.02) -> Sandbox:
    faults = Faults(latency_s=latency_s, latency_jitter_s=latency_s / 2)
    return Sandbox(store_hash=STORE_HASH, customer_hash=CUSTOMER_HASH, faults=faults)


async def prove(
    servers: list[str],
    settings: QueueSettings,
    count: int,
    *,
    ledger: Path | None = None,
    workers: int = 3,
    heartbeat_s: float = 3.0,
    break_servers: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Send orders by several workers, one of which is killed: none is lost or sent twice.

    Without a file the ledger is in NATS. Before the servers are broken, and brought back, another
    worker is stopped.
    """
    async with (
        make_sandbox() as sandbox,
        make_queue(servers, settings) as queue,
        AsyncExitStack() as stack,
    ):
        options: dict[str, Any] = {"servers": servers, "settings": settings}
        options |= {"url": sandbox.base_url, "path": ledger, "heartbeat_s": heartbeat_s}
        started = [stack.enter_async_context(worker_process(**options)) for _ in range(workers)]
        killed, *others = await asyncio.gather(*started)
        await fill(queue, count)
        await until(lambda: sandbox.processed > count * 0.2)
        killed.signal(signal.SIGKILL)
        if break_servers is not None:
            await until(lambda: sandbox.processed > count * 0.4)
            others[0].signal(signal.SIGTERM)
            assert sandbox.processed < count * 0.9
            await break_servers()
        await until_status(queue, depth=0)
        assert await killed.end() == -signal.SIGKILL
        if break_servers is not None:
            assert await others[0].end() == 0  # one SIGTERM is enough
        # Once more, for nothing: the ledger knows them all.
        kept = SqliteLedger(ledger) if ledger else NatsLedger(servers, settings.subject)
        async with client_of(sandbox) as client:
            again = await client.send_orders(orders(count), ledger=kept)
        letters = await dead_letters(queue)

    processed, dead = order_ids(sandbox.received), [letter.key for letter in letters]
    assert not sandbox.duplicates
    assert len(processed) == len(set(processed)) == sandbox.requests
    assert {letter.outcome for letter in letters} <= {Outcome.UNKNOWN}
    assert len(set(dead)) == len(dead)
    assert {*processed, *dead} == {str(number) for number in range(count)}
    assert again.counts[Outcome.SKIPPED] == count
    # Those of the killed worker; and if the servers broke, those whose outcome the others could not
    # record in time.
    assert len(dead) <= CONCURRENCY * (1 if break_servers is None else workers)


async def test_orders_of_a_killed_worker_are_neither_lost_nor_sent_twice(nats_url: str) -> None:
    await prove([nats_url], queue_settings(ack_wait_s=0.6), 100, workers=2, heartbeat_s=2.0)


@pytest.mark.slow
@pytest.mark.parametrize("kept_in", ["a file", "NATS"])
@pytest.mark.parametrize("count", [300, 5_000])
async def test_killed_stopped_and_restarted_no_order_is_lost_or_sent_twice(
    nats_server: NatsServer, path: Path, kept_in: str, count: int
) -> None:
    async def restart() -> None:
        await kill(nats_server)
        await nats_server.start()

    settings = queue_settings(ack_wait_s=2.0)
    ledger = path if kept_in == "a file" else None
    await prove([nats_server.url], settings, count, ledger=ledger, break_servers=restart)


@pytest.mark.slow
async def test_no_order_is_lost_or_sent_twice_when_the_leader_of_a_cluster_is_killed(
    nats_cluster: NatsCluster,
) -> None:
    settings = queue_settings(ack_wait_s=2.0, replicas=3)

    async def kill_leader() -> None:
        name = await nats_cluster.kill_leader(settings.orders_stream)
        await nats_cluster.restart(name)

    await prove(nats_cluster.urls, settings, 5_000, break_servers=kill_leader)


@pytest.mark.slow
async def test_the_orders_of_a_worker_that_hangs_are_not_sent_again(nats_url: str) -> None:
    settings = queue_settings(ack_wait_s=0.5)
    async with make_sandbox() as sandbox, make_queue(nats_url, settings) as queue:
        options: dict[str, Any] = {"servers": [nats_url], "settings": settings}
        options |= {"url": sandbox.base_url, "heartbeat_s": 3600.0}  # it never counts as crashed

        async def is_redelivered() -> bool:
            status = await queue.status()
            return status.waiting == 0 and 0 < status.redelivered == status.in_flight

        await fill(queue, 300)
        async with worker_process(**options) as hanging:
            # What is at the endpoint is claimed, and its outcome is not recorded.
            await until(lambda: sandbox.processed > 20 and sandbox.in_flight > 0)
            hanging.signal(signal.SIGSTOP)
            try:
                async with worker_process(**options):
                    await until(is_redelivered)
                    hanging.signal(signal.SIGCONT)
                    await until_status(queue, depth=0)
            finally:
                hanging.signal(signal.SIGCONT)
        assert await dead_letters(queue) == []
    assert not sandbox.duplicates
    assert sandbox.processed == 300
