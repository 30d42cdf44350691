"""A ledger in NATS in use by one run: look-ups, claims and records, its heartbeat, its end.

The entries are in one bucket (``_nats_entries``), the runs in another (``_nats_runs``).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from math import inf
from typing import Any, TypeVar

import attrs
from nats.aio.client import Client

from everlytic_async._cancel import cancel_until_done
from everlytic_async._nats import NATS_ERRORS, Connector
from everlytic_async.errors import LedgerError
from everlytic_async.ledger._nats_entries import Entries, Stored, encode, kv_key, retry
from everlytic_async.ledger._nats_runs import Runs
from everlytic_async.ledger._protocol import (
    Entry,
    ResendPolicy,
    State,
    merge_entries,
    released_entry,
)

__all__ = ["Bucket"]

_LOGGER = logging.getLogger("everlytic_async.ledger")
_T = TypeVar("_T")
# A request without a response is repeated after this, in seconds, and at least this often in all.
_REQUEST_TIMEOUT_S = 5.0
_MIN_TRIES = 6
# Entries that are read concurrently.
_LOOK_UP = 256
# After a failed heartbeat the next one follows within this, in seconds.
_HEARTBEAT_RETRY_S = 1.0


class Bucket:
    """A ledger in use by one run; made by `Bucket.open`.

    Attributes:
        connection: To NATS.
        created: When the bucket of entries was created.
        runs: The runs, with this one's heartbeat.
    """

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
        self.connection = connection
        self.created = entries.created
        self._entries = entries
        self.runs = runs
        self._patience_s = patience_s
        self._lost: LedgerError | None = None
        self._write_numbers = itertools.count(1)
        self._claims: dict[str, Stored] = {}  # ours, by key in the bucket
        self._tasks: set[asyncio.Task[Any]] = set()
        self._detached: set[asyncio.Task[Any]] = set()  # that nobody waits for any more
        self._heartbeat_task: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        connector: Connector,
        connection: Client,
        name: str,
        *,
        replicas: int,
        heartbeat_s: float,
        patience_s: float,
        created: object = None,
    ) -> Bucket:
        """Bind to the buckets, create missing ones, and start a run.

        Raises:
            LedgerError: they can't be used, or the bucket of entries was not `created` then.
        """
        stream = connection.jetstream(timeout=min(_REQUEST_TIMEOUT_S, patience_s / _MIN_TRIES))

        async def bind() -> Bucket:
            entries = await Entries.open(stream, name, replicas=replicas, created=created)
            runs = await Runs.open(
                connection,
                stream,
                name,
                replicas=replicas,
                ttl_s=heartbeat_s,
                is_new_ledger=entries.is_new,
            )
            return cls(connector, connection, entries, runs, patience_s=patience_s)

        bucket = await retry(name, "opened", patience_s, bind)
        await bucket.start_run()
        return bucket

    async def start_run(self) -> None:
        """Send the first heartbeat, and the others in the background."""
        await self._retry("written", self.runs.send_heartbeat)
        self._heartbeat_task = asyncio.ensure_future(self._heartbeat_loop())

    def start(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Do a piece of work to its end, whether or not somebody waits for it."""
        return _start(work, self._tasks)

    async def flush(self) -> None:
        """Wait until everything that was started before has ended."""
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    async def close(self) -> None:
        """Wait until everything has ended, end the run, and close the connection."""
        while self._tasks:
            await self.flush()
        if self._detached and self.connection.is_connected:
            await asyncio.wait(set(self._detached), timeout=self._patience_s)
        for task in set(self._detached):
            await cancel_until_done(task)
        if self._heartbeat_task is not None:
            await cancel_until_done(self._heartbeat_task)
        await self.runs.end()
        await self._connector.close(self.connection)

    def abandon(self) -> None:
        """Its event loop was closed, and the connection with it."""

    async def _heartbeat_loop(self) -> None:
        wait_s = self.runs.heartbeat_s
        while True:
            await asyncio.sleep(wait_s)
            wait_s = self.runs.heartbeat_s
            try:
                await self.runs.send_heartbeat()
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
        wanted = [(key, kv_key(scope, key)) for scope in scopes for key in keys]
        found: list[tuple[str, Stored]] = []
        for start in range(0, len(wanted), _LOOK_UP):
            chunk = wanted[start : start + _LOOK_UP]
            read = await self._read_all(self._entries.look_up, (place for _, place in chunk))
            found += zip((key for key, _ in chunk), read, strict=True)
        runs = {stored.run for _, stored in found if stored.in_flight}
        alive = dict(zip(runs, await self._read_all(self.runs.is_alive, runs), strict=True))
        known: dict[str, Entry] = {}
        for key, stored in found:
            entry = stored.effective_entry(is_alive=alive.get(stored.run, False))
            entry = merge_entries(known.get(key), entry)
            if entry is not None:
                known[key] = entry
        return known

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
        """Claim an order; see `LedgerSession.claim`. It must not be cancelled.

        Args:
            scopes: Where the claim is written; then where earlier versions may have written.
            key: As it is stored.
            body_digest: Of the order.
            policy: What may be sent again.
        """
        if self._lost is not None:
            raise LedgerError(str(self._lost))
        if not self.runs.is_fresh:
            await self._retry("written", self.runs.send_heartbeat)
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
                is_alive = found.in_flight and await self.runs.is_alive(found.run)
                before = merge_entries(early, found.effective_entry(is_alive=is_alive))
                replaces = found.revision
                if not policy.allows(before, body_digest):
                    return None

        try:
            claim = await self._retry("written", attempt)
        except LedgerError:
            # It may still be written once the server is back.
            released = released_entry(key, body_digest, before)
            _start(self._put(place, released, Stored(replaces, None, write), inf), self._detached)
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
            _start(self._put(place, entry, claim, inf), self._detached)
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
        return f"{self.runs.token}.{next(self._write_numbers)}"

    async def _retry(
        self, what: str, attempt: Callable[[], Awaitable[_T]], patience_s: float | None = None
    ) -> _T:
        return await retry(self._entries.name, what, patience_s or self._patience_s, attempt)


def _may_replace(entry: Entry, found: Stored, claim: Stored | None) -> bool:
    """Whether an entry may replace one that is stored instead of the expected one."""
    if found.entry is None:
        return True
    if claim is not None and found.write != claim.write:
        return entry.state is State.SENT and found.entry.state is not State.SENT
    return claim is not None or entry.state is not State.INVALID or found.entry.state.rank == 0


def _start(work: Coroutine[Any, Any, _T], tasks: set[asyncio.Task[Any]]) -> asyncio.Task[_T]:
    def on_done(task: asyncio.Task[Any]) -> None:
        tasks.discard(task)
        if not task.cancelled():
            task.exception()  # who does not await it notices at the next request

    task = asyncio.ensure_future(work)
    tasks.add(task)
    task.add_done_callback(on_done)
    return task
