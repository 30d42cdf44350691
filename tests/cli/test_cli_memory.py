"""``send`` remembers by itself; what its exit code and its last words say; what a plan counts."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_endpoint import Endpoint, serving
from command_line import CUSTOMER_HASH, STORE_HASH, Ended, Here, order

from everlytic_async import EverlyticClient
from everlytic_async.cli._forecast import Forecast
from everlytic_async.cli._input import Input
from everlytic_async.cli._plan import InputCount
from everlytic_async.ledger import LedgerFile, State
from everlytic_async.outcomes import Outcome

Write = Callable[..., Path]

INVALID = {"order_id": "i1", "contact_email": "nobody"}


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch, here: Here) -> Iterator[Endpoint]:
    """One that the environment names."""
    assert here
    with serving() as endpoint:
        monkeypatch.setenv("EVERLYTIC_BASE_URL", endpoint.base_url)
        monkeypatch.setenv("EVERLYTIC_STORE_HASH", STORE_HASH)
        monkeypatch.setenv("EVERLYTIC_CUSTOMER_HASH", CUSTOMER_HASH)
        yield endpoint


def made(*ids: str) -> list[Any]:
    return [INVALID if each == "i1" else order(1, order_id=each) for each in ids]


def states(path: str) -> dict[str, State]:
    with LedgerFile(path, must_exist=True) as ledger:
        return {entry.key: entry.state for _host, entry in ledger.entries()}


# --------------------------------------------------------------------------------- the exit code


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
def test_the_exit_code_says_what_is_left_to_do_in_every_run(  # noqa: PLR0917
    here: Here,
    endpoint: Endpoint,
    orders_file: Write,
    ids: list[str],
    options: list[str],
    code: int,
    sent_again: int,
) -> None:
    path = orders_file(*made(*ids))
    send = ("send", "--ledger", "l", "--retries", "0", "--concurrency", "1", *options, path)
    assert here(*send).code == code
    before = len(endpoint.received)
    assert here(*send).code == code
    assert len(endpoint.received) == before + sent_again


@pytest.mark.parametrize("found", ["--sent", "--send-again"])
def test_the_commands_that_a_run_ends_with_do_what_they_say(
    here: Here, endpoint: Endpoint, orders_file: Write, found: str
) -> None:
    path = orders_file(*made("s1", "u1", "u2", "i1", "r1"))
    run = here("send", "--retries", "0", "--concurrency", "1", "--ledger", "my ledger", path)
    assert run.code == 3
    assert "2 orders are unknown" in run.err
    assert "2 orders are invalid or rejected" in run.err
    export, sent, again, resend = commands(run)
    assert here(*export).out.count('"state": "unknown"') == 2
    (resolve,) = [each for each in (sent, again) if found in each]
    assert resolve[-1] == "KEY..."
    assert here(*resolve[:-1], "u1", "u2").code == 0
    # Everlytic is well again, and a person has corrected the others.
    orders_file(*made("s1"), order(1, order_id="u1"), order(2, order_id="i1"))
    endpoint.received.clear()
    run = here(*resend)
    assert run.code == (0 if found == "--sent" else 3)
    assert endpoint.received == (["i1"] if found == "--sent" else ["u1", "i1"])


def commands(run: Ended) -> list[list[str]]:
    """What stands there to be copied, without the name of the program."""
    lines = [line.strip() for line in run.err.splitlines() if line.startswith("  everlytic-async")]
    return [shlex.split(line)[1:] for line in lines]


def test_the_rest_is_sent_by_the_command_that_is_shown(
    here: Here, endpoint: Endpoint, orders_file: Write
) -> None:
    path = orders_file(*made("s1", "n1"))
    run = here(
        *("send", "--retries", "0", "--concurrency", "1", "--no-progress", "--rate", "500"),
        *("--map", "order_link_url=https://shop.example/{order_id}", "--results", "r.jsonl"),
        *("--ledger", "l", path),
    )
    assert run.code == 1
    (again,) = commands(run)
    orders_file(*made("s1", "s2"))
    run = here(*again)
    assert (run.code, endpoint.received) == (0, ["s1", "n1", "s2"])
    assert len(Path("r.jsonl").read_text().splitlines()) == 4


def test_without_a_ledger_nobody_is_invited_to_send_all_of_it_again(
    here: Here, endpoint: Endpoint, orders_file: Write
) -> None:
    run = here("send", "--no-ledger", "--retries", "0", orders_file(*made("s1", "n1")))
    assert run.code == 1
    assert commands(run) == []
    assert "would notify everybody again" in run.err


# -------------------------------------------------------------------------------- which ledger


def test_a_ledger_is_made_where_it_is_named_and_said_to_be_new(
    here: Here, endpoint: Endpoint, orders_file: Write
) -> None:
    path = orders_file(*made("s1", "s2"))
    first = here("send", "--ledger", "l", path)
    second = here("send", "--ledger", "l", path)
    assert (first.code, first.err) == (0, f"Ledger: {here.directory / 'l'} (new)\n")
    assert (second.code, second.err) == (0, f"Ledger: {here.directory / 'l'}\n")
    assert endpoint.received == ["s1", "s2"]


@pytest.mark.parametrize("place", ["everlytic.toml", "home/.config/everlytic-async/everlytic.toml"])
@pytest.mark.parametrize("account", ["file", "environment"])
def test_the_settings_name_a_ledger_beside_them(
    here: Here,
    endpoint: Endpoint,
    monkeypatch: pytest.MonkeyPatch,
    orders_file: Write,
    place: str,
    account: str,
) -> None:
    settings = here.directory / place
    (settings.parent / "kept").mkdir(parents=True)
    text = '[everlytic]\nledger = "kept/l"\n'
    if account == "file":
        text += (
            f'base_url = "{endpoint.base_url}"\nstore_hash = "{STORE_HASH}"\n'
            f'customer_hash = "{CUSTOMER_HASH}"\n'
        )
        monkeypatch.delenv("EVERLYTIC_STORE_HASH")
    settings.write_text(text)
    run = here("send", orders_file(*made("s1")))
    assert run.code == 0
    assert f"Ledger: {settings.parent / 'kept/l'} (new)\n" in run.err
    assert here("send", orders_file(*made("s1"))).code == 0
    assert endpoint.received == ["s1"]
    # An option comes before them.
    assert here("send", "--ledger", "l", orders_file(*made("s1"))).code == 0
    assert here("send", "--no-ledger", orders_file(*made("s1"))).code == 0
    assert endpoint.received == ["s1"] * 3


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--ledger", "l", "--no-ledger"], "--ledger and --no-ledger contradict each other"),
        (["--sandbox", "--ledger", "l"], "--sandbox is a stand-in that ends with this run"),
        (["--sandbox", "--resend", "unknown"], "--resend needs a ledger"),
        (["--no-ledger", "--resend", "unknown"], "--resend needs a ledger"),
        (["--sandbox", "--durability", "power"], "--durability needs a ledger"),
        (["--no-ledger", "--durability", "power"], "--durability needs a ledger"),
    ],
)
def test_options_that_make_no_sense_together_are_told(
    here: Here, orders_file: Write, options: list[str], told: str
) -> None:
    run = here("send", *options, orders_file(order(1)))
    assert (run.code, run.out) == (2, "")
    assert run.err.startswith(f"Error: {told}")
    assert not Path("l").exists()


@pytest.mark.parametrize("options", [["--no-ledger"], ["--sandbox"]])
def test_a_ledger_may_be_declined(
    here: Here, endpoint: Endpoint, orders_file: Write, options: list[str]
) -> None:
    assert here("send", *options, orders_file(*made("s1"))).code == 0
    assert len(endpoint.received) == (0 if "--sandbox" in options else 1)
    assert not list(here.directory.glob("*ledger*"))


# ------------------------------------------------------------------------- before it is sent


@pytest.mark.parametrize("command", [("check",), ("send", "--dry-run")])
def test_what_sends_nothing_reads_the_ledger_and_never_makes_one(
    here: Here, endpoint: Endpoint, orders_file: Write, command: tuple[str, ...]
) -> None:
    path = orders_file(*made("s1", "s2", "u1", "i1", "s3"))
    run = here(*command, path)
    assert run.code == 1
    assert "  valid     4  " in run.out
    assert not list(here.directory.glob("*ledger*"))
    Path("everlytic.ledger").touch()  # as after a run on a terminal
    assert here("send", "--limit", "3", "--retries", "0", path).code == 3
    before = Path("everlytic.ledger").read_bytes(), states("everlytic.ledger")
    run = here(*command, "--results", "r.jsonl", path)
    assert run.code == 1
    assert f"Ledger: {here.directory / 'everlytic.ledger'}; it is only read" in run.err
    assert "  valid     1  " in run.out
    assert "  skipped   3  " in run.out
    assert "  invalid   1  " in run.out
    assert "  2 x the ledger says that it was sent before" in run.out
    assert before == (Path("everlytic.ledger").read_bytes(), states("everlytic.ledger"))
    assert '"outcome": "skipped"' in Path("r.jsonl").read_text()
    assert "valid     4  " in here(*command, "--no-ledger", path).out


def test_a_check_without_an_account_says_where_the_orders_went(
    here: Here, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, orders_file: Write
) -> None:
    path = orders_file(*made("s1", "s2"))
    here("send", "--ledger", "l", "--workflow-id", "7", path)
    monkeypatch.delenv("EVERLYTIC_BASE_URL")
    run = here("check", "--ledger", "l", path)
    assert run.code == 0
    assert (
        "Note: the ledger knows 2 of these orders as sent, or perhaps sent, at another address or "
        f"store ({endpoint.base_url.removeprefix('http://')}) in workflow 7"
    ) in run.err


@pytest.mark.parametrize(
    ("resend", "sent", "known"),
    [
        ([], 2, {State.SENT: 1, State.UNKNOWN: 1, State.REJECTED: 1}),
        ([Outcome.UNKNOWN], 3, {State.SENT: 1, State.REJECTED: 1}),
        ([Outcome.UNKNOWN, Outcome.REJECTED], 4, {State.SENT: 1}),
    ],
)
def test_a_count_tells_apart_what_the_ledger_knows(
    here: Here,
    endpoint: Endpoint,
    orders_file: Write,
    resend: list[Outcome],
    sent: int,
    known: dict[State, int],
) -> None:
    path = orders_file(*made("s1", "u1", "r1", "n1", "s2", "i1"))
    options = ("--ledger", "l", "--retries", "0", "--concurrency", "1", "--limit", "4")
    assert here("send", *options, path).code == 1
    client = EverlyticClient(endpoint.base_url, store_hash=STORE_HASH, customer_hash=CUSTOMER_HASH)
    with Input(str(path)) as source, Forecast(Path("l"), client, resend) as forecast:
        count = InputCount()
        count.add(forecast.predict(source.enumerate_orders()), source, progress=False)
    assert (count.to_send, dict(count.skipped), count.invalid) == (sent, known, 1)
    # And so it comes.
    endpoint.received.clear()
    again = [word for outcome in resend for word in ("--resend", str(outcome))]
    here("send", *options[:-2], *again, path)
    assert len(endpoint.received) == sent
