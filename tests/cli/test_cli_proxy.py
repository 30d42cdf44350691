"""The proxy that the environment names, and that its password is never written."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
from command_line import CUSTOMER_HASH, SEND, STORE_HASH, Program, order

from everlytic_async import ConfigurationError
from everlytic_async.cli._proxy import find_proxy

Write = Callable[..., Path]

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
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    base_url: str,
    expected: str | None,
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert find_proxy(base_url) == expected


@pytest.mark.parametrize("kind", ["socks5", "https"])
def test_another_kind_of_proxy_is_refused_without_its_password(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"{kind}://user:{PASSWORD}@proxy.example")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(ConfigurationError, match=f"HTTPS_PROXY .*{kind}://.* NO_PROXY") as caught:
        find_proxy("https://shop.example")
    assert PASSWORD not in str(caught.value)


@attrs.frozen
class Tunnels:
    """What a proxy was asked for."""

    port: int
    asked: list[bytes] = attrs.field(factory=list)


@asynccontextmanager
async def refusing_proxy() -> AsyncIterator[Tunnels]:
    """A proxy that notes what it is asked for, and refuses it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tunnels.asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    tunnels = Tunnels(server.sockets[0].getsockname()[1])
    async with server:
        yield tunnels


async def test_orders_go_through_the_proxy_and_its_password_is_never_written(
    program: Program, orders_file: Write
) -> None:
    async with refusing_proxy() as proxy:
        run = await program.told(
            EVERLYTIC_BASE_URL="https://shop.invalid",
            EVERLYTIC_STORE_HASH=STORE_HASH,
            EVERLYTIC_CUSTOMER_HASH=CUSTOMER_HASH,
            HTTPS_PROXY=f"http://user:{PASSWORD}@127.0.0.1:{proxy.port}",
        ).run(*SEND, "--debug", "--retries", "0", "--results", "r", orders_file(order(1)))
    assert run.code == 1
    asked = proxy.asked[0]
    assert asked.startswith(b"CONNECT shop.invalid:443 HTTP/1.1\r\n")
    assert base64.b64encode(f"user:{PASSWORD}".encode()) in asked
    assert STORE_HASH.encode() not in b"".join(proxy.asked)
    written = run.out + run.err + (program.directory / "r").read_text()
    assert "proxy" in written
    for secret in (PASSWORD, STORE_HASH, CUSTOMER_HASH):
        assert secret not in written
