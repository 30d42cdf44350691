"""What the progress bar says of the pace."""

from __future__ import annotations

from everlytic_async.cli._pace import PacingStatus
from everlytic_async.events import CoolDown, OutageEnded, RateChanged


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def cool_down(clock: Clock, wait_s: float, status: int | None = 429) -> CoolDown:
    reason = "the endpoint answered 429" if status else "shop.example: the connection was refused"
    return CoolDown(at=clock.now, wait_s=wait_s, status=status, reason=reason)


def test_nothing_is_said_where_nothing_happened() -> None:
    assert PacingStatus(Clock()).text == ""


def test_a_pause_is_counted_down_and_forgotten_when_it_is_over() -> None:
    clock = Clock()
    pace = PacingStatus(clock)
    pace(cool_down(clock, 3.0))
    assert pace.text == "waits 3 s: the endpoint answered 429"
    clock.now += 2.0
    assert pace.text == "waits 1 s: the endpoint answered 429"
    clock.now += 1.0
    assert pace.text == ""


def test_a_pause_too_short_to_read_of_is_not_told() -> None:
    clock = Clock()
    pace = PacingStatus(clock)
    pace(cool_down(clock, 0.2))
    assert pace.text == ""


def test_the_limit_that_is_held_is_told_once_the_pause_is_over() -> None:
    clock = Clock()
    pace = PacingStatus(clock)
    pace(cool_down(clock, 1.0))
    pace(RateChanged(at=clock.now, rate=398.0, limit=400.0))
    assert pace.text.startswith("waits 1 s")
    clock.now += 1.0
    assert pace.text == "limit about 400/s"


def test_an_outage_is_told_until_it_is_over() -> None:
    clock = Clock()
    pace = PacingStatus(clock)
    pace(cool_down(clock, 0.1, status=None))
    clock.now += 5.0
    assert pace.text == "tries again: shop.example: the connection was refused"
    pace(OutageEnded(at=clock.now, lasted_s=5.0))
    assert pace.text == ""
