"""Several processes on one ledger in NATS; a process, a server, the leader of a cluster killed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ledger_shop import BucketPlace, Shop, a_bucket, stored_in
from ledger_zygote import Zygote, sandbox_of

from everlytic_async import BatchStoppedError, Delivery, Outcome
from everlytic_async.ledger import NatsLedger, State
from everlytic_async.sandbox import Faults, Sandbox
from everlytic_async.worker import NatsServer
from support.delivery import client_of, orders, streamed
from support.nats_servers import NatsCluster, kill, until


@pytest.fixture
def place(nats_url: str) -> BucketPlace:
    return a_bucket(nats_url)


async def states_in(place: BucketPlace) -> dict[str, State]:
    return {entry.key: entry.state for entry in await stored_in(place)}


async def test_two_processes_share_a_bucket(place: BucketPlace, zygote: Zygote) -> None:
    with Zygote.running() as other:
        async with sandbox_of() as sandbox:
            ends = await asyncio.gather(
                *(each.send(sandbox, str(place), 300, concurrency=32) for each in (zygote, other))
            )

    assert [(end.status, end.error) for end in ends] == [(0, None)] * 2
    assert sandbox.processed == sandbox.requests == 300
    assert not sandbox.duplicates
    assert await states_in(place) == {str(number): State.SENT for number in range(300)}


async def test_orders_in_flight_of_a_killed_process_become_unknown(
    place: BucketPlace, zygote: Zygote
) -> None:
    async def in_flight() -> dict[str, State] | None:
        states = await states_in(place)
        return states if list(states.values()).count(State.IN_FLIGHT) == 8 else None

    async def is_unknown() -> bool:
        return State.IN_FLIGHT not in (await states_in(place)).values()

    async with sandbox_of(faults=Faults(latency_s=30.0)) as sandbox:
        pid = await zygote.begin(sandbox, str(place), 20, concurrency=8, heartbeat_s=1.0)
        states = await until(in_flight, "eight orders to be in flight")
        os.kill(pid, signal.SIGKILL)
        assert (await zygote.end()).status == signal.SIGKILL
        await until(is_unknown, "the heartbeat to go away")
    assert await states_in(place) == dict.fromkeys(states, State.UNKNOWN)

    async with sandbox_of() as sandbox:
        end = await zygote.send(sandbox, str(place), 20)
        # It is another address, so another scope: all are sent.
        assert len(end.ends["sent"]) == 20


@pytest.mark.parametrize(
    ("delivery", "outcome"),
    [(Delivery.AT_MOST_ONCE, Outcome.SKIPPED), (Delivery.AT_LEAST_ONCE, Outcome.SENT)],
)
async def test_an_order_in_flight_at_a_crash_is_sent_again_only_at_least_once(
    place: BucketPlace, zygote: Zygote, delivery: Delivery, outcome: Outcome
) -> None:
    sandbox = sandbox_of(faults=Faults(latency_s=30.0))

    async def one_in_flight() -> bool:
        return sandbox.in_flight == 1

    async def has_expired() -> bool:
        return State.IN_FLIGHT not in (await states_in(place)).values()

    async with sandbox:
        port = int(sandbox.base_url.rpartition(":")[2])
        pid = await zygote.begin(sandbox, str(place), 1, heartbeat_s=0.5)
        await until(one_in_flight, "the order to arrive")
        os.kill(pid, signal.SIGKILL)
        await zygote.end()
        await until(has_expired, "the heartbeat to go away")
    async with (
        sandbox_of(port=port) as again,
        client_of(again, delivery=delivery) as client,
    ):
        ledger = NatsLedger(place.url, place.bucket)
        (result,) = (await client.send_orders(orders(1), ledger=ledger)).results

    assert result.outcome is outcome
    assert getattr(result.error, "state", "unknown") == "unknown"
    assert result.duplicate_risk is (outcome is Outcome.SENT)


@pytest.mark.parametrize("kind", [list, streamed])
async def test_a_restart_of_the_server_is_waited_for(
    nats_server: NatsServer, kind: Callable[[Any], Any]
) -> None:
    place = a_bucket(nats_server.url)
    restarting: list[asyncio.Task[None]] = []

    async def restart() -> None:
        await kill(nats_server)
        await nats_server.start()

    def arrived(order_id: str) -> None:
        if order_id == "50" and not restarting:
            restarting.append(asyncio.ensure_future(restart()))

    server = Shop(_60="lose", _70="refuse")
    server.on_order = arrived
    async with server.client() as client:
        ledger = NatsLedger(place.url, place.bucket, patience_s=6.0)  # lost requests: 1 s
        report = await client.send_orders(kind(orders(200)), ledger=ledger)
    await restarting[0]

    assert report.counts[Outcome.SENT] == 198
    assert set(server.posts.values()) == {1}
    expected = {str(number): State.SENT for number in range(200)}
    expected |= {"60": State.UNKNOWN, "70": State.REJECTED}
    assert await states_in(place) == expected


async def test_a_server_that_does_not_come_back_stops_it_cleanly(nats_server: NatsServer) -> None:
    place = a_bucket(nats_server.url)
    killing: list[asyncio.Task[None]] = []

    def arrived(order_id: str) -> None:
        if order_id == "50" and not killing:
            killing.append(asyncio.ensure_future(kill(nats_server)))

    server = Shop()
    server.on_order = arrived
    async with server.open():
        ledger = NatsLedger(place.url, place.bucket, patience_s=0.3)
        async with server.client() as client:
            with pytest.raises(BatchStoppedError, match="can't be written") as stopped:
                await client.send_orders(orders(400), ledger=ledger)
        assert stopped.value.report is not None
        results = stopped.value.report.results
        sent = {result.key for result in results if result.outcome is Outcome.SENT}
        await killing[0]
        assert set(server.posts) == sent
        assert 50 <= len(sent) < 400
        await nats_server.start()
        # Its heartbeat has nearly expired: the server got no more of them.
        states = await states_in(place)
        known = {key for key, state in states.items() if state is not State.NOT_SENT}
        assert sent <= known

        server.on_order = lambda _order_id: None
        async with server.client() as client:
            again = NatsLedger(place.url, place.bucket)
            report = await client.send_orders(orders(400), ledger=again)
    assert set(server.posts.values()) == {1}
    assert report.counts[Outcome.SENT] + report.counts[Outcome.SKIPPED] == 400


async def through_a_cluster(cluster: NatsCluster, count: int, *, lose_leader: bool) -> None:
    place = BucketPlace(",".join(cluster.urls), "orders")
    killing: list[asyncio.Task[str]] = []

    async with Sandbox(faults=Faults(latency_s=0.005)) as sandbox, client_of(sandbox) as client:
        ledger = NatsLedger(cluster.urls, place.bucket, replicas=3)
        async with ledger, client.stream_orders(orders(count), ledger=ledger) as stream:
            done = 0
            async for result in stream:
                assert result.outcome is Outcome.SENT, result
                done += 1
                if done == count // 4 and lose_leader:
                    killing.append(asyncio.ensure_future(cluster.kill_leader("KV_orders")))
        assert done == sandbox.processed == count
        assert not sandbox.duplicates
        report = await client.send_orders(orders(count), ledger=ledger)
        assert report.counts[Outcome.SKIPPED] == count
    assert len(killing) == lose_leader
    for killed in killing:
        await cluster.restart(await killed)
    for url in cluster.urls:
        states = await states_in(BucketPlace(url, place.bucket))
        assert states == {str(number): State.SENT for number in range(count)}


@pytest.mark.slow
async def test_a_cluster_of_three_keeps_a_ledger(nats_cluster: NatsCluster) -> None:
    await through_a_cluster(nats_cluster, 100, lose_leader=False)


@pytest.mark.slow
async def test_a_batch_survives_the_death_of_the_clusters_leader(nats_cluster: NatsCluster) -> None:
    await through_a_cluster(nats_cluster, 1_000, lose_leader=True)


async def test_a_private_server_keeps_the_ledger_for_its_next_start(tmp_path: Path) -> None:
    shop = Shop()
    async with shop.open():
        for outcome in (Outcome.SENT, Outcome.SKIPPED):
            async with NatsServer(tmp_path) as server, shop.client() as client:
                report = await client.send_orders(orders(20), ledger=NatsLedger(server.url))
            assert report.counts[outcome] == 20
