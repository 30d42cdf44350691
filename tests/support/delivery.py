"""Orders to send, and clients that send them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any

from everlytic_async import EverlyticClient, RetryPolicy
from everlytic_async.sandbox import Sandbox

STORE_HASH = "6361437b-7adf-402c-b4b0-9e4a3a1e5d85"
CUSTOMER_HASH = "7URV2nrUrSHswsrE"

#: As the default policy, but with pauses that a test can wait for.
FAST_RETRY = RetryPolicy(base_s=0.002, cap_s=0.01)
#: The same, with so many attempts that they never run out.
MANY_RETRIES = RetryPolicy(attempts=100, base_s=0.002, cap_s=0.01)


def order(number: int | str, **fields: Any) -> dict[str, Any]:
    """An order whose id is its number."""
    return {
        "contact_email": f"customer{number}@example.com",
        "order_id": str(number),
        "products": [{"product_name": "Mop", "product_price": 21}],
        **fields,
    }


def orders(count: int) -> Iterator[dict[str, Any]]:
    """Orders 0 to `count` - 1, lazily."""
    return (order(number) for number in range(count))


async def streamed(source: Iterable[Any]) -> AsyncIterator[Any]:
    """The same as an async generator that waits before each item."""
    for item in source:
        await asyncio.sleep(0)
        yield item


def order_ids(received: Iterable[dict[str, Any]]) -> list[str]:
    """The ids of the orders that a sandbox received."""
    return [order["order_id"] for order in received]


def make_client(base_url: str = "https://shop.example", **settings: Any) -> EverlyticClient:
    """A client that is quick to retry."""
    defaults = {"store_hash": STORE_HASH, "customer_hash": CUSTOMER_HASH, "retry": FAST_RETRY}
    return EverlyticClient(base_url, **{**defaults, **settings})


def client_of(sandbox: Sandbox, **settings: Any) -> EverlyticClient:
    """A client of a sandbox."""
    hashes = {"store_hash": sandbox.store_hash, "customer_hash": sandbox.customer_hash}
    return make_client(sandbox.base_url, **{**hashes, **settings})


@asynccontextmanager
async def sandbox_client(
    sandbox: Sandbox | None = None, **settings: Any
) -> AsyncIterator[tuple[Sandbox, EverlyticClient]]:
    """A running sandbox and an open client of it."""
    sandbox = sandbox or Sandbox()
    async with sandbox, client_of(sandbox, **settings) as client:
        yield sandbox, client
