"""``doctor``: what a run would use, and whether it can work, without a request."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trustme
from command_endpoint import listening
from command_line import Cli

from everlytic_async.sandbox import Sandbox
from support.delivery import order
from support.sandboxes import CUSTOMER_HASH, STORE_HASH
from support.tls import authority, server_context

__all__ = ["authority"]


PASSWORD = "pr0xy-passw0rd"


def test_all_is_well(cli: Cli, shop: Sandbox) -> None:
    cli("send", "--ledger", "everlytic.ledger", cli.write(order(1), order(2)))
    (cli.directory / "everlytic.toml").write_text('[mapping]\norder_id = "order_id"\n')
    run = cli("doctor")
    assert (run.code, shop.requests) == (0, 2)  # those that were sent
    host = shop.base_url.removeprefix("http://")
    shown = " ".join(run.out.split())
    for words in (
        f"connected {host} in ",
        "tls none: http://",
        f"base_url {shop.base_url}",
        f"store_hash set, {len(shop.store_hash)} characters",
        "from the environment",
        "[mapping] everlytic.toml: order_id",
        f"path {cli.directory / 'everlytic.ledger'}",
        "sent 2",
        "python 3.",
        "aiohttp 3.",
    ):
        assert words in shown
    assert shop.store_hash not in run.out + run.err
    assert CUSTOMER_HASH not in run.out + run.err
    found = json.loads(cli("doctor", "--json").out)
    assert (found["problems"], found["exit_code"], found["ledger"]["sent"]) == ([], 0, 2)
    assert found["account"]["base_url"] == shop.base_url


def test_what_stands_in_the_way_is_said_and_nothing_is_created(cli: Cli, closed_port: int) -> None:
    (cli.directory / "l").write_text("not a ledger")
    run = cli("doctor", "--ledger", "l")
    assert run.code == 1
    assert "Problem: no base_url, no store_hash, no customer_hash" in run.err
    assert "Problem: the ledger " in run.err
    cli.use(f"http://127.0.0.1:{closed_port}")
    run = cli("doctor")
    assert run.code == 1
    assert "there is none yet: the first run creates it" in run.out
    assert f"Problem: 127.0.0.1:{closed_port} can't be reached: " in run.err
    assert sorted(each.name for each in cli.directory.iterdir()) == ["l"]


@pytest.mark.parametrize(
    ("base_url", "error"),
    [
        ("shop.example", "must be a whole URL"),
        ("http://shop.example", "https://"),
        (f"https://{STORE_HASH}@shop.example", "must hold no user name"),
    ],
)
def test_a_wrong_address_is_not_connected_to(cli: Cli, base_url: str, error: str) -> None:
    cli.use(base_url)
    run = cli("doctor", "--json")
    found = json.loads(run.out)
    assert (run.code, "host" in found) == (1, False)
    assert error in found["problems"][0]
    assert STORE_HASH not in run.out + run.err


CONNECTED = b"HTTP/1.1 200 Connection established\r\n\r\n"
REFUSED = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"


@pytest.mark.parametrize("is_trusted", [True, False])
@pytest.mark.parametrize("answer", [b"", CONNECTED, REFUSED], ids=["direct", "proxy", "refused"])
def test_the_host_is_reached_with_tls(
    cli: Cli, tmp_path: Path, authority: trustme.CA, is_trusted: bool, answer: bytes
) -> None:
    by_proxy = answer != b""
    certificates = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(certificates)
    if is_trusted:
        cli.env(SSL_CERT_FILE=str(certificates))
    host = "shop.invalid" if by_proxy else "localhost"
    tls = server_context(authority.issue_cert(host))
    with listening(tls, answer) as (port, received):
        if by_proxy:
            cli.env(HTTPS_PROXY=f"http://user:{PASSWORD}@127.0.0.1:{port}")
        address = host if by_proxy else f"{host}:{port}"
        cli.use(f"https://{address}")
        run = cli("doctor")
    is_reached = is_trusted and answer != REFUSED
    assert run.code == (0 if is_reached else 1)
    assert ("TLSv1." in run.out) == is_reached
    assert ("trusted, valid until " in run.out) == is_reached
    if not is_reached:
        why = "its certificate is not trusted"
        if answer == REFUSED:
            why = f"the proxy 127.0.0.1:{port} answered 'HTTP/1.1 407 "
        assert f"Problem: {address} can't be reached: {why}" in run.err
    assert PASSWORD not in run.out + run.err
    # Nothing was asked of the host: neither an order nor anything else.
    asked = [each for each in received if each]
    if by_proxy:
        assert asked.pop(0).startswith(b"CONNECT shop.invalid:443 HTTP/1.1\r\n")
        assert f"127.0.0.1:{port}" in run.out
    assert asked == []
