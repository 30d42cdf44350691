"""Queues for the program under test: on a shared server, under names of their own."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs
from command_line import Program

from everlytic_async.outcomes import Outcome
from everlytic_async.worker import DeadLetter, OrderQueue, QueueSettings

_NUMBERS = itertools.count(1)


@attrs.frozen
class Queue:
    """A queue that is the test's own.

    Attributes:
        url: The server's address.
        name: What its subject and its streams begin with.
    """

    url: str
    name: str = attrs.field(factory=lambda: f"c{os.getpid()}_{next(_NUMBERS)}")

    def toml(self, **more: Any) -> str:
        """Its settings, as they stand in a TOML file."""
        lines = [f"{name} = {value}" for name, value in more.items()]
        names = [
            f'subject = "{self.name}"',
            f'orders_stream = "{self.name}_orders"',
            f'dead_letter_stream = "{self.name}_dead"',
            "max_bytes = 16777216",
        ]
        return "\n".join(["[queue]", *names, *lines, ""])

    def settings(self, store: str = "default", **more: Any) -> QueueSettings:
        """The same for the library."""
        return QueueSettings(
            **more,
            store=store,
            subject=self.name,
            orders_stream=f"{self.name}_orders",
            dead_letter_stream=f"{self.name}_dead",
            max_bytes=16 * 1024**2,
        )

    def connect(self, store: str = "default", **more: Any) -> OrderQueue:
        """The queue, not yet open; opening creates it."""
        return OrderQueue(self.url, self.settings(store, **more), timeout_s=10)

    async def publish(self, orders: Iterable[Any], store: str = "default") -> None:
        """Put orders into it."""
        async with self.connect(store) as queue:
            async for each in queue.publish_many(orders):
                assert each.stored

    async def depth(self, store: str = "default") -> int:
        """How many orders are unfinished."""
        async with self.connect(store) as queue:
            return (await queue.status()).depth

    async def dead(self, store: str = "default") -> list[DeadLetter]:
        """Its dead letters."""
        async with self.connect(store) as queue:
            return [letter async for letter in queue.dead_letters()]

    async def bury(self, *letters: tuple[Any, Outcome, str], store: str = "default") -> None:
        """Make dead letters of orders with outcomes and reasons."""
        await self.publish([order for order, _outcome, _reason in letters], store)
        async with self.connect(store) as queue:
            for _order, outcome, reason in letters:
                (queued,) = await queue.pull(1, 10)
                await queued.to_dead_letter(reason, outcome, 1)

    async def clear(self) -> None:
        """Delete all that is in it, with what it knows of duplicates."""
        async with self.connect() as queue:
            assert await queue.connection.jetstream().delete_stream(queue.settings.orders_stream)

    def visible_to(self, program: Program, **more: Any) -> Program:
        """A program that finds it by its environment and its settings."""
        (program.directory / "everlytic.toml").write_text(self.toml(**more))
        return program.with_env(EVERLYTIC_NATS_URL=self.url)


def now(coroutine: Any) -> Any:
    """Await it in a test that is not a coroutine, because the command runs in its process."""
    return asyncio.run(coroutine)


def write_stores(path: Path, queue: Queue, **accounts: tuple[str, str, str]) -> None:
    """Write settings with a table for each store: address, store hash, customer hash."""
    tables = [
        f'[worker.stores.{name}]\nbase_url = "{url}"\nstore_hash = "{store}"\n'
        f'customer_hash = "{customer}"\n'
        for name, (url, store, customer) in accounts.items()
    ]
    path.write_text(queue.toml() + "\n".join(tables))
