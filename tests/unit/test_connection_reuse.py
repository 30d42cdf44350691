"""Which kept connections are reused, by a clock that the test moves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from everlytic_async._request import Connections, UnusableConnectionError
from support.clock import FakeClock


class FakeConnection:
    should_close = False


async def test_a_server_that_loses_orders_again_gets_no_reused_connection_for_a_while() -> None:
    clock = FakeClock()
    connections = Connections(clock)
    transport: Any = SimpleNamespace(is_closing=lambda: False, get_extra_info=lambda _name: None)
    connection = FakeConnection()
    assert not await connections.acquire(connection, transport)  # it is new
    connections.on_answered(connection, reused=False)

    for lost, may_be_reused in enumerate([True, False]):
        assert await connections.acquire(connection, transport)
        with pytest.raises(UnusableConnectionError):  # one at a time
            await connections.acquire(connection, transport)
        connections.on_lost()
        connections.release()
        assert connections.may_be_reused is may_be_reused, lost
    with pytest.raises(UnusableConnectionError):
        await connections.acquire(connection, transport)
    clock.now += 3_600
    assert await connections.acquire(connection, transport)
