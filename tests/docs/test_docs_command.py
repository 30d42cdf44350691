"""What is generated in the documentation is up to date: the command's help, the shops' tables."""

from __future__ import annotations

import subprocess
import sys

import pytest
from documentation import ROOT


@pytest.mark.parametrize(
    "page",
    [
        # It runs --help of every command.
        pytest.param("docs/reference/command.md", marks=pytest.mark.slow),
        "docs/how-to/shop-exports.md",
    ],
)
def test_what_is_generated_is_up_to_date(page: str) -> None:
    """`cog -r PAGE` updates it."""
    done = subprocess.run(
        [sys.executable, "-m", "cogapp", "--check", "--diff", page],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
