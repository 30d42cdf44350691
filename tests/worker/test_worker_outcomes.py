"""What a worker tells the queue of each order, once the ledger knows it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from worker_shop import Shop, dead_of, emptied, make_queue, running, until

from everlytic_async import (
    Delivery,
    Outcome,
    SkippedError,
    SqliteLedger,
    UnknownOutcomeError,
)
from everlytic_async.errors import AuthenticationError, NotSentError, RejectedError
from everlytic_async.ledger import LedgerFile, NatsLedger, State
from everlytic_async.outcomes import OrderResult, Receipt
from everlytic_async.worker import OrderQueue, QueueSettings, Worker
from everlytic_async.worker._settle import AckAction, action_for
from support.delivery import CUSTOMER_HASH, STORE_HASH, order, orders

Settings = Callable[..., QueueSettings]
ONCE, AGAIN = Delivery.AT_MOST_ONCE, Delivery.AT_LEAST_ONCE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orders.ledger"


def states_of(path: Path) -> dict[str, State]:
    with LedgerFile(path, must_exist=True) as file:
        return {entry.key: entry.state for _, entry in file.entries()}


def worker_of(client: Any, queue: OrderQueue, path: Path, **settings: Any) -> Worker:
    given: dict[str, Any] = {"retry_base_s": 0.05, "retry_cap_s": 0.2, **settings}
    return Worker(client, queue, SqliteLedger(path), **given)


async def work_off(client: Any, queue: OrderQueue, path: Path, **settings: Any) -> Worker:
    """Run a worker until the queue is empty."""
    worker = worker_of(client, queue, path, **settings)
    async with running(worker):
        await emptied(queue)
    return worker


async def fill(queue: OrderQueue, count: int) -> None:
    async for each in queue.publish_many(orders(count)):
        assert each.stored


# ---------------------------------------------------------------------------------- the table


def skipped(state: State) -> SkippedError:
    return SkippedError("the ledger says so", str(state))


def before_any_acceptance() -> RejectedError:
    error = RejectedError("no", 422)
    error.before_any_acceptance = True
    return error


@pytest.mark.parametrize(
    ("outcome", "error", "delivery", "action", "known"),
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
def test_the_table(
    outcome: Outcome, error: Any, delivery: Delivery, action: AckAction, known: Outcome
) -> None:
    receipt = Receipt(200) if outcome is Outcome.SENT else None
    result = OrderResult(0, "1", {}, outcome, receipt, error)
    assert action_for(result, delivery) == (action, known)


# ------------------------------------------------------------------------------ end to end


async def test_every_order_is_sent_once_and_forgotten(queue: OrderQueue, path: Path) -> None:
    await fill(queue, 300)
    async with Shop() as shop, shop.client() as client:
        worker = await work_off(client, queue, path)
    assert shop.processed == Counter({str(number): 1 for number in range(300)})
    assert worker.status.counts[Outcome.SENT] == worker.status.acked == 300
    assert (worker.status.in_flight, worker.status.nacked, worker.status.dead_lettered) == (0, 0, 0)
    assert states_of(path) == {str(number): State.SENT for number in range(300)}
    assert await dead_of(queue) == []


async def test_by_default_the_ledger_is_on_the_queues_servers(queue: OrderQueue) -> None:
    await fill(queue, 3)
    async with Shop() as shop, shop.client() as client:
        async with running(Worker(client, queue)):
            await emptied(queue)
        assert not await queue.publish(order(1))
        again = await client.send_orders(orders(3), ledger=NatsLedger(queue.connection))
        assert again.counts[Outcome.SKIPPED] == 3
    assert set(shop.processed.values()) == {1}


async def test_it_holds_no_more_than_it_has_slots(queue: OrderQueue, path: Path) -> None:
    await fill(queue, 50)
    async with Shop({"": "hang"}) as shop, shop.client(concurrency=4) as client:
        worker = worker_of(client, queue, path)
        async with running(worker):
            await until(lambda: shop.in_flight == 4)
            await asyncio.sleep(0.1)
            status = await queue.status()
            assert (status.in_flight, status.waiting) == (4, 46)
            assert worker.status.in_flight == 4
            shop.answers.set()
            await emptied(queue)
    assert shop.peak == 4


async def test_what_the_endpoint_refuses_is_a_dead_letter(queue: OrderQueue, path: Path) -> None:
    await fill(queue, 3)
    async with Shop({"1": "refuse"}) as shop, shop.client() as client:
        await shop.accept_one(client)
        await work_off(client, queue, path)
    [letter] = await dead_of(queue)
    assert (letter.key, letter.outcome, letter.attempts) == ("1", Outcome.REJECTED, 1)
    assert "422" in letter.reason
    assert "jane" not in letter.reason
    assert states_of(path)["1"] is State.REJECTED


async def test_what_may_have_been_processed_is_a_dead_letter(queue: OrderQueue, path: Path) -> None:
    await fill(queue, 3)
    async with Shop({"1": "fail"}) as shop, shop.client() as client:
        await work_off(client, queue, path)
    [letter] = await dead_of(queue)
    assert (letter.key, letter.outcome) == ("1", Outcome.UNKNOWN)
    assert shop.posts["1"] == 1


async def test_at_least_once_it_is_sent_again(queue: OrderQueue, path: Path) -> None:
    await fill(queue, 1)
    fates: dict[str, Any] = {"0": ["fail"] * 7 + ["accept"]}  # more than one delivery's attempts
    async with Shop(fates) as shop, shop.client(delivery=AGAIN) as client:
        await work_off(client, queue, path)
    assert shop.processed["0"] == 8
    assert await dead_of(queue) == []


async def test_what_was_not_sent_comes_again(queue: OrderQueue, path: Path) -> None:
    await fill(queue, 1)
    fates: dict[str, Any] = {"0": ["throttle"] * 7 + ["accept"]}
    async with Shop(fates) as shop, shop.client() as client:
        await shop.accept_one(client)
        worker = await work_off(client, queue, path)
    assert shop.processed["0"] == 1
    assert worker.status.nacked == 1
    assert worker.status.counts[Outcome.NOT_SENT] == 1


async def test_poison_stops_nobody(queue: OrderQueue, path: Path) -> None:
    stream, subject = queue.connection.jetstream(), queue.settings.orders_subject
    await queue.publish(order(1))
    product = b'{"contact_email": "a@b.example", "products": [{"product_price": %s}]}'
    poisons = (
        *(b"", b"{", b"[" * 9999, b'{"contact_email": 7}', b"x" * 1_100_000, b"\xff"),
        *(product % number for number in (b"1e99999999999999999999", b"9" * 100_000, b"NaN")),
        b'{"total": 1%s}' % (b', "total": 1' * 80_000),
    )
    for poison in poisons:
        await stream.publish(subject, poison)
    await queue.publish(order(2))
    async with Shop() as shop, shop.client() as client:
        await work_off(client, queue, path)
    assert shop.processed == Counter({"1": 1, "2": 1})
    letters = await dead_of(queue)
    assert {letter.outcome for letter in letters} == {Outcome.INVALID}
    assert len(letters) == len(poisons)


async def test_what_the_ledger_says_was_sent_is_forgotten(queue: OrderQueue, path: Path) -> None:
    await fill(queue, 5)
    async with Shop() as shop, shop.client() as client:
        await client.send_orders([order(2), order(3)], ledger=SqliteLedger(path))
        worker = await work_off(client, queue, path)
    assert set(shop.processed.values()) == {1}
    assert worker.status.counts[Outcome.SKIPPED] == 2
    assert await dead_of(queue) == []


async def test_what_another_worker_died_of_is_a_dead_letter(queue: OrderQueue, path: Path) -> None:
    """It is found in the ledger as unknown: recorded, and not yet a dead letter."""
    await fill(queue, 1)
    async with Shop({"0": ["fail", "accept"]}) as shop, shop.client() as client:
        await client.send_orders([order(0)], ledger=SqliteLedger(path))
        await work_off(client, queue, path)
    assert shop.posts["0"] == 1
    [letter] = await dead_of(queue)
    assert letter.outcome is Outcome.UNKNOWN


async def test_what_another_has_in_hand_is_waited_for(queue: OrderQueue, path: Path) -> None:
    await fill(queue, 1)
    async with Shop({"0": "hang"}) as shop, shop.client() as client:
        ledger = SqliteLedger(path)
        sending = asyncio.ensure_future(client.send_orders([order(0)], ledger=ledger))
        await until(lambda: shop.in_flight == 1)
        worker = worker_of(client, queue, path)
        async with running(worker):
            await until(lambda: worker.status.nacked >= 2)
            shop.answers.set()
            await emptied(queue)
        assert (await sending).counts[Outcome.SENT] == 1
    assert shop.posts["0"] == 1
    assert await dead_of(queue) == []


async def test_an_order_by_its_own_key_is_another_one(queue: OrderQueue, path: Path) -> None:
    await queue.publish(order(1))
    await queue.publish(order(1), key="jane@example.com")
    async with Shop() as shop, shop.client() as client:
        await work_off(client, queue, path)
        # By its key it is known to whoever sends it by the same.
        again = await client.send_orders(
            [order(1)], ledger=SqliteLedger(path), key=lambda _: "jane@example.com"
        )
        assert again.counts[Outcome.SKIPPED] == 1
    assert shop.processed["1"] == 2
    assert len(states_of(path)) == 2
    with LedgerFile(path, must_exist=True) as file:
        assert "jane" not in str(list(file.entries()))


# ----------------------------------------------------------------------------------- redriven


async def test_a_redriven_order_is_sent_whatever_was_known(queue: OrderQueue, path: Path) -> None:
    await fill(queue, 3)
    fates: dict[str, Any] = {"0": ["fail", "accept"], "1": ["refuse", "accept"]}
    async with Shop(fates) as shop, shop.client() as client:
        await shop.accept_one(client)
        await work_off(client, queue, path)
        assert len(await dead_of(queue)) == 2
        assert await queue.redrive(await dead_of(queue)) == 2
        await work_off(client, queue, path)
    assert shop.posts == Counter({"0": 2, "1": 2, "2": 1})
    assert await dead_of(queue) == []
    assert set(states_of(path).values()) == {State.SENT}


async def test_a_redriven_order_that_was_sent_meanwhile_is_not(
    queue: OrderQueue, path: Path
) -> None:
    await fill(queue, 1)
    async with Shop({"0": ["fail", "accept"]}) as shop, shop.client() as client:
        await work_off(client, queue, path)
        await client.send_orders([order(0)], ledger=SqliteLedger(path), resend=[Outcome.UNKNOWN])
        await queue.redrive(await dead_of(queue))
        await work_off(client, queue, path)
    assert shop.posts["0"] == 2
    assert await dead_of(queue) == []


async def test_a_redriven_order_that_fails_again_is_a_dead_letter_again(
    queue: OrderQueue, path: Path
) -> None:
    await fill(queue, 1)
    async with Shop({"0": "fail"}) as shop, shop.client() as client:
        for _ in range(3):
            await work_off(client, queue, path)
            assert await queue.redrive(await dead_of(queue)) == 1
        await work_off(client, queue, path)
    assert len(await dead_of(queue)) == 1
    assert shop.posts["0"] == 4


async def test_a_redriven_order_is_sent_by_its_first_delivery_alone(
    nats_url: str, own_settings: Settings, path: Path
) -> None:
    """Who had it before may have sent it: what was known before the redrive no longer holds."""
    async with make_queue(nats_url, own_settings(ack_wait_s=0.3)) as queue:
        await fill(queue, 1)
        async with Shop({"0": "fail"}) as shop, shop.client() as client:
            await work_off(client, queue, path)
            await queue.redrive(await dead_of(queue))
            await queue.pull(1, 5)  # and dies
            await work_off(client, queue, path)
        assert shop.posts["0"] == 1
        assert [letter.outcome for letter in await dead_of(queue)] == [Outcome.UNKNOWN]


async def test_what_was_recorded_after_the_redrive_is_not_passed_over(
    queue: OrderQueue, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(queue, 1)
    async with Shop({"0": "fail"}) as shop, shop.client() as client:
        await work_off(client, queue, path)
        with monkeypatch.context() as patch:
            patch.setattr("everlytic_async.worker._dead_letters.time.time", lambda: 1000.0)
            await queue.redrive(await dead_of(queue))
        await work_off(client, queue, path)
    assert shop.posts["0"] == 1
    assert [letter.outcome for letter in await dead_of(queue)] == [Outcome.UNKNOWN]


# ------------------------------------------------------------------------------------ secrets


async def test_neither_hash_nor_address_is_told(
    queue: OrderQueue, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("aiosqlite").setLevel(logging.INFO)
    await fill(queue, 5)
    await queue.connection.jetstream().publish(
        queue.settings.orders_subject, b'{"contact_email": "jane@example.com"}'
    )
    told: list[str] = []

    async def note(message: Any) -> None:
        told.append(f"{message.subject} {message.headers} {message.data!r}")

    subscription = await queue.connection.subscribe(">", cb=note)
    async with Shop({"1": "refuse", "2": "fail"}) as shop, shop.client() as client:
        await shop.accept_one(client)
        worker = await work_off(client, queue, path)
    await subscription.unsubscribe()
    assert told
    said = [each.getMessage() for each in caplog.records if each.name.endswith(".worker")]
    assert said
    for text in (*said, repr(worker), repr(worker.status), repr(await dead_of(queue))):
        assert "@example" not in text
    assert "customer" not in caplog.text
    for text in (caplog.text, *told):
        assert STORE_HASH not in text
        assert CUSTOMER_HASH not in text
