"""``sandbox``: a server of its own, which tells how to reach it and what it got."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import SEND, Program, ended, order

Write = Callable[..., Path]


async def exports(process: asyncio.subprocess.Process) -> dict[str, str]:
    """What the three lines would set."""
    assert process.stdout is not None
    found = {}
    async with asyncio.timeout(30):
        for _ in range(3):
            name, _equals, value = (await process.stdout.readline()).decode().partition("=")
            found[name.removeprefix("export ")] = value.strip()
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_what_it_prints_is_all_that_send_needs(
    program: Program, orders_file: Write, number: int
) -> None:
    process = await program.start("sandbox")
    run = await program.told(**await exports(process)).run(
        *SEND, orders_file(order(1), order(2), order(2))
    )
    process.send_signal(number)
    server = await ended(process)
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
    run = await program.told(**await exports(process)).run(
        *SEND, orders_file(*map(order, range(40)))
    )
    process.send_signal(signal.SIGINT)
    server = await ended(process)
    assert run.code == 3
    counted = re.fullmatch(
        r"([0-9]+) requests, 40 orders processed, 0 of them again; "
        r"answered: ([0-9]+) with 200, ([0-9]+) with 429; dropped: ([0-9]+)\n",
        server.out,
    )
    assert counted is not None
    requests, sent, throttled, dropped = map(int, counted.groups())
    assert requests == sent + throttled + dropped
    assert throttled > 0
    assert re.search(rf"^  unknown +{dropped}  ", run.out, re.MULTILINE)


async def test_a_port_that_is_taken_is_told(program: Program) -> None:
    process = await program.start("sandbox")
    port = (await exports(process))["EVERLYTIC_BASE_URL"].rpartition(":")[2]
    second = await program.run("sandbox", "--port", port)
    process.send_signal(signal.SIGINT)
    await ended(process)
    assert second.code == 2
    assert f"can't listen at 127.0.0.1:{port}" in second.err
    assert "Traceback" not in second.err


async def test_faults_that_make_no_sense_are_told(program: Program) -> None:
    run = await program.run("sandbox", "--throttled", "0.7", "--server-error", "0.7")
    assert run.code == 2
    assert "Error: the shares of faults must be at most 1 together" in run.err
    assert (await program.run("sandbox", "--throttled", "1.5")).code == 2
