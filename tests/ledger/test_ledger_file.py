"""`LedgerFile`: what it refuses to open, what it shows, what it marks; and the SQL of a run."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_processes import killed
from ledger_shop import locked, read_states

from everlytic_async import LedgerError
from everlytic_async.ledger import Durability, Entry, LedgerFile, LedgerSummary, ResendPolicy, State
from everlytic_async.ledger._protocol import CRASHED_MESSAGE
from everlytic_async.ledger._sqlite import Claim, Record, SqliteWriter

KNOWN = ResendPolicy()


def write(file: SqliteWriter, *entries: Entry, host: str = "shop.example") -> None:
    """Record these, or claim them."""
    scope = file.scope(host, host)
    file.write(
        [
            Claim(scope, entry.key, entry.body_digest, KNOWN)
            if entry.state is State.IN_FLIGHT
            else Record(scope, entry)
            for entry in entries
        ]
    )


def filled(path: Path, *states: State) -> None:
    """A ledger with an order in each of these states, keyed by its state."""
    with SqliteWriter(path, clock=lambda: 7.0) as file:
        write(file, *(Entry(state, state, "body") for state in states))


def in_flight(path: Path, *keys: str) -> SqliteWriter:
    file = SqliteWriter(path)
    write(file, *(Entry(key, State.IN_FLIGHT, "body") for key in keys))
    return file


def pragma(file: LedgerFile | SqliteWriter, name: str) -> Any:
    return file.connection.execute(f"PRAGMA {name}").fetchone()[0]


# ---------------------------------------------------------------------------- what it refuses


def make_database(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()


def damage(path: Path) -> None:
    with SqliteWriter(path) as file:
        write(file, *(Entry(str(number), State.SENT, "body") for number in range(5_000)))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20_000] = b"\xa5" * 20_000
    path.write_bytes(content)


def cut_off(path: Path) -> None:
    damage(path)
    path.write_bytes(path.read_bytes()[:5_000])


def of_a_later_version(path: Path) -> None:
    filled(path, *State)
    make_database(path, "PRAGMA user_version = 3")


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (lambda path: path.write_bytes(b"order_id,email\n" * 1_000), "it is not a ledger"),
    "tables": (lambda path: make_database(path, "CREATE TABLE x (y)"), "of another program"),
    "number": (lambda path: make_database(path, "PRAGMA application_id = 7"), "another program"),
    "same tables": (lambda path: make_database(path, "CREATE TABLE runs (y)"), "another program"),
    "later": (of_a_later_version, "a later version of everlytic-async"),
    "damaged": (damage, "damaged"),
    "cut off": (cut_off, "damaged"),
    "directory": (lambda path: path.mkdir(), "it is not a file"),
    "pipe": (os.mkfifo, "it is not a file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_a_ledger_is_refused_and_left_as_it_was(path: Path, case: str) -> None:
    make, says = REFUSED[case]
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(LedgerError, match=says) as raised:
        LedgerFile(path)

    assert path.name in str(raised.value)
    assert (path.read_bytes() if path.is_file() else b"") == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_ledger_is_not_created_without_its_directory_nor_to_look_at_it(path: Path) -> None:
    with pytest.raises(LedgerError, match="its directory is missing"):
        LedgerFile(path / "orders.ledger")
    with pytest.raises(LedgerError, match="there is no ledger at"):
        LedgerFile(path, must_exist=True)
    assert not path.exists()
    path.symlink_to(path)
    with pytest.raises(LedgerError, match="can't be opened"):
        LedgerFile(path)


@pytest.mark.parametrize("lock", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_a_ledger_that_another_process_holds_may_only_be_looked_at(path: Path, lock: str) -> None:
    filled(path, State.SENT)
    with locked(path, lock):
        with pytest.raises(LedgerError, match="another process holds it"):
            LedgerFile(path, wait_s=0.01)
        with LedgerFile(path, must_exist=True, wait_s=0.01) as file:
            assert file.summary().counts[State.SENT] == 1
            assert [entry.key for _, entry in file.entries()] == ["sent"]
            with pytest.raises(LedgerError, match="another process holds it"):
                file.resolve(State.SENT)


@pytest.mark.parametrize("wait_s", [0.0, 10.0])
def test_another_process_that_creates_the_file_is_waited_for(path: Path, wait_s: float) -> None:
    with locked(path) as other:  # a file that is not in WAL mode yet
        done = threading.Timer(0.02, other.execute, ["ROLLBACK"])
        done.start()
        try:
            if wait_s:
                LedgerFile(path, wait_s=wait_s).close()
            else:
                with pytest.raises(LedgerError, match="another process holds it"):
                    LedgerFile(path, wait_s=wait_s)
        finally:
            done.join()


def test_a_name_is_a_file_wherever_the_process_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (":memory:", "file:x?mode=memory"):
        with SqliteWriter(name) as file:
            write(file, Entry("1", State.SENT))
            monkeypatch.chdir(tmp_path.parent)
        assert read_states(tmp_path / name) == {"1": State.SENT}
        monkeypatch.chdir(tmp_path)


def test_durability_is_how_long_a_commit_waits(path: Path) -> None:
    for durability, synchronous in [(Durability.PROCESS, 1), (Durability.POWER, 2), ("power", 2)]:
        with SqliteWriter(path, durability=Durability(durability)) as file:
            assert pragma(file, "synchronous") == synchronous
            assert pragma(file, "journal_mode") == "wal"


# ------------------------------------------------------------------------------------- migrations


#: How each version made its files, in order.
VERSIONS = [
    """
    CREATE TABLE scopes (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, host TEXT NOT NULL
    );
    CREATE TABLE runs (
        id INTEGER PRIMARY KEY AUTOINCREMENT, token TEXT NOT NULL UNIQUE,
        began REAL NOT NULL, ended REAL
    );
    CREATE TABLE orders (
        scope INTEGER NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL, state INTEGER NOT NULL,
        run INTEGER, attempts INTEGER NOT NULL, status INTEGER, reason TEXT, at REAL NOT NULL,
        PRIMARY KEY (scope, key)
    ) WITHOUT ROWID;
    """,
    "ALTER TABLE runs ADD COLUMN committed INTEGER NOT NULL DEFAULT 0;",
]


def old_ledger(path: Path, version: int, more: str = "") -> None:
    """A ledger of an earlier version, with an order that was sent; of version 0, an empty file."""
    path.touch()
    if not version:
        return
    with closing(sqlite3.connect(path)) as old:
        old.executescript("".join(VERSIONS[:version]))
        old.execute("INSERT INTO scopes (name, host) VALUES ('a', 'shop.example')")
        old.execute("INSERT INTO orders VALUES (1, '1', 'body', 2, NULL, 1, 200, NULL, 5.0)")
        old.executescript(f"{more}; PRAGMA application_id = 1163283521;")
        old.execute(f"PRAGMA user_version = {version}")
        old.commit()


@pytest.mark.parametrize("version", range(len(VERSIONS) + 1))
def test_a_ledger_of_each_version_is_used_with_what_it_holds(path: Path, version: int) -> None:
    old_ledger(path, version)
    kept = [("shop.example", "1")] if version else []
    for _ in range(2):  # the second time it is a current one
        with LedgerFile(path) as file:
            assert pragma(file, "user_version") == len(VERSIONS)
            assert pragma(file, "application_id") == int.from_bytes(b"EVLA")
            assert [(host, entry.key) for host, entry in file.entries()] == kept
    filled(path, State.SENT)


def test_a_migration_that_fails_changes_nothing(path: Path) -> None:
    old_ledger(path, 1, "ALTER TABLE runs ADD COLUMN committed")  # as the second one will
    for must_exist in (False, True):
        with pytest.raises(LedgerError, match="can't be written: duplicate column"):
            LedgerFile(path, must_exist=must_exist)
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA user_version").fetchone() == (1,)
        assert file.execute("SELECT key FROM orders").fetchall() == [("1",)]


# ------------------------------------------------------------------------------------- to look at


def test_a_summary_has_the_figures(path: Path) -> None:
    times = iter(range(100, 200))
    with LedgerFile(path) as looks, SqliteWriter(path, clock=lambda: float(next(times))) as file:
        empty = looks.summary()
        for host in ("b.example", "a.example"):
            write(file, *(Entry(state, state) for state in list(State)[1:]), host=host)
        write(file, Entry("2", State.SENT), host="a.example")
        with SqliteWriter(path):
            full = looks.summary()

    assert empty == LedgerSummary(dict.fromkeys(State, 0), None, None, (), 1)
    assert full.counts == {**dict.fromkeys(State, 2), State.IN_FLIGHT: 0, State.SENT: 3}
    assert (full.first_at, full.last_at) == (101.0, 103.0)
    assert full.hosts == ("a.example", "b.example")
    assert full.running == 2


def test_entries_come_by_key_and_state_with_their_host(path: Path) -> None:
    with SqliteWriter(path, clock=lambda: 9.5) as file, LedgerFile(path) as looks:
        write(file, Entry("2", State.UNKNOWN), Entry("1", State.REJECTED), host="one.example")
        write(file, Entry("0", State.SENT), host="two.example")
        found = [(host, entry.key, entry.recorded_at) for host, entry in looks.entries()]
        unknown = [entry.key for _, entry in looks.entries([State.UNKNOWN])]

    one, two = "one.example", "two.example"
    assert found == [(one, "1", 9.5), (one, "2", 9.5), (two, "0", 9.5)]
    assert unknown == ["2"]


# ------------------------------------------------------------------------------------------ groups


_SCOPES, _KEYS, _BODIES = st.sampled_from([1, 2]), st.sampled_from("abcd"), st.sampled_from("xy")
_POLICIES = st.sampled_from([KNOWN, ResendPolicy(frozenset({State.UNKNOWN, State.REJECTED}))])
_CLAIMS = st.builds(Claim, _SCOPES, _KEYS, _BODIES, _POLICIES)
_ENTRIES = st.builds(Entry, _KEYS, st.sampled_from(list(State)[1:]), _BODIES)
_GROUPS = st.lists(st.lists(_CLAIMS | st.builds(Record, _SCOPES, _ENTRIES), min_size=1))


@settings(max_examples=25, deadline=None)
@given(_GROUPS)
def test_a_group_is_executed_as_its_requests_would_be_alone(
    groups: list[list[Claim | Record]],
) -> None:
    def run(name: str, groups: Iterable[list[Claim | Record]]) -> Any:
        with (
            TemporaryDirectory() as directory,
            SqliteWriter(Path(directory, name), clock=lambda: 0.0) as file,
            LedgerFile(file.path) as looks,
        ):
            for number in (1, 2):
                file.scope(str(number), "shop.example")
            answers = [answer for group in groups for answer in file.write(group)]
            return answers, list(looks.entries())

    alone = [[request] for group in groups for request in group]
    assert run("as groups", groups) == run("one by one", alone)


def test_a_group_that_fails_leaves_nothing(path: Path) -> None:
    with SqliteWriter(path) as file:
        file.connection.execute(
            "CREATE TEMP TRIGGER no BEFORE INSERT ON main.orders "
            "WHEN new.key = '2' BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
        with pytest.raises(LedgerError, match="can't be written: no"):
            write(file, *(Entry(key, State.IN_FLIGHT, "body") for key in "123"))
    assert read_states(path) == {}


# ----------------------------------------------------------------------------------- crashed runs


async def crash(path: Path, key: str = "1", **how: bool) -> Path:
    """A process is killed; its lock file. See `killed`."""
    before = set(path.parent.glob(f"{path.name}-run-*"))
    await killed(path, in_flight=key, **how)
    (lock,) = set(path.parent.glob(f"{path.name}-run-*")) - before
    return lock


async def test_a_run_that_was_killed_before_the_ledger_knew_it_lost_nothing(path: Path) -> None:
    filled(path, State.SENT)
    lock = await crash(path, starts=False)
    assert lock.exists()
    in_flight(path).close()
    assert not lock.exists()
    assert read_states(path) == {State.SENT: State.SENT}


@pytest.mark.parametrize("is_locked", [False, True])
async def test_orders_in_flight_in_a_crashed_run_are_unknown_to_whoever_looks(
    path: Path, is_locked: bool
) -> None:
    """Before any run has recorded it, and beside what a living process has in flight."""
    filled(path, State.UNKNOWN, State.SENT)
    with in_flight(path, "alive"):
        lock = await crash(path, "crashed")
        with LedgerFile(path) as looks, locked(path) if is_locked else nullcontext():
            found = {
                "entries": {entry.key: entry.state for _, entry in looks.entries()},
                "find": {
                    entry.key: entry.state
                    for *_, entry in looks.find(["alive", "crashed", "unknown", "sent"])
                },
                "look_up": {
                    key: entry.state
                    for key, entry in looks.look_up(
                        looks.find_scopes("shop.example"),
                        ["alive", "crashed", "unknown", "sent"],
                    ).items()
                },
            }
            of_states = {
                state: [(entry.key, entry.reason) for _, entry in looks.entries([state])]
                for state in State
            }
            summary = looks.summary()
        with LedgerFile(path) as resolves:  # what a living process has in flight is left alone
            assert [resolves.resolve(State.SENT) for _ in range(2)] == [(2, ()), (0, ())]
            entries = [entry for _, entry in resolves.entries()]
        assert not lock.exists()
    states = {"alive": State.IN_FLIGHT, "crashed": State.UNKNOWN}
    states |= {state: state for state in (State.UNKNOWN, State.SENT)}
    assert found == dict.fromkeys(found, states)
    assert of_states[State.UNKNOWN] == [("crashed", CRASHED_MESSAGE), ("unknown", None)]
    assert of_states[State.IN_FLIGHT] == [("alive", None)]
    resolved = {entry.key: (entry.state, entry.reason) for entry in entries}
    marked = dict.fromkeys(("crashed", "unknown"), (State.SENT, "marked as sent by hand"))
    assert resolved == {"alive": (State.IN_FLIGHT, None), "sent": (State.SENT, None), **marked}
    assert summary.running == 1
    assert {state: count for state, count in summary.counts.items() if count} == {
        State.IN_FLIGHT: 1,
        State.UNKNOWN: 2,
        State.SENT: 1,
    }


async def test_a_run_that_goes_on_notices_that_another_has_crashed(path: Path) -> None:
    resend = ResendPolicy(frozenset({State.UNKNOWN}))
    with SqliteWriter(path) as file:
        await killed(path)
        scope = file.scope("shop.example", "shop.example")
        ((granted, before),) = file.write([Claim(scope, "in flight", "body", resend)])
    assert granted
    assert before.state is State.UNKNOWN


def test_a_run_that_opened_it_by_a_link_is_seen(path: Path) -> None:
    link = path.parent / "elsewhere" / "link"
    link.parent.mkdir()
    link.symlink_to(path)
    with in_flight(path, "1"), SqliteWriter(link), LedgerFile(path) as file:
        assert file.summary().running == 2
        assert file.summary().counts[State.IN_FLIGHT] == 1
    assert [found.name for found in link.parent.iterdir()] == ["link"]


def test_only_lock_files_that_nobody_holds_are_removed_and_only_by_runs(path: Path) -> None:
    stray = path.with_name(f"{path.name}-run-0123456789abcdef")
    kept = path.with_name(f"{path.name}-run-2024"), path.with_name(f"x-run-{stray.name[-16:]}")
    for each in (stray, *kept):
        each.touch()
    with in_flight(path), LedgerFile(path) as looks:
        assert not stray.exists()
        stray.touch()
        LedgerFile(path).close()
        assert stray.exists()
        in_flight(path).close()
        assert looks.summary().running == 1
        assert not stray.exists()
    for each in kept:
        each.unlink()


async def test_to_see_whether_a_run_is_alive_neither_creates_a_file_nor_looks_alive(
    path: Path,
) -> None:
    lock = await crash(path)
    with closing(sqlite3.connect(f"{lock.as_uri()}?mode=ro", uri=True)) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM sqlite_schema").fetchall()  # it is looking, too
        with LedgerFile(path) as looks:
            assert looks.summary().running == 0
            lock.unlink()
            assert looks.summary().running == 0
    assert not lock.exists()


async def test_the_files_of_a_crashed_run_stay_until_its_end_is_committed(path: Path) -> None:
    lock = await crash(path)
    with LedgerFile(path) as file:
        with suppress(LookupError), file.transaction():
            file.recover_crashed_runs()
            raise LookupError
        assert lock.exists()
    for _ in range(2):
        in_flight(path).close()
    assert not lock.exists()


# ----------------------------------------------------------------------------------------- by hand


def test_a_key_of_two_stores_marks_none_without_the_host(path: Path) -> None:
    with SqliteWriter(path) as writer:
        for host in ("shop.example", "other.example"):
            write(writer, *(Entry(key, State.UNKNOWN) for key in ("1", host)), host=host)
    with LedgerFile(path) as file:
        with pytest.raises(LedgerError, match="nothing was marked: 1 names unknown orders of 2 "):
            file.resolve(State.SENT, ["shop.example", "1"])
        assert len(list(file.entries([State.UNKNOWN]))) == 4
        assert file.resolve(State.SENT, ["1"], host="other.example") == (1, ())
        assert file.resolve(State.SENT, ["1"]) == (1, ())
        assert file.resolve(State.NOT_SENT, host="shop.example") == (1, ())
        ((host, entry),) = file.entries([State.UNKNOWN])
    assert host == entry.key == "other.example"


@pytest.mark.parametrize("to", sorted({*State} - {State.SENT, State.NOT_SENT}))
def test_an_unknown_order_is_marked_as_nothing_else(path: Path, to: State) -> None:
    with LedgerFile(path) as file, pytest.raises(ValueError, match="as sent, or as not sent"):
        file.resolve(to)
