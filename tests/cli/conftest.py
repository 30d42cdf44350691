"""Fixtures for the command as a user runs it: see ``command_line``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_endpoint import Endpoint
from command_line import Cli, Program
from command_queue import Queue

from everlytic_async.sandbox import Sandbox
from support.nats_servers import nats_url
from support.processes import python_path
from support.sandboxes import serve

__all__ = ["nats_url"]


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "home"),
        "LANG": "C.UTF-8",
        "COLUMNS": "100",
        "PYTHONPATH": python_path(),
    }
    program = Program(tmp_path, environment)
    yield program
    program.kill_all()


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    for name in tuple(os.environ):
        if name.startswith("EVERLYTIC_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    return Cli(tmp_path, monkeypatch, capsys)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """In a thread of its own: for the command in a process, and in the test's."""
    with serve() as sandbox:
        yield sandbox


@pytest.fixture
def shop(cli: Cli, sandbox: Sandbox) -> Sandbox:
    """A sandbox whose account is in the environment of `cli`."""
    cli.use(sandbox.base_url)
    return sandbox


@pytest.fixture
def endpoint(cli: Cli) -> Iterator[Endpoint]:
    """One that answers as the order's id asks; its account is in the environment of `cli`."""
    with Endpoint.serve() as endpoint:
        cli.use(endpoint.base_url)
        yield endpoint


@pytest.fixture
def queue(nats_url: str) -> Queue:
    """A queue with nothing in it, on a real NATS server."""
    return Queue(nats_url)


@pytest.fixture
def cli_queue(cli: Cli, queue: Queue) -> Queue:
    """One that `cli` finds by its environment and its settings."""
    cli.env(EVERLYTIC_NATS_URL=queue.url)
    (cli.directory / "everlytic.toml").write_text(queue.toml())
    return queue
