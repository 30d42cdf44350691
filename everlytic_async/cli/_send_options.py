"""The options of ``send``, and what they ask for."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import attrs

from everlytic_async import (
    ConfigurationError,
    Delivery,
    EverlyticClient,
    Outcome,
    Pacing,
    RetryPolicy,
)
from everlytic_async.cli._forecast import LedgerChoice, choose_ledger
from everlytic_async.cli._input import Reading, printable
from everlytic_async.cli._proxy import find_proxy
from everlytic_async.cli._results import APPEND_OPTION
from everlytic_async.cli._settings import Account
from everlytic_async.events import Hook

__all__ = ["Options"]


@attrs.frozen(kw_only=True)
class Options:
    """The options of ``send``, and the words of the command that they came from."""

    words: list[str]
    file: str
    reading: Reading
    sandbox: bool
    dry_run: bool
    limit: int | None
    concurrency: int
    rate: float | None
    delivery: str
    retries: int
    workflow_id: int | None
    results: str | None
    append_results: bool
    report: str | None
    ledger: str | None
    no_ledger: bool
    resend: tuple[str, ...]
    durability: str | None
    config: str | None
    allow_http: bool
    yes: bool
    progress: bool

    def check(self) -> None:
        """See that they make sense together.

        Raises:
            ConfigurationError: when they don't.
        """
        if self.ledger is not None and self.sandbox:
            raise ConfigurationError(
                "--sandbox is a stand-in that ends with this run: a ledger would remember orders "
                "that nobody got. To try a ledger, run `everlytic-async sandbox` in another "
                "terminal"
            )
        if self.no_ledger or self.sandbox:
            without = "--no-ledger" if self.no_ledger else "--sandbox"
            if self.resend:
                raise ConfigurationError(
                    f"--resend is about what the ledger says of an order: leave out {without}"
                )
            if self.durability is not None:
                raise ConfigurationError(f"--durability is about the ledger: leave out {without}")

    def choose_ledger(self) -> LedgerChoice | None:
        """The ledger of this run; None without one.

        Raises:
            ConfigurationError: when the options contradict each other, or the settings are wrong.
        """
        if self.sandbox:
            return None
        return choose_ledger(self.ledger, no_ledger=self.no_ledger, config=self.config)

    def resent(self) -> list[Outcome]:
        """The outcomes that are sent again, though the ledger has them."""
        return [Outcome(name) for name in self.resend]

    def again(self) -> str:
        """The command to run it again, to be copied."""
        words = list(self.words)
        if self.results not in (None, "-") and not self.append_results:
            words.insert(2, APPEND_OPTION)
        return " ".join(shlex.quote(printable(word)) for word in words)

    @property
    def delivery_rule(self) -> Delivery:
        """What ``--delivery`` asks for."""
        return Delivery(self.delivery.replace("-", "_"))

    def client(self, account: Account, hooks: Sequence[Hook] = ()) -> EverlyticClient:
        """The client that these options ask for, not yet open.

        Raises:
            ConfigurationError: when the account is not one.
        """
        return EverlyticClient(
            account.base_url,
            store_hash=account.store_hash,
            customer_hash=account.customer_hash,
            delivery=self.delivery_rule,
            retry=RetryPolicy(attempts=self.retries + 1),
            pacing=Pacing(max_concurrency=self.concurrency, max_rate=self.rate),
            proxy=find_proxy(account.base_url),
            on_event=hooks,
            allow_http=self.allow_http,
        )
