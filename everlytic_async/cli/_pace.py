"""The pacing in a few words for the progress bar."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from everlytic_async.events import CoolDown, Event, OutageEnded, RateChanged

__all__ = ["PacingStatus"]

# A shorter pause is over before anybody has read about it.
_MIN_SHOWN_S = 0.5


class PacingStatus:
    """A hook for the client's events: why nothing is sent at present, or the limit in use.

    Args:
        clock: The clock of the events, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pause: CoolDown | None = None
        self._limit: float | None = None

    def __call__(self, event: Event) -> None:
        """Handle an event."""
        match event:
            case CoolDown() if event.wait_s >= _MIN_SHOWN_S or event.status is None:
                self._pause = event
            case OutageEnded():
                self._pause = None
            case RateChanged():
                self._limit = event.limit

    @property
    def text(self) -> str:
        """A few words for the progress bar; empty where there is nothing to say."""
        if self._pause is not None:
            left_s = self._pause.at + self._pause.wait_s - self._clock()
            if left_s > 0:
                return f"waits {math.ceil(left_s)} s: {self._pause.reason}"
            if self._pause.status is None:
                return f"tries again: {self._pause.reason}"
        return "" if self._limit is None else f"limit about {self._limit:,.0f}/s"
