"""What a ledger in NATS has of its own: heartbeats, lost acknowledgements, and its buckets."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ledger_shop import (
    BucketPlace,
    assert_nothing_personal,
    keep,
    ledger_at,
    make_bucket,
    read_bucket,
    read_entries,
    read_states,
    send_personal_orders,
    session_at,
)
from nats.js import api

from everlytic_async import ConfigurationError, LedgerError, Outcome
from everlytic_async.ledger import Entry, LedgerSession, NatsLedger, ResendPolicy, State
from everlytic_async.worker import NatsServer
from support.delivery import orders
from support.nats_servers import connected, kill, until
from support.shop import Shop

KNOWN = ResendPolicy()
AGAIN = ResendPolicy(frozenset({State.UNKNOWN}))
SENT = Entry("1", State.SENT, "body")


@pytest.fixture
def place(nats_url: str) -> BucketPlace:
    return make_bucket(nats_url)


async def read_state(session: LedgerSession, key: str = "1") -> State | None:
    entry = (await session.look_up([key])).get(key)
    return None if entry is None else entry.state


async def until_state(session: LedgerSession, state: State, key: str = "1") -> None:
    async def is_so() -> bool:
        return await read_state(session, key) is state

    await until(is_so, f"{key} to be {state}")


@contextmanager
def stopped(server: NatsServer) -> Iterator[None]:
    """The server answers nothing meanwhile, and does afterwards what it was asked for."""
    pid = server.pid
    assert pid is not None
    tasks = Path(f"/proc/{pid}/task")
    os.kill(pid, signal.SIGSTOP)
    try:
        # The signal is only under way yet: a thread that runs may still answer a request.
        while any(
            each.read_text().rpartition(")")[2].split()[0] not in "TZ"
            for each in tasks.glob("*/stat")
        ):
            time.sleep(0.0005)
        yield
    finally:
        if server.pid == pid:  # it was not killed
            os.kill(pid, signal.SIGCONT)


async def test_an_entry_that_was_deleted_is_not_known(place: BucketPlace) -> None:
    async with session_at(place) as session, connected(place.url) as connection:
        await session.record(SENT)
        bucket = await connection.jetstream().key_value(place.bucket)
        (key,) = await read_bucket(connection, place.bucket)
        await bucket.delete(key)
        assert await read_state(session) is None
        assert await session.claim("1", "body", KNOWN) == (True, None)
        await session.record(SENT)
        assert await read_state(session) is State.SENT


# -------------------------------------------------------------------------------------- heartbeats


async def expire_heartbeats(place: BucketPlace) -> None:
    """As the server does in time without renewal."""
    async with connected(place.url) as connection:
        await connection.jetstream().purge_stream(f"KV_{place.bucket}_runs")


async def test_a_run_that_goes_on_sends_heartbeats(place: BucketPlace) -> None:
    async with (
        session_at(place, "1", heartbeat_s=0.4),
        session_at(place) as other,
        connected(place.url) as connection,
    ):
        stream = connection.jetstream()
        info = await stream.stream_info(f"KV_{place.bucket}_runs")
        assert info.config.max_age == 0.4

        async def renewed() -> bool:
            found = await stream.stream_info(f"KV_{place.bucket}_runs")
            return found.state.last_seq >= info.state.last_seq + 10  # the first have expired

        await until(renewed, "the heartbeats")
        assert await read_state(other) is State.IN_FLIGHT


async def test_a_run_that_counted_as_crashed_still_records_that_it_sent(
    place: BucketPlace,
) -> None:
    async with session_at(place, *"123") as one, session_at(place) as other:
        await expire_heartbeats(place)
        for key in "12":
            granted, before = await other.claim(key, "body", AGAIN)
            assert granted
            assert before is not None
            assert before.state is State.UNKNOWN
        for key, state in [("1", State.NOT_SENT), ("2", State.SENT), ("3", State.NOT_SENT)]:
            await one.record(Entry(key, state, "body"))
        # The first is the other's now; nothing replaces that the second was sent.
        assert [await read_state(one, key) for key in "23"] == [State.SENT, State.NOT_SENT]
        await other.record(SENT)
        await other.record(Entry("2", State.UNKNOWN, "body"))
        assert [await read_state(one, key) for key in "12"] == [State.SENT] * 2


async def test_a_run_renews_a_late_heartbeat_before_it_claims(place: BucketPlace) -> None:
    """Otherwise another run could take the claim for that of a crashed one."""
    async with session_at(place, heartbeat_s=0.6) as session, connected(place.url) as connection:
        writes = await connection.subscribe("$KV.>")
        await connection.flush()
        time.sleep(0.5)  # noqa: ASYNC251 - the event loop is blocked, as by a long calculation
        await session.claim("1", "body", KNOWN)
        first = await writes.next_msg()
    assert first.subject.startswith(f"$KV.{place.bucket}_runs.")


async def test_after_a_reconnect_other_runs_have_time_to_renew_their_heartbeats(
    nats_server: NatsServer,
) -> None:
    place = make_bucket(nats_server.url)
    async with session_at(place, "1", heartbeat_s=1.0):
        pass
    async with session_at(place) as other:
        assert await read_state(other) is State.UNKNOWN
        await kill(nats_server)
        await nats_server.start()
        assert await read_state(other) is State.IN_FLIGHT
        await until_state(other, State.UNKNOWN)


# --------------------------------------------------------------------- not acknowledged, cancelled


async def test_a_claim_that_is_cancelled_before_its_acknowledgement_is_released(
    nats_server: NatsServer,
) -> None:
    place = make_bucket(nats_server.url)
    async with session_at(place) as session:
        with stopped(nats_server):
            claiming = asyncio.ensure_future(session.claim("1", "body", AGAIN))
            await asyncio.sleep(0.01)
            claiming.cancel()
            await asyncio.wait([claiming])
            assert claiming.cancelled()
    assert read_states(place) == {"1": State.NOT_SENT}


async def test_what_was_not_acknowledged_in_time_is_written_once(nats_server: NatsServer) -> None:
    """The server gets the first write and its repetition, and the run recognizes its own."""
    place = make_bucket(nats_server.url)
    async with session_at(place, patience_s=3.0) as session:
        for work, answer in (
            (lambda: session.claim("1", "body", KNOWN), (True, None)),
            (lambda: session.record(SENT), None),
        ):
            with stopped(nats_server):
                doing = asyncio.ensure_future(work())  # type: ignore[operator]
                await asyncio.wait([doing], timeout=0.8)  # a sixth of its patience, and more
                assert not doing.done()
            assert await doing == answer
        assert await read_state(session) is State.SENT


@pytest.mark.parametrize("left", [False, True])
async def test_what_an_outage_cut_off_is_settled_once_the_server_is_back(
    nats_server: NatsServer, *, left: bool
) -> None:
    """Even if the ledger is closed then: the orders were not sent whose claims failed."""
    place = make_bucket(nats_server.url)
    async with session_at(place, "2", patience_s=0.6) as session:
        with stopped(nats_server):
            errors = await asyncio.gather(
                session.claim("1", "body", KNOWN),
                session.record(Entry("2", State.SENT, "body")),
                session.look_up(["1"]),
                return_exceptions=True,
            )
            if not left:
                await kill(nats_server)  # with all that it has not read yet
        for error, what in zip(errors, ("written", "written", "read"), strict=True):
            assert isinstance(error, LedgerError)
            assert f"can't be {what}" in str(error)
            assert "for 0.6 seconds no ack" in str(error)
        if not left:
            await nats_server.start()
            await until_state(session, State.NOT_SENT, "1")
            await until_state(session, State.SENT, "2")
    assert read_states(place) == {"1": State.NOT_SENT, "2": State.SENT}


# ----------------------------------------------------------------------- buckets that are not safe


async def deleted(place: BucketPlace, what: str = "") -> None:
    async with connected(place.url) as connection:
        assert await connection.jetstream().delete_key_value(f"{place.bucket}{what}")


@pytest.mark.parametrize("first", ["a reader", "a new run", "a claim", "a heartbeat"])
async def test_a_deleted_bucket_of_runs_is_created_again(place: BucketPlace, first: str) -> None:
    """Heartbeats come back, and until then no run counts as crashed."""
    # Whether the run's own heartbeat is the first to notice it is a matter of time.
    settings = {"heartbeat_s": 1.5}
    async with session_at(place, "of a crashed run", **settings):
        pass
    async with (
        session_at(place, "1", **settings) as run,
        session_at(place, **settings) as reader,
        connected(place.url) as connection,
    ):
        await until_state(reader, State.UNKNOWN, "of a crashed run")
        await deleted(place, "_runs")
        if first == "a new run":
            async with session_at(place, **settings) as new:
                assert await read_state(new) is State.IN_FLIGHT
                assert not (await new.claim("1", "body", AGAIN))[0]
        elif first == "a claim":
            assert (await run.claim("2", "body", KNOWN))[0]
        elif first == "a heartbeat":
            runs = f"KV_{place.bucket}_runs"
            await until(lambda: connection.jetstream().stream_info(runs), "the heartbeats")
        assert await read_state(reader) is State.IN_FLIGHT
        assert await read_state(reader, "of a crashed run") is State.IN_FLIGHT
        assert not (await reader.claim("1", "body", AGAIN))[0]
        await until_state(reader, State.UNKNOWN, "of a crashed run")
        assert await read_state(reader) is State.IN_FLIGHT
        await run.record(SENT)
    assert read_states(place)["1"] is State.SENT


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_run_whose_entries_are_deleted_sends_nothing_more(
    place: BucketPlace, *, replaced: bool
) -> None:
    ledger = ledger_at(place, heartbeat_s=0.3)
    async with ledger, ledger.session("a scope", "s.example") as session:
        await session.claim("0", "body", KNOWN)
        await deleted(place)
        if replaced:
            await keep(place)
        number = 0

        async def is_refused() -> bool:
            nonlocal number
            number += 1
            try:
                await session.claim(str(number), "body", KNOWN)
            except LedgerError as error:
                return "was deleted while it was in use" in str(error)
            return False

        await until(is_refused, "the refusal", 10)
        with pytest.raises(LedgerError, match="was deleted while it was in use"):
            await session.claim("x", "body", KNOWN)
    with pytest.raises(LedgerError, match="was deleted while it was in use"):
        async with ledger:
            pass
    async with session_at(place, "y"):  # another ledger starts with a new one
        pass


UNSAFE: list[tuple[str, dict[str, Any], str]] = [
    ("", {"max_age": 3600.0}, "forgets entries"),
    ("", {"max_msgs": 1000, "discard": api.DiscardPolicy.OLD}, "forgets entries"),
    ("_runs", {}, "for ever"),
]


@pytest.mark.parametrize(("where", "config", "says"), UNSAFE)
async def test_a_bucket_that_forgets_entries_or_keeps_heartbeats_is_refused(
    place: BucketPlace, where: str, config: dict[str, Any], says: str
) -> None:
    name = f"{place.bucket}{where}"
    async with connected(place.url) as connection:
        await connection.jetstream().add_stream(
            name=f"KV_{name}", subjects=[f"$KV.{name}.>"], max_msgs_per_subject=1, **config
        )
    with pytest.raises(LedgerError, match=says):
        await keep(place)


async def test_a_bucket_of_another_program_is_refused(place: BucketPlace) -> None:
    async with session_at(place) as session, connected(place.url) as connection:
        bucket = await connection.jetstream().key_value(place.bucket)
        await session.record(SENT)
        (key,) = await read_bucket(connection, place.bucket)
        for value in (b"", b"1", b"{}", b'{"write":"a.1","state":"lost","key":"1"}'):
            await bucket.put(key, value)
            for use in (session.look_up(["1"]), session.claim("1", "body", KNOWN)):
                with pytest.raises(LedgerError, match="holds something that is not an entry"):
                    await use
            assert not value or (await bucket.get(key)).value == value


async def test_a_bucket_that_the_user_made_is_used_until_it_is_full(place: BucketPlace) -> None:
    async with connected(place.url) as connection:
        config = api.KeyValueConfig(place.bucket, history=5, direct=None, max_bytes=4096)
        await connection.jetstream().create_key_value(config)
    async with session_at(place, "1") as session, asyncio.timeout(60):
        assert await read_state(session) is State.IN_FLIGHT
        with pytest.raises(LedgerError, match="maximum bytes"):
            await asyncio.gather(*(session.claim(f"{n}0", "body", KNOWN) for n in range(100)))


async def test_without_a_server_nothing_is_sent(closed_port: int) -> None:
    url = f"nats://somebody:Sesame@127.0.0.1:{closed_port}"
    server = Shop()
    async with server.opened_client() as client:
        with pytest.raises(LedgerError, match="no NATS server could be reached") as raised:
            await client.send_orders(orders(3), ledger=NatsLedger(url, patience_s=0.3))
    assert "Sesame" not in str(raised.value)
    assert not server.posts


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("bucket", "a.b"),
        ("bucket", ""),
        ("heartbeat_s", 0.01),
        ("heartbeat_s", float("nan")),
        ("patience_s", 0),
        ("patience_s", float("nan")),
        ("replicas", 2),
    ],
)
def test_a_setting_that_is_not_valid_is_refused(setting: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=setting):
        NatsLedger("nats://127.0.0.1:4222", **{setting: value})


async def test_nothing_personal_is_in_the_bucket(tmp_path: Path) -> None:
    async with NatsServer(tmp_path, token="Sesame") as server:
        async with NatsLedger(server.url) as ledger:
            assert (await send_personal_orders(ledger))[Outcome.SENT] == 2
        assert len(read_entries(BucketPlace(server.url, "everlytic_ledger"))) == 7
    stored = b"".join(each.read_bytes() for each in files_in(tmp_path))
    assert_nothing_personal(stored)
    assert b"sesame" not in stored.lower()


def files_in(directory: Path) -> list[Path]:
    return [each for each in directory.rglob("*") if each.is_file()]
