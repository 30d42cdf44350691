"""A browser for the pages that the command writes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND"),
    "--enable-logging=stderr",  # what the page's console says
    *("--virtual-time-budget=2000", "--window-size=1000,700", "--dump-dom"),
)

needs_browser = pytest.mark.skipif(_CHROMIUM is None, reason="no chromium is installed")


def browse(page: Path) -> tuple[str, list[str]]:
    """A page as it was drawn, and what the browser complained of."""
    home = page.parent
    browsed = subprocess.run(
        [str(_CHROMIUM), *_OPTIONS, f"--user-data-dir={home / 'profile'}", page.as_uri()],
        env={**os.environ, "HOME": str(home)},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=True,
    )
    return browsed.stdout, [line for line in browsed.stderr.splitlines() if "CONSOLE" in line]
