"""What the workers of a store say to each other: pauses, and who runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from worker_shop import fill, make_queue, make_worker, running

from everlytic_async.events import CoolDown, Event
from everlytic_async.worker import OrderQueue, QueueSettings
from support.delivery import order
from support.nats_servers import until
from support.shop import Shop

PAUSE = b'{"by": "other", "wait_s": 0.05, "status": 429}'


def note(cool_downs: list[CoolDown]) -> Callable[[Event], None]:
    def on_event(event: Event) -> None:
        if isinstance(event, CoolDown):
            cool_downs.append(event)

    return on_event


@pytest.mark.parametrize(("fate", "status"), [("throttle", 429), ("busy", 503)])
async def test_a_cool_down_of_one_worker_pauses_the_others(
    nats_url: str, settings: QueueSettings, path: Path, fate: str, status: int
) -> None:
    first: list[CoolDown] = []
    second: list[CoolDown] = []
    alone: list[CoolDown] = []
    messages: list[bytes] = []

    async def on_message(message: Any) -> None:
        messages.append(message.data)

    async with (
        Shop({"1": [fate, "accept"]}) as shop,
        make_queue(nats_url, settings) as queue,
        make_queue(nats_url, settings) as other_queue,
        shop.client(on_event=note(first)) as client,
        shop.client(on_event=note(second)) as other,
        shop.client(on_event=note(alone)) as unshared,
    ):
        shop.retry_after = "1"
        workers = [
            make_worker(client, queue, path),
            make_worker(other, other_queue, path),
            make_worker(unshared, other_queue, path, share_cool_down=False),
        ]
        await queue.connection.subscribe(settings.cool_down_subject, cb=on_message)
        async with running(workers[0]), running(workers[1]):
            await until(lambda: all(worker.status.ready for worker in workers[:2]))
            await other_queue.connection.flush()  # the server knows of its subscription
            started_at = time.monotonic()
            await client.send_order(order(1))
            await until(lambda: second)
            await other.send_order(order(2))
            assert time.monotonic() - started_at >= 1.0
            await other_queue.connection.flush()
        async with running(workers[2]):
            await until(lambda: workers[2].status.ready)
            await queue.connection.publish(settings.cool_down_subject, PAUSE)
            await queue.connection.flush()
            await unshared.send_order(order(3))
    assert len(messages) == 2  # one of ours, and no echo
    assert [event.status for event in first] == [status]
    [event] = second
    assert event.status is None
    assert event.wait_s == pytest.approx(1, abs=0.1)
    assert "another worker" in event.reason
    assert not alone


NOT_FROM_A_WORKER = (
    *(b"", b"\xff{", b"7", b"null", b'"by"', b"[" * 99_999),
    b'{"by": "x", "wait_s": 1}',
    b'{"by": "x", "wait_s": "1", "status": 429}',
    b'{"by": "x", "wait_s": true, "status": 429}',
    b'{"by": "x", "wait_s": NaN, "status": 429}',
    b'{"by": "x", "wait_s": Infinity, "status": 429}',
    b'{"by": "x", "wait_s": -1, "status": 429}',
    b'{"by": "x", "wait_s": 1, "status": 200}',
    b'{"by": 7, "wait_s": 1, "status": 429}',
    b'{"by": "x", "wait_s": 1, "status": [429]}',
    b'{"by": "x", "wait_s": 1%s, "status": 429}' % (b"0" * 400),
)


async def test_other_messages_and_other_stores_pause_no_worker(
    queue: OrderQueue, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    cool_downs: list[CoolDown] = []
    subject = queue.settings.cool_down_subject
    async with Shop() as shop, shop.client(on_event=note(cool_downs)) as client:
        worker = make_worker(client, queue, path)
        async with running(worker):
            await until(lambda: worker.status.ready)
            await queue.connection.publish(f"{subject}-of-another-store", PAUSE)
            for count, message in enumerate(NOT_FROM_A_WORKER, 1):
                await queue.connection.publish(subject, message)
                await until(lambda: caplog.text.count("not from a worker") == count, str(message))  # noqa: B023 - awaited here
            assert worker.status.ready
    assert not cool_downs


async def test_workers_answer_also_with_no_free_slot(queue: OrderQueue, path: Path) -> None:
    assert await queue.workers(5) == []  # at once
    await fill(queue, 4)
    async with Shop({"": "hang"}) as shop, shop.client(concurrency=3) as client:
        worker = make_worker(client, queue, path)
        async with running(worker):
            await until(lambda: shop.in_flight == 3)
            (found,) = await queue.workers(0.2)
            assert (found.in_flight, found.sent) == (3, 0)
            assert (found.stopping, found.last_error) == (False, None)
            shop.answers.set()
            await until(lambda: worker.status.acked == 4)
    assert await queue.workers(5) == []


async def test_answers_that_are_not_from_a_worker_are_ignored(queue: OrderQueue) -> None:
    async def respond(message: Any) -> None:
        worker = b'{"name": "x", "in_flight": %s, "sent": 1, "stopping": 0, "last_error": null}'
        # Of the largest, the screen would show hundreds of digits.
        numbers = (b'"many"', b"1e999", b"1e308", b"-1", b"%d" % 2**63)
        for answer in (b"", b"[]", b"{}", b"\xff", *(worker % number for number in numbers)):
            await message.respond(answer)

    subscription = await queue.connection.subscribe(queue.settings.workers_subject, cb=respond)
    assert await queue.workers(0.2) == []
    await subscription.unsubscribe()
