"""The client that the options of a command ask for."""

from __future__ import annotations

from collections.abc import Sequence

from everlytic_async import Delivery, EverlyticClient, Pacing, RetryPolicy
from everlytic_async.cli._options import SendingOptions
from everlytic_async.cli._proxy import find_proxy
from everlytic_async.cli._settings import Account
from everlytic_async.events import Hook

__all__ = ["get_delivery", "make_client"]


def get_delivery(options: SendingOptions) -> Delivery:
    """What ``--delivery`` says."""
    return Delivery(options.delivery.replace("-", "_"))


def make_client(
    options: SendingOptions, account: Account, hooks: Sequence[Hook] = ()
) -> EverlyticClient:
    """Make a client, not yet open.

    Raises:
        ConfigurationError: the account is not valid.
    """
    return EverlyticClient(
        account.base_url,
        store_hash=account.store_hash,
        customer_hash=account.customer_hash,
        delivery=get_delivery(options),
        retry=RetryPolicy(attempts=options.retries + 1),
        pacing=Pacing(max_concurrency=options.concurrency, max_rate=options.rate),
        proxy=find_proxy(account.base_url),
        on_event=hooks,
        allow_http=options.allow_http,
    )
