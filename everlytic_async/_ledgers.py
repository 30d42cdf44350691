"""The ledger of a client, for all its calls, and the ledger of one stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    nullcontext,
)
from functools import partial

from everlytic_async._encoding import encode, order_key
from everlytic_async._sender import Job, Sender
from everlytic_async.errors import ConfigurationError, SkippedError
from everlytic_async.ledger import Ledger, LedgerSession, ResendPolicy
from everlytic_async.ledger.claims import LedgerWriter, body_digest, resend_policy
from everlytic_async.orders import Order
from everlytic_async.outcomes import Outcome

_Opener = Callable[[], AbstractAsyncContextManager[LedgerSession]]


@asynccontextmanager
async def _open_and_ask(opener: _Opener) -> AsyncIterator[tuple[LedgerSession, bool]]:
    """A ledger, and whether it knows an order that the endpoint and store accepted.

    A caller's own ledger that can't be asked knows of none.
    """
    async with opener() as session:
        ask = getattr(session, "any_sent", None)
        yield session, ask is not None and bool(await ask())


class StreamLedger:
    """The ledger of one stream, if it has one.

    Args:
        open_ledger: Opens it; None if there is none.
        policy: What may be sent again.
        accepted_any: Whether the endpoint accepted an order of this client.

    Attributes:
        writer: What claims and records; None if there is no ledger, or it is not open.
        any_sent: Whether it knew, on opening, any order that this endpoint and store accepted.
        expects_skips: Whether it is likely to know the next orders.
    """

    def __init__(
        self,
        open_ledger: _Opener | None,
        policy: ResendPolicy,
        accepted_any: Callable[[], bool],
    ) -> None:
        self._open_ledger = open_ledger
        self._policy = policy
        self._accepted_any = accepted_any
        self._closing = AsyncExitStack()
        self.writer: LedgerWriter | None = None
        self.any_sent = False
        self.expects_skips = False

    @property
    def exists(self) -> bool:
        """Whether the stream has one."""
        return self._open_ledger is not None

    def any_accepted(self) -> bool:
        """Whether the endpoint and store are known to have accepted any order."""
        return self.any_sent or self._accepted_any()

    async def open(self, *, custom_keys: bool) -> None:
        """Open it.

        Raises:
            LedgerError: it can't be used.
        """
        if self._open_ledger is None:
            return
        opening = _open_and_ask(self._open_ledger)
        session, self.any_sent = await self._closing.enter_async_context(opening)
        self.writer = LedgerWriter(
            session, self._policy, custom_keys=custom_keys, any_accepted=self.any_accepted
        )
        self.expects_skips = True

    async def close(self) -> None:
        """Close it."""
        await self._closing.aclose()

    async def find_skipped(self, jobs: Sequence[Job]) -> Mapping[int, SkippedError]:
        """Which of these orders will not be sent: by their index, why.

        Only asked if some are likely to be known: for others their claims will do.

        Raises:
            LedgerError: it can't be read.
        """
        if self.writer is None or not self.expects_skips:
            return {}
        for job in jobs:
            job.digest = body_digest(job.body)
        skipped = await self.writer.find_skipped([(job.key, job.digest) for job in jobs])
        self.expects_skips = bool(skipped)  # orders that it knows come one after another
        return skipped


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
        opening = _open_and_ask(partial(self._open, self._ledger))
        self._session, self._any_sent = await self._closing.enter_async_context(opening)

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

    def for_stream(self, ledger: Ledger | None, resend: Collection[Outcome]) -> StreamLedger:
        """A stream's ledger, by default the client's.

        Raises:
            ConfigurationError, TypeError: an argument is wrong.
        """
        open_ledger: _Opener | None = None
        if ledger is not None:
            open_ledger = partial(self._open, _checked(ledger))
        elif (session := self._session) is not None:
            open_ledger = lambda: nullcontext(session)  # noqa: E731
        policy = resend_policy(self._sender.delivery, resend)
        return StreamLedger(open_ledger, policy, lambda: self._sender.pacer.accepted_any)

    async def forecast(
        self, orders: Sequence[Order], ledger: Ledger, resend: Collection[Outcome]
    ) -> list[SkippedError | None]:
        """See `EverlyticClient.forecast`."""
        raw: object = orders
        if not isinstance(raw, Sequence) or not all(isinstance(each, Order) for each in raw):
            raise TypeError("orders must be a sequence of Order: Order.from_mapping makes one")
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
        return [skipped.get(position) for position in range(len(named))]

    def _open(self, ledger: Ledger) -> AbstractAsyncContextManager[LedgerSession]:
        transport = self._sender.transport
        return ledger.session(transport.endpoint_id, transport.host)


def _checked(ledger: Ledger) -> Ledger:
    if isinstance(ledger, type) or not callable(getattr(ledger, "session", None)):
        raise ConfigurationError("ledger must be a ledger, such as SqliteLedger(path)")
    return ledger
