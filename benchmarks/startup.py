"""How long a start takes: of the import, and of the command's ``--help``, as whole processes.

Each runs next to a process that imports aiohttp only, after one round that is not counted (it
compiles, and fills the caches). What it takes beyond aiohttp's own import is taken within the pair.
"""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median

from benchmarks import harness

_AIOHTTP, _CLIENT, _HELP = "import of aiohttp", "import of the client", "everlytic-async --help"
_ARGUMENTS = {
    _AIOHTTP: ["-c", "import aiohttp"],
    _CLIENT: ["-c", "from everlytic_async import EverlyticClient"],
    _HELP: ["-m", "everlytic_async", "--help"],
}
_MAX_IMPORT_MS = 30
_MAX_HELP_MS = 300


def _once(name: str) -> harness.Figures:
    started_at = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, *_ARGUMENTS[name]],
        cwd=harness.ROOT,
        env=harness.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    took_ms = (time.perf_counter() - started_at) * 1e3
    if ended.returncode != 0:
        raise harness.BenchmarkError(f"{name} ended with {ended.returncode}:\n{ended.stderr}")
    return {"ms": took_ms}


@harness.benchmark(__doc__)
@harness.count("--rounds", 15)
def main(rounds: int) -> harness.Report:
    """Measure."""
    for name in _ARGUMENTS:
        _once(name)
    comparison = harness.Comparison.measure(_AIOHTTP, [_CLIENT, _HELP], rounds, _once)
    took_ms = {name: comparison.values(name, "ms") for name in _ARGUMENTS}
    beyond_ms = {
        name: [ours["ms"] - theirs["ms"] for ours, theirs in pairs]
        for name, pairs in comparison.pairs.items()
    }
    import_ms, help_ms = median(beyond_ms[_CLIENT]), median(took_ms[_HELP])
    return harness.Report(
        title=f"Whole processes, {rounds} rounds",
        headings=("process", "ms", "beyond aiohttp's, ms"),
        rows=[
            (name, harness.spread(took_ms[name]), harness.spread(beyond_ms.get(name, [0]), "+.0f"))
            for name in _ARGUMENTS
        ],
        goals=[
            harness.Goal(f"{_CLIENT} beyond aiohttp's", import_ms, _MAX_IMPORT_MS, " ms"),
            harness.Goal(f"`{_HELP}`", help_ms, _MAX_HELP_MS, " ms"),
        ],
        figures={"benchmark": "startup", "took_ms": took_ms},
    )


if __name__ == "__main__":
    main()
