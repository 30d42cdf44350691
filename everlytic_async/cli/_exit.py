"""How a command ends: its exit code, and an error in words rather than as a traceback."""

from __future__ import annotations

import enum
import functools
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn, ParamSpec

import click

from everlytic_async.errors import ConfigurationError, LedgerError, QueueError, printable

__all__ = ["Exit", "MidwayError", "OutputError", "guarded", "say", "silence"]

_P = ParamSpec("_P")


class Exit(enum.IntEnum):
    """What a script may learn from the exit code."""

    #: Every order was sent, now or before (`send`), or is valid (`check`).
    OK = 0
    #: Some orders were not. To run `send` again sends what was surely not sent.
    FAILED = 1
    #: Wrong usage or settings, or input that can't be read.
    USAGE = 2
    #: To run `send` again sends nothing more: a person has to act on the rest.
    NEEDS_PERSON = 3
    #: Ctrl-C.
    INTERRUPTED = 128 + signal.SIGINT
    #: SIGTERM.
    TERMINATED = 128 + signal.SIGTERM


class OutputError(Exception):
    """The standard output, or error, can't be written: a full disk."""


class MidwayError(Exception):
    """What nobody foresaw, once orders may have left (see ``__cause__``).

    It says what is true of them: to run the command again, as it was, may be wrong then.
    """


def say(message: str) -> None:
    """Tell the person at the terminal, on stderr: stdout is for what was asked for."""
    try:
        click.echo("\n".join(map(printable, message.split("\n"))), err=True)
    except BrokenPipeError:  # whoever read it has gone, as `tee` has after Ctrl-C
        silence(sys.stderr.fileno())


def silence(fd: int) -> None:
    """Let what is still written to a broken pipe go nowhere."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, fd)
    os.close(devnull)


def guarded(command: Callable[_P, int]) -> Callable[_P, NoReturn]:
    """Make a command exit with the code that it returns, and tell its errors in a line.

    The command's ``debug`` adds the traceback.
    """

    @functools.wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> NoReturn:
        debug = bool(kwargs.pop("debug"))
        try:
            code = command(*args, **kwargs)
        except click.ClickException:
            raise
        except KeyboardInterrupt:
            say("Interrupted.")
            code = Exit.INTERRUPTED
        except BrokenPipeError:
            silence(sys.stdout.fileno())
            code = Exit.FAILED
        except (ConfigurationError, LedgerError, QueueError) as error:
            _show(error, debug=debug)
            say(f"Error: {error}")
            code = Exit.USAGE
        except Exception as error:  # noqa: BLE001 - told, and with --debug shown in full
            _show(error, debug=debug)
            say(f"Error: {_in_words(error, debug=debug)}")
            code = Exit.FAILED
        sys.exit(code)

    return run


def _in_words(error: Exception, *, debug: bool) -> str:
    if isinstance(error, OutputError):
        return str(error)
    hint = "" if debug else " Run it again with --debug to see where."
    if isinstance(error, MidwayError) and isinstance(error.__cause__, Exception):
        error, hint = error.__cause__, f" {error}"
    # Not its message: that of an error which nobody foresaw may hold anything.
    what = f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""
    return f"an unexpected {type(error).__name__}{what}.{hint}"


def _show(error: BaseException, *, debug: bool) -> None:
    if debug:
        traceback.print_exception(error)
