"""One stream in a process of its own: what `memory`, `ledger` and `workers` have in common."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks._harness import CLIENT, MB, BenchmarkError, Child, Figures, Goal, progress

#: The first order from which on memory must not grow.
FROM = 10_000
_MAX_GROWTH_MB = 20


def stream(
    url: str,
    orders: int,
    concurrency: int,
    *,
    warm_up: int = 0,
    ledger: Path | None = None,
    durability: str = "process",
    outcome: str = "sent",
    marks: Sequence[int] = (),
    ordered: bool = False,
) -> Figures:
    """Stream orders once: ``per_s``, ``cpu_us`` an order, and memory after each of the marks."""
    settings = {
        "mode": "stream",
        "url": url,
        "orders": orders,
        "concurrency": concurrency,
        "warm_up": warm_up,
        "ledger": None if ledger is None else str(ledger),
        "durability": durability,
        "outcome": outcome,
        "marks": marks,
        "ordered": ordered,
    }
    resident = {}
    with Child(CLIENT, settings, default_malloc=bool(marks)) as process:
        for mark in marks:
            progress(f"on the way to order {mark:,} of {orders:,}")
            resident[mark] = process.read()["resident_bytes"]
        figures = process.finish()
    if figures["seen"] != orders:
        raise BenchmarkError(f"{orders} orders, but {figures['seen']} results")
    return {
        "per_s": orders / figures["wall_s"],
        "cpu_us": figures["cpu_s"] / orders * 1e6,
        "peak_bytes": figures["peak_bytes"],
        "resident_bytes": resident,
    }


def growth(resident: dict[int, int]) -> list[Goal]:
    """The goal for memory, if the stream was long enough for it."""
    last = max(resident)
    if last <= FROM:
        return []
    name = f"growth of memory between the {FROM:,}th and the {last:,}th order"
    grown_mb = (resident[last] - resident[FROM]) / MB
    return [Goal(name, grown_mb, _MAX_GROWTH_MB, at_most=True, unit=" MB")]
