"""The client against servers: single orders, the bounds of all its calls, opening and closing."""

from __future__ import annotations

import asyncio
import inspect
import json
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import aiohttp
import aioresponses
import pytest

from everlytic_async import (
    ConfigurationError,
    Delivery,
    EverlyticClient,
    NotSentError,
    Order,
    Outcome,
    Pacing,
    Product,
    RetryPolicy,
    SkippedError,
    SqliteLedger,
    Timeouts,
    UnknownOutcomeError,
)
from everlytic_async.client import ClientSettings
from everlytic_async.events import CoolDown, Event
from everlytic_async.sandbox import Faults, Sandbox
from support.delivery import (
    CUSTOMER_HASH,
    STORE_HASH,
    client_of,
    make_client,
    order,
    sandbox_client,
)
from support.servers import RawServer, accept_all, never_answer, until
from support.shop import Shop

URL = "https://shop.example/servlet/e-commerce/orders"

# ---------------------------------------------------------------------------------- single orders


async def test_an_order_arrives_and_has_a_receipt() -> None:
    product = Product(product_name="Mop", product_price=Decimal("10.10"))
    async with sandbox_client(Sandbox(path_prefix="/mailer")) as (sandbox, client):
        receipt = await client.send_order(
            Order(
                contact_email="user@example.com",
                order_id=34,
                total=Decimal("100043.20"),
                products=[product],
                workflow_id=7,
            )
        )
        await client.send_order(order(1))

    assert (receipt.status, receipt.body, receipt.attempts) == (200, {"status": "success"}, 1)
    assert receipt.elapsed_s > 0
    assert sandbox.base_url.endswith("/mailer")
    received, mapping = sandbox.received
    assert received == {
        "contact_email": "user@example.com",
        "order_id": "34",
        "total": "100043.20",
        "products": [{"product_name": "Mop", "product_price": Decimal("10.10")}],
        "workflow_id": 7,
    }
    assert str(received["products"][0]["product_price"]) == "10.10"
    assert mapping == order(1)


async def test_a_mapping_that_cannot_be_read_is_an_invalid_order() -> None:
    class Lazy(dict[str, Any]):
        def keys(self) -> Any:
            raise RuntimeError("the database is gone")

    async with make_client() as client:
        report = await client.send_orders([Lazy()])
    (result,) = report.results
    assert result.outcome is Outcome.INVALID
    assert str(result.error) == "order: reading it raised RuntimeError"


# ------------------------------------------------------------------------------ a mocked session


async def test_the_request_as_a_mock_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # aioresponses knows nothing of aiohttp 3.14's `stream_writer`: give it a default.
    class WithWriter(aiohttp.ClientResponse):
        def __init__(self, *args: object, **settings: object) -> None:
            settings.setdefault("stream_writer", Mock(output_size=0))
            super().__init__(*args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(aioresponses.core, "ClientResponse", WithWriter)
    with aioresponses.aioresponses() as mocked:
        mocked.post(URL, payload={"status": "success"})
        async with make_client() as client:
            await client.send_order(order(1))

        ((method, called), (request,)) = next(iter(mocked.requests.items()))
    assert (method, str(called)) == ("POST", URL)
    assert request.kwargs["allow_redirects"] is False
    assert json.loads(request.kwargs["data"]) == order(1)
    assert request.kwargs["headers"]["x-ev-store-hash"] == STORE_HASH
    assert request.kwargs["headers"]["x-ev-customer-hash"] == CUSTOMER_HASH


async def test_an_upload_that_no_tracker_saw_may_have_been_sent() -> None:
    with aioresponses.aioresponses() as mocked:
        mocked.post(URL, exception=aiohttp.ServerDisconnectedError(), repeat=True)
        async with make_client() as client:
            with pytest.raises(UnknownOutcomeError) as caught:
                await client.send_order(order(1))
    assert caught.value.attempts == 1


# ----------------------------------------------------------------- the bounds of the whole client


async def send_mixed(client: EverlyticClient, each: int) -> None:
    """Single orders and two batches at once."""

    async def batch(first: int) -> None:
        report = await client.send_orders(order(first + number) for number in range(each))
        assert report.counts[Outcome.SENT] == each

    async with asyncio.TaskGroup() as group:
        group.create_task(batch(1_000))
        group.create_task(batch(2_000))
        for number in range(each):
            group.create_task(client.send_order(order(number)))


@pytest.mark.parametrize("adaptive", [True, False])
async def test_the_concurrency_limit_holds_for_all_calls_together(*, adaptive: bool) -> None:
    pacing = Pacing(max_concurrency=5, adaptive=adaptive)
    sandbox = Sandbox(faults=Faults(latency_s=0.004))
    async with sandbox_client(sandbox, pacing=pacing) as (_, client):
        await send_mixed(client, 40)

    assert 1 < sandbox.peak_in_flight <= 5
    assert sandbox.processed == 120
    assert sandbox.duplicates == {}


# -------------------------------------------------------------------------------- open and closed


async def test_calls_that_wait_when_the_client_is_closed_are_not_sent() -> None:
    shop = Shop({"": "hang"})
    async with shop.opened_client(concurrency=2) as client:
        sends = [asyncio.create_task(client.send_order(order(number))) for number in range(6)]
        await until(lambda: shop.in_flight == 2)
        closing = asyncio.create_task(client.aclose())
        waiting = await asyncio.gather(*sends[2:], return_exceptions=True)
        assert {type(error) for error in waiting} == {NotSentError}
        assert {str(error).split(": ")[1] for error in waiting} == {"the client was closed"}
        assert not closing.done()  # orders in flight may finish

        shop.answers.set()
        await closing
        assert [(await send).status for send in sends[:2]] == [200, 200]
        assert shop.posts.total() == 2
        await client.aclose()  # closing twice does no harm


async def test_closing_that_is_cancelled_ends_orders_in_flight_all_the_same() -> None:
    async with RawServer(never_answer) as server:
        client = await make_client(server.url).start()
        send = asyncio.create_task(client.send_order(order(1)))
        await until(lambda: server.bodies)
        closing = asyncio.create_task(client.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        with pytest.raises(UnknownOutcomeError):  # an open session would warn at the end
            await asyncio.wait_for(send, 10)


@pytest.mark.parametrize("steps", range(0, 30, 2))
async def test_an_order_may_be_cancelled_at_any_await(steps: int) -> None:
    pacing = Pacing(max_concurrency=1, adaptive=False)
    async with RawServer(accept_all) as server, make_client(server.url, pacing=pacing) as client:
        send = asyncio.create_task(client.send_order(order(1)))
        for _ in range(steps):
            await asyncio.sleep(0)
        finished = send.done()
        send.cancel()
        await asyncio.gather(send, return_exceptions=True)

        assert send.cancelled() is not finished
        assert (await client.send_order(order(2))).status == 200  # the one slot is free again


async def test_a_pause_is_emitted_to_those_that_subscribed() -> None:
    events: list[Event] = []
    async with make_client() as client:
        with client.subscribe(events.append, CoolDown):
            client.pause(0.01)
        client.pause(1.0)
    assert [type(event) for event in events] == [CoolDown]


# ---------------------------------------------------------------------------------- the settings


async def test_settings_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Sandbox() as sandbox:
        for name in ("base_url", "store_hash", "customer_hash"):
            monkeypatch.setenv(f"EVERLYTIC_{name.upper()}", getattr(sandbox, name))
        async with EverlyticClient.from_env(delivery=Delivery.AT_LEAST_ONCE) as client:
            await client.send_order(order(1))
            assert client.delivery is Delivery.AT_LEAST_ONCE

    assert sandbox.processed == 1


def test_from_env_takes_every_setting_of_the_constructor() -> None:
    settings = set(inspect.signature(EverlyticClient).parameters)
    assert settings == set(ClientSettings.__annotations__)


def test_everything_that_is_missing_in_the_environment_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("EVERLYTIC_BASE_URL", raising=False)
    monkeypatch.setenv("EVERLYTIC_STORE_HASH", "  ")
    monkeypatch.setenv("EVERLYTIC_CUSTOMER_HASH", CUSTOMER_HASH)
    with pytest.raises(ConfigurationError) as caught:
        EverlyticClient.from_env()

    assert "EVERLYTIC_BASE_URL, EVERLYTIC_STORE_HASH" in caught.value.message
    assert "EVERLYTIC_CUSTOMER_HASH" not in caught.value.message


async def test_a_closed_session_is_refused_at_once() -> None:
    session = aiohttp.ClientSession()
    await session.close()
    with pytest.raises(ConfigurationError, match="session is closed"):
        await make_client(session=session).start()


def test_making_a_client_needs_no_event_loop_and_opens_nothing() -> None:
    # Unclosed sessions warn, and warnings are errors here.
    policies = {"retry": RetryPolicy(), "pacing": Pacing(), "timeouts": Timeouts()}
    assert repr(make_client(delivery="at_least_once", **policies)) == (
        "<EverlyticClient shop.example>"
    )


async def test_a_cancellation_that_is_pending_travels_on_and_nothing_is_sent() -> None:
    async with sandbox_client() as (sandbox, client):

        async def cancel_and_send() -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()  # as the handler of Ctrl-C does in the middle of plain code
            await client.send_order(order(1))

        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(cancel_and_send())
        assert sandbox.requests == 0
        await client.send_order(order(2))


async def test_a_start_that_is_cancelled_leaves_nothing_open_and_can_be_repeated(
    tmp_path: Path,
) -> None:
    async with Sandbox() as sandbox:
        for steps in range(12):
            ledger = SqliteLedger(tmp_path / "orders.ledger")
            client = client_of(sandbox, ledger=ledger)
            start = asyncio.create_task(client.start())
            for _ in range(steps):
                await asyncio.sleep(0)
            start.cancel()
            await asyncio.wait([start])
            assert client.is_open == (not start.cancelled())
            if start.cancelled():
                with pytest.raises(ConfigurationError, match="not started"):
                    await client.send_order(order(1))
                await client.start()
            with suppress(SkippedError):
                await client.send_order(order(1))
            await client.aclose()
        assert sandbox.processed == 1
