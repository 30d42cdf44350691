"""Processes that a test may kill, forked from one that has imported what they need."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable, Coroutine
from multiprocessing.connection import Connection
from typing import Any

import pytest

# So that no interpreter has to start for each. It starts with the first of them.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["everlytic_async.sandbox", "everlytic_async.worker"])


class Forked:
    """A process that runs an async function: ``work(send, **arguments)``, by its name in a module.

    What it calls `send` with is received here.
    """

    def __init__(self, work: Callable[..., Coroutine[Any, Any, None]], **arguments: Any) -> None:
        self._received, sends = _FORKS.Pipe(duplex=False)
        self._process = _FORKS.Process(target=_run, args=(sends, work, arguments), daemon=True)
        with pytest.MonkeyPatch.context() as patch:
            # Otherwise each would start with pytest's own script.
            patch.delattr(sys.modules["__main__"], "__file__", raising=False)
            self._process.start()
        sends.close()

    async def receive(self) -> Any:
        """The next thing that it sends; None if it ends before."""
        try:
            return await asyncio.to_thread(self._received.recv)
        except EOFError:
            return None

    def signal(self, number: int) -> None:
        """Send it a signal, if it has not ended."""
        if self._process.exitcode is None:
            os.kill(self._process.pid or 0, number)

    async def end(self) -> int | None:
        """Wait until it has ended: its exit code, or minus the number of the signal."""
        await asyncio.to_thread(self._process.join)
        self._received.close()
        return self._process.exitcode


def _run(
    sends: Connection, work: Callable[..., Coroutine[Any, Any, None]], arguments: dict[str, Any]
) -> None:
    warnings.simplefilter("error")
    asyncio.run(work(sends.send, **arguments))
