"""A stream's memory does not grow with its input."""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
import weakref
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from everlytic_async import EverlyticClient, Order, Outcome
from everlytic_async._transport import Response
from support.delivery import CUSTOMER_HASH, STORE_HASH, order
from support.servers import QuickServer

MB = 1_000_000
_STATM = Path("/proc/self/statm")


def resident_bytes() -> int:
    """The memory of this process: at present on Linux, its peak so far elsewhere."""
    gc.collect()
    if _STATM.exists():
        return int(_STATM.read_text().split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def many(count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        # One in a hundred fails: its error must not be kept either.
        yield order(number) if number % 100 else {}


async def many_async(count: int) -> AsyncIterator[dict[str, Any]]:
    for given in many(count):
        yield given


@pytest.mark.parametrize(
    "count", [200_000, pytest.param(1_000_000, marks=pytest.mark.slow)], ids="{:,}".format
)
async def test_memory_stays_flat_from_the_10_000th_order_to_the_last(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    # Without the network, which is next, this is a matter of seconds.
    accepted = Response(200, {}, b'{"status":"success"}')

    async def post(_body: bytes, _cancelled: object) -> Response:
        await asyncio.sleep(0)
        return accepted

    client = EverlyticClient(
        "https://shop.example", store_hash=STORE_HASH, customer_hash=CUSTOMER_HASH
    )
    monkeypatch.setattr(client._transport, "post", post)
    seen = sent = before = 0
    async with client, client.stream_orders(many(count)) as stream:
        async for result in stream:
            seen += 1
            sent += result.outcome is Outcome.SENT
            if seen == 10_000:
                before = resident_bytes()
    grown = resident_bytes() - before

    assert (seen, sent) == (count, count - count // 100)
    assert grown < 20 * MB


@pytest.mark.parametrize("ordered", [True, False])
async def test_the_network_keeps_nothing_of_an_order_either(*, ordered: bool) -> None:
    seen = 0
    objects: list[int] = []
    async with (
        QuickServer.running() as url,
        EverlyticClient(url, store_hash=STORE_HASH, customer_hash=CUSTOMER_HASH) as client,
        client.stream_orders(many_async(5_000), ordered=ordered) as stream,
    ):
        async for _ in stream:
            seen += 1
            if seen % 1_000 == 0:
                gc.collect()
                objects.append(len(gc.get_objects()))

    assert seen == 5_000
    assert objects[-1] - objects[0] < 1_000  # in 4,000 orders: not even one object for each


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    "products",
    [
        [{}] * 10_000,
        [{"product_name": "\N{GRINNING FACE}" + "x" * 1_000_000}],
        [{"product_gallery": ["http://a"] * 9_999}] * 9,
    ],
    ids=["many products", "a long text", "many pictures"],
)
async def test_few_large_orders_are_in_memory_at_once(products: Any, *, is_async: bool) -> None:
    orders: list[weakref.ref[Order]] = []
    most = 0

    def large() -> Iterator[Order]:
        nonlocal most
        for number in range(60):
            made = Order(contact_email="ann@example.com", order_id=number, products=products)
            orders.append(weakref.ref(made))
            most = max(most, sum(each() is not None for each in orders))
            yield made
            del made

    async def large_async() -> AsyncIterator[Order]:
        for made in large():
            yield made

    async with (
        QuickServer.running() as url,
        EverlyticClient(url, store_hash=STORE_HASH, customer_hash=CUSTOMER_HASH) as client,
        client.stream_orders(large_async() if is_async else large()) as stream,
    ):
        async for result in stream:
            assert result.outcome is Outcome.SENT
            del result
    assert len(orders) == 60
    assert most < 9
