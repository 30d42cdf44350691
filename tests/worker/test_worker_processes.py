"""Workers as processes that are killed, stopped, and lose their server: what arrived is counted."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import attrs
import pytest
from worker_process import worker_process
from worker_shop import dead_of, emptied, make_queue, until

from everlytic_async import Outcome, SqliteLedger
from everlytic_async.ledger import NatsLedger
from everlytic_async.sandbox import Faults, Sandbox
from everlytic_async.worker import NatsServer, QueueSettings
from support.delivery import CUSTOMER_HASH, STORE_HASH, client_of, ids_of, orders
from support.nats_servers import NatsCluster, kill

Settings = Callable[..., QueueSettings]
CONCURRENCY = 8
WORKERS = 3


async def prove(
    servers: list[str],
    settings: QueueSettings,
    ledger: Path | None,
    count: int,
    break_down: Callable[[], Awaitable[None]],
) -> Counter[str]:
    """Send so many orders by three workers, of which one is killed and one is stopped.

    Args:
        servers: Addresses of NATS.
        settings: Of the queue.
        ledger: An SQLite file, or None for the servers.
        count: How many orders.
        break_down: Breaks the servers, and mends them.

    Returns:
        How many orders were processed, and how many are dead letters.
    """
    sandbox = Sandbox(
        store_hash=STORE_HASH,
        customer_hash=CUSTOMER_HASH,
        faults=Faults(latency_s=0.02, latency_jitter_s=0.01),
    )
    given: dict[str, Any] = {
        "servers": servers,
        "settings": attrs.asdict(settings),
        "ledger": None if ledger is None else str(ledger),
        "concurrency": CONCURRENCY,
    }
    async with sandbox, make_queue(servers, settings) as queue, AsyncExitStack() as stack:
        killed, stopped, _ = [
            await stack.enter_async_context(worker_process(url=sandbox.base_url, **given))
            for _ in range(WORKERS)
        ]
        async for each in queue.publish_many(orders(count)):
            assert each.stored
        await until(lambda: sandbox.processed > count * 0.2)
        killed.kill()
        await until(lambda: sandbox.processed > count * 0.4)
        stopped.send_signal(signal.SIGTERM)
        assert sandbox.processed < count * 0.9
        await break_down()
        await emptied(queue, 180)
        assert await killed.wait() == -signal.SIGKILL
        assert await stopped.wait() == 0
        # Once more, for nothing: the ledger knows them all.
        kept = SqliteLedger(ledger) if ledger else NatsLedger(servers, settings.subject)
        async with client_of(sandbox) as client:
            again = await client.send_orders(orders(count), ledger=kept)
        letters = await dead_of(queue)

    processed, dead = ids_of(sandbox.received), [letter.key for letter in letters]
    assert not sandbox.duplicates
    assert len(processed) == len(set(processed)) == sandbox.requests
    assert {letter.outcome for letter in letters} <= {Outcome.UNKNOWN}
    assert len(set(dead)) == len(dead)
    assert {*processed, *dead} == {str(number) for number in range(count)}
    assert again.counts[Outcome.SKIPPED] == count
    return Counter(processed=len(processed), dead=len(dead))


@pytest.mark.parametrize("kept_in", ["a file", "NATS"])
@pytest.mark.slow
@pytest.mark.parametrize("count", [300, 5_000])
async def test_killed_stopped_and_restarted_no_order_is_lost_or_sent_twice(
    nats_server: NatsServer, own_settings: Settings, tmp_path: Path, kept_in: str, count: int
) -> None:
    async def restart() -> None:
        await kill(nats_server)
        await nats_server.start()

    figures = await prove(
        [nats_server.url],
        own_settings(ack_wait_s=2.0),
        tmp_path / "orders.ledger" if kept_in == "a file" else None,
        count,
        restart,
    )
    # Of the worker that was killed; and NATS may have been away for longer than it waits to hear.
    assert figures["dead"] <= CONCURRENCY * WORKERS


async def test_what_a_worker_that_hangs_has_in_hand_is_not_sent_again(
    nats_url: str, own_settings: Settings
) -> None:
    settings = own_settings(ack_wait_s=0.5)
    sandbox = Sandbox(
        store_hash=STORE_HASH, customer_hash=CUSTOMER_HASH, faults=Faults(latency_s=0.02)
    )
    async with sandbox, make_queue(nats_url, settings) as queue:
        given: dict[str, Any] = {
            "servers": [nats_url],
            "settings": attrs.asdict(settings),
            "url": sandbox.base_url,
            "ledger": None,
            "concurrency": CONCURRENCY,
            "heartbeat_s": 60.0,
        }
        async with worker_process(**given) as hanging, worker_process(**given) as other:

            async def publish() -> None:
                async for each in queue.publish_many(orders(300)):
                    assert each.stored

            # Stopped while orders still come, it is certain to have some in hand.
            publishing = asyncio.create_task(publish())
            await until(lambda: sandbox.processed > 60)
            hanging.send_signal(signal.SIGSTOP)
            await publishing

            async def is_given_to_the_other() -> bool:
                status = await queue.status()
                return status.waiting == 0 and 0 < status.redelivered == status.in_flight

            try:
                await until(is_given_to_the_other)
            finally:
                hanging.send_signal(signal.SIGCONT)
            await emptied(queue)
            assert other.returncode is None
        assert await dead_of(queue) == []
    assert not sandbox.duplicates
    assert sandbox.processed == 300


@pytest.mark.slow
@pytest.mark.parametrize("count", [300, 5_000])
async def test_so_it_is_in_a_cluster_whose_leader_is_killed(
    nats_cluster: NatsCluster, own_settings: Settings, count: int
) -> None:
    settings = own_settings(ack_wait_s=2.0, replicas=3)

    async def kill_leader() -> None:
        name = await nats_cluster.kill_leader(settings.orders_stream)
        await nats_cluster.restart(name)

    figures = await prove(nats_cluster.urls, settings, None, count, kill_leader)
    assert figures["dead"] <= CONCURRENCY * WORKERS
