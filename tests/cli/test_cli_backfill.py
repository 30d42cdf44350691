"""The question before a backfill; the failures of an earlier run; the time that is left."""

from __future__ import annotations

import fcntl
import os
import signal
import termios
from collections.abc import Awaitable, Callable
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import attrs
import pytest
from command_line import Ended, Here, Program, box, ended, lines_of, order, results_in
from command_terminal import Terminal
from rich.progress import Progress

from everlytic_async.cli._input import Input, Reading
from everlytic_async.cli._plan import Count, Plan
from everlytic_async.cli._screen import _Left, lasting
from everlytic_async.cli._tally import Tally
from everlytic_async.ledger import Entry, LedgerFile, State
from everlytic_async.ledger._sqlite_file import Record
from everlytic_async.outcomes import Outcome
from everlytic_async.sandbox import Sandbox

Write = Callable[..., Path]
Until = Callable[[Callable[[], bool]], Awaitable[None]]

QUESTION = "Send them? [y/N] "


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
        *arguments, **{"stdin": terminal.theirs, "stderr": terminal.theirs, **streams}
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
        "  ledger    l, which is new",
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
        preexec_fn=_own_the_terminal,
    )
    os.close(reading)
    assert "About to send an unknown number of orders, from standard input:" in said
    assert "  workflow  as each order says" in said
    assert (run.code, sandbox.processed) == (0, 2)


def _own_the_terminal() -> None:
    os.setsid()
    fcntl.ioctl(2, termios.TIOCSCTTY, 0)


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


def plan(**more: Any) -> Plan:
    count = Count()
    count.orders = 36_000
    count.workflows[None] = 36_000
    return attrs.evolve(
        Plan(
            source="o.jsonl",
            host="shop.example",
            count=count,
            limit=None,
            workflow_id=None,
            rate=None,
            concurrency=32,
            ledger=None,
            results=None,
        ),
        **more,
    )


def test_a_plan_says_how_long_it_may_take() -> None:
    assert "rate      at most 20/s, 32 at once: 30 min or more" in "\n".join(
        plan(rate=20.0).lines()
    )
    assert "(--rate): 1 h at 10/s, 6 min at 100/s" in "\n".join(plan().lines())


def test_a_plan_names_the_workflows() -> None:
    count = Count()
    count.workflows.update({32: 5000, None: 3000, **dict.fromkeys(range(40, 50), 1)})
    assert "workflow  32 for 5,000, none for 3,000, 40 for 1, " in "\n".join(
        plan(count=count).lines()
    )
    assert ", and 7 more" in "\n".join(plan(count=count).lines())
    assert "workflow  none is named" in "\n".join(plan().lines())
    assert "workflow  17 for the orders that name none" in "\n".join(
        plan(count=None, workflow_id=17).lines()
    )


def test_a_plan_says_what_is_not_sent() -> None:
    count = Count()
    count.orders, count.invalid, count.left_out = 2000, 3, 1200
    assert "About to send 2,000 orders (and not 3 not valid, 1,200 left out) from o.jsonl:" in (
        plan(count=count).lines()
    )


@pytest.mark.parametrize(("limit", "left_out"), [(None, 2), (2, 1), (1, 0)])
def test_what_is_left_out_is_counted_to_the_end(
    orders_file: Write, limit: int | None, left_out: int
) -> None:
    days = ["2026-03-02", "2026-03-01", "2026-03-02", "2026-03-01"]
    path = orders_file(*(order(number, checkout_url=day) for number, day in enumerate(days)))
    reading = Reading(mapping={"checkout_url": None, "date": "checkout_url"}, since="2026-03-02")
    with Input(str(path), reading, limit=limit) as source, closing(source.ahead()) as ahead:
        found = (item for _line, item in islice(ahead, limit))
        count = Count().of(found, source, progress=False)
    assert (count.orders, count.left_out) == (min(limit or 2, 2), left_out)


def test_a_plan_says_what_the_ledger_knows(tmp_path: Path) -> None:
    path = tmp_path / "l"
    with LedgerFile(path) as ledger:
        scope = ledger.scope("x", "shop.example")
        for key, state in (("1", State.SENT), ("2", State.UNKNOWN), ("3", State.NOT_SENT)):
            ledger.answer([Record(scope, Entry(key, state))])
    assert f"  ledger    {path}, which knows of 1 sent, 1 unknown: they are skipped" in (
        plan(ledger=str(path)).lines()
    )


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
    assert lasting(seconds) == words


# ------------------------------------------------------------------------ only what failed before


def result(line: int, outcome: str, **more: Any) -> dict[str, Any]:
    return {"index": line - 1, "line": line, "key": str(line), "outcome": outcome, **more}


OUTCOMES = ["sent", "invalid", "rejected", "not_sent", "unknown", "skipped"]


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """Line 1 was sent, 2 invalid and so on; 7 has no result."""
    path = tmp_path / "earlier.jsonl"
    results = [result(line, outcome) for line, outcome in enumerate(OUTCOMES, start=1)]
    path.write_text(lines_of(*reversed(results)))
    return path


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ([], [2, 3, 4]),
        (["--resend", "unknown"], [2, 3, 4, 5]),
        (["--limit", "2"], [2, 3]),
    ],
)
async def test_only_what_failed_and_may_be_sent_again_is_sent(
    program: Program,
    sandbox: Sandbox,
    orders_file: Write,
    earlier: Path,
    options: list[str],
    lines: list[int],
) -> None:
    orders = [order(n) for n in range(1, 8)]
    # Mended meanwhile, so that it has another name.
    orders[1] = order(2000)
    only = ["--only", "failed", "--from-results", earlier, "--results", "r.jsonl", *options]
    run = await program.pointed_at(sandbox).run("send", *only, orders_file(*orders))
    assert run.code == 0
    assert sorted(2000 if n == 2 else n for n in lines) == sorted(
        int(received["order_id"]) for received in sandbox.received
    )
    assert lines == [r["line"] for r in results_in(program.directory / "r.jsonl")]
    assert f"{len(lines)} orders of " in run.err
    assert "1 sent, " in run.err
    assert "1 without a result." in run.err


async def test_the_results_of_a_real_run_are_taken_up(program: Program, orders_file: Write) -> None:
    path = orders_file(*map(order, range(11)), order(11, order_id=None), "nonsense")
    async with box(throttled=0.5, retry_after_s=0) as first:
        here = program.pointed_at(first)
        await here.run("send", "--retries", "0", "--results", "r1.jsonl", path)
    left = [r["line"] for r in results_in(program.directory / "r1.jsonl") if r["outcome"] != "sent"]
    async with box() as second:
        here = program.pointed_at(second)
        only = ["--only", "failed", "--from-results", "r1.jsonl"]
        run = await here.run("send", *only, "--results", "r2.jsonl", path)
    assert run.code == 1
    assert 2 < len(left) < 13
    assert left == [r["line"] for r in results_in(program.directory / "r2.jsonl")]
    assert first.processed + second.processed == 12


def test_a_dry_run_shows_what_would_be_sent(here: Here, orders_file: Write, earlier: Path) -> None:
    only = ["--only", "failed", "--from-results", earlier]
    run = here("send", "--dry-run", *only, orders_file(*map(order, range(1, 8))))
    assert run.code == 0
    assert "3 orders read" in run.out


@pytest.mark.parametrize(
    ("orders", "told"),
    [
        ([order(n) for n in (7, 2, 3, 4, 5, 6)], "line 1 is another order"),
        ([order(n) for n in range(1, 6)], "1 of its orders are not there"),
        ([order(n, workflow_id=32) for n in range(1, 7)], "line 1 is another order"),
        ([{}, *(order(n) for n in range(2, 7))], "line 1 is another order"),
        ([order(1, order_id=None), *(order(n) for n in range(2, 7))], "line 1 is another order"),
    ],
)
def test_results_of_another_input_are_refused(
    here: Here, orders_file: Write, earlier: Path, orders: list[Any], told: str
) -> None:
    path = orders_file(*orders)
    only = ["--only", "failed", "--from-results", earlier]
    run = here("send", "--sandbox", *only, path)
    assert (run.code, run.out) == (2, "")
    assert f"Error: the results in {earlier} are not those of {path}: {told}." in run.err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nonsense\n", "line 1: it is no result as --results writes them"),
        ("[]\n", "line 1: it is no result"),
        ('{"line": 1, "outcome": "fine", "key": null}\n', "line 1: it is no result"),
        ('{"line": true, "outcome": "sent", "key": null}\n', "line 1: it is no result"),
        (lines_of(result(1, "sent"), result(1, "sent")), "more than one result for line 1"),
        ("\udcff", "no UTF-8"),
        (None, "can't be read: No such file or directory"),
    ],
)
def test_what_are_no_results_is_refused(
    here: Here, orders_file: Write, text: str | None, told: str
) -> None:
    if text is not None:
        Path("r").write_text(text, "utf-8", errors="surrogateescape")
    run = here("send", "--sandbox", "--only", "failed", "--from-results", "r", orders_file())
    assert (run.code, run.out) == (2, "")
    assert told in run.err


def test_a_last_result_that_was_cut_off_by_a_kill_is_none(here: Here, orders_file: Write) -> None:
    text = lines_of(result(1, "not_sent"), result(2, "not_sent"))
    Path("r").write_text(text[:-20])
    options = ["--dry-run", "--only", "failed", "--from-results", "r"]
    run = here("send", *options, orders_file(order(1), order(2)))
    assert run.code == 0
    assert "1 order read" in run.out
    assert "1 without a result" in run.err


def test_results_are_not_replaced_by_the_run_that_reads_them(
    here: Here, orders_file: Write, earlier: Path
) -> None:
    before = earlier.read_text()
    both = ["--from-results", earlier, "--results", earlier]
    run = here(
        "send", "--dry-run", "--only", "failed", *both, orders_file(*map(order, range(1, 8)))
    )
    assert run.code == 2
    assert "--results names the same file as --from-results" in run.err
    assert before == earlier.read_text()


async def test_a_pipe_cannot_be_compared_with_results(program: Program, earlier: Path) -> None:
    only = ["--only", "failed", "--from-results", earlier]
    run = await program.run("send", "--sandbox", *only, "-", stdin=lines_of(order(1)).encode())
    assert run.code == 2
    assert "Save the orders to a file first" in run.err


async def test_a_file_as_the_standard_input_is_read_from_its_beginning(
    program: Program, orders_file: Write, earlier: Path
) -> None:
    only = ["--only", "failed", "--from-results", earlier]
    with orders_file(*map(order, range(1, 8))).open("rb") as file:
        run = await ended(await program.start("send", "--dry-run", *only, "-", stdin=file))
    assert run.code == 0
    assert "3 orders read" in run.out


# -------------------------------------------------------------------------------- the time left


class Watched:
    """The time that is left, as the bar shows it at some second of a run."""

    def __init__(self) -> None:
        self._now = 0.0
        progress = Progress(get_time=lambda: self._now)
        progress.add_task("", total=1.0)
        (self._task,) = progress.tasks
        self._column = _Left()
        self._tally = Tally()

    def at(self, second: float, share: float, *, sent: int = 0, skipped: int = 0) -> str:
        self._now = second
        for outcome, count in ((Outcome.SENT, sent), (Outcome.SKIPPED, skipped)):
            self._tally.counts[outcome] += count
        self._task.completed = share
        self._task.fields["tally"] = self._tally
        return self._column.render(self._task).plain


def test_the_time_that_is_left_is_by_what_is_sent() -> None:
    watched = Watched()
    watched.at(0, 0.0)
    assert watched.at(10, 0.1, sent=100) == "left 0:01:30"
    assert watched.at(20, 0.2, sent=100) == "left 0:01:20"
    assert watched.at(30, 1.0, sent=800) == "left 0:00:00"


def test_what_is_skipped_does_not_distort_the_time_that_is_left() -> None:
    watched = Watched()
    watched.at(0, 0.0)
    for second in range(1, 11):
        assert watched.at(second, 0.05 * second, skipped=5000) == "left -:--:--"
    watched.at(11, 0.501, sent=100)
    assert watched.at(12, 0.502, sent=100) == "left 0:08:18"
    assert watched.at(13, 0.503, sent=100) == "left 0:08:17"
