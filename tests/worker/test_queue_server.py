"""The queue on a real server: nothing is stored twice, lost, or swallowed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nkeys
import pytest
from nats.js import api
from nats.js.errors import NotFoundError
from worker_shop import dead_of, make_queue, until

from everlytic_async import InvalidOrderError, Outcome, QueueError
from everlytic_async.worker import NatsServer, OrderQueue, Published, QueueSettings
from everlytic_async.worker._dead_letters import redrive_headers
from support.delivery import order, orders, streamed
from support.nats_servers import connected

Settings = Callable[..., QueueSettings]


async def published(queue: OrderQueue, source: Any, **how: Any) -> list[Published]:
    return [each async for each in queue.publish_many(source, **how)]


async def fill(queue: OrderQueue, count: int) -> None:
    assert all(each.stored for each in await published(queue, orders(count)))


def numbers_of(taken: list[Any]) -> list[str]:
    return [each.order.order_id for each in taken]


# ------------------------------------------------------------------------------------ publish


async def test_an_order_is_stored_once_by_its_key(queue: OrderQueue) -> None:
    assert await queue.publish(order(1)) is True
    assert await queue.publish(order(1)) is False
    assert await queue.publish(order(1, sub_total="9")) is False  # the same order, mended
    assert await queue.publish(order(1), key="another") is True
    assert await queue.publish(order(1), key="another") is False
    assert (await queue.status()).waiting == 2


async def test_two_stores_share_the_streams_and_nothing_else(
    nats_url: str, own_settings: Settings
) -> None:
    names = own_settings(store="shoes")
    async with (
        make_queue(nats_url, names) as shoes,
        make_queue(
            nats_url,
            own_settings(
                store="hats",
                subject=names.subject,
                orders_stream=names.orders_stream,
                dead_letter_stream=names.dead_letter_stream,
            ),
        ) as hats,
    ):
        assert await shoes.publish(order(1))
        assert await hats.publish(order(1))
        [taken] = await hats.pull(5, 0.1)
        await taken.to_dead_letter("no", Outcome.REJECTED, 1)
        assert (await shoes.status()).depth == 1
        assert len(await dead_of(shoes)) == 0
        assert len(await dead_of(hats)) == 1
        await until_depth(hats, 0)


async def until_depth(queue: OrderQueue, depth: int) -> None:
    async def is_so() -> bool:
        return (await queue.status()).depth == depth

    await until(is_so, f"a depth of {depth}")


@pytest.mark.parametrize("as_stream", [False, True])
async def test_many_are_published_in_their_order_and_again_for_nothing(
    queue: OrderQueue, *, as_stream: bool
) -> None:
    def source() -> Any:
        return streamed(orders(600)) if as_stream else orders(600)

    first = await published(queue, source())
    assert [(each.index, each.key, each.stored) for each in first] == [
        (number, str(number), True) for number in range(600)
    ]
    again = await published(queue, source())
    assert not any(each.stored or each.error for each in again)
    assert (await queue.status()).waiting == 600


async def test_an_invalid_order_among_many_stops_nobody(queue: OrderQueue) -> None:
    broken = InvalidOrderError(["line: no order"], 2)
    ends = await published(queue, [order(1), broken, {"order_id": "x"}, order(2)])
    assert [each.stored for each in ends] == [True, False, False, True]
    assert ends[1].error is broken
    assert isinstance(ends[2].error, InvalidOrderError)


async def test_no_more_is_read_than_may_be_in_flight(queue: OrderQueue) -> None:
    read = 0

    def source() -> Any:
        nonlocal read
        for each in orders(100):
            read += 1
            yield each

    async for each in queue.publish_many(source(), max_in_flight=10):
        assert read <= each.index + 10
    assert read == 100


async def test_publishing_may_be_left_in_the_middle(queue: OrderQueue) -> None:
    many = queue.publish_many(orders(1000), max_in_flight=10)
    async for each in many:
        if each.index == 20:
            break
    await many.aclose()  # type: ignore[attr-defined]
    assert 20 <= (await queue.status()).waiting <= 31


async def test_a_full_queue_refuses_what_is_new_and_keeps_what_it_has(
    nats_url: str, own_settings: Settings
) -> None:
    async with make_queue(nats_url, own_settings(max_messages=5), timeout_s=0.3) as queue:
        ends: list[Published] = []

        async def publish() -> None:
            async for each in queue.publish_many(orders(1000), max_in_flight=4):
                ends.append(each)  # noqa: PERF401 - kept when it raises

        with pytest.raises(QueueError, match="maximum messages exceeded"):
            await publish()
        assert [each.stored for each in ends[:6]] == [True] * 5 + [False]
        assert len(ends) <= 10  # it was not gone through to the end
        assert all(isinstance(each.error, QueueError) for each in ends[5:])
        assert numbers_of(await queue.pull(10, 0.1)) == ["0", "1", "2", "3", "4"]


async def test_a_full_queue_is_waited_for(nats_url: str, own_settings: Settings) -> None:
    async with make_queue(nats_url, own_settings(max_messages=1), timeout_s=20) as queue:
        await queue.publish(order(1))
        waiting = asyncio.ensure_future(queue.publish(order(2)))
        [taken] = await queue.pull(1, 1)
        assert not waiting.done()
        await taken.ack()
        assert await waiting is True


async def test_an_order_that_the_server_would_not_take_is_invalid(
    nats_url: str, own_settings: Settings
) -> None:
    huge = order(1, products=[{"product_name": "x" * 5_000_000}])
    async with make_queue(nats_url, own_settings(max_message_bytes=10_000_000)) as queue:
        with pytest.raises(InvalidOrderError, match="the NATS server's max_payload"):
            await queue.publish(huge)
        assert queue.connected
        assert [type(each.error) for each in await published(queue, [huge, order(2)])] == [
            InvalidOrderError,
            type(None),
        ]


async def test_a_server_that_restarts_while_orders_are_published_loses_none(
    nats_server: NatsServer, settings: QueueSettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with make_queue(nats_server.url, settings) as queue:
        ends = []
        async for each in queue.publish_many(orders(2000), max_in_flight=100):
            ends.append(each)
            if len(ends) == 500:
                await nats_server.close()
                await nats_server.start()
        assert [each.error for each in ends if each.error is not None] == []
        assert (await queue.status()).waiting == 2000
    said = [record.getMessage() for record in caplog.records]
    assert any("the connection was lost" in each for each in said)
    assert any("the connection is back" in each for each in said)
    assert len(said) < 10  # not a line for every try


# --------------------------------------------------------------------------------- the server


async def test_no_server_is_an_error_and_leaves_nothing(settings: QueueSettings) -> None:
    queue = make_queue("nats://127.0.0.1:9", settings, timeout_s=0.5)
    with pytest.raises(QueueError, match="no NATS server could be reached"):
        await queue.__aenter__()
    with pytest.raises(QueueError, match="the queue is not open"):
        await queue.publish(order(1))


async def test_an_address_that_is_none_is_an_error(settings: QueueSettings) -> None:
    with pytest.raises(QueueError, match="no NATS server could be reached"):
        await make_queue("nats://[", settings, timeout_s=0.5).__aenter__()


async def test_a_wrong_token_is_told_at_once(tmp_path: Path, settings: QueueSettings) -> None:
    async with NatsServer(tmp_path, token="right") as server:
        address = server.url.replace("right", "wrong")
        began = asyncio.get_running_loop().time()
        with pytest.raises(QueueError, match=r"(?i)authorization") as raised:
            await make_queue(address, settings).__aenter__()
        assert asyncio.get_running_loop().time() - began < 15  # not the patience of 30
        assert "wrong" not in str(raised.value)
        async with make_queue(server.url, settings) as queue:
            assert await queue.publish(order(1))


async def test_an_nkey_opens_the_queue(tmp_path: Path, settings: QueueSettings) -> None:
    seeds = [nkeys.encode_seed(bytes([number]) * 32, nkeys.PREFIX_BYTE_USER) for number in (1, 2)]
    ours, another = (tmp_path / "ours.nk", tmp_path / "another.nk")
    for file, seed in zip((ours, another), seeds, strict=True):
        file.write_bytes(seed)
    user = nkeys.from_seed(bytearray(seeds[0])).public_key.decode()
    config = {"authorization": {"users": [{"nkey": user}]}}
    async with NatsServer(tmp_path / "data", config=config) as server:
        async with make_queue(server.url, settings, nkeys_seed=ours) as queue:
            assert await queue.publish(order(1))
        for seed in (another, None):
            with pytest.raises(QueueError, match=r"(?i)authorization"):
                await make_queue(server.url, settings, nkeys_seed=seed).__aenter__()
        with pytest.raises(QueueError, match="no NATS server could be reached"):
            await make_queue(server.url, settings, nkeys_seed=tmp_path / "none").__aenter__()


async def test_cancelled_while_it_connects_it_leaves_nothing(settings: QueueSettings) -> None:
    entering = asyncio.ensure_future(make_queue("nats://127.0.0.1:9", settings).__aenter__())
    await asyncio.sleep(0.1)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering


async def test_a_stream_of_another_kind_is_not_used(nats_url: str, settings: QueueSettings) -> None:
    async with connected(nats_url) as connection:
        await connection.jetstream().add_stream(
            api.StreamConfig(name=settings.orders_stream, subjects=[f"{settings.subject}.orders.*"])
        )
    with pytest.raises(QueueError, match="belongs to something else"):
        await make_queue(nats_url, settings).__aenter__()


async def test_streams_are_as_the_settings_say(nats_url: str, own_settings: Settings) -> None:
    settings = own_settings(max_messages=70, max_age_s=3600.0)
    async with make_queue(nats_url, settings) as queue:
        await queue.pull(1, 0.05)
        stream = queue.connection.jetstream()
        config = (await stream.stream_info(settings.orders_stream)).config
        assert (config.storage, config.retention, config.discard) == ("file", "workqueue", "new")
        assert (config.max_msgs, config.max_bytes, config.max_age) == (70, 16 * 1024**2, 3600)
        assert config.duplicate_window == 3600  # the server allows no longer one
        dead = (await stream.stream_info(settings.dead_letter_stream)).config
        assert (dead.storage, dead.retention, dead.discard) == ("file", "limits", "new")
        assert dead.max_age == 0  # a dead letter waits for somebody to come
        consumer = (await stream.consumer_info(settings.orders_stream, settings.consumer)).config
        assert (consumer.ack_policy, consumer.ack_wait) == ("explicit", 60)
        assert (consumer.max_deliver, consumer.max_ack_pending) == (-1, 100_000)


async def test_an_operators_changes_to_a_stream_stay(
    nats_url: str, settings: QueueSettings
) -> None:
    async with make_queue(nats_url, settings) as queue:
        stream = queue.connection.jetstream()
        config = (await stream.stream_info(settings.orders_stream)).config
        config.max_bytes = 5_000_000
        await stream.update_stream(config)
    async with make_queue(nats_url, settings) as queue:
        stream = queue.connection.jetstream()
        assert (await stream.stream_info(settings.orders_stream)).config.max_bytes == 5_000_000


async def test_a_given_connection_is_used_and_not_closed(
    nats_url: str, settings: QueueSettings
) -> None:
    async with connected(nats_url) as connection:
        async with make_queue(connection, settings) as queue:
            assert queue.connection is connection
            await queue.publish(order(1))
        assert connection.is_connected


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

    async def waits() -> bool:
        return (await queue.status()).idle_workers == 1

    await until(waits)
    await queue.publish(order(1))
    assert numbers_of(await pulling) == ["1"]


async def test_a_pull_that_is_cancelled_swallows_nothing(queue: OrderQueue) -> None:
    for number in range(30):
        pulling = asyncio.ensure_future(queue.pull(5, 30))
        await asyncio.sleep(0.001 * (number % 5))
        publishing = asyncio.ensure_future(queue.publish(order(number)))
        await asyncio.sleep(0.0005 * (number % 7))
        pulling.cancel()
        await publishing
        await asyncio.wait({pulling})
        taken = [] if pulling.cancelled() else pulling.result()
        while not taken:
            taken += await queue.pull(5, 1)
        assert numbers_of(taken) == [str(number)]
        assert taken[0].deliveries == 1
        await taken[0].ack()


async def test_what_arrived_for_nobody_goes_back(nats_url: str, settings: QueueSettings) -> None:
    async with make_queue(nats_url, settings) as queue, make_queue(nats_url, settings) as other:
        pulling = asyncio.ensure_future(queue.pull(1, 30))

        async def waits() -> bool:
            return (await other.status()).idle_workers == 1

        await until(waits)
        pulling.cancel()
        await asyncio.wait({pulling})
        await other.publish(order(1))  # to the request that is still at the server

        async def is_in_hand() -> bool:
            return (await other.status()).in_flight == 1

        await until(is_in_hand)
        await queue.release()
        [taken] = await other.pull(1, 10)
        assert taken.deliveries == 2
        assert await queue.pull(1, 0.05) == []


async def test_after_a_release_no_order_goes_astray(nats_url: str, settings: QueueSettings) -> None:
    async with make_queue(nats_url, settings) as queue, make_queue(nats_url, settings) as other:
        for number in range(6):
            pulling = asyncio.ensure_future(queue.pull(1, 30))
            await asyncio.sleep(0.002 * number)
            pulling.cancel()
            await asyncio.wait({pulling})
            _, stored = await asyncio.gather(queue.release(), other.publish(order(number)))
            assert stored
            [taken] = await other.pull(1, 10)  # long before ack_wait_s
            assert taken.order is not None
            assert taken.order.order_id == str(number)
            await taken.ack()


async def test_an_order_comes_again_until_it_is_acknowledged(
    nats_url: str, own_settings: Settings
) -> None:
    async with make_queue(nats_url, own_settings(ack_wait_s=0.5)) as queue:
        await queue.publish(order(1))
        [first] = await queue.pull(1, 5)
        assert not first.redelivered
        [second] = await queue.pull(1, 10)
        assert (second.deliveries, second.redelivered) == (2, True)
        await second.nak()
        [third] = await queue.pull(1, 10)
        await third.nak(0.3)
        began = asyncio.get_running_loop().time()
        [fourth] = await queue.pull(1, 10)
        assert asyncio.get_running_loop().time() - began > 0.25
        await fourth.ack()
        await until_depth(queue, 0)


async def test_an_order_that_is_worked_on_is_given_to_nobody_else(
    nats_url: str, own_settings: Settings
) -> None:
    async with make_queue(nats_url, own_settings(ack_wait_s=0.6)) as queue:
        await queue.publish(order(1))
        [taken] = await queue.pull(1, 5)
        for _ in range(12):
            await taken.in_progress()
            assert await queue.pull(1, 0.1) == []
        assert (await queue.pull(1, 10))[0].deliveries == 2


async def test_a_consumer_that_was_deleted_is_made_again(queue: OrderQueue) -> None:
    await fill(queue, 2)
    assert numbers_of(await queue.pull(1, 5)) == ["0"]
    settings = queue.settings
    stream = queue.connection.jetstream()
    await stream.delete_consumer(settings.orders_stream, settings.consumer)
    taken: list[Any] = []
    while not taken:
        taken = await queue.pull(1, 1)
    assert numbers_of(taken) == ["0"]


@pytest.mark.parametrize("by", ["publishing", "pulling", "asking"])
async def test_a_stream_of_orders_that_was_deleted_is_made_again(
    queue: OrderQueue, by: str, caplog: pytest.LogCaptureFixture
) -> None:
    await queue.publish(order(1))
    await queue.pull(1, 1)
    await deleted(queue, queue.settings.orders_stream)
    if by == "publishing":
        assert [each.stored for each in await published(queue, orders(300))] == [True] * 300
        taken = await queue.pull(1, 1) or await queue.pull(1, 5)
        assert numbers_of(taken) == ["0"]
    elif by == "asking":
        assert (await queue.status()).depth == 0
    else:

        async def is_made() -> bool:
            await queue.pull(1, 0.1)
            return await exists(queue, queue.settings.orders_stream)

        await until(is_made, "the stream")
        await queue.publish(order(2))
        assert numbers_of(await queue.pull(1, 5)) == ["2"]
    assert caplog.text.count("was deleted, and created again") == 1


async def test_a_stream_of_dead_letters_that_was_deleted_is_made_again(queue: OrderQueue) -> None:
    await deleted(queue, queue.settings.dead_letter_stream)
    assert await dead_of(queue) == []
    await buried(queue, 2)
    assert (await queue.status()).dead == len(await dead_of(queue)) == 2
    await deleted(queue, queue.settings.dead_letter_stream)
    assert (await queue.status()).dead == 0


async def test_what_is_redriven_from_a_new_stream_is_no_duplicate_of_an_old_one(
    queue: OrderQueue,
) -> None:
    await queue.publish(order(1))
    for _ in range(3):  # each time it is number 1 of its stream
        [taken] = await queue.pull(1, 5)
        await taken.to_dead_letter("no", Outcome.REJECTED, 1)
        [letter] = await dead_of(queue)
        assert letter.id == 1
        assert await queue.redrive([letter]) == 1
        await deleted(queue, queue.settings.dead_letter_stream)
    assert (await queue.status()).depth == 1


async def deleted(queue: OrderQueue, stream: str) -> None:
    async with connected(queue.connection.connected_url.geturl()) as connection:
        assert await connection.jetstream().delete_stream(stream)


async def exists(queue: OrderQueue, stream: str) -> bool:
    try:
        await queue.connection.jetstream().stream_info(stream)
    except NotFoundError:
        return False
    return True


async def test_pulling_survives_a_restart_of_the_server(
    nats_server: NatsServer, settings: QueueSettings
) -> None:
    async with make_queue(nats_server.url, settings) as queue:
        await fill(queue, 3)
        [taken] = await queue.pull(1, 5)
        assert numbers_of(await queue.pull(1, 5)) == ["1"]
        await nats_server.close()
        assert await queue.pull(1, 0.3) == []  # it is away
        await nats_server.start()
        began = asyncio.get_running_loop().time()
        rest: list[Any] = []
        while not rest:
            rest = await queue.pull(1, 60)
        assert asyncio.get_running_loop().time() - began < 30
        assert numbers_of(rest) == ["2"]
        await taken.ack()  # given before the restart

        async def one_is_done() -> bool:
            return (await queue.status()).depth == 2

        await until(one_is_done)


async def test_a_waiting_pull_survives_a_restart_of_the_server(
    nats_server: NatsServer, settings: QueueSettings
) -> None:
    async with make_queue(nats_server.url, settings) as queue:
        pulling = asyncio.ensure_future(queue.pull(1, 60))

        async def waits() -> bool:
            return (await queue.status()).idle_workers == 1

        await until(waits)
        await nats_server.close()
        await nats_server.start()
        await queue.publish(order(1))
        taken = await asyncio.wait_for(pulling, 20)  # its request was lost: not 60 s for that
        assert numbers_of(taken or await queue.pull(1, 30)) == ["1"]


# -------------------------------------------------------------------------------- dead letters


async def buried(queue: OrderQueue, count: int, outcome: Outcome = Outcome.UNKNOWN) -> None:
    await fill(queue, count)
    for taken in await queue.pull(count, 5):
        await taken.to_dead_letter("it may have been processed", outcome, 2)


async def test_a_dead_letter_says_why(queue: OrderQueue) -> None:
    await buried(queue, 1)
    [letter] = await dead_of(queue)
    assert (letter.key, letter.outcome, letter.attempts) == ("0", Outcome.UNKNOWN, 2)
    assert (letter.reason, letter.deliveries) == ("it may have been processed", 1)
    assert letter.created_at > 1e9
    assert b"customer0@example.com" in letter.body
    assert "customer0" not in repr(letter)
    assert (await queue.status()).dead == 1
    await until_depth(queue, 0)


async def test_a_dead_letter_is_written_once_however_often(
    nats_url: str, own_settings: Settings
) -> None:
    async with make_queue(nats_url, own_settings(ack_wait_s=0.3)) as queue:
        await queue.publish(order(1))
        [first] = await queue.pull(1, 5)
        [second] = await queue.pull(1, 10)  # as if the first had died before its ack
        await first.to_dead_letter("once", Outcome.UNKNOWN, 1)
        await second.to_dead_letter("twice", Outcome.UNKNOWN, 1)
        assert [letter.reason for letter in await dead_of(queue)] == ["once"]


async def test_poison_is_a_dead_letter_as_it_came(queue: OrderQueue) -> None:
    subject = queue.settings.orders_subject
    for body in (b"\x00\xff", b"", b'{"order_id": "1"}'):
        await queue.connection.jetstream().publish(subject, body)
    for taken in await queue.pull(5, 5):
        assert taken.order is None
        await taken.to_dead_letter(str(taken.error), Outcome.INVALID, 0)
    letters = await dead_of(queue)
    assert [letter.body for letter in letters] == [b"\x00\xff", b"", b'{"order_id": "1"}']
    assert {letter.key for letter in letters} == {None}


async def test_poison_as_large_as_the_server_takes_is_cut(
    nats_server: NatsServer, settings: QueueSettings
) -> None:
    async with make_queue(nats_server.url, settings) as queue:
        body = b"x" * queue.connection.max_payload
        await queue.connection.jetstream().publish(settings.orders_subject, body)
        [taken] = await queue.pull(1, 10)
        await taken.to_dead_letter(str(taken.error), Outcome.INVALID, 0)
        [letter] = await dead_of(queue)
        assert body.startswith(letter.body)
        assert len(body) - 4096 < len(letter.body) < len(body)
        await until_depth(queue, 0)


async def test_a_redriven_order_is_in_the_queue_again_and_its_letter_gone(
    queue: OrderQueue,
) -> None:
    await buried(queue, 3)
    letters = await dead_of(queue)
    assert await queue.redrive([letters[0], letters[2].id, 999]) == 2
    assert await queue.redrive([letters[0]]) == 0
    assert [letter.id for letter in await dead_of(queue)] == [letters[1].id]
    taken = await queue.pull(5, 5)
    assert numbers_of(taken) == ["0", "2"]
    assert all(each.resend and each.resend[0] is Outcome.UNKNOWN for each in taken)


async def test_a_redrive_that_crashed_before_the_deletion_can_be_repeated(
    queue: OrderQueue,
) -> None:
    await buried(queue, 1)
    [letter] = await dead_of(queue)
    headers = redrive_headers(letter.headers, letter.id, 1000.0, queue.settings)
    subject = queue.settings.orders_subject
    await queue.connection.jetstream().publish(subject, letter.body, headers=headers)
    assert await queue.redrive([letter]) == 1
    assert numbers_of(await queue.pull(5, 5)) == ["0"]


async def test_two_who_redrive_at_once_put_each_back_once(
    nats_url: str, settings: QueueSettings
) -> None:
    count = 60
    async with make_queue(nats_url, settings) as one, make_queue(nats_url, settings) as other:
        await buried(one, count)
        letters = await dead_of(one)

        async def redrive(queue: OrderQueue) -> int:
            return sum([await queue.redrive([letter]) for letter in letters])

        assert sum(await asyncio.gather(redrive(one), redrive(other), redrive(one))) == count
        assert await dead_of(one) == []
        assert (await one.status()).depth == count


async def test_dead_letters_can_be_dropped(queue: OrderQueue) -> None:
    await buried(queue, 3)
    letters = await dead_of(queue)
    assert await queue.drop([letters[0], letters[1].id, 999]) == 2
    assert await dead_of(queue) == [letters[2]]
    assert await queue.drop([letters[0]]) == 0


async def test_nothing_of_it_names_a_hash_or_an_address(
    queue: OrderQueue, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "everlytic_async")
    await queue.publish(order(1), key="jane@example.com")
    [taken] = await queue.pull(1, 5)
    headers = str(taken._message.headers)
    assert "jane" not in headers
    assert "customer1" not in headers
    assert "customer1" not in repr(taken)
    assert "@example" not in caplog.text
