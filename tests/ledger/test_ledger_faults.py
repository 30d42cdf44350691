"""A ledger that can't be used: a clear error before anything is sent, or a clean stop midway."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from ledger_shop import Shop, states_of
from ledger_zygote import Zygote, sandbox_of

from everlytic_async import (
    BatchReport,
    BatchStoppedError,
    LedgerError,
    NotSentError,
    OrderResult,
    Outcome,
    SqliteLedger,
)
from everlytic_async.ledger import Entry, LedgerFile, LedgerSession, ResendPolicy, State
from everlytic_async.ledger._sqlite_writer import SqliteWriter
from support.delivery import order, orders, streamed
from support.transports import until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orders.ledger"


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
    async with server.client(concurrency=2) as client, asyncio.timeout(10):
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
    async with server.client(ledger=Unforeseen(call)) as client:
        if call == "claim":
            with pytest.raises(NotSentError, match="the ledger raised OSError"):
                await client.send_order(order(1))
        else:
            assert (await client.send_order(order(1))).status == 200
    assert server.posts.total() == (call != "claim")


async def test_a_cancelled_order_ends_so_whatever_its_ledger_raises() -> None:
    server = Shop(_1="hang")
    async with server.client(ledger=Unforeseen("record")) as client:
        sending = asyncio.create_task(client.send_order(order(1)))
        await until(lambda: server.posts)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending


# ----------------------------------------------------------------------- before anything is sent


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE customers (name)")


def text(path: Path) -> None:
    path.write_text("order_id,contact_email\n" * 1_000)


@pytest.mark.parametrize(
    ("make", "says"), [(foreign, "another program"), (text, "it is not a ledger")]
)
async def test_nothing_is_sent_without_a_ledger_that_can_be_used(
    path: Path, make: Callable[[Path], None], says: str
) -> None:
    make(path)
    server = Shop()
    read = 0

    def counted() -> Iterator[dict[str, object]]:
        nonlocal read
        for each in orders(10):
            read += 1
            yield each

    async with server.client() as client:
        with pytest.raises(LedgerError, match=says):
            await client.send_orders(counted(), ledger=SqliteLedger(path))
        assert (await client.send_orders(orders(1))).counts[Outcome.SENT] == 1  # it goes on

    assert read == 0
    assert server.posts == {"0": 1}


@pytest.mark.parametrize("lock", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
async def test_a_ledger_that_is_locked_stops_it_before_it_begins(path: Path, lock: str) -> None:
    LedgerFile(path).close()
    server = Shop()
    async with server.client() as client:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute(lock)
            with pytest.raises(LedgerError, match="another process holds it"):
                await client.send_orders(orders(10), ledger=SqliteLedger(path, wait_s=0.02))
        assert not server.posts
        report = await client.send_orders(orders(10), ledger=SqliteLedger(path, wait_s=0.02))
    assert report.counts[Outcome.SENT] == 10


@contextmanager
def unwritable(directory: Path, what: str) -> Iterator[Path]:
    """A ledger in a directory, one of which may not be written."""
    ledger = directory / "orders.ledger"
    LedgerFile(ledger).close()
    directory.chmod(0o777 if what == "file" else 0o555)
    ledger.chmod(0o444 if what == "file" else 0o666)
    try:
        yield ledger
    finally:
        directory.chmod(0o700)


@pytest.mark.parametrize("what", ["file", "directory"])
async def test_what_may_not_be_written_stops_it_before_it_begins(zygote: Zygote, what: str) -> None:
    # Not of pytest's, which only its owner may enter.
    with TemporaryDirectory() as directory, unwritable(Path(directory), what) as ledger:
        async with sandbox_of() as sandbox:
            end = await zygote.send(sandbox, ledger, 10, unprivileged=True)
        assert sandbox.requests == 0

    assert end.error is not None
    assert end.error.startswith("LedgerError: the ledger ")
    assert "read-only" in end.error
    assert end.left == []


# -------------------------------------------------------------------------------------- midway


def states_to_the_next(path: Path) -> dict[str, State]:
    """The states once the next run has found out what was left in flight."""
    SqliteWriter(path).close()
    return states_of(path)


class Told:
    """What a run told until the ledger failed it."""

    def __init__(self) -> None:
        self.results: list[OrderResult] = []
        self.error: BatchStoppedError | None = None

    async def run(self, server: Shop, ledger: SqliteLedger, source: Any, **settings: int) -> None:
        async with (
            server.client(**settings) as client,
            client.stream_orders(source, ledger=ledger) as stream,
        ):
            try:
                async for result in stream:
                    self.results.append(result)
            except BatchStoppedError as error:
                self.error = error

    def of(self, outcome: Outcome) -> set[str]:
        return {str(result.key) for result in self.results if result.outcome is outcome}

    def is_true(self, server: Shop, states: dict[str, State]) -> None:
        """Nothing was sent without an intent on record, and the results tell what was."""
        assert sorted(result.index for result in self.results) == list(range(len(self.results)))
        assert set(server.posts) == self.of(Outcome.SENT)
        assert all(count == 1 for count in server.posts.values())
        perhaps = {key for key, state in states.items() if state in (State.SENT, State.UNKNOWN)}
        assert set(server.posts) <= perhaps
        assert {key for key, state in states.items() if state is State.SENT} <= set(server.posts)
        assert State.IN_FLIGHT not in states.values()


async def kept_waiting(count: int) -> AsyncIterator[dict[str, object]]:
    async for each in streamed(orders(count)):
        yield each


@pytest.mark.parametrize("kind", [orders, kept_waiting])
@pytest.mark.parametrize("concurrency", [1, 8])
async def test_a_lock_midway_stops_it_cleanly(
    path: Path, kind: Callable[[int], object], concurrency: int
) -> None:
    server, told, again = Shop(), Told(), Told()
    async with server.open():
        with closing(sqlite3.connect(path, isolation_level=None)) as other:

            def arrived(order_id: str) -> None:
                if order_id == "20":
                    other.execute("PRAGMA busy_timeout = 5000")
                    other.execute("BEGIN IMMEDIATE")

            server.on_order = arrived
            # Were each order that is left to wait for the lock, it would take a minute.
            ledger = SqliteLedger(path, wait_s=0.2)
            async with asyncio.timeout(10):
                await told.run(server, ledger, kind(400), concurrency=concurrency)
        assert told.error is not None
        assert "another process holds it" in str(told.error)
        told.is_true(server, states_to_the_next(path))
        assert 20 <= len(server.posts) < 400

        server.on_order = lambda _order_id: None
        await again.run(server, SqliteLedger(path), orders(400))
    assert again.error is None
    assert all(count == 1 for count in server.posts.values())
    states = states_of(path)
    assert len(states) == 400
    assert set(states.values()) <= {State.SENT, State.UNKNOWN}


async def test_a_full_disk_midway_stops_it_cleanly(path: Path) -> None:
    server, told = Shop(), Told()
    async with SqliteLedger(path) as ledger:
        assert ledger._writer is not None
        connection = ledger._writer.connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        await told.run(server, ledger, orders(2_000))
    assert told.error is not None
    assert "the disk is full" in str(told.error)
    assert 0 < len(server.posts) < 2_000
    told.is_true(server, states_to_the_next(path))


async def test_a_file_that_may_not_grow_stops_it_cleanly(path: Path, zygote: Zygote) -> None:
    async with sandbox_of() as sandbox:
        end = await zygote.send(sandbox, path, 1_500, file_size=100_000)
        assert end.status == 0
        assert end.error is not None
        assert end.error.startswith("BatchStoppedError: the batch was stopped: the ledger")
        sent = {str(order["order_id"]) for order in sandbox.received}
        assert sent == set(end.ends["sent"])
        assert 0 < len(sent) < 1_500
        states = states_to_the_next(path)
        perhaps = {key for key, state in states.items() if state in (State.SENT, State.UNKNOWN)}
        assert sent <= perhaps
        assert not sandbox.duplicates
        end = await zygote.send(sandbox, path, 1_500)

    assert end.error is None
    assert not sandbox.duplicates
    assert sandbox.processed + len(perhaps - sent) == 1_500


async def test_a_file_that_is_damaged_midway_stops_it_cleanly(path: Path) -> None:
    server, told = Shop(), Told()
    async with SqliteLedger(path) as ledger:
        assert ledger._writer is not None
        connection = ledger._writer.connection

        def arrived(order_id: str) -> None:
            if order_id == "20":
                connection.execute("DROP TABLE orders")

        server.on_order = arrived
        await told.run(server, ledger, orders(400), concurrency=4)
    assert told.error is not None
    assert "no such table" in str(told.error)
    assert len(server.posts) < 400
    assert set(server.posts) == told.of(Outcome.SENT)
