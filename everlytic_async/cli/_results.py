"""A line for each order: what became of it, as JSON Lines. No hashes, and nothing of the order."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from everlytic_async.cli._exit import redirect_to_devnull
from everlytic_async.cli._input import Input, printable
from everlytic_async.cli._options import ResultsOptions
from everlytic_async.errors import ConfigurationError, EverlyticError, InvalidOrderError
from everlytic_async.outcomes import Outcome

__all__ = ["APPEND_OPTION", "Results", "check_results", "open_private"]

APPEND_OPTION = "--append-results"


class Results:
    """A file that is written line by line, so that what was written survives a crash.

    Args:
        options: ``--results`` and ``--append-results``. Without the latter a file that holds
            results is refused: it may be the only record of what became of those orders.
        source: The input, which must be another file.
        keep: Other files that it must not be, by the options that name them.

    Raises:
        ConfigurationError: when it can't be opened.
    """

    def __init__(
        self,
        options: ResultsOptions,
        source: Input,
        *,
        keep: Mapping[str, str] | None = None,
    ) -> None:
        name = options.results
        self._closing = ExitStack()
        self._file: IO[str] | None = None
        #: Whether the standard output is taken by the results.
        self.is_stdout = name == "-"
        #: Why not all results could be written; None where they could.
        self.fault: str | None = None
        if name is None:
            return
        if name == "-":
            self._file = sys.stdout
            return
        check_results(options, source, keep=keep)
        try:
            # Line by line to the system: a process that is killed has its results on the disk.
            file = open(  # noqa: SIM115 - it stays open
                name, "a", 1, "utf-8", errors="backslashreplace", opener=open_private
            )
        except OSError as error:
            raise _cannot_write(name, error) from error
        self._file = self._closing.enter_context(file)

    def write(
        self,
        *,
        index: int,
        line: int,
        key: str | None,
        outcome: Outcome | str,
        attempts: int = 0,
        error: EverlyticError | str | None = None,
        duplicate_risk: bool = False,
    ) -> bool:
        """Write a result; False where it can't be, once and for all (see `fault`)."""
        if self._file is None:
            return True
        if self.fault is not None:
            return False
        result: dict[str, Any] = {
            "index": index,
            "line": line,
            "key": key,
            "outcome": str(outcome),
            "attempts": attempts,
            "error": error if error is None else message_of(error),
            "duplicate_risk": duplicate_risk,
        }
        try:
            self._file.write(json.dumps(result, ensure_ascii=False) + "\n")
            if self.is_stdout:
                self._file.flush()  # a pipe is not line by line of itself
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def check_results(
    options: ResultsOptions, source: Input, *, keep: Mapping[str, str] | None = None
) -> None:
    """Check that `Results` may open a file, before anything is asked or sent.

    Raises:
        ConfigurationError: when it holds something already.
    """
    name = options.results
    if name is None or name == "-":
        return
    path = Path(name)
    try:
        for option, other in (keep or {}).items():
            same = path.resolve() == Path(other).resolve()
            if same or (path.exists() and Path(other).exists() and path.samefile(other)):
                raise ConfigurationError(f"--results names the same file as {option}")
        if not path.exists():
            return
        if source.is_file(path):
            raise ConfigurationError("--results names the file that holds the orders")
        found = path.stat()
    except OSError as error:
        raise _cannot_write(name, error) from error
    if stat.S_ISREG(found.st_mode) and found.st_size and not options.append_results:
        raise ConfigurationError(
            f"{printable(name)} holds the results of an earlier run: name another file, or add "
            f"{APPEND_OPTION} to append to them"
        )


def _cannot_write(name: str, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"the results can't be written to {name!r}: {error.strerror}")


def open_private(name: str, flags: int) -> int:
    """Open a file as ``open`` asks its ``opener``; a new one is the user's alone.

    For results, which name a shop's orders and repeat what the endpoint said of them.
    """
    return os.open(name, flags, 0o600)


def message_of(error: EverlyticError | str) -> str:
    """An error in words, without the line, which has a place of its own."""
    if isinstance(error, InvalidOrderError):
        return "; ".join(error.faults)
    return str(error)
