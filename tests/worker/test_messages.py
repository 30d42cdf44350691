"""Orders as messages: what identifies them, what a message holds, and what is not an order."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import api

from everlytic_async import ConfigurationError, InvalidOrderError, Order, Outcome
from everlytic_async._encoding import encode, order_key
from everlytic_async.ledger import storage_key
from everlytic_async.worker import QueueSettings
from everlytic_async.worker._dead_letters import DeadLetter, dead_letter_headers, redrive_headers
from everlytic_async.worker._messages import (
    decode_order,
    encode_message,
    publisher_key,
    resend_override,
)
from support.delivery import order

SETTINGS = QueueSettings()


def an_order(**fields: Any) -> Order:
    return Order.from_mapping(order(1, **fields))


@pytest.mark.parametrize("key", ["jane@example.com", "1", "ümlaut", "a\r\nNats-Msg-Id: b"])
def test_a_publishers_own_key_is_sent_as_a_digest(key: str) -> None:
    message = encode_message(an_order(), key, SETTINGS)
    assert message.key == storage_key(key, custom=True) == publisher_key(message.headers)
    assert message.headers["Nats-Msg-Id"] == f"default:{message.key}"
    assert key == "1" or key not in str(message.headers)


@pytest.mark.parametrize("key", ["", " ", 5, b"1", ["1"]])
def test_what_is_no_key_names_no_order(key: Any) -> None:
    kind = InvalidOrderError if isinstance(key, str) else TypeError
    with pytest.raises(kind, match=r"key.* must"):
        encode_message(an_order(), key, SETTINGS)


@pytest.mark.parametrize("order_id", ["ümlaut", "a b", "a\nb", "x" * 500, "é" * 50])
def test_a_message_id_is_one_short_word_of_ascii(order_id: str) -> None:
    message = encode_message(an_order(order_id=order_id), None, SETTINGS)
    name = message.headers["Nats-Msg-Id"]
    assert name.isascii()
    assert name.isprintable()
    assert " " not in name
    assert len(name) < 200


@given(price=st.decimals(allow_nan=False, allow_infinity=False, places=4), name=st.text(min_size=1))
def test_an_order_is_the_same_after_its_way(price: Decimal, name: str) -> None:
    product = {"product_name": name, "product_price": price}
    try:
        before = an_order(products=[product], order_id=None)
    except InvalidOrderError:
        return
    message = encode_message(before, None, SETTINGS)
    after = decode_order(message.body, SETTINGS)
    assert encode(after) == message.body  # so its digest, and its key, are the same
    assert storage_key(order_key(after, encode(after))) == message.key


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "order: is not JSON: Expecting value, column 1"),
        (b"\xff\xfe", "order: is not UTF-8"),
        (b"[" * 100_000, "order: is nested too deeply"),
        (b'{"total": 1e99999999999999999999}', "order: holds a number of too many digits"),
        (b"[1]", "expected an object"),
        (b'{"contact_email": "jane@example.com", "prodcts": []}', "prodcts: no such field"),
    ],
)
def test_an_invalid_message_says_why_and_quotes_nothing(body: bytes, error: str) -> None:
    with pytest.raises(InvalidOrderError, match=error) as raised:
        decode_order(body, SETTINGS)
    assert "jane" not in str(raised.value)


def test_an_order_that_is_too_large_is_invalid_on_either_side() -> None:
    small = QueueSettings(max_message_bytes=100)
    with pytest.raises(InvalidOrderError, match="the queue takes 100"):
        encode_message(an_order(), None, small)
    with pytest.raises(InvalidOrderError, match="the queue takes 100"):
        decode_order(encode(an_order()), small)


def test_a_key_from_another_program_is_kept_as_its_digest() -> None:
    assert publisher_key({"Everlytic-Key": "jane"}) == storage_key("jane", custom=True)
    assert publisher_key({}) is None


# -------------------------------------------------------------------------------- dead letters


def test_missing_or_odd_headers_are_read_as_nothing_known() -> None:
    headers = {"Everlytic-Outcome": "odd", "Everlytic-Attempts": "inf"}
    letter = DeadLetter.from_message(api.RawStreamMsg(seq=4, headers=headers), SETTINGS)
    assert (letter.outcome, letter.reason, letter.attempts) == (Outcome.UNKNOWN, "", 0)


@pytest.mark.parametrize(
    "reason", ["for jane@example.com\r\nX: y", "ümlaut  " + "x" * 5000, "\x00\x7f", "\u2028"]
)
def test_a_reason_is_one_line_of_ascii_without_addresses(reason: str) -> None:
    message = Msg(Client(), "orders", "$JS.ACK.orders.workers.3.7.1.1500000.0", b"", {})
    headers = dead_letter_headers(message, SETTINGS, Outcome.UNKNOWN, reason, 2)
    header = headers["Everlytic-Reason"]
    assert header.isascii()
    assert not {"\n", "\r"} & set(header)
    assert "jane" not in header
    assert len(header) <= 500


@pytest.mark.parametrize("outcome", [Outcome.INVALID, Outcome.SENT, "odd"])
def test_only_unknown_and_rejected_can_be_disregarded(outcome: str) -> None:
    redriven = redrive_headers({"Everlytic-Outcome": outcome}, 1, 1.0, SETTINGS)
    assert resend_override(redriven) is None
    assert resend_override({"Everlytic-Resend": outcome}) is None


# ------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    "wrong",
    [
        *({"store": name} for name in ("", "a.b", "*", "a b")),
        {"orders_stream": "a.b"},
        *({"subject": name} for name in ("a..b", ">")),
        *({"replicas": count} for count in (2, True)),
        {"duplicate_window_s": 0},
        {"ack_wait_s": float("inf")},
        *({"max_bytes": size} for size in (None, 0)),
        {"max_messages": 1.5},
        {"max_age_s": -1},
        {"max_message_bytes": "1"},
    ],
    ids=str,
)
def test_a_wrong_setting_is_named(wrong: dict[str, Any]) -> None:
    [name] = wrong
    with pytest.raises(ConfigurationError, match=rf"QueueSettings\.{name} must be"):
        QueueSettings(**wrong)


def test_subjects_are_the_stores_own() -> None:
    settings = QueueSettings(store="shoes", subject="a.b")
    assert settings.orders_subject == "a.b.orders.shoes"
    assert settings.dead_letter_subject == "a.b.dead.shoes"
    assert settings.cool_down_subject == "a.b.pace.shoes"
    assert settings.consumer == "worker-shoes"
