"""A response's body: how much of it is read, and what its content coding and charset are.

A server may send anything. Nothing here raises, and nothing grows beyond `MAX_BODY_BYTES`.
"""

from __future__ import annotations

import codecs
import json
import re
import zlib

import orjson

from everlytic_async.errors import printable

#: No more of a response's body than this is read or decompressed.
MAX_BODY_BYTES = 64 * 1024

# zlib's window argument: for gzip, for deflate by RFC 9110, and for deflate as some servers send it
_GZIP, _ZLIB, _DEFLATE = zlib.MAX_WBITS | 16, zlib.MAX_WBITS, -zlib.MAX_WBITS
_WINDOWS = {"gzip": (_GZIP,), "x-gzip": (_GZIP,), "deflate": (_ZLIB, _DEFLATE)}
_NOT_CODED = frozenset({"", "identity", "utf-8"})  # some servers write the charset there
_MAX_CODINGS = 5
_CHARSET = re.compile(r"charset\s*=\s*\"?([\w.:+-]+)", re.IGNORECASE)
_MAX_NAME = 40
_INTERNAL_CODECS = frozenset(
    {"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"}
)
_ASCII_COMPATIBLE = frozenset({None, "utf-8", "us-ascii", "iso-8859-1", "windows-1252"})
# Control characters other than white space and the escape that starts a colour.
_BINARY = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


def parse_charset(content_type: str) -> str | None:
    """The charset that a Content-Type names, in lower case; None if it names none."""
    found = _CHARSET.search(content_type)
    return None if found is None else found[1].lower()


def decode(
    body: bytes, coding: str | None, charset: str | None, *, whole: bool = True
) -> tuple[bytes, str | None]:
    """A body as UTF-8, without its content codings.

    Args:
        body: As it was received.
        coding: The Content-Encoding.
        charset: The charset of the Content-Type; None if it names none.
        whole: Whether the body is complete; else it may end anywhere.

    Returns:
        What could be read, and what can't be decoded: None if all can.
    """
    if not coding and b"\0" not in body and body.isascii() and charset in _ASCII_COMPATIBLE:
        return body, None  # nearly every response
    if coding:
        names = [name.strip().lower() for name in coding.split(",")]
        if len(names) > _MAX_CODINGS:
            return b"", f"{len(names)} content codings"
        for name in reversed(names):  # the last one comes off first (RFC 9110, 8.4)
            try:
                body, whole = _decompress(body, name, whole=whole)
            except zlib.error:
                return b"", f"the content coding {printable(name)[:_MAX_NAME]!r}"
    text, fault = _to_text(body, charset, whole=whole)
    return text.encode("utf-8", "replace"), fault


def _decompress(body: bytes, name: str, *, whole: bool) -> tuple[bytes, bool]:
    """Undo one coding; whether the rest is whole.

    Raises:
        zlib.error: it is unknown, or another one, or a whole body ends too early.
    """
    if name in _NOT_CODED or not body:
        return body, whole
    for window in _WINDOWS.get(name, ()):
        try:
            return _inflate(body, window, whole=whole)
        except zlib.error:
            continue
    raise zlib.error(name)


def _inflate(body: bytes, window: int, *, whole: bool) -> tuple[bytes, bool]:
    inflated = b""
    while body and len(inflated) < MAX_BODY_BYTES:  # a gzip file may have several members
        unpack = zlib.decompressobj(window)
        inflated += unpack.decompress(body, MAX_BODY_BYTES - len(inflated))
        if not unpack.eof:
            if whole and len(inflated) < MAX_BODY_BYTES:
                raise zlib.error("it ends too early")
            return inflated, False
        body = unpack.unused_data
    return inflated, whole and not body


def _to_text(body: bytes, declared: str | None, *, whole: bool) -> tuple[str, str | None]:
    """The text, and which charset can't be decoded: None if it can."""
    # A byte order mark, or the zeros between the letters of JSON (RFC 4627, 3), show UTF-16 and 32.
    detected = json.detect_encoding(body)
    charset = (declared or detected) if detected == "utf-8" else detected
    fault = f"the charset {charset[:_MAX_NAME]!r}"
    try:
        text = _decode_strictly(body, charset[: _MAX_NAME + 1], whole=whole)
    except LookupError:
        return "", fault
    except ValueError:
        guessed = declared is None and charset == "utf-8"
        # Latin-1 was the default of HTTP, and any byte is a letter of it.
        text = body.decode("latin-1") if guessed else body.decode("utf-8", "replace")
        if _is_json_object(text.encode()):
            return text, None  # invalid bytes don't hide the words around them
        return text, fault if _BINARY.search(text) or not guessed else None
    if detected == "utf-8" != charset and _is_json_object(body):
        return body.decode(), None  # it is not what was declared
    return text, None


def _is_json_object(body: bytes) -> bool:
    try:
        return isinstance(orjson.loads(body), dict)
    except ValueError:
        return False


def _decode_strictly(body: bytes, charset: str, *, whole: bool) -> str:
    if codecs.lookup(charset).name in _INTERNAL_CODECS:
        raise LookupError(charset)
    try:
        return body.decode(charset)
    except UnicodeDecodeError as error:
        if whole or error.start < len(body) - 4:
            raise
        return body[: error.start].decode(charset)  # the cut went through a letter
