"""How the workers of a store pause together when the endpoint asks one of them to.

A worker publishes its 429s and 503s on a subject of core NATS, and the others pause for as long. It
is a hint: not stored for workers that are away, and no worker waits for another. A received pause
is not published again, so there is no echo. Each worker learns from its own responses how fast to
send.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import secrets
from collections.abc import AsyncIterator

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from everlytic_async._nats import error_text
from everlytic_async.client import EverlyticClient
from everlytic_async.events import CoolDown, Event
from everlytic_async.worker._registry import subscribed

_LOGGER = logging.getLogger("everlytic_async.worker")
# With these an endpoint asks everybody to pause; a 408 is about one request.
_STATUSES = (429, 503)


@contextlib.asynccontextmanager
async def share_cool_downs(
    client: EverlyticClient, connection: Client, subject: str
) -> AsyncIterator[None]:
    """Publish the client's cool-downs, and pause it for those of others, while open.

    Args:
        client: The worker's.
        connection: To NATS.
        subject: Where the store's workers publish theirs.
    """
    sender = secrets.token_hex(8)
    publishing: set[asyncio.Task[None]] = set()

    def on_event(event: Event) -> None:
        # Not kept for a lost connection: late, it would pause the others for nothing.
        if (
            isinstance(event, CoolDown)
            and event.status in _STATUSES
            and event.wait_s > 0
            and connection.is_connected
        ):
            task = asyncio.get_running_loop().create_task(publish(event))
            publishing.add(task)
            task.add_done_callback(publishing.discard)

    async def publish(event: CoolDown) -> None:
        hint = {"by": sender, "wait_s": round(event.wait_s, 3), "status": event.status}
        try:
            await connection.publish(subject, json.dumps(hint).encode())
        except nats.errors.Error as error:
            _LOGGER.info("a pause could not be shared with other workers: %s", error_text(error))

    async def on_message(message: Msg) -> None:
        hint = parse_cool_down(message.data)
        if hint is None:
            _LOGGER.warning("ignored a message on %s that is not from a worker", subject)
            return
        by, wait_s, status = hint
        if by != sender:
            client.pause(wait_s, reason=f"another worker of the store was answered {status}")

    async with subscribed(connection, subject, on_message):
        with client.subscribe(on_event, CoolDown):
            yield
        if publishing:
            await asyncio.wait(publishing)


def parse_cool_down(data: bytes) -> tuple[str, float, int] | None:
    """The sender of a cool-down, its seconds and its status; None for any other message."""
    try:
        hint = json.loads(data)
        by, wait_s, status = hint["by"], hint["wait_s"], hint["status"]
        numbers = isinstance(wait_s, int | float) and status in _STATUSES
        if not numbers or not isinstance(by, str) or not 0 < wait_s < math.inf:
            return None
        return by, float(wait_s), int(status)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
