"""Parquet: typed rows, of which nested ones may be whole orders. Read by pyarrow, in batches.

A file of a few hundred bytes can claim that its rows hold gigabytes. So before each row group is
read, its metadata is checked, and the longest text of each of its dictionaries. If many rows could
share a long one, it stays in its dictionary until the size of each row is known. A row that takes
over `MAX_ROW_BYTES` is a fault.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from importlib import import_module
from typing import IO, Any

from everlytic_async.errors import ConfigurationError, InvalidOrderError, SourceError
from everlytic_async.sources._open import missing_extra_message
from everlytic_async.sources._records import InvalidRow

__all__ = ["MAX_ROW_BYTES", "ParquetReader"]

#: A row that takes more memory is a fault.
MAX_ROW_BYTES = 2 * 1024 * 1024
_BATCH_ROWS = 256
# What a batch may take as Python objects; if it takes more, its rows are made one by one.
_MAX_BATCH_BYTES = 16 * 1024 * 1024
# What a value takes at least.
_VALUE_BYTES = 64
# Of the lists in one column of a row group: all of the values may be in one row.
_MAX_LIST_VALUES = 4_000_000
# A column chunk is decompressed as a whole. Up to this size it may be compressed in any way; above
# it, no real column shrinks a thousandfold.
_MAX_UNPACKED = 32 * 1024 * 1024
_MAX_RATIO = 1_000
_TEXTS = ("STRING", "NONE", "JSON", "ENUM")


class ParquetReader:
    """The rows of a file, each its values in the order of the columns; iterate over it once.

    Args:
        file: Open for reading, in binary. It stays open. If it can't seek, as a pipe, it is copied
            to a temporary file first.
        stack: Closes that copy.

    Raises:
        ConfigurationError: when pyarrow is missing.
        SourceError: when it is damaged, or would fill the memory.

    Attributes:
        columns: Their names.
    """

    def __init__(self, file: IO[bytes], stack: ExitStack) -> None:
        try:
            # An extra, loaded when it is needed, and without types.
            pyarrow: Any = import_module("pyarrow")
            self._parquet: Any = import_module("pyarrow.parquet")
            self._compute: Any = import_module("pyarrow.compute")
        except ImportError:
            raise ConfigurationError(missing_extra_message("Parquet", "parquet")) from None
        self._types: Any = pyarrow.types
        self._errors = (pyarrow.ArrowException, OSError, ValueError, ArithmeticError)
        if not file.seekable():
            copy = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - it is one
            shutil.copyfileobj(file, copy)
            copy.seek(0)
            file = copy
        self._file = file
        try:
            self._metadata: Any = self._parquet.read_metadata(file)
            self._schema: Any = self._metadata.schema.to_arrow_schema()
        except self._errors as error:
            raise _damaged(error) from None
        self.columns: Sequence[str] = self._schema.names

    def __iter__(self) -> Iterator[tuple[int, tuple[Any, ...] | InvalidRow]]:
        """Yield the number of each row, from 1, and the row."""
        number = 0
        for batch, rows in self._batches():
            for place in range(batch.num_rows):
                number += 1
                if rows is not None:
                    yield number, rows[place]
                else:
                    yield number, self._row_alone(batch.slice(place, 1), number)

    def _batches(self) -> Iterator[tuple[Any, list[tuple[Any, ...]] | None]]:
        """Every batch, with its rows unless they take too much memory together."""
        for group in range(self._metadata.num_row_groups):
            try:
                in_dictionaries, size = self._plan(group)
                batches = self._open(in_dictionaries).iter_batches(
                    size, row_groups=[group], use_threads=False
                )
                while (batch := next(batches, None)) is not None:
                    fits = self._weight(batch) <= _MAX_BATCH_BYTES
                    yield batch, self._to_rows(batch) if fits else None
            except self._errors as error:
                raise _damaged(error) from None

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
        rows = _BATCH_ROWS
        for place in range(group.num_columns):
            chunk, column = group.column(place), self._metadata.schema.column(place)
            in_lists = column.max_repetition_level > 0
            if in_lists and chunk.num_values > _MAX_LIST_VALUES:
                raise SourceError(
                    f"the Parquet file has a row group with over {_MAX_LIST_VALUES:,} values in "
                    "the lists of one column: write it with smaller row groups"
                )
            unpacked, packed = chunk.total_uncompressed_size, chunk.total_compressed_size
            if unpacked > max(_MAX_UNPACKED, _MAX_RATIO * packed):
                raise SourceError(
                    f"the Parquet file has a column whose {packed:,} bytes unpack to "
                    f"{unpacked:,}: it would fill the memory. Write it with smaller row groups"
                )
            if "DELTA_BYTE_ARRAY" in chunk.encodings:
                # Texts that share their beginnings: each may be as long as all of them together,
                # and Arrow holds them up to four times while it joins them.
                rows = min(rows, max(1, _MAX_BATCH_BYTES // 4 // max(1, unpacked)))
            values = chunk.num_values if in_lists else min(chunk.num_values, _BATCH_ROWS)
            if (
                column.physical_type == "BYTE_ARRAY"
                and column.logical_type.type in _TEXTS
                and any("DICTIONARY" in encoding for encoding in chunk.encodings)
                and values * unpacked > _MAX_BATCH_BYTES
                and values * self._longest(number, column.path) > _MAX_BATCH_BYTES
            ):
                in_dictionaries.append(column.path)
        return in_dictionaries, rows

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

    def _row_alone(self, batch: Any, number: int) -> tuple[Any, ...] | InvalidRow:
        try:
            if self._weight(batch) > MAX_ROW_BYTES:
                fault = f"takes over {MAX_ROW_BYTES:,} bytes"
                return InvalidRow(InvalidOrderError([fault], number))
            return self._to_rows(batch)[0]
        except self._errors as error:
            raise _damaged(error) from None

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


def _damaged(error: Exception) -> SourceError:
    # Without its message: that may quote the file.
    return SourceError(
        f"the Parquet file can't be read ({type(error).__name__}): export or copy it again"
    )
