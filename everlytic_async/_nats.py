"""How the NATS client is called: so that its calls end when cancelled, and leave nothing behind.

nats-py waits by `asyncio.wait_for`, which before Python 3.12 swallows a cancellation that comes in
the same moment as the answer; and its closing stops in the middle where the connection is lost.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Awaitable, Coroutine, Sequence
from typing import Any, TypeVar

import nats.errors
import nats.js.errors
from nats.aio.client import Client

_T = TypeVar("_T")
# A task that was cancelled and goes on is cancelled again after this, in seconds.
_CANCEL_S = 0.1


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
    except (OSError, TypeError):
        # It was lost with something left to be written: the client stops there. From Python 3.12
        # on a transport that is closed answers such a write with a TypeError.
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
