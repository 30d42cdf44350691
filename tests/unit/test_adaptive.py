"""The limit finder behind the pacer, in simulated time, against limits of several kinds.

The bounds are what ten seeds and more came to, with a margin.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import statistics
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limited_endpoints import (
    Chance,
    ConcurrencyLimit,
    LeakyBucket,
    NoLimit,
    Simulation,
    TokenBucket,
)

from everlytic_async._adaptive import _REMEMBERED, LimitFinder, _Departures
from everlytic_async.policies import Pacing
from support.delivery import a_rig, an_answer, orders

ROUND = [(*pair, 0) for pair in itertools.product([100.0, 400.0, 1_000.0], [1, 20, 100])]
_RNG = random.Random(20)
#: Nobody tuned anything to these.
ODD = [(_RNG.uniform(100, 1_000), _RNG.randint(1, 100), seed) for seed in range(1, 7)]


def refused_share(simulation: Simulation, since: float = 0.0) -> float:
    refused = simulation.refused(since)
    return refused / (refused + simulation.accepted(since))


def lowest_share(simulation: Simulation, since: float) -> float:
    """What the one with the least came to, as a share of what would be fair."""
    clients = range(len(simulation.pacers))
    lowest = min(simulation.served(since, client) for client in clients)
    return lowest * len(clients) / simulation.served(since)


# ---------------------------------------------------------------------------- one limit, one client


@pytest.mark.parametrize(("rate", "burst", "seed"), [*ROUND, *ODD])
def test_a_rate_limit_is_found_and_held(rate: float, burst: int, seed: int) -> None:
    simulation = Simulation(LeakyBucket(rate, burst), seed=seed)
    simulation.run(20)

    # With a burst of 1 each early answer of a network that is not even is a refusal.
    assert simulation.served(since=5) >= (0.95 if burst >= 10 else 0.65) * rate
    assert refused_share(simulation) <= 0.02


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("rate", [100.0, 400.0, 700.0])
def test_a_bucket_that_hardly_holds_any_is_used_nearly_as_well(rate: float, seed: int) -> None:
    bucket = LeakyBucket(rate, 1, grain_s=0.001)
    simulation = Simulation(bucket, network_s=0.0005, seed=seed)
    simulation.run(20)

    assert simulation.served(since=5) >= 0.975 * rate
    assert refused_share(simulation, since=1) <= 0.005


@pytest.mark.parametrize("rate", [700.0, 1_000.0])
def test_what_fills_a_tight_bucket_by_chance_costs_hardly_any_of_its_rate(rate: float) -> None:
    shares = []
    for seed in range(8):
        bucket = LeakyBucket(rate, 1, grain_s=0.001, stalls_s=0.005)
        simulation = Simulation(bucket, network_s=0.0005, seed=seed)
        simulation.run(20)
        shares.append(simulation.served(since=5) / rate)
        assert refused_share(simulation, since=1) <= 0.01

    assert min(shares) >= 0.9


@pytest.mark.parametrize(("rate", "burst", "seed"), [*ROUND, *ODD])
def test_a_rate_limit_that_asks_for_a_second_is_probed_seldom(
    rate: float, burst: int, seed: int
) -> None:
    simulation = Simulation(LeakyBucket(rate, burst), retry_after_s=1.0, seed=seed)
    simulation.run(20)

    assert simulation.served(since=5) >= (0.88 if burst >= 10 else 0.6) * rate
    assert refused_share(simulation) <= 0.02
    since = [change.at for change in simulation.told[0].changes]
    assert len(since) <= 6  # a pause each


@pytest.mark.parametrize("retry_after_s", [None, 1.0])
@pytest.mark.parametrize(("rate", "tokens"), [(100.0, 21), (400.0, 2), (400.0, 21), (1_000.0, 101)])
def test_a_token_bucket_is_found_and_held(
    rate: float, tokens: int, retry_after_s: float | None
) -> None:
    simulation = Simulation(TokenBucket(rate, tokens), retry_after_s=retry_after_s)
    simulation.run(20)

    assert simulation.served(since=5) >= 0.88 * rate
    assert refused_share(simulation) <= 0.02


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("limit", "service_s"), [(4, 0.02), (20, 0.05), (32, 0.05)])
def test_a_limit_on_concurrent_requests_is_used(limit: int, service_s: float, seed: int) -> None:
    simulation = Simulation(ConcurrencyLimit(limit), service_s=service_s, seed=seed)
    simulation.run(20)

    assert simulation.served(since=5) >= 0.6 * limit / service_s
    assert refused_share(simulation) <= 0.04


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("limit", "service_s"), [(16, 0.05), (20, 0.05), (32, 0.05), (10, 0.2), (40, 0.3)]
)
def test_a_limit_on_concurrent_requests_that_asks_for_a_second_is_used_soon(
    limit: int, service_s: float, seed: int
) -> None:
    simulation = Simulation(
        ConcurrencyLimit(limit), service_s=service_s, retry_after_s=1.0, seed=seed
    )
    simulation.run(20)

    assert simulation.served(since=5) >= 0.75 * limit / service_s
    assert refused_share(simulation) <= 0.02
    assert simulation.pacers[0].rate() is None  # it is a window


def test_a_limit_on_concurrent_requests_that_rises_is_found_again() -> None:
    limiter = ConcurrencyLimit(16)
    simulation = Simulation(limiter, service_s=0.05, retry_after_s=1.0)
    simulation.run(20)
    limiter.limit = 32
    simulation.run(90)

    assert simulation.served(since=simulation.now - 15) >= 0.7 * 32 / 0.05


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("burst", [20, 40])
def test_a_rate_limit_in_front_of_a_slow_endpoint_is_held_as_well(burst: int, seed: int) -> None:
    simulation = Simulation(LeakyBucket(400, burst), service_s=0.05, retry_after_s=1.0, seed=seed)
    simulation.run(20)

    assert simulation.served(since=5) >= 0.7 * 400
    assert refused_share(simulation) <= 0.01


@pytest.mark.parametrize(
    ("rate", "burst"), [(100.0, 20), (400.0, 20), (1_000.0, 20), (1_000.0, 100)]
)
def test_a_limit_that_was_held_for_long_is_known_exactly(rate: float, burst: int) -> None:
    # From some ten thousand orders: more than are remembered one by one.
    simulation = Simulation(LeakyBucket(rate, burst), retry_after_s=1.0)
    simulation.run(150)

    limits = [change.limit for change in simulation.told[0].changes[2:]]
    assert len(limits) >= 2
    assert limits == [pytest.approx(rate, rel=0.0015)] * len(limits)


def as_they_are_answered(count: int, slow_s: float) -> list[tuple[float, float]]:
    """When orders left, 400 a second, and were answered: every other hundred after this long."""
    times = [
        (number / 400, number / 400 + (slow_s if number // 100 % 2 else 0.05))
        for number in range(count)
    ]
    return sorted(times, key=lambda left_and_heard: left_and_heard[1])


def test_what_is_remembered_of_a_sending_without_a_limit_takes_a_bounded_room() -> None:
    departures = _Departures()
    for left_at, heard_at in as_they_are_answered(300_000, slow_s=0.6):
        departures.add(left_at, heard_at)

    remembered = departures.between(-1.0, 300_000.0)
    assert len(remembered) <= 3 * _REMEMBERED
    assert sum(count for _, count in remembered) == 300_000


@pytest.mark.parametrize("slow_s", [0.05, 0.2, 0.6, 2.0])
@pytest.mark.parametrize(("since", "until"), [(-1.0, 100.0), (7.0, 33.0), (49.0, 50.0)])
def test_what_is_remembered_is_in_order_however_late_the_answers(
    slow_s: float, since: float, until: float
) -> None:
    departures = _Departures()
    for left_at, heard_at in as_they_are_answered(20_000, slow_s):
        departures.add(left_at, heard_at)

    remembered = departures.between(since, until)
    begin, end = max(0.0, since), min(50.0, until)
    assert remembered == sorted(remembered)
    for (moment, _), count in zip(
        remembered, itertools.accumulate(count for _, count in remembered), strict=True
    ):
        assert count == pytest.approx(400 * (moment - begin), abs=17)
    later = sum(count for _, count in departures.after(until).between(-1.0, 100.0))
    assert later == pytest.approx(400 * (50.0 - end), abs=17)


@pytest.mark.parametrize("before_s", [20, 120])
def test_a_limit_that_was_not_there_before_is_used_as_well(before_s: float) -> None:
    # The first refusal says nothing of its burst, for it was not met in no time.
    bucket = LeakyBucket(1e9, 20)
    simulation = Simulation(bucket, slots=2, retry_after_s=1.0)
    simulation.run(before_s)
    bucket.rate = 200.0
    simulation.run(400)

    assert simulation.served(since=simulation.now - 150) >= 0.93 * 200


@pytest.mark.parametrize("rate", [100.0, 400.0, 1_000.0])
def test_the_limit_that_is_told_is_that_of_the_endpoint(rate: float) -> None:
    simulation = Simulation(LeakyBucket(rate, 20))
    simulation.run(20)

    last = simulation.told[0].changes[-1]
    assert last.limit == pytest.approx(rate, rel=0.02)
    assert last.rate == pytest.approx(rate, rel=0.03)


@pytest.mark.parametrize("retry_after_s", [None, 1.0])
def test_a_rate_that_was_given_and_is_allowed_is_never_refused(
    retry_after_s: float | None,
) -> None:
    simulation = Simulation(LeakyBucket(400, 20), max_rate=400, retry_after_s=retry_after_s)
    simulation.run(20)

    assert simulation.refused() == 0
    assert simulation.served(since=1) >= 0.99 * 400


# ----------------------------------------------------------------------------------------- no limit


@pytest.mark.parametrize("network_s", [0.001, 0.025, 0.2])
def test_nothing_is_slowed_down_where_nothing_is_refused(network_s: float) -> None:
    simulation = Simulation(NoLimit(), network_s=network_s)
    free = Simulation(NoLimit(), network_s=network_s, adaptive=False)
    seconds = 1_000 * network_s
    simulation.run(seconds)
    free.run(seconds)
    # The window has doubled to what may be in flight.
    since = 0.1 * seconds

    assert simulation.pacers[0].rate() is None
    assert simulation.told[0].changes == []
    assert simulation.accepted(since) >= 0.99 * free.accepted(since)


# ---------------------------------------------------------------------------------- a limit changes


@pytest.mark.parametrize(
    ("before", "after", "retry_after_s", "seconds"),
    [
        (100.0, 200.0, None, 60),
        (400.0, 800.0, None, 45),
        (100.0, 500.0, None, 90),
        (200.0, 400.0, 1.0, 150),  # a probe may take a minute to come: it costs everybody a second
    ],
)
def test_a_limit_that_rises_is_found_again(
    before: float, after: float, retry_after_s: float | None, seconds: float
) -> None:
    bucket = LeakyBucket(before, 20)
    simulation = Simulation(bucket, retry_after_s=retry_after_s)
    simulation.run(15)
    assert simulation.served(since=5) <= 1.1 * before
    bucket.rate = after
    simulation.run(seconds)

    assert simulation.served(since=simulation.now - 15) >= 0.93 * after
    assert refused_share(simulation) <= 0.02


@pytest.mark.parametrize("retry_after_s", [None, 1.0])
@pytest.mark.parametrize(
    ("before", "after", "burst"),
    [(400.0, 200.0, 20), (800.0, 400.0, 20), (1_000.0, 200.0, 20), (400.0, 200.0, 2)],
)
def test_a_limit_that_falls_is_followed(
    before: float, after: float, burst: int, retry_after_s: float | None
) -> None:
    bucket = LeakyBucket(before, burst)
    simulation = Simulation(bucket, retry_after_s=retry_after_s)
    simulation.run(15)
    bucket.rate = after
    simulation.run(20)

    # Each step down costs a pause, and with a small burst there are more of them.
    least = 0.93 if burst >= 10 or retry_after_s is None else 0.85
    assert simulation.served(since=25) >= least * after
    assert refused_share(simulation, since=15) <= 0.02


# ------------------------------------------------------------------- several clients, and by chance


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("clients", [2, 4])
def test_clients_that_share_a_limit_come_to_half_a_fair_share_each(clients: int, seed: int) -> None:
    simulation = Simulation(LeakyBucket(400, 20), clients=clients, slots=32, seed=seed)
    simulation.run(90)

    assert simulation.served(since=20) >= 0.95 * 400
    assert lowest_share(simulation, since=20) >= 0.5
    assert refused_share(simulation) <= 0.02


@pytest.mark.parametrize(("rate", "least"), [(400.0, 0.5), (1_000.0, 0.45)])
def test_clients_that_begin_together_share_evenly_within_seconds(rate: float, least: float) -> None:
    shares = []
    for seed in range(16):
        bucket = LeakyBucket(rate, 20, grain_s=0.001)
        simulation = Simulation(bucket, clients=4, network_s=0.0005, seed=seed)
        simulation.run(15)
        assert simulation.served(since=0) >= 0.95 * rate
        shares.append(lowest_share(simulation, since=0))

    assert statistics.median(shares) >= 0.75
    assert min(shares) >= least


def test_no_client_that_begins_with_others_is_left_with_next_to_nothing() -> None:
    # A refusal that finds nothing accepted tells that it was too fast, not that there is no room.
    shares = []
    for seed in range(16):
        bucket = LeakyBucket(100, 20, grain_s=0.001)
        simulation = Simulation(bucket, clients=4, network_s=0.0005, seed=seed)
        simulation.run(15)
        shares.append(lowest_share(simulation, since=0))

    assert min(shares) >= 0.35


@pytest.mark.parametrize("rate", [100.0, 400.0, 1_000.0])
def test_what_others_leave_is_taken_within_seconds(rate: float) -> None:
    for seed in range(4):
        bucket = LeakyBucket(rate, 20, grain_s=0.001)
        simulation = Simulation(bucket, clients=4, network_s=0.0005, seed=seed)
        simulation.run(20)
        simulation.leave(1, 2, 3)
        simulation.run(20)

        assert simulation.served(since=30) >= 0.85 * rate


def test_who_is_alone_again_yields_no_longer() -> None:
    for seed in range(4):
        bucket = LeakyBucket(400, 20, grain_s=0.001)
        simulation = Simulation(bucket, clients=4, network_s=0.0005, seed=seed)
        simulation.run(60)
        simulation.leave(1, 2, 3)
        simulation.run(30)

        assert simulation.served(since=70) >= 0.985 * 400
        assert simulation.refused(since=70) <= 8


@pytest.mark.parametrize("service_s", [0.05, 0.2])
def test_a_shared_rate_before_a_slow_endpoint_is_not_taken_for_a_number_at_once(
    service_s: float,
) -> None:
    # A window's share of a rate never changes: who was first would keep what it has.
    shares = []
    for seed in range(4):
        simulation = Simulation(
            LeakyBucket(400, 20), clients=4, slots=128, service_s=service_s, seed=seed
        )
        simulation.run(20)
        since = simulation.now
        simulation.run(30)
        assert simulation.served(since) >= 0.9 * 400
        shares.append(lowest_share(simulation, since))

    assert statistics.median(shares) >= 0.5
    assert min(shares) >= 0.25


@pytest.mark.parametrize(("rate", "share"), [(100.0, 0.12), (200.0, 0.05)])
def test_clients_with_little_each_are_seldom_refused(rate: float, share: float) -> None:
    simulation = Simulation(LeakyBucket(rate, 20), clients=4, slots=32)
    simulation.run(60)

    assert simulation.served(since=20) >= 0.95 * rate
    assert lowest_share(simulation, since=20) >= 0.5
    assert refused_share(simulation) <= share


@pytest.mark.parametrize("clients", [2, 4])
def test_clients_that_share_a_limit_that_asks_for_a_second_use_it_up(clients: int) -> None:
    shares = []
    for seed in range(4):
        simulation = Simulation(
            LeakyBucket(400, 20), clients=clients, slots=32, retry_after_s=1.0, seed=seed
        )
        simulation.run(120)
        shares.append(lowest_share(simulation, since=60))
        assert simulation.served(since=60) >= 0.85 * 400
        assert refused_share(simulation) <= 0.01

    # Who of them is refused is chance: it takes minutes until that has evened out.
    assert statistics.mean(shares) >= 0.45


def test_clients_that_share_a_limit_do_not_take_each_others_refusals_for_chance() -> None:
    for seed in range(10):
        simulation = Simulation(
            LeakyBucket(200, 20), clients=4, slots=32, retry_after_s=1.0, seed=seed
        )
        simulation.run(90)
        assert simulation.served(since=60) >= 0.8 * 200


def after_chance(retry_after_s: float | None, seed: int) -> float:
    """What is served where 5 % are refused at random, next to a client that only pauses."""

    def served(*, adaptive: bool) -> float:
        simulation = Simulation(
            Chance(0.05, random.Random(seed)),
            slots=32,
            network_s=0.01,
            service_s=0.03,
            retry_after_s=retry_after_s,
            adaptive=adaptive,
            seed=seed,
        )
        simulation.run(120)
        return simulation.served(since=20)

    return served(adaptive=True) / served(adaptive=False)


@pytest.mark.parametrize(("retry_after_s", "mean", "least"), [(None, 0.8, 0.1), (1.0, 0.25, 0.05)])
def test_refusals_at_random_do_not_bring_the_sending_to_a_halt(
    retry_after_s: float | None, mean: float, least: float
) -> None:
    shares = [after_chance(retry_after_s, seed) for seed in range(8)]

    assert statistics.mean(shares) >= mean
    assert min(shares) >= least


# ---------------------------------------------------------------------- with tasks, as in real life


@pytest.mark.parametrize("retry_after_s", [None, 1])
async def test_a_stream_of_orders_finds_the_limit_and_loses_none(
    retry_after_s: int | None,
) -> None:
    bucket = LeakyBucket(400, 20)
    asked = {} if retry_after_s is None else {"Retry_After": str(retry_after_s)}
    refused = 0

    async def endpoint(_body: bytes) -> object:
        nonlocal refused
        passes = bucket.admit(rig.clock())
        arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        rig.clock.call_later(0.005, lambda: arrived.set_result(None))
        await arrived
        if passes:
            return an_answer()
        refused += 1
        return an_answer(429, b"", **asked)

    rig = a_rig(endpoint, pacing=Pacing(max_concurrency=32))  # type: ignore[arg-type]

    async def send() -> int:
        sent = 0
        async with rig.stream(orders(2_400), concurrency=32) as results:
            async for result in results:
                sent += result.outcome == "sent"
        return sent

    began = rig.clock.now
    assert await rig.clock.run(send()) == 2_400
    assert refused <= 0.03 * 2_400
    # The limit, and the pauses and the search at the beginning.
    assert rig.clock.now - began <= 2_400 / 400 * 1.15 + 2 * (retry_after_s or 0) + 1


# ----------------------------------------------------------------------------------- the arithmetic


@pytest.mark.parametrize(
    ("round_trip_s", "windows"),
    [
        (0.021, [33, 68, 141]),
        (0.03, [45, 127, 359]),
        (0.05, [64, 256, 1_024]),
        (2.0, [64, 256, 1_024]),
    ],
)
def test_before_a_refusal_there_is_no_bound_and_the_window_grows_with_the_round_trips(
    round_trip_s: float, windows: list[int]
) -> None:
    finder = LimitFinder()
    now, seen = 1.0, list[int]()
    for _ in windows:
        now += round_trip_s
        for _ in range(16):  # all of one round trip
            finder.accepted(now - round_trip_s, None, now)
        seen.append(finder.window)

    assert seen == windows
    assert finder.rate(99.0) == math.inf
    assert (finder.bounded, finder.limit) == (False, None)


def test_where_answers_come_at_once_the_window_doubles_once_in_20_ms() -> None:
    finder = LimitFinder()
    for step in range(40):
        now = 1.0 + step * 0.001
        finder.accepted(now - 0.001, None, now)

    assert finder.window == 64  # the first answer's, and another's after more than 20 ms


@pytest.mark.parametrize("connected_in_s", [0.0, 0.01, 0.05])
def test_what_connections_take_to_be_made_is_no_time_of_the_limiter(connected_in_s: float) -> None:
    bucket = LeakyBucket(rate=400.0, burst=20)
    finder = LimitFinder()

    def send(at: float, takes_s: float = 0.0) -> bool:
        passes = bucket.admit(at + takes_s)
        if passes:
            finder.accepted(at, at + takes_s, at + takes_s + 0.002)
        else:
            finder.refused(at, at + takes_s, at + takes_s + 0.002, at + 1.0)
        return passes

    # Each of the first has to make its connection; those of the search find it made.
    assert [send(1.0 + number * 0.000_2, connected_in_s) for number in range(30)].count(False) == 7
    finder.plan(0)
    now = 3.0
    while send(now):
        now += 1 / 500
    finder.plan(0)

    assert finder.limit == pytest.approx(400, rel=0.02)


def test_a_burst_of_refusals_is_one() -> None:
    def after(refusals: int) -> tuple[float, ...]:
        finder = LimitFinder()
        for number in range(30):
            finder.accepted(1.0 + number * 0.001, None, 1.05 + number * 0.001)
        for number in range(refusals):
            finder.refused(1.03, None, 1.08 + number * 0.000_1, 1.2)
        finder.plan(0)
        return tuple(finder.rate(1.2 + 0.1 * step) for step in range(5))

    assert after(12) == pytest.approx(after(1), rel=0.05)


def test_after_the_first_refusal_the_rate_is_sought_from_below() -> None:
    finder = LimitFinder()
    for _ in range(40):
        finder.accepted(1.0, None, 1.05)
    finder.refused(1.0, None, 1.06, 1.2)
    pending = [finder.refusal_pending]
    finder.plan(0)
    pending.append(finder.refusal_pending)

    assert pending == [True, False]
    assert finder.rate(1.5) == pytest.approx(2 * finder.rate(1.2))
    assert finder.rate(1.8) == pytest.approx(4 * finder.rate(1.2))


def a_search_that_ended(*, pause_s: float, orders: int, burst: int = 10) -> LimitFinder:
    """Refused after a burst, and again after so many orders at 400 a second."""
    finder = LimitFinder()
    for _ in range(burst):
        finder.accepted(1.0, None, 1.005)
    finder.refused(1.0, None, 1.004, 1.1)
    finder.plan(0)
    for number in range(orders):
        finder.accepted(1.1 + number / 400, None, 1.105 + number / 400)
    ended = 1.1 + orders / 400
    finder.refused(ended, None, ended + 0.005, ended + pause_s)
    finder.plan(0)
    return finder


def test_the_search_begins_as_if_the_burst_were_a_twelfth_of_a_second() -> None:
    finder = LimitFinder()
    for _ in range(30):
        finder.accepted(1.0, None, 1.005)
    finder.refused(1.0, None, 1.005, 1.2)
    finder.plan(0)

    assert finder.rate(1.2) == pytest.approx(12 * 30)


def test_the_refusal_of_the_first_order_tells_of_no_burst() -> None:
    finder = LimitFinder()
    finder.refused(1.0, None, 1.005, 1.1)
    finder.plan(0)

    assert finder.slack_s > 0.0


@pytest.mark.parametrize(("pause_s", "least"), [(0.1, 100), (1.0, 25)])
def test_the_search_begins_no_lower_than_a_pause_is_worth(pause_s: float, least: float) -> None:
    finder = LimitFinder()
    for _ in range(2):
        finder.accepted(1.0, None, 1.005)
    finder.refused(1.0, None, 1.005, 1.005 + pause_s)
    finder.plan(0)

    assert finder.rate(1.005 + pause_s) == pytest.approx(least)


@pytest.mark.parametrize("retry_after_s", [None, 0.0])
@pytest.mark.parametrize("seed", range(10))
def test_the_burst_is_told_by_all_that_left_before_the_refusal_was_heard_of(
    seed: int, retry_after_s: float | None
) -> None:
    simulation = Simulation(
        LeakyBucket(400, 20), network_s=0.02, retry_after_s=retry_after_s, seed=seed
    )
    finder = simulation.pacers[0]._finder
    assert finder is not None
    while finder.rate(simulation.now) == math.inf:
        simulation.run(0.01)

    # What comes unevenly makes it look a little larger; what nobody waited for, more than twice.
    assert 20 <= finder._burst(400) <= 24


def test_what_is_late_may_fill_half_of_the_bucket_at_once() -> None:
    finder = LimitFinder()
    assert finder.slack_s == math.inf
    finder = a_search_that_ended(pause_s=0.1, orders=400)
    assert finder.limit is not None

    assert finder.slack_s == pytest.approx((10 - 1) / 2 / finder.limit, rel=0.1)


def test_what_a_probe_may_cost_a_second_for_waits_no_longer_than_a_minute() -> None:
    finder = a_search_that_ended(pause_s=100.0, orders=400)
    resumed = 1.1 + 1.0 + 100.0
    held = finder.rate(resumed)
    assert finder.limit is not None

    assert finder.rate(resumed + 55) <= 1.01 * finder.limit
    assert finder.rate(resumed + 60) == pytest.approx(held, rel=0.02)
    assert finder.rate(resumed + 120) >= 5 * held


def refused_early(finder: LimitFinder) -> float:
    """Three orders after the pause at 400 a second, and then one that is 2.5 ms early."""
    resumed = 1.1 + 1.0 + 0.1
    held = finder.rate(resumed)
    for number in range(3):
        finder.accepted(resumed + number / 400, None, resumed + 0.005 + number / 400)
    finder.refused(resumed + 0.005, None, resumed + 0.015, resumed + 0.1)
    finder.plan(0)
    return held


def test_one_refusal_that_comes_early_cuts_the_rate_to_no_less_than_seven_tenths() -> None:
    finder = a_search_that_ended(pause_s=0.1, orders=400)
    held = refused_early(finder)

    assert finder.limit == pytest.approx(0.7 * held, rel=0.02)


def test_one_early_order_is_no_other_limit_where_the_bucket_holds_hardly_more() -> None:
    finder = a_search_that_ended(pause_s=0.1, orders=400, burst=1)
    held = refused_early(finder)

    assert finder.limit == pytest.approx(held, rel=0.02)


Happening = tuple[str, float, int, float]


@settings(max_examples=150)
@given(
    happenings=st.lists(
        st.tuples(
            st.sampled_from(["begun", "begun", "accepted", "accepted", "refused"]),
            st.sampled_from([0.0, 1e-9, 0.001, 0.02, 0.3, 5.0, 86_400.0]) | st.floats(0.0, 10.0),
            st.integers(0, 40),  # how many; and of those in flight, which
            st.sampled_from([0.0, 0.01, 1.0, 120.0]) | st.floats(0.0, 120.0),  # the pause
        ),
        max_size=60,
    ),
)
def test_the_rate_is_a_rate_whatever_happens(happenings: list[Happening]) -> None:
    finder = LimitFinder()
    in_flight: list[float] = []
    now = 1_000.0
    for what, later, number, pause in happenings:
        now += later
        if what == "begun":
            if finder.refusal_pending:  # as the pacer does before it lets one go
                finder.plan(0)
            in_flight += [now] * number
        for _ in range(number if what == "accepted" else what == "refused"):
            if in_flight:
                admitted_at = in_flight.pop(number % len(in_flight))
                if what == "accepted":
                    finder.accepted(admitted_at, None, now)
                else:
                    finder.refused(admitted_at, None, now, now + pause)
        for moment in moments_after(now):
            rate = finder.rate(moment)
            assert rate >= 0.3  # and no NaN
            # Without a bound on the rate there is one on the number in flight.
            free = not finder.bounded or finder.refusal_pending
            assert rate < math.inf or free or finder.window < 1 << 30
        assert finder.window >= 1
        assert finder.limit is None or 0.0 < finder.limit < math.inf


def moments_after(now: float) -> Iterator[float]:
    """Some, from long before to long after: a clock that is asked late, or never before."""
    yield from (now + seconds for seconds in (-200.0, 0.0, 0.01, 1.0, 60.0, 1e5))
