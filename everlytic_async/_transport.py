"""One POST, and what surely happened to it.

A failed attempt is a `NotSentError` if its body surely was not sent in full, else an
`UnknownOutcomeError`: `_request` finds out which. Redirects are not followed (aiohttp would pass
the hashes on to another host) and cookies are not kept.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any, NoReturn, Self
from urllib.parse import urlsplit

import aiohttp
import attrs
from aiohttp import hdrs
from aiohttp.http import StreamWriter
from multidict import CIMultiDict
from yarl import URL

from everlytic_async._connections import Connections, UnusableConnectionError, since_last_data_s
from everlytic_async._direct_post import DirectPost, DirectResponse
from everlytic_async._endpoint import endpoint_url
from everlytic_async._lifecycle import Lifecycle
from everlytic_async._request import (
    NOT_SENT,
    SESSION_CLOSED,
    ClientClosedError,
    InFlight,
    Request,
    error_for,
    request_headers,
)
from everlytic_async._response import MAX_BODY_BYTES, decode, parse_charset
from everlytic_async._secrets import Secrets
from everlytic_async._waiting import CallLater, Timer, loop_call_later
from everlytic_async.errors import (
    ConfigurationError,
    ConnectionLostError,
    EverlyticError,
    NotSentError,
)
from everlytic_async.policies import Timeouts

# Shorter than the shortest common server keep-alive (Apache: 5 s), so that no order is posted on a
# connection that the server is closing.
_KEEPALIVE_S = 4
# A response's headers: the longest line, and how many. aiohttp's own limits are 8,190 and 128.
_PARSING: dict[str, Any] = {
    "auto_decompress": False,
    "max_field_size": 64 * 1024,
    "max_headers": 4096,
}
_JSON = "application/json"
# How often a caller's session is looked at, in seconds: nothing reports that it was closed.
_SESSION_CHECK_S = 0.5

_BeforeWrite = Callable[[Any, asyncio.Transport | None], Awaitable[None]]
_AfterWrite = Callable[[], None]


@attrs.frozen(slots=False)
class Response:
    """The response to one POST.

    Attributes:
        status: The HTTP status.
        headers: The response's headers without the hashes; of a redirect only where to.
        body: The body, decoded, cut at `MAX_BODY_BYTES`, without the hashes.
        sent_at: When the order was sent, by the transport's clock; None if that is not known: with
            a session that is mocked.
        waited_s: Seconds from `sent_at` to the response's head, at most.
        undecodable: What of the body can't be decoded; None if all can.
        stalled_s: Seconds of these in which the event loop stood still: a frozen process, a
            blocking call.
    """

    status: int
    headers: Mapping[str, str] = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)
    sent_at: float | None = None
    waited_s: float = 0.0
    stalled_s: float = 0.0
    undecodable: str | None = None


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
        super().__init__(body, content_type=_JSON)
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


class _Cleaner:
    """Decodes what was received, and removes the hashes from it."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        # Of the response before. Most have the same headers (a Date stays the same for a second):
        # a report of a million orders does not hold them a million times.
        self._raw_headers: object = None
        self._headers: Mapping[str, str] = {}
        self._coding: str | None = None
        self._charset: str | None = None
        # Most have the same body as well.
        self._raw_body: tuple[bytes, bool] | None = None
        self._body: tuple[bytes, str | None] = b"", None

    def clean(
        self,
        response: aiohttp.ClientResponse | DirectResponse,
        body: bytes,
        request: Request,
        waited_s: float,
    ) -> Response:
        """What is known of a response to this request."""
        if response.raw_headers != self._raw_headers:
            self._read_headers(response)
        raw_body = body, len(body) < MAX_BODY_BYTES and response.content.at_eof()
        if raw_body != self._raw_body:
            self._read_body(*raw_body)
            self._raw_body = raw_body
        headers, (body, undecodable) = self._headers, self._body
        if 300 <= response.status < 400 and hdrs.LOCATION in headers:  # noqa: PLR2004
            headers = {"Location": headers[hdrs.LOCATION]}
        return Response(
            response.status,
            headers,
            body,
            sent_at=request.sent_at,
            waited_s=waited_s,
            stalled_s=request.stalled_s,
            undecodable=undecodable,
        )

    def _read_headers(self, response: aiohttp.ClientResponse | DirectResponse) -> None:
        headers = response.headers
        self._raw_headers = response.raw_headers
        # A copy that can be pickled.
        self._headers = CIMultiDict(
            (name, self._secrets.redact(value)) for name, value in headers.items()
        )
        self._coding = ", ".join(headers.getall(hdrs.CONTENT_ENCODING, ()))
        self._charset = parse_charset(headers.get(hdrs.CONTENT_TYPE, ""))
        self._raw_body = None

    def _read_body(self, body: bytes, whole: bool) -> None:
        body, undecodable = decode(body, self._coding, self._charset, whole=whole)
        whole = whole and len(body) < MAX_BODY_BYTES
        self._body = self._secrets.redact_body(body, whole=whole), undecodable


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
        self._cleaner = _Cleaner(secrets)
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
            raise NotSentError(f"{NOT_SENT}{self.host}: {whose}")
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        cancel_requests = task.cancelling()
        if cancel_requests:
            await asyncio.sleep(0)  # one that is pending is raised here
        started_at, tries = self._clock(), 0
        while True:
            tries += 1
            request = Request(len(body), started_at, task, cancel_requests)
            self._in_flight.add(request)
            try:
                return await self._exchange(session, body, request)
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
                if request.reused:
                    self._connections.release()
                if request.abort_error is not None:
                    task.uncancel()

    def _may_try_again(self, request: Request, tries: int) -> bool:
        """Whether the connection was unusable, and was one to expect that of.

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

    async def _exchange(
        self, session: aiohttp.ClientSession, body: bytes, request: Request
    ) -> Response:
        """Send the request and read the response. Nothing else speaks HTTP."""
        before_write = partial(self._before_write, request)
        after_write = partial(self._after_write, request)
        response: aiohttp.ClientResponse | DirectResponse
        if self._direct_post is not None and self._direct_post.can_post(body):
            response = await self._direct_post.post(body, before_write, after_write)
        else:
            request.tracker = aiohttp.UploadTracker()
            response = await session.post(
                self._url,
                data=_Body(body, before_write, after_write),
                headers=None if self._session_has_headers else self._headers,
                allow_redirects=False,
                timeout=self._timeout,
                raise_for_status=False,
                middlewares=(),  # one of a caller's session might repeat the POST
                proxy=self._proxy,
                upload_tracker=request.tracker,
                **_PARSING,
            )
        if request.transport is None and not request.body_sent():
            # It was there before the order was written: before Python 3.12 aiohttp reads first.
            request.unusable = True
            response.close()
            raise UnusableConnectionError
        # Of a 503 alone it matters when it came. Asked before the clock: if the process is frozen
        # in between, it seems to have come late rather than early.
        is_503 = response.status == HTTPStatus.SERVICE_UNAVAILABLE
        ago_s = since_last_data_s(request.transport) if is_503 else 0.0
        request.last_activity_at = self._clock()
        waited_s = max(0.0, request.waited_s(request.last_activity_at - ago_s))
        received = bytearray()
        try:
            received += response.content.read_nowait(MAX_BODY_BYTES)
            if not response.content.at_eof():  # seldom
                await self._read(response.content, received, request)
        except BaseException as error:
            if 200 <= response.status < 300 or request.must_propagate(error):  # noqa: PLR2004
                raise
            # The status is the verdict; only the message was cut short.
            request.abort_upload()
        finally:
            if response.content.at_eof() and self._connections.may_be_reused:
                response.release()
            else:
                response.close()
        if request.connection is not None:
            self._connections.on_answered(request.connection, reused=request.reused)
        return self._cleaner.clean(response, bytes(received), request, waited_s)

    async def _before_write(
        self, request: Request, connection: Any, transport: asyncio.Transport | None
    ) -> None:
        request.connection = connection
        request.unusable = True  # until it is known to be usable
        if transport is not None and self._connections.is_readable(transport):
            await self._connections.read_what_arrived()
        request.reused = self._connections.acquire(connection, transport)
        request.unusable = False
        request.transport = transport

    def _after_write(self, request: Request) -> None:
        request.sent_at = request.last_activity_at = self._clock()
        request.stalled_s = 0.0

    async def _read(
        self, content: aiohttp.StreamReader, received: bytearray, request: Request
    ) -> None:
        while len(received) < MAX_BODY_BYTES and not content.at_eof():
            received += await content.read(MAX_BODY_BYTES - len(received))
            request.last_activity_at = self._clock()
