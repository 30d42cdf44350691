"""What several commands have in common: options, and parts of their help."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import rich_click as click
from click.core import ParameterSource

__all__ = [
    "ALLOW_HTTP",
    "APPEND_RESULTS",
    "CONFIG",
    "DEBUG",
    "EXIT_CODES",
    "FILE",
    "FILE_HELP",
    "LIMIT",
    "NO_LEDGER",
    "PER_SECOND",
    "PROGRESS",
    "READING_PANEL",
    "WORKFLOW",
    "Command",
    "Decorator",
    "Names",
    "Number",
    "command_line",
    "readable",
    "reading",
    "sendable",
]

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]

EXIT_CODES = """\
Exit codes:
    0    {good}
    1    {bad}
    2    wrong usage or settings, or unreadable input: {none}
    130  interrupted by Ctrl-C{terminated}
"""

FILE_HELP = """\
FILE holds orders as JSON Lines, JSON, CSV, TSV or Parquet, plain or packed with gzip or zstd, with
the endpoint's names for its fields; or it is an export of WooCommerce, Shopify or Magento. `-` is
the standard input. What it is shows by its content; --format says it outright, and --map, or a
table [mapping] in the TOML file, what other columns mean.
"""


class Names(click.Choice[str]):
    """Takes the library's spelling too."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Take ``at_most_once`` for ``at-most-once``."""
        return super().convert(str(value).replace("_", "-"), param, ctx)


class Number(click.FloatRange):
    """Takes no NaN, which is in every range, and no infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what is not finite."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class _Connections(click.IntRange):
    """Says why there is an upper end."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if number > _MAX_CONNECTIONS:
            self.fail(
                f"{value} is more than {_MAX_CONNECTIONS}: each order in flight has a connection, "
                "and no address takes more of them than there are ports.",
                param,
                ctx,
            )
        return number


_MAX_CONNECTIONS = 65_535
PER_SECOND = Number(min=0, min_open=True)
FILE = click.argument("file", metavar="FILE", type=click.Path(allow_dash=True))
DEBUG = click.option("--debug", is_flag=True, help="Show the traceback of an error.")
PROGRESS = click.option(
    "--progress/--no-progress",
    default=True,
    help="Show what goes on while it does: only on a terminal, on the standard error.",
)
CONFIG = click.option(
    "--config",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="The TOML file with the settings, and the only one that is read; `none` for no file. "
    "Without it: everlytic-async/everlytic.toml in your directory for settings (~/.config on "
    "Linux), else ./everlytic.toml. A complete account in the environment comes before all files.",
)
APPEND_RESULTS = click.option(
    "--append-results",
    is_flag=True,
    help="Write behind what --results holds already, instead of refusing such a file.",
)
NO_LEDGER = click.option(
    "--no-ledger",
    is_flag=True,
    help="Remember nothing and ask no ledger: the same orders sent again then notify again.",
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
READING_PANEL = click.option_panel(
    "How to read FILE", options=["--format", "--map", "--since", "--until", "--include"]
)


def command_line(context: click.Context) -> list[str]:
    """The words that run this command again as it was run, options in the order of their use."""
    words = context.command_path.split()
    arguments = []
    parameters = {parameter.name: parameter for parameter in context.command.params}
    for name, value in context.params.items():
        parameter = parameters[name]
        if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        if isinstance(parameter, click.Argument):
            arguments.append(str(value))
        elif isinstance(parameter, click.Option) and parameter.is_flag:
            words.append((parameter.opts if value else parameter.secondary_opts)[0])
        else:
            for each in value if parameter.multiple else [value]:
                words += [parameter.opts[0], _plain(each)]
    if any(argument.startswith("-") and argument != "-" for argument in arguments):
        arguments.insert(0, "--")
    return words + arguments


def _plain(value: object) -> str:
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def readable(command: Command) -> Command:
    """Give a command the options on how its input is read."""
    for option in reversed(_READING):
        command = option(command)
    return command


def reading(options: dict[str, Any]) -> Any:
    """What they say."""
    from everlytic_async.cli._input import Reading  # noqa: PLC0415 - not for --help

    names = ("format", "maps", "since", "until", "include")
    return Reading.of(config=options["config"], **{name: options.pop(name) for name in names})


_SENDING = (
    click.option(
        "--concurrency",
        type=_Connections(min=1),
        metavar="N",
        default=32,
        show_default=True,
        help="How many orders may be in flight at once.",
    ),
    click.option(
        "--rate",
        type=PER_SECOND,
        metavar="N",
        help="The most orders per second, evenly spread. Without it, the endpoint's limit is "
        "found.",
    ),
    click.option(
        "--delivery",
        type=Names(["at-most-once", "at-least-once"]),
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
LIMIT = click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="Read no more than the first N orders, valid or not.",
)
ALLOW_HTTP = click.option(
    "--allow-http",
    is_flag=True,
    help="Allow an http:// address: anybody on the way can then read the hashes and the orders.",
)
WORKFLOW = click.option(
    "--workflow-id",
    type=click.IntRange(1, 2**63 - 1),
    metavar="N",
    help="The workflow to trigger for the orders that name none.",
)


def sendable(command: Command) -> Command:
    """Give a command the options on how orders are sent."""
    for option in reversed(_SENDING):
        command = option(command)
    return command
