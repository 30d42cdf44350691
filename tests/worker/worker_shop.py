"""Queues, and workers that send to a `Shop`."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from nats.aio.client import Client

from everlytic_async import EverlyticClient, SqliteLedger
from everlytic_async.ledger import Ledger, LedgerFile, State
from everlytic_async.worker import (
    DeadLetter,
    OrderQueue,
    Published,
    QueuedOrder,
    QueueSettings,
    Worker,
)
from support.delivery import orders
from support.nats_servers import until

_NUMBERS = itertools.count(1)


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


async def until_status(queue: OrderQueue, **expected: int) -> None:
    """Wait until the queue's status has these values."""

    async def matches() -> bool:
        status = await queue.status()
        return all(getattr(status, name) == value for name, value in expected.items())

    await until(matches, f"a status of {expected}")


# -------------------------------------------------------------------------------------- workers


def make_worker(
    client: EverlyticClient, queue: OrderQueue, ledger: Path | Ledger | None, **settings: Any
) -> Worker:
    """A worker that waits less."""
    options = {"retry_base_s": 0.05, "retry_cap_s": 0.2, "max_pause_s": 0.2, **settings}
    ledger = SqliteLedger(ledger) if isinstance(ledger, Path) else ledger
    return Worker(client, queue, ledger, **options)


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
