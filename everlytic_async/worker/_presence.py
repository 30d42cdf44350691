"""Who works for a store at this moment: asked on a subject of core NATS, answered by each worker.

JetStream knows only of workers that wait for an order; those whose slots are all taken ask it for
nothing. So each worker answers for itself. Nothing is kept, and nothing depends on an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import attrs
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from everlytic_async._nats import said
from everlytic_async.errors import QueueError

__all__ = ["PresentWorker"]

_LOGGER = logging.getLogger("everlytic_async.worker")
_MAX_TEXT = 500
# What the server answers by itself where nobody listens.
_NO_RESPONDERS = "503"


@attrs.frozen(kw_only=True)
class PresentWorker:
    """A worker as it answered for itself.

    Attributes:
        name: Its host and process id: ``host:4711``.
        in_hand: Orders that it has taken and not settled.
        sent: Orders that it has sent since it began.
        stopping: Whether it takes no more orders.
        problem: Why it does not send at present; None where it does.
    """

    name: str
    in_hand: int
    sent: int
    stopping: bool
    problem: str | None


class Presence:
    """While open, who asks for the workers of a store is answered.

    Args:
        connection: To NATS.
        subject: Where the store's workers are asked for.
        figures: How the worker is, but for its name.
    """

    def __init__(
        self, connection: Client, subject: str, figures: Callable[[], dict[str, Any]]
    ) -> None:
        self._connection = connection
        self._subject = subject
        self._figures = figures
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._subscription: Subscription | None = None

    async def __aenter__(self) -> Self:
        self._subscription = await self._connection.subscribe(self._subject, cb=self._on_asked)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._subscription is not None:
            with contextlib.suppress(nats.errors.Error):  # the connection is closed
                await self._subscription.unsubscribe()

    async def _on_asked(self, message: Msg) -> None:
        if not message.reply:
            return
        answer = {"name": self._name, **self._figures()}
        try:
            await self._connection.publish(message.reply, json.dumps(answer).encode())
        except nats.errors.Error as error:
            _LOGGER.debug("who asked for workers could not be answered: %s", said(error))


async def workers_at(connection: Client, subject: str, wait_s: float) -> list[PresentWorker]:
    """Those that answer within so many seconds, by their names.

    Raises:
        QueueError: nobody can be asked.
    """
    found: list[PresentWorker] = []
    nobody = asyncio.Event()

    async def on_answer(message: Msg) -> None:
        if not message.data and (message.headers or {}).get("Status") == _NO_RESPONDERS:
            nobody.set()
        elif (worker := _read(message.data)) is not None:
            found.append(worker)

    inbox = connection.new_inbox()
    until = time.monotonic() + wait_s
    try:
        subscription = await connection.subscribe(inbox, cb=on_answer)
        await connection.publish(subject, b"", reply=inbox)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(until - time.monotonic()):
                await nobody.wait()
        await subscription.unsubscribe()
    except nats.errors.Error as error:
        raise QueueError(f"the workers can't be asked for: {said(error)}") from error
    return sorted(found, key=lambda worker: worker.name)


def _read(data: bytes) -> PresentWorker | None:
    """What a worker answered; None where it was no worker."""
    try:
        told = json.loads(data)
        problem = told["problem"]
        return PresentWorker(
            name=str(told["name"])[:_MAX_TEXT],
            in_hand=int(told["in_hand"]),
            sent=int(told["sent"]),
            stopping=bool(told["stopping"]),
            problem=None if problem is None else str(problem)[:_MAX_TEXT],
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
