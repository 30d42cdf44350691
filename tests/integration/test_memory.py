"""A stream's memory does not grow with its input."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from everlytic_async import Order, Outcome
from support.delivery import make_client, order
from support.servers import RawServer, accept_all


async def many(count: int) -> AsyncIterator[dict[str, Any]]:
    for number in range(count):
        # One in a hundred fails: its error must not be kept either.
        yield order(number) if number % 100 else {}


@pytest.mark.parametrize("ordered", [True, False])
async def test_nothing_is_kept_of_an_order(*, ordered: bool) -> None:
    held: list[tuple[int, int]] = []
    seen = 0
    async with (
        RawServer(accept_all) as server,
        make_client(server.url) as client,
        client.stream_orders(many(1_250), ordered=ordered) as stream,
    ):
        tracemalloc.start()
        async for _ in stream:
            seen += 1
            if seen in (250, 1_000):
                server.heads.clear()
                server.bodies.clear()
                gc.collect()
                held.append((len(gc.get_objects()), tracemalloc.get_traced_memory()[0]))
        tracemalloc.stop()

    assert seen == 1_250
    (objects, size), (more_objects, more_size) = held
    # Of 750 orders: not one object each, nor as much as its key. The pacer's history has a bound.
    assert more_objects - objects < 500
    assert more_size - size < 750 * 64


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
        RawServer(accept_all) as server,
        make_client(server.url) as client,
        client.stream_orders(large_async() if is_async else large()) as stream,
    ):
        async for result in stream:
            assert result.outcome is Outcome.SENT
            del result
    assert len(orders) == 20
    assert most < 9
