"""Filters: which orders are read, by the values that the input has for them.

``Status=completed,processing`` keeps the orders whose status is one of the two, and
``Status!=cancelled`` those whose status is not. An order is kept if every condition holds. Texts
are compared without regard to case and to blanks around them; nothing after ``=`` means blank.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import attrs

from everlytic_async.errors import ConfigurationError
from everlytic_async.sources._mapping import Getter, first_set
from everlytic_async.sources._records import Record
from everlytic_async.sources._shops import is_lost
from everlytic_async.sources._synonyms import is_status

# Of different values of orders, as many are counted apart, and no longer ones.
_MAX_WORDS, _MAX_WORD_CHARS = 20, 40
#: What the rest is counted as.
OTHER_WORDS = "others"
# A column whose values are there so often, on average, does not name persons.
_OFTEN = 5
_NEAR = 0.75

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
        items = value if isinstance(value, list) else (value,)
        return any(_comparable(item) in self.values for item in items) != self.negated


@attrs.define(eq=False)
class ConditionValues:
    """A condition, and which of its values no order had so far: one may be mistyped."""

    _condition: Condition
    _get: Getter
    _missing: set[str] = attrs.field(init=False)  # in lower case; blanks are none
    _has_orders: bool = attrs.field(default=False, init=False)
    _counts: dict[str, int] = attrs.field(factory=dict, init=False)
    reason: str = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._missing = {*self._condition.values} - {""}
        self.reason = f"where {self._condition.shown}"

    def holds(self, rows: Sequence[Record]) -> bool:
        """Whether the condition holds for an order."""
        return self._condition.holds(first_set(self._get, rows))

    @property
    def is_settled(self) -> bool:
        """Whether no more orders need to be looked at."""
        return not self._missing

    def add(self, rows: Sequence[Record]) -> None:
        """Note what an order has."""
        value = first_set(self._get, rows)
        if value.__class__ is str and value in self._counts:  # fast, and nearly always
            self._counts[value] += 1
            return
        self._has_orders = True
        for item in value if isinstance(value, list) else (value,):
            word = _plain(item)
            self._missing.discard(word.casefold())
            if word and not isinstance(item, list | dict):
                count_word(self._counts, word)

    @property
    def leaves_nothing(self) -> bool:
        """Whether the condition holds for no order because none has one of its values."""
        is_missing = self._missing == self._condition.values
        return self._has_orders and is_missing and not self._condition.negated

    def warn_of_missing(self) -> str | None:
        """What to say of the values that no order had; None where that is usual.

        A value may be missing, as in a shop with few orders a day, or none that are cancelled,
        unless there is one that is nearly the same.
        """
        if not self._has_orders or not self._missing:
            return None
        return self.describe() if self.leaves_nothing or self._nearest() else None

    def warn_of_lost(self) -> str | None:
        """What to say where it leaves out no order, as a proposed list of all statuses does."""
        values = self._condition.values
        lost = {*filter(is_lost, values)}
        found = ", ".join(f"'{value}'" for value in sorted(lost - self._missing))
        if self._condition.negated or not found or lost == values:
            return None
        return (
            f"where: the values of '{self._condition.path}' leave out no order, and among them is "
            f"{found}: take out those that nobody wants an e-mail about"
        )

    def describe(self) -> str:
        """The values, the nearest one that there is, and all of those, if they name no persons."""
        shown = ", ".join(f"'{value}'" for value in sorted(self._missing))
        text = f"where: no order has {shown} in '{self._condition.path}'"
        if nearest := self._nearest():
            text += f": did you mean '{nearest}'?"
        if counts := self._shown_counts():
            found = sorted(counts.items(), key=lambda item: -item[1])
            text += "" if nearest else "."
            text += f" There are {', '.join(f'{word} ({count:,})' for word, count in found)}"
        return text

    def _shown_counts(self) -> dict[str, int]:
        counts = self._counts
        is_often = sum(counts.values()) >= _OFTEN * len(counts)
        is_shown = len(counts) <= _MAX_WORDS and (is_often or is_status(self._condition.path))
        return counts if is_shown else {}

    def _nearest(self) -> str | None:
        words = {
            key: word
            for word in self._shown_counts()
            if (key := word.casefold()) not in self._condition.values and word != OTHER_WORDS
        }
        for value in sorted(self._missing):
            near = difflib.get_close_matches(value, words, cutoff=_NEAR)
            if found := next((key for key in near if not _is_prefixed(value, key)), None):
                return words[found]
        return None


def count_word(counts: dict[str, int], word: str) -> None:
    """Count a value of an order; in bounded memory, and none that looks like an address."""
    is_safe = len(word) <= _MAX_WORD_CHARS and word.isprintable() and "@" not in word
    if not is_safe or (word not in counts and len(counts) >= _MAX_WORDS):
        word = OTHER_WORDS
    counts[word] = counts.get(word, 0) + 1


def _is_prefixed(one: str, other: str) -> bool:
    """Whether one is the other with a prefix, which says the opposite: paid and unpaid."""
    is_longer = abs(len(one) - len(other)) > 1
    return is_longer and (one.endswith(other) or other.endswith(one))


def _comparable(value: Any) -> str:
    return _plain(value).casefold()


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Decimal):
        value = format(value, "f")
    return str(value).strip()


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
