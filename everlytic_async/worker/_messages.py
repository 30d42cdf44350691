"""An order as a message: pure functions from orders to messages and back.

A message's body is the trigger's JSON as the endpoint will get it. It also has headers:

=======================  ===========================================================================
header                   holds
=======================  ===========================================================================
Nats-Msg-Id              the store and the order's key: JetStream's idempotency key
Everlytic-Key            a digest of the publisher's own key; absent for the order's own
Everlytic-Resend         of a redriven order: the recorded outcome that must not stop it
Everlytic-Redriven-At    of a redriven order: when, in seconds since the epoch
=======================  ===========================================================================

A dead letter is the same body with ``Everlytic-Outcome``, ``-Reason``, ``-Attempts``, ``-Store``,
``-Sequence``, ``-Deliveries`` and ``-Message-Id`` (the order's) as well; see `DeadLetterInfo`.
``-Truncated-Bytes`` says how many bytes of the body are missing because there was no room for more.

No message holds a hash, or an address anywhere but in its body. Header values are ASCII: clients
differ in how they read others.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping

import attrs

from everlytic_async._strict_json import JsonFaultError, StrictDecoder
from everlytic_async._wire import encode, order_key
from everlytic_async.errors import InvalidOrderError, redact_emails
from everlytic_async.ledger import storage_key
from everlytic_async.orders import Order
from everlytic_async.outcomes import Outcome
from everlytic_async.worker._settings import QueueSettings

MESSAGE_ID = "Nats-Msg-Id"
KEY = "Everlytic-Key"
RESEND = "Everlytic-Resend"
REDRIVEN_AT = "Everlytic-Redriven-At"
OUTCOME = "Everlytic-Outcome"
REASON = "Everlytic-Reason"
ATTEMPTS = "Everlytic-Attempts"
STORE = "Everlytic-Store"
SEQUENCE = "Everlytic-Sequence"
DELIVERIES = "Everlytic-Deliveries"
ORIGINAL_ID = "Everlytic-Message-Id"
TRUNCATED_BYTES = "Everlytic-Truncated-Bytes"

_DIGEST = re.compile(r"sha256:[0-9a-f]{32}")
_MAX_REASON = 500
_RESENDABLE = (Outcome.UNKNOWN, Outcome.REJECTED)


@attrs.frozen
class Message:
    """What is published for one order.

    Attributes:
        key: The order's key in the ledger.
        body: The trigger's JSON.
        headers: See the module.
    """

    key: str
    body: bytes = attrs.field(repr=False)
    headers: dict[str, str] = attrs.field(repr=False)


def encode_message(order: Order, key: str | None, settings: QueueSettings) -> Message:
    """The message for an order.

    Args:
        order: The order.
        key: The publisher's own key; None for the order's.
        settings: Those of the queue.

    Raises:
        InvalidOrderError: it is larger than the queue takes, or the key is blank.
        TypeError: the key is not text.
    """
    given: object = key
    if not isinstance(given, str | None):
        raise TypeError("key must be text")
    if key is not None and not key.strip():
        raise InvalidOrderError(["key: must not be blank"])  # else all such orders were one
    body = encode(order)
    _check_size(body, settings)
    if key is None:
        name = storage_key(order_key(order, body))
        return Message(name, body, {MESSAGE_ID: message_id(name, settings)})
    name = storage_key(key, custom=True)
    return Message(name, body, {MESSAGE_ID: message_id(name, settings), KEY: name})


def message_id(key: str, settings: QueueSettings) -> str:
    """JetStream's id of an order: the same order number in two stores is not the same order."""
    if not key.isascii():  # an order number may be any text
        key = f"sha256:{hashlib.sha256(key.encode()).hexdigest()[:32]}"
    return f"{settings.store}:{key}"


def _check_size(body: bytes, settings: QueueSettings) -> None:
    if len(body) > settings.max_message_bytes:
        raise too_large_error(len(body), settings.max_message_bytes, "max_message_bytes")


def too_large_error(size: int, limit: int, setting: str) -> InvalidOrderError:
    """The error for an order of this many bytes."""
    return InvalidOrderError(
        [f"order: {size} bytes, and the queue takes {limit}: shorten the order, or raise {setting}"]
    )


def decode_order(body: bytes, settings: QueueSettings) -> Order:
    """The order in a message.

    Raises:
        InvalidOrderError: not JSON, not a valid order, or too large. It quotes no value.
    """
    _check_size(body, settings)
    try:
        return Order.from_mapping(StrictDecoder().decode(body.decode()))
    except JsonFaultError as error:
        raise InvalidOrderError([f"order: {error}"]) from None
    except UnicodeDecodeError:
        raise InvalidOrderError(["order: is not UTF-8"]) from None
    except InvalidOrderError:
        raise
    except Exception as error:  # noqa: BLE001 - else one message would stop the worker every time
        raise InvalidOrderError([f"order: reading it raised {type(error).__name__}"]) from None


def publisher_key(headers: Mapping[str, str]) -> str | None:
    """The publisher's own key, as a ledger keeps it; None for the order's own."""
    key = headers.get(KEY)
    if key is None or _DIGEST.fullmatch(key):
        return key
    return storage_key(key, custom=True)  # published by another program


def resend_override(headers: Mapping[str, str]) -> tuple[Outcome, float] | None:
    """Which recorded outcome must not stop a redriven order, if it was recorded before when."""
    outcome = headers.get(RESEND)
    if outcome not in _RESENDABLE:
        return None
    return Outcome(outcome), _to_float(headers.get(REDRIVEN_AT, ""))


# -------------------------------------------------------------------------------- dead letters


@attrs.frozen(kw_only=True)
class DeadLetterInfo:
    """Why an order is a dead letter.

    Attributes:
        outcome: INVALID, REJECTED or UNKNOWN.
        reason: In words.
        attempts: How many POSTs the worker that gave it up started.
        sequence: Its place in the stream of orders.
        deliveries: How often it was delivered to a worker.
    """

    outcome: Outcome
    reason: str
    attempts: int
    sequence: int
    deliveries: int


def dead_letter_headers(
    info: DeadLetterInfo, headers: Mapping[str, str], stored_at: float, settings: QueueSettings
) -> dict[str, str]:
    """The headers of a dead letter; its body is the order's.

    Args:
        info: Why it is one.
        headers: The order's headers.
        stored_at: When the order was stored, in seconds since the epoch. With the sequence it
            identifies the order, even after the stream was deleted and created again.
        settings: Those of the queue.
    """
    key = publisher_key(headers)
    return {
        **({} if key is None else {KEY: key}),
        MESSAGE_ID: f"{settings.orders_stream}:{info.sequence}:{stored_at:.6f}",
        ORIGINAL_ID: _ascii_header(headers.get(MESSAGE_ID, "")),
        OUTCOME: str(info.outcome),
        REASON: _ascii_header(redact_emails(info.reason))[:_MAX_REASON],
        ATTEMPTS: str(info.attempts),
        STORE: settings.store,
        SEQUENCE: str(info.sequence),
        DELIVERIES: str(info.deliveries),
    }


def parse_dead_letter(headers: Mapping[str, str]) -> DeadLetterInfo:
    """Why an order is a dead letter, from its headers; a missing outcome is UNKNOWN."""
    outcome = headers.get(OUTCOME, "")
    return DeadLetterInfo(
        outcome=Outcome(outcome) if outcome in set(Outcome) else Outcome.UNKNOWN,
        reason=headers.get(REASON, ""),
        attempts=int(_to_float(headers.get(ATTEMPTS, ""))),
        sequence=int(_to_float(headers.get(SEQUENCE, ""))),
        deliveries=int(_to_float(headers.get(DELIVERIES, ""))),
    )


def redrive_headers(
    headers: Mapping[str, str], sequence: int, now: float, settings: QueueSettings
) -> dict[str, str]:
    """The headers of a dead letter's order when it is put back.

    Its message id is new, or JetStream would drop it as a duplicate; and it is the same each time,
    so that a repeated redrive stores it once. The dead letter's own id is part of it, since a
    stream that was deleted and created again reuses this number for another letter.

    Args:
        headers: The dead letter's.
        sequence: Its place in the stream of dead letters.
        now: Seconds since the epoch.
        settings: Those of the queue.
    """
    original = headers.get(ORIGINAL_ID) or settings.store
    letter = hashlib.sha256(headers.get(MESSAGE_ID, "").encode()).hexdigest()[:16]
    redriven = {MESSAGE_ID: f"{original}:redriven-{sequence}-{letter}"}
    if KEY in headers:
        redriven[KEY] = headers[KEY]
    outcome = headers.get(OUTCOME)
    if outcome in _RESENDABLE:
        redriven |= {RESEND: str(outcome), REDRIVEN_AT: f"{now:.3f}"}
    return redriven


def _ascii_header(text: str) -> str:
    return " ".join(text.split()).encode("ascii", "backslashreplace").decode()


def _to_float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0
