"""The address and the hashes: from the environment or a file, and never anywhere else."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import CUSTOMER_HASH, SEND, STORE_HASH, Here, Program, box, order

from everlytic_async import ConfigurationError
from everlytic_async.cli._settings import load_account
from everlytic_async.sandbox import Sandbox

Write = Callable[..., Path]


def toml(base_url: str, store_hash: str = STORE_HASH, table: str = "everlytic") -> str:
    return (
        f'[{table}]\nbase_url = "{base_url}"\nstore_hash = "{store_hash}"\n'
        f'customer_hash = "{CUSTOMER_HASH}"\n'
    )


OWN, LOCAL, NAMED = "home/.config/everlytic-async/everlytic.toml", "everlytic.toml", "named.toml"


def write(here: Here, place: str, text: str) -> Path:
    path = here.directory / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def account(name: str, **without: None) -> str:
    """The table of an account whose three settings tell where they come from."""
    settings = {key: f"{name}-{key}" for key in ("base_url", "store_hash", "customer_hash")}
    lines = [f'{key} = "{value}"' for key, value in settings.items() if key not in without]
    return "[everlytic]\n" + "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("environment", "files", "config", "expected"),
    [
        # A complete environment wins, even over --config.
        ("all", [OWN, LOCAL, NAMED], NAMED, "env"),
        ("all", [OWN, LOCAL], None, "env"),
        ("all", [LOCAL], "none", "env"),
        # An incomplete one counts for nothing: never an address from here and hashes from there.
        ("some", [OWN, LOCAL, NAMED], NAMED, NAMED),
        ("some", [OWN, LOCAL], None, OWN),
        ("some", [LOCAL], None, LOCAL),
        ("hashes", [LOCAL], None, LOCAL),
        # --config names the only file; else the user's own comes before the directory's.
        ("none", [OWN, LOCAL, NAMED], NAMED, NAMED),
        ("none", [OWN, LOCAL], None, OWN),
        ("none", [LOCAL], None, LOCAL),
        ("none", [OWN, LOCAL], "none", None),
        ("some", [OWN, LOCAL], "none", None),
        ("none", [], None, None),
    ],
)
def test_the_address_and_both_hashes_come_from_one_place(
    here: Here,
    monkeypatch: pytest.MonkeyPatch,
    environment: str,
    files: list[str],
    config: str | None,
    expected: str | None,
) -> None:
    names = {"all": ["BASE_URL", "STORE_HASH", "CUSTOMER_HASH"], "some": ["BASE_URL"], "none": []}
    for name in names.get(environment, ["STORE_HASH", "CUSTOMER_HASH"]):
        monkeypatch.setenv(f"EVERLYTIC_{name}", f"env-{name.lower()}")
    for place in files:
        write(here, place, account(place))
    if expected is None:
        with pytest.raises(ConfigurationError):
            load_account(config)
        return
    found = load_account(config)
    assert [found.base_url, found.store_hash, found.customer_hash] == [
        f"{expected}-{key}" for key in ("base_url", "store_hash", "customer_hash")
    ]
    assert found.origin.endswith("the environment" if expected == "env" else expected)


@pytest.mark.parametrize("place", [OWN, LOCAL, NAMED])
@pytest.mark.parametrize("missing", ["base_url", "store_hash", "customer_hash"])
def test_what_a_table_lacks_does_not_come_from_elsewhere(
    here: Here, monkeypatch: pytest.MonkeyPatch, place: str, missing: str
) -> None:
    monkeypatch.setenv(f"EVERLYTIC_{missing.upper()}", "from-the-environment")
    write(here, place, account("file", **{missing: None}))
    with pytest.raises(ConfigurationError, match=f"no {missing} in .* from one place together"):
        load_account(NAMED if place == NAMED else None)


async def test_a_file_in_the_directory_does_not_get_the_hashes_of_the_environment(
    program: Program, sandbox: Sandbox, orders_file: Write
) -> None:
    """As it comes with somebody's export: its own address, and a mapping."""
    (program.directory / LOCAL).write_text(
        f'[everlytic]\nbase_url = "{sandbox.base_url}"\n[mapping]\ncontact_email = "thief"\n'
    )
    hashes = {"EVERLYTIC_STORE_HASH": STORE_HASH, "EVERLYTIC_CUSTOMER_HASH": CUSTOMER_HASH}
    run = await program.told(**hashes).run("send", "--no-ledger", orders_file(order(1)))
    assert (run.code, sandbox.requests) == (2, 0)
    first = run.err.splitlines()[0]
    assert first == (
        "Settings: [everlytic], [mapping] from ./everlytic.toml in this directory "
        "(--config none ignores it)"
    )


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
def test_what_an_implicit_file_decides_is_said_first(  # noqa: PLR0917
    here: Here,
    monkeypatch: pytest.MonkeyPatch,
    orders_file: Write,
    files: dict[str, str],
    config: str | None,
    environment: bool,
    tables: str | None,
) -> None:
    for place, text in files.items():
        write(here, place, text)
    if environment:
        for name in ("BASE_URL", "STORE_HASH", "CUSTOMER_HASH"):
            monkeypatch.setenv(f"EVERLYTIC_{name}", "x")
    options = [] if config is None else ["--config", config]
    run = here("send", "--dry-run", *options, orders_file(order(1)))
    first = run.err.split("\n")[0]
    said = f"Settings: {tables} from ./everlytic.toml in this directory (--config none ignores it)"
    assert first == said if tables is not None else "Settings:" not in run.err


@pytest.mark.parametrize("place", [OWN, LOCAL, NAMED])
@pytest.mark.parametrize("mode", [0o666, 0o620, 0o602, 0o640, 0o644, 0o600])
def test_a_file_that_others_can_write_is_refused(here: Here, place: str, mode: int) -> None:
    path = write(here, place, account("file"))
    path.chmod(mode)
    config = place if place == NAMED else None
    if mode & 0o022:
        with pytest.raises(ConfigurationError, match=r"can be written by others .* chmod 600"):
            load_account(config)
    else:
        assert load_account(config).base_url == "file-base_url"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(here: Here) -> None:
    os.chown(write(here, LOCAL, account("file")), 12345, -1)
    with pytest.raises(ConfigurationError, match="belong to another user"):
        load_account(None)


async def test_a_complete_account_in_its_place_is_sent_with(
    program: Program, sandbox: Sandbox, orders_file: Write
) -> None:
    named = program.directory / "a!b.toml"
    named.write_text("\ufeff" + toml(sandbox.base_url), encoding="utf-8")
    own = program.directory / OWN
    own.parent.mkdir(parents=True)
    own.write_text(toml(sandbox.base_url))
    send = ("send", "--no-ledger", orders_file(order(1)))
    for options in ((), ("--config", named)):
        run = await program.run(*send, *options)
        assert (run.code, run.err) == (0, "")
    assert sandbox.processed == 2


def test_all_that_is_missing_is_named_with_where_to_set_it(
    here: Here, monkeypatch: pytest.MonkeyPatch, orders_file: Write
) -> None:
    monkeypatch.setenv("EVERLYTIC_CUSTOMER_HASH", " ")
    run = here("send", orders_file(order(1)))
    assert run.code == 2
    for told in (
        "no base_url, no store_hash, no customer_hash",
        " (customer_hash: set in the environment, but blank)",
        "EVERLYTIC_BASE_URL, EVERLYTIC_STORE_HASH, EVERLYTIC_CUSTOMER_HASH",
        "[everlytic]",
        "everlytic.toml",
        "--sandbox",
    ):
        assert told in run.err
    monkeypatch.setenv("EVERLYTIC_BASE_URL", "https://shop.example")
    monkeypatch.setenv("EVERLYTIC_STORE_HASH", "x")
    run = here("send", orders_file(order(1)))
    assert (run.code, run.err.startswith("Error: no customer_hash (")) == (2, True)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[everlytic]\n\nbase_url = https://shop.example\n", ", line 3, column 12: Invalid value"),
        (f"[everlytic]\nstore_hash = '{STORE_HASH}", ", line 2"),
        (f"[everlytic]\nstore_hash = '{STORE_HASH}\n", ", line 2 (the last): Expected"),
        (f"[everlytic]\nstore_hash = {STORE_HASH}\n", ", line 2, column "),
        (f"[everlytic]\nx = {{'{STORE_HASH}'=1, '{STORE_HASH}'=1}}\n", ", line 2, column "),
        (f"['{STORE_HASH}']\n['{STORE_HASH}']\n", ", line 2, column "),
        ("[everlytic]\nbase_url = 1\nbase_url = 2\n", ", line 3, column "),
        ("[everlytic]\nbase_url = '\udce9'\n", ", line 2: it is not UTF-8"),
        (toml("https://shop.example", table="everlitic"), "has no table [everlytic]"),
        (f"everlytic = '{STORE_HASH}'", "has no table [everlytic]"),
        (toml("https://shop.example") + "rate = 5", "what is not a setting: rate"),
        ("[everlytic]\nstore_hash = 5707", "store_hash must be text, in quotes"),
        (f"[everlytic]\nstore_hash = ['{STORE_HASH}']", "store_hash must be text, in quotes"),
    ],
)
def test_a_wrong_file_is_told_without_its_hashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, told: str
) -> None:
    for name in ("BASE_URL", "STORE_HASH", "CUSTOMER_HASH"):
        monkeypatch.delenv(f"EVERLYTIC_{name}", raising=False)
    path = tmp_path / "everlytic.toml"
    path.write_text(text, "utf-8", errors="surrogateescape")
    with pytest.raises(ConfigurationError) as caught:
        load_account(str(path))
    assert told in str(caught.value)
    assert str(path) in str(caught.value)
    assert STORE_HASH not in "".join(traceback.format_exception(caught.value))


async def test_a_wrong_setting_is_told_before_anything_is_opened(
    program: Program, orders_file: Write
) -> None:
    (program.directory / "everlytic.toml").write_text(toml("shop.example"))
    run = await program.run(*SEND, "--results", "r.jsonl", orders_file(order(1)))
    assert (run.code, run.out) == (2, "")
    assert "\nError: base_url (EVERLYTIC_BASE_URL) must be a whole URL" in run.err
    assert not (program.directory / "r.jsonl").exists()


async def test_a_file_that_cannot_be_read_is_told(program: Program, orders_file: Write) -> None:
    run = await program.run(*SEND, "--config", "none.toml", orders_file(order(1)))
    assert run.code == 2
    assert "none.toml" in run.err


async def test_plain_http_is_for_this_machine_unless_allowed(
    program: Program, orders_file: Write
) -> None:
    here = program.told(
        EVERLYTIC_BASE_URL="http://shop.invalid",
        EVERLYTIC_STORE_HASH=STORE_HASH,
        EVERLYTIC_CUSTOMER_HASH=CUSTOMER_HASH,
    )
    refused = await here.run(*SEND, orders_file(order(1)))
    allowed = await here.run(*SEND, "--allow-http", "--retries", "0", orders_file(order(1)))
    assert refused.code == 2
    assert "must begin with https://" in refused.err
    assert "--allow-http" in refused.err
    assert allowed.code == 1
    assert "shop.invalid" in allowed.out


async def test_no_argument_takes_a_secret(program: Program, orders_file: Write) -> None:
    for option in ("--store-hash", "--customer-hash", "--base-url"):
        run = await program.run(*SEND, option, "x", orders_file(order(1)))
        assert run.code == 2
        assert "No such option" in run.err


async def test_neither_hash_is_ever_written(program: Program, orders_file: Write) -> None:
    """Through every way to fail, with --debug, in what is printed and in the results."""
    orders = orders_file(*map(order, range(15)), "nonsense", order(99, products=[]))
    written: list[str] = []

    async def run(*arguments: str, here: Program) -> None:
        results = program.directory / "r.jsonl"
        options = ["--debug", "--retries", "1", "--results", str(results), "--append-results"]
        done = await here.run(*SEND, *options, *arguments, str(orders))
        assert done.code in (0, 1, 2, 3)
        written.extend([done.out, done.err, results.read_text() if results.exists() else ""])

    async with box(throttled=0.2, dropped_after=0.2, server_error=0.2, retry_after_s=0) as sandbox:
        here = program.pointed_at(sandbox)
        await run(here=here)
        # Right hashes, wrong place for them; then the right place, and wrong hashes.
        await run(here=here.told(EVERLYTIC_BASE_URL=f"{sandbox.base_url}/elsewhere"))
        secrets = {"EVERLYTIC_STORE_HASH": "5t0re-" + "f" * 20, "EVERLYTIC_CUSTOMER_HASH": "Cu" * 9}
        await run(here=here.told(**secrets))
        await run("--dry-run", here=here)
        await run("--concurrency", "0", here=here)
    await run("--retries", "0", here=here)  # it is closed now
    await run(here=here.told(EVERLYTIC_BASE_URL=f"https://{STORE_HASH}@shop.example"))
    await run(here=here.told(EVERLYTIC_STORE_HASH=f"{STORE_HASH} {CUSTOMER_HASH}"))
    hashes = [STORE_HASH, CUSTOMER_HASH, *secrets.values()]
    assert len(written) == 24
    assert [secret for secret in hashes if secret in "\n".join(written)] == []
