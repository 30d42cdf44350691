"""The bucket of runs: which processes use a ledger in NATS at this moment.

A run is a ledger for as long as it is open. It renews a key of ``<bucket>_runs``, its heartbeat,
which the server drops after a time without renewal. What is in flight in a run without a key is
unknown; that is derived on reading, and nobody has to write it down.

If the bucket is deleted, any run creates it again, with a mark in it. The mark lives as long as a
heartbeat; until then all runs count as alive, so that they can renew theirs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets

import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext

from everlytic_async._nats import NATS_ERRORS
from everlytic_async.errors import LedgerError
from everlytic_async.ledger._nats_kv import bucket, create_if_missing

__all__ = ["Runs"]

_LOGGER = logging.getLogger("everlytic_async.ledger")
# How often a heartbeat is renewed in its time to live; after this part of it nothing is claimed.
_HEARTBEATS_PER_TTL = 3
_CLAIM_FRESHNESS = 2 / 3
# After a reconnect the heartbeats of other runs may have expired during the outage. All runs count
# as alive for this part of a time to live, so that they can renew them.
_RECONNECT_GRACE = 1 / 2
# The key of the mark of a bucket that was created again; no run has such a token.
_CREATED_AGAIN = "created-again"


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
        replicas: int,
        ttl_s: float,
    ) -> None:
        self.token = secrets.token_hex(8)
        self._connection = connection
        self._stream = stream
        self._name = name
        self._replicas = replicas
        self._ttl_s = ttl_s
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
        is_new_ledger: bool,
    ) -> Runs:
        """Bind to the bucket of a ledger's runs, or create it with these settings.

        Raises:
            LedgerError: heartbeats never expire in it.
        """
        name = f"{ledger}_runs"
        runs = cls(connection, stream, name, replicas=replicas, ttl_s=ttl_s)
        if is_new_ledger:
            await create_if_missing(stream, name, replicas, ttl_s)
        else:
            await runs._create_again_if_missing()
        status = await runs._runs.status()
        if not status.ttl:
            raise LedgerError(
                f"the bucket {name!r} keeps everything for ever, so that crashed processes are "
                "never noticed: delete it, and it is created again"
            )
        runs._ttl_s = status.ttl
        return runs

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
        try:
            await self._runs.get(key)
        except nats.js.errors.KeyNotFoundError:  # also if there is no bucket
            return False
        return True

    async def _create_again_if_missing(self) -> None:
        if await create_if_missing(self._stream, self._name, self._replicas, self._ttl_s):
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
