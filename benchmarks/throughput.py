"""CPU per order and orders per second: the client beside bare aiohttp and the usual ways to retry.

Every contestant runs in a process of its own against a fresh server in another, warms up, and
checks every response. Each run stands next to one of bare aiohttp, which of the two is first
changes with the round, and a ratio is taken within the pair; medians with quartiles are shown. CPU
is that of the client's whole process, all threads. The server's count of orders is compared with
what was sent.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from statistics import median

import click

from benchmarks import harness

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
_OTHERS = [name for name in _NAMES if name != _BASE]


def _runner(orders: int, concurrency: int, *, uvloop: bool) -> Callable[[str], harness.Figures]:
    """Measure a contestant once: microseconds of CPU per order, orders per second."""

    def once(name: str) -> harness.Figures:
        share = max(1, round(orders * _SLOW.get(name, 1)))
        # Every worker makes its connection, and the code warms up, before anything is measured.
        warm_up = max(2 * concurrency, min(2_000, share // 5))
        with harness.service(pinned=True) as server:
            settings = {
                "mode": "send",
                "sender": name,
                "url": server.url,
                "concurrency": concurrency,
                "orders": share,
                "warm_up": warm_up,
                "uvloop": uvloop,
            }
            figures = harness.measure(settings, pinned=True)
        server.check(share + warm_up)
        return {
            "orders": share,
            "cpu_us": figures["cpu_s"] / share * 1e6,
            "per_s": share / figures["wall_s"],
        }

    return once


def _goals(comparison: harness.Comparison) -> list[harness.Goal]:
    """The promise is about the whole path: mappings in, results out."""
    if "stream_orders" not in comparison.runs:
        return []
    name = "CPU of stream_orders / "
    ours = comparison.ratios("stream_orders", "cpu_us")
    goals = [harness.Goal(f"{name}bare aiohttp", median(ours), 1.15, at_most=True, unit="x")]
    if "aiohttp_tenacity" in comparison.runs:
        theirs = comparison.ratios("aiohttp_tenacity", "cpu_us")
        ratio = median(a / b for a, b in zip(ours, theirs, strict=True))
        goals.append(
            harness.Goal(f"{name}aiohttp under tenacity", ratio, 0.75, at_most=True, unit="x")
        )
    return goals


@harness.benchmark(__doc__)
@harness.count("--orders", 20_000)
@harness.count("--rounds", 5)
@harness.count("--concurrency", 64)
@click.option("--only", help=f"Some of: {', '.join(_OTHERS)}. Bare aiohttp always runs.")
@click.option("--uvloop", is_flag=True, help="Run every contestant of asyncio in uvloop's loop.")
def main(
    orders: int, rounds: int, concurrency: int, only: str | None, *, uvloop: bool
) -> harness.Report:
    """Measure."""
    names = harness.select(only, _OTHERS)
    absent = [name for name in names if find_spec(_NAMES[name][1]) is None]
    if absent and only is not None:
        raise harness.BenchmarkError(
            f"not installed: {', '.join(absent)}. Install everlytic-async[benchmarks]"
        )
    others = [name for name in names if name not in absent]
    once = _runner(orders, concurrency, uvloop=uvloop)
    comparison = harness.Comparison.measure(_BASE, others, rounds, once)
    return harness.Report(
        title=f"{concurrency} at once, {'uvloop' if uvloop else 'asyncio'}, {rounds} rounds",
        headings=("contestant", "CPU µs/order", "x bare aiohttp", "orders/s"),
        rows=[
            (
                _NAMES[name][0],
                harness.spread(comparison.values(name, "cpu_us"), ".1f"),
                harness.spread(comparison.ratios(name, "cpu_us"), ".2f"),
                harness.spread(comparison.values(name, "per_s")),
            )
            for name in comparison.runs
        ],
        goals=_goals(comparison),
        notes=[f"Left out because it is not installed: {_NAMES[name][0]}" for name in absent],
        figures={"benchmark": "throughput", "contestants": comparison.runs},
    )


if __name__ == "__main__":
    harness.start(main)
