"""One POST, and what surely happened to it. The only importer of aiohttp's client.

A failed attempt is a `NotSentError` where its body surely had not left in full, and an
`UnknownOutcomeError` where it had: `aiohttp.UploadTracker` knows which. Redirects are not followed
(aiohttp would carry the hashes to another host), cookies are not kept, no more than
`MAX_BODY_BYTES` of an answer is read.

Time-outs are watched by one timer for all attempts rather than by two or three timers for each:
aiohttp's own cost a fifth of a request's CPU (``benchmarks/`` shows it). Only the connection's own
time-out is aiohttp's, for it costs nothing on a connection that stands.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from html import escape
from typing import Any, NoReturn
from urllib.parse import quote, urlsplit

import aiohttp
import attrs
from aiohttp import hdrs
from aiohttp.http import StreamWriter
from multidict import CIMultiDict
from yarl import URL

from everlytic_async._endpoint import endpoint_url, ledger_scope
from everlytic_async._wire import (
    CUSTOMER_HASH_HEADER,
    MAX_BODY_BYTES,
    STORE_HASH_HEADER,
    decode,
)
from everlytic_async.errors import (
    ConfigurationError,
    ConnectionLostError,
    EverlyticError,
    NotSentError,
    ResponseTimeoutError,
    UnexpectedResponseError,
    UnknownOutcomeError,
)
from everlytic_async.ledger import ScopeName
from everlytic_async.policies import Timeouts

# Below the shortest that servers use (Apache's 5 s): a connection that the server closes while a
# POST is on its way loses that POST.
_KEEPALIVE_S = 4
# How much later than asked a read or total time-out may be noticed: a tenth, and at most this.
_WATCH_S = 0.25
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
# Half of what aiohttp writes without waiting for the connection.
_LARGE_BYTES = 32 * 1024
# A shorter piece of a hash tells nothing.
_MIN_PIECE = 4

#: How the message of every `NotSentError` of an attempt begins; the host and the cause follow.
NOT_SENT = "the order was not sent to "

#: What aiohttp may raise, in the words of a person who must mend it. The first class that fits
#: counts. Whether the order left is not told by the class: the upload tracker knows.
CAUSES: tuple[tuple[type[BaseException], str], ...] = (
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
    (aiohttp.ClientPayloadError, "the answer broke off"),
    (aiohttp.UploadAbortedError, "the upload broke off"),
    (aiohttp.ClientResponseError, "the answer was not HTTP"),
    (aiohttp.InvalidURL, "the address is not a URL that can be used"),
    (aiohttp.NonHttpUrlClientError, "the address is not an HTTP URL"),
    (aiohttp.RedirectClientError, "the redirect was not followed"),
    (aiohttp.ClientError, "the request failed"),
    (TimeoutError, "it did not answer in time"),
    (OSError, "the connection broke"),
)
# These come before a connection stands, whatever the tracker was told.
_NEVER_CONNECTED = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
)


@attrs.frozen(slots=False)
class Answer:
    """What came back for one POST.

    Attributes:
        status: The HTTP status.
        headers: The answer's headers; of a redirect only where to, without the hashes.
        body: The body, decompressed, cut at `MAX_BODY_BYTES`, without the hashes.
        left_at: When the order left, by the transport's clock; None where that is not known: with
            a session of the caller's.
        undecodable: What of the body can't be decoded; None where all can.
        waited_s: Seconds from then to the answer's head; with a caller's session from the start of
            the attempt, for no less is known.
    """

    status: int
    headers: Mapping[str, str] = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)
    left_at: float | None = None
    waited_s: float = 0.0
    undecodable: str | None = None


class Hashes:
    """Both hashes, wrapped so that no repr, log, pickle or traceback shows them.

    Error trackers send the local variables of every frame away, so no function that may raise, or
    that waits, keeps a hash in one: not even in a dict.
    """

    __slots__ = ("_customer", "_store")

    def __init__(self, store_hash: object, customer_hash: object) -> None:
        self._store = store_hash.strip() if isinstance(store_hash, str) else store_hash
        self._customer = customer_hash.strip() if isinstance(customer_hash, str) else customer_hash

    def __reduce__(self) -> NoReturn:
        raise TypeError("the hashes can't be pickled")

    def check(self) -> None:
        """Check that both can be the value of a header.

        Raises:
            ConfigurationError: says which one can't, and not what it is.
        """
        fault = _hash_fault("store_hash", self._store) or _hash_fault(
            "customer_hash", self._customer
        )
        if fault:
            raise ConfigurationError(fault)

    def headers(self) -> dict[str, str]:
        """The two headers."""
        return {STORE_HASH_HEADER: str(self._store), CUSTOMER_HASH_HEADER: str(self._customer)}

    def scope(self, base_url: str, url: str) -> ScopeName:
        """What stands for the endpoint and the store in a ledger, and tells nothing of the hash."""
        return ledger_scope(base_url, url, str(self._store))

    def spellings(self) -> tuple[bytes, ...]:
        """How a server may repeat them; longest first, in case that one is a part of another."""
        found = {
            spelling.encode()
            for secret in (str(self._store), str(self._customer))
            for spelling in _spellings(secret)
        }
        return tuple(sorted(found, key=len, reverse=True))


def _hash_fault(name: str, value: object) -> str | None:
    """What is wrong with a hash. It is returned, not raised: this frame holds the value."""
    where = f"{name} (EVERLYTIC_{name.upper()})"
    if not isinstance(value, str) or not value:
        return (
            f"{where} is missing: copy it from the store's page in Everlytic, and set it there or "
            "pass it to EverlyticClient"
        )
    if not value.isascii() or not value.isprintable() or " " in value:
        return (
            f"{where} holds a space, a control character or a letter outside of ASCII: copy it "
            "again from the store's page in Everlytic"
        )
    return None


def without_frames(error: BaseException) -> BaseException:
    """The exception without its frames and without those it came from, to be raised again.

    The HTTP library's frames hold the headers, and so the hashes. Raise it outside of the `except`
    that caught it, which would chain it to itself; what the caller was handling is chained again.
    """
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


class _Connector(aiohttp.TCPConnector):
    """Never reuses a connection at which something waits that nobody had asked for.

    aiohttp would take it for the answer to the next order, which so would count as sent unread.
    It has asyncio make less room for what comes, and tells the attempt when its connection stood:
    what is written then is at a limiter but for the network's time, while making the connection may
    have taken much longer.
    """

    def __init__(self, clock: Callable[[], float], **settings: Any) -> None:
        super().__init__(**settings)
        self._clock = clock

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[aiohttp.tracing.Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the name is aiohttp's
    ) -> aiohttp.connector.Connection:
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            if protocol is None or not protocol.should_close:
                attempt = _CONNECTING.get(None)
                if attempt is not None:
                    attempt.left_at = self._clock()
                # asyncio's transports for plain sockets (others have no such attribute) make room
                # for 256 KiB for each answer of 150 bytes. The C library gets that from the kernel
                # and gives it back each time, a fifth of an order's CPU; this it has on its heap.
                transport: Any = connection.transport
                if getattr(transport, "max_size", 0) > MAX_BODY_BYTES:
                    transport.max_size = MAX_BODY_BYTES
                return connection
            connection.close()


class _LargeBody(aiohttp.Payload):
    """A body that knows the connection that it is written to.

    A connection that is only closed still sends what the event loop holds for it: an order given up
    on its way would reach the endpoint after all. aiohttp takes what is shorter as sent at once.
    """

    _autoclose = True  # there is nothing to close

    def __init__(self, body: bytes, clock: Callable[[], float]) -> None:
        super().__init__(body, content_type=_JSON)
        self._size = len(body)
        self._clock = clock
        #: When it was written, except for what the event loop may still hold; None until then.
        self.written_at: float | None = None
        self.to: asyncio.Transport | None = None

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The body as text."""
        body: bytes = self._value
        return body.decode(encoding, errors)

    async def write(self, writer: aiohttp.abc.AbstractStreamWriter) -> None:
        """Write it, and take note of where to."""
        if isinstance(writer, StreamWriter):
            self.to = writer.transport
        await writer.write(self._value)
        self.written_at = self._clock()

    async def write_with_length(
        self,
        writer: aiohttp.abc.AbstractStreamWriter,
        content_length: int | None,  # noqa: ARG002 - what was announced is its length
    ) -> None:
        """Write it."""
        await self.write(writer)


class _Attempt:
    """One POST under way, as the watch sees it."""

    __slots__ = (
        "answered_at",
        "began",
        "body",
        "cancelled",
        "cancelling",
        "closed",
        "expired",
        "left_at",
        "progress",
        "size",
        "task",
        "tracker",
    )

    def __init__(
        self,
        task: asyncio.Task[object],
        tracker: aiohttp.UploadTracker,
        size: int,
        began: float,
        body: _LargeBody | None = None,
        cancelled: Callable[[bool], None] | None = None,
    ) -> None:
        self.task = task
        self.cancelled = cancelled
        self.tracker = tracker
        self.body = body
        self.size = size
        self.began = began
        #: When the head of the answer had arrived.
        self.answered_at = began
        #: When its connection stood, and it left; None until then, or where that is not told.
        self.left_at: float | None = None
        #: When the endpoint last had its turn; None until the body is on its way.
        self.progress: float | None = None
        self.cancelling = task.cancelling()
        self.expired = False
        #: Whether that was not for want of time, but because the client was closed.
        self.closed = False

    def left(self) -> bool:
        """Whether the whole body may have reached the endpoint."""
        if self.tracker.bytes_written >= self.size:
            return True  # even if the upload counts as broken off: it was cut right at its end
        upload = self.tracker.upload_complete
        if not upload.done() and self.tracker.attempts == 0:
            return True  # it was never told: a session that knows no trackers
        return upload.done() and not upload.cancelled() and upload.exception() is None

    def waited_s(self) -> float:
        """Seconds from the body being sent to the answer, rather too many than too few."""
        sent_at = self.left_at if self.body is None else self.body.written_at
        if sent_at is None:
            # Either the answer came before the upload was over, or nobody knows when that was.
            sent_at = self.began if self.left() else self.answered_at
        return max(0.0, self.answered_at - sent_at)

    def tell_cancelled(self) -> None:
        """Say whether it may have been processed, for there will be no verdict."""
        if self.cancelled is not None:
            self.cancelled(self.left())

    def cut(self) -> None:
        """See to it that a body which has not left in full never does."""
        if self.body is not None and self.body.to is not None and not self.left():
            self.body.to.abort()


_CONNECTING: ContextVar[_Attempt] = ContextVar("connecting")


class Transport:
    """Posts bodies to one endpoint over one session, its own or the caller's."""

    def __init__(
        self,
        base_url: str,
        *,
        hashes: Hashes,
        timeouts: Timeouts,
        session: aiohttp.ClientSession | None = None,
        allow_http: bool = False,
        user_agent: str = "everlytic_async",
        clock: Callable[[], float] = time.monotonic,
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
        hashes.check()
        self._url = URL(url)
        #: Where the orders go, for messages: host, and port where it is not the scheme's own.
        self.host = urlsplit(url).netloc
        #: Stands for the endpoint and the store, and tells nothing of the hash.
        self.scope = hashes.scope(base_url, url)
        self._secrets = hashes.spellings()
        self._headers = CIMultiDict(
            {
                **hashes.headers(),
                "Content-Type": _JSON,
                "Accept": _JSON,
                "Accept-Encoding": "identity",
                "User-Agent": user_agent,
            }
        )
        self._timeouts = timeouts
        # total=None and no sock_read: the watch sees to them.
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect_s)
        self._watch_s = min(_WATCH_S, timeouts.read_s / 10, timeouts.total_s / 10)
        self._clock = clock
        self._attempts: set[_Attempt] = set()
        self._watch: asyncio.TimerHandle | None = None
        self._given = session
        self._own: aiohttp.ClientSession | None = None
        # Where it was opened; None before.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid: int | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Transport {self.host}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a transport holds secrets and can't be pickled")

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

    def check_place(self) -> None:
        """Check that this is the process and the event loop that opened it.

        Sockets are shared across a fork, and an event loop's parts belong to one thread: from
        elsewhere one order's answer could be read as another's.

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
        if self._given is not None and self._given.closed:
            raise ConfigurationError("session is closed: give the client one that is open")
        self._loop, self._pid = asyncio.get_running_loop(), os.getpid()
        if self._given is None:
            self._own = aiohttp.ClientSession(
                # The pacer bounds how many are in flight: a second bound would be a second queue.
                connector=_Connector(self._clock, limit=0, keepalive_timeout=_KEEPALIVE_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=self._headers,  # once for all requests
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
        for attempt in self._attempts:
            _expire(attempt, closed=True)
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        own, self._own = self._own, None
        if own is not None:
            await own.close()

    async def post(self, body: bytes, cancelled: Callable[[bool], None] | None = None) -> Answer:
        """Post one body and read the answer.

        Args:
            body: The JSON of an order.
            cancelled: Told, when it is cancelled, whether the whole body may have left.

        Raises:
            NotSentError: when the body surely had not left in full.
            UnknownOutcomeError: when it had, and no complete answer came.
            ConfigurationError: when it was opened in another process or event loop.
        """
        if self._pid is not None:
            self.check_place()
        try:
            return await self._post(body, cancelled)
        except BaseException as error:  # noqa: BLE001 - it is raised again
            failure = without_frames(error)
        del body, cancelled
        raise failure

    async def _post(self, body: bytes, cancelled: Callable[[bool], None] | None) -> Answer:
        session = self._own or self._given
        if session is None or session.closed:
            raise NotSentError(f"{NOT_SENT}{self.host}: the session is closed")
        task = asyncio.current_task(self._loop)
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        tracker = aiohttp.UploadTracker()
        size = len(body)
        large = _LargeBody(body, self._clock) if size > _LARGE_BYTES else None
        attempt = _Attempt(task, tracker, size, self._clock(), large, cancelled)
        self._attempts.add(attempt)
        token = _CONNECTING.set(attempt)
        if self._watch is None:
            self._watch = task.get_loop().call_later(self._watch_s, self._look)
        response: aiohttp.ClientResponse | None = None
        received: bytes | bytearray = b""
        try:
            response = await session.post(
                self._url,
                data=body if large is None else large,
                headers=None if self._own is not None else self._headers,
                allow_redirects=False,
                timeout=self._timeout,
                raise_for_status=False,
                auto_decompress=False,
                middlewares=(),  # one of a caller's session might repeat the POST
                upload_tracker=tracker,
            )
            attempt.answered_at = self._clock()
            content = response.content
            if content.is_eof() and content.total_bytes <= MAX_BODY_BYTES:
                # A short answer, whole in one packet: the rule.
                received = content.read_nowait()
            else:
                attempt.progress = self._clock()
                received = bytearray()
                await self._read(response, received, attempt)
        except asyncio.CancelledError:
            # As in asyncio.timeout(): it was ours only if nobody else asks for it too.
            attempt.cut()
            if not attempt.expired or task.cancelling() > attempt.cancelling + 1:
                attempt.tell_cancelled()
                raise
            cause = self._explain(attempt, None)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # ValueError: aiohttp's parsers let one through for some malformed answers.
            cause = self._explain(attempt, error)
        else:
            return self._answer(response, bytes(received), attempt)
        finally:
            _CONNECTING.reset(token)
            self._attempts.discard(attempt)
            if attempt.expired:
                task.uncancel()
            if response is not None:
                _let_go(response)
        if response is not None and not 200 <= response.status < 300:  # noqa: PLR2004
            # The status is the verdict; only the message was cut short.
            return self._answer(response, bytes(received), attempt)
        raise cause

    async def _read(
        self, response: aiohttp.ClientResponse, received: bytearray, attempt: _Attempt
    ) -> None:
        content = response.content
        while len(received) < MAX_BODY_BYTES and not content.at_eof():
            received += await content.read(MAX_BODY_BYTES - len(received))
            attempt.progress = self._clock()

    def _answer(self, response: aiohttp.ClientResponse, body: bytes, attempt: _Attempt) -> Answer:
        headers: Mapping[str, str] = response.headers
        whole = len(body) < MAX_BODY_BYTES and response.content.at_eof()
        coding = ", ".join(response.headers.getall(hdrs.CONTENT_ENCODING, ()))
        body, undecodable = decode(body, coding, headers.get(hdrs.CONTENT_TYPE), whole=whole)
        for secret in self._secrets:
            if secret in body:
                body = body.replace(secret, b"[hash]")
        if not whole or len(body) >= MAX_BODY_BYTES:
            body = self._without_a_piece(body)
        if 300 <= response.status < 400 and hdrs.LOCATION in headers:  # noqa: PLR2004
            where = headers[hdrs.LOCATION]
            for secret in self._secrets:
                where = where.replace(secret.decode(), "[hash]")
            headers = {"Location": where}
        return Answer(
            response.status, headers, body, attempt.left_at, attempt.waited_s(), undecodable
        )

    def _without_a_piece(self, body: bytes) -> bytes:
        """Drop from the end of a body that was cut what may be the beginning of a hash."""
        for secret in self._secrets:
            for size in range(len(secret) - 1, _MIN_PIECE - 1, -1):
                if body.endswith(secret[:size]):
                    return body[:-size]
        return body

    def _explain(self, attempt: _Attempt, error: BaseException | None) -> EverlyticError:
        """The verdict on an attempt that ended without a complete answer."""
        closed = error is None and attempt.closed
        if error is None:
            error = TimeoutError()
        why = next(
            (why for cause, why in CAUSES if isinstance(error, cause)), "the answer was malformed"
        )
        if closed:
            why = "the client was closed while it was in flight"
        if isinstance(error, OSError) and error.strerror and error.errno:
            why = f"{why} ({error.strerror})"
        if isinstance(error, _NEVER_CONNECTED) or not attempt.left():
            failure = NotSentError(f"{NOT_SENT}{self.host}: {why}")
            failure.connected = _connection_stood(attempt, error)
            return failure
        told = f"the order was sent to {self.host}, but {why}: it may have been processed"
        if closed:
            return UnknownOutcomeError(told)
        if isinstance(error, TimeoutError):
            return ResponseTimeoutError(told)
        if isinstance(error, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError | OSError):
            return ConnectionLostError(told)
        return UnexpectedResponseError(told)

    def _look(self) -> None:
        """Cancel every attempt that has run out of time; look again while there are any."""
        now = self._clock()
        total_s, read_s = self._timeouts.total_s, self._timeouts.read_s
        for attempt in self._attempts:
            if attempt.progress is None and attempt.left():
                attempt.progress = now
            silent = attempt.progress is not None and now - attempt.progress >= read_s
            if silent or now - attempt.began >= total_s:
                _expire(attempt)
        self._watch = None
        if self._attempts:
            loop = asyncio.get_running_loop()
            self._watch = loop.call_later(self._watch_s, self._look)


def _spellings(secret: str) -> set[str]:
    """How a server may repeat a hash: as it is, in JSON (PHP's escapes slashes), a URL or HTML."""
    in_json = json.dumps(secret)[1:-1]
    return {secret, in_json, in_json.replace("/", "\\/"), quote(secret, safe=""), escape(secret)}


def _expire(attempt: _Attempt, *, closed: bool = False) -> None:
    """Cancel an attempt that has no time left, or whose client is closed."""
    if not attempt.expired:
        attempt.expired, attempt.closed = True, closed
        attempt.cut()
        attempt.task.cancel()


def _connection_stood(attempt: _Attempt, error: BaseException) -> bool:
    """Whether the order was under way already when it was cut."""
    if isinstance(error, TimeoutError):
        return attempt.tracker.bytes_written > 0
    return isinstance(
        error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError | ConnectionError
    ) and not isinstance(error, aiohttp.ClientConnectorError)


def _let_go(response: aiohttp.ClientResponse) -> None:
    """Give the connection back where the answer was read to its end, else close it."""
    if response.content.at_eof():
        response.release()
    else:
        response.close()
