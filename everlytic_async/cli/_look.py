"""``check --show`` and ``--suggest``: the first orders with where each field is from; a mapping.

Nothing that is suggested is used by itself.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import attrs
from rich.table import Table
from rich.text import Text

from everlytic_async.cli._commands import CheckOptions
from everlytic_async.cli._console import file_name, print_lines
from everlytic_async.cli._exit import Exit, note
from everlytic_async.cli._screen import print_json
from everlytic_async.errors import ConfigurationError, InvalidOrderError, SourceError, printable
from everlytic_async.orders import Order
from everlytic_async.sources import Suggestion, TracedOrder, suggest_mapping

_COLUMNS_SHOWN = 30
# Of the path of a product's field: the place of the product, which all its fields share.
_PRODUCT = re.compile(r"(?<!\S)(\S+?\[\d+\])\.")
# Blanks and lines of a table with three columns.
_BORDERS = 8
# A value has half of the room, or what its origins leave, or as much as most e-mail addresses need.
_WHOLE_VALUE = 28


def as_table(traced: TracedOrder, place: str, width: int) -> Table:
    """An order for a terminal of that many columns; what is too long is folded, and never cut."""
    table = Table(
        title=f"{place.capitalize()} {traced.number:,}",
        title_justify="left",
        title_style="bold",
        show_edge=False,
    )
    if isinstance(traced.order, InvalidOrderError):
        table.add_column("not valid, so it can't be sent")
        for fault in traced.order.faults:
            table.add_row(_text(fault))
        return table
    sections = list(_sections(traced))
    names, values, origins = (
        max(len(row[i]) for rows in sections for row in rows) for i in (0, 1, 2)
    )
    words = [len(word) for rows in sections for *_, origin in rows for word in origin.split()]
    left = width - names - _BORDERS
    beside = left - max(words)  # the room for a value, if no word of an origin is broken
    is_wide = beside >= min(values, _WHOLE_VALUE)
    table.add_column("field", no_wrap=True)
    if is_wide:
        room = min(values, beside, max(left // 2, left - origins, _WHOLE_VALUE))
        table.add_column("value", overflow="fold", width=room)
        table.add_column("from", overflow="fold")
    else:
        table.add_column("value, and ← where it is from", overflow="fold")
    for rows in sections:
        table.add_section()
        for name, value, origin in rows:
            if is_wide:
                table.add_row(_text(name), _text(value), _text(origin))
            else:
                below = _text(f"← {origin}")
                table.add_row(_text(name), Text("\n").join([_text(value), below][not value :]))
    return table


def _sections(traced: TracedOrder) -> Iterator[list[tuple[str, str, str]]]:
    """The rows of the order, and those of each product: field, value, and where it is from."""
    products: dict[int | None, list[tuple[str, str, str]]] = {}
    for product, name, value, origin in _fields(traced):
        shown = " ".join(value) if isinstance(value, list | tuple) else f"{value}"
        products.setdefault(product, []).append((name, shown, origin))
    for product, rows in products.items():
        found = _PRODUCT.search(" ".join(origin for *_, origin in rows))
        if product is None or found is None:
            yield rows
        else:  # the place of the product once, and its fields from there
            near = [(*row, origin.replace(found[0], "")) for *row, origin in rows]
            yield [(f"product {product + 1}", "", found[1]), *near]  # type: ignore[list-item]


def as_values(traced: TracedOrder, place: str) -> dict[str, Any]:
    """An order for JSON."""
    faults = list(traced.order.faults) if isinstance(traced.order, InvalidOrderError) else []
    fields = [
        {
            "field": name if product is None else f"products[{product}].{name}",
            "value": _plain(value),
            "from": origin,
        }
        for product, name, value, origin in _fields(traced)
    ]
    return {place: traced.number, "faults": faults, "fields": fields}


def _fields(traced: TracedOrder) -> Iterator[tuple[int | None, str, Any, str]]:
    """Each field that is set: the place of its product, its name, its value, and its origin."""
    if not isinstance(traced.order, Order):
        return
    for place, model in ((None, traced.order), *enumerate(traced.order.products)):
        prefix = "" if place is None else f"products[{place}]."
        for name, value in attrs.asdict(model, recurse=False).items():  # type: ignore[arg-type]
            if value is not None and name != "products":
                yield place, name, value, traced.origins.get(prefix + name, "an option")


def _text(value: str) -> Text:
    return Text(printable(value))  # not markup


def _plain(value: Any) -> Any:
    """A number where JSON's is exact; else its digits."""
    if isinstance(value, tuple):
        return list(value)
    if not isinstance(value, Decimal):
        return value
    if value == value.to_integral_value():
        return int(value)
    return float(value) if Decimal(repr(float(value))) == value else f"{value:f}"


def suggest(options: CheckOptions) -> int:
    """Print what may be meant by the columns of the input; return the exit code."""
    name = "standard input" if options.file == "-" else file_name(options.file)
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
    look = f"  everlytic-async check --show 3 {shlex.quote(file_name(options.file))}"
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
