"""`ConnectionLog`: what the log says about a queue's connection; and how it is closed."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable

import nats.errors
from nats.aio.client import Client

from everlytic_async._nats import disconnect, error_text, is_refusal

_LOGGER = logging.getLogger("everlytic_async.worker")
# An error that keeps coming is logged this often, in seconds.
_LOG_REPEAT_S = 60.0
# Closing may take this long to write what is left, in seconds.
_FLUSH_S = 2


class ConnectionLog:
    """Logs what happens to a connection; repeated errors only now and then.

    Args:
        ack_wait_s: When an order that the client dropped is delivered again.
        clock: Seconds that only grow.

    Attributes:
        is_open: Whether the connection is wanted: what happens while it is opened or closed is
            handled elsewhere.
        last_error: Since it was connected.
    """

    def __init__(self, ack_wait_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.is_open = False
        self.last_error: Exception | None = None
        self._ack_wait_s = ack_wait_s
        self._clock = clock
        self._last_text, self._logged_at = "", -math.inf

    async def on_error(self, error: Exception) -> None:
        """Called with each error, such as that of each try to reconnect."""
        text = error_text(error)
        if isinstance(error, nats.errors.SlowConsumerError):
            text += f": an order comes again after {self._ack_wait_s:g} s"
        now = self._clock()
        is_repeated = text == self._last_text and now - self._logged_at < _LOG_REPEAT_S
        kept = self.last_error
        # A server that refuses us also resets the connection: the refusal is the reason.
        if kept is None or not (is_refusal(kept) and isinstance(error, OSError)):
            self.last_error = error
        if not is_repeated:
            self._last_text, self._logged_at = text, now
        _LOGGER.log(logging.DEBUG if is_repeated else logging.WARNING, "NATS: %s", text)

    async def on_disconnected(self) -> None:
        """Called when the connection is lost."""
        if self.is_open:
            _LOGGER.warning(
                "NATS: the connection was lost; trying to get it back. The server also disconnects "
                "clients that read too slowly, such as a blocked process: its log then says Slow "
                "Consumer"
            )

    async def on_reconnected(self) -> None:
        """Called when it is back."""
        self.last_error, self._last_text = None, ""
        _LOGGER.warning("NATS: the connection is back")

    async def on_closed(self) -> None:
        """Called when it is closed for good."""
        if self.is_open:
            _LOGGER.error("NATS: the connection was closed: %s", error_text(self.last_error))


async def flush_and_close(client: Client) -> None:
    """Write what is left, if that is possible, and close the connection."""
    if client.is_connected:
        # Mostly acknowledgements; if this fails they are repeated later. The first ping overtakes
        # what the client has not written yet.
        with contextlib.suppress(TimeoutError, OSError, nats.errors.Error):
            await client.flush(timeout=_FLUSH_S)
            await client.flush(timeout=_FLUSH_S)
    await disconnect(client)
