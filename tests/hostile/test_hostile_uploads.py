"""An order that is reported as not sent never arrives later.

A closed connection does not end an upload: what the event loop still holds goes out after it,
unless it is thrown away. So the server here reads on after the client has given its verdict.
"""

from __future__ import annotations

import asyncio
import socket

import pytest
from hostile_client import PATIENT, client_at, hostile_pair, small_session
from hostile_server import HostileServer, Visit, order_for

from everlytic_async import Delivery, NotSentError, Outcome, RetryPolicy, Timeouts

ONCE = RetryPolicy(attempts=1)


class Late:
    """Reads an order only when the test says so, and processes it if it is complete."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.go_on = asyncio.Event()
        self.ended = asyncio.Event()

    async def __call__(self, visit: Visit) -> None:
        self.started.set()
        await self.go_on.wait()
        try:
            await visit.read()
            visit.process()
        finally:
            visit.keep = False
            self.ended.set()


@pytest.mark.parametrize("given_up", ["timed out", "client closed", "cancelled"])
async def test_an_upload_that_was_given_up_never_arrives(given_up: str) -> None:
    late = Late()
    timeouts = Timeouts(read_s=5, total_s=0.3) if given_up == "timed out" else PATIENT
    async with HostileServer({"late": late}) as server, small_session() as session:
        client = client_at(server.url, session=session, timeouts=timeouts, retry=ONCE)
        await client.start()
        sending = asyncio.create_task(client.send_order(order_for("late", 1, large=True)))
        await late.started.wait()
        if given_up == "client closed":
            closing = asyncio.create_task(client.aclose())
            await asyncio.sleep(0)
            closing.cancel()  # without its grace
            await asyncio.wait([closing])
        elif given_up == "cancelled":
            sending.cancel()
        await asyncio.wait([sending])
        if given_up == "cancelled":
            assert sending.cancelled()
        else:
            assert isinstance(sending.exception(), NotSentError)
            was_closed = "the client was closed while it was" in str(sending.exception())
            assert was_closed is (given_up == "client closed")
        late.go_on.set()
        await late.ended.wait()
        await client.aclose()

    assert server.requests[1] == 1
    assert server.processed[1] == 0


async def _half_close(visit: Visit) -> None:
    """Say that nothing more will be said, read all that comes, and do what it asks for."""
    visit.socket.shutdown(socket.SHUT_WR)
    visit.keep = False
    await asyncio.sleep(0.05)  # for the client to notice while the upload is under way
    await visit.read()
    visit.process()


@pytest.mark.parametrize("delivery", Delivery)
async def test_an_order_read_after_a_half_close_may_have_been_processed(
    delivery: Delivery,
) -> None:
    plays = {"half-close": _half_close}
    async with hostile_pair(plays, delivery=delivery) as (server, client):
        report = await client.send_orders([order_for("half-close", 1, large=True)])

    (result,) = report.results
    assert result.outcome is Outcome.UNKNOWN
    assert "may have been processed" in str(result.error)
    assert server.processed[1] == (1 if delivery is Delivery.AT_MOST_ONCE else 3)
