"""A server that limits, as a process: nginx where it is installed, else the package's sandbox.

nginx is the better judge, for nobody here wrote it. It runs with a configuration of its own in a
directory of its own, as one process, before `benchmarks.server`. (Its `return` would answer before
the limit is looked at.) The limiter speaks as `benchmarks.server` does: it prints its port, and,
when its standard input ends, it stops and prints how often it gave which status.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any, NoReturn

from benchmarks._load import CUSTOMER_HASH, STORE_HASH, run
from benchmarks.server import say, until_stdin_ends
from everlytic_async.sandbox import Faults, Sandbox

_TRIES = 3
_PATIENCE_S = 10.0
_POLL_S = 0.02

_CONFIGURATION = """
daemon off;
master_process off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log crit;
events {{
    worker_connections 4096;
}}
http {{
    log_format when '$msec $status';
    access_log {directory}/access.log when;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {zones}
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
        listen 127.0.0.1:{port} backlog=1024;
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


def find_nginx() -> str | None:
    """Where nginx is, be it where only root looks."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def _configuration(settings: dict[str, Any], directory: str, port: int) -> str:
    zones, limits = [], []
    if settings["limit"] is not None:
        zones += [
            f"limit_req_zone $server_name zone=rate:1m rate={settings['limit']}r/s;",
            "limit_req_status 429;",
            "limit_req_log_level info;",
        ]
        burst = settings["burst"]
        limits.append(
            f"limit_req zone=rate burst={burst} nodelay;" if burst else "limit_req zone=rate;"
        )
    if settings["connections"] is not None:
        zones += [
            "limit_conn_zone $server_name zone=connections:1m;",
            "limit_conn_status 429;",
            "limit_conn_log_level info;",
        ]
        limits.append(f"limit_conn connections {settings['connections']};")
    return _CONFIGURATION.format(
        directory=directory,
        port=port,
        upstream=settings["upstream"],
        retry_after="" if settings["retry_after"] is None else settings["retry_after"],
        zones="\n    ".join(zones),
        limits="\n            ".join(limits),
    )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port)):
            return True
    except ConnectionRefusedError:
        return False


@contextmanager
def _process(arguments: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _begun(process: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until it listens; False where it ended instead, such as for a port that was taken."""
    give_up_at = time.monotonic() + _PATIENCE_S
    while process.poll() is None and time.monotonic() < give_up_at:
        if _listens(port):
            return True
        time.sleep(_POLL_S)
    return False


def _nginx(executable: str, settings: dict[str, Any]) -> None:
    for _ in range(_TRIES):
        with TemporaryDirectory(prefix="nginx-") as directory:
            port = _free_port()
            file = Path(directory, "nginx.conf")
            file.write_text(_configuration(settings, directory, port))
            with _process([executable, "-p", directory, "-c", str(file)]) as process:
                begun = _begun(process, port)
                if begun:
                    say(port=port)
                    sys.stdin.read()
            if begun:
                moments: dict[str, list[float]] = {}
                for line in Path(directory, "access.log").read_text().splitlines():
                    moment, status = line.split()
                    moments.setdefault(status, []).append(float(moment))
                statuses = {status: len(times) for status, times in moments.items()}
                # The look whether it listens yet is a connection without a request: not logged.
                say(statuses=statuses, moments=moments)
                return
            log = Path(directory, "error.log")
            print(log.read_text() if log.exists() else "nginx did not start", file=sys.stderr)
    raise SystemExit(f"nginx did not listen after {_TRIES} tries")


async def _sandbox(settings: dict[str, Any]) -> None:
    faults = Faults(
        latency_s=settings["latency_s"],
        rate=settings["limit"],
        burst=settings["burst"],
        max_in_flight=settings["connections"],
        retry_after_s=settings["retry_after"],
    )
    sandbox = Sandbox(store_hash=STORE_HASH, customer_hash=CUSTOMER_HASH, faults=faults, keep=0)
    async with sandbox:
        say(port=int(sandbox.base_url.rpartition(":")[2]))
        await until_stdin_ends()
    say(statuses={str(status): count for status, count in sandbox.statuses.items()})


def _terminated(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit("terminated")  # so that nginx ends too


def main() -> None:
    """Serve as the JSON of the argument says.

    ``backend`` (``nginx`` or ``sandbox``), ``limit`` (requests per second or null), ``burst``,
    ``retry_after`` (seconds or null), ``connections`` (at the same time, or null), ``upstream``
    (nginx's: a port), ``latency_s`` (the sandbox's).
    """
    signal.signal(signal.SIGTERM, _terminated)
    settings = json.loads(sys.argv[1])
    if settings["backend"] == "sandbox":
        run(_sandbox(settings))
        return
    executable = find_nginx()
    if executable is None:
        raise SystemExit("nginx is not installed")
    _nginx(executable, settings)


if __name__ == "__main__":
    main()
