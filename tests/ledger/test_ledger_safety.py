# ruff: noqa: ASYNC240 - nothing else is to run meanwhile
"""A ledger's file that could not be safe is refused, or stops the run; each time with a way on."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from textwrap import dedent

import pytest
from ledger_shop import Shop, ledger_at, states_of

from everlytic_async import BatchStoppedError, LedgerError, Outcome, SqliteLedger
from everlytic_async.ledger import Durability, Entry, LedgerFile, ResendPolicy, State
from support.delivery import order, orders

#: It records an order as sent and another one as in flight, says so, and waits for its end.
CHILD = """
    import asyncio, sys
    from everlytic_async.ledger import Entry, SqliteLedger, State, ResendPolicy

    async def main():
        ledger = SqliteLedger(sys.argv[1], durability=sys.argv[2])
        async with ledger.session("a scope", "shop.example") as session:
            for key in sys.argv[3].split(","):
                await session.claim(key, "body", ResendPolicy())
                await session.record(Entry(key, State.SENT, "body"))
            await session.claim("in flight", "body", ResendPolicy())
            print("recorded", flush=True)
            sys.stdin.read()

    asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orders.ledger"


@contextmanager
def sending(path: Path, *keys: str, durability: str = "process") -> Iterator[subprocess.Popen[str]]:
    """A process that has recorded orders as sent, and has one in flight."""
    command = [sys.executable, "-c", dedent(CHILD), str(path), durability, ",".join(keys)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "recorded\n"
        try:
            yield process
        finally:
            process.kill()


def killed(path: Path, *keys: str, durability: str = "process") -> None:
    """A process that had recorded orders was killed."""
    with sending(path, *keys, durability=durability) as process:
        process.send_signal(signal.SIGKILL)


def beside(path: Path, *kinds: str) -> list[Path]:
    return [found for kind in kinds for found in path.parent.glob(f"{path.name}-{kind}*")]


async def use(path: Path) -> dict[str, State]:
    """Open it as whoever sends does; what it knows then."""
    async with SqliteLedger(path):
        pass
    return states_of(path)


def clear(path: Path) -> None:
    """What a test leaves on purpose."""
    for left in beside(path, "run", "note"):
        left.unlink()


KNOWN = {"1": State.SENT, "in flight": State.UNKNOWN}


# ------------------------------------------------------------------------------- a log that is gone


def remove_log(path: Path) -> None:
    for log in beside(path, "wal", "shm"):
        log.unlink()


def remove_all_beside(path: Path) -> None:
    remove_log(path)
    clear(path)


def cut_log(path: Path) -> None:
    """The log's end did not reach the disk."""
    (log,) = beside(path, "wal")
    os.truncate(log, log.stat().st_size // 2)


def empty_log(path: Path) -> None:
    (log,) = beside(path, "wal")
    os.truncate(log, 0)


def swap_log(path: Path) -> None:
    """The log of another ledger is in its place."""
    other = path.with_name("other.ledger")
    killed(other, "other")
    (log,), (strange,) = beside(path, "wal"), beside(other, "wal")
    shutil.move(strange, log)
    clear(other)


def leave_log_behind(path: Path) -> None:
    """It was moved away without its log, and moved back after somebody had tidied up."""
    elsewhere = path.with_name("elsewhere")
    path.rename(elsewhere)
    remove_all_beside(path)
    elsewhere.rename(path)


def restore_log(path: Path) -> None:
    """It is what it was: moved with all that is beside it."""
    for each in [path, *beside(path, "wal", "shm", "run", "note")]:
        copy = each.with_name("copy")
        shutil.copy2(each, copy)
        copy.replace(each)


def look_at_it(path: Path) -> None:
    """SQLite writes the log into the file when the last one closes it."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("SELECT * FROM orders").fetchall()
    assert not beside(path, "wal")


def look_at_its_status(path: Path) -> None:
    with LedgerFile(path, must_exist=True) as file:
        file.summary()


def nothing(_path: Path) -> None:
    pass


@pytest.mark.parametrize("durability", Durability)
@pytest.mark.parametrize(
    ("happens", "refused"),
    [
        (remove_log, True),
        (remove_all_beside, True),
        (cut_log, True),
        (empty_log, True),
        (swap_log, True),
        (leave_log_behind, True),
        (nothing, False),
        (restore_log, False),
        (look_at_it, False),
        (look_at_its_status, False),
    ],
)
async def test_a_killed_runs_records_are_known_or_it_is_refused(
    path: Path, happens: Callable[[Path], None], durability: str, *, refused: bool
) -> None:
    await use(path)
    killed(path, "1", durability=durability)
    happens(path)
    if refused:
        for _ in range(2):  # it stays refused
            with pytest.raises(LedgerError, match=r"ledger copy --accept-loss|move these files"):
                await use(path)
            with pytest.raises(LedgerError, match=r"ledger copy --accept-loss|move these files"):
                LedgerFile(path, must_exist=True)
    else:
        assert await use(path) == KNOWN
        assert not beside(path, "run", "note")
    clear(path)


async def test_a_run_that_ended_needs_no_log(path: Path) -> None:
    async with SqliteLedger(path) as ledger, ledger.session("a", "shop.example") as session:
        await session.record(Entry("1", State.SENT))
    moved = path.rename(path.with_name("moved.ledger"))
    assert not beside(path, "wal", "shm", "run", "note")
    assert await use(moved) == {"1": State.SENT}


async def test_a_ledger_that_is_older_than_the_log_beside_it_is_refused(path: Path) -> None:
    await use(path)
    backup = shutil.copy2(path, path.with_name("backup"))
    killed(path, "1")
    right = path.rename(path.with_name("right"))
    shutil.copy2(backup, path)
    with pytest.raises(LedgerError, match="move these files away"):
        await use(path)

    right.replace(path)
    assert await use(path) == KNOWN


@pytest.mark.parametrize("empty", [False, True])
async def test_a_ledger_that_is_gone_while_its_log_is_there_is_refused(
    path: Path, *, empty: bool
) -> None:
    killed(path, "1")
    elsewhere = path.rename(path.with_name("elsewhere"))
    if empty:
        path.touch()
    with pytest.raises(LedgerError, match="Put it back"):
        await use(path)
    assert path.exists() is empty

    elsewhere.replace(path)
    assert await use(path) == KNOWN


async def test_what_an_earlier_version_left_is_known_while_its_log_is_there(path: Path) -> None:
    killed(path, "1")
    clear(path)  # it wrote no notes
    look_at_its_status(path)  # which writes the log into the file
    assert await use(path) == KNOWN


async def test_a_run_that_could_not_write_its_end_is_no_loss(path: Path) -> None:
    async with SqliteLedger(path, wait_s=0.01) as ledger:
        async with ledger.session("a scope", "shop.example") as session:
            await session.record(Entry("1", State.SENT))
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
    other.close()
    assert await use(path) == {"1": State.SENT}
    assert not beside(path, "run", "note")


# ------------------------------------------------------------- a file that goes away during a run


def unlink(path: Path) -> None:
    path.unlink()


def rename(path: Path) -> None:
    path.rename(path.with_name("renamed"))


def replace(path: Path) -> None:
    copy = shutil.copy2(path, path.with_name("copy"))
    Path(copy).replace(path)


def replace_with_new(path: Path) -> None:
    other = path.with_name("other")
    LedgerFile(other).close()
    other.replace(path)


def unlink_log(path: Path) -> None:
    path.with_name(f"{path.name}-wal").unlink()


def unlink_index(path: Path) -> None:
    path.with_name(f"{path.name}-shm").unlink()


def replace_index(path: Path) -> None:
    # As another process does that opens the ledger after that: neither sees the other's claims.
    unlink_index(path)
    path.with_name(f"{path.name}-shm").touch()


LOG_GOES = (unlink_log, unlink_index, replace_index)


@pytest.mark.parametrize("durability", Durability)
@pytest.mark.parametrize("happens", [unlink, rename, replace, replace_with_new, *LOG_GOES])
async def test_a_file_that_goes_away_during_a_run_stops_it(
    path: Path, happens: Callable[[Path], None], durability: Durability
) -> None:
    shop = Shop()

    def on_order(order_id: str) -> None:
        if order_id == "20":
            happens(path)

    shop.on_order = on_order
    async with shop.client(concurrency=2) as client:
        ledger = SqliteLedger(path, durability=durability)
        with pytest.raises(BatchStoppedError, match="removed, renamed or replaced"):
            await client.send_orders(orders(1_000), ledger=ledger)
        assert shop.posts.total() < 30

        # The next run is refused, unless the log holds all that the new file lacks.
        context = pytest.raises(LedgerError, match=r"Put it back|Put the right one back")
        with nullcontext() if happens in (replace, *LOG_GOES) else context:
            await client.send_orders(orders(100), ledger=ledger_at(path))
    assert set(shop.posts.values()) == {1}
    clear(path)


@pytest.mark.parametrize("linked", ["file", "directory"])
@pytest.mark.parametrize("happens", ["retarget", "rename the file", "remove the link"])
async def test_a_link_that_leads_elsewhere_during_a_run_stops_it(
    tmp_path: Path, linked: str, happens: str
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for directory in (first, second):
        directory.mkdir()
        LedgerFile(directory / "orders.ledger").close()
    link = tmp_path / "current"
    name = "orders.ledger" if linked == "file" else ""
    link.symlink_to(first / name)
    path = link if linked == "file" else link / "orders.ledger"

    def on_order(order_id: str) -> None:
        if order_id != "20":
            return
        if happens == "rename the file":  # the link follows it
            renamed = (first / "orders.ledger").rename(first / "renamed.ledger")
            (link if linked == "file" else first / "orders.ledger").unlink(missing_ok=True)
            path.symlink_to(renamed)
            return
        link.unlink()
        if happens == "retarget":
            link.symlink_to(second / name)

    shop = Shop()
    shop.on_order = on_order
    async with shop.client(concurrency=2) as client:
        with pytest.raises(BatchStoppedError, match="removed, renamed or replaced") as caught:
            await client.send_orders(orders(1_000), ledger=SqliteLedger(path))
    assert shop.posts.total() < 30
    assert str(path) in str(caught.value)


async def test_a_file_that_was_renamed_and_is_put_back_goes_on(path: Path) -> None:
    async with SqliteLedger(path) as ledger, ledger.session("a", "shop.example") as session:
        await session.record(Entry("1", State.SENT))
        moved = path.rename(path.with_name("moved"))
        with pytest.raises(LedgerError, match="Put the file back"):
            await session.claim("2", "body", ResendPolicy())
    moved.rename(path)
    assert (await use(path))["1"] is State.SENT


# --------------------------------------------------------------------------- one file, two names


async def test_a_file_with_two_names_is_refused_and_may_be_copied(path: Path) -> None:
    other = path.with_name("other.ledger")
    async with Shop().client() as client:
        await client.send_orders(orders(3), ledger=ledger_at(path))
        other.hardlink_to(path)
        for name in (path, other):
            with pytest.raises(LedgerError, match="ledger copy"):
                await client.send_orders(orders(3), ledger=ledger_at(name))
            assert not beside(name, "wal", "run", "note")

        copy = path.with_name("copy.ledger")
        with LedgerFile(other, must_exist=True, linked=True) as file:
            file.copy_to(copy)
        report = await client.send_orders(orders(3), ledger=ledger_at(copy))
    assert report.counts[Outcome.SKIPPED] == 3
    assert copy.stat().st_nlink == 1

    other.unlink()
    assert len(await use(path)) == 3


MOUNTED = """
    import asyncio, sys
    from everlytic_async import LedgerError, SqliteLedger

    async def main():
        try:
            async with SqliteLedger(sys.argv[1]):
                print("opened")
        except LedgerError as error:
            print(error)

    asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("what", "says"),
    [("file", "Mount the directory"), ("directory", "opened")],
)
def test_a_file_that_is_a_mount_of_its_own_is_refused(tmp_path: Path, what: str, says: str) -> None:
    source, place = tmp_path / "source of it", tmp_path / "place of it"
    for directory in (source, place):
        directory.mkdir()
    LedgerFile(source / "orders.ledger").close()
    (place / "orders.ledger").touch()
    at = "" if what == "directory" else "/orders.ledger"
    program = tmp_path / "program.py"
    program.write_text(dedent(MOUNTED), "utf-8")
    script = 'mount --bind "$1$3" "$2$3" || exit 77; exec "$4" "$5" "$2/orders.ledger"'
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("there is no unshare here")
    done = subprocess.run(
        [unshare, "--mount", "sh", "-c", script, "sh", source, place, at, sys.executable, program],
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
    with sending(path, "1"), LedgerFile(path, must_exist=True) as file:
        file.copy_to(copy)
        assert states_of(path)["in flight"] is State.IN_FLIGHT
        assert states_of(copy) == KNOWN
        assert await use(copy) == KNOWN
        assert [found.name for found in copy.parent.iterdir()] == ["copy.ledger"]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert await use(path) == KNOWN


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


async def test_what_is_left_is_copied_where_the_loss_is_accepted(path: Path) -> None:
    async with SqliteLedger(path) as ledger, ledger.session("a", "shop.example") as session:
        await session.record(Entry("0", State.SENT))
    killed(path, "1")
    remove_log(path)
    copy = path.with_name("copy")
    with LedgerFile(path, must_exist=True, incomplete=True) as file:
        file.copy_to(copy)
    assert await use(copy) == {"0": State.SENT}
    with pytest.raises(LedgerError, match="lost records"):
        await use(path)
    # In its old place, too.
    copy.replace(path)
    assert await use(path) == {"0": State.SENT}
    assert not beside(path, "run", "note")


# -------------------------------------------------------------------------------------- its modes


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
async def test_all_its_files_are_its_owners_alone(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        async with SqliteLedger(path) as ledger, ledger.session("a", "shop.example") as session:
            await session.record(Entry("1", State.SENT))
            modes = {found.name: stat.S_IMODE(found.stat().st_mode) for found in beside(path, "")}
    finally:
        os.umask(before)
    assert set(modes.values()) == {0o600}
    assert len(modes) == 4
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_ledger_that_a_group_shares_stays_shared(path: Path) -> None:
    LedgerFile(path).close()
    path.chmod(0o660)
    async with SqliteLedger(path):
        modes = {stat.S_IMODE(found.stat().st_mode) for found in [path, *beside(path, "")]}
    assert modes == {0o660}


async def test_many_groups_and_checkpoints_lose_nothing_to_a_kill(path: Path) -> None:
    keys = [str(number) for number in range(250)]
    killed(path, *keys)
    shutil.copy2(path, path.with_name("alone"))
    with pytest.raises(LedgerError, match="lost records"):
        await use(path.with_name("alone"))
    states = await use(path)
    assert states == {**dict.fromkeys(keys, State.SENT), "in flight": State.UNKNOWN}


async def test_orders_are_sent_once_though_the_log_was_removed_after_a_kill(
    path: Path,
) -> None:
    async with Shop().client() as client:
        await client.send_orders([order(0)], ledger=ledger_at(path))
    killed(path, "1")
    remove_all_beside(path)
    shop = Shop()
    async with shop.client() as client:
        with pytest.raises(LedgerError, match="lost records"):
            await client.send_orders(orders(2), ledger=ledger_at(path))
    assert not shop.posts
