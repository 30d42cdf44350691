"""`HealthServer`: what monitors ask of workers, over HTTP.

========  ==========================================================================================
path      answers
========  ==========================================================================================
/livez    200 as long as the process answers at all: restart it where this does not come
/readyz   200 while every worker takes orders and can send them, else 503; why, in JSON, by store
/metrics  figures for Prometheus, where ``prometheus-client`` is installed; else 404
========  ==========================================================================================

It is the one place here that serves HTTP: aiohttp's server is loaded when this module is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

from everlytic_async.errors import ConfigurationError, QueueError
from everlytic_async.worker._queue import QueueStatus
from everlytic_async.worker._worker import Worker

if TYPE_CHECKING:
    from everlytic_async.worker._metrics import Metrics

__all__ = ["HealthServer"]

# The queue is asked for its figures for each scrape, but not waited for longer, in seconds.
_QUEUE_S = 2.0
# An answer that is being written when the server is closed may take so long, in seconds.
_CLOSING_S = 1.0


class HealthServer:
    """Serves the health of workers, and their metrics; use it with ``async with``.

    Whoever can reach the address can read it: it tells the stores' names, counts, and the last
    problem in words; no hash, no address and nothing of an order.

    Args:
        workers: By the names of their stores.
        host: The address to listen at.
        port: The port; 0 takes a free one.

    Raises:
        ConfigurationError: on entering: it can't listen there.
    """

    def __init__(
        self, workers: Mapping[str, Worker], *, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self._workers = dict(workers)
        self._host = host
        self._port = port
        self._metrics: Metrics | None = None
        self._stack = contextlib.AsyncExitStack()
        self._url = ""

    @property
    def url(self) -> str:
        """Its address, while it is open: ``http://HOST:PORT``."""
        return self._url

    async def __aenter__(self) -> Self:
        async with self._stack as stack:
            if find_spec("prometheus_client") is not None:
                from everlytic_async.worker._metrics import Metrics  # noqa: PLC0415 - an extra

                self._metrics = stack.enter_context(Metrics(self._workers))
            app = web.Application()
            app.add_routes(
                [
                    web.get("/livez", self._live),
                    web.get("/readyz", self._ready),
                    web.get("/metrics", self._measured),
                ]
            )
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=_CLOSING_S)
            stack.push_async_callback(runner.cleanup)
            await runner.setup()
            try:
                await web.TCPSite(runner, self._host, self._port).start()
            except OSError as error:
                raise ConfigurationError(
                    f"the health server can't listen at {self._host}:{self._port}: {error.strerror}"
                ) from error
            host, port = runner.addresses[0][:2]
            self._url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def _live(self, _request: web.Request) -> web.Response:
        return web.Response(text="live\n")

    async def _ready(self, _request: web.Request) -> web.Response:
        stores = {name: _state(worker) for name, worker in self._workers.items()}
        ready = all(state["ready"] for state in stores.values())
        answer = {"ready": ready, "stores": stores}
        return web.json_response(answer, status=200 if ready else 503)

    async def _measured(self, _request: web.Request) -> web.Response:
        if self._metrics is None:
            return web.Response(
                status=404, text="metrics need: pip install 'everlytic-async[metrics]'\n"
            )
        found = await asyncio.gather(*map(_queue_status, self._workers.values()))
        queues = [status for status in found if status is not None]
        body, kind = self._metrics.read(queues)
        return web.Response(body=body, headers={"Content-Type": kind})


def _state(worker: Worker) -> dict[str, Any]:
    status = worker.status
    return {
        "ready": status.ready,
        "running": status.running,
        "stopping": status.stopping,
        "connected": status.connected,
        "problem": status.problem,
        "in_hand": status.in_hand,
    }


async def _queue_status(worker: Worker) -> QueueStatus | None:
    """What is in its queue; None where that is not known soon."""
    if not worker.queue.connected:
        return None
    try:
        async with asyncio.timeout(_QUEUE_S):
            return await worker.queue.status()
    except (TimeoutError, QueueError):
        return None
