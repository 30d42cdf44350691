"""An endpoint on a raw socket that misbehaves as each order asks it to, and counts what it did.

The name of a misbehaviour travels in the order: ``late-answer.17@example.com`` as its contact's
address is order 17, to be treated as `late-answer` says. The address is the first field of a
trigger, so that a server can misbehave before it has read the rest.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self

_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)\r\n", re.IGNORECASE)
_HASH = re.compile(rb"\r\nx-ev-(?:store|customer)-hash:\s*(\S+)", re.IGNORECASE)
_NAME = re.compile(rb'"contact_email":"([a-z0-9-]+)\.(\d+)@example\.com"')
SUCCESS = b'{"status":"success"}'
# So little is taken from the kernel that an upload which is not read does not leave the client.
RECEIVE_BYTES = 4096
# More than the sockets of both sides hold, less than what aiohttp warns of.
LARGE_TEXT = "x" * 200_000


def order_for(name: str, number: int, *, large: bool = False) -> dict[str, Any]:
    """Order `number`, to be treated as that behaviour says."""
    product: dict[str, Any] = {"product_name": "Mop", "product_price": 21}
    if large:
        product["product_description"] = LARGE_TEXT
    return {
        "contact_email": f"{name}.{number}@example.com",
        "order_id": str(number),
        "products": [product],
    }


class Visit:
    """One request as the server sees it, with its body still to be read.

    Attributes:
        name: The behaviour that the order asks for.
        number: The order's number.
        attempt: Which request for this order it is, from 1.
        place: Which request on its connection it is, from 1.
        hashes: The secrets that came with it.
    """

    def __init__(
        self,
        server: HostileServer,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        place: int,
    ) -> None:
        self.server = server
        self.place = place
        self.name = ""
        self.number = 0
        self.attempt = 0
        self.hashes: list[bytes] = []
        self.keep = True
        self._reader = reader
        self._writer = writer
        self._start = b""
        self._left = 0

    async def start(self) -> bool:
        """Read the head, and as much of the body as names the order; False where there is none."""
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return False
        length = _LENGTH.search(head)
        assert length is not None
        self.hashes = _HASH.findall(head)
        while (found := _NAME.search(self._start)) is None:
            more = await self._reader.read(512)
            if not more:
                return False
            self._start += more
        self._left = int(length[1]) - len(self._start)
        self.name, self.number = found[1].decode(), int(found[2])
        self.server.requests[self.number] += 1
        self.server.arrivals.append(asyncio.get_running_loop().time())
        self.attempt = self.server.requests[self.number]
        return True

    async def read(self, part: float = 1.0) -> None:
        """Read the body, or a part of it."""
        left = int(self._left * part)
        while left > 0:
            data = await self._reader.read(min(left, 65_536))
            if not data:
                raise ConnectionError("the client has gone")
            left -= len(data)
            self._left -= len(data)

    def process(self) -> None:
        """Do what the trigger asks for: somebody is notified."""
        self.server.processed[self.number] += 1

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        self._writer.write(data)
        self.server.answered_at[self.number, self.attempt] = asyncio.get_running_loop().time()
        self.server.sent[self.name] += len(data)
        await self._writer.drain()

    async def answer(self, status: int = 200, body: bytes = SUCCESS, *headers: str) -> None:
        """Send a whole answer."""
        await self.send(answer(status, body, *headers))

    @property
    def socket(self) -> Any:
        """The connection's own socket."""
        return self._writer.get_extra_info("socket")

    def close(self) -> None:
        """End the connection; what was not read of the request makes it a reset."""
        self.keep = False

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        self.keep = False
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def gone(self) -> None:
        """Wait until the client closes the connection, whatever it sends before."""
        self.keep = False
        try:
            while await self._reader.read(65_536):
                pass
        except ConnectionError:
            pass  # closed hard: data of ours was still unread

    async def drip(self, data: bytes, every_s: float = 0.01) -> None:
        """Send byte by byte, for ever if need be, until the client has gone."""
        left = asyncio.ensure_future(self.gone())
        try:
            for byte in data:
                await self.send(bytes([byte]))
                done, _ = await asyncio.wait([left], timeout=every_s)
                if done:
                    return
            await left
        finally:
            left.cancel()
            await asyncio.gather(left, return_exceptions=True)


def answer(status: int = 200, body: bytes = SUCCESS, *headers: str) -> bytes:
    """The bytes of an answer with its length."""
    lines = [f"HTTP/1.1 {status} Reason", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


Play = Callable[[Visit], Awaitable[None]]


class HostileServer:
    """Treats every request as its order asks to be treated.

    Attributes:
        requests: How many requests there were for each order.
        processed: How often each order was processed.
        sent: Bytes that were sent for each behaviour.
        answered_at: By order and attempt when the answer was written, by the event loop's clock.
        arrivals: When each request came, by the event loop's clock.
        connections: How many there were.
        in_play: How many orders are being treated.
        strangers: Connections to the other host, to which redirects point; there may be none.
        asked_at: When everybody was asked to pause.
        faults: What went wrong within the server itself; a test has to find it empty.
    """

    def __init__(self, plays: Mapping[str, Play], *, tls: ssl.SSLContext | None = None) -> None:
        self._plays = plays
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._handlers: set[asyncio.Task[None]] = set()
        self.port = 0
        self.requests: Counter[int] = Counter()
        self.processed: Counter[int] = Counter()
        self.sent: Counter[str] = Counter()
        self.answered_at: dict[tuple[int, int], float] = {}
        self.arrivals: list[float] = []
        self.connections = 0
        self.in_play = 0
        self.strangers = 0
        self.other_port = 0
        self.asked_at = 0.0
        self._other: asyncio.Server | None = None
        self.faults: list[BaseException] = []

    @property
    def host(self) -> str:
        return f"localhost:{self.port}"

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://{self.host}"

    async def open(self) -> None:
        """Listen, at the same port as before where there was one."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        sock.bind(("127.0.0.1", self.port))
        self.port = sock.getsockname()[1]
        self._server = await asyncio.start_server(
            self._serve, sock=sock, ssl=self._tls, backlog=256, limit=8192
        )
        if self._other is None:
            self._other = await asyncio.start_server(self._stranger, "127.0.0.1", 0)
            self.other_port = self._other.sockets[0].getsockname()[1]

    def forget(self) -> None:
        """Forget what was counted."""
        for counted in (self.requests, self.processed, self.sent):
            counted.clear()
        self.answered_at.clear()
        self.arrivals.clear()

    def refuse(self) -> None:
        """Refuse connections from now on; those that there are go on."""
        assert self._server is not None
        self._server.close()

    async def close(self) -> None:
        """Refuse connections from now on, and end those that there are."""
        assert self._server is not None
        self.refuse()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._server is not None:
            await self.close()
        if self._other is not None:
            self._other.close()
            await self._other.wait_closed()
        if exc is None:
            assert not self.faults, self.faults
            assert self.strangers == 0

    def _stranger(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.strangers += 1
        writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers.add(handler)
        self.connections += 1
        place = 0
        try:
            while True:
                place += 1
                visit = Visit(self, reader, writer, place)
                if not await visit.start():
                    return
                self.in_play += 1
                try:
                    await self._plays[visit.name](visit)
                finally:
                    self.in_play -= 1
                if not visit.keep:
                    return
        except (ConnectionError, ssl.SSLError):
            pass  # the client has gone
        except asyncio.CancelledError:
            if self._server is not None and self._server.is_serving():
                raise
        except Exception as error:  # noqa: BLE001 - raised at the end of the test
            self.faults.append(error)
        finally:
            self._handlers.discard(handler)
            writer.close()
