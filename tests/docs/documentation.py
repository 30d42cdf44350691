"""The pages of the documentation and their fenced blocks, for the tests of this folder.

Every fenced block is found by one lexer, whatever its language: a block that no rule runs is a
failure (`test_docs_code_blocks`), so that none can slip by untested.
"""

from __future__ import annotations

import doctest
import re
from collections.abc import Iterator
from pathlib import Path

from sybil import Document, Region, Sybil
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
