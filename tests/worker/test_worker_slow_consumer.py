"""A worker that is slow to take what NATS sends: what it misses comes again, and is sent once.

That it happened at all is read from the server's log, or from the client's own error.
"""

from __future__ import annotations

import asyncio
import logging
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
from worker_shop import Shop, dead_of, emptied, make_queue, running, until

from everlytic_async import SqliteLedger
from everlytic_async.ledger import Ledger
from everlytic_async.worker import (
    NatsServer,
    OrderQueue,
    QueueSettings,
    Worker,
)
from everlytic_async.worker._connection import ConnectionLog
from support.delivery import order

Settings = Callable[..., QueueSettings]
LIMIT_S = 30.0
#: What is in flight at the endpoint when it happens, and what is on its way to the worker: far more
#: bytes than the system keeps unread for a connection.
HANGING, LARGE = range(4), range(4, 20)
LARGE_BYTES = 900_000
ALL_ONCE = Counter(str(number) for number in (*HANGING, *LARGE))
LOST = "NATS: the connection was lost"
BACK = "NATS: the connection is back"


@pytest.fixture(params=["a file", pytest.param("NATS", marks=pytest.mark.slow)])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger | None:
    """A worker's; None for its own, on the connection that is cut."""
    return SqliteLedger(tmp_path / "orders.ledger") if request.param == "a file" else None


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
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "everlytic_async")
    settings = own_settings(ack_wait_s=1.0, max_bytes=64 * 1024**2)
    async with (
        NatsServer(tmp_path / "nats", config={"write_deadline": "100ms"}) as server,
        make_queue(server.url, settings) as others,
        make_queue(server.url, settings) as queue,
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
    assert any(LOST in each and "Slow Consumer" in each for each in said)
    assert BACK in said


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
        make_queue(server.url, settings) as others,
        make_queue(server.url, settings) as queue,
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
    assert any(LOST in each for each in told(caplog))


def test_dropped_messages_are_logged_from_time_to_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "everlytic_async")
    now = 0.0
    log = ConnectionLog(1.0, clock=lambda: now)
    for subject in ("one", "two", "three"):
        log.on_error(nats.errors.SlowConsumerError(subject, "", 1, None))
    [why] = told(caplog)
    assert why == (
        "NATS: messages came faster than they were taken, and some were dropped (slow consumer): "
        "an order comes again after 1 s"
    )
    now = 61.0
    log.on_error(nats.errors.SlowConsumerError("four", "", 1, None))
    assert len(told(caplog)) == 2
