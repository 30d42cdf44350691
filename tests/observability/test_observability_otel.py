"""OpenTelemetry: spans and metrics of real deliveries, by the SDK's in-memory exporters."""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    Gauge,
    HistogramDataPoint,
    InMemoryMetricReader,
    Metric,
    NumberDataPoint,
    Sum,
)
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from opentelemetry.semconv._incubating.metrics import http_metrics as experimental_metrics
from opentelemetry.semconv.attributes import (
    error_attributes,
    exception_attributes,
    http_attributes,
    server_attributes,
    url_attributes,
)
from opentelemetry.semconv.metrics import http_metrics

from everlytic_async import (
    Delivery,
    EverlyticClient,
    EverlyticError,
    InvalidOrderError,
    Outcome,
    Pacing,
)
from everlytic_async.errors import ConnectionLostError
from everlytic_async.events import (
    AttemptEnded,
    AttemptStarted,
    BatchEnded,
    BatchStarted,
    CoolDown,
    Event,
    OrderEnded,
    OutageEnded,
    RateChanged,
)
from everlytic_async.otel import OpenTelemetryHook
from everlytic_async.sandbox import Faults, Sandbox
from support.delivery import (
    client_of,
    make_client,
    order,
    orders,
    sandbox_client,
)
from support.processes import run_python
from support.servers import Connection, RawServer, until

ERROR, UNSET = trace.StatusCode.ERROR, trace.StatusCode.UNSET
#: All names of the semantic conventions that concern a client.
CONVENTIONS = {
    value
    for module in (
        error_attributes,
        exception_attributes,
        http_attributes,
        server_attributes,
        url_attributes,
        http_metrics,
        experimental_metrics,
    )
    for value in vars(module).values()
    if isinstance(value, str)
}


class Telemetry:
    """An SDK that keeps everything in memory."""

    def __init__(self, sampler: Sampler = ALWAYS_ON) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self._metrics: dict[str, Metric] = {}
        self.tracers = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meters = MeterProvider([self._reader], shutdown_on_exit=False)

    def hook(self, base_url: str | None = None) -> OpenTelemetryHook:
        return OpenTelemetryHook(base_url, tracer_provider=self.tracers, meter_provider=self.meters)

    def close(self) -> None:
        self.tracers.shutdown()
        self.meters.shutdown()

    def spans(self, name: str | None = None) -> list[ReadableSpan]:
        """Those that have ended, in the order of their beginning."""
        spans = [span for span in self._exporter.get_finished_spans() if name in (None, span.name)]
        return sorted(spans, key=lambda span: span.start_time or 0)

    @property
    def orders(self) -> list[ReadableSpan]:
        return self.spans("everlytic.send_order")

    @property
    def attempts(self) -> list[ReadableSpan]:
        return self.spans("POST")

    def metrics(self) -> dict[str, Metric]:
        """Each as last exported: older SDKs don't export an unchanged gauge again."""
        data = self._reader.get_metrics_data()
        if data is not None:
            self._metrics |= {
                metric.name: metric
                for resource in data.resource_metrics
                for scope in resource.scope_metrics
                for metric in scope.metrics
            }
        return self._metrics

    def points(self, name: str) -> list[tuple[dict[str, Any], Any]]:
        """The attributes of each series of a metric, and its value or its histogram."""
        metric = self.metrics().get(name)
        if metric is None:
            return []
        return [
            (
                dict(point.attributes or {}),
                point.value if isinstance(point, NumberDataPoint) else point,
            )
            for point in metric.data.data_points
        ]

    def total(self, name: str) -> float:
        """The sum of a counter, or the count of a histogram."""
        return sum(
            point.count if isinstance(point, HistogramDataPoint) else point
            for _, point in self.points(name)
        )

    def everything(self) -> str:
        """All that would leave the process, as text."""
        spans = [span.to_json() for span in self.spans()]
        return "\n".join([*spans, *(metric.to_json() for metric in self.metrics().values())])


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    telemetry = Telemetry()
    yield telemetry
    telemetry.close()


def one(spans: list[ReadableSpan]) -> ReadableSpan:
    (span,) = spans
    return span


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def exceptions(span: ReadableSpan) -> list[tuple[str, dict[str, object]]]:
    return [(event.name, dict(event.attributes or {})) for event in span.events]


def seconds(span: ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


@asynccontextmanager
async def answered(*statuses: int, hooks: Sequence[Any]) -> AsyncIterator[EverlyticClient]:
    """A client with these hooks, answered so, one after the other; 0 hangs up instead."""
    left = iter(statuses)

    async def script(connection: Connection) -> None:
        while status := next(left):
            await connection.request()
            await connection.answer(status)
        await connection.request()
        connection.reset()

    pacing = Pacing(adaptive=False)
    async with (
        RawServer(script) as server,
        make_client(server.url, on_event=hooks, pacing=pacing) as client,
    ):
        yield client


# ------------------------------------------------------------------------------------------- spans


async def test_an_order_is_a_span_with_one_below_it_for_each_attempt(telemetry: Telemetry) -> None:
    events: list[Event] = []
    before = time.time_ns()
    async with answered(503, 429, 200, 0, hooks=[telemetry.hook(), events.append]) as client:
        await client.send_order(order(7))
    after = time.time_ns()

    sent, attempts = one(telemetry.orders), telemetry.attempts
    assert attributes(sent) == {
        "everlytic.order.key": "7",
        "everlytic.outcome": "sent",
        "everlytic.order.attempts": 3,
        "everlytic.order.duplicate_risk": False,
    }
    for number, (span, status) in enumerate(zip(attempts, (503, 429, 200), strict=True)):
        assert attributes(span) == {
            "http.request.method": "POST",
            "http.response.status_code": status,
            "everlytic.outcome": "sent" if status == 200 else "not_sent",
            **({} if status == 200 else {"error.type": str(status)}),
            **({"http.request.resend_count": number} if number else {}),
        }
        assert span.kind is trace.SpanKind.CLIENT
        assert span.parent == sent.context
    assert sent.kind is trace.SpanKind.INTERNAL
    assert sent.parent is None
    states = [span.status.status_code for span in (sent, *attempts)]
    assert states == [UNSET, ERROR, ERROR, UNSET]
    assert not sent.events
    assert not attempts[2].events

    # The times are those of the events. A wall clock may be set a little between two readings.
    start, end = sent.start_time or 0, sent.end_time or 0
    assert before - 50_000_000 <= start <= end <= after + 50_000_000
    moments = [moment or 0 for span in attempts for moment in (span.start_time, span.end_time)]
    chain = [start - 2, *moments, end + 2]  # each number is rounded by itself
    assert chain == sorted(chain)
    lasted = [event.elapsed_s for event in events if isinstance(event, AttemptEnded | OrderEnded)]
    assert [seconds(span) for span in (*attempts, sent)] == pytest.approx(lasted, abs=1e-6)


@pytest.mark.parametrize(
    ("status", "outcome", "error", "of_the_attempt"),
    [
        (422, "rejected", "RejectedError", "422"),
        (302, "rejected", "RejectedError", "RejectedError"),
        (401, "not_sent", "AuthenticationError", "401"),
        (500, "unknown", "ServerError", "500"),
        (0, "unknown", "ConnectionLostError", "ConnectionLostError"),
    ],
)
async def test_what_was_not_sent_has_the_class_and_the_message_of_its_error(
    telemetry: Telemetry, status: int, outcome: str, error: str, of_the_attempt: str
) -> None:
    async with answered(status, 0, hooks=[telemetry.hook()]) as client:
        with pytest.raises(EverlyticError) as caught:
            await client.send_order(order(1))

    message = str(caught.value)
    sent, attempt = one(telemetry.orders), one(telemetry.attempts)
    assert attributes(sent)["everlytic.outcome"] == outcome
    assert attributes(sent)["error.type"] == error
    assert attributes(attempt)["error.type"] == of_the_attempt
    assert attributes(attempt).get("http.response.status_code", 0) == status
    labels = {"exception.type": f"everlytic_async.errors.{error}", "exception.message": message}
    for span in (sent, attempt):
        assert span.status.status_code is ERROR
        assert span.status.description == message
        assert exceptions(span) == [("exception", labels)]


async def test_an_invalid_order_is_a_span_without_an_attempt(telemetry: Telemetry) -> None:
    async with sandbox_client(on_event=telemetry.hook()) as (_, client):
        with pytest.raises(InvalidOrderError):
            await client.send_order({"contact_email": "nobody"})

    assert telemetry.attempts == []
    labels = attributes(one(telemetry.orders))
    assert labels["everlytic.outcome"] == "invalid"
    assert labels["everlytic.order.attempts"] == 0
    assert "everlytic.order.key" not in labels


async def test_orders_are_below_the_span_that_is_current_where_they_are_sent(
    telemetry: Telemetry,
) -> None:
    tracer = telemetry.tracers.get_tracer("test")
    async with sandbox_client(on_event=telemetry.hook()) as (_, client):
        with tracer.start_as_current_span("nightly"):
            await client.send_orders(orders(5))
        with tracer.start_as_current_span("checkout"):
            await client.send_order(order(9))

    above = {
        span.context.span_id: span.name for span in telemetry.spans() if span.context is not None
    }
    found = Counter(above[span.parent.span_id] for span in telemetry.orders if span.parent)
    assert found == {"nightly": 5, "checkout": 1}


@pytest.mark.parametrize(
    ("base_url", "address", "port", "url"),
    [
        ("https://shop.example", "shop.example", 443, "https://shop.example"),
        ("https://shop.example:8443/mail/", "shop.example", 8443, "https://shop.example:8443/mail"),
        ("http://shop.example", "shop.example", 80, "http://shop.example"),
    ],
)
def test_the_server_is_named_by_the_address_of_the_install(
    telemetry: Telemetry, base_url: str, address: str, port: int, url: str
) -> None:
    hook = telemetry.hook(base_url)
    for event in ended("1"):
        hook(event)

    labels = attributes(one(telemetry.attempts))
    assert labels["server.address"] == address
    assert labels["server.port"] == port
    assert labels["url.full"] == f"{url}/servlet/e-commerce/orders"


# ----------------------------------------------------------------------------------------- metrics


async def test_metrics_agree_with_the_server_and_the_report(telemetry: Telemetry) -> None:
    faults = Faults(seed=5, throttled=0.05, unavailable=0.05, server_error=0.05, dropped_after=0.05)
    values = [*orders(150), {"order_id": "x"}, {}]
    async with Sandbox(faults=faults) as sandbox:
        hook = telemetry.hook(sandbox.base_url)
        async with client_of(sandbox, on_event=hook, delivery=Delivery.AT_LEAST_ONCE) as client:
            report = await client.send_orders(values)

    by_outcome: Counter[str] = Counter()
    for labels, count in telemetry.points("everlytic.orders"):
        by_outcome[labels["everlytic.outcome"]] += count
    assert by_outcome == {outcome: n for outcome, n in report.counts.items() if n}
    assert by_outcome["invalid"] == 2
    assert telemetry.total("everlytic.order.duration") == len(values)

    by_status: Counter[int] = Counter()
    for labels, histogram in telemetry.points("http.client.request.duration"):
        by_status[labels.get("http.response.status_code", 0)] += histogram.count
    assert by_status == {**sandbox.statuses, 0: sandbox.dropped}
    assert sum(by_status.values()) == sandbox.requests == len(telemetry.attempts)
    assert set(by_status) == {0, 200, 429, 500, 503}
    assert telemetry.total("http.client.active_requests") == 0
    assert telemetry.total("everlytic.batch.duration") == 1

    used = {*telemetry.metrics()}
    for name in telemetry.metrics():
        used |= {key for labels, _ in telemetry.points(name) for key in labels}
    for span in telemetry.spans():
        used |= {*attributes(span)}
        used |= {key for _, labels in exceptions(span) for key in labels}
    assert {name for name in used if not name.startswith("everlytic.")} <= CONVENTIONS
    assert len(used) > 15


async def test_requests_in_flight_are_measured_although_one_is_cancelled(
    telemetry: Telemetry,
) -> None:
    active: list[float] = []

    def watch(event: Event) -> None:
        if isinstance(event, AttemptStarted | AttemptEnded):
            active.append(telemetry.total("http.client.active_requests"))

    async with sandbox_client(
        Sandbox(faults=Faults(latency_s=0.02)),
        on_event=[telemetry.hook(), watch],
        pacing=Pacing(max_concurrency=4),
    ) as (sandbox, client):
        await client.send_orders(orders(12))
        assert max(active) == 4
        assert active[-1] == min(active) == 0

        cancelled = asyncio.create_task(client.send_order(order(20)))
        await until(lambda: sandbox.in_flight)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        await client.send_order(order(21))
        assert active[-1] == 0


def test_instruments_have_the_figures_kinds_and_units_that_the_description_says(
    telemetry: Telemetry,
) -> None:
    hook = telemetry.hook("https://shop.example")
    for event in (
        *ended("1"),
        CoolDown(at=0.0, wait_s=1.0, status=429, reason="busy"),
        CoolDown(at=0.0, wait_s=2.0, status=None, reason="refused"),
        OutageEnded(at=0.0, lasted_s=3.0),
        RateChanged(at=0.0, rate=99.0, limit=100.0),
        RateChanged(at=0.0, rate=None, limit=None),
        BatchStarted(at=0.0),
        BatchEnded(at=0.0, counts={}, elapsed_s=9.0, stopped=None),
        BatchEnded(at=0.0, counts={}, elapsed_s=8.0, stopped="401"),
    ):
        hook(event)
    metrics = telemetry.metrics()

    server = {"server.address": "shop.example", "server.port": 443}
    assert telemetry.points("everlytic.rate") == [(server, 99.0)]
    assert telemetry.points("everlytic.rate_limit") == [(server, 100.0)]
    for name, expected in {
        "everlytic.cool_down": [({"http.response.status_code": 429}, 1.0), ({}, 2.0)],
        "everlytic.outage": [({}, 3.0)],
        "everlytic.batch": [
            ({"everlytic.batch.stopped": False}, 9.0),
            ({"everlytic.batch.stopped": True}, 8.0),
        ],
    }.items():
        figures = [(labels, point.sum) for labels, point in telemetry.points(f"{name}.duration")]
        assert figures == [({**server, **labels}, seconds) for labels, seconds in expected]

    units = {name: metric.unit for name, metric in metrics.items()}
    assert units == {
        "everlytic.orders": "{order}",
        "everlytic.order.duration": "s",
        "http.client.request.duration": "s",
        "http.client.active_requests": "{request}",
        "everlytic.cool_down.duration": "s",
        "everlytic.outage.duration": "s",
        "everlytic.rate": "{order}/s",
        "everlytic.rate_limit": "{order}/s",
        "everlytic.batch.duration": "s",
    }
    orders_data, active = metrics["everlytic.orders"].data, metrics["http.client.active_requests"]
    assert isinstance(orders_data, Sum)
    assert orders_data.is_monotonic
    assert isinstance(active.data, Sum)
    assert not active.data.is_monotonic
    assert isinstance(metrics["everlytic.rate"].data, Gauge)
    # As the conventions advise, so that one dashboard fits all clients.
    ((_, histogram),) = telemetry.points("http.client.request.duration")[:1]
    assert histogram.explicit_bounds[:3] == (0.005, 0.01, 0.025)
    assert histogram.explicit_bounds[-1] == 10


# ------------------------------------------------------------------- what is kept, and what is not


def ended(key: str, attempts: int = 1, outcome: Outcome = Outcome.SENT) -> list[Event]:
    """The events of an order from its first attempt to its end."""
    order: dict[str, Any] = {"at": time.monotonic(), "key": key}
    end: dict[str, Any] = {**order, "outcome": outcome, "elapsed_s": 0.0, "error": None}
    events: list[Event] = []
    for attempt in range(1, attempts + 1):
        events.append(AttemptStarted(**order, attempt=attempt, in_flight=1))
        events.append(AttemptEnded(**end, attempt=attempt, status=200))
    return [*events, OrderEnded(**end, attempts=attempts, duplicate_risk=False)]


def test_the_attempts_of_an_order_are_kept_until_it_ends_and_go_to_no_other(
    telemetry: Telemetry,
) -> None:
    hook = telemetry.hook()
    for event in (*ended("1", attempts=3), ended("1", attempts=3)[-1]):
        hook(event)
    assert (len(telemetry.orders), len(telemetry.attempts)) == (2, 3)

    # Another order of its name ends before it.
    for event in (*ended("7", attempts=3)[:-1], *ended("7", attempts=1)):
        hook(event)
    assert (len(telemetry.orders), len(telemetry.attempts)) == (3, 4)


def test_no_error_is_kept_while_its_order_goes_on(telemetry: Telemetry) -> None:
    # Its traceback would hold on to the order.
    hook = telemetry.hook()
    error = ConnectionLostError("the connection broke")
    _, attempt, _ = ended("7", outcome=Outcome.UNKNOWN)
    assert isinstance(attempt, AttemptEnded)
    hook(attrs.evolve(attempt, error=error))

    kept = weakref.ref(error)
    del error
    assert kept() is None


async def test_neither_telemetry_nor_events_nor_the_log_show_a_hash_or_anything_of_an_order(
    telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    def by_email(values: Mapping[str, Any]) -> str:
        if values["order_id"] == "3":
            raise KeyError(values["contact_email"])
        return str(values["contact_email"])  # just what must not be shown

    items = [
        *orders(40),
        order(90, products="a secret product"),
        order(91, sub_total="a secret sum"),
        {"contact_email": "customer92@example.com"},
        {"contact_email": "customer93@example", "products": [{}]},
    ]
    events: list[Event] = []
    faults = Faults(seed=2, throttled=0.1, server_error=0.1, dropped_after=0.1)
    caplog.set_level(logging.DEBUG)
    async with Sandbox(faults=faults) as sandbox:
        hooks = [telemetry.hook(sandbox.base_url), events.append]
        async with client_of(sandbox, on_event=hooks, pacing=Pacing(adaptive=False)) as client:
            for key in (None, by_email, lambda values: str(values["order_id"])):
                await client.send_orders(items, key=key)

    assert len(telemetry.orders) == sum(isinstance(event, OrderEnded) for event in events) == 132
    assert len(caplog.records) > 3 * 40
    left = telemetry.everything()
    assert "ServerError" in left
    texts = [left, *(f"{event!r} {getattr(event, 'error', '')}" for event in events)]
    texts += [f"{logging.Formatter().format(each)} {each.args!r}" for each in caplog.records]
    secrets = ("customer", "example.com", "Mop", "secret", "KeyError('", "Traceback")
    for secret in (*secrets, sandbox.store_hash, sandbox.customer_hash):
        assert not any(secret in text for text in texts)


async def test_what_is_not_sampled_has_metrics_and_no_spans() -> None:
    telemetry = Telemetry(ALWAYS_OFF)
    async with sandbox_client(on_event=telemetry.hook()) as (_, client):
        await client.send_orders(orders(3))

    assert telemetry.spans() == []
    assert telemetry.total("everlytic.orders") == 3
    telemetry.close()


async def test_without_an_sdk_it_does_nothing() -> None:
    async with sandbox_client(on_event=OpenTelemetryHook()) as (sandbox, client):
        report = await client.send_orders(orders(3))

    assert report.counts[Outcome.SENT] == sandbox.processed == 3


def test_it_needs_only_the_api() -> None:
    program = (
        "import sys, everlytic_async.otel\n"
        "everlytic_async.otel.OpenTelemetryHook('https://shop.example')\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])\n"
    )
    assert run_python("-c", program) == "[]\n"
