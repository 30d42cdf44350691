"""Waiting that goes on when we are cancelled, ending tasks, and deadlines.

`CancelledError` always travels on: whoever waits here raises it once the wait is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

# How long after a deadline it is enforced, in seconds: what had arrived by then is read before.
_CONFIRM_S = 0.01


async def finish_despite_cancel(*futures: asyncio.Future[Any]) -> None:
    """Wait until all of these are done, however often we are cancelled meanwhile.

    Their results and exceptions are the caller's business.

    Raises:
        CancelledError: we were cancelled meanwhile.
    """
    cancelled: asyncio.CancelledError | None = None
    left = set(futures)
    while left:
        try:
            _, left = await asyncio.wait(left)
        except asyncio.CancelledError as error:
            cancelled = error
            left = {future for future in left if not future.done()}
    if cancelled is not None:
        raise cancelled


async def cancel_and_wait(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel the tasks and wait until they have ended, however often we are cancelled meanwhile.

    Raises:
        CancelledError: we were cancelled meanwhile.
    """
    for task in tasks:
        task.cancel()
    await finish_despite_cancel(*tasks)


@asynccontextmanager
async def deadline(seconds: float | None) -> AsyncIterator[asyncio.Timeout]:
    """As `asyncio.timeout`, but if the event loop stalled, what has arrived is handled first."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as scope:
        if seconds is None:
            yield scope
            return

        def confirm() -> None:
            timers.append(loop.call_later(_CONFIRM_S, expire))

        def expire() -> None:
            scope.reschedule(loop.time())

        timers = [loop.call_later(seconds, confirm)]
        try:
            yield scope
        finally:
            for timer in timers:
                timer.cancel()
