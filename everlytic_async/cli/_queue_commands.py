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
The queue is on a NATS server with JetStream: at nats://127.0.0.1:4222, or where --nats, or
EVERLYTIC_NATS_URL, or url in the table [nats] of the TOML file says. Or nobody need run one: with
--embedded DIR a private one runs, for as long as any command of this machine that was given the
same DIR; only your own commands get in, by a token that lies in DIR. A password or a token comes
from the environment (EVERLYTIC_NATS_USER, EVERLYTIC_NATS_PASSWORD, EVERLYTIC_NATS_TOKEN), the TOML
file, or a NATS context.

A server on another machine must offer TLS, or nothing is sent to it. So must any server where TLS
is asked for: by tls:// in its address, --nats-tls-ca or --nats-tls-cert.
"""

_ENQUEUE_HELP = (
    """\
Put the orders of FILE into the queue, for workers to send.

{file}
What is no valid order is reported with its line, and the rest is queued. An order is in the queue
once the server has stored it. To run it again is safe: within the queue's window for duplicates, 24
hours by default, an order that the queue knows is not stored twice. After that, or where the server
was started anew since the order was sent, the workers' ledger knows it, and it is skipped.

{nats}
Examples:
    everlytic-async enqueue --embedded queue orders.jsonl
    everlytic-async enqueue --nats tls://queue.example:4222 --store shop-a orders.csv.gz
    export-orders | everlytic-async enqueue -

Ctrl-C or SIGTERM ends the reading, and waits for what is on its way; a second one leaves at once.

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
slots for, and tells the queue of each once its outcome is in the ledger. Orders that may not be
sent again become dead letters: see `queue dead`.

The ledger is in NATS by default, and so it is one for all machines. For workers of one machine
--ledger FILE does as well.

{nats}
The address and the hashes come from the environment or the TOML file, as for `send`, and never from
arguments; they stay with the worker. A worker that serves several stores has them in tables of the
TOML file:
    [worker.stores.shop-a]
    base_url = "https://shop-a.everlytic.net"
    store_hash = "..."
    customer_hash = "..."

    [worker.stores.shop-b]
    ...

--concurrency and --rate hold for each store of this worker. Without a rate, workers find the
endpoint's limit by themselves, and share it, if not always evenly; with one, give each its part.

Examples:
    everlytic-async worker --embedded queue
    everlytic-async worker --nats tls://queue.example:4222 --store shop-a
    everlytic-async worker --health :9090 --rate 20
    everlytic-async worker --embedded queue --exit-when-empty

SIGTERM or Ctrl-C ends the taking, lets what is in flight finish within --grace, and gives back the
rest. A second one breaks off what is in flight: its orders are unknown, and the ledger knows it.

Exit codes:
    0    it was told to end, and did; or the queue is empty (--exit-when-empty)
    1    the endpoint refused the hashes of a store, or NATS the credentials of the worker for half
         a minute; or an unforeseen error
    2    wrong usage or settings, or no queue or ledger that can be used
    130  left by a second Ctrl-C, or by the first one while it connected
    143  the same by SIGTERM
""".replace("{nats}", _NATS_HELP)

_QUEUE_HELP = """\
Look into the queue, and decide what becomes of dead letters: orders that no worker sends again
unless somebody says so.

Examples:
    everlytic-async queue status --embedded queue
    everlytic-async queue dead --embedded queue
    everlytic-async queue redrive --embedded queue 3 4 7

Exit codes:
    0    done
    1    some dead letters that were named are not there (`redrive`, `drop`)
    2    wrong usage or settings, or no queue that can be reached
"""

_QUEUE_STATUS_HELP = """\
Show how many orders wait, are in hand of workers, and are dead letters, and which workers answer.

{nats}
Examples:
    everlytic-async queue status --embedded queue
    everlytic-async queue status --store shop-a --json

Exit codes:
    0    shown
    2    wrong usage or settings, or no queue that can be reached
""".replace("{nats}", _NATS_HELP)

_QUEUE_DEAD_HELP = """\
Show the dead letters, from the oldest on: number, time, outcome, key, reason, attempts.

    unknown    it may have been processed: find out in Everlytic, then `redrive` or `drop` it
    rejected   the endpoint refuses it: mend the workflow or the account, then `redrive` it
    invalid    it is no valid order: mend it where it comes from, then `drop` this one

{nats}
Examples:
    everlytic-async queue dead --embedded queue
    everlytic-async queue dead --outcome unknown --format jsonl
    everlytic-async queue dead --outcome invalid --format orders > mend.jsonl

Exit codes:
    0    shown
    2    wrong usage or settings, or no queue that can be reached
""".replace("{nats}", _NATS_HELP)

_REDRIVE_HELP = """\
Put dead letters back into the queue: a worker sends their orders, once, whatever was known of them;
but for those that the ledger says were sent.

A redriven unknown order may notify its customer twice: look in Everlytic first whether it arrived.

{nats}
Examples:
    everlytic-async queue redrive --embedded queue 3 4 7
    everlytic-async queue redrive --all --outcome rejected

Exit codes:
    0    all that was named was put back
    1    some are not there
    2    wrong usage or settings, or no queue that can be reached
""".replace("{nats}", _NATS_HELP)

_DROP_HELP = """\
Delete dead letters for good: nobody sends their orders. For those that arrived after all, or that
come again mended.

{nats}
Examples:
    everlytic-async queue drop --embedded queue 5

Exit codes:
    0    all that was named was deleted
    1    some are not there
    2    wrong usage or settings, or no queue that can be reached
""".replace("{nats}", _NATS_HELP)


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
        help="A private NATS server of this machine, with its data in this directory: the one that "
        "runs there, else one that is started. For trying out and small installs.",
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
        help="The certificates of those that may vouch for the server; else the machine's.",
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
        help="Use a NATS server on another machine without TLS: anybody on the way can read the "
        "credentials and the orders.",
    ),
)
_NATS_PANEL = click.option_panel(
    "Where the queue is",
    options=[
        "--nats",
        "--embedded",
        "--nats-context",
        "--nats-credentials",
        "--nats-nkey",
        "--nats-tls-ca",
        "--nats-tls-cert",
        "--nats-tls-key",
        "--allow-plain-nats",
    ],
)


def _queueing(command: Command) -> Command:
    """Give a command the options on where the queue is."""
    for option in reversed(_NATS):
        command = option(command)
    return command


def _nats(options: dict[str, Any]) -> dict[str, Any]:
    """What they say."""
    names = (
        *("url", "embedded", "context", "credentials", "nkey"),
        *("tls_ca", "tls_cert", "tls_key", "allow_plain"),
    )
    return {name: options.pop(name) for name in names}


def _needs_nats() -> None:
    """See that the extra is installed.

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
    help="Whose orders: a part of their subject in NATS. By default the only store that the TOML "
    "file has a table [worker.stores.NAME] for, else `default`.",
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
@_queueing
@readable
@_STORE
@LIMIT
@WORKFLOW
@click.option(
    "--results",
    type=click.Path(allow_dash=True, dir_okay=False),
    metavar="FILE",
    help="Write a line of JSON for each order as `send --results` does; its outcome is queued, "
    "known, invalid or not_queued. A file that holds results already is refused. `-` is the "
    "standard output; the summary then goes to the standard error.",
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
    return enqueue(Options(reading=reading(options), nats=_nats(options), **options))


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
@_queueing
@click.option(
    "--store",
    "stores",
    multiple=True,
    metavar="NAME",
    help="Serve this store. May be given several times. By default all that the TOML file has a "
    "table [worker.stores.NAME] for, else the only one, which is called `default`.",
)
@click.option(
    "--exit-when-empty",
    is_flag=True,
    help="End once no order waits or is in hand of any worker: for scripts.",
)
@sendable
@click.option(
    "--grace",
    type=Number(min=0, min_open=True),
    metavar="SECONDS",
    default=25.0,
    show_default=True,
    help="How long what is in flight may go on once it was told to end.",
)
@click.option(
    "--ledger",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Keep the ledger in this file, for all workers of this machine. By default it is in NATS, "
    "for those of all machines. All workers of a store must have the same.",
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
    "Anybody who can reach it can read it.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What the log tells, on the standard error; debug tells of each attempt.",
)
@CONFIG
@ALLOW_HTTP
@DEBUG
@guarded
def worker(**options: Any) -> int:
    _needs_nats()
    from everlytic_async.cli._worker import Options, work  # noqa: PLC0415 - not for --help

    _announce(options["config"], "everlytic")
    return work(Options(nats=_nats(options), **options))


@click.group(help=_QUEUE_HELP)
@click.command_panel("Commands", commands=["status", "dead", "redrive", "drop"])
def queue() -> None:
    pass


_STORES = click.option(
    "--store",
    "stores",
    multiple=True,
    metavar="NAME",
    help="Only this store. May be given several times. By default all of the TOML file and of the "
    "queue.",
)
_OUTCOMES = click.option(
    "--outcome",
    "outcomes",
    type=click.Choice(["unknown", "rejected", "invalid"]),
    multiple=True,
    help="Only those with this outcome. May be given several times.",
)
_QUEUE_PANEL = click.option_panel("Settings and more", options=["--config", "--debug", "--help"])


def _queue_options(options: dict[str, Any], stores: Any) -> Any:
    """What all commands of the queue are given."""
    _needs_nats()
    from everlytic_async.cli._queue import Options  # noqa: PLC0415 - not for --help

    _announce(options["config"])
    return Options(nats=_nats(options), stores=tuple(stores), config=options.pop("config"))


@queue.command("status", help=_QUEUE_STATUS_HELP)
@_NATS_PANEL
@click.option_panel("What to show", options=["--store", "--json"])
@_QUEUE_PANEL
@_queueing
@_STORES
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each store.")
@CONFIG
@DEBUG
@guarded
def queue_status(stores: tuple[str, ...], *, as_json: bool, **options: Any) -> int:
    given = _queue_options(options, stores)
    from everlytic_async.cli._queue import status  # noqa: PLC0415 - not for --help

    return status(given, as_json=as_json)


@queue.command("dead", help=_QUEUE_DEAD_HELP)
@_NATS_PANEL
@click.option_panel("What to show", options=["--store", "--outcome", "--format"])
@_QUEUE_PANEL
@_queueing
@_STORES
@_OUTCOMES
@click.option(
    "--format",
    type=click.Choice(["text", "jsonl", "orders"]),
    default="text",
    show_default=True,
    help="A line to read; a line of JSON; or the orders themselves as JSON Lines, to be mended and "
    "queued again: these are customers' data.",
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
    given = _queue_options(options, stores)
    from everlytic_async.cli._queue import dead  # noqa: PLC0415 - not for --help

    return dead(given, format=format, outcomes=outcomes)


def _choosing(command: Command) -> Command:
    """Give a command what says which dead letters are meant."""
    for option in (
        DEBUG,
        CONFIG,
        _OUTCOMES,
        click.option("--all", "select_all", is_flag=True, help="All dead letters of the store."),
        _STORE,
        _queueing,
        click.argument("ids", metavar="[NUMBER]...", type=click.IntRange(min=1), nargs=-1),
        _QUEUE_PANEL,
        click.option_panel("Which dead letters", options=["--store", "--all", "--outcome"]),
        _NATS_PANEL,
    ):
        command = option(command)
    return command


@queue.command(help=_REDRIVE_HELP)
@_choosing
@guarded
def redrive(store: str | None, **options: Any) -> int:
    given = _queue_options(options, () if store is None else (store,))
    from everlytic_async.cli._queue import redrive  # noqa: PLC0415 - not for --help

    return redrive(given, **options)


@queue.command(help=_DROP_HELP)
@_choosing
@guarded
def drop(store: str | None, **options: Any) -> int:
    given = _queue_options(options, () if store is None else (store,))
    from everlytic_async.cli._queue import drop  # noqa: PLC0415 - not for --help

    return drop(given, **options)
