"""What it means that a request ended without a complete response: the verdict and its words."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

import aiohttp

from everlytic_async._request import (
    ClientClosedError,
    ConnectTimeoutError,
    Request,
    UnusableConnectionError,
)
from everlytic_async.errors import (
    ConnectionLostError,
    EverlyticError,
    NotSentError,
    ResponseTimeoutError,
    UnexpectedResponseError,
    UnknownOutcomeError,
    redact_emails,
)

#: What is said when the caller's session is closed.
SESSION_CLOSED = "the caller's session is closed"
#: How the message of every `NotSentError` of an attempt starts; the host and the cause follow.
NOT_SENT_TO = "the order was not sent to "
# How much of an unforeseen error is repeated.
_MAX_ERROR_TEXT = 200
_NO_CONNECTION = "the connection was not established in time"
#: What went wrong, for a person who has to fix it. The first class that fits counts.
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

    Whether the body was sent is not a matter of the error's class: a hook of the session may raise
    anything.
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
        failure = NotSentError(f"{NOT_SENT_TO}{host}: {reason}")
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
