"""The plan before a large backfill, and the question whether to carry it out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from itertools import islice

import attrs

from everlytic_async import EverlyticClient
from everlytic_async.cli._commands import SendOptions
from everlytic_async.cli._forecast import Forecast, LedgerChoice
from everlytic_async.cli._input import Input, Numbered, printable
from everlytic_async.cli._progress import Bar
from everlytic_async.cli._proxy import find_proxy, proxy_host
from everlytic_async.cli._screen import count_orders, format_duration
from everlytic_async.cli._settings import Account
from everlytic_async.cli._tally import Tally
from everlytic_async.cli._terminal import open_terminal
from everlytic_async.errors import SkippedError
from everlytic_async.ledger import State
from everlytic_async.orders import Order
from everlytic_async.outcomes import Outcome

__all__ = ["InputCount", "confirm", "plan_lines"]

#: With more orders than this, a person is asked.
_CONFIRM_ABOVE = 1000
_MAX_WORKFLOWS = 5
#: What the ledger has skipped, in words.
_SKIPPED = {
    State.SENT: "sent before",
    State.UNKNOWN: "unknown",
    State.REJECTED: "rejected before",
    State.IN_FLIGHT: "being sent by another process",
}
# What the endpoint allows is unknown beforehand: example rates, in orders per second.
_EXAMPLE_RATES = (10, 100)


@attrs.define
class InputCount:
    """How many orders of the input will be sent, and to which workflows.

    Attributes:
        to_send: Those that will be sent.
        skipped: Those that the ledger has skipped, by what it knows of them.
        invalid: Those that are not valid.
        filtered: Those that are left out.
        workflows: How many of those to send name which workflow; None if they name none.
        notes: What the ledger knows of these orders elsewhere.
    """

    to_send: int = 0
    skipped: Counter[State] = attrs.Factory(Counter)
    invalid: int = 0
    filtered: int = 0
    workflows: Counter[int | None] = attrs.Factory(Counter)
    notes: tuple[str, ...] = ()

    def add(
        self,
        orders: Iterable[tuple[Numbered, SkippedError | None]],
        source: Input,
        *,
        progress: bool,
    ) -> None:
        """Count these orders of an input, with a progress bar.

        Args:
            orders: Each order, and why it would be skipped.
            source: The input.
            progress: Whether a progress bar may be shown.
        """
        tally = Tally()
        filtered = source.filtered  # of this pass: it grows, and remains when the pass has ended
        names = {Outcome.NOT_SENT: "orders", Outcome.INVALID: "invalid"}
        bar = Bar("Counting", tally, names, enabled=progress, transient=True)
        bar.start()
        try:
            for (_line, order), skipped in orders:
                outcome = Outcome.NOT_SENT
                if skipped is not None:
                    self.skipped[State(str(skipped.state))] += 1
                elif isinstance(order, Order):
                    self.to_send += 1
                    self.workflows[order.workflow_id] += 1
                else:
                    self.invalid += 1
                    outcome = Outcome.INVALID
                tally.add(outcome, 0)
                self.filtered = sum(filtered.values())
                bar.draw()
            if tally.total != source.limit:
                self.filtered = sum(filtered.values())  # with those after the last order
        finally:
            bar.stop()

    def describe(self) -> str:
        """The numbers in words."""
        rest = [
            f"{number:,} {what}"
            for number, what in (
                *((self.skipped[state], words) for state, words in _SKIPPED.items()),
                (self.invalid, "not valid"),
                (self.filtered, "left out"),
            )
            if number
        ]
        return count_orders(self.to_send) + (f" (and not {', '.join(rest)})" if rest else "")


def confirm(
    options: SendOptions,
    account: Account,
    client: EverlyticClient,
    ledger: LedgerChoice | None,
    source: Input,
) -> bool:
    """Show the plan and ask, if there is much to send and a terminal to ask at."""
    if source.is_terminal:
        return True
    with open_terminal() as terminal:
        if terminal is None:
            return True
        count = _count(options, client, ledger, source)
        number = options.limit if count is None else count.to_send
        if number is not None and number <= _CONFIRM_ABOVE:
            return True
        return terminal.confirm(plan_lines(options, account, ledger, source, count), "Send them?")


def _count(
    options: SendOptions, client: EverlyticClient, ledger: LedgerChoice | None, source: Input
) -> InputCount | None:
    """Compare the input with the ledger; None if it can't be read twice, or is small anyway."""
    if not source.is_seekable or (source.limit or _CONFIRM_ABOVE + 1) <= _CONFIRM_ABOVE:
        return None
    count = InputCount()
    with ExitStack() as stack:
        orders = islice(stack.enter_context(closing(source.first_pass())), source.limit)
        if ledger is None or ledger.is_new:
            count.add(((each, None) for each in orders), source, progress=options.progress)
        else:
            resend = [Outcome(name) for name in options.resend]
            known = stack.enter_context(Forecast(ledger.path, client, resend))
            count.add(known.predict(orders), source, progress=options.progress)
            count.notes = tuple(known.notes())
    return count


def plan_lines(
    options: SendOptions,
    account: Account,
    ledger: LedgerChoice | None,
    source: Input,
    count: InputCount | None,
) -> Iterator[str]:
    """The plan in words; `count` is None if the input could not be counted."""
    if count is not None:
        number = count.describe()
    else:
        most = "" if options.limit is None else f", {options.limit:,} at most"
        number = f"an unknown number of orders{most},"
    proxy = find_proxy(account.base_url)
    through = "" if proxy is None else f", through the proxy {printable(proxy_host(proxy))}"
    results = "none (--results)" if options.results is None else printable(options.results)
    yield f"About to send {number} from {source.name}:"
    yield f"  to        {account.host}{through}"
    yield f"  account   {account.origin}"
    if source.mapped_by is not None:
        yield f"  mapping   {source.mapped_by}"
    yield f"  workflow  {_workflow(options, count)}"
    yield f"  rate      {_rate(options, count)}"
    yield f"  ledger    {_ledger(ledger, count)}"
    yield f"  results   {results}"
    for note in () if count is None else count.notes:
        yield f"  note      {note}"
    yield "Each order puts a customer into a workflow, which may e-mail them."


def _workflow(options: SendOptions, count: InputCount | None) -> str:
    if count is None:
        if options.workflow_id is None:
            return "as each order says"
        return f"{options.workflow_id} for the orders that name none"
    workflows = count.workflows
    if set(workflows) == {None}:
        return "none is named: Everlytic chooses (--workflow-id)"
    if len(workflows) == 1:
        return str(next(iter(workflows)))
    shown = [
        f"{'none' if workflow is None else workflow} for {number:,}"
        for workflow, number in workflows.most_common(_MAX_WORKFLOWS)
    ]
    more = len(workflows) - _MAX_WORKFLOWS
    return ", ".join(shown) + (f", and {more:,} more" if more > 0 else "")


def _rate(options: SendOptions, count: InputCount | None) -> str:
    at_once = f"{options.concurrency:,} at once"
    if options.rate is not None:
        takes = (
            "" if count is None else f": {format_duration(count.to_send / options.rate)} or more"
        )
        return f"at most {options.rate:,g}/s, {at_once}{takes}"
    allowed = f"what the endpoint allows, {at_once} (--rate)"
    if count is None:
        return allowed
    examples = (f"{format_duration(count.to_send / rate)} at {rate}/s" for rate in _EXAMPLE_RATES)
    return f"{allowed}: {', '.join(examples)}"


def _ledger(ledger: LedgerChoice | None, count: InputCount | None) -> str:
    if ledger is None:
        return "none (--no-ledger): the same orders sent again notify again"
    if count is None:
        return f"{ledger.line}: what it knows is skipped, and could not be counted beforehand"
    return ledger.line
