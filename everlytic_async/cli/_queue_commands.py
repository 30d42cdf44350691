"""The commands about a queue: ``enqueue``, ``worker``, ``queue``. See ``_commands``."""

from __future__ import annotations

from functools import partial

import rich_click as click

from everlytic_async.cli._options import (
    FILE,
    FILE_HELP,
    ConfigOptions,
    Integer,
    Number,
    ResultsOptions,
    SendingOptions,
    WorkflowOptions,
    argument,
    command,
    ledger_option,
    option,
    options,
    which,
)

_NATS_HELP = """\
The queue is on a NATS server with JetStream: at nats://127.0.0.1:4222, or as --nats,
EVERLYTIC_NATS_URL, or url in the table [nats] of the TOML file says. --embedded DIR needs no other
server: it uses the private one that runs in DIR, or starts one, which ends with this command; the
data stays in DIR. Only your own commands get in, by a token that is stored in DIR. A password or a
token comes from the environment (EVERLYTIC_NATS_USER, EVERLYTIC_NATS_PASSWORD,
EVERLYTIC_NATS_TOKEN), the TOML file, or a NATS context.

A server on another machine must offer TLS, or nothing is sent to it. So must any server if TLS is
asked for: by tls:// in its address, --nats-tls-ca or --nats-tls-cert.
"""

_ENQUEUE_HELP = """\
Put the orders of FILE into the queue, for workers to send.

{file}
Invalid orders are reported with their line, and the rest is queued. An order is in the queue once
the server has stored it. It is safe to run this again: the queue stores an order only once within
its window for duplicates, 24 hours by default. After that, or after a restart of the server, the
workers' ledger knows which orders were sent.

{nats}
Examples:
    everlytic-async enqueue --embedded queue orders.jsonl
    everlytic-async enqueue --nats tls://queue.example:4222 orders.csv.gz
    everlytic-async enqueue --embedded queue --store shop-a orders.csv.gz
    export-orders | everlytic-async enqueue -

Ctrl-C, SIGTERM or SIGHUP stops reading and waits for acknowledgements; a second one exits at once.

Exit codes:
    0    every order is in the queue, now or before (or FILE holds none)
    1    some orders are not; the summary says why
    2    wrong usage or settings, unreadable input, or an unexpected error
    130  interrupted by Ctrl-C; 143 by SIGTERM; 129 by SIGHUP
""".replace("{file}", FILE_HELP.rstrip()).replace("{nats}", _NATS_HELP)

_WORKER_HELP = """\
Take orders from the queue and send them, until SIGTERM, SIGHUP or Ctrl-C.

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

SIGTERM, SIGHUP or Ctrl-C stops taking orders, lets those in flight finish within --grace, and puts
the rest back. A second one cancels what is in flight: those orders are recorded as unknown.

Exit codes:
    0    stopped as asked; or the queue is empty (--exit-when-empty)
    1    the endpoint refused a store's hashes; NATS refused the credentials
         for half a minute; or the private NATS server ended
    2    wrong usage or settings, a queue or a ledger that can't be used,
         or an unexpected error
    130  stopped by a second Ctrl-C, or by the first while connecting
    143  the same by SIGTERM; 129 by SIGHUP
""".replace("{nats}", _NATS_HELP)

_QUEUE_HELP = """\
Show what is in the queue, and decide on dead letters: orders that are not sent again by themselves.
Where the queue is, and how it lets you in: see `worker --help`.

Examples:
    everlytic-async queue status --embedded queue
    everlytic-async queue dead --embedded queue
    everlytic-async queue redrive --embedded queue 3 4 7

Exit codes:
    0    done
    1    some dead letters that were named are not there (`redrive`, `drop`)
    2    wrong usage or settings, or the queue can't be reached
"""


_QUEUE_STATUS_HELP = """\
Show how many orders wait, are in flight and are dead letters, and which workers answer.

Examples:
    everlytic-async queue status --embedded queue
    everlytic-async queue status --store shop-a --json

Exit codes:
    0    done
    2    wrong usage or settings, or the queue can't be reached
"""

_QUEUE_DEAD_HELP = """\
Show the dead letters, oldest first: number, time, outcome, key, reason, attempts.

What to do about them:
    unknown    may have been processed: find out, then redrive or drop it
    rejected   refused: correct the workflow or the account, then redrive it
    invalid    not a valid order: correct it at its source, then drop it

Examples:
    everlytic-async queue dead --embedded queue
    everlytic-async queue dead --outcome unknown --format jsonl
    everlytic-async queue dead --outcome invalid --format orders > o.jsonl

Exit codes:
    0    done
    2    wrong usage or settings, or the queue can't be reached
"""

_REDRIVE_HELP = """\
Put dead letters back into the queue. Workers send them once, whatever their recorded outcome,
unless the ledger says they were sent.

A redriven unknown order may notify its customer twice: first check in Everlytic whether it arrived.

Examples:
    everlytic-async queue redrive --embedded queue 3 4 7
    everlytic-async queue redrive --all --outcome rejected

Exit codes:
    0    done
    1    some that were named are not there
    2    wrong usage or settings, or the queue can't be reached
"""

_DROP_HELP = """\
Delete dead letters for good: they are not sent. For those that arrived after all, or that were
queued again after a correction.

Examples:
    everlytic-async queue drop --embedded queue 5

Exit codes:
    0    done
    1    some that were named are not there
    2    wrong usage or settings, or the queue can't be reached
"""


_nats = partial(option, panel="Where the queue is")
_serves = partial(option, panel="What it serves")
_store = partial(
    which,
    "The store, a part of its orders' subject in NATS. By default the only one with a table "
    "[worker.stores.NAME] in the TOML file, else `default`.",
    metavar="NAME",
)
_outcomes = partial(
    which,
    "Only those with this outcome. May be repeated.",
    "--outcome",
    type=click.Choice(["unknown", "rejected", "invalid"]),
    default=(),
)


@options
class NatsOptions(ConfigOptions):
    """Where the queue is: most are called as the settings in the table ``[nats]``."""

    url: str | None = _nats(
        "The NATS server, or several of one cluster with commas between them.",
        "--nats",
        metavar="URL",
    )
    embedded: str | None = _nats(
        "A private NATS server with its data in this directory: the one that runs there, else "
        "one that ends with this command. For trying out and small installs.",
        type=click.Path(file_okay=False),
        metavar="DIR",
    )
    context: str | None = _nats(
        "A context of NATS's own command line: address and credentials.",
        "--nats-context",
        metavar="NAME",
    )
    credentials: str | None = _nats("A .creds file: JWT and seed.", "--nats-credentials", **FILE)
    nkey: str | None = _nats("A file with an NKey seed.", "--nats-nkey", **FILE)
    tls_ca: str | None = _nats(
        "Certificates of the authorities to trust; by default the machine's.",
        "--nats-tls-ca",
        **FILE,
    )
    tls_cert: str | None = _nats(
        "The certificate to show to the server.", "--nats-tls-cert", **FILE
    )
    tls_key: str | None = _nats("Its key.", "--nats-tls-key", **FILE)
    allow_plain: bool = _nats(
        "Use a NATS server on another machine without TLS: anybody on the way can read "
        "credentials and orders.",
        "--allow-plain-nats",
        default=False,
    )


@options
class EnqueueOptions(NatsOptions, ResultsOptions, WorkflowOptions):
    """The options of ``enqueue``."""

    store: str | None = _store()


@options
class WorkerOptions(NatsOptions, SendingOptions):
    """The options of ``worker``."""

    stores: tuple[str, ...] = _serves(
        "Serve this store. May be repeated. By default all with a table [worker.stores.NAME] "
        "in the TOML file, else the only one, which is called `default`.",
        "--store",
        default=(),
        metavar="NAME",
    )
    exit_when_empty: bool = _serves(
        "End once no order waits or is in flight: for scripts.", default=False
    )
    grace: float = option(
        "How long orders in flight may take after SIGTERM or Ctrl-C.",
        panel="How to send",
        type=Number(min=0, min_open=True),
        metavar="SECONDS",
        default=25.0,
    )
    ledger: str | None = ledger_option(
        "Keep the ledger in this file, for all workers of this machine. By default it is in "
        "NATS, for all machines. All workers of a store need the same one.",
        **FILE,
    )
    health: str | None = option(
        "Serve /livez and /readyz there, and /metrics for Prometheus with the extra "
        "`metrics`. Anybody who can connect can read them.",
        metavar="HOST:PORT",
    )
    log_level: str = option(
        "How much to log, on the standard error; debug logs each attempt.",
        type=click.Choice(["debug", "info", "warning", "error"]),
        default="info",
    )


@options
class QueueOptions(NatsOptions):
    """The options of ``queue status``, and what ``queue dead`` shares with it."""

    stores: tuple[str, ...] = _serves(
        "Only this store. May be repeated. By default all of the TOML file and of the queue.",
        "--store",
        default=(),
        metavar="NAME",
    )


@options
class StatusOptions(QueueOptions):
    """The options of ``queue status``."""

    as_json: bool = option("A line of JSON for each store.", "--json", default=False)


@options
class DeadOptions(QueueOptions):
    """The options of ``queue dead``."""

    outcomes: tuple[str, ...] = _outcomes()
    format: str = option(
        "A line to read; a line of JSON; or the orders themselves as JSON Lines, to correct "
        "and queue again: these are customers' data.",
        type=click.Choice(["text", "jsonl", "orders"]),
        default="text",
    )


@options
class SelectOptions(NatsOptions):
    """The options of ``queue redrive`` and ``queue drop``: which dead letters."""

    ids: tuple[int, ...] = argument("[NUMBER]...", type=Integer(min=1), nargs=-1)
    store: str | None = _store()
    select_all: bool = which("All dead letters of the store.", "--all", default=False)
    outcomes: tuple[str, ...] = _outcomes()


def add_queue_commands(app: click.RichGroup) -> None:
    """Add ``enqueue``, ``worker`` and ``queue`` to the command."""
    add = partial(command, extra="nats")
    add(app, "enqueue", EnqueueOptions, "_enqueue.enqueue", _ENQUEUE_HELP)
    add(app, "worker", WorkerOptions, "_worker.work", _WORKER_HELP)

    @app.group(help=_QUEUE_HELP)
    @click.command_panel("Commands", commands=["status", "dead", "redrive", "drop"])
    def queue() -> None:
        pass

    add(queue, "status", StatusOptions, "_queue.status", _QUEUE_STATUS_HELP)
    add(queue, "dead", DeadOptions, "_queue.dead", _QUEUE_DEAD_HELP)
    add(queue, "redrive", SelectOptions, "_queue.redrive", _REDRIVE_HELP)
    add(queue, "drop", SelectOptions, "_queue.drop", _DROP_HELP)
