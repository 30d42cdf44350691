"""The smallest server that takes orders: it is not to be the limit of what is measured.

A bare asyncio protocol, in uvloop where that is installed. Every complete POST is answered
``{"status":"success"}``, perhaps after a fixed latency, and its connection kept alive. It prints
``{"port": ...}`` once it listens. When its standard input ends, it stops and prints its counts, so
that it ends with whoever started it, however that one ends.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import selectors
import sys
import time
from importlib.util import find_spec
from typing import Any, cast

from benchmarks._load import SUCCESS, run

_BODY = json.dumps(SUCCESS, separators=(",", ":")).encode()
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    len(_BODY),
    _BODY,
)
_REFUSAL = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)[ \t]*\r\n", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"


class Counts:
    """What the server has seen."""

    def __init__(self) -> None:
        self.accepted = 0
        self.malformed = 0
        self.in_flight = 0
        self.peak_in_flight = 0


class Endpoint(asyncio.Protocol):
    """One connection: whole POSTs in, one answer to each."""

    def __init__(self, counts: Counts, latency_s: float) -> None:
        self._counts = counts
        self._latency_s = latency_s
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what the answers are written to."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete."""
        received = self._received + data if self._received else data
        while (head := received.find(_HEAD_END)) >= 0:
            length = _LENGTH.search(received, 0, head + 2)
            if not received.startswith(b"POST ") or length is None:
                self._refuse()
                return
            end = head + len(_HEAD_END) + int(length[1])
            if len(received) < end:
                break
            received = received[end:]
            self._accept()
        self._received = received

    def _accept(self) -> None:
        counts = self._counts
        counts.accepted += 1
        counts.in_flight += 1
        counts.peak_in_flight = max(counts.peak_in_flight, counts.in_flight)
        if self._latency_s:
            asyncio.get_running_loop().call_later(self._latency_s, self._answer)
        else:
            self._answer()

    def _answer(self) -> None:
        self._counts.in_flight -= 1
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(_ANSWER)

    def _refuse(self) -> None:
        self._counts.malformed += 1
        if self._transport is not None:
            self._transport.write(_REFUSAL)
            self._transport.close()


async def until_stdin_ends() -> None:
    """Wait until whoever started this process closes the pipe to it, or is gone."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


def say(**figures: Any) -> None:
    """Tell whoever started this process."""
    print(json.dumps(figures), flush=True)


async def serve(host: str, port: int, latency_s: float, *, tell_cpu: bool = False) -> None:
    """Serve until standard input ends."""
    began_s = time.process_time()
    counts = Counts()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Endpoint(counts, latency_s), host, port, backlog=1024)
    say(port=server.sockets[0].getsockname()[1])
    await until_stdin_ends()
    server.close()
    say(
        accepted=counts.accepted,
        malformed=counts.malformed,
        peak_in_flight=counts.peak_in_flight,
        **({"cpu_s": time.process_time() - began_s} if tell_cpu else {}),
    )


def main() -> None:
    """Run the server alone, from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="before each answer")
    parser.add_argument("--tell-cpu", action="store_true", help="among the counts")
    given = parser.parse_args()
    serving = serve(given.host, given.port, given.latency_ms / 1000, tell_cpu=given.tell_cpu)
    if given.latency_ms:
        # epoll and uvloop wait for whole milliseconds, and so answer late; select does not.
        with asyncio.Runner(loop_factory=_exact_loop) as runner:
            runner.run(serving)
    else:
        run(serving, uvloop=find_spec("uvloop") is not None)


def _exact_loop() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


if __name__ == "__main__":
    main()
