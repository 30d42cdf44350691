"""The proxy that the environment names, and that its password is never written."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
from command_endpoint import listening
from command_line import SEND, Cli

from everlytic_async.cli._client import find_proxy
from support.delivery import order
from support.sandboxes import CUSTOMER_HASH, STORE_HASH

PASSWORD = "pr0xy-passw0rd"
PROXY = f"http://user:{PASSWORD}@proxy.example:3128"


@pytest.mark.parametrize(
    ("environment", "base_url", "expected"),
    [
        ({}, "https://shop.example", None),
        ({"HTTPS_PROXY": PROXY}, "https://shop.example", PROXY),
        ({"https_proxy": PROXY}, "https://shop.example/prefix", PROXY),
        (
            {"HTTPS_PROXY": "proxy.example:3128"},
            "https://shop.example",
            "http://proxy.example:3128",
        ),
        ({"HTTPS_PROXY": ""}, "https://shop.example", None),
        ({"ALL_PROXY": PROXY}, "https://shop.example", PROXY),
        ({"HTTP_PROXY": PROXY}, "https://shop.example", None),
        ({"http_proxy": PROXY}, "http://shop.example", PROXY),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "shop.example"}, "https://shop.example", None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "other, .example"}, "https://shop.example:8443", None),
        ({"HTTPS_PROXY": PROXY, "no_proxy": "*"}, "https://shop.example", None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "other.example"}, "https://shop.example", PROXY),
        ({"HTTP_PROXY": PROXY, "HTTPS_PROXY": PROXY, "ALL_PROXY": PROXY}, "http://[::1]:1", None),
        ({"http_proxy": PROXY}, "http://127.0.0.1:8025", None),
        ({"https_proxy": PROXY}, "https://localhost", None),
        ({"https_proxy": PROXY}, "https://[", None),
    ],
)
def test_the_environment_names_the_proxy(
    cli: Cli, environment: dict[str, str], base_url: str, expected: str | None
) -> None:
    cli.env(**environment)
    found = find_proxy(base_url)
    assert (None if found is None else found.url) == expected


OTHER_KIND = "names a proxy of a kind that can't be used"
NO_URL = "proxy must be a URL"


@pytest.mark.parametrize(
    ("proxy", "error"),
    [
        (f"socks5://user:{PASSWORD}@proxy.example", OTHER_KIND),
        (f"HTTPS://user:{PASSWORD}@proxy.example", OTHER_KIND),
        # Without a scheme, what stands before :// may be a part of the password.
        (f"user:{PASSWORD}://x@proxy.example:3128", OTHER_KIND),
        (f"{PASSWORD}@proxy.example://3128", OTHER_KIND),
        ("http://[", NO_URL),
        ("http://proxy.example:none", NO_URL),
        (f"{PROXY}/a/path", NO_URL),
    ],
)
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY"])
def test_a_proxy_that_cannot_be_used_is_refused_without_its_password(
    cli: Cli, variable: str, proxy: str, error: str
) -> None:
    cli.use("https://shop.example")
    cli.env(**{variable: proxy})
    run = cli(*SEND, cli.write(order(1)))
    assert (run.code, run.out) == (2, "")
    assert re.search(rf"Error: {variable} in the environment:? {error}", run.err)
    assert ("NO_PROXY" in run.err) == (error == OTHER_KIND)
    assert PASSWORD not in run.err


def test_orders_go_through_the_proxy_and_its_password_is_never_written(cli: Cli) -> None:
    cli.use("https://shop.invalid")
    refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    with listening(answer=refusal) as (port, received):
        cli.env(HTTPS_PROXY=f"http://user:{PASSWORD}@127.0.0.1:{port}")
        run = cli(*SEND, "--debug", "--retries", "0", "--results", "r", cli.write(order(1)))
    assert run.code == 1
    requests = b"".join(received)
    assert requests.startswith(b"CONNECT shop.invalid:443 HTTP/1.1\r\n")
    assert base64.b64encode(f"user:{PASSWORD}".encode()) in requests
    written = run.out + run.err + Path("r").read_text() + requests.decode()
    assert "proxy" in written
    assert [each for each in (PASSWORD, STORE_HASH, CUSTOMER_HASH) if each in written] == []
