"""How an input is read: by the options of a command, else by the tables of the settings."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from everlytic_async.cli._options import ReadingOptions
from everlytic_async.cli._settings import WHERE_IS_MISSING, Settings
from everlytic_async.errors import ConfigurationError, printable
from everlytic_async.sources import normalize_mapping, parse_mapping, parse_where

# The options that `[input]` may hold too.
_NOTATION = ("encoding", "decimal", "thousands", "date_format", "sheet")


@attrs.frozen
class Reading:
    """How an input is read.

    Attributes:
        arguments: Those of `read_orders`, beside the file.
        mapped_by: The file that says how columns are mapped, fit for a terminal.
        conditions: Which orders are read, in the words of ``--where``; empty for all.
    """

    arguments: Mapping[str, Any]
    mapped_by: str | None
    conditions: str

    @classmethod
    def choose(cls, options: ReadingOptions, format_: str | None, settings: Settings) -> Reading:
        """By the options, and where they don't say it, by the settings."""
        mapping, path = _load_mapping(options, settings)
        where = _load_where(options, settings)
        notation = settings.table("input").texts(*_NOTATION)
        for name in _NOTATION:
            if (value := getattr(options, name)) is not None:
                notation[name] = value
        arguments = {"format": format_, "mapping": mapping, "where": where, **notation}
        arguments |= {"since": options.since, "until": options.until, "include": options.include}
        return cls(
            arguments,
            None if path is None else printable(os.fspath(path)),
            printable("; ".join(each.shown for each in parse_where(where))),
        )


def _load_where(
    options: ReadingOptions, settings: Settings
) -> Sequence[str] | Mapping[str, Any] | None:
    """The conditions of ``--where``, else those of the table ``[where]``."""
    if options.where:
        return options.where
    table = settings.table("where")
    try:
        parse_where(table.values)
    except ConfigurationError as error:
        raise ConfigurationError(f"{table}: {error}") from error
    return table.values or None


def _load_mapping(
    options: ReadingOptions, settings: Settings
) -> tuple[dict[str, Any], Path | None]:
    """The table ``[mapping]`` of the settings with ``--map`` over it, and the table's file."""
    table = settings.table("mapping")
    mapping = table.values
    from_options = parse_mapping(options.maps)
    try:
        normalize_mapping(
            {field: spec for field, spec in mapping.items() if field not in from_options}
        )
    except ConfigurationError as error:
        raise ConfigurationError(f"{table}: {_explain(error, mapping)}") from error
    products = mapping.get("products")
    if isinstance(products, Mapping) and "products" in from_options:
        # The option says where the products are, and nothing about their fields.
        from_options["products"] = {**products, "each": from_options["products"]}
    return {**mapping, **from_options}, table.path


def _explain(error: ConfigurationError, mapping: Mapping[str, Any]) -> str:
    """What is wrong with a mapping; of a list that is no field's, that it may be a condition."""
    what, colon, hint = str(error).removeprefix("mapping: ").partition(": ")
    name = what.removesuffix(" is not a field")
    products = mapping.get("products")
    inner = products if isinstance(products, Mapping) else {}
    values = {**mapping, **{f"products.{key}": value for key, value in inner.items()}}
    if name != what and isinstance(values.get(name), list):
        hint = f"{WHERE_IS_MISSING}; else {hint}"
    return f"{what}{colon}{hint}"
