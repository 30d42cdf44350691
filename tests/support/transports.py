"""A `Transport` by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp

from everlytic_async._response import Response
from everlytic_async._secrets import Secrets
from everlytic_async._transport import Transport
from everlytic_async.policies import Timeouts
from support.clock import FakeClock
from support.delivery import CUSTOMER_HASH, STORE_HASH
from support.servers import RawServer, until

__all__ = ["BODY", "make_transport", "started", "until"]

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


async def started(server: RawServer, transport: Transport) -> asyncio.Task[Response]:
    """A post whose body has arrived."""
    task = asyncio.create_task(transport.post(BODY))
    await until(lambda: server.bodies)
    return task
