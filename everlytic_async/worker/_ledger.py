"""A worker's ledger as its stream sees it: each order under its own key, and on its own terms.

A stream that is given keys takes all of them for somebody's own and keeps them as digests. Some
orders of a queue have a key of their publisher's and some have not; those that have not must be
found by the name that any other run of this package gives them, such as ``send``'s. Nor are the
terms the same for all: a redriven order is to be sent in spite of what is known of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager

import attrs

from everlytic_async.ledger import Entry, Ledger, LedgerSession, State, Terms, stored_key
from everlytic_async.outcomes import Outcome


@attrs.frozen
class Name:
    """What an order is called in the ledger, and the terms that are its own.

    Attributes:
        key: As a ledger keeps it.
        resend: What may be passed over, and what was recorded when at the latest, in seconds since
            the epoch; None for nothing. Only the first delivery has such terms: after that the
            worker that had them may have sent it.
    """

    key: str
    resend: tuple[Outcome, float] | None = None


class NamedLedger:
    """A ledger under the names of the orders in hand.

    Args:
        ledger: Where it is kept.
        terms: What may be sent again, each time that it is delivered. A stream would allow it once:
            its input ends some day, a worker's does not.
    """

    def __init__(self, ledger: Ledger, terms: Terms) -> None:
        self._ledger = ledger
        self.terms = terms
        self._names: dict[str, list[Name]] = {}

    def add(self, name: Name) -> None:
        """An order came into hand."""
        self._names.setdefault(stored_key(name.key, own=True), []).append(name)

    def remove(self, name: Name) -> None:
        """It is out of hand."""
        asked = stored_key(name.key, own=True)
        names = [other for other in self._names.get(asked, ()) if other is not name]
        if names:
            self._names[asked] = names
        else:
            self._names.pop(asked, None)

    def name_of(self, asked: str) -> Name:
        """The name for which the stream asks so."""
        names = self._names.get(asked)
        return names[0] if names else Name(asked)

    @asynccontextmanager
    async def session(self, scope: str, host: str) -> AsyncIterator[LedgerSession]:
        """See `Ledger.session`."""
        async with self._ledger.session(scope, host) as session:
            yield _Session(session, self)


@attrs.frozen(eq=False)
class _Session:
    _session: LedgerSession
    _ledger: NamedLedger

    async def look_up(self, keys: Sequence[str]) -> Mapping[str, Entry]:
        asked = {self._ledger.name_of(key).key: key for key in keys}
        found = await self._session.look_up(tuple(asked))
        return {asked[key]: entry for key, entry in found.items()}

    async def claim(self, key: str, body: str, terms: Terms) -> tuple[bool, Entry | None]:
        name, terms = self._ledger.name_of(key), self._ledger.terms
        if name.resend is not None:
            outcome, until = name.resend
            known = (await self._session.look_up([name.key])).get(name.key)
            if known is not None and known.at <= until:
                terms = Terms(terms.again | {State(str(outcome))})
        return await self._session.claim(name.key, body, terms)

    async def any_sent(self) -> bool:
        return await self._session.any_sent()

    def record(self, entry: Entry) -> Awaitable[None]:
        key = self._ledger.name_of(entry.key).key
        return self._session.record(attrs.evolve(entry, key=key))
