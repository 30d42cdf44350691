"""Every misbehaviour of an endpoint, with what has to come of it beside it.

Each has two halves: what the server does, and the verdict, for both kinds of delivery. The
verdicts are the design's: what surely was not processed is repeated, what may have been is repeated
only with AT_LEAST_ONCE, and a refusal never is.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import cache, partial
from typing import Any

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


def _both(outcome: Outcome) -> tuple[Outcome, Outcome]:
    return outcome, outcome


#: What is usual for each kind of verdict.
_KINDS: dict[str, dict[str, Any]] = {
    "sent": {"outcome": _both(Outcome.SENT), "posts": (1, 1)},
    "sent at the second attempt": {"outcome": _both(Outcome.SENT), "posts": (2, 2)},
    "rejected": {"outcome": _both(Outcome.REJECTED), "posts": (1, 1), "error": RejectedError},
    "throttled": {
        "outcome": _both(Outcome.NOT_SENT),
        "posts": (ATTEMPTS, ATTEMPTS),
        "error": ThrottledError,
    },
    "quota": {
        "outcome": _both(Outcome.NOT_SENT),
        "posts": (1, 1),
        "error": ThrottledError,
        "pauses": True,
        "stops": True,
    },
    "cut": {
        "outcome": _both(Outcome.NOT_SENT),
        "posts": (ATTEMPTS, ATTEMPTS),
        "error": NotSentError,
        "large": True,
    },
    "unknown": {"outcome": _both(Outcome.UNKNOWN), "posts": (1, ATTEMPTS), "risk": True},
    "unknown, then sent": {
        "outcome": (Outcome.UNKNOWN, Outcome.SENT),
        "posts": (1, 2),
        "error": ConnectionLostError,
        "risk": True,
    },
}


def _add(kind: str, name: str, play: Play, *says: str, **more: Any) -> None:
    """One behaviour: as usual for its kind, but for what is said here."""
    assert name not in BEHAVIOURS, name
    BEHAVIOURS[name] = Behaviour(name=name, play=play, says=says, **{**_KINDS[kind], **more})


_sent = partial(_add, "sent")
_rejected = partial(_add, "rejected")
_throttled = partial(_add, "throttled")
_quota = partial(_add, "quota")


def _unknown(name: str, play: Play, error: type[EverlyticError], *says: str, **more: Any) -> None:
    """It may have been processed: repeated AT_LEAST_ONCE only."""
    _add("unknown", name, play, *says, error=error, **more)


def _after_sending(
    name: str, play: Play, error: type[EverlyticError], *says: str, **more: Any
) -> None:
    """No whole response came."""
    says = ("was sent to {host}", *says, "may have been processed")
    _add("unknown", name, play, *says, error=error, **more)


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


def _at_first(play_first: Play) -> Play:
    """Do this with the first request for an order, and accept the second."""

    async def play(visit: Visit) -> None:
        await (play_first if visit.attempt == 1 else _processing(answer()))(visit)

    return play


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


# ------------------------------------------------------------------ before the whole order was sent

# The kernel of a server takes a small order in before the server can refuse it: these are large.


def _cut(name: str, play: Play, *says: str, slow: bool = False) -> None:
    _add("cut", name, play, "not sent to {host}", *says, slow=slow)


def _cutting(end: Callable[[Visit], object], part: float = 0.0) -> Play:
    """Read this part of the order, and end the connection."""

    async def play(visit: Visit) -> None:
        await visit.read(part)
        end(visit)

    return play


async def _never_read_the_body(visit: Visit) -> None:
    visit.keep = False
    await asyncio.Event().wait()  # until the server closes


_cut("reset-before-the-body", _cutting(Visit.reset))
_cut("close-before-the-body", _cutting(Visit.close))
_cut("reset-within-the-body", _cutting(Visit.reset, 0.3))
_cut("close-within-the-body", _cutting(Visit.close, 0.3))
_cut("stalled-upload", _never_read_the_body, "did not answer in time", slow=True)
_add("sent at the second attempt", "first-upload-cut", _at_first(_cutting(Visit.reset)), large=True)


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


async def _close_a_used_connection(visit: Visit) -> None:
    await (_processing(b"", Visit.close) if visit.place > 1 else _processing(answer()))(visit)


def _dripping(start: bytes, drops: bytes) -> Play:
    async def play(visit: Visit) -> None:
        await _processing(start)(visit)
        await visit.drip(drops)

    return play


def _streaming(start: bytes, part: bytes, times: int | None = None, pause_s: float = 0.0) -> Play:
    """Send a start, and then this part so often, or for ever."""

    async def play(visit: Visit) -> None:
        await _processing(start)(visit)
        visit.keep = False
        for _ in itertools.count() if times is None else range(times):
            await visit.send(part)
            await asyncio.sleep(pause_s)

    return play


def _lost(name: str, play: Play, *says: str) -> None:
    _after_sending(name, play, ConnectionLostError, *says)


def _silent(name: str, play: Play) -> None:
    _after_sending(name, play, ResponseTimeoutError, "did not answer in time", slow=True)


_lost("reset-after-the-body", _processing(b"", Visit.reset))
_lost("close-without-an-answer", _processing(b"", Visit.close), "closed the connection")
# Not the first on its connection; what follows a lost one AT_LEAST_ONCE has a new one.
_add(
    "unknown, then sent",
    "close-on-a-used-connection",
    _close_a_used_connection,
    "closed the connection",
    "may have been processed",
    second=True,
)
_add(
    "unknown, then sent",
    "first-answer-lost",
    _at_first(_processing(b"", Visit.reset)),
    "was sent to {host}",
    "may have been processed",
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
_silent("no-answer", _dripping(b"", b""))
_silent("slow-headers", _dripping(HEAD_OK, b"X-Slow: " + b"a" * 1_000))
_silent("slow-status-line", _dripping(b"", b"HTTP/1.1 200 " + b"O" * 1_000))
_silent("slow-body", _dripping(HEAD_OK + b"Content-Length: 1000\r\n\r\n", b"{" + b" " * 998 + b"}"))
_silent(
    "slow-chunks", _dripping(HEAD_OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 200)
)
_silent("body-never-ends", _dripping(HEAD_OK + b"Content-Length: 500\r\n\r\n" + SUCCESS, b""))
# It is for ever that matters: the machine has other work.
_silent("1xx-for-ever", _streaming(b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 20, pause_s=0.02))

# ------------------------------------------------------------------------- answers that are no HTTP


def _not_http(name: str, data: bytes) -> None:
    _after_sending(name, _processing(data, Visit.close), UnexpectedResponseError, "not HTTP")


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


@cache
def _bomb() -> bytes:
    return gzip.compress(b"\0" * (100 * MEGABYTE), 9)


async def _gzip_bomb(visit: Visit) -> None:
    await _processing(answer(200, _bomb(), "Content-Encoding: gzip"))(visit)


_sent("success", _processing(answer()))
_sent("success-and-close", _processing(answer(200, SUCCESS, "Connection: close"), Visit.close))
_sent("success-and-silent-close", _processing(answer(), Visit.close), spoils=True)
_sent("until-the-end-of-the-connection", _processing(HEAD_OK + b"\r\n" + SUCCESS, Visit.close))
# The second one must not pass for the answer to whatever order comes next.
_sent("answers-twice", _processing(answer() + answer(200, b'{"status":"success","of":"nobody"}')))
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
_sent(
    "endless-chunks",
    _streaming(HEAD_OK + b"Transfer-Encoding: chunked\r\n\r\n", _chunk(b"x" * 65_536)),
    most_sent=16 * MEGABYTE,
)
_sent(
    "100-mb",
    _streaming(HEAD_OK + b"Content-Length: 104857600\r\n\r\n", b"x" * 65_536, 1_600),
    most_sent=16 * MEGABYTE,
)
_sent("gzip-bomb", _gzip_bomb)
_sent("100-continue", _processing(b"HTTP/1.1 100 Continue\r\n\r\n" + answer()))
_sent("1xx-flood", _processing(b"HTTP/1.1 102 Processing\r\n\r\n" * 1_000 + answer()))
_sent("103-hints", _processing(b"HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\n" + answer()))
_sent("204", _processing(b"HTTP/1.1 204 No Content\r\n\r\n"))
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
_sent("headers-of-60-kb", _processing(answer(200, SUCCESS, "X-Long: " + "a" * 60_000)))
_sent("2000-headers", _processing(answer(200, SUCCESS, *(f"X-{n}: {n}" for n in range(2_000)))))

# ---------------------------------------------------------------------------------------- redirects

#: Another host than the endpoint's, because it has another name. It must receive nothing.
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
_rejected(
    "302-twice",
    _refusing(answer(302, b"", "Location: http://a.invalid/", "Location: http://b.invalid/")),
    "redirected (302)",
)
_rejected("304", _refusing(b"HTTP/1.1 304 Not Modified\r\n\r\n"), "redirected (304)")

# ----------------------------------------------------------------------------------------- refusals

_rejected(
    "401",
    _refusing(answer(401, b'"Invalid credentials."')),
    "(401)",
    "store hash",
    "customer hash",
    "Invalid credentials.",
    outcome=_both(Outcome.NOT_SENT),
    error=AuthenticationError,
    stops=True,
)

for _status in (400, 404, 422):
    _rejected(
        str(_status),
        _refusing(answer(_status, _json({"status": "error", "message": "No such workflow"}))),
        f"refused the order ({_status})",
        "No such workflow",
    )
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

# --------------------------------------------------------------------------------------- throttling


def _date(ahead_s: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=ahead_s), usegmt=True)


def _busy(status: int, *headers: str) -> Play:
    return _refusing(answer(status, b'{"message":"Slow down"}', *headers))


async def _busy_for_a_second(visit: Visit) -> None:
    server = visit.server
    if visit.attempt == 1:
        server.asked_at = asyncio.get_running_loop().time()
        await _busy(429, "Retry-After: 1")(visit)
        return
    waited_s = asyncio.get_running_loop().time() - server.asked_at
    assert waited_s >= 1 - CLOCK_S, waited_s
    await _processing(answer())(visit)


_add("sent at the second attempt", "429-once", _at_first(_busy(429, "Retry-After: 0")))
_add("sent at the second attempt", "429-retry-after-1", _busy_for_a_second, pauses=True)
for _status in (408, 429, 503):
    _throttled(str(_status), _busy(_status), "too busy", str(_status), "Slow down")
    _throttled(f"{_status}-retry-after-0", _busy(_status, "Retry-After: 0"), "asked to wait 0 s")
_quota("429-retry-after-2", _busy(429, "Retry-After: 2"), "asked to wait 2 s")
_throttled("429-retry-after-past", _busy(429, f"Retry-After: {_date(-3600)}"), "asked to wait 0 s")
_quota("429-retry-after-ahead", _busy(429, f"Retry-After: {_date(86_400)}"), "asked to wait 8")
_throttled(
    "429-retry-after-twice", _busy(429, "Retry-After: 0", "Retry-After: 60"), "asked to wait 0 s"
)
_throttled(
    "429-cut-short",
    _refusing(b"HTTP/1.1 429 No\r\nContent-Length: 500\r\n\r\nbusy", Visit.close),
    "answered 429",
)

# -------------------------------------------------------------------------------- the server failed

for _status in (500, 502, 504):
    _unknown(
        str(_status),
        _processing(answer(_status, _json({"error": {"message": "Out of order"}}))),
        ServerError,
        f"failed ({_status})",
        "perhaps after it had acted",
        "Out of order",
    )
_unknown(
    "200-html",
    _processing(answer(200, HTML)),
    UnexpectedResponseError,
    "200",
    "HTML page",
    "base_url",
)
_unknown("600", _processing(answer(600, b"")), UnexpectedResponseError, "odd status 600")
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
        headers_sent = [
            f"X-Echo: {both.decode()}",
            f'Set-Cookie: {both.decode().replace(" ", "=")}; ="',
        ]
        headers_sent += [header.format(*(h.decode() for h in visit.hashes)) for header in headers]
        data = answer(status, before + both + after, *headers_sent)
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


_sent("echo-in-pieces", _echo_in_pieces)
_throttled("echo-429", _echoing(429, b"", b"", "Retry-After: {0}"), "answered 429")
_unknown("echo-as-garbage", _echo_as_garbage, UnexpectedResponseError, "not HTTP")
_rejected("echo-302-lower", _echoing(302, b"", b"", "Location: //{0}:{1}@x.invalid"), "(302)")


#: What a server does, by name.
PLAYS: dict[str, Play] = {name: behaviour.play for name, behaviour in BEHAVIOURS.items()}
