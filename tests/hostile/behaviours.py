"""Every misbehaviour of an endpoint, with what has to come of it beside it.

Each is told in two halves: what the server does, and the verdict, for both kinds of delivery. The
verdicts are the design's: what surely was not processed is repeated, what may have been is repeated
only with AT_LEAST_ONCE, and a refusal never is.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import attrs
from hostile_server import SUCCESS, Play, Visit, answer

from everlytic_async import (
    AuthenticationError,
    ConnectionLostError,
    EverlyticError,
    NotSentError,
    Outcome,
    RejectedError,
    ResponseTimeoutError,
    ServerError,
    ThrottledError,
    UnexpectedResponseError,
)

#: The policy's attempts in these tests.
ATTEMPTS = 3
#: A Retry-After over this many seconds ends the order.
RETRY_AFTER_CAP_S = 1.5

#: How much too early a timer of the event loop may ring.
CLOCK_S = 0.02

HEAD_OK = b"HTTP/1.1 200 OK\r\n"
HTML = b"<!DOCTYPE html><html><body>Please log in</body></html>"
MEGABYTE = 1 << 20


@attrs.frozen(kw_only=True)
class Behaviour:
    """What a server does, and what has to come of it.

    Attributes:
        name: As it stands in the orders.
        play: What the server does with one request.
        outcome: The result's, AT_MOST_ONCE and AT_LEAST_ONCE.
        posts: How many requests the server sees for the order, likewise.
        error: The result's last error; None where it is SENT.
        says: What the error's message has to hold; ``{host}`` is the endpoint's host.
        large: Whether the order has to be larger than the sockets hold.
        risk: Whether an order AT_LEAST_ONCE may have been processed twice.
        most_sent: How many bytes the client takes at most; None where it does not matter.
        slow: Whether the client's own time-out is what ends it.
        second: Whether it takes a connection that was used before.
        stops: Whether it stops a batch.
        pauses: Whether it makes every sender pause for a second or more.
        spoils: Whether it does its harm to whatever order comes next.
    """

    name: str
    play: Play
    outcome: tuple[Outcome, Outcome]
    posts: tuple[int, int]
    error: type[EverlyticError] | None = None
    says: tuple[str, ...] = ()
    large: bool = False
    risk: bool = False
    most_sent: int | None = None
    slow: bool = False
    second: bool = False
    stops: bool = False
    pauses: bool = False
    spoils: bool = False


BEHAVIOURS: dict[str, Behaviour] = {}


def _add(behaviour: Behaviour) -> None:
    assert behaviour.name not in BEHAVIOURS, behaviour.name
    BEHAVIOURS[behaviour.name] = behaviour


def _same(outcome: Outcome) -> tuple[Outcome, Outcome]:
    return outcome, outcome


def _sent(
    name: str,
    play: Play,
    *,
    most_sent: int | None = None,
    large: bool = False,
    spoils: bool = False,
) -> None:
    """The endpoint accepts it, in its own way."""
    _add(
        Behaviour(
            name=name,
            play=play,
            outcome=_same(Outcome.SENT),
            posts=(1, 1),
            most_sent=most_sent,
            large=large,
            spoils=spoils,
        )
    )


def _rejected(name: str, play: Play, *says: str, large: bool = False) -> None:
    """The endpoint refuses it: never repeated."""
    _add(
        Behaviour(
            name=name,
            play=play,
            outcome=_same(Outcome.REJECTED),
            posts=(1, 1),
            error=RejectedError,
            says=says,
            large=large,
        )
    )


def _throttled(name: str, play: Play, *says: str, posts: int = ATTEMPTS) -> None:
    """Not processed: repeated until the attempts are used up, or the wait is too long."""
    _add(
        Behaviour(
            name=name,
            play=play,
            outcome=_same(Outcome.NOT_SENT),
            posts=(posts, posts),
            error=ThrottledError,
            says=says,
            pauses=posts == 1,
            stops=posts == 1,  # a quota is used up
        )
    )


def _unknown(
    name: str,
    play: Play,
    error: type[EverlyticError],
    *says: str,
    slow: bool = False,
    large: bool = False,
    most_sent: int | None = None,
) -> None:
    """It may have been processed: repeated AT_LEAST_ONCE only."""
    _add(
        Behaviour(
            name=name,
            play=play,
            outcome=_same(Outcome.UNKNOWN),
            posts=(1, ATTEMPTS),
            error=error,
            says=says,
            risk=True,
            slow=slow,
            large=large,
            most_sent=most_sent,
        )
    )


def _processing(data: bytes, then: Callable[[Visit], object] | None = None) -> Play:
    """Process the order, answer with these bytes, and go on, or do what comes then."""

    async def play(visit: Visit) -> None:
        await visit.read()
        visit.process()
        await visit.send(data)
        if then is not None:
            then(visit)

    return play


def _refusing(data: bytes, then: Callable[[Visit], object] | None = None) -> Play:
    """Answer with these bytes, without processing anything, and do what comes then."""

    async def play(visit: Visit) -> None:
        await visit.read()
        await visit.send(data)
        if then is not None:
            then(visit)

    return play


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


# ------------------------------------------------------------------ before the whole order had left

# The kernel of a server takes a small order in before the server can refuse it: these are large.


def _cut(name: str, play: Play, *says: str, slow: bool = False) -> None:
    _add(
        Behaviour(
            name=name,
            play=play,
            outcome=_same(Outcome.NOT_SENT),
            posts=(ATTEMPTS, ATTEMPTS),
            error=NotSentError,
            says=("not sent to {host}", *says),
            large=True,
            slow=slow,
        )
    )


async def _reset_before_the_body(visit: Visit) -> None:
    visit.reset()


async def _close_before_the_body(visit: Visit) -> None:
    visit.close()


async def _reset_within_the_body(visit: Visit) -> None:
    await visit.read(0.3)
    visit.reset()


async def _close_within_the_body(visit: Visit) -> None:
    await visit.read(0.3)
    visit.close()


async def _never_read_the_body(visit: Visit) -> None:
    visit.keep = False
    await asyncio.Event().wait()  # until the server closes


async def _cut_the_first(visit: Visit) -> None:
    if visit.attempt == 1:
        visit.reset()
    else:
        await _processing(answer())(visit)


_cut("reset-before-the-body", _reset_before_the_body)
_cut("close-before-the-body", _close_before_the_body)
_cut("reset-within-the-body", _reset_within_the_body)
_cut("close-within-the-body", _close_within_the_body)
_cut("stalled-upload", _never_read_the_body, "did not answer in time", slow=True)
_add(
    Behaviour(
        name="first-upload-cut",
        play=_cut_the_first,
        outcome=_same(Outcome.SENT),
        posts=(2, 2),
        large=True,
    )
)


def _early(data: bytes) -> Play:
    """Answer while the order is still on its way, as a server does that won't have it."""

    async def play(visit: Visit) -> None:
        if data.startswith(HEAD_OK[:12]):
            visit.process()
        await visit.send(data)
        await visit.gone()

    return play


_sent("early-200", _early(answer(200, SUCCESS, "Connection: close")), large=True)
_rejected("early-413", _early(answer(413, b"too large", "Connection: close")), "(413)", large=True)
_unknown(
    "early-500", _early(answer(500, b"", "Connection: close")), ServerError, "(500)", large=True
)

# ------------------------------------------------------------------------- no answer, or none whole


async def _reset_after_the_body(visit: Visit) -> None:
    await visit.read()
    visit.process()
    visit.reset()


async def _no_answer(visit: Visit) -> None:
    await visit.read()
    visit.process()
    await visit.gone()


async def _close_a_used_connection(visit: Visit) -> None:
    await visit.read()
    visit.process()
    if visit.place > 1:
        visit.close()
    else:
        await visit.answer()


async def _lost_the_first(visit: Visit) -> None:
    if visit.attempt == 1:
        await _reset_after_the_body(visit)
    else:
        await _processing(answer())(visit)


def _dripping(start: bytes, drops: bytes) -> Play:
    async def play(visit: Visit) -> None:
        await visit.read()
        visit.process()
        await visit.send(start)
        await visit.drip(drops)

    return play


async def _flood(visit: Visit) -> None:
    await visit.read()
    visit.process()
    visit.keep = False
    while True:
        await visit.send(b"HTTP/1.1 102 Processing\r\n\r\n" * 20)
        await asyncio.sleep(0.02)  # it is for ever that matters: the machine has other work


def _lost(name: str, play: Play, *says: str) -> None:
    _unknown(
        name, play, ConnectionLostError, "was sent to {host}", *says, "may have been processed"
    )


def _silent(name: str, play: Play) -> None:
    _unknown(
        name,
        play,
        ResponseTimeoutError,
        "was sent to {host}",
        "did not answer in time",
        "may have been processed",
        slow=True,
    )


_lost("reset-after-the-body", _reset_after_the_body)
_lost("close-without-an-answer", _processing(b"", Visit.close), "closed the connection")
_add(
    Behaviour(
        name="close-on-a-used-connection",
        play=_close_a_used_connection,
        # Not the first on its connection; what follows a lost one AT_LEAST_ONCE has a new one.
        outcome=(Outcome.UNKNOWN, Outcome.SENT),
        posts=(1, 2),
        error=ConnectionLostError,
        says=("closed the connection", "may have been processed"),
        risk=True,
        second=True,
    )
)
_add(
    Behaviour(
        name="first-answer-lost",
        play=_lost_the_first,
        outcome=(Outcome.UNKNOWN, Outcome.SENT),
        posts=(1, 2),
        error=ConnectionLostError,
        says=("was sent to {host}", "may have been processed"),
        risk=True,
    )
)
_lost("half-a-status-line", _processing(b"HTTP/1.1 20", Visit.close))
_lost("half-a-head", _processing(HEAD_OK + b"Content-Len", Visit.close))
_lost("1xx-and-close", _processing(b"HTTP/1.1 102 Processing\r\n\r\n", Visit.close))
_lost(
    "length-too-long", _processing(HEAD_OK + b"Content-Length: 500\r\n\r\n" + SUCCESS, Visit.close)
)
_lost(
    "reset-within-the-answer",
    _processing(HEAD_OK + b"Content-Length: 500\r\n\r\n" + SUCCESS, Visit.reset),
)
_lost(
    "half-a-chunk",
    _processing(HEAD_OK + b"Transfer-Encoding: chunked\r\n\r\nff\r\n{", Visit.close),
)
_silent("no-answer", _no_answer)
_silent("slow-headers", _dripping(HEAD_OK, b"X-Slow: " + b"a" * 1_000))
_silent("slow-status-line", _dripping(b"", b"HTTP/1.1 200 " + b"O" * 1_000))
_silent("slow-body", _dripping(HEAD_OK + b"Content-Length: 1000\r\n\r\n", b"{" + b" " * 998 + b"}"))
_silent(
    "slow-chunks", _dripping(HEAD_OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 200)
)
_silent("body-never-ends", _dripping(HEAD_OK + b"Content-Length: 500\r\n\r\n" + SUCCESS, b""))
_silent("1xx-for-ever", _flood)

# ------------------------------------------------------------------------- answers that are no HTTP


def _not_http(name: str, data: bytes) -> None:
    _unknown(
        name,
        _processing(data, Visit.close),
        UnexpectedResponseError,
        "was sent to {host}",
        "not HTTP",
        "may have been processed",
    )


_not_http("garbage", bytes(range(256)) * 4)
_not_http("another-protocol", b"SSH-2.0-OpenSSH_9.6\r\n")
_not_http("html-without-a-head", HTML + b"\r\n\r\n")
_not_http("odd-version", b"HTTP/9.9 200 OK\r\nContent-Length: 0\r\n\r\n")
_not_http("odd-status", b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n")
_not_http("header-without-colon", HEAD_OK + b"nothing\r\n\r\n")
_not_http("length-no-number", HEAD_OK + b"Content-Length: many\r\n\r\n" + SUCCESS)
_not_http("length-negative", HEAD_OK + b"Content-Length: -1\r\n\r\n" + SUCCESS)
_not_http("two-lengths", HEAD_OK + b"Content-Length: 20\r\nContent-Length: 7\r\n\r\n" + SUCCESS)
_not_http(
    "length-and-chunks",
    HEAD_OK + b"Content-Length: 20\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
)
_not_http("length-too-short", HEAD_OK + b"Content-Length: 5\r\n\r\n" + SUCCESS)
_not_http("chunk-no-number", HEAD_OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n")
_not_http("headers-of-100-kb", HEAD_OK + b"X: " + b"a" * 100_000 + b"\r\nContent-Length: 0\r\n\r\n")
_not_http(
    "thousands-of-headers",
    HEAD_OK + b"".join(b"X-%d: %d\r\n" % (n, n) for n in range(10_000)) + b"\r\n",
)
_not_http("control-characters", HEAD_OK + b"X: a\x00\x01b\r\nContent-Length: 0\r\n\r\n")

# --------------------------------------------------------------------------------- odd but accepted


async def _endless(visit: Visit) -> None:
    await visit.read()
    visit.process()
    await visit.send(HEAD_OK + b"Transfer-Encoding: chunked\r\n\r\n")
    visit.keep = False
    while True:
        await visit.send(_chunk(b"x" * 65_536))


async def _huge(visit: Visit) -> None:
    await visit.read()
    visit.process()
    await visit.send(HEAD_OK + b"Content-Length: %d\r\n\r\n" % (100 * MEGABYTE))
    visit.keep = False
    for _ in range(100 * MEGABYTE // 65_536):
        await visit.send(b"x" * 65_536)


async def _answers_twice(visit: Visit) -> None:
    # The second one must not pass for the answer to whatever order comes next.
    await visit.read()
    visit.process()
    await visit.send(answer() + answer(200, b'{"status":"success","of":"nobody"}'))


BOMB = gzip.compress(b"\0" * (100 * MEGABYTE), 9)

_sent("success", _processing(answer()))
_sent("success-and-close", _processing(answer(200, SUCCESS, "Connection: close"), Visit.close))
_sent("success-and-silent-close", _processing(answer(), Visit.close), spoils=True)
_sent("until-the-end-of-the-connection", _processing(HEAD_OK + b"\r\n" + SUCCESS, Visit.close))
_sent("answers-twice", _answers_twice)
_sent(
    "chunked",
    _processing(
        HEAD_OK
        + b"Transfer-Encoding: chunked\r\n\r\n"
        + _chunk(SUCCESS[:9])
        + _chunk(SUCCESS[9:])
        + b"0\r\n\r\n"
    ),
)
_sent("endless-chunks", _endless, most_sent=16 * MEGABYTE)
_sent("100-mb", _huge, most_sent=16 * MEGABYTE)
_sent("gzip", _processing(answer(200, gzip.compress(SUCCESS), "Content-Encoding: gzip")))
_sent("gzip-bomb", _processing(answer(200, BOMB, "Content-Encoding: gzip")))
_sent("deflate", _processing(answer(200, zlib.compress(SUCCESS), "Content-Encoding: deflate")))
_sent("100-continue", _processing(b"HTTP/1.1 100 Continue\r\n\r\n" + answer()))
_sent("1xx-flood", _processing(b"HTTP/1.1 102 Processing\r\n\r\n" * 1_000 + answer()))
_sent("103-hints", _processing(b"HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\n" + answer()))
_sent("201", _processing(answer(201)))
_sent("202", _processing(answer(202, b"")))
_sent("204", _processing(b"HTTP/1.1 204 No Content\r\n\r\n"))
_sent("205", _processing(answer(205, b"")))
_sent("206", _processing(answer(206, SUCCESS[:9], "Content-Range: bytes 0-8/20")))
_sent("299", _processing(answer(299, b"odd")))
_sent("bare-json-string", _processing(answer(200, b'"Triggered."')))
_sent("bare-json-number", _processing(answer(200, b"1")))
_sent("json-null", _processing(answer(200, b"null")))
_sent("json-list", _processing(answer(200, b'[{"status":"success"}]')))
_sent("plain-text", _processing(answer(200, b"OK")))
_sent("invalid-utf-8", _processing(answer(200, b'{"status":"\xff\xfe\x80"}')))
_sent("nan", _processing(answer(200, b'{"status":NaN,"total":-Infinity}')))
_sent("empty", _processing(answer(200, b"")))
_sent("byte-order-mark", _processing(answer(200, b"\xef\xbb\xbf" + SUCCESS)))
_sent("lone-surrogate", _processing(answer(200, b'{"status":"\\ud800"}')))
_sent("deep-json", _processing(answer(200, b"[" * 60_000)))
_sent("long-number", _processing(answer(200, b"9" * 60_000)))
_sent("failures-none", _processing(answer(200, b'{"failures":[]}')))
_sent(
    "duplicate-headers",
    _processing(
        answer(
            200,
            SUCCESS,
            *["X-Twice: a"] * 20,
            "Server: a",
            "Server: b",
            "Content-Type: text/html",
            "Content-Type: application/json",
            "Set-Cookie: a=1",
            "Set-Cookie: a=2",
        )
    ),
)
_sent("odd-content-type", _processing(answer(200, SUCCESS, 'Content-Type: ;;;charset="')))
_sent("broken-cookie", _processing(answer(200, SUCCESS, 'Set-Cookie: ==;;="')))
_sent(
    "header-bytes",
    _processing(
        answer(200, SUCCESS)
        .replace(b"Reason", b"\xff\xfe \xe9")
        .replace(b"\r\n\r\n", b"\r\nX: \xff\xfe\r\n\r\n")
    ),
)
_sent("no-reason", _processing(answer(200, SUCCESS).replace(b" Reason", b"")))

# ---------------------------------------------------------------------------------------- redirects

#: Another host than the endpoint's, for it has another name. It listens, and must hear nothing.
OTHER = "127.0.0.1"


def _redirecting(status: int) -> Play:
    async def play(visit: Visit) -> None:
        await visit.read()
        where = f"Location: http://{OTHER}:{visit.server.other_port}/servlet/e-commerce/orders"
        await visit.answer(status, b"", where)

    return play


for _status in (300, 301, 302, 303, 305, 307, 308):
    _rejected(
        f"{_status}-to-another-host",
        _redirecting(_status),
        f"redirected ({_status}) to {OTHER}",
        "not followed",
        "base_url",
    )
_rejected(
    "302-to-a-path",
    _refusing(answer(302, HTML, "Location: /login")),
    "another path of the same host",
)
_rejected("302-to-nowhere", _refusing(answer(302, b"")), "redirected (302)")
_rejected("302-to-no-url", _refusing(answer(302, b"", "Location: http://[")), "redirected (302)")
_rejected(
    "302-twice",
    _refusing(answer(302, b"", "Location: http://a.invalid/", "Location: http://b.invalid/")),
    "redirected (302)",
)
_rejected("304", _refusing(b"HTTP/1.1 304 Not Modified\r\n\r\n"), "redirected (304)")

# ----------------------------------------------------------------------------------------- refusals

_add(
    Behaviour(
        name="401",
        play=_refusing(answer(401, b'"Invalid credentials."')),
        outcome=_same(Outcome.NOT_SENT),
        posts=(1, 1),
        error=AuthenticationError,
        says=("(401)", "store hash", "customer hash", "Invalid credentials."),
        stops=True,
    )
)

for _status in (400, 402, 403, 404, 405, 406, 409, 410, 411, 413, 414, 415, 418, 422, 451, 499):
    _rejected(
        str(_status),
        _refusing(answer(_status, _json({"status": "error", "message": "No such workflow"}))),
        f"refused the order ({_status})",
        "No such workflow",
    )
_rejected("404-html", _refusing(answer(404, HTML)), "(404)", "HTML page", "address")
_rejected("400-empty", _refusing(answer(400, b"")), "(400)")
_rejected("400-invalid-utf-8", _refusing(answer(400, b'"bad \xff\xfe"')), "(400)", "bad")
_rejected("400-surrogate", _refusing(answer(400, b'{"message":"a\\ud800b"}')), "(400)", "a b")
_rejected(
    "400-terminal",
    _refusing(answer(400, _json({"message": "a\x1b[31mb\r\nc"}))),
    "(400)",
    "a [31mb c",
)
_rejected(
    "422-messages",
    _refusing(answer(422, _json({"status": "error", "data": {"messages": ["One", "Two"]}}))),
    "(422)",
    "One; Two",
)
_rejected("403-bare-string", _refusing(answer(403, b'"Not yours."')), "(403)", "Not yours.")
_rejected(
    "400-cut-short",
    _refusing(b"HTTP/1.1 400 No\r\nContent-Length: 500\r\n\r\nbad order", Visit.close),
    "(400)",
    "bad order",
)
_rejected(
    "200-status-error",
    _refusing(answer(200, _json({"status": "error", "message": "Unknown contact"}))),
    "200",
    "'error'",
    "Unknown contact",
)
_rejected(
    "200-result-failure",
    _refusing(answer(200, _json({"result": "Failure", "data": {"messages": ["Bad"]}}))),
    "200",
    "'failure'",
    "Bad",
)
_rejected("200-error-and-bom", _refusing(answer(200, b'\xef\xbb\xbf{"status":"error"}')), "'error'")
_rejected("200-error-and-nan", _refusing(answer(200, b'{"status":"error","total":NaN}')), "'error'")
_rejected(
    "200-error-as-html",
    _refusing(answer(200, b'{"status":"error"}', "Content-Type: text/html")),
    "'error'",
)
_rejected(
    "200-error-gzip",
    _refusing(answer(200, gzip.compress(b'{"status":"error"}'), "Content-Encoding: gzip")),
    "'error'",
)

# --------------------------------------------------------------------------------------- throttling


def _date(ahead_s: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=ahead_s), usegmt=True)


def _busy(status: int, *headers: str) -> Play:
    return _refusing(answer(status, b'{"message":"Slow down"}', *headers))


async def _busy_once(visit: Visit) -> None:
    if visit.attempt == 1:
        await _busy(429, "Retry-After: 0")(visit)
    else:
        await _processing(answer())(visit)


async def _busy_for_a_second(visit: Visit) -> None:
    server = visit.server
    if visit.attempt == 1:
        server.asked_at = asyncio.get_running_loop().time()
        await _busy(429, "Retry-After: 1")(visit)
        return
    waited_s = asyncio.get_running_loop().time() - server.asked_at
    assert waited_s >= 1 - CLOCK_S, waited_s
    await _processing(answer())(visit)


_add(Behaviour(name="429-once", play=_busy_once, outcome=_same(Outcome.SENT), posts=(2, 2)))
_add(
    Behaviour(
        name="429-retry-after-1",
        play=_busy_for_a_second,
        outcome=_same(Outcome.SENT),
        posts=(2, 2),
        pauses=True,
    )
)
for _status in (408, 429, 503):
    _throttled(str(_status), _busy(_status), "too busy", str(_status), "Slow down")
    _throttled(f"{_status}-retry-after-0", _busy(_status, "Retry-After: 0"), "asked to wait 0 s")
_throttled("429-retry-after-2", _busy(429, "Retry-After: 2"), "asked to wait 2 s", posts=1)
_throttled("429-retry-after-past", _busy(429, f"Retry-After: {_date(-3600)}"), "asked to wait 0 s")
_throttled(
    "429-retry-after-ahead", _busy(429, f"Retry-After: {_date(86_400)}"), "asked to wait 8", posts=1
)
_throttled("429-retry-after-negative", _busy(429, "Retry-After: -5"), "answered 429: Slow down")
_throttled(
    "429-retry-after-huge",
    _busy(429, f"Retry-After: {'9' * 400}"),
    "asked to wait 1000000000 s",
    posts=1,
)
_throttled(
    "429-retry-after-year-9999",
    _busy(429, "Retry-After: Fri, 31 Dec 9999 23:59:59 GMT"),
    "asked to wait 1000000000 s",
    posts=1,
)
_throttled(
    "429-retry-after-garbage", _busy(429, "Retry-After: soon \xe9"), "answered 429: Slow down"
)
_throttled("429-retry-after-empty", _busy(429, "Retry-After:"), "answered 429: Slow down")
_throttled("429-retry-after-nan", _busy(429, "Retry-After: NaN"), "answered 429: Slow down")
_throttled("429-retry-after-odd-digits", _busy(429, "Retry-After: ²"), "answered 429: Slow down")
_throttled(
    "429-retry-after-twice", _busy(429, "Retry-After: 0", "Retry-After: 60"), "asked to wait 0 s"
)
_throttled("503-html", _refusing(answer(503, HTML)), "answered 503")
_throttled(
    "429-cut-short",
    _refusing(b"HTTP/1.1 429 No\r\nContent-Length: 500\r\n\r\nbusy", Visit.close),
    "answered 429",
)

# -------------------------------------------------------------------------------- the server failed

for _status in (500, 501, 502, 504, 505, 507, 511, 520, 599):
    _unknown(
        str(_status),
        _processing(answer(_status, _json({"error": {"message": "Out of order"}}))),
        ServerError,
        f"failed ({_status})",
        "perhaps after it had acted",
        "Out of order",
    )
_unknown("502-html", _processing(answer(502, HTML)), ServerError, "(502)", "HTML page")
_unknown(
    "200-html",
    _processing(answer(200, HTML)),
    UnexpectedResponseError,
    "200",
    "HTML page",
    "base_url",
)
_unknown(
    "200-html-fragment",
    _processing(answer(200, b"Hello <b>you</b>", "Content-Type: text/html")),
    UnexpectedResponseError,
    "HTML page",
)
_unknown(
    "200-html-and-bom",
    _processing(answer(200, b"\xef\xbb\xbf\r\n<html>")),
    UnexpectedResponseError,
    "HTML page",
)
for _name, _coding in (("no-gzip-at-all", "gzip"), ("unknown-coding", "br, zstd")):
    _unknown(
        _name,
        _processing(answer(200, SUCCESS, f"Content-Encoding: {_coding}")),
        UnexpectedResponseError,
        "content coding",
    )
_unknown("600", _processing(answer(600, b"")), UnexpectedResponseError, "odd status 600")
_unknown("999", _processing(answer(999, b"")), UnexpectedResponseError, "odd status 999")
_unknown(
    "101-unasked",
    _processing(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n\x00\x00"
    ),
    UnexpectedResponseError,
    "odd status 101",
)

# --------------------------------------------------------------------------- what echoes the hashes


def _echoing(status: int, before: bytes, after: bytes, *headers: str) -> Play:
    """Say the secrets back, in the body and wherever else there is room."""

    async def play(visit: Visit) -> None:
        await visit.read()
        both = b" ".join(visit.hashes)
        if status // 100 in (2, 5) and b"error" not in before:
            visit.process()
        told = [f"X-Echo: {both.decode()}", f'Set-Cookie: {both.decode().replace(" ", "=")}; ="']
        told += [header.format(*(h.decode() for h in visit.hashes)) for header in headers]
        data = answer(status, before + both + after, *told)
        await visit.send(data.replace(b"Reason", both))

    return play


async def _echo_in_pieces(visit: Visit) -> None:
    await visit.read()
    visit.process()
    both = b" ".join(visit.hashes)
    await visit.send(HEAD_OK + b"Transfer-Encoding: chunked\r\n\r\n")
    for byte in both:
        await visit.send(_chunk(bytes([byte])))
    await visit.send(b"0\r\n\r\n")


async def _echo_as_garbage(visit: Visit) -> None:
    await visit.read()
    visit.process()
    await visit.send(
        b" ".join(visit.hashes) + b"\r\nx-ev-store-hash " + visit.hashes[0] + b"\r\n\r\n"
    )
    visit.close()


_sent("echo-200", _echoing(200, b'{"status":"success","you":"', b'"}'))
_sent("echo-in-pieces", _echo_in_pieces)
_rejected("echo-200-error", _echoing(200, b'{"status":"error","message":"', b'"}'), "'error'")
_rejected("echo-422", _echoing(422, b'{"message":"', b'"}'), "(422)")
_throttled("echo-429", _echoing(429, b"", b"", "Retry-After: {0}"), "answered 429")
_unknown("echo-500", _echoing(500, b'"', b'"'), ServerError, "(500)")
_unknown("echo-200-html", _echoing(200, b"<html>", b"</html>"), UnexpectedResponseError, "HTML")
_unknown("echo-as-garbage", _echo_as_garbage, UnexpectedResponseError, "not HTTP")
_rejected("echo-302-host", _echoing(302, b"", b"", "Location: http://{0}.{1}.invalid/"), "(302)")
_rejected("echo-302-path", _echoing(302, b"", b"", "Location: /login?{0}&{1}"), "(302)")
_rejected("echo-302-lower", _echoing(302, b"", b"", "Location: //{0}:{1}@x.invalid"), "(302)")


#: What a server does, by name.
PLAYS: dict[str, Play] = {name: behaviour.play for name, behaviour in BEHAVIOURS.items()}
