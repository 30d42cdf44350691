"""Excel: the rows of a sheet of an ``.xlsx`` workbook, read by openpyxl row by row.

Of the readers that are kept up, openpyxl reads a sheet in little memory; python-calamine is ten
times as fast and takes over 1 GB for a million rows. A workbook is a ZIP archive, and a few bytes
of it can claim to hold gigabytes; so its parts are measured before openpyxl gets to see them.

Numbers are doubles: as Excel shows them, with 15 digits. A longer whole number has lost digits, and
so comes out as a spreadsheet shows it, 1.23457E+17, which no id may be.
"""

from __future__ import annotations

import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from decimal import Decimal
from importlib import import_module
from itertools import chain, islice
from typing import IO, Any, TypeVar
from xml.etree import ElementTree as ET

from everlytic_async.errors import (
    MAX_FAULTS,
    ConfigurationError,
    EverlyticError,
    InvalidOrderError,
    SourceError,
)
from everlytic_async.sources._columns import no_such_name, show_names, split_header
from everlytic_async.sources._open import needs_extra, seekable
from everlytic_async.sources._records import InvalidRow

_Found = TypeVar("_Found")

_BATCH_ROWS = 256
_MAX_COLUMNS = 1_000
_MAX_SHEETS = 30  # whose columns are compared
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
# Such as #,##0.00 and 0.00 with a currency: how many decimals are shown, if not a percentage.
_DECIMALS = re.compile(r"[^.;%/E]*0\.(0{1,6})(?![0#?])[^.;%/E]*(?:;.*)?").fullmatch
_ERROR = re.compile(r"#[A-Z0-9/_]{1,20}[!?]?").fullmatch
_NO_VALUE = (
    "holds a formula whose value is not in the file: open it in Excel, and save it, or replace the "
    "formulas by their values"
)

#: The number of a row, whether it is hidden, and its cells: column from 1, value, fault.
_Row = tuple[int, bool, list[tuple[int, Any, str | None]]]


class XlsxReader:
    """The rows of a sheet, each its values in the order of the columns; iterate over it once.

    Without the name of a sheet it is the first that is not hidden.

    Raises:
        ConfigurationError: when openpyxl is missing, it is no workbook, or has no such sheet.
        SourceError: when it is damaged, or would fill the memory.

    Attributes:
        columns: The header: the first row with more than one cell, if it is not far down.
        other_sheets: The names of the sheets that are not read, although none was named.
        used: The columns whose cells must have a value, if they are not blank; None for all.
    """

    def __init__(self, file: IO[bytes], stack: ExitStack, sheet: str | None) -> None:
        with needs_extra("Excel workbooks", "xlsx"):
            openpyxl: Any = import_module("openpyxl")
        file = seekable(file, stack)
        _careful(lambda: _measure(file))
        book = _careful(
            lambda: openpyxl.load_workbook(file, read_only=True, data_only=True, keep_links=False)
        )
        stack.callback(book.close)
        names = [found.title for found in book.worksheets]
        if not names or (sheet is not None and sheet not in names):
            raise ConfigurationError(no_such_name("sheet", sheet or "Sheet1", names, what="sheet"))
        visible = [found.title for found in book.worksheets if found.sheet_state == "visible"]
        others = visible[1:] if sheet is None else []
        if sheet is None:
            sheet = (visible or names)[0]
        self.columns, self._rows = _read_header(_batched(_read_rows(book, book[sheet])))
        if not self.columns:
            raise ConfigurationError("its sheet is empty: name another with --sheet")
        if len(self.columns) > _MAX_COLUMNS:
            raise ConfigurationError(f"the header has more than {_MAX_COLUMNS:,} columns")
        self.used: Collection[str] | None = None
        self.other_sheets = others
        self._hidden_rows = 0
        self._alike = [
            name
            for name in others[:_MAX_SHEETS]
            if len({*self.columns} & {*_read_header(_batched(_read_rows(book, book[name])))[0]}) > 1
        ]

    def warnings(self) -> Iterator[str]:
        """What a person should look at before the orders are sent."""
        if self._hidden_rows:
            yield (
                "rows that are hidden in the sheet, such as by a filter, were read: "
                f"{self._hidden_rows:,}. To leave their orders out, delete the rows, or name a "
                "condition with --where"
            )
        if self._alike:
            yield (
                f"only the first sheet is read, and others have the same columns: "
                f"{show_names(self._alike)}. To read one of them, name it with --sheet"
            )

    def next_rows(self, most: int) -> Iterator[tuple[int, Sequence[Any]]]:
        """The values of the rows that follow, and are still to be read: to look for a header."""
        ahead = list(islice(self._rows, most))
        self._rows = chain(ahead, self._rows)
        for number, _is_hidden, cells in ahead:
            yield number, [value for _column, value, _fault in cells]

    def __iter__(self) -> Iterator[tuple[int, Sequence[Any] | InvalidRow]]:
        """Yield the number of each row, from 1, and the row; skip blank rows."""
        columns, width = self.columns, len(self.columns)
        for number, is_hidden, cells in self._rows:
            values: list[Any] = [None] * width
            faults = []
            for column, value, fault in cells:
                if column > width:
                    continue
                values[column - 1] = value
                name = columns[column - 1]
                if fault is not None and (self.used is None or name in self.used):
                    faults.append(f"column {name!r}: {fault}")
                    values[column - 1] = None
            if not faults and all(value is None or value == "" for value in values):
                continue
            self._hidden_rows += is_hidden
            if faults:
                error = InvalidOrderError(faults[:MAX_FAULTS], number)
                # If it says nothing of whose it is, that may be in the cell at fault.
                yield number, InvalidRow(error, values, is_partial=True)
            else:
                yield number, tuple(values)


def _read_header(rows: Iterator[_Row]) -> tuple[list[str], Iterator[_Row]]:
    """The columns, and the rows below."""
    header, below = split_header(rows, lambda row: len(_names(row)))
    names = {} if header is None else _names(header)
    columns = [names.get(column, "") for column in range(1, max(names, default=0) + 1)]
    return columns, chain(below, rows)


def _names(row: _Row) -> dict[int, str]:
    """The texts of the cells of a row that are not blank, by column."""
    texts = {column: str(value).strip() for column, value, _ in row[2] if value is not None}
    return {column: text for column, text in texts.items() if text}


def _read_rows(book: Any, sheet: Any) -> Iterator[_Row]:
    """The rows that are in a sheet, in their order in the file.

    openpyxl parses each, and does not iterate over them: it would keep an element of each row in
    memory, make up the rows that are missing, drop those that are not in order, and take a formula
    without a value for a blank cell.

    Raises:
        SourceError: when a row has a number that no sheet has.
    """
    reader: Any = import_module("openpyxl.worksheet._reader")
    styled: Any = import_module("openpyxl.cell.read_only").ReadOnlyCell
    with book._archive.open(sheet._worksheet_path) as part:  # noqa: SLF001 - see above
        parser = reader.WorkSheetParser(
            part,
            sheet._shared_strings,  # noqa: SLF001
            data_only=True,
            epoch=book.epoch,
            date_formats=book._date_formats,  # noqa: SLF001
            timedelta_formats=book._timedelta_formats,  # noqa: SLF001
        )
        rows: Any = None
        for event, element in reader.iterparse(part, events=("start", "end")):
            if event == "start":
                if element.tag == reader.DATA_TAG:
                    rows = element
            elif element.tag == reader.ROW_TAG:
                number, cells = parser.parse_row(element)
                if number > _MAX_ROWS:
                    raise SourceError(
                        f"the Excel workbook has a row with a number above {_MAX_ROWS:,}, and is "
                        "damaged: save it again, or save it as CSV in UTF-8"
                    )
                found = [
                    (cell["column"], _value(styled(sheet, **cell)), _fault(cell, xml, reader))
                    for cell, xml in zip(cells, element, strict=True)
                ]
                yield number, element.get("hidden") in ("1", "true"), found
                # Nothing is kept of a row but the element of the last one.
                parser.row_dimensions.clear()
                element.clear()
                if rows is not None:
                    del rows[:-1]


def _batched(rows: Iterator[_Found]) -> Iterator[_Found]:
    while batch := _careful(lambda: list(islice(rows, _BATCH_ROWS))):
        yield from batch


def _value(cell: Any) -> Any:
    """What a cell holds: numbers exact, and in the form in which Excel shows ids."""
    value = cell.value
    if isinstance(value, float):
        value = Decimal(format(value, f".{_DIGITS}g"))
        if value == value.to_integral_value():
            value = int(value)  # it may be an id
        elif (shown := _DECIMALS(cell.number_format or "")) is not None:
            value += Decimal(0).scaleb(-len(shown[1]))  # 4.5 is shown as 4.50
    if type(value) is int:
        if abs(value) >= 10**_DIGITS:
            return format(float(value), ".5E")
        if _PADDED(cell.number_format):
            return str(value).zfill(len(cell.number_format))
    return value


def _fault(cell: Any, element: Any, reader: Any) -> str | None:
    """Why the value of a cell is none."""
    value = cell["value"]
    if cell["data_type"] == "e":
        known = isinstance(value, str) and _ERROR(value)
        return f"holds the error {value}" if known else "holds an error"
    if value is not None or element.find(reader.FORMULA_TAG) is None:
        return None
    # A blank text is a value, too.
    is_blank = element.get("t") == "str" and element.find(reader.VALUE_TAG) is not None
    return None if is_blank else _NO_VALUE


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
