"""What is shown where: the bar on a terminal only, the help, and errors in a line."""

from __future__ import annotations

import asyncio
import json
import math
import re
import signal
import sys
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path

import click
import pytest
from command_line import SEND, Program, box, ended, lines_of, order
from command_terminal import Terminal

import everlytic_async
from everlytic_async.cli._commands import app
from everlytic_async.cli._exit import handle_errors
from everlytic_async.cli._input import Input
from everlytic_async.cli._progress import Bar
from everlytic_async.cli._screen import LABELS
from everlytic_async.cli._tally import Tally
from everlytic_async.errors import InvalidOrderError
from everlytic_async.outcomes import Outcome
from support.clock import FakeClock

Write = Callable[..., Path]
Until = Callable[[Callable[[], bool]], Awaitable[None]]


async def test_a_terminal_shows_a_bar_while_it_goes_on(
    program: Program, orders_file: Write, until: Until
) -> None:
    path = orders_file(*map(order, range(100)), "nonsense")
    terminal = Terminal()
    async with box(latency_s=0.1) as sandbox:
        process = await (
            program.pointed_at(sandbox)
            .told(TERM="xterm-256color")
            .start(
                *SEND, "--concurrency", "4", path, stdout=terminal.theirs, stderr=terminal.theirs
            )
        )
        await until(lambda: re.search(r"[1-9][0-9]* sent", terminal.plain) is not None)
        assert sandbox.processed < 100
        run = await ended(process)
        await until(lambda: "Why invalid" in terminal.plain)
    terminal.close()
    assert run.code == 3
    assert f"Sending to {sandbox.base_url.removeprefix('http://')}" in terminal.plain
    assert re.search(r"100 sent +1 invalid +[0-9]+/s +0:00:[0-9]+ left 0:00:00", terminal.plain)
    assert "\x1b[" in terminal.text
    assert "\x1b[?25h" in terminal.text.rpartition("\x1b[?25l")[2]  # the cursor is back


def test_the_time_that_is_left_is_that_of_the_orders_without_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # to rich it is a terminal
    monkeypatch.setenv("COLUMNS", "120")
    path = tmp_path / "orders.jsonl"
    path.write_text(lines_of(*map(order, range(12))))
    clock = FakeClock()
    tally = Tally()
    with Input(str(path)) as source:
        # So few are all read at once.
        assert len(list(source.orders())) == 12  # type: ignore[arg-type]
        bar = Bar("Sending", tally, LABELS, enabled=True, expected=source.expected, clock=clock)
        bar.start()
        for line in range(1, 13):
            clock.now += 0.25  # 4 orders a second
            tally.add(Outcome.SENT, line)
            bar.draw()
        bar.stop()

    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    shown = re.findall(r"([0-9]+) sent +([0-9]+)/s +0:00:0([0-9]) left ([0-9:-]+)", plain)
    assert [left for sent, *_, left in shown if sent == "1"] == ["-:--:--"]
    # The rate that is shown is the one before: from the third on.
    assert {each for each in shown if int(each[0]) > 2} == {
        (str(sent), "4", str(sent // 4), f"0:00:0{math.ceil((12 - sent) / 4)}")
        for sent in range(3, 13)
    }


@pytest.mark.parametrize("format_", ["jsonl", "json"])
def test_how_much_is_done_is_told_by_what_is_finished(tmp_path: Path, format_: str) -> None:
    given = [order(number) for number in range(4000)]
    path = tmp_path / "orders"
    path.write_text(lines_of(*given) if format_ == "jsonl" else json.dumps(given))
    with Input(str(path)) as source:
        estimates = [source.expected() for _order in source.orders()]  # type: ignore[union-attr]
        assert estimates[0] is None
        assert estimates[1000:] == pytest.approx([4000] * 3000, rel=0.02)
        assert source.expected() == 4000


def test_how_much_is_done_of_some_or_of_none(tmp_path: Path) -> None:
    path = tmp_path / "orders.jsonl"
    path.write_text(lines_of(*map(order, range(100))))
    with Input(str(path), limit=10) as source:
        orders = iter(source.orders())  # type: ignore[arg-type]
        assert source.expected() == 10
        next(orders)
        assert source.expected() == 10
    path.write_text("")
    with Input(str(path)) as source:
        assert source.expected() is None
        assert list(source.orders()) == []  # type: ignore[arg-type]
        assert source.expected() == 0


async def test_ctrl_c_on_a_terminal_leaves_it_in_order(
    program: Program, orders_file: Write, until: Until
) -> None:
    path = orders_file(*map(order, range(2000)))
    terminal = Terminal()
    async with box(latency_s=300) as sandbox:
        process = await (
            program.pointed_at(sandbox)
            .told(TERM="xterm-256color")
            .start(*SEND, path, stdout=terminal.theirs, stderr=terminal.theirs)
        )
        await until(lambda: sandbox.in_flight > 0)
        process.send_signal(signal.SIGINT)
        await until(lambda: "Interrupted: " in terminal.plain)
        process.send_signal(signal.SIGINT)
        run = await ended(process)
        await until(lambda: "was read." in terminal.plain)
    terminal.close()
    assert run.code == 130
    assert "Finishing" in terminal.plain
    assert "\x1b[?25h" in terminal.text.rpartition("\x1b[?25l")[2]


@pytest.mark.parametrize("options", [[], ["--no-progress"]], ids=["a pipe", "--no-progress"])
async def test_there_is_no_bar_and_no_colour_elsewhere(
    program: Program, orders_file: Write, until: Until, options: list[str]
) -> None:
    path = orders_file(*map(order, range(20)))
    terminal = Terminal()
    async with box(latency_s=0.05) as sandbox:
        here = program.pointed_at(sandbox).told(TERM="xterm-256color")
        process = await here.start(
            *SEND,
            *options,
            path,
            stderr=terminal.theirs if options else asyncio.subprocess.PIPE,
        )
        run = await ended(process)
    terminal.close()
    assert run.code == 0
    assert (run.err, terminal.text) == ("", "")
    assert "\x1b" not in run.out


async def test_the_sandbox_counts_on_a_terminal(program: Program, until: Until) -> None:
    terminal = Terminal()
    process = await program.told(TERM="xterm-256color").start("sandbox", stderr=terminal.theirs)
    await until(lambda: "0 requests, 0 orders processed" in terminal.plain)
    process.send_signal(signal.SIGINT)
    run = await ended(process)
    terminal.close()
    assert run.code == 0


# ------------------------------------------------------------------------------------- the help


def commands() -> dict[str, click.Command]:
    groups = {
        name: command for name, command in app.commands.items() if hasattr(command, "commands")
    }
    inner = {
        f"{name} {own}": command
        for name, group in groups.items()
        for own, command in group.commands.items()
    }
    return {"": app, **app.commands, **inner}


@pytest.mark.parametrize("name", commands())
def test_every_option_has_help(name: str) -> None:
    command = commands()[name]
    context = click.Context(command)
    options = [param for param in command.get_params(context) if isinstance(param, click.Option)]
    assert options
    assert [option.name for option in options if not option.help] == []


@pytest.mark.parametrize("name", commands())
async def test_help_lists_every_option_and_teaches(program: Program, name: str) -> None:
    run = await program.run(*name.split(), "--help")
    assert (run.code, run.err) == (0, "")
    for param in commands()[name].get_params(click.Context(commands()[name])):
        for option in param.opts if isinstance(param, click.Option) else ():
            assert option in run.out
    assert "everlytic-async" in run.out
    if name:
        assert "Examples:" in run.out
        assert "Exit codes:" in run.out
    if name in ("", "send"):
        for variable in ("EVERLYTIC_BASE_URL", "EVERLYTIC_STORE_HASH", "EVERLYTIC_CUSTOMER_HASH"):
            assert variable in run.out
    if not name:
        assert re.findall(r"^│ ([a-z]+) ", run.out, re.MULTILINE) == [
            "send",
            "check",
            "ledger",
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
        "heavy = {'aiohttp', 'asyncio', 'attrs', 'typed_settings', 'rich.progress'}\n"
        "own = {f'everlytic_async.{name}' for name in ('client', 'orders', 'sandbox', 'sources')}\n"
        "print(sorted((heavy | own) & set(sys.modules)), file=sys.stderr)\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        env=program.environment,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    run = await ended(process)
    assert run.err == "[]\n"


async def test_the_version_is_told(program: Program) -> None:
    run = await program.run("--version")
    assert (run.code, run.out, run.err) == (
        0,
        f"everlytic-async {version('everlytic-async')}\n",
        "",
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["send"],
        ["send", "--rate", "nan", "--sandbox", "/dev/null"],
        ["send", "--rate", "inf", "--sandbox", "/dev/null"],
        ["send", "--concurrency", "65536", "--sandbox", "/dev/null"],
        ["sandbox", "--rate", "inf"],
        ["sandbox", "--throttled", "nan"],
        ["send", "--delivery", "twice", "x"],
        ["sent", "x"],
        ["check", "--sandbox", "x"],
        ["send", "--resend", "sent", "x"],
        ["ledger", "state", "x"],
        ["ledger", "export", "--state", "lost", "x"],
        ["sandbox", "--port", "99999"],
    ],
    ids=" ".join,
)
async def test_wrong_usage_is_told_with_exit_code_2(program: Program, arguments: list[str]) -> None:
    run = await program.run(*arguments)
    assert (run.code, run.out) == (2, "")
    assert "Error" in run.err
    assert "Traceback" not in run.err
    if {"--rate", "--concurrency", "--throttled"}.intersection(arguments):
        assert f"'{arguments[1]}'" in run.err
    if "--concurrency" in arguments:
        assert "than there are ports" in re.sub(r"[ │\n]+", " ", run.err)


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
    run = await ended(process)
    assert (run.code, run.out) == (2, "")
    assert "pip install 'everlytic-async[cli]'" in run.err
    assert "Traceback" not in run.err


@pytest.mark.parametrize("debug", [False, True])
def test_an_error_that_nobody_foresaw_is_a_line_and_a_traceback_only_for_debug(
    capsys: pytest.CaptureFixture[str], debug: bool
) -> None:
    def command() -> int:
        raise KeyError("ann@example.com")

    with pytest.raises(SystemExit) as left:
        handle_errors(command, debug=debug)
    assert left.value.code == 1
    err = capsys.readouterr().err
    assert "Error: an unexpected KeyError." in err
    assert ("--debug" in err) is not debug
    assert ("Traceback" in err) is debug
    assert ("ann@example.com" in err) is debug


# ---------------------------------------------------------------------------------- the summary


def test_a_tally_stays_small_whatever_the_reasons() -> None:
    tally = Tally()
    for line in range(1, 10_001):
        tally.add(Outcome.REJECTED, line, f"order {line} is unknown")
    reasons = tally.reasons[Outcome.REJECTED]
    assert len(reasons) < 20
    assert sum(reason.count for reason in reasons.values()) == tally.total == 10_000
    assert max(len(reason.lines) for reason in reasons.values()) < 10
    assert "--results" in list(reasons)[-1]


def test_an_order_is_counted_once_for_a_reason_also_among_the_others() -> None:
    tally = Tally(2)
    tally.add(Outcome.INVALID, 1, InvalidOrderError(["a: x", "b: x", "c: x", "d: x"]))
    tally.add(Outcome.INVALID, 2, InvalidOrderError(["b: x", "d: x", "e: x"]))
    tally.add(Outcome.INVALID, 3, InvalidOrderError(["p[0]: x", "p[1]: x"]))
    found = {
        text.partition(":")[0]: (reason.count, reason.lines)
        for text, reason in tally.reasons[Outcome.INVALID].items()
    }
    assert found == {"a": (1, [1]), "b": (2, [1, 2]), "other reasons": (3, [1, 2, 3])}


def test_examples_of_a_reason_are_in_the_order_of_the_lines() -> None:
    tally = Tally()
    for line in (30, 10, 20):
        tally.add(Outcome.UNKNOWN, line, "lost")
    assert tally.reasons[Outcome.UNKNOWN]["lost"].where("line") == "lines 10, 20, 30"
