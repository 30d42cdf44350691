"""An endpoint that does with each order what a test says, and workers that send to it."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

from nats.aio.client import Client

from everlytic_async import EverlyticClient, Pacing
from everlytic_async.worker import DeadLetter, OrderQueue, QueueSettings, Worker
from support.delivery import CUSTOMER_HASH, QUICK, STORE_HASH, order
from support.servers import Connection, RawServer

STATUSES = {"accept": 200, "refuse": 422, "throttle": 429, "fail": 500, "unauthorized": 401}
DEFAULTS = QueueSettings()
_LIMIT_S = 30.0


class Shop:
    """A server on loopback.

    Attributes:
        fates: By order id what is done: a name of `STATUSES`, or ``hang``: it is processed, and
            answered when `answers` is set. Of a list, one each time, and the last from then on.
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
        self._server = RawServer(self._serve)

    async def __aenter__(self) -> Self:
        await self._server.__aenter__()
        self.url = self._server.url
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
            "retry": QUICK,
            "pacing": Pacing(max_concurrency=concurrency, adaptive=False),
            **settings,
        }
        return EverlyticClient(self.url, **given)


def make_queue(
    servers: str | Sequence[str] | Client, settings: QueueSettings = DEFAULTS, **options: Any
) -> OrderQueue:
    """A queue whose closing waits less for the server."""
    return OrderQueue(servers, settings, **{"pull_expires_s": 0.2, **options})


async def until(is_so: Callable[[], Any], what: str = "it", limit_s: float = _LIMIT_S) -> None:
    """Wait until it is so."""
    ends = time.monotonic() + limit_s
    while True:
        answer = is_so()
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer:
            return
        assert time.monotonic() < ends, f"{what}: not within {limit_s:g} s"
        await asyncio.sleep(0.01)


async def emptied(queue: OrderQueue, limit_s: float = _LIMIT_S) -> None:
    """Wait until the queue is empty."""

    async def is_empty() -> bool:
        return (await queue.status()).depth == 0

    await until(is_empty, "an empty queue", limit_s)


@asynccontextmanager
async def running(worker: Worker) -> AsyncIterator[asyncio.Task[None]]:
    """Run it meanwhile, and stop it."""
    run = asyncio.create_task(worker.run())
    try:
        yield run
    finally:
        worker.stop()
        await run


async def dead_of(queue: OrderQueue) -> list[DeadLetter]:
    """The dead letters."""
    return [letter async for letter in queue.dead_letters()]
