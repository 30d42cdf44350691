"""A worker of the workers' benchmark, as a process: it works until the queue is empty.

It says when it is ready, and begins when its standard input ends, so that several begin as one.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from benchmarks._load import CUSTOMER_HASH, STORE_HASH, Meter, WrongAnswerError, run
from benchmarks._memory_child import resident_bytes
from benchmarks.server import say, until_stdin_ends
from everlytic_async import EverlyticClient, Outcome, Pacing, SqliteLedger
from everlytic_async.worker import OrderQueue, Worker

# How often it is looked what was done: so exact are the seconds.
_LOOK_S = 0.01
# How often the queue is asked whether it is empty, while the worker has nothing.
_ASK_S = 0.1


async def _until_empty(worker: Worker) -> float:
    """Wait until the queue is empty, and stop the worker; when it acknowledged its last order."""
    last_at, acknowledged, asked_at = time.monotonic(), 0, 0.0
    while True:
        await asyncio.sleep(_LOOK_S)
        now, status = time.monotonic(), worker.status
        if status.acked > acknowledged:
            last_at, acknowledged = now, status.acked
        elif status.in_flight == 0 and now - asked_at >= _ASK_S:
            asked_at = now
            if (await worker.queue.status()).depth == 0:
                worker.stop()
                return last_at


async def work(settings: dict[str, Any]) -> None:
    """Work off the queue; print what it took."""
    ledger = None if settings["ledger"] is None else SqliteLedger(settings["ledger"])
    client = EverlyticClient(
        settings["url"],
        store_hash=STORE_HASH,
        customer_hash=CUSTOMER_HASH,
        pacing=Pacing(max_concurrency=settings["concurrency"]),
    )
    async with OrderQueue(settings["queue"]) as queue, client:
        worker = Worker(client, queue, ledger)
        say(ready=True)
        await until_stdin_ends()
        began_at, meter = time.monotonic(), Meter()
        ending = asyncio.create_task(_until_empty(worker))
        await worker.run()
        ended_at, cpu_s = await ending, meter.read()["cpu_s"]
        counts = worker.status.counts
        if sum(counts.values()) != counts[Outcome.SENT]:
            raise WrongAnswerError(f"not all were sent: {dict(counts)}")
        say(
            sent=counts[Outcome.SENT],
            began_at=began_at,
            ended_at=ended_at,
            cpu_s=cpu_s,
            resident_bytes=resident_bytes(),
        )


if __name__ == "__main__":
    run(work(json.loads(sys.argv[1])))
