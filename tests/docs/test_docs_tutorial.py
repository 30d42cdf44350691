"""The report that the tutorial on a backfill ends with says what the tutorial says of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from html import unescape

import pytest
from documentation import DOCS, Reader

TUTORIAL = DOCS / "tutorial-backfill.md"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# What the tutorial quotes stands in bold or italics.
_QUOTED = re.compile(r"\*{1,2}([^*]+)\*{1,2}")


@pytest.mark.slow  # its program is run by test_docs_code_blocks as well
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")
def test_the_report_says_in_a_browser_what_the_tutorial_quotes_of_it(
    reader: Reader,
) -> None:
    section = TUTORIAL.read_text("utf-8").split("\n## Look at the report\n")[1].split("\n## ")[0]
    quoted = [" ".join(words.split()) for words in _QUOTED.findall(section)]
    assert len(quoted) >= 4
    reader.follow(TUTORIAL)
    directory = reader.directory
    assert CHROMIUM is not None

    browsed = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={directory / 'profile'}",
            "--enable-logging=stderr",  # what the page's console says
            "--virtual-time-budget=2000",
            "--dump-dom",
            (directory / "run.html").as_uri(),
        ],
        env={**os.environ, "HOME": str(directory)},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=True,
    )

    assert [line for line in browsed.stderr.splitlines() if "CONSOLE" in line] == []
    text = " ".join(unescape(re.sub(r"<[^>]+>", " ", browsed.stdout)).split())
    assert [words for words in quoted if words.casefold() not in text.casefold()] == []
    assert "lines " in section
    assert "line 121" in text
    assert 'class="main-svg"' in browsed.stdout.split('id="plot"')[1]
