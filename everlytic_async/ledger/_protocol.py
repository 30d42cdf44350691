"""What a ledger is, what it knows of an order, and which orders may be sent again.

The intent to send an order is committed before its POST starts, and its outcome after. What was in
flight when a process was killed has to be ``unknown`` to the next one.

A ledger in Postgres would be one more module beside this one, with its own `Ledger` and
`LedgerSession`, listed in ``__init__``.
"""

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
    "CRASHED_MESSAGE",
    "Entry",
    "Ledger",
    "LedgerSession",
    "ResendPolicy",
    "ScopeName",
    "State",
    "digest",
    "merge_entries",
    "released_entry",
    "storage_key",
    "storage_keys",
]

# What a shop calls an order, and the digest that this package makes without an order id.
_PLAIN_KEY = re.compile(r"[\w#./:+-]{1,100}(?:@[0-9]{0,19})?")
_SPACE_BEFORE_WORKFLOW = re.compile(r"\s+(?=@[0-9]*\Z)")
_DIGEST = re.compile(r"sha256:[0-9a-f]{32}")
CRASHED_MESSAGE = "the process that was sending it ended before the outcome was recorded"


class State(enum.StrEnum):
    """What a ledger knows of an order.

    Except for IN_FLIGHT the values are those of `everlytic_async.Outcome`: ``State(outcome)``
    converts one; SKIPPED is not a state.

    Attributes:
        code: What an SQLite ledger stores.
        rank: How much it forbids. Where two entries of one order meet, the higher one wins.
    """

    code: int
    rank: int

    #: Its POST may have started, and its outcome is not recorded yet.
    IN_FLIGHT = "in_flight", 1, 2
    #: The endpoint accepted it. It is never sent again.
    SENT = "sent", 2, 3
    #: The endpoint refused it. It is sent again once its body has changed, or when asked for.
    REJECTED = "rejected", 3, 1
    #: It was not a valid order. It is sent once it is one.
    INVALID = "invalid", 4, 0
    #: Surely not processed. It is sent again.
    NOT_SENT = "not_sent", 5, 0
    #: It may have been processed. It is sent again AT_LEAST_ONCE, or when asked for.
    UNKNOWN = "unknown", 6, 2

    def __new__(cls, value: str, code: int = 0, rank: int = 0) -> Self:
        """Keep code and rank beside the value, which alone identifies a state."""
        state = str.__new__(cls, value)
        state._value_ = value
        state.code, state.rank = code, rank
        return state


# Without slots a frozen class is made in half the time.
@attrs.frozen(slots=False)
class Entry:
    """What a ledger knows of one order.

    Attributes:
        key: As it is stored; see `storage_key`.
        state: What is known.
        body_digest: A digest of the trigger's body; empty for an invalid order.
        attempts: How many POSTs were started in the last run that claimed it.
        status: The HTTP status of the last response, if there was one.
        reason: Why it is not sent: its error's message.
        recorded_at: When the state was recorded, in seconds since the epoch.
    """

    key: str
    state: State
    body_digest: str = ""
    attempts: int = 0
    status: int | None = None
    reason: str | None = None
    recorded_at: float = 0.0


def merge_entries(*entries: Entry | None) -> Entry | None:
    """Of several entries of one order the one that forbids most, and of those the latest."""
    if len(entries) == 1:
        return entries[0]
    known = [entry for entry in entries if entry is not None]
    return max(known, key=lambda entry: (entry.state.rank, entry.recorded_at), default=None)


def released_entry(key: str, body_digest: str, before: Entry | None) -> Entry:
    """What to record if a claim is released before anything was sent: what was known before it."""
    if before is None or before.state is State.INVALID:  # the order has become valid since
        return Entry(key, State.NOT_SENT, body_digest, reason="it was cancelled")
    return before


@attrs.frozen
class ResendPolicy:
    """Which orders may be sent again: the one rule, for every ledger.

    Attributes:
        states: Entries in these states may be sent again, besides those that surely were not
            processed.
    """

    states: frozenset[State] = frozenset()

    def allows(self, entry: Entry | None, body_digest: str) -> bool:
        """Whether an order with this digest of its body may be sent, by what is known of it."""
        if entry is None or entry.state.rank == 0 or entry.state in self.states:
            return True
        # With another body it is another order to the endpoint.
        return entry.state is State.REJECTED and entry.body_digest != body_digest


class ScopeName(str):
    """The name of a scope: a digest of endpoint and store. It also knows its earlier names."""

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
            hosts: Those that a ledger has noted beside its scopes.
        """
        return () if self._earlier is None else self._earlier(hosts)


class LedgerSession(Protocol):
    """A ledger in use by one stream of orders, for one endpoint and store."""

    async def look_up(self, keys: Sequence[str]) -> Mapping[str, Entry]:
        """What is known of these orders; unknown keys are left out.

        Raises:
            LedgerError: the ledger can't be read.
        """

    async def claim(
        self, key: str, body_digest: str, policy: ResendPolicy
    ) -> tuple[bool, Entry | None]:
        """Claim an order to send it: at most one claimant of any process gets it.

        When this returns, the intent to send is on record. A claim that was cancelled while it
        waited is released.

        Returns:
            Whether it may be sent now; and what was known of it before.

        Raises:
            LedgerError: the intent can't be recorded: the order must not be sent.
        """

    def record(self, entry: Entry) -> Awaitable[None]:
        """Record an order's outcome; it is recorded whether or not this is awaited.

        The outcome INVALID is recorded only where nothing is known, or INVALID or NOT_SENT.

        Raises:
            LedgerError: it can't be recorded; to the next run the order is UNKNOWN.
        """

    async def any_sent(self) -> bool:
        """Whether the ledger knows an order that this endpoint and store accepted.

        It distinguishes an endpoint that has worked from one whose address or account may be
        wrong. The search may be bounded: False means that none was found, not that none exists.

        Raises:
            LedgerError: the ledger can't be read.
        """


class Ledger(Protocol):
    """Where the outcome of every order is kept."""

    def session(self, scope: str, host: str) -> AbstractAsyncContextManager[LedgerSession]:
        """Use the ledger for one endpoint and store.

        Leaving it waits until everything is recorded.

        Args:
            scope: A digest that stands for the endpoint and the store; perhaps a `ScopeName`.
            host: The endpoint's host, for people who look at the ledger.

        Raises:
            LedgerError: on entering, if the ledger can't be used.
        """


def storage_key(key: str, *, custom: bool = False) -> str:
    """The key of an order as a ledger keeps it: trimmed, and in Unicode NFC.

    A caller's own key, and an order id that is not a plain number or word, may be a customer's
    address: those are kept as a digest.

    Args:
        key: The key, as in `OrderResult.key`.
        custom: Whether the caller's own function made it.
    """
    if key.isascii() and not custom and _PLAIN_KEY.fullmatch(key):
        return key  # nearly all
    return _digest_unless_plain(_normalize(key, custom=custom), custom=custom)


def storage_keys(key: str, *, custom: bool = False) -> tuple[str, ...]:
    """`storage_key`, followed by the keys under which earlier versions may have kept the order.

    Those kept keys as they came: as this one came, or in Unicode NFD, as it is usual on macOS.
    """
    if not custom and key.isascii() and _PLAIN_KEY.fullmatch(key):
        return (key,)  # nearly all
    normal = storage_key(key, custom=custom)
    if custom and key.isascii() and key == key.strip():
        return (normal,)
    decomposed = unicodedata.normalize("NFD", _normalize(key, custom=custom))
    forms = dict.fromkeys(_digest_unless_plain(form, custom=custom) for form in (key, decomposed))
    return normal, *(form for form in forms if form != normal)


def _normalize(key: str, *, custom: bool) -> str:
    key = unicodedata.normalize("NFC", key.strip())
    # An order id's trailing white space is before the workflow.
    return key if custom else _SPACE_BEFORE_WORKFLOW.sub("", key)


def _digest_unless_plain(key: str, *, custom: bool) -> str:
    if (not custom and _PLAIN_KEY.fullmatch(key)) or _DIGEST.fullmatch(key):
        return key
    return f"sha256:{digest(key)}"


def digest(text: str) -> str:
    """What stands for a text that is not to be shown."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
