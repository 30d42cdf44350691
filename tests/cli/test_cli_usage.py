"""The help, what the shell completes, and errors in a line."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import click
import pytest
from click.shell_completion import BashComplete
from command_line import Cli

import everlytic_async
from everlytic_async.cli._commands import app
from everlytic_async.cli._exit import handle_errors
from everlytic_async.sandbox import Sandbox
from support.delivery import order
from support.processes import run_python

COMMAND_PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "command.md"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("doc", ["doctor"]),
        ("send --del", ["--delivery"]),
        ("send --delivery at-l", ["at-least-once"]),
        ("check --format shopify-", ["shopify-graphql", "shopify-csv"]),
        ("check --include v", ["voided"]),
        ("ledger re", ["resolve"]),
        ("queue s", ["status"]),
    ],
)
def test_the_shell_completes_commands_options_and_values(line: str, expected: list[str]) -> None:
    *words, incomplete = line.split()
    shell = BashComplete(app, {}, "everlytic-async", "_EVERLYTIC_ASYNC_COMPLETE")
    assert [each.value for each in shell.get_completions(words, incomplete)] == expected


def test_bash_completes_as_the_docs_set_it_up() -> None:
    line = """eval "$(_EVERLYTIC_ASYNC_COMPLETE=bash_source everlytic-async)\""""
    assert f"`{line}`" in COMMAND_PAGE.read_text("utf-8")
    script = f"""
        export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"
        {line}
        COMP_WORDS=(everlytic-async send --del); COMP_CWORD=2
        _everlytic_async_completion everlytic-async
        printf '%s\n' "${{COMPREPLY[@]}}"
        complete -p everlytic-async
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    reply, registered = done.stdout.splitlines()
    assert reply == "--delivery"
    assert registered.endswith("_everlytic_async_completion everlytic-async")


def all_commands() -> dict[str, click.Command]:
    groups = {name: each for name, each in app.commands.items() if hasattr(each, "commands")}
    inner = {
        f"{name} {command}": each
        for name, group in groups.items()
        for command, each in group.commands.items()
    }
    return {"": app, **app.commands, **inner}


@pytest.mark.parametrize("name", all_commands())
def test_help_lists_and_explains_every_option_with_examples(cli: Cli, name: str) -> None:
    run = cli(*name.split(), "--help")
    assert (run.code, run.err) == (0, "")
    command = all_commands()[name]
    options = [
        param
        for param in command.get_params(click.Context(command))
        if isinstance(param, click.Option)
    ]
    assert [option.name for option in options if not option.help] == []
    assert [opt for option in options for opt in option.opts if opt not in run.out] == []
    assert "everlytic-async" in run.out
    # Examples and lists are not broken on a terminal of 80 columns.
    lines = (command.help or "").split("\n")
    assert [line for line in lines if line.startswith("    ") and len(line) > 76] == []
    if name:
        assert "Examples:" in run.out
        assert "Exit codes:" in run.out
    if name in ("", "send"):
        for variable in ("EVERLYTIC_BASE_URL", "EVERLYTIC_STORE_HASH", "EVERLYTIC_CUSTOMER_HASH"):
            assert variable in run.out
    if not name:
        shown = re.findall(r"^│ ([a-z]+) ", run.out, re.MULTILINE)
        assert " ".join(shown) == "send check ledger doctor sandbox enqueue worker queue"


def test_help_loads_nothing_that_it_does_not_need() -> None:
    script = (
        "import sys\nsys.argv = ['everlytic-async', '--help']\n"
        "from everlytic_async.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'aiohttp', 'asyncio', 'attrs', 'rich.progress'}\n"
        "own = {f'everlytic_async.{name}' for name in ('client', 'orders', 'sandbox', 'sources')}\n"
        "print(sorted((heavy | own) & set(sys.modules)))\n"
    )
    assert run_python("-c", script).endswith("\n[]\n")


def test_the_version_is_shown(cli: Cli) -> None:
    run = cli("--version")
    expected = f"everlytic-async {version('everlytic-async')}\n"
    assert (run.code, run.out, run.err) == (0, expected, "")


OF_SEND = {
    "--rate nan": "'--rate'",
    "--rate inf": "'--rate'",
    "--rate abc": "'abc' is not a valid number.",
    "--limit abc": "'abc' is not a valid whole number.",
    "--concurrency 65536": "'--concurrency'",
    "--workflow-id 0": "'--workflow-id'",
    f"--workflow-id {2**63}": "'--workflow-id'",
    "--workflow-id 32.0": "'--workflow-id'",
    "--delivery twice": "'--delivery'",
    "--resend sent": "'--resend'",
    **dict.fromkeys(("--store-hash x", "--customer-hash x", "--base-url x"), "No such option"),
    # Only the values of an option may be written as in the library: at_most_once.
    **{name: f"No such option '{name}'" for name in ("--dry_run", "--no_ledger", "--foo_bar")},
    "--to nobody": "--to: contact_email",
    "--to a@example.com,b@example.com": "--to: contact_email",
    "--to a@example.com --ledger l": "--ledger and --to contradict each other",
    "--to a@example.com --resend unknown": "--resend and --to contradict each other",
    "--no-ledger --json --results -": "both want the standard output",
    "--ledger l --no-ledger": "--ledger and --no-ledger contradict each other",
    "--sandbox --ledger l": "--ledger and --sandbox contradict each other",
    "--sandbox --resend unknown": "--resend and --sandbox contradict",
    "--no-ledger --resend unknown": "--resend and --no-ledger contradict",
    "--no-ledger --durability power": "--durability and --no-ledger contradict",
    "--no-ledger --append-results": "--append-results needs --results FILE",
}
OF_READING = {
    "--format xml": "there is no format 'xml'",
    "--include nice": "there is no 'nice'",
    # It would do nothing: nothing is left out of another input than a shop's.
    "--include cancelled": "include is about the orders of a shop's export",
    "--since yesterday": "since: expected a date or a time",
    "--map order_id": "expected FIELD=PATH",
    "--map order_nr=Nr": "did you mean order_id?",
    "--map order_id=a --map order_id=b": "mapped more than once",
}
WHICH = "say which dead letters"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        *((f"send {options} orders.jsonl", error) for options, error in OF_SEND.items()),
        *(
            (f"{command} {options} orders.jsonl", error)
            for options, error in OF_READING.items()
            for command in ("check", "send --sandbox")
        ),
        ("send", "Missing argument"),
        ("sent x", "No such command"),
        ("check --sandbox x", "No such option"),
        ("ledger state x", "No such command"),
        ("ledger export --state lost x", "'--state'"),
        *(
            (f"ledger {command} l", "there is no ledger at ")
            for command in ("status", "export", "resolve --sent --all", "copy --accept-loss none")
        ),
        ("ledger resolve l 2001", "either --sent or --send-again"),
        ("ledger resolve l --sent --send-again 2001", "either --sent or --send-again"),
        ("ledger resolve l --sent", "--all; a key that starts with # needs quotes: '#1051'"),
        ("ledger resolve l --sent --all 2001", "say which orders: their keys, or --all"),
        ("queue redrive abc", "'abc' is not a valid whole number."),
        *((f"queue {command}", WHICH) for command in ("redrive", "drop", "redrive 1 --all")),
        ("queue drop 1 --outcome unknown", "--outcome is for --all"),
        ("enqueue --nats nats://me:t0ken@127.0.0.1 orders.jsonl", "set EVERLYTIC_NATS_URL instead"),
        ("sandbox --rate inf", "'--rate'"),
        ("sandbox --throttled nan", "'--throttled'"),
        ("sandbox --throttled 1.5", "'--throttled'"),
        ("sandbox --port 99999", "'--port'"),
        ("sandbox --throttled 0.7 --server-error 0.7", "must be at most 1 together"),
        *(
            (f"worker --health {where}", "--health wants HOST:PORT")
            for where in ("9090", "localhost:http", ":70000")
        ),
        ("worker --durability power", "--durability is for a ledger in a file"),
    ],
)
def test_what_cannot_be_meant_is_an_error_and_nothing_is_done(
    cli: Cli, shop: Sandbox, words: str, error: str
) -> None:
    cli.write(order(1))
    run = cli(*words.split())
    assert (run.code, run.out, shop.requests) == (2, "", 0)
    assert "Error" in run.err
    assert "t0ken" not in run.err
    assert re.sub(r"[\s│]+", " ", error) in re.sub(r"[\s│]+", " ", run.err)
    assert [each.name for each in cli.directory.iterdir()] == ["orders.jsonl"]


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "everlytic_async").symlink_to(Path(everlytic_async.__file__).parent)
    # -S: no site-packages, and so nothing but the standard library and the package itself.
    command = [sys.executable, "-S", "-m", "everlytic_async", "--help"]
    environment = {"PATH": os.environ["PATH"]}
    run = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert "pip install 'everlytic-async[cli]'" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("debug", [False, True])
def test_an_unforeseen_error_is_a_line_and_a_traceback_only_with_debug(
    capsys: pytest.CaptureFixture[str], debug: bool
) -> None:
    def command() -> int:
        raise KeyError("ann@example.com")

    with pytest.raises(SystemExit) as left:
        handle_errors(command, debug=debug)
    assert left.value.code == 2  # not 1: `until` would repeat it for ever
    err = capsys.readouterr().err
    assert "Error: an unexpected KeyError." in err
    assert ("--debug" in err) is not debug
    assert ("Traceback" in err) is debug
    assert ("ann@example.com" in err) is debug
