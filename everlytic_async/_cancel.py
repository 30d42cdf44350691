"""Waiting that goes on when we are cancelled, ending tasks, and deadlines.

`CancelledError` always travels on: it is raised once the wait is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Collection, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

_T = TypeVar("_T")
# A task that swallows a cancellation is cancelled again after this, in seconds.
_CANCEL_AGAIN_S = 0.1

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


async def cancel_until_done(task: asyncio.Future[Any]) -> None:
    """Cancel a task until it has ended: the NATS client may swallow the first cancellation."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_CANCEL_AGAIN_S)


async def run_to_end(work: Coroutine[Any, Any, _T]) -> _T:
    """Finish some work however often we are cancelled, and return its result.

    Raises:
        CancelledError: we were cancelled meanwhile.
    """
    task = asyncio.ensure_future(work)
    try:
        await finish_despite_cancel(task)
    except asyncio.CancelledError:
        if not task.cancelled():
            task.exception()  # retrieved: the cancellation is what matters now
        raise
    return task.result()


async def run_shielded(work: Awaitable[_T]) -> _T:
    """Run something in a task of its own, so that a cancellation that it swallows reaches us."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    finally:
        if not task.done():
            await run_to_end(cancel_until_done(task))
