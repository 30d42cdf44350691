"""The ledger: which one, what it skips, what the exit code and the last words say; ``ledger``."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import json
import re
import resource
import shlex
from pathlib import Path
from typing import Any

import pytest
from command_endpoint import Endpoint
from command_line import (
    CUSTOMER_HASH,
    SEND,
    STORE_HASH,
    Cli,
    Completed,
    Program,
    order,
    read_results,
    serve,
    to_lines,
    wait_until,
)

from everlytic_async import EverlyticClient
from everlytic_async.cli._commands import SendOptions
from everlytic_async.cli._forecast import choose_ledger
from everlytic_async.cli._input import open_input
from everlytic_async.cli._plan import count_input
from everlytic_async.cli._settings import Settings
from everlytic_async.ledger import Entry, LedgerFile, State, storage_key
from everlytic_async.ledger._sqlite import Record, SqliteWriter
from everlytic_async.outcomes import Outcome
from everlytic_async.sandbox import Sandbox

# It could be an order id, and then it would be kept as it is.
CUSTOM_KEY = "customer-17"
INVALID = {"order_id": "i1", "contact_email": "nobody"}
ONE_AT_ONCE = ("--retries", "0", "--concurrency", "1")


def make_ledger(path: Path, *entries: Entry, at: float = 1_800_000_000.0) -> Path:
    """A ledger that knows these orders, each recorded a second after the one before."""
    times = iter(at + second for second in range(1000))
    with SqliteWriter(path, clock=lambda: next(times)) as ledger:
        scope = ledger.scope("a digest", "shop.example")
        for entry in entries:
            ledger.write([Record(scope, entry)])
    return path


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return make_ledger(
        tmp_path / "orders.ledger",
        *(Entry(f"10{n:02}", State.SENT, "x", 1, 200) for n in range(10)),
        Entry("2001", State.UNKNOWN, "x", 1, None, "the answer was lost"),
        Entry("2002@32", State.UNKNOWN, "x", 1, 500, 'it said "no", and\nthat was it'),
        Entry("3001", State.REJECTED, "x", 1, 422, "no such workflow"),
        Entry(storage_key(CUSTOM_KEY, custom=True), State.UNKNOWN, "x"),
        Entry("4001", State.NOT_SENT, "x"),
    )


def states(path: Path | str) -> dict[str, State]:
    with LedgerFile(path, must_exist=True) as ledger:
        return {entry.key: entry.state for _host, entry in ledger.entries()}


def named(*ids: str) -> list[Any]:
    return [INVALID if each == "i1" else order(each) for each in ids]


def commands(run: Completed) -> list[list[str]]:
    """What is printed to be copied, without the name of the program."""
    lines = [line.strip() for line in run.err.splitlines() if line.startswith("  everlytic-async")]
    return [shlex.split(line)[1:] for line in lines]


# -------------------------------------------------------------------------------- which ledger


def test_a_ledger_is_created_where_it_is_named_and_shown_as_new(cli: Cli, shop: Sandbox) -> None:
    path = cli.write(order(1), order(2))
    first, second = cli("send", "--ledger", "l", path), cli("send", "--ledger", "l", path)
    assert (first.code, first.err) == (0, f"Ledger: {cli.directory / 'l'} (new)\n")
    assert (second.code, second.err) == (0, f"Ledger: {cli.directory / 'l'}\n")
    assert shop.processed == 2


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
    assert cli("send", "--ledger", "l", path).code == 0
    assert cli("send", "--no-ledger", path).code == 0
    assert sandbox.processed == 3


@pytest.mark.parametrize("options", [["--no-ledger"], ["--sandbox"]])
def test_a_ledger_may_be_declined(cli: Cli, shop: Sandbox, options: list[str]) -> None:
    assert cli("send", *options, cli.write(order(1))).code == 0
    assert shop.processed == (0 if "--sandbox" in options else 1)
    assert not list(cli.directory.glob("*ledger*"))


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


# --------------------------------------------------------------- the exit code and the last words


@pytest.mark.parametrize(
    ("ids", "options", "code", "sent_again"),
    [
        (["s1", "s2"], [], 0, 0),
        ([], [], 0, 0),
        (["s1", "s1"], ["--concurrency", "2"], 0, 0),
        (["s1", "n1"], [], 1, 1),
        (["s1", "u1"], [], 3, 0),
        (["s1", "r1"], [], 3, 0),
        (["s1", "i1"], [], 3, 0),
        (["s1", "r1", "i1", "u1"], [], 3, 0),
        (["s1", "r1", "i1", "u1", "n1"], [], 1, 1),
        # Only what is taken from the input counts.
        (["s1", "u1", "n1"], ["--limit", "1"], 0, 0),
        (["s1", "u1", "n1"], ["--limit", "2"], 3, 0),
    ],
)
def test_the_exit_code_of_every_run_says_what_is_left_to_do(
    cli: Cli,
    endpoint: Endpoint,
    ids: list[str],
    options: list[str],
    code: int,
    sent_again: int,
) -> None:
    send = ("send", "--ledger", "l", *ONE_AT_ONCE, *options, cli.write(*named(*ids)))
    assert cli(*send).code == code
    before = len(endpoint.received)
    assert (cli(*send).code, len(endpoint.received)) == (code, before + sent_again)


@pytest.mark.parametrize("concurrency", ["1", "8"])
@pytest.mark.parametrize(
    ("ids", "says"),
    [
        (["u1", "u1", "u1", "s1", "u2", "u1", "s1"], "2 orders are unknown:"),
        (["u1", "s1", "u1 "], "1 order is unknown:"),
        (["r1", "r1", "s1", "r1"], "1 order is rejected:"),
    ],
)
def test_an_order_that_the_input_repeats_needs_a_person_once(
    cli: Cli, endpoint: Endpoint, concurrency: str, ids: list[str], says: str
) -> None:
    options = ("--ledger", "l", "--retries", "0", "--concurrency", concurrency)
    # That it was accepted before is why a refusal counts against the order.
    assert cli("send", *options, cli.write(order(1))).code == 0
    path = cli.write(*(order(1, order_id=each) for each in ids))
    for _ in range(2):  # what this run has found out, and what the ledger knows
        run = cli("send", *options, path)
        assert (run.code, says in run.err) == (3, True), run.err


@pytest.mark.parametrize("found", ["--sent", "--send-again"])
def test_the_commands_that_a_run_ends_with_do_what_they_say(
    cli: Cli, endpoint: Endpoint, found: str
) -> None:
    path = cli.write(*named("s1", "u1", "u2", "i1", "r1"))
    run = cli("send", *ONE_AT_ONCE, "--ledger", "my ledger", path)
    assert run.code == 3
    assert "2 orders are unknown" in run.err
    assert "2 orders are invalid or rejected" in run.err
    assert "To send the rest" not in run.err  # it would send nothing
    export, sent, again, resend = commands(run)
    assert cli(*export).out.count('"state": "unknown"') == 2
    (resolve,) = [each for each in (sent, again) if found in each]
    assert resolve[-1] == "KEY..."
    assert run.err.count(" 'KEY'...") == 2  # a shell takes what follows a # for a comment
    assert cli(*resolve[:-1], "u1", "u2").code == 0
    # Everlytic is well again, and a person has corrected the others.
    cli.write(*named("s1"), order(1, order_id="u1"), order(2, order_id="i1"))
    endpoint.received.clear()
    run = cli(*resend)
    assert run.code == (0 if found == "--sent" else 3)
    assert endpoint.received == (["i1"] if found == "--sent" else ["u1", "i1"])


TILL = "Nr;Käufer;Artikel;Stand\nu1;u1@example.com;Mop;paid\nu2;u2@example.com;Mop;open\n"
TILL_MAPS = ("order_id=Nr", "contact_email=Käufer", "product_name=Artikel")


@pytest.mark.parametrize(
    ("name", "data", "options", "contacts"),
    [
        ("my orders.jsonl", to_lines(*named("u1", "u2")), [], ["buyeru1@", "buyeru2@"]),
        (
            "till.txt",
            TILL.encode("cp1252"),
            [
                *(word for each in TILL_MAPS for word in ("--map", each)),
                *("--format", "csv", "--encoding", "cp1252", "--where", "Stand=paid,sent"),
            ],
            ["u1@"],
        ),
        (
            "till.csv",
            TILL.encode("cp1252"),
            ["--config", "till.toml", "--limit", "2"],
            ["u1@", "u2@"],
        ),
        ("-", to_lines(*named("u1", "u2")), [], []),
    ],
)
def test_the_command_that_lists_unknown_orders_names_the_input_and_how_it_is_read(
    cli: Cli,
    endpoint: Endpoint,
    name: str,
    data: str | bytes,
    options: list[str],
    contacts: list[str],
) -> None:
    data = data.encode() if isinstance(data, str) else data
    Path(name).write_bytes(data)
    maps = [each.replace("=", ' = "') + '"' for each in TILL_MAPS]
    Path("till.toml").write_text("\n".join(["[input]", 'encoding="cp1252"', "[mapping]", *maps]))
    Path("till.toml").chmod(0o600)
    stdin = data if name == "-" else None
    run = cli("send", *ONE_AT_ONCE, *options, "--ledger", "l", name, stdin=stdin)
    assert run.code == 3
    export, *_ = commands(run)
    listed = cli(*export)
    assert listed.code == 0, listed.err
    found = re.findall(r'"contact_email": "(\w+@)', listed.out)
    assert sorted(found) == contacts
    assert listed.out.count('"key"') == len(endpoint.received)
    assert "--with FILE" not in run.err


def test_the_rest_is_sent_by_the_command_that_is_shown(cli: Cli, endpoint: Endpoint) -> None:
    run = cli(
        *("send", *ONE_AT_ONCE, "--no-progress", "--rate", "500"),
        *("--map", "order_link_url=https://shop.example/{order_id}", "--results", "r.jsonl"),
        *("--ledger", "l", cli.write(*named("s1", "n1"))),
    )
    assert run.code == 1
    (again,) = commands(run)
    cli.write(*named("s1", "s2"))
    assert (cli(*again).code, endpoint.received) == (0, ["s1", "n1", "s2"])
    assert len(Path("r.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize("report", [["--report", "run.html"], ["--report=run.html"]], ids=str)
def test_the_command_that_is_shown_keeps_the_page_of_this_run(
    cli: Cli, endpoint: Endpoint, report: list[str]
) -> None:
    options = (*ONE_AT_ONCE, *report, "--ledger", "l")
    run = cli("send", *options, cli.write(*named("s1", "n1")))
    page = Path("run.html").read_text()
    (again,) = commands(run)
    assert again == ["send", *ONE_AT_ONCE, "--ledger", "l", again[-1]]
    assert cli(*again).code == 1
    assert Path("run.html").read_text() == page


KEPT, FORGOTTEN = ("--ledger", "l"), ("--no-ledger",)
NEVER_ALL_AGAIN = [
    "There was no ledger: the same command again would notify everybody again",
    "a new ledger knows nothing of this run",
]


@pytest.mark.parametrize("quiet", [(), ("-q",)], ids=" ".join)
@pytest.mark.parametrize(
    ("ids", "ledger", "words"),
    [
        # Where nobody was notified it may be run again, also without a ledger.
        *((["n1", "n2"], ledger, ["To send them, run it again:"]) for ledger in (KEPT, FORGOTTEN)),
        (["i1"], FORGOTTEN, ["invalid: a person has to correct it. Then run it again:"]),
        (["i1"], KEPT, ["Then run it again; it sends only what has changed:"]),
        # Refused before any was accepted.
        (["r1"], KEPT, ["1 order is refused, and none was accepted before"]),
        (["r1"], FORGOTTEN, ["1 order is re"]),
        (["s1"], KEPT, []),
        (["s1"], FORGOTTEN, []),
        (["s1", "i1"], KEPT, ["a person has to correct it"]),
        (["s1", "u1"], KEPT, ["A person has to look"]),
        (["s1", "n1"], KEPT, ["To send the rest, run it again; what was sent is not sent again:"]),
        (["s1", "i1"], FORGOTTEN, NEVER_ALL_AGAIN),
        (
            ["s1", "n1", "u1"],
            FORGOTTEN,
            [*NEVER_ALL_AGAIN, "1 order is unknown: Everlytic may have processed it. "],
        ),
    ],
)
def test_a_run_ends_with_what_has_to_be_done_also_if_it_is_quiet(
    cli: Cli,
    endpoint: Endpoint,
    ids: list[str],
    ledger: tuple[str, ...],
    words: list[str],
    quiet: tuple[str, ...],
) -> None:
    send = ["send", *quiet, *ONE_AT_ONCE, *ledger, str(cli.write(*named(*ids)))]
    run = cli(*send)
    assert [each for each in words if each not in run.err] == []
    assert ("There was no ledger" in run.err) == (words[:2] == NEVER_ALL_AGAIN)
    assert ("was sent" in run.err) == ("s1" in ids and "To send the rest" in run.err)
    if quiet:
        assert (run.out, run.err == "") == ("", not words)
    if "s1" not in ids:
        assert commands(run) == [send]
    elif ledger == FORGOTTEN:
        assert commands(run) == []
        assert ("ledger" in run.err) == bool(words)


@pytest.mark.parametrize("options", [[], ["--yes"], ["--limit", "2"]], ids=str)
def test_orders_that_were_sent_elsewhere_are_named_also_without_a_plan(
    cli: Cli, endpoint: Endpoint, options: list[str]
) -> None:
    """As from cron: another workflow, host or store sends all of them again."""
    send = ("send", "--ledger", "l", *options, cli.write(*named("s1", "s2")))
    for more, store, where in (
        ([], STORE_HASH, None),
        ([], STORE_HASH, None),
        (["--workflow-id", "7"], STORE_HASH, "without a workflow id"),
        (["--workflow-id", "7"], STORE_HASH, None),
        ([], "another", "at another address or store (127.0.0.1:"),
    ):
        cli.use(endpoint.base_url, store)
        run = cli(*send, *more)
        assert run.code == 0
        note = f"Warning: the ledger knows 2 of these orders as sent, or perhaps sent, {where}"
        assert note in run.err if where is not None else "Warning" not in run.err
    # What can't be read is named by the run, as it is without a ledger.
    Path("orders.jsonl").write_bytes(gzip.compress(bytes(100))[:20])
    errors = [
        [line for line in cli(*words).err.splitlines() if line.startswith("Error: ")]
        for words in (send, (*SEND, send[-1]))
    ]
    assert len(errors[0]) == 1
    assert errors[0] == errors[1]


@pytest.mark.slow
def test_the_warning_without_a_plan_says_that_it_looked_at_the_first_orders_only(
    cli: Cli, shop: Sandbox
) -> None:
    send = ("send", "--ledger", "l", "--yes", cli.write(*map(order, range(1001))))
    assert cli(*send).code == 0
    for more, known in (
        (["--workflow-id", "7"], "at least 1,000"),
        (["--workflow-id", "8", "--limit", "1000"], "1,000"),
    ):
        assert f"the ledger knows {known} of these orders" in cli(*send, *more).err


def test_refusals_before_any_acceptance_are_not_booked_on_the_orders(
    cli: Cli, endpoint: Endpoint
) -> None:
    """The summary, the results and the report agree with the ledger: the next run sends them."""
    pytest.importorskip("plotly")
    path = cli.write(*named(*(f"r{number}" for number in range(30))))
    run = cli(
        *("send", *ONE_AT_ONCE, "--ledger", "l", "--results", "r.jsonl", "--report", "r.html"),
        path,
    )
    assert (run.code, len(endpoint.received)) == (1, 20)
    assert re.search(r"^  not sent +30  ", run.out, re.MULTILINE)
    assert {each["outcome"] for each in read_results("r.jsonl")} == {"not_sent"}
    page = Path("r.html").read_text()
    for text in (run.out + run.err, page):
        assert "20 orders are refused, and none was accepted before" in text
        assert "a person has to correct" not in text
        assert "--resend" not in text
    (again,) = commands(run)
    # Once another order was accepted, it is the orders' own fault.
    cli.write(*named("s1", "r0", "r1"))
    endpoint.received.clear()
    run = cli(*again)
    assert (run.code, endpoint.received) == (3, ["s1", "r0", "r1"])
    assert "2 orders are rejected: a person has to correct them." in run.err


# ------------------------------------------------------------------------------- the second run


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
        with program.with_endpoint(sandbox).running(*send) as process:
            wait_until(lambda: sandbox.processed >= 12)
            process.kill()
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
    with serve(latency_s=300) as sandbox, program.with_endpoint(sandbox).running(*send):
        wait_until(lambda: sandbox.in_flight == 1)
        status = cli("ledger", "status", "l")
        cli.use(sandbox.base_url)
        run = cli(*send)
        assert sandbox.requests == 1
    assert "1 process is sending with it now.\n" in status.out
    assert re.search(r"^  in flight +1  being sent$", status.out, re.MULTILINE)
    assert run.code == 1
    assert "1 order is being sent by another process. When that has ended:\n" in run.err
    assert commands(run) == [["send", "--ledger", "l", str(send[-1])]]


async def test_a_ledger_that_fails_midway_stops_it_and_what_was_sent_is_on_record(
    program: Program, sandbox: Sandbox
) -> None:
    path = program.write(*map(order, range(1500)))
    options = ("--ledger", "l", "--results", "/dev/null")
    run = await program.with_endpoint(sandbox).run("send", *options, path, preexec_fn=_small_files)
    assert run.code == 1
    assert "Error: the batch was stopped: the ledger '" in run.err
    assert "To send the rest, run it again; what was sent is not sent again:\n" in run.err
    assert 0 < sandbox.processed < 1500
    assert {each["order_id"] for each in sandbox.received} <= set(states(program.directory / "l"))


def _small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))


# ----------------------------------------------------------------------------------------- status


def test_status_shows_counts_times_and_hosts(cli: Cli, ledger: Path) -> None:
    run = cli("ledger", "status", ledger)
    assert (run.code, run.err) == (0, "")
    assert run.out.startswith(f"{ledger} knows of 15 orders for shop.example\n")
    for state, count in (("sent", 10), ("unknown", 3), ("not sent", 1), ("rejected", 1)):
        assert re.search(rf"^  {state} +{count}  \w", run.out, re.MULTILINE)
    # Not how long that took, or how fast it was: most of it was pauses between runs.
    times = r"2027-01-1\S+ \S+ to 2027-01-1\S+ \S+\n"
    assert re.search(rf"^Recorded from {times}", run.out, re.MULTILINE)
    assert run.out.endswith("No process is sending with it now.\n")


def test_status_of_an_empty_ledger_is_nothing_special(cli: Cli) -> None:
    run = cli("ledger", "status", make_ledger(Path("l")))
    assert (run.code, run.err) == (0, "")
    assert run.out.startswith("l knows of 0 orders for shop.example\n")


# ------------------------------------------------------------------------------------------- copy


def test_a_copy_is_an_independent_ledger(cli: Cli, ledger: Path) -> None:
    known = cli("ledger", "export", ledger)
    run = cli("ledger", "copy", ledger, "copy.ledger")
    assert (run.code, run.err) == (0, "")
    assert run.out.endswith(" copied to copy.ledger\n")
    assert cli("ledger", "export", "copy.ledger").out == known.out

    run = cli("ledger", "copy", ledger, "copy.ledger")
    assert (run.code, run.out) == (2, "")
    assert "not replaced" in run.err


def test_a_ledger_with_two_names_is_refused_and_its_copy_is_not(cli: Cli, ledger: Path) -> None:
    Path("twin.ledger").hardlink_to(ledger)
    run = cli("ledger", "status", "twin.ledger")
    assert (run.code, run.out) == (2, "")
    assert "everlytic-async ledger copy" in run.err
    assert cli("ledger", "copy", "twin.ledger", "copy.ledger").code == 0
    assert cli("ledger", "status", "copy.ledger").code == 0


# ----------------------------------------------------------------------------------------- export


def test_a_run_with_a_wrong_hash_does_not_mislead(cli: Cli, shop: Sandbox) -> None:
    """Its orders are under another store, which nobody meant."""
    send = ("send", "--ledger", "l", cli.write(*named("1", "2", "3")))
    seen = []
    for store in ("wrong", "wrong-too", STORE_HASH):
        cli.use(shop.base_url, store)
        cli(*send)
        seen.append(cli("ledger", "status", "l").out)
    host = shop.base_url.removeprefix("http://")
    assert [text.splitlines()[0] for text in seen] == [
        f"l knows of 3 orders for {host}" for _ in seen
    ]
    assert "not sent  3  surely not processed: the next run sends them" in seen[0]
    assert "Not counted" not in seen[0]
    assert "not sent" not in seen[2]
    assert "sent      3  accepted" in seen[2]
    assert f"Not counted: 6 orders for another address or store hash ({host})" in seen[2]
    assert cli("ledger", "copy", "l", "copy").out.startswith("9 orders copied")


def test_an_export_has_a_line_for_each_order(cli: Cli, ledger: Path) -> None:
    run = cli("ledger", "export", ledger)
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


def test_an_export_may_be_csv_of_some_states(cli: Cli, ledger: Path) -> None:
    options = ["--format", "csv", "--state", "unknown", "--state", "not_sent"]
    run = cli("ledger", "export", *options, ledger)
    assert (run.code, run.err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(run.out)))
    assert {row["state"] for row in rows} == {"unknown", "not_sent"}
    reasons = {row["key"]: row["reason"] for row in rows}
    assert reasons["2002@32"] == 'it said "no", and\nthat was it'


@pytest.mark.parametrize("is_piped", [True, False])
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_an_export_is_joined_with_the_input_that_was_sent(
    cli: Cli, ledger: Path, is_piped: bool, kind: str
) -> None:
    """With columns of one's own, and whether the workflow was an option of the run or not."""
    path = Path("shop.csv")
    path.write_text(
        "Nr,Mail,Item,Flow\n2001,ann@example.com,Mop,\n2003,,,\n"
        "2002,bea@example.com,Mop,32\n9,zoe@example.com,Mop,\n2001,late@example.com,Mop,\n"
    )
    maps = {"order_id": "Nr", "contact_email": "Mail", "product_name": "Item"}
    words = [word for name, column in maps.items() for word in ("--map", f"{name}={column}")]
    words += ["--map", "workflow_id=Flow", "--with", "-" if is_piped else str(path)]
    options = ("--state", "unknown", "--format", kind, *words)
    run = cli("ledger", "export", *options, ledger, stdin=path)
    if kind == "csv":
        rows = {row["key"]: row for row in csv.DictReader(run.out.splitlines())}
    else:
        rows = {row["key"]: row for row in map(json.loads, run.out.splitlines())}
    unknown = [key for key, state in states(ledger).items() if state == "unknown"]
    assert sorted(rows) == sorted(unknown)
    nobody = "" if kind == "csv" else None
    found = {key: (row["contact_email"], row["order_id"], row["line"]) for key, row in rows.items()}
    line = str if kind == "csv" else int
    expected = dict.fromkeys(rows, (nobody, nobody, nobody))
    expected["2001"] = ("ann@example.com", "2001", line(2))  # the first: that one was sent
    expected["2002@32"] = ("bea@example.com", "2002", line(4))
    assert found == expected
    name = "standard input" if is_piped else str(path)
    missing = len(unknown) - 2
    orders = "1 order" if missing == 1 else f"{missing} orders"
    assert run.err == f"Warning: {orders} of {len(unknown)} not found in {name}\n"


# ---------------------------------------------------------------------------------------- resolve


ALL_UNKNOWN = ("2001", "2002@32", storage_key(CUSTOM_KEY, custom=True))


@pytest.mark.parametrize(
    ("words", "marked", "left"),
    [
        ("--sent 2001 2002@32", ("2001", "2002@32"), None),
        ("--send-again 2001 2002@32", ("2001", "2002@32"), None),
        ("--sent --all", ALL_UNKNOWN, None),
        ("--sent --all --host another.example", (), None),
        ("--sent 2001 --host shop.example", ("2001",), None),
        # A key of one's own is kept as its digest.
        (f"--sent {CUSTOM_KEY}", (), f"1 order left alone, {{}}: {CUSTOM_KEY}"),
        (f"--sent {ALL_UNKNOWN[2]}", ALL_UNKNOWN[2:], None),
        # What is not unknown is left alone.
        (
            "--sent 1001 3001 nobody's 2001",
            ("2001",),
            "3 orders left alone, {}: 1001, 3001, nobody's",
        ),
    ],
)
def test_unknown_orders_are_marked_and_no_others(
    cli: Cli, ledger: Path, words: str, marked: tuple[str, ...], left: str | None
) -> None:
    before = states(ledger)
    run = cli("ledger", "resolve", ledger, *words.split())
    state = State.SENT if "--sent" in words else State.NOT_SENT
    assert states(ledger) == before | dict.fromkeys(marked, state)
    orders = "1 order" if len(marked) == 1 else f"{len(marked)} orders"
    assert run.out.startswith(f"{orders} marked as ")
    why = "because the ledger has no unknown order of that name"
    assert (run.code, run.err) == ((0, "") if left is None else (1, left.format(why) + "\n"))
