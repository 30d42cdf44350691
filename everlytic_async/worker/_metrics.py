"""Metrics of workers for Prometheus; the only importer of prometheus_client.

Most are read from the workers at each scrape; attempts and pauses are counted from events. Labels:
``store`` is the store's name in the queue; none names an order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from everlytic_async.events import AttemptEnded, CoolDown, Event, RateChanged
from everlytic_async.worker._queue import QueueStatus
from everlytic_async.worker._worker import Worker

_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics(Collector):
    """The metrics of workers, by the names of their stores."""

    def __init__(self, workers: Mapping[str, Worker], subscribed: AsyncExitStack) -> None:
        self._workers = workers
        self._queues: Sequence[QueueStatus] = ()
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._attempts = Histogram(
            "everlytic_attempt_seconds",
            "How long each POST took; status is the response's, or none.",
            ("store", "status"),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._pauses = Counter(
            "everlytic_cool_downs",
            "Pauses of all senders of the worker; status is the one that asked for it, or none.",
            ("store", "status"),
            registry=self._registry,
        )
        self._limit = Gauge(
            "everlytic_limit_orders_per_second",
            "The limit found for the endpoint; absent until it is found.",
            ("store",),
            registry=self._registry,
        )
        for store, worker in workers.items():
            subscribed.enter_context(worker.client.subscribe(partial(self._count, store)))

    def _count(self, store: str, event: Event) -> None:
        match event:
            case AttemptEnded():
                status = "none" if event.status is None else str(event.status)
                self._attempts.labels(store, status).observe(event.elapsed_s)
            case CoolDown():
                status = "none" if event.status is None else str(event.status)
                self._pauses.labels(store, status).inc()
            case RateChanged() if event.limit is not None:
                self._limit.labels(store).set(event.limit)

    def read(self, queues: Sequence[QueueStatus]) -> tuple[bytes, str]:
        """All metrics as text, with those of the queues that answered; and its content type."""
        self._queues = queues
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4

    def describe(self) -> Iterator[Metric]:
        """Nothing: registering would otherwise read workers that do not run yet."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The metrics that are read rather than counted."""
        yield from self._worker_metrics()
        yield from self._queue_metrics()

    def _worker_metrics(self) -> Iterator[Metric]:
        orders = CounterMetricFamily(
            "everlytic_orders", "Orders that got a result.", labels=("store", "outcome")
        )
        acks = CounterMetricFamily(
            "everlytic_acks",
            "Orders by what became of them in the queue: ack, nak, dead_letter.",
            labels=("store", "action"),
        )
        in_flight = GaugeMetricFamily(
            "everlytic_in_flight", "Orders that the worker holds, unsettled.", labels=("store",)
        )
        ready = GaugeMetricFamily(
            "everlytic_ready", "1 while it takes orders and can send them.", labels=("store",)
        )
        for store, worker in self._workers.items():
            status = worker.status
            for outcome, count in status.counts.items():
                orders.add_metric((store, str(outcome)), count)
            acks.add_metric((store, "ack"), status.acked)
            acks.add_metric((store, "nak"), status.nacked)
            acks.add_metric((store, "dead_letter"), status.dead_lettered)
            in_flight.add_metric((store,), status.in_flight)
            ready.add_metric((store,), status.ready)
        yield from (orders, acks, in_flight, ready)

    def _queue_metrics(self) -> Iterator[Metric]:
        families = {
            "waiting": "Orders that were not delivered to any worker yet.",
            "in_flight": "Orders with all workers, or waiting for their next delivery.",
            "redelivered": "Those of them that were delivered more than once.",
            "dead": "Dead letters.",
        }
        for name, text in families.items():
            family = GaugeMetricFamily(
                f"everlytic_queue_{name}", f"{text} The same from each worker.", labels=("store",)
            )
            for queue in self._queues:
                family.add_metric((queue.store,), getattr(queue, name))
            yield family
