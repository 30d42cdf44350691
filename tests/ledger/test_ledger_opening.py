"""`SqliteLedger`: opened and closed by many at once, cancelled in the midst, in any event loop."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from ledger_shop import Shop, entries_of, states_of

from everlytic_async import ConfigurationError, LedgerError, Outcome, SqliteLedger
from everlytic_async.ledger import Durability, Entry, LedgerFile, LedgerSession, ResendPolicy, State
from everlytic_async.ledger._sqlite_writer import SqliteWriter
from support.delivery import order

KNOWN = ResendPolicy()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orders.ledger"


def session_of(ledger: SqliteLedger) -> Any:
    return ledger.session("a digest", "shop.example")


class Hold:
    """Keeps every `SqliteWriter` waiting in one of its methods until it is told to go on."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def on(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        method = getattr(SqliteWriter, name)

        def held(file: SqliteWriter, *args: Any, wait: bool = True, **settings: Any) -> Any:
            if not wait:  # by the thread then: as if another process held the file
                busy = sqlite3.OperationalError()
                busy.sqlite_errorcode = sqlite3.SQLITE_BUSY
                raise LedgerError("the file is in use") from busy
            self.reached.set()
            assert self.go_on.wait(10)
            return method(file, *args, **settings)

        monkeypatch.setattr(SqliteWriter, name, held)

    async def reach(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.reached.wait, 10)


@pytest.fixture
def hold() -> Iterator[Hold]:
    hold = Hold()
    yield hold
    hold.go_on.set()


@asynccontextmanager
async def claimed(ledger: SqliteLedger, *keys: str) -> AsyncIterator[LedgerSession]:
    async with session_of(ledger) as session:
        for key in keys:
            assert (await session.claim(key, "body", KNOWN))[0]
        yield session


# -------------------------------------------------------------------------------- many at once


async def test_many_streams_share_one_open_ledger(path: Path) -> None:
    ledger = SqliteLedger(path)

    async def stream(number: int) -> None:
        async with claimed(ledger, str(number)) as session:
            await session.record(Entry(str(number), State.SENT))

    await asyncio.gather(*(stream(number) for number in range(20)))
    assert states_of(path) == {str(number): State.SENT for number in range(20)}


async def test_who_enters_while_another_leaves_finds_one_file_open(path: Path) -> None:
    ledger = SqliteLedger(path)

    async def stream(number: int) -> None:
        for turns in range(10):
            async with ledger:
                for _ in range((number * 7 + turns) % 5):
                    await asyncio.sleep(0)

    await asyncio.gather(*(stream(number) for number in range(4)))
    assert ledger._writer is None
    assert not list(path.parent.glob("*-run-*"))


async def test_who_enters_while_the_last_one_still_waits_finds_it_open(
    path: Path, hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = SqliteLedger(path)

    async def first() -> None:
        async with session_of(ledger) as session:
            hold.on(monkeypatch, "execute")
            session.record(Entry("1", State.SENT))

    leaving = asyncio.ensure_future(first())
    await hold.reach()
    writer = ledger._writer
    entering = asyncio.ensure_future(ledger.__aenter__())
    await asyncio.sleep(0)
    hold.go_on.set()
    await asyncio.gather(leaving, entering)
    assert writer is not None
    assert ledger._writer is writer
    await ledger.__aexit__(None, None, None)
    assert states_of(path) == {"1": State.SENT}


async def test_leaving_does_not_wait_for_those_who_stay(path: Path) -> None:
    ledger = SqliteLedger(path)
    asking, enough = asyncio.Event(), asyncio.Event()

    async def busy() -> None:
        async with session_of(ledger) as session:
            while not enough.is_set():
                await asyncio.gather(*(session.look_up(["1"]) for _ in range(2)))
                asking.set()

    others = [asyncio.ensure_future(busy()) for _ in range(3)]
    await asking.wait()
    async with asyncio.timeout(10), session_of(ledger) as session:
        session.record(Entry("1", State.SENT))  # not waited for
    assert states_of(path) == {"1": State.SENT}  # and yet there once it is left
    assert ledger._writer is not None
    enough.set()
    await asyncio.gather(*others)


async def test_a_ledger_stays_open_from_one_stream_to_the_next(path: Path) -> None:
    async with SqliteLedger(path) as ledger:
        writer = ledger._writer
        for key in "12":
            async with claimed(ledger, key) as session:
                await session.record(Entry(key, State.SENT))
            assert ledger._writer is writer
    assert states_of(path) == {"1": State.SENT, "2": State.SENT}


async def test_who_asks_when_it_is_closed_is_told(path: Path) -> None:
    ledger = SqliteLedger(path)
    async with session_of(ledger) as session:
        pass
    with pytest.raises(LedgerError, match="is not open"):
        await session.claim("1", "body", KNOWN)


# ------------------------------------------------------------------------------- given back


@pytest.mark.parametrize(
    ("before", "terms", "after"),
    [
        (None, KNOWN, State.NOT_SENT),
        (State.INVALID, KNOWN, State.NOT_SENT),
        (State.NOT_SENT, KNOWN, State.NOT_SENT),
        (State.REJECTED, KNOWN, State.REJECTED),
        (State.UNKNOWN, ResendPolicy(frozenset({State.UNKNOWN})), State.UNKNOWN),
        (State.SENT, KNOWN, State.SENT),
    ],
)
@pytest.mark.parametrize("when", ["waiting", "committing", "answered"])
async def test_a_claim_that_is_cancelled_is_given_back(
    *,
    path: Path,
    hold: Hold,
    monkeypatch: pytest.MonkeyPatch,
    before: State | None,
    terms: ResendPolicy,
    after: State,
    when: str,
) -> None:
    async with session_of(ledger := SqliteLedger(path)) as session:
        if before is not None:
            await session.record(Entry("1", before, "an earlier body"))
        if when == "committing":
            hold.on(monkeypatch, "execute")
        first = ledger.submit(lambda: None)
        claiming = asyncio.ensure_future(session.claim("1", "body", terms))
        await asyncio.sleep(0)
        assert len(ledger._waiting) == 2  # both are of one group
        if when == "answered":  # both answers come in one turn: the cancel between them
            first.add_done_callback(lambda _: claiming.cancel())
        elif when == "committing":
            await hold.reach()
            claiming.cancel()
            hold.go_on.set()
        else:
            claiming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await claiming
        await first

    (entry,) = entries_of(path).values()
    assert entry.state is after
    if before not in (None, State.INVALID):
        assert entry.body_digest == "an earlier body"


async def test_others_have_their_turn_however_much_is_looked_up(path: Path) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with claimed(SqliteLedger(path), "1") as session:
        counting = asyncio.ensure_future(count())
        for _ in range(50):
            assert set(await session.look_up(["1", "2"])) == {"1"}
        counting.cancel()
    assert turns >= 50


async def test_it_is_looked_up_while_a_group_is_committed(
    path: Path, hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = SqliteLedger(path, durability=Durability.POWER)
    async with claimed(ledger, "1") as session:
        hold.on(monkeypatch, "execute")
        recording = asyncio.ensure_future(session.record(Entry("1", State.SENT)))
        await hold.reach()
        looking = asyncio.ensure_future(session.look_up(["1"]))
        for _ in range(3):
            await asyncio.sleep(0)
        assert ledger._waiting  # its turn comes once that is done
        hold.go_on.set()
        assert (await looking)["1"].state is State.SENT
        await recording


async def test_what_is_recorded_without_waiting_is_recorded(path: Path) -> None:
    async with claimed(SqliteLedger(path), "1", "2") as session:
        session.record(Entry("1", State.SENT))
        waiting = asyncio.ensure_future(session.record(Entry("2", State.SENT)))
        waiting.cancel()
    assert states_of(path) == {"1": State.SENT, "2": State.SENT}


# --------------------------------------------------------------------------- cancelled in the midst


@pytest.mark.parametrize("method", ["__init__", "execute"])
async def test_cancelled_while_it_opens_it_is_closed_once_it_is_open(
    path: Path, hold: Hold, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    hold.on(monkeypatch, method)
    ledger = SqliteLedger(path)

    async def open_it() -> None:
        async with session_of(ledger):
            raise AssertionError

    opening = asyncio.ensure_future(open_it())
    await hold.reach()
    opening.cancel()
    await asyncio.sleep(0)
    hold.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert ledger._open_count == 0
    assert ledger._writer is None
    async with claimed(ledger, "1"):  # it may be used again
        pass


async def test_one_who_is_cancelled_while_it_opens_does_not_harm_the_other(
    path: Path, hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold.on(monkeypatch, "__init__")
    ledger = SqliteLedger(path)
    entered = asyncio.Event()
    leave = asyncio.Event()

    async def use() -> None:
        async with claimed(ledger, "1"):
            entered.set()
            await leave.wait()

    first, second = asyncio.ensure_future(use()), asyncio.ensure_future(use())
    await hold.reach()
    first.cancel()
    hold.go_on.set()
    await entered.wait()
    assert not second.done()
    third = asyncio.ensure_future(ledger.__aenter__())
    third.cancel()
    await asyncio.gather(third, return_exceptions=True)
    leave.set()
    await second
    assert first.cancelled()
    assert ledger._writer is None


async def test_cancelled_again_and_again_while_it_closes_it_is_closed(
    path: Path, hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold.on(monkeypatch, "close")

    async def use() -> None:
        async with claimed(SqliteLedger(path), "1") as session:
            session.record(Entry("1", State.SENT))

    using = asyncio.ensure_future(use())
    await hold.reach()
    for _ in range(3):
        using.cancel()
        await asyncio.sleep(0)
        assert not using.done()
    hold.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await using
    assert states_of(path) == {"1": State.SENT}
    assert not list(path.parent.glob("*-run-*"))


async def test_cancelled_while_it_records_the_last_it_waits_for_that(
    path: Path, hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use() -> None:
        async with claimed(SqliteLedger(path), "1") as session:
            hold.on(monkeypatch, "execute")
            session.record(Entry("1", State.SENT))

    using = asyncio.ensure_future(use())
    await hold.reach()
    using.cancel()
    hold.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await using
    assert states_of(path) == {"1": State.SENT}


def test_a_loop_that_ends_while_it_opens_leaves_nothing(
    path: Path, hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold.on(monkeypatch, "__init__")

    async def use() -> None:
        opening = asyncio.ensure_future(SqliteLedger(path).__aenter__())
        await hold.reach()
        assert not opening.done()  # asyncio.run() cancels it

    asyncio.run(use())
    hold.go_on.set()
    for thread in threading.enumerate():
        if "everlytic_async-ledger" in thread.name:
            thread.join(10)
    assert not list(path.parent.glob("*-run-*"))


# ------------------------------------------------------------------------------ one loop or another


async def _in_turn_by_two(ledger: SqliteLedger, *keys: str) -> None:
    async def use(key: str) -> None:
        async with claimed(ledger, key) as session:
            await session.record(Entry(key, State.SENT))

    await asyncio.gather(*(use(key) for key in keys))


def test_it_may_be_used_by_one_event_loop_after_the_other(path: Path) -> None:
    ledger = SqliteLedger(path)
    asyncio.run(_in_turn_by_two(ledger, "1", "2", "3"))
    asyncio.run(_in_turn_by_two(ledger, "4", "5", "6"))
    assert states_of(path) == {str(number): State.SENT for number in range(1, 7)}


ADVICE = "one SqliteLedger object for each event loop"


def test_an_open_ledger_is_no_other_event_loops(path: Path) -> None:
    ledger = SqliteLedger(path)

    async def use() -> None:
        async with claimed(ledger, "1") as session:
            other = asyncio.to_thread(asyncio.run, _in_turn_by_two(ledger, "2"))
            with pytest.raises(ConfigurationError, match=ADVICE):
                await other
            await session.record(Entry("1", State.SENT))

    asyncio.run(use())
    assert states_of(path) == {"1": State.SENT}


@pytest.mark.parametrize("by", ["the client", "a stream", "send_orders"])
def test_a_ledger_in_use_by_another_threads_client_sends_nothing(path: Path, by: str) -> None:
    ledger = SqliteLedger(path)
    shop = Shop()

    async def use(number: int) -> None:
        its_own = {"ledger": ledger} if by == "the client" else {}
        async with shop.client(**its_own) as client:
            if by == "a stream":
                async with client.stream_orders([order(number)], ledger=ledger) as results:
                    assert [result.outcome async for result in results] == [Outcome.SENT]
            elif by == "send_orders":
                await client.send_orders([order(number)], ledger=ledger)
            else:
                await client.send_order(order(number))

    async def main() -> None:
        async with shop.open():
            async with ledger:
                with pytest.raises(ConfigurationError, match=ADVICE):
                    await asyncio.to_thread(asyncio.run, use(1))
            assert shop.posts.total() == 0
            # Closed each time, it may be used by one after the other.
            for number in (2, 3):
                await asyncio.to_thread(asyncio.run, use(number))
        assert shop.posts == {"2": 1, "3": 1}

    asyncio.run(main())


def test_a_loop_that_was_closed_in_the_midst_is_made_good_by_the_next(path: Path) -> None:
    ledger = SqliteLedger(path)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(ledger.__aenter__())
    loop.run_until_complete(_claim_without_leaving(ledger))
    loop.close()

    asyncio.run(_in_turn_by_two(ledger, "2"))
    for thread in threading.enumerate():
        if "everlytic_async-ledger" in thread.name:
            thread.join(10)
    assert states_of(path) == {"1": State.UNKNOWN, "2": State.SENT}


async def _claim_without_leaving(ledger: SqliteLedger) -> None:
    session = await session_of(ledger).__aenter__()
    await session.claim("1", "body", KNOWN)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is nothing to fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("same_loop", [False, True])
def test_a_forked_process_does_not_hang_on_its_parents_ledger(path: Path, same_loop: bool) -> None:
    ledger = SqliteLedger(path)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(ledger.__aenter__())
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)  # should it hang
        code = 1
        try:
            (loop.run_until_complete if same_loop else asyncio.run)(_in_turn_by_two(ledger, "2"))
        except ConfigurationError as error:
            code = 0 if ADVICE in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0

    loop.run_until_complete(_in_turn_by_two(ledger, "1"))
    loop.run_until_complete(ledger.__aexit__(None, None, None))
    loop.close()
    assert states_of(path) == {"1": State.SENT}


# ----------------------------------------------------------------------------------- two processes


async def test_two_ledgers_of_one_file_know_of_each_other(path: Path) -> None:
    async with claimed(SqliteLedger(path), "1") as one, claimed(SqliteLedger(path), "2") as two:
        granted, entry = await two.claim("1", "body", KNOWN)
        assert not granted
        assert entry is not None
        assert entry.state is State.IN_FLIGHT
        await one.record(Entry("1", State.NOT_SENT))
        assert (await two.claim("1", "body", KNOWN))[0]
        await two.record(Entry("1", State.SENT))
        await two.record(Entry("2", State.SENT))
    assert states_of(path) == {"1": State.SENT, "2": State.SENT}


async def test_many_make_a_new_file_at_once(path: Path) -> None:
    ledgers = [SqliteLedger(path) for _ in range(8)]
    await asyncio.gather(
        *(_in_turn_by_two(ledger, str(number)) for number, ledger in enumerate(ledgers))
    )
    assert states_of(path) == {str(number): State.SENT for number in range(8)}


async def test_a_lock_that_is_let_go_in_time_is_waited_for(path: Path) -> None:
    states_of(path)
    LedgerFile(path).close()
    async with claimed(SqliteLedger(path, wait_s=10), "1") as session:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            recording = asyncio.ensure_future(session.record(Entry("1", State.SENT)))
            await asyncio.sleep(0.03)
            assert not recording.done()
            other.execute("ROLLBACK")
        await recording
    assert states_of(path) == {"1": State.SENT}
