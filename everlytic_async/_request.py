"""A request: its headers, what is known of it in flight, its time-outs, and what a failure means.

One timer watches all requests. aiohttp's own two or three timers for each cost a fifth of its CPU.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Mapping

import aiohttp
import attrs
from multidict import CIMultiDict

from everlytic_async._connections import UnusableConnectionError
from everlytic_async._secrets import Secrets
from everlytic_async._version import __version__
from everlytic_async._waiting import CallLater, Timer
from everlytic_async.errors import (
    ConnectionLostError,
    EverlyticError,
    NotSentError,
    ResponseTimeoutError,
    UnexpectedResponseError,
    UnknownOutcomeError,
    redact_emails,
)
from everlytic_async.policies import Timeouts

_JSON = "application/json"
# How late a time-out may be noticed: a tenth of the shortest one, and at most this.
_MAX_CHECK_INTERVAL_S = 0.25
# When a request that was found out of time is checked again.
_CONFIRM_S = 0.01
# How much of an unforeseen error is repeated.
_MAX_ERROR_TEXT = 200

#: What is said when the caller's session is closed.
SESSION_CLOSED = "the caller's session is closed"
#: How the message of every `NotSentError` of an attempt starts; the host and the cause follow.
NOT_SENT = "the order was not sent to "


def request_headers(secrets: Secrets) -> Mapping[str, str]:
    """The hashes, and what is sent and accepted."""
    return CIMultiDict(
        {
            **secrets.headers(),
            "Content-Type": _JSON,
            "Accept": _JSON,
            "Accept-Encoding": "identity",
            "User-Agent": f"everlytic-async/{__version__}",
        }
    )


# -------------------------------------------------------------------------------------- in flight


class ClientClosedError(Exception):
    """The client was closed while the order was in flight."""


class ConnectTimeoutError(TimeoutError):
    """There was no connection in time."""


@attrs.define(eq=False)
class Request:
    """One POST over one connection.

    Attributes:
        size: Bytes of the body.
        started_at: When the first try of this order started.
        task: The task that waits for the response.
        cancel_requests_before: How often the task was cancelled before.
        tracker: Knows how much of the body was sent; None if it counts as sent once the connection
            was written to.
        connection: aiohttp's protocol of the connection, once there is one.
        transport: The connection's transport, once the order is written to it.
        reused: Whether the connection carried another order before.
        unusable: Whether it was not written to because it had ended or must not be reused.
        sent_at: When the body was sent, except for what the event loop may still hold.
        last_activity_at: When the endpoint last had its turn; None until the body was sent.
        stalled_s: Seconds in which the event loop stood still since the body was sent; before that,
            since the first try started.
        is_late: Whether the last check found it out of time.
        abort_error: Why it was aborted: it timed out, or the client was closed.
    """

    size: int
    started_at: float
    task: asyncio.Task[object]
    cancel_requests_before: int
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

    def is_tracked(self) -> bool:
        """Whether it is known what was written: a mocked session does not use the tracker."""
        if self.tracker is None:
            return self.connection is not None
        return self.tracker.attempts > 0 or self.tracker.upload_complete.done()

    def body_sent(self) -> bool:
        """Whether the whole body may have reached the endpoint."""
        if self.tracker is None:
            return self.transport is not None
        if self.tracker.bytes_written >= self.size:
            return True  # even if the upload counts as aborted: it was, right at its end
        if not self.is_tracked():
            return True
        upload = self.tracker.upload_complete
        return upload.done() and not upload.cancelled() and upload.exception() is None

    def waited_s(self, received_at: float) -> float:
        """Seconds from the body being sent to the response, rather too many than too few."""
        if self.sent_at is not None:
            return received_at - self.sent_at
        # Either the response came before the upload was over, or nobody knows when that was.
        started_at = self.started_at - self.stalled_s  # it was moved on by as much
        return received_at - started_at if self.body_sent() else 0.0

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
                check_in = min(check_in, _CONFIRM_S)
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


# --------------------------------------------------------------------------- what a failure means

_NO_CONNECTION = "the connection was not established in time"
#: What went wrong, for a person who has to fix it. The first class that fits counts. Whether the
#: order was sent is not a matter of the class: `Request.body_sent` knows.
ERROR_MESSAGES: tuple[tuple[type[BaseException], str], ...] = (
    (ClientClosedError, "the client was closed while it was in flight"),
    (
        UnusableConnectionError,
        "the connection had ended, or was answered, before the order was written",
    ),
    (aiohttp.ClientConnectorDNSError, "its name could not be resolved"),
    (aiohttp.ClientProxyConnectionError, "the proxy could not be reached"),
    (aiohttp.ClientHttpProxyError, "the proxy refused the connection"),
    (aiohttp.ClientConnectorCertificateError, "its certificate is not valid for it"),
    (aiohttp.ClientSSLError, "the TLS handshake failed"),
    (aiohttp.ServerFingerprintMismatch, "its certificate is not the expected one"),
    (aiohttp.ClientConnectorError, "the connection was refused or it could not be reached"),
    (aiohttp.ConnectionTimeoutError, _NO_CONNECTION),
    (ConnectTimeoutError, _NO_CONNECTION),
    (aiohttp.ServerTimeoutError, "it did not answer in time"),
    (aiohttp.ServerConnectionError, "it closed the connection"),
    (aiohttp.ClientConnectionError, "the connection broke"),
    (aiohttp.ClientPayloadError, "the response broke off"),
    (aiohttp.UploadAbortedError, "the upload broke off"),
    (aiohttp.ClientResponseError, "the response was not HTTP"),
    (aiohttp.InvalidURL, "the address is not a URL that can be used"),
    (aiohttp.NonHttpUrlClientError, "the address is not an HTTP URL"),
    (aiohttp.RedirectClientError, "the redirect was not followed"),
    (aiohttp.ClientError, "the request failed"),
    (TimeoutError, "it did not answer in time"),
    (OSError, "the connection broke"),
)
_FILES = "lower max_concurrency, or raise the limit (ulimit -n)"
_MEMORY = "this machine has no memory left for a connection: lower max_concurrency"
# Not the endpoint's fault: what it is, and what to do.
_OWN_LIMITS = {
    errno.EMFILE: f"this process has no file descriptors left: {_FILES}",
    errno.ENFILE: f"this machine has no file descriptors left: {_FILES}",
    errno.ENOMEM: _MEMORY,
    errno.ENOBUFS: _MEMORY,
    errno.EADDRNOTAVAIL: "this machine has no local port left for a connection: lower max_rate",
}
# Raised before there is a connection: nothing was sent then.
_CONNECT_ERRORS = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
)
# What an error means once the body was sent; the first class that fits counts.
_UNKNOWN_OUTCOMES = (
    (TimeoutError, ResponseTimeoutError),
    ((aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError), ConnectionLostError),
    ((aiohttp.ClientError, ValueError), UnexpectedResponseError),
)


def error_for(
    request: Request,
    error: BaseException,
    host: str,
    redact: Callable[[str], str],
    *,
    session_closed: bool,
) -> EverlyticError:
    """The verdict on a request that ended without a complete response.

    Args:
        request: Knows whether the body was sent. The class of the error does not: a hook of the
            session may raise anything.
        error: What was raised.
        host: The endpoint's host.
        redact: Removes the hashes from a text.
        session_closed: Whether the caller's session is closed.
    """
    if request.abort_error is not None:
        error = request.abort_error
    elif request.unusable:
        error = UnusableConnectionError()
    reason = _reason_for(error, redact)
    if session_closed and not isinstance(error, ClientClosedError):
        reason = f"{SESSION_CLOSED} while it was in flight"
    never_connected = not request.is_tracked() and isinstance(error, _CONNECT_ERRORS)
    if never_connected or not request.body_sent():
        failure = NotSentError(f"{NOT_SENT}{host}: {reason}")
        failure.connected = request.connection is not None
        failure.is_local = _own_limit(error) is not None
        return failure
    message = f"the order was sent to {host}, but {reason}: it may have been processed"
    for kinds, verdict in _UNKNOWN_OUTCOMES:
        if isinstance(error, kinds):
            return verdict(message)
    return UnknownOutcomeError(message)


def _reason_for(error: BaseException, redact: Callable[[str], str]) -> str:
    """What happened, without the hashes, and without any address."""
    if (limit := _own_limit(error)) is not None:
        return limit
    for kind, message in ERROR_MESSAGES:
        if isinstance(error, kind):
            if isinstance(error, aiohttp.ClientHttpProxyError):
                return f"{message} ({error.status})"
            if isinstance(error, OSError) and error.strerror and error.errno:
                return f"{message} ({error.strerror})"
            return message
    text = redact_emails(redact(" ".join(str(error).split())))[:_MAX_ERROR_TEXT]
    return f"{type(error).__name__} was raised{': ' if text else ''}{text}"


def _own_limit(error: BaseException) -> str | None:
    """What is said of a limit of this machine; None if it is not one."""
    if not isinstance(error, OSError):
        return None
    number = error.errno
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        # A resolver that can't open its files says that there is no such name.
        try:
            socket.socket().close()
        except OSError as found:
            number = found.errno
        else:
            return None
    return None if number is None else _OWN_LIMITS.get(number)
