"""A worker's ledger as its stream sees it: each order under its own key, and policy.

A stream that has a key function takes all keys for the caller's own and stores them as digests. But
some of a queue's orders have no key of their publisher's: those must be found under the key that
any other run uses, such as ``send``'s. A redriven order is sent in spite of its recorded outcome.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager

import attrs

from everlytic_async.ledger import Entry, Ledger, LedgerSession, State, Terms, stored_key
from everlytic_async.outcomes import Outcome


@attrs.frozen
class LedgerKey:
    """An order's key in the ledger, and its own resend policy.

    Attributes:
        key: As a ledger keeps it.
        resend: The recorded outcome that must not stop it, if it was recorded until then, in
            seconds since the epoch; None for none. Only the first delivery has one: after that,
            the worker that had it may have sent the order.
    """

    key: str
    resend: tuple[Outcome, float] | None = None


class KeyedLedger:
    """A ledger under the keys of the orders in flight.

    Args:
        ledger: Where outcomes are recorded.
        terms: What may be sent again, at each delivery. A stream would allow it once: its input
            ends some day, a worker's does not.
    """

    def __init__(self, ledger: Ledger, terms: Terms) -> None:
        self._ledger = ledger
        self.terms = terms
        self._keys: dict[str, list[LedgerKey]] = {}

    def add(self, key: LedgerKey) -> None:
        """An order is in flight."""
        self._keys.setdefault(stored_key(key.key, own=True), []).append(key)

    def remove(self, key: LedgerKey) -> None:
        """It is settled."""
        digest = stored_key(key.key, own=True)
        keys = [other for other in self._keys.get(digest, ()) if other is not key]
        if keys:
            self._keys[digest] = keys
        else:
            self._keys.pop(digest, None)

    def find(self, digest: str) -> LedgerKey:
        """The key that the stream names by this digest."""
        keys = self._keys.get(digest)
        return keys[0] if keys else LedgerKey(digest)

    @asynccontextmanager
    async def session(self, scope: str, host: str) -> AsyncIterator[LedgerSession]:
        """See `Ledger.session`."""
        async with self._ledger.session(scope, host) as session:
            yield _Session(session, self)


@attrs.frozen(eq=False)
class _Session:
    _session: LedgerSession
    _ledger: KeyedLedger

    async def look_up(self, keys: Sequence[str]) -> Mapping[str, Entry]:
        digests = {self._ledger.find(key).key: key for key in keys}
        found = await self._session.look_up(tuple(digests))
        return {digests[key]: entry for key, entry in found.items()}

    async def claim(self, key: str, body: str, terms: Terms) -> tuple[bool, Entry | None]:
        ours, terms = self._ledger.find(key), self._ledger.terms
        if ours.resend is not None:
            outcome, until = ours.resend
            known = (await self._session.look_up([ours.key])).get(ours.key)
            if known is not None and known.at <= until:
                terms = Terms(terms.again | {State(str(outcome))})
        return await self._session.claim(ours.key, body, terms)

    async def any_sent(self) -> bool:
        return await self._session.any_sent()

    def record(self, entry: Entry) -> Awaitable[None]:
        key = self._ledger.find(entry.key).key
        return self._session.record(attrs.evolve(entry, key=key))
