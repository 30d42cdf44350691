"""Puts records together to orders: the rows of one order, which are skipped, and their faults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from everlytic_async._checks import MAX_ITEMS, get_order_id
from everlytic_async.errors import MAX_FAULTS, InvalidOrderError
from everlytic_async.orders import Order
from everlytic_async.sources._columns import check_repeated
from everlytic_async.sources._left_out import LeftOut
from everlytic_async.sources._mapper import RecordMapper
from everlytic_async.sources._options import ReadOptions
from everlytic_async.sources._preset import Preset
from everlytic_async.sources._records import InvalidRow, Item, Layout, Record
from everlytic_async.sources._rows import RepeatedRows, hashable
from everlytic_async.sources._synonyms import is_totals

#: An order, or its faults, with its place in the input.
Numbered = tuple[int, Order | InvalidOrderError]

#: More rows, cells and text than an order has: a wrong column to group by, or a hostile file, does
#: not fill the memory.
_MAX_ROWS = MAX_ITEMS
_MAX_CELLS = 500_000
_MAX_CHARS = 8 * 1024 * 1024
# The cells and characters of an order with fewer rows are not counted.
_FEW_ROWS = 8
_DUPLICATE = "duplicate row"
_HEADER = "repeated header"
_TOTALS = "row of totals"
_NAMELESS = "has no id of an order, and names no product: remove it, or fill it in"


def make_order(mapping: Any, number: int) -> Order | InvalidOrderError:
    """The order that a mapping is, or its faults with its place in the input."""
    try:
        return Order.from_mapping(mapping)
    except InvalidOrderError as error:
        return InvalidOrderError(error.args[0], number, error.order_id)
    except Exception as error:  # noqa: BLE001 - see `_unexpected`
        return _unexpected(error, number)


def _unexpected(error: Exception, number: int) -> InvalidOrderError:
    """The fault of an order whose data made something raise: the rest of the file is read.

    It does not hold the error's message: that may quote a value.
    """
    return InvalidOrderError([f"order: reading it raised {type(error).__name__}"], number)


class OrderAssembler:
    """Makes orders of the records of one input, and counts by reason what is left out.

    Raises:
        ConfigurationError: when what the caller asked for does not fit the records.
    """

    def __init__(
        self,
        options: ReadOptions,
        preset: Preset | None,
        layout: Layout,
        counts: dict[str, int],
        *,
        traces: bool,
    ) -> None:
        self.mapper = RecordMapper(options, preset, layout)
        self.left_out = LeftOut(options, preset, layout, self.mapper, counts)
        columns = self._columns = layout.columns or ()
        check_repeated(columns, self.mapper.compiler.used)
        self._is_shop = preset is not None
        self._dedupes = preset is not None and preset.dedupe_rows
        shop = self.left_out.shop
        get_start = self.mapper.key if shop is None else shop.get_status
        self._repeated = RepeatedRows(get_start, is_fault=self._dedupes)
        self._traces = traces
        self._traced: tuple[int, Mapping[str, str]] = (0, {})

    def warnings(self) -> Iterator[str]:
        """What a person should look at before the orders are sent."""
        return chain(self.left_out.warnings(), self.mapper.warnings(), self._repeated.warnings())

    def origins(self, number: int) -> Mapping[str, str]:
        """Where each field of the order came from that was handed out last."""
        return self._traced[1] if number == self._traced[0] else {}

    def orders(self, items: Iterator[tuple[int, Item]]) -> Iterator[Numbered]:
        """The orders of an input, in its order, each with the number of its first record."""
        if self.mapper.is_grouping:
            yield from self._grouped(items)
            return
        for number, item in items:
            if isinstance(item, InvalidRow):
                yield number, item.error
            elif (order := self._build(number, (item,), ())) is not None:
                yield number, order

    def _grouped(self, items: Iterator[tuple[int, Item]]) -> Iterator[Numbered]:
        """Put consecutive rows of one order together."""
        group: _Group | None = None
        suspect: int | None = None  # the row above, if it is unknown whose it is
        for number, item in items:
            key, row, error, continues = self._identify(number, item, group)
            if group is not None and not continues:
                if row is None:
                    group.add_suspect(number)
                if (order := self._finish(group)) is not None:
                    yield group.number, order
                group = None
            if row is None:
                if error is None:
                    self.left_out.count(_TOTALS)
                    continue
                yield number, error
                if not continues:
                    # It is unknown whose row it is: the orders before and after it may lack it.
                    suspect = number
                continue
            if group is None:
                group = self._start_group(number, key, suspect)
                suspect = None
            self._add(group, number, row, error)
        if group is not None and (order := self._finish(group)) is not None:
            yield group.number, order

    def _finish(self, group: _Group) -> Order | InvalidOrderError | None:
        return self._build(group.number, group.rows, group.faults)

    def _add(
        self, group: _Group, number: int, row: Record, error: InvalidOrderError | None
    ) -> None:
        if error is not None:
            for fault in error.faults:
                group.add_fault(fault if number == group.number else f"line {number} {fault}")
        elif self._dedupes and group.has(row):
            self.left_out.count(_DUPLICATE)
        else:
            group.add(row)

    def _identify(
        self, number: int, item: Item, group: _Group | None
    ) -> tuple[Any, Record | None, InvalidOrderError | None, bool]:
        """The key of a row, the row, its fault, and whether it continues the group.

        There is no row if it is unknown whose it is; then there is a fault, and what it continues
        is nobody's. Of a row of totals there is neither.
        """
        row: Any = item
        error: InvalidOrderError | None = None
        if isinstance(item, InvalidRow):
            row, error = item.row, item.error
            if row is None:
                return None, None, error, False
        try:
            key = self.mapper.key(row)
            # A damaged row of an order may hold such a word, too: as the name of a product.
            names_no_order = key is None or (error is not None and is_totals(key))
            if names_no_order and self.mapper.is_totals(row):
                return None, None, None, True
            if key is not None:
                return key, row, error, group is not None and bool(key == group.key)
            if isinstance(item, InvalidRow) and item.is_partial:
                return None, None, error, False
            # Exports leave out what does not change. Another contact is another order, except in a
            # shop's export, where such a row can't be an order of its own.
            is_further = self._is_shop or self.mapper.may_continue(
                row, () if group is None or group.key is None else group.rows
            )
            if is_further and self.mapper.is_nameless(row):
                return None, None, InvalidOrderError([_NAMELESS], number), True
        except Exception as raised:  # noqa: BLE001 - see `_unexpected`
            return None, None, _unexpected(raised, number), False
        return None, row, error, group is not None and is_further

    def _start_group(self, number: int, key: Any, suspect: int | None) -> _Group:
        group = _Group(number, key)
        if key is None and self._is_shop:
            group.add_fault("belongs to an order that is not above it: is it cut off?")
        if suspect is not None:
            group.add_suspect(suspect)
        return group

    def _build(
        self, number: int, rows: Sequence[Record], faults: Sequence[str]
    ) -> Order | InvalidOrderError | None:
        """The order of some records, or its faults; None if it is left out."""
        try:
            if not rows:
                return InvalidOrderError(list(faults), number)
            columns: Any = self._columns
            first: Any = rows[0]
            if columns and first[-1] == columns[-1] and _is_header(first, columns):
                self.left_out.count(_HEADER)
                return None
            reason, date_fault = self.left_out.judge(rows)
            if reason is not None:
                self.left_out.count(reason)
                return None
            if faults:
                return InvalidOrderError(list(faults), number)
            return self._make(number, rows, date_fault)
        except Exception as error:  # noqa: BLE001 - see `_unexpected`
            return _unexpected(error, number)

    def _make(
        self, number: int, rows: Sequence[Record], date_fault: str | None
    ) -> Order | InvalidOrderError | None:
        starts = 1
        if len(rows) > 1:
            kept, starts = self._repeated.once(rows)
            if len(kept) < len(rows):
                self.left_out.count(_DUPLICATE, len(rows) - len(kept))
            rows = kept
            self.mapper.differing.compare(number, rows)
        order, found = self.mapper.order(rows)
        if starts > 1:
            twice = self._repeated.check(number, rows, starts, order["products"])
            found += [] if twice is None else [twice]
        if date_fault is not None:
            found.insert(0, date_fault)
        if self._traces:
            self._traced = number, self.mapper.origins(rows, order)
        made = None if found else make_order(order, number)
        if isinstance(made, Order):
            return made
        if is_totals(order.get("order_id")) and self.mapper.is_totals(rows[0]):
            self.left_out.count(_TOTALS)
            return None
        if made is None:
            return InvalidOrderError(found, number, get_order_id(order))
        return self._explain(made, order)

    def _explain(self, error: InvalidOrderError, order: Mapping[str, Any]) -> InvalidOrderError:
        return InvalidOrderError(
            self.mapper.explain(error.faults, order), error.line, error.order_id
        )


class _Group:
    """The rows of an order that were read so far."""

    __slots__ = ("_chars", "_seen", "faults", "key", "number", "rows")

    def __init__(self, number: int, key: Any) -> None:
        self.number = number
        self.key = key
        self.rows: list[Record] = []
        self.faults: list[str] = []
        self._chars = 0
        self._seen: set[Any] = set()  # the rows, where they are many

    def has(self, row: Record) -> bool:
        """Whether an equal row was added."""
        if len(self.rows) < _FEW_ROWS:  # fast
            return row in self.rows
        self._seen.update(map(hashable, self.rows[len(self._seen) :]))
        return hashable(row) in self._seen

    def add(self, row: Record) -> None:
        """Add a row, unless there are too many.

        With a fault only the first row is needed: it may say that the order is skipped.
        """
        count = len(self.rows)
        if count >= _FEW_ROWS:
            cells = row.values() if isinstance(row, dict) else row
            self._chars += sum(len(cell) for cell in cells if isinstance(cell, str | bytes))
            if count >= _MAX_ROWS:
                self.add_fault(f"has more than {_MAX_ROWS:,} rows: is group_by the right column?")
            elif count * len(row) > _MAX_CELLS or self._chars > _MAX_CHARS:
                self.add_fault(
                    f"its rows have more than {_MAX_CELLS:,} cells or {_MAX_CHARS:,} characters: "
                    "is group_by the right column?"
                )
        if not count or not self.faults:
            self.rows.append(row)

    def add_fault(self, fault: str) -> None:
        if fault not in self.faults and len(self.faults) <= MAX_FAULTS:
            self.faults.append(fault)

    def add_suspect(self, number: int) -> None:
        self.add_fault(f"line {number}, next to it, can't be read and may be a row of this order")


def _is_header(row: Record, columns: Sequence[str]) -> bool:
    """Whether a row has the names of the columns, as where files were joined."""
    return [str(cell or "").strip("\ufeff ") for cell in row] == [*columns]
