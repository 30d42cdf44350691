"""Safe, paced, traceable delivery of order triggers to Everlytic's order-notification workflows.

The public names. They are loaded when they are first asked for (PEP 562): the command's ``--help``
and the sandbox need not wait for the client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from everlytic_async._version import __version__ as __version__

if TYPE_CHECKING:
    from everlytic_async.batch import OrderStream as OrderStream
    from everlytic_async.client import EverlyticClient as EverlyticClient
    from everlytic_async.errors import (
        AuthenticationError as AuthenticationError,
    )
    from everlytic_async.errors import (
        BatchStoppedError as BatchStoppedError,
    )
    from everlytic_async.errors import (
        ConfigurationError as ConfigurationError,
    )
    from everlytic_async.errors import (
        ConnectionLostError as ConnectionLostError,
    )
    from everlytic_async.errors import (
        EverlyticError as EverlyticError,
    )
    from everlytic_async.errors import (
        InvalidOrderError as InvalidOrderError,
    )
    from everlytic_async.errors import (
        LedgerError as LedgerError,
    )
    from everlytic_async.errors import (
        NotSentError as NotSentError,
    )
    from everlytic_async.errors import (
        QueueError as QueueError,
    )
    from everlytic_async.errors import (
        RejectedError as RejectedError,
    )
    from everlytic_async.errors import (
        ResponseTimeoutError as ResponseTimeoutError,
    )
    from everlytic_async.errors import (
        ServerError as ServerError,
    )
    from everlytic_async.errors import (
        SkippedError as SkippedError,
    )
    from everlytic_async.errors import (
        SourceError as SourceError,
    )
    from everlytic_async.errors import (
        ThrottledError as ThrottledError,
    )
    from everlytic_async.errors import (
        UnexpectedResponseError as UnexpectedResponseError,
    )
    from everlytic_async.errors import (
        UnknownOutcomeError as UnknownOutcomeError,
    )
    from everlytic_async.ledger import Ledger as Ledger
    from everlytic_async.ledger import SqliteLedger as SqliteLedger
    from everlytic_async.orders import Order as Order
    from everlytic_async.orders import Product as Product
    from everlytic_async.outcomes import (
        BatchReport as BatchReport,
    )
    from everlytic_async.outcomes import (
        OrderResult as OrderResult,
    )
    from everlytic_async.outcomes import (
        Outcome as Outcome,
    )
    from everlytic_async.outcomes import (
        Receipt as Receipt,
    )
    from everlytic_async.policies import (
        Delivery as Delivery,
    )
    from everlytic_async.policies import (
        Pacing as Pacing,
    )
    from everlytic_async.policies import (
        RetryPolicy as RetryPolicy,
    )
    from everlytic_async.policies import (
        Timeouts as Timeouts,
    )

_HOMES = {
    "batch": ("OrderStream",),
    "client": ("EverlyticClient",),
    "errors": (
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
    ),
    "ledger": ("Ledger", "SqliteLedger"),
    "orders": ("Order", "Product"),
    "outcomes": ("BatchReport", "OrderResult", "Outcome", "Receipt"),
    "policies": ("Delivery", "Pacing", "RetryPolicy", "Timeouts"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605 - a list of text, made from the one table


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
