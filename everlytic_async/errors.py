"""Every error of a delivery, in one tree; the class is the verdict.

::

    EverlyticError
    ├── ConfigurationError          a setting is missing or wrong; nothing was sent
    ├── InvalidOrderError           the order failed validation here; nothing was sent
    ├── RejectedError               the endpoint answered that it refuses this order
    │   └── AuthenticationError     401: the store hash or the customer hash is wrong
    ├── ThrottledError              429, 408, an immediate 503: not processed
    ├── NotSentError                nothing was sent, or not the whole body: surely not processed
    ├── UnknownOutcomeError         the trigger may have been processed
    │   ├── ServerError             a 5xx; a 503 only where it came late
    │   ├── ResponseTimeoutError    the body was sent, no response came in time
    │   ├── ConnectionLostError     the body was sent, the connection ended
    │   └── UnexpectedResponseError not this endpoint's response: HTML, undecodable, not HTTP
    ├── SkippedError                the ledger says that it was sent, or may have been, before
    ├── LedgerError                 the ledger can't be read or written
    ├── QueueError                  the queue of orders can't be read or written
    ├── BatchStoppedError           a batch ended early: going on would fail the same way
    └── SourceError                 the caller's iterable of orders raised

Errors carry plain values only: never a request, its headers, or a hash; and no value of an order.
All their arguments go to ``Exception.__init__``, so that they survive pickling. An argument of the
wrong type is a `TypeError`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from everlytic_async.outcomes import BatchReport

__all__ = [
    "AuthenticationError",
    "BatchStoppedError",
    "ConfigurationError",
    "ConnectionLostError",
    "EverlyticError",
    "InvalidOrderError",
    "LedgerError",
    "NotSentError",
    "QueueError",
    "RejectedError",
    "ResponseTimeoutError",
    "ServerError",
    "SkippedError",
    "SourceError",
    "ThrottledError",
    "UnexpectedResponseError",
    "UnknownOutcomeError",
]

#: How many faults of one order are named. A file can hold a million of them in a few kilobytes.
MAX_FAULTS = 20

# The sign between the two parts of an address: as it is, or as URLs, HTML and JSON write it.
_AT = (
    r"(?:[@\uff20\ufe6b]|%(?:25){0,3}(?:u00)?40|\\(?:u(?:0040|ff20|fe6b|\{0{0,6}40\})|x40)"
    r"|&(?:amp;){0,3}(?:(?:#0{0,6}64(?!\d)|#x0{0,6}40(?![\da-f]));?+|commat;)"
    # As mails write it, where the name of a host follows: "qty=400" is a number.
    r"|(?<=[^\s=])=40(?=[\w-]{1,63}\.[^\W\d_]{2}))"
)
_SIGN = re.compile(rf"(?<=.){_AT}(?=.)", re.IGNORECASE)
# A word; what is in quotes belongs to it where the sign follows.
_WORD = re.compile(rf'(?:"[^"]*"(?={_AT}))?[^\s"<>]+|"[^"]*"(?={_AT})', re.IGNORECASE)
# What is in other quotes, or has quotes in it, up to the sign. All bounded: a text of nothing but
# quotes takes no longer than another.
_QUOTED = re.compile(
    r'(?:"(?:[^"\\]|\\.){1,200}+"|&quot;(?:(?!&quot;)[^<>]){1,200}+&quot;'
    r"|(?<!\w)'[^']{1,200}+'"
    r"|(?:\u201c|\\u201c)(?:(?!\u201d|\\u201d).){1,200}+(?:\u201d|\\u201d))"
    rf"{_AT}[^\s\"<>]+",
    re.IGNORECASE,
)
# Blanks around the sign, where the name of a host follows: "2 @ 3.50 each" is a price.
_BLANKS = re.compile(
    rf"(?:(?<=\S)\s({_AT})\s?|(?<=\S)({_AT})\s)(?=[^\s\"<>@]{{1,63}}\.[^\W\d_]{{2}})",
    re.IGNORECASE,
)


def redact_emails(text: str) -> str:
    """Text of the endpoint without e-mail addresses: it may name anybody, not only the contact.

    A response is cleaned once, where it is parsed, so that no log, record or screen has to do it.
    """
    text = _QUOTED.sub("[an address]", _BLANKS.sub(r"\1\2", text))
    return _WORD.sub(lambda word: "[an address]" if _SIGN.search(word[0]) else word[0], text)


def printable(text: str) -> str:
    """Text from elsewhere as a log or a terminal may show it: each control character as ``?``.

    They could move the cursor, set the clipboard, reverse what is read or forge a line of a log.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "?" for char in text)


class EverlyticError(Exception):
    """The root of the tree.

    Attributes:
        message: What happened and what to do next, for a person to read.
        attempts: How many POSTs were started for the order until this error was final.
        may_have_been_processed: Whether the endpoint may have acted on the order. True only for
            `UnknownOutcomeError` and below.
    """

    may_have_been_processed: ClassVar[bool] = False
    attempts: int = 0

    def __init__(self, message: str, *details: object) -> None:
        super().__init__(message, *details)
        self.message = message

    def __str__(self) -> str:
        return self.message


class ConfigurationError(EverlyticError, ValueError):
    """A setting is missing or wrong. Raised before anything is sent."""


class InvalidOrderError(EverlyticError, ValueError):
    """The order can't be a valid trigger; nothing was sent.

    Attributes:
        faults: The faults of the order, up to 20, each starting with the path of its field, such
            as ``products[2].product_price: expected a number, got text``. No values of the order.
        line: The line or row of the input that it came from, counted from 1, where known.
        order_id: The order's id at the store, where it has one that can be written. No message and
            no `repr` shows it: in an invalid order it may be anything.
    """

    def __init__(
        self, faults: Iterable[str], line: int | None = None, order_id: str | None = None
    ) -> None:
        # One more than is shown stays in `args`: that there are more is known after pickling too.
        named = tuple(islice(faults, MAX_FAULTS + 1))
        self.faults = named[:MAX_FAULTS]
        self.line = line
        self.order_id = order_id  # not in `args`: pickling takes it along all the same
        message = "; ".join(self.faults)
        if len(named) > MAX_FAULTS:
            message += "; and more"
        super().__init__(message if line is None else f"line {line}: {message}")
        self.args = (named, line)


class _ResponseError(EverlyticError):
    """An error that may come from a response, and then knows its status and its Retry-After."""

    def __init__(
        self, message: str, status: int | None = None, retry_after_s: float | None = None
    ) -> None:
        details = (status,) if retry_after_s is None else (status, retry_after_s)
        super().__init__(message, *details)
        self.status = status
        self.retry_after_s = retry_after_s


class RejectedError(_ResponseError):
    """The endpoint answered that it refuses this order. It was not processed.

    Attributes:
        status: The HTTP status of the response. A 2xx means that the body held an error word.
        before_any_acceptance: Whether the ledger, if there is one, knew of no order that this
            endpoint and store accepted. Then the address, the workflow or the account may be at
            fault, and the ledger keeps the order as not sent.
    """

    before_any_acceptance: bool = False


class AuthenticationError(RejectedError):
    """401: the store hash or the customer hash is wrong. Every other order would fail likewise."""


class ThrottledError(_ResponseError):
    """The endpoint was busy until the retries ran out: 429, 408 or an immediate 503. Not processed.

    Attributes:
        status: The HTTP status of the last response.
        retry_after_s: How long the endpoint asked to wait, in seconds; None if it did not say.
    """


class NotSentError(EverlyticError):
    """Surely not processed: no connection, or it was cut before the body was sent, or never tried.

    Attributes:
        connected: Whether there was a connection, so that the endpoint can be reached.
        is_local: Whether a limit of this machine was the cause, such as its file descriptors.
    """

    connected: bool = False
    is_local: bool = False


class UnknownOutcomeError(_ResponseError):
    """The trigger may have been processed: nobody knows. Sending it again may notify twice.

    Attributes:
        status: The HTTP status of the response, if there was one.
    """

    may_have_been_processed = True


class ServerError(UnknownOutcomeError):
    """A 5xx: the server failed at an unknown point of its work.

    A 503 only where it came late: a gateway had passed the order on and gave up waiting.

    Attributes:
        status: The HTTP status of the response.
        retry_after_s: How long a late 503 asked to wait, in seconds; None if it did not say.
    """


class ResponseTimeoutError(UnknownOutcomeError):
    """The whole body was sent, and no complete response came in time."""


class ConnectionLostError(UnknownOutcomeError):
    """The whole body was sent, and the connection ended before a complete response."""


class UnexpectedResponseError(UnknownOutcomeError):
    """Not a response of this endpoint, such as an HTML page: the address is probably wrong."""


class SkippedError(EverlyticError):
    """The ledger knows the order, so it was not sent now.

    Attributes:
        state: What the ledger knows of it, a value of `everlytic_async.ledger.State`.
        other_body: Whether it is another order under the same key: its body differs from the one
            that the ledger knows.
    """

    def __init__(self, message: str, state: str | None = None, other_body: bool = False) -> None:
        super().__init__(message, state, other_body)
        self.state = state
        self.other_body = other_body


class LedgerError(EverlyticError):
    """The ledger can't be read or written. What it has no record of was not sent."""


class QueueError(EverlyticError):
    """The queue of orders can't be read or written: not reachable, full, or not as it should be.

    An order whose publishing raised this is perhaps stored. Publishing it again is safe: within its
    window the queue knows the order by its key.
    """


class _EarlyEndError(EverlyticError):
    def __init__(self, message: str, report: BatchReport | None = None) -> None:
        super().__init__(message, report)
        self.report = report


class BatchStoppedError(_EarlyEndError):
    """A batch ended early because every further order would have failed the same way.

    Attributes:
        report: What was known by then, when it was raised by `send_orders`; else None.
    """


class SourceError(_EarlyEndError):
    """The caller's iterable raised (see ``__cause__``). What had been read has its results.

    Attributes:
        report: What was known by then, when it was raised by `send_orders`; else None.
    """
