"""What the workers of a store say to each other: who runs, and when all of them pause.

Both go over subjects of core NATS: nothing is stored, and nothing depends on an answer. JetStream
itself knows only of workers that wait for an order, not of those whose slots are all taken; so each
answers for itself. When the endpoint asks one worker to pause, the others pause for as long. A
received pause is not published again, so there is no echo. Each worker learns from its own
responses how fast to send.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import attrs
import nats.errors
from attrs.validators import ge, gt, in_, instance_of, lt
from nats.aio.client import Client
from nats.aio.msg import Msg

from everlytic_async._nats import error_text
from everlytic_async.client import EverlyticClient
from everlytic_async.errors import QueueError
from everlytic_async.events import CoolDown, Event

__all__ = ["WorkerInfo"]

_LOGGER = logging.getLogger("everlytic_async.worker")
_T = TypeVar("_T")
_MAX_TEXT = 500
# Fewer orders than this are in flight, or were sent.
_COUNT = [ge(0), lt(2**63)]
# With these an endpoint asks everybody to pause; a 408 is about one request.
_PAUSE_STATUSES = (429, 503)
_SECONDS: list[Any] = [instance_of(float), gt(0), lt(math.inf)]
# The longest pause that another worker may ask for, in seconds.
_MAX_PAUSE_S = 300.0
# What the server answers by itself if nothing listens.
_NO_RESPONDERS = "503"


def _text(value: object) -> str:
    return str(value)[:_MAX_TEXT]


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

    name: str = attrs.field(converter=_text)
    in_flight: int = attrs.field(converter=int, validator=_COUNT)
    sent: int = attrs.field(converter=int, validator=_COUNT)
    stopping: bool = attrs.field(converter=bool)
    last_error: str | None = attrs.field(converter=attrs.converters.optional(_text))


@attrs.frozen(kw_only=True)
class Pause:
    """A pause that an endpoint asked a worker for: which worker, for how long, by which status."""

    by: str = attrs.field(validator=instance_of(str))
    wait_s: float = attrs.field(validator=_SECONDS)
    status: int = attrs.field(converter=int, validator=in_(_PAUSE_STATUSES))


def decode(kind: type[_T], data: bytes) -> _T | None:
    """What another worker sent; None for anything else."""
    try:
        values = json.loads(data, parse_int=float)
        return kind(**{name: values[name] for name in attrs.fields_dict(kind)})  # type: ignore[arg-type]
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


async def _publish(connection: Client, subject: str, values: dict[str, Any]) -> None:
    try:
        await connection.publish(subject, json.dumps(values).encode())
    except nats.errors.Error as error:
        _LOGGER.info("another worker or command gets no answer: %s", error_text(error))


@contextlib.asynccontextmanager
async def _subscribed(
    connection: Client, subject: str, on_message: Callable[[Msg], Awaitable[None]]
) -> AsyncIterator[None]:
    subscription = await connection.subscribe(subject, cb=on_message)
    try:
        yield
    finally:
        with contextlib.suppress(nats.errors.Error):  # the connection is closed
            await subscription.unsubscribe()


# ------------------------------------------------------------------------------------- who runs


@contextlib.asynccontextmanager
async def answer_pings(
    connection: Client, subject: str, stats: Callable[[], dict[str, Any]]
) -> AsyncIterator[None]:
    """Answer pings to the workers of a store, while open: by `WorkerInfo`, whose name is ours."""
    name = f"{socket.gethostname()}:{os.getpid()}"

    async def on_ping(message: Msg) -> None:
        if message.reply:
            await _publish(connection, message.reply, {"name": name, **stats()})

    async with _subscribed(connection, subject, on_ping):
        yield


async def list_workers(connection: Client, subject: str, wait_s: float) -> list[WorkerInfo]:
    """The workers that answer within `wait_s` seconds, by their names."""
    found: list[WorkerInfo] = []
    no_responders = asyncio.Event()

    async def on_answer(message: Msg) -> None:
        if not message.data and (message.headers or {}).get("Status") == _NO_RESPONDERS:
            no_responders.set()
        elif (worker := decode(WorkerInfo, message.data)) is not None:
            found.append(worker)

    inbox = connection.new_inbox()
    try:
        async with _subscribed(connection, inbox, on_answer):
            await connection.publish(subject, b"", reply=inbox)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await no_responders.wait()
    except nats.errors.Error as error:
        raise QueueError(f"the workers can't be asked for: {error_text(error)}") from error
    return sorted(found, key=lambda worker: worker.name)


# ---------------------------------------------------------------------------------------- pauses


@contextlib.asynccontextmanager
async def share_cool_downs(
    client: EverlyticClient, connection: Client, subject: str
) -> AsyncIterator[None]:
    """Publish the client's cool-downs, and pause it for those of others, while open."""
    sender = secrets.token_hex(8)
    publishing: set[asyncio.Task[None]] = set()

    def on_event(event: Event) -> None:
        # Not kept for a lost connection: late, it would pause the others for nothing.
        if (
            isinstance(event, CoolDown)
            and event.status in _PAUSE_STATUSES
            and event.wait_s > 0
            and connection.is_connected
        ):
            pause = {"by": sender, "wait_s": round(event.wait_s, 3), "status": event.status}
            task = asyncio.get_running_loop().create_task(_publish(connection, subject, pause))
            publishing.add(task)
            task.add_done_callback(publishing.discard)

    async def on_message(message: Msg) -> None:
        pause = decode(Pause, message.data)
        if pause is None:
            _LOGGER.warning("ignored a message on %s that is not from a worker", subject)
        elif pause.by != sender:
            reason = f"another worker of the store was answered {pause.status}"
            client.pause(min(pause.wait_s, _MAX_PAUSE_S), reason=reason)

    async with _subscribed(connection, subject, on_message):
        with client.subscribe(on_event, CoolDown):
            yield
        if publishing:
            await asyncio.wait(publishing)
