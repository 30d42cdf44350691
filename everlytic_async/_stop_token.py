"""Ending the waiting of many at once: of a batch that stops, of a client that closes."""

from __future__ import annotations

import asyncio
import weakref

from everlytic_async._clock import CallLater


class StoppedError(Exception):
    """Raised in a waiting sender when the batch stops, the client closes, or trouble lasts."""


class StopToken:
    """Ends the waiting of all senders that share it, at once and for good.

    Args:
        parent: When it is stopped, so is this one.
    """

    __slots__ = ("__weakref__", "_children", "_waiters", "reason")

    def __init__(self, parent: StopToken | None = None) -> None:
        #: Why it was stopped; None as long as it was not.
        self.reason: str | None = None
        self._waiters: set[asyncio.Future[float]] = set()
        self._children: weakref.WeakSet[StopToken] = weakref.WeakSet()
        if parent is not None:
            self.reason = parent.reason
            parent._children.add(self)  # noqa: SLF001 - of the same class

    def stop(self, reason: str) -> None:
        """Raise `StoppedError` in all waiting senders; the first reason counts."""
        if self.reason is not None:
            return
        self.reason = reason
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(StoppedError(reason))
        for child in tuple(self._children):
            child.stop(reason)

    async def wait(self, waiter: asyncio.Future[float]) -> float:
        """Wait for the future's result.

        Raises:
            StoppedError: when stopped before, or meanwhile.
        """
        if self.reason is not None:
            raise StoppedError(self.reason)
        self._waiters.add(waiter)
        try:
            return await waiter
        finally:
            self._waiters.discard(waiter)

    async def sleep(self, seconds: float, call_later: CallLater) -> None:
        """Wait for this many seconds.

        Raises:
            StoppedError: when stopped before, or meanwhile.
        """
        waiter: asyncio.Future[float] = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(seconds)

        timer = call_later(seconds, wake)
        try:
            await self.wait(waiter)
        finally:
            timer.cancel()
