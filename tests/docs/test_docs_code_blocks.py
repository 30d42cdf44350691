"""Every fenced block of the README and of the documentation does what it says.

=================  ===================================================================
block              what is done with it
=================  ===================================================================
``python``         run as a program of its own, in a new process
``text``           compared with what the program before it printed
``console``        each ``$ command`` run by bash, and compared with the lines below it
``bash``           run; it has to succeed
``json``, ``toml`` parsed
with a caption     first saved under that name, for the blocks that come after it; a
                   program or a text is then left to those, else as above
=================  ===================================================================

An ``...`` stands for any output. A block of another kind is an error.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from documentation import PAGES, ROOT, Reader, read

_FENCE = re.compile(r"^[ ]*```\S", re.MULTILINE)
# Their programs take long, or wait for what killed workers leave behind.
_SLOW = {
    *("tutorial.md", "tutorial-backfill.md", "command.md"),
    *("run-workers.md", "database.md", "backfill.md", "observe.md", "own-columns.md"),
    *("fastapi.md", "webhooks.md", "report.md", "service.md", "testing.md", "processes.md"),
}


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page,
            id=page.relative_to(ROOT).as_posix(),
            marks=[pytest.mark.slow] if page.name in _SLOW else [],
        )
        for page in PAGES
    ],
)
def test_every_code_block_of_a_page_does_what_it_says(page: Path, reader: Reader) -> None:
    reader.follow(page)


def test_every_fence_is_found(reader: Reader) -> None:
    """So that a mistake of the lexer can't make every page pass."""
    found = [len(list(read(page, reader))) for page in PAGES]
    fences = [len(_FENCE.findall(page.read_text("utf-8"))) for page in PAGES]
    assert fences == found
    assert found[0] >= 4


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        ("```python\nraise SystemExit(3)\n```\n", "it ended with 3"),
        ("```python\nimport warnings; warnings.warn('old')\n```\n", "UserWarning: old"),
        ("```python\nprint('a')\n```\n\n```text\nb\n```\n", "+ a"),
        ("```console\n$ echo a; (exit 7)\na\n$ echo $?\n0\n```\n", "+ 7"),
        ("```console\n$ exit 5\n```\n", "1 commands, but 0 ran"),
        ("```bash\nfalse | true\n```\n", "it ended with 1"),
        ("```json\n{\n```\n", "Expecting property name"),
        ("```cobol\nSTOP RUN.\n```\n", "no rule for a block of 'cobol'"),
        ("```text\nb\n```\n", "an output without a program before it"),
    ],
)
def test_a_block_that_does_not_do_what_it_says_is_found(
    block: str, complaint: str, tmp_path: Path, reader: Reader
) -> None:
    page = tmp_path / "page.md"
    page.write_text(block, encoding="utf-8")
    with pytest.raises((AssertionError, ValueError)) as caught:
        reader.follow(page)
    assert complaint in str(caught.value)
