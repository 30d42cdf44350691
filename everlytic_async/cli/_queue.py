"""``queue``: the orders that wait, the dead letters and why, and sending those again."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import attrs
from rich.text import Text

from everlytic_async.cli._console import print_lines
from everlytic_async.cli._exit import Exit, say
from everlytic_async.cli._nats import connect
from everlytic_async.cli._queue_commands import (
    DeadOptions,
    QueueOptions,
    SelectOptions,
    StatusOptions,
)
from everlytic_async.cli._screen import (
    count_lines,
    count_orders,
    escape_json,
    format_time,
    join_some,
    print_json,
)
from everlytic_async.cli._settings import DEFAULT_STORE, QUEUE_TABLES, Settings
from everlytic_async.errors import ConfigurationError
from everlytic_async.outcomes import Outcome
from everlytic_async.worker import DeadLetter, OrderQueue, QueueStatus, WorkerInfo

_STYLES = {Outcome.INVALID: "yellow", Outcome.REJECTED: "red", Outcome.UNKNOWN: "magenta"}
_MAX_SHOWN = 5


async def status(options: StatusOptions) -> int:
    """Show what is in the queue of each store, and return the exit code."""
    settings = Settings(options.config, *QUEUE_TABLES)
    async with connect(options, settings) as make_queue:
        stores = await _stores(options, settings, make_queue)
        async with make_queue(stores[0]) as queue:
            strays = await queue.strays()
        for store in stores:
            async with make_queue(store) as queue:
                found, workers = await queue.status(), await queue.workers()
            if options.as_json:
                line = {**attrs.asdict(found), "depth": found.depth}
                line["workers"] = [attrs.asdict(worker) for worker in workers]
                print_json(line)
            else:
                print_lines(_status_lines(found, workers))
    for subject, count in sorted(strays.items())[:_MAX_SHOWN]:
        # !a: a publisher may have put control characters into the subject.
        say(f"{count_orders(count)} on {subject!a}: not a store's subject, so no worker sends them")
    if len(strays) > _MAX_SHOWN:
        say(f"and {len(strays) - _MAX_SHOWN:,} more such subjects")
    return Exit.OK


async def _stores(
    options: QueueOptions, settings: Settings, make_queue: Callable[[str], OrderQueue]
) -> list[str]:
    """The stores to show: those that are named, else all of the settings and of the queue.

    A store without any worker must not be overlooked.
    """
    if options.stores:
        return list(dict.fromkeys(options.stores))
    known = settings.stores()
    async with make_queue((*known, DEFAULT_STORE)[0]) as queue:
        return list(dict.fromkeys([*known, *await queue.stores()])) or [DEFAULT_STORE]


def _status_lines(found: QueueStatus, workers: Sequence[WorkerInfo]) -> Iterator[Text | str]:
    yield f"{found.store}: {count_orders(found.depth)} unfinished"
    again = f"{found.redelivered:,} of them delivered more than once"
    rows = [
        ("waiting", found.waiting, "for a worker"),
        ("in flight", found.in_flight, f"with workers, or waiting for their retry; {again}"),
        ("dead", found.dead, "a person has to decide: everlytic-async queue dead"),
        ("workers", len(workers), f"{found.idle_workers:,} waiting for an order"),
    ]
    yield from count_lines(
        (name, "", count, meaning if count or name == "workers" else "")
        for name, count, meaning in rows
    )
    for worker in workers:
        state = "stopping" if worker.stopping else worker.last_error or "sending"
        yield f"    {worker.name}: {worker.in_flight:,} in flight, {worker.sent:,} sent; {state}"


async def dead(options: DeadOptions) -> int:
    """Show the dead letters of a store, and return the exit code."""
    not_json = 0
    settings = Settings(options.config, *QUEUE_TABLES)
    async with connect(options, settings) as make_queue:
        for store in await _stores(options, settings, make_queue):
            async with make_queue(store) as queue:
                count = 0
                async for letter in queue.dead_letters():
                    if options.outcomes and letter.outcome not in options.outcomes:
                        continue
                    count += 1
                    if options.format == "orders":
                        not_json += not _print_order(letter)
                    elif options.format == "jsonl":
                        print_json(_row(store, letter))
                    else:
                        print_lines([_line(letter)])
            if options.format == "text" and not count:
                print_lines([f"{store} has no dead letters."])
    if not_json:
        say(f"{count_orders(not_json)} not written: not JSON. See --format jsonl.")
    return Exit.OK


def _line(letter: DeadLetter) -> Text:
    attempts = "1 attempt" if letter.attempts == 1 else f"{letter.attempts} attempts"
    return Text.assemble(
        (f"{letter.id}", "bold"),
        f"  {format_time(letter.created_at)}  ",
        (str(letter.outcome), _STYLES.get(letter.outcome, "")),
        f"  {letter.key or '(no order)'}  {letter.reason} ({attempts})",
    )


def _row(store: str, letter: DeadLetter) -> dict[str, Any]:
    return {
        "store": store,
        "number": letter.id,
        "key": letter.key,
        "outcome": str(letter.outcome),
        "reason": letter.reason,
        "attempts": letter.attempts,
        "deliveries": letter.deliveries,
        "at": datetime.fromtimestamp(letter.created_at, UTC).isoformat(timespec="milliseconds"),
    }


def _print_order(letter: DeadLetter) -> bool:
    """Print an order as it was published, in a line; False if it is not JSON."""
    try:
        text = letter.body.decode()
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    # JSON strings have none of these unescaped: here they are white space between values.
    print_lines([escape_json(re.sub(r"[\t\r\n]", " ", text))], is_data=True)
    return True


async def redrive(options: SelectOptions) -> int:
    """Put dead letters back into the queue, and return the exit code."""
    return await _apply(options, OrderQueue.redrive, "put back, for a worker to send")


async def drop(options: SelectOptions) -> int:
    """Delete dead letters, and return the exit code."""
    return await _apply(options, OrderQueue.drop, "deleted, and not sent")


async def _apply(
    options: SelectOptions,
    action: Callable[[OrderQueue, Sequence[int]], Awaitable[int]],
    done: str,
) -> int:
    """Apply it to those with these numbers, else to all with these outcomes, else to all."""
    ids, outcomes = options.ids, options.outcomes
    if bool(ids) == options.select_all:
        raise ConfigurationError("say which dead letters: their numbers, or --all")
    if outcomes and ids:
        raise ConfigurationError("--outcome is for --all: numbers say which")
    async with AsyncExitStack() as stack:
        settings = Settings(options.config, *QUEUE_TABLES)
        make_queue = await stack.enter_async_context(connect(options, settings))
        store = settings.only_store(options.store)
        queue = await stack.enter_async_context(make_queue(store))
        selection = list(dict.fromkeys(ids)) or [
            letter.id
            async for letter in queue.dead_letters()
            if not outcomes or str(letter.outcome) in outcomes
        ]
        missing = [each for each in selection if not await action(queue, [each])]
    print_lines([f"{count_orders(len(selection) - len(missing))} {done}."])
    if not missing:
        return Exit.OK
    if not ids:
        say(f"{count_orders(len(missing))} of those: another command did it at the same time")
        return Exit.OK
    say(f"{store} has no dead letter {join_some(missing)}")
    return Exit.FAILED
