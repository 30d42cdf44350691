"""`NatsLedger`: a ledger in NATS JetStream, for processes on several machines.

It is opened here; `_Bucket` claims and records in it. What its buckets hold is in
``_nats_buckets``.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from functools import partial
from math import inf
from typing import Any, TypeVar, Unpack

import attrs
from nats.aio.client import Client

from everlytic_async._nats import NATS_ERRORS, Connector, NatsAccess, error_text, with_retries
from everlytic_async._waiting import cancel_until_done, run_shielded
from everlytic_async.errors import ConfigurationError, LedgerError
from everlytic_async.ledger._nats_buckets import Entries, Runs, Stored, encode, kv_key
from everlytic_async.ledger._protocol import (
    CRASHED_MESSAGE,
    Entry,
    LedgerSession,
    ResendPolicy,
    ScopeName,
    State,
    digest,
    merge_entries,
    released_entry,
)
from everlytic_async.ledger._shared import SharedLedger

__all__ = ["NatsAccess", "NatsLedger"]

_LOGGER = logging.getLogger("everlytic_async.ledger")
_T = TypeVar("_T")
_BUCKET = re.compile(r"[A-Za-z0-9_-]{1,100}")
_SCOPE = re.compile(r"[A-Za-z0-9_-]{1,64}")
# At least JetStream's minimum age. A longer one would show a crash too late to be of use.
_HEARTBEAT_S = (0.1, 86_400.0)
# A request without a response is repeated after this, in seconds, and at least this often in all.
_REQUEST_TIMEOUT_S = 5.0
_MIN_TRIES = 6
# After a failed heartbeat the next one follows within this, in seconds.
_HEARTBEAT_RETRY_S = 1.0
# JetStream's message for a full bucket, which comes with the number of any failure.
_FULL = "maximum"


class NatsLedger(SharedLedger["_Bucket"]):
    """A ledger in NATS JetStream; any number of processes on any machines may share it.

    Hand it to `EverlyticClient.stream_orders`, which opens and closes it. With ``async with``
    around it, it stays open from one stream to the next. While it is open it belongs to one event
    loop. Leaving it waits until everything is recorded, for `patience_s` at most.

    It waits for restarts of the server and elections of a leader. What can't be recorded within
    `patience_s` is a `LedgerError`, and the order is unknown to the next run.

    Args:
        servers: The address of a NATS server, several of one cluster, or your own connection,
            which is used and never closed; give that one ``max_reconnect_attempts=-1``.
        bucket: The name of the key-value bucket; it is created if there is none, on disk and
            without bounds: an order takes about 700 bytes. A second one has its name with
            ``_runs`` after it.
        replicas: On how many servers of a cluster each entry is kept, if the bucket is created: 1,
            3 or 5.
        heartbeat_s: What a process had in flight is unknown once it sent no heartbeat for this
            long, in seconds. An existing bucket keeps its own value. Make it longer than the
            server's restarts.
        patience_s: How long to repeat what the server does not acknowledge, in seconds.
        access: How the server lets us in; see `NatsAccess`.

    Raises:
        ConfigurationError: A setting is not valid.
    """

    def __init__(
        self,
        servers: str | Sequence[str] | Client,
        bucket: str = "everlytic_ledger",
        *,
        replicas: int = 1,
        heartbeat_s: float = 60.0,
        patience_s: float = 30.0,
        **access: Unpack[NatsAccess],
    ) -> None:
        if not _BUCKET.fullmatch(bucket):
            raise ConfigurationError("bucket must be of letters, digits, - and _ only")
        least_s, most_s = _HEARTBEAT_S
        if not least_s <= heartbeat_s <= most_s:
            raise ConfigurationError(f"heartbeat_s must be {least_s:g} to {most_s:g}")
        if not patience_s > 0:
            raise ConfigurationError("patience_s must be more than 0")
        if replicas not in (1, 3, 5):
            raise ConfigurationError("replicas must be 1, 3 or 5")
        super().__init__(bucket, "bucket")
        self._replicas = replicas
        self._heartbeat_s = heartbeat_s
        self._patience_s = patience_s
        self._connector = Connector(servers, **access)
        self._created: object = None  # when the bucket was: no other one is the same memory

    @asynccontextmanager
    async def session(
        self,
        scope: str,
        host: str,  # noqa: ARG002 - no command shows it
    ) -> AsyncIterator[LedgerSession]:
        """Use it for one endpoint and store; see `everlytic_async.Ledger.session`."""
        async with self:
            names = [scope]
            if isinstance(scope, ScopeName):
                # Entries of earlier versions are found where they are; nothing moves them.
                names += await run_shielded(self.opened.used_scopes(sorted(scope.earlier())))
            yield _Session(
                self, tuple(name if _SCOPE.fullmatch(name) else digest(name) for name in names)
            )

    async def _open(self) -> _Bucket:
        connection = await self._connector.connect(
            name="everlytic-async ledger",
            timeout_s=self._patience_s,
            fail=lambda words: LedgerError(f"the ledger {self._name!r} can't be opened: {words}"),
        )
        timeout_s = min(_REQUEST_TIMEOUT_S, self._patience_s / _MIN_TRIES)
        stream = connection.jetstream(timeout=timeout_s)
        entries = Entries(stream, self._name, self._created)
        runs = Runs(
            connection, stream, self._name, replicas=self._replicas, ttl_s=self._heartbeat_s
        )
        bucket = _Bucket(self._connector, connection, entries, runs, patience_s=self._patience_s)
        try:
            await bucket.open(self._replicas)
        except BaseException:
            await self._connector.close(connection)
            raise
        self._created = entries.created
        return bucket


@attrs.frozen(eq=False)
class _Session:
    """A ledger for one endpoint and store."""

    _ledger: NatsLedger
    _scopes: tuple[str, ...]  # its own, then those of earlier versions that hold entries

    async def look_up(self, keys: Sequence[str]) -> Mapping[str, Entry]:
        return await run_shielded(self._ledger.opened.look_up(self._scopes, keys))

    async def claim(
        self, key: str, body_digest: str, policy: ResendPolicy
    ) -> tuple[bool, Entry | None]:
        bucket = self._ledger.opened
        claiming = bucket.start(bucket.claim(self._scopes, key, body_digest, policy))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            bucket.start(bucket.release_claim(claiming, self._scopes[0], key, body_digest))
            raise

    async def any_sent(self) -> bool:
        return await run_shielded(self._ledger.opened.any_sent(self._scopes))

    def record(self, entry: Entry) -> Awaitable[None]:
        bucket = self._ledger.opened
        # A cancelled waiter does not end the recording.
        recording = asyncio.shield(bucket.start(bucket.record(self._scopes[0], entry)))
        recording.add_done_callback(_consume_exception)
        return recording


def _consume_exception(future: asyncio.Future[Any]) -> None:
    """A failure that nobody awaits shows at the next request."""
    if not future.cancelled():
        future.exception()


class _Bucket:
    """A ledger while it is open: look-ups, claims and records, and its heartbeat."""

    def __init__(
        self,
        connector: Connector,
        connection: Client,
        entries: Entries,
        runs: Runs,
        *,
        patience_s: float,
    ) -> None:
        self._connector = connector
        self._connection = connection
        self._entries = entries
        self._runs = runs
        self._patience_s = patience_s
        self._lost: LedgerError | None = None
        self._write_numbers = itertools.count(1)
        self._claims: dict[str, Stored] = {}  # ours, by key in the bucket
        self._tasks: set[asyncio.Task[Any]] = set()
        self._detached: set[asyncio.Task[Any]] = set()  # that nobody waits for any more
        self._heartbeat_task: asyncio.Task[None] | None = None

    async def open(self, replicas: int) -> None:
        """Bind to the buckets, create missing ones, and start to send heartbeats."""

        async def bind() -> None:
            await self._runs.open(is_new_ledger=await self._entries.open(replicas))

        await self._retry("opened", bind)
        await self._retry("written", self._runs.send_heartbeat)
        self._heartbeat_task = asyncio.ensure_future(self._heartbeat_loop())

    def start(self, work: Coroutine[Any, Any, _T], *, detached: bool = False) -> asyncio.Task[_T]:
        """Do a piece of work to its end, whether or not somebody waits for it."""
        tasks = self._detached if detached else self._tasks
        task = asyncio.ensure_future(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(_consume_exception)
        return task

    async def flush(self) -> None:
        """Wait until everything that was started before has ended."""
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    async def close(self) -> None:
        """Wait until everything has ended, end the run, and close the connection."""
        while self._tasks:
            await self.flush()
        if self._detached and self._connection.is_connected:
            await asyncio.wait(set(self._detached), timeout=self._patience_s)
        for task in set(self._detached):
            await cancel_until_done(task)
        if self._heartbeat_task is not None:
            await cancel_until_done(self._heartbeat_task)
        await self._runs.end()
        await self._connector.close(self._connection)

    async def _heartbeat_loop(self) -> None:
        wait_s = self._runs.heartbeat_s
        while True:
            await asyncio.sleep(wait_s)
            wait_s = self._runs.heartbeat_s
            try:
                await self._runs.send_heartbeat()
                await self._entries.check()
            except LedgerError as error:
                _LOGGER.error("%s", error)  # noqa: TRY400 - the message is complete
                self._lost = error
                return
            except NATS_ERRORS:  # the next claim raises it
                wait_s = min(_HEARTBEAT_RETRY_S, wait_s)

    # ------------------------------------------------------------------------------------- reading

    async def look_up(self, scopes: Sequence[str], keys: Sequence[str]) -> Mapping[str, Entry]:
        """What is known of these orders in any of the scopes; see `LedgerSession.look_up`."""
        places = [(key, kv_key(scope, key)) for scope in scopes for key in keys]
        entries = await self._read_all(self._look_up, (place for _, place in places))
        known: dict[str, Entry] = {}
        for (key, _), entry in zip(places, entries, strict=True):
            merged = merge_entries(known.get(key), entry)
            if merged is not None:
                known[key] = merged
        return known

    async def _look_up(self, place: str) -> Entry | None:
        return await self._effective_entry(await self._entries.look_up(place))

    async def _effective_entry(self, stored: Stored) -> Entry | None:
        """What counts: in flight in a run that has ended, an order is unknown."""
        entry = stored.entry
        if entry is None or not stored.run or await self._runs.is_alive(stored.run):
            return entry
        return attrs.evolve(entry, state=State.UNKNOWN, reason=CRASHED_MESSAGE)

    async def used_scopes(self, scopes: Sequence[str]) -> list[str]:
        """Those of the scopes that hold entries."""
        last = await self._read_all(self._entries.next, scopes)
        return [scope for scope, stored in zip(scopes, last, strict=True) if stored is not None]

    async def any_sent(self, scopes: Sequence[str]) -> bool:
        """Whether an order was sent; see `LedgerSession.any_sent`."""
        return any(await self._read_all(self._entries.any_sent, scopes))

    async def _read_all(
        self, read: Callable[[str], Awaitable[_T]], keys: Iterable[str]
    ) -> list[_T]:
        """Read all of these concurrently, and wait for all; then raise the first error."""
        reading = [self._retry("read", partial(read, key)) for key in keys]
        results = await asyncio.gather(*reading, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results  # type: ignore[return-value]

    # ------------------------------------------------------------------------------------- writing

    async def claim(
        self, scopes: Sequence[str], key: str, body_digest: str, policy: ResendPolicy
    ) -> tuple[bool, Entry | None]:
        """Claim an order in the first of the scopes. It must not be cancelled."""
        if self._lost is not None:
            raise LedgerError(str(self._lost))
        if not self._runs.is_fresh:
            await self._retry("written", self._runs.send_heartbeat)
        scope, *earlier = scopes
        early = (await self.look_up(earlier, [key])).get(key) if earlier else None
        if early is not None and not policy.allows(early, body_digest):
            return False, early
        place, write = kv_key(scope, key), self._new_write_id()
        value = encode(Entry(key, State.IN_FLIGHT, body_digest, recorded_at=time.time()), write)
        before, replaces = early, 0

        async def attempt() -> Stored | None:
            nonlocal before, replaces
            while True:
                revision = await self._entries.compare_and_set(place, value, replaces)
                if revision is not None:
                    return Stored(revision, None, write)
                found = await self._entries.read(place)
                if found.write == write:  # only its acknowledgement was lost
                    return found
                before = merge_entries(early, await self._effective_entry(found))
                replaces = found.revision
                if not policy.allows(before, body_digest):
                    return None

        try:
            claim = await self._retry("written", attempt)
        except LedgerError:
            # It may still be written once the server is back.
            released = released_entry(key, body_digest, before)
            putting = self._put(place, released, Stored(replaces, None, write), inf)
            self.start(putting, detached=True)
            raise
        if claim is not None:
            self._claims[place] = claim
        return claim is not None, before

    async def release_claim(
        self,
        claiming: asyncio.Task[tuple[bool, Entry | None]],
        scope: str,
        key: str,
        body_digest: str,
    ) -> None:
        """Give up a claim that was cancelled before anything was sent."""
        await asyncio.wait([claiming])
        if claiming.cancelled() or claiming.exception() is not None:
            return
        granted, before = claiming.result()
        if granted:
            place = kv_key(scope, key)
            released = released_entry(key, body_digest, before)
            await self._put(place, released, self._claims.pop(place, None))

    async def record(self, scope: str, entry: Entry) -> None:
        """Record an outcome; see `LedgerSession.record`. It must not be cancelled."""
        place = kv_key(scope, entry.key)
        # An invalid order with the same key does not end the claim.
        claim = None if entry.state is State.INVALID else self._claims.pop(place, None)
        try:
            await self._put(place, entry, claim)
        except LedgerError:
            # The sender must stop; even so the outcome is recorded once the server is back.
            self.start(self._put(place, entry, claim, inf), detached=True)
            raise

    async def _put(
        self, place: str, entry: Entry, claim: Stored | None, patience_s: float | None = None
    ) -> None:
        """Write an entry over our claim, or over whatever is stored.

        If the claim is gone, we counted as crashed and another run has claimed the order: then it
        is only worth recording that it was sent.
        """
        write = self._new_write_id()
        value = encode(attrs.evolve(entry, recorded_at=time.time()), write)
        replaces = 0 if claim is None else claim.revision

        async def attempt() -> None:
            nonlocal replaces
            while await self._entries.compare_and_set(place, value, replaces) is None:
                found = await self._entries.read(place)
                replaces = found.revision
                if found.write == write or not _may_replace(entry, found, claim):
                    return

        await self._retry("written", attempt, patience_s)

    def _new_write_id(self) -> str:
        return f"{self._runs.token}.{next(self._write_numbers)}"

    async def _retry(
        self, what: str, attempt: Callable[[], Awaitable[_T]], patience_s: float | None = None
    ) -> _T:
        """Repeat a request until it succeeds, or fails with a `LedgerError`."""
        name = self._entries.name
        return await with_retries(
            attempt,
            timeout_s=patience_s or self._patience_s,
            fail=lambda words: LedgerError(f"the ledger {name!r} can't be {what}: {words}"),
            is_final=lambda error: _FULL in error_text(error),
        )


def _may_replace(entry: Entry, found: Stored, claim: Stored | None) -> bool:
    """Whether an entry may replace one that is stored instead of the expected one."""
    if found.entry is None:
        return True
    if claim is not None and found.write != claim.write:
        return entry.state is State.SENT and found.entry.state is not State.SENT
    return claim is not None or entry.state is not State.INVALID or found.entry.state.rank == 0
