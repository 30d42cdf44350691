"""A ledger in a JetStream key-value bucket: all of its reads and writes.

An order is one key of the bucket, ``<scope>.<digest of its key>``; its value is the entry as JSON
and the name of the write, ``<run>.<number>``. Every write says which revision it replaces, 0 for
none, so that of several claimants one gets the order; and whoever had no acknowledgement finds out
by the name whether the write that stands there is its own. So any write may be tried again.

A second bucket, ``<bucket>_runs``, holds a key for each run: a ledger for as long as it is open.
The server drops what nobody renews. What is in flight in a run that has no such key is unknown; it
is found out on reading, and nobody has to write it down.

The bucket of runs may be deleted: it is created again, and nobody is held for dead until all had
time to be heard of in it. The bucket of entries may not: without it nobody knows what was sent, so
whoever had it open sends nothing more, though another process may have created a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from math import inf
from typing import Any, TypeVar

import attrs
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext, api
from nats.js.kv import KeyValue

from everlytic_async._cancel import cancel_until_done
from everlytic_async._nats import NATS_ERRORS, error_text, with_retries
from everlytic_async.errors import LedgerError
from everlytic_async.ledger._protocol import (
    CRASHED_MESSAGE,
    Entry,
    ResendPolicy,
    State,
    merge_entries,
    released_entry,
)

__all__ = ["Bucket", "digest"]

_LOGGER = logging.getLogger("everlytic_async.ledger")
_T = TypeVar("_T")
# A request that is not answered for so long is asked again, in seconds.
_ANSWER_S = 5.0
# So many entries are asked for at once.
_LOOK_UP = 256
# So many entries are read at most to find one that was sent.
_ANY_SENT = 200
# So often in the life of a heartbeat it is renewed; nothing is claimed after so much of its life.
_BEATS = 3
_FRESH = 2 / 3
# Who was cut off may find a server that was away for longer than heartbeats live. For this part of
# a heartbeat's life nobody is held for dead then: the others come back as well.
_RETURN = 1 / 2
# What JetStream says of a bucket that has come to its bounds, with the number of any failure.
_FULL = "maximum"


@attrs.frozen
class _Stored:
    """What stands in the bucket for an order.

    Attributes:
        revision: For the next write to replace; 0 where there never was one.
        entry: None where there is none, or somebody has deleted it.
        write: The name of the write.
    """

    revision: int = 0
    entry: Entry | None = None
    write: str = ""

    @property
    def run(self) -> str:
        """Who wrote it."""
        return self.write.partition(".")[0]


class Bucket:
    """The two buckets in use by one run; made by `Bucket.opened`."""

    def __init__(
        self,
        connection: Client,
        stream: JetStreamContext,
        *,
        name: str,
        direct: bool,
        created: tuple[object, object],
        replicas: int,
        heartbeat_s: float,
        patience_s: float,
    ) -> None:
        self.connection = connection
        self._name = name
        self._replicas = replicas
        #: When the bucket of entries was created: another one is not the same memory.
        self.created, self._runs_created = created
        self._lost: LedgerError | None = None
        # Look-ups are a forecast, and any replica may answer them. A claim asks the leader.
        self._stream = stream
        self._any_entries = _bucket(stream, name, direct=direct)
        self._entries = _bucket(stream, name, direct=False)
        self._runs = _bucket(stream, _runs_of(name), direct=False)
        self._heartbeat_s = heartbeat_s
        self._patience_s = patience_s
        self._run = secrets.token_hex(8)
        self._hosts: set[str] = set()
        self._numbers = itertools.count(1)
        self._held: dict[str, _Stored] = {}  # by place, our claims
        self._tasks: set[asyncio.Task[Any]] = set()
        self._late: set[asyncio.Task[Any]] = set()  # what nobody waits for any more
        # By the loop's clock: when the last heartbeat that was acknowledged had been sent; and
        # before when nobody is held for dead.
        self._beat_at = self._judge_at = float("-inf")
        self._reconnects = connection.stats["reconnects"]
        self._beating: asyncio.Task[None] | None = None

    @classmethod
    async def opened(
        cls,
        connection: Client,
        name: str,
        *,
        replicas: int,
        heartbeat_s: float,
        patience_s: float,
        created: object = None,
    ) -> Bucket:
        """Bind to the buckets, create what is missing, and start a run.

        Args:
            connection: To NATS.
            name: Of the bucket of entries.
            replicas: For a bucket that is created.
            heartbeat_s: The same.
            patience_s: How long to go on trying, in seconds.
            created: `Bucket.created` of an earlier run, whose bucket it must be; None for any.

        Raises:
            LedgerError: they can't be used.
        """
        stream = connection.jetstream(timeout=min(_ANSWER_S, patience_s))

        async def bound() -> tuple[bool, float, tuple[object, object]]:
            if created is None:
                await _bound(stream, name, replicas, None)
            entries = await _entries_info(stream, name, created)
            _check(name, entries.config)
            runs = await (await _bound(stream, _runs_of(name), replicas, heartbeat_s)).status()
            times = _created(entries), _created(runs.stream_info)
            return bool(entries.config.allow_direct), runs.ttl or 0.0, times

        direct, ttl, times = await _persist(name, "opened", patience_s, bound)
        if not ttl:
            raise LedgerError(
                f"the bucket {_runs_of(name)!r} keeps everything for ever, so that nobody finds "
                "out who has died: delete it, and it is made anew"
            )
        bucket = cls(
            connection,
            stream,
            name=name,
            direct=direct,
            created=times,
            replicas=replicas,
            heartbeat_s=ttl,
            patience_s=patience_s,
        )
        await bucket._trying("written", bucket._beat)
        bucket._beating = asyncio.ensure_future(bucket._keep_beating())
        return bucket

    def start(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Do a piece of work to its end, whether or not somebody waits for it."""
        return self._begun(work, self._tasks)

    def _begun(
        self, work: Coroutine[Any, Any, _T], among: set[asyncio.Task[Any]]
    ) -> asyncio.Task[_T]:
        def done(task: asyncio.Task[Any]) -> None:
            among.discard(task)
            if not task.cancelled():
                task.exception()  # who does not wait for it finds out by the next request

        task = asyncio.ensure_future(work)
        among.add(task)
        task.add_done_callback(done)
        return task

    async def settled(self) -> None:
        """Wait until all that was begun before has ended."""
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    async def closed(self) -> None:
        """Wait until all has ended, and end the run: what it left in flight is unknown then."""
        while self._tasks:
            await self.settled()
        if self._late and self.connection.is_connected:
            await asyncio.wait(set(self._late), timeout=self._patience_s)
        for task in set(self._late):
            await cancel_until_done(task)
        if self._beating is not None:
            await cancel_until_done(self._beating)
        if self.connection.is_connected:
            # Else its heartbeat goes away by itself.
            with contextlib.suppress(*NATS_ERRORS):
                await self._runs.delete(self._run)

    # -------------------------------------------------------------------------------- the runs

    async def serve(self, host: str) -> None:
        """Tell people who look at the bucket for which endpoint this run sends."""
        if host not in self._hosts:
            self._hosts.add(host)
            await self._trying("written", self._beat)

    async def _beat(self) -> None:
        at = asyncio.get_running_loop().time()
        value = json.dumps({"hosts": sorted(self._hosts)}).encode()
        try:
            await self._runs.put(self._run, value)
        except nats.js.errors.NoStreamResponseError:
            await self._check_runs()
            await self._runs.put(self._run, value)
        self._beat_at = max(self._beat_at, at)

    async def _keep_beating(self) -> None:
        wait_s = self._heartbeat_s / _BEATS
        while True:
            await asyncio.sleep(wait_s)
            try:
                await self._beat()
                if self._lost is None:
                    await self._check_entries()
            except LedgerError as error:
                _LOGGER.error("%s", error)  # noqa: TRY400 - it says all
                self._lost = error
            except NATS_ERRORS:
                wait_s = min(1.0, self._heartbeat_s / _BEATS)  # a claim says so
            else:
                wait_s = self._heartbeat_s / _BEATS

    async def _check_runs(self) -> None:
        """Create the bucket of runs where it was deleted, whoever found it out first."""
        name = _runs_of(self._name)
        runs = await _bound(self._stream, name, self._replicas, self._heartbeat_s)
        created = _created((await runs.status()).stream_info)
        if created != self._runs_created:
            _LOGGER.warning("the bucket %r was deleted, and created again", name)
            self._runs_created = created
            self._judge_at = asyncio.get_running_loop().time() + _RETURN * self._heartbeat_s

    async def _check_entries(self) -> None:
        """Check that the bucket of entries is the one that was opened.

        Raises:
            LedgerError: it is not.
        """
        await _entries_info(self._stream, self._name, self.created)

    async def _lives(self, run: str) -> bool:
        """Whether a run goes on, as far as is known."""
        if run == self._run:
            return True
        now = asyncio.get_running_loop().time()
        if self.connection.stats["reconnects"] != self._reconnects:
            self._reconnects = self.connection.stats["reconnects"]
            self._judge_at = now + _RETURN * self._heartbeat_s
        if now < self._judge_at:
            return True
        try:
            await self._runs.get(run)
        except nats.js.errors.KeyNotFoundError:
            await self._check_runs()
            return now < self._judge_at
        return True

    def _seen(self, stored: _Stored, *, lives: bool) -> Entry | None:
        entry = stored.entry
        if entry is None or entry.state is not State.IN_FLIGHT or lives:
            return entry
        return attrs.evolve(entry, state=State.UNKNOWN, reason=CRASHED_MESSAGE)

    # ------------------------------------------------------------------------------- the entries

    async def look_up(self, scopes: Sequence[str], keys: Sequence[str]) -> Mapping[str, Entry]:
        """What is known of these in any of the scopes; see `LedgerSession.look_up`."""
        places = [(key, _place(scope, key)) for scope in scopes for key in keys]
        found: list[tuple[str, _Stored]] = []
        for start in range(0, len(places), _LOOK_UP):
            some = places[start : start + _LOOK_UP]
            read = (partial(self._read, self._any_entries, place) for _, place in some)
            stored = await _all(self._trying("read", each) for each in read)
            found += zip((key for key, _ in some), stored, strict=True)
        runs = {each.run for _, each in found if _in_flight(each)}
        lives = await _all(self._trying("read", partial(self._lives, run)) for run in runs)
        living = {run for run, is_so in zip(runs, lives, strict=True) if is_so}
        known: dict[str, Entry] = {}
        for key, each in found:
            entry = merge_entries(known.get(key), self._seen(each, lives=each.run in living))
            if entry is not None:
                known[key] = entry
        return known

    async def in_use(self, scopes: Sequence[str]) -> list[str]:
        """Those of the scopes that hold entries."""
        last = await _all(
            self._trying("read", partial(self._next, scope, None)) for scope in scopes
        )
        return [scope for scope, each in zip(scopes, last, strict=True) if each is not None]

    async def any_sent(self, scopes: Sequence[str]) -> bool:
        """Whether an order was sent; see `LedgerSession.any_sent`.

        It reads the entry written last, and then from the oldest on, `_ANY_SENT` in all.
        """
        return True in [await self._any_sent(scope) for scope in scopes]

    async def _any_sent(self, scope: str) -> bool:
        found = await self._trying("read", partial(self._next, scope, None))
        after = 0
        for _ in range(_ANY_SENT):
            if found is None:
                return False
            if found.entry is not None and found.entry.state is State.SENT:
                return True
            found = await self._trying("read", partial(self._next, scope, after + 1))
            after = 0 if found is None else found.revision
        return False

    async def _next(self, scope: str, revision: int | None) -> _Stored | None:
        """The first entry of a scope from a revision on; with None the last one."""
        subject = f"$KV.{self._name}.{scope}.*"
        try:
            message = await self._stream.get_msg(
                f"KV_{self._name}", revision, subject, next=revision is not None
            )
        except nats.js.errors.NotFoundError:
            return None
        if not message.data:  # a mark of a deletion
            return _Stored(message.seq or 0)
        return self._decoded(message.seq or 0, message.data)

    async def claim(
        self, scopes: Sequence[str], key: str, body: str, policy: ResendPolicy
    ) -> tuple[bool, Entry | None]:
        """Claim an order; see `LedgerSession.claim`. It is not to be cancelled.

        Args:
            scopes: Where the claim is written; then where earlier versions may have written.
            key: As it is stored.
            body: A digest of the order's body.
            policy: What may be sent again.
        """
        if self._lost is not None:
            raise LedgerError(str(self._lost))
        loop = asyncio.get_running_loop()
        if loop.time() - self._beat_at > _FRESH * self._heartbeat_s:
            # Nobody may hold us for dead when we take it up.
            await self._trying("written", self._beat)
        scope, *earlier = scopes
        early = (await self.look_up(earlier, [key])).get(key) if earlier else None
        if early is not None and not policy.allows(early, body):
            return False, early
        place = _place(scope, key)
        write = self._name_write()
        value = _value(Entry(key, State.IN_FLIGHT, body, recorded_at=time.time()), write)
        before: Entry | None = early
        replaces = 0

        async def attempt() -> _Stored | None:
            nonlocal before, replaces
            while True:
                revision = await self._replaced(place, value, replaces)
                if revision is not None:
                    return _Stored(revision, None, write)
                found = await self._read(self._entries, place)
                if found.write == write:  # that its acknowledgement was lost is all
                    return found
                lives = not _in_flight(found) or await self._lives(found.run)
                before, replaces = (
                    merge_entries(early, self._seen(found, lives=lives)),
                    found.revision,
                )
                if not policy.allows(before, body):
                    return None

        try:
            held = await self._trying("written", attempt)
        except LedgerError:
            # It may be written yet, by the time that the server is back.
            claim = _Stored(replaces, None, write)
            self._begun(self._put(place, released_entry(key, body, before), claim, inf), self._late)
            raise
        if held is not None:
            self._held[place] = held
        return held is not None, before

    async def give_back(
        self,
        claiming: asyncio.Task[tuple[bool, Entry | None]],
        scope: str,
        key: str,
        body: str,
    ) -> None:
        """Who claimed this was cancelled before it could make use of that: nothing was sent."""
        await asyncio.wait([claiming])
        if claiming.cancelled() or claiming.exception() is not None:
            return
        granted, before = claiming.result()
        if granted:
            place = _place(scope, key)
            await self._put(place, released_entry(key, body, before), self._held.pop(place, None))

    async def record(self, scope: str, entry: Entry) -> None:
        """Record what became of an order; see `LedgerSession.record`. It is not to be cancelled."""
        place = _place(scope, entry.key)
        # An invalid twin ends nothing.
        held = None if entry.state is State.INVALID else self._held.pop(place, None)
        try:
            await self._put(place, entry, held)
        except LedgerError:
            # Who sends must stop; what was sent is to be known even so, once the server is back.
            self._begun(self._put(place, entry, held, inf), self._late)
            raise

    async def _put(
        self, place: str, entry: Entry, claim: _Stored | None, patience_s: float | None = None
    ) -> None:
        """Write an entry over our claim, or over whatever is there.

        Where the claim is no longer there, we were held for dead and somebody has taken it up:
        only that it was sent is still worth to be written.
        """
        write = self._name_write()
        value = _value(attrs.evolve(entry, recorded_at=time.time()), write)
        replaces = 0 if claim is None else claim.revision

        async def attempt() -> None:
            nonlocal replaces
            while await self._replaced(place, value, replaces) is None:
                found = await self._read(self._entries, place)
                replaces = found.revision
                if found.write == write or (
                    found.entry is not None and not _covers(entry, found, claim)
                ):
                    return

        await self._trying("written", attempt, patience_s)

    async def _replaced(self, place: str, value: bytes, revision: int) -> int | None:
        """The revision of a write; None where another one than it should replace is there."""
        try:
            return await self._any_entries.update(place, value, last=revision)
        except nats.js.errors.KeyWrongLastSequenceError:
            return None
        except nats.js.errors.NoStreamResponseError:
            await self._check_entries()
            raise

    async def _read(self, entries: KeyValue, place: str) -> _Stored:
        try:
            found = await entries.get(place)
        except nats.js.errors.KeyNotFoundError as error:
            return _Stored(error.entry.revision if error.entry is not None else 0)
        return self._decoded(found.revision or 0, found.value or b"")

    def _decoded(self, revision: int, value: bytes) -> _Stored:
        try:
            return _stored(revision, value)
        except (ValueError, TypeError, KeyError) as error:
            raise LedgerError(
                f"the bucket {self._name!r} holds what is no entry: give the ledger one of its own"
            ) from error

    def _name_write(self) -> str:
        return f"{self._run}.{next(self._numbers)}"

    async def _trying(
        self, what: str, attempt: Callable[[], Awaitable[_T]], patience_s: float | None = None
    ) -> _T:
        if patience_s is None:
            patience_s = self._patience_s
        return await _persist(self._name, what, patience_s, attempt)


def digest(text: str) -> str:
    """What stands for a text in a subject."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _place(scope: str, key: str) -> str:
    return f"{scope}.{digest(key)}"


def _runs_of(name: str) -> str:
    return f"{name}_runs"


def _in_flight(stored: _Stored) -> bool:
    return stored.entry is not None and stored.entry.state is State.IN_FLIGHT


def _covers(entry: Entry, found: _Stored, claim: _Stored | None) -> bool:
    """Whether an entry is to replace another one that is there instead of what was expected."""
    assert found.entry is not None  # noqa: S101 - what is not there covers nothing
    if claim is not None:
        lost = found.write != claim.write
        return not lost or (entry.state is State.SENT and found.entry.state is not State.SENT)
    harmless = found.entry.state in (State.INVALID, State.NOT_SENT)
    return entry.state is not State.INVALID or harmless


def _value(entry: Entry, write: str) -> bytes:
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


def _stored(revision: int, value: bytes) -> _Stored:
    known = json.loads(value)
    if not isinstance(known, dict):
        raise TypeError("an entry is an object")
    write: str = known["write"]
    entry = Entry(
        known["key"],
        State(known["state"]),
        known["body"],
        known["attempts"],
        known.get("status"),
        known.get("reason"),
        known["at"],
    )
    return _Stored(revision, entry, write)


def _bucket(stream: JetStreamContext, name: str, *, direct: bool) -> KeyValue:
    """A bucket that is there, for reads from any replica, or from the leader."""
    return KeyValue(name=name, stream=f"KV_{name}", pre=f"$KV.{name}.", js=stream, direct=direct)


async def _bound(stream: JetStreamContext, name: str, replicas: int, ttl: float | None) -> KeyValue:
    try:
        return await stream.key_value(name)
    except nats.js.errors.BucketNotFoundError:
        pass
    config = api.KeyValueConfig(
        bucket=name,
        description="What became of orders for Everlytic",
        history=1,
        replicas=replicas,
        storage=api.StorageType.FILE,
        ttl=ttl,
        direct=True,
    )
    try:
        return await stream.create_key_value(config)
    except nats.js.errors.BadRequestError:
        # Somebody else has made it meanwhile, perhaps with other settings; else it says why.
        try:
            return await stream.key_value(name)
        except nats.js.errors.BucketNotFoundError:
            pass
        raise


async def _entries_info(stream: JetStreamContext, name: str, created: object) -> api.StreamInfo:
    """What the server says of the bucket of entries; with a time, of the one created then.

    Raises:
        LedgerError: that one is gone.
    """
    try:
        info = await stream.stream_info(f"KV_{name}")
    except nats.js.errors.NotFoundError:
        if created is None:
            raise
        info = None
    if info is None or created not in (None, _created(info)):
        raise LedgerError(
            f"the ledger {name!r} was deleted while it was in use, so nobody knows any more what "
            "was sent, and nothing is. Make sure that no order waits that was sent before, such as "
            "by `queue status`; then start again, with a new and empty ledger"
        )
    return info


def _created(info: api.StreamInfo) -> object:
    """When a stream was created.

    Releases of nats-py before 2.14 don't tell. With those it is noticed that a bucket is gone, but
    not that somebody has created another one in its place.
    """
    return getattr(info, "created", None) or "unknown"


def _check(name: str, config: api.StreamConfig) -> None:
    """A bucket that forgets would have orders sent twice."""
    bounded = any((bound or 0) > 0 for bound in (config.max_bytes, config.max_msgs))
    if config.max_age or (bounded and config.discard != api.DiscardPolicy.NEW.value):
        raise LedgerError(
            f"the bucket {name!r} forgets entries, by age or when it is full, and orders would be "
            "sent twice: give the ledger one of its own"
        )


async def _all(work: Any) -> list[Any]:
    """All of it at once, to its end; then its first error."""
    ends = await asyncio.gather(*work, return_exceptions=True)
    for end in ends:
        if isinstance(end, BaseException):
            raise end
    return ends


async def _persist(
    name: str, what: str, patience_s: float, attempt: Callable[[], Awaitable[_T]]
) -> _T:
    """Try until it is done, or patience ends."""
    return await with_retries(
        attempt,
        timeout_s=patience_s,
        fail=lambda words: LedgerError(f"the ledger {name!r} can't be {what}: {words}"),
        is_final=lambda error: _FULL in error_text(error),
    )
