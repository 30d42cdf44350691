"""What makes a ledger's file unsafe: other names, a log that is gone, runs that did not end.

SQLite keeps its log, ``FILE-wal``, beside the *name* of the ledger, and so do we with the two files
of each run:

- ``FILE-run-TOKEN`` is a lock, held while the process lives; the system frees it however the
  process ends.
- ``FILE-note-TOKEN`` is a note: how many transactions the run has committed, and how many of them
  surely are in the ledger's own file. The ledger holds the first figure too. The next run compares
  them after a crash, and so detects missing records, whatever happened to the log: it was removed,
  another file is in its place, or the ledger was moved without it.

`check_before_opening` runs before SQLite opens the file to write, because on closing SQLite would
write the log into the wrong file. `FileIdentity` is checked during a run, after each commit.
"""

from __future__ import annotations

import os
import re
import sqlite3
import stat
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path

import attrs

from everlytic_async.errors import LedgerError

__all__ = [
    "FileIdentity",
    "RunFiles",
    "check_before_opening",
    "create_private",
    "files_of_runs",
    "is_alive",
    "is_busy",
]

_NAME = re.compile(r"-(?:run|note)-([0-9a-f]{16})\Z")
_NOTE = re.compile(rb"([0-9]{20}) ([0-9]{20})\n")
_OCTAL = re.compile(rb"\\([0-7]{3})")


# ---------------------------------------------------------------------------- the files of the runs


class RunFiles:
    """The lock and the note of a run of this process. Raises OSError or sqlite3.Error."""

    def __init__(self, ledger: Path, token: str) -> None:
        self._paths = _lock_path(ledger, token), _note_path(ledger, token)
        self._lock: sqlite3.Connection | None = None
        self._note: int | None = None
        # All who may write the ledger must be able to see which runs are alive.
        mode = stat.S_IMODE(ledger.stat().st_mode) & 0o666
        try:
            for path in self._paths:
                create_private(path, mode)
            self._lock = sqlite3.connect(
                self._paths[0], isolation_level=None, check_same_thread=False
            )
            self._lock.execute("PRAGMA journal_mode = MEMORY")  # no further file
            self._lock.execute("BEGIN EXCLUSIVE")
            self._note = os.open(self._paths[1], os.O_WRONLY)
        except BaseException:
            self.remove()
            raise

    def write_note(self, committed: int, checkpointed: int) -> None:
        """Note how many transactions were committed, and how many are not in the log alone."""
        if self._note is not None:
            # Of constant length, so that one write replaces it.
            os.pwrite(self._note, b"%020d %020d\n" % (committed, checkpointed), 0)

    def remove(self, *, keep_note: bool = False) -> None:
        """Free the lock and remove the files, except a note that the next run must read."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()
        note, self._note = self._note, None
        if note is not None:
            os.close(note)
        for path in self._paths[: 1 if keep_note else 2]:
            path.unlink(missing_ok=True)


def create_private(path: Path, mode: int = 0o600) -> None:
    """Create an empty file with this mode, whatever the umask takes away. SQLite's log gets it too.

    Raises:
        FileExistsError: there is one.
    """
    try:
        # Never opened: closing it would free the locks of another ledger of this process.
        os.mknod(path, stat.S_IFREG | 0o600)
    except (AttributeError, PermissionError):  # there is no such call, or we may not use it
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    path.chmod(mode)


def files_of_runs(ledger: Path) -> Mapping[str, Sequence[Path]]:
    """The files of all runs beside a ledger, by token."""
    found: dict[str, list[Path]] = {}
    with suppress(OSError):
        for path in ledger.parent.iterdir():
            match = _NAME.match(path.name, len(ledger.name))
            if match is not None and path.name.startswith(ledger.name):
                found.setdefault(match[1], []).append(path)
    return found


def is_alive(ledger: Path, token: str) -> bool:
    """Whether the process of a run still holds its lock."""
    lock = _lock_path(ledger, token)
    # Read only: the file is not created, and two that check do not see each other's lock.
    try:
        with closing(sqlite3.connect(f"{lock.as_uri()}?mode=ro", timeout=0.0, uri=True)) as check:
            check.execute("PRAGMA schema_version")
    except sqlite3.DatabaseError as error:
        if is_busy(error):
            return True
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_NOTADB and lock.exists():
            raise
    return False


def is_busy(error: BaseException | None) -> bool:
    """Whether another process holds the file. The error code's low byte says so."""
    code: int = getattr(error, "sqlite_errorcode", None) or 0
    return code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _lock_path(ledger: Path, token: str) -> Path:
    return ledger.with_name(f"{ledger.name}-run-{token}")


def _note_path(ledger: Path, token: str) -> Path:
    return ledger.with_name(f"{ledger.name}-note-{token}")


# -------------------------------------------------------------------------- before the file is used


def check_before_opening(path: Path, *, linked: bool, incomplete: bool) -> bool:
    """Refuse a file that has another name, is missing, was replaced, or lacks records.

    With `linked` other names are accepted, with `incomplete` that records are lost.

    Returns:
        Whether a crashed run wrote no note, as in earlier versions: the log with its records goes
        when the file is closed, and with it the only trace of that run.

    Raises:
        LedgerError: it is not safe.
        OSError: it can't be read.
    """
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise LedgerError(f"the ledger {str(path)!r} can't be opened: it is not a file")
    if not linked and path.is_file():
        _check_hard_links(path)
        _check_mount(path)
    if incomplete:
        return False
    try:
        return _check_records(path)
    except LedgerError:
        # Other runs start and end meanwhile: it is a loss if it is found twice.
        return _check_records(path)


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


def _check_records(path: Path) -> bool:
    log = path.with_name(f"{path.name}-wal")
    had_log = log.exists() and log.stat().st_size > 0
    tokens = files_of_runs(path)
    alive = {token for token in tokens if is_alive(path, token)}
    notes = {token: note for token in tokens.keys() - alive if (note := _read_note(path, token))}
    beside = [log.name, f"{path.name}-shm"] if had_log else []
    names = ", ".join([*beside, *(_note_path(path, token).name for token in notes)])
    if names and (not path.exists() or path.stat().st_size == 0):
        raise LedgerError(
            f"the ledger {str(path)!r} is missing, but its records of orders that were sent are "
            f"there: {names}. It was removed or renamed. Put it back; to start a new one that "
            "knows nothing of those orders, move these files away"
        )
    runs = _read_runs(path, with_log=had_log)
    # A run that is alive has compared it with the notes, and writes into the file meanwhile.
    in_file = None if alive else _read_runs(path, with_log=False)
    if _is_older(in_file, notes) or (runs is not None and notes.keys() - runs.keys()):
        raise LedgerError(
            f"the ledger {str(path)!r}, or the log beside it, was replaced by another one after a "
            "run was interrupted, so it does not know all orders that were sent. Put the right one "
            f"back; to go on with this one nevertheless, move these files away: {names}"
        )
    crashed = [run for run in (runs or {}).values() if not run.ended and run.token not in alive]
    for run in crashed:
        committed, _ = notes.get(run.token, (None, None))
        if (not had_log) if committed is None else run.committed < committed:
            since = datetime.fromtimestamp(run.started_at).astimezone()
            raise LedgerError(
                f"the ledger {str(path)!r} has lost records: the run that started at "
                f"{since.isoformat(' ', 'seconds')} was interrupted, and the log that held its "
                f"last records, {log.name}, is gone or incomplete. Orders that the ledger does not "
                "know of may have been sent. Put the log back. If it is lost, find out which "
                "orders were sent since then, and make a ledger of what is left with "
                "`everlytic-async ledger copy --accept-loss`"
            )
    return any(run.token not in notes for run in crashed)


@attrs.frozen
class _Run:
    token: str
    started_at: float
    ended: bool
    committed: int


def _read_runs(path: Path, *, with_log: bool) -> Mapping[str, _Run] | None:
    """The runs that the ledger knows; None if it can't be read: opening it to write says why."""
    uri = f"{path.as_uri()}?mode=ro{'' if with_log else '&immutable=1'}"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            columns = {row[1] for row in connection.execute("PRAGMA table_info(runs)")}
            committed = "committed" if "committed" in columns else "0"  # in earlier versions
            select = f"SELECT token, began, ended IS NOT NULL, {committed} FROM runs"  # noqa: S608
            return {row[0]: _Run(*row) for row in connection.execute(select)}
    except sqlite3.Error:
        return None


def _read_note(ledger: Path, token: str) -> tuple[int, int] | None:
    """What `RunFiles.write_note` wrote, of a run that has crashed; None if there is none."""
    try:
        found = _NOTE.fullmatch(_note_path(ledger, token).read_bytes())
    except OSError:
        return None
    return None if found is None else (int(found[1]), int(found[2]))


def _is_older(in_file: Mapping[str, _Run] | None, notes: Mapping[str, tuple[int, int]]) -> bool:
    """Whether the file lacks transactions that a note says were in it, not only in the log."""
    return in_file is not None and any(
        token not in in_file or in_file[token].committed < checkpointed
        for token, (_, checkpointed) in notes.items()
    )


# ------------------------------------------------------------------------------- while it is in use


class FileIdentity:
    """Which files are found by a ledger's names when it is opened.

    The log and its index too: who opens the ledger without them gets new ones, and neither sees
    the other's claims.
    """

    def __init__(self, path: Path, named_path: Path) -> None:
        self._path = path
        self._named_path = named_path  # as the user wrote it, perhaps by links
        self._files = self._find()

    def check(self) -> None:
        """Refuse to go on if a name leads elsewhere: what is recorded then is not found again."""
        if self._find() != self._files:
            target = f" (a link to {str(self._path)!r})" if self._named_path != self._path else ""
            raise LedgerError(
                f"the ledger {str(self._named_path)!r}{target}, or its log beside it (-wal, -shm), "
                "was removed, renamed or replaced while it was in use, so nothing more is sent. "
                "Put the file back, with the files beside it, before you run it again"
            )

    def _find(self) -> list[tuple[int, int] | None]:
        files = [_identity(f"{self._path}{end}", follow=False) for end in ("", "-wal", "-shm")]
        return [*files, _identity(str(self._named_path), follow=True)]


def _identity(name: str, *, follow: bool) -> tuple[int, int] | None:
    try:
        # For each group of commits: half the time of `Path.stat`.
        found = os.stat(name, follow_symlinks=follow)  # noqa: PTH116
    except OSError:
        return None
    return found.st_dev, found.st_ino
