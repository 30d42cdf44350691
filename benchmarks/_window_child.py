"""What the window for duplicates costs, as a process: the memory of a NATS server for an id.

The messages are empty, and all but the last are dropped: what grows are the ids alone.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nats
from nats.js import JetStreamContext

from benchmarks._load import run
from benchmarks.server import say
from everlytic_async.worker import NatsServer

_AT_ONCE = 256
_WARM_UP = 20_000
_KB = 1024


def _resident_bytes(pid: int | None) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * _KB
    raise RuntimeError("the system does not tell the memory of a process")


async def _publish(stream: JetStreamContext, numbers: range) -> None:
    free = asyncio.Semaphore(_AT_ONCE)

    async def publish(number: int) -> None:
        async with free:
            await stream.publish("ids", b"", headers={"Nats-Msg-Id": f"default:{number:012d}"})

    await asyncio.gather(*map(publish, numbers))


async def measure(settings: dict[str, Any]) -> None:
    """Publish so many ids, and say what each took."""
    count = settings["ids"]
    with TemporaryDirectory() as directory:
        async with NatsServer(directory) as server:
            connection = await nats.connect(server.url)
            stream = connection.jetstream()
            await stream.add_stream(
                name="ids", subjects=["ids"], duplicate_window=86_400, max_msgs=1
            )
            await _publish(stream, range(_WARM_UP))
            before = _resident_bytes(server.pid)
            await _publish(stream, range(_WARM_UP, _WARM_UP + count))
            say(bytes_per_id=(_resident_bytes(server.pid) - before) / count)
            await connection.close()


if __name__ == "__main__":
    run(measure(json.loads(sys.argv[1])))
