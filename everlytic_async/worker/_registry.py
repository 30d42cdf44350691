"""Which workers of a store run now: asked on a subject of core NATS, answered by each worker.

JetStream knows only of workers that wait for an order, not of those whose slots are all taken. So
each worker answers for itself. Nothing is stored, and nothing depends on an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import attrs
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from everlytic_async._nats import error_text
from everlytic_async.errors import QueueError

__all__ = ["WorkerInfo"]

_LOGGER = logging.getLogger("everlytic_async.worker")
_MAX_TEXT = 500
# What the server answers by itself if nothing listens.
_NO_RESPONDERS = "503"


@attrs.frozen(kw_only=True)
class WorkerInfo:
    """A worker's answer.

    Attributes:
        name: Its host and process id: ``host:4711``.
        in_flight: Orders that it has taken and not settled.
        sent: Orders that it has sent since it started.
        stopping: Whether it takes no more orders.
        last_error: Why it does not send at present; None if it does.
    """

    name: str
    in_flight: int
    sent: int
    stopping: bool
    last_error: str | None


@contextlib.asynccontextmanager
async def answer_pings(
    connection: Client, subject: str, stats: Callable[[], dict[str, Any]]
) -> AsyncIterator[None]:
    """Answer whoever asks for the workers of a store, while open.

    Args:
        connection: To NATS.
        subject: Where they ask.
        stats: The attributes of this worker's `WorkerInfo`, but for its name.
    """
    name = f"{socket.gethostname()}:{os.getpid()}"

    async def on_ping(message: Msg) -> None:
        if not message.reply:
            return
        answer = {"name": name, **stats()}
        try:
            await connection.publish(message.reply, json.dumps(answer).encode())
        except nats.errors.Error as error:
            _LOGGER.debug("a ping could not be answered: %s", error_text(error))

    async with subscribed(connection, subject, on_ping):
        yield


@contextlib.asynccontextmanager
async def subscribed(connection: Client, subject: str, on_message: Any) -> AsyncIterator[None]:
    """Subscribe to a subject of core NATS, while open."""
    subscription = await connection.subscribe(subject, cb=on_message)
    try:
        yield
    finally:
        with contextlib.suppress(nats.errors.Error):  # the connection is closed
            await subscription.unsubscribe()


async def list_workers(connection: Client, subject: str, wait_s: float) -> list[WorkerInfo]:
    """The workers that answer within so many seconds, by their names.

    Raises:
        QueueError: the server can't be asked.
    """
    found: list[WorkerInfo] = []
    no_responders = asyncio.Event()

    async def on_answer(message: Msg) -> None:
        if not message.data and (message.headers or {}).get("Status") == _NO_RESPONDERS:
            no_responders.set()
        elif (worker := _parse(message.data)) is not None:
            found.append(worker)

    inbox = connection.new_inbox()
    try:
        async with subscribed(connection, inbox, on_answer):
            await connection.publish(subject, b"", reply=inbox)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await no_responders.wait()
    except nats.errors.Error as error:
        raise QueueError(f"the workers can't be asked for: {error_text(error)}") from error
    return sorted(found, key=lambda worker: worker.name)


def _parse(data: bytes) -> WorkerInfo | None:
    """A worker's answer; None for anything else."""
    try:
        answer = json.loads(data)
        last_error = answer["last_error"]
        return WorkerInfo(
            name=str(answer["name"])[:_MAX_TEXT],
            in_flight=int(answer["in_flight"]),
            sent=int(answer["sent"]),
            stopping=bool(answer["stopping"]),
            last_error=None if last_error is None else str(last_error)[:_MAX_TEXT],
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
