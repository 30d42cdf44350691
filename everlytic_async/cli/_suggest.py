"""``check --suggest``: proposes settings for a file whose columns nobody has mapped yet."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

import attrs

from everlytic_async.cli._commands import CheckOptions
from everlytic_async.cli._console import print_lines
from everlytic_async.cli._exit import Exit, note
from everlytic_async.cli._screen import print_json
from everlytic_async.errors import ConfigurationError, SourceError, printable
from everlytic_async.sources import Suggestion, suggest_mapping

_COLUMNS_SHOWN = 30


def suggest(options: CheckOptions) -> int:
    """Print what may be meant by the columns of the input; return the exit code."""
    name = "standard input" if options.file == "-" else printable(options.file)
    try:
        found = suggest_mapping(
            options.file, options.format, encoding=options.encoding, sheet=options.sheet
        )
    except OSError as error:
        raise ConfigurationError(f"{name} can't be read: {error.strerror}") from error
    except (ConfigurationError, SourceError) as error:
        raise ConfigurationError(f"{name}: {error}") from error
    if options.as_json:
        print_json(attrs.asdict(found))
        return Exit.OK
    print_lines(_lines(found), is_data=True)
    look = f"  everlytic-async check --show 3 {shlex.quote(printable(options.file))}"
    if found.is_known:
        note(f"{name} is {found.format}, which is read as it is. Look at the orders:\n{look}")
    else:
        note(
            "Nothing of this is used by itself. Correct it, save it as everlytic.toml in this "
            f"directory, then look at the orders:\n{look}"
        )
    return Exit.OK


def _lines(found: Suggestion) -> Iterator[str]:
    if not found.is_known or found.options:
        yield "# Save it so that only you can write it, or the next command refuses it:"
        yield "#   chmod 600 everlytic.toml"
    if found.is_known:
        yield f"# It is {found.format}, a known shop's export, and needs no mapping."
    else:
        yield from found.to_toml().rstrip("\n").split("\n")
        if found.unused:
            shown = ", ".join(found.unused[:_COLUMNS_SHOWN])
            more = "" if len(found.unused) <= _COLUMNS_SHOWN else ", ..."
            yield f"# not used: {shown}{more}"
    if found.options:
        yield from ("", "[input]")
        yield from (f"{name} = {_toml(value)}" for name, value in found.options.items())
        if found.other_dates:
            others = ", ".join(found.other_dates)
            yield f"# date_format: {others} fits all the dates too: choose the right one."
    if found.status is not None:
        values = ", ".join(map(_toml, found.statuses))
        yield ""
        yield "# Only orders with one of these: take out those that nobody wants an e-mail about."
        yield from ("# [where]", f"# {_toml(found.status)} = [{values}]")


def _toml(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # a basic string of TOML is one of JSON
