"""What one worker is told by the endpoint, the others of its store do too."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from worker_shop import Shop, emptied, make_queue, running, until

from everlytic_async import Pacing, RetryPolicy, SqliteLedger
from everlytic_async._pacer import Pacer
from everlytic_async._stop_token import StopToken
from everlytic_async.events import AttemptEnded, CoolDown, Dispatcher, Event, OrderEnded
from everlytic_async.worker import QueueSettings, Worker
from everlytic_async.worker._peers import Pause, decode, share_cool_downs
from support.clock import FakeClock
from support.delivery import order
from support.nats_servers import connected

Settings = Callable[..., QueueSettings]


# ---------------------------------------------------------------------------------- the pacer


def a_pacer(clock: FakeClock, told: list[Event], **pacing: Any) -> Pacer:
    return Pacer(
        Pacing(**pacing),
        RetryPolicy(retry_after_cap_s=100),
        dispatcher=Dispatcher((told.append,)),
        clock=clock,
        call_later=clock.call_later,
        rng=random.Random(1),
    )


@pytest.mark.parametrize("adaptive", [False, True])
async def test_a_pause_lets_nobody_begin_until_it_is_over(*, adaptive: bool) -> None:
    clock, told = FakeClock(), list[Event]()
    pacer = a_pacer(clock, told, adaptive=adaptive)
    began = clock.now
    pacer.pause(10.0, "it was asked for")
    assert pacer.try_acquire() is None
    admitted = await clock.run(pacer.acquire(StopToken()))
    assert 10.0 <= admitted - began <= 10.2
    [event] = told
    assert isinstance(event, CoolDown)
    assert (event.status, event.reason) == (None, "it was asked for")
    assert event.wait_s == pytest.approx(10, rel=0.02)


async def test_a_pause_wakes_nobody_early_and_shortens_nothing() -> None:
    clock, told = FakeClock(), list[Event]()
    pacer = a_pacer(clock, told)
    began = clock.now
    pacer.pause(10.0, "long")
    pacer.pause(5.0, "short")
    assert pacer.remaining_cool_down_s() >= 10
    assert len(told) == 1
    admitted = await clock.run(pacer.acquire(StopToken()))
    assert admitted - began >= 10


async def test_whoever_waits_already_waits_for_the_pause_too() -> None:
    clock, told = FakeClock(), list[Event]()
    pacer = a_pacer(clock, told, max_concurrency=1, adaptive=False)
    await pacer.acquire(StopToken())
    waiting = asyncio.ensure_future(pacer.acquire(StopToken()))
    await clock.advance(0)
    began = clock.now
    pacer.pause(10.0, "it was asked for")
    pacer.release()
    await clock.advance(9.9)
    assert not waiting.done()
    await clock.advance(0.3)
    assert (await waiting) - began >= 10


async def test_a_pause_is_no_longer_than_the_longest_that_is_obeyed() -> None:
    clock = FakeClock()
    pacer = a_pacer(clock, [])
    pacer.pause(1e9, "it was asked for")
    assert pacer.remaining_cool_down_s() <= 101


async def test_a_pause_says_nothing_of_the_limit() -> None:
    clock = FakeClock()
    pacer = a_pacer(clock, [])
    before = pacer.rate()
    pacer.pause(10.0, "it was asked for")
    await clock.advance(11)
    assert pacer.rate() == before


# --------------------------------------------------------------------------------- the client


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
async def test_a_client_pauses_for_seconds_above_nothing(seconds: float) -> None:
    async with Shop() as shop, shop.client() as client:
        with pytest.raises(ValueError, match="seconds must be"):
            client.pause(seconds)


async def test_a_paused_client_sends_after_the_pause() -> None:
    async with Shop() as shop, shop.client() as client:
        client.pause(0.3, reason="it was asked for")
        began = asyncio.get_running_loop().time()
        await client.send_order(order(1))
        assert asyncio.get_running_loop().time() - began >= 0.29


@pytest.mark.parametrize("event_type", [Event, AttemptEnded, OrderEnded, CoolDown])
async def test_a_subscriber_gets_the_events_of_its_type_and_no_others(
    event_type: type[Event],
) -> None:
    events: list[Event] = []
    async with Shop() as shop, shop.client() as client:
        with client.subscribe(events.append, event_type=event_type):
            client.pause(0.01)
            await client.send_order(order(1))
        count = len(events)
        await client.send_order(order(2))
    assert count == len(events) >= 1
    assert all(isinstance(event, event_type) for event in events)


async def test_one_more_hook_hears_as_long_as_it_is_to() -> None:
    heard: list[Event] = []
    cool_downs: list[Event] = []
    async with Shop() as shop, shop.client() as client:
        with client.subscribe(cool_downs.append, CoolDown):
            await client.send_order(order(1))
            assert not client._dispatcher.has_listeners  # so no events of single attempts are made
            with client.subscribe(heard.append):
                client.pause(0.01)
                await client.send_order(order(2))
            await client.send_order(order(3))
        client.pause(0.01)
        await client.send_order(order(4))
    assert [type(event) for event in cool_downs] == [CoolDown]
    assert sum(isinstance(event, AttemptEnded) for event in heard) == 1
    with pytest.raises(TypeError, match="hook must be"), client.subscribe(7):  # type: ignore[arg-type]
        pass


# ----------------------------------------------------------------------------------- together


@pytest.mark.parametrize("status", ["throttle", "busy"])
async def test_a_cool_down_of_one_reaches_the_others(
    nats_url: str, settings: QueueSettings, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(shop_statuses(), "busy", 503)
    heard: dict[str, list[CoolDown]] = {"one": [], "two": [], "three": []}
    async with (
        Shop({"1": [status, "accept"]}) as shop,
        shop.client(on_event=note(heard["one"])) as one,
        shop.client(on_event=note(heard["two"])) as two,
        shop.client(on_event=note(heard["three"])) as three,
        connected(nats_url) as first,
        connected(nats_url) as second,
        connected(nats_url) as third,
    ):
        shop.retry_after = "1"
        subject = settings.cool_down_subject
        async with (
            share_cool_downs(one, first, subject),
            share_cool_downs(two, second, subject),
            share_cool_downs(three, third, subject),
        ):
            said: list[bytes] = []

            async def hear(message: Any) -> None:
                said.append(message.data)

            await first.subscribe(subject, cb=hear)
            for connection in (first, second, third):
                await connection.flush()
            began = asyncio.get_running_loop().time()
            sending = asyncio.ensure_future(one.send_order(order(1)))
            await until(lambda: heard["two"] and heard["three"])
            await two.send_order(order(2))
            assert asyncio.get_running_loop().time() - began >= 1.0
            await sending
            for connection in (second, third, first):
                await connection.flush()
    assert len(said) == 1
    assert [event.status for event in heard["one"]] == [429 if status == "throttle" else 503]
    for name in ("two", "three"):  # and no echo
        [event] = heard[name]
        assert event.status is None
        assert event.wait_s == pytest.approx(1, abs=0.1)
        assert "another worker" in event.reason


def shop_statuses() -> dict[str, int]:
    import worker_shop  # noqa: PLC0415 - its table is patched

    return worker_shop.STATUSES


def note(cool_downs: list[CoolDown]) -> Callable[[Event], None]:
    def hear(event: Event) -> None:
        if isinstance(event, CoolDown):
            cool_downs.append(event)

    return hear


async def test_another_stores_cool_down_is_none_of_ours(
    nats_url: str, own_settings: Settings
) -> None:
    heard: list[CoolDown] = []
    shoes = own_settings(store="shoes")
    async with (
        Shop() as shop,
        shop.client(on_event=note(heard)) as client,
        connected(nats_url) as connection,
        share_cool_downs(client, connection, shoes.cool_down_subject),
    ):
        told = json.dumps({"by": "other", "wait_s": 0.05, "status": 429}).encode()
        await connection.publish(f"{shoes.subject}.pace.hats", told)
        await connection.publish(shoes.cool_down_subject, told)
        await until(lambda: heard)
        await connection.flush()
    assert len(heard) == 1


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\xff",
        b"7",
        b"null",
        b'"by"',
        b"[" * 99_999,
        b'{"by": "x", "wait_s": 1}',
        b'{"by": "x", "wait_s": "1", "status": 429}',
        b'{"by": "x", "wait_s": NaN, "status": 429}',
        b'{"by": "x", "wait_s": Infinity, "status": 429}',
        b'{"by": "x", "wait_s": -1, "status": 429}',
        b'{"by": "x", "wait_s": 1, "status": 200}',
        b'{"by": 7, "wait_s": 1, "status": 429}',
        b'{"by": "x", "wait_s": 1, "status": [429]}',
        b'{"by": "x", "wait_s": 1%s, "status": 429}' % (b"0" * 400),
    ],
    ids=range(15),
)
def test_what_no_worker_says_is_passed_over(said: bytes) -> None:
    assert decode(Pause, said) is None


async def test_nonsense_on_the_subject_hurts_nobody(
    nats_url: str, settings: QueueSettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with (
        Shop() as shop,
        shop.client() as client,
        connected(nats_url) as connection,
        share_cool_downs(client, connection, settings.cool_down_subject),
    ):
        await connection.publish(settings.cool_down_subject, b"\xff{")
        await until(lambda: "not from a worker" in caplog.text)
        await client.send_order(order(1))


async def test_workers_share_their_pace_unless_told_otherwise(
    nats_url: str, settings: QueueSettings, tmp_path: Path
) -> None:
    heard: list[CoolDown] = []
    deaf: list[CoolDown] = []
    async with (
        Shop() as shop,
        make_queue(nats_url, settings) as queue,
        shop.client(on_event=note(heard)) as client,
        shop.client(on_event=note(deaf)) as other,
    ):
        ledger = SqliteLedger(tmp_path / "orders.ledger")
        hearing = Worker(client, queue, ledger)
        alone = Worker(other, queue, ledger, share_cool_down=False)
        async with running(hearing), running(alone):
            await until(lambda: hearing.status.ready and alone.status.ready)
            told = json.dumps({"by": "other", "wait_s": 0.05, "status": 429}).encode()

            async def has_heard() -> bool:
                await queue.connection.publish(settings.cool_down_subject, told)
                return bool(heard)

            await until(has_heard)
            await queue.publish(order(1))
            await emptied(queue)
    assert not deaf
    assert shop.processed.total() == 1
