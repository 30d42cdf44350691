"""`LedgerFile`: what it refuses to open, what it shows, what it marks, how it is made to last."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlytic_async import LedgerError
from everlytic_async.ledger import (
    Durability,
    Entry,
    LedgerFile,
    LedgerSummary,
    ResendPolicy,
    State,
)
from everlytic_async.ledger._sqlite_schema import MIGRATIONS
from everlytic_async.ledger._sqlite_writer import Claim, Record, Request, SqliteWriter

KNOWN = ResendPolicy()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orders.ledger"


def filled(path: Path, *states: State, clock: Callable[[], float] = lambda: 7.0) -> None:
    """A ledger with an order in each of these states, keyed by its state."""
    with SqliteWriter(path, clock=clock) as file:
        scope = file.scope("a digest", "shop.example")
        file.execute(
            [
                Claim(scope, state, "body", KNOWN)
                if state is State.IN_FLIGHT
                else Record(scope, Entry(state, state, "body"))
                for state in states
            ]
        )


def pragma(file: LedgerFile | SqliteWriter, name: str) -> Any:
    return file.connection.execute(f"PRAGMA {name}").fetchone()[0]


# ------------------------------------------------------------------------------------- durability


@pytest.mark.parametrize(
    ("durability", "synchronous"), [(Durability.PROCESS, 1), (Durability.POWER, 2), ("power", 2)]
)
def test_durability_is_how_long_a_commit_waits(
    path: Path, durability: Durability, synchronous: int
) -> None:
    with SqliteWriter(path, durability=durability) as file:
        assert pragma(file, "synchronous") == synchronous
        assert pragma(file, "journal_mode") == "wal"


# ---------------------------------------------------------------------------- what it refuses


def make_database(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def not_a_database(path: Path) -> None:
    path.write_bytes(b"order_id,contact_email\n" * 1_000)


def foreign(path: Path) -> None:
    make_database(path, "CREATE TABLE customers (name)")


def foreign_by_number(path: Path) -> None:
    make_database(path, "PRAGMA application_id = 7")


def foreign_of_the_same_tables(path: Path) -> None:
    make_database(path, "CREATE TABLE orders (scope, key)")


def later(path: Path) -> None:
    filled(path, *State)
    make_database(path, f"PRAGMA user_version = {len(MIGRATIONS) + 1}")


def damaged(path: Path) -> None:
    with SqliteWriter(path) as file:
        scope = file.scope("a digest", "shop.example")
        file.execute([Record(scope, Entry(str(n), State.SENT, "body")) for n in range(5_000)])
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20_000] = b"\xa5" * 20_000
    path.write_bytes(content)


def cut_off(path: Path) -> None:
    damaged(path)
    path.write_bytes(path.read_bytes()[:5_000])


def a_directory(path: Path) -> None:
    path.mkdir()


REFUSED: list[tuple[Callable[[Path], None], str]] = [
    (not_a_database, "it is not a ledger"),
    (foreign, "database of another program"),
    (foreign_by_number, "database of another program"),
    (foreign_of_the_same_tables, "database of another program"),
    (later, "a later version of everlytic-async"),
    (damaged, "damaged"),
    (cut_off, "damaged"),
    (a_directory, "it is not a file"),
]


@pytest.mark.parametrize(("make", "says"), REFUSED, ids=lambda case: getattr(case, "__name__", ""))
def test_what_is_no_ledger_is_refused_and_left_as_it_was(
    path: Path, make: Callable[[Path], None], says: str
) -> None:
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(LedgerError, match=says) as raised:
        LedgerFile(path)

    assert path.name in str(raised.value)
    assert (path.read_bytes() if path.is_file() else b"") == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_ledger_is_not_made_where_there_is_no_directory(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="its directory is missing"):
        LedgerFile(tmp_path / "none" / "orders.ledger")


def test_to_look_at_a_ledger_it_must_be_there(path: Path) -> None:
    with pytest.raises(LedgerError, match="there is no ledger at"):
        LedgerFile(path, must_exist=True)
    assert not path.exists()


@pytest.mark.parametrize("lock", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_a_ledger_that_somebody_holds_is_waited_for_and_then_refused(path: Path, lock: str) -> None:
    filled(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(lock)
        with pytest.raises(LedgerError, match="another process holds it"):
            LedgerFile(path, wait_s=0.01)


def test_to_look_at_a_ledger_nothing_is_written(path: Path) -> None:
    filled(path, State.SENT)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with LedgerFile(path, must_exist=True, wait_s=0.01) as file:
            assert file.summary().counts[State.SENT] == 1
            assert [entry.key for _, entry in file.entries()] == ["sent"]
            with pytest.raises(LedgerError, match="another process holds it"):
                file.resolve(State.SENT)


@pytest.mark.parametrize("wait_s", [0.0, 10.0])
def test_who_makes_the_same_file_is_waited_for(path: Path, wait_s: float) -> None:
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    with closing(other):
        other.execute("BEGIN IMMEDIATE")  # on a file that is not in WAL mode yet
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


def test_a_name_that_is_special_to_sqlite_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (":memory:", "file:x?mode=memory"):
        filled(Path(name), State.SENT)
        assert (tmp_path / name).is_file()


def test_whoever_changes_the_directory_closes_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = SqliteWriter("orders.ledger")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    file.close()

    assert not list(tmp_path.rglob("*-run-*"))


# ------------------------------------------------------------------------------------- migrations


def test_an_empty_file_becomes_a_ledger(path: Path) -> None:
    path.touch()
    filled(path, State.SENT)
    with LedgerFile(path) as file:
        assert pragma(file, "user_version") == len(MIGRATIONS)
        assert pragma(file, "application_id") == int.from_bytes(b"EVLA")


def test_a_ledger_of_an_earlier_version_is_brought_up_with_what_it_holds(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "everlytic_async.ledger._sqlite_schema.MIGRATIONS"
    filled(path, State.SENT, State.UNKNOWN)
    step = "ALTER TABLE orders ADD COLUMN note TEXT; UPDATE orders SET note = key"
    monkeypatch.setattr(module, (*MIGRATIONS, step))
    with LedgerFile(path) as file:
        assert pragma(file, "user_version") == len(MIGRATIONS) + 1
        assert {entry.key for _, entry in file.entries()} == {"sent", "unknown"}
        assert file.connection.execute("SELECT note FROM orders").fetchall() == [
            ("sent",),
            ("unknown",),
        ]
    with LedgerFile(path):  # no second time
        pass
    monkeypatch.setattr(module, MIGRATIONS)
    with pytest.raises(LedgerError, match="a later version"):
        LedgerFile(path)


def test_a_step_that_fails_leaves_the_ledger_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "everlytic_async.ledger._sqlite_schema.MIGRATIONS"
    filled(path, State.SENT)
    monkeypatch.setattr(module, (*MIGRATIONS, "DELETE FROM orders; DROP TABLE no_table"))
    with pytest.raises(LedgerError, match="no such table"):
        LedgerFile(path)
    monkeypatch.setattr(module, MIGRATIONS)
    with LedgerFile(path) as file:
        assert file.summary().counts[State.SENT] == 1


# ------------------------------------------------------------------------------------- to look at


def test_a_summary_says_what_there_is(path: Path) -> None:
    times = iter(range(100, 200))
    with LedgerFile(path) as looks, SqliteWriter(path, clock=lambda: float(next(times))) as file:
        empty = looks.summary()
        scopes = [file.scope(f"digest {n}", host) for n, host in enumerate(["b.example", "a.ex"])]
        scopes.append(file.scope("digest 2", "a.ex"))  # another store of the same host
        for scope in scopes:
            file.execute([Record(scope, Entry(state, state)) for state in list(State)[1:]])
        file.execute([Record(scopes[0], Entry("2", State.SENT))])
        full = looks.summary()

    assert empty == LedgerSummary(dict.fromkeys(State, 0), None, None, (), 1)
    assert full.counts == {
        **dict.fromkeys(State, 3),
        State.IN_FLIGHT: 0,
        State.SENT: 4,
    }
    assert (full.first_at, full.last_at) == (101.0, 104.0)
    assert full.hosts == ("a.ex", "b.example")


def test_a_summary_counts_those_who_send(path: Path) -> None:
    with LedgerFile(path) as looks:
        assert looks.summary().running == 0
        with SqliteWriter(path), SqliteWriter(path):
            assert looks.summary().running == 2
        assert looks.summary().running == 0


def test_entries_come_by_key_and_state_with_their_host(path: Path) -> None:
    entry = Entry("1", State.REJECTED, "digest", 3, 422, "it said \x00 no \udc80!", 0.0)
    with SqliteWriter(path, clock=lambda: 9.5) as file, LedgerFile(path) as looks:
        one = file.scope("one", "one.example")
        two = file.scope("two", "two.example")
        file.execute([Record(two, Entry("0", State.SENT)), Record(one, Entry("2", State.UNKNOWN))])
        file.execute([Record(one, entry)])
        everything = list(looks.entries())
        unknown = [(host, entry.key) for host, entry in looks.entries([State.UNKNOWN])]

    assert [(host, each.key) for host, each in everything] == [
        ("one.example", "1"),
        ("one.example", "2"),
        ("two.example", "0"),
    ]
    assert unknown == [("one.example", "2")]
    stored = everything[0][1]
    assert stored == attrs.evolve(entry, recorded_at=9.5, reason=stored.reason)
    assert stored.reason is not None
    assert stored.reason.startswith("it said")


def test_a_scope_has_one_number(path: Path) -> None:
    with SqliteWriter(path) as file, SqliteWriter(path) as other:
        number = file.scope("one", "one.example")
        assert file.scope("two", "one.example") != number
        assert other.scope("one", "one.example") == number


def test_keys_hold_for_their_scope(path: Path) -> None:
    with SqliteWriter(path) as file:
        one, two = file.scope("one", "one.example"), file.scope("two", "two.example")
        file.execute([Record(one, Entry("1", State.SENT))])
        found = file.look_up(two, ["1"])
        ((granted, before),) = file.execute([Claim(two, "1", "body", KNOWN)])

    assert found == {}
    assert (granted, before) == (True, None)


# ---------------------------------------------------------------------------------- one and all


def test_a_group_is_executed_in_sequence(path: Path) -> None:
    with SqliteWriter(path) as file:
        scope = file.scope("one", "one.example")
        answers = file.execute(
            [
                lambda: file.look_up(scope, ["1"]),
                Claim(scope, "1", "body", KNOWN),
                Claim(scope, "1", "body", KNOWN),
                Record(scope, Entry("1", State.REJECTED, "body")),
                Claim(scope, "1", "body", KNOWN),
                Claim(scope, "1", "other", KNOWN),
                lambda: file.look_up(scope, ["1", "2"]),
            ]
        )
        stored = file.look_up(scope, ["1"])

    assert answers[0] == {}
    assert [answer[0] for answer in (answers[1], answers[2], answers[4], answers[5])] == [
        True,
        False,
        False,
        True,
    ]
    assert answers[2][1].state is State.IN_FLIGHT
    assert answers[6]["1"].state is State.IN_FLIGHT
    assert stored["1"].body_digest == "other"


_SCOPES, _KEYS, _BODIES = st.sampled_from([1, 2]), st.sampled_from("abcd"), st.sampled_from("xy")
_POLICIES = st.sampled_from(
    [ResendPolicy(), ResendPolicy(frozenset({State.UNKNOWN, State.REJECTED}))]
)
_CLAIMS = st.builds(Claim, _SCOPES, _KEYS, _BODIES, _POLICIES)
_RECORDS = st.builds(
    Record, _SCOPES, st.builds(Entry, _KEYS, st.sampled_from(list(State)[1:]), _BODIES)
)
_LOOK_UPS = st.tuples(_SCOPES, st.lists(_KEYS))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(_CLAIMS | _RECORDS, max_size=6) | st.lists(_CLAIMS | _RECORDS | _LOOK_UPS))
)
def test_a_group_is_executed_as_its_requests_would_be_alone(groups: list[list[Any]]) -> None:
    with TemporaryDirectory() as directory:
        stored, answered = [], []
        for name, parts in [
            ("as groups", groups),
            ("one by one", [[request] for group in groups for request in group]),
        ]:
            path = Path(directory, name)
            with SqliteWriter(path, clock=lambda: 0.0) as file, LedgerFile(path) as looks:
                file.scope("one", "one.example")
                file.scope("two", "two.example")
                answers = []
                for part in parts:
                    requests: list[Request] = [
                        partial(file.look_up, *each) if isinstance(each, tuple) else each
                        for each in part
                    ]
                    answers += file.execute(requests)
                answered.append(answers)
                stored.append(list(looks.entries()))

    assert stored[0] == stored[1]
    assert answered[0] == answered[1]


@pytest.mark.parametrize("state", State)
def test_invalid_is_recorded_only_where_nothing_worse_is_known(path: Path, state: State) -> None:
    with SqliteWriter(path) as file:
        scope = file.scope("one", "one.example")
        file.execute([Record(scope, Entry("1", state))])
        file.execute([Record(scope, Entry("1", State.INVALID))])
        known = file.look_up(scope, ["1"])

    harmless = state in (State.INVALID, State.NOT_SENT)
    assert known["1"].state is (State.INVALID if harmless else state)


def test_a_group_that_fails_leaves_nothing(path: Path) -> None:
    with SqliteWriter(path) as file, LedgerFile(path) as looks:
        scope = file.scope("one", "one.example")
        file.connection.execute(
            "CREATE TEMP TRIGGER no BEFORE INSERT ON main.orders "
            "WHEN new.key = '2' BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
        with pytest.raises(LedgerError, match="can't be written: no"):
            file.execute([Claim(scope, key, "body", KNOWN) for key in "123"])
        assert list(looks.entries()) == []


# ---------------------------------------------------------------------------------------- the dead


def in_flight(path: Path, *keys: str) -> SqliteWriter:
    file = SqliteWriter(path)
    scope = file.scope("one", "one.example")
    file.execute([Claim(scope, key, "body", KNOWN) for key in keys])
    return file


def crash(path: Path, *keys: str) -> None:
    """A process is killed that has these orders in flight."""
    pid = os.fork()
    if pid == 0:
        try:
            in_flight(path, *keys)
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


def lock_of(path: Path) -> Path:
    (lock,) = path.parent.glob(f"{path.name}-run-*")
    return lock


def test_orders_in_flight_in_a_crashed_run_are_unknown_to_the_next(path: Path) -> None:
    crash(path, "1", "2")
    with LedgerFile(path) as looks:
        assert looks.summary().counts[State.IN_FLIGHT] == 2
        assert looks.summary().running == 0
        with in_flight(path, "3"), SqliteWriter(path):
            states = {entry.key: entry.state for _, entry in looks.entries()}
            assert looks.summary().running == 2

    assert states == {"1": State.UNKNOWN, "2": State.UNKNOWN, "3": State.IN_FLIGHT}
    assert not list(path.parent.glob("*-run-*"))


def test_what_is_in_flight_at_the_close_is_unknown(path: Path) -> None:
    in_flight(path, "1").close()
    with LedgerFile(path) as file:
        ((_, entry),) = file.entries()

    assert entry.state is State.UNKNOWN
    assert entry.reason is not None


def test_who_opens_it_by_a_link_sees_that_the_others_live(path: Path) -> None:
    link = path.parent / "elsewhere" / "link"
    link.parent.mkdir()
    link.symlink_to(path)
    with in_flight(path, "1"), SqliteWriter(link), LedgerFile(path) as file:
        assert file.summary().running == 2
        assert file.summary().counts[State.IN_FLIGHT] == 1
    assert [found.name for found in link.parent.iterdir()] == ["link"]


def test_a_link_that_leads_nowhere_is_told(path: Path) -> None:
    path.symlink_to(path)
    with pytest.raises(LedgerError, match="can't be opened"):
        LedgerFile(path)


def test_a_lock_file_that_nobody_holds_is_swept_and_nothing_else(path: Path) -> None:
    stray = path.with_name(f"{path.name}-run-0123456789abcdef")
    kept = [
        path.with_name(f"{path.name}-run-2024"),
        path.with_name("other.ledger-run-0123456789abcdef"),
    ]
    for each in (stray, *kept):
        each.touch()
    with in_flight(path), LedgerFile(path) as looks:
        assert not stray.exists()
        stray.touch()
        LedgerFile(path).close()  # who only looks does not tidy up
        assert stray.exists()
        in_flight(path).close()
        assert looks.summary().running == 1
        assert not stray.exists()
    assert all(each.exists() for each in kept)
    for each in kept:
        each.unlink()


def test_looking_whether_somebody_lives_makes_no_file(path: Path) -> None:
    crash(path)
    lock_of(path).unlink()
    with LedgerFile(path) as looks:
        assert looks.summary().running == 0
    assert not list(path.parent.glob("*-run-*"))


def test_two_who_look_do_not_take_each_other_for_the_living(path: Path) -> None:
    crash(path, "1")
    lock = lock_of(path)
    with closing(sqlite3.connect(f"{lock.as_uri()}?mode=ro", uri=True)) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM sqlite_schema").fetchall()  # in the midst of looking
        with LedgerFile(path) as looks:
            assert looks.summary().running == 0
    lock.unlink()


# ----------------------------------------------------------------------------------------- by hand


@pytest.mark.parametrize("to", [State.SENT, State.NOT_SENT])
def test_unknown_orders_are_marked_by_hand(path: Path, to: State) -> None:
    filled(path, *State)
    with LedgerFile(path, clock=lambda: 8.0) as file:
        assert file.resolve(to) == (2, ())  # the one in flight, too: its process has ended
        entries = {entry.key: entry for _, entry in file.entries()}

    assert {key for key, entry in entries.items() if entry.recorded_at == 8.0} == {
        "unknown",
        "in_flight",
    }
    assert entries["unknown"].state is to
    assert entries["unknown"].reason == f"marked as {to} by hand"
    assert entries["rejected"].state is State.REJECTED


def test_unknown_orders_are_marked_by_key(path: Path) -> None:
    filled(path, State.UNKNOWN, State.SENT)
    with LedgerFile(path) as file:
        count, missing = file.resolve(State.NOT_SENT, ["unknown", "sent", "never heard of"])
        assert file.resolve(State.NOT_SENT, ["unknown"]) == (0, ("unknown",))

    assert count == 1
    assert missing == ("sent", "never heard of")


def test_a_key_of_two_stores_marks_none_until_it_is_said_whose(path: Path) -> None:
    with SqliteWriter(path) as writer:
        for host in ("shop.example", "other.example"):
            scope = writer.scope(f"a digest of {host}", host)
            writer.execute([Record(scope, Entry(key, State.UNKNOWN)) for key in ("1", host)])
    with LedgerFile(path) as file:

        def unknown() -> list[tuple[str, str]]:
            return [(host, entry.key) for host, entry in file.entries([State.UNKNOWN])]

        before = unknown()
        with pytest.raises(LedgerError, match="nothing was marked: 1 names unknown orders of 2 "):
            file.resolve(State.SENT, ["shop.example", "1"])
        assert unknown() == before
        assert file.resolve(State.SENT, ["1"], host="other.example") == (1, ())
        assert file.resolve(State.SENT, ["1"]) == (1, ())
        assert file.resolve(State.NOT_SENT, host="shop.example") == (1, ())
        assert unknown() == [("other.example", "other.example")]


def test_what_a_living_process_has_in_flight_is_not_marked(path: Path) -> None:
    crash(path, "2")
    with LedgerFile(path) as file, in_flight(path, "1"):
        assert file.resolve(State.SENT) == (1, ())
        assert file.resolve(State.SENT) == (0, ())
        states = {entry.key: entry.state for _, entry in file.entries()}
        assert len(list(path.parent.glob("*-run-*"))) == 1  # the dead one's is gone

    assert states == {"1": State.IN_FLIGHT, "2": State.SENT}


@pytest.mark.parametrize("to", sorted({*State} - {State.SENT, State.NOT_SENT}))
def test_nothing_else_can_be_found_out_of_an_unknown_order(path: Path, to: State) -> None:
    with LedgerFile(path) as file, pytest.raises(ValueError, match="as sent, or as not sent"):
        file.resolve(to)
