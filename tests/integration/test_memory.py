"""A stream's memory does not grow with its input."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from everlytic_async import Order, Outcome
from support.delivery import make_client, order
from support.processes import resident_bytes
from support.servers import QuickServer

MB = 1_000_000


async def many(count: int) -> AsyncIterator[dict[str, Any]]:
    for number in range(count):
        # One in a hundred fails: its error must not be kept either.
        yield order(number) if number % 100 else {}


@pytest.mark.slow
async def test_memory_stays_flat_from_the_10_000th_order_to_the_last() -> None:
    count = 200_000
    seen = sent = before = 0
    async with (
        QuickServer.running() as url,
        make_client(url) as client,
        client.stream_orders(many(count)) as stream,
    ):
        async for result in stream:
            seen += 1
            sent += result.outcome is Outcome.SENT
            if seen == 10_000:
                gc.collect()
                before = resident_bytes()
    gc.collect()
    grown = resident_bytes() - before

    assert (seen, sent) == (count, count - count // 100)
    assert grown < 20 * MB


@pytest.mark.parametrize("ordered", [True, False])
async def test_nothing_is_kept_of_an_order(*, ordered: bool) -> None:
    objects: list[int] = []
    async with (
        QuickServer.running() as url,
        make_client(url) as client,
        client.stream_orders(many(1_000), ordered=ordered) as stream,
    ):
        seen = 0
        async for _ in stream:
            seen += 1
            if seen % 250 == 0:
                gc.collect()
                objects.append(len(gc.get_objects()))

    assert seen == 1_000
    assert objects[-1] - objects[0] < 500  # in 750 orders: not even one object for each


@pytest.mark.parametrize("is_async", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "products",
    [
        [{}] * 10_000,
        pytest.param(
            [{"product_name": "\N{GRINNING FACE}" + "x" * 1_000_000}], marks=pytest.mark.slow
        ),
        pytest.param([{"product_gallery": ["http://a"] * 9_999}] * 9, marks=pytest.mark.slow),
    ],
    ids=["many products", "a long text", "many pictures"],
)
async def test_few_large_orders_are_in_memory_at_once(products: Any, *, is_async: bool) -> None:
    orders: list[weakref.ref[Order]] = []
    most = 0

    def large() -> Iterator[Order]:
        nonlocal most
        for number in range(20):
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
        make_client(url) as client,
        client.stream_orders(large_async() if is_async else large()) as stream,
    ):
        async for result in stream:
            assert result.outcome is Outcome.SENT
            del result
    assert len(orders) == 20
    assert most < 9
