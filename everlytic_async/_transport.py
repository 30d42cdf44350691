"""One POST, and what surely happened to it.

A failed attempt is a `NotSentError` if its body surely was not sent in full, else an
`UnknownOutcomeError`: `_failures` says which. Redirects are not followed (aiohttp would pass
the hashes on to another host) and cookies are not kept.

Sockets are shared across a fork, and an event loop's parts belong to one thread: from elsewhere one
order's response could be read as another's. So a transport is used where it was opened.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NoReturn, Self
from urllib.parse import urlsplit

import aiohttp
from aiohttp.http import StreamWriter
from yarl import URL

from everlytic_async._direct_post import DirectPost, DirectResponse
from everlytic_async._endpoint import endpoint_url
from everlytic_async._failures import NOT_SENT_TO, SESSION_CLOSED, error_for
from everlytic_async._request import (
    JSON,
    ClientClosedError,
    Connections,
    InFlight,
    Request,
    UnusableConnectionError,
    request_headers,
)
from everlytic_async._response import MAX_BODY_BYTES, Cleaner, Response
from everlytic_async._secrets import Secrets
from everlytic_async._waiting import CallLater, Timer, loop_call_later
from everlytic_async.errors import (
    ConfigurationError,
    ConnectionLostError,
    EverlyticError,
    NotSentError,
)
from everlytic_async.policies import Timeouts, check_type

# Shorter than the shortest common server keep-alive (Apache: 5 s), so that no order is posted on a
# connection that the server is closing.
_KEEPALIVE_S = 4
# A response's headers: the longest line, and how many. aiohttp's own limits are 8,190 and 128.
_PARSING: dict[str, Any] = {
    "auto_decompress": False,
    "max_field_size": 64 * 1024,
    "max_headers": 4096,
}
# How often a caller's session is looked at, in seconds: nothing reports that it was closed.
_SESSION_CHECK_S = 0.5

_BeforeWrite = Callable[[Any, asyncio.Transport | None], Awaitable[None]]
_AfterWrite = Callable[[], None]


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
_OTHER_THREAD = (
    "the client was started in another thread: hand calls to its event loop with "
    "`loop.call_soon_threadsafe(...)`, coroutines with `asyncio.run_coroutine_threadsafe(...)`"
)


class Lifecycle:
    """From a client's start to its close, in one process, thread and event loop.

    What checks it raises a `ConfigurationError` that says what to do instead.
    """

    __slots__ = ("_closed", "_loop", "_pid", "_thread")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid: int | None = None  # None before the start
        self._thread: int | None = None
        self._closed = False

    @property
    def is_open(self) -> bool:
        """Whether it was started, in this process, and not closed."""
        return self._pid == os.getpid() and not self._closed

    @property
    def is_inherited(self) -> bool:
        """Whether a fork copied it here: its connections are the other process's."""
        return self._pid is not None and self._pid != os.getpid()

    def start(self) -> None:
        """Start here."""
        self._loop, self._pid = asyncio.get_running_loop(), os.getpid()
        self._thread = threading.get_ident()

    def undo_start(self) -> None:
        """What was started failed: it may be started again."""
        self._pid = None

    def close(self) -> None:
        """Let no call start from now on; checked as by `check_same_loop`."""
        if not self._closed:
            self.check_same_loop()
        self._closed = True

    def check_new(self) -> None:
        """Check that it was neither started nor closed."""
        if self.is_inherited:
            raise ConfigurationError(_OTHER_PROCESS)
        if self._closed:
            raise ConfigurationError(_CLOSED)
        if self._pid is not None:
            raise ConfigurationError(_STARTED)

    def check_open(self) -> None:
        """Check that it is open, and was started here."""
        if self._closed:
            raise ConfigurationError(_CLOSED)
        if self._pid is None:
            raise ConfigurationError(_NOT_STARTED)
        self.check_same_loop()

    def check_same_loop(self) -> None:
        """Check that it was started in this process, thread and event loop, if it was started."""
        if self._pid is None:
            return
        if self._pid != os.getpid():
            raise ConfigurationError(_OTHER_PROCESS)
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            # Plain code: it may prepare and stop what runs in this thread's event loop.
            if self._thread != threading.get_ident():
                raise ConfigurationError(_OTHER_THREAD) from None
            return
        if running is not self._loop:
            raise ConfigurationError(_OTHER_LOOP)


def without_frames(error: BaseException) -> BaseException:
    """The exception without its frames and without those it came from, to be raised again.

    The HTTP library's frames hold the headers, and so the hashes. Raise it outside of the `except`
    that caught it, which would chain it to itself; what the caller was handling is chained again.
    """
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


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

    def __init__(self, body: bytes, before_write: _BeforeWrite, after_write: _AfterWrite) -> None:
        super().__init__(body, content_type=JSON)
        self._size = len(body)
        self._before_write = before_write
        self._after_write = after_write

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The body as text."""
        body: bytes = self._value
        return body.decode(encoding, errors)

    async def write(self, writer: aiohttp.abc.AbstractStreamWriter) -> None:
        """Write it, unless the connection is unusable."""
        if isinstance(writer, StreamWriter):
            await self._before_write(writer.protocol, writer.transport)
        await writer.write(self._value)
        self._after_write()

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
        clock: Callable[[], float] = time.monotonic,
        call_later: CallLater = loop_call_later,
    ) -> None:
        if not isinstance(allow_http, bool):
            raise ConfigurationError(
                f"allow_http must be True or False, got a {type(allow_http).__name__}"
            )
        if session is not None:
            check_type("session", session, aiohttp.ClientSession)
        url = endpoint_url(base_url, allow_http=allow_http)
        secrets.check()
        self._url = URL(url)
        self._secrets = secrets
        self._proxy = secrets.proxy(self._url, allow_http=allow_http)
        #: Where the orders go, for messages: host, and port where it is not the scheme's own.
        self.host = urlsplit(url).netloc
        #: Names the endpoint and the store in a ledger, and reveals nothing of the hash.
        self.endpoint_id = secrets.endpoint_id(base_url, url)
        self._headers = request_headers(secrets)
        # Once for all requests. Not with a proxy: aiohttp adds a session's headers to its CONNECT,
        # which the proxy reads.
        self._session_has_headers = session is None and self._proxy is None
        # `InFlight` checks the time-outs. Only connecting over a caller's session is left to
        # aiohttp: waiting for its pool is not part of it.
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=None if session is None else timeouts.connect_s
        )
        self._clock = clock
        self._call_later = call_later
        self._session_timer: Timer | None = None
        self._in_flight = InFlight(timeouts, clock, call_later, limits_connecting=session is None)
        self._connections = Connections(clock)
        self._cleaner = Cleaner(secrets)
        self._user_session = session
        self._owned_session: aiohttp.ClientSession | None = None
        self._direct_post: DirectPost | None = None
        self.lifecycle = Lifecycle()

    def __repr__(self) -> str:
        return f"<Transport {self.host}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a transport holds secrets and can't be pickled")

    # ------------------------------------------------------------------------- its life

    @property
    def session_closed(self) -> bool:
        """Whether the caller's session is closed: nothing can be sent any more."""
        return self._user_session is not None and self._user_session.closed

    def check_open(self) -> None:
        """Check that an order may be sent, as `Lifecycle.check_open` does."""
        self.lifecycle.check_open()
        if self.session_closed:
            raise ConfigurationError(f"{SESSION_CLOSED}: make a client with one that is open")

    async def open(self, *, on_session_closed: Callable[[str], None] | None = None) -> None:
        """Make the session, or watch the caller's: report the reason once it is closed.

        Raises:
            ConfigurationError: it was opened before, or the caller's session is closed.
        """
        self.lifecycle.check_new()
        if self.session_closed:
            raise ConfigurationError(f"{SESSION_CLOSED}: give the client one that is open")
        self.lifecycle.start()
        if self._user_session is not None:
            if on_session_closed is not None:
                self._check_session(on_session_closed)
            return
        try:
            await self._open_session()
        except BaseException as error:  # noqa: BLE001 - it is raised again
            failure = without_frames(error)
        else:
            return
        self.lifecycle.undo_start()
        await self.close()
        raise failure

    async def _open_session(self) -> None:
        session = self._owned_session = aiohttp.ClientSession(
            # The pacer bounds how many are in flight: a second bound would be a second queue.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers if self._session_has_headers else None,
        )
        if self._session_has_headers:
            self._direct_post = await DirectPost.create(
                session, self._url, self._headers, **_PARSING
            )

    def _check_session(self, on_closed: Callable[[str], None]) -> None:
        if self.session_closed:
            on_closed(SESSION_CLOSED)
        else:
            check_again = partial(self._check_session, on_closed)
            self._session_timer = self._call_later(_SESSION_CHECK_S, check_again)

    async def close(self) -> None:
        """End what is in flight; close the session, unless it is the caller's."""
        if self._session_timer is not None:
            self._session_timer.cancel()
        self._in_flight.abort_all(ClientClosedError())
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
        self.lifecycle.check_same_loop()
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
            raise NotSentError(f"{NOT_SENT_TO}{self.host}: {whose}")
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        cancel_requests = task.cancelling()
        if cancel_requests:
            await asyncio.sleep(0)  # one that is pending is raised here
        started_at, tries = self._clock(), 0
        while True:
            tries += 1
            request = Request(
                body, task, cancel_requests, started_at, self._connections, self._clock
            )
            self._in_flight.add(request)
            try:
                return await self._exchange(session, request)
            except BaseException as error:
                request.abort_upload()
                if request.must_propagate(error):
                    if report_cancelled is not None:
                        report_cancelled(request.body_sent())
                    if isinstance(error, Exception):  # a hook of the session raised it instead
                        raise asyncio.CancelledError from None
                    raise
                if not self._may_try_again(request, tries):
                    raise self._failure(request, error) from None
                started_at = request.started_at
            finally:
                self._in_flight.discard(request)

    def _may_try_again(self, request: Request, tries: int) -> bool:
        """Whether the connection was unusable, as connections that are kept open may be.

        It ends: connections that were answered before get closed one by one, and fresh ones are not
        replaced.
        """
        if not request.unusable or request.abort_error is not None:
            return False
        if request.connection is None:  # the response came before anything looked at it
            return tries <= self._connections.count
        return self._connections.was_answered(request.connection)

    def _failure(self, request: Request, error: BaseException) -> EverlyticError:
        failure = error_for(
            request, error, self.host, self._secrets.redact, session_closed=self.session_closed
        )
        if request.reused and isinstance(failure, ConnectionLostError):
            self._connections.on_lost()
        return failure

    async def _exchange(self, session: aiohttp.ClientSession, request: Request) -> Response:
        """Send the request and read the response."""
        body, before, after = request.body, request.before_write, request.after_write
        response: aiohttp.ClientResponse | DirectResponse
        if self._direct_post is not None and self._direct_post.can_post(body):
            response = await self._direct_post.post(body, before, after)
        else:
            request.tracker = aiohttp.UploadTracker()
            response = await session.post(
                self._url,
                data=_Body(body, before, after),
                headers=None if self._session_has_headers else self._headers,
                allow_redirects=False,
                timeout=self._timeout,
                raise_for_status=False,
                middlewares=(),  # one of a caller's session might repeat the POST
                proxy=self._proxy,
                upload_tracker=request.tracker,
                **_PARSING,
            )
        status, content = response.status, response.content
        if request.transport is None and not request.body_sent():
            # The response came before the order was written: up to Python 3.11 aiohttp reads first.
            request.unusable = True
            response.close()
            raise UnusableConnectionError
        waited_s = request.on_answer(status)
        received = bytearray()
        try:
            received += content.read_nowait(MAX_BODY_BYTES)
            while len(received) < MAX_BODY_BYTES and not content.at_eof():  # seldom
                received += await content.read(MAX_BODY_BYTES - len(received))
                request.last_activity_at = self._clock()
        except BaseException as error:
            if 200 <= status < 300 or request.must_propagate(error):  # noqa: PLR2004
                raise
            # The status is the verdict; only the message was cut short.
            request.abort_upload()
        finally:
            if content.at_eof() and self._connections.may_be_reused:
                response.release()
            else:
                response.close()
        if request.connection is not None:
            self._connections.on_answered(request.connection, reused=request.reused)
        whole = len(received) < MAX_BODY_BYTES and content.at_eof()
        headers, body, undecodable = self._cleaner.clean(response, bytes(received), whole=whole)
        return Response(
            status, headers, body, request.sent_at, waited_s, request.stalled_s, undecodable
        )
