"""An HTTP proxy on the way: it tunnels, reads no secret, and is named when it refuses."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trustme

from everlytic_async import (
    ConfigurationError,
    NotSentError,
)
from support.delivery import CUSTOMER_HASH, STORE_HASH, make_client, order
from support.servers import (
    RawServer,
    accept_all,
)
from support.tls import server_context, trusting_session

USER, PASSWORD = "shop", "pa55:w@rd"


PROXY_USERINFO = "shop:pa55%3Aw%40rd"


class ProxyServer:
    """An HTTP proxy on loopback that wants a password, and keeps what it can read."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.seen = b""
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self, userinfo: str = PROXY_USERINFO) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield f"http://{userinfo}@127.0.0.1:{server.sockets[0].getsockname()[1]}"
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._relay(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        credentials = base64.b64encode(f"{USER}:{PASSWORD}".encode())
        if b"Proxy-Authorization: Basic " + credentials not in head:
            writer.write(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")
            return
        method, target, _ = head.split(b" ", 2)
        there = target if method == b"CONNECT" else target.split(b"/")[2]
        host, port = there.decode().rsplit(":", 1)
        up_reader, up_writer = await asyncio.open_connection(host, int(port))
        if method == b"CONNECT":
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            up_writer.write(head)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                self.seen += data
                sink.write(data)
            sink.close()

        try:
            await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))
        finally:
            up_writer.close()


async def test_a_proxy_tunnels_and_reads_neither_hashes_nor_orders(authority: trustme.CA) -> None:
    proxy = ProxyServer()
    async with (
        RawServer(accept_all, tls=server_context(authority.issue_cert("localhost"))) as server,
        proxy.running() as url,
        trusting_session(authority) as session,
        make_client(server.url, session=session, proxy=url) as client,
    ):
        receipts = [await client.send_order(order(number)) for number in range(3)]
        assert PASSWORD not in repr(client)

    assert [receipt.status for receipt in receipts] == [200] * 3
    assert len(server.bodies) == 3
    assert proxy.heads[0].startswith(b"CONNECT localhost:")
    assert len(proxy.heads) == server.connections == 1
    for secret in (STORE_HASH, CUSTOMER_HASH, "customer0@example.com"):
        assert secret.encode() not in b"".join(proxy.heads) + proxy.seen
    assert b"Proxy-Authorization" not in b"".join(server.heads)


async def test_the_clients_own_session_shows_a_proxy_no_hash(authority: trustme.CA) -> None:
    # The certificate is not trusted, so no order is sent: the proxy reads what asks for the tunnel.
    proxy = ProxyServer()
    async with (
        RawServer(accept_all, tls=server_context(authority.issue_cert("localhost"))) as server,
        proxy.running() as url,
        make_client(server.url, proxy=url) as client,
    ):
        with pytest.raises(NotSentError, match="certificate is not valid"):
            await client.send_order(order(1))

    assert proxy.heads
    for secret in (STORE_HASH, CUSTOMER_HASH):
        assert secret.encode() not in b"".join(proxy.heads) + proxy.seen


async def test_a_proxy_that_refuses_is_named_without_its_password() -> None:
    async with (
        ProxyServer().running("shop:wrong-one") as url,
        make_client("https://shop.example", proxy=url) as client,
    ):
        with pytest.raises(NotSentError, match=r"the proxy refused .*407") as caught:
            await client.send_order(order(1))
    assert "wrong-one" not in f"{caught.value!r}{caught.value.__context__!r}"


async def test_a_proxy_of_this_machine_serves_an_http_address() -> None:
    proxy = ProxyServer()
    async with (
        RawServer(accept_all) as server,
        proxy.running() as url,
        make_client(server.url, proxy=url) as client,
    ):
        assert (await client.send_order(order(1))).status == 200
    assert proxy.heads[0].startswith(b"POST http://localhost:")


@pytest.mark.parametrize(
    ("base_url", "proxy", "says"),
    [
        ("https://shop.example", "proxy:s3cret@host", "http://proxy.example:3128"),
        ("https://shop.example", "https://u:s3cret@host:1", "session"),
        ("https://shop.example", "socks5://u:s3cret@host:1", "session"),
        ("https://shop.example", "http://u:s3cret@host:1/path", "without a path"),
        ("https://shop.example", "http://u:s3cret@host:99999", "must be a URL"),
        ("https://shop.example", "", "must be a URL"),
        ("https://shop.example", 8080, "must be a URL, got a int"),
        ("http://localhost:1", "http://u:s3cret@proxy.example:1", "allow_http"),
    ],
)
def test_an_unusable_proxy_is_refused_without_being_shown(
    base_url: str, proxy: Any, says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        make_client(base_url, proxy=proxy)
    assert "proxy" in caught.value.message
    assert "s3cret" not in f"{caught.value!r}{caught.value.__cause__!r}"


def test_a_proxy_may_read_the_hashes_if_that_is_allowed() -> None:
    make_client("http://shop.example", proxy="http://proxy.example:3128", allow_http=True)
