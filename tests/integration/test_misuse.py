"""A client that is used at the wrong time or place says so and what to do, and sends nothing."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from everlytic_async import ConfigurationError, EverlyticClient
from everlytic_async.sandbox import Sandbox
from support.delivery import client_of, ids_of, order, shop

PROCESS = Path(__file__).with_name("misuse_process.py")

NEW = "not started: use `async with EverlyticClient"
CLOSED = "closed.*make a new one"

Use = Callable[[EverlyticClient], Any]
CALLS: dict[str, Use] = {
    "send_order": lambda client: client.send_order(order(1)),
    "send_orders": lambda client: client.send_orders([order(1)]),
    "stream_orders": lambda client: client.stream_orders([order(1)]),
    "enter": lambda client: client.__aenter__(),
    "start": lambda client: client.start(),
}


async def is_refused(use: Use, client: EverlyticClient, advice: str) -> None:
    with pytest.raises(ConfigurationError, match=advice):  # noqa: PT012 - some are not async
        used = use(client)
        if isinstance(used, Awaitable):
            await used


@pytest.mark.parametrize("call", ["send_order", "send_orders", "stream_orders"])
async def test_a_client_that_was_not_started_says_how_to_start_it(call: str) -> None:
    async with Sandbox() as sandbox:
        client = client_of(sandbox)
        assert not client.is_open
        await is_refused(CALLS[call], client, NEW)
    assert sandbox.requests == 0


@pytest.mark.parametrize("call", CALLS)
async def test_a_closed_client_says_to_make_a_new_one(call: str) -> None:
    async with shop() as (sandbox, client):
        assert client.is_open
        await client.aclose()
        assert not client.is_open
        await is_refused(CALLS[call], client, CLOSED)
    assert sandbox.requests == 0


async def test_a_client_that_was_closed_unstarted_is_closed() -> None:
    async with Sandbox() as sandbox:
        client = client_of(sandbox)
        await client.aclose()
        await is_refused(CALLS["start"], client, CLOSED)


@pytest.mark.parametrize("call", ["enter", "start"])
async def test_a_started_client_is_not_started_again(call: str) -> None:
    async with shop() as (sandbox, client):
        await is_refused(CALLS[call], client, "started already")
        assert client.is_open
        await client.send_order(order(1))
    assert sandbox.requests == 1


async def test_a_stream_of_a_closed_client_is_not_entered() -> None:
    async with shop() as (sandbox, client):
        stream = client.stream_orders([order(1)])
        await client.aclose()
        with pytest.raises(ConfigurationError, match=CLOSED):
            await stream.__aenter__()
    assert sandbox.requests == 0


async def test_a_stream_says_how_it_is_used() -> None:
    async with shop() as (sandbox, client):
        stream = client.stream_orders([order(1)])
        with pytest.raises(ConfigurationError, match=r"async with client\.stream_orders"):
            await anext(stream)
        async with stream:
            with pytest.raises(ConfigurationError, match="once"):
                await stream.__aenter__()
            assert (await anext(stream)).key == "1"
    assert sandbox.requests == 1


async def test_another_thread_is_refused_before_a_byte_is_written() -> None:
    async with shop() as (sandbox, client):
        await client.send_order(order(1))
        made = client.stream_orders([order(2)])
        entered = client.stream_orders([])
        elsewhere: dict[str, Use] = {
            **CALLS,
            "enter the stream": lambda _client: made.__aenter__(),
            "iterate": lambda _client: entered.__anext__(),
            "aclose": lambda client: client.aclose(),
        }

        async def use(call: str) -> None:
            async with asyncio.timeout(5):
                await is_refused(elsewhere[call], client, "another event loop|started already")

        async with entered:
            for call in elsewhere:
                await asyncio.to_thread(lambda call=call: asyncio.run(use(call)))
        await client.send_order(order(3))
    assert ids_of(sandbox.received) == ["1", "3"]


@pytest.mark.parametrize(
    ("how", "advice"),
    [
        ("loop", "another event loop"),
        ("fork", "another process"),
        ("fork, same loop", "another process"),
    ],
)
async def test_another_loop_or_process_is_refused_before_a_byte_is_written(
    how: str, advice: str
) -> None:
    async with Sandbox() as sandbox:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(PROCESS),
            how,
            sandbox.base_url,
            sandbox.store_hash,
            sandbox.customer_hash,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(PROCESS.parents[1])},
        )
        async with asyncio.timeout(60):
            output, errors = await process.communicate()

    assert process.returncode == 0, errors.decode()
    assert b"Traceback" not in errors, errors.decode()
    found = json.loads(output)
    assert len(found) == 6
    for use, said in found.items():
        assert said.startswith("ConfigurationError: "), (use, said)
        assert advice in said or "started already" in said, (use, said)
    # What is sent at home arrives, and nothing else does.
    assert ids_of(sandbox.received) == ["1", "4"]
    assert sandbox.requests == 2
