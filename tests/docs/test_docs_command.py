"""The command's reference is its own help, for every command there is."""

from __future__ import annotations

import subprocess
import sys

from documentation import ROOT


def test_command_reference_is_what_the_command_says() -> None:
    """Written anew by: cog -r docs/reference/command.md."""
    done = subprocess.run(
        [sys.executable, "-m", "cogapp", "--check", "--diff", "docs/reference/command.md"],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
