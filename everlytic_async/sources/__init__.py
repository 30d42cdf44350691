"""Readers of files: each yields orders lazily, and an error in place of an invalid one.

`read_orders` reads JSON Lines, JSON, CSV, TSV and Parquet, each plain or packed with gzip or zstd.
The fields have the endpoint's names, or those of the shop whose export it is, or those that a
mapping gives.

A mapping says for a field of `everlytic_async.Order`, or of `everlytic_async.Product`, where its
value comes from:

================================  ==============================================================
``"billing.email"``               a path: keys with dots between them, or the name of a column.
                                  A number picks from a list; any other key picks from each of it
``["email", "customer.email"]``   the first of these that is set
``"https://a.example/{id}"``      a template: braces hold paths, or fields of the order as they
                                  are sent; in a URL they are percent-encoded. Without a value for
                                  one of them, the field is not set
``17``, ``True``                  a constant, as is everything that is neither text nor list
``{"constant": "x"}``             a constant text; ``path``, ``template`` and ``first`` name the
                                  form where the ones above are ambiguous
``None``                          the field is not set, whatever the input holds
a callable                        in Python: it takes the order (for a product: the product) as it
                                  is in the input, and returns the value
================================  ==============================================================

``products`` is the path of the list of products, or a table: ``each`` is that path, and the rest
are the fields of a product, with paths that start at the product. Fields of a product may also be
beside those of the order: their names tell them apart. Without such a list each row is a product,
and consecutive rows of the same order become one order.

Three more keys are not fields: ``group_by``, the path of what rows of the same order share (by
default: what becomes ``order_id``); ``date``, the path of the time of the order; and ``each``, the
path of the list of orders in a JSON document.

Values are kept as they are, except texts: a blank one counts as not set; one for a field that is a
number is parsed digit by digit; one for ``product_gallery`` is split at its blanks.

From the bottom up: ``_open`` opens, decompresses and decodes; a module for each format yields
records (``_json``, ``_csv``, ``_xlsx``, ``_parquet``); ``_detect`` detects the format
and opens a table; ``_notation`` reads numbers and dates; ``_mapping`` compiles a mapping and
``_mapper`` applies it; ``_where`` and ``_left_out`` say which orders are not read;
``_assembler`` puts rows together to orders, and ``_bulk`` lines; ``_shops`` has one table for each
kind of export (``_woocommerce``, ``_shopify``, ``_squarespace``, ``_magento``, ``_bigcommerce``);
``_suggest``, with ``_synonyms``, proposes a mapping; ``_columns`` says what is wrong with columns;
``_reader`` ties them together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from everlytic_async.sources._left_out import ROW_APART
from everlytic_async.sources._mapping import normalize_mapping, parse_mapping
from everlytic_async.sources._notation import DateLike, Notation, parse_bound
from everlytic_async.sources._open import Source
from everlytic_async.sources._options import FORMATS, ReadOptions
from everlytic_async.sources._reader import Reader, TracedOrder
from everlytic_async.sources._shops import REASONS
from everlytic_async.sources._suggest import Suggestion, suggest_mapping
from everlytic_async.sources._where import WhereLike, parse_where

__all__ = [
    "FORMATS",
    "REASONS",
    "ROW_APART",
    "Reader",
    "Suggestion",
    "TracedOrder",
    "normalize_mapping",
    "parse_mapping",
    "parse_where",
    "read_orders",
    "suggest_mapping",
]


def read_orders(
    path_or_file: Source,
    format: str | None = None,  # noqa: A002 - the public name
    *,
    mapping: Mapping[str, Any] | None = None,
    where: WhereLike | None = None,
    since: DateLike | None = None,
    until: DateLike | None = None,
    include: Iterable[str] = (),
    encoding: str | None = None,
    decimal: str | None = None,
    thousands: str | None = None,
    date_format: str | None = None,
    sheet: str | None = None,
) -> Reader:
    """Read orders lazily: pass the reader to `everlytic_async.EverlyticClient.stream_orders`.

    What can't be an order becomes an `everlytic_async.InvalidOrderError` in its place, with its
    ``line`` (its row or place, if there are no lines; from 1) and every fault, and without any of
    its values but numbers and dates that can't be read; reading goes on after it. Types are never
    guessed: text stays text (``000003``), numbers are exact (a fraction is a Decimal of the digits
    that the file has).

    Args:
        path_or_file: A path; ``-`` for the standard input; or an open file, which stays open. It
            should be binary: a file that was opened as text raises by itself where it can't decode.
        format: One of `FORMATS`; None to detect it. ``jsonl``, ``json``, ``csv``, ``tsv``, ``xlsx``
            and ``parquet`` name how it is written, and then its fields are the endpoint's, or those
            of the mapping. The others are shops' exports.
        mapping: What becomes which field: see above. What it does not name comes from where the
            shop's format has it; without one, from the key or column with the name of the field.
        where: Read only the orders for which these conditions hold, all of them:
            ``["Status=completed,processing", "Shop!=test"]``, or
            ``{"Status": ["completed", "processing"], "Shop!": "test"}``. Left of ``=`` is a column
            or a path, right of it the values of which it is to be one; ``!=``: none. Case and
            blanks around a value don't count; no value means blank.
        since: Leave out orders before that time. A time without an offset is UTC.
        until: Leave out orders at that time or after it.
        include: Which orders of a shop not to leave out, of `REASONS`; ``all`` for all of them.
        encoding: Of a text; None for UTF-8, or what a byte-order mark tells. What is not
            text in that encoding is refused before its first order, unless it comes from a pipe.
        decimal: What is before the fraction of a number in a text, ``.`` or ``,``.
        thousands: What is between its groups of three digits: ``,``, ``.``, ``'`` or a blank. With
            one of these two, amounts may have a currency, and what is not a number is a fault.
        date_format: How times are written, in the letters of `datetime.strptime`, such as
            ``%d.%m.%Y``; None for ISO 8601.
        sheet: The name of the sheet of an Excel workbook; None for the first that is not hidden.

    Raises:
        ConfigurationError: at once, when an argument is wrong; by the iteration, when the format
            can't be detected, the mapping does not fit, or a package is missing (the message says
            how to install it).
        SourceError: by the iteration, when the file is damaged or cut off, so that the rest of it
            can't be read.
        OSError: by the iteration, when the file can't be opened or read.
    """
    options = ReadOptions(
        notation=Notation(decimal, thousands, date_format),
        format=format,
        mapping=mapping,
        where=where,
        since=parse_bound("since", since),
        until=parse_bound("until", until),
        include=include,
        encoding=encoding,
        sheet=sheet,
    )
    return Reader(path_or_file, options)
