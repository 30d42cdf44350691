"""Draw FILE: orders a second that nginx accepted and refused over time, ours beside tenacity's.

The limit is 400 requests a second with a burst of 20; refusals have no Retry-After. What nginx
logged is drawn as SVG, in steps of a quarter of a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs
import click

from benchmarks import harness
from benchmarks.pacing import Setting, send
from benchmarks.server import find_nginx

_STEP_S = 0.25
_SECONDS = 15
_SENDERS = {"adaptive": "everlytic_async", "tenacity_jitter": "tenacity, exponential jitter"}
_WIDTH, _HEIGHT, _LEFT, _TOP = 360, 180, 44, 30
_MAX_PER_S = 800
_SETTING = Setting(backend="nginx", limit=400, burst=20, seconds=_SECONDS)


@attrs.frozen
class Curve:
    """The responses to one sender, in orders a second for each step."""

    accepted: list[float]
    refused: list[float]


def _per_s(moments: Sequence[float], first: float) -> list[float]:
    steps = [0.0] * round(_SECONDS / _STEP_S)
    for moment in moments:
        step = int((moment - first) / _STEP_S)
        if step < len(steps):
            steps[step] += 1.0 / _STEP_S
    return steps


def _measure(sender: str) -> Curve:
    with harness.service(**attrs.asdict(_SETTING)) as server:
        send(sender, _SETTING, server.url)
    moments = server.counts["moments"]
    first = min(min(times) for times in moments.values() if times)
    return Curve(_per_s(moments["200"], first), _per_s(moments["429"], first))


def _line(values: Sequence[float], kind: str) -> str:
    points = " ".join(
        f"{(number + 0.5) * _STEP_S / _SECONDS * _WIDTH:.0f},{_y(value):.0f}"
        for number, value in enumerate(values)
    )
    return f'<polyline class="{kind}" points="{points}"/>'


def _y(per_s: float) -> float:
    return _HEIGHT * (1.0 - min(per_s, _MAX_PER_S) / _MAX_PER_S)


def _panel(number: int, title: str, curve: Curve) -> str:
    left = _LEFT + number * (_WIDTH + _LEFT)
    grid = "".join(
        f'<path class="grid" d="M0 {_y(per_s):.0f}H{_WIDTH}"/>'
        f'<text x="-6" y="{_y(per_s) + 4:.0f}" text-anchor="end">{per_s}</text>'
        for per_s in range(0, _MAX_PER_S + 1, 200)
    )
    seconds = "".join(
        f'<text x="{second / _SECONDS * _WIDTH:.0f}" y="{_HEIGHT + 16}" text-anchor="middle">'
        f"{second} s</text>"
        for second in range(0, _SECONDS + 1, 5)
    )
    return (
        f'<g transform="translate({left} {_TOP})"><text class="title" y="-12">{title}</text>{grid}'
        f'{seconds}<path class="limit" d="M0 {_y(400):.0f}H{_WIDTH}"/>'
        f"{_line(curve.accepted, 'accepted')}{_line(curve.refused, 'refused')}</g>"
    )


def draw(curves: Sequence[tuple[str, Curve]]) -> str:
    """The picture of some senders side by side, as SVG."""
    width = len(curves) * (_WIDTH + _LEFT) + _LEFT
    panels = "\n".join(_panel(number, *named) for number, named in enumerate(curves))
    legend = "".join(
        f'<path class="{kind}" d="M{x} 0h18"/><text x="{x + 24}" y="4">{words}</text>'
        for x, kind, words in (
            (0, "accepted", "accepted a second"),
            (150, "refused", "refused a second"),
            (300, "limit", "the limit"),
        )
    )
    height = _TOP + _HEIGHT + 50
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">
<title>Orders a second that were accepted and refused, against a limit of 400 a second</title>
<style>
text {{ font: 11px sans-serif; fill: #555 }} .title {{ font-weight: bold; fill: #222 }}
path, polyline {{ fill: none; stroke-width: 1.6 }} .grid {{ stroke: #ddd; stroke-width: 1 }}
.accepted {{ stroke: #2266bb }} .refused {{ stroke: #cc4422 }}
.limit {{ stroke: #222; stroke-dasharray: 4 3; stroke-width: 1 }}
</style>
<rect width="{width}" height="{height}" fill="#fff"/>
{panels}
<g transform="translate({_LEFT} {_TOP + _HEIGHT + 38})">{legend}</g>
</svg>
"""


@click.command(help=__doc__)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def main(file: Path) -> None:
    """Measure and draw."""
    if find_nginx() is None:
        raise harness.BenchmarkError("nginx is not installed")
    file.write_text(draw([(title, _measure(sender)) for sender, title in _SENDERS.items()]))


if __name__ == "__main__":
    harness.start(main)
