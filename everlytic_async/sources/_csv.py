"""CSV and TSV: a header, then rows; every cell stays the text that it is.

See RFC 4180. Parsed by the standard library's `csv`, strictly: a row with a stray quote, or with
more or fewer cells than the header, is a fault, and reading goes on with the line after it.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator, Sequence
from typing import IO

from everlytic_async.errors import ConfigurationError, InvalidOrderError
from everlytic_async.sources._open import BOM, MAX_LINE_BYTES
from everlytic_async.sources._records import BadRow

__all__ = ["DELIMITERS", "Rows", "delimiter_of"]

#: What separates cells, the likeliest first.
DELIMITERS = (",", ";", "\t", "|")
_MAX_COLUMNS = 10_000


def delimiter_of(header: str) -> str | None:
    """What separates the cells of a header, by counting outside of quotes; None where nothing."""
    plain = "".join(header.split('"')[::2])
    best = max(DELIMITERS, key=plain.count)
    return best if best in plain else None


class Rows:
    """The rows of a file, each as a mapping of its columns to texts; iterate over it once.

    Args:
        file: Open for reading, in binary. It stays open.
        delimiter: What separates cells; None to find it in the header.

    Raises:
        ConfigurationError: when the header can't be read.

    Attributes:
        columns: The header.
    """

    def __init__(self, file: IO[bytes], delimiter: str | None = None) -> None:
        self._file = file
        self._number = 0
        # Lines that were taken for the inside of a quoted cell which never closed.
        self._again: deque[tuple[int, str]] = deque()
        self._taken: list[tuple[int, str]] = []
        self._delimiter = delimiter or ","
        header = self._header(delimiter)
        self.columns: Sequence[str] = [name.strip() for name in header]
        named = [name for name in self.columns if name]
        if len(set(named)) < len(named) or not named or len(header) > _MAX_COLUMNS:
            raise ConfigurationError(
                "the first line does not name each column once: it has to be the header"
            )

    def _header(self, delimiter: str | None) -> list[str]:
        for first in self._lines():
            if first.strip() and not first.lower().startswith("sep="):
                if delimiter is None:
                    self._delimiter = delimiter_of(first) or ","
                self._again.append(self._taken[-1])
                break
            if first.strip() and delimiter is None:
                # Excel's own way of saying it.
                delimiter = self._delimiter = first.rstrip("\r\n")[4:5] or ","
        self._taken.clear()
        try:
            header = next(self._parser(), [])
        except (csv.Error, TypeError) as error:
            raise ConfigurationError(f"the header can't be read as CSV: {error}") from None
        if not _is_utf_8(header):
            raise ConfigurationError("the header is not UTF-8: save the file as UTF-8")
        return header

    def _parser(self) -> Iterator[list[str]]:
        try:
            return csv.reader(self._lines(), delimiter=self._delimiter, strict=True)
        except (TypeError, ValueError):
            raise ConfigurationError("what separates the columns is no separator") from None

    def _lines(self) -> Iterator[str]:
        while True:
            if self._again:
                numbered = self._again.popleft()
            else:
                line = self._file.readline(MAX_LINE_BYTES)
                if not line:
                    return
                self._number += 1
                if self._number == 1:
                    line = line.removeprefix(BOM)
                # What is no UTF-8 is a fault of its row, not of the file.
                numbered = self._number, line.decode("utf-8", "surrogateescape")
            self._taken.append(numbered)
            yield numbered[1]

    def __iter__(self) -> Iterator[tuple[int, dict[str, str] | BadRow]]:
        """Yield the number of each row's first line, and the row."""
        width = len(self.columns)
        parser = self._parser()
        taken = self._taken
        while True:
            taken.clear()
            try:
                cells = next(parser, None)
            except csv.Error as error:
                number, first = taken[0]
                # A quote too many takes the lines after it for its own: they get their own chance.
                self._again.extendleft(reversed(taken[1:]))
                parser = self._parser()
                if len(first) >= MAX_LINE_BYTES and not first.endswith("\n"):
                    self._skip_line()
                yield number, BadRow(_bad(f"is not CSV: {error}", number))
                continue
            if cells is None:
                return
            if not cells:
                continue
            number = taken[0][0]
            row = dict(zip(self.columns, cells, strict=False))
            if len(cells) != width:
                counts = f"{len(cells)} cells, and the header {width}"
                yield (
                    number,
                    BadRow(_bad(f"has {counts}: is a quote or a cell missing?", number), row),
                )
            elif not _is_utf_8(cells):
                yield number, BadRow(_bad("is not UTF-8: save the file as UTF-8", number), row)
            else:
                yield number, row

    def _skip_line(self) -> None:
        self._again.clear()
        while (rest := self._file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
            pass


def _bad(fault: str, number: int) -> InvalidOrderError:
    return InvalidOrderError([fault], number)


def _is_utf_8(cells: Sequence[str]) -> bool:
    text = "".join(cells)
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
