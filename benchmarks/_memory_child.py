"""The process whose memory is measured: one stream, whose results are looked at and dropped."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

from benchmarks._load import CUSTOMER_HASH, STORE_HASH, WrongAnswerError, orders, run
from everlytic_async import EverlyticClient, Outcome, Pacing

_STATM = Path("/proc/self/statm")


def resident_bytes() -> int:
    """The resident memory of this process: at present on Linux, its peak so far elsewhere."""
    if _STATM.exists():
        return int(_STATM.read_text().split()[1]) * resource.getpagesize()
    return peak_bytes()


def peak_bytes() -> int:
    """The most resident memory that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


async def measure(settings: dict[str, Any]) -> None:
    """Stream, and print the memory after each of the orders in ``marks``."""
    marks = set(settings["marks"])
    sent = 0
    client = EverlyticClient(
        settings["url"],
        store_hash=STORE_HASH,
        customer_hash=CUSTOMER_HASH,
        pacing=Pacing(max_concurrency=settings["concurrency"]),
    )
    async with (
        client,
        client.stream_orders(orders(settings["orders"]), ordered=settings["ordered"]) as results,
    ):
        async for result in results:
            if result.outcome is not Outcome.SENT:
                raise WrongAnswerError(f"{result!r}") from result.error
            sent += 1
            if sent in marks:
                print(json.dumps({"resident_bytes": resident_bytes()}), flush=True)
    print(json.dumps({"sent": sent, "peak_bytes": peak_bytes()}), flush=True)


if __name__ == "__main__":
    run(measure(json.loads(sys.argv[1])))
