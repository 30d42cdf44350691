"""The commands about a ledger: ``ledger status``, ``export``, ``resolve``, ``copy``.

See ``_commands``.
"""

from __future__ import annotations

import rich_click as click

from everlytic_async.cli._options import (
    Choice,
    JoinOptions,
    argument,
    command,
    option,
    options,
    which,
)

_LEDGER_HELP = """\
Inspect a ledger, the file that `send` keeps, and resolve unknown orders.

It has for every order its key, state, attempts, the status of the last answer, why it was not sent,
and when. It holds no e-mail address, no order and no hash.

Examples:
    everlytic-async ledger status orders.ledger
    everlytic-async ledger export --state unknown orders.ledger
    everlytic-async ledger resolve orders.ledger --sent '#1051' '#1052'

Exit codes:
    0    done
    1    some orders were left alone (`resolve`)
    2    wrong usage, or no ledger that can be used
"""

_STATUS_HELP = """\
Show how many orders of the ledger FILE are in which state, since when, to which hosts, and how many
processes are sending with it now.

You can run it at any time, also while orders are being sent: to see the progress of a backfill that
runs elsewhere, or what a killed run has left.

Examples:
    everlytic-async ledger status orders.ledger

Exit codes:
    0    shown
    2    wrong usage, or no ledger that can be used
"""

_EXPORT_HELP = """\
Write a line for each order that the ledger FILE knows: host, key, state, attempts, status, reason,
and when that was recorded (in UTC). An order that was tried with several store hashes, one of them
perhaps mistyped, has a line for each.

To compare with Everlytic or the shop: above all the unknown ones, because only a person can find
out whether their e-mails went out. --with FILE adds the contact and the order to look for, from the
file that was sent.

Examples:
    everlytic-async ledger export orders.ledger
    everlytic-async ledger export --format csv orders.ledger > orders.csv
    everlytic-async ledger export --state unknown --with a.csv orders.ledger

Exit codes:
    0    written
    2    wrong usage, no usable ledger, or the output can't be written
"""

_COPY_HELP = """\
Copy the ledger SOURCE to a new file TARGET, also while it is in use.

For a backup, and to make an independent ledger of one that has two names (hard links), which is
refused otherwise. A copy made in another way may lack what is in the log beside the ledger. The
copy knows nothing of what is sent later: send with one of the two only. Orders in flight are
unknown in the copy.

A ledger whose last records are lost is refused as well: orders that it does not know of may have
been sent. With --accept-loss what is left is copied. First find out in Everlytic which orders were
sent since the run that was interrupted: those would be sent again.

Examples:
    everlytic-async ledger copy orders.ledger backup.ledger
    everlytic-async ledger copy --accept-loss orders.ledger rescued.ledger

Exit codes:
    0    copied
    2    wrong usage, no usable ledger, or there is a file at TARGET
"""

_RESOLVE_HELP = """\
Record in the ledger FILE what became of unknown orders: they were sent, or should be sent again.

An order is "unknown" if the answer was lost or the process was killed while sending it. It is not
sent again by itself, because its customer may have been notified. Find out in Everlytic which of
them triggered the workflow; then mark those as sent, and the others to be sent again: the next
`send` sends them. Without checking, --send-again may notify customers twice, and --sent may leave
some out.

KEY is the order's key as `ledger export` has it: 1001, or 1001@32 in workflow 32; a digest for a
key of your own. Quote a key that starts with #, as Shopify's do: '#1051'. Orders that are not
unknown are left alone.

Examples:
    everlytic-async ledger resolve orders.ledger --sent '#1051' '#1052'
    xargs everlytic-async ledger resolve orders.ledger --sent < keys.txt
    everlytic-async ledger resolve orders.ledger --sent --all

Exit codes:
    0    all that was named was marked
    1    some were left alone, because they are not unknown
    2    wrong usage, or no ledger that can be used
"""


@options
class LedgerFileOptions:
    """The options of ``ledger status``, and the argument of most others."""

    file: str = argument("FILE", type=click.Path())


@options
class ExportOptions(LedgerFileOptions, JoinOptions):
    """The options of ``ledger export``."""

    format: str = option(
        "JSON Lines, or CSV with a line of column names.",
        type=click.Choice(["jsonl", "csv"]),
        default="jsonl",
    )
    states: tuple[str, ...] = option(
        "Only orders in this state. May be repeated.",
        "--state",
        type=Choice(["in-flight", "sent", "rejected", "invalid", "not-sent", "unknown"]),
        default=(),
    )


@options
class ResolveOptions(LedgerFileOptions):
    """The options of ``ledger resolve``."""

    keys: tuple[str, ...] = argument("[KEY]...", nargs=-1)
    was_sent: bool = option(
        "They were sent: never send them again.",
        "--sent",
        panel="What you found out",
        default=False,
    )
    send_again: bool = option(
        "They were not: the next run sends them.", panel="What you found out", default=False
    )
    select_all: bool = which("All unknown orders.", "--all", default=False)
    host: str | None = which(
        "Only those sent to this host, as `ledger export` shows it. For a ledger that serves "
        "several: a key that names orders of two hosts is refused without it.",
        metavar="HOST",
    )


@options
class CopyOptions:
    """The options of ``ledger copy``."""

    source: str = argument("SOURCE", type=click.Path())
    target: str = argument("TARGET", type=click.Path())
    accept_loss: bool = option("Copy what is left of a ledger that lost records.", default=False)


def add_ledger_commands(app: click.RichGroup) -> None:
    """Add ``ledger`` to the command."""

    @app.group(help=_LEDGER_HELP)
    @click.command_panel("Commands", commands=["status", "export", "resolve", "copy"])
    def ledger() -> None:
        pass

    command(ledger, "status", LedgerFileOptions, "_ledger.status", _STATUS_HELP)
    command(ledger, "export", ExportOptions, "_ledger.export", _EXPORT_HELP)
    command(ledger, "resolve", ResolveOptions, "_ledger.resolve", _RESOLVE_HELP)
    command(ledger, "copy", CopyOptions, "_ledger.copy", _COPY_HELP)
