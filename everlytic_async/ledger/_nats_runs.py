"""The bucket of runs: which processes use a ledger in NATS at this moment.

A run is a ledger for as long as it is open. It renews a key of ``<bucket>_runs``, its heartbeat,
which the server drops after a time without renewal. What is in flight in a run without a key is
unknown; that is derived on reading, and nobody has to write it down.

This bucket may be deleted: it is created again, and all runs count as alive until they had time to
renew their heartbeats in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets

import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext, api
from nats.js.kv import KeyValue

from everlytic_async._nats import NATS_ERRORS
from everlytic_async.errors import LedgerError

__all__ = ["Runs", "bind_or_create", "bucket", "created_at"]

_LOGGER = logging.getLogger("everlytic_async.ledger")
# How often a heartbeat is renewed in its time to live; after this part of it nothing is claimed.
_HEARTBEATS_PER_TTL = 3
_CLAIM_FRESHNESS = 2 / 3
# After a reconnect the heartbeats of other runs may have expired during the outage. All runs count
# as alive for this part of a time to live, so that they can renew them.
_RECONNECT_GRACE = 1 / 2


class Runs:
    """The bucket of runs, and the heartbeat of this run; made by `Runs.open`.

    Attributes:
        token: The name of this run.
        last_heartbeat_at: When the last acknowledged heartbeat was sent, by the loop's clock.
    """

    def __init__(
        self,
        connection: Client,
        stream: JetStreamContext,
        *,
        name: str,
        replicas: int,
        ttl_s: float,
        created: object,
    ) -> None:
        self.token = secrets.token_hex(8)
        self._connection = connection
        self._stream = stream
        self._name = name
        self._replicas = replicas
        self._ttl_s = ttl_s
        self._created = created
        self._runs = bucket(stream, name, direct=False)
        self._hosts: set[str] = set()
        self.last_heartbeat_at = float("-inf")
        self._grace_until = float("-inf")  # until then all runs count as alive
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
        """Bind to the bucket of a ledger's runs, or create it.

        Args:
            connection: To NATS.
            stream: The same.
            ledger: The bucket of entries.
            replicas: For a bucket that is created.
            ttl_s: The same: how long a heartbeat lives, in seconds.

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
        return cls(
            connection,
            stream,
            name=name,
            replicas=replicas,
            ttl_s=status.ttl,
            created=created_at(status.stream_info),
        )

    @property
    def heartbeat_s(self) -> float:
        """How often to send a heartbeat, in seconds."""
        return self._ttl_s / _HEARTBEATS_PER_TTL

    @property
    def is_fresh(self) -> bool:
        """Whether every other run will see this one as alive for long enough to claim an order."""
        age_s = asyncio.get_running_loop().time() - self.last_heartbeat_at
        return age_s <= _CLAIM_FRESHNESS * self._ttl_s

    def add_host(self, host: str) -> bool:
        """Name an endpoint in the heartbeat, for people; whether it is a new one."""
        is_new = host not in self._hosts
        self._hosts.add(host)
        return is_new

    async def send_heartbeat(self) -> None:
        """Renew the heartbeat; create the bucket if it was deleted."""
        now = asyncio.get_running_loop().time()
        value = json.dumps({"hosts": sorted(self._hosts)}).encode()
        try:
            await self._runs.put(self.token, value)
        except nats.js.errors.NoStreamResponseError:
            await self._check_bucket()
            await self._runs.put(self.token, value)
        self.last_heartbeat_at = max(self.last_heartbeat_at, now)

    async def is_alive(self, token: str) -> bool:
        """Whether a run still exists, as far as is known."""
        if token == self.token:
            return True
        if self._connection.stats["reconnects"] != self._reconnects:
            self._reconnects = self._connection.stats["reconnects"]
            self._start_grace()
        if self._in_grace:
            return True
        try:
            await self._runs.get(token)
        except nats.js.errors.KeyNotFoundError:
            await self._check_bucket()
            return self._in_grace
        return True

    async def end(self) -> None:
        """End this run: what it has in flight is unknown from now on."""
        if self._connection.is_connected:
            # Otherwise its heartbeat expires.
            with contextlib.suppress(*NATS_ERRORS):
                await self._runs.delete(self.token)

    @property
    def _in_grace(self) -> bool:
        return asyncio.get_running_loop().time() < self._grace_until

    def _start_grace(self) -> None:
        now = asyncio.get_running_loop().time()
        self._grace_until = now + _RECONNECT_GRACE * self._ttl_s

    async def _check_bucket(self) -> None:
        """Create the bucket if it was deleted, whichever run notices first."""
        runs = await bind_or_create(self._stream, self._name, self._replicas, self._ttl_s)
        created = created_at((await runs.status()).stream_info)
        if created != self._created:
            _LOGGER.warning("the bucket %r was deleted, and created again", self._name)
            self._created = created
            self._start_grace()


def bucket(stream: JetStreamContext, name: str, *, direct: bool) -> KeyValue:
    """A bucket that exists, for reads from any replica, or from the leader."""
    return KeyValue(name=name, stream=f"KV_{name}", pre=f"$KV.{name}.", js=stream, direct=direct)


async def bind_or_create(
    stream: JetStreamContext, name: str, replicas: int, ttl_s: float | None
) -> KeyValue:
    """A bucket, which is created if there is none."""
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
        ttl=ttl_s,
        direct=True,
    )
    try:
        return await stream.create_key_value(config)
    except nats.js.errors.BadRequestError:
        # Another process has created it meanwhile, perhaps with other settings.
        with contextlib.suppress(nats.js.errors.BucketNotFoundError):
            return await stream.key_value(name)
        raise


def created_at(info: api.StreamInfo) -> object:
    """When a stream was created.

    Releases of nats-py before 2.14 don't say. With those we notice that a bucket is gone, but not
    that another one was created in its place.
    """
    return getattr(info, "created", None) or "unknown"
