"""JSON Lines: every line that is not blank gives one item, exact or with its faults."""

from __future__ import annotations

import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from everlytic_async import ConfigurationError, InvalidOrderError, Order
from everlytic_async.sources import read_lines, read_orders
from everlytic_async.sources._open import MAX_LINE_BYTES

VALID = b'{"contact_email": "ann@example.com", "products": [{"product_name": "Mop"}]}'


def read(*lines: bytes, end: bytes = b"\n") -> list[tuple[int, Order | InvalidOrderError]]:
    return list(read_lines(io.BytesIO(end.join(lines)), "jsonl"))


def fault_of(line: bytes) -> str:
    """The one fault of a line between two valid ones, which are none the worse for it."""
    before, (number, found), after = read(VALID, line, VALID)
    assert isinstance(before[1], Order)
    assert isinstance(after[1], Order)
    assert (before[0], number, after[0]) == (1, 2, 3)
    assert isinstance(found, InvalidOrderError)
    assert found.line == 2
    (fault,) = found.faults
    return fault


# ------------------------------------------------------------------------------- what is exact


def written(value: Any) -> str:
    """JSON with every digit of a Decimal."""
    match value:
        case dict():
            inner = ",".join(f"{json.dumps(key)}:{written(item)}" for key, item in value.items())
            return f"{{{inner}}}"
        case list():
            return f"[{','.join(map(written, value))}]"
        case Decimal():
            return str(value)
        case _:
            return json.dumps(value, ensure_ascii=False)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
ID = TEXT.filter(lambda text: bool(text.strip()))
NUMBER = st.integers(-(10**30), 10**30) | st.decimals(
    allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12
).filter(lambda number: not isinstance(number.as_tuple().exponent, str)).map(
    # As JSON tells a fraction from an integer.
    lambda number: number if "." in str(number) or "E" in str(number) else int(number)
)
PRODUCT = st.fixed_dictionaries(
    {},
    optional={
        "product_name": TEXT,
        "product_price": NUMBER,
        "product_quantity": NUMBER,
        "product_sku": TEXT | NUMBER,
        "product_gallery": st.lists(st.just("https://example.com/a.jpg"), max_size=2),
    },
)
ORDER = st.fixed_dictionaries(
    {"products": st.lists(PRODUCT, min_size=1, max_size=3), "contact_unique_id": ID},
    optional={"order_id": ID | NUMBER, "total": TEXT | NUMBER, "discount": NUMBER},
)


@given(st.lists(ORDER, max_size=5), st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\n  \t\r\n"]))
def test_orders_come_back_digit_by_digit(orders: list[dict[str, Any]], end: bytes) -> None:
    lines = [written(order).encode() for order in orders]
    found = [order for _line, order in read(*lines, end=end)]
    expected = [Order.from_mapping(order) for order in orders]
    # By their text: Decimal("1.10") equals Decimal("1.1").
    assert [str(attrs.asdict(order)) for order in expected] == [
        str(attrs.asdict(order)) for order in found if isinstance(order, Order)
    ]


@given(
    st.lists(
        st.binary(max_size=20)
        | st.sampled_from([VALID, b"", b"  ", b"[]", b'{"a": NaN}', b"{", b"\xff\xfe{", b"[[[["])
        | ORDER.map(lambda order: written(order).encode()),
        max_size=12,
    ),
    st.booleans(),
)
@example(lines=[b"\x00"], bom=True)
def test_every_line_that_is_not_blank_gives_one_item(lines: list[bytes], bom: bool) -> None:
    data = (b"\xef\xbb\xbf" if bom else b"") + b"\n".join([VALID, *lines])
    physical = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    expected = [number for number, line in enumerate(physical, 1) if line.strip()]
    assert expected == [number for number, _order in read_lines(io.BytesIO(data), "jsonl")]


def test_numbers_keep_their_digits_and_their_kind() -> None:
    line = (
        b'{"contact_email": "a@b.example", "order_id": 5842016673921, "total": "000003", '
        b'"products": [{"product_price": 10.10, "product_sku": 412, "product_quantity": 1.5}]}'
    )
    ((_number, order),) = read(line)
    assert isinstance(order, Order)
    (product,) = order.products
    assert order.order_id == "5842016673921"
    assert order.total == "000003"
    assert str(product.product_price) == "10.10"
    assert product.product_sku == 412
    assert str(product.product_quantity) == "1.5"


# --------------------------------------------------------------------------------- what is not


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"{", "is not JSON: Expecting property name enclosed in double quotes, column 2"),
        (b"order 17", "is not JSON: Expecting value, column 1"),
        (VALID + VALID, f"is not JSON: Extra data, column {len(VALID) + 1}"),
        (b'{"total": "\x01"}', "is not JSON: Invalid control character at, column 12"),
        (b"[]", "is not an order: expected one JSON object on each line"),
        (b'"text"', "is not an order: expected one JSON object on each line"),
        (b"null", "is not an order: expected one JSON object on each line"),
        (
            VALID[:-1] + b', "total": NaN}',
            "total: expected text or a number, got NaN or an infinity",
        ),
        (
            VALID[:-1] + b', "contact_unique_id": -Infinity}',
            "contact_unique_id: expected text, got NaN or an infinity",
        ),
        (b"NaN", "is not an order: expected one JSON object on each line"),
        (b'{"total": 1, "total": 2}', "total: given more than once in one object"),
        (
            b'{"products": [{"product_sku": 1, "product_sku": 1}]}',
            "product_sku: given more than once in one object",
        ),
        (b'{"ann@example.com": 1, "ann@example.com": 2}', "a key: given more than once in one"),
        (b'{"total": ' + b"1" * 5000 + b"}", "holds a number of too many digits"),
        (b'{"total": 1e99999999999999999999}', "holds a number of too many digits"),
        (b"[" * 200_000, "is nested too deeply"),
        (b'{"total": "\xff"}', "is not UTF-8: save the file as UTF-8"),
        (b'"\xed\xa0\x80"', "is not UTF-8: save the file as UTF-8"),
        (
            VALID.replace(b"ann", b"\\ud800"),
            "contact_email: holds a lone surrogate, which is not a character",
        ),
        (VALID.replace(b'"Mop"', b"true"), "products[0].product_name: expected text, got true or"),
        (VALID.replace(b"product_name", b"price"), "products[0].price: no such field"),
    ],
)
def test_a_bad_line_has_its_fault_and_the_rest_is_read(line: bytes, fault: str) -> None:
    assert fault_of(line).startswith(fault)


def test_every_fault_of_an_order_is_told_at_once() -> None:
    ((_number, found),) = read(b'{"contact_email": "ann", "products": [], "total": true}')
    assert isinstance(found, InvalidOrderError)
    assert [fault.partition(":")[0] for fault in found.faults] == [
        "contact_email",
        "total",
        "products",
    ]


def test_what_is_no_number_hides_no_other_fault() -> None:
    ((_number, found),) = read(
        b'{"contact_email": "ann", "taxes": NaN, "products": [{"product_price": Infinity}]}'
    )
    assert isinstance(found, InvalidOrderError)
    assert found.faults == (
        "contact_email: expected an e-mail address, found no @",
        "taxes: expected text or a number, got NaN or an infinity",
        "products[0].product_price: expected a number, got NaN or an infinity",
    )


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
    found = read(*(line.encode() for line in lines))
    assert len(lines) == len(found)
    assert [number for number, error in found if value in f"{error} {error!r}"] == []


def test_utf_16_is_named() -> None:
    with pytest.raises(ConfigurationError, match="it is UTF-16: save the file as UTF-8"):
        read(VALID.decode().encode("utf-16"))


# --------------------------------------------------------------------------------- long lines


class _Counting(io.BytesIO):
    """Remembers the largest piece that was asked for."""

    largest = 0

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        self.largest = max(self.largest, len(line))
        return line


@pytest.mark.parametrize("filler", [b"x", b" "])
def test_a_line_that_is_too_long_is_skipped_in_pieces(filler: bytes) -> None:
    file = _Counting(VALID + b"\n" + filler * (5 * MAX_LINE_BYTES) + VALID + b"\n" + VALID)
    (_one, first), (number, found), (last, third) = read_lines(file)
    assert isinstance(first, Order)
    assert isinstance(third, Order)
    assert (number, last) == (2, 3)
    assert str(found) == "line 2: is longer than 1,048,576 bytes"
    assert file.largest <= MAX_LINE_BYTES + 2


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_line_of_the_full_length_is_read(end: bytes) -> None:
    spare = MAX_LINE_BYTES - len(VALID)
    whole = VALID.replace(b"Mop", b"M" * (3 + spare))
    ((_line, order),) = read(whole + end)
    assert isinstance(order, Order)
    ((_line, order),) = read(whole.replace(b"MM", b"MMM", 1) + end)
    assert isinstance(order, InvalidOrderError)


# ------------------------------------------------------------------------------ opening, closing


def test_a_byte_order_mark_is_skipped_at_the_beginning_only() -> None:
    (_one, first), (_two, second) = read(b"\xef\xbb\xbf" + VALID, b"\xef\xbb\xbf" + VALID)
    assert isinstance(first, Order)
    assert isinstance(second, InvalidOrderError)


def test_a_text_file_is_read_too() -> None:
    file = io.StringIO("\ufeff" + VALID.decode() + "\n\n" + '{"total": "\udc80"}')
    (one, first), (three, third) = read_lines(file)
    assert isinstance(first, Order)
    assert (one, three) == (1, 3)
    assert str(third) == "line 3: is not UTF-8: save the file as UTF-8"
    assert not file.closed


def test_reading_is_lazy(tmp_path: Path) -> None:
    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any, /) -> int:
            line = VALID + b"\n"
            buffer[: len(line)] = line
            return len(line)

    orders = read_orders(io.BufferedReader(Endless()))
    assert [type(next(orders)) for _ in range(3)] == [Order] * 3
    with pytest.raises(FileNotFoundError):
        list(read_orders(tmp_path / "none.jsonl"))


@pytest.mark.parametrize("as_text", [True, False])
def test_a_path_is_opened_and_closed_however_it_ends(tmp_path: Path, as_text: bool) -> None:
    path = tmp_path / "orders.jsonl"
    path.write_bytes(VALID + b"\n" + VALID + b"\nbad\n")
    orders = read_orders(str(path) if as_text else path)
    assert isinstance(next(orders), Order)
    orders.close()  # a ResourceWarning is an error in these tests
    kinds = [type(order) for order in read_orders(path, "jsonl")]
    assert kinds == [Order, Order, InvalidOrderError]


def test_a_file_of_the_callers_stays_open() -> None:
    file = io.BytesIO(VALID)
    assert len(list(read_orders(file))) == 1
    assert not file.closed


def test_a_dash_is_the_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(VALID + b"\n")))
    assert [line for line, _order in read_lines("-")] == [1]


def test_a_format_that_does_not_exist_is_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match="no format 'xml': the known ones are jsonl, json"):
        read_orders("never opened", format="xml")
