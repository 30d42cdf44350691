"""Which orders are not read: by a shop's table, by their time, and by the caller's conditions."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import attrs

from everlytic_async.errors import ConfigurationError
from everlytic_async.sources._columns import check_paths
from everlytic_async.sources._mapper import RecordMapper
from everlytic_async.sources._mapping import Compiler, Getter, computed, first_set, is_blank
from everlytic_async.sources._notation import Notation
from everlytic_async.sources._options import ReadOptions
from everlytic_async.sources._preset import KEPT, FirstRow, Preset, normalize_status
from everlytic_async.sources._records import Layout, Record
from everlytic_async.sources._shops import is_lost
from everlytic_async.sources._synonyms import is_status
from everlytic_async.sources._where import OTHER_WORDS, ConditionValues, count_word

#: The fault of a row that is apart from its order, if that is all that is known of it.
ROW_APART = (
    "has neither a status nor a total, as a row that is apart from its order: sort the file by the "
    "id of the order, or export it again"
)
# How many verdicts are kept: a time of a cancellation is there once.
_MAX_KEPT = 1_000
# How many columns are looked at for statuses under other names, and in how many orders.
_MAX_NAMES, _MAX_LOOKED_AT = 100, 300
_BEFORE_SINCE, _AFTER_UNTIL = "before since", "not before until"
_READ = (None, None)  # neither left out nor at fault
# Of one kind.
_MAX_WARNINGS = 5


class LeftOut:
    """Says of each order why it is left out, if it is.

    Raises:
        ConfigurationError: when a condition names what is not there, or no time is known.
    """

    def __init__(
        self,
        options: ReadOptions,
        preset: Preset | None,
        layout: Layout,
        mapper: RecordMapper,
        counts: dict[str, int],
    ) -> None:
        compiler = mapper.compiler
        self._counts = counts
        check_paths([("where", condition.path) for condition in options.where], layout)
        self._conditions = [
            ConditionValues(condition, compiler.path(condition.path)) for condition in options.where
        ]
        self._since, self._until = options.since, options.until
        self._has_bounds = self._since is not None or self._until is not None
        self._date = None if mapper.date is None else compiler.getter("date", mapper.date)
        if self._has_bounds and self._date is None:
            raise ConfigurationError(
                "since and until need the time of each order: name where it is, such as with "
                "--map date=created_at"
            )
        self._notations = [options.notation]
        self.shop: ShopRules | None = None
        self._unused: list[_UnusedStatus] = []
        if preset is None:
            self._unused = _find_unused(compiler.used, layout)
        else:
            self.shop = ShopRules(preset, options, layout)
            compiler.used |= self.shop.used
            if options.notation.date_format is None and preset.date_format is not None:
                self._notations.insert(0, Notation(date_format=preset.date_format))
        self._watched: list[ConditionValues | _UnusedStatus] = [*self._conditions, *self._unused]
        self._has_ended = False

    def count(self, reason: str, number: int = 1) -> None:
        """Count an order, or rows, that are left out."""
        self._counts[reason] = self._counts.get(reason, 0) + number

    def judge(self, rows: Sequence[Record]) -> tuple[str | None, str | None]:
        """Why an order is left out, and its fault that can be seen here; None for neither.

        Args:
            rows: The record of the order; or all its rows, in any order: the first that sets a
                column counts.
        """
        if self._watched:
            for watched in self._watched:
                watched.add(rows)
            self._watched = [watched for watched in self._watched if not watched.is_settled]
        reason, unknown = _READ if self.shop is None else self.shop.judge(rows)
        if reason is ROW_APART:
            return None, ROW_APART
        if reason:
            return reason, None
        for condition in self._conditions:
            if not condition.holds(rows):
                return condition.reason, None
        judged = self._judge_time(rows) if self._has_bounds else _READ
        if unknown is not None and judged == _READ and self.shop is not None:
            self.shop.count_unknown(unknown)
        return judged

    def _judge_time(self, rows: Sequence[Record]) -> tuple[str | None, str | None]:
        value = None if self._date is None else first_set(self._date, rows)
        times = (notation.parse_datetime(value) for notation in self._notations)
        time = next(filter(None, times), None)
        if time is None:
            return None, f"date: {self._notations[-1].explain_date(value)}"
        if self._since is not None and time < self._since:
            return _BEFORE_SINCE, None
        return (_AFTER_UNTIL if self._until is not None and time >= self._until else None), None

    def end(self, *, is_any_read: bool) -> None:
        """Note the end of the input: what no order had so far, none has.

        Raises:
            ConfigurationError: when no order was read because none has a value of a condition;
                it says which values there are.
        """
        for condition in self._conditions:
            if condition.leaves_nothing and not is_any_read:
                raise ConfigurationError(condition.describe())
        self._has_ended = True

    def warnings(self) -> Iterator[str]:
        """What a person should look at before the orders are sent."""
        if self._has_ended:
            yield from filter(None, (each.warn_of_missing() for each in self._conditions))
            for condition in self._conditions if self.shop is None else ():
                if condition.reason not in self._counts and (lost := condition.warn_of_lost()):
                    yield lost
        yield from [*filter(None, (each.warning() for each in self._unused))][:_MAX_WARNINGS]
        if self.shop is not None:
            yield from self.shop.warnings()


@attrs.define(eq=False)
class _UnusedStatus:
    """A column, or key, that nothing uses, and that may be the status of an order.

    Attributes:
        name: What it is called.
        is_telling: Whether an order so far came to nothing by it; or if it is called as a status
            is, whether orders differ in it.
    """

    name: str
    _get: Getter
    _is_status: bool
    _looked_at: int = attrs.field(default=0, init=False)
    _first: Any = attrs.field(default=None, init=False)
    is_telling: bool = attrs.field(default=False, init=False)

    @property
    def is_settled(self) -> bool:
        """Whether no more orders need to be looked at."""
        return self.is_telling or (self._looked_at >= _MAX_LOOKED_AT and not self._is_status)

    def add(self, rows: Sequence[Record]) -> None:
        """Note what an order has."""
        value = first_set(self._get, rows)
        if not self._looked_at:
            self._first = value
        self._looked_at += 1
        self.is_telling = is_lost(value) or (value != self._first and self._is_status)

    def warning(self) -> str | None:
        """What to say of it; None where it tells no orders from others."""
        if not self.is_telling:
            return None
        return (
            f"'{self.name}' looks like the status of an order, and nothing uses it: to leave out "
            f"orders that were cancelled or not paid, name it: --where '{self.name}=...'"
        )


def _find_unused(used: set[str], layout: Layout) -> list[_UnusedStatus]:
    compiler = Compiler(layout.columns)  # what it compiles doesn't count as used
    return [
        _UnusedStatus(name, compiler.path(name), is_named)
        for name in dict.fromkeys(layout.names)
        if name not in used and ((is_named := is_status(name)) or len(layout.names) <= _MAX_NAMES)
    ]


# ------------------------------------------------------------------------------- the shop's table


class ShopRules:
    """Applies the table of one shop.

    Attributes:
        used: The columns, or keys, that it looks at.
        get_status: Takes the status of a row; None if there is no such column.
        unknown_statuses: How many orders were read whose status is not in the table, by status.
    """

    def __init__(self, preset: Preset, options: ReadOptions, layout: Layout) -> None:
        compiler = Compiler(layout.columns, options.notation)
        self._shop = preset.name
        self._include = options.include
        self._flags = [
            (compiler.getter(reason, spec), reason)
            for reason, spec in preset.skip.items()
            if not self._includes(reason)
        ]
        self._statuses = [
            (
                compiler.path(path),
                {word: KEPT if self._includes(why) else why for word, why in words.items()},
                KEPT in words.values(),
            )
            for path, words in preset.statuses.items()
        ]
        # The table says the same of equal cells: its verdicts are kept.
        self._verdicts: dict[Any, tuple[str | None, str | None]] = {}
        self._cells: Getter | None = None
        get_status = self._get_status = self._statuses[0][0]
        if layout.holds_text:
            self._cells = compiler.values_used(holds_text=True)
        elif not self._flags and len(self._statuses) == 1:
            self._cells = lambda row: status if isinstance(status := get_status(row), str) else None
        self._blank_flags: list[tuple[Getter, str]] = []
        self._get_start: Getter | None = None
        for reason, spec in preset.skip_without_status.items():
            get = compiler.getter(reason, _expand(spec, layout.names))
            if isinstance(spec, FirstRow) and {*spec.columns} & {*layout.names}:
                self._get_start = get
            if not self._includes(reason):
                self._blank_flags.append((get, reason))
        has_status = bool({*preset.statuses} & {*layout.names})
        self.get_status = get_status if has_status else None
        self._path = next(iter(preset.statuses))
        chosen = {condition.path for condition in options.where}
        self._are_statuses_chosen = not chosen.isdisjoint(preset.statuses)
        self._lacks_statuses = not has_status and not chosen
        self.used = compiler.used
        self.unknown_statuses: dict[str, int] = {}

    def _includes(self, reason: str) -> bool:
        return reason in self._include or "all" in self._include

    def judge(self, rows: Sequence[Record]) -> tuple[str | None, str | None]:
        """Why an order is left out, or `ROW_APART`; and its status if that is not in the table.

        Args:
            rows: The record of the order; or all its rows, in any order.
        """
        cells = None if self._cells is None else self._cells(rows[0])
        if (verdict := self._verdicts.get(cells)) is not None:
            return verdict
        if is_blank(self._get_status(rows[0])):
            return self._judge(rows)
        verdict = self._judge(rows[:1])  # it is the first row of the order, which has its columns
        if len(self._verdicts) >= _MAX_KEPT:
            self._verdicts.clear()
        if cells is not None and verdict[1] is None:  # an unknown status may be of any length
            self._verdicts[cells] = verdict
        return verdict

    def _judge(self, rows: Sequence[Record]) -> tuple[str | None, str | None]:
        if self._flags and (reason := _find_flag(self._flags, rows)):
            return reason, None
        unknown: str | None = None
        for get, words, reports in self._statuses:
            value = first_set(get, rows)
            found: str | None = None
            if value is None:
                found = self._judge_blank(rows)
            elif isinstance(value, str):
                found = words.get(value, words.get(normalize_status(value)))
                if found is None and reports:
                    unknown = value.strip()
            if found:
                return found, None
        return None, unknown

    def _judge_blank(self, rows: Sequence[Record]) -> str | None:
        """Why an order is left out none of whose rows has a status; or that they are apart."""
        if self.get_status is None:
            return None
        if reason := _find_flag(self._blank_flags, rows):
            return reason
        start = self._get_start
        return ROW_APART if start is not None and not any(map(start, rows)) else None

    def count_unknown(self, status: str) -> None:
        """Count an order that is read although its status is not in the table."""
        count_word(self.unknown_statuses, status)

    def warnings(self) -> Iterator[str]:
        """What a person should look at before the orders are sent."""
        found = self.unknown_statuses
        if found and not self._are_statuses_chosen:
            words = ", ".join(f"{word} ({count:,})" for word, count in found.items())
            warning = (
                f"orders with a status that {self._shop} orders don't usually have were read: "
                f"{words}"
            )
            if named := [word for word in found if word != OTHER_WORDS and "," not in word]:
                condition = shlex.quote(f"{self._path}!={','.join(named)}")
                warning += f". If nobody should get an e-mail about them: --where {condition}"
            yield warning
        if self._lacks_statuses:
            yield (
                f"there is no '{self._path}', which tells orders from abandoned checkouts and from "
                "those that were cancelled, refunded or not paid: all are read. Export it too, or "
                "choose the orders with --where"
            )


def _expand(spec: Any, names: Sequence[str]) -> Any:
    if not isinstance(spec, FirstRow):
        return spec
    return computed(_starts_order, spec.key, *[name for name in spec.columns if name in names])


def _starts_order(key: Any, *cells: Any) -> bool:
    return not is_blank(key) and (not cells or not all(map(is_blank, cells)))


def _find_flag(flags: Iterable[tuple[Getter, str]], rows: Sequence[Record]) -> str | None:
    for get, reason in flags:
        for row in rows:
            value = get(row)
            if value and not is_blank(value):
                return reason
    return None
