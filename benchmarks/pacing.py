"""How well an unknown limit is found and held, beside the usual ways to retry.

The limit is one of requests a second, with a burst; limits and bursts that are repeated are
crossed. With --all it is what is promised, one after the other: without and with a Retry-After of a
second, for short and for long, by four processes; a limit of requests at the same time; and none,
where a response takes 50 ms: what does pacing cost?

The limiter is nginx (limit_req with nodelay, limit_conn; status 429). Every sender meets one that
was just started. "Of the limit" is orders delivered / seconds / limit: the burst comes on top, so a
large one flatters short runs. Throttles are counted at the limiter, per order.

There are as many orders as the limit allows in --seconds. Several processes send for as long at the
same time, and what each has delivered by then is a part of its equal share.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import attrs
import click

from benchmarks import harness

_NAMES = {
    "adaptive": "ours, adaptive",
    "max_rate": "ours, max_rate given",
    "tenacity_jitter": "tenacity, jitter",
    "tenacity_retry_after": "tenacity, Retry-After",
}
_AT_ONCE = 64  # for each process
_LATENCY_S = 0.05  # where there is no limit of requests a second
_CONNECTIONS = 20  # the limit of requests at the same time
_ATTEMPTS = 10  # after which a rival gives an order up
# What is promised in percent: the least of the limit, and the most that is throttled.
Bounds = tuple[float, float | None] | None


@attrs.frozen(kw_only=True)
class Setting:
    """What limits, and what is sent; seconds are what it takes to send all at the limit."""

    limit: int | None  # requests per second
    burst: int = 0
    connections: int | None = None  # requests at the same time
    retry_after: int | None = None  # seconds that each throttle asks for
    latency_s: float = 0.0
    seconds: float = 15.0
    processes: int = 1

    @property
    def per_s(self) -> float:
        """The most orders per second that can be delivered."""
        if self.limit is not None:
            return self.limit
        at_once = _AT_ONCE * self.processes
        return min(at_once, self.connections or at_once) / self.latency_s

    @property
    def orders(self) -> int:
        """How many are sent, by all processes together."""
        return max(1, round(self.per_s * self.seconds))

    @property
    def duration_s(self) -> float | None:
        """How long several processes send; None: until every order is sent."""
        return None if self.processes == 1 else self.seconds

    def __str__(self) -> str:
        if self.connections is not None:
            limit = f"{self.connections} at once for {self.latency_s * 1e3:g} ms"
        elif self.limit is not None:
            limit = f"{self.limit}/s, burst {self.burst}"
        else:
            limit = f"{self.latency_s * 1e3:g} ms, no limit"
        asked = "" if self.retry_after is None else f", Retry-After: {self.retry_after}"
        senders = f", {self.processes} processes" if self.processes > 1 else ""
        return f"{limit}{asked}{senders}, {self.orders:,} orders"


def _once(sender: str, setting: Setting) -> harness.Figures:
    """Send once: the figures for each order, but for the share of the limit that was used."""
    with harness.service(**attrs.asdict(setting)) as server:
        settings = {
            "mode": "pace",
            "url": server.url,
            "orders": setting.orders,
            "duration_s": setting.duration_s,
            "concurrency": _AT_ONCE,
            "attempts": _ATTEMPTS,
            "sender": "tenacity_gather" if sender.startswith("tenacity") else "stream_orders",
            "retry_after": sender == "tenacity_retry_after",
            "max_rate": setting.per_s / setting.processes if sender == "max_rate" else None,
        }
        clients = [{**settings, "process": number} for number in range(setting.processes)]
        reports = harness.measure_together(clients)
    sent = sum(report["sent"] for report in reports)
    server.check(sent)
    wanted = setting.orders if setting.duration_s is None else sum(r["read"] for r in reports)
    elapsed_s = setting.duration_s or max(report["elapsed_s"] for report in reports)
    allowed = setting.per_s * elapsed_s
    throttles = server.counts["throttled"]
    return {
        "sender": sender,
        "setting": attrs.asdict(setting),
        "processes": reports,
        "share": sum(report["in_time"] for report in reports) / allowed,
        "throttles": throttles,
        "throttled": throttles / wanted,
        "lost": wanted - sent,
        "elapsed_s": elapsed_s,
        "least_share": min(report["in_time"] for report in reports) / allowed * setting.processes,
    }


def _median(runs: Sequence[harness.Figures], name: str) -> float:
    return median(float(run[name]) for run in runs)


def _goals(
    sender: str, setting: Setting, bounds: Bounds, runs: Sequence[harness.Figures]
) -> list[harness.Goal]:
    if bounds is None:
        return []
    what = f"{_NAMES[sender]}, {setting}"
    share, lost = 100 * _median(runs, "share"), max(run["lost"] for run in runs)
    goals = [harness.Goal(f"{what}: of the limit", share, bounds[0], " %", at_most=False)]
    if bounds[1] is not None:
        throttled = 100 * _median(runs, "throttled")
        goals.append(harness.Goal(f"{what}: throttled", throttled, bounds[1], " %"))
    if setting.processes > 1:
        least = 100 * _median(runs, "least_share")
        goals.append(harness.Goal(f"{what}: the least share", least, 50, " %", at_most=False))
    return [*goals, harness.Goal(f"{what}: orders lost", lost, 0)]


def _row(sender: str, setting: Setting, runs: Sequence[harness.Figures]) -> list[str]:
    return [
        str(setting),
        _NAMES[sender],
        f"{_median(runs, 'share'):.1%}",
        f"{_median(runs, 'throttles'):,.0f}",
        f"{_median(runs, 'throttled'):.2%}",
        f"{max(run['lost'] for run in runs):,}",
        f"{_median(runs, 'least_share'):.0%}" if setting.processes > 1 else "",
    ]


def _parts(base: Setting, *, promised: bool) -> list[tuple[Setting, dict[str, Bounds]]]:
    """What is measured: settings, who meets each, and what is promised of that."""
    alone: dict[str, Bounds] = {"adaptive": (98, 0.6), "max_rate": (99.5, 0.1)}
    parts: list[tuple[Setting, dict[str, Bounds]]] = [(base, {**alone, "tenacity_jitter": None})]
    if promised:
        busy = attrs.evolve(base, retry_after=1)
        slow = attrs.evolve(base, limit=None, latency_s=_LATENCY_S)
        none = attrs.evolve(slow, seconds=1.25 * base.seconds)
        parts += [
            (busy, {**dict.fromkeys(_NAMES), **alone, "adaptive": (85, 0.5)}),
            (attrs.evolve(busy, seconds=4 * base.seconds), {"adaptive": (94, 0.5)}),
            (attrs.evolve(base, processes=4), {"adaptive": (95, None)}),
            (attrs.evolve(slow, connections=_CONNECTIONS), {"adaptive": (85, None)}),
            (none, {"adaptive": (97, 0), "tenacity_jitter": None}),
        ]
    return parts


@harness.benchmark(__doc__)
@click.option("--all", "promised", is_flag=True, help="Measure all that is promised.")
@click.option("--limit", type=click.IntRange(1), multiple=True, default=[400], show_default=True)
@click.option("--burst", type=click.IntRange(0), multiple=True, default=[20], show_default=True)
@click.option("--seconds", type=click.FloatRange(0), default=15.0, show_default=True)
@harness.count("--rounds", 1)
@harness.only(_NAMES)
def main(
    *,
    promised: bool,
    limit: Sequence[int],
    burst: Sequence[int],
    seconds: float,
    rounds: int,
    only: Sequence[str],
) -> harness.Report:
    """Measure."""
    settings = [Setting(limit=n, burst=ahead, seconds=seconds) for n in limit for ahead in burst]
    parts = [part for each in settings for part in _parts(each, promised=promised)]
    measured = [
        (name, setting, bounds, list[harness.Figures]())
        for setting, senders in parts
        for name, bounds in senders.items()
        if name in only
    ]
    for number in range(rounds):
        for name, setting, _, runs in measured:
            harness.progress(f"round {number + 1} of {rounds}: {_NAMES[name]}, {setting}")
            runs.append(_once(name, setting))
    return harness.Report(
        title=f"nginx, {_AT_ONCE} at once, medians of {rounds} rounds",
        headings=(
            *("limit", "sender", "of the limit", "throttles", "throttled", "lost", "least share"),
        ),
        rows=[_row(name, setting, runs) for name, setting, _, runs in measured],
        goals=[goal for each in measured for goal in _goals(*each)],
        figures={
            "benchmark": "pacing",
            "runs": [run for *_, runs in measured for run in runs],
        },
    )


if __name__ == "__main__":
    main()
