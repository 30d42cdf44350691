"""How options are declared: once, as a field of the frozen object that the command receives.

A class of options is a frozen dataclass. Its fields are made by `option` and `argument`, which say
how click parses it; `command` adds a command of such a class and a function. What several
commands share is in the classes below, to inherit from. Loaded by ``--help``, so without attrs.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import rich_click as click

from everlytic_async.cli._exit import handle_errors
from everlytic_async.errors import ConfigurationError, printable

FILE_HELP = """\
FILE holds orders as JSON Lines, JSON, CSV, TSV, Excel or Parquet, plain or packed with gzip or
zstd, with the endpoint's names for its fields; or it is an export of WooCommerce, Shopify, Magento,
Squarespace or BigCommerce. `-` is the standard input. The format is detected; --format overrides
it. --map, or a table [mapping] in the TOML file, maps other column names: `check --suggest`
proposes one.
"""

#: The panels of the help, in the order in which they are shown.
_PANELS = (
    "To look at it",
    "To try it out",
    "Where the queue is",
    "How to read the orders",
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
_WORDS = "everlytic_async.words"
# Each order in flight has a connection, and no address takes more of them than there are ports.
_MAX_CONNECTIONS = 65_535

# ------------------------------------------------------------------------------ how to declare

#: The decorator of a class of options.
options = dataclass(frozen=True, kw_only=True)


def option(
    text: str, *names: str, panel: str = "More", default: Any = None, **settings: Any
) -> Any:
    """A field that is an option: a flag where its default is a boolean, repeatable where it is ().

    `names` is how it is written, by default as its field; `panel`, one of `_PANELS`, where the help
    shows it; `settings`, what else `click.option` takes.
    """
    settings |= {"help": text, "is_flag": isinstance(default, bool), "multiple": default == ()}
    if default is not None and default is not False and default != ():
        settings = {"show_default": True, **settings, "default": default}
    return dataclasses.field(
        default=default, metadata={"click": (click.option, names, settings), "panel": panel}
    )


def argument(metavar: str, **settings: Any) -> Any:
    """A field that is an argument; `settings` are those of `click.argument`."""
    return dataclasses.field(
        metadata={"click": (click.argument, (), {"metavar": metavar, **settings})}
    )


def command(
    group: click.RichGroup,
    name: str,
    options_type: type[Any],
    function: str,
    help: str,  # noqa: A002 - as click
    *,
    extra: str | None = None,
) -> None:
    """Add a command to a group.

    `function` is what runs, as ``module.function`` of this package, imported not before. It takes
    the options, and returns the exit code; it may be a coroutine function. `extra` is the package
    that it needs, and the extra of the same name.
    """

    def run(*, debug: bool, **values: Any) -> None:
        handle_errors(lambda: _run(function, options_type(**values), extra), debug=debug)

    decorated: Callable[..., Any] = run
    for decorator in reversed(_decorators(options_type)):
        decorated = decorator(decorated)
    group.command(name, help=help)(decorated)


def _run(function: str, values: Any, extra: str | None) -> int:
    if extra is not None and find_spec(extra) is None:
        raise ConfigurationError(
            f"a queue needs more packages: pip install 'everlytic-async[cli,{extra}]'"
        )
    module, name = function.split(".")
    code: int | Coroutine[Any, Any, int]
    code = getattr(import_module(f"{__package__}.{module}"), name)(values)
    return code if isinstance(code, int) else import_module("asyncio").run(code)


def _decorators(options_type: type[Any]) -> list[Callable[..., Any]]:
    parameters: list[Callable[..., Any]] = []
    panels: dict[str, list[str]] = {name: [] for name in _PANELS}
    for field in dataclasses.fields(options_type):
        declare, names, settings = field.metadata["click"]
        if declare is click.option:
            names = names or (f"--{field.name.replace('_', '-')}",)
            panels[field.metadata["panel"]].append(names[0].partition("/")[0])
        parameters.append(declare(*names, field.name, **settings))
    parameters.append(click.option("--debug", is_flag=True, help="Show the traceback of an error."))
    panels["More"] += ["--debug", "--help"]
    return parameters + [
        click.option_panel(name, options=names) for name, names in panels.items() if names
    ]


class App(click.RichGroup):
    """The command; it remembers how it was called."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> Any:
        """Called by click."""
        words = (str(info_name), *args)
        context = super().make_context(info_name, args, *rest, **extra)
        context.meta[_WORDS] = words
        return context


def command_with(*more: str, without: str = "") -> str:
    """The command that runs, to copy: with more options, and without one and its value."""
    context: Any = click.get_current_context()
    name, *rest = context.meta.get(_WORDS, (context.command_path,))
    words, kept = iter(rest[1:]), []
    for word in words:
        if word == without:
            next(words, None)
        elif not (without and word.startswith(f"{without}=")):
            kept.append(word)
    return quote(name, *rest[:1], *more, *kept)


def quote(*words: str) -> str:
    """Words as they are written in a shell, fit for a terminal."""
    return " ".join(shlex.quote(printable(word)) for word in words)


def words_of(values: Any, options_type: type[Any]) -> list[str]:
    """The options of a class that differ from their defaults, as they are written in a command."""
    words = []
    for field in dataclasses.fields(options_type):
        _declare, names, _settings = field.metadata["click"]
        value = getattr(values, field.name)
        if value != field.default:
            for each in value if isinstance(value, tuple) else (value,):
                words += [*(names or [f"--{field.name.replace('_', '-')}"]), str(each)]
    return words


# --------------------------------------------------------------------------------------- types


class Choice(click.Choice[str]):
    """Takes the library's spelling, too: ``at_most_once`` for ``at-most-once``."""

    def normalize_choice(self, choice: object, ctx: click.Context | None) -> str:
        """Called by click."""
        return super().normalize_choice(choice, ctx).replace("_", "-")


class Integer(click.IntRange):
    """One whose error calls it a number."""

    name = "whole number"


class Number(click.FloatRange):
    """Refuses NaN, which is in every range, and the infinities."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a finite number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


PER_SECOND = Number(min=0, min_open=True)


def _completing(names: str) -> Callable[..., list[str]]:
    """What the shell completes: a tuple of `everlytic_async.sources`, imported when it asks."""

    def complete(_context: object, _parameter: object, incomplete: str) -> list[str]:
        sources = import_module("everlytic_async.sources")
        return [each for each in getattr(sources, names) if each.startswith(incomplete)]

    return complete


# ---------------------------------------------------------------- what several commands share

FILE: dict[str, Any] = {"type": click.Path(dir_okay=False), "metavar": "FILE"}
FILE_OR_DASH: dict[str, Any] = {**FILE, "type": click.Path(allow_dash=True, dir_okay=False)}
_reading = partial(option, panel="How to read the orders")
_sending = partial(option, panel="How to send")
which = partial(option, panel="Which orders")
ledger_option = partial(option, panel="The ledger")
settings_option = partial(option, panel="Settings and results")


@options
class ConfigOptions:
    """Where the settings are."""

    config: str | None = settings_option(
        "The TOML file with the settings, and the only one that is read; `none` for no file. "
        "Without it: everlytic-async/everlytic.toml in your directory for settings (~/.config on "
        "Linux), else ./everlytic.toml. A complete account in the environment wins over all files.",
        **FILE,
    )


_FORMAT = (
    "What {} is: jsonl, json, csv, tsv, xlsx or parquet, with the endpoint's names or those of the "
    "mapping; or a shop's export: woocommerce, woocommerce-csv, woocommerce-items-csv, shopify, "
    "shopify-graphql, shopify-csv, squarespace, magento, magento-csv or bigcommerce. Without it, "
    "the format is detected."
)


@options
class ReadingOptions(ConfigOptions):
    """How orders are read."""

    maps: tuple[str, ...] = _reading(
        "Where a field comes from: a column, or a path such as billing.email; PATH|PATH is "
        "the first that is set; a text with {path} in it is a template; FIELD:=17 a constant; "
        "FIELD= is not set. products=PATH leads to the list of products, date=PATH to the time of "
        "the order. Once for each field; it wins over the table [mapping] of the TOML file.",
        "--map",
        default=(),
        metavar="FIELD=PATH",
    )
    where: tuple[str, ...] = _reading(
        "Read only orders with one of these values in a column or at a path, such as "
        "Status=completed,processing; or with none of them: Status!=cancelled. An empty value "
        "means blank. If repeated, all must hold. It replaces the table [where] of the TOML file.",
        default=(),
        metavar="CONDITION",
    )
    since: str | None = _reading(
        "Leave out orders before that time: 2026-03-01, or 2026-03-01T08:00+02:00. Without "
        "an offset it is UTC.",
        metavar="TIME",
    )
    until: str | None = _reading("Leave out orders at that time or after it.", metavar="TIME")
    include: tuple[str, ...] = _reading(
        "Include orders of a shop's export that are left out otherwise: cancelled, refunded, "
        "failed, unpaid, draft, completed draft, abandoned checkout, trash, voided, test, fraud; "
        "or all. May be repeated.",
        default=(),
        metavar="REASON",
        shell_complete=_completing("REASONS"),
    )
    encoding: str | None = _reading(
        "The encoding of its text, such as cp1252; by default UTF-8, or as a byte-order mark says. "
        "This option and the next four may also be in the table [input] of the TOML file.",
        metavar="NAME",
    )
    decimal: str | None = _reading(
        "The decimal separator of amounts: . or ,", type=click.Choice([".", ","])
    )
    thousands: str | None = _reading(
        "The thousands separator of amounts: , or . or ' or a blank.", metavar="CHARACTER"
    )
    date_format: str | None = _reading(
        "How times are written, such as %d.%m.%Y; by default as 2026-03-01T08:00.",
        metavar="FORMAT",
    )
    sheet: str | None = _reading(
        "The sheet of an Excel workbook; by default the first that is not hidden.", metavar="NAME"
    )


@options
class InputOptions(ReadingOptions):
    """What is read, and how."""

    file: str = argument("FILE", type=click.Path(allow_dash=True))
    format: str | None = _reading(
        _FORMAT.format("FILE"), metavar="NAME", shell_complete=_completing("FORMATS")
    )


@options
class JoinOptions(ReadingOptions):
    """Another input that is read to look up orders in it."""

    with_file: str | None = option(
        "Add to each line what that file says of the order: contact_email, contact_unique_id, "
        "order_id, total, order_link_url and the line. These are customers' data.",
        "--with",
        **FILE_OR_DASH,
    )
    with_format: str | None = _reading(
        _FORMAT.format("that file"), metavar="NAME", shell_complete=_completing("FORMATS")
    )


@options
class WorkflowOptions(InputOptions):
    """Which orders are read, and what workflow they trigger."""

    limit: int | None = which(
        "Read no more than the first N orders, valid or not.",
        type=Integer(min=1),
        metavar="N",
    )
    workflow_id: int | None = which(
        "The workflow to trigger for the orders that name none.",
        type=Integer(1, 2**63 - 1),
        metavar="N",
    )


@options
class ResultsOptions:
    """What is shown of a run, and where a line for each order goes."""

    progress: bool = option(
        "Show the progress: only on a terminal, on the standard error.",
        "--progress/--no-progress",
        default=True,
        show_default=False,
    )
    results: str | None = settings_option(
        "Write a line of JSON for each order as it ends: index, line, key, outcome, attempts, "
        "error, duplicate_risk. A file that holds results already is refused. `-` is the standard "
        "output; the summary then goes to the standard error.",
        **FILE_OR_DASH,
    )
    quiet: bool = option(
        "Print nothing but warnings, errors and what has to be done; and what --json and "
        "--results - ask for.",
        "--quiet",
        "-q",
        default=False,
    )
    as_json: bool = settings_option(
        "Print one JSON object with the counts on the standard output, for scripts. The summary "
        "goes to the standard error.",
        "--json",
        default=False,
    )
    append_results: bool = settings_option(
        "Append to the results of an earlier run in the file of --results.",
        default=False,
    )


@options
class LedgerOptions:
    """Which ledger is used."""

    ledger: str | None = ledger_option(
        "The file that remembers the outcome of every order; what it says was sent, or may "
        "have been, is skipped. `send` creates it; keep it on a disk of this machine. Without this "
        "option: `ledger` in the settings, else everlytic.ledger in the working directory.",
        **FILE,
    )
    no_ledger: bool = ledger_option(
        "Remember nothing: the same orders sent again then notify again.",
        default=False,
    )


@options
class SendingOptions(ConfigOptions):
    """How orders are sent."""

    concurrency: int = _sending(
        "How many orders may be in flight at once.",
        type=Integer(1, _MAX_CONNECTIONS),
        metavar="N",
        default=32,
    )
    rate: float | None = _sending(
        "At most N orders per second, evenly spread. Without it, the endpoint's limit is found.",
        type=PER_SECOND,
        metavar="N",
    )
    delivery: str = _sending(
        "If the answer to an order was lost: never send it again, or do, and perhaps notify twice.",
        type=Choice(["at-most-once", "at-least-once"]),
        default="at-most-once",
    )
    retries: int = _sending(
        "How often to retry an order, where --delivery allows it.",
        type=Integer(min=0),
        metavar="N",
        default=4,
    )
    durability: str | None = ledger_option(
        "What the ledger in a file survives: the end of the process (the default), or also a power "
        "failure, which is slower.",
        type=click.Choice(["process", "power"]),
    )
    allow_http: bool = settings_option(
        "Allow an http:// address: anybody on the way can then read the hashes and the orders.",
        default=False,
    )
