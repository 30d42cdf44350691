"""`HealthServer`: the health and metrics of workers over HTTP.

========  ==========================================================================================
path      response
========  ==========================================================================================
/livez    200 as long as the process responds at all: restart it if this does not come
/readyz   200 while every worker takes orders and can send them, else 503; why, in JSON, by store
/metrics  figures for Prometheus, if ``prometheus-client`` is installed; else 404
========  ==========================================================================================
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

from everlytic_async.errors import ConfigurationError, QueueError
from everlytic_async.worker._queue import QueueStatus
from everlytic_async.worker._worker import Worker

if TYPE_CHECKING:
    from everlytic_async.worker._metrics import Metrics

__all__ = ["HealthServer"]

# Each scrape asks the queue for its figures, but waits no longer, in seconds.
_QUEUE_TIMEOUT_S = 2.0
# How long a response may take to write when the server is closed, in seconds.
_CLOSE_TIMEOUT_S = 1.0
# Of a worker's status.
_SHOWN = ("ready", "running", "stopping", "connected", "last_error", "in_flight")


class HealthServer:
    """Serves the health of workers, and their metrics; use it with ``async with``.

    Anybody who can reach the address can read it: the stores' names, counts, and the last error in
    words; no hash, no e-mail address and nothing of an order.

    Args:
        workers: By the names of their stores.
        host: The address to listen at.
        port: The port; 0 picks a free one.
        queue_timeout_s: How long a scrape waits for the figures of a queue, in seconds.

    Attributes:
        url: Its address, once it is open: ``http://HOST:PORT``.

    Raises:
        ConfigurationError: on entering: it can't listen there.
    """

    def __init__(
        self,
        workers: Mapping[str, Worker],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        queue_timeout_s: float = _QUEUE_TIMEOUT_S,
    ) -> None:
        self._queue_timeout_s = queue_timeout_s
        self._workers = dict(workers)
        self._host = host
        self._port = port
        self._metrics: Metrics | None = None
        self._stack = contextlib.AsyncExitStack()
        self.url = ""

    async def __aenter__(self) -> Self:
        async with self._stack as stack:
            if find_spec("prometheus_client") is not None:
                from everlytic_async.worker._metrics import Metrics  # noqa: PLC0415 - an extra

                self._metrics = Metrics(self._workers, stack)
            app = web.Application()
            app.add_routes(
                [
                    web.get("/livez", self._livez),
                    web.get("/readyz", self._readyz),
                    web.get("/metrics", self._metrics_text),
                ]
            )
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=_CLOSE_TIMEOUT_S)
            stack.push_async_callback(runner.cleanup)
            await runner.setup()
            try:
                await web.TCPSite(runner, self._host, self._port).start()
            except OSError as error:
                raise ConfigurationError(
                    f"the health server can't listen at {self._host}:{self._port}: {error.strerror}"
                ) from error
            host, port = runner.addresses[0][:2]
            self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._stack.aclose()

    async def _livez(self, _request: web.Request) -> web.Response:
        return web.Response(text="live\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        stores = {name: _worker_state(worker) for name, worker in self._workers.items()}
        ready = all(state["ready"] for state in stores.values())
        answer = {"ready": ready, "stores": stores}
        return web.json_response(answer, status=200 if ready else 503)

    async def _metrics_text(self, _request: web.Request) -> web.Response:
        if self._metrics is None:
            return web.Response(
                status=404, text="metrics need: pip install 'everlytic-async[metrics]'\n"
            )
        found = await asyncio.gather(*map(self._queue_status, self._workers.values()))
        queues = [status for status in found if status is not None]
        body, kind = self._metrics.read(queues)
        return web.Response(body=body, headers={"Content-Type": kind})

    async def _queue_status(self, worker: Worker) -> QueueStatus | None:
        """What is in its queue; None if it does not answer in time."""
        if not worker.queue.connected:
            return None
        try:
            async with asyncio.timeout(self._queue_timeout_s):
                return await worker.queue.status()
        except (TimeoutError, QueueError):
            return None


def _worker_state(worker: Worker) -> dict[str, Any]:
    status = worker.status
    return {name: getattr(status, name) for name in _SHOWN}
