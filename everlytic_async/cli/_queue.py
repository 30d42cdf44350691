"""``queue``: the orders that wait, the dead letters and why, and sending those again."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import attrs
from rich.text import Text

from everlytic_async.cli._exit import Exit, say
from everlytic_async.cli._nats import load_nats, load_queue, nats_arguments
from everlytic_async.cli._screen import orders, screen, show
from everlytic_async.cli._settings import DEFAULT_STORE, stores_of, the_store
from everlytic_async.errors import ConfigurationError
from everlytic_async.outcomes import Outcome
from everlytic_async.worker import DeadLetter, OrderQueue, QueueStatus, WorkerInfo

__all__ = ["Options", "dead", "drop", "redrive", "status"]

_STYLES = {Outcome.INVALID: "yellow", Outcome.REJECTED: "red", Outcome.UNKNOWN: "magenta"}
_MAX_SHOWN = 5


@attrs.frozen(kw_only=True)
class Options:
    """The options that all of these commands have."""

    nats: Mapping[str, Any]
    stores: tuple[str, ...]
    config: str | None

    @asynccontextmanager
    async def queues(self) -> AsyncIterator[Callable[[str], OrderQueue]]:
        """Makes the queue of a store, to be opened; all are on one server."""
        nats = load_nats(self.config, self.nats)
        async with nats_arguments(nats) as where:
            yield lambda store: OrderQueue(settings=load_queue(self.config, store), **where)


# --------------------------------------------------------------------------------------- status


def status(options: Options, *, as_json: bool) -> int:
    """Show what is in the queue of each store, and return the exit code.

    Raises:
        QueueError: the queue can't be reached.
    """
    return asyncio.run(_status(options, as_json=as_json))


async def _status(options: Options, *, as_json: bool) -> int:
    async with options.queues() as make_queue:
        stores = await _stores(options, make_queue)
        async with make_queue(stores[0]) as queue:
            strays = await queue.strays()
        for store in stores:
            async with make_queue(store) as queue:
                found, workers = await queue.status(), await queue.workers()
            if as_json:
                line = {**attrs.asdict(found), "depth": found.depth}
                line["workers"] = [attrs.asdict(worker) for worker in workers]
                show(screen(), [Text(json.dumps(line))])
            else:
                show(screen(), _status_lines(found, workers))
    for subject, count in sorted(strays.items())[:_MAX_SHOWN]:
        # !a: a publisher may have put control characters into the subject.
        say(f"{orders(count)} on {subject!a}: not a store's subject, so no worker sends them")
    if len(strays) > _MAX_SHOWN:
        say(f"and {len(strays) - _MAX_SHOWN:,} more such subjects")
    return Exit.OK


async def _stores(options: Options, make_queue: Callable[[str], OrderQueue]) -> list[str]:
    """The stores to show: those that are named, else all of the settings and of the queue.

    A store without any worker must not be overlooked.
    """
    if options.stores:
        return list(dict.fromkeys(options.stores))
    known = stores_of(options.config)
    async with make_queue((*known, DEFAULT_STORE)[0]) as queue:
        return list(dict.fromkeys([*known, *await queue.stores()])) or [DEFAULT_STORE]


def _status_lines(found: QueueStatus, workers: Sequence[WorkerInfo]) -> Iterator[Text | str]:
    yield f"{found.store}: {orders(found.depth)} unfinished"
    redelivered = (
        f"; {found.redelivered:,} of them delivered more than once" if found.in_flight else ""
    )
    rows = [
        ("waiting", found.waiting, "for a worker"),
        ("in flight", found.in_flight, f"with workers, or waiting for their retry{redelivered}"),
        ("dead", found.dead, "a person has to decide: everlytic-async queue dead"),
        ("workers", len(workers), f"{found.idle_workers:,} waiting for an order"),
    ]
    width = max(len(f"{count:,}") for _name, count, _meaning in rows)
    for name, count, meaning in rows:
        shown = meaning if count or name == "workers" else ""
        yield Text.assemble(
            f"  {name:<9}", (f"  {count:>{width},}", "bold"), (f"  {shown}".rstrip(), "dim")
        )
    for worker in workers:
        state = "stopping" if worker.stopping else worker.last_error or "sending"
        yield f"    {worker.name}: {worker.in_flight:,} in flight, {worker.sent:,} sent; {state}"


# ----------------------------------------------------------------------------------------- dead


def dead(options: Options, *, format: str, outcomes: Sequence[str]) -> int:  # noqa: A002 - as the option
    """Show the dead letters of a store, and return the exit code.

    Raises:
        QueueError: the queue can't be reached.
    """
    return asyncio.run(_dead(options, format, [Outcome(name) for name in outcomes]))


async def _dead(options: Options, format: str, outcomes: Sequence[Outcome]) -> int:  # noqa: A002
    not_json = 0
    async with options.queues() as make_queue:
        for store in await _stores(options, make_queue):
            async with make_queue(store) as queue:
                count = 0
                async for letter in queue.dead_letters():
                    if outcomes and letter.outcome not in outcomes:
                        continue
                    count += 1
                    if format == "orders":
                        not_json += not _write_order(letter)
                    elif format == "jsonl":
                        _write(json.dumps(_row(store, letter)))
                    else:
                        show(screen(), [_line(letter)])
            if format == "text" and not count:
                show(screen(), [f"{store} has no dead letters."])
    if not_json:
        say(f"{orders(not_json)} not written: not JSON. See --format jsonl.")
    return Exit.OK


def _line(letter: DeadLetter) -> Text:
    at = datetime.fromtimestamp(letter.created_at).astimezone().isoformat(" ", "seconds")
    attempts = "1 attempt" if letter.attempts == 1 else f"{letter.attempts} attempts"
    return Text.assemble(
        (f"{letter.id}", "bold"),
        f"  {at}  ",
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


def _write_order(letter: DeadLetter) -> bool:
    """Write an order as it was published, in a line; False if it is not JSON."""
    try:
        text = letter.body.decode()
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    _write(text.translate(_ONE_LINE).translate(_Escapes()))
    return True


# JSON strings have none of these unescaped: here they are white space between values.
_ONE_LINE = dict.fromkeys(map(ord, "\t\r\n"), " ")


class _Escapes(dict[int, str]):
    """JSON escapes for unprintable characters, for `str.translate`.

    A terminal must not interpret what a customer put into an order.
    """

    def __missing__(self, code: int) -> str:
        character = chr(code)
        return character if character.isprintable() else json.dumps(character)[1:-1]


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


# ------------------------------------------------------------------------------ redrive and drop


def redrive(
    options: Options, ids: Sequence[int], *, select_all: bool, outcomes: Sequence[str]
) -> int:
    """Put dead letters back into the queue, and return the exit code.

    Raises:
        ConfigurationError: none is selected.
        QueueError: the queue can't be reached; what was put back before is.
    """
    _check_selection(ids, select_all=select_all, outcomes=outcomes)
    return asyncio.run(
        _apply(options, ids, outcomes, OrderQueue.redrive, "put back, for a worker to send")
    )


def drop(options: Options, ids: Sequence[int], *, select_all: bool, outcomes: Sequence[str]) -> int:
    """Delete dead letters, and return the exit code.

    Raises:
        ConfigurationError: none is selected.
        QueueError: the queue can't be reached; what was deleted before is.
    """
    _check_selection(ids, select_all=select_all, outcomes=outcomes)
    return asyncio.run(_apply(options, ids, outcomes, OrderQueue.drop, "deleted, and not sent"))


def _check_selection(ids: Sequence[int], *, select_all: bool, outcomes: Sequence[str]) -> None:
    if bool(ids) == select_all:
        raise ConfigurationError("say which dead letters: their numbers, or --all")
    if outcomes and ids:
        raise ConfigurationError("--outcome is for --all: numbers say which")


async def _apply(
    options: Options,
    ids: Sequence[int],
    outcomes: Sequence[str],
    action: Callable[[OrderQueue, Sequence[int]], Awaitable[int]],
    done: str,
) -> int:
    """Apply it to those with these numbers, else to all with these outcomes, else to all."""
    store = the_store(options.config, options.stores[0] if options.stores else None)
    async with options.queues() as make_queue, make_queue(store) as queue:
        selection = list(dict.fromkeys(ids)) or [
            letter.id
            async for letter in queue.dead_letters()
            if not outcomes or str(letter.outcome) in outcomes
        ]
        missing = [each for each in selection if not await action(queue, [each])]
    show(screen(), [f"{orders(len(selection) - len(missing))} {done}."])
    if not missing:
        return Exit.OK
    if not ids:
        say(f"{orders(len(missing))} of those: another command did it at the same time")
        return Exit.OK
    shown = ", ".join(map(str, missing[:_MAX_SHOWN]))
    more = len(missing) - _MAX_SHOWN
    say(f"{store} has no dead letter {shown}{f', and {more:,} more' if more > 0 else ''}")
    return Exit.FAILED
