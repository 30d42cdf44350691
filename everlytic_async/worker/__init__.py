"""Orders through a queue in NATS JetStream, for more than one process or machine.

Producers publish orders to a stream with `OrderQueue`. Any number of `Worker` processes on any
machines take them, no more than they have free slots for, send them with an `EverlyticClient`, and
acknowledge each once its outcome is in the ledger. What may not be sent again goes to a stream of
dead letters with the reason, for a person to decide.

- ``_queue``: `OrderQueue`. ``_messages``: an order as a message. ``_streams``: what is stored.
  ``_pull``: how orders are taken. ``_dead_letters``: those that a person decides about.
- ``_worker``: `Worker`. ``_settle``: what the queue is asked to do with an order. ``_peers``: what
  the workers of a store say to each other.
- ``_health``, ``_metrics``: what monitors get. ``_server``: a private NATS server.

Needs the extra ``nats``; ``_metrics`` needs ``metrics`` too.
"""

from __future__ import annotations

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
