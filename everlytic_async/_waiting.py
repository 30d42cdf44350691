"""Waiting, and how it ends: timers, backoff, stop tokens, deadlines, tasks that are cancelled.

`CancelledError` always travels on: what must be finished first is finished, and then it is raised.
"""

from __future__ import annotations

import asyncio
import random
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Protocol, TypeVar

_T = TypeVar("_T")
# A task that swallows a cancellation is cancelled again after this, in seconds.
_CANCEL_AGAIN_S = 0.1
#: How long after a deadline it is enforced, in seconds: what had arrived by then is read before.
CONFIRM_S = 0.01
_MAX_DOUBLINGS = 64


class Timer(Protocol):
    """What `CallLater` returns."""

    def cancel(self) -> None:
        """Don't call back."""


#: Calls a function after a number of seconds, as `asyncio.loop.call_later` does.
CallLater = Callable[[float, Callable[[], None]], Timer]


def loop_call_later(delay_s: float, callback: Callable[[], None]) -> Timer:
    """Use the running event loop's timer."""
    return asyncio.get_running_loop().call_later(delay_s, callback)


class StoppedError(Exception):
    """Raised in what waits when the batch stops, the client closes, or trouble lasts."""


class DeadlineExceededError(Exception):
    """Raised in what waits when it has waited for as long as it may."""


def fail(waiter: asyncio.Future[Any], error: Exception) -> None:
    """Raise an error in what waits for a future, unless that is done."""
    if not waiter.done():
        waiter.set_exception(error)


class StopToken:
    """Ends the waiting of all that share it, immediately and for good.

    Args:
        parent: When it is stopped, so is this one.
    """

    __slots__ = ("__weakref__", "_children", "_waiters", "on_stop", "reason")

    def __init__(self, parent: StopToken | None = None) -> None:
        #: Why it was stopped; None as long as it was not.
        self.reason: str | None = None
        #: Called with the reason when it is stopped.
        self.on_stop: Callable[[str], None] | None = None
        self._waiters: set[asyncio.Future[float]] = set()
        self._children: weakref.WeakSet[StopToken] = weakref.WeakSet()
        if parent is not None:
            self.reason = parent.reason
            parent._children.add(self)  # noqa: SLF001 - of the same class

    def stop(self, reason: str) -> None:
        """Raise `StoppedError` in all that wait; the first reason counts."""
        if self.reason is not None:
            return
        self.reason = reason
        for waiter in self._waiters:
            fail(waiter, StoppedError(reason))
        for child in tuple(self._children):
            child.stop(reason)
        if self.on_stop is not None:
            self.on_stop(reason)

    def check(self) -> None:
        """Raise `StoppedError` if it was stopped."""
        if self.reason is not None:
            raise StoppedError(self.reason)

    async def wait(
        self,
        waiter: asyncio.Future[float],
        timeout_s: float | None = None,
        call_later: CallLater = loop_call_later,
    ) -> float:
        """Wait for the future's result.

        Raises:
            StoppedError: when stopped before, or meanwhile.
            DeadlineExceededError: it took longer than `timeout_s`.
        """
        self.check()
        timer = None
        if timeout_s is not None:
            timer = call_later(max(0.0, timeout_s), partial(fail, waiter, DeadlineExceededError()))
        self._waiters.add(waiter)
        try:
            return await waiter
        finally:
            self._waiters.discard(waiter)
            if timer is not None:
                timer.cancel()

    async def sleep(self, seconds: float, call_later: CallLater) -> None:
        """Wait for this many seconds.

        Raises:
            StoppedError: when stopped before, or meanwhile.
        """
        with suppress(DeadlineExceededError):
            await self.wait(asyncio.get_running_loop().create_future(), seconds, call_later)


def ceiling_s(doublings: int, base_s: float, cap_s: float) -> float:
    """The longest pause of a backoff after so many doublings, in seconds."""
    return min(cap_s, base_s * 2.0 ** min(doublings, _MAX_DOUBLINGS))


def backoff_s(doublings: int, base_s: float, cap_s: float) -> float:
    """A pause before a request to NATS is made again, in seconds: half of it is jitter."""
    return ceiling_s(doublings, base_s, cap_s) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


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
            timers.append(loop.call_later(CONFIRM_S, expire))

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
