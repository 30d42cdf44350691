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

``_dead_letters`` has those of a dead letter. No message holds a hash, or an address anywhere but in
its body. Header values are ASCII: clients differ in how they read others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import attrs

from everlytic_async._encoding import encode, order_key
from everlytic_async._strict_json import JsonFaultError, StrictDecoder
from everlytic_async.errors import InvalidOrderError
from everlytic_async.ledger import storage_key
from everlytic_async.ledger.claims import RESENDABLE
from everlytic_async.orders import Order
from everlytic_async.outcomes import Outcome
from everlytic_async.worker._settings import QueueSettings

MESSAGE_ID = "Nats-Msg-Id"
KEY = "Everlytic-Key"
RESEND = "Everlytic-Resend"
REDRIVEN_AT = "Everlytic-Redriven-At"


@attrs.frozen
class Message:
    """What is published for one order; see the module."""

    key: str  # in the ledger
    body: bytes = attrs.field(repr=False)
    headers: dict[str, str] = attrs.field(repr=False)


def encode_message(order: Order, key: str | None, settings: QueueSettings) -> Message:
    """The message for an order, under the publisher's own key or the order's.

    Raises:
        InvalidOrderError: it is larger than the queue takes, or the key is blank.
        TypeError: the key is not text.
    """
    raw: object = key
    if not isinstance(raw, str | None):
        raise TypeError("key must be text")
    if key is not None and not key.strip():
        raise InvalidOrderError(["key: must not be blank"])  # else all such orders were one
    body = encode(order)
    check_size(body, settings.max_message_bytes, "max_message_bytes")
    if key is None:
        name = ledger_key(order, body)
        return Message(name, body, {MESSAGE_ID: message_id(name, settings)})
    name = storage_key(key, custom=True)
    return Message(name, body, {MESSAGE_ID: message_id(name, settings), KEY: name})


def ledger_key(order: Order, body: bytes | None = None) -> str:
    """An order's own key, as a ledger keeps it; with its encoded form, if that is known."""
    return storage_key(order_key(order, encode(order) if body is None else body))


def message_id(key: str, settings: QueueSettings) -> str:
    """JetStream's id of an order: the same order number in two stores is not the same order."""
    name = key if key.isascii() else storage_key(key, custom=True)  # a number may be any text
    return f"{settings.store}:{name}"


def check_size(body: bytes, limit: int, setting: str) -> None:
    """Refuse an order of more bytes than a setting allows."""
    if len(body) > limit:
        words = f"{len(body)} bytes, and the queue takes {limit}: shorten the order, or raise"
        raise InvalidOrderError([f"order: {words} {setting}"])


def decode_order(body: bytes, settings: QueueSettings) -> Order:
    """The order in a message.

    Raises:
        InvalidOrderError: not JSON, not a valid order, or too large. It quotes no value.
    """
    check_size(body, settings.max_message_bytes, "max_message_bytes")
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
    # Another program may have published it as it is.
    return None if key is None else storage_key(key, custom=True)


def resend_override(headers: Mapping[str, str]) -> tuple[Outcome, float] | None:
    """Which recorded outcome must not stop a redriven order, if it was recorded before when."""
    outcome = headers.get(RESEND)
    if outcome not in RESENDABLE:
        return None
    return Outcome(outcome), parse_number(headers.get(REDRIVEN_AT, ""))


def parse_number(text: str) -> float:
    """A header's number; 0 for anything else, such as an infinity."""
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0
