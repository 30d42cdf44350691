"""Memory over the length of a stream of orders, with a ledger or without; and a resume.

One stream is fed by a generator of mappings, and its results are read and dropped. The table shows
the resident memory of the whole process after certain orders. Memory must not grow with the input:
between the 10,000th order and the last it may grow by less than 20 MB. With --ledger a new ledger
records every order, and a second run of the same orders skips them all.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from benchmarks import harness

#: The first order from which on memory must not grow.
_FROM = 10_000
_MAX_GROWTH_MB = 20
_MIN_SKIPPED_PER_S = 50_000
_MARKS = (1_000, _FROM, 100_000, 1_000_000, 10_000_000)


def _stream(settings: dict[str, Any], marks: list[int]) -> harness.Figures:
    """Stream once: seconds, and memory after each of the marks."""
    settings = {"mode": "stream", "marks": marks, "outcome": "sent", **settings}
    orders, resident = settings["orders"], {}
    # Malloc works as it does for a user.
    with harness.Child(harness.CLIENT, settings, environ={}) as process:
        for mark in marks:
            harness.progress(f"on the way to order {mark:,} of {orders:,}")
            resident[mark] = process.read()["resident_bytes"]
        figures = process.finish()
    if figures["seen"] != orders:
        raise harness.BenchmarkError(f"{orders} orders, but {figures['seen']} results")
    return {**figures, "per_s": orders / figures["wall_s"], "resident_bytes": resident}


@harness.benchmark(__doc__)
@harness.count("--orders", 1_000_000)
@harness.count("--concurrency", 64)
@click.option("--ledger", is_flag=True, help="Record every order, and run the same orders again.")
def main(orders: int, concurrency: int, *, ledger: bool) -> harness.Report:
    """Measure."""
    marks = [*(mark for mark in _MARKS if mark < orders), orders]
    figures: harness.Figures = {"benchmark": "memory"}
    goals, notes = [], []
    with TemporaryDirectory() as directory, harness.service() as server:
        file = Path(directory, "orders.ledger")
        settings = {"url": server.url, "orders": orders, "concurrency": concurrency}
        settings |= {"ledger": str(file)} if ledger else {}
        figures |= _stream(settings, marks)
        if ledger:
            resume = _stream({**settings, "outcome": "skipped"}, [])
            figures |= {"resume": resume, "ledger_bytes": file.stat().st_size}
            notes.append(f"The ledger has {figures['ledger_bytes'] / orders:.0f} bytes an order")
            name = "orders a second that a resume skips"
            goals.append(harness.Goal(name, resume["per_s"], _MIN_SKIPPED_PER_S, at_most=False))
    server.check(orders)
    resident = figures["resident_bytes"]
    if orders > _FROM:
        name = f"growth of memory between the {_FROM:,}th and the {orders:,}th order"
        grown_mb = (resident[orders] - resident[_FROM]) / harness.MB
        goals.append(harness.Goal(name, grown_mb, _MAX_GROWTH_MB, " MB"))
    return harness.Report(
        title=f"Resident memory of one stream, {concurrency} at once",
        headings=("orders", "MB"),
        rows=[(f"{mark:,}", f"{size / harness.MB:.1f}") for mark, size in resident.items()],
        goals=goals,
        notes=notes,
        figures=figures,
    )


if __name__ == "__main__":
    main()
