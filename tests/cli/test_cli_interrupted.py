"""Ctrl-C and SIGTERM: real signals to a real process, timed by what the sandbox has received."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
from collections import Counter

import pytest
from command_line import (
    SEND,
    Process,
    Program,
    completed,
    read_results,
    read_until,
    to_lines,
    until,
)
from command_terminal import Terminal

from everlytic_async.sandbox import Sandbox
from support.delivery import order
from support.sandboxes import serve

ORDERS = 2000


def interrupt(process: Process, number: int = signal.SIGINT) -> None:
    """Send a signal, and wait until the command says that it handles it."""
    process.send_signal(number)
    assert read_until(process, "\n").startswith("Interrupted: ")


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGINT, 130, id="ctrl-c"),
        pytest.param(signal.SIGTERM, 143, id="sigterm", marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, id="sighup", marks=pytest.mark.slow),
    ],
)
def test_the_first_signal_lets_what_is_in_flight_finish(
    program: Program, number: int, code: int
) -> None:
    path = program.write(*map(order, range(ORDERS)))
    with serve(latency_s=0.25) as sandbox:
        process = program.with_endpoint(sandbox).start(
            *SEND, "--concurrency", "4", "--results", "r.jsonl", path
        )
        until(lambda: sandbox.in_flight == 4 and sandbox.processed >= 4)
        interrupt(process, number)
        run = completed(process)
    assert run.code == code
    results = read_results(program.directory / "r.jsonl")
    outcomes = Counter(result["outcome"] for result in results)
    # What the server processed is what is reported, and everything that was read has a result.
    assert outcomes["sent"] == sandbox.processed == sandbox.requests
    assert set(outcomes) <= {"sent", "not_sent"}
    assert list(range(len(results))) == [result["index"] for result in results]
    assert len(results) < ORDERS
    assert f"Nothing after line {len(results)} of {path} was read." in run.err
    assert f"{len(results)} orders from {path}" in run.out


def test_a_terminal_that_is_closed_lets_what_is_in_flight_finish(program: Program) -> None:
    """As when a window is closed, or an SSH connection is lost: nothing can be written any more."""
    path = program.write(*map(order, range(ORDERS)))
    with serve(latency_s=0.25) as sandbox:
        with Terminal() as terminal:
            here = program.with_endpoint(sandbox).with_env(TERM="xterm-256color")
            process = here.start(
                *(*SEND, "--yes", "--concurrency", "4", "--results", "r.jsonl", path),
                **terminal.streams("stdin", "stdout", "stderr"),
            )
            until(lambda: sandbox.in_flight == 4 and sandbox.processed >= 4)
        assert process.wait(30) == 129
        processed = sandbox.processed
    outcomes = Counter(each["outcome"] for each in read_results(program.directory / "r.jsonl"))
    assert outcomes["sent"] == processed < ORDERS
    assert set(outcomes) <= {"sent", "not_sent"}


def test_a_second_ctrl_c_exits_at_once_and_names_what_was_in_flight(program: Program) -> None:
    path = program.write(*map(order, range(ORDERS)))
    with serve(latency_s=300) as sandbox:
        process = program.with_endpoint(sandbox).start(
            *("send", "--ledger", "l", "--concurrency", "4", "--results", "r.jsonl", path)
        )
        assert read_until(process, "\n").startswith("Ledger: ")
        until(lambda: sandbox.in_flight > 0)
        interrupt(process)
        process.send_signal(signal.SIGINT)
        run = completed(process)  # in less than the latency
    assert (run.code, sandbox.processed) == (130, 0)
    results = read_results(program.directory / "r.jsonl")
    assert list(range(len(results))) == [result["index"] for result in results]
    unknown = [result for result in results if result["outcome"] == "unknown"]
    assert len(unknown) >= sandbox.requests > 0
    assert {result["error"] for result in unknown} == {
        "the command was ended while the order was under way: it may have been processed"
    }
    # Each is named, and its POST was started.
    assert [result["key"] for result in results] == [str(n) for n in range(len(results))]
    assert {result["attempts"] for result in unknown} == {1}
    assert {result["attempts"] for result in results if result not in unknown} <= {0}
    assert "unknown" in run.out
    assert "may have been processed" in run.out
    # And the ledger knows them, as the command lists them that is shown.
    (shown,) = re.findall(r"^  everlytic-async (ledger export .*)$", run.err, re.MULTILINE)
    listed = program.run(*shlex.split(shown))
    keys = {json.loads(line)["key"] for line in listed.out.splitlines()}
    assert {result["key"] for result in unknown} <= keys


def test_ctrl_c_before_the_first_order_says_that_nothing_was_sent(
    program: Program, sandbox: Sandbox
) -> None:
    path = program.write(*map(order, range(ORDERS)))
    with Terminal() as terminal:
        # It is not the controlling terminal: the streams are asked.
        process = program.with_endpoint(sandbox).start(
            *SEND, path, stdin=terminal.theirs, stderr=terminal.theirs
        )
        terminal.wait_for("Send them")
        process.send_signal(signal.SIGINT)
        run = completed(process)
        assert terminal.drain().endswith("Interrupted. Nothing was sent.\r\n")
    assert (run.code, sandbox.requests) == (130, 0)


def test_ctrl_c_ends_the_wait_for_a_pipe(program: Program, sandbox: Sandbox) -> None:
    process = program.with_endpoint(sandbox).start(*SEND, "-", stdin=subprocess.PIPE)
    assert process.stdin is not None
    # It is interrupted in the middle of an order.
    process.stdin.write((to_lines(order(1), order(2)) + '{"order_id":').encode())
    until(lambda: sandbox.processed == 2)
    interrupt(process)
    assert process.wait(30) == 130  # with the input still open
    run = completed(process)
    assert "2 orders from standard input" in run.out
    assert "Nothing after line 2 of standard input was read." in run.err
    assert "invalid" not in run.out


@pytest.mark.slow
def test_a_signal_that_is_ignored_from_the_start_stays_ignored(program: Program) -> None:
    path = program.write(*map(order, range(8)))
    with serve(latency_s=0.2) as sandbox:
        process = program.with_endpoint(sandbox).start(
            *(*SEND, "--concurrency", "2", path),
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        )
        until(lambda: sandbox.in_flight == 2)
        process.send_signal(signal.SIGINT)  # as Ctrl-C reaches what a script runs with `&`
        run = completed(process)
    assert (run.code, run.err, sandbox.processed) == (0, "", 8)


@pytest.mark.slow
def test_ctrl_c_during_a_check_shows_what_was_found_so_far(program: Program) -> None:
    process = program.start("check", "-", stdin=subprocess.PIPE)
    assert process.stdin is not None
    # More than any buffer on the way holds: when the last byte is gone, the first lines were read.
    process.stdin.write(to_lines(*map(order, range(20_000))).encode())
    process.send_signal(signal.SIGINT)
    run = completed(process)
    assert run.code == 130
    assert "orders read from standard input" in run.out
    assert "Interrupted: the rest was not read." in run.err
    assert "Traceback" not in run.err
