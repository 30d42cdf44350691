"""The page that is written when a run has ended: what it counts, what it says, how it is shown."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from datetime import datetime, timedelta, timezone
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from command_line import Cli

from everlytic_async import Outcome
from everlytic_async.cli._commands import SendOptions
from everlytic_async.cli._counts import Tally
from everlytic_async.cli._report import COLOURS, Report
from everlytic_async.cli._results import check_outputs
from everlytic_async.errors import (
    ConnectionLostError,
    EverlyticError,
    InvalidOrderError,
    RejectedError,
    SkippedError,
    ThrottledError,
)
from everlytic_async.events import CoolDown, OutageEnded
from everlytic_async.outcomes import OrderResult
from everlytic_async.sandbox import Sandbox
from support.browser import browse, needs_browser
from support.sandboxes import serve

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


class FakeRun:
    """A made-up run, reported."""

    def __init__(self, path: Path, ledger: str | None = LEDGER, **options: Any) -> None:
        self.path = path
        self.now = 1_000.0
        self.tally = Tally()
        options = {"file": "orders.jsonl", "host": "shop.example", **options}
        host = options.pop("host")
        self.report = Report(
            SendOptions(report=str(path), **options),
            host,
            ledger,
            clock=lambda: self.now,
            now=lambda: ENDED,
        )

    def order(self, outcome: Outcome, *, after_s: float = 0.01, **more: Any) -> None:
        line = self.tally.total + 1
        self.now += after_s
        made_up = {"key": f"A-{line}", "error": ERRORS[outcome], "duplicate_risk": False, **more}
        result = OrderResult(
            index=line - 1,
            order={},
            outcome=outcome,
            receipt=None,
            attempts=1,
            elapsed_s=0.1,
            **made_up,
        )
        self.report.add(result)
        del made_up["error"]
        self.tally.add(outcome, line, result.error, **made_up)

    def finish(self, *steps: str, **run: Any) -> str | None:
        run = {"stopped": None, "filtered": {}, "place": "line", "warnings": [], **run}
        return self.report.finish(self.tally, steps, elapsed_s=self.now - 1_000.0, **run)

    def page(self, *steps: str, **run: Any) -> str:
        assert self.finish(*steps, **run) is None
        return self.path.read_text("utf-8")


class Page:
    """The text, the tags with their attributes, and the figure of a page."""

    def __init__(self, source: str) -> None:
        # Without scripts, which are megabytes.
        shown = re.sub(r"(<(script|style)\b[^>]*>).*?(</\2>)", r"\1\3", source, flags=re.DOTALL)
        self.tags = re.findall(r"<(\w+)([^>]*)>", shown)
        words = re.sub(r"<[^>]*>", "", re.sub(r"<(dd|li|p|td|code)\b", r" <\1", shown))
        self.text = " ".join(unescape(words).split())
        self.traces: list[dict[str, Any]] = []
        self.layout: dict[str, Any] = {}
        if call := re.search(r'Plotly\.newPlot\(\s*"plot",\s*', source):
            decoder = json.JSONDecoder()
            self.traces, end = decoder.raw_decode(source, call.end())
            self.layout, _ = decoder.raw_decode(source, source.index("{", end))


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page with all that can be: every outcome, and cool-downs."""
    run = FakeRun(tmp_path_factory.mktemp("report") / "run.html")
    chance = random.Random(5)
    for number in range(600):
        if number % 150 == 149:
            run.report.on_event(CoolDown(at=run.now, wait_s=2.0, status=429, reason="429"))
            run.now += 2.0
        rare = list(Outcome)[number % 6]
        run.order(
            rare if chance.random() < 0.2 else Outcome.SENT,
            after_s=chance.expovariate(50),
        )
    return run.page()


def test_each_outcome_has_a_row_and_a_scale_of_its_own(busy: str) -> None:
    page = Page(busy)
    bars = [trace for trace in page.traces if trace.get("type") == "bar"]
    names = ["sent", "skipped", "invalid", "rejected", "not sent", "unknown"]
    assert [bar["name"] for bar in bars] == names
    assert sum(sum(bar["customdata"]) for bar in bars) == 600
    assert len({bar["yaxis"] for bar in bars}) == 6
    titles = [note["text"] for note in page.layout["annotations"]]
    assert titles == [f"{name}, orders per second" for name in names]
    assert len(page.layout["shapes"]) >= 3  # the cool-downs
    assert page.layout["xaxis"]["title"]["text"] == "time of day (UTC+02:00)"


def test_the_time_of_day_and_the_rate_are_those_of_the_run(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run.html")
    for _ in range(64):
        run.order(Outcome.SENT, after_s=0.125)
    (rate,) = Page(run.page()).traces
    assert rate["x"][0] > "2026-05-04 15:29:52"
    assert rate["x"][-1] <= "2026-05-04 15:30:01"
    assert rate["y"][1:-1] == pytest.approx([8.0] * (len(rate["x"]) - 2))


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


SENT = Outcome.SENT


@pytest.mark.parametrize(
    ("outcomes", "options", "run", "expected"),
    [
        ([SENT] * 3, {}, {}, ["Nothing is left to do: 3 orders sent.", "Nothing."]),
        ([SENT, Outcome.SKIPPED], {}, {}, ["1 order sent, 1 order already known to the ledger."]),
        (
            [SENT, Outcome.REJECTED],
            {},
            {"steps": ["1 order is rejected. Run again:\n  everlytic-async send x"]},
            [
                "1 order of 2 needs somebody to act.",
                "1 order is rejected. Run again: everlytic-async send x",
                "rejected 1 the endpoint answered 422 line 2 (key A-2)",
            ],
        ),
        (
            [SENT, Outcome.INVALID],
            {"workflow_id": 7, "rate": 20.0, "results": "r.jsonl"},
            {},
            [
                "products[…].product_price: expected a number, got text line 2",
                "7, for orders that name none",
                "at most 20 orders a second, at most 32 at once",
                "Results r.jsonl",
                "Ledger back fill.ledger",
            ],
        ),
        (
            [SENT],
            {"sandbox": True},
            {},
            ["shop.example (nobody gets an e-mail)", "Send to your own install next"],
        ),
        (
            [],
            {},
            {},
            ["The input held no orders.", "Nothing happened that could be drawn.", "Look at the"],
        ),
        (
            [SENT],
            {},
            {"stopped": "the batch was stopped: 401."},
            ["did: the batch was stopped: 401. 1 order of 1 that were read was sent."],
        ),
        (
            [],
            {},
            {"filtered": {"refunded": 2, "cancelled": 1_400}},
            ["All orders of the input were left out.", "left out: 1,400 cancelled, 2 refunded"],
        ),
    ],
)
def test_it_says_what_became_of_the_orders_and_what_to_do(
    tmp_path: Path,
    outcomes: list[Outcome],
    options: dict[str, Any],
    run: dict[str, Any],
    expected: list[str],
) -> None:
    fake = FakeRun(tmp_path / "run.html", **options)
    for outcome in outcomes:
        fake.order(outcome)
    others = {name: value for name, value in run.items() if name != "steps"}
    page = Page(fake.page(*run.get("steps", ()), **others))
    assert [words for words in expected if words not in page.text] == []
    assert page.traces == []
    if outcomes:
        assert "The run took" in page.text
        assert "too short for a drawing." in page.text


def test_an_earlier_run_may_have_left_something_to_do(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run.html")
    for _ in range(3):
        run.order(Outcome.SKIPPED, error=SkippedError("it may have been sent", "unknown"))
    run.order(Outcome.SKIPPED, error=SkippedError("sent before", "sent", other_body=True))
    run.order(Outcome.SENT, duplicate_risk=True)
    run.order(Outcome.REJECTED, key="ann@example.com")  # shown as the ledger keeps it
    text = Page(run.page()).text
    assert "4 orders of 6 need somebody to act." in text
    assert "key sha256:" in text
    assert "ann@" not in text
    assert "1 of those skipped have changed since they were first sent" in text
    assert "1 of them may have been processed more than once" in text


def test_an_outage_that_is_over_ends_its_cool_down(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run.html")
    run.report.on_event(CoolDown(at=1_001.0, wait_s=60.0, status=None, reason="refused"))
    run.report.on_event(OutageEnded(at=1_003.0, lasted_s=2.0))
    run.order(Outcome.SENT, after_s=10.0)
    page = Page(run.page())
    assert "1 cool-down" in page.text
    (shape,) = page.layout["shapes"]
    assert (shape["x0"], shape["x1"]) == ("2026-05-04 15:29:51.000", "2026-05-04 15:29:53.000")


# ------------------------------------------------------------------------------------- the page


def test_nothing_of_an_order_or_of_the_endpoint_can_end_up_as_markup(
    tmp_path: Path, busy: str
) -> None:
    evil = "</script><img src=x onerror=alert(1)>"
    run = FakeRun(tmp_path / "run.html", evil, file=evil, host=evil, results=evil)
    harmless = [tag for tag, _ in Page(busy).tags]
    for outcome in Outcome:
        error = None if outcome is Outcome.SENT else RejectedError(evil)
        run.order(outcome, error=error, key=evil, after_s=1.0)
    source = run.page(f"{evil}\n  {evil}", stopped=evil, warnings=[evil])
    assert "<img" not in source[source.index("<body>") :].replace("<image", "")
    page = Page(source)
    assert evil in page.text
    assert {tag for tag, _ in page.tags} <= {*harmless, "code"}
    assert [tag for tag, _ in page.tags].count("script") == harmless.count("script")


def test_it_loads_nothing_from_anywhere(busy: str) -> None:
    page = Page(busy)
    loading = re.compile(r"\b(src|href|srcset|data|action|poster|background)=")
    assert [tag for tag in page.tags if tag[0] == "link" or loading.search(tag[1])] == []
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy"\s+content="([^"]*)"', busy)
    # So a browser loads nothing either, whatever a script asks for.
    assert policy.startswith("default-src 'none'; ")
    assert not re.search(r"https?:|\*", policy)


# ------------------------------------------------------------------------------------- the file


def test_an_earlier_page_or_an_empty_file_is_replaced_and_no_part_is_left(tmp_path: Path) -> None:
    path = tmp_path / "run.html"
    path.touch()
    check_outputs(SendOptions(file="x"), None, str(path))
    earlier = FakeRun(path).page()
    check_outputs(SendOptions(file="x"), None, str(path))
    run = FakeRun(path)
    run.order(Outcome.SENT)
    assert path.read_text() == earlier
    assert run.page().startswith("<!DOCTYPE html>")
    assert [*tmp_path.iterdir()] == [path]


def test_a_page_that_cannot_be_written_is_an_error_and_no_part_is_left(tmp_path: Path) -> None:
    path = tmp_path / "run.html"
    path.mkdir()
    run = FakeRun(path)
    assert "irectory" in str(run.finish())
    assert [*tmp_path.rglob("*")] == [path]


def test_a_page_has_the_warnings_of_the_run(cli: Cli, shop: Sandbox) -> None:
    line = '{"contact_email": "a@example.com", "order_id": 1, '
    line += '"products": [{"product_name": "Mop"}]}\n'
    Path("o.jsonl").write_text(line * 2)
    run = cli("send", "--ledger", "l", "--report", "run.html", "--map", "taxes=tax", "o.jsonl")
    warnings = [each for each in run.err.splitlines() if each.startswith("Warning: ")]
    assert len(warnings) == 2
    page = Page(Path("run.html").read_text("utf-8"))
    assert [each for each in warnings if each.removeprefix("Warning: ") not in page.text] == []
    assert "Warnings" in page.text
    assert "Warnings" not in Page(FakeRun(Path("other.html")).page()).text


def test_a_real_run_is_reported_as_it_was(cli: Cli) -> None:
    orders = [
        {"contact_email": f"{n}@example.com", "order_id": n, "products": [{}]} for n in range(60)
    ]
    Path("o.json").write_text(json.dumps([*orders, {}]))
    with serve(seed=3, dropped_after=0.05, throttled=0.1, latency_s=0.1) as box:
        cli.use(box.base_url)
        options = ("--concurrency", "4", "--report", "run.html", "--ledger", "l")
        run = cli("send", *options, "--results", "r", "o.json")
    assert run.code == 3
    assert "Report: run.html" in run.err
    outcomes = Counter(json.loads(line)["outcome"] for line in Path("r").read_text().splitlines())
    source = Path("run.html").read_text("utf-8")
    page = Page(source)
    drawn = {
        trace["name"]: sum(trace["customdata"])
        for trace in page.traces
        if trace.get("type") == "bar"
    }
    assert drawn == {outcome.replace("_", " "): count for outcome, count in outcomes.items()}
    assert outcomes["unknown"] > 0
    assert "record 61" in page.text
    assert page.layout["shapes"], "there were cool-downs"
    assert "everlytic-async ledger resolve l --sent 'KEY'..." in page.text  # as on the terminal
    for secret in (box.store_hash, box.customer_hash, "@example.com"):
        assert secret not in source


@needs_browser
def test_a_browser_draws_it_and_may_load_nothing_for_it(tmp_path: Path, busy: str) -> None:
    path = tmp_path / "run.html"
    complaints = []
    # That complaints are seen: without the second, the first could not fail.
    for more in ("", '<img src="http://127.0.0.1:9/x.png">'):
        path.write_text(busy.replace("</body>", f"{more}</body>"), "utf-8")
        source, console = browse(path)
        complaints.append(console)
        drawn = source.split('id="plot"')[1]
        assert 'class="main-svg"' in drawn
        assert "time of day (UTC+02:00)" in drawn
        assert drawn.count('class="point"') > 100  # the bars
        assert "unknown, orders per second" in drawn
    assert complaints[0] == []
    assert "Content Security Policy" in "\n".join(complaints[1])
