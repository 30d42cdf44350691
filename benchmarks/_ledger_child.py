"""The process that sends with a ledger, or without one: its time, and its memory on the way."""

from __future__ import annotations

import json
import sys
from typing import Any

from benchmarks._load import CUSTOMER_HASH, STORE_HASH, Meter, WrongAnswerError, orders, run
from benchmarks._memory_child import resident_bytes
from everlytic_async import EverlyticClient, OrderStream, Outcome, Pacing, SqliteLedger
from everlytic_async.ledger import Durability


def _stream(client: EverlyticClient, settings: dict[str, Any]) -> OrderStream:
    ledger = None
    if settings["ledger"] is not None:
        ledger = SqliteLedger(settings["ledger"], durability=Durability(settings["durability"]))
    return client.stream_orders(orders(settings["orders"]), ledger=ledger)


async def measure(settings: dict[str, Any]) -> None:
    """Stream; print the memory after each of the orders in ``marks``, and the time in the end."""
    marks = set(settings["marks"])
    wanted = Outcome(settings["outcome"])
    seen = 0
    client = EverlyticClient(
        settings["url"],
        store_hash=STORE_HASH,
        customer_hash=CUSTOMER_HASH,
        pacing=Pacing(max_concurrency=settings["concurrency"]),
    )
    async with client:
        await client.send_orders(orders(settings["warm_up"]))
        meter = Meter()
        async with _stream(client, settings) as results:
            async for result in results:
                if result.outcome is not wanted:
                    raise WrongAnswerError(f"{result!r}") from result.error
                seen += 1
                if seen in marks:
                    print(json.dumps({"resident_bytes": resident_bytes()}), flush=True)
        figures = meter.read()
    print(json.dumps({"seen": seen, **figures}), flush=True)


if __name__ == "__main__":
    run(measure(json.loads(sys.argv[1])))
