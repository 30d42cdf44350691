"""The bucket of entries: how an order's entry is stored, read and written in JetStream.

An order is one key of the bucket, ``<scope>.<digest of its key>``; its value is the entry as JSON
and the id of the write, ``<run>.<number>``. Every write names the revision that it replaces, 0 for
none, so that one of several claimants gets the order. If an acknowledgement is lost, the id tells
whether the stored write is our own. So any write may be repeated.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import TypeVar

import attrs
import nats.js.errors
from nats.js import JetStreamContext, api
from nats.js.kv import KeyValue

from everlytic_async._nats import error_text, with_retries
from everlytic_async.errors import LedgerError
from everlytic_async.ledger._nats_kv import bucket, check_exists, create_if_missing, created_at
from everlytic_async.ledger._protocol import CRASHED_MESSAGE, Entry, State

__all__ = ["Entries", "Stored", "digest", "encode", "kv_key", "retry"]

_T = TypeVar("_T")
# Entries that are read at most to find one that was sent.
_ANY_SENT = 200
# JetStream's message for a full bucket, which comes with the number of any failure.
_FULL = "maximum"
_DELETED = (
    "nobody knows any more what was sent, and nothing is. Make sure that no order waits that was "
    "sent before, for example by `queue status`; then start again, with a new and empty ledger"
)


@attrs.frozen
class Stored:
    """What the bucket holds for an order.

    Attributes:
        revision: For the next write to replace; 0 if there never was one.
        entry: None if there is none, or somebody has deleted it.
        write: The id of the write.
    """

    revision: int = 0
    entry: Entry | None = None
    write: str = ""

    @property
    def run(self) -> str:
        """The run that wrote it."""
        return self.write.partition(".")[0]

    @property
    def in_flight(self) -> bool:
        """Whether a run claimed it and has not recorded its outcome."""
        return self.entry is not None and self.entry.state is State.IN_FLIGHT

    def effective_entry(self, *, is_alive: bool) -> Entry | None:
        """What counts, depending on whether the run that wrote it still exists."""
        if self.entry is None or not self.in_flight or is_alive:
            return self.entry
        return attrs.evolve(self.entry, state=State.UNKNOWN, reason=CRASHED_MESSAGE)


class Entries:
    """The bucket of entries; made by `Entries.open`.

    Attributes:
        name: The bucket's name.
        created: When it was created: another one is not the same memory.
        is_new: Whether it was created here.
    """

    def __init__(
        self, stream: JetStreamContext, name: str, info: api.StreamInfo, *, is_new: bool
    ) -> None:
        self.name = name
        self.is_new = is_new
        self.created = created_at(info)
        self._stream = stream
        # Look-ups are a forecast, and any replica may answer them. A claim asks the leader.
        self._any_replica = bucket(stream, name, direct=bool(info.config.allow_direct))
        self._leader = bucket(stream, name, direct=False)

    @classmethod
    async def open(
        cls, stream: JetStreamContext, name: str, *, replicas: int, created: object
    ) -> Entries:
        """Bind to the bucket, which must have been created then; to any, or a new one, if None.

        Raises:
            LedgerError: it is another one, or drops entries.
        """
        is_new = created is None and await create_if_missing(stream, name, replicas, None)
        info = await check_exists(stream, name, created, _DELETED)
        config = info.config
        bounded = any((bound or 0) > 0 for bound in (config.max_bytes, config.max_msgs))
        if config.max_age or (bounded and config.discard != api.DiscardPolicy.NEW.value):
            raise LedgerError(
                f"the bucket {name!r} forgets entries, by age or when it is full, and orders would "
                "be sent twice: give the ledger one of its own"
            )
        return cls(stream, name, info, is_new=is_new)

    async def check(self) -> None:
        """Check that the bucket still exists.

        Raises:
            LedgerError: it was deleted.
        """
        await check_exists(self._stream, self.name, self.created, _DELETED)

    async def look_up(self, key: str) -> Stored:
        """What any replica holds for a key."""
        return await self._get(self._any_replica, key)

    async def read(self, key: str) -> Stored:
        """What the leader holds for a key."""
        return await self._get(self._leader, key)

    async def compare_and_set(self, key: str, value: bytes, revision: int) -> int | None:
        """Replace a revision: the new one; None if another revision is stored."""
        try:
            return await self._any_replica.update(key, value, last=revision)
        except nats.js.errors.KeyWrongLastSequenceError:
            return None
        except nats.js.errors.NoStreamResponseError:
            await self.check()
            raise

    async def next(self, scope: str, revision: int | None = None) -> Stored | None:
        """The first entry of a scope from a revision on; without one the last entry."""
        subject = f"$KV.{self.name}.{scope}.*"
        try:
            message = await self._stream.get_msg(
                f"KV_{self.name}", revision, subject, next=revision is not None
            )
        except nats.js.errors.NotFoundError:
            return None
        if not message.data:  # the mark of a deletion
            return Stored(message.seq or 0)
        return self._decode(message.seq or 0, message.data)

    async def any_sent(self, scope: str) -> bool:
        """Whether an order of a scope was sent: the last entry, or one of the first."""
        found = await self.next(scope)
        after = 0
        for _ in range(_ANY_SENT):
            if found is None:
                return False
            if found.entry is not None and found.entry.state is State.SENT:
                return True
            found = await self.next(scope, after + 1)
            after = 0 if found is None else found.revision
        return False

    async def _get(self, source: KeyValue, key: str) -> Stored:
        try:
            found = await source.get(key)
        except nats.js.errors.KeyNotFoundError as error:
            return Stored(error.entry.revision if error.entry is not None else 0)
        return self._decode(found.revision or 0, found.value or b"")

    def _decode(self, revision: int, value: bytes) -> Stored:
        try:
            known = json.loads(value)
            entry = Entry(
                known["key"],
                State(known["state"]),
                known["body"],
                known["attempts"],
                known.get("status"),
                known.get("reason"),
                known["at"],
            )
            return Stored(revision, entry, known["write"])
        except (ValueError, TypeError, KeyError) as error:
            raise LedgerError(
                f"the bucket {self.name!r} holds something that is not an entry: give the ledger "
                "one of its own"
            ) from error


def kv_key(scope: str, key: str) -> str:
    """The key of an order in the bucket."""
    return f"{scope}.{digest(key)}"


def digest(text: str) -> str:
    """What represents a text in a subject."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def encode(entry: Entry, write: str) -> bytes:
    """The value of an entry, with the id of the write."""
    known = {
        "key": entry.key,
        "state": entry.state,
        "body": entry.body_digest,
        "attempts": entry.attempts,
        "status": entry.status,
        "reason": entry.reason,
        "at": entry.recorded_at,
        "write": write,
    }
    known = {name: value for name, value in known.items() if value is not None}
    return json.dumps(known, separators=(",", ":")).encode()


async def retry(
    name: str, what: str, patience_s: float, attempt: Callable[[], Awaitable[_T]]
) -> _T:
    """Repeat a request until it succeeds, or time is up.

    Raises:
        LedgerError: it failed.
    """
    return await with_retries(
        attempt,
        timeout_s=patience_s,
        fail=lambda words: LedgerError(f"the ledger {name!r} can't be {what}: {words}"),
        is_final=lambda error: _FULL in error_text(error),
    )
