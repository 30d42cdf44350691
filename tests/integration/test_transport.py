"""One POST against servers of all kinds: what surely happened to it."""

from __future__ import annotations

import asyncio
import inspect
import socket
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from everlytic_async import NotSentError
from everlytic_async._failures import ERROR_MESSAGES
from everlytic_async._request import Connections, Request
from everlytic_async._transport import Transport
from support.delivery import CUSTOMER_HASH, STORE_HASH
from support.servers import SUCCESS, Connection, RawServer, accept_all, answer_all, once
from support.transports import BODY, by_session, make_transport, serving

PATH = "/servlet/e-commerce/orders"


LIMIT = 64 * 1024


async def test_a_post_is_as_documented_and_white_space_around_a_hash_is_not_sent() -> None:
    hashes = (f" {STORE_HASH}\n", f"{CUSTOMER_HASH}\t")
    async with serving(accept_all, hashes=hashes) as (server, transport):
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


async def test_the_receive_buffer_is_no_larger_than_the_body_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    receive = socket.socket.recv

    async with RawServer(accept_all) as server, make_transport(server.url) as transport:

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


async def test_cookies_are_not_kept() -> None:
    set_cookie = answer_all(200, SUCCESS, "Set-Cookie: JSESSIONID=abc; Path=/")
    async with RawServer(set_cookie) as server, make_transport(server.url) as transport:
        await transport.post(BODY)
        await transport.post(BODY)

        assert len(server.heads) == 2
        assert b"cookie" not in b"".join(server.heads).lower()


async def assert_not_sent(transport: Transport, reason: str) -> None:
    with pytest.raises(NotSentError, match=reason) as caught:
        await transport.post(BODY)
    assert type(caught.value) is NotSentError
    assert transport.host in caught.value.message


@pytest.mark.parametrize("timeouts", [{"connect_s": 0.15}, {"total_s": 0.15}], ids=str)
async def test_a_connection_that_hangs_is_not_sent(
    timeouts: dict[str, float], hanging_port: int
) -> None:
    async with make_transport(f"http://127.0.0.1:{hanging_port}", **timeouts) as transport:
        await assert_not_sent(transport, "was not established in time")


async def test_an_unknown_host_and_a_closed_session_are_not_sent() -> None:
    async with make_transport("https://shop.invalid") as transport:
        await assert_not_sent(transport, "name could not be resolved")
        await transport.close()
        await assert_not_sent(transport, "session is closed")


@pytest.mark.parametrize("finished", [True, False])
async def test_an_upload_cut_right_at_its_end_may_have_arrived(*, finished: bool) -> None:
    # All bytes are with the kernel, but the writing was cancelled before it could say so.
    upload: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    if finished:
        upload.set_exception(aiohttp.UploadAbortedError("cut"))
        upload.exception()
    tracker: Any = SimpleNamespace(attempts=1, bytes_written=10, upload_complete=upload)
    task: Any = asyncio.current_task()
    request = Request(bytes(10), task, 0, 0.0, Connections(time.monotonic), time.monotonic, tracker)

    assert request.body_sent()
    tracker.bytes_written = 9
    assert not request.body_sent()


@pytest.mark.parametrize("status", [422, 503])
@pytest.mark.parametrize("then", [None, Connection.closed], ids=["lost", "silent"])
async def test_the_status_is_the_verdict_if_only_the_body_was_cut_short(
    status: int, then: Callable[[Connection], Awaitable[None]] | None
) -> None:
    part = f"HTTP/1.1 {status} No\r\nRetry-After: 7\r\nContent-Length: 50\r\n\r\nbusy".encode()
    async with serving(once(part, then), read_s=0.1) as (_, transport):
        got = await transport.post(BODY)

    assert (got.status, got.body, got.headers["Retry-After"]) == (status, b"busy", "7")


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT, LIMIT + 1, 10 * LIMIT])
async def test_a_long_response_is_cut_and_its_connection_is_free_again(size: int) -> None:
    connector = aiohttp.TCPConnector(limit=1)
    async with by_session(answer_all(200, b"x" * size), connector=connector) as (_, transport):
        for _ in range(3):
            got = await transport.post(BODY)
            assert len(got.body) == min(size, LIMIT)


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
    fitting = [cause for cause, _ in ERROR_MESSAGES if issubclass(error, cause)]

    assert fitting
    if error is not aiohttp.ClientError:
        assert fitting[0] is not aiohttp.ClientError, f"{error.__name__} has the catch-all's only"


def test_no_message_is_hidden_behind_that_of_a_wider_class() -> None:
    for place, (cause, _) in enumerate(ERROR_MESSAGES):
        wider = [earlier for earlier, _ in ERROR_MESSAGES[:place] if issubclass(cause, earlier)]
        assert wider == []
