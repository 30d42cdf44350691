"""Ending the waiting of many at once: of a batch that stops, of a client that closes."""

from __future__ import annotations

import asyncio
import weakref


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
