"""OpenTelemetry: a hook that turns events into spans and metrics.

It needs ``opentelemetry-api`` (the extra ``otel``); the application sets up the SDK, and so where
the data goes. Names follow the semantic conventions for HTTP clients
(https://opentelemetry.io/docs/specs/semconv/http/); others start with ``everlytic.``.

**Spans.** An order is a span ``everlytic.send_order``, from reading it to its result, below the
span that is current where it is sent. Each of its attempts is a client span ``POST`` below it.

=================================== ======= ========================================================
attribute                           of      value
=================================== ======= ========================================================
``everlytic.order.key``             order   the order's key, as in events
``everlytic.outcome``               both    such as ``sent``
``everlytic.order.attempts``        order   how many POSTs were started
``everlytic.order.duplicate_risk``  order   whether it may have been processed more than once
``error.type``                      both    the error's class; of an attempt the status, if it is
                                            400 or above
``http.request.method``             attempt ``POST``
``http.response.status_code``       attempt the status, if there was a response
``http.request.resend_count``       attempt which retry it is, from 1; the first attempt has none
``server.address``, ``server.port`` attempt of the endpoint, if the hook was made with ``base_url``
``url.full``                        attempt the same
=================================== ======= ========================================================

What is not sent has the status ERROR with the error's message, and an event ``exception`` with its
class and message. No stack trace: it might quote what a caller's own function raised.

**Metrics.**

================================ =============== ============= =====================================
name                             instrument      unit          attributes
================================ =============== ============= =====================================
``everlytic.orders``             counter         ``{order}``   ``everlytic.outcome``, ``error.type``
``everlytic.order.duration``     histogram       ``s``         the same
``http.client.request.duration`` histogram       ``s``         the same, method, status
``http.client.active_requests``  up-down counter ``{request}`` method
``everlytic.cool_down.duration`` histogram       ``s``         status
``everlytic.outage.duration``    histogram       ``s``
``everlytic.rate``               gauge           ``{order}/s``
``everlytic.rate_limit``         gauge           ``{order}/s``
``everlytic.batch.duration``     histogram       ``s``         ``everlytic.batch.stopped``
================================ =============== ============= =====================================

With ``base_url``, all have ``server.address`` and ``server.port``. ``http.client.request.duration``
is recorded for each attempt, ``everlytic.cool_down.duration`` for each cool-down (its length).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import attrs
from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import Histogram

from everlytic_async._endpoint import endpoint_url
from everlytic_async._version import __version__
from everlytic_async.errors import EverlyticError
from everlytic_async.events import (
    AttemptEnded,
    AttemptStarted,
    BatchEnded,
    CoolDown,
    Event,
    OrderEnded,
    OutageEnded,
    RateChanged,
)

__all__ = ["OpenTelemetryHook"]

_SCOPE = "everlytic_async"
_METHOD = {"http.request.method": "POST"}
# The buckets that the conventions advise for the duration of HTTP requests, in seconds.
_REQUEST_BOUNDARIES = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
# An order, a pause and an outage may last as long as the retry policy allows.
_LONG_BOUNDARIES = (*_REQUEST_BOUNDARIES, 25, 50, 75, 100, 250, 500)
_BATCH_BOUNDARIES = (1, 5, 10, 30, 60, 300, 600, 1_800, 3_600, 10_800, 36_000)
_HTTP_ERROR = 400

_Attributes = dict[str, str | int | bool]


@attrs.frozen
class _Attempt:
    """What a span needs. Not the error itself, whose traceback refers to the order."""

    started_at: float
    ended_at: float
    attributes: _Attributes
    exception: tuple[str, str] | None


class OpenTelemetryHook:
    """A hook for ``on_event``; make one for each client.

    The spans of an order are made when it ends, so none is ever left open.

    Args:
        base_url: The client's; without it there are no attributes of the server.
        tracer_provider: Where the spans go; by default the global provider.
        meter_provider: Where the metrics go; by default the global provider.

    Raises:
        ConfigurationError: when `base_url` is not the address of an install.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        self._server: _Attributes = {}
        self._url: _Attributes = {}
        if base_url is not None:
            # Whether http:// is allowed is the client's to decide.
            url = endpoint_url(base_url, allow_http=True)
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
            self._server = {"server.address": parts.hostname or "", "server.port": port}
            self._url = {"url.full": url}
        self._tracer = trace.get_tracer(_SCOPE, __version__, tracer_provider)
        meter = metrics.get_meter(_SCOPE, __version__, meter_provider)

        def histogram(name: str, description: str, boundaries: Sequence[float]) -> Histogram:
            return meter.create_histogram(
                name, "s", description, explicit_bucket_boundaries_advisory=boundaries
            )

        self._orders = meter.create_counter(
            "everlytic.orders", unit="{order}", description="Orders that have their result."
        )
        self._order_duration = histogram(
            "everlytic.order.duration", "From reading an order to its result.", _LONG_BOUNDARIES
        )
        self._request_duration = histogram(
            "http.client.request.duration", "Duration of HTTP client requests.", _REQUEST_BOUNDARIES
        )
        self._active_requests = meter.create_up_down_counter(
            "http.client.active_requests",
            unit="{request}",
            description="Number of active HTTP requests.",
        )
        self._cool_down = histogram(
            "everlytic.cool_down.duration", "How long all sending paused.", _LONG_BOUNDARIES
        )
        self._outage = histogram(
            "everlytic.outage.duration", "How long the endpoint was in trouble.", _LONG_BOUNDARIES
        )
        self._rate = meter.create_gauge(
            "everlytic.rate", unit="{order}/s", description="Orders per second that are sent."
        )
        self._rate_limit = meter.create_gauge(
            "everlytic.rate_limit",
            unit="{order}/s",
            description="The estimate of the endpoint's limit.",
        )
        self._batch_duration = histogram(
            "everlytic.batch.duration", "Duration of a batch.", _BATCH_BOUNDARIES
        )
        self._active = 0
        # The attempts, by number, of orders that have not ended, by key.
        self._open_attempts: dict[str, dict[int, _Attempt]] = {}

    def __call__(self, event: Event) -> None:
        """Record one event."""
        match event:
            case AttemptStarted():
                # The client's count: a hook may be subscribed while requests are in flight.
                self._set_active(event.in_flight)
            case AttemptEnded():
                self._attempt_ended(event)
            case OrderEnded():
                self._order_ended(event)
            case CoolDown():
                self._cool_down.record(event.wait_s, {**self._server, **_status(event.status)})
            case OutageEnded():
                self._outage.record(event.lasted_s, self._server)
            case RateChanged():
                if event.rate is not None:
                    self._rate.set(event.rate, self._server)
                if event.limit is not None:
                    self._rate_limit.set(event.limit, self._server)
            case BatchEnded():
                stopped = {"everlytic.batch.stopped": event.stopped is not None}
                self._batch_duration.record(event.elapsed_s, {**self._server, **stopped})
            case _:
                pass

    def _set_active(self, count: int) -> None:
        if count != self._active:
            self._active_requests.add(count - self._active, {**_METHOD, **self._server})
            self._active = count

    def _attempt_ended(self, event: AttemptEnded) -> None:
        self._set_active(max(0, self._active - 1))
        attributes: _Attributes = {
            **_METHOD,
            **self._server,
            **_status(event.status),
            "everlytic.outcome": event.outcome.value,
        }
        error = event.error
        if error is not None:
            failed = event.status is not None and event.status >= _HTTP_ERROR
            attributes["error.type"] = str(event.status) if failed else _class_name(error)
        self._request_duration.record(event.elapsed_s, attributes)
        attributes = {**attributes, **self._url}
        if event.attempt > 1:
            attributes["http.request.resend_count"] = event.attempt - 1
        attempts = self._open_attempts.setdefault(event.key, {})
        attempts[event.attempt] = _Attempt(
            event.at - event.elapsed_s, event.at, attributes, _exception(error)
        )

    def _order_ended(self, event: OrderEnded) -> None:
        attempts = {} if event.key is None else self._open_attempts.pop(event.key, {})
        ended: _Attributes = {"everlytic.outcome": event.outcome.value}
        if event.error is not None:
            ended["error.type"] = _class_name(event.error)
        measured = {**ended, **self._server}
        self._orders.add(1, measured)
        self._order_duration.record(event.elapsed_s, measured)

        attributes: _Attributes = {
            **ended,
            "everlytic.order.attempts": event.attempts,
            "everlytic.order.duplicate_risk": event.duplicate_risk,
        }
        if event.key is not None:
            attributes["everlytic.order.key"] = event.key
        # Events use the monotonic clock, spans the wall clock.
        ahead_ns = time.time_ns() - time.monotonic_ns()
        span = self._tracer.start_span(
            "everlytic.send_order",
            attributes=attributes,
            start_time=_ns(event.at - event.elapsed_s) + ahead_ns,
        )
        if span.is_recording():
            context = trace.set_span_in_context(span)
            for number, attempt in attempts.items():
                # Others are of another order with the same key.
                if number <= event.attempts:
                    self._add_attempt_span(attempt, context, ahead_ns)
        _end(span, _exception(event.error), _ns(event.at) + ahead_ns)

    def _add_attempt_span(self, attempt: _Attempt, context: Context, ahead_ns: int) -> None:
        span = self._tracer.start_span(
            "POST",
            context,
            trace.SpanKind.CLIENT,
            attributes=attempt.attributes,
            start_time=_ns(attempt.started_at) + ahead_ns,
        )
        _end(span, attempt.exception, _ns(attempt.ended_at) + ahead_ns)


def _end(span: trace.Span, exception: tuple[str, str] | None, at_ns: int) -> None:
    """End a span, with the error's class and message if there is one."""
    if exception is not None:
        kind, message = exception
        span.add_event("exception", {"exception.type": kind, "exception.message": message}, at_ns)
        span.set_status(trace.StatusCode.ERROR, message)
    span.end(at_ns)


def _exception(error: EverlyticError | None) -> tuple[str, str] | None:
    if error is None:
        return None
    return f"{type(error).__module__}.{_class_name(error)}", str(error)


def _class_name(error: EverlyticError) -> str:
    return type(error).__qualname__


def _status(status: int | None) -> Mapping[str, int]:
    return {} if status is None else {"http.response.status_code": status}


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
