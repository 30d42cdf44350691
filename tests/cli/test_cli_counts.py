"""What a run counts: outcomes and their reasons, bins of time, durations."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlytic_async.cli._counts import Tally
from everlytic_async.cli._report import Timeline
from everlytic_async.cli._screen import format_duration
from everlytic_async.errors import InvalidOrderError
from everlytic_async.outcomes import Outcome

# Multiples of a bin's width and what lies beside them, up to months.
INSTANTS = st.one_of(
    st.floats(0, 1e7, allow_subnormal=False), st.integers(0, 10**6).map(lambda n: n / 8)
)


def test_a_tally_stays_small_whatever_the_reasons() -> None:
    tally = Tally()
    for line in range(10_000, 0, -1):
        tally.add(Outcome.REJECTED, line, f"order {line} is unknown")
    reasons = tally.reasons[Outcome.REJECTED]
    assert len(reasons) < 20
    assert sum(reason.count for reason in reasons.values()) == tally.total == 10_000
    name, others = list(reasons.items())[-1]
    assert "--results" in name
    # Examples are in the order of the lines, whatever that of the results.
    assert others.where("line").startswith("lines 9984, 9985, 9986, 9987, 9988 and ")


def test_an_order_is_counted_once_for_a_reason_also_among_the_others() -> None:
    tally = Tally(2)
    tally.add(Outcome.INVALID, 1, InvalidOrderError(["a: x", "b: x", "c: x", "d: x"]))
    tally.add(Outcome.INVALID, 2, InvalidOrderError(["b: x", "d: x", "e: x"]))
    tally.add(Outcome.INVALID, 3, InvalidOrderError(["p[0]: x", "p[1]: x"]))
    found = {
        text.partition(":")[0]: (reason.count, list(reason.examples))
        for text, reason in tally.reasons[Outcome.INVALID].items()
    }
    assert found == {"a": (1, [1]), "b": (2, [1, 2]), "other reasons": (3, [1, 2, 3])}


@given(st.lists(st.tuples(INSTANTS, st.sampled_from(list(Outcome))), max_size=80))
def test_every_result_is_counted_once_in_its_bin(results: list[tuple[float, Outcome]]) -> None:
    timeline = Timeline(0.0)
    for at, outcome in results:
        timeline.add(at, outcome)
    expected = Counter((int(at // timeline.width_s), outcome) for at, outcome in results)
    found = {(i, each): n for i, counts in timeline.bins.items() for each, n in counts.items()}
    assert expected == Counter(found)
    assert max(timeline.bins, default=0) < 256


@given(st.lists(st.tuples(st.floats(0, 20), st.floats(0.001, 30), st.booleans()), max_size=30))
def test_pauses_are_disjoint_and_cover_all_cool_downs(
    pauses: list[tuple[float, float, bool]],
) -> None:
    timeline = Timeline(0.0)
    now = until = paused = 0.0
    for after_s, wait_s, is_over in pauses:
        now += after_s
        timeline.add_pause(now, wait_s)
        paused += max(0.0, now + wait_s - max(until, now))
        until = max(until, now + wait_s)
        if is_over:
            timeline.end_pause(now)
            paused -= max(0.0, until - now)
            until = now
    for (_, end), (start, _) in zip(timeline.pauses, timeline.pauses[1:], strict=False):
        assert start > end
    drawn = sum(end - start for start, end in timeline.pauses)
    # Two that are less than a bin apart are drawn as one.
    assert paused - 1e-6 <= drawn <= paused + timeline.width_s * len(pauses) + 1e-6


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.0123, "12.3 ms"),
        (0.9999, "1 s"),
        (12.34, "12.3 s"),
        (59.6, "59.6 s"),
        (59.96, "1 min"),
        (61, "1 min 1 s"),
        (515, "8 min 35 s"),
        (3_599.6, "1 h"),
        (3600, "1 h"),
        (3601, "1 h"),
        (11 * 3600 + 58 * 60 + 59, "11 h 59 min"),
        (86_400 - 31, "23 h 59 min"),
        (86_400 - 29, "1 day"),
        (90_061, "1 day 1 h"),
        (200_000, "2 days 8 h"),
        (365 * 86_400, "365 days"),
    ],
)
def test_durations_have_three_digits_or_two_units(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words
