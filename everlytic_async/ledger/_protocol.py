"""What a ledger is, what it knows of an order, and what may be sent again."""

from __future__ import annotations

import enum
import hashlib
import re
import unicodedata
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, Self

import attrs

__all__ = [
    "Entry",
    "Ledger",
    "LedgerSession",
    "ScopeName",
    "State",
    "Terms",
    "merged",
    "stored_key",
    "stored_keys",
]

# What a shop calls an order, and what this package makes of it where there is no order id.
_PLAIN_KEY = re.compile(r"[\w#./:+-]{1,100}(?:@[0-9]{0,19})?")
_BLANK_BEFORE_WORKFLOW = re.compile(r"\s+(?=@[0-9]*\Z)")
_DIGEST = re.compile(r"sha256:[0-9a-f]{32}")


class State(enum.StrEnum):
    """What a ledger knows of an order."""

    #: Its POST may have begun, and its outcome is not recorded yet.
    IN_FLIGHT = "in_flight"
    #: The endpoint accepted it. It is never sent again.
    SENT = "sent"
    #: The endpoint refused it. It is sent again once it has another body, or when asked for.
    REJECTED = "rejected"
    #: It was no valid order. It is sent once it is one.
    INVALID = "invalid"
    #: Surely not processed. It is sent again.
    NOT_SENT = "not_sent"
    #: It may have been processed. It is sent again AT_LEAST_ONCE, or when asked for.
    UNKNOWN = "unknown"


_SURELY_NOT_PROCESSED = frozenset({State.NOT_SENT, State.INVALID})
#: How much a state forbids. Where two entries of one order meet, the one that forbids more wins.
RANKS: Mapping[State, int] = {
    State.NOT_SENT: 0,
    State.INVALID: 0,
    State.REJECTED: 1,
    State.UNKNOWN: 2,
    State.IN_FLIGHT: 2,
    State.SENT: 3,
}


# Without slots a frozen class is made in half the time.
@attrs.frozen(slots=False)
class Entry:
    """What a ledger knows of one order.

    Attributes:
        key: As it is stored; see `stored_key`.
        state: What is known.
        body: A digest of the trigger's body; empty for what was no valid order.
        attempts: How many POSTs were begun for it in the last run that took it.
        status: The HTTP status of the last answer, where there was one.
        reason: Why it is not sent, in the words of its error.
        at: When the state was recorded, in seconds since the epoch.
    """

    key: str
    state: State
    body: str = ""
    attempts: int = 0
    status: int | None = None
    reason: str | None = None
    at: float = 0.0


def merged(*entries: Entry | None) -> Entry | None:
    """What counts of several entries of one order: what forbids most, of those the latest."""
    known = [entry for entry in entries if entry is not None]
    return max(known, key=lambda entry: (RANKS[entry.state], entry.at), default=None)


@attrs.frozen
class Terms:
    """What may be sent again: the one rule on it, for every ledger.

    Attributes:
        again: Entries in these states may be sent again, besides those that surely were not
            processed.
    """

    again: frozenset[State] = frozenset()

    def grant(self, entry: Entry | None, body: str) -> bool:
        """Whether an order with this digest of its body may be sent, given what is known of it."""
        if entry is None or entry.state in _SURELY_NOT_PROCESSED or entry.state in self.again:
            return True
        # Once mended it is another order to the endpoint.
        return entry.state is State.REJECTED and entry.body != body


class ScopeName(str):
    """The name of a scope that also knows its names of earlier versions.

    To a ledger without old entries it is a plain string.

    Args:
        name: A digest that stands for an endpoint and a store.
        earlier: Returns the names that the scope may have had, given the hosts that a ledger has
            noted.
    """

    __slots__ = ("_earlier",)
    _earlier: Callable[[Iterable[str]], Collection[str]] | None

    def __new__(
        cls, name: str, earlier: Callable[[Iterable[str]], Collection[str]] | None = None
    ) -> Self:
        """Keep the function beside the name."""
        self = super().__new__(cls, name)
        self._earlier = earlier
        return self

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)  # the function knows a secret

    def earlier(self, hosts: Iterable[str] = ()) -> Collection[str]:
        """The other names under which earlier versions may have kept this scope.

        Args:
            hosts: Hosts that a ledger has noted beside its scopes.
        """
        return () if self._earlier is None else self._earlier(hosts)


class LedgerSession(Protocol):
    """A ledger in use by one stream of orders, for one endpoint and store."""

    async def look_up(self, keys: Sequence[str]) -> Mapping[str, Entry]:
        """What is known of these orders; those of which nothing is known are left out.

        Raises:
            LedgerError: when the ledger can't be read.
        """

    async def claim(self, key: str, body: str, terms: Terms) -> tuple[bool, Entry | None]:
        """Take an order up to send it: at most one claimant gets it, of any process.

        When this returns, the intent to send is on record. A claim whose waiting was cancelled is
        given back.

        Returns:
            Whether it may be sent now; and what was known of it before.

        Raises:
            LedgerError: when the intent can't be recorded: the order must not be sent.
        """

    def record(self, entry: Entry) -> Awaitable[None]:
        """Record what became of an order; it is recorded whether or not this is awaited.

        The outcome INVALID is recorded only where nothing but that, or NOT_SENT, is known.

        Raises:
            LedgerError: when it can't be recorded; to the next run the order is UNKNOWN.
        """

    async def any_sent(self) -> bool:
        """Whether the ledger knows an order that this endpoint and store accepted.

        It tells an endpoint that has worked from one whose address or account may be wrong. The
        search may be bounded: False says that none was found, not that there is none.

        Raises:
            LedgerError: when the ledger can't be read.
        """


class Ledger(Protocol):
    """Where it is kept what became of every order."""

    def session(self, scope: str, host: str) -> AbstractAsyncContextManager[LedgerSession]:
        """Use the ledger for one endpoint and store.

        Leaving it waits until all is recorded.

        Args:
            scope: A digest that stands for the endpoint and the store. A `ScopeName` also knows
                under which names earlier versions kept it.
            host: The endpoint's host, for people who look at the ledger.

        Raises:
            LedgerError: on entering, when the ledger can't be used.
        """


def stored_key(key: str, *, own: bool = False) -> str:
    """The key of an order as a ledger keeps it, in its normal form: trimmed, and in Unicode NFC.

    An order's number is kept as it is. A caller's own key may be anything, a customer's address
    too, and an order id may look like one: those are kept as a digest.

    Args:
        key: The key, as in `OrderResult.key`.
        own: Whether a caller's own function made it.
    """
    if key.isascii() and not own and _PLAIN_KEY.fullmatch(key):
        return key  # as nearly all are
    return _stored(_normal(key, own=own), own=own)


def stored_keys(key: str, *, own: bool = False) -> tuple[str, ...]:
    """`stored_key`, and after it the keys under which earlier versions may have kept the order.

    Those kept keys as they came: as this one came, or in Unicode NFD, as it is usual on macOS.
    """
    normal = stored_key(key, own=own)
    if key.isascii() and (normal == key or (own and key == key.strip())):
        return (normal,)  # as nearly all
    decomposed = unicodedata.normalize("NFD", _normal(key, own=own))
    forms = dict.fromkeys(_stored(form, own=own) for form in (key, decomposed))
    return normal, *(form for form in forms if form != normal)


def _normal(key: str, *, own: bool) -> str:
    key = unicodedata.normalize("NFC", key.strip())
    # An order id's trailing white space stands before the workflow.
    return key if own else _BLANK_BEFORE_WORKFLOW.sub("", key)


def _stored(key: str, *, own: bool) -> str:
    if (not own and _PLAIN_KEY.fullmatch(key)) or _DIGEST.fullmatch(key):
        return key
    return f"sha256:{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"
