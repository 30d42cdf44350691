"""An answer counts only as far as it can be read: content codings and charsets."""

from __future__ import annotations

import encodings.aliases
import gzip
import json
import random
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from everlytic_async import (
    EverlyticError,
    Receipt,
    RejectedError,
    UnexpectedResponseError,
)
from everlytic_async._response import parse_response
from everlytic_async._response_body import MAX_BODY_BYTES, decode
from everlytic_async._secrets import Secrets
from everlytic_async._transport import Transport
from everlytic_async.policies import Timeouts
from support.delivery import CUSTOMER_HASH, STORE_HASH
from support.servers import Connection, RawServer

SUCCESS = '{"status":"success"}'
ERROR = '{"status":"error","message":"Kein Arbeitsablauf für jo@example.com."}'
TEXT = "Accepted für später."


def gzipped(body: bytes) -> bytes:
    return gzip.compress(body, mtime=0)  # the same in every process: it names a test


def deflated(body: bytes, window: int) -> bytes:
    packer = zlib.compressobj(wbits=window)
    return packer.compress(body) + packer.flush()


def raw(body: bytes) -> bytes:
    return deflated(body, -zlib.MAX_WBITS)


async def verdict_on(
    body: bytes, *headers: str, status: int = 200, hashes: tuple[str, str] | None = None
) -> Receipt | EverlyticError:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.answer(status, body, *headers)

    async with RawServer(script) as server:
        transport = Transport(
            server.url,
            secrets=Secrets(*(hashes or (STORE_HASH, CUSTOMER_HASH))),
            timeouts=Timeouts(read_s=5),
        )
        await transport.open()
        try:
            answer = await transport.post(b"{}")
        finally:
            await transport.close()
    return parse_response(
        answer.status, answer.headers, answer.body, undecodable=answer.undecodable
    )


CODINGS = {
    "identity": lambda body: body,
    "gzip": gzipped,
    "GZip": gzipped,
    "x-gzip": gzipped,
    "deflate": zlib.compress,
    "Deflate": raw,
    "gzip, gzip": lambda body: gzipped(gzipped(body)),
    "deflate,x-gzip": lambda body: gzipped(zlib.compress(body)),
    " gzip ,identity, deflate": lambda body: raw(gzipped(body)),
    "gzip ": lambda body: gzipped(body[:5]) + gzipped(body[5:]),
    "utf-8": lambda body: body,  # some servers put the charset here
}


@pytest.mark.parametrize("coding", CODINGS)
async def test_what_the_standard_library_decodes_is_read(coding: str) -> None:
    pack, header = CODINGS[coding], f"Content-Encoding: {coding}"
    sent = await verdict_on(pack(SUCCESS.encode()), header)
    assert isinstance(sent, Receipt)
    assert sent.body == {"status": "success"}
    assert isinstance(await verdict_on(pack(ERROR.encode()), header), RejectedError)
    empty = await verdict_on(b"", header)
    assert isinstance(empty, Receipt)
    assert empty.body is None


@pytest.mark.parametrize("end", [SUCCESS, ERROR])
async def test_two_headers_are_one_chain(end: str) -> None:
    body = zlib.compress(gzipped(end.encode()))
    verdict = await verdict_on(body, "Content-Encoding: gzip", "Content-Encoding: deflate")
    assert isinstance(verdict, Receipt if end is SUCCESS else RejectedError)


JUNK = random.Random(1).randbytes(200)


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (JUNK, "br"),
        (JUNK, "zstd"),
        (SUCCESS.encode(), "br"),
        (SUCCESS.encode(), "compress"),
        (SUCCESS.encode(), "gzip"),
        (SUCCESS.encode(), "deflate"),
        (JUNK, "gzip"),
        (gzipped(SUCCESS.encode()), "br, gzip"),
        (gzipped(SUCCESS.encode()), "gzip, br"),
        (gzipped(SUCCESS.encode()), "gzip, gzip"),
        (gzipped(SUCCESS.encode())[:-9], "gzip"),
        (gzipped(SUCCESS.encode())[:12], "gzip"),
        (gzipped(SUCCESS.encode()) + JUNK, "gzip"),
        (zlib.compress(SUCCESS.encode())[:-1], "deflate"),
        (SUCCESS.encode(), ", ".join(["gzip"] * 500)),
        (SUCCESS.encode(), "\x1b[31mred"),
    ],
)
async def test_a_success_that_cannot_be_decoded_may_have_been_processed(
    body: bytes, coding: str
) -> None:
    verdict = await verdict_on(body, f"Content-Encoding: {coding}")
    assert isinstance(verdict, UnexpectedResponseError)
    assert verdict.may_have_been_processed
    assert "content coding" in verdict.message
    assert verdict.message.isprintable()
    assert len(verdict.message) < 300


@pytest.mark.parametrize("coding", ["br", "gzip", "gzip, gzip"])
@pytest.mark.parametrize("status", [401, 422, 429, 503])
async def test_another_status_is_the_verdict_whatever_it_is_coded_in(
    status: int, coding: str
) -> None:
    verdict = await verdict_on(JUNK, f"Content-Encoding: {coding}", status=status)
    assert isinstance(verdict, EverlyticError)
    assert not verdict.may_have_been_processed


@pytest.mark.parametrize("layers", [1, 2, 3])
async def test_a_bomb_does_not_unfold_without_bounds(layers: int) -> None:
    bomb = b'{"status":"error","message":"' + b"x" * 30_000_000
    for _ in range(layers):
        bomb = gzipped(bomb)
    verdict = await verdict_on(bomb, f"Content-Encoding: {', '.join(['gzip'] * layers)}")
    assert isinstance(verdict, RejectedError)
    assert len(verdict.message) < 1000


CHARSETS = ["utf-8", '"UTF-8"', "utf-16", "utf-16-le", "utf-16-be", "utf-32", "iso-8859-1", "cp500"]


@pytest.mark.parametrize("charset", CHARSETS)
@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
async def test_a_known_charset_is_read(kind: str, charset: str) -> None:
    header = f"Content-Type: {kind}; charset={charset}"
    name = charset.strip('"')
    assert isinstance(await verdict_on(ERROR.encode(name), header), RejectedError)
    sent = await verdict_on(SUCCESS.encode(name), header)
    assert isinstance(sent, Receipt)
    assert sent.body == {"status": "success"}
    text = await verdict_on(TEXT.encode(name), header)
    assert isinstance(text, Receipt)
    assert text.body == TEXT


@pytest.mark.parametrize("charset", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
async def test_an_undeclared_charset_shows_by_its_first_bytes(charset: str) -> None:
    header = "Content-Type: application/json"
    assert isinstance(await verdict_on(ERROR.encode(charset), header), RejectedError)
    sent = await verdict_on(SUCCESS.encode(charset), header)
    assert isinstance(sent, Receipt)
    assert sent.body == {"status": "success"}


@pytest.mark.parametrize(
    ("body", "charset"),
    [
        (SUCCESS.encode(), "klingon"),
        (SUCCESS.encode(), "hex"),
        (SUCCESS.encode(), "zip"),
        (SUCCESS.encode(), "rot13"),
        (SUCCESS.encode(), "x" * 5000),
        (TEXT.encode("latin-1"), "utf-8"),
        (SUCCESS.encode("utf-16-le")[:-1], "utf-16-le"),
        (JUNK, None),
        (gzipped(SUCCESS.encode()), None),
    ],
)
async def test_a_success_in_an_unreadable_charset_may_have_been_processed(
    body: bytes, charset: str | None
) -> None:
    header = "Content-Type: text/plain" + ("" if charset is None else f"; charset={charset}")
    verdict = await verdict_on(body, header)
    assert isinstance(verdict, UnexpectedResponseError)
    assert "charset" in verdict.message
    assert len(verdict.message) < 300


@pytest.mark.parametrize("charset", [None, "utf-8"])
async def test_odd_bytes_inside_of_json_do_not_hide_what_it_says(charset: str | None) -> None:
    header = "Content-Type: text/plain" + ("" if charset is None else f"; charset={charset}")
    assert isinstance(await verdict_on(ERROR.encode("latin-1"), header), RejectedError)
    sent = await verdict_on(b'{"status":"success","message":"M\xfcller"}', header)
    assert isinstance(sent, Receipt)
    assert sent.body["status"] == "success"


@pytest.mark.parametrize("charset", ["utf-16", "utf-32", "utf-16-be", "iso-8859-1"])
@pytest.mark.parametrize("space", ["", " ", "  ", "   "])
async def test_json_in_utf_8_is_read_whatever_is_declared(charset: str, space: str) -> None:
    header = f"Content-Type: application/json; charset={charset}"
    error = await verdict_on((ERROR + space).encode(), header)
    assert isinstance(error, RejectedError)
    assert "für" in error.message
    assert isinstance(await verdict_on((SUCCESS + space).encode(), header), Receipt)


async def test_undeclared_text_may_be_latin_1() -> None:
    verdict = await verdict_on(TEXT.encode("latin-1"), "Content-Type: text/plain")
    assert isinstance(verdict, Receipt)
    assert verdict.body == TEXT


async def test_a_letter_that_the_limit_cuts_is_no_fault() -> None:
    for size in range(MAX_BODY_BYTES - 3, MAX_BODY_BYTES + 1):
        verdict = await verdict_on(b"x" * size + "ü€".encode())
        assert isinstance(verdict, Receipt)


@pytest.mark.parametrize("charset", ["utf-16", "utf-32", "cp500", "utf-7"])
async def test_a_hash_is_hidden_in_every_charset(charset: str) -> None:
    body = json.dumps({"status": "error", "message": f"wrong: {STORE_HASH}, {CUSTOMER_HASH}"})
    verdict = await verdict_on(body.encode(charset), f"Content-Type: a/b; charset={charset}")
    assert isinstance(verdict, RejectedError)
    assert verdict.message.endswith("wrong: [hash], [hash]")


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
def test_whatever_comes_is_decoded_or_named(
    body: bytes, coding: str | None, content_type: str | None, whole: bool
) -> None:
    text, fault = decode(body, coding, content_type, whole=whole)
    text.decode()
    assert len(text) <= 3 * MAX_BODY_BYTES
    verdict = parse_response(200, {}, text, undecodable=fault)
    if fault is not None:
        assert isinstance(verdict, UnexpectedResponseError | RejectedError)
        assert verdict.message.isprintable()
