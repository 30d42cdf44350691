"""`DeadLetter`: orders that nobody sends again by themselves: made, read, redriven and dropped.

A dead letter is a message with the body of its order, and headers that say why: ``Everlytic-`` with
``Outcome``, ``Reason``, ``Attempts``, ``Store``, ``Sequence``, ``Deliveries``, ``Message-Id`` (the
order's) and ``Key``. ``Truncated-Bytes`` says how much of the body is missing for lack of room.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Iterable, Mapping

import attrs
import nats.js.errors
from nats.aio.msg import Msg
from nats.js import api

from everlytic_async._nats import none_if_missing
from everlytic_async.errors import InvalidOrderError, redact_emails
from everlytic_async.ledger.claims import RESENDABLE
from everlytic_async.outcomes import Outcome
from everlytic_async.worker._messages import (
    KEY,
    MESSAGE_ID,
    REDRIVEN_AT,
    RESEND,
    decode_order,
    ledger_key,
    parse_number,
    publisher_key,
)
from everlytic_async.worker._settings import QueueSettings
from everlytic_async.worker._streams import Streams

__all__ = ["DeadLetter"]

_OUTCOME = "Everlytic-Outcome"
_REASON = "Everlytic-Reason"
_ATTEMPTS = "Everlytic-Attempts"
_STORE = "Everlytic-Store"
_SEQUENCE = "Everlytic-Sequence"
_DELIVERIES = "Everlytic-Deliveries"
_ORIGINAL_ID = "Everlytic-Message-Id"
_MAX_TEXT = 500
# A header may be forged: its number stays short on a screen.
_MAX_COUNT = 999_999_999
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

    @classmethod
    def from_message(cls, raw: api.RawStreamMsg, settings: QueueSettings) -> DeadLetter:
        """Read a message of the stream of dead letters; a missing outcome is UNKNOWN."""
        headers = {name: str(value) for name, value in (raw.headers or {}).items()}
        outcome, body = headers.get(_OUTCOME, ""), raw.data or b""

        def number(name: str) -> int:
            return int(min(parse_number(headers.get(name, "")), _MAX_COUNT))

        return cls(
            id=raw.seq or 0,
            key=_ledger_key(headers, body, settings),
            outcome=Outcome(outcome) if outcome in set(Outcome) else Outcome.UNKNOWN,
            reason=headers.get(_REASON, ""),
            attempts=number(_ATTEMPTS),
            deliveries=number(_DELIVERIES),
            order_sequence=number(_SEQUENCE),
            created_at=0.0 if raw.time is None else raw.time.timestamp(),
            body=body,
            headers=headers,
        )


def dead_letter_headers(
    message: Msg, settings: QueueSettings, outcome: Outcome, reason: str, attempts: int
) -> dict[str, str]:
    """The headers of the dead letter that a delivered order becomes; see `DeadLetter`."""
    headers, metadata = message.headers or {}, message.metadata
    key, sequence = publisher_key(headers), metadata.sequence.stream
    # A stream that was deleted and created again counts from 1: so the time as well.
    stored_at = metadata.timestamp.timestamp()
    return {
        **({} if key is None else {KEY: key}),
        MESSAGE_ID: f"{settings.orders_stream}:{sequence}:{stored_at:.6f}",
        _ORIGINAL_ID: _ascii_header(headers.get(MESSAGE_ID, "")),
        _OUTCOME: str(outcome),
        _REASON: _ascii_header(redact_emails(reason)),
        _ATTEMPTS: str(attempts),
        _STORE: settings.store,
        _SEQUENCE: str(sequence),
        _DELIVERIES: str(metadata.num_delivered),
    }


def redrive_headers(
    headers: Mapping[str, str], letter_id: int, now: float, settings: QueueSettings
) -> dict[str, str]:
    """The headers of a dead letter's order when it is put back.

    Its message id is new, or JetStream would drop it as a duplicate; and it is the same each time,
    so that a repeated redrive stores it once. The dead letter's own message id is part of it, since
    a stream that was deleted and created again reuses this number for another letter.
    """
    original = headers.get(_ORIGINAL_ID) or settings.store
    letter = hashlib.sha256(headers.get(MESSAGE_ID, "").encode()).hexdigest()[:16]
    redriven = {MESSAGE_ID: f"{original}:redriven-{letter_id}-{letter}"}
    if KEY in headers:
        redriven[KEY] = headers[KEY]
    outcome = headers.get(_OUTCOME)
    if outcome in RESENDABLE:
        redriven |= {RESEND: str(outcome), REDRIVEN_AT: f"{now:.3f}"}
    return redriven


def _ascii_header(text: str) -> str:
    """One line of ASCII, short enough for the room that a message leaves for its headers."""
    return " ".join(text.split()).encode("ascii", "backslashreplace").decode()[:_MAX_TEXT]


def _ledger_key(headers: dict[str, str], body: bytes, settings: QueueSettings) -> str | None:
    key = publisher_key(headers)
    try:
        return key or ledger_key(decode_order(body, settings))
    except InvalidOrderError:
        return None


# ------------------------------------------------------------------------------- on the server


async def iter_dead_letters(streams: Streams) -> AsyncIterator[DeadLetter]:
    """All of the store, oldest first."""
    letter = await _next(streams, 1)
    while letter is not None:
        yield letter
        letter = await _next(streams, letter.id + 1)


async def redrive(streams: Streams, selection: Iterable[DeadLetter | int]) -> int:
    """Put them back into the stream of orders; how many. See `OrderQueue.redrive`."""
    count = 0
    async for letter in _find(streams, selection):
        headers = redrive_headers(letter.headers, letter.id, time.time(), streams.settings)
        await streams.store_raw_order(letter.body, headers)
        count += await _delete(streams, letter.id)
    return count


async def drop(streams: Streams, selection: Iterable[DeadLetter | int]) -> int:
    """Delete them; how many. See `OrderQueue.drop`."""
    return sum([await _delete(streams, each.id) async for each in _find(streams, selection)])


async def _find(
    streams: Streams, selection: Iterable[DeadLetter | int]
) -> AsyncIterator[DeadLetter]:
    """Those that are still there, and are of this store."""
    for each in selection:
        letter_id = each.id if isinstance(each, DeadLetter) else each
        letter = await _next(streams, letter_id)
        if letter is not None and letter.id == letter_id:
            yield letter


async def _next(streams: Streams, first: int) -> DeadLetter | None:
    """The store's first dead letter from this id on."""
    settings = streams.settings
    where = settings.dead_letter_stream, first, settings.dead_letter_subject
    raw = await streams.request(
        streams.dead_letters,
        lambda: none_if_missing(streams.jetstream.get_msg(*where, next=True)),
        "the dead letters can't be read",
    )
    return None if raw is None else DeadLetter.from_message(raw, settings)


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

    failed = f"dead letter {letter_id} can't be deleted"
    return await streams.request(streams.dead_letters, delete, failed)
