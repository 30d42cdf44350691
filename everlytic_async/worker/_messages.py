"""What an order looks like on its way through NATS: names, settings, and messages as pure values.

A message's body is the trigger's JSON as the endpoint will get it. Beside that it has headers:

=======================  ===========================================================================
header                   holds
=======================  ===========================================================================
Nats-Msg-Id              the store and the order's key: what JetStream knows duplicates by
Everlytic-Key            a digest of the key that the publisher gave; absent for the order's own
Everlytic-Resend         of a redriven order: what the ledger says of it that is to be passed over
Everlytic-Redriven-At    of a redriven order: when, in seconds since the epoch
=======================  ===========================================================================

A dead letter is the same body with ``Everlytic-Outcome``, ``-Reason``, ``-Attempts``, ``-Store``,
``-Sequence``, ``-Deliveries`` and ``-Message-Id`` (the order's) besides; see `Dead`. ``-Left-Out``
says how many bytes of the body are missing, because it was too large to have more headers.

No message holds a hash, nor an address anywhere but in its body. Header values are ASCII: not every
client reads others alike.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from everlytic_async._strict_json import JsonFaultError, StrictDecoder
from everlytic_async._wire import encode, order_key
from everlytic_async.errors import ConfigurationError, InvalidOrderError, redact_emails
from everlytic_async.ledger import stored_key
from everlytic_async.orders import Order
from everlytic_async.outcomes import Outcome

__all__ = ["QueueSettings"]

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
LEFT_OUT = "Everlytic-Left-Out"

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SUBJECT = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_DIGEST = re.compile(r"sha256:[0-9a-f]{32}")
_MAX_REASON = 500
_RESENDABLE = (Outcome.UNKNOWN, Outcome.REJECTED)


# ------------------------------------------------------------------------------------- settings


def _checked(
    what: str, kinds: tuple[type, ...], fits: Callable[[Any], bool]
) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    """Make a validator that says what it wants; None passes where it is the default."""

    def validate(_settings: object, field: attrs.Attribute[Any], value: Any) -> None:
        if value is None and field.default is None:
            return
        if isinstance(value, bool) or not isinstance(value, kinds) or not fits(value):
            raise ConfigurationError(f"QueueSettings.{field.name} must be {what}, got {value!r}")

    return validate


_name = _checked(
    "1 to 64 of A-Z, a-z, 0-9, _ and -", (str,), lambda value: bool(_TOKEN.fullmatch(value))
)
_subject = _checked(
    "names of A-Z, a-z, 0-9, _ and -, with dots between them",
    (str,),
    lambda value: bool(_SUBJECT.fullmatch(value)),
)
_seconds = _checked("a number of seconds above 0", (int, float), lambda value: 0 < value < math.inf)
_count = _checked("a whole number of at least 1", (int,), lambda value: value >= 1)
_replicas = _checked("1, 3 or 5", (int,), lambda value: value in (1, 3, 5))


@attrs.frozen(kw_only=True)
class QueueSettings:
    """What the queue is called, and what it holds. All who share a queue give the same.

    Streams and consumer are made by whoever comes first. A stream that is there is used as it is:
    to change its limits or replicas afterwards is the operator's (``nats stream edit``).

    Raises:
        ConfigurationError: a setting is wrong; it names it.
    """

    #: The store whose orders these are: a token of the subjects. One worker serves one store.
    store: str = attrs.field(default="default", validator=_name)
    #: The stream of orders: on file, each message until it is acknowledged.
    orders_stream: str = attrs.field(default="everlytic-orders", validator=_name)
    #: The stream of dead letters: on file, each until it is redriven or deleted.
    dead_stream: str = attrs.field(default="everlytic-dead", validator=_name)
    #: The first part of every subject: ``everlytic.orders.<store>`` and so on.
    subject: str = attrs.field(default="everlytic", validator=_subject)
    #: How many servers of a cluster keep each message: 1, 3 or 5.
    replicas: int = attrs.field(default=1, validator=_replicas)
    #: For how long JetStream knows an order by its key, so that it is not stored twice. The server
    #: keeps the keys of that time in memory, and after a restart knows only those that are still
    #: stored; what it then takes twice, the workers' ledger knows.
    duplicate_window_s: float = attrs.field(default=24 * 3600.0, validator=_seconds)
    #: How much each stream may hold, in bytes. Beyond it publishing is refused: no order is lost.
    max_bytes: int = attrs.field(default=1024**3, validator=_count)
    #: How many messages each stream may hold; None for no bound.
    max_messages: int | None = attrs.field(default=None, validator=_count)
    #: After how many seconds an order that nobody took is dropped; None for never.
    max_age_s: float | None = attrs.field(default=None, validator=_seconds)
    #: An order whose worker is silent for as long is given to another, in seconds. Workers speak
    #: three times as often.
    ack_wait_s: float = attrs.field(default=60.0, validator=_seconds)
    #: How many orders may be in the hands of all workers of the store, those that wait for their
    #: next delivery included.
    max_in_hand: int = attrs.field(default=100_000, validator=_count)
    #: How large an order may be, in bytes. The server's own ``max_payload``, by default 1 MiB for
    #: headers and body together, holds as well.
    max_message_bytes: int = attrs.field(default=1024**2, validator=_count)

    @property
    def orders_subject(self) -> str:
        """Where the store's orders are published."""
        return f"{self.subject}.orders.{self.store}"

    @property
    def dead_subject(self) -> str:
        """Where the store's dead letters are published."""
        return f"{self.subject}.dead.{self.store}"

    @property
    def pace_subject(self) -> str:
        """Where the store's workers tell each other of cool-downs."""
        return f"{self.subject}.pace.{self.store}"

    @property
    def workers_subject(self) -> str:
        """Where the store's workers are asked for, and answer."""
        return f"{self.subject}.workers.{self.store}"

    @property
    def consumer(self) -> str:
        """The durable consumer that the store's workers share."""
        return f"worker-{self.store}"


def is_store(name: str) -> bool:
    """Whether a store can be called so."""
    return _TOKEN.fullmatch(name) is not None


# --------------------------------------------------------------------------- orders as messages


@attrs.frozen
class Message:
    """What is published for one order.

    Attributes:
        key: What names the order, as a ledger keeps it.
        body: The trigger's JSON.
        headers: See the module.
    """

    key: str
    body: bytes = attrs.field(repr=False)
    headers: dict[str, str] = attrs.field(repr=False)


def as_message(order: Order, key: str | None, settings: QueueSettings) -> Message:
    """What is published for an order.

    Args:
        order: The order.
        key: The publisher's own name of it; None for the order's.
        settings: Those of the queue.

    Raises:
        InvalidOrderError: it is larger than the queue takes.
    """
    body = encode(order)
    check_size(body, settings)
    if key is None:
        name = stored_key(order_key(order, body))
        return Message(name, body, {MESSAGE_ID: message_id(name, settings)})
    name = stored_key(key, own=True)
    return Message(name, body, {MESSAGE_ID: message_id(name, settings), KEY: name})


def message_id(key: str, settings: QueueSettings) -> str:
    """What JetStream knows an order by: the same order number of two stores is not the same."""
    if not key.isascii():  # an order number may be any word
        key = f"sha256:{hashlib.sha256(key.encode()).hexdigest()[:32]}"
    return f"{settings.store}:{key}"


def check_size(body: bytes, settings: QueueSettings) -> None:
    """See that a body is no larger than the queue takes.

    Raises:
        InvalidOrderError: it is.
    """
    if len(body) > settings.max_message_bytes:
        raise too_large(len(body), settings.max_message_bytes, "max_message_bytes")


def too_large(size: int, bound: int, setting: str) -> InvalidOrderError:
    """What is wrong with an order of so many bytes."""
    what = f"order: {size} bytes, and the queue takes {bound}"
    return InvalidOrderError([f"{what}: leave out what it can do without, or raise {setting}"])


def as_order(body: bytes, settings: QueueSettings) -> Order:
    """The order of a message.

    Raises:
        InvalidOrderError: it is not JSON, not a valid order, or too large. It holds no value of it.
    """
    check_size(body, settings)
    try:
        return Order.from_mapping(StrictDecoder().decode(body.decode()))
    except JsonFaultError as error:
        raise InvalidOrderError([f"order: {error}"]) from None
    except UnicodeDecodeError:
        raise InvalidOrderError(["order: is not UTF-8"]) from None
    except InvalidOrderError:
        raise
    except Exception as error:  # noqa: BLE001 - or one message would stop the worker again and again
        raise InvalidOrderError([f"order: reading it raised {type(error).__name__}"]) from None


def own_key(headers: Mapping[str, str]) -> str | None:
    """The key that the publisher gave, as a ledger keeps it; None for the order's own."""
    key = headers.get(KEY)
    if key is None or _DIGEST.fullmatch(key):
        return key
    return stored_key(key, own=True)  # whoever published it did so without this package


def resend_of(headers: Mapping[str, str]) -> tuple[Outcome, float] | None:
    """Which outcome of the ledger a redriven order passes over, and since when that is so."""
    outcome = headers.get(RESEND)
    if outcome not in _RESENDABLE:
        return None
    return Outcome(outcome), _float(headers.get(REDRIVEN_AT, ""))


# -------------------------------------------------------------------------------- dead letters


@attrs.frozen(kw_only=True)
class Dead:
    """Why an order is a dead letter.

    Attributes:
        outcome: What is known of it: INVALID, REJECTED or UNKNOWN.
        reason: In words.
        attempts: How many POSTs were begun for it, by the worker that gave it up.
        sequence: Its place in the stream of orders.
        deliveries: How often it had been given to a worker.
    """

    outcome: Outcome
    reason: str
    attempts: int
    sequence: int
    deliveries: int


def as_dead(
    dead: Dead, headers: Mapping[str, str], stored_at: float, settings: QueueSettings
) -> dict[str, str]:
    """The headers of a dead letter; its body is the order's.

    Args:
        dead: Why it is one.
        headers: The order's headers.
        stored_at: When the order was stored, in seconds since the epoch. With the sequence it tells
            it from any other, of a stream that was deleted and made anew too.
        settings: Those of the queue.
    """
    own = own_key(headers)
    return {
        **({} if own is None else {KEY: own}),
        MESSAGE_ID: f"{settings.orders_stream}:{dead.sequence}:{stored_at:.6f}",
        ORIGINAL_ID: plain(headers.get(MESSAGE_ID, "")),
        OUTCOME: str(dead.outcome),
        REASON: plain(redact_emails(dead.reason))[:_MAX_REASON],
        ATTEMPTS: str(dead.attempts),
        STORE: settings.store,
        SEQUENCE: str(dead.sequence),
        DELIVERIES: str(dead.deliveries),
    }


def read_dead(headers: Mapping[str, str]) -> Dead:
    """Why an order is a dead letter, by its headers; what is missing is unknown."""
    outcome = headers.get(OUTCOME, "")
    return Dead(
        outcome=Outcome(outcome) if outcome in set(Outcome) else Outcome.UNKNOWN,
        reason=headers.get(REASON, ""),
        attempts=int(_float(headers.get(ATTEMPTS, ""))),
        sequence=int(_float(headers.get(SEQUENCE, ""))),
        deliveries=int(_float(headers.get(DELIVERIES, ""))),
    )


def as_redriven(
    headers: Mapping[str, str], sequence: int, now: float, settings: QueueSettings
) -> dict[str, str]:
    """The headers of a dead letter's order when it is put back.

    Its message id is new, or JetStream would take it for the one that it had; and the same each
    time, so that putting it back twice stores it once. The dead letter's own id is in it: of a
    stream that was deleted and made again, another letter has this number.

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


def plain(text: str) -> str:
    """Text as a header's value: one line of ASCII."""
    return " ".join(text.split()).encode("ascii", "backslashreplace").decode()


def _float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0
