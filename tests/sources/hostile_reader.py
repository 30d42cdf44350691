"""Read files under limits, each in a process of its own, and print what that took.

It reads a line of JSON for each: a path and the options. It writes a line: what was found, as JSON,
and the process's status as of `os.waitpid`. The processes are forked, for starting an interpreter
and loading these modules would take longer than most files.
"""

from __future__ import annotations

import json
import os
import re
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from everlytic_async import EverlyticError, Order
from everlytic_async.sources import read_orders

MOST_CPU_S = 20
MOST_ADDRESSES = 4 * 1024**3


def peak_bytes() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def load(path: str) -> None:
    """Load what reads such a file: it takes memory by itself, and threads, so not before a fork."""
    with suppress(ImportError):
        if Path(path).read_bytes()[:4] == b"PAR1":
            import pyarrow.parquet  # noqa: F401, PLC0415


def read(path: str, options: dict[str, Any]) -> dict[str, Any]:
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU_S, MOST_CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESSES, MOST_ADDRESSES))
    load(path)
    before, started = peak_bytes(), time.process_time()
    found: dict[str, Any] = {"orders": [], "faults": [], "error": None}
    invalid = longest = 0
    try:
        for item in read_orders(path, **options):
            if isinstance(item, Order):
                found["orders"].append(item.order_id)
                continue
            invalid += 1
            longest = max(longest, len(str(item)))
            if invalid <= 20:
                found["faults"].append(str(item)[:500])
    except EverlyticError as error:
        found["error"] = f"{type(error).__name__}: {error}"
    found |= {"invalid": invalid, "longest": longest}
    return found | {
        "cpu_s": time.process_time() - started,
        "peak_mb": (peak_bytes() - before) / 1e6,
    }


def main() -> None:
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            print(json.dumps(read(*json.loads(line))), end="", flush=True)  # noqa: T201
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        print("", status, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
