"""What every test here is held to: no task, no thread, no lock file is left behind."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from ledger_zygote import Zygote

from everlytic_async import batch
from support.nats_servers import nats_cluster, nats_server, nats_url

__all__ = ["nats_cluster", "nats_server", "nats_url"]


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not finish need not be waited for so long here."""
    monkeypatch.setattr(batch, "_GRACE_S", 0.02)


@pytest.fixture(autouse=True)
async def nothing_left_behind(tmp_path: Path) -> AsyncIterator[None]:
    """After each test no task is pending, no ledger's thread lives, and no process is on record."""
    yield
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left
    until = time.monotonic() + 5  # a thread that was told to end may take its time
    while threads := [name for name in _threads() if "everlytic_async-ledger" in name]:
        assert time.monotonic() < until, threads
        await asyncio.sleep(0.001)
    assert _lock_files(tmp_path) == []


@pytest.fixture(autouse=True, scope="module")
def nothing_left_open() -> Iterator[None]:
    """What was not closed warns when it is collected, and a warning is an error."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    """A process that forks those that send."""
    with Zygote.running() as zygote:
        yield zygote


def _lock_files(directory: Path) -> list[str]:
    return [path.name for path in directory.rglob("*-run-*")]


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate()]
