"""The program as a user runs it, in a process of its own, against a sandbox in the test's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

from everlytic_async.cli._commands import app
from everlytic_async.sandbox import Faults, Sandbox

#: Made up, and looked for in everything that the program writes.
STORE_HASH = "0b5cf0de-1111-4222-8333-5707e4a54001"
CUSTOMER_HASH = "Cu5t0merSecretXy"

TIMEOUT_S = 60

#: For tests that are not about the ledger.
SEND = ("send", "--no-ledger")


@attrs.frozen
class Ended:
    """A process that has ended."""

    code: int
    out: str
    err: str


@attrs.frozen
class Program:
    """Runs ``python -m everlytic_async`` in a directory, with nothing but this environment."""

    directory: Path
    environment: dict[str, str]
    started: list[asyncio.subprocess.Process] = attrs.field(factory=list)

    def told(self, **more: str) -> Program:
        """The same with more in its environment."""
        return attrs.evolve(self, environment={**self.environment, **more})

    def pointed_at(self, sandbox: Sandbox) -> Program:
        """The same with the settings of a sandbox in its environment."""
        return self.told(
            EVERLYTIC_BASE_URL=sandbox.base_url,
            EVERLYTIC_STORE_HASH=sandbox.store_hash,
            EVERLYTIC_CUSTOMER_HASH=sandbox.customer_hash,
        )

    async def start(self, *arguments: str | Path, **streams: Any) -> asyncio.subprocess.Process:
        """Start it; what is not said about its streams is a pipe, or nothing for the input.

        In a session of its own: the terminal that the tests run at is not its terminal.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-X",
            "faulthandler",
            "-W",
            "error",
            "-m",
            "everlytic_async",
            *map(str, arguments),
            cwd=self.directory,
            env=self.environment,
            **{
                "stdin": asyncio.subprocess.DEVNULL,
                "stdout": asyncio.subprocess.PIPE,
                "stderr": asyncio.subprocess.PIPE,
                "start_new_session": True,
                **streams,
            },
        )
        self.started.append(process)
        return process

    def kill_all(self) -> None:
        """End what a test that failed has left: a worker would go on for ever."""
        for process in self.started:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)

    async def run(self, *arguments: str | Path, stdin: bytes | None = None) -> Ended:
        """Run it to its end."""
        streams = {} if stdin is None else {"stdin": asyncio.subprocess.PIPE}
        process = await self.start(*arguments, **streams)
        return await ended(process, stdin)


@attrs.frozen
class Here:
    """Runs a command that sends nothing in the test's own process: it is so much quicker."""

    directory: Path
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str | Path) -> Ended:
        """Run it to its end."""
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            app([str(argument) for argument in arguments], prog_name="everlytic-async")
        told = self.capsys.readouterr()
        return Ended(int(left.value.code or 0), told.out, told.err)


async def ended(process: asyncio.subprocess.Process, stdin: bytes | None = None) -> Ended:
    """Wait for the end; a process that doesn't come to it is killed."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            out, err = await process.communicate(stdin)
    except TimeoutError:
        process.send_signal(signal.SIGABRT)  # faulthandler shows where it hangs
        _out, err = await process.communicate()
        pytest.fail(f"the program did not end:\n{err.decode()}")
    assert process.returncode is not None
    return Ended(process.returncode, (out or b"").decode(), (err or b"").decode())


def order(number: int, **more: Any) -> dict[str, Any]:
    """A valid order."""
    return {
        "order_id": str(number),
        "contact_email": f"buyer{number}@example.com",
        "products": [{"product_name": "Mop", "product_price": 21}],
        **more,
    }


def lines_of(*orders: Any) -> str:
    """Orders as JSON Lines; text goes in as it is."""
    return "".join(
        (given if isinstance(given, str) else json.dumps(given)) + "\n" for given in orders
    )


def results_in(path: Path) -> list[dict[str, Any]]:
    """The results that a run wrote, in the order of the input."""
    found = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return sorted(found, key=lambda result: result["index"])


def box(**faults: float) -> Sandbox:
    """A sandbox with faults."""
    return Sandbox(
        store_hash=STORE_HASH,
        customer_hash=CUSTOMER_HASH,
        faults=Faults(**faults),  # type: ignore[arg-type]
    )
