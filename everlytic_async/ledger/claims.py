"""How the core uses a ledger: a claim before an order's first POST, its outcome after the last."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Self

import attrs

from everlytic_async.errors import (
    ConfigurationError,
    InvalidOrderError,
    LedgerError,
    RejectedError,
    SkippedError,
)
from everlytic_async.ledger._protocol import (
    Entry,
    LedgerSession,
    ResendPolicy,
    State,
    merge_entries,
    storage_key,
    storage_keys,
)
from everlytic_async.outcomes import OrderResult, Outcome
from everlytic_async.policies import Delivery

__all__ = [
    "RESENDABLE",
    "LedgerWriter",
    "QueueKey",
    "ResendOverride",
    "body_digest",
    "resend_policy",
]

#: The outcomes that `resend` may name: an order that is recorded with one of them is sent again.
RESENDABLE = (Outcome.UNKNOWN, Outcome.REJECTED)
_SKIP_MESSAGES: dict[State, str] = {
    State.SENT: "the ledger says that it was sent before",
    State.IN_FLIGHT: "the ledger says that it is being sent, by this run or by another process",
    State.UNKNOWN: "the ledger says that it may have been sent before: find out, or resend unknown",
    State.REJECTED: "the ledger says that the endpoint refused it before, and it has not changed: "
    "fix it, or resend rejected",
}


def resend_policy(delivery: Delivery, resend: Collection[Outcome]) -> ResendPolicy:
    """What may be sent again.

    Raises:
        ConfigurationError: ``resend`` has an outcome that may never be sent again, or is not a
            collection of outcomes.
    """
    outcomes: object = [resend] if isinstance(resend, str) else resend
    if not isinstance(outcomes, Collection) or any(each not in RESENDABLE for each in outcomes):
        known = " or ".join(f"{outcome}" for outcome in RESENDABLE)
        raise ConfigurationError(
            f"resend takes a collection of outcomes that may be sent again: {known}"
        )
    states = {State(outcome) for outcome in outcomes}
    if delivery is Delivery.AT_LEAST_ONCE:
        states.add(State.UNKNOWN)
    return ResendPolicy(frozenset(states))


def body_digest(body: bytes) -> str:
    """A digest that is equal for equal bodies, and says nothing else about them."""
    return hashlib.blake2b(body, digest_size=16).hexdigest()


@attrs.frozen
class ResendOverride:
    """Permission to send one order again.

    Attributes:
        outcome: The recorded outcome that does not forbid it.
        recorded_before: Only if it was recorded until then, in seconds since the epoch: a later
            one is of another delivery of the same order.
    """

    outcome: Outcome
    recorded_before: float


class QueueKey(str):
    """The key of an order that comes from a queue, as a ledger keeps it; see `storage_key`.

    A key function returns it in place of a custom key. Such an order may be delivered again at any
    time, each time under the same policy.

    Args:
        key: As `storage_key` returns it.
        override: The order's own addition to the stream's policy.
    """

    __slots__ = ("override",)
    override: ResendOverride | None

    def __new__(cls, key: str, override: ResendOverride | None = None) -> Self:
        """Keep the override beside the key."""
        self = super().__new__(cls, key)
        self.override = override
        return self


class LedgerWriter:
    """A ledger in use by one stream, for one endpoint and store.

    Attributes:
        failure: Why the ledger can't be used any more; None as long as it can.
        recording: How many results wait until they are recorded.
    """

    def __init__(
        self,
        session: LedgerSession,
        policy: ResendPolicy,
        *,
        custom_keys: bool,
        any_accepted: Callable[[], bool],
    ) -> None:
        self._any_accepted = any_accepted
        self._session = session
        self._policy = policy
        self._custom_keys = custom_keys  # the caller's own function makes them, but for `QueueKey`
        # Keys whose outcome this stream recorded: what `resend` allows no longer concerns them.
        self._resent: set[str] = set()
        self.failure: LedgerError | None = None
        self.recording = 0

    async def find_skipped(self, orders: Sequence[tuple[str, str]]) -> Mapping[int, SkippedError]:
        """Which of these orders, each a key and a digest of its body, will not be sent, and why.

        By their index. It is a forecast: only a claim is binding.
        """
        stored = [storage_keys(key, custom=self._is_custom(key)) for key, _ in orders]
        try:
            entries = await self._session.look_up([key for keys in stored for key in keys])
        except Exception as error:  # noqa: BLE001 - a caller's own ledger may raise anything
            failure = self._fail(error)
            raise failure from failure.__cause__
        skipped = {}
        for index, (keys, (key, digest)) in enumerate(zip(stored, orders, strict=True)):
            entry = merge_entries(*map(entries.get, keys))
            if entry is None:
                continue
            if not _add_override(self._policy, key, entry).allows(entry, digest):
                skipped[index] = _skipped_error(entry, digest)
        return skipped

    async def claim(self, key: str, digest: str) -> bool:
        """Claim an order, so that no other stream or process sends it.

        Returns:
            Whether it may have been processed before.

        Raises:
            SkippedError: it must not be sent.
            LedgerError: the intent could not be recorded: it must not be sent.
        """
        if self.failure is not None:
            # Another try would wait for a lock again, and fail the same way.
            raise LedgerError(self.failure.message)
        stored, *earlier = storage_keys(key, custom=self._is_custom(key))
        policy = self._policy if stored not in self._resent else ResendPolicy()
        before: Entry | None = None
        try:
            if earlier or (isinstance(key, QueueKey) and key.override is not None):
                found = await self._session.look_up([stored, *earlier])
                before = merge_entries(*map(found.get, earlier))
                policy = _add_override(policy, key, merge_entries(*found.values()))
            if policy.allows(before, digest):
                granted, entry = await self._session.claim(stored, digest, policy)
            else:
                granted, entry = False, before
        except Exception as error:  # noqa: BLE001 - a caller's own ledger may raise anything
            failure = self._fail(error)
            raise failure from failure.__cause__
        if not granted:
            assert entry is not None  # noqa: S101 - an unknown order may be sent
            raise _skipped_error(entry, digest)
        return State.UNKNOWN in (entry and entry.state, before and before.state)

    def record(
        self, result: OrderResult, digest: str, on_recorded: Callable[[OrderResult], None]
    ) -> None:
        """Record an order's outcome, without waiting; `failure` is set if it can't be.

        `on_recorded` is called then. Immediately if there is nothing to record: an order without a
        key can't be found again, and the key of an order that its reader could not build lacks the
        workflow.
        """
        key, error = result.key, result.error
        if key is None or isinstance(result.order, InvalidOrderError):
            on_recorded(result)
            return
        state = State(result.outcome)
        if isinstance(error, RejectedError) and not self._any_accepted():
            error.before_any_acceptance = True
            state = State.NOT_SENT
        entry = Entry(
            storage_key(key, custom=self._is_custom(key)),
            state,
            digest,
            attempts=result.attempts,
            status=getattr(error or result.receipt, "status", None),
            reason=None if error is None else str(error),
        )
        if state in self._policy.states and not isinstance(key, QueueKey):
            self._resent.add(entry.key)
        try:
            recording = self._session.record(entry)
            if not isinstance(recording, asyncio.Future):
                recording = asyncio.ensure_future(recording)
        except Exception as error:  # noqa: BLE001 - it is closed, or a caller's own raises anything
            self._fail(error)
            on_recorded(result)
            return
        self.recording += 1
        recording.add_done_callback(partial(self._on_recorded, result, on_recorded))

    def record_cancelled(self, key: str, digest: str, state: State, attempts: int) -> None:
        """Record, without waiting, what is known of an order whose sending was cancelled."""
        stored = storage_key(key, custom=self._is_custom(key))
        entry = Entry(stored, state, digest, attempts, None, "it was cancelled")
        with suppress(Exception):  # it is closed, for example: the next run finds out
            self._session.record(entry)

    def _on_recorded(
        self,
        result: OrderResult,
        on_recorded: Callable[[OrderResult], None],
        recording: asyncio.Future[None],
    ) -> None:
        self.recording -= 1
        error = None if recording.cancelled() else recording.exception()
        if isinstance(error, Exception):
            self._fail(error)
        on_recorded(result)

    def _fail(self, error: Exception) -> LedgerError:
        """Note why the ledger can't be used any more. A caller's own may raise anything."""
        if not isinstance(error, LedgerError):
            failure = LedgerError(f"the ledger raised {type(error).__name__}")
            failure.__cause__ = error
            error = failure
        self.failure = self.failure or error
        return error

    def _is_custom(self, key: str) -> bool:
        return self._custom_keys and not isinstance(key, QueueKey)


def _add_override(policy: ResendPolicy, key: str, entry: Entry | None) -> ResendPolicy:
    """The policy, with the order's own addition to it if what is known is old enough for that."""
    override = key.override if isinstance(key, QueueKey) else None
    if override is None or entry is None or entry.recorded_at > override.recorded_before:
        return policy
    return ResendPolicy(policy.states | {State(override.outcome)})


def _skipped_error(entry: Entry, digest: str) -> SkippedError:
    changed = bool(entry.body_digest) and entry.body_digest != digest
    why = _SKIP_MESSAGES.get(entry.state) or f"the ledger says: {entry.state}"
    if changed:
        why = f"{why}; and its content has changed since"
    return SkippedError(why, str(entry.state), other_body=changed)
