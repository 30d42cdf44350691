"""The wire, without a network: what an order becomes, and what an answer means."""

from __future__ import annotations

import enum
import itertools
import json
import string
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime
from typing import Any, NoReturn

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from order_strategies import EMAILS, IDENTIFIERS, ORDERS, WITH_ALL_DIGITS, WORKFLOWS

from everlytic_async._encoding import encode, order_key
from everlytic_async._endpoint import PATH
from everlytic_async._response import parse_response, retry_after_s
from everlytic_async._response_body import MAX_BODY_BYTES
from everlytic_async._secrets import CUSTOMER_HASH_HEADER, STORE_HASH_HEADER
from everlytic_async.errors import (
    AuthenticationError,
    EverlyticError,
    RejectedError,
    ServerError,
    ThrottledError,
    UnexpectedResponseError,
)
from everlytic_async.orders import Order
from everlytic_async.outcomes import Receipt

Verdict = Receipt | EverlyticError

# ------------------------------------------------------------------------------- order to bytes


def _refuse(word: str) -> NoReturn:
    raise AssertionError(f"not JSON: {word}")


def parsed(body: bytes) -> Any:
    """Read JSON exactly: every number as a Decimal."""
    return json.loads(body.decode(), parse_float=Decimal, parse_int=Decimal, parse_constant=_refuse)


def exact(value: Any) -> Any:
    """What a value must be on the wire, read by `parsed`."""
    match value:
        case str():
            return value
        case float():
            return Decimal(repr(value))
        case int() | Decimal():
            return Decimal(value)
        case list() | tuple():
            return list(value)
    raise AssertionError(f"no such value in an order: {value!r}")


TEXT_ON_THE_WIRE = {
    "contact_unique_id",
    "order_id",
    "sub_total",
    "shipping_fee",
    "taxes",
    "total",
    "discount",
}


def order_with(**fields: Any) -> Order:
    return Order(**{"contact_email": "jo@example.com", "products": [{}], **fields})


def encoded(**fields: Any) -> Any:
    return parsed(encode(order_with(**fields)))


def test_the_documented_example_becomes_what_its_php_sends() -> None:
    # Order, product and contact as in the documentation's code sample.
    sample = """{
        "order_link_url": "http://store.com/order_url/2344",
        "order_id": 34,
        "products": [{
            "product_description": "Mandatory coherent internet solution",
            "product_name": "Mop Head - Cotton, 24 Oz",
            "product_price": 21,
            "product_quantity": 4,
            "product_sku": 412,
            "product_line_total": 100043.22,
            "product_special_price": 71,
            "product_url": "https://bbb.org/risus.xml",
            "product_gallery": [
                "https://source.unsplash.com/400x1300/?rap",
                "https://source.unsplash.com/400x300/?rap"
            ]
        }],
        "contact_email": "user@example.com"
    }"""

    body = encode(Order.from_mapping(json.loads(sample)))

    # The order's id is text, as the documentation's table says; all else as its sample has it.
    assert json.loads(body) == {**json.loads(sample), "order_id": "34"}
    assert b'"product_line_total":100043.22,' in body
    assert b'"product_price":21,' in body


def test_the_documented_example_with_totals_sends_them_as_text() -> None:
    totals = {"sub_total": 100043.22, "shipping_fee": 50, "taxes": Decimal("0.00"), "total": "1.5"}
    fields = {"contact_email": "user@example.com", "order_id": 34, "products": [{}], **totals}
    assert json.loads(encode(Order.from_mapping(fields))) == {
        "contact_email": "user@example.com",
        "order_id": "34",
        "products": [{}],
        "sub_total": "100043.22",
        "shipping_fee": "50",
        "taxes": "0.00",
        "total": "1.5",
    }


@given(ORDERS)
@example({"contact_email": "a@b", "products": [{"product_price": 2**64, "product_sku": -(2**64)}]})
@example({"contact_email": "a@b", "products": [{"product_price": Decimal("1E+5000")}]})
def test_an_order_reaches_the_wire_whole_and_exact(fields: dict[str, Any]) -> None:
    wire = parsed(encode(Order.from_mapping(fields)))

    products = [
        {name: exact(value) for name, value in product.items()} for product in fields["products"]
    ]
    others = {name: value for name, value in fields.items() if name != "products"}
    assert wire.keys() == fields.keys()
    assert wire["products"] == products
    for name, value in others.items():
        if name in TEXT_ON_THE_WIRE:
            assert isinstance(wire[name], str)
            assert (wire[name] if isinstance(value, str) else Decimal(wire[name])) == exact(value)
        else:
            assert wire[name] == exact(value)


@given(WITH_ALL_DIGITS)
def test_a_decimal_reaches_the_wire_digit_by_digit(number: Decimal) -> None:
    fields = ("product_price", "product_quantity", "product_sku", "product_line_total")
    wire = encoded(products=[dict.fromkeys(fields, number)], total=number)
    [product] = wire["products"]
    digits = {name: value.as_tuple() for name, value in product.items()}
    assert digits == dict.fromkeys(fields, number.as_tuple())
    assert Decimal(wire["total"]).as_tuple() == number.as_tuple()


@pytest.mark.parametrize(
    ("number", "digits"),
    [
        (Decimal("10.10"), b"10.10"),
        (Decimal("100043.22"), b"100043.22"),
        (Decimal("0.1000000000000000055511151231257827"), b"0.1000000000000000055511151231257827"),
        (Decimal("-0.00"), b"-0.00"),
        (Decimal("1E+3"), b"1000"),
        (Decimal("1E+400"), b"1E+400"),
        (2**63, b"9223372036854775808"),
        (-(2**70), b"-1180591620717411303424"),
        (0.1, b"0.1"),
        (10.10, b"10.1"),
    ],
)
def test_a_number_is_written_in_its_own_digits(number: Any, digits: bytes) -> None:
    body = encode(order_with(products=[{"product_price": number}]))
    assert body == b'{"contact_email":"jo@example.com","products":[{"product_price":%b}]}' % digits


class _Whole(int):
    pass


class _Real(float):
    pass


class _Money(Decimal):
    pass


class _Text(str):
    __slots__ = ()


class _Sku(enum.StrEnum):
    MOP = "mop"


class _Size(enum.IntEnum):
    SMALL = 4
    HUGE = 2**70


@pytest.mark.parametrize("name", ["product_price", "product_sku"])
@pytest.mark.parametrize(
    ("value", "wire"),
    [
        (_Whole(5), 5),
        (_Whole(2**70), 2**70),
        (_Real(1.5), Decimal("1.5")),
        (_Real(1e22), 10**22),
        (_Money("10.10"), Decimal("10.10")),
        (_Size.SMALL, 4),
        (_Size.HUGE, 2**70),
    ],
    ids=repr,
)
def test_a_subclass_of_a_number_is_written_as_its_number(name: str, value: Any, wire: Any) -> None:
    assert encoded(products=[{name: value}])["products"] == [{name: wire}]


@pytest.mark.parametrize("value", [_Text("käse"), _Sku.MOP])
def test_a_subclass_of_text_is_written_as_its_text(value: str) -> None:
    wire = encoded(order_id=value, total=value, products=[{"product_sku": value}])
    text = str.__str__(value)
    assert [wire["order_id"], wire["total"], wire["products"]] == [
        text,
        text,
        [{"product_sku": text}],
    ]


def test_zero_and_empty_are_set_and_so_are_sent() -> None:
    product = {"product_name": "", "product_price": 0, "product_quantity": 0.0}
    wire = encoded(total="", taxes=0, products=[{**product, "product_gallery": []}])
    assert wire == {
        "contact_email": "jo@example.com",
        "total": "",
        "taxes": "0",
        "products": [{**product, "product_gallery": []}],
    }


@given(ORDERS)
def test_encoding_changes_nothing_and_gives_the_same_bytes_again(fields: dict[str, Any]) -> None:
    order, twin = Order.from_mapping(fields), Order.from_mapping(fields)
    first = encode(order)
    assert order == twin
    assert [encode(order), encode(twin)] == [first, first]


def test_path_and_header_names_are_the_documented_ones() -> None:
    assert PATH == "/servlet/e-commerce/orders"
    assert STORE_HASH_HEADER == "x-ev-store-hash"
    assert CUSTOMER_HASH_HEADER == "x-ev-customer-hash"
    assert MAX_BODY_BYTES == 65_536


# ----------------------------------------------------------------------------------------- its key


def make_key(**fields: Any) -> str:
    order = order_with(**fields)
    return order_key(order, encode(order))


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"order_id": "1001"}, "1001"),
        ({"order_id": 1001}, "1001"),
        ({"order_id": "1001", "workflow_id": 32}, "1001@32"),
        ({"order_id": "1001@32"}, "1001@32@"),
        ({"order_id": "1001@"}, "1001@@"),
        ({"order_id": "1001@", "workflow_id": 32}, "1001@@32"),
        ({"order_id": "jo@example.com"}, "jo@example.com"),
    ],
)
def test_an_order_is_named_by_its_id_and_workflow(fields: dict[str, Any], key: str) -> None:
    assert make_key(**fields) == key


_TRICKY_IDS = st.text("@0123456789a\n ", min_size=1, max_size=6).filter(str.strip) | IDENTIFIERS
_PAIRS = st.tuples(_TRICKY_IDS, st.none() | st.integers(1, 20) | WORKFLOWS)


@given(st.lists(_PAIRS, min_size=2, max_size=20, unique=True))
@example([("1001@32", None), ("1001", 32), ("1001@32@", None), ("1001@32", 32), ("1001@", 32)])
@example([("1@2", None), ("1@2\n", None), ("1", 2), ("1@", None), ("1", None)])
def test_two_different_orders_never_share_a_key(pairs: list[tuple[str, int | None]]) -> None:
    keys = {make_key(order_id=order_id, workflow_id=workflow) for order_id, workflow in pairs}
    assert len(keys) == len(pairs)


def test_the_same_order_has_the_same_key_whatever_else_it_holds() -> None:
    assert make_key(order_id="7", total=1) == make_key(
        order_id=7, contact_email="other@example.com"
    )


def test_an_order_without_an_id_is_named_by_its_whole_body() -> None:
    one, same, other = make_key(total=1), make_key(total=1), make_key(total=2)
    assert one.startswith("sha256:")
    assert len(one) == len("sha256:") + 32
    assert same == one
    assert len({one, other, make_key(total=1, workflow_id=3)}) == 3


def test_a_key_of_a_body_reveals_nothing_of_the_customer() -> None:
    assert "jo@example.com" not in make_key()


# ----------------------------------------------------------------------------- answer to a verdict

JSON_TYPE = {"Content-Type": "application/json"}
HTML_TYPE = {"Content-Type": "text/html; charset=UTF-8"}


@attrs.frozen
class Shape:
    """An answer's headers and body; what they mean with a 2xx, and the words that are shown else.

    Attributes:
        success: Of a 2xx: the receipt's body; or the class of the error.
        shown: What a refusal's message repeats of it.
    """

    headers: Mapping[str, str]
    body: bytes
    success: Any
    shown: str = ""


PAGE = b"<!DOCTYPE html><html><head><title>Log in</title></head><body>Who are you?</body></html>"
DEEP = b"[" * 30_000 + b"]" * 30_000
HUGE = b'{"status":"success","data":"' + b"x" * (MAX_BODY_BYTES - 30) + b'"}'
SHAPES = {
    "empty": Shape({}, b"", None),
    "white space": Shape(JSON_TYPE, b" \r\n\t", None),
    "BOM alone": Shape(JSON_TYPE, b"\xef\xbb\xbf", None),
    "contact sync": Shape(JSON_TYPE, b'{"status":"success"}', {"status": "success"}),
    "PHP's content type": Shape(HTML_TYPE, b'{"status":"success"}', {"status": "success"}),
    "no content type": Shape({}, b'{"status":"success"}', {"status": "success"}),
    "BOM": Shape(JSON_TYPE, b'\xef\xbb\xbf{"status":"success"}', {"status": "success"}),
    "result envelope": Shape(
        JSON_TYPE,
        b'{"result":"success","data":{"workflow_id":"32"}}',
        {"result": "success", "data": {"workflow_id": "32"}},
    ),
    "success with a message": Shape(
        JSON_TYPE,
        b'{"status":"success","message":"Queued."}',
        {"status": "success", "message": "Queued."},
        "Queued.",
    ),
    "error envelope": Shape(
        JSON_TYPE,
        b'{"status":"error","data":{"messages":["No such workflow.","Ask support."]}}',
        RejectedError,
        "No such workflow.; Ask support.",
    ),
    "error as PHP's text": Shape(
        HTML_TYPE, b'{"status":"error","message":"No such shop."}', RejectedError, "No such shop."
    ),
    "error behind a BOM": Shape(
        JSON_TYPE, b'\xef\xbb\xbf{"status":"error","message":"No."}', RejectedError, "No."
    ),
    "result error": Shape(JSON_TYPE, b'{"result":" Error ","message":"No."}', RejectedError, "No."),
    "failure": Shape(
        JSON_TYPE,
        b'{"status":"FAILED","error":{"message":"Bad contact."}}',
        RejectedError,
        "Bad contact.",
    ),
    "error with NaN": Shape(
        JSON_TYPE, b'{"status":"error","took":NaN,"message":"No."}', RejectedError, "No."
    ),
    "error with odd bytes": Shape(
        JSON_TYPE,
        b'{"status":"error","message":"Caf\xe9 closed"}',
        RejectedError,
        "Caf\ufffd closed",
    ),
    "error without a message": Shape(JSON_TYPE, b'{"status":"error"}', RejectedError),
    "error as text": Shape(
        JSON_TYPE,
        b'{"error":"Broken."}',
        {"error": "Broken."},
        "Broken.",
    ),
    "odd places": Shape(
        JSON_TYPE,
        b'{"message":["a"],"data":{"messages":"One."},"error":5}',
        {"message": ["a"], "data": {"messages": "One."}, "error": 5},
        "One.",
    ),
    "messages of all kinds": Shape(
        JSON_TYPE,
        b'{"message":null,"data":{"messages":[1,null," ","Two."]},"error":{"message":7}}',
        {
            "message": None,
            "data": {"messages": [1, None, " ", "Two."]},
            "error": {"message": 7},
        },
        "Two.",
    ),
    "a status that is no text": Shape(JSON_TYPE, b'{"status":0}', {"status": 0}),
    "a nested error word": Shape(
        JSON_TYPE, b'{"data":{"status":"error"}}', {"data": {"status": "error"}}
    ),
    "failures": Shape(JSON_TYPE, b'{"failures":[{"id":1}]}', {"failures": [{"id": 1}]}),
    "bare string": Shape(
        JSON_TYPE, b'"Invalid credentials."', "Invalid credentials.", "Invalid credentials."
    ),
    "bare number": Shape(JSON_TYPE, b"10.10", 10.1),
    "bare null": Shape(JSON_TYPE, b"null", None),
    "bare true": Shape(JSON_TYPE, b"true", True),  # noqa: FBT003 - as parsed
    "list": Shape(JSON_TYPE, b'["a"]', ["a"], '["a"]'),
    "text": Shape({"Content-Type": "text/plain"}, b"  OK\n", "OK", "OK"),
    "text as HTML's type": Shape(HTML_TYPE, b"Order received", "Order received", "Order received"),
    "text with a less-than": Shape({"Content-Type": "text/plain"}, b"1 < 2", "1 < 2", "1 < 2"),
    "broken JSON": Shape(JSON_TYPE, b'{"status":', '{"status":', '{"status":'),
    "invalid UTF-8": Shape({}, b"\xff\xfe\x00\x81", "\ufffd\ufffd\x00\ufffd", "\ufffd\ufffd"),
    "page": Shape(HTML_TYPE, PAGE, UnexpectedResponseError),
    "page without a content type": Shape({}, PAGE, UnexpectedResponseError),
    "page as JSON's type": Shape(JSON_TYPE, PAGE, UnexpectedResponseError),
    "page behind white space": Shape({}, b"\r\n\t " + PAGE, UnexpectedResponseError),
    "page behind a BOM": Shape({}, b"\xef\xbb\xbf" + PAGE, UnexpectedResponseError),
    "page in capitals": Shape({}, PAGE.upper(), UnexpectedResponseError),
    "page without a doctype": Shape({}, b"<html><body>Hi", UnexpectedResponseError),
    "page behind a comment": Shape({}, b"<!-- cached -->" + PAGE, UnexpectedResponseError),
    "XHTML": Shape({}, b'<?xml version="1.0"?>\n' + PAGE, UnexpectedResponseError),
    "a fragment of HTML": Shape(
        HTML_TYPE, b"<b>Warning</b>: oh", UnexpectedResponseError, "<b>Warning</b>: oh"
    ),
    "a warning before JSON": Shape(
        HTML_TYPE, b'<br />Notice: x {"status":"success"}', UnexpectedResponseError, "<br />Notice"
    ),
    "deep": Shape(JSON_TYPE, DEEP, DEEP.decode(), "[" * 300 + "..."),
    "huge": Shape(JSON_TYPE, HUGE, json.loads(HUGE)),
    "cut off": Shape(JSON_TYPE, HUGE[:-5], HUGE[:-5].decode(), '{"status":"success","data":"xxx'),
    "an error cut off": Shape(
        JSON_TYPE,
        HUGE[:-5].replace(b"success", b"error", 1),
        RejectedError,
        '{"status":"error","data',
    ),
    "an error that breaks off": Shape(
        JSON_TYPE, b'{ "result": "failed", "message": ', RejectedError, '{ "result": "failed"'
    ),
    "an error with a raw control character": Shape(
        JSON_TYPE, b'{"status":"error","message":"No\x1b[31m\nway"}', RejectedError, "No [31m way"
    ),
    "an object in an unknown place": Shape(
        JSON_TYPE,
        b'{"errors": ["No such workflow."]}',
        {"errors": ["No such workflow."]},
        '{"errors": ["No such workflow."]}',
    ),
    "an unknown place with escapes": Shape(
        JSON_TYPE,
        b'{"errors":["caf\\u00e9 \\/ closed"]}',
        {"errors": ["caf\u00e9 / closed"]},
        '{"errors": ["caf\u00e9 / closed"]}',
    ),
    "an error in an unknown place": Shape(
        JSON_TYPE, b'{"status":"error","detail":"No."}', RejectedError, '"detail": "No."'
    ),
    "long words": Shape(
        JSON_TYPE, b'"' + b"word " * 5_000 + b'"', "word " * 5_000, ("word " * 61)[:300] + "..."
    ),
}


def expected_class(status: int, shape: Shape) -> type[Verdict]:
    """The design's table, written down once more."""
    if status in range(200, 300):
        success = shape.success
        return success if isinstance(success, type) else Receipt
    if status == 401:
        return AuthenticationError
    if status in {408, 429, 503}:
        return ThrottledError
    if status in range(300, 500):
        return RejectedError
    return ServerError if status in range(500, 600) else UnexpectedResponseError


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_status_has_its_verdict(shape: Shape) -> None:
    statuses = [-1, 0, *range(1, 1000)]
    expected = {status: expected_class(status, shape) for status in statuses}
    verdicts = {
        status: type(parse_response(status, shape.headers, shape.body)) for status in statuses
    }
    assert verdicts == expected


SUCCESSES = {name: shape for name, shape in SHAPES.items() if not isinstance(shape.success, type)}


@pytest.mark.parametrize("shape", SUCCESSES.values(), ids=SUCCESSES)
def test_a_receipt_holds_the_status_and_the_parsed_answer(shape: Shape) -> None:
    for status in (200, 201, 202, 204, 299):
        receipt = parse_response(status, shape.headers, shape.body, attempts=3, elapsed_s=1.5)
        assert receipt == Receipt(status, shape.success, attempts=3, elapsed_s=1.5)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_an_error_has_the_status_and_the_endpoints_own_words(shape: Shape) -> None:
    for status in (200, 400, 401, 403, 404, 408, 422, 429, 500, 502, 503):
        error = parse_response(status, shape.headers, shape.body)
        if isinstance(error, Receipt):
            continue
        assert getattr(error, "status", None) == status
        assert str(status) in error.message
        if not isinstance(error, UnexpectedResponseError):
            assert shape.shown in error.message
        assert len(error.message) < 600
        assert error.message.isprintable()


@pytest.mark.parametrize("name", [name for name in SHAPES if "page" in name or name == "XHTML"])
@pytest.mark.parametrize("status", [200, 202, 400, 401, 403, 404, 500, 502])
def test_a_page_means_that_the_address_is_probably_wrong(name: str, status: int) -> None:
    error = parse_response(status, SHAPES[name].headers, SHAPES[name].body)
    assert "HTML page" in str(error)
    assert "base_url" in str(error) or "address is probably wrong" in str(error)
    assert "<" not in str(error)


def test_a_busy_server_that_answers_with_a_page_is_busy_and_not_misplaced() -> None:
    error = parse_response(503, HTML_TYPE, PAGE)
    assert str(error) == "the endpoint was too busy: it answered 503"


@pytest.mark.parametrize(
    "word",
    [
        "error",
        "errors",
        "fail",
        "failed",
        "failure",
        "invalid",
        "rejected",
        "denied",
        "unauthorized",
        "ERROR",
        " Failed\n",
    ],
)
@pytest.mark.parametrize("name", ["status", "result"])
def test_an_error_word_of_a_success_is_a_refusal(name: str, word: str) -> None:
    body = json.dumps({name: word, "message": "No such contact."}).encode()
    error = parse_response(200, JSON_TYPE, body)
    assert isinstance(error, RejectedError)
    assert str(error) == (
        f"the endpoint answered 200 with {name} {word.strip().lower()!r}: No such contact."
    )
    assert error.status == 200


@pytest.mark.parametrize("word", ["success", "ok", "queued", "pending", "no error", "", "done"])
def test_any_other_word_of_a_success_is_a_success(word: str) -> None:
    for name in ("status", "result"):
        assert isinstance(parse_response(200, {}, json.dumps({name: word}).encode()), Receipt)


def test_an_error_word_beside_a_good_one_is_a_refusal() -> None:
    assert isinstance(
        parse_response(200, {}, b'{"status":"success","result":"error"}'), RejectedError
    )


def test_a_401_says_that_the_hashes_are_to_be_checked() -> None:
    error = parse_response(401, JSON_TYPE, b'"Invalid credentials."')
    assert "store hash" in str(error)
    assert "customer hash" in str(error)
    assert str(error).endswith(": Invalid credentials.")


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("https://login.example.com/secret?token=secret", "to login.example.com:"),
        ("https://user:secret@login.example.com:8443/#secret", "to login.example.com:"),
        ("//login.example.com/secret", "to login.example.com:"),
        ("/secret", "to another path of the same host:"),
        ("https://[secret/", "to another path of the same host:"),
        ("", "to another path of the same host:"),
        (None, "to another path of the same host:"),
        ("https://e\x1bv\x07il\u202e.example/", "to e v il.example:"),
    ],
)
def test_a_redirect_says_which_host_and_nothing_more(location: str | None, shown: str) -> None:
    headers = {} if location is None else {"Location": location}
    for status in (301, 302, 303, 307, 308):
        error = parse_response(status, headers, b"secret")
        assert shown in str(error)
        assert "secret" not in str(error)
        assert "base_url" in str(error)
        assert str(error).isprintable()


# ------------------------------------------------------------------------------------ Retry-After

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def now() -> float:
    return NOW.timestamp()


def http_date(seconds_ahead: float) -> str:
    return format_datetime(NOW + timedelta(seconds=seconds_ahead), usegmt=True)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("1", 1.0),
        ("120", 120.0),
        (" 5 ", 5.0),
        ("+5", 5.0),
        ("1.5", 1.5),
        ("5.", 5.0),
        ("007", 7.0),
        ("9" * 400, 1e9),
        ("99999999999", 1e9),
        ("-1", None),
        ("-0", None),
        ("", None),
        (" ", None),
        ("soon", None),
        ("1e3", None),
        ("1_000", None),
        ("1,000", None),
        ("5s", None),
        ("0x10", None),
        ("\u0663", None),
        ("nan", None),
        ("inf", None),
        ("5 5", None),
        ("\x00", None),
        (http_date(90), 90.0),
        (http_date(0), 0.0),
        (http_date(-90), 0.0),
        (f"  {http_date(90)} ", 90.0),
        ("Sunday, 01-Mar-26 12:00:30 GMT", 30.0),
        ("Sun Mar  1 12:00:30 2026", 30.0),
        ("Sun, 01 Mar 2026 14:00:30 +0200", 30.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 1e9),
        ("Fri, 31 Dec 9999 23:59:59 -2359", 1e9),
        ("Fri, 31 Dec 99999 23:59:59 GMT", None),
        ("Mon, 01 Jan 0001 00:00:00 +2359", 0.0),
        ("Sun, 31 Feb 2026 12:00:00 GMT", None),
        ("Sun, 01 Mar 2026", None),
        ("Sun, 01 Mar 2026 25:00:00 GMT", None),
        ("Sun, 01 Mar 2026 12:00:00 +9999", None),
        (f"Sun, 01 Mar 2026 12:00:00 +{'9' * 30}", None),
        (f"Sun, 01 Mar {'9' * 30} 12:00:00 GMT", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date(value: str, seconds: float | None) -> None:
    assert retry_after_s(value, now) == seconds


@pytest.fixture
def far_from_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "FAR-5:30")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("far_from_greenwich")
@pytest.mark.parametrize("value", ["Sun Mar  1 12:00:30 2026", "Sun, 01 Mar 2026 12:00:30 GMT"])
def test_a_date_is_in_greenwich_wherever_this_machine_is(value: str) -> None:
    assert retry_after_s(value, now) == 30.0


def test_no_retry_after_asks_for_nothing() -> None:
    assert retry_after_s(None, now) is None


def test_a_date_is_measured_by_the_computers_clock_unless_one_is_handed_in() -> None:
    begin = time.time()
    seconds = retry_after_s(format_datetime(datetime.fromtimestamp(begin + 500, UTC), usegmt=True))
    assert seconds is not None
    assert 500 - 1 - (time.time() - begin) <= seconds <= 500


@given(
    st.text()
    | st.text("0123456789 .,:+-GMT", max_size=40)
    | st.builds(
        "{}, {} {} {} {}:{}:{} {}".format,
        st.sampled_from(["Sun", "Sunday", ""]),
        st.integers(-1, 40),
        st.sampled_from(["Mar", "Feb", "13", ""]),
        st.integers(-1, 20_000),
        *[st.integers(-1, 99)] * 3,
        st.sampled_from(["GMT", "+9999", "-9999", "-0000", "", "XYZ", "+99999999999"]),
    )
)
def test_no_retry_after_whatever_it_says_raises_or_asks_for_ever(value: str) -> None:
    seconds = retry_after_s(value, now)
    assert seconds is None or 0.0 <= seconds <= 1e9


@pytest.mark.parametrize("status", [408, 429, 503])
@pytest.mark.parametrize(
    ("value", "seconds", "shown"),
    [
        ("7", 7.0, "and asked to wait 7 s"),
        (http_date(90), 90.0, "and asked to wait 90 s"),
        (http_date(-90), 0.0, "and asked to wait 0 s"),
        ("0.5", 0.5, "and asked to wait 0.5 s"),
        ("12345678", 12_345_678.0, "and asked to wait 12345678 s"),
        ("garbage", None, ""),
        (None, None, ""),
    ],
)
def test_a_throttled_answer_knows_how_long_it_was_asked_to_wait(
    status: int, value: str | None, seconds: float | None, shown: str
) -> None:
    headers = {} if value is None else {"Retry-After": value}
    error = parse_response(status, headers, b'{"message":"Slow down."}', wall_clock=now)
    assert isinstance(error, ThrottledError)
    assert [error.status, error.retry_after_s] == [status, seconds]
    assert shown in str(error)
    assert str(error).endswith(": Slow down.")
    if value == "garbage":
        assert "garbage" not in str(error)


@pytest.mark.parametrize("minutes", [-10, 0, 10, 600])
def test_a_date_is_compared_with_the_answers_own_date(minutes: int) -> None:
    # The server's clock is wrong by so many minutes: both of its dates are.
    wrong = 60 * minutes
    headers = {"Retry-After": http_date(wrong + 90), "Date": http_date(wrong)}
    for status in (429, 503):
        error = parse_response(status, headers, b"", wall_clock=now)
        assert isinstance(error, ThrottledError)
        assert error.retry_after_s == 90.0


@pytest.mark.parametrize("date", [None, "", "yesterday", "Sun, 31 Feb 2026 12:00:00 GMT"])
def test_a_date_is_compared_with_our_clock_where_the_answer_has_none(date: str | None) -> None:
    headers = {"Retry-After": http_date(90)} | ({} if date is None else {"Date": date})
    error = parse_response(429, headers, b"", wall_clock=now)
    assert isinstance(error, ThrottledError)
    assert error.retry_after_s == 90.0


# ---------------------------------------------------------------------------- a 503 that comes late


@pytest.mark.parametrize("value", [None, "7", http_date(7)])
@pytest.mark.parametrize("status", [408, 429, 503])
@pytest.mark.parametrize("waited_s", [0.0, 0.1, 2.0, 2.001, 6.0, 59.0])
def test_a_503_long_after_the_body_was_sent_may_have_been_processed(
    status: int, waited_s: float, value: str | None
) -> None:
    headers = {} if value is None else {"Retry-After": value}
    error = parse_response(status, headers, b"", waited_s=waited_s, wall_clock=now)
    late = status == 503 and waited_s > 2
    assert type(error) is (ServerError if late else ThrottledError)
    assert error.may_have_been_processed is late
    assert isinstance(error, ServerError | ThrottledError)
    assert [error.status, error.retry_after_s] == [status, None if value is None else 7.0]
    assert ("gateway" in error.message) is late


@pytest.mark.parametrize(
    ("waited_s", "stalled_s", "says"),
    [
        (6.0, 0.0, "only after 6.0 s"),
        (6.0, 3.0, "only after 6.0 s"),  # late without the stall as well
        (6.0, 5.0, "stood still for 5.0 s, so when the 503 came is not known"),
        (6.0, 6.0, "stood still for 6.0 s, so when the 503 came is not known"),
        (1.5, 1.5, "too busy"),
    ],
)
def test_a_503_that_came_while_this_process_stood_still_is_not_called_late(
    waited_s: float, stalled_s: float, says: str
) -> None:
    error = parse_response(503, {"Retry-After": "7"}, b"", waited_s=waited_s, stalled_s=stalled_s)
    assert says in str(error)
    assert "asked to wait 7 s" in str(error)
    assert error.may_have_been_processed is (waited_s > 2)  # type: ignore[union-attr]
    assert ("only after" in str(error)) is (says.startswith("only after"))


# ----------------------------------------------------------------------- what no message may hold

_WORDS = st.text(string.printable, max_size=20)
_PLACES: tuple[Callable[[str], bytes], ...] = (
    str.encode,
    lambda text: json.dumps(text).encode(),
    lambda text: json.dumps({"message": text}).encode(),
    lambda text: json.dumps({"status": "error", "data": {"messages": ["x", text]}}).encode(),
    lambda text: json.dumps({"result": "error", "error": {"message": text}}).encode(),
    lambda text: json.dumps({"status": "error", "error": text}).encode(),
    # Cut off, so that it is no longer JSON but text.
    lambda text: json.dumps({"message": text})[:-1].encode(),
    # In no known place, and escaped further than need be.
    lambda text: json.dumps({"errors": {text: [text]}}).encode(),
    lambda text: json.dumps({"errors": [text]}).replace("@", "\\u0040").encode(),
)
_STATUSES = st.sampled_from([200, 302, 400, 401, 403, 429, 500, 503])


@given(
    _STATUSES,
    st.emails(),
    st.sampled_from(_PLACES),
    _WORDS,
    _WORDS,
    st.sampled_from([str, str.upper]),
)
@example(400, "jo@example.com", _PLACES[6], "Bad contact:\n", "", str)
@example(400, "jo@example.com", _PLACES[0], "x", "x", str)
@example(400, '"jo"@example.com', _PLACES[7], "", "", str)
@example(400, "jo@example.com", _PLACES[8], "", "", str)
def test_no_message_holds_the_customers_email(
    status: int,
    email: str,
    place: Callable[[str], bytes],
    before: str,
    after: str,
    written: Callable[[str], str],
) -> None:
    shown = written(email)
    headers = {"Location": f"https://{shown}/{shown}"}
    verdict = parse_response(
        status, headers, place(f"{before}{shown}{after} {shown}"), redact=(email, None)
    )
    assert email.lower() not in f"{verdict} {verdict!r}".lower()


@pytest.mark.parametrize("depth", [200, 500, 1_000, 1_020])
def test_an_answer_however_deep_has_a_verdict(depth: int) -> None:
    assert isinstance(parse_response(400, {}, b"[" * depth + b"]" * depth), RejectedError)


@given(
    st.text(string.ascii_letters + string.digits + " -_.#\t", min_size=4).filter(
        lambda name: len(" ".join(name.split())) > 3
    ),
    _WORDS,
)
@example("Jo  Smith", "")
def test_no_message_holds_the_customers_unique_id(unique_id: str, words: str) -> None:
    shown = " ".join(unique_id.split())
    for before, after in (("<<", ">>"), ("x", "x"), (words, words)):
        body = json.dumps({"message": f"{before}{unique_id}{after}"}).encode()
        said = str(parse_response(422, {}, body, redact=(None, unique_id))).removeprefix(
            "the endpoint refused the order (422)"
        )
        assert shown.lower() not in said.lower().replace("[the contact]", "\0")


@pytest.mark.parametrize(
    ("unique_id", "said", "shown"),
    [
        (7, "Contact 7 has 175 orders", "Contact [the contact] has 175 orders"),
        ("7", "Contact #7: 7, (7).", "Contact #[the contact]: [the contact], ([the contact])."),
        (1234, "Contact x1234x", "Contact x[the contact]x"),
        ("", "All is said", "All is said"),
        (" ", "All is said", "All is said"),
        (None, "None is said", "None is said"),
        ("a.c*", "abc a.c* abcc", "abc [the contact] abcc"),
    ],
)
def test_a_short_unique_id_is_hidden_only_where_it_stands_alone(
    unique_id: Any, said: str, shown: str
) -> None:
    error = parse_response(400, {}, json.dumps(said).encode(), redact=[unique_id])
    assert str(error) == f"the endpoint refused the order (400): {shown}"


_SPELLINGS: tuple[Callable[[str], str], ...] = (
    str,
    lambda address: address.replace("@", "%40"),
    lambda address: address.replace("@", "%2540"),
    lambda address: address.replace("@", "&#64;"),
    lambda address: address.replace("@", "&#x40;"),
    lambda address: address.replace("@", "&commat;"),
    lambda address: address.replace("@", "\\u0040"),
    lambda address: address.replace("@", "\uff20"),
    lambda address: f"<{address}>",
    lambda address: f"mailto:{address},",
    lambda address: f'"email":"{address}"',
    lambda address: f"?email={address}&x=1".replace("@", "%40"),
    lambda address: address.replace("@", "\u200b@\u200b"),
    lambda address: address.replace("n", "\u00adn"),
    lambda address: address.replace("@", "\ufe6b"),
    lambda address: address.replace("@", "&amp;#64;"),
    lambda address: address.replace("@", "&amp;amp;commat;"),
    lambda address: address.replace("@", "&#064"),
    lambda address: address.replace("@", "%u0040"),
    lambda address: address.replace("@", "\\x40"),
    lambda address: address.replace("@", " @ "),
    lambda address: address.replace("@", "@ "),
    lambda address: address.replace("@", " &#64;"),
    lambda address: '"' + address.replace("@", '"@'),
    lambda address: '"' + address.replace(".", " o'", 1).replace("@", '"@'),
    lambda address: 'the "new" "' + address.replace(".", " ", 1).replace("@", '"%40'),
)


@pytest.mark.parametrize("spell", _SPELLINGS)
def test_no_message_holds_anybodys_address(spell: Callable[[str], str]) -> None:
    # Not only the contact's: an endpoint may name whom it likes.
    words = f"Ask {spell('Jean-Luc.O+connor@mail.example.com')} about order 1001."
    for place, status in itertools.product(_PLACES, [200, 302, 401, 422, 429, 503]):
        error = parse_response(status, {"Location": "https://x@y.example/"}, place(words))
        if isinstance(error, Receipt):
            continue
        for piece in ("Jean", "connor", "mail.example"):
            assert piece not in error.message
        if "Ask" in error.message:
            assert "[an address]" in error.message
            assert "order 1001." in error.message


@pytest.mark.parametrize(
    "words",
    [
        *("1001 @ 32", "@home", "me@", "50%40", "a % 40 b", "5&#64;"),
        *("5 mops @ 3.50 each", "2 @ R99.95", "qty=400", "&#640;&#x400;x"),
        *('the "new" shop', '"a b" @home', '"a" or "b"'),
    ],
)
def test_what_is_not_an_address_stays_in_a_message(words: str) -> None:
    error = parse_response(422, {}, json.dumps({"message": f"No {words}"}).encode())
    assert str(error).endswith(f": No {words}")


def test_a_long_word_is_searched_in_no_time() -> None:
    started_at = time.process_time()
    for letter in ("a", "%25", "&#0", "\\", '"', '"a ', "@", "@ ", "a%40", "&amp;", "a @ a."):
        parse_response(422, {}, json.dumps({"message": letter * (60_000 // len(letter))}).encode())
    assert time.process_time() - started_at < 2


@pytest.mark.parametrize("length", [10, 100, 250, 400])
def test_a_cut_leaves_no_piece_of_the_customers_email(length: int) -> None:
    email = f"{'longname' * (length // 8 + 1)}@example.com"
    for pad in range(0, length, 7):
        body = (b"." * pad) + f"{email} ".encode() * (3_000 // length)
        for status in (400, 401, 429, 500):
            assert "longname" not in str(parse_response(status, {}, body, redact=[email]))


@given(_STATUSES, st.text(), st.sampled_from(_PLACES))
@example(400, "\x1b[31mred\x1b[0m \x9b2J \x07 \u202egnp.exe \u2028 \r\nFORGED LINE", _PLACES[2])
def test_no_message_holds_a_control_character(
    status: int, words: str, place: Callable[[str], bytes]
) -> None:
    headers = {"Location": f"https://{words}/", "Retry-After": words, "Content-Type": words}
    verdict = parse_response(status, headers, place(words))
    if isinstance(verdict, EverlyticError):
        assert verdict.message.isprintable()


def test_the_words_around_a_control_character_are_kept() -> None:
    error = parse_response(400, {}, json.dumps("\x1b[31mNo\r\n\tsuch \x00 shop\x1b[0m").encode())
    assert str(error) == "the endpoint refused the order (400): [31mNo such shop [0m"


def test_a_receipt_does_not_show_the_answer() -> None:
    receipt = parse_response(200, {}, b'{"status":"success","contact":"jo@example.com"}')
    assert repr(receipt) == "Receipt(status=200, attempts=1, elapsed_s=0.0)"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_ANSWERS = st.fixed_dictionaries(
    {},
    optional={
        name: _JSON | st.sampled_from(["error", "success"])
        for name in ("status", "result", "message", "data", "error", "failures")
    },
)
_BODIES = (
    st.binary()
    | st.text().map(str.encode)
    | (_JSON | _ANSWERS).map(lambda value: json.dumps(value).encode())
    | st.sampled_from([shape.body for shape in SHAPES.values()])
)


@given(
    st.integers(-1, 1000) | st.sampled_from([200, 204, 302, 400, 401, 429, 503]),
    st.dictionaries(st.sampled_from(["Retry-After", "Location", "Content-Type"]), st.text()),
    _BODIES,
    st.lists(st.none() | EMAILS | st.integers() | st.text(), max_size=3),
)
def test_no_answer_whatever_it_holds_goes_without_a_verdict(
    status: int, headers: dict[str, str], body: bytes, hide: list[Any]
) -> None:
    verdict = parse_response(status, headers, body, redact=hide, wall_clock=now)
    assert isinstance(verdict, Receipt | EverlyticError)
    if isinstance(verdict, EverlyticError):
        assert verdict.message.isprintable()
        assert len(verdict.message) < 1000
    else:
        assert 200 <= verdict.status < 300


@given(_JSON)
def test_a_receipt_holds_any_json_as_it_was_sent(value: Any) -> None:
    verdict = parse_response(200, JSON_TYPE, json.dumps({"data": value}).encode())
    assert isinstance(verdict, Receipt)
    # By repr, for a NaN is not equal to itself.
    assert repr(verdict.body) == repr({"data": value})
