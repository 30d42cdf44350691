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

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from documentation import PAGES, ROOT, difference, quick_start, read
from sybil import Example

# Of MyST: they hold no code.
_PROSE = {"eval-rst", "toctree", "include", "note", "warning", "tip"}
_CODE = {None, "code-block"}
# With a caption, they are there for the blocks that come after them, and are not run by themselves.
_FILES = {"python", "text"}
_COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)$", re.MULTILINE)
_FENCE = re.compile(r"^[ ]*```\S", re.MULTILINE)
_MARK = "\x1e"  # the record separator: no program here prints it
_TIMEOUT_S = 120
# Their programs take long, or wait for what killed workers leave behind.
_SLOW = {
    *("tutorial.md", "tutorial-backfill.md", "command.md"),
    *("run-workers.md", "database.md", "backfill.md", "observe.md", "own-columns.md"),
    *("fastapi.md", "webhooks.md", "report.md", "service.md", "testing.md", "processes.md"),
}
# Of the quick start, which test_docs_quick_start and .ci/run run where it is meant to be run.
_ELSEWHERE = "printed elsewhere"


class _Reader:
    """Follows a page: saves its files, runs its programs, compares what they print."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self.directory = directory
        self.environment = environment
        self.printed: str | None = None
        self._rules: Mapping[str, Callable[[str], str | None]] = {
            "python": self._python,
            "text": self._text,
            "console": self._console,
            "bash": self._bash,
            "json": self._json,
            "toml": self._toml,
        }

    def __call__(self, example: Example) -> str | None:
        found = example.region.lexemes
        directive, language, source = found["directive"], found["argument"], found["source"]
        if directive in _PROSE:
            return None
        rule = self._rules.get(language) if directive in _CODE else None
        if rule is None:
            return f"no rule for a block of {directive or language!r}"
        name = found["options"].get("caption")
        if name is not None:
            (self.directory / name).write_text(source, encoding="utf-8")
            if language == "python":
                compile(source, name, "exec")
            if language in _FILES:
                return None
        return rule(source)

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=_TIMEOUT_S,
            check=False,
        )

    def _python(self, source: str) -> str | None:
        # Not `-X dev`: asyncio would report each step that a busy machine takes a while for.
        done = self._run(sys.executable, "-X", "faulthandler", "-W", "error", "-c", source)
        self.printed = done.stdout
        return f"it ended with {done.returncode}:\n{done.stdout}" if done.returncode else None

    def _bash(self, source: str) -> str | None:
        if source.rstrip("\n") in quick_start():
            self.printed = _ELSEWHERE
            return None
        done = self._run("bash", "-euo", "pipefail", "-c", source)
        self.printed = done.stdout
        return f"it ended with {done.returncode}:\n{done.stdout}" if done.returncode else None

    def _text(self, expected: str) -> str | None:
        printed, self.printed = self.printed, None
        if printed is None:
            return "an output without a program before it"
        return None if printed is _ELSEWHERE else difference(expected, printed)

    def _json(self, source: str) -> None:
        json.loads(source)

    def _toml(self, source: str) -> None:
        tomllib.loads(source)

    def _console(self, transcript: str) -> str | None:
        before, *parts = _COMMAND.split(transcript)
        if before.strip() or not parts:
            return "a transcript begins with `$ command`"
        commands, expected = parts[::2], parts[1::2]
        # One shell for all, so that `echo $?` and variables mean what they say.
        script = "\n".join(
            f"{command}\nstatus=$?; printf '{_MARK}'; (exit $status)" for command in commands
        )
        outputs = self._run("bash", "-c", f"exec 2>&1\n{script}").stdout.split(_MARK)[:-1]
        if len(outputs) != len(commands):
            return f"{len(commands)} commands, but {len(outputs)} ran:\n{outputs}"
        differences = [
            f"$ {command}\n{found}"
            for command, want, got in zip(commands, expected, outputs, strict=True)
            if (found := difference(want, got)) is not None
        ]
        return "\n".join(differences) or None


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
def test_every_code_block_of_a_page_does_what_it_says(
    page: Path, directory: Path, environment: dict[str, str]
) -> None:
    reader = _Reader(directory, environment)
    for example in read(page, reader):
        example.evaluate()


def test_every_fence_is_found(directory: Path, environment: dict[str, str]) -> None:
    """So that a mistake of the lexer can't make every page pass."""
    found = [len(list(read(page, _Reader(directory, environment)))) for page in PAGES]
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
    block: str, complaint: str, tmp_path: Path, directory: Path, environment: dict[str, str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text(block, encoding="utf-8")
    *before, last = read(page, _Reader(directory, environment))
    for example in before:
        example.evaluate()
    with pytest.raises((AssertionError, ValueError)) as caught:
        last.evaluate()
    assert complaint in str(caught.value)
