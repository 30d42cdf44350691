"""A request in flight: its headers, its connection, its time-outs, and whether it was sent.

One timer watches all requests. aiohttp's own two or three timers for each cost a fifth of its CPU.
"""

from __future__ import annotations

import asyncio
import select
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any
from weakref import WeakSet

import aiohttp
import attrs
from multidict import CIMultiDict

from everlytic_async._response import MAX_BODY_BYTES
from everlytic_async._secrets import Secrets
from everlytic_async._version import __version__
from everlytic_async._waiting import CONFIRM_S, CallLater, Timer
from everlytic_async.policies import Timeouts

#: How an order is sent.
JSON = "application/json"
# How late a time-out may be noticed: a tenth of the shortest one, and at most this.
_MAX_CHECK_INTERVAL_S = 0.25
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


def request_headers(secrets: Secrets) -> Mapping[str, str]:
    """The hashes, and what is sent and accepted."""
    return CIMultiDict(
        {
            **secrets.headers(),
            "Content-Type": JSON,
            "Accept": JSON,
            "Accept-Encoding": "identity",
            "User-Agent": f"everlytic-async/{__version__}",
        }
    )


# ------------------------------------------------------------------------------------ connections


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


# -------------------------------------------------------------------------------------- in flight


class ClientClosedError(Exception):
    """The client was closed while the order was in flight."""


class ConnectTimeoutError(TimeoutError):
    """There was no connection in time."""


@attrs.define(eq=False)
class Request:
    """One POST over one connection.

    Attributes:
        task: The task that waits for the response.
        cancel_requests_before: How often the task was cancelled before.
        started_at: When the first try of this attempt started, moved on by the time in which the
            event loop stood still.
        tracker: Knows how much of the body was sent; None if it counts as sent once the connection
            was written to.
        connection: aiohttp's protocol of the connection, once there is one.
        transport: The connection's transport, once the order is written to it.
        reused: Whether the connection carried another order before.
        unusable: Whether it was not written to because it had ended or must not be reused.
        sent_at: When the body was sent, except for what the event loop may still hold.
        last_activity_at: When something last came, or the body was sent; None before that.
        stalled_s: Seconds in which the event loop stood still since the body was sent; before that,
            since this try started.
        is_late: Whether the last check found that it had timed out.
        abort_error: Why it was aborted: it timed out, or the client was closed.
    """

    body: bytes = attrs.field(repr=False)
    task: asyncio.Task[object]
    cancel_requests_before: int
    started_at: float
    connections: Connections
    clock: Callable[[], float]
    tracker: aiohttp.UploadTracker | None = None
    connection: object = None
    transport: asyncio.Transport | None = None
    reused: bool = False
    unusable: bool = False
    sent_at: float | None = None
    last_activity_at: float | None = None
    stalled_s: float = 0.0
    is_late: bool = False
    abort_error: Exception | None = None

    async def before_write(self, connection: Any, transport: asyncio.Transport | None) -> None:
        """Check the connection right before anything is written to it."""
        self.connection = connection
        self.unusable = True  # until it is known to be usable
        if transport is not None and self.connections.is_readable(transport):
            for _ in range(_LOOP_RUNS):
                await asyncio.sleep(0)
        self.reused = self.connections.acquire(connection, transport)
        self.unusable = False
        self.transport = transport

    def after_write(self) -> None:
        """The body was handed to the connection."""
        self.sent_at = self.last_activity_at = self.clock()
        self.stalled_s = 0.0

    def on_answer(self, status: int) -> float:
        """The head of the response has come: how long after the body was sent, at most."""
        # Of a 503 alone it matters when it came. Asked before the clock: if the process is frozen
        # in between, it seems to have come late rather than early.
        is_503 = status == HTTPStatus.SERVICE_UNAVAILABLE
        ago_s = since_last_data_s(self.transport) if is_503 else 0.0
        self.last_activity_at = self.clock()
        if self.sent_at is not None:
            since = self.sent_at
        elif self.body_sent():
            # Either the response came before the upload was over, or nobody knows when that was.
            since = self.started_at - self.stalled_s  # it was moved on by as much
        else:
            return 0.0
        return max(0.0, self.last_activity_at - ago_s - since)

    def is_tracked(self) -> bool:
        """Whether it is known what was written: a mocked session does not use the tracker."""
        if self.tracker is None:
            return self.connection is not None
        return self.tracker.attempts > 0 or self.tracker.upload_complete.done()

    def body_sent(self) -> bool:
        """Whether the whole body may have reached the endpoint."""
        if self.tracker is None:
            return self.transport is not None
        if self.tracker.bytes_written >= len(self.body):
            return True  # even if the upload counts as aborted: it was, right at its end
        if not self.is_tracked():
            return True
        upload = self.tracker.upload_complete
        return upload.done() and not upload.cancelled() and upload.exception() is None

    def abort(self, error: Exception) -> None:
        """End it with this error."""
        if self.abort_error is None:
            self.abort_error = error
            self.abort_upload()
            self.task.cancel()

    def abort_upload(self) -> None:
        """Make sure that a body which was not sent in full never is.

        A connection that is only closed still sends what the event loop holds for it.
        """
        if self.transport is not None and not self.body_sent():
            self.transport.abort()

    def must_propagate(self, error: BaseException) -> bool:
        """Whether the error ends more than this request: its task was cancelled, or the process.

        A connector that is closed cancels its name look-ups, but not the task.
        """
        cancelled_here = self.cancel_requests_before + (self.abort_error is not None)
        is_foreseen = isinstance(error, Exception | asyncio.CancelledError)
        return not is_foreseen or self.task.cancelling() > cancelled_here


class InFlight:
    """The requests in flight; it aborts those that have run out of time."""

    def __init__(
        self,
        timeouts: Timeouts,
        clock: Callable[[], float],
        call_later: CallLater,
        *,
        limits_connecting: bool,
    ) -> None:
        self._timeouts = timeouts
        self._clock = clock
        self._call_later = call_later
        self._limits_connecting = limits_connecting
        shortest_s = min(timeouts.connect_s, timeouts.read_s, timeouts.total_s)
        self._check_interval_s = min(_MAX_CHECK_INTERVAL_S, shortest_s / 10)
        self._requests: set[Request] = set()
        self._timer: Timer | None = None
        self._check_at = 0.0  # when the timer is due

    def add(self, request: Request) -> None:
        """Watch a request."""
        self._requests.add(request)
        if self._timer is None:
            self._schedule_check(self._check_interval_s)

    def discard(self, request: Request) -> None:
        """The request has ended."""
        self._requests.discard(request)
        if request.reused:
            request.connections.release()
        if request.abort_error is not None:
            request.task.uncancel()

    def abort_all(self, error: Exception) -> None:
        """End every request with this error."""
        for request in self._requests:
            request.abort(error)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule_check(self, delay_s: float) -> None:
        self._check_at = self._clock() + delay_s
        self._timer = self._call_later(delay_s, self._check_timeouts)

    def _check_timeouts(self) -> None:
        """Abort every request that has run out of time; check again while there are any.

        A response may have arrived that the event loop has not handed on yet. So a request ends
        only if a second check, a moment later, finds it out of time as well; and time in which the
        loop stood still (a frozen process, a blocking call) is not the endpoint's silence.
        """
        now = self._clock()
        stalled_s = now - self._check_at
        check_in = self._check_interval_s
        for request in self._requests:
            if stalled_s > self._check_interval_s:
                request.started_at += stalled_s
                request.stalled_s += stalled_s
                if request.last_activity_at is not None:
                    request.last_activity_at += stalled_s
            error = self._timeout_error(request, now)
            if error is not None and request.is_late:
                request.abort(error)
            elif error is not None:
                check_in = min(check_in, CONFIRM_S)
            request.is_late = error is not None
        self._timer = None
        if self._requests:
            self._schedule_check(check_in)

    def _timeout_error(self, request: Request, now: float) -> Exception | None:
        """How a request has run out of time; None if it has not."""
        timeouts, age_s = self._timeouts, now - request.started_at
        if self._limits_connecting and request.transport is None:
            is_late = age_s >= min(timeouts.connect_s, timeouts.total_s)
            return ConnectTimeoutError() if is_late else None
        silent_since = request.last_activity_at
        is_silent = silent_since is not None and now - silent_since >= timeouts.read_s
        return TimeoutError() if is_silent or age_s >= timeouts.total_s else None
