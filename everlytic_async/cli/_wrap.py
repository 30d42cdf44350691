"""Where prose is broken on a terminal: at words, because the terminal would break it anywhere.

What is not a terminal gets whole lines.
"""

from __future__ import annotations

import os
import re
from typing import IO

_DEFAULT_COLUMNS = 80
# To be copied, so in one piece.
_COMMAND = re.compile(r" +everlytic-async ")
_GAP = re.compile(r"  +(?=\S)")


def terminal_width(stream: IO[str]) -> int | None:
    """How many columns a stream has; None where it is not a terminal."""
    if not stream.isatty():
        return None
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return int(columns)
    try:
        return os.get_terminal_size(stream.fileno()).columns or _DEFAULT_COLUMNS
    except OSError:  # it was hung up
        return None


def find_pieces(line: str, width: int | None) -> tuple[int, list[tuple[int, int]]]:
    """Where a line is broken: the indent of all pieces but the first, and each one's start and end.

    A word is never broken, nor is a command on a line of its own. What is aligned in columns stays
    so: the further pieces start below the last column.
    """
    from rich.cells import cell_len  # noqa: PLC0415 - only for what is long

    if width is None or cell_len(line) <= width or _COMMAND.match(line):
        return 0, [(0, len(line))]
    gaps = [each.end() for each in _GAP.finditer(line) if each.end() <= width // 2]
    indent = max(gaps, default=0)
    pieces: list[tuple[int, int]] = []
    start = end = 0
    for word in re.finditer(r"\S+", line):
        left = indent if pieces else 0
        is_first = left + cell_len(line[start : word.start()]) <= indent
        if not is_first and left + cell_len(line[start : word.end()]) > width:
            pieces.append((start, end))
            start = word.start()
        end = word.end()
    return indent, [*pieces, (start, end)]


def wrap(text: str, width: int | None) -> str:
    """Text for a terminal of that many columns; None for what is not a terminal."""
    lines = []
    for line in text.split("\n"):
        indent, pieces = find_pieces(line, width)
        lines.append(f"\n{' ' * indent}".join(line[start:end] for start, end in pieces))
    return "\n".join(lines)
