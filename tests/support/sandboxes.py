"""A sandbox in a thread, for a command or a program in another process or in the test's own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from everlytic_async.sandbox import Faults, Sandbox

#: Made up, and looked for in everything that the command writes.
STORE_HASH = "0b5cf0de-1111-4222-8333-5707e4a54001"
CUSTOMER_HASH = "Cu5t0merSecretXy"


@contextmanager
def serve(
    port: int = 0,
    store_hash: str = STORE_HASH,
    customer_hash: str = CUSTOMER_HASH,
    **faults: float,
) -> Iterator[Sandbox]:
    """A sandbox with faults, in a thread with an event loop of its own."""
    sandbox = Sandbox(
        port=port,
        store_hash=store_hash,
        customer_hash=customer_hash,
        faults=Faults(**faults),  # type: ignore[arg-type]
    )
    with asyncio.Runner() as runner:
        runner.run(sandbox.start())
        loop = runner.get_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            yield sandbox
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            runner.run(sandbox.close())
