"""The ledger of a run: which one it is, and what it skips."""

from __future__ import annotations

import asyncio
import json
import re
import resource
from pathlib import Path

import pytest
from command_endpoint import Endpoint
from command_ledger import ONE_AT_ONCE, commands, make_ledger, named, states
from command_line import Cli, Program, read_results, to_lines, until

from everlytic_async import EverlyticClient
from everlytic_async.cli._commands import SendOptions
from everlytic_async.cli._forecast import choose_ledger
from everlytic_async.cli._input import open_input
from everlytic_async.cli._plan import count_input
from everlytic_async.cli._settings import Settings
from everlytic_async.ledger import State
from everlytic_async.outcomes import Outcome
from everlytic_async.sandbox import Sandbox
from support.delivery import order
from support.sandboxes import CUSTOMER_HASH, STORE_HASH, serve


@pytest.mark.parametrize("place", ["everlytic.toml", "home/.config/everlytic-async/everlytic.toml"])
@pytest.mark.parametrize("account", ["file", "environment"])
def test_the_settings_name_a_ledger_beside_them(
    cli: Cli, sandbox: Sandbox, place: str, account: str
) -> None:
    settings = cli.directory / place
    (settings.parent / "kept").mkdir(parents=True)
    text = '[everlytic]\nledger = "kept/l"\n'
    if account == "environment":
        cli.use(sandbox.base_url)
    else:
        text += (
            f'base_url = "{sandbox.base_url}"\nstore_hash = "{STORE_HASH}"\n'
            f'customer_hash = "{CUSTOMER_HASH}"\n'
        )
    settings.write_text(text)
    path = cli.write(order(1))
    run = cli("send", path)
    assert run.code == 0
    assert f"Ledger: {settings.parent / 'kept/l'} (new)\n" in run.err
    assert (cli("send", path).code, sandbox.processed) == (0, 1)
    # An option comes before them.
    for new in (" (new)", ""):
        run = cli("send", "--ledger", "l", path)
        assert (run.code, run.err.endswith(f"Ledger: {cli.directory / 'l'}{new}\n")) == (0, True)
    assert cli("send", "--no-ledger", path).code == 0
    assert sandbox.processed == 3


@pytest.mark.parametrize(
    "command", [("send",), ("send", "--yes"), ("send", "--dry-run"), ("check",)], ids=" ".join
)
@pytest.mark.parametrize(
    ("other", "file"),
    [
        ("exports/everlytic.ledger", "exports/orders.jsonl"),  # sent from there
        ("exports/shop a.ledger", "exports/orders.jsonl"),
        ("orders.ledger", "orders.jsonl"),  # sent with an option that is forgotten now
        ("orders.ledger", "exports/orders.jsonl"),
        ("orders.ledger", "-"),
        ("exports/everlytic.ledger", "latest.jsonl"),  # a link
    ],
)
def test_no_new_ledger_takes_the_place_of_one_that_is_there(
    cli: Cli, shop: Sandbox, other: str, file: str, command: tuple[str, ...]
) -> None:
    Path("exports").mkdir()
    Path("latest.jsonl").symlink_to("exports/today.jsonl")
    text = to_lines(order(1), order(2))
    if file != "-":
        Path(file).write_text(text)
    stdin = text.encode() if file == "-" else None
    assert cli("send", "--ledger", other, file, stdin=stdin).code == 0
    run = cli(*command, file, stdin=stdin)
    assert f"there is no ledger at {cli.directory / 'everlytic.ledger'}, but there is" in run.err
    is_sent = command in (("send",), ("send", "--yes"))
    if is_sent:
        assert (run.code, run.out) == (2, "")
    else:  # it sends nothing
        assert run.code == 0
        assert "Warning: there is no ledger at " in run.err
    use, start_new = commands(run)
    if file == "latest.jsonl":
        other = str(cli.directory / other)
    assert use == [command[0], "--ledger", other, *command[1:], file]
    assert start_new == [command[0], "--ledger", "everlytic.ledger", *command[1:], file]
    assert cli(*use, stdin=stdin).code == 0
    assert shop.processed == 2
    assert not Path("everlytic.ledger").exists()
    run = cli(*start_new, stdin=stdin)
    assert (run.code, shop.processed) == (0, 4 if is_sent else 2)


def test_a_default_ledger_beside_another_one_is_pointed_out(cli: Cli, shop: Sandbox) -> None:
    """The working directory may have the ledger of another shop."""
    Path("exports").mkdir()
    file = Path("exports/orders.jsonl")
    file.write_text(to_lines(order(1)))
    make_ledger(Path("everlytic.ledger"))
    make_ledger(Path("more.ledger"))  # not beside the input
    assert cli("send", "--ledger", "exports/everlytic.ledger", file).err.count("Warning") == 0
    words = "beside the input is exports/everlytic.ledger, and this run uses everlytic.ledger: "
    for command in (("check", file), ("send", "--dry-run", file), ("send", file)):
        run = cli(*command)
        assert run.code == 0
        assert run.err.count("Warning: ") == run.err.count(words) == 1, run.err
        assert "--ledger" in run.err
    assert shop.processed == 2  # nobody could be asked
    for options in (["--ledger", "everlytic.ledger"], ["--no-ledger"]):
        assert "Warning" not in cli("check", *options, file).err
    file = file.rename("orders.jsonl")
    assert "Warning" not in cli("check", cli.directory / file).err


@pytest.mark.parametrize("other", ["elsewhere/everlytic.ledger", "accounts.ledger", "orders"])
def test_what_is_no_ledger_or_not_beside_the_input_is_in_nobodys_way(
    cli: Cli, shop: Sandbox, other: str
) -> None:
    Path("elsewhere").mkdir()
    path = cli.write(order(1))
    if other == "accounts.ledger":
        Path(other).write_text("2026/03/01 a ledger of another program\n")
    else:
        assert cli("send", "--ledger", other, path).code == 0
    run = cli("check", path)
    assert (run.code, run.err) == (0, "")
    # Nor is one that the command does not take the place of.
    Path("exports").mkdir()
    make_ledger(Path("exports/everlytic.ledger"))
    path = path.rename("exports/orders.jsonl")
    for options in (["--ledger", "l"], ["--no-ledger"], ["--sandbox"], ["--to", "me@example.com"]):
        assert cli("send", *options, path).code == 0, options
    make_ledger(Path("everlytic.ledger"))
    assert cli("send", path).code == 0


@pytest.mark.parametrize("command", [("check",), ("send", "--dry-run")])
def test_what_sends_nothing_reads_the_ledger_and_never_creates_one(
    cli: Cli, endpoint: Endpoint, command: tuple[str, ...]
) -> None:
    path = cli.write(*named("s1", "s2", "u1", "i1", "s3"))
    run = cli(*command, path)
    assert run.code == 1
    assert "  valid     4  " in run.out
    assert not list(cli.directory.glob("*ledger*"))
    Path("everlytic.ledger").touch()  # as after a run on a terminal
    assert cli("send", "--limit", "3", "--retries", "0", path).code == 3
    before = Path("everlytic.ledger").read_bytes(), states("everlytic.ledger")
    run = cli(*command, "--results", "r.jsonl", path)
    assert run.code == 1
    assert f"Ledger: {cli.directory / 'everlytic.ledger'}; it is only read" in run.err
    for line in ("valid     1  ", "skipped   3  ", "invalid   1  "):
        assert f"  {line}" in run.out
    assert "  2 x the ledger says that it was sent before" in run.out
    assert before == (Path("everlytic.ledger").read_bytes(), states("everlytic.ledger"))
    assert '"outcome": "skipped"' in Path("r.jsonl").read_text()
    assert "valid     4  " in cli(*command, "--no-ledger", path).out


def test_a_check_without_an_account_says_where_the_orders_went(
    cli: Cli, shop: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cli.write(order(1), order(2))
    cli("send", "--ledger", "l", "--workflow-id", "7", path)
    monkeypatch.delenv("EVERLYTIC_BASE_URL")
    run = cli("check", "--ledger", "l", path)
    assert run.code == 0
    assert (
        "Note: the ledger knows 2 of these orders as sent, or perhaps sent, at another address or "
        f"store ({shop.base_url.removeprefix('http://')}) in workflow 7"
    ) in run.err


@pytest.mark.parametrize(
    ("resend", "sent", "known"),
    [
        ([], 2, {State.SENT: 1, State.UNKNOWN: 1, State.REJECTED: 1}),
        ([Outcome.UNKNOWN], 3, {State.SENT: 1, State.REJECTED: 1}),
        ([Outcome.UNKNOWN, Outcome.REJECTED], 4, {State.SENT: 1}),
    ],
)
def test_a_plan_counts_what_the_ledger_knows(
    cli: Cli, endpoint: Endpoint, resend: list[Outcome], sent: int, known: dict[State, int]
) -> None:
    path = cli.write(*named("s1", "u1", "r1", "n1", "s2", "i1"))
    options = ("--ledger", "l", *ONE_AT_ONCE)
    assert cli("send", *options, "--limit", "4", path).code == 1
    client = EverlyticClient(endpoint.base_url, store_hash=STORE_HASH, customer_hash=CUSTOMER_HASH)
    again = SendOptions(file=str(path), ledger="l", resend=tuple(map(str, resend)))
    settings = Settings(None)
    with open_input(again, settings) as source:
        count = asyncio.run(count_input(again, client, choose_ledger(again, settings), source))
    assert count is not None
    known = {str(state): number for state, number in known.items()}
    assert (count.to_send, count.tally.skipped) == (sent, known)
    assert count.workflows == {None: sent}
    assert count.tally.counts[Outcome.INVALID] == 1
    # And so it comes.
    endpoint.received.clear()
    words = [word for outcome in resend for word in ("--resend", str(outcome))]
    out = cli("send", *options, *words, path).out
    assert len(endpoint.received) == sent
    find_out = (
        "1 x the ledger says that it may have been sent before: find out, or --resend unknown"
    )
    assert (find_out in out) == (not resend)
    twice = "1 of them may have been processed more than once"
    assert (twice in out) == (Outcome.UNKNOWN in resend)


def test_a_second_run_skips_what_was_sent_and_reports_what_changed(cli: Cli, shop: Sandbox) -> None:
    orders = [order(n) for n in range(30)]
    assert cli("send", "--ledger", "l", "--limit", "10", cli.write(*orders)).code == 0
    orders[3]["total"] = "9.50"
    run = cli("send", "--ledger", "l", "--results", "r.jsonl", cli.write(*orders))
    assert (run.code, shop.processed, dict(shop.duplicates)) == (0, 30, {})
    assert re.search(r"^  sent +20  accepted", run.out, re.MULTILINE)
    assert re.search(r"^  skipped +10  known to the ledger", run.out, re.MULTILINE)
    assert "  9 x the ledger says that it was sent before  (lines 1, 2, 3, 5, 6 and 4 more)" in (
        run.out
    )
    assert "  1 of those skipped have changed since they were first sent" in run.out
    assert "another shop's orders with the same ids, give that shop a ledger of its own" in run.out
    skipped = [each for each in read_results("r.jsonl") if each["outcome"] == "skipped"]
    assert [str(number) for number in range(10)] == [each["key"] for each in skipped]


def test_an_order_that_was_invalid_leaves_nothing_behind_and_is_sent_once_corrected(
    cli: Cli, shop: Sandbox
) -> None:
    send = ("send", "--ledger", "l", "--workflow-id", "32", "--results")
    first = cli(*send, "r.jsonl", cli.write(order(77, contact_email=None), order(78)))
    (result, _) = read_results("r.jsonl")
    assert (first.code, result["key"], result["outcome"]) == (3, "77", "invalid")
    assert "1 order is invalid: a person has to correct it." in first.err
    second = cli(*send, "r2.jsonl", cli.write(order(77), order(78)))
    assert (second.code, shop.processed) == (0, 2)
    assert "again" not in second.err
    # It has another key by now: what was recorded before would be there for good.
    assert set(states("l")) == {"77@32", "78@32"}


def test_a_killed_run_is_resumed_and_nobody_is_notified_twice(cli: Cli, program: Program) -> None:
    path = cli.write(*map(order, range(60)))
    with serve(latency_s=0.04, latency_jitter_s=0.06) as sandbox:
        send = ("send", "--ledger", "l", "--concurrency", "8", path)
        process = program.with_endpoint(sandbox).start(*send)
        until(lambda: sandbox.processed >= 12)
        process.kill()
        process.wait()
        status = cli("ledger", "status", "l")
        exported = cli("ledger", "export", "--state", "unknown", "--with", path, "l")
        cli.use(sandbox.base_url)
        doctor = json.loads(cli("doctor", "--allow-http", "--json", "--ledger", "l").out)
        assert cli("ledger", "copy", "l", "copy").code == 0
        resolved = cli("ledger", "resolve", "copy", "--sent", "--all")
        checked = cli("check", "--ledger", "l", path)
        run = cli("send", "--ledger", "l", "--durability", "power", path)
    assert (run.code, dict(sandbox.duplicates)) == (3, {})
    left = re.search(r"^  unknown +([0-9]+)  may have been", status.out, re.MULTILINE)
    assert left is not None
    assert "in flight" not in status.out
    assert 0 < len(exported.out.splitlines()) == int(left[1]) == doctor["ledger"]["unknown"]
    assert all("contact_email" in json.loads(line) for line in exported.out.splitlines())
    assert resolved.out.startswith(f"{left[1]} order")
    assert sandbox.processed + int(left[1]) >= 60
    # What a check predicts is what comes.
    for each in (checked, run):
        assert f"  {left[1]} x the ledger says that it may have been sent before" in each.out
    assert f"\n  everlytic-async ledger export --state unknown --with {path} l\n" in run.err
    assert list(cli.directory.glob("l-run-*")) == []


def test_what_another_process_is_sending_is_skipped_and_left_for_the_next_run(
    cli: Cli, program: Program
) -> None:
    send = ("send", "--ledger", "l", cli.write(order(1)))
    with serve(latency_s=300) as sandbox:
        program.with_endpoint(sandbox).start(*send)
        until(lambda: sandbox.in_flight == 1)
        status = cli("ledger", "status", "l")
        cli.use(sandbox.base_url)
        run = cli(*send)
        assert sandbox.requests == 1
    assert "1 process is sending with it now.\n" in status.out
    assert re.search(r"^  in flight +1  being sent$", status.out, re.MULTILINE)
    assert run.code == 1
    assert "1 order is being sent by another process. When that has ended:\n" in run.err
    assert commands(run) == [["send", "--ledger", "l", str(send[-1])]]


def test_a_ledger_that_fails_midway_stops_it_and_what_was_sent_is_on_record(
    program: Program, sandbox: Sandbox
) -> None:
    path = program.write(*map(order, range(1500)))
    run = program.with_endpoint(sandbox).run(
        *("send", "--ledger", "l", "--results", "/dev/null", path),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)),
    )
    assert run.code == 1
    assert "Error: the batch was stopped: the ledger '" in run.err
    assert "To send the rest, run it again; what was sent is not sent again:\n" in run.err
    assert 0 < sandbox.processed < 1500
    assert {each["order_id"] for each in sandbox.received} <= set(states(program.directory / "l"))
