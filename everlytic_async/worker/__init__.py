"""Orders through a queue in NATS JetStream, for more than one process or machine.

Producers publish orders to a stream with `OrderQueue`. Any number of `Worker` processes on any
machines take them, no more than they have free slots for, send them with an `EverlyticClient`, and
acknowledge each once its outcome is in the ledger. What may not be sent again goes to a stream of
dead letters with the reason, for a person to decide.

``_settings``, ``_messages``: names and limits; an order as a message. ``_queue``: `OrderQueue`, on
top of ``_connection``, ``_streams``, ``_pull`` and ``_dead_letters``. ``_worker``: `Worker`;
``_settle``: what the queue is asked to do with each order; ``_ledger``: the ledger as the worker's
stream sees it; ``_peers``: how a store's workers pause together; ``_peers``: which run.
``_health``, ``_metrics``: what monitors get. ``_server``: a private NATS server. Needs the extra
``nats``; ``_metrics`` needs ``metrics`` too.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from everlytic_async.worker._dead_letters import DeadLetter
    from everlytic_async.worker._health import HealthServer
    from everlytic_async.worker._peers import WorkerInfo
    from everlytic_async.worker._pull import QueuedOrder
    from everlytic_async.worker._queue import OrderQueue, Published, QueueStatus
    from everlytic_async.worker._server import NatsServer
    from everlytic_async.worker._settings import QueueSettings
    from everlytic_async.worker._worker import Worker, WorkerStatus

__all__ = [
    "DeadLetter",
    "HealthServer",
    "NatsServer",
    "OrderQueue",
    "Published",
    "QueueSettings",
    "QueueStatus",
    "QueuedOrder",
    "Worker",
    "WorkerInfo",
    "WorkerStatus",
]

# The NATS client is loaded when one of these is asked for.
_LAZY_IMPORTS = {
    "DeadLetter": "_dead_letters",
    "HealthServer": "_health",
    "NatsServer": "_server",
    "OrderQueue": "_queue",
    "WorkerInfo": "_peers",
    "Published": "_queue",
    "QueueSettings": "_settings",
    "QueueStatus": "_queue",
    "QueuedOrder": "_pull",
    "Worker": "_worker",
    "WorkerStatus": "_worker",
}

if not TYPE_CHECKING:  # a type checker would accept any name

    def __getattr__(name: str) -> object:
        module = _LAZY_IMPORTS.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{module}"), name)
        globals()[name] = value
        return value
