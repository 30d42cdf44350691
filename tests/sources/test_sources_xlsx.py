"""Excel workbooks: ids are never floats, and a sheet is read like any other table."""

from __future__ import annotations

import io
import warnings
import zipfile
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from reading import Pipe, brief, fields, outcome, read, reader_of, refusal, starts_of_lines

from everlytic_async import ConfigurationError, SourceError
from everlytic_async.sources import read_orders, suggest_mapping

openpyxl = pytest.importorskip("openpyxl")

HEADER = ["order_id", "contact_email", "total", "product_name", "product_price", "product_sku"]
ANN = "ann@example.com"
ROW = [1, ANN, 1, "Mop", 1, "x"]
SHORTENED = "order_id: is a number that a spreadsheet shortened, such as "


def workbook(*rows: Any, formats: dict[str, str] | None = None, **sheets: Any) -> bytes:
    """A workbook of a sheet with these rows, and of other sheets."""
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Orders"
    for row in rows:
        sheet.append(row)
    for cell, number_format in (formats or {}).items():
        sheet[cell].number_format = number_format
    for name, cells in sheets.items():
        other = book.create_sheet(name)
        for row in cells:
            other.append(row)
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("cell", "number_format", "order_id"),
    [
        (17, "General", "17"),
        (17.0, "General", "17"),
        (5842016673921, "General", "5842016673921"),
        (5842016673921.0, "0.00E+00", "5842016673921"),
        (412, "000000", "000412"),
        ("000412", "General", "000412"),
        ("#1001", "General", "#1001"),
        (999_999_999_999_999, "General", "999999999999999"),
        (1234567890123456789, "General", SHORTENED),
        (1.23457e17, "General", SHORTENED),
        ("1.23457E+12", "General", SHORTENED),
    ],
)
def test_an_id_is_what_excel_shows_unless_it_has_lost_digits(
    cell: Any, number_format: str, order_id: str
) -> None:
    found = read(workbook(HEADER, [cell, *ROW[1:]], formats={"A2": number_format}))
    assert starts_of_lines(found, [(2, order_id)]) == [(2, order_id)]


@pytest.mark.parametrize(
    ("cell", "number_format", "amount"),
    [
        (14.309999999999999, "General", "14.31"),
        (0.1 + 0.2, "General", "0.3"),
        (20, "General", "20"),
        (-5.5, "General", "-5.5"),
        ("10.10", "General", "10.10"),
        (1e-7, "General", "1E-7"),
        (4.5, "General", "4.5"),
        (4.5, "0.00", "4.50"),
        (1234.5, '#,##0.00\\ "kr"', "1234.50"),
        (-4.5, "[$R-1C09] #,##0.00;[Red]-#,##0.00", "-4.50"),
        (4.5, "#,##0.00 [$€-407]", "4.50"),
        (4.125, "0.00", "4.125"),
        (0.5, "0.00%", "0.5"),
        (4.5, "0.0#", "4.5"),
        (4, "0.00", "4"),
    ],
)
def test_an_amount_has_the_digits_and_decimals_that_excel_shows(
    cell: Any, number_format: str, amount: str
) -> None:
    cells = [1, ANN, cell, "Mop", cell, 7]
    data = workbook(HEADER, cells, formats={"C2": number_format, "E2": number_format})
    ((_row, found),) = read(data)
    assert fields(found)["total"] == format(Decimal(amount), "f")
    (product,) = fields(found)["products"]
    assert (str(product["product_price"]), product["product_sku"]) == (amount, 7)


def test_a_sheet_is_a_table_like_any_other() -> None:
    rows = [
        ["Receipt", "Mail", "What", "Placed", "State", None, None],
        [],
        [1, ANN, "Mop", datetime(2026, 3, 1, 10), "done"],  # noqa: DTZ001 - as in a cell
        [None, None, "Soap", None, None],
        ["", " ", None],
        [2, ANN, "Mop", "2026-03-02", "open"],
        [3, ANN, "Mop", datetime(2026, 3, 3), "done"],  # noqa: DTZ001
        [4, "ann", "Mop", datetime(2026, 3, 3), "done"],  # noqa: DTZ001
    ]
    mapping = {"order_id": "Receipt", "contact_email": "Mail", "product_name": "What"}
    data = workbook(*rows)
    options: dict[str, Any] = {"where": "State=done", "since": "2026-03-01", "until": "2026-03-03"}
    reader = read_orders(io.BytesIO(data), mapping={**mapping, "date": "Placed"}, **options)
    ((line, order),) = reader.lines()
    assert (line, len(fields(order)["products"]), reader.format) == (3, 2, "xlsx")
    assert reader.skipped == {"where State=done": 1, "not before until": 2}
    fault = "contact_email: expected an e-mail address, found no @"
    assert brief(read(data, mapping=mapping))[3] == (8, fault)
    with pytest.raises(ConfigurationError, match="5 of its 5 columns are not fields of an order"):
        read(data)
    assert suggest_mapping(io.BytesIO(data)).mapping["contact_email"] == "Mail"


def test_a_title_above_the_header_is_left_out() -> None:
    assert brief(read(workbook(["Orders of March"], [], HEADER, ROW))) == [(4, "1")]
    titled = workbook(["Orders", "of March"], HEADER, ROW)
    told = "row 2 looks like the header: remove the rows above it"
    assert refusal(titled) == told
    with pytest.raises(ConfigurationError, match=f"^{told}$"):
        suggest_mapping(io.BytesIO(titled))
    assert suggest_mapping(io.BytesIO(workbook(["Wer", "x"], [ANN, 1]))).mapping


def test_a_shops_export_may_have_been_saved_by_excel() -> None:
    header = ["Name", "Email", "Financial Status", "Total", "Lineitem name", "Lineitem quantity"]
    rows = [
        ["#1", ANN, None, None, "Soap", 1, 3],
        ["#1", ANN, "paid", 24, "Mop", 2, 10.5],
        ["#2", ANN, None, 0, "Mop", 1, 1],
        ["#1", ANN, None, None, "Brush", 1, 3],
    ]
    data = workbook([*header, "Lineitem price"], *rows)
    reader = reader_of(data)
    apart = "5: has neither a status nor a total, as a row that is apart"
    expected = ["2: #1 (2)", apart, "abandoned checkout: 1"]
    assert outcome(reader, expected) == expected
    assert reader.format == "shopify-csv"
    soap, mop = fields(read(data)[0][1])["products"]
    assert (soap["product_line_total"], mop["product_line_total"]) == (3, Decimal("21.0"))


def test_another_sheet_is_read_where_it_is_named() -> None:
    data = workbook(["x"], April=[HEADER, ROW], May=[])
    assert brief(read(data, sheet="April")) == [(2, "1")]
    assert refusal(data, sheet="Aprill") == (
        "sheet: there is no sheet 'Aprill': did you mean 'April'? The sheets are 'Orders', "
        "'April', 'May'"
    )
    assert refusal(data, sheet="May").startswith("its sheet is empty: name another with --sheet")


def test_a_pipe_is_read_too_and_an_encoding_that_is_named_for_texts_does_no_harm() -> None:
    data = workbook(HEADER, ROW)
    assert brief(read(data, encoding="cp1252")) == [(2, "1")]
    assert brief(list(read_orders(Pipe(data)).lines())) == [(2, "1")]


def archive(**parts: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for name, text in parts.items():
            packed.writestr(name, text)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (archive(orders="a,b\n"), ConfigurationError, "it is a ZIP archive: unpack it"),
        (b"PK\x03\x04" + bytes(100), SourceError, r"can't be read \(BadZipFile\): save it again"),
        (workbook(HEADER)[:-200], SourceError, r"can't be read \(BadZipFile\): save it again"),
        (archive(**{"[Content_Types].xml": "<x"}), SourceError, "the Excel workbook can't be read"),
        (archive(**{"[Content_Types].xml": "<x/>"}), SourceError, "the Excel workbook can't be"),
    ],
)
def test_what_is_no_workbook_is_refused(data: bytes, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        read(data)


MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"


def sheet(*rows: str) -> bytes:
    """A workbook whose only sheet has these rows, as XML, below its header."""
    data = io.BytesIO(workbook(HEADER))
    with zipfile.ZipFile(data, "a") as packed, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a part of that name is there: the last one counts
        xml = packed.read("xl/worksheets/sheet1.xml").decode()
        xml = xml.replace("</sheetData>", "".join(rows) + "</sheetData>")
        packed.writestr("xl/worksheets/sheet1.xml", xml)
    return data.getvalue()


def row(number: int, total: str, more: str = "") -> str:
    """A row of an order; its total is in the third cell."""
    texts = (f"{number}", ANN, None, "Mop", "1", "x")
    cells = [
        total if text is None else f'<c t="inlineStr"><is><t>{text}</t></is></c>' for text in texts
    ]
    return f'<row r="{number}"{more}>{"".join(cells)}</row>'


NO_VALUE = "column 'total': holds a formula whose value is not in the file: open it in Excel, and"


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ("<c><v>1</v></c>", "2"),
        ("<c><f>A2</f><v>1</v></c>", "2"),
        ('<c t="str"><f>A2</f><v></v></c>', "2"),  # the formula gave a blank text
        ("<c/>", "2"),
        ("<c><f>A2</f><v/></c>", NO_VALUE),
        ("<c><f>A2</f></c>", NO_VALUE),
        ('<c t="str"><f>A2</f></c>', NO_VALUE),
        ('<c t="shared"><f t="shared" si="0"/></c>', NO_VALUE),
        ('<c t="e"><f>A2</f><v>#N/A</v></c>', "column 'total': holds the error #N/A"),
        ('<c t="e"><v>#VALUE!</v></c>', "column 'total': holds the error #VALUE!"),
        ('<c t="e"><v>ann@example.com</v></c>', "column 'total': holds an error"),
    ],
)
def test_a_cell_without_a_value_of_its_own_is_a_fault_where_it_is_used(
    cell: str, found: str
) -> None:
    data = sheet(row(2, cell), row(3, "<c><v>1</v></c>"))
    (line, brought), other = brief(read(data))
    assert (line, brought[: len(found)], other) == (2, found, (3, "3"))
    mapping = {"total": None}
    assert brief(read(data, mapping=mapping)) == [(2, "2"), (3, "3")]


def test_of_an_order_whose_id_is_an_error_the_rows_next_to_it_are_in_doubt() -> None:
    broken = row(3, "<c/>").replace(
        '<c t="inlineStr"><is><t>3</t></is></c>', '<c t="e"><v>#REF!</v></c>'
    )
    found = brief(read(sheet(row(2, "<c/>"), broken, row(4, "<c/>"), row(5, "<c/>"))))
    assert [line for line, _ in found] == [2, 3, 4, 5]
    assert found[1][1].startswith("column 'order_id': holds the error #REF!")
    assert found[0][1].startswith("line 3, next to it, can't be read")
    assert found[3] == (5, "5")


OTHERS = "only the first sheet is read, and others have the same columns: 'May'."


def test_sheets_that_are_not_read_are_pointed_out() -> None:
    months = workbook(HEADER, ROW, May=[["Orders of May"], HEADER, ROW], Notes=[["Who", "What"]])
    expected = ["2: 1 (1)", OTHERS]
    assert outcome(months, expected) == expected
    assert outcome(months, sheet="May") == ["3: 1 (1)"]
    cover = workbook(["Export of", "the shop"], List=[HEADER, ROW])
    assert "name another with --sheet, such as 'List'" in refusal(cover)


def test_a_hidden_sheet_is_not_the_first_one_and_hidden_rows_are_pointed_out() -> None:
    book = openpyxl.load_workbook(io.BytesIO(workbook(HEADER, [9, ANN, 1, "Mop", 1, "x"])))
    orders = book.create_sheet("May")
    for cells in (HEADER, ROW, [2, ANN, 1, "Mop", 1, "x"], []):
        orders.append(cells)
    book["Orders"].sheet_state = "hidden"
    orders.row_dimensions[3].hidden = orders.row_dimensions[4].hidden = True
    file = io.BytesIO()
    book.save(file)
    expected = ["2: 1 (1)", "3: 2 (1)", "rows that are hidden in the sheet, such as "]
    assert outcome(file.getvalue(), expected) == expected
    assert brief(read(file.getvalue(), sheet="Orders")) == [(2, "9")]


def test_rows_have_the_numbers_that_they_say_and_none_is_made_up() -> None:
    data = sheet(row(1_048_576, "<c/>"), row(7, "<c/>"), row(8, "<c/>"))
    assert [line for line, _ in read(data)] == [1_048_576, 7, 8]
    for number in (1_048_577, 10**7, 10**9, 10**300):
        with pytest.raises(SourceError, match="has a row with a number above 1,048,576"):
            read(sheet(row(number, "<c/>")))
