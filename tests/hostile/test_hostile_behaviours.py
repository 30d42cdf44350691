"""Every misbehaviour by itself: the verdict, the requests, the message."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from behaviours import BEHAVIOURS, PLAYS, Behaviour
from hostile_client import IMPATIENT, PATIENT, client_at, small_session
from hostile_server import HostileServer, order_for

from everlytic_async import BatchStoppedError, Delivery, OrderResult, Outcome

SLOW = [behaviour for behaviour in BEHAVIOURS.values() if behaviour.slow]
QUICK = [behaviour for behaviour in BEHAVIOURS.values() if not behaviour.slow]


def check(
    behaviour: Behaviour, delivery: Delivery, server: HostileServer, result: OrderResult
) -> None:
    """What has to come of it has come of it, and nothing else."""
    which = 0 if delivery is Delivery.AT_MOST_ONCE else 1
    number = int(result.order["order_id"])
    expected = behaviour.outcome[which]
    context = (behaviour.name, result)
    assert (result.outcome, result.attempts) == (expected, behaviour.posts[which]), context
    assert server.requests[number] == behaviour.posts[which], context
    assert result.duplicate_risk == (behaviour.risk and delivery is Delivery.AT_LEAST_ONCE), context
    if expected is Outcome.SENT:
        assert result.error is None, context
        assert result.receipt is not None, context
        assert server.processed[number] >= 1, context
    else:
        assert behaviour.error is not None, context
        assert type(result.error) is behaviour.error, context
        assert result.error.may_have_been_processed == (expected is Outcome.UNKNOWN), context
        for words in behaviour.says:
            assert words.format(host=server.host) in result.error.message, context
        assert "example.com" not in result.error.message, context
    if expected not in (Outcome.SENT, Outcome.UNKNOWN):
        assert server.processed[number] == 0, context
    if delivery is Delivery.AT_MOST_ONCE:
        assert server.processed[number] <= 1, context
    if behaviour.most_sent is not None:
        assert server.sent[behaviour.name] <= behaviour.most_sent, context


def cases() -> Iterator[Any]:
    """Every quick one, for both deliveries; where they make no difference, the second is slow."""
    for behaviour in QUICK:
        same = len({*behaviour.outcome}) == len({*behaviour.posts}) == 1
        for delivery in Delivery:
            is_slow = same and delivery is Delivery.AT_LEAST_ONCE
            marks = [pytest.mark.slow] * is_slow
            yield pytest.param(behaviour, delivery, id=f"{behaviour.name}-{delivery}", marks=marks)


@pytest.mark.parametrize(("behaviour", "delivery"), [*cases()])
async def test_every_misbehaviour_has_its_verdict_its_requests_and_its_words(
    behaviour: Behaviour, delivery: Delivery
) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(HostileServer(PLAYS))
        session = await stack.enter_async_context(small_session()) if behaviour.large else None
        client = await stack.enter_async_context(
            client_at(server.url, delivery=delivery, session=session, timeouts=PATIENT)
        )
        if behaviour.second:
            await client.send_order(order_for("success", 0))
        orders = [order_for(behaviour.name, 1, large=behaviour.large)]
        if behaviour.stops:
            with pytest.raises(BatchStoppedError) as caught:
                await client.send_orders(orders)
            report = caught.value.report
            assert report is not None
        else:
            report = await client.send_orders(orders)

    (result,) = report.results
    check(behaviour, delivery, server, result)


@pytest.mark.parametrize("delivery", Delivery)
async def test_every_misbehaviour_that_takes_long_ends_with_the_clients_patience(
    delivery: Delivery,
) -> None:
    # All at once because each takes as long as the client has patience; each by a client of its
    # own, because so many failures in a row would be trouble.
    async with HostileServer(PLAYS) as server, small_session() as session:

        async def send(number: int, behaviour: Behaviour) -> OrderResult:
            order = order_for(behaviour.name, number, large=behaviour.large)
            client = client_at(server.url, delivery=delivery, session=session, timeouts=IMPATIENT)
            async with client:
                results = client.stream_orders([order])
                async with results:
                    return await anext(results)

        sending = [send(number, behaviour) for number, behaviour in enumerate(SLOW, 1)]
        results = await asyncio.gather(*sending)

    for behaviour, result in zip(SLOW, results, strict=True):
        check(behaviour, delivery, server, result)
