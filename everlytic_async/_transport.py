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
import errno
import json
import os
import select
import socket
import time
from collections.abc import Callable, Mapping
from html import escape
from typing import Any, NoReturn, Protocol, Self
from urllib.parse import quote, urlsplit
from weakref import WeakKeyDictionary

import aiohttp
import attrs
from aiohttp import hdrs
from aiohttp.http import StreamWriter
from multidict import CIMultiDict
from yarl import URL

from everlytic_async._endpoint import endpoint_url, ledger_scope
from everlytic_async._hosts import is_loopback
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
    redact_emails,
)
from everlytic_async.ledger import ScopeName
from everlytic_async.policies import Timeouts

# Below the shortest that servers use (Apache's 5 s): a connection that the server closes while a
# POST is on its way loses that POST.
_KEEPALIVE_S = 4
# How much later than asked a read or total time-out may be noticed: a tenth, and at most this.
_WATCH_S = 0.25
# How soon an attempt that was found out of time is looked at again.
_CONFIRM_S = 0.01
# A response's headers: the longest line, and how many. aiohttp's own bounds are 8,190 and 128.
_MAX_HEADER_BYTES = 64 * 1024
_MAX_HEADERS = 4096
# An answer on a reused connection lets so many times as many orders go out on reused ones, up to
# any number. After a loss that is so only once the connection has stood for a while: some servers
# close it a few milliseconds after an answer, and answer what comes until then.
_GROWTH = 4
_ANY = 1 << 16
_PROVEN_S = 0.1
# How many orders go out on fresh connections after the second loss (twice as many after each
# further one, but no more than the longest), and after how many answers on reused connections the
# losses are forgotten.
_REST = 64
_LONGEST_REST = 8192
_FORGET = 1000
# How many turns the event loop needs to hand on what the kernel holds for a connection.
_TURNS = 4
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
# Of an error that was not foreseen, no more than this is repeated.
_MAX_WORDS = 200
# A shorter piece of a hash tells nothing.
_MIN_PIECE = 4

#: What is said where the caller's session was closed.
SESSION_CLOSED = "the caller's session is closed"
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
_FILES = "lower max_concurrency, or raise the limit (ulimit -n)"
# Not the endpoint's fault: what it is, and what to do.
_OWN_LIMITS = {
    errno.EMFILE: f"this process has no file descriptors left: {_FILES}",
    errno.ENFILE: f"this machine has no file descriptors left: {_FILES}",
    errno.ENOMEM: "this machine has no memory left for a connection: lower max_concurrency",
    errno.ENOBUFS: "this machine has no memory left for a connection: lower max_concurrency",
    errno.EADDRNOTAVAIL: "this machine has no local port left for a connection: lower max_rate",
}
# These come before a connection stands: they tell where the upload tracker was told nothing.
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
        headers: The answer's headers without the hashes; of a redirect only where to.
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


class Secrets:
    """Both hashes and the proxy, wrapped so that no repr, log, pickle or traceback shows them.

    Error trackers send the local variables of every frame away, so no function that may raise, or
    that waits, keeps a hash in one: not even in a dict.
    """

    __slots__ = ("_customer", "_proxy", "_store")

    def __init__(self, store_hash: object, customer_hash: object, proxy: object = None) -> None:
        self._store = store_hash.strip() if isinstance(store_hash, str) else store_hash
        self._customer = customer_hash.strip() if isinstance(customer_hash, str) else customer_hash
        self._proxy = proxy.strip() if isinstance(proxy, str) else proxy

    def __reduce__(self) -> NoReturn:
        raise TypeError("secrets can't be pickled")

    def check(self) -> None:
        """Check that both hashes can be the value of a header.

        Raises:
            ConfigurationError: says which one can't, and not what it is.
        """
        fault = _hash_fault("store_hash", self._store) or _hash_fault(
            "customer_hash", self._customer
        )
        if fault:
            raise ConfigurationError(fault)

    def headers(self) -> dict[str, str]:
        """The headers of the two hashes."""
        return {STORE_HASH_HEADER: str(self._store), CUSTOMER_HASH_HEADER: str(self._customer)}

    def scope(self, base_url: str, url: str) -> ScopeName:
        """What stands for the endpoint and the store in a ledger, and tells nothing of the hash."""
        return ledger_scope(base_url, url, str(self._store))

    def proxy(self, url: URL, *, allow_http: bool) -> URL | None:
        """The address of the proxy, with its user and password if there are any.

        Raises:
            ConfigurationError: when it can't be used for this endpoint.
        """
        fault = _proxy_fault(self._proxy, url, allow_http=allow_http)
        if fault:
            raise ConfigurationError(fault)
        return None if self._proxy is None else URL(str(self._proxy))

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


def _proxy_fault(value: object, url: URL, *, allow_http: bool) -> str | None:
    """What is wrong with a proxy. It is returned, not raised: this frame holds the password."""
    if value is None:
        return None
    if not isinstance(value, str):
        return f"proxy must be a URL, got a {type(value).__name__}"
    fault = "proxy must be a URL such as http://proxy.example:3128 or http://user:password@host"
    try:
        proxy = URL(value)
        host, _ = proxy.host, proxy.port
    except ValueError:
        host = None
    if host is None:
        return fault
    if proxy.scheme != "http":
        return (
            f"{fault}: other kinds (https, socks) need a session of your own with a connector "
            "that knows them; pass it as `session`"
        )
    if proxy.path not in ("", "/") or proxy.query_string or proxy.fragment:
        return f"{fault}, without a path, query or fragment"
    if url.scheme == "http" and not allow_http and not is_loopback(host):
        # Such a request goes through a proxy in clear.
        return (
            "proxy can't be used for an http:// base_url: the proxy would read the hashes and the "
            "orders; use https://, or, if that is meant, set allow_http=True"
        )
    return None


class _Reuse:
    """How many orders may be out on reused connections at once.

    A server may close its connections soon after each answer without saying so; an order that is
    written to such a connection is lost, and nobody knows whether it was processed. So one order at
    a time tries a reused connection until one was answered; each answer there lets more of them try
    at once. After a loss it is the same again, but only answers on a connection that has stood for
    a while count. Each further loss doubles the number of orders that first go out on fresh ones.
    """

    __slots__ = ("_answered", "_fresh", "_losses", "_out", "_window")

    def __init__(self) -> None:
        self._window = 1
        self._out = 0
        self._losses = 0
        self._fresh = 0  # answered on fresh connections since the last loss
        self._answered = 0  # answered on reused connections since the last loss

    @property
    def worth_keeping(self) -> bool:
        """Whether a connection that was answered may be reused."""
        return self._window > 0

    def take(self) -> bool:
        """Take a place; False where too many orders are out on reused connections."""
        if self._out >= self._window:
            return False
        self._out += 1
        return True

    def give_back(self) -> None:
        """Give the place back."""
        self._out -= 1

    def answered(self, stood_s: float | None) -> None:
        """An order was answered, on a connection that was answered first so long ago, if ever."""
        if stood_s is None:
            self._fresh += 1
            if not self._window and self._fresh >= self._rest():
                self._window = 1
            return
        self._answered += 1
        if not self._losses or stood_s >= _PROVEN_S:
            self._window = min(self._window * _GROWTH, _ANY)
        if self._losses and self._answered >= _FORGET:
            self._losses = 0

    def lost(self) -> None:
        """An order was lost without an answer on a reused connection."""
        if self._out <= self._window:  # those that were out with it are the same loss
            self._losses += 1
        self._fresh = self._answered = 0
        self._window = 0 if self._rest() else 1

    def _rest(self) -> int:
        """How many orders go out on fresh connections before a reused one is tried again."""
        return 0 if self._losses <= 1 else min(_REST << (self._losses - 2), _LONGEST_REST)


class _Body(aiohttp.Payload, bytes):
    """The body of one POST: the last to look at the connection before anything is written to it.

    aiohttp writes the headers together with the beginning of the body, so nothing has left if this
    raises. It is asked here and not when the connection is taken from the pool because aiohttp lets
    the event loop turn in between, and because a caller's session has its own connector.

    A connection that is only closed still sends what the event loop holds for it: an order given up
    on its way would reach the endpoint after all. So the body knows what it is written to.

    It is bytes as well, for whoever puts something else in the session's place: a mock, a recorder.
    """

    _autoclose = True  # there is nothing to close

    def __new__(cls, body: bytes, *_: object) -> Self:
        return bytes.__new__(cls, body)

    def __init__(self, body: bytes, attempt: _Attempt, transport: Transport) -> None:
        super().__init__(body, content_type=_JSON)
        self._size = len(body)
        self._attempt = attempt
        self._owner = transport

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The body as text."""
        body: bytes = self._value
        return body.decode(encoding, errors)

    async def write(self, writer: aiohttp.abc.AbstractStreamWriter) -> None:
        """Write it, unless the connection is of no use."""
        if isinstance(writer, StreamWriter):
            await self._owner.check_connection(writer, self._attempt)
        self._attempt.left_at = self._owner.now()
        await writer.write(self._value)
        self._attempt.sent_at = self._owner.now()

    async def write_with_length(
        self,
        writer: aiohttp.abc.AbstractStreamWriter,
        content_length: int | None,  # noqa: ARG002 - what was announced is its length
    ) -> None:
        """Write it."""
        await self.write(writer)


class _Timer(Protocol):
    def cancel(self) -> None:
        """Don't call back."""


CallLater = Callable[[float, Callable[[], None]], _Timer]


def _loop_call_later(delay_s: float, callback: Callable[[], None]) -> _Timer:
    return asyncio.get_running_loop().call_later(delay_s, callback)


class _UnusableConnectionError(Exception):
    """The connection is not to be written to; nothing has been."""


class _Attempt:
    """One POST under way, as the watch sees it."""

    __slots__ = (
        "answered_at",
        "began",
        "cancelled",
        "cancelling",
        "closed",
        "connection",
        "expired",
        "late",
        "left_at",
        "progress",
        "reused",
        "sent_at",
        "size",
        "task",
        "to",
        "tracker",
        "tries",
        "unusable",
    )

    def __init__(
        self,
        task: asyncio.Task[object],
        size: int,
        began: float,
        cancelled: Callable[[bool], None] | None = None,
    ) -> None:
        self.task = task
        self.cancelled = cancelled
        self.size = size
        self.began = began
        #: When the head of the response had arrived.
        self.answered_at = began
        #: When the endpoint last had its turn; None until the body is on its way.
        self.progress: float | None = None
        self.cancelling = task.cancelling()
        #: Whether the last look found it out of time.
        self.late = False
        self.expired = False
        #: Whether that was not for want of time, but because the client was closed.
        self.closed = False
        self.tries = 0
        self.next_try()

    def next_try(self) -> None:
        """Forget a connection that nothing was written to."""
        self.tries += 1
        self.tracker = aiohttp.UploadTracker()  # one is for one request
        #: aiohttp's protocol of the connection, and its transport once the order is written to it.
        self.connection: object = None
        self.to: asyncio.Transport | None = None
        #: When it was written; None until then, or where the session does that in its own way.
        self.left_at: float | None = None
        #: When it was, except for what the event loop may still hold; None until then.
        self.sent_at: float | None = None
        #: Whether it holds a place among those on reused connections.
        self.reused = False
        #: Whether the connection was not written to because it had ended, or is not to be reused.
        self.unusable = False

    def tracked(self) -> bool:
        """Whether the session told the upload tracker anything: a mocked one does not."""
        return self.tracker.attempts > 0 or self.tracker.upload_complete.done()

    def left(self) -> bool:
        """Whether the whole body may have reached the endpoint."""
        if self.tracker.bytes_written >= self.size:
            return True  # even if the upload counts as broken off: it was cut right at its end
        if not self.tracked():
            return True
        upload = self.tracker.upload_complete
        return upload.done() and not upload.cancelled() and upload.exception() is None

    def waited_s(self) -> float:
        """Seconds from the body being sent to the answer, rather too many than too few."""
        sent_at = self.sent_at
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
        if self.to is not None and not self.left():
            self.to.abort()

    def cancelled_from_outside(self) -> bool:
        """Whether anybody but the watch has asked for its task to be cancelled."""
        return self.task.cancelling() > self.cancelling + self.expired


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
        self._proxy = secrets.proxy(self._url, allow_http=allow_http)
        #: Where the orders go, for messages: host, and port where it is not the scheme's own.
        self.host = urlsplit(url).netloc
        #: Stands for the endpoint and the store, and tells nothing of the hash.
        self.scope = secrets.scope(base_url, url)
        self._secrets = secrets.spellings()
        self._headers = CIMultiDict(
            {
                **secrets.headers(),
                "Content-Type": _JSON,
                "Accept": _JSON,
                "Accept-Encoding": "identity",
                "User-Agent": user_agent,
            }
        )
        self._timeouts = timeouts
        # The watch sees to the time-outs. Only connecting over a caller's session is left to
        # aiohttp: waiting for a place in its pool is not part of it.
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=None if session is None else timeouts.connect_s
        )
        self._watch_s = min(
            _WATCH_S, timeouts.connect_s / 10, timeouts.read_s / 10, timeouts.total_s / 10
        )
        self._clock = clock
        self._call_later = call_later
        self._attempts: set[_Attempt] = set()
        self._watch: _Timer | None = None
        self._look_at = 0.0  # when the watch is due
        self._raw_headers: object = None
        self._clean_headers: Mapping[str, str] = {}
        self._reuse = _Reuse()
        #: Every connection that was answered, and when first.
        self._stood: WeakKeyDictionary[object, float] = WeakKeyDictionary()
        # Not on every system; without it an end that the loop has not read yet is not seen.
        self._poll: Any = select.poll() if hasattr(select, "poll") else None
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
    def session_closed(self) -> bool:
        """Whether the caller's session is closed: nothing can be sent any more."""
        return self._given is not None and self._given.closed

    def now(self) -> float:
        """The time by its clock."""
        return self._clock()

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
            raise ConfigurationError(f"{SESSION_CLOSED}: give the client one that is open")
        self._loop, self._pid = asyncio.get_running_loop(), os.getpid()
        if self._given is None:
            self._own = aiohttp.ClientSession(
                # The pacer bounds how many are in flight: a second bound would be a second queue.
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                # Once for all requests. Not with a proxy: aiohttp adds a session's headers to its
                # CONNECT, which the proxy reads.
                headers=None if self._proxy is not None else self._headers,
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
            whose = SESSION_CLOSED if self.session_closed else "the client's session is closed"
            raise NotSentError(f"{NOT_SENT}{self.host}: {whose}")
        task = asyncio.current_task(self._loop)
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        attempt = _Attempt(task, len(body), self._clock(), cancelled)
        self._attempts.add(attempt)
        if self._watch is None:
            self._look_again_in(self._watch_s)
        try:
            end = await self._try(session, body, attempt)
            while end is None:
                attempt.next_try()
                end = await self._try(session, body, attempt)
        finally:
            self._attempts.discard(attempt)
            if attempt.expired:
                task.uncancel()
        if isinstance(end, Answer):
            return end
        raise end

    async def _try(
        self, session: aiohttp.ClientSession, body: bytes, attempt: _Attempt
    ) -> Answer | EverlyticError | None:
        """Post it over one connection; None where a reused one was of no use, and another may be.

        Such a connection is closed, so that there are fewer of them with each try.
        """
        response: aiohttp.ClientResponse | None = None
        received: bytes | bytearray = b""
        failure: BaseException
        try:
            response = await self._send(session, body, attempt)
            attempt.answered_at = self._clock()
            content = response.content
            if content.is_eof() and content.total_bytes <= MAX_BODY_BYTES:
                # A short answer, whole in one packet: the rule.
                received = content.read_nowait()
            else:
                attempt.progress = self._clock()
                received = bytearray()
                await self._read(response, received, attempt)
            answer = self._answer(response, bytes(received), attempt)
        except BaseException as error:  # noqa: BLE001 - hooks and proxies raise what they like
            attempt.cut()
            failure = self._end_of(attempt, error)
        else:
            self._answered(attempt)
            return answer
        finally:
            if attempt.reused:
                attempt.reused = False
                self._reuse.give_back()
            if response is not None:
                self._let_go(response)
        if not isinstance(failure, EverlyticError):
            attempt.tell_cancelled()
            raise failure.with_traceback(None)  # without aiohttp's frames: they hold the hashes
        if response is not None and not attempt.unusable and not 200 <= response.status < 300:  # noqa: PLR2004
            # The status is the verdict; only the message was cut short.
            return self._answer(response, bytes(received), attempt)
        # A connection that was never answered is not followed by another one at once.
        again = attempt.unusable and not attempt.expired and attempt.tries <= len(self._stood)
        return None if again else failure

    async def _send(
        self, session: aiohttp.ClientSession, body: bytes, attempt: _Attempt
    ) -> aiohttp.ClientResponse:
        """Send the request and read the headers of the response."""
        response = await session.post(
            self._url,
            data=_Body(body, attempt, self),
            headers=self._headers if self._own is None or self._proxy is not None else None,
            allow_redirects=False,
            timeout=self._timeout,
            raise_for_status=False,
            auto_decompress=False,
            max_field_size=_MAX_HEADER_BYTES,
            max_headers=_MAX_HEADERS,
            middlewares=(),  # one of a caller's session might repeat the POST
            proxy=self._proxy,
            upload_tracker=attempt.tracker,
        )
        if attempt.left_at is None and not attempt.left():
            # It was there before the order was written: before Python 3.12 aiohttp reads first.
            attempt.unusable = True
            self._let_go(response)
            raise _UnusableConnectionError
        return response

    async def _read(
        self, response: aiohttp.ClientResponse, received: bytearray, attempt: _Attempt
    ) -> None:
        content = response.content
        while len(received) < MAX_BODY_BYTES and not content.at_eof():
            received += await content.read(MAX_BODY_BYTES - len(received))
            attempt.progress = self._clock()

    async def check_connection(self, writer: StreamWriter, attempt: _Attempt) -> None:
        """Look at a connection right before an order is written to it.

        Raises:
            _UnusableConnectionError: it has ended, or something waits there that nobody asked for
                (aiohttp would take it for the answer to this order), or it must not be reused now.
        """
        protocol: Any = writer.protocol
        to = writer.transport
        attempt.connection = protocol
        attempt.unusable = True  # until it is known to be of use
        if to is None:
            return  # aiohttp refuses to write
        if self._is_readable(to):
            # The end of a connection is in the kernel until the event loop has read it. It has
            # after two turns; asyncio's TLS hands it on after another one.
            for _ in range(_TURNS):
                await asyncio.sleep(0)
        reused = protocol in self._stood
        attempt.unusable = (
            to.is_closing() or protocol.should_close or (reused and not self._reuse.take())
        )
        if attempt.unusable:
            raise _UnusableConnectionError
        if not reused and getattr(to, "max_size", 0) > MAX_BODY_BYTES:
            # asyncio's transports for plain sockets (others have no such attribute) make room for
            # 256 KiB for each answer of 150 bytes. The C library gets that from the kernel and
            # gives it back each time, a fifth of an order's CPU; this it has on its heap.
            setattr(to, "max_size", MAX_BODY_BYTES)  # noqa: B010 - not of every transport
        attempt.reused = reused
        attempt.to = to

    def _is_readable(self, to: asyncio.Transport) -> bool:
        """Whether the kernel holds something for a connection: data, or its end."""
        sock = to.get_extra_info("socket")
        descriptor = -1 if sock is None or self._poll is None else sock.fileno()
        if descriptor < 0:
            return False
        self._poll.register(descriptor, select.POLLIN)
        try:
            return bool(self._poll.poll(0))
        finally:
            self._poll.unregister(descriptor)

    def _answered(self, attempt: _Attempt) -> None:
        """Take note of what an answer says about its connection."""
        connection = attempt.connection
        if connection is None:
            return
        since = self._stood.get(connection)
        if since is None:
            self._stood[connection] = self._clock()
            self._reuse.answered(None)
        else:
            self._reuse.answered(self._clock() - since)

    def _let_go(self, response: aiohttp.ClientResponse) -> None:
        """Give the connection back where it can be used again, else close it."""
        if response.content.at_eof() and self._reuse.worth_keeping:
            response.release()
        else:
            response.close()

    def _answer(self, response: aiohttp.ClientResponse, body: bytes, attempt: _Attempt) -> Answer:
        headers = self._headers_of(response)
        whole = len(body) < MAX_BODY_BYTES and response.content.at_eof()
        coding = ", ".join(response.headers.getall(hdrs.CONTENT_ENCODING, ()))
        body, undecodable = decode(body, coding, headers.get(hdrs.CONTENT_TYPE), whole=whole)
        for secret in self._secrets:
            if secret in body:
                body = body.replace(secret, b"[hash]")
        if not whole or len(body) >= MAX_BODY_BYTES:
            body = self._without_a_piece(body)
        if 300 <= response.status < 400 and hdrs.LOCATION in headers:  # noqa: PLR2004
            headers = {"Location": headers[hdrs.LOCATION]}
        return Answer(
            response.status, headers, body, attempt.left_at, attempt.waited_s(), undecodable
        )

    def _headers_of(self, response: aiohttp.ClientResponse) -> Mapping[str, str]:
        """A response's headers without the hashes, as they can be pickled.

        Most are equal to those before (a Date is the same for a second), and then are the same
        object: a report of a million orders does not hold them a million times.
        """
        if response.raw_headers != self._raw_headers:
            self._raw_headers = response.raw_headers
            self._clean_headers = CIMultiDict(
                (name, self._without_hashes(value)) for name, value in response.headers.items()
            )
        return self._clean_headers

    def _without_hashes(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret.decode(), "[hash]")
        return text

    def _without_a_piece(self, body: bytes) -> bytes:
        """Drop from the end of a body that was cut what may be the beginning of a hash."""
        for secret in self._secrets:
            for size in range(len(secret) - 1, _MIN_PIECE - 1, -1):
                if body.endswith(secret[:size]):
                    return body[:-size]
        return body

    def _end_of(self, attempt: _Attempt, error: BaseException) -> BaseException:
        """The verdict on an attempt that ended so; a cancellation, or whatever else travels on."""
        is_cancellation = isinstance(error, asyncio.CancelledError)
        if not is_cancellation and not isinstance(error, Exception):
            return error
        if attempt.cancelled_from_outside():
            # A hook of the session may have raised something else in its place.
            return error if is_cancellation else asyncio.CancelledError()
        if attempt.expired:
            return self._explain(attempt, None)
        # Where nobody cancelled this task: a connector that is closed cancels its name look-ups.
        return self._explain(attempt, error)

    def _explain(self, attempt: _Attempt, error: BaseException | None) -> EverlyticError:
        """The verdict on an attempt that ended without a complete answer."""
        closed = error is None and attempt.closed
        if error is None:
            connecting = self._own is not None and attempt.left_at is None
            error = aiohttp.ConnectionTimeoutError() if connecting else TimeoutError()
        why = self._cause(error, attempt)
        if closed:
            why = "the client was closed while it was in flight"
        elif self.session_closed:
            why = f"{SESSION_CLOSED} while it was in flight"
        # The tracker knows better than the class: a hook of the session may raise anything.
        never_left = (
            not attempt.left() if attempt.tracked() else isinstance(error, _NEVER_CONNECTED)
        )
        if never_left:
            failure = NotSentError(f"{NOT_SENT}{self.host}: {why}")
            failure.connected = attempt.unusable or _connection_stood(attempt, error)
            return failure
        if attempt.reused and isinstance(error, aiohttp.ClientConnectionError):
            self._reuse.lost()
        told = f"the order was sent to {self.host}, but {why}: it may have been processed"
        if closed:
            return UnknownOutcomeError(told)
        if isinstance(error, TimeoutError):
            return ResponseTimeoutError(told)
        if isinstance(error, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError | OSError):
            return ConnectionLostError(told)
        if isinstance(error, aiohttp.ClientError | ValueError):
            return UnexpectedResponseError(told)
        return UnknownOutcomeError(told)

    def _cause(self, error: BaseException, attempt: _Attempt) -> str:
        """What happened, for a person: without the hashes, and without any address."""
        if attempt.unusable and not attempt.expired:
            return "the connection had ended, or was answered, before the order was written"
        if (limit := _own_limit(error)) is not None:
            return limit
        for kind, why in CAUSES:
            if isinstance(error, kind):
                if isinstance(error, aiohttp.ClientHttpProxyError):
                    return f"{why} ({error.status})"
                if isinstance(error, OSError) and error.strerror and error.errno:
                    return f"{why} ({error.strerror})"
                return why
        words = self._without_hashes(" ".join(str(error).split()))
        words = redact_emails(words)[:_MAX_WORDS]
        return f"{type(error).__name__} was raised{': ' if words else ''}{words}"

    def _look_again_in(self, delay_s: float) -> None:
        self._look_at = self._clock() + delay_s
        self._watch = self._call_later(delay_s, self._look)

    def _look(self) -> None:
        """Cancel every attempt that has run out of time; look again while there are any.

        An answer may have arrived that the event loop has not handed on yet. So an attempt ends
        only if a second look, some turns later, finds it out of time as well; and time in which
        the loop stood still (a frozen process, a blocking call) is nobody's silence.
        """
        now = self._clock()
        stood_still_s = now - self._look_at
        if stood_still_s > self._watch_s:
            for attempt in self._attempts:
                attempt.began += stood_still_s
                if attempt.progress is not None:
                    attempt.progress += stood_still_s
        again_in = self._watch_s
        for attempt in self._attempts:
            if attempt.progress is None and attempt.left():
                attempt.progress = now
            if not self._is_out_of_time(attempt, now):
                attempt.late = False
            elif attempt.late:
                _expire(attempt)
            else:
                attempt.late = True
                again_in = min(again_in, _CONFIRM_S)
        self._watch = None
        if self._attempts:
            self._look_again_in(again_in)

    def _is_out_of_time(self, attempt: _Attempt, now: float) -> bool:
        timeouts = self._timeouts
        if attempt.progress is not None and now - attempt.progress >= timeouts.read_s:
            return True
        took_s = now - attempt.began
        if self._own is not None and attempt.left_at is None and took_s >= timeouts.connect_s:
            return True
        return took_s >= timeouts.total_s


def _own_limit(error: BaseException) -> str | None:
    """What is said of a limit of this machine; None where it is not one."""
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
