"""Which format an input has, by its content, or by its name if the content does not show it.

A table is opened here as well: CSV, TSV, Excel or Parquet, whichever the input is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from everlytic_async._strict_json import JsonFaultError, StrictDecoder
from everlytic_async.errors import ConfigurationError
from everlytic_async.sources._columns import MAX_AHEAD, find_header
from everlytic_async.sources._csv import CsvReader, detect_delimiter
from everlytic_async.sources._json import is_list_of_orders
from everlytic_async.sources._open import (
    BINARY,
    MAX_LINE_BYTES,
    OpenedSource,
    check_text,
    with_line_feeds,
)
from everlytic_async.sources._parquet import ParquetReader
from everlytic_async.sources._xlsx import XlsxReader

#: How the orders are written, apart from what their fields are called.
CONTAINERS = ("jsonl", "json", "csv", "tsv", "xlsx", "parquet")

_BY_NAME = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
}
# What starts like this can't be read, and what to do about it.
_UNSUPPORTED = (
    (
        b"\xd0\xcf\x11\xe0",
        "is an old or a protected Excel workbook: save it as .xlsx, or as CSV in UTF-8",
    ),
    (b"BZh", "is packed with bzip2: unpack it, or pack it with gzip or zstd"),
    (b"\xfd7zXZ", "is packed with xz: unpack it, or pack it with gzip or zstd"),
    (b"\x1f\x8b", "is packed twice: unpack it once"),
    (b"\x28\xb5\x2f\xfd", "is packed twice: unpack it once"),
    (b"<", "is HTML or XML: export the orders as JSON or CSV"),
    (b"%PDF", "is a PDF: export the orders as JSON or CSV"),
    (b"SQLite format 3", "is a database: see the how-to about orders from a database"),
)
# What holds orders and is no text.
_BINARY = dict(zip(BINARY, ("parquet", "xlsx"), strict=True))
_SAMPLE = 1000  # bytes
_NAMES = {"parquet": "a Parquet file", "xlsx": "an Excel workbook"}


def detect_container(source: OpenedSource, requested: str | None) -> str:
    """The container of an input that is not empty, one of `CONTAINERS`.

    Args:
        source: The input.
        requested: What the caller says that it is, or None.

    Raises:
        ConfigurationError: when it can't be detected, or is surely not what was requested.
    """
    first = source.first_line.lstrip()
    found = _BINARY.get(first[:4])
    if found is not None and requested not in (None, found):
        raise ConfigurationError(f"it is {_NAMES[found]}, not {requested}")
    if found is None and requested in _NAMES:
        raise ConfigurationError(f"it is not {_NAMES[requested]}")
    if found is not None:
        return found
    for start, what in _UNSUPPORTED:
        if first.startswith(start):
            raise ConfigurationError(f"it {what}")
    if b"\x00" in first[:_SAMPLE] and (encoding := _guess_wide(first[:_SAMPLE])) is not None:
        raise ConfigurationError(
            f"it is not UTF-8, and has no byte-order mark: name its encoding: --encoding {encoding}"
        )
    return requested or _guess(source, first)


def _guess(source: OpenedSource, first: bytes) -> str:
    if b"\x00" in first[:_SAMPLE]:
        raise ConfigurationError("it is not text: expected JSON, CSV or Parquet")
    by_name = next((_BY_NAME[end] for end in _BY_NAME if source.name.endswith(end)), None)
    if by_name in ("csv", "tsv"):
        return by_name
    if first.startswith((b"{", b"[")):
        return _detect_json(first, by_name)
    if by_name is not None:
        return by_name
    header = first.partition(b"\r")[0]
    delimiter = None
    if len(header) < MAX_LINE_BYTES:
        delimiter = detect_delimiter(header.decode("utf-8", "replace"))
    if delimiter is None:
        raise ConfigurationError(
            "its format can't be detected (JSON starts with { or [; CSV with a line of column "
            f"names): name it with --format, one of {', '.join(CONTAINERS)}, or a shop's"
        )
    return "tsv" if delimiter == "\t" else "csv"


def _guess_wide(first: bytes) -> str | None:
    """The encoding of a text whose characters have two or four bytes each."""
    for encoding in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):
        text = first.decode(encoding, "replace")[:-1].replace("\n", "").replace("\r", "")
        plain = sum(char.isascii() and (char.isprintable() or char == "\t") for char in text)
        if text and 2 * plain > len(text) and "\0" not in text:
            return encoding
    return None


def _detect_json(first: bytes, by_name: str | None) -> str:
    """Whether the first line is an order of its own, or the start of a document."""
    if first.startswith(b"["):
        # A list of orders, whatever its name. Anything else may be a damaged line.
        is_list = first[1:1000].lstrip()[:1] in (b"", b"{", b"]")
        return "json" if is_list or by_name != "jsonl" else "jsonl"
    text = first.decode("utf-8", "replace").strip()
    try:
        value, end = StrictDecoder().decode_start(text, 0)
    except json.JSONDecodeError as error:
        # An object may go on in the next line, or in the next megabyte; so may a damaged line.
        goes_on = error.pos >= len(text) or len(first) >= MAX_LINE_BYTES
        return "json" if goes_on and (by_name != "jsonl" or text == "{") else "jsonl"
    except JsonFaultError:
        return "jsonl"
    is_list = isinstance(value, dict) and is_list_of_orders(value)
    return "json" if is_list or end < len(text) else "jsonl"


# ------------------------------------------------------------------------------------- tables


#: Rows, each with its number, and its cells in the order of the columns.
Table = CsvReader | XlsxReader | ParquetReader


def open_table(
    container: str,
    source: OpenedSource,
    stack: ExitStack,
    encoding: str | None,
    sheet: str | None,
) -> Table:
    """Open the table that an input is.

    Raises:
        ConfigurationError: when its header or its encoding can't be read, or a package is missing.
        SourceError: when it is damaged, or would fill the memory.
    """
    if sheet is not None and container != "xlsx":
        raise ConfigurationError(f"sheet: it is {container}, and has no sheets")
    if container == "parquet":
        return ParquetReader(source.file, stack)
    if container == "xlsx":
        return XlsxReader(source.file, stack, sheet)
    check_text(source)
    delimiter = "\t" if container == "tsv" else None
    return CsvReader(with_line_feeds(source, stack), delimiter, encoding)


def check_header(table: Table, mapping: Mapping[str, Any]) -> None:
    """Refuse a table that seems to have a title above its header. Its rows are still to be read.

    Raises:
        ConfigurationError: saying which row is the header.
    """
    if isinstance(table, CsvReader | XlsxReader):
        number = find_header(table.next_rows(MAX_AHEAD), table.columns, mapping)
        if number is not None:
            raise ConfigurationError(
                f"row {number} looks like the header: remove the rows above it"
            ) from None
