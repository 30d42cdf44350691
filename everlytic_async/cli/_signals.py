"""Ctrl-C and SIGTERM: the first drains, the second leaves at once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Signals"]


class Signals:
    """Listens to both signals, unless whoever started the process has them ignored.

    Args:
        drain: Called for the first one.
        leave: Called for every further one.

    Attributes:
        received: The first one; None as long as there was none.
    """

    def __init__(self, drain: Callable[[], None], leave: Callable[[], None]) -> None:
        self._drain = drain
        self._leave = leave
        self.received: signal.Signals | None = None

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Listen as long as the context lasts, on the running loop."""
        loop = asyncio.get_running_loop()
        listened = [
            number
            for number in (signal.SIGINT, signal.SIGTERM)
            if signal.getsignal(number) is not signal.SIG_IGN
        ]
        for number in listened:
            loop.add_signal_handler(number, self._hear, number)
        try:
            yield
        finally:
            for number in listened:
                loop.remove_signal_handler(number)

    def _hear(self, number: signal.Signals) -> None:
        if self.received is None:
            self.received = number
            self._drain()
        else:
            self._leave()
