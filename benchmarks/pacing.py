"""How well an unknown limit is found and held, beside the usual ways to retry.

SCENARIO is what limits. `rate`, the default: so many requests a second, with a burst. `latency`:
nothing but how long an answer takes, so what does pacing cost? `connections`: so many requests at
the same time. `matrix`: `rate`, over many limits and bursts. `all`: what is promised, one after the
other: `rate` without and with a Retry-After of a second, for short and for long, by four processes,
and `latency`.

The limiter is nginx where it is installed (limit_req with nodelay, limit_conn; status 429), else
the package's sandbox. Every sender meets a limiter that was just started. "Of the limit" is orders
delivered / seconds / limit: the burst is not counted in, so that a large one flatters short runs;
"of the possible" counts it in. Refusals are counted at the limiter, per order.

With --processes, that many send at once for orders / limit seconds, and what each has delivered by
then is shown as a part of its equal share.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import attrs
import click
from rich.table import Table

from benchmarks._common import (
    BenchmarkError,
    Child,
    Service,
    Target,
    child,
    chosen,
    done_telling,
    finish,
    json_option,
    service,
    start,
    tell,
)
from benchmarks._limiter import find_nginx

_NAMES = {
    "adaptive": "ours, adaptive",
    "max_rate": "ours, max_rate given",
    "tenacity_jitter": "tenacity, jitter",
    "tenacity_retry_after": "tenacity, Retry-After",
}
_DEFAULT_LATENCY_MS = {"latency": 50.0, "connections": 50.0}
_LONG = 24_000  # orders, from which on more is promised where each refusal costs a second


@attrs.frozen(kw_only=True)
class Setting:
    """What limits, and what is sent.

    Attributes:
        backend: ``nginx`` or ``sandbox``.
        limit: Requests per second, or None.
        burst: How many may run ahead of it.
        connections: Requests at the same time, or None.
        retry_after: Seconds asked for by each refusal, or None.
        latency_s: How long an answer takes.
        orders: How many are sent, by all processes together.
        concurrency: At once, for each process.
        processes: How many processes send.
        attempts: After how many a rival gives an order up.
    """

    backend: str
    limit: int | None
    burst: int
    connections: int | None
    retry_after: int | None
    latency_s: float
    orders: int
    concurrency: int
    processes: int
    attempts: int

    @property
    def per_s(self) -> float:
        """The most orders per second that can be delivered."""
        if self.limit is not None:
            return self.limit
        at_once = self.concurrency * self.processes
        return min(at_once, self.connections or at_once) / self.latency_s

    @property
    def duration_s(self) -> float | None:
        """How long several processes send; None: until every order is sent."""
        return None if self.processes == 1 else self.orders / self.per_s


@attrs.frozen(kw_only=True)
class Part:
    """A table's worth: who sends against what.

    Attributes:
        scenario: Which it is, `all` aside.
        base: What limits; with `matrix`, before limit and burst are varied.
        rows: A sender, what limits it, and what came of it.
    """

    scenario: str
    base: Setting
    rows: list[tuple[str, Setting, list[Run]]]


@attrs.frozen(kw_only=True)
class Run:
    """What one sender did once.

    Attributes:
        share: Delivered / seconds / limit.
        share_of_possible: The same, where the burst counts as allowed.
        refusals: Answers with 429.
        refused: Refusals per order.
        lost: Orders that were not delivered in the end.
        elapsed_s: From the first order to the last result.
        shares: What each process delivered, in parts of an equal share.
        peak_in_flight: The most requests that were past the limiter at the same time.
        processes: What each process reported.
    """

    share: float
    share_of_possible: float
    refusals: int
    refused: float
    lost: int
    elapsed_s: float
    shares: list[float]
    peak_in_flight: int | None
    processes: list[dict[str, Any]]


@contextmanager
def limiter(setting: Setting) -> Iterator[tuple[Service, Service | None]]:
    """The server to send to, and the one behind it where there is one."""
    limited = setting.limit is not None or setting.connections is not None
    settings = {
        "backend": setting.backend,
        "limit": setting.limit,
        "burst": setting.burst,
        "connections": setting.connections,
        "retry_after": setting.retry_after,
        "latency_s": setting.latency_s,
    }
    if limited and setting.backend == "sandbox":
        with service("benchmarks._limiter", json.dumps(settings)) as front:
            yield front, None
        return
    latency_ms = str(setting.latency_s * 1000)
    with service("benchmarks.server", "--latency-ms", latency_ms) as endpoint:
        if not limited:
            yield endpoint, None
            return
        settings["upstream"] = int(endpoint.url.rpartition(":")[2])
        with service("benchmarks._limiter", json.dumps(settings)) as front:
            yield front, endpoint


def send(sender: str, setting: Setting, url: str) -> list[dict[str, Any]]:
    """Let as many processes as are asked for begin as one; what each reports."""
    settings = {
        "sender": sender,
        "url": url,
        "orders": setting.orders,
        "duration_s": setting.duration_s,
        "concurrency": setting.concurrency,
        "limit": setting.per_s,
        "processes": setting.processes,
        "attempts": setting.attempts,
    }
    with ExitStack() as stack:
        senders: list[Child] = [
            stack.enter_context(
                child("benchmarks._pacing_child", json.dumps({**settings, "process": number}))
            )
            for number in range(setting.processes)
        ]
        for process in senders:
            process.said()
        for process in senders:
            process.dismiss()
        reports = [process.said() for process in senders]
        for process in senders:
            process.ended()
    return reports


def _once(sender: str, setting: Setting) -> Run:
    with limiter(setting) as (front, endpoint):
        reports = send(sender, setting, front.url)
    sent = sum(report["sent"] for report in reports)
    if "statuses" in front.counts:
        accepted = front.counts["statuses"].get("200", 0)
        refusals = front.counts["statuses"].get("429", 0)
    else:
        accepted, refusals = front.counts["accepted"], 0
    behind = endpoint or front
    if "accepted" in behind.counts and behind.counts["accepted"] != accepted:
        raise BenchmarkError(f"{sender}: {front.counts} in front of {behind.counts}")
    if accepted != sent:
        raise BenchmarkError(f"{sender}: {sent} results, but the server took {front.counts}")

    wanted = setting.orders if setting.duration_s is None else sum(r["read"] for r in reports)
    elapsed_s = setting.duration_s or max(report["elapsed_s"] for report in reports)
    delivered = sum(report["in_time"] for report in reports)
    allowed = setting.per_s * elapsed_s
    ahead = setting.burst + 1 if setting.limit is not None else 0
    return Run(
        share=delivered / allowed,
        share_of_possible=delivered / (allowed + ahead),
        refusals=refusals,
        refused=refusals / wanted,
        lost=wanted - sent,
        elapsed_s=elapsed_s,
        shares=[report["in_time"] / allowed * setting.processes for report in reports],
        peak_in_flight=behind.counts.get("peak_in_flight"),
        processes=reports,
    )


# ---------------------------------------------------------------------------------- the judgement


def _of(runs: Sequence[Run], name: str) -> float:
    return median(float(getattr(run, name)) for run in runs)


def _least_share(runs: Sequence[Run]) -> float:
    return median(min(run.shares) for run in runs)


def _where(scenario: str, setting: Setting) -> str:
    """What tells one measurement of a sender from its others."""
    if scenario == "matrix":
        return f" at {setting.limit}/s, burst {setting.burst}"
    if scenario == "latency":
        return f" at {setting.latency_s * 1000:g} ms"
    if setting.processes > 1:
        return f", {setting.processes} processes"
    if setting.retry_after is not None:
        return f", Retry-After: {setting.retry_after}, {setting.orders:,} orders"
    return ""


def _targets(scenario: str, sender: str, setting: Setting, runs: Sequence[Run]) -> list[Target]:
    """What is promised for a sender of ours, with what came out; medians over the rounds."""
    share, refused, least = 100 * _of(runs, "share"), 100 * _of(runs, "refused"), None
    bounds: tuple[float, float | None] | None
    if scenario == "latency":
        bounds = (97.0, 0.0) if sender == "adaptive" else None
    elif scenario == "connections":
        bounds = (85.0, None) if sender == "adaptive" else None
    elif sender == "max_rate":
        bounds = (99.5, 0.1)
    elif sender != "adaptive":
        bounds = None
    elif setting.processes > 1:
        bounds, least = (95.0, None), 100 * _least_share(runs)
    elif setting.retry_after is not None:
        bounds = (94.0 if setting.orders >= _LONG else 85.0, 0.5)
    else:
        bounds = (98.0, 0.6)
    if bounds is None:
        return []
    what = f"{_NAMES[sender]}{_where(scenario, setting)}"
    targets = [Target(f"{what}: of the limit", share, bounds[0], at_most=False, unit=" %")]
    if bounds[1] is not None:
        targets.append(Target(f"{what}: refused", refused, bounds[1], at_most=True, unit=" %"))
    if least is not None:
        targets.append(
            Target(f"{what}: the least part of a share", least, 50, at_most=False, unit=" %")
        )
    lost = max(run.lost for run in runs)
    targets.append(Target(f"{what}: orders lost", lost, 0, at_most=True))
    return targets


def _title(scenario: str, setting: Setting, rounds: int) -> str:
    asked = (
        "no Retry-After" if setting.retry_after is None else f"Retry-After: {setting.retry_after}"
    )
    what = {
        "rate": f"{setting.limit}/s, burst {setting.burst}, {asked}, {setting.backend}",
        "latency": f"no limit, at best {setting.per_s:,.0f}/s",
        "connections": (
            f"{setting.connections} at the same time, at best {setting.per_s:,.0f}/s, {asked}, "
            f"{setting.backend}"
        ),
        "matrix": f"{asked}, {setting.backend}",
    }[scenario]
    senders = f"{setting.processes} processes, " if setting.processes > 1 else ""
    return (
        f"{what}\n{senders}{setting.orders:,} orders, {setting.concurrency} at once, "
        f"{setting.latency_s * 1000:g} ms latency; medians of {rounds}"
    )


def _table(
    title: str, rows: Sequence[tuple[str, Setting, Sequence[Run]]], *, matrix: bool, several: bool
) -> Table:
    table = Table(title=title)
    table.add_column("sender")
    headings = ["limit/s", "burst"] if matrix else []
    headings += ["of the limit", "of the possible", "refusals", "refused", "lost", "seconds"]
    headings += ["each one's share"] if several else []
    for heading in headings:
        table.add_column(heading, justify="right")
    for sender, setting, runs in rows:
        cells = [str(setting.limit), str(setting.burst)] if matrix else []
        cells += [
            f"{_of(runs, 'share'):.1%}",
            f"{_of(runs, 'share_of_possible'):.1%}",
            f"{_of(runs, 'refusals'):,.0f}",
            f"{_of(runs, 'refused'):.2%}",
            f"{max(run.lost for run in runs):,}",
            f"{_of(runs, 'elapsed_s'):.1f}",
        ]
        if several:
            cells.append(" ".join(f"{share:.0%}" for share in sorted(runs[-1].shares)))
        table.add_row(_NAMES[sender], *cells)
    return table


def _numbers(_context: click.Context, option: click.Parameter, text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0:
        raise click.BadParameter("give integers, separated by commas", param=option)
    return numbers


def _backend(asked: str) -> str:
    if asked == "auto":
        return "sandbox" if find_nginx() is None else "nginx"
    if asked == "nginx" and find_nginx() is None:
        raise BenchmarkError("nginx is not installed: install it, or use --backend sandbox")
    return asked


def _cells(
    base: Setting, scenario: str, limits: Sequence[int], bursts: Sequence[int], seconds: int
) -> list[Setting]:
    if scenario != "matrix":
        return [base]
    return [
        attrs.evolve(base, limit=limit, burst=burst, orders=limit * seconds)
        for limit in limits
        for burst in bursts
    ]


def _parts(
    scenario: str, base: Setting, senders: list[str]
) -> list[tuple[str, Setting, list[str]]]:
    """What is to be measured, one table for each."""
    if scenario != "all":
        return [(scenario, base, senders)]
    busy = attrs.evolve(base, retry_after=1)
    ours = [sender for sender in senders if sender == "adaptive"]
    slow = attrs.evolve(
        base, limit=None, latency_s=_DEFAULT_LATENCY_MS["latency"] / 1000, orders=4 * base.orders
    )
    parts = [
        ("rate", base, senders),
        ("rate", busy, senders),
        ("rate", attrs.evolve(busy, orders=4 * base.orders), ours),
        ("rate", attrs.evolve(base, processes=4), ours),
        ("latency", slow, [sender for sender in senders if sender != "max_rate"]),
    ]
    return [part for part in parts if part[2]]


@click.command(help=__doc__)
@click.argument(
    "scenario",
    type=click.Choice(["rate", "latency", "connections", "matrix", "all"]),
    default="rate",
)
@click.option("--limit", type=click.IntRange(1), default=400, show_default=True, help="A second.")
@click.option("--burst", type=click.IntRange(0), default=20, show_default=True)
@click.option(
    "--connections",
    type=click.IntRange(1),
    default=16,
    show_default=True,
    help="For `connections`: requests at the same time.",
)
@click.option("--retry-after", type=click.IntRange(0), help="Seconds that each refusal asks for.")
@click.option("--orders", type=click.IntRange(1), default=6_000, show_default=True)
@click.option("--concurrency", type=click.IntRange(1), default=64, show_default=True)
@click.option("--processes", type=click.IntRange(1), default=1, show_default=True)
@click.option("--latency-ms", type=click.FloatRange(0), help="Default 0; 50 where it limits.")
@click.option("--rounds", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--attempts",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="After which a rival gives an order up; ours does as its own default policy says.",
)
@click.option("--only", help=f"Some of: {', '.join(_NAMES)}. `matrix` takes the first by default.")
@click.option(
    "--backend",
    type=click.Choice(["auto", "nginx", "sandbox"]),
    default="auto",
    show_default=True,
)
@click.option(
    "--limits", callback=_numbers, default="100,200,400,700,1000", show_default=True, help="Matrix."
)
@click.option(
    "--bursts", callback=_numbers, default="1,5,20,100", show_default=True, help="Matrix."
)
@click.option(
    "--seconds",
    type=click.IntRange(1),
    default=15,
    show_default=True,
    help="Matrix: orders per limit.",
)
@json_option
def main(
    *,
    scenario: str,
    limit: int,
    burst: int,
    connections: int,
    retry_after: int | None,
    orders: int,
    concurrency: int,
    processes: int,
    latency_ms: float | None,
    rounds: int,
    attempts: int,
    only: str | None,
    backend: str,
    limits: list[int],
    bursts: list[int],
    seconds: int,
    json_path: Path | None,
) -> None:
    """Measure, print, save, judge."""
    if scenario == "matrix" and only is None:
        only = "adaptive"
    senders = chosen(only, list(_NAMES))
    notes = []
    if only is None and (retry_after is None or scenario == "all"):
        notes.append("Left out where no Retry-After is sent: tenacity, Retry-After")
    if latency_ms is None:
        latency_ms = _DEFAULT_LATENCY_MS.get(scenario, 0.0)
    if scenario in ("latency", "connections") and latency_ms == 0:
        raise click.BadParameter("must be above 0 where it limits", param_hint="--latency-ms")
    base = Setting(
        backend=_backend(backend),
        limit=limit if scenario in ("rate", "matrix", "all") else None,
        burst=burst,
        connections=connections if scenario == "connections" else None,
        retry_after=retry_after,
        latency_s=latency_ms / 1000,
        orders=orders,
        concurrency=concurrency,
        processes=processes,
        attempts=attempts,
    )
    parts = [
        Part(
            scenario=name,
            base=setting,
            rows=[
                (sender, cell, list[Run]())
                for cell in _cells(setting, name, limits, bursts, seconds)
                for sender in some
                # Without the header it is the same as the one before.
                if sender != "tenacity_retry_after" or only or cell.retry_after is not None
            ],
        )
        for name, setting, some in _parts(scenario, base, senders)
    ]
    for number in range(rounds):
        for part in parts:
            for sender, cell, runs in part.rows:
                tell(
                    f"round {number + 1} of {rounds}: {_NAMES[sender]}, {cell.per_s:,.0f}/s at best"
                )
                runs.append(_once(sender, cell))
    done_telling()
    finish(
        [
            _table(
                _title(part.scenario, part.base, rounds),
                part.rows,
                matrix=part.scenario == "matrix",
                several=part.base.processes > 1,
            )
            for part in parts
        ],
        notes,
        [target for part in parts for row in part.rows for target in _targets(part.scenario, *row)],
        figures={
            "benchmark": "pacing",
            "scenario": scenario,
            "runs": [
                {
                    "scenario": part.scenario,
                    "sender": sender,
                    "setting": attrs.asdict(cell),
                    **attrs.asdict(run),
                }
                for part in parts
                for sender, cell, runs in part.rows
                for run in runs
            ],
        },
        json_path=json_path,
    )


if __name__ == "__main__":
    start(main)
