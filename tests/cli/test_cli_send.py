"""``send``: what reaches the endpoint, what the summary and the results say, and the exit code."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import stat
import sys
import threading
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

import pytest
from command_endpoint import Endpoint
from command_line import (
    CUSTOMER_HASH,
    SEND,
    Cli,
    order,
    read_results,
    serve,
    to_lines,
    wait_until,
)

from everlytic_async.sandbox import Sandbox
from support.hostile_text import HOSTILE

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "orders.jsonl"
NO_SPACE = "No space left on device"


def received_ids(sandbox: Sandbox) -> list[str]:
    return sorted(each["order_id"] for each in sandbox.received)


# ------------------------------------------------------------------------------------- the input


def test_every_example_order_is_sent_as_it_is(cli: Cli, shop: Sandbox) -> None:
    run = cli(*SEND, EXAMPLES)
    assert (run.code, run.err) == (0, "")
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
    assert (run.code, run.err, shop.requests) == (0, "", 0)
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


# ----------------------------------------------------------------------------------- the results


@pytest.mark.parametrize("source", ["file", "pipe", "file as the standard input"])
def test_bad_lines_are_reported_with_their_lines_and_the_rest_is_sent(
    cli: Cli, shop: Sandbox, source: str
) -> None:
    bad = {
        7: ("nonsense", "is not JSON: Expecting value"),
        100: (order(100, products=[]), "products: at least one is required"),
        222: (
            order(222, contact_email="no at sign"),
            "contact_email: expected an e-mail address, found no @",
        ),
        300: ('{"total": 1, "total": 2}', "total: given more than once in one object"),
    }
    path = cli.write(*(bad[line][0] if line in bad else order(line) for line in range(1, 301)))
    stdin = path.read_bytes() if source == "pipe" else path
    run = cli(*SEND, "--results", "r.jsonl", path if source == "file" else "-", stdin=stdin)
    assert f"300 orders from {path if source == 'file' else 'standard input'} to " in run.out
    assert (run.code, shop.processed, dict(shop.duplicates)) == (3, 296, {})
    results = read_results("r.jsonl")
    assert [(n, n + 1) for n in range(300)] == [(r["index"], r["line"]) for r in results]
    assert set(bad) == {each["line"] for each in results if each["outcome"] == "invalid"}
    sent = [each for each in results if each["outcome"] == "sent"]
    assert [str(each["line"]) for each in sent] == [each["key"] for each in sent]
    for line, (_order, reason) in bad.items():
        assert f"  1 x {reason}  (line {line})" in run.out


@pytest.mark.parametrize("options", [[], ["--dry-run"]], ids=["sent", "dry run"])
def test_a_result_has_these_fields(cli: Cli, shop: Sandbox, options: list[str]) -> None:
    """An invalid order has its key where it has an id."""
    path = cli.write(order(17), "", order(77, contact_email=None), "{}")
    run = cli(*SEND, *options, "--results", "r.jsonl", path)
    assert (run.code, shop.requests) == ((1, 0) if options else (3, 1))
    names = ("index", "line", "key", "outcome", "attempts", "error", "duplicate_risk")
    contact = "contact_email or contact_unique_id: one of the two is required"
    product = "products: at least one is required"
    sent = (
        ("not_sent", 0, "nothing was sent: it was only checked") if options else ("sent", 1, None)
    )
    assert read_results("r.jsonl") == [
        dict(zip(names, values, strict=True))
        for values in (
            (0, 1, "17", *sent, False),
            (1, 3, "77", "invalid", 0, contact, False),
            (2, 4, None, "invalid", 0, f"{contact}; {product}", False),
        )
    ]


@pytest.mark.parametrize("results", ["r.jsonl", "-"], ids=["file", "pipe"])
def test_each_result_is_written_as_it_comes(cli: Cli, shop: Sandbox, results: str) -> None:
    reading, writing = os.pipe()
    os.write(writing, to_lines(order(1)).encode())
    written, output = (open(fd, mode) for fd, mode in zip(os.pipe(), "rw", strict=True))  # noqa: PTH123, SIM115 - no paths
    path = Path("r.jsonl")
    ready: list[Any] = []

    def close_when_written() -> None:
        if results == "-":
            ready.extend(select.select([written], [], [], 30)[0])
        else:
            wait_until(lambda: path.exists() and path.read_text().endswith("\n"))
        os.close(writing)

    thread = threading.Thread(target=close_when_written)  # the input ends only then
    thread.start()
    with written, output, pytest.MonkeyPatch.context() as patch:
        if results == "-":
            patch.setattr(sys, "stdout", output)
        run = cli(*SEND, "--results", results, "-", stdin=reading)
        thread.join()
        assert ready == ([written] if results == "-" else [])
    os.close(reading)
    assert (run.code, shop.processed) == (0, 1)


@pytest.mark.parametrize("command", [SEND, ("send", "--sandbox"), ("check",)])
@pytest.mark.parametrize("append", [[], ["--append-results"]], ids=str)
@pytest.mark.parametrize(
    "content", [b"SQLite format 3\0", b"order_id,email\n", b'{"id": 1}\n', b'{"index": 0, "line"']
)
def test_results_replace_nothing_and_are_appended_to_results_only(
    cli: Cli, shop: Sandbox, command: tuple[str, ...], append: list[str], content: bytes
) -> None:
    path = Path("there")
    path.write_bytes(content)
    run = cli(*command, *append, "--results", path, cli.write(order(1)))
    is_results = content.startswith(b'{"index": ')  # of a run that was killed
    if is_results and append:
        earlier, result = path.read_bytes().splitlines()
        assert (run.code, earlier, json.loads(result)["line"]) == (0, content, 1)
        return
    assert (run.code, run.out, shop.requests, path.read_bytes()) == (2, "", 0, content)
    assert ("holds the results of an earlier run" in run.err) == is_results
    assert ("add --append-results" in run.err) == is_results
    assert ("holds something else than results" in run.err) == (not is_results)


@pytest.mark.parametrize("command", ["send", "send --dry-run", "check"])
@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("none.jsonl", "none.jsonl can't be read: No such file or directory"),
        (".", ". can't be read: Is a directory"),
        # It opens, and nothing can be read at its beginning.
        ("/proc/self/mem", "/proc/self/mem can't be read further: Input/output error"),
        ("o.xlsx", "o.xlsx: the Excel workbook can't be read (BadZipFile): save it again"),
        ("--results none/r o", "the results can't be written to 'none/r': No such file"),
        ("--results . o", "is a directory"),  # as click says it
        ("--results fifo o", "the results can't be written to 'fifo': nobody reads from it"),
        ("--ledger none/l o", "none/l' can't be created: there is no directory"),
        ("--ledger text o", "text' can't be "),
        ("--config fifo o", "fifo is a pipe that nobody writes to"),
        ("--config /dev/zero o", "/dev/zero is not a file"),
    ],
)
def test_a_file_that_cannot_be_used_ends_it_before_anything_is_sent(
    cli: Cli, shop: Sandbox, command: str, words: str, error: str
) -> None:
    """And no pipe is waited for."""
    os.mkfifo("fifo")
    Path("o").write_text(to_lines(order(1)))
    Path("o.xlsx").write_bytes(b"PK\x03\x04" + bytes(100))
    Path("text").write_text("an order, and another order, and so on\n" * 100)
    before = sorted(cli.directory.iterdir())
    ledger = [] if "--ledger" in words else ["--ledger", "l"]
    results = [] if "--results" in words else ["--results", "r.jsonl"]
    run = cli(*command.split(), *ledger, *results, *words.split())
    assert (run.code, shop.requests) == (2, 0)
    assert "Traceback" not in run.err
    assert error in run.err
    if words.endswith(" o"):
        assert run.out == ""
        assert {*cli.directory.iterdir()} - {*before} <= {cli.directory / "l"}


@pytest.mark.parametrize(
    "command",
    [
        ("send", "--ledger", "l", "--results"),
        ("send", "--ledger", "l", "--append-results", "--results"),
        ("send", "--ledger", "l", "--report"),
        ("send", "--dry-run", "--ledger", "l", "--append-results", "--results"),
        ("check", "--ledger", "l", "--append-results", "--results"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("end", ["", "-wal", "-shm", "-journal"])
def test_nothing_is_written_to_a_ledgers_files(
    cli: Cli, shop: Sandbox, command: tuple[str, ...], end: str
) -> None:
    Path("real").mkdir()
    Path("l").symlink_to("real/l")  # its files are beside the real one
    path = cli.write(order(1))
    for is_new in (True, False):
        if not is_new:
            assert cli("send", "--ledger", "l", path).code == 0
        before = [(each, each.read_bytes()) for each in sorted(Path("real").iterdir())]
        run = cli(*command, f"real/l{end}", path)
        assert (run.code, run.out, shop.requests) == (2, "", int(not is_new))
        assert f"{command[-1]} names" in run.err or is_new
        assert [(each, each.read_bytes()) for each in sorted(Path("real").iterdir())] == before


@pytest.mark.parametrize("name", [name for name in HOSTILE if name != "surrogate"])
def test_no_line_of_json_moves_a_cursor(cli: Cli, shop: Sandbox, name: str) -> None:
    path = cli.write(order(1, order_id=HOSTILE[name]))
    written = [cli("send", "--ledger", "l", "--results", "-", path).out]
    cli("send", "--ledger", "l", "--results", "r.jsonl", path)
    written += [Path("r.jsonl").read_text("utf-8"), cli("ledger", "export", "l").out]
    lines = []
    for text in written:
        line, end = text.split("\n")
        assert (line.isprintable(), end) == (True, "")
        lines.append(json.loads(line))
    # A ledger keeps such an id as a digest.
    assert [lines[0]["key"], lines[1]["key"]] == [HOSTILE[name]] * 2


def test_what_a_run_writes_is_for_nobody_else(cli: Cli, shop: Sandbox) -> None:
    """And the report's temporary file has no name that somebody could have planted a link under."""
    pytest.importorskip("plotly")
    Path("treasure").write_text("treasure")
    Path(f".r.html.{os.getpid()}.part").symlink_to("treasure")
    files = ("--ledger", "l", "--results", "r.jsonl", "--report", "r.html")
    before = os.umask(0)
    try:
        assert cli("send", *files, cli.write(order(1))).code == 0
    finally:
        os.umask(before)
    for name in ("l", "r.jsonl", "r.html"):
        assert stat.S_IMODE(Path(name).lstat().st_mode) == 0o600, name
    assert Path("treasure").read_text() == "treasure"


# --------------------------------------------------------------------------------------- options


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


# ---------------------------------------------------------------------------------------- faults


def test_wrong_hashes_stop_the_batch(cli: Cli, shop: Sandbox) -> None:
    cli.use(shop.base_url, "another-hash")
    run = cli(*SEND, "--results", "r", cli.write(*map(order, range(300))))
    assert (run.code, shop.processed) == (1, 0)
    assert shop.requests <= 32
    assert "Error: the batch was stopped: the endpoint refused the hashes (401)" in run.err
    assert re.search(r"^Nothing after line [0-9]+ of .* was read\.$", run.err, re.MULTILINE)
    results = read_results("r")
    assert {each["outcome"] for each in results} == {"not_sent"}
    assert len(results) < 300


def test_wrong_hashes_stop_the_batch_while_the_input_goes_on(cli: Cli, shop: Sandbox) -> None:
    cli.use(shop.base_url, "another-hash")
    reading, writing = os.pipe()
    os.write(writing, to_lines(order(1)).encode())
    run = cli(*SEND, "-", stdin=reading)  # it ends with the input still open
    os.close(reading)
    os.close(writing)
    assert run.code == 1
    assert "refused the hashes" in run.err


def test_a_refused_connection_names_the_host(cli: Cli, closed_port: int) -> None:
    cli.use(f"http://127.0.0.1:{closed_port}")
    run = cli(*SEND, "--retries", "1", cli.write(*map(order, range(100))))
    assert run.code == 1
    assert f"Error: the batch was stopped: 127.0.0.1:{closed_port} could not be reached" in run.err
    assert re.search(r"^  not sent +[0-9]+  ", run.out, re.MULTILINE)


def test_an_endpoint_that_answers_html_is_probably_another(cli: Cli, endpoint: Endpoint) -> None:
    run = cli(*SEND, cli.write(order("h1")))
    assert run.code == 3
    assert "base_url is probably not the address of the install" in run.out


# ------------------------------------------------------------------ an output that can't be written


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch, cli: Cli) -> Any:
    """Make the standard output a disk that is full."""

    def fill() -> None:
        monkeypatch.setattr(sys, "stdout", full)

    full: IO[str] = Path("/dev/full").open("w", encoding="utf-8")  # noqa: SIM115 - closed below
    yield fill
    monkeypatch.undo()
    full.close()


@pytest.mark.parametrize("results", ["/dev/full", "-"])
def test_nothing_more_is_sent_once_results_cannot_be_written(
    cli: Cli, shop: Sandbox, full: Callable[[], None], results: str
) -> None:
    if results == "-":
        full()
    run = cli(*SEND, "--results", results, cli.write(*map(order, range(500))))
    assert run.code == 1
    assert f"Error: the results can't be written any more: {NO_SPACE}" in run.err
    assert shop.processed < 200
    sent = re.search(r"^  sent +([0-9,]+)", run.out + run.err, re.MULTILINE)
    assert sent is not None
    assert int(sent[1]) == shop.processed


@pytest.mark.parametrize("results", [[], ["--results", "r.jsonl"]], ids=["plain", "results"])
def test_a_summary_that_cannot_be_written_goes_to_the_standard_error(
    cli: Cli, shop: Sandbox, results: list[str], full: Callable[[], None]
) -> None:
    path = cli.write(*map(order, range(20)))
    full()
    run = cli(*SEND, *results, path)
    assert (run.code, shop.processed) == (1, 20)
    assert run.err.startswith(f"20 orders from {path} to 127.0.0.1:")
    assert "  sent      20  accepted by the endpoint\n" in run.err
    assert run.err.endswith(
        f"Error: the standard output can't be written: {NO_SPACE}. The orders are as "
        "the summary above says.\n"
    )
    assert "again" not in run.err


@pytest.mark.parametrize(
    ("command", "code", "error"),
    [
        (["check", "--no-ledger", "orders.jsonl"], 1, "the standard output can't be written"),
        (["ledger", "export", "l"], 2, "the output can't be written"),
    ],
)
def test_a_check_or_an_export_that_cannot_be_written_is_an_error(
    cli: Cli,
    shop: Sandbox,
    full: Callable[[], None],
    command: list[str],
    code: int,
    error: str,
) -> None:
    cli("send", "--ledger", "l", cli.write(order(1)))
    full()
    run = cli(*command)
    assert run.code == code
    assert f"Error: {error}: {NO_SPACE}" in run.err
    assert ("  valid     1  " in run.err) == ("check" in command)


def test_a_reader_of_the_output_that_leaves_is_no_error(
    cli: Cli, shop: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as gone:  # noqa: PTH123 - no path
        monkeypatch.setattr(sys, "stdout", gone)
        run = cli(*SEND, cli.write(*map(order, range(20))))
        monkeypatch.undo()
    assert (run.code, run.err, shop.processed) == (0, "", 20)


class _Broken:
    """A standard output that fails as nobody foresaw."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return False

    def write(self, _text: str) -> int:
        raise RuntimeError("ann@example.com")

    def flush(self) -> None:
        pass


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        (["--no-ledger"], "sending all of it again may notify customers twice."),
        (
            ["--no-ledger", "--results", "r.jsonl"],
            "and r.jsonl says which: sending all of it again may notify",
        ),
        (["--ledger", "l"], "Run it again with the same ledger (l): it knows which."),
        (["--sandbox"], "Run it again with --debug to see where."),
    ],
    ids=["plain", "results", "ledger", "sandbox"],
)
def test_after_an_unforeseen_error_nobody_is_invited_to_send_all_again(
    cli: Cli, shop: Sandbox, monkeypatch: pytest.MonkeyPatch, options: list[str], advice: str
) -> None:
    monkeypatch.setattr(sys, "stdout", _Broken())  # for the summary, when all were sent
    run = cli("send", *options, cli.write(*map(order, range(20))))
    assert (run.code, shop.processed) == (2, 0 if "--sandbox" in options else 20)
    assert "Error: an unexpected RuntimeError. " in run.err
    assert advice in run.err
    assert ("--debug" in run.err) == ("--sandbox" in options)
    assert "ann@" not in run.err


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
