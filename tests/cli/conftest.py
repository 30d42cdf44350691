"""Fixtures for the program as a user runs it: see ``command_line``."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import CUSTOMER_HASH, STORE_HASH, TIMEOUT_S, Here, Program, lines_of
from command_queue import Queue

from everlytic_async.sandbox import Sandbox
from support.nats_servers import nats_url

__all__ = ["nats_url"]


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "home"),
        "LANG": "C.UTF-8",
        "COLUMNS": "100",
    }
    program = Program(tmp_path, environment)
    yield program
    program.kill_all()


@pytest.fixture
def here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Here:
    for name in tuple(os.environ):
        if name.startswith("EVERLYTIC_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    return Here(tmp_path, capsys)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(store_hash=STORE_HASH, customer_hash=CUSTOMER_HASH) as box:
        yield box


@pytest.fixture
def queue(nats_url: str) -> Queue:
    """A queue with nothing in it, on a real NATS server."""
    return Queue(nats_url)


@pytest.fixture
def orders_file(tmp_path: Path) -> Callable[..., Path]:
    """Write orders to a file."""

    def write(*orders: Any) -> Path:
        path = tmp_path / "orders.jsonl"
        path.write_text(lines_of(*orders), encoding="utf-8")
        return path

    return write


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """Wait until a condition on a sandbox's counters holds."""

    async def wait(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while not condition():  # noqa: ASYNC110 - the sandbox has counters, no events
                await asyncio.sleep(0.005)

    return wait
