"""Connections that end, stall, answer unasked or go through a proxy: what becomes of an order."""

from __future__ import annotations

import asyncio
import base64
import os
import pickle
import resource
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme

from everlytic_async import (
    BatchStoppedError,
    ConfigurationError,
    ConnectionLostError,
    EverlyticClient,
    EverlyticError,
    NotSentError,
    Outcome,
    ResponseTimeoutError,
    UnexpectedResponseError,
    UnknownOutcomeError,
)
from everlytic_async._transport import Transport
from support.clock import FakeClock
from support.delivery import CUSTOMER_HASH, QUICK, STORE_HASH, order, orders
from support.servers import Connection, RawServer, Script, answer
from support.transports import BODY, a_transport, accept_all, until


def a_client(url: str, **settings: Any) -> EverlyticClient:
    hashes = {"store_hash": STORE_HASH, "customer_hash": CUSTOMER_HASH}
    return EverlyticClient(url, **{"retry": QUICK, **hashes, **settings})


# ------------------------------------------------------------------------------ reused connections


async def close_after_2_ms(connection: Connection) -> None:
    await connection.request()
    await connection.answer()
    await asyncio.sleep(0.002)


async def close_2_ms_after_the_first_of_many(connection: Connection) -> None:
    while True:
        await connection.request()
        await connection.answer()
        asyncio.get_running_loop().call_later(0.002, connection._writer.close)


@pytest.mark.parametrize("script", [close_after_2_ms, close_2_ms_after_the_first_of_many])
async def test_a_server_that_closes_soon_after_each_answer_costs_few_orders(
    script: Script,
) -> None:
    async with RawServer(script) as server, a_client(server.url) as client:
        report = await client.send_orders(orders(500))

    assert report.counts[Outcome.SENT] >= 490
    assert report.counts[Outcome.SENT] + report.counts[Outcome.UNKNOWN] == 500


class Gate:
    """A server that answers when it is let; each request waits for its turn."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Connection, asyncio.Future[bool]]] = []

    async def __call__(self, connection: Connection) -> None:
        while True:
            await connection.request()
            turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            self.waiting.append((connection, turn))
            if not await turn:
                return
            await connection.answer()

    async def take(self, posts: list[asyncio.Task[Any]], *, lose: bool = False) -> int:
        """Let all that were posted be answered, or be lost; on how many connections they came."""
        await until(lambda: len(self.waiting) == len(posts))
        waiting, self.waiting = self.waiting, []
        for _, turn in waiting:
            turn.set_result(not lose)
        await asyncio.gather(*posts, return_exceptions=True)
        return len({connection.number for connection, _ in waiting})


async def test_one_reused_connection_at_a_time_until_one_was_answered() -> None:
    gate = Gate()

    def posts(count: int) -> list[asyncio.Task[Any]]:
        return [asyncio.create_task(transport.post(BODY)) for _ in range(count)]

    async with RawServer(gate) as server, a_transport(server.url) as transport:
        connections = []
        for _ in range(3):
            await gate.take(posts(3))
            connections.append(server.connections)
        assert connections == [3, 5, 5]

        # After a loss it is the same again.
        lost = posts(1)
        await gate.take(lost, lose=True)
        assert isinstance(lost[0].exception(), ConnectionLostError)
        await gate.take(posts(3))
        assert server.connections == 7


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(params=["own", "caller's", "caller's over TLS"])
async def connect(
    request: pytest.FixtureRequest, authority: trustme.CA
) -> AsyncIterator[Callable[[Script], Awaitable[tuple[RawServer, Transport]]]]:
    """Start a server and a transport, over each kind of session."""
    async with AsyncExitStack() as stack:

        async def start(script: Script) -> tuple[RawServer, Transport]:
            tls = session = None
            if request.param == "caller's over TLS":
                tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
                authority.issue_cert("localhost").configure_cert(tls)
            server = await stack.enter_async_context(RawServer(script, tls=tls))
            if request.param != "own":
                trust = ssl.create_default_context()
                authority.configure_trust(trust)
                connector = aiohttp.TCPConnector(ssl=trust)
                session = await stack.enter_async_context(
                    aiohttp.ClientSession(connector=connector)
                )
            transport = await stack.enter_async_context(a_transport(server.url, session=session))
            return server, transport

        yield start


Connect = Callable[[Script], Awaitable[tuple[RawServer, Transport]]]


async def test_an_end_that_the_loop_has_not_read_is_seen_before_reuse(connect: Connect) -> None:
    connections: list[Connection] = []

    async def keep(connection: Connection) -> None:
        connections.append(connection)
        await accept_all(connection)

    server, transport = await connect(keep)
    await transport.post(BODY)
    # The end is in the client's kernel at once, and the event loop does not turn in between.
    connections[0]._writer.get_extra_info("socket").shutdown(2)

    assert (await transport.post(BODY)).status == 200
    assert (len(server.bodies), server.connections) == (2, 2)


@pytest.mark.parametrize("turns", [0, 1, 5])
async def test_an_answer_that_nobody_asked_for_is_not_the_next_orders(
    connect: Connect, turns: int
) -> None:
    connections: list[Connection] = []

    async def refuse_all(connection: Connection) -> None:
        connections.append(connection)
        while True:
            await connection.request()
            await connection.answer(422)

    server, transport = await connect(refuse_all)
    await transport.post(BODY)
    connections[0]._writer.write(answer(200))
    for _ in range(turns):
        await asyncio.sleep(0)

    assert (await transport.post(BODY)).status == 422
    assert server.bodies == [BODY, BODY]


async def test_a_server_that_answers_before_it_was_asked_was_sent_nothing() -> None:
    async def blurt(connection: Connection) -> None:
        await connection.answer(200)
        await connection.closed()

    read = b""

    async def remember(connection: Connection) -> None:
        nonlocal read
        await connection.answer(200)
        read = await connection._reader.read(1)

    for script in (blurt, remember):
        async with RawServer(script) as server, a_transport(server.url) as transport:
            for _ in range(3):
                try:
                    await transport.post(BODY)
                except NotSentError:
                    assert read == b""


# ------------------------------------------------------------------------------------- a stall


async def test_what_arrived_during_a_stall_is_read_before_anything_times_out() -> None:
    clock = FakeClock()
    connections: list[Connection] = []

    async def take(connection: Connection) -> None:
        await connection.request()
        connections.append(connection)
        await connection.closed()

    async with (
        RawServer(take) as server,
        a_transport(server.url, clock=clock) as transport,
    ):
        posts = [asyncio.create_task(transport.post(BODY)) for _ in range(8)]
        await until(lambda: len(connections) == len(posts))
        for connection in connections:  # straight to the kernel: the loop has not turned yet
            connection._writer.get_extra_info("socket")._sock.send(answer())
        clock.now += 3_600
        clock.ring_next()  # the watch is the first to run

        assert [(await post).status for post in posts] == [200] * len(posts)


@pytest.mark.skipif(sys.platform != "linux", reason="no other kernel tells when data came")
async def test_a_response_came_when_the_kernel_had_it_not_when_the_loop_read_it() -> None:
    connections: list[Connection] = []

    async def take(connection: Connection) -> None:
        await connection.request()
        connections.append(connection)
        await connection.closed()

    async with RawServer(take) as server, a_transport(server.url) as transport:
        started_at = time.monotonic()
        post = asyncio.create_task(transport.post(BODY))
        await until(lambda: connections)
        connections[0]._writer.get_extra_info("socket")._sock.send(answer(503))
        came_s = time.monotonic() - started_at
        time.sleep(0.5)  # noqa: ASYNC251 - the event loop stalls, which is the point
        response = await post

    assert response.status == 503
    assert response.waited_s <= came_s + 0.05


async def test_how_long_the_loop_stood_still_is_known_of_a_response() -> None:
    clock = FakeClock()
    connections: list[Connection] = []

    async def take(connection: Connection) -> None:
        while True:
            await connection.request()
            connections.append(connection)

    async with RawServer(take) as server, a_transport(server.url, clock=clock) as transport:
        for number, stalled_s in enumerate([0.0, 30.0, 0.0], 1):
            post = asyncio.create_task(transport.post(BODY))
            await until(lambda number=number: len(connections) == number)
            connections[-1]._writer.get_extra_info("socket")._sock.send(answer())
            if stalled_s:
                clock.now += stalled_s
                clock.ring_next()
            response = await post
            assert response.stalled_s == pytest.approx(stalled_s, abs=0.5)
            assert response.waited_s >= stalled_s


async def test_time_in_which_the_loop_stood_still_is_not_counted_while_connecting() -> None:
    clock = FakeClock()
    async with RawServer(lambda connection: connection.closed()) as server:
        url = server.url.replace("http:", "https:")
        async with a_transport(url, clock=clock) as transport:
            post = asyncio.create_task(transport.post(BODY))
            await until(lambda: server.connections)
            clock.now += 3_600
            clock.ring_next()
            await clock.advance(4)
            assert not post.done()
            await clock.advance(2)
            with pytest.raises(NotSentError, match="was not established in time"):
                await post


async def test_silence_that_is_not_a_stall_still_times_out() -> None:
    clock = FakeClock()

    async def silent(connection: Connection) -> None:
        await connection.request()
        await connection.closed()

    async with (
        RawServer(silent) as server,
        a_transport(server.url, clock=clock) as transport,
    ):
        post = asyncio.create_task(transport.post(BODY))
        await until(lambda: server.bodies)
        with pytest.raises(ResponseTimeoutError):
            await clock.run(asyncio.wait_for(post, None))
        assert clock.now <= 1_000 + 5 + 0.5


# ---------------------------------------------------------------------------- a response's headers


@pytest.mark.parametrize(
    ("headers", "accepted"),
    [
        (["X-Long: " + "a" * 60_000], True),
        ([f"X-{number}: {number}" for number in range(2_000)], True),
        (["X-Long: " + "a" * 70_000], False),
        ([f"X-{number}: {number}" for number in range(10_000)], False),
    ],
)
@pytest.mark.parametrize("own", [True, False])
async def test_a_responses_headers_may_have_64_kib(
    headers: list[str], accepted: bool, own: bool
) -> None:
    async def wordy(connection: Connection) -> None:
        await connection.request()
        await connection.answer(200, b"", *headers)

    async with (
        RawServer(wordy) as server,
        aiohttp.ClientSession() as session,
        a_transport(server.url, session=None if own else session) as transport,
    ):
        if accepted:
            assert (await transport.post(BODY)).status == 200
        else:
            with pytest.raises(UnexpectedResponseError):
                await transport.post(BODY)


async def test_a_receipt_has_the_headers_without_the_hashes() -> None:
    async def echo(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.answer(
                200, b"", "X-Request-Id: 7", f"X-Echo: {STORE_HASH}, {CUSTOMER_HASH}"
            )

    async with RawServer(echo) as server, a_client(server.url) as client:
        receipts = [await client.send_order(order(number)) for number in range(2)]
        report = await client.send_orders(orders(2))

    for receipt in [*receipts, *(result.receipt for result in report.results)]:
        assert receipt is not None
        assert receipt.headers["x-request-id"] == "7"
        assert receipt.headers["X-Echo"] == "[hash], [hash]"
        assert "X-Echo" not in repr(receipt)
        again = pickle.loads(pickle.dumps(receipt))
        assert again.headers == receipt.headers


# ------------------------------------------------------------------------------- a caller's session


async def test_a_callers_closed_session_stops_a_batch_at_once_and_says_so() -> None:
    async with RawServer(accept_all) as server:
        session = aiohttp.ClientSession()

        async def then_close() -> AsyncIterator[dict[str, Any]]:
            for number in range(100):
                if number == 10:
                    await session.close()
                yield order(number)

        async with a_client(server.url, session=session) as client:
            with pytest.raises(BatchStoppedError, match="session is closed") as caught:
                await client.send_orders(then_close())
            with pytest.raises(ConfigurationError, match="session is closed"):
                await client.send_order(order(1))
            with pytest.raises(ConfigurationError, match="session is closed"):
                client.stream_orders([order(1)])

    report = caught.value.report
    assert report is not None
    assert report.elapsed_s < 5
    assert report.counts[Outcome.NOT_SENT] >= 1
    assert report.counts[Outcome.SENT] == len(server.bodies) - report.counts[Outcome.UNKNOWN]


# --------------------------------------------------------------------------- what nobody foresaw

_HOOKS = {
    # Whether the order has surely not left when the hook raises.
    "on_request_start": True,
    "on_connection_create_start": True,
    "on_connection_create_end": True,
    "on_dns_resolvehost_start": True,
    "on_dns_resolvehost_end": True,
    "on_request_headers_sent": True,
    "on_request_chunk_sent": True,
    "on_request_end": False,
}


class _ProxyError(Exception):
    """As of a library that aiohttp knows nothing about."""


_ERRORS = [
    AttributeError("'NoneType' object has no attribute 'status'"),
    RuntimeError(f"the handler is closed; {STORE_HASH} user@example.com"),
    _ProxyError("general SOCKS server failure"),
    ValueError("no"),
    KeyError("x"),
    OSError("something"),
    # Such as an exporter's own connection that is refused.
    aiohttp.ClientConnectorError(
        aiohttp.client_reqrep.ConnectionKey("a", 1, *[None] * 5),
        OSError(111, "Connection refused"),
    ),
    aiohttp.ConnectionTimeoutError("elsewhere"),
]


@pytest.mark.parametrize("error", _ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("hook", _HOOKS)
async def test_an_exception_of_a_hook_is_not_sent_only_where_the_order_surely_was_not_sent(
    hook: str, error: Exception
) -> None:
    async def fail(*_: object) -> None:
        raise error

    tracing = aiohttp.TraceConfig()
    getattr(tracing, hook).append(fail)
    async with (
        RawServer(accept_all) as server,
        aiohttp.ClientSession(trace_configs=[tracing]) as session,
        a_transport(server.url, session=session) as transport,
    ):
        kind: type[EverlyticError] = NotSentError if _HOOKS[hook] else UnknownOutcomeError
        with pytest.raises(kind) as caught:
            await transport.post(BODY)
        await asyncio.sleep(0.01)  # for what may still be on its way

    assert len(server.bodies) == (0 if _HOOKS[hook] else 1)
    assert caught.value.__context__ is None
    assert STORE_HASH not in caught.value.message
    assert "user@" not in caught.value.message


async def test_a_hook_that_raises_on_a_lost_connection_hides_nothing() -> None:
    # OpenTelemetry's instrumentation calls a user's response hook, which reads params.response.
    async def read_the_status(_session: object, _context: object, params: Any) -> None:
        _ = params.response.status

    async def lose(connection: Connection) -> None:
        await connection.request()

    tracing = aiohttp.TraceConfig()
    tracing.on_request_exception.append(read_the_status)
    async with (
        RawServer(lose) as server,
        aiohttp.ClientSession(trace_configs=[tracing]) as session,
        a_client(server.url, session=session) as client,
    ):
        report = await client.send_orders(orders(4))

    assert len(server.bodies) == report.counts[Outcome.UNKNOWN] == 4


@pytest.mark.parametrize("hidden", [False, True])
async def test_a_cancellation_travels_on_whatever_a_hook_raises(*, hidden: bool) -> None:
    async def hide(*_: object) -> None:
        if hidden:
            raise AttributeError("status")

    async def silent(connection: Connection) -> None:
        await connection.request()
        await connection.closed()

    tracing = aiohttp.TraceConfig()
    tracing.on_request_exception.append(hide)
    body_sent: list[bool] = []
    async with (
        RawServer(silent) as server,
        aiohttp.ClientSession(trace_configs=[tracing]) as session,
        a_transport(server.url, session=session) as transport,
    ):
        post = asyncio.create_task(transport.post(BODY, body_sent.append))
        await until(lambda: server.bodies)
        post.cancel()
        await asyncio.wait([post])

    assert post.cancelled()
    assert body_sent == [True]


async def test_what_ends_the_process_travels_on_and_the_order_may_have_been_processed() -> None:
    class Stop(BaseException):
        pass

    async def fail(*_: object) -> None:
        raise Stop

    tracing = aiohttp.TraceConfig()
    tracing.on_request_end.append(fail)
    body_sent: list[bool] = []
    async with (
        RawServer(accept_all) as server,
        aiohttp.ClientSession(trace_configs=[tracing]) as session,
        a_transport(server.url, session=session) as transport,
    ):
        with pytest.raises(Stop):
            await transport.post(BODY, body_sent.append)

    assert body_sent == [True]


# ------------------------------------------------------------------------- this machine's limits


@contextmanager
def no_file_descriptors_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Path(os.devnull).open() as lowest:  # the lowest number that is free
        free = lowest.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_lack_of_file_descriptors_is_not_the_endpoints_fault(host: str) -> None:
    async with (
        RawServer(accept_all) as server,
        a_transport(f"http://{host}:{server.port}") as transport,
    ):
        with no_file_descriptors_left(), pytest.raises(NotSentError) as caught:
            await transport.post(BODY)

        assert "this process has no file descriptors left" in caught.value.message
        assert "max_concurrency" in caught.value.message
        assert "ulimit -n" in caught.value.message
        assert "refused" not in caught.value.message
        assert not caught.value.connected
        assert (await transport.post(BODY)).status == 200


# -------------------------------------------------------------------------------------- a proxy

USER, PASSWORD = "shop", "pa55:w@rd"
PROXY_USERINFO = "shop:pa55%3Aw%40rd"


class ProxyServer:
    """An HTTP proxy on loopback that wants a password, and keeps what it could read."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.seen = b""
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._relay(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        credentials = base64.b64encode(f"{USER}:{PASSWORD}".encode())
        if b"Proxy-Authorization: Basic " + credentials not in head:
            writer.write(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")
            return
        method, target, _ = head.split(b" ", 2)
        there = target if method == b"CONNECT" else target.split(b"/")[2]
        host, port = there.decode().rsplit(":", 1)
        up_reader, up_writer = await asyncio.open_connection(host, int(port))
        if method == b"CONNECT":
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            up_writer.write(head)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                self.seen += data
                sink.write(data)
            sink.close()

        try:
            await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))
        finally:
            up_writer.close()


async def test_a_proxy_tunnels_and_reads_neither_hashes_nor_orders(authority: trustme.CA) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(tls)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    proxy = ProxyServer()
    async with (
        RawServer(accept_all, tls=tls) as server,
        proxy.running() as address,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as session,
        a_client(server.url, session=session, proxy=f"http://{PROXY_USERINFO}@{address}") as client,
    ):
        receipts = [await client.send_order(order(number)) for number in range(3)]
        assert PASSWORD not in repr(client)

    assert [receipt.status for receipt in receipts] == [200] * 3
    assert len(server.bodies) == 3
    assert proxy.heads[0].startswith(b"CONNECT localhost:")
    assert len(proxy.heads) == server.connections == 1
    for secret in (STORE_HASH, CUSTOMER_HASH, "customer0@example.com"):
        assert secret.encode() not in b"".join(proxy.heads) + proxy.seen
    assert b"Proxy-Authorization" not in b"".join(server.heads)


async def test_the_clients_own_session_shows_a_proxy_no_hash(authority: trustme.CA) -> None:
    # Its certificate is not trusted, so that no order leaves: the proxy reads what asks for it.
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(tls)
    proxy = ProxyServer()
    async with (
        RawServer(accept_all, tls=tls) as server,
        proxy.running() as address,
        a_client(server.url, proxy=f"http://{PROXY_USERINFO}@{address}") as client,
    ):
        with pytest.raises(NotSentError, match="certificate is not valid"):
            await client.send_order(order(1))

    assert proxy.heads
    for secret in (STORE_HASH, CUSTOMER_HASH):
        assert secret.encode() not in b"".join(proxy.heads) + proxy.seen


async def test_a_proxy_that_refuses_is_named_without_its_password(authority: trustme.CA) -> None:
    proxy = ProxyServer()
    async with (
        proxy.running() as address,
        a_client("https://shop.example", proxy=f"http://shop:wrong-one@{address}") as client,
    ):
        with pytest.raises(NotSentError, match=r"the proxy refused .*407") as caught:
            await client.send_order(order(1))
    assert "wrong-one" not in f"{caught.value!r}{caught.value.__context__!r}"


async def test_a_proxy_of_this_machine_serves_a_sandbox() -> None:
    proxy = ProxyServer()
    async with (
        RawServer(accept_all) as server,
        proxy.running() as address,
        a_client(server.url, proxy=f"http://{PROXY_USERINFO}@{address}") as client,
    ):
        assert (await client.send_order(order(1))).status == 200
    assert proxy.heads[0].startswith(b"POST http://localhost:")


@pytest.mark.parametrize(
    ("base_url", "proxy", "says"),
    [
        ("https://shop.example", "proxy:s3cret@host", "http://proxy.example:3128"),
        ("https://shop.example", "https://u:s3cret@host:1", "session"),
        ("https://shop.example", "socks5://u:s3cret@host:1", "session"),
        ("https://shop.example", "http://u:s3cret@host:1/path", "without a path"),
        ("https://shop.example", "http://u:s3cret@host:99999", "must be a URL"),
        ("https://shop.example", "", "must be a URL"),
        ("https://shop.example", 8080, "must be a URL, got a int"),
        ("http://localhost:1", "http://u:s3cret@proxy.example:1", "allow_http"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_refused_without_being_shown(
    base_url: str, proxy: Any, says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        a_client(base_url, proxy=proxy)
    assert "proxy" in caught.value.message
    assert "s3cret" not in f"{caught.value!r}{caught.value.__cause__!r}"


def test_a_proxy_may_read_the_hashes_where_that_is_allowed() -> None:
    a_client("http://shop.example", proxy="http://proxy.example:3128", allow_http=True)
