"""What a second worker brings, and what the way through a queue costs.

Each run has a NATS server of its own, filled with orders before anything is measured; then one
worker, or two that begin as one, work it off. The rounds are interleaved, and a ratio is taken
within a round. The endpoint counts what arrives.

First an endpoint that takes its time and has no limit: the slots are the bound, and two workers
have twice as many. Then the minimal server, where CPU is the bound: how fast it goes, and in which
process the time goes. All of them share this machine with the endpoint and the NATS server, so that
a second worker can bring no more there than the cores leave to it. Beside them runs the client
alone, without a queue, with a ledger and without one. Last comes what the NATS server's memory
holds for each id within its window for duplicates.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import attrs
import click
from rich.table import Table

from benchmarks._common import (
    BenchmarkError,
    Child,
    Target,
    child,
    chosen,
    done_telling,
    finish,
    json_option,
    measure,
    paired,
    service,
    start,
    tell,
)

_MB = 1_000_000
_PARTS = ("latency", "minimal", "window")
_LEDGERS = {"nats": "the ledger in NATS", "file": "the ledger in an SQLite file"}
_ALONE = {"none": "no queue, no ledger", "process": "no queue, the ledger in an SQLite file"}


@attrs.frozen(kw_only=True)
class Run:
    """What came of one run.

    Attributes:
        workers: How many worked.
        per_s: Orders per second, of all together.
        worker_us: CPU of all workers for an order, in microseconds.
        nats_us: CPU of the NATS server for an order, ledger and acknowledgements included.
        endpoint_us: CPU of the endpoint for an order.
        resident_mb: Memory of the largest worker at its end.
        published_per_s: How fast the queue was filled before.
        queue_bytes: What the queue held for an order.
        ledger_bytes: What the ledger in NATS holds for an order.
        shares: What each worker sent, in parts of an equal share.
    """

    workers: int
    per_s: float
    worker_us: float
    nats_us: float | None
    endpoint_us: float
    resident_mb: float
    published_per_s: float
    queue_bytes: float
    ledger_bytes: float
    shares: list[float]


@contextmanager
def _queue(orders: int) -> Iterator[tuple[Child, dict[str, Any]]]:
    """A queue with so many orders; what it said of itself."""
    with child("benchmarks._queue_child", json.dumps({"orders": orders})) as process:
        yield process, process.said()


def _cpu_s(pid: int) -> float | None:
    """The CPU that another process has used, in seconds, where the system tells."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _once(
    *, workers: int, orders: int, concurrency: int, latency_ms: float, ledger: Path | None
) -> Run:
    with ExitStack() as stack:
        queue, filled = stack.enter_context(_queue(orders))
        endpoint = stack.enter_context(
            child("benchmarks.server", "--latency-ms", str(latency_ms), "--tell-cpu")
        )
        settings = {
            "url": f"http://127.0.0.1:{endpoint.said()['port']}",
            "queue": filled["url"],
            "ledger": None if ledger is None else str(ledger),
            "concurrency": concurrency,
        }
        working = [
            stack.enter_context(child("benchmarks._worker_child", json.dumps(settings)))
            for _ in range(workers)
        ]
        for process in working:
            process.said()
        before = _cpu_s(filled["pid"])
        for process in working:
            process.dismiss()
        reports = [process.said() for process in working]
        after = _cpu_s(filled["pid"])
        for process in working:
            process.ended()
        endpoint.dismiss()
        counts = endpoint.said()
        endpoint.ended()
        queue.dismiss()
        left = queue.said()
        queue.ended()

    sent = sum(report["sent"] for report in reports)
    if not sent == counts["accepted"] == orders or counts["malformed"]:
        raise BenchmarkError(f"{orders} orders, {sent} sent, but the server took {counts}")
    if left["depth"] or left["dead"]:
        raise BenchmarkError(f"the queue was not worked off: {left}")
    seconds = max(r["ended_at"] for r in reports) - min(r["began_at"] for r in reports)
    return Run(
        workers=workers,
        per_s=orders / seconds,
        worker_us=sum(report["cpu_s"] for report in reports) / orders * 1e6,
        nats_us=None if before is None or after is None else (after - before) / orders * 1e6,
        endpoint_us=counts["cpu_s"] / orders * 1e6,
        resident_mb=max(report["resident_bytes"] for report in reports) / _MB,
        published_per_s=filled["published_per_s"],
        queue_bytes=filled["bytes_per_order"],
        ledger_bytes=left["ledger_bytes_per_order"],
        shares=[report["sent"] / orders * workers for report in reports],
    )


def _alone(orders: int, concurrency: int, durability: str, directory: Path) -> dict[str, float]:
    """The client without a queue: orders per second, and CPU of an order in microseconds."""
    with service("benchmarks.server") as server:
        settings = {
            "url": server.url,
            "orders": orders,
            "warm_up": 0,
            "concurrency": concurrency,
            "ledger": None if durability == "none" else str(directory / "alone"),
            "durability": "process",
            "outcome": "sent",
            "marks": [],
        }
        with child("benchmarks._ledger_child", json.dumps(settings)) as process:
            last = process.said()
            process.ended()
    return {"per_s": orders / last["wall_s"], "cpu_us": last["cpu_s"] / orders * 1e6}


def _table(title: str, rows: dict[str, list[Run]]) -> Table:
    table = Table(title=title)
    table.add_column("run")
    for heading in ("orders/s", "min - max", "workers µs", "NATS µs", "endpoint µs", "shares"):
        table.add_column(heading, justify="right")
    for name, runs in rows.items():
        per_s = [run.per_s for run in runs]
        nats = [run.nats_us for run in runs if run.nats_us is not None]
        table.add_row(
            name,
            f"{median(per_s):,.0f}",
            f"{min(per_s):,.0f} - {max(per_s):,.0f}",
            f"{median(run.worker_us for run in runs):,.0f}",
            f"{median(nats):,.0f}" if nats else "?",
            f"{median(run.endpoint_us for run in runs):,.0f}",
            " ".join(f"{share:.2f}" for share in runs[-1].shares),
        )
    return table


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


@click.command(help=__doc__)
@click.option(
    "--orders",
    type=click.IntRange(1),
    default=3_000,
    show_default=True,
    help="For each worker, with latency.",
)
@click.option(
    "--fast-orders",
    type=click.IntRange(1),
    default=10_000,
    show_default=True,
    help="In all, to the minimal server.",
)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--latency-ms", type=click.FloatRange(0), default=100.0, show_default=True)
@click.option("--concurrency", type=click.IntRange(1), default=32, show_default=True)
@click.option(
    "--ids",
    type=click.IntRange(1),
    default=200_000,
    show_default=True,
    help="Within the window for duplicates.",
)
@click.option("--only", help="Some of: latency, minimal, window.")
@json_option
def main(
    *,
    orders: int,
    fast_orders: int,
    rounds: int,
    latency_ms: float,
    concurrency: int,
    ids: int,
    only: str | None,
    json_path: Path | None,
) -> None:
    """Measure, print, save, judge."""
    parts = chosen(only, _PARTS)
    tables: list[Table] = []
    targets: list[Target] = []
    notes: list[str] = []
    figures: dict[str, Any] = {"benchmark": "workers"}
    with TemporaryDirectory() as name:
        directory = Path(name)
        if "latency" in parts:
            runs: dict[str, list[Run]] = {_workers(count): [] for count in (1, 2)}
            for number in range(rounds):
                for count in (1, 2) if number % 2 == 0 else (2, 1):
                    tell(f"latency, round {number + 1} of {rounds}: {_workers(count)}")
                    run = _once(
                        workers=count,
                        orders=orders * count,
                        concurrency=concurrency,
                        latency_ms=latency_ms,
                        ledger=None,
                    )
                    runs[_workers(count)].append(run)
            one, two = ([run.per_s for run in row] for row in runs.values())
            title = (
                f"An endpoint of {latency_ms:g} ms and no limit, {concurrency} slots a worker, "
                f"{orders:,} orders a worker, medians of {rounds} rounds"
            )
            tables.append(_table(title, runs))
            targets.append(
                Target(
                    "2 workers / 1, with latency", paired(two, one), 1.9, at_most=False, unit="x"
                )
            )
            figures["latency"] = {key: [attrs.asdict(r) for r in row] for key, row in runs.items()}
        if "minimal" in parts:
            runs, alone = _minimal(directory, fast_orders, rounds, concurrency)
            title = (
                f"The minimal server, {concurrency} slots a worker, {fast_orders:,} orders, "
                f"medians of {rounds} rounds"
            )
            tables.append(_table(title, runs))
            notes += [
                f"The client alone, {what}: {median(r['per_s'] for r in alone[kind]):,.0f} a "
                f"second, {median(r['cpu_us'] for r in alone[kind]):,.0f} µs an order"
                for kind, what in _ALONE.items()
            ]
            every = [run for row in runs.values() for run in row]
            in_nats = [run for run in every if run.ledger_bytes]
            notes.append(
                f"The queue was filled with {median(r.published_per_s for r in every):,.0f} a "
                f"second and held {median(r.queue_bytes for r in every):,.0f} bytes an order; the "
                f"ledger in NATS held {median(r.ledger_bytes for r in in_nats):,.0f}. A worker had "
                f"{max(r.resident_mb for r in every):,.0f} MB at most."
            )
            figures["minimal"] = {key: [attrs.asdict(r) for r in row] for key, row in runs.items()}
            figures["alone"] = alone
        if "window" in parts:
            tell(f"{ids:,} ids within the window")
            figures["window"] = measure("benchmarks._window_child", {"ids": ids})
            notes.append(
                f"An id within the window for duplicates: {figures['window']['bytes_per_id']:,.0f} "
                "bytes of the NATS server's memory"
            )
    done_telling()
    figures["settings"] = {
        "orders": orders,
        "fast_orders": fast_orders,
        "rounds": rounds,
        "latency_ms": latency_ms,
        "concurrency": concurrency,
        "ids": ids,
    }
    finish(tables, notes, targets, figures=figures, json_path=json_path)


def _minimal(
    directory: Path, orders: int, rounds: int, concurrency: int
) -> tuple[dict[str, list[Run]], dict[str, list[dict[str, float]]]]:
    kinds = [(count, ledger) for ledger in _LEDGERS for count in (1, 2)]
    runs: dict[str, list[Run]] = {
        f"{_workers(count)}, {_LEDGERS[ledger]}": [] for count, ledger in kinds
    }
    alone: dict[str, list[dict[str, float]]] = {kind: [] for kind in _ALONE}
    for number in range(rounds):
        first = number % len(kinds)
        for count, ledger in kinds[first:] + kinds[:first]:
            key = f"{_workers(count)}, {_LEDGERS[ledger]}"
            tell(f"minimal, round {number + 1} of {rounds}: {key}")
            runs[key].append(
                _once(
                    workers=count,
                    orders=orders,
                    concurrency=concurrency,
                    latency_ms=0,
                    ledger=directory / f"ledger-{number}-{count}" if ledger == "file" else None,
                )
            )
        for kind, what in _ALONE.items():
            tell(f"minimal, round {number + 1} of {rounds}: {what}")
            place = directory / f"alone-{number}"
            place.mkdir(exist_ok=True)
            alone[kind].append(_alone(orders, concurrency, kind, place))
    return runs, alone


if __name__ == "__main__":
    start(main)
