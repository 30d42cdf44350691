"""The command's reference is its own help, for every command there is."""

from __future__ import annotations

import subprocess
import sys

import pytest
from documentation import ROOT


@pytest.mark.slow  # it runs --help of every command
def test_the_command_reference_is_up_to_date() -> None:
    """`cog -r docs/reference/command.md` updates it."""
    done = subprocess.run(
        [sys.executable, "-m", "cogapp", "--check", "--diff", "docs/reference/command.md"],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
