"""How options are declared: once, as a field of the frozen object that the command receives.

A class of options is a frozen dataclass. Its fields are made by `option` and `argument`, which say
how click parses it; `command` makes a command of such a class and a function. What several
commands share is in the classes below, to inherit from. Loaded by ``--help``, so without attrs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import rich_click as click
from click.core import ParameterSource

from everlytic_async.cli._exit import handle_errors

__all__ = [
    "EXIT_CODES",
    "FILE_HELP",
    "PER_SECOND",
    "ConfigOptions",
    "HyphenChoice",
    "InputOptions",
    "LedgerOptions",
    "Number",
    "ProgressOptions",
    "ResultsOptions",
    "SendingOptions",
    "WorkflowOptions",
    "argument",
    "command",
    "command_line",
    "option",
    "options",
]

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
the standard input. The format is detected; --format overrides it. --map, or a table [mapping] in
the TOML file, maps other column names.
"""

#: The panels of the help, in the order in which they are shown.
_PANELS = (
    "To try it out",
    "Where the queue is",
    "How to read FILE",
    "Which orders",
    "What it serves",
    "What you found out",
    "Where",
    "What goes wrong",
    "How to send",
    "The ledger",
    "Settings and results",
    "More",
)
_MAX_CONNECTIONS = 65_535

T = TypeVar("T")

# ------------------------------------------------------------------------------ how to declare

#: The decorator of a class of options.
options = dataclass(frozen=True, kw_only=True)


def option(*names: str, panel: str = "More", help: str, **settings: Any) -> Any:  # noqa: A002 - as click
    """A field that is an option.

    Args:
        names: How it is written, such as ``--rate``.
        panel: Where the help shows it: one of `_PANELS`.
        help: What it does.
        settings: What else `click.option` takes.
    """
    if settings.get("multiple"):
        default: Any = ()
    else:
        default = settings.get("default", False if settings.get("is_flag") else None)
    declaration = (click.option, names, {"help": help, **settings})
    return dataclasses.field(default=default, metadata={"click": declaration, "panel": panel})


def argument(metavar: str, **settings: Any) -> Any:
    """A field that is an argument; `settings` are those of `click.argument`."""
    declaration = (click.argument, (), {"metavar": metavar, **settings})
    return dataclasses.field(metadata={"click": declaration})


def command(
    group: click.RichGroup,
    options_type: type[T],
    help: str,  # noqa: A002 - as click
    name: str | None = None,
) -> Callable[[Callable[[T], int]], Callable[[T], int]]:
    """Make a command of a function that takes its options and returns its exit code."""

    def register(function: Callable[[T], int]) -> Callable[[T], int]:
        def run(*, debug: bool, **values: Any) -> None:
            handle_errors(lambda: function(options_type(**values)), debug=debug)

        decorated: Callable[..., Any] = run
        for decorator in reversed(_decorators(options_type)):
            decorated = decorator(decorated)
        group.command(name or function.__name__, help=help)(decorated)
        return function

    return register


def _decorators(options_type: type[Any]) -> list[Callable[..., Any]]:
    parameters: list[Callable[..., Any]] = []
    panels: dict[str, list[str]] = {name: [] for name in _PANELS}
    for field in dataclasses.fields(options_type):
        declare, names, settings = field.metadata["click"]
        parameters.append(declare(*names, field.name, **settings))
        if names:
            panels[field.metadata["panel"]].append(names[0].partition("/")[0])
    parameters.append(click.option("--debug", is_flag=True, help="Show the traceback of an error."))
    panels["More"] += ["--debug", "--help"]
    return parameters + [
        click.option_panel(name, options=names) for name, names in panels.items() if names
    ]


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


# --------------------------------------------------------------------------------------- types


class HyphenChoice(click.Choice[str]):
    """Takes the library's spelling too: ``at_most_once`` for ``at-most-once``."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the choice, with hyphens."""
        return super().convert(str(value).replace("_", "-"), param, ctx)


class Number(click.FloatRange):
    """Refuses NaN, which is in every range, and the infinities."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a finite number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class _Connections(click.IntRange):
    """Says why there is an upper bound."""

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


PER_SECOND = Number(min=0, min_open=True)

# ---------------------------------------------------------------- what several commands share


@options
class ConfigOptions:
    """Where the settings are."""

    config: str | None = option(
        "--config",
        panel="Settings and results",
        type=click.Path(dir_okay=False),
        metavar="FILE",
        help="The TOML file with the settings, and the only one that is read; `none` for no file. "
        "Without it: everlytic-async/everlytic.toml in your directory for settings (~/.config on "
        "Linux), else ./everlytic.toml. A complete account in the environment wins over all files.",
    )


@options
class ProgressOptions:
    """What is shown while the command runs."""

    progress: bool = option(
        "--progress/--no-progress",
        default=True,
        help="Show the progress: only on a terminal, on the standard error.",
    )


@options
class InputOptions(ConfigOptions, ProgressOptions):
    """What is read, and how."""

    file: str = argument("FILE", type=click.Path(allow_dash=True))
    format: str | None = option(
        "--format",
        panel="How to read FILE",
        metavar="NAME",
        help="What FILE is: jsonl, json, csv, tsv or parquet, with the endpoint's names or those "
        "of the mapping; or a shop's export: woocommerce, shopify, shopify-csv or magento. Without "
        "it, the format is detected.",
    )
    maps: tuple[str, ...] = option(
        "--map",
        panel="How to read FILE",
        multiple=True,
        metavar="FIELD=PATH",
        help="Where a field comes from: a column, or a path such as billing.email; PATH|PATH is "
        "the first that is set; a text with {path} in it is a template; FIELD:=17 a constant; "
        "FIELD= is not set. products=PATH leads to the list of products, date=PATH to the time of "
        "the order. Once for each field; it wins over the table [mapping] of the TOML file.",
    )
    since: str | None = option(
        "--since",
        panel="How to read FILE",
        metavar="TIME",
        help="Leave out orders before that time: 2026-03-01, or 2026-03-01T08:00+02:00. Without "
        "an offset it is UTC.",
    )
    until: str | None = option(
        "--until",
        panel="How to read FILE",
        metavar="TIME",
        help="Leave out orders at that time or after it.",
    )
    include: tuple[str, ...] = option(
        "--include",
        panel="How to read FILE",
        multiple=True,
        metavar="REASON",
        help="Include orders of a shop's export that are left out otherwise: cancelled, refunded, "
        "failed, unpaid, draft, trash, voided, test, fraud; or all. May be given several times.",
    )


@options
class WorkflowOptions(InputOptions):
    """Which orders are read, and what workflow they trigger."""

    limit: int | None = option(
        "--limit",
        panel="Which orders",
        type=click.IntRange(min=1),
        metavar="N",
        help="Read no more than the first N orders, valid or not.",
    )
    workflow_id: int | None = option(
        "--workflow-id",
        panel="Which orders",
        type=click.IntRange(1, 2**63 - 1),
        metavar="N",
        help="The workflow to trigger for the orders that name none.",
    )


@options
class ResultsOptions:
    """Where a line for each order goes."""

    results: str | None = option(
        "--results",
        panel="Settings and results",
        type=click.Path(allow_dash=True, dir_okay=False),
        metavar="FILE",
        help="Write a line of JSON for each order as it ends: index, line, key, outcome, attempts, "
        "error, duplicate_risk. A file that holds results already is refused. `-` is the standard "
        "output; the summary then goes to the standard error.",
    )
    append_results: bool = option(
        "--append-results",
        panel="Settings and results",
        is_flag=True,
        help="Append to what --results holds already, instead of refusing such a file.",
    )


@options
class LedgerOptions:
    """Which ledger is used."""

    ledger: str | None = option(
        "--ledger",
        panel="The ledger",
        type=click.Path(dir_okay=False),
        metavar="FILE",
        help="The file that remembers the outcome of every order; what it says was sent, or may "
        "have been, is skipped. `send` creates it; keep it on a disk of this machine. Without this "
        "option: `ledger` in the settings, else everlytic.ledger in the working directory.",
    )
    no_ledger: bool = option(
        "--no-ledger",
        panel="The ledger",
        is_flag=True,
        help="Remember nothing and ask no ledger: the same orders sent again then notify again.",
    )


@options
class SendingOptions(ConfigOptions):
    """How orders are sent."""

    concurrency: int = option(
        "--concurrency",
        panel="How to send",
        type=_Connections(min=1),
        metavar="N",
        default=32,
        show_default=True,
        help="How many orders may be in flight at once.",
    )
    rate: float | None = option(
        "--rate",
        panel="How to send",
        type=PER_SECOND,
        metavar="N",
        help="The most orders per second, evenly spread. Without it, the endpoint's limit is "
        "found.",
    )
    delivery: str = option(
        "--delivery",
        panel="How to send",
        type=HyphenChoice(["at-most-once", "at-least-once"]),
        default="at-most-once",
        show_default=True,
        help="After a lost answer: never send the order again, or do, and perhaps notify twice.",
    )
    retries: int = option(
        "--retries",
        panel="How to send",
        type=click.IntRange(min=0),
        metavar="N",
        default=4,
        show_default=True,
        help="How often an order is retried, where --delivery allows it.",
    )
    durability: str | None = option(
        "--durability",
        panel="The ledger",
        type=click.Choice(["process", "power"]),
        help="What the ledger in a file survives: the death of the process (the default), or also "
        "a loss of power, which costs a wait for the disk with each group of orders.",
    )
    allow_http: bool = option(
        "--allow-http",
        panel="Settings and results",
        is_flag=True,
        help="Allow an http:// address: anybody on the way can then read the hashes and the "
        "orders.",
    )
