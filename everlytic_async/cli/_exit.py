"""How a command ends: its exit code, and an error in words rather than as a traceback.

Whatever a command runs may raise a `ConfigurationError`, `LedgerError` or `QueueError`: before
anything is sent. `handle_errors` shows it.
"""

from __future__ import annotations

import enum
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import click

from everlytic_async.cli._console import OutputError, print_lines
from everlytic_async.errors import ConfigurationError, LedgerError, QueueError


class Exit(enum.IntEnum):
    """What a script may learn from the exit code."""

    #: Every order was sent, now or before (`send`), or is valid (`check`).
    OK = 0
    #: Some orders were not: running `send` again takes them up.
    FAILED = 1
    #: Wrong usage or settings, input that can't be read, or an error that nobody foresaw. Not 1:
    #: a script that repeats 1 would repeat it for ever.
    USAGE = 2
    #: Nothing more can be sent: a person has to act on the rest.
    NEEDS_PERSON = 3
    #: Ctrl-C.
    INTERRUPTED = 128 + signal.SIGINT


class UnexpectedError(Exception):
    """An unforeseen error (see ``__cause__``) after orders may have been sent.

    Its message says what to do, because running the same command again may be wrong then.
    """


def is_quiet() -> bool:
    """Whether the command that runs has the option ``--quiet``."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.params.get("quiet"))


def note(message: str) -> None:
    """As `say`, for what is neither an error nor a warning: not with ``--quiet``."""
    if not is_quiet():
        say(message)


def say(message: str) -> None:
    """Write a message to stderr: stdout is for what was asked for.

    A command to copy has a line of its own, with an indent.
    """
    with suppress(OutputError):
        print_lines(message.split("\n"), stderr=True)


def handle_errors(command: Callable[[], int], *, debug: bool) -> NoReturn:
    """Run a command and exit with the code that it returns; an error is shown in a line."""
    try:
        code = command()
    except click.ClickException:
        raise
    except KeyboardInterrupt as error:
        say(" ".join(["Interrupted.", *map(str, error.args)]))
        code = Exit.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - shown, and with --debug in full
        expected = isinstance(error, ConfigurationError | LedgerError | QueueError)
        if debug:
            traceback.print_exception(error)
        say(f"Error: {error if expected else _describe(error, debug=debug)}")
        code = Exit.USAGE
    sys.exit(code)


def _describe(error: Exception, *, debug: bool) -> str:
    if isinstance(error, OutputError):
        return str(error)
    hint = "" if debug else " Run it again with --debug to see where."
    if isinstance(error, UnexpectedError) and isinstance(error.__cause__, Exception):
        error, hint = error.__cause__, f" {error}"
    # Not its message: that of an unforeseen error may hold anything.
    what = f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""
    return f"an unexpected {type(error).__name__}{what}.{hint}"
