"""The documentation's sample order, and a shop that posts to a sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import attrs
import pytest

from everlytic_async.sandbox import Sandbox

PATH = "/servlet/e-commerce/orders"


@pytest.fixture
def sample() -> dict[str, Any]:
    """What the documentation's PHP sends."""
    return {
        "order_link_url": "http://store.com/order_url/2344",
        "order_id": 34,
        "products": [
            {
                "product_description": "Mandatory coherent internet solution",
                "product_name": "Mop Head - Cotton, 24 Oz",
                "product_price": 21,
                "product_quantity": 4,
                "product_sku": 412,
                "product_line_total": 100043.22,
                "product_special_price": 71,
                "product_url": "https://bbb.org/risus.xml",
                "product_gallery": [
                    "https://source.unsplash.com/400x1300/?rap",
                    "https://source.unsplash.com/400x300/?rap",
                ],
            }
        ],
        "contact_email": "user@example.com",
    }


@attrs.frozen
class Answer:
    """A response, read."""

    status: int
    body: Any
    headers: Mapping[str, str]


@attrs.frozen
class Shop:
    """Posts to sandboxes, each time on a connection of its own."""

    session: aiohttp.ClientSession

    async def post(
        self,
        sandbox: Sandbox,
        order: Any = None,
        *,
        data: Any = None,
        headers: Mapping[str, str | None] | None = None,
        path: str = PATH,
        method: str = "POST",
    ) -> Answer:
        """Send an order (as JSON) or raw bytes; a header of None is left out."""
        all_headers = {
            "x-ev-store-hash": sandbox.store_hash,
            "x-ev-customer-hash": sandbox.customer_hash,
            "Content-Type": "application/json",
            **(headers or {}),
        }
        body: dict[str, Any] = {"json": order} if data is None else {"data": data}
        async with self.session.request(
            method,
            f"{sandbox.base_url}{path}",
            headers={name: value for name, value in all_headers.items() if value is not None},
            **body,
        ) as response:
            return Answer(response.status, await response.json(), response.headers)


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    # A pooled connection that a sandbox closed would blur what a test sees of the next one.
    connector = aiohttp.TCPConnector(force_close=True)
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield Shop(session)
