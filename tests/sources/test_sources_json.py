"""JSON documents: every order gives one item, exact or with its fault; only syntax ends a file."""

from __future__ import annotations

import io
import json
import tracemalloc
from decimal import Decimal
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlytic_async import ConfigurationError, InvalidOrderError, Order, SourceError
from everlytic_async.sources import read_lines, read_orders
from everlytic_async.sources._json import MAX_ORDER_CHARS

VALID = '{"contact_email": "ann@example.com", "products": [{"product_name": "Mop"}]}'


class Trickle(io.RawIOBase):
    """A pipe that gives so many bytes at a time."""

    def __init__(self, data: bytes, size: int) -> None:
        self._file = io.BytesIO(data)
        self._size = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        data = self._file.read(min(self._size, len(buffer)))
        buffer[: len(data)] = data
        return len(data)


def read(text: str | bytes, **options: Any) -> list[tuple[int, Order | InvalidOrderError]]:
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return list(read_orders(io.BytesIO(data), "json", **options).lines())


def kinds(found: list[tuple[int, Order | InvalidOrderError]]) -> list[tuple[int, str]]:
    return [(place, "" if isinstance(item, Order) else str(item)) for place, item in found]


AMOUNT = st.decimals(allow_nan=False, allow_infinity=False, places=4) | st.integers(0, 10**20)
ORDER = st.fixed_dictionaries(
    {
        "contact_unique_id": st.text(
            st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1
        ).filter(lambda text: bool(text.strip())),
        "products": st.lists(st.fixed_dictionaries({"product_price": AMOUNT}), min_size=1),
    },
    optional={"order_id": st.from_regex(r"0{0,4}[1-9]{1,13}", fullmatch=True), "total": AMOUNT},
)


def written(value: Any, *, escaped: bool) -> str:
    match value:
        case dict():
            pairs = (f'"{key}": {written(item, escaped=escaped)}' for key, item in value.items())
            return f"{{{', '.join(pairs)}}}"
        case list():
            return f"[{', '.join(written(item, escaped=escaped) for item in value)}]"
        case Decimal():
            return str(value)
        case _:
            return json.dumps(value, ensure_ascii=escaped)


@given(
    st.lists(ORDER, max_size=6),
    st.sampled_from(
        ["[{}]", '{{"orders": [{}]}}', '{{"total_count": 12, "items": [{}], "page": {{"n": 1.5}}}}']
    ),
    st.booleans(),
    st.booleans(),
    st.integers(1, 40),
)
def test_orders_come_back_digit_by_digit(
    orders: list[dict[str, Any]], wrapped: str, bom: bool, escaped: bool, size: int
) -> None:
    text = wrapped.format(" ,\n".join(written(order, escaped=escaped) for order in orders))
    data = (b"\xef\xbb\xbf" if bom else b"") + text.encode()
    file = io.BufferedReader(Trickle(data, size))
    found = list(read_orders(file, "json").lines())
    assert [place for place, _order in found] == list(range(1, len(orders) + 1))
    assert [str(attrs.asdict(order)) for _place, order in found if isinstance(order, Order)] == [
        str(attrs.asdict(Order.from_mapping(order))) for order in orders
    ]
    assert kinds(found) == kinds(list(read_lines(io.BytesIO(data)))), "found out by itself"


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        ('{"total": NaN}', "total: expected text or a number, got NaN or an infinity; contact_em"),
        ('{"total": 1, "total": 2}', "total: given more than once in one object"),
        ('{"total": ' + "1" * 5000 + "}", "holds a number of too many digits"),
        ('{"total": 1e99999999999999999999}', "holds a number of too many digits"),
        ('{"contact_email": "a\\ud83c@b", "products": [{}]}', "contact_email: holds a lone surro"),
        ("7", "is not an order: expected a JSON object"),
        ('"text"', "is not an order: expected a JSON object"),
        ("[{}]", "is not an order: expected a JSON object"),
        ("null", "is not an order: expected a JSON object"),
        ('{"products": []}', "contact_email or contact_unique_id: one of the two is required"),
        (VALID.replace("Mop", "\udcff"), "is not UTF-8: save the file as UTF-8"),
    ],
)
def test_a_bad_order_has_its_fault_and_the_rest_is_read(bad: str, fault: str) -> None:
    data = f"[{VALID}, {bad}, {VALID}]".encode("utf-8", "surrogateescape")
    first, (place, error), last = read(data)
    assert isinstance(first[1], Order)
    assert isinstance(last[1], Order)
    assert (first[0], place, last[0]) == (1, 2, 3)
    assert str(error).startswith(f"line 2: {fault}")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"[{VALID}, {{", "the JSON ends too early, after order 1"),
        (f"[{VALID}", "the JSON ends too early, after order 1"),
        (f"[{VALID}, {VALID[:30]}", "the JSON ends too early, after order 1"),
        ('{"orders": [', "the JSON ends too early, at its beginning"),
        ('{"orders"', "the JSON ends too early, at its beginning"),
        (f"[{VALID} {VALID}]", "what comes after order 1 is not JSON: expected ]"),
        (f"[{VALID}, {{order}}, {VALID}]", "what comes after order 1 is not JSON: Expecting prop"),
        (f"[{VALID},]", "what comes after order 1 is not JSON: Expecting value"),
        (f"[{VALID}] and more of it, and more", "what comes after order 1 is not JSON: Expecting"),
        ("{7: 1}", "what comes at its beginning is not JSON: expected a key in quotes"),
        ("[" + "[" * 200_000 + "]", "the JSON ends too early"),
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
    assert kinds(read(text, mapping={"each": "data.list"})) == [(1, "")]
    with pytest.raises(ConfigurationError, match="each: expected the path of the list of orders"):
        read(text, mapping={"each": "data..list"})


def test_a_list_of_an_orders_own_does_not_wrap_orders() -> None:
    text = '{"increment_id": "1", "items": [{"name": "Mop"}], "grand_total": 1}'
    (found,) = read_orders(io.StringIO(text), mapping={"contact_email": "email"})
    assert isinstance(found, InvalidOrderError)
    assert len(found.faults) == 1


def test_a_key_twice_in_an_order_by_itself_is_its_fault() -> None:
    ((place, error),) = read('{\n"order_id": 1, "order_id": 2}')
    assert (place, str(error)) == (1, "line 1: a key: given more than once in one object")


@pytest.mark.parametrize("filler", ["[" * 10 + '"', '"'])
def test_an_order_without_an_end_fills_no_memory(filler: str) -> None:
    class Long(io.RawIOBase):
        begun = False
        left = 50 * MAX_ORDER_CHARS

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any, /) -> int:
            data = b"x" * min(len(buffer), self.left) if self.begun else f"[{filler}".encode()
            self.left -= len(data)
            self.begun = True
            buffer[: len(data)] = data
            return len(data)

    tracemalloc.start()
    try:
        with pytest.raises(SourceError, match="the JSON ends too early"):
            list(read_orders(io.BufferedReader(Long()), "json"))
        assert tracemalloc.get_traced_memory()[1] < 10 * MAX_ORDER_CHARS
    finally:
        tracemalloc.stop()


def test_memory_is_flat() -> None:
    class Many(io.RawIOBase):
        left = 3000

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any, /) -> int:
            self.left -= 1
            data = b"[" if self.left == 2999 else f"{VALID},".encode() * 10
            if self.left < 0:
                data = b"" if self.left < -1 else f"{VALID}]".encode()
            buffer[: len(data)] = data
            return len(data)

    tracemalloc.start()
    try:
        count = sum(1 for _ in read_orders(io.BufferedReader(Many())))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 29_991
    assert peak < 3_000_000
