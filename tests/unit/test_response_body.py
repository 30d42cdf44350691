"""A response counts only as far as it can be read: content codings and charsets."""

from __future__ import annotations

import encodings.aliases
import gzip
import json
import random
import zlib
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from everlytic_async import EverlyticError, Receipt, RejectedError, UnexpectedResponseError
from everlytic_async._response import MAX_BODY_BYTES, decode, parse_charset
from support.responses import parse_response

SUCCESS = '{"status":"success"}'
ERROR = '{"status":"error","message":"Kein Arbeitsablauf für jo@example.com."}'
TEXT = "Accepted für später."
JUNK = random.Random(1).randbytes(200)


def gzipped(body: bytes) -> bytes:
    return gzip.compress(body, mtime=0)


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


def verdict(
    body: bytes, coding: str | None = None, content_type: str | None = None, status: int = 200
) -> Receipt | EverlyticError:
    """What a response with this body means, cut as the transport cuts it."""
    cut = body[:MAX_BODY_BYTES]
    text, undecodable = decode(
        cut, coding, parse_charset(content_type or ""), whole=len(cut) == len(body)
    )
    assert len(text) <= 3 * MAX_BODY_BYTES
    return parse_response(status, {}, text, undecodable=undecodable)


def assert_sent(found: Receipt | EverlyticError, body: object = json.loads(SUCCESS)) -> None:
    assert isinstance(found, Receipt)
    assert found.body == body


def assert_unreadable(found: Receipt | EverlyticError, what: str) -> None:
    """It may have been processed, and the message says what can't be read."""
    assert isinstance(found, UnexpectedResponseError)
    assert what in found.message
    assert found.message.isprintable()
    assert len(found.message) < 300


def unchanged(body: bytes) -> bytes:
    return body


CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "identity": unchanged,
    "utf-8": unchanged,  # some servers put the charset here
    "gzip": gzipped,
    "GZip": gzipped,
    "x-gzip": gzipped,
    "deflate": zlib.compress,
    "Deflate": raw_deflate,
    "gzip, gzip": lambda body: gzipped(gzipped(body)),
    "deflate,x-gzip": lambda body: gzipped(zlib.compress(body)),
    " gzip ,identity, deflate": lambda body: raw_deflate(gzipped(body)),
    "gzip ": lambda body: gzipped(body[:5]) + gzipped(body[5:]),
}


@pytest.mark.parametrize("coding", CODINGS)
def test_gzip_and_deflate_are_read(coding: str) -> None:
    pack = CODINGS[coding]
    assert_sent(verdict(pack(SUCCESS.encode()), coding))
    assert isinstance(verdict(pack(ERROR.encode()), coding), RejectedError)
    assert_sent(verdict(b"", coding), None)


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        *((JUNK, coding) for coding in ("br", "zstd", "gzip")),
        *((SUCCESS.encode(), coding) for coding in ("br", "compress", "gzip", "deflate")),
        *((gzipped(SUCCESS.encode()), coding) for coding in ("br, gzip", "gzip, br", "gzip, gzip")),
        (gzipped(SUCCESS.encode())[:-9], "gzip"),
        (gzipped(SUCCESS.encode())[:12], "gzip"),
        (gzipped(SUCCESS.encode()) + JUNK, "gzip"),
        (zlib.compress(SUCCESS.encode())[:-1], "deflate"),
        (SUCCESS.encode(), ", ".join(["gzip"] * 500)),
        (SUCCESS.encode(), "\x1b[31mred"),
    ],
)
def test_a_2xx_that_cannot_be_decoded_may_have_been_processed(body: bytes, coding: str) -> None:
    assert_unreadable(verdict(body, coding), "content coding")


@pytest.mark.parametrize("coding", ["br", "gzip", "gzip, gzip"])
def test_another_status_is_the_verdict_in_any_coding(coding: str) -> None:
    for status in (401, 422, 429, 503):
        error = verdict(JUNK, coding, status=status)
        assert isinstance(error, EverlyticError)
        assert not error.may_have_been_processed


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_gzip_bomb_is_cut(layers: int) -> None:
    bomb = b'{"status":"error","message":"' + b"x" * 30_000_000
    for _ in range(layers):
        bomb = gzipped(bomb)
    error = verdict(bomb, ", ".join(["gzip"] * layers))
    assert isinstance(error, RejectedError)
    assert len(error.message) < 1000


DECLARED = ["utf-8", '"UTF-8"', "utf-16", "utf-16-le", "utf-16-be", "utf-32", "iso-8859-1", "cp500"]


@pytest.mark.parametrize("charset", DECLARED)
@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
def test_a_declared_charset_is_read(kind: str, charset: str) -> None:
    content_type, name = f"{kind}; charset={charset}", charset.strip('"')
    assert isinstance(verdict(ERROR.encode(name), None, content_type), RejectedError)
    assert_sent(verdict(SUCCESS.encode(name), None, content_type))
    assert_sent(verdict(TEXT.encode(name), None, content_type), TEXT)


@pytest.mark.parametrize("charset", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_an_undeclared_charset_is_detected_by_the_first_bytes(charset: str) -> None:
    assert isinstance(verdict(ERROR.encode(charset), None, "application/json"), RejectedError)
    assert_sent(verdict(SUCCESS.encode(charset), None, "application/json"))


def test_undeclared_text_may_be_latin_1() -> None:
    assert_sent(verdict(TEXT.encode("latin-1"), None, "text/plain"), TEXT)


@pytest.mark.parametrize(
    ("body", "charset"),
    [
        *((SUCCESS.encode(), name) for name in ("klingon", "hex", "zip", "rot13", "x" * 5000)),
        (TEXT.encode("latin-1"), "utf-8"),
        (SUCCESS.encode("utf-16-le")[:-1], "utf-16-le"),
        (JUNK, None),
        (gzipped(SUCCESS.encode()), None),
    ],
)
def test_a_2xx_in_an_unreadable_charset_may_have_been_processed(
    body: bytes, charset: str | None
) -> None:
    content_type = "text/plain" + ("" if charset is None else f"; charset={charset}")
    assert_unreadable(verdict(body, None, content_type), "charset")


@pytest.mark.parametrize("charset", ["", "; charset=utf-8"])
def test_odd_bytes_inside_json_do_not_hide_what_it_says(charset: str) -> None:
    content_type = f"text/plain{charset}"
    assert isinstance(verdict(ERROR.encode("latin-1"), None, content_type), RejectedError)
    sent = verdict(b'{"status":"success","message":"M\xfcller"}', None, content_type)
    assert isinstance(sent, Receipt)
    assert sent.body["status"] == "success"


@pytest.mark.parametrize("charset", ["utf-16", "utf-32", "utf-16-be", "iso-8859-1"])
def test_json_in_utf_8_is_read_even_if_another_charset_is_declared(charset: str) -> None:
    content_type = f"application/json; charset={charset}"
    for space in ("", " ", "  ", "   "):
        error = verdict((ERROR + space).encode(), None, content_type)
        assert isinstance(error, RejectedError)
        assert "für" in error.message
        assert_sent(verdict((SUCCESS + space).encode(), None, content_type))


def test_a_letter_that_the_limit_cuts_is_not_a_fault() -> None:
    for size in range(MAX_BODY_BYTES - 3, MAX_BODY_BYTES + 1):
        assert isinstance(verdict(b"x" * size + "ü€".encode()), Receipt)


_CODINGS = st.lists(st.sampled_from(["gzip", "deflate", "identity", "br", ""]) | st.text()).map(
    ", ".join
)
_CHARSETS = st.sampled_from(sorted(set(encodings.aliases.aliases.values()))) | st.text()


@given(
    st.binary() | st.text().map(str.encode) | st.binary().map(gzipped),
    st.none() | _CODINGS,
    st.none() | _CHARSETS.map("text/plain; charset={}".format),
    st.booleans(),
)
@example(b"\\d", None, "text/plain; charset=unicode_escape", True)  # noqa: FBT003
@example(b"xn--" + b"a" * 60_000, None, "text/plain; charset=idna", True)  # noqa: FBT003
@example(b"\\", None, "text/plain; charset=undefined", True)  # noqa: FBT003
def test_every_body_is_decoded_or_its_fault_named(
    body: bytes, coding: str | None, content_type: str | None, whole: bool
) -> None:
    text, undecodable = decode(body, coding, parse_charset(content_type or ""), whole=whole)
    text.decode()
    assert len(text) <= 3 * MAX_BODY_BYTES
    found = parse_response(200, {}, text, undecodable=undecodable)
    if undecodable is not None:
        assert isinstance(found, UnexpectedResponseError | RejectedError)
        assert found.message.isprintable()
