"""Faults: their settings, how they are drawn, the limiter, and what a client meets."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from fractions import Fraction

import aiohttp
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from everlytic_async.sandbox import Faults, Sandbox
from everlytic_async.sandbox._faults import FaultKind, FaultSampler, LeakyBucket
from support.servers import until

SHARES = ["throttled", "unavailable", "server_error", "dropped_before", "dropped_after"]


# -------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("name", "value", "kind", "message"),
    [
        *(
            (name, share, ValueError, "a share between 0 and 1, not ")
            for name in [*SHARES, "server_error_processes"]
            for share in (-0.01, 1.01, math.nan, math.inf)
        ),
        *(
            (name, value, ValueError, "")
            for name, values in {
                "latency_s": [-1],
                "latency_jitter_s": [math.inf],
                "retry_after_s": [-1, math.nan],
                "rate": [0, math.inf],
                "burst": [-1],
                "max_in_flight": [0],
            }.items()
            for value in values
        ),
        *(
            (name, value, TypeError, "")
            for name, values in {
                "seed": [1.5, None],
                "latency_s": ["1", None],
                "throttled": [True],
                "burst": [1.0],
                "max_in_flight": [2.5],
            }.items()
            for value in values
        ),
    ],
)
def test_a_wrong_figure_is_refused_by_name(name, value, kind, message):
    with pytest.raises(kind, match=f"{name} must be {message}"):
        Faults(**{name: value})


def test_shares_are_at_most_1_together():
    with pytest.raises(ValueError, match=r"at most 1 together, not 1\.2"):
        Faults(throttled=0.6, dropped_after=0.6)
    shares = {"throttled": 0.3, "unavailable": 0.3, "server_error": 0.2}
    # As floats these are a little more than 1.
    faults = Faults(**shares, server_error_processes=0.3, dropped_before=0.1, dropped_after=0.1)
    assert FaultKind.SERVED not in {kind for kind, _latency_s in drawn(faults, count=10_000)}


# ------------------------------------------------------------------------------- drawing

MIXED = {"throttled": 0.1, "unavailable": 0.1, "server_error": 0.2, "dropped_after": 0.1}


def drawn(faults, count=1_000):
    sampler = FaultSampler(faults)
    return [sampler.next() for _ in range(count)]


def test_a_seed_repeats_every_fault_and_latency():
    faults = Faults(seed=7, latency_s=1, latency_jitter_s=2, **MIXED)

    assert drawn(faults) == drawn(faults)
    assert drawn(Faults(seed=1, **MIXED)) != drawn(Faults(seed=2, **MIXED))
    assert set(drawn(Faults())) == {(FaultKind.SERVED, 0.0)}


def test_faults_come_in_their_shares():
    counts = Counter(kind for kind, _ in drawn(Faults(**MIXED), count=20_000))

    kinds = {*FaultKind} - {FaultKind.DROPPED_BEFORE}
    expected = dict.fromkeys(kinds, 0.1) | {FaultKind.SERVED: 0.5}
    assert counts.keys() == expected.keys()
    for kind, share in expected.items():
        assert counts[kind] / 20_000 == pytest.approx(share, abs=0.01)


def test_latency_is_the_figure_and_up_to_the_jitter():
    latencies = [latency_s for _, latency_s in drawn(Faults(latency_s=3, latency_jitter_s=2))]

    assert min(latencies) == pytest.approx(3, abs=0.05)
    assert max(latencies) == pytest.approx(5, abs=0.05)
    assert all(3 <= latency_s <= 5 for latency_s in latencies)


# --------------------------------------------------------------------------------- limiter


@given(
    rate=st.integers(1, 1_000),
    burst=st.integers(0, 20),
    gaps=st.lists(st.fractions(0, 1, max_denominator=2_000), max_size=80),
)
@example(rate=10, burst=3, gaps=[Fraction(0)] * 6)  # the burst and one more
@example(rate=10, burst=0, gaps=[Fraction(1, 20)] * 10)  # at the rate and in between
@example(rate=10, burst=1, gaps=[Fraction(gap) for gap in (0, 0, 0, 1_000, 0, 0)])  # idleness
def test_a_request_passes_if_and_only_if_no_window_would_hold_more_than_the_limit(
    rate, burst, gaps
):
    now, passed = Fraction(0), []
    bucket = LeakyBucket(rate, burst, clock=lambda: now)
    for gap in gaps:
        now += gap
        # A window that starts with the n-th last one that passed would hold that and this one.
        fits = all(
            held + 1 <= burst + 1 + rate * (now - start)
            for held, start in enumerate(reversed(passed), start=1)
        )
        assert bucket.admit() == fits
        if fits:
            passed.append(now)


async def test_the_sandbox_answers_429_beyond_the_rate(shop, sample):
    a_day = Faults(rate=1 / 86_400, burst=2, retry_after_s=3)
    async with Sandbox(faults=a_day) as sandbox:
        answers = [await shop.post(sandbox, sample) for _ in range(5)]

        assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
        assert answers[-1].headers["Retry-After"] == "3"
        assert (sandbox.requests, sandbox.processed) == (5, 3)
        assert sandbox.statuses == {200: 3, 429: 2}


async def test_the_sandbox_answers_429_beyond_the_limit_in_flight(shop, sample):
    async with Sandbox(faults=Faults(max_in_flight=2, latency_s=3_600)) as sandbox:
        waiting = [asyncio.create_task(shop.post(sandbox, sample)) for _ in range(2)]
        await until(lambda: sandbox.in_flight == 2)
        assert (await shop.post(sandbox, sample)).status == 429
        assert (sandbox.in_flight, sandbox.peak_in_flight) == (2, 3)
    ends = await asyncio.gather(*waiting, return_exceptions=True)

    assert all(isinstance(end, aiohttp.ServerDisconnectedError) for end in ends)
    assert sandbox.processed == 0


async def test_a_place_in_flight_is_given_back_after_every_end(shop, sample):
    faults = Faults(max_in_flight=1, dropped_before=0.2, server_error=0.2, throttled=0.2)
    async with Sandbox(faults=faults) as sandbox:
        for _ in range(50):
            await end(shop, sandbox, sample)
        await shop.post(sandbox, {})

        expected = Counter(kind for kind, _ in drawn(faults, count=51))
        assert (sandbox.in_flight, sandbox.peak_in_flight) == (0, 1)
        assert sandbox.statuses[429] == expected[FaultKind.THROTTLED]


# ------------------------------------------------------------------------ at the connection


async def end(shop, sandbox, order):
    """How a request ends: its status, or 0 without a response."""
    try:
        return (await shop.post(sandbox, order)).status
    except aiohttp.ServerDisconnectedError:
        return 0


@pytest.mark.parametrize(("share", "status"), [("throttled", 429), ("unavailable", 503)])
async def test_busy_responses_carry_retry_after_and_process_nothing(shop, sample, share, status):
    for retry_after_s, header in (
        (None, None),
        (0, "0"),
        (2, "2"),
        (2.0, "2"),
        (0.25, "0.250"),
    ):
        faults = Faults(**{share: 1.0}, retry_after_s=retry_after_s)
        async with Sandbox(faults=faults) as sandbox:
            answer = await shop.post(sandbox, sample)

            assert (answer.status, answer.body["status"]) == (status, "error")
            assert answer.headers.get("Retry-After") == header
            assert (sandbox.requests, sandbox.processed, sandbox.received) == (1, 0, [])


@pytest.mark.parametrize("processes", [0.0, 1.0, 0.5])
async def test_a_server_error_comes_before_or_after_processing_as_asked(shop, sample, processes):
    shares = {} if processes == 0.5 else {"server_error_processes": processes}
    faults = Faults(server_error=1.0, retry_after_s=1, **shares)
    async with Sandbox(faults=faults) as sandbox:
        answers = [await shop.post(sandbox, sample) for _ in range(40)]

        assert {answer.status for answer in answers} == {500}
        assert not any("Retry-After" in answer.headers for answer in answers)
        counts = Counter(kind for kind, _ in drawn(faults, count=40))
        assert sandbox.processed == counts[FaultKind.FAILED_AFTER]
        assert sandbox.processed == pytest.approx(40 * processes, abs=10 * (processes == 0.5))


@pytest.mark.parametrize(("share", "processed"), [("dropped_before", 0), ("dropped_after", 1)])
async def test_a_dropped_connection_ends_without_a_response(shop, sample, share, processed):
    async with Sandbox(faults=Faults(**{share: 1.0})) as sandbox:
        assert await end(shop, sandbox, sample) == 0
        assert (sandbox.processed, len(sandbox.received)) == (processed, processed)
        assert (sandbox.requests, sandbox.dropped, sandbox.statuses) == (1, 1, {})


async def test_a_bad_request_is_refused_even_if_a_fault_after_it_is_drawn(shop, sample):
    async with Sandbox(faults=Faults(dropped_after=1.0)) as sandbox:
        assert await end(shop, sandbox, {}) == 400
        assert (sandbox.processed, sandbox.dropped) == (0, 0)
