"""Which orders are not read: by their status, their time, and the caller's conditions."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from everlytic_async.errors import ConfigurationError
from everlytic_async.sources._columns import check_paths
from everlytic_async.sources._mapping import Compiler, Getter, computed, is_blank
from everlytic_async.sources._notation import Notation
from everlytic_async.sources._options import ReadOptions
from everlytic_async.sources._preset import KEPT, FirstRow, Preset, normalize_status
from everlytic_async.sources._records import Record
from everlytic_async.sources._shops import is_lost
from everlytic_async.sources._synonyms import is_status
from everlytic_async.sources._where import OTHER_WORDS, Condition, MissingValues, count_word

__all__ = ["ROW_APART", "LeftOut"]

# How many columns are looked at for statuses under other names, and in how many orders.
_MAX_NAMES, _MAX_LOOKED_AT = 100, 300
_BEFORE_SINCE, _AFTER_UNTIL = "before since", "not before until"
_READ = (None, None)  # neither left out nor at fault
#: The fault of a row that is apart from its order, if that is all that is known of it.
ROW_APART = (
    "has neither a status nor a total, as a row that is apart from its order: sort the file by the "
    "id of the order, or export it again"
)
# Of one kind.
_MAX_WARNINGS = 5
# How many reasons are kept: a time of a cancellation is there once.
_MAX_REASONS = 1_000


class LeftOut:
    """Says of each order why it is left out, if it is.

    Args:
        preset: The shop whose export it is; None for another input.
        options: What the caller asked for.
        compiler: Compiles paths of the records.
        date: Where the time of an order is, as in a mapping; None if that is not known.
        names: The columns; of JSON, the keys of the first order.
        counts: Where to count the orders that are left out, by reason.
        is_table: Whether the names are columns.
        holds_text: Whether each cell of a row is a text.

    Raises:
        ConfigurationError: when a condition names what is not there, or no time is known.

    Attributes:
        counts: How many orders were left out so far, by reason.
        unknown_statuses: How many orders were read that have a status that the shop's table does
            not know, by status.
    """

    def __init__(
        self,
        preset: Preset | None,
        options: ReadOptions,
        compiler: Compiler,
        date: Any,
        names: Sequence[str],
        counts: dict[str, int],
        *,
        is_table: bool,
        holds_text: bool = False,
    ) -> None:
        self._include = options.include
        self._since, self._until = options.since, options.until
        self._notations = [options.notation]
        self._flags: list[tuple[Getter, str]] = []
        self._statuses: list[tuple[Getter, dict[str, str], bool]] = []
        self._blank_flags: list[tuple[Getter, str]] = []
        self._names = names
        self._starts: list[tuple[Getter, str]] = []
        self._has_status = False
        self._shop = None if preset is None else preset.name
        # A shop's table says the same of equal cells: its reasons are kept.
        self._cells: Getter | None = None
        self._reasons: dict[Any, str] = {}
        self.counts = counts
        self.unknown_statuses: dict[str, int] = {}
        paths = [("where", condition.path) for condition in options.where]
        check_paths(paths, names, is_table=is_table)
        self._chooses_statuses = any(
            preset is not None and condition.path in preset.statuses for condition in options.where
        )
        self._where = [(compiler.path(each.path), each) for each in options.where]
        self._has_ended = False
        self._missing = [(get, MissingValues(each)) for get, each in self._where]
        self._chosen = [each for _get, each in self._missing if preset is None]
        self._has_bounds = self._since is not None or self._until is not None
        self._date = None if date is None else compiler.getter("date", date)
        if self._has_bounds and date is None:
            raise ConfigurationError(
                "since and until need the time of each order: name where it is, such as with "
                "--map date=created_at"
            )
        if preset is not None:
            own = Compiler(names if is_table else None, options.notation)
            self._compile_preset(preset, own, holds_text=holds_text)
            compiler.used |= own.used
        self._unused = (
            [] if preset is not None else _find_unused(compiler, names, is_table=is_table)
        )
        self._unsettled = self._unused
        self._status_warnings = self._check_statuses(preset, options, names)

    def _compile_preset(self, preset: Preset, compiler: Compiler, *, holds_text: bool) -> None:
        if self._notations[0].date_format is None and preset.date_format is not None:
            self._notations.insert(0, Notation(date_format=preset.date_format))
        self._flags = self._compile_flags(preset.skip, compiler)
        self._status_path = next(
            (path for path, words in preset.statuses.items() if KEPT in words.values()), None
        )
        for path, words in preset.statuses.items():
            table = {
                word: KEPT if self._includes(reason) else reason for word, reason in words.items()
            }
            self._statuses.append((compiler.path(path), table, KEPT in words.values()))
        if holds_text:
            self._cells = compiler.values_used(holds_text=True)
        elif not self._flags and len(self._statuses) == 1:
            self._cells = _text_only(self._statuses[0][0])
        self._blank_flags = self._compile_flags(preset.skip_without_status, compiler)
        for spec in preset.skip_without_status.values():
            if isinstance(spec, FirstRow) and {*spec.columns} & {*self._names}:
                self._starts = [(compiler.getter("first row", self._expand(spec)), spec.key)]
        self._has_status = bool({*preset.statuses} & {*self._names})

    @staticmethod
    def _check_statuses(
        preset: Preset | None, options: ReadOptions, names: Sequence[str]
    ) -> list[str]:
        """What to say of statuses that are not there."""
        if preset is None:
            return []
        if not preset.statuses or options.where or {*preset.statuses} & {*names}:
            return []
        missing = next(iter(preset.statuses))
        warning = (
            f"there is no '{missing}', which tells orders from abandoned checkouts and from those "
            "that were cancelled, refunded or not paid: all are read. Export it too, or choose the "
            "orders with --where"
        )
        return [warning]

    @property
    def get_status(self) -> Getter | None:
        """Takes the status of a row of a shop's export; None if it has no such column."""
        return self._statuses[0][0] if self._has_status else None

    def warnings(self) -> list[str]:
        """What a person should look at before the orders are sent."""
        found = [missing.warning() for _get, missing in self._missing if self._has_ended]
        if self._has_ended:
            found += map(self._warn_of_chosen, self._chosen)
        found += [*filter(None, (each.warning() for each in self._unused))][:_MAX_WARNINGS]
        return [*filter(None, found), *self._warn_of_unknown(), *self._status_warnings]

    def _warn_of_chosen(self, chosen: MissingValues) -> str | None:
        """What to say of a list of all statuses that there are, such as a proposed one."""
        condition = chosen.condition
        lost = {*filter(is_lost, condition.values)}
        found = sorted(lost - chosen.values)
        leaves_out = _reason_of(condition) in self.counts
        if condition.negated or leaves_out or not found or lost == condition.values:
            return None
        shown = ", ".join(f"'{value}'" for value in found)
        return (
            f"where: the values of '{condition.path}' leave out no order, and among them is "
            f"{shown}: take out those that nobody wants an e-mail about"
        )

    def _warn_of_unknown(self) -> Iterator[str]:
        if not self.unknown_statuses or self._chooses_statuses:
            return
        found = self.unknown_statuses
        words = ", ".join(f"{word} ({count:,})" for word, count in found.items())
        warning = (
            f"orders with a status that {self._shop} orders don't usually have were read: {words}"
        )
        if named := [word for word in found if word != OTHER_WORDS and "," not in word]:
            condition = shlex.quote(f"{self._status_path}!={','.join(named)}")
            warning += f". If nobody should get an e-mail about them: --where {condition}"
        yield warning

    def _compile_flags(
        self, specs: Mapping[str, Any], compiler: Compiler
    ) -> list[tuple[Getter, str]]:
        return [
            (compiler.getter(reason, self._expand(spec)), reason)
            for reason, spec in specs.items()
            if not self._includes(reason)
        ]

    def _expand(self, spec: Any) -> Any:
        if not isinstance(spec, FirstRow):
            return spec
        there = [name for name in spec.columns if name in self._names]
        return computed(_starts_order, spec.key, *there)

    def _includes(self, reason: str) -> bool:
        return reason in self._include or "all" in self._include

    def count(self, reason: str) -> None:
        """Count an order, or a row, that is left out."""
        self.counts[reason] = self.counts.get(reason, 0) + 1

    def judge(self, rows: Sequence[Record]) -> tuple[str | None, str | None]:
        """Why an order is left out, and its fault that can be seen here; None for neither.

        Args:
            rows: The record of the order; or all its rows, in any order: the first that sets a
                column counts.
        """
        if self._missing:
            self._note_values(rows)
        if self._unsettled:
            for unused in self._unsettled:
                unused.add(rows)
            self._unsettled = [unused for unused in self._unsettled if not unused.is_settled]
        cells = None if self._cells is None else self._cells(rows[0])
        reason, unknown = self._reasons.get(cells), None
        if reason is None and (self._flags or self._statuses):
            reason, unknown = self._judge_preset(rows, cells)
        if reason is ROW_APART:
            return None, ROW_APART
        if reason:
            return reason, None
        for get, condition in self._where:
            if not condition.holds(_first_set(get, rows)):
                return _reason_of(condition), None
        judged = self._judge_time(rows) if self._has_bounds else _READ
        if unknown is not None and judged == _READ:
            count_word(self.unknown_statuses, unknown)
        return judged

    def _note_values(self, rows: Sequence[Record]) -> None:
        """Note what an order has where conditions look, until all their values were there."""
        is_any_found = False
        for get, missing in self._missing:
            missing.add(_first_set(get, rows))
            is_any_found = is_any_found or not missing.values
        if is_any_found:
            self._missing = [each for each in self._missing if each[1].values]

    def end(self, *, is_any_read: bool) -> None:
        """Note the end of the input: what no order had so far, none has.

        Raises:
            ConfigurationError: when no order was read because none has a value of a condition;
                it says which values there are.
        """
        self._has_ended = True
        for _get, missing in self._missing:
            if missing.leaves_nothing and not is_any_read:
                self._missing = []  # one message is enough
                raise ConfigurationError(missing.describe())

    def _judge_preset(self, rows: Sequence[Record], cells: Any) -> tuple[str | None, str | None]:
        """Why an order is left out, by its shop's table; and its status, if it is an unknown one.

        Args:
            rows: As for `judge`.
            cells: Of the first row, all that the table uses of an order with a status; or None.
        """
        has_status = bool(self._statuses) and not is_blank(self._statuses[0][0](rows[0]))
        if has_status:
            rows = rows[:1]  # it is the first row of the order, which has its columns
        reason, unknown = _find_flag(self._flags, rows), None
        if reason is None:
            reason, unknown = self._judge_status(rows)
        if has_status and unknown is None and cells is not None:
            if len(self._reasons) >= _MAX_REASONS:
                self._reasons.clear()
            self._reasons[cells] = reason or KEPT
        return reason, unknown

    def _judge_status(self, rows: Sequence[Record]) -> tuple[str | None, str | None]:
        """Why an order is left out, by its status; and the status, if it is an unknown one."""
        unknown: str | None = None
        for get, words, reports in self._statuses:
            value = get(rows[0])
            if is_blank(value):
                value = _first_set(get, rows[1:])
            found: str | None = None
            if value is None:
                found = self._judge_blank(rows)
            elif isinstance(value, str) and (found := words.get(value)) is None:
                found = words.get(normalize_status(value))
                if found is None and reports:
                    unknown = value.strip()
            if found:
                return found, None
        return None, unknown

    def _judge_blank(self, rows: Sequence[Record]) -> str | None:
        """Why an order is left out none of whose rows has a status; or that they are apart."""
        if not self._has_status:
            return None
        reason = _find_flag(self._blank_flags, rows)
        if reason is None and self._starts and _find_flag(self._starts, rows) is None:
            return ROW_APART
        return reason

    def _judge_time(self, rows: Sequence[Record]) -> tuple[str | None, str | None]:
        value = None if self._date is None else _first_set(self._date, rows)
        times = (notation.parse_datetime(value) for notation in self._notations)
        time = next(filter(None, times), None)
        if time is None:
            return None, f"date: {self._notations[-1].explain_date(value)}"
        if self._since is not None and time < self._since:
            return _BEFORE_SINCE, None
        return (_AFTER_UNTIL if self._until is not None and time >= self._until else None), None


@attrs.define(eq=False)
class _UnusedStatus:
    """A column, or key, that nothing uses, and that may be the status of an order.

    Attributes:
        name: What it is called.
        is_telling: Whether an order so far came to nothing by it; or if it is called as a status
            is, whether orders differ in it.
        is_settled: Whether no more of them need to be looked at.
    """

    name: str
    _get: Getter
    _looked_at: int = attrs.field(default=0, init=False)
    _first: Any = attrs.field(default=None, init=False)
    is_telling: bool = attrs.field(default=False, init=False)

    @property
    def is_settled(self) -> bool:
        return self.is_telling or (self._looked_at >= _MAX_LOOKED_AT and not is_status(self.name))

    def add(self, rows: Sequence[Record]) -> None:
        """Note what an order has."""
        value = _first_set(self._get, rows)
        if not self._looked_at:
            self._first = value
        self._looked_at += 1
        self.is_telling = is_lost(value) or (value != self._first and is_status(self.name))

    def warning(self) -> str | None:
        """What to say of it; None where it tells no orders from others."""
        if not self.is_telling:
            return None
        return (
            f"'{self.name}' looks like the status of an order, and nothing uses it: to leave out "
            f"orders that were cancelled or not paid, name it: --where '{self.name}=...'"
        )


def _find_unused(
    compiler: Compiler, names: Sequence[str], *, is_table: bool
) -> list[_UnusedStatus]:
    own = Compiler(names if is_table else None)  # what it compiles doesn't count as used
    return [
        _UnusedStatus(name, own.path(name))
        for name in dict.fromkeys(names)
        if name not in compiler.used and (is_status(name) or len(names) <= _MAX_NAMES)
    ]


def _reason_of(condition: Condition) -> str:
    return f"where {condition.shown}"


def _find_flag(flags: Iterable[tuple[Getter, str]], rows: Sequence[Record]) -> str | None:
    for get, reason in flags:
        for row in rows:
            value = get(row)
            if value and not is_blank(value):
                return reason
    return None


def _starts_order(key: Any, *cells: Any) -> bool:
    return not is_blank(key) and (not cells or not all(map(is_blank, cells)))


def _text_only(get: Getter) -> Getter:
    return lambda record: value if (value := get(record)).__class__ is str else None


def _first_set(get: Getter, rows: Iterable[Record]) -> Any:
    return next((value for row in rows if not is_blank(value := get(row))), None)
