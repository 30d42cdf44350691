"""A process that forks others that use a ledger, so that no interpreter has to start for each.

It reads a line of JSON for each: a function's name and its arguments. It writes the child's process
id, what the child returned (an empty line if it could not), and its status as of `os.waitpid`.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from everlytic_async import (
    BatchStoppedError,
    Delivery,
    EverlyticClient,
    LedgerError,
    Pacing,
    SqliteLedger,
)
from everlytic_async.ledger import Entry, Ledger, NatsLedger, ResendPolicy, State
from everlytic_async.sandbox import Sandbox
from support.delivery import CUSTOMER_HASH, MANY_RETRIES, STORE_HASH, orders
from support.processes import python_path

NOBODY = 65_534


def make_sandbox(**settings: Any) -> Sandbox:
    """A sandbox whose hashes the processes know."""
    return Sandbox(store_hash=STORE_HASH, customer_hash=CUSTOMER_HASH, **settings)


def _open_ledger_at(place: str, heartbeat_s: float) -> Ledger:
    """By the path of a file, or the address of a server and a bucket after it."""
    if not place.startswith("nats://"):
        return SqliteLedger(place, wait_s=5.0)
    url, _, bucket = place.rpartition("/")
    return NatsLedger(url, bucket, heartbeat_s=heartbeat_s)


async def record_and_die(*, ledger: str, keys: list[str]) -> None:
    """Record orders as sent, have one in flight, and be killed."""
    async with SqliteLedger(ledger).session("a scope", "shop.example") as session:
        for key in keys:
            await session.claim(key, "body", ResendPolicy())
            await session.record(Entry(key, State.SENT, "body"))
        await session.claim("in flight", "body", ResendPolicy())
        os.kill(os.getpid(), signal.SIGKILL)


async def send(
    *,
    url: str,
    ledger: str,
    count: int,
    delivery: str = Delivery.AT_MOST_ONCE,
    concurrency: int = 8,
    file_size: int | None = None,
    unprivileged: bool = False,
    heartbeat_s: float = 60.0,
) -> dict[str, Any]:
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))  # as a full disk
    if unprivileged and os.geteuid() == 0:
        os.setuid(NOBODY)  # for root nothing is read-only
    ends: dict[str, list[str]] = {}
    error = None
    async with EverlyticClient(
        url,
        store_hash=STORE_HASH,
        customer_hash=CUSTOMER_HASH,
        delivery=Delivery(delivery),
        retry=MANY_RETRIES,
        pacing=Pacing(max_concurrency=concurrency, adaptive=False),
    ) as client:
        try:
            async with client.stream_orders(
                orders(count), ledger=_open_ledger_at(ledger, heartbeat_s)
            ) as results:
                async for result in results:
                    ends.setdefault(result.outcome, []).append(str(result.key))
        except (BatchStoppedError, LedgerError) as raised:
            error = f"{type(raised).__name__}: {raised}"
    left = [path.name for path in Path(ledger).parent.glob("*-run-*")]
    return {"ends": ends, "error": error, "left": left}


_JOBS: dict[str, Callable[..., Coroutine[Any, Any, Any]]] = {
    "record_and_die": record_and_die,
    "send": send,
}


def main() -> None:
    for line in sys.stdin:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            with os.fdopen(write, "w") as pipe:
                name, arguments = json.loads(line)
                pipe.write(json.dumps(asyncio.run(_JOBS[name](**arguments))))
            os._exit(0)
        os.close(write)
        print(pid, flush=True)  # noqa: T201 - to the process that started it
        with os.fdopen(read) as pipe:
            returned = pipe.read()
        _, status = os.waitpid(pid, 0)
        print(returned)  # noqa: T201
        print(status, flush=True)  # noqa: T201


@attrs.frozen
class End:
    """How a process ended.

    Attributes:
        status: As of `os.waitpid`: 0, or the signal's number.
        ends: The keys by outcome.
        error: What the batch raised.
        left: Lock files that there were then.
    """

    status: int
    ends: dict[str, list[str]] = attrs.field(factory=dict)
    error: str | None = None
    left: list[str] = attrs.field(factory=list)


class Zygote:
    """The process, for the tests."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Zygote]:
        tests = Path(__file__).parent.parent
        with subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": python_path(tests, tests.parent)},
        ) as process:
            yield cls(process)
            # Leaving it closes its input, and it ends.

    async def start(self, sandbox: Sandbox, ledger: Path | str, count: int, **settings: Any) -> int:
        """Start to send; the process id."""
        url = sandbox.base_url
        return await self._fork("send", url=url, ledger=str(ledger), count=count, **settings)

    async def killed(self, ledger: Path, *keys: str) -> None:
        """A process that has recorded these as sent is killed, with another order in flight."""
        await self._fork("record_and_die", ledger=str(ledger), keys=keys)
        assert (await self.end()).status == signal.SIGKILL

    async def _fork(self, job: str, **arguments: Any) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps([job, arguments])}\n")
        self._process.stdin.flush()
        return int(await self._line())

    async def end(self) -> End:
        """Wait until it has ended."""
        returned = await self._line()
        return End(int(await self._line()), **(json.loads(returned) if returned.strip() else {}))

    async def send(self, sandbox: Sandbox, ledger: Path | str, count: int, **settings: Any) -> End:
        """Send to the end."""
        await self.start(sandbox, ledger, count, **settings)
        return await self.end()

    async def _line(self) -> str:
        assert self._process.stdout is not None
        return await asyncio.to_thread(self._process.stdout.readline)


if __name__ == "__main__":
    main()
