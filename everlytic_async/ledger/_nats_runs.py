"""The bucket of runs: which processes use a ledger in NATS at this moment.

A run is a ledger for as long as it is open. It renews a key of ``<bucket>_runs``, its heartbeat,
which the server drops after a time without renewal. What is in flight in a run without a key is
unknown; that is derived on reading, and nobody has to write it down.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets

import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext

from everlytic_async._nats import NATS_ERRORS
from everlytic_async.errors import LedgerError
from everlytic_async.ledger._nats_kv import bind_or_create, bucket, check_exists, created_at

__all__ = ["Runs"]

# How often a heartbeat is renewed in its time to live; after this part of it nothing is claimed.
_HEARTBEATS_PER_TTL = 3
_CLAIM_FRESHNESS = 2 / 3
# After a reconnect the heartbeats of other runs may have expired during the outage. All runs count
# as alive for this part of a time to live, so that they can renew them.
_RECONNECT_GRACE = 1 / 2
_DELETED = (
    "other processes may take this one for crashed, and nothing more is sent: start again, and it "
    "is created again"
)


class Runs:
    """The bucket of runs, and the heartbeat of this run; made by `Runs.open`.

    Attributes:
        token: The name of this run.
    """

    def __init__(
        self,
        connection: Client,
        stream: JetStreamContext,
        name: str,
        *,
        ttl_s: float,
        created: object,
    ) -> None:
        self.token = secrets.token_hex(8)
        self._connection = connection
        self._stream = stream
        self._name = name
        self._ttl_s = ttl_s
        self._created = created
        self._runs = bucket(stream, name, direct=False)
        # By the loop's clock: when the last acknowledged heartbeat was sent, and until when all
        # runs count as alive.
        self._sent_at = self._grace_until = float("-inf")
        self._reconnects = connection.stats["reconnects"]

    @classmethod
    async def open(
        cls,
        connection: Client,
        stream: JetStreamContext,
        ledger: str,
        *,
        replicas: int,
        ttl_s: float,
    ) -> Runs:
        """Bind to the bucket of a ledger's runs, or create it with these settings.

        Raises:
            LedgerError: heartbeats never expire in it.
        """
        name = f"{ledger}_runs"
        status = await (await bind_or_create(stream, name, replicas, ttl_s)).status()
        if not status.ttl:
            raise LedgerError(
                f"the bucket {name!r} keeps everything for ever, so that crashed processes are "
                "never noticed: delete it, and it is created again"
            )
        created = created_at(status.stream_info)
        return cls(connection, stream, name, ttl_s=status.ttl, created=created)

    @property
    def heartbeat_s(self) -> float:
        """How often to send a heartbeat, in seconds."""
        return self._ttl_s / _HEARTBEATS_PER_TTL

    @property
    def is_fresh(self) -> bool:
        """Whether every other run will see this one as alive for long enough to claim an order."""
        return self._now() - self._sent_at <= _CLAIM_FRESHNESS * self._ttl_s

    async def send_heartbeat(self) -> None:
        """Renew the heartbeat.

        Raises:
            LedgerError: the bucket was deleted.
        """
        now = self._now()
        try:
            await self._runs.put(self.token, b"{}")
        except nats.js.errors.NoStreamResponseError:
            await self.check()
            raise
        self._sent_at = max(self._sent_at, now)

    async def check(self) -> None:
        """Check that the bucket still exists.

        Raises:
            LedgerError: it was deleted.
        """
        await check_exists(self._stream, self._name, self._created, _DELETED)

    async def is_alive(self, token: str) -> bool:
        """Whether a run still exists, as far as is known."""
        if token == self.token:
            return True
        if self._connection.stats["reconnects"] != self._reconnects:
            self._reconnects = self._connection.stats["reconnects"]
            self._grace_until = self._now() + _RECONNECT_GRACE * self._ttl_s
        if self._now() < self._grace_until:
            return True
        try:
            await self._runs.get(token)
        except nats.js.errors.KeyNotFoundError:
            await self.check()
            return False
        return True

    async def end(self) -> None:
        """End this run: what it has in flight is unknown from now on."""
        if self._connection.is_connected:
            # Otherwise its heartbeat expires.
            with contextlib.suppress(*NATS_ERRORS):
                await self._runs.delete(self.token)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
