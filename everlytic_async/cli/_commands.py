"""The commands, their options and their help. What they do is imported when they run.

Those that are about a queue are in ``_queue_commands``.
"""

from __future__ import annotations

import io
import sys
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
    NO_LEDGER,
    PER_SECOND,
    PROGRESS,
    READING_PANEL,
    WORKFLOW,
    Decorator,
    Names,
    Number,
    command_line,
    readable,
    reading,
    sendable,
)
from everlytic_async.cli._queue_commands import enqueue, queue, worker

__all__ = ["app", "run"]

_MAIN_HELP = """\
Send orders to Everlytic's order-notification workflows, safely and at the endpoint's pace.

Try it without an account, with orders as JSON, CSV or Parquet, or as a shop exports them:
    everlytic-async send --sandbox orders.jsonl

Then look for mistakes, and send to your own install:
    everlytic-async check orders.jsonl
    export EVERLYTIC_BASE_URL=https://YOUR-INSTALL
    export EVERLYTIC_STORE_HASH=...
    export EVERLYTIC_CUSTOMER_HASH=...
    everlytic-async send --limit 10 orders.jsonl
    everlytic-async send orders.jsonl

Where one process is not enough, put them into a queue for workers:
    everlytic-async enqueue --embedded queue orders.jsonl
    everlytic-async worker --embedded queue
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

What was sent is remembered in a ledger, everlytic.ledger in the working directory unless --ledger
or the settings name another. The same file sent again sends nothing twice, and a run that was
interrupted, even killed, goes on when it is run again. Without a terminal (cron, a container) the
ledger must exist, be named, or be declined with --no-ledger.

On a terminal, before more than 1,000 orders go to a real address, it shows how many of them the
ledger knows and where the others go, and asks.

The address and both hashes come from one place together, never from arguments. A complete
environment wins:
    EVERLYTIC_BASE_URL       the install, such as https://shop.everlytic.net
    EVERLYTIC_STORE_HASH     from the store's page in Everlytic
    EVERLYTIC_CUSTOMER_HASH  from the same page

Else it is a TOML file (see --config):
    [everlytic]
    base_url = "https://shop.everlytic.net"
    store_hash = "..."
    customer_hash = "..."
    ledger = "orders.ledger"

    [mapping]
    order_id = "Nr"

Ctrl-C ends the reading, lets what is in flight finish, and shows the summary; a second one leaves
at once. SIGTERM does the same.

""".replace("{file}", FILE_HELP.rstrip())
    + """\
Exit codes:
    0    every order was sent, now or before (or FILE holds none at all)
    1    some orders were not sent: to run it again sends them
    2    wrong usage or settings, or unreadable input
    3    nothing more can be sent, but some orders need a person: invalid, rejected or unknown
    130  interrupted by Ctrl-C; 143 by SIGTERM
"""
)

_CHECK_HELP = (
    """\
Validate the orders of FILE, and send nothing. No account is needed.

{file}
Every fault is shown with the path of its field, how often it is there, and the first lines that
have it; of more than 100 that differ, the others are counted, and --results has them all.

Examples:
    everlytic-async check orders.jsonl
    everlytic-async check --format woocommerce --include cancelled orders.json.gz
    everlytic-async check --map contact_email=Mail --map product_name=Item till.csv
    everlytic-async check --results faults.jsonl orders.csv
    export-orders | everlytic-async check -

Where there is a ledger (see `send`), it is read, and what was sent before is told apart.

An order in JSON:
    {"contact_email": "a@example.com", "products": [{"product_name": "Mop"}]}

It needs contact_email or contact_unique_id, and at least one product. A null counts as not
set; a field that is not known is a fault.

""".replace("{file}", FILE_HELP.rstrip())
    + EXIT_CODES.format(
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
Look into a ledger, the file that `send` keeps, and tell it what you found out.

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

_COPY_HELP = """\
Copy the ledger SOURCE to a new file TARGET, also while it is in use.

For a backup, and to make an independent ledger of one that has two names (hard links), which is
refused otherwise. Copies made in other ways may lack what is in the log beside a ledger. The copy
knows nothing of what is sent later: send with one of the two only. What is in flight is unknown in
the copy.

A ledger whose last records are lost is refused as well: orders that it does not know of may have
been sent. With --accept-loss what is left is copied. First find out in Everlytic which orders were
sent since the run that was interrupted: those would be sent again.

Examples:
    everlytic-async ledger copy orders.ledger backup.ledger
    everlytic-async ledger copy --accept-loss orders.ledger rescued.ledger

Exit codes:
    0    copied
    2    wrong usage, no ledger that can be used, or there is a file at TARGET
"""

_RESOLVE_HELP = """\
Tell the ledger FILE what became of unknown orders: that they were sent, or that they are to be sent
again.

An order is unknown where its answer was lost, or the process was killed while it was under way. It
is not sent again by itself, for its customer may have been notified. Look in Everlytic which of
them triggered the workflow; then mark those as sent, and the others to be sent again: the next
`send` sends them. Without a look, --send-again may notify customers twice, and --sent may
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

_SHARE = Number(0, 1)
_SECONDS = Number(min=0)


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
@READING_PANEL
@click.option_panel(
    "How to send",
    options=["--concurrency", "--rate", "--delivery", "--retries", "--workflow-id"],
)
@click.option_panel(
    "What was sent before",
    options=["--ledger", "--no-ledger", "--resend", "--durability"],
)
@click.option_panel(
    "Settings and results",
    options=["--results", "--append-results", "--report", "--config", "--allow-http"],
)
@click.option_panel("More", options=["--yes", "--progress", "--debug", "--help"])
@FILE
@readable
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
@LIMIT
@sendable
@WORKFLOW
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
    "error, duplicate_risk. A file that holds results already is refused. `-` is the standard "
    "output; the summary then goes to the standard error.",
)
@APPEND_RESULTS
@click.option(
    "--ledger",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Keep what becomes of every order in this file, and skip what it says was sent, or may "
    "have been. It is made where there is none; keep it on a disk of this machine. Without this "
    "option: `ledger` in the settings, else everlytic.ledger in the working directory.",
)
@NO_LEDGER
@click.option(
    "--resend",
    type=click.Choice(["unknown", "rejected"]),
    multiple=True,
    help="Send again what the ledger says is unknown: its customer may then be notified twice. Or "
    "what it says was rejected, though it has not changed. May be given twice.",
)
@click.option(
    "--durability",
    type=click.Choice(["process", "power"]),
    help="What the ledger survives: the death of the process (the default), or also a loss of "
    "power, which costs a wait for the disk with each group of orders.",
)
@CONFIG
@ALLOW_HTTP
@click.option(
    "--yes",
    is_flag=True,
    help="Don't ask before more than 1,000 orders go to a real address.",
)
@PROGRESS
@DEBUG
@guarded
@click.pass_context
def send(context: click.Context, /, **options: Any) -> int:
    from everlytic_async.cli._send import send  # noqa: PLC0415 - not for --help
    from everlytic_async.cli._send_options import Options  # noqa: PLC0415
    from everlytic_async.cli._settings import announce  # noqa: PLC0415

    tables = ("mapping",) if options["sandbox"] else ("everlytic", "mapping")
    announce(options["config"], *tables)
    return send(Options(reading=reading(options), words=command_line(context), **options))


@app.command(help=_CHECK_HELP)
@READING_PANEL
@click.option_panel(
    "More",
    options=[
        "--ledger",
        "--no-ledger",
        "--results",
        "--append-results",
        "--config",
        "--progress",
        "--debug",
        "--help",
    ],
)
@FILE
@readable
@click.option(
    "--ledger",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="The ledger to compare with, as of `send`: it is read where it exists, and never made.",
)
@NO_LEDGER
@click.option(
    "--results",
    type=click.Path(allow_dash=True, dir_okay=False),
    metavar="FILE",
    help="Write a line of JSON for each order, as `send` does: its outcome is invalid, with all "
    "its faults, skipped, for what the ledger knows, or not_sent. A file that holds results "
    "already is refused. `-` is the standard output.",
)
@APPEND_RESULTS
@CONFIG
@PROGRESS
@DEBUG
@guarded
def check(file: str, **options: Any) -> int:
    from everlytic_async.cli._check import check  # noqa: PLC0415 - not for --help
    from everlytic_async.cli._settings import announce  # noqa: PLC0415

    announce(options["config"], "everlytic", "mapping")
    return check(file, reading(options), **options)


@app.group(help=_LEDGER_HELP)
@click.command_panel("Commands", commands=["status", "export", "resolve", "copy"])
def ledger() -> None:
    pass


_LEDGER_FILE = click.argument("file", metavar="FILE", type=click.Path())


@ledger.command(help=_STATUS_HELP)
@_LEDGER_FILE
@DEBUG
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
    type=Names(["in-flight", "sent", "rejected", "invalid", "not-sent", "unknown"]),
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
@DEBUG
@guarded
def export(**options: Any) -> int:
    from everlytic_async.cli._ledger import export  # noqa: PLC0415 - not for --help

    return export(**options)


@ledger.command(help=_RESOLVE_HELP)
@click.option_panel("What you found out", options=["--sent", "--send-again"])
@click.option_panel("Of which orders", options=["--all", "--keys-from", "--own-key", "--host"])
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
@click.option(
    "--host",
    metavar="HOST",
    help="Only those sent to this host, as `ledger export` shows it. For a ledger that serves "
    "several: a key that names orders of two is refused without it.",
)
@DEBUG
@guarded
def resolve(**options: Any) -> int:
    from everlytic_async.cli._ledger import resolve  # noqa: PLC0415 - not for --help

    return resolve(**options)


@ledger.command(help=_COPY_HELP)
@click.argument("source", type=click.Path())
@click.argument("target", type=click.Path())
@click.option(
    "--accept-loss", is_flag=True, help="Copy what is left of a ledger that lost records."
)
@DEBUG
@guarded
def copy(**options: Any) -> int:
    from everlytic_async.cli._ledger import copy  # noqa: PLC0415 - not for --help

    return copy(**options)


def _fault(name: str, kind: click.ParamType[Any], help: str, **more: Any) -> Decorator:  # noqa: A002
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
    PER_SECOND,
    "Orders per second; what is over is answered 429.",
)
@_fault("--burst", click.IntRange(min=0), "How many may run ahead of the rate.", default=1)
@_fault("--max-in-flight", click.IntRange(min=1), "How many at once; what is over: 429.")
@_fault("--seed", click.INT, "Seed of the shares: the same faults in every run.", default=0)
@PROGRESS
@DEBUG
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


for command in (enqueue, worker, queue):
    app.add_command(command)


def run() -> None:
    """Run the command with the arguments of the process, and exit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A character that the terminal doesn't know is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="everlytic-async")
