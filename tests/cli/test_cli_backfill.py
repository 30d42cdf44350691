"""The question before a backfill, on a real terminal; what it says; the time that is left."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shlex
import signal
import sys
import termios
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import attrs
import pytest
from command_line import Ended, Program, ended, lines_of, order
from command_terminal import Terminal

from everlytic_async.cli._commands import SendOptions
from everlytic_async.cli._input import Input, ReadOptions
from everlytic_async.cli._plan import InputCount, plan_lines
from everlytic_async.cli._screen import format_duration
from everlytic_async.cli._settings import Account
from everlytic_async.ledger import LedgerFile
from everlytic_async.sandbox import Sandbox

Write = Callable[..., Path]
Until = Callable[[Callable[[], bool]], Awaitable[None]]

QUESTION = "Send them? [y/N] "


def own(terminal: int) -> None:
    """In a process of a new session: have this terminal, and be in its foreground."""
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


async def at_a_terminal(
    program: Program,
    until: Until,
    *arguments: str | Path,
    answer: str | None = None,
    **streams: Any,
) -> tuple[Ended, str]:
    """Run it with a terminal to ask at; what it said there."""
    terminal = Terminal()
    process = await program.told(TERM="xterm-256color").start(
        *arguments,
        **{
            "stdin": terminal.theirs,
            "stderr": terminal.theirs,
            "preexec_fn": partial(own, terminal.theirs),
            **streams,
        },
    )
    if answer is not None:
        await until(lambda: QUESTION in terminal.plain)
        terminal.type(answer)
    run = await ended(process)
    terminal.drain()
    said = terminal.plain
    terminal.close()
    return run, said


# ------------------------------------------------------------------------------------ the question


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("\n", 2)])
async def test_a_backfill_is_told_in_advance_and_asked_about(
    program: Program,
    sandbox: Sandbox,
    orders_file: Write,
    until: Until,
    answer: str,
    code: int,
) -> None:
    path = orders_file(*map(order, range(1001)))
    run, said = await at_a_terminal(
        program.pointed_at(sandbox),
        until,
        *("send", "--rate", "5000", "--workflow-id", "32", "--ledger", "l", path),
        answer=answer,
    )
    assert run.code == code
    assert sandbox.processed == (1001 if code == 0 else 0)
    for told in (
        f"About to send 1,001 orders from {path}:",
        f"  to        {sandbox.base_url.removeprefix('http://')}",
        "  workflow  32",
        "  rate      at most 5,000/s, 32 at once: 200 ms or more",
        "  account   the environment",
        f"  ledger    {program.directory / 'l'} (new)",
        "  results   none (--results)",
    ):
        assert told in said
    assert ("Nothing was sent." in said) == (code != 0)
    assert (program.directory / "l").exists() == (code == 0)


@pytest.mark.parametrize(
    ("count", "options"), [(1001, ["--yes"]), (1000, []), (1001, ["--limit", "1000"])]
)
async def test_nobody_is_asked_about_fewer_or_who_said_yes(
    program: Program,
    sandbox: Sandbox,
    orders_file: Write,
    until: Until,
    count: int,
    options: list[str],
) -> None:
    path = orders_file(*map(order, range(count)))
    run, said = await at_a_terminal(program.pointed_at(sandbox), until, "send", *options, path)
    assert run.code == 0
    assert QUESTION not in said
    assert sandbox.processed == min(count, 1000 if "--limit" in options else count)


async def test_an_unknown_number_from_a_pipe_is_asked_about_at_the_terminal(
    program: Program, sandbox: Sandbox, until: Until
) -> None:
    reading, writing = os.pipe()
    os.write(writing, lines_of(order(1), order(2)).encode())
    os.close(writing)
    run, said = await at_a_terminal(
        program.pointed_at(sandbox),
        until,
        *("send", "-"),
        answer="yes\n",
        stdin=reading,
    )
    os.close(reading)
    assert "About to send an unknown number of orders, from standard input:" in said
    assert "  workflow  as each order says" in said
    assert f"  ledger    {program.directory / 'everlytic.ledger'} (new): what it knows is " in said
    assert (run.code, sandbox.processed) == (0, 2)


async def test_a_question_is_asked_at_the_terminal_wherever_the_streams_go(
    program: Program, sandbox: Sandbox, orders_file: Write, until: Until
) -> None:
    """As by ``2>&1 | tee log``, with the orders on the standard input."""
    path = orders_file(*map(order, range(1001)))
    pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
    for answer, code in (("n\n", 2), ("y\n", 0)):
        with path.open() as file:
            run, said = await at_a_terminal(
                program.pointed_at(sandbox),
                until,
                *("send", "-"),
                answer=answer,
                stdin=file,
                **pipes,
            )
        assert (run.code, sandbox.processed) == (code, 0 if code else 1001)
        assert "About to send 1,001 orders from standard input:" in said
        assert QUESTION not in run.out + run.err


@pytest.mark.parametrize(
    ("where", "options"),
    [
        ("no terminal", []),
        ("no terminal", ["--yes"]),
        ("no terminal", ["--ledger", "l"]),
        ("no terminal", ["--no-ledger"]),
        ("background", []),
    ],
)
async def test_without_a_terminal_nobody_is_asked_and_no_default_ledger_is_made(
    program: Program,
    sandbox: Sandbox,
    orders_file: Write,
    where: str,
    options: list[str],
) -> None:
    here = program.pointed_at(sandbox)
    send = ("send", *options, orders_file(*map(order, range(1001))))
    is_named = options in (["--ledger", "l"], ["--no-ledger"])
    default = program.directory / "everlytic.ledger"
    for made_before in (False, True):
        if made_before:
            LedgerFile(default).close()
        if where == "no terminal":
            run = await here.run(*send)
        else:
            # The shell is in the foreground of its terminal, and what it starts by `&` is not.
            command = shlex.join([sys.executable, "-m", "everlytic_async", *map(str, send)])
            terminal = Terminal()
            process = await asyncio.create_subprocess_exec(
                *("bash", "-c", f"set -m; {command} 2>err & wait $!"),
                cwd=here.directory,
                env=here.environment,
                **dict.fromkeys(("stdin", "stdout", "stderr"), terminal.theirs),
                start_new_session=True,
                preexec_fn=partial(own, terminal.theirs),
            )
            run = attrs.evolve(await ended(process), err=(here.directory / "err").read_text())
            terminal.drain()
            assert QUESTION not in terminal.plain
            terminal.close()
        if is_named or made_before:
            assert run.code == 0
            assert QUESTION not in run.err
        else:
            assert (run.code, sandbox.processed) == (2, 0)
            assert run.err.startswith(f"Error: there is no ledger at {default}. On a terminal")
            assert "--ledger FILE" in run.err
            assert "--no-ledger" in run.err
            assert not default.exists()
    # The same file twice notifies twice only where that was asked for.
    assert sandbox.processed == 1001 * (2 if options == ["--no-ledger"] else 1)


async def test_ctrl_c_at_the_question_sends_nothing(
    program: Program, sandbox: Sandbox, orders_file: Write, until: Until
) -> None:
    path = orders_file(*map(order, range(1001)))
    terminal = Terminal()
    process = await program.pointed_at(sandbox).start(
        "send", path, stdin=terminal.theirs, stderr=terminal.theirs
    )
    await until(lambda: QUESTION in terminal.plain)
    process.send_signal(signal.SIGINT)
    run = await ended(process)
    terminal.close()
    assert (run.code, sandbox.requests) == (130, 0)


async def test_wrong_settings_are_told_before_the_question(
    program: Program, sandbox: Sandbox, orders_file: Write, until: Until
) -> None:
    path = orders_file(*map(order, range(1001)))
    here = program.pointed_at(sandbox).told(EVERLYTIC_BASE_URL="shop.example")
    run, said = await at_a_terminal(here, until, "send", path)
    assert run.code == 2
    assert QUESTION not in said


async def test_a_plan_counts_this_input_against_the_ledger(
    program: Program, sandbox: Sandbox, orders_file: Write, until: Until
) -> None:
    """At this address, store and workflow: what was sent there is not about to be sent."""
    here = program.pointed_at(sandbox)
    path = orders_file(*map(order, range(1500)))

    async def planned(*options: str, here: Program = here) -> str:
        run, said = await at_a_terminal(here, until, "send", *options, path, answer="n\n")
        assert run.code == 2
        return said

    assert "About to send 1,500 orders from " in await planned()
    assert (
        await here.run("send", "--ledger", "everlytic.ledger", "--limit", "100", path)
    ).code == 0
    said = await planned()
    assert "About to send 1,400 orders (and not 100 sent before) from " in said
    assert f"  ledger    {program.directory / 'everlytic.ledger'}\n" in said.replace("\r", "")
    assert "note" not in said

    # Another spelling of the address is the same; another workflow or store is not.
    port = sandbox.base_url.rpartition(":")[2]
    spelled = here.told(EVERLYTIC_BASE_URL=f"HTTP://127.0.0.1:{port}/servlet/e-commerce/orders/")
    said = await planned(here=spelled)
    assert "About to send 1,400 orders (and not 100 sent before) from " in said
    host = f"127.0.0.1:{port}"
    for options, other, where in (
        (["--workflow-id", "7"], here, "without a workflow id"),
        (
            [],
            here.told(EVERLYTIC_STORE_HASH="another"),
            f"at another address or store ({host}) without a workflow id",
        ),
    ):
        said = await planned(*options, here=other)
        assert "About to send 1,500 orders from " in said
        note = f"the ledger knows 100 of these orders as sent, or perhaps sent, {where}"
        assert f"  note      {note}" in said

    # Where all were sent there is nothing to ask.
    assert (await here.run("send", path)).code == 0
    run, said = await at_a_terminal(here, until, "send", path)
    assert (run.code, sandbox.processed) == (0, 1500)
    assert QUESTION not in said


@pytest.mark.parametrize(
    ("count", "options", "expected"),
    [
        ({}, {"rate": 20.0}, "rate      at most 20/s, 32 at once: 30 min or more"),
        ({}, {}, "(--rate): 1 h at 10/s, 6 min at 100/s"),
        ({}, {}, "workflow  none is named"),
        (
            {"workflows": {32: 5000, None: 3000, **dict.fromkeys(range(40, 50), 1)}},
            {},
            "workflow  32 for 5,000, none for 3,000, 40 for 1, 41 for 1, 42 for 1, and 7 more",
        ),
        (None, {"workflow_id": 17}, "workflow  17 for the orders that name none"),
        (None, {"limit": 2000}, "About to send an unknown number of orders, 2,000 at most, from"),
        (
            {"to_send": 2000, "invalid": 3, "filtered": 1200},
            {},
            "About to send 2,000 orders (and not 3 not valid, 1,200 left out) from ",
        ),
    ],
)
def test_a_plan_says_what_will_happen(
    orders_file: Write, count: dict[str, Any] | None, options: dict[str, Any], expected: str
) -> None:
    path = orders_file(order(1))
    counted = None
    if count is not None:
        workflows = Counter(count.pop("workflows", {None: 36_000}))
        counted = InputCount(**{"to_send": 36_000, **count}, workflows=workflows)
    account = Account("https://shop.example", "store", "customer")
    with Input(str(path)) as source:
        lines = plan_lines(SendOptions(file=str(path), **options), account, None, source, counted)
        assert expected in "\n".join(lines)


@pytest.mark.parametrize(("limit", "left_out"), [(None, 2), (2, 1), (1, 0)])
def test_what_is_left_out_is_counted_to_the_end(
    orders_file: Write, limit: int | None, left_out: int
) -> None:
    days = ["2026-03-02", "2026-03-01", "2026-03-02", "2026-03-01"]
    path = orders_file(*(order(number, checkout_url=day) for number, day in enumerate(days)))
    reading = ReadOptions(
        mapping={"checkout_url": None, "date": "checkout_url"}, since="2026-03-02"
    )
    with Input(str(path), reading, limit=limit) as source, closing(source.first_pass()) as ahead:
        found = ((each, None) for each in islice(ahead, limit))
        count = InputCount()
        count.add(found, source, progress=False)
    assert (count.to_send, count.filtered) == (min(limit or 2, 2), left_out)


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
def test_durations_are_told_to_three_digits_or_in_two_units(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words
