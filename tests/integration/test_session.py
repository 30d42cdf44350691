"""A caller's own session: it is used, never closed, and changes no verdict."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from everlytic_async import (
    BatchStoppedError,
    ConfigurationError,
    EverlyticError,
    NotSentError,
    Outcome,
    RetryPolicy,
    UnknownOutcomeError,
)
from everlytic_async.events import CoolDown, Event
from support.delivery import STORE_HASH, make_client, order
from support.servers import RawServer, accept_all, answer, answer_all, lose, never_answer
from support.transports import BODY, by_session, make_transport, started


async def test_a_callers_session_is_used_and_never_closed() -> None:
    async with (
        RawServer(accept_all) as server,
        aiohttp.ClientSession(headers={"X-Of-The-Caller": "1"}) as session,
    ):
        async with make_transport(server.url, session=session) as transport:
            await transport.post(BODY)

        assert not session.closed
        assert b"X-Of-The-Caller: 1" in server.heads[0]


async def repeat(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """A middleware."""
    (await handler(request)).release()
    return await handler(request)


@pytest.mark.parametrize("setting", [{"raise_for_status": True}, {"middlewares": (repeat,)}])
async def test_a_sessions_settings_neither_change_a_verdict_nor_repeat_a_post(
    setting: dict[str, Any],
) -> None:
    async with by_session(answer_all(422), **setting) as (server, transport):
        assert (await transport.post(BODY)).status == 422
        assert len(server.bodies) == 1


async def test_a_sessions_time_outs_do_not_change_a_verdict() -> None:
    hasty = aiohttp.ClientTimeout(total=0.01, sock_read=0.01)
    async with by_session(never_answer, timeout=hasty) as (server, transport):
        task = await started(server, transport)
        await asyncio.sleep(0.1)  # the session's have passed
        server.opened[0].write(answer())

        assert (await task).status == 200


async def test_a_callers_closed_session_stops_a_batch_at_once_and_says_so() -> None:
    async with RawServer(accept_all) as server:
        session = aiohttp.ClientSession()

        async def then_close() -> AsyncIterator[dict[str, Any]]:
            for number in range(100):
                if number == 10:
                    await session.close()
                yield order(number)

        async with make_client(server.url, session=session) as client:
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


@pytest.mark.parametrize(
    ("status", "headers"),
    [(500, []), (429, ["Retry-After: 100"])],
    ids=["short-pauses", "a-pause-of-100-s"],
)
async def test_a_session_closed_in_a_pause_ends_it_and_is_not_blamed_on_the_endpoint(
    status: int, headers: list[str]
) -> None:
    session = aiohttp.ClientSession()

    def close_in_pause(event: Event) -> None:
        if isinstance(event, CoolDown):
            closing.append(asyncio.ensure_future(session.close()))

    closing: list[asyncio.Future[None]] = []
    async with RawServer(answer_all(status, b"", *headers)) as server:
        retry = RetryPolicy(base_s=0.01, cap_s=0.02)
        async with make_client(
            server.url, session=session, retry=retry, on_event=close_in_pause
        ) as client:
            alone = asyncio.create_task(client.send_order(order(100)))
            with pytest.raises(BatchStoppedError, match="session is closed") as caught:
                await client.send_orders(order(number) for number in range(100))
            with pytest.raises(EverlyticError):
                await alone
    await asyncio.gather(*closing)
    assert caught.value.report is not None
    assert caught.value.report.elapsed_s < 20


async def test_what_waits_for_a_place_in_its_pool_is_not_sent() -> None:
    connector = aiohttp.TCPConnector(limit=1)
    async with (
        RawServer(never_answer) as server,
        aiohttp.ClientSession(connector=connector) as session,
        make_transport(server.url, session=session) as patient,
        make_transport(server.url, session=session, total_s=0.15) as transport,
    ):
        first = await started(server, patient)
        with pytest.raises(NotSentError, match="in time"):
            await transport.post(BODY)
        assert len(server.heads) == 1
        first.cancel()
        await asyncio.wait([first])


# ---------------------------------------------------------------- hooks of the session that raise


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


@pytest.mark.parametrize(
    ("hook", "error"),
    [
        (hook, error)
        for hook in _HOOKS
        for error in (_ERRORS if hook.startswith("on_request_") else _ERRORS[:1])
    ],
    ids=lambda part: part if isinstance(part, str) else type(part).__name__,
)
async def test_an_exception_of_a_hook_is_not_sent_only_if_the_order_surely_was_not(
    hook: str, error: Exception
) -> None:
    async def fail(*_: object) -> None:
        raise error

    async with by_session(accept_all, trace={hook: fail}) as (server, transport):
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

    async with by_session(lose, trace={"on_request_exception": read_the_status}) as (_, transport):
        with pytest.raises(UnknownOutcomeError):
            await transport.post(BODY)


@pytest.mark.parametrize("hidden", [False, True])
async def test_a_cancellation_is_not_hidden_by_a_hook(*, hidden: bool) -> None:
    async def hide(*_: object) -> None:
        if hidden:
            raise AttributeError("status")

    body_sent: list[bool] = []
    async with by_session(never_answer, trace={"on_request_exception": hide}) as parts:
        post = await started(*parts, body_sent.append)
        post.cancel()
        await asyncio.wait([post])

    assert post.cancelled()
    assert body_sent == [True]


async def test_what_ends_the_process_is_not_caught() -> None:
    class Stop(BaseException):
        pass

    async def fail(*_: object) -> None:
        raise Stop

    body_sent: list[bool] = []
    async with by_session(accept_all, trace={"on_request_end": fail}) as (_, transport):
        with pytest.raises(Stop):
            await transport.post(BODY, body_sent.append)

    assert body_sent == [True]
