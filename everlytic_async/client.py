"""`EverlyticClient`: the settings, the session's life, and the ways to send."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncIterable, Collection, Iterable, Mapping, Sequence
from contextlib import (
    AbstractContextManager,
)
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypedDict, Unpack, cast

from everlytic_async._job import AnyOrder, KeyOf
from everlytic_async._ledgers import ClientLedger
from everlytic_async._pacer import Pacer
from everlytic_async._request import SESSION_CLOSED
from everlytic_async._retry import load as load_tenacity
from everlytic_async._secrets import Secrets
from everlytic_async._sender import Sender
from everlytic_async._transport import Transport
from everlytic_async._version import __version__
from everlytic_async._waiting import StopToken, Timer, loop_call_later
from everlytic_async.batch import OrderStream, collect
from everlytic_async.errors import (
    ConfigurationError,
    SkippedError,
)
from everlytic_async.events import Dispatcher, Event, Hook, as_hooks
from everlytic_async.ledger import Ledger
from everlytic_async.orders import Order
from everlytic_async.outcomes import BatchReport, Outcome, Receipt
from everlytic_async.policies import (
    Delivery,
    Pacing,
    RetryPolicy,
    Timeouts,
    check_delivery,
    check_seconds,
    check_type,
)

if TYPE_CHECKING:
    import aiohttp

__all__ = ["EverlyticClient"]

_ENVIRONMENT = {
    "base_url": "EVERLYTIC_BASE_URL",
    "store_hash": "EVERLYTIC_STORE_HASH",
    "customer_hash": "EVERLYTIC_CUSTOMER_HASH",
}


class ClientSettings(TypedDict, total=False):
    """The arguments of `EverlyticClient`, by name."""

    base_url: str
    store_hash: str
    customer_hash: str
    delivery: Delivery
    retry: RetryPolicy
    pacing: Pacing
    timeouts: Timeouts
    ledger: Ledger | None
    session: aiohttp.ClientSession | None
    proxy: str | None
    on_event: Hook | Iterable[Hook] | None
    allow_http: bool


# What can be iterated, and is not an iterable of orders.
_NOT_MANY = (Mapping, str, bytes, bytearray, memoryview, Order)
# How long calls in flight may go on when the client is closed, in seconds.
_GRACE_S = 2.0
# How often a caller's session is looked at, in seconds: nothing reports that it was closed.
_SESSION_CHECK_S = 0.5


class EverlyticClient:
    """Sends order-notification triggers to one store of one Everlytic install.

    Use it as ``async with EverlyticClient(...) as client``, or `start` it and `aclose` it. It may
    be shared by any number of tasks of one event loop: its bounds hold for all of them together.

    Args:
        base_url: The address of the install, such as ``https://shop.everlytic.net``; a path
            prefix, a trailing slash or the endpoint's own path may follow.
        store_hash: The store's hash, from the store's page in Everlytic.
        customer_hash: The customer's hash, from the same page.
        delivery: Whether an attempt that may have been processed is repeated. By default never.
        retry: When an attempt that may be repeated is repeated.
        pacing: How many at once, and how fast.
        timeouts: How long one attempt may take.
        ledger: The memory of all calls of this client, such as a `SqliteLedger`: an order that it
            knows as sent, or as possibly sent, is not sent again. It is opened by `start` and
            closed by `aclose`. By default there is none.
        session: The caller's own session, with its connector and proxy; it is never closed here. By
            default the client makes one. The session's middlewares are bypassed (one might repeat
            the POST); its cookie jar is used, so make it an `aiohttp.DummyCookieJar`.
        proxy: The URL of an HTTP proxy, such as ``http://user:password@proxy.example:3128``. Orders
            go through a tunnel (CONNECT), so the proxy sees neither the hashes nor the orders. For
            an ``http://`` address there is no tunnel: that is refused unless the proxy runs on this
            machine or `allow_http` is set. Proxies in the environment are not used.
        on_event: A callable that gets every event (see `everlytic_async.events`), or several.
        allow_http: Whether ``http://`` is accepted for a host other than this machine.

    Raises:
        ConfigurationError: when a setting is missing or wrong; it names the setting.
    """

    def __init__(
        self,
        base_url: str,
        *,
        store_hash: str,
        customer_hash: str,
        delivery: Delivery = Delivery.AT_MOST_ONCE,
        retry: RetryPolicy = RetryPolicy(),
        pacing: Pacing = Pacing(),
        timeouts: Timeouts = Timeouts(),
        ledger: Ledger | None = None,
        session: aiohttp.ClientSession | None = None,
        proxy: str | None = None,
        on_event: Hook | Iterable[Hook] | None = None,
        allow_http: bool = False,
    ) -> None:
        secrets = Secrets(store_hash, customer_hash, proxy)
        del store_hash, customer_hash, proxy  # so that this frame never shows them
        delivery = check_delivery(delivery)
        check_type("retry", retry, RetryPolicy)
        check_type("pacing", pacing, Pacing)
        check_type("timeouts", timeouts, Timeouts)
        self._transport = Transport(
            base_url,
            secrets=secrets,
            timeouts=timeouts,
            session=session,
            allow_http=allow_http,
            user_agent=f"everlytic-async/{__version__}",
        )
        self._concurrency = pacing.max_concurrency
        try:
            self._dispatcher = Dispatcher(as_hooks(on_event))
        except TypeError as error:
            raise ConfigurationError(str(error)) from error
        self._pacer = Pacer(pacing, retry, dispatcher=self._dispatcher)
        self._sender = Sender(self._transport, self._pacer, delivery, retry, self._dispatcher)
        self._stop_token = StopToken()
        self._ledger = ClientLedger(ledger, self._sender)
        self._session_timer: Timer | None = None

    @classmethod
    def from_env(cls, **settings: Unpack[ClientSettings]) -> Self:
        """A client with its address and hashes from the environment.

        Reads ``EVERLYTIC_BASE_URL``, ``EVERLYTIC_STORE_HASH`` and ``EVERLYTIC_CUSTOMER_HASH``.

        Args:
            settings: Any other argument of `EverlyticClient`; one of those three goes before the
                environment's.

        Raises:
            ConfigurationError: when one of them is missing; it names all that are.
        """
        return cls(**_complete(cast("dict[str, Any]", settings)))

    def __repr__(self) -> str:
        return f"<EverlyticClient {self._transport.host}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an EverlyticClient holds secrets and can't be pickled: make one there")

    async def start(self) -> Self:
        """Open the session. ``async with`` does it.

        Raises:
            ConfigurationError: the client was started or closed before.
            LedgerError: the ledger can't be used.
        """
        self._transport.lifecycle.check_new()
        load_tenacity()
        await self._ledger.open()
        try:
            await self._transport.open()
        except BaseException:
            await self._ledger.close()
            raise
        if self._transport.uses_callers_session:
            self._check_session()
        return self

    def _check_session(self) -> None:
        """Stop all that wait once the caller's session is closed: nothing can be sent any more."""
        if self._transport.session_closed:
            self._stop_token.stop(SESSION_CLOSED)
        else:
            self._session_timer = loop_call_later(_SESSION_CHECK_S, self._check_session)

    async def aclose(self) -> None:
        """Close the session. Calls that wait end as not sent; those in flight get a short grace.

        In a process that was forked off it does nothing: the connections belong to the other one.

        Raises:
            ConfigurationError: the client was started in another event loop or thread.
        """
        if self._transport.lifecycle.is_inherited:
            return
        self._transport.lifecycle.close()
        if self._session_timer is not None:
            self._session_timer.cancel()
        self._stop_token.stop("the client was closed")
        try:
            await self._pacer.wait_idle(_GRACE_S)
        finally:
            try:
                await self._transport.close()
                # What was still in flight ends now, and has its outcome recorded.
                await self._pacer.wait_idle(_GRACE_S)
                await asyncio.sleep(0)
            finally:
                await self._ledger.close()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def send_order(
        self,
        order: Order | Mapping[str, Any],
        *,
        key: str | KeyOf | None = None,
        resend: Collection[Outcome] = (),
        deadline_s: float | None = None,
    ) -> Receipt:
        """Send one order and wait for its outcome.

        Args:
            order: The order, or a mapping with its fields as the documentation names them.
            key: The order's idempotency key, or a function that takes the order and returns it. By
                default its order id and workflow id, else a digest of its body. A key of your own
                never equals an order id, not even ``key=str(order_id)``: all that send the same
                orders, such as a webhook handler and a backfill, must name them the same way, or
                customers are notified twice. Where the order id will do, leave it out.
            resend: Outcomes on record in the client's ledger that may be sent again:
                `Outcome.UNKNOWN`, `Outcome.REJECTED`. With AT_LEAST_ONCE, UNKNOWN always is.
            deadline_s: Seconds for the whole call, from now: waiting for the ledger and for its
                turn, attempts and pauses included. Unlike an `asyncio.timeout` around the call, it
                ends with what is known of the order. By default the retry policy's ``deadline_s``
                bounds the waiting, and an attempt that has started may finish.

        Raises:
            InvalidOrderError: it is not a valid order; nothing was sent.
            SkippedError: the ledger knows it as sent, or as possibly sent; its ``state`` says
                which. Nothing was sent now.
            RejectedError: the endpoint refuses it.
            ThrottledError, NotSentError: surely not processed, after the retries or at the
                deadline, or because the ledger could not record the intent to send it.
            UnknownOutcomeError: it may have been processed.
            ConfigurationError: an argument is wrong; or the client is not open, or was started in
                another process, event loop or thread.
        """
        self._transport.check_open()
        if deadline_s is not None:
            check_seconds("deadline_s", deadline_s)
        if not isinstance(key, str) and not _is_plain_function(key):
            raise TypeError(
                "key must be text, or a plain function that takes an order and returns its key"
            )
        ledger_writer = self._ledger.writer(resend, custom_keys=key is not None)
        key_of = _constant(key) if isinstance(key, str) else key
        sending = self._sender.send(
            order,
            self._stop_token,
            key_of=key_of,
            ledger_writer=ledger_writer,
            deadline_s=deadline_s,
        )
        del order  # so that this frame doesn't show it
        return await sending

    def stream_orders(
        self,
        orders: Iterable[AnyOrder] | AsyncIterable[AnyOrder],
        *,
        ordered: bool = False,
        ledger: Ledger | None = None,
        key: KeyOf | None = None,
        resend: Collection[Outcome] = (),
    ) -> OrderStream:
        """Send many orders; one result is yielded for each.

        ``async with client.stream_orders(orders) as results: async for result in results: ...``

        Args:
            orders: Any iterable or async iterable of orders or mappings. It is read lazily, no
                further ahead than there are free slots and results that wait for you. An
                `InvalidOrderError` in the place of an order becomes its result.
            ordered: Yield the results in the order of the input rather than as they complete.
            ledger: The memory of what was sent, such as a `SqliteLedger`: an order that it knows as
                sent, or as possibly sent, is SKIPPED. Of two orders with the same key one is sent.
                It is opened on entering the stream and closed on leaving it. By default the
                client's ledger, if it has one.
            key: Takes an order, as it was read, and returns its idempotency key. By default that is
                its order id and workflow id, else a digest of its body. If the function raises, the
                order is INVALID. As for `send_order`, a key of your own never equals an order id.
            resend: As for `send_order`.

        Raises:
            ConfigurationError: when `resend` names an outcome that must not be sent again, or as
                for `send_order`; the latter also on entering, and by the iteration.
            LedgerError: on entering, when the ledger can't be used.
            SourceError: by the iteration, at its end, when the iterable raised.
            BatchStoppedError: by the iteration, at its end, when every further order would have
                failed the same way.
        """
        self._transport.check_open()
        if isinstance(orders, _NOT_MANY) or not isinstance(orders, Iterable | AsyncIterable):
            raise TypeError("orders must be an iterable or an async iterable of orders")
        if not _is_plain_function(key):
            raise TypeError("key must be a plain function that takes an order and returns its key")
        return OrderStream(
            orders,
            sender=self._sender,
            stop_token=StopToken(self._stop_token),
            concurrency=self._concurrency,
            ordered=ordered,
            key_of=key,
            ledger=self._ledger.for_stream(ledger, resend),
        )

    async def send_orders(
        self,
        orders: Iterable[AnyOrder] | AsyncIterable[AnyOrder],
        *,
        ordered: bool = False,
        ledger: Ledger | None = None,
        key: KeyOf | None = None,
        resend: Collection[Outcome] = (),
    ) -> BatchReport:
        """Send many orders, and collect the results. The arguments are those of `stream_orders`.

        Raises:
            SourceError: when the iterable raised, with the report so far as ``report``.
            BatchStoppedError: when the batch ended early for any other reason, with the report so
                far as ``report``; of an error that was not foreseen, that is the cause.
        """
        stream = self.stream_orders(orders, ordered=ordered, ledger=ledger, key=key, resend=resend)
        del orders  # so that this frame doesn't show them
        return await collect(stream)

    async def forecast(
        self, orders: Sequence[Order], *, ledger: Ledger, resend: Collection[Outcome] = ()
    ) -> list[SkippedError | None]:
        """Which orders a ledger would skip if they were sent now. Nothing is sent or recorded.

        Another process may send them meanwhile. The client need not be open.

        Args:
            orders: The orders, at most a few hundred: all are looked up at once.
            ledger: As for `stream_orders`.
            resend: As for `stream_orders`.

        Returns:
            For each order why it would be skipped; None if it would be sent.

        Raises:
            LedgerError: when the ledger can't be read.
            ConfigurationError, TypeError: an argument is wrong.
        """
        raw: object = orders
        if not isinstance(raw, Sequence) or not all(isinstance(each, Order) for each in raw):
            raise TypeError("orders must be a sequence of Order: Order.from_mapping makes one")
        return await self._ledger.forecast(orders, ledger, resend)

    @property
    def is_open(self) -> bool:
        """Whether it was started, in this process, and not closed."""
        return self._transport.lifecycle.is_open

    @property
    def delivery(self) -> Delivery:
        """Whether an attempt that may have been processed is repeated."""
        return self._sender.delivery

    @property
    def max_concurrency(self) -> int:
        """How many POSTs may be in flight at once: the setting of its `Pacing`."""
        return self._concurrency

    @property
    def trouble(self) -> str | None:
        """Why no order can be delivered at present, for a health check; None if all is well.

        It is set while the endpoint fails or can't be reached and one attempt at a time probes it,
        and while a quota is used up.
        """
        trouble = self._pacer.trouble
        if not trouble.probing:
            return None
        return trouble.describe(self._transport.host)

    def pause(self, seconds: float, *, reason: str = "it was asked for") -> None:
        """Pause all sending, for example because another process of the store was throttled.

        What is in flight goes on. It never shortens a cool-down, and is emitted as a `CoolDown`
        without a status. Trouble of the endpoint is not forgotten meanwhile.

        Args:
            seconds: For how long, above 0.
            reason: Why, for the log and hooks.

        Raises:
            ConfigurationError: the seconds are not a finite number above 0; or the client was not
                started, or in another process, event loop or thread.
        """
        check_seconds("seconds", seconds)
        self._transport.lifecycle.check_place()
        self._pacer.pause(seconds, reason)

    def subscribe(
        self, hook: Hook, event_type: type[Event] = Event
    ) -> AbstractContextManager[None]:
        """Call one more hook with the events while this context manager is open.

        Args:
            hook: As ``on_event``.
            event_type: The class of events to pass to it, subclasses included; by default all.
                Events of single attempts and orders are only made where a hook takes them.

        Raises:
            TypeError: the hook can't be called or is `async def`, or `event_type` is not a class of
                events.
            ConfigurationError: the client was started in another process, event loop or thread.
        """
        if self._transport.lifecycle.is_started:
            self._transport.lifecycle.check_place()
        return self._dispatcher.subscribe(hook, event_type)


def _is_plain_function(key: object) -> bool:
    return key is None or (callable(key) and not inspect.iscoroutinefunction(key))


def _constant(key: str) -> KeyOf:
    return lambda _order: key


def _complete(settings: dict[str, Any]) -> dict[str, Any]:
    """Move the settings into a new dict, completed from the environment.

    The caller's is emptied, so that its frame shows no hash when the constructor raises.
    """
    missing = [
        name
        for key, name in _ENVIRONMENT.items()
        if key not in settings and not os.environ.get(name, "").strip()
    ]
    if missing:
        settings.clear()
        raise ConfigurationError(
            f"set {', '.join(missing)} in the environment: the address of the install, and the "
            "hashes from the store's page in Everlytic"
        )
    complete = {key: os.environ.get(name) for key, name in _ENVIRONMENT.items()} | settings
    settings.clear()
    return complete
