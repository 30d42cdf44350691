"""The plan before a large backfill, and the question whether to carry it out."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext, suppress

import attrs

from everlytic_async import EverlyticClient, Order
from everlytic_async.cli._client import find_proxy
from everlytic_async.cli._commands import SendOptions
from everlytic_async.cli._console import file_name, make_console, print_line
from everlytic_async.cli._counts import Tally
from everlytic_async.cli._exit import say
from everlytic_async.cli._forecast import Forecast, LedgerChoice, compare
from everlytic_async.cli._input import Input
from everlytic_async.cli._progress_bar import Bar
from everlytic_async.cli._repeats import REPEATED
from everlytic_async.cli._screen import count_orders, format_duration, join_some, open_terminal
from everlytic_async.cli._settings import Account
from everlytic_async.errors import ConfigurationError, EverlyticError, printable
from everlytic_async.ledger import LedgerFile, State
from everlytic_async.outcomes import Outcome

#: With more orders than this, a person is asked.
_CONFIRM_ABOVE = 1000
#: What the ledger has skipped, in words.
_SKIPPED = {
    State.SENT: "sent before",
    State.UNKNOWN: "unknown",
    State.REJECTED: "rejected before",
    State.IN_FLIGHT: "being sent by another process",
}
_LABELS = {
    Outcome.NOT_SENT: ("orders", "green", ""),
    Outcome.INVALID: ("invalid", "yellow", ""),
}
# What the endpoint allows is unknown beforehand: example rates, in orders per second.
_EXAMPLE_RATES = (10, 100)


@attrs.define
class InputCount:
    """How many orders of the input will be sent, and to which workflows.

    Attributes:
        tally: By outcome: ``NOT_SENT`` are those that will be sent.
        repeated: How many have the id of an earlier order, so that they are not sent, either.
        workflows: How many of those to send name which workflow; None if they name none.
        notes: What the ledger knows of these orders elsewhere, and what looks odd in the input.
    """

    tally: Tally = attrs.Factory(Tally)
    filtered: int = 0
    repeated: int = 0
    workflows: Counter[int | None] = attrs.Factory(Counter)
    notes: tuple[str, ...] = ()

    @property
    def to_send(self) -> int:
        """How many will be sent."""
        return self.tally.counts[Outcome.NOT_SENT]

    def describe(self) -> str:
        """The numbers in words."""
        rest = [
            f"{number:,} {what}"
            for number, what in (
                *((self.tally.skipped[state], words) for state, words in _SKIPPED.items()),
                (self.tally.counts[Outcome.INVALID], "not valid"),
                (self.repeated, "with the id of an earlier order"),
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
    """Show the plan and ask at the terminal, if there is much to send or something looks wrong.

    Nobody is asked otherwise, but what looks wrong is said. A trial (``--to``) may look wrong.
    """
    if source.is_terminal:
        return True
    with nullcontext() if options.yes else open_terminal() as terminal:
        at_most = None
        if terminal is None:
            # The first orders only: the others don't wait for a second reading of them all.
            at_most = min(source.limit or _CONFIRM_ABOVE, _CONFIRM_ABOVE)
        count = None
        if terminal is not None or (ledger is not None and not ledger.is_new):
            # Where nobody is asked, the run says what is wrong with the input.
            with nullcontext() if terminal is not None else suppress(ConfigurationError):
                count = asyncio.run(count_input(options, client, ledger, source, at_most))
        number = options.limit if count is None else count.to_send
        notes = () if count is None else count.notes
        source.announced.update(notes)
        looks_wrong = bool(notes and number and options.to is None)
        is_small = number is not None and number <= _CONFIRM_ABOVE
        if terminal is None or (is_small and not looks_wrong):
            for note in notes:
                say(f"Warning: {note}")
            return True
        reader, writer = terminal
        width = os.get_terminal_size(writer.fileno()).columns or None
        console = make_console(file=writer, width=width)
        for line in plan_lines(options, account, ledger, source, count):
            print_line(console, line)
        writer.write("Send them? [y/N] ")
        writer.flush()
        return reader.readline().strip().lower() in ("y", "yes")


async def count_input(
    options: SendOptions,
    client: EverlyticClient,
    ledger: LedgerChoice | None,
    source: Input,
    at_most: int | None = None,
) -> InputCount | None:
    """Compare the input, or its first orders, with the ledger; None if it can't be read twice."""
    if not source.is_seekable:
        return None
    count, limit = InputCount(), source.limit
    tally = count.tally
    bar = Bar("Counting", tally, _LABELS, enabled=options.progress)
    with ExitStack() as stack:
        forecast = None
        if ledger is not None and not ledger.is_new:
            file = stack.enter_context(LedgerFile(ledger.path, must_exist=True))
            forecast = Forecast(file, client, options.resend)
        stack.enter_context(source.first_pass(at_most))
        bar.start()
        stack.callback(bar.stop)
        try:
            async for index, order, outcome, error in compare(source.each(), forecast):
                _line, is_repeated = source.pop(index)  # memory does not grow with the input
                count.repeated += is_repeated
                if not is_repeated:
                    tally.add(outcome, 0, error)
                    if isinstance(order, Order) and outcome is Outcome.NOT_SENT:
                        count.workflows[order.workflow_id] += 1
                bar.draw()
        except (OSError, EverlyticError) as error:
            raise ConfigurationError(source.describe_error(error)) from error
        filtered = Counter(source.filtered)
        count.repeated += filtered.pop(REPEATED, 0)
        count.filtered = filtered.total()
        # There may be more orders than were read, unless --limit ended it.
        is_part = at_most is not None and at_most != limit and source.read_count == at_most
        count.notes = () if forecast is None else tuple(forecast.notes(is_part=is_part))
        if ledger is not None and (others := ledger.find_others(options.file)) is not None:
            count.notes += (others,)
        if not is_part:  # else the run counts them to the end, and says it then
            count.notes += tuple(source.warnings)
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
    through = "" if proxy is None else f", through the proxy {printable(proxy.host)}"
    results = "none (--results)" if options.results is None else file_name(options.results)
    yield f"About to send {number} from {source.name}:"
    yield f"  to        {account.host}{through}"
    yield f"  account   {account.origin}"
    if options.to is not None:
        yield f"  contact   {printable(options.to)}, in place of every customer's"
    if source.reading.mapped_by is not None:
        yield f"  mapping   {source.reading.mapped_by}"
    if source.reading.conditions:
        yield f"  where     {source.reading.conditions}"
    yield f"  workflow  {_workflow(options, count)}"
    yield f"  rate      {_rate(options, count)}"
    yield f"  ledger    {_ledger(options, ledger, count)}"
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
    return join_some(
        [
            f"{'none' if workflow is None else workflow} for {number:,}"
            for workflow, number in workflows.most_common()
        ]
    )


def _rate(options: SendOptions, count: InputCount | None) -> str:
    at_once = f"{options.concurrency:,} at once"
    if options.rate is not None:
        at_most = f"at most {options.rate:,g}/s, {at_once}"
        if count is None:
            return at_most
        return f"{at_most}: {format_duration(count.to_send / options.rate)} or more"
    allowed = f"what the endpoint allows, {at_once} (--rate)"
    if count is None:
        return allowed
    examples = (f"{format_duration(count.to_send / rate)} at {rate}/s" for rate in _EXAMPLE_RATES)
    return f"{allowed}: {', '.join(examples)}"


def _ledger(options: SendOptions, ledger: LedgerChoice | None, count: InputCount | None) -> str:
    if options.to is not None:
        return "none (--to): nothing is remembered"
    if ledger is None:
        return "none (--no-ledger): the same orders sent again notify again"
    if count is None:
        return f"{ledger.line}: what it knows is skipped, and could not be counted beforehand"
    return ledger.line
