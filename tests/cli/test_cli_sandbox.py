"""``sandbox``: a server of its own, which prints how to reach it and what it received."""

from __future__ import annotations

import re
import signal

from command_line import SEND, Cli, Program, completed

from everlytic_async.sandbox import Sandbox
from support.delivery import order


def test_it_prints_all_that_send_needs_and_its_options_are_its_faults(
    cli: Cli, program: Program
) -> None:
    options = ("--dropped-after", "0.1", "--throttled", "0.25", "--retry-after", "0", "--seed", "3")
    latency = ("--latency", "0.001", "--latency-jitter", "0.001")
    process = program.start("sandbox", *options, *latency)
    assert process.stdout is not None
    for _ in range(3):
        name, _equals, value = process.stdout.readline().decode().partition("=")
        cli.env(**{name.removeprefix("export "): value.strip()})
    first, second = (cli(*SEND, cli.write(*map(order, range(40)))) for _ in range(2))
    process.send_signal(signal.SIGTERM)
    ended = completed(process)
    assert (first.code, ended.code) == (3, 0)
    assert "nobody gets an e-mail" in ended.err
    counts = re.fullmatch(
        r"([0-9]+) requests, ([0-9]+) orders processed, 40 of them again; "
        r"answered: ([0-9]+) with 200, ([0-9]+) with 429; dropped: ([0-9]+)\n",
        ended.out,
    )
    assert counts is not None
    requests, processed, sent, throttled, dropped = map(int, counts.groups())
    assert (requests, processed) == (sent + throttled + dropped, 80)
    assert throttled > 0
    unknown = re.findall(r"^  unknown +([0-9]+)  ", first.out + second.out, re.MULTILINE)
    assert sum(map(int, unknown)) == dropped > 0


def test_a_port_that_is_taken_is_an_error(cli: Cli, sandbox: Sandbox) -> None:
    port = sandbox.base_url.rpartition(":")[2]
    run = cli("sandbox", "--port", port)
    assert run.code == 2
    assert f"can't listen at 127.0.0.1:{port}" in run.err
