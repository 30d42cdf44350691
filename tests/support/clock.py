"""A clock that stands still until a test moves it, and its timers."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")
# More turns of the event loop than anything needs that waits for nothing.
_MAX_TURNS = 100_000


class FakeTimer:
    """A timer of a `FakeClock`."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback: Callable[[], None] | None = callback

    @property
    def pending(self) -> bool:
        return self._callback is not None

    def cancel(self) -> None:
        self._callback = None

    def fire(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class FakeClock:
    """Call it for the time; `call_later` as of an event loop; `advance` moves it.

    Args:
        lateness: How many seconds late the next timer fires, as on a busy event loop.
    """

    def __init__(self, *, lateness: Callable[[], float] = lambda: 0.0) -> None:
        self.now = 1_000.0
        self._lateness = lateness
        self._timers: list[tuple[float, int, FakeTimer]] = []
        self._numbers = itertools.count()

    def __call__(self) -> float:
        return self.now

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(callback)
        when = self.now + max(0.0, delay_s) + self._lateness()
        heapq.heappush(self._timers, (when, next(self._numbers), timer))
        return timer

    async def sleep(self, seconds: float) -> None:
        """Wait so long by this clock."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.call_later(seconds, lambda: done.done() or done.set_result(None))
        await done

    @property
    def next_at(self) -> float | None:
        """When the next timer fires; None if there is none."""
        while self._timers and not self._timers[0][2].pending:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def fire_next(self) -> None:
        """Move to the next timer, and fire it."""
        when = self.next_at
        assert when is not None, "no timer is set: what waits now waits for ever"
        _, _, timer = heapq.heappop(self._timers)
        self.now = max(self.now, when)
        timer.fire()

    async def advance(self, seconds: float) -> None:
        """Let the time pass, timer by timer, each with all that follows from it."""
        end = self.now + seconds
        await settle()
        while (when := self.next_at) is not None and when <= end:
            self.fire_next()
            await settle()
        self.now = end

    async def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Run it to its end; whenever it only waits for the clock, move the clock."""
        task = asyncio.ensure_future(work)
        try:
            while True:
                await settle()
                if task.done():
                    return task.result()
                self.fire_next()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def settle() -> None:
    """Let every task run until it waits for something that does not come by itself.

    That is when the event loop's queue is empty. Only asyncio's own loop shows it.
    """
    loop: Any = asyncio.get_running_loop()
    for _ in range(_MAX_TURNS):
        await asyncio.sleep(0)
        if not loop._ready:
            return
    raise AssertionError("the tasks never come to rest")
