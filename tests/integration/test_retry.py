"""When an order is tried again, and what all its attempts together say of it.

The clock is moved by the tests, and the endpoint is a script; what must hold of a real endpoint's
counters is shown against a server.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from email.utils import formatdate
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlytic_async import (
    ConnectionLostError,
    Delivery,
    EverlyticClient,
    EverlyticError,
    NotSentError,
    OrderResult,
    Outcome,
    Pacing,
    RejectedError,
    RetryPolicy,
    ServerError,
    ThrottledError,
    UnexpectedResponseError,
    UnknownOutcomeError,
)
from everlytic_async._stop_token import StopToken
from everlytic_async.events import AttemptEnded, AttemptStarted, BackingOff, OrderEnded
from everlytic_async.sandbox import Faults, Sandbox
from support.delivery import (
    ENDS,
    QUICK,
    TENACIOUS,
    a_rig,
    an_answer,
    order,
    orders,
    script,
    shop,
)
from support.servers import Connection, RawServer

AT_LEAST_ONCE = Delivery.AT_LEAST_ONCE
SAFE = ("throttled", "busy", "unreachable")
AMBIGUOUS = ("failed", "late", "lost", "silent")
FINAL = ("accepted", "rejected")


# -------------------------------------------------------------------------- which are tried again


@pytest.mark.parametrize("end", SAFE)
async def test_an_order_surely_not_processed_is_tried_until_the_attempts_are_used_up(
    end: str,
) -> None:
    rig = a_rig(script(*[end] * 5))
    result = await rig.send()

    assert result.outcome is Outcome.NOT_SENT
    assert len(rig.transport.bodies) == 5
    assert result.attempts == 5
    assert result.error is not None
    assert result.error.attempts == 5
    assert not result.error.may_have_been_processed
    assert not result.duplicate_risk


@pytest.mark.parametrize("end", SAFE)
async def test_a_later_success_is_the_whole_orders(end: str) -> None:
    rig = a_rig(script(end, end, "accepted"))
    result = await rig.send()

    assert result.outcome is Outcome.SENT
    assert result.receipt is not None
    assert (result.attempts, result.receipt.attempts) == (3, 3)
    assert not result.duplicate_risk
    assert result.error is None


@pytest.mark.parametrize("end", ["rejected", *AMBIGUOUS])
async def test_at_most_once_never_repeats_what_may_have_been_processed(end: str) -> None:
    rig = a_rig(script(end))
    result = await rig.send()

    assert len(rig.transport.bodies) == 1
    assert result.attempts == 1
    assert result.outcome is (Outcome.REJECTED if end == "rejected" else Outcome.UNKNOWN)


@pytest.mark.parametrize("end", AMBIGUOUS)
async def test_at_most_once_does_not_repeat_it_after_a_safe_retry_either(end: str) -> None:
    rig = a_rig(script("throttled", end))
    result = await rig.send()

    assert len(rig.transport.bodies) == 2
    assert result.outcome is Outcome.UNKNOWN


@pytest.mark.parametrize("end", AMBIGUOUS)
async def test_at_least_once_repeats_it_and_says_that_it_may_be_a_duplicate(end: str) -> None:
    rig = a_rig(script(end, "accepted"), delivery=AT_LEAST_ONCE)
    result = await rig.send()

    assert result.outcome is Outcome.SENT
    assert result.attempts == 2
    assert result.duplicate_risk


@pytest.mark.parametrize("delivery", Delivery)
@pytest.mark.parametrize(
    "answer",
    [
        an_answer(400),
        an_answer(401),
        an_answer(302),
        an_answer(404),
        an_answer(200, b'{"status":"error","message":"no such workflow"}'),
    ],
    ids=lambda answer: str(answer.status),
)
async def test_a_refusal_is_never_repeated(answer: Any, delivery: Delivery) -> None:
    rig = a_rig(script(answer), delivery=delivery)
    result = await rig.send()

    expected = Outcome.NOT_SENT if answer.status == 401 else Outcome.REJECTED
    assert result.outcome is expected
    assert len(rig.transport.bodies) == 1


async def test_every_attempt_posts_the_same_bytes() -> None:
    rig = a_rig(script("throttled", "unreachable", "accepted"))
    await rig.send()

    assert len(set(rig.transport.bodies)) == 1
    assert json.loads(rig.transport.bodies[0])["order_id"] == "1"


async def test_one_attempt_means_no_retry() -> None:
    rig = a_rig(script("throttled"), retry=RetryPolicy(attempts=1))
    result = await rig.send()

    assert result.outcome is Outcome.NOT_SENT
    assert len(rig.transport.bodies) == 1


# ------------------------------------------------------------------ what all attempts say together


@pytest.mark.parametrize("last", ["unreachable", "throttled", "rejected"])
async def test_an_ambiguous_attempt_is_not_unsaid_by_a_later_one(last: str) -> None:
    policy = RetryPolicy(attempts=2)
    # An outage is probed for as long as the deadline allows.
    rig = a_rig(script("lost", *[last] * 50), delivery=AT_LEAST_ONCE, retry=policy)
    result = await rig.send()

    assert result.outcome is Outcome.UNKNOWN
    assert isinstance(result.error, ConnectionLostError)
    assert result.error.may_have_been_processed
    assert result.attempts == 2 or (last == "unreachable" and result.attempts > 2)
    assert not result.duplicate_risk  # processed once at most


async def test_the_error_tells_of_the_ambiguous_attempt_and_of_the_last() -> None:
    policy = RetryPolicy(attempts=2)
    rig = a_rig(script("failed", *["unreachable"] * 50), delivery=AT_LEAST_ONCE, retry=policy)
    result = await rig.send()

    assert isinstance(result.error, ServerError)
    assert result.error.status == 500
    assert "500" in result.error.message
    assert "a later attempt: the order was not sent to shop.example" in result.error.message


async def test_two_ambiguous_attempts_risk_a_duplicate_though_none_is_known_to_be_sent() -> None:
    policy = RetryPolicy(attempts=2)
    rig = a_rig(script("failed", "lost"), delivery=AT_LEAST_ONCE, retry=policy)
    result = await rig.send()

    assert result.outcome is Outcome.UNKNOWN
    assert result.duplicate_risk


@given(
    ends=st.lists(st.sampled_from(sorted(ENDS)), min_size=12, max_size=12).map(
        lambda ends: [*ends, "rejected"]  # an outage may be probed for longer than the list
    ),
    delivery=st.sampled_from(Delivery),
    attempts=st.integers(1, 6),
    adaptive=st.booleans(),
)
def test_whatever_the_attempts_end_like_the_result_says_no_more_than_is_known(
    ends: list[str], delivery: Delivery, attempts: int, *, adaptive: bool
) -> None:
    rig = a_rig(
        script(*ends),
        delivery=delivery,
        retry=RetryPolicy(attempts=attempts),
        pacing=Pacing(adaptive=adaptive),
    )
    result = asyncio.run(rig.send())

    made = ends[: len(rig.transport.bodies)]
    perhaps_processed = [end for end in made if end in (*AMBIGUOUS, "accepted")]
    assert 1 <= result.attempts == len(made)
    # No more than the policy allows, but for the probes of an outage.
    assert set(made[attempts - 1 : -1]) <= ({"unreachable"} if attempts > 1 else set())
    assert result.duplicate_risk == (len(perhaps_processed) > 1)
    if made[-1] == "accepted":
        assert result.outcome is Outcome.SENT
    elif perhaps_processed:
        assert result.outcome is Outcome.UNKNOWN
        assert isinstance(result.error, UnknownOutcomeError)
    elif made[-1] == "rejected":
        assert result.outcome is Outcome.REJECTED
    else:
        assert result.outcome is Outcome.NOT_SENT
    if delivery is Delivery.AT_MOST_ONCE:
        assert len(perhaps_processed) <= 1
        assert all(end in SAFE for end in made[:-1])
    else:
        assert all(end in (*SAFE, *AMBIGUOUS) for end in made[:-1])
    assert rig.pacer.in_flight == 0


# ---------------------------------------------------------------------------------------- pauses


def pauses_of(events: list[Any]) -> list[float]:
    return [event.wait_s for event in events if isinstance(event, BackingOff)]


@pytest.mark.parametrize("end", ["throttled", "unreachable", "lost"])
async def test_pauses_have_full_jitter_under_a_doubling_ceiling(end: str) -> None:
    policy = RetryPolicy(attempts=7, base_s=1, cap_s=8, deadline_s=1_000)
    longest, shortest = [0.0] * 6, [1_000.0] * 6
    for seed in range(80):
        rig = a_rig(script(*[end] * 7), retry=policy, delivery=AT_LEAST_ONCE, seed=seed)
        await rig.send()
        pauses = pauses_of(rig.events)
        assert len(pauses) == 6
        longest = [max(pair) for pair in zip(longest, pauses, strict=True)]
        shortest = [min(pair) for pair in zip(shortest, pauses, strict=True)]

    for ceiling, most, least in zip([1, 2, 4, 8, 8, 8], longest, shortest, strict=True):
        assert 0.9 * ceiling < most <= ceiling
        assert 0 <= least < 0.1 * ceiling


async def test_each_attempt_waits_for_the_pause_that_was_told() -> None:
    rig = a_rig(script("throttled", "lost", "unreachable", "accepted"), delivery=AT_LEAST_ONCE)
    await rig.send()

    times = rig.transport.times
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps == pytest.approx(pauses_of(rig.events))


@pytest.mark.parametrize("seed", range(10))
async def test_no_pause_is_begun_that_would_end_after_the_deadline(seed: int) -> None:
    policy = RetryPolicy(attempts=1_000, base_s=4, cap_s=16, deadline_s=60)
    rig = a_rig(lambda _body: ENDS["lost"](), retry=policy, delivery=AT_LEAST_ONCE, seed=seed)
    began = rig.clock.now
    result = await rig.send()

    assert result.outcome is Outcome.UNKNOWN
    assert rig.transport.times[-1] - began < 60
    assert rig.clock.now - began < 60  # nobody slept on for nothing
    assert result.attempts > 3


async def test_the_deadline_runs_from_the_first_attempt_not_from_the_queue() -> None:
    policy = RetryPolicy(base_s=0.001, cap_s=0.001, deadline_s=5)
    rig = a_rig(
        script(an_answer(429, b"", Retry_After="100"), "throttled", "accepted"),
        retry=policy,
    )
    first = await rig.send()  # too long for its deadline; and all others wait
    assert (first.outcome, first.attempts) == (Outcome.NOT_SENT, 1)
    second = await rig.send()

    assert (second.outcome, second.attempts) == (Outcome.SENT, 2)
    assert second.elapsed_s >= 100


@pytest.mark.parametrize("adaptive", [True, False])
async def test_no_order_waits_for_its_next_turn_beyond_the_deadline(*, adaptive: bool) -> None:
    rig = a_rig(
        lambda _body: ENDS["throttled"](),
        retry=RetryPolicy(attempts=1_000, deadline_s=3),
        pacing=Pacing(max_concurrency=8, max_rate=1, adaptive=adaptive),
    )

    async def read() -> list[OrderResult]:
        async with rig.stream(orders(8), concurrency=8) as stream:
            return [result async for result in stream]

    results = await rig.clock.run(read())

    assert [result.outcome for result in results] == [Outcome.NOT_SENT] * 8
    assert {type(result.error) for result in results} == {ThrottledError}
    began: dict[str | None, float] = {}
    for event in rig.events:
        if isinstance(event, AttemptStarted):
            began.setdefault(event.key, event.at)
        elif isinstance(event, OrderEnded):
            assert event.at - began[event.key] <= 3
    assert rig.pacer.in_flight == 0


# ------------------------------------------------------------------------------------ Retry-After


async def test_the_pause_that_a_late_503_asks_for_is_everybodys() -> None:
    late = attrs.evolve(an_answer(503, b"", Retry_After="7"), waited_s=6)
    rig = a_rig(script(late, "accepted"))
    unknown, sent = await rig.send(), await rig.send(order(2))

    assert [unknown.outcome, sent.outcome] == [Outcome.UNKNOWN, Outcome.SENT]
    assert len(set(rig.transport.bodies)) == 2
    assert 7 <= rig.transport.times[1] - rig.transport.times[0] <= 7 * 1.05


@pytest.mark.parametrize("status", [429, 503, 408])
async def test_a_retry_after_is_honoured(status: int) -> None:
    rig = a_rig(script(an_answer(status, b"", Retry_After="7"), "accepted"))
    result = await rig.send()

    assert result.outcome is Outcome.SENT
    waited = rig.transport.times[1] - rig.transport.times[0]
    assert 7 <= waited <= 7 * 1.05


async def test_a_retry_after_that_is_a_date_is_honoured() -> None:
    # The date is of the wall's clock, in whole seconds; what it says is turned into a pause once.
    date = formatdate(timeval=None, usegmt=True)
    rig = a_rig(script(an_answer(429, b"", Retry_After=date), "accepted"))
    await rig.send()
    assert rig.transport.times[1] - rig.transport.times[0] < 1

    date = formatdate(timeval=time.time() + 30, usegmt=True)
    rig = a_rig(script(an_answer(429, b"", Retry_After=date), "accepted"))
    await rig.send()
    assert 25 <= rig.transport.times[1] - rig.transport.times[0] <= 30 * 1.05


async def test_a_retry_after_at_the_cap_is_waited_for() -> None:
    policy = RetryPolicy(retry_after_cap_s=60)
    rig = a_rig(script(an_answer(429, b"", Retry_After="60"), "accepted"), retry=policy)

    assert (await rig.send()).outcome is Outcome.SENT


async def test_a_retry_after_over_the_cap_ends_the_order_with_the_figure_in_the_error() -> None:
    policy = RetryPolicy(retry_after_cap_s=60)
    rig = a_rig(script(an_answer(429, b"", Retry_After="61")), retry=policy)
    began = rig.clock.now
    result = await rig.send()

    assert result.outcome is Outcome.NOT_SENT
    assert result.attempts == 1
    assert isinstance(result.error, ThrottledError)
    assert (result.error.status, result.error.retry_after_s) == (429, 61)
    assert "asked to wait 61 s" in result.error.message
    assert result.error.message.endswith("longer than retry_after_cap_s (60 s) allows")
    assert rig.clock.now == began


async def test_a_cool_down_is_everybodys_and_costs_nobody_else_an_attempt() -> None:
    rig = a_rig(
        script(an_answer(429, b"", Retry_After="9"), *["accepted"] * 10),
        pacing=Pacing(max_concurrency=1, adaptive=False),
    )
    began = rig.clock.now

    async def all_of_them() -> list[OrderResult]:
        stop_token = StopToken()
        sends = (rig.deliver(n, order(n), stop_token) for n in range(10))
        return await asyncio.gather(*sends)

    results = await rig.clock.run(all_of_them())

    assert {result.outcome for result in results} == {Outcome.SENT}
    assert sorted(result.attempts for result in results) == [1] * 9 + [2]
    assert all(when - began >= 9 for when in rig.transport.times[1:])


# ------------------------------------------------------------------------------------- the budget


async def test_a_broken_endpoint_is_not_hammered() -> None:
    policy = RetryPolicy(base_s=0.001, cap_s=0.001)
    rig = a_rig(lambda _body: ENDS["throttled"](), retry=policy)
    for number in range(200):
        assert (await rig.send(order(number))).outcome is Outcome.NOT_SENT

    # A hundred retries are in the budget; then each order has its one attempt.
    assert len(rig.transport.bodies) == 200 + 100


async def test_successes_earn_retries_back() -> None:
    policy = RetryPolicy(base_s=0.001, cap_s=0.001, attempts=2)
    ends = itertools.cycle(["throttled", *["accepted"] * 5])
    rig = a_rig(lambda _body: ENDS[next(ends)](), retry=policy)
    results = [await rig.send(order(number)) for number in range(1_500)]

    assert {result.outcome for result in results} == {Outcome.SENT}
    assert len(rig.transport.bodies) > 1_790  # 300 refusals, all of them retried


# --------------------------------------------------------------------------- what events tell of it


async def test_every_attempt_is_told_with_its_own_verdict() -> None:
    rig = a_rig(script("throttled", "lost", "accepted"), delivery=AT_LEAST_ONCE)
    await rig.send()

    told = [event for event in rig.events if isinstance(event, AttemptEnded)]
    assert [(event.attempt, event.outcome, event.status) for event in told] == [
        (1, Outcome.NOT_SENT, 429),
        (2, Outcome.UNKNOWN, None),
        (3, Outcome.SENT, 200),
    ]


# -------------------------------------------------------------------------------- against a server


@pytest.mark.parametrize(
    "faults", [Faults(dropped_after=0.3), Faults(server_error=0.3, server_error_processes=1.0)]
)
async def test_at_most_once_the_server_never_sees_an_order_twice(faults: Faults) -> None:
    async with shop(Sandbox(faults=faults)) as (sandbox, client):
        report = await client.send_orders(orders(150))

    assert sandbox.requests == 150
    assert sandbox.processed == 150
    assert sandbox.duplicates == {}
    unknown = report.counts[Outcome.UNKNOWN]
    assert 20 < unknown < 80
    assert report.counts[Outcome.SENT] == 150 - unknown


async def test_at_least_once_every_order_arrives_and_each_duplicate_was_announced() -> None:
    faults = Faults(dropped_after=0.2, dropped_before=0.1, seed=3)
    async with shop(Sandbox(faults=faults), delivery=AT_LEAST_ONCE, retry=TENACIOUS) as (
        sandbox,
        client,
    ):
        report = await client.send_orders(orders(80))

    assert report.counts[Outcome.SENT] == 80
    at_risk = {result.key for result in report.results if result.duplicate_risk}
    assert len(sandbox.duplicates) > 5
    assert set(sandbox.duplicates) <= at_risk
    assert sandbox.requests == sum(result.attempts for result in report.results)


async def test_what_was_not_processed_is_retried_until_it_arrives_once() -> None:
    faults = Faults(throttled=0.2, unavailable=0.1, seed=1)
    pacing = Pacing(adaptive=False)
    async with shop(Sandbox(faults=faults), retry=TENACIOUS, pacing=pacing) as (sandbox, client):
        report = await client.send_orders(orders(80))

    assert report.counts[Outcome.SENT] == 80
    assert sandbox.processed == 80
    assert sandbox.duplicates == {}
    assert sandbox.requests == sum(result.attempts for result in report.results) > 90


async def test_send_order_raises_the_last_error_with_the_number_of_attempts() -> None:
    async with shop(Sandbox(faults=Faults(throttled=1.0))) as (sandbox, client):
        with pytest.raises(ThrottledError) as caught:
            await client.send_order(order(1))

    assert caught.value.attempts == 5 == sandbox.requests
    assert caught.value.status == 429


async def test_an_html_page_is_not_taken_for_a_success_and_not_repeated() -> None:
    async def login_page(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.answer(200, b"<!DOCTYPE html><title>Log in</title>")

    async with (
        RawServer(login_page) as server,
        EverlyticClient(
            server.url, store_hash="a" * 36, customer_hash="b" * 16, retry=QUICK
        ) as client,
    ):
        with pytest.raises(UnexpectedResponseError, match="address"):
            await client.send_order(order(1))
        assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        ("rejected", RejectedError),
        ("unreachable", NotSentError),
        ("throttled", ThrottledError),
        ("failed", ServerError),
        ("lost", ConnectionLostError),
    ],
)
async def test_the_classes_of_the_errors_are_the_documented_ones(
    end: str, kind: type[EverlyticError]
) -> None:
    result = await a_rig(lambda _body: ENDS[end]()).send()

    assert type(result.error) is kind
