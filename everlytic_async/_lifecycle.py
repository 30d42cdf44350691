"""Where a client was started, and whether it may be used here and now.

Sockets are shared across a fork, and an event loop's parts belong to one thread: from elsewhere one
order's response could be read as another's.
"""

from __future__ import annotations

import asyncio
import os
import threading

from everlytic_async.errors import ConfigurationError

_NOT_STARTED = (
    "the client is not started: use `async with EverlyticClient(...) as client`, or "
    "`await client.start()`"
)
_CLOSED = "the client is closed and can't be used again: make a new one"
_STARTED = "the client is started already: start it once, and share it"
_OTHER_PROCESS = (
    "the client was started in another process, before a fork: make and start one in each process"
)
_OTHER_LOOP = (
    "the client was started in another event loop or thread: use it there, or make and start one "
    "in this one (each `asyncio.run` has its own event loop)"
)
_OTHER_THREAD = (
    "the client was started in another thread: hand calls to its event loop with "
    "`loop.call_soon_threadsafe(...)`, coroutines with `asyncio.run_coroutine_threadsafe(...)`"
)


class Lifecycle:
    """From a client's start to its close, in one process, thread and event loop."""

    __slots__ = ("_closed", "_loop", "_pid", "_thread")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid: int | None = None  # None before the start
        self._thread: int | None = None
        self._closed = False

    @property
    def is_open(self) -> bool:
        """Whether it was started, in this process, and not closed."""
        return self._pid == os.getpid() and not self._closed

    @property
    def is_inherited(self) -> bool:
        """Whether a fork copied it here: its connections are the other process's."""
        return self._pid is not None and self._pid != os.getpid()

    def start(self) -> None:
        """Start here."""
        self._loop, self._pid = asyncio.get_running_loop(), os.getpid()
        self._thread = threading.get_ident()

    def undo_start(self) -> None:
        """What was started failed: it may be started again."""
        self._pid = None

    def close(self) -> None:
        """Let no call start from now on.

        Raises:
            ConfigurationError: it was started in another process, thread or event loop.
        """
        if not self._closed:
            self.check_same_loop()
        self._closed = True

    def check_new(self) -> None:
        """Check that it was neither started nor closed.

        Raises:
            ConfigurationError: says what to do instead.
        """
        if self.is_inherited:
            raise ConfigurationError(_OTHER_PROCESS)
        if self._closed:
            raise ConfigurationError(_CLOSED)
        if self._pid is not None:
            raise ConfigurationError(_STARTED)

    def check_open(self) -> None:
        """Check that it is open, and was started here.

        Raises:
            ConfigurationError: says what to do instead.
        """
        if self._closed:
            raise ConfigurationError(_CLOSED)
        if self._pid is None:
            raise ConfigurationError(_NOT_STARTED)
        self.check_same_loop()

    def check_same_loop(self) -> None:
        """Check that it was started in this process, thread and event loop, if it was started.

        Raises:
            ConfigurationError: says what to do instead.
        """
        if self._pid is None:
            return
        if self._pid != os.getpid():
            raise ConfigurationError(_OTHER_PROCESS)
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            # Plain code: it may prepare and stop what runs in this thread's event loop.
            if self._thread != threading.get_ident():
                raise ConfigurationError(_OTHER_THREAD) from None
            return
        if running is not self._loop:
            raise ConfigurationError(_OTHER_LOOP)
