"""A client as these tests use it: quick to retry, quick to give up, and with known secrets."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from behaviours import ATTEMPTS, PLAYS, RETRY_AFTER_CAP_S
from hostile_server import HostileServer, Play

from everlytic_async import EverlyticClient, Pacing, RetryPolicy, Timeouts
from support.delivery import make_client

QUICK = RetryPolicy(
    attempts=ATTEMPTS, base_s=0.002, cap_s=0.01, retry_after_cap_s=RETRY_AFTER_CAP_S
)
#: For what never answers.
IMPATIENT = Timeouts(connect_s=5, read_s=0.3, total_s=0.6)
#: For all else: a machine may have other work.
PATIENT = Timeouts(connect_s=10, read_s=20, total_s=30)


def small_socket(address: Any) -> socket.socket:
    """A socket that sends little ahead, so that an upload can be caught under way."""
    sock = socket.socket(address[0], address[1], address[2])
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return sock


@asynccontextmanager
async def small_session(**settings: Any) -> AsyncIterator[aiohttp.ClientSession]:
    """A caller's own session over such sockets."""
    connector = aiohttp.TCPConnector(
        limit=0, keepalive_timeout=4, socket_factory=small_socket, **settings
    )
    async with aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        yield session


def client_at(url: str, **settings: Any) -> EverlyticClient:
    """A client of what is there."""
    return make_client(url, **{"retry": QUICK, "timeouts": IMPATIENT, **settings})


@asynccontextmanager
async def hostile_pair(
    plays: Mapping[str, Play] = PLAYS, *, concurrency: int = 32, **settings: Any
) -> AsyncIterator[tuple[HostileServer, EverlyticClient]]:
    """A hostile server, and a patient client of it whose uploads can be caught under way."""
    pacing = Pacing(max_concurrency=concurrency, adaptive=False)
    async with HostileServer(plays) as server, small_session() as session:
        values = {"session": session, "pacing": pacing, "timeouts": PATIENT, **settings}
        async with client_at(server.url, **values) as client:
            yield server, client
