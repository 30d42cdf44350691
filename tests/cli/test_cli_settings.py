"""The address and the hashes: from the environment or a file, and never anywhere else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from command_line import SEND, Cli

from everlytic_async.cli._settings import Settings
from everlytic_async.errors import ConfigurationError
from everlytic_async.ledger._sqlite import SqliteWriter
from everlytic_async.sandbox import Sandbox
from support.delivery import order
from support.sandboxes import CUSTOMER_HASH, STORE_HASH

OWN, LOCAL, NAMED = "home/.config/everlytic-async/everlytic.toml", "everlytic.toml", "named.toml"
SETTINGS = ("base_url", "store_hash", "customer_hash")


def write(place: str, text: str) -> Path:
    path = Path(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8", errors="surrogateescape")
    return path


def toml(base_url: str, table: str = "everlytic") -> str:
    return (
        f'[{table}]\nbase_url = "{base_url}"\nstore_hash = "{STORE_HASH}"\n'
        f'customer_hash = "{CUSTOMER_HASH}"\n'
    )


def account(name: str, missing: str = "") -> str:
    """The table of an account whose three settings say where they come from."""
    lines = [f'{key} = "{name}-{key}"' for key in SETTINGS if key != missing]
    return "[everlytic]\n" + "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("environment", "files", "config", "expected"),
    [
        # A complete environment wins, even over --config.
        (SETTINGS, [OWN, LOCAL, NAMED], NAMED, "env"),
        (SETTINGS, [OWN, LOCAL], None, "env"),
        (SETTINGS, [LOCAL], "none", "env"),
        # An incomplete one counts for nothing: never an address from here and hashes from there.
        (SETTINGS[:1], [OWN, LOCAL, NAMED], NAMED, NAMED),
        (SETTINGS[:1], [OWN, LOCAL], None, OWN),
        (SETTINGS[:1], [LOCAL], None, LOCAL),
        (SETTINGS[1:], [LOCAL], None, LOCAL),
        # --config names the only file; else the user's own comes before the directory's.
        ((), [OWN, LOCAL, NAMED], NAMED, NAMED),
        ((), [OWN, LOCAL], None, OWN),
        ((), [LOCAL], None, LOCAL),
        ((), [OWN, LOCAL], "none", None),
        (SETTINGS[:1], [OWN, LOCAL], "none", None),
        ((), [], None, None),
    ],
)
def test_the_address_and_both_hashes_come_from_one_place(
    cli: Cli, environment: tuple[str, ...], files: list[str], config: str | None, expected: str
) -> None:
    cli.env(**{f"EVERLYTIC_{name.upper()}": f"env-{name}" for name in environment})
    for place in files:
        write(place, account(place))
    if expected is None:
        with pytest.raises(ConfigurationError):
            Settings(config).account()
        return
    found = Settings(config).account()
    assert [found.base_url, found.store_hash, found.customer_hash] == [
        f"{expected}-{key}" for key in SETTINGS
    ]
    assert found.origin.endswith("the environment" if expected == "env" else expected)


@pytest.mark.parametrize("place", [OWN, LOCAL, NAMED])
@pytest.mark.parametrize("missing", SETTINGS)
def test_what_a_table_lacks_does_not_come_from_elsewhere(
    cli: Cli, place: str, missing: str
) -> None:
    cli.env(**{f"EVERLYTIC_{missing.upper()}": "from-the-environment"})
    write(place, account("file", missing))
    with pytest.raises(ConfigurationError, match=f"no {missing} in .* from one place together"):
        Settings(NAMED if place == NAMED else None).account()


@pytest.mark.parametrize(
    ("files", "config", "environment", "tables"),
    [
        ({LOCAL: account("a") + "[mapping]\n"}, None, False, "[everlytic], [mapping]"),
        ({LOCAL: account("a") + "[mapping]\n"}, None, True, "[mapping]"),
        ({LOCAL: account("a") + 'ledger = "l"\n'}, None, True, "[everlytic]"),
        ({LOCAL: account("a")}, None, True, None),
        ({LOCAL: account("a"), OWN: account("b")}, None, False, None),
        # A table is looked for by itself: the user's own file has no mapping.
        ({LOCAL: account("a") + "[mapping]\n", OWN: account("b")}, None, False, "[mapping]"),
        ({LOCAL: account("a") + "[mapping]\n"}, "none", False, None),
        ({LOCAL: account("a") + "[mapping]\n"}, LOCAL, False, None),
    ],
)
def test_the_first_line_names_an_implicit_file_and_its_tables(
    cli: Cli, files: dict[str, str], config: str | None, environment: bool, tables: str | None
) -> None:
    for place, text in files.items():
        write(place, text)
    if environment:
        cli.use("x", "x", "x")
    options = [] if config is None else ["--config", config]
    run = cli("send", "--dry-run", *options, cli.write(order(1)))
    first = run.err.split("\n")[0]
    line = f"Settings: {tables} from ./everlytic.toml in this directory (--config none ignores it)"
    assert first == line if tables is not None else "Settings:" not in run.err


@pytest.mark.parametrize("place", [OWN, LOCAL, NAMED])
@pytest.mark.parametrize("mode", [0o666, 0o620, 0o602, 0o640, 0o644, 0o600])
def test_a_file_that_others_can_write_is_refused(cli: Cli, place: str, mode: int) -> None:
    assert cli
    write(place, account("file")).chmod(mode)
    config = place if place == NAMED else None
    if mode & 0o022:
        with pytest.raises(ConfigurationError, match=r"can be written by others .* chmod 600"):
            Settings(config).account()
    else:
        assert Settings(config).account().base_url == "file-base_url"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(cli: Cli) -> None:
    assert cli
    os.chown(write(LOCAL, account("file")), 12345, -1)
    with pytest.raises(ConfigurationError, match="belong to another user"):
        Settings(None).account()


def test_a_complete_account_in_its_place_is_used_and_read_once(cli: Cli, sandbox: Sandbox) -> None:
    """So that it may be a pipe, as in ``--config <(pass show everlytic)``."""
    text = toml(sandbox.base_url) + '[mapping]\norder_id = "order_id"\n'
    write("a!b.toml", f"\ufeff{text}")
    write(OWN, text)
    reading, writing = os.pipe()
    os.write(writing, text.encode())
    os.close(writing)
    for options in ((), ("--config", "a!b.toml"), ("--config", f"/dev/fd/{reading}")):
        run = cli(*SEND, *options, cli.write(order(1)))
        assert (run.code, run.err) == (0, "")
    os.close(reading)
    assert sandbox.processed == 3


def test_all_that_is_missing_is_named_with_where_to_set_it(cli: Cli) -> None:
    cli.env(EVERLYTIC_CUSTOMER_HASH=" ")
    run = cli("send", cli.write(order(1)))
    assert run.code == 2
    for words in (
        "no base_url, no store_hash, no customer_hash",
        " (customer_hash: set in the environment, but blank)",
        "EVERLYTIC_BASE_URL, EVERLYTIC_STORE_HASH, EVERLYTIC_CUSTOMER_HASH",
        "[everlytic]",
        "everlytic.toml",
        "--sandbox",
    ):
        assert words in run.err
    cli.use("https://shop.example", "x", " ")
    run = cli("send", cli.write(order(1)))
    assert (run.code, run.err.startswith("Error: no customer_hash (")) == (2, True)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "[everlytic]\n\nbase_url = https://shop.example\n",
            "is not TOML: Invalid value (at line 3, column 12)",
        ),
        (f"[everlytic]\nstore_hash = '{STORE_HASH}", "at line 2"),
        (f"[everlytic]\nstore_hash = '{STORE_HASH}\n", "at line 2"),
        (f"[everlytic]\nstore_hash = {STORE_HASH}\n", "at line 2, column "),
        (f"[everlytic]\nx = {{'{STORE_HASH}'=1, '{STORE_HASH}'=1}}\n", "at line 2, column "),
        (f"['{STORE_HASH}']\n['{STORE_HASH}']\n", "at line 2, column "),
        ("[everlytic]\nbase_url = 1\nbase_url = 2\n", "at line 3, column "),
        ("[everlytic]\nbase_url = '\udce9'\n", ", line 2: it is not UTF-8"),
        (toml("https://shop.example", table="everlitic"), "has no table [everlytic]"),
        (f"everlytic = '{STORE_HASH}'", "has no table [everlytic]"),
        ("[mapping]\n[more]\n", "has more than the tables [everlytic], "),
        (toml("https://shop.example") + "rate = 5", "what is not a setting: rate"),
        ("[everlytic]\nstore_hash = 5707", "store_hash must be text, in quotes"),
        (f"[everlytic]\nstore_hash = ['{STORE_HASH}']", "store_hash must be text, in quotes"),
        (toml("https://shop.example") + "ledger = 5", "ledger"),
        (f"[mapping]\nproduct_price = {'9' * 5000}", "a number in it is too long"),
        ("[mapping]\nproduct_price = 1e9999999999999999999", "a number in it is too long"),
        (f"[mapping]\nproducts = {'[' * 3000}", "it is nested too deeply"),
        (None, "can't be read: No such file or directory"),
        # What the client and the sources say of a setting names the file, too.
        (
            toml("https://shop.example").replace(STORE_HASH, "two words"),
            "Error: store_hash in named.toml holds a space",
        ),
        (toml("shop.example"), "Error: base_url in named.toml must be a whole URL"),
        ('[mapping]\ncolour = "x"\n', "Error: [mapping] of named.toml: "),
        ('[mapping]\norder_id = "{x"\n', "Error: [mapping] of named.toml: order_id"),
    ],
)
@pytest.mark.parametrize("command", ["send", "check"])
def test_a_wrong_file_is_an_error_without_its_hashes(
    cli: Cli, text: str | None, error: str, command: str
) -> None:
    if text is not None:
        write(NAMED, text)
    if "[mapping]" in str(text):
        cli.use("https://shop.example")
    with SqliteWriter("l"):  # a check asks it for the account's orders
        pass
    options = ("--debug", "--config", NAMED, "--ledger", "l", "--results", "r.jsonl")
    run = cli(command, *options, cli.write(order(1)))
    assert (run.code, run.out) == (2, "")
    assert error in run.err
    assert NAMED in run.err
    assert STORE_HASH not in run.err
    assert "EVERLYTIC_" not in run.err
    assert not Path("r.jsonl").exists()


def test_plain_http_is_for_this_machine_unless_allowed(cli: Cli) -> None:
    cli.use("http://shop.invalid")
    refused = cli(*SEND, cli.write(order(1)))
    allowed = cli(*SEND, "--allow-http", "--retries", "0", cli.write(order(1)))
    assert refused.code == 2
    assert "--allow-http" in refused.err
    assert allowed.code == 1
    assert "shop.invalid" in allowed.out
