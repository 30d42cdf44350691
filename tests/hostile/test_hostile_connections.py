"""Connections that fail before an order was sent, and after.

They are not in the mix: each of them is an outage, which stops a batch.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import aiohttp
import pytest
import trustme
from behaviours import ATTEMPTS
from hostile_client import PATIENT, client_at
from hostile_server import order_for

from everlytic_async import (
    BatchStoppedError,
    ConnectionLostError,
    Delivery,
    NotSentError,
    Outcome,
    Timeouts,
)
from support.servers import Connection, RawServer, Script, once
from support.tls import server_context, trusting_session

YESTERDAY = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
HELLO = b"\x16\x03\x01"


# ----------------------------------------------------------------------- before the order may leave


def _after_hello(data: bytes = b"", end: Callable[[Connection], None] | None = None) -> Script:
    """Read the start of the handshake, send this, and end the connection."""

    async def script(connection: Connection) -> None:
        assert (await connection.read(65_536)).startswith(HELLO)
        if data:
            await connection.send(data)
        if end is not None:
            end(connection)

    return script


async def _hang(connection: Connection) -> None:
    await connection.closed()


#: A handshake that fails, and what its error says.
HANDSHAKES: dict[str, tuple[Script, str]] = {
    "closed": (_after_hello(), "could not be reached"),
    "reset": (_after_hello(end=Connection.reset), "could not be reached"),
    "half-an-answer": (_after_hello(b"\x16\x03\x03\x00\x7a\x02"), "could not be reached"),
    "alert": (_after_hello(b"\x15\x03\x03\x00\x02\x02\x28"), "the TLS handshake failed"),
    "garbage": (_after_hello(b"\x00" * 500), "the TLS handshake failed"),
    "plain-http": (_after_hello(b"HTTP/1.1 400 No\r\n\r\n"), "the TLS handshake failed"),
    "hangs": (_hang, "the connection was not established in time"),
}


async def fault_at(
    url: str,
    delivery: Delivery,
    session: aiohttp.ClientSession | None = None,
    timeouts: Timeouts = PATIENT,
) -> str:
    """The error of an order that could not be sent to this address."""
    host = url.partition("//")[2]
    async with client_at(url, delivery=delivery, session=session, timeouts=timeouts) as client:
        with pytest.raises(BatchStoppedError) as caught:
            await client.send_orders([order_for("success", 1)])
    assert f"{host} could not be reached" in caught.value.message
    assert caught.value.report is not None
    (result,) = caught.value.report.results
    assert (result.outcome, result.attempts) == (Outcome.NOT_SENT, ATTEMPTS)
    assert not result.duplicate_risk
    assert type(result.error) is NotSentError
    assert result.error.message.startswith(f"the order was not sent to {host}: ")
    return result.error.message


@pytest.mark.parametrize("delivery", Delivery)
async def test_a_refused_connection_is_tried_again_and_given_up(
    delivery: Delivery, closed_port: int
) -> None:
    message = await fault_at(f"http://127.0.0.1:{closed_port}", delivery)
    assert "the connection was refused" in message


@pytest.mark.parametrize("delivery", Delivery)
@pytest.mark.parametrize("broken", HANDSHAKES)
async def test_tls_that_ends_in_the_middle_of_its_handshake(
    broken: str, delivery: Delivery
) -> None:
    script, says = HANDSHAKES[broken]
    timeouts = Timeouts(connect_s=0.1) if broken == "hangs" else PATIENT
    async with RawServer(script) as server:
        url = server.url.replace("http:", "https:")
        assert says in await fault_at(url, delivery, timeouts=timeouts)
        assert server.connections == ATTEMPTS
        assert server.heads == []


@pytest.mark.parametrize("delivery", Delivery)
@pytest.mark.parametrize("wrong", ["another name", "expired", "another authority"])
async def test_a_certificate_that_is_not_the_endpoints(
    wrong: str, delivery: Delivery, authority: trustme.CA
) -> None:
    if wrong == "another name":
        certificate = authority.issue_cert("shop.example")
    elif wrong == "expired":
        certificate = authority.issue_cert("localhost", not_after=YESTERDAY)
    else:
        certificate = trustme.CA().issue_cert("localhost")
    async with (
        RawServer(_hang, tls=server_context(certificate)) as server,
        trusting_session(authority) as session,
    ):
        assert "its certificate is not valid" in await fault_at(server.url, delivery, session)
        assert server.heads == []


# -------------------------------------------------------------------------- once the order was sent

_PART = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"


@pytest.mark.parametrize("delivery", Delivery)
@pytest.mark.parametrize(
    "script",
    [once(b"", Connection.reset), once(_PART, Connection.reset), once(_PART)],
    ids=["reset unanswered", "reset within the answer", "hang up within the answer"],
)
async def test_tls_that_ends_after_the_order_was_sent(
    script: Script, delivery: Delivery, authority: trustme.CA
) -> None:
    certificate = authority.issue_cert("localhost")
    async with (
        RawServer(script, tls=server_context(certificate)) as server,
        trusting_session(authority) as session,
        client_at(server.url, delivery=delivery, session=session, timeouts=PATIENT) as client,
    ):
        host = server.url.removeprefix("https://")
        report = await client.send_orders([order_for("success", 1)])

    (result,) = report.results
    posts = 1 if delivery is Delivery.AT_MOST_ONCE else ATTEMPTS
    assert result.outcome is Outcome.UNKNOWN
    assert result.attempts == len(server.bodies) == posts
    assert result.duplicate_risk == (posts > 1)
    assert type(result.error) is ConnectionLostError
    assert f"was sent to {host}" in result.error.message
    assert "may have been processed" in result.error.message
