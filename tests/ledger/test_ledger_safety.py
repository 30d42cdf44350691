# ruff: noqa: ASYNC240 - nothing else is to run meanwhile
"""A ledger's file that could not be safe is refused, or stops the run; each time with a way on."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from pathlib import Path

import pytest
from ledger_processes import killed
from ledger_shop import keep, ledger_at, locked, read_states, session_at

from everlytic_async import BatchStoppedError, LedgerError, SqliteLedger
from everlytic_async.ledger import Entry, LedgerFile, State
from support.delivery import orders
from support.shop import Shop

KNOWN = {"1": State.SENT, "in flight": State.UNKNOWN}
SENT = Entry("1", State.SENT)
WAYS_ON = "ledger copy --accept-loss|move these files away"


def beside(path: Path, *kinds: str) -> list[Path]:
    return [found for kind in kinds for found in path.parent.glob(f"{path.name}-{kind}*")]


async def use(path: Path) -> dict[str, State]:
    """Open it as a run does; what it knows then."""
    await keep(path)
    return read_states(path)


@pytest.fixture(autouse=True)
def cleared(path: Path, nothing_left_behind: None) -> Iterator[None]:
    """A refused ledger keeps what is beside it: until the test is over."""
    yield
    remove(*(found for found in path.parent.rglob("*-run-*")))


def remove(*files: Path) -> None:
    for file in files:
        file.unlink()


# ------------------------------------------------------------------------------- a log that is gone


def remove_log(path: Path) -> None:
    remove(*beside(path, "wal", "shm"))


def remove_all_beside(path: Path) -> None:
    remove(*beside(path, "wal", "shm", "run", "note"))


def cut_log(path: Path) -> None:
    """The log's end did not reach the disk."""
    (log,) = beside(path, "wal")
    os.truncate(log, log.stat().st_size // 2)


def empty_log(path: Path) -> None:
    (log,) = beside(path, "wal")
    os.truncate(log, 0)


def swap_log(path: Path) -> None:
    """The log of another ledger is in its place."""
    (strange,) = beside(path.with_name("other.ledger"), "wal")
    (log,) = beside(path, "wal")
    strange.replace(log)


def leave_log_behind(path: Path) -> None:
    """It was moved away without its log, and moved back after somebody had tidied up."""
    elsewhere = path.rename(path.with_name("elsewhere"))
    remove_all_beside(path)
    elsewhere.rename(path)


def older_file(path: Path) -> None:
    """It was replaced by a backup from before the run, beside the log of now."""
    path.with_name("backup").replace(path)


def missing_file(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


def empty_file(path: Path) -> None:
    missing_file(path)
    path.touch()


def restore_log(path: Path) -> None:
    """It is what it was: moved with all that is beside it."""
    for each in [path, *beside(path, "wal", "shm", "run", "note")]:
        Path(shutil.copy2(each, each.with_name("copy"))).replace(each)


def look_at_it(path: Path) -> None:
    """SQLite writes the log into the file when the last one closes it."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("SELECT * FROM orders").fetchall()
    assert not beside(path, "wal")


def look_at_its_status(path: Path) -> None:
    with LedgerFile(path, must_exist=True) as file:
        file.summary()


def as_an_earlier_version(path: Path) -> None:
    """It wrote no notes; its status is looked at, which writes the log into the file."""
    remove(*beside(path, "run", "note"))
    look_at_its_status(path)


def nothing(_path: Path) -> None:
    pass


REFUSED = {
    remove_log: WAYS_ON,
    remove_all_beside: WAYS_ON,
    cut_log: WAYS_ON,
    empty_log: WAYS_ON,
    swap_log: WAYS_ON,
    leave_log_behind: WAYS_ON,
    older_file: WAYS_ON,
    missing_file: "Put it back",
    empty_file: "Put it back",
}
ACCEPTED = nothing, restore_log, look_at_it, look_at_its_status, as_an_earlier_version


@pytest.mark.parametrize("happens", [*REFUSED, *ACCEPTED])
async def test_a_killed_runs_records_are_known_or_it_is_refused(
    path: Path, happens: Callable[[Path], None]
) -> None:
    await use(path)
    shutil.copy2(path, path.with_name("backup"))
    if happens is swap_log:
        await killed(path.with_name("other.ledger"))
    await killed(path, sent=("1",))
    happens(path)
    if happens not in REFUSED:
        assert await use(path) == KNOWN
        assert not beside(path, "run", "note")
        return
    existed = path.exists()
    for must_exist in (False, True, False):  # it stays refused
        with pytest.raises(LedgerError, match=f"{REFUSED[happens]}|there is no ledger"):
            LedgerFile(path, must_exist=must_exist)
        with pytest.raises(LedgerError, match=REFUSED[happens]):
            await use(path)
    assert path.exists() is existed
    elsewhere = path.with_name("elsewhere")
    if elsewhere.exists():  # the way on
        elsewhere.replace(path)
        assert await use(path) == KNOWN


async def test_a_run_that_ended_needs_no_log(path: Path) -> None:
    await keep(path, SENT)
    moved = path.rename(path.with_name("moved.ledger"))
    assert not beside(path, "wal", "shm", "run", "note")
    assert await use(moved) == {"1": State.SENT}


async def test_a_run_that_could_not_write_its_end_has_lost_nothing(path: Path) -> None:
    async with SqliteLedger(path, wait_s=0.01) as ledger:
        async with ledger.session("a scope", "shop.example") as session:
            await session.record(SENT)
        other = locked(path)
        other.__enter__()
    other.__exit__(None, None, None)
    assert await use(path) == {"1": State.SENT}
    assert not beside(path, "run", "note")


async def test_many_groups_and_checkpoints_lose_nothing_to_a_kill(path: Path) -> None:
    keys = tuple(str(number) for number in range(120))
    await killed(path, sent=keys)
    alone = Path(shutil.copy2(path, path.with_name("alone")))
    with closing(sqlite3.connect(alone)) as file:
        # Two for each order, and each hundred was written from the log into the file.
        assert file.execute("SELECT max(committed) FROM runs").fetchone()[0] >= 200
    with pytest.raises(LedgerError, match="lost records"):
        await use(alone)
    assert await use(path) == dict.fromkeys(keys, State.SENT) | {"in flight": State.UNKNOWN}


# ------------------------------------------------------------- a file that goes away during a run


def replace(path: Path) -> None:
    Path(shutil.copy2(path, path.with_name("copy"))).replace(path)


def replace_with_new(path: Path) -> None:
    LedgerFile(other := path.with_name("other")).close()
    other.replace(path)


def unlink_log(path: Path) -> None:
    path.with_name(f"{path.name}-wal").unlink()


def unlink_index(path: Path) -> None:
    path.with_name(f"{path.name}-shm").unlink()


def replace_index(path: Path) -> None:
    # As another process does that opens the ledger after that: neither sees the other's claims.
    unlink_index(path)
    path.with_name(f"{path.name}-shm").touch()


#: The log holds all that the file in its place lacks.
HARMLESS_LATER = replace, unlink_log, unlink_index, replace_index


@pytest.mark.parametrize("happens", [Path.unlink, missing_file, replace_with_new, *HARMLESS_LATER])
async def test_a_file_that_goes_away_during_a_run_stops_it(
    path: Path, happens: Callable[[Path], None]
) -> None:
    shop = Shop()
    shop.on_order = lambda order_id: happens(path) if order_id == "20" else None
    async with shop.opened_client(concurrency=2) as client:
        with pytest.raises(BatchStoppedError, match="removed, renamed or replaced"):
            await client.send_orders(orders(1_000), ledger=ledger_at(path))
        assert shop.posts.total() < 30

        context = pytest.raises(LedgerError, match=r"Put it back|Put the right one back")
        with nullcontext() if happens in HARMLESS_LATER else context:
            await client.send_orders(orders(100), ledger=ledger_at(path))
    assert set(shop.posts.values()) == {1}


@pytest.mark.parametrize("linked", ["orders.ledger", ""])
@pytest.mark.parametrize("happens", ["retarget", "rename the file", "remove the link"])
async def test_a_link_that_leads_elsewhere_during_a_run_stops_it(
    tmp_path: Path, linked: str, happens: str
) -> None:
    """A link to the file, or to its directory."""
    first, second, link = (tmp_path / name for name in ("first", "second", "link"))
    for directory in (first, second):
        directory.mkdir()
        LedgerFile(directory / "orders.ledger").close()
    link.symlink_to(first / linked)
    path = link if linked else link / "orders.ledger"

    def on_order(order_id: str) -> None:
        if order_id != "20":
            return
        if happens == "rename the file":  # the link follows it
            renamed = (first / "orders.ledger").rename(first / "renamed.ledger")
            path.unlink(missing_ok=True)
            path.symlink_to(renamed)
            return
        link.unlink()
        if happens == "retarget":
            link.symlink_to(second / linked)

    shop = Shop()
    shop.on_order = on_order
    async with shop.opened_client(concurrency=2) as client:
        with pytest.raises(BatchStoppedError, match="removed, renamed or replaced") as caught:
            await client.send_orders(orders(1_000), ledger=SqliteLedger(path))
    assert shop.posts.total() < 30
    assert str(path) in str(caught.value)


# --------------------------------------------------------------------------- one file, two names


async def test_a_file_with_two_names_is_refused_and_may_be_copied(path: Path) -> None:
    other, copy = path.with_name("other.ledger"), path.with_name("copy.ledger")
    await keep(path, SENT)
    other.hardlink_to(path)
    for name in (path, other):
        with pytest.raises(LedgerError, match="ledger copy"):
            await use(name)
        assert not beside(name, "wal", "run", "note")

    with LedgerFile(other, must_exist=True, linked=True) as file:
        file.copy_to(copy)
    assert copy.stat().st_nlink == 1
    assert await use(copy) == {"1": State.SENT}
    other.unlink()
    assert await use(path) == {"1": State.SENT}


MOUNTED = """
import sys
from everlytic_async import LedgerError
from everlytic_async.ledger import LedgerFile

try:
    LedgerFile(sys.argv[1]).close()
    print("opened")
except LedgerError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("what", "says"), [("/orders.ledger", "Mount the directory"), ("", "opened")]
)
def test_a_file_that_is_a_mount_of_its_own_is_refused(tmp_path: Path, what: str, says: str) -> None:
    source, place = tmp_path / "source of it", tmp_path / "place of it"
    for directory in (source, place):
        directory.mkdir()
    LedgerFile(source / "orders.ledger").close()
    (place / "orders.ledger").touch()
    script = 'mount --bind "$1$3" "$2$3" || exit 77; exec "$4" -c "$5" "$2/orders.ledger"'
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("there is no unshare here")
    arguments = ("sh", source, place, what, sys.executable, MOUNTED)
    done = subprocess.run(
        [unshare, "--mount", "sh", "-c", script, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode in (1, 77):
        pytest.skip(f"mounting is not allowed here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    assert says in done.stdout
    assert not beside(place / "orders.ledger", "run", "note")


# ------------------------------------------------------------------------------------- its copies


async def test_a_copy_of_a_ledger_in_use_stands_alone(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copies" / "copy.ledger"
    copy.parent.mkdir()
    async with session_at(path, "1", "in flight") as session:
        await session.record(SENT)
        with LedgerFile(path, must_exist=True) as file:
            file.copy_to(copy)
        assert read_states(path)["in flight"] is State.IN_FLIGHT
        assert read_states(copy) == await use(copy) == KNOWN
        assert [found.name for found in copy.parent.iterdir()] == ["copy.ledger"]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600


def test_a_copy_replaces_nothing(path: Path) -> None:
    there = path.with_name("there")
    there.write_text("mine", "utf-8")
    with LedgerFile(path) as file:
        for target in (there, path):
            with pytest.raises(LedgerError, match="not replaced"):
                file.copy_to(target)
        with pytest.raises(LedgerError, match="can't be created"):
            file.copy_to(path.with_name("nowhere") / "copy")
    assert there.read_text("utf-8") == "mine"


async def test_what_is_left_is_copied_if_the_loss_is_accepted(path: Path) -> None:
    await keep(path, Entry("0", State.SENT))
    await killed(path, sent=("1",))
    remove_log(path)
    copy = path.with_name("copy")
    with LedgerFile(path, must_exist=True, incomplete=True) as file:
        file.copy_to(copy)
    assert await use(copy) == {"0": State.SENT}
    with pytest.raises(LedgerError, match="lost records"):
        await use(path)
    copy.replace(path)
    assert await use(path) == {"0": State.SENT}
    assert not beside(path, "run", "note")


# -------------------------------------------------------------------------------------- its modes


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
async def test_only_its_owner_may_read_its_files(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        async with session_at(path) as session:
            await session.record(SENT)
            modes = [stat.S_IMODE(found.stat().st_mode) for found in path.parent.iterdir()]
    finally:
        os.umask(before)
    assert modes == [0o600] * 5


async def test_a_ledger_that_a_group_shares_stays_shared(path: Path) -> None:
    LedgerFile(path).close()
    path.chmod(0o660)
    async with SqliteLedger(path):
        modes = {stat.S_IMODE(found.stat().st_mode) for found in path.parent.iterdir()}
    assert modes == {0o660}
