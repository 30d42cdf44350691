"""What is shown where: the bar on a terminal only, JSON for scripts, little with ``--quiet``."""

from __future__ import annotations

import json
import math
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from command_line import SEND, Cli, Completed, Program, completed, to_lines, until, write_orders
from command_terminal import Terminal, plain, screen

from everlytic_async.cli._counts import Tally
from everlytic_async.cli._input import open_input
from everlytic_async.cli._options import InputOptions, WorkflowOptions
from everlytic_async.cli._progress_bar import Bar, PacingStatus
from everlytic_async.cli._screen import SEND_LABELS
from everlytic_async.cli._settings import Settings
from everlytic_async.events import CoolDown, OutageEnded, RateChanged
from everlytic_async.outcomes import Outcome
from everlytic_async.sandbox import Sandbox
from support.clock import FakeClock
from support.delivery import order
from support.sandboxes import serve

XTERM = {"TERM": "xterm-256color"}

# ------------------------------------------------------------------------------------- a terminal


def test_a_terminal_shows_a_bar_while_orders_are_sent(program: Program) -> None:
    path = program.write(*map(order, range(40)), "nonsense")
    with serve(latency_s=0.05) as sandbox, Terminal() as terminal:
        here = program.with_endpoint(sandbox).with_env(**XTERM)
        streams = dict.fromkeys(("stdout", "stderr"), terminal.theirs)
        process = here.start(*SEND, "--concurrency", "4", path, **streams)
        terminal.wait_for(r"[1-9][0-9]* sent")
        assert sandbox.processed < 40
        run = completed(process)
        terminal.wait_for("Why invalid")
    assert run.code == 3
    assert f"Sending to {sandbox.base_url.removeprefix('http://')}" in terminal.plain
    assert re.search(r"[1-9][0-9]* sent +(1 invalid +)?[0-9]+/s +0:00:0[0-9] ", terminal.plain)
    assert "\x1b[" in terminal.text
    assert "\x1b[?25h" in terminal.text.rpartition("\x1b[?25l")[2]  # the cursor is back
    # The summary takes its place.
    assert plain(terminal.text.rpartition("\x1b[2K")[2]).startswith("41 orders from")


def test_the_time_that_is_left_is_that_of_the_orders_without_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # to rich it is a terminal
    monkeypatch.setenv("COLUMNS", "120")
    path = write_orders(tmp_path, *map(order, range(12)))
    clock = FakeClock()
    tally = Tally()
    with open_input(InputOptions(file=str(path)), Settings(None)) as source:
        # So few are all read at once.
        assert len(list(source.orders())) == source.expected() == 12  # type: ignore[arg-type]
        # What is skipped takes no time.
        tally.counts[Outcome.SKIPPED] = 100
        bar = Bar("Sending", tally, SEND_LABELS, enabled=True, expected=lambda: 112, clock=clock)
        bar.start()
        for line in range(1, 13):
            clock.now += 0.25  # 4 orders a second
            tally.add(Outcome.SENT, line)
            bar.draw()
        bar.stop()

    drawn = plain(capsys.readouterr().err)
    shown = re.findall(
        r"([0-9]+) sent +100 skipped +([0-9]+)/s +0:00:0([0-9]) left ([0-9:-]+)", drawn
    )
    assert [left for sent, *_, left in shown if sent == "1"] == ["-:--:--"]
    # The rate that is shown is the one before: from the third on.
    assert {each for each in shown if int(each[0]) > 2} == {
        (str(sent), "4", str(sent // 4), f"0:00:0{math.ceil((12 - sent) / 4)}")
        for sent in range(3, 13)
    }


@pytest.mark.parametrize("columns", [60, 80, 100, 160])
def test_nothing_is_cut_off_on_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # to rich it is a terminal
    monkeypatch.setenv("COLUMNS", str(columns))
    clock = FakeClock()
    tally = Tally()
    bar = Bar(
        "Sending to shop-a.everlytic.net",
        tally,
        SEND_LABELS,
        enabled=True,
        expected=lambda: 250_000.0,
        note=lambda: "waits 12 s: the endpoint answered 429",
        clock=clock,
    )
    bar.start()
    for _ in range(100):
        clock.now += 0.25
        tally.counts.update(dict.fromkeys(Outcome, 8) | {Outcome.SENT: 1205})
        bar.draw()
    bar.stop()
    drawn = plain(capsys.readouterr().err)
    frame = drawn[-2000:]  # the last ones
    for words in (
        "Sending to shop-a.everlytic.net",
        "━" * 10,
        "120,500 sent",
        *(f"800 {name}" for name, *_ in SEND_LABELS.values() if name != "sent"),
        "/s 0:00:24 left 0:00:2",
        "waits 12 s: the endpoint answered 429",
    ):
        assert re.search(words.replace(" ", r"\s+"), frame), words
    assert "…" not in drawn
    # The terminal shows Ctrl-C as ^C at the end of the last line, which must not break it.
    assert max(map(len, re.split(r"[\r\n]+", drawn))) <= columns - len("^C")


RESULTS = "--results a-long-name-of-a-file-for-results.jsonl"


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize(
    ("words", "prose", "copied"),
    [
        (
            f"send --yes --no-progress --ledger l {RESULTS} orders.jsonl",
            [
                "  unknown         1  may have been processed: sending them again may notify twice",
                "A person has to look whether the contacts entered the workflow:",
            ],
            [
                "ledger export --state unknown --with orders.jsonl l",
                f"send --append-results --yes --no-progress --ledger l {RESULTS} orders.jsonl",
            ],
        ),
        (
            "send --sandbox --no-progress --json orders.jsonl",
            ["To send to your own install, leave out --sandbox, and set EVERLYTIC_BASE_URL,"],
            [],
        ),
        (
            "check --suggest till.csv",
            ["Nothing of this is used by itself. Correct it, save it as everlytic.toml in this"],
            ["check --show 3 till.csv"],
        ),
        ("check no-such-file,-however-long-its-name-is.jsonl", ["No such file"], []),
    ],
    ids=["advice", "summary", "suggest", "error"],
)
@pytest.mark.usefixtures("endpoint")
def test_words_stay_whole_on_a_terminal_and_commands_on_a_line(
    cli: Cli, columns: int, words: str, prose: list[str], copied: list[str]
) -> None:
    Path("orders.jsonl").write_text(to_lines(order("s1"), order("u2"), "{}"))
    Path("till.csv").write_text("Receipt;E-Mail;Till no\n1;a@example.com;7\n")
    cli.env(COLUMNS=str(columns), **XTERM)
    with screen(columns, *["stdout", "stderr"]["--suggest" in words :]) as written:
        cli(*words.split())
    lines = [line.rstrip() for line in written.plain.replace("\r", "").split("\n")]
    commands = [f"  everlytic-async {command}" for command in copied]
    assert [line for line in commands if line not in lines] == []
    joined = " ".join(" ".join(lines).split())
    assert [text for text in prose if " ".join(text.split()) not in joined] == []
    too_long = [line for line in lines if len(line) > columns and line not in commands]
    assert [line for line in too_long if " " in line.strip() and line[0] != "{"] == []


@pytest.mark.slow
def test_ctrl_c_on_a_terminal_leaves_it_in_order(program: Program) -> None:
    path = program.write(*map(order, range(2000)))
    with serve(latency_s=300) as sandbox, Terminal() as terminal:
        here = program.with_endpoint(sandbox).with_env(**XTERM)
        process = here.start(*SEND, path, stdout=terminal.theirs, stderr=terminal.theirs)
        until(lambda: sandbox.in_flight > 0)
        process.send_signal(signal.SIGINT)
        terminal.wait_for("Interrupted: ")
        process.send_signal(signal.SIGINT)
        run = completed(process)
        terminal.wait_for("was read\\.")
    assert run.code == 130
    assert "Finishing" in terminal.plain
    assert "Sending to" not in terminal.plain.partition("Interrupted: ")[2]
    assert "\x1b[?25h" in terminal.text.rpartition("\x1b[?25l")[2]


@pytest.mark.usefixtures("shop")
def test_no_progress_means_neither_bar_nor_colour(cli: Cli) -> None:
    cli.env(**XTERM)
    with screen(100, "stderr") as written:
        run = cli(*SEND, "--no-progress", cli.write(*map(order, range(20))))
    assert (run.code, written.text) == (0, "")
    assert "\x1b" not in run.out


# ------------------------------------------------------------------------------ --json and --quiet

COUNTS = {"sent": 0, "invalid": 0, "rejected": 0, "not_sent": 0, "unknown": 0, "skipped": 0}


@pytest.mark.parametrize(
    ("command", "orders", "expected"),
    [
        (
            ("send", "--no-ledger"),
            [order("s1"), order("r2"), order("u3"), "{}"],
            {**COUNTS, "sent": 1, "rejected": 1, "unknown": 1, "invalid": 1, "exit_code": 3},
        ),
        (("send", "--sandbox"), [order(1)], {**COUNTS, "sent": 1, "exit_code": 0}),
        (
            ("send", "--no-ledger", "--dry-run"),
            [order(1), "{}"],
            {"valid": 1, "invalid": 1, "skipped": 0, "exit_code": 1},
        ),
        (("check", "--no-ledger"), [], {"valid": 0, "invalid": 0, "skipped": 0, "exit_code": 0}),
        (
            ("check", "--no-ledger"),
            [order(1), "{}", order(3)],
            {"valid": 2, "invalid": 1, "skipped": 0, "exit_code": 1},
        ),
    ],
)
@pytest.mark.parametrize("quiet", [(), ("--quiet",)], ids=" ".join)
@pytest.mark.usefixtures("endpoint")
def test_a_script_gets_the_counts_as_one_json_object(
    cli: Cli,
    command: tuple[str, ...],
    orders: list[Any],
    expected: dict[str, int],
    quiet: tuple[str, ...],
) -> None:
    path = cli.write(*orders)
    run = cli(*command, "--json", *quiet, path)
    found = json.loads(run.out)
    assert run.out.count("\n") == 1
    others = {"input", "orders", "left_out", "possible_duplicates", "reasons", "warnings"}
    others |= {"errors", "elapsed_s", "repeated"}
    assert found.keys() == expected.keys() | others
    assert {name: found[name] for name in expected} == expected
    assert run.code == expected["exit_code"]
    assert (found["input"], found["orders"], found["errors"]) == (str(path), len(orders), [])
    if "{}" in orders:
        (invalid,) = [each for each in found["reasons"] if each["outcome"] == "invalid"][:1]
        assert invalid["lines"] == [orders.index("{}") + 1]
        assert invalid["orders"] == 1
    # The summary is for people.
    assert (f" from {path} " in run.err) == (not quiet)
    # What a person has to do is for a person, too.
    assert not quiet or (run.err == "") == (run.code != 3)


def test_quiet_leaves_warnings_and_errors(cli: Cli, shop: Sandbox) -> None:
    path = cli.write(order(1))
    (cli.directory / "everlytic.toml").write_text('[mapping]\norder_id = "order_id"\n')
    assert cli("send", "-q", "--ledger", "l", path) == Completed(0, "", "")
    assert cli("check", "-q", "--ledger", "l", path) == Completed(0, "", "")
    run = cli("check", "-q", "--no-ledger", "--map", "checkout_url=x", path)
    assert run.err.startswith("Warning: the mapping for checkout_url matched nothing")
    assert cli("check", "-q", "gone.jsonl").err.startswith("Error: gone.jsonl can't be read")
    results = cli("send", "-q", "--no-ledger", "--results", "-", path)
    assert (json.loads(results.out)["outcome"], results.err) == ("sent", "")
    assert shop.processed == 2


# -------------------------------------------------------------------------------- what a bar shows


@pytest.mark.parametrize(
    ("count", "limit", "first"), [(4000, None, None), (100, 10, 10), (0, None, None)]
)
@pytest.mark.parametrize("format_", ["jsonl", "json"])
def test_the_number_of_orders_is_estimated_from_what_was_read(
    tmp_path: Path, format_: str, count: int, limit: int | None, first: int | None
) -> None:
    orders = [order(number) for number in range(count)]
    path = tmp_path / "orders"
    path.write_text(to_lines(*orders) if format_ == "jsonl" else json.dumps(orders))
    with open_input(WorkflowOptions(file=str(path), limit=limit), Settings(None)) as source:
        assert source.expected() == first
        estimates = [source.expected() for _order in source.orders()]  # type: ignore[union-attr]
        assert estimates[:1] in ([], [first])
        assert estimates[1000:] == pytest.approx([4000] * len(estimates[1000:]), rel=0.02)
        assert source.expected() == len(estimates) == (limit or count)


def test_a_stopped_input_hands_out_no_more_orders(tmp_path: Path) -> None:
    path = write_orders(tmp_path, *map(order, range(5)))
    with open_input(InputOptions(file=str(path)), Settings(None)) as source:
        orders = iter(source.orders())  # type: ignore[arg-type]
        next(orders)
        source.stop()
        assert list(orders) == []
        assert (source.lines, source.read_count, source.exhausted) == ({0: 1}, 1, False)


RATE = RateChanged(at=0.0, rate=398.0, limit=400.0)


@pytest.mark.parametrize(
    ("events", "shown"),
    [
        ([], {0.0: ""}),
        ([(3.0, 429)], {0.0: "waits 3 s: 429", 2.0: "waits 1 s: 429", 3.0: ""}),
        ([(0.2, 429)], {0.0: ""}),  # too short to read about
        ([(1.0, 429), RATE], {0.0: "waits 1 s: 429", 1.0: "limit about 400/s"}),
        # Trouble is shown until it is over.
        ([(0.1, None)], {0.0: "waits 1 s: refused", 5.0: "tries again: refused"}),
        ([(0.1, None), OutageEnded(at=0.0, lasted_s=5.0)], {0.0: "", 5.0: ""}),
    ],
)
def test_the_bar_says_why_nothing_is_sent_or_which_limit_is_held(
    events: list[Any], shown: dict[float, str]
) -> None:
    clock = FakeClock()
    start = clock.now
    pacing = PacingStatus(clock)
    for event in events:
        if isinstance(event, tuple):
            wait_s, status = event
            reason = "refused" if status is None else str(status)
            pacing(CoolDown(at=start, wait_s=wait_s, status=status, reason=reason))
        else:
            pacing(event)
    for after_s, text in shown.items():
        clock.now = start + after_s
        assert pacing.text == text
