"""The question before a backfill, on a real terminal; what its plan says."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import pytest
from command_line import Cli, Program, completed, to_lines, write_orders
from command_terminal import QUESTION, Terminal, run_at_terminal

from everlytic_async import EverlyticClient
from everlytic_async.cli._commands import SendOptions
from everlytic_async.cli._input import Input, open_input
from everlytic_async.cli._plan import InputCount, count_input, plan_lines
from everlytic_async.cli._settings import Account, Settings
from everlytic_async.ledger import LedgerFile
from everlytic_async.outcomes import Outcome
from everlytic_async.sandbox import Sandbox
from support.delivery import order

MANY = 1001


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("\n", 2)])
@pytest.mark.parametrize("streams", ["terminal", pytest.param("pipes", marks=pytest.mark.slow)])
def test_the_plan_of_a_backfill_is_shown_and_asked_about(
    program: Program, sandbox: Sandbox, answer: str, code: int, streams: str
) -> None:
    """At the terminal, also with the orders on the standard input and ``2>&1 | tee log``."""
    path = program.write(*map(order, range(MANY)))
    options = ("--rate", "5000", "--workflow-id", "32", "--ledger", "l")
    with path.open() as stdin:
        pipes = {"stdin": stdin, "stderr": subprocess.PIPE} if streams == "pipes" else {}
        run, shown = run_at_terminal(
            program.with_endpoint(sandbox),
            *("send", *options, "-" if pipes else path),
            answer=answer,
            **pipes,
        )
    assert (run.code, sandbox.processed) == (code, 0 if code else MANY)
    for line in (
        f"About to send 1,001 orders from {'standard input' if pipes else path}:",
        f"  to        {sandbox.base_url.removeprefix('http://')}",
        "  workflow  32",
        "  rate      at most 5,000/s, 32 at once: 200 ms or more",
        "  account   the environment",
        f"  ledger    {program.directory / 'l'} (new)",
        "  results   none (--results)",
    ):
        assert line in shown
    assert QUESTION not in run.out + run.err
    assert ("Nothing was sent." in shown + run.err) == (code != 0)
    assert (program.directory / "l").exists() == (code == 0)


WOO = "Order Number,Order Status,Email (Billing),Order Total Amount,Item Name,Item Cost,Quantity\n"
ROW = "1,Wrapped,a@example.com,5.00,Mop,5,1\n"
ODD_STATUS = WOO + ROW
TWICE = f"{ODD_STATUS}2,Wrapped,b@example.com,5.00,Mop,5,1\n{ROW}"
MANY_ORDERS = to_lines(*map(order, range(MANY)))


@pytest.mark.parametrize(
    ("before", "text", "options", "answer"),
    [
        # Sent before, in another workflow.
        (["--workflow-id", "7"], to_lines(order(1), order(2)), ["--workflow-id", "8"], "y\n"),
        # A status that no shop of this kind has.
        (None, ODD_STATUS, [], "n\n"),
        # And an order that is there twice.
        (None, TWICE, [], "y\n"),
        # Nothing is left to be asked about.
        ([], ODD_STATUS, [], None),
        (["--workflow-id", "7"], to_lines(order(1)), ["--to", "me@example.com"], None),
        # Few of them are sent.
        (None, MANY_ORDERS, ["--limit", "5"], None),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (
                    ["--workflow-id", "7"],
                    to_lines(order(1)),
                    ["--workflow-id", "8", "--limit", "5"],
                    "n\n",
                ),
                # Another ledger is beside the file, and may know that it was sent.
                (["--ledger", "orders.ledger"], to_lines(order(1)), [], "n\n"),
                (None, ODD_STATUS, ["--no-ledger"], "y\n"),
                (["--workflow-id", "7"], to_lines(order(1)), ["--workflow-id", "8", "--yes"], None),
                (None, MANY_ORDERS, ["--yes"], None),
                (None, to_lines(*map(order, range(1000))), [], None),
            )
        ),
    ],
)
def test_few_orders_are_asked_about_where_there_is_a_warning(  # noqa: PLR0917
    cli: Cli,
    program: Program,
    shop: Sandbox,
    before: list[str] | None,
    text: str,
    options: list[str],
    answer: str | None,
) -> None:
    path = program.directory / "exports" / "orders"
    path.parent.mkdir()
    path.write_text(text)
    before = before and [each.replace("orders.ledger", f"{path}.ledger") for each in before]
    LedgerFile(program.directory / "everlytic.ledger").close()
    if before is not None:
        assert cli("send", *before, path).code == 0
    sent = shop.processed
    here = program.with_endpoint(shop)
    run, shown = run_at_terminal(here, "send", *options, path, answer=answer)
    assert (QUESTION in shown) == (answer is not None)
    if answer is not None:
        assert "\n  note      " in shown.partition(QUESTION)[0].replace("\r", "")
        assert "Warning" not in shown  # it is said once
    twice = "About to send 2 orders (and not 1 with the id of an earlier order) from"
    assert (twice in shown) == (text == TWICE)
    assert run.code == (2 if answer == "n\n" else 0)
    if before != []:
        assert (shop.processed > sent) == (answer != "n\n")


def test_an_unknown_number_from_a_pipe_is_asked_about(program: Program, sandbox: Sandbox) -> None:
    reading, writing = os.pipe()
    os.write(writing, to_lines(order(1), order(2)).encode())
    os.close(writing)
    run, shown = run_at_terminal(
        program.with_endpoint(sandbox), "send", "-", answer="yes\n", stdin=reading
    )
    os.close(reading)
    assert "About to send an unknown number of orders, from standard input:" in shown
    assert "  workflow  as each order says" in shown
    assert f"  ledger    {program.directory / 'everlytic.ledger'} (new): what it knows is " in shown
    assert (run.code, sandbox.processed) == (0, 2)


@pytest.mark.parametrize(
    ("where", "options"),
    [
        ("no terminal", []),
        *(
            pytest.param(where, options, marks=pytest.mark.slow)
            for where, options in (
                ("no terminal", ["--yes"]),
                ("no terminal", ["--ledger", "l"]),
                ("no terminal", ["--no-ledger"]),
                ("background", []),
            )
        ),
    ],
)
def test_without_a_terminal_nobody_is_asked_and_no_default_ledger_is_created(
    program: Program, sandbox: Sandbox, where: str, options: list[str]
) -> None:
    here = program.with_endpoint(sandbox)
    path = program.directory / "orders.csv"
    path.write_text(ODD_STATUS)  # on a terminal it would be asked about
    send = ("send", *options, path)
    is_named = options in (["--ledger", "l"], ["--no-ledger"])
    default = program.directory / "everlytic.ledger"
    for exists in (False, True):
        if exists:
            LedgerFile(default).close()
        if where == "no terminal":
            run = here.run(*send)
        else:
            # The shell is in the foreground of its terminal, and what it starts by `&` is not.
            command = shlex.join([sys.executable, "-m", "everlytic_async", *map(str, send)])
            with Terminal() as terminal:
                process = subprocess.Popen(
                    ["bash", "-c", f"set -m; {command} 2>err & wait $!"],
                    cwd=here.directory,
                    env=here.environment,
                    **terminal.streams("stdin", "stdout", "stderr"),
                    start_new_session=True,
                )
                err = here.directory / "err"
                run = attrs.evolve(completed(process), err=err.read_text())
                assert QUESTION not in terminal.drain()
        if is_named or exists:
            assert run.code == 0
            assert QUESTION not in run.err
        else:
            assert (run.code, sandbox.processed) == (2, 0)
            assert run.err.startswith(f"Error: there is no ledger at {default}. On a terminal")
            assert "--ledger FILE" in run.err
            assert "--no-ledger" in run.err
            assert not default.exists()
    # The same file twice notifies twice only where that was asked for.
    assert sandbox.processed == (2 if options == ["--no-ledger"] else 1)


@pytest.mark.parametrize(
    ("count", "options", "expected"),
    [
        ({}, {"rate": 20.0}, "rate      at most 20/s, 32 at once: 30 min or more"),
        ({}, {}, "(--rate): 1 h at 10/s, 6 min at 100/s"),
        ({}, {}, "workflow  none is named"),
        (
            {"workflows": {32: 5000, None: 3000, **dict.fromkeys(range(40, 50), 1)}},
            {},
            "workflow  32 for 5,000, none for 3,000, 40 for 1, 41 for 1, 42 for 1 and 7 more",
        ),
        (None, {"workflow_id": 17}, "workflow  17 for the orders that name none"),
        ({}, {"where": ("Status=paid", "Shop!=test")}, "where     Status=paid; Shop!=test\n"),
        (None, {"limit": 2000}, "About to send an unknown number of orders, 2,000 at most, from"),
        (
            {"to_send": 2000, "skipped": {"sent": 9}, "invalid": 3, "repeated": 1, "filtered": 12},
            {},
            "(and not 9 sent before, 3 not valid, 1 with the id of an earlier order, 12 left out)",
        ),
    ],
)
def test_a_plan_says_what_will_happen(
    tmp_path: Path, count: dict[str, Any] | None, options: dict[str, Any], expected: str
) -> None:
    counted = None
    if count is not None:
        counted = InputCount(filtered=count.get("filtered", 0), repeated=count.get("repeated", 0))
        workflows = Counter(count.get("workflows", {None: count.get("to_send", 36_000)}))
        counted.workflows = workflows
        counted.tally.counts[Outcome.NOT_SENT] = workflows.total()
        counted.tally.counts[Outcome.INVALID] = count.get("invalid", 0)
        counted.tally.skipped.update(count.get("skipped", {}))
    account = Account("https://shop.example", "store", "customer")
    plan = SendOptions(file=str(write_orders(tmp_path, order(1))), **options)
    with open_input(plan, Settings(None)) as source:
        assert expected in "\n".join(plan_lines(plan, account, None, source, counted))


def count(source: Input, options: SendOptions, at_most: int | None = None) -> InputCount:
    client = EverlyticClient("https://shop.example", store_hash="s", customer_hash="c")
    found = asyncio.run(count_input(options, client, None, source, at_most))
    assert found is not None
    return found


@pytest.mark.parametrize(("limit", "left_out"), [(None, 2), (2, 1), (1, 0)])
def test_what_is_left_out_is_counted_to_the_end(
    tmp_path: Path, limit: int | None, left_out: int
) -> None:
    days = ["2026-03-02", "2026-03-01", "2026-03-02", "2026-03-01"]
    orders = (order(number, checkout_url=day) for number, day in enumerate(days))
    path = write_orders(tmp_path, *orders)
    maps = ("checkout_url=", "date=checkout_url")
    options = SendOptions(file=str(path), maps=maps, since="2026-03-02", limit=limit)
    with open_input(options, Settings(None)) as source:
        found = count(source, options)
    assert (found.to_send, found.filtered) == (min(limit or 2, 2), left_out)


def test_a_count_of_more_orders_needs_no_more_memory(tmp_path: Path) -> None:
    """Orders may be large, so that few of them can be in memory together."""
    large = [{"product_name": "x" * 10_000}]
    path = write_orders(tmp_path, *(order(n, products=large) for n in range(1_000)))
    options = SendOptions(file=str(path), progress=False)
    peaks = []
    for at_most in (50, 100, 1_000):  # the first makes what is made once
        tracemalloc.start()
        with open_input(options, Settings(None)) as source:
            count(source, options, at_most)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] - peaks[1] < 50_000
