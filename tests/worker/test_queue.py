"""The queue on a real server: it stores nothing twice, loses nothing, and swallows nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any

import attrs
import pytest
from nats.js import api
from nats.js.errors import NotFoundError
from worker_shop import (
    dead_letters,
    fill,
    make_queue,
    numbers_of,
    publish,
    queue_settings,
    until_status,
)

from everlytic_async import InvalidOrderError, Outcome, QueueError
from everlytic_async.ledger import storage_key
from everlytic_async.worker import NatsServer, OrderQueue, Published, QueueSettings
from everlytic_async.worker._dead_letters import redrive_headers
from support.delivery import order, orders, streamed
from support.nats_servers import connected, until

# ------------------------------------------------------------------------------------ publish


async def test_an_order_is_stored_once_by_its_key(queue: OrderQueue) -> None:
    assert await queue.publish(order(1)) is True
    assert await queue.publish(order(1)) is False
    assert await queue.publish(order(1, sub_total="9")) is False  # the same order, corrected
    assert await queue.publish(order(1), key="1") is True  # a key of one's own is another order
    assert await queue.publish(order(1), key="1") is False
    assert (await queue.status()).waiting == 2


async def test_two_stores_share_the_streams_and_nothing_else(
    nats_url: str, settings: QueueSettings
) -> None:
    other = attrs.evolve(settings, store="hats")
    async with make_queue(nats_url, settings) as shoes, make_queue(nats_url, other) as hats:
        assert await shoes.publish(order(1))
        assert await hats.publish(order(1))
        assert await shoes.stores() == ["default", "hats"]
        [pulled] = await hats.pull(5, 0.1)
        await pulled.to_dead_letter("no", Outcome.REJECTED, 1)
        assert (await shoes.status()).depth == 1
        assert len(await dead_letters(shoes)) == 0
        assert len(await dead_letters(hats)) == 1
        await until_status(hats, depth=0)


async def test_many_are_published_in_their_order_and_stored_once(queue: OrderQueue) -> None:
    for source, is_new in ((orders(300), True), (streamed(orders(300)), False)):
        results = await publish(queue, source)
        assert results == [Published(n, str(n), is_new) for n in range(300)]
    assert (await queue.status()).waiting == 300


async def test_publishing_reads_ahead_only_as_far_as_may_be_in_flight(queue: OrderQueue) -> None:
    read = 0

    def source() -> Any:
        nonlocal read
        for each in orders(100):
            read += 1
            yield each

    many = queue.publish_many(source(), max_in_flight=10)
    async for each in many:
        assert read <= each.index + 10
        if each.index == 20:
            break
    await many.aclose()  # left in the middle, it leaves nothing running
    assert 20 <= (await queue.status()).waiting <= 31


async def test_a_full_queue_refuses_what_is_new_and_keeps_what_it_has(nats_url: str) -> None:
    settings = queue_settings(max_messages=5)
    async with make_queue(nats_url, settings, timeout_s=0.3) as queue:
        results: list[Published] = []

        async def publish_all() -> None:
            async for each in queue.publish_many(orders(1000), max_in_flight=4):
                results.append(each)  # noqa: PERF401 - kept when it raises

        with pytest.raises(QueueError, match="maximum messages exceeded"):
            await publish_all()
        assert [each.stored for each in results[:6]] == [True] * 5 + [False]
        assert len(results) <= 10  # the rest was not tried
        assert all(isinstance(each.error, QueueError) for each in results[5:])
        assert numbers_of(await queue.pull(10, 0.1)) == ["0", "1", "2", "3", "4"]


async def test_room_in_a_full_queue_is_waited_for(nats_url: str) -> None:
    async with make_queue(nats_url, queue_settings(max_messages=1), timeout_s=20) as queue:
        await queue.publish(order(1))
        waiting = asyncio.ensure_future(queue.publish(order(2)))
        [pulled] = await queue.pull(1, 1)
        assert not waiting.done()
        await pulled.ack()
        assert await waiting is True


async def test_an_invalid_order_stops_no_other(nats_url: str) -> None:
    huge = order(1, products=[{"product_name": "x" * 5_000_000}])  # too large for the server
    broken = InvalidOrderError(["line: no order"], 2)
    source = [order(1), broken, {"order_id": "x"}, huge, order(2)]
    async with make_queue(nats_url, queue_settings(max_message_bytes=10_000_000)) as queue:
        results = await publish(queue, source)
        with pytest.raises(InvalidOrderError, match="the NATS server's max_payload"):
            await queue.publish(huge)
    assert [each.stored for each in results] == [True, False, False, False, True]
    assert results[1].error is broken
    assert {type(each.error) for each in results[2:4]} == {InvalidOrderError}


@pytest.mark.slow  # a request that was lost is repeated after 5 s
async def test_a_server_that_restarts_while_orders_are_published_loses_none(
    nats_server: NatsServer, settings: QueueSettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with make_queue(nats_server.url, settings) as queue:
        results = []
        async for each in queue.publish_many(orders(2000), max_in_flight=100):
            results.append(each)
            if len(results) == 500:
                await nats_server.close()
                await nats_server.start()
        assert [each.error for each in results if each.error is not None] == []
        assert (await queue.status()).waiting == 2000
    assert len(caplog.records) < 10  # not a line for every try


async def test_a_cancellation_that_the_nats_client_swallows_travels_on(
    queue: OrderQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asyncio.Event()

    async def swallow(*_: object, **__: object) -> None:
        asked.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return  # as asyncio.wait_for does when the answer is there

    monkeypatch.setattr("nats.js.JetStreamContext.publish", swallow)
    publishing = asyncio.ensure_future(queue.publish(order(1)))
    await asked.wait()
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing


# ------------------------------------------------------------------------------------ streams


async def test_a_stream_of_another_kind_is_not_used(nats_url: str, settings: QueueSettings) -> None:
    async with connected(nats_url) as connection:
        await connection.jetstream().add_stream(
            api.StreamConfig(name=settings.orders_stream, subjects=[f"{settings.subject}.orders.*"])
        )
    with pytest.raises(QueueError, match="belongs to something else"):
        await make_queue(nats_url, settings).__aenter__()


async def test_streams_are_as_the_settings_say_and_an_operators_changes_stay(
    nats_url: str,
) -> None:
    settings = queue_settings(max_messages=70, max_age_s=3600.0)
    async with make_queue(nats_url, settings) as queue:
        await queue.pull(1, 0.05)
        stream = queue.connection.jetstream()
        config = (await stream.stream_info(settings.orders_stream)).config
        assert (config.storage, config.retention, config.discard) == ("file", "workqueue", "new")
        assert (config.max_msgs, config.max_bytes, config.max_age) == (70, 16 * 1024**2, 3600)
        dead = (await stream.stream_info(settings.dead_letter_stream)).config
        assert (dead.storage, dead.retention, dead.discard) == ("file", "limits", "new")
        assert dead.max_age == 0  # a dead letter waits until somebody looks
        consumer = (await stream.consumer_info(settings.orders_stream, settings.consumer)).config
        assert (consumer.ack_policy, consumer.ack_wait) == ("explicit", 60)
        assert (consumer.max_deliver, consumer.max_ack_pending) == (-1, 100_000)
        config.max_bytes = 5_000_000
        await stream.update_stream(config)
    async with make_queue(nats_url, settings) as queue:
        stream = queue.connection.jetstream()
        assert (await stream.stream_info(settings.orders_stream)).config.max_bytes == 5_000_000


async def test_several_may_create_the_streams_at_once_with_other_limits(
    nats_url: str, settings: QueueSettings
) -> None:
    others = [attrs.evolve(settings, max_bytes=size * 1024**2) for size in range(1, 7)]
    async with contextlib.AsyncExitStack() as stack:
        entering = (stack.enter_async_context(make_queue(nats_url, other)) for other in others)
        stored = [await queue.publish(order(1)) for queue in await asyncio.gather(*entering)]
    assert stored == [True] + [False] * 5


@pytest.mark.parametrize("by", ["publishing", "pulling", "status"])
async def test_a_stream_of_orders_that_was_deleted_is_created_again(
    queue: OrderQueue, by: str, caplog: pytest.LogCaptureFixture
) -> None:
    stream = queue.settings.orders_stream
    await queue.publish(order(1))
    await queue.pull(1, 1)
    await delete(queue, stream)
    if by == "publishing":
        assert [each.stored for each in await publish(queue, orders(300))] == [True] * 300
        pulled = await queue.pull(1, 1) or await queue.pull(1, 5)
        assert numbers_of(pulled) == ["0"]
    elif by == "status":
        assert (await queue.status()).depth == 0
    else:

        async def exists() -> bool:
            await queue.pull(1, 0.1)
            try:
                return bool(await queue.connection.jetstream().stream_info(stream))
            except NotFoundError:
                return False

        await until(exists, "the stream")
        await queue.publish(order(2))
        assert numbers_of(await queue.pull(1, 5)) == ["2"]
    assert caplog.text.count("was deleted, and created again") == 1


async def test_a_consumer_that_was_deleted_is_created_again(queue: OrderQueue) -> None:
    await fill(queue, 2)
    assert numbers_of(await queue.pull(1, 5)) == ["0"]
    settings = queue.settings
    await queue.connection.jetstream().delete_consumer(settings.orders_stream, settings.consumer)
    pulled: list[Any] = []
    async with asyncio.timeout(60):
        while not pulled:
            pulled = await queue.pull(1, 1)
    assert numbers_of(pulled) == ["0"]


async def delete(queue: OrderQueue, stream: str) -> None:
    assert await queue.connection.jetstream().delete_stream(stream)


# --------------------------------------------------------------------------------------- pull


async def test_as_many_are_pulled_as_are_wanted_and_in_their_order(queue: OrderQueue) -> None:
    await fill(queue, 10)
    assert numbers_of(await queue.pull(3, 5)) == ["0", "1", "2"]
    assert numbers_of(await queue.pull(100, 5)) == [str(number) for number in range(3, 10)]
    status = await queue.status()
    assert (status.waiting, status.in_flight, status.redelivered) == (0, 10, 0)


async def test_an_empty_queue_is_waited_for_and_no_longer(queue: OrderQueue) -> None:
    assert await queue.pull(5, 0.05) == []
    pulling = asyncio.ensure_future(queue.pull(5, 30))
    await until_status(queue, idle_workers=1)
    await queue.publish(order(1))
    assert numbers_of(await pulling) == ["1"]


async def test_a_cancelled_pull_loses_nothing(queue: OrderQueue) -> None:
    for number in range(30):
        pulling = asyncio.ensure_future(queue.pull(5, 30))
        await asyncio.sleep(0.001 * (number % 5))
        publishing = asyncio.ensure_future(queue.publish(order(number)))
        await asyncio.sleep(0.0005 * (number % 7))
        pulling.cancel()
        await publishing
        await asyncio.wait({pulling})
        pulled = [] if pulling.cancelled() else pulling.result()
        while not pulled:
            pulled += await queue.pull(5, 1)
        assert numbers_of(pulled) == [str(number)]
        assert pulled[0].deliveries == 1
        await pulled[0].ack()


async def test_after_a_release_no_order_goes_to_nobody(
    nats_url: str, settings: QueueSettings
) -> None:
    async def release_after(delay_s: float) -> None:
        await asyncio.sleep(delay_s)  # while the order is on its way to the open request
        await queue.release()

    async with make_queue(nats_url, settings) as queue, make_queue(nats_url, settings) as other:
        for number in range(25):
            pulling = asyncio.ensure_future(queue.pull(1, 30))
            await until_status(other, idle_workers=1)
            pulling.cancel()
            await asyncio.wait({pulling})
            if number % 2:  # what arrived and was not taken is put back
                await other.publish(order(number))
                await until_status(other, in_flight=1)
                await queue.release()
            else:
                await asyncio.gather(
                    other.publish(order(number)), release_after(0.0001 * (number % 13))
                )
            [pulled] = await other.pull(1, 5)  # long before ack_wait_s
            assert pulled.deliveries == 2 or not number % 2
            assert numbers_of([pulled]) == [str(number)]
            await pulled.ack()


async def test_an_order_is_delivered_again_until_it_is_acknowledged(nats_url: str) -> None:
    async with make_queue(nats_url, queue_settings(ack_wait_s=0.8)) as queue:
        await queue.publish(order(1))
        [first] = await queue.pull(1, 5)
        assert not first.redelivered
        for _ in range(10):  # heartbeats keep it
            await first.in_progress()
            assert await queue.pull(1, 0.1) == []
        [second] = await queue.pull(1, 10)
        assert (second.deliveries, second.redelivered) == (2, True)
        await second.nak()
        [third] = await queue.pull(1, 10)
        await third.nak(0.3)
        started_at = time.monotonic()
        [fourth] = await queue.pull(1, 10)
        assert time.monotonic() - started_at > 0.25
        await fourth.ack()
        await until_status(queue, depth=0)


async def test_pulling_survives_a_restart_of_the_server(
    nats_server: NatsServer, settings: QueueSettings
) -> None:
    async with make_queue(nats_server.url, settings) as queue:
        await fill(queue, 2)
        [pulled, _] = await queue.pull(2, 5)
        pulling = asyncio.ensure_future(queue.pull(1, 60))
        await until_status(queue, idle_workers=1)
        await nats_server.close()
        async with asyncio.timeout(20):  # its request was lost: it does not wait 60 s for that
            assert await pulling == []
        assert await queue.pull(1, 0.3) == []  # it is away
        await nats_server.start()
        await queue.publish(order(7))
        rest: list[Any] = []
        async with asyncio.timeout(30):
            while not rest:
                rest = await queue.pull(1, 60)
        assert numbers_of(rest) == ["7"]
        await pulled.ack()  # it was delivered before the restart
        await until_status(queue, depth=2)


# -------------------------------------------------------------------------------- dead letters


async def make_dead_letters(queue: OrderQueue, count: int) -> None:
    """Publish orders, and make dead letters of them."""
    await fill(queue, count)
    for pulled in await queue.pull(count, 5):
        await pulled.to_dead_letter("it may have been processed", Outcome.UNKNOWN, 2)


async def test_a_dead_letter_says_why(queue: OrderQueue) -> None:
    await make_dead_letters(queue, 1)
    await queue.publish(order(1), key="mine")
    [pulled] = await queue.pull(1, 5)
    await pulled.to_dead_letter("it is refused", Outcome.REJECTED, 1)
    letter, other = await dead_letters(queue)
    assert (letter.key, letter.outcome, letter.attempts) == ("0", Outcome.UNKNOWN, 2)
    assert (letter.reason, letter.deliveries) == ("it may have been processed", 1)
    assert (other.key, other.outcome, other.attempts) == (pulled.key, Outcome.REJECTED, 1)
    assert [each.order_sequence for each in (letter, other)] == [1, 2]
    assert letter.created_at > 1e9
    assert b"customer0@example.com" in letter.body
    assert "customer0" not in repr(letter)
    assert (await queue.status()).dead == 2
    await until_status(queue, depth=0)


async def test_a_dead_letter_is_stored_once(nats_url: str) -> None:
    async with make_queue(nats_url, queue_settings(ack_wait_s=0.3)) as queue:
        await queue.publish(order(1))
        [first] = await queue.pull(1, 5)
        [second] = await queue.pull(1, 10)  # as if the first had died before its ack
        await first.to_dead_letter("once", Outcome.UNKNOWN, 1)
        await second.to_dead_letter("twice", Outcome.UNKNOWN, 1)
        assert [letter.reason for letter in await dead_letters(queue)] == ["once"]


async def test_a_message_that_is_not_an_order_is_a_dead_letter_as_it_came(
    queue: OrderQueue,
) -> None:
    bodies = [b"\x00\xff", b"", b'{"order_id": "1"}', b"x" * queue.connection.max_payload]
    subject = queue.settings.orders_subject
    for body in bodies[:3]:
        await queue.connection.jetstream().publish(subject, body)
    identified = {"Nats-Msg-Id": "x" * 5_000}  # the headers have their part of what may be sent
    bodies[3] = bodies[3][:-5_100]
    await queue.connection.jetstream().publish(subject, bodies[3], headers=identified)
    for pulled in await queue.pull(5, 5):
        assert pulled.order is None
        await pulled.to_dead_letter(str(pulled.error), Outcome.INVALID, 0)
    letters = await dead_letters(queue)
    assert [letter.body for letter in letters[:3]] == bodies[:3]
    assert bodies[3].startswith(letters[3].body)  # cut: there must be room for the headers
    assert len(bodies[3]) - 4096 < len(letters[3].body) <= len(bodies[3])
    assert {letter.key for letter in letters} == {None}
    await until_status(queue, depth=0)


async def test_a_redriven_order_is_in_the_queue_again_and_its_letter_gone(
    queue: OrderQueue,
) -> None:
    await make_dead_letters(queue, 4)
    letters = await dead_letters(queue)
    assert await queue.redrive([letters[0], letters[2].id, 999]) == 2
    assert await queue.redrive([letters[0]]) == 0
    assert await queue.drop([letters[3], letters[0].id]) == 1
    assert await queue.drop([letters[3]]) == 0
    assert await dead_letters(queue) == [letters[1]]
    pulled = await queue.pull(5, 5)
    assert numbers_of(pulled) == ["0", "2"]
    assert all(each.resend and each.resend[0] is Outcome.UNKNOWN for each in pulled)


async def test_a_redrive_that_crashed_before_the_deletion_can_be_repeated(
    queue: OrderQueue,
) -> None:
    await make_dead_letters(queue, 1)
    [letter] = await dead_letters(queue)
    headers = redrive_headers(letter.headers, letter.id, 1000.0, queue.settings)
    subject = queue.settings.orders_subject
    await queue.connection.jetstream().publish(subject, letter.body, headers=headers)
    assert await queue.redrive([letter]) == 1
    assert numbers_of(await queue.pull(5, 5)) == ["0"]


async def test_concurrent_redrives_put_each_letter_back_once(
    nats_url: str, settings: QueueSettings
) -> None:
    count = 40
    async with make_queue(nats_url, settings) as one, make_queue(nats_url, settings) as other:
        await make_dead_letters(one, count)
        letters = await dead_letters(one)

        async def redrive(queue: OrderQueue) -> int:
            return sum([await queue.redrive([letter]) for letter in letters])

        assert sum(await asyncio.gather(redrive(one), redrive(other), redrive(one))) == count
        assert await dead_letters(one) == []
        assert (await one.status()).depth == count


async def test_an_order_may_be_redriven_again_and_again(queue: OrderQueue) -> None:
    await queue.publish(order(1), key="mine")
    for _ in range(3):
        [pulled] = await queue.pull(1, 5)
        assert pulled.key == storage_key("mine", custom=True)
        await pulled.to_dead_letter("no", Outcome.REJECTED, 1)
        assert await queue.redrive(await dead_letters(queue)) == 1
    assert (await queue.status()).depth == 1


async def test_letters_of_messages_without_an_id_are_all_redriven(queue: OrderQueue) -> None:
    settings, stream = queue.settings, queue.connection.jetstream()
    for number in range(2):  # each letter is number 1 of its stream
        await stream.publish(settings.orders_subject, b"%d" % number)
        pulled = (await queue.pull(2, 5))[-1]
        await pulled.to_dead_letter("no", Outcome.REJECTED, 1)
        [letter] = await dead_letters(queue)
        assert letter.id == 1
        assert await queue.redrive([letter]) == 1
        await delete(queue, settings.dead_letter_stream)
    assert (await queue.status()).depth == 2  # to ask creates the stream again
    for _ in range(2):
        await stream.publish(settings.dead_letter_subject, b"by another program")
    assert await queue.redrive(await dead_letters(queue)) == 2
    assert (await queue.status()).depth == 4


async def test_orders_of_a_new_stream_are_other_dead_letters(queue: OrderQueue) -> None:
    for number in range(2):  # each is number 1 of its stream
        await queue.publish(order(number))
        [pulled] = await queue.pull(1, 1) or await queue.pull(1, 5)
        assert pulled.sequence == 1
        await pulled.to_dead_letter("no", Outcome.REJECTED, 1)
        await delete(queue, queue.settings.orders_stream)
    assert [letter.key for letter in await dead_letters(queue)] == ["0", "1"]
