"""Parquet: typed rows, of which nested ones may be whole orders. Read by pyarrow, in batches.

A file of a few hundred bytes can say that its rows hold gigabytes. So before each row group is
read, its metadata is looked at, and the longest text of each of its dictionaries. Where many rows
could share a long one, it stays in its dictionary until each row is weighed. A row that takes over
`MAX_ROW_BYTES` is a fault.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from importlib import import_module
from typing import IO, Any

from everlytic_async.errors import ConfigurationError, InvalidOrderError, SourceError
from everlytic_async.sources._open import install
from everlytic_async.sources._records import BadRow, Item, Record

__all__ = ["MAX_ROW_BYTES", "Parquet"]

#: A row that takes more memory is none.
MAX_ROW_BYTES = 2 * 1024 * 1024
_BATCH = 256
# What a batch may take as Python objects; where it takes more, its rows are made one by one.
_MAX_BATCH_BYTES = 16 * 1024 * 1024
# What a value takes at least.
_VALUE_BYTES = 64
# Of the values of a row group's lists in one column: all of them may be in one row.
_MAX_LIST_VALUES = 4_000_000
# A part of a column is unpacked at once. Up to so many bytes it may be packed in any way; beyond
# that, no real column shrinks a thousandfold.
_MAX_UNPACKED = 32 * 1024 * 1024
_MAX_RATIO = 1_000
_TEXTS = ("STRING", "NONE", "JSON", "ENUM")


class Parquet:
    """The rows of a file, each as a mapping of its columns to values; iterate over it once.

    Args:
        file: Open for reading, in binary. It stays open. Where it can't be read in any order, as a
            pipe, it is copied to a temporary file first.
        closing: What closes that copy.

    Raises:
        ConfigurationError: when pyarrow is missing.
        SourceError: when it is damaged, or would fill the memory.

    Attributes:
        columns: Their names.
    """

    def __init__(self, file: IO[bytes], closing: ExitStack) -> None:
        try:
            # An extra, loaded when it is needed, and without types.
            pyarrow: Any = import_module("pyarrow")
            parquet: Any = import_module("pyarrow.parquet")
            self._compute: Any = import_module("pyarrow.compute")
        except ImportError:
            raise ConfigurationError(install("Parquet", "parquet")) from None
        self._types: Any = pyarrow.types
        if not file.seekable():
            copy = closing.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - it is one
            shutil.copyfileobj(file, copy)
            copy.seek(0)
            file = copy
        self._pyarrow, self._parquet, self._source = pyarrow, parquet, file
        self._faults = (pyarrow.ArrowException, OSError, ValueError, ArithmeticError)
        try:
            self._metadata: Any = parquet.read_metadata(file)
            self._schema: Any = self._metadata.schema.to_arrow_schema()
        except self._faults as error:
            raise _damaged(error) from None
        self.columns: Sequence[str] = self._schema.names

    def __iter__(self) -> Iterator[tuple[int, Item]]:
        """Yield the number of each row, from 1, and the row."""
        number = 0
        for batch, rows in self._batches():
            for place in range(batch.num_rows):
                number += 1
                yield (
                    number,
                    self._row(batch.slice(place, 1), number) if rows is None else rows[place],
                )

    def _batches(self) -> Iterator[tuple[Any, list[Record] | None]]:
        """Every batch, with its rows unless they take too much memory together."""
        for group in range(self._metadata.num_row_groups):
            try:
                texts, rows = self._expanding(group)
                batches = self._open(texts).iter_batches(
                    rows, row_groups=[group], use_threads=False
                )
                while (batch := next(batches, None)) is not None:
                    fits = self._weight(batch) <= _MAX_BATCH_BYTES
                    yield batch, self._rows(batch) if fits else None
            except self._faults as error:
                raise _damaged(error) from None

    def _open(self, in_dictionaries: list[str]) -> Any:
        self._source.seek(0)
        # Read ahead, all of the file would be in memory; and its threads, which read our file
        # and so need Python, now and then abort the process as it ends.
        return self._parquet.ParquetFile(
            self._source,
            metadata=self._metadata,
            pre_buffer=False,
            read_dictionary=in_dictionaries,
        )

    def _expanding(self, number: int) -> tuple[list[str], int]:
        """The columns of a row group whose texts could take too much memory, if each had its own.

        With them, how many rows may be read at once: of texts that share their beginnings
        (DELTA_BYTE_ARRAY) no more is known than that none is longer than all of them.

        Raises:
            SourceError: to read the row group would fill the memory.
        """
        group = self._metadata.row_group(number)
        found: list[str] = []
        rows = _BATCH
        for place in range(group.num_columns):
            part, column = group.column(place), self._metadata.schema.column(place)
            in_lists = column.max_repetition_level > 0
            if in_lists and part.num_values > _MAX_LIST_VALUES:
                raise SourceError(
                    f"the Parquet file has a row group with over {_MAX_LIST_VALUES:,} values in "
                    "the lists of one column: write it with smaller row groups"
                )
            unpacked, packed = part.total_uncompressed_size, part.total_compressed_size
            if unpacked > max(_MAX_UNPACKED, _MAX_RATIO * packed):
                raise SourceError(
                    f"the Parquet file has a column whose {packed:,} bytes unpack to "
                    f"{unpacked:,}: it would fill the memory. Write it with smaller row groups"
                )
            if "DELTA_BYTE_ARRAY" in part.encodings:
                # Arrow has them up to four times while it joins them.
                rows = min(rows, max(1, _MAX_BATCH_BYTES // 4 // max(1, unpacked)))
            at_once = part.num_values if in_lists else min(part.num_values, _BATCH)
            if (
                column.physical_type == "BYTE_ARRAY"
                and column.logical_type.type in _TEXTS
                and any("DICTIONARY" in encoding for encoding in part.encodings)
                and at_once * unpacked > _MAX_BATCH_BYTES
                and at_once * self._longest(number, column.path) > _MAX_BATCH_BYTES
            ):
                found.append(column.path)
        return found, rows

    def _longest(self, group: int, path: str) -> int:
        """The length of the longest text in the dictionary of a column."""
        batches = self._open([path]).iter_batches(
            1, row_groups=[group], columns=[path], use_threads=False
        )
        longest = 0
        for array in self._flat(next(batches).columns):
            if self._types.is_dictionary(array.type):
                lengths = self._compute.binary_length(array.dictionary)
                longest = max(longest, self._compute.max(lengths).as_py() or 0)
        return longest

    def _row(self, batch: Any, number: int) -> Item:
        try:
            if self._weight(batch) > MAX_ROW_BYTES:
                fault = f"takes over {MAX_ROW_BYTES:,} bytes"
                return BadRow(InvalidOrderError([fault], number))
            (row,) = self._rows(batch)
        except self._faults as error:
            raise _damaged(error) from None
        return row

    def _rows(self, batch: Any) -> list[Record]:
        if batch.schema != self._schema:  # quicker than from dictionaries
            batch = batch.cast(self._schema)
        rows: list[Record] = batch.to_pylist()
        return rows

    def _weight(self, batch: Any) -> int:
        """How many bytes its values take, about, when each stands by itself."""
        weight = 0
        for array in self._flat(batch.columns):
            kind = array.type
            weight += _VALUE_BYTES * len(array)
            if self._types.is_dictionary(kind):
                if self._types.is_string(kind.value_type) or self._types.is_binary(kind.value_type):
                    lengths = self._compute.binary_length(array.dictionary)
                    weight += self._compute.sum(lengths.take(array.indices)).as_py() or 0
            elif not self._types.is_nested(kind):
                weight += array.nbytes
        return weight

    def _flat(self, arrays: Sequence[Any]) -> Iterator[Any]:
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
    # Not its message: it may quote the file.
    return SourceError(
        f"the Parquet file can't be read ({type(error).__name__}): export or copy it again"
    )
