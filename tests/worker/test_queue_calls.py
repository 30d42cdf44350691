"""Calls of the NATS client end when they are cancelled, whatever the client makes of it."""

from __future__ import annotations

import asyncio

import nats.errors
import pytest
from nats.aio.client import Client
from worker_shop import make_queue

from everlytic_async import QueueError
from everlytic_async._cancel import run_shielded
from everlytic_async._nats import disconnect, error_text
from everlytic_async.worker import NatsServer, OrderQueue, QueueSettings
from support.nats_servers import kill


async def test_a_cancellation_that_the_client_swallows_is_heard() -> None:
    swallowed = 0

    async def stubborn() -> int:
        nonlocal swallowed
        while swallowed < 2:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                swallowed += 1
        return swallowed

    calling = asyncio.ensure_future(run_shielded(stubborn()))
    await asyncio.sleep(0)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(calling, 10)
    assert swallowed == 2  # and it has ended


async def test_what_it_returns_or_raises_is_had() -> None:
    async def answers() -> int:
        return 7

    async def fails() -> int:
        raise QueueError("no")

    assert await run_shielded(answers()) == 7
    with pytest.raises(QueueError, match="no"):
        await run_shielded(fails())


async def test_the_queue_asks_in_this_way(
    queue: OrderQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asyncio.Event()

    async def swallows(*_: object, **__: object) -> None:
        asked.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return  # as asyncio.wait_for does when the answer is there

    monkeypatch.setattr("nats.js.JetStreamContext.publish", swallows)
    publishing = asyncio.ensure_future(queue.publish({"contact_email": "a@b.co", **PRODUCTS}))
    await asked.wait()
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing


PRODUCTS = {"products": [{"product_name": "Mop", "product_price": 21}]}


async def test_a_connection_that_is_lost_with_something_to_write_is_closed(
    nats_server: NatsServer, settings: QueueSettings
) -> None:
    queue = make_queue(nats_server.url, settings)
    async with queue:
        await queue.pull(1, 0.05)
        connection = queue.connection
        await kill(nats_server)
        for _ in range(100):
            await connection.publish("lost", b"x" * 1000)
    assert connection.is_closed


async def test_what_was_never_connected_can_be_closed() -> None:
    await disconnect(Client())


@pytest.mark.parametrize("port", ["s3cret", "4222s3cret", "99999"])
async def test_a_password_in_an_address_that_is_wrong_is_not_repeated(port: str) -> None:
    queue = make_queue(f"nats://shop:s3cret@127.0.0.1:{port}", timeout_s=0.5)
    with pytest.raises(QueueError) as caught:
        async with queue:
            pass

    assert "s3cret" not in f"{caught.value} {caught.value!r}"


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
def test_an_error_is_told_without_an_address(error: Exception | None, words: str) -> None:
    assert error_text(error) == words
