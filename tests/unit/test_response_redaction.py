"""What no message may repeat of a response."""

from __future__ import annotations

import itertools
import json
import string
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from everlytic_async.errors import RejectedError
from everlytic_async.outcomes import Receipt
from support.responses import parse_response

_WORDS = st.text(string.printable, max_size=20)
#: Where in a response a text may be.
_PLACES: tuple[Callable[[str], bytes], ...] = (
    str.encode,
    lambda text: json.dumps(text).encode(),
    lambda text: json.dumps({"message": text}).encode(),
    lambda text: json.dumps({"status": "error", "data": {"messages": ["x", text]}}).encode(),
    lambda text: json.dumps({"result": "error", "error": {"message": text}}).encode(),
    lambda text: json.dumps({"status": "error", "error": text}).encode(),
    # Cut off, so that it is no longer JSON but text.
    lambda text: json.dumps({"message": text})[:-1].encode(),
    # In an unknown place, and escaped further than need be.
    lambda text: json.dumps({"errors": {text: [text]}}).encode(),
    lambda text: json.dumps({"errors": [text]}).replace("@", "\\u0040").encode(),
)
_STATUSES = st.sampled_from([200, 302, 400, 401, 403, 429, 500, 503])


def rejected(message: Any, *redact: Any) -> str:
    """What is said of a refusal with this message."""
    body = json.dumps(message).encode()
    return str(parse_response(400, {}, body, redact=redact)).removeprefix(
        "the endpoint refused the order (400): "
    )


# -------------------------------------------------------------------------------- the customer


@given(
    _STATUSES,
    st.emails(domains=st.sampled_from(["example.com", "mail.shop.example", "x.co.za"])),
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
    write: Callable[[str], str],
) -> None:
    written = write(email)
    headers = {"Location": f"https://{written}/{written}"}
    body = place(f"{before}{written}{after} {written}")
    verdict = parse_response(status, headers, body, redact=(email, None))
    assert email.lower() not in f"{verdict} {verdict!r}".lower()


@given(
    st.text(string.ascii_letters + string.digits + " -_.#\t", min_size=4).filter(
        lambda name: len(" ".join(name.split())) > 3
    ),
    _WORDS,
)
@example("Jo  Smith", "")
def test_no_message_holds_the_customers_unique_id(unique_id: str, words: str) -> None:
    shown = " ".join(unique_id.split()).lower()
    for before, after in (("<<", ">>"), ("x", "x"), (words, words)):
        message = rejected({"message": f"{before}{unique_id}{after}"}, None, unique_id)
        assert shown not in message.lower().replace("[the contact]", "\0")


@pytest.mark.parametrize(
    ("unique_id", "message", "shown"),
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
def test_a_short_unique_id_is_redacted_as_a_whole_word_only(
    unique_id: Any, message: str, shown: str
) -> None:
    assert rejected(message, unique_id) == shown


@pytest.mark.parametrize("length", [10, 250, 400])
def test_a_cut_leaves_no_part_of_the_customers_email(length: int) -> None:
    email = f"{'longname' * (length // 8 + 1)}@example.com"
    for pad in range(0, length, 7):
        body = (b"." * pad) + f"{email} ".encode() * (3_000 // length)
        for status in (400, 401, 429, 500):
            assert "longname" not in str(parse_response(status, {}, body, redact=[email]))


# ------------------------------------------------------------------------------ anybody's address

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
    lambda address: address.replace("@", "\\u{40}"),
    lambda address: address.replace("@", "=40"),
    lambda address: "to:&quot;" + address.replace(".", " ", 1).replace("@", "&quot;@"),
    lambda address: "don't: '" + address.replace(".", " ", 1).replace("@", "'@"),
    lambda address: "\u201c" + address.replace(".", " ", 1).replace("@", "\u201d@"),
    lambda address: 'the "new" "' + address.replace(".", " ", 1).replace("@", '"%40'),
)
ADDRESS = "Jean-Luc.O+connor@mail.example.com"


@pytest.mark.parametrize("spell", _SPELLINGS)
def test_no_message_holds_an_address_in_any_spelling(spell: Callable[[str], str]) -> None:
    # Not only the contact's: a response may name anybody.
    words = f"Ask {spell(ADDRESS)} about order 1001."
    for place, status in itertools.product(_PLACES, [200, 302, 401, 422, 429, 503]):
        error = parse_response(status, {"Location": "https://x@y.example/"}, place(words))
        if isinstance(error, Receipt):
            continue
        for part in ("Jean", "connor", "mail.example"):
            assert part not in error.message
        if "Ask" in error.message:
            assert "[an address]" in error.message
            assert "order 1001." in error.message


def test_a_quote_within_quotes_does_not_end_an_address() -> None:
    assert rejected({"message": r'No "ann\"s"@mail.example here'}) == "No [an address] here"


@pytest.mark.parametrize(
    "words",
    [
        *("1001 @ 32", "@home", "me@", "50%40", "a % 40 b", "5&#64;"),
        *("5 mops @ 3.50 each", "2 @ R99.95", "qty=400", "&#640;&#x400;x"),
        *("qty=400.50 each", "a=40 b.example", "the shop's 'new' x", "a &quot;b&quot; c"),
        *('the "new" shop', '"a b" @home', '"a" or "b"'),
    ],
)
def test_what_is_not_an_address_stays_in_a_message(words: str) -> None:
    assert rejected({"message": f"No {words}"}) == f"No {words}"


def test_redacting_a_long_text_takes_no_time() -> None:
    started_at = time.process_time()
    letters = ("a", "%25", "&#0", "\\", '"', '"a ', "@", "@ ", "a%40", "&amp;", "a @ a.")
    for letter in (*letters, '\\"', "&quot;", "&quot;a ", "'", " 'a", "\u201c", "a=40a", "\\u{0"):
        rejected({"message": letter * (30_000 // len(letter))})
    assert time.process_time() - started_at < 1


# ----------------------------------------------------------------------------- what is not text


def test_the_words_around_a_control_character_are_kept() -> None:
    assert rejected("\x1b[31mNo\r\n\tsuch \x00 shop\x1b[0m") == "[31mNo such shop [0m"


@pytest.mark.parametrize("depth", [200, 500, 1_000, 1_020])
def test_a_deeply_nested_response_has_a_verdict(depth: int) -> None:
    assert isinstance(parse_response(400, {}, b"[" * depth + b"]" * depth), RejectedError)
