"""`Reader`: from an open input to orders, one after another."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from itertools import chain
from types import MappingProxyType, TracebackType
from typing import Any, Self

import attrs

from everlytic_async._strict_json import StrictDecoder, non_finite_faults
from everlytic_async.errors import MAX_FAULTS, ConfigurationError, InvalidOrderError
from everlytic_async.orders import Order, get_order_id, is_safe_field_name
from everlytic_async.sources._csv import Rows
from everlytic_async.sources._dates import Moment, bound, moment_of
from everlytic_async.sources._detect import CONTAINERS, container_of
from everlytic_async.sources._json import is_order, read_json
from everlytic_async.sources._jsonl import read_json_lines
from everlytic_async.sources._magento import MAGENTO
from everlytic_async.sources._mapping import ORDER_FIELDS, PRODUCT_FIELDS, Mapped, normal
from everlytic_async.sources._open import Content, Source, opened, with_line_feeds
from everlytic_async.sources._parquet import Parquet
from everlytic_async.sources._preset import Preset
from everlytic_async.sources._records import BadRow, Item, Record
from everlytic_async.sources._shopify import SHOPIFY
from everlytic_async.sources._shopify_csv import SHOPIFY_CSV
from everlytic_async.sources._woocommerce import WOOCOMMERCE

__all__ = ["FORMATS", "REASONS", "Reader"]

_PRESETS: Mapping[str, Preset] = {
    preset.name: preset for preset in (WOOCOMMERCE, SHOPIFY, SHOPIFY_CSV, MAGENTO)
}
#: What ``format`` may be.
FORMATS: tuple[str, ...] = (*CONTAINERS, *_PRESETS)
#: What ``include`` may hold: why a shop's order is left out.
REASONS: tuple[str, ...] = tuple(
    dict.fromkeys(reason for preset in _PRESETS.values() for reason in preset.known_reasons)
)

#: More rows than an order has, and more cells and text: a wrong column to group by, or a hostile
#: file, fills no memory.
_MAX_ROWS = 10_000
_MAX_CELLS = 500_000
_MAX_CHARS = 8 * 1024 * 1024
# So few are not weighed.
_FEW_ROWS = 8
# Under these keys a single order stands in an object of its own: Shopify's webhooks and REST API,
# WordPress.com's.
_WRAPPERS = ("order", "data", "draft_order")
_DUPLICATE = "duplicate row"
_EARLY, _LATE = "before since", "not before until"

_Numbered = tuple[int, Order | InvalidOrderError]


class Reader(Iterator[Order | InvalidOrderError]):
    """The orders of one input, read lazily, once. Made by `read_orders`.

    Iterate over it, or hand it to `everlytic_async.EverlyticClient.stream_orders`. It opens the
    file when the first order is asked for, and closes it at the end, by `close`, or by leaving a
    ``with``.

    Attributes:
        format: What the input was found to be, one of `FORMATS`; None before the first order.
        container: How it is written, whosever export it is: ``jsonl``, ``json``, ``csv``, ``tsv``
            or ``parquet``; None before the first order.
    """

    def __init__(
        self,
        source: Source,
        format: str | None = None,  # noqa: A002 - the public name
        *,
        mapping: Mapping[str, Any] | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        include: Iterable[str] = (),
    ) -> None:
        if format is not None and format not in FORMATS:
            raise ConfigurationError(
                f"there is no format {format!r}: the known ones are {', '.join(FORMATS)}"
            )
        self._include = frozenset([include] if isinstance(include, str) else include)
        for reason in sorted(self._include - {*REASONS, "all"}):
            raise ConfigurationError(
                f"include: there is no {reason!r}: the known ones are all, {', '.join(REASONS)}"
            )
        self._source = source
        self._wanted = format
        self._mapping = normal(mapping)
        self._each = self._path_of_list(self._mapping.get("each"))
        self._since, self._until = bound("since", since), bound("until", until)
        self._preset = None if format is None else _PRESETS.get(format)
        self._mapped: Mapped | None = None
        self._decoder = StrictDecoder()
        self._skipped: dict[str, int] = {}
        self.format: str | None = None
        self.container: str | None = None
        self._numbered = self._read()
        self._orders = _without_lines(self._numbered)

    @staticmethod
    def _path_of_list(each: object) -> Sequence[str]:
        if each is None:
            return ()
        if not isinstance(each, str) or not all(each.split(".")):
            raise ConfigurationError("each: expected the path of the list of orders: data.orders")
        return each.split(".")

    # ----------------------------------------------------------------------------- for callers

    @property
    def skipped(self) -> Mapping[str, int]:
        """How many orders were left out so far, by reason.

        The reasons are those of `REASONS`, ``before since`` and ``not before until``; and for the
        rows of a Shopify CSV, ``duplicate row``.
        """
        return MappingProxyType(self._skipped)

    @property
    def never_set(self) -> frozenset[str]:
        """The fields that the mapping names and no order had so far: a path may be mistaken."""
        return frozenset() if self._mapped is None else frozenset(self._mapped.never_set)

    def lines(self) -> Iterator[_Numbered]:
        """Instead of the orders alone: each with its place in the input, counted from 1.

        That is its line in JSON Lines and CSV (its first, where it has several), its row in
        Parquet, and its place among the orders in a JSON document.
        """
        return self._numbered

    def close(self) -> None:
        """Close what was opened here, before the end."""
        self._orders.close()
        self._numbered.close()

    def __iter__(self) -> Generator[Order | InvalidOrderError]:
        # Not itself: a generator is quicker, and a stream of orders knows how to close one.
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

    def _read(self) -> Generator[_Numbered]:
        # A generator, so that a file which nobody reads is not opened, and needs no closing.
        with ExitStack() as stack:
            content = stack.enter_context(opened(self._source))
            if not content.first.strip():
                return
            self.container = container = self._container(content)
            self.format = self._wanted or container
            columns: Sequence[str] | None = None
            repeated: frozenset[str] = frozenset()
            items: Iterator[tuple[int, Item]]
            match container:
                case "jsonl":
                    items = _items(read_json_lines(content.file, self._decoder))
                case "json":
                    items = _items(read_json(content.file, self._decoder, self._each))
                case "parquet":
                    table = Parquet(content.file, stack)
                    columns, items = table.columns, iter(table)
                case _:
                    file = with_line_feeds(content, stack)
                    rows = Rows(file, "\t" if container == "tsv" else None)
                    columns, repeated, items = rows.columns, rows.repeated, iter(rows)
            yield from self._orders_of(items, columns, repeated)

    def _container(self, content: Content) -> str:
        preset = self._preset
        container = container_of(content, None if preset else self._wanted)
        if preset is not None and container != "parquet":
            is_text = container in ("csv", "tsv")
            if is_text != preset.in_rows:
                kind = "CSV" if preset.in_rows else "JSON"
                raise ConfigurationError(
                    f"it is {container}, and {preset.name} is {kind}: give another format"
                )
        return container

    @property
    def _is_plain(self) -> bool:
        return not self._mapping and self._since is None and self._until is None

    def _orders_of(
        self,
        items: Iterator[tuple[int, Item]],
        columns: Sequence[str] | None,
        repeated: frozenset[str],
    ) -> Iterator[_Numbered]:
        if columns is None:
            items = map(self._unwrapped, items)
            # Of JSON the first order says what the fields are called.
            for number, item in items:
                if isinstance(item, BadRow):
                    yield number, item.error
                    continue
                self._prepare(tuple(item), all_columns=False)
                items = chain([(number, item)], items)
                break
            else:
                return
        else:
            self._prepare(columns, all_columns=True)
            self._check_repeated(repeated)
        mapped = self._mapped
        if mapped is not None and columns is None:
            items = map(self._all_finite, items)
        if mapped is None:
            for number, item in items:
                yield number, item.error if isinstance(item, BadRow) else _order(item, number)
        elif mapped.is_grouping:
            yield from self._grouped(mapped, items)
        else:
            yield from self._alone(mapped, items)

    def _prepare(self, columns: Sequence[str], *, all_columns: bool) -> None:
        """Find out what the fields are called; leaves no `Mapped` where they are the wire's."""
        known = frozenset(columns)
        if self._wanted is None:
            self._preset = next(
                (
                    preset
                    for preset in _PRESETS.values()
                    if preset.in_rows == all_columns and preset.keys <= known
                ),
                None,
            )
            if self._preset is not None:
                self.format = self._preset.name
        preset = self._preset
        if preset is not None and all_columns and not preset.keys <= known:
            missing = ", ".join(sorted(preset.keys - known))
            raise ConfigurationError(f"it is no {preset.name}: it has no columns {missing}")
        is_flat = "products" not in known and (
            all_columns or any(name.startswith("product_") for name in known)
        )
        if preset is None and self._is_plain and not is_flat:
            return
        if preset is None and not self._mapping and all_columns:
            _check_columns(columns)
        self._mapped = Mapped(
            self._mapping,
            None if preset is None else preset.mapping,
            columns,
            all_columns=all_columns,
        )
        if (self._since is not None or self._until is not None) and not self._mapped.has_date:
            raise ConfigurationError(
                "since and until need the time of each order: name where it stands, such as with "
                "--map date=created_at"
            )

    def _unwrapped(self, numbered: tuple[int, Item]) -> tuple[int, Item]:
        """The same; of an object that wraps one order, that order."""
        number, item = numbered
        if isinstance(item, BadRow) or len(item) != 1:
            return numbered
        ((key, inner),) = item.items()
        is_wrapper = key in _WRAPPERS and isinstance(inner, dict) and is_order(inner)
        # A mapping may have paths that begin with the wrapper.
        if not is_wrapper or re.search(rf"['\"{{]{key}\.", repr(self._mapping)):
            return numbered
        return number, inner

    def _all_finite(self, numbered: tuple[int, Item]) -> tuple[int, Item]:
        """The same; NaN or an infinity is a fault: a mapping could make a text or a sum of it."""
        if not self._decoder.found_non_finite:
            return numbered
        self._decoder.found_non_finite = False
        number, item = numbered
        faults = [] if isinstance(item, BadRow) else non_finite_faults(item)
        return (number, BadRow(InvalidOrderError(faults, number))) if faults else numbered

    def _check_repeated(self, repeated: frozenset[str]) -> None:
        """Refuse columns that are there more than once, where one of them is used."""
        if not repeated or self._mapped is None:
            return
        probe = _Probe()
        with suppress(Exception):  # of a caller's function, which finds nothing in it
            self._mapped.key(probe)
            self._mapped.date(probe)
            self._mapped.order([probe])
            if self._preset is not None:
                list(self._preset.reasons(probe))
        used = sorted(repeated & probe.used)
        if used:
            names = ", ".join(repr(name) if is_safe_field_name(name) else "one" for name in used)
            raise ConfigurationError(
                f"its header has more than one column {names}, and the orders need it: rename or "
                "remove those that are not meant"
            )

    # ---------------------------------------------------------------------------------- orders

    def _alone(self, mapped: Mapped, items: Iterator[tuple[int, Item]]) -> Iterator[_Numbered]:
        """Take each for an order."""
        for number, item in items:
            if isinstance(item, BadRow):
                yield number, item.error
            else:
                yield from self._made(mapped, _Group(number, None, [item]))

    def _grouped(self, mapped: Mapped, items: Iterator[tuple[int, Item]]) -> Iterator[_Numbered]:
        """Put consecutive rows of one order together."""
        group: _Group | None = None
        suspect: int | None = None
        for number, item in items:
            row, error = (item.row, item.error) if isinstance(item, BadRow) else (item, None)
            key: Any = None
            continues = False
            if row is not None:
                try:
                    key = mapped.key(row)
                    continues = group is not None and self._continues(mapped, group, key, row)
                except Exception as raised:  # noqa: BLE001 - see `_unforeseen`
                    row, error = None, _unforeseen(raised, number)
            if key is None and isinstance(item, BadRow) and item.is_partial:
                row = None
            if row is None:
                # Whose row it was can't be known: the orders before and after it may lack it.
                if group is not None:
                    group.suspect(number)
                    yield from self._made(mapped, group)
                assert error is not None  # noqa: S101 - there is no row
                yield number, error
                group, suspect = None, number
                continue
            if group is None or not continues:
                if group is not None:
                    yield from self._made(mapped, group)
                group = _Group(number, key)
                if key is None and self._preset is not None:
                    group.fault("belongs to an order that does not stand above it: is it cut off?")
                if suspect is not None:
                    group.suspect(suspect)
                    suspect = None
            self._add(group, row, error, number)
        if group is not None:
            yield from self._made(mapped, group)

    def _continues(self, mapped: Mapped, group: _Group, key: Any, row: Record) -> bool:
        if key is not None:
            return bool(key == group.key)
        # Shopify leaves out what does not change. Elsewhere it takes a row without a contact.
        return self._preset is not None or not mapped.has_contact(row)

    def _add(
        self, group: _Group, row: Record, error: InvalidOrderError | None, number: int
    ) -> None:
        if error is not None:
            for fault in error.faults:
                group.fault(fault if number == group.number else f"line {number} {fault}")
        elif self._preset is not None and self._preset.one_row_once and group.has(row):
            self._skip(_DUPLICATE)
        else:
            group.add(row)

    def _made(self, mapped: Mapped, group: _Group) -> Iterator[_Numbered]:
        """The order of a group, its faults, or nothing where it is left out."""
        try:
            made = self._order_of(mapped, group)
        except Exception as error:  # noqa: BLE001 - see `_unforeseen`
            made = _unforeseen(error, group.number)
        if made is not None:
            yield group.number, made

    def _order_of(self, mapped: Mapped, group: _Group) -> Order | InvalidOrderError | None:
        number, rows = group.number, group.rows
        if rows and self._is_left_out(rows[0]):
            return None
        faults = list(group.faults)
        order: Mapping[str, Any] = {}
        if rows and not faults:
            if self._since is not None or self._until is not None:
                moment = moment_of(mapped.date(rows[0]))
                if moment is None:
                    faults.append("date: expected a time such as 2026-03-01T08:00:00")
                elif self._since is not None and moment < self._since:
                    self._skip(_EARLY)
                    return None
                elif self._until is not None and moment >= self._until:
                    self._skip(_LATE)
                    return None
            order, found = mapped.order(rows)
            faults += found
            if not faults:
                return _order(order, number)
        return InvalidOrderError(faults, number, get_order_id(order))

    def _is_left_out(self, record: Record) -> bool:
        if self._preset is None or "all" in self._include:
            return False
        for reason in self._preset.reasons(record):
            if reason not in self._include:
                self._skip(reason)
                return True
        return False

    def _skip(self, reason: str) -> None:
        self._skipped[reason] = self._skipped.get(reason, 0) + 1


class _Probe(Record):
    """A row that notes which of its columns are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.used: set[object] = set()

    def get(self, key: Any, default: Any = None) -> Any:
        self.used.add(key)
        return default

    def __contains__(self, key: object) -> bool:
        self.used.add(key)
        return False

    def __missing__(self, key: Any) -> Any:
        self.used.add(key)
        raise KeyError(key)


@attrs.define
class _Group:
    """The rows of an order, as far as they are read."""

    number: int
    key: Any
    rows: list[Record] = attrs.field(factory=list)
    faults: list[str] = attrs.field(factory=list)
    _seen: set[Any] | None = None
    _chars: int = 0

    def add(self, row: Record) -> None:
        """Add a row, unless there are too many."""
        count = len(self.rows)
        if count >= _FEW_ROWS:
            self._chars += sum(len(value) for value in row.values() if isinstance(value, str))
            if count >= _MAX_ROWS:
                self.fault(f"has more than {_MAX_ROWS:,} rows: is group_by the right column?")
            elif count * len(row) > _MAX_CELLS or self._chars > _MAX_CHARS:
                self.fault(
                    f"its rows have more than {_MAX_CELLS:,} cells or {_MAX_CHARS:,} characters: "
                    "is group_by the right column?"
                )
        # With a fault it is no order: its first row says whether it is left out all the same.
        if not count or not self.faults:
            self.rows.append(row)

    def has(self, row: Record) -> bool:
        """Whether there is a row like it, cell by cell."""
        if not self.rows:
            return False
        if self._seen is None:
            self._seen = {_cells(self.rows[0])}
        cells = _cells(row)
        known = cells in self._seen
        if not self.faults:
            self._seen.add(cells)
        return known

    def fault(self, fault: str) -> None:
        if fault not in self.faults and len(self.faults) <= MAX_FAULTS:
            self.faults.append(fault)

    def suspect(self, number: int) -> None:
        self.fault(f"line {number}, next to it, can't be read and may be a row of this order")


def _cells(row: Record) -> Any:
    cells = tuple(row.values())
    try:
        hash(cells)
    except TypeError:  # of Parquet: a list in a cell
        return repr(cells)
    return cells


def _order(mapping: Mapping[str, Any], number: int) -> Order | InvalidOrderError:
    try:
        return Order.from_mapping(mapping)
    except InvalidOrderError as error:
        return InvalidOrderError(error.args[0], number, error.order_id)
    except Exception as error:  # noqa: BLE001 - see `_unforeseen`
        return _unforeseen(error, number)


def _unforeseen(error: Exception, number: int) -> InvalidOrderError:
    """The fault of an order whose data made something raise: the rest of the file is read.

    It does not hold the error's message: that may quote a value.
    """
    return InvalidOrderError([f"order: reading it raised {type(error).__name__}"], number)


def _items(
    found: Iterator[tuple[int, Record | InvalidOrderError]],
) -> Iterator[tuple[int, Item]]:
    for number, item in found:
        yield number, BadRow(item) if isinstance(item, InvalidOrderError) else item


def _check_columns(columns: Sequence[str]) -> None:
    """Without a mapping, a column that is no field is a mistake, as a key is in JSON."""
    others = [name for name in columns if name and name not in (*ORDER_FIELDS, *PRODUCT_FIELDS)]
    if others:
        raise ConfigurationError(
            f"{len(others)} of its {len(columns)} columns are no fields of an order: say which "
            "column is which field, such as with --map contact_email=Email; the others are then "
            "left out"
        )


def _without_lines(numbered: Generator[_Numbered]) -> Generator[Order | InvalidOrderError]:
    with closing(numbered):
        for _line, order in numbered:
            yield order
