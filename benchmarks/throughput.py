"""CPU per order and orders per second: the client beside bare aiohttp and the usual ways to retry.

Every row of the table is a process of its own against a fresh server in another; it warms up, and
checks every response. It stands next to a run of bare aiohttp (`session.post(json=)`, `await
response.json()`) on asyncio with the same orders, as many at once, over TLS or not. Which of the
two is first changes with the round, and a ratio is taken within the pair; medians with quartiles
are shown. CPU is that of the client's whole process, all threads. The server's count of orders is
compared with what was sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import attrs
import trustme

from benchmarks import harness

_BASE = "bare aiohttp"
_HEADING = "64 at once, unless it says otherwise"


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

    @property
    def group(self) -> tuple[int, int, bool]:
        """What has to be equal to compare two."""
        return self.at_once, self.products, self.tls


_UVLOOP, _LEDGER = {"uvloop": True}, {"ledger": True}
_ROWS = {
    "orders": Row("stream_prebuilt", goal=0.65),
    "mappings": Row("stream_orders", goal=0.80),
    "orders, uvloop": Row("stream_prebuilt", options=_UVLOOP, goal=0.55),
    "orders, a hook for every event": Row("stream_prebuilt", options={"hook": 1}, goal=0.9),
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
    "pyreqwest": Row("pyreqwest"),
    "aiohttp-retry": Row("aiohttp_retry"),
    "tenacity, a semaphore and `gather`": Row("tenacity_gather"),
    "niquests": Row("niquests", share=0.2),
    "httpx": Row("httpx", share=0.1),
}


def _certify(directory: Path) -> None:
    """Make a certificate of the server, and of the authority that vouches for it."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(directory / "server.pem")
    authority.cert_pem.write_to_path(directory / "authority.pem")


def _time(row: Row, orders: int, directory: Path) -> harness.Figures:
    """Microseconds of CPU an order, and orders a second."""
    orders = max(1, round(orders * row.share))
    # Every connection is made, and the code warms up, before anything is measured.
    warm_up = max(2 * row.at_once, min(1_000, orders // 5))
    settings = {"mode": "send", "sender": row.sender, "orders": orders, "warm_up": warm_up}
    settings |= {"concurrency": row.at_once, "products": row.products, **row.options}
    if row.options.get("ledger"):
        settings["ledger"] = str(Path(mkdtemp(dir=directory), "orders.ledger"))
    certificate = str(directory / "server.pem") if row.tls else None
    environ = {**harness.MALLOC, "SSL_CERT_FILE": str(directory / "authority.pem")}
    with harness.service(pinned=True, certificate=certificate) as server:
        settings["url"] = server.url
        figures = harness.measure(settings, pinned=True, environ=environ)
    server.check(orders + warm_up)
    cpu_us = figures["cpu_s"] / orders * 1e6
    return {"orders": orders, "cpu_us": cpu_us, "per_s": orders / figures["wall_s"]}


def _measure(
    names: Sequence[str], orders: int, rounds: int, directory: Path
) -> dict[str, harness.Comparison]:
    """One comparison for all rows that have the same base."""
    comparisons: dict[str, harness.Comparison] = {}
    for group in dict.fromkeys(_ROWS[name].group for name in names):
        some = [name for name in names if _ROWS[name].group == group]
        base = Row("bare_aiohttp", *group, share=_ROWS[some[0]].share)
        words = ["TLS"] if base.tls else []
        words += [f"{base.at_once:,} at once"] if base.at_once != 64 else []
        words += [f"{base.products} products"] if base.products > 1 else []

        def once(name: str, base: Row = base) -> harness.Figures:
            return _time(_ROWS.get(name, base), orders, directory)

        comparison = harness.Comparison.measure(", ".join([_BASE, *words]), some, rounds, once)
        comparisons |= dict.fromkeys(some, comparison)
    return comparisons


@harness.benchmark(__doc__)
@harness.count("--orders", 5_000)
@harness.count("--rounds", 5)
@harness.only(_ROWS)
def main(orders: int, rounds: int, only: Sequence[str]) -> harness.Report:
    """Measure."""
    names = [name for name in _ROWS if name in only]
    with TemporaryDirectory() as directory:
        _certify(Path(directory))
        comparisons = _measure(names, orders, rounds, Path(directory))

    def row(name: str, comparison: harness.Comparison) -> list[str]:
        goal = _ROWS[name].goal if name in _ROWS else None
        medians = (median(comparison.values(name, figure)) for figure in ("cpu_us", "per_s"))
        return [
            name,
            harness.spread(comparison.ratios(name, "cpu_us"), ".2f"),
            "" if goal is None else f"{goal:.2f}",
            *(f"{value:,.0f}" for value in medians),
        ]

    ordered = {name: comparisons[name] for name in names}
    ordered |= {each.base: each for each in comparisons.values()}
    return harness.Report(
        title=f"CPU of an order, {rounds} rounds, x bare aiohttp",
        headings=(_HEADING, "x bare aiohttp", "goal", "CPU µs", "orders/s"),
        rows=[row(*each) for each in ordered.items()],
        goals=[
            harness.Goal(f"CPU of {name} / {_BASE}", median(each.ratios(name, "cpu_us")), goal)
            for name, each in comparisons.items()
            if (goal := _ROWS[name].goal) is not None
        ],
        figures={
            "benchmark": "throughput",
            "rows": {name: each.runs[name] for name, each in comparisons.items()},
            "bases": {n: [base for _, base in each.pairs[n]] for n, each in comparisons.items()},
        },
    )


if __name__ == "__main__":
    main()
