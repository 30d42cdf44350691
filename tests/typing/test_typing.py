"""A type checker sees the package as its users do: installed, by its ``py.typed``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # .ci/run checks the package's own types in any case

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def mypy(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    # From here, where the package is not at hand but has to be found where it is installed.
    return subprocess.run(
        [
            sys.executable,
            *("-m", "mypy", "--strict", "--no-error-summary", "--config-file="),
            f"--cache-dir={ROOT / '.mypy_cache'}",
            *map(str, arguments),
        ],
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_documented_usage_is_well_typed() -> None:
    done = mypy("api.py")
    assert [done.stdout, done.stderr, done.returncode] == ["", "", 0]


def test_every_misuse_is_an_error(tmp_path: Path) -> None:
    # By line and not by code, for mypy's codes change with its versions.
    source = (HERE / "misuse.py").read_text("utf-8")
    bare = tmp_path / "bare.py"
    bare.write_text(source.replace("# type: ignore", "# was ignored"), "utf-8")

    done = mypy(bare)

    expected = [number for number, line in enumerate(source.splitlines(), 1) if "ignore[" in line]
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    found = {int(line.partition("bare.py:")[2].partition(":")[0]) for line in errors}
    assert len(expected) > 20
    assert sorted(found) == expected
    assert done.returncode == 1
