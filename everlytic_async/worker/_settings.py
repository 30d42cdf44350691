"""`QueueSettings`: what the queue is called and what it holds."""

from __future__ import annotations

import re

import attrs
from attrs.validators import optional

from everlytic_async.policies import must_be, must_be_count, must_be_seconds

__all__ = ["QueueSettings"]

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SUBJECT = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")


def is_store_name(name: str) -> bool:
    """Whether a store can have this name."""
    return _TOKEN.fullmatch(name) is not None


_name = must_be(
    "1 to 64 of A-Z, a-z, 0-9, _ and -",
    lambda value: isinstance(value, str) and is_store_name(value),
)
_subject = must_be(
    "names of A-Z, a-z, 0-9, _ and -, with dots between them",
    lambda value: isinstance(value, str) and _SUBJECT.fullmatch(value) is not None,
)
_replicas = must_be("1, 3 or 5", lambda value: type(value) is int and value in (1, 3, 5))


@attrs.frozen(kw_only=True)
class QueueSettings:
    """What the queue is called, and what it holds. All who share a queue use the same.

    Streams and consumer are created by the first to come. An existing stream is used as it is: to
    change its limits or replicas afterwards is the operator's job (``nats stream edit``).

    Raises:
        ConfigurationError: a setting is wrong; it names it.
    """

    #: The store whose orders these are: a token of the subjects. One worker serves one store.
    store: str = attrs.field(default="default", validator=_name)
    #: The stream of orders: on file, each message until it is acknowledged.
    orders_stream: str = attrs.field(default="everlytic-orders", validator=_name)
    #: The stream of dead letters: on file, each until it is redriven or deleted.
    dead_letter_stream: str = attrs.field(default="everlytic-dead", validator=_name)
    #: The first part of every subject: ``everlytic.orders.<store>`` and so on.
    subject: str = attrs.field(default="everlytic", validator=_subject)
    #: How many servers of a cluster keep each message: 1, 3 or 5.
    replicas: int = attrs.field(default=1, validator=_replicas)
    #: How long JetStream remembers an order's key, so that it does not store it twice. The server
    #: keeps these keys in memory, and after a restart knows only those of stored messages; the
    #: workers' ledger knows the rest.
    duplicate_window_s: float = attrs.field(default=24 * 3600.0, validator=must_be_seconds)
    #: How much each stream may hold, in bytes. Beyond it publishing is refused: no order is lost.
    max_bytes: int = attrs.field(default=1024**3, validator=must_be_count)
    #: How many messages each stream may hold; None for no limit.
    max_messages: int | None = attrs.field(default=None, validator=optional(must_be_count))
    #: After how many seconds an order that no worker took is dropped; None for never.
    max_age_s: float | None = attrs.field(default=None, validator=optional(must_be_seconds))
    #: An order whose worker is silent for this long is delivered to another, in seconds. Workers
    #: send a heartbeat for each order three times in it.
    ack_wait_s: float = attrs.field(default=60.0, validator=must_be_seconds)
    #: How many orders all workers of the store may hold, those that wait for their next delivery
    #: included.
    max_ack_pending: int = attrs.field(default=100_000, validator=must_be_count)
    #: How large an order may be, in bytes. The server's own ``max_payload``, by default 1 MiB for
    #: headers and body together, applies as well.
    max_message_bytes: int = attrs.field(default=1024**2, validator=must_be_count)

    @property
    def orders_subject(self) -> str:
        """Where the store's orders are published."""
        return f"{self.subject}.orders.{self.store}"

    @property
    def dead_letter_subject(self) -> str:
        """Where the store's dead letters are published."""
        return f"{self.subject}.dead.{self.store}"

    @property
    def cool_down_subject(self) -> str:
        """Where the store's workers publish their cool-downs."""
        return f"{self.subject}.pace.{self.store}"

    @property
    def workers_subject(self) -> str:
        """Where the store's workers answer who asks for them."""
        return f"{self.subject}.workers.{self.store}"

    @property
    def consumer(self) -> str:
        """The durable consumer that the store's workers share."""
        return f"worker-{self.store}"
