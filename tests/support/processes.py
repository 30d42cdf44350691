"""The environment of the Python processes that tests start, and the memory of this one."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

#: In PYTHONPATH it makes orders go by `ClientSession.post`.
SESSION_POST = Path(__file__).parent / "session_post"


def python_path(*directories: Path) -> str:
    """A value of PYTHONPATH: these directories, and what is in it already."""
    return os.pathsep.join([*map(str, directories), *filter(None, [os.environ.get("PYTHONPATH")])])


def run_python(*arguments: str, **options: Any) -> str:
    """What a Python process prints; it must end well, and warn of nothing."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


_STATM = Path("/proc/self/statm")


def resident_bytes() -> int:
    """The memory of this process: at present on Linux, its peak so far elsewhere."""
    if _STATM.exists():
        return int(_STATM.read_text().split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
