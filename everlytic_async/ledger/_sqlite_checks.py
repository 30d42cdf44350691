"""Checks before a ledger's file is used: what could not be safe is refused.

SQLite keeps its log, ``FILE-wal``, and we keep the files of the runs, beside the *name* of the
ledger. A file with two names has two logs; a log without its file, or a file without its log, does
not say what was sent.
"""

from __future__ import annotations

import os
import re
import sqlite3
import stat
from collections.abc import Iterable, Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path

from everlytic_async.errors import LedgerError
from everlytic_async.ledger._sqlite_runs import (
    Note,
    files_of_runs,
    is_alive,
    lock_path,
    note_path,
    read_note,
)

__all__ = [
    "check_before_opening",
    "check_names",
    "check_records",
    "create_file",
    "file_identity",
    "wal_has_content",
]

_OCTAL = re.compile(rb"\\([0-7]{3})")


def create_file(path: Path) -> None:
    """Create an empty file that only its owner may read and write, if there is none.

    SQLite gives its log the same mode.

    Raises:
        OSError: it can't be created.
    """
    if path.exists():
        return
    try:
        try:
            # Never opened: closing it would free the locks of another ledger of this process.
            os.mknod(path, stat.S_IFREG | 0o600)
        except (AttributeError, PermissionError):  # there is no such call, or we may not use it
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return
    path.chmod(0o600)  # whatever the umask took away


def file_identity(path: Path, *, follow: bool = True) -> tuple[int, int] | None:
    """What distinguishes a file from another one that takes its name; None if there is none.

    Args:
        path: Its name.
        follow: Whether a link is followed.
    """
    try:
        # For each group of commits: half the time of `Path.stat`.
        found = os.stat(path, follow_symlinks=follow)  # noqa: PTH116
    except OSError:
        return None
    return found.st_dev, found.st_ino


def wal_has_content(path: Path) -> bool:
    """Whether a log with content is beside a ledger."""
    try:
        return path.with_name(f"{path.name}-wal").stat().st_size > 0
    except OSError:
        return False


def check_names(path: Path) -> None:
    """Refuse a file that may be in use under another name.

    Raises:
        LedgerError: it has hard links, or is a mount point of its own.
    """
    names = path.stat().st_nlink
    if path.is_file() and names > 1:
        raise LedgerError(
            f"the ledger {str(path)!r} is one file with {names} names (hard links). Each name has "
            "a log of its own, so orders could be sent twice. Make an independent ledger with "
            "`everlytic-async ledger copy`, and use that"
        )
    if _is_mount_point(path):
        raise LedgerError(
            f"the ledger {str(path)!r} is mounted as a single file. Its log is not, so processes "
            "outside of this mount would not see it, and orders could be sent twice. Mount the "
            "directory that holds the ledger instead"
        )


def _is_mount_point(path: Path) -> bool:
    try:
        mounts = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        # It also differs within some overlay filesystems, but those are Linux's.
        return path.stat().st_dev != path.parent.stat().st_dev
    wanted = os.fsencode(path)
    # proc(5): the fifth field is the mount point, with white space in octal.
    return any(
        _OCTAL.sub(lambda found: bytes([int(found[1], 8)]), mount.split(b" ", 5)[4]) == wanted
        for mount in mounts
    )


def check_before_opening(path: Path) -> None:
    """Refuse a file that is not the one to which the log and the notes beside it belong.

    Before SQLite opens it to write: on closing, it would write the log into the wrong file.

    Raises:
        LedgerError: the file is missing, was replaced, or lost records.
    """
    had_log = wal_has_content(path)  # first: a ledger's file is created before its log
    tokens = files_of_runs(path)
    if any(is_alive(lock_path(path, token)) for token in tokens):
        return  # that run has checked
    notes = _notes(path, tokens)
    if not had_log and not notes:
        return
    if not path.exists() or path.stat().st_size == 0:
        raise LedgerError(
            f"the ledger {str(path)!r} is missing, but its records of orders that were sent are "
            f"there: {_names_beside(path, notes)}. It was removed or renamed. Put it back; to "
            "start a new one that knows nothing of those orders, move these files away"
        )
    committed = _committed_without_log(path)
    if committed is not None and any(
        committed.get(token, -1) < note.checkpointed for token, note in notes.items()
    ):
        raise _replaced_error(path, notes)
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            check_records(connection, path, had_log=had_log)
    except sqlite3.Error:
        return  # opening it to write will say why


def check_records(connection: sqlite3.Connection, path: Path, *, had_log: bool) -> bool:
    """Refuse a ledger that lost records of a run that did not end.

    Args:
        connection: To read the ledger.
        path: The ledger's path.
        had_log: Whether there was a log with content before it was opened.

    Returns:
        Whether there is a crashed run without a note: an earlier version wrote none.

    Raises:
        LedgerError: records are lost.
    """
    tables = connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'runs'")
    if not tables.fetchone()[0]:
        return False
    while True:
        error, lacks_note = _find_loss(connection, path, had_log=had_log)
        if error is None:
            return lacks_note
        # Other runs start and end meanwhile: it is a loss if it is found twice.
        again, _ = _find_loss(connection, path, had_log=had_log)
        if str(again) == str(error):
            raise error


def _find_loss(
    connection: sqlite3.Connection, path: Path, *, had_log: bool
) -> tuple[LedgerError | None, bool]:
    notes = _notes(path, files_of_runs(path))
    columns = {row[1] for row in connection.execute("PRAGMA table_info(runs)")}
    committed = "committed" if "committed" in columns else "0"
    runs = connection.execute(f"SELECT token, {committed}, began, ended FROM runs").fetchall()  # noqa: S608
    if notes.keys() - {token for token, *_ in runs}:
        return _replaced_error(path, notes), False
    lacks_note = False
    for token, count, started_at, ended_at in runs:
        if ended_at is not None or is_alive(lock_path(path, token)):
            continue
        note = notes.get(token)
        lacks_note = lacks_note or note is None
        if (not had_log) if note is None else count < note.committed:
            return _lost_error(path, started_at), False
    return None, lacks_note


def _notes(path: Path, tokens: Iterable[str]) -> Mapping[str, Note]:
    """The notes of the runs that have crashed, by token."""
    crashed = (token for token in tokens if not is_alive(lock_path(path, token)))
    notes = {token: read_note(path, token) for token in crashed}
    return {token: note for token, note in notes.items() if note is not None}


def _lost_error(path: Path, started_at: float) -> LedgerError:
    since = datetime.fromtimestamp(started_at).astimezone().isoformat(" ", "seconds")
    return LedgerError(
        f"the ledger {str(path)!r} has lost records: the run that started at {since} was "
        f"interrupted, and the log that held its last records, {path.name}-wal, is gone or "
        "incomplete. Orders that the ledger does not know of may have been sent. Put the log back. "
        "If it is lost, find out which orders were sent since then, and make a ledger of what is "
        "left with `everlytic-async ledger copy --accept-loss`"
    )


def _replaced_error(path: Path, notes: Mapping[str, Note]) -> LedgerError:
    return LedgerError(
        f"the ledger {str(path)!r}, or the log beside it, was replaced by another one after a run "
        "was interrupted, so it does not know all orders that were sent. Put the right one back; "
        f"to go on with this one nevertheless, move these files away: {_names_beside(path, notes)}"
    )


def _names_beside(path: Path, notes: Mapping[str, Note]) -> str:
    log = [f"{path.name}-wal", f"{path.name}-shm"] if wal_has_content(path) else []
    return ", ".join([*log, *(note_path(path, token).name for token in notes)])


def _committed_without_log(path: Path) -> Mapping[str, int] | None:
    """How many transactions of each run are in the file itself, without its log.

    None if that can't be read: a checkpoint may have been interrupted, or the file is of an
    earlier version.
    """
    try:
        uri = f"{path.as_uri()}?mode=ro&immutable=1"
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            return dict(connection.execute("SELECT token, committed FROM runs").fetchall())
    except sqlite3.Error:
        return None
