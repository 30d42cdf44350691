"""The command under test: in the test's own process (`Cli`), or in one of its own (`Program`)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from everlytic_async.cli._commands import app
from everlytic_async.sandbox import Sandbox
from support.sandboxes import CUSTOMER_HASH, STORE_HASH

TIMEOUT_S = 60
#: For tests that are not about the ledger.
SEND = ("send", "--no-ledger")
ACCOUNT = ("EVERLYTIC_BASE_URL", "EVERLYTIC_STORE_HASH", "EVERLYTIC_CUSTOMER_HASH")
PROGRAM = (sys.executable, "-X", "faulthandler", "-W", "error", "-m", "everlytic_async")
Process = subprocess.Popen[bytes]


@attrs.frozen
class Completed:
    code: int
    out: str
    err: str


@attrs.frozen
class Cli:
    """Runs the command in the test's own process: much quicker than a process for each case.

    Its endpoint has to be in a thread, such as the fixture ``sandbox``; nobody answers a question.
    """

    directory: Path
    _monkeypatch: pytest.MonkeyPatch
    _capsys: pytest.CaptureFixture[str]

    def env(self, **variables: str) -> None:
        for name, value in variables.items():
            self._monkeypatch.setenv(name, value)

    def write(self, *orders: Any) -> Path:
        return write_orders(self.directory, *orders)

    def use(self, base_url: str, store: str = STORE_HASH, customer: str = CUSTOMER_HASH) -> None:
        """Have a complete account in the environment."""
        self.env(**dict(zip(ACCOUNT, (base_url, store, customer), strict=True)))

    def __call__(
        self, *arguments: str | Path, stdin: bytes | Path | int | None = None
    ) -> Completed:
        """Run it to its end; its input is a file, a file descriptor, or what a pipe brings."""
        self._capsys.readouterr()
        with _standard_input(stdin), pytest.raises(SystemExit) as end:
            app([str(argument) for argument in arguments], prog_name="everlytic-async")
        captured = self._capsys.readouterr()
        return Completed(int(end.value.code or 0), captured.out, captured.err)


@contextmanager
def _standard_input(source: bytes | Path | int | None) -> Iterator[None]:
    if isinstance(source, bytes):
        fd, writing = os.pipe()
        os.write(writing, source)  # no more than a pipe holds
        os.close(writing)
    elif isinstance(source, int):
        fd = os.dup(source)
    else:
        fd = os.open(source or os.devnull, os.O_RDONLY)
    saved = os.dup(0)
    os.dup2(fd, 0)
    os.close(fd)
    try:
        yield
    finally:
        os.dup2(saved, 0)
        os.close(saved)


@attrs.frozen
class Program:
    """Runs ``python -m everlytic_async`` in a directory, with nothing but this environment."""

    directory: Path
    environment: dict[str, str]
    started: list[Process] = attrs.field(factory=list)

    def write(self, *orders: Any) -> Path:
        return write_orders(self.directory, *orders)

    def with_env(self, **more: str) -> Program:
        """The same with more in its environment."""
        return attrs.evolve(self, environment={**self.environment, **more})

    def with_endpoint(self, sandbox: Sandbox) -> Program:
        """The same with the account of a sandbox in its environment."""
        account = (sandbox.base_url, sandbox.store_hash, sandbox.customer_hash)
        return self.with_env(**dict(zip(ACCOUNT, account, strict=True)))

    def start(self, *arguments: str | Path, **streams: Any) -> Process:
        """Start it. Its input is empty and its output a pipe, unless `streams` say otherwise.

        In a session of its own: the terminal that the tests run at is not its terminal.
        """
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "bufsize": 0}
        options |= {"stderr": subprocess.PIPE, "start_new_session": True, **streams}
        process = subprocess.Popen(
            [*PROGRAM, *map(str, arguments)],
            cwd=self.directory,
            env=self.environment,
            **options,
        )
        self.started.append(process)
        return process

    def kill_all(self) -> None:
        """End what a test has left: a worker would go on for ever."""
        for process in self.started:
            with process:
                process.kill()

    def run(self, *arguments: str | Path, **streams: Any) -> Completed:
        return completed(self.start(*arguments, **streams))


def completed(process: Process) -> Completed:
    """Wait for its end; a process that hangs is killed."""
    try:
        out, err = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # faulthandler shows where it hangs
        _out, err = process.communicate()
        pytest.fail(f"the command did not end:\n{err.decode()}")
    return Completed(process.returncode, (out or b"").decode(), (err or b"").decode())


def until(condition: Callable[[], bool]) -> None:
    """Wait for a sandbox, or a process."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def read_until(process: Process, words: str) -> str:
    """Read what a process writes to the standard error until these words come."""
    read = ""
    timer = threading.Timer(TIMEOUT_S, process.kill)
    timer.start()
    while words not in read:
        line = process.stderr.readline() if process.stderr else b""
        assert line, f"it ended without {words!r}:\n{read}"
        read += line.decode()
    timer.cancel()
    return read


def to_lines(*orders: Any) -> str:
    """Orders as JSON Lines; text goes in as it is."""
    return "".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in orders)


def write_orders(directory: Path, *orders: Any) -> Path:
    path = directory / "orders.jsonl"
    path.write_text(to_lines(*orders), encoding="utf-8")
    return path


def read_results(path: Path | str) -> list[dict[str, Any]]:
    """The results that a run wrote, in the order of the input."""
    results = [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]
    return sorted(results, key=lambda result: result["index"])
