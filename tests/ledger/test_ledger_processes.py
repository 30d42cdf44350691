"""Several processes on one ledger, and processes that are killed: what arrived is counted here."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from ledger_processes import ended, make_sandbox, send, start
from ledger_shop import Place, keep, read_states

from everlytic_async import Delivery, Outcome, Pacing, SqliteLedger
from everlytic_async.ledger import LedgerFile, State
from everlytic_async.sandbox import Faults, Sandbox
from support.delivery import client_of, order_ids, orders
from support.forked import Forked


async def test_two_processes_share_a_ledger(place: Place) -> None:
    async with make_sandbox() as sandbox:
        ends = await asyncio.gather(*(send(sandbox, place, 300, concurrency=32) for _ in range(2)))

    assert [(end.code, end.error) for end in ends] == [(0, None)] * 2
    assert sandbox.processed == sandbox.requests == 300
    assert not sandbox.duplicates
    assert read_states(place) == {str(number): State.SENT for number in range(300)}
    sent = [set(end.ends.get("sent", ())) for end in ends]
    assert not sent[0] & sent[1]
    for end in ends:
        assert len(end.ends.get("sent", ())) + len(end.ends.get("skipped", ())) == 300


# ------------------------------------------------------------------------------------ killed

CONCURRENCY = 8
# As it is stored: to whoever looks at the ledger, what a killed process left is unknown.
IN_FLIGHT = "SELECT key FROM orders WHERE state = ?"


async def _kill(process: Forked, sandbox: Sandbox, rng: random.Random) -> None:
    """Kill it at an instant, most often while it sends."""
    if rng.random() < 0.8:
        before = sandbox.requests
        while sandbox.requests == before:  # noqa: ASYNC110 - the sandbox counts, it does not call
            await asyncio.sleep(0.001)
    await asyncio.sleep(rng.uniform(0, 0.1))
    process.signal(signal.SIGKILL)
    assert (await ended(process)).code == -signal.SIGKILL


async def _settled(sandbox: Sandbox) -> None:
    """What a killed process had sent is processed."""
    while sandbox.in_flight:  # noqa: ASYNC110 - the sandbox counts, it does not call
        await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("delivery", "kills"),
    [
        (Delivery.AT_MOST_ONCE, 5),
        pytest.param(Delivery.AT_MOST_ONCE, 100, marks=pytest.mark.slow),
        pytest.param(Delivery.AT_LEAST_ONCE, 100, marks=pytest.mark.slow),
    ],
)
async def test_killed_at_any_instant_and_resumed(
    path: Path, delivery: Delivery, kills: int
) -> None:
    rng = random.Random(kills)
    count = 200 * kills
    settings: dict[str, Any] = {"delivery": delivery, "concurrency": CONCURRENCY}
    at_stake: Counter[str] = Counter()  # how often an order was in flight at a kill
    faults = Faults(latency_s=0.004, latency_jitter_s=0.004)
    async with make_sandbox(faults=faults) as sandbox:
        for _ in range(kills):
            await _kill(start(sandbox, path, count, **settings), sandbox, rng)
            with LedgerFile(path) as file:
                left = file.connection.execute(IN_FLIGHT, (State.IN_FLIGHT.code,)).fetchall()
                assert len(left) <= CONCURRENCY
                at_stake.update(key for (key,) in left)
                if rng.random() < 0.5:  # else it is the next process that finds out
                    before = file.summary().counts
                    assert before[State.IN_FLIGHT] == 0
                    assert before[State.UNKNOWN] >= len(left)
                    await keep(path)
                    assert file.summary().counts == before
        await _settled(sandbox)
        end = await send(sandbox, path, count, **settings)

    assert (end.code, end.error) == (0, None)
    assert at_stake  # it was killed while it sent
    states = read_states(path)
    assert len(states) == count
    processed = set(order_ids(sandbox.received))
    unknown_keys = {key for key, state in states.items() if state is State.UNKNOWN}
    assert set(states.values()) <= {State.SENT, State.UNKNOWN}
    if delivery is Delivery.AT_MOST_ONCE:
        assert not sandbox.duplicates
        assert unknown_keys == set(at_stake)
        assert {key for key in states if key not in unknown_keys} <= processed
    else:
        assert not unknown_keys
        assert len(processed) == count
        assert all(times <= at_stake[key] for key, times in sandbox.duplicates.items())


async def test_what_a_killed_process_left_is_sent_again_when_asked_for(path: Path) -> None:
    async with (
        make_sandbox(faults=Faults(latency_s=0.05)) as sandbox,
        client_of(sandbox, pacing=Pacing(adaptive=False)) as client,
    ):
        await _kill(start(sandbox, path, 100), sandbox, random.Random(3))
        await _settled(sandbox)
        first = await client.send_orders(orders(100), ledger=SqliteLedger(path))
        again = await client.send_orders(
            orders(100), ledger=SqliteLedger(path), resend=[Outcome.UNKNOWN]
        )

    assert first.counts[Outcome.SENT] + first.counts[Outcome.SKIPPED] == 100
    assert 1 <= again.counts[Outcome.SENT] <= CONCURRENCY
    assert all(result.duplicate_risk for result in again.results if result.outcome is Outcome.SENT)
    assert set(read_states(path).values()) == {State.SENT}
