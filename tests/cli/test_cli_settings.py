"""The address and the hashes: from the environment or a file, and never anywhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import CUSTOMER_HASH, STORE_HASH, Program, box, order

from everlytic_async import ConfigurationError
from everlytic_async.cli._settings import load_account
from everlytic_async.sandbox import Sandbox

Write = Callable[..., Path]


def toml(base_url: str, store_hash: str = STORE_HASH, table: str = "everlytic") -> str:
    return (
        f'[{table}]\nbase_url = "{base_url}"\nstore_hash = "{store_hash}"\n'
        f'customer_hash = "{CUSTOMER_HASH}"\n'
    )


@pytest.mark.parametrize("place", ["everlytic.toml", "home/.config/everlytic-async/everlytic.toml"])
async def test_a_file_in_its_place_is_found(
    program: Program, sandbox: Sandbox, orders_file: Write, place: str
) -> None:
    path = program.directory / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(toml(sandbox.base_url))
    run = await program.run("send", orders_file(order(1)))
    assert (run.code, run.err) == (0, "")
    assert sandbox.processed == 1


async def test_the_file_that_is_named_counts_before_the_one_that_is_found(
    program: Program, sandbox: Sandbox, orders_file: Write
) -> None:
    (program.directory / "everlytic.toml").write_text(toml("https://127.0.0.1:1"))
    named = program.directory / "a!b.toml"
    named.write_text("\ufeff" + toml(sandbox.base_url), encoding="utf-8")
    run = await program.run("send", "--config", named, orders_file(order(1)))
    assert (run.code, run.err) == (0, "")
    assert sandbox.processed == 1


async def test_the_environment_counts_before_the_file(
    program: Program, sandbox: Sandbox, orders_file: Write
) -> None:
    (program.directory / "everlytic.toml").write_text(toml(sandbox.base_url, "of another store"))
    run = await program.told(EVERLYTIC_STORE_HASH=STORE_HASH).run("send", orders_file(order(1)))
    assert (run.code, run.err) == (0, "")
    assert sandbox.processed == 1


async def test_all_that_is_missing_is_named_with_where_to_set_it(
    program: Program, orders_file: Write
) -> None:
    run = await program.told(EVERLYTIC_CUSTOMER_HASH=" ").run("send", orders_file(order(1)))
    assert run.code == 2
    for told in (
        "EVERLYTIC_BASE_URL, EVERLYTIC_STORE_HASH, EVERLYTIC_CUSTOMER_HASH",
        "customer_hash: set in the environment, but blank",
        "[everlytic]",
        "everlytic.toml",
        "--sandbox",
    ):
        assert told in run.err
    run = await program.told(
        EVERLYTIC_BASE_URL="https://shop.example", EVERLYTIC_STORE_HASH="x"
    ).run("send", orders_file(order(1)))
    assert run.code == 2
    assert "no customer_hash" in run.err
    assert "EVERLYTIC_STORE_HASH" not in run.err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"[everlytic]\nstore_hash = '{STORE_HASH}", "is not a TOML file in UTF-8"),
        (toml("https://shop.example", table="everlitic"), "has no table [everlytic]"),
        (f"everlytic = '{STORE_HASH}'", "has no table [everlytic]"),
        (toml("https://shop.example") + "rate = 5", "what is no setting: rate"),
        ("[everlytic]\nstore_hash = 5707", "store_hash must be text, in quotes"),
        (f"[everlytic]\nstore_hash = ['{STORE_HASH}']", "store_hash must be text, in quotes"),
    ],
)
def test_a_wrong_file_is_told_without_its_hashes(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "everlytic.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_account(str(path))
    assert told in str(caught.value)
    assert STORE_HASH not in str(caught.value)


async def test_a_wrong_setting_is_told_before_anything_is_opened(
    program: Program, orders_file: Write
) -> None:
    (program.directory / "everlytic.toml").write_text(toml("shop.example"))
    run = await program.run("send", "--results", "r.jsonl", orders_file(order(1)))
    assert (run.code, run.out) == (2, "")
    assert run.err.startswith("Error: base_url (EVERLYTIC_BASE_URL) must be a whole URL")
    assert not (program.directory / "r.jsonl").exists()


async def test_a_file_that_cannot_be_read_is_told(program: Program, orders_file: Write) -> None:
    run = await program.run("send", "--config", "none.toml", orders_file(order(1)))
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
    refused = await here.run("send", orders_file(order(1)))
    allowed = await here.run("send", "--allow-http", "--retries", "0", orders_file(order(1)))
    assert refused.code == 2
    assert "must begin with https://" in refused.err
    assert "--allow-http" in refused.err
    assert allowed.code == 1
    assert "shop.invalid" in allowed.out


async def test_no_argument_takes_a_secret(program: Program, orders_file: Write) -> None:
    for option in ("--store-hash", "--customer-hash", "--base-url"):
        run = await program.run("send", option, "x", orders_file(order(1)))
        assert run.code == 2
        assert "No such option" in run.err


async def test_neither_hash_is_ever_written(program: Program, orders_file: Write) -> None:
    """Through every way to fail, with --debug, in what is printed and in the results."""
    orders = orders_file(*map(order, range(15)), "nonsense", order(99, products=[]))
    written: list[str] = []

    async def run(*arguments: str, here: Program) -> None:
        results = program.directory / "r.jsonl"
        options = ["--debug", "--retries", "1", "--results", str(results)]
        done = await here.run("send", *options, *arguments, str(orders))
        assert done.code in (0, 1, 2)
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
