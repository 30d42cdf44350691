"""Orders by way of NATS JetStream: when one process or one machine is not enough.

Whoever has an order publishes it to a stream, by `OrderQueue`. Any number of `Worker` processes on
any machines take the orders from there, each no more than it has free slots for, send them with an
`EverlyticClient`, and acknowledge each once its outcome is in the ledger. What may not be sent
again goes to a stream of dead letters with the reason, for a person to decide.

``_messages``: names, settings, and what an order looks like as a message; pure functions.
``_queue``: the streams, and what is done with them. ``_pull``: taking orders. ``_worker``: the
worker; ``_ledger``: its ledger as its stream sees it; ``_pace``: how the workers of a store pause
together; ``_presence``: who of them is there.
``_health``: what is served to monitors; ``_metrics``: the figures among that. ``_server``: a
private NATS server. Needs the extra ``nats``; ``_metrics`` needs ``metrics`` too.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from everlytic_async.worker._health import HealthServer
    from everlytic_async.worker._messages import QueueSettings
    from everlytic_async.worker._presence import PresentWorker
    from everlytic_async.worker._pull import QueuedOrder
    from everlytic_async.worker._queue import (
        DeadLetter,
        OrderQueue,
        Published,
        QueueStatus,
    )
    from everlytic_async.worker._server import NatsServer
    from everlytic_async.worker._worker import Worker, WorkerStatus

__all__ = [
    "DeadLetter",
    "HealthServer",
    "NatsServer",
    "OrderQueue",
    "PresentWorker",
    "Published",
    "QueueSettings",
    "QueueStatus",
    "QueuedOrder",
    "Worker",
    "WorkerStatus",
]

# Nobody loads the NATS client who only looks here.
_HOME_OF = {
    "DeadLetter": "_queue",
    "HealthServer": "_health",
    "NatsServer": "_server",
    "OrderQueue": "_queue",
    "PresentWorker": "_presence",
    "Published": "_queue",
    "QueueSettings": "_messages",
    "QueueStatus": "_queue",
    "QueuedOrder": "_pull",
    "Worker": "_worker",
    "WorkerStatus": "_worker",
}

if not TYPE_CHECKING:  # who would take any name for one of these

    def __getattr__(name: str) -> object:
        home = _HOME_OF.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{home}"), name)
        globals()[name] = value
        return value
