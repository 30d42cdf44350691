"""What a second worker brings, and what the way through a queue costs.

Each run has a NATS server of its own, filled with orders before anything is measured; then one
worker, or two that start together, empty it. Every run stands next to one of what it is compared
with, and a ratio is taken within the pair. The endpoint counts what arrives.

First an endpoint that takes its time and has no limit: the slots are the bound, and two workers
have twice as many. Then the minimal server, where CPU is the bound: how fast it goes, and which
process uses the time, with the ledger in NATS or in an SQLite file. All of them share this machine
with the endpoint and the NATS server, so a second worker can bring no more there than the cores
leave to it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from itertools import count as numbers
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks import _load as load
from benchmarks import harness
from everlytic_async.worker import NatsServer, OrderQueue

_NATS, _FILE = "ledger in NATS", "ledger in an SQLite file"
#: Of each part the runs: the others are compared with the first.
_PARTS = {
    "100 ms": ["1 worker", "2 workers"],
    "minimal server": [f"{n}, {ledger}" for ledger in (_NATS, _FILE) for n in ("1 worker", "2")],
}
_LATENCY_S = 0.1
_SLOTS = 32  # of a worker
_LEDGER_STREAM = "KV_everlytic_ledger"
_CPU = ("worker_us", "nats_us", "endpoint_us")


def _cpu_s(pid: int | None) -> float:
    """The CPU that another process has used, in seconds; NaN where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _once(
    workers: int, orders: int, latency_s: float = 0.0, ledger: Path | None = None
) -> harness.Figures:
    """Let workers empty a queue; the seconds are those from the first arrival to the last.

    CPU is for an order, in microseconds: of all workers, of the NATS server with its ledger, of
    the endpoint. The memory is that of the largest worker at its end. The bytes are what queue and
    ledger in NATS hold for an order, the shares what each worker sent, of an equal share.
    """
    with TemporaryDirectory() as directory:
        async with NatsServer(directory) as nats, OrderQueue(nats.url) as queue:
            started_at = time.perf_counter()
            async for each in queue.publish_many(load.orders(orders)):
                if not each.stored:
                    raise harness.BenchmarkError(f"an order was not stored: {each.error}")
            published_per_s = orders / (time.perf_counter() - started_at)
            queue_bytes = (await queue.status()).bytes / orders
            with harness.service(latency_s=latency_s) as endpoint:
                settings = {
                    "mode": "work",
                    "url": endpoint.url,
                    "queue": nats.url,
                    "concurrency": _SLOTS,
                    "worker_ledger": None if ledger is None else str(ledger),
                }
                before = _cpu_s(nats.pid)
                reports = await asyncio.to_thread(harness.measure_together, [settings] * workers)
                nats_s = _cpu_s(nats.pid) - before
            left = await queue.status()
            streams = await queue.connection.jetstream().streams_info()
            sizes = {info.config.name: info.state.bytes for info in streams}
    endpoint.check(orders)
    if left.depth or left.dead or sum(report["sent"] for report in reports) != orders:
        raise harness.BenchmarkError(f"the queue is not empty: {left}, {reports}")
    counts = endpoint.counts
    return {
        "workers": workers,
        "per_s": orders / (counts["last_at"] - counts["first_at"]),
        "worker_us": sum(report["cpu_s"] for report in reports) / orders * 1e6,
        "nats_us": nats_s / orders * 1e6,
        "endpoint_us": counts["cpu_s"] / orders * 1e6,
        "resident_mb": max(report["resident_bytes"] for report in reports) / harness.MB,
        "published_per_s": published_per_s,
        "queue_bytes": queue_bytes,
        "ledger_bytes": sizes.get(_LEDGER_STREAM, 0) / orders,
        "shares": [report["sent"] / orders * workers for report in reports],
    }


def _rows(where: str, comparison: harness.Comparison) -> list[list[str]]:
    return [
        [
            f"{where}, {name}",
            harness.spread(comparison.values(name, "per_s")),
            harness.spread(comparison.ratios(name, "per_s"), ".2f"),
            *(f"{median(comparison.values(name, figure)):,.0f}" for figure in _CPU),
            " ".join(f"{share:.2f}" for share in runs[-1]["shares"]),
        ]
        for name, runs in comparison.runs.items()
    ]


def _note(runs: Sequence[harness.Figures]) -> str:
    in_nats = [run["ledger_bytes"] for run in runs if run["ledger_bytes"]]
    return (
        f"The queue was filled with {median(r['published_per_s'] for r in runs):,.0f} orders a "
        f"second and held {median(r['queue_bytes'] for r in runs):,.0f} bytes an order; the "
        f"ledger in NATS held {median(in_nats):,.0f}. A worker had "
        f"{max(r['resident_mb'] for r in runs):,.0f} MB at most."
    )


@harness.benchmark(__doc__)
@harness.count("--orders", 3_000, "For each worker, with latency.")
@harness.count("--fast-orders", 10_000, "In all, to the minimal server.")
@harness.count("--rounds", 3)
@harness.only(_PARTS)
def main(*, orders: int, fast_orders: int, rounds: int, only: Sequence[str]) -> harness.Report:
    """Measure."""
    comparisons: dict[str, harness.Comparison] = {}
    with TemporaryDirectory() as directory:
        files = (Path(directory, f"{number}") for number in numbers())
        for part in only:

            def once(name: str, part: str = part) -> harness.Figures:
                workers, file = int(name[0]), next(files)
                if part == "100 ms":
                    return asyncio.run(_once(workers, orders * workers, _LATENCY_S))
                ledger = file if name.endswith(_FILE) else None
                return asyncio.run(_once(workers, fast_orders, ledger=ledger))

            first, *others = _PARTS[part]
            comparisons[part] = harness.Comparison.measure(first, others, rounds, once)
    goals = []
    if "100 ms" in only:
        ratio = median(comparisons["100 ms"].ratios("2 workers", "per_s"))
        name = "2 workers / 1, with latency"
        goals.append(harness.Goal(name, ratio, 1.9, "x", at_most=False))
    runs = [run for each in comparisons.values() for some in each.runs.values() for run in some]
    return harness.Report(
        title=f"{_SLOTS} slots a worker, {rounds} rounds",
        headings=("run", "orders/s", "x the first", *_CPU, "shares"),
        rows=[row for part, each in comparisons.items() for row in _rows(part, each)],
        goals=goals,
        notes=[_note(runs)],
        figures={"benchmark": "workers", **{part: each.runs for part, each in comparisons.items()}},
    )


if __name__ == "__main__":
    main()
