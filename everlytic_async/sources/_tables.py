"""Opening a table: CSV, TSV, Excel or Parquet, whichever the input is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

from everlytic_async.errors import ConfigurationError
from everlytic_async.sources._csv import CsvReader
from everlytic_async.sources._open import OpenedSource, check_text, with_line_feeds
from everlytic_async.sources._options import ReadOptions
from everlytic_async.sources._parquet import ParquetReader
from everlytic_async.sources._records import InvalidRow
from everlytic_async.sources._xlsx import XlsxReader

__all__ = ["Table", "open_table"]


class Table(Protocol):
    """Rows, each with its number, and its cells in the order of the columns."""

    @property
    def columns(self) -> Sequence[str]:
        """Their names, in the order of the cells."""

    def __iter__(self) -> Iterator[tuple[int, Sequence[Any] | InvalidRow]]: ...


def open_table(
    container: str, source: OpenedSource, stack: ExitStack, options: ReadOptions
) -> Table:
    """Open the table that an input is.

    Raises:
        ConfigurationError: when its header or its encoding can't be read, or a package is missing.
        SourceError: when it is damaged, or would fill the memory.
    """
    if options.sheet is not None and container != "xlsx":
        raise ConfigurationError(f"sheet: it is {container}, and has no sheets")
    if container == "parquet":
        return ParquetReader(source.file, stack)
    if container == "xlsx":
        return XlsxReader(source.file, stack, options.sheet)
    check_text(source)
    delimiter = "\t" if container == "tsv" else None
    return CsvReader(with_line_feeds(source, stack), delimiter, options.encoding)
