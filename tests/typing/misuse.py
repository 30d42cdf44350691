"""What the type checker must refuse: every line with an ``ignore`` has to be an error."""

from __future__ import annotations

import asyncio

import everlytic_async
from everlytic_async import (
    BatchReport,
    EverlyticClient,
    Order,
    OrderResult,
    Outcome,
    Pacing,
    Product,
    Receipt,
    RetryPolicy,
    ledger,
    worker,
)


def names() -> None:
    str(everlytic_async.Outcom)  # type: ignore[attr-defined]
    str(ledger.SqliteLedgr)  # type: ignore[attr-defined]
    str(worker.Workers)  # type: ignore[attr-defined]


def orders_and_products(order: Order, product: Product) -> None:
    Order("jo@example.com")  # type: ignore[call-arg]
    Order(contact_email=5, products=[{}])  # type: ignore[arg-type]
    Order(contact_email="jo@example.com", products="abc")  # type: ignore[arg-type]
    Order(contact_email="jo@example.com", workflow_id="32")  # type: ignore[arg-type]
    Order(contact_email="jo@example.com", price=5)  # type: ignore[call-arg]
    Product(product_price="ten")  # type: ignore[arg-type]
    Product(product_gallery=[5])  # type: ignore[list-item]
    Order.from_mapping(["contact_email"])  # type: ignore[arg-type]
    order.total = "5"  # type: ignore[misc]
    product.product_name = "Mop"  # type: ignore[misc]


def clients() -> None:
    EverlyticClient("https://shop.everlytic.net")  # type: ignore[call-arg]
    EverlyticClient("https://shop.everlytic.net", "...", "...")  # type: ignore[call-arg]
    EverlyticClient(
        "https://shop.everlytic.net",
        store_hash="...",
        customer_hash="...",
        retry=5,  # type: ignore[arg-type]
    )
    EverlyticClient.from_env(max_rate=5)  # type: ignore[call-arg]
    EverlyticClient.from_env(retry=5)  # type: ignore[arg-type]
    RetryPolicy(attempts="5")  # type: ignore[arg-type]
    RetryPolicy(retries=5)  # type: ignore[call-arg]
    Pacing(32)  # type: ignore[call-arg]


async def sending(client: EverlyticClient, order: Order) -> None:
    assert client.send_order(order).status  # type: ignore[attr-defined]
    await client.send_order([order])  # type: ignore[arg-type]
    await client.send_orders(order)  # type: ignore[arg-type]
    await client.send_orders([5])  # type: ignore[list-item]
    await client.stream_orders([order])  # type: ignore[misc]
    async for _ in client.send_orders([order]):  # type: ignore[attr-defined]
        pass
    with client:  # type: ignore[attr-defined]
        await asyncio.sleep(0)


def results(result: OrderResult, report: BatchReport, receipt: Receipt) -> None:
    assert result.receipt.status  # type: ignore[union-attr]
    result.outcome = Outcome.SENT  # type: ignore[misc]
    report.counts[Outcome.SENT] = 5  # type: ignore[index]
    report.results.append(result)  # type: ignore[attr-defined]
    receipt.status = 500  # type: ignore[misc]
