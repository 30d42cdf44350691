"""Several processes on one ledger in NATS; a process, a server, the leader of a cluster killed."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import pytest
from ledger_processes import ended, make_sandbox, start
from ledger_shop import BucketPlace, ledger_at, make_bucket, read_states

from everlytic_async import BatchStoppedError, Delivery, Outcome
from everlytic_async.ledger import NatsLedger, State
from everlytic_async.sandbox import Faults, Sandbox
from everlytic_async.worker import NatsServer
from support.delivery import client_of, orders, streamed
from support.nats_servers import NatsCluster, kill, until
from support.shop import Shop


@pytest.fixture
def place(nats_url: str) -> BucketPlace:
    return make_bucket(nats_url)


@pytest.mark.parametrize(
    ("delivery", "outcome"),
    [(Delivery.AT_MOST_ONCE, Outcome.SKIPPED), (Delivery.AT_LEAST_ONCE, Outcome.SENT)],
)
async def test_what_a_killed_process_had_in_flight_is_unknown_in_time(
    place: BucketPlace,
    closed_port: int,
    delivery: Delivery,
    outcome: Outcome,
) -> None:
    async def in_flight() -> bool:
        return sandbox.in_flight == 8

    async def unknown() -> bool:
        return State.IN_FLIGHT not in read_states(place).values()

    async with make_sandbox(port=closed_port, faults=Faults(latency_s=30.0)) as sandbox:
        process = start(sandbox, place, 20, concurrency=8, heartbeat_s=0.5)
        await until(in_flight, "eight orders to be in flight")
        assert list(read_states(place).values()) == [State.IN_FLIGHT] * 8
        process.signal(signal.SIGKILL)
        assert (await ended(process)).code == -signal.SIGKILL
        await until(unknown, "the heartbeat to expire")
    assert list(read_states(place).values()) == [State.UNKNOWN] * 8

    ledger = ledger_at(place)
    again = make_sandbox(port=closed_port)
    async with again, client_of(again, delivery=delivery) as client:
        results = (await client.send_orders(orders(8), ledger=ledger)).results
    assert {result.outcome for result in results} == {outcome}
    assert {getattr(result.error, "state", "unknown") for result in results} == {"unknown"}
    assert {result.duplicate_risk for result in results} == {outcome is Outcome.SENT}


@pytest.mark.parametrize("kind", [list, streamed])
async def test_a_restart_of_the_server_is_waited_for(
    nats_server: NatsServer, kind: Callable[[Any], Any]
) -> None:
    place = make_bucket(nats_server.url)
    restarting: list[asyncio.Task[None]] = []

    async def restart() -> None:
        await kill(nats_server)
        await nats_server.start()

    def arrived(order_id: str) -> None:
        if order_id == "50" and not restarting:
            restarting.append(asyncio.ensure_future(restart()))

    server = Shop(_60="lose", _70="refuse")
    server.on_order = arrived
    async with server.opened_client() as client:
        ledger = ledger_at(place, patience_s=6.0)  # lost requests: 1 s
        report = await client.send_orders(kind(orders(200)), ledger=ledger)
    await restarting[0]

    assert report.counts[Outcome.SENT] == 198
    assert set(server.posts.values()) == {1}
    expected = {str(number): State.SENT for number in range(200)}
    expected |= {"60": State.UNKNOWN, "70": State.REJECTED}
    assert read_states(place) == expected


async def test_a_server_that_does_not_come_back_stops_it_cleanly(nats_server: NatsServer) -> None:
    place = make_bucket(nats_server.url)
    killing: list[asyncio.Task[None]] = []

    def arrived(order_id: str) -> None:
        if order_id == "50" and not killing:
            killing.append(asyncio.ensure_future(kill(nats_server)))

    server = Shop()
    server.on_order = arrived
    async with server:
        ledger = NatsLedger(place.url, place.bucket, patience_s=2.0)
        async with server.opened_client() as client:
            with pytest.raises(BatchStoppedError, match="can't be written") as stopped:
                await client.send_orders(orders(400), ledger=ledger)
        assert stopped.value.report is not None
        results = stopped.value.report.results
        sent = {result.key for result in results if result.outcome is Outcome.SENT}
        await killing[0]
        assert set(server.posts) == sent
        assert 50 <= len(sent) < 400
        await nats_server.start()
        # Its heartbeat has nearly expired: the server got no further one.
        states = read_states(place)
        known = {key for key, state in states.items() if state is not State.NOT_SENT}
        assert sent <= known

        server.on_order = lambda _order_id: None
        async with server.opened_client() as client:
            again = NatsLedger(place.url, place.bucket)
            report = await client.send_orders(orders(400), ledger=again)
    assert set(server.posts.values()) == {1}
    assert report.counts[Outcome.SENT] + report.counts[Outcome.SKIPPED] == 400


@pytest.mark.slow
async def test_the_leader_of_a_cluster_is_killed_in_the_middle(nats_cluster: NatsCluster) -> None:
    count, urls = 1_000, nats_cluster.urls
    killing: list[asyncio.Task[str]] = []
    async with Sandbox(faults=Faults(latency_s=0.005)) as sandbox, client_of(sandbox) as client:
        ledger = NatsLedger(urls, "orders", replicas=3)
        async with ledger, client.stream_orders(orders(count), ledger=ledger) as stream:
            done = 0
            async for result in stream:
                assert result.outcome is Outcome.SENT, result
                done += 1
                if done == count // 4:
                    killing.append(asyncio.ensure_future(nats_cluster.kill_leader("KV_orders")))
        assert done == sandbox.processed == count
        assert not sandbox.duplicates
        report = await client.send_orders(orders(count), ledger=ledger)
        assert report.counts[Outcome.SKIPPED] == count
    await nats_cluster.restart(await killing[0])
    for url in urls:
        states = read_states(BucketPlace(url, "orders"))
        assert states == {str(number): State.SENT for number in range(count)}
