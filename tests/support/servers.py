"""Servers that misbehave on purpose: raw sockets on loopback, one script for every connection."""

from __future__ import annotations

import asyncio
import inspect
import re
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Self

LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)\r\n", re.IGNORECASE)
SUCCESS = b'{"status":"success"}'


class Connection:
    """One connection as the server sees it."""

    def __init__(
        self, server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.server = server
        self._reader = reader
        self._writer = writer

    async def head(self) -> bytes:
        """Read a request's head, and nothing of its body."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        self.server.heads.append(head)
        return head

    async def request(self) -> bytes:
        """Read a whole request; its body."""
        await self.head()
        return await self.rest()

    async def rest(self) -> bytes:
        """Read the body of the request whose head was read; the body."""
        length = LENGTH.search(self.server.heads[-1])
        assert length is not None
        body = await self._reader.readexactly(int(length[1]))
        self.server.bodies.append(body)
        return body

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self, status: int = 200, body: bytes = SUCCESS, *headers: str) -> None:
        """Send a whole answer."""
        await self.send(answer(status, body, *headers))

    async def read(self, size: int) -> bytes:
        """Read up to so many bytes."""
        return await self._reader.read(size)

    def write(self, data: bytes) -> None:
        """Write bytes, without waiting for it."""
        self._writer.write(data)

    async def drain(self) -> None:
        """Wait until what was written has left."""
        await self._writer.drain()

    @property
    def socket(self) -> Any:
        """The connection's own socket."""
        return self._writer.get_extra_info("socket")

    def push(self, data: bytes) -> None:
        """Send bytes to the client's kernel now, while no event loop runs."""
        self.socket._sock.send(data)

    def shut_down(self) -> None:
        """End the connection in the client's kernel now, while no event loop runs."""
        self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def closed(self) -> None:
        """Wait until the client closes the connection, whatever it sends before."""
        with suppress(ConnectionError):  # closed hard: data of ours was still unread
            while await self._reader.read(65_536):
                pass


def answer(status: int = 200, body: bytes = SUCCESS, *headers: str) -> bytes:
    """The bytes of an answer with its length."""
    lines = [f"HTTP/1.1 {status} Reason", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


Script = Callable[[Connection], Awaitable[None]]


async def accept_all(connection: Connection) -> None:
    """Accept one order after the other."""
    while True:
        await connection.request()
        await connection.answer()


async def never_answer(connection: Connection) -> None:
    """Read an order, and never answer."""
    await connection.request()
    await connection.closed()


async def lose(connection: Connection) -> None:
    """Read an order, and close the connection."""
    await connection.request()


def answer_all(status: int, body: bytes = SUCCESS, *headers: str) -> Script:
    """Answer every order like this."""

    async def script(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.answer(status, body, *headers)

    return script


def once(data: bytes, then: Callable[[Connection], object] | None = None) -> Script:
    """Read a request, send some bytes, and close, or do what comes then."""

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(data)
        if then is not None and inspect.isawaitable(ending := then(connection)):
            await ending

    return script


async def until(condition: Callable[[], object]) -> None:
    """Wait for a counter of a server: not everything has an event."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0)


class RawServer:
    """Runs a script for every connection; the connection ends with its script.

    Args:
        script: What it does with a connection.
        tls: Whether it speaks TLS.
        host: Where it listens.
        port: Its port, which the test holds; 0 for any.
        receive_bytes: How little it takes from the kernel, if not as much as is usual.

    Attributes:
        port: Its port.
        connections: How many there were.
        heads: Every request's head, as it was received.
        bodies: Every request's body that was read to its end.
        opened: Every connection.
    """

    def __init__(
        self,
        script: Script,
        *,
        tls: ssl.SSLContext | None = None,
        host: str = "localhost",
        port: int = 0,
        receive_bytes: int | None = None,
    ) -> None:
        self._script = script
        self._tls = tls
        self._host = host
        self._receive_bytes = receive_bytes
        self._wanted_port = self.port = port
        self._server: asyncio.Server | None = None
        self._handlers: set[asyncio.Task[None]] = set()
        self.opened: list[Connection] = []
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []

    @property
    def connections(self) -> int:
        return len(self.opened)

    @property
    def url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http{'s' if self._tls else ''}://{host}:{self.port}"

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def listen(self) -> None:
        """Accept connections; again, after `refuse`."""
        self._server = await asyncio.start_server(
            self._serve,
            "127.0.0.1" if self._host == "localhost" else self._host,
            self._wanted_port,
            ssl=self._tls,
            backlog=256,
            limit=2 * (self._receive_bytes or 32_768),
        )
        (listener,) = self._server.sockets
        if self._receive_bytes is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_bytes)
        self.port = listener.getsockname()[1]

    def refuse(self) -> None:
        """Accept no more connections; those that there are go on."""
        assert self._server is not None
        self._server.close()

    async def __aexit__(self, *_error: object) -> None:
        assert self._server is not None
        self._server.close()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers.add(handler)
        connection = Connection(self, reader, writer)
        self.opened.append(connection)
        try:
            await self._script(connection)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has left
        except asyncio.CancelledError:
            if not self._is_closing():
                raise
        finally:
            self._handlers.discard(handler)
            writer.close()

    def _is_closing(self) -> bool:
        return self._server is None or not self._server.is_serving()


@contextmanager
def full_backlog() -> Iterator[int]:
    """A port of loopback that listens and never accepts, its queue full: connecting hangs."""
    with socket.socket() as listener, ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            one = waiting.enter_context(socket.socket())
            one.settimeout(0)  # not to wait here
            one.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@contextmanager
def hold_port(port: int = 0) -> Iterator[int]:
    """Keep a port of loopback for a test: who connects to it is refused.

    A port that nobody holds may become another test's server, or the source of a connection to
    itself. A server of this test may listen on it, as often as it likes.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", port))
        yield holder.getsockname()[1]
