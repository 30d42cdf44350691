"""`DeadLetter`: reading, redriving and dropping orders that nobody sends again by themselves."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable

import attrs
import nats.js.errors
from nats.js import api

from everlytic_async.errors import InvalidOrderError
from everlytic_async.outcomes import Outcome
from everlytic_async.worker._messages import (
    decode_order,
    encode_message,
    parse_dead_letter,
    publisher_key,
    redrive_headers,
)
from everlytic_async.worker._settings import QueueSettings
from everlytic_async.worker._streams import Streams

__all__ = ["DeadLetter"]

# JetStream's code for the deletion of a message that is not there.
_NO_SUCH_MESSAGE = 10057


@attrs.frozen(kw_only=True)
class DeadLetter:
    """An order that is not sent again until a person decides.

    Attributes:
        id: Its place in the stream of dead letters: what `OrderQueue.redrive` takes.
        key: The order's key in the ledger; None if it is not a valid order.
        outcome: INVALID, REJECTED or UNKNOWN.
        reason: Why, in words.
        attempts: How many POSTs the worker that gave it up started.
        deliveries: How often it was delivered to a worker.
        order_sequence: Its place in the stream of orders.
        created_at: When it became one, in seconds since the epoch.
        body: What was published, as bytes.
        headers: The message's headers.
    """

    id: int
    key: str | None = attrs.field(repr=False)
    outcome: Outcome
    reason: str
    attempts: int
    deliveries: int
    order_sequence: int
    created_at: float
    body: bytes = attrs.field(repr=False)
    headers: dict[str, str] = attrs.field(repr=False, factory=dict)


async def iter_dead_letters(streams: Streams) -> AsyncIterator[DeadLetter]:
    """All of the store, oldest first."""
    letter = await _next(streams, 1)
    while letter is not None:
        yield letter
        letter = await _next(streams, letter.id + 1)


async def find(streams: Streams, letter_id: int) -> DeadLetter | None:
    """One of them; None if it is not there."""
    letter = await _next(streams, letter_id)
    return letter if letter is not None and letter.id == letter_id else None


async def redrive(streams: Streams, selection: Iterable[DeadLetter | int]) -> int:
    """Put them back into the stream of orders; how many. See `OrderQueue.redrive`."""
    count = 0
    for each in selection:
        letter = await find(streams, _id(each))
        if letter is None:
            continue
        headers = redrive_headers(letter.headers, letter.id, time.time(), streams.settings)
        await streams.store_raw_order(letter.body, headers)
        count += await _delete(streams, letter.id)
    return count


async def drop(streams: Streams, selection: Iterable[DeadLetter | int]) -> int:
    """Delete them; how many. See `OrderQueue.drop`."""
    count = 0
    for each in selection:
        if await find(streams, _id(each)) is not None:
            count += await _delete(streams, _id(each))
    return count


def _id(letter: DeadLetter | int) -> int:
    return letter.id if isinstance(letter, DeadLetter) else letter


async def _next(streams: Streams, first: int) -> DeadLetter | None:
    """The store's first dead letter from this id on."""
    settings = streams.settings

    async def get() -> api.RawStreamMsg | None:
        try:
            return await streams.jetstream.get_msg(
                settings.dead_letter_stream,
                seq=first,
                subject=settings.dead_letter_subject,
                next=True,
            )
        except nats.js.errors.NotFoundError:
            return None

    raw = await streams.request(get, "the dead letters can't be read")
    if raw is None or raw.seq is None:
        return None
    headers = {name: str(value) for name, value in (raw.headers or {}).items()}
    info, body = parse_dead_letter(headers), raw.data or b""
    return DeadLetter(
        id=raw.seq,
        key=_ledger_key(headers, body, settings),
        outcome=info.outcome,
        reason=info.reason,
        attempts=info.attempts,
        deliveries=info.deliveries,
        order_sequence=info.sequence,
        created_at=0.0 if raw.time is None else raw.time.timestamp(),
        body=body,
        headers=headers,
    )


def _ledger_key(headers: dict[str, str], body: bytes, settings: QueueSettings) -> str | None:
    key = publisher_key(headers)
    try:
        return key or encode_message(decode_order(body, settings), None, settings).key
    except InvalidOrderError:
        return None


async def _delete(streams: Streams, letter_id: int) -> bool:
    """Delete one; False if somebody else did."""

    async def delete() -> bool:
        try:
            return await streams.jetstream.delete_msg(
                streams.settings.dead_letter_stream, letter_id
            )
        except (nats.js.errors.NotFoundError, nats.js.errors.BadRequestError):
            return False
        except nats.js.errors.ServerError as error:
            if error.err_code == _NO_SUCH_MESSAGE:
                return False
            raise

    return await streams.request(delete, f"dead letter {letter_id} can't be deleted")
