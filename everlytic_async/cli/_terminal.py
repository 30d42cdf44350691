"""The terminal that a person sits at, wherever the standard streams go."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO

import attrs

__all__ = ["Terminal", "has_terminal", "open_terminal"]

_CONTROLLING = "/dev/tty"


@attrs.frozen
class Terminal:
    """A terminal to ask at."""

    _input: IO[str]
    _output: IO[str]

    def confirm(self, lines: Iterable[str], question: str) -> bool:
        """Show the lines, ask, and wait for the answer."""
        self._output.writelines(f"{line}\n" for line in lines)
        self._output.write(f"{question} [y/N] ")
        self._output.flush()
        return self._input.readline().strip().lower() in ("y", "yes")


@contextmanager
def open_terminal() -> Iterator[Terminal | None]:
    """Open the controlling terminal; None where nobody would answer there.

    So that ``2>&1 | tee log`` does not silence a question. A job in the background is not asked:
    the system would stop it when it reads. Without a controlling terminal the standard input and
    error will do, if both are terminals.
    """
    try:
        fd = os.open(_CONTROLLING, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        streams = (sys.stdin, sys.stderr)
        is_terminal = all(stream is not None and stream.isatty() for stream in streams)
        yield Terminal(sys.stdin, sys.stderr) if is_terminal else None
        return
    # Two files of one descriptor: one for both would have to seek between them.
    with (
        open(fd, encoding="utf-8", errors="replace") as reader,  # noqa: PTH123 - no path
        open(fd, "w", encoding="utf-8", errors="backslashreplace", closefd=False) as writer,
    ):
        yield Terminal(reader, writer) if _is_in_foreground(fd) else None


def has_terminal() -> bool:
    """Whether `open_terminal` would open one."""
    with open_terminal() as terminal:
        return terminal is not None


def _is_in_foreground(fd: int) -> bool:
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:  # it was hung up
        return False
