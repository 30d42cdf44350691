"""Connecting to NATS: one place that connects, retries and classifies errors.

nats-py's `close` stops halfway if the connection is lost. It uses TLS only if the server asks for
it, whatever the address says, and it closes for good when a server ends a connection with an error,
such as revoked credentials: see `_Connection`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypedDict, TypeVar, Unpack

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.transport import TcpTransport, Transport

from everlytic_async._hosts import is_loopback
from everlytic_async._waiting import backoff_s, cancel_until_done, run_to_end
from everlytic_async.errors import ConfigurationError

_LOGGER = logging.getLogger("everlytic_async")
_T = TypeVar("_T")
# What a server says to a client that it does not let in, or not any more.
_REFUSALS = (
    "authorization violation",
    "authentication expired",
    "authentication revoked",
)
# The one error of a server that does not end the connection.
_PERMISSIONS = "permissions violation"
# What a server answers while it starts or elects a leader: worth asking again.
_TEMPORARY = (
    TimeoutError,
    ConnectionError,
    nats.errors.ConnectionReconnectingError,
    nats.errors.NoRespondersError,
    nats.errors.OutboundBufferLimitError,
    nats.errors.StaleConnectionError,
    nats.js.errors.NoStreamResponseError,
    nats.js.errors.ServerError,
    nats.js.errors.ServiceUnavailableError,
)
#: All that a request to NATS may raise.
NATS_ERRORS = (TimeoutError, ConnectionError, nats.errors.Error)
# Backoff between two tries of one request, in seconds; with jitter.
_RETRY_BASE_S = 0.05
_RETRY_CAP_S = 2.0
# Between two tries to connect, in seconds.
_RECONNECT_S = 0.25
# Pings find a connection that was lost silently; seconds between them.
_PING_S = 10
# How long a cancelled connect may go on, in seconds: cut off halfway, nats-py leaks its socket.
_FINISH_S = 1.0
# Closing may take this long to write what is left, in seconds.
_FLUSH_S = 2

#: Makes the error to raise from what happened, in words.
Fail = Callable[[str], Exception]


class UnusableError(nats.errors.Error):
    """This server, or these credentials, can't be used; nothing was sent."""


class _RefusedError(Exception):
    """A server refused us at the first connect: the cause says why."""


class _Tcp(TcpTransport):
    """Drops what is written once the connection was lost.

    `asyncio.StreamWriter.write` does. Its `writelines` raises a TypeError or AttributeError then,
    or registers the socket's number for writing, which another socket may have by now: on Python
    3.12, and on 3.13 before 3.13.6.
    """

    def writelines(self, payload: Iterable[bytes]) -> None:
        self.write(b"".join(payload))  # type: ignore[no-untyped-call]


class NatsAccess(TypedDict, total=False):
    """How a NATS server lets us in: keyword arguments of whatever connects to one.

    Attributes:
        user_credentials: Path of a ``.creds`` file: JWT and seed. Needs ``nats-py[nkeys]``.
        nkeys_seed: Path of a file with an NKey seed. Needs ``nats-py[nkeys]``.
        user: A user's name, if the server has users.
        password: The user's password.
        token: A token, if the server requires one.
        tls: A context, if this machine does not trust the server's certificate or the server
            requires a client certificate. With it, or with an address of ``tls://``, nothing is
            sent to a server that does not offer TLS.
        allow_plain_nats: Whether credentials and orders may go to a server on another machine
            without TLS, where anybody on the way can read them.
    """

    user_credentials: str | os.PathLike[str] | None
    nkeys_seed: str | os.PathLike[str] | None
    user: str | None
    password: str | None
    token: str | None
    tls: ssl.SSLContext | None
    allow_plain_nats: bool


class _Connection(Client):
    """A connection that never falls back to plain text, and survives refusals and odd messages.

    At every connect and reconnect it checks that the server offers TLS before it sends anything,
    credentials included. When the server ends it with an error, it reconnects and reads its
    credentials files again. It closes for good after being refused for `timeout_s` without a break.
    """

    def __init__(self, *, wants_tls: bool, allow_plain: bool, timeout_s: float) -> None:
        super().__init__()
        self.refusal: Exception | None = None  # why it was closed for good
        self.last_words = ""  # of the last error, since it was connected
        self._wants_tls = wants_tls
        self._allow_plain = allow_plain
        self._timeout_s = timeout_s
        self._was_connected = False
        self._refused_at: float | None = None

    async def on_error(self, error: Exception) -> None:
        """Called by nats-py with each error, such as that of each try to connect."""
        words, before = error_text(error), self.last_words
        self.last_words = words
        _LOGGER.log(logging.DEBUG if words == before else logging.WARNING, "NATS: %s", words)

    async def on_lost(self) -> None:
        """Called when the connection is lost, or closed."""
        if not self.is_closed:
            _LOGGER.warning(
                "NATS: the connection was lost; trying to get it back. The server also disconnects "
                "clients that read too slowly, such as a blocked process: its log then says Slow "
                "Consumer"
            )

    async def on_back(self) -> None:
        """Called when it is back."""
        self.last_words = ""
        _LOGGER.warning("NATS: the connection is back")

    @property
    def _transport(self) -> Transport | None:
        return self._wire

    @_transport.setter
    def _transport(self, transport: Transport | None) -> None:
        # nats-py offers no other way to choose the transport.
        self._wire = _Tcp() if type(transport) is TcpTransport else transport  # type: ignore[no-untyped-call]

    async def _process_connect_init(self) -> None:
        try:
            await super()._process_connect_init()
        except Exception as error:
            if not self._was_connected:
                if is_refusal(error):  # nats-py would try again for ever
                    raise _RefusedError from error
                raise
            # A reconnect: nats-py would leave this socket open, and on an unexpected error stop
            # trying silently.
            if self._transport is not None:
                self._transport.close()  # type: ignore[no-untyped-call]
            if not isinstance(error, OSError | TimeoutError | nats.errors.Error):
                error = UnusableError(f"nats: an unexpected {type(error).__name__}")
            if not is_refusal(error):
                raise error from None
            now = time.monotonic()
            self._refused_at = now if self._refused_at is None else self._refused_at
            if now - self._refused_at >= self._timeout_s:
                self.refusal = error
                # This makes the client close; first drop what it would still write to the socket.
                self._pending, self._pending_data_size = [], 0
                raise nats.errors.NoServersError from error
            raise error from None
        self._was_connected, self._refused_at = True, None

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection:
            self._check_tls(info)
            self._check_credentials()
        await super()._process_info(info, initial_connection)

    def _check_tls(self, info: dict[str, Any]) -> None:
        """Make the client use TLS where it must: it does if the server's INFO requires TLS."""
        assert self._current_server is not None  # noqa: S101 - it sent this
        scheme, host = self._current_server.uri.scheme, self._current_server.uri.hostname or ""
        may_be_plain = not self._wants_tls and (self._allow_plain or is_loopback(host))
        if scheme == "wss" or may_be_plain:
            return
        if scheme == "ws" or not (info.get("tls_required") or info.get("tls_available")):
            why = (
                "TLS was asked for, by the address or a certificate"
                if self._wants_tls
                else "anybody on the way could read the credentials and the orders. Set up TLS on "
                "the server, or allow it: --allow-plain-nats, in Python allow_plain_nats=True"
            )
            raise UnusableError(
                f"nats: the server does not offer TLS, so nothing was sent to it: {why}"
            )
        info["tls_required"] = True

    def _check_credentials(self) -> None:
        """Check the file that is about to be read: nats-py loops for ever on a broken one.

        It may have been replaced since the last connect.
        """
        try:
            if self._user_credentials is not None:
                with open(str(self._user_credentials), "rb") as file:  # noqa: PTH123 - as nats-py
                    content = file.read()
                if not (b"BEGIN NATS USER JWT" in content and b"BEGIN USER NKEY SEED" in content):
                    raise UnusableError("nats: the credentials file does not hold a JWT and a seed")
            elif self._nkeys_seed is not None:
                self._setup_nkeys_seed_connect()  # or it would present the last file's key
        except OSError as error:
            raise UnusableError(
                f"nats: the credentials file can't be read: {error.strerror}"
            ) from error

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        """Read a message's headers; at malformed ones nats-py would stop reading for good."""
        try:
            return await super()._process_headers(headers)
        except Exception:  # noqa: BLE001 - whatever another program published
            return None

    async def _process_err(self, err_msg: str) -> None:
        """Reconnect: nats-py would close for good."""
        if _PERMISSIONS in err_msg.lower():  # that one leaves the connection open
            await super()._process_err(err_msg)
            return
        error = nats.errors.Error(f"nats: {err_msg.strip()}")
        await self._error_cb(error)
        await self._process_op_err(error)


def is_refusal(error: BaseException) -> bool:
    """Whether the server refused us, or we it: trying again at once would not help."""
    words = str(error).lower()
    return isinstance(error, UnusableError) or any(each in words for each in _REFUSALS)


class Connector:
    """Makes connections to the same servers; or lends the caller's own, which it never closes."""

    def __init__(self, servers: str | Sequence[str] | Client, **access: Unpack[NatsAccess]) -> None:
        unknown = access.keys() - NatsAccess.__annotations__.keys()
        if unknown:
            raise TypeError(f"unexpected keyword arguments: {', '.join(sorted(unknown))}")
        self._user_connection = servers if isinstance(servers, Client) else None
        self._allow_plain = access.pop("allow_plain_nats", False)
        self._options: dict[str, Any] = {**access}
        for name in ("user_credentials", "nkeys_seed"):
            if self._options.get(name) is not None:
                self._options[name] = os.fspath(self._options[name])
        if not isinstance(servers, Client):
            self._options["servers"] = [servers] if isinstance(servers, str) else list(servers)

    async def connect(
        self,
        *,
        name: str,
        timeout_s: float,
        fail: Fail,
    ) -> Client:
        """Connect, and keep connected: the client reconnects for as long as it takes, and logs it.

        It tries for `timeout_s`; a refusal ends it at once. Later, a server that refuses us for as
        long ends the connection.

        Raises:
            ConfigurationError: NKeys need another package.
            Exception: what `fail` makes, if no server can be reached, or it refuses us.
        """
        if self._user_connection is not None:
            return self._user_connection
        schemes = {server.partition("://")[0].lower() for server in self._options["servers"]}
        connection = _Connection(
            wants_tls=self._options.get("tls") is not None or bool(schemes & {"tls", "wss"}),
            allow_plain=self._allow_plain,
            timeout_s=timeout_s,
        )

        connecting = asyncio.create_task(
            connection.connect(
                **self._options,
                name=name,
                allow_reconnect=True,
                max_reconnect_attempts=-1,
                reconnect_time_wait=_RECONNECT_S,  # type: ignore[arg-type]
                ping_interval=_PING_S,
                error_cb=connection.on_error,
                disconnected_cb=connection.on_lost,
                reconnected_cb=connection.on_back,
            )
        )
        try:
            await asyncio.wait({connecting}, timeout=timeout_s)
        except asyncio.CancelledError:
            await run_to_end(_abort(connecting, connection))
            raise
        await cancel_until_done(connecting)
        error = None if connecting.cancelled() else connecting.exception()
        if error is None and not connecting.cancelled():
            return connection
        await disconnect(connection)
        if isinstance(error, ImportError):
            raise ConfigurationError("NKeys need more: pip install 'nats-py[nkeys]'") from error
        if isinstance(error, _RefusedError):
            error = error.__cause__
        if error is None or isinstance(error, OSError | ValueError | nats.errors.Error):
            words = error_text(error) if error else connection.last_words or error_text(None)
            if schemes & {"ws", "wss"}:
                words += ". Does it speak WebSocket there? Most servers are at nats:// or tls://"
            raise fail(f"no NATS server could be reached: {words}") from error
        raise error

    async def close(self, connection: Client) -> None:
        """Close it, unless it is the caller's; however often we are cancelled meanwhile."""
        if connection is not self._user_connection:
            await run_to_end(_flush_and_disconnect(connection))


def closed_reason(connection: Client) -> str | None:
    """Why a connection was closed for good, in words; None if it was not."""
    if not connection.is_closed:
        return None
    return error_text(getattr(connection, "refusal", None) or connection.last_error)


async def _abort(connecting: asyncio.Future[None], connection: Client) -> None:
    await asyncio.wait({connecting}, timeout=_FINISH_S)
    await cancel_until_done(connecting)
    await disconnect(connection)


async def _flush_and_disconnect(connection: Client) -> None:
    if connection.is_connected:
        # Mostly acknowledgements; if this fails they are repeated later. The first ping overtakes
        # what the client has not written yet.
        with contextlib.suppress(TimeoutError, OSError, nats.errors.Error):
            await connection.flush(timeout=_FLUSH_S)
            await connection.flush(timeout=_FLUSH_S)
    await disconnect(connection)


async def disconnect(connection: Client) -> None:
    """Close a connection, in whatever state it is, with all tasks of the client."""
    try:
        await connection.close()
    except AssertionError:
        pass  # it never started to connect
    except OSError:
        # It was lost with something left to write: the client stops there, with tasks running.
        for subscription in connection._subs.values():  # noqa: SLF001 - there is no other way
            await _end_task(subscription, "_wait_for_msgs_task")
    await _end_task(connection, "_reconnection_task")  # it may swallow the client's cancellation


async def _end_task(owner: object, name: str) -> None:
    task = getattr(owner, name, None)
    if isinstance(task, asyncio.Task):
        await cancel_until_done(task)


async def with_retries(
    request: Callable[[], Awaitable[_T]],
    *,
    timeout_s: float,
    fail: Fail,
    is_final: Callable[[BaseException], bool] = lambda _error: False,
) -> _T:
    """Make a request that is safe to repeat, and repeat it with backoff as long as that may help.

    Raises:
        Exception: what `fail` makes, if the server refused, or did not answer within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    tries = 0
    while True:
        try:
            return await request()
        except _TEMPORARY as error:
            tries += 1
            pause_s = backoff_s(tries, _RETRY_BASE_S, _RETRY_CAP_S)
            if is_final(error):
                raise fail(error_text(error)) from error
            if time.monotonic() + pause_s >= deadline:
                since = f"(for {timeout_s:g} seconds no acknowledgement)"
                raise fail(f"{error_text(error)} {since}") from error
        except nats.errors.Error as error:
            raise fail(error_text(error)) from error
        await asyncio.sleep(pause_s)


async def none_if_missing(request: Awaitable[_T]) -> _T | None:
    """The answer about something in JetStream; None if there is no such thing."""
    try:
        return await request
    except nats.js.errors.NotFoundError:
        return None


async def find_or_create(
    find: Callable[[], Awaitable[_T]], create: Callable[[], Awaitable[object]]
) -> _T | None:
    """What is in JetStream already; None if it had to be created."""
    found = await none_if_missing(find())
    if found is not None:
        return found
    try:
        await create()
    except nats.js.errors.BadRequestError:
        # Another process was first, perhaps with other settings.
        found = await none_if_missing(find())
        if found is None:
            raise
    return found


def error_text(error: BaseException | None) -> str:
    """An error in words without any address, which may hold a password."""
    if error is None:
        return "no answer"
    if isinstance(error, nats.js.errors.APIError) and error.description:
        return error.description
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, nats.errors.SlowConsumerError):
        # Its own text holds an object's address, and a subject that differs each time.
        return "messages came faster than they were taken, and some were dropped (slow consumer)"
    is_safe = isinstance(error, nats.errors.Error) and "//" not in str(error) and str(error) != ""
    return str(error).removeprefix("nats: ") if is_safe else type(error).__name__
