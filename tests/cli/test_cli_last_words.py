"""What a run ends with: its exit code, and the words and commands that say what is left to do."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest
from command_endpoint import Endpoint
from command_ledger import ONE_AT_ONCE, commands, named
from command_line import SEND, Cli, read_results, to_lines

from everlytic_async.sandbox import Sandbox
from support.delivery import order
from support.sandboxes import STORE_HASH

KEPT, FORGOTTEN = ("--ledger", "l"), ("--no-ledger",)
NEVER_ALL_AGAIN = [
    "There was no ledger: the same command again would notify everybody again",
    "a new ledger knows nothing of this run",
]


@pytest.mark.parametrize("quiet", [(), ("-q",)], ids=" ".join)
@pytest.mark.parametrize(
    ("ids", "options", "code", "again", "words"),
    [
        ([], KEPT, 0, 0, []),
        (["s1"], KEPT, 0, 0, []),
        (["s1"], FORGOTTEN, 0, 1, []),
        (["s1", "s1"], (*KEPT, "--concurrency", "2"), 0, 0, ["only the first is sent"]),
        # Where nobody was notified it may be run again, also without a ledger.
        (["n1", "n2"], KEPT, 1, 2, ["To send them, run it again:"]),
        (["n1", "n2"], FORGOTTEN, 1, 2, ["To send them, run it again:"]),
        (["i1"], KEPT, 3, 0, ["Then run it again; it sends only what has changed:"]),
        (["i1"], FORGOTTEN, 3, 0, ["invalid: a person has to correct it. Then run it again:"]),
        # Refused before any was accepted.
        (["r1"], KEPT, 1, 1, ["1 order is refused, and none was accepted before"]),
        (["r1"], FORGOTTEN, 3, 1, ["1 order is rejected: a person has to correct it"]),
        (["s1", "n1"], KEPT, 1, 1, ["the rest, run it again; what was sent is not sent again:"]),
        (["s1", "u1"], KEPT, 3, 0, ["A person has to look"]),
        (["s1", "r1"], KEPT, 3, 0, ["1 order is rejected: a person has to correct it"]),
        (["s1", "i1"], KEPT, 3, 0, ["1 order is invalid: a person has to correct it"]),
        (["s1", "r1", "i1", "u1"], KEPT, 3, 0, ["2 orders are invalid or rejected"]),
        (["s1", "r1", "i1", "u1", "n1"], KEPT, 1, 1, ["To send the rest", "1 order is unknown"]),
        (["s1", "i1"], FORGOTTEN, 3, 1, NEVER_ALL_AGAIN),
        (["s1", "n1", "u1"], FORGOTTEN, 1, 3, [*NEVER_ALL_AGAIN, "1 order is unknown: Everlytic"]),
        # Only what is taken from the input counts.
        (["s1", "u1", "n1"], (*KEPT, "--limit", "1"), 0, 0, []),
        (["s1", "u1", "n1"], (*KEPT, "--limit", "2"), 3, 0, ["1 order is unknown"]),
    ],
)
def test_a_run_ends_with_what_has_to_be_done_also_if_it_is_quiet(  # noqa: PLR0917
    cli: Cli,
    endpoint: Endpoint,
    ids: list[str],
    options: tuple[str, ...],
    code: int,
    again: int,
    words: list[str],
    quiet: tuple[str, ...],
) -> None:
    send = ["send", *quiet, *ONE_AT_ONCE, *options, str(cli.write(*named(*ids)))]
    run = cli(*send)
    assert run.code == code
    assert [each for each in words if each not in run.err] == []
    assert ("There was no ledger" in run.err) == (words[:2] == NEVER_ALL_AGAIN)
    assert ("was sent" in run.err) == (code == 1 and "s1" in ids and options == KEPT)
    if quiet:
        assert (run.out, run.err == "") == ("", not words)
    if ids and "s1" not in ids:
        assert commands(run) == [send]
    elif options == FORGOTTEN:
        assert commands(run) == []
        assert ("ledger" in run.err) == bool(words)
    # The same again.
    endpoint.received.clear()
    assert (cli(*send).code, len(endpoint.received)) == (code, again)


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
        ("my orders.jsonl", to_lines(*named("u1", "u2")), [], ["customeru1@", "customeru2@"]),
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


@pytest.mark.parametrize("report", [[], ["--report", "run.html"], ["--report=run.html"]], ids=str)
def test_the_rest_is_sent_by_the_command_that_is_shown_which_keeps_the_page_of_this_run(
    cli: Cli, endpoint: Endpoint, report: list[str]
) -> None:
    path, page = str(cli.write(*named("s1", "n1"))), Path("run.html")
    options = [*ONE_AT_ONCE, "--no-progress", "--rate", "500", "--ledger", "l"]
    options += ["--map", "order_link_url=https://shop.example/{order_id}", "--results", "r.jsonl"]
    run = cli("send", *options, *report, path)
    assert run.code == 1
    written = page.read_text() if report else None
    (again,) = commands(run)
    assert again == ["send", "--append-results", *options, path]
    cli.write(*named("s1", "s2"))
    assert (cli(*again).code, endpoint.received) == (0, ["s1", "n1", "s2"])
    assert len(Path("r.jsonl").read_text().splitlines()) == 4
    assert not report or page.read_text() == written


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
