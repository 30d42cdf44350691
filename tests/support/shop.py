"""An endpoint that does with each order what a test says."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Self

from everlytic_async import EverlyticClient, Pacing
from support.delivery import make_client, order
from support.servers import SUCCESS, Connection, RawServer

STATUSES = {
    "accept": 200,
    "unauthorized": 401,
    "refuse": 422,
    "throttle": 429,
    "fail": 500,
    "busy": 503,
}


class Shop:
    """A server on loopback.

    Args:
        fates: See the attribute.
        port: Its port, which the test holds; 0 for any.
        by_number: More fates, as `_7="refuse"`.

    Attributes:
        fates: By order id what is done: a name of `STATUSES`; ``lose``: it is processed, and the
            connection is closed; ``hang``: it is processed, and answered when `answers` is set. Of
            a list, one each time, and the last from then on. An empty id stands for all others.
        processed: How often an order was processed, by its id.
        posts: How often it came.
        on_order: Called with the order's id before anything is done.
        echo: Whether refusals quote the order.
        in_flight: Orders that are being answered.
        peak: The most of them there ever were.
    """

    def __init__(
        self, fates: dict[str, str | list[str]] | None = None, *, port: int = 0, **by_number: str
    ) -> None:
        self.fates = fates or {}
        self.fates |= {name.removeprefix("_"): fate for name, fate in by_number.items()}
        self.processed: Counter[str] = Counter()
        self.posts: Counter[str] = Counter()
        self.on_order: Callable[[str], None] = lambda _order_id: None
        self.echo = False
        self.answers = asyncio.Event()
        self.retry_after = ""
        self.in_flight = self.peak = 0
        self.latency_s = 0.0
        self.url = ""
        self._server = RawServer(self._serve, port=port)

    async def __aenter__(self) -> Self:
        await self._server.__aenter__()
        self.url = self._server.url
        return self

    async def __aexit__(self, *error: object) -> None:
        self.url = ""
        await self._server.__aexit__(*error)

    async def _serve(self, connection: Connection) -> None:
        while True:
            body = await connection.request()
            self.in_flight += 1
            self.peak = max(self.peak, self.in_flight)
            try:
                await self._answer(connection, body)
            finally:
                self.in_flight -= 1

    async def _answer(self, connection: Connection, body: bytes) -> None:
        order_id = str(json.loads(body).get("order_id"))
        count = self.posts[order_id]
        self.posts[order_id] += 1
        self.on_order(order_id)
        fates = self.fates.get(order_id, self.fates.get("", "accept"))
        fate = fates if isinstance(fates, str) else fates[min(count, len(fates) - 1)]
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        if fate in ("accept", "fail", "hang", "lose"):
            self.processed[order_id] += 1
        if fate == "lose":
            raise ConnectionError
        if fate == "hang":
            await self.answers.wait()
            fate = "accept"
        refusal = json.dumps(
            {"message": body.decode() if self.echo else "not for jane@example.com"}
        )
        headers = [f"Retry-After: {self.retry_after}"] if self.retry_after else []
        answer = SUCCESS if fate == "accept" else refusal.encode()
        await connection.answer(STATUSES[fate], answer, *headers)

    async def accept_one(self, client: EverlyticClient) -> None:
        """Let the client know that address, workflow and account are right: refusals then count."""
        fates, self.fates = self.fates, {}
        await client.send_order(order(900))
        self.fates = fates
        self.posts.clear()
        self.processed.clear()

    def client(self, concurrency: int = 8, **settings: Any) -> EverlyticClient:
        """A client of it, to be opened."""
        pacing = Pacing(max_concurrency=concurrency, adaptive=False)
        return make_client(self.url, **{"pacing": pacing, **settings})

    @asynccontextmanager
    async def opened_client(
        self, concurrency: int = 8, **settings: Any
    ) -> AsyncIterator[EverlyticClient]:
        """An open client of it; if it does not run, it runs for as long."""
        if not self.url:
            async with self, self.opened_client(concurrency, **settings) as client:
                yield client
            return
        async with self.client(concurrency, **settings) as client:
            yield client
