"""How the NATS client is called: so that its calls end when cancelled, and leave nothing behind.

nats-py waits by `asyncio.wait_for`, which before Python 3.12 swallows a cancellation that comes in
the same moment as the answer; and its closing stops in the middle where the connection is lost.
It speaks TLS only with a server that asks for it, whatever the address says, and it closes for good
when a server ends a connection with an error, such as revoked credentials: see `Connection`.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Awaitable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.transport import TcpTransport, Transport

from everlytic_async._hosts import is_loopback

_T = TypeVar("_T")
# A task that was cancelled and goes on is cancelled again after this, in seconds.
_CANCEL_S = 0.1
# What a server says to whoever it does not let in, or not any more.
_REFUSALS = (
    "authorization violation",
    "authentication expired",
    "authentication revoked",
)
# The one error of a server that does not end the connection.
_PERMISSIONS = "permissions violation"


class UnusableError(nats.errors.Error):
    """This server, or these credentials, can't be used; nothing was sent."""


class _Tcp(TcpTransport):
    """Drops what is written once the connection was lost.

    `asyncio.StreamWriter.write` does. Its `writelines` raises a TypeError or AttributeError then,
    or registers the socket's number for writing, which another socket may have by now: on Python
    3.12, and on 3.13 before 3.13.6.
    """

    def writelines(self, payload: Iterable[bytes]) -> None:
        self.write(b"".join(payload))  # type: ignore[no-untyped-call]


class Connection(Client):
    """A connection that never sends in clear what must not be, and that outlives a refusal.

    Before it sends anything, credentials included, it checks whether the server offers TLS, at
    every connect and reconnect. When the server ends it with an error, it reconnects and reads the
    files of its credentials again.

    Args:
        options: The arguments of `Client.connect`: they tell whether TLS was asked for.
        allow_plain: Whether a server that is not on this machine may be spoken to without TLS.
        patience_s: It closes for good once it was refused for so long without a break, in seconds.
    """

    def __init__(self, options: dict[str, Any], *, allow_plain: bool, patience_s: float) -> None:
        super().__init__()
        schemes = {server.partition("://")[0].lower() for server in options.get("servers", ())}
        self._wants_tls = options.get("tls") is not None or not schemes.isdisjoint(("tls", "wss"))
        self._allow_plain = allow_plain
        self._patience_s = patience_s
        self._was_connected = False
        self._refused_at: float | None = None

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
                raise
            # A reconnect: nats-py would leave this socket open, and on an error that it does not
            # expect stop trying without a word.
            if self._transport is not None:
                self._transport.close()  # type: ignore[no-untyped-call]
            if not isinstance(error, OSError | TimeoutError | nats.errors.Error):
                error = UnusableError(f"nats: an unexpected {type(error).__name__}")
            if not is_refusal(error):
                raise error from None
            now = time.monotonic()
            self._refused_at = now if self._refused_at is None else self._refused_at
            if now - self._refused_at >= self._patience_s:
                raise nats.errors.NoServersError from error  # the client closes by that
            raise error from None
        self._was_connected, self._refused_at = True, None

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection:
            self._check_tls(info)
            self._check_credentials()
        await super()._process_info(info, initial_connection)

    def _check_tls(self, info: dict[str, Any]) -> None:
        """Have the client speak TLS where it must: it does so with who requires it in its INFO."""
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
        """Check the file that is about to be read: of a broken one nats-py seeks the end for ever.

        It may be another one than at the last connect.
        """
        try:
            if self._user_credentials is not None:
                with open(str(self._user_credentials), "rb") as file:  # noqa: PTH123 - as nats-py
                    held = file.read()
                if not (b"BEGIN NATS USER JWT" in held and b"BEGIN USER NKEY SEED" in held):
                    raise UnusableError("nats: the credentials file does not hold a JWT and a seed")
            elif self._nkeys_seed is not None:
                self._setup_nkeys_seed_connect()  # or it would present the last file's key
        except OSError as error:
            raise UnusableError(
                f"nats: the credentials file can't be read: {error.strerror}"
            ) from error

    async def _process_err(self, err_msg: str) -> None:
        """Reconnect: nats-py would close for good."""
        if _PERMISSIONS in err_msg.lower():  # that one leaves the connection open
            await super()._process_err(err_msg)
            return
        error = nats.errors.Error(f"nats: {err_msg.strip()}")
        await self._error_cb(error)
        await self._process_op_err(error)


def is_refusal(error: BaseException) -> bool:
    """Whether a server refuses us, or we it: to try it again at once would help nobody."""
    words = str(error).lower()
    return isinstance(error, UnusableError) or any(each in words for each in _REFUSALS)


def options_of(
    servers: str | Sequence[str] | Client,
    *,
    user_credentials: str | os.PathLike[str] | None,
    nkeys_seed: str | os.PathLike[str] | None,
    user: str | None,
    password: str | None,
    token: str | None,
    tls: ssl.SSLContext | None,
) -> dict[str, Any]:
    """What `Client.connect` is told of where the servers are, and who we are."""
    options: dict[str, Any] = {
        "user_credentials": None if user_credentials is None else os.fspath(user_credentials),
        "nkeys_seed": None if nkeys_seed is None else os.fspath(nkeys_seed),
        "user": user,
        "password": password,
        "token": token,
        "tls": tls,
    }
    if not isinstance(servers, Client):
        options["servers"] = [servers] if isinstance(servers, str) else list(servers)
    return options


async def apart(work: Awaitable[_T]) -> _T:
    """Do it in a task of its own, so that a cancellation reaches whoever asked for it."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    finally:
        if not task.done():
            await to_end(ended(task))


async def ended(task: asyncio.Future[Any]) -> None:
    """Cancel a task until it has ended: the client may swallow the first time."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_CANCEL_S)


async def to_end(work: Coroutine[Any, Any, None]) -> None:
    """Do it to its end, however often we are cancelled; the cancellation is raised after that."""
    cancelled: asyncio.CancelledError | None = None
    task = asyncio.ensure_future(work)
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled


async def disconnect(connection: Client) -> None:
    """Close a connection, in whatever state it is."""
    try:
        await connection.close()
    except AssertionError:
        pass  # it had not begun to connect
    except OSError:
        # It was lost with something left to be written: the client stops there.
        for subscription in connection._subs.values():  # noqa: SLF001 - nobody else can
            task = getattr(subscription, "_wait_for_msgs_task", None)
            if isinstance(task, asyncio.Task):
                await ended(task)


def said(error: BaseException | None) -> str:
    """An error in words that hold no address, for that may hold a password."""
    if error is None:
        return "no answer"
    if isinstance(error, nats.js.errors.APIError) and error.description:
        return error.description
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, nats.errors.SlowConsumerError):
        # Its own words hold an object's address, and a subject that may be another each time.
        return "messages came faster than they were taken, and some were dropped (slow consumer)"
    return str(error).removeprefix("nats: ") if _plain(error) else type(error).__name__


def _plain(error: BaseException) -> bool:
    return isinstance(error, nats.errors.Error) and "//" not in str(error) and str(error) != ""
