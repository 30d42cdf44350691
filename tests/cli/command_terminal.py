"""A terminal for the command under test."""

from __future__ import annotations

import asyncio
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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pytest
from command_line import TIMEOUT_S, Completed, Program, completed


def plain(text: str) -> str:
    """A text without colours and cursor movements."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


class Terminal:
    """A pseudo-terminal, and all that was written to it; a context manager."""

    def __init__(self, columns: int = 150) -> None:
        self._ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.text = ""
        asyncio.get_running_loop().add_reader(self._ours, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # the other end is closed: EIO
            data = b""
        if data:
            self.text += data.decode()
        else:
            asyncio.get_running_loop().remove_reader(self._ours)

    @property
    def plain(self) -> str:
        """The text without colours and cursor movements."""
        return plain(self.text)

    async def wait_for(self, pattern: str) -> None:
        """Wait until the text has something that a regular expression matches."""
        async with asyncio.timeout(TIMEOUT_S):
            while re.search(pattern, self.plain) is None:  # noqa: ASYNC110 - no event says so
                await asyncio.sleep(0.005)

    def drain(self) -> str:
        """Read what was written by now; return all of the text."""
        while select.select([self._ours], [], [], 0)[0]:
            before = self.text
            self._read()
            if self.text == before:
                break
        return self.plain

    def type(self, text: str) -> None:
        """Type something."""
        os.write(self._ours, text.encode())

    def control(self) -> None:
        """In a process of a new session: have this terminal, and be in its foreground."""
        fcntl.ioctl(self.theirs, termios.TIOCSCTTY, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        asyncio.get_running_loop().remove_reader(self._ours)
        os.close(self._ours)
        os.close(self.theirs)


@contextmanager
def screen(columns: int, *names: str) -> Iterator[list[str]]:
    """Make streams of this process a terminal for `Cli`; afterwards, what was written to it.

    It is not the controlling terminal: nobody can be asked there.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    shown: list[str] = []

    def read() -> None:
        with suppress(OSError):  # EIO: it was closed
            while data := os.read(ours, 65_536):
                shown.append(data.decode())

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(theirs, "w", encoding="utf-8") as file, pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(sys, name, file)
        yield shown
    reader.join()
    os.close(ours)


QUESTION = "Send them? [y/N] "


async def run_at_terminal(
    program: Program,
    *arguments: str | Path,
    answer: str | None = None,
    columns: int = 1000,
    **streams: Any,
) -> tuple[Completed, str]:
    """Run a command whose controlling terminal this is; return what it wrote there, too."""
    with Terminal(columns) as terminal:
        process = await program.with_env(TERM="xterm-256color", COLUMNS=str(columns)).start(
            *arguments,
            **{
                "stdin": terminal.theirs,
                "stderr": terminal.theirs,
                "preexec_fn": terminal.control,
                **streams,
            },
        )
        if answer is not None:
            await terminal.wait_for(re.escape(QUESTION))
            terminal.type(answer)
        run = await completed(process)
        return run, terminal.drain()
