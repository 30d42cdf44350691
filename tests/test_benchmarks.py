"""The benchmarks run, check what they measure, and leave nothing behind. No speed is asserted."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks._load import WrongAnswerError, check
from benchmarks.harness import (
    BenchmarkError,
    Comparison,
    Goal,
    measure,
    service,
    spread,
)
from benchmarks.server import find_nginx

ROOT = Path(__file__).resolve().parent.parent
behind_nginx = pytest.mark.skipif(find_nginx() is None, reason="nginx is not installed")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a benchmark in a process group of its own, and see that the group is empty at its end."""
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    out, errors = process.communicate(timeout=120)
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    return subprocess.CompletedProcess(arguments, process.returncode, out, errors)


def figures_of(tmp_path: Path, *arguments: str) -> dict:
    """What a benchmark saved; its exit code must say what its goals say."""
    file = tmp_path / "figures.json"
    ended = run(*arguments, "--json", str(file))
    assert ended.stderr == ""
    figures = json.loads(file.read_text())
    assert ended.returncode == (0 if all(goal["met"] for goal in figures["goals"]) else 1)
    assert figures["machine"]["versions"]["aiohttp"]
    return figures


def goals(figures: dict) -> list[str]:
    return [goal["name"] for goal in figures["goals"]]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("uvloop") is None, reason="uvloop is not installed")
def test_throughput_measures_every_round_of_every_row(tmp_path):
    names = [
        *("orders", "mappings", "orders, uvloop", "orders, a hook for every event"),
        *("mappings, a new ledger", "mappings, a new ledger that survives a loss of power"),
        *("orders, in an instrumented aiohttp", "mappings, `send_order`", "orders, TLS"),
        *("orders, 1 at once", "mappings of 50 products", "bare aiohttp, uvloop"),
        "tenacity, a semaphore and `gather`",
    ]
    document = tmp_path / "document.md"
    document.write_text("Before.\n<!-- throughput -->\nold\n<!-- end of throughput -->\nAfter.\n")
    figures = figures_of(
        tmp_path,
        "benchmarks.throughput",
        *("--orders", "200", "--rounds", "2", "--write", str(document)),
        *(word for name in names for word in ("--only", name)),
    )
    for part in ("rows", "bases"):
        rounds = {name: len(runs) for name, runs in figures[part].items()}
        assert rounds == dict.fromkeys(names, 2)
    for run in [run for runs in figures["rows"].values() for run in runs]:
        assert run["orders"] in (40, 200)
        assert min(run["cpu_us"], run["per_s"]) > 0
    assert goals(figures)[:2] == ["CPU of orders / bare aiohttp", "CPU of mappings / bare aiohttp"]
    lines = document.read_text().splitlines()
    assert (lines[0], lines[-1], lines.count("old")) == ("Before.", "After.", 0)
    assert all(any(line.startswith(f"| {name} ") for line in lines) for name in names)


def test_throughput_names_the_rows_there_are_when_asked_for_another():
    ended = run("benchmarks.throughput", "--only", "curl")
    assert ended.returncode == 2
    assert "'curl' is not one of 'orders', 'mappings'," in ended.stderr


@pytest.mark.parametrize(
    "contestant",
    [
        "stream_orders",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("bare_aiohttp", "send_order")),
    ],
)
@behind_nginx
def test_a_contestant_whose_orders_are_refused_is_not_measured(contestant):
    # The limiter asks for a longer pause than any client takes.
    with service(limit=1, burst=0, retry_after=100_000) as server:
        settings = {
            "mode": "send",
            "sender": contestant,
            "url": server.url,
            "orders": 10,
            "warm_up": 10,
            "concurrency": 4,
        }
        with pytest.raises(BenchmarkError, match=r"429|Throttled|WrongAnswerError"):
            measure(settings)


def test_an_answer_that_is_not_the_endpoints_is_an_error():
    check(200, {"status": "success"})
    for status, body in [(201, {"status": "success"}), (200, {"status": "error"}), (200, None)]:
        with pytest.raises(WrongAnswerError):
            check(status, body)


@pytest.mark.slow
def test_memory_is_read_along_the_stream_and_judged_from_the_10_000th_order(tmp_path):
    short = figures_of(tmp_path, "benchmarks.memory", "--orders", "1200")
    assert list(short["resident_bytes"]) == ["1000", "1200"]
    assert goals(short) == []
    longer = figures_of(tmp_path, "benchmarks.memory", "--orders", "10100")
    assert list(longer["resident_bytes"]) == ["1000", "10000", "10100"]
    assert min(longer["resident_bytes"].values()) > 1_000_000
    assert goals(longer) == ["growth of memory between the 10,000th and the 10,100th order"]
    remembered = figures_of(tmp_path, "benchmarks.memory", "--orders", "1200", "--ledger")
    assert list(remembered["resident_bytes"]) == ["1000", "1200"]
    assert remembered["ledger_bytes"] > 0
    assert goals(remembered) == ["orders a second that a resume skips"]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ijson") is None, reason="ijson is not installed")
def test_reading_is_measured_next_to_what_rows_and_objects_take(tmp_path):
    figures = figures_of(tmp_path, "benchmarks.reading", "--orders", "200", "--rounds", "1")
    assert [goal["name"].partition(":")[0] for goal in figures["goals"]] == [
        *("csv", "csv", "json", "json")
    ]
    for readers in figures["runs"].values():
        assert all(run["cpu_us"] > 0 for runs in readers.values() for run in runs)


@pytest.mark.slow
def test_startup_measures_whole_processes(tmp_path):
    figures = figures_of(tmp_path, "benchmarks.startup", "--rounds", "1")
    took_ms = figures["took_ms"]
    assert took_ms["import of the client"][0] > 1
    assert goals(figures) == [
        "import of the client beyond aiohttp's",
        "`everlytic-async --help`",
    ]


@pytest.mark.slow
@behind_nginx
def test_pacing_counts_throttles_at_the_limiter_and_loses_sight_of_no_order(tmp_path):
    figures = figures_of(
        tmp_path,
        "benchmarks.pacing",
        *("--limit", "200", "--limit", "400", "--burst", "5", "--burst", "9", "--seconds", "0.5"),
        *("--only", "max_rate", "--only", "tenacity_jitter"),
    )
    cells = [(run["setting"]["limit"], run["setting"]["burst"]) for run in figures["runs"][::2]]
    assert cells == [(200, 5), (200, 9), (400, 5), (400, 9)]
    ours, rival = figures["runs"][:2]
    assert (ours["sender"], rival["sender"]) == ("max_rate", "tenacity_jitter")
    assert ours["lost"] == 0
    assert rival["throttles"] > 0  # 64 at once, and 6 are let through
    for one in (ours, rival):
        assert sum(process["sent"] for process in one["processes"]) == 100 - one["lost"]
        assert one["throttled"] == one["throttles"] / 100
    assert goals(figures)[:3] == [
        "ours, max_rate given, 200/s, burst 5, 100 orders: of the limit",
        "ours, max_rate given, 200/s, burst 5, 100 orders: throttled",
        "ours, max_rate given, 200/s, burst 5, 100 orders: orders lost",
    ]


@pytest.mark.slow
@behind_nginx
def test_pacing_measures_in_one_run_all_that_is_promised(tmp_path):
    figures = figures_of(
        tmp_path,
        "benchmarks.pacing",
        *("--all", "--limit", "400", "--seconds", "0.05"),
        *("--only", "max_rate", "--only", "adaptive"),
    )
    measured = [
        (run["sender"], *(run["setting"][name] for name in ("retry_after", "seconds", "limit")))
        for run in figures["runs"]
    ]
    assert measured == [
        ("adaptive", None, 0.05, 400),
        ("max_rate", None, 0.05, 400),
        ("adaptive", 1, 0.05, 400),
        ("max_rate", 1, 0.05, 400),
        ("adaptive", 1, 0.2, 400),
        ("adaptive", None, 0.05, 400),
        ("adaptive", None, 0.05, None),
        ("adaptive", None, 0.0625, None),
    ]
    assert [run["setting"]["processes"] for run in figures["runs"]] == [1, 1, 1, 1, 1, 4, 1, 1]
    assert [run["setting"]["connections"] for run in figures["runs"]][-2:] == [20, None]
    assert len(goals(figures)) == len(set(goals(figures)))
    shared = figures["runs"][5]
    shares = [process["in_time"] / (400 * 0.05) for process in shared["processes"]]
    assert (len(shares), shared["elapsed_s"]) == (4, 0.05)
    assert shared["share"] == pytest.approx(sum(shares))
    assert shared["least_share"] == pytest.approx(min(shares) * 4)


@pytest.mark.parametrize(
    ("value", "at_most", "met"),
    [(1.1, True, True), (1.2, True, False), (1.1, False, False), (1.2, False, True)],
)
def test_a_goal_is_met_up_to_its_bound(value, at_most, met):
    assert Goal("a figure", value, 1.15, at_most=at_most).met is met
    assert Goal("a figure", 1.15, 1.15, at_most=at_most).met


def test_ratios_are_taken_within_a_pair_of_which_each_is_first_in_turn():
    seconds = iter(range(1, 9))
    names: list[str] = []

    def once(name: str) -> dict[str, float]:
        names.append(name)
        return {"s": float(next(seconds))}

    comparison = Comparison.measure("base", ["one", "two"], rounds=2, once=once)
    assert names == ["base", "one", "base", "two", "one", "base", "two", "base"]
    assert comparison.ratios("one", "s") == [2 / 1, 5 / 6]
    assert comparison.ratios("two", "s") == [4 / 3, 7 / 8]
    assert comparison.ratios("base", "s") == [1.0]


def test_a_spread_is_the_median_with_both_quartiles():
    assert spread([5.0, 1.0, 3.0, 2.0, 4.0], ".1f") == "3.0 (2.0 - 4.0)"
    assert spread([3.0], ".1f") == "3.0"


@pytest.mark.slow
def test_workers_measures_one_and_two_and_where_the_time_goes(tmp_path):
    figures = figures_of(
        tmp_path,
        "benchmarks.workers",
        *("--orders", "20", "--fast-orders", "60", "--rounds", "1"),
    )
    assert goals(figures) == ["2 workers / 1, with latency"]
    slow, fast = (
        [run for row in figures[part].values() for run in row]
        for part in ("100 ms", "minimal server")
    )
    for run in (*slow, *fast):
        assert min(run["per_s"], run["worker_us"], run["endpoint_us"], run["queue_bytes"]) > 0
        assert sum(run["shares"]) == pytest.approx(run["workers"])
    assert [run["workers"] for run in slow] == [1, 2]
    assert [(run["workers"], run["ledger_bytes"] > 0) for run in fast] == [
        *[(1, True)] * 3,  # next to each of the others
        *[(2, True), (1, False), (2, False)],
    ]
