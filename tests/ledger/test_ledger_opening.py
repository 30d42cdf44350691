"""A ledger of each kind, opened and closed by many at once, cancelled midway, in any event loop."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from ledger_shop import Place, ledger_at, locked, read_entries, read_states, session_at

from everlytic_async import ConfigurationError, LedgerError, Outcome, SqliteLedger
from everlytic_async.ledger import Entry, LedgerFile, NatsLedger, ResendPolicy, State
from support.delivery import order
from support.shop import Shop

AnyLedger = SqliteLedger | NatsLedger
KNOWN = ResendPolicy()


async def record_sent(ledger: AnyLedger, *keys: str) -> None:
    """By a stream for each, all at once."""

    async def stream(key: str) -> None:
        async with ledger.session("a scope", "shop.example") as session:
            assert (await session.claim(key, "body", KNOWN))[0]
            await session.record(Entry(key, State.SENT))

    await asyncio.gather(*map(stream, keys))


def sent(*keys: str) -> dict[str, State]:
    return dict.fromkeys(keys, State.SENT)


@pytest.mark.parametrize("ledgers", [1, 6])
async def test_many_streams_share_one_place(place: Place, ledgers: int) -> None:
    """Through one ledger object, or through several that create it all at once."""
    keys = [str(number) for number in range(12)]
    parts = [keys[start::ledgers] for start in range(ledgers)]
    await asyncio.gather(*(record_sent(ledger_at(place), *part) for part in parts))
    assert read_states(place) == sent(*keys)


async def test_it_stays_open_from_the_first_stream_to_the_last(path: Path) -> None:
    """A run is a ledger for as long as it is open."""
    runs = []
    with LedgerFile(path) as file:
        async with SqliteLedger(path) as ledger:
            for key in "12":
                await record_sent(ledger, key)
                runs.append(file.connection.execute("SELECT token, ended FROM runs").fetchall())
        assert runs[0] == runs[1] == [(runs[0][0][0], None)]
        assert file.summary().running == 0


async def test_a_stream_that_enters_while_another_leaves_finds_it_open(place: Place) -> None:
    ledger = ledger_at(place)

    async def stream(number: int) -> None:
        for turns in range(6):
            async with ledger:
                for _ in range((number * 7 + turns) % 5):
                    await asyncio.sleep(0)
                await record_sent(ledger, f"{number}-{turns}")

    await asyncio.gather(*map(stream, range(3)))
    assert len(read_states(place)) == 18


async def test_outcomes_are_recorded_though_nobody_awaits_them(place: Place) -> None:
    async with session_at(place, "0") as session:
        for number in range(50):
            session.record(Entry(str(number), State.SENT))
        awaiting = asyncio.ensure_future(session.record(Entry("50", State.SENT)))
        awaiting.cancel()
    assert read_states(place) == sent(*map(str, range(51)))


async def test_a_session_that_was_left_is_an_error(place: Place) -> None:
    async with session_at(place) as session:
        pass
    for use in (
        lambda: session.claim("1", "body", KNOWN),
        lambda: session.look_up(["1"]),
        lambda: session.record(Entry("1", State.SENT)),
    ):
        with pytest.raises(LedgerError, match="is not open"):
            await use()  # type: ignore[operator]


# ------------------------------------------------------------------------------------- cancelled


RELEASED = [
    (None, KNOWN, State.NOT_SENT),
    (State.INVALID, KNOWN, State.NOT_SENT),
    (State.NOT_SENT, KNOWN, State.NOT_SENT),
    (State.REJECTED, KNOWN, State.REJECTED),
    (State.UNKNOWN, ResendPolicy(frozenset({State.UNKNOWN})), State.UNKNOWN),
    (State.SENT, KNOWN, State.SENT),
]


@pytest.mark.parametrize(("before", "policy", "after"), RELEASED)
async def test_a_claim_that_is_cancelled_is_released(
    place: Place, before: State | None, policy: ResendPolicy, after: State
) -> None:
    """However far it has come: a claim that stays is unknown once the ledger is closed."""
    async with session_at(place) as session:
        for turns in range(1, 30):  # before the first turn it has not started
            if before is not None:
                await session.record(Entry(str(turns), before, "an earlier body"))
            claiming = asyncio.ensure_future(session.claim(str(turns), "body", policy))
            for _ in range(turns):
                await asyncio.sleep(0)
            claiming.cancel()
            await asyncio.wait([claiming])
            if not claiming.cancelled():
                await session.record(Entry(str(turns), after, "an earlier body"))

    entries = read_entries(place)
    assert {entry.state for entry in entries.values()} == {after}
    if before not in (None, State.INVALID):
        assert {entry.body_digest for entry in entries.values()} == {"an earlier body"}


@pytest.mark.parametrize(("before", "policy", "after"), RELEASED)
async def test_a_claim_that_is_cancelled_as_it_is_written_is_released(
    path: Path, before: State | None, policy: ResendPolicy, after: State
) -> None:
    async with session_at(path) as session:
        if before is not None:
            await asyncio.gather(*(session.record(Entry(key, before)) for key in "12"))
        # Both are of one group; the cancellation comes between their answers.
        first = asyncio.ensure_future(session.record(Entry("0", State.SENT)))
        claiming = asyncio.ensure_future(session.claim("1", "body", policy))
        first.add_done_callback(lambda _: claiming.cancel())
        await asyncio.wait([claiming])
        # The thread waits for a lock.
        with locked(path):
            writing = asyncio.ensure_future(session.claim("2", "body", policy))
            for _ in range(3):
                await asyncio.sleep(0)
            writing.cancel()
            await asyncio.wait([writing])
        assert claiming.cancelled()
        assert writing.cancelled()
    assert read_states(path) == sent("0") | dict.fromkeys("12", after)


@pytest.mark.parametrize("others", [0, 1])
async def test_whenever_it_is_cancelled_what_was_opened_is_closed(
    place: Place, others: int
) -> None:
    """No thread, task or lock is left behind: the fixture for all tests looks for them."""
    for step in range(12):
        ledger = ledger_at(place)
        using = [
            asyncio.ensure_future(record_sent(ledger, f"{step}.{i}")) for i in range(1 + others)
        ]
        await asyncio.sleep(step * 0.0005)
        using[0].cancel()
        ends = await asyncio.gather(*using, return_exceptions=True)
        assert ends[1:] == [None] * others
        assert isinstance(ends[0], asyncio.CancelledError | None)
        with pytest.raises(LedgerError, match="is not open"):
            assert ledger.opened


async def cancelled_thrice(work: Awaitable[object], go_on: Callable[[], object]) -> None:
    """What waits for the file's lock is cancelled, again and again, before that is released."""
    working = asyncio.ensure_future(work)
    await asyncio.sleep(0.01)  # so that it has come as far as it can, most often
    for _ in range(3):
        working.cancel()
        await asyncio.sleep(0)
    go_on()
    with pytest.raises(asyncio.CancelledError):
        await working


@pytest.mark.parametrize("lock", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
async def test_a_ledger_that_is_cancelled_while_it_opens_is_closed(path: Path, lock: str) -> None:
    LedgerFile(path).close()
    ledger = SqliteLedger(path)
    with locked(path, lock) as other:
        await cancelled_thrice(ledger.__aenter__(), lambda: other.execute("ROLLBACK"))
    await record_sent(ledger, "1")  # it may be used again
    assert read_states(path) == sent("1")


@pytest.mark.parametrize("keys", ["", "12"])
async def test_a_ledger_that_is_cancelled_while_it_closes_is_closed(path: Path, keys: str) -> None:
    context = session_at(path)
    session = await context.__aenter__()
    with locked(path) as other:
        for key in keys:
            session.record(Entry(key, State.SENT))
        await cancelled_thrice(
            context.__aexit__(None, None, None), lambda: other.execute("ROLLBACK")
        )
    assert read_states(path) == sent(*keys)


def test_an_event_loop_that_ends_while_it_opens_leaves_nothing(path: Path) -> None:
    LedgerFile(path).close()

    async def use() -> None:
        opening = asyncio.ensure_future(SqliteLedger(path).__aenter__())
        await asyncio.sleep(0.01)
        assert not opening.done()  # asyncio.run() cancels it

    with locked(path):
        asyncio.run(use())


# ---------------------------------------------------------------------- one event loop or another


def advice(ledger: AnyLedger) -> str:
    return f"one {type(ledger).__name__} object for each event loop"


def test_it_may_be_used_by_one_event_loop_after_another(place: Place) -> None:
    ledger = ledger_at(place)
    asyncio.run(record_sent(ledger, "1", "2", "3"))
    asyncio.run(record_sent(ledger, "4", "5", "6"))
    assert read_states(place) == sent(*"123456")


@pytest.mark.parametrize("by", ["the client", "a stream", "send_orders"])
def test_a_ledger_in_use_by_another_threads_client_sends_nothing(path: Path, by: str) -> None:
    ledger = SqliteLedger(path)
    shop = Shop()

    async def use(number: int) -> None:
        async with shop.opened_client(
            **({"ledger": ledger} if by == "the client" else {})
        ) as client:
            if by == "a stream":
                async with client.stream_orders([order(number)], ledger=ledger) as results:
                    assert [result.outcome async for result in results] == [Outcome.SENT]
            elif by == "send_orders":
                await client.send_orders([order(number)], ledger=ledger)
            else:
                await client.send_order(order(number))

    async def main() -> None:
        async with shop:
            async with ledger:
                with pytest.raises(ConfigurationError, match=advice(ledger)):
                    await asyncio.to_thread(asyncio.run, use(1))
            assert shop.posts.total() == 0
            for number in (2, 3):  # closed each time, it may be used by one after the other
                await asyncio.to_thread(asyncio.run, use(number))
        assert shop.posts == {"2": 1, "3": 1}

    asyncio.run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is nothing to fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("same_loop", [False, True])
def test_a_forked_process_does_not_use_its_parents_ledger(path: Path, same_loop: bool) -> None:
    ledger = SqliteLedger(path)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(ledger.__aenter__())
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)  # should it hang
        code = 1
        try:
            (loop.run_until_complete if same_loop else asyncio.run)(record_sent(ledger, "2"))
        except ConfigurationError as error:
            code = 0 if advice(ledger) in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0

    loop.run_until_complete(record_sent(ledger, "1"))
    loop.run_until_complete(ledger.__aexit__(None, None, None))
    loop.close()
    assert read_states(path) == sent("1")


# --------------------------------------------------------------------------------- two processes


async def test_one_of_many_claimants_gets_an_order(place: Place) -> None:
    async with session_at(place) as one, session_at(place) as two:
        answers = await asyncio.gather(
            *(each.claim("1", "body", KNOWN) for each in (one, two) for _ in range(20))
        )
    assert [before for granted, before in answers if granted] == [None]
    refused = [before for granted, before in answers if not granted]
    assert {before and before.state for before in refused} == {State.IN_FLIGHT}
