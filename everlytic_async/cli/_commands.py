"""The commands, their options and their help. What they do is imported when they run."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any

import rich_click as click

from everlytic_async.cli._exit import guarded

__all__ = ["app", "run"]

_Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_EXIT_CODES = """\
Exit codes:
    0    {good}
    1    {bad}
    2    wrong usage or settings, or unreadable input: {none}
    130  interrupted by Ctrl-C{terminated}
"""

_MAIN_HELP = """\
Send orders to Everlytic's order-notification workflows, safely and at the endpoint's pace.

Try it without an account; the file holds an order, as JSON, on each line:
    everlytic-async send --sandbox orders.jsonl

Then look for mistakes, and send to your own install:
    everlytic-async check orders.jsonl
    export EVERLYTIC_BASE_URL=https://YOUR-INSTALL
    export EVERLYTIC_STORE_HASH=...
    export EVERLYTIC_CUSTOMER_HASH=...
    everlytic-async send --limit 10 --results results.jsonl orders.jsonl
"""

_SEND_HELP = """\
Send the orders of FILE: one trigger each, so that each puts a customer into a workflow.

FILE is JSON Lines in UTF-8: one order, a JSON object, on each line. `-` is the standard input.
A line that is no valid order is reported with its number, and the rest is sent. An attempt that may
have been processed is not repeated, unless `--delivery at-least-once` allows it.

Examples:
    everlytic-async send --sandbox orders.jsonl    nobody gets an e-mail
    everlytic-async send --dry-run orders.jsonl    read all, send nothing
    everlytic-async send --limit 10 orders.jsonl   begin with a few
    everlytic-async send --rate 20 --results results.jsonl orders.jsonl
    export-orders | everlytic-async send -

The address and the hashes come from the environment, never from arguments:
    EVERLYTIC_BASE_URL       the install, such as https://shop.everlytic.net
    EVERLYTIC_STORE_HASH     from the store's page in Everlytic
    EVERLYTIC_CUSTOMER_HASH  from the same page

or, where the environment has none, from a TOML file:
    [everlytic]
    base_url = "https://shop.everlytic.net"
    store_hash = "..."
    customer_hash = "..."

Ctrl-C ends the reading, lets what is in flight finish, and shows the summary; a second one leaves
at once. SIGTERM does the same.

""" + _EXIT_CODES.format(
    good="every order was sent (or FILE holds none at all)",
    bad="some orders were not sent; the summary says why",
    none="nothing was sent",
    terminated="; 143 by SIGTERM",
)

_CHECK_HELP = """\
Validate the orders of FILE, and send nothing. No account is needed.

FILE is JSON Lines in UTF-8: one order, a JSON object, on each line. `-` is the standard input.
Every fault is shown with the path of its field, how often it is there, and the first lines that
have it.

Examples:
    everlytic-async check orders.jsonl
    export-orders | everlytic-async check -

An order:
    {"contact_email": "a@example.com", "products": [{"product_name": "Mop"}]}

It needs contact_email or contact_unique_id, and at least one product. A null counts as not
set; a field that is not known is a fault.

""" + _EXIT_CODES.format(
    good="every order is valid (or FILE holds none at all)",
    bad="some are not",
    none="not all was checked",
    terminated="",
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


class _Delivery(click.Choice[str]):
    """Takes the library's spelling too."""

    name = "delivery"

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


@click.group(help=_MAIN_HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="everlytic-async", message="%(prog)s %(version)s")
@click.command_panel("Commands", commands=["send", "check", "sandbox"])
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
@click.option_panel(
    "How to send",
    options=["--concurrency", "--rate", "--delivery", "--retries", "--workflow-id"],
)
@click.option_panel("Settings and results", options=["--results", "--config", "--allow-http"])
@click.option_panel("More", options=["--progress", "--debug", "--help"])
@_FILE
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
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="Read no more than the first N orders, valid or not.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    metavar="N",
    default=32,
    show_default=True,
    help="How many orders may be in flight at once.",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="The most orders per second, evenly spread. Without it, the endpoint's limit is found.",
)
@click.option(
    "--delivery",
    type=_Delivery(["at-most-once", "at-least-once"]),
    default="at-most-once",
    show_default=True,
    help="After an answer that was lost: never send the order again, or do, and perhaps notify "
    "twice.",
)
@click.option(
    "--retries",
    type=click.IntRange(min=0),
    metavar="N",
    default=4,
    show_default=True,
    help="How often an order is tried again, where --delivery allows it.",
)
@click.option(
    "--workflow-id",
    type=click.IntRange(min=1),
    metavar="N",
    help="The workflow to trigger for the orders that name none.",
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
    "--config",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="The TOML file with the settings. Without it: ./everlytic.toml, else everlytic.toml in "
    "everlytic-async in your directory for settings (~/.config on Linux).",
)
@click.option(
    "--allow-http",
    is_flag=True,
    help="Allow an http:// address: anybody on the way can then read the hashes and the orders.",
)
@_PROGRESS
@_DEBUG
@guarded
def send(**options: Any) -> int:
    from everlytic_async.cli._send import Options, send  # noqa: PLC0415 - not for --help

    return send(Options(**options))


@app.command(help=_CHECK_HELP)
@_FILE
@_PROGRESS
@_DEBUG
@guarded
def check(file: str, *, progress: bool) -> int:
    from everlytic_async.cli._check import check  # noqa: PLC0415 - not for --help

    return check(file, progress=progress)


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


def run() -> None:
    """Run the command with the arguments of the process, and exit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A character that the terminal doesn't know is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="everlytic-async")
