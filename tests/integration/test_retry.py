"""When an order is tried again, and what all its attempts together say about it.

The tests move the clock, and the endpoint is a script; what must hold at a real endpoint is shown
against the sandbox.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlytic_async import (
    Delivery,
    EverlyticError,
    NotSentError,
    Outcome,
    Pacing,
    RetryPolicy,
    ServerError,
    ThrottledError,
    UnknownOutcomeError,
)
from everlytic_async._waiting import StopToken
from everlytic_async.events import AttemptEnded, AttemptStarted, BackingOff, OrderEnded
from everlytic_async.sandbox import Faults, Sandbox
from support.delivery import order, orders, sandbox_client
from support.fake_delivery import (
    AMBIGUOUS,
    ENDS,
    SAFE,
    always,
    end_with,
    fake_delivery,
    make_response,
    script,
)

AT_MOST_ONCE, AT_LEAST_ONCE = Delivery.AT_MOST_ONCE, Delivery.AT_LEAST_ONCE

# ------------------------------------------------------------------------------- how often, and why


@given(
    ends=st.lists(st.sampled_from(sorted(ENDS)), min_size=12, max_size=12).map(
        lambda ends: [*ends, "rejected"]  # an outage may be probed for longer than the list
    ),
    delivery=st.sampled_from(Delivery),
    attempts=st.integers(1, 6),
    adaptive=st.booleans(),
)
def test_a_result_claims_no_more_than_its_attempts_say(
    ends: list[str], delivery: Delivery, attempts: int, *, adaptive: bool
) -> None:
    fake = fake_delivery(
        script(*ends),
        delivery=delivery,
        retry=RetryPolicy(attempts=attempts),
        pacing=Pacing(adaptive=adaptive),
    )
    result = asyncio.run(fake.send())

    made = ends[: len(fake.transport.bodies)]
    possibly_processed = [end for end in made if end in (*AMBIGUOUS, "accepted")]
    assert 1 <= result.attempts == len(made)
    assert len(set(fake.transport.bodies)) == 1  # always the same bytes
    # No more than the policy allows, but for the probes of an outage.
    assert set(made[attempts - 1 : -1]) <= ({"unreachable"} if attempts > 1 else set())
    assert result.duplicate_risk == (len(possibly_processed) > 1)
    if made[-1] == "accepted":
        assert (result.outcome, result.error) == (Outcome.SENT, None)
        assert result.receipt is not None
        assert result.receipt.attempts == result.attempts
    elif possibly_processed:
        assert result.outcome is Outcome.UNKNOWN
        assert isinstance(result.error, UnknownOutcomeError)
    else:
        rejected = made[-1] == "rejected"
        assert result.outcome is (Outcome.REJECTED if rejected else Outcome.NOT_SENT)
    repeatable = SAFE if delivery is AT_MOST_ONCE else (*SAFE, *AMBIGUOUS)
    assert set(made[:-1]) <= set(repeatable)
    assert fake.pacer.in_flight == 0


@pytest.mark.parametrize("last", ["unreachable", "throttled", "rejected"])
async def test_the_error_names_the_ambiguous_attempt_and_the_last(last: str) -> None:
    # An outage is probed for as long as the deadline allows.
    fake = fake_delivery(
        script("failed", *[last] * 50), delivery=AT_LEAST_ONCE, retry=RetryPolicy(attempts=2)
    )
    result = await fake.send()

    assert isinstance(result.error, ServerError)
    assert result.error.status == 500
    assert "500" in result.error.message
    assert "a later attempt: " in result.error.message
    if last == "unreachable":
        assert "a later attempt: the order was not sent to shop.example" in result.error.message


async def test_every_attempt_is_emitted_with_its_own_verdict() -> None:
    fake = fake_delivery(script("throttled", "lost", "accepted"), delivery=AT_LEAST_ONCE)
    await fake.send()

    ended = [event for event in fake.events if isinstance(event, AttemptEnded)]
    assert [(event.attempt, event.outcome, event.status) for event in ended] == [
        (1, Outcome.NOT_SENT, 429),
        (2, Outcome.UNKNOWN, None),
        (3, Outcome.SENT, 200),
    ]


# ---------------------------------------------------------------------------------------- pauses


def pauses(events: list[Any]) -> list[float]:
    return [event.wait_s for event in events if isinstance(event, BackingOff)]


@pytest.mark.parametrize("end", ["throttled", "unreachable", "lost"])
async def test_pauses_have_full_jitter_under_a_doubling_ceiling(end: str) -> None:
    policy = RetryPolicy(attempts=7, base_s=1, cap_s=8, deadline_s=1_000)
    found: list[list[float]] = []
    for seed in range(40):
        fake = fake_delivery(always(end), retry=policy, delivery=AT_LEAST_ONCE, seed=seed)
        await fake.send()
        found.append(pauses(fake.events))
        gaps = [later - earlier for earlier, later in itertools.pairwise(fake.transport.times)]
        assert gaps == pytest.approx(found[-1])  # what was announced is what was waited

    for ceiling, drawn in zip([1, 2, 4, 8, 8, 8], zip(*found, strict=True), strict=True):
        assert 0.85 * ceiling < max(drawn) <= ceiling
        assert 0 <= min(drawn) < 0.15 * ceiling


@pytest.mark.parametrize("seed", range(3))
async def test_no_pause_starts_that_would_end_after_the_deadline(seed: int) -> None:
    policy = RetryPolicy(attempts=1_000, base_s=4, cap_s=16, deadline_s=60)
    fake = fake_delivery(always("lost"), retry=policy, delivery=AT_LEAST_ONCE, seed=seed)
    started_at = fake.clock.now
    result = await fake.send()

    assert result.outcome is Outcome.UNKNOWN
    assert result.attempts > 3
    assert fake.clock.now - started_at < 60


async def test_the_deadline_runs_from_the_first_attempt() -> None:
    policy = RetryPolicy(base_s=0.001, cap_s=0.001, deadline_s=5)
    fake = fake_delivery(
        script(make_response(429, b"", Retry_After="100"), "throttled", "accepted"), retry=policy
    )
    first = await fake.send()  # the pause is too long for its deadline, and all others wait
    assert (first.outcome, first.attempts) == (Outcome.NOT_SENT, 1)
    second = await fake.send()

    assert (second.outcome, second.attempts) == (Outcome.SENT, 2)
    assert second.elapsed_s >= 100


@pytest.mark.parametrize("adaptive", [True, False])
async def test_no_order_waits_for_its_next_turn_beyond_the_deadline(*, adaptive: bool) -> None:
    fake = fake_delivery(
        always("throttled"),
        retry=RetryPolicy(attempts=1_000, deadline_s=3),
        pacing=Pacing(max_concurrency=8, max_rate=1, adaptive=adaptive),
    )
    reading = await fake.read(orders(8), concurrency=8)

    assert {type(result.error) for result in reading.results} == {ThrottledError}
    started_at: dict[str | None, float] = {}
    for event in fake.events:
        if isinstance(event, AttemptStarted):
            started_at.setdefault(event.key, event.at)
        elif isinstance(event, OrderEnded):
            assert event.at - started_at[event.key] <= 3
    fake.check_idle()


# ------------------------------------------------------------------------------------ Retry-After


@pytest.mark.parametrize(
    ("status", "waited_s", "first"),
    [
        *((status, 0, Outcome.SENT) for status in (429, 503, 408)),
        (503, 6, Outcome.UNKNOWN),  # late: the pause is for the next order
    ],
)
async def test_a_retry_after_is_waited_for(status: int, waited_s: float, first: Outcome) -> None:
    asking = make_response(status, b"", Retry_After="7", waited_s=waited_s)
    fake = fake_delivery(script(asking, "accepted", "accepted"))
    results = [await fake.send(order(number)) for number in range(2)]

    assert [result.outcome for result in results] == [first, Outcome.SENT]
    assert 7 <= fake.transport.times[1] - fake.transport.times[0] <= 7 * 1.05


async def test_a_retry_after_over_the_cap_ends_the_order_with_the_figure_in_the_error() -> None:
    policy = RetryPolicy(retry_after_cap_s=60)
    at_the_cap = script(make_response(429, b"", Retry_After="60"), "accepted")
    assert (await fake_delivery(at_the_cap, retry=policy).send()).outcome is Outcome.SENT

    fake = fake_delivery(always(make_response(429, b"", Retry_After="61")), retry=policy)
    started_at = fake.clock.now
    result = await fake.send()

    assert result.attempts == 1
    assert isinstance(result.error, ThrottledError)
    assert (result.error.status, result.error.retry_after_s) == (429, 61)
    assert "asked to wait 61 s" in result.error.message
    assert result.error.message.endswith("longer than retry_after_cap_s (60 s) allows")
    assert fake.clock.now == started_at


async def test_a_cool_down_is_for_all_orders_and_costs_no_other_order_an_attempt() -> None:
    fake = fake_delivery(
        script(make_response(429, b"", Retry_After="9"), *["accepted"] * 10),
        pacing=Pacing(max_concurrency=1, adaptive=False),
    )
    started_at = fake.clock.now
    reading = await fake.read(orders(10), concurrency=10)

    assert reading.outcomes == [Outcome.SENT] * 10
    assert sorted(result.attempts for result in reading.results) == [1] * 9 + [2]
    assert all(when - started_at >= 9 for when in fake.transport.times[1:])


# ------------------------------------------------------------------------------------- the budget


async def test_accepted_orders_earn_retries_back() -> None:
    policy = RetryPolicy(base_s=0.001, cap_s=0.001, attempts=2)
    ends = itertools.cycle(["throttled", *["accepted"] * 5])
    fake = fake_delivery(lambda _body: end_with(next(ends)), retry=policy)
    results = [await fake.send(order(number)) for number in range(600)]

    assert {result.outcome for result in results} == {Outcome.SENT}
    assert len(fake.transport.bodies) == 720  # 120 refusals, all of them retried


# ------------------------------------------------------------------------------------ one order


async def test_calls_that_wait_in_trouble_end_by_their_deadline_and_then_fail_at_once() -> None:
    fake = fake_delivery(
        always("failed"), retry=RetryPolicy(deadline_s=10), pacing=Pacing(max_concurrency=32)
    )
    fake.pacer.on_answered(fake.clock.now)  # it had answered before

    async def call() -> tuple[type[EverlyticError], float]:
        started_at = fake.clock.now
        with pytest.raises(EverlyticError) as caught:
            await fake.sender.send(order(1), StopToken())
        return type(caught.value), fake.clock.now - started_at

    async def calls(count: int) -> list[tuple[type[EverlyticError], float]]:
        return await asyncio.gather(*(call() for _ in range(count)))

    first = await fake.clock.run(calls(200))
    assert all(elapsed_s <= 10.001 for _, elapsed_s in first)
    assert [kind for kind, _ in first].count(NotSentError) > 100
    posts = len(fake.transport.bodies)
    assert posts <= 32 + 5 + 20

    for _ in range(5):  # it has given up: at most one probe a pause, and no call waits
        later = await fake.clock.run(calls(50))
        assert max(elapsed_s for _, elapsed_s in later) == 0
    assert len(fake.transport.bodies) <= posts + 5


# ------------------------------------------------------------------------------ with the sandbox


async def test_send_order_raises_the_last_error_with_the_number_of_attempts() -> None:
    async with sandbox_client(Sandbox(faults=Faults(throttled=1.0))) as (sandbox, client):
        with pytest.raises(ThrottledError) as caught:
            await client.send_order(order(1))

    assert caught.value.attempts == 5 == sandbox.requests
    assert caught.value.status == 429
