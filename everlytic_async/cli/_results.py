"""The files that a run writes: what they must not replace, and a line for each order.

The results are JSON Lines: what became of each order, without hashes, and nothing else of it.
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

from everlytic_async.cli._console import file_name, redirect_to_devnull
from everlytic_async.cli._options import ResultsOptions
from everlytic_async.cli._screen import json_line
from everlytic_async.errors import ConfigurationError, InvalidOrderError

APPEND_OPTION = "--append-results"
# What each kind of file begins with.
_RESULTS_START = b'{"index": '
_PAGE_START = b"<!DOCTYPE html>\n<!-- everlytic-async"
_LEDGER_ENDS = ("", "-wal", "-shm", "-journal")


def check_outputs(options: ResultsOptions, ledger: Path | None, report: str | None = None) -> None:
    """Check that a run's files replace nothing else, before anything is asked or sent."""
    results = options.results
    if results is None and options.append_results:
        raise ConfigurationError(
            f"{APPEND_OPTION} needs --results FILE: there is nothing to append"
        )
    if results == "-" and options.as_json:
        raise ConfigurationError("--json and --results - both want the standard output: choose one")
    if results is not None and results != "-":
        _refuse_ledger_file("--results", results, ledger)
        _check_results(results, is_appended=options.append_results)
    if report is not None:
        _refuse_ledger_file("--report", report, ledger)
        if results is not None and Path(report).resolve() == Path(results).resolve():
            raise ConfigurationError("--report names the same file as --results")
        _check_page(report)


def _refuse_ledger_file(option: str, name: str, ledger: Path | None) -> None:
    """Refuse a file to write that belongs to a ledger, or will."""
    # The others are beside the real one.
    if ledger is not None and str(Path(name).resolve()) in {
        f"{ledger.resolve()}{end}" for end in _LEDGER_ENDS
    }:
        raise ConfigurationError(f"{option} names a file of the ledger")


def _check_results(name: str, *, is_appended: bool) -> None:
    try:
        found = _start_of(Path(name), len(_RESULTS_START))
    except OSError as error:
        raise _cannot_write(name, error) from error
    if found is None:
        return
    if not _RESULTS_START.startswith(found):  # of which a kill may have left a part
        raise ConfigurationError(
            f"{file_name(name)} holds something else than results, and --results replaces "
            "nothing: name another file"
        )
    if not is_appended:
        raise ConfigurationError(
            f"{file_name(name)} holds the results of an earlier run: name another file, or add "
            f"{APPEND_OPTION} to append to them"
        )


def _check_page(name: str) -> None:
    path, problem = Path(name).resolve(), None
    try:
        with tempfile.TemporaryDirectory(prefix=".", dir=path.parent):
            found = _start_of(path, len(_PAGE_START))
        if name == "-":
            problem = "a page is a file, not the standard output"
        elif path.exists() and not path.is_file():
            problem = "it is not a regular file"
        elif found is not None and found != _PAGE_START:
            problem = "another file is there, not a report. Name a new one for the report"
    except OSError as error:
        problem = str(error.strerror)
    if problem is not None:
        raise ConfigurationError(f"the report can't be written to {name!r}: {problem}")


def _start_of(path: Path, length: int) -> bytes | None:
    """What a file begins with; None where there is none, it is empty, or not a file on a disk."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return file.read(length) or None


def replace_page(name: str, page: str) -> str | None:
    """Write the page of ``--report`` whole; return why it could not be: the orders were sent."""
    path = Path(name).resolve()  # a link stays a link
    try:
        with tempfile.TemporaryDirectory(prefix=".", suffix=".part", dir=path.parent) as directory:
            part = Path(directory, "page")
            with open(part, "w", encoding="utf-8", errors="replace", opener=open_private) as file:
                file.write(page)
            part.replace(path)
    except OSError as error:
        return f"the report can't be written to {name!r}: {error.strerror}"
    return None


class Results:
    """A file that is written line by line, so that what was written survives a crash.

    `fault` is why not all results could be written; None where they could.
    """

    def __init__(self, options: ResultsOptions) -> None:
        name = options.results
        self._file: IO[str] | None = sys.stdout if name == "-" else None
        self._line_end = ""  # that the file lacks
        self.is_stdout = name == "-"
        self.fault: str | None = None
        if name is None or name == "-":
            return
        try:
            if _is_cut_off(Path(name)):
                self._line_end = "\n"
            # Line by line to the system: a process that is killed has its results on the disk.
            self._file = open(  # noqa: SIM115 - `close` closes it
                name, "a", 1, "utf-8", errors="backslashreplace", opener=open_private
            )
        except OSError as error:
            raise _cannot_write(name, error) from error

    def write(self, **result: Any) -> bool:
        """Write a result; False where it can't be, once and for all (see `fault`)."""
        if self._file is None:
            return True
        if self.fault is not None:
            return False
        error = result["error"]
        if isinstance(error, InvalidOrderError):
            error = "; ".join(error.faults)  # without the line, which has a field of its own
        result["error"] = None if error is None else str(error)
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
        if self._file is None or self.is_stdout:
            return
        try:
            self._file.close()
        except OSError as failure:
            # What is still buffered can't be written either.
            self.fault = self.fault or f"the results can't be written: {failure.strerror}"


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
