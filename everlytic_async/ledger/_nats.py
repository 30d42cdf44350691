"""`NatsLedger`: a ledger in NATS JetStream, for processes on several machines.

Here it is opened and closed; what is read and written is in ``_nats_bucket``.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import attrs
from nats.aio.client import Client

from everlytic_async._cancel import run_shielded, run_to_end
from everlytic_async._nats import connect, connect_options, disconnect
from everlytic_async.errors import ConfigurationError, LedgerError
from everlytic_async.ledger._nats_bucket import Bucket, digest
from everlytic_async.ledger._protocol import Entry, LedgerSession, ResendPolicy, ScopeName

__all__ = ["NatsLedger"]

_BUCKET = re.compile(r"[A-Za-z0-9_-]{1,100}")
_SCOPE = re.compile(r"[A-Za-z0-9_-]{1,64}")
# JetStream's least age; and longer than that, a crash is found out too late to be of use.
_HEARTBEAT_S = (0.1, 86_400.0)


class NatsLedger:
    """A ledger in NATS JetStream; any number of processes on any machines may share it.

    Hand it to `EverlyticClient.stream_orders`, which opens and closes it. With ``async with``
    around it, it stays open from one stream to the next. While it is open it belongs to one event
    loop. Leaving it waits until all is recorded, for `patience_s` at most.

    Restarts of the server and elections of a leader are waited for. What can't be recorded for so
    long is a `LedgerError`, and the order is unknown to the next run.

    Args:
        servers: The address of a NATS server, several of one cluster, or a connection of yours,
            which is used and never closed; give that one ``max_reconnect_attempts=-1``.
        bucket: The name of the key-value bucket; it is made where there is none, on disk and
            without bounds: an order takes some 700 bytes. `bucket` with ``_runs`` after it is the
            second one.
        replicas: On how many servers of a cluster each entry lies, where the bucket is made: 1, 3
            or 5.
        heartbeat_s: What a process had in flight is unknown once it was not heard of for so long,
            in seconds. It holds where the bucket is made; one that is there keeps its own. Make it
            longer than the server's restarts are.
        patience_s: How long to go on trying what the server does not acknowledge, in seconds.
        user_credentials: Path of a ``.creds`` file: JWT and seed. Needs ``nats-py[nkeys]``.
        nkeys_seed: Path of a file with an NKey seed. Needs ``nats-py[nkeys]``.
        user: A user's name, where the server knows users.
        password: The user's password.
        token: A token, where the server wants one.
        tls: A context, where the server's certificate is not known to this machine or it wants to
            see a certificate of ours. With it, or with an address of ``tls://``, nothing is sent to
            a server that does not offer TLS.
        allow_plain_nats: Whether credentials and entries may go to a server on another machine
            without TLS, where anybody on the way can read them.

    Raises:
        ConfigurationError: A setting can't be.
    """

    def __init__(
        self,
        servers: str | Sequence[str] | Client,
        bucket: str = "everlytic_ledger",
        *,
        replicas: int = 1,
        heartbeat_s: float = 60.0,
        patience_s: float = 30.0,
        user_credentials: str | os.PathLike[str] | None = None,
        nkeys_seed: str | os.PathLike[str] | None = None,
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
        tls: ssl.SSLContext | None = None,
        allow_plain_nats: bool = False,
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
        self._bucket = bucket
        self._replicas = replicas
        self._heartbeat_s = heartbeat_s
        self._patience_s = patience_s
        self._allow_plain_nats = allow_plain_nats
        self._given = servers if isinstance(servers, Client) else None
        self._options = connect_options(
            servers,
            user_credentials=user_credentials,
            nkeys_seed=nkeys_seed,
            user=user,
            password=password,
            token=token,
            tls=tls,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._users = 0  # who opens it is one already, who closes it is none any more
        self._opening = asyncio.Lock()  # one at a time
        self._created: object = None  # of the bucket that was opened first: no other is its memory
        self._open: Bucket | None = None

    def __repr__(self) -> str:
        return f"<NatsLedger {self._bucket!r}>"

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._users and self._loop is not None and not self._loop.is_closed():
                raise RuntimeError(
                    "an open ledger belongs to one event loop of one process: make another "
                    "NatsLedger for this one; they may share the bucket"
                )
            self._loop, self._users, self._open = loop, 0, None
            self._opening = asyncio.Lock()
        self._users += 1
        try:
            async with self._opening:
                if self._open is None:
                    await run_shielded(self._begin())
        except BaseException:
            await self._leave()
            raise
        return self

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
            bucket = self._open
            assert bucket is not None  # noqa: S101 - it was opened
            await run_shielded(bucket.serve(host))
            names = [scope]
            if isinstance(scope, ScopeName):
                # Its entries are found where earlier versions wrote them; nobody has to move them.
                names += await run_shielded(bucket.in_use(sorted(scope.earlier())))
            yield _Session(
                self, tuple(name if _SCOPE.fullmatch(name) else digest(name) for name in names)
            )

    @property
    def in_use(self) -> Bucket:
        """The open bucket, for its sessions.

        Raises:
            LedgerError: it is not open.
        """
        if self._open is None:
            raise LedgerError(f"the ledger {self._bucket!r} is not open")
        return self._open

    async def _begin(self) -> None:
        connection = self._given or await self._connect()
        try:
            self._open = await Bucket.opened(
                connection,
                self._bucket,
                replicas=self._replicas,
                heartbeat_s=self._heartbeat_s,
                patience_s=self._patience_s,
                created=self._created,
            )
            self._created = self._open.created
        except BaseException:
            if connection is not self._given:
                await run_to_end(disconnect(connection))
            raise

    async def _connect(self) -> Client:
        return await connect(
            self._options,
            name="everlytic-async ledger",
            allow_plain=self._allow_plain_nats,
            timeout_s=self._patience_s,
            fail=lambda words: LedgerError(f"the ledger {self._bucket!r} can't be opened: {words}"),
        )

    async def _leave(self) -> None:
        """Wait until all that was asked for is recorded; the last one to leave closes it."""
        self._users -= 1
        bucket = self._open
        if bucket is None:
            return
        # However often we are cancelled meanwhile: what was sent must be on record.
        await run_to_end(self._let_go(bucket))

    async def _let_go(self, bucket: Bucket) -> None:
        await bucket.settled()
        if not self._users and self._open is bucket:
            self._open = None
            await bucket.closed()
            if bucket.connection is not self._given:
                await disconnect(bucket.connection)


@attrs.frozen(eq=False)
class _Session:
    """A ledger for one endpoint and store."""

    _ledger: NatsLedger
    _scopes: tuple[str, ...]  # its own, then those of earlier versions that hold entries

    async def look_up(self, keys: Sequence[str]) -> Mapping[str, Entry]:
        return await run_shielded(self._ledger.in_use.look_up(self._scopes, keys))

    async def claim(self, key: str, body: str, policy: ResendPolicy) -> tuple[bool, Entry | None]:
        bucket = self._ledger.in_use
        claiming = bucket.start(bucket.claim(self._scopes, key, body, policy))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            bucket.start(bucket.give_back(claiming, self._scopes[0], key, body))
            raise

    async def any_sent(self) -> bool:
        return await run_shielded(self._ledger.in_use.any_sent(self._scopes))

    def record(self, entry: Entry) -> Awaitable[None]:
        bucket = self._ledger.in_use
        # Who is cancelled while it waits has not ended the recording.
        recording = asyncio.shield(bucket.start(bucket.record(self._scopes[0], entry)))
        recording.add_done_callback(_heard)
        return recording


def _heard(future: asyncio.Future[None]) -> None:
    """Who does not wait for it finds out by the next request."""
    if not future.cancelled():
        future.exception()
