"""Queues on a real NATS server; and what every test here is held to: nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from worker_shop import make_queue

from everlytic_async.worker import OrderQueue, QueueSettings
from support.nats_servers import nats_cluster, nats_server, nats_url

__all__ = ["nats_cluster", "nats_server", "nats_url"]

_NUMBERS = itertools.count(1)


@pytest.fixture(autouse=True)
async def nothing_left_behind() -> AsyncIterator[None]:
    """After each test no task is pending; those of a closed NATS connection may take a moment."""
    yield
    for _ in range(200):
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if not left:
            break
        await asyncio.sleep(0.01)
    assert not left


@pytest.fixture(autouse=True, scope="module")
def nothing_left_open() -> Iterator[None]:
    """What was not closed warns when it is collected, and a warning is an error."""
    yield
    gc.collect()


@pytest.fixture
def settings() -> QueueSettings:
    """Those of a queue that is the test's own on the server that many share."""
    return settings_of()


def settings_of(**given: Any) -> QueueSettings:
    name = f"q{os.getpid()}_{next(_NUMBERS)}"
    return QueueSettings(
        **{
            "subject": name,
            "orders_stream": f"{name}_orders",
            "dead_letter_stream": f"{name}_dead",
            "max_bytes": 16 * 1024**2,
            **given,
        }
    )


@pytest.fixture
def own_settings() -> Callable[..., QueueSettings]:
    """Makes such settings, with some that the test gives."""
    return settings_of


@pytest.fixture
async def queue(nats_url: str, settings: QueueSettings) -> AsyncIterator[OrderQueue]:
    """An open queue with nothing in it."""
    async with make_queue(nats_url, settings, timeout_s=10) as queue:
        yield queue
