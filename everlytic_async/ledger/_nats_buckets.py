"""The two key-value buckets of a ledger in JetStream, each created if there is none.

`Entries`: an order is one key, ``<scope>.<digest of its key>``; its value is the entry as JSON and
the id of the write, ``<run>.<number>``. Every write names the revision that it replaces, 0 for
none, so that one of several claimants gets the order. If an acknowledgement is lost, the id says
whether the stored write is our own. So any write may be repeated.

`Runs`, in ``<bucket>_runs``: which processes use the ledger at this moment. A run is a ledger for
as long as it is open. It renews a key, its heartbeat, which the server drops after a time without
renewal. What is in flight in a run without a key is unknown; that is derived on reading, and nobody
has to write it down. If the bucket is deleted, any run creates it again, with a mark in it. The
mark lives as long as a heartbeat; until then all runs count as alive, so that they can renew
theirs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
from functools import partial

import attrs
import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext, api
from nats.js.kv import KeyValue

from everlytic_async._nats import NATS_ERRORS, find_or_create, none_if_missing
from everlytic_async.errors import LedgerError
from everlytic_async.ledger._protocol import Entry, State, digest

__all__ = ["Entries", "Runs", "Stored", "encode", "kv_key"]

_LOGGER = logging.getLogger("everlytic_async.ledger")
# Entries that are read at most to find one that was sent.
_ANY_SENT = 200
# How often a heartbeat is renewed in its time to live; after this part of it nothing is claimed.
_HEARTBEATS_PER_TTL = 3
_CLAIM_FRESHNESS = 2 / 3
# After a reconnect the heartbeats of other runs may have expired during the outage. All runs count
# as alive for this part of a time to live, so that they can renew them.
_RECONNECT_GRACE = 1 / 2
# The key of the mark of a bucket that was created again; no run has such a token.
_CREATED_AGAIN = "created-again"


def _bucket(stream: JetStreamContext, name: str, *, direct: bool) -> KeyValue:
    """A bucket that exists, for reads from any replica, or from the leader."""
    return KeyValue(name=name, stream=f"KV_{name}", pre=f"$KV.{name}.", js=stream, direct=direct)


async def _create_if_missing(
    stream: JetStreamContext, name: str, replicas: int, ttl_s: float | None
) -> bool:
    """Create a bucket if there is none: whether that was necessary."""
    config = api.KeyValueConfig(
        bucket=name,
        description="What became of orders for Everlytic",
        history=1,
        replicas=replicas,
        storage=api.StorageType.FILE,
        ttl=ttl_s,
        direct=True,
    )
    create = partial(stream.create_key_value, config)
    return await find_or_create(partial(stream.key_value, name), create) is None


# ----------------------------------------------------------------------------------------- entries


@attrs.frozen
class Stored:
    """What the bucket holds for an order."""

    revision: int = 0  # for the next write to replace; 0 if there never was one
    entry: Entry | None = None  # None also if somebody has deleted it
    write: str = ""  # its id

    @property
    def run(self) -> str:
        """The run that has it in flight; empty if none has."""
        in_flight = self.entry is not None and self.entry.state is State.IN_FLIGHT
        return self.write.partition(".")[0] if in_flight else ""


class Entries:
    """The bucket of entries.

    A bucket that is deleted while it is used takes with it what was sent. A process that had it
    open sends nothing more, even if another process has created a new one.

    Attributes:
        name: The bucket's name.
        created: When it must have been created; None for any bucket, or a new one. Releases of
            nats-py before 2.14 don't say: with those we notice that a bucket is gone, but not that
            another one was created in its place.
    """

    def __init__(self, stream: JetStreamContext, name: str, created: object) -> None:
        self.name = name
        self.created = created
        self._stream = stream
        self._leader = self._any_replica = _bucket(stream, name, direct=False)

    async def open(self, replicas: int) -> bool:
        """Bind to the bucket; whether it was created here. One that drops entries is refused."""
        is_new = False
        if self.created is None:
            is_new = await _create_if_missing(self._stream, self.name, replicas, None)
        config = (await self.check()).config
        bounded = any((bound or 0) > 0 for bound in (config.max_bytes, config.max_msgs))
        if config.max_age or (bounded and config.discard != api.DiscardPolicy.NEW.value):
            raise LedgerError(
                f"the bucket {self.name!r} forgets entries, by age or when it is full, and orders "
                "would be sent twice: give the ledger one of its own"
            )
        # Look-ups are a forecast, and any replica may answer them. A claim asks the leader.
        direct = bool(config.allow_direct)
        self._any_replica = _bucket(self._stream, self.name, direct=direct)
        return is_new

    async def check(self) -> api.StreamInfo:
        """Check that the bucket was not deleted, even if there is a new one: its configuration."""
        info = None
        try:
            info = await self._stream.stream_info(f"KV_{self.name}")
        except nats.js.errors.NotFoundError:
            if self.created is None:
                raise
        created = getattr(info, "created", None) or "unknown"
        self.created = self.created or created
        if info is None or created != self.created:
            raise LedgerError(
                f"the bucket {self.name!r} was deleted while it was in use, so nobody knows any "
                "more what was sent, and nothing is. Make sure that no order waits that was sent "
                "before, for example by `queue status`; then start again, with a new and empty "
                "ledger"
            )
        return info

    async def look_up(self, key: str) -> Stored:
        """What any replica holds for a key."""
        return await self._get(self._any_replica, key)

    async def read(self, key: str) -> Stored:
        """What the leader holds for a key."""
        return await self._get(self._leader, key)

    async def compare_and_set(self, key: str, value: bytes, revision: int) -> int | None:
        """Replace a revision: the new one; None if another revision is stored."""
        try:
            return await self._leader.update(key, value, last=revision)
        except nats.js.errors.KeyWrongLastSequenceError:
            return None
        except nats.js.errors.NoStreamResponseError:
            await self.check()
            raise

    async def next(self, scope: str, revision: int | None = None) -> Stored | None:
        """The first entry of a scope from a revision on; without one the last entry."""
        subject = f"$KV.{self.name}.{scope}.*"
        message = await none_if_missing(
            self._stream.get_msg(f"KV_{self.name}", revision, subject, next=revision is not None)
        )
        if message is None:
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


# -------------------------------------------------------------------------------------------- runs


class Runs:
    """The bucket of runs, and the heartbeat of this run, whose name is `token`.

    If the bucket has to be created, it is kept on so many replicas, and a heartbeat lives `ttl_s`.
    """

    def __init__(
        self,
        connection: Client,
        stream: JetStreamContext,
        ledger: str,
        *,
        replicas: int,
        ttl_s: float,
    ) -> None:
        self.token = secrets.token_hex(8)
        self._connection = connection
        self._stream = stream
        self._name = f"{ledger}_runs"
        self._replicas = replicas
        self._ttl_s = ttl_s
        self._runs = _bucket(stream, self._name, direct=False)
        # By the loop's clock: when the last acknowledged heartbeat was sent, and until when all
        # runs count as alive.
        self._sent_at = self._grace_until = float("-inf")
        self._reconnects = connection.stats["reconnects"]

    async def open(self, *, is_new_ledger: bool) -> None:
        """Bind to the bucket, or create it. One in which heartbeats never expire is refused."""
        if is_new_ledger:
            await _create_if_missing(self._stream, self._name, self._replicas, self._ttl_s)
        else:
            await self._create_again_if_missing()
        ttl_s = (await self._runs.status()).ttl
        if not ttl_s:
            raise LedgerError(
                f"the bucket {self._name!r} keeps everything for ever, so that crashed processes "
                "are never noticed: delete it, and it is created again"
            )
        self._ttl_s = ttl_s

    @property
    def heartbeat_s(self) -> float:
        """How often to send a heartbeat, in seconds."""
        return self._ttl_s / _HEARTBEATS_PER_TTL

    @property
    def is_fresh(self) -> bool:
        """Whether every other run will see this one as alive for long enough to claim an order."""
        return self._now() - self._sent_at <= _CLAIM_FRESHNESS * self._ttl_s

    async def send_heartbeat(self) -> None:
        """Renew the heartbeat."""
        now = self._now()
        try:
            await self._runs.put(self.token, b"{}")
        except nats.js.errors.NoStreamResponseError:
            await self._create_again_if_missing()
            await self._runs.put(self.token, b"{}")
        self._sent_at = max(self._sent_at, now)

    async def is_alive(self, token: str) -> bool:
        """Whether a run still exists, as far as is known."""
        if token == self.token:
            return True
        if self._connection.stats["reconnects"] != self._reconnects:
            self._reconnects = self._connection.stats["reconnects"]
            self._grace_until = self._now() + _RECONNECT_GRACE * self._ttl_s
        if self._now() < self._grace_until:
            return True
        if await self._has(token):
            return True
        await self._create_again_if_missing()
        return await self._has(_CREATED_AGAIN)

    async def _has(self, key: str) -> bool:
        # Without a bucket there is no key, either.
        return await none_if_missing(self._runs.get(key)) is not None

    async def _create_again_if_missing(self) -> None:
        if await _create_if_missing(self._stream, self._name, self._replicas, self._ttl_s):
            await self._runs.put(_CREATED_AGAIN, b"{}")
            _LOGGER.warning(
                "the bucket %r was deleted, and is created again: for %g s all runs of the ledger "
                "count as alive",
                self._name,
                self._ttl_s,
            )

    async def end(self) -> None:
        """End this run: what it has in flight is unknown from now on."""
        if self._connection.is_connected:
            # Otherwise its heartbeat expires.
            with contextlib.suppress(*NATS_ERRORS):
                await self._runs.delete(self.token)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
