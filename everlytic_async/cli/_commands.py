"""The commands, their options and their help. What they do is imported when they run.

Those about a queue are in ``_queue_commands``. How options are declared: see ``_options``.
"""

from __future__ import annotations

import io
import sys
from functools import partial

import rich_click as click

from everlytic_async.cli._ledger_commands import add_ledger_commands
from everlytic_async.cli._options import (
    FILE,
    FILE_HELP,
    PER_SECOND,
    App,
    ConfigOptions,
    InputOptions,
    Integer,
    LedgerOptions,
    Number,
    ResultsOptions,
    SendingOptions,
    WorkflowOptions,
    command,
    ledger_option,
    option,
    options,
    settings_option,
)
from everlytic_async.cli._queue_commands import add_queue_commands

# They are in memory together.
_MAX_SHOWN = 100

_MAIN_HELP = """\
Send orders to Everlytic's order-notification workflows, safely and at the endpoint's pace.

Try it without an account, with orders as JSON, CSV or Parquet, or as a shop exports them:
    everlytic-async send --sandbox orders.jsonl

Then look for mistakes, and send to your own install:
    everlytic-async check --show 3 orders.jsonl
    export EVERLYTIC_BASE_URL=https://YOUR-INSTALL
    export EVERLYTIC_STORE_HASH=...
    export EVERLYTIC_CUSTOMER_HASH=...
    everlytic-async doctor
    everlytic-async send --to me@example.com --limit 3 orders.jsonl
    everlytic-async send orders.jsonl

Where one process is not enough, put them into a queue for workers:
    everlytic-async enqueue --embedded queue orders.jsonl
    everlytic-async worker --embedded queue
"""

_SEND_HELP = """\
Send the orders of FILE: one trigger each, so that each puts a customer into a workflow.

{file}

Invalid orders are reported with their line number, and the rest is sent. An attempt that may have
been processed is not repeated, unless `--delivery at-least-once` allows it.

Examples:
    everlytic-async send --sandbox orders.jsonl    nobody gets an e-mail
    everlytic-async send --dry-run orders.csv      read all, send nothing
    everlytic-async send --to me@example.com --limit 3 orders.csv
    everlytic-async send --limit 10 orders.csv.gz  start with a few
    everlytic-async send --map order_id=Nr --map contact_email=Mail till.csv
    everlytic-async send --rate 20 --results results.jsonl orders.json
    export-orders | everlytic-async send -

A ledger remembers what was sent: everlytic.ledger in the working directory, unless --ledger or the
settings name another. The same file sent again sends nothing twice, and a run that was
interrupted, or killed, resumes when you run it again. Where another ledger lies beside FILE or in
the working directory, no new one is started unless you name it. Without a terminal (cron, a
container) the ledger must exist, be named, or be declined with --no-ledger.

On a terminal, before more than 1,000 orders go to a real address, or where something looks wrong,
it shows how many of them the ledger knows and where the others go, and asks.

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

Ctrl-C stops reading, waits for orders in flight and prints the summary; a second Ctrl-C exits
immediately. SIGTERM does the same, and so does closing the terminal (SIGHUP).

Exit codes:
    0    every order was sent, now or before (or FILE holds none at all)
    1    some orders were not sent: running it again takes them up
    2    wrong usage or settings, unreadable input, or an unexpected error
    3    nothing more can be sent; some orders need a person: those that
         are invalid, rejected or unknown
    130  interrupted by Ctrl-C; 143 by SIGTERM; 129 by SIGHUP
""".replace("{file}", FILE_HELP.rstrip())

_CHECK_HELP = """\
Validate the orders of FILE, and send nothing. No account is needed.

{file}

Each fault is shown with the path of its field, its count, and the first lines that have it; beyond
100 different ones the rest is only counted, and --results has them all: as invalid, skipped (known
to the ledger) or not_sent.

Examples:
    everlytic-async check orders.jsonl
    everlytic-async check --include cancelled orders.json.gz
    everlytic-async check --map order_id=Nr --map contact_email=To till.csv
    everlytic-async check --suggest till.csv
    everlytic-async check --show 3 till.csv
    everlytic-async check --results faults.jsonl orders.csv
    export-orders | everlytic-async check -

If there is a ledger (see `send`), it is read, and what was sent before is shown as skipped.

An order in JSON:
    {"contact_email": "a@b.example", "products": [{"product_name": "Mop"}]}

It needs contact_email or contact_unique_id, and at least one product. A null counts as not
set; an unknown field is a fault.

Exit codes:
    0    every order is valid (or FILE holds none at all)
    1    some are not
    2    wrong usage or settings, unreadable input, or an unexpected error
    130  interrupted by Ctrl-C
""".replace("{file}", FILE_HELP.rstrip())

_DOCTOR_HELP = """\
Show what a run would use, and whether it can work: versions, the settings in use and where they
come from, whether the host can be reached with TLS, the state of the ledger.

No order is sent, and no request is made: the connection is closed again. The hashes are not shown.

Examples:
    everlytic-async doctor
    everlytic-async doctor --config shop.toml --json

Exit codes:
    0    nothing stands in the way of a run
    1    something does: the last lines say what
    2    wrong usage, or a settings file that can't be used
"""

_SANDBOX_HELP = """\
Run a stand-in for the endpoint on this machine, to try things out: nobody gets an e-mail.

It checks the headers and the orders as the endpoint's documentation asks, counts what it gets, and
fails on request. The lines that it prints on the standard output set the environment for `send`, or
for your own code in any language. Its hashes are made up, not secret.

Examples:
    everlytic-async sandbox
    everlytic-async sandbox --rate 50 --burst 10   the rest gets a 429
    everlytic-async sandbox --dropped-after 0.05   some answers are lost
    everlytic-async sandbox --port 8025 --latency 0.2

A share is of all requests, between 0 and 1; all shares are at most 1 together.

Exit codes:
    0    ended by Ctrl-C or SIGTERM, the normal end
    2    wrong usage, or it can't listen there
"""


@click.group(
    cls=App,
    help=_MAIN_HELP,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="everlytic-async", message="%(prog)s %(version)s")
@click.command_panel(
    "Commands",
    commands=["send", "check", "ledger", "doctor", "sandbox", "enqueue", "worker", "queue"],
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


@options
class SendOptions(SendingOptions, LedgerOptions, ResultsOptions, WorkflowOptions):
    """The options of ``send``."""

    sandbox: bool = option(
        "Send to a stand-in for the endpoint, started for this run. No settings are needed.",
        panel="To try it out",
        default=False,
    )
    dry_run: bool = option(
        "Read and validate everything, send nothing. Needs no settings.",
        panel="To try it out",
        default=False,
    )
    to: str | None = option(
        "Send the orders to this address, your own, in place of the customers': the last look "
        "before the real run. Only the first 3, unless --limit says otherwise. The ledger is not "
        "used.",
        panel="To try it out",
        metavar="EMAIL",
    )
    resend: tuple[str, ...] = ledger_option(
        "Send unknown orders again, whose customers may then be notified twice; or rejected ones, "
        "although they have not changed. May be repeated.",
        type=click.Choice(["unknown", "rejected"]),
        default=(),
    )
    report: str | None = settings_option(
        "Write a page (HTML) about the run when it has ended. Needs the extra `report`.", **FILE
    )
    yes: bool = option(
        "Don't ask before more than 1,000 orders go to a real address, or after a warning.",
        default=False,
    )


@options
class CheckOptions(LedgerOptions, ResultsOptions, InputOptions):
    """The options of ``check``."""

    show: int = option(
        "Show the first N orders as they would go out: each field, its value, and the column or "
        "path that it came from. These are customers' data.",
        panel="To look at it",
        type=Integer(min=0, max=_MAX_SHOWN),
        metavar="N",
        default=0,
        show_default=False,
    )
    suggest: bool = option(
        "Check nothing: propose a mapping, from the columns or keys of FILE, to paste into the "
        "TOML file. It is never used by itself.",
        panel="To look at it",
        default=False,
    )


@options
class DoctorOptions(LedgerOptions, ConfigOptions):
    """The options of ``doctor``."""

    allow_http: bool = settings_option("Allow an http:// address, as in `send`.", default=False)
    as_json: bool = option("One JSON object, for scripts.", "--json", default=False)


_at = partial(option, panel="Where")
_fault = partial(option, panel="What goes wrong", metavar="X")
_share = partial(_fault, type=Number(0, 1), default=0.0)
_SECONDS = Number(min=0)


@options
class SandboxOptions:
    """The options of ``sandbox``; the faults are called as in `everlytic_async.sandbox.Faults`."""

    host: str = _at("The address to listen at.", default="127.0.0.1")
    port: int = _at(
        "The port to listen at. By default a free one.",
        type=Integer(0, 65535),
        default=0,
        show_default=False,
    )
    latency_s: float = _fault(
        "Seconds that each request takes.", "--latency", type=_SECONDS, default=0.0
    )
    latency_jitter_s: float = _fault(
        "Up to that many more seconds, at random.", "--latency-jitter", type=_SECONDS, default=0.0
    )
    throttled: float = _share("Share answered 429, too many requests.")
    retry_after_s: float | None = _fault(
        "Seconds to wait, sent with each 429 and 503.", "--retry-after", type=_SECONDS
    )
    unavailable: float = _share("Share answered 503.")
    server_error: float = _share("Share answered 500, half of it once processed.")
    dropped_before: float = _share("Share not answered, and not processed.")
    dropped_after: float = _share("Share not answered, but processed.")
    rate: float | None = _fault("Orders per second; the rest gets a 429.", type=PER_SECOND)
    burst: int = _fault("How many may exceed the rate.", type=Integer(min=0), default=1)
    max_in_flight: int | None = _fault("How many at once; more get 429.", type=Integer(min=1))
    seed: int = _fault(
        "Seed of the shares: the same faults in every run.", type=click.INT, default=0
    )


command(app, "send", SendOptions, "_send.send", _SEND_HELP)
command(app, "check", CheckOptions, "_check.check", _CHECK_HELP)


add_ledger_commands(app)
command(app, "doctor", DoctorOptions, "_doctor.doctor", _DOCTOR_HELP)
command(app, "sandbox", SandboxOptions, "_sandbox.serve", _SANDBOX_HELP)
add_queue_commands(app)


def run() -> None:
    """Run the command with the arguments of the process, and exit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A character that the terminal doesn't know must not end the command.
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="everlytic-async")
