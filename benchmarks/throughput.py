"""CPU per order and orders per second: the client beside bare aiohttp and the usual ways to retry.

Every contestant runs in a process of its own against a fresh server in another, warms up, and
checks every answer. The rounds are interleaved and each begins with another contestant; a ratio is
taken within a round, and the medians over the rounds are shown. CPU is that of the client's whole
process, all threads. The server's count of orders is compared with what was sent.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from statistics import median

import attrs
import click
from rich.table import Table

from benchmarks._common import (
    BenchmarkError,
    Target,
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

_BASE = "bare_aiohttp"
#: The share of the orders that the slow ones send: their figures need no more.
_SLOW = {"httpx": 0.1, "requests_threads": 0.2}
#: What each contestant is called in the table, and the module that it needs.
_NAMES = {
    "stream_orders": ("stream_orders, mappings", "everlytic_async"),
    "stream_prebuilt": ("stream_orders, Order objects", "everlytic_async"),
    "send_order": ("send_order in workers", "everlytic_async"),
    _BASE: ("bare aiohttp", "aiohttp"),
    "aiohttp_tenacity": ("aiohttp under tenacity", "tenacity"),
    "aiohttp_retry": ("aiohttp-retry", "aiohttp_retry"),
    "httpx": ("httpx", "httpx"),
    "requests_threads": ("requests in threads", "requests"),
}


@attrs.define
class Figures:
    """What was measured of one contestant, a value a round."""

    cpu_us: list[float] = attrs.Factory(list)
    per_s: list[float] = attrs.Factory(list)
    orders: int = 0


def _round(name: str, *, orders: int, concurrency: int, uvloop: bool) -> tuple[float, float]:
    """Measure one contestant once: microseconds of CPU per order, orders per second."""
    # Every worker makes its connection, and the code warms up, before anything is measured.
    warm_up = max(2 * concurrency, min(2_000, orders // 5))
    with service("benchmarks.server") as server:
        settings = {
            "contestant": name,
            "url": server.url,
            "orders": orders,
            "warm_up": warm_up,
            "concurrency": concurrency,
            "uvloop": uvloop,
        }
        figures = measure("benchmarks._throughput_child", settings)
    if server.counts["accepted"] != orders + warm_up or server.counts["malformed"]:
        raise BenchmarkError(
            f"{name}: the server took {server.counts}, but {orders + warm_up} orders were sent"
        )
    return figures["cpu_s"] / orders * 1e6, orders / figures["wall_s"]


def _table(figures: dict[str, Figures], *, concurrency: int, rounds: int, loop: str) -> Table:
    table = Table(title=f"{concurrency} at once, {loop}, medians of {rounds} rounds")
    table.add_column("contestant")
    for heading in ("CPU µs/order", "min - max", "x bare aiohttp", "x tenacity", "orders/s"):
        table.add_column(heading, justify="right")
    for name, row in figures.items():
        ratios = [
            f"{paired(row.cpu_us, figures[rival].cpu_us):.2f}" if rival in figures else "-"
            for rival in (_BASE, "aiohttp_tenacity")
        ]
        table.add_row(
            _NAMES[name][0],
            f"{median(row.cpu_us):.1f}",
            f"{min(row.cpu_us):.0f} - {max(row.cpu_us):.0f}",
            *ratios,
            f"{median(row.per_s):,.0f}",
        )
    return table


def _targets(figures: dict[str, Figures]) -> list[Target]:
    """The promise is about the whole path: mappings in, results out."""
    targets: list[Target] = []
    ours = figures.get("stream_orders")
    if ours is None:
        return targets
    for rival, bound in ((_BASE, 1.15), ("aiohttp_tenacity", 0.75)):
        if rival in figures:
            value = paired(ours.cpu_us, figures[rival].cpu_us)
            name = f"CPU of stream_orders / {_NAMES[rival][0]}"
            targets.append(Target(name, value, bound, at_most=True, unit="x"))
    return targets


@click.command(help=__doc__)
@click.option("--orders", type=click.IntRange(1), default=20_000, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--concurrency", type=click.IntRange(1), default=64, show_default=True)
@click.option("--only", help=f"Some of: {', '.join(_NAMES)}. Separated by commas.")
@click.option("--uvloop", is_flag=True, help="Run every contestant of asyncio in uvloop's loop.")
@json_option
def main(
    orders: int,
    rounds: int,
    concurrency: int,
    only: str | None,
    uvloop: bool,
    json_path: Path | None,
) -> None:
    """Measure, print, save, judge."""
    names = chosen(only, list(_NAMES))
    absent = [name for name in names if find_spec(_NAMES[name][1]) is None]
    if absent and only is not None:
        raise BenchmarkError(
            f"not installed: {', '.join(absent)}. Install everlytic-async[benchmarks]"
        )
    names = [name for name in names if name not in absent]
    figures = {name: Figures() for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            tell(f"round {number + 1} of {rounds}: {_NAMES[name][0]}")
            row = figures[name]
            row.orders = max(1, round(orders * _SLOW.get(name, 1)))
            cpu_us, per_s = _round(name, orders=row.orders, concurrency=concurrency, uvloop=uvloop)
            row.cpu_us.append(cpu_us)
            row.per_s.append(per_s)
    done_telling()
    loop = "uvloop" if uvloop else "asyncio"
    notes = [f"Left out, for it is not installed: {_NAMES[name][0]}" for name in absent]
    finish(
        [_table(figures, concurrency=concurrency, rounds=rounds, loop=loop)],
        notes,
        _targets(figures),
        figures={
            "benchmark": "throughput",
            "settings": {"rounds": rounds, "concurrency": concurrency, "loop": loop},
            "contestants": {name: attrs.asdict(row) for name, row in figures.items()},
        },
        json_path=json_path,
    )


if __name__ == "__main__":
    start(main)
