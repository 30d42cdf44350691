"""``sandbox``: a server of its own, which prints how to reach it and what it received."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import SEND, Cli, Program, completed, order

from everlytic_async.sandbox import Sandbox

Write = Callable[..., Path]


async def read_exports(process: asyncio.subprocess.Process) -> dict[str, str]:
    """What the three lines would set."""
    assert process.stdout is not None
    exports = {}
    async with asyncio.timeout(30):
        for _ in range(3):
            name, _equals, value = (await process.stdout.readline()).decode().partition("=")
            exports[name.removeprefix("export ")] = value.strip()
    return exports


async def test_it_prints_all_that_send_needs(program: Program, orders_file: Write) -> None:
    process = await program.start("sandbox")
    here = program.with_env(**await read_exports(process))
    run = await here.run(*SEND, orders_file(order(1), order(2), order(2)))
    process.send_signal(signal.SIGTERM)
    server = await completed(process)
    assert (run.code, server.code) == (0, 0)
    assert server.out == (
        "3 requests, 3 orders processed, 1 of them again; answered: 3 with 200; dropped: 0\n"
    )
    assert "nobody gets an e-mail" in server.err


async def test_its_options_are_its_faults(program: Program, orders_file: Write) -> None:
    process = await program.start(
        *("sandbox", "--dropped-after", "0.1", "--throttled", "0.25", "--retry-after", "0"),
        *("--seed", "3", "--latency", "0.001", "--latency-jitter", "0.001"),
    )
    here = program.with_env(**await read_exports(process))
    run = await here.run(*SEND, orders_file(*map(order, range(40))))
    process.send_signal(signal.SIGINT)
    server = await completed(process)
    assert run.code == 3
    counts = re.fullmatch(
        r"([0-9]+) requests, 40 orders processed, 0 of them again; "
        r"answered: ([0-9]+) with 200, ([0-9]+) with 429; dropped: ([0-9]+)\n",
        server.out,
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


@pytest.mark.parametrize(
    ("shares", "error"),
    [
        (("0.7", "0.7"), "Error: the shares of faults must be at most 1 together"),
        (("1.5", "0"), "Error"),
    ],
)
def test_faults_that_make_no_sense_are_an_error(
    cli: Cli, shares: tuple[str, str], error: str
) -> None:
    run = cli("sandbox", "--throttled", shares[0], "--server-error", shares[1])
    assert run.code == 2
    assert error in run.err
