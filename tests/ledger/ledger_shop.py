"""An endpoint that does with each order what a test says, and what a ledger's file holds."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from everlytic_async import EverlyticClient, Pacing
from everlytic_async.ledger import Entry, LedgerFile, State
from support.delivery import CUSTOMER_HASH, QUICK, STORE_HASH
from support.servers import Connection, RawServer

STATUSES = {"accept": 200, "refuse": 422, "throttle": 429, "fail": 500, "unauthorized": 401}


class Shop:
    """A server on loopback.

    Attributes:
        fates: By order id what is done: a name of `STATUSES`, ``lose`` (processed, and the
            connection is closed), ``hang`` (processed, and never answered).
        posts: How often an order came.
        processed: How often it was processed.
        on_order: Called with the order's id before anything is done.
    """

    def __init__(self, **fates: str) -> None:
        self.fates = {name.removeprefix("_"): fate for name, fate in fates.items()}
        self.posts: Counter[str] = Counter()
        self.processed: Counter[str] = Counter()
        self.on_order: Callable[[str], None] = lambda _order_id: None
        self.echo = False
        self.url = ""

    async def serve(self, connection: Connection) -> None:
        while True:
            body = await connection.request()
            order_id = str(json.loads(body).get("order_id"))
            self.posts[order_id] += 1
            self.on_order(order_id)
            fate = self.fates.get(order_id, self.fates.get("", "accept"))
            if fate in ("accept", "lose", "hang", "fail"):
                self.processed[order_id] += 1
            if fate == "lose":
                return
            if fate == "hang":
                await connection.closed()
                return
            answer = b'{"status":"success"}'
            if fate != "accept":
                said = body.decode() if self.echo else "no"
                answer = json.dumps({"message": said}).encode()
            await connection.answer(STATUSES[fate], answer)

    @asynccontextmanager
    async def client(self, concurrency: int = 8, **settings: Any) -> AsyncIterator[EverlyticClient]:
        """A client of the shop, which runs for as long."""
        if not self.url:
            async with RawServer(self.serve) as server:
                self.url = server.url
                try:
                    async with self.client(concurrency, **settings) as client:
                        yield client
                finally:
                    self.url = ""
            return
        given: dict[str, Any] = {
            "store_hash": STORE_HASH,
            "customer_hash": CUSTOMER_HASH,
            "retry": QUICK,
            "pacing": Pacing(max_concurrency=concurrency, adaptive=False),
            **settings,
        }
        async with EverlyticClient(self.url, **given) as client:
            yield client

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Shop]:
        """Run at one address, for several clients."""
        async with RawServer(self.serve) as server:
            self.url = server.url
            try:
                yield self
            finally:
                self.url = ""


def entries_of(path: Path) -> dict[str, Entry]:
    """What a ledger holds, by key; nothing where there is none. It is not changed."""
    if not path.exists():
        return {}
    with LedgerFile(path, must_exist=True) as file:
        return {entry.key: entry for _, entry in file.entries()}


def states_of(path: Path) -> dict[str, State]:
    """The states, by key."""
    return {key: entry.state for key, entry in entries_of(path).items()}


def peek(path: Path, key: str) -> int | None:
    """The code of an order's state, as whoever opens the file at this moment finds it."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        row = connection.execute("SELECT state FROM orders WHERE key = ?", (key,)).fetchone()
    return None if row is None else int(row[0])
