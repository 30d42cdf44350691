"""A `Transport` by itself, and what its tests wait for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp

from everlytic_async._secrets import Secrets
from everlytic_async._transport import Transport
from everlytic_async.policies import Timeouts
from support.clock import FakeClock
from support.delivery import CUSTOMER_HASH, STORE_HASH
from support.servers import Connection

BODY = b'{"contact_email":"user@example.com"}'


@asynccontextmanager
async def a_transport(
    url: str,
    *,
    session: aiohttp.ClientSession | None = None,
    clock: Callable[[], float] = time.monotonic,
    **timeouts: float,
) -> AsyncIterator[Transport]:
    """An open transport; with a fake clock its timers are the clock's."""
    transport = Transport(
        url,
        secrets=Secrets(STORE_HASH, CUSTOMER_HASH),
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


async def until(condition: Callable[[], object]) -> None:
    """Wait for a counter: servers and transports have no events for everything."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0)


async def accept_all(connection: Connection) -> None:
    """Accept one order after the other."""
    while True:
        await connection.request()
        await connection.answer()


async def never_answer(connection: Connection) -> None:
    """Read an order, and say nothing."""
    await connection.request()
    await connection.closed()
