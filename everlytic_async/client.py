"""`EverlyticClient`: the settings, the session's life, and the ways to send."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypedDict, Unpack, cast

from everlytic_async._encoding import AnyOrder, KeyOf
from everlytic_async._ledgers import OpenLedger, forecast
from everlytic_async._pacer import Pacer
from everlytic_async._retry import load as load_tenacity
from everlytic_async._secrets import Secrets
from everlytic_async._sender import Sender
from everlytic_async._transport import Transport
from everlytic_async._waiting import StopToken
from everlytic_async.batch import OrderStream, collect
from everlytic_async.errors import ConfigurationError, SkippedError
from everlytic_async.events import Dispatcher, Event, Hook, is_async_callable
from everlytic_async.ledger import Ledger
from everlytic_async.ledger.claims import resend_policy
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


# How long calls in flight may go on when the client is closed, in seconds.
_GRACE_S = 2.0


class EverlyticClient:
    """Sends order-notification triggers to one store of one Everlytic install.

    Use it as ``async with EverlyticClient(...) as client``, or `start` and `aclose` it. The tasks
    of one event loop may share it: its bounds hold for all of them together.

    Args:
        base_url: The address of the install, such as ``https://shop.everlytic.net``; a path prefix,
            a trailing slash or the endpoint's own path may follow.
        store_hash, customer_hash: The two hashes, from the store's page in Everlytic.
        delivery: Whether an attempt that may have been processed is repeated. By default never.
        retry, pacing, timeouts: See `RetryPolicy`, `Pacing` and `Timeouts`.
        ledger: The memory of all calls, such as a `SqliteLedger`: an order that it knows as sent,
            or as possibly sent, is not sent again.
        session: Your own session, with its connector and proxy; it is never closed here. Its
            middlewares are bypassed (one might repeat the POST); its cookie jar is used, so make it
            an `aiohttp.DummyCookieJar`.
        proxy: The URL of an HTTP proxy, such as ``http://user:password@proxy.example:3128``. Orders
            go through a tunnel (CONNECT): it sees neither the hashes nor the orders. For an
            ``http://`` address, without a tunnel, it must run on this machine, or `allow_http` be
            set. Proxies in the environment are not used.
        on_event: A callable, or several, that gets every event (see `everlytic_async.events`).
        allow_http: Whether ``http://`` is accepted for a host other than this machine.

    Raises:
        ConfigurationError: a setting is missing or wrong; it names the setting. By every method:
            the client is not open, or was started in another process, event loop or thread.
        TypeError: by every method: an argument is not of its type.
        LedgerError: on start, on entering a stream and by `forecast`: the ledger can't be used.
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
            base_url, secrets=secrets, timeouts=timeouts, session=session, allow_http=allow_http
        )
        self._concurrency = pacing.max_concurrency
        self._dispatcher = Dispatcher(on_event)
        self._pacer = Pacer(pacing, retry, dispatcher=self._dispatcher)
        self._sender = Sender(self._transport, self._pacer, delivery, self._dispatcher)
        self._stop_token = StopToken()
        self._ledger = OpenLedger(ledger, self._sender)

    @classmethod
    def from_env(cls, **settings: Unpack[ClientSettings]) -> Self:
        """A client with its address and hashes from the environment, unless they are passed.

        Reads ``EVERLYTIC_BASE_URL``, ``EVERLYTIC_STORE_HASH`` and ``EVERLYTIC_CUSTOMER_HASH``; a
        `ConfigurationError` names all that are missing. `settings` are the constructor's arguments.
        """
        return cls(**_complete(cast("dict[str, Any]", settings)))

    def __repr__(self) -> str:
        return f"<EverlyticClient {self._transport.host}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an EverlyticClient holds secrets and can't be pickled: make one there")

    async def start(self) -> Self:
        """Open the session and the ledger, once. ``async with`` does it."""
        self._transport.lifecycle.check_new()
        load_tenacity()
        await self._ledger.open()
        try:
            await self._transport.open(on_session_closed=self._stop_token.stop)
        except BaseException:
            await self._ledger.close()
            raise
        return self

    async def aclose(self) -> None:
        """Close the session. Calls that wait end as not sent; those in flight get a short grace."""
        if self._transport.lifecycle.is_inherited:
            return  # a forked copy: the connections are the other process's
        self._transport.lifecycle.close()
        self._stop_token.stop("the client was closed")
        # Backwards: what the transport ends has its outcome recorded before the ledger is closed.
        async with AsyncExitStack() as closing:
            closing.push_async_callback(self._ledger.close)
            closing.push_async_callback(asyncio.sleep, 0)
            closing.push_async_callback(self._pacer.wait_idle, _GRACE_S)
            closing.push_async_callback(self._transport.close)
            await self._pacer.wait_idle(_GRACE_S)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
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
                default its order id and workflow id, else a digest of its body. Your own key never
                equals an order id, not even ``key=str(order_id)``: a webhook handler and a backfill
                of the same orders must use one kind of key, or customers are notified twice.
            resend: Recorded outcomes that may be sent again: `Outcome.UNKNOWN`, `Outcome.REJECTED`.
                With AT_LEAST_ONCE, UNKNOWN always is.
            deadline_s: Seconds for the whole call. Unlike an `asyncio.timeout`, it ends with what
                is known of the order. By default the retry policy's ``deadline_s`` bounds the
                waiting, and a started attempt may finish.

        Raises:
            InvalidOrderError: it is not a valid order; nothing was sent.
            SkippedError: not sent now: the ledger says (``state``) that it was sent, may have been,
                is in flight, or was rejected and has not changed.
            RejectedError: the endpoint refuses it.
            ThrottledError, NotSentError: surely not processed, after the retries or at the
                deadline, or because the ledger could not record the intent to send it.
            UnknownOutcomeError: it may have been processed.
        """
        self._transport.check_open()
        policy = resend_policy(self._sender.delivery, resend)
        sending = self._sender.send(
            order,
            self._stop_token,
            key_of=key if isinstance(key, str) else _check_key(key, "text, or a plain"),
            ledger_writer=self._ledger.writer(policy, custom_keys=key is not None),
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
            orders: Any iterable or async iterable of orders or mappings. It is read lazily, as far
                as there are free slots and you take the results. An `InvalidOrderError` in the
                place of an order becomes its result.
            ordered: Yield the results in the order of the input rather than as they complete.
            ledger: The memory of what was sent: an order that it knows as sent, or as possibly
                sent, is SKIPPED. Of two orders with the same key one is sent. It is open while the
                stream is. By default the client's ledger, if it has one.
            key: Takes an order, as it was read, and returns its idempotency key; see `send_order`.
                If the function raises, the order is INVALID.
            resend: As for `send_order`.

        Raises:
            ConfigurationError: see the class; also on entering, and by the iteration.
            SourceError: at the end of the iteration: the iterable raised.
            BatchStoppedError: the same, when every further order would have failed likewise.
        """
        self._transport.check_open()
        return OrderStream(
            orders,
            sender=self._sender,
            stop_token=StopToken(self._stop_token),
            concurrency=self._concurrency,
            ordered=ordered,
            key_of=_check_key(key, "a plain"),
            ledger=self._ledger.share() if ledger is None else OpenLedger(ledger, self._sender),
            policy=resend_policy(self._sender.delivery, resend),
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
            SourceError: the iterable raised. Its ``report`` holds the results by then.
            BatchStoppedError: the batch ended early for another reason; with a ``report`` as well,
                and an error that was not foreseen as its cause.
        """
        stream = self.stream_orders(orders, ordered=ordered, ledger=ledger, key=key, resend=resend)
        del orders  # so that this frame doesn't show them
        return await collect(stream)

    async def forecast(
        self, orders: Sequence[Order], *, ledger: Ledger, resend: Collection[Outcome] = ()
    ) -> list[SkippedError | None]:
        """Which orders a ledger would skip if they were sent now. Nothing is sent or recorded.

        For each order the list has why it would be skipped; None if it would be sent. The client
        need not be open. All orders, at most a few hundred, are looked up together.
        """
        return await forecast(orders, ledger, self._sender, resend)

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
        """How many POSTs may be in flight at the same time: the setting of its `Pacing`."""
        return self._concurrency

    @property
    def trouble(self) -> str | None:
        """Why no order can be delivered now: trouble, a used-up quota. None if all is well."""
        trouble = self._pacer.trouble
        return trouble.describe(self._transport.host) if trouble.probing else None

    def pause(self, seconds: float, *, reason: str = "it was asked for") -> None:
        """Pause all sending, for example because another process of the store was throttled.

        What is in flight goes on. It never shortens a cool-down; where it makes one longer, that
        is emitted as a `CoolDown` without a status. Trouble is not forgotten meanwhile.
        """
        check_seconds("seconds", seconds)
        self._transport.lifecycle.check_open()
        self._pacer.pause(seconds, reason)

    def subscribe(
        self, hook: Hook, event_type: type[Event] = Event
    ) -> AbstractContextManager[None]:
        """Call one more hook with events of this class while this context manager is open.

        Raises:
            TypeError: the hook can't be called or is `async def`, or this is not a class of events.
        """
        self._transport.lifecycle.check_same_loop()
        return self._dispatcher.subscribe(hook, event_type)


def _check_key(key: Any, kind: str) -> KeyOf | None:
    if key is not None and (not callable(key) or is_async_callable(key)):
        raise TypeError(f"key must be {kind} function that takes an order and returns its key")
    return cast("KeyOf | None", key)


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
