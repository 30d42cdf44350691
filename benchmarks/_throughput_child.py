"""The contestants of the throughput benchmark, each as its own documentation shows it in use.

Run as a process of its own: it warms up, measures one contestant, and prints its figures. A
contestant is a context manager that gives a function which sends so many orders, 64 or so at once,
and checks every answer: its status and its body.
"""

# A contestant that is not measured is not imported, for it may not be installed.
# ruff: noqa: PLC0415

from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

from benchmarks._load import (
    CUSTOMER_HASH,
    HEADERS,
    PATH,
    STORE_HASH,
    Meter,
    WrongAnswerError,
    check,
    child,
    order,
    orders,
    run,
)

if TYPE_CHECKING:
    import aiohttp

    from everlytic_async import EverlyticClient, Order

#: Sends so many orders and checks their answers.
SendMany = Callable[[int], Awaitable[None]]
Contestant = Callable[[str, int], AbstractAsyncContextManager[SendMany]]
_SendOne = Callable[[dict[str, Any]], Awaitable[None]]
# Enough to be different, few enough to stay out of the collector's way.
_PREBUILT = 1_000


def workers(send: _SendOne, concurrency: int) -> SendMany:
    """So many tasks that take the orders in turn: the usual bounded loop, without a semaphore."""

    async def send_many(count: int) -> None:
        waiting = orders(count)

        async def work() -> None:
            for one in waiting:
                await send(one)

        await asyncio.gather(*(work() for _ in range(concurrency)))

    return send_many


# ------------------------------------------------------------------------------------------- ours


def _client(url: str, concurrency: int) -> EverlyticClient:
    from everlytic_async import EverlyticClient, Pacing

    return EverlyticClient(
        url,
        store_hash=STORE_HASH,
        customer_hash=CUSTOMER_HASH,
        pacing=Pacing(max_concurrency=concurrency),
    )


async def _stream(client: EverlyticClient, given: Iterable[Order | dict[str, Any]]) -> int:
    from everlytic_async import Outcome

    sent = 0
    async with client.stream_orders(given) as results:
        async for result in results:
            if result.outcome is not Outcome.SENT or result.receipt is None:
                raise WrongAnswerError(f"{result!r}") from result.error
            check(result.receipt.status, result.receipt.body)
            sent += 1
    return sent


@asynccontextmanager
async def stream_orders(url: str, concurrency: int) -> AsyncIterator[SendMany]:
    """`stream_orders`, fed with mappings: validated, tracked, paced, with a result for each."""
    async with _client(url, concurrency) as client:

        async def send_many(count: int) -> None:
            assert await _stream(client, orders(count)) == count

        yield send_many


@asynccontextmanager
async def stream_prebuilt(url: str, concurrency: int) -> AsyncIterator[SendMany]:
    """The same, fed with `Order` objects that were built, and so validated, before."""
    from everlytic_async import Order

    built = [Order.from_mapping(order(number)) for number in range(_PREBUILT)]
    async with _client(url, concurrency) as client:

        async def send_many(count: int) -> None:
            assert await _stream(client, islice(cycle(built), count)) == count

        yield send_many


@asynccontextmanager
async def send_order(url: str, concurrency: int) -> AsyncIterator[SendMany]:
    """`send_order` in a loop of workers."""
    async with _client(url, concurrency) as client:

        async def send(one: dict[str, Any]) -> None:
            receipt = await client.send_order(one)
            check(receipt.status, receipt.body)

        yield workers(send, concurrency)


# ------------------------------------------------------------------------------------- the rivals


def _session(concurrency: int) -> aiohttp.ClientSession:
    import aiohttp

    # aiohttp's own default, 100, unless more are asked for.
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=max(100, concurrency)))


@asynccontextmanager
async def bare_aiohttp(url: str, concurrency: int) -> AsyncIterator[SendMany]:
    """The simplest thing with aiohttp: no retry, nothing tracked."""
    async with _session(concurrency) as session:

        async def send(one: dict[str, Any]) -> None:
            async with session.post(url + PATH, json=one, headers=HEADERS) as response:
                check(response.status, await response.json())

        yield workers(send, concurrency)


@asynccontextmanager
async def aiohttp_tenacity(url: str, concurrency: int) -> AsyncIterator[SendMany]:
    """The usual way to add retries to it."""
    import aiohttp
    import tenacity

    async with _session(concurrency) as session:

        @tenacity.retry(
            stop=tenacity.stop_after_attempt(5),
            wait=tenacity.wait_random_exponential(multiplier=1, max=60),
            retry=tenacity.retry_if_exception_type(aiohttp.ClientError),
        )
        async def post(one: dict[str, Any]) -> tuple[int, Any]:
            async with session.post(url + PATH, json=one, headers=HEADERS) as response:
                response.raise_for_status()
                return response.status, await response.json()

        async def send(one: dict[str, Any]) -> None:
            check(*await post(one))

        yield workers(send, concurrency)


@asynccontextmanager
async def aiohttp_retry(url: str, concurrency: int) -> AsyncIterator[SendMany]:
    """The library made for it."""
    library: Any = importlib.import_module("aiohttp_retry")
    async with _session(concurrency) as session:
        client = library.RetryClient(
            client_session=session, retry_options=library.ExponentialRetry(attempts=5)
        )

        async def send(one: dict[str, Any]) -> None:
            async with client.post(url + PATH, json=one, headers=HEADERS) as response:
                check(response.status, await response.json())

        yield workers(send, concurrency)


@asynccontextmanager
async def httpx(url: str, concurrency: int) -> AsyncIterator[SendMany]:
    """`httpx.AsyncClient`."""
    library: Any = importlib.import_module("httpx")
    async with library.AsyncClient() as client:  # its own limits: it does worse with higher ones

        async def send(one: dict[str, Any]) -> None:
            response = await client.post(url + PATH, json=one, headers=HEADERS)
            check(response.status_code, response.json())

        yield workers(send, concurrency)


@asynccontextmanager
async def requests_threads(url: str, concurrency: int) -> AsyncIterator[SendMany]:
    """`requests` in as many threads, a session each, as it asks for."""
    from concurrent.futures import ThreadPoolExecutor

    library: Any = importlib.import_module("requests")
    lock = threading.Lock()
    sessions = [library.Session() for _ in range(concurrency)]

    def work(session: Any, waiting: Iterator[dict[str, Any]]) -> None:
        while True:
            with lock:  # a generator is not to be entered twice
                one = next(waiting, None)
            if one is None:
                return
            response = session.post(url + PATH, json=one, headers=HEADERS)
            check(response.status_code, response.json())

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(concurrency) as pool:

        async def send_many(count: int) -> None:
            waiting = orders(count)
            await asyncio.gather(
                *(loop.run_in_executor(pool, work, session, waiting) for session in sessions)
            )

        try:
            yield send_many
        finally:
            for session in sessions:
                session.close()


CONTESTANTS: dict[str, Contestant] = {
    contestant.__name__: contestant
    for contestant in (
        stream_orders,
        stream_prebuilt,
        send_order,
        bare_aiohttp,
        aiohttp_tenacity,
        aiohttp_retry,
        httpx,
        requests_threads,
    )
}


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Measure one contestant: ``contestant``, ``url``, ``orders``, ``warm_up``, ``concurrency``."""
    contestant = CONTESTANTS[settings["contestant"]]

    async def main() -> dict[str, float]:
        async with contestant(settings["url"], settings["concurrency"]) as send_many:
            await send_many(settings["warm_up"])
            meter = Meter()
            await send_many(settings["orders"])
            return meter.read()

    return run(main(), uvloop=settings["uvloop"])


if __name__ == "__main__":
    child(measure)
