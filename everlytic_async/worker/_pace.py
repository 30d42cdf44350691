"""What the workers of one store tell each other: that the endpoint asked for a pause.

One worker's 429 or 503 is told on a subject of core NATS, and every other pauses for as long. What
is told is a hint: it is not kept for who is not there, and no worker waits for another. A pause
that was heard is not told on, so that there is no echo. How fast a worker may go it learns from its
own answers alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import secrets
from types import TracebackType
from typing import Self

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from everlytic_async._nats import said
from everlytic_async.client import EverlyticClient
from everlytic_async.events import CoolDown, Event

_LOGGER = logging.getLogger("everlytic_async.worker")
# Those by which an endpoint asks everybody to pause. A 408 is about one request.
_STATUSES = (429, 503)


class SharedPace:
    """While open, the client's cool-downs are told to the others, and theirs pause the client.

    Args:
        client: The worker's.
        connection: To NATS.
        subject: Where the store's workers hear each other.
    """

    def __init__(self, client: EverlyticClient, connection: Client, subject: str) -> None:
        self._client = client
        self._connection = connection
        self._subject = subject
        self._name = secrets.token_hex(8)  # to know one's own words by
        self._subscription: Subscription | None = None
        self._subscribed = contextlib.ExitStack()
        self._telling: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._subscription = await self._connection.subscribe(self._subject, cb=self._on_told)
        self._subscribed.enter_context(self._client.subscribe(self._on_event, CoolDown))
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._subscribed.close()
        if self._telling:
            await asyncio.wait(self._telling)
        if self._subscription is not None:
            with contextlib.suppress(nats.errors.Error):  # the connection is closed
                await self._subscription.unsubscribe()

    def _on_event(self, event: Event) -> None:
        # Late it would pause the others for nothing, so it is not kept for a connection to come.
        if (
            isinstance(event, CoolDown)
            and event.status in _STATUSES
            and event.wait_s > 0
            and self._connection.is_connected
        ):
            telling = asyncio.get_running_loop().create_task(self._tell(event))
            self._telling.add(telling)
            telling.add_done_callback(self._telling.discard)

    async def _tell(self, event: CoolDown) -> None:
        told = {"by": self._name, "wait_s": round(event.wait_s, 3), "status": event.status}
        try:
            await self._connection.publish(self._subject, json.dumps(told).encode())
        except nats.errors.Error as error:
            _LOGGER.info("the other workers could not be told to pause: %s", said(error))

    async def _on_told(self, message: Msg) -> None:
        told = _read(message.data)
        if told is None:
            _LOGGER.warning("on %s is what no worker said: it is passed over", self._subject)
            return
        by, wait_s, status = told
        if by != self._name:
            self._client.pause(wait_s, reason=f"another worker of the store was answered {status}")


def _read(data: bytes) -> tuple[str, float, int] | None:
    """Who tells of a cool-down, for how many seconds, and by which status; None where nobody."""
    try:
        told = json.loads(data)
        by, wait_s, status = told["by"], told["wait_s"], told["status"]
        numbers = isinstance(wait_s, int | float) and status in _STATUSES
        if not numbers or not isinstance(by, str) or not 0 < wait_s < math.inf:
            return None
        return by, float(wait_s), int(status)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
