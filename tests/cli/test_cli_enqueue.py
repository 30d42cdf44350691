"""``enqueue``: what is stored, what is not and why, and that nothing is stored twice."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nkeys
import pytest
import trustme
from command_line import Cli, Program, completed, read_results, read_until, to_lines, until
from command_queue import Queue

from everlytic_async.worker import NatsServer
from support.delivery import order

TOKEN = "t0ken-of-nats-57"


@pytest.fixture(scope="module")
def token_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server that lets in who has the token."""
    with asyncio.Runner() as runner:
        server = NatsServer(tmp_path_factory.mktemp("nats"), token=TOKEN)
        runner.run(server.start())
        yield server
        runner.run(server.close())


def test_valid_orders_are_stored_and_the_others_reported_with_their_lines(
    cli: Cli, cli_queue: Queue
) -> None:
    path = cli.write(order(1), "nonsense", order(2), order(3, products=[]), order(4))
    options = ("--store", "shop-a", "--workflow-id", "32", "--limit", "4")
    run = cli("enqueue", *options, "--results", "r.jsonl", path)
    assert run.code == 1
    assert f"4 orders from {path} to the queue of shop-a" in run.out
    assert "queued    2  stored, for a worker to send" in run.out
    assert "invalid   2  not valid, so not queued" in run.out
    assert "(line 2)" in run.out
    assert "products: at least one is required  (line 4)" in run.out
    results = read_results(cli.directory / "r.jsonl")
    assert [result["outcome"] for result in results] == ["queued", "invalid", "queued", "invalid"]
    assert [result["key"] for result in results] == ["1@32", None, "2@32", None]
    assert (cli_queue.depth("shop-a"), cli_queue.depth()) == (2, 0)


def test_a_second_run_stores_nothing_twice_and_says_so(cli: Cli, cli_queue: Queue) -> None:
    path = cli.write(order(1), order(2))
    assert cli("enqueue", path).code == 0
    again = cli("enqueue", "--results", "-", cli.write(order(1), order(2), order(3)))
    assert again.code == 0
    outcomes = [json.loads(line)["outcome"] for line in again.out.splitlines()]
    assert outcomes == ["known", "known", "queued"]
    assert "known     2  the queue knew them already: not stored again" in again.err
    assert cli_queue.depth() == 3


def test_a_damaged_file_is_not_to_be_queued_again_as_it_is(cli: Cli, cli_queue: Queue) -> None:
    Path("o.json").write_text(f"[{json.dumps(order(1))}, {{")
    run = cli("enqueue", "o.json")
    assert (run.code, "Run it again" in run.err) == (2, False)
    assert "the JSON ends too early, after order 1" in run.err
    assert cli_queue.depth() == 1


@pytest.mark.parametrize(
    "address", [pytest.param("nats://127.0.0.1:1", marks=pytest.mark.slow), "nats://[::"]
)
def test_an_unreachable_server_is_an_error_before_anything_is_created(
    cli: Cli, address: str
) -> None:
    run = cli("enqueue", "--nats", address, "--results", "r.jsonl", cli.write(order(1)))
    assert run.code == 2
    assert "Error: no NATS server could be reached" in run.err
    assert not (cli.directory / "r.jsonl").exists()


@pytest.mark.slow
def test_a_full_queue_loses_nothing_and_says_what_to_do(cli: Cli, cli_queue: Queue) -> None:
    (cli.directory / "everlytic.toml").write_text(cli_queue.toml(max_messages=3))
    run = cli("enqueue", cli.write(*map(order, range(5))))
    assert run.code == 1
    assert "queued      3" in run.out
    assert "not queued  2  not acknowledged by the queue: run it again" in run.out
    assert "Error: the queue did not acknowledge the order: maximum messages exceeded" in run.err
    assert "Run it again to queue the rest" in run.err
    assert cli_queue.depth() == 3


def test_ctrl_c_ends_the_reading_of_a_pipe_and_what_was_read_is_stored(
    program: Program, queue: Queue
) -> None:
    process = queue.visible_to(program).start("enqueue", "-", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write((to_lines(order(1), order(2)) + '{"order_id":').encode())
    until(lambda: queue.depth() == 2)
    process.send_signal(signal.SIGINT)
    read_until(process, "Interrupted: no more orders are read")
    process.wait(30)  # with the pipe still open
    run = completed(process)
    assert run.code == 130
    assert "2 orders from standard input" in run.out
    assert "Nothing after line 2 of standard input was read." in run.err
    assert queue.depth() == 2


@pytest.mark.slow
def test_a_second_ctrl_c_leaves_what_the_queue_does_not_take(
    program: Program, queue: Queue
) -> None:
    here = queue.visible_to(program, max_messages=3)
    process = here.start("enqueue", "--results", "-", program.write(*map(order, range(9))))
    assert process.stdout is not None
    acknowledged = [json.loads(process.stdout.readline()) for _ in range(3)]
    process.send_signal(signal.SIGINT)
    read_until(process, "Interrupted: no more orders are read")
    process.send_signal(signal.SIGINT)
    run = completed(process)
    assert run.code == 130
    assert "Traceback" not in run.err
    results = acknowledged + [json.loads(line) for line in run.out.splitlines()]
    assert [result["index"] for result in results] == list(range(9))
    outcomes = [result["outcome"] for result in results]
    assert outcomes == ["queued"] * 3 + ["not_queued"] * 6
    assert queue.depth() == 3
    assert "not queued  6" in run.err
    assert "Run it again to queue the rest" in run.err


@pytest.mark.parametrize("place", ["environment", "file", "context", "address", "option"])
def test_a_token_is_read_where_nobody_else_reads_it(
    cli: Cli, token_server: NatsServer, place: str
) -> None:
    address = token_server.url.replace(f"{TOKEN}@", "")
    match place:
        case "environment":
            cli.env(EVERLYTIC_NATS_URL=address, EVERLYTIC_NATS_TOKEN=TOKEN)
        case "address":
            cli.env(EVERLYTIC_NATS_URL=token_server.url)
        case "file":
            text = f'[nats]\nurl = ["{address}"]\ntoken = "{TOKEN}"\n'
            Path("everlytic.toml").write_text(text)
        case "context":
            path = Path("home/.config/nats/context/shop.json")
            path.parent.mkdir(parents=True)
            settings = {"description": "", "url": address, "token": TOKEN, "nsc": ""}
            path.write_text(json.dumps(settings))
            cli.env(EVERLYTIC_NATS_CONTEXT="shop")
        case "option":  # which wins over what the file says of the place
            text = f'[nats]\nembedded = "elsewhere"\ntoken = "{TOKEN}"\n'
            Path("everlytic.toml").write_text(text)
    options = ("--nats", address) if place == "option" else ()
    run = cli("enqueue", "--debug", *options, cli.write(order(place)))
    assert (run.code, Path("elsewhere").exists()) == (0, False)
    assert "Error" not in run.err
    assert TOKEN not in run.out


def test_a_certificate_and_an_nkey_are_named_by_their_paths(cli: Cli) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path("ca.pem")
    certificate = authority.issue_cert("127.0.0.1")
    files = {"cert_file": str(Path("cert.pem").absolute())}
    files["key_file"] = str(Path("key.pem").absolute())
    certificate.private_key_pem.write_to_path(files["key_file"])
    certificate.cert_chain_pems[0].write_to_path(files["cert_file"])
    seed = nkeys.encode_seed(bytes(32), nkeys.PREFIX_BYTE_USER)
    Path("user.nk").write_bytes(seed)
    user = nkeys.from_seed(bytearray(seed)).public_key.decode()
    config = {"tls": files, "authorization": {"users": [{"nkey": user}]}}
    with asyncio.Runner() as runner:
        server = NatsServer(cli.directory / "data", config=config)
        runner.run(server.start())
        run = cli(
            *("enqueue", "--nats", server.url, "--nats-tls-ca", "ca.pem"),
            *("--nats-nkey", "user.nk", cli.write(order(1))),
        )
        runner.run(server.close())
    assert (run.code, run.err) == (0, "")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[nats]\nulr = 'x'", "[nats] of everlytic.toml has what is not a setting: ulr"),
        (f"[nats]\ntoken = 5\nuser = '{TOKEN}'", "token of the settings of NATS must be text"),
        ("[nats]\nurl = 'a'\nembedded = 'b'", "only one of url, embedded can be"),
        ("[nats]\ncontext = '../x'", "not the name of a NATS context"),
        ("[nats]\ncontext = 'none'", "can't be read"),
        ("[nats]\ntls_cert = 'x'", "a certificate goes with its key"),
        ("[nats]\ntls_ca = 'none.pem'", "certificates for NATS can't be used"),
        ("[nats]\ncredentials = 'none.creds'", "'none.creds' can't be read"),
        ("[queue]\nstore = 'x'", "[queue] of everlytic.toml has what is not a setting: store"),
        ("[queue]\nreplicas = 2", "QueueSettings.replicas must be 1, 3 or 5, got 2"),
        ("[worker]\nrate = 5", "nothing else: not rate"),
        (
            "[worker.stores.a]\nbase_url = 'x'\n[worker.stores.b]\nbase_url = 'y'\n",
            "name one of a, b by --store",
        ),
    ],
)
def test_wrong_settings_are_an_error_without_what_is_secret(
    cli: Cli, text: str, error: str
) -> None:
    (cli.directory / "everlytic.toml").write_text(text)
    run = cli("enqueue", cli.write(order(1)))
    assert run.code == 2
    assert error in run.err
    assert TOKEN not in run.err
