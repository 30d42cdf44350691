"""``queue``: what waits, what is dead and why, and what is to be sent again."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import attrs
from rich.text import Text

from everlytic_async.cli._exit import Exit, say
from everlytic_async.cli._nats import load_nats, load_queue, reached
from everlytic_async.cli._screen import orders, screen, show
from everlytic_async.cli._settings import DEFAULT_STORE, stores_of, the_store
from everlytic_async.errors import ConfigurationError
from everlytic_async.outcomes import Outcome
from everlytic_async.worker import DeadLetter, OrderQueue, PresentWorker, QueueStatus

__all__ = ["Options", "dead", "drop", "redrive", "status"]

_STYLES = {Outcome.INVALID: "yellow", Outcome.REJECTED: "red", Outcome.UNKNOWN: "magenta"}
_SHOWN_NUMBERS = 5


@attrs.frozen(kw_only=True)
class Options:
    """What all of these commands are given."""

    nats: Mapping[str, Any]
    stores: tuple[str, ...]
    config: str | None

    @asynccontextmanager
    async def queues(self) -> AsyncIterator[Callable[[str], OrderQueue]]:
        """Makes the queue of a store, to be opened; all are on one server."""
        nats = load_nats(self.config, self.nats)
        async with reached(nats) as where:
            yield lambda store: OrderQueue(settings=load_queue(self.config, store), **where)


def _run(work: Coroutine[Any, Any, int]) -> int:
    return asyncio.run(work)


# --------------------------------------------------------------------------------------- status


def status(options: Options, *, as_json: bool) -> int:
    """Show what is in the queue of each store, and return the exit code.

    Raises:
        QueueError: the queue can't be reached.
    """
    return _run(_status(options, as_json=as_json))


async def _status(options: Options, *, as_json: bool) -> int:
    async with options.queues() as queue_of:
        stores = await _stores(options, queue_of)
        async with queue_of(stores[0]) as queue:
            strays = await queue.strays()
        for store in stores:
            async with queue_of(store) as queue:
                found, workers = await queue.status(), await queue.workers()
            if as_json:
                told = {**attrs.asdict(found), "depth": found.depth}
                told["workers"] = [attrs.asdict(worker) for worker in workers]
                show(screen(), [Text(json.dumps(told))])
            else:
                show(screen(), _figures(found, workers))
    for subject, count in sorted(strays.items())[:_SHOWN_NUMBERS]:
        # Anybody may have chosen the subject's characters.
        say(f"{orders(count)} on {subject!a}: that is no store's subject, so nobody sends them")
    if len(strays) > _SHOWN_NUMBERS:
        say(f"and {len(strays) - _SHOWN_NUMBERS:,} more such subjects")
    return Exit.OK


async def _stores(options: Options, queue_of: Callable[[str], OrderQueue]) -> list[str]:
    """The stores to show: those that are named, else all of the settings and of the queue.

    So that orders of a store that nobody serves are not overlooked.
    """
    if options.stores:
        return list(dict.fromkeys(options.stores))
    known = stores_of(options.config)
    async with queue_of((*known, DEFAULT_STORE)[0]) as queue:
        return list(dict.fromkeys([*known, *await queue.stores()])) or [DEFAULT_STORE]


def _figures(found: QueueStatus, workers: Sequence[PresentWorker]) -> Iterator[Text | str]:
    yield f"{found.store}: {orders(found.depth)} not done with"
    redelivered = f"; {found.redelivered:,} of them given more than once" if found.in_hand else ""
    rows = [
        ("waiting", found.waiting, "no worker has been given them yet"),
        ("in hand", found.in_hand, f"with workers, or waiting for their next try{redelivered}"),
        ("dead", found.dead, "a person has to decide: everlytic-async queue dead"),
        ("workers", len(workers), f"{found.idle_workers:,} waiting for an order"),
    ]
    width = max(len(f"{count:,}") for _name, count, _meaning in rows)
    for name, count, meaning in rows:
        shown = meaning if count or name == "workers" else ""
        yield Text.assemble(
            f"  {name:<8}", (f"  {count:>{width},}", "bold"), (f"  {shown}".rstrip(), "dim")
        )
    for worker in workers:
        state = "stopping" if worker.stopping else worker.problem or "sending"
        yield f"    {worker.name}: {worker.in_hand:,} in hand, {worker.sent:,} sent; {state}"


# ----------------------------------------------------------------------------------------- dead


def dead(options: Options, *, format: str, outcomes: Sequence[str]) -> int:  # noqa: A002 - as the option
    """Show the dead letters of a store, and return the exit code.

    Raises:
        QueueError: the queue can't be reached.
    """
    return _run(_dead(options, format, [Outcome(name) for name in outcomes]))


async def _dead(options: Options, format: str, outcomes: Sequence[Outcome]) -> int:  # noqa: A002
    left_out = 0
    async with options.queues() as queue_of:
        for store in await _stores(options, queue_of):
            async with queue_of(store) as queue:
                count = 0
                async for letter in queue.dead_letters():
                    if outcomes and letter.outcome not in outcomes:
                        continue
                    count += 1
                    if format == "orders":
                        left_out += not _write_order(letter)
                    elif format == "jsonl":
                        _write(json.dumps(_row(store, letter)))
                    else:
                        show(screen(), [_line(letter)])
            if format == "text" and not count:
                show(screen(), [f"{store} has no dead letters."])
    if left_out:
        say(f"{orders(left_out)} left out: they are not JSON. See --format jsonl.")
    return Exit.OK


def _line(letter: DeadLetter) -> Text:
    at = datetime.fromtimestamp(letter.at).astimezone().isoformat(" ", "seconds")
    attempts = "1 attempt" if letter.attempts == 1 else f"{letter.attempts} attempts"
    return Text.assemble(
        (f"{letter.number}", "bold"),
        f"  {at}  ",
        (str(letter.outcome), _STYLES.get(letter.outcome, "")),
        f"  {letter.key or '(no order)'}  {letter.reason} ({attempts})",
    )


def _row(store: str, letter: DeadLetter) -> dict[str, Any]:
    return {
        "store": store,
        "number": letter.number,
        "key": letter.key,
        "outcome": str(letter.outcome),
        "reason": letter.reason,
        "attempts": letter.attempts,
        "deliveries": letter.deliveries,
        "at": datetime.fromtimestamp(letter.at, UTC).isoformat(timespec="milliseconds"),
    }


def _write_order(letter: DeadLetter) -> bool:
    """Write an order as it was published, in a line; False where it is no JSON."""
    try:
        text = letter.body.decode()
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    _write(" ".join(text.splitlines()))  # within JSON, a new line is but white space
    return True


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


# ------------------------------------------------------------------------------ redrive and drop


def redrive(
    options: Options, numbers: Sequence[int], *, to_all: bool, outcomes: Sequence[str]
) -> int:
    """Put dead letters back into the queue, and return the exit code.

    Raises:
        ConfigurationError: it is not said which.
        QueueError: the queue can't be reached; what was put back before is.
    """
    chosen = _Chosen.of(numbers, to_all=to_all, outcomes=outcomes)

    async def work(queue: OrderQueue, selection: Sequence[int]) -> int:
        return await queue.redrive(selection)

    return _run(_with_chosen(options, chosen, work, "put back, for a worker to send"))


def drop(options: Options, numbers: Sequence[int], *, to_all: bool, outcomes: Sequence[str]) -> int:
    """Delete dead letters, and return the exit code.

    Raises:
        ConfigurationError: it is not said which.
        QueueError: the queue can't be reached; what was deleted before is.
    """
    chosen = _Chosen.of(numbers, to_all=to_all, outcomes=outcomes)

    async def work(queue: OrderQueue, selection: Sequence[int]) -> int:
        return await queue.drop(selection)

    return _run(_with_chosen(options, chosen, work, "deleted: nobody sends what is deleted"))


@attrs.frozen
class _Chosen:
    """Which dead letters are meant; no numbers: all, of these outcomes where there are any."""

    numbers: tuple[int, ...]
    outcomes: tuple[Outcome, ...]

    @classmethod
    def of(cls, numbers: Sequence[int], *, to_all: bool, outcomes: Sequence[str]) -> _Chosen:
        """As the options say.

        Raises:
            ConfigurationError: they say nothing, or too much.
        """
        if bool(numbers) == to_all:
            raise ConfigurationError("say which dead letters: their numbers, or --all")
        if outcomes and numbers:
            raise ConfigurationError("--outcome is for --all: numbers say which")
        return cls(tuple(dict.fromkeys(numbers)), tuple(Outcome(name) for name in outcomes))


async def _with_chosen(
    options: Options,
    chosen: _Chosen,
    work: Callable[[OrderQueue, Sequence[int]], Coroutine[Any, Any, int]],
    done: str,
) -> int:
    store = the_store(options.config, options.stores[0] if options.stores else None)
    missing: list[int] = []
    count = 0
    async with options.queues() as queue_of, queue_of(store) as queue:
        if chosen.numbers:
            # What another command takes from under us is done with: it is not missing.
            numbers = [number for number in chosen.numbers if await queue.is_dead(number)]
            missing = [number for number in chosen.numbers if number not in numbers]
        else:
            numbers = [
                letter.number
                async for letter in queue.dead_letters()
                if not chosen.outcomes or letter.outcome in chosen.outcomes
            ]
        for number in numbers:
            count += await work(queue, [number])
    show(screen(), [f"{orders(count)} {done}."])
    if count < len(numbers):
        say(f"{orders(len(numbers) - count)} of those: another command did it at the same time")
    if missing:
        shown = ", ".join(map(str, missing[:_SHOWN_NUMBERS]))
        more = len(missing) - _SHOWN_NUMBERS
        say(f"{store} has no dead letter {shown}{f' nor {more:,} more' if more > 0 else ''}")
    return Exit.FAILED if missing else Exit.OK
