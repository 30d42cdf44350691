"""``ledger``: ``status``, ``copy``, ``export`` and ``resolve``."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from command_ledger import make_ledger, named, states
from command_line import Cli

from everlytic_async.ledger import Entry, State, storage_key
from everlytic_async.sandbox import Sandbox
from support.sandboxes import STORE_HASH

# It could be an order id, and then it would be kept as it is.
CUSTOM_KEY = "customer-17"


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
    run = cli("ledger", "status", make_ledger(Path("l")))
    assert (run.code, run.err) == (0, "")
    assert run.out.startswith("l knows of 0 orders for shop.example\n")


def test_a_copy_is_an_independent_ledger_also_of_one_with_two_names(cli: Cli, ledger: Path) -> None:
    known = cli("ledger", "export", ledger)
    Path("twin.ledger").hardlink_to(ledger)
    refused = cli("ledger", "status", "twin.ledger")
    assert (refused.code, refused.out) == (2, "")
    assert "everlytic-async ledger copy" in refused.err
    run = cli("ledger", "copy", "twin.ledger", "copy.ledger")
    assert (run.code, run.err) == (0, "")
    assert run.out.endswith(" copied to copy.ledger\n")
    assert cli("ledger", "export", "copy.ledger").out == known.out
    run = cli("ledger", "copy", ledger, "copy.ledger")
    assert (run.code, run.out) == (2, "")
    assert "not replaced" in run.err


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
