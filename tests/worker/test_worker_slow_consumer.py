"""A worker that is slow to take what NATS sends: what it misses comes again, and is sent once.

That it happened at all is read from the server's log, or from the client's own error.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import nats.errors
import pytest
from nats.aio.client import Client
from nats.aio.transport import TcpTransport
from worker_shop import Shop, dead_of, emptied, running, until

from everlytic_async import SqliteLedger
from everlytic_async.ledger import Ledger
from everlytic_async.worker import (
    NatsServer,
    OrderQueue,
    QueueSettings,
    Worker,
    _queue,
    _standstill,
)
from everlytic_async.worker._standstill import Standstill
from support.delivery import order

Settings = Callable[..., QueueSettings]
LIMIT_S = 30.0
#: What is in flight at the endpoint when it happens, and what is on its way to the worker: far more
#: bytes than the system keeps unread for a connection.
HANGING, LARGE = range(4), range(4, 20)
LARGE_BYTES = 900_000
ALL_ONCE = Counter(str(number) for number in (*HANGING, *LARGE))
#: How many orders the client drops.
DROPPED = 3
LOST = "NATS: the connection was lost"
BACK = "NATS: the connection is back"


@pytest.fixture(params=["a file", "NATS"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger | None:
    """A worker's; None for its own, on the connection that is cut."""
    return SqliteLedger(tmp_path / "orders.ledger") if request.param == "a file" else None


@pytest.fixture(autouse=True)
def soon_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was asked on a connection that was cut is not waited for so long here."""
    monkeypatch.setattr("everlytic_async.worker._pull._ANSWER_S", 0.3)
    monkeypatch.setattr("everlytic_async.ledger._nats_bucket._ANSWER_S", 0.5)


def worker_of(client: Any, queue: OrderQueue, ledger: Ledger | None = None) -> Worker:
    return Worker(client, queue, ledger, retry_base_s=0.05, retry_cap_s=0.2)


async def fill(queue: OrderQueue, numbers: Iterable[int], size: int = 1) -> None:
    products = [{"product_name": "x" * size, "product_price": 21}]
    async for each in queue.publish_many(order(number, products=products) for number in numbers):
        assert each.stored


def cuts(server: NatsServer) -> list[str]:
    """Whom the server has cut off for being slow: ``cid:`` and the number of the connection."""
    log = (server.directory / "nats-server.log").read_text()
    return [line.split(" - ")[1] for line in log.splitlines() if "Slow Consumer Detected" in line]


def keep_little_unread(connection: Client) -> None:
    """Let the system keep no more than so much for it; else it grows to what is on the way."""
    assert isinstance(connection._transport, TcpTransport)
    assert connection._transport._io_writer is not None
    unread = connection._transport._io_writer.get_extra_info("socket")
    unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)


def stand_still(until_so: Callable[[], object]) -> None:
    """Block this thread, and so the event loop, until it is so: that is what is tried here."""
    ends = time.monotonic() + LIMIT_S
    while not until_so():
        assert time.monotonic() < ends, f"not within {LIMIT_S:g} s"
        time.sleep(0.01)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged; no customer's address, nor a traceback, is in it."""
    assert "customer" not in caplog.text
    assert "@" not in caplog.text
    assert not any(record.exc_info for record in caplog.records)
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


async def test_a_worker_that_stood_still_and_is_cut_off_goes_on(
    tmp_path: Path,
    own_settings: Settings,
    ledger: Ledger | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "everlytic_async")
    monkeypatch.setattr(_standstill, "_RING_S", 0.01)
    monkeypatch.setattr(_standstill, "_LATE_S", 0.05)
    settings = own_settings(ack_wait_s=1.0, max_bytes=64 * 1024**2)
    async with (
        NatsServer(tmp_path / "nats", config={"write_deadline": "100ms"}) as server,
        OrderQueue(server.url, settings) as others,
        OrderQueue(server.url, settings) as queue,
        Shop({str(number): "hang" for number in HANGING}) as shop,
        shop.client(len(ALL_ONCE)) as client,
    ):
        worker = worker_of(client, queue, ledger)
        async with running(worker):
            await fill(others, HANGING)
            await until(lambda: shop.in_flight == len(HANGING))
            consumer = (settings.orders_stream, settings.consumer)
            stream = others.connection.jetstream()
            await stream.pause_consumer(*consumer, "2100-01-01T00:00:00Z")
            await fill(others, LARGE, LARGE_BYTES)
            assert cuts(server) == []
            keep_little_unread(queue.connection)
            cut, come = f"cid:{queue.connection.client_id}", queue.connection.stats["in_bytes"]
            await stream.resume_consumer(*consumer)
            # First comes the one that is waited for, then as many as there are free slots: the
            # second is here, the rest on the way. No event tells of bytes, and a poll that sleeps
            # would let the rest be read as well: so each turn of the loop looks.
            async with asyncio.timeout(LIMIT_S):
                while queue.connection.stats["in_bytes"] < come + 2 * LARGE_BYTES:  # noqa: ASYNC110 - see above
                    await asyncio.sleep(0)
            stand_still(lambda: cut in cuts(server))
            shop.answers.set()
            await emptied(others)
            assert worker.status.ready
        assert cut in cuts(server)
        assert queue.connection.stats["reconnects"] == len(cuts(server))
        assert await dead_of(others) == []
    assert shop.processed == shop.posts == ALL_ONCE
    said = told(caplog)
    why, *_ = [each for each in said if LOST in each]
    assert re.fullmatch(
        rf"{LOST} after this process had stood still for \d+\.\d s, perhaps for that: the server "
        r"cuts off who does not read \(a slow consumer\); trying to get it back",
        why,
    )
    assert BACK in said


async def test_only_a_standstill_that_has_just_ended_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_standstill, "_RING_S", 0.001)
    loop = asyncio.get_running_loop()
    clock, ahead_s = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: clock() + ahead_s)
    standstill = Standstill()
    standstill.watch()
    assert standstill.just_ended() is None
    ahead_s = 100.0
    await until(lambda: standstill.just_ended() is not None)
    assert standstill.just_ended() == pytest.approx(100, abs=1)
    standstill.close()
    ahead_s += 6.0
    assert standstill.just_ended() is None


async def test_a_worker_for_whom_the_server_keeps_too_little_gets_all_in_the_end(
    tmp_path: Path,
    own_settings: Settings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "everlytic_async")
    settings = own_settings(ack_wait_s=0.5, max_bytes=64 * 1024**2)
    little = {"max_payload": 1024**2, "max_pending": 2 * 1024**2}
    async with (
        NatsServer(tmp_path / "nats", config=little) as server,
        OrderQueue(server.url, settings) as others,
        OrderQueue(server.url, settings) as queue,
        Shop() as shop,
        shop.client(len(ALL_ONCE)) as client,
    ):
        await fill(others, HANGING)
        await fill(others, LARGE, LARGE_BYTES)
        keep_little_unread(queue.connection)
        worker = worker_of(client, queue)
        async with running(worker):
            await emptied(others)
            assert worker.status.ready
        assert cuts(server) != []
        assert queue.connection.stats["reconnects"] == len(cuts(server))
        assert await dead_of(others) == []
    assert shop.processed == shop.posts == ALL_ONCE
    # Why it was, the server tells nobody: it is in its own log.
    assert f"{LOST}; trying to get it back" in told(caplog)


async def test_what_the_client_drops_comes_again(
    nats_url: str,
    own_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "everlytic_async")
    settings = own_settings(ack_wait_s=1.0)
    dropped: list[str] = []
    on_error = OrderQueue._on_error

    async def failed(queue: OrderQueue, error: Exception) -> None:
        if isinstance(error, nats.errors.SlowConsumerError):
            dropped.append(error.subject)
            if len(dropped) == DROPPED:
                error.sub._pending_bytes_limit = 0  # there is room again
        await on_error(queue, error)

    monkeypatch.setattr(OrderQueue, "_on_error", failed)
    async with (
        OrderQueue(nats_url, settings) as others,
        OrderQueue(nats_url, settings) as queue,
        Shop() as shop,
        shop.client(len(ALL_ONCE)) as client,
    ):
        worker = worker_of(client, queue)
        async with running(worker):
            await until(lambda: queue._puller and queue._puller._subscription)
            # As where so many bytes are unread already: there is no room for an order.
            assert queue._puller is not None
            assert queue._puller._subscription is not None
            queue._puller._subscription._pending_bytes_limit = 1
            await fill(others, range(len(ALL_ONCE)))
            await emptied(others)
            assert worker.status.ready
        assert await dead_of(others) == []
    assert dropped == [settings.orders_subject] * DROPPED
    assert shop.processed == shop.posts == ALL_ONCE
    [why] = [each for each in told(caplog) if "slow consumer" in each]
    assert why == (
        "NATS: messages came faster than they were taken, and some were dropped (slow consumer): "
        "an order comes again after 1 s"
    )


async def test_what_goes_on_and_on_is_told_from_time_to_time(
    queue: OrderQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "everlytic_async")
    subscription = await queue.connection.subscribe("none")
    for subject in ("one", "two", "three"):
        await queue._on_error(nats.errors.SlowConsumerError(subject, "", 1, subscription))
    assert len(told(caplog)) == 1
    monkeypatch.setattr(_queue, "_AGAIN_S", 0.0)
    await queue._on_error(nats.errors.SlowConsumerError("four", "", 1, subscription))
    assert len(told(caplog)) == 2
