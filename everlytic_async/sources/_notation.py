"""How an input writes numbers and dates. Numbers are read digit by digit, never guessed.

Without a notation, a number is written as in JSON and a time as in ISO 8601. A notation names the
marks that a country or a spreadsheet uses instead (``1.250,00``, ``31.12.2025``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, time
from decimal import ROUND_HALF_UP, Context, Decimal
from functools import lru_cache
from typing import Any

import attrs

from everlytic_async.errors import ConfigurationError

#: A bound: a time; a date, which means its start; or either of them in ISO 8601.
DateLike = datetime | date | str

#: Sums and products with all their digits; half a cent is rounded up.
EXACT = Context(prec=200, rounding=ROUND_HALF_UP)

_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?").fullmatch
_MAX_CHARS = 1_000
_GROUP = 3  # digits between thousands
# A currency before or after a number, and a sign.
_WORDS = r"kr\.?|Rs\.?|Fr\.?|Ft|z\u0142|K\u010d"
_SIGNS = "$\u00a2-\u00a5\u060b\u0e3f\u17db\u20a0-\u20cf\uff04\uffe0\uffe1\uffe5\uffe6"
# CR and DR are what bookkeepers write for a sign.
_CURRENCY = rf"(?:(?!CR|DR)[A-Z]{{1,3}}\$?|[A-Z]{{0,2}}[{_SIGNS}]|{_WORDS})?"
# Around what is like a number, but may be a percentage, or negative in parentheses.
_MARK = rf"(?:[A-Z]{{1,3}}\$?|{_WORDS}|[^\w\s\x00-\x1f\x7f-\x9f.,'+@-]{{1,2}})?"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_BLANKS = "[ \\u00a0\\u2009\\u202f]"
_SIGN = "[+\\u2212-]?"
# Shopify's CSV writes 2026-03-01 10:00:00 +0200. Python reads it, but does not promise to.
_SPACE_BEFORE_OFFSET = re.compile(r"\s+(?=[+-]\d\d:?\d\d$|Z$)")
_UTC = re.compile(r"\s*UTC$")
_YEAR = re.compile("%[YyGcx]")  # in the letters of `strptime`
# No time is longer, and the patterns take quadratic time for many blanks.
_MAX_DATE_CHARS = 64
# What may be quoted of a value that can't be read: a number or a date, and not a person's name.
_LIKE_NUMBER = re.compile(
    rf"{_SIGN}{_MARK}{_BLANKS}?{_SIGN}[0-9]{{1,9}}(?:[.,'\u2019 \u00a0][0-9]{{1,3}}){{0,4}}"
    rf"{_BLANKS}?{_MARK}",
).fullmatch
_LIKE_DATE = re.compile(
    r"(?:[A-Z][a-z]{2,8},? )?[0-9]{1,4}[./ -](?:[0-9]{1,2}|[A-Za-z]{3,9})[./ -][0-9]{2,4}"
    r"(?:[ T,]+[0-9]{1,2}[:.h][0-9:.]{2,9}(?: ?[AaPp][Mm])?(?: ?[A-Z]{1,4}| ?[+-][0-9:]{4,5})?)?"
    r"|[A-Z][a-z]{2,8} [0-9]{1,2}, [0-9]{4}(?: [0-9:]{4,8}(?: [AP]M)?)?",
).fullmatch


_MARKS = {"decimal": (".", ","), "thousands": (",", ".", " ", "'")}


def _check_mark(_notation: Any, attribute: Any, value: str | None) -> None:
    if value is not None and value not in (marks := _MARKS[attribute.name]):
        known = " or ".join(map(repr, marks))
        raise ConfigurationError(f"{attribute.name}: expected {known}")


@attrs.frozen
class Notation:
    """How numbers and dates are written.

    Args:
        decimal: What is between a number and its fraction, ``.`` or ``,``; None for not said.
        thousands: What is between groups of digits: ``,``, ``.``, ``'`` or a blank; None for
            nothing.
        date_format: How a time is written, in the letters of `datetime.strptime`; None for ISO
            8601.

    Raises:
        ConfigurationError: when one of them has no meaning, or both marks are the same.
    """

    decimal: str | None = attrs.field(default=None, validator=_check_mark)
    thousands: str | None = attrs.field(default=None, validator=_check_mark)
    date_format: str | None = None

    def __attrs_post_init__(self) -> None:
        if self.thousands is not None and self.thousands == (self.decimal or "."):
            raise ConfigurationError(
                f"thousands and decimal are both {self.thousands!r}: name decimal, too"
            )
        if self.date_format is not None:
            _check_date_format(self.date_format)

    @property
    def is_plain(self) -> bool:
        """Whether numbers are written as in JSON."""
        return self.decimal is None and self.thousands is None

    def number_parser(self) -> Callable[[str], Decimal | str]:
        """A function that returns the number that a text is, with all its digits, or the text."""
        if self.is_plain:
            return _parse_plain
        decimal, thousands = self.decimal or ".", self.thousands
        return lambda text: _parse_marked(text, decimal, thousands)

    def parse_datetime(self, value: Any) -> datetime | None:
        """A point in time; without an offset it is UTC. None if the value is not one."""
        if isinstance(value, str):
            text = value.strip()
            if len(text) > _MAX_DATE_CHARS:
                return None
            try:
                if self.date_format is None:
                    text = _UTC.sub("Z", _SPACE_BEFORE_OFFSET.sub("", text))
                    value = datetime.fromisoformat(text)
                else:
                    value = datetime.strptime(text, self.date_format)  # noqa: DTZ007 - see below
            except ValueError:
                return None
        elif isinstance(value, date) and not isinstance(value, datetime):
            value = datetime.combine(value, time())
        if not isinstance(value, datetime):
            return None
        return value if value.tzinfo is not None else value.replace(tzinfo=UTC)

    def explain_number(self, value: str) -> str:
        """What to say of a text that is not a number; it is quoted where it looks like one."""
        text = value.strip()
        if (control := _CONTROL.search(value.strip(" \t\r\n"))) is not None:
            char = control[0]
            what = "a NUL character" if char == "\0" else f"the control character U+{ord(char):04X}"
            return f"expected a number, and its text holds {what}: remove it, or export it again"
        if not _LIKE_NUMBER(text) or not any(char in text for char in "0123456789"):
            return "expected a number, got text"
        if not self.is_plain:
            return f"expected a number {self._described()}, found {text!r}"
        marks = guess_marks(text)
        if marks is None:
            return f"expected a number, found {text!r}"
        decimal, thousands = marks
        options = f"--decimal {decimal!r}"
        if thousands is not None:
            options += f" --thousands {thousands!r}"
        return f"expected a number, found {text!r}: say how numbers are written, such as {options}"

    def explain_date(self, value: Any) -> str:
        """What to say of a value that is not a time; it is quoted where it looks like one."""
        expected = "a time such as 2026-03-01T08:00:00"
        if self.date_format is not None:
            expected = f"a time written as {self.date_format}"
        text = value.strip() if isinstance(value, str) else ""
        if len(text) > _MAX_DATE_CHARS or not _LIKE_DATE(text):
            return f"expected {expected}"
        if self.date_format is not None:
            return f"expected {expected}, found {text!r}"
        return (
            f"expected {expected}, found {text!r}: say how it is written, such as "
            f"--date-format {next(guess_date_formats([text]), '%d.%m.%Y')!r}"
        )

    def _described(self) -> str:
        described = f"with {self.decimal or '.'!r} before the fraction"
        if self.thousands is not None:
            described += f" and {self.thousands!r} between thousands"
        return described


_PLAIN = Notation()


def to_decimal(value: Any) -> Decimal | None:
    """A number, or the text of one as in JSON, with all its digits; None for anything else."""
    kind = value.__class__
    if kind is str:
        number = _parse_plain(value)
        return None if number.__class__ is str else number  # type: ignore[return-value]
    if kind is Decimal:
        return value if value.is_finite() else None
    if kind is int:
        return Decimal(value)
    if kind is float:
        value = Decimal(repr(value))
    return value if isinstance(value, Decimal) and value.is_finite() else None


def add_up(amounts: Iterable[Any]) -> Decimal | None:
    """The sum of numbers; None if one of them is not a number: rather none than a wrong one."""
    total: Decimal | None = None
    for amount in amounts:
        if (number := to_decimal(amount)) is None:
            return None
        total = number if total is None else EXACT.add(total, number)
    return Decimal(0) if total is None else total


def _parse_plain(text: str) -> Decimal | str:
    return _parse(text) if len(text) <= _MAX_CHARS else text


@lru_cache(maxsize=8_192)  # a shop has few prices and quantities, and reads each several times
def _parse(text: str) -> Decimal | str:
    return Decimal(number) if _NUMBER(number := text.strip()) else text


def _parse_marked(text: str, decimal: str, thousands: str | None) -> Decimal | str:
    if len(text) > _MAX_CHARS:
        return text
    found = _marked_pattern(decimal, thousands)(text.strip())
    if found is None:
        return text
    whole = "".join(char for char in found["whole"] if char in "0123456789")
    is_negative = found["before"] + found["after"] in ("-", "\u2212")
    return Decimal(f"{'-' * is_negative}{whole}.{found['fraction'] or ''}")


@lru_cache(maxsize=16)
def _marked_pattern(decimal: str, thousands: str | None) -> Callable[[str], re.Match[str] | None]:
    """A number with these marks. Groups have three digits, but in India's lakh also two."""
    groups = ""
    if thousands is not None:
        mark = {" ": _BLANKS, "'": "['\u2019]"}.get(thousands, re.escape(thousands))
        groups = rf"|[0-9]{{1,3}}(?:{mark}[0-9]{{2,3}})*{mark}[0-9]{{3}}"
    return re.compile(
        rf"(?P<before>{_SIGN}){_CURRENCY}{_BLANKS}?(?P<after>{_SIGN})"
        rf"(?P<whole>[0-9]+{groups})(?:{re.escape(decimal)}(?P<fraction>[0-9]*))?"
        rf"{_BLANKS}?{_CURRENCY}"
    ).fullmatch


def guess_marks(text: str) -> tuple[str, str | None] | None:
    """The marks that the text of a number most likely has, for a suggestion."""
    digits = re.sub(r"^[^0-9]+|[^0-9]+$", "", text)
    marks = re.findall(r"[.,'\u2019 \u00a0]", digits)
    points = [mark for mark in marks if mark in ".,"]
    last = points[-1] if points else None
    fraction = len(digits.rpartition(last)[2]) if last else 0
    if last is None:
        decimal, thousands = ".", marks[0] if marks else None
    elif points.count(last) > 1 or (last == "," and fraction == _GROUP and len(marks) == 1):
        decimal, thousands = ("." if last == "," else ","), last
    else:
        decimal, thousands = last, next((mark for mark in marks if mark != last), None)
    thousands = {"\u2019": "'", "\u00a0": " "}.get(thousands or "", thousands)
    is_read = not isinstance(_parse_marked(text, decimal, thousands), str)
    return (decimal, thousands) if is_read else None


def guess_notation(texts: Sequence[str]) -> dict[str, str]:
    """The marks that all of some numbers have, for a suggestion; empty if JSON has the same."""
    votes: dict[tuple[str, str | None], int] = {}
    for text in texts:
        if not isinstance(_parse_plain(text), str) or not _LIKE_NUMBER(text.strip()):
            continue
        if (marks := guess_marks(text)) is None:
            continue
        votes[marks] = votes.get(marks, 0) + 1
    if not votes:
        return {}
    decimal = max(votes, key=lambda marks: votes[marks])[0]
    thousands = next((mark for point, mark in votes if point == decimal and mark), None)
    return {"decimal": decimal} | ({"thousands": thousands} if thousands else {})


_DAYS = ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%Y/%m/%d", "%d.%m.%y", "%d/%m/%y")
_TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M:%S %p", " %I:%M %p", " %H:%M:%S %z")
_DATE_FORMATS = tuple(
    f"{day}{time}" for day in (*_DAYS, "%b %d, %Y", "%d %b %Y", "%a, %d %b %Y") for time in _TIMES
)


def guess_date_formats(texts: Sequence[str]) -> Iterator[str]:
    """The formats that all of some times may have, the likeliest first; none for ISO 8601."""
    if all(_PLAIN.parse_datetime(text) is not None for text in texts):
        return
    for written in _DATE_FORMATS:
        notation = Notation(date_format=written)
        if all(notation.parse_datetime(text) is not None for text in texts):
            yield written


def _check_date_format(text: str) -> None:
    sample = datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)
    parsed = None
    # Without a year, `strptime` warns from Python 3.13 on.
    if _YEAR.search(text):
        with suppress(ValueError, re.error):
            written = sample.strftime(text)
            parsed = datetime.strptime(written, text)  # noqa: DTZ007 - only its day counts
    if parsed is None or (parsed.year, parsed.month, parsed.day) != (2026, 12, 31):
        raise ConfigurationError(
            f"date_format: {text!r} does not name a day: expected a format such as %d.%m.%Y "
            "(the letters of Python's strptime)"
        )


def parse_bound(name: str, value: DateLike | None) -> datetime | None:
    """A bound; None for none.

    Raises:
        ConfigurationError: when it is not a point in time.
    """
    bound = _PLAIN.parse_datetime(value)
    if bound is None and value is not None:
        raise ConfigurationError(
            f"{name}: expected a date or a time such as 2026-03-01 or 2026-03-01T08:00+02:00"
        )
    return bound
