"""The limit of an endpoint is found and held: pacers in simulated time, and the arithmetic.

The same seed gives the same run, so the bounds are close to what these seeds reach.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from limited_endpoints import (
    Changeable,
    ConcurrencyLimit,
    FirstRefused,
    LeakyBucket,
    Limiter,
    NoLimit,
    RandomRefusals,
    Simulation,
)

from everlytic_async._rate import RateEstimator
from everlytic_async._response import Response
from everlytic_async.outcomes import Outcome
from everlytic_async.policies import Pacing
from support.clock import FakeClock
from support.delivery import orders
from support.fake_delivery import (
    FakeDelivery,
    Reading,
    end_with,
    fake_delivery,
    make_response,
)

slow = pytest.mark.slow
STARTED_AT = FakeClock().now
SEEDS = (0, pytest.param(1, marks=slow))


@attrs.frozen(kw_only=True)
class Scenario:
    """An endpoint, and the least that must be made of it.

    Attributes:
        simulate: Makes it, for a seed.
        best: Orders a second that the endpoint takes.
        used: At least this share of them is used.
        seconds: How long to send.
        since: The second from which on orders are counted.
        refused: At most this share of all requests is refused.
        least_share: The client with the fewest orders gets this part of a fair share.
    """

    simulate: Callable[[int], Simulation]
    best: float
    used: float
    seconds: float = 15
    since: float = 0
    refused: float = 0.01
    least_share: float = 0.0


def bucket(rate: float, burst: int, **settings_: float | None) -> Callable[[int], Simulation]:
    """A limiter like nginx's, whose clock counts milliseconds, on a fast network."""

    def simulate(seed: int) -> Simulation:
        limiter = LeakyBucket(rate, burst, grain_s=0.001)
        options = {"network_s": 0.0005, "service_s": 0.001, **settings_}
        return Simulation(limiter, seed=seed, **options)  # type: ignore[arg-type]

    return simulate


def at_once(limit: int, retry_after_s: float | None = None) -> Callable[[int], Simulation]:
    return lambda seed: Simulation(
        ConcurrencyLimit(limit), service_s=0.05, retry_after_s=retry_after_s, seed=seed
    )


def at_random(seed: int) -> Simulation:
    limiter = RandomRefusals(0.05, random.Random(seed))
    return Simulation(limiter, slots=32, network_s=0.01, service_s=0.03, seed=seed)


SCENARIOS = {
    "400/s": Scenario(simulate=bucket(400, 20), best=400, used=0.98, refused=0.006),
    "400/s, Retry-After 1": Scenario(
        simulate=bucket(400, 20, retry_after_s=1), best=400, used=0.85, refused=0.002
    ),
    "400/s, Retry-After 1, a minute": Scenario(
        simulate=bucket(400, 20, retry_after_s=1), best=400, used=0.94, refused=0.001, seconds=60
    ),
    "max_rate=400, Retry-After 1": Scenario(
        simulate=bucket(400, 20, max_rate=400, retry_after_s=1), best=400, used=0.995, refused=0
    ),
    **{
        f"{rate}/s, burst {burst}": Scenario(
            simulate=bucket(rate, burst), best=rate, used=0.93, refused=0.015
        )
        for rate, burst in itertools.product([100, 1_000], [5, 100])
    },
    "100/s, burst 1": Scenario(simulate=bucket(100, 1), best=100, used=0.9),
    "400/s, burst 1": Scenario(simulate=bucket(400, 1), best=400, used=0.9),
    "1000/s, burst 1": Scenario(simulate=bucket(1_000, 1), best=1_000, used=0.6),
    "four clients": Scenario(
        simulate=bucket(400, 20, clients=4), best=400, used=0.95, refused=0.02, least_share=0.3
    ),
    "four clients, Retry-After 1": Scenario(
        simulate=bucket(400, 20, clients=4, retry_after_s=1),
        best=400,
        used=0.8,
        seconds=120,
        since=60,
        least_share=0.45,
    ),
    "before a slow endpoint": Scenario(
        simulate=bucket(400, 20, service_s=0.05), best=400, used=0.9
    ),
    "20 at once": Scenario(simulate=at_once(20), best=400, used=0.85, seconds=20),
    "32 at once": Scenario(simulate=at_once(32), best=640, used=0.85, seconds=20),
    "20 at once, Retry-After 1": Scenario(
        simulate=at_once(20, 1.0), best=400, used=0.7, seconds=20
    ),
    "5 % at random": Scenario(
        simulate=at_random, best=300, used=1.0, seconds=60, since=15, refused=0.08
    ),
    "no limit": Scenario(
        simulate=lambda seed: Simulation(NoLimit(), service_s=0.05, network_s=0.0003, seed=seed),
        best=1_280,
        used=0.97,
        seconds=19,
        refused=0,
    ),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param(scenario, id=name, marks=slow if scenario.seconds > 30 else ())
        for name, scenario in SCENARIOS.items()
    ],
)
def test_a_limit_is_found_and_held(scenario: Scenario, seed: int) -> None:
    simulation = scenario.simulate(seed)
    simulation.run(scenario.seconds)

    assert simulation.throughput(scenario.since) >= scenario.used * scenario.best
    assert simulation.refused_share() <= scenario.refused
    assert simulation.lowest_share(scenario.since) >= scenario.least_share


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("before", "after", "retry_after_s", "seconds", "used"),
    [
        (400, 200, None, 20, 0.97),
        (400, 200, 1.0, 20, 0.9),
        (1_000, 200, None, 20, 0.97),
        (1_000, 200, 1.0, 40, 0.9),
        pytest.param(100, 500, None, 90, 0.95, marks=slow),
        # After a pause of a second the next probe takes a minute.
        pytest.param(200, 400, 1.0, 150, 0.9, marks=slow),
    ],
)
def test_a_limit_that_changes_is_followed(
    *, before: int, after: int, retry_after_s: float | None, seconds: int, used: float, seed: int
) -> None:
    limiter = LeakyBucket(before, 20, grain_s=0.001)
    simulation = Simulation(limiter, retry_after_s=retry_after_s, seed=seed)
    simulation.run(15)
    limiter.rate = after
    simulation.run(seconds)

    assert simulation.throughput(simulation.now - 10) >= used * after
    assert simulation.refused_share(since=15) <= 0.005


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("rate", "burst", "refused"), [(400, 20, 0.02), (50, 5, 0.2)])
def test_a_limit_that_comes_after_refusals_at_random_is_held(
    *, rate: int, burst: int, refused: float, seed: int
) -> None:
    limiter = Changeable(RandomRefusals(0.1, random.Random(seed)))
    simulation = Simulation(limiter, seed=seed)
    simulation.run(15)
    limiter.current = LeakyBucket(rate, burst, grain_s=0.001)
    simulation.run(30)

    assert simulation.refused_share(since=15) <= refused
    assert simulation.refused_share(simulation.now - 15) <= 0.01


@pytest.mark.parametrize("seed", SEEDS)
def test_freed_capacity_is_used_within_seconds(seed: int) -> None:
    simulation = bucket(400, 20, clients=4)(seed)
    simulation.run(30)
    simulation.stop_clients(1, 2, 3)
    simulation.run(30)

    assert simulation.throughput(simulation.now - 10) >= 0.9 * 400
    assert simulation.refused_share(simulation.now - 10) <= 0.005
    assert simulation.records[0].changes[-1].limit == pytest.approx(400, rel=0.05)


# ------------------------------------------------------------------------- whole streams of orders


async def read_past(
    limiter: Limiter,
    retry_after_s: int | None,
    *,
    count: int,
    slots: int = 32,
    latency_s: float = 0.02,
    seed: int = 0,
) -> tuple[Reading, FakeDelivery, list[bool]]:
    """Send that many orders: the reading, and for each attempt whether it passed the limiter."""
    headers = {} if retry_after_s is None else {"Retry_After": str(retry_after_s)}
    refusal = make_response(429, b"", **headers)
    passed: list[bool] = []

    async def endpoint(_body: bytes) -> Response:
        passes = limiter.admit(fake.clock.now)
        passed.append(passes)
        await fake.clock.sleep(latency_s)
        if passes:
            limiter.done()
        return end_with("accepted" if passes else refusal)

    fake = fake_delivery(endpoint, pacing=Pacing(max_concurrency=slots), seed=seed)
    return await fake.read(orders(count), concurrency=slots), fake, passed


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("retry_after_s", [None, 1, 5])
@pytest.mark.parametrize(("per_minute", "burst"), [(30, 0), (30, 20), (60, 5)])
async def test_a_very_tight_limit_refuses_few_and_loses_none(
    *, per_minute: int, burst: int, retry_after_s: int | None, seed: int
) -> None:
    limiter = LeakyBucket(per_minute / 60, burst)
    reading, _, passed = await read_past(limiter, retry_after_s, count=150, seed=seed)

    assert reading.outcomes == [Outcome.SENT] * 150
    found = list(itertools.accumulate(passed)).index(20)  # after this the limit is known
    assert passed[found + 1 :].count(False) <= 0.15 * len(passed[found + 1 :])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("retry_after_s", [None, 0])
@pytest.mark.parametrize(
    ("limiter", "slots", "latency_s"),
    [
        pytest.param(lambda: LeakyBucket(100, 10), 32, 0.01, id="100/s"),
        pytest.param(lambda: LeakyBucket(100, 9), 2, 0.01, id="100/s, 2 slots"),
        pytest.param(lambda: LeakyBucket(100, 10), 64, 0.05, id="100/s, 64 slots, 50 ms"),
        pytest.param(lambda: LeakyBucket(200, 50), 32, 0.01, id="200/s, burst 50", marks=slow),
        pytest.param(lambda: LeakyBucket(10, 5), 32, 0.02, id="10/s"),
        pytest.param(lambda: ConcurrencyLimit(8), 32, 0.02, id="8 at once"),
    ],
)
async def test_a_limit_that_asks_for_no_pause_loses_no_order(
    *,
    limiter: Callable[[], Limiter],
    slots: int,
    latency_s: float,
    retry_after_s: int | None,
    seed: int,
) -> None:
    reading, _, passed = await read_past(
        limiter(), retry_after_s, count=800, slots=slots, latency_s=latency_s, seed=seed
    )

    # A 0 is obeyed until it is clear that a limiter says it: one order may have its five throttles.
    is_obeyed = retry_after_s == 0
    assert Counter(reading.outcomes)[Outcome.SENT] >= 800 - is_obeyed
    assert max(result.attempts for result in reading.results) <= 4 + is_obeyed
    assert passed.count(False) <= (0.09 if is_obeyed else 0.05) * len(passed)


def refusals(share: float, add: int = 0) -> Callable[[int], Limiter]:
    return lambda seed: RandomRefusals(share, random.Random(seed + add))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("limiter", "retry_after_s", "count", "lost", "seconds"),
    [
        # At most those are lost that were refused five times. A 0 that comes at random is obeyed.
        pytest.param(refusals(0.05), None, 2_000, 0, 45, id="5 %"),
        pytest.param(refusals(0.05), 0, 2_000, 0, 5, id="5 %, at once"),
        pytest.param(refusals(0.1), None, 2_000, 1, 45, id="10 %", marks=slow),
        pytest.param(refusals(0.1), 0, 2_000, 1, 8, id="10 %, at once", marks=slow),
        pytest.param(refusals(0.2), None, 2_000, 5, 45, id="20 %"),
        pytest.param(refusals(0.2), 0, 2_000, 5, 12, id="20 %, at once"),
        *(
            pytest.param(refusals(0.25, add), 0, 40, 1, 8, id=f"25 % of few, at once, {add}")
            for add in range(8)
        ),
        pytest.param(lambda _: FirstRefused(40), None, 500, 8, 120, id="the first"),
        pytest.param(lambda _: FirstRefused(40), 0, 500, 8, 120, id="the first, at once"),
    ],
)
async def test_refusals_without_a_limit_neither_lose_orders_nor_slow_the_sending_down(
    *,
    limiter: Callable[[int], Limiter],
    retry_after_s: int | None,
    count: int,
    lost: int,
    seconds: float,
    seed: int,
) -> None:
    reading, fake, _ = await read_past(limiter(seed), retry_after_s, count=count, seed=seed)

    assert Counter(reading.outcomes)[Outcome.SENT] >= count - lost
    assert fake.clock.now - STARTED_AT <= seconds


# ------------------------------------------------------------------------------- the arithmetic


@pytest.mark.parametrize("connected_in_s", [0.0, 0.05])
def test_the_time_to_connect_is_not_counted(connected_in_s: float) -> None:
    limiter = LeakyBucket(rate=400.0, burst=20)
    estimator = RateEstimator()

    def send(at: float, takes_s: float = 0.0) -> bool:
        passes = limiter.admit(at + takes_s)
        if passes:
            estimator.on_accepted(at + takes_s, at + takes_s + 0.002)
        else:
            estimator.on_throttled(at, at + takes_s, at + takes_s + 0.002, at + 1.0)
        return passes

    # Each of the first has to make its connection; those of the search reuse them.
    assert [send(1.0 + number * 0.000_2, connected_in_s) for number in range(30)].count(False) == 7
    estimator.evaluate(0)
    now = 3.0
    while send(now):
        now += 1 / 500
    estimator.evaluate(0)

    assert estimator.limit == pytest.approx(400, rel=0.02)


Step = tuple[str, float, int, float]


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["start", "start", "accept", "accept", "refuse"]),
            st.sampled_from([0.0, 1e-9, 0.001, 0.02, 0.3, 5.0, 86_400.0]) | st.floats(0.0, 10.0),
            st.integers(0, 40),  # how many; and of those in flight, which
            st.sampled_from([0.0, 0.01, 1.0, 120.0]) | st.floats(0.0, 120.0),  # the pause
        ),
        max_size=60,
    ),
)
def test_the_rate_is_a_positive_number_in_any_sequence(steps: list[Step]) -> None:
    estimator = RateEstimator()
    in_flight: list[float] = []
    now = 1_000.0
    for what, later, number, pause_s in steps:
        now += later
        if what == "start":
            if estimator.throttle_pending:  # as the pacer does before it lets one start
                estimator.evaluate(0)
            in_flight += [now] * number
        for _ in range(number if what == "accept" else what == "refuse"):
            if in_flight:
                started_at = in_flight.pop(number % len(in_flight))
                if what == "accept":
                    estimator.on_accepted(started_at, now)
                else:
                    estimator.on_throttled(started_at, started_at, now, now + pause_s)
        for moment in (now + seconds for seconds in (-200.0, 0.0, 0.01, 1.0, 60.0, 1e5)):
            assert estimator.rate(moment) >= 0.05  # and not a NaN
        assert estimator.window >= 1
        assert estimator.max_catch_up_s >= 0.0
        assert estimator.limit is None or 0.0 < estimator.limit < math.inf
