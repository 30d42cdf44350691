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
from functools import partial
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
# Sends an order: the status and the body of the response.
_Post = Callable[[dict[str, Any]], Awaitable[tuple[int, object]]]
# Enough to differ, few enough to cost Python's collector little.
_PREBUILT = 200


async def _report(post: _Post, one: dict[str, Any], report: Report) -> None:
    try:
        check(*await post(one))
    except Exception as error:  # noqa: BLE001 - the report decides
        report(error)
    else:
        report(None)


def _send_each(post: _Post, concurrency: int) -> SendAll:
    """Tasks that take the orders in turn: the usual bounded loop, without a semaphore."""

    async def send_some(source: Iterator[dict[str, Any]], report: Report) -> None:
        for one in source:
            await _report(post, one, report)

    async def send_all(source: Iterator[dict[str, Any]], report: Report) -> None:
        await asyncio.gather(*(send_some(source, report) for _ in range(concurrency)))

    return send_all


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


@asynccontextmanager
async def stream_orders(settings: Settings) -> AsyncIterator[SendAll]:
    """`stream_orders`, fed with mappings: validated, tracked, paced, with a result for each.

    As ``stream_prebuilt`` it gets as many `Order` objects, built and validated before.
    """
    from everlytic_async import Order

    products = settings.get("products", 1)
    built = [Order.from_mapping(order(number, products)) for number in range(_PREBUILT)]
    async with make_client(settings) as client:

        async def send_all(source: Iterator[dict[str, Any]], report: Report) -> None:
            items: Iterable[Order | dict[str, Any]] = source
            if settings["sender"] == "stream_prebuilt":
                items = islice(cycle(built), sum(1 for _ in source))
            async with client.stream_orders(items) as results:
                async for result in results:
                    report(_error(result))

        yield send_all


@asynccontextmanager
async def send_order(settings: Settings) -> AsyncIterator[SendAll]:
    """`send_order` in a loop of workers."""
    async with make_client(settings) as client:

        async def post(one: dict[str, Any]) -> tuple[int, object]:
            receipt = await client.send_order(one)
            return receipt.status, receipt.body

        yield _send_each(post, settings["concurrency"])


def _rival(
    open_client: Callable[[Settings], AbstractAsyncContextManager[Any]],
    post: Callable[[Any, str, dict[str, Any]], Awaitable[tuple[int, object]]],
) -> Sender:
    """A client that sends each order by `post`, in a loop of workers."""

    @asynccontextmanager
    async def sender(settings: Settings) -> AsyncIterator[SendAll]:
        async with open_client(settings) as client:
            post_one = partial(post, client, settings["url"] + PATH)
            yield _send_each(post_one, settings["concurrency"])

    return sender


def _session(settings: Settings) -> aiohttp.ClientSession:
    import aiohttp

    # aiohttp's own default, 100, unless more are asked for.
    limit = max(100, settings["concurrency"])
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=limit))


def _retry_client(settings: Settings) -> Any:
    library: Any = importlib.import_module("aiohttp_retry")
    options = library.ExponentialRetry(attempts=5)
    return library.RetryClient(client_session=_session(settings), retry_options=options)


def _httpx(_settings: Settings) -> Any:  # its own limits: higher ones slow it down
    return importlib.import_module("httpx").AsyncClient()


def _niquests(settings: Settings) -> Any:
    return importlib.import_module("niquests").AsyncSession(pool_maxsize=settings["concurrency"])


def _pyreqwest(_settings: Settings) -> Any:
    # Its threads run on, and may abort the process while Python ends.
    atexit.register(os._exit, 0)
    return importlib.import_module("pyreqwest.client").ClientBuilder().build()


async def _post_by_aiohttp(client: Any, url: str, one: dict[str, Any]) -> tuple[int, object]:
    async with client.post(url, json=one, headers=HEADERS) as response:
        return response.status, await response.json()


async def _post_by_requests(client: Any, url: str, one: dict[str, Any]) -> tuple[int, object]:
    response = await client.post(url, json=one, headers=HEADERS)
    return response.status_code, response.json()


async def _post_by_pyreqwest(client: Any, url: str, one: dict[str, Any]) -> tuple[int, object]:
    response = await client.post(url).headers(HEADERS).body_json(one).build().send()
    return response.status, await response.json()


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
        seconds = (getattr(error, "headers", None) or {}).get("Retry-After", "")
        return float(seconds) + random.uniform(0, 1) if seconds.isdecimal() else backoff(state)

    async with _session(settings) as session:

        @tenacity.retry(
            stop=tenacity.stop_after_attempt(settings.get("attempts", 5)),
            wait=wait if settings.get("retry_after") else backoff,
            retry=tenacity.retry_if_exception_type(aiohttp.ClientError),
            reraise=True,
        )
        async def post(one: dict[str, Any]) -> tuple[int, object]:
            async with session.post(url, json=one, headers=HEADERS) as response:
                response.raise_for_status()
                return response.status, await response.json()

        async def bounded(one: dict[str, Any], report: Report) -> None:
            async with slots:
                await _report(post, one, report)

        async def send_all(source: Iterator[dict[str, Any]], report: Report) -> None:
            await asyncio.gather(*(bounded(one, report) for one in source))

        yield send_all


SENDERS: dict[str, Sender] = {
    "stream_orders": stream_orders,
    "stream_prebuilt": stream_orders,
    "send_order": send_order,
    "tenacity_gather": tenacity_gather,
    # The simplest thing with aiohttp, no retry, nothing tracked; and the library made for retries.
    "bare_aiohttp": _rival(_session, _post_by_aiohttp),
    "aiohttp_retry": _rival(_retry_client, _post_by_aiohttp),
    "httpx": _rival(_httpx, _post_by_requests),
    "niquests": _rival(_niquests, _post_by_requests),
    "pyreqwest": _rival(_pyreqwest, _post_by_pyreqwest),
}
