"""Filters: which orders are read, by the values that the input has for them.

``Status=completed,processing`` keeps the orders whose status is one of the two, and
``Status!=cancelled`` those whose status is not. An order is kept if every condition holds. Texts
are compared without regard to case and to blanks around them; nothing after ``=`` means blank.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import attrs

from everlytic_async.errors import ConfigurationError

__all__ = ["Condition", "WhereLike", "parse_where"]

#: Conditions as texts; or a table of them, as in the settings: ``{"Status": ["completed"],
#: "Shop!": "test"}``, where ``!`` after a name means "is not".
WhereLike = str | Iterable[str] | Mapping[str, Any]


@attrs.frozen
class Condition:
    """What must hold for an order to be read.

    Attributes:
        path: The column, or the path, whose value is compared.
        values: The texts that it is compared with, in lower case.
        negated: Whether it must be none of them rather than one of them.
        shown: The condition in the user's own words.
    """

    path: str
    values: frozenset[str]
    negated: bool
    shown: str

    def holds(self, value: Any) -> bool:
        """Whether it holds for an order with this value."""
        if isinstance(value, list):
            found = any(_comparable(item) in self.values for item in value)
        else:
            found = _comparable(value) in self.values
        return found != self.negated


def _comparable(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Decimal):
        value = format(value, "f")
    return str(value).strip().casefold()


def parse_where(where: WhereLike | None) -> Sequence[Condition]:
    """The conditions that texts or a table name.

    Raises:
        ConfigurationError: when one has another form.
    """
    if where is None:
        return ()
    if isinstance(where, str):
        where = [where]
    if isinstance(where, Mapping):
        return [_from_table(name, values) for name, values in where.items()]
    return [_from_text(text) for text in where]


def _from_text(text: Any) -> Condition:
    name, equals, values = text.partition("=") if isinstance(text, str) else ("", "", "")
    negated = name.endswith("!")
    name = name.removesuffix("!").strip()
    if not equals or not name:
        raise ConfigurationError(
            "where: expected COLUMN=VALUE,VALUE or COLUMN!=VALUE, such as Status=completed"
        )
    return _condition(name, values.split(","), negated=negated)


def _from_table(name: str, values: Any) -> Condition:
    if isinstance(values, str):  # as on the command line; a value with a comma needs a list
        values = values.split(",")
    found = values if isinstance(values, list | tuple) else [values]
    column = name.removesuffix("!").strip()
    if not column or not found or not all(isinstance(v, str | int | Decimal) for v in found):
        raise ConfigurationError(
            f'where: {name}: expected a text or a list of texts, such as Status = ["completed"]'
        )
    return _condition(column, found, negated=name.endswith("!"))


def _condition(name: str, values: Sequence[Any], *, negated: bool) -> Condition:
    shown = ",".join(str(value).strip() for value in values)
    return Condition(
        name, frozenset(map(_comparable, values)), negated, f"{name}{'!' * negated}={shown}"
    )
