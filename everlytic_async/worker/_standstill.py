"""Whether the event loop stood still: then nothing is read, and NATS cuts off who does not read.

A call that blocks, a process that is stopped, a machine that swaps: no code runs meanwhile, so it
is found out afterwards, by a timer that rings late.
"""

from __future__ import annotations

import asyncio
import math

# How often the timer rings, in seconds.
_RING_S = 0.25
# So late, in seconds, it rings only where the loop stood still.
_LATE_S = 1.0
# What happens so soon after a standstill may come of it, in seconds. What had arrived comes first.
_SOON_S = 5.0


class Standstill:
    """Knows of the last time that the event loop stood still, from `watch` until `close`."""

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._lasted_s = 0.0
        self._ended_at = -math.inf

    def watch(self) -> None:
        """Begin; once begun, it does nothing."""
        if self._timer is None:
            self._set(asyncio.get_running_loop())

    def close(self) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def just_ended(self) -> float | None:
        """How long the last one was, in seconds; None where none has ended a moment ago."""
        since = asyncio.get_running_loop().time() - self._ended_at
        return self._lasted_s if since <= _SOON_S else None

    def _set(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(_RING_S, self._rang, loop, loop.time() + _RING_S)

    def _rang(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        now = loop.time()
        if now - due >= _LATE_S:
            self._lasted_s, self._ended_at = now - due, now
        self._set(loop)
