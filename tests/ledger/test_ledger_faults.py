# ruff: noqa: ASYNC240 - nothing else is to run meanwhile
"""A ledger that can't be used: a clear error before anything is sent, or a clean stop midway."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from ledger_processes import make_sandbox, send
from ledger_shop import agree, keep, locked, read_states

from everlytic_async import (
    BatchReport,
    BatchStoppedError,
    LedgerError,
    NotSentError,
    Outcome,
    SqliteLedger,
)
from everlytic_async.ledger import Entry, LedgerFile, LedgerSession, ResendPolicy, State
from support.delivery import order, orders, streamed
from support.shop import Shop
from support.transports import until


class Unforeseen:
    """A caller's own ledger, one of whose calls raises what no ledger should from the n-th on."""

    def __init__(self, call: str, after: int = 0) -> None:
        self.call, self.after = call, after

    def _at(self, call: str) -> None:
        if call == self.call:
            self.after -= 1
            if self.after < 0:
                raise OSError("the database is gone")

    @asynccontextmanager
    async def session(self, _scope: str, _host: str) -> AsyncIterator[LedgerSession]:
        yield self

    async def look_up(self, keys: Sequence[str]) -> Mapping[str, Entry]:
        self._at("look_up")
        return dict.fromkeys(keys, Entry("", State.NOT_SENT))

    async def claim(
        self, _key: str, _digest: str, _policy: ResendPolicy
    ) -> tuple[bool, Entry | None]:
        self._at("claim")
        return True, None

    def record(self, _entry: Entry) -> Awaitable[None]:
        self._at("record")
        return asyncio.create_task(self._record())

    async def _record(self) -> None:
        self._at("record, later")

    async def any_sent(self) -> bool:
        return False


@pytest.mark.parametrize("call", ["look_up", "claim", "record", "record, later"])
async def test_whatever_a_ledger_raises_stops_a_batch_with_a_result_for_each_order(
    call: str,
) -> None:
    server = Shop()
    async with server.opened_client(concurrency=2) as client, asyncio.timeout(60):
        with pytest.raises(BatchStoppedError, match="the ledger raised OSError") as caught:
            await client.send_orders(orders(20), ledger=Unforeseen(call))
    assert isinstance(caught.value.__cause__, OSError)
    assert isinstance(caught.value.report, BatchReport)
    counts = caught.value.report.counts
    assert counts[Outcome.SENT] == server.posts.total() < 20
    assert counts[Outcome.SENT] + counts[Outcome.NOT_SENT] == len(caught.value.report.results)


@pytest.mark.parametrize("call", ["claim", "record", "record, later"])
async def test_whatever_a_ledger_raises_one_order_has_its_verdict(call: str) -> None:
    server = Shop()
    async with server.opened_client(ledger=Unforeseen(call)) as client:
        if call == "claim":
            with pytest.raises(NotSentError, match="the ledger raised OSError"):
                await client.send_order(order(1))
        else:
            assert (await client.send_order(order(1))).status == 200
    assert server.posts.total() == (call != "claim")


async def test_a_cancelled_order_ends_so_whatever_its_ledger_raises() -> None:
    server = Shop(_1="hang")
    async with server.opened_client(ledger=Unforeseen("record")) as client:
        sending = asyncio.create_task(client.send_order(order(1)))
        await until(lambda: server.posts)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending


# ----------------------------------------------------------------------- before anything is sent


async def test_without_a_ledger_that_can_be_used_nothing_is_read_or_sent(path: Path) -> None:
    LedgerFile(path).close()
    server, source, ledger = Shop(), orders(10), SqliteLedger(path, wait_s=0.02)
    async with server.opened_client() as client:
        with locked(path), pytest.raises(LedgerError, match="another process holds it"):
            await client.send_orders(source, ledger=ledger)
        assert not server.posts
        report = await client.send_orders(source, ledger=ledger)
    assert report.counts[Outcome.SENT] == 10


@pytest.mark.parametrize(("directory_mode", "mode"), [(0o777, 0o444), (0o555, 0o666)])
async def test_a_ledger_that_is_read_only_stops_it_before_it_starts(
    directory_mode: int, mode: int
) -> None:
    # Not in pytest's directory, which only its owner may enter.
    with TemporaryDirectory() as name:
        directory, ledger = Path(name), Path(name) / "orders.ledger"
        LedgerFile(ledger).close()
        directory.chmod(directory_mode)
        ledger.chmod(mode)
        async with make_sandbox() as sandbox:
            end = await send(sandbox, ledger, 10, unprivileged=True)
        directory.chmod(0o700)
        assert not list(directory.glob("*-run-*"))
    assert sandbox.requests == 0
    assert str(end.error).startswith("LedgerError: the ledger ")
    assert "read-only" in str(end.error)


# -------------------------------------------------------------------------------------- midway


async def states_for_the_next_run(path: Path) -> dict[str, State]:
    await keep(path)  # it finds out what was left in flight
    return read_states(path)


@pytest.mark.parametrize(("kind", "concurrency"), [(list, 8), (streamed, 1)])
async def test_a_lock_midway_stops_it_cleanly(
    path: Path, kind: Callable[[Iterable[Any]], Any], concurrency: int
) -> None:
    server = Shop()
    async with server, server.opened_client(concurrency) as client:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:

            def arrived(order_id: str) -> None:
                if order_id == "20":
                    other.execute("PRAGMA busy_timeout = 5000")
                    other.execute("BEGIN IMMEDIATE")

            server.on_order = arrived
            # If each order that is left waited for the lock, it would take a minute.
            ledger = SqliteLedger(path, wait_s=0.1)
            async with asyncio.timeout(30):
                with pytest.raises(BatchStoppedError, match="another process holds it") as caught:
                    await client.send_orders(kind(orders(400)), ledger=ledger)
        assert caught.value.report is not None
        results = caught.value.report.results
        assert sorted(result.index for result in results) == list(range(len(results)))
        assert {str(each.key) for each in results if each.outcome is Outcome.SENT} == {
            *server.posts
        }
        agree(await states_for_the_next_run(path), server)
        assert 20 <= len(server.posts) < 400

        server.on_order = lambda _order_id: None
        await client.send_orders(orders(400), ledger=SqliteLedger(path))
    assert set(server.posts.values()) == {1}
    states = read_states(path)
    assert len(states) == 400
    assert set(states.values()) <= {State.SENT, State.UNKNOWN}


async def test_a_file_that_may_not_grow_stops_it_cleanly(path: Path) -> None:
    async with make_sandbox() as sandbox:
        end = await send(sandbox, path, 1_000, file_size=100_000)
        assert end.code == 0
        assert str(end.error).startswith("BatchStoppedError: the batch was stopped: the ledger")
        sent = {str(order["order_id"]) for order in sandbox.received}
        assert sent == set(end.ends["sent"])
        assert 0 < len(sent) < 1_000
        states = await states_for_the_next_run(path)
        perhaps = {key for key, state in states.items() if state in (State.SENT, State.UNKNOWN)}
        assert sent <= perhaps
        end = await send(sandbox, path, 1_000)

    assert end.error is None
    assert not sandbox.duplicates
    assert sandbox.processed + len(perhaps - sent) == 1_000
