"""`Reader`: from an input to orders, one after another."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import chain
from types import MappingProxyType, TracebackType
from typing import Any, Self

from everlytic_async._strict_json import StrictDecoder, non_finite_faults
from everlytic_async.errors import ConfigurationError, InvalidOrderError
from everlytic_async.orders import Order, is_safe_field_name
from everlytic_async.sources._assembler import Numbered, OrderAssembler, make_order
from everlytic_async.sources._csv import CsvReader
from everlytic_async.sources._dates import DateLike, parse_bound
from everlytic_async.sources._detect import CONTAINERS, detect_container
from everlytic_async.sources._json import is_order, read_json
from everlytic_async.sources._jsonl import read_json_lines
from everlytic_async.sources._magento import MAGENTO
from everlytic_async.sources._mapper import RecordMapper
from everlytic_async.sources._mapping import (
    ORDER_FIELDS,
    PRODUCT_FIELDS,
    mapping_paths,
    normalize_mapping,
)
from everlytic_async.sources._open import OpenedSource, Source, open_source, with_line_feeds
from everlytic_async.sources._parquet import ParquetReader
from everlytic_async.sources._preset import Preset
from everlytic_async.sources._records import InvalidRow, Item
from everlytic_async.sources._shopify import SHOPIFY
from everlytic_async.sources._shopify_csv import SHOPIFY_CSV
from everlytic_async.sources._woocommerce import WOOCOMMERCE

__all__ = ["FORMATS", "REASONS", "Reader"]

_PRESETS: Mapping[str, Preset] = {
    preset.name: preset for preset in (WOOCOMMERCE, SHOPIFY, SHOPIFY_CSV, MAGENTO)
}
#: What ``format`` may be.
FORMATS: tuple[str, ...] = (*CONTAINERS, *_PRESETS)
#: What ``include`` may hold: why a shop's order is skipped.
REASONS: tuple[str, ...] = tuple(
    dict.fromkeys(reason for preset in _PRESETS.values() for reason in preset.reasons)
)
# Under these keys a single order is wrapped in an object: Shopify's webhooks and REST API,
# WordPress.com's.
_WRAPPERS = ("order", "data", "draft_order")


class Reader(Iterator[Order | InvalidOrderError]):
    """The orders of one input, read lazily, once. Made by `read_orders`.

    Iterate over it, or pass it to `everlytic_async.EverlyticClient.stream_orders`. It opens the
    file when the first order is asked for, and closes it at the end, by `close`, or by leaving a
    ``with``.

    Attributes:
        format: The format that the input was found to have, one of `FORMATS`; None before the first
            order.
        container: How it is written, whosever export it is: ``jsonl``, ``json``, ``csv``, ``tsv``
            or ``parquet``; None before the first order.
    """

    def __init__(
        self,
        source: Source,
        format: str | None = None,  # noqa: A002 - the public name
        *,
        mapping: Mapping[str, Any] | None = None,
        since: DateLike | None = None,
        until: DateLike | None = None,
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
        self._requested = format
        self._mapping = normalize_mapping(mapping)
        self._each = _split_each(self._mapping.get("each"))
        self._since, self._until = parse_bound("since", since), parse_bound("until", until)
        self._preset = None if format is None else _PRESETS.get(format)
        self._mapper: RecordMapper | None = None
        self._decoder = StrictDecoder()
        self._skipped: dict[str, int] = {}
        self.format: str | None = None
        self.container: str | None = None
        self._numbered = self._read()
        self._orders = _without_numbers(self._numbered)

    # ----------------------------------------------------------------------------- for callers

    @property
    def skipped(self) -> Mapping[str, int]:
        """How many orders were skipped so far, by reason.

        The reasons are those of `REASONS`, ``before since`` and ``not before until``; and for the
        rows of a Shopify CSV, ``duplicate row``.
        """
        return MappingProxyType(self._skipped)

    @property
    def unmatched_fields(self) -> frozenset[str]:
        """The fields that the mapping names and no order had so far: a path may be wrong."""
        return frozenset() if self._mapper is None else frozenset(self._mapper.unmatched)

    def lines(self) -> Iterator[Numbered]:
        """Instead of the orders alone: each with its place in the input, counted from 1.

        That is its line in JSON Lines and CSV (its first, if it has several), its row in Parquet,
        and its place among the orders in a JSON document.
        """
        return self._numbered

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
        with ExitStack() as stack:
            source = stack.enter_context(open_source(self._source))
            if not source.first_line.strip():
                return
            self.container = container = self._detect_container(source)
            self.format = self._requested or container
            match container:
                case "jsonl":
                    yield from self._read_json(read_json_lines(source.file, self._decoder))
                case "json":
                    yield from self._read_json(read_json(source.file, self._decoder, self._each))
                case "parquet":
                    yield from self._read_table(ParquetReader(source.file, stack))
                case _:
                    file = with_line_feeds(source, stack)
                    yield from self._read_table(
                        CsvReader(file, "\t" if container == "tsv" else None)
                    )

    def _detect_container(self, source: OpenedSource) -> str:
        preset = self._preset
        container = detect_container(source, None if preset else self._requested)
        is_tabular = container in ("csv", "tsv")
        if preset is not None and container != "parquet" and is_tabular != preset.is_tabular:
            kind = "CSV" if preset.is_tabular else "JSON"
            raise ConfigurationError(
                f"it is {container}, and {preset.name} is {kind}: choose another format"
            )
        return container

    def _read_table(self, table: CsvReader | ParquetReader) -> Iterator[Numbered]:
        columns = table.columns
        known = frozenset(columns)
        preset = self._find_preset(known, is_table=True)
        if preset is not None and not preset.keys <= known:
            missing = ", ".join(sorted(preset.keys - known))
            raise ConfigurationError(f"it is not {preset.name}: it has no columns {missing}")
        if preset is None and self._is_plain:
            _check_all_are_fields(columns)
            if "products" in known:
                for number, row in table:
                    yield (
                        number,
                        (
                            row.error
                            if isinstance(row, InvalidRow)
                            else make_order(dict(zip(columns, row, strict=True)), number)
                        ),
                    )
                return
        mapper = self._new_mapper(columns, is_table=True)
        _check_repeated(columns, mapper.used_columns)
        yield from self._assemble(mapper, iter(table))

    def _read_json(self, items: Iterator[tuple[int, Item]]) -> Iterator[Numbered]:
        items = map(self._unwrap, items)
        # The first order shows what the fields are called.
        for number, item in items:
            if not isinstance(item, InvalidRow):
                break
            yield number, item.error
        else:
            return
        items = chain([(number, item)], items)
        names = tuple(item)
        is_flat = "products" not in names and any(name.startswith("product_") for name in names)
        if self._find_preset(frozenset(names), is_table=False) is None and (
            self._is_plain and not is_flat
        ):
            for number, item in items:
                yield (
                    number,
                    item.error if isinstance(item, InvalidRow) else make_order(item, number),
                )
            return
        mapper = self._new_mapper(names, is_table=False)
        yield from self._assemble(mapper, map(self._check_finite, items))

    @property
    def _is_plain(self) -> bool:
        return not self._mapping and self._since is None and self._until is None

    def _find_preset(self, names: frozenset[str], *, is_table: bool) -> Preset | None:
        if self._requested is None:
            for preset in _PRESETS.values():
                if preset.is_tabular == is_table and preset.keys <= names:
                    self._preset, self.format = preset, preset.name
                    break
        return self._preset

    def _new_mapper(self, names: Sequence[str], *, is_table: bool) -> RecordMapper:
        mapper = self._mapper = RecordMapper(
            self._mapping, self._preset, self._include, names, is_table=is_table
        )
        if (self._since is not None or self._until is not None) and not mapper.has_date:
            raise ConfigurationError(
                "since and until need the time of each order: name where it is, such as with "
                "--map date=created_at"
            )
        return mapper

    def _assemble(
        self, mapper: RecordMapper, items: Iterator[tuple[int, Item]]
    ) -> Iterator[Numbered]:
        assembler = OrderAssembler(mapper, self._preset, self._since, self._until, self._skipped)
        return assembler.orders(items)

    def _unwrap(self, numbered: tuple[int, Item]) -> tuple[int, Item]:
        """The order in an object that wraps just that order; other items as they are."""
        number, item = numbered
        if not isinstance(item, dict) or len(item) != 1:
            return numbered
        ((key, inner),) = item.items()
        if key not in _WRAPPERS or not isinstance(inner, dict) or not is_order(inner):
            return numbered
        # A mapping may have paths that start at the wrapper.
        heads = {path.partition(".")[0] for _field, path, _ in mapping_paths(self._mapping)}
        return numbered if key in heads else (number, inner)

    def _check_finite(self, numbered: tuple[int, Item]) -> tuple[int, Item]:
        """NaN and infinities are faults: a mapping could make a text or a sum of them."""
        if not self._decoder.found_non_finite:
            return numbered
        self._decoder.found_non_finite = False
        number, item = numbered
        faults = non_finite_faults(item) if isinstance(item, dict) else []
        return (number, InvalidRow(InvalidOrderError(faults, number))) if faults else numbered


def _split_each(each: object) -> Sequence[str]:
    if each is None:
        return ()
    if not isinstance(each, str) or not all(each.split(".")):
        raise ConfigurationError("each: expected the path of the list of orders: data.orders")
    return each.split(".")


def _check_all_are_fields(columns: Sequence[str]) -> None:
    """Without a mapping, a column that is not a field is a mistake, as a key is in JSON."""
    others = [name for name in columns if name and name not in (*ORDER_FIELDS, *PRODUCT_FIELDS)]
    if others:
        raise ConfigurationError(
            f"{len(others)} of its {len(columns)} columns are not fields of an order: say which "
            "column is which field, such as with --map contact_email=Email; the others are then "
            "ignored"
        )


def _check_repeated(columns: Sequence[str], used: set[str]) -> None:
    """Refuse columns that are there more than once, if one of them is used."""
    seen: set[str] = set()
    repeated = {name for name in columns if name and (name in seen or seen.add(name))}  # type: ignore[func-returns-value]
    if names := sorted(repeated & used):
        shown = ", ".join(repr(name) if is_safe_field_name(name) else "one" for name in names)
        raise ConfigurationError(
            f"its header has more than one column {shown}, and the orders need it: rename or "
            "remove those that are not meant"
        )


def _without_numbers(numbered: Generator[Numbered]) -> Generator[Order | InvalidOrderError]:
    with closing(numbered):
        for _number, order in numbered:
            yield order
