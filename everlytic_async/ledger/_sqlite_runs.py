"""Two files beside a ledger for each run, ``FILE-run-TOKEN`` and ``FILE-note-TOKEN``.

The first is a lock, held while the process lives; the system frees it however the process ends. The
second is a note: how many transactions the run has committed, and how many of them surely are in
the ledger's own file. The ledger holds the first figure too. The next run compares them after a
crash, and so detects missing records, whatever happened to the log: it was removed, another file is
in its place, or the ledger was moved without it.
"""

from __future__ import annotations

import os
import re
import sqlite3
import stat
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path

import attrs

from everlytic_async.ledger._sqlite_schema import is_busy

__all__ = ["Note", "RunFiles", "files_of_runs", "is_alive", "lock_path", "note_path", "read_note"]

_NAME = re.compile(r"-(?:run|note)-([0-9a-f]{16})\Z")
_NOTE = re.compile(rb"([0-9]{20}) ([0-9]{20})\n")


@attrs.frozen
class Note:
    """How much a run has recorded.

    Attributes:
        committed: How many of its transactions were committed.
        checkpointed: How many of those surely are in the ledger's file, and not only in its log.
    """

    committed: int = 0
    checkpointed: int = 0


class RunFiles:
    """The lock and the note of a run of this process.

    Args:
        ledger: The ledger's path.
        token: The run's name.

    Raises:
        OSError, sqlite3.Error: they can't be created.
    """

    def __init__(self, ledger: Path, token: str) -> None:
        self._paths = lock_path(ledger, token), note_path(ledger, token)
        self._lock: sqlite3.Connection | None = None
        self._note: int | None = None
        # Whoever may write the ledger must be able to see which runs are alive.
        mode = stat.S_IMODE(ledger.stat().st_mode) & 0o666
        try:
            for path in self._paths:
                file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
                try:
                    path.chmod(mode)
                finally:
                    os.close(file)
            self._lock = sqlite3.connect(
                self._paths[0], isolation_level=None, check_same_thread=False
            )
            self._lock.execute("PRAGMA journal_mode = MEMORY")  # no further file
            self._lock.execute("BEGIN EXCLUSIVE")
            self._note = os.open(self._paths[1], os.O_WRONLY)
        except BaseException:
            self.remove()
            raise

    def write(self, note: Note) -> None:
        """Write the note, so that it survives this process.

        Raises:
            OSError: it can't be written.
        """
        if self._note is not None:
            # Of constant length, so that one write replaces it.
            os.pwrite(self._note, b"%020d %020d\n" % (note.committed, note.checkpointed), 0)

    def remove(self, *, keep_note: bool = False) -> None:
        """Free the lock and remove the files, except a note that the next run must read."""
        self.close()
        for path in self._paths[: 1 if keep_note else 2]:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Free the lock and leave the files, as the system does when the process ends."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()
        note, self._note = self._note, None
        if note is not None:
            os.close(note)


def lock_path(ledger: Path, token: str) -> Path:
    """The path of a run's lock."""
    return ledger.with_name(f"{ledger.name}-run-{token}")


def note_path(ledger: Path, token: str) -> Path:
    """The path of a run's note."""
    return ledger.with_name(f"{ledger.name}-note-{token}")


def files_of_runs(ledger: Path) -> Mapping[str, Sequence[Path]]:
    """The files of all runs beside a ledger, by token."""
    found: dict[str, list[Path]] = {}
    with suppress(OSError):
        for path in ledger.parent.iterdir():
            match = _NAME.match(path.name, len(ledger.name))
            if match is not None and path.name.startswith(ledger.name):
                found.setdefault(match[1], []).append(path)
    return found


def is_alive(lock: Path) -> bool:
    """Whether the process of a run still holds its lock."""
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


def read_note(ledger: Path, token: str) -> Note | None:
    """The note of a run that has ended; None if there is none."""
    try:
        found = _NOTE.fullmatch(note_path(ledger, token).read_bytes())
    except OSError:
        return None
    return None if found is None else Note(int(found[1]), int(found[2]))
