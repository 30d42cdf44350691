"""One POST by the clock: time-outs, cancellation, stalls of the event loop."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import nullcontext
from typing import Any

import aiohttp
import pytest

from everlytic_async import (
    NotSentError,
    ResponseTimeoutError,
    UnknownOutcomeError,
)
from everlytic_async._transport import Transport
from support.clock import FakeClock
from support.servers import (
    Connection,
    RawServer,
    accept_all,
    answer,
    never_answer,
    until,
)
from support.transports import BODY, by_session, make_transport, serving, started

# ---------------------------------------------------------------------------- running out of time


async def test_silence_is_counted_from_the_last_sign_of_life() -> None:
    clock = FakeClock()
    go_on = asyncio.Semaphore(0)

    async def in_pieces(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n")
        for _ in range(3):
            await go_on.acquire()
            await connection.send(b"x")

    async with serving(in_pieces, clock=clock, read_s=30, total_s=1_000) as (server, transport):
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
        async with make_transport(
            url, clock=clock, read_s=30, connect_s=200, total_s=100
        ) as transport:
            post = asyncio.create_task(transport.post(BODY))
            await until(lambda: server.connections)
            await clock.advance(99)
            assert not post.done()
            await clock.advance(1.5)
            with pytest.raises(NotSentError):
                await post


async def test_every_attempt_times_out_at_its_own_time() -> None:
    clock = FakeClock()
    async with serving(never_answer, clock=clock, read_s=1_000, total_s=60) as (server, transport):
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


async def test_no_timer_is_set_when_nothing_is_in_flight() -> None:
    clock = FakeClock()
    async with serving(accept_all, clock=clock) as (_, transport):
        await transport.post(BODY)
        assert clock.next_at is not None
        await clock.advance(1)
        assert clock.next_at is None


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

    async with serving(never_answer, read_s=0.1) as (_, transport):
        task = asyncio.create_task(last_words(transport))
        await asyncio.sleep(0)
        task.cancel()

        assert await task == 1


async def test_a_time_out_that_a_session_turns_into_another_error_leaves_nothing_behind() -> None:
    async def hide(*_: object) -> None:
        raise aiohttp.ClientConnectionError("something else")

    task = asyncio.current_task()
    assert task is not None
    trace = {"on_request_exception": hide}
    async with by_session(never_answer, trace=trace, read_s=0.1) as (_, transport):
        with pytest.raises(UnknownOutcomeError):
            await transport.post(BODY)

        assert task.cancelling() == 0


# ----------------------------------------------------------------------------------- cancellation


@pytest.mark.parametrize("first", ["outside", "time-out"])
async def test_cancellation_that_coincides_with_a_time_out_travels_on(first: str) -> None:
    clock = FakeClock()
    async with serving(never_answer, clock=clock) as (server, transport):
        task = await started(server, transport)
        if first == "outside":
            task.cancel()
        while task.cancelling() < 1 + (first == "outside"):
            clock.fire_next()
        if first == "time-out":
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert task.cancelled()


# --------------------------------------------------------------------------- a stalled event loop


async def test_what_arrived_during_a_stall_is_read_before_anything_times_out() -> None:
    clock = FakeClock()
    async with serving(never_answer, clock=clock) as (server, transport):
        posts = [asyncio.create_task(transport.post(BODY)) for _ in range(8)]
        await until(lambda: len(server.bodies) == len(posts))
        for connection in server.opened:  # straight to the kernel: the loop has not turned yet
            connection.push(answer())
        clock.now += 3_600
        clock.fire_next()  # the watch is the first to run

        assert [(await post).status for post in posts] == [200] * len(posts)


@pytest.mark.skipif(sys.platform != "linux", reason="no other kernel tells when data came")
async def test_a_response_is_timed_by_the_kernel_and_not_by_the_event_loop() -> None:
    async with RawServer(never_answer) as server, make_transport(server.url) as transport:
        started_at = time.monotonic()
        post = await started(server, transport)
        server.opened[0].push(answer(503))
        came_s = time.monotonic() - started_at
        time.sleep(0.5)  # noqa: ASYNC251 - the event loop stalls, which is the point
        response = await post

    assert response.status == 503
    assert response.waited_s <= came_s + 0.05


async def test_a_response_says_how_long_the_event_loop_stalled() -> None:
    clock = FakeClock()

    async def leave_open(connection: Connection) -> None:
        while True:
            await connection.request()

    async with serving(leave_open, clock=clock) as (server, transport):
        for stalled_s in (0.0, 30.0, 0.0):
            server.bodies.clear()
            post = await started(server, transport)
            server.opened[-1].push(answer())
            if stalled_s:
                clock.now += stalled_s
                clock.fire_next()
            response = await post
            assert response.stalled_s == pytest.approx(stalled_s, abs=0.5)
            assert response.waited_s >= stalled_s


async def test_stalled_time_does_not_count_as_connecting() -> None:
    clock = FakeClock()
    async with RawServer(lambda connection: connection.closed()) as server:
        url = server.url.replace("http:", "https:")
        async with make_transport(url, clock=clock) as transport:
            post = asyncio.create_task(transport.post(BODY))
            await until(lambda: server.connections)
            clock.now += 3_600
            clock.fire_next()
            await clock.advance(4)
            assert not post.done()
            await clock.advance(2)
            with pytest.raises(NotSentError, match="was not established in time"):
                await post


async def test_silence_that_is_not_a_stall_still_times_out() -> None:
    clock = FakeClock()
    async with serving(never_answer, clock=clock) as (server, transport):
        post = await started(server, transport)
        with pytest.raises(ResponseTimeoutError):
            await clock.run(asyncio.wait_for(post, None))
        assert clock.now <= 1_000 + 5 + 0.5


# ------------------------------------------- when a body was sent, and how long its response took


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
@pytest.mark.parametrize(
    ("slow", "size", "own", "sent_after_s", "waited_s"),
    [
        ("connecting", 20, True, 3, 0),
        ("answering", 20, True, 0, 3),
        ("answering", 20, False, 0, 3),
        ("uploading", 20, False, 0, 3),  # with a caller's session the whole attempt is waited for
        ("uploading", 20_000_000, True, 3, 0),
        ("answering", 20_000_000, True, 0, 3),
        ("nothing", 20_000_000, True, 0, 0),
        ("answering before the upload ends", 20_000_000, True, None, 0),
    ],
)
async def test_a_response_has_the_time_when_the_order_was_sent_and_how_long_it_took_from_then(
    monkeypatch: pytest.MonkeyPatch,
    *,
    slow: str,
    size: int,
    own: bool,
    sent_after_s: float | None,
    waited_s: float,
) -> None:
    clock = FakeClock()
    started_at = clock.now
    connect = aiohttp.TCPConnector.connect

    def take(what: str) -> None:
        clock.now += 3 if slow == what else 0

    async def slow_connect(*args: Any, **named: Any) -> aiohttp.connector.Connection:
        take("connecting")
        return await connect(*args, **named)

    async def slowly(connection: Connection) -> None:
        await connection.head()
        take("uploading")
        take("answering before the upload ends")
        if slow == "answering before the upload ends":
            await connection.answer(503, b"busy", "Connection: close")
            await connection.closed()
            return
        await connection.rest()
        take("answering")
        await connection.answer()

    monkeypatch.setattr(aiohttp.TCPConnector, "connect", slow_connect)
    async with (
        nullcontext() if own else aiohttp.ClientSession() as session,
        serving(slowly, session=session, clock=clock, read_s=99, total_s=99) as (_, transport),
    ):
        got = await transport.post(b"x" * size)

    assert got.sent_at == (None if sent_after_s is None else started_at + sent_after_s)
    assert got.waited_s == waited_s
