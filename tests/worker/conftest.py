"""Queues on a real NATS server; and after every test nothing may be left running or open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from worker_shop import make_queue, queue_settings

from everlytic_async.worker import OrderQueue, QueueSettings
from support.nats_servers import nats_cluster, nats_server, nats_url
from support.tasks import nothing_left_open
from support.tls import authority

__all__ = ["authority", "nats_cluster", "nats_server", "nats_url", "nothing_left_open"]


@pytest.fixture(autouse=True)
async def nothing_left_running() -> AsyncIterator[None]:
    """After each test no task is pending; those of a closed NATS connection may take a moment."""
    yield
    for _ in range(200):
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if not left:
            break
        await asyncio.sleep(0.01)
    assert not left


@pytest.fixture
def settings() -> QueueSettings:
    """Of a queue of the test's own, on the server that many share."""
    return queue_settings()


@pytest.fixture
async def queue(nats_url: str, settings: QueueSettings) -> AsyncIterator[OrderQueue]:
    """An open queue with nothing in it."""
    async with make_queue(nats_url, settings, timeout_s=10) as queue:
        yield queue


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a ledger may be."""
    return tmp_path / "orders.ledger"
