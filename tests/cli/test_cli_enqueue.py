"""``enqueue``: what is stored, what is not and why, and that nothing is stored twice."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from pathlib import Path

import nkeys
import pytest
import trustme
from command_line import Here, Program, ended, lines_of, order, results_in
from command_queue import Queue, line_of, now
from command_terminal import Terminal

from everlytic_async.cli import _nats
from everlytic_async.worker import NatsServer
from support.nats_servers import until

Write = Callable[..., Path]
SHOPIFY = Path(__file__).parents[1] / "sources" / "data" / "shopify_orders.csv"
TOKEN = "t0ken-of-nats-57"


@pytest.fixture
def at_hand(here: Here, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> Queue:
    """The queue, where a program in the test's process finds it."""
    monkeypatch.setenv("EVERLYTIC_NATS_URL", queue.url)
    (here.directory / "everlytic.toml").write_text(queue.toml())
    return queue


def test_valid_orders_are_stored_and_the_others_told_by_their_lines(
    here: Here, at_hand: Queue, orders_file: Write
) -> None:
    path = orders_file(order(1), "nonsense", order(2), order(3, products=[]))
    run = here("enqueue", "--results", "r.jsonl", path)
    assert run.code == 1
    assert f"4 orders from {path} to the queue of default" in run.out
    assert "queued    2  stored, for a worker to send" in run.out
    assert "invalid   2  not valid, so not queued" in run.out
    assert "(line 2)" in run.out
    assert "products: at least one is required  (line 4)" in run.out
    results = results_in(here.directory / "r.jsonl")
    assert [result["outcome"] for result in results] == ["queued", "invalid", "queued", "invalid"]
    assert [result["key"] for result in results] == ["1", None, "2", None]
    assert now(at_hand.depth()) == 2


def test_again_it_stores_nothing_twice_and_says_so(
    here: Here, at_hand: Queue, orders_file: Write
) -> None:
    path = orders_file(order(1), order(2))
    assert here("enqueue", path).code == 0
    again = here("enqueue", "--results", "-", orders_file(order(1), order(2), order(3)))
    assert again.code == 0
    outcomes = [json.loads(line)["outcome"] for line in again.out.splitlines()]
    assert outcomes == ["known", "known", "queued"]
    assert "known     2  the queue knew them already: not stored again" in again.err
    assert now(at_hand.depth()) == 3


def test_what_send_reads_it_reads_and_puts_under_the_store(here: Here, at_hand: Queue) -> None:
    run = here("enqueue", "--store", "shop-a", "--workflow-id", "32", "--limit", "2", SHOPIFY)
    assert run.code == 0
    assert "2 orders" in run.out
    assert "to the queue of shop-a" in run.out
    assert now(at_hand.depth("shop-a")) == 2
    assert now(at_hand.depth()) == 0


def test_nothing_to_do_is_told(here: Here, at_hand: Queue, orders_file: Write) -> None:
    run = here("enqueue", orders_file())
    assert run.code == 0
    assert "There is no order" in run.err


def test_a_server_that_is_away_is_told_before_anything_is_replaced(
    here: Here, orders_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_nats.nats_arguments.__wrapped__, "__kwdefaults__", {"timeout_s": 0.2})
    run = here(
        "enqueue", "--nats", "nats://127.0.0.1:1", "--results", "r.jsonl", orders_file(order(1))
    )
    assert run.code == 2
    assert "Error: no NATS server could be reached" in run.err
    assert not (here.directory / "r.jsonl").exists()


def test_a_full_queue_loses_nothing_and_says_what_to_do(
    here: Here, at_hand: Queue, orders_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_nats.nats_arguments.__wrapped__, "__kwdefaults__", {"timeout_s": 0.3})
    (here.directory / "everlytic.toml").write_text(at_hand.toml(max_messages=3))
    run = here("enqueue", orders_file(*map(order, range(5))))
    assert run.code == 1
    assert "queued      3" in run.out
    assert "not queued  2  not acknowledged by the queue: run it again" in run.out
    assert "Error: the queue did not acknowledge the order: maximum messages exceeded" in run.err
    assert "Run it again to queue the rest" in run.err
    assert now(at_hand.depth()) == 3


async def test_ctrl_c_ends_the_reading_of_a_pipe_and_what_was_read_is_stored(
    program: Program, queue: Queue
) -> None:
    process = await queue.at_hand(program).start("enqueue", "-", stdin=asyncio.subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write((lines_of(order(1), order(2)) + '{"order_id":').encode())
    async with asyncio.timeout(30):
        while await queue.depth() < 2:  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.02)
    process.send_signal(signal.SIGINT)
    await line_of(process, "Interrupted: no more orders are read")
    await process.wait()  # with the pipe still open
    run = await ended(process)
    assert run.code == 130
    assert "2 orders from standard input" in run.out
    assert "Nothing after line 2 of standard input was read." in run.err
    assert await queue.depth() == 2


async def test_a_second_ctrl_c_leaves_what_the_queue_does_not_take(
    program: Program, queue: Queue, orders_file: Write
) -> None:
    here = queue.at_hand(program)
    async with queue.opened(max_messages=3):
        pass
    process = await here.start("enqueue", "--results", "-", orders_file(*map(order, range(9))))
    assert process.stdout is not None
    async with asyncio.timeout(30):
        acknowledged = [json.loads(await process.stdout.readline()) for _ in range(3)]
    process.send_signal(signal.SIGINT)
    await line_of(process, "Interrupted: no more orders are read")
    process.send_signal(signal.SIGINT)
    run = await ended(process)
    assert run.code == 130
    assert "Traceback" not in run.err
    results = acknowledged + [json.loads(line) for line in run.out.splitlines()]
    assert [result["index"] for result in results] == list(range(9))
    outcomes = [result["outcome"] for result in results]
    assert outcomes == ["queued"] * 3 + ["not_queued"] * 6
    assert await queue.depth() == 3
    assert "not queued  6" in run.err
    assert "Run it again to queue the rest" in run.err


async def test_progress_is_shown_on_a_terminal(
    program: Program, queue: Queue, orders_file: Write
) -> None:
    terminal = Terminal()
    try:
        process = await queue.at_hand(program).start(
            "enqueue", orders_file(*map(order, range(50))), stderr=terminal.theirs
        )
        run = await ended(process)
        terminal.drain()
    finally:
        terminal.close()
    assert run.code == 0
    assert "Queueing for default" in terminal.plain
    assert "50 queued" in terminal.plain


# ------------------------------------------------------------------------------ who may come in


def test_a_password_in_an_argument_is_refused_and_not_repeated(
    here: Here, orders_file: Write
) -> None:
    run = here("enqueue", "--nats", f"nats://me:{TOKEN}@127.0.0.1", orders_file(order(1)))
    assert run.code == 2
    assert "EVERLYTIC_NATS_URL" in run.err
    assert TOKEN not in run.err + run.out


@pytest.mark.parametrize("token", [TOKEN, None])
async def test_nobody_reaches_an_embedded_server_without_its_token(
    program: Program, orders_file: Write, token: str | None
) -> None:
    directory = program.directory / "queue"

    async def is_listening() -> bool:
        return (directory / "address").exists()

    here = program.told(**({} if token is None else {"EVERLYTIC_NATS_TOKEN": token}))
    embedded = ("--embedded", "queue")
    # One that goes on until its input ends, and so its server.
    process = await here.start("enqueue", *embedded, "-", stdin=asyncio.subprocess.PIPE)

    async def answer() -> bytes:
        port = int((directory / "address").read_text().rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"CONNECT {}\r\nPING\r\n")
        said = await reader.read()
        writer.close()
        await writer.wait_closed()
        return said

    await until(is_listening, "the server")
    assert b"-ERR 'Authorization Violation'" in await answer()
    # Who joins knows nothing but the directory.
    run = await program.run("enqueue", *embedded, orders_file(order(1)))
    assert (run.code, run.err) == (0, "")
    assert (await program.run("queue", "status", *embedded)).code == 0
    kept = (directory / "token").read_text().strip()
    assert token in (None, kept)
    assert kept not in run.out
    assert (await ended(process, b"")).code == 0


@pytest.mark.parametrize("place", ["environment", "file", "context", "address"])
async def test_a_token_is_taken_from_where_nobody_else_reads_it(
    program: Program, orders_file: Write, place: str
) -> None:
    async with NatsServer(program.directory / "data", token=TOKEN) as server:
        address = server.url.replace(f"{TOKEN}@", "")
        told = {"EVERLYTIC_NATS_URL": address, "EVERLYTIC_NATS_TOKEN": TOKEN}
        if place == "file":
            text = f'[nats]\nurl = ["{address}"]\ntoken = "{TOKEN}"\n'
            (program.directory / "everlytic.toml").write_text(text)
            told = {}
        elif place == "context":
            path = program.directory / "home" / ".config" / "nats" / "context" / "shop.json"
            path.parent.mkdir(parents=True)
            held = {"description": "", "url": address, "token": TOKEN, "nsc": ""}
            path.write_text(json.dumps(held))
            told = {"EVERLYTIC_NATS_CONTEXT": "shop"}
        elif place == "address":
            told = {"EVERLYTIC_NATS_URL": server.url}
        run = await program.told(**told).run("enqueue", "--debug", orders_file(order(1)))
    assert run.code == 0
    assert "Error" not in run.err
    assert TOKEN not in run.out


async def test_a_certificate_and_an_nkey_are_named_by_their_paths(
    program: Program, orders_file: Write, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate = authority.issue_cert("127.0.0.1")
    files = {"cert_file": str(tmp_path / "cert.pem"), "key_file": str(tmp_path / "key.pem")}
    certificate.private_key_pem.write_to_path(files["key_file"])
    certificate.cert_chain_pems[0].write_to_path(files["cert_file"])
    seed = nkeys.encode_seed(bytes(32), nkeys.PREFIX_BYTE_USER)
    await asyncio.to_thread((tmp_path / "user.nk").write_bytes, seed)
    user = nkeys.from_seed(bytearray(seed)).public_key.decode()
    config = {"tls": files, "authorization": {"users": [{"nkey": user}]}}
    async with NatsServer(tmp_path / "data", config=config) as server:
        run = await program.run(
            *("enqueue", "--nats", server.url, "--nats-tls-ca", "ca.pem"),
            *("--nats-nkey", "user.nk", orders_file(order(1))),
        )
    assert (run.code, run.err) == (0, "")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[nats]\nulr = 'x'", "[nats] has what is no setting: ulr"),
        (f"[nats]\ntoken = 5\nuser = '{TOKEN}'", "token of the settings of NATS must be text"),
        ("[nats]\nurl = 'a'\nembedded = 'b'", "only one of url, embedded can be"),
        ("[nats]\ncontext = '../x'", "no name of a NATS context"),
        ("[nats]\ncontext = 'none'", "can't be read"),
        ("[nats]\ntls_cert = 'x'", "a certificate goes with its key"),
        ("[nats]\ntls_ca = 'none.pem'", "certificates for NATS can't be used"),
        ("[nats]\ncredentials = 'none.creds'", "'none.creds' can't be read"),
        ("[queue]\nstore = 'x'", "[queue] has what is no setting: store"),
        ("[queue]\nreplicas = 2", "QueueSettings.replicas must be 1, 3 or 5, got 2"),
        ("[worker]\nrate = 5", "nothing else: not rate"),
    ],
)
def test_wrong_settings_are_told_without_what_is_secret(
    here: Here, orders_file: Write, text: str, told: str
) -> None:
    (here.directory / "everlytic.toml").write_text(text)
    run = here("enqueue", orders_file(order(1)))
    assert run.code == 2
    assert told in run.err
    assert TOKEN not in run.err


def test_an_option_puts_aside_where_the_file_says_the_queue_is(
    here: Here, at_hand: Queue, orders_file: Write
) -> None:
    text = at_hand.toml() + "\n[nats]\nembedded = 'elsewhere'\n"
    (here.directory / "everlytic.toml").write_text(text)
    assert here("enqueue", "--nats", at_hand.url, orders_file(order(1))).code == 0
    assert not (here.directory / "elsewhere").exists()
    assert now(at_hand.depth()) == 1


def test_several_stores_are_not_guessed_at(here: Here, queue: Queue, orders_file: Write) -> None:
    tables = "[worker.stores.a]\nbase_url = 'x'\n[worker.stores.b]\nbase_url = 'y'\n"
    (here.directory / "everlytic.toml").write_text(tables)
    run = here("enqueue", "--nats", queue.url, orders_file(order(1)))
    assert run.code == 2
    assert "name one of a, b by --store" in run.err
