"""JSON Lines and JSON documents: every order gives one item, exact or with its faults."""

from __future__ import annotations

import io
import itertools
import sys
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reading import brief, exact, read, to_json

from everlytic_async import ConfigurationError, InvalidOrderError, Order, SourceError
from everlytic_async._strict_json import JsonFaultError, StrictDecoder
from everlytic_async.sources import read_orders
from everlytic_async.sources._json import MAX_ORDER_CHARS
from everlytic_async.sources._open import MAX_LINE_BYTES

VALID = '{"contact_email": "ann@example.com", "products": [{"product_name": "Mop"}]}'

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
ID = TEXT.filter(lambda text: bool(text.strip()))
NUMBER = st.integers(-(10**30), 10**30) | st.decimals(
    allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12
).map(
    # As JSON tells a fraction from an integer.
    lambda number: number if "." in str(number) or "E" in str(number) else int(number)
)
PRODUCT = st.fixed_dictionaries(
    {}, optional={"product_name": TEXT, "product_price": NUMBER, "product_sku": TEXT | NUMBER}
)
ORDER = st.fixed_dictionaries(
    {"products": st.lists(PRODUCT, min_size=1, max_size=3), "contact_unique_id": ID},
    optional={"order_id": ID | NUMBER, "total": TEXT | NUMBER, "discount": NUMBER},
)
LIST = ['{{"orders": [{}]}}', "[{}]", '{{"total_count": 12, "items": [{}], "page": {{"n": 1.5}}}}']


class Chunks(io.RawIOBase):
    """A pipe that gives one chunk at a time."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        data = next(self._chunks, b"")
        buffer[: len(data)] = data
        return len(data)


def endless(start: str, chunk: str) -> io.BufferedReader:
    def chunks() -> Iterator[bytes]:
        yield start.encode()
        while True:
            yield chunk.encode()

    return io.BufferedReader(Chunks(chunks()))


@settings(max_examples=60)
@given(
    st.lists(ORDER, max_size=5),
    st.sampled_from(LIST) | st.sampled_from(["\n", "\r\n", "\n\n", "\n  \t\r\n"]),
    st.booleans(),
    st.booleans(),
    st.integers(1, 40),
)
def test_orders_come_back_digit_by_digit(
    orders: list[dict[str, Any]], layout: str, bom: bool, escaped: bool, size: int
) -> None:
    texts = [to_json(order, escaped=escaped) for order in orders]
    is_list = "{" in layout
    text = layout.format(" ,\n".join(texts)) if is_list else layout.join(texts)
    data = ("\ufeff" if bom else "").encode() + text.encode()
    pipe = Chunks(data[at : at + size] for at in range(0, len(data), size))
    found = list(read_orders(io.BufferedReader(pipe), "json" if is_list else "jsonl").lines())
    assert [exact(item) for _place, item in found] == [
        exact(Order.from_mapping(order)) for order in orders
    ]
    if is_list:
        assert [place for place, _item in found] == list(range(1, len(orders) + 1))
        assert brief(read(data)) == brief(found), "detected"


@settings(max_examples=60)
@given(
    st.lists(
        st.binary(max_size=20)
        | st.sampled_from([VALID.encode(), b"", b"  ", b"[]", b'{"a": NaN}', b"{", b"\xff\xfe{"])
        | ORDER.map(lambda order: to_json(order).encode()),
        max_size=12,
    ),
    st.booleans(),
)
@example(lines=[b"\x00"], bom=True)
def test_every_line_that_is_not_blank_gives_one_item(lines: list[bytes], bom: bool) -> None:
    lines = [line.decode(errors="replace").encode() for line in lines]
    data = b"\n".join([VALID.encode(), *lines])
    expected = [number for number, line in enumerate(data.split(b"\n"), 1) if line.strip()]
    found = read((b"\xef\xbb\xbf" if bom else b"") + data, "jsonl")
    assert [number for number, _item in found] == expected


def test_equal_products_keep_their_own_digits_and_kinds() -> None:
    prices = ["10.1", "10.10", "1E+1", "10", "10.0"]
    skus = ["1", '"1"', "1.0", "1.00", '"1E+2"']
    documents = [
        f'{{"email": "a@b.example", "id": "{place}", "items": '
        f'[{{"price": {price}, "sku": {sku}}}]}}'
        for place, (price, sku) in enumerate(itertools.product(prices, skus))
    ]
    mapping = {
        "contact_email": "email",
        "order_id": "id",
        "products": {"each": "items", "product_price": "price", "product_sku": "sku"},
    }
    assert len({*documents}) == 25
    together = [order for _line, order in read(f"[{','.join(documents)}]", mapping=mapping)]
    alone = [read(document, mapping=mapping)[0][1] for document in documents]
    assert [*map(exact, together)] == [*map(exact, alone)]


@pytest.mark.parametrize("limit", [4300, 0])
def test_a_number_of_too_many_digits_is_a_fault_wherever_it_is(limit: int) -> None:
    before, started = sys.get_int_max_str_digits(), time.process_time()
    sys.set_int_max_str_digits(limit)
    try:
        for blanks in range(0, 1_000, 7):
            text = " " * blanks + '{"a": %s}'
            assert StrictDecoder().decode_start(text % ("-" + "1" * 1_000), blanks)[0]["a"] < 0
            for digits in ("1" * 1_001, "-" + "1" * 1_001, "1" * 100_000):
                with pytest.raises(JsonFaultError, match="too many digits"):
                    StrictDecoder().decode_start(text % digits, blanks)
                with pytest.raises(JsonFaultError, match="too many digits"):
                    StrictDecoder().decode(text % digits)
    finally:
        sys.set_int_max_str_digits(before)
    assert time.process_time() - started < 10  # in quadratic time it is half a minute


OBJECT = "is not an order: expected"
NAN = "got NaN or an infinity"
DIGITS = "holds a number of too many digits"

#: An order between two valid ones, and its faults: on a line, and in a document.
FAULTS: dict[str, str] = {
    "[{}]": OBJECT,
    '"text"': OBJECT,
    "null": OBJECT,
    "7": OBJECT,
    "NaN": OBJECT,
    VALID[:-1] + ', "total": NaN}': f"total: expected text or a number, {NAN}",
    VALID[:-1] + ', "contact_unique_id": -Infinity}': f"contact_unique_id: expected text, {NAN}",
    '{"total": 1, "total": 2}': "total: given more than once in one object",
    '{"products": [{"product_sku": 1, "product_sku": 1}]}': "product_sku: given more than once",
    '{"ann@example.com": 1, "ann@example.com": 2}': "a key: given more than once in one object",
    '{"total": ' + "1" * 5000 + "}": DIGITS,
    '{"total": 1e99999999999999999999}': DIGITS,
    VALID.replace("ann", "\\ud800"): "contact_email: holds a lone surrogate, which is not a char",
    VALID.replace('"Mop"', "true"): "products[0].product_name: expected text, got true or false",
    VALID.replace("product_name", "price"): "products[0].price: no such field",
    '{"products": []}': "products: at least one is required",
    '{"contact_email": "ann", "products": [], "total": true}': (
        "contact_email: expected an e-mail address, found no @; "
        "total: expected text or a number, got true or false; products: at least one is required"
    ),
    '{"contact_email": "ann", "taxes": NaN, "products": [{"product_price": Infinity}]}': (
        "contact_email: expected an e-mail address, found no @; "
        f"taxes: expected text or a number, {NAN}; "
        f"products[0].product_price: expected a number, {NAN}"
    ),
}
#: What is a fault of a line, and ends a document.
SYNTAX: dict[str, str] = {
    "{": "is not JSON: Expecting property name enclosed in double quotes, column 2",
    "order 17": "is not JSON: Expecting value, column 1",
    VALID + VALID: f"is not JSON: Extra data, column {len(VALID) + 1}",
    '{"total": "\x01"}': "is not JSON: Invalid control character at, column 12",
    "[" * 200_000: "is nested too deeply",
}


@pytest.mark.parametrize(
    ("layout", "bad"),
    [("jsonl", bad) for bad in FAULTS | SYNTAX] + [("json", bad) for bad in FAULTS],
    ids=lambda value: value[:50],
)
def test_a_bad_order_has_its_faults_and_the_rest_is_read(layout: str, bad: str) -> None:
    lines = [VALID, bad, VALID]
    text = "\n".join(lines) if layout == "jsonl" else f"[{', '.join(lines)}]"
    first, (number, found), last = read(text.encode("utf-8", "surrogateescape"), layout)
    assert (brief([first]), brief([last])) == ([(1, "None")], [(3, "None")])
    assert (number, isinstance(found, InvalidOrderError)) == (2, True)
    ((_number, told),) = brief([(2, found)])
    expected = (FAULTS | SYNTAX)[bad]
    if bad == '{"products": []}':  # it has two
        assert expected in told
    else:
        assert told.startswith(expected)


@given(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=8, max_size=12))
def test_a_fault_does_not_hold_a_value(value: str) -> None:
    value = f"Q7{value}"  # in no message by itself
    lines = [
        f'{{"contact_email": "{value}", "products": []}}',
        f'{{"contact_email": "{value}"',
        f'{{"{value} x": "{value}", "{value} x": "{value}"}}',
        f'"{value}"',
        f'{{"contact_email": "a@b", "products": [{{"product_price": "{value}"}}]}}',
        f'{{"contact_email": "a@b", "contact_email": "{value}"}}',
        f"{{{value}: 1}}",
    ]
    found = read("\n".join(lines), "jsonl")
    assert len(lines) == len(found)
    assert [number for number, error in found if value in f"{error} {error!r}"] == []


CUT_OFF = "the JSON ends too early, "
NOT_JSON = "what comes after order 1 is not JSON: "


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"[{VALID}, {{", f"{CUT_OFF}after order 1"),
        (f"[{VALID}", f"{CUT_OFF}after order 1"),
        (f"[{VALID}, {VALID[:30]}", f"{CUT_OFF}after order 1"),
        ('{"orders": [', f"{CUT_OFF}at its beginning"),
        ('{"orders"', f"{CUT_OFF}at its beginning"),
        (f"[{VALID} {VALID}]", f"{NOT_JSON}expected ]"),
        (f"[{VALID}, {{order}}, {VALID}]", f"{NOT_JSON}Expecting prop"),
        (f"[{VALID},]", f"{NOT_JSON}Expecting value"),
        (f"[{VALID}] and more of it, and more", f"{NOT_JSON}Expecting"),
        ("{7: 1}", "what comes at its beginning is not JSON: expected a key in quotes"),
        ("[" * 200_001 + "]", "the JSON ends too early"),
    ],
)
def test_broken_syntax_ends_the_file_after_what_was_read(text: str, told: str) -> None:
    orders = read_orders(io.BytesIO(text.encode()), "json")
    if text.startswith(f"[{VALID}"):
        assert isinstance(next(orders), Order)
    with pytest.raises(SourceError) as caught:
        list(orders)
    assert str(caught.value).startswith(told)
    assert "ann" not in str(caught.value)


def test_the_list_is_found_where_a_mapping_says() -> None:
    text = f'{{"data": {{"note": [1], "list": [{VALID}]}}, "list": [7]}}'
    assert brief(read(text, "json", mapping={"each": "data.list"})) == [(1, "None")]
    with pytest.raises(ConfigurationError, match="each: expected the path of the list of orders"):
        read(text, "json", mapping={"each": "data..list"})


def test_an_object_that_is_an_order_is_no_list_of_its_items() -> None:
    ((_place, error),) = read(
        '{"increment_id": "1", "items": [{"name": "Mop"}], "grand_total": 1}',
        mapping={"contact_email": ["email", "mail"]},
    )
    assert brief([(1, error)])[0][1].startswith("contact_email or contact_unique_id: one")
    found = read('{\n"order_id": 1, "order_id": 2}', "json")
    assert brief(found) == [(1, "a key: given more than once in one object")]


@pytest.mark.parametrize("start", ["[" * 11 + '"', '["'])
def test_an_order_without_an_end_does_not_fill_the_memory(start: str) -> None:
    chunks = itertools.chain([start.encode()], itertools.repeat(b"x" * 4096, 8_000))
    tracemalloc.start()
    try:
        with pytest.raises(SourceError, match="the JSON ends too early"):
            list(read_orders(io.BufferedReader(Chunks(chunks)), "json"))
        assert tracemalloc.get_traced_memory()[1] < 10 * MAX_ORDER_CHARS
    finally:
        tracemalloc.stop()


def test_reading_is_lazy_and_memory_is_flat() -> None:
    orders = read_orders(endless("[", f"{VALID}," * 10))
    tracemalloc.start()
    try:
        assert all(isinstance(next(orders), Order) for _ in range(10_000))
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()
    lines = read_orders(endless(f"{VALID}\n", f"{VALID}\n"))
    assert [type(next(lines)) for _ in range(3)] == [Order] * 3


# ---------------------------------------------------------------------------------- long lines


class Counting(io.BytesIO):
    """Remembers the largest piece that was asked for."""

    largest = 0

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        self.largest = max(self.largest, len(line))
        return line


@pytest.mark.parametrize("filler", ["x", " "])
def test_a_line_that_is_too_long_is_skipped_in_pieces(filler: str) -> None:
    lines = [VALID, filler * (5 * MAX_LINE_BYTES) + VALID, VALID]
    file = Counting("\n".join(lines).encode())
    found = brief(list(read_orders(file).lines()))
    assert found == [(1, "None"), (2, "is longer than 1,048,576 bytes"), (3, "None")]
    assert file.largest <= MAX_LINE_BYTES + 2


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_line_of_the_full_length_is_read(end: str) -> None:
    for spare, kind in ((0, Order), (1, InvalidOrderError)):
        filler = "M" * (3 + MAX_LINE_BYTES - len(VALID) + spare)
        ((_line, found),) = read(VALID.replace("Mop", filler) + end)
        assert isinstance(found, kind)
