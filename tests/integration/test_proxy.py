"""An HTTP proxy on the way: it tunnels, reads no secret, and is named when it refuses."""

from __future__ import annotations

import asyncio
import base64

import pytest
import trustme

from everlytic_async import NotSentError
from support.delivery import CUSTOMER_HASH, STORE_HASH, make_client, order
from support.servers import Connection, RawServer, accept_all
from support.tls import server_context, trusting_session

USER, PASSWORD = "shop", "pa55:w@rd"


class ProxyServer(RawServer):
    """An HTTP proxy on loopback that wants a password, and keeps what it can read."""

    def __init__(self) -> None:
        super().__init__(self._relay, host="127.0.0.1")
        self.seen = b""

    def url_for(self, userinfo: str = "shop:pa55%3Aw%40rd") -> str:
        return self.url.replace("//", f"//{userinfo}@")

    async def _relay(self, connection: Connection) -> None:
        head = await connection.head()
        credentials = base64.b64encode(f"{USER}:{PASSWORD}".encode())
        if b"Proxy-Authorization: Basic " + credentials not in head:
            await connection.answer(407, b"")
            return
        method, target, _ = head.split(b" ", 2)
        there = target if method == b"CONNECT" else target.split(b"/")[2]
        host, port = there.decode().rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        up = Connection(self, reader, writer)
        if method == b"CONNECT":
            await connection.send(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            await up.send(head)
        try:
            await asyncio.gather(self._pump(connection, up), self._pump(up, connection))
        finally:
            up.close()

    async def _pump(self, source: Connection, sink: Connection) -> None:
        while data := await source.read(65_536):
            self.seen += data
            sink.write(data)
        sink.close()


async def test_a_proxy_tunnels_and_reads_neither_hashes_nor_orders(authority: trustme.CA) -> None:
    async with (
        RawServer(accept_all, tls=server_context(authority.issue_cert("localhost"))) as server,
        ProxyServer() as proxy,
        trusting_session(authority) as session,
        make_client(server.url, session=session, proxy=proxy.url_for()) as client,
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
    async with (
        RawServer(accept_all, tls=server_context(authority.issue_cert("localhost"))) as server,
        ProxyServer() as proxy,
        make_client(server.url, proxy=proxy.url_for()) as client,
    ):
        with pytest.raises(NotSentError, match="certificate is not valid"):
            await client.send_order(order(1))

    assert proxy.heads
    for secret in (STORE_HASH, CUSTOMER_HASH):
        assert secret.encode() not in b"".join(proxy.heads) + proxy.seen


async def test_a_proxy_that_refuses_is_named_without_its_password() -> None:
    async with (
        ProxyServer() as proxy,
        make_client(proxy=proxy.url_for("shop:wrong-one")) as client,
    ):
        with pytest.raises(NotSentError, match=r"the proxy refused .*407") as caught:
            await client.send_order(order(1))
    assert "wrong-one" not in f"{caught.value!r}{caught.value.__context__!r}"


async def test_a_proxy_of_this_machine_serves_an_http_address() -> None:
    async with (
        RawServer(accept_all) as server,
        ProxyServer() as proxy,
        make_client(server.url, proxy=proxy.url_for()) as client,
    ):
        assert (await client.send_order(order(1))).status == 200
    assert proxy.heads[0].startswith(b"POST http://localhost:")


def test_a_proxy_may_read_the_hashes_if_that_is_allowed() -> None:
    make_client("http://shop.example", proxy="http://proxy.example:3128", allow_http=True)
