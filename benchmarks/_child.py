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
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from everlytic_async.worker import Worker

Figures = dict[str, Any]
# Each process of several has its own order numbers.
_NUMBERS = 100_000_000
# How often to look what a worker has done: its seconds are as exact as this.
_LOOK_S = 0.01
# How often an idle worker asks whether the queue is empty.
_ASK_S = 0.1
_LEDGER_STREAM = "KV_everlytic_ledger"


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

    figures: Figures = {"read": 0, "sent": 0, "in_time": 0, "errors": Counter(), "stopped": None}
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
        if error is not None:
            figures["errors"][type(error).__name__] += 1
            return
        figures["sent"] += 1
        figures["in_time"] += elapsed_s() < duration_s

    async with SENDERS[settings["sender"]](settings) as send_all:
        emit(ready=True)
        await wait_for_stdin_end()
        started_at = time.monotonic()
        try:
            await send_all(source(), report)
        except BatchStoppedError as error:
            figures["stopped"] = error.message
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


async def queue(settings: Settings) -> Figures:
    """A private NATS server with a queue of orders, until standard input ends."""
    from everlytic_async.worker import NatsServer, OrderQueue

    count = settings["orders"]
    with TemporaryDirectory() as directory:
        async with NatsServer(directory) as server, OrderQueue(server.url) as filled:
            started_at = time.perf_counter()
            async for each in filled.publish_many(orders(count)):
                if not each.stored:
                    raise RuntimeError(f"an order was not stored: {each.error}")
            published_per_s = count / (time.perf_counter() - started_at)
            bytes_per_order = (await filled.status()).bytes / count
            emit(
                url=server.url,
                pid=server.pid,
                published_per_s=published_per_s,
                bytes_per_order=bytes_per_order,
            )
            await wait_for_stdin_end()
            left = await filled.status()
            streams = await filled.connection.jetstream().streams_info()
            sizes = {info.config.name: info.state.bytes for info in streams}
            ledger_bytes = sizes.get(_LEDGER_STREAM, 0) / count
            return {"depth": left.depth, "dead": left.dead, "ledger_bytes_per_order": ledger_bytes}


async def _stop_when_empty(worker: Worker) -> float:
    """Stop the worker once the queue is empty; when it acknowledged its last order."""
    last_at, acknowledged, asked_at = time.monotonic(), 0, 0.0
    while True:
        await asyncio.sleep(_LOOK_S)
        now, status = time.monotonic(), worker.status
        if status.acked > acknowledged:
            last_at, acknowledged = now, status.acked
        elif status.in_flight == 0 and now - asked_at >= _ASK_S:
            asked_at = now
            if (await worker.queue.status()).depth == 0:
                worker.stop()
                return last_at


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
        started_at, meter = time.monotonic(), Meter()
        stopping = asyncio.create_task(_stop_when_empty(worker))
        await worker.run()
        ended_at, cpu_s = await stopping, meter.read()["cpu_s"]
    counts = worker.status.counts
    if sum(counts.values()) != counts[Outcome.SENT]:
        raise WrongAnswerError(f"not all were sent: {dict(counts)}")
    return {
        "sent": counts[Outcome.SENT],
        "started_at": started_at,
        "ended_at": ended_at,
        "cpu_s": cpu_s,
        "resident_bytes": resident_bytes(),
    }


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


MODES: dict[str, Callable[[Settings], Awaitable[Figures]]] = {
    mode.__name__: mode for mode in (send, pace, stream, queue, work, read)
}


def main() -> None:
    """Do what the settings, JSON in the argument, say, and print the figures."""
    settings = json.loads(sys.argv[1])

    async def measured() -> Figures:
        return await MODES[settings["mode"]](settings)

    emit(**run(measured(), uvloop=settings.get("uvloop", False)))


if __name__ == "__main__":
    main()
