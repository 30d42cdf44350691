"""Which connection may carry an order: a fresh one always, a reused one with care.

Some servers close a connection a few milliseconds after a response without announcing it. An order
written to such a connection is lost, and nobody knows whether it was processed.
"""

from __future__ import annotations

import asyncio
import select
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

from everlytic_async._response import MAX_BODY_BYTES

# Each response on a reused connection lets this many times as many orders use reused ones.
_GROWTH = 4
_MAX_LIMIT = 1 << 16
# A second loss within _FORGET_S stops reuse for _PAUSE_S, each further one for twice as long.
_PAUSE_S = 1.0
_MAX_PAUSE_S = 60.0
_FORGET_S = 600.0
# How often the event loop must run before it has handed on what the kernel holds: twice for a plain
# socket, once more for asyncio's TLS.
_LOOP_RUNS = 4


# `tcpi_last_data_recv` of Linux's `struct tcp_info`: how many milliseconds ago data came last.
_TCP_INFO_BYTES = 56
_LAST_DATA_RECEIVED = struct.Struct("=52xI")


def since_last_data_s(transport: asyncio.Transport | None) -> float:
    """Seconds since the kernel last received data of a connection, rather too few than too many.

    The event loop may have been busy meanwhile, or the process frozen. Only Linux reports it:
    elsewhere it is 0.
    """
    sock = None if transport is None else transport.get_extra_info("socket")
    if sock is None or sys.platform != "linux":
        return 0.0
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        (milliseconds,) = _LAST_DATA_RECEIVED.unpack(info)
    except (OSError, struct.error):  # it is closed, or not the kernel that we know
        return 0.0
    return float(milliseconds) / 1000


class UnusableConnectionError(Exception):
    """The connection must not be written to; nothing was."""


class Connections:
    """The connections of one transport, and how many orders may be in flight on reused ones.

    One at a time until one was answered; then the limit grows with each response. A loss resets it
    to one. A server that loses orders again and again gets fresh connections only, for a while.
    A connection is known by aiohttp's protocol object.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._answered: WeakSet[object] = WeakSet()
        self._limit = 1
        self._in_flight = 0
        self._lost_at = float("-inf")
        self._pause_s = 0.0
        # Not every system has it. Without it, an end that the event loop has not read is not seen.
        self._poll: Any = select.poll() if hasattr(select, "poll") else None

    @property
    def count(self) -> int:
        """How many connections were answered and still exist."""
        return len(self._answered)

    @property
    def may_be_reused(self) -> bool:
        """Whether a connection is worth keeping after its response."""
        return not self._pause_s or self._clock() >= self._lost_at + self._pause_s

    def was_answered(self, connection: object) -> bool:
        """Whether an order on this connection was answered before."""
        return connection in self._answered

    def is_readable(self, transport: asyncio.Transport) -> bool:
        """Whether the kernel holds data of a connection, or its end, that nobody read yet."""
        sock = transport.get_extra_info("socket")
        descriptor = -1 if sock is None or self._poll is None else sock.fileno()
        if descriptor < 0:
            return False
        self._poll.register(descriptor, select.POLLIN)
        try:
            return bool(self._poll.poll(0))
        finally:
            self._poll.unregister(descriptor)

    @staticmethod
    async def read_what_arrived() -> None:
        """Let the event loop hand on what the kernel holds."""
        for _ in range(_LOOP_RUNS):
            await asyncio.sleep(0)

    def acquire(self, connection: Any, transport: asyncio.Transport | None) -> bool:
        """Check a connection right before an order is written to it.

        Returns:
            Whether it is a reused one: then `release` must follow.

        Raises:
            UnusableConnectionError: it has ended, or holds unread data (which would be taken for
                the response to this order), or must not be reused now.
        """
        if transport is None or transport.is_closing() or connection.should_close:
            raise UnusableConnectionError
        if connection in self._answered:
            if self._in_flight >= self._limit or not self.may_be_reused:
                raise UnusableConnectionError
            self._in_flight += 1
            return True
        if getattr(transport, "max_size", 0) > MAX_BODY_BYTES:
            # asyncio's transport for plain sockets allocates 256 KiB for each response of 150
            # bytes. The C library maps and unmaps that much each time, a fifth of an order's CPU;
            # this it has on its heap.
            setattr(transport, "max_size", MAX_BODY_BYTES)  # noqa: B010 - not of every transport
        return False

    def release(self) -> None:
        """An order on a reused connection has ended."""
        self._in_flight -= 1

    def on_answered(self, connection: object, *, reused: bool) -> None:
        """An order on this connection was answered."""
        if reused:  # so it is known
            self._limit = min(self._limit * _GROWTH, _MAX_LIMIT)
        else:
            self._answered.add(connection)

    def on_lost(self) -> None:
        """An order on a reused connection was lost without a response."""
        if not self.may_be_reused:
            return  # it was in flight together with the one that caused the pause
        now = self._clock()
        if now - self._lost_at > _FORGET_S:
            self._pause_s = 0.0
        else:
            self._pause_s = min(max(_PAUSE_S, 2 * self._pause_s), _MAX_PAUSE_S)
        self._lost_at = now
        self._limit = 1
