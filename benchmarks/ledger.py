"""What a ledger costs: throughput with and without one, and a long backfill and its resume.

First the same orders are sent to the minimal server without a ledger, with one that survives the
death of the process, and with one that survives a loss of power; the rounds are interleaved, each
process writes a new file, and a ratio is taken within a round. Then one long run fills a ledger,
its memory watched, and a second run of the same orders skips them all. The server's count is
compared with what was sent.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import attrs
import click
from rich.table import Table

from benchmarks._common import (
    BenchmarkError,
    Target,
    child,
    done_telling,
    finish,
    json_option,
    paired,
    service,
    start,
    tell,
)

_MB = 1_000_000
_FROM = 10_000
_KINDS = {
    "none": "without a ledger",
    "process": "a ledger that survives SIGKILL",
    "power": "a ledger that survives a loss of power",
}


@attrs.define
class Run:
    """What came of one run.

    Attributes:
        per_s: Orders per second.
        cpu_us: CPU of the client's process for each order, in microseconds.
        resident: Its resident memory in bytes, after so many orders.
    """

    per_s: float
    cpu_us: float
    resident: dict[int, int]


def _run(
    url: str,
    *,
    orders: int,
    concurrency: int,
    warm_up: int = 0,
    ledger: Path | None = None,
    durability: str = "process",
    outcome: str = "sent",
    marks: tuple[int, ...] = (),
) -> Run:
    settings: dict[str, Any] = {
        "url": url,
        "orders": orders,
        "warm_up": warm_up,
        "concurrency": concurrency,
        "ledger": None if ledger is None else str(ledger),
        "durability": durability,
        "outcome": outcome,
        "marks": marks,
    }
    with child("benchmarks._ledger_child", json.dumps(settings)) as process:
        resident = {mark: process.said()["resident_bytes"] for mark in marks}
        last = process.said()
        process.ended()
    if last["seen"] != orders:
        raise BenchmarkError(f"{orders} orders, but {last['seen']} results")
    return Run(orders / last["wall_s"], last["cpu_s"] / orders * 1e6, resident)


def _check(counts: dict[str, Any], orders: int) -> None:
    if counts["accepted"] != orders or counts["malformed"]:
        raise BenchmarkError(f"{orders} orders were sent, but the server took {counts}")


def _short_runs(
    directory: Path, *, orders: int, rounds: int, concurrency: int
) -> dict[str, list[Run]]:
    # Every worker makes its connection, and the code warms up, before anything is measured.
    warm_up = max(2 * concurrency, min(2_000, orders // 5))
    runs: dict[str, list[Run]] = {kind: [] for kind in _KINDS}
    kinds = list(_KINDS)
    for number in range(rounds):
        first = number % len(kinds)
        for kind in kinds[first:] + kinds[:first]:
            tell(f"round {number + 1} of {rounds}: {_KINDS[kind]}")
            with service("benchmarks.server") as server:
                run = _run(
                    server.url,
                    orders=orders,
                    warm_up=warm_up,
                    concurrency=concurrency,
                    ledger=None if kind == "none" else directory / f"{kind}-{number}",
                    durability="process" if kind == "none" else kind,
                )
            _check(server.counts, orders + warm_up)
            runs[kind].append(run)
    return runs


def _long_runs(file: Path, *, orders: int, concurrency: int) -> tuple[Run, Run]:
    marks = tuple(
        sorted({mark for mark in (_FROM, orders // 2, orders) if _FROM <= mark <= orders})
    )
    with service("benchmarks.server") as server:
        tell(f"filling a ledger with {orders:,} orders")
        first = _run(server.url, orders=orders, concurrency=concurrency, ledger=file, marks=marks)
        tell(f"skipping {orders:,} orders")
        second = _run(
            server.url, orders=orders, concurrency=concurrency, ledger=file, outcome="skipped"
        )
    _check(server.counts, orders)
    return first, second


@click.command(help=__doc__)
@click.option("--orders", type=click.IntRange(1), default=20_000, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--backfill", type=click.IntRange(1), default=1_000_000, show_default=True)
@click.option("--concurrency", type=click.IntRange(1), default=64, show_default=True)
@json_option
def main(orders: int, rounds: int, backfill: int, concurrency: int, json_path: Path | None) -> None:
    """Measure, print, save, judge."""
    with TemporaryDirectory() as name:
        directory = Path(name)
        runs = _short_runs(directory, orders=orders, rounds=rounds, concurrency=concurrency)
        file = directory / "backfill"
        first, second = _long_runs(file, orders=backfill, concurrency=concurrency)
        size_mb = file.stat().st_size / _MB
    done_telling()

    table = Table(title=f"{orders:,} orders, {concurrency} at once, medians of {rounds} rounds")
    table.add_column("run")
    for heading in ("orders/s", "min - max", "x without", "CPU µs/order"):
        table.add_column(heading, justify="right")
    ratios = {}
    per_s = {kind: [run.per_s for run in row] for kind, row in runs.items()}
    for kind, title in _KINDS.items():
        ratios[kind] = paired(per_s[kind], per_s["none"])
        table.add_row(
            title,
            f"{median(per_s[kind]):,.0f}",
            f"{min(per_s[kind]):,.0f} - {max(per_s[kind]):,.0f}",
            f"{ratios[kind]:.2f}",
            f"{median(run.cpu_us for run in runs[kind]):.1f}",
        )
    targets = [
        Target(
            "throughput with / without a ledger", ratios["process"], 0.85, at_most=False, unit="x"
        ),
        Target("orders a second that a resume skips", second.per_s, 50_000, at_most=False, unit=""),
    ]
    what = f"A backfill of {backfill:,} orders: {first.per_s:,.0f} a second"
    notes = [f"{what}, a ledger of {size_mb:.1f} MB; its resume skips {second.per_s:,.0f} a second"]
    if backfill > _FROM:
        grown_mb = (first.resident[backfill] - first.resident[_FROM]) / _MB
        what = f"growth of memory between the {_FROM:,}th and the {backfill:,}th order"
        targets.append(Target(what, grown_mb, 20, at_most=True, unit=" MB"))
    finish(
        [table],
        notes,
        targets,
        figures={
            "benchmark": "ledger",
            "settings": {
                "orders": orders,
                "rounds": rounds,
                "backfill": backfill,
                "concurrency": concurrency,
            },
            "runs": {kind: [attrs.asdict(run) for run in row] for kind, row in runs.items()},
            "backfill": attrs.asdict(first),
            "resume": attrs.asdict(second),
            "ledger_bytes": size_mb * _MB,
        },
        json_path=json_path,
    )


if __name__ == "__main__":
    start(main)
