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

import os
from collections.abc import Sequence
from itertools import count as numbers
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import click

from benchmarks import harness

_ONE, _TWO = "1 worker", "2 workers"
_NATS, _FILE = "ledger in NATS", "ledger in an SQLite file"
_MINIMAL = [f"{workers}, {ledger}" for ledger in (_NATS, _FILE) for workers in (_ONE, _TWO)]
_PARTS = ("latency", "minimal")
_CPU = ("worker_us", "nats_us", "endpoint_us")


def _cpu_s(pid: int) -> float:
    """The CPU that another process has used, in seconds; NaN where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _once(
    *, workers: int, orders: int, concurrency: int, latency_s: float, ledger: Path | None
) -> harness.Figures:
    """Let workers empty a queue.

    Returns:
        workers: How many there were.
        per_s: Orders per second, of all together.
        worker_us: CPU of all workers for an order, in microseconds.
        nats_us: CPU of the NATS server for an order, with ledger and acknowledgements.
        endpoint_us: CPU of the endpoint for an order.
        resident_mb: Memory of the largest worker at its end.
        published_per_s: How fast the queue was filled before.
        queue_bytes: What the queue held for an order.
        ledger_bytes: What the ledger in NATS holds for an order.
        shares: What each worker sent, in parts of an equal share.
    """
    with harness.Child(harness.CLIENT, {"mode": "queue", "orders": orders}) as queue:
        filled = queue.read()
        with harness.service(latency_s=latency_s) as endpoint:
            settings = {
                "mode": "work",
                "url": endpoint.url,
                "queue": filled["url"],
                "concurrency": concurrency,
                "worker_ledger": None if ledger is None else str(ledger),
            }
            before = _cpu_s(filled["pid"])
            reports = harness.measure_together([settings] * workers)
            after = _cpu_s(filled["pid"])
        left = queue.finish()
    endpoint.check(orders)
    if left["depth"] or left["dead"] or sum(report["sent"] for report in reports) != orders:
        raise harness.BenchmarkError(
            f"the queue of {orders} orders is not empty: {left}, {reports}"
        )
    seconds = max(r["ended_at"] for r in reports) - min(r["started_at"] for r in reports)
    return {
        "workers": workers,
        "per_s": orders / seconds,
        "worker_us": sum(report["cpu_s"] for report in reports) / orders * 1e6,
        "nats_us": (after - before) / orders * 1e6,
        "endpoint_us": endpoint.counts["cpu_s"] / orders * 1e6,
        "resident_mb": max(report["resident_bytes"] for report in reports) / harness.MB,
        "published_per_s": filled["published_per_s"],
        "queue_bytes": filled["bytes_per_order"],
        "ledger_bytes": left["ledger_bytes_per_order"],
        "shares": [report["sent"] / orders * workers for report in reports],
    }


def _latency(orders: int, rounds: int, concurrency: int, latency_s: float) -> harness.Comparison:
    def once(name: str) -> harness.Figures:
        workers = 1 if name == _ONE else 2
        return _once(
            workers=workers,
            orders=orders * workers,
            concurrency=concurrency,
            latency_s=latency_s,
            ledger=None,
        )

    return harness.Comparison.measure(_ONE, [_TWO], rounds, once)


def _minimal(directory: Path, orders: int, rounds: int, concurrency: int) -> harness.Comparison:
    files = numbers()

    def once(name: str) -> harness.Figures:
        return _once(
            workers=1 if name.startswith(_ONE) else 2,
            orders=orders,
            concurrency=concurrency,
            latency_s=0,
            ledger=directory / f"{next(files)}" if name.endswith(_FILE) else None,
        )

    return harness.Comparison.measure(_MINIMAL[0], _MINIMAL[1:], rounds, once)


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


def _summary(comparison: harness.Comparison) -> str:
    queued = [run for runs in comparison.runs.values() for run in runs]
    in_nats = [run["ledger_bytes"] for run in queued if run["ledger_bytes"]]
    return (
        f"The queue was filled with {median(r['published_per_s'] for r in queued):,.0f} orders a "
        f"second and held {median(r['queue_bytes'] for r in queued):,.0f} bytes an order; the "
        f"ledger in NATS held {median(in_nats):,.0f}. A worker had "
        f"{max(r['resident_mb'] for r in queued):,.0f} MB at most."
    )


@harness.benchmark(__doc__)
@harness.count("--orders", 3_000, "For each worker, with latency.")
@harness.count("--fast-orders", 10_000, "In all, to the minimal server.")
@harness.count("--rounds", 3)
@click.option("--latency-ms", type=click.FloatRange(0), default=100.0, show_default=True)
@harness.count("--concurrency", 32)
@harness.only(_PARTS)
def main(
    *,
    orders: int,
    fast_orders: int,
    rounds: int,
    latency_ms: float,
    concurrency: int,
    only: Sequence[str],
) -> harness.Report:
    """Measure."""
    rows: list[list[str]] = []
    goals: list[harness.Goal] = []
    notes: list[str] = []
    figures: harness.Figures = {"benchmark": "workers"}
    if "latency" in only:
        comparison = _latency(orders, rounds, concurrency, latency_ms / 1e3)
        rows += _rows(f"{latency_ms:g} ms", comparison)
        ratio = median(comparison.ratios(_TWO, "per_s"))
        goals.append(
            harness.Goal("2 workers / 1, with latency", ratio, 1.9, at_most=False, unit="x")
        )
        figures["latency"] = comparison.runs
    if "minimal" in only:
        with TemporaryDirectory() as name:
            comparison = _minimal(Path(name), fast_orders, rounds, concurrency)
        rows += _rows("minimal server", comparison)
        notes.append(_summary(comparison))
        figures["minimal"] = comparison.runs
    headings = ("run", "orders/s", "x the first", "workers µs", "NATS µs", "endpoint µs", "shares")
    title = f"{concurrency} slots a worker, {rounds} rounds"
    return harness.Report(title, headings, rows, goals, figures, notes)


if __name__ == "__main__":
    harness.start(main)
