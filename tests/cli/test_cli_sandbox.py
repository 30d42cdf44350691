"""``sandbox``: a server of its own, which prints how to reach it and what it received."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from command_line import SEND, Cli, Program, order

from everlytic_async.sandbox import Sandbox


@contextmanager
def sandbox_process(cli: Cli, program: Program, *options: str) -> Iterator[subprocess.Popen[str]]:
    """One whose three lines of settings are in the environment of `cli`."""
    with program.running("sandbox", *options) as process:
        assert process.stdout is not None
        for _ in range(3):
            name, _equals, value = process.stdout.readline().partition("=")
            cli.env(**{name.removeprefix("export "): value.strip()})
        yield process


def test_it_prints_all_that_send_needs(cli: Cli, program: Program) -> None:
    with sandbox_process(cli, program) as process:
        cli(*SEND, cli.write(order(1), order(2)))
        run = cli(*SEND, cli.write(order(2)))
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate()
    assert (run.code, process.returncode) == (0, 0)
    assert out == (
        "3 requests, 3 orders processed, 1 of them again; answered: 3 with 200; dropped: 0\n"
    )
    assert "nobody gets an e-mail" in err


def test_its_options_are_its_faults(cli: Cli, program: Program) -> None:
    options = ("--dropped-after", "0.1", "--throttled", "0.25", "--retry-after", "0", "--seed", "3")
    latency = ("--latency", "0.001", "--latency-jitter", "0.001")
    with sandbox_process(cli, program, *options, *latency) as process:
        run = cli(*SEND, cli.write(*map(order, range(40))))
        process.send_signal(signal.SIGINT)
        out, _err = process.communicate()
    assert run.code == 3
    counts = re.fullmatch(
        r"([0-9]+) requests, 40 orders processed, 0 of them again; "
        r"answered: ([0-9]+) with 200, ([0-9]+) with 429; dropped: ([0-9]+)\n",
        out,
    )
    assert counts is not None
    requests, sent, throttled, dropped = map(int, counts.groups())
    assert requests == sent + throttled + dropped
    assert throttled > 0
    assert re.search(rf"^  unknown +{dropped}  ", run.out, re.MULTILINE)


def test_a_port_that_is_taken_is_an_error(cli: Cli, sandbox: Sandbox) -> None:
    port = sandbox.base_url.rpartition(":")[2]
    run = cli("sandbox", "--port", port)
    assert run.code == 2
    assert f"can't listen at 127.0.0.1:{port}" in run.err
