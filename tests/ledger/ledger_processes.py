"""Processes that use a ledger, and may be killed."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from ledger_shop import Place, ledger_at

from everlytic_async import BatchStoppedError, Delivery, LedgerError, Pacing
from everlytic_async.ledger import Entry, ResendPolicy, State
from everlytic_async.ledger._sqlite import SqliteWriter
from everlytic_async.sandbox import Sandbox
from support.delivery import CUSTOMER_HASH, MANY_RETRIES, STORE_HASH, make_client, orders
from support.forked import Forked

NOBODY = 65_534


def make_sandbox(**settings: Any) -> Sandbox:
    """A sandbox whose hashes the processes know."""
    return Sandbox(store_hash=STORE_HASH, customer_hash=CUSTOMER_HASH, **settings)


@attrs.frozen
class End:
    """How a process ended.

    Attributes:
        code: Its exit code, or minus the signal's number.
        ends: The keys by outcome.
        error: What the batch raised.
    """

    code: int | None
    ends: dict[str, list[str]] = attrs.field(factory=dict)
    error: str | None = None


def start(sandbox: Sandbox, place: Place, count: int, **settings: Any) -> Forked:
    """Start to send; see `_send`."""
    return Forked(_send, url=sandbox.base_url, place=place, count=count, **settings)


async def ended(process: Forked) -> End:
    """Wait until it has ended."""
    returned = await process.receive() or {}
    return End(await process.end(), **returned)


async def send(sandbox: Sandbox, place: Place, count: int, **settings: Any) -> End:
    """Send to the end."""
    return await ended(start(sandbox, place, count, **settings))


async def _send(
    report: Callable[[dict[str, Any]], None],
    *,
    url: str,
    place: Place,
    count: int,
    delivery: Delivery = Delivery.AT_MOST_ONCE,
    concurrency: int = 8,
    file_size: int | None = None,
    unprivileged: bool = False,
    **ledger: Any,
) -> None:
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))  # as a full disk
    if unprivileged and os.geteuid() == 0:
        os.setuid(NOBODY)  # for root nothing is read-only
    ends: dict[str, list[str]] = {}
    error = None
    pacing = Pacing(max_concurrency=concurrency, adaptive=False)
    async with make_client(url, delivery=delivery, retry=MANY_RETRIES, pacing=pacing) as client:
        try:
            async with client.stream_orders(
                orders(count), ledger=ledger_at(place, **ledger)
            ) as results:
                async for result in results:
                    ends.setdefault(result.outcome, []).append(str(result.key))
        except (BatchStoppedError, LedgerError) as raised:
            error = f"{type(raised).__name__}: {raised}"
    report({"ends": ends, "error": error})


async def killed(
    path: Path, *, sent: tuple[str, ...] = (), in_flight: str = "in flight", starts: bool = True
) -> None:
    """A process is killed that has recorded orders as sent, and has one in flight.

    Or one that was about to start its run: it had made its lock.
    """
    process = Forked(_die, path=path, sent=sent, in_flight=in_flight, starts=starts)
    assert await process.end() == -signal.SIGKILL


def _kill_this_process() -> float:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0.0


async def _die(
    _report: object, *, path: Path, sent: tuple[str, ...], in_flight: str, starts: bool
) -> None:
    if not starts:  # it looks at the clock to record its run, after it has made its lock
        SqliteWriter(path, clock=_kill_this_process)
    async with ledger_at(path).session("shop.example", "shop.example") as session:
        for key in sent:
            await session.claim(key, "body", ResendPolicy())
            await session.record(Entry(key, State.SENT, "body"))
        await session.claim(in_flight, "body", ResendPolicy())
        _kill_this_process()
