"""``ledger``: what a ledger knows, in figures or order by order, and resolving unknown orders."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.text import Text

from everlytic_async.cli._console import file_name, print_lines, writing
from everlytic_async.cli._exit import Exit, say
from everlytic_async.cli._input import open_input
from everlytic_async.cli._ledger_commands import (
    CopyOptions,
    ExportOptions,
    LedgerFileOptions,
    ResolveOptions,
)
from everlytic_async.cli._screen import (
    count_lines,
    count_orders,
    format_time,
    join_some,
    json_line,
)
from everlytic_async.cli._settings import Settings
from everlytic_async.errors import ConfigurationError, printable
from everlytic_async.ledger import (
    Entry,
    LedgerFile,
    LedgerSummary,
    State,
    storage_key,
    storage_keys,
)
from everlytic_async.orders import Order

#: What a state means to the person who has to act on it.
_MEANING = {
    State.SENT: ("green", "accepted by the endpoint: never sent again"),
    State.IN_FLIGHT: ("cyan", "being sent"),
    State.UNKNOWN: ("magenta", "may have been processed: find out, then `ledger resolve`"),
    State.NOT_SENT: ("yellow", "surely not processed: the next run sends them"),
    State.REJECTED: ("red", "refused by the endpoint: the next run sends those that are corrected"),
    State.INVALID: ("yellow", "not valid: the next run sends those that are corrected"),
}
_ORDER_COLUMNS = ("contact_email", "contact_unique_id", "order_id", "total", "order_link_url")
_COLUMNS = ("host", "key", "state", "attempts", "status", "reason", "at")


def status(options: LedgerFileOptions) -> int:
    """Show what a ledger holds, and return the exit code."""
    with LedgerFile(options.file, must_exist=True) as ledger:
        print_lines(_figures(file_name(options.file), ledger.summary()))
    return Exit.OK


def _figures(shown: str, summary: LedgerSummary) -> Iterator[Text | str]:
    counts, total = summary.counts, sum(summary.counts.values())
    hosts = f" for {', '.join(summary.hosts)}" if summary.hosts else ""
    yield f"{shown} knows of {count_orders(total)}{hosts}"
    yield from count_lines(
        (state.replace("_", " "), style, counts[state], meaning)
        for state, (style, meaning) in _MEANING.items()
        if counts[state]
    )
    for host, count in summary.never_accepted.items():
        yield (
            f"Not counted: {count_orders(count)} for another address or store hash ({host}), which "
            "accepted none so far. If that was a mistake, nothing is left to do for them."
        )
    if summary.first_at is not None and summary.last_at is not None:
        first, last = map(format_time, (summary.first_at, summary.last_at))
        yield f"Recorded from {first} to {last}"
    who = {0: "No process is", 1: "1 process is"}
    running = summary.running
    yield f"{who.get(running, f'{running} processes are')} sending with it now."


def export(options: ExportOptions) -> int:
    """Write what a ledger knows of each order, and return the exit code."""
    states = [State(name.replace("-", "_")) for name in options.states] or list(State)
    with LedgerFile(options.file, must_exist=True) as ledger:
        rows: Iterable[dict[str, Any]] = (_row(*row) for row in ledger.entries(states))
        columns: Sequence[str] = _COLUMNS
        if options.with_file is not None:
            rows, columns = _join(list(rows), options), (*_COLUMNS, *_ORDER_COLUMNS, "line")
        with writing(sys.stdout, "output"):
            if options.format == "csv":
                table = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
                table.writeheader()
                table.writerows(rows)
            else:
                sys.stdout.writelines(f"{json_line(row)}\n" for row in rows)
    return Exit.OK


def _row(host: str, entry: Entry) -> dict[str, Any]:
    at = datetime.fromtimestamp(entry.recorded_at, UTC).isoformat(timespec="milliseconds")
    outcome = (str(entry.state), entry.attempts, entry.status, entry.reason, at)
    values = (host, entry.key, *outcome)
    return dict(zip(_COLUMNS, values, strict=True))


def _join(rows: list[dict[str, Any]], options: ExportOptions) -> list[dict[str, Any]]:
    """Add to each row what an input says of its order."""
    by_id: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        row.update(dict.fromkeys((*_ORDER_COLUMNS, "line")))
        by_id.setdefault(row["key"].rpartition("@")[0] or row["key"], []).append(row)
    with open_input(options, Settings(options.config)) as source:
        for line, order in source.numbered():
            if not isinstance(order, Order) or order.order_id is None:
                continue
            for row in _rows_for(order, by_id):
                if row["line"] is None:
                    values = {name: getattr(order, name) for name in _ORDER_COLUMNS}
                    row.update(values, line=line)
    if missing := sum(row["line"] is None for row in rows):
        say(f"Warning: {count_orders(missing)} of {len(rows):,} not found in {source.name}")
    return rows


def _rows_for(order: Order, by_id: Mapping[str, list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Those of an order: in its workflow, or in any if --workflow-id named it."""
    number, workflow = str(order.order_id), order.workflow_id
    for key in (storage_key(number), storage_key(f"{number}@{workflow}")):
        for row in by_id.get(key, ()):
            _, at, its_workflow = row["key"].rpartition("@")
            if workflow is None or not at or its_workflow == str(workflow):
                yield row


def copy(options: CopyOptions) -> int:
    """Make an independent ledger of another one, and return the exit code."""
    with LedgerFile(
        options.source, must_exist=True, linked=True, incomplete=options.accept_loss
    ) as ledger:
        ledger.copy_to(options.target)
        summary = ledger.summary()
        count = sum(summary.counts.values()) + sum(summary.never_accepted.values())
    print_lines([f"{count_orders(count)} copied to {file_name(options.target)}"])
    return Exit.OK


def resolve(options: ResolveOptions) -> int:
    """Mark unknown orders as what somebody found out, and return the exit code."""
    keys, host = options.keys, options.host
    if options.was_sent == options.send_again:
        raise ConfigurationError("say what you found out: either --sent or --send-again")
    if bool(keys) == options.select_all:
        raise ConfigurationError(
            "say which orders: their keys, or --all; a key that starts with # needs quotes: '#1051'"
        )
    # Also as earlier versions kept the same keys.
    stored = {key: storage_keys(key) for key in keys}
    every = [name for names in stored.values() for name in names]
    with LedgerFile(options.file, must_exist=True) as ledger:
        state = State.SENT if options.was_sent else State.NOT_SENT
        count, missing = ledger.resolve(state, None if options.select_all else every, host=host)
        left = [key for key, names in stored.items() if {*names} <= {*missing}]
    done = (
        "sent: they are not sent again" if options.was_sent else "not sent: the next run sends them"
    )
    print_lines([f"{count_orders(count)} marked as {done}."])
    if not left:
        return Exit.OK
    say(
        f"{count_orders(len(left))} left alone, because the ledger has no unknown order "
        f"of that name: {join_some([printable(key) for key in left])}"
    )
    return Exit.FAILED
