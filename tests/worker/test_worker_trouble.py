"""A worker whose endpoint is in trouble: it neither exits, nor buries orders by the hundred."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from worker_shop import Shop, dead_of, emptied, running, until

from everlytic_async import Outcome, RetryPolicy, SqliteLedger
from everlytic_async.worker import OrderQueue, Worker
from support.delivery import orders

POLICY = RetryPolicy(base_s=0.005, cap_s=0.02, deadline_s=0.2)


def worker_of(shop: Shop, queue: OrderQueue, path: Path, client: Any) -> Worker:
    return Worker(client, queue, SqliteLedger(path), retry_base_s=0.05, retry_cap_s=0.2)


async def fill(queue: OrderQueue, count: int) -> None:
    async for each in queue.publish_many(orders(count)):
        assert each.stored


@pytest.mark.parametrize("reached", [True, False])
async def test_an_endpoint_that_fails_for_a_while_costs_few_dead_letters(
    queue: OrderQueue, tmp_path: Path, *, reached: bool
) -> None:
    await fill(queue, 400)
    async with (
        Shop({"": "accept" if reached else "fail"}) as shop,
        shop.client(retry=POLICY) as client,
    ):
        worker = worker_of(shop, queue, tmp_path / "orders.ledger", client)
        async with running(worker) as run:
            if reached:
                await until(lambda: worker.status.counts[Outcome.SENT] >= 20, "20 sent")
            shop.fates[""] = "fail"
            await until(lambda: worker.status.last_error and worker.status.in_flight == 0)
            assert not run.done()
            assert "500" in str(worker.status.last_error)
            posts = sum(shop.posts.values())
            await until(lambda: sum(shop.posts.values()) >= posts + 2, "more probes")
            shop.fates[""] = "accept"
            await emptied(queue)
            assert worker.status.ready

    dead = await dead_of(queue)
    assert {letter.outcome for letter in dead} == {Outcome.UNKNOWN}
    assert len(dead) <= 8 + 5 + 20
    assert worker.status.counts[Outcome.SENT] + len(dead) == 400
    assert max(Counter(shop.processed).values()) == 1


async def test_a_used_up_quota_is_waited_for_with_nothing_in_hand(
    queue: OrderQueue, tmp_path: Path
) -> None:
    await fill(queue, 100)
    retry = RetryPolicy(base_s=0.005, cap_s=0.02, deadline_s=5, retry_after_cap_s=0.05)
    async with Shop({"": "throttle"}) as shop, shop.client(retry=retry) as client:
        shop.retry_after = "3600"
        worker = worker_of(shop, queue, tmp_path / "orders.ledger", client)
        async with running(worker) as run:
            await until(lambda: "3600" in str(worker.status.last_error), "the figure")
            await until(lambda: worker.status.in_flight == 0, "nothing in hand")
            assert not worker.status.ready
            assert not run.done()
            assert sum(shop.posts.values()) <= 2 * 8
            shop.retry_after, shop.fates[""] = "", "accept"
            await emptied(queue)
    assert worker.status.counts[Outcome.SENT] == 100
    assert await dead_of(queue) == []


async def test_orders_are_not_buried_for_the_accounts_or_the_addresss_fault(
    queue: OrderQueue, tmp_path: Path
) -> None:
    await fill(queue, 60)
    async with Shop({"": "refuse"}) as shop, shop.client(retry=POLICY) as client:
        worker = worker_of(shop, queue, tmp_path / "orders.ledger", client)
        async with running(worker):
            await until(lambda: "refusals in a row" in str(worker.status.last_error), "a stop")
            assert await dead_of(queue) == []
            shop.fates = {"": "accept", "7": "refuse"}
            await emptied(queue)
    assert worker.status.counts[Outcome.SENT] == 59
    assert [letter.outcome for letter in await dead_of(queue)] == [Outcome.REJECTED]
