"""Print pip constraints: the lowest version that pyproject.toml allows of all that it depends on.

The extras that only developers use are left as they are.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

_DEVELOPERS = {"tests", "docs", "benchmarks"}


def main() -> None:
    """Print one constraint a line; fail where a requirement has no lower bound."""
    project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]
    requirements = list(project["dependencies"])
    for extra, needed in project["optional-dependencies"].items():
        if extra not in _DEVELOPERS:
            requirements += needed
    for requirement in requirements:
        wanted, _, marker = requirement.partition(";")
        name = re.match(r"[\w.-]+", wanted)
        if name is None or name[0] == project["name"]:
            continue
        lowest = re.search(r">=\s*([\w.]+)", wanted)
        if lowest is None:
            sys.exit(f"pyproject.toml: {requirement!r} has no lower bound")
        print(f"{name[0]}=={lowest[1]}" + (f"; {marker.strip()}" if marker else ""))


if __name__ == "__main__":
    main()
