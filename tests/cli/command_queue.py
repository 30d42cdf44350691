"""Queues for the program under test: on a shared server, under names of their own."""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import attrs
from command_line import Program

from everlytic_async.outcomes import Outcome
from everlytic_async.worker import DeadLetter, OrderQueue, QueueSettings
from support.nats_servers import connected

_NUMBERS = itertools.count(1)


def _run_to_its_end(method: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
    """For tests that are not coroutines: the command runs in their own process."""
    return functools.wraps(method)(lambda *args, **more: asyncio.run(method(*args, **more)))


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

    def connect(self, store: str) -> OrderQueue:
        """The queue, not yet open; opening creates it."""
        settings = QueueSettings(
            store=store,
            subject=self.name,
            orders_stream=f"{self.name}_orders",
            dead_letter_stream=f"{self.name}_dead",
            max_bytes=16 * 1024**2,
        )
        return OrderQueue(self.url, settings, timeout_s=10)

    @_run_to_its_end
    async def publish(self, orders: Iterable[Any], store: str = "default") -> None:
        async with self.connect(store) as queue:
            async for each in queue.publish_many(orders):
                assert each.stored

    @_run_to_its_end
    async def depth(self, store: str = "default") -> int:
        async with self.connect(store) as queue:
            return (await queue.status()).depth

    @_run_to_its_end
    async def dead(self, store: str = "default") -> list[DeadLetter]:
        async with self.connect(store) as queue:
            return [letter async for letter in queue.dead_letters()]

    @_run_to_its_end
    async def bury(self, *letters: tuple[Any, Outcome, str], store: str = "default") -> None:
        """Make dead letters of orders with outcomes and reasons."""
        async with self.connect(store) as queue:
            for order, outcome, reason in letters:
                await queue.publish(order)
                (queued,) = await queue.pull(1, 10)
                await queued.to_dead_letter(reason, outcome, 1)

    @_run_to_its_end
    async def publish_raw(
        self, subject: str, body: bytes, headers: dict[str, str] | None = None
    ) -> None:
        """Put what nobody should into its streams."""
        async with connected(self.url) as connection:
            stream = connection.jetstream()
            await stream.publish(f"{self.name}.{subject}", body, headers=headers)

    def visible_to(self, program: Program, **more: Any) -> Program:
        """A program that finds it by its environment and its settings."""
        (program.directory / "everlytic.toml").write_text(self.toml(**more))
        return program.with_env(EVERLYTIC_NATS_URL=self.url)
