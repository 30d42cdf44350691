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
        BatchStoppedError as BatchStoppedError,
        ConfigurationError as ConfigurationError,
        ConnectionLostError as ConnectionLostError,
        EverlyticError as EverlyticError,
        InvalidOrderError as InvalidOrderError,
        LedgerError as LedgerError,
        NotSentError as NotSentError,
        QueueError as QueueError,
        RejectedError as RejectedError,
        ResponseTimeoutError as ResponseTimeoutError,
        ServerError as ServerError,
        SkippedError as SkippedError,
        SourceError as SourceError,
        ThrottledError as ThrottledError,
        UnexpectedResponseError as UnexpectedResponseError,
        UnknownOutcomeError as UnknownOutcomeError,
    )
    from everlytic_async.ledger import (
        Ledger as Ledger,
        SqliteLedger as SqliteLedger,
    )
    from everlytic_async.orders import (
        Order as Order,
        Product as Product,
    )
    from everlytic_async.outcomes import (
        BatchReport as BatchReport,
        OrderResult as OrderResult,
        Outcome as Outcome,
        Receipt as Receipt,
    )
    from everlytic_async.policies import (
        Delivery as Delivery,
        Pacing as Pacing,
        RetryPolicy as RetryPolicy,
        Timeouts as Timeouts,
    )
else:  # hidden from type checkers, who would take any name for one of these

    def __getattr__(name: str) -> object:
        if name in __all__:
            for module in map(import_module, _MODULES):
                if name in module.__all__:
                    value = globals()[name] = getattr(module, name)
                    return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


#: Where the names are, the quick to load first.
_MODULES = tuple(
    f"{__name__}.{module}"
    for module in ("errors", "outcomes", "policies", "orders", "ledger", "batch", "client")
)

__all__ = [
    "AuthenticationError",
    "BatchReport",
    "BatchStoppedError",
    "ConfigurationError",
    "ConnectionLostError",
    "Delivery",
    "EverlyticClient",
    "EverlyticError",
    "InvalidOrderError",
    "Ledger",
    "LedgerError",
    "NotSentError",
    "Order",
    "OrderResult",
    "OrderStream",
    "Outcome",
    "Pacing",
    "Product",
    "QueueError",
    "Receipt",
    "RejectedError",
    "ResponseTimeoutError",
    "RetryPolicy",
    "ServerError",
    "SkippedError",
    "SourceError",
    "SqliteLedger",
    "ThrottledError",
    "Timeouts",
    "UnexpectedResponseError",
    "UnknownOutcomeError",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
