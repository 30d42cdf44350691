"""What a response means, by status, body and Retry-After."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from order_strategies import EMAILS

from everlytic_async._response import MAX_BODY_BYTES
from everlytic_async._retry_after import retry_after_s
from everlytic_async.errors import (
    AuthenticationError,
    EverlyticError,
    RejectedError,
    ServerError,
    ThrottledError,
    UnexpectedResponseError,
)
from everlytic_async.outcomes import Receipt
from support.responses import parse_response

JSON_TYPE = {"Content-Type": "application/json"}
HTML_TYPE = {"Content-Type": "text/html; charset=UTF-8"}
TEXT_TYPE = {"Content-Type": "text/plain"}


@attrs.frozen
class Shape:
    """A response's headers and body, and what they mean.

    Attributes:
        success: With a 2xx: the receipt's body, or the class of the error.
        shown: What the message of an error repeats of it.
    """

    headers: Mapping[str, str]
    body: bytes
    success: Any
    shown: str = ""


def _json(value: Any, shown: str = "") -> Shape:
    """JSON that is accepted."""
    return Shape(JSON_TYPE, json.dumps(value).encode(), value, shown)


def _error(body: bytes, shown: str = "", headers: Mapping[str, str] = JSON_TYPE) -> Shape:
    return Shape(headers, body, RejectedError, shown)


def _page(body: bytes, headers: Mapping[str, str] = {}) -> Shape:
    return Shape(headers, body, UnexpectedResponseError)


PAGE = b"<!DOCTYPE html><html><head><title>Log in</title></head><body>Who are you?</body></html>"
DEEP = b"[" * 30_000 + b"]" * 30_000
HUGE = b'{"status":"success","data":"' + b"x" * (MAX_BODY_BYTES - 30) + b'"}'
SUCCESS = {"status": "success"}
SHAPES = {
    "empty": Shape({}, b"", None),
    "white space": Shape(JSON_TYPE, b" \r\n\t", None),
    "BOM alone": Shape(JSON_TYPE, b"\xef\xbb\xbf", None),
    "contact sync": _json(SUCCESS),
    "PHP's content type": Shape(HTML_TYPE, b'{"status":"success"}', SUCCESS),
    "no content type": Shape({}, b'{"status":"success"}', SUCCESS),
    "BOM": Shape(JSON_TYPE, b'\xef\xbb\xbf{"status":"success"}', SUCCESS),
    "result envelope": _json({"result": "success", "data": {"workflow_id": "32"}}),
    "success with a message": _json({"status": "success", "message": "Queued."}, "Queued."),
    "error envelope": _error(
        b'{"status":"error","data":{"messages":["No such workflow.","Ask support."]}}',
        "No such workflow.; Ask support.",
    ),
    "error as PHP's text": _error(
        b'{"status":"error","message":"No such shop."}', "No such shop.", HTML_TYPE
    ),
    "error behind a BOM": _error(b'\xef\xbb\xbf{"status":"error","message":"No."}', "No."),
    "result error": _error(b'{"result":" Error ","message":"No."}', "No."),
    "error beside success": _error(b'{"status":"success","result":"error"}'),
    "failure": _error(b'{"status":"FAILED","error":{"message":"Bad contact."}}', "Bad contact."),
    "error with NaN": _error(b'{"status":"error","took":NaN,"message":"No."}', "No."),
    "error with odd bytes": _error(
        b'{"status":"error","message":"Caf\xe9 closed"}', "Caf\ufffd closed"
    ),
    "error without a message": _error(b'{"status":"error"}'),
    "error as text": _json({"error": "Broken."}, "Broken."),
    "odd places": _json({"message": ["a"], "data": {"messages": "One."}, "error": 5}, "One."),
    "messages of all kinds": _json(
        {"message": None, "data": {"messages": [1, None, " ", "Two."]}, "error": {"message": 7}},
        "Two.",
    ),
    "a status that is not text": _json({"status": 0}),
    "a nested error word": _json({"data": {"status": "error"}}),
    "failures": _json({"failures": [{"id": 1}]}),
    "bare string": _json("Invalid credentials.", "Invalid credentials."),
    "bare number": Shape(JSON_TYPE, b"10.10", 10.1),
    "bare null": _json(None),
    "bare true": _json(True),  # noqa: FBT003 - as parsed
    "list": _json(["a"], '["a"]'),
    "text": Shape(TEXT_TYPE, b"  OK\n", "OK", "OK"),
    "text as HTML's type": Shape(HTML_TYPE, b"Order received", "Order received", "Order received"),
    "text with a less-than": Shape(TEXT_TYPE, b"1 < 2", "1 < 2", "1 < 2"),
    "broken JSON": Shape(JSON_TYPE, b'{"status":', '{"status":', '{"status":'),
    "invalid UTF-8": Shape({}, b"\xff\xfe\x00\x81", "\ufffd\ufffd\x00\ufffd", "\ufffd\ufffd"),
    "page": _page(PAGE, HTML_TYPE),
    "page without a content type": _page(PAGE),
    "page as JSON's type": _page(PAGE, JSON_TYPE),
    "page behind white space": _page(b"\r\n\t " + PAGE),
    "page behind a BOM": _page(b"\xef\xbb\xbf" + PAGE),
    "page in capitals": _page(PAGE.upper()),
    "page without a doctype": _page(b"<html><body>Hi"),
    "page behind a comment": _page(b"<!-- cached -->" + PAGE),
    "page in XHTML": _page(b'<?xml version="1.0"?>\n' + PAGE),
    "a fragment of HTML": _page(b"<b>Warning</b>: oh", HTML_TYPE),
    "a warning before JSON": _page(b'<br />Notice: x {"status":"success"}', HTML_TYPE),
    "deep": Shape(JSON_TYPE, DEEP, DEEP.decode(), "[" * 300 + "..."),
    "huge": Shape(JSON_TYPE, HUGE, json.loads(HUGE)),
    "cut off": Shape(JSON_TYPE, HUGE[:-5], HUGE[:-5].decode(), '{"status":"success","data":"xxx'),
    "an error cut off": _error(
        HUGE[:-5].replace(b"success", b"error", 1), '{"status":"error","data'
    ),
    "an error that breaks off": _error(
        b'{ "result": "failed", "message": ', '{ "result": "failed"'
    ),
    "an error with a raw control character": _error(
        b'{"status":"error","message":"No\x1b[31m\nway"}', "No [31m way"
    ),
    "an object in an unknown place": _json(
        {"errors": ["No such workflow."]}, '{"errors": ["No such workflow."]}'
    ),
    "an unknown place with escapes": Shape(
        JSON_TYPE,
        b'{"errors":["caf\\u00e9 \\/ closed"]}',
        {"errors": ["caf\u00e9 / closed"]},
        '{"errors": ["caf\u00e9 / closed"]}',
    ),
    "an error in an unknown place": _error(b'{"status":"error","detail":"No."}', '"detail": "No."'),
    "long words": Shape(
        JSON_TYPE, b'"' + b"word " * 5_000 + b'"', "word " * 5_000, ("word " * 61)[:300] + "..."
    ),
}
#: One of every hundred, and those that have a rule of their own.
STATUSES = [
    *(-1, 0, 200, 202, 204, 299, 302, 400, 401, 403, 404, 408, 422, 429, 500, 502, 503, 600)
]


def expected_class(status: int, shape: Shape) -> type[Receipt | EverlyticError]:
    """The design's table, written down once more."""
    if status in range(200, 300):
        return shape.success if isinstance(shape.success, type) else Receipt
    if status == 401:
        return AuthenticationError
    if status in {408, 429, 503}:
        return ThrottledError
    if status in range(300, 500):
        return RejectedError
    return ServerError if status in range(500, 600) else UnexpectedResponseError


@pytest.mark.parametrize("name", ["empty", "error envelope", "page"])
def test_every_status_has_its_verdict(name: str) -> None:
    shape = SHAPES[name]
    for status in range(-1, 1_000):
        verdict = parse_response(status, shape.headers, shape.body)
        assert type(verdict) is expected_class(status, shape), status


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_body_has_its_verdict_and_its_words_in_the_message(shape: Shape) -> None:
    for status in STATUSES:
        verdict = parse_response(status, shape.headers, shape.body, attempts=3, elapsed_s=1.5)
        assert type(verdict) is expected_class(status, shape), status
        if isinstance(verdict, Receipt):
            assert verdict == Receipt(status, shape.success, attempts=3, elapsed_s=1.5)
            assert repr(verdict) == f"Receipt(status={status}, attempts=3, elapsed_s=1.5)"
            continue
        assert str(status) in verdict.message
        assert len(verdict.message) < 600
        assert verdict.message.isprintable()
        assert getattr(verdict, "status", None) == status
        if not isinstance(verdict, UnexpectedResponseError) and status != 302:
            assert shape.shown in verdict.message


@pytest.mark.parametrize("name", [name for name in SHAPES if name.startswith("page")])
def test_a_page_means_that_the_address_is_probably_wrong(name: str) -> None:
    for status in (200, 202, 400, 401, 403, 404, 500, 502):
        error = str(parse_response(status, SHAPES[name].headers, SHAPES[name].body))
        assert "HTML page" in error
        assert "base_url" in error or "address is probably wrong" in error
        assert "<" not in error
    busy = parse_response(503, SHAPES[name].headers, SHAPES[name].body)
    assert str(busy) == "the endpoint was too busy: it answered 503"


ERROR_WORDS = [
    *("error", "errors", "fail", "failed", "failure", "invalid", "rejected", "denied"),
    *("unauthorized", "ERROR", " Failed\n"),
]


def test_a_2xx_with_an_error_word_is_a_rejection() -> None:
    for name in ("status", "result"):
        for word in ERROR_WORDS:
            body = json.dumps({name: word, "message": "No such contact."}).encode()
            error = parse_response(200, JSON_TYPE, body)
            assert isinstance(error, RejectedError)
            assert str(error) == (
                f"the endpoint answered 200 with {name} {word.strip().lower()!r}: No such contact."
            )
        for word in ("success", "ok", "queued", "pending", "no error", "", "done"):
            assert isinstance(parse_response(200, {}, json.dumps({name: word}).encode()), Receipt)


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
        error = str(parse_response(status, headers, b"secret"))
        assert shown in error
        assert "secret" not in error
        assert "base_url" in error
        assert error.isprintable()


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
        (" 5 ", 5.0),
        ("+5", 5.0),
        ("1.5", 1.5),
        ("5.", 5.0),
        ("007", 7.0),
        ("9" * 400, 1e9),
        *((odd, None) for odd in ("-1", "-0", "", " ", "soon", "1e3", "1_000", "1,000", "5s")),
        *((odd, None) for odd in ("0x10", "\u0663", "nan", "inf", "5 5", "\x00")),
        (None, None),
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
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after_s(value, now) == seconds


@pytest.fixture
def far_from_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "FAR-5:30")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("far_from_greenwich")
def test_a_date_is_in_greenwich_in_any_time_zone() -> None:
    for value in ("Sun Mar  1 12:00:30 2026", "Sun, 01 Mar 2026 12:00:30 GMT"):
        assert retry_after_s(value, now) == 30.0


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
def test_no_retry_after_raises_or_is_endless(value: str) -> None:
    seconds = retry_after_s(value, now)
    assert seconds is None or 0.0 <= seconds <= 1e9


@pytest.mark.parametrize("status", [408, 429, 503])
@pytest.mark.parametrize(
    ("value", "seconds", "shown"),
    [
        ("7", 7.0, " and asked to wait 7 s"),
        (http_date(90), 90.0, " and asked to wait 90 s"),
        (http_date(-90), 0.0, " and asked to wait 0 s"),
        ("0.5", 0.5, " and asked to wait 0.5 s"),
        ("12345678", 12_345_678.0, " and asked to wait 12345678 s"),
        ("garbage", None, ""),
    ],
)
def test_a_throttle_has_its_retry_after_and_shows_it(
    status: int, value: str, seconds: float | None, shown: str
) -> None:
    headers = {"Retry-After": value}
    error = parse_response(status, headers, b'{"message":"Slow down."}', wall_clock=now)
    assert isinstance(error, ThrottledError)
    assert (error.status, error.retry_after_s) == (status, seconds)
    assert str(error) == f"the endpoint was too busy: it answered {status}{shown}: Slow down."


@pytest.mark.parametrize(
    ("date", "server_ahead_s"),
    [
        *((http_date(60 * minutes), 60 * minutes) for minutes in (-10, 0, 10, 600)),
        *((odd, 0) for odd in (None, "", "yesterday", "Sun, 31 Feb 2026 12:00:00 GMT")),
    ],
)
def test_a_date_is_compared_with_the_responses_own_date_if_it_has_one(
    date: str | None, server_ahead_s: int
) -> None:
    headers = {"Retry-After": http_date(server_ahead_s + 90)}
    headers |= {} if date is None else {"Date": date}
    for status in (429, 503):
        error = parse_response(status, headers, b"", wall_clock=now)
        assert isinstance(error, ThrottledError)
        assert error.retry_after_s == 90.0


# ---------------------------------------------------------------------------- a 503 that comes late


@pytest.mark.parametrize("value", [None, "7", http_date(7)])
@pytest.mark.parametrize("status", [408, 429, 503])
@pytest.mark.parametrize("waited_s", [0.0, 2.0, 2.001, 59.0])
def test_a_503_long_after_the_body_was_sent_may_have_been_processed(
    status: int, waited_s: float, value: str | None
) -> None:
    headers = {} if value is None else {"Retry-After": value}
    error = parse_response(status, headers, b"", waited_s=waited_s, wall_clock=now)
    late = status == 503 and waited_s > 2
    assert type(error) is (ServerError if late else ThrottledError)
    assert isinstance(error, ServerError | ThrottledError)
    assert (error.status, error.retry_after_s) == (status, None if value is None else 7.0)
    assert ("gateway" in error.message) is late


@pytest.mark.parametrize(
    ("waited_s", "stalled_s", "shown"),
    [
        (6.0, 0.0, "only after 6.0 s"),
        (6.0, 3.0, "only after 6.0 s"),  # late without the stall as well
        (6.0, 5.0, "stood still for 5.0 s, so when the 503 came is not known"),
        (1.5, 1.5, "too busy"),
    ],
)
def test_a_503_that_came_while_this_process_stood_still_is_not_called_late(
    waited_s: float, stalled_s: float, shown: str
) -> None:
    error = parse_response(503, {"Retry-After": "7"}, b"", waited_s=waited_s, stalled_s=stalled_s)
    assert isinstance(error, EverlyticError)
    assert shown in error.message
    assert "asked to wait 7 s" in error.message
    assert error.may_have_been_processed is (waited_s > 2)
    assert ("only after" in error.message) is shown.startswith("only after")


# ----------------------------------------------------------------------------------- any response

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_OBJECTS = st.fixed_dictionaries(
    {},
    optional={
        name: JSON_VALUES | st.sampled_from(["error", "success"])
        for name in ("status", "result", "message", "data", "error", "failures")
    },
)
CONTROLS = "\x1b[31mred\x1b[0m \x9b2J \x07 \u202egnp.exe \u2028 \r\nFORGED LINE"
_BODIES = (
    st.binary()
    | st.text().map(str.encode)
    | (JSON_VALUES | _OBJECTS).map(lambda value: json.dumps(value).encode())
    | st.sampled_from([shape.body for shape in SHAPES.values()])
)


@given(
    st.integers(-1, 1000) | st.sampled_from([200, 204, 302, 400, 401, 429, 503]),
    st.dictionaries(st.sampled_from(["Retry-After", "Location", "Content-Type"]), st.text()),
    _BODIES,
    st.lists(st.none() | EMAILS | st.integers() | st.text(), max_size=3),
)
@example(302, {"Location": f"https://{CONTROLS}/"}, b"", [])
@example(400, {}, json.dumps({"message": CONTROLS}).encode(), [])
@example(400, {}, CONTROLS.encode(), [])
def test_every_response_has_a_verdict(
    status: int, headers: dict[str, str], body: bytes, redact: list[Any]
) -> None:
    verdict = parse_response(status, headers, body, redact=redact, wall_clock=now)
    if isinstance(verdict, Receipt):
        assert 200 <= verdict.status < 300
    else:
        assert verdict.message.isprintable()
        assert len(verdict.message) < 1000


@given(JSON_VALUES)
def test_a_receipt_holds_any_json_as_it_was_sent(value: Any) -> None:
    verdict = parse_response(200, JSON_TYPE, json.dumps({"data": value}).encode())
    assert isinstance(verdict, Receipt)
    assert repr(verdict.body) == repr({"data": value})  # by repr: a NaN does not equal itself
