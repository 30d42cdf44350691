"""How long a start takes: of the imports, and of the command's ``--help``, as whole processes.

The processes run in turn, several rounds, after one round that is not counted (it compiles and
fills the caches). What an import costs beyond aiohttp's own is taken within a round; the medians
over the rounds are shown.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import click
from rich.table import Table

from benchmarks._common import (
    ROOT,
    BenchmarkError,
    Target,
    done_telling,
    environment,
    finish,
    json_option,
    start,
    tell,
)

_AIOHTTP = "import aiohttp"
_PACKAGE = "import everlytic_async"
_CLIENT = "from everlytic_async import EverlyticClient"
_HELP = "everlytic-async --help"
_IMPORT_BOUND_MS = 30
_HELP_BOUND_MS = 300
_TIMEOUT_S = 60


def _command() -> list[str] | None:
    """The installed command: the one of this interpreter before any other."""
    beside = Path(sys.executable).parent / "everlytic-async"
    found = str(beside) if beside.exists() else shutil.which("everlytic-async")
    return None if found is None else [found, "--help"]


def _run_ms(name: str, arguments: Sequence[str]) -> float:
    """Milliseconds of one whole process."""
    began = time.perf_counter()
    ended = subprocess.run(
        arguments,
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    took_ms = (time.perf_counter() - began) * 1e3
    if ended.returncode != 0:
        raise BenchmarkError(f"{name} ended with {ended.returncode}:\n{ended.stderr.strip()}")
    return took_ms


@click.command(help=__doc__)
@click.option("--rounds", type=click.IntRange(1), default=15, show_default=True)
@json_option
def main(rounds: int, json_path: Path | None) -> None:
    """Measure, print, save, judge."""
    python = sys.executable
    processes = {
        "an empty program": [python, "-c", "pass"],
        **{line: [python, "-c", line] for line in (_AIOHTTP, _PACKAGE, _CLIENT)},
    }
    notes = []
    if (command := _command()) is None:
        notes.append("No command `everlytic-async`: pip install 'everlytic-async[cli]'")
    else:
        processes[_HELP] = command

    took_ms: dict[str, list[float]] = {name: [] for name in processes}
    for number in range(rounds + 1):
        tell(f"round {number} of {rounds}")
        for name, arguments in processes.items():
            one_ms = _run_ms(name, arguments)
            if number > 0:
                took_ms[name].append(one_ms)
    done_telling()

    beyond_ms = {
        name: median(ours - theirs for ours, theirs in zip(row, took_ms[_AIOHTTP], strict=True))
        for name, row in took_ms.items()
    }
    table = Table(title=f"Whole processes, medians of {rounds} rounds")
    table.add_column("process")
    for heading in ("ms", "min - max", "beyond aiohttp's, ms"):
        table.add_column(heading, justify="right")
    for name, row in took_ms.items():
        table.add_row(
            name,
            f"{median(row):.0f}",
            f"{min(row):.0f} - {max(row):.0f}",
            f"{beyond_ms[name]:+.0f}" if name in (_PACKAGE, _CLIENT) else "",
        )
    targets = [
        Target(
            f"`{name}` beyond aiohttp's own",
            beyond_ms[name],
            _IMPORT_BOUND_MS,
            at_most=True,
            unit=" ms",
        )
        for name in (_PACKAGE, _CLIENT)
    ]
    if _HELP in took_ms:
        targets.append(
            Target(f"`{_HELP}`", median(took_ms[_HELP]), _HELP_BOUND_MS, at_most=True, unit=" ms")
        )
    finish(
        [table],
        notes,
        targets,
        figures={"benchmark": "startup", "settings": {"rounds": rounds}, "took_ms": took_ms},
        json_path=json_path,
    )


if __name__ == "__main__":
    start(main)
