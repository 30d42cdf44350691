"""`NatsLedger`: a ledger in NATS JetStream, for processes on several machines.

It is opened and closed here, and used in ``_nats_bucket``.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self, Unpack

import attrs
from nats.aio.client import Client

from everlytic_async._cancel import run_shielded, run_to_end
from everlytic_async._nats import Connector, NatsAccess
from everlytic_async.errors import ConfigurationError, LedgerError
from everlytic_async.ledger._nats_bucket import Bucket
from everlytic_async.ledger._nats_entries import digest
from everlytic_async.ledger._protocol import (
    Entry,
    LedgerSession,
    ResendPolicy,
    ScopeName,
    in_use_error,
)

__all__ = ["NatsAccess", "NatsLedger"]

_BUCKET = re.compile(r"[A-Za-z0-9_-]{1,100}")
_SCOPE = re.compile(r"[A-Za-z0-9_-]{1,64}")
# At least JetStream's minimum age. A longer one would show a crash too late to be of use.
_HEARTBEAT_S = (0.1, 86_400.0)


class NatsLedger:
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
        self._name = bucket
        self._replicas = replicas
        self._heartbeat_s = heartbeat_s
        self._patience_s = patience_s
        self._connector = Connector(servers, **access)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid: int | None = None
        self._binding = threading.Lock()
        self._open_count = 0
        self._opening = asyncio.Lock()  # one at a time
        self._created: object = None  # when the bucket was: no other one is the same memory
        self._bucket: Bucket | None = None

    def __repr__(self) -> str:
        return f"<NatsLedger {self._name!r}>"

    async def __aenter__(self) -> Self:
        with self._binding:  # two threads may enter it at once
            self._bind(asyncio.get_running_loop())
            self._open_count += 1
        try:
            async with self._opening:
                if self._bucket is None:
                    await run_shielded(self._open_bucket())
        except BaseException:
            await self._leave()
            raise
        return self

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Belong to this event loop.

        Raises:
            ConfigurationError: another one uses it, or the process that this one was forked from.
        """
        pid = os.getpid()
        if self._loop is loop and self._pid == pid:
            return
        is_used = self._pid != pid or (self._loop is not None and not self._loop.is_closed())
        if self._open_count and is_used:
            raise in_use_error("NatsLedger", "bucket")
        self._loop, self._pid, self._open_count, self._bucket = loop, pid, 0, None
        self._opening = asyncio.Lock()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._leave()

    @asynccontextmanager
    async def session(self, scope: str, host: str) -> AsyncIterator[LedgerSession]:
        """Use it for one endpoint and store; see `everlytic_async.Ledger.session`."""
        async with self:
            bucket = self._bucket
            assert bucket is not None  # noqa: S101 - it was opened
            await run_shielded(bucket.register_host(host))
            names = [scope]
            if isinstance(scope, ScopeName):
                # Entries of earlier versions are found where they are; nothing moves them.
                names += await run_shielded(bucket.used_scopes(sorted(scope.earlier())))
            yield _Session(
                self, tuple(name if _SCOPE.fullmatch(name) else digest(name) for name in names)
            )

    @property
    def bucket(self) -> Bucket:
        """The open bucket, for its sessions.

        Raises:
            LedgerError: it is not open.
        """
        if self._bucket is None:
            raise LedgerError(f"the ledger {self._name!r} is not open")
        return self._bucket

    async def _open_bucket(self) -> None:
        connection = await self._connector.connect(
            name="everlytic-async ledger",
            timeout_s=self._patience_s,
            fail=lambda words: LedgerError(f"the ledger {self._name!r} can't be opened: {words}"),
        )
        try:
            self._bucket = await Bucket.open(
                connection,
                self._name,
                replicas=self._replicas,
                heartbeat_s=self._heartbeat_s,
                patience_s=self._patience_s,
                created=self._created,
            )
            self._created = self._bucket.created
        except BaseException:
            await self._connector.close(connection)
            raise

    async def _leave(self) -> None:
        """Wait until everything is recorded; the last one to leave closes it."""
        self._open_count -= 1
        bucket = self._bucket
        if bucket is None:
            return
        # However often we are cancelled meanwhile: what was sent must be recorded.
        await run_to_end(self._release(bucket))

    async def _release(self, bucket: Bucket) -> None:
        await bucket.wait_pending()
        if not self._open_count and self._bucket is bucket:
            self._bucket = None
            await bucket.close()
            await self._connector.close(bucket.connection)


@attrs.frozen(eq=False)
class _Session:
    """A ledger for one endpoint and store."""

    _ledger: NatsLedger
    _scopes: tuple[str, ...]  # its own, then those of earlier versions that hold entries

    async def look_up(self, keys: Sequence[str]) -> Mapping[str, Entry]:
        return await run_shielded(self._ledger.bucket.look_up(self._scopes, keys))

    async def claim(
        self, key: str, body_digest: str, policy: ResendPolicy
    ) -> tuple[bool, Entry | None]:
        bucket = self._ledger.bucket
        claiming = bucket.start(bucket.claim(self._scopes, key, body_digest, policy))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            bucket.start(bucket.release_claim(claiming, self._scopes[0], key, body_digest))
            raise

    async def any_sent(self) -> bool:
        return await run_shielded(self._ledger.bucket.any_sent(self._scopes))

    def record(self, entry: Entry) -> Awaitable[None]:
        bucket = self._ledger.bucket
        # A cancelled waiter does not end the recording.
        recording = asyncio.shield(bucket.start(bucket.record(self._scopes[0], entry)))
        recording.add_done_callback(_consume_exception)
        return recording


def _consume_exception(future: asyncio.Future[None]) -> None:
    """A failure that nobody awaits shows at the next request."""
    if not future.cancelled():
        future.exception()
