"""The server of every benchmark, as a process: an endpoint that takes orders, perhaps limited.

The endpoint is the smallest there can be, so that it is not what limits: a bare asyncio protocol,
in uvloop if that is installed. It responds ``{"status":"success"}`` to every complete POST, perhaps
after a fixed latency, and keeps the connection. A limit is nginx in front of it, with a
configuration of its own in a directory of its own.

The settings come as JSON in the argument, all optional: ``latency_s``; ``certificate``, a file with
its key, for TLS; ``limit``, requests a second; ``burst``; ``connections``, requests at the same
time; ``retry_after``, seconds that a 429 asks for. It prints ``{"port": ...}`` once it listens.
When its standard input ends, it stops and prints what it counted: so it ends with the process that
started it, however that ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import selectors
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory
from typing import Any, cast

import attrs

from benchmarks._load import SUCCESS, emit, run, wait_for_stdin_end

_BODY = json.dumps(SUCCESS, separators=(",", ":")).encode()
_RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    len(_BODY),
    _BODY,
)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)[ \t]*\r\n", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"
_STOP_S = 10.0

# All paths are relative to the directory that nginx is started with.
_CONFIGURATION = """
daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log crit;
events {{
    worker_connections 4096;
}}
http {{
    log_format status '$status';
    access_log access.log status;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    limit_req_status 429;
    limit_conn_status 429;
    limit_req_zone $server_name zone=rate:1m rate={rate}r/s;
    limit_conn_zone $server_name zone=connections:1m;
    map $status $retry_after {{
        429 "{retry_after}";
        default "";
    }}
    upstream endpoint {{
        server 127.0.0.1:{upstream};
        keepalive 512;
        keepalive_requests 100000000;
    }}
    server {{
        listen 127.0.0.1:{port};
        server_name orders;
        keepalive_requests 100000000;
        location / {{
            {limits}
            add_header Retry-After $retry_after always;
            proxy_pass http://endpoint;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
}}
"""


@attrs.define
class Counts:
    """What the endpoint has seen."""

    accepted: int = 0
    first_at: float = 0.0  # by `time.monotonic`
    last_at: float = 0.0


class Endpoint(asyncio.Protocol):
    """One connection: whole POSTs in, one response to each."""

    def __init__(self, counts: Counts, latency_s: float) -> None:
        self._counts = counts
        self._latency_s = latency_s
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what the responses are written to."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        """Respond to every request that is complete."""
        received = self._received + data if self._received else data
        while (head := received.find(_HEAD_END)) >= 0:
            length = _LENGTH.search(received, 0, head + 2)
            if not received.startswith(b"POST ") or length is None:
                raise ValueError(f"not a POST with a Content-Length: {received[:head]!r}")
            end = head + len(_HEAD_END) + int(length[1])
            if len(received) < end:
                break
            received = received[end:]
            self._accept()
        self._received = received

    def _accept(self) -> None:
        counts = self._counts
        counts.accepted += 1
        counts.last_at = time.monotonic()
        counts.first_at = counts.first_at or counts.last_at
        if self._latency_s:
            asyncio.get_running_loop().call_later(self._latency_s, self._respond)
        else:
            self._respond()

    def _respond(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(_RESPONSE)


def _serve(listener: socket.socket, latency_s: float, certificate: str | None = None) -> Counts:
    """Serve until standard input ends."""
    counts = Counts()
    tls = None
    if certificate is not None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate)

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Endpoint(counts, latency_s), sock=listener, ssl=tls
        )
        await wait_for_stdin_end()
        server.close()

    if latency_s or find_spec("uvloop") is None:
        # epoll and uvloop wait for whole milliseconds, and so respond late; select does not.
        loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())
    else:
        run(serve(), uvloop=True)
    return counts


def _listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0), backlog=1024)


def _port(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


def find_nginx() -> str | None:
    """Where nginx is, even if only root's PATH has it."""
    return which("nginx") or which("nginx", path="/usr/sbin:/usr/local/sbin")


@contextmanager
def _nginx(settings: dict[str, Any], directory: str, upstream: int) -> Iterator[int]:
    """Run nginx; its port.

    Its socket listens already, so that no port can be lost, and nothing has to be awaited.
    """
    executable = find_nginx()
    if executable is None:
        raise SystemExit("nginx is not installed")
    listener = _listener()
    port, file, limits = _port(listener), Path(directory, "nginx.conf"), ""
    if settings.get("limit") is not None:
        burst = settings["burst"]
        limits += f"limit_req zone=rate {f'burst={burst} nodelay' if burst else ''};"
    if settings.get("connections") is not None:
        limits += f"limit_conn connections {settings['connections']};"
    configuration = _CONFIGURATION.format(
        port=port,
        upstream=upstream,
        rate=settings.get("limit") or 1,
        retry_after="" if settings.get("retry_after") is None else settings["retry_after"],
        limits=limits,
    )
    file.write_text(configuration)
    # It takes sockets over from the process that starts it, as when it is upgraded in place.
    process = subprocess.Popen(
        [executable, "-p", directory, "-c", str(file)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "NGINX": f"{listener.fileno()};"},
        pass_fds=[listener.fileno()],
    )
    listener.close()
    try:
        yield port
    finally:
        process.terminate()
        try:
            _, errors = process.communicate(timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            _, errors = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"nginx ended with {process.returncode}: {errors}")


def main() -> None:
    """Serve as the settings say."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that nginx ends too
    settings = json.loads(sys.argv[1])
    started_s, throttled = time.process_time(), 0
    limited = settings.get("limit") is not None or settings.get("connections") is not None
    with TemporaryDirectory(prefix="nginx-") as directory:
        with _listener() as listener:
            port = _port(listener)
            limiter = _nginx(settings, directory, port) if limited else nullcontext(port)
            with limiter as front:
                emit(port=front)
                counts = _serve(listener, settings.get("latency_s", 0), settings.get("certificate"))
        if limited:
            throttled = Path(directory, "access.log").read_text().split().count("429")
    emit(**attrs.asdict(counts), throttled=throttled, cpu_s=time.process_time() - started_s)


if __name__ == "__main__":
    main()
