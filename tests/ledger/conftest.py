"""What every test here is held to: no task, no thread, no lock file is left behind."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from ledger_shop import Place, make_bucket

from support.nats_servers import nats_cluster, nats_server, nats_url
from support.tasks import nothing_left_open

__all__ = ["nats_cluster", "nats_server", "nats_url", "nothing_left_open"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orders.ledger"


@pytest.fixture(params=["sqlite", "nats"])
def place(request: pytest.FixtureRequest, path: Path) -> Place:
    """A test that asks for it runs with a ledger of each kind."""
    return path if request.param == "sqlite" else make_bucket(request.getfixturevalue("nats_url"))


@pytest.fixture(autouse=True)
async def nothing_left_behind(path: Path) -> AsyncIterator[None]:
    """After each test no task is pending, no ledger's thread lives, and no process is on record."""
    yield
    assert not asyncio.all_tasks() - {asyncio.current_task()}
    until = time.monotonic() + 5
    while threads := [each.name for each in threading.enumerate() if "ledger" in each.name]:
        assert time.monotonic() < until, threads
        await asyncio.sleep(0.001)
    assert lock_files(path.parent) == []


def lock_files(directory: Path) -> list[Path]:
    return list(directory.rglob("*-run-*"))
