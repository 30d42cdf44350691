"""``send``: what reaches the endpoint, what is told of it, and the exit code."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import stat
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import IO

import pytest
from aiohttp import web
from command_line import (
    CUSTOMER_HASH,
    SEND,
    STORE_HASH,
    Program,
    box,
    ended,
    lines_of,
    order,
    results_in,
)

from everlytic_async.sandbox import Sandbox

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "orders.jsonl"

Write = Callable[..., Path]
Until = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.fixture
def dev_full() -> Iterator[IO[bytes]]:
    """What is always full, to write to."""
    with Path("/dev/full").open("wb") as full:
        yield full


# ----------------------------------------------------------------------------------- all is well


async def test_every_example_order_is_sent(program: Program, sandbox: Sandbox) -> None:
    lines = EXAMPLES.read_text("utf-8").splitlines()
    run = await program.pointed_at(sandbox).run(*SEND, EXAMPLES)
    assert (run.code, run.err) == (0, "")
    assert len(lines) >= 25
    assert f"{len(lines)} orders from {EXAMPLES} to 127.0.0.1:" in run.out
    assert re.search(rf"^  sent +{len(lines)}  ", run.out, re.MULTILINE)
    expected = [json.loads(line, parse_float=Decimal) for line in lines]
    received = {order["order_id"]: order for order in sandbox.received}
    assert len(lines) == len(received)
    for given in expected:
        # What the documentation calls text is text on the wire.
        text = {key: str(given[key]) for key in ("order_id", "contact_unique_id") if key in given}
        assert str({**given, **text, "products": given["products"]}) == str(
            {key: received[str(given["order_id"])][key] for key in given}
        )


async def test_the_sandbox_option_needs_no_account(program: Program) -> None:
    run = await program.run("send", "--sandbox", EXAMPLES)
    assert (run.code, run.err) == (0, "")
    assert "The sandbox processed 30, and nobody gets an e-mail." in run.out


async def test_the_sandbox_option_passes_by_a_real_address(
    program: Program, sandbox: Sandbox, orders_file: Write
) -> None:
    run = await program.pointed_at(sandbox).run("send", "--sandbox", orders_file(order(1)))
    assert run.code == 0
    assert sandbox.requests == 0


async def test_orders_come_from_a_pipe(program: Program, sandbox: Sandbox) -> None:
    data = lines_of(*map(order, range(500)), "nonsense").encode()
    run = await program.pointed_at(sandbox).run(*SEND, "--results", "r.jsonl", "-", stdin=data)
    assert run.code == 3
    assert "501 orders from standard input" in run.out
    assert "is not JSON: Expecting value  (line 501)" in run.out
    assert (sandbox.processed, dict(sandbox.duplicates)) == (500, {})
    results = results_in(program.directory / "r.jsonl")
    assert [(n, n + 1) for n in range(501)] == [(r["index"], r["line"]) for r in results]


async def test_orders_come_from_a_file_as_the_standard_input(
    program: Program, sandbox: Sandbox, orders_file: Write
) -> None:
    with orders_file(*map(order, range(20))).open("rb") as file:
        process = await program.pointed_at(sandbox).start(*SEND, "-", stdin=file)
        run = await ended(process)
    assert (run.code, sandbox.processed) == (0, 20)


@pytest.mark.parametrize("source", ["empty.jsonl", "/dev/null", "-"])
async def test_no_orders_at_all_is_told_and_is_no_failure(
    program: Program, sandbox: Sandbox, source: str
) -> None:
    (program.directory / "empty.jsonl").write_text("\ufeff\n  \n", encoding="utf-8")
    run = await program.pointed_at(sandbox).run(*SEND, source)
    assert run.code == 0
    assert "There is no order in" in run.err
    assert sandbox.requests == 0


# ------------------------------------------------------------------------------------ bad orders


async def test_bad_lines_among_thousands_are_told_and_the_rest_is_sent(
    program: Program, sandbox: Sandbox, orders_file: Write
) -> None:
    bad = {
        7: "nonsense",
        1000: json.dumps(order(1000, products=[])),
        2222: json.dumps(order(2222, contact_email="no at sign")),
        3000: '{"total": 1, "total": 2}',
    }
    path = orders_file(*(bad.get(line, order(line)) for line in range(1, 3001)))
    run = await program.pointed_at(sandbox).run(*SEND, "--results", "r.jsonl", path)
    assert run.code == 3
    assert sandbox.processed == 2996
    assert dict(sandbox.duplicates) == {}
    results = results_in(program.directory / "r.jsonl")
    assert list(range(3000)) == [result["index"] for result in results]
    assert list(range(1, 3001)) == [result["line"] for result in results]
    assert set(bad) == {result["line"] for result in results if result["outcome"] == "invalid"}
    sent = [result for result in results if result["outcome"] == "sent"]
    assert [str(result["line"]) for result in sent] == [result["key"] for result in sent]
    for line, reason in {
        7: "is not JSON: Expecting value",
        1000: "products: at least one is required",
        2222: "contact_email: expected an e-mail address, found no @",
        3000: "total: given more than once in one object",
    }.items():
        assert f"  1 x {reason}  (line {line})" in run.out


async def test_a_result_has_these_fields(
    program: Program, sandbox: Sandbox, orders_file: Write
) -> None:
    path = orders_file(order(17), "", "{}")
    await program.pointed_at(sandbox).run(*SEND, "--results", "r.jsonl", path)
    sent, invalid = results_in(program.directory / "r.jsonl")
    assert sent == {
        "index": 0,
        "line": 1,
        "key": "17",
        "outcome": "sent",
        "attempts": 1,
        "error": None,
        "duplicate_risk": False,
    }
    assert invalid == {
        "index": 1,
        "line": 3,
        "key": None,
        "outcome": "invalid",
        "attempts": 0,
        "error": "contact_email or contact_unique_id: one of the two is required; "
        "products: at least one is required",
        "duplicate_risk": False,
    }


@pytest.mark.parametrize("more", [[], ["--dry-run"]], ids=["sent", "dry run"])
async def test_an_invalid_order_is_named_where_it_has_an_id(
    program: Program, sandbox: Sandbox, orders_file: Write, more: list[str]
) -> None:
    path = orders_file(order(77, contact_email=None), '{"order_id": 78}', "nonsense", "{}")
    run = await program.pointed_at(sandbox).run(*SEND, *more, "--results", "r.jsonl", path)
    assert run.code == (1 if more else 3)
    keys = [result["key"] for result in results_in(program.directory / "r.jsonl")]
    assert keys == ["77", "78", None, None]


async def test_results_on_the_standard_output_have_it_for_themselves(
    program: Program, sandbox: Sandbox, orders_file: Write
) -> None:
    run = await program.pointed_at(sandbox).run(*SEND, "--results", "-", orders_file(order(1)))
    assert run.code == 0
    assert [json.loads(line)["key"] for line in run.out.splitlines()] == ["1"]
    assert "1 order from" in run.err


async def test_each_line_of_results_is_written_as_it_comes(
    program: Program, orders_file: Write, until: Until
) -> None:
    results = program.directory / "r.jsonl"
    async with box() as sandbox:
        process = await program.pointed_at(sandbox).start(
            *SEND, "--results", results, "-", stdin=asyncio.subprocess.PIPE
        )
        assert process.stdin is not None
        process.stdin.write(lines_of(order(1), order(2)).encode())
        # The input has not ended, and the results are there.
        await until(lambda: results.exists() and len(results.read_text().splitlines()) == 2)
        process.stdin.close()
        run = await ended(process)
    assert run.code == 0


# --------------------------------------------------------------------------------------- options


async def test_a_dry_run_reads_everything_and_sends_nothing(
    program: Program, sandbox: Sandbox, orders_file: Write
) -> None:
    path = orders_file(order(1), "{}", order(2))
    run = await program.pointed_at(sandbox).run("send", "--dry-run", "--results", "r.jsonl", path)
    assert run.code == 1
    assert sandbox.requests == 0
    assert re.search(r"^  valid +2  would be sent", run.out, re.MULTILINE)
    assert re.search(r"^  invalid +1  ", run.out, re.MULTILINE)
    outcomes = [result["outcome"] for result in results_in(program.directory / "r.jsonl")]
    assert outcomes == ["not_sent", "invalid", "not_sent"]


async def test_a_dry_run_needs_no_account(program: Program) -> None:
    assert (await program.run("send", "--dry-run", EXAMPLES)).code == 0


@pytest.mark.parametrize("piped", [True, False])
async def test_the_limit_bounds_what_is_read(
    program: Program, sandbox: Sandbox, orders_file: Write, piped: bool
) -> None:
    path = orders_file(order(1), "nonsense", *map(order, range(3, 50)))
    stdin = path.read_bytes() if piped else None
    run = await program.pointed_at(sandbox).run(
        *SEND, "--limit", "5", "-" if piped else path, stdin=stdin
    )
    assert run.code == 3
    assert Counter(int(received["order_id"]) for received in sandbox.received) == Counter(
        [1, 3, 4, 5]
    )
    assert "Nothing after" not in run.err


async def test_the_concurrency_bounds_what_is_in_flight(
    program: Program, orders_file: Write
) -> None:
    path = orders_file(*map(order, range(30)))
    async with box(latency_s=0.02) as sandbox:
        run = await program.pointed_at(sandbox).run(*SEND, "--concurrency", "3", path)
    assert run.code == 0
    assert sandbox.peak_in_flight == 3


async def test_the_rate_bounds_orders_per_second(
    program: Program, sandbox: Sandbox, orders_file: Write
) -> None:
    path = orders_file(*map(order, range(6)))
    run = await program.pointed_at(sandbox).run(*SEND, "--rate", "5", path)
    assert run.code == 0
    seconds = re.search(r" in ([0-9.]+) s", run.out)
    assert seconds is not None
    assert float(seconds[1]) >= 0.9


@pytest.mark.parametrize(("retries", "requests"), [("0", 3), ("2", 9)])
async def test_retries_are_counted_after_the_first_attempt(
    program: Program, orders_file: Write, retries: str, requests: int
) -> None:
    path = orders_file(*map(order, range(3)))
    async with box(throttled=1, retry_after_s=0) as sandbox:
        run = await program.pointed_at(sandbox).run(
            *SEND, "--retries", retries, "--results", "r.jsonl", path
        )
    assert run.code == 1
    assert sandbox.requests == requests
    results = results_in(program.directory / "r.jsonl")
    assert {("not_sent", int(retries) + 1)} == {(r["outcome"], r["attempts"]) for r in results}
    assert re.search(r"^  not sent +3  surely not processed", run.out, re.MULTILINE)


@pytest.mark.parametrize(
    ("delivery", "requests"),
    [(None, 2), ("at-most-once", 2), ("at-least-once", 4), ("at_least_once", 4)],
)
async def test_a_lost_answer_is_repeated_only_where_that_is_allowed(
    program: Program, orders_file: Write, delivery: str | None, requests: int
) -> None:
    path = orders_file(*map(order, range(2)))
    options = [] if delivery is None else ["--delivery", delivery]
    async with box(dropped_after=1) as sandbox:
        run = await program.pointed_at(sandbox).run(*SEND, *options, "--retries", "1", path)
    assert run.code == 3
    assert sandbox.processed == requests
    assert re.search(r"^  unknown +2  may have been processed", run.out, re.MULTILINE)
    assert ("may have been processed more than once" in run.out) == (requests == 4)


async def test_the_workflow_is_that_of_the_order_else_that_of_the_option(
    program: Program, sandbox: Sandbox, orders_file: Write
) -> None:
    path = orders_file(order(1), order(2, workflow_id=7))
    run = await program.pointed_at(sandbox).run(*SEND, "--workflow-id", "32", path)
    assert run.code == 0
    assert {received["order_id"]: received["workflow_id"] for received in sandbox.received} == {
        "1": 32,
        "2": 7,
    }


@pytest.mark.parametrize("workflow", ["0", "-1", str(2**63), "32.0"])
async def test_what_is_no_workflow_is_refused_before_anything_is_read(
    program: Program, sandbox: Sandbox, orders_file: Write, workflow: str
) -> None:
    path = orders_file(order(1))
    run = await program.pointed_at(sandbox).run(*SEND, "--workflow-id", workflow, path)
    assert (run.code, run.out) == (2, "")
    assert "--workflow-id" in run.err
    run = await program.run("send", "--dry-run", "--workflow-id", str(2**63 - 1), path)
    assert run.code == 0


# ---------------------------------------------------------------------------------------- faults


async def test_wrong_hashes_stop_the_batch(
    program: Program, sandbox: Sandbox, orders_file: Write
) -> None:
    path = orders_file(*map(order, range(2000)))
    run = await (
        program.pointed_at(sandbox)
        .told(EVERLYTIC_STORE_HASH="another-hash")
        .run(*SEND, "--results", "r.jsonl", path)
    )
    assert run.code == 1
    assert sandbox.processed == 0
    assert sandbox.requests <= 32
    assert "Error: the batch was stopped: the endpoint refused the hashes (401)" in run.err
    assert re.search(r"^Nothing after line [0-9]+ of .* was read\.$", run.err, re.MULTILINE)
    results = results_in(program.directory / "r.jsonl")
    assert {"rejected", "not_sent"} >= {result["outcome"] for result in results}
    assert len(results) < 2000


async def test_wrong_hashes_stop_the_batch_while_the_input_goes_on(
    program: Program, sandbox: Sandbox
) -> None:
    process = await (
        program.pointed_at(sandbox)
        .told(EVERLYTIC_STORE_HASH="another-hash")
        .start(*SEND, "-", stdin=asyncio.subprocess.PIPE)
    )
    assert process.stdin is not None
    process.stdin.write(lines_of(order(1)).encode())
    async with asyncio.timeout(30):
        code = await process.wait()  # with the input still open
    process.stdin.close()
    run = await ended(process)
    assert (code, run.code) == (1, 1)
    assert "refused the hashes" in run.err


async def test_a_refused_connection_names_the_host(program: Program, orders_file: Write) -> None:
    async with box() as sandbox:
        here = program.pointed_at(sandbox)
        host = sandbox.base_url.removeprefix("http://")
    # It is closed now.
    run = await here.run(*SEND, "--retries", "1", orders_file(*map(order, range(500))))
    assert run.code == 1
    assert f"Error: the batch was stopped: {host} could not be reached" in run.err
    assert re.search(r"^  not sent +[0-9]+  ", run.out, re.MULTILINE)


async def test_an_endpoint_that_answers_html_is_probably_another(
    program: Program, orders_file: Write
) -> None:
    async def page(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(text="<!doctype html><title>Log in</title>", content_type="text/html")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", page)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    here = program.told(
        EVERLYTIC_BASE_URL=f"http://127.0.0.1:{port}",
        EVERLYTIC_STORE_HASH=STORE_HASH,
        EVERLYTIC_CUSTOMER_HASH=CUSTOMER_HASH,
    )
    try:
        run = await here.run(*SEND, orders_file(order(1)))
    finally:
        await runner.cleanup()
    assert run.code == 3
    assert "base_url is probably not the address of the install" in run.out


async def test_results_that_cannot_be_opened_end_it_before_anything_is_sent(
    program: Program, sandbox: Sandbox, orders_file: Write
) -> None:
    path = orders_file(order(1))
    for results in ("none/r.jsonl", program.directory):
        run = await program.pointed_at(sandbox).run(*SEND, "--results", results, path)
        assert run.code == 2
        assert "Traceback" not in run.err
    assert sandbox.requests == 0


async def test_results_never_replace_the_orders(
    program: Program, sandbox: Sandbox, orders_file: Write
) -> None:
    path = orders_file(order(1))
    before = path.read_bytes()
    here = program.pointed_at(sandbox)
    by_name = await here.run(*SEND, "--results", path, path)
    with path.open("rb") as file:
        by_stdin = await ended(await here.start(*SEND, "--results", path, "-", stdin=file))
    for run in (by_name, by_stdin):
        assert run.code == 2
        assert run.err == "Error: --results names the file that holds the orders\n"
    assert before == path.read_bytes()
    assert sandbox.requests == 0


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("send", ["--no-ledger"]),
        ("send", ["--sandbox"]),
        ("send", ["--dry-run"]),
        ("check", []),
    ],
)
async def test_results_never_replace_those_of_an_earlier_run(
    program: Program, sandbox: Sandbox, orders_file: Write, command: str, options: list[str]
) -> None:
    kept = program.directory / "r.jsonl"
    kept.write_text("earlier\n")
    here = program.pointed_at(sandbox)
    run = await here.run(command, *options, "--results", "r.jsonl", orders_file(order(1)))
    assert (run.code, run.out, sandbox.requests) == (2, "", 0)
    assert run.err == (
        "Error: r.jsonl holds the results of an earlier run: name another file, or add "
        "--append-results to append to them\n"
    )
    append = ("--results", "r.jsonl", "--append-results")
    assert (await here.run(command, *options, *append, orders_file(order(1)))).code == 0
    first, second = kept.read_text().splitlines()
    assert first == "earlier"
    assert json.loads(second)["line"] == 1


async def test_what_a_run_writes_is_for_nobody_else(
    program: Program, sandbox: Sandbox, orders_file: Write
) -> None:
    pytest.importorskip("plotly")
    here = program.pointed_at(sandbox)
    files = ("--ledger", "l", "--results", "r.jsonl", "--report", "r.html")
    process = await here.start("send", *files, orders_file(order(1)), umask=0)
    assert (await ended(process)).code == 0
    await here.run("ledger", "export", "--output", "l.jsonl", "l")
    for name in ("l", "r.jsonl", "r.html", "l.jsonl"):
        assert stat.S_IMODE((program.directory / name).stat().st_mode) == 0o600, name


async def test_a_link_that_somebody_planted_for_the_report_is_not_followed(
    program: Program, orders_file: Write
) -> None:
    """Under the name that its temporary file would have, whatever the process id."""
    pytest.importorskip("plotly")
    treasure = program.directory / "treasure"
    treasure.write_text("treasure")
    code = (
        "import os, pathlib, sys\n"
        "pathlib.Path(f'.r.html.{os.getpid()}.part').symlink_to('treasure')\n"
        "from everlytic_async.cli import main\n"
        "main()\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, "send", "--sandbox", "--report", "r.html"),
        orders_file(order(1)),
        cwd=program.directory,
        env=program.environment,
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert await process.wait() == 0
    assert treasure.read_text() == "treasure"
    assert "<html" in (program.directory / "r.html").read_text()
    assert not (program.directory / "r.html").is_symlink()


async def test_a_missing_library_for_the_report_is_told_before_anything_is_asked_or_sent(
    program: Program, sandbox: Sandbox, orders_file: Write
) -> None:
    (program.directory / "plotly.py").write_text("raise ImportError\n")
    here = program.pointed_at(sandbox).told(PYTHONPATH=str(program.directory))
    run = await here.run("send", "--ledger", "l", "--report", "r.html", orders_file(order(1)))
    assert (run.code, run.out, sandbox.requests) == (2, "", 0)
    assert run.err == (
        "Error: --report needs plotly and Jinja2: pip install 'everlytic-async[report]'\n"
    )
    assert not (program.directory / "l").exists()


async def test_nothing_more_is_sent_once_results_cannot_be_written(
    program: Program, sandbox: Sandbox, orders_file: Write
) -> None:
    path = orders_file(*map(order, range(3000)))
    run = await program.pointed_at(sandbox).run(*SEND, "--results", "/dev/full", path)
    assert run.code == 1
    assert "Error: the results can't be written any more: No space left on device" in run.err
    assert sandbox.processed < 200
    total = re.search(r"^([0-9,]+) orders from", run.out)
    sent = re.search(r"^  sent +([0-9,]+)", run.out, re.MULTILINE)
    assert total is not None
    assert sent is not None
    assert int(sent[1]) == sandbox.processed
    assert int(total[1]) < 300


@pytest.mark.parametrize("results", [[], ["--results", "r.jsonl"]], ids=["plain", "results"])
async def test_a_summary_that_cannot_be_written_is_told_and_invites_nobody_to_send_again(
    program: Program, sandbox: Sandbox, orders_file: Write, results: list[str], dev_full: IO[bytes]
) -> None:
    path = orders_file(*map(order, range(20)))
    run = await ended(
        await program.pointed_at(sandbox).start(*SEND, *results, path, stdout=dev_full)
    )
    assert sandbox.processed == 20
    assert run.code == 1
    # What became of the orders is told all the same.
    assert run.err.startswith(f"20 orders from {path} to 127.0.0.1:")
    assert "  sent      20  accepted by the endpoint\n" in run.err
    assert run.err.endswith(
        "Error: the standard output can't be written: No space left on device. The orders are as "
        "the summary above says.\n"
    )
    assert "again" not in run.err


async def test_results_on_a_full_standard_output_end_it_at_once(
    program: Program, sandbox: Sandbox, orders_file: Write, dev_full: IO[bytes]
) -> None:
    path = orders_file(*map(order, range(3000)))
    run = await ended(
        await program.pointed_at(sandbox).start(*SEND, "--results", "-", path, stdout=dev_full)
    )
    assert run.code == 1
    assert "Error: the results can't be written any more: No space left on device" in run.err
    assert "Exception ignored" not in run.err
    assert sandbox.processed < 200


async def test_results_go_down_a_pipe_as_they_come(
    program: Program, sandbox: Sandbox, orders_file: Write
) -> None:
    process = await program.pointed_at(sandbox).start(
        *SEND, "--results", "-", "-", stdin=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(lines_of(order(1)).encode())
    async with asyncio.timeout(30):
        line = await process.stdout.readline()  # with the input still open
    process.stdin.close()
    assert json.loads(line)["key"] == "1"
    assert (await ended(process)).code == 0


@pytest.mark.parametrize("command", ["check", "send"])
async def test_what_a_check_found_and_cannot_write_is_told(
    program: Program, orders_file: Write, command: str, dev_full: IO[bytes]
) -> None:
    dry = ["--dry-run"] if command == "send" else []
    run = await ended(await program.start(command, *dry, orders_file(order(1)), stdout=dev_full))
    assert run.code == 1
    assert run.err == "Error: the standard output can't be written: No space left on device\n"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--no-ledger"], "sending all of it again may notify customers twice."),
        (
            ["--no-ledger", "--results", "r.jsonl"],
            "and r.jsonl says which: sending all of it again may notify",
        ),
        (["--ledger", "l"], "Run it again with the same ledger (l): it knows which."),
        (["--sandbox"], "Run it again with --debug to see where."),
    ],
    ids=["plain", "results", "ledger", "sandbox"],
)
async def test_an_error_that_nobody_foresaw_invites_nobody_to_send_again(
    program: Program, sandbox: Sandbox, orders_file: Write, options: list[str], told: str
) -> None:
    (program.directory / "sitecustomize.py").write_text(
        "import everlytic_async.cli._run as module\n"
        "def broken(*_): raise RuntimeError('ann@example.com')\n"
        "module.reason_lines = broken\n"  # for the summary, when all were sent
    )
    here = program.pointed_at(sandbox).told(PYTHONPATH=str(program.directory))
    run = await here.run("send", *options, orders_file(*map(order, range(20))))
    assert sandbox.processed == (0 if "--sandbox" in options else 20)
    assert run.code == 1
    assert "Error: an unexpected RuntimeError. " in run.err
    assert told in run.err
    assert ("--debug" in run.err) == ("--sandbox" in options)
    assert "ann@" not in run.err


@pytest.mark.parametrize("command", ["send", "check"])
async def test_an_input_that_cannot_be_opened_is_told(
    program: Program, sandbox: Sandbox, command: str
) -> None:
    for name, why in (("none.jsonl", "No such file or directory"), (".", "Is a directory")):
        run = await program.pointed_at(sandbox).run(command, name)
        assert run.code == 2
        assert run.err == f"Error: {name} can't be read: {why}\n"
    assert sandbox.requests == 0


@pytest.mark.parametrize("command", ["send", "check"])
async def test_an_input_that_cannot_be_read_is_told(
    program: Program, sandbox: Sandbox, command: str
) -> None:
    # It opens, and nothing can be read at its beginning.
    run = await program.pointed_at(sandbox).run(command, "--no-ledger", "/proc/self/mem")
    assert run.code == 2
    assert "Error: /proc/self/mem can't be read further: Input/output error\n" in run.err
    assert "0 orders" in run.out
    assert sandbox.requests == 0


async def test_a_terminal_is_asked_for_orders_until_it_ends(
    program: Program, sandbox: Sandbox, until: Until
) -> None:
    keyboard, terminal = pty.openpty()
    process = await program.pointed_at(sandbox).start(*SEND, "-", stdin=terminal)
    os.close(terminal)
    os.write(keyboard, lines_of(order(1)).encode())
    await until(lambda: sandbox.processed == 1)
    os.write(keyboard, b"\x04")  # Ctrl-D
    run = await ended(process)
    os.close(keyboard)
    assert run.code == 0
    assert run.err == "Type or paste orders, one JSON object on a line. Ctrl-D ends the input.\n"
    assert run.out.startswith("1 order from standard input")


async def test_a_reader_of_the_output_that_leaves_is_no_error(
    program: Program, sandbox: Sandbox, orders_file: Write
) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    process = await program.pointed_at(sandbox).start(
        *SEND, orders_file(*map(order, range(20))), stdout=theirs
    )
    os.close(theirs)
    run = await ended(process)
    assert (run.code, run.err) == (0, "")
    assert sandbox.processed == 20
