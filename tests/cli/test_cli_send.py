"""``send``: what reaches the endpoint, what its options say, and how it fails."""

from __future__ import annotations

import json
import os
import pty
import re
from decimal import Decimal
from pathlib import Path

import pytest
from command_endpoint import Endpoint
from command_line import SEND, Cli, read_results, to_lines

from everlytic_async.sandbox import Sandbox
from support.delivery import order
from support.sandboxes import CUSTOMER_HASH, serve

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "orders.jsonl"


def received_ids(sandbox: Sandbox) -> list[str]:
    return sorted(each["order_id"] for each in sandbox.received)


def test_every_example_order_is_sent_as_it_is(cli: Cli, shop: Sandbox) -> None:
    run = cli("send", "--no-ledger", EXAMPLES)
    assert (run.code, run.err, [*cli.directory.iterdir()]) == (0, "", [])
    assert f"30 orders from {EXAMPLES} to 127.0.0.1:" in run.out
    assert re.search(r"^  sent +30  accepted by the endpoint$", run.out, re.MULTILINE)
    received = {each["order_id"]: each for each in shop.received}
    for line in EXAMPLES.read_text("utf-8").splitlines():
        sent = json.loads(line, parse_float=Decimal)
        # What the documentation calls text is text on the wire.
        text = {key: str(sent[key]) for key in ("order_id", "contact_unique_id") if key in sent}
        assert str({**sent, **text, "products": sent["products"]}) == str(
            {key: received[str(sent["order_id"])][key] for key in sent}
        )


def test_the_sandbox_option_needs_no_account_and_ignores_one(cli: Cli, shop: Sandbox) -> None:
    run = cli("send", "--sandbox", EXAMPLES)
    assert (run.code, run.err, shop.requests, [*cli.directory.iterdir()]) == (0, "", 0, [])
    assert "The sandbox processed 30, and nobody gets an e-mail." in run.out


def test_a_terminal_is_asked_for_orders_until_it_ends(cli: Cli, shop: Sandbox) -> None:
    keyboard, terminal = pty.openpty()
    os.write(keyboard, to_lines(order(1)).encode() + b"\x04")  # Ctrl-D
    run = cli(*SEND, "-", stdin=terminal)
    os.close(terminal)
    os.close(keyboard)
    assert (run.code, shop.processed) == (0, 1)
    assert run.err == "Type or paste orders, one JSON object on a line. Ctrl-D ends the input.\n"


@pytest.mark.parametrize("command", [SEND, ("check",)])
@pytest.mark.parametrize("source", ["empty.jsonl", "/dev/null", "-"])
def test_an_input_without_orders_is_no_failure(
    cli: Cli, shop: Sandbox, command: tuple[str, ...], source: str
) -> None:
    Path("empty.jsonl").write_text("\ufeff\n  \n", encoding="utf-8")
    run = cli(*command, source, stdin=b"")
    name = "standard input" if source == "-" else source
    assert (run.code, shop.requests) == (0, 0)
    assert run.err == f"There is no order in {name}: nothing to do.\n"


@pytest.mark.parametrize("is_piped", [True, False])
def test_the_limit_bounds_what_is_read(cli: Cli, shop: Sandbox, is_piped: bool) -> None:
    path = cli.write(order(1), "nonsense", *map(order, range(3, 50)))
    run = cli(*SEND, "--limit", "5", "-" if is_piped else path, stdin=path.read_bytes())
    assert (run.code, received_ids(shop)) == (3, ["1", "3", "4", "5"])
    assert "Nothing after" not in run.err


@pytest.mark.parametrize(
    ("options", "count"), [([], 3), (["--limit", "2"], 2), (["--sandbox"], 0), (["--dry-run"], 0)]
)
def test_a_trial_goes_to_ones_own_address_and_no_ledger_knows_of_it(
    cli: Cli, shop: Sandbox, options: list[str], count: int
) -> None:
    path = cli.write(order(1, contact_unique_id="c1"), *map(order, range(2, 9)))
    cli("send", "--ledger", "everlytic.ledger", "--limit", "1", path)
    before = Path("everlytic.ledger").read_bytes()
    run = cli("send", "--to", "me@example.com", "--workflow-id", "32", *options, path)
    assert run.code == 0
    assert received_ids(shop)[1:] == [str(n + 1) for n in range(count)]
    for each in shop.received[1:]:
        assert each["contact_email"] == "me@example.com"
        assert "contact_unique_id" not in each
        assert each["workflow_id"] == 32
    assert "again" not in run.err
    assert "Ledger" not in run.err
    if "--dry-run" not in options:
        assert "went to me@example.com, in place of the customers'" in run.out
    assert Path("everlytic.ledger").read_bytes() == before
    # The real run is not held up by it.
    run = cli("send", "--ledger", "everlytic.ledger", path)
    assert re.search("^  sent +7 ", run.out, re.MULTILINE)


def test_concurrency_and_rate_bound_what_is_in_flight_and_how_fast(cli: Cli) -> None:
    path = cli.write(*map(order, range(12)))
    with serve(latency_s=0.02) as sandbox:
        cli.use(sandbox.base_url)
        assert cli(*SEND, "--concurrency", "3", path).code == 0
        assert sandbox.peak_in_flight == 3
        run = cli(*SEND, "--rate", "50", path)
    seconds = re.search(r" in ([0-9.]+) s", run.out)
    assert seconds is not None
    assert float(seconds[1]) >= 0.2


@pytest.mark.parametrize(
    ("faults", "options", "code", "attempts", "outcome"),
    [
        ({"throttled": 1, "retry_after_s": 0}, ["--retries", "0"], 1, 1, "not_sent"),
        ({"throttled": 1, "retry_after_s": 0}, ["--retries", "2"], 1, 3, "not_sent"),
        # A lost answer is repeated only where that is allowed.
        ({"dropped_after": 1}, ["--retries", "1"], 3, 1, "unknown"),
        ({"dropped_after": 1}, ["--retries", "1", "--delivery", "at-most-once"], 3, 1, "unknown"),
        ({"dropped_after": 1}, ["--retries", "1", "--delivery", "at-least-once"], 3, 2, "unknown"),
        ({"dropped_after": 1}, ["--retries", "1", "--delivery", "at_least_once"], 3, 2, "unknown"),
    ],
)
def test_retries_and_delivery_bound_the_attempts(
    cli: Cli,
    faults: dict[str, float],
    options: list[str],
    code: int,
    attempts: int,
    outcome: str,
) -> None:
    with serve(**faults) as sandbox:
        cli.use(sandbox.base_url)
        run = cli(*SEND, *options, "--results", "r", cli.write(order(1), order(2)))
    assert (run.code, sandbox.requests) == (code, 2 * attempts)
    results = read_results("r")
    assert {(outcome, attempts)} == {(each["outcome"], each["attempts"]) for each in results}
    meaning = "may have been processed" if outcome == "unknown" else "surely not processed"
    assert re.search(rf"^  {outcome.replace('_', ' ')} +2  {meaning}", run.out, re.MULTILINE)
    is_risky = outcome == "unknown" and attempts > 1
    assert ("2 of them may have been processed more than once" in run.out) == is_risky


def test_the_workflow_is_that_of_the_order_else_that_of_the_option(cli: Cli, shop: Sandbox) -> None:
    path = cli.write(order(1), order(2, workflow_id=7))
    assert cli(*SEND, "--workflow-id", "32", path).code == 0
    workflows = {each["order_id"]: each["workflow_id"] for each in shop.received}
    assert workflows == {"1": 32, "2": 7}


@pytest.mark.parametrize("count", [1, 300])
def test_wrong_hashes_stop_the_batch_while_the_input_goes_on(
    cli: Cli, shop: Sandbox, count: int
) -> None:
    cli.use(shop.base_url, "another-hash")
    reading, writing = os.pipe()
    os.write(writing, to_lines(*map(order, range(count))).encode())
    run = cli(*SEND, "--results", "r", "-", stdin=reading)  # it ends with the input still open
    os.close(reading)
    os.close(writing)
    assert (run.code, shop.processed) == (1, 0)
    assert shop.requests <= 32
    assert "Error: the batch was stopped: the endpoint refused the hashes (401)" in run.err
    assert re.search(
        r"^Nothing after line [0-9]+ of standard input was read\.$", run.err, re.MULTILINE
    )
    results = read_results("r")
    assert {each["outcome"] for each in results} == {"not_sent"}
    assert len(results) < 300


def test_a_refused_connection_names_the_host(cli: Cli, closed_port: int) -> None:
    cli.use(f"http://127.0.0.1:{closed_port}")
    run = cli(*SEND, "--json", "--retries", "1", cli.write(*map(order, range(100))))
    found = json.loads(run.out)
    assert (run.code, found["exit_code"], found["sent"]) == (1, 1, 0)
    error = f"the batch was stopped: 127.0.0.1:{closed_port} could not be reached"
    assert error in found["errors"][0]
    assert f"Error: {error}" in run.err
    assert re.search(r"^  not sent +[0-9]+  ", run.err, re.MULTILINE)


def test_an_endpoint_that_answers_html_is_probably_another(cli: Cli, endpoint: Endpoint) -> None:
    run = cli(*SEND, cli.write(order("h1")))
    assert run.code == 3
    assert "base_url is probably not the address of the install" in run.out


def test_neither_hash_is_ever_written(cli: Cli, closed_port: int) -> None:
    """Through every way to fail, with --debug, in what is printed and in the results."""
    orders = cli.write(*map(order, range(15)), "nonsense", order(99, products=[]))
    written = ""

    def run(base_url: str, *arguments: str, store: str = "", customer: str = "") -> None:
        nonlocal written
        cli.use(base_url, store or sandbox.store_hash, customer or sandbox.customer_hash)
        options = ("--debug", "--retries", "1", "--results", "r", "--append-results")
        run = cli(*SEND, *options, *arguments, orders)
        assert run.code in (1, 2, 3)
        written += run.out + run.err

    others = ("5t0re-" + "f" * 20, "Cu" * 9)
    with serve(throttled=0.2, dropped_after=0.2, server_error=0.2, retry_after_s=0) as sandbox:
        run(sandbox.base_url)
        # Right hashes, wrong place for them; then the right place, and wrong hashes.
        run(f"{sandbox.base_url}/elsewhere")
        run(sandbox.base_url, store=others[0], customer=others[1])
        run(sandbox.base_url, "--dry-run")
        run(sandbox.base_url, "--concurrency", "0")
    run(f"http://127.0.0.1:{closed_port}", "--retries", "0")
    run(f"https://{sandbox.store_hash}@shop.example")
    run(f"http://127.0.0.1:{closed_port}", store=f"{sandbox.store_hash} {CUSTOMER_HASH}")
    written += Path("r").read_text()
    secrets = (sandbox.store_hash, CUSTOMER_HASH, *others)
    assert [secret for secret in secrets if secret in written] == []
