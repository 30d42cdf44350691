"""An endpoint on a raw socket that misbehaves as each order asks it to, and counts what it did.

The name of a misbehaviour travels in the order: ``late-answer.17@example.com`` as its contact's
address is order 17, to be treated as `late-answer` says. The address is the first field of a
trigger, so that a server can misbehave before it has read the rest.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self

from support.delivery import order
from support.servers import LENGTH, SUCCESS, Connection, RawServer, answer

__all__ = ["SUCCESS", "HostileServer", "Play", "Visit", "answer", "order_for"]

_HASH = re.compile(rb"\r\nx-ev-(?:store|customer)-hash:\s*(\S+)", re.IGNORECASE)
_NAME = re.compile(rb'"contact_email":"([a-z0-9-]+)\.(\d+)@example\.com"')
# So little is taken from the kernel that an upload which is not read does not leave the client.
RECEIVE_BYTES = 4096
# More than the sockets of both sides hold, less than what aiohttp warns of.
LARGE_TEXT = "x" * 200_000


def order_for(name: str, number: int, *, large: bool = False) -> dict[str, Any]:
    """Order `number`, to be treated as that behaviour says."""
    made = order(number, contact_email=f"{name}.{number}@example.com")
    if large:
        made["products"][0]["product_description"] = LARGE_TEXT
    return made


class Visit:
    """One request as the server sees it, with its body still to be read.

    Attributes:
        name: The behaviour that the order asks for.
        number: The order's number.
        attempt: Which request for this order it is, from 1.
        place: Which request on its connection it is, from 1.
        hashes: The secrets that came with it.
    """

    def __init__(self, server: HostileServer, connection: Connection, place: int) -> None:
        self.server = server
        self.place = place
        self.name = ""
        self.number = 0
        self.attempt = 0
        self.hashes: list[bytes] = []
        self.keep = True
        self._connection = connection
        self._left = 0

    async def start(self) -> None:
        """Read the head, and as much of the body as names the order."""
        head = await self._connection.head()
        length = LENGTH.search(head)
        assert length is not None
        self.hashes = _HASH.findall(head)
        start = b""
        while (found := _NAME.search(start)) is None:
            start += await self._read(512)
        self._left = int(length[1]) - len(start)
        self.name, self.number = found[1].decode(), int(found[2])
        self.server.requests[self.number] += 1
        self.server.arrivals.append(asyncio.get_running_loop().time())
        self.attempt = self.server.requests[self.number]

    async def read(self, part: float = 1.0) -> None:
        """Read the body, or a part of it."""
        left = int(self._left * part)
        while left > 0:
            size = len(await self._read(min(left, 65_536)))
            left -= size
            self._left -= size

    async def _read(self, size: int) -> bytes:
        if not (data := await self._connection.read(size)):
            raise ConnectionError("the client has gone")
        return data

    def process(self) -> None:
        """Do what the trigger asks for: somebody is notified."""
        self.server.processed[self.number] += 1

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        self._connection.write(data)
        self.server.answered_at[self.number, self.attempt] = asyncio.get_running_loop().time()
        self.server.sent[self.name] += len(data)
        await self._connection.drain()

    async def answer(self, status: int = 200, body: bytes = SUCCESS, *headers: str) -> None:
        """Send a whole answer."""
        await self.send(answer(status, body, *headers))

    @property
    def socket(self) -> Any:
        """The connection's own socket."""
        return self._connection.socket

    def close(self) -> None:
        """End the connection; what was not read of the request makes it a reset."""
        self.keep = False

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        self.keep = False
        self._connection.reset()

    async def gone(self) -> None:
        """Wait until the client closes the connection, whatever it sends before."""
        self.keep = False
        await self._connection.closed()

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


Play = Callable[[Visit], Awaitable[None]]


class HostileServer(RawServer):
    """Treats every request as its order asks to be treated.

    Attributes:
        requests: How many requests there were for each order.
        processed: How often each order was processed.
        sent: Bytes that were sent for each behaviour.
        answered_at: By order and attempt when the answer was written, by the event loop's clock.
        arrivals: When each request came, by the event loop's clock.
        in_play: How many orders are being treated.
        other_port: That of the other host, to which redirects point.
        asked_at: When everybody was asked to pause.
    """

    def __init__(self, plays: Mapping[str, Play], *, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(self._play_all, tls=tls, receive_bytes=RECEIVE_BYTES)
        self._plays = plays
        self._faults: list[BaseException] = []  # of the server itself
        self._other = RawServer(Connection.closed)
        self.requests: Counter[int] = Counter()
        self.processed: Counter[int] = Counter()
        self.sent: Counter[str] = Counter()
        self.answered_at: dict[tuple[int, int], float] = {}
        self.arrivals: list[float] = []
        self.in_play = 0
        self.asked_at = 0.0

    @property
    def host(self) -> str:
        return f"localhost:{self.port}"

    @property
    def other_port(self) -> int:
        return self._other.port

    def forget(self) -> None:
        """Forget what was counted."""
        for counted in (self.requests, self.processed, self.sent, self.answered_at):
            counted.clear()
        self.arrivals.clear()
        self.heads.clear()

    async def __aenter__(self) -> Self:
        await self._other.__aenter__()
        return await super().__aenter__()

    async def __aexit__(self, *error: object) -> None:
        await super().__aexit__(*error)
        await self._other.__aexit__(*error)
        if error[0] is None:
            assert not self._faults, self._faults
            assert self._other.connections == 0

    async def _play_all(self, connection: Connection) -> None:
        place, keep = 0, True
        try:
            while keep:
                place += 1
                visit = Visit(self, connection, place)
                await visit.start()
                self.in_play += 1
                try:
                    await self._plays[visit.name](visit)
                finally:
                    self.in_play -= 1
                keep = visit.keep
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass  # the client has gone
        except Exception as error:  # noqa: BLE001 - raised at the end of the test
            self._faults.append(error)
