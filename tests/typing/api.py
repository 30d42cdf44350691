"""How the package is used, for the type checker alone: nothing here is ever run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from decimal import Decimal
from typing import Any, assert_type

import aiohttp

from everlytic_async import (
    BatchReport,
    BatchStoppedError,
    Delivery,
    EverlyticClient,
    EverlyticError,
    InvalidOrderError,
    Order,
    OrderResult,
    OrderStream,
    Outcome,
    Pacing,
    Product,
    Receipt,
    RejectedError,
    RetryPolicy,
    SourceError,
    ThrottledError,
    Timeouts,
    UnknownOutcomeError,
)
from everlytic_async.sandbox import Faults, Sandbox


def orders_and_products() -> None:
    product = Product(
        product_name="Mop",
        product_description="Wet",
        product_price=Decimal("10.10"),
        product_quantity=1.5,
        product_sku=412,
        product_line_total=21,
        product_special_price=0.1,
        product_url="https://store.com/mop",
        product_gallery=["https://store.com/a.png"],
    )
    order = Order(
        contact_email="jo@example.com",
        contact_unique_id=17,
        order_link_url="https://store.com/1",
        order_id=34,
        sub_total="10.10",
        shipping_fee=Decimal("1.00"),
        taxes=1.5,
        total=12,
        discount=None,
        products=[product, {"product_name": "Broom"}],
        checkout_url="https://store.com/cart",
        workflow_id=32,
    )
    Order(contact_unique_id="17", products=(product,))
    Order(contact_email="jo@example.com", products=[product])
    assert_type(Order.from_mapping({"contact_email": "jo@example.com"}), Order)
    assert_type(Product.from_mapping({}), Product)
    assert_type(order.workflow_id, int | None)


class Shop(EverlyticClient):
    """A client of one's own."""


async def clients(session: aiohttp.ClientSession) -> None:
    async with EverlyticClient(
        "https://shop.everlytic.net",
        store_hash="...",
        customer_hash="...",
        delivery=Delivery.AT_LEAST_ONCE,
        retry=RetryPolicy(attempts=5, base_s=0.5, cap_s=30, deadline_s=120, retry_after_cap_s=120),
        pacing=Pacing(max_concurrency=32, max_rate=None, adaptive=True),
        timeouts=Timeouts(connect_s=10, read_s=30, total_s=60),
        session=session,
        allow_http=False,
    ) as client:
        assert_type(client, EverlyticClient)
    assert_type(EverlyticClient.from_env(pacing=Pacing(max_rate=5.5)), EverlyticClient)
    assert_type(Shop.from_env(), Shop)
    async with Shop.from_env() as shop:
        assert_type(shop, Shop)
    started = await EverlyticClient.from_env().start()
    assert_type(started, EverlyticClient)
    await started.aclose()


async def one_order(client: EverlyticClient, order: Order, mapping: Mapping[str, Any]) -> None:
    receipt = await client.send_order(order)
    assert_type(receipt, Receipt)
    assert_type(receipt.status, int)
    assert_type(receipt.attempts, int)
    assert_type(receipt.elapsed_s, float)
    await client.send_order(mapping)
    await client.send_order({"contact_email": "jo@example.com", "products": [{}]})


def generated() -> Iterator[Order]:
    yield Order(contact_email="jo@example.com", products=[{}])


async def fetched() -> AsyncIterator[dict[str, object]]:
    yield {"contact_email": "jo@example.com"}


def mixed() -> Iterator[Order | dict[str, Any] | InvalidOrderError]:
    yield InvalidOrderError(["contact_email: is blank"], line=1)


async def many_orders(client: EverlyticClient, orders: list[Order]) -> None:
    async with client.stream_orders(orders, ordered=True, key=str) as results:
        assert_type(results, OrderStream)
        async for result in results:
            assert_type(result, OrderResult)
            assert_type(result.index, int)
            assert_type(result.key, str | None)
            assert_type(result.outcome, Outcome)
            assert_type(result.receipt, Receipt | None)
            assert_type(result.error, EverlyticError | None)
            assert_type(result.duplicate_risk, bool)
        assert_type(results.stopped, str | None)
    report = await client.send_orders(generated())
    assert_type(report, BatchReport)
    assert_type(report.counts, Mapping[Outcome, int])
    assert_type(report.results, tuple[OrderResult, ...])
    assert_type(report.failures, tuple[OrderResult, ...])
    assert_type(report.elapsed_s, float)
    assert_type(report.stopped, str | None)
    await client.send_orders(fetched(), ordered=False)
    await client.send_orders(mixed())
    await client.send_orders([{"contact_email": "jo@example.com"}])


async def errors(client: EverlyticClient, order: Order) -> None:
    try:
        await client.send_order(order)
    except InvalidOrderError as error:
        assert_type(error.faults, tuple[str, ...])
        assert_type(error.line, int | None)
    except ThrottledError as error:
        assert_type(error.retry_after_s, float | None)
    except (RejectedError, UnknownOutcomeError) as error:
        assert_type(error.status, int | None)
    except (BatchStoppedError, SourceError) as error:
        assert_type(error.report, BatchReport | None)
    except EverlyticError as error:
        assert_type(error.may_have_been_processed, bool)
        assert_type(error.attempts, int)
        assert_type(error.message, str)


async def sandbox() -> None:
    async with Sandbox(faults=Faults(throttled=0.1)) as box:
        EverlyticClient(box.base_url, store_hash=box.store_hash, customer_hash=box.customer_hash)
