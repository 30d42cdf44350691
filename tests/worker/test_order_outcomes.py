"""What a worker does with each order, by its outcome; and orders that were redriven."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from worker_shop import (
    dead_letters,
    drain,
    fill,
    make_queue,
    make_worker,
    once,
    queue_settings,
    running,
    states,
    until_status,
)

from everlytic_async import (
    Delivery,
    EverlyticClient,
    Order,
    Outcome,
    SkippedError,
    SqliteLedger,
    UnknownOutcomeError,
)
from everlytic_async._encoding import encode
from everlytic_async._nats import backoff_s
from everlytic_async.errors import AuthenticationError, NotSentError, RejectedError
from everlytic_async.ledger import NatsLedger, State
from everlytic_async.outcomes import OrderResult, Receipt
from everlytic_async.worker import OrderQueue
from everlytic_async.worker._dead_letters import redrive_headers
from everlytic_async.worker._settle import AckAction, action_for
from support.delivery import CUSTOMER_HASH, FAST_RETRY, STORE_HASH, order, orders
from support.nats_servers import until
from support.shop import Shop

ONCE, AGAIN = Delivery.AT_MOST_ONCE, Delivery.AT_LEAST_ONCE


def skipped(state: State) -> SkippedError:
    return SkippedError("the ledger says so", str(state))


def before_any_acceptance() -> RejectedError:
    error = RejectedError("no", 422)
    error.before_any_acceptance = True
    return error


@pytest.mark.parametrize(
    ("outcome", "error", "delivery", "action", "reported"),
    [
        (Outcome.SENT, None, ONCE, AckAction.ACK, Outcome.SENT),
        (Outcome.SKIPPED, skipped(State.SENT), ONCE, AckAction.ACK, Outcome.SENT),
        (Outcome.SKIPPED, skipped(State.IN_FLIGHT), ONCE, AckAction.NAK, Outcome.SKIPPED),
        (Outcome.SKIPPED, skipped(State.UNKNOWN), ONCE, AckAction.DEAD_LETTER, Outcome.UNKNOWN),
        (Outcome.SKIPPED, skipped(State.REJECTED), ONCE, AckAction.DEAD_LETTER, Outcome.REJECTED),
        (Outcome.NOT_SENT, NotSentError("no"), ONCE, AckAction.NAK, Outcome.NOT_SENT),
        (Outcome.REJECTED, RejectedError("no", 422), ONCE, AckAction.DEAD_LETTER, Outcome.REJECTED),
        (Outcome.REJECTED, before_any_acceptance(), ONCE, AckAction.NAK, Outcome.NOT_SENT),
        (Outcome.NOT_SENT, AuthenticationError("no", 401), ONCE, AckAction.NAK, Outcome.NOT_SENT),
        (Outcome.INVALID, None, ONCE, AckAction.DEAD_LETTER, Outcome.INVALID),
        (Outcome.UNKNOWN, UnknownOutcomeError("?"), ONCE, AckAction.DEAD_LETTER, Outcome.UNKNOWN),
        (Outcome.UNKNOWN, UnknownOutcomeError("?"), AGAIN, AckAction.NAK, Outcome.UNKNOWN),
    ],
)
def test_the_table_of_outcomes(
    outcome: Outcome, error: Any, delivery: Delivery, action: AckAction, reported: Outcome
) -> None:
    receipt = Receipt(200) if outcome is Outcome.SENT else None
    result = OrderResult(0, "1", {}, outcome, receipt, error)
    assert action_for(result, delivery) == (action, reported)


# -------------------------------------------------------------------------------- end to end


async def test_by_default_the_ledger_is_on_the_queues_servers(queue: OrderQueue) -> None:
    await fill(queue, 3)
    async with Shop() as shop, shop.client() as client:
        await drain(client, queue, None)
        assert not await queue.publish(order(1))
        again = await client.send_orders(orders(3), ledger=NatsLedger(queue.connection))
        assert again.counts[Outcome.SKIPPED] == 3
    assert set(shop.processed.values()) == {1}


@pytest.mark.parametrize(
    ("fates", "delivery", "processed", "deliveries"),
    [
        # More than one delivery's attempts.
        (["fail"] * 7 + ["accept"], AGAIN, 8, 2),
        (["throttle"] * 7 + ["accept"], ONCE, 1, 2),
        # Each delivery may have notified the customer, also where the caller allowed that.
        (["fail"], AGAIN, 5 * FAST_RETRY.attempts, 5),
    ],
)
async def test_an_order_that_may_be_sent_again_is_delivered_again_but_not_for_ever(
    queue: OrderQueue,
    path: Path,
    fates: list[str],
    delivery: Delivery,
    processed: int,
    deliveries: int,
) -> None:
    await fill(queue, 1)
    async with Shop({"0": fates}) as shop, shop.client(delivery=delivery) as client:
        await shop.accept_one(client)
        worker = await drain(client, queue, path)
    assert shop.processed["0"] == processed
    assert worker.status.nacked == deliveries - 1
    dead = [(letter.outcome, letter.deliveries) for letter in await dead_letters(queue)]
    assert dead == ([] if "accept" in fates else [(Outcome.UNKNOWN, deliveries)])


async def test_an_order_that_was_not_sent_is_delivered_again_after_a_delay(
    nats_url: str, queue: OrderQueue, path: Path
) -> None:
    await fill(queue, 1)
    async with Shop({"0": "throttle"}) as shop, shop.client() as client:
        await shop.accept_one(client)
        worker = make_worker(client, queue, path, retry_base_s=100, retry_cap_s=100)
        async with make_queue(nats_url, queue.settings) as other, running(worker):
            await until(lambda: worker.status.nacked == 1)
            assert await other.pull(1, 0.2) == []
            assert (await other.status()).in_flight == 1


@pytest.mark.parametrize(("doublings", "ceiling"), [(0, 2), (1, 4), (3, 16), (10, 100), (999, 100)])
def test_delays_double_up_to_a_cap_with_jitter(doublings: int, ceiling: float) -> None:
    delays = [backoff_s(doublings, 2, 100) for _ in range(100)]
    assert ceiling / 2 <= min(delays) < max(delays) <= ceiling


async def test_messages_that_are_not_orders_stop_no_other(queue: OrderQueue, path: Path) -> None:
    stream, subject = queue.connection.jetstream(), queue.settings.orders_subject
    await queue.publish(order(1))
    invalid = (
        *(b"", b"[" * 9999, b"x" * 1_100_000, b"\xff"),
        b'{"products": [{"product_price": 1e99999999999999999999}]}',
        b'{"total": 1%s}' % (b', "total": 1' * 80_000),
    )
    for body in invalid:
        await stream.publish(subject, body)
    await queue.publish(order(2))
    async with Shop() as shop, shop.client() as client:
        await drain(client, queue, path)
    assert shop.processed == Counter({"1": 1, "2": 1})
    letters = await dead_letters(queue)
    assert {letter.outcome for letter in letters} == {Outcome.INVALID}
    assert len(letters) == len(invalid)


MALFORMED_HEADERS = (
    b"x",
    b"garbage that is longer",
    b"NATS/1.0\r\n\r\n",
    b"NATS/1.0 503\r\n\r\n",
    b"NATS/1.0 \xff\xfe \xff\xfe\r\n\r\n",
    b"NATS/1.0\r\nno colon\r\n: no name\r\n\xff: \xff\r\n\r\n",
    b"NATS/1.0\r\nEverlytic-Key: \xff\r\n\r\n",
    b"NATS/1.0\r\nEverlytic-Resend: unknown\r\nEverlytic-Redriven-At: 1e400\r\n\r\n",
)


async def test_malformed_headers_stop_no_order(
    queue: OrderQueue, nats_url: str, path: Path
) -> None:
    """The server stores what another program publishes, and nats-py stops reading at some."""
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(nats_url).port)
    writer.write(b'CONNECT {"headers":true,"verbose":false}\r\n')
    for number, headers in enumerate(MALFORMED_HEADERS):
        body = encode(Order.from_mapping(order(number)))
        sizes = f"{len(headers)} {len(headers) + len(body)}"
        writer.write(f"HPUB {queue.settings.orders_subject} {sizes}\r\n".encode())
        writer.write(headers + body + b"\r\n")
    writer.write(b"PING\r\n")
    await reader.readuntil(b"PONG\r\n")
    writer.close()
    await writer.wait_closed()
    await queue.publish(order(len(MALFORMED_HEADERS)))
    async with Shop() as shop, shop.client() as client:
        await drain(client, queue, path)
    assert shop.processed == once(len(MALFORMED_HEADERS) + 1)
    assert await dead_letters(queue) == []


async def test_what_the_ledger_knows_is_not_sent_again(queue: OrderQueue, path: Path) -> None:
    """Sent orders leave the queue. One that is unknown, as after a crash, is a dead letter."""
    await fill(queue, 5)
    async with Shop({"0": ["fail", "accept"]}) as shop, shop.client() as client:
        known = [order(number) for number in (0, 2, 3)]
        await client.send_orders(known, ledger=SqliteLedger(path))
        worker = await drain(client, queue, path)
    assert shop.posts == once(5)
    assert worker.status.counts[Outcome.SKIPPED] == 3
    assert [(each.key, each.outcome) for each in await dead_letters(queue)] == [
        ("0", Outcome.UNKNOWN)
    ]


async def test_an_order_that_another_process_is_sending_is_waited_for(
    queue: OrderQueue, path: Path
) -> None:
    await fill(queue, 1)
    async with Shop({"0": "hang"}) as shop, shop.client() as client:
        ledger = SqliteLedger(path)
        sending = asyncio.ensure_future(client.send_orders([order(0)], ledger=ledger))
        await until(lambda: shop.in_flight == 1)
        worker = make_worker(client, queue, path)
        async with running(worker):
            await until(lambda: worker.status.nacked >= 2)
            shop.answers.set()
            await until_status(queue, depth=0)
        assert (await sending).counts[Outcome.SENT] == 1
    assert shop.posts["0"] == 1
    assert await dead_letters(queue) == []


async def test_an_order_with_its_own_key_is_another_order(queue: OrderQueue, path: Path) -> None:
    await queue.publish(order(1))
    await queue.publish(order(1), key="jane@example.com")
    async with Shop() as shop, shop.client() as client:
        await drain(client, queue, path)
        again = await client.send_orders(
            [order(1)], ledger=SqliteLedger(path), key=lambda _: "jane@example.com"
        )
        assert again.counts[Outcome.SKIPPED] == 1
    assert shop.processed["1"] == 2
    assert len(states(path)) == 2
    assert "jane" not in str(states(path))


# ----------------------------------------------------------------------------------- redriven


async def redrive(queue: OrderQueue, *_: object) -> None:
    assert await queue.redrive(await dead_letters(queue)) == 1


async def send_and_redrive(queue: OrderQueue, client: EverlyticClient, path: Path) -> None:
    await client.send_orders([order(0)], ledger=SqliteLedger(path), resend=[Outcome.UNKNOWN])
    await redrive(queue)


async def redrive_and_crash(queue: OrderQueue, *_: object) -> None:
    await redrive(queue)
    await queue.pull(1, 5)


async def redrive_long_ago(queue: OrderQueue, *_: object) -> None:
    [letter] = await dead_letters(queue)
    headers = redrive_headers(letter.headers, letter.id, 1000.0, queue.settings)
    stream = queue.connection.jetstream()
    await stream.publish(queue.settings.orders_subject, letter.body, headers=headers)


@pytest.mark.parametrize(
    ("fates", "happens", "posts", "dead"),
    [
        (["fail", "accept"], redrive, 2, []),
        (["refuse", "accept"], redrive, 2, []),
        (["fail", "fail"], redrive, 2, [Outcome.UNKNOWN]),
        # What was sent meanwhile is not sent again.
        (["fail", "accept"], send_and_redrive, 2, []),
        # The worker that had it before may have sent it: the redrive was for that delivery.
        (["fail", "accept"], redrive_and_crash, 1, [Outcome.UNKNOWN]),
        # A redrive disregards only what was recorded before it.
        (["fail", "accept"], redrive_long_ago, 1, [Outcome.UNKNOWN] * 2),
    ],
)
async def test_what_becomes_of_a_redriven_order(
    nats_url: str,
    path: Path,
    fates: list[str],
    happens: Callable[..., Awaitable[None]],
    posts: int,
    dead: list[Outcome],
) -> None:
    settings = queue_settings(**({"ack_wait_s": 0.3} if happens is redrive_and_crash else {}))
    async with (
        make_queue(nats_url, settings) as queue,
        Shop({"0": fates}) as shop,
        shop.client() as client,
    ):
        await shop.accept_one(client)
        await fill(queue, 1)
        await drain(client, queue, path)
        [letter] = await dead_letters(queue)
        assert (letter.key, letter.attempts, states(path)["0"]) == ("0", 1, letter.outcome)
        assert {"fail": "500", "refuse": "422"}[fates[0]] in letter.reason
        assert "jane" not in letter.reason
        await happens(queue, client, path)
        await drain(client, queue, path)
        assert shop.posts["0"] == posts
        assert [letter.outcome for letter in await dead_letters(queue)] == dead
    assert states(path)["0"] is (State.UNKNOWN if dead else State.SENT)


# ------------------------------------------------------------------------------------ secrets


async def test_messages_logs_and_reprs_hold_no_hash_and_no_address(
    queue: OrderQueue, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("aiosqlite").setLevel(logging.INFO)
    messages: list[str] = []
    headers: list[str] = []

    async def note(message: Any) -> None:
        headers.append(f"{message.subject} {message.headers}")
        messages.append(f"{headers[-1]} {message.data!r}")

    subscription = await queue.connection.subscribe(">", cb=note)
    await fill(queue, 5)
    await queue.publish(order(1), key="jane@example.com")
    await queue.connection.jetstream().publish(
        queue.settings.orders_subject, b'{"contact_email": "jane@example.com"}'
    )
    async with Shop({"1": "refuse", "2": "fail"}) as shop, shop.client() as client:
        await shop.accept_one(client)
        worker = await drain(client, queue, path)
    await subscription.unsubscribe()
    assert any("Everlytic-Key" in each for each in headers)
    logged = [each.getMessage() for each in caplog.records if each.name.endswith(".worker")]
    assert logged
    shown = (repr(worker), repr(worker.status), repr(await dead_letters(queue)))
    for text in (*logged, *shown, *headers):
        assert "@example" not in text
        assert "jane" not in text
    assert "customer" not in caplog.text
    for text in (caplog.text, *messages):
        assert STORE_HASH not in text
        assert CUSTOMER_HASH not in text
