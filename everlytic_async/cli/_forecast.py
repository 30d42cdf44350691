"""Which ledger a run uses, and what that says of its input before anything is sent.

A forecast reads only: no ledger is made, and none is changed.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from itertools import repeat
from pathlib import Path
from typing import Any

import attrs

from everlytic_async import EverlyticClient, Order, SkippedError
from everlytic_async.cli._console import file_name
from everlytic_async.cli._input import Item
from everlytic_async.cli._options import LedgerOptions, command_with
from everlytic_async.cli._screen import join_some, open_terminal
from everlytic_async.cli._settings import Settings
from everlytic_async.errors import ConfigurationError, InvalidOrderError
from everlytic_async.ledger import Entry, LedgerFile, State
from everlytic_async.outcomes import Outcome

#: The ledger where nobody names one, in the working directory.
DEFAULT_LEDGER = "everlytic.ledger"
# How others are called that people name, and what a SQLite file starts with.
_LEDGERS, _DATABASE = "*.ledger", b"SQLite format 3\0"
# How many orders are looked up at once: they are in memory together, and may be large.
_AT_ONCE = 16
# What an order is elsewhere that would be sent here: it notified somebody, or may have.
_NOTIFIED = (State.SENT, State.UNKNOWN, State.IN_FLIGHT)
_PLACES_SHOWN = 3


@attrs.frozen
class LedgerChoice:
    """The ledger of a run: its absolute path; the path as it was named, fit for a terminal."""

    path: Path
    shown: str
    is_named: bool

    @property
    def is_new(self) -> bool:
        """Whether there is none yet."""
        return not self.path.exists()

    @property
    def line(self) -> str:
        """What to say of it."""
        return f"{file_name(self.path)}{' (new)' if self.is_new else ''}"

    def find_others(self, file: str) -> str | None:
        """What to say if another ledger than the default may know that the orders were sent.

        It is beside the input; or where the default is new, in the working directory.
        """
        if self.is_named:
            return None
        beside = [] if file == "-" else [Path(file).parent, Path(os.path.realpath(file)).parent]
        places: dict[Path, Path] = {}
        for place in (Path(), *beside):
            places.setdefault(place.resolve(), place)
        here, *searched = places.values()
        if self.is_new:  # else others there are copies, or of other shops
            searched.append(here)
        names = [name for place in searched for name in sorted(place.glob(_LEDGERS))]
        others = [os.fspath(name) for name in names if _is_database(name)]
        if not others:
            return None
        if not self.is_new:
            return (
                f"beside the input is {file_name(join_some(others))}, and this run uses "
                f"{self.shown}: name the one that knows these orders (--ledger)"
            )
        return (
            f"there is no ledger at {file_name(self.path)}, but there "
            f"{'is' if len(others) == 1 else 'are'} {file_name(join_some(others))}. A new one "
            "would not know what was sent with that. Name the ledger that knows these orders:\n"
            f"  {command_with('--ledger', others[0])}\n"
            "Or, if none of them was sent before, start a new one:\n"
            f"  {command_with('--ledger', self.shown)}"
        )

    def check_default(self, file: str) -> None:
        """See that a default ledger is not made where it would forget what was sent.

        Raises:
            ConfigurationError: there is another one; or nobody would see that it is new, as with a
                job that starts in another directory each time.
        """
        if self.is_named or not self.is_new:
            return
        if (others := self.find_others(file)) is not None:
            raise ConfigurationError(others)
        with open_terminal() as terminal:
            is_asked = terminal is not None
        if not is_asked:
            raise ConfigurationError(
                f"there is no ledger at {file_name(self.path)}. On a terminal a new one would "
                "be created; without one (cron, a container) it might be a new one every time, "
                "which remembers nothing. Say where the ledger is:\n"
                '  --ledger FILE, or ledger = "FILE" in the table [everlytic] of the settings: '
                "it is made where there is none\n"
                "  --no-ledger to do without: the same orders sent again then notify again"
            )


def _is_database(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_DATABASE)) == _DATABASE
    except OSError:  # of somebody else
        return False


def choose_ledger(options: LedgerOptions, settings: Settings) -> LedgerChoice | None:
    """The ledger of a run; None with ``--no-ledger``."""
    if options.no_ledger:
        if options.ledger is not None:
            raise ConfigurationError("--ledger and --no-ledger contradict each other")
        return None
    named = options.ledger or settings.ledger
    name = os.fspath(named or DEFAULT_LEDGER)
    path = Path(os.path.abspath(name))  # noqa: PTH100 - not resolve(): the name that the user knows
    if not path.parent.is_dir():
        raise ConfigurationError(
            f"the ledger {str(path)!r} can't be created: there is no directory {str(path.parent)!r}"
        )
    return LedgerChoice(path, file_name(name), named is not None)


class Forecast:
    """What a ledger says of orders before any is sent to whom `client` sends: it is only read."""

    def __init__(
        self, file: LedgerFile, client: EverlyticClient, resend: Collection[str] = ()
    ) -> None:
        self._file = file
        self._client = client
        self._resend = [Outcome(name) for name in resend]
        self._scopes: frozenset[int] = frozenset()
        # How many orders that are not known here are known elsewhere: by host, workflow, and
        # whether the endpoint and the store are the same.
        self._elsewhere: Counter[tuple[str, str | None, bool]] = Counter()

    async def find_skipped(self, orders: Sequence[Item]) -> list[SkippedError | None]:
        """Why each order would be skipped; None where it would be sent, or is invalid."""
        valid = [order for order in orders if isinstance(order, Order)]
        ledger: Any = self  # of a ledger it only is what a forecast asks
        found = iter(await self._client.forecast(valid, ledger=ledger, resend=self._resend))
        return [next(found) if isinstance(order, Order) else None for order in orders]

    def notes(self, *, is_part: bool = False) -> Iterator[str]:
        """Where else the ledger knows orders that would be sent: a line for each place.

        Another workflow, host, path or store is another trigger, and may be meant. A mistyped one
        notifies everybody again.
        """
        least = "at least " if is_part else ""
        for (host, workflow, is_here), count in self._elsewhere.most_common(_PLACES_SHOWN):
            where = "without a workflow id" if workflow is None else f"in workflow {workflow}"
            if not is_here:
                where = f"at another address or store ({host}) {where}"
            yield (
                f"the ledger knows {least}{count:,} of these orders as sent, or perhaps sent, "
                f"{where}: sending them here is another trigger, which may notify the same "
                "customers again"
            )

    @asynccontextmanager
    async def session(self, scope: str, host: str) -> AsyncIterator[Forecast]:  # noqa: ARG002
        """Look at what is known of one endpoint and store."""
        self._scopes = self._file.find_scopes(scope)
        yield self

    async def look_up(self, keys: Sequence[str]) -> Mapping[str, Entry]:
        """What is known of these orders."""
        known = self._file.look_up(self._scopes, keys)
        self._look_elsewhere(
            [key for key in keys if key not in known or known[key].state is State.NOT_SENT]
        )
        return known

    def _look_elsewhere(self, keys: Iterable[str]) -> None:
        order_ids = {key.rpartition("@")[0] or key for key in keys}
        found = set()
        for order_id, host, scope, entry in self._file.find(order_ids):
            if entry.state in _NOTIFIED:
                workflow = entry.key.removeprefix(order_id).removeprefix("@")
                found.add((order_id, host, workflow or None, scope in self._scopes))
        for _order_id, host, workflow_id, is_here in found:
            self._elsewhere[host, workflow_id, is_here] += 1


async def compare(
    orders: AsyncIterable[Item], forecast: Forecast | None
) -> AsyncIterator[tuple[int, Item, Outcome, SkippedError | InvalidOrderError | None]]:
    """Each order with its index, and what it is: invalid or skipped, and why; else not sent yet."""
    index = 0
    async for some in _batched(orders):
        skipped = repeat(None) if forecast is None else await forecast.find_skipped(some)
        for order, reason in zip(some, skipped, strict=False):
            if isinstance(order, InvalidOrderError):
                yield index, order, Outcome.INVALID, order
            else:
                outcome = Outcome.NOT_SENT if reason is None else Outcome.SKIPPED
                yield index, order, outcome, reason
            index += 1
        await asyncio.sleep(0)  # for signals, and the progress bar


async def _batched(orders: AsyncIterable[Item]) -> AsyncIterator[list[Item]]:
    some: list[Item] = []
    async for order in orders:
        some.append(order)
        if len(some) == _AT_ONCE:
            yield some
            some = []
    yield some
