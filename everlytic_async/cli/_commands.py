"""The commands, their options and their help. What they do is imported when they run."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import rich_click as click

from everlytic_async.cli._exit import guarded
from everlytic_async.errors import ConfigurationError

__all__ = ["app", "run"]

_Command = Callable[..., Any]
_Decorator = Callable[[_Command], _Command]

_EXIT_CODES = """\
Exit codes:
    0    {good}
    1    {bad}
    2    wrong usage or settings, or unreadable input: {none}
    130  interrupted by Ctrl-C{terminated}
"""

_MAIN_HELP = """\
Send orders to Everlytic's order-notification workflows, safely and at the endpoint's pace.

Try it without an account, with orders as JSON, CSV or Parquet, or as a shop exports them:
    everlytic-async send --sandbox orders.jsonl

Then look for mistakes, and send to your own install:
    everlytic-async check orders.jsonl
    export EVERLYTIC_BASE_URL=https://YOUR-INSTALL
    export EVERLYTIC_STORE_HASH=...
    export EVERLYTIC_CUSTOMER_HASH=...
    everlytic-async send --limit 10 --ledger orders.ledger orders.jsonl
    everlytic-async send --ledger orders.ledger orders.jsonl
"""

_FILE_HELP = """\
FILE holds orders as JSON Lines, JSON, CSV, TSV or Parquet, plain or packed with gzip or zstd, with
the endpoint's names for its fields; or it is an export of WooCommerce, Shopify or Magento. `-` is
the standard input. What it is shows by its content; --format says it outright, and --map, or a
table [mapping] in the TOML file, what other columns mean.
"""

_SEND_HELP = (
    """\
Send the orders of FILE: one trigger each, so that each puts a customer into a workflow.

{file}
What is no valid order is reported with its line, and the rest is sent. An attempt that may have
been processed is not repeated, unless `--delivery at-least-once` allows it.

Examples:
    everlytic-async send --sandbox orders.jsonl    nobody gets an e-mail
    everlytic-async send --dry-run orders.csv      read all, send nothing
    everlytic-async send --limit 10 orders.csv.gz  begin with a few
    everlytic-async send --map order_id=Nr --map contact_email=Mail till.csv
    everlytic-async send --rate 20 --results results.jsonl orders.json
    export-orders | everlytic-async send -

With a ledger, a run that was interrupted, even killed, is taken up by running it again: what was
sent, or may have been, is skipped.
    everlytic-async send --ledger orders.ledger orders.jsonl

On a terminal, before more than 1,000 orders go to a real address, it says what it is about to do,
and asks.

The address and the hashes come from the environment, never from arguments:
    EVERLYTIC_BASE_URL       the install, such as https://shop.everlytic.net
    EVERLYTIC_STORE_HASH     from the store's page in Everlytic
    EVERLYTIC_CUSTOMER_HASH  from the same page

or, where the environment has none, from a TOML file:
    [everlytic]
    base_url = "https://shop.everlytic.net"
    store_hash = "..."
    customer_hash = "..."

    [mapping]
    order_id = "Nr"

Ctrl-C ends the reading, lets what is in flight finish, and shows the summary; a second one leaves
at once. SIGTERM does the same.

""".replace("{file}", _FILE_HELP.rstrip())
    + _EXIT_CODES.format(
        good="every order was sent, now or before (or FILE holds none at all)",
        bad="some orders were not sent; the summary says why",
        none="nothing was sent",
        terminated="; 143 by SIGTERM",
    )
)

_CHECK_HELP = (
    """\
Validate the orders of FILE, and send nothing. No account is needed.

{file}
Every fault is shown with the path of its field, how often it is there, and the first lines that
have it.

Examples:
    everlytic-async check orders.jsonl
    everlytic-async check --format woocommerce --include cancelled orders.json.gz
    everlytic-async check --map contact_email=Mail --map product_name=Item till.csv
    export-orders | everlytic-async check -

An order in JSON:
    {"contact_email": "a@example.com", "products": [{"product_name": "Mop"}]}

It needs contact_email or contact_unique_id, and at least one product. A null counts as not
set; a field that is not known is a fault.

""".replace("{file}", _FILE_HELP.rstrip())
    + _EXIT_CODES.format(
        good="every order is valid (or FILE holds none at all)",
        bad="some are not",
        none="not all was checked",
        terminated="",
    )
)

_SANDBOX_HELP = """\
Run a stand-in for the endpoint on this machine, to try things out: nobody gets an e-mail.

It checks the headers and the orders as the endpoint's documentation asks, counts what it gets, and
fails on request. The lines that it prints on the standard output set the environment for `send`, or
for code of yours in any language. Its hashes are made up, and no secrets.

Examples:
    everlytic-async sandbox
    everlytic-async sandbox --rate 50 --burst 10   the rest gets a 429
    everlytic-async sandbox --dropped-after 0.05   some answers are lost
    everlytic-async sandbox --port 8025 --latency 0.2

A share is of all requests, between 0 and 1; all shares are at most 1 together.

Exit codes:
    0    ended by Ctrl-C or SIGTERM, which is how it ends
    2    wrong usage, or it can't listen there
"""

_LEDGER_HELP = """\
Look into a ledger, the file that `send --ledger` keeps, and tell it what you found out.

It knows what became of every order: its key, state, attempts, the status of the last answer, why it
was not sent, and when. It holds no e-mail address, no order and no hash.

Examples:
    everlytic-async ledger status orders.ledger
    everlytic-async ledger export --state unknown orders.ledger
    everlytic-async ledger resolve orders.ledger --sent 1001 1002

Exit codes:
    0    done
    1    some orders were left alone (`resolve`)
    2    wrong usage, or no ledger that can be used
"""

_STATUS_HELP = """\
Show how many orders of the ledger FILE are in which state, since when, how fast it went, to which
hosts, and how many processes are sending with it now.

It may be asked at any time, also while orders are being sent: to see how far a backfill has come
that runs elsewhere, or what a run that was killed has left.

Examples:
    everlytic-async ledger status orders.ledger

Exit codes:
    0    shown
    2    wrong usage, or no ledger that can be used
"""

_EXPORT_HELP = """\
Write a line for each order that the ledger FILE knows, with host, key, state, attempts, status,
reason, and when that was recorded (in UTC).

To compare with what Everlytic, or the shop, says of them: the unknown ones above all, for only a
person can find out whether their e-mails went out.

Examples:
    everlytic-async ledger export orders.ledger
    everlytic-async ledger export --format csv --output orders.csv orders.ledger
    everlytic-async ledger export --state unknown --state rejected orders.ledger

Exit codes:
    0    written
    2    wrong usage, no ledger that can be used, or the output can't be written
"""

_RESOLVE_HELP = """\
Tell the ledger FILE what became of unknown orders: that they were sent, or that they are to be sent
again.

An order is unknown where its answer was lost, or the process was killed while it was under way. It
is not sent again by itself, for its customer may have been notified. Look in Everlytic which of
them triggered the workflow; then mark those as sent, and the others to be sent again: the next
`send --ledger` sends them. Without a look, --send-again may notify customers twice, and --sent may
leave some out.

KEY is the order's key as results and exports have it: 1001, or 1001@32 in workflow 32. Orders that
are not unknown are left alone.

Examples:
    everlytic-async ledger resolve orders.ledger --sent 1001 1002
    everlytic-async ledger resolve orders.ledger --send-again --keys-from missing.txt
    everlytic-async ledger resolve orders.ledger --sent --all

Exit codes:
    0    all that was named was marked
    1    some were left alone, for they are not unknown
    2    wrong usage, or no ledger that can be used
"""


_NATS_HELP = """\
The queue is on a NATS server with JetStream: at nats://127.0.0.1:4222, or where --nats, or
EVERLYTIC_NATS_URL, or url in the table [nats] of the TOML file says. Or nobody need run one: with
--embedded DIR a private one runs, for as long as any command of this machine that was given the
same DIR. A password or a token comes from the environment (EVERLYTIC_NATS_USER,
EVERLYTIC_NATS_PASSWORD, EVERLYTIC_NATS_TOKEN), the TOML file, or a NATS context.
"""

_ENQUEUE_HELP = (
    """\
Put the orders of FILE into the queue, for workers to send.

{file}
What is no valid order is reported with its line, and the rest is queued. An order is in the queue
once the server has stored it. To run it again is safe: within the queue's window for duplicates, 24
hours by default, an order that the queue knows is not stored twice; after that the workers' ledger
knows it.

{nats}
Examples:
    everlytic-async enqueue --embedded queue orders.jsonl
    everlytic-async enqueue --nats nats://queue.example:4222 --store shop-a orders.csv.gz
    export-orders | everlytic-async enqueue -

Ctrl-C or SIGTERM ends the reading, and waits for what is on its way; a second one leaves at once.

""".replace("{file}", _FILE_HELP.rstrip()).replace("{nats}", _NATS_HELP)
    + _EXIT_CODES.format(
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

Examples:
    everlytic-async worker --embedded queue
    everlytic-async worker --nats nats://queue.example:4222 --store shop-a
    everlytic-async worker --health :9090 --rate 20
    everlytic-async worker --embedded queue --exit-when-empty

SIGTERM or Ctrl-C ends the taking, lets what is in flight finish within --grace, and gives back the
rest. A second one breaks off what is in flight: its orders are unknown, and the ledger knows it.

Exit codes:
    0    it was told to end, and did; or with --exit-when-empty the queue is empty
    1    the endpoint refused the hashes of a store; or an error that nobody foresaw
    2    wrong usage or settings, or no queue or ledger that can be used: no order was taken
    130  left at once by a second Ctrl-C; 143 by a second SIGTERM
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


class _Names(click.Choice[str]):
    """Takes the library's spelling too."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(str(value).replace("_", "-"), param, ctx)


_FILE = click.argument("file", metavar="FILE", type=click.Path(allow_dash=True))
_DEBUG = click.option("--debug", is_flag=True, help="Show the traceback of an error.")
_PROGRESS = click.option(
    "--progress/--no-progress",
    default=True,
    help="Show what goes on while it does: only on a terminal, on the standard error.",
)
_SHARE = click.FloatRange(0, 1)
_SECONDS = click.FloatRange(min=0)
_CONFIG = click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="The TOML file with the settings. Without it: ./everlytic.toml, else everlytic.toml in "
    "everlytic-async in your directory for settings (~/.config on Linux).",
)
_READING = (
    click.option(
        "--format",
        metavar="NAME",
        help="What FILE is: jsonl, json, csv, tsv or parquet, with the endpoint's names or those "
        "of the mapping; or a shop's export: woocommerce, shopify, shopify-csv or magento. Without "
        "it, its content shows.",
    ),
    click.option(
        "--map",
        "maps",
        multiple=True,
        metavar="FIELD=PATH",
        help="Where a field comes from: a column, or a path such as billing.email; PATH|PATH is "
        "the first that is set; a text with {path} in it is a template; FIELD:=17 a constant; "
        "FIELD= is not set. products=PATH leads to the list of products, date=PATH to the time of "
        "the order. Once for each field; it comes before the table [mapping] of the TOML file.",
    ),
    click.option(
        "--since",
        metavar="TIME",
        help="Leave out orders before that time: 2026-03-01, or 2026-03-01T08:00+02:00. Without "
        "an offset it is UTC.",
    ),
    click.option("--until", metavar="TIME", help="Leave out orders at that time or after it."),
    click.option(
        "--include",
        multiple=True,
        metavar="REASON",
        help="Take in orders of a shop's export that are left out otherwise: cancelled, refunded, "
        "failed, unpaid, draft, trash, voided, test, fraud; or all. "
        "May be given several times.",
    ),
)
_READING_PANEL = click.option_panel(
    "How to read FILE", options=["--format", "--map", "--since", "--until", "--include"]
)


def _readable(command: _Command) -> _Command:
    """Give a command the options on how its input is read."""
    for option in reversed(_READING):
        command = option(command)
    return command


def _reading(options: dict[str, Any]) -> Any:
    """What they say."""
    from everlytic_async.cli._input import Reading  # noqa: PLC0415 - not for --help

    names = ("format", "maps", "since", "until", "include")
    return Reading.of(config=options["config"], **{name: options.pop(name) for name in names})


_SENDING = (
    click.option(
        "--concurrency",
        type=click.IntRange(min=1),
        metavar="N",
        default=32,
        show_default=True,
        help="How many orders may be in flight at once.",
    ),
    click.option(
        "--rate",
        type=click.FloatRange(min=0, min_open=True),
        metavar="N",
        help="The most orders per second, evenly spread. Without it, the endpoint's limit is "
        "found.",
    ),
    click.option(
        "--delivery",
        type=_Names(["at-most-once", "at-least-once"]),
        default="at-most-once",
        show_default=True,
        help="After an answer that was lost: never send the order again, or do, and perhaps notify "
        "twice.",
    ),
    click.option(
        "--retries",
        type=click.IntRange(min=0),
        metavar="N",
        default=4,
        show_default=True,
        help="How often an order is tried again, where --delivery allows it.",
    ),
)
_LIMIT = click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="Read no more than the first N orders, valid or not.",
)
_ALLOW_HTTP = click.option(
    "--allow-http",
    is_flag=True,
    help="Allow an http:// address: anybody on the way can then read the hashes and the orders.",
)
_WORKFLOW = click.option(
    "--workflow-id",
    type=click.IntRange(1, 2**63 - 1),
    metavar="N",
    help="The workflow to trigger for the orders that name none.",
)


def _sendable(command: _Command) -> _Command:
    """Give a command the options on how orders are sent."""
    for option in reversed(_SENDING):
        command = option(command)
    return command


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
    ],
)


def _queueing(command: _Command) -> _Command:
    """Give a command the options on where the queue is."""
    for option in reversed(_NATS):
        command = option(command)
    return command


def _nats(options: dict[str, Any]) -> dict[str, str | None]:
    """What they say."""
    names = (
        *("url", "embedded", "context", "credentials", "nkey"),
        *("tls_ca", "tls_cert", "tls_key"),
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


_STORE = click.option(
    "--store",
    metavar="NAME",
    help="Whose orders: a part of their subject in NATS. By default the only store that the TOML "
    "file has a table [worker.stores.NAME] for, else `default`.",
)


@click.group(help=_MAIN_HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="everlytic-async", message="%(prog)s %(version)s")
@click.command_panel(
    "Commands", commands=["send", "check", "ledger", "sandbox", "enqueue", "worker", "queue"]
)
@click.rich_config(
    {
        "padding_helptext_first_line": (0, 0, 1, 0),
        "text_paragraph_linebreaks": "\n\n",
        "options_table_column_types": ["opt_all_metavar", "help"],
    }
)
def app() -> None:
    pass


@app.command(help=_SEND_HELP)
@click.option_panel("To try it out", options=["--sandbox", "--dry-run", "--limit"])
@_READING_PANEL
@click.option_panel(
    "How to send",
    options=["--concurrency", "--rate", "--delivery", "--retries", "--workflow-id"],
)
@click.option_panel(
    "What was sent before",
    options=["--ledger", "--resend", "--durability", "--only", "--from-results"],
)
@click.option_panel(
    "Settings and results", options=["--results", "--report", "--config", "--allow-http"]
)
@click.option_panel("More", options=["--yes", "--progress", "--debug", "--help"])
@_FILE
@_readable
@click.option(
    "--sandbox",
    is_flag=True,
    help="Send to a stand-in for the endpoint, started for this run. No settings are needed.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Read and validate everything, send nothing. Needs no settings.",
)
@_LIMIT
@_sendable
@_WORKFLOW
@click.option(
    "--report",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write a page (HTML) on the run to look at when it has ended. Needs the extra `report`.",
)
@click.option(
    "--results",
    type=click.Path(allow_dash=True, dir_okay=False),
    metavar="FILE",
    help="Write a line of JSON for each order as it ends: index, line, key, outcome, attempts, "
    "error, duplicate_risk. The file is replaced. `-` is the standard output; the summary then "
    "goes to the standard error.",
)
@click.option(
    "--ledger",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Keep what becomes of every order in this file, and skip what it says was sent, or may "
    "have been: so a run that was interrupted is taken up by running it again. It is made where "
    "there is none; keep it on a disk of this machine.",
)
@click.option(
    "--resend",
    type=click.Choice(["unknown", "rejected"]),
    multiple=True,
    help="Send again what the ledger, or --from-results, says is unknown: its customer may then "
    "be notified twice. Or what the ledger says was rejected, though it has not changed. May be "
    "given twice.",
)
@click.option(
    "--durability",
    type=click.Choice(["process", "power"]),
    help="What the ledger survives: the death of the process (the default), or also a loss of "
    "power, which costs a wait for the disk with each group of orders.",
)
@click.option(
    "--only",
    type=click.Choice(["failed"]),
    help="Send only the orders of FILE that failed in an earlier run, and may be sent again: "
    "not_sent; invalid and rejected, which you have mended in their places. unknown only with "
    "--resend unknown. For runs without a ledger.",
)
@click.option(
    "--from-results",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="For --only: what that run wrote with --results. It must be of this very input.",
)
@_CONFIG
@_ALLOW_HTTP
@click.option(
    "--yes",
    is_flag=True,
    help="Don't ask before more than 1,000 orders go to a real address.",
)
@_PROGRESS
@_DEBUG
@guarded
def send(**options: Any) -> int:
    from everlytic_async.cli._send import Options, send  # noqa: PLC0415 - not for --help

    return send(Options(reading=_reading(options), **options))


@app.command(help=_CHECK_HELP)
@_READING_PANEL
@click.option_panel("More", options=["--config", "--progress", "--debug", "--help"])
@_FILE
@_readable
@_CONFIG
@_PROGRESS
@_DEBUG
@guarded
def check(file: str, *, progress: bool, **options: Any) -> int:
    from everlytic_async.cli._check import check  # noqa: PLC0415 - not for --help

    return check(file, _reading(options), progress=progress)


@app.group(help=_LEDGER_HELP)
@click.command_panel("Commands", commands=["status", "export", "resolve"])
def ledger() -> None:
    pass


_LEDGER_FILE = click.argument("file", metavar="FILE", type=click.Path())


@ledger.command(help=_STATUS_HELP)
@_LEDGER_FILE
@_DEBUG
@guarded
def status(file: str) -> int:
    from everlytic_async.cli._ledger import status  # noqa: PLC0415 - not for --help

    return status(file)


@ledger.command(help=_EXPORT_HELP)
@_LEDGER_FILE
@click.option(
    "--format",
    type=click.Choice(["jsonl", "csv"]),
    default="jsonl",
    show_default=True,
    help="JSON Lines, or CSV with a line of column names.",
)
@click.option(
    "--state",
    "states",
    type=_Names(["in-flight", "sent", "rejected", "invalid", "not-sent", "unknown"]),
    multiple=True,
    help="Only orders in this state. May be given several times.",
)
@click.option(
    "--output",
    type=click.Path(allow_dash=True, dir_okay=False),
    metavar="FILE",
    default="-",
    help="Where to write; the file is replaced. By default, and with `-`, the standard output.",
)
@_DEBUG
@guarded
def export(**options: Any) -> int:
    from everlytic_async.cli._ledger import export  # noqa: PLC0415 - not for --help

    return export(**options)


@ledger.command(help=_RESOLVE_HELP)
@click.option_panel("What you found out", options=["--sent", "--send-again"])
@click.option_panel("Of which orders", options=["--all", "--keys-from", "--own-key"])
@click.option_panel("More", options=["--debug", "--help"])
@_LEDGER_FILE
@click.argument("keys", metavar="[KEY]...", nargs=-1)
@click.option("--sent", "was_sent", is_flag=True, help="They were sent: never send them again.")
@click.option("--send-again", is_flag=True, help="They were not: the next run sends them.")
@click.option("--all", "to_all", is_flag=True, help="All that are unknown.")
@click.option(
    "--keys-from",
    type=click.Path(allow_dash=True, dir_okay=False),
    metavar="FILE",
    help="Those whose keys stand in a text file, one on each line. `-` is the standard input.",
)
@click.option(
    "--own-key",
    is_flag=True,
    help="The keys are those that a `key=` function of yours gave, in Python: the ledger keeps "
    "them as digests.",
)
@_DEBUG
@guarded
def resolve(**options: Any) -> int:
    from everlytic_async.cli._ledger import resolve  # noqa: PLC0415 - not for --help

    return resolve(**options)


def _fault(name: str, kind: click.ParamType[Any], help: str, **more: Any) -> _Decorator:  # noqa: A002
    return click.option(name, type=kind, metavar="X", help=help, show_default=True, **more)


@app.command(help=_SANDBOX_HELP)
@click.option_panel("Where", options=["--host", "--port"])
@click.option_panel(
    "What goes wrong",
    options=[
        "--latency",
        "--latency-jitter",
        "--throttled",
        "--retry-after",
        "--unavailable",
        "--server-error",
        "--dropped-before",
        "--dropped-after",
        "--rate",
        "--burst",
        "--max-in-flight",
        "--seed",
    ],
)
@click.option_panel("More", options=["--progress", "--debug", "--help"])
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="The port to listen at. By default a free one.",
)
@_fault("--latency", _SECONDS, "Seconds that each request takes.", default=0.0)
@_fault("--latency-jitter", _SECONDS, "Up to so many seconds more.", default=0.0)
@_fault("--throttled", _SHARE, "Share answered 429, too many requests.", default=0.0)
@_fault("--retry-after", _SECONDS, "Seconds to wait, told with each 429 and 503.")
@_fault("--unavailable", _SHARE, "Share answered 503.", default=0.0)
@_fault("--server-error", _SHARE, "Share answered 500, half of it once processed.", default=0.0)
@_fault("--dropped-before", _SHARE, "Share not answered, and not processed.", default=0.0)
@_fault("--dropped-after", _SHARE, "Share not answered, but processed.", default=0.0)
@_fault(
    "--rate",
    click.FloatRange(min=0, min_open=True),
    "Orders per second; what is over is answered 429.",
)
@_fault("--burst", click.IntRange(min=0), "How many may run ahead of the rate.", default=1)
@_fault("--max-in-flight", click.IntRange(min=1), "How many at once; what is over: 429.")
@_fault("--seed", click.INT, "Seed of the shares: the same faults in every run.", default=0)
@_PROGRESS
@_DEBUG
@guarded
def sandbox(
    host: str,
    port: int,
    latency: float,
    latency_jitter: float,
    retry_after: float | None,
    *,
    progress: bool,
    **faults: Any,
) -> int:
    from everlytic_async.cli._sandbox import serve  # noqa: PLC0415 - not for --help

    faults.update(latency_s=latency, latency_jitter_s=latency_jitter, retry_after_s=retry_after)
    return serve(host=host, port=port, faults=faults, progress=progress)


@app.command(help=_ENQUEUE_HELP)
@_NATS_PANEL
@_READING_PANEL
@click.option_panel("Which orders, and whose", options=["--store", "--limit", "--workflow-id"])
@click.option_panel(
    "Settings, results and more",
    options=["--results", "--config", "--progress", "--debug", "--help"],
)
@_FILE
@_queueing
@_readable
@_STORE
@_LIMIT
@_WORKFLOW
@click.option(
    "--results",
    type=click.Path(allow_dash=True, dir_okay=False),
    metavar="FILE",
    help="Write a line of JSON for each order as `send --results` does; its outcome is queued, "
    "known, invalid or not_queued. The file is replaced. `-` is the standard output; the summary "
    "then goes to the standard error.",
)
@_CONFIG
@_PROGRESS
@_DEBUG
@guarded
def enqueue(**options: Any) -> int:
    _needs_nats()
    from everlytic_async.cli._enqueue import Options, enqueue  # noqa: PLC0415 - not for --help

    return enqueue(Options(reading=_reading(options), nats=_nats(options), **options))


@app.command(help=_WORKER_HELP)
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
@_sendable
@click.option(
    "--grace",
    type=click.FloatRange(min=0, min_open=True),
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
@_CONFIG
@_ALLOW_HTTP
@_DEBUG
@guarded
def worker(**options: Any) -> int:
    _needs_nats()
    from everlytic_async.cli._worker import Options, work  # noqa: PLC0415 - not for --help

    return work(Options(nats=_nats(options), **options))


@app.group(help=_QUEUE_HELP)
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

    return Options(nats=_nats(options), stores=tuple(stores), config=options.pop("config"))


@queue.command("status", help=_QUEUE_STATUS_HELP)
@_NATS_PANEL
@click.option_panel("What to show", options=["--store", "--json"])
@_QUEUE_PANEL
@_queueing
@_STORES
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each store.")
@_CONFIG
@_DEBUG
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
@_CONFIG
@_DEBUG
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


def _choosing(command: _Command) -> _Command:
    """Give a command what says which dead letters are meant."""
    for option in (
        _DEBUG,
        _CONFIG,
        _OUTCOMES,
        click.option("--all", "to_all", is_flag=True, help="All dead letters of the store."),
        _STORE,
        _queueing,
        click.argument("numbers", metavar="[NUMBER]...", type=click.IntRange(min=1), nargs=-1),
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


def run() -> None:
    """Run the command with the arguments of the process, and exit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A character that the terminal doesn't know is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="everlytic-async")
