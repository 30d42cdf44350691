"""CSV and TSV: every row is in one item, cells stay text, and a bad row spoils no other order."""

from __future__ import annotations

import csv
import io
from decimal import Decimal
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlytic_async import ConfigurationError, InvalidOrderError, Order
from everlytic_async.sources import read_lines, read_orders

ALONE = {"group_by": None}
HEADER = "order_id,contact_email,total,product_name,product_price"


def read(text: str | bytes, **options: Any) -> list[tuple[int, Order | InvalidOrderError]]:
    data = text if isinstance(text, bytes) else text.encode()
    options.setdefault("format", "csv")
    return list(read_orders(io.BytesIO(data), **options).lines())


def told(found: list[tuple[int, Order | InvalidOrderError]]) -> list[tuple[int, str]]:
    """For each item its line and the id of the order, or the fault."""
    return [
        (line, str(item.order_id) if isinstance(item, Order) else str(item)) for line, item in found
    ]


CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=10)
PRICE = st.decimals(allow_nan=False, allow_infinity=False, min_value=0, max_value=10**9)


@given(
    st.lists(
        st.tuples(
            st.from_regex(r"0{0,5}[1-9]{1,13}", fullmatch=True),
            st.lists(st.tuples(CELL, PRICE), min_size=1, max_size=3),
            CELL,
        ),
        max_size=5,
        unique_by=lambda order: order[0],
    ),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_rows_come_back_as_orders_cell_by_cell(
    orders: list[tuple[str, list[tuple[str, Decimal]], str]],
    delimiter: str,
    end: str,
    bom: bool,
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerow(HEADER.split(","))
    for order_id, products, total in orders:
        for name, price in products:
            writer.writerow([order_id, "a@example.com", total, name, str(price)])
    data = (b"\xef\xbb\xbf" if bom else b"") + text.getvalue().encode()
    found = [item for _line, item in read_lines(io.BytesIO(data))]
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
    assert [str(attrs.asdict(item)) for item in found if isinstance(item, Order)] == [
        str(attrs.asdict(order)) for order in expected
    ]
    assert len(found) == len(expected)


def test_cells_are_never_taken_for_anything_but_text() -> None:
    columns = "order_id,contact_unique_id,total,product_sku,product_price,product_quantity"
    ((_line, order),) = read(f"{columns}\n000003,5842016673921,1e3,007,10.10,1.5\n")
    assert isinstance(order, Order)
    (product,) = order.products
    assert isinstance(product.product_price, Decimal)
    assert (order.order_id, order.contact_unique_id, order.total) == (
        "000003",
        "5842016673921",
        "1e3",
    )
    assert (product.product_sku, str(product.product_price), str(product.product_quantity)) == (
        "007",
        "10.10",
        "1.5",
    )


@pytest.mark.parametrize("price", ["1,234.50", "R 10", "ten", "10.10.10", "0x10", "NaN", "\u0661"])
def test_what_is_no_number_is_a_fault_and_never_guessed(price: str) -> None:
    ((_line, error),) = read(f'{HEADER}\n1,a@example.com,1,Mop,"{price}"\n')
    assert str(error) == "line 2: products[0].product_price: expected a number, got text"


def test_a_mistake_in_a_row_is_its_fault_and_the_rest_is_read() -> None:
    found = read(
        HEADER.encode() + b"\n"
        b"1,a@example.com,1,Mop,1\n"
        b"2,no address,1,Mop,1\n"
        b"3,a@example.com,1,Mop\n"
        b"4,a@example.com,1,Mop,1,more\n"
        b"\n"
        b"5,a@example.com,1,M\xf6p,1\n"
        b"6,a@example.com,1,Mop,1\n"
    )
    assert told(found) == [
        (2, "1"),
        (3, "line 3: contact_email: expected an e-mail address, found no @"),
        (4, "line 4: has 4 cells, and the header 5: is a quote or a cell missing?"),
        (5, "line 5: has 6 cells, and the header 5: is a quote or a cell missing?"),
        (7, "line 7: is not UTF-8: save the file as UTF-8"),
        (8, "6"),
    ]


def test_a_quote_that_is_never_closed_takes_one_row_and_not_the_rest() -> None:
    rows = "".join(f"{n},a@example.com,1,Mop,1\n" for n in range(10, 5000))
    found = read(f'{HEADER}\n1,a@example.com,1,"Mop,1\n{rows}', mapping={"group_by": None})
    (line, error), *rest = found
    assert (line, isinstance(error, InvalidOrderError)) == (2, True)
    assert told(rest) == [(n - 7, str(n)) for n in range(10, 5000)]


@pytest.mark.parametrize("bad", ['"Mop"s,1', '"6" pipe",1', '"Mop', '6,"" pipe"'])
def test_a_row_that_can_not_be_read_spoils_its_own_order_only(bad: str) -> None:
    found = read(
        f"{HEADER}\n"
        "1,a@example.com,1,Mop,1\n"
        "2,b@example.com,1,Mop,1\n"
        f"2,b@example.com,1,{bad}\n"
        "3,c@example.com,1,Mop,1\n"
    )
    (_line, bad_order) = found.pop(1)
    assert str(bad_order).startswith("line 3: line 4 is not CSV: ")
    assert told(found) == [(2, "1"), (5, "3")]


def test_an_order_next_to_a_row_of_nobody_knows_which_order_is_not_sent_without_it() -> None:
    found = read(
        f"{HEADER}\n"
        "1,a@example.com,1,Mop,1\n"
        '"2"x,b@example.com,1,Mop,1\n'
        "3,c@example.com,1,Mop,1\n"
        "4,d@example.com,1,Mop,1\n"
    )
    suspect = "line 3, next to it, can't be read and may be a row of this order"
    assert told(found) == [
        (2, f"line 2: {suspect}"),
        (3, "line 3: is not CSV: ',' expected after '\"'"),
        (4, f"line 4: {suspect}"),
        (5, "4"),
    ]


def test_blank_rows_are_nothing_whatever_their_length() -> None:
    blanks = ",,,,\n,,\n , , \n,,,,,,,,,\n   \n\n"
    found = read(f"{HEADER}\n1,a@example.com,1,Mop,1\n{blanks}2,a@example.com,1,Mop,1\n{blanks}")
    assert told(found) == [(2, "1"), (9, "2")]


@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"])
@pytest.mark.parametrize("named", [None, "csv"])
def test_each_kind_of_line_end_is_read(end: str, named: str | None) -> None:
    rows = [HEADER, "1,a@example.com,1,Mop,1", '2,a@example.com,1,"Mop, large",1', ""]
    data = end.join(rows).encode()
    found = list(read_orders(io.BytesIO(data), named).lines())
    assert told(found) == [(2, "1"), (3, "2")]


def test_a_carriage_return_within_a_row_is_its_fault() -> None:
    found = read(f"{HEADER}\n1,a@example.com,1,Mop,1\n2,b@example.com,1,Mo\rp,1\n", mapping=ALONE)
    assert told(found)[1] == (3, "line 3: is not CSV: a carriage return outside of quotes")


REPEATED = "order_id,contact_email,Tags,product_name,Tags\n1,a@example.com,x,Mop,y\n"
MAPPING = {"contact_email": "contact_email", "order_id": "order_id", "product_name": "product_name"}


def test_a_repeated_column_that_nobody_needs_is_no_matter() -> None:
    ((_line, order),) = read(REPEATED, mapping=MAPPING)
    assert isinstance(order, Order)


@pytest.mark.parametrize(
    "use",
    [
        {"product_sku": "Tags"},
        {"product_sku": ["Nothing", "Tags"]},
        {"product_sku": "{Tags}-{order_id}"},
        {"product_sku": lambda row: row.get("Tags")},
        {"group_by": "Tags"},
        {"date": "Tags"},
    ],
    ids=["a field", "a list", "a text", "a function", "group_by", "date"],
)
def test_a_repeated_column_that_is_needed_is_refused_by_name(use: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="has more than one column 'Tags'"):
        read(REPEATED, mapping={**MAPPING, **use})


def test_a_repeated_column_of_a_shop_is_refused_where_the_shop_needs_it() -> None:
    header = "Name,Email,Lineitem name,Lineitem quantity,Lineitem price"
    row = "#1,a@example.com,Mop,1,1.00"
    assert len(read(f"{header},Tags,Tags\n{row},a,b\n", format="shopify-csv")) == 1
    for column in ("Email", "Cancelled at", "Lineitem discount"):
        with pytest.raises(ConfigurationError, match=f"more than one column '{column}'"):
            read(f"{header},{column},{column}\n{row},,\n", format="shopify-csv")


@pytest.mark.parametrize("order_id", ["1.23457E+12", " 1.2E+15 ", "5E+12", "1,23457E+12"])
@pytest.mark.parametrize("field", ["order_id", "contact_unique_id"])
def test_an_id_that_a_spreadsheet_shortened_is_a_fault(field: str, order_id: str) -> None:
    found = read(f'{field},contact_email,product_name\n"{order_id}",a@example.com,Mop\n')
    ((_line, error),) = found
    assert str(error).startswith(f"line 2: {field}: is a number that a spreadsheet shortened")


def test_an_address_that_a_spreadsheet_marked_as_text_is_a_fault() -> None:
    found = read(f"{HEADER}\n1,'ann@example.com,1,Mop,1\n2,o'hara@example.com,1,Mop,1\n")
    fault = "line 2: contact_email: begins with ', as spreadsheets mark a text: remove it"
    assert told(found) == [(2, fault), (3, "2")]


@pytest.mark.parametrize(
    "order_id", ["1E5", "12E+12", "1.2E-5", "#1001", "1234567890123", "A1E+12"]
)
def test_an_id_that_is_like_that_is_none(order_id: str) -> None:
    found = read(f"order_id,contact_email,product_name\n{order_id},a@example.com,Mop\n")
    assert told(found) == [(2, order_id)]


def test_a_nul_is_a_fault() -> None:
    found = read(f"{HEADER}\n1,a@example.com,1,Mop\0Head,1\n2,a@example.com,1,Mop,1\n")
    fault = "line 2: products[0].product_name: holds a NUL character"
    assert told(found) == [(2, fault), (3, "2")]


def test_a_row_of_the_wrong_width_spoils_its_own_order_only() -> None:
    found = read(
        f"{HEADER}\n"
        "1,a@example.com,1,Mop,1\n"
        "2,b@example.com,1,Mop,1\n"
        "2,b@example.com,1,Bucket\n"
        "3,c@example.com,1,Mop,1\n"
    )
    assert told(found) == [
        (2, "1"),
        (3, "line 3: line 4 has 4 cells, and the header 5: is a quote or a cell missing?"),
        (5, "3"),
    ]


def test_rows_of_one_order_become_one_and_a_later_one_another() -> None:
    found = read(
        f"{HEADER}\n"
        "1,a@example.com,9,Mop,1\n"
        "1,,,Bucket,2\n"
        ",,,Soap,3\n"
        "2,a@example.com,9,Mop,1\n"
        ",b@example.com,9,Mop,1\n"
        ",b@example.com,9,Mop,1\n"
        "1,a@example.com,9,Mop,1\n"
    )
    assert [
        (line, item.order_id, len(item.products)) for line, item in found if isinstance(item, Order)
    ] == [(2, "1", 3), (5, "2", 1), (6, None, 1), (7, None, 1), (8, "1", 1)]


def test_rows_that_do_not_agree_whose_they_are_make_no_order() -> None:
    found = read(f"{HEADER}\n1,a@example.com,9,Mop,1\n1,b@example.com,9,Mop,1\n")
    assert told(found) == [(2, "line 2: contact_email: the rows of the order do not agree on it")]


def test_a_column_to_group_by_that_is_the_wrong_one_fills_no_memory() -> None:
    rows = "7,a@example.com,9,Mop,1\n" * 10_001
    ((line, error),) = read(f"{HEADER}\n{rows}")
    assert (line, str(error)) == (
        2,
        "line 2: has more than 10,000 rows: is group_by the right column?",
    )


@pytest.mark.parametrize("first", ["", "sep=;\r\n", "\r\n", "\ufeff", "\ufeffsep=;\r\n"])
def test_what_stands_before_a_header_is_no_part_of_it(first: str) -> None:
    text = f"{first}contact_email;product_name\r\na@example.com;Mop, large\r\n"
    ((_line, order),) = read(text)
    assert isinstance(order, Order)
    assert order.products[0].product_name == "Mop, large"  # type: ignore[union-attr]


def test_new_lines_and_quotes_in_a_cell_stay_there() -> None:
    text = f'{HEADER}\n1,a@example.com,1,"Mop ""XL"",\r\nred\n",1\n2,b@example.com,1,Mop,1\n'
    (first_line, first), (second_line, _second) = read(text)
    assert isinstance(first, Order)
    assert (first_line, second_line) == (2, 5)
    assert first.products[0].product_name == 'Mop "XL",\r\nred\n'  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        ("Order,E-mail,Thing", "3 of its 3 columns are not fields of an order"),
        ("contact_email,product_name,Notes", "1 of its 3 columns are not fields of an order"),
        ("order_id,product_name", "none of its 2 columns is contact_email or contact_unique_id"),
        ("contact_email,contact_email", "its header has more than one column 'contact_email'"),
        (",,", "the first line does not name the columns"),
        ('"order_id', "the header can't be read as CSV: unexpected end of data"),
        (b"contact_email,\xff", "the header is not UTF-8: save the file as UTF-8"),
    ],
)
def test_a_header_that_says_too_little_is_refused(header: str | bytes, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        read(header)


def test_a_file_without_a_header_shows_none_of_its_values() -> None:
    with pytest.raises(ConfigurationError) as caught:
        read("1001,ann@example.com,Mop\n")
    assert "ann" not in str(caught.value)
    with pytest.raises(ConfigurationError) as caught:
        read("1001,ann@example.com,Mop\n", mapping={"contact_email": "an@example.com"})
    assert "ann" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "\n\n", "\ufeff", f"{HEADER}\n", HEADER])
def test_a_file_without_rows_has_no_orders(text: str) -> None:
    assert read(text) == []


@given(st.lists(st.sampled_from([b'"', b",", b"\n", b"\r\n", b"a@b", b"1", b"\xff", b" "])))
def test_whatever_the_rows_are_only_items_come_out(pieces: list[bytes]) -> None:
    found = read(HEADER.encode() + b"\n" + b"".join(pieces))
    lines = [line for line, _item in found]
    assert lines == sorted(set(lines))


@pytest.mark.parametrize("limit", [10, 131_072])
def test_a_cell_may_be_as_long_as_a_line(limit: int) -> None:
    name = f'{"x" * 400_000}""y"",\r\n{"z" * 400_000}'
    text = f'{HEADER}\n1,a@example.com,1,"{name}",1\n2,a@example.com,1,Mop,1\n'
    before = csv.field_size_limit(limit)  # of the whole process: another library may set it
    try:
        (_line, first), second = read(text)
        assert csv.field_size_limit() == limit
    finally:
        csv.field_size_limit(before)
    assert isinstance(first, Order)
    assert first.products[0].product_name == name.replace('""', '"')  # type: ignore[union-attr]
    assert told([second]) == [(4, "2")]


PIECES = ['"', '""', ",", "\n", "\r\n", "\r", "a", "b,", ',"', '",', "1,a@b,1,M,1\n"]


@given(st.lists(st.sampled_from(PIECES), max_size=30))
def test_long_cells_are_split_as_short_ones(pieces: list[str]) -> None:
    text = f"contact_email,product_name\n{''.join(pieces)}"
    short = read(text)
    before = csv.field_size_limit(1)  # so that every cell is too long for `csv`
    try:
        long = read(text)
    finally:
        csv.field_size_limit(before)
    said = [
        [(line, str(item).partition("is not CSV")[:2]) for line, item in found]
        for found in (short, long)
    ]
    assert said[0] == said[1]


def test_a_line_that_is_too_long_is_skipped_in_pieces() -> None:
    text = f"{HEADER}\n" + "x" * 3_000_000 + "\n2,a@example.com,1,Mop,1\n"
    found = read(text, mapping={"group_by": None})
    assert [line for line, _item in found] == [2, 3]
    assert isinstance(found[1][1], Order)
