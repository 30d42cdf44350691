"""``queue``: what is in it, what is dead and why, and putting back what was chosen."""

from __future__ import annotations

import asyncio
import json

import pytest
from command_line import TIMEOUT_S, Cli, Program, order
from command_queue import Queue, now
from nats.aio.msg import Msg

from everlytic_async.outcomes import Outcome
from support.nats_servers import connected

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


def test_status_shows_stores_without_a_worker(cli: Cli, cli_queue: Queue) -> None:
    now(cli_queue.publish([order(1), order(2)], "forgotten"))
    now(cli_queue.bury(UNKNOWN, store="shop"))
    run = cli("queue", "status", "--json")
    found = {each["store"]: each for each in map(json.loads, run.out.splitlines())}
    assert list(found) == ["forgotten", "shop"]
    assert (found["forgotten"]["waiting"], found["forgotten"]["dead"]) == (2, 0)
    assert (found["shop"]["depth"], found["shop"]["dead"]) == (0, 1)
    one = cli("queue", "status", "--store", "shop")
    assert "forgotten" not in one.out
    assert "dead 1 a person has to decide: everlytic-async queue dead" in lines(one.out)


ODD = ["sho\x1b[2Jp", "sh~p", "a" * 65, "\u00fc"]


def test_status_survives_odd_subjects(cli: Cli, cli_queue: Queue) -> None:
    now(cli_queue.publish([order(1)], "shop"))

    async def publish() -> None:
        async with connected(cli_queue.url) as connection:
            for name in ODD:
                for kind in ("orders", "dead"):
                    await connection.jetstream().publish(f"{cli_queue.name}.{kind}.{name}", b"{}")
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", int(cli_queue.url.rpartition(":")[2])
            )
            writer.write(
                b"CONNECT {}\r\nPUB %s.orders.\xff\xfe 2\r\n{}\r\nPING\r\n"
                % cli_queue.name.encode()
            )
            await reader.readuntil(b"PONG\r\n")
            writer.close()
            await writer.wait_closed()

    now(publish())
    for arguments in ([], ["--json"]):
        run = cli("queue", "status", *arguments)
        assert run.code == 0
        assert "shop" in run.out
        assert "\x1b" not in run.out + run.err
        assert "not a store's subject, so no worker sends them" in run.err
        assert "more such subjects" in run.err
    assert cli("queue", "dead").code == 0


async def test_an_answer_with_impossible_counts_is_no_workers(cli_queue: Queue) -> None:
    """It would be hundreds of digits on the screen."""
    stats = {"name": "odd", "in_flight": 0, "stopping": False, "last_error": None}
    answers = [{**stats, "sent": sent} for sent in (1e308, -1, 2**63)]

    async def answer(message: Msg) -> None:
        for each in (*answers, {**stats, "name": "real", "sent": 7}):  # they come in this order
            await message.respond(json.dumps(each).encode())

    async with cli_queue.connect() as queue, connected(cli_queue.url) as connection:
        await connection.subscribe(cli_queue.settings().workers_subject, cb=answer)
        async with asyncio.timeout(TIMEOUT_S):
            while not (found := await queue.workers(0.2)):
                pass
    assert [(worker.name, worker.sent) for worker in found] == [("real", 7)]


def test_control_characters_of_a_dead_letter_do_not_reach_the_terminal(
    cli: Cli, cli_queue: Queue
) -> None:
    now(cli_queue.publish([]))

    async def publish() -> None:
        async with connected(cli_queue.url) as connection:
            headers = {
                "Everlytic-Reason": "\x1b[2Jforged\x9b2J",
                "Everlytic-Outcome": "unknown",
                "Everlytic-Attempts": "1e308",
            }
            subject = f"{cli_queue.name}.dead.default"
            body = '{"order_id":\t"\x9b\x85\u2028\xfc",\n"total": 1.10}'.encode()
            await connection.jetstream().publish(subject, body, headers=headers)

    now(publish())
    for form in ("text", "jsonl", "orders"):
        run = cli("queue", "dead", "--format", form)
        assert run.code == 0
        assert max(map(len, run.out.splitlines())) < 250
        assert not {"\x1b", "\x9b", "\x85", "\u2028"} & set(run.out)
        assert form == "orders" or "forged" in run.out
    assert run.out == '{"order_id": "\\u009b\\u0085\\u2028\xfc", "total": 1.10}\n'


@pytest.mark.slow
async def test_two_redrives_at_once_both_end_well(program: Program, queue: Queue) -> None:
    here = queue.visible_to(program)
    for arguments in (["--all"], [str(number) for number in range(31, 61)]):
        await queue.bury(*[(order(number), Outcome.REJECTED, "no") for number in range(30)])
        runs = await asyncio.gather(*(here.run("queue", "redrive", *arguments) for _ in range(2)))
        # Which letters are missing is found out first: a command that starts later may miss some.
        assert [run.code for run in runs] == [int("has no dead letter" in run.err) for run in runs]
        assert "--all" not in arguments or [run.code for run in runs] == [0, 0]
        assert sum(int(run.out.split()[0]) for run in runs) == 30
        assert await queue.dead() == []
        assert await queue.depth() == 30
        await queue.clear()


def test_dead_letters_are_shown_with_their_reasons(cli: Cli, cli_queue: Queue) -> None:
    now(cli_queue.bury(UNKNOWN, REJECTED, INVALID))
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


def test_dead_orders_can_be_written_to_be_corrected(cli: Cli, cli_queue: Queue) -> None:
    now(cli_queue.bury(INVALID, UNKNOWN))
    run = cli("queue", "dead", "--format", "orders", "--outcome", "invalid")
    (line,) = run.out.splitlines()
    assert json.loads(line) == order(3)


def test_no_dead_letters(cli: Cli, cli_queue: Queue) -> None:
    assert cli("queue", "dead").out == "default has no dead letters.\n"


def test_selected_ones_are_put_back(cli: Cli, cli_queue: Queue) -> None:
    now(cli_queue.bury(UNKNOWN, REJECTED, INVALID))
    run = cli("queue", "redrive", "2", "9", "3", "3")
    assert run.code == 1
    assert run.out == "2 orders put back, for a worker to send.\n"
    assert "default has no dead letter 9\n" in run.err
    assert [letter.id for letter in now(cli_queue.dead())] == [1]
    assert now(cli_queue.depth()) == 2


def test_all_of_an_outcome_are_put_back_or_deleted(cli: Cli, cli_queue: Queue) -> None:
    now(cli_queue.bury(UNKNOWN, REJECTED, INVALID))
    assert cli("queue", "redrive", "--all", "--outcome", "rejected").code == 0
    assert cli("queue", "drop", "--all", "--outcome", "invalid").code == 0
    assert [letter.outcome for letter in now(cli_queue.dead())] == [Outcome.UNKNOWN]
    assert now(cli_queue.depth()) == 1
    assert cli("queue", "drop", "--all").out == "1 order deleted, and not sent.\n"
    assert now(cli_queue.dead()) == []
