"""`Reader`: from an input to orders, one after another."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, closing
from itertools import chain
from types import MappingProxyType
from typing import Any, Self

import attrs

from everlytic_async._strict_json import StrictDecoder
from everlytic_async.errors import ConfigurationError, InvalidOrderError
from everlytic_async.orders import Order
from everlytic_async.sources._assembler import Numbered, OrderAssembler, make_order
from everlytic_async.sources._bulk import join_lines
from everlytic_async.sources._columns import (
    CONTACTS,
    check_all_are_fields,
    check_identity,
    show_names,
)
from everlytic_async.sources._csv import CsvReader
from everlytic_async.sources._detect import Table, check_header, detect_container, open_table
from everlytic_async.sources._json import JsonReader, check_finite, read_json_lines, unwrap_all
from everlytic_async.sources._mapping import ORDER_FIELDS, PRODUCT_FIELDS, mapping_heads
from everlytic_async.sources._open import OpenedSource, Source, check_text, open_source
from everlytic_async.sources._options import ReadOptions
from everlytic_async.sources._records import InvalidRow, Item, Layout
from everlytic_async.sources._shops import PRESETS, find_preset
from everlytic_async.sources._suggest import find_orders
from everlytic_async.sources._xlsx import XlsxReader

_NEXT_PAGE = (
    "there are more orders on a further page, as the last page in this input says: ask for the "
    "next pages, too"
)
_CHANGED = (
    "the file changed while it was read, so its last order may have been cut off: wait until it is "
    "complete, compare that order, and run it again"
)

# The commonest contact of the first orders is counted on, if it is that common.
_FIRST_ORDERS, _MIN_FIRST = 10, 5
_NEARLY_ALL = 0.9

_Items = Iterator[tuple[int, Item]]


@attrs.frozen
class TracedOrder:
    """An order, and where each of its fields came from.

    Attributes:
        number: Its place in the input: see `Reader.lines`.
        order: The order, or its faults.
        origins: For each field that is set, such as ``total`` or ``products[0].product_name``, the
            column or path that its value is from, or what else it is.
    """

    number: int
    order: Order | InvalidOrderError
    origins: Mapping[str, str]


class Reader(Iterator[Order | InvalidOrderError]):
    """The orders of one input, read lazily, once. Made by `read_orders`.

    Iterate over it, or pass it to `everlytic_async.EverlyticClient.stream_orders`. It opens the
    file when the first order is asked for, and closes it at the end, by `close`, or by leaving a
    ``with``.

    Attributes:
        format: The format that the input was found to have, one of `FORMATS`; None before the first
            order.
        container: How it is written, whosever export it is: ``jsonl``, ``json``, ``csv``, ``tsv``,
            ``xlsx`` or ``parquet``; None before the first order.
    """

    def __init__(self, source: Source, options: ReadOptions) -> None:
        self._source = source
        self._options = options
        self._preset = PRESETS.get(options.format or "")
        self._skipped: dict[str, int] = {}
        self._assembler: OrderAssembler | None = None
        self._tally = _OrderTally(options.mapping)
        self._decoder = StrictDecoder()
        self._traces = False
        self._workbook: XlsxReader | None = None
        self._file_warnings: list[str] = []  # known at the end of the file
        self.format: str | None = None
        self.container: str | None = None
        self._numbered = self._read()
        self._orders = _without_numbers(self._numbered)

    # ----------------------------------------------------------------------------- for callers

    @property
    def skipped(self) -> Mapping[str, int]:
        """How many orders were left out so far, by reason.

        The reasons are those of `REASONS`, ``before since`` and ``not before until``; ``where``
        with the condition that did not hold; for the rows of a table, ``repeated header``,
        ``row of totals`` and ``duplicate row``.
        """
        return MappingProxyType(self._skipped)

    @property
    def unknown_statuses(self) -> Mapping[str, int]:
        """How many orders were read whose status the shop's table does not know, by status."""
        shop = None if self._assembler is None else self._assembler.left_out.shop
        return MappingProxyType({} if shop is None else shop.unknown_statuses)

    @property
    def unmatched_fields(self) -> frozenset[str]:
        """The fields that the mapping names and no order had so far: a path may be wrong."""
        return frozenset() if self._assembler is None else self._assembler.mapper.unmatched_fields

    @property
    def warnings(self) -> list[str]:
        """What a person should look at before the orders are sent, each in a sentence."""
        parts = (self._assembler, self._workbook, self._tally)
        of_parts = [part.warnings() for part in parts if part is not None]
        return [*chain(*of_parts), *self._file_warnings]

    def lines(self) -> Iterator[Numbered]:
        """Instead of the orders alone: each with its place in the input, counted from 1.

        That is its line in JSON Lines and CSV (its first, if it has several), its row in Parquet
        and Excel, and its place among the orders in a JSON document.
        """
        return self._numbered

    def traced(self) -> Iterator[TracedOrder]:
        """Instead of the orders alone: each with where its fields came from. It is slower."""
        self._traces = True
        for number, order in self._numbered:
            assembler = self._assembler
            origins = _own_names(order) if assembler is None else assembler.origins(number)
            yield TracedOrder(number, order, origins)

    def close(self) -> None:
        """Close what was opened here, before the end."""
        self._orders.close()
        self._numbered.close()

    def __iter__(self) -> Generator[Order | InvalidOrderError]:
        # Not itself: a generator is faster, and a stream of orders knows how to close one.
        return self._orders

    def __next__(self) -> Order | InvalidOrderError:
        return next(self._orders)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # --------------------------------------------------------------------------------- reading

    def _read(self) -> Generator[Numbered]:
        # A generator, so that a file that nobody reads is not opened, and needs no closing.
        is_any_read = False
        with closing(self._read_orders()) as orders:
            for numbered in orders:
                self._tally.add(numbered[1])
                is_any_read = True
                yield numbered
        if self._assembler is not None:
            self._assembler.left_out.end(is_any_read=is_any_read)

    def _read_orders(self) -> Generator[Numbered]:
        options = self._options
        with ExitStack() as stack:
            source = stack.enter_context(open_source(self._source, options.encoding))
            if not source.first_line.strip():
                return
            self.container = container = self._detect_container(source)
            self.format = options.format or container
            has_next_page = False
            match container:
                case "jsonl":
                    check_text(source)
                    yield from self._read_json(read_json_lines(source.file, self._decoder))
                case "json":
                    check_text(source)
                    heads = mapping_heads(options.mapping)
                    document = JsonReader(source.file, self._decoder, options.each, heads)
                    yield from self._read_json(iter(document))
                    has_next_page = document.has_next_page
                case _:
                    table = open_table(container, source, stack, options.encoding, options.sheet)
                    yield from self._read_table(table)
            if has_next_page:
                self._file_warnings.append(_NEXT_PAGE)
            if source.has_changed():
                self._file_warnings.append(_CHANGED)

    def _detect_container(self, source: OpenedSource) -> str:
        preset = self._preset
        container = detect_container(source, None if preset else self._options.format)
        if container == "jsonl" and self._options.each:
            return "json"  # a list of orders in each line
        is_tabular = container not in ("jsonl", "json", "parquet")
        if preset is not None and container != "parquet" and is_tabular != preset.is_tabular:
            kind = "CSV" if preset.is_tabular else "JSON"
            raise ConfigurationError(
                f"it is {container}, and {preset.name} is {kind}: choose another format"
            )
        return container

    def _read_table(self, table: Table) -> Iterator[Numbered]:
        columns = table.columns
        layout = Layout(columns, is_table=True, holds_text=isinstance(table, CsvReader))
        workbook = self._workbook = table if isinstance(table, XlsxReader) else None
        try:
            self._find_preset(dict.fromkeys(columns), is_table=True)
            assembler = None if self._has_own_names(layout) else self._new_assembler(layout)
        except ConfigurationError as error:
            check_header(table, self._options.mapping)
            if workbook is not None and workbook.other_sheets:
                others = show_names(workbook.other_sheets)
                raise ConfigurationError(
                    f"{error}. Only its first sheet was looked at: name another with --sheet, such "
                    f"as {others}"
                ) from None
            raise
        if assembler is None:
            yield from _make_orders(_as_objects(table))
            return
        if workbook is not None:
            workbook.used = assembler.mapper.compiler.used
        yield from assembler.orders(iter(table))

    def _read_json(self, items: _Items) -> Iterator[Numbered]:
        items = unwrap_all(items, mapping_heads(self._options.mapping))
        # The first order shows what the fields are called.
        first = yield from _find_first(items)
        if first is None:
            return
        items = chain([first], items)
        self._find_preset(first[1], is_table=False)
        if self._preset is not None and self._preset.joins_lines and self.container == "jsonl":
            items = join_lines(check_finite(items, self._decoder))
            first = yield from _find_first(items)
            if first is None:
                return
            items = chain([first], items)
        try:
            assembler = None
            layout = Layout(tuple(first[1]))
            if not self._has_own_names(layout):
                items = check_identity(check_finite(items, self._decoder), self._options.mapping)
                assembler = self._new_assembler(layout)
        except ConfigurationError as error:
            if (path := find_orders(first[1])) is None:
                raise
            option = shlex.quote(f"each={path}")
            raise ConfigurationError(
                f"its orders seem to be at '{path}': add --map {option}. As it is: {error}"
            ) from None
        yield from _make_orders(items) if assembler is None else assembler.orders(items)

    def _find_preset(self, record: Mapping[str, Any], *, is_table: bool) -> None:
        if self._options.format is None and (found := find_preset(record, is_table=is_table)):
            self._preset, self.format = found, found.name
        preset = self._preset
        if is_table and preset is not None and (missing := sorted(preset.keys - record.keys())):
            raise ConfigurationError(
                f"it is not {preset.name}: it has no columns {', '.join(missing)}"
            )
        if preset is None and self._options.include:
            raise ConfigurationError(
                "include is about the orders of a shop's export, and this is none that is known: "
                "nothing is left out of it but by --where, --since and --until"
            )

    def _has_own_names(self, layout: Layout) -> bool:
        """Whether the records are orders under the fields' own names, and need no assembler."""
        if self._preset is not None or not self._options.is_plain:
            return False
        has_products = "products" in layout.names
        is_flat = not has_products and any(name.startswith("product_") for name in layout.names)
        if layout.is_table or not is_flat:
            check_all_are_fields(layout)
        return has_products or not (layout.is_table or is_flat)

    def _new_assembler(self, layout: Layout) -> OrderAssembler:
        self._assembler = OrderAssembler(
            self._options, self._preset, layout, self._skipped, traces=self._traces
        )
        return self._assembler


def _make_orders(items: _Items) -> Iterator[Numbered]:
    """The orders whose fields have their own names."""
    for number, item in items:
        yield number, item.error if isinstance(item, InvalidRow) else make_order(item, number)


def _find_first(items: _Items) -> Generator[Numbered, None, tuple[int, Any] | None]:
    """Yield the faults before the first item that could be read, and return that item."""
    for number, item in items:
        if not isinstance(item, InvalidRow):
            return number, item
        yield number, item.error
    return None


def _as_objects(table: Table) -> _Items:
    """The rows as JSON has them."""
    columns = table.columns
    for number, row in table:
        if isinstance(row, InvalidRow):
            yield number, row
        else:
            yield number, dict(zip(columns, row, strict=True))


def _own_names(order: Order | InvalidOrderError) -> Mapping[str, str]:
    """The origins of fields that have their own names in the input."""
    if not isinstance(order, Order):
        return {}
    found = {name: name for name in ORDER_FIELDS if getattr(order, name) is not None}
    del found["products"]
    for place, product in enumerate(order.products):
        for name in PRODUCT_FIELDS:
            if getattr(product, name) is not None:
                found[f"products[{place}].{name}"] = f"products[{place}].{name}"
    return found


def _without_numbers(numbered: Generator[Numbered]) -> Generator[Order | InvalidOrderError]:
    with closing(numbered):
        for _number, order in numbered:
            yield order


class _OrderTally:
    """Counts the orders without an id, and those with the commonest contact."""

    def __init__(self, mapping: Mapping[str, Any]) -> None:
        self._with_id = self._without_id = 0
        self._field = next((field for field in CONTACTS if mapping.get(field) is not None), None)
        self._spec = None if self._field is None else mapping[self._field]
        self._counts_contacts = self._field is not None
        self._first: Counter[str] = Counter()
        self._commonest: str | None = None
        self._same = self._total = 0

    def add(self, order: Order | InvalidOrderError) -> None:
        """Count an order; of an invalid one only its id."""
        if order.order_id is not None:
            self._with_id += 1
        elif isinstance(order, Order):
            self._without_id += 1
        if self._counts_contacts and isinstance(order, Order):
            self._add_contact(getattr(order, self._field or ""))

    def _add_contact(self, contact: str | None) -> None:
        """Count a contact, in bounded memory."""
        if contact is None:
            return
        self._total += 1
        if self._commonest is not None:
            self._same += contact == self._commonest
            return
        self._first[contact] += 1
        if self._total == _FIRST_ORDERS:
            self._commonest, self._same = self._first.most_common(1)[0]
            self._first.clear()
            self._counts_contacts = self._same >= _MIN_FIRST

    def warnings(self) -> Iterator[str]:
        """What a person should look at before the orders are sent."""
        if self._same and self._counts_contacts and self._same >= _NEARLY_ALL * self._total:
            which = f"'{self._spec}'" if isinstance(self._spec, str) else "it"
            yield (
                f"{self._same:,} of {self._total:,} orders have the same contact: if {which} is "
                f"not the customers', map {self._field} to another column"
            )
        if self._without_id and not self._with_id:
            yield (
                "orders have no order_id: they are known by their content, so equal ones are sent "
                "once, and one that changes is sent again. Map order_id if the export has one"
            )
        elif self._without_id:
            yield (
                f"orders without order_id, while others have one: {self._without_id:,}. Each of "
                "them gets an e-mail of its own: if they are parts of other orders, fill in their "
                "order_id"
            )
