"""The memory of the process over the length of a stream of orders.

One stream is fed by a generator of mappings, and its results are looked at and dropped. What is
shown is the resident memory of the whole process at certain orders. Memory must not grow with the
input: between the 10,000th order and the last it may grow by less than 20 MB.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.table import Table

from benchmarks._common import (
    BenchmarkError,
    Target,
    child,
    done_telling,
    finish,
    json_option,
    service,
    start,
    tell,
)

_MB = 1_000_000
_MARKS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
_FROM = 10_000
_BOUND_MB = 20


def _marks(orders: int) -> list[int]:
    """After which orders the memory is read: the last one is always among them."""
    return [*(mark for mark in _MARKS if mark < orders), orders]


@click.command(help=__doc__)
@click.option("--orders", type=click.IntRange(1), default=1_000_000, show_default=True)
@click.option("--concurrency", type=click.IntRange(1), default=64, show_default=True)
@click.option("--ordered", is_flag=True, help="Ask for the results in the order of the input.")
@json_option
def main(orders: int, concurrency: int, json_path: Path | None, *, ordered: bool) -> None:
    """Measure, print, save, judge."""
    marks = _marks(orders)
    resident: dict[int, int] = {}
    with service("benchmarks.server") as server:
        settings = {
            "url": server.url,
            "orders": orders,
            "concurrency": concurrency,
            "ordered": ordered,
            "marks": marks,
        }
        with child("benchmarks._memory_child", json.dumps(settings)) as process:
            for mark in marks:
                tell(f"on the way to order {mark:,} of {orders:,}")
                resident[mark] = process.said()["resident_bytes"]
            last = process.said()
            process.ended()
    done_telling()
    if not last["sent"] == server.counts["accepted"] == orders:
        raise BenchmarkError(
            f"{orders} orders, {last['sent']} results, but the server took {server.counts}"
        )

    table = Table(title=f"Resident memory of one stream, {concurrency} at once")
    for heading in ("orders", "MB", "growth, MB"):
        table.add_column(heading, justify="right")
    before = None
    for mark in marks:
        growth = "" if before is None else f"{(resident[mark] - before) / _MB:+.1f}"
        table.add_row(f"{mark:,}", f"{resident[mark] / _MB:.1f}", growth)
        before = resident[mark]
    targets = []
    notes = [f"Peak of the process: {last['peak_bytes'] / _MB:.1f} MB"]
    if orders > _FROM:
        grown_mb = (resident[orders] - resident[_FROM]) / _MB
        name = f"growth between the {_FROM:,}th and the {orders:,}th order"
        targets.append(Target(name, grown_mb, _BOUND_MB, at_most=True, unit=" MB"))
    else:
        notes.append(f"Too short to judge: the target begins at the {_FROM:,}th order")
    finish(
        [table],
        notes,
        targets,
        figures={
            "benchmark": "memory",
            "settings": {"orders": orders, "concurrency": concurrency, "ordered": ordered},
            "resident_bytes": resident,
            "peak_bytes": last["peak_bytes"],
        },
        json_path=json_path,
    )


if __name__ == "__main__":
    start(main)
