"""An endpoint that does with each order what a test says; queues and workers that send to it."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from nats.aio.client import Client

from everlytic_async import EverlyticClient, Pacing, SqliteLedger
from everlytic_async.ledger import Ledger, LedgerFile, State
from everlytic_async.worker import (
    DeadLetter,
    OrderQueue,
    Published,
    QueuedOrder,
    QueueSettings,
    Worker,
)
from support.delivery import CUSTOMER_HASH, FAST_RETRY, STORE_HASH, order, orders
from support.servers import Connection, RawServer

STATUSES = {
    "accept": 200,
    "unauthorized": 401,
    "refuse": 422,
    "throttle": 429,
    "fail": 500,
    "busy": 503,
}
_LIMIT_S = 30.0
_NUMBERS = itertools.count(1)


class Shop:
    """A server on loopback; entered again, it is at the same port.

    Attributes:
        fates: By order id what is done: a name of `STATUSES`, or ``hang``: it is processed, and
            answered when `answers` is set. Of a list, one each time, and the last from then on.
            An empty id stands for all others.
        processed: How often an order was processed, by its id.
        posts: How often it came.
        in_flight: Orders that are being answered.
        peak: The most of them there ever were.
    """

    def __init__(self, fates: dict[str, str | list[str]] | None = None) -> None:
        self.fates = fates or {}
        self.processed: Counter[str] = Counter()
        self.posts: Counter[str] = Counter()
        self.answers = asyncio.Event()
        self.retry_after = ""
        self.in_flight = self.peak = 0
        self.latency_s = 0.0
        self.url = ""
        self._port = 0

    async def __aenter__(self) -> Self:
        self._server = RawServer(self._serve, port=self._port)
        await self._server.__aenter__()
        self.url, self._port = self._server.url, self._server.port
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._server.__aexit__(None, None, None)

    async def _serve(self, connection: Connection) -> None:
        while True:
            body = await connection.request()
            self.in_flight += 1
            self.peak = max(self.peak, self.in_flight)
            try:
                await self._answer(connection, str(json.loads(body).get("order_id")))
            finally:
                self.in_flight -= 1

    async def _answer(self, connection: Connection, order_id: str) -> None:
        fates = self.fates.get(order_id, self.fates.get("", "accept"))
        fate = fates if isinstance(fates, str) else fates[min(self.posts[order_id], len(fates) - 1)]
        self.posts[order_id] += 1
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        if fate in ("accept", "fail", "hang"):
            self.processed[order_id] += 1
        if fate == "hang":
            await self.answers.wait()
            fate = "accept"
        body = b'{"status":"success"}'
        if fate != "accept":
            body = b'{"message":"not for jane@example.com"}'
        headers = [f"Retry-After: {self.retry_after}"] if self.retry_after else []
        await connection.answer(STATUSES[fate], body, *headers)

    async def accept_one(self, client: EverlyticClient) -> None:
        """Let the client know that address, workflow and account are right: refusals then count."""
        fates, self.fates = self.fates, {}
        await client.send_order(order(900))
        self.fates = fates
        self.posts.clear()
        self.processed.clear()

    def client(self, concurrency: int = 8, **settings: Any) -> EverlyticClient:
        """A client of it, to be opened."""
        given: dict[str, Any] = {
            "store_hash": STORE_HASH,
            "customer_hash": CUSTOMER_HASH,
            "retry": FAST_RETRY,
            "pacing": Pacing(max_concurrency=concurrency, adaptive=False),
            **settings,
        }
        return EverlyticClient(self.url, **given)


def once(count: int) -> Counter[str]:
    """What `Shop.processed` is after each order from 0 on was sent once."""
    return Counter(str(number) for number in range(count))


# --------------------------------------------------------------------------------------- queues


def queue_settings(**changes: Any) -> QueueSettings:
    """Of a queue of the test's own, on the server that many share."""
    name = f"q{os.getpid()}_{next(_NUMBERS)}"
    return QueueSettings(
        **{
            "subject": name,
            "orders_stream": f"{name}_orders",
            "dead_letter_stream": f"{name}_dead",
            "max_bytes": 16 * 1024**2,
            **changes,
        }
    )


def make_queue(
    servers: str | Sequence[str] | Client,
    settings: QueueSettings = QueueSettings(),  # noqa: B008 - frozen
    **options: Any,
) -> OrderQueue:
    """A queue whose closing waits less for the server."""
    return OrderQueue(servers, settings, **{"pull_expires_s": 0.2, **options})


async def publish(queue: OrderQueue, source: Any, **options: Any) -> list[Published]:
    """Publish many; the results."""
    return [each async for each in queue.publish_many(source, **options)]


async def fill(queue: OrderQueue, count: int) -> None:
    """Publish this many orders, numbered from 0."""
    assert all(each.stored for each in await publish(queue, orders(count)))


def numbers_of(pulled: list[QueuedOrder]) -> list[str | None]:
    """The ids of orders that were pulled."""
    return [each.order and each.order.order_id for each in pulled]


async def dead_letters(queue: OrderQueue) -> list[DeadLetter]:
    """All of them."""
    return [letter async for letter in queue.dead_letters()]


async def until(condition: Callable[[], Any], what: str = "it", limit_s: float = _LIMIT_S) -> None:
    """Wait until it holds."""
    ends = time.monotonic() + limit_s
    while True:
        answer = condition()
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer:
            return
        assert time.monotonic() < ends, f"{what}: not within {limit_s:g} s"
        await asyncio.sleep(0.01)


async def until_status(queue: OrderQueue, limit_s: float = _LIMIT_S, **expected: int) -> None:
    """Wait until the queue's status has these values."""

    async def matches() -> bool:
        status = await queue.status()
        return all(getattr(status, name) == value for name, value in expected.items())

    await until(matches, f"a status of {expected}", limit_s)


# -------------------------------------------------------------------------------------- workers


def make_worker(
    client: EverlyticClient, queue: OrderQueue, ledger: Path | Ledger | None, **settings: Any
) -> Worker:
    """A worker that waits less."""
    given = {"retry_base_s": 0.05, "retry_cap_s": 0.2, "max_pause_s": 0.2, **settings}
    ledger = SqliteLedger(ledger) if isinstance(ledger, Path) else ledger
    return Worker(client, queue, ledger, **given)


@asynccontextmanager
async def running(worker: Worker) -> AsyncIterator[asyncio.Task[None]]:
    """Run it meanwhile, and stop it."""
    run = asyncio.create_task(worker.run())
    try:
        yield run
    finally:
        worker.stop()
        await run


async def drain(
    client: EverlyticClient, queue: OrderQueue, ledger: Path | Ledger | None, **settings: Any
) -> Worker:
    """Run a worker until the queue is empty."""
    worker = make_worker(client, queue, ledger, **settings)
    async with running(worker):
        await until_status(queue, depth=0)
    return worker


def states(path: Path) -> dict[str, State]:
    """What a ledger's file says, by the orders' keys."""
    with LedgerFile(path, must_exist=True) as file:
        return {entry.key: entry.state for _, entry in file.entries()}
