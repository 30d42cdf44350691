"""Runs a nats-server for as long as whoever started it lives; a program of its own.

Run by its path, with nothing but the standard library. Its standard input is a line of JSON, the
``command`` and the ``config`` of the server, and then a pipe that ends with the process that holds
it: however that process ends, the system closes the pipe, and the server is told to end. SIGTERM
does the same, for a fork of that process may hold the pipe open. On standard output comes one line
of JSON: ``pid`` and ``ports`` once the server listens; or ``said``, what it wrote to its standard
error, where it ended before.

The server's configuration and the file with its ports lie in a temporary directory that goes with
this process; nothing of them is in a command line, which everybody may read.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

# So long has the server to end by itself once it was told to, in seconds.
_GRACE_S = 10.0
# How often it is looked for the file with the ports, in seconds.
_LOOK_S = 0.005
# How often it is looked whether the parent is still the same, in seconds: a fork of it may hold the
# pipe open when it has died.
_PARENT_S = 1.0
_SAID = "stderr"


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        server.kill()


def _end_with_the_pipe(server: subprocess.Popen[bytes]) -> None:
    while os.read(0, 4096):
        pass
    _end(server)


def _end_when(ending: threading.Event, server: subprocess.Popen[bytes]) -> None:
    ending.wait()
    _end(server)


def _ports(directory: Path) -> dict[str, list[str]] | None:
    for path in directory.glob("*.ports"):
        try:
            found: dict[str, list[str]] = json.loads(path.read_text("utf-8"))
        except ValueError:  # it is being written
            return None
        return found
    return None


def _tell(server: subprocess.Popen[bytes], directory: Path) -> None:
    """Tell when it listens, or that it ended before."""
    ports = None
    while ports is None and server.poll() is None:
        time.sleep(_LOOK_S)
        ports = _ports(directory)
    said = (directory / _SAID).read_text("utf-8", "replace")
    told = {"said": said} if ports is None else {"pid": server.pid, "ports": ports}
    sys.stdout.write(f"{json.dumps(told)}\n")
    sys.stdout.flush()


def _line() -> bytes:
    # Byte by byte, with no buffer: the rest is the thread's to read.
    read = bytearray()
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        read += byte
    return bytes(read)


def _run(wanted: dict[str, Any], directory: Path, ending: threading.Event) -> int:
    parent = os.getppid()
    config = {**wanted["config"], "ports_file_dir": str(directory)}
    path = directory / "nats.conf"
    path.write_text(json.dumps(config, ensure_ascii=False), "utf-8")
    with (directory / _SAID).open("wb") as said:
        server = subprocess.Popen(  # noqa: S603 - the nats-server that was found
            [*wanted["command"], "-c", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            close_fds=False,  # it shares the lock on its directory
        )
    try:
        for wait in (_end_with_the_pipe, partial(_end_when, ending)):
            threading.Thread(target=wait, args=[server], daemon=True).start()
        _tell(server, directory)
        while True:
            try:
                return server.wait(_PARENT_S)
            except subprocess.TimeoutExpired:
                if os.getppid() != parent:
                    return 1
    finally:
        if server.poll() is None:
            _end(server)
        server.wait()


def main() -> int:
    """Run it to its end; its exit code, or the number of the signal that ended it."""
    ending = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda _number, _frame: ending.set())
    line = _line()
    if not line:
        return 1  # whoever started this has ended already
    with tempfile.TemporaryDirectory(
        prefix="everlytic-async-nats-", ignore_cleanup_errors=True
    ) as directory:
        return abs(_run(json.loads(line), Path(directory), ending))


if __name__ == "__main__":
    sys.exit(main())
