"""A line for each order: what became of it, as JSON Lines. No hashes, and nothing of the order."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from everlytic_async.cli._exit import redirect_to_devnull
from everlytic_async.cli._input import Input, printable
from everlytic_async.cli._options import ResultsOptions
from everlytic_async.cli._screen import json_line
from everlytic_async.errors import ConfigurationError, EverlyticError, InvalidOrderError

__all__ = [
    "APPEND_OPTION",
    "Results",
    "check_results",
    "ledger_files",
    "open_private",
    "refuse_same_file",
]

APPEND_OPTION = "--append-results"
# Each result starts with its index.
_FIRST_FIELD = b'{"index": '


class Results:
    """A file that is written line by line, so that what was written survives a crash.

    Args:
        options: ``--results`` and ``--append-results``.
        source: The input, which must be another file.
        keep: Other files that it must not be, by the options that name them.

    Attributes:
        is_stdout: Whether the standard output is taken by the results.
        fault: Why not all results could be written; None where they could.
    """

    def __init__(
        self, options: ResultsOptions, source: Input, keep: Mapping[str, str | None]
    ) -> None:
        check_results(options, source, keep)
        name = options.results
        self._closing = ExitStack()
        self._file: IO[str] | None = None
        self._line_end = ""  # that the file lacks
        self.is_stdout = name == "-"
        self.fault: str | None = None
        if name is None:
            return
        if name == "-":
            self._file = sys.stdout
            return
        try:
            if _is_cut_off(Path(name)):
                self._line_end = "\n"
            # Line by line to the system: a process that is killed has its results on the disk.
            file = open(  # noqa: SIM115 - it stays open
                name, "a", 1, "utf-8", errors="backslashreplace", opener=open_private
            )
        except OSError as error:
            raise _cannot_write(name, error) from error
        self._file = self._closing.enter_context(file)

    def write(self, *, error: EverlyticError | str | None, **fields: Any) -> bool:
        """Write a result; False where it can't be, once and for all (see `fault`)."""
        if self._file is None:
            return True
        if self.fault is not None:
            return False
        if isinstance(error, InvalidOrderError):
            error = "; ".join(error.faults)  # without the line, which has a field of its own
        risk = fields.pop("duplicate_risk")
        result = {**fields, "error": error if error is None else str(error), "duplicate_risk": risk}
        try:
            self._file.write(f"{self._line_end}{json_line(result)}\n")
            self._line_end = ""
            if self.is_stdout:
                self._file.flush()  # a pipe is buffered
        except OSError as failure:
            self.fault = f"the results can't be written any more: {failure.strerror}"
            if self.is_stdout:
                redirect_to_devnull(self._file.fileno())  # what is still buffered would fail again
            return False
        return True

    def close(self) -> None:
        """Close the file, but for the standard output."""
        try:
            self._closing.close()
        except OSError as failure:
            # What is still buffered can't be written either.
            self.fault = self.fault or f"the results can't be written: {failure.strerror}"


def check_results(options: ResultsOptions, source: Input, keep: Mapping[str, str | None]) -> None:
    """Check that `Results` may open its file, before anything is asked or sent."""
    name = options.results
    if name is None and options.append_results:
        raise ConfigurationError(
            f"{APPEND_OPTION} needs --results FILE: there is nothing to append"
        )
    if name == "-" and options.as_json:
        raise ConfigurationError("--json and --results - both want the standard output: choose one")
    if name is None or name == "-":
        return
    try:
        refuse_same_file("--results", name, keep, source)
        found = os.stat(name) if os.path.exists(name) else None  # noqa: PTH110, PTH116 - as named
        has_others = (
            found is not None
            and options.append_results
            and stat.S_ISREG(found.st_mode)
            and not _starts_like_results(Path(name))
        )
    except OSError as error:
        raise _cannot_write(name, error) from error
    if has_others:
        raise ConfigurationError(
            f"{printable(name)} holds something else than results: nothing is appended to it. "
            "Name another file"
        )
    if found is None or options.append_results or not stat.S_ISREG(found.st_mode):
        return
    if found.st_size:
        raise ConfigurationError(
            f"{printable(name)} holds the results of an earlier run: name another file, or add "
            f"{APPEND_OPTION} to append to them"
        )


def refuse_same_file(
    option: str, name: str, keep: Mapping[str, str | None], source: Input | None = None
) -> None:
    """Refuse a file to write that is another one of the run, or will be.

    Args:
        option: The option that names the file.
        name: The file.
        keep: The other files, by the options that name them.
        source: The input.
    """
    path = Path(name)
    for other, kept in keep.items():
        if kept is None or kept == "-":
            continue
        same = path.resolve() == Path(kept).resolve()
        if same or (path.exists() and Path(kept).exists() and path.samefile(kept)):
            raise ConfigurationError(f"{option} names the same file as {other}")
    if source is not None and path.exists() and source.is_file(path):
        raise ConfigurationError(f"{option} names the file that holds the orders")


def ledger_files(ledger: Path | None) -> dict[str, str | None]:
    """The files of a ledger, by what they are: nothing else may be written to them."""
    if ledger is None:
        return {}
    path = ledger.resolve()  # the others are beside the real one
    ends = ("-wal", "-shm", "-journal")
    return {"the ledger": str(path), **{f"the ledger's {end}": f"{path}{end}" for end in ends}}


def _starts_like_results(path: Path) -> bool:
    """Whether a file is empty or starts with a result, of which a kill may have left a part."""
    with path.open("rb") as file:
        start = file.read(len(_FIRST_FIELD))
    return _FIRST_FIELD.startswith(start)


def _is_cut_off(path: Path) -> bool:
    """Whether a file ends in the middle of a line: after a kill, or on a full disk."""
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


def _cannot_write(name: str, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"the results can't be written to {name!r}: {error.strerror}")


def open_private(name: str, flags: int) -> int:
    """Open a file as ``open`` asks its ``opener``; a new one is the user's alone.

    For results, which name a shop's orders and repeat what the endpoint said of them. A pipe that
    nobody reads from is not waited for.
    """
    try:
        descriptor = os.open(name, flags | os.O_NONBLOCK, 0o600)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, "nobody reads from it") from error
        raise
    os.set_blocking(descriptor, True)
    return descriptor
