"""All misbehaviours at once: no order lost, none twice, nothing let out, and the memory bounded."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
from behaviours import BEHAVIOURS
from hostile_client import QUICK, hostile_pair
from hostile_server import HostileServer, order_for

from everlytic_async import (
    BatchStoppedError,
    Delivery,
    EverlyticClient,
    OrderResult,
    Outcome,
    SourceError,
    Timeouts,
)
from everlytic_async.events import AttemptStarted, Event, OrderEnded
from support.delivery import CUSTOMER_HASH, STORE_HASH
from support.processes import resident_bytes
from support.visible import visible_texts

#: All but those that stop a batch (by a pause that is too long, too), or do their harm to whatever
#: order comes next.
NAMES = [
    name for name, each in BEHAVIOURS.items() if not (each.stops or each.spoils or each.pauses)
]
#: Few of these are enough: each keeps a sender, or every sender, waiting.
LONG = [name for name in NAMES if BEHAVIOURS[name].slow]
SHORT = [name for name in NAMES if name not in LONG]
AT_ONCE = 64
MEGABYTE = 1 << 20
#: Of the process: results, events and log are kept here. One body of 100 MB as bytes and as text,
#: or one gzip bomb, is over it.
MOST_MEMORY = 90 * MEGABYTE
#: Of objects alone, where few of those are in flight at once that bring much.
MOST_OBJECTS = 16 * MEGABYTE
#: Patient enough for a machine that has other work: only what is meant to be slow is too slow.
TIMEOUTS = Timeouts(connect_s=10, read_s=1.5, total_s=3)
#: A 503 that is written later than this may come from a gateway that gave up.
LATE_S = 2.0
TWICE = attrs.evolve(QUICK, attempts=2)
either_delivery = pytest.mark.parametrize(
    "delivery",
    [Delivery.AT_MOST_ONCE, pytest.param(Delivery.AT_LEAST_ONCE, marks=pytest.mark.slow)],
)


def orders(count: int, *, seed: int, long: bool = True) -> Iterator[dict[str, Any]]:
    """Orders for every misbehaviour; the first is accepted, so that refusals stop nothing."""
    yield order_for("success", 0)
    # What takes long comes first, for the others to go on meanwhile.
    names = [*LONG] if long else []
    rest = (SHORT * (count // len(SHORT) + 1))[: count - 1 - len(names)]
    random.Random(seed).shuffle(rest)
    for number, name in enumerate([*names, *rest], 1):
        yield order_for(name, number, large=BEHAVIOURS[name].large)


def name_of(order: Any) -> str:
    name: str = order["contact_email"].split(".")[0]
    return name


def possible(name: str, delivery: Delivery) -> set[Outcome]:
    """What may come of it: also what it is at first, for the retry budget may be used up."""
    behaviour = BEHAVIOURS[name]
    at_most_once, at_least_once = behaviour.outcome
    if delivery is Delivery.AT_LEAST_ONCE:
        outcomes = {at_most_once, at_least_once}
    else:
        outcomes = {at_most_once}
    if behaviour.posts[0] > 1 and at_most_once is Outcome.SENT:
        outcomes.add(Outcome.NOT_SENT)
    if behaviour.second:
        outcomes.add(Outcome.SENT)
    return outcomes


class Memory:
    """The most memory that this process holds, as the events come."""

    def __init__(self) -> None:
        self.before = self.most = resident_bytes()

    def look(self, _event: Event) -> None:
        self.most = max(self.most, resident_bytes())

    @property
    def grown(self) -> int:
        return self.most - self.before


@pytest.mark.parametrize(
    ("count", "long"), [(300, False), pytest.param(2_000, True, marks=pytest.mark.slow)]
)
@either_delivery
async def test_every_order_of_the_mix_has_its_one_result_and_no_secret_gets_out(
    delivery: Delivery, count: int, long: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    events: list[Event] = []
    gc.collect()
    memory = Memory()
    settings = {"delivery": delivery, "retry": TWICE, "timeouts": TIMEOUTS}
    hooks = [events.append, memory.look]
    async with hostile_pair(concurrency=AT_ONCE, on_event=hooks, **settings) as (server, client):
        report = await client.send_orders(orders(count, seed=7, long=long))

    results = list(report.results)
    assert sorted(result.index for result in results) == list(range(count))
    starts = [event for event in events if isinstance(event, AttemptStarted)]
    started_at = {(int(event.key or ""), event.attempt): event.at for event in starts}
    # These the server itself answered late: it had other work.
    late = {
        number
        for (number, attempt), at in server.answered_at.items()
        if at - started_at[number, attempt] > LATE_S
    }
    for result in results:
        check(result, delivery, server, late)
    assert {name_of(result.order) for result in results} == set(NAMES if long else SHORT)
    ended = Counter(event.key for event in events if isinstance(event, OrderEnded))
    assert ended == Counter(str(number) for number in range(count))
    assert memory.grown < MOST_MEMORY

    logged = [caplog.text, *(repr(record.__dict__) for record in caplog.records)]
    assert any("attempt" in text for text in logged)
    for text in (*visible_texts(*results, *events), *logged):
        assert STORE_HASH not in text
        assert CUSTOMER_HASH not in text
    assert not any("@example.com" in text for text in logged)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def check(result: OrderResult, delivery: Delivery, server: HostileServer, late: set[int]) -> None:
    """The result is a possible one, and the server agrees with it."""
    name = name_of(result.order)
    outcomes = possible(name, delivery)
    if name.startswith("503") and result.index in late:
        outcomes |= {Outcome.UNKNOWN}
    assert result.outcome in outcomes, (name, result)
    assert server.requests[result.index] == result.attempts, (name, result)
    processed = server.processed[result.index]
    if result.outcome is Outcome.SENT:
        assert processed >= 1, (name, result)
    elif result.outcome is not Outcome.UNKNOWN:
        assert processed == 0, (name, result)
    assert processed <= 1 or result.duplicate_risk, (name, result)
    if delivery is Delivery.AT_MOST_ONCE:
        assert processed <= 1, (name, result)


@pytest.mark.slow
async def test_nothing_is_kept_of_an_order_whatever_is_answered() -> None:
    # Not the large orders: orjson reserves eight times their size, and uses one eighth of it.
    def small(seed: int) -> Iterator[dict[str, Any]]:
        for order in orders(250, seed=seed, long=False):
            if not BEHAVIOURS[name_of(order)].large:
                yield order

    async def stream(seed: int) -> None:
        async with client.stream_orders(small(seed)) as results:
            async for result in results:
                assert result.outcome in Outcome

    async with hostile_pair(concurrency=AT_ONCE) as (server, client):
        await stream(1)
        gc.collect()
        tracemalloc.start()
        try:
            await stream(2)
            server.forget()
            gc.collect()
            left, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert peak < MOST_OBJECTS
    assert left < 2 * MEGABYTE


COUNT = 240


class Source:
    """The mix, of which the orders are counted that were read; it may break, or get refused."""

    def __init__(self, *, fails_after: int | None = None, refused: int | None = None) -> None:
        self._fails_after = fails_after
        self._refused = refused
        self.read = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for order in orders(COUNT, seed=3, long=False):
            if self.read == self._fails_after:
                raise LookupError("the source is broken")
            self.read += 1
            yield order_for("401", self.read - 1) if self.read == self._refused else order


async def leave(client: EverlyticClient, source: Source, how: str) -> None:
    """Read 100 results, and leave the stream in this way."""
    count = 0
    async with client.stream_orders(source) as results:
        async for _ in results:
            count += 1
            if count != 100:
                continue
            if how == "break":
                break
            if how == "stop":
                results.stop("enough")
            elif (task := asyncio.current_task()) is not None:
                task.cancel()
    if how == "stop":
        assert count == source.read


@pytest.mark.parametrize("how", ["break", "cancel", "stop", "refused", "source error"])
@either_delivery
async def test_however_a_batch_ends_early_the_server_agrees_with_the_results(
    delivery: Delivery, how: str
) -> None:
    events: list[Event] = []
    source = Source()
    async with hostile_pair(delivery=delivery, on_event=events.append) as (server, client):
        if how in ("refused", "source error"):
            source = Source(refused=100) if how == "refused" else Source(fails_after=120)
            kind = BatchStoppedError if how == "refused" else SourceError
            with pytest.raises(kind, match=r"refused the hashes|LookupError") as caught:
                await client.send_orders(source)
            assert caught.value.report is not None
            assert len(caught.value.report.results) == source.read
        else:
            task = asyncio.create_task(leave(client, source, how))
            await asyncio.wait([task])
            assert task.cancelled() is (how == "cancel")
            assert how == "cancel" or task.result() is None

    ended = [event for event in events if isinstance(event, OrderEnded)]
    outcomes = {int(event.key or ""): event.outcome for event in ended}
    assert len(ended) == len(outcomes)
    assert set(outcomes) == set(range(source.read))  # all that was read, and nothing else
    assert set(server.requests) <= set(outcomes)
    assert source.read <= 210
    of = {outcome: {n for n, o in outcomes.items() if o is outcome} for outcome in Outcome}
    processed = set(server.processed)
    assert of[Outcome.SENT] <= processed <= of[Outcome.SENT] | of[Outcome.UNKNOWN]
    if delivery is Delivery.AT_MOST_ONCE:
        total = server.processed.total()
        sent, unknown = len(of[Outcome.SENT]), len(of[Outcome.UNKNOWN])
        assert sent <= total <= sent + unknown
    risky = {int(event.key or "") for event in ended if event.duplicate_risk}
    assert {number for number, count in server.processed.items() if count > 1} <= risky
