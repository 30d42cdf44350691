"""One POST against servers of every kind: what surely happened to it, and what never may."""

from __future__ import annotations

import asyncio
import inspect
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
import trustme

from everlytic_async import (
    ConfigurationError,
    ConnectionLostError,
    NotSentError,
    ResponseTimeoutError,
    Timeouts,
    UnknownOutcomeError,
)
from everlytic_async import _failures as module
from everlytic_async._in_flight import Request
from everlytic_async._secrets import Secrets
from everlytic_async._transport import Transport
from support.clock import FakeClock
from support.delivery import CUSTOMER_HASH, STORE_HASH
from support.servers import SUCCESS, Connection, RawServer, Script, answer
from support.transports import BODY, a_transport, accept_all, never_answer, until

PATH = "/servlet/e-commerce/orders"
#: More than the sockets of both sides hold.
LARGE = b'{"contact_email":"' + b"x" * 16_000_000 + b'"}'
LIMIT = 64 * 1024

large_bodies = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")


def once(data: bytes, then: Callable[[Connection], Awaitable[None]] | None = None) -> Script:
    """Read a request, send some bytes, and close, or do what comes then."""

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(data)
        if then is not None:
            await then(connection)

    return script


# ------------------------------------------------------------------------------------ the request


async def test_a_post_is_as_documented() -> None:
    async with RawServer(accept_all) as server, a_transport(server.url) as transport:
        got = await transport.post(BODY)

        lines = server.heads[0].decode().rstrip().split("\r\n")
        headers = [line.split(": ", 1) for line in lines[1:]]
        names = [name.lower() for name, _ in headers]
        sent = {name.lower(): value for name, value in headers}
        assert lines[0] == f"POST {PATH} HTTP/1.1"
        assert server.bodies == [BODY]
        assert sent["x-ev-store-hash"] == STORE_HASH
        assert sent["x-ev-customer-hash"] == CUSTOMER_HASH
        assert sent["content-type"] == "application/json"
        assert sent["content-length"] == str(len(BODY))
        assert len(names) == len(set(names))
        assert sent["accept-encoding"] == "identity"
        assert (got.status, got.body) == (200, SUCCESS)


async def test_connections_are_kept_and_used_again() -> None:
    async with RawServer(accept_all) as server, a_transport(server.url) as transport:
        for _ in range(5):
            await transport.post(BODY)

        assert len(server.bodies) == 5
        assert server.connections == 1


async def test_no_more_room_is_made_for_an_answer_than_is_read_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    receive = socket.socket.recv

    async with RawServer(accept_all) as server, a_transport(server.url) as transport:

        def recv(self: socket.socket, size: int, flags: int = 0) -> bytes:
            # The event loop has a pair of its own, and the server's end is in this process too.
            if self.family != socket.AF_UNIX and self.getsockname()[1] != server.port:
                asked.append(size)
            return receive(self, size, flags)

        monkeypatch.setattr(socket.socket, "recv", recv)
        for _ in range(3):
            await transport.post(BODY)

    assert asked
    assert set(asked) == {LIMIT}


async def test_idle_connections_are_closed_before_a_server_would() -> None:
    # Apache's KeepAliveTimeout is 5 s, the shortest of the common servers'.
    async with a_transport("https://shop.example") as transport:
        own: Any = transport._owned_session
        assert own.connector._keepalive_timeout < 5


async def test_cookies_are_not_kept() -> None:
    async def set_cookie(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.answer(200, SUCCESS, "Set-Cookie: JSESSIONID=abc; Path=/")

    async with RawServer(set_cookie) as server, a_transport(server.url) as transport:
        await transport.post(BODY)
        await transport.post(BODY)

        assert len(server.heads) == 2
        assert b"cookie" not in b"".join(server.heads).lower()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def tls(authority: trustme.CA) -> ssl.SSLContext:
    """Of a server whose certificate is for ``localhost``, by an authority nobody knows."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    return context


@pytest.fixture
async def trusting(authority: trustme.CA) -> AsyncIterator[aiohttp.ClientSession]:
    """A session that knows the authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


async def test_a_post_over_tls(tls: ssl.SSLContext, trusting: aiohttp.ClientSession) -> None:
    async with (
        RawServer(accept_all, tls=tls) as server,
        a_transport(server.url, session=trusting) as transport,
    ):
        assert (await transport.post(BODY)).status == 200
        assert server.bodies == [BODY]


# ----------------------------------------------------------------------- surely not processed


@asynccontextmanager
async def full_backlog() -> AsyncIterator[str]:
    """The address of a socket that listens and never accepts, its queue full."""
    with socket.socket() as listening, ExitStack() as waiting:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            one = waiting.enter_context(socket.socket())
            one.settimeout(0)  # not to wait here
            one.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


async def is_not_sent(transport: Transport, reason: str) -> None:
    with pytest.raises(NotSentError, match=reason) as caught:
        await transport.post(BODY)
    assert type(caught.value) is NotSentError
    assert transport.host in caught.value.message


@pytest.mark.parametrize("timeouts", [{"connect_s": 0.15}, {"total_s": 0.15}], ids=str)
async def test_a_connection_that_hangs_is_not_sent(timeouts: dict[str, float]) -> None:
    async with full_backlog() as url, a_transport(url, **timeouts) as transport:
        await is_not_sent(transport, "was not established in time")


async def test_an_unknown_host_and_a_closed_session_are_not_sent() -> None:
    async with a_transport("https://shop.invalid") as transport:
        await is_not_sent(transport, "name could not be resolved")
        await transport.close()
        await is_not_sent(transport, "session is closed")


async def test_waiting_for_a_place_in_a_callers_pool_is_not_sent() -> None:
    connector = aiohttp.TCPConnector(limit=1)
    async with (
        RawServer(never_answer) as server,
        aiohttp.ClientSession(connector=connector) as session,
        a_transport(server.url, session=session) as patient,
        a_transport(server.url, session=session, total_s=0.15) as transport,
    ):
        first = await started(server, patient)
        await is_not_sent(transport, "in time")
        assert len(server.heads) == 1
        first.cancel()
        await asyncio.wait([first])


# ------------------------------------------------------------------- it may have been processed


@large_bodies
async def test_a_large_body_read_to_its_end_is_unknown() -> None:
    async def reset(connection: Connection) -> None:
        connection.reset()

    async with RawServer(once(b"", reset)) as server, a_transport(server.url) as transport:
        with pytest.raises(ConnectionLostError):
            await transport.post(LARGE)

        assert [len(body) for body in server.bodies] == [len(LARGE)]


async def test_a_kept_connection_that_the_server_closes_is_unknown_and_not_tried_again() -> None:
    async def answer_once(connection: Connection) -> None:
        await connection.request()
        await connection.answer()
        await connection.request()  # and close: the race that keep-alive has

    async with RawServer(answer_once) as server, a_transport(server.url) as transport:
        await transport.post(BODY)
        with pytest.raises(ConnectionLostError):
            await transport.post(BODY)

        assert (len(server.bodies), server.connections) == (2, 1)


@pytest.mark.parametrize("finished", [True, False])
async def test_an_upload_cut_right_at_its_end_may_have_arrived(*, finished: bool) -> None:
    # All bytes are with the kernel, but the writing was cancelled before it could say so.
    upload: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    if finished:
        upload.set_exception(aiohttp.UploadAbortedError("cut"))
        upload.exception()
    tracker: Any = SimpleNamespace(attempts=1, bytes_written=10, upload_complete=upload)
    task: Any = asyncio.current_task()
    request = Request(tracker, 10, 0.0, task, 0)

    assert request.body_sent()
    tracker.bytes_written = 9
    assert not request.body_sent()


@pytest.mark.parametrize("status", [422, 503])
@pytest.mark.parametrize("then", [None, Connection.closed], ids=["lost", "silent"])
async def test_the_status_is_the_verdict_where_only_the_message_was_cut_short(
    status: int, then: Callable[[Connection], Awaitable[None]] | None
) -> None:
    part = f"HTTP/1.1 {status} No\r\nRetry-After: 7\r\nContent-Length: 50\r\n\r\nbusy".encode()
    async with (
        RawServer(once(part, then)) as server,
        a_transport(server.url, read_s=0.1) as transport,
    ):
        got = await transport.post(BODY)

    assert (got.status, got.body, got.headers["Retry-After"]) == (status, b"busy", "7")


@pytest.mark.parametrize("slow", ["connection", "answer"])
async def test_a_response_has_the_time_when_the_order_was_sent(
    monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    clock = FakeClock()
    started_at = clock.now
    connect = aiohttp.TCPConnector.connect

    async def slow_connect(*args: Any, **named: Any) -> aiohttp.connector.Connection:
        if slow == "connection":
            clock.now += 3
        return await connect(*args, **named)

    async def slow_answer(connection: Connection) -> None:
        await connection.request()
        if slow == "answer":
            clock.now += 3
        await connection.answer()

    monkeypatch.setattr(aiohttp.TCPConnector, "connect", slow_connect)
    async with (
        RawServer(slow_answer) as server,
        a_transport(server.url, clock=lambda: clock.now, read_s=99, total_s=99) as transport,
    ):
        got = await transport.post(BODY)

    assert got.sent_at == started_at + (3 if slow == "connection" else 0)
    assert got.waited_s == (3 if slow == "answer" else 0)


@large_bodies
@pytest.mark.parametrize("slow", ["upload", "answer", "nothing"])
async def test_the_wait_for_the_answer_starts_when_a_large_body_was_sent(slow: str) -> None:
    clock = FakeClock()

    async def slowly(connection: Connection) -> None:
        await connection.head()
        if slow == "upload":
            clock.now += 3
        await connection.rest()
        if slow == "answer":
            clock.now += 3
        await connection.answer()

    async with (
        RawServer(slowly) as server,
        a_transport(server.url, clock=clock, read_s=99, total_s=99) as transport,
    ):
        got = await transport.post(b"x" * 20_000_000)
    assert got.waited_s == (3 if slow == "answer" else 0)


@large_bodies
async def test_an_answer_before_the_upload_is_over_was_not_waited_for() -> None:
    clock = FakeClock()

    async def at_once(connection: Connection) -> None:
        await connection.head()
        clock.now += 3
        await connection.answer(503, b"busy", "Connection: close")
        await connection.closed()

    async with (
        RawServer(at_once) as server,
        a_transport(server.url, clock=clock, read_s=99, total_s=99) as transport,
    ):
        assert (await transport.post(b"x" * 20_000_000)).waited_s == 0


async def test_with_a_callers_session_the_whole_attempt_was_waited_for() -> None:
    clock = FakeClock()

    async def slowly(connection: Connection) -> None:
        await connection.request()
        clock.now += 3
        await connection.answer()

    async with (
        RawServer(slowly) as server,
        aiohttp.ClientSession() as session,
        a_transport(server.url, session=session, clock=clock, read_s=99, total_s=99) as transport,
    ):
        sent_at = clock.now
        got = await transport.post(BODY)
        assert (got.sent_at, got.waited_s) == (sent_at, 3)


# ----------------------------------------------------------------------------- how much is read


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT, LIMIT + 1, 10 * LIMIT])
async def test_a_long_response_is_cut_and_its_connection_is_free_again(size: int) -> None:
    async def long(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.answer(200, b"x" * size)

    connector = aiohttp.TCPConnector(limit=1)
    async with (
        RawServer(long) as server,
        aiohttp.ClientSession(connector=connector) as session,
        a_transport(server.url, session=session) as transport,
    ):
        for _ in range(3):
            got = await transport.post(BODY)
            assert len(got.body) == min(size, LIMIT)


async def test_an_answer_that_ends_with_the_connection_is_read_to_its_end() -> None:
    async def slowly(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\n\r\n")
        for part in (b'{"sta', b'tus":"su', b'ccess"}'):
            await connection.send(part)
            await asyncio.sleep(0)

    async with RawServer(slowly) as server, a_transport(server.url) as transport:
        assert (await transport.post(BODY)).body == SUCCESS


# -------------------------------------------------------------------------------- the time-outs


async def test_silence_is_counted_from_the_last_sign_of_life() -> None:
    clock = FakeClock()
    go_on = asyncio.Semaphore(0)

    async def in_pieces(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n")
        for _ in range(3):
            await go_on.acquire()
            await connection.send(b"x")

    async with (
        RawServer(in_pieces) as server,
        a_transport(server.url, clock=clock, read_s=30, total_s=1_000) as transport,
    ):
        post = await started(server, transport)
        for _ in range(3):
            for _ in range(50):  # what was sent on loopback is there in the loop's next round
                await asyncio.sleep(0)
            await clock.advance(29)
            go_on.release()

        assert (await post).body == b"xxx"


async def test_silence_is_not_counted_before_the_body_was_sent() -> None:
    # Connecting has a time-out of its own, and an upload may take as long as the attempt may.
    clock = FakeClock()
    async with RawServer(lambda connection: connection.closed()) as server:
        url = server.url.replace("http:", "https:")
        async with a_transport(
            url, clock=clock, read_s=30, connect_s=200, total_s=100
        ) as transport:
            post = asyncio.create_task(transport.post(BODY))
            await until(lambda: server.connections)
            await clock.advance(99)
            assert not post.done()
            await clock.advance(1.5)
            with pytest.raises(NotSentError):
                await post


async def test_many_attempts_run_out_of_time_each_at_its_own() -> None:
    clock = FakeClock()
    async with (
        RawServer(never_answer) as server,
        a_transport(server.url, clock=clock, read_s=1_000, total_s=60) as transport,
    ):
        posts = []
        for _ in range(4):
            posts.append(asyncio.create_task(transport.post(BODY)))
            await until(lambda: len(server.bodies) == len(posts))
            await clock.advance(10)
        ended = []
        for _ in range(4):
            ended.append(sum(post.done() for post in posts))
            await clock.advance(10)
        await clock.advance(11)
        errors = await asyncio.gather(*posts, return_exceptions=True)

        assert {type(error) for error in errors} == {ResponseTimeoutError}
        assert ended == [0, 0, 0, 1]


async def test_nothing_looks_at_the_clock_where_nothing_is_in_flight() -> None:
    clock = FakeClock()
    async with (
        RawServer(accept_all) as server,
        a_transport(server.url, clock=clock) as transport,
    ):
        await transport.post(BODY)
        assert clock.next_at is not None
        await clock.advance(1)
        assert clock.next_at is None


async def test_a_time_out_leaves_no_request_to_cancel_behind() -> None:
    task = asyncio.current_task()
    assert task is not None
    async with RawServer(never_answer) as server, a_transport(server.url, read_s=0.1) as transport:
        with pytest.raises(ResponseTimeoutError):
            await transport.post(BODY)

        assert task.cancelling() == 0
        async with asyncio.timeout(10):
            await asyncio.sleep(0)


async def test_a_time_out_within_a_task_that_cleans_up_after_its_cancellation() -> None:
    async def last_words(transport: Transport) -> int:
        task = asyncio.current_task()
        assert task is not None
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            with pytest.raises(ResponseTimeoutError):
                await transport.post(BODY)
            return task.cancelling()
        raise AssertionError

    async with RawServer(never_answer) as server, a_transport(server.url, read_s=0.1) as transport:
        task = asyncio.create_task(last_words(transport))
        await asyncio.sleep(0)
        task.cancel()

        assert await task == 1


async def test_a_time_out_that_a_session_turns_into_another_error_leaves_nothing_behind() -> None:
    async def hide(*_: object) -> None:
        raise aiohttp.ClientConnectionError("something else")

    tracing = aiohttp.TraceConfig()
    tracing.on_request_exception.append(hide)
    task = asyncio.current_task()
    assert task is not None
    async with (
        RawServer(never_answer) as server,
        aiohttp.ClientSession(trace_configs=[tracing]) as session,
        a_transport(server.url, session=session, read_s=0.1) as transport,
    ):
        with pytest.raises(UnknownOutcomeError):
            await transport.post(BODY)

        assert task.cancelling() == 0


# ---------------------------------------------------------------------------------- cancellation


async def started(server: RawServer, transport: Transport) -> asyncio.Task[Any]:
    task = asyncio.create_task(transport.post(BODY))
    await until(lambda: server.bodies)
    return task


async def test_cancellation_from_outside_travels_on() -> None:
    async with RawServer(never_answer) as server, a_transport(server.url) as transport:
        task = await started(server, transport)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert task.cancelled()


@pytest.mark.parametrize("first", ["outside", "time-out"])
async def test_cancellation_that_coincides_with_a_time_out_travels_on(first: str) -> None:
    clock = FakeClock()
    async with (
        RawServer(never_answer) as server,
        a_transport(server.url, clock=clock) as transport,
    ):
        task = await started(server, transport)
        if first == "outside":
            task.cancel()
        while task.cancelling() < 1 + (first == "outside"):
            clock.ring_next()
        if first == "time-out":
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert task.cancelled()


async def test_a_callers_own_time_out_around_the_post_is_the_callers() -> None:
    async with RawServer(never_answer) as server, a_transport(server.url) as transport:
        with pytest.raises(TimeoutError):  # and none of ours
            async with asyncio.timeout(0.05):
                await transport.post(BODY)

        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0


@pytest.mark.parametrize("own", [True, False])
async def test_closing_ends_what_is_in_flight(*, own: bool) -> None:
    async with (
        RawServer(never_answer) as server,
        aiohttp.ClientSession() as session,
        a_transport(server.url, session=None if own else session) as transport,
    ):
        task = await started(server, transport)
        await transport.close()
        with pytest.raises(UnknownOutcomeError, match="the client was closed"):
            await asyncio.wait_for(task, 10)

        assert not session.closed


# ---------------------------------------------------------------------------- a caller's session


async def test_a_callers_session_is_used_and_never_closed() -> None:
    async with (
        RawServer(accept_all) as server,
        aiohttp.ClientSession(headers={"X-Of-The-Caller": "1"}) as session,
    ):
        async with a_transport(server.url, session=session) as transport:
            await transport.post(BODY)

        assert not session.closed
        assert b"X-Of-The-Caller: 1" in server.heads[0]


async def test_a_sessions_raise_for_status_does_not_change_a_verdict() -> None:
    async with (
        RawServer(once(answer(422, b"no"))) as server,
        aiohttp.ClientSession(raise_for_status=True) as session,
        a_transport(server.url, session=session) as transport,
    ):
        assert (await transport.post(BODY)).status == 422


async def test_a_sessions_time_outs_do_not_change_a_verdict() -> None:
    gate = asyncio.Event()

    async def after_a_while(connection: Connection) -> None:
        await connection.request()
        await gate.wait()
        await connection.answer()

    hasty = aiohttp.ClientTimeout(total=0.01, sock_read=0.01)
    async with (
        RawServer(after_a_while) as server,
        aiohttp.ClientSession(timeout=hasty) as session,
        a_transport(server.url, session=session) as transport,
    ):
        task = await started(server, transport)
        asyncio.get_running_loop().call_later(0.1, gate.set)  # when the session's have passed

        assert (await task).status == 200


async def test_a_sessions_middlewares_do_not_repeat_a_post() -> None:
    async def twice(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        (await handler(request)).release()
        return await handler(request)

    async with (
        RawServer(accept_all) as server,
        aiohttp.ClientSession(middlewares=(twice,)) as session,
        a_transport(server.url, session=session) as transport,
    ):
        assert (await transport.post(BODY)).status == 200
        assert len(server.bodies) == 1


@pytest.mark.parametrize("name", ["store_hash", "customer_hash"])
@pytest.mark.parametrize(
    "value",
    [None, "", "  ", 5, b"bytes", "top secret", "top\r\nsecret: 1", "top\x00secret", "töpsecret"],
)
def test_a_hash_that_no_header_can_hold_is_refused_without_being_shown(
    name: str, value: object
) -> None:
    hashes: dict[str, Any] = {"store_hash": STORE_HASH, "customer_hash": CUSTOMER_HASH, name: value}
    with pytest.raises(ConfigurationError, match=name) as caught:
        Transport("https://shop.example", timeouts=Timeouts(), secrets=Secrets(**hashes))

    assert name.upper() in caught.value.message
    assert "secret" not in repr(caught.value)


async def test_white_space_around_a_hash_is_not_sent() -> None:
    async with RawServer(accept_all) as server:
        transport = Transport(
            server.url,
            secrets=Secrets(f" {STORE_HASH}\n", f"{CUSTOMER_HASH}\t"),
            timeouts=Timeouts(),
        )
        await transport.open()
        await transport.post(BODY)
        await transport.close()

        assert f"x-ev-store-hash: {STORE_HASH}\r\n".encode() in server.heads[0]
        assert f"x-ev-customer-hash: {CUSTOMER_HASH}\r\n".encode() in server.heads[0]


# --------------------------------------------------------------------------------- aiohttp's errors


def _errors_of_aiohttp() -> list[type[BaseException]]:
    """All that an HTTP request may raise: what the namespace shows, and what derives from it."""
    found = {
        value
        for value in vars(aiohttp).values()
        if inspect.isclass(value) and issubclass(value, aiohttp.ClientError)
    }
    todo = [aiohttp.ClientError]
    while todo:
        children = todo.pop().__subclasses__()
        of_aiohttp = [child for child in children if child.__module__.startswith("aiohttp.")]
        todo.extend(of_aiohttp)
        found.update(of_aiohttp)
    websocket = ("WSServerHandshakeError", "WSMessageTypeError")
    return sorted(
        (error for error in found if error.__name__ not in websocket),
        key=lambda error: error.__name__,
    )


@pytest.mark.parametrize("error", _errors_of_aiohttp(), ids=lambda error: error.__name__)
def test_every_error_of_aiohttp_has_its_message(error: type[BaseException]) -> None:
    fitting = [cause for cause, _ in module.ERROR_MESSAGES if issubclass(error, cause)]

    assert fitting
    if error is not aiohttp.ClientError:
        assert fitting[0] is not aiohttp.ClientError, f"{error.__name__} has the catch-all's only"


def test_no_message_is_hidden_behind_that_of_a_wider_class() -> None:
    for place, (cause, _) in enumerate(module.ERROR_MESSAGES):
        wider = [
            earlier for earlier, _ in module.ERROR_MESSAGES[:place] if issubclass(cause, earlier)
        ]
        assert wider == []
