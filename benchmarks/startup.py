"""How long a start takes: of the imports, and of the command's ``--help``, as whole processes.

Each runs next to a process that imports aiohttp only, after one round that is not counted (it
compiles, and fills the caches). What an import costs beyond aiohttp's own is taken within the pair.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from benchmarks import harness

_AIOHTTP = "import aiohttp"
_IMPORTS = ("import everlytic_async", "from everlytic_async import EverlyticClient")
_EMPTY = "an empty program"
_HELP = "everlytic-async --help"
_MAX_IMPORT_MS = 30
_MAX_HELP_MS = 300
_TIMEOUT_S = 60


def _commands() -> dict[str, list[str]]:
    """What is run; the installed command is the one of this interpreter before any other."""
    programs = {_EMPTY: "pass", **{line: line for line in (_AIOHTTP, *_IMPORTS)}}
    commands = {name: [sys.executable, "-c", line] for name, line in programs.items()}
    command = shutil.which("everlytic-async", path=str(Path(sys.executable).parent))
    if found := command or shutil.which("everlytic-async"):
        commands[_HELP] = [found, "--help"]
    return commands


@harness.benchmark(__doc__)
@harness.count("--rounds", 15)
def main(rounds: int) -> harness.Report:
    """Measure."""
    commands = _commands()

    def once(name: str) -> harness.Figures:
        started_at = time.perf_counter()
        ended = subprocess.run(
            commands[name],
            cwd=harness.ROOT,
            env=harness.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        took_ms = (time.perf_counter() - started_at) * 1e3
        if ended.returncode != 0:
            raise harness.BenchmarkError(
                f"{name} ended with {ended.returncode}:\n{ended.stderr.strip()}"
            )
        return {"ms": took_ms}

    for name in commands:
        once(name)
    others = [name for name in commands if name != _AIOHTTP]
    comparison = harness.Comparison.measure(_AIOHTTP, others, rounds, once)
    beyond_ms = {
        name: [ours - theirs for ours, theirs in comparison.pairs(name, "ms")] for name in _IMPORTS
    }
    goals = [
        harness.Goal(
            f"`{name}` beyond aiohttp's own", median(row), _MAX_IMPORT_MS, at_most=True, unit=" ms"
        )
        for name, row in beyond_ms.items()
    ]
    if _HELP in commands:
        help_ms = median(comparison.values(_HELP, "ms"))
        goals.append(harness.Goal(f"`{_HELP}`", help_ms, _MAX_HELP_MS, at_most=True, unit=" ms"))
    return harness.Report(
        title=f"Whole processes, {rounds} rounds",
        headings=("process", "ms", "beyond aiohttp's, ms"),
        rows=[
            (
                name,
                harness.spread(comparison.values(name, "ms")),
                harness.spread(beyond_ms[name], "+.0f") if name in beyond_ms else "",
            )
            for name in commands
        ],
        goals=goals,
        notes=[] if _HELP in commands else ["No command: pip install 'everlytic-async[cli]'"],
        figures={
            "benchmark": "startup",
            "took_ms": {name: comparison.values(name, "ms") for name in commands},
        },
    )


if __name__ == "__main__":
    harness.start(main)
