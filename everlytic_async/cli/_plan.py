"""Before a large backfill: what is about to be done, and the question whether to do it.

Asked on a terminal only. The answer is read from the terminal itself, for the standard input may
be the orders.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO

import attrs

from everlytic_async.cli._exit import say
from everlytic_async.cli._input import Input, Item, printable
from everlytic_async.cli._screen import Bar, lasting, orders
from everlytic_async.cli._tally import Tally
from everlytic_async.ledger import LedgerFile, State
from everlytic_async.orders import Order
from everlytic_async.outcomes import Outcome

__all__ = ["MANY", "Count", "Plan"]

#: More orders than this are a backfill.
MANY = 1000

_WORKFLOWS = 5
# What the endpoint takes is not known beforehand: what it would take at these rates, a second.
_FOR_INSTANCE = (10, 100)


class Count:
    """How many orders there are to send, and to which workflows.

    Attributes:
        orders: Those that are valid.
        invalid: Those that are not.
        left_out: Those that are left out.
        workflows: How many orders name which workflow; None for those that name none.
    """

    def __init__(self) -> None:
        self.orders = 0
        self.invalid = 0
        self.left_out = 0
        self.workflows: Counter[int | None] = Counter()

    def of(self, found: Iterable[Item], source: Input, *, progress: bool) -> Count:
        """Take all these orders of an input, and count them as far as its limit goes.

        How far that has come is shown.
        """
        tally = Tally()
        left_out = source.left_out  # of this pass: it grows, and is there when the pass has ended
        names = {Outcome.NOT_SENT: "orders", Outcome.INVALID: "invalid"}
        bar = Bar("Counting", names=names, length_known=True, wanted=progress, passing=True)
        bar.start()
        try:
            for order in found:
                if tally.total == source.limit:
                    continue
                if isinstance(order, Order):
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
        host: Where the orders go.
        count: What was counted beforehand; None where that is not possible.
        limit: The most orders that are read; None for all.
        workflow_id: The workflow of the orders that name none.
        rate: The most orders per second; None for what the endpoint allows.
        concurrency: The most at once.
        ledger: The ledger's path; None without one.
        results: The path of the results; None without any.
    """

    source: str
    host: str
    count: Count | None
    limit: int | None
    workflow_id: int | None
    rate: float | None
    concurrency: int
    ledger: str | None
    results: str | None

    @property
    def is_large(self) -> bool:
        """Whether it may be a backfill."""
        if self.count is not None:
            return self.count.orders > MANY
        return self.limit is None or self.limit > MANY

    def lines(self) -> Iterator[str]:
        """The plan in words.

        Raises:
            LedgerError: when the ledger can't be used.
        """
        yield f"About to send {self._how_many()} from {self.source}:"
        yield f"  to        {self.host}"
        yield f"  workflow  {self._workflow()}"
        yield f"  rate      {self._pace()}"
        yield f"  ledger    {self._ledger()}"
        results = "none (--results)" if self.results is None else printable(self.results)
        yield f"  results   {results}"
        yield "Each order puts a customer into a workflow, which may e-mail them."

    def _how_many(self) -> str:
        if self.count is None:
            most = "" if self.limit is None else f", {self.limit:,} at most"
            return f"an unknown number of orders{most},"
        rest = [
            f"{number:,} {what}"
            for number, what in (
                (self.count.invalid, "not valid"),
                (self.count.left_out, "left out"),
            )
            if number
        ]
        return orders(self.count.orders) + (f" (and not {', '.join(rest)})" if rest else "")

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
            lasts = "" if count is None else f": {lasting(count / self.rate)} or more"
            return f"at most {self.rate:,g}/s, {self.concurrency:,} at once{lasts}"
        found = f"what the endpoint allows, {self.concurrency:,} at once (--rate)"
        if count is None:
            return found
        cases = ", ".join(f"{lasting(count / rate)} at {rate}/s" for rate in _FOR_INSTANCE)
        return f"{found}: {cases}"

    def _ledger(self) -> str:
        if self.ledger is None:
            return "none (--ledger): what is interrupted can't be taken up safely"
        shown = printable(self.ledger)
        if not os.path.exists(self.ledger):  # noqa: PTH110 - a name as it was given
            return f"{shown}, which is new"
        with LedgerFile(self.ledger, must_exist=True) as ledger:
            counts = ledger.overview().counts
        known = [
            f"{counts[state]:,} {state}".replace("_", " ")
            for state in (State.SENT, State.UNKNOWN, State.IN_FLIGHT)
            if counts[state]
        ]
        return f"{shown}, which knows of {', '.join(known) or 'none'}: they are skipped"

    def confirmed(self) -> bool:
        """Show it and ask; True also where there is nobody to ask."""
        if not sys.stderr.isatty():
            return True
        with _terminal() as terminal:
            if terminal is None:
                return True
            for line in self.lines():
                say(line)
            sys.stderr.write("Send them? [y/N] ")
            sys.stderr.flush()
            return terminal.readline().strip().lower() in ("y", "yes")


@contextmanager
def _terminal() -> Iterator[IO[str] | None]:
    """Where somebody answers; None where there is nobody."""
    if sys.stdin is not None and sys.stdin.isatty():
        yield sys.stdin
        return
    try:
        terminal = open("/dev/tty", encoding="utf-8", errors="replace")  # noqa: PTH123, SIM115
    except OSError:
        yield None
        return
    with terminal:
        yield terminal
