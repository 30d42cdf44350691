"""Figures of workers for Prometheus. The only importer of prometheus_client: the extra ``metrics``.

Most are read from the workers when they are asked for; those of attempts and pauses are counted as
events. ``store`` is the store's name in the queue. No label names an order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

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
    """The figures of some workers: it hears their clients while it is open.

    Args:
        workers: By the names of their stores.
    """

    def __init__(self, workers: Mapping[str, Worker]) -> None:
        self._workers = workers
        self._queues: Sequence[QueueStatus] = ()
        self._subscribed = ExitStack()
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._attempts = Histogram(
            "everlytic_attempt_seconds",
            "How long each POST took; status is the answer's, or none.",
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
            "What the endpoint is found to allow; absent until it is found.",
            ("store",),
            registry=self._registry,
        )

    def __enter__(self) -> Self:
        for store, worker in self._workers.items():
            self._subscribed.enter_context(worker.client.subscribe(self._hook_of(store)))
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._subscribed.close()

    def _hook_of(self, store: str) -> _Hook:
        return _Hook(store, self._attempts, self._pauses, self._limit)

    def read(self, queues: Sequence[QueueStatus]) -> tuple[bytes, str]:
        """All figures as text, and what kind of text that is.

        Args:
            queues: What is in the queues; of one that is not known, there are no figures.
        """
        self._queues = queues
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4

    def describe(self) -> Iterator[Metric]:
        """Nothing: else registering would ask workers that do not run yet."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The figures that are read rather than counted."""
        yield from self._of_workers()
        yield from self._of_queues()

    def _of_workers(self) -> Iterator[Metric]:
        orders = CounterMetricFamily(
            "everlytic_orders", "Orders that got a result.", labels=("store", "outcome")
        )
        told = CounterMetricFamily(
            "everlytic_settled",
            "Orders by what the queue was told of them: acknowledged, returned, dead.",
            labels=("store", "as"),
        )
        in_hand = GaugeMetricFamily(
            "everlytic_in_hand", "Orders that the worker has, unsettled.", labels=("store",)
        )
        ready = GaugeMetricFamily(
            "everlytic_ready", "1 while it takes orders and can send them.", labels=("store",)
        )
        for store, worker in self._workers.items():
            status = worker.status
            for outcome, count in status.counts.items():
                orders.add_metric((store, str(outcome)), count)
            told.add_metric((store, "acknowledged"), status.acknowledged)
            told.add_metric((store, "returned"), status.returned)
            told.add_metric((store, "dead"), status.dead)
            in_hand.add_metric((store,), status.in_hand)
            ready.add_metric((store,), status.ready)
        yield from (orders, told, in_hand, ready)

    def _of_queues(self) -> Iterator[Metric]:
        families = {
            "waiting": "Orders that no worker was given yet.",
            "in_hand": "Orders with all workers of the store, or waiting for their next delivery.",
            "redelivered": "Of those in hand, the ones given more than once.",
            "dead": "Dead letters.",
        }
        for name, text in families.items():
            family = GaugeMetricFamily(
                f"everlytic_queue_{name}", f"{text} The same from each worker.", labels=("store",)
            )
            for queue in self._queues:
                family.add_metric((queue.store,), getattr(queue, name))
            yield family


class _Hook:
    """Counts the events of one store's client."""

    def __init__(self, store: str, attempts: Histogram, pauses: Counter, limit: Gauge) -> None:
        self._store = store
        self._attempts = attempts
        self._pauses = pauses
        self._limit = limit

    def __call__(self, event: Event) -> None:
        match event:
            case AttemptEnded():
                status = "none" if event.status is None else str(event.status)
                self._attempts.labels(self._store, status).observe(event.elapsed_s)
            case CoolDown():
                status = "none" if event.status is None else str(event.status)
                self._pauses.labels(self._store, status).inc()
            case RateChanged() if event.limit is not None:
                self._limit.labels(self._store).set(event.limit)
