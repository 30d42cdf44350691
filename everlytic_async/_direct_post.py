"""Posting over aiohttp's connector and protocol, without its session: for half the CPU.

The requests of a client differ only in their bodies. What `ClientSession.post` makes for each of
them (the request, its headers, a task that writes, a response object) is made once here.

**This leans on names that aiohttp does not document**, more than any other module. So
`DirectPost.create` tries them with two requests in memory, and none of them is used on import.
Where that fails, and where somebody may expect to see the requests of a session (tracing, mocks),
orders are posted by `ClientSession.post`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from types import FunctionType
from typing import Any

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from everlytic_async._waiting import deadline

_LOGGER = logging.getLogger("everlytic_async")

#: Longer bodies may stay in the event loop's buffer for a while, so they are not sent this way.
MAX_DIRECT_BYTES = 32 * 1024
# How long the exchange in memory may take, in seconds: nothing in it waits.
_CHECK_S = 1.0
# 101 ends HTTP on a connection; the others precede a response.
_INTERIM = frozenset(range(200)) - {101}


def _unpatched(name: str) -> object:
    """A method of aiohttp's session; None if it was replaced before this module was imported."""
    method = getattr(aiohttp.ClientSession, name, None)
    is_own = type(method) is FunctionType and method.__globals__["__name__"] == "aiohttp.client"
    return method if is_own else None


# What instruments and mocks of aiohttp replace: by wrappers that may equal what they wrap.
_REQUEST, _POST = _unpatched("_request"), _unpatched("post")


class DirectResponse:
    """What is needed of a response, by the names of `aiohttp.ClientResponse`."""

    __slots__ = ("close", "content", "headers", "raw_headers", "release", "status")

    def __init__(self, message: Any, content: aiohttp.StreamReader, connection: Any) -> None:
        self.status: int = message.code
        self.headers: CIMultiDictProxy[str] = message.headers
        self.raw_headers: object = message.raw_headers
        self.content = content
        self.release, self.close = connection.release, connection.close


class _Request(aiohttp.ClientRequest):
    """Stands for all requests of a session: it names the endpoint to the connector."""

    @cached_property
    def connection_key(self) -> Any:
        return super().connection_key


class DirectPost:
    """Posts short bodies to one endpoint over the connector of the client's own session.

    `params` are those of the parser, by the names of `ClientSession.post`.
    """

    def __init__(
        self, session: aiohttp.ClientSession, url: URL, headers: Mapping[str, str], **params: Any
    ) -> None:
        assert session.connector is not None  # noqa: S101 - it is open
        self._session, self._connect = session, session.connector.connect
        self._timeout = aiohttp.ClientTimeout(total=None)
        loop = asyncio.get_running_loop()
        self._request = _Request("POST", url, headers=headers, loop=loop, session=session)
        lines = [f"POST {url.raw_path_qs} HTTP/1.1"]
        lines += [f"{n}: {v}" for n, v in self._request.headers.items() if n != "Content-Length"]
        self._head = "\r\n".join([*lines, "Content-Length: "]).encode()
        timer = aiohttp.helpers.TimerNoop()
        self._params: dict[str, Any] = {"timer": timer, "read_until_eof": True, **params}
        self._parsing_error = aiohttp.http_exceptions.HttpProcessingError

    @classmethod
    async def create(
        cls, session: aiohttp.ClientSession, url: URL, headers: Mapping[str, str], **params: Any
    ) -> DirectPost | None:
        """One that works with this aiohttp; None, after a line in the log, if it can't."""
        try:
            async with deadline(_CHECK_S):
                await _try_in_memory(**params)
            return cls(session, url, headers, **params)
        except Exception as error:  # noqa: BLE001 - of an aiohttp that is not known
            why = f"aiohttp {aiohttp.__version__} failed a check ({type(error).__name__})"
            _LOGGER.warning("%s: orders are sent by ClientSession.post, at twice the CPU", why)
            return None

    def can_post(self, body: bytes) -> bool:
        """Whether this body may go this way, and nobody expects to see the session's requests."""
        session = aiohttp.ClientSession
        return (
            len(body) <= MAX_DIRECT_BYTES
            and getattr(session, "_request", None) is _REQUEST
            and getattr(session, "post", None) is _POST
            and not self._session.trace_configs
        )

    async def post(
        self,
        body: bytes,
        before_write: Callable[[Any, asyncio.Transport | None], Awaitable[None]],
        after_write: Callable[[], None],
    ) -> DirectResponse:
        """Post one body, and return the response once its headers are there.

        Once the body is handed to the connection it counts as sent. What `before_write` raises is
        raised, and nothing is sent; else errors are those of `ClientSession.post`.
        """
        connection = await self._connect(self._request, [], self._timeout)
        try:
            protocol = connection.protocol
            assert protocol is not None  # noqa: S101 - it was just taken
            transport: Any = protocol.transport
            # Those that are ready together leave in a row: only the first has to wake the server.
            await asyncio.sleep(0)
            await before_write(protocol, transport)
            protocol.set_response_params(**self._params)
            transport.write(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))
            after_write()
            message, content = await protocol.read()
            while message.code in _INTERIM:
                message, content = await protocol.read()
        except BaseException as error:
            connection.close()
            if isinstance(error, self._parsing_error):
                raise aiohttp.ClientResponseError(self._request.request_info, ()) from error
            raise
        return DirectResponse(message, content, connection)


class _MemoryTransport(asyncio.Transport):
    """A connection in memory that answers every write."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol = aiohttp.client_proto.ResponseHandler(asyncio.get_running_loop())
        self.protocol.connection_made(self)
        self.written = b""

    def write(self, data: Any) -> None:
        self.written += data
        answer = b"HTTP/1.1 202 OK\r\nX-Name: value\r\nContent-Length: 2\r\n\r\n[]"
        self.protocol.data_received(b"HTTP/1.1 100 Continue\r\n\r\n" + answer)

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        self.protocol.connection_lost(None)


async def _try_in_memory(**params: Any) -> None:
    """Post twice over one connection in memory; raise if that is not as this module expects it."""
    transports: list[_MemoryTransport] = []

    class MemoryConnector(aiohttp.BaseConnector):
        async def _create_connection(self, *_: object) -> Any:
            transports.append(_MemoryTransport())
            return transports[-1].protocol

    async with aiohttp.ClientSession(connector=MemoryConnector()) as session:
        url, headers = URL("http://memory.invalid/path"), CIMultiDict({"X-Sent": "1"})
        direct = DirectPost(session, url, headers, **params)
        seen: list[object] = [hasattr(session, "_request"), hasattr(session, "post")]
        for _ in range(2):
            response = await direct.post(b"{}", lambda *_: asyncio.sleep(0), lambda: None)
            seen += [response.status, response.headers["x-name"]]
            seen += [response.content.read_nowait(), response.content.at_eof()]
            response.release()
    sent = transports[0].written
    head, body = b"POST /path HTTP/1.1\r\nHost: memory.invalid\r\nX-Sent: 1\r\n", b": 2\r\n\r\n{}"
    seen += [len(transports), sent.count(head), sent.count(body)]
    if seen != [True, True, *[202, "value", b"[]", True] * 2, 1, 2, 2]:
        raise RuntimeError("an exchange in memory had another result")
