"""A `Transport` by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from everlytic_async._response import Response
from everlytic_async._secrets import Secrets
from everlytic_async._transport import Transport
from everlytic_async.policies import Timeouts
from support.clock import FakeClock
from support.delivery import CUSTOMER_HASH, STORE_HASH
from support.servers import RawServer, Script, until

__all__ = ["BODY", "by_session", "make_transport", "serving", "started", "until"]

BODY = b'{"contact_email":"user@example.com"}'


@asynccontextmanager
async def make_transport(
    url: str,
    *,
    session: aiohttp.ClientSession | None = None,
    clock: Callable[[], float] = time.monotonic,
    hashes: tuple[str, str] = (STORE_HASH, CUSTOMER_HASH),
    **timeouts: float,
) -> AsyncIterator[Transport]:
    """An open transport; with a `FakeClock`, its timers are the clock's."""
    transport = Transport(
        url,
        secrets=Secrets(*hashes),
        timeouts=Timeouts(**{"connect_s": 5, "read_s": 5, "total_s": 5, **timeouts}),
        session=session,
        clock=clock,
        **({"call_later": clock.call_later} if isinstance(clock, FakeClock) else {}),
    )
    await transport.open()
    try:
        yield transport
    finally:
        await transport.close()


@asynccontextmanager
async def serving(script: Script, **settings: Any) -> AsyncIterator[tuple[RawServer, Transport]]:
    """A server, and a transport with these settings."""
    async with RawServer(script) as server, make_transport(server.url, **settings) as transport:
        yield server, transport


@asynccontextmanager
async def by_session(
    script: Script,
    *,
    trace: Mapping[str, Callable[..., Awaitable[None]]] = {},
    read_s: float = 5,
    **settings: Any,
) -> AsyncIterator[tuple[RawServer, Transport]]:
    """A server, and a transport over a caller's session with these hooks and settings."""
    tracing = aiohttp.TraceConfig()
    for name, hook in trace.items():
        getattr(tracing, name).append(hook)
    async with (
        aiohttp.ClientSession(trace_configs=[tracing], **settings) as session,
        serving(script, session=session, read_s=read_s) as parts,
    ):
        yield parts


async def started(
    server: RawServer, transport: Transport, report_cancelled: Callable[[bool], None] | None = None
) -> asyncio.Task[Response]:
    """A post whose body has arrived."""
    task = asyncio.create_task(transport.post(BODY, report_cancelled))
    await until(lambda: server.bodies)
    return task
