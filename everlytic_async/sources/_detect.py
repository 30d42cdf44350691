"""Which format an input has, by its content, and where that can't tell, by its name."""

from __future__ import annotations

import json

from everlytic_async._strict_json import JsonFaultError, StrictDecoder
from everlytic_async.errors import ConfigurationError
from everlytic_async.sources._csv import delimiter_of
from everlytic_async.sources._json import is_list_of_orders
from everlytic_async.sources._open import MAX_LINE_BYTES, Content

__all__ = ["CONTAINERS", "container_of"]

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
# What begins so is none of them, and what to do about it.
_OTHERS = (
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


def container_of(content: Content, wanted: str | None) -> str:
    """The container of an input, one of `CONTAINERS`.

    Args:
        content: The input, with something in it.
        wanted: What it is said to be, or None.

    Raises:
        ConfigurationError: when it can't be told, or is surely not what it is said to be.
    """
    first = content.first.lstrip()
    is_parquet = first.startswith(_PARQUET)
    if is_parquet or wanted == "parquet":
        if is_parquet and wanted in (None, "parquet"):
            return "parquet"
        raise ConfigurationError(
            f"it is Parquet, not {wanted}" if is_parquet else "it is no Parquet file"
        )
    for begin, what in _OTHERS:
        if first.startswith(begin):
            raise ConfigurationError(f"it {what}")
    if wanted is not None:
        return wanted
    if b"\x00" in first[:1000]:
        raise ConfigurationError("it is no text: expected JSON, CSV or Parquet")
    by_name = next((_BY_NAME[end] for end in _BY_NAME if content.name.endswith(end)), None)
    if by_name in ("jsonl", "csv", "tsv"):
        # Of a JSON document it may be the wrong one of two names.
        return _json_of(first) if by_name == "jsonl" and first[:1] in (b"{", b"[") else by_name
    if first[:1] in (b"{", b"["):
        return _json_of(first)
    if by_name is not None:
        return by_name
    header = first.partition(b"\r")[0]  # of a file whose lines end with it, the first line
    delimiter = None
    if len(header) < MAX_LINE_BYTES:
        delimiter = delimiter_of(header.decode("utf-8", "replace"))
    if delimiter is None:
        raise ConfigurationError(
            "its format can't be told: give it one of jsonl, json, csv, tsv, woocommerce, shopify, "
            "shopify-csv, magento (JSON begins with { or [; CSV with a line of column names)"
        )
    return "tsv" if delimiter == "\t" else "csv"


def _json_of(first: bytes) -> str:
    """Whether the first line is an order of its own, or a document begins with it."""
    if first.startswith(b"["):
        return "json"
    text = first.decode("utf-8", "replace").strip()
    try:
        value, end = StrictDecoder().decode_start(text, 0)
    except json.JSONDecodeError as error:
        # An object goes on in the next line, or in the next megabyte.
        goes_on = error.pos >= len(text) or len(first) >= MAX_LINE_BYTES
        return "json" if goes_on else "jsonl"
    except JsonFaultError:
        return "jsonl"
    is_list = isinstance(value, dict) and is_list_of_orders(value)
    return "json" if is_list or end < len(text) else "jsonl"
