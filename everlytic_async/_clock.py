"""Timers that can be handed in, so that tests need not wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """What `CallLater` returns."""

    def cancel(self) -> None:
        """Don't call back."""


#: Calls a function after so many seconds, as `asyncio.loop.call_later` does.
CallLater = Callable[[float, Callable[[], None]], Timer]


def loop_call_later(delay_s: float, callback: Callable[[], None]) -> Timer:
    """Use the running event loop's timer."""
    return asyncio.get_running_loop().call_later(delay_s, callback)
