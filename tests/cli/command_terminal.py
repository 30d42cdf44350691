"""A terminal for the command under test."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest
from command_line import Completed, Program, completed, until

QUESTION = "Send them? [y/N] "


class Terminal:
    """A pseudo-terminal, and all that was written to it; a context manager."""

    def __init__(self, columns: int = 150) -> None:
        self._ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self._written = bytearray()
        self._is_read = True
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while self._is_read:
            self._take(0.01)

    def _take(self, wait_s: float) -> bool:
        if not select.select([self._ours], [], [], wait_s)[0]:
            return False
        try:
            self._written += os.read(self._ours, 65_536)
        except OSError:  # EIO: its session has ended
            self._is_read = False
            return False
        return True

    @property
    def text(self) -> str:
        return self._written.decode(errors="ignore")

    @property
    def plain(self) -> str:
        return plain(self.text)

    def wait_for(self, pattern: str) -> None:
        """Wait until the text has something that a regular expression matches."""
        until(lambda: re.search(pattern, self.plain) is not None)

    def drain(self) -> str:
        """Read the rest of what was written, and no more; return all of the text."""
        self._is_read = False
        self._reader.join()
        while self._take(0.05):
            pass
        return self.plain

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def control(self) -> None:
        """In a process of a new session: have this terminal, and be in its foreground."""
        fcntl.ioctl(self.theirs, termios.TIOCSCTTY, 0)

    def streams(self, *names: str) -> dict[str, Any]:
        """For a process whose controlling terminal this is, and which streams are it."""
        return {**dict.fromkeys(names, self.theirs), "preexec_fn": self.control}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.drain()
        os.close(self._ours)
        os.close(self.theirs)


def plain(text: str) -> str:
    """A text without colours and cursor movements."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@contextmanager
def screen(columns: int, *names: str) -> Iterator[Terminal]:
    """Make streams of this process a terminal for `Cli`; afterwards, it has what was written.

    It is not the controlling terminal: nobody can be asked there.
    """
    with (
        Terminal(columns) as terminal,
        open(terminal.theirs, "w", encoding="utf-8", closefd=False) as file,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name in names:
            patch.setattr(sys, name, file)
        yield terminal


def run_at_terminal(
    program: Program,
    *arguments: str | Path,
    answer: str | None = None,
    columns: int = 1000,
    **streams: Any,
) -> tuple[Completed, str]:
    """Run a command whose controlling terminal this is; return what it wrote there, too."""
    here = program.with_env(TERM="xterm-256color", COLUMNS=str(columns))
    with Terminal(columns) as terminal:
        process = here.start(*arguments, **{**terminal.streams("stdin", "stderr"), **streams})
        if answer is not None:
            terminal.wait_for(re.escape(QUESTION))
            terminal.type(answer)
        return completed(process), terminal.drain()
