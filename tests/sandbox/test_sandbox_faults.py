"""Faults: their settings, the fates drawn from them, the limiter, and what a client meets."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from fractions import Fraction

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlytic_async.sandbox import Faults, Sandbox
from everlytic_async.sandbox._faults import Fate, Fates, LeakyBucket

SHARES = [
    "throttled",
    "unavailable",
    "server_error",
    "dropped_before",
    "dropped_after",
]


# -------------------------------------------------------------------------------- settings


@pytest.mark.parametrize("name", [*SHARES, "server_error_processes"])
@pytest.mark.parametrize("share", [-0.01, 1.01, math.nan, math.inf])
def test_a_share_outside_of_0_to_1_is_refused_by_name(name, share):
    with pytest.raises(ValueError, match=f"{name} must be a share between 0 and 1"):
        Faults(**{name: share})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("latency_s", -1),
        ("latency_jitter_s", math.inf),
        ("retry_after_s", -1),
        ("retry_after_s", math.nan),
        ("rate", 0),
        ("rate", math.inf),
        ("burst", -1),
        ("max_in_flight", 0),
    ],
)
def test_a_figure_outside_of_its_range_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        Faults(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 1.5),
        ("seed", None),
        ("latency_s", "1"),
        ("latency_s", None),
        ("throttled", True),
        ("burst", 1.0),
        ("max_in_flight", 2.5),
    ],
)
def test_a_figure_of_another_type_is_refused_by_name(name, value):
    with pytest.raises(TypeError, match=f"{name} must be"):
        Faults(**{name: value})


def test_shares_of_more_than_1_together_are_refused():
    with pytest.raises(ValueError, match=r"at most 1 together, not 1\.2"):
        Faults(throttled=0.6, dropped_after=0.6)


def test_shares_that_are_1_together_on_paper_are_accepted():
    faults = Faults(
        throttled=0.3,
        unavailable=0.3,
        server_error=0.2,
        server_error_processes=0.3,
        dropped_before=0.1,
        dropped_after=0.1,
    )
    fates = Fates(faults)

    assert Fate.SERVED not in {fates.draw()[0] for _ in range(10_000)}


# ----------------------------------------------------------------------------------- fates

MIXED = {"throttled": 0.1, "unavailable": 0.1, "server_error": 0.2, "dropped_after": 0.1}


def drawn(faults, count=1_000):
    fates = Fates(faults)
    return [fates.draw() for _ in range(count)]


def test_a_seed_repeats_every_fate_and_latency():
    faults = Faults(seed=7, latency_s=1, latency_jitter_s=2, **MIXED)

    assert drawn(faults) == drawn(faults)


def test_another_seed_draws_another_run():
    assert drawn(Faults(seed=1, **MIXED)) != drawn(Faults(seed=2, **MIXED))


def test_fates_come_in_their_shares():
    counts = Counter(fate for fate, _ in drawn(Faults(**MIXED), count=20_000))

    expected = {
        Fate.SERVED: 0.5,
        Fate.THROTTLED: 0.1,
        Fate.UNAVAILABLE: 0.1,
        Fate.FAILED_BEFORE: 0.1,
        Fate.FAILED_AFTER: 0.1,
        Fate.DROPPED_AFTER: 0.1,
    }
    assert counts.keys() == expected.keys()
    for fate, share in expected.items():
        assert counts[fate] / 20_000 == pytest.approx(share, abs=0.01)


def test_latency_is_the_figure_and_up_to_the_jitter():
    latencies = [latency_s for _, latency_s in drawn(Faults(latency_s=3, latency_jitter_s=2))]

    assert min(latencies) == pytest.approx(3, abs=0.05)
    assert max(latencies) == pytest.approx(5, abs=0.05)
    assert all(3 <= latency_s <= 5 for latency_s in latencies)


def test_without_faults_every_request_is_served_at_once():
    assert set(drawn(Faults())) == {(Fate.SERVED, 0.0)}


# --------------------------------------------------------------------------------- limiter


class Clock:
    """Exact seconds, moved by hand."""

    def __init__(self):
        self.now = Fraction(0)

    def __call__(self):
        return self.now


def passed_at(rate, burst, gaps):
    """For each request: when it came, and whether it passed."""
    clock = Clock()
    bucket = LeakyBucket(rate, burst, clock=clock)
    outcome = []
    for gap in gaps:
        clock.now += gap
        outcome.append((clock.now, bucket.admit()))
    return outcome


@given(
    rate=st.integers(1, 1_000),
    burst=st.integers(0, 20),
    gaps=st.lists(st.fractions(0, 1, max_denominator=2_000), max_size=80),
)
def test_a_request_passes_if_and_only_if_no_window_would_hold_more_than_the_limit(
    rate, burst, gaps
):
    passed = []
    for now, admitted in passed_at(rate, burst, gaps):
        # A window that begins with the n-th last one that passed would hold that and this one.
        fits = all(
            held + 1 <= burst + 1 + rate * (now - start)
            for held, start in enumerate(reversed(passed), start=1)
        )
        assert fits == admitted
        if admitted:
            passed.append(now)


def test_the_burst_and_one_more_pass_at_once():
    outcome = [admitted for _, admitted in passed_at(10, 3, [0] * 6)]

    assert outcome == [True, True, True, True, False, False]


def test_requests_at_the_rate_always_pass_and_those_in_between_never():
    outcome = [admitted for _, admitted in passed_at(10, 0, [Fraction(1, 20)] * 10)]

    assert outcome == [True, False] * 5


def test_an_idle_bucket_saves_up_no_more_than_the_burst():
    outcome = [admitted for _, admitted in passed_at(10, 1, [0, 0, 0, 1_000, 0, 0])]

    assert outcome == [True, True, False, True, True, False]


async def test_the_sandbox_answers_429_beyond_the_rate(shop, sample):
    a_day = Faults(rate=1 / 86_400, burst=2, retry_after_s=3)
    async with Sandbox(faults=a_day) as sandbox:
        answers = [await shop.post(sandbox, sample) for _ in range(5)]

        assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
        assert answers[-1].headers["Retry-After"] == "3"
        assert (sandbox.requests, sandbox.processed) == (5, 3)
        assert sandbox.statuses == {200: 3, 429: 2}


async def test_the_sandbox_answers_429_beyond_the_limit_in_flight(shop, sample, until):
    async with Sandbox(faults=Faults(max_in_flight=2, latency_s=3_600)) as sandbox:
        waiting = [asyncio.create_task(shop.post(sandbox, sample)) for _ in range(2)]
        await until(lambda: sandbox.in_flight == 2)
        answer = await shop.post(sandbox, sample)

        assert answer.status == 429
        assert sandbox.peak_in_flight == 3
        assert sandbox.in_flight == 2
    broken_off = await asyncio.gather(*waiting, return_exceptions=True)

    assert all(isinstance(end, aiohttp.ServerDisconnectedError) for end in broken_off)
    assert sandbox.processed == 0


async def test_a_place_in_flight_is_given_back_after_every_end(shop, sample):
    faults = Faults(max_in_flight=1, dropped_before=0.2, server_error=0.2, throttled=0.2)
    async with Sandbox(faults=faults) as sandbox:
        for _ in range(50):
            try:
                await shop.post(sandbox, sample)
            except aiohttp.ServerDisconnectedError:
                continue
        await shop.post(sandbox, {})

        expected = Counter(fate for fate, _ in drawn(faults, count=51))
        assert sandbox.in_flight == 0
        assert sandbox.peak_in_flight == 1
        assert sandbox.statuses[429] == expected[Fate.THROTTLED]


# ------------------------------------------------------------------------ at the connection


@pytest.mark.parametrize(("share", "status"), [("throttled", 429), ("unavailable", 503)])
@pytest.mark.parametrize(
    ("asked_s", "header"), [(None, None), (0, "0"), (2, "2"), (2.0, "2"), (0.25, "0.250")]
)
async def test_busy_answers_carry_retry_after_and_process_nothing(
    shop, sample, share, status, asked_s, header
):
    faults = Faults(**{share: 1.0}, retry_after_s=asked_s)
    async with Sandbox(faults=faults) as sandbox:
        answer = await shop.post(sandbox, sample)

        assert answer.status == status
        assert answer.body["status"] == "error"
        assert answer.headers.get("Retry-After") == header
        assert (sandbox.requests, sandbox.processed, sandbox.received) == (1, 0, [])


@pytest.mark.parametrize(("processes", "processed"), [(0.0, 0), (1.0, 20)])
async def test_a_server_error_comes_before_or_after_processing_as_asked(
    shop, sample, processes, processed
):
    faults = Faults(server_error=1.0, server_error_processes=processes, retry_after_s=1)
    async with Sandbox(faults=faults) as sandbox:
        answers = [await shop.post(sandbox, sample) for _ in range(20)]

        assert {answer.status for answer in answers} == {500}
        assert not any("Retry-After" in answer.headers for answer in answers)
        assert sandbox.processed == processed


async def test_half_of_the_server_errors_come_after_processing_by_default(shop, sample):
    faults = Faults(server_error=1.0)
    async with Sandbox(faults=faults) as sandbox:
        for _ in range(40):
            assert (await shop.post(sandbox, sample)).status == 500

        counts = Counter(fate for fate, _ in drawn(faults, count=40))
        assert sandbox.processed == counts[Fate.FAILED_AFTER]
        assert 10 <= sandbox.processed <= 30


@pytest.mark.parametrize(("share", "processed"), [("dropped_before", 0), ("dropped_after", 1)])
async def test_a_dropped_connection_ends_without_an_answer(shop, sample, share, processed):
    async with Sandbox(faults=Faults(**{share: 1.0})) as sandbox:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await shop.post(sandbox, sample)

        assert (sandbox.processed, len(sandbox.received)) == (processed, processed)
        assert (sandbox.requests, sandbox.dropped, sandbox.statuses) == (1, 1, {})


async def test_a_bad_request_is_refused_even_where_its_fate_is_to_fail_after(shop, sample):
    async with Sandbox(faults=Faults(dropped_after=1.0)) as sandbox:
        answer = await shop.post(sandbox, {})

        assert answer.status == 400
        assert (sandbox.processed, sandbox.dropped) == (0, 0)


async def test_a_seeded_run_repeats_itself_at_the_connection(shop, sample):
    faults = Faults(
        seed=3,
        throttled=0.2,
        unavailable=0.2,
        server_error=0.2,
        dropped_before=0.1,
        dropped_after=0.1,
    )

    async def run():
        ends = []
        async with Sandbox(faults=faults) as sandbox:
            for _ in range(60):
                try:
                    ends.append((await shop.post(sandbox, sample)).status)
                except aiohttp.ServerDisconnectedError:
                    ends.append(0)
            return ends, sandbox.processed

    first = await run()

    assert set(first[0]) == {0, 200, 429, 500, 503}
    assert first == await run()
