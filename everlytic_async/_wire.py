"""The endpoint's wire, as pure functions: an `Order` to bytes; an answer to a verdict.

Nothing here opens a connection, waits, or counts. The table of verdicts:

==================================================================  ================================
answer                                                              verdict
==================================================================  ================================
2xx, a JSON object whose ``status`` or ``result`` is an error word  `RejectedError`
2xx, HTML (a login page, a proxy)                                   `UnexpectedResponseError`
2xx, its content coding or charset can't be decoded                 `UnexpectedResponseError`
any other 2xx: JSON, text or empty                                  `Receipt`
401                                                                 `AuthenticationError`
408, 429; 503 within 2 s of the body being sent                     `ThrottledError`
any 3xx; any other 4xx                                              `RejectedError`
any other 5xx; a later 503                                          `ServerError`
anything else                                                       `UnexpectedResponseError`
==================================================================  ================================

Sources: the documentation shows no answer of this endpoint; the contact-sync endpoint answers
``{"status":"success"}``, others of the vendor ``{"result":"success"}``,
``{"status":"error","data":{"messages":[...]}}``, or a bare JSON string.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
import time
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import attrs
import orjson
from cattrs.fns import identity
from cattrs.gen import make_dict_unstructure_fn, override
from cattrs.preconf.orjson import make_converter

from everlytic_async.errors import (
    AuthenticationError,
    EverlyticError,
    RejectedError,
    ServerError,
    ThrottledError,
    UnexpectedResponseError,
    redact_emails,
)
from everlytic_async.orders import Order, Product, plain
from everlytic_async.outcomes import Receipt

#: The endpoint, below the address of the install.
PATH = "/servlet/e-commerce/orders"
#: The header names of the two hashes.
STORE_HASH_HEADER = "x-ev-store-hash"
CUSTOMER_HASH_HEADER = "x-ev-customer-hash"
#: No more of an answer than this is read.
MAX_BODY_BYTES = 64 * 1024

_OK = 200
_UNAUTHORIZED = 401
_UNAVAILABLE = 503
_THROTTLED = frozenset({408, 429, _UNAVAILABLE})
# A busy server refuses immediately. A 503 that took longer comes from a gateway that had passed the
# order on and gave up waiting for the answer (Varnish does so after its first-byte time-out).
_REFUSED_WITHIN_S = 2.0
_ERROR_WORDS = frozenset(
    {
        "error",
        "errors",
        "fail",
        "failed",
        "failure",
        "invalid",
        "rejected",
        "denied",
        "unauthorized",
    }
)
_MAX_MESSAGE = 300
_SAID_ALREADY = frozenset({"status", "result", "code"})  # nothing beyond the verdict itself
_HTML = re.compile(
    rb"\s*(?:<\?xml[^>]*>\s*)?<(?:!doctype|html|head|body|title|meta|script|!--)", re.IGNORECASE
)
_BOM = b"\xef\xbb\xbf"
# What zlib is told: for gzip, for deflate as RFC 9110 has it, and as some servers send it.
_GZIP, _ZLIB, _DEFLATE = zlib.MAX_WBITS | 16, zlib.MAX_WBITS, -zlib.MAX_WBITS
_WINDOWS = {"gzip": (_GZIP,), "x-gzip": (_GZIP,), "deflate": (_ZLIB, _DEFLATE)}
# Some servers write the charset where the coding belongs.
_NOT_CODED = frozenset({"", "identity", "utf-8"})
_MAX_CODINGS = 5
_CHARSET = re.compile(r"charset\s*=\s*\"?([\w.:+-]+)", re.IGNORECASE)
_MAX_CHARSET = 40
# Codecs for Python's own use.
_NO_CHARSETS = frozenset({"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"})
# Letters of ASCII are the same in these.
_LIKE_ASCII = frozenset({"utf-8", "us-ascii", "iso-8859-1", "windows-1252"})
# Not in a text in Latin-1, except for white space and the escape that begins a colour.
_NO_TEXT = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_MAX_RETRY_AFTER_S = 1e9  # finite, and longer than anybody waits
# An object that was cut, or is broken further on, still says what it is about at its beginning.
_BEGINS_WITH_A_WORD = re.compile(r'\{\s*"(status|result)"\s*:\s*"([^"\\]{1,40})"')
# A name of the customer as short as this is hidden only where it stands alone: id 7 is not in 175.
_SHORT = 3
_LOOKS_LIKE_A_PAIR = re.compile(r"@[0-9]*$")
_SECONDS = re.compile(r"\s*\+?([0-9]+(?:\.[0-9]*)?)\s*")


# ------------------------------------------------------------------------------ order to bytes


def _exact(value: object) -> orjson.Fragment:
    """Write, digit by digit, a number that orjson would refuse: exact, huge, or a subclass."""
    if isinstance(value, Decimal | int | float):
        return orjson.Fragment(plain(value))
    raise TypeError(f"not a value of an order: {type(value).__name__}")


def _to_wire() -> Callable[[Order], dict[str, Any]]:
    """Make what writes an order as the JSON object that goes out, with nothing unset in it."""
    converter = make_converter()

    def writer(model: type, **hooks: Callable[[Any], Any]) -> Callable[[Any], dict[str, Any]]:
        # The models hold only what JSON holds (and Decimals): their values go out as they are.
        names = (field.name for field in attrs.fields(model))
        overrides: Any = {name: override(unstruct_hook=hooks.get(name, identity)) for name in names}
        return make_dict_unstructure_fn(model, converter, _cattrs_omit_if_default=True, **overrides)

    product = writer(Product)
    return writer(Order, products=lambda products: [product(one) for one in products])


_ORDER_TO_WIRE = _to_wire()


def encode(order: Order) -> bytes:
    """The JSON body of a trigger: documented names, nothing unset, exact digits."""
    wire = _ORDER_TO_WIRE(order)
    try:
        return orjson.dumps(wire, default=_exact)
    except orjson.JSONEncodeError:
        # The one thing a valid order may hold that orjson refuses without asking `default`.
        for product in wire["products"]:
            product.update(
                {name: _exact(value) for name, value in product.items() if isinstance(value, int)}
            )
        return orjson.dumps(wire, default=_exact)


def order_key(order: Order, body: bytes) -> str:
    """What names a trigger: its order id and workflow id, else a digest of its body.

    ``1001`` is order 1001 with no workflow given, ``1001@32`` the same in workflow 32. No two
    different pairs share a key: an order id that itself looks so gets a closing ``@``.
    """
    if order.order_id is None:
        return f"sha256:{hashlib.sha256(body).hexdigest()[:32]}"
    name = str(order.order_id)
    if order.workflow_id is not None:
        return f"{name}@{order.workflow_id}"
    return f"{name}@" if _LOOKS_LIKE_A_PAIR.search(name.rstrip()) else name


# ---------------------------------------------------------------------------- bytes to a text


class _UndecodableError(Exception):
    """Says what can't be decoded."""


def decode(
    body: bytes, coding: str | None, content_type: str | None, *, whole: bool = True
) -> tuple[bytes, str | None]:
    """A body as UTF-8, without its content codings: no further than `MAX_BODY_BYTES`.

    Args:
        body: As it came.
        coding: The Content-Encoding.
        content_type: The Content-Type, for its charset.
        whole: Whether the body is all that was sent; else it may end anywhere.

    Returns:
        What could be read, and what can't be decoded: None where all can.
    """
    if not coding and b"\0" not in body and body.isascii():
        charset = _declared(content_type)
        if charset is None or charset in _LIKE_ASCII:
            return body, None  # the rule
    try:
        if coding:
            body, whole = _without_codings(body, coding, whole=whole)
    except _UndecodableError as error:
        return b"", str(error)
    if not body:
        return body, None
    text, fault = _as_unicode(body, _declared(content_type), whole=whole)
    return text.encode("utf-8", "replace"), fault


def _without_codings(body: bytes, coding: str, *, whole: bool) -> tuple[bytes, bool]:
    """Undo the codings, last first (RFC 9110, 8.4); whether the rest is whole."""
    names = [name.strip().lower() for name in coding.split(",")]
    if len(names) > _MAX_CODINGS:
        raise _UndecodableError(f"{len(names)} content codings")
    for name in reversed(names):
        if name in _NOT_CODED or not body:
            continue
        fault = f"the content coding {_line(name)[:_MAX_CHARSET]!r}"
        for window in _WINDOWS.get(name, ()):
            try:
                body, whole = _inflate(body, window, whole=whole)
                break
            except zlib.error:
                continue
        else:
            raise _UndecodableError(fault)
    return body, whole


def _inflate(body: bytes, window: int, *, whole: bool) -> tuple[bytes, bool]:
    """Undo one coding, no further than `MAX_BODY_BYTES`; whether the rest is whole.

    Raises:
        zlib.error: it is something else, or is cut short though it was whole.
    """
    inflated = b""
    while len(inflated) < MAX_BODY_BYTES:
        unpack = zlib.decompressobj(window)
        inflated += unpack.decompress(body, MAX_BODY_BYTES - len(inflated))
        if not unpack.eof:
            if whole and len(inflated) < MAX_BODY_BYTES:
                raise zlib.error("it ends too early")
            return inflated, False
        body = unpack.unused_data  # a gzip file may have several members
        if not body:
            return inflated, whole
    return inflated, False


def _declared(content_type: str | None) -> str | None:
    found = _CHARSET.search(content_type) if content_type else None
    return None if found is None else found[1].lower()


def _as_unicode(body: bytes, declared: str | None, *, whole: bool) -> tuple[str, str | None]:
    """The text, and which charset can't be decoded: None where it can."""
    # A byte order mark, or the zeros between the letters of JSON (RFC 4627, 3), show UTF-16 and 32.
    detected = json.detect_encoding(body)
    charset = (declared or detected) if detected == "utf-8" else detected
    fault = f"the charset {charset[:_MAX_CHARSET]!r}"
    try:
        text = _strictly(body, charset[: _MAX_CHARSET + 1], whole=whole)
    except LookupError:
        return "", fault
    except ValueError:
        guessed = declared is None and charset == "utf-8"
        # Latin-1 was the default of HTTP, and any byte is a letter of it.
        text = body.decode("latin-1") if guessed else body.decode("utf-8", "replace")
        if isinstance(_parse(text.encode()), dict):
            return text, None  # bytes outside of the charset don't hide the words around them
        if guessed:
            return text, "its charset" if _NO_TEXT.search(text) else None
        return text, fault
    if detected == "utf-8" != charset and _is_json_object(body):
        return body.decode(), None  # it is not what was declared
    return text, None


def _is_json_object(body: bytes) -> bool:
    try:
        return isinstance(orjson.loads(body), dict)
    except ValueError:
        return False


def _strictly(body: bytes, charset: str, *, whole: bool) -> str:
    if codecs.lookup(charset).name in _NO_CHARSETS:
        raise LookupError(charset)
    try:
        return body.decode(charset)
    except UnicodeDecodeError as error:
        if whole or error.start < len(body) - 4:
            raise
        return body[: error.start].decode(charset)  # the cut went through a letter


# ------------------------------------------------------------------------- answer to a verdict


def judge(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    waited_s: float = 0.0,
    undecodable: str | None = None,
    attempts: int = 1,
    elapsed_s: float = 0.0,
    hide: Iterable[str | int | None] = (),
    wall_clock: Callable[[], float] = time.time,
) -> Receipt | EverlyticError:
    """What a complete answer means, by the table above.

    Args:
        status: The HTTP status.
        headers: The answer's headers; names are looked up as ``Retry-After`` is written here.
        body: The answer's body, up to `MAX_BODY_BYTES`.
        waited_s: Seconds from the moment when the body had been sent to the answer.
        undecodable: Which coding or charset of the body can't be decoded; None where all can.
        attempts: For the receipt: how many POSTs it took.
        elapsed_s: For the receipt: how long it took.
        hide: Who the customer is, not to be repeated in a message should the answer name them.
        wall_clock: Seconds since the epoch, for a Retry-After that is a date where the answer has
            no date of its own.
    """
    if _OK <= status < 300:  # noqa: PLR2004
        return _judge_success(
            Receipt(status, _parse(body), attempts, elapsed_s, headers), body, undecodable, hide
        )
    # A page's own words are for a browser.
    is_page = _is_html(body)
    said = "" if is_page else _said(_parse(body), hide)
    page = ": it answered with an HTML page, the address is probably wrong" if is_page else ""
    if status in _THROTTLED:
        wait_s = retry_after_s(headers.get("Retry-After"), wall_clock, headers.get("Date"))
        asked = "" if wait_s is None else f" and asked to wait {_digits(wait_s)} s"
        if status == _UNAVAILABLE and waited_s > _REFUSED_WITHIN_S:
            return ServerError(
                f"the endpoint answered {status} only after {waited_s:.1f} s{asked}: a gateway "
                f"may have passed the order on, so it may have been processed{said}",
                status,
                wait_s,
            )
        return ThrottledError(
            f"the endpoint was too busy: it answered {status}{asked}{said}", status, wait_s
        )
    if status == _UNAUTHORIZED:
        return AuthenticationError(
            "the endpoint refused the hashes (401): check the store hash and the customer hash "
            f"against the store's page in Everlytic{page or said}",
            status,
        )
    if 300 <= status < 400:  # noqa: PLR2004
        return RejectedError(
            f"the endpoint redirected ({status}) to {_host(headers.get('Location'), hide)}: not "
            "followed, for the hashes would go along; set base_url to the address of the install",
            status,
        )
    if 400 <= status < 500:  # noqa: PLR2004
        return RejectedError(f"the endpoint refused the order ({status}){page or said}", status)
    if 500 <= status < 600:  # noqa: PLR2004
        return ServerError(
            f"the endpoint failed ({status}), perhaps after it had acted{page or said}", status
        )
    return UnexpectedResponseError(f"the endpoint answered with the odd status {status}", status)


def _judge_success(
    receipt: Receipt,
    body: bytes,
    undecodable: str | None,
    hide: Iterable[str | int | None],
) -> Receipt | EverlyticError:
    status, parsed = receipt.status, receipt.body
    for name, word in _words(parsed):
        if isinstance(word, str) and word.strip().lower() in _ERROR_WORDS:
            return RejectedError(
                f"the endpoint answered {status} with {name} {word.strip().lower()!r}"
                f"{_said(parsed, hide)}",
                status,
            )
    if undecodable is not None:
        return UnexpectedResponseError(
            f"the endpoint answered {status} in a form that can't be read ({undecodable}), so it "
            "may have been processed: a proxy on the way may have changed the answer",
            status,
        )
    if isinstance(parsed, str) and (
        _is_html(body)
        or ("<" in parsed and "html" in receipt.headers.get("Content-Type", "").lower())
    ):
        return UnexpectedResponseError(
            f"the endpoint answered {status} with an HTML page (a login page or a proxy?): "
            "base_url is probably not the address of the install",
            status,
        )
    return receipt


def retry_after_s(
    value: str | None, wall_clock: Callable[[], float] = time.time, date: str | None = None
) -> float | None:
    """Seconds that a Retry-After header asks for; None where it is absent or makes no sense.

    Seconds or an HTTP-date (RFC 9110, 10.2.3); a date that has passed is 0.

    Args:
        value: The header's value.
        wall_clock: Our clock: seconds since the epoch.
        date: The answer's own ``Date``: by the same clock as the Retry-After, which ours need not
            agree with.
    """
    if value is None:
        return None
    if (seconds := _SECONDS.fullmatch(value)) is not None:
        return min(float(seconds[1]), _MAX_RETRY_AFTER_S)
    until = _epoch_s(value)
    if until is None:
        return None
    now = None if date is None else _epoch_s(date)
    return min(max(0.0, until - (wall_clock() if now is None else now)), _MAX_RETRY_AFTER_S)


def _epoch_s(http_date: str) -> float | None:
    """Seconds since the epoch; None where it is not a date."""
    try:
        date = parsedate_to_datetime(http_date.strip())
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _digits(seconds: float) -> str:
    """All of them: 1234567, and 0.5."""
    return f"{seconds:.3f}".rstrip("0").removesuffix(".")


def _parse(body: bytes) -> Any:
    """The parsed JSON, else the text, else None for an empty body."""
    try:
        return orjson.loads(body)
    except ValueError:
        pass  # not strict JSON: perhaps lax JSON (NaN, odd bytes), perhaps text, perhaps nothing
    text = body.removeprefix(_BOM).decode("utf-8", "replace").strip()
    if not text:
        return None
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return text


def _words(parsed: Any) -> Iterable[tuple[str, Any]]:
    """What the answer says of itself, by name."""
    if isinstance(parsed, dict):
        return [(name, parsed.get(name)) for name in ("status", "result")]
    begin = _BEGINS_WITH_A_WORD.match(parsed) if isinstance(parsed, str) else None
    return [] if begin is None else [(begin[1], begin[2])]


def _is_html(body: bytes) -> bool:
    return _HTML.match(body.removeprefix(_BOM)) is not None


def _said(parsed: Any, hide: Iterable[str | int | None]) -> str:
    """The endpoint's own words, as the end of a sentence; nothing where it had none."""
    words = _message(parsed)
    if not words and parsed and not (isinstance(parsed, dict) and parsed.keys() <= _SAID_ALREADY):
        words = _as_text(parsed)
        names = [str(name) for name in hide if name is not None]
        hide = [*names, *(_as_text(name)[1:-1] for name in names)]
    words = _for_a_message(words, hide)
    return f": {words}" if words else ""


def _as_text(parsed: Any) -> str:
    """JSON, with each letter as itself: an escaped one would not be known for the customer's."""
    try:
        return json.dumps(parsed, ensure_ascii=False)
    except RecursionError:
        return ""


def _for_a_message(words: str, hide: Iterable[str | int | None]) -> str:
    """What a server said as one short line that names neither the customer nor anybody else."""
    line = _line(words)
    for value in hide:
        name = "" if value is None else _line(str(value))
        if name:
            pattern = re.escape(name)
            if len(name) <= _SHORT:
                pattern = rf"(?<!\w){pattern}(?!\w)"
            line = re.sub(pattern, "[the contact]", line, flags=re.IGNORECASE)
    line = redact_emails(line)
    # Cut last, so that no piece of a name is left at the cut.
    return line if len(line) <= _MAX_MESSAGE else f"{line[:_MAX_MESSAGE]}..."


def _line(text: str) -> str:
    """Text as one line, without invisible characters: they would hide an address."""
    line = " ".join(text.split())
    if line.isprintable():
        return line
    return " ".join("".join(map(_visible, line)).split())


def _visible(char: str) -> str:
    if char.isprintable():
        return char
    return "" if unicodedata.category(char) == "Cf" else " "


def _message(parsed: Any) -> str:
    """Look for a message where the vendor's endpoints and common frameworks put it."""
    if isinstance(parsed, str):
        return parsed
    if not isinstance(parsed, dict):
        return ""
    data, error = parsed.get("data"), parsed.get("error")
    messages = data.get("messages") if isinstance(data, dict) else None
    places = [
        parsed.get("message"),
        *(messages if isinstance(messages, list) else [messages]),
        error.get("message") if isinstance(error, dict) else error,
    ]
    return "; ".join(place for place in places if isinstance(place, str) and place.strip())


def _host(location: str | None, hide: Iterable[str | int | None]) -> str:
    """Where a redirect points, no further than the host: a path or query may hold anything."""
    try:
        host = urlsplit(location or "").hostname
    except ValueError:
        host = None
    return _for_a_message(host or "", hide) or "another path of the same host"
