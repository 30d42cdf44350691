"""CSV and TSV: a header, then rows; every cell stays the text that it is.

See RFC 4180. A row with a stray quote, or with more or fewer cells than the header, is a fault, and
reading goes on with the line after it. A row has at most `MAX_ROW_LINES` lines and
`MAX_LINE_BYTES` characters. Python's `csv` splits the rows that it can, those of one line; how long
a cell may be is a setting of its whole process, and here a cell may be as long as a line. So a row
that it refuses is split here.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import IO, Any

from everlytic_async.errors import ConfigurationError, InvalidOrderError
from everlytic_async.sources._columns import split_header
from everlytic_async.sources._open import BOM, MAX_LINE_BYTES, NOT_UTF_8, skip_line
from everlytic_async.sources._records import InvalidRow

#: What separates cells, the likeliest first.
DELIMITERS = (",", ";", "\t", "|")
#: A quote that is never closed takes no more lines than these.
MAX_ROW_LINES = 10_000
_MAX_COLUMNS = 10_000

_QUOTED = re.compile(r'"[^"]+"')
_TOO_LONG = f"is longer than {MAX_LINE_BYTES:,} bytes"


def detect_delimiter(header: str) -> str | None:
    """What separates the cells of a header, counted outside of quotes; None if nothing does."""
    unquoted = "".join(header.split('"')[::2])
    best = max(DELIMITERS, key=unquoted.count)
    return best if best in unquoted else None


def _count_cells(line: str, delimiter: str | None) -> int:
    """How many cells of a line are not blank; several, if one of them has several lines."""
    cells = _QUOTED.sub("x", line).split(delimiter or detect_delimiter(line) or ",")
    return 2 if line.count('"') % 2 else sum(map(bool, map(str.strip, cells)))


class _RowError(Exception):
    """Why lines are not a row."""


class CsvReader:
    """The rows of a file, each a list of its cells; iterate over it once.

    Args:
        file: Open for reading, in binary. It stays open.
        delimiter: What separates cells; None to detect it in the header.
        encoding: The encoding that it had, if the caller named it; None for UTF-8.

    Raises:
        ConfigurationError: when the header can't be read.

    Attributes:
        columns: The header: the first row with more than one cell, if it is not far down.
    """

    def __init__(
        self, file: IO[bytes], delimiter: str | None = None, encoding: str | None = None
    ) -> None:
        self._file = file
        self._no_text = f"is not {encoding}: name its encoding with --encoding"
        if encoding is None:
            self._no_text = NOT_UTF_8
        self._number = 0  # of the line that was handed out last
        self._pushed_back: deque[str] = deque()
        self._row: list[str] = []  # the lines of the row that is being read
        self._row_chars = 0
        self._faults: dict[int, str] = {}  # of lines, by their numbers
        # Up to this line, one that starts inside of a quoted cell is known to end in an error.
        self._fails_until = 0
        self._delimiter = delimiter or ","
        self._one_line: deque[str] = deque()  # what `csv` reads: one line, or none
        self.columns: Sequence[str] = self._read_header(delimiter)

    def _read_header(self, delimiter: str | None) -> list[str]:
        text = self._next_line()
        while text is not None and not text.strip():
            text = self._next_line()
        if text is not None and text.lower().startswith("sep="):
            # Excel writes sep=; in a line of its own.
            delimiter = delimiter or text.rstrip("\r\n")[4:5] or ","
        elif text is not None:
            self._push_back([text])
        lines = iter(self._next_line, None)
        text, below = split_header(lines, partial(_count_cells, delimiter=delimiter))
        self._push_back(below)
        if text is None:
            raise ConfigurationError("the first line does not name the columns: expected a header")
        self._delimiter = delimiter or detect_delimiter(text) or ","
        if self._delimiter == '"' or not (self._delimiter.isprintable() or self._delimiter == "\t"):
            raise ConfigurationError(
                "sep= names a quote or a control character: name what separates the columns"
            )
        number = self._number
        line = iter(self._one_line.popleft, None)
        self._splitter = csv.reader(line, delimiter=self._delimiter, strict=True)
        try:
            columns = [name.strip() for name in self._split(text)]
        except _RowError as error:
            raise ConfigurationError(f"the header can't be read as CSV: {error}") from None
        if (fault := self._pop_fault(number)) is not None:
            raise ConfigurationError(f"the header {fault}")
        if len(columns) > _MAX_COLUMNS:
            raise ConfigurationError(f"the first line has more than {_MAX_COLUMNS:,} columns")
        if not any(columns):
            raise ConfigurationError("the first line does not name the columns: expected a header")
        return columns

    def __iter__(self) -> Iterator[tuple[int, list[str] | InvalidRow]]:
        """Yield the number of each row's first line, and the row; skip blank rows."""
        width, delimiter = len(self.columns), self._delimiter
        while (text := self._next_line()) is not None:
            number = self._number
            if '"' not in text and "\r" not in (line := text.rstrip("\r\n")):
                cells = line.split(delimiter)
            else:
                try:
                    cells = self._split(text)
                except _RowError as error:
                    yield number, self._give_up(number, text, error)
                    continue
            if not cells[0].strip() and not any(map(str.strip, cells)):
                continue
            fault = self._pop_fault(number) if self._faults else None
            if fault is None and len(cells) != width:
                counts = f"{len(cells)} cells, and the header {width}"
                fault = f"has {counts}: is a quote or a cell missing?"
            if fault is None:
                yield number, cells
            else:
                row = (cells + [""] * (width - len(cells)))[:width]
                yield number, InvalidRow(InvalidOrderError([fault], number), row)

    def next_rows(self, most: int) -> Iterator[tuple[int, Sequence[Any]]]:
        """The rows that follow, roughly, whatever their delimiter: to look for another header.

        They are still to be read.
        """
        first = self._number + 1
        ahead = list(islice(iter(self._next_line, None), most))
        self._push_back(ahead)
        for number, text in enumerate(ahead, first):
            cells = text.split(detect_delimiter(text) or self._delimiter)
            yield number, [cell.strip().strip('"') for cell in cells]

    # ------------------------------------------------------------------------------------ rows

    def _split(self, text: str) -> list[str]:
        """The cells of the row that starts with this line; reads the other lines of the row.

        Raises:
            _RowError: it is not a row.
        """
        line = text.rstrip("\r\n")
        if '"' not in line:
            return self._split_unquoted(line)
        self._one_line.append(text)
        try:
            return next(self._splitter)
        except (csv.Error, IndexError):
            pass  # it has several lines, a fault, or a long cell
        self._row, self._row_chars = [text], len(text)
        cells: list[str] = []
        start = 0
        while True:
            if not line.startswith('"', start):
                # Up to the next quoted cell. A quote within an unquoted cell is just a quote.
                end = line.find(f'{self._delimiter}"', start)
                cells += self._split_unquoted(line[start:] if end < 0 else line[start:end])
                if end < 0:
                    return cells
                start = end + 1
            pieces: list[str] = []
            start += 1
            while True:
                end = text.find('"', start)
                if end < 0:
                    pieces.append(text[start:])
                    text, start = self._next_line_of_row(), 0
                    line = text.rstrip("\r\n")
                    continue
                pieces.append(text[start:end])
                start = end + 1
                if not line.startswith('"', start):
                    break
                pieces.append('"')  # two quotes in a quoted cell are one
                start += 1
            cells.append("".join(pieces))
            if start >= len(line):
                return cells
            if line[start] != self._delimiter:
                raise _RowError(f"'{self._delimiter}' expected after '\"'")
            start += 1

    def _split_unquoted(self, text: str) -> list[str]:
        if "\r" in text:
            raise _RowError("a carriage return outside of quotes")
        return text.split(self._delimiter)

    def _next_line_of_row(self) -> str:
        if self._number < self._fails_until:
            raise _RowError("a quote is never closed")
        text = self._next_line()
        if text is None:
            raise _RowError("unexpected end of data")
        self._row_chars += len(text)
        if len(self._row) >= MAX_ROW_LINES or self._row_chars > MAX_LINE_BYTES:
            self._push_back([text])
            raise _RowError(
                f"a quote is not closed within {MAX_ROW_LINES:,} lines and "
                f"{MAX_LINE_BYTES:,} characters"
            )
        self._row.append(text)
        return text

    def _give_up(self, number: int, text: str, error: _RowError) -> InvalidRow:
        """Take the first line for a row that can't be read, and let the others be rows."""
        if self._number > number:
            # Where the cell that a line starts in ends does not depend on where it started. So no
            # line is read as the inside of a cell twice, and time stays linear.
            self._fails_until = max(self._fails_until, self._number)
            self._push_back(self._row[1:])
        # The cells before the first quote: perhaps they name the order.
        cells = text.partition('"')[0].split(self._delimiter)[:-1]
        row = (cells + [""] * len(self.columns))[: len(self.columns)] if cells else None
        fault = self._faults.pop(number, None) or f"is not CSV: {error}"
        return InvalidRow(InvalidOrderError([fault], number), row, is_partial=True)

    # ----------------------------------------------------------------------------------- lines

    def _next_line(self) -> str | None:
        if self._pushed_back:
            self._number += 1
            return self._pushed_back.popleft()
        data = self._file.readline(MAX_LINE_BYTES)
        if not data:
            return None
        self._number += 1
        if self._number == 1:
            data = data.removeprefix(BOM)
        if len(data) >= MAX_LINE_BYTES and not data.endswith(b"\n"):
            self._faults[self._number] = _TOO_LONG
            skip_line(self._file)
        try:
            return data.decode()
        except UnicodeDecodeError:
            # A fault of its row, not of the file.
            self._faults.setdefault(self._number, self._no_text)
            return data.decode("utf-8", "surrogateescape")

    def _push_back(self, lines: Sequence[str]) -> None:
        self._pushed_back.extendleft(reversed(lines))
        self._number -= len(lines)

    def _pop_fault(self, first: int) -> str | None:
        """The first fault of the lines from this one to the last that was handed out."""
        faults = [self._faults.pop(number, None) for number in range(first, self._number + 1)]
        return next(filter(None, faults), None)
