"""Orders are posted directly or by `ClientSession.post`: which way when, and that both agree.

All other tests here run over both ways: the second time with ``--session-post``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import aiohttp.client_proto
import aiohttp.http_exceptions
import pytest
import trustme

from everlytic_async import EverlyticError
from everlytic_async._direct_post import MAX_DIRECT_BYTES
from everlytic_async._response import Response
from everlytic_async._transport import Transport
from support.delivery import CUSTOMER_HASH, STORE_HASH
from support.processes import SESSION_POST, python_path, run_python
from support.servers import Connection, RawServer, Script, accept_all, answer
from support.session_post.sitecustomize import pass_through
from support.transports import BODY, by_session, make_transport, until

LOGGER = "everlytic_async"


@pytest.fixture
def session_posts(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Grows with each response that a session reads: the direct way has a response of its own."""
    read: list[object] = []
    start = aiohttp.ClientResponse.start

    async def count(self: aiohttp.ClientResponse, connection: Any) -> aiohttp.ClientResponse:
        read.append(self)
        return await start(self, connection)

    monkeypatch.setattr(aiohttp.ClientResponse, "start", count)
    return read


class Proxy:
    """A wrapper that equals what it wraps, as those of `wrapt` do, which many instruments use."""

    def __init__(self, method: Any) -> None:
        self._method = method

    def __get__(self, session: Any, owner: Any = None) -> Any:
        return self if session is None else self._method.__get__(session, owner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._method, name)

    def __eq__(self, other: object) -> bool:
        return bool(self._method == other)

    def __hash__(self) -> int:
        return hash(self._method)


def patch_session(
    monkeypatch: pytest.MonkeyPatch,
    name: str = "_request",
    wrapper: Callable[[Any], Any] = pass_through,
) -> None:
    monkeypatch.setattr(aiohttp.ClientSession, name, wrapper(getattr(aiohttp.ClientSession, name)))


async def test_the_option_closes_the_direct_way(
    pytestconfig: pytest.Config, session_posts: list[object]
) -> None:
    async with RawServer(accept_all) as server, make_transport(server.url) as transport:
        await transport.post(BODY)

    assert len(session_posts) == pytestconfig.getoption("session_post")


# ----------------------------------------------------------------------------- which is chosen


@pytest.mark.usefixtures("direct_post")
@pytest.mark.parametrize(
    ("size", "by_session"),
    [(2, False), (MAX_DIRECT_BYTES, False), (MAX_DIRECT_BYTES + 1, True), (1_000_000, True)],
)
async def test_long_bodies_go_by_the_session(
    session_posts: list[object], size: int, *, by_session: bool
) -> None:
    body = b'"' + b"x" * (size - 2) + b'"'
    async with RawServer(accept_all) as server, make_transport(server.url) as transport:
        await transport.post(body)

    assert server.bodies == [body]
    assert len(session_posts) == by_session


@pytest.mark.usefixtures("direct_post")
@pytest.mark.parametrize("name", ["_request", "post"])
@pytest.mark.parametrize("wrapper", [pass_through, Proxy])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_patched_session_sees_every_order(
    monkeypatch: pytest.MonkeyPatch,
    session_posts: list[object],
    name: str,
    wrapper: Callable[[Any], Any],
    when: str,
) -> None:
    if when == "before":
        patch_session(monkeypatch, name, wrapper)
    async with RawServer(accept_all) as server, make_transport(server.url) as transport:
        if when == "after":
            patch_session(monkeypatch, name, wrapper)
        await transport.post(BODY)
        assert (len(server.bodies), len(session_posts)) == (1, 1)

        monkeypatch.undo()  # `session_posts` as well
        await transport.post(BODY)

    assert (len(server.bodies), len(session_posts)) == (2, 1)


@pytest.mark.usefixtures("direct_post")
async def test_an_instrument_that_adds_its_tracing_to_every_session_sees_every_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As OpenTelemetry's and Sentry's do it.
    seen: list[str] = []
    make = aiohttp.ClientSession.__init__

    async def on_start(_session: object, _context: object, params: Any) -> None:
        params.headers["traceparent"] = "00-1-2-01"
        seen.append(params.method)

    def instrumented(self: aiohttp.ClientSession, *args: Any, **kwargs: Any) -> None:
        tracing = aiohttp.TraceConfig()
        tracing.on_request_start.append(on_start)
        make(self, *args, **kwargs, trace_configs=[*kwargs.pop("trace_configs", ()), tracing])

    monkeypatch.setattr(aiohttp.ClientSession, "__init__", instrumented)
    async with RawServer(accept_all) as server, make_transport(server.url) as transport:
        for _ in range(2):
            await transport.post(BODY)

    assert seen == ["POST"] * 2
    assert all(b"traceparent: 00-1-2-01\r\n" in head for head in server.heads)


@pytest.mark.usefixtures("direct_post")
async def test_a_callers_session_is_what_posts(session_posts: list[object]) -> None:
    async with by_session(accept_all) as (_, transport):
        await transport.post(BODY)

    assert len(session_posts) == 1


# --------------------------------------------------------------- an aiohttp that is not known


def more_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    make = aiohttp.ClientRequest.__init__

    def changed(self: aiohttp.ClientRequest, *args: Any, trust_env: bool, **kwargs: Any) -> None:
        make(self, *args, trust_env=trust_env, **kwargs)

    monkeypatch.setattr(aiohttp.ClientRequest, "__init__", changed)


def connect_by_keywords(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = aiohttp.BaseConnector.connect

    async def changed(self: Any, req: Any, *, traces: Any, timeout: Any) -> Any:  # noqa: ASYNC109
        return await connect(self, req, traces, timeout)

    monkeypatch.setattr(aiohttp.BaseConnector, "connect", changed)


def the_session_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    request = aiohttp.ClientSession._request

    async def post(self: aiohttp.ClientSession, url: Any, **kwargs: Any) -> Any:
        return await request(self, "POST", url, **kwargs)

    monkeypatch.setattr(aiohttp.ClientSession, "post", post)
    monkeypatch.delattr(aiohttp.ClientSession, "_request")


def _replace_protocol(monkeypatch: pytest.MonkeyPatch, **members: object) -> None:
    protocol = type("Changed", (aiohttp.client_proto.ResponseHandler,), members)
    monkeypatch.setattr(aiohttp.client_proto, "ResponseHandler", protocol)


def read_never_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    async def read(_self: object) -> None:
        await asyncio.Event().wait()

    _replace_protocol(monkeypatch, read=read)


def read_returns_a_message_only(monkeypatch: pytest.MonkeyPatch) -> None:
    read = aiohttp.client_proto.ResponseHandler.read

    async def changed(self: Any) -> Any:
        return (await read(self))[0]

    _replace_protocol(monkeypatch, read=changed)


CHANGES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "more arguments": more_arguments,
    "connect by keywords": connect_by_keywords,
    "the session": the_session_is_changed,
    "read is renamed": lambda patch: _replace_protocol(patch, read=None),
    "read never returns": read_never_returns,
    "read returns a message only": read_returns_a_message_only,
    "parameters are renamed": lambda patch: _replace_protocol(
        patch, set_response_params=lambda _self, *, limits: limits
    ),
    "connections are not reused": lambda patch: _replace_protocol(patch, should_close=True),
    "no handler": lambda patch: patch.delattr(aiohttp.client_proto, "ResponseHandler"),
    "no error": lambda patch: patch.delattr(aiohttp.http_exceptions, "HttpProcessingError"),
}


@pytest.mark.usefixtures("direct_post")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_with_an_aiohttp_that_has_changed_inside_orders_go_by_the_session(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    session_posts: list[object],
    change: Callable[[pytest.MonkeyPatch], None],
) -> None:
    change(monkeypatch)
    with caplog.at_level(logging.WARNING, LOGGER):
        async with RawServer(accept_all) as server, make_transport(server.url) as transport:
            for _ in range(2):
                assert (await transport.post(BODY)).status == 200

    assert (server.bodies, len(session_posts)) == ([BODY, BODY], 2)
    (line,) = caplog.messages
    assert line.startswith(f"aiohttp {aiohttp.__version__} failed a check (")
    assert "ClientSession.post" in line
    assert caplog.records[0].exc_info is None


@pytest.mark.usefixtures("direct_post")
async def test_an_event_loop_that_stalls_during_the_start_says_nothing_about_aiohttp(
    caplog: pytest.LogCaptureFixture, session_posts: list[object]
) -> None:
    async with RawServer(accept_all) as server:
        asyncio.get_running_loop().call_soon(time.sleep, 1.1)
        async with make_transport(server.url) as transport:
            await transport.post(BODY)

    assert (caplog.messages, session_posts) == ([], [])


WITHOUT_A_NAME = """
import aiohttp, os
for module, name in [
    (aiohttp.client_proto, "ResponseHandler"),
    (aiohttp.helpers, "TimerNoop"),
    (aiohttp.http_exceptions, "HttpProcessingError"),
]:
    if os.fork() == 0:
        delattr(module, name)
        import everlytic_async._transport
        os._exit(0)
    _, status = os.wait()
    assert status == 0, name
"""


def test_the_package_can_be_imported_without_a_name_that_aiohttp_does_not_document() -> None:
    run_python("-c", WITHOUT_A_NAME)


# --------------------------------------------------------------------------------- they agree


async def post_both_ways(
    script: Script, monkeypatch: pytest.MonkeyPatch, path: str = ""
) -> tuple[object, object, RawServer]:
    """Post once directly and once by the session, each over a fresh connection."""
    async with RawServer(script) as server:
        async with make_transport(server.url + path) as transport:
            directly = await result_of(transport)
        patch_session(monkeypatch)
        async with make_transport(server.url + path) as transport:
            return directly, await result_of(transport), server


async def result_of(transport: Transport) -> tuple[object, ...]:
    """What a post came to."""
    try:
        got: Response = await transport.post(BODY)
    except EverlyticError as error:
        return type(error), error.message, error.may_have_been_processed
    return got.status, list(got.headers.items()), got.body, got.undecodable


EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
UPGRADE = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

RESPONSES: dict[str, bytes] = {
    "200": answer(),
    "422": answer(422, b'{"message":"no"}'),
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "304": b"HTTP/1.1 304 Not Modified\r\n\r\n",
    "100 many times": CONTINUE * 50 + answer(422),
    "103 before": EARLY + answer(),
    "100 alone": CONTINUE,
    "101": UPGRADE + b"\x00\x01",
    "twice": answer(200) + answer(422),
    "chunked": CHUNKED + b'13\r\n{"status":"success"\r\n1\r\n}\r\n0\r\n\r\n',
    "chunked, cut": CHUNKED + b'13\r\n{"status":"success"\r\n',
    "cut head": b"HTTP/1.1 200 OK\r\nContent-",
    "cut body": answer()[:-5],
    "until the end": b'HTTP/1.1 200 OK\r\n\r\n{"status":"success"}',
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "HTTP/2 frames": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
    "nothing": b"",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "compressed": answer(200, b"\x1f\x8b\x08 not", "Content-Encoding: gzip"),
    "64 KiB of header": answer(200, b"", "X-Long: " + "x" * 65_000),
    "more": answer(200, b"", "X-Long: " + "x" * 66_000),
    "repeated header": answer(200, b"", "X-A: 1", "x-a: 2"),
    "hashes": answer(200, b"", f"X-A: {STORE_HASH} {CUSTOMER_HASH}"),
}


@pytest.mark.usefixtures("direct_post")
@pytest.mark.parametrize("response", RESPONSES)
async def test_a_response_is_the_same_each_way(
    monkeypatch: pytest.MonkeyPatch, session_posts: list[object], response: str
) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(RESPONSES[response])

    directly, by_session, server = await post_both_ways(script, monkeypatch)

    assert directly == by_session
    assert server.bodies == [BODY, BODY]
    assert len(session_posts) == 1


@pytest.mark.parametrize(
    ("response", "connections"),
    [
        (RESPONSES["200"], 1),
        (RESPONSES["422"], 1),
        (RESPONSES["204"], 1),
        (RESPONSES["304"], 1),
        (RESPONSES["chunked"], 1),
        (RESPONSES["103 before"], 1),
        (RESPONSES["100 many times"], 1),
        (answer(200, b"x" * 60_000), 1),
        (RESPONSES["HTTP/1.0"], 3),
        (answer(200, b"", "Connection: close"), 3),
        (RESPONSES["101"], 3),
        (RESPONSES["twice"], 3),
    ],
)
@pytest.mark.parametrize("patched", [False, True], ids=["direct", "session"])
async def test_a_connection_is_used_again_where_that_is_safe(
    monkeypatch: pytest.MonkeyPatch, response: bytes, connections: int, *, patched: bool
) -> None:
    async def keep_open(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.send(response)

    if patched:
        patch_session(monkeypatch)
    async with RawServer(keep_open) as server, make_transport(server.url) as transport:
        for _ in range(3):
            await result_of(transport)

    assert (len(server.bodies), server.connections) == (3, connections)


@pytest.mark.usefixtures("direct_post")
@pytest.mark.parametrize("path", ["", "/", "/prefix", "/%7Eshop/%C3%A9", "/é/~"])
async def test_a_request_is_the_same_each_way(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    _, _, server = await post_both_ways(accept_all, monkeypatch, path)

    directly, by_session = (head.split(b"\r\n") for head in server.heads)
    assert directly[0] == by_session[0]
    assert sorted(directly) == sorted(by_session)
    assert any(line.startswith(b"Host: localhost:") for line in directly)


# ----------------------------------------------------------------------- cancelled, and how


@pytest.mark.parametrize("turns", range(8))
@pytest.mark.parametrize("reused", [False, True])
async def test_a_post_cancelled_as_it_is_written_is_never_called_not_sent_if_it_arrives(
    turns: int, *, reused: bool
) -> None:
    reported: list[bool] = []
    ended = asyncio.Event()

    async def read(connection: Connection) -> None:
        try:
            await accept_all(connection)
        finally:
            ended.set()

    async with RawServer(read) as server:
        async with make_transport(server.url) as transport:
            if reused:
                await transport.post(BODY)
            before = len(server.bodies)
            task = asyncio.create_task(transport.post(b'{"cancelled":1}', reported.append))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            (end,) = await asyncio.gather(task, return_exceptions=True)
        if server.connections:
            await ended.wait()
        arrived = len(server.bodies) > before

    if isinstance(end, Response):  # it was quicker
        assert arrived
    else:
        assert isinstance(end, asyncio.CancelledError)
        assert not arrived or reported == [True]


@pytest.mark.usefixtures("direct_post")
async def test_a_body_that_was_handed_to_the_connection_counts_as_sent() -> None:
    reported: list[bool] = []

    async def read_no_body(connection: Connection) -> None:
        await connection.head()
        await asyncio.Event().wait()

    async with RawServer(read_no_body) as server, make_transport(server.url) as transport:
        body = b"x" * MAX_DIRECT_BYTES
        task = asyncio.create_task(transport.post(body, reported.append))
        await until(lambda: server.heads)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    assert reported == [True]


# -------------------------------------------------------------------- TLS, uvloop and IPv6

_PROGRAM = Path(__file__).with_name("post_process.py")


@pytest.mark.parametrize(
    ("loop", "patched"),
    [
        ("asyncio", False),
        pytest.param("uvloop", True, marks=pytest.mark.slow),
        pytest.param("asyncio", True, marks=pytest.mark.slow),
        pytest.param("uvloop", False, marks=pytest.mark.slow),
    ],
)
def test_orders_over_tls_uvloop_and_ipv6(
    authority: trustme.CA, tmp_path: Path, loop: str, *, patched: bool
) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    trusted, own = tmp_path / "authority.pem", tmp_path / "server.pem"
    authority.cert_pem.write_to_path(trusted)
    certificate = authority.issue_cert("127.0.0.1", "::1")
    certificate.private_key_and_cert_chain_pem.write_to_path(own)
    paths = [_PROGRAM.parents[1], *([SESSION_POST] if patched else [])]
    environment = {"PYTHONPATH": python_path(*paths), "SSL_CERT_FILE": str(trusted)}
    printed = run_python(str(_PROGRAM), loop, str(own), env=environment)

    expected = {
        "outcomes": ["sent"] * 50,
        "arrived": 50,
        "by_session": patched or "session_post" in python_path(),
        "lost": "ConnectionLostError",
    }
    kinds = ("127.0.0.1, plain", "127.0.0.1, TLS", "::1, plain", "::1, TLS")
    assert json.loads(printed) == dict.fromkeys(kinds, expected)
