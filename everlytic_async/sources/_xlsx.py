"""Excel: the rows of a sheet of an ``.xlsx`` workbook, read by openpyxl row by row.

Of the readers that are kept up, openpyxl reads a sheet in little memory; python-calamine is ten
times as fast and takes over 1 GB for a million rows. A workbook is a ZIP archive, and a few bytes
of it can claim to hold gigabytes; so its parts are measured before openpyxl gets to see them.

Numbers are doubles: as Excel shows them, with 15 digits. A longer whole number has lost digits, and
so comes out as a spreadsheet shows it, 1.23457E+17, which no id may be.
"""

from __future__ import annotations

import re
import shutil
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from decimal import Decimal
from importlib import import_module
from itertools import islice
from typing import IO, Any, TypeVar
from xml.etree import ElementTree as ET

from everlytic_async.errors import ConfigurationError, EverlyticError, SourceError
from everlytic_async.sources._columns import no_such_name
from everlytic_async.sources._open import missing_extra_message

__all__ = ["XlsxReader"]

_Found = TypeVar("_Found")

_BATCH_ROWS = 256
_MAX_COLUMNS = 1_000
_MAX_ROWS = 1_048_576  # as many as Excel has
_CHUNK = 256 * 1024
# Of a row, and of what is before and after the rows.
_MAX_ROW_BYTES, _MAX_ROW_TAGS = 8 * 1024 * 1024, 140_000
# Of the texts that cells share, which are in memory as long as the file is read.
_MAX_TEXT_BYTES, _MAX_TEXT_TAGS = 24 * 1024 * 1024, 2_000_000
# Of each other part: styles and the like.
_MAX_PART_BYTES, _MAX_PART_TAGS = 8 * 1024 * 1024, 50_000
_MAX_DIRECTORY_BYTES = 4 * 1024 * 1024

_TYPES = "[Content_Types].xml"
_END_OF_ARCHIVE = b"PK\x05\x06"
_ROW_END = re.compile(rb"</(?:\w+:)?row\s*>|<(?:\w+:)?row(?:\s[^<>]*)?/>")
_DIGITS = 15  # of a number, that a spreadsheet keeps
_PADDED = re.compile(r"0{2,20}").fullmatch


class XlsxReader:
    """The rows of a sheet, each its values in the order of the columns; iterate over it once.

    Args:
        file: Open for reading, in binary. It stays open. If it can't seek, as a pipe, it is copied
            to a temporary file first.
        stack: Closes that copy.
        sheet: The name of the sheet; None for the first.

    Raises:
        ConfigurationError: when openpyxl is missing, it is no workbook, or has no such sheet.
        SourceError: when it is damaged, or would fill the memory.

    Attributes:
        columns: The first row that is not blank.
    """

    def __init__(self, file: IO[bytes], stack: ExitStack, sheet: str | None) -> None:
        try:
            # An extra, loaded when it is needed, and without types.
            openpyxl: Any = import_module("openpyxl")
        except ImportError:
            raise ConfigurationError(missing_extra_message("Excel workbooks", "xlsx")) from None
        if not file.seekable():
            copy = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - it is one
            shutil.copyfileobj(file, copy)
            copy.seek(0)
            file = copy
        _careful(lambda: _measure(file))
        book = _careful(
            lambda: openpyxl.load_workbook(file, read_only=True, data_only=True, keep_links=False)
        )
        stack.callback(book.close)
        names = [found.title for found in book.worksheets]
        if not names or (sheet is not None and sheet not in names):
            raise ConfigurationError(no_such_name("sheet", sheet or "Sheet1", names, what="sheet"))
        found = book[names[0] if sheet is None else sheet]
        found.reset_dimensions()  # what it says of its size may be wrong
        self._rows = _batched(enumerate(found.iter_rows(max_col=_MAX_COLUMNS + 1), 1))
        self.columns: Sequence[str] = self._read_header()

    def _read_header(self) -> list[str]:
        for _number, cells in self._rows:
            columns = ["" if cell.value is None else str(cell.value).strip() for cell in cells]
            while columns and not columns[-1]:
                columns.pop()
            if len(columns) > _MAX_COLUMNS:
                raise ConfigurationError(f"the first row has more than {_MAX_COLUMNS:,} columns")
            if columns:
                return columns
        raise ConfigurationError("its sheet is empty: name another with --sheet")

    def __iter__(self) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Yield the number of each row, from 1, and the row; skip blank rows."""
        width = len(self.columns)
        for number, cells in self._rows:
            values = [_value(cell) for cell in cells[:width]]
            if any(value is not None and value != "" for value in values):
                yield number, (*values, *[None] * (width - len(values)))


def _batched(rows: Iterator[_Found]) -> Iterator[_Found]:
    while batch := _careful(lambda: list(islice(rows, _BATCH_ROWS))):
        yield from batch


def _value(cell: Any) -> Any:
    """What a cell holds: numbers exact, and in the form in which Excel shows ids."""
    value = cell.value
    if isinstance(value, float):
        value = Decimal(format(value, f".{_DIGITS}g"))
        if value == value.to_integral_value():
            value = int(value)
    if type(value) is int:
        if abs(value) >= 10**_DIGITS:
            return format(float(value), ".5E")
        if _PADDED(cell.number_format):
            return str(value).zfill(len(cell.number_format))
    return value


def _careful(call: Callable[[], _Found]) -> _Found:
    """Call openpyxl, which raises what it likes of a damaged file, and warns of what it ignores."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call()
    except EverlyticError:
        raise
    except Exception as error:  # noqa: BLE001 - see above
        # Without its message: that may quote the file.
        raise SourceError(
            f"the Excel workbook can't be read ({type(error).__name__}): save it again, or save it "
            "as CSV in UTF-8"
        ) from None


# --------------------------------------------------------------------------------------- measures


def _measure(file: IO[bytes]) -> None:
    """Refuse an archive that is no workbook, or would fill the memory."""
    _measure_directory(file)
    with zipfile.ZipFile(file) as archive:
        if _TYPES not in archive.namelist():
            raise ConfigurationError("it is a ZIP archive: unpack it, and name what is in it")
        with archive.open(_TYPES) as part:
            _measure_part(part, _MAX_PART_BYTES, _MAX_PART_TAGS)
        types: dict[str, set[str]] = {}
        for element in ET.fromstring(archive.read(_TYPES)).iter():  # noqa: S314 - bounded
            name = element.get("PartName", "").removeprefix("/")
            types.setdefault(name, set()).add(element.get("ContentType", "").rpartition(".")[2])
        for name in archive.namelist():
            # Those that openpyxl keeps in memory, whatever they are called.
            with archive.open(name) as part:
                if types.get(name) == {"worksheet+xml"}:
                    _measure_rows(part)
                elif types.get(name) == {"sharedStrings+xml"}:
                    _measure_part(part, _MAX_TEXT_BYTES, _MAX_TEXT_TAGS)
                elif name in types or name.endswith((".xml", ".rels")):
                    _measure_part(part, _MAX_PART_BYTES, _MAX_PART_TAGS)
    file.seek(0)


def _measure_directory(file: IO[bytes]) -> None:
    size = file.seek(0, 2)
    file.seek(max(0, size - 65_557))  # its end, with the longest comment
    end = file.read()
    at = end.rfind(_END_OF_ARCHIVE)
    if at >= 0 and len(end) >= at + 16:
        (directory,) = struct.unpack_from("<I", end, at + 12)
        if directory > _MAX_DIRECTORY_BYTES:
            raise _too_large("parts")
    file.seek(0)


def _measure_part(part: IO[bytes], most_bytes: int, most_tags: int) -> None:
    size = tags = 0
    while data := part.read(_CHUNK):
        size += len(data)
        tags += data.count(b"<")
        if size > most_bytes or tags > most_tags:
            raise _too_large("texts" if most_bytes == _MAX_TEXT_BYTES else "styles")


def _measure_rows(part: IO[bytes]) -> None:
    rows = size = tags = 0
    rest = b""
    while data := part.read(_CHUNK):
        whole, bracket, rest = (rest + data).rpartition(b">")
        *ended, begun = _ROW_END.split(whole + bracket)
        for row in ended:
            if size + len(row) > _MAX_ROW_BYTES or tags + row.count(b"<") > _MAX_ROW_TAGS:
                raise _too_large("cells in a row")
            size = tags = 0
        rows += len(ended)
        size += len(begun)
        tags += begun.count(b"<")
        if rows > _MAX_ROWS:
            raise _too_large("rows")
        if size + len(rest) > _MAX_ROW_BYTES or tags > _MAX_ROW_TAGS:
            raise _too_large("cells in a row")


def _too_large(what: str) -> SourceError:
    return SourceError(
        f"the Excel workbook has so many {what} that it would fill the memory: save the sheet as "
        "CSV in UTF-8"
    )
