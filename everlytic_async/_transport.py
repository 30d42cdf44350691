"""One POST, and what surely happened to it. The only importer of aiohttp's client.

A failed attempt is a `NotSentError` if its body surely was not sent in full, else an
`UnknownOutcomeError`: `aiohttp.UploadTracker` knows which. Redirects are not followed (aiohttp
would pass the hashes on to another host) and cookies are not kept.

One timer watches the time-outs of all requests: aiohttp's own two or three timers for each request
cost a fifth of its CPU.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import NoReturn, Protocol, Self
from urllib.parse import urlsplit

import aiohttp
import attrs
from aiohttp import hdrs
from aiohttp.http import StreamWriter
from multidict import CIMultiDict
from yarl import URL

from everlytic_async._connections import Connections, UnusableConnectionError
from everlytic_async._decoding import MAX_BODY_BYTES, decode
from everlytic_async._endpoint import endpoint_url
from everlytic_async._secrets import Secrets
from everlytic_async.errors import (
    ConfigurationError,
    ConnectionLostError,
    EverlyticError,
    NotSentError,
    ResponseTimeoutError,
    UnexpectedResponseError,
    UnknownOutcomeError,
    redact_emails,
)
from everlytic_async.policies import Timeouts

# Shorter than the shortest common server keep-alive (Apache: 5 s), so that no order is posted on a
# connection that the server is closing.
_KEEPALIVE_S = 4
# How late a read or total time-out may be noticed: a tenth of it, and at most this.
_MAX_CHECK_INTERVAL_S = 0.25
# When a request that was found out of time is checked again.
_CONFIRM_S = 0.01
# A response's headers: the longest line, and how many. aiohttp's own limits are 8,190 and 128.
_MAX_HEADER_BYTES = 64 * 1024
_MAX_HEADERS = 4096
_JSON = "application/json"
_NOT_STARTED = (
    "the client is not started: use `async with EverlyticClient(...) as client`, or "
    "`await client.start()`"
)
_CLOSED = "the client is closed and can't be used again: make a new one"
_STARTED = "the client is started already: start it once, and share it"
_OTHER_PROCESS = (
    "the client was started in another process, before a fork: make and start one in each process"
)
_OTHER_LOOP = (
    "the client was started in another event loop or thread: use it there, or make and start one "
    "in this one (each `asyncio.run` has its own event loop)"
)
# How much of an unforeseen error is repeated.
_MAX_ERROR_TEXT = 200

#: What is said when the caller's session is closed.
SESSION_CLOSED = "the caller's session is closed"
#: How the message of every `NotSentError` of an attempt starts; the host and the cause follow.
NOT_SENT = "the order was not sent to "


class _ClientClosedError(Exception):
    """The client was closed while the order was in flight."""


#: What went wrong, for a person who has to fix it. The first class that fits counts. Whether the
#: order was sent is not a matter of the class: the upload tracker knows.
_ERROR_MESSAGES: tuple[tuple[type[BaseException], str], ...] = (
    (_ClientClosedError, "the client was closed while it was in flight"),
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
    (aiohttp.ConnectionTimeoutError, "the connection did not stand in time"),
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
# Raised before there is a connection: they decide if the upload tracker was never used.
_CONNECT_ERRORS = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
)


@attrs.frozen(slots=False)
class Response:
    """The response to one POST.

    Attributes:
        status: The HTTP status.
        headers: The response's headers without the hashes; of a redirect only where to.
        body: The body, decoded, cut at `MAX_BODY_BYTES`, without the hashes.
        sent_at: When the order was sent, by the transport's clock; None if that is not known: with
            a session that is mocked.
        undecodable: What of the body can't be decoded; None if all can.
        waited_s: Seconds from then to the response's head, rather too many than too few.
    """

    status: int
    headers: Mapping[str, str] = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)
    sent_at: float | None = None
    waited_s: float = 0.0
    undecodable: str | None = None


def without_frames(error: BaseException) -> BaseException:
    """The exception without its frames and without those it came from, to be raised again.

    The HTTP library's frames hold the headers, and so the hashes. Raise it outside of the `except`
    that caught it, which would chain it to itself; what the caller was handling is chained again.
    """
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


class _Timer(Protocol):
    def cancel(self) -> None:
        """Don't call back."""


CallLater = Callable[[float, Callable[[], None]], _Timer]


def _loop_call_later(delay_s: float, callback: Callable[[], None]) -> _Timer:
    return asyncio.get_running_loop().call_later(delay_s, callback)


class _Request:
    """One POST in flight, over one connection after the other until one is usable."""

    __slots__ = (
        "abort_error",
        "cancel_requests_before",
        "connection",
        "is_late",
        "last_activity_at",
        "report_cancelled",
        "reused",
        "sent_at",
        "size",
        "started_at",
        "task",
        "tracker",
        "transport",
        "tries",
        "unusable",
    )

    def __init__(
        self,
        task: asyncio.Task[object],
        size: int,
        started_at: float,
        report_cancelled: Callable[[bool], None] | None,
    ) -> None:
        self.task = task
        self.size = size
        self.started_at = started_at
        self.report_cancelled = report_cancelled
        self.cancel_requests_before = task.cancelling()
        #: Whether the last check found it out of time.
        self.is_late = False
        #: Why it was aborted: it timed out, or the client was closed.
        self.abort_error: Exception | None = None
        self.tries = 0
        self.next_try()

    def next_try(self) -> None:
        """Forget a connection to which nothing was written."""
        self.tries += 1
        self.tracker = aiohttp.UploadTracker()  # one is for one request
        #: aiohttp's protocol of the connection, once there is one.
        self.connection: object = None
        #: Its transport, once the order is written to it.
        self.transport: asyncio.Transport | None = None
        #: When the order was sent, except for what the event loop may still hold.
        self.sent_at: float | None = None
        #: When the endpoint last had its turn; None until the order was sent.
        self.last_activity_at: float | None = None
        self.reused = False
        #: Whether the connection was not written to because it had ended or must not be reused.
        self.unusable = False

    def is_tracked(self) -> bool:
        """Whether the session used the upload tracker: a mocked one does not."""
        return self.tracker.attempts > 0 or self.tracker.upload_complete.done()

    def body_sent(self) -> bool:
        """Whether the whole body may have reached the endpoint."""
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
        return received_at - self.started_at if self.body_sent() else 0.0

    def report_cancellation(self) -> None:
        """Say whether it may have been processed: there will be no verdict."""
        if self.report_cancelled is not None:
            self.report_cancelled(self.body_sent())

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

    def is_cancelled(self) -> bool:
        """Whether anybody but `abort` has cancelled its task."""
        aborted = self.abort_error is not None
        return self.task.cancelling() > self.cancel_requests_before + aborted

    def must_propagate(self, error: BaseException) -> bool:
        """Whether the error ends more than this request."""
        # A connector that is closed cancels its name look-ups: the task itself is not cancelled.
        is_foreseen = isinstance(error, Exception | asyncio.CancelledError)
        return self.is_cancelled() or not is_foreseen


class _Body(aiohttp.Payload, bytes):
    """The body of one POST. It checks the connection right before anything is written to it.

    aiohttp writes the headers together with the start of the body, so nothing is sent if this
    raises. When a connection is taken from the pool would be too early: aiohttp lets the event loop
    run in between, and a caller's session has its own connector.

    It is bytes as well, for whatever replaces the session: a mock, a recorder.
    """

    _autoclose = True  # there is nothing to close

    def __new__(cls, body: bytes, *_: object) -> Self:
        return bytes.__new__(cls, body)

    def __init__(self, body: bytes, request: _Request, transport: Transport) -> None:
        super().__init__(body, content_type=_JSON)
        self._size = len(body)
        self._request = request
        self._transport = transport

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The body as text."""
        body: bytes = self._value
        return body.decode(encoding, errors)

    async def write(self, writer: aiohttp.abc.AbstractStreamWriter) -> None:
        """Write it, unless the connection is unusable."""
        if isinstance(writer, StreamWriter):
            await self._transport.use_connection(self._request, writer)
        await writer.write(self._value)
        self._transport.note_sent(self._request)

    async def write_with_length(
        self,
        writer: aiohttp.abc.AbstractStreamWriter,
        content_length: int | None,  # noqa: ARG002 - what was announced is its length
    ) -> None:
        """Write it."""
        await self.write(writer)


class Transport:
    """Posts bodies to one endpoint over one session, its own or the caller's."""

    def __init__(
        self,
        base_url: str,
        *,
        secrets: Secrets,
        timeouts: Timeouts,
        session: aiohttp.ClientSession | None = None,
        allow_http: bool = False,
        user_agent: str = "everlytic_async",
        clock: Callable[[], float] = time.monotonic,
        call_later: CallLater = _loop_call_later,
    ) -> None:
        if not isinstance(allow_http, bool):
            raise ConfigurationError(
                f"allow_http must be True or False, got a {type(allow_http).__name__}"
            )
        if session is not None and not isinstance(session, aiohttp.ClientSession):
            raise ConfigurationError(
                f"session must be an aiohttp.ClientSession, got a {type(session).__name__}"
            )
        url = endpoint_url(base_url, allow_http=allow_http)
        secrets.check()
        self._url = URL(url)
        self._secrets = secrets
        self._proxy = secrets.proxy(self._url, allow_http=allow_http)
        #: Where the orders go, for messages: host, and port where it is not the scheme's own.
        self.host = urlsplit(url).netloc
        #: Names the endpoint and the store in a ledger, and reveals nothing of the hash.
        self.endpoint_id = secrets.endpoint_id(base_url, url)
        self._request_headers: Mapping[str, str] | None = CIMultiDict(
            {
                **secrets.headers(),
                "Content-Type": _JSON,
                "Accept": _JSON,
                "Accept-Encoding": "identity",
                "User-Agent": user_agent,
            }
        )
        self._timeouts = timeouts
        # The timer checks the time-outs. Only connecting over a caller's session is left to
        # aiohttp: waiting for a place in its pool is not part of it.
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=None if session is None else timeouts.connect_s
        )
        shortest_s = min(timeouts.connect_s, timeouts.read_s, timeouts.total_s)
        self._check_interval_s = min(_MAX_CHECK_INTERVAL_S, shortest_s / 10)
        self._clock = clock
        self._call_later = call_later
        self._requests: set[_Request] = set()
        self._timeout_timer: _Timer | None = None
        self._check_at = 0.0  # when the timer is due
        self._connections = Connections(clock)
        self._raw_headers: object = None
        self._clean_headers: Mapping[str, str] = {}
        self._user_session = session
        self._owned_session: aiohttp.ClientSession | None = None
        # Where it was opened; None before.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid: int | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Transport {self.host}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a transport holds secrets and can't be pickled")

    # ------------------------------------------------------------------------- its life

    @property
    def session_closed(self) -> bool:
        """Whether the caller's session is closed: nothing can be sent any more."""
        return self._user_session is not None and self._user_session.closed

    @property
    def is_open(self) -> bool:
        """Whether it was opened, in this process, and not closed."""
        return self._pid == os.getpid() and not self._closed

    @property
    def is_inherited(self) -> bool:
        """Whether a fork copied it here: its connections are the other process's."""
        return self._pid is not None and self._pid != os.getpid()

    def check_new(self) -> None:
        """Check that it was neither opened nor closed.

        Raises:
            ConfigurationError: says what to do instead.
        """
        if self._closed:
            raise ConfigurationError(_CLOSED)
        if self._pid is not None:
            raise ConfigurationError(_STARTED)

    def check_open(self) -> None:
        """Check that it is open, and that this is the process and the event loop that opened it.

        Raises:
            ConfigurationError: says what to do instead.
        """
        if self._closed:
            raise ConfigurationError(_CLOSED)
        if self._pid is None:
            raise ConfigurationError(_NOT_STARTED)
        self.check_place()
        if self.session_closed:
            raise ConfigurationError(f"{SESSION_CLOSED}: make a client with one that is open")

    def check_place(self) -> None:
        """Check that this is the process and the event loop that opened it.

        Sockets are shared across a fork, and an event loop's parts belong to one thread: from
        elsewhere one order's response could be read as another's.

        Raises:
            ConfigurationError: says what to do instead.
        """
        if self._pid != os.getpid():
            raise ConfigurationError(_OTHER_PROCESS)
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            return  # plain code, in which nothing is sent
        if running is not self._loop:
            raise ConfigurationError(_OTHER_LOOP)

    async def open(self) -> None:
        """Make the session, unless the caller's is used.

        Raises:
            ConfigurationError: it was opened before, or the caller's session is closed.
        """
        self.check_new()
        if self.session_closed:
            raise ConfigurationError(f"{SESSION_CLOSED}: give the client one that is open")
        self._loop, self._pid = asyncio.get_running_loop(), os.getpid()
        if self._user_session is None:
            session_headers = None
            if self._proxy is None:
                # Once for all requests. Not with a proxy: aiohttp adds a session's headers to its
                # CONNECT, which the proxy reads.
                session_headers, self._request_headers = self._request_headers, None
            self._owned_session = aiohttp.ClientSession(
                # The pacer bounds how many are in flight: a second bound would be a second queue.
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=session_headers,
            )

    def begin_close(self) -> None:
        """Let no call start from now on; those that run may go on until `close`.

        Raises:
            ConfigurationError: it was opened in another process or event loop.
        """
        if self._pid is not None and not self._closed:
            self.check_place()
        self._closed = True

    async def close(self) -> None:
        """End what is in flight; close the session, unless it is the caller's."""
        for request in self._requests:
            request.abort(_ClientClosedError())
        if self._timeout_timer is not None:
            self._timeout_timer.cancel()
            self._timeout_timer = None
        session, self._owned_session = self._owned_session, None
        if session is not None:
            await session.close()

    # ------------------------------------------------------------------------- one POST

    async def post(
        self, body: bytes, report_cancelled: Callable[[bool], None] | None = None
    ) -> Response:
        """Post one body and read the response.

        Args:
            body: The JSON of an order.
            report_cancelled: Called if it is cancelled, with whether the whole body may have been
                sent.

        Raises:
            NotSentError: the body surely was not sent in full.
            UnknownOutcomeError: it was, and no complete response came.
            ConfigurationError: it was opened in another process or event loop.
        """
        if self._pid is not None:
            self.check_place()
        try:
            return await self._post(body, report_cancelled)
        except BaseException as error:  # noqa: BLE001 - it is raised again
            failure = without_frames(error)
        del body, report_cancelled
        raise failure

    async def _post(self, body: bytes, report_cancelled: Callable[[bool], None] | None) -> Response:
        session = self._owned_session or self._user_session
        if session is None or session.closed:
            whose = SESSION_CLOSED if self.session_closed else "the client's session is closed"
            raise NotSentError(f"{NOT_SENT}{self.host}: {whose}")
        task = asyncio.current_task(self._loop)
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        request = _Request(task, len(body), self._clock(), report_cancelled)
        self._requests.add(request)
        if self._timeout_timer is None:
            self._schedule_check(self._check_interval_s)
        try:
            while (response := await self._try(session, body, request)) is None:
                request.next_try()
        finally:
            self._requests.discard(request)
            if request.abort_error is not None:
                task.uncancel()
        return response

    async def _try(
        self, session: aiohttp.ClientSession, body: bytes, request: _Request
    ) -> Response | None:
        """Post it over one connection; None if that one was unusable and another may be better."""
        try:
            response = await self._exchange(session, body, request)
        except BaseException as error:
            request.abort_upload()
            if request.must_propagate(error):
                request.report_cancellation()
                if isinstance(error, Exception):  # a hook of the session raised it instead
                    raise asyncio.CancelledError from None
                raise
            if self._may_try_again(request):
                return None
            raise self._error_for(request, request.abort_error or error) from None
        finally:
            if request.reused:
                self._connections.release()
        if request.connection is not None:
            self._connections.on_answered(request.connection, reused=request.reused)
        return response

    def _may_try_again(self, request: _Request) -> bool:
        """Whether the connection was unusable, and was one to expect that of.

        Connections that were answered before get closed one by one, so this ends. A fresh one that
        is unusable is not followed by another one.
        """
        if not request.unusable or request.abort_error is not None:
            return False
        if request.connection is None:  # the response came before anything looked at it
            return request.tries <= self._connections.count
        return self._connections.was_answered(request.connection)

    async def _exchange(
        self, session: aiohttp.ClientSession, body: bytes, request: _Request
    ) -> Response:
        """Send the request and read the response. Nothing else speaks HTTP."""
        response = await session.post(
            self._url,
            data=_Body(body, request, self),
            headers=self._request_headers,
            allow_redirects=False,
            timeout=self._timeout,
            raise_for_status=False,
            auto_decompress=False,
            max_field_size=_MAX_HEADER_BYTES,
            max_headers=_MAX_HEADERS,
            middlewares=(),  # one of a caller's session might repeat the POST
            proxy=self._proxy,
            upload_tracker=request.tracker,
        )
        request.last_activity_at = self._clock()
        waited_s = request.waited_s(request.last_activity_at)
        received = bytearray()
        try:
            if request.transport is None and not request.body_sent():
                # It was there before the order was written: before Python 3.12 aiohttp reads first.
                request.unusable = True
                raise UnusableConnectionError
            await self._read(response, received, request)
        except BaseException as error:
            is_success = 200 <= response.status < 300  # noqa: PLR2004
            if is_success or request.unusable or request.must_propagate(error):
                raise
            # The status is the verdict; only the message was cut short.
            request.abort_upload()
        finally:
            if response.content.at_eof() and self._connections.may_be_kept:
                response.release()
            else:
                response.close()
        return self._response(response, bytes(received), request.sent_at, waited_s)

    async def _read(
        self, response: aiohttp.ClientResponse, received: bytearray, request: _Request
    ) -> None:
        content = response.content
        while len(received) < MAX_BODY_BYTES and not content.at_eof():
            received += await content.read(MAX_BODY_BYTES - len(received))
            request.last_activity_at = self._clock()

    async def use_connection(self, request: _Request, writer: StreamWriter) -> None:
        """Check a connection right before an order is written to it.

        Raises:
            UnusableConnectionError: nothing is written.
        """
        request.connection = writer.protocol
        request.unusable = True  # until it is known to be usable
        request.reused = await self._connections.acquire(writer.protocol, writer.transport)
        request.unusable = False
        request.transport = writer.transport

    def note_sent(self, request: _Request) -> None:
        """Note that the body of a request was sent."""
        request.sent_at = request.last_activity_at = self._clock()

    def _response(
        self,
        response: aiohttp.ClientResponse,
        body: bytes,
        sent_at: float | None,
        waited_s: float,
    ) -> Response:
        headers = self._headers_without_hashes(response)
        whole = len(body) < MAX_BODY_BYTES and response.content.at_eof()
        coding = ", ".join(response.headers.getall(hdrs.CONTENT_ENCODING, ()))
        body, undecodable = decode(body, coding, headers.get(hdrs.CONTENT_TYPE), whole=whole)
        body = self._secrets.redact_body(body, whole=whole and len(body) < MAX_BODY_BYTES)
        if 300 <= response.status < 400 and hdrs.LOCATION in headers:  # noqa: PLR2004
            headers = {"Location": headers[hdrs.LOCATION]}
        return Response(response.status, headers, body, sent_at, waited_s, undecodable)

    def _headers_without_hashes(self, response: aiohttp.ClientResponse) -> Mapping[str, str]:
        """A response's headers without the hashes, in a form that can be pickled.

        Most equal those before (a Date stays the same for a second), and then are the same object:
        a report of a million orders does not hold them a million times.
        """
        if response.raw_headers != self._raw_headers:
            self._raw_headers = response.raw_headers
            self._clean_headers = CIMultiDict(
                (name, self._secrets.redact(value)) for name, value in response.headers.items()
            )
        return self._clean_headers

    # --------------------------------------------------------------------------- errors

    def _error_for(self, request: _Request, error: BaseException) -> EverlyticError:
        """The verdict on a request that ended without a complete response."""
        if request.unusable and request.abort_error is None:
            error = UnusableConnectionError()
        reason = self._reason_for(error)
        if self.session_closed and not isinstance(error, _ClientClosedError):
            reason = f"{SESSION_CLOSED} while it was in flight"
        never_connected = not request.is_tracked() and isinstance(error, _CONNECT_ERRORS)
        if never_connected or not request.body_sent():
            failure = NotSentError(f"{NOT_SENT}{self.host}: {reason}")
            failure.connected = request.connection is not None
            return failure
        if request.reused and isinstance(error, aiohttp.ClientConnectionError):
            self._connections.on_lost()
        message = f"the order was sent to {self.host}, but {reason}: it may have been processed"
        if isinstance(error, TimeoutError):
            return ResponseTimeoutError(message)
        if isinstance(error, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError | OSError):
            return ConnectionLostError(message)
        if isinstance(error, aiohttp.ClientError | ValueError):
            return UnexpectedResponseError(message)
        return UnknownOutcomeError(message)

    def _reason_for(self, error: BaseException) -> str:
        """What happened, for a person: without the hashes, and without any address."""
        if (limit := _own_limit(error)) is not None:
            return limit
        for kind, message in _ERROR_MESSAGES:
            if isinstance(error, kind):
                if isinstance(error, aiohttp.ClientHttpProxyError):
                    return f"{message} ({error.status})"
                if isinstance(error, OSError) and error.strerror and error.errno:
                    return f"{message} ({error.strerror})"
                return message
        text = redact_emails(self._secrets.redact(" ".join(str(error).split())))[:_MAX_ERROR_TEXT]
        return f"{type(error).__name__} was raised{': ' if text else ''}{text}"

    # ------------------------------------------------------------------------ time-outs

    def _schedule_check(self, delay_s: float) -> None:
        self._check_at = self._clock() + delay_s
        self._timeout_timer = self._call_later(delay_s, self._check_timeouts)

    def _check_timeouts(self) -> None:
        """Abort every request that has run out of time; check again while there are any.

        A response may have arrived that the event loop has not handed on yet. So a request ends
        only if a second check, a moment later, finds it out of time as well; and time in which the
        loop stood still (a frozen process, a blocking call) is not the endpoint's silence.
        """
        now = self._clock()
        stalled_s = now - self._check_at
        again_in = self._check_interval_s
        for request in self._requests:
            if stalled_s > self._check_interval_s:
                request.started_at += stalled_s
                if request.last_activity_at is not None:
                    request.last_activity_at += stalled_s
            error = self._timeout_error(request, now)
            if error is not None and request.is_late:
                request.abort(error)
            elif error is not None:
                again_in = min(again_in, _CONFIRM_S)
            request.is_late = error is not None
        self._timeout_timer = None
        if self._requests:
            self._schedule_check(again_in)

    def _timeout_error(self, request: _Request, now: float) -> Exception | None:
        """How a request has run out of time; None if it has not."""
        timeouts, age_s = self._timeouts, now - request.started_at
        if self._owned_session is not None and request.transport is None:
            is_late = age_s >= min(timeouts.connect_s, timeouts.total_s)
            return aiohttp.ConnectionTimeoutError() if is_late else None
        silent_since = request.last_activity_at
        is_silent = silent_since is not None and now - silent_since >= timeouts.read_s
        return TimeoutError() if is_silent or age_s >= timeouts.total_s else None


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
