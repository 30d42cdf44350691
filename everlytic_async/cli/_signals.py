"""Ctrl-C and SIGTERM: the first drains, the second exits at once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Signals"]


class Signals:
    """Handles both signals, except those that are ignored since the process started.

    Args:
        drain: Called for the first one.
        exit_now: Called for every further one.

    Attributes:
        received: The first one; None as long as there was none.
    """

    def __init__(self, drain: Callable[[], None], exit_now: Callable[[], None]) -> None:
        self._drain = drain
        self._exit_now = exit_now
        self.received: signal.Signals | None = None

    @contextmanager
    def install(self) -> Iterator[None]:
        """Handle them on the running loop while the context lasts."""
        loop = asyncio.get_running_loop()
        installed = [
            number
            for number in (signal.SIGINT, signal.SIGTERM)
            if signal.getsignal(number) is not signal.SIG_IGN
        ]
        for number in installed:
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            for number in installed:
                loop.remove_signal_handler(number)

    def _on_signal(self, number: signal.Signals) -> None:
        if self.received is None:
            self.received = number
            self._drain()
        else:
            self._exit_now()
