"""A line for each order: what became of it, as JSON Lines. No hashes, and nothing of the order."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from everlytic_async.cli._exit import silence
from everlytic_async.cli._input import Input
from everlytic_async.errors import ConfigurationError, EverlyticError, InvalidOrderError
from everlytic_async.outcomes import Outcome

__all__ = ["Results"]


class Results:
    """A file that is written line by line, so that what was written survives whatever comes.

    Args:
        name: A path, whose file is replaced; ``-`` for the standard output; None for no file.
        source: The input, which must be another file.
        keep: Other files that it must not replace, by the options that name them.

    Raises:
        ConfigurationError: when it can't be opened.
    """

    def __init__(
        self, name: str | None, source: Input, *, keep: Mapping[str, str] | None = None
    ) -> None:
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
        path = Path(name)
        try:
            if path.exists() and source.is_file(path):
                raise ConfigurationError("--results names the file that holds the orders")
            for option, other in (keep or {}).items():
                if path.exists() and Path(other).exists() and path.samefile(other):
                    raise ConfigurationError(f"--results names the same file as {option}")
            # Line by line to the system: a process that is killed has its results on the disk.
            file = path.open("w", buffering=1, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise ConfigurationError(
                f"the results can't be written to {os.fspath(path)!r}: {error.strerror}"
            ) from error
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
                silence(self._file.fileno())  # what is still buffered would fail again
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


def message_of(error: EverlyticError | str) -> str:
    """An error in words, without the line, which has a place of its own."""
    if isinstance(error, InvalidOrderError):
        return "; ".join(error.faults)
    return str(error)
