"""Checks of a ledger's file: what could not be safe is refused.

SQLite keeps its log, ``FILE-wal``, and we keep the files of the runs, beside the *name* of the
ledger. A file with two names has two logs; a log without its file, or a file without its log, does
not say what was sent.

`check_before_opening` is the list of checks before SQLite opens the file to write, because on
closing SQLite would write the log into the wrong file. `FileIdentity` is checked during a run,
after each group of commits.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Mapping
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

__all__ = ["FileIdentity", "check_before_opening", "check_runs"]

_OCTAL = re.compile(rb"\\([0-7]{3})")


def check_before_opening(path: Path, *, linked: bool, incomplete: bool) -> bool:
    """Refuse a file that has another name, is missing, was replaced, or lacks records.

    Args:
        path: The ledger, which may not exist yet.
        linked: Accept other names.
        incomplete: Accept that records are lost.

    Returns:
        Whether a log with content is beside it, for `check_runs`.

    Raises:
        LedgerError: it is not safe.
        OSError: it can't be read.
    """
    if not linked and path.is_file():
        _check_hard_links(path)
        _check_mount(path)
    had_log = _log_has_content(path)
    notes = _notes_of_crashed(path)
    if incomplete or not (had_log or notes):
        return had_log
    _check_not_missing(path, notes)
    _check_not_older_than_log(path, notes)
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            check_runs(connection, path, had_log=had_log)
    except sqlite3.Error:
        pass  # opening it to write will say why
    return had_log


def _check_hard_links(path: Path) -> None:
    names = path.stat().st_nlink
    if names > 1:
        raise LedgerError(
            f"the ledger {str(path)!r} is one file with {names} names (hard links). Each name has "
            "a log of its own, so orders could be sent twice. Make an independent ledger with "
            "`everlytic-async ledger copy`, and use that"
        )


def _check_mount(path: Path) -> None:
    try:
        mounts = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        # It also differs within some overlay filesystems, but those are Linux's.
        is_mount = path.stat().st_dev != path.parent.stat().st_dev
    else:
        # proc(5): the fifth field is the mount point, with white space in octal.
        points = (mount.split(b" ", 5)[4] for mount in mounts)
        is_mount = os.fsencode(path) in {
            _OCTAL.sub(lambda found: bytes([int(found[1], 8)]), point) for point in points
        }
    if is_mount:
        raise LedgerError(
            f"the ledger {str(path)!r} is mounted as a single file. Its log is not, so processes "
            "outside of this mount would not see it, and orders could be sent twice. Mount the "
            "directory that holds the ledger instead"
        )


def _check_not_missing(path: Path, notes: Mapping[str, Note]) -> None:
    if not path.exists() or path.stat().st_size == 0:
        raise LedgerError(
            f"the ledger {str(path)!r} is missing, but its records of orders that were sent are "
            f"there: {_names_beside(path, notes)}. It was removed or renamed. Put it back; to "
            "start a new one that knows nothing of those orders, move these files away"
        )


def _check_not_older_than_log(path: Path, notes: Mapping[str, Note]) -> None:
    """Refuse a file without the transactions that a note says were in it, not only in the log."""
    if any(is_alive(lock_path(path, token)) for token in files_of_runs(path)):
        return  # that run has checked, and writes into the file meanwhile
    try:
        uri = f"{path.as_uri()}?mode=ro&immutable=1"  # without its log
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            committed = dict(connection.execute("SELECT token, committed FROM runs").fetchall())
    except sqlite3.Error:
        return  # a checkpoint was interrupted, or the file is of an earlier version
    if any(committed.get(token, -1) < note.checkpointed for token, note in notes.items()):
        raise _replaced_error(path, notes)


def check_runs(connection: sqlite3.Connection, path: Path, *, had_log: bool) -> bool:
    """Refuse a ledger that lacks records of a crashed run.

    Args:
        connection: To read the ledger.
        path: The ledger.
        had_log: Whether a log with content was there before it was opened.

    Returns:
        Whether a crashed run wrote no note, as in earlier versions: the log with its records goes
        when the file is closed, and with it the only trace of that run.

    Raises:
        LedgerError: records are lost.
    """
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
    notes = _notes_of_crashed(path)
    columns = {row[1] for row in connection.execute("PRAGMA table_info(runs)")}
    if not columns:
        return None, False  # it is empty
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


def _notes_of_crashed(path: Path) -> Mapping[str, Note]:
    """The notes of the runs that have crashed, by token."""
    crashed = [token for token in files_of_runs(path) if not is_alive(lock_path(path, token))]
    notes = {token: read_note(path, token) for token in crashed}
    return {token: note for token, note in notes.items() if note is not None}


def _log_has_content(path: Path) -> bool:
    log = path.with_name(f"{path.name}-wal")
    return log.exists() and log.stat().st_size > 0


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
    log = [f"{path.name}-wal", f"{path.name}-shm"] if _log_has_content(path) else []
    return ", ".join([*log, *(note_path(path, token).name for token in notes)])


class FileIdentity:
    """Which files are found by a ledger's names when it is opened.

    The log and its index too: whoever opens the ledger without them gets new ones, and neither sees
    the other's claims.

    Args:
        path: The ledger.
        named_path: Its name as the user wrote it, perhaps by links.
    """

    __slots__ = ("_files", "_named_path", "_names", "_path")

    def __init__(self, path: Path, named_path: Path) -> None:
        self._path, self._named_path = path, named_path
        self._names = tuple(f"{path}{end}" for end in ("", "-wal", "-shm"))
        self._files = self._find()

    def check(self) -> None:
        """Refuse to go on if a name leads elsewhere: what is recorded then is not found again.

        Raises:
            LedgerError: a file was removed, renamed or replaced.
        """
        if self._find() != self._files:
            target = f" (a link to {str(self._path)!r})" if self._named_path != self._path else ""
            raise LedgerError(
                f"the ledger {str(self._named_path)!r}{target}, or its log beside it (-wal, -shm), "
                "was removed, renamed or replaced while it was in use, so nothing more is sent. "
                "Put the file back, with the files beside it, before you run it again"
            )

    def _find(self) -> list[tuple[int, int] | None]:
        files = [_identity(name, follow=False) for name in self._names]
        return [*files, _identity(self._named_path, follow=True)]


def _identity(name: str | Path, *, follow: bool) -> tuple[int, int] | None:
    try:
        # For each group of commits: half the time of `Path.stat`.
        found = os.stat(name, follow_symlinks=follow)  # noqa: PTH116
    except OSError:
        return None
    return found.st_dev, found.st_ino
