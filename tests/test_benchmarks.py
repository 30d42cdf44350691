"""The benchmarks run, check what they measure, and leave nothing behind. No speed is asserted."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import _throughput_child
from benchmarks._common import BenchmarkError, Target, chosen, measure, paired, service
from benchmarks._limiter import find_nginx
from benchmarks._load import WrongAnswerError

ROOT = Path(__file__).resolve().parent.parent
LIMITERS = [
    "sandbox",
    pytest.param(
        "nginx",
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(find_nginx() is None, reason="nginx is not installed"),
        ],
    ),
]


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
    """What a benchmark saved; its exit code must say what its targets say."""
    file = tmp_path / "figures.json"
    ended = run(*arguments, "--json", str(file))
    assert ended.stderr == ""
    figures = json.loads(file.read_text())
    assert ended.returncode == (0 if all(t["met"] for t in figures["targets"]) else 1)
    assert figures["machine"]["versions"]["aiohttp"]
    return figures


def targets(figures: dict) -> list[str]:
    return [target["name"] for target in figures["targets"]]


@pytest.mark.slow
def test_throughput_measures_every_round_of_every_contestant(tmp_path):
    names = ["stream_orders", "stream_prebuilt", "send_order", "bare_aiohttp", "aiohttp_tenacity"]
    figures = figures_of(
        tmp_path,
        "benchmarks.throughput",
        *("--orders", "200", "--rounds", "2", "--only", ",".join(names)),
    )
    assert list(figures["contestants"]) == names
    for row in figures["contestants"].values():
        assert row["orders"] == 200
        assert len(row["cpu_us"]) == len(row["per_s"]) == 2
        assert min(row["cpu_us"] + row["per_s"]) > 0
    assert targets(figures) == [
        "CPU of stream_orders / bare aiohttp",
        "CPU of stream_orders / aiohttp under tenacity",
    ]


def test_throughput_names_the_contestants_there_are_when_asked_for_another():
    ended = run("benchmarks.throughput", "--only", "curl")
    assert ended.returncode == 2
    assert "curl is not among: stream_orders," in ended.stderr


@pytest.mark.parametrize(
    "contestant",
    [
        "stream_orders",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("bare_aiohttp", "send_order")),
    ],
)
def test_a_contestant_whose_orders_are_refused_is_not_measured(contestant):
    refusing = {
        "backend": "sandbox",
        "limit": 1,
        "burst": 0,
        "connections": None,
        "retry_after": 100_000,  # more than any client waits
        "latency_s": 0,
    }
    with service("benchmarks._limiter", json.dumps(refusing)) as server:
        settings = {
            "contestant": contestant,
            "url": server.url,
            "orders": 10,
            "warm_up": 10,
            "concurrency": 4,
            "uvloop": False,
        }
        with pytest.raises(BenchmarkError, match=r"429|Throttled|WrongAnswerError"):
            measure("benchmarks._throughput_child", settings)


def test_an_answer_that_is_not_the_endpoints_is_an_error():
    check = _throughput_child.check
    check(200, {"status": "success"})
    for status, body in [(201, {"status": "success"}), (200, {"status": "error"}), (200, None)]:
        with pytest.raises(WrongAnswerError):
            check(status, body)


@pytest.mark.slow
def test_memory_is_read_along_the_stream_and_judged_from_the_10_000th_order(tmp_path):
    short = figures_of(tmp_path, "benchmarks.memory", "--orders", "1200")
    assert list(short["resident_bytes"]) == ["1000", "1200"]
    assert targets(short) == []
    longer = figures_of(tmp_path, "benchmarks.memory", "--orders", "10100", "--ordered")
    assert list(longer["resident_bytes"]) == ["1000", "10000", "10100"]
    assert min(longer["resident_bytes"].values()) > 1_000_000
    assert targets(longer) == ["growth between the 10,000th and the 10,100th order"]


@pytest.mark.slow
def test_startup_measures_whole_processes(tmp_path):
    figures = figures_of(tmp_path, "benchmarks.startup", "--rounds", "1")
    took_ms = figures["took_ms"]
    assert took_ms["import aiohttp"][0] > took_ms["an empty program"][0]
    assert targets(figures) == [
        "`import everlytic_async` beyond aiohttp's own",
        "`from everlytic_async import EverlyticClient` beyond aiohttp's own",
        "`everlytic-async --help`",
    ]


@pytest.mark.parametrize("limiter", LIMITERS)
def test_pacing_counts_refusals_at_the_limiter_and_loses_sight_of_no_order(tmp_path, limiter):
    figures = figures_of(
        tmp_path,
        "benchmarks.pacing",
        *("rate", "--limit", "200", "--burst", "5", "--orders", "100", "--retry-after", "0"),
        *("--backend", limiter, "--only", "max_rate,tenacity_retry_after"),
    )
    ours, rival = figures["runs"]
    assert (ours["sender"], rival["sender"]) == ("max_rate", "tenacity_retry_after")
    assert ours["lost"] == 0
    assert rival["refusals"] > 0  # 64 at once, and 6 are let through
    for one in (ours, rival):
        assert sum(process["sent"] for process in one["processes"]) == 100 - one["lost"]
        assert one["refused"] == one["refusals"] / 100
    assert targets(figures) == [
        "ours, max_rate given, Retry-After: 0, 100 orders: of the limit",
        "ours, max_rate given, Retry-After: 0, 100 orders: refused",
        "ours, max_rate given, Retry-After: 0, 100 orders: orders lost",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("limiter", LIMITERS)
def test_pacing_shows_each_process_share_of_one_limit(tmp_path, limiter):
    figures = figures_of(
        tmp_path,
        "benchmarks.pacing",
        *("rate", "--limit", "200", "--orders", "200", "--processes", "2"),
        *("--backend", limiter, "--only", "max_rate"),
    )
    (one,) = figures["runs"]
    assert len(one["shares"]) == len(one["processes"]) == 2
    assert one["elapsed_s"] == 1
    assert one["share"] == pytest.approx(sum(one["shares"]) / 2)


@pytest.mark.slow
@pytest.mark.parametrize("limiter", LIMITERS)
def test_pacing_takes_a_limit_on_requests_at_the_same_time(tmp_path, limiter):
    figures = figures_of(
        tmp_path,
        "benchmarks.pacing",
        *("connections", "--connections", "4", "--latency-ms", "10", "--orders", "50"),
        *("--concurrency", "4", "--backend", limiter, "--only", "adaptive"),
    )
    (one,) = figures["runs"]
    assert one["lost"] == 0
    assert one["refusals"] == 0  # never more than 4 are in flight
    assert one["share"] <= 1


@pytest.mark.slow
def test_pacing_without_a_limit_measures_what_pacing_costs(tmp_path):
    figures = figures_of(
        tmp_path,
        "benchmarks.pacing",
        *("latency", "--latency-ms", "10", "--orders", "200", "--only", "adaptive"),
    )
    (one,) = figures["runs"]
    assert one["refusals"] == one["lost"] == 0
    assert one["share"] <= 1
    assert 1 <= one["peak_in_flight"] <= 64


@pytest.mark.slow
def test_pacing_matrix_crosses_limits_and_bursts(tmp_path):
    figures = figures_of(
        tmp_path,
        "benchmarks.pacing",
        *("matrix", "--limits", "200,400", "--bursts", "0,9", "--seconds", "1"),
        *("--only", "max_rate", "--backend", "sandbox"),
    )
    cells = [(run["setting"]["limit"], run["setting"]["burst"]) for run in figures["runs"]]
    assert cells == [(200, 0), (200, 9), (400, 0), (400, 9)]


@pytest.mark.slow
def test_pacing_measures_in_one_run_all_that_is_promised(tmp_path):
    figures = figures_of(
        tmp_path,
        "benchmarks.pacing",
        *("all", "--limit", "400", "--orders", "20", "--only", "max_rate,adaptive"),
        *("--backend", "sandbox"),
    )
    measured = [
        (run["scenario"], run["sender"], run["setting"]["orders"], run["setting"]["processes"])
        for run in figures["runs"]
    ]
    assert measured == [
        ("rate", "adaptive", 20, 1),
        ("rate", "max_rate", 20, 1),
        ("rate", "adaptive", 20, 1),
        ("rate", "max_rate", 20, 1),
        ("rate", "adaptive", 80, 1),
        ("rate", "adaptive", 20, 4),
        ("latency", "adaptive", 80, 1),
    ]
    assert len(targets(figures)) == len(set(targets(figures)))


@pytest.mark.slow
def test_terminated_in_the_middle_it_takes_all_its_processes_along():
    screen, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.memory"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=terminal,
        start_new_session=True,
    )
    try:
        os.close(terminal)
        shown = b""
        while b"to order 10,000" not in shown:  # both its processes are at work
            shown += os.read(screen, 1024)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
    finally:
        process.kill()
        process.wait()
        os.close(screen)


@pytest.mark.parametrize(
    ("value", "at_most", "met"),
    [(1.1, True, True), (1.2, True, False), (1.1, False, False), (1.2, False, True)],
)
def test_a_target_is_met_up_to_its_bound(value, at_most, met):
    assert Target("a figure", value, 1.15, at_most=at_most).met is met
    assert Target("a figure", 1.15, 1.15, at_most=at_most).met


def test_ratios_are_taken_within_a_round():
    assert paired([1.0, 20.0, 3.0], [1.0, 10.0, 1.0]) == 2


def test_the_contestants_keep_the_order_of_the_table_however_they_are_asked_for():
    known: Sequence[str] = ("one", "two", "three")
    assert chosen("three, one", known) == ["one", "three"]
    assert chosen(None, known) == list(known)


@pytest.mark.slow
def test_ledger_measures_with_and_without_one_and_a_resume(tmp_path):
    figures = figures_of(
        tmp_path,
        "benchmarks.ledger",
        *("--orders", "200", "--rounds", "1", "--backfill", "300", "--concurrency", "8"),
    )
    assert {kind: len(runs) for kind, runs in figures["runs"].items()} == {
        "none": 1,
        "process": 1,
        "power": 1,
    }
    assert min(run["per_s"] for runs in figures["runs"].values() for run in runs) > 0
    assert figures["ledger_bytes"] > 0
    assert targets(figures) == [
        "throughput with / without a ledger",
        "orders a second that a resume skips",
    ]


def workers(tmp_path: Path, part: str) -> dict:
    return figures_of(
        tmp_path,
        "benchmarks.workers",
        *("--only", part, "--orders", "20", "--fast-orders", "60", "--rounds", "1"),
        *("--latency-ms", "5", "--concurrency", "4", "--ids", "5000"),
    )


def runs_of(part: dict) -> list[dict]:
    runs = [run for row in part.values() for run in row]
    for run in runs:
        assert min(run["per_s"], run["worker_us"], run["endpoint_us"], run["queue_bytes"]) > 0
        assert sum(run["shares"]) == pytest.approx(run["workers"])
    return runs


@pytest.mark.slow
def test_workers_measures_one_and_two(tmp_path):
    figures = workers(tmp_path, "latency")
    assert targets(figures) == ["2 workers / 1, with latency"]
    assert [run["workers"] for run in runs_of(figures["latency"])] == [1, 2]


@pytest.mark.slow
def test_workers_measures_where_the_time_goes(tmp_path):
    figures = workers(tmp_path, "minimal,window")
    assert isinstance(figures["window"]["bytes_per_id"], float)
    runs = runs_of(figures["minimal"])
    assert [run["workers"] for run in runs] == [1, 2, 1, 2]
    assert [run["ledger_bytes"] > 0 for run in runs] == [True, True, False, False]
    assert list(figures["alone"]) == ["none", "process"]


def test_reading_compares_the_same_orders_with_each_rival(tmp_path):
    figures = figures_of(tmp_path, "benchmarks.reading", "--orders", "20", "--rounds", "1")
    assert all(row["ratios"][0] > 0 for row in figures["cpu"].values())
    assert targets(figures) == [
        "shopify.csv, beside csv.DictReader",
        "woocommerce.json, beside ijson",
    ]
