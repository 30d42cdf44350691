"""A client that is used at the wrong time or place says what to do instead, and sends nothing."""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from everlytic_async import (
    ConfigurationError,
    EverlyticClient,
    InvalidOrderError,
    Order,
    Outcome,
    SqliteLedger,
)
from everlytic_async.sandbox import Sandbox
from support.delivery import client_of, order, order_ids, orders, sandbox_client
from support.processes import python_path, run_python

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


async def assert_refused(
    use: Use, client: EverlyticClient, says: str, kind: type[Exception] = ConfigurationError
) -> None:
    with pytest.raises(kind, match=says) as caught:  # noqa: PT012 - some are not async
        value = use(client)
        if isinstance(value, Awaitable):
            await value
    assert "@example.com" not in str(caught.value)


#: The state of a client, what is called, and the advice.
MISUSES = [
    *(("new", call, NEW) for call in ("send_order", "send_orders", "stream_orders")),
    *(("closed", call, CLOSED) for call in CALLS),
    ("closed before its start", "start", CLOSED),
    *(("open", call, "started already") for call in ("enter", "start")),
]


@pytest.mark.parametrize(("state", "call", "advice"), MISUSES)
async def test_a_client_that_is_not_open_or_new_says_what_to_do(
    state: str, call: str, advice: str
) -> None:
    async with Sandbox() as sandbox:
        client = client_of(sandbox)
        if state in ("open", "closed"):
            await client.start()
        if state.startswith("closed"):
            await client.aclose()
        assert client.is_open == (state == "open")
        await assert_refused(CALLS[call], client, advice)
        if state == "open":
            await client.send_order(order(1))
            await client.aclose()
    assert sandbox.requests == (state == "open")


async def test_a_stream_must_be_entered_and_once() -> None:
    async with sandbox_client() as (sandbox, client):
        stream = client.stream_orders([order(1)])
        with pytest.raises(ConfigurationError, match=r"async with client\.stream_orders"):
            await anext(stream)
        async with stream:
            with pytest.raises(ConfigurationError, match="once"):
                await stream.__aenter__()
            assert (await anext(stream)).key == "1"
        late = client.stream_orders([order(2)])
        await client.aclose()
        with pytest.raises(ConfigurationError, match=CLOSED):
            await late.__aenter__()
    assert sandbox.requests == 1


async def test_another_thread_is_refused_before_a_byte_is_written() -> None:
    async with sandbox_client() as (sandbox, client):
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
            async with asyncio.timeout(60):
                await assert_refused(elsewhere[call], client, "another event loop|started already")

        async with entered:
            for call in elsewhere:
                await asyncio.to_thread(lambda call=call: asyncio.run(use(call)))
        await client.send_order(order(3))
    assert order_ids(sandbox.received) == ["1", "3"]


async def test_another_thread_without_an_event_loop_is_refused_too() -> None:
    async with sandbox_client() as (sandbox, client):
        async with client.stream_orders(orders(3)) as results:
            elsewhere: dict[str, Callable[[], Any]] = {
                "stop": lambda: results.stop("enough"),
                "unfinished": lambda: results.unfinished("the process was left"),
                "stream_orders": lambda: client.stream_orders([order(9)]),
                "pause": lambda: client.pause(60),
                "subscribe": lambda: client.subscribe(print).__enter__(),
            }
            for use in elsewhere.values():
                with pytest.raises(ConfigurationError, match=r"loop\.call_soon_threadsafe"):
                    await asyncio.to_thread(use)
            assert results.stopped is None
            # The advice holds.
            loop = asyncio.get_running_loop()
            first = await anext(results)
            await asyncio.to_thread(loop.call_soon_threadsafe, results.stop, "enough")
            ended = [first, *[result async for result in results]]
        assert results.stopped == "enough"
    assert {result.outcome for result in ended} <= {Outcome.SENT, Outcome.NOT_SENT}
    assert sandbox.requests == len(ended) == 3


# ------------------------------------------------------------------------------- wrong arguments

ONE = order(1)


async def _key(_order: object) -> str:
    return "1"


Wrong = tuple[type[Exception], str, Callable[[Any, Path], Any]]
CONFIGURATION, TYPE, ORDER = ConfigurationError, TypeError, InvalidOrderError
#: By what is wrong: the error, what it says, and the call.
WRONG: dict[str, Wrong] = {
    **{
        f"{call}, resend={resend!r}": (
            CONFIGURATION,
            "resend takes",
            lambda c, _, call=call, resend=resend: getattr(c, call)(
                ONE if call == "send_order" else [ONE], resend=resend
            ),
        )
        for call in ("send_order", "send_orders", "stream_orders")
        for resend in (None, 5, "sent", ["sent"], [None], [Outcome.SENT], ONE)
    },
    "key=5": (TYPE, "text, or a plain", lambda c, _: c.send_order(ONE, key=5)),
    "key=async": (TYPE, "plain func", lambda c, _: c.send_order(ONE, key=_key)),
    "key=blank": (ORDER, "blank", lambda c, _: c.send_order(ONE, key=" ")),
    "stream, key=async": (TYPE, "key must be", lambda c, _: c.stream_orders([], key=_key)),
    "orders, key=text": (TYPE, "plain func", lambda c, _: c.send_orders([ONE], key="x")),
    "deadline_s": (
        CONFIGURATION,
        "deadline_s must be a number of seconds",
        lambda c, _: c.send_order(ONE, deadline_s="5"),
    ),
    "text": (ORDER, "expected an object", lambda c, _: c.send_order("x")),
    "None": (ORDER, "expected an object", lambda c, _: c.send_order(None)),
    "orders, None": (TYPE, "orders must be an iter", lambda c, _: c.send_orders(None)),
    **{
        f"stream, {type(value).__name__}": (
            TYPE,
            "orders must be an iterable",
            lambda c, _, value=value: c.stream_orders(value),
        )
        for value in (ONE, Order(**ONE), "orders.jsonl", b"[]", bytearray(b"[]"), 5)
    },
    "a class": (
        CONFIGURATION,
        "ledger must be a ledger",
        lambda c, _: c.stream_orders([ONE], ledger=SqliteLedger),
    ),
    **{
        f"pause, {seconds!r}": (
            CONFIGURATION,
            "seconds must be a number of",
            lambda c, _, seconds=seconds: c.pause(seconds),
        )
        for seconds in ("5", 0, -1, math.nan, math.inf)
    },
    "subscribe, None": (TYPE, "must be a callable", lambda c, _: c.subscribe(None)),
    "subscribe, two": (TYPE, "must be a callable", lambda c, _: c.subscribe([print, print])),
    "subscribe, int": (TYPE, "event_type must be", lambda c, _: c.subscribe(print, int)),
    "subscribe, text": (TYPE, "event_type must be", lambda c, _: c.subscribe(print, "x")),
    "stop, None": (TYPE, "reason must be", lambda c, _: c.stream_orders([ONE]).stop(None)),
    **{
        f"forecast, {value!r:.9}": (
            TYPE,
            "orders must be a sequence of Order",
            lambda c, path, value=value: c.forecast(value, ledger=SqliteLedger(path)),
        )
        for value in ([ONE], None)
    },
    "no ledger": (
        CONFIGURATION,
        "ledger must be a ledger",
        lambda c, _: c.forecast([], ledger=None),
    ),
    **{
        f"a ledger's {name}": (
            CONFIGURATION,
            says,
            lambda _, path, wrong={name: value}: SqliteLedger(path, **wrong),
        )
        for name, value, says in (
            ("durability", "none", "durability must be process or power"),
            ("wait_s", "5", "wait_s must be a number of seconds"),
        )
    },
    "a ledger's path": (TYPE, "PathLike", lambda *_: SqliteLedger(None)),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
async def test_a_wrong_argument_is_named_before_anything_is_sent(
    wrong: Wrong, tmp_path: Path
) -> None:
    kind, says, use = wrong
    async with sandbox_client() as (sandbox, client):
        path = tmp_path / "orders.ledger"
        await assert_refused(lambda client: use(client, path), client, says, kind)
        assert sandbox.requests == 0
        await client.send_order(ONE)
    assert not path.exists()


@pytest.mark.parametrize("how", ["fork", "fork, same loop"])
async def test_another_process_is_refused_before_a_byte_is_written(how: str) -> None:
    environment = {**os.environ, "PYTHONPATH": python_path(PROCESS.parents[1])}
    async with Sandbox() as sandbox:
        arguments = (how, sandbox.base_url, sandbox.store_hash, sandbox.customer_hash)
        output = await asyncio.to_thread(run_python, str(PROCESS), *arguments, env=environment)

    found = json.loads(output)
    assert len(found) == 6
    for use, said in found.items():
        assert said.startswith("ConfigurationError: "), (use, said)
        assert "another process" in said or "started already" in said, (use, said)
    # What is sent where the client was started arrives, and nothing else.
    assert order_ids(sandbox.received) == ["1", "4"]
    assert sandbox.requests == 2
