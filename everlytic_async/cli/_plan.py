"""Before a large backfill: what is about to be done, for the question whether to do it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from itertools import islice

import attrs

from everlytic_async import EverlyticClient
from everlytic_async.cli._forecast import Forecast, LedgerChoice
from everlytic_async.cli._input import Input, Numbered, printable
from everlytic_async.cli._proxy import find_proxy, proxy_host
from everlytic_async.cli._screen import Bar, format_duration, count_orders
from everlytic_async.cli._send_options import Options
from everlytic_async.cli._settings import Account
from everlytic_async.cli._tally import Tally
from everlytic_async.cli._terminal import open_terminal
from everlytic_async.errors import SkippedError
from everlytic_async.ledger import State
from everlytic_async.orders import Order
from everlytic_async.outcomes import Outcome

__all__ = ["Count", "Plan", "is_wanted"]

# More orders than this are a backfill.
_MANY = 1000

_WORKFLOWS = 5
#: What the ledger has skipped, in words.
_KNOWN = {
    State.SENT: "sent before",
    State.UNKNOWN: "unknown",
    State.REJECTED: "rejected before",
    State.IN_FLIGHT: "being sent by another process",
}
# What the endpoint takes is not known beforehand: what it would take at these rates, a second.
_FOR_INSTANCE = (10, 100)


class Count:
    """How many orders there are to send, and to which workflows.

    Attributes:
        orders: Those that will be sent.
        known: By what the ledger says of them: those that it has skipped.
        invalid: Those that are not valid.
        left_out: Those that are left out.
        workflows: How many of those that will be sent name which workflow; None for those that
            name none.
    """

    def __init__(self) -> None:
        self.orders = 0
        self.known: Counter[State] = Counter()
        self.invalid = 0
        self.left_out = 0
        self.workflows: Counter[int | None] = Counter()

    def of(
        self,
        found: Iterable[tuple[Numbered, SkippedError | None]],
        source: Input,
        *,
        progress: bool,
    ) -> Count:
        """Take these orders of an input, and count them.

        How far that has come is shown.

        Args:
            found: The orders, as far as the input's limit goes, and why each would be skipped.
            source: The input.
            progress: Whether a progress bar may be shown.
        """
        tally = Tally()
        left_out = source.left_out  # of this pass: it grows, and is there when the pass has ended
        names = {Outcome.NOT_SENT: "orders", Outcome.INVALID: "invalid"}
        bar = Bar("Counting", names=names, length_known=True, wanted=progress, passing=True)
        bar.start()
        try:
            for (_line, order), skipped in found:
                if skipped is not None:
                    self.known[State(str(skipped.state))] += 1
                    tally.add(Outcome.NOT_SENT, 0)
                elif isinstance(order, Order):
                    self.orders += 1
                    self.workflows[order.workflow_id] += 1
                    tally.add(Outcome.NOT_SENT, 0)
                else:
                    self.invalid += 1
                    tally.add(Outcome.INVALID, 0)
                self.left_out = sum(left_out.values())
                if bar.is_shown:
                    bar.draw(tally, source.share_read())
            if tally.total != source.limit:
                self.left_out = sum(left_out.values())  # with those after the last order
        finally:
            bar.stop(tally, None)
        return self


@attrs.frozen(kw_only=True)
class Plan:
    """What is about to be done.

    Attributes:
        source: The input's name, fit for a terminal.
        host: Where the orders go, and by which way.
        account: Where the address and the hashes come from.
        count: What was counted beforehand; None where that is not possible.
        limit: The most orders that are read; None for all.
        workflow_id: The workflow of the orders that name none.
        rate: The most orders per second; None for what the endpoint allows.
        concurrency: The most at once.
        ledger: The ledger, in words; None without one.
        mapping: The settings file that says what columns mean; None where none does.
        notes: What else to know before.
        results: The path of the results; None without any.
    """

    source: str
    host: str
    account: str
    count: Count | None
    limit: int | None
    workflow_id: int | None
    rate: float | None
    concurrency: int
    ledger: str | None
    mapping: str | None = None
    notes: tuple[str, ...] = ()
    results: str | None

    @property
    def is_large(self) -> bool:
        """Whether it may be a backfill."""
        if self.count is not None:
            return self.count.orders > _MANY
        return self.limit is None or self.limit > _MANY

    def lines(self) -> Iterator[str]:
        """The plan in words."""
        yield f"About to send {self._how_many()} from {self.source}:"
        yield f"  to        {self.host}"
        yield f"  account   {self.account}"
        if self.mapping is not None:
            yield f"  mapping   {self.mapping}"
        yield f"  workflow  {self._workflow()}"
        yield f"  rate      {self._pace()}"
        yield f"  ledger    {self._ledger()}"
        results = "none (--results)" if self.results is None else printable(self.results)
        yield f"  results   {results}"
        for note in self.notes:
            yield f"  note      {note}"
        yield "Each order puts a customer into a workflow, which may e-mail them."

    def _how_many(self) -> str:
        if self.count is None:
            most = "" if self.limit is None else f", {self.limit:,} at most"
            return f"an unknown number of orders{most},"
        rest = [
            f"{number:,} {what}"
            for number, what in (
                *((self.count.known[state], words) for state, words in _KNOWN.items()),
                (self.count.invalid, "not valid"),
                (self.count.left_out, "left out"),
            )
            if number
        ]
        return count_orders(self.count.orders) + (f" (and not {', '.join(rest)})" if rest else "")

    def _workflow(self) -> str:
        if self.count is None:
            if self.workflow_id is None:
                return "as each order says"
            return f"{self.workflow_id} for the orders that name none"
        named = self.count.workflows
        if set(named) == {None}:
            return "none is named: that is for Everlytic to choose (--workflow-id)"
        if len(named) == 1:
            return str(next(iter(named)))
        shown = [
            f"{'none' if workflow is None else workflow} for {count:,}"
            for workflow, count in named.most_common(_WORKFLOWS)
        ]
        more = f", and {len(named) - _WORKFLOWS:,} more" if len(named) > _WORKFLOWS else ""
        return ", ".join(shown) + more

    def _pace(self) -> str:
        count = None if self.count is None else self.count.orders
        if self.rate is not None:
            lasts = "" if count is None else f": {format_duration(count / self.rate)} or more"
            return f"at most {self.rate:,g}/s, {self.concurrency:,} at once{lasts}"
        found = f"what the endpoint allows, {self.concurrency:,} at once (--rate)"
        if count is None:
            return found
        cases = ", ".join(f"{format_duration(count / rate)} at {rate}/s" for rate in _FOR_INSTANCE)
        return f"{found}: {cases}"

    def _ledger(self) -> str:
        if self.ledger is None:
            return "none (--no-ledger): the same orders sent again notify again"
        if self.count is None:
            return f"{self.ledger}: what it knows is skipped, and could not be counted beforehand"
        return self.ledger


def is_wanted(
    options: Options,
    account: Account,
    client: EverlyticClient,
    ledger: LedgerChoice | None,
    source: Input,
) -> bool:
    """Show what is about to be done and ask, where there is much to do and somebody to ask."""
    if source.is_terminal:
        return True
    with open_terminal() as terminal:
        if terminal is None:
            return True
        plan = _plan(options, account, client, ledger, source)
        return not plan.is_large or terminal.confirm(plan.lines(), "Send them?")


def _plan(
    options: Options,
    account: Account,
    client: EverlyticClient,
    ledger: LedgerChoice | None,
    source: Input,
) -> Plan:
    """What is about to be done; the input is compared with the ledger where it may be large."""
    count: Count | None = None
    notes: list[str] = []
    if source.can_be_read_twice and (source.limit or _MANY + 1) > _MANY:
        with ExitStack() as stack:
            ahead = islice(stack.enter_context(closing(source.ahead())), source.limit)
            known = None
            if ledger is not None and not ledger.is_new:
                known = stack.enter_context(Forecast(ledger.path, client, options.resent()))
            found = ((each, None) for each in ahead) if known is None else known.tell(ahead)
            count = Count().of(found, source, progress=options.progress)
            notes = [] if known is None else list(known.notes())
    proxy = find_proxy(account.base_url)
    by = "" if proxy is None else f", through the proxy {printable(proxy_host(proxy))}"
    return Plan(
        source=source.shown,
        host=account.host + by,
        account=account.origin,
        count=count,
        limit=options.limit,
        workflow_id=options.workflow_id,
        rate=options.rate,
        concurrency=options.concurrency,
        ledger=None if ledger is None else ledger.line,
        mapping=source.mapped_by,
        notes=tuple(notes),
        results=options.results,
    )
