"""Parquet: typed rows, of which nested ones may be whole orders. Read by pyarrow, in batches."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from importlib import import_module
from typing import IO, Any

from everlytic_async.errors import ConfigurationError, SourceError
from everlytic_async.sources._open import install
from everlytic_async.sources._records import Record

__all__ = ["Parquet"]

_BATCH = 256


class Parquet:
    """The rows of a file, each as a mapping of its columns to values; iterate over it once.

    Args:
        file: Open for reading, in binary. It stays open. Where it can't be read in any order, as a
            pipe, it is copied to a temporary file first.
        closing: What closes that copy.

    Raises:
        ConfigurationError: when pyarrow is missing.
        SourceError: when it is damaged.

    Attributes:
        columns: Their names.
    """

    def __init__(self, file: IO[bytes], closing: ExitStack) -> None:
        try:
            # An extra, loaded when it is needed, and without types.
            pyarrow: Any = import_module("pyarrow")
            parquet: Any = import_module("pyarrow.parquet")
        except ImportError:
            raise ConfigurationError(install("Parquet", "parquet")) from None
        if not file.seekable():
            copy = closing.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - it is one
            shutil.copyfileobj(file, copy)
            copy.seek(0)
            file = copy
        self._faults = (pyarrow.ArrowException, OSError, ValueError, ArithmeticError)
        try:
            # Read ahead, all of the file would be in memory; and its threads, which read our file
            # and so need Python, now and then abort the process as it ends.
            self._file: Any = parquet.ParquetFile(file, pre_buffer=False)
            self.columns: Sequence[str] = self._file.schema_arrow.names
        except self._faults as error:
            raise _damaged(error) from None

    def __iter__(self) -> Iterator[tuple[int, Record]]:
        """Yield the number of each row, from 1, and the row."""
        number = 0
        batches = self._file.iter_batches(_BATCH, use_threads=False)
        while True:
            try:
                batch = next(batches, None)
                rows = [] if batch is None else batch.to_pylist()
            except self._faults as error:
                raise _damaged(error) from None
            if batch is None:
                return
            for row in rows:
                number += 1
                yield number, row


def _damaged(error: Exception) -> SourceError:
    # Not its message: it may quote the file.
    return SourceError(
        f"the Parquet file can't be read ({type(error).__name__}): export or copy it again"
    )
