"""Which format an input has: by its content, or by its name if the content does not show it."""

from __future__ import annotations

import json

from everlytic_async._strict_json import JsonFaultError, StrictDecoder
from everlytic_async.errors import ConfigurationError
from everlytic_async.sources._csv import detect_delimiter
from everlytic_async.sources._json import is_list_of_orders
from everlytic_async.sources._open import MAX_LINE_BYTES, OpenedSource

__all__ = ["CONTAINERS", "detect_container"]

#: How the orders are written, apart from what their fields are called.
CONTAINERS = ("jsonl", "json", "csv", "tsv", "parquet")

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
    (b"PK\x03\x04", "is a ZIP archive or an Excel workbook: unpack it, or save it as CSV in UTF-8"),
    (b"\xd0\xcf\x11\xe0", "is an Excel workbook: save it as CSV in UTF-8"),
    (b"BZh", "is packed with bzip2: unpack it, or pack it with gzip or zstd"),
    (b"\xfd7zXZ", "is packed with xz: unpack it, or pack it with gzip or zstd"),
    (b"\x1f\x8b", "is packed twice: unpack it once"),
    (b"\x28\xb5\x2f\xfd", "is packed twice: unpack it once"),
    (b"<", "is HTML or XML: export the orders as JSON or CSV"),
    (b"%PDF", "is a PDF: export the orders as JSON or CSV"),
    (b"SQLite format 3", "is a database: see the how-to about orders from a database"),
    (b"\xff\xfe", "is UTF-16: save the file as UTF-8"),
    (b"\xfe\xff", "is UTF-16: save the file as UTF-8"),
)
_PARQUET = b"PAR1"


def detect_container(source: OpenedSource, requested: str | None) -> str:
    """The container of an input that is not empty, one of `CONTAINERS`.

    Args:
        source: The input.
        requested: What the caller says that it is, or None.

    Raises:
        ConfigurationError: when it can't be detected, or is surely not what was requested.
    """
    first = source.first_line.lstrip()
    if first.startswith(_PARQUET) and requested in (None, "parquet"):
        return "parquet"
    if first.startswith(_PARQUET):
        raise ConfigurationError(f"it is Parquet, not {requested}")
    if requested == "parquet":
        raise ConfigurationError("it is not a Parquet file")
    for start, what in _UNSUPPORTED:
        if first.startswith(start):
            raise ConfigurationError(f"it {what}")
    return requested or _guess(source, first)


def _guess(source: OpenedSource, first: bytes) -> str:
    if b"\x00" in first[:1000]:
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
            "its format can't be detected: name it, one of jsonl, json, csv, tsv, woocommerce, "
            "shopify, shopify-csv, magento (JSON starts with { or [; CSV with a line of column "
            "names)"
        )
    return "tsv" if delimiter == "\t" else "csv"


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
