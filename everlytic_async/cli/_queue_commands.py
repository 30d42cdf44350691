"""The commands about a queue: ``enqueue``, ``worker``, ``queue``. See ``_commands``."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import rich_click as click

from everlytic_async.cli._exit import guarded
from everlytic_async.cli._options import (
    ALLOW_HTTP,
    APPEND_RESULTS,
    CONFIG,
    DEBUG,
    EXIT_CODES,
    FILE,
    FILE_HELP,
    LIMIT,
    PROGRESS,
    READING_PANEL,
    WORKFLOW,
    Command,
    Number,
    readable,
    reading,
    sendable,
)
from everlytic_async.errors import ConfigurationError

__all__ = ["enqueue", "queue", "worker"]

_NATS_HELP = """\
The queue is on a NATS server with JetStream: at nats://127.0.0.1:4222, or as --nats,
EVERLYTIC_NATS_URL, or url in the table [nats] of the TOML file says. --embedded DIR needs no server
of yours: it uses the private one that runs in DIR, or starts one, which ends with this command; the
data stays in DIR. Only your own commands get in, by a token that is stored in DIR. A password or a
token comes from the environment (EVERLYTIC_NATS_USER, EVERLYTIC_NATS_PASSWORD,
EVERLYTIC_NATS_TOKEN), the TOML file, or a NATS context.

A server on another machine must offer TLS, or nothing is sent to it. So must any server if TLS is
asked for: by tls:// in its address, --nats-tls-ca or --nats-tls-cert.
"""

_ENQUEUE_HELP = (
    """\
Put the orders of FILE into the queue, for workers to send.

{file}
Invalid orders are reported with their line, and the rest is queued. An order is in the queue once
the server has stored it. It is safe to run this again: the queue stores an order only once within
its window for duplicates, 24 hours by default. After that, or after a restart of the server, the
workers' ledger knows which orders were sent.

{nats}
Examples:
    everlytic-async enqueue --embedded queue orders.jsonl
    everlytic-async enqueue --nats tls://queue.example:4222 --store shop-a orders.csv.gz
    export-orders | everlytic-async enqueue -

Ctrl-C or SIGTERM stops reading and waits for acknowledgements; a second one exits at once.

""".replace("{file}", FILE_HELP.rstrip()).replace("{nats}", _NATS_HELP)
    + EXIT_CODES.format(
        good="every order is in the queue, now or before (or FILE holds none at all)",
        bad="some orders are not; the summary says why",
        none="nothing was queued",
        terminated="; 143 by SIGTERM",
    )
)

_WORKER_HELP = """\
Take orders from the queue and send them, until SIGTERM or Ctrl-C.

Any number of workers on any machines share a queue. Each takes no more orders than it has free
slots, and acknowledges each once its outcome is in the ledger. Orders that may not be sent again
become dead letters: see `queue dead`.

The ledger is in NATS by default, shared by all machines. For workers of one machine --ledger FILE
does as well.

{nats}
The address and the hashes come from the environment or the TOML file, as for `send`, and never from
arguments. A worker that serves several stores has them in tables of the TOML file:
    [worker.stores.shop-a]
    base_url = "https://shop-a.everlytic.net"
    store_hash = "..."
    customer_hash = "..."

    [worker.stores.shop-b]
    ...

--concurrency and --rate apply to each store of this worker. Without a rate, workers find the
endpoint's limit by themselves and share it, if not always evenly; with one, give each its part.

Examples:
    everlytic-async worker --embedded queue
    everlytic-async worker --nats tls://queue.example:4222 --store shop-a
    everlytic-async worker --health :9090 --rate 20
    everlytic-async worker --embedded queue --exit-when-empty

SIGTERM or Ctrl-C stops taking orders, lets those in flight finish within --grace, and puts the rest
back. A second one cancels what is in flight: those orders are recorded as unknown.

Exit codes:
    0    stopped as asked; or the queue is empty (--exit-when-empty)
    1    the endpoint refused a store's hashes, or NATS the worker's credentials for half a minute;
         or the private NATS server ended; or an unexpected error
    2    wrong usage or settings, or the queue or the ledger can't be used
    130  stopped by a second Ctrl-C, or by the first while connecting
    143  the same by SIGTERM
""".replace("{nats}", _NATS_HELP)

_QUEUE_HELP = """\
Show what is in the queue, and decide on dead letters: orders that are not sent again by themselves.

Examples:
    everlytic-async queue status --embedded queue
    everlytic-async queue dead --embedded queue
    everlytic-async queue redrive --embedded queue 3 4 7

Exit codes:
    0    done
    1    some dead letters that were named are not there (`redrive`, `drop`)
    2    wrong usage or settings, or the queue can't be reached
"""


def _queue_help(text: str, *, may_miss: bool = False) -> str:
    """The help of a queue command: what it does, where the queue is, examples, exit codes."""
    what, examples = text.split("\n\nExamples:\n")
    codes = ["    0    done"]
    if may_miss:
        codes.append("    1    some that were named are not there")
    codes.append("    2    wrong usage or settings, or the queue can't be reached")
    parts = (what, _NATS_HELP.rstrip(), f"Examples:\n{examples.rstrip()}")
    return "\n\n".join([*parts, "\n".join(["Exit codes:", *codes])])


_QUEUE_STATUS_HELP = _queue_help("""\
Show how many orders wait, are in flight and are dead letters, and which workers answer.

Examples:
    everlytic-async queue status --embedded queue
    everlytic-async queue status --store shop-a --json
""")

_QUEUE_DEAD_HELP = _queue_help("""\
Show the dead letters, oldest first: number, time, outcome, key, reason, attempts.

    unknown    it may have been processed: find out in Everlytic, then `redrive` or `drop` it
    rejected   the endpoint refused it: correct the workflow or the account, then `redrive` it
    invalid    not a valid order: correct it at its source, then `drop` this one

Examples:
    everlytic-async queue dead --embedded queue
    everlytic-async queue dead --outcome unknown --format jsonl
    everlytic-async queue dead --outcome invalid --format orders > correct.jsonl
""")

_REDRIVE_HELP = _queue_help(
    """\
Put dead letters back into the queue. Workers send them once, whatever their recorded outcome,
unless the ledger says they were sent.

A redriven unknown order may notify its customer twice: first check in Everlytic whether it arrived.

Examples:
    everlytic-async queue redrive --embedded queue 3 4 7
    everlytic-async queue redrive --all --outcome rejected
""",
    may_miss=True,
)

_DROP_HELP = _queue_help(
    """\
Delete dead letters for good: they are not sent. For those that arrived after all, or that were
queued again after a correction.

Examples:
    everlytic-async queue drop --embedded queue 5
""",
    may_miss=True,
)


_NATS = (
    click.option(
        "--nats",
        "url",
        metavar="URL",
        help="The NATS server, or several of one cluster with commas between them.",
    ),
    click.option(
        "--embedded",
        type=click.Path(file_okay=False),
        metavar="DIR",
        help="A private NATS server with its data in this directory: the one that runs there, else "
        "one that ends with this command. For trying out and small installs.",
    ),
    click.option(
        "--nats-context",
        "context",
        metavar="NAME",
        help="A context of NATS's own command line: address and credentials.",
    ),
    click.option(
        "--nats-credentials",
        "credentials",
        type=click.Path(dir_okay=False),
        metavar="FILE",
        help="A .creds file: JWT and seed.",
    ),
    click.option(
        "--nats-nkey",
        "nkey",
        type=click.Path(dir_okay=False),
        metavar="FILE",
        help="A file with an NKey seed.",
    ),
    click.option(
        "--nats-tls-ca",
        "tls_ca",
        type=click.Path(dir_okay=False),
        metavar="FILE",
        help="Certificates of the authorities to trust; by default the machine's.",
    ),
    click.option(
        "--nats-tls-cert",
        "tls_cert",
        type=click.Path(dir_okay=False),
        metavar="FILE",
        help="The certificate to show to the server.",
    ),
    click.option(
        "--nats-tls-key",
        "tls_key",
        type=click.Path(dir_okay=False),
        metavar="FILE",
        help="Its key.",
    ),
    click.option(
        "--allow-plain-nats",
        "allow_plain",
        is_flag=True,
        help="Use a NATS server on another machine without TLS: anybody on the way can read "
        "credentials and orders.",
    ),
)
_NATS_NAMES = (
    *("url", "embedded", "context", "credentials", "nkey"),
    *("tls_ca", "tls_cert", "tls_key", "allow_plain"),
)
_NATS_PANEL = click.option_panel(
    "Where the queue is",
    options=[
        *("--nats", "--embedded", "--nats-context", "--nats-credentials", "--nats-nkey"),
        *("--nats-tls-ca", "--nats-tls-cert", "--nats-tls-key", "--allow-plain-nats"),
    ],
)


def _nats_options(command: Command) -> Command:
    """Add the options that say where the queue is."""
    for option in reversed(_NATS):
        command = option(command)
    return command


def _pop_nats(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options.pop(name) for name in _NATS_NAMES}


def _needs_nats() -> None:
    """Check that the extra is installed.

    Raises:
        ConfigurationError: it is not.
    """
    if find_spec("nats") is None:
        raise ConfigurationError(
            "a queue needs more packages: pip install 'everlytic-async[cli,nats]'"
        )


def _announce(config: str | None, *tables: str) -> None:
    from everlytic_async.cli._settings import announce  # noqa: PLC0415 - not for --help

    announce(config, *tables, "nats", "queue", "worker")


_STORE = click.option(
    "--store",
    metavar="NAME",
    help="The store, a part of its orders' subject in NATS. By default the only one with a table "
    "[worker.stores.NAME] in the TOML file, else `default`.",
)


@click.command(help=_ENQUEUE_HELP)
@_NATS_PANEL
@READING_PANEL
@click.option_panel("Which orders, and whose", options=["--store", "--limit", "--workflow-id"])
@click.option_panel(
    "Settings, results and more",
    options=["--results", "--append-results", "--config", "--progress", "--debug", "--help"],
)
@FILE
@_nats_options
@readable
@_STORE
@LIMIT
@WORKFLOW
@click.option(
    "--results",
    type=click.Path(allow_dash=True, dir_okay=False),
    metavar="FILE",
    help="Write a line of JSON for each order as `send --results` does; its outcome is queued, "
    "known, invalid or not_queued. A file that has results already is refused. `-` is the standard "
    "output; the summary then goes to the standard error.",
)
@APPEND_RESULTS
@CONFIG
@PROGRESS
@DEBUG
@guarded
def enqueue(**options: Any) -> int:
    _needs_nats()
    from everlytic_async.cli._enqueue import Options, enqueue  # noqa: PLC0415 - not for --help

    _announce(options["config"], "mapping")
    return enqueue(Options(reading=reading(options), nats=_pop_nats(options), **options))


@click.command(help=_WORKER_HELP)
@_NATS_PANEL
@click.option_panel("What it serves", options=["--store", "--exit-when-empty"])
@click.option_panel(
    "How to send", options=["--concurrency", "--rate", "--delivery", "--retries", "--grace"]
)
@click.option_panel("The ledger", options=["--ledger", "--durability"])
@click.option_panel(
    "Settings and more",
    options=["--health", "--log-level", "--config", "--allow-http", "--debug", "--help"],
)
@_nats_options
@click.option(
    "--store",
    "stores",
    multiple=True,
    metavar="NAME",
    help="Serve this store. May be repeated. By default all with a table [worker.stores.NAME] in "
    "the TOML file, else the only one, which is called `default`.",
)
@click.option(
    "--exit-when-empty",
    is_flag=True,
    help="End once no order waits or is in flight: for scripts.",
)
@sendable
@click.option(
    "--grace",
    type=Number(min=0, min_open=True),
    metavar="SECONDS",
    default=25.0,
    show_default=True,
    help="How long orders in flight may take after SIGTERM or Ctrl-C.",
)
@click.option(
    "--ledger",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Keep the ledger in this file, for all workers of this machine. By default it is in NATS, "
    "for all machines. All workers of a store need the same one.",
)
@click.option(
    "--durability",
    type=click.Choice(["process", "power"]),
    help="For --ledger: what it survives, as for `send`.",
)
@click.option(
    "--health",
    metavar="HOST:PORT",
    help="Serve /livez and /readyz there, and /metrics for Prometheus with the extra `metrics`. "
    "Anybody who can connect can read them.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="How much to log, on the standard error; debug logs each attempt.",
)
@CONFIG
@ALLOW_HTTP
@DEBUG
@guarded
def worker(**options: Any) -> int:
    _needs_nats()
    from everlytic_async.cli._worker import Options, work  # noqa: PLC0415 - not for --help

    _announce(options["config"], "everlytic")
    return work(Options(nats=_pop_nats(options), **options))


@click.group(help=_QUEUE_HELP)
@click.command_panel("Commands", commands=["status", "dead", "redrive", "drop"])
def queue() -> None:
    pass


_STORES = click.option(
    "--store",
    "stores",
    multiple=True,
    metavar="NAME",
    help="Only this store. May be repeated. By default all of the TOML file and of the queue.",
)
_OUTCOMES = click.option(
    "--outcome",
    "outcomes",
    type=click.Choice(["unknown", "rejected", "invalid"]),
    multiple=True,
    help="Only those with this outcome. May be repeated.",
)
_QUEUE_PANEL = click.option_panel("Settings and more", options=["--config", "--debug", "--help"])


def _queue_options(options: dict[str, Any], stores: Any) -> Any:
    """The options that all commands of the queue have."""
    _needs_nats()
    from everlytic_async.cli._queue import Options  # noqa: PLC0415 - not for --help

    _announce(options["config"])
    return Options(nats=_pop_nats(options), stores=tuple(stores), config=options.pop("config"))


@queue.command("status", help=_QUEUE_STATUS_HELP)
@_NATS_PANEL
@click.option_panel("What to show", options=["--store", "--json"])
@_QUEUE_PANEL
@_nats_options
@_STORES
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each store.")
@CONFIG
@DEBUG
@guarded
def queue_status(stores: tuple[str, ...], *, as_json: bool, **options: Any) -> int:
    common = _queue_options(options, stores)
    from everlytic_async.cli._queue import status  # noqa: PLC0415 - not for --help

    return status(common, as_json=as_json)


@queue.command("dead", help=_QUEUE_DEAD_HELP)
@_NATS_PANEL
@click.option_panel("What to show", options=["--store", "--outcome", "--format"])
@_QUEUE_PANEL
@_nats_options
@_STORES
@_OUTCOMES
@click.option(
    "--format",
    type=click.Choice(["text", "jsonl", "orders"]),
    default="text",
    show_default=True,
    help="A line to read; a line of JSON; or the orders themselves as JSON Lines, to correct and "
    "queue again: these are customers' data.",
)
@CONFIG
@DEBUG
@guarded
def queue_dead(
    stores: tuple[str, ...],
    format: str,  # noqa: A002 - as the option
    outcomes: tuple[str, ...],
    **options: Any,
) -> int:
    common = _queue_options(options, stores)
    from everlytic_async.cli._queue import dead  # noqa: PLC0415 - not for --help

    return dead(common, format=format, outcomes=outcomes)


def _selection_options(command: Command) -> Command:
    """Add the options that select dead letters."""
    for option in (
        DEBUG,
        CONFIG,
        _OUTCOMES,
        click.option("--all", "select_all", is_flag=True, help="All dead letters of the store."),
        _STORE,
        _nats_options,
        click.argument("ids", metavar="[NUMBER]...", type=click.IntRange(min=1), nargs=-1),
        _QUEUE_PANEL,
        click.option_panel("Which dead letters", options=["--store", "--all", "--outcome"]),
        _NATS_PANEL,
    ):
        command = option(command)
    return command


@queue.command(help=_REDRIVE_HELP)
@_selection_options
@guarded
def redrive(store: str | None, **options: Any) -> int:
    common = _queue_options(options, () if store is None else (store,))
    from everlytic_async.cli._queue import redrive  # noqa: PLC0415 - not for --help

    return redrive(common, **options)


@queue.command(help=_DROP_HELP)
@_selection_options
@guarded
def drop(store: str | None, **options: Any) -> int:
    common = _queue_options(options, () if store is None else (store,))
    from everlytic_async.cli._queue import drop  # noqa: PLC0415 - not for --help

    return drop(common, **options)
