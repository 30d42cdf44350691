"""What a ledger costs: throughput with and without one, and a long backfill and its resume.

First the same orders are sent to the minimal server with a ledger that survives the death of the
process, and with one that survives a loss of power, each next to a run without a ledger; each
process writes a new file, and a ratio is taken within the pair. Then one long run fills a ledger,
its memory watched, and a second run of the same orders skips them all. The server's count is
compared with what was sent.
"""

from __future__ import annotations

from itertools import count as numbers
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import harness
from benchmarks.memory import FROM, growth, stream

_NONE = "none"
_KINDS = {
    _NONE: "without a ledger",
    "process": "a ledger that survives SIGKILL",
    "power": "a ledger that survives a loss of power",
}


def _compare(directory: Path, orders: int, rounds: int, concurrency: int) -> harness.Comparison:
    # Every worker makes its connection, and the code warms up, before anything is measured.
    warm_up = max(2 * concurrency, min(2_000, orders // 5))
    files = numbers()

    def once(kind: str) -> harness.Figures:
        more: dict[str, Any] = {"warm_up": warm_up}
        if kind != _NONE:
            more |= {"ledger": f"{directory}/{next(files)}", "durability": kind}
        with harness.service() as server:
            run = stream(server.url, orders, concurrency, **more)
        server.check(orders + warm_up)
        return run

    others = [kind for kind in _KINDS if kind != _NONE]
    return harness.Comparison.measure(_NONE, others, rounds, once)


def _backfill(file: str, orders: int, concurrency: int) -> tuple[harness.Figures, harness.Figures]:
    marks = sorted({mark for mark in (FROM, orders // 2, orders) if FROM <= mark <= orders})
    with harness.service() as server:
        first = stream(server.url, orders, concurrency, ledger=file, marks=marks or [orders])
        harness.progress(f"skipping {orders:,} orders")
        second = stream(server.url, orders, concurrency, ledger=file, outcome="skipped")
    server.check(orders)
    return first, second


@harness.benchmark(__doc__)
@harness.count("--orders", 20_000)
@harness.count("--rounds", 5)
@harness.count("--backfill", 1_000_000)
@harness.count("--concurrency", 64)
def main(orders: int, rounds: int, backfill: int, concurrency: int) -> harness.Report:
    """Measure."""
    with TemporaryDirectory() as name:
        directory = Path(name)
        comparison = _compare(directory, orders, rounds, concurrency)
        file = directory / "backfill"
        first, second = _backfill(str(file), backfill, concurrency)
        size = file.stat().st_size
    ratio = median(comparison.ratios("process", "per_s"))
    return harness.Report(
        title=f"{orders:,} orders, {concurrency} at once, {rounds} rounds",
        headings=("run", "orders/s", "x without", "CPU µs/order"),
        rows=[
            (
                title,
                harness.spread(comparison.values(kind, "per_s")),
                harness.spread(comparison.ratios(kind, "per_s"), ".2f"),
                harness.spread(comparison.values(kind, "cpu_us"), ".1f"),
            )
            for kind, title in _KINDS.items()
        ],
        goals=[
            harness.Goal(
                "throughput with / without a ledger", ratio, 0.85, at_most=False, unit="x"
            ),
            harness.Goal(
                "orders a second that a resume skips", second["per_s"], 50_000, at_most=False
            ),
            *growth(first["resident_bytes"]),
        ],
        notes=[
            (
                f"A backfill of {backfill:,} orders: {first['per_s']:,.0f} a second, a ledger of "
                f"{size / harness.MB:.1f} MB; its resume skips {second['per_s']:,.0f} a second"
            )
        ],
        figures={
            "benchmark": "ledger",
            "runs": comparison.runs,
            "backfill": first,
            "resume": second,
            "ledger_bytes": size,
        },
    )


if __name__ == "__main__":
    harness.start(main)
