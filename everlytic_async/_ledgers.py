"""A ledger in use: by a client for its single calls, by a stream, or for a forecast."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from everlytic_async._sender import Sender
from everlytic_async.errors import ConfigurationError, SkippedError
from everlytic_async.ledger import Ledger, LedgerSession, ResendPolicy
from everlytic_async.ledger.claims import LedgerWriter, resend_policy
from everlytic_async.orders import Order
from everlytic_async.outcomes import Outcome


class OpenLedger:
    """A ledger for the endpoint and store of a client, or none.

    Attributes:
        ledger: None if there is none.
        any_sent: Whether it knew, when it was opened, an order that this endpoint and store
            accepted.

    Raises:
        ConfigurationError: it is not a ledger.
    """

    def __init__(
        self, ledger: Ledger | None, sender: Sender, session: LedgerSession | None = None
    ) -> None:
        if ledger is not None:
            _check(ledger)
        self.ledger = ledger
        self.any_sent = False
        self._sender = sender
        self._session = session
        self._closing = AsyncExitStack()

    def share(self) -> OpenLedger:
        """The same for one stream, which asks it again, and does not close it."""
        return OpenLedger(self.ledger, self._sender, self._session)

    async def open(self) -> None:
        """Open it, unless it is open, and ask it for an accepted order.

        Raises:
            LedgerError: it can't be used.
        """
        if self.ledger is None:
            return
        async with AsyncExitStack() as opening:
            session = self._session
            if session is None:
                session = await opening.enter_async_context(_session(self.ledger, self._sender))
            # A caller's own ledger that can't be asked knows of none.
            ask = getattr(session, "any_sent", None)
            self.any_sent = ask is not None and bool(await ask())
            self._session, self._closing = session, opening.pop_all()

    async def close(self) -> None:
        """Close it, unless it is shared."""
        self._session = None
        await self._closing.aclose()

    def any_accepted(self) -> bool:
        """Whether the endpoint and store are known to have accepted any order."""
        return self.any_sent or self._sender.pacer.ever_accepted

    def writer(self, policy: ResendPolicy, *, custom_keys: bool) -> LedgerWriter | None:
        """What one call, or one stream, claims and records with; None if there is no ledger."""
        if self._session is None:
            return None
        return LedgerWriter(
            self._session, policy, custom_keys=custom_keys, any_accepted=self.any_accepted
        )


async def forecast(
    orders: Sequence[Order], ledger: Ledger, sender: Sender, resend: Collection[Outcome]
) -> list[SkippedError | None]:
    """See `EverlyticClient.forecast`."""
    raw: object = orders
    if not isinstance(raw, Sequence) or not all(isinstance(each, Order) for each in raw):
        raise TypeError("orders must be a sequence of Order: Order.from_mapping makes one")
    policy = resend_policy(sender.delivery, resend)
    _check(ledger)
    jobs = [sender.prepare(index, order, None) for index, order in enumerate(orders)]
    named = [(job.key, job.digest) for job in jobs]
    async with _session(ledger, sender) as session:
        writer = LedgerWriter(session, policy, custom_keys=False, any_accepted=lambda: True)
        skipped = await writer.find_skipped(named)
    return [skipped.get(position) for position in range(len(named))]


def _session(ledger: Ledger, sender: Sender) -> AbstractAsyncContextManager[LedgerSession]:
    return ledger.session(sender.transport.endpoint_id, sender.transport.host)


def _check(ledger: object) -> None:
    if isinstance(ledger, type) or not callable(getattr(ledger, "session", None)):
        raise ConfigurationError("ledger must be a ledger, such as SqliteLedger(path)")
