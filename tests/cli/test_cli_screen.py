"""What is shown where: the bar on a terminal only, the help, and errors in a line."""

from __future__ import annotations

import asyncio
import json
import math
import re
import shlex
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import pytest
from click.shell_completion import BashComplete
from command_line import (
    SEND,
    Cli,
    Completed,
    Program,
    completed,
    order,
    serve,
    to_lines,
    until,
    write_orders,
)
from command_terminal import Terminal, plain, screen

import everlytic_async
from everlytic_async.cli._commands import app
from everlytic_async.cli._counts import Tally
from everlytic_async.cli._exit import handle_errors
from everlytic_async.cli._input import open_input
from everlytic_async.cli._options import InputOptions, WorkflowOptions
from everlytic_async.cli._progress_bar import Bar, PacingStatus
from everlytic_async.cli._screen import SEND_LABELS
from everlytic_async.cli._settings import Settings
from everlytic_async.errors import InvalidOrderError
from everlytic_async.events import CoolDown, OutageEnded, RateChanged
from everlytic_async.outcomes import Outcome
from everlytic_async.sandbox import Sandbox
from support.clock import FakeClock

COMMAND_PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "command.md"
XTERM = {"TERM": "xterm-256color"}

# ------------------------------------------------------------------------------------- a terminal


async def test_a_terminal_shows_a_bar_while_orders_are_sent(program: Program) -> None:
    path = program.write(*map(order, range(40)), "nonsense")
    with serve(latency_s=0.05) as sandbox, Terminal() as terminal:
        process = await (
            program.with_endpoint(sandbox)
            .with_env(**XTERM)
            .start(
                *SEND, "--concurrency", "4", path, stdout=terminal.theirs, stderr=terminal.theirs
            )
        )
        await terminal.wait_for(r"[1-9][0-9]* sent")
        assert sandbox.processed < 40
        run = await completed(process)
        await terminal.wait_for("Why invalid")
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
        assert len(list(source.orders())) == 12  # type: ignore[arg-type]
        bar = Bar(
            "Sending", tally, SEND_LABELS, enabled=True, expected=source.expected, clock=clock
        )
        bar.start()
        for line in range(1, 13):
            clock.now += 0.25  # 4 orders a second
            tally.add(Outcome.SENT, line)
            bar.draw()
        bar.stop()

    drawn = plain(capsys.readouterr().err)
    shown = re.findall(r"([0-9]+) sent +([0-9]+)/s +0:00:0([0-9]) left ([0-9:-]+)", drawn)
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


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize(
    ("words", "prose", "copied"),
    [
        (
            ("send", "--yes", "--no-progress", "--ledger", "l", "orders.jsonl"),
            [
                "  unknown         1  may have been processed: sending them again may notify twice",
                (
                    "1 order is unknown: Everlytic may have processed it. A person has to look "
                    "whether the contacts entered the workflow:"
                ),
            ],
            [
                "  everlytic-async ledger export --state unknown --with orders.jsonl l",
                (
                    "  everlytic-async send --append-results --yes --no-progress --ledger l "
                    "--results a-long-name-of-a-file-for-results.jsonl orders.jsonl"
                ),
            ],
        ),
        (
            ("send", "--sandbox", "--no-progress", "--json", "orders.jsonl"),
            ["To send to your own install, leave out --sandbox, and set EVERLYTIC_BASE_URL,"],
            [],
        ),
        (
            ("check", "--suggest", "till.csv"),
            ["Nothing of this is used by itself. Correct it, save it as everlytic.toml in this"],
            ["  everlytic-async check --show 3 till.csv"],
        ),
        (("check", "no such file, however long its name is.jsonl"), ["No such file"], []),
    ],
    ids=["advice", "summary", "suggest", "error"],
)
@pytest.mark.usefixtures("endpoint")
def test_words_stay_whole_on_a_terminal_and_commands_on_a_line(
    cli: Cli,
    columns: int,
    words: tuple[str, ...],
    prose: list[str],
    copied: list[str],
) -> None:
    results = ("--results", "a-long-name-of-a-file-for-results.jsonl")
    if "--ledger" in words:
        words = (*words[:-1], *results, words[-1])
    (cli.directory / "orders.jsonl").write_text(to_lines(order("s1"), order("u2"), "{}"))
    (cli.directory / "till.csv").write_text("Receipt;E-Mail;Till no\n1;a@example.com;7\n")
    cli.env(COLUMNS=str(columns), **XTERM)
    streams = ["stderr"] if "--suggest" in words else ["stdout", "stderr"]
    with screen(columns, *streams) as written:
        cli(*words)
    shown = plain("".join(written)).replace("\r", "")
    lines = [line.rstrip() for line in shown.split("\n")]
    assert [line for line in copied if line not in lines] == []
    joined = re.sub(r"\n *", " ", shown)
    assert [
        text for text in prose if re.sub(" +", " ", text) not in re.sub(" +", " ", joined)
    ] == []
    too_long = [line for line in lines if len(line) > columns and line not in copied]
    assert [line for line in too_long if " " in line.strip() and line[0] != "{"] == []


@pytest.mark.slow
async def test_ctrl_c_on_a_terminal_leaves_it_in_order(program: Program) -> None:
    path = program.write(*map(order, range(2000)))
    with serve(latency_s=300) as sandbox, Terminal() as terminal:
        process = await (
            program.with_endpoint(sandbox)
            .with_env(**XTERM)
            .start(*SEND, path, stdout=terminal.theirs, stderr=terminal.theirs)
        )
        await until(lambda: sandbox.in_flight > 0)
        process.send_signal(signal.SIGINT)
        await terminal.wait_for("Interrupted: ")
        process.send_signal(signal.SIGINT)
        run = await completed(process)
        await terminal.wait_for("was read\\.")
    assert run.code == 130
    assert "Finishing" in terminal.plain
    assert "Sending to" not in terminal.plain.partition("Interrupted: ")[2]
    assert "\x1b[?25h" in terminal.text.rpartition("\x1b[?25l")[2]


@pytest.mark.usefixtures("shop")
def test_no_progress_means_neither_bar_nor_colour(cli: Cli) -> None:
    cli.env(**XTERM)
    with screen(100, "stderr") as written:
        run = cli(*SEND, "--no-progress", cli.write(*map(order, range(20))))
    assert (run.code, written) == (0, [])
    assert "\x1b" not in run.out


# -------------------------------------------------------------------------------- what completes


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("doc", ["doctor"]),
        ("send --del", ["--delivery"]),
        ("send --delivery at-l", ["at-least-once"]),
        ("check --format shopify-", ["shopify-graphql", "shopify-csv"]),
        ("check --include v", ["voided"]),
        ("ledger re", ["resolve"]),
        ("queue s", ["status"]),
    ],
)
def test_the_shell_completes_commands_options_and_values(line: str, expected: list[str]) -> None:
    *words, incomplete = line.split()
    shell = BashComplete(app, {}, "everlytic-async", "_EVERLYTIC_ASYNC_COMPLETE")
    assert [each.value for each in shell.get_completions(words, incomplete)] == expected


def test_bash_completes_as_the_docs_set_it_up() -> None:
    line = """eval "$(_EVERLYTIC_ASYNC_COMPLETE=bash_source everlytic-async)\""""
    assert f"`{line}`" in COMMAND_PAGE.read_text("utf-8")
    script = f"""
        export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"
        {line}
        COMP_WORDS=(everlytic-async send --del); COMP_CWORD=2
        _everlytic_async_completion everlytic-async
        printf '%s\n' "${{COMPREPLY[@]}}"
        complete -p everlytic-async
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    reply, registered = done.stdout.splitlines()
    assert reply == "--delivery"
    assert registered.endswith("_everlytic_async_completion everlytic-async")


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


def test_a_script_gets_the_error_that_ended_the_run(cli: Cli, closed_port: int) -> None:
    cli.use(f"http://127.0.0.1:{closed_port}")
    run = cli(*SEND, "--json", "--retries", "0", cli.write(*map(order, range(9))))
    found = json.loads(run.out)
    assert (run.code, found["exit_code"], found["sent"]) == (1, 1, 0)
    assert f"127.0.0.1:{closed_port} could not be reached" in found["errors"][0]


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


# ------------------------------------------------------------------------------------- the help


def all_commands() -> dict[str, click.Command]:
    groups = {name: each for name, each in app.commands.items() if hasattr(each, "commands")}
    inner = {
        f"{name} {command}": each
        for name, group in groups.items()
        for command, each in group.commands.items()
    }
    return {"": app, **app.commands, **inner}


@pytest.mark.parametrize("name", all_commands())
def test_help_lists_and_explains_every_option_with_examples(cli: Cli, name: str) -> None:
    run = cli(*name.split(), "--help")
    assert (run.code, run.err) == (0, "")
    command = all_commands()[name]
    options = [
        param
        for param in command.get_params(click.Context(command))
        if isinstance(param, click.Option)
    ]
    assert [option.name for option in options if not option.help] == []
    assert [opt for option in options for opt in option.opts if opt not in run.out] == []
    assert "everlytic-async" in run.out
    # Examples and lists are not broken on a terminal of 80 columns.
    lines = (command.help or "").split("\n")
    assert [line for line in lines if line.startswith("    ") and len(line) > 76] == []
    if name:
        assert "Examples:" in run.out
        assert "Exit codes:" in run.out
    if name in ("", "send"):
        for variable in ("EVERLYTIC_BASE_URL", "EVERLYTIC_STORE_HASH", "EVERLYTIC_CUSTOMER_HASH"):
            assert variable in run.out
    if not name:
        shown = re.findall(r"^│ ([a-z]+) ", run.out, re.MULTILINE)
        assert shown == [
            "send",
            "check",
            "ledger",
            "doctor",
            "sandbox",
            "enqueue",
            "worker",
            "queue",
        ]


async def test_help_loads_nothing_that_it_does_not_need(program: Program) -> None:
    script = (
        "import sys\nsys.argv = ['everlytic-async', '--help']\n"
        "from everlytic_async.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'aiohttp', 'asyncio', 'attrs', 'rich.progress'}\n"
        "own = {f'everlytic_async.{name}' for name in ('client', 'orders', 'sandbox', 'sources')}\n"
        "print(sorted((heavy | own) & set(sys.modules)), file=sys.stderr)\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script),
        env=program.environment,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert (await completed(process)).err == "[]\n"


def test_the_version_is_shown(cli: Cli) -> None:
    run = cli("--version")
    expected = f"everlytic-async {version('everlytic-async')}\n"
    assert (run.code, run.out, run.err) == (0, expected, "")


OF_SEND = {
    "--rate nan": "'--rate'",
    "--rate inf": "'--rate'",
    "--rate abc": "'abc' is not a valid number.",
    "--limit abc": "'abc' is not a valid whole number.",
    "--concurrency 65536": "'--concurrency'",
    "--workflow-id 0": "'--workflow-id'",
    f"--workflow-id {2**63}": "'--workflow-id'",
    "--workflow-id 32.0": "'--workflow-id'",
    "--delivery twice": "'--delivery'",
    "--resend sent": "'--resend'",
    **dict.fromkeys(("--store-hash x", "--customer-hash x", "--base-url x"), "No such option"),
    "--to nobody": "--to: contact_email",
    "--to a@example.com,b@example.com": "--to: contact_email",
    "--to a@example.com --ledger l": "--ledger and --to contradict each other",
    "--to a@example.com --resend unknown": "--resend and --to contradict each other",
    "--no-ledger --json --results -": "both want the standard output",
    "--ledger l --no-ledger": "--ledger and --no-ledger contradict each other",
    "--sandbox --ledger l": "--ledger and --sandbox contradict each other",
    "--sandbox --resend unknown": "--resend and --sandbox contradict",
    "--no-ledger --resend unknown": "--resend and --no-ledger contradict",
    "--no-ledger --durability power": "--durability and --no-ledger contradict",
    "--no-ledger --append-results": "--append-results needs --results FILE",
}
OF_READING = {
    "--format xml": "there is no format 'xml'",
    "--include nice": "there is no 'nice'",
    # It would do nothing: nothing is left out of another input than a shop's.
    "--include cancelled": "include is about the orders of a shop's export",
    "--since yesterday": "since: expected a date or a time",
    "--map order_id": "expected FIELD=PATH",
    "--map order_nr=Nr": "did you mean order_id?",
    "--map order_id=a --map order_id=b": "mapped more than once",
}
WHICH = "say which dead letters"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        *((f"send {options} orders.jsonl", error) for options, error in OF_SEND.items()),
        *(
            (f"{command} {options} orders.jsonl", error)
            for options, error in OF_READING.items()
            for command in ("check", "send --sandbox")
        ),
        ("send", "Missing argument"),
        ("sent x", "No such command"),
        ("check --sandbox x", "No such option"),
        ("ledger state x", "No such command"),
        ("ledger export --state lost x", "'--state'"),
        *(
            (f"ledger {command} l", "there is no ledger at ")
            for command in ("status", "export", "resolve --sent --all", "copy --accept-loss none")
        ),
        ("ledger resolve l 2001", "either --sent or --send-again"),
        ("ledger resolve l --sent --send-again 2001", "either --sent or --send-again"),
        ("ledger resolve l --sent", "--all; a key that starts with # needs quotes: '#1051'"),
        ("ledger resolve l --sent --all 2001", "say which orders: their keys, or --all"),
        ("queue redrive abc", "'abc' is not a valid whole number."),
        *((f"queue {command}", WHICH) for command in ("redrive", "drop", "redrive 1 --all")),
        ("queue drop 1 --outcome unknown", "--outcome is for --all"),
        ("enqueue --nats nats://me:t0ken@127.0.0.1 orders.jsonl", "set EVERLYTIC_NATS_URL instead"),
        ("sandbox --rate inf", "'--rate'"),
        ("sandbox --throttled nan", "'--throttled'"),
        ("sandbox --throttled 1.5", "'--throttled'"),
        ("sandbox --port 99999", "'--port'"),
        ("sandbox --throttled 0.7 --server-error 0.7", "must be at most 1 together"),
        *(
            (f"worker --health {where}", "--health wants HOST:PORT")
            for where in ("9090", "localhost:http", ":70000")
        ),
        ("worker --durability power", "--durability is for a ledger in a file"),
    ],
)
def test_what_cannot_be_meant_is_an_error_and_nothing_is_done(
    cli: Cli, shop: Sandbox, words: str, error: str
) -> None:
    cli.write(order(1))
    run = cli(*words.split())
    assert (run.code, run.out, shop.requests) == (2, "", 0)
    assert "Error" in run.err
    assert "t0ken" not in run.err
    assert re.sub(r"[\s│]+", " ", error) in re.sub(r"[\s│]+", " ", run.err)
    assert [each.name for each in cli.directory.iterdir()] == ["orders.jsonl"]


# ----------------------------------------------------------------------------------- the errors


async def test_without_the_extra_it_says_what_to_install(program: Program) -> None:
    package = Path(everlytic_async.__file__).parent
    (program.directory / "everlytic_async").symlink_to(package)
    process = await asyncio.create_subprocess_exec(
        # -S: no site-packages, and so nothing but the standard library and the package itself.
        *(sys.executable, "-S", "-m", "everlytic_async", "--help"),
        cwd=program.directory,
        env=program.environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    run = await completed(process)
    assert (run.code, run.out) == (2, "")
    assert "pip install 'everlytic-async[cli]'" in run.err
    assert "Traceback" not in run.err


@pytest.mark.parametrize("debug", [False, True])
def test_an_unforeseen_error_is_a_line_and_a_traceback_only_with_debug(
    capsys: pytest.CaptureFixture[str], debug: bool
) -> None:
    def command() -> int:
        raise KeyError("ann@example.com")

    with pytest.raises(SystemExit) as left:
        handle_errors(command, debug=debug)
    assert left.value.code == 2  # not 1: `until` would repeat it for ever
    err = capsys.readouterr().err
    assert "Error: an unexpected KeyError." in err
    assert ("--debug" in err) is not debug
    assert ("Traceback" in err) is debug
    assert ("ann@example.com" in err) is debug


# ---------------------------------------------------------------------------------- the summary


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
