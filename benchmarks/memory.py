"""The memory of the process over the length of a stream of orders.

One stream is fed by a generator of mappings, and its results are read and dropped. The table shows
the resident memory of the whole process after certain orders. Memory must not grow with the input:
between the 10,000th order and the last it may grow by less than 20 MB.
"""

from __future__ import annotations

import click

from benchmarks._harness import MB, Goal, Report, benchmark, count, service, start
from benchmarks._stream import FROM, growth, stream

_MARKS = (1_000, FROM, 100_000, 1_000_000, 10_000_000)


@benchmark(__doc__)
@count("--orders", 1_000_000)
@count("--concurrency", 64)
@click.option("--ordered", is_flag=True, help="Ask for the results in the order of the input.")
def main(orders: int, concurrency: int, *, ordered: bool) -> Report:
    """Measure."""
    marks = [*(mark for mark in _MARKS if mark < orders), orders]
    with service() as server:
        run = stream(server.url, orders, concurrency, marks=marks, ordered=ordered)
    server.check(orders)
    resident = run["resident_bytes"]
    rows, before = [], None
    for mark, size in resident.items():
        change = "" if before is None else f"{(size - before) / MB:+.1f}"
        rows.append((f"{mark:,}", f"{size / MB:.1f}", change))
        before = size
    notes = [f"Peak of the process: {run['peak_bytes'] / MB:.1f} MB"]
    goals: list[Goal] = growth(resident)
    if not goals:
        notes.append(f"Too short for the goal, which starts at the {FROM:,}th order")
    return Report(
        title=f"Resident memory of one stream, {concurrency} at once",
        headings=("orders", "MB", "growth, MB"),
        rows=rows,
        goals=goals,
        notes=notes,
        figures={"benchmark": "memory", **run},
    )


if __name__ == "__main__":
    start(main)
