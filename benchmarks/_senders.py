"""The contestants of `throughput` and `pacing`, each as its own documentation shows it in use.

A sender is a context manager around a function that sends all orders of an iterator, as many at
once as the settings say, checks every response, status and body, and reports each order: None once
it is accepted, or the error.
"""

# A contestant that is not measured is not imported, because it may not be installed.
# ruff: noqa: PLC0415

from __future__ import annotations

import asyncio
import atexit
import importlib
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

from benchmarks._load import (
    CUSTOMER_HASH,
    HEADERS,
    PATH,
    STORE_HASH,
    WrongAnswerError,
    check,
    order,
)

if TYPE_CHECKING:
    import aiohttp
    import tenacity

    from everlytic_async import EverlyticClient, Order, OrderResult

Settings = dict[str, Any]
Report = Callable[[Exception | None], None]
SendAll = Callable[[Iterator[dict[str, Any]], Report], Awaitable[None]]
Sender = Callable[[Settings], AbstractAsyncContextManager[SendAll]]
_SendOne = Callable[[dict[str, Any]], Awaitable[None]]
# Enough to differ, few enough to cost Python's collector little.
_PREBUILT = 200


async def _report(send: _SendOne, one: dict[str, Any], report: Report) -> None:
    try:
        await send(one)
    except Exception as error:  # noqa: BLE001 - the report decides
        report(error)
    else:
        report(None)


def _send_each(send: _SendOne, concurrency: int) -> SendAll:
    """Tasks that take the orders in turn: the usual bounded loop, without a semaphore."""

    async def send_all(source: Iterator[dict[str, Any]], report: Report) -> None:
        async def work() -> None:
            for one in source:
                await _report(send, one, report)

        await asyncio.gather(*(work() for _ in range(concurrency)))

    return send_all


# ------------------------------------------------------------------------------------------- ours


def make_client(settings: Settings) -> EverlyticClient:
    """Our client: ``url``, ``concurrency``, and the options that a row of a table has.

    They are ``max_rate``; ``ledger``, a path, with a ``durability``; ``hook``, one that gets every
    event; and ``by_session``, an aiohttp that somebody has instrumented.
    """
    import aiohttp

    from everlytic_async import EverlyticClient, Pacing, SqliteLedger
    from everlytic_async.ledger import Durability

    if settings.get("by_session"):
        post = aiohttp.ClientSession._request  # noqa: SLF001 - as instruments do it

        async def traced(*args: Any, **kwargs: Any) -> Any:
            return await post(*args, **kwargs)

        setattr(aiohttp.ClientSession, "_request", traced)  # noqa: B010
    ledger, events = None, Counter[str]()
    if "ledger" in settings:
        durability = Durability(settings.get("durability", "process"))
        ledger = SqliteLedger(settings["ledger"], durability=durability)

    def on_event(event: object) -> None:
        events[type(event).__name__] += 1

    return EverlyticClient(
        settings["url"],
        store_hash=STORE_HASH,
        customer_hash=CUSTOMER_HASH,
        pacing=Pacing(max_concurrency=settings["concurrency"], max_rate=settings.get("max_rate")),
        ledger=ledger,
        on_event=on_event if settings.get("hook") else None,
    )


def _error(result: OrderResult) -> Exception | None:
    from everlytic_async import Outcome

    if result.outcome is not Outcome.SENT or result.receipt is None:
        return result.error or WrongAnswerError(f"{result!r}")
    check(result.receipt.status, result.receipt.body)
    return None


async def _stream(
    client: EverlyticClient, source: Iterable[Order | dict[str, Any]], report: Report
) -> None:
    async with client.stream_orders(source) as results:
        async for result in results:
            report(_error(result))


@asynccontextmanager
async def stream_orders(settings: Settings) -> AsyncIterator[SendAll]:
    """`stream_orders`, fed with mappings: validated, tracked, paced, with a result for each."""
    async with make_client(settings) as client:
        yield lambda source, report: _stream(client, source, report)


@asynccontextmanager
async def stream_prebuilt(settings: Settings) -> AsyncIterator[SendAll]:
    """The same, fed with as many `Order` objects, built and validated before."""
    from everlytic_async import Order

    products = settings.get("products", 1)
    built = [Order.from_mapping(order(number, products)) for number in range(_PREBUILT)]
    async with make_client(settings) as client:

        async def send_all(source: Iterator[dict[str, Any]], report: Report) -> None:
            count = sum(1 for _ in source)
            await _stream(client, islice(cycle(built), count), report)

        yield send_all


@asynccontextmanager
async def send_order(settings: Settings) -> AsyncIterator[SendAll]:
    """`send_order` in a loop of workers."""
    async with make_client(settings) as client:

        async def send(one: dict[str, Any]) -> None:
            receipt = await client.send_order(one)
            check(receipt.status, receipt.body)

        yield _send_each(send, settings["concurrency"])


# ------------------------------------------------------------------------------------- the rivals


def _session(settings: Settings) -> aiohttp.ClientSession:
    import aiohttp

    # aiohttp's own default, 100, unless more are asked for.
    limit = max(100, settings["concurrency"])
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=limit))


@asynccontextmanager
async def bare_aiohttp(settings: Settings) -> AsyncIterator[SendAll]:
    """The simplest thing with aiohttp: no retry, nothing tracked."""
    url = settings["url"] + PATH
    async with _session(settings) as session:

        async def send(one: dict[str, Any]) -> None:
            async with session.post(url, json=one, headers=HEADERS) as response:
                check(response.status, await response.json())

        yield _send_each(send, settings["concurrency"])


@asynccontextmanager
async def tenacity_gather(settings: Settings) -> AsyncIterator[SendAll]:
    """The usual way to add retries to it: tenacity, a semaphore, and a task for each order.

    Exponential backoff as tenacity's documentation has it. With ``retry_after`` it waits for as
    long as a Retry-After asks, and up to a second more: without that jitter all come back at once.
    """
    import aiohttp
    import tenacity

    url, slots = settings["url"] + PATH, asyncio.Semaphore(settings["concurrency"])
    backoff = tenacity.wait_random_exponential(multiplier=1, max=60)

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        if isinstance(error, aiohttp.ClientResponseError) and error.status == 429:
            seconds = "" if error.headers is None else error.headers.get("Retry-After", "")
            if seconds.isdecimal():
                return float(seconds) + random.uniform(0, 1)
        return backoff(state)

    async with _session(settings) as session:

        @tenacity.retry(
            stop=tenacity.stop_after_attempt(settings.get("attempts", 5)),
            wait=wait if settings.get("retry_after") else backoff,
            retry=tenacity.retry_if_exception_type(aiohttp.ClientError),
            reraise=True,
        )
        async def send(one: dict[str, Any]) -> None:
            async with session.post(url, json=one, headers=HEADERS) as response:
                response.raise_for_status()
                check(response.status, await response.json())

        async def bounded(one: dict[str, Any], report: Report) -> None:
            async with slots:
                await _report(send, one, report)

        async def send_all(source: Iterator[dict[str, Any]], report: Report) -> None:
            await asyncio.gather(*(bounded(one, report) for one in source))

        yield send_all


@asynccontextmanager
async def aiohttp_retry(settings: Settings) -> AsyncIterator[SendAll]:
    """The library made for it."""
    library: Any = importlib.import_module("aiohttp_retry")
    url = settings["url"] + PATH
    async with _session(settings) as session:
        client = library.RetryClient(
            client_session=session, retry_options=library.ExponentialRetry(attempts=5)
        )

        async def send(one: dict[str, Any]) -> None:
            async with client.post(url, json=one, headers=HEADERS) as response:
                check(response.status, await response.json())

        yield _send_each(send, settings["concurrency"])


@asynccontextmanager
async def httpx(settings: Settings) -> AsyncIterator[SendAll]:
    """`httpx.AsyncClient`."""
    library: Any = importlib.import_module("httpx")
    url = settings["url"] + PATH
    async with library.AsyncClient() as client:  # its own limits: higher ones slow it down

        async def send(one: dict[str, Any]) -> None:
            response = await client.post(url, json=one, headers=HEADERS)
            check(response.status_code, response.json())

        yield _send_each(send, settings["concurrency"])


@asynccontextmanager
async def niquests(settings: Settings) -> AsyncIterator[SendAll]:
    """`niquests.AsyncSession`."""
    library: Any = importlib.import_module("niquests")
    url, concurrency = settings["url"] + PATH, settings["concurrency"]
    async with library.AsyncSession(pool_maxsize=concurrency) as session:

        async def send(one: dict[str, Any]) -> None:
            response = await session.post(url, json=one, headers=HEADERS)
            check(response.status_code, response.json())

        yield _send_each(send, concurrency)


@asynccontextmanager
async def pyreqwest(settings: Settings) -> AsyncIterator[SendAll]:
    """`pyreqwest`: an HTTP client in Rust, with threads of its own."""
    library: Any = importlib.import_module("pyreqwest.client")
    # Its threads run on, and may abort the process while Python ends.
    atexit.register(os._exit, 0)
    url = settings["url"] + PATH
    async with library.ClientBuilder().build() as client:

        async def send(one: dict[str, Any]) -> None:
            response = await client.post(url).headers(HEADERS).body_json(one).build().send()
            check(response.status, await response.json())

        yield _send_each(send, settings["concurrency"])


SENDERS: dict[str, Sender] = {
    sender.__name__: sender
    for sender in (
        *(stream_orders, stream_prebuilt, send_order),
        *(bare_aiohttp, tenacity_gather, aiohttp_retry),
        *(httpx, niquests, pyreqwest),
    )
}
