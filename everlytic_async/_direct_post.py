"""Posting over aiohttp's connector and protocol, without its session: for half the CPU.

The requests of a client differ only in their bodies. What `ClientSession.post` makes for each of
them (the request, its headers, a task that writes, a response object) is made once here.

**This leans on names that aiohttp does not document**, and it is the only module that does. So
`DirectPost.create` tries them with two requests in memory. Where that fails, and where somebody may
expect to see the requests of a session (tracing, mocks), orders are posted by `ClientSession.post`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.helpers import TimerNoop
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

_LOGGER = logging.getLogger("everlytic_async")

#: Longer bodies may stay in the event loop's buffer for a while, so they are not sent this way.
MAX_BODY_BYTES = 32 * 1024

# What instruments and mocks of aiohttp replace.
_REPLACEABLE = ("_request", "post")
_UNTOUCHED = tuple(getattr(aiohttp.ClientSession, name) for name in _REPLACEABLE)
# How long the exchange in memory may take, in seconds: nothing in it waits.
_CHECK_S = 1.0
_NO_TRACES: list[Any] = []
_SWITCHING_PROTOCOLS = 101


class DirectResponse:
    """What is needed of a response, by the names of `aiohttp.ClientResponse`."""

    __slots__ = ("close", "content", "headers", "raw_headers", "release", "status")

    def __init__(self, message: Any, content: aiohttp.StreamReader, connection: Any) -> None:
        self.status: int = message.code
        self.headers: CIMultiDictProxy[str] = message.headers
        self.raw_headers: object = message.raw_headers
        self.content = content
        self.release: Callable[[], None] = connection.release
        self.close: Callable[[], None] = connection.close


class _Request(aiohttp.ClientRequest):
    """Stands for all requests of a session: it names the endpoint to the connector."""

    def __init__(
        self, url: URL, headers: Mapping[str, str], session: aiohttp.ClientSession
    ) -> None:
        loop = asyncio.get_running_loop()
        super().__init__("POST", url, headers=headers, loop=loop, session=session)
        self._key = super().connection_key

    @property
    def connection_key(self) -> Any:
        return self._key

    def head(self) -> bytes:
        """The bytes before a body, up to its length."""
        lines = [f"POST {self.url.raw_path_qs} HTTP/1.1"]
        lines += [f"{n}: {value}" for n, value in self.headers.items() if n != "Content-Length"]
        return "\r\n".join([*lines, "Content-Length: "]).encode()


class DirectPost:
    """Posts short bodies to one endpoint over a session's connector.

    Args:
        session: The session; it must be the client's own.
        url: The endpoint.
        headers: Of every request.
        params: Of the parser: by the names of `ClientSession.post`.
    """

    def __init__(
        self, session: aiohttp.ClientSession, url: URL, headers: Mapping[str, str], **params: Any
    ) -> None:
        assert session.connector is not None  # noqa: S101 - it is open
        self._session = session
        self._connect = session.connector.connect
        self._request = _Request(url, headers, session)
        self._head = self._request.head()
        self._timeout = aiohttp.ClientTimeout(total=None)
        self._params: dict[str, Any] = {"timer": TimerNoop(), "read_until_eof": True, **params}

    @classmethod
    async def create(
        cls, session: aiohttp.ClientSession, url: URL, headers: Mapping[str, str], **params: Any
    ) -> DirectPost | None:
        """One that works with this aiohttp; None, after a line in the log, if it can't."""
        try:
            async with asyncio.timeout(_CHECK_S):
                await _try_in_memory(**params)
            return cls(session, url, headers, **params)
        except Exception as error:  # noqa: BLE001 - of an aiohttp that is not known
            _LOGGER.warning(
                "aiohttp %s has changed inside (%s): orders are sent by ClientSession.post, which "
                "takes twice the CPU",
                aiohttp.__version__,
                type(error).__name__,
            )
            return None

    def can_post(self, body: bytes) -> bool:
        """Whether this body may go this way, and nobody expects to see the session's requests."""
        session = aiohttp.ClientSession
        return (
            len(body) <= MAX_BODY_BYTES
            and (session._request, session.post) == _UNTOUCHED  # noqa: SLF001
            and not self._session.trace_configs
        )

    async def post(
        self,
        body: bytes,
        before_write: Callable[[Any, asyncio.Transport | None], Awaitable[None]],
        after_write: Callable[[], None],
    ) -> DirectResponse:
        """Post one body, and return the response once its headers are there.

        Args:
            body: The body. Once it is handed to the connection it counts as sent.
            before_write: Called with the connection; what it raises is raised, and nothing is sent.
            after_write: Called when the body was handed to the connection.

        Raises:
            aiohttp.ClientError, OSError, ValueError: as by `ClientSession.post`.
        """
        connection = await self._connect(self._request, _NO_TRACES, self._timeout)
        try:
            protocol = connection.protocol
            assert protocol is not None  # noqa: S101 - it was just taken
            transport: Any = protocol.transport
            await before_write(protocol, transport)
            protocol.set_response_params(**self._params)
            transport.write(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))
            after_write()
            message, content = await protocol.read()
            while message.code < 200 and message.code != _SWITCHING_PROTOCOLS:  # noqa: PLR2004
                message, content = await protocol.read()
        except HttpProcessingError as error:
            connection.close()
            raise aiohttp.ClientResponseError(self._request.request_info, ()) from error
        except BaseException:
            connection.close()
            raise
        return DirectResponse(message, content, connection)


class _AnsweringTransport(asyncio.Transport):
    """A connection in memory that answers every write."""

    def __init__(self, protocol: ResponseHandler) -> None:
        super().__init__()
        self._protocol = protocol
        self.written = b""

    def write(self, data: Any) -> None:
        self.written += data
        answer = b"HTTP/1.1 202 OK\r\nX-Name: value\r\nContent-Length: 2\r\n\r\n[]"
        self._protocol.data_received(b"HTTP/1.1 100 Continue\r\n\r\n" + answer)

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        self._protocol.connection_lost(None)

    abort = close


class _MemoryConnector(aiohttp.BaseConnector):
    """Makes one connection in memory."""

    transport: _AnsweringTransport | None = None

    async def _create_connection(self, *_: object) -> ResponseHandler:
        protocol = ResponseHandler(asyncio.get_running_loop())
        assert self.transport is None  # noqa: S101 - the connection is reused
        self.transport = _AnsweringTransport(protocol)
        protocol.connection_made(self.transport)
        return protocol


async def _try_in_memory(**params: Any) -> None:
    """Post twice over one connection in memory.

    Raises:
        Exception: something is not as this module expects it.
    """

    async def before_write(_protocol: object, transport: object) -> None:
        seen.append(transport is connector.transport)

    seen: list[object] = []
    connector = _MemoryConnector()
    async with aiohttp.ClientSession(connector=connector) as session:
        url, headers = URL("http://memory.invalid/path"), CIMultiDict({"X-Sent": "1"})
        direct = DirectPost(session, url, headers, **params)
        for _ in range(2):
            response = await direct.post(b"{}", before_write, partial(seen.append, "written"))
            seen += [response.status, response.headers["x-name"], response.content.read_nowait()]
            seen.append(response.content.at_eof())
            response.release()
    sent = b"" if connector.transport is None else connector.transport.written
    head = b"POST /path HTTP/1.1\r\nHost: memory.invalid\r\nX-Sent: 1\r\n"
    expected = [True, "written", 202, "value", b"[]", True] * 2
    if seen != expected or sent.count(head) != 2 or not sent.endswith(b"Length: 2\r\n\r\n{}"):  # noqa: PLR2004
        raise RuntimeError("an exchange in memory had another result")
