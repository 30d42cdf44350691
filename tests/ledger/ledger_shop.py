"""Ledgers, and what they hold."""

from __future__ import annotations

import asyncio
import json
import secrets
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import nats
from nats.aio.client import Client
from nats.js.errors import BucketNotFoundError, KeyNotFoundError

from everlytic_async import Outcome, SqliteLedger
from everlytic_async.ledger import (
    Entry,
    LedgerFile,
    LedgerSession,
    NatsLedger,
    ResendPolicy,
    State,
)
from support.delivery import CUSTOMER_HASH, STORE_HASH
from support.shop import Shop


async def send_personal_orders(ledger: SqliteLedger | NatsLedger) -> Mapping[Outcome, int]:
    """Send orders that end in each way and are full of personal data: the counts of the first."""
    personal = {
        "contact_email": "jane.doe@shop.example",
        "contact_unique_id": "Verylongname",
        "order_id": "jane.doe@shop.example",
        "products": [{"product_name": "Chaise-longue"}],
    }
    source: list[dict[str, Any]] = [
        personal,
        {name: value for name, value in personal.items() if name != "order_id"},
        {**personal, "order_id": "9", "products": [], "jane.doe@shop.example": "Jane"},
        *({**personal, "order_id": str(number)} for number in range(4)),
    ]
    async with Shop(_0="refuse", _1="lose", _2="fail", _3="throttle").opened_client() as client:
        report = await client.send_orders(source, ledger=ledger)
        custom = {**personal, "order_id": "sha256:jane.doe@shop.example"}
        await client.send_orders([custom], ledger=ledger, key=lambda raw: raw["contact_email"])
    return report.counts


def assert_nothing_personal(stored: bytes) -> None:
    """The same orders' names and addresses, and the hashes, are not in what a ledger stores."""
    stored = stored.lower()
    for secret in ("jane", "doe@", "@shop", "verylong", "chaise", STORE_HASH, CUSTOMER_HASH):
        assert secret.lower().encode() not in stored
    assert b"refused the order (422)" in stored  # it would be found


def agree(states: Mapping[str, State], server: Shop) -> None:
    """What was sent is on record, nothing else counts as sent, and nothing was sent twice."""
    assert State.IN_FLIGHT not in states.values()
    perhaps = {key for key, state in states.items() if state in (State.SENT, State.UNKNOWN)}
    assert set(server.processed) <= perhaps
    assert {key for key, state in states.items() if state is State.SENT} <= set(server.processed)
    assert all(count == 1 for count in server.processed.values())


@attrs.frozen
class BucketPlace:
    """Where a ledger lies in NATS."""

    url: str
    bucket: str

    def __str__(self) -> str:
        return f"{self.url}/{self.bucket}"


Place = Path | BucketPlace


def make_bucket(url: str) -> BucketPlace:
    """A place in a server that many tests share."""
    return BucketPlace(url, f"test_{secrets.token_hex(8)}")


def ledger_at(place: Place, **settings: Any) -> SqliteLedger | NatsLedger:
    """A ledger of the kind that lies at such a place."""
    if isinstance(place, BucketPlace):
        return NatsLedger(place.url, place.bucket, **settings)
    return SqliteLedger(place, **settings)


@asynccontextmanager
async def session_at(
    place: Place, *claimed: str, scope: str = "a scope", host: str = "shop.example", **settings: Any
) -> AsyncIterator[LedgerSession]:
    """A session with a ledger that nobody else opened, and claims for these orders."""
    async with ledger_at(place, **settings).session(scope, host) as session:
        for key in claimed:
            assert (await session.claim(key, "body", ResendPolicy()))[0]
        yield session


async def keep(place: Place, *entries: Entry, **settings: Any) -> None:
    """Record these."""
    async with session_at(place, **settings) as session:
        for entry in entries:
            await session.record(entry)


@contextmanager
def locked(path: Path, lock: str = "BEGIN IMMEDIATE") -> Iterator[sqlite3.Connection]:
    """Another process holds an SQLite ledger, until a ROLLBACK or the end."""
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        other.execute(lock)
        yield other
    finally:
        other.close()


def read_entries(place: Place) -> dict[str, Entry]:
    """What a ledger holds, by key; nothing where there is none. It is not changed."""
    if isinstance(place, BucketPlace):
        with ThreadPoolExecutor(1) as thread:  # which has no event loop yet
            entries = thread.submit(asyncio.run, _read_bucket_entries(place)).result()
        return {entry.key: entry for entry in entries}
    if not place.exists():
        return {}
    with LedgerFile(place, must_exist=True) as file:
        return {entry.key: entry for _, entry in file.entries()}


def read_states(place: Place) -> dict[str, State]:
    """The states, by key."""
    return {key: entry.state for key, entry in read_entries(place).items()}


async def _read_bucket_entries(place: BucketPlace) -> list[Entry]:
    """All entries, as the next run would find them; read from the buckets themselves."""
    connection = await nats.connect(place.url)
    try:
        runs = set(await read_bucket(connection, f"{place.bucket}_runs"))
        values = (await read_bucket(connection, place.bucket)).values()
    finally:
        await connection.close()
    entries = []
    for value in values:
        known = json.loads(value)
        run = known.pop("write").partition(".")[0]
        state = State(known.pop("state"))
        if state is State.IN_FLIGHT and run not in runs:
            state, known["reason"] = State.UNKNOWN, "it ended before"
        known["body_digest"], known["recorded_at"] = known.pop("body"), known.pop("at")
        entries.append(Entry(**known, state=state))
    return entries


async def read_bucket(connection: Client, bucket: str) -> dict[str, bytes]:
    """The values by key. nats-py's ``keys()`` misses those that are renewed meanwhile."""
    stream = connection.jetstream()
    try:
        values = await stream.key_value(bucket)
    except BucketNotFoundError:
        return {}
    found = {}
    prefix = f"$KV.{bucket}."
    info = await stream.stream_info(f"KV_{bucket}", subjects_filter=f"{prefix}>")
    for subject in info.state.subjects or {}:
        key = subject.removeprefix(prefix)
        with suppress(KeyNotFoundError):  # it is deleted
            found[key] = (await values.get(key)).value or b""
    return found
