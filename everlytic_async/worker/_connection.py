"""`ConnectionLog`: what the log says about a queue's connection."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

import nats.errors

from everlytic_async._nats import error_text

_LOGGER = logging.getLogger("everlytic_async.worker")
# An error that keeps coming is logged this often, in seconds.
_LOG_REPEAT_S = 60.0


class ConnectionLog:
    """Logs what happens to a connection; repeated errors only now and then.

    Args:
        ack_wait_s: When an order that the client dropped is delivered again.
        clock: Seconds that only grow.
    """

    def __init__(self, ack_wait_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ack_wait_s = ack_wait_s
        self._clock = clock
        self._last_text, self._logged_at = "", -math.inf

    def on_error(self, error: Exception) -> None:
        """Called with each error, such as that of each try to reconnect."""
        text = error_text(error)
        if isinstance(error, nats.errors.SlowConsumerError):
            text += f": an order comes again after {self._ack_wait_s:g} s"
        now = self._clock()
        is_repeated = text == self._last_text and now - self._logged_at < _LOG_REPEAT_S
        if not is_repeated:
            self._last_text, self._logged_at = text, now
        _LOGGER.log(logging.DEBUG if is_repeated else logging.WARNING, "NATS: %s", text)

    def on_lost(self) -> None:
        """Called when the connection is lost."""
        _LOGGER.warning(
            "NATS: the connection was lost; trying to get it back. The server also disconnects "
            "clients that read too slowly, such as a blocked process: its log then says Slow "
            "Consumer"
        )

    def on_back(self) -> None:
        """Called when it is back."""
        self._last_text = ""
        _LOGGER.warning("NATS: the connection is back")
