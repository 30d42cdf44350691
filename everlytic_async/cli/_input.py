"""The orders of one input, and the line that each of those under way came from.

A regular file is read on the event loop that sends the orders: a disk answers at once. A pipe or a
terminal may keep it waiting, so a thread reads it, whose wait can be interrupted.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

import attrs

from everlytic_async.cli._console import file_name
from everlytic_async.cli._exit import note
from everlytic_async.cli._options import (
    InputOptions,
    JoinOptions,
    ReadingOptions,
    WorkflowOptions,
)
from everlytic_async.cli._pipe import InterruptibleReader, ThreadedReader
from everlytic_async.cli._repeats import REPEATED, Repeats
from everlytic_async.cli._settings import WHERE_IS_MISSING, Settings
from everlytic_async.errors import ConfigurationError, EverlyticError, InvalidOrderError, printable
from everlytic_async.orders import Order
from everlytic_async.sources import (
    Reader,
    TracedOrder,
    normalize_mapping,
    parse_mapping,
    parse_where,
    read_orders,
)

Item = Order | InvalidOrderError
#: An order, and where it stands in the input: see `Input.place`.
Numbered = tuple[int, Item]

# What the number of an order counts, by how the input is written, and not by whose export it is:
# a shop's may be an order on each line, too.
# "Order 120" would be taken for the order's own number.
_PLACES = {"json": "record", "parquet": "row", "xlsx": "row"}
# The options that `[input]` may hold too.
_NOTATION = ("encoding", "decimal", "thousands", "date_format", "sheet")


@attrs.frozen
class Reading:
    """How an input is read.

    Attributes:
        arguments: Those of `read_orders`, beside the file.
        mapped_by: The file that says how columns are mapped, fit for a terminal.
        conditions: Which orders are read, in the words of ``--where``; empty for all.
    """

    arguments: Mapping[str, Any]
    mapped_by: str | None
    conditions: str

    @classmethod
    def choose(cls, options: ReadingOptions, format_: str | None, settings: Settings) -> Reading:
        """By the options, and where they don't say it, by the settings."""
        mapping, path = _load_mapping(options, settings)
        where = _load_where(options, settings)
        notation = settings.table("input").texts(*_NOTATION)
        for name in _NOTATION:
            if (value := getattr(options, name)) is not None:
                notation[name] = value
        arguments = {"format": format_, "mapping": mapping, "where": where, **notation}
        arguments |= {"since": options.since, "until": options.until, "include": options.include}
        return cls(
            arguments,
            None if path is None else file_name(path),
            printable("; ".join(each.shown for each in parse_where(where))),
        )


class Input:
    """One file, or the standard input (``-``): read it once, then close it.

    Attributes:
        limit: Read no more orders than this, valid or not; None for all of them.
        send_to: The address that takes the place of every order's contact; None for the orders'.
        show: How many orders to keep in `shown`, with where their fields came from.
        repeats: Which orders have the id of an earlier one, after `look_for_repeats`.
        announced: Which warnings were shown already.
        lines: By index from 0: the line of each order that has no result yet.
        read_count: How many orders were handed out.
        last_line: The line of the last one, or what the format has instead: see `place`.
        exhausted: Whether everything that was to be read was.
    """

    def __init__(
        self, name: str, reading: Reading, limit: int | None = None, workflow_id: int | None = None
    ) -> None:
        self.name = "standard input" if name == "-" else file_name(name)
        self.reading = reading
        self.limit = limit
        self.send_to: str | None = None
        self.show = 0
        self.shown: list[TracedOrder] = []
        self.repeats: Repeats | None = None
        self.announced: set[str] = set()
        self._leaves_out_repeats = False
        self._workflow_id = workflow_id
        self._stopped = False
        self._interruptible: InterruptibleReader | None = None
        self._reader_thread: ThreadedReader[Numbered] | None = None
        try:
            self._file = self._open(name)
        except OSError as error:
            raise ConfigurationError(f"{self.name} can't be read: {error.strerror}") from error
        try:
            self._start()
        except BaseException:
            self._file.close()
            raise

    def _start(self) -> None:
        self._reader: Reader = read_orders(self._file, **self.reading.arguments)
        self._repeated_lines: set[int] = set()
        self.lines: dict[int, int] = {}
        self.read_count = self.last_line = 0
        self.exhausted = False
        self._fraction: float | None = None  # of the file, when `expected` was last asked
        self._count: float | None = None  # as it was estimated then

    def _open(self, name: str) -> IO[bytes]:
        # Not sys.stdin: its lock would be waited for when the process ends.
        raw = io.FileIO(0 if name == "-" else name, closefd=name != "-")
        found = os.fstat(raw.fileno())
        if stat.S_ISREG(found.st_mode):
            file = io.BufferedReader(raw)
            self._start_offset = file.tell()
            self._size: int | None = found.st_size - self._start_offset
            return file
        self._size = None
        self._interruptible = InterruptibleReader(raw)
        return io.BufferedReader(self._interruptible)

    @property
    def is_terminal(self) -> bool:
        """Whether a person types the orders."""
        return self._file.isatty()

    @property
    def is_seekable(self) -> bool:
        """Whether `first_pass` is possible."""
        return self._size is not None

    @property
    def place(self) -> str:
        """What the number of an order counts: lines, or what the format has instead."""
        return _PLACES.get(self._reader.container or "", "line")

    @property
    def filtered(self) -> Mapping[str, int]:
        """How many orders were left out so far, by reason; none of them was handed out."""
        if not self._leaves_out_repeats or self.repeats is None or not self.repeats.count:
            return self._reader.skipped
        return {**self._reader.skipped, REPEATED: self.repeats.count}

    @property
    def warnings(self) -> list[str]:
        """What a person should look at before the orders are sent, each in a sentence."""
        if self.repeats is None:
            return self._reader.warnings
        is_table = self._reader.container not in ("json", "jsonl")
        return [*self._reader.warnings, *self.repeats.describe(self.place, is_table=is_table)]

    @property
    def never_set(self) -> frozenset[str]:
        """The fields that are mapped, and no order had so far."""
        return self._reader.unmatched_fields

    def describe_error(self, error: BaseException) -> str:
        """What to say of an error that the reading ended with; one of another kind is raised."""
        match error:
            case OSError():
                return f"{self.name} can't be read further: {error.strerror}"
            case EverlyticError():
                return f"{self.name}: {error}"
            case _:
                raise error

    def expected(self) -> float | None:
        """About how many orders there are to read; None while that is unknown. Call it regularly.

        Orders are read ahead of their turn, so this is not how much of the work is done.
        """
        if self.exhausted:
            return self.read_count
        fraction = self._fraction_read()
        if fraction != self._fraction:
            if self._fraction:
                # A file is read in blocks. How many orders one had is known when the next is read.
                self._count = self.read_count / self._fraction
            self._fraction = fraction
        count = None if self._count is None else max(self.read_count, self._count)
        return min((each for each in (self.limit, count) if each is not None), default=None)

    def _fraction_read(self) -> float | None:
        if self._size is None:
            return None
        done = self._file.tell() - self._start_offset
        return min(1.0, done / self._size) if self._size else 1.0

    @contextmanager
    def first_pass(self, at_most: int | None) -> Iterator[None]:
        """Read the first orders in a pass of their own: it is at its beginning again after it."""
        limit = self.limit
        self.limit = min((each for each in (limit, at_most) if each is not None), default=None)
        try:
            yield
        finally:
            self.limit = limit
            self._reader.close()
            self._file.seek(self._start_offset)
            if self.repeats is not None:
                self.repeats.close()
                self.repeats = Repeats()
            self._start()

    def orders(self) -> Iterator[Item] | AsyncIterator[Item]:
        """Every order; `lines` knows their lines."""
        return self._iter_sync() if self._interruptible is None else self.each()

    async def each(self) -> AsyncIterator[Item]:
        """The same, but async whatever the input is."""
        if self._interruptible is None:
            for order in self._iter_sync():
                yield order
            return
        self._reader_thread = ThreadedReader(self.numbered())
        async for numbered in self._reader_thread:
            if self._stopped:
                return
            yield self._deliver(numbered)
        self.exhausted = not self._stopped

    def pop(self, index: int) -> tuple[int, bool]:
        """The line of an order that has its result now; whether it has the id of an earlier one."""
        line = self.lines.pop(index)
        is_repeated = line in self._repeated_lines
        self._repeated_lines.discard(line)
        return line, is_repeated

    def stop(self) -> None:
        """Hand out no more orders, and end the wait for the next one."""
        self._stopped = True
        if self._interruptible is not None:
            self._interruptible.interrupt()

    def close(self) -> None:
        """Stop reading, even if blocked, and close what was opened here.

        The loop that took the orders still has to run: the thread uses it to the last.
        """
        self.stop()
        if self._reader_thread is not None:
            self._reader_thread.stop()
        self._reader.close()
        self._file.close()
        if self.repeats is not None:
            self.repeats.close()

    def look_for_repeats(self, *, leave_out: bool = False) -> None:
        """Count the orders that have the id of an earlier one.

        With `leave_out` only the first of them is handed out: for a run without a ledger.
        """
        self.repeats, self._leaves_out_repeats = Repeats(), leave_out

    def numbered(self) -> Iterator[Numbered]:
        """Every order with its line; `shown` keeps the first `show` of them."""
        orders: Iterator[Numbered] = map(self._amend, self._traced())
        if self.repeats is not None:
            orders = self._without_repeats(orders, self.repeats)
        return islice(orders, self.limit)

    def _without_repeats(self, orders: Iterator[Numbered], repeats: Repeats) -> Iterator[Numbered]:
        for line, order in orders:
            # An invalid order has a result of its own, and is left out by nothing else.
            is_order = isinstance(order, Order)
            if (is_order or not self._leaves_out_repeats) and repeats.is_repeated(line, order):
                if self._leaves_out_repeats:
                    continue
                if is_order:
                    self._repeated_lines.add(line)
            yield line, order

    def _traced(self) -> Iterator[Numbered]:
        if self.show:
            # Slower, so only these.
            for traced in islice(self._reader.traced(), self.show):
                self.shown.append(traced)
                yield traced.number, traced.order
        yield from self._reader.lines()

    def _amend(self, numbered: Numbered) -> Numbered:
        """What the options say of every order."""
        line, order = numbered
        if not isinstance(order, Order):
            return numbered
        if self._workflow_id is not None and order.workflow_id is None:
            order = attrs.evolve(order, workflow_id=self._workflow_id)
        if self.send_to is not None:
            order = attrs.evolve(order, contact_email=self.send_to, contact_unique_id=None)
        return line, order

    def _deliver(self, numbered: Numbered) -> Item:
        self.last_line, order = numbered
        # As a stream counts them: from 0, in the order of reading.
        self.lines[self.read_count] = self.last_line
        self.read_count += 1
        return order

    def _iter_sync(self) -> Iterator[Item]:
        for numbered in self.numbered():
            if self._stopped:
                return
            yield self._deliver(numbered)
        self.exhausted = True


@contextmanager
def open_input(options: InputOptions | JoinOptions, settings: Settings) -> Iterator[Input]:
    """Open the input that the options of a command name."""
    if isinstance(options, JoinOptions):
        name, format_ = str(options.with_file), options.with_format
    else:
        name, format_ = options.file, options.format
    limit = workflow_id = None
    if isinstance(options, WorkflowOptions):
        limit, workflow_id = options.limit, options.workflow_id
    reading = Reading.choose(options, format_, settings)
    with closing(Input(name, reading, limit, workflow_id)) as source:
        if source.is_terminal:
            note("Type or paste orders, one JSON object on a line. Ctrl-D ends the input.")
        yield source


def _load_where(
    options: ReadingOptions, settings: Settings
) -> Sequence[str] | Mapping[str, Any] | None:
    """The conditions of ``--where``, else those of the table ``[where]``."""
    if options.where:
        return options.where
    table = settings.table("where")
    try:
        parse_where(table.values)
    except ConfigurationError as error:
        raise ConfigurationError(f"{table}: {error}") from error
    return table.values or None


def _load_mapping(
    options: ReadingOptions, settings: Settings
) -> tuple[dict[str, Any], Path | None]:
    """The table ``[mapping]`` of the settings with ``--map`` over it, and the table's file."""
    table = settings.table("mapping")
    mapping = table.values
    from_options = parse_mapping(options.maps)
    try:
        normalize_mapping(
            {field: spec for field, spec in mapping.items() if field not in from_options}
        )
    except ConfigurationError as error:
        raise ConfigurationError(f"{table}: {_explain(error, mapping)}") from error
    products = mapping.get("products")
    if isinstance(products, Mapping) and "products" in from_options:
        # The option says where the products are, and nothing about their fields.
        from_options["products"] = {**products, "each": from_options["products"]}
    return {**mapping, **from_options}, table.path


def _explain(error: ConfigurationError, mapping: Mapping[str, Any]) -> str:
    """What is wrong with a mapping; of a list that is no field's, that it may be a condition."""
    what, colon, hint = str(error).removeprefix("mapping: ").partition(": ")
    name = what.removesuffix(" is not a field")
    products = mapping.get("products")
    inner = products if isinstance(products, Mapping) else {}
    values = {**mapping, **{f"products.{key}": value for key, value in inner.items()}}
    if name != what and isinstance(values.get(name), list):
        hint = f"{WHERE_IS_MISSING}; else {hint}"
    return f"{what}{colon}{hint}"
