"""A terminal for the program under test."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import select
import struct
import termios


class Terminal:
    """A pseudo-terminal, and all that was written to it."""

    def __init__(self) -> None:
        self._ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 150, 0, 0))
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
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.text)

    def drain(self) -> None:
        """Read what was written by now."""
        while select.select([self._ours], [], [], 0)[0]:
            before = self.text
            self._read()
            if self.text == before:
                return

    def type(self, text: str) -> None:
        """Type something."""
        os.write(self._ours, text.encode())

    def close(self) -> None:
        """Close both ends."""
        asyncio.get_running_loop().remove_reader(self._ours)
        os.close(self._ours)
        os.close(self.theirs)
