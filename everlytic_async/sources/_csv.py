"""CSV and TSV: a header, then rows; every cell stays the text that it is.

See RFC 4180. A row with a stray quote, or with more or fewer cells than the header, is a fault, and
reading goes on with the line after it. A row has at most `MAX_ROW_LINES` lines and
`MAX_LINE_BYTES` characters, one cell of it may be as long.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator, Sequence
from typing import IO

from everlytic_async.errors import ConfigurationError, InvalidOrderError
from everlytic_async.sources._open import BOM, MAX_LINE_BYTES, skip_line
from everlytic_async.sources._records import BadRow

__all__ = ["DELIMITERS", "MAX_ROW_LINES", "Rows", "delimiter_of"]

#: What separates cells, the likeliest first.
DELIMITERS = (",", ";", "\t", "|")
#: A row with more lines is none: a quote that is never closed takes no more lines than these.
MAX_ROW_LINES = 10_000
_MAX_COLUMNS = 10_000


def delimiter_of(header: str) -> str | None:
    """What separates the cells of a header, by counting outside of quotes; None where nothing."""
    plain = "".join(header.split('"')[::2])
    best = max(DELIMITERS, key=plain.count)
    return best if best in plain else None


# Its number, its text, and its fault: a tuple, as there are many.
_Line = tuple[int, str, str | None]
_TOO_LONG = f"is longer than {MAX_LINE_BYTES:,} bytes"
_NOT_UTF_8 = "is not UTF-8: save the file as UTF-8"


class Rows:
    """The rows of a file, each as a mapping of its columns to texts; iterate over it once.

    Args:
        file: Open for reading, in binary. It stays open.
        delimiter: What separates cells; None to find it in the header.

    Raises:
        ConfigurationError: when the header can't be read.

    Attributes:
        columns: The header.
        repeated: The columns that it names more than once. No row has them.
    """

    def __init__(self, file: IO[bytes], delimiter: str | None = None) -> None:
        self._file = file
        self._number = 0
        # Lines that were taken for the inside of a quoted cell which never closed.
        self._again: deque[_Line] = deque()
        # The lines of the row that is being parsed.
        self._taken: list[_Line] = []
        self._first: _Line | None = None
        # Up to this line, one that begins inside of a quoted cell leads to an error: it did before.
        self._fails_until = 0
        self._delimiter = delimiter or ","
        header = self._header(delimiter)
        self.columns: Sequence[str] = [name.strip() for name in header]
        named = [name for name in self.columns if name]
        if len(header) > _MAX_COLUMNS:
            raise ConfigurationError(f"the first line has more than {_MAX_COLUMNS:,} columns")
        if not named:
            raise ConfigurationError("the first line does not name the columns: expected a header")
        seen: set[str] = set()
        self.repeated = frozenset(name for name in named if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        self._names = ["" if name in self.repeated else name for name in self.columns]

    def _header(self, delimiter: str | None) -> list[str]:
        while (line := self._next()) is not None:
            _number, text, _fault = line
            if text.strip() and not text.lower().startswith("sep="):
                break
            if text.strip() and delimiter is None:
                # Excel's own way of saying it.
                delimiter = self._delimiter = text.rstrip("\r\n")[4:5] or ","
        if line is None:
            raise ConfigurationError("the first line does not name the columns: expected a header")
        if delimiter is None:
            self._delimiter = delimiter_of(text) or ","
        try:
            self._parser = self._new_parser()
        except (TypeError, ValueError):
            raise ConfigurationError("what separates the columns is no separator") from None
        try:
            header = self._cells(line)
        except csv.Error as error:
            raise ConfigurationError(f"the header can't be read as CSV: {error}") from None
        fault = self._fault()
        if fault is not None:
            raise ConfigurationError(f"the header {fault}")
        return header

    def __iter__(self) -> Iterator[tuple[int, dict[str, str] | BadRow]]:
        """Yield the number of each row's first line, and the row."""
        width, names = len(self._names), self._names
        while (line := self._next()) is not None:
            number = line[0]
            try:
                cells = self._cells(line)
            except csv.Error as error:
                yield number, self._give_up(line, error)
                continue
            # Blank rows are nothing, whatever their length.
            if not cells[0].strip() and not any(map(str.strip, cells)):
                continue
            row = dict(zip(names, cells, strict=False))
            fault = self._fault()
            if fault is None and len(cells) != width:
                counts = f"{len(cells)} cells, and the header {width}"
                fault = f"has {counts}: is a quote or a cell missing?"
            yield number, row if fault is None else BadRow(_bad(fault, number), row)

    # ----------------------------------------------------------------------------------- rows

    def _cells(self, line: _Line) -> list[str]:
        """The cells of the row that begins with a line; reads the lines that belong to it.

        Raises:
            csv.Error: it is no row.
        """
        self._taken = [line]
        text = line[1]
        if '"' not in text:
            text = text.rstrip("\r\n")
            if "\r" in text:
                raise csv.Error("a carriage return outside of quotes")
            return text.split(self._delimiter)
        self._first, self._taken = line, []
        try:
            return next(self._parser)
        except csv.Error:
            # What `csv` takes for too long a cell is a setting of the whole process: not ours.
            if sum(len(text) for _number, text, _fault in self._taken) <= csv.field_size_limit():
                raise
        self._put_back(self._taken[1:])
        self._first, self._taken = line, []
        return _split(self._texts(), self._delimiter)

    def _fault(self) -> str | None:
        """The fault of the first line of the row that has one."""
        for _number, _text, fault in self._taken:
            if fault is not None:
                return fault
        return None

    def _new_parser(self) -> Iterator[list[str]]:
        return csv.reader(self._texts(), delimiter=self._delimiter, strict=True)

    def _texts(self) -> Iterator[str]:
        """The lines of a row: the first as it stands there, then as many as are asked for."""
        size = 0
        while True:
            line = self._first
            if line is not None:
                self._first = None
                size = 0
            else:
                line = self._next()
                if line is None:
                    return
                if line[0] <= self._fails_until:
                    self._put_back([line])
                    raise csv.Error("a quote is never closed")
                if len(self._taken) >= MAX_ROW_LINES or size + len(line[1]) > MAX_LINE_BYTES:
                    self._put_back([line])
                    raise csv.Error(
                        f"a quote is not closed within {MAX_ROW_LINES:,} lines and "
                        f"{MAX_LINE_BYTES:,} characters"
                    )
            size += len(line[1])
            self._taken.append(line)
            yield line[1]

    def _give_up(self, line: _Line, error: csv.Error) -> BadRow:
        """Take a line for a row that can't be read, and let those after it be rows of their own."""
        taken = self._taken[1:]
        self._put_back(taken)
        if taken:
            # Whether a line begins inside of a cell decides how it ends, whichever row that cell
            # is of. So no line is taken for the inside of a cell twice, and time stays linear.
            self._fails_until = max(self._fails_until, taken[-1][0])
        self._parser = self._new_parser()
        # Cells before the first quote are what they are: perhaps they tell whose row it is.
        number, text, fault = line
        cells = text.partition('"')[0].split(self._delimiter)[:-1]
        row = dict(zip(self._names, cells, strict=False)) if cells else None
        return BadRow(_bad(fault or f"is not CSV: {error}", number), row, is_partial=True)

    # ---------------------------------------------------------------------------------- lines

    def _next(self) -> _Line | None:
        if self._again:
            return self._again.popleft()
        data = self._file.readline(MAX_LINE_BYTES)
        if not data:
            return None
        number = self._number = self._number + 1
        if number == 1:
            data = data.removeprefix(BOM)
        fault = None
        if len(data) >= MAX_LINE_BYTES and not data.endswith(b"\n"):
            fault = _TOO_LONG
            skip_line(self._file)
        try:
            return number, data.decode(), fault
        except UnicodeDecodeError:
            # A fault of its row, not of the file.
            return number, data.decode("utf-8", "surrogateescape"), fault or _NOT_UTF_8

    def _put_back(self, lines: Sequence[_Line]) -> None:
        self._again.extendleft(reversed(lines))


def _split(lines: Iterator[str], delimiter: str) -> list[str]:
    """The cells of a row, as `csv` splits them, however long they are.

    Raises:
        csv.Error: it is no row.
    """
    cells: list[str] = []
    text, at = next(lines), 0
    while True:
        if not text.startswith('"', at):
            end = text.find(delimiter, at)
            cell = text[at:end] if end >= 0 else text[at:].rstrip("\r\n")
            if "\r" in cell:
                raise csv.Error("a carriage return outside of quotes")
            cells.append(cell)
            if end < 0:
                return cells
            at = end + 1
            continue
        pieces: list[str] = []
        at += 1
        while not pieces or text.startswith('"', at):
            if pieces:  # two quotes in a quoted cell are one
                pieces.append('"')
                at += 1
            while (end := text.find('"', at)) < 0:
                pieces.append(text[at:])
                following = next(lines, None)
                if following is None:
                    raise csv.Error("unexpected end of data")
                text, at = following, 0
            pieces.append(text[at:end])
            at = end + 1
        cells.append("".join(pieces))
        if not text[at:].strip("\r\n"):
            return cells
        if not text.startswith(delimiter, at):
            raise csv.Error(f"'{delimiter}' expected after '\"'")
        at += 1


def _bad(fault: str, number: int) -> InvalidOrderError:
    return InvalidOrderError([fault], number)
