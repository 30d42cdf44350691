"""A worker as a process of its own: it ends by SIGTERM, or by what a test does to it.

It reads a line of JSON: what `_work` takes. It writes ``ready``, and at its end its figures.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from everlytic_async import EverlyticClient, Pacing, SqliteLedger
from everlytic_async.ledger import Ledger, NatsLedger
from everlytic_async.worker import OrderQueue, QueueSettings, Worker
from support.delivery import CUSTOMER_HASH, MANY_RETRIES, STORE_HASH
from support.processes import python_path

_TESTS = Path(__file__).parent.parent


async def _work(
    *,
    servers: list[str],
    settings: dict[str, Any],
    url: str,
    ledger: str | None,
    concurrency: int,
    heartbeat_s: float = 3.0,
) -> None:
    async with (
        OrderQueue(servers, QueueSettings(**settings)) as queue,
        EverlyticClient(
            url,
            store_hash=STORE_HASH,
            customer_hash=CUSTOMER_HASH,
            retry=MANY_RETRIES,
            pacing=Pacing(max_concurrency=concurrency, adaptive=False),
        ) as client,
    ):
        kept: Ledger
        if ledger is not None:
            kept = SqliteLedger(ledger)
        else:
            kept = NatsLedger(
                servers,
                settings["subject"],
                replicas=queue.settings.replicas,
                heartbeat_s=heartbeat_s,
            )
        worker = Worker(
            client, queue, kept, shutdown_timeout_s=10, retry_base_s=0.2, retry_cap_s=1.0
        )
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
        print("ready", flush=True)  # noqa: T201 - to the test
        await worker.run()
        print(json.dumps(dict(worker.status.counts)), flush=True)  # noqa: T201


@asynccontextmanager
async def worker_process(**options: Any) -> AsyncIterator[asyncio.subprocess.Process]:
    """One that is ready; at the end it is stopped, and it must have ended well or been killed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "error", __file__),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": python_path(_TESTS)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(f"{json.dumps(options)}\n".encode())
        assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        figures = await process.stdout.read()
        await process.wait()
    assert process.returncode in (0, -signal.SIGKILL), figures


if __name__ == "__main__":
    asyncio.run(_work(**json.loads(sys.stdin.readline())))
