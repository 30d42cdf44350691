"""How a stream uses a ledger: a claim before an order's first POST, its outcome after the last."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial

from everlytic_async.errors import (
    ConfigurationError,
    InvalidOrderError,
    LedgerError,
    RejectedError,
    SkippedError,
)
from everlytic_async.ledger import (
    Entry,
    LedgerSession,
    State,
    Terms,
    merged,
    stored_key,
    stored_keys,
)
from everlytic_async.outcomes import OrderResult, Outcome
from everlytic_async.policies import Delivery

_STATES: Mapping[Outcome, State] = {
    outcome: State(str(outcome)) for outcome in Outcome if outcome is not Outcome.SKIPPED
}
_RESENDABLE = (Outcome.UNKNOWN, Outcome.REJECTED)
_WHY_SKIPPED: dict[State, str] = {
    State.SENT: "the ledger says that it was sent before",
    State.IN_FLIGHT: "the ledger says that it is being sent, by this run or by another process",
    State.UNKNOWN: "the ledger says that it may have been sent before: find out, or resend unknown",
    State.REJECTED: "the ledger says that the endpoint refused it before, and it has not changed: "
    "mend it, or resend rejected",
}


def terms_of(delivery: Delivery, resend: Collection[Outcome]) -> Terms:
    """What may be sent again.

    Raises:
        ConfigurationError: when an outcome is to be sent again that never may be.
    """
    outcomes = [resend] if isinstance(resend, str) else list(resend)
    if not all(outcome in _RESENDABLE for outcome in outcomes):
        known = " or ".join(f"{outcome}" for outcome in _RESENDABLE)
        raise ConfigurationError(f"resend takes outcomes that may be sent again: {known}")
    again = {State(str(outcome)) for outcome in outcomes}
    if delivery is Delivery.AT_LEAST_ONCE:
        again.add(State.UNKNOWN)
    return Terms(frozenset(again))


def digest_of(body: bytes) -> str:
    """What tells whether two bodies are the same, and nothing else of them."""
    return hashlib.blake2b(body, digest_size=16).hexdigest()


async def any_sent(session: LedgerSession) -> bool:
    """Whether the ledger knows of any order that the endpoint and store accepted.

    A ledger that cannot tell (one of the caller's own) knows of none.
    """
    ask = getattr(session, "any_sent", None)
    return False if ask is None else bool(await ask())


class Book:
    """A ledger in use by one stream.

    Attributes:
        failure: Why the ledger can't be used any more; None as long as it can.
    """

    __slots__ = ("_any_accepted", "_ended", "_own_keys", "_session", "_terms", "failure")

    def __init__(
        self,
        session: LedgerSession,
        terms: Terms,
        *,
        own_keys: bool,
        any_accepted: Callable[[], bool],
    ) -> None:
        self._any_accepted = any_accepted
        self._session = session
        self._terms = terms
        self._own_keys = own_keys
        # What may be sent again, but came to that in this very stream: once is enough.
        self._ended: set[str] = set()
        self.failure: LedgerError | None = None

    async def known(self, orders: Sequence[tuple[str, str]]) -> Mapping[int, SkippedError]:
        """Which of these orders, each a key and a digest of its body, are not to be sent.

        It is a forecast: only a claim is binding.

        Returns:
            By their places in the sequence, why.

        Raises:
            LedgerError: when the ledger can't be read.
        """
        stored = [stored_keys(key, own=self._own_keys) for key, _ in orders]
        try:
            entries = await self._session.look_up([key for keys in stored for key in keys])
        except LedgerError as error:
            self._fail(error)
            raise
        skipped = {}
        for place, (keys, (_, body)) in enumerate(zip(stored, orders, strict=True)):
            entry = entries.get(keys[0]) if len(keys) == 1 else merged(*map(entries.get, keys))
            if entry is not None and not self._terms.grant(entry, body):
                skipped[place] = _skipped(entry, body)
        return skipped

    async def claim(self, key: str, body: str) -> bool:
        """Take an order up, so that nobody else sends it.

        Returns:
            Whether it may have been processed before.

        Raises:
            SkippedError: it is not to be sent.
            LedgerError: the intent could not be recorded: it must not be sent.
        """
        if self.failure is not None:
            # Each try may wait for a lock, and none would change the end.
            raise LedgerError(self.failure.message)
        stored, *earlier = stored_keys(key, own=self._own_keys)
        terms = Terms() if stored in self._ended else self._terms
        early = None
        try:
            if earlier:
                early = merged(*(await self._session.look_up(earlier)).values())
                if early is not None and not terms.grant(early, body):
                    raise _skipped(early, body)
            granted, entry = await self._session.claim(stored, body, terms)
        except LedgerError as error:
            self._fail(error)
            raise
        if not granted:
            assert entry is not None  # noqa: S101 - of what nothing is known may be sent
            raise _skipped(entry, body)
        return State.UNKNOWN in {known.state for known in (entry, early) if known is not None}

    def record(self, result: OrderResult, body: str, then: Callable[[OrderResult], None]) -> None:
        """Record what became of an order, without waiting.

        Args:
            result: What became of it.
            body: A digest of its body.
            then: Is called with the result once it is recorded; `failure` is set before, where it
                can't be. At once where there is nothing to record: what has no name can't be found
                again, nor can what its reader could not build, for its workflow is a part of its
                key, and not known.
        """
        if result.key is None or isinstance(result.order, InvalidOrderError):
            then(result)
            return
        known = result.error or result.receipt
        state = _STATES[result.outcome]
        if isinstance(result.error, RejectedError) and not self._any_accepted():
            result.error.before_any_acceptance = True
            state = State.NOT_SENT
        entry = self._entry(
            result.key,
            state,
            body,
            attempts=result.attempts,
            status=getattr(known, "status", None),
            reason=None if result.error is None else str(result.error),
        )
        if entry.state in self._terms.again:
            self._ended.add(entry.key)
        try:
            recording = asyncio.ensure_future(self._session.record(entry))
        except LedgerError as error:  # it is closed
            self._fail(error)
            then(result)
            return
        recording.add_done_callback(partial(self._recorded, result, then))

    def _recorded(
        self,
        result: OrderResult,
        then: Callable[[OrderResult], None],
        recording: asyncio.Future[None],
    ) -> None:
        error = None if recording.cancelled() else recording.exception()
        if isinstance(error, LedgerError):
            self._fail(error)
        elif error is not None:
            self._fail(LedgerError(f"the ledger raised {type(error).__name__}"))
        then(result)

    def abandon(self, key: str, body: str, state: State, attempts: int) -> None:
        """Record, without waiting, what is known of an order whose sending was cancelled."""
        entry = self._entry(
            key, state, body, attempts=attempts, status=None, reason="it was cancelled"
        )
        with suppress(LedgerError):  # it is closed: whoever comes next finds out
            self._session.record(entry)

    def _fail(self, error: LedgerError) -> None:
        self.failure = self.failure or error

    def _entry(
        self,
        key: str,
        state: State,
        body: str,
        *,
        attempts: int,
        status: int | None,
        reason: str | None,
    ) -> Entry:
        stored = stored_key(key, own=self._own_keys)
        return Entry(stored, state, body, attempts, status, reason)


def _skipped(entry: Entry, body: str) -> SkippedError:
    other_body = bool(entry.body) and entry.body != body
    why = _WHY_SKIPPED.get(entry.state) or f"the ledger says: {entry.state}"
    if other_body:
        why = f"{why}; and what it says has changed since"
    return SkippedError(why, str(entry.state), other_body=other_body)
