"""A sandbox for the programs that the documentation shows, and the environment that they run in."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from documentation import DOCS, ROOT, Reader

from everlytic_async.sandbox import Sandbox
from support.sandboxes import serve

_PYTEST_SETTINGS = re.compile(r"^:caption: pyproject\.toml\n\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What a checkout may hold beside the tracked files; only asked where git can't tell.
_LEFTOVERS = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "_build", "dist", "build")


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """One for all pages: the programs are processes of their own."""
    with serve() as sandbox:
        yield sandbox


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Where a page's programs run: it holds what a checkout's reader has at hand.

    And pytest's settings, to which other pages refer.
    What a page starts in the background, and writes the process id of to a file, ends with it.
    """
    shutil.copytree(DOCS / "examples", tmp_path / "docs" / "examples")
    [settings] = _PYTEST_SETTINGS.findall((DOCS / "how-to/testing.md").read_text("utf-8"))
    (tmp_path / "pyproject.toml").write_text(settings, encoding="utf-8")
    yield tmp_path
    for path in tmp_path.glob("*.pid"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(path.read_text()), signal.SIGKILL)


@pytest.fixture
def environment(sandbox: Sandbox, tmp_path: Path) -> dict[str, str]:
    """What a reader has set: the address and the hashes; and a terminal of a known width."""
    return {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "HOME": str(tmp_path),
        "LANG": "C.UTF-8",
        "COLUMNS": "80",
        "PYTHONWARNINGS": "error",
        "EVERLYTIC_BASE_URL": sandbox.base_url,
        "EVERLYTIC_STORE_HASH": sandbox.store_hash,
        "EVERLYTIC_CUSTOMER_HASH": sandbox.customer_hash,
    }


@pytest.fixture
def reader(directory: Path, environment: dict[str, str]) -> Reader:
    """Who follows a page."""
    return Reader(directory, environment)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what a fresh clone holds, with the changes of the work tree."""
    copy = tmp_path / "checkout"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if listed.returncode != 0:  # an unpacked sdist
        shutil.copytree(ROOT, copy, ignore=_LEFTOVERS)
        return copy
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    return copy
