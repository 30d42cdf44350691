"""The server: it accepts orders as the endpoint does, counts them, and fails on request.

What happens to a request, in this order: the limits (`Faults.rate`, `Faults.max_in_flight`), as of
a proxy that stands in front; the latency; a fault that keeps it from the application; the checks;
the processing; a fault that comes after it.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Self

from aiohttp import web
from yarl import URL

from everlytic_async.sandbox._checks import PATH, RefusedError, check_body, check_headers, error
from everlytic_async.sandbox._faults import FaultKind, Faults, FaultSampler, LeakyBucket

#: More than any order needs; a larger body is answered 413.
_MAX_BODY_BYTES = 16 * 1024 * 1024
#: How long a response that is being written when the sandbox closes may take.
_SHUTDOWN_TIMEOUT_S = 0.2
#: How many connections may wait to be accepted.
_BACKLOG = 128

_MAX_PORT = 65_535

_FAILURES: Mapping[int, str] = {
    429: "Too many requests.",
    500: "Internal server error.",
    503: "Service unavailable.",
}
_FAILS_BEFORE: Mapping[FaultKind, int] = {
    FaultKind.THROTTLED: 429,
    FaultKind.UNAVAILABLE: 503,
    FaultKind.FAILED_BEFORE: 500,
}


def _check(name: str, value: object, kind: type, what: str) -> None:
    """Raise a `TypeError` unless an argument is of a type, which a boolean never is here."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{name} must be {what}, not a {type(value).__name__}")


class Sandbox:
    """A stand-in for the endpoint, to be used as an async context manager or started and closed.

    It may be started again once closed: at the same port, with its counters as they were.

    Args:
        host: The address to listen at.
        port: The port to listen at; 0 takes a free one.
        path_prefix: What the install's address has after the host, as ``/mailer``.
        store_hash: What ``x-ev-store-hash`` must hold.
        customer_hash: What ``x-ev-customer-hash`` must hold.
        faults: What goes wrong.
        keep: How many of the last processed orders are remembered; None: all of them. The counters
            count all of them, and `duplicates` remembers every order id.

    Attributes:
        store_hash: As the argument, and so are `customer_hash`, `faults` and `keep`.
        requests: POSTs to the endpoint's path, refused ones included.
        processed: Orders that passed the checks and would have triggered the workflow.
        dropped: Connections closed without an answer because a fault said so.
        statuses: Answers by HTTP status, with the 404s of other paths.
        in_flight: Requests in flight at the endpoint's path.
        peak_in_flight: The most that were ever in flight at the same time.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A hash or the host is blank, there is no such port, or `keep` is negative.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        path_prefix: str = "",
        store_hash: str = "5a4db0c5-0000-4000-8000-000000000000",
        customer_hash: str = "SandboxCustomer1",
        faults: Faults = Faults(),  # noqa: B008 - frozen
        keep: int | None = None,
    ) -> None:
        texts = {"host": host, "store_hash": store_hash, "customer_hash": customer_hash}
        for name, text in (*texts.items(), ("path_prefix", path_prefix)):
            _check(name, text, str, "text")
        _check("port", port, int, "an integer")
        _check("faults", faults, Faults, "a Faults")
        for name, text in texts.items():
            if not text.strip():
                raise ValueError(f"{name} must not be blank")
        if not 0 <= port <= _MAX_PORT:
            raise ValueError(f"port must be from 0 to {_MAX_PORT}, not {port}")
        if keep is not None:
            _check("keep", keep, int, "None or an integer")
            if keep < 0:
                raise ValueError(f"keep must be None or at least 0, not {keep}")
        self.store_hash = store_hash
        self.customer_hash = customer_hash
        self.faults = faults
        self.keep = keep
        self.requests = 0
        self.processed = 0
        self.dropped = 0
        self.statuses: Counter[int] = Counter()
        self.in_flight = 0
        self.peak_in_flight = 0

        self._host = host
        self._port = port
        self._prefix = f"/{path_prefix.strip('/')}".rstrip("/")
        self._base_url: str | None = None
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None
        # aiohttp forgets a handler whose client has left, so they are kept here.
        self._handlers: set[asyncio.Task[Any]] = set()
        self._sampler = FaultSampler(faults)
        self._limiter = None if faults.rate is None else LeakyBucket(faults.rate, faults.burst)
        self._serving = 0
        self._received: deque[dict[str, Any]] = deque(maxlen=keep)
        self._order_ids: set[str] = set()
        self._duplicates: dict[str, int] = {}

    def __repr__(self) -> str:
        return (
            f"<Sandbox {self._base_url or 'not started'}: "
            f"{self.requests} requests, {self.processed} processed>"
        )

    @property
    def base_url(self) -> str:
        """The address of the install: ``http://127.0.0.1:PORT`` and the prefix.

        Raises:
            RuntimeError: The sandbox was never started, so there is no address yet.
        """
        if self._base_url is None:
            raise RuntimeError(
                "the sandbox has no address until it is started: "
                "use `async with Sandbox() as sandbox:` or `await sandbox.start()`"
            )
        return self._base_url

    @property
    def received(self) -> list[dict[str, Any]]:
        """The processed orders (the last `keep` of them), in the order of processing.

        Parsed JSON: integers are int, every other number is an exact Decimal. The list is a copy.
        """
        return list(self._received)

    @property
    def duplicates(self) -> Mapping[str, int]:
        """How many more times than once an order id was processed, for those that were."""
        return MappingProxyType(self._duplicates)

    async def start(self) -> None:
        """Start listening.

        Raises:
            RuntimeError: It is already started.
            OSError: The address cannot be listened at: in use, or not of this machine.
        """
        if self._runner is not None:
            raise RuntimeError("the sandbox is started already")
        app = web.Application(client_max_size=_MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._handle)
        app.on_shutdown.append(self._cancel_handlers)
        runner = web.AppRunner(
            app,
            access_log=None,
            auto_decompress=False,  # the documentation knows no compressed body
            shutdown_timeout=_SHUTDOWN_TIMEOUT_S,
        )
        self._runner = runner
        try:
            await runner.setup()
            connections = runner.server
            assert connections is not None  # noqa: S101 - for the type checker: it was set up
            loop = asyncio.get_running_loop()
            # Not by aiohttp's TCPSite, which keeps the listening sockets from `close`.
            self._listener = await loop.create_server(
                connections, self._host, self._port, backlog=_BACKLOG
            )
        except BaseException:
            await self.close()
            raise
        self._port = self._listener.sockets[0].getsockname()[1]
        address = URL.build(scheme="http", host=self._host, port=self._port, path=self._prefix)
        self._base_url = str(address).rstrip("/")

    async def close(self) -> None:
        """Stop listening, cancel what is in flight, and close every connection.

        Once it returns, no connection is open and no order is processed any more. Without a start
        it does nothing.
        """
        listener, self._listener = self._listener, None
        if listener is not None:
            loop = asyncio.get_running_loop()
            for listening in listener.sockets:
                loop.remove_reader(listening)
            # asyncio accepts a connection one step before it attaches it to its server. One that
            # is between the two would outlive them both, with an order that is sent by it.
            await asyncio.sleep(0)
            listener.close()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    async def _cancel_handlers(self, _app: web.Application) -> None:
        for handler in self._handlers:
            handler.cancel()
        if self._handlers:
            await asyncio.wait(self._handlers)

    # ------------------------------------------------------------------------------ requests

    async def _handle(self, request: web.Request) -> web.Response:
        if request.method != "POST" or request.path != f"{self._prefix}{PATH}":
            where = f"{self._prefix}{PATH}"
            return self._answer(404, error(f"Not found: orders are POSTed to {where}"))
        handler = asyncio.current_task()
        assert handler is not None  # noqa: S101 - for the type checker: a coroutine runs in a task
        self._handlers.add(handler)
        self.requests += 1
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            return await self._order(request)
        except RefusedError as refused:
            return self._answer(refused.status, refused.payload)
        finally:
            self.in_flight -= 1
            self._handlers.remove(handler)

    async def _order(self, request: web.Request) -> web.Response:
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise RefusedError(413, error("body: too large")) from None
        except ConnectionError:  # the client left in the middle of its upload
            return web.Response()  # aiohttp wants one, and finds no connection to write it to
        # Drawn for every request, refused or not, so that a limit does not shift the faults.
        kind, latency_s = self._sampler.next()
        if self._is_over_a_limit():
            return self._fail(429)
        self._serving += 1
        try:
            if latency_s:
                await asyncio.sleep(latency_s)
            return self._serve(request, body, kind)
        finally:
            self._serving -= 1

    def _is_over_a_limit(self) -> bool:
        limit = self.faults.max_in_flight
        if limit is not None and self._serving >= limit:
            return True
        return self._limiter is not None and not self._limiter.admit()

    def _serve(self, request: web.Request, body: bytes, kind: FaultKind) -> web.Response:
        if kind in _FAILS_BEFORE:
            return self._fail(_FAILS_BEFORE[kind])
        if kind is FaultKind.DROPPED_BEFORE:
            return self._drop(request)
        check_headers(
            request.headers,
            request.content_type,
            store_hash=self.store_hash,
            customer_hash=self.customer_hash,
        )
        self._process(check_body(body))
        if kind is FaultKind.DROPPED_AFTER:
            return self._drop(request)
        if kind is FaultKind.FAILED_AFTER:
            return self._fail(500)
        return self._answer(200, {"status": "success"})

    def _process(self, order: dict[str, Any]) -> None:
        self.processed += 1
        self._received.append(order)
        if "order_id" not in order:
            return
        order_id = str(order["order_id"])
        if order_id in self._order_ids:
            self._duplicates[order_id] = self._duplicates.get(order_id, 0) + 1
        self._order_ids.add(order_id)

    # ------------------------------------------------------------------------------- answers

    def _answer(
        self, status: int, payload: object, headers: Mapping[str, str] | None = None
    ) -> web.Response:
        self.statuses[status] += 1
        return web.json_response(payload, status=status, headers=headers)

    def _fail(self, status: int) -> web.Response:
        wait_s = self.faults.retry_after_s
        headers = {}
        if wait_s is not None and status != 500:  # noqa: PLR2004
            # HTTP knows whole seconds only (RFC 9110, 10.2.3); fractions are for those who ask.
            whole = float(wait_s).is_integer()
            headers["Retry-After"] = str(int(wait_s)) if whole else f"{wait_s:.3f}"
        return self._answer(status, error(_FAILURES[status]), headers)

    def _drop(self, request: web.Request) -> web.Response:
        self.dropped += 1
        if request.transport is not None:  # None: the client has left before
            request.transport.abort()
        return web.Response()  # aiohttp wants one, and finds no connection to write it to
