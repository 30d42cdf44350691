"""``worker``: a real NATS server, real signals; sandboxes count what arrives."""

from __future__ import annotations

import json
import re
import signal
import urllib.request
from pathlib import Path

import pytest
from command_line import Cli, Program, completed, read_until, until
from command_queue import Queue
from command_terminal import Terminal

from everlytic_async.outcomes import Outcome
from everlytic_async.sandbox import Sandbox
from support.delivery import order
from support.sandboxes import CUSTOMER_HASH, STORE_HASH, serve

OTHER_STORE, OTHER_CUSTOMER = "5107e-of-another-shop", "0therCust0merXy1"


def test_it_sends_what_is_queued_and_ends_when_the_queue_is_empty(
    cli: Cli, cli_queue: Queue, shop: Sandbox
) -> None:
    cli_queue.publish(map(order, range(20)))
    run = cli("worker", "--exit-when-empty")
    assert (run.code, shop.processed) == (0, 20)
    assert run.out == "default: 20 sent; 0 orders to the dead letters, 0 back to the queue\n"
    assert "[default] the worker started" in run.err
    assert "WARNING" not in run.err  # it ended as it was meant to
    assert cli_queue.depth() == 0


def test_each_store_gets_its_own_orders_with_its_own_hashes_and_wrong_ones_end_theirs_alone(
    cli: Cli, queue: Queue, sandbox: Sandbox
) -> None:
    for store, count in (("a", 5), ("b", 7), ("c", 3), ("wrong", 4)):
        queue.publish(map(order, range(count)), store)
    with serve(store_hash=OTHER_STORE, customer_hash=OTHER_CUSTOMER) as other:
        tables = [queue.toml()]
        for name, url, *hashes in (
            ("a", sandbox.base_url, STORE_HASH, CUSTOMER_HASH),
            ("b", other.base_url, OTHER_STORE, OTHER_CUSTOMER),
            ("wrong", sandbox.base_url, OTHER_STORE, CUSTOMER_HASH),
        ):
            tables += [f'[worker.stores.{name}]\nbase_url = "{url}"']
            tables += ['store_hash = "{}"\ncustomer_hash = "{}"\n'.format(*hashes)]
        Path("everlytic.toml").write_text("\n".join(tables))
        cli.env(EVERLYTIC_NATS_URL=queue.url)
        run = cli("worker", "--exit-when-empty", "--log-level", "debug")
    assert (run.code, sandbox.processed, other.processed) == (1, 5, 7)
    for store, count in (("a", 5), ("b", 7)):
        assert f"{store}: {count} sent" in run.out
        assert re.search(rf" DEBUG \[{store}\] order \S+, attempt 1: sent", run.err)
    assert "[wrong] no more orders of this store are taken" in run.err
    for secret in (STORE_HASH, CUSTOMER_HASH, OTHER_STORE, OTHER_CUSTOMER, "customer1@"):
        assert secret not in run.out + run.err
    assert (queue.depth("c"), queue.depth("wrong"), queue.dead("wrong")) == (3, 4, [])
    missing = cli("worker", "--store", "a", "--store", "c")
    assert missing.code == 2
    assert "no table [worker.stores.c] in the settings, which have a, b, wrong" in missing.err


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_the_first_signal_ends_what_is_in_flight_and_leaves_the_rest_in_the_queue(
    program: Program, queue: Queue, number: int
) -> None:
    queue.publish(map(order, range(30)))
    with serve(latency_s=0.3) as sandbox:
        here = queue.visible_to(program).with_endpoint(sandbox)
        process = here.start("worker", "--concurrency", "4", "--ledger", "orders.ledger")
        until(lambda: sandbox.in_flight == 4)
        process.send_signal(number)
        run = completed(process)
        assert sandbox.processed == sandbox.requests
        assert run.code == 0
        assert f"default: {sandbox.processed} sent" in run.out
        assert "Stopping: no more orders are taken" in run.err
        assert queue.depth() == 30 - sandbox.processed
    assert queue.dead() == []


@pytest.mark.slow
def test_it_stops_when_its_terminal_is_closed(
    program: Program, queue: Queue, sandbox: Sandbox
) -> None:
    queue.publish([order(1)])
    with Terminal() as terminal:
        here = queue.visible_to(program).with_endpoint(sandbox)
        process = here.start("worker", **terminal.streams("stdin", "stdout", "stderr"))
        until(lambda: sandbox.processed == 1)
    assert process.wait(30) == 0
    assert queue.depth() == 0


@pytest.mark.slow
def test_a_second_signal_cancels_what_is_in_flight_and_the_next_worker_knows(
    program: Program, queue: Queue, closed_port: int
) -> None:
    queue.publish(map(order, range(4)))
    with serve(closed_port, latency_s=300) as sandbox:
        here = queue.visible_to(program).with_endpoint(sandbox)
        process = here.start("worker", "--concurrency", "2", "--ledger", "orders.ledger")
        until(lambda: sandbox.in_flight == 2)
        process.send_signal(signal.SIGTERM)
        read_until(process, "Stopping: ")
        process.send_signal(signal.SIGTERM)
        run = completed(process)
        assert run.code == 143
        assert "Traceback" not in run.err
    with serve(closed_port) as sandbox:
        run = here.run("worker", "--ledger", "orders.ledger", "--exit-when-empty")
        assert run.code == 0
        assert sandbox.processed == 2
    assert [letter.outcome for letter in queue.dead()] == [Outcome.UNKNOWN] * 2


def test_the_health_of_a_worker_is_served(program: Program, queue: Queue, sandbox: Sandbox) -> None:
    queue.publish(map(order, range(5)))
    here = queue.visible_to(program).with_endpoint(sandbox)
    process = here.start("worker", "--health", "127.0.0.1:0")
    log = read_until(process, "health is served at ")
    url = log.rpartition("health is served at ")[2].strip()
    until(lambda: sandbox.processed == 5)

    def get(path: str) -> str:
        with urllib.request.urlopen(url + path, timeout=10) as answer:  # noqa: S310 - on loopback
            return str(answer.read().decode())

    assert json.loads(get("/readyz"))["ready"]
    figures = get("/metrics")
    assert 'everlytic_orders_total{outcome="sent",store="default"} 5.0' in figures
    assert STORE_HASH not in figures
    process.terminate()
    assert (completed(process)).code == 0


@pytest.mark.slow
def test_a_signal_while_it_connects_ends_it(program: Program, sandbox: Sandbox) -> None:
    process = program.with_endpoint(sandbox).start("worker", "--nats", "nats://127.0.0.1:1")
    read_until(process, "Connect call failed")
    process.terminate()
    run = completed(process)  # in less than its patience
    assert (run.code, run.out) == (143, "")


def test_missing_settings_are_an_error_before_anything_is_connected(cli: Cli) -> None:
    run = cli("worker", "--nats", "nats://127.0.0.1:1")
    assert run.code == 2
    assert "no base_url" in run.err


@pytest.mark.slow
def test_workers_on_one_directory_share_a_server_that_ends_with_its_command(
    program: Program, sandbox: Sandbox
) -> None:
    token = "t0ken-of-nats-57"
    here = program.with_endpoint(sandbox)
    orders = program.write(*map(order, range(10)))
    queued = here.with_env(EVERLYTIC_NATS_TOKEN=token).run("enqueue", "--embedded", "queue", orders)
    assert queued.code == 0  # and its server has ended with it
    # Who joins knows nothing but the directory.
    assert (program.directory / "queue" / "token").read_text() == f"{token}\n"
    first = here.start("worker", "--embedded", "queue")
    until(lambda: sandbox.processed == 10)
    second = here.start("worker", "--embedded", "queue")
    read_until(second, "the worker started")
    orders = program.write(*map(order, range(9, 12)))  # the ledger knows order 9
    assert (here.run("enqueue", "--embedded", "queue", orders)).code == 0
    until(lambda: sandbox.processed == 12)
    found = here.run("queue", "status", "--embedded", "queue", "--json")
    status = json.loads(found.out)
    assert (status["dead"], len(status["workers"])) == (0, 2)
    first.terminate()
    assert (completed(first)).code == 0
    left = completed(second)
    assert left.code == 1
    assert "the private NATS server has ended" in left.err
    assert not sandbox.duplicates
