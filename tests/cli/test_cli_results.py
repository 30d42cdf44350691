"""What a run writes: results, the summary, the page's file; and where it can't."""

from __future__ import annotations

import io
import json
import os
import re
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
from command_line import SEND, Cli, read_results, to_lines, until

from everlytic_async.sandbox import Sandbox
from support.delivery import order
from support.hostile_text import HOSTILE

NO_SPACE = "No space left on device"


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


@pytest.mark.parametrize("results", ["r.jsonl", "-"])
def test_each_result_is_written_as_it_comes(
    cli: Cli, shop: Sandbox, monkeypatch: pytest.MonkeyPatch, results: str
) -> None:
    reading, writing = os.pipe()
    os.write(writing, to_lines(order(1)).encode())

    def close_when_written() -> None:
        try:
            until(lambda: Path("r.jsonl").read_text().endswith("\n"))
        finally:
            os.close(writing)

    thread = threading.Thread(target=close_when_written)  # the input ends only then
    with Path("r.jsonl").open("w") as output:
        thread.start()
        if results == "-":
            monkeypatch.setattr(sys, "stdout", output)
        run = cli(*SEND, "--results", results, "-", stdin=reading)
    thread.join()
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
        ("no\udcffne", "no\ufffdne can't be read: No such file"),  # not UTF-8
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


def test_the_name_of_a_file_may_be_no_utf_8(cli: Cli, shop: Sandbox) -> None:
    send = ("send", "--ledger", "l\udcff", "--results", "r\udcff", cli.write(order(1)))
    assert "l\ufffd" in cli(*send).err
    assert "Error: r\ufffd holds the results of an earlier run" in cli(*send).err
    assert "l\ufffd" in cli("ledger", "status", "l\udcff").out
    assert "copied to m\ufffd" in cli("ledger", "copy", "l\udcff", "m\udcff").out
    assert "Error: o\ufffd can't be read" in cli("check", "--suggest", "o\udcff").err


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


@pytest.mark.parametrize("command", [("send",), ("send", "--dry-run")], ids=" ".join)
@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("-", "not the standard output"),
        ("missing/run.html", "No such file or directory"),
        (".", "is a directory"),
        ("/dev/null", "it is not a regular file"),
        ("new", "--report names the same file as --results"),
        ("./new", "--report names the same file as --results"),
        ("link", "--report names the same file as --results"),
        ("orders.jsonl", "another file is there, not a report"),
        ("hard.jsonl", "another file is there, not a report"),
        ("page.html", "another file is there, not a report"),
        ("ledger", "--report names a file of the ledger"),  # which the run will create
    ],
)
def test_a_place_where_no_page_can_be_is_refused_at_once(
    cli: Cli, shop: Sandbox, name: str, error: str, command: tuple[str, ...]
) -> None:
    Path("orders.jsonl").write_text("{}")
    Path("page.html").write_text("<!DOCTYPE html>\n<html>")
    Path("link").symlink_to("new")
    Path("hard.jsonl").hardlink_to("orders.jsonl")
    files = ("--ledger", "ledger", "--results", "new", "--report", name, "orders.jsonl")
    run = cli(*command, *files)
    assert (run.code, run.out, shop.requests) == (2, "", 0)
    assert error in run.err
    assert not Path("new").exists()


@pytest.mark.parametrize("missing", ["plotly.io", "jinja2"])
def test_without_its_libraries_it_says_what_to_install_before_anything_is_sent(
    cli: Cli, shop: Sandbox, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    Path("o.jsonl").write_text('{"contact_email": "a@example.com", "products": [{}]}\n')
    monkeypatch.setitem(sys.modules, missing, None)
    run = cli("send", "--ledger", "l", "--report", "r.html", "o.jsonl")
    assert (run.code, run.out, shop.requests, Path("l").exists()) == (2, "", 0, False)
    assert "pip install 'everlytic-async[report]'" in run.err


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


FULL = f"the standard output can't be written: {NO_SPACE}"
SENT = "  sent      1  accepted by the endpoint\n"


@pytest.mark.parametrize(
    ("command", "code", "error", "summary"),
    [
        *(
            ([*SEND, *results, "orders.jsonl"], 1, f"{FULL}. The orders are as the summary", SENT)
            for results in ([], ["--results", "r.jsonl"])
        ),
        (["check", "--no-ledger", "orders.jsonl"], 1, FULL, "  valid     1  ready"),
        (["ledger", "export", "l"], 2, f"the output can't be written: {NO_SPACE}", None),
    ],
)
def test_an_output_that_cannot_be_written_is_an_error_and_the_summary_goes_to_the_other(  # noqa: PLR0917
    cli: Cli,
    shop: Sandbox,
    full: Callable[[], None],
    command: list[str],
    code: int,
    error: str,
    summary: str | None,
) -> None:
    cli("send", "--ledger", "l", cli.write(order(1)))
    full()
    run = cli(*command)
    assert run.code == code
    assert f"Error: {error}" in run.err
    assert run.err.startswith("1 order ") == (summary is not None)
    assert (summary or "") in run.err
    assert "again" not in run.err
    assert shop.processed == (2 if "send" in command else 1)


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


class _Broken(io.StringIO):
    """A standard output that fails as nobody foresaw."""

    def write(self, _text: str) -> int:
        raise RuntimeError("ann@example.com")


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
