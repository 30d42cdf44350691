"""How a client uses ledgers: its own for all its calls, another one for a single stream."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from functools import partial

from everlytic_async._sender import Sender
from everlytic_async._wire import encode, order_key
from everlytic_async.batch import OpenLedger
from everlytic_async.errors import ConfigurationError, SkippedError
from everlytic_async.ledger import Ledger, LedgerSession
from everlytic_async.ledger.claims import LedgerWriter, any_sent, body_digest, resend_policy
from everlytic_async.orders import Order
from everlytic_async.outcomes import Outcome


class ClientLedger:
    """The ledger of a client, which is opened and closed with it.

    Args:
        ledger: None if the client has none.
        sender: The client's.

    Raises:
        ConfigurationError: it is not a ledger.
    """

    def __init__(self, ledger: Ledger | None, sender: Sender) -> None:
        self._ledger = None if ledger is None else _checked(ledger)
        self._sender = sender
        self._session: LedgerSession | None = None
        self._any_sent = False  # before, by the ledger
        self._closing = AsyncExitStack()

    async def open(self) -> None:
        """Open it.

        Raises:
            LedgerError: it can't be used.
        """
        if self._ledger is None:
            return
        self._session = await self._closing.enter_async_context(self._open(self._ledger))
        try:
            self._any_sent = await any_sent(self._session)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close it."""
        self._session = None
        await self._closing.aclose()

    def writer(self, resend: Collection[Outcome], *, custom_keys: bool) -> LedgerWriter | None:
        """What one call writes to; None if there is no ledger.

        Raises:
            ConfigurationError, TypeError: `resend` is wrong.
        """
        policy = resend_policy(self._sender.delivery, resend)
        if self._session is None:
            return None
        return LedgerWriter(
            self._session,
            policy,
            custom_keys=custom_keys,
            any_accepted=lambda: self._any_sent or self._sender.pacer.accepted_any,
        )

    def opener(self, ledger: Ledger | None) -> OpenLedger | None:
        """What opens a stream's ledger, by default the client's; None if there is none.

        Raises:
            ConfigurationError: it is not a ledger.
        """
        if ledger is not None:
            return partial(self._open, _checked(ledger))
        session = self._session
        return None if session is None else lambda: nullcontext(session)

    async def forecast(
        self, orders: Sequence[Order], ledger: Ledger, resend: Collection[Outcome]
    ) -> list[SkippedError | None]:
        """See `EverlyticClient.forecast`."""
        named = []
        for order in orders:
            body = encode(order)
            named.append((order_key(order, body), body_digest(body)))
        async with self._open(_checked(ledger)) as session:
            writer = LedgerWriter(
                session,
                resend_policy(self._sender.delivery, resend),
                custom_keys=False,
                any_accepted=lambda: True,
            )
            skipped = await writer.find_skipped(named)
        return [skipped.get(place) for place in range(len(named))]

    def _open(self, ledger: Ledger) -> AbstractAsyncContextManager[LedgerSession]:
        transport = self._sender.transport
        return ledger.session(transport.endpoint_id, transport.host)


def _checked(ledger: Ledger) -> Ledger:
    if isinstance(ledger, type) or not callable(getattr(ledger, "session", None)):
        raise ConfigurationError("ledger must be a ledger, such as SqliteLedger(path)")
    return ledger
