"""The measured process of every benchmark: ``mode`` says what it does, the last line what it took.

A mode that several processes start together prints a line when it is ready, and starts when its
standard input ends.
"""

# A mode that is not measured imports nothing.
# ruff: noqa: PLC0415

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any

from benchmarks._load import (
    Meter,
    WrongAnswerError,
    emit,
    order,
    orders,
    peak_bytes,
    resident_bytes,
    run,
    wait_for_stdin_end,
)
from benchmarks._senders import SENDERS, Settings, make_client

Figures = dict[str, Any]
# Each process of several has its own order numbers.
_NUMBERS = 100_000_000
# How often a worker asks whether the queue is empty.
_ASK_S = 0.1


def _raise(error: Exception | None) -> None:
    if error is not None:
        raise error


async def send(settings: Settings) -> Figures:
    """Send with one of the senders, after a warm-up; every order must be accepted."""
    warm_up, products = settings["warm_up"], settings.get("products", 1)
    async with SENDERS[settings["sender"]](settings) as send_all:
        await send_all(orders(warm_up, products), _raise)
        meter = Meter()
        # Other numbers: a ledger knows those of the warm-up.
        await send_all(orders(settings["orders"], products, warm_up), _raise)
        return meter.read()


async def pace(settings: Settings) -> Figures:
    """Send to a server that throttles: what was accepted, and how much of it in time."""
    from everlytic_async import BatchStoppedError

    figures: Figures = {"read": 0, "sent": 0, "in_time": 0}
    duration_s = settings["duration_s"] or float("inf")

    def elapsed_s() -> float:
        return time.monotonic() - started_at

    def source() -> Iterator[dict[str, Any]]:
        first = settings["process"] * _NUMBERS
        for number in range(first, first + settings["orders"]):
            if elapsed_s() >= duration_s:
                return
            figures["read"] += 1
            yield order(number)

    def report(error: Exception | None) -> None:
        figures["sent"] += error is None
        figures["in_time"] += error is None and elapsed_s() < duration_s

    async with SENDERS[settings["sender"]](settings) as send_all:
        emit(ready=True)
        await wait_for_stdin_end()
        started_at = time.monotonic()
        with suppress(BatchStoppedError):  # then some are lost, which is counted
            await send_all(source(), report)
        return {**figures, "elapsed_s": elapsed_s()}


async def stream(settings: Settings) -> Figures:
    """One stream; the memory after each of the orders in ``marks``."""
    from everlytic_async import Outcome

    marks, expected = set(settings["marks"]), Outcome(settings["outcome"])
    seen = 0
    async with make_client(settings) as client:
        meter = Meter()
        async with client.stream_orders(orders(settings["orders"])) as results:
            async for result in results:
                if result.outcome is not expected:
                    raise WrongAnswerError(f"{result!r}") from result.error
                seen += 1
                if seen in marks:
                    emit(resident_bytes=resident_bytes())
        return {"seen": seen, **meter.read(), "peak_bytes": peak_bytes()}


async def work(settings: Settings) -> Figures:
    """A worker, until the queue is empty."""
    from everlytic_async import Outcome, SqliteLedger
    from everlytic_async.worker import OrderQueue, Worker

    file = settings["worker_ledger"]
    ledger = None if file is None else SqliteLedger(file)
    async with OrderQueue(settings["queue"]) as source, make_client(settings) as client:
        worker = Worker(client, source, ledger)
        emit(ready=True)
        await wait_for_stdin_end()
        meter = Meter()
        working = asyncio.create_task(worker.run())
        while (await source.status()).depth:  # noqa: ASYNC110 - it is the server's
            await asyncio.sleep(_ASK_S)
        worker.stop()
        await working
        cpu_s = meter.read()["cpu_s"]
    counts = worker.status.counts
    if sum(counts.values()) != counts[Outcome.SENT]:
        raise WrongAnswerError(f"not all were sent: {dict(counts)}")
    return {"sent": counts[Outcome.SENT], "cpu_s": cpu_s, "resident_bytes": resident_bytes()}


async def read(settings: Settings) -> Figures:
    """Read a file with one of the readers."""
    from csv import DictReader

    path, count = settings["path"], 0
    if settings["reader"] == "read_orders":
        from everlytic_async import Order
        from everlytic_async.sources import read_orders

        meter = Meter()
        for item in read_orders(path):
            count += isinstance(item, Order)
    elif settings["reader"] == "DictReader":
        meter = Meter()
        with open(path, encoding="utf-8", newline="") as file:  # noqa: ASYNC230, PTH123
            count = len({row["Name"] for row in DictReader(file)})
    else:
        from ijson.backends import yajl2_c

        meter = Meter()
        with open(path, "rb") as file:  # noqa: ASYNC230, PTH123
            count = sum(1 for _ in yajl2_c.items(file, "item"))
    cpu_us = meter.read()["cpu_s"] * 1e6 / count
    if count != settings["orders"]:
        raise WrongAnswerError(f"{count:,} orders were read")
    return {"cpu_us": cpu_us, "peak_bytes": peak_bytes()}


MODES: dict[str, Callable[[Settings], Coroutine[Any, Any, Figures]]] = {
    mode.__name__: mode for mode in (send, pace, stream, work, read)
}


def main() -> None:
    """Do what the settings, JSON in the argument, say, and print the figures."""
    settings = json.loads(sys.argv[1])
    emit(**run(MODES[settings["mode"]](settings), uvloop=settings.get("uvloop", False)))


if __name__ == "__main__":
    main()
