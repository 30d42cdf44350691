"""Any order and any response: the result is a receipt or an `EverlyticError`.

Through a real socket; `tests/unit/test_response.py` does the same to the verdicts alone.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import attrs
from hostile_client import PATIENT, client_at
from hostile_server import order_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everlytic_async import (
    EverlyticError,
    InvalidOrderError,
    NotSentError,
    Order,
    Product,
    Receipt,
    RetryPolicy,
)
from support.delivery import CUSTOMER_HASH, STORE_HASH
from support.servers import RawServer, Script, once
from support.visible import visible_texts

ONCE = RetryPolicy(attempts=1)

# ------------------------------------------------------------------------------------- answers

_TOKENS = st.binary(max_size=12)
_NAMES = st.sampled_from(
    b"Content-Length Transfer-Encoding Content-Encoding Content-Type Connection Retry-After "
    b"Location Set-Cookie Upgrade".split()
)
_WORDS = b"0 -1 5 chunked gzip deflate br identity text/html close keep-alive upgrade http://["
_VALUES = _TOKENS | st.sampled_from(
    [
        *(*_WORDS.split(), b"//x:99999", b"9" * 40, b"Fri, 31 Dec 9999 23:59:59 GMT"),
        STORE_HASH.encode(),
    ]
)
_HEADERS = st.lists(st.tuples(_NAMES | _TOKENS, _VALUES), max_size=5)
_STATUSES = st.sampled_from([b"200", b"204", b"304", b"302", b"400", b"429", b"500", b"100"]) | (
    st.integers(0, 9999).map(lambda status: b"%d" % status)
)
_BODIES = st.binary(max_size=200) | st.sampled_from(
    [
        b'{"status":"success"}',
        b'{"status":"error","message":"' + CUSTOMER_HASH.encode() + b'"}',
        b"<html>",
        b"5\r\nhello\r\n0\r\n\r\n",
        b'{"status":NaN}',
        b'"\\ud800"',
        b"\xff\xfe",
    ]
)


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """The bytes of something that is more or less an answer."""
    status, headers, body = draw(_STATUSES), draw(_HEADERS), draw(_BODIES)
    if draw(st.booleans()):
        headers = [*headers, (b"Content-Length", b"%d" % len(body))]
    lines = [b"HTTP/1.1 %b %b" % (status, draw(_TOKENS)), *(b"%b: %b" % pair for pair in headers)]
    whole = b"\r\n".join(lines) + b"\r\n\r\n" + body
    if draw(st.booleans()):
        return whole
    return whole[: draw(st.integers(0, len(whole)))]  # cut short


async def sent(order: Any, script: Script) -> tuple[Receipt | EverlyticError, RawServer]:
    """What comes of one order, and the server that it was for."""
    async with (
        RawServer(script) as server,
        client_at(server.url, retry=ONCE, timeouts=PATIENT) as client,
    ):
        try:
            return await client.send_order(order), server
        except EverlyticError as error:
            return error, server


@given(st.binary(max_size=300) | answers())
def test_every_response_has_a_verdict_without_a_secret(data: bytes) -> None:
    verdict, server = asyncio.run(sent(order_for("success", 1), once(data)))

    assert len(server.bodies) == 1
    assert not isinstance(verdict, NotSentError)  # the server has it
    assert isinstance(verdict, Receipt) or verdict.message.isprintable()
    for text in visible_texts(verdict):
        assert STORE_HASH not in text
        assert CUSTOMER_HASH not in text


# -------------------------------------------------------------------------------------- orders

_FIELDS = st.sampled_from([field.name for field in attrs.fields(Order)])
_PRODUCT_FIELDS = st.sampled_from([field.name for field in attrs.fields(Product)])
_ODD = st.none() | st.booleans() | st.integers() | st.floats() | st.decimals() | st.binary()
_TEXTS = st.text(st.characters(exclude_categories=()), max_size=20) | st.sampled_from(
    ["jo@shop.example", "https://shop.example/a", "1e400", "NaN", "\ud800", "\x00"]
)
_ANYTHING = st.recursive(
    _ODD | _TEXTS | st.builds(object),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=5,
)
_PRODUCTS = st.lists(st.dictionaries(_PRODUCT_FIELDS, _ODD | _TEXTS, max_size=3), max_size=3)
_ORDERS = (
    st.dictionaries(_FIELDS | _TEXTS, _ANYTHING | _PRODUCTS, max_size=6)
    | st.fixed_dictionaries(
        {
            "contact_email": st.just("jo@shop.example") | _TEXTS,
            "products": _PRODUCTS.filter(bool),
        },
        optional={"total": _ODD | _TEXTS, "order_id": _ODD | _TEXTS, "workflow_id": _ODD},
    )
    | _ANYTHING
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(_ORDERS)
def test_every_order_is_sent_as_json_or_is_invalid(order: Any) -> None:
    verdict, server = asyncio.run(sent(order, once(b"HTTP/1.1 204 Done\r\n\r\n")))

    if isinstance(verdict, InvalidOrderError):
        assert server.connections == 0
        assert verdict.faults
    else:
        assert isinstance(verdict, Receipt), verdict
        (body,) = server.bodies
        assert set(json.loads(body)) <= set(order)
