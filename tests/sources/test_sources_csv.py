"""CSV and TSV: every row is in one item, cells stay text, and a bad row spoils no other order."""

from __future__ import annotations

import csv
import io
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import Pipe, brief, exact, fields, read, starts_of_lines

from everlytic_async import ConfigurationError, Order
from everlytic_async.sources import read_orders
from everlytic_async.sources._csv import CsvReader
from everlytic_async.sources._records import InvalidRow

HEADER = "order_id,contact_email,total,product_name,product_price"
ALONE: dict[str, Any] = {"group_by": None}

CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\r"), max_size=10)
PRICE = st.decimals(allow_nan=False, allow_infinity=False, min_value=0, max_value=10**9)
ID = st.from_regex(r"0{0,5}[1-9]{1,13}", fullmatch=True)
ROWS = st.tuples(ID, st.lists(st.tuples(CELL, PRICE), min_size=1, max_size=3), CELL)


@settings(max_examples=50)
@given(
    st.lists(ROWS, max_size=5, unique_by=lambda order: order[0]),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    st.booleans(),
)
def test_rows_come_back_as_orders_cell_by_cell(
    orders: Any, delimiter: str, end: str, quoting: Any, bom: bool
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerow(HEADER.split(","))
    for order_id, products, total in orders:
        for name, price in products:
            writer.writerow([order_id, "a@example.com", total, name, str(price)])
    found = read(("\ufeff" if bom else "") + text.getvalue())
    expected = [
        Order(
            order_id=order_id,
            contact_email="a@example.com",
            total=total if total.strip() else None,
            products=[
                {"product_price": price, **({"product_name": name} if name.strip() else {})}
                for name, price in products
            ],
        )
        for order_id, products, total in orders
    ]
    assert [exact(item) for _line, item in found] == [exact(order) for order in expected]


PIECES = ['"', '""', ",", "\n", "\r\n", "a", " ", "b,", ',"', '",', '","', "1,a@b,1,M,1\n"]


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PIECES), max_size=20).map("".join))
def test_rows_are_split_as_pythons_csv_splits_them(text: str) -> None:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    expected: list[list[str]] | None = []
    try:
        expected = [row for row in reader if any(map(str.strip, row))]
    except csv.Error:
        expected = None
    found = [row for _line, row in CsvReader(io.BytesIO(f"a,b\n{text}".encode()))]
    if expected is None:
        assert any(isinstance(row, InvalidRow) for row in found)
    else:
        padded = [[*row, "", ""][:2] for row in expected]
        assert [row.row if isinstance(row, InvalidRow) else row for row in found] == padded


@given(st.lists(st.sampled_from([b'"', b",", b"\n", b"\r\n", b"a@b", b"1", b"\xff", b" "])))
def test_whatever_the_rows_are_only_items_come_out(pieces: list[bytes]) -> None:
    data = HEADER.encode() + b"\n" + b"".join(pieces)
    lines = [line for line, _item in read_orders(Pipe(data), "csv").lines()]
    assert lines == sorted(set(lines))


def rows(*lines: str) -> str:
    return "\n".join([HEADER, *lines, ""])


GOOD = [f"{n},{n}@example.com,1,Mop,1" for n in range(10)]
COUNTS = "and the header 5: is a quote or a cell missing?"
SUSPECT = "line 3, next to it, can't be read and may be a row of this order"
DISAGREE = "contact_email: the rows of the order do not agree on it"
MARKED = "contact_email: begins with ', as spreadsheets mark a text: remove it"
TEXT_PRICE = "products[0].product_price: expected a number, got text"
CONTROL = "products[0].product_price: expected a number, and its text holds "
QUOTED = "products[0].product_price: expected a number, found '"
SHORTENED = "is a number that a spreadsheet shortened"

#: Rows after the header; what is read of them: lines with ids, or with the starts of faults.
CASES: dict[str, tuple[str | bytes, list[tuple[int, str]]]] = {
    "each mistake is a fault of its row": (
        rows(GOOD[1], "2,no address,1,Mop,1", "3,a@b,1,Mop", f"{GOOD[4]},more", "", GOOD[5]),
        [
            (2, "1"),
            (3, "contact_email: expected an e-mail address, found no @"),
            (4, f"has 4 cells, {COUNTS}"),
            (5, f"has 6 cells, {COUNTS}"),
            (7, "5"),
        ],
    ),
    "NUL": (
        rows("1,a@b,1,Mop\0Head,1", GOOD[2]),
        [(2, "products[0].product_name: holds a NUL character"), (3, "2")],
    ),
    "blank rows of any length are skipped": (
        rows(GOOD[1], ",,,,", ",,", " , , ", ",,,,,,,,,", "   ", "", GOOD[2], ",,"),
        [(2, "1"), (9, "2")],
    ),
    "a row of the wrong width spoils its own order only": (
        rows(GOOD[1], GOOD[2], "2,2@example.com,1,Bucket", GOOD[3]),
        [(2, "1"), (3, f"line 4 has 4 cells, {COUNTS}"), (5, "3")],
    ),
    "the orders next to a row without a key are not sent without it": (
        rows(GOOD[1], '"2"x,b@b,1,Mop,1', GOOD[3], GOOD[4]),
        [(2, SUSPECT), (3, "is not CSV: ',' expected after '\"'"), (4, SUSPECT), (5, "4")],
    ),
    "rows of one order become one, and a later one another": (
        rows(
            GOOD[1], "1,,,Bucket,2", ",,,Soap,3", GOOD[2], ",b@b,9,Mop,1", ",b@b,9,Mop,1", GOOD[1]
        ),
        [(2, "1"), (5, "2"), (6, "None"), (7, "None"), (8, "1")],
    ),
    "rows that differ in their contact": (rows("1,a@b,9,Mop,1", "1,c@b,9,Mop,1"), [(2, DISAGREE)]),
    "more rows than an order has": (
        rows(*["7,a@b,9,Mop,1"] * 10_001),
        [(2, "has more than 10,000 rows: is group_by the right column?")],
    ),
    "new lines and quotes in a cell": (
        rows('1,a@b,1,"Mop ""XL"",\r\nred\n",1', GOOD[2]),
        [(2, "1"), (5, "2")],
    ),
    "an address that a spreadsheet marked as text": (
        rows("1,'a@b,1,Mop,1", "2,o'hara@b,1,Mop,1"),
        [(2, MARKED), (3, "2")],
    ),
    "a line that is too long": (
        rows("x" * 3_000_000, GOOD[2]),
        [(2, "is longer than 1,048,576 bytes"), (3, "2")],
    ),
    **{
        f"price {price}": (rows(f'1,a@b,1,Mop,"{price}"'), [(2, TEXT_PRICE)])
        for price in ("ten", "0x10", "NaN", "\u0661", "1_0", "Ann 7", "ann7@b", "7 High Street")
    },
    **{
        f"price {price}": (rows(f'1,a@b,1,Mop,"{price}"'), [(2, f"{QUOTED}{price}'{way_out}")])
        for price, way_out in (
            ("1,234.50", ": say how numbers are written, such as --decimal '.' --thousands ','"),
            ("1.234,50", ": say how numbers are written, such as --decimal ',' --thousands '.'"),
            ("1 234,50", ": say how numbers are written, such as --decimal ',' --thousands ' '"),
            ("10,00", ": say how numbers are written, such as --decimal ','"),
            ("1,250", ": say how numbers are written, such as --decimal '.' --thousands ','"),
            ("R 10", ": say how numbers are written, such as --decimal '.'"),
            ("10.10.10", ""),
        )
    },
    **{
        f"price {price!r}": (rows(f"1,a@b,1,Mop,{price}"), [(2, f"{CONTROL}{shown}: remove it, ")])
        for price, shown in (("1\0", "a NUL character"), ("\x1b1", "the control character U+001B"))
    },
    **{
        f"a row with {bad}": (
            rows(GOOD[1], GOOD[2], f"2,2@example.com,1,{bad}", GOOD[3]),
            [(2, "1"), (3, "line 4 is not CSV: "), (5, "3")],
        )
        for bad in ('"Mop"s,1', '"6" pipe",1', '"Mop', '6,"" pipe"')
    },
    **{
        f"id {order_id}": (
            f'order_id,contact_email,product_name\n"{order_id}",a@b,Mop\n',
            [(2, f"order_id: {SHORTENED}" if spoilt else order_id)],
        )
        for spoilt, ids in (
            (True, ("1.23457E+12", " 1.2E+15 ", "5E+12", "1,23457E+12")),
            (False, ("1E5", "12E+12", "1.2E-5", "#1001", "1234567890123", "A1E+12", "000003")),
        )
        for order_id in ids
    },
    "a shortened unique id": (
        "contact_unique_id,product_name\n1.23457E+12,Mop\n",
        [(2, f"contact_unique_id: {SHORTENED}")],
    ),
    **{
        f"before the header {first!r}": (
            f"{first}order_id;contact_email;product_name\r\n1;a@b;M,N\r\n",
            [(line, "1")],
        )
        for first, line in (("sep=;\r\n", 3), ("\r\n", 3), ("\ufeff", 2), ("\ufeffsep=;\r\n", 3))
    },
    **{
        f"lines that end with {end!r}": (
            rows(GOOD[1], '2,a@b,1,"Mop, large",1').replace("\n", end),
            [(2, "1"), (3, "2")],
        )
        for end in ("\r", "\r\n")
    },
    **{f"no rows: {text!r}": (text, []) for text in ("", "\n\n", "\ufeff", f"{HEADER}\n", HEADER)},
}


@pytest.mark.parametrize("name", CASES)
def test_rows_and_their_faults(name: str) -> None:
    data, expected = CASES[name]
    assert starts_of_lines(read(data, "csv"), expected) == expected


def test_an_order_without_groups_is_its_row() -> None:
    found = read(rows(GOOD[1], "2,b@b,1,Mo\rp,1", GOOD[1]), "csv", mapping=ALONE)
    fault = "is not CSV: a carriage return outside of quotes"
    assert brief(found) == [(2, "1"), (3, fault), (4, "1")]


def test_a_quote_that_is_never_closed_takes_one_row_and_not_the_rest() -> None:
    rest = [f"{n},a@example.com,1,Mop,1" for n in range(10, 3000)]
    (first, *others) = brief(read(rows('1,a@b,1,"Mop,1', *rest), "csv", mapping=ALONE))
    assert first == (2, "is not CSV: unexpected end of data")
    assert others == [(n - 7, str(n)) for n in range(10, 3000)]


def test_cells_are_never_taken_for_anything_but_text() -> None:
    columns = "order_id,contact_unique_id,total,product_sku,product_price,product_quantity"
    ((_line, order),) = read(f"{columns}\n000003,5842016673921,1e3,007,10.10,1.5\n", "csv")
    product = {
        "product_price": Decimal("10.10"),
        "product_quantity": Decimal("1.5"),
        "product_sku": "007",
    }
    expected = Order(
        order_id="000003", contact_unique_id="5842016673921", total="1e3", products=[product]
    )
    assert exact(order) == exact(expected)


@pytest.mark.parametrize("limit", [10, 131_072])
def test_a_cell_may_be_as_long_as_a_line(limit: int) -> None:
    name = f'{"x" * 400_000}""y"",\r\n{"z" * 400_000}'
    before = csv.field_size_limit(limit)  # of the whole process: another library may set it
    try:
        (_line, first), second = read(rows(f'1,a@b,1,"{name}",1', GOOD[2]), "csv")
        assert csv.field_size_limit() == limit
    finally:
        csv.field_size_limit(before)
    assert fields(first)["products"][0]["product_name"] == name.replace('""', '"')
    assert brief([second]) == [(4, "2")]


REPEATED = "order_id,contact_email,Tags,product_name,Tags\n1,a@example.com,x,Mop,y\n"
MAPPING = {"contact_email": "contact_email", "order_id": "order_id", "product_name": "product_name"}
SHOPIFY = "Name,Email,Lineitem name,Lineitem quantity,Lineitem price"


@pytest.mark.parametrize(
    ("text", "mapping", "column"),
    [
        (REPEATED, MAPPING, None),
        *(
            (REPEATED, MAPPING | use, "Tags")
            for use in (
                {"product_sku": "Tags"},
                {"product_sku": ["Nothing", "Tags"]},
                {"product_sku": "{Tags}-{order_id}"},
                {"product_sku": lambda row: row.get("Tags")},
                {"group_by": "Tags"},
                {"date": "Tags"},
            )
        ),
        (f"{SHOPIFY},Tags,Tags\n#1,a@b,Mop,1,1.00,a,b\n", None, None),
        *(
            (f"{SHOPIFY},{column},{column}\n#1,a@b,Mop,1,1.00,,\n", None, column)
            for column in ("Email", "Cancelled at", "Financial Status", "Lineitem discount")
        ),
    ],
)
def test_a_repeated_column_is_refused_where_it_is_used(
    text: str, mapping: Any, column: str | None
) -> None:
    if column is None:
        ((_line, order),) = read(text, mapping=mapping)
        assert isinstance(order, Order)
    else:
        with pytest.raises(ConfigurationError, match=f"has more than one column '{column}'"):
            read(text, mapping=mapping)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("Order,E-mail,Thing", "3 of its 3 columns are not fields of an order"),
        ("contact_email,product_name,Notes", "1 of its 3 columns are not fields of an order"),
        ("order_id,product_name", "none of its 2 columns is contact_email or contact_unique_id"),
        ("contact_email,contact_email", "its header has more than one column 'contact_email'"),
        (",,", "the first line does not name the columns"),
        ('sep="\n"a"', "sep= names a quote"),
        ("sep=\x00\na\x00b", "sep= names a quote or a control character"),
        ('"order_id', "the header can't be read as CSV: unexpected end of data"),
        (b"contact_email,\xff", "line 1 is not UTF-8: name the encoding, such as with --enc"),
    ],
)
def test_a_header_that_says_too_little_is_refused(header: str | bytes, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read(header, "csv")


@pytest.mark.parametrize("mapping", [None, {"contact_email": "an@example.com"}])
def test_a_file_without_a_header_shows_none_of_its_values(mapping: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read("1001,ann@example.com,Mop\n", "csv", mapping=mapping)
    assert "ann" not in str(caught.value)


# ---------------------------------------------------------- how numbers and dates are written

#: For each notation: texts, and the numbers that they are; None if they are none in it.
NUMBERS: list[tuple[dict[str, str], dict[str, str | None]]] = [
    (
        {"thousands": ","},
        {"1,250.00": "1250.00", "1,25,000.5": "125000.5", "R1,250.00": "1250.00", "": ""},
    ),
    ({"thousands": ","}, {"10,00": None, "12,50": None}),
    ({"thousands": "'"}, {"1'250.00": "1250.00", "1\u2019250": "1250"}),
    ({"thousands": " "}, {"12 34": None}),
    ({"decimal": ","}, {"10,00": "10.00", "10,00 kr.": "10.00"}),
    ({"decimal": ","}, {"10.00": None, "10 %": None, "(5,00)": None, "1.250,00": None}),
    ({"decimal": "."}, {"R 10.00": "10.00", "US$10.00": "10.00"}),
    ({"decimal": "."}, {"($10.00)": None, "10.00 CR": None, "10.00 DR": None}),
    ({"decimal": ",", "thousands": " "}, {"1\u00a0250,5": "1250.5"}),
    (
        {"decimal": ",", "thousands": "."},
        {"1.250,00": "1250.00", "-€ 1.250,00": "-1250.00", "1.250,00 EUR": "1250.00"},
    ),
]


@pytest.mark.parametrize(
    ("options", "text", "number"),
    [(options, *number) for options, numbers in NUMBERS for number in numbers.items()],
)
def test_numbers_are_read_in_the_notation_that_is_named_and_no_other(
    options: dict[str, str], text: str, number: str | None
) -> None:
    ((_line, order),) = read(rows(f'1,a@b,"{text}",Mop,"{text}"'), **options)
    if number is None:
        assert f"total: expected a number with {options.get('decimal', '.')!r}" in str(order)
        assert str(order).endswith(f"found {text!r}")
    else:
        found = fields(order)
        assert found.get("total", "") == number
        assert str(found["products"][0].get("product_price", "")) == number


ISO = " such as 2026-03-01T08:00:00"
SAY_HOW = "say how it is written, such as --date-format"


@pytest.mark.parametrize(
    ("written", "date_format", "fault"),
    [
        ("1/3/2026 10:00", None, f"{ISO}, found '1/3/2026 10:00': {SAY_HOW} '%d/%m/%Y %H:%M'"),
        ("31.12.2025", None, f"{ISO}, found '31.12.2025': {SAY_HOW} '%d.%m.%Y'"),
        ("12/31/2025", "%d.%m.%Y", " written as %d.%m.%Y, found '12/31/2025'"),
        ("Ann", None, ISO),
        ("12 High Street", "%d.%m.%Y", " written as %d.%m.%Y"),
    ],
)
def test_a_date_that_can_not_be_read_is_quoted_with_a_way_out(
    written: str, date_format: str | None, fault: str
) -> None:
    text = f"order_id,contact_email,product_name,at\n1,a@b,Mop,{written}\n"
    found = read(text, mapping={"date": "at"}, since="2025-01-01", date_format=date_format)
    assert brief(found) == [(2, f"date: expected a time{fault}")]
