"""The queue of the workers' benchmark, as a process: a private NATS server, filled with orders.

It says how fast it was filled, where it is, and the process id of the server; when its standard
input ends, it looks at what is left, ends the server and says what it found.
"""

from __future__ import annotations

import json
import sys
import time
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks._load import orders, run
from benchmarks.server import say, until_stdin_ends
from everlytic_async.worker import NatsServer, OrderQueue

_LEDGER = "KV_everlytic_ledger"


async def serve(settings: dict[str, Any]) -> None:
    """Serve a queue with so many orders in it until standard input ends."""
    count = settings["orders"]
    with TemporaryDirectory() as directory:
        async with NatsServer(directory) as server, OrderQueue(server.url) as queue:
            began = time.perf_counter()
            async for each in queue.publish_many(orders(count)):
                if not each.stored:
                    raise RuntimeError(f"an order was not stored: {each.error}")
            elapsed_s = time.perf_counter() - began
            status = await queue.status()
            say(
                url=server.url,
                pid=server.pid,
                published_per_s=count / elapsed_s,
                bytes_per_order=status.bytes / count,
            )
            await until_stdin_ends()
            left = await queue.status()
            jetstream = queue.connection.jetstream()
            names = [str(info.config.name) for info in await jetstream.streams_info()]
            ledger_bytes = (
                (await jetstream.stream_info(_LEDGER)).state.bytes if _LEDGER in names else 0
            )
            say(depth=left.depth, dead=left.dead, ledger_bytes_per_order=ledger_bytes / count)


if __name__ == "__main__":
    run(serve(json.loads(sys.argv[1])))
