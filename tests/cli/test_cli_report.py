"""The page that is written when a run has ended: what it counts, what it says, how it is shown."""

from __future__ import annotations

import base64
import json
import math
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlytic_async import EverlyticClient, Outcome
from everlytic_async.cli._commands import SendOptions
from everlytic_async.cli._report import COLOURS, Report, Timeline, format_percent, quantile
from everlytic_async.errors import (
    ConfigurationError,
    ConnectionLostError,
    EverlyticError,
    InvalidOrderError,
    RejectedError,
    SkippedError,
    ThrottledError,
)
from everlytic_async.events import (
    AttemptEnded,
    BatchStarted,
    CoolDown,
    OutageEnded,
    RateChanged,
)
from everlytic_async.outcomes import OrderResult
from everlytic_async.sandbox import Faults, Sandbox

LEDGER = "back fill.ledger"
ENDED = datetime(2026, 5, 4, 15, 30, tzinfo=timezone(timedelta(hours=2)))

ERRORS: dict[Outcome, EverlyticError | None] = {
    Outcome.SENT: None,
    Outcome.INVALID: InvalidOrderError(["products[3].product_price: expected a number, got text"]),
    Outcome.REJECTED: RejectedError("the endpoint answered 422", 422),
    Outcome.NOT_SENT: ThrottledError("the endpoint answered 429", 429),
    Outcome.UNKNOWN: ConnectionLostError("the connection ended before an answer"),
    Outcome.SKIPPED: SkippedError("the ledger says that it was sent before", "sent"),
}

outcomes = st.sampled_from(list(Outcome))
# Multiples of a bin's width and what lies beside them, up to months.
instants = st.one_of(
    st.floats(0, 1e7, allow_subnormal=False), st.integers(0, 10**6).map(lambda n: n / 8)
)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Run:
    """A made-up run, reported."""

    def __init__(self, path: Path, ledger: str | None = LEDGER, **options: Any) -> None:
        self.path = path
        self.clock = Clock()
        options = {"file": "orders.jsonl", "host": "shop.example", **options}
        host = options.pop("host")
        self.report = Report(
            SendOptions(report=str(path), **options),
            host,
            ledger,
            clock=self.clock,
            now=lambda: ENDED,
        )
        self.report.on_event(BatchStarted(at=self.clock.now))
        self._line = 0

    def order(
        self,
        outcome: Outcome,
        *,
        after_s: float = 0.01,
        wait_s: float = 0.1,
        key: str | None = None,
        error: EverlyticError | None = None,
        duplicate_risk: bool = False,
    ) -> None:
        self._line += 1
        self.clock.now += after_s
        key = f"A-{self._line}" if key is None else key
        sent = outcome not in (Outcome.INVALID, Outcome.SKIPPED)
        if sent:
            ended = AttemptEnded(
                at=self.clock.now,
                key=key,
                attempt=1,
                outcome=outcome,
                status=None if outcome is Outcome.UNKNOWN else 200,
                error=None,
                elapsed_s=wait_s,
            )
            self.report.on_event(ended)
        result = OrderResult(
            index=self._line - 1,
            key=key,
            order={},
            outcome=outcome,
            receipt=None,
            error=error or ERRORS[outcome],
            attempts=int(sent),
            elapsed_s=wait_s,
            duplicate_risk=duplicate_risk,
        )
        self.report.add(result, self._line)

    def page(self, stopped: str | None = None, **filtered: int) -> str:
        self.report.finish(stopped, self.clock.now - 1_000.0, filtered=filtered)
        assert self.report.fault is None
        return self.path.read_text("utf-8")


def busy(path: Path) -> Run:
    """One with all that can be: every outcome, cool-downs, a pace."""
    run = Run(path)
    chance = random.Random(5)
    for number in range(600):
        if number % 150 == 149:
            at = run.clock.now
            run.report.on_event(CoolDown(at=at, wait_s=2.0, status=429, reason="429"))
            run.clock.now += 2.0
            run.report.on_event(RateChanged(at=run.clock.now, rate=90.0, limit=None))
        rare = list(Outcome)[number % 6]
        run.order(
            rare if chance.random() < 0.2 else Outcome.SENT,
            after_s=chance.expovariate(50),
            wait_s=chance.lognormvariate(-2, 0.5),
        )
    return run


def make_report(name: str, **more: Any) -> Report:
    """A report on a run without a ledger."""
    return Report(SendOptions(file="o.jsonl", report=name), "shop.example", None, **more)


class Page(HTMLParser):
    """The text, the tags and the figures of a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._within: list[str] = []
        self.feed(source)
        self.close()
        self.text = " ".join(self.text.split())
        call = re.search(r'Plotly\.newPlot\(\s*"plot",\s*', source)
        self.traces: list[dict[str, Any]] = []
        self.layout: dict[str, Any] = {}
        if call is not None:
            decoder = json.JSONDecoder()
            self.traces, end = decoder.raw_decode(source, call.end())
            self.layout, _ = decoder.raw_decode(source, source.index("{", end))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._within.append(tag)
        self.text += " " if tag in {"dd", "li", "p", "td"} else ""

    def handle_endtag(self, tag: str) -> None:
        while self._within and self._within.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & {*self._within}:
            self.text += data


# ------------------------------------------------------------------------------------ counting


def values(numbers: Any) -> list[float]:
    """The numbers of a trace, which plotly may pack."""
    if isinstance(numbers, list):
        return numbers
    data = base64.b64decode(numbers["bdata"])
    code = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "f8": "d"}[numbers["dtype"]]
    return list(struct.unpack(f"<{len(data) // struct.calcsize(code)}{code}", data))


@given(st.lists(st.tuples(instants, outcomes), max_size=80))
def test_every_result_is_counted_once_in_its_bin(results: list[tuple[float, Outcome]]) -> None:
    timeline = Timeline(0.0)
    for at, outcome in results:
        timeline.bin(at).counts[outcome] += 1
    expected = Counter((int(at // timeline.width_s), outcome) for at, outcome in results)
    assert expected == Counter(
        {(i, outcome): n for i, each in timeline.bins.items() for outcome, n in each.counts.items()}
    )
    assert max(timeline.bins, default=0) < 256
    timeline.smooth()
    assert timeline.total().counts == Counter(outcome for _, outcome in results)


@given(st.lists(st.tuples(st.floats(0, 20), st.floats(0.001, 30), st.booleans()), max_size=30))
def test_the_time_of_cool_downs_is_their_union(pauses: list[tuple[float, float, bool]]) -> None:
    timeline = Timeline(0.0)
    now, paused, until = 0.0, 0.0, 0.0
    for after_s, wait_s, is_over in pauses:
        now += after_s
        timeline.start_pause(now, wait_s)
        paused += max(0.0, now + wait_s - max(until, now))
        until = max(until, now + wait_s)
        if is_over:
            timeline.end_pause(now)
            paused -= max(0.0, until - now)
            until = now
    elapsed_s = now + 5.0
    paused -= max(0.0, until - elapsed_s)
    timeline.end_pause(elapsed_s)
    total = timeline.total()
    assert total.pauses == len(pauses)
    assert total.paused_s == pytest.approx(paused, abs=1e-6)
    for each in timeline.bins.values():
        assert 0 <= each.paused_s <= timeline.width_s + 1e-6


@given(
    st.lists(st.floats(1e-4, 1e4), min_size=1, max_size=60),
    st.sampled_from([0.5, 0.95]),
)
def test_a_percentile_is_right_to_a_few_percent(seconds: list[float], share: float) -> None:
    timeline = Timeline(0.0)
    for wait_s in seconds:
        timeline.add_latency(0.0, wait_s)
    exact = sorted(seconds)[math.ceil(share * len(seconds)) - 1]
    latencies = timeline.total().latencies
    assert latencies.total() == len(seconds)
    found = quantile(latencies, share)
    assert found == pytest.approx(exact, rel=0.026)


def test_where_nothing_was_waited_for_there_is_no_percentile() -> None:
    assert quantile(Counter(), 0.5) is None


def test_nothing_is_lost_and_little_is_kept_when_bins_are_widened() -> None:
    timeline = Timeline(0.0)
    for second in range(10_000):
        timeline.add_latency(float(second), 0.001 * (second + 1))
        timeline.start_pause(float(second), 0.25)
        timeline.bin(float(second)).rate = 100.0 + second
    timeline.end_pause(10_000.0)
    total = timeline.total()
    assert timeline.width_s == 64.0
    assert len(timeline.bins) <= 256
    assert total.latencies.total() == total.pauses == 10_000
    assert total.paused_s == pytest.approx(2_500.0)
    assert quantile(total.latencies, 0.5) == pytest.approx(5.0, rel=0.026)
    assert timeline.bins[0].rate == 163.0  # the last of its 64 seconds


def test_bins_are_not_so_narrow_that_a_rate_is_chance() -> None:
    timeline = Timeline(0.0)
    for second in range(30):  # one a second
        timeline.bin(float(second)).counts[Outcome.SENT] += 1
    timeline.smooth()
    assert timeline.width_s == 2.0
    assert [each.counts[Outcome.SENT] for each in timeline.bins.values()] == [2] * 15


def test_a_page_has_a_few_examples_of_a_bounded_number_of_reasons(tmp_path: Path) -> None:
    run = Run(tmp_path / "run.html")
    for number in range(5_000):
        run.order(list(Outcome)[number % 6], after_s=60.0, error=RejectedError(f"why {number}"))
    page = run.page()
    assert len(re.findall(r"\(key ", page)) <= 6 * 13 * 5  # outcomes, reasons, examples
    assert "other reasons" in page


def test_an_outage_that_is_over_ends_its_cool_down(tmp_path: Path) -> None:
    run = Run(tmp_path / "run.html")
    run.report.on_event(CoolDown(at=1_001.0, wait_s=60.0, status=None, reason="refused"))
    run.report.on_event(OutageEnded(at=1_003.0, lasted_s=2.0))
    run.order(Outcome.SENT, after_s=10.0)
    assert "1 cool-down, 2 s in all" in Page(run.page()).text


# -------------------------------------------------------------------------------------- drawing


def test_each_outcome_has_a_row_and_a_scale_of_its_own(tmp_path: Path) -> None:
    page = Page(busy(tmp_path / "run.html").page())
    bars = [trace for trace in page.traces if trace["type"] == "bar"]
    names = ["sent", "skipped", "invalid", "rejected", "not sent", "unknown"]
    assert [bar["name"] for bar in bars] == names
    assert sum(sum(values(bar["customdata"])) for bar in bars) == 600
    assert len({bar["yaxis"] for bar in bars}) == 6
    lines = [trace["name"] for trace in page.traces if trace["type"] == "scatter"]
    assert lines == ["median", "95th percentile", "pace"]
    titles = [note["text"] for note in page.layout["annotations"]]
    expected = [f"{name}, orders per second" for name in names]
    assert titles == [*expected, "time to an answer, seconds"]
    assert len(page.layout["shapes"]) >= 3  # the cool-downs
    axes = [page.layout[name] for name in page.layout if name.startswith("xaxis")]
    assert "time of day (UTC+02:00)" in [axis.get("title", {}).get("text") for axis in axes]


def test_the_time_of_day_and_the_rate_are_those_of_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path / "run.html")
    for _ in range(64):
        run.order(Outcome.SENT, after_s=0.125, wait_s=2.0)
    rate, median, _p95 = Page(run.page()).traces
    assert rate["x"][0] > "2026-05-04T15:29:52"
    assert rate["x"][-1] <= "2026-05-04T15:30:01"
    assert values(rate["y"])[1:-1] == pytest.approx([8.0] * (len(rate["x"]) - 2))
    assert values(median["y"]) == pytest.approx([2.0] * len(median["x"]), rel=0.026)


def luminance(colour: str) -> float:
    """As WCAG 2 defines it."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("paper", ["#ffffff", "#14171b"])
@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_colour_stands_out_from_light_and_from_dark(outcome: Outcome, paper: str) -> None:
    dark, light = sorted([luminance(COLOURS[outcome]), luminance(paper)])
    assert (light + 0.05) / (dark + 0.05) >= 3  # as WCAG 2 asks of graphics


# ---------------------------------------------------------------------------------- what it says


@pytest.mark.parametrize(
    ("outcome", "with_ledger", "without"),
    [
        (
            Outcome.UNKNOWN,
            "everlytic-async ledger resolve 'back fill.ledger' --sent KEY...",
            "in a file of their own; results.jsonl names them: the same file again would notify",
        ),
        (
            Outcome.NOT_SENT,
            "the same command again, with the same ledger",
            "send those in a file of their own; results.jsonl names them",
        ),
        (Outcome.REJECTED, "--resend rejected", "send those in a file of their own"),
        (Outcome.INVALID, "everlytic-async check", "everlytic-async check"),
    ],
)
def test_it_says_what_to_do(
    tmp_path: Path, outcome: Outcome, with_ledger: str, without: str
) -> None:
    for ledger, expected in ((LEDGER, with_ledger), (None, without)):
        run = Run(tmp_path / "run.html", ledger, results="results.jsonl")
        run.order(Outcome.SENT)
        run.order(outcome)
        text = Page(run.page()).text
        assert expected in text
        assert "1 order of 2 needs somebody to act." in text
        assert ("ledger resolve" in text) == (outcome is Outcome.UNKNOWN and ledger is not None)
        why = str(ERRORS[outcome]).replace("[3]", "[…]")
        assert f"1 {why} line 2 (key A-2)" in text


def test_where_all_was_sent_nothing_is_left_to_do(tmp_path: Path) -> None:
    run = Run(tmp_path / "run.html", None)
    for _ in range(3):
        run.order(Outcome.SENT)
    text = Page(run.page()).text
    assert "All 3 orders were sent." in text
    assert "What to do next Nothing." in text
    assert "Why" not in text


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("sent", "Nothing is left to do: 1 order sent, 1 order already known to the ledger."),
        ("unknown", "Decide on 1 order of an earlier run with an unknown outcome"),
        ("rejected", "Correct 1 order that the endpoint refused in an earlier run"),
        ("in_flight", "Check 1 order that was already being sent"),
    ],
)
def test_what_the_ledger_knew_is_told_by_its_state(
    tmp_path: Path, state: str, expected: str
) -> None:
    run = Run(tmp_path / "run.html")
    run.order(Outcome.SENT)
    run.order(Outcome.SKIPPED, error=SkippedError("the ledger knows it", state))
    assert expected in Page(run.page()).text


def test_another_order_under_the_same_key_is_pointed_at(tmp_path: Path) -> None:
    run = Run(tmp_path / "run.html")
    run.order(Outcome.SKIPPED, error=SkippedError("sent before", "sent", other_body=True))
    text = Page(run.page()).text
    assert "Look at 1 order that changed since it was first sent." in text


def test_a_run_that_was_stopped_says_why_and_how_to_go_on(tmp_path: Path) -> None:
    run = Run(tmp_path / "run.html")
    run.order(Outcome.SENT)
    text = Page(run.page("the batch was stopped: 401")).text
    assert "The run ended before its input did. 1 order of 1 that were read was sent." in text
    assert "The run ended early: the batch was stopped: 401." in text
    assert "it goes on where this run ended" in text


def test_without_a_ledger_it_says_where_to_go_on(tmp_path: Path) -> None:
    run = Run(tmp_path / "run.html", None)
    assert "start again: nothing was read" in Page(run.page("interrupted")).text
    for _ in range(7):
        run.order(Outcome.SENT)
    assert "go on after line 7, the last that was read" in Page(run.page("interrupted")).text


def test_triggers_that_may_have_been_processed_twice_are_told(tmp_path: Path) -> None:
    run = Run(tmp_path / "run.html")
    run.order(Outcome.SENT, duplicate_risk=True)
    assert "1 order may have notified its customer twice" in Page(run.page()).text


def test_a_run_without_orders_says_so(tmp_path: Path) -> None:
    source = Run(tmp_path / "run.html").page()
    page = Page(source)
    assert "The input held no orders." in page.text
    assert "Nothing happened that could be drawn." in page.text
    assert "Plotly" not in source


def test_what_was_left_out_of_the_input_is_counted(tmp_path: Path) -> None:
    run = Run(tmp_path / "run.html")
    text = Page(run.page(refunded=2, cancelled=1_400)).text
    assert "All orders of the input were left out." in text
    assert "Left out 1,400 cancelled, 2 refunded" in text
    run.order(Outcome.SENT)
    assert "Left out 1 test" in Page(run.page(test=1)).text
    assert "Left out" not in Page(run.page()).text


def test_a_run_of_one_order_is_not_drawn_and_says_the_rest(tmp_path: Path) -> None:
    run = Run(tmp_path / "run.html", None)
    run.order(Outcome.SENT)
    page = Page(run.page())
    assert "The order was sent." in page.text
    assert "The run took 10 ms: too short for a drawing." in page.text
    assert page.traces == []


@pytest.mark.parametrize(
    ("count", "total", "shown"),
    [
        (1, 1, "100 %"),
        (1, 1_000_000, "< 0.01 %"),
        (999_999, 1_000_000, "99.99 %"),
        (1, 3, "33.33 %"),
    ],
)
def test_a_share_is_all_only_where_it_is_all(count: int, total: int, shown: str) -> None:
    assert format_percent(count, total) == shown


def test_what_an_earlier_run_has_left_to_decide_counts_as_something_to_do(tmp_path: Path) -> None:
    run = Run(tmp_path / "run.html")
    for _ in range(3):
        run.order(Outcome.SKIPPED, error=SkippedError("it may have been sent", "unknown"))
    run.order(Outcome.SENT)
    text = Page(run.page()).text
    assert "3 orders of 4 need somebody to act, all of an earlier run." in text
    assert (
        "everlytic-async ledger export --state unknown 'back fill.ledger' lists the orders" in text
    )
    run = Run(tmp_path / "more.html")
    run.order(Outcome.SKIPPED, error=SkippedError("it may have been sent", "unknown"))
    run.order(Outcome.INVALID)
    text = Page(run.page()).text
    assert "2 orders of 2 need somebody to act, 1 of an earlier run." in text


# ------------------------------------------------------------------------------------- the page


def test_nothing_of_an_order_or_of_the_endpoint_can_end_up_as_markup(tmp_path: Path) -> None:
    evil = "</script><img src=x onerror=alert(1)>"
    run = Run(tmp_path / "run.html", evil, file=evil, host=evil, results=evil)
    harmless = [tag for tag, _ in Page(busy(tmp_path / "other.html").page()).tags]
    for outcome in Outcome:
        error = None if outcome is Outcome.SENT else RejectedError(evil)
        run.order(outcome, error=error, key=evil, after_s=1.0)
    source = run.page(stopped=evil)
    assert "<img" not in source[source.index("<body>") :].replace("<image", "")
    page = Page(source)
    assert evil in page.text
    assert {tag for tag, _ in page.tags} <= {*harmless, "dd"}
    assert [tag for tag, _ in page.tags].count("script") == harmless.count("script")


def test_a_key_that_may_be_personal_is_shown_as_the_ledger_keeps_it(tmp_path: Path) -> None:
    run = Run(tmp_path / "run.html")
    run.order(Outcome.REJECTED, key="ann@example.com")
    source = run.page()
    assert "ann@example.com" not in source
    assert "key sha256:" in Page(source).text


def test_it_loads_nothing_from_anywhere(tmp_path: Path) -> None:
    page = Page(busy(tmp_path / "run.html").page())
    loading = {"src", "href", "srcset", "data", "action", "poster", "background"}
    assert not [tag for tag, attributes in page.tags if loading & attributes.keys()]
    assert "link" not in {tag for tag, _ in page.tags}
    (policy,) = [
        attributes["content"] or ""
        for tag, attributes in page.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    # So a browser loads nothing either, whatever a script asks for.
    assert policy.startswith("default-src 'none'; ")
    assert not re.search(r"https?:|\*", policy)


def test_no_part_of_a_page_is_left_and_an_earlier_page_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "run.html"
    path.write_text("earlier")
    run = Run(path)
    run.order(Outcome.SENT)
    assert path.read_text() == "earlier"
    assert run.page().startswith("<!DOCTYPE html>")
    assert [*tmp_path.iterdir()] == [path]


def test_where_the_page_cannot_be_written_it_is_told(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    run = Run(gone / "run.html")
    run.order(Outcome.SENT)
    gone.rmdir()
    run.report.finish(None, 1.0)
    assert run.report.fault is not None
    assert "No such file or directory" in run.report.fault


def test_where_the_page_cannot_be_put_into_its_place_no_part_is_left(tmp_path: Path) -> None:
    run = Run(tmp_path / "run.html")
    (tmp_path / "run.html").mkdir()
    run.report.finish(None, 1.0)
    assert run.report.fault is not None
    assert "directory" in run.report.fault
    assert [path.name for path in tmp_path.iterdir()] == ["run.html"]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("-", "not the standard output"),
        ("missing/run.html", "there is no such directory"),
        (".", "it is not a regular file"),
        ("/dev/null", "it is not a regular file"),
    ],
)
def test_a_place_where_no_page_can_be_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=problem):
        make_report(name)


@pytest.mark.parametrize("name", ["orders.jsonl", "./orders.jsonl", "link.jsonl", "hard.jsonl"])
def test_a_file_of_the_run_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    orders = tmp_path / "orders.jsonl"
    orders.write_text("{}")
    (tmp_path / "link.jsonl").symlink_to(orders)
    (tmp_path / "hard.jsonl").hardlink_to(orders)
    with pytest.raises(ConfigurationError, match="a file that the run needs"):
        make_report(name, keep=[None, "-", "orders.jsonl"])


def test_a_file_that_the_run_will_make_is_not_replaced(tmp_path: Path) -> None:
    name = str(tmp_path / "results.jsonl")
    with pytest.raises(ConfigurationError, match="a file that the run needs"):
        make_report(name, keep=[name])


@pytest.mark.parametrize("missing", ["plotly.subplots", "jinja2"])
def test_without_its_libraries_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigurationError, match=r"pip install 'everlytic-async\[report\]'"):
        make_report(str(tmp_path / "run.html"))


async def test_a_real_run_is_told_as_it_was(tmp_path: Path) -> None:
    report = make_report(str(tmp_path / "run.html"))
    orders = [{"contact_unique_id": str(n), "products": [{}]} for n in range(60)] + [{}]
    faults = Faults(seed=3, dropped_after=0.05, throttled=0.1, retry_after_s=0.02)
    async with (
        Sandbox(faults=faults) as sandbox,
        EverlyticClient(
            sandbox.base_url,
            store_hash=sandbox.store_hash,
            customer_hash=sandbox.customer_hash,
            on_event=report.on_event,
        ) as client,
        client.stream_orders(orders) as results,
    ):
        outcomes = Counter()
        async for result in results:
            outcomes[result.outcome] += 1
            report.add(result, result.index + 1)
    report.finish(None, 2.0)
    page = Page((tmp_path / "run.html").read_text("utf-8"))
    drawn = {
        trace["name"]: sum(values(trace["customdata"]))
        for trace in page.traces
        if trace["type"] == "bar"
    }
    assert drawn == {outcome.replace("_", " "): count for outcome, count in outcomes.items()}
    assert outcomes[Outcome.UNKNOWN] > 0
    assert page.layout["shapes"], "there were cool-downs"
    assert "median" in [trace["name"] for trace in page.traces]
    for secret in (sandbox.store_hash, sandbox.customer_hash):
        assert secret not in (tmp_path / "run.html").read_text("utf-8")


# ------------------------------------------------------------------------------------ a browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
Browse = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def browse(tmp_path: Path) -> Browse:
    """Open a page in a browser without a screen, and without a network."""

    def run(page: Path, *more: str) -> subprocess.CompletedProcess[str]:
        assert CHROMIUM is not None
        return subprocess.run(
            [
                CHROMIUM,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--host-resolver-rules=MAP * ~NOTFOUND",
                f"--user-data-dir={tmp_path / 'profile'}",
                "--enable-logging=stderr",  # what the page's console says
                "--virtual-time-budget=2000",
                "--window-size=1000,700",
                *more,
                page.as_uri(),
            ],
            env={**os.environ, "HOME": str(tmp_path)},
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            check=True,
        )

    return run


def complaints(browsed: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in browsed.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")
def test_a_browser_draws_it_without_a_complaint(tmp_path: Path, browse: Browse) -> None:
    path = tmp_path / "run.html"
    busy(path).page()
    browsed = browse(path, "--dump-dom")
    assert complaints(browsed) == []
    drawn = browsed.stdout.split('id="plot"')[1]
    assert 'class="main-svg"' in drawn
    assert "time of day (UTC+02:00)" in drawn
    assert drawn.count('class="point"') > 100  # the bars, and the points of the lines
    assert "unknown, orders per second" in drawn


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")
def test_a_browser_may_load_nothing_for_it(tmp_path: Path, browse: Browse) -> None:
    """And the console is heard: without this, the test above could not fail."""
    path = tmp_path / "run.html"
    page = Run(path).page()
    path.write_text(page.replace("</body>", '<img src="http://127.0.0.1:9/x.png"></body>'))
    assert "Content Security Policy" in "\n".join(complaints(browse(path, "--dump-dom")))


def first_pixel(png: bytes) -> tuple[int, ...]:
    """Its red, green and blue: no filter of PNG changes the very first pixel."""

    def chunks() -> Iterator[tuple[bytes, bytes]]:
        place = 8
        while place < len(png):
            length = int.from_bytes(png[place : place + 4], "big")
            yield png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
            place += 12 + length

    return tuple(zlib.decompress(b"".join(d for name, d in chunks() if name == b"IDAT"))[1:4])


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")
@pytest.mark.parametrize(("scheme", "paper"), [(0, (0x14, 0x17, 0x1B)), (1, (255, 255, 255))])
def test_it_is_dark_where_the_reader_wants_it_dark(
    tmp_path: Path, browse: Browse, scheme: int, paper: Any
) -> None:
    path, shot = tmp_path / "run.html", tmp_path / "run.png"
    Run(path).page()
    browse(path, f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={shot}")
    assert first_pixel(shot.read_bytes()) == paper


def test_send_writes_the_report_of_its_run(tmp_path: Path) -> None:
    (tmp_path / "orders.jsonl").write_text(
        '{"order_id": "1", "contact_email": "a@example.com", "products": [{}]}\n{}\n'
    )
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "everlytic_async", "send", "--sandbox"),
            *("--report", "run.html", "orders.jsonl"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 3
    assert "Report: run.html" in ended.stderr
    page = (tmp_path / "run.html").read_text()
    assert "orders.jsonl" in page
    assert "a@example.com" not in page
