"""``queue``: what is in it, what is dead and why, and putting back what was chosen."""

from __future__ import annotations

import json
import socket

import pytest
from command_line import Cli, Program, completed
from command_queue import Queue

from everlytic_async.outcomes import Outcome
from support.delivery import order

UNKNOWN = (order(1), Outcome.UNKNOWN, "the answer to jane@example.com was lost")
REJECTED = (order(2), Outcome.REJECTED, "status 422")
INVALID = (order(3), Outcome.INVALID, "products: too few")


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_status_of_an_empty_queue(cli: Cli, cli_queue: Queue) -> None:
    run = cli("queue", "status")
    assert run.code == 0
    assert run.err.startswith("Settings: ")
    assert run.err.endswith(" from ./everlytic.toml in this directory (--config none ignores it)\n")
    assert lines(run.out) == [
        "default: 0 orders unfinished",
        "waiting 0",
        "in flight 0",
        "dead 0",
        "workers 0 0 waiting for an order",
    ]
    assert cli("queue", "dead").out == "default has no dead letters.\n"


def test_status_shows_stores_without_a_worker(cli: Cli, cli_queue: Queue) -> None:
    cli_queue.publish([order(1), order(2)], "forgotten")
    cli_queue.bury(UNKNOWN, store="shop")
    run = cli("queue", "status", "--json")
    found = {each["store"]: each for each in map(json.loads, run.out.splitlines())}
    assert list(found) == ["forgotten", "shop"]
    assert (found["forgotten"]["waiting"], found["forgotten"]["dead"]) == (2, 0)
    assert (found["shop"]["depth"], found["shop"]["dead"]) == (0, 1)
    one = cli("queue", "status", "--store", "shop")
    assert "forgotten" not in one.out
    assert "dead 1 a person has to decide: everlytic-async queue dead" in lines(one.out)


def test_status_survives_odd_subjects(cli: Cli, cli_queue: Queue) -> None:
    cli_queue.publish([order(1)], "shop")
    for name in ("sho\x1b[2Jp", "sh~p", "a" * 65, "\u00fc"):
        for kind in ("orders", "dead"):
            cli_queue.publish_raw(f"{kind}.{name}", b"{}")
    subject = cli_queue.name.encode() + b".orders.\xff\xfe"  # which no client would publish to
    with socket.create_connection(("127.0.0.1", int(cli_queue.url.rpartition(":")[2]))) as raw:
        raw.sendall(b"CONNECT {}\r\nPUB %s 2\r\n{}\r\nPING\r\n" % subject)
        assert any(line == b"PONG\r\n" for line in raw.makefile("rb"))
    for arguments in ([], ["--json"]):
        run = cli("queue", "status", *arguments)
        assert run.code == 0
        assert "shop" in run.out
        assert "\x1b" not in run.out + run.err
        assert "not a store's subject, so no worker sends them" in run.err
        assert "more such subjects" in run.err
    assert cli("queue", "dead").code == 0


def test_control_characters_of_a_dead_letter_do_not_reach_the_terminal(
    cli: Cli, cli_queue: Queue
) -> None:
    cli_queue.publish([])
    headers = {"Everlytic-Reason": "\x1b[2Jforged\x9b2J", "Everlytic-Outcome": "unknown"}
    headers["Everlytic-Attempts"] = "1e308"
    body = '{"order_id":\t"\x9b\x85\u2028\xfc",\n"total": 1.10}'.encode()
    cli_queue.publish_raw("dead.default", body, headers)
    for form in ("text", "jsonl", "orders"):
        run = cli("queue", "dead", "--format", form)
        assert run.code == 0
        assert max(map(len, run.out.splitlines())) < 250
        assert not {"\x1b", "\x9b", "\x85", "\u2028"} & set(run.out)
        assert form == "orders" or "forged" in run.out
    assert run.out == '{"order_id": "\\u009b\\u0085\\u2028\xfc", "total": 1.10}\n'


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--all"], [str(number) for number in range(1, 31)]])
def test_two_redrives_at_once_both_end_well(
    program: Program, queue: Queue, arguments: list[str]
) -> None:
    here = queue.visible_to(program)
    queue.bury(*[(order(number), Outcome.REJECTED, "no") for number in range(30)])
    runs = [
        completed(process)
        for process in [here.start("queue", "redrive", *arguments) for _ in range(2)]
    ]
    # Which letters are missing is found out first: a command that starts later may miss some.
    assert [run.code for run in runs] == [int("has no dead letter" in run.err) for run in runs]
    assert "--all" not in arguments or [run.code for run in runs] == [0, 0]
    assert sum(int(run.out.split()[0]) for run in runs) == 30
    assert (queue.dead(), queue.depth()) == ([], 30)


def test_dead_letters_are_shown_with_their_reasons(cli: Cli, cli_queue: Queue) -> None:
    cli_queue.bury(UNKNOWN, REJECTED, INVALID)
    run = cli("queue", "dead")
    first, second, third = lines(run.out)
    assert first.startswith("1 ")
    assert "unknown 1 the answer to [an address] was lost (1 attempt)" in first
    assert "jane@example.com" not in run.out
    assert "rejected 2 status 422" in second
    assert "invalid 3 products: too few" in third
    rows = cli("queue", "dead", "--format", "jsonl", "--outcome", "rejected").out.splitlines()
    (row,) = map(json.loads, rows)
    assert (row["store"], row["number"], row["key"]) == ("default", 2, "2")
    run = cli("queue", "dead", "--format", "orders", "--outcome", "invalid")
    assert json.loads(run.out) == order(3)  # to be corrected


def test_selected_ones_are_put_back(cli: Cli, cli_queue: Queue) -> None:
    cli_queue.bury(UNKNOWN, REJECTED, INVALID)
    run = cli("queue", "redrive", "2", "9", "3", "3")
    assert run.code == 1
    assert run.out == "2 orders put back, for a worker to send.\n"
    assert "default has no dead letter 9\n" in run.err
    assert [letter.id for letter in cli_queue.dead()] == [1]
    assert cli_queue.depth() == 2


def test_all_of_an_outcome_are_put_back_or_deleted(cli: Cli, cli_queue: Queue) -> None:
    cli_queue.bury(UNKNOWN, REJECTED, INVALID)
    assert cli("queue", "redrive", "--all", "--outcome", "rejected").code == 0
    assert cli("queue", "drop", "--all", "--outcome", "invalid").code == 0
    assert [letter.outcome for letter in cli_queue.dead()] == [Outcome.UNKNOWN]
    assert cli_queue.depth() == 1
    assert cli("queue", "drop", "--all").out == "1 order deleted, and not sent.\n"
    assert cli_queue.dead() == []
