"""Connections: reused, ended, answered without being asked; and what a response may hold."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from everlytic_async import BatchStoppedError, ConnectionLostError, NotSentError
from everlytic_async._transport import Transport
from support.clock import FakeClock
from support.delivery import make_client, orders
from support.servers import Connection, RawServer, Script, accept_all, answer, answer_all, until
from support.tls import server_context, trusting_session
from support.transports import BODY, make_transport, serving


class Gate:
    """A server that answers when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[bool]] = []

    async def __call__(self, connection: Connection) -> None:
        while True:
            await connection.request()
            turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            self.waiting.append(turn)
            if not await turn:
                return
            await connection.answer()

    async def take(self, transport: Transport, count: int, *, lose: bool = False) -> list[Any]:
        """Post so many at once, and answer them or lose them; what came of each."""
        posts = [asyncio.create_task(transport.post(BODY)) for _ in range(count)]
        await until(lambda: len(self.waiting) == count)
        waiting, self.waiting = self.waiting, []
        for turn in waiting:
            turn.set_result(not lose)
        return await asyncio.gather(*posts, return_exceptions=True)


async def test_one_reused_connection_at_a_time_until_one_was_answered() -> None:
    gate, clock = Gate(), FakeClock()

    async def new_connections() -> int:
        before = server.connections
        await gate.take(transport, 3)
        return server.connections - before

    async with RawServer(gate) as server, make_transport(server.url, clock=clock) as transport:
        assert [await new_connections() for _ in range(3)] == [3, 2, 0]

        # After a loss it is the same again; after another one soon, none is reused for a while.
        for then in (2, 3):
            [lost] = await gate.take(transport, 1, lose=True)
            assert isinstance(lost, ConnectionLostError)
            assert await new_connections() == then
        clock.now += 3_600
        assert [await new_connections() for _ in range(3)][-1] == 0


@pytest.fixture(params=["own", "caller's", "caller's over TLS"])
async def connect(
    request: pytest.FixtureRequest, authority: trustme.CA
) -> AsyncIterator[Callable[[Script], Awaitable[tuple[RawServer, Transport]]]]:
    """Start a server and a transport, over each kind of session."""
    async with AsyncExitStack() as stack:

        async def start(script: Script) -> tuple[RawServer, Transport]:
            tls = session = None
            if request.param == "caller's over TLS":
                tls = server_context(authority.issue_cert("localhost"))
            server = await stack.enter_async_context(RawServer(script, tls=tls))
            if request.param != "own":
                session = await stack.enter_async_context(trusting_session(authority))
            transport = make_transport(server.url, session=session)
            return server, await stack.enter_async_context(transport)

        yield start


Connect = Callable[[Script], Awaitable[tuple[RawServer, Transport]]]


async def test_a_connection_that_ended_unread_is_not_reused(connect: Connect) -> None:
    server, transport = await connect(accept_all)
    await transport.post(BODY)
    # The end is in the client's kernel at once, and the event loop does not turn in between.
    server.opened[0].shut_down()

    assert (await transport.post(BODY)).status == 200
    assert (len(server.bodies), server.connections) == (2, 2)


@pytest.mark.parametrize("turns", [0, 1, 5])
async def test_an_unrequested_response_is_not_taken_for_the_next_orders(
    connect: Connect, turns: int
) -> None:
    server, transport = await connect(answer_all(422))
    await transport.post(BODY)
    server.opened[0].write(answer(200))
    for _ in range(turns):
        await asyncio.sleep(0)

    assert (await transport.post(BODY)).status == 422
    assert server.bodies == [BODY, BODY]


async def test_a_server_that_answers_first_is_sent_nothing() -> None:
    read: list[bytes] = []

    async def answer_first(connection: Connection) -> None:
        await connection.answer(200)
        read.append(await connection.read(1))

    async with serving(answer_first) as (_, transport):
        for _ in range(3):
            try:
                await transport.post(BODY)
                read.clear()  # it was quicker than the answer
            except NotSentError:
                assert not any(read)


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
async def test_a_lack_of_file_descriptors_is_named_as_such(host: str) -> None:
    async with RawServer(accept_all) as server:
        url = f"http://{host}:{server.port}"
        async with make_transport(url) as transport, make_client(url) as client:
            with no_file_descriptors_left():
                with pytest.raises(NotSentError) as caught:
                    await transport.post(BODY)
                with pytest.raises(BatchStoppedError) as stopped:
                    await client.send_orders(orders(20))
            assert (await transport.post(BODY)).status == 200

    for words in ("this process has no file descriptors left", "max_concurrency", "ulimit -n"):
        assert words in caught.value.message
    assert "refused" not in caught.value.message
    assert not caught.value.connected
    assert caught.value.is_local
    assert "was not reached, by a limit of this machine: " in stopped.value.message
