"""The memory of the process over the length of a stream of orders.

One stream is fed by a generator of mappings, and its results are read and dropped. The table shows
the resident memory of the whole process after certain orders. Memory must not grow with the input:
between the 10,000th order and the last it may grow by less than 20 MB.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from benchmarks import harness

#: The first order from which on memory must not grow.
FROM = 10_000
_MAX_GROWTH_MB = 20
_MARKS = (1_000, FROM, 100_000, 1_000_000, 10_000_000)


def stream(
    url: str, orders: int, concurrency: int, *, marks: Sequence[int] = (), **more: Any
) -> harness.Figures:
    """Stream orders once: ``per_s``, ``cpu_us`` an order, and memory after each of the marks.

    More settings are those of `benchmarks._child.stream`.
    """
    settings = {"mode": "stream", "url": url, "orders": orders, "concurrency": concurrency, **more}
    settings["marks"] = marks
    resident = {}
    with harness.Child(harness.CLIENT, settings, default_malloc=bool(marks)) as process:
        for mark in marks:
            harness.progress(f"on the way to order {mark:,} of {orders:,}")
            resident[mark] = process.read()["resident_bytes"]
        figures = process.finish()
    if figures["seen"] != orders:
        raise harness.BenchmarkError(f"{orders} orders, but {figures['seen']} results")
    return {
        "per_s": orders / figures["wall_s"],
        "cpu_us": figures["cpu_s"] / orders * 1e6,
        "peak_bytes": figures["peak_bytes"],
        "resident_bytes": resident,
    }


def growth(resident: dict[int, int]) -> list[harness.Goal]:
    """The goal for memory, if the stream was long enough for it."""
    last = max(resident)
    if last <= FROM:
        return []
    name = f"growth of memory between the {FROM:,}th and the {last:,}th order"
    grown_mb = (resident[last] - resident[FROM]) / harness.MB
    return [harness.Goal(name, grown_mb, _MAX_GROWTH_MB, at_most=True, unit=" MB")]


@harness.benchmark(__doc__)
@harness.count("--orders", 1_000_000)
@harness.count("--concurrency", 64)
@click.option("--ordered", is_flag=True, help="Ask for the results in the order of the input.")
def main(orders: int, concurrency: int, *, ordered: bool) -> harness.Report:
    """Measure."""
    marks = [*(mark for mark in _MARKS if mark < orders), orders]
    with harness.service() as server:
        run = stream(server.url, orders, concurrency, marks=marks, ordered=ordered)
    server.check(orders)
    resident = run["resident_bytes"]
    rows, before = [], None
    for mark, size in resident.items():
        change = "" if before is None else f"{(size - before) / harness.MB:+.1f}"
        rows.append((f"{mark:,}", f"{size / harness.MB:.1f}", change))
        before = size
    notes = [f"Peak of the process: {run['peak_bytes'] / harness.MB:.1f} MB"]
    goals: list[harness.Goal] = growth(resident)
    if not goals:
        notes.append(f"Too short for the goal, which starts at the {FROM:,}th order")
    return harness.Report(
        title=f"Resident memory of one stream, {concurrency} at once",
        headings=("orders", "MB", "growth, MB"),
        rows=rows,
        goals=goals,
        notes=notes,
        figures={"benchmark": "memory", **run},
    )


if __name__ == "__main__":
    harness.start(main)
