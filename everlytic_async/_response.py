"""What a response means: from its status, headers and body to a `Receipt` or an error.

A server may send anything. Nothing here raises, and no body is decompressed beyond
`MAX_BODY_BYTES`, the cap that `_transport` reads by.

==================================================================  ================================
response                                                            verdict
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

Sources: the documentation shows no response of this endpoint; the contact-sync endpoint answers
``{"status":"success"}``, others of the vendor ``{"result":"success"}``,
``{"status":"error","data":{"messages":[...]}}``, or a bare JSON string.
"""

from __future__ import annotations

import codecs
import json
import re
import time
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import attrs
import orjson
from multidict import CIMultiDict

from everlytic_async._retry_after import retry_after_s
from everlytic_async.errors import (
    AuthenticationError,
    EverlyticError,
    RejectedError,
    ServerError,
    ThrottledError,
    UnexpectedResponseError,
    printable,
    redact_emails,
)
from everlytic_async.outcomes import Receipt

if TYPE_CHECKING:
    import aiohttp

    from everlytic_async._direct_post import DirectResponse
    from everlytic_async._secrets import Secrets

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

# A busy server refuses immediately. A 503 that took longer comes from a gateway that had passed the
# order on and gave up waiting for the response (Varnish does so after its first-byte time-out).
_REFUSED_WITHIN_S = 2.0
_ERROR_WORD = re.compile(
    r"\s*(?:errors?|fail(?:ed|ure)?|invalid|rejected|denied|unauthorized)\s*", re.IGNORECASE
)
_MAX_MESSAGE = 300
_STATUS_NAMES = ("status", "result")
_STATUS_ONLY_KEYS = frozenset({"status", "result", "code"})  # they add nothing to the verdict
_BOM = b"\xef\xbb\xbf"
_HTML = re.compile(
    rb"\s*(?:<\?xml[^>]*>\s*)?<(?:!doctype|html|head|body|title|meta|script|!--)", re.IGNORECASE
)
# The status of a JSON object that was cut, or is broken further on.
_LEADING_STATUS = re.compile(r'\{\s*"(status|result)"\s*:\s*"([^"\\]{1,40})"')
# Contact ids this short are redacted only as whole words: "7" must not match inside "175".
_MIN_SUBSTRING_REDACTION = 4


@attrs.frozen(slots=False)
class Response:
    """The response to one POST.

    Attributes:
        status: The HTTP status.
        headers: The response's headers without the hashes; of a redirect only where to.
        body: The body, decoded, cut at `MAX_BODY_BYTES`, without the hashes.
        sent_at: When the order was sent, by the transport's clock; None if that is not known: with
            a session that is mocked.
        waited_s: Seconds from `sent_at` to the response's head, at most.
        stalled_s: Seconds of these in which the event loop stood still: a frozen process, a
            blocking call.
        undecodable: What of the body can't be decoded; None if all can.
    """

    status: int
    headers: Mapping[str, str] = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)
    sent_at: float | None = None
    waited_s: float = 0.0
    stalled_s: float = 0.0
    undecodable: str | None = None


# ------------------------------------------------------------------------ headers and body


class Cleaner:
    """Decodes what was received, and removes the hashes from it.

    Most responses have the headers (a Date stays the same for a second) and the body of the one
    before: those are handed out again, so that a report of a million orders does not hold them a
    million times.
    """

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._raw_headers: object = None
        self._headers: Mapping[str, str] = {}
        self._coding = ""
        self._charset: str | None = None
        self._raw_body: tuple[bytes, bool] | None = None
        self._body: tuple[bytes, str | None] = b"", None

    def clean(
        self, response: aiohttp.ClientResponse | DirectResponse, body: bytes, *, whole: bool
    ) -> tuple[Mapping[str, str], bytes, str | None]:
        """The headers and the body of a response, and what of the body can't be decoded.

        `whole`: whether the body is complete; else it may end anywhere.
        """
        if response.raw_headers != self._raw_headers:
            headers = response.headers
            # A copy that can be pickled.
            redacted = ((name, self._secrets.redact(value)) for name, value in headers.items())
            self._headers = CIMultiDict(redacted)
            self._coding = ", ".join(headers.getall("Content-Encoding", ()))
            self._charset = parse_charset(headers.get("Content-Type", ""))
            self._raw_headers, self._raw_body = response.raw_headers, None
        raw_body = body, whole
        if raw_body != self._raw_body:
            text, undecodable = decode(body, self._coding, self._charset, whole=whole)
            whole = whole and len(text) < MAX_BODY_BYTES
            self._body = self._secrets.redact_body(text, whole=whole), undecodable
            self._raw_body = raw_body
        cleaned = self._headers
        if 300 <= response.status < 400 and "Location" in cleaned:  # noqa: PLR2004
            cleaned = {"Location": cleaned["Location"]}
        return cleaned, *self._body


def parse_charset(content_type: str) -> str | None:
    """The charset that a Content-Type names, in lower case; None if it names none."""
    found = _CHARSET.search(content_type)
    return None if found is None else found[1].lower()


def decode(
    body: bytes, coding: str | None, charset: str | None, *, whole: bool = True
) -> tuple[bytes, str | None]:
    """A body as UTF-8, without its content codings; and what can't be decoded: None if all can.

    The coding is the Content-Encoding, the charset that of the Content-Type.
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


# --------------------------------------------------------------------- the verdict


def parse_response(
    response: Response,
    *,
    attempts: int = 1,
    elapsed_s: float = 0.0,
    redact: Iterable[str | int | None] = (),
    wall_clock: Callable[[], float] = time.time,
) -> Receipt | EverlyticError:
    """What a complete response means, by the table above.

    `attempts` and `elapsed_s` are for the receipt; `redact` is what identifies the customer, which
    no message repeats; `wall_clock`, seconds since the epoch, is for a Retry-After that is a date
    where the response has none of its own.
    """
    status, headers, body = response.status, response.headers, response.body
    parsed = _parse_body(body)
    is_html = isinstance(parsed, str) and _HTML.match(body.removeprefix(_BOM)) is not None
    if 200 <= status < 300:  # noqa: PLR2004
        failure = _find_failure(response, parsed, redact, is_html=is_html)
        return failure or Receipt(status, parsed, attempts, elapsed_s, headers)
    # A page's own words are for a browser.
    message = "" if is_html else _message_suffix(parsed, redact)
    page = ": it answered with an HTML page, the address is probably wrong" if is_html else message
    if status == 413:  # noqa: PLR2004
        page = ": it is larger than the server accepts"
    if status in {408, 429, 503}:
        return _parse_throttle(response, message, wall_clock)
    if status == 401:  # noqa: PLR2004
        return AuthenticationError(
            "the endpoint refused the hashes (401): check the store hash and the customer hash "
            f"against the store's page in Everlytic{page}",
            status,
        )
    if 300 <= status < 400:  # noqa: PLR2004
        return RejectedError(
            f"the endpoint redirected ({status}) to {_redirect_host(headers, redact)}: it was not "
            "followed, because that would pass the hashes on; set base_url to the address of the "
            "install",
            status,
        )
    if 400 <= status < 500:  # noqa: PLR2004
        return RejectedError(f"the endpoint refused the order ({status}){page}", status)
    if 500 <= status < 600:  # noqa: PLR2004
        return ServerError(
            f"the endpoint failed ({status}), perhaps after it had acted{page}", status
        )
    return UnexpectedResponseError(f"the endpoint answered with the odd status {status}", status)


def _find_failure(
    response: Response, parsed: Any, redact: Iterable[str | int | None], *, is_html: bool
) -> EverlyticError | None:
    """Why a 2xx is not a success; None if it is."""
    status = response.status
    fields = parsed if isinstance(parsed, dict) else _leading_status(parsed)
    for name in _STATUS_NAMES:
        value = fields.get(name)
        if isinstance(value, str) and _ERROR_WORD.fullmatch(value):
            message = _message_suffix(parsed, redact)
            word = value.strip().lower()
            return RejectedError(
                f"the endpoint answered {status} with {name} {word!r}{message}", status
            )
    if response.undecodable is not None:
        return UnexpectedResponseError(
            f"the endpoint answered {status} in a form that can't be read "
            f"({response.undecodable}), so it may have been processed: a proxy on the way may have "
            "changed the response",
            status,
        )
    if isinstance(parsed, str) and not is_html:
        is_html = "<" in parsed and "html" in response.headers.get("Content-Type", "").lower()
    if is_html:
        return UnexpectedResponseError(
            f"the endpoint answered {status} with an HTML page (a login page or a proxy?): "
            "base_url is probably not the address of the install",
            status,
        )
    return None


def _parse_throttle(
    response: Response, message: str, wall_clock: Callable[[], float]
) -> EverlyticError:
    status, headers, waited_s = response.status, response.headers, response.waited_s
    wait_s = retry_after_s(headers.get("Retry-After"), wall_clock, headers.get("Date"))
    asked = "" if wait_s is None else f" and asked to wait {_format_seconds(wait_s)} s"
    if status == 503 and waited_s > _REFUSED_WITHIN_S:  # noqa: PLR2004
        late = f" only after {waited_s:.1f} s{asked}"
        if waited_s - response.stalled_s <= _REFUSED_WITHIN_S:
            late = (
                f"{asked}, but this process stood still for {response.stalled_s:.1f} s, so when "
                f"the {status} came is not known"
            )
        return ServerError(
            f"the endpoint answered {status}{late}: a gateway may have passed the order on, so it "
            f"may have been processed{message}",
            status,
            wait_s,
        )
    return ThrottledError(
        f"the endpoint was too busy: it answered {status}{asked}{message}", status, wait_s
    )


def _format_seconds(seconds: float) -> str:
    """Every digit: 1234567, and 0.5."""
    return f"{seconds:.3f}".rstrip("0").removesuffix(".")


def _parse_body(body: bytes) -> Any:
    """The JSON value, else the text, else None for an empty body."""
    try:
        return orjson.loads(body)
    except ValueError:
        pass  # perhaps lax JSON (NaN, invalid bytes), perhaps text, perhaps nothing
    text = body.removeprefix(_BOM).decode("utf-8", "replace").strip()
    if not text:
        return None
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return text


def _leading_status(parsed: object) -> dict[str, str]:
    """The status of a text that starts like a JSON object: it was cut short."""
    start = _LEADING_STATUS.match(parsed) if isinstance(parsed, str) else None
    return {} if start is None else {start[1]: start[2]}


# --------------------------------------------------------------------- what a message repeats


def _message_suffix(parsed: Any, redact: Iterable[str | int | None]) -> str:
    """The endpoint's own message, as the end of a sentence; nothing if it has none."""
    text = _find_message(parsed)
    is_status_only = isinstance(parsed, dict) and parsed.keys() <= _STATUS_ONLY_KEYS
    if not text and parsed and not is_status_only:
        text = _dump_json(parsed)
        names = [str(name) for name in redact if name is not None]
        redact = [*names, *(_dump_json(name)[1:-1] for name in names)]
    text = _redact_and_truncate(text, redact)
    return f": {text}" if text else ""


def _find_message(parsed: Any) -> str:
    """Look for a message where the vendor's endpoints and common frameworks put it."""
    if isinstance(parsed, str):
        return parsed
    if not isinstance(parsed, dict):
        return ""
    data, error = parsed.get("data"), parsed.get("error")
    messages = data.get("messages") if isinstance(data, dict) else None
    found = [
        parsed.get("message"),
        *(messages if isinstance(messages, list) else [messages]),
        error.get("message") if isinstance(error, dict) else error,
    ]
    return "; ".join(text for text in found if isinstance(text, str) and text.strip())


def _dump_json(parsed: Any) -> str:
    """JSON with each letter as itself: redaction would not recognize an escaped one."""
    try:
        return json.dumps(parsed, ensure_ascii=False)
    except RecursionError:
        return ""


def _redact_and_truncate(text: str, redact: Iterable[str | int | None]) -> str:
    """One short line that names neither the customer nor anybody else."""
    line = _single_line(text)
    for value in redact:
        name = "" if value is None else _single_line(str(value))
        if name:
            pattern = re.escape(name)
            if len(name) < _MIN_SUBSTRING_REDACTION:
                pattern = rf"(?<!\w){pattern}(?!\w)"
            line = re.sub(pattern, "[the contact]", line, flags=re.IGNORECASE)
    line = redact_emails(line)
    # Truncate last: a name that was cut would not be recognized.
    return line if len(line) <= _MAX_MESSAGE else f"{line[:_MAX_MESSAGE]}..."


def _single_line(text: str) -> str:
    """Text as one line, without invisible characters: they would hide an address."""
    line = " ".join(text.split())
    if line.isprintable():
        return line
    visible = (
        char if char.isprintable() else "" if unicodedata.category(char) == "Cf" else " "
        for char in line
    )
    return " ".join("".join(visible).split())


def _redirect_host(headers: Mapping[str, str], redact: Iterable[str | int | None]) -> str:
    """Where a redirect points, no further than the host: a path or query may hold anything."""
    try:
        host = urlsplit(headers.get("Location", "")).hostname
    except ValueError:
        host = None
    return _redact_and_truncate(host or "", redact) or "another path of the same host"
