"""A ledger in NATS, call by call: claims, heartbeats, and writes that nobody acknowledged."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import attrs
import nats.errors
import pytest
from ledger_shop import BucketPlace, Shop, a_bucket, states_of, stored_in
from nats.js import api
from nats.js.kv import KeyValue

from everlytic_async import ConfigurationError, LedgerError, Outcome
from everlytic_async.ledger import Entry, LedgerSession, NatsLedger, ResendPolicy, State
from everlytic_async.worker import NatsServer
from support.delivery import CUSTOMER_HASH, STORE_HASH, orders
from support.nats_servers import connected, until
from support.servers import unused_port

KNOWN = ResendPolicy()
AGAIN = ResendPolicy(frozenset({State.UNKNOWN}))


@pytest.fixture
def place(nats_url: str) -> BucketPlace:
    return a_bucket(nats_url)


@asynccontextmanager
async def session(place: BucketPlace, **settings: Any) -> AsyncIterator[LedgerSession]:
    async with NatsLedger(place.url, place.bucket, **settings).session("scope", "s.example") as one:
        yield one


async def state_of(one: LedgerSession, key: str = "1") -> State | None:
    entry = (await one.look_up([key])).get(key)
    return None if entry is None else entry.state


@contextmanager
def stopped(server: NatsServer) -> Iterator[None]:
    """The server answers nothing meanwhile, and handles the requests afterwards."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    try:
        # The signal arrives late: a thread that still runs may answer a request.
        while _states_of_threads(server.pid) - {"T", "Z"}:
            time.sleep(0.0005)
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def _states_of_threads(pid: int) -> set[str]:
    """From Linux, T for a stopped one; nothing on another system."""
    stats = [each.read_text() for each in Path(f"/proc/{pid}/task").glob("*/stat")]
    return {stat.rpartition(")")[2].split()[0] for stat in stats}


# ---------------------------------------------------------------------------- claims and records


async def test_one_of_many_claimants_gets_an_order(place: BucketPlace) -> None:
    async with session(place) as one, session(place) as two:
        answers = await asyncio.gather(
            *(each.claim("1", "body", KNOWN) for each in (one, two) for _ in range(20))
        )

    granted = [before for was_granted, before in answers if was_granted]
    assert granted == [None]
    refused = [before for was_granted, before in answers if not was_granted]
    assert {before.state for before in refused if before is not None} == {State.IN_FLIGHT}
    assert len(refused) == 39


async def test_an_entry_is_read_as_it_was_recorded(place: BucketPlace) -> None:
    entry = Entry("1", State.REJECTED, "digest", 3, 422, "it said \x00 no \udc80!")
    async with session(place) as one:
        await one.claim("1", "digest", KNOWN)
        await one.record(entry)
        (found,) = (await one.look_up(["1", "2"])).values()

    assert found.recorded_at > 0
    assert found == attrs.evolve(entry, recorded_at=found.recorded_at)


async def test_keys_belong_to_their_scope(place: BucketPlace) -> None:
    async with NatsLedger(place.url, place.bucket) as ledger:
        for scope in ("one", "two", "an odd one.>*"):
            async with ledger.session(scope, "s.example") as one:
                assert await state_of(one) is None
                assert (await one.claim("1", "body", KNOWN)) == (True, None)
                assert await state_of(one) is State.IN_FLIGHT


@pytest.mark.parametrize(
    ("known", "kept"),
    [
        (None, State.INVALID),
        (State.INVALID, State.INVALID),
        (State.NOT_SENT, State.INVALID),
        (State.SENT, State.SENT),
        (State.UNKNOWN, State.UNKNOWN),
        (State.REJECTED, State.REJECTED),
    ],
)
async def test_invalid_covers_only_what_is_harmless(
    place: BucketPlace, known: State | None, kept: State
) -> None:
    async with session(place) as one:
        if known is not None:
            await one.record(Entry("1", known, "body"))
        await one.record(Entry("1", State.INVALID))
        assert await state_of(one) is kept


async def test_an_invalid_order_with_the_same_key_does_not_end_a_claim(place: BucketPlace) -> None:
    async with session(place) as one:
        await one.claim("1", "body", KNOWN)
        await one.record(Entry("1", State.INVALID))
        assert await state_of(one) is State.IN_FLIGHT
        await one.record(Entry("1", State.NOT_SENT, "body"))
        assert await state_of(one) is State.NOT_SENT


async def test_a_deleted_entry_counts_as_none(place: BucketPlace) -> None:
    async with session(place) as one, connected(place.url) as connection:
        await one.record(Entry("1", State.SENT, "body"))
        bucket = await connection.jetstream().key_value(place.bucket)
        (key,) = await bucket.keys()
        await bucket.delete(key)
        assert await state_of(one) is None
        assert await one.claim("1", "body", KNOWN) == (True, None)
        await one.record(Entry("1", State.SENT, "body"))
        assert await state_of(one) is State.SENT


async def test_entries_are_read_concurrently_within_a_bound(
    place: BucketPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = most = 0
    get = KeyValue.get

    async def counted(self: KeyValue, *args: Any, **settings: Any) -> Any:
        nonlocal asking, most
        asking += 1
        most = max(most, asking)
        try:
            return await get(self, *args, **settings)
        finally:
            asking -= 1

    keys = [str(number) for number in range(600)]
    async with session(place) as one:
        await asyncio.gather(*(one.record(Entry(key, State.SENT)) for key in keys[::2]))
        monkeypatch.setattr(KeyValue, "get", counted)
        found = await one.look_up(keys)

    assert list(found) == keys[::2]
    assert 100 < most <= 256


async def test_records_are_written_even_if_nobody_waits(place: BucketPlace) -> None:
    async with session(place) as one:
        for number in range(50):
            one.record(Entry(str(number), State.SENT))
        recording = asyncio.ensure_future(one.record(Entry("50", State.SENT)))
        recording.cancel()
    assert states_of(place) == {str(number): State.SENT for number in range(51)}


async def test_a_session_that_was_left_records_nothing(place: BucketPlace) -> None:
    async with session(place) as one:
        pass
    with pytest.raises(LedgerError, match="is not open"):
        one.record(Entry("1", State.SENT))
    with pytest.raises(LedgerError, match="is not open"):
        await one.claim("1", "body", KNOWN)


# ------------------------------------------------------------------------ runs that crashed


async def test_what_a_run_leaves_in_flight_is_unknown(place: BucketPlace) -> None:
    async with session(place) as one:
        await one.claim("1", "body", KNOWN)
        async with session(place) as other:
            assert await state_of(other) is State.IN_FLIGHT
            assert not (await other.claim("1", "body", AGAIN))[0]
    async with session(place) as other:
        (entry,) = (await other.look_up(["1"])).values()
        assert (entry.state, entry.body_digest) == (State.UNKNOWN, "body")
        assert "ended before the outcome" in str(entry.reason)
        assert not (await other.claim("1", "body", KNOWN))[0]
        granted, before = await other.claim("1", "body", AGAIN)
        assert granted
        assert before == entry


async def test_heartbeats_keep_a_run_alive(place: BucketPlace) -> None:
    heartbeat_s = 1.5
    async with (
        session(place, heartbeat_s=heartbeat_s) as one,
        session(place) as other,
        connected(place.url) as connection,
    ):
        await one.claim("1", "body", KNOWN)
        stream = connection.jetstream()
        info = await stream.stream_info(f"KV_{place.bucket}_runs")
        assert info.config.max_age == heartbeat_s
        beats = info.state.last_seq

        async def are_renewed() -> bool:
            found = await stream.stream_info(f"KV_{place.bucket}_runs")
            return found.state.last_seq >= beats + 10  # two runs: well after the first have gone

        await until(are_renewed, "the heartbeats")
        assert await state_of(other) is State.IN_FLIGHT


async def expire_heartbeats(place: BucketPlace) -> None:
    """As if all heartbeats had expired."""
    async with connected(place.url) as connection:
        await connection.jetstream().purge_stream(f"KV_{place.bucket}_runs")


async def test_a_run_that_counted_as_crashed_still_records_what_it_sent(place: BucketPlace) -> None:
    async with session(place) as one, session(place) as other:
        for key in ("1", "2", "3"):
            await one.claim(key, "body", KNOWN)
        await expire_heartbeats(place)
        for key in ("1", "2"):
            granted, before = await other.claim(key, "body", AGAIN)
            assert granted
            assert before is not None
            assert before.state is State.UNKNOWN
        await one.record(Entry("1", State.NOT_SENT, "body"))
        await one.record(Entry("2", State.SENT, "body"))
        await one.record(Entry("3", State.NOT_SENT, "body"))
        states = [state for key in ("1", "2", "3") if (state := states_of(place)[key])]
        # The other run records the outcome of the first; nothing replaces that of the second.
        assert states == [State.UNKNOWN, State.SENT, State.NOT_SENT]
        await other.record(Entry("1", State.SENT, "body"))
        await other.record(Entry("2", State.UNKNOWN, "body"))
        assert states_of(place) == {
            "1": State.SENT,
            "2": State.SENT,
            "3": State.NOT_SENT,
        }


async def test_a_run_sends_a_heartbeat_before_it_claims_after_a_silence(place: BucketPlace) -> None:
    async with NatsLedger(place.url, place.bucket) as ledger:
        await expire_heartbeats(place)
        ledger.bucket.runs.last_heartbeat_at -= 50.0  # of the 60 s that a heartbeat lives
        async with ledger.session("scope", "s.example") as one, session(place) as other:
            await expire_heartbeats(place)
            ledger.bucket.runs.last_heartbeat_at -= 50.0
            await one.claim("1", "body", KNOWN)
            assert await state_of(other) is State.IN_FLIGHT


async def test_after_a_reconnect_other_runs_count_as_alive_for_a_while(place: BucketPlace) -> None:
    async with session(place, heartbeat_s=1.0) as one:
        await one.claim("1", "body", KNOWN)
    ledger = NatsLedger(place.url, place.bucket)
    async with ledger, ledger.session("scope", "s.example") as other:
        assert await state_of(other) is State.UNKNOWN
        ledger.bucket.connection.stats["reconnects"] += 1
        assert await state_of(other) is State.IN_FLIGHT

        async def is_unknown() -> bool:
            return await state_of(other) is State.UNKNOWN

        await until(is_unknown, "the end of the grace")


# ------------------------------------------------------------------------ buckets that are deleted


async def deleted(place: BucketPlace, what: str = "") -> None:
    async with connected(place.url) as connection:
        assert await connection.jetstream().delete_key_value(f"{place.bucket}{what}")


async def test_a_deleted_bucket_of_runs_is_created_again_and_no_run_counts_as_crashed(
    place: BucketPlace,
) -> None:
    ledger = NatsLedger(place.url, place.bucket, heartbeat_s=2.0)
    async with session(place, heartbeat_s=2.0) as one, ledger, ledger.session("scope", "") as other:
        await one.claim("1", "body", KNOWN)
        await deleted(place, "_runs")
        assert await state_of(other) is State.IN_FLIGHT
        for number in range(2, 14):
            granted, _ = await other.claim(str(number), "body", KNOWN)
            assert granted
            assert await state_of(other) is State.IN_FLIGHT
            assert await state_of(one, str(number)) is State.IN_FLIGHT
            await asyncio.sleep(0.2)  # longer than until both have sent heartbeats
        await one.record(Entry("1", State.SENT, "body"))
        assert await state_of(other) is State.SENT


@pytest.mark.parametrize("replaced", [False, True])
async def test_without_its_bucket_of_entries_a_run_sends_nothing_more(
    place: BucketPlace, *, replaced: bool
) -> None:
    ledger = NatsLedger(place.url, place.bucket, heartbeat_s=0.3)
    async with ledger, ledger.session("scope", "s.example") as one:
        await one.claim("1", "body", KNOWN)
        await one.record(Entry("1", State.SENT, "body"))
        await deleted(place)
        if replaced:
            async with session(place) as other:
                assert await state_of(other) is None

            async def is_refused() -> bool:
                try:
                    await one.claim(secrets.token_hex(4), "body", KNOWN)
                except LedgerError:
                    return True
                return False

            await until(is_refused, "the refusal", 10)
        with pytest.raises(LedgerError, match="was deleted while it was in use"):
            await one.claim("1", "body", KNOWN)
    with pytest.raises(LedgerError, match="was deleted while it was in use"):
        async with ledger:
            pass
    async with connected(place.url) as connection:
        names = [each.config.name for each in await connection.jetstream().streams_info()]
    assert (f"KV_{place.bucket}" in names) is replaced
    async with session(place) as other:  # the next run has a new one
        granted, _ = await other.claim("1", "body", KNOWN)
        assert granted


# ----------------------------------------------------------------- cancelled, or not acknowledged


@pytest.mark.parametrize("known", [None, State.NOT_SENT, State.INVALID, State.UNKNOWN])
async def test_a_claim_that_was_cancelled_while_it_waited_is_released(
    nats_server: NatsServer, known: State | None
) -> None:
    place = a_bucket(nats_server.url)
    async with session(place) as one:
        if known is not None:
            await one.record(Entry("1", known, "body"))
        with stopped(nats_server):
            claiming = asyncio.ensure_future(one.claim("1", "body", AGAIN))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            claiming.cancel()
            await asyncio.wait([claiming])
            assert claiming.cancelled()
    assert states_of(place) == {"1": State.UNKNOWN if known is State.UNKNOWN else State.NOT_SENT}


async def test_a_claim_that_is_cancelled_as_its_answer_arrives_is_released(
    place: BucketPlace,
) -> None:
    async with session(place) as one:
        for number in range(60):
            claiming = asyncio.ensure_future(one.claim(str(number), "body", KNOWN))
            for _ in range(number):
                await asyncio.sleep(0)
            claiming.cancel()
            await asyncio.wait([claiming])
            if not claiming.cancelled():
                one.record(Entry(str(number), State.NOT_SENT))
    assert set(states_of(place).values()) <= {State.NOT_SENT}


async def test_what_was_not_acknowledged_is_tried_again(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = a_bucket(nats_server.url)
    tries = 0
    update = KeyValue.update

    async def counted(self: KeyValue, *args: Any, **settings: Any) -> int:
        nonlocal tries
        tries += 1
        return await update(self, *args, **settings)

    monkeypatch.setattr(KeyValue, "update", counted)
    async with session(place, patience_s=3.0) as one:

        async def is_tried() -> bool:
            return tries >= 3

        with stopped(nats_server):
            claiming = asyncio.ensure_future(one.claim("1", "body", KNOWN))
            await until(is_tried, "three tries")
            assert not claiming.done()
        assert await claiming == (True, None)
        tries = 0
        with stopped(nats_server):
            recording = asyncio.ensure_future(one.record(Entry("1", State.SENT, "body")))
            await until(is_tried, "three tries")
        await recording
    async with session(place) as other:
        assert await state_of(other) is State.SENT


async def test_what_was_not_acknowledged_in_time_fails_and_is_recorded_late(
    nats_server: NatsServer,
) -> None:
    place = a_bucket(nats_server.url)
    async with session(place, patience_s=1.0) as one:
        await one.claim("2", "body", KNOWN)
        with stopped(nats_server):
            results = await asyncio.gather(
                one.record(Entry("2", State.SENT, "body")),
                one.claim("1", "body", KNOWN),
                one.look_up(["1"]),
                return_exceptions=True,
            )
        messages = [str(each) for each in results if isinstance(each, LedgerError)]
        assert ["written" in each for each in messages] == [True, True, False]
        assert "can't be read" in messages[2]
        assert all("for 1 seconds no ack" in each for each in messages)
    # The server has both all the same: leaving waits for them. What was not claimed was not sent.
    assert states_of(place) == {"1": State.NOT_SENT, "2": State.SENT}


async def test_what_the_server_never_received_is_recorded_late(
    place: BucketPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(_self: KeyValue, *_args: Any, **_settings: Any) -> int:
        raise nats.errors.TimeoutError

    async with session(place, patience_s=1.0) as one:
        await one.claim("1", "body", KNOWN)
        with monkeypatch.context() as away:
            away.setattr(KeyValue, "update", lost)
            with pytest.raises(LedgerError, match="no acknowledgement"):
                await one.record(Entry("1", State.SENT, "body"))
            assert await state_of(one) is State.IN_FLIGHT

        async def is_recorded() -> bool:
            return await state_of(one) is State.SENT

        await until(is_recorded, "the record")


# ------------------------------------------------------------------ buckets that are refused


async def test_without_a_server_it_is_not_opened() -> None:
    url = f"nats://somebody:Sesame@127.0.0.1:{await unused_port()}"
    server = Shop()
    async with server.client() as client:
        with pytest.raises(LedgerError, match="no NATS server could be reached") as raised:
            await client.send_orders(orders(3), ledger=NatsLedger(url, patience_s=1.0))
    assert "Sesame" not in str(raised.value)
    assert not server.posts


async def test_a_wrong_token_is_an_error_at_once(tmp_path: Path) -> None:
    async with NatsServer(tmp_path, token="Sesame") as server:
        address = server.url.replace("Sesame@", "")
        async with asyncio.timeout(10):
            with pytest.raises(LedgerError, match=r"(?i)authorization") as raised:
                async with NatsLedger(address, token="Basil", patience_s=60.0):
                    pass
        assert "Basil" not in str(raised.value)
        async with NatsLedger(address, token="Sesame") as ledger:
            assert "Sesame" not in repr(ledger)


@pytest.mark.parametrize("where", ["", "_runs"])
async def test_a_bucket_with_the_wrong_lifetime_is_refused(place: BucketPlace, where: str) -> None:
    async with connected(place.url) as connection:
        ttl = None if where else 3600.0
        config = api.KeyValueConfig(f"{place.bucket}{where}", ttl=ttl)
        await connection.jetstream().create_key_value(config)
        with pytest.raises(LedgerError, match="for ever" if where else "forgets entries"):
            async with NatsLedger(place.url, place.bucket):
                pass


async def test_a_bucket_that_drops_old_entries_is_refused(place: BucketPlace) -> None:
    async with connected(place.url) as connection:
        await connection.jetstream().add_stream(
            name=f"KV_{place.bucket}",
            subjects=[f"$KV.{place.bucket}.>"],
            max_msgs_per_subject=1,
            max_msgs=1000,
            discard=api.DiscardPolicy.OLD,
        )
        with pytest.raises(LedgerError, match="forgets entries"):
            async with NatsLedger(place.url, place.bucket):
                pass


async def test_a_bucket_that_holds_something_else_is_an_error(place: BucketPlace) -> None:
    async with session(place) as one, connected(place.url) as connection:
        bucket = await connection.jetstream().key_value(place.bucket)
        await one.record(Entry("1", State.SENT))
        (key,) = await bucket.keys()
        for value in (b"", b"1", b"{}", b'{"write":"a.1","state":"lost","key":"1"}'):
            await bucket.put(key, value)
            with pytest.raises(LedgerError, match="holds something that is not an entry"):
                await one.look_up(["1"])
            with pytest.raises(LedgerError, match="holds something that is not an entry"):
                await one.claim("1", "body", KNOWN)
            assert not value or (await bucket.get(key)).value == value


async def test_a_bucket_that_the_caller_created_is_used(place: BucketPlace) -> None:
    async with connected(place.url) as connection:
        config = api.KeyValueConfig(place.bucket, history=5, direct=None)
        await connection.jetstream().create_key_value(config)
    async with session(place) as one:
        assert await one.claim("1", "body", KNOWN) == (True, None)
        assert await state_of(one) is State.IN_FLIGHT


async def test_a_full_bucket_stops_it_cleanly(place: BucketPlace) -> None:
    async with connected(place.url) as connection:
        config = api.KeyValueConfig(place.bucket, max_bytes=4096)
        await connection.jetstream().create_key_value(config)
    async with session(place) as one, asyncio.timeout(10):
        with pytest.raises(LedgerError, match="maximum bytes"):
            await asyncio.gather(*(one.claim(str(n), "body", KNOWN) for n in range(100)))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"bucket": "a.b"}, "bucket"),
        ({"bucket": ""}, "bucket"),
        ({"heartbeat_s": 0.01}, "heartbeat_s"),
        ({"heartbeat_s": float("nan")}, "heartbeat_s"),
        ({"patience_s": 0}, "patience_s"),
        ({"patience_s": float("nan")}, "patience_s"),
        ({"replicas": 2}, "replicas"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        NatsLedger("nats://127.0.0.1:4222", **settings)


# --------------------------------------------------------------------------- opened and closed


async def test_the_callers_connection_is_used_and_left_open(place: BucketPlace) -> None:
    async with connected(place.url) as connection:
        for _ in range(2):
            async with NatsLedger(connection, place.bucket).session("scope", "s.example") as one:
                await one.record(Entry("1", State.SENT))
        assert connection.is_connected
    assert states_of(place) == {"1": State.SENT}


async def test_it_can_be_opened_several_times(place: BucketPlace) -> None:
    ledger = NatsLedger(place.url, place.bucket)
    for _ in range(2):
        async with ledger, ledger.session("one", "a"), ledger.session("two", "b") as two:
            run = ledger.bucket
            await two.record(Entry("1", State.NOT_SENT))
            assert ledger.bucket is run
        with pytest.raises(LedgerError, match="not open"):
            assert ledger.bucket


async def test_an_open_ledger_belongs_to_one_loop(place: BucketPlace) -> None:
    ledger = NatsLedger(place.url, place.bucket)

    async def elsewhere() -> None:
        async with ledger:
            pass

    async with ledger:
        with pytest.raises(ConfigurationError, match="one NatsLedger object for each event loop"):
            await asyncio.to_thread(asyncio.run, elsewhere())
    await asyncio.to_thread(asyncio.run, elsewhere())  # it is closed


def all_of(directory: Path) -> bytes:
    return b"".join(each.read_bytes() for each in directory.rglob("*") if each.is_file())


async def test_nothing_personal_is_in_the_bucket(tmp_path: Path) -> None:
    personal = {
        "contact_email": "jane.doe@shop.example",
        "contact_unique_id": "Verylongname",
        "order_id": "jane.doe@shop.example",
        "products": [{"product_name": "Chaise-longue"}],
    }
    others = [{**personal, "order_id": str(number)} for number in range(4)]
    invalid = {**personal, "order_id": "9", "products": [], "jane.doe@shop.example": "Jane"}
    shop = Shop(_0="refuse", _1="lose", _2="fail", _3="throttle")
    async with NatsServer(tmp_path, token="Sesame") as server:
        async with shop.client() as client, NatsLedger(server.url) as ledger:
            report = await client.send_orders([personal, invalid, *others], ledger=ledger)
            await client.send_orders(
                [{**personal, "order_id": "8"}],
                ledger=ledger,
                key=lambda order: order["contact_email"],
            )
        assert len(await stored_in(BucketPlace(server.url, "everlytic_ledger"))) == 6
    stored = all_of(tmp_path)

    assert report.counts[Outcome.SENT] == 1
    for secret in ("jane", "doe@", "@shop", STORE_HASH, CUSTOMER_HASH, "Sesame"):
        assert secret.lower().encode() not in stored.lower()
    assert b"refused the order (422)" in stored  # it would be found
