"""How lines are printed: as they are, but at words on a terminal, which would break them anywhere.

Colours are for terminals only: rich decides.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from everlytic_async.errors import printable

#: What is printed: text is shown with control characters as ``?``, and a table is rich's own.
Line = Text | Table | str
# To be copied, so in one piece.
_COMMAND = re.compile(r" +everlytic-async ")
_GAP = re.compile(r"  +(?=\S)")


class OutputError(Exception):
    """The standard output, or error, can't be written: a full disk."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """The reader is gone: print no more, and exit as the orders ended."""
        self.quiet = True
        redirect_to_devnull(self.file.fileno())


def file_name(path: str | os.PathLike[str]) -> str:
    """A file's name, fit for a terminal: what is not UTF-8 as U+FFFD."""
    return printable(click.format_filename(path))


def make_console(
    *, stderr: bool = False, file: IO[str] | None = None, width: int | None = None
) -> Console:
    """The standard output, or error, or a file, as rich's console: nothing is guessed."""
    return _Console(
        stderr=stderr,
        file=file,
        width=width,
        soft_wrap=True,
        highlight=False,
        markup=False,
        emoji=False,
    )


def print_line(console: Console, line: Line, *, is_data: bool = False) -> None:
    """Print a line; on a terminal it is wrapped, unless it is data or a command to copy."""
    if isinstance(line, Table):  # it fits itself into the terminal
        console.print(line, soft_wrap=False)
        return
    text = Text(printable(line)) if isinstance(line, str) else line.copy()
    if not text.plain.isprintable():
        text.plain = printable(text.plain)
    if console.file.isatty() and not is_data and not _COMMAND.match(text.plain):
        text = _wrap(console, text)
    console.print(text)


def _wrap(console: Console, text: Text) -> Text:
    """Break a line at words; what is in columns goes on below the last one."""
    if text.cell_len <= console.width:
        return text
    gaps = [each.end() for each in _GAP.finditer(text.plain) if each.end() <= console.width // 2]
    indent = max(gaps, default=0)
    lines = text[indent:].wrap(console, console.width - indent)
    return text[:indent] + Text("\n" + " " * indent).join(lines)


def print_lines(lines: Iterable[Line], *, stderr: bool = False, is_data: bool = False) -> None:
    """Print lines on the standard output, or error: see `writing`."""
    console = make_console(stderr=stderr)
    with writing(console.file, "standard error" if stderr else "standard output"):
        for line in lines:
            print_line(console, line, is_data=is_data)


@contextmanager
def writing(file: IO[str], name: str) -> Iterator[None]:
    """Flush a stream at the end; once its reader is gone or its terminal closed, write no more.

    Raises:
        OutputError: it can't be written for another reason.
    """
    try:
        yield
        file.flush()
    except OSError as error:
        fd = file.fileno()
        is_device = stat.S_ISCHR(os.fstat(fd).st_mode)
        redirect_to_devnull(fd)  # what is still buffered would fail again, at the exit
        if isinstance(error, BrokenPipeError) or (is_device and error.errno == errno.EIO):
            return
        raise OutputError(f"the {name} can't be written: {error.strerror}") from error


def redirect_to_devnull(fd: int) -> None:
    """Discard what is still written to a broken pipe."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, fd)
    os.close(devnull)
