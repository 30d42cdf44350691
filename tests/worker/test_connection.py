"""The connection to NATS: TLS, credentials, and how it is opened, lost and closed."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats.errors
import nkeys
import pytest
import trustme
from nats.aio.client import Client
from worker_shop import make_queue, numbers_of

from everlytic_async import LedgerError, QueueError
from everlytic_async._nats import disconnect, error_text
from everlytic_async.ledger import NatsLedger
from everlytic_async.worker import NatsServer, OrderQueue, QueueSettings, Worker
from support.delivery import order
from support.nats_servers import connected, kill, until
from support.servers import Connection, RawServer
from support.shop import Shop
from support.tls import trusting_context

SECRET = "the-passw0rd"


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """Trusts the certificates of `tls_files`."""
    return trusting_context(authority)


@pytest.fixture
def tls_files(authority: trustme.CA, tmp_path: Path) -> dict[str, str]:
    """What a server's configuration has under ``tls``."""
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    files = {"cert_file": str(tmp_path / "cert.pem"), "key_file": str(tmp_path / "key.pem")}
    certificate.private_key_pem.write_to_path(files["key_file"])
    certificate.cert_chain_pems[0].write_to_path(files["cert_file"])
    return files


@asynccontextmanager
async def eavesdropper() -> AsyncIterator[tuple[int, bytearray]]:
    """A server that speaks NATS without TLS; its port, and all that it was sent."""
    received = bytearray()

    async def listen(connection: Connection) -> None:
        info = {"server_id": "x", "version": "2.15.1", "headers": True, "max_payload": 1048576}
        connection.write(f"INFO {json.dumps(info)}\r\n".encode())
        while data := await connection.read(65_536):
            received.extend(data)
            if b"PING" in data:
                connection.write(b"PONG\r\n")

    async with RawServer(listen) as server:
        yield server.port, received


def queue_at(*servers: str, settings: QueueSettings, **how: Any) -> OrderQueue:
    return make_queue(list(servers), settings, **{"timeout_s": 1.0, **how})


def ledger_at(
    *servers: str, settings: QueueSettings, timeout_s: float = 1.0, **how: Any
) -> NatsLedger:
    return NatsLedger(list(servers), settings.subject, patience_s=timeout_s, **how)


@pytest.mark.parametrize("open_", [queue_at, ledger_at])
@pytest.mark.parametrize("asked_by", ["an address", "one of several", "a context", "another host"])
async def test_where_tls_is_asked_for_and_not_offered_nothing_is_sent(
    open_: Callable[..., Any],
    asked_by: str,
    settings: QueueSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with eavesdropper() as (port, received):
        plain, secure = f"nats://127.0.0.1:{port}", f"tls://127.0.0.1:{port}"
        how: dict[str, Any] = {"user": "me", "password": SECRET, "token": SECRET}
        servers = {"an address": [secure], "one of several": [plain, secure]}.get(asked_by, [plain])
        if asked_by == "a context":
            how["tls"] = ssl.create_default_context()
        elif asked_by == "another host":
            servers = [f"nats://queue.example:{port}"]
            at_loopback(monkeypatch)
        with pytest.raises((QueueError, LedgerError), match="does not offer TLS") as raised:
            await open_(*servers, settings=settings, **how).__aenter__()
        assert bytes(received) == b""
        assert SECRET not in str(raised.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of nats-py's call of aiohttp
@pytest.mark.parametrize("open_", [queue_at, ledger_at])
async def test_an_address_for_websockets_that_a_server_does_not_speak_is_named(
    open_: Callable[..., Any], settings: QueueSettings
) -> None:
    async with eavesdropper() as (port, _):
        with pytest.raises((QueueError, LedgerError), match=r"speak WebSocket .* nats://"):
            await open_(f"ws://127.0.0.1:{port}", settings=settings).__aenter__()


def at_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every host name lead to this machine."""
    connect = asyncio.open_connection

    async def redirected(host: str, port: int, **how: Any) -> Any:
        return await connect("127.0.0.1", port, **how)

    monkeypatch.setattr(asyncio, "open_connection", redirected)


@pytest.mark.parametrize("host", ["queue.example", "localhost"])
async def test_plain_nats_is_for_loopback_or_allowed(
    host: str, settings: QueueSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_loopback(monkeypatch)
    async with eavesdropper() as (port, received):
        queue = queue_at(
            f"nats://{host}:{port}",
            settings=settings,
            token=SECRET,
            allow_plain_nats=host != "localhost",
        )
        entering = asyncio.ensure_future(queue.__aenter__())
        await until(lambda: SECRET.encode() in received, "the credentials")
        entering.cancel()
        await asyncio.wait({entering})


@pytest.mark.parametrize("optional", [False, True])
async def test_where_the_server_offers_tls_it_is_used(
    tmp_path: Path,
    settings: QueueSettings,
    trusting: ssl.SSLContext,
    tls_files: dict[str, str],
    *,
    optional: bool,
) -> None:
    config: dict[str, Any] = {"tls": tls_files, "allow_non_tls": optional}
    async with NatsServer(tmp_path / "data", config=config) as server:
        for number, scheme in enumerate(("nats", "tls")):
            address = server.url.replace("nats://", f"{scheme}://")
            async with queue_at(address, settings=settings, tls=trusting) as queue:
                assert await queue.publish(order(number))
        stranger = queue_at(server.url, settings=settings, tls=ssl.create_default_context())
        with pytest.raises(QueueError, match="certificate"):
            await stranger.__aenter__()


async def test_a_server_that_comes_back_without_tls_is_sent_nothing(
    tmp_path: Path,
    settings: QueueSettings,
    trusting: ssl.SSLContext,
    tls_files: dict[str, str],
    caplog: pytest.LogCaptureFixture,
    closed_port: int,
) -> None:
    data = tmp_path / "data"
    server = NatsServer(data, port=closed_port, config={"tls": tls_files})
    await server.start()
    async with queue_at(server.url, settings=settings, tls=trusting, token=SECRET) as queue:
        await server.close()
        async with NatsServer(data, port=closed_port):
            await until(lambda: "does not offer TLS" in caplog.text, "the reconnect")
            assert not queue.connected
        async with NatsServer(data, port=closed_port, config={"tls": tls_files}):
            assert await queue.publish(order(1)) or True
            assert queue.connected


# ------------------------------------------------------------------------- refused credentials


def reload(server: NatsServer, **changes: Any) -> None:
    """Have a server read another configuration, as an operator does."""
    assert server.pid is not None
    path = server.directory / "nats-server.conf"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    os.kill(server.pid, signal.SIGHUP)


def users(*names: str) -> dict[str, Any]:
    return {"users": [{"user": name, "password": SECRET} for name in names]}


def keys(path: Path, number: int) -> str:
    """Write a seed; its public key."""
    seed = nkeys.encode_seed(bytes([number]) * 32, nkeys.PREFIX_BYTE_USER)
    path.write_bytes(seed)
    return str(nkeys.from_seed(bytearray(seed)).public_key.decode())


async def test_revoked_credentials_end_a_worker_with_the_reason(
    tmp_path: Path, settings: QueueSettings, caplog: pytest.LogCaptureFixture
) -> None:
    config = {"authorization": users("me", "other")}
    me: dict[str, Any] = {"user": "me", "password": SECRET}
    async with (
        NatsServer(tmp_path / "data", config=config) as server,
        queue_at(server.url, settings=settings, **me) as queue,
        queue_at(server.url, settings=settings, **{**me, "user": "other"}) as other,
        Shop() as shop,
        shop.client() as client,
    ):
        worker = Worker(client, queue)
        running = asyncio.create_task(worker.run())
        await other.publish(order(1))
        await until(lambda: shop.processed.total() == 1, "the first")
        reload(server, authorization=users("other"))
        await until(lambda: not queue.connected, "the refusal")
        publishing = asyncio.create_task(queue.publish(order(9)))  # it waits for the connection
        with pytest.raises(QueueError, match=r"(?i)closed: .*authorization violation"):
            async with asyncio.timeout(60):
                await running
        assert not worker.status.running
        assert await other.publish(order(2))
        for refused in (publishing, queue.publish(order(3))):
            with pytest.raises(QueueError):
                await refused
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_renewed_credentials_are_read_again(tmp_path: Path, settings: QueueSettings) -> None:
    seed = tmp_path / "user.nk"
    public = await asyncio.to_thread(keys, seed, 1)
    config = {"authorization": {"users": [{"nkey": public}]}}
    async with (
        NatsServer(tmp_path / "data", config=config) as server,
        queue_at(server.url, settings=settings, nkeys_seed=seed, timeout_s=10) as queue,
        ledger_at(server.url, settings=settings, nkeys_seed=seed, timeout_s=10) as ledger,
        Shop() as shop,
        shop.client() as client,
    ):
        worker = Worker(client, queue, ledger)
        running = asyncio.create_task(worker.run())
        await until(lambda: worker.status.ready, "the worker")
        renewed = await asyncio.to_thread(keys, seed, 2)
        reload(server, authorization={"users": [{"nkey": renewed}]})
        await until(lambda: not queue.connected, "the refusal")
        await queue.publish(order(1))
        await until(lambda: shop.processed.total() == 1, "the order")
        worker.stop()
        await running


@asynccontextmanager
async def interrupting(port: int) -> AsyncIterator[tuple[int, Callable[[str], None]]]:
    """Passes on to a NATS server; what is called with an error ends all connections with it."""

    async def pass_on(read: Callable[[int], Any], write: Callable[[bytes], None]) -> None:
        while data := await read(65_536):
            write(data)

    async def serve(connection: Connection) -> None:
        there, onward = await asyncio.open_connection("127.0.0.1", port)
        backward = asyncio.create_task(pass_on(there.read, connection.write))
        try:
            await pass_on(connection.read, onward.write)
        finally:
            onward.close()
            await backward

    def interrupt(error: str) -> None:
        for connection in server.opened:
            connection.write(f"-ERR '{error}'\r\n".encode())
            connection.close()

    async with RawServer(serve) as server:
        yield server.port, interrupt


@pytest.mark.parametrize(
    "error",
    [
        "User Authentication Revoked",
        "Account Authentication Expired",
        "Authorization Violation",
        "maximum connections exceeded",
        "Slow Consumer",
        "Parser Error",
    ],
)
async def test_an_error_that_ends_a_connection_does_not_end_the_queue(
    nats_url: str, settings: QueueSettings, error: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        interrupting(int(nats_url.rpartition(":")[2])) as (port, interrupt),
        queue_at(f"nats://127.0.0.1:{port}", settings=settings, timeout_s=10) as queue,
    ):
        for number in (1, 2):
            assert await queue.publish(order(number))
            [pulled] = await queue.pull(5, 5)
            assert numbers_of([pulled]) == [str(number)]
            if number == 1:
                interrupt(error)
                await until(lambda: not queue.connected, "the interruption")
    assert "NATS: the connection is back" in caplog.text


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ({}, "(?i)authorization"),
        ({"nkeys_seed": "other.nk"}, "(?i)authorization"),
        ({"nkeys_seed": "none"}, "no NATS server could be reached"),
        ({"user_credentials": "cut.creds"}, "does not hold a JWT and a seed"),
    ],
)
async def test_without_credentials_that_the_server_accepts_it_is_not_opened(
    tmp_path: Path, settings: QueueSettings, how: dict[str, str], error: str
) -> None:
    user, _ = [keys(tmp_path / name, n) for n, name in enumerate(("ours.nk", "other.nk"))]
    (tmp_path / "cut.creds").write_text("-----BEGIN NATS USER JWT-----\n")
    config = {"authorization": {"users": [{"nkey": user}]}}
    access: dict[str, Any] = {name: tmp_path / file for name, file in how.items()}
    async with NatsServer(tmp_path / "data", config=config) as server, asyncio.timeout(15):
        with pytest.raises(QueueError, match=error):  # at once: it may try for 30 s
            await make_queue(server.url, settings, **access).__aenter__()


# --------------------------------------------------------------------------- opened and closed


@pytest.mark.parametrize(
    "address",
    [
        "nats://127.0.0.1:9",
        "nats://[",
        *(f"nats://shop:{SECRET}@127.0.0.1:{port}" for port in (SECRET, f"4222{SECRET}", "99999")),
    ],
)
async def test_a_server_that_cannot_be_reached_is_an_error_without_secrets(
    address: str, settings: QueueSettings
) -> None:
    queue = queue_at(address, settings=settings, timeout_s=0.2)
    with pytest.raises(QueueError, match="no NATS server could be reached") as raised:
        await queue.__aenter__()
    assert SECRET not in f"{raised.value} {raised.value!r}"
    with pytest.raises(QueueError, match="the queue is not open"):
        await queue.publish(order(1))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("Port could not be cast to integer value as 's3cret'"), "ValueError"),
        (nats.errors.Error("nats: can't reach nats://shop:s3cret@host"), "Error"),
        (nats.errors.NoServersError(), "no servers available for connection"),
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (None, "no answer"),
    ],
)
def test_an_error_is_described_without_an_address(error: Exception | None, words: str) -> None:
    assert error_text(error) == words


async def test_cancelled_while_it_connects_it_leaves_nothing(settings: QueueSettings) -> None:
    entering = asyncio.ensure_future(make_queue("nats://127.0.0.1:9", settings).__aenter__())
    await asyncio.sleep(0.1)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering


async def test_the_callers_connection_is_used_and_not_closed(
    nats_url: str, settings: QueueSettings
) -> None:
    async with connected(nats_url) as connection:
        async with make_queue(connection, settings) as queue:
            assert queue.connection is connection
            await queue.publish(order(1))
        assert connection.is_connected


async def test_a_connection_that_is_lost_with_something_to_write_is_closed(
    nats_server: NatsServer, settings: QueueSettings, caplog: pytest.LogCaptureFixture
) -> None:
    async with make_queue(nats_server.url, settings) as queue:
        await queue.pull(1, 0.05)
        connection = queue.connection
        await kill(nats_server)
        for _ in range(100):
            await connection.publish("lost", b"x" * 1000)
        await until(lambda: "the connection was lost" in caplog.text, "the loss")
    assert connection.is_closed
    await disconnect(Client())  # one that never connected


def test_an_unknown_keyword_is_an_error() -> None:
    with pytest.raises(TypeError, match="unexpected keyword arguments: tokne"):
        make_queue("nats://127.0.0.1:9", tokne="x")
