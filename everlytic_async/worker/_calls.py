"""Calls of the NATS client that end when they are cancelled, and that leave nothing behind.

nats-py waits by `asyncio.wait_for`, which before Python 3.12 swallows a cancellation that comes in
the same moment as the answer; and its closing stops in the middle where the connection is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

import nats.errors
from nats.aio.client import Client

_T = TypeVar("_T")
# A task that was cancelled and goes on is cancelled again after this, in seconds.
_CANCEL_S = 0.1
# What is left to be written when a connection is closed may take so long, in seconds.
_FLUSH_S = 2


async def apart(work: Awaitable[_T]) -> _T:
    """Do it in a task of its own, so that a cancellation reaches whoever asked for it."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    finally:
        if not task.done():
            await to_end(ended(task))


async def ended(task: asyncio.Future[Any]) -> None:
    """Cancel a task until it has ended."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_CANCEL_S)


async def to_end(work: Coroutine[Any, Any, None]) -> None:
    """Do it to its end, however often we are cancelled; the cancellation is raised after that."""
    cancelled: asyncio.CancelledError | None = None
    task = asyncio.ensure_future(work)
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled


async def disconnect(connection: Client) -> None:
    """Write what is left to be written, and close a connection."""
    if connection.is_connected:
        # Acknowledgements mostly; if that fails they are repeated later. The first ping overtakes
        # what the client has not written yet.
        with contextlib.suppress(TimeoutError, OSError, nats.errors.Error):
            await connection.flush(timeout=_FLUSH_S)
            await connection.flush(timeout=_FLUSH_S)
    try:
        await connection.close()
    except AssertionError:
        pass  # it had not begun to connect
    except OSError:
        # It was lost with something left to be written: the client stops there.
        for subscription in connection._subs.values():  # noqa: SLF001 - nobody else can
            task = getattr(subscription, "_wait_for_msgs_task", None)
            if isinstance(task, asyncio.Task):
                await ended(task)
