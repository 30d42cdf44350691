"""A worker as a process of its own: it ends by SIGTERM, or by what a test does to it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from everlytic_async import Pacing, SqliteLedger
from everlytic_async.ledger import Ledger, NatsLedger
from everlytic_async.worker import OrderQueue, QueueSettings, Worker
from support.delivery import MANY_RETRIES, make_client
from support.forked import Forked

CONCURRENCY = 8


async def _work(
    report: Callable[[str], None],
    *,
    servers: list[str],
    settings: QueueSettings,
    url: str,
    path: Path | None = None,
    heartbeat_s: float = 3.0,
) -> None:
    pacing = Pacing(max_concurrency=CONCURRENCY, adaptive=False)
    async with (
        OrderQueue(servers, settings) as queue,
        make_client(url, retry=MANY_RETRIES, pacing=pacing) as client,
    ):
        ledger: Ledger
        if path is not None:
            ledger = SqliteLedger(path)
        else:
            ledger = NatsLedger(
                servers, settings.subject, replicas=settings.replicas, heartbeat_s=heartbeat_s
            )
        worker = Worker(
            client, queue, ledger, shutdown_timeout_s=10, retry_base_s=0.2, retry_cap_s=1.0
        )
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
        report("ready")
        await worker.run()


@asynccontextmanager
async def worker_process(**options: Any) -> AsyncIterator[Forked]:
    """One that is ready; at the end it is stopped, and it must have ended well or been killed."""
    process = Forked(_work, **options)
    try:
        assert await process.receive() == "ready"
        yield process
    finally:
        process.signal(signal.SIGTERM)
        code = await process.end()
    assert code in (0, -signal.SIGKILL)
