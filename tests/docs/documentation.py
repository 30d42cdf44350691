"""The pages of the documentation and their fenced blocks, for the tests of this folder.

Every fenced block is found by one lexer, whatever its language: a block that no rule runs is a
failure (`test_docs_code_blocks`), so that none can slip by untested.
"""

from __future__ import annotations

import doctest
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from sybil import Document, Example, Region, Sybil
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer
from sybil.typing import Evaluator, Parser

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, *sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)]

# What follows the fence: a language, or a MyST directive and its argument; then its options.
_BLOCK = re.compile(
    r"(?:\{(?P<directive>[\w-]+)\}[ ]?)?(?P<argument>[^\n]*)$\n(?P<options>(?::[\w-]+:[^\n]*\n)*)",
    re.MULTILINE,
)
_OPTION = re.compile(r"^:([\w-]+):[ ]*(.*)$", re.MULTILINE)


def _parser(evaluate: Evaluator) -> Parser:
    lex = RawFencedCodeBlockLexer(_BLOCK)

    def parse(document: Document) -> Iterator[Region]:
        for region in lex(document):
            found = region.lexemes
            found["options"] = dict(_OPTION.findall(found["options"]))
            found["source"] = found["source"].removeprefix("\n")  # what sets the options apart
            region.parsed = found["source"]
            region.evaluator = evaluate
            yield region

    return parse


def read(page: Path, evaluate: Evaluator) -> Document:
    """The blocks of a page, in their order; `evaluate` is what runs one of them.

    The lexemes of a block: ``directive`` (None for a plain fence), ``argument`` (its language),
    ``options`` (a dictionary), ``source``.
    """
    document: Document = Sybil([_parser(evaluate)], path=str(ROOT), patterns=["*.md"]).parse(page)
    return document


def quick_start(language: str = "bash") -> list[str]:
    """The commands of the README's quick start; their outputs, with ``text``."""
    section = README.read_text(encoding="utf-8").split("\n## Quick start\n")[1].split("\n## ")[0]
    block = re.compile(rf"^```{language}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return [source.removesuffix("\n") for source in block.findall(section)]


def _plain(text: str) -> str:
    """Without what a reader doesn't see: blanks at the ends of lines, and lines around it."""
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n") + "\n"


def difference(expected: str, printed: str) -> str | None:
    """How an output differs from the expected one, in which ``...`` stands for anything."""
    checker = doctest.OutputChecker()
    want, got = _plain(expected), _plain(printed)
    flags = doctest.ELLIPSIS | doctest.REPORT_NDIFF
    if checker.check_output(want, got, flags):
        return None
    return checker.output_difference(doctest.Example("", want), got, flags)


# Of MyST: they hold no code.
_PROSE = {"eval-rst", "toctree", "include", "note", "warning", "tip"}
_CODE = {None, "code-block"}
# With a caption, they are there for the blocks that come after them, and are not run by themselves.
_FILES = {"python", "text"}
_COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)$", re.MULTILINE)
_MARK = "\x1e"  # the record separator: no program here prints it
_TIMEOUT_S = 120
# Of the quick start, which test_docs_quick_start and .ci/run run where it is meant to be run.
_ELSEWHERE = "printed elsewhere"


class Reader:
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

    def follow(self, page: Path, *, only_files: bool = False) -> None:
        """Do all that the page says, or only save its files."""
        for example in read(page, self):
            if not only_files or "caption" in example.region.lexemes["options"]:
                example.evaluate()

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
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
        return self._program(sys.executable, "-X", "faulthandler", "-W", "error", "-c", source)

    def _bash(self, source: str) -> str | None:
        if source.rstrip("\n") in quick_start():
            self.printed = _ELSEWHERE
            return None
        return self._program("bash", "-euo", "pipefail", "-c", source)

    def _program(self, *command: str) -> str | None:
        done = self.run(*command)
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
        outputs = self.run("bash", "-c", f"exec 2>&1\n{script}").stdout.split(_MARK)[:-1]
        if len(outputs) != len(commands):
            return f"{len(commands)} commands, but {len(outputs)} ran:\n{outputs}"
        differences = [
            f"$ {command}\n{found}"
            for command, want, got in zip(commands, expected, outputs, strict=True)
            if (found := difference(want, got)) is not None
        ]
        return "\n".join(differences) or None
