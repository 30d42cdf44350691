"""``send --ledger`` and ``ledger``: a second run takes up the rest, and people look and decide."""

from __future__ import annotations

import csv
import json
import re
import resource
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from command_line import CUSTOMER_HASH, STORE_HASH, Here, Program, box, ended, order, results_in

from everlytic_async.ledger import Entry, LedgerFile, State, storage_key
from everlytic_async.ledger._sqlite_writer import Record, SqliteWriter
from everlytic_async.sandbox import Sandbox

Write = Callable[..., Path]
Until = Callable[[Callable[[], bool]], Awaitable[None]]

# It could be an order id, and then it would be kept as it is.
OWN_KEY = "customer-17"


def made(path: Path, *entries: Entry, at: float = 1_800_000_000.0) -> Path:
    """A ledger that knows of these orders, each recorded a second after the one before."""
    times = iter(at + second for second in range(1000))
    with SqliteWriter(path, clock=lambda: next(times)) as ledger:
        scope = ledger.scope("a digest", "shop.example")
        for entry in entries:
            ledger.execute([Record(scope, entry)])
    return path


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return made(
        tmp_path / "orders.ledger",
        *(Entry(f"10{n:02}", State.SENT, "x", 1, 200) for n in range(10)),
        Entry("2001", State.UNKNOWN, "x", 1, None, "the answer was lost"),
        Entry("2002@32", State.UNKNOWN, "x", 1, 500, 'it said "no", and\nthat was it'),
        Entry("3001", State.REJECTED, "x", 1, 422, "no such workflow"),
        Entry(storage_key(OWN_KEY, custom=True), State.UNKNOWN, "x"),
        Entry("4001", State.NOT_SENT, "x"),
    )


def states(path: Path) -> dict[str, State]:
    with LedgerFile(path, must_exist=True) as ledger:
        return {entry.key: entry.state for _host, entry in ledger.entries()}


# ---------------------------------------------------------------------------------- send --ledger


async def test_an_order_that_could_not_be_read_leaves_nothing_behind(
    program: Program, sandbox: Sandbox, orders_file: Write
) -> None:
    here = program.pointed_at(sandbox)
    send = ("send", "--ledger", "l", "--workflow-id", "32", "--results")
    await here.run(*send, "r.jsonl", orders_file(order(77, contact_email=None)))
    (result,) = results_in(program.directory / "r.jsonl")
    assert (result["key"], result["outcome"]) == ("77", "invalid")
    run = await here.run(*send, "r2.jsonl", orders_file(order(77)))
    assert run.code == 0
    exported = await here.run("ledger", "export", "l")
    # It has another key by now: what was recorded before would be there for good.
    assert [json.loads(line)["key"] for line in exported.out.splitlines()] == ["77@32"]


async def test_a_second_run_skips_what_was_sent_and_that_is_no_failure(
    program: Program, sandbox: Sandbox, orders_file: Write
) -> None:
    path = orders_file(*map(order, range(30)))
    here = program.pointed_at(sandbox)
    first = await here.run("send", "--ledger", "l", "--limit", "10", path)
    second = await here.run("send", "--ledger", "l", "--results", "r.jsonl", path)
    assert (first.code, second.code) == (0, 0)
    assert (sandbox.processed, dict(sandbox.duplicates)) == (30, {})
    assert re.search(r"^  sent +20  accepted", second.out, re.MULTILINE)
    assert re.search(r"^  skipped +10  known to the ledger", second.out, re.MULTILINE)
    assert "  10 x the ledger says that it was sent before  (lines 1, 2, 3, 4, 5 and 5 more)" in (
        second.out
    )
    skipped = [r for r in results_in(program.directory / "r.jsonl") if r["outcome"] == "skipped"]
    assert [str(number) for number in range(10)] == [result["key"] for result in skipped]


async def test_a_killed_run_is_taken_up_and_nobody_is_notified_twice(
    program: Program, orders_file: Write, until: Until
) -> None:
    path = orders_file(*map(order, range(100)))
    async with box(latency_s=0.04, latency_jitter_s=0.06) as sandbox:
        here = program.pointed_at(sandbox)
        process = await here.start("send", "--ledger", "l", "--concurrency", "8", path)
        await until(lambda: sandbox.processed >= 20)
        process.kill()
        assert (await ended(process)).code == -9
        status = await here.run("ledger", "status", "l")
        checked = await here.run("check", "--ledger", "l", path)
        run = await here.run("send", "--ledger", "l", "--durability", "power", path)
    assert run.code == 3
    assert dict(sandbox.duplicates) == {}
    left = re.search(r"^  in flight +([0-9]+)  of a run that ended", status.out, re.MULTILINE)
    assert left is not None
    assert sandbox.processed + int(left[1]) >= 100
    # What a check foretells is what comes.
    for found in (checked, run):
        assert f"  {left[1]} x the ledger says that it may have been sent before" in found.out
    assert "\n  everlytic-async ledger export --state unknown l\n" in run.err
    assert list(program.directory.glob("l-run-*")) == []


async def test_what_is_unknown_is_sent_again_only_when_that_is_asked_for(
    program: Program, orders_file: Write
) -> None:
    path = orders_file(*map(order, range(4)))
    async with box(dropped_after=1) as lossy:
        here = program.pointed_at(lossy)
        first = await here.run("send", "--ledger", "l", path)
    port = int(lossy.base_url.rpartition(":")[2])
    async with Sandbox(port=port, store_hash=STORE_HASH, customer_hash=CUSTOMER_HASH) as sandbox:
        second = await here.run("send", "--ledger", "l", path)
        assert sandbox.requests == 0
        third = await here.run("send", "--ledger", "l", "--resend", "unknown", path)
    assert (first.code, second.code, third.code) == (3, 3, 0)
    for run in (first, second):
        assert "To send the rest" not in run.err  # it would send nothing
        assert "\n  everlytic-async ledger export --state unknown l\n" in run.err
    assert (lossy.processed, sandbox.processed) == (4, 4)
    assert "4 of them may have been processed more than once" in third.out


async def test_an_order_that_changed_since_is_skipped_and_counted(
    program: Program, sandbox: Sandbox, orders_file: Write
) -> None:
    here = program.pointed_at(sandbox)
    await here.run("send", "--ledger", "l", orders_file(order(1), order(2)))
    run = await here.run("send", "--ledger", "l", orders_file(order(1), order(2, total="9.50")))
    assert (run.code, sandbox.processed) == (0, 2)
    assert "  1 of those skipped have changed since they were first sent" in run.out


@pytest.mark.parametrize("kind", ["no directory", "no database"])
async def test_a_ledger_that_cannot_be_used_ends_it_before_anything_is_sent(
    program: Program, sandbox: Sandbox, orders_file: Write, kind: str
) -> None:
    results = program.directory / "r.jsonl"
    path = program.directory / ("none/l" if kind == "no directory" else "l")
    if kind == "no database":
        path.write_text("an order, and another order, and so on\n" * 100)
    run = await program.pointed_at(sandbox).run(
        "send", "--ledger", path, "--results", results, orders_file(order(1))
    )
    assert (run.code, run.out) == (2, "")
    assert f"Error: the ledger '{path}' can't be " in run.err
    assert sandbox.requests == 0
    assert not results.exists()


async def test_what_is_not_valid_is_sent_once_it_is_mended(
    program: Program, sandbox: Sandbox, orders_file: Write
) -> None:
    here = program.pointed_at(sandbox)
    first = await here.run("send", "--ledger", "l", orders_file(order(1), order(2, products=[])))
    second = await here.run("send", "--ledger", "l", orders_file(order(1), order(2)))
    assert (first.code, second.code) == (3, 0)
    assert "1 order is invalid: a person has to correct it." in first.err
    assert "again" not in second.err
    assert [received["order_id"] for received in sandbox.received] == ["1", "2"]


async def test_a_ledger_that_fails_midway_stops_it_and_what_was_sent_is_on_record(
    program: Program, sandbox: Sandbox, orders_file: Write
) -> None:
    path = orders_file(*map(order, range(3000)))
    process = await program.pointed_at(sandbox).start(
        "send", "--ledger", "l", "--results", "/dev/null", path, preexec_fn=_small_files
    )
    run = await ended(process)
    assert run.code == 1
    assert "Error: the batch was stopped: the ledger '" in run.err
    assert "To send the rest, run it again; what was sent is not sent again:\n" in run.err
    assert 0 < sandbox.processed < 3000
    known = states(program.directory / "l")
    assert {received["order_id"] for received in sandbox.received} <= set(known)


def _small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))


async def test_results_never_replace_the_ledger(
    program: Program, sandbox: Sandbox, orders_file: Write
) -> None:
    here = program.pointed_at(sandbox)
    path = orders_file(order(1))
    run = await here.run("send", "--ledger", "l", "--results", "l", path)
    assert (run.code, run.err) == (2, "Error: --results names the same file as --ledger\n")
    assert sandbox.requests == 0


# ----------------------------------------------------------------------------------------- status


def test_status_shows_counts_times_and_hosts(here: Here, ledger: Path) -> None:
    run = here("ledger", "status", ledger)
    assert (run.code, run.err) == (0, "")
    assert run.out.startswith(f"{ledger} knows of 15 orders for shop.example\n")
    for state, count in (("sent", 10), ("unknown", 3), ("not sent", 1), ("rejected", 1)):
        assert re.search(rf"^  {state} +{count}  \w", run.out, re.MULTILINE)
    assert re.search(
        r"^Recorded from 2027-01-1.* to 2027-01-1.*: 14 s, 1\.1/s", run.out, re.MULTILINE
    )
    assert run.out.endswith("No process is sending with it now.\n")


async def test_status_counts_the_processes_that_are_sending(
    program: Program, orders_file: Write, until: Until
) -> None:
    async with box(latency_s=300) as sandbox:
        here = program.pointed_at(sandbox)
        process = await here.start("send", "--ledger", "l", orders_file(order(1)))
        await until(lambda: sandbox.in_flight == 1)
        run = await here.run("ledger", "status", "l")
        process.kill()
        await ended(process)
    assert "1 process is sending with it now.\n" in run.out
    assert re.search(r"^  in flight +1  being sent$", run.out, re.MULTILINE)


def test_status_of_an_empty_ledger_is_nothing_special(here: Here) -> None:
    run = here("ledger", "status", made(Path("l")))
    assert (run.code, run.err) == (0, "")
    assert run.out.startswith("l knows of 0 orders for shop.example\n")


@pytest.mark.parametrize("command", ["status", "export", "resolve", "copy"])
def test_a_file_that_is_no_ledger_is_told_and_none_is_made(here: Here, command: str) -> None:
    more = {"resolve": ["--sent", "--all"], "copy": ["target"]}.get(command, [])
    run = here("ledger", command, "none", *more)
    assert (run.code, run.out) == (2, "")
    assert not Path("target").exists()
    assert run.err.startswith("Error: there is no ledger at ")
    assert not Path("none").exists()


# ------------------------------------------------------------------------------------------- copy


def test_a_copy_is_an_independent_ledger(here: Here, ledger: Path) -> None:
    known = here("ledger", "export", ledger)
    run = here("ledger", "copy", ledger, "copy.ledger")
    assert (run.code, run.err) == (0, "")
    assert run.out.endswith(" copied to copy.ledger\n")
    assert here("ledger", "export", "copy.ledger").out == known.out

    run = here("ledger", "copy", ledger, "copy.ledger")
    assert (run.code, run.out) == (2, "")
    assert "not replaced" in run.err


def test_a_ledger_with_two_names_is_refused_and_its_copy_is_not(here: Here, ledger: Path) -> None:
    Path("twin.ledger").hardlink_to(ledger)
    run = here("ledger", "status", "twin.ledger")
    assert (run.code, run.out) == (2, "")
    assert "everlytic-async ledger copy" in run.err
    assert here("ledger", "copy", "twin.ledger", "copy.ledger").code == 0
    assert here("ledger", "status", "copy.ledger").code == 0


# ----------------------------------------------------------------------------------------- export


def test_an_export_has_a_line_for_each_order(here: Here, ledger: Path) -> None:
    run = here("ledger", "export", ledger)
    rows = [json.loads(line) for line in run.out.splitlines()]
    assert (run.code, len(rows)) == (0, 15)
    assert rows[10] == {
        "host": "shop.example",
        "key": "2001",
        "state": "unknown",
        "attempts": 1,
        "status": None,
        "reason": "the answer was lost",
        "at": "2027-01-15T08:00:11.000+00:00",
    }


def test_an_export_may_be_csv_of_some_states_into_a_file(here: Here, ledger: Path) -> None:
    options = ["--format", "csv", "--state", "unknown", "--state", "not_sent", "--output", "o.csv"]
    run = here("ledger", "export", *options, ledger)
    assert (run.code, run.out) == (0, "")
    with Path("o.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["state"] for row in rows} == {"unknown", "not_sent"}
    reasons = {row["key"]: row["reason"] for row in rows}
    assert reasons["2002@32"] == 'it said "no", and\nthat was it'


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("none/o", "none/o can't be written: No such file or directory"),
        ("orders.ledger", "--output names the ledger itself"),
        ("/dev/full", "/dev/full can't be written: No space left on device"),
    ],
)
def test_an_export_that_cannot_be_written_is_told(
    here: Here, ledger: Path, output: str, told: str
) -> None:
    run = here("ledger", "export", "--output", output, ledger)
    assert (run.code, run.err) == (2, f"Error: {told}\n")
    assert len(states(ledger)) == 15


# ---------------------------------------------------------------------------------------- resolve


@pytest.mark.parametrize(
    ("option", "state"), [("--sent", State.SENT), ("--send-again", State.NOT_SENT)]
)
def test_unknown_orders_are_marked_by_their_keys(
    here: Here, ledger: Path, option: str, state: State
) -> None:
    before = states(ledger)
    run = here("ledger", "resolve", ledger, option, "2001", "2002@32")
    assert (run.code, run.err) == (0, "")
    assert run.out.startswith("2 orders marked as ")
    assert states(ledger) == {**before, "2001": state, "2002@32": state}


def test_all_that_are_unknown_are_marked_and_nothing_else(here: Here, ledger: Path) -> None:
    before = states(ledger)
    assert here("ledger", "resolve", "--sent", "--all", ledger).code == 0
    after = states(ledger)
    assert {key for key in before if before[key] != after[key]} == {
        key for key in before if before[key] is State.UNKNOWN
    }


def test_a_host_says_whose_orders_are_meant(here: Here, ledger: Path) -> None:
    before = states(ledger)
    run = here("ledger", "resolve", "--sent", "--all", "--host", "another.example", ledger)
    assert (run.code, run.out[:15]) == (0, "0 orders marked")
    assert states(ledger) == before
    run = here("ledger", "resolve", ledger, "--sent", "2001", "--host", "shop.example")
    assert (run.code, run.out[:14]) == (0, "1 order marked")


def test_keys_come_from_a_file(here: Here, ledger: Path) -> None:
    Path("keys.txt").write_text("\ufeff2001\n\n 2002@32 \r\n", encoding="utf-8")
    run = here("ledger", "resolve", "--sent", "--keys-from", "keys.txt", ledger)
    assert (run.code, run.out.startswith("2 orders marked")) == (0, True)


def test_an_own_key_is_looked_for_as_its_digest(here: Here, ledger: Path) -> None:
    plain = here("ledger", "resolve", "--sent", ledger, OWN_KEY)
    assert plain.code == 1
    run = here("ledger", "resolve", "--sent", "--own-key", ledger, OWN_KEY)
    assert run.code == 0
    assert states(ledger)[storage_key(OWN_KEY, custom=True)] is State.SENT


def test_what_is_not_unknown_is_left_alone_and_told(here: Here, ledger: Path) -> None:
    before = states(ledger)
    run = here("ledger", "resolve", "--send-again", ledger, "1001", "3001", "nobody's", "2001")
    assert run.code == 1
    assert run.out.startswith("1 order marked as not sent")
    assert run.err == (
        "3 orders left alone, because the ledger has no unknown order of that name: "
        "1001, 3001, nobody's\n"
    )
    assert states(ledger) == {**before, "2001": State.NOT_SENT}


@pytest.mark.parametrize(
    "options",
    [
        ["2001"],
        ["--sent", "--send-again", "2001"],
        ["--sent"],
        ["--sent", "--all", "2001"],
        ["--sent", "--keys-from", "/dev/null"],
        ["--sent", "--keys-from", "none"],
    ],
    ids=" ".join,
)
def test_a_resolve_that_is_not_clear_changes_nothing(
    here: Here, ledger: Path, options: list[str]
) -> None:
    before = states(ledger)
    run = here("ledger", "resolve", ledger, *options)
    assert (run.code, run.out) == (2, "")
    assert run.err.startswith("Error: ")
    assert before == states(ledger)
