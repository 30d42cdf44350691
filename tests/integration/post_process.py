"""A process that sends orders to servers of its own: asyncio or uvloop, and a certificate.

For IPv4 and IPv6, without and with TLS, it prints the outcomes, how many orders arrived, whether
any went by `ClientSession.post`, and the error of an order whose connection was lost.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from importlib import import_module
from typing import Any

import aiohttp

from everlytic_async import EverlyticError
from support.delivery import make_client, order, orders
from support.servers import Connection, RawServer, accept_all

_session_posts = 0
_start = aiohttp.ClientResponse.start


async def _count(self: aiohttp.ClientResponse, connection: Any) -> aiohttp.ClientResponse:
    global _session_posts  # noqa: PLW0603 - it is the process's
    _session_posts += 1
    return await _start(self, connection)


async def _lose(connection: Connection) -> None:
    await connection.request()


async def _send(host: str, tls: ssl.SSLContext | None) -> dict[str, Any]:
    global _session_posts  # noqa: PLW0603 - it is the process's
    _session_posts = 0
    server = RawServer(accept_all, tls=tls, host=host)
    async with server, make_client(server.url) as client:
        report = await client.send_orders(orders(50))
    async with RawServer(_lose, tls=tls, host=host) as losing, make_client(losing.url) as client:
        try:
            await client.send_order(order(1))
        except EverlyticError as error:
            lost = type(error).__name__
    return {
        "outcomes": [result.outcome for result in report.results],
        "arrived": len(server.bodies),
        "by_session": _session_posts > 0,
        "lost": lost,
    }


async def _main(certificate: str) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    found = {
        f"{host}, {'TLS' if context else 'plain'}": await _send(host, context)
        for host in ("127.0.0.1", "::1")
        for context in (None, tls)
    }
    print(json.dumps(found))  # noqa: T201 - to the test


if __name__ == "__main__":
    loop, certificate = sys.argv[1:]
    aiohttp.ClientResponse.start = _count  # type: ignore[method-assign]
    factory = import_module("uvloop").new_event_loop if loop == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_main(certificate))
