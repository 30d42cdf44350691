"""Readers of files: each yields orders lazily, and an error in the place of one that is none.

One module for each format. A reader takes an open file and yields ``(line, order)``; what is common
to all of them (finding the reader, opening and closing) lives here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import IO, Any

from everlytic_async.errors import ConfigurationError, InvalidOrderError
from everlytic_async.orders import Order
from everlytic_async.sources._jsonl import read_json_lines

__all__ = ["read_lines", "read_orders"]

_Item = Order | InvalidOrderError
_Source = str | os.PathLike[str] | IO[bytes] | IO[str]

_READERS: Mapping[str, Callable[[IO[Any]], Iterator[tuple[int, _Item]]]] = {
    "jsonl": read_json_lines,
}


def read_orders(
    path_or_file: _Source,
    format: str | None = None,  # noqa: A002 - the public name
) -> Iterator[_Item]:
    """Read orders lazily: hand it to `EverlyticClient.stream_orders` as it is.

    What can't be an order becomes an `InvalidOrderError` in its place, with its ``line`` (from 1)
    and every fault, and without any of its values; reading goes on after it. Numbers are exact: a
    fraction is a Decimal of the digits that the file has.

    Args:
        path_or_file: A path; ``-`` for the standard input; or an open file, which stays open.
            Let it be binary: a file that was opened as text raises by itself where it can't decode.
        format: ``jsonl`` for JSON Lines: one order, a JSON object, on each line of at most 1 MiB,
            in UTF-8 with or without a BOM; blank lines are skipped. None means the same.

    Raises:
        ConfigurationError: at once, when there is no such format.
        OSError: by the iteration, when the file can't be opened or read.
    """
    return _without_lines(read_lines(path_or_file, format))


def read_lines(
    path_or_file: _Source,
    format: str | None = None,  # noqa: A002 - the public name
) -> Iterator[tuple[int, _Item]]:
    """Read orders as `read_orders` does, each with the line that it came from, counted from 1."""
    known = ", ".join(_READERS)
    reader = _READERS.get("jsonl" if format is None else format)
    if reader is None:
        raise ConfigurationError(f"there is no format {format!r}: the known ones are {known}")
    return _open(path_or_file, reader)


def _open(
    path_or_file: _Source, reader: Callable[[IO[Any]], Iterator[tuple[int, _Item]]]
) -> Iterator[tuple[int, _Item]]:
    # A generator, so that a file which nobody reads is not opened, and needs no closing.
    if isinstance(path_or_file, str | os.PathLike):
        if path_or_file == "-":
            yield from reader(getattr(sys.stdin, "buffer", sys.stdin))
        else:
            with open(path_or_file, "rb") as file:  # noqa: PTH123 - a str or any PathLike
                yield from reader(file)
    else:
        yield from reader(path_or_file)


def _without_lines(numbered: Iterator[tuple[int, _Item]]) -> Iterator[_Item]:
    with closing(numbered):  # type: ignore[type-var] # a generator, closed with this one
        for _line, order in numbered:
            yield order
