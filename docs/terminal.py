"""Makes ``terminal.svg``, the picture of a run in the README: ``python docs/terminal.py``.

The commands run for real, against the sandbox. What differs from run to run (ports, times) is
replaced by fixed values, so that the picture changes only if the command's output does.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

DOCS = Path(__file__).parent
PICTURE = DOCS / "terminal.svg"
COLUMNS = 92
COMMANDS = (
    "check --show 1 shopify.csv",
    "send --sandbox --rate 10 shopify.csv",
)
# Of all that moves on a terminal, the command writes these.
_MOVES = re.compile(r"(\r|\n|\x1b\[2K|\x1b\[1A|\x1b\[\?25[lh])")
_VARYING = {
    r"127\.0\.0\.1:\d+": "127.0.0.1:8025",
    r" in 0\.\d s": " in 0.0 s",
    r" in [1-9]\.\d s, \d+/s": " in 2.0 s, 10/s",
}
_FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def run(command: str) -> str:
    """What a command prints on a terminal, as it stands there at its end."""
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "shopify.csv").symlink_to(DOCS / "examples" / "shopify.csv")
        done = subprocess.run(  # noqa: S603 - the commands are those above
            [sys.executable, "-m", "everlytic_async", *command.split()],
            cwd=directory,
            env={
                "PATH": os.environ["PATH"],
                "HOME": directory,
                "LANG": "C.UTF-8",
                "FORCE_COLOR": "1",
                "TERM": "xterm-256color",
                "COLUMNS": str(COLUMNS),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,  # some of the orders are invalid
        )
    text = last_frame(done.stdout.decode())
    for varying, fixed in _VARYING.items():
        text = re.sub(varying, fixed, text)
    return text.strip("\n")


def last_frame(text: str) -> str:
    """What stands on the terminal once all of a text is written to it."""
    lines, place = [""], 0
    for part in _MOVES.split(text):
        match part:
            case "\n":
                place += 1
                lines += [""] * (place == len(lines))
            case "\x1b[1A":
                place -= 1
            case "\x1b[2K":
                lines[place] = ""
            case _ if not _MOVES.fullmatch(part):
                lines[place] += part
    return "\n".join(lines)


def draw() -> str:
    """The picture of all commands, one after another."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True)
        for place, command in enumerate(COMMANDS):
            if place:
                console.print()
            console.print(Text.assemble(("$ ", "dim"), (f"everlytic-async {command}", "bold")))
            console.print(Text.from_ansi(run(command)))
        svg = console.export_svg(title="everlytic-async", unique_id="everlytic-async")
    # It loads nothing: the reader's own fonts will do.
    return _FONT.sub("", svg)


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
