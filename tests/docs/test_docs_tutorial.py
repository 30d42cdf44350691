"""The report that the tutorial on a backfill ends with says what the tutorial says of it."""

from __future__ import annotations

import re
from html import unescape

import pytest
from documentation import DOCS, Reader

from support.browser import browse, needs_browser

TUTORIAL = DOCS / "tutorial-backfill.md"
# What the tutorial quotes stands in bold or italics.
_QUOTED = re.compile(r"\*{1,2}([^*]+)\*{1,2}")


@pytest.mark.slow  # its program is run by test_docs_code_blocks as well
@needs_browser
def test_the_report_says_in_a_browser_what_the_tutorial_quotes_of_it(reader: Reader) -> None:
    section = TUTORIAL.read_text("utf-8").split("\n## Look at the report\n")[1].split("\n## ")[0]
    quoted = [" ".join(words.split()) for words in _QUOTED.findall(section)]
    assert len(quoted) >= 4
    reader.follow(TUTORIAL)

    drawn, complaints = browse(reader.directory / "run.html")

    assert complaints == []
    text = " ".join(unescape(re.sub(r"<[^>]+>", " ", drawn)).split())
    assert [words for words in quoted if words.casefold() not in text.casefold()] == []
    assert "lines " in section
    assert "line 121" in text
    assert 'class="main-svg"' in drawn.split('id="plot"')[1]
