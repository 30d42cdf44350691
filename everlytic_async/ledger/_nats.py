"""`NatsLedger`: a ledger in NATS JetStream, for processes on several machines.

It is opened and closed here, and used in ``_nats_bucket``.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Unpack

import attrs
from nats.aio.client import Client

from everlytic_async._cancel import run_shielded
from everlytic_async._nats import Connector, NatsAccess
from everlytic_async.errors import ConfigurationError, LedgerError
from everlytic_async.ledger._nats_bucket import Bucket
from everlytic_async.ledger._nats_entries import digest
from everlytic_async.ledger._protocol import Entry, LedgerSession, ResendPolicy, ScopeName
from everlytic_async.ledger._shared import SharedLedger

__all__ = ["NatsAccess", "NatsLedger"]

_BUCKET = re.compile(r"[A-Za-z0-9_-]{1,100}")
_SCOPE = re.compile(r"[A-Za-z0-9_-]{1,64}")
# At least JetStream's minimum age. A longer one would show a crash too late to be of use.
_HEARTBEAT_S = (0.1, 86_400.0)


class NatsLedger(SharedLedger[Bucket]):
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

    async def _open(self) -> Bucket:
        connection = await self._connector.connect(
            name="everlytic-async ledger",
            timeout_s=self._patience_s,
            fail=lambda words: LedgerError(f"the ledger {self._name!r} can't be opened: {words}"),
        )
        try:
            bucket = await Bucket.open(
                self._connector,
                connection,
                self._name,
                replicas=self._replicas,
                heartbeat_s=self._heartbeat_s,
                patience_s=self._patience_s,
                created=self._created,
            )
        except BaseException:
            await self._connector.close(connection)
            raise
        self._created = bucket.created
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


def _consume_exception(future: asyncio.Future[None]) -> None:
    """A failure that nobody awaits shows at the next request."""
    if not future.cancelled():
        future.exception()
