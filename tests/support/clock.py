"""A clock that stands still until a test moves it, and the timers that hang on it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")
# More turns of the event loop than any work needs that waits for nothing.
_TURNS = 100_000


class Alarm:
    """A timer of a `FakeClock`; `cancel` is all that its maker may do with it."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback: Callable[[], None] | None = callback

    @property
    def pending(self) -> bool:
        return self._callback is not None

    def cancel(self) -> None:
        self._callback = None

    def ring(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class FakeClock:
    """Call it for the time; `call_later` as of an event loop; `advance` moves it.

    Args:
        lateness: How many seconds late the next timer is heard of, as on a busy event loop.
    """

    def __init__(self, *, lateness: Callable[[], float] = lambda: 0.0) -> None:
        self.now = 1_000.0
        self._lateness = lateness
        self._alarms: list[tuple[float, int, Alarm]] = []
        self._order = itertools.count()

    def __call__(self) -> float:
        return self.now

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Alarm:
        alarm = Alarm(callback)
        when = self.now + max(0.0, delay_s) + self._lateness()
        heapq.heappush(self._alarms, (when, next(self._order), alarm))
        return alarm

    @property
    def next_at(self) -> float | None:
        """When the next timer rings; None where there is none."""
        while self._alarms and not self._alarms[0][2].pending:
            heapq.heappop(self._alarms)
        return self._alarms[0][0] if self._alarms else None

    def ring_next(self) -> None:
        """Move to the next timer, and ring it."""
        when = self.next_at
        assert when is not None, "nobody waits for the clock: whoever waits, waits for ever"
        _, _, alarm = heapq.heappop(self._alarms)
        self.now = max(self.now, when)
        alarm.ring()

    async def advance(self, seconds: float) -> None:
        """Let the time pass, timer by timer, each with all that follows from it."""
        end = self.now + seconds
        await settle()
        while (when := self.next_at) is not None and when <= end:
            self.ring_next()
            await settle()
        self.now = end

    async def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Do the work; whenever it waits for the clock and nothing else, move the clock."""
        task = asyncio.ensure_future(work)
        try:
            while True:
                await settle()
                if task.done():
                    return task.result()
                self.ring_next()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def settle() -> None:
    """Let every task go on until it waits for something that does not come by itself.

    That is when nothing is left in the event loop's queue. Only asyncio's own loop shows it.
    """
    loop: Any = asyncio.get_running_loop()
    for _ in range(_TURNS):
        await asyncio.sleep(0)
        if not loop._ready:
            return
    raise AssertionError("the tasks go round in circles")
