"""The client against servers: single orders, the bounds that hold for all, opening and closing."""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from typing import Any
from unittest.mock import Mock

import aiohttp
import aioresponses
import pytest

from everlytic_async import (
    AuthenticationError,
    BatchStoppedError,
    ConfigurationError,
    Delivery,
    EverlyticClient,
    EverlyticError,
    InvalidOrderError,
    NotSentError,
    Order,
    OrderResult,
    OrderStream,
    Outcome,
    Pacing,
    Product,
    RejectedError,
    RetryPolicy,
    Timeouts,
    UnknownOutcomeError,
)
from everlytic_async import client as module
from everlytic_async.sandbox import Faults, Sandbox
from support.delivery import (
    CUSTOMER_HASH,
    QUICK,
    STORE_HASH,
    client_of,
    ids_of,
    order,
    orders,
    shop,
)
from support.servers import Connection, RawServer, unused_port


def a_client(base_url: str = "https://shop.example", **settings: Any) -> EverlyticClient:
    hashes = {"store_hash": STORE_HASH, "customer_hash": CUSTOMER_HASH}
    return EverlyticClient(base_url, **{**hashes, **settings})


async def until(condition: Callable[[], object]) -> None:
    """Wait for a counter of a server: it has no events."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0)


async def collect(stream: OrderStream, into: list[OrderResult]) -> None:
    async for result in stream:
        into.append(result)  # noqa: PERF401 - kept when the iteration raises


# ---------------------------------------------------------------------------------- single orders


async def test_an_order_arrives_and_gives_a_receipt() -> None:
    async with shop() as (sandbox, client):
        receipt = await client.send_order(
            Order(
                contact_email="user@example.com",
                order_id=34,
                total=Decimal("100043.20"),
                products=[Product(product_name="Mop", product_price=Decimal("10.10"))],
                workflow_id=7,
            )
        )

    assert (receipt.status, receipt.body, receipt.attempts) == (200, {"status": "success"}, 1)
    assert receipt.elapsed_s > 0
    assert sandbox.received == [
        {
            "contact_email": "user@example.com",
            "order_id": "34",
            "total": "100043.20",
            "products": [{"product_name": "Mop", "product_price": Decimal("10.10")}],
            "workflow_id": 7,
        }
    ]
    assert str(sandbox.received[0]["products"][0]["product_price"]) == "10.10"


async def test_a_mapping_does_as_well() -> None:
    async with shop() as (sandbox, client):
        await client.send_order(order(1))

    assert ids_of(sandbox.received) == ["1"]


async def test_an_install_below_a_path() -> None:
    async with shop(Sandbox(path_prefix="/mailer")) as (sandbox, client):
        await client.send_order(order(1))

    assert sandbox.base_url.endswith("/mailer")
    assert sandbox.processed == 1


async def test_an_invalid_order_is_raised_with_all_its_faults_and_nothing_is_sent() -> None:
    async with shop() as (sandbox, client):
        with pytest.raises(InvalidOrderError) as caught:
            await client.send_order({"contact_email": "nobody", "total": True, "products": []})

    assert len(caught.value.faults) == 3
    assert sandbox.requests == 0


async def test_a_refusal_is_raised_with_the_endpoints_words() -> None:
    async def refuse(connection: Connection) -> None:
        await connection.request()
        await connection.answer(403, b'{"status":"error","message":"Workflow 7 is not active"}')

    async with RawServer(refuse) as server, a_client(server.url) as client:
        with pytest.raises(RejectedError, match="Workflow 7 is not active") as caught:
            await client.send_order(order(1))

    assert caught.value.status == 403
    assert caught.value.attempts == 1


async def test_wrong_hashes_are_an_authentication_error() -> None:
    async with Sandbox() as sandbox, client_of(sandbox, store_hash="wrong") as client:
        with pytest.raises(AuthenticationError, match="store hash"):
            await client.send_order(order(1))

    assert sandbox.requests == 1
    assert sandbox.processed == 0


async def test_an_endpoint_that_is_not_there_is_not_sent_after_the_retries() -> None:
    port = await unused_port()
    async with a_client(f"http://127.0.0.1:{port}", retry=QUICK) as client:
        with pytest.raises(NotSentError, match=f"127.0.0.1:{port}.*refused") as caught:
            await client.send_order(order(1))

    assert caught.value.attempts == 5


async def test_the_wire_as_a_mock_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # aioresponses knows nothing of aiohttp 3.14's `stream_writer`: give it a default.
    class WithWriter(aiohttp.ClientResponse):
        def __init__(self, *args: object, **settings: object) -> None:
            settings.setdefault("stream_writer", Mock(output_size=0))
            super().__init__(*args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(aioresponses.core, "ClientResponse", WithWriter)
    url = "https://shop.example/servlet/e-commerce/orders"
    with aioresponses.aioresponses() as mocked:
        mocked.post(url, payload={"status": "success"})
        async with a_client() as client:
            await client.send_order(order(1))

        ((method, called), (request,)) = next(iter(mocked.requests.items()))
    assert (method, str(called)) == ("POST", url)
    assert request.kwargs["allow_redirects"] is False
    assert json.loads(request.kwargs["data"]) == order(1)
    assert request.kwargs["headers"]["x-ev-store-hash"] == STORE_HASH
    assert request.kwargs["headers"]["x-ev-customer-hash"] == CUSTOMER_HASH


async def test_an_upload_that_nobody_watched_may_have_left() -> None:
    # A session that knows no upload trackers, as a mock does not.
    with aioresponses.aioresponses() as mocked:
        mocked.post(
            "https://shop.example/servlet/e-commerce/orders",
            exception=aiohttp.ServerDisconnectedError(),
            repeat=True,
        )
        async with a_client() as client:
            with pytest.raises(UnknownOutcomeError) as caught:
                await client.send_order(order(1))
    assert caught.value.attempts == 1


async def test_a_session_that_is_closed_is_refused_at_once() -> None:
    session = aiohttp.ClientSession()
    await session.close()
    with pytest.raises(ConfigurationError, match="session is closed"):
        await a_client(session=session).start()


@pytest.mark.parametrize(
    "setting",
    [{"allow_http": "no"}, {"session": "x"}, {"on_event": 5}, {"on_event": [print, 5]}],
    ids=["allow_http", "session", "on_event", "one of several"],
)
def test_a_setting_of_the_wrong_kind_is_named(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(setting))):
        a_client(**setting)


@pytest.mark.parametrize("host", ["a..b", ".", "a" * 64, "h\\x"])
def test_a_host_that_cannot_exist_is_a_wrong_setting(host: str) -> None:
    with pytest.raises(ConfigurationError, match="base_url"):
        EverlyticClient(f"https://{host}", store_hash="a", customer_hash="b")


async def test_a_mapping_that_cannot_be_read_is_an_invalid_order() -> None:
    class Lazy(dict[str, Any]):
        def keys(self) -> Any:
            raise RuntimeError("the database is gone")

    async with a_client() as client:
        report = await client.send_orders([Lazy()])
    (result,) = report.results
    assert result.outcome is Outcome.INVALID
    assert str(result.error) == "order: reading it raised RuntimeError"


async def test_a_key_that_is_no_plain_function_is_refused() -> None:
    async def key(_: object) -> str:
        return "1"

    async with a_client() as client:
        for wrong in ("order_id", 5, key):
            with pytest.raises(TypeError, match="key must be"):
                client.stream_orders([], key=wrong)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="ledger must be"):
            client.stream_orders([], ledger="orders.ledger")  # type: ignore[arg-type]


# ----------------------------------------------------------------- the bounds of the whole client


async def _mixed(client: EverlyticClient, each: int) -> None:
    """Single orders and two streams together."""

    async def stream(first: int) -> None:
        source: Iterator[dict[str, Any]] = (order(first + number) for number in range(each))
        report = await client.send_orders(source)
        assert report.counts[Outcome.SENT] == each

    async with asyncio.TaskGroup() as group:
        group.create_task(stream(1_000))
        group.create_task(stream(2_000))
        for number in range(each):
            group.create_task(client.send_order(order(number)))


@pytest.mark.parametrize("adaptive", [True, False])
async def test_the_concurrency_is_bound_for_single_and_batch_calls_together(
    *, adaptive: bool
) -> None:
    pacing = Pacing(max_concurrency=5, adaptive=adaptive)
    faults = Faults(latency_s=0.004)
    async with shop(Sandbox(faults=faults), pacing=pacing) as (sandbox, client):
        await _mixed(client, 40)

    assert 1 < sandbox.peak_in_flight <= 5
    assert sandbox.processed == 120
    assert sandbox.duplicates == {}


async def test_the_concurrency_is_used_to_the_full() -> None:
    together = asyncio.Event()

    async def answer_when_all_are_there(connection: Connection) -> None:
        while True:
            await connection.request()
            if len(connection.server.bodies) == 40:
                together.set()
            await together.wait()
            await connection.answer()

    pacing = Pacing(max_concurrency=40, adaptive=False)
    async with (
        RawServer(answer_when_all_are_there) as server,
        a_client(server.url, pacing=pacing) as client,
        asyncio.timeout(20),
    ):
        report = await client.send_orders(orders(100))

    assert report.counts[Outcome.SENT] == 100


async def test_the_rate_is_bound_for_single_and_batch_calls_together() -> None:
    moments: list[float] = []

    async def note(connection: Connection) -> None:
        while True:
            await connection.request()
            moments.append(time.monotonic())
            await connection.answer()

    pacing = Pacing(max_rate=200)
    async with RawServer(note) as server, a_client(server.url, pacing=pacing) as client:
        await _mixed(client, 30)

    assert len(moments) == 90
    # The server may hear of some late, but of none early: 90 orders take 89 gaps, but for those
    # that make good for a late timer.
    assert moments[-1] - moments[0] >= 89 / 200 - 0.1
    first_half = [moment for moment in moments if moment < moments[0] + 0.2]
    assert len(first_half) <= 0.2 * 200 + 25  # and no burst at the beginning


# -------------------------------------------------------------------------------- open and closed


async def test_a_client_that_is_not_open_says_how_to_open_it() -> None:
    client = a_client()
    with pytest.raises(ConfigurationError, match="async with"):
        await client.send_order(order(1))
    with pytest.raises(ConfigurationError, match="async with"):
        client.stream_orders([])
    with pytest.raises(ConfigurationError, match="async with"):
        await client.send_orders([])


async def test_a_closed_client_sends_nothing_and_cannot_be_started_again() -> None:
    async with shop() as (sandbox, client):
        await client.aclose()
        with pytest.raises(ConfigurationError):
            await client.send_order(order(1))
        with pytest.raises(ConfigurationError):
            await client.start()

    assert sandbox.requests == 0


async def test_closing_twice_does_no_harm() -> None:
    client = await a_client().start()
    await client.aclose()
    await client.aclose()


async def test_those_who_wait_when_the_client_is_closed_are_not_sent() -> None:
    answer = asyncio.Event()

    async def when_told(connection: Connection) -> None:
        await connection.request()
        await answer.wait()
        await connection.answer()

    pacing = Pacing(max_concurrency=2, adaptive=False)
    async with RawServer(when_told) as server, a_client(server.url, pacing=pacing) as client:
        sends = [asyncio.create_task(client.send_order(order(number))) for number in range(6)]
        await until(lambda: len(server.bodies) == 2)
        closing = asyncio.create_task(client.aclose())
        waiting = await asyncio.gather(*sends[2:], return_exceptions=True)
        assert {type(error) for error in waiting} == {NotSentError}
        assert {str(error).split(": ")[1] for error in waiting} == {"the client was closed"}
        assert not closing.done()  # what is in flight may finish

        answer.set()
        await closing
        assert [(await send).status for send in sends[:2]] == [200, 200]
        assert len(server.bodies) == 2


async def never_answer(connection: Connection) -> None:
    await connection.request()
    await connection.closed()


@pytest.mark.parametrize("own_session", [True, False])
async def test_what_does_not_finish_within_the_grace_is_unknown(
    monkeypatch: pytest.MonkeyPatch, *, own_session: bool
) -> None:
    monkeypatch.setattr(module, "_GRACE_S", 0.05)
    async with RawServer(never_answer) as server, aiohttp.ClientSession() as session:
        async with a_client(server.url, session=None if own_session else session) as client:
            send = asyncio.create_task(client.send_order(order(1)))
            await until(lambda: server.bodies)
        with pytest.raises(UnknownOutcomeError) as caught:
            await asyncio.wait_for(send, 10)
        assert type(caught.value) is UnknownOutcomeError
        assert "the client was closed while it was in flight: it may have" in str(caught.value)
        assert not session.closed


async def test_closing_that_is_cancelled_closes_the_session_all_the_same() -> None:
    async with RawServer(never_answer) as server:
        client = await a_client(server.url).start()
        send = asyncio.create_task(client.send_order(order(1)))
        await until(lambda: server.bodies)
        own = client._transport._owned_session
        closing = asyncio.create_task(client.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing

        assert own is not None
        assert own.closed
        with pytest.raises(UnknownOutcomeError):
            await asyncio.wait_for(send, 10)


async def test_a_client_closed_under_a_stream_ends_the_stream() -> None:
    read = 0

    def source() -> Iterator[dict[str, Any]]:
        nonlocal read
        for number in range(100_000):
            read += 1
            yield order(number)

    async with shop() as (sandbox, client), client.stream_orders(source()) as stream:
        seen = [await anext(stream) for _ in range(10)]
        await client.aclose()
        with pytest.raises(BatchStoppedError, match="the client was closed"):
            await collect(stream, seen)

    assert len(seen) == read < 200
    assert stream.stopped is not None
    assert sandbox.processed == [result.outcome for result in seen].count(Outcome.SENT)


async def test_a_callers_session_is_left_open() -> None:
    async with Sandbox() as sandbox, aiohttp.ClientSession() as session:
        async with client_of(sandbox, session=session) as client:
            await client.send_order(order(1))

        assert not session.closed
        assert sandbox.processed == 1


async def test_a_cancelled_order_gives_its_slot_back() -> None:
    pacing = Pacing(max_concurrency=1, adaptive=False)
    stuck = True

    async def first_hangs(connection: Connection) -> None:
        while True:
            await connection.request()
            if stuck:
                await connection.closed()
                return
            await connection.answer()

    async with RawServer(first_hangs) as server, a_client(server.url, pacing=pacing) as client:
        send = asyncio.create_task(client.send_order(order(1)))
        await until(lambda: server.bodies)
        send.cancel()
        with pytest.raises(asyncio.CancelledError):
            await send
        stuck = False

        assert (await client.send_order(order(2))).status == 200
        assert client._pacer.in_flight == 0


@pytest.mark.parametrize("steps", range(30))
async def test_an_order_may_be_cancelled_at_any_await(steps: int) -> None:
    async with shop() as (sandbox, client):
        send = asyncio.create_task(client.send_order(order(1)))
        for _ in range(steps):
            await asyncio.sleep(0)
        finished = send.done()
        send.cancel()
        await asyncio.gather(send, return_exceptions=True)

        assert send.cancelled() is not finished
        assert client._pacer.in_flight == 0
        assert (await client.send_order(order(2))).status == 200
        assert sandbox.requests <= 2


# ---------------------------------------------------------------------------------- the settings


async def test_the_settings_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Sandbox() as sandbox:
        monkeypatch.setenv("EVERLYTIC_BASE_URL", sandbox.base_url)
        monkeypatch.setenv("EVERLYTIC_STORE_HASH", sandbox.store_hash)
        monkeypatch.setenv("EVERLYTIC_CUSTOMER_HASH", sandbox.customer_hash)
        async with EverlyticClient.from_env(delivery=Delivery.AT_LEAST_ONCE) as client:
            await client.send_order(order(1))

    assert sandbox.processed == 1


def test_from_env_takes_every_setting_of_the_constructor() -> None:
    settings = set(inspect.signature(EverlyticClient).parameters)
    assert settings == set(module.ClientSettings.__annotations__)


def test_all_that_is_missing_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERLYTIC_BASE_URL", raising=False)
    monkeypatch.setenv("EVERLYTIC_STORE_HASH", "  ")
    monkeypatch.setenv("EVERLYTIC_CUSTOMER_HASH", CUSTOMER_HASH)
    with pytest.raises(ConfigurationError) as caught:
        EverlyticClient.from_env()

    assert "EVERLYTIC_BASE_URL, EVERLYTIC_STORE_HASH" in caught.value.message
    assert "EVERLYTIC_CUSTOMER_HASH" not in caught.value.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("delivery", "sometimes"),
        ("retry", 5),
        ("retry", None),
        ("pacing", 32),
        ("timeouts", 60),
        ("store_hash", ""),
        ("customer_hash", None),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=name):
        a_client(**{name: value})


def test_a_setting_of_the_right_kind_by_another_spelling() -> None:
    a_client(delivery="at_least_once", retry=RetryPolicy(), pacing=Pacing(), timeouts=Timeouts())


def test_making_a_client_needs_no_event_loop_and_opens_nothing() -> None:
    # Unclosed sessions warn, and warnings are errors here.
    assert repr(a_client()) == "<EverlyticClient shop.example>"


async def test_every_error_is_one_of_the_tree() -> None:
    async def cut(connection: Connection) -> None:
        await connection.request()

    async with RawServer(cut) as server, a_client(server.url) as client:
        with pytest.raises(EverlyticError):
            await client.send_order(order(1))


async def test_orders_from_an_async_service_run_side_by_side() -> None:
    async def some() -> AsyncIterator[dict[str, Any]]:
        for number in range(10):
            yield order(100 + number)

    async with shop() as (sandbox, client):
        receipts, report = await asyncio.gather(
            asyncio.gather(*(client.send_order(order(number)) for number in range(10))),
            client.send_orders(some()),
        )

    assert len(receipts) == 10
    assert report.counts[Outcome.SENT] == 10
    assert sandbox.processed == 20
