"""Parquet: typed rows, of which nested ones may be whole orders. Read by pyarrow, in batches.

A file of a few hundred bytes can claim that its rows hold gigabytes. So the types of its columns
are checked; and before each row group is read, its metadata, and the longest text of each of its
dictionaries. If many rows could share a long one, it stays in its dictionary until the size of each
row is known. A row that takes over `MAX_ROW_BYTES` is a fault.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from importlib import import_module
from typing import IO, Any

from everlytic_async._checks import is_safe_field_name
from everlytic_async.errors import InvalidOrderError, SourceError
from everlytic_async.sources._open import needs_extra, seekable
from everlytic_async.sources._records import InvalidRow

#: A row that takes more memory is a fault.
MAX_ROW_BYTES = 2 * 1024 * 1024
_BATCH_ROWS = 256
# What a batch may take as Python objects; if it takes more, its rows are made one by one.
_MAX_BATCH_BYTES = 8 * 1024 * 1024
# What a value takes at least.
_VALUE_BYTES = 64
# What an empty text or list takes at least in Arrow.
_OFFSET_BYTES = 8
# Of the lists in one column of a row group, and in all columns of a batch: all of the values may be
# in one row.
_MAX_LIST_VALUES = 3_000_000
# Of a row's values of fixed length together: no field of an order is half as long. Arrow takes this
# memory even if they are null.
_MAX_FIXED_BYTES = 32 * 1024
# Of such values in the lists of one column of a row group, and of all lists of a batch.
_MAX_LIST_BYTES = 16 * 1024 * 1024
# Pages are decompressed as a whole, and a column chunk may be one page. Together they may be this
# large when they shrank more than any real column does.
_MAX_UNPACKED = 16 * 1024 * 1024
_MAX_RATIO = 200


class ParquetReader:
    """The rows of a file, each its values in the order of the columns; iterate over it once.

    Raises:
        ConfigurationError: when pyarrow is missing.
        SourceError: when it is damaged, or would fill the memory.
    """

    def __init__(self, file: IO[bytes], stack: ExitStack) -> None:
        with needs_extra("Parquet", "parquet"):
            pyarrow: Any = import_module("pyarrow")
            self._parquet: Any = import_module("pyarrow.parquet")
            self._compute: Any = import_module("pyarrow.compute")
        self._types: Any = pyarrow.types
        self._extension: Any = pyarrow.BaseExtensionType
        self._errors = (pyarrow.ArrowException, OSError, ValueError, ArithmeticError)
        file = self._file = seekable(file, stack)
        try:
            self._metadata: Any = self._parquet.read_metadata(file)
            self._schema: Any = self._metadata.schema.to_arrow_schema()
        except self._errors as error:
            raise _damaged(error) from None
        self.columns: Sequence[str] = self._schema.names
        self._fixed = self._check_types()

    def __iter__(self) -> Iterator[tuple[int, tuple[Any, ...] | InvalidRow]]:
        """Yield the number of each row, from 1, and the row."""
        try:
            for number, row in enumerate(self._rows(), 1):
                if row is None:
                    fault = f"takes over {MAX_ROW_BYTES:,} bytes"
                    yield number, InvalidRow(InvalidOrderError([fault], number))
                else:
                    yield number, row
        except self._errors as error:
            raise _damaged(error) from None

    def _check_types(self) -> list[tuple[int, bool]]:
        """For each column of the metadata, what `_fixed_bytes` says of it.

        Raises:
            SourceError: they would fill the memory, whatever the rows hold.
        """
        found = [self._fixed_bytes(kind) for kind in self._schema.types]
        sizes = [sum(size for size, _ in leaves) for leaves in found]
        if sum(sizes) > _MAX_FIXED_BYTES:
            place = sizes.index(max(sizes))
            name = self.columns[place]
            shown = repr(name) if is_safe_field_name(name) else f"{place + 1}"
            raise SourceError(
                f"the Parquet file has values of fixed length of {sum(sizes):,} bytes a row, most "
                f"of them in column {shown}: they would fill the memory. Leave that column out, or "
                "write it as lists or texts of any length"
            )
        return [leaf for leaves in found for leaf in leaves]

    def _fixed_bytes(self, kind: Any, repeats: int = 0) -> list[tuple[int, bool]]:
        """What the values of fixed length in a value take, also if it is null.

        Args:
            kind: Of the value.
            repeats: How often it is in a list of fixed length; 0 if it is in none.

        Returns:
            For each column of the metadata that it is made of: the bytes, of one value of each list
            whose length is not fixed; and whether there is such a list.
        """
        types = self._types
        if isinstance(kind, self._extension):
            return self._fixed_bytes(kind.storage_type, repeats)
        if types.is_dictionary(kind):
            return self._fixed_bytes(kind.value_type, repeats)
        if types.is_fixed_size_list(kind):
            return self._fixed_bytes(kind.value_type, kind.list_size * (repeats or 1))
        if types.is_nested(kind):
            inner = [kind.field(place).type for place in range(kind.num_fields)]
            found = [leaf for each in inner for leaf in self._fixed_bytes(each, repeats)]
            return found if types.is_struct(kind) else [(size, True) for size, _ in found]
        if types.is_fixed_size_binary(kind) or types.is_decimal256(kind):
            return [(kind.byte_width * (repeats or 1), False)]
        has_width = types.is_primitive(kind) or types.is_decimal(kind)
        size = (kind.bit_width + 7) // 8 if has_width else _OFFSET_BYTES
        return [(size * repeats, False)]

    def _rows(self) -> Iterator[tuple[Any, ...] | None]:
        """Every row; None for one that takes too much memory."""
        for group in range(self._metadata.num_row_groups):
            in_dictionaries, size = self._plan(group)
            batches = self._open(in_dictionaries).iter_batches(
                size, row_groups=[group], use_threads=False
            )
            while (batch := next(batches, None)) is not None:
                if self._weight(batch) <= _MAX_BATCH_BYTES:
                    yield from self._to_rows(batch)
                else:
                    yield from self._one_by_one(batch)
                del batch  # before the next one is read

    def _one_by_one(self, batch: Any) -> Iterator[tuple[Any, ...] | None]:
        for place in range(batch.num_rows):
            row = batch.slice(place, 1)
            yield self._to_rows(row)[0] if self._weight(row) <= MAX_ROW_BYTES else None

    def _open(self, in_dictionaries: list[str]) -> Any:
        self._file.seek(0)
        # With pre_buffer the whole file would be in memory; and the threads that fill it read our
        # file and so need Python: now and then they abort the process as it ends.
        return self._parquet.ParquetFile(
            self._file,
            metadata=self._metadata,
            pre_buffer=False,
            read_dictionary=in_dictionaries,
        )

    def _plan(self, number: int) -> tuple[list[str], int]:
        """How to read a row group: the columns to keep in dictionaries, and the rows of a batch.

        Raises:
            SourceError: reading the row group would fill the memory.
        """
        group = self._metadata.row_group(number)
        in_dictionaries: list[str] = []
        lists: list[str] = []
        list_values = 0
        fixed_in_lists = [
            group.column(place).num_values * size
            for place, (size, is_in_list) in zip(range(group.num_columns), self._fixed, strict=True)
            if is_in_list
        ]
        if (fixed := max(fixed_in_lists, default=0)) > _MAX_LIST_BYTES:
            raise _too_large(f"{fixed:,} bytes of fixed length in the lists of one column")
        # Of a row's values that can't be kept in a dictionary.
        row_bytes = sum(size for size, is_in_list in self._fixed if not is_in_list)
        suspicious = 0
        most_bytes = _MAX_BATCH_BYTES // max(1, group.num_columns)
        for place in range(group.num_columns):
            chunk, column = group.column(place), self._metadata.schema.column(place)
            unpacked, packed = chunk.total_uncompressed_size, chunk.total_compressed_size
            if unpacked > _MAX_RATIO * packed:
                suspicious += unpacked
            # What one value may take: of a dictionary, or of texts that share their beginnings,
            # each may be as long as all of them together.
            is_binary = column.physical_type == "BYTE_ARRAY"
            is_joined = is_binary and "DELTA_BYTE_ARRAY" in chunk.encodings
            is_shared = is_binary and any("DICTIONARY" in each for each in chunk.encodings)
            width = 0
            if is_joined:
                width = 4 * unpacked  # Arrow holds them up to four times while it joins them
            elif is_shared and column.logical_type.type == "DECIMAL":
                width = unpacked  # Arrow keeps no numbers in a dictionary
            values = min(chunk.num_values, _BATCH_ROWS)
            if column.max_repetition_level > 0:
                values = chunk.num_values
                lists.append(column.path)
                list_values += values
                if values > _MAX_LIST_VALUES or values * width > _MAX_LIST_VALUES * _VALUE_BYTES:
                    raise _too_large(f"over {_MAX_LIST_VALUES:,} values in the lists of one column")
            else:
                row_bytes += width
            if (
                is_shared
                and values * unpacked > most_bytes
                and values * self._longest(number, column.path) > most_bytes
            ):
                in_dictionaries.append(column.path)
        if suspicious > _MAX_UNPACKED:
            raise _too_large(f"columns that unpack to {suspicious:,} bytes from very few")
        if list_values > _MAX_LIST_VALUES or sum(fixed_in_lists) > _MAX_LIST_BYTES:
            self._check_lists(number, lists, in_dictionaries)
        rows = _MAX_BATCH_BYTES // max(1, row_bytes)
        return in_dictionaries, max(1, min(_BATCH_ROWS, rows))

    def _check_lists(self, group: int, paths: list[str], in_dictionaries: list[str]) -> None:
        """Read one column after another, so that all of them in a batch fit into memory."""
        most = most_bytes = 0
        for path in paths:
            batches = self._open(in_dictionaries).iter_batches(
                _BATCH_ROWS, row_groups=[group], columns=[path], use_threads=False
            )
            values = size = 0  # of the largest batch
            while (batch := next(batches, None)) is not None:
                values = max(values, sum(map(len, self._flatten(batch.columns))))
                size = max(size, batch.nbytes)
                del batch  # before the next one is read
            most += values
            most_bytes += size
            if most > _MAX_LIST_VALUES:
                raise _too_large(f"rows with over {_MAX_LIST_VALUES:,} values in their lists")
            if most_bytes > _MAX_LIST_BYTES:
                raise _too_large(f"rows with over {_MAX_LIST_BYTES:,} bytes in their lists")

    def _longest(self, group: int, path: str) -> int:
        """The length of the longest text in the dictionary of a column."""
        batches = self._open([path]).iter_batches(
            1, row_groups=[group], columns=[path], use_threads=False
        )
        longest = 0
        for array in self._flatten(next(batches).columns):
            if self._types.is_dictionary(array.type):
                lengths = self._compute.binary_length(array.dictionary)
                longest = max(longest, self._compute.max(lengths).as_py() or 0)
        return longest

    def _to_rows(self, batch: Any) -> list[tuple[Any, ...]]:
        if batch.schema != self._schema:  # faster than from dictionaries
            batch = batch.cast(self._schema)
        return list(zip(*(column.to_pylist() for column in batch.columns), strict=True))

    def _weight(self, batch: Any) -> int:
        """About how many bytes its values take as Python objects."""
        weight = 0
        for array in self._flatten(batch.columns):
            kind = array.type
            weight += _VALUE_BYTES * len(array)
            if self._types.is_dictionary(kind):
                if self._types.is_string(kind.value_type) or self._types.is_binary(kind.value_type):
                    lengths = self._compute.binary_length(array.dictionary)
                    weight += self._compute.sum(lengths.take(array.indices)).as_py() or 0
            elif not self._types.is_nested(kind):
                weight += array.nbytes
        return weight

    def _flatten(self, arrays: Sequence[Any]) -> Iterator[Any]:
        """The arrays, and those that they are made of."""
        pending = list(arrays)
        while pending:
            array = pending.pop()
            yield array
            if self._types.is_struct(array.type):
                pending += array.flatten()
            elif self._types.is_map(array.type):
                pending += (array.keys, array.items)
            elif self._types.is_nested(array.type) and not self._types.is_dictionary(array.type):
                pending.append(array.flatten())


def _too_large(what: str) -> SourceError:
    return SourceError(
        f"the Parquet file has a row group with {what}: it would fill the memory. Leave out the "
        "columns that orders don't need, or write smaller row groups"
    )


def _damaged(error: Exception) -> SourceError:
    # Without its message: that may quote the file.
    return SourceError(
        f"the Parquet file can't be read ({type(error).__name__}): export or copy it again"
    )
