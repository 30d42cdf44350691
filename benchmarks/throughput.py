"""CPU per order and orders per second: the client beside bare aiohttp and the usual ways to retry.

Every row of the table is a process of its own against a fresh server in another; it warms up, and
checks every response. It stands next to a run of bare aiohttp (`session.post(json=)`, `await
response.json()`) on asyncio with the same orders, as many at once, over TLS or not. Which of the
two is first changes with the round, and a ratio is taken within the pair; medians with quartiles
are shown. CPU is that of the client's whole process, all threads. The server's count of orders is
compared with what was sent.

With --instructions, valgrind counts the instructions of an order: those of a run with more orders,
less those of one with fewer. They are the same on a busy machine, and exclude the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import count as numbers
from pathlib import Path
from shutil import which
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import attrs
import click

from benchmarks import harness

_BASE = "bare aiohttp"
# How many orders a row sends with --instructions: valgrind takes 50 times as long.
_FEW, _MANY = 100, 400


@attrs.frozen
class Row:
    """One row of the table."""

    sender: str  # of `benchmarks._senders`
    at_once: int = 64
    products: int = 1
    tls: bool = False
    options: dict[str, Any] = attrs.Factory(dict)  # of the sender
    goal: float | None = None  # the most CPU that is promised, as a ratio to bare aiohttp
    share: float = 1.0  # of the orders: the slow ones need no more
    needs: str = "everlytic_async"  # the module that has to be installed

    @property
    def group(self) -> tuple[int, int, bool]:
        """What has to be equal to compare two."""
        return self.at_once, self.products, self.tls

    @property
    def base(self) -> Row:
        """Bare aiohttp with the same orders."""
        return Row("bare_aiohttp", *self.group, share=self.share)

    @property
    def base_name(self) -> str:
        """What the table calls it."""
        at_once = "" if self.at_once == 64 else f", {self.at_once:,} at once"
        products = "" if self.products == 1 else f", {self.products} products"
        return f"{_BASE}{', TLS' if self.tls else ''}{at_once}{products}"


_UVLOOP, _LEDGER = {"uvloop": True}, {"ledger": True}
_ROWS = {
    "orders": Row("stream_prebuilt", goal=0.65),
    "mappings": Row("stream_orders", goal=0.80),
    "orders, uvloop": Row("stream_prebuilt", options=_UVLOOP, goal=0.55),
    "orders, a hook that hears everything": Row("stream_prebuilt", options={"hook": 1}, goal=0.9),
    "mappings, a new ledger": Row("stream_orders", options=_LEDGER, goal=1.05),
    "mappings, a new ledger that survives a loss of power": Row(
        "stream_orders", options={"ledger": True, "durability": "power"}
    ),
    "orders, in an instrumented aiohttp": Row(
        "stream_prebuilt", options={"by_session": True}, goal=1.15
    ),
    "mappings, `send_order`": Row("send_order"),
    "orders, TLS": Row("stream_prebuilt", tls=True, goal=0.70),
    "orders, 1 at once": Row("stream_prebuilt", at_once=1, share=0.2),
    "orders, 1,000 at once": Row("stream_prebuilt", at_once=1_000),
    "orders of 50 products": Row("stream_prebuilt", products=50, share=0.2),
    "mappings of 50 products": Row("stream_orders", products=50, share=0.2, goal=1.0),
    "bare aiohttp, uvloop": Row("bare_aiohttp", options=_UVLOOP),
    "pyreqwest": Row("pyreqwest", needs="pyreqwest"),
    "aiohttp-retry": Row("aiohttp_retry", needs="aiohttp_retry"),
    "tenacity, a semaphore and `gather`": Row("tenacity_gather", needs="tenacity"),
    "niquests": Row("niquests", share=0.2, needs="niquests"),
    "httpx": Row("httpx", share=0.1, needs="httpx"),
}


class _Runner:
    """Measures rows, each with a server of its own, and a new file for each ledger."""

    def __init__(self, directory: Path, orders: int, *, with_tls: bool) -> None:
        self._directory = directory
        self._orders = orders
        self._files = numbers()
        self._environ = {}
        if with_tls:
            import trustme  # noqa: PLC0415 - only here

            authority, self._certificate = trustme.CA(), directory / "server.pem"
            issued = authority.issue_cert("127.0.0.1")
            issued.private_key_and_cert_chain_pem.write_to_path(self._certificate)
            authority.cert_pem.write_to_path(directory / "authority.pem")
            self._environ = {"SSL_CERT_FILE": str(directory / "authority.pem")}

    def _settings(self, row: Row, url: str) -> dict[str, Any]:
        settings = {"mode": "send", "url": url, "sender": row.sender, **row.options}
        settings |= {"concurrency": row.at_once, "products": row.products}
        if row.options.get("ledger"):
            settings["ledger"] = str(self._directory / f"{next(self._files)}.ledger")
        return settings

    def _server(self, row: Row) -> Any:
        certificate = str(self._certificate) if row.tls else None
        return harness.service(pinned=True, certificate=certificate)

    def time(self, row: Row) -> harness.Figures:
        """Microseconds of CPU an order, and orders a second."""
        orders = max(1, round(self._orders * row.share))
        # Every connection is made, and the code warms up, before anything is measured.
        warm_up = max(2 * row.at_once, min(1_000, orders // 5))
        with self._server(row) as server:
            settings = {**self._settings(row, server.url), "orders": orders, "warm_up": warm_up}
            figures = harness.measure(settings, pinned=True, environ=self._environ)
        server.check(orders + warm_up)
        cpu_us = figures["cpu_s"] / orders * 1e6
        return {"orders": orders, "cpu_us": cpu_us, "per_s": orders / figures["wall_s"]}

    def instructions(self, row: Row) -> float:
        """Instructions of an order."""

        def count(orders: int) -> int:
            with self._server(row) as server:
                settings = {**self._settings(row, server.url), "orders": orders}
                settings["warm_up"] = 2 * row.at_once
                return harness.instructions(settings, environ=self._environ)

        with ThreadPoolExecutor() as pool:  # of processes, which take half a minute to start
            few, many = pool.map(count, (_FEW, _MANY))
        return (many - few) / (_MANY - _FEW)


def _measure(names: Sequence[str], runner: _Runner, rounds: int) -> dict[str, harness.Comparison]:
    """One comparison for all rows that have the same base."""
    comparisons: dict[str, harness.Comparison] = {}
    for group in dict.fromkeys(_ROWS[name].group for name in names):
        some = [name for name in names if _ROWS[name].group == group]
        base, base_name = _ROWS[some[0]].base, _ROWS[some[0]].base_name

        def once(name: str, base: Row = base) -> harness.Figures:
            return runner.time(_ROWS.get(name, base))

        comparison = harness.Comparison.measure(base_name, some, rounds, once)
        comparisons |= dict.fromkeys(some, comparison)
    return comparisons


def _counted(names: Sequence[str], runner: _Runner) -> dict[str, tuple[float, float]]:
    """Instructions of an order, and their ratio to bare aiohttp's."""
    counted: dict[str, tuple[float, float]] = {}
    for name in names:
        row = _ROWS[name]
        harness.progress(f"counting the instructions: {name}")
        if row.base_name not in counted:
            counted[row.base_name] = (runner.instructions(row.base), 1.0)
        count = runner.instructions(row)
        counted[name] = (count, count / counted[row.base_name][0])
    return counted


@harness.benchmark(__doc__)
@harness.count("--orders", 5_000)
@harness.count("--rounds", 5)
@harness.only(_ROWS)
@click.option("--instructions", is_flag=True, help="Count them, too; it takes a minute for a row.")
def main(orders: int, rounds: int, only: Sequence[str], *, instructions: bool) -> harness.Report:
    """Measure."""
    absent = [
        name
        for name in only
        if find_spec(_ROWS[name].needs) is None
        or (_ROWS[name].options == _UVLOOP and find_spec("uvloop") is None)
    ]
    names = [name for name in _ROWS if name in only and name not in absent]
    if instructions and which("valgrind") is None:
        raise harness.BenchmarkError("valgrind is not installed: leave out --instructions")
    with TemporaryDirectory() as directory:
        with_tls = any(_ROWS[name].tls for name in names)
        runner = _Runner(Path(directory), orders, with_tls=with_tls)
        comparisons = _measure(names, runner, rounds)
        counted = _counted(names, runner) if instructions else {}

    def row(name: str, comparison: harness.Comparison) -> list[str]:
        goal = _ROWS[name].goal if name in _ROWS else None
        medians = (median(comparison.values(name, figure)) for figure in ("cpu_us", "per_s"))
        return [
            name,
            harness.spread(comparison.ratios(name, "cpu_us"), ".2f") if name in _ROWS else "1.00",
            "" if goal is None else f"{goal:.2f}",
            *(f"{value:,.0f}" for value in (*medians, *counted.get(name, ())[:1])),
            *(f"{ratio:.2f}" for ratio in counted.get(name, ())[1:]),
        ]

    ordered = {name: comparisons[name] for name in names}
    ordered |= {each.base: each for each in comparisons.values()}
    more = ("instructions", "x bare aiohttp's") if instructions else ()
    return harness.Report(
        title=f"CPU of an order, {rounds} rounds, x bare aiohttp",
        headings=(
            *(
                "64 at once, unless it says otherwise",
                "x bare aiohttp",
                "goal",
                "CPU µs",
                "orders/s",
            ),
            *more,
        ),
        rows=[row(*each) for each in ordered.items()],
        goals=[
            harness.Goal(
                f"CPU of {name} / bare aiohttp",
                median(comparisons[name].ratios(name, "cpu_us")),
                goal,
                at_most=True,
            )
            for name in names
            if (goal := _ROWS[name].goal) is not None
        ],
        notes=[f"Left out because it is not installed: {name}" for name in absent],
        figures={
            "benchmark": "throughput",
            "rows": {name: comparisons[name].runs[name] for name in names},
            "bases": {name: comparisons[name].beside[name] for name in names},
            "instructions": counted,
        },
    )


if __name__ == "__main__":
    main()
