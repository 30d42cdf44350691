"""Waiting that goes on when we are cancelled, and ending tasks.

`CancelledError` always travels on: whoever waits here raises it once the wait is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any


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
