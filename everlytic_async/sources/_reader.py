"""`Reader`: from an input to orders, one after another."""

from __future__ import annotations

import shlex
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import chain
from types import MappingProxyType, TracebackType
from typing import Any, Self

import attrs

from everlytic_async._strict_json import StrictDecoder, non_finite_faults
from everlytic_async.errors import ConfigurationError, InvalidOrderError
from everlytic_async.orders import Order
from everlytic_async.sources._assembler import Numbered, OrderAssembler, make_order
from everlytic_async.sources._bulk import join_lines
from everlytic_async.sources._columns import (
    check_all_are_fields,
    check_identity,
    check_repeated,
    show_names,
)
from everlytic_async.sources._contacts import ContactCounter
from everlytic_async.sources._csv import CsvReader
from everlytic_async.sources._detect import Table, check_header, detect_container, open_table
from everlytic_async.sources._json import read_json, unwrap_all
from everlytic_async.sources._jsonl import read_json_lines
from everlytic_async.sources._left_out import LeftOut
from everlytic_async.sources._mapper import RecordMapper
from everlytic_async.sources._mapping import ORDER_FIELDS, PRODUCT_FIELDS, mapping_paths
from everlytic_async.sources._open import OpenedSource, Source, check_text, open_source
from everlytic_async.sources._options import ReadOptions
from everlytic_async.sources._records import InvalidRow, Item
from everlytic_async.sources._shops import PRESETS, find_preset
from everlytic_async.sources._suggest import find_orders
from everlytic_async.sources._xlsx import XlsxReader

__all__ = ["Reader", "TracedOrder"]

_LINE_IDS = ("__parentId", "id")

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
        self._preset = None if options.format is None else PRESETS.get(options.format)
        self._left_out: LeftOut | None = None
        self._skipped: dict[str, int] = {}
        self._mapper: RecordMapper | None = None
        self._assembler: OrderAssembler | None = None
        self._workbook: XlsxReader | None = None
        self._contacts = ContactCounter(options.mapping)
        self._decoder = StrictDecoder()
        self._ids = _IdCount()
        self._traces = False
        self._has_ended = self._has_next_page = self._has_changed = False
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
        found = {} if self._left_out is None else self._left_out.unknown_statuses
        return MappingProxyType(found)

    @property
    def unmatched_fields(self) -> frozenset[str]:
        """The fields that the mapping names and no order had so far: a path may be wrong."""
        return frozenset() if self._mapper is None else self._mapper.unmatched_fields

    @property
    def warnings(self) -> list[str]:
        """What a person should look at before the orders are sent, each in a sentence."""
        found: list[str] = []
        for part in (
            self._left_out,
            self._mapper,
            self._assembler,
            self._contacts,
            self._workbook,
        ):
            found += () if part is None else part.warnings()
        if self._has_ended and self._has_next_page:
            found.append(
                "there are more orders on a further page, as the last page in this input says: ask "
                "for the next pages, too"
            )
        if self._has_changed:
            found.append(
                "the file changed while it was read, so its last order may have been cut off: wait "
                "until it is complete, compare that order, and run it again"
            )
        found += self._ids.warnings()
        return found

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
            origins = _own_names(order) if assembler is None else assembler.origins
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

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # --------------------------------------------------------------------------------- reading

    def _read(self) -> Generator[Numbered]:
        # A generator, so that a file that nobody reads is not opened, and needs no closing.
        is_any_read, is_counting = False, True
        with closing(self._read_orders()) as orders:
            for numbered in orders:
                self._ids.add(numbered[1])
                is_any_read = True
                if is_counting:
                    is_counting = self._contacts.add(numbered[1])
                yield numbered
        if self._left_out is not None:
            self._left_out.end(is_any_read=is_any_read)

    def _read_orders(self) -> Generator[Numbered]:
        with ExitStack() as stack:
            source = stack.enter_context(open_source(self._source, self._options.encoding))
            if not source.first_line.strip():
                return
            self.container = container = self._detect_container(source)
            self.format = self._options.format or container
            match container:
                case "jsonl":
                    check_text(source)
                    yield from self._read_json(read_json_lines(source.file, self._decoder))
                case "json":
                    check_text(source)
                    items = read_json(
                        source.file, self._decoder, self._options.each, self._heads, self._note_page
                    )
                    yield from self._read_json(items)
                case _:
                    table = open_table(
                        container, source, stack, self._options.encoding, self._options.sheet
                    )
                    yield from self._read_table(table)
            self._has_changed = source.has_changed()
            self._has_ended = True

    def _note_page(self, has_next: bool) -> None:
        self._has_next_page = has_next

    @property
    def _heads(self) -> frozenset[str]:
        """The keys that the paths of the mapping start with."""
        paths = mapping_paths(self._options.mapping)
        return frozenset(path.partition(".")[0] for field, path, _ in paths if field != "each")

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
        try:
            assembler = self._check_table(table)
        except ConfigurationError as error:
            check_header(table, self._options.mapping)
            if isinstance(table, XlsxReader) and table.other_sheets:
                others = show_names(table.other_sheets)
                raise ConfigurationError(
                    f"{error}. Only its first sheet was looked at: name another with --sheet, such "
                    f"as {others}"
                ) from None
            raise
        if assembler is None:
            yield from self._make_orders(_as_objects(table))
        else:
            yield from assembler.orders(iter(table))

    def _check_table(self, table: Table) -> OrderAssembler | None:
        """What makes orders of its rows; None if they are as orders in JSON."""
        columns = table.columns
        if isinstance(table, XlsxReader):
            self._workbook = table
        self._find_preset(dict.fromkeys(columns), is_table=True)
        if self._preset is not None and (missing := sorted(self._preset.keys - {*columns})):
            raise ConfigurationError(
                f"it is not {self._preset.name}: it has no columns {', '.join(missing)}"
            )
        if self._is_plain:
            check_all_are_fields(columns, is_table=True)
            if "products" in columns:
                return None
        holds_text = isinstance(table, CsvReader)
        assembler = self._new_assembler(columns, is_table=True, holds_text=holds_text)
        if isinstance(table, XlsxReader) and self._mapper is not None:
            table.used = self._mapper.compiler.used
        return assembler

    def _read_json(self, items: Iterator[tuple[int, Item]]) -> Iterator[Numbered]:
        items = unwrap_all(items, self._heads)
        # The first order shows what the fields are called.
        first = yield from _find_first(items)
        if first is None:
            return
        items = chain([first], items)
        self._find_preset(first[1], is_table=False)
        if self._preset is not None and self._preset.joins_lines and self.container == "jsonl":
            items = join_lines(map(self._check_finite, items))
            first = yield from _find_first(items)
            if first is None:
                return
            items = chain([first], items)
        try:
            assembler, items = self._check_json(first[1], items)
        except ConfigurationError as error:
            if (path := find_orders(first[1])) is None:
                raise
            option = shlex.quote(f"each={path}")
            raise ConfigurationError(
                f"its orders seem to be at '{path}': add --map {option}. As it is: {error}"
            ) from None
        if assembler is None:
            yield from self._make_orders(items)
        else:
            yield from assembler.orders(items)

    def _check_json(
        self, first: Mapping[str, Any], items: _Items
    ) -> tuple[OrderAssembler | None, _Items]:
        """What makes orders of the items, and these; None if they have the fields' own names."""
        names = tuple(first)
        is_flat = "products" not in names and any(name.startswith("product_") for name in names)
        if self._is_plain and not is_flat:
            check_all_are_fields(names, is_table=False)
            return None, items
        # Each right after it was decoded: the next one may be read ahead.
        items = check_identity(map(self._check_finite, items), self._options.mapping)
        return self._new_assembler(names, is_table=False), items

    def _make_orders(self, items: _Items) -> Iterator[Numbered]:
        """The orders whose fields have their own names."""
        for number, item in items:
            yield number, item.error if isinstance(item, InvalidRow) else make_order(item, number)

    @property
    def _is_plain(self) -> bool:
        return self._preset is None and self._options.is_plain

    def _find_preset(self, record: Mapping[str, Any], *, is_table: bool) -> None:
        if self._options.format is None and (found := find_preset(record, is_table=is_table)):
            self._preset, self.format = found, found.name
        if self._preset is None and self._options.include:
            raise ConfigurationError(
                "include is about the orders of a shop's export, and this is none that is known: "
                "nothing is left out of it but by --where, --since and --until"
            )

    def _new_assembler(
        self, names: Sequence[str], *, is_table: bool, holds_text: bool = False
    ) -> OrderAssembler:
        options, preset = self._options, self._preset
        mapper = self._mapper = RecordMapper(
            options.mapping,
            preset,
            names,
            options.notation,
            is_table=is_table,
            holds_text=holds_text,
        )
        left_out = self._left_out = LeftOut(
            preset,
            options,
            mapper.compiler,
            mapper.date,
            names,
            self._skipped,
            is_table=is_table,
            holds_text=holds_text,
        )
        if is_table:
            check_repeated(names, mapper.compiler.used)
        self._assembler = OrderAssembler(mapper, preset, left_out, names if is_table else ())
        self._assembler.traces = self._traces
        return self._assembler

    def _check_finite(self, numbered: tuple[int, Item]) -> tuple[int, Item]:
        """NaN and infinities are faults: a mapping could make a text or a sum of them."""
        if not self._decoder.found_non_finite:
            return numbered
        self._decoder.found_non_finite = False
        number, item = numbered
        faults = non_finite_faults(item) if isinstance(item, dict) else []
        if not isinstance(item, dict) or not faults:
            return numbered
        # As of a line that can't be read: a part of an order of Shopify's says whose it is.
        ids = [id_ if isinstance(id_ := item.get(key), str) else None for key in _LINE_IDS]
        return number, InvalidRow(InvalidOrderError(faults, number), ids if ids[0] else None)


class _IdCount:
    """How many orders have an order id, and how many valid ones have none."""

    def __init__(self) -> None:
        self._with = self._without = 0

    def add(self, order: Order | InvalidOrderError) -> None:
        """Count an order."""
        if order.order_id is not None:
            self._with += 1
        elif isinstance(order, Order):
            self._without += 1

    def warnings(self) -> Iterator[str]:
        """What a person should look at."""
        if self._without and not self._with:
            yield (
                "orders have no order_id: they are known by their content, so equal ones are sent "
                "once, and one that changes is sent again. Map order_id if the export has one"
            )
        if self._with and self._without:
            yield (
                f"orders without order_id, while others have one: {self._without:,}. Each of them "
                "gets an e-mail of its own: if they are parts of other orders, fill in their "
                "order_id"
            )


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
