"""A worker that reads too slowly: what it misses is delivered again, and is sent once.

That it happened at all is read from the server's log, or from the client's own error.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.aio.transport import TcpTransport
from worker_shop import (
    dead_letters,
    make_queue,
    make_worker,
    publish,
    queue_settings,
    running,
    until_status,
)

from everlytic_async import SqliteLedger
from everlytic_async.ledger import Ledger
from everlytic_async.worker import NatsServer
from support.delivery import order
from support.nats_servers import until
from support.shop import Shop

LIMIT_S = 180.0
#: What is in flight at the endpoint when it happens, and what is on its way to the worker: far more
#: bytes than the system keeps unread for a connection.
HANGING, LARGE = range(4), range(4, 20)
LARGE_BYTES = 900_000
ALL_ONCE = Counter(str(number) for number in (*HANGING, *LARGE))
LOST = "NATS: the connection was lost"
BACK = "NATS: the connection is back"


@pytest.fixture(params=["a file", "NATS"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger | None:
    """A worker's; None for its own, on the connection that is cut."""
    return SqliteLedger(tmp_path / "orders.ledger") if request.param == "a file" else None


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


def block_until(condition: Callable[[], object]) -> None:
    """Block this thread, and so the event loop, until it is so: that is what is tried here."""
    ends = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < ends, f"not within {LIMIT_S:g} s"
        time.sleep(0.01)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged; no customer's address, nor a traceback, is in it."""
    assert "customer" not in caplog.text
    assert "@" not in caplog.text
    assert not any(record.exc_info for record in caplog.records)
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


@pytest.mark.slow
async def test_a_blocked_worker_that_is_disconnected_goes_on(
    tmp_path: Path,
    ledger: Ledger | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "everlytic_async")
    settings = queue_settings(ack_wait_s=1.0, max_bytes=64 * 1024**2)
    async with (
        NatsServer(tmp_path / "nats", config={"write_deadline": "100ms"}) as server,
        make_queue(server.url, settings) as others,
        make_queue(server.url, settings) as queue,
        Shop({str(number): "hang" for number in HANGING}) as shop,
        shop.client(len(ALL_ONCE)) as client,
    ):
        worker = make_worker(client, queue, ledger)
        async with running(worker):
            await publish(others, map(order, HANGING))
            await until(lambda: shop.in_flight == len(HANGING))
            consumer = (settings.orders_stream, settings.consumer)
            stream = others.connection.jetstream()
            await stream.pause_consumer(*consumer, "2100-01-01T00:00:00Z")
            large = [{"product_name": "x" * LARGE_BYTES, "product_price": 21}]
            await publish(others, (order(number, products=large) for number in LARGE))
            assert cuts(server) == []
            keep_little_unread(queue.connection)
            cut, come = f"cid:{queue.connection.client_id}", queue.connection.stats["in_bytes"]
            await stream.resume_consumer(*consumer)
            # First comes the one that is waited for, then as many as there are free slots: the
            # second is here, the rest on the way. Bytes make no event, and a poll that sleeps
            # would let the rest be read as well: so each turn of the loop looks.
            async with asyncio.timeout(LIMIT_S):
                while queue.connection.stats["in_bytes"] < come + 2 * LARGE_BYTES:  # noqa: ASYNC110 - see above
                    await asyncio.sleep(0)
            block_until(lambda: cut in cuts(server))
            shop.answers.set()
            await until_status(others, depth=0)
            assert worker.status.ready
        assert cut in cuts(server)
        assert queue.connection.stats["reconnects"] == len(cuts(server))
        assert await dead_letters(others) == []
    assert shop.processed == shop.posts == ALL_ONCE
    logged = warnings(caplog)
    assert any(LOST in each and "Slow Consumer" in each for each in logged)
    assert BACK in logged


async def test_an_error_that_keeps_coming_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "everlytic_async")
    async with NatsServer(tmp_path) as server, make_queue(server.url, queue_settings()) as queue:
        await server.close()
        await until(lambda: caplog.text.count("NATS: Connect call failed") >= 3)
        levels = [each.levelno for each in caplog.records if "call failed" in each.getMessage()]
        assert levels[:3] == [logging.WARNING, logging.DEBUG, logging.DEBUG]
        await server.start()
        await until(lambda: queue.connected)
    assert warnings(caplog)[-1] == BACK
